// Moving frames between pools: a number of free ones, or everything in ranges.
//
//   by count   free pieces of `from`, largest first (a chunk of 4 MiB is one relabel), until the number is reached
//   by range   1  what can be seen to stop the move is named, and nothing has changed
//              2  free frames of the ranges are relabelled
//              3  used frames: `donate` relabels them where they lie; `evacuate` migrates their contents to other frames of
//                 `from`, and relabels what they leave
//              4  what did not move after all is named; everything relabelled so far goes back
//
// Since step 2 comes before step 3, a migration never finds its target in the ranges that are being emptied. Contents that
// moved stay where they are when a later page refuses: to move them back would help nobody.
//
//   free frames that never leave their pool here    why
//   on loan to it                                   they are the lender's
//   in isolated pageblocks                          somebody is about to take them out of use
//   in CMA and HighAtomic pageblocks                they are promised to a device, or to atomic requests
//
// Invariant: a refusal leaves every frame with its pool. Frames on per-CPU lists are free: they count, and the lists are
// drained as frames move, not before.

import { MAX_ORDER, MIGRATE_CMA, MIGRATE_ISOLATE, NR_PCP_TYPES, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { CLASS_TRAITS } from '../page-class.ts';
import { allocationsIn, BlockerList, blockerOf } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import type { BlockerCause, Refusal } from '../refusal.ts';
import { refusal } from '../refusal.ts';
import { migrateWithin, type UsedFrames } from './migrate-within.ts';
import { leasedIn, poolTableOf } from './pool-table.ts';
import { relabelFree, relabelUsed } from './relabel.ts';

export type FrameRange = { readonly start: number; readonly end: number };

/** Frames that a pool could give away now. Cost O(leases), and O(frames on its lists) where pageblocks are set apart. */
export function givable(m: Machine, pool: Pool): number {
  let free = pool.nrFree[0] as number;
  if (!hasSetApart(pool)) free += pool.alloc.pcpPages();
  else free += listed(pool, 0, pool.pages);
  for (const lease of poolTableOf(m).leases.values()) {
    if (lease.to !== pool.id) continue;
    for (const r of lease.ranges) free -= freeOf(m, pool, r.start, r.end);
  }
  return free;
}

/** Free frames of a pool in [start, end) of frame numbers, but for those that are set apart. */
export function freeOf(m: Machine, pool: Pool, start: number, end: number): number {
  let n = 0;
  for (const run of denseRuns(m, start, end)) {
    const from = Math.max(0, run.start - pool.base);
    const to = Math.min(pool.pages, run.end - pool.base);
    if (from < to) n += freeIn(pool, from, to) + listed(pool, from, to);
  }
  return n;
}

/** Has the pool free frames in HighAtomic, CMA or Isolate pageblocks? */
const hasSetApart = ({ nrFree }: Pool): boolean =>
  (nrFree[1] as number) + (nrFree[2] as number) + (nrFree[3] as number) > 0;

const isSetApart = (mt: number): boolean => mt >= NR_PCP_TYPES;

/** Frames [from, to) of the pool that are in its free area, and not set apart. */
function freeIn(pool: Pool, from: number, to: number): number {
  const { area } = pool.alloc;
  if (!hasSetApart(pool)) return area.freeIn(from, to);
  let n = 0;
  for (let i = from; i < to; ) {
    const next = Math.min(to, i - (i % PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES);
    if (!isSetApart(area.typeOf(i))) n += area.freeIn(i, next);
    i = next;
  }
  return n;
}

/** Frames [from, to) of the pool that are on its per-CPU lists, and not set apart. Cost O(frames on its lists). */
function listed(pool: Pool, from: number, to: number): number {
  let n = 0;
  if (pool.alloc.pcpPages() === 0) return 0;
  pool.alloc.forEachPcp((_cpu, _mt, i, order) => {
    if (!isSetApart(pool.alloc.area.typeOf(i))) n += Math.max(0, Math.min(to, i + 2 ** order) - Math.max(from, i));
  });
  return n;
}

/** [start, end) of frame numbers as runs of the dense index; sections that are not present are left out. */
export function denseRuns(m: Machine, start: number, end: number): FrameRange[] {
  const out: { start: number; end: number }[] = [];
  const SECTION = 32768;
  for (let pfn = start; pfn < end; ) {
    const stop = Math.min(end, pfn - (pfn % SECTION) + SECTION);
    const index = m.sections.indexOf(pfn as never); // a frame number of a range that somebody named
    if (index >= 0) {
      const last = out[out.length - 1];
      if (last !== undefined && last.end === index) last.end += stop - pfn;
      else out.push({ start: index, end: index + stop - pfn });
    }
    pfn = stop;
  }
  return out;
}

/** Frame numbers that others lent to a pool, ascending. */
const borrowedBy = (m: Machine, pool: Pool): FrameRange[] =>
  [...poolTableOf(m).leases.values()]
    .flatMap((lease) => (lease.to === pool.id ? lease.ranges : []))
    .sort((a, b) => a.start - b.start);

/**
 * The parts of a free piece [start, end) of the dense index that are the pool's own: borrowed frames merge with its own
 * while they are free. Cost O(log borrowed + parts).
 */
function ownParts(m: Machine, borrowed: readonly FrameRange[], start: number, end: number): FrameRange[] {
  const pfn = m.sections.pfnOf(start); // a free piece lies in one section
  let low = 0;
  for (let high = borrowed.length; low < high; ) {
    const mid = (low + high) >> 1;
    if ((borrowed[mid] as FrameRange).end <= pfn) low = mid + 1;
    else high = mid;
  }
  const out: FrameRange[] = [];
  let at = start;
  for (; low < borrowed.length; low++) {
    const r = borrowed[low] as FrameRange;
    const from = start + r.start - pfn;
    if (from >= end) break;
    if (at < from) out.push({ start: at, end: from });
    at = start + r.end - pfn;
  }
  if (at < end) out.push({ start: at, end });
  return out;
}

/**
 * Moves `pages` free frames, in the largest pieces there are. Within `ranges` (of frame numbers) if given, from the top.
 * The caller has seen that there are enough (givable, freeOf). The pool's per-CPU lists are drained.
 *
 * @returns ranges of the dense index that moved. Cost O(pieces); with ranges or leases O(free pieces of the pool) more
 */
export function moveFree(
  m: Machine,
  from: Pool,
  to: Pool,
  pages: number,
  ranges?: readonly FrameRange[],
): FrameRange[] {
  from.alloc.drain();
  const moved: FrameRange[] = [];
  let left = pages;
  const move = (index: number, count: number): void => {
    relabelFree(m, from, to, index, index + count);
    moved.push({ start: index, end: index + count });
    left -= count;
  };
  const leased = [...poolTableOf(m).leases.values()].some((lease) => lease.to === from.id);
  if (ranges !== undefined || leased) {
    for (const piece of piecesIn(m, from, ranges)) {
      if (left === 0) break;
      move(piece.start, Math.min(left, piece.end - piece.start));
    }
    return moved;
  }
  const { area } = from.alloc;
  for (let order = MAX_ORDER; order >= 0 && left > 0; order--) {
    for (let mt = 0; mt < NR_PCP_TYPES && left > 0; mt++) {
      // A piece that is larger than what is left gives its first frames: nothing smaller is touched in vain.
      for (let i = area.first(order, mt); i >= 0 && left > 0; i = area.first(order, mt)) {
        if (1 << order > left && order > 0 && hasSmaller(area.orders(mt), order)) break;
        move(i + from.base, Math.min(left, 1 << order));
      }
    }
  }
  // What is left is less than the smallest piece that was passed over.
  for (let order = 0; order <= MAX_ORDER && left > 0; order++) {
    for (let mt = 0; mt < NR_PCP_TYPES && left > 0; mt++) {
      for (let i = area.first(order, mt); i >= 0 && left > 0; i = area.first(order, mt)) {
        move(i + from.base, Math.min(left, 1 << order));
      }
    }
  }
  return moved;
}

const hasSmaller = (orders: number, order: number): boolean => (orders & ((1 << order) - 1)) !== 0;

/** Free pieces of a pool that nobody lent it, cut to the ranges, largest first, then from the top down. */
function piecesIn(m: Machine, pool: Pool, ranges: readonly FrameRange[] | undefined): FrameRange[] {
  const out: FrameRange[] = [];
  const borrowed = borrowedBy(m, pool);
  const take = (start: number, end: number): void => {
    const from = Math.max(0, start - pool.base);
    const to = Math.min(pool.pages, end - pool.base);
    if (from >= to) return;
    const first = pool.alloc.area.headOf(from);
    pool.alloc.area.forEachFree(first >= 0 ? first : from, to, (i, order, mt) => {
      if (isSetApart(mt)) return;
      const a = Math.max(i + pool.base, start);
      const b = Math.min(i + pool.base + 2 ** order, end);
      if (a < b) out.push(...ownParts(m, borrowed, a, b));
    });
  };
  if (ranges === undefined) take(pool.base, pool.base + pool.pages);
  else for (const r of ranges) for (const run of denseRuns(m, r.start, r.end)) take(run.start, run.end);
  return out.sort((a, b) => b.end - b.start - (a.end - a.start) || b.start - a.start);
}

export type MoveRangeOptions = {
  /** What happens to used frames. 'refuse': they stop the move. */
  readonly used: 'refuse' | 'donate' | 'evacuate';
  /** Where contents go, pool ids in order. Default: other frames of the pool that they are in. */
  readonly targets?: Int32Array;
};

/**
 * All frames of `from` in ranges of frame numbers change to `to`: all of them, or none. Frames of other pools in the ranges
 * are none of its business. The per-CPU lists of `from` are drained.
 *
 * @returns frames that changed; pool-busy (EBUSY) with the frames in the way, and nothing has changed but where contents lie
 */
export function moveRanges(
  m: Machine,
  from: Pool,
  to: Pool,
  ranges: readonly FrameRange[],
  options: MoveRangeOptions,
): { pages: number } | Refusal {
  const runs = ranges.flatMap((r) => denseRuns(m, r.start, r.end));
  const refused = onLoan(m, from, ranges) ?? shut(m, from, to, runs) ?? inTheWay(m, from, to, runs, options.used);
  if (refused !== undefined) return refused;

  from.alloc.disable(); // what a migration leaves is to be found at once
  const done: FrameRange[] = [];
  const busy = new BlockerList();
  const targets = options.targets ?? Int32Array.of(from.id);
  for (const run of runs) for (const own of ownedRuns(m, from, run)) relabelAllFree(m, from, to, own, done);
  for (const run of runs) {
    for (const a of ownAllocations(m, from, run)) {
      if (options.used === 'donate') {
        relabelUsed(m, from, to, a.head, a.order);
        done.push({ start: a.head, end: a.head + (1 << a.order) });
        continue;
      }
      const cause = migrateWithin(m, a, targets, (start, end) => {
        relabelFree(m, from, to, start, end);
        done.push({ start, end });
      });
      if (cause !== undefined) busy.add(blockerOf(m, a.head, 1 << a.order, cause));
    }
  }
  if (busy.items.length > 0) {
    // All of it goes back; what migrated lies elsewhere in `from` now. Only free frames: nothing was donated.
    to.alloc.drain();
    for (const r of done) relabelFree(m, to, from, r.start, r.end);
  }
  from.alloc.enable();
  return busy.items.length > 0 ? refusalOf(from, busy) : { pages: done.reduce((n, r) => n + r.end - r.start, 0) };
}

/** The same, for one range. */
export const moveRange = (
  m: Machine,
  from: Pool,
  to: Pool,
  range: FrameRange,
  options: MoveRangeOptions,
): { pages: number } | Refusal => moveRanges(m, from, to, [range], options);

function refusalOf(from: Pool, busy: BlockerList): Refusal {
  const first = busy.items[0] as { name: string; cause: string }; // callers have one at least
  const message = `${from.title}: ${busy.pages} frames do not leave, the first is ${first.name}'s (${first.cause})`;
  return refusal('pool-busy', message, busy.items);
}

function onLoan(m: Machine, from: Pool, ranges: readonly FrameRange[]): Refusal | undefined {
  for (const r of ranges) {
    const lease = leasedIn(poolTableOf(m), r.start, r.end);
    if (lease?.to !== from.id) continue;
    return refusal('pool-busy', `${from.title}: frames of the range are on loan (lease ${lease.id})`);
  }
  return undefined;
}

/** A pageblock that is being taken out of use, in either pool, or that is a device's. */
function shut(m: Machine, from: Pool, to: Pool, runs: readonly FrameRange[]): Refusal | undefined {
  const typeIn = (pool: Pool, i: number): number => {
    const at = i - pool.base; // `to` may never have had frames as far out as this
    return at >= 0 && at < pool.pages ? pool.alloc.area.typeOf(at) : 0;
  };
  for (const run of runs) {
    for (const own of ownedRuns(m, from, run)) {
      for (let i = own.start - (own.start % PAGEBLOCK_PAGES); i < own.end; i += PAGEBLOCK_PAGES) {
        const isolated = typeIn(from, i) === MIGRATE_ISOLATE || typeIn(to, i) === MIGRATE_ISOLATE;
        if (!isolated && !isSetApart(typeIn(from, i))) continue;
        const pfn = m.sections.pfnOf(i).toString(16);
        const whose = typeIn(from, i) === MIGRATE_CMA ? 'of a CMA area, for its device' : 'kept for atomic requests';
        const why = isolated ? 'is isolated: somebody is taking it out of use' : `is ${whose}`;
        return refusal('pool-busy', `${from.title}: the pageblock at ${pfn} ${why}`);
      }
    }
  }
  return undefined;
}

/** What can be seen to stop the move before it begins. */
function inTheWay(
  m: Machine,
  from: Pool,
  to: Pool,
  runs: readonly FrameRange[],
  used: MoveRangeOptions['used'],
): Refusal | undefined {
  const busy = new BlockerList();
  for (const run of runs) {
    for (const a of ownAllocations(m, from, run)) {
      const { managed, mobility } = CLASS_TRAITS[a.cls];
      const pages = 1 << a.order;
      const moves = mobility === 'lru' || mobility === 'driver';
      let cause: BlockerCause | undefined;
      if (!managed && (used !== 'donate' || to.kind === 'user'))
        cause = 'reserved'; // a zone takes back whatever bears its label
      // One that reaches out of the run: its other frames would be cut off.
      else if (a.head < run.start || a.head + pages > run.end) cause = 'unmovable';
      else if (used === 'refuse' || (used === 'evacuate' && !moves)) cause = 'unmovable';
      else if (used === 'evacuate' && a.pinned) cause = 'pinned';
      if (cause !== undefined) busy.add(blockerOf(m, a.head, pages, cause));
    }
  }
  return busy.items.length === 0 ? undefined : refusalOf(from, busy);
}

/** Allocations in a run of the dense index that are a pool's. */
const ownAllocations = (m: Machine, pool: Pool, run: FrameRange): UsedFrames[] =>
  [...allocationsIn(m, run.start, run.end)].filter((a) => m.owners.at(a.head) === pool.id);

/** Runs of the dense index in a run that are a pool's. Cost O(pageblocks). */
export function ownedRuns(m: Machine, pool: Pool, run: FrameRange): FrameRange[] {
  const out: FrameRange[] = [];
  m.owners.forEachRun(run.start, run.end, (start, end, id) => {
    if (id === pool.id) out.push({ start, end });
  });
  return out;
}

/** Free pieces of a run of the dense index, all of it `from`'s, change to `to`. */
function relabelAllFree(m: Machine, from: Pool, to: Pool, { start, end }: FrameRange, done: FrameRange[]): void {
  const pieces: FrameRange[] = [];
  const at = start - from.base;
  const head = from.alloc.area.headOf(at);
  from.alloc.area.forEachFree(head >= 0 ? head : at, end - from.base, (i, order) => {
    const a = Math.max(start, i + from.base);
    const b = Math.min(end, i + from.base + 2 ** order);
    if (a < b) pieces.push({ start: a, end: b });
  });
  for (const p of pieces) {
    relabelFree(m, from, to, p.start, p.end);
    done.push(p);
  }
}
