// Targets: what a command is about, always with its type named. A bare number is refused, with a suggestion.
//
//   block:32  block:32-39  block:2,5-7      memory blocks, the N of memoryN
//   range:0x100000000-0x13fffffff           physical addresses; the end is the last byte, as lsmem prints it
//   node:1     zone:1/Normal                all blocks of a node, of a zone
//   dimm:2                                  a range of `dimmer ls dimms`
//   dimm:dimm1                              a DIMM by the id that the hypervisor gave it, where one was asked
//   size:4G                                 that much memory, whichever blocks give it (check only)
//
// Why so strict: a number without its type once removed another block than was meant (powerpc-utils#60). A target
// that names something the machine does not have is refused too, with what there is.

import { parseSize } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { type BlockId, PAGE_SIZE, toBlockId } from '#mm/index';
import type { Twin } from '#twin/index';
import { listDimms } from './ls-dimms.ts';

export type Target =
  | { readonly kind: 'all' }
  | { readonly kind: 'block'; readonly spans: readonly { readonly first: number; readonly last: number }[] }
  /** Bytes; `lastPhys` is inside. */
  | { readonly kind: 'range'; readonly startPhys: number; readonly lastPhys: number }
  | { readonly kind: 'node'; readonly node: number }
  | { readonly kind: 'zone'; readonly node: number; readonly zone: string }
  | { readonly kind: 'dimm'; readonly index: number }
  | { readonly kind: 'dimm'; readonly id: string }
  | { readonly kind: 'size'; readonly bytes: number };

/** `syntax`: the text means nothing; `absent`: the machine has no such thing. One sentence each. */
export type TargetRefusal = { readonly reason: 'syntax' | 'absent'; readonly sentence: string };

export const TARGET_FORMS =
  'block:32-39, range:0x100000000-0x13fffffff, node:1, zone:1/Normal, dimm:2 or size:4G' as const;

const ZONES = ['DMA', 'DMA32', 'Normal', 'HighMem', 'Movable', 'Device'];

/** Memory blocks beyond this do not exist: 2^52 bytes in blocks of 128 MiB. */
const BLOCK_ID_MAX = 2 ** 25;

export function parseTarget(text: string): Result<Target, TargetRefusal> {
  const colon = text.indexOf(':');
  if (colon < 0) return syntax(text, suggestFor(text));
  const kind = text.slice(0, colon).toLowerCase();
  const rest = text.slice(colon + 1);
  switch (kind) {
    case 'block':
      return parseBlocks(text, rest);
    case 'range':
      return parseRange(text, rest);
    case 'node': {
      if (!/^\d{1,6}$/.test(rest)) return syntax(text, 'a number belongs behind node:, as in node:1');
      return ok({ kind, node: Number(rest) });
    }
    case 'dimm': {
      if (/^\d{1,6}$/.test(rest)) return ok({ kind, index: Number(rest) });
      // QEMU's own rule for ids (id_wellformed): a letter first, then letters, digits and -._
      if (/^[a-z][a-z0-9._-]*$/i.test(rest)) return ok({ kind, id: rest });
      return syntax(
        text,
        "a number of ls dimms belongs behind dimm:, or the hypervisor's id, as in dimm:1 or dimm:dimm1",
      );
    }
    case 'zone': {
      const m = /^(\d{1,6})\/([A-Za-z0-9]+)$/.exec(rest);
      const zone = ZONES.find((z) => z.toLowerCase() === m?.[2]?.toLowerCase());
      if (m === null || zone === undefined)
        return syntax(text, 'a zone is named by node and name, as in zone:1/Normal or zone:0/Movable');
      return ok({ kind, node: Number(m[1]), zone });
    }
    case 'size': {
      const bytes = parseSize(rest);
      if (bytes === undefined || bytes === 0) return syntax(text, 'a size has a unit, as in size:512M or size:4G');
      return ok({ kind, bytes });
    }
    default:
      return syntax(text, suggestKind(kind, rest));
  }
}

function parseBlocks(text: string, rest: string): Result<Target, TargetRefusal> {
  const spans: { first: number; last: number }[] = [];
  for (const part of rest.split(',')) {
    const m = /^(\d{1,8})(?:-(\d{1,8}))?$/.exec(part);
    if (m === null) {
      const hint = /^0x/i.test(part)
        ? 'block numbers are decimal; addresses are written range:0x...-0x...'
        : 'as in block:32, block:32-39 or block:2,5-7';
      return syntax(text, hint);
    }
    const first = Number(m[1]);
    const last = Number(m[2] ?? m[1]);
    if (last < first) return syntax(text, `the last block comes before the first: block:${last}-${first}?`);
    if (last > BLOCK_ID_MAX) return syntax(text, 'no machine has so many blocks');
    spans.push({ first, last });
  }
  return ok({ kind: 'block', spans });
}

function parseRange(text: string, rest: string): Result<Target, TargetRefusal> {
  const m = /^(0x)?([0-9a-f]{1,13})-(0x)?([0-9a-f]{1,13})$/i.exec(rest);
  if (m === null) return syntax(text, 'two hexadecimal addresses, as in range:0x100000000-0x13fffffff');
  // Without 0x it is a guess whether 100000000 is decimal: exactly the mistake that typed targets are there to stop.
  if (m[1] === undefined || m[3] === undefined)
    return syntax(text, `addresses begin with 0x: range:0x${m[2]}-0x${m[4]}?`);
  const startPhys = Number.parseInt(m[2] as string, 16);
  const lastPhys = Number.parseInt(m[4] as string, 16);
  if (lastPhys < startPhys) return syntax(text, 'the end comes before the start');
  if (lastPhys > startPhys && lastPhys % PAGE_SIZE === 0) {
    const meant = (lastPhys - 1).toString(16);
    return syntax(text, `the end is the last byte, as lsmem prints it: 0x${meant}?`);
  }
  return ok({ kind: 'range', startPhys, lastPhys });
}

/** For something without a colon. */
function suggestFor(text: string): string {
  if (/^\d+$/.test(text)) return `a bare number is ambiguous: block:${text} or size:${text}G?`;
  if (/^\d+-\d+$/.test(text)) return `a bare number is ambiguous: block:${text}?`;
  if (/^0x[0-9a-f]+-0x[0-9a-f]+$/i.test(text)) return `range:${text}?`;
  if (/^0x[0-9a-f]+$/i.test(text)) return `an address alone is ambiguous: range:${text}-${text}?`;
  if (parseSize(text) !== undefined) return `size:${text}?`;
  const memory = /^memory(\d+)$/i.exec(text);
  if (memory !== null) return `block:${memory[1]}?`;
  const node = /^(node|dimm)(\d+)$/i.exec(text);
  if (node !== null) return `${(node[1] as string).toLowerCase()}:${node[2]}?`;
  const zone = ZONES.find((z) => z.toLowerCase() === text.toLowerCase());
  if (zone !== undefined) return `zone:0/${zone}?`;
  return `a target is one of ${TARGET_FORMS}`;
}

const KINDS = ['block', 'range', 'node', 'zone', 'dimm', 'size'];

function suggestKind(kind: string, rest: string): string {
  const near = KINDS.find((k) => k !== kind && (k.startsWith(kind) || kind.startsWith(k) || sharesLetters(k, kind)));
  return near === undefined || kind === '' ? `a target is one of ${TARGET_FORMS}` : `${near}:${rest}?`;
}

/** One letter more, less, or exchanged: "blok", "zome". */
function sharesLetters(a: string, b: string): boolean {
  if (Math.abs(a.length - b.length) > 1) return false;
  let head = 0;
  while (head < a.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < Math.min(a.length, b.length) - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  return Math.max(a.length, b.length) - head - tail <= 1;
}

const syntax = (text: string, hint: string): Result<never, TargetRefusal> =>
  err({ reason: 'syntax', sentence: `"${text}" is not a target: ${hint}` });

/** Blocks that a target names, ascending; `size` names all of them. */
export function blocksOfTarget(twin: Twin, target: Target): Result<readonly BlockId[], TargetRefusal> {
  const blocks = twin.blocks;
  const absent = (what: string, there: string): Result<never, TargetRefusal> =>
    err({ reason: 'absent', sentence: `this machine has no ${what}; it has ${there}` });
  const idsWhere = (is: (b: (typeof blocks)[number]) => boolean): BlockId[] =>
    blocks.filter(is).map((b) => toBlockId(b.id));
  const allBlocks = (): string => `blocks ${sayIds(blocks.map((b) => b.id))}`;
  switch (target.kind) {
    case 'all':
    case 'size':
      return ok(idsWhere(() => true));
    case 'block': {
      const known = new Set<number>(blocks.map((b) => b.id));
      for (const { first, last } of target.spans) {
        for (let id = first; id <= last; id++) if (!known.has(id)) return absent(`block ${id}`, allBlocks());
      }
      return ok(idsWhere((b) => target.spans.some((s) => s.first <= b.id && b.id <= s.last)));
    }
    case 'range': {
      const bytes = twin.blockPages * PAGE_SIZE;
      const first = Math.floor(target.startPhys / bytes);
      const last = Math.floor(target.lastPhys / bytes);
      const ids = idsWhere((b) => first <= b.id && b.id <= last);
      return ids.length === 0 ? absent('memory block in this range', allBlocks()) : ok(ids);
    }
    case 'node': {
      const ids = idsWhere(
        (b) => b.nodes.includes(target.node as never) || (target.node === 0 && b.nodes.length === 0),
      );
      const there = [...new Set(blocks.flatMap((b) => b.nodes))].sort((a, b) => a - b);
      return ids.length === 0 ? absent(`memory on node ${target.node}`, `memory on nodes ${sayIds(there)}`) : ok(ids);
    }
    case 'zone': {
      const ids = idsWhere(
        (b) =>
          b.state !== 'offline' &&
          b.validZones?.length === 1 &&
          b.validZones[0] === target.zone &&
          (b.nodes[0] ?? 0) === target.node,
      );
      if (ids.length > 0) return ok(ids);
      const there = new Set(
        blocks
          .filter((b) => b.state !== 'offline' && b.validZones?.length === 1)
          .map((b) => `${b.nodes[0] ?? 0}/${b.validZones?.[0]}`),
      );
      return absent(
        `whole block in zone ${target.node}/${target.zone}`,
        there.size === 0 ? 'none whose zone is known' : `whole blocks in ${[...there].join(', ')}`,
      );
    }
    case 'dimm': {
      if ('id' in target) {
        const bytes = twin.blockPages * PAGE_SIZE;
        const named = namedDimms(twin);
        const dimm = named.find((d) => d.id === target.id);
        const there =
          named.length === 0 ? 'none that a hypervisor has named' : named.map((d) => `dimm:${d.id}`).join(', ');
        if (dimm === undefined) return absent(`DIMM "${target.id}"`, there);
        const ids = idsWhere((b) => dimm.addr < (b.id + 1) * bytes && b.id * bytes < dimm.addr + dimm.size);
        return ids.length === 0 ? absent(`block of DIMM ${target.id}`, allBlocks()) : ok(ids);
      }
      const dimms = listDimms(twin, []);
      const dimm = dimms[target.index];
      if (dimm === undefined) return absent(`range dimm:${target.index}`, `dimm:0 to dimm:${dimms.length - 1}`);
      return ok(idsWhere((b) => dimm.firstBlock <= b.id && b.id <= dimm.lastBlock));
    }
  }
}

type NamedDimm = { readonly id: string; readonly addr: number; readonly size: number };

/** DIMMs as the hypervisor names them, in the capture of a guest; none where no hypervisor was asked. Spec 7.1. */
function namedDimms(twin: Twin): readonly NamedDimm[] {
  const text = twin.capture.tree.readText('/qmp/query-memory-devices');
  if (text === undefined) return [];
  try {
    const devices = JSON.parse(text) as readonly { readonly type?: unknown; readonly data?: Partial<NamedDimm> }[];
    return devices.flatMap(({ type, data }) =>
      type === 'dimm' &&
      typeof data?.id === 'string' &&
      Number.isSafeInteger(data.addr) &&
      Number.isSafeInteger(data.size)
        ? [data as NamedDimm]
        : [],
    );
  } catch {
    return []; // not a list of devices: the planner says so when it observes
  }
}

/** [0, 1, 2, 5] -> "0-2,5". */
export function sayIds(ids: readonly number[]): string {
  const parts: string[] = [];
  for (let k = 0; k < ids.length; ) {
    let end = k;
    while (end + 1 < ids.length && ids[end + 1] === (ids[end] as number) + 1) end++;
    parts.push(end === k ? `${ids[k]}` : `${ids[k]}-${ids[end]}`);
    k = end + 1;
  }
  return parts.join(',');
}
