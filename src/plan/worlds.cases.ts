// Worlds to plan in: captures of real guests, or drawn ones, with made-up replies of a hypervisor beside their files.

import { fileURLToPath } from 'node:url';
import { err, ok } from '#base/result';
import type { Capture } from '#capture/capture';
import { readCapture } from '#hosts/linux/read-capture';
import type { KernTree } from '#kernfs/source';
import { type Machine, plugDimm, toBlockId, toNodeId, toPfn } from '#mm/index';
import { buildTwin, type PagesTwin, type Twin } from '#twin/index';
import { runOffline } from '#twin/verdict';
import { type SyntheticWorld, syntheticCapture } from '../../test/support/synthetic-capture.ts';
import { dropAllCleanCache } from './memmap-budget.ts';
import { observe, QMP_FILES } from './observation.ts';
import type { Plan } from './plan.ts';
import type { PlanInput } from './plan-input.ts';

export const MIB = 2 ** 20;
export const GIB = 2 ** 30;

export type MadeUp = {
  readonly dimms?: readonly { id: string; addr: number; size: number; node: number }[];
  readonly virtioMem?: readonly {
    id: string;
    addr: number;
    size: number;
    node: number;
    maxSize: number;
    requested?: number;
  }[];
  readonly base?: number;
  readonly max?: number;
  readonly slots?: number;
  readonly balloon?: number;
  /** Written over files of the capture: path to text. */
  readonly files?: Readonly<Record<string, string>>;
};

/** @param h  undefined: no hypervisor is asked */
export function inputOf(capture: Capture, h: MadeUp | undefined): PlanInput & { readonly twin: PagesTwin } {
  const files = new Map<string, string>(Object.entries(h?.files ?? {}));
  if (h !== undefined) {
    const devices = [
      ...(h.dimms ?? []).map((d, slot) => ({ type: 'dimm', data: { slot, memdev: `/objects/mem-${d.id}`, ...d } })),
      ...(h.virtioMem ?? []).map(({ addr, maxSize, requested, ...v }) => ({
        type: 'virtio-mem',
        data: {
          memdev: `/objects/mem-${v.id}`,
          memaddr: addr,
          'max-size': maxSize,
          'requested-size': requested ?? v.size,
          'block-size': 2 * MIB,
          ...v,
        },
      })),
    ];
    const plugged = devices.reduce((n, d) => n + d.data.size, 0);
    files.set(QMP_FILES.devices, JSON.stringify(devices));
    files.set(QMP_FILES.summary, JSON.stringify({ 'base-memory': h.base ?? 2 * GIB, 'plugged-memory': plugged }));
    if (h.max !== undefined) {
      files.set(QMP_FILES.machine, JSON.stringify({ size: h.base ?? 2 * GIB, 'max-size': h.max, slots: h.slots ?? 8 }));
    }
    if (h.balloon !== undefined)
      files.set(
        QMP_FILES.balloon,
        JSON.stringify({ actual: h.balloon + (h.dimms ?? []).reduce((n, d) => n + d.size, 0) }),
      );
  }
  const tree: KernTree = {
    readText: (path) => files.get(path) ?? capture.tree.readText(path),
    list: (path) => capture.tree.list(path),
  };
  const whole = { ...capture, tree };
  const twin = buildTwin(whole);
  if (!twin.ok) throw new Error(twin.error.message);
  const observation = observe(tree);
  if (!observation.ok) throw new Error(observation.error);
  return {
    twin: twin.value as PagesTwin, // the one world without page flags says so itself
    observation: observation.value,
    host: { kind: h === undefined ? 'linux' : 'qemu', name: 'a made-up machine', kernel: twin.value.kernel },
    blocksOf: (target) => blocksOf(twin.value, target),
  };
}

const captures = new Map<string, Capture>();

const inputs = new Map<string, PlanInput & { readonly twin: PagesTwin }>();

/** A capture of test/golden; one input for equal arguments, as planning changes nothing. */
export function golden(name: string, h?: MadeUp): PlanInput & { readonly twin: PagesTwin } {
  const key = `${name} ${JSON.stringify(h)}`;
  const made = inputs.get(key);
  if (made !== undefined) return made;
  let capture = captures.get(name);
  if (capture === undefined) {
    const path = fileURLToPath(new URL(`../../test/golden/${name}`, import.meta.url));
    const read = readCapture(path, { now: () => new Date(0) });
    if (!read.ok) throw new Error(read.error.sentence);
    captures.set(name, (capture = read.value));
  }
  const input = inputOf(capture, h);
  inputs.set(key, input);
  return input;
}

/** A drawn machine: test/support/synthetic-capture.ts, and what /proc/meminfo says of it. */
export function drawnWorld(world: SyntheticWorld, h?: MadeUp): PlanInput & { readonly twin: PagesTwin } {
  const capture = syntheticCapture(world);
  const blockKb = ((world.blockPages ?? 32768) * 4096) / 1024;
  const total = world.blocks.filter((b) => b.state !== 'offline').length * blockKb;
  const meminfo = `MemTotal: ${total} kB\nMemFree: ${total} kB\nMemAvailable: ${total} kB\n`;
  return inputOf(
    {
      ...capture,
      tree: {
        readText: (path) => (path === '/proc/meminfo' ? meminfo : capture.tree.readText(path)),
        list: (path) => capture.tree.list(path),
      },
    },
    h,
  );
}

/** What the query layer does for the command line, as far as these tests need it. */
function blocksOf(twin: Twin, target: string): ReturnType<PlanInput['blocksOf']> {
  const [kind, rest = ''] = target.split(':');
  const ids = twin.blocks.map((b) => b.id);
  const found = ids.filter((id) => {
    const b = twin.blocks.find((x) => x.id === id);
    if (kind === 'node') return b?.nodes.includes(Number(rest) as never);
    const [first, last = first] = rest.split('-').map(Number);
    if (kind === 'block') return (first as number) <= id && id <= (last as number);
    return false;
  });
  return found.length === 0 ? err(`this machine has no ${target}`) : ok(found.map((id) => toBlockId(id)));
}

/** Every step's action, in order, of the whole plan: "offline-block 34". */
export const actionsOf = (p: Plan): string[] =>
  p.units.flatMap((u) =>
    u.steps.map(({ action: a }) => {
      const what = 'block' in a ? a.block : 'id' in a ? a.id : 'word' in a ? a.word : '';
      return `${a.do} ${what}`.trim();
    }),
  );

// --------------------------------------------------------------------------------------------------------- execution

/**
 * A naive executor: does the plan's actions on a fresh fork of the twin, one after the other, and compares each effect that
 * is about blocks. Clean page cache is dropped when there is no room, as Linux does. @returns the fork, and what went wrong
 */
export function executed(input: PlanInput & { readonly twin: PagesTwin }, p: Plan): { m: Machine; wrong: string[] } {
  const m = input.twin.machine.fork();
  m.hotplug.settings.autoOnline = input.observation.autoOnline ?? 'offline';
  const wrong: string[] = [];
  const sizes = new Map((input.observation.hypervisor?.dimms ?? []).map((d) => [d.id, d]));
  for (const s of p.units.flatMap((u) => u.steps)) {
    const { action: a } = s;
    const failed = (why: string): number => wrong.push(`step ${s.n}, ${s.title}: ${why}`);
    switch (a.do) {
      case 'offline-block': {
        let work = runOffline(m, toBlockId(a.block));
        if (work.refusal?.reason === 'no-target' && dropAllCleanCache(m) > 0) work = runOffline(m, toBlockId(a.block));
        if (work.refusal !== undefined) failed(work.refusal.message);
        break;
      }
      case 'online-block': {
        const done = m.online(toBlockId(a.block), a.zone === 'default' ? 'online' : a.zone);
        if (!done.ok) failed(done.error.message);
        break;
      }
      case 'add-dimm': {
        sizes.set(a.id, { ...a, size: a.bytes, slot: 0 });
        const range = { start: toPfn(a.addr / 4096), end: toPfn((a.addr + a.bytes) / 4096) };
        let done = plugDimm(m, range, toNodeId(a.node));
        if (!done.ok && dropAllCleanCache(m) > 0) done = plugDimm(m, range, toNodeId(a.node));
        if (!done.ok) failed(done.error.message);
        break;
      }
      case 'remove-dimm': {
        const d = sizes.get(a.id);
        if (d === undefined) throw new Error(`there is no DIMM ${a.id}`);
        const done = m.removeMemory({ start: toPfn(d.addr / 4096), end: toPfn((d.addr + d.size) / 4096) });
        if (!done.ok) failed(done.error.message);
        break;
      }
      case 'auto-online':
        m.hotplug.settings.autoOnline = a.word;
        break;
      default:
        break; // virtio-mem and the balloon are the hypervisor's: no blocks to compare
    }
    for (const c of s.effect) {
      if (c.is === 'block') {
        const b = m.block(toBlockId(c.block));
        if (b?.state !== c.state) failed(`block ${c.block} is ${b?.state}`);
        else if (c.state === 'online' && c.zone !== undefined && b.pool?.name !== c.zone)
          failed(`it is in ${b.pool?.name}`);
      } else if (c.is === 'blocks') {
        for (let id = c.first; id <= c.last; id++)
          if ((m.block(toBlockId(id)) !== undefined) !== c.present)
            failed(`block ${id} is ${c.present ? 'not there' : 'there'}`);
      }
    }
  }
  return { m, wrong };
}
