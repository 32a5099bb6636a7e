// Targets: free frames for what moves, straight off the free lists, as compaction's free scanner takes them.
//
//   pools in the order of the zonelist: the source's own node first; each must stay above min
//     1  the lowest of the first chunks of each order, of Unmovable, then of Reclaimable pageblocks
//     2  a whole free pageblock of Movable, which becomes Unmovable
//     3  as 1, of Movable
//   none: per-CPU lists are emptied, and all again; then the machine's slow path is asked, once
//
// Low before small: what moves should not lie in the next DIMM that is to go, and kernel memory begins below. Measured on 64
// scattered blocks that leave one after another: 27 642 pages moved instead of 31 161 with the smallest chunk first, of 20 474.
//
// Isolated pageblocks, CMA and HighAtomic ones are on other lists and never looked at. No per-CPU list is filled and no
// request is counted, so that what comes home leaves buddyinfo and zoneinfo as they were (C4).
//
// Follows Linux v6.12 mm/compaction.c: isolate_freepages_block(), split_map_pages().

import { takeFreeFrames } from '../free-frames.ts';
import {
  MIGRATE_MOVABLE,
  MIGRATE_RECLAIMABLE,
  MIGRATE_UNMOVABLE,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { ZONE_NORMAL } from '../page-class.ts';
import type { Pool } from '../pool.ts';

const KERNEL_TYPES = [MIGRATE_UNMOVABLE, MIGRATE_RECLAIMABLE] as const;

/** Order of the lowest of the first chunks of at least `order` on the type's lists; -1 = none. Cost O(orders). */
function lowest(pool: Pool, order: number, mt: number): number {
  const { area } = pool.alloc;
  let best = -1;
  let at = Number.POSITIVE_INFINITY;
  for (let orders = area.orders(mt) >>> order, o = order; orders !== 0; orders >>>= 1, o++) {
    const i = (orders & 1) === 0 ? at : area.first(o, mt);
    if (i >= at) continue;
    best = o;
    at = i;
  }
  return best;
}

/** Takes 2^order frames of the chunk of order `of` at i; the high halves go back. @returns i */
function cut(pool: Pool, i: number, of: number, order: number): number {
  pool.alloc.take(i, of);
  for (let o = of - 1; o >= order; o--) pool.alloc.put(i + (1 << o), o);
  return i;
}

/** Takes 2^order frames of a whole free pageblock of Movable, which becomes Unmovable. @returns the first; -1 = none */
function claim(pool: Pool, order: number): number {
  const of = lowest(pool, PAGEBLOCK_ORDER, MIGRATE_MOVABLE);
  if (of < 0) return -1;
  const i = pool.alloc.area.first(of, MIGRATE_MOVABLE);
  pool.alloc.take(i, of);
  pool.alloc.setPageblockType(i, MIGRATE_UNMOVABLE);
  for (let o = of - 1; o >= order; o--) pool.alloc.put(i + (1 << o), o);
  return i;
}

function takeFrom(pool: Pool, order: number): number {
  for (const mt of KERNEL_TYPES) {
    const of = lowest(pool, order, mt);
    if (of >= 0) return cut(pool, pool.alloc.area.first(of, mt), of, order);
  }
  const claimed = order <= PAGEBLOCK_ORDER ? claim(pool, order) : -1;
  if (claimed >= 0) return claimed;
  const of = lowest(pool, order, MIGRATE_MOVABLE);
  return of < 0 ? -1 : cut(pool, pool.alloc.area.first(of, MIGRATE_MOVABLE), of, order);
}

/** Does the pool stay above min without these frames? */
const roomIn = (pool: Pool, pages: number): boolean =>
  (pool.nrFree[0] as number) - pages >= Math.max(0, pool.marks[4 + ZONE_NORMAL] as number);

function fromPools(m: Machine, list: Int32Array, order: number): number {
  for (const id of list) {
    const pool = m.pools[id] as Pool; // a list names pools
    if (!roomIn(pool, 1 << order)) continue;
    const i = takeFrom(pool, order);
    if (i >= 0) return i + pool.base;
  }
  return -1;
}

/** Takes 2^order frames from the first pool that has them. @returns PageIndex; -1 = none. Cost O(pools). */
export function takeTarget(m: Machine, list: Int32Array, order: number): number {
  const found = fromPools(m, list, order);
  if (found >= 0 || list.length === 0) return found;
  let drained = 0;
  for (const id of list) drained += (m.pools[id] as Pool).alloc.drain();
  const again = drained > 0 ? fromPools(m, list, order) : -1;
  if (again >= 0 || m.slowPath === undefined) return again;
  const made = m.slowPath(m, { list, order, migratetype: MIGRATE_UNMOVABLE, topZone: ZONE_NORMAL });
  return typeof made === 'number' ? made : made === 'retry' ? fromPools(m, list, order) : -1;
}

/**
 * A free, aligned 2 MiB in the first pool that has one; nothing is taken yet.
 * @returns PageIndex of its first frame; -1 = none
 */
export function findWhole(m: Machine, list: Int32Array): number {
  for (const id of list) {
    const pool = m.pools[id] as Pool;
    if (!roomIn(pool, PAGEBLOCK_PAGES)) continue;
    for (const mt of [...KERNEL_TYPES, MIGRATE_MOVABLE]) {
      const of = lowest(pool, PAGEBLOCK_ORDER, mt);
      if (of >= 0) return pool.alloc.area.first(of, mt) + pool.base;
    }
  }
  return -1;
}

/** A pageblock of Movable in which kernel pages are now becomes Unmovable. */
export function makeUnmovable(m: Machine, index: number): void {
  const pool = m.poolAt(index) as Pool; // taken from one
  const i = index - pool.base;
  if (pool.alloc.area.typeOf(i) === MIGRATE_MOVABLE) pool.alloc.setPageblockType(i, MIGRATE_UNMOVABLE);
}

/** Takes exactly these frames, if all of them are free in one pool's area. @returns false, and nothing is taken, if not */
export function takeExactly(m: Machine, index: number, order: number): boolean {
  const pool = m.poolAt(index);
  if (pool === undefined) return false;
  const start = index - pool.base;
  if (start < 0 || pool.alloc.area.freeIn(start, start + (1 << order)) !== 1 << order) return false;
  takeFreeFrames(pool, index, index + (1 << order));
  return true;
}

/** Frames that nobody has any more go to the free area. */
export function giveBack(m: Machine, index: number, order: number): void {
  const pool = m.poolAt(index) as Pool; // taken from one
  pool.alloc.freeToArea(index - pool.base, order);
}
