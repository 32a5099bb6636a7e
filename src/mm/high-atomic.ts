// High-atomic reserve: pageblocks set aside for requests that cannot wait and want more than one page.
//
//   an atomic request of order > 0 got its page in the slow path ──> the page's pageblock becomes HighAtomic
//   direct reclaim makes no progress ──> one pageblock goes back, as the requester's type
//
//   reserved   pages in HighAtomic pageblocks of a pool: at most 1 % of it, in whole pageblocks; none in small pools
//   rights     HighAtomic pages are for atomic requests of order > 0 first; single frames of others that cannot wait,
//              or that an OOM victim wants, may have them rather than nothing (page-alloc.ts: ALLOC_LAST_RESERVE)
//
// Invariant: reserved is a multiple of a pageblock, and grows and falls only here.
// Follows Linux v6.12 mm/page_alloc.c: reserve_highatomic_pageblock(), unreserve_highatomic_pageblock() (spec 2.8).

import {
  isMergeable,
  MAX_ORDER,
  MIGRATE_HIGHATOMIC,
  type MigrateType,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from './geometry.ts';
import type { Machine } from './machine.ts';
import type { Pool } from './pool.ts';

/** The most that a pool reserves: a hundredth, rounded up to pageblocks; 0 where that is less than a pageblock. */
export function highAtomicLimit(managed: number): number {
  const hundredth = Math.floor(managed / 100);
  if (hundredth < PAGEBLOCK_PAGES) return 0;
  return Math.ceil(hundredth / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES;
}

/** Reserves the pageblock of an allocation just made at index i of the pool. @returns whether it was. */
export function reserveHighAtomic(pool: Pool, i: number, order: number): boolean {
  if (pool.reservedHighAtomic >= highAtomicLimit(pool.managed)) return false;
  if (!isMergeable(pool.alloc.area.typeOf(i))) return false;
  const pages = Math.max(PAGEBLOCK_PAGES, 1 << order);
  for (let at = i; at < i + pages; at += PAGEBLOCK_PAGES) pool.alloc.setPageblockType(at, MIGRATE_HIGHATOMIC);
  pool.reservedHighAtomic += pages;
  return true;
}

/**
 * Gives one reserved pageblock with free pages back, to the requester's type.
 *
 * @param list   pools to look through, in order
 * @param force  also the last pageblock of a pool
 * @returns whether one was given back
 */
export function unreserveHighAtomic(m: Machine, list: Int32Array, mt: MigrateType, force: boolean): boolean {
  for (const id of list) {
    const pool = m.pools[id] as Pool;
    if (pool.reservedHighAtomic === 0 || (!force && pool.reservedHighAtomic <= PAGEBLOCK_PAGES)) continue;
    const { area } = pool.alloc;
    for (let order = 0; order <= MAX_ORDER; order++) {
      const i = area.first(order, MIGRATE_HIGHATOMIC);
      if (i < 0) continue;
      const pages = 1 << Math.max(order, PAGEBLOCK_ORDER);
      for (let at = i; at < i + pages; at += PAGEBLOCK_PAGES) pool.alloc.setPageblockType(at, mt);
      pool.reservedHighAtomic -= Math.min(pages, pool.reservedHighAtomic);
      return true;
    }
  }
  return false;
}
