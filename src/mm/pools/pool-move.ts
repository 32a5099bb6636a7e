// Moving frames between pools: a number of free ones, or everything in a range.
//
//   by count   free pieces of `from`, largest first (a chunk of 4 MiB is one relabel), until the number is reached
//   by range   1  free frames of the range are relabelled
//              2  used frames: `donate` relabels them where they lie; `evacuate` migrates their contents to other frames of
//                 `from`, and relabels what they leave
//              3  what cannot move is named; everything relabelled so far goes back
//
// Since step 1 comes first, a migration never finds its target in the range that is being emptied. Contents that moved
// stay where they are when a later page refuses: to move them back would help nobody.
//
// Invariant: a refusal leaves every frame with its pool.

import { MAX_ORDER, MIGRATE_ISOLATE, NR_MIGRATE_TYPES } from '../geometry.ts';
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

/** Frames that a pool could give away now: free, not isolated, not borrowed from somebody else. Drains its per-CPU lists. */
export function givable(m: Machine, pool: Pool): number {
  pool.alloc.drain();
  let free = pool.alloc.nrFree();
  for (const lease of poolTableOf(m).leases.values()) {
    if (lease.to !== pool.id) continue;
    for (const r of lease.ranges) free -= freeOf(m, pool, r.start, r.end);
  }
  return free;
}

/** Free frames of a pool in [start, end) of frame numbers. */
export function freeOf(m: Machine, pool: Pool, start: number, end: number): number {
  let n = 0;
  for (const run of denseRuns(m, start, end)) {
    const from = Math.max(0, run.start - pool.base);
    const to = Math.min(pool.pages, run.end - pool.base);
    if (from < to) n += pool.alloc.area.freeIn(from, to);
  }
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
 * The caller has seen that there are enough (givable, freeOf). @returns ranges of the dense index that moved.
 * Cost O(pieces); with ranges or leases O(free pieces of the pool) more.
 */
export function moveFree(
  m: Machine,
  from: Pool,
  to: Pool,
  pages: number,
  ranges?: readonly FrameRange[],
): FrameRange[] {
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
    for (let mt = 0; mt < NR_MIGRATE_TYPES && left > 0; mt++) {
      if (mt === MIGRATE_ISOLATE) continue;
      // A piece that is larger than what is left gives its first frames: nothing smaller is touched in vain.
      for (let i = area.first(order, mt); i >= 0 && left > 0; i = area.first(order, mt)) {
        if (1 << order > left && order > 0 && hasSmaller(area.orders(mt), order)) break;
        move(i + from.base, Math.min(left, 1 << order));
      }
    }
  }
  // What is left is less than the smallest piece that was passed over.
  for (let order = 0; order <= MAX_ORDER && left > 0; order++) {
    for (let mt = 0; mt < NR_MIGRATE_TYPES && left > 0; mt++) {
      if (mt === MIGRATE_ISOLATE) continue;
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
      if (mt === MIGRATE_ISOLATE) return;
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
 * All frames of `from` in [start, end) of frame numbers change to `to`. Frames of other pools in the range are none of
 * its business. Per-CPU lists of `from` are drained.
 *
 * @returns frames that changed; pool-busy (EBUSY) with the frames in the way, and nothing has changed but where contents lie
 */
export function moveRange(
  m: Machine,
  from: Pool,
  to: Pool,
  range: FrameRange,
  options: MoveRangeOptions,
): { pages: number } | Refusal {
  from.alloc.drain();
  const lease = leasedIn(poolTableOf(m), range.start, range.end);
  if (lease !== undefined && lease.to === from.id) {
    return refusal('pool-busy', `${from.title}: frames of the range are on loan (lease ${lease.id})`);
  }
  const done: FrameRange[] = [];
  const busy = new BlockerList();
  const targets = options.targets ?? Int32Array.of(from.id);
  for (const run of denseRuns(m, range.start, range.end)) {
    m.owners.forEachRun(run.start, run.end, (start, end, id) => {
      if (id === from.id) relabelAllFree(m, from, to, start, end, done);
    });
  }
  for (const run of denseRuns(m, range.start, range.end)) {
    const used = [...allocationsIn(m, run.start, run.end)].filter((a) => m.owners.at(a.head) === from.id);
    for (const a of used) {
      const pages = 1 << a.order;
      const whole = a.head >= run.start && a.head + pages <= run.end;
      const cause = options.used === 'refuse' ? 'unmovable' : emptyOne(m, from, to, a, whole, options, targets, done);
      if (cause !== undefined) busy.add(blockerOf(m, a.head, pages, cause));
    }
  }
  if (busy.items.length === 0) return { pages: done.reduce((n, r) => n + r.end - r.start, 0) };
  // All of it goes back; what migrated lies elsewhere in `from` now.
  to.alloc.drain();
  for (const r of done) {
    const a = m.sections.allocationAt(r.start);
    if (a === undefined) relabelFree(m, to, from, r.start, r.end);
    else relabelUsed(m, to, from, a.head, a.order);
  }
  const first = busy.items[0] as { name: string; cause: string };
  const message = `${from.title}: ${busy.pages} frames do not leave, the first is ${first.name}'s (${first.cause})`;
  return refusal('pool-busy', message, busy.items);
}

function relabelAllFree(m: Machine, from: Pool, to: Pool, start: number, end: number, done: FrameRange[]): void {
  const pieces: FrameRange[] = [];
  const at = Math.max(0, start - from.base);
  const head = from.alloc.area.headOf(at);
  from.alloc.area.forEachFree(head >= 0 ? head : at, end - from.base, (i, order, mt) => {
    const a = Math.max(start, i + from.base);
    const b = Math.min(end, i + from.base + 2 ** order);
    if (a < b && mt !== MIGRATE_ISOLATE) pieces.push({ start: a, end: b });
  });
  for (const p of pieces) {
    relabelFree(m, from, to, p.start, p.end);
    done.push(p);
  }
}

/** One allocation leaves its pool. @returns why not; undefined when it did */
function emptyOne(
  m: Machine,
  from: Pool,
  to: Pool,
  a: UsedFrames,
  whole: boolean,
  options: MoveRangeOptions,
  targets: Int32Array,
  done: FrameRange[],
): BlockerCause | undefined {
  if (!CLASS_TRAITS[a.cls].managed) return 'reserved';
  if (options.used === 'donate') {
    if (!whole) return 'unmovable';
    relabelUsed(m, from, to, a.head, a.order);
    done.push({ start: a.head, end: a.head + (1 << a.order) });
    return undefined;
  }
  if (!whole) return 'unmovable'; // an allocation that reaches out of the range: its other frames would be cut off
  return migrateWithin(m, a, targets, (start, end) => {
    relabelFree(m, from, to, start, end);
    done.push({ start, end });
  });
}
