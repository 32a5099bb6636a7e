// Shedding: a pool gets rid of used pages, so that it has frames to give. The cheapest pages first, chunk by chunk.
//
//   page                                      goes
//   clean page cache that nobody has mapped   is dropped: its holder loses it, storage has it still
//   other pages that migrate                  to free frames of the pool beyond its min, else to its fallbacks
//   on loan to the pool                       stays: it is nobody's business but the lender's
//   pinned, poisoned, the kernel's            stays, and nothing else of its chunk is touched
//
// What a page costs, and which chunk of a pool is the cheapest: chunk-cost.ts. Fallbacks are asked by ascending weight, as
// the pool's owner, and none is taken below its floor (request.ts). Which page cache is mapped and which is dirty is its
// holder's word (page-state.ts; setPageState below); without it all is clean and mapped, so that none is dropped.
//
// What is left out: writeback, so that dirty page cache only moves; and the age of pages. Spec 9.A, semantics 6 and 7.

import { toOrder } from '#base/units';
import { CHUNK_PAGES, MAX_ORDER } from '../geometry.ts';
import { migrateWithPools } from '../hugetlb.ts';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import { CLASS_TRAITS, type PageClass } from '../page-class.ts';
import { allocationsIn } from '../page-isolation.ts';
import { isDroppable, type PageStateOf, pageStateAt } from '../page-state.ts';
import type { Pool } from '../pool.ts';
import type { BlockerCause } from '../refusal.ts';
import { CHUNK_WEIGHTS, ChunkCosts, chunkCosts } from './chunk-cost.ts';
import { hasRun, type UsedFrames } from './migrate-within.ts';
import { requestRow } from './pool-requests.ts';
import { attrsOf, leasedIn, poolTableOf } from './pool-table.ts';
import type { PoolRequest } from './request.ts';

/** What a machine's pools have been told about its pages, and how often the search for them was in vain. */
class ShedState {
  said: PageStateOf | undefined;
  /** By pool id: how many shortages to let pass, and how many will be let pass next time. */
  readonly deferred = new Map<number, { left: number; next: number }>();

  copy(): ShedState {
    const to = new ShedState();
    to.said = this.said;
    for (const [id, d] of this.deferred) to.deferred.set(id, { ...d });
    return to;
  }
}

const state = machineState(() => new ShedState());

/** Who knows which pages are clean and which are mapped: asked when pools have to shed. Copies of the machine ask it too. */
export function setPageState(m: Machine, said: PageStateOf | undefined): void {
  state.of(m).said = said;
}

/** Most shortages that are let pass after a search in vain: Linux defers compaction by up to 2^6. */
const MOST_DEFERRED = 64;

/** May the pool's pages be looked through, or was that in vain the last time? Counts a shortage that is let pass. */
export function worthLooking(m: Machine, pool: Pool): boolean {
  const d = state.of(m).deferred.get(pool.id);
  if (d === undefined || d.left === 0) return true;
  d.left--;
  return false;
}

/** Tells how a search ended. */
export function looked(m: Machine, pool: Pool, found: boolean): void {
  const { deferred } = state.of(m);
  if (found) {
    deferred.delete(pool.id);
    return;
  }
  const next = deferred.get(pool.id)?.next ?? 1;
  deferred.set(pool.id, { left: next, next: Math.min(2 * next, MOST_DEFERRED) });
}

export type Piece = {
  readonly pool: Pool;
  /** [start, end) of the dense index. */
  readonly start: number;
  readonly end: number;
  /** Sum over its used pages. */
  readonly cost: number;
  readonly used: number;
};

/** What it costs to get rid of a page; undefined: it stays. */
function costOf(m: Machine, a: { head: number; cls: PageClass; pinned: boolean }): number | undefined {
  const traits = CLASS_TRAITS[a.cls];
  if (a.pinned || !traits.managed || traits.mobility !== 'lru') return undefined;
  const w = CHUNK_WEIGHTS;
  if (a.cls !== 'file') return w.migratable;
  return pageStateAt(m, a.head, state.of(m).said).dirty ? w.dirty : w.cleanCache;
}

/** What is asked of the chunk index, unless somebody else watches the machine's frames. */
const indexOf = (m: Machine): ChunkCosts | undefined =>
  m.frameWatch === undefined || m.frameWatch instanceof ChunkCosts ? chunkCosts(m) : undefined;

/** Frames of a pool that are on loan to it. */
const lentTo = (m: Machine, pool: Pool): number =>
  [...poolTableOf(m).leases.values()].reduce((n, lease) => n + (lease.to === pool.id ? lease.pages : 0), 0);

/**
 * Up to `n` aligned pieces of 2^order frames that are all the pool's own, used at least in part, and can be emptied:
 * cheapest first, lower ones first among equals. Asks the chunk index, which visits no frame for order 10.
 */
export function wholePieces(m: Machine, pool: Pool, order: number, n: number): Piece[] {
  // Pieces that are free, and pieces on loan, are found too, and passed over.
  const others = Math.ceil((pool.alloc.nrFree() + lentTo(m, pool)) / 2 ** order) + 1;
  const found = indexOf(m)?.top(pool, n + others, toOrder(order)) ?? [];
  const out: Piece[] = [];
  for (const { startPfn, cost } of found) {
    const start = m.sections.indexOf(startPfn);
    const end = start + 2 ** order;
    const used = 2 ** order - pool.alloc.area.freeIn(start - pool.base, end - pool.base);
    if (used > 0 && !isLent(m, start, end) && out.length < n) out.push({ pool, start, end, cost, used });
  }
  return out;
}

/**
 * Parts of chunks that the pool shares with others, used at least in part, in which nothing is unmovable: the index does not
 * know them. In the same order. Cost O(pageblocks of the hull + frames of such chunks)
 */
export function raggedPieces(m: Machine, pool: Pool): Piece[] {
  const loans = lentTo(m, pool) > 0;
  const end = Math.min(pool.base + pool.pages, m.sections.frames);
  const own = new Int32Array(pool.pages / CHUNK_PAGES);
  m.owners.forEachRun(pool.base, end, (from, to, id) => {
    for (let i = from; id === pool.id && i < to; i = (i | (CHUNK_PAGES - 1)) + 1) {
      const k = (i - pool.base) >>> MAX_ORDER;
      own[k] = (own[k] as number) + Math.min(to, (i | (CHUNK_PAGES - 1)) + 1) - i;
    }
  });
  const out: Piece[] = [];
  for (let k = 0; k < own.length; k++) {
    if (own[k] === 0 || own[k] === CHUNK_PAGES) continue;
    const piece = { pool, start: pool.base + k * CHUNK_PAGES, end: pool.base + (k + 1) * CHUNK_PAGES };
    let cost = 0;
    let used = 0;
    for (const a of ownIn(m, pool, piece)) {
      const pages = 1 << a.order;
      if (loans && isLent(m, a.head, a.head + pages)) continue;
      cost += pages * (costOf(m, a) ?? Number.POSITIVE_INFINITY);
      used += pages;
    }
    if (used > 0 && cost < Number.POSITIVE_INFINITY) out.push({ ...piece, cost, used });
  }
  return out.sort((a, b) => a.cost - b.cost || a.start - b.start);
}

/** Is a frame of [start, end) of the dense index, all in one section, on loan? */
function isLent(m: Machine, start: number, end: number): boolean {
  const pfn = m.sections.pfnOf(start);
  return leasedIn(poolTableOf(m), pfn, pfn + end - start) !== undefined;
}

/** Where a pool's pages may go, and how many of its own free frames they may use. */
export type Ways = {
  readonly fallbacks: readonly { readonly pool: number; readonly floor: number }[];
  ownSpare: number;
};

/** The ways out of a pool, as its owner. */
export function waysOutOf(m: Machine, pool: Pool, ownSpare: number): Ways {
  const row = requestRow(m, pool.id, attrsOf(m, pool.id).owner); // may make a new table of rows
  const { fallbacks } = m.requests[row] as PoolRequest; // a row that was just named
  return { fallbacks, ownSpare };
}

/** How a page went. */
export type Shed = 'dropped' | 'moved';

/** A page to be shed. */
export type Allocation = UsedFrames;

export const isGone = (how: Shed | BlockerCause): how is Shed => how === 'dropped' || how === 'moved';

/** Allocations of a piece that are the pool's, as they are now. */
export const ownIn = (m: Machine, pool: Pool, piece: { readonly start: number; readonly end: number }): UsedFrames[] =>
  [...allocationsIn(m, piece.start, piece.end)].filter((a) => m.owners.at(a.head) === pool.id);

/**
 * The allocation leaves its frames, which are then free in the pool's area: its per-CPU lists are to be off.
 *
 * @returns how, or why it stayed. Cost O(pages of it)
 */
export function vacate(m: Machine, pool: Pool, a: UsedFrames, ways: Ways): Shed | BlockerCause {
  const pages = 1 << a.order;
  if (isDroppable(m, a, state.of(m).said)) {
    m.free(m.sections.pfnOf(a.head));
    return 'dropped';
  }
  const traits = CLASS_TRAITS[a.cls];
  if (!traits.managed) return 'reserved';
  if (traits.mobility === 'stays') return 'poisoned';
  if (traits.mobility !== 'lru') return 'unmovable';
  if (ways.ownSpare >= pages && hasRun(pool, a.order)) {
    const outcome = migrateWithPools(m, a.head, Int32Array.of(pool.id));
    if (outcome === 'moved') {
      ways.ownSpare -= pages;
      return 'moved';
    }
    if (outcome !== 'no-target') return outcome === 'final' ? 'unmovable' : outcome;
  }
  for (const { pool: id, floor } of ways.fallbacks) {
    const other = m.pools[id] as Pool;
    if (!hasRoom(other, a.order, traits.topZone, floor)) continue;
    const outcome = migrateWithPools(m, a.head, Int32Array.of(id));
    if (outcome === 'moved') return 'moved';
    if (outcome !== 'no-target') return outcome === 'final' ? 'unmovable' : outcome;
  }
  return 'no-target';
}

/** Can a fallback take 2^order frames and keep what it has to? A large page is not to be split for one that has no run. */
function hasRoom(other: Pool, order: number, top: number, floor: number): boolean {
  const inArea = other.alloc.nrFree();
  if (other.kind === 'zone') {
    if (inArea - (1 << order) < (other.marks[top] as number)) return false;
  } else if (inArea + other.alloc.pcpPages() - (1 << order) < floor) return false;
  return hasRun(other, order);
}
