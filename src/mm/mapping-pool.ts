// Mapping pools: a file's page cache is handed out of chunks of its own, so that a deleted file leaves large free blocks
// behind instead of a bunch of scattered pages.
//
//   chunk of order 3, four pages of it served
//        │ f │ f │ f │ f │  tail, order 2  │        f: the file's      tail: its reserve's
//
//   page wanted ──> tail? ── yes ──> its first frame becomes the file's, the rest stays in aligned pieces
//                     └ no ──> a chunk, as large as the file makes worth while, becomes the tail; else a single page
//   truncate    ──> the file's frames and the tail are given back in the largest aligned pieces, past the per-CPU lists
//   close       ──> the tail goes back            shrinker ──> tails go back before anything that is used does
//
// A tail is held, like all that is used: by a holder of class file beside the file ("reserve of NAME"), clean and mapped by
// nobody. So every counter and check is true without a word about tails, compaction may move its pieces, reclaim may
// drop them, and who asks whose a frame is gets an answer. What the pool remembers of its pieces is a hint: it looks
// before it serves, and gives a tail back whole when somebody took some of it.
//
//   file    what is known                         next chunk, as an order k
//   any     `ahead` pages will be wanted          the largest 2^k <= ahead     (size of a file that is read, length of a
//           (this one included)                                                write, read-ahead window)
//   < 4     nothing                               0: most files are small
//   n       nothing                               the largest 2^k <= n / 8, but 4 at least
//   always                                        9 at most; what has a free chunk of Movable's own lists above the low
//                                                 mark; what keeps all tails together within 3 % of memory
//
// Invariants: FP1 a tail that was not announced is at most 1/8 of its file, or less than 16 pages; FP2 all tails together
// are at most TAIL_PERCENT of the managed pages; FP3 the pieces of a tail have orders of their own, ascending like their
// place in the file; FP4 reserves hold nothing but tails.
//
// After Hansen 2004: "allocate some higher order pages for each struct address_space and hand little pages out from that
// pool instead of going back to the buddy allocator" (spec 9.F3). Linux has no such thing; large folios come nearest.

import { assert } from '#base/assert';
import { type HolderId, type NodeId, type Pfn, toNodeId, toOrder } from '#base/units';
import type { SlowPath } from './alloc-path.ts';
import { MIGRATE_MOVABLE, PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import { type HolderSpec, REQUEST_ZONE_MASK, REQUEST_ZONE_SHIFT } from './holder.ts';
import type { Machine } from './machine.ts';
import { machineState } from './machine-state.ts';
import type { ZoneIndex } from './page-class.ts';
import type { Pool } from './pool.ts';
import { NODE_OF_REQUEST, type PoolRequest } from './pools/request.ts';
import { KIND_HEAD0, KIND_MASK, META_DISPLACED, META_STATE } from './section.ts';

/** The largest chunk is a pageblock: Linux groups by those, and merges larger ones itself. */
const LARGEST = PAGEBLOCK_ORDER;
/** Of a file that nothing is known of, as soon as it is not tiny. */
const USUAL = 4;
const TINY_PAGES = 4;
/** A tail is at most this part of a file whose length nobody announced. */
const TAIL_PART = 8;
/** All tails together, in percent of the managed pages. */
export const TAIL_PERCENT = 3;

/** Steps that can fail in the world, as Machine.faultAt is asked for them: no chunk can be had, a single page is served. */
export const MAPPING_FAULT_POINTS = ['mapping.chunk'] as const;

/** One address space. A row of plain values, so that copies are one line. */
class Mapping {
  readonly file: HolderId;
  /** Made with the first chunk. */
  reserve: HolderId | -1 = -1;
  /** Unused pages of the current chunk, as far as anybody told us. */
  tail = 0;
  /** Slot of the piece of each order, -1 = none. */
  readonly slots = new Int32Array(LARGEST + 1).fill(-1);

  constructor(file: HolderId) {
    this.file = file;
  }

  copy(): Mapping {
    const to = new Mapping(this.file);
    to.reserve = this.reserve;
    to.tail = this.tail;
    to.slots.set(this.slots);
    return to;
  }
}

class Mappings {
  /** By file. */
  readonly all = new Map<HolderId, Mapping>();
  /** Those that have a tail; who took its chunk longest ago comes first. */
  readonly tailed = new Set<HolderId>();
  /** Pages of all tails. */
  tails = 0;

  copy(): Mappings {
    const to = new Mappings();
    for (const [file, x] of this.all) to.all.set(file, x.copy());
    for (const file of this.tailed) to.tailed.add(file);
    to.tails = this.tails;
    return to;
  }

  /** A tail grows by `pages`, or shrinks. */
  count(x: Mapping, pages: number): void {
    x.tail += pages;
    this.tails += pages;
    if (x.tail === 0) this.tailed.delete(x.file);
    else if (pages > 0) this.tailed.add(x.file);
  }
}

const mappings = machineState(() => new Mappings());

export type MappingInfo = {
  readonly pages: number;
  /** Reserved, not used yet. */
  readonly tailPages: number;
};

// --------------------------------------------------------------------------------------------------- a page is wanted

/**
 * One more page for a file, from the file's own chunk while there is one.
 *
 * @param file   a holder of class file or shmem
 * @param ahead  pages that the caller knows will be wanted, this one included; left out: nobody knows
 * @returns      as Machine.alloc of order 0. Cost: that of a split of the smallest piece; a chunk now and then
 */
export function allocMapped(m: Machine, file: HolderId, ahead?: number): Pfn | -1 {
  const state = mappings.of(m);
  const x = mappingOf(m, state, file);
  if (x.tail > 0) {
    const pfn = serve(m, state, x);
    if (pfn >= 0) return pfn;
  }
  const order = chunkOrder(m, state, x, ahead);
  if (order > 0 && m.faultAt?.('mapping.chunk') !== true && takeChunk(m, state, x, order)) return serve(m, state, x);
  return m.alloc(file, toOrder(0));
}

function mappingOf(m: Machine, state: Mappings, file: HolderId): Mapping {
  let x = state.all.get(file);
  if (x === undefined) {
    const cls = m.holders.specs[file]?.class;
    assert(cls === 'file' || cls === 'shmem', 'only an address space has a mapping pool', { file, class: cls });
    state.all.set(file, (x = new Mapping(file)));
  }
  return x;
}

/** The table at the top of this file. 0: a single page. */
function chunkOrder(m: Machine, state: Mappings, x: Mapping, ahead: number | undefined): number {
  const pages = m.holders.pages[x.file] as number;
  let order = 0;
  if (ahead !== undefined) order = floorLog2(Math.max(1, ahead));
  else if (pages >= TINY_PAGES) order = Math.max(USUAL, floorLog2(Math.max(1, Math.floor(pages / TAIL_PART))));
  // One page of the chunk is served at once: what it adds to the tails is one less.
  const room = Math.max(0, tailLimit(m) - state.tails) + 1;
  order = Math.min(order, LARGEST, floorLog2(room));
  return largestWholesome(m, x.file, order);
}

const floorLog2 = (n: number): number => 31 - Math.clz32(n);

/** FP2. Cost O(pools). */
const tailLimit = (m: Machine): number => {
  let managed = 0;
  for (const p of m.pools) managed += p.managed;
  return Math.floor((managed * TAIL_PERCENT) / 100);
};

/**
 * The largest order, `most` at most, that the first pool with room for it above its low mark has in Movable's own lists: a
 * chunk is a convenience, for which no pageblock is mixed, no mark is crossed and nobody reclaims.
 */
function largestWholesome(m: Machine, file: HolderId, most: number): number {
  const { node, request } = m.holders;
  const top = ((request[file] as number) >>> REQUEST_ZONE_SHIFT) & REQUEST_ZONE_MASK;
  const home = node[file] as number;
  const row = home <= NODE_OF_REQUEST ? (m.requests[NODE_OF_REQUEST - home] as PoolRequest) : undefined;
  const near = home < 0 ? (m.nodes[0] as NodeId) : toNodeId(home);
  const list = row !== undefined ? [row.pool] : m.zonelist(near, top as ZoneIndex); // two bits
  for (let order = most; order > 0; order--) {
    for (const id of list) {
      const pool = m.pools[id] as Pool;
      const mark = row?.floor ?? (pool.marks[top] as number);
      if ((pool.nrFree[0] as number) - (1 << order) < mark) continue;
      if (pool.alloc.area.orders(MIGRATE_MOVABLE) >>> order !== 0) return order;
      break; // the request would stop here, and claim
    }
  }
  return 0;
}

function takeChunk(m: Machine, state: Mappings, x: Mapping, order: number): boolean {
  if (x.reserve < 0) x.reserve = addReserve(m, x.file);
  const reserve = x.reserve as HolderId;
  m.holders.node[reserve] = m.holders.node[x.file] as number; // a node, or a pool: the file may be bound anew
  const pfn = m.alloc(reserve, toOrder(order));
  if (pfn < 0) return false; // pools with rules of their own may refuse still
  x.slots[order] = m.sections.ownerAt(m.sections.indexOf(pfn as Pfn));
  state.count(x, 1 << order);
  return true;
}

function addReserve(m: Machine, file: HolderId): HolderId {
  const { name, node } = m.holders.specs[file] as HolderSpec;
  // What a tmpfs reserves is not written to yet either: it is clean and nobody's, whatever the file's pages are.
  return m.holders.add({ class: 'file', name: `reserve of ${name}`, node, mapped: false });
}

/** The first frame of the tail. @returns -1 when somebody took some of it: it is gone, then. */
function serve(m: Machine, state: Mappings, x: Mapping): Pfn | -1 {
  const { holders, sections } = m;
  const reserve = x.reserve as HolderId;
  let order = 0;
  while ((x.slots[order] as number) < 0) order++; // a tail has a piece: FP3
  const slot = x.slots[order] as number;
  const head = holders.frameAt(slot);
  const meta = head >= 0 ? sections.metaAt(head) : 0;
  const whole = holders.pages[reserve] === x.tail && (meta & KIND_MASK) === KIND_HEAD0 + order;
  if (!whole || (meta & META_DISPLACED) !== 0) {
    giveBackTail(m, state, x);
    return -1;
  }
  // Like Machine.divide: what is said of the piece holds for all its parts.
  const bits = meta & META_STATE;
  m.unhold(head, order);
  x.slots[order] = -1;
  m.occupy(x.file, head, 0);
  for (let o = 0; o < order; o++) {
    m.occupy(reserve, head + (1 << o), o);
    x.slots[o] = sections.ownerAt(head + (1 << o));
  }
  if (bits !== 0) for (let i = 0; i <= order; i++) mark(m, head + (i === 0 ? 0 : 1 << (i - 1)), bits);
  state.count(x, -1);
  return sections.pfnOf(head);
}

function mark(m: Machine, head: number, bits: number): void {
  m.sections.setMeta(head, m.sections.metaAt(head) | bits);
  m.frameWatch?.marked(head);
}

// ------------------------------------------------------------------------------------------------------- pages go back

/**
 * Pages of a file from index `from` on go back, and its tail: as the large pieces that they are, where they are. The default
 * is all: the file is deleted. Whatever is pinned goes, too, as Machine.free has it.
 *
 * @returns pages given back, tail included. Cost O(pages of the file), sorted
 */
export function truncateMapped(m: Machine, file: HolderId, from = 0): number {
  const state = mappings.of(m);
  const x = state.all.get(file);
  const heads: number[] = [];
  m.holders.forEachMember(file, (frame, index) => {
    if (index >= from) heads.push(frame);
  });
  let pages = giveBack(m, heads);
  if (x !== undefined) pages += giveBackTail(m, state, x);
  if (from === 0) state.all.delete(file);
  return pages;
}

/** Nobody writes to the file any more: its tail goes back. @returns pages given back */
export function closeMapped(m: Machine, file: HolderId): number {
  const state = mappings.of(m);
  const x = state.all.get(file);
  return x === undefined ? 0 : giveBackTail(m, state, x);
}

/**
 * The shrinker: tails go back until `want` pages are free, those first whose files asked for nothing for longest.
 * @returns pages given back, whole tails. Cost O(pieces)
 */
export function shrinkMapped(m: Machine, want: number): number {
  const state = mappings.of(m);
  let pages = 0;
  for (const file of [...state.tailed]) {
    if (pages >= want) break;
    pages += giveBackTail(m, state, state.all.get(file) as Mapping); // a tailed file has a mapping
  }
  return pages;
}

/** A slow path that gives tails back before it asks anybody else (`next`). */
export const tailsFirst =
  (next?: SlowPath): SlowPath =>
  (m, request) => {
    const freed = shrinkMapped(m, Math.max(1 << request.order, 32)); // 32: SWAP_CLUSTER_MAX, one round of reclaim
    if (freed > 0) return 'retry';
    return next?.(m, request) ?? 'failed';
  };

/** All that the reserve holds. What somebody else freed of it is gone already. */
function giveBackTail(m: Machine, state: Mappings, x: Mapping): number {
  if (x.tail > 0) state.count(x, -x.tail);
  x.slots.fill(-1);
  if (x.reserve < 0) return 0;
  const heads: number[] = [];
  m.holders.forEachMember(x.reserve, (frame) => heads.push(frame));
  return giveBack(m, heads);
}

/** Allocations become free, in the largest aligned pieces that they make together. @returns pages */
function giveBack(m: Machine, heads: number[]): number {
  heads.sort((a, b) => a - b);
  let pages = 0;
  let start = -1;
  let end = -1;
  for (const head of heads) {
    const meta = m.sections.metaAt(head);
    const order = (meta & KIND_MASK) - KIND_HEAD0;
    pages += 1 << order;
    if ((meta & META_DISPLACED) !== 0) {
      m.free(m.sections.pfnOf(head)); // its addresses have to be told
      continue;
    }
    wipe(m, head, order);
    m.unhold(head, order);
    m.sections.vacate(head, order);
    if (head !== end) {
      freeRun(m, start, end);
      start = head;
    }
    end = head + (1 << order);
  }
  freeRun(m, start, end);
  return pages;
}

/** With contents 'bytes': the next one to have the frame reads zeros. */
function wipe(m: Machine, head: number, order: number): void {
  if (m.spec.contents !== 'bytes') return;
  const zeros = new Uint8Array(PAGE_SIZE);
  for (let i = head; i < head + (1 << order); i++) m.write(m.sections.pfnOf(i), 0, zeros);
}

/** Pieces end at pageblocks, whose types and pools may differ; what may merge beyond merges in the free area. */
function freeRun(m: Machine, start: number, end: number): void {
  for (let i = start; i < end; ) {
    const pool = m.poolAt(i) as Pool; // an allocation lies in an online pageblock
    const last = endOfPool(m, i, Math.min(end, (i | (PAGEBLOCK_PAGES - 1)) + 1));
    while (i < last) {
      let order = 0;
      while (order < PAGEBLOCK_ORDER && (i & ((2 << order) - 1)) === 0 && i + (2 << order) <= last) order++;
      pool.alloc.freeToArea(i - pool.base, order);
      i += 1 << order;
    }
  }
}

/** Where the frames from `i` on, of one pageblock, stop being one pool's; `end` at most. */
function endOfPool(m: Machine, i: number, end: number): number {
  if ((m.owners.owner[i >>> PAGEBLOCK_ORDER] as number) >= 0) return end;
  const mine = m.owners.at(i);
  let last = i + 1;
  while (last < end && m.owners.at(last) === mine) last++;
  return last;
}

// ----------------------------------------------------------------------------------------------------------- questions

/** What a file has, and has reserved. */
export function mappingInfo(m: Machine, file: HolderId): MappingInfo {
  const x = mappings.has(m)?.all.get(file);
  const tailPages = x === undefined || x.reserve < 0 ? 0 : (m.holders.pages[x.reserve] as number);
  return { pages: m.holders.pages[file] as number, tailPages };
}

/** Pages that are reserved for files and not used. Cost O(files with a tail). */
export function mappedTails(m: Machine): number {
  const state = mappings.has(m);
  let pages = 0;
  for (const file of state?.tailed ?? []) pages += mappingInfo(m, file).tailPages;
  return pages;
}

/** FP2 to FP4 in words; empty when sound. Cost O(files). For machine.check(). */
export function checkMappings(m: Machine): string[] {
  const state = mappings.has(m);
  if (state === undefined) return [];
  const wrong: string[] = [];
  let tails = 0;
  for (const [file, x] of state.all) {
    tails += x.tail;
    if (x.tail > 0 !== state.tailed.has(file))
      wrong.push(`FP3 file ${file} has a tail of ${x.tail}, and is listed otherwise`);
    const held = x.reserve < 0 ? 0 : (m.holders.pages[x.reserve] as number);
    if (held > x.tail) wrong.push(`FP4 the reserve of file ${file} holds ${held} pages, its tail is ${x.tail}`);
    const pieces = x.slots.reduce((n, slot, order) => n + (slot >= 0 ? 1 << order : 0), 0);
    if (pieces !== x.tail) wrong.push(`FP3 the pieces of file ${file} are ${pieces} pages, its tail is ${x.tail}`);
  }
  if (tails !== state.tails) wrong.push(`FP2 tails are ${tails} pages, counted ${state.tails}`);
  return wrong;
}
