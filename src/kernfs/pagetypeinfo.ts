// /proc/pagetypeinfo: free chunks and pageblocks by migrate type. Root only; the whole file repeats for each node.
//
//   Page block order: 9
//   Pages per block:  512
//
//   Free pages count per migrate type at order       0      1 ...
//   Node    0, zone   Normal, type    Unmovable      0      1 ...      each populated zone x each type
//
//   Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic      Isolate
//   Node 0, zone   Normal           44          204            8            0            0     each populated zone
//
//   Number of mixed blocks    Unmovable ...                            only with page_owner=on: same shape
//
// The column order of the types is the kernel's index order: CMA stands before Isolate where it is configured. Walking
// a free list stops at 100000 chunks and prints ">100000": such a count is a lower bound, `capped` says which.
// Pageblocks are counted where their first page is online and in that zone. Nodes without memory are left out.
//
// Invariants, all checked: the headers of all nodes agree; each node lists the same zones under all headings, every
// type of each; so that a missing piece inside is always seen (whole nodes lost at the end are not).
// Follows Linux v6.12 mm/vmstat.c: pagetypeinfo_show(); spec 6.

import type { Err, Result } from '#base/result';
import { ok } from '#base/result';
import type { NodeId } from '#base/units';
import type { KernfsProblem } from './source.ts';
import { fieldsOf, linesOf, printCount, problem, quoted, readCount, readCounts } from './text.ts';
import type { ZoneLabel } from './zone-label.ts';
import { isInOrder, printZoneLabel, readZoneLabel, sayZone } from './zone-label.ts';

/** Free chunks of one migrate type in one zone. */
export type PagetypeFree = ZoneLabel & {
  readonly type: string;
  /** Chunks by order. */
  readonly nrFree: readonly number[];
  /** By order: true where nrFree is only a lower bound. */
  readonly capped: readonly boolean[];
};

/** Pageblocks of one zone by migrate type, in the order of `types`. */
export type PagetypeBlocks = ZoneLabel & { readonly counts: readonly number[] };

export type Pagetypeinfo = {
  readonly pageblockOrder: number;
  readonly pagesPerBlock: number;
  /** Names as printed, in column order. */
  readonly types: readonly string[];
  readonly free: readonly PagetypeFree[];
  readonly blocks: readonly PagetypeBlocks[];
  /** Pageblocks that hold pages of another type than their own; only where page_owner is on. */
  readonly mixed?: readonly PagetypeBlocks[];
};

/** The walk of a free list ends here, for it holds the zone's lock. */
const FREE_WALK_MAX = 100000;

const FREE_HEAD = 'Free pages count per migrate type at order';
const BLOCKS_HEAD = 'Number of blocks type';
const MIXED_HEAD = 'Number of mixed blocks';

/** What one node's part says, and the line after it. */
type NodePart = {
  readonly head: Omit<Pagetypeinfo, 'free' | 'blocks' | 'mixed'> & { readonly orders: number };
  readonly free: readonly PagetypeFree[];
  readonly blocks: readonly PagetypeBlocks[];
  readonly mixed: readonly PagetypeBlocks[] | undefined;
  readonly endLine: number;
};

/** Cost O(text). */
export function parsePagetypeinfo(text: string, file = '/proc/pagetypeinfo'): Result<Pagetypeinfo, KernfsProblem> {
  const lines = linesOf(text, file);
  if (!lines.ok) return lines;
  const parts: NodePart[] = [];
  for (let at = 0; at < lines.value.length; ) {
    const part = parseNodePart(lines.value, at, file);
    if (!part.ok) return part;
    const first = parts[0]?.head ?? part.value.head;
    if (JSON.stringify(part.value.head) !== JSON.stringify(first)) {
      return problem(file, at + 1, 'the headers of this node differ from those of the first node');
    }
    if ((part.value.mixed === undefined) !== ((parts[0] ?? part.value).mixed === undefined)) {
      return problem(file, at + 1, `only some nodes have the heading ${quoted(MIXED_HEAD)}`);
    }
    const node = part.value.blocks[0].node;
    const previous = parts.at(-1)?.blocks[0].node;
    if (previous !== undefined && node <= previous) {
      return problem(file, at + 1, `the part of node ${node} comes after that of node ${previous}`);
    }
    parts.push(part.value);
    at = part.value.endLine;
  }
  const { pageblockOrder, pagesPerBlock, types } = parts[0].head;
  const free = parts.flatMap((p) => p.free);
  const blocks = parts.flatMap((p) => p.blocks);
  if (parts[0].mixed === undefined) return ok({ pageblockOrder, pagesPerBlock, types, free, blocks });
  return ok({ pageblockOrder, pagesPerBlock, types, free, blocks, mixed: parts.flatMap((p) => p.mixed ?? []) });
}

export function printPagetypeinfo(x: Pagetypeinfo): string {
  const columns = x.types.map((type) => `${type.padStart(12)} `).join('');
  let text = '';
  for (const node of nodesOf(x.blocks)) {
    const free = x.free.filter((row) => row.node === node);
    const orders = free[0]?.nrFree.map((_, order) => `${String(order).padStart(6)} `).join('') ?? '';
    text += `Page block order: ${x.pageblockOrder}\nPages per block:  ${x.pagesPerBlock}\n\n`;
    text += `${FREE_HEAD.padEnd(43)} ${orders}\n`;
    for (const row of free) {
      const label = `Node ${String(node).padStart(4)}, zone ${row.zone.padStart(8)}, type ${row.type.padStart(12)} `;
      const counts = row.nrFree.map((n, o) => `${row.capped[o] ? '>' : ''}${printCount(n).padStart(6)} `);
      text += `${label}${counts.join('')}\n`;
    }
    text += `\n${BLOCKS_HEAD.padEnd(23)}${columns}\n${printBlockRows(x.blocks, node)}`;
    if (x.mixed !== undefined) text += `\n${MIXED_HEAD.padEnd(23)}${columns}\n${printBlockRows(x.mixed, node)}`;
  }
  return text;
}

function printBlockRows(rows: readonly PagetypeBlocks[], node: NodeId): string {
  let text = '';
  for (const row of rows) {
    if (row.node !== node) continue;
    text += `${printZoneLabel(row)} ${row.counts.map((n) => `${printCount(n).padStart(12)} `).join('')}\n`;
  }
  return text;
}

const nodesOf = (rows: readonly ZoneLabel[]): NodeId[] => [...new Set(rows.map((row) => row.node))];

/** One node's part from line `at` (0-based) on. */
function parseNodePart(lines: readonly string[], at: number, file: string): Result<NodePart, KernfsProblem> {
  const pageblockOrder = numberAfter(lines[at], /^Page block order: +(\d+) *$/);
  if (pageblockOrder === undefined) return expected(file, lines, at, '"Page block order: N"');
  const pagesPerBlock = numberAfter(lines[at + 1], /^Pages per block: +(\d+) *$/);
  if (pagesPerBlock === undefined) return expected(file, lines, at + 1, '"Pages per block:  N"');
  if (pagesPerBlock !== 2 ** pageblockOrder) {
    return problem(file, at + 2, `${pagesPerBlock} pages per block are not 2^${pageblockOrder}`);
  }
  if (!isBlank(lines[at + 2])) return expected(file, lines, at + 2, 'an empty line');
  const orders = columnsAfter(lines[at + 3], FREE_HEAD);
  if (orders === undefined || orders.length === 0 || orders.some((o, i) => o !== String(i))) {
    return expected(file, lines, at + 3, `the heading ${quoted(FREE_HEAD)} and the orders from 0`);
  }

  let i = at + 4;
  const free: PagetypeFree[] = [];
  for (; i < lines.length && !isBlank(lines[i]); i++) {
    const row = readFreeRow(lines[i], orders.length);
    if (row === undefined) return expected(file, lines, i, `a zone, a type and ${orders.length} free counts`);
    free.push(row);
  }
  if (!isBlank(lines[i])) return expected(file, lines, i, 'an empty line');
  const types = columnsAfter(lines[i + 1], BLOCKS_HEAD);
  if (types === undefined || types.length === 0 || new Set(types).size !== types.length) {
    return expected(file, lines, i + 1, `the heading ${quoted(BLOCKS_HEAD)} and the migrate types`);
  }
  const blocks = parseBlockRows(lines, i + 2, types.length, file);
  if (!blocks.ok) return blocks;
  const rowsProblem = freeRowsProblem(free, blocks.value.rows, types, file, at + 5);
  if (rowsProblem !== undefined) return rowsProblem;
  i = blocks.value.endLine;

  const head = { pageblockOrder, pagesPerBlock, types, orders: orders.length };
  if (i === lines.length || !isBlank(lines[i])) {
    return ok({ head, free, blocks: blocks.value.rows, mixed: undefined, endLine: i });
  }
  const mixedTypes = columnsAfter(lines[i + 1], MIXED_HEAD);
  if (mixedTypes === undefined || mixedTypes.join() !== types.join()) {
    return expected(file, lines, i + 1, `the heading ${quoted(MIXED_HEAD)} and the same migrate types`);
  }
  const mixed = parseBlockRows(lines, i + 2, types.length, file);
  if (!mixed.ok) return mixed;
  if (zonesOf(mixed.value.rows) !== zonesOf(blocks.value.rows)) {
    return problem(file, i + 3, 'the zones with mixed blocks are not the zones above');
  }
  return ok({ head, free, blocks: blocks.value.rows, mixed: mixed.value.rows, endLine: mixed.value.endLine });
}

/** Rows "Node N, zone NAME counts...", all of one node, until a line that is none. At least one. */
function parseBlockRows(
  lines: readonly string[],
  at: number,
  columns: number,
  file: string,
): Result<{ readonly rows: readonly PagetypeBlocks[]; readonly endLine: number }, KernfsProblem> {
  const rows: PagetypeBlocks[] = [];
  let i = at;
  for (; i < lines.length; i++) {
    const label = readZoneLabel(lines[i]);
    if (label === undefined) break;
    const { node, zone, rest } = label;
    const counts = readCounts(fieldsOf(rest));
    if (counts === undefined || counts.length !== columns) {
      return expected(file, lines, i, `a zone and ${columns} counts of pageblocks`);
    }
    const previous = rows.at(-1);
    if (!isInOrder(previous, label) || (previous !== undefined && previous.node !== node)) {
      return problem(file, i + 1, `${sayZone(label)} does not belong here`);
    }
    rows.push({ node, zone, counts });
  }
  return rows.length === 0 ? expected(file, lines, i, 'a zone and its pageblocks') : ok({ rows, endLine: i });
}

/** The free rows must be exactly zones x types, in order. */
function freeRowsProblem(
  free: readonly PagetypeFree[],
  blocks: readonly PagetypeBlocks[],
  types: readonly string[],
  file: string,
  firstLine: number,
): Err<KernfsProblem> | undefined {
  let i = 0;
  for (const block of blocks) {
    for (const type of types) {
      const row = free[i];
      if (row === undefined || row.node !== block.node || row.zone !== block.zone || row.type !== type) {
        return problem(file, firstLine + i, `the free counts of type ${type} in ${sayZone(block)} are missing here`);
      }
      i++;
    }
  }
  if (i === free.length) return undefined;
  return problem(file, firstLine + i, `${sayZone(free[i])} has free counts but no pageblocks`);
}

function readFreeRow(line: string, orders: number): PagetypeFree | undefined {
  const label = readZoneLabel(line);
  const m = label === undefined ? null : /^, type +([A-Za-z]+) (.*)$/.exec(label.rest);
  if (label === undefined || m === null) return undefined;
  const cells = fieldsOf(m[2]);
  const capped = cells.map((cell) => cell.startsWith('>'));
  const nrFree = readCounts(cells.map((cell, o) => (capped[o] ? cell.slice(1) : cell)));
  if (nrFree === undefined || nrFree.length !== orders) return undefined;
  if (nrFree.some((n, o) => capped[o] && n < FREE_WALK_MAX)) return undefined;
  return { node: label.node, zone: label.zone, type: m[1], nrFree, capped };
}

const isBlank = (line: string | undefined): boolean => line !== undefined && line.trim() === '';

const zonesOf = (rows: readonly ZoneLabel[]): string => rows.map((row) => `${row.node} ${row.zone}`).join();

const numberAfter = (line: string | undefined, pattern: RegExp): number | undefined =>
  readCount(pattern.exec(line ?? '')?.[1] ?? '');

const columnsAfter = (line: string | undefined, heading: string): string[] | undefined =>
  line?.startsWith(heading) ? fieldsOf(line.slice(heading.length)) : undefined;

function expected(file: string, lines: readonly string[], at: number, what: string): Err<KernfsProblem> {
  if (at >= lines.length) return problem(file, lines.length, `the file ends where ${what} should follow`);
  return problem(file, at + 1, `expected ${what}, found ${quoted(lines[at])}`);
}
