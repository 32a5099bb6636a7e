// Is compaction worth a try in this zone, and is it over? Questions about free pages; they change nothing.
//
//   a request of the order would get its page now        ──> success, nothing to do
//   free < (order > 3 ? low : min) + 2 * 2^order         ──> skipped: pages need somewhere to go
//   order > 3 and 0 <= fragmentation index <= threshold  ──> not suitable: memory is short, not in pieces
//   else                                                 ──> continue
//
// Follows Linux v6.12 mm/compaction.c: compaction_suitable(), compaction_suit_allocation_order(), compact_gap(),
// __compact_finished(); mm/page_alloc.c: __zone_watermark_ok(), find_suitable_fallback() (spec 2.5, 2.10, 2.11).

import { chunkCounts, fragmentationIndex } from '../extfrag.ts';
import { claimPermitted, FALLBACKS } from '../fallback.ts';
import { MAX_ORDER, MIGRATE_CMA, MIGRATE_MOVABLE } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { ZoneIndex } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { COSTLY_ORDER } from './compact-result.ts';

/** `skipped`: too little is free. `not-suitable`: not_suitable_zone, by the fragmentation index. */
export type Suitability = 'continue' | 'skipped' | 'not-suitable';

export type Mark = 'min' | 'low' | 'high';

/** A mark of the pool as it is now, boost included, without the reserve for lower requests. */
export const markOf = (pool: Pool, mark: Mark): number => pool.watermarks[mark] + pool.boost;

/** Free pages above `mark` plus the reserve against requests of `top`. */
function above(pool: Pool, order: number, mark: number, top: ZoneIndex, cma: boolean): boolean {
  const { nrFree, watermarks } = pool;
  const free = (nrFree[0] as number) + (cma ? (nrFree[2] as number) : 0);
  return free - (2 ** order - 1) > mark + watermarks.reserve[top];
}

/** Is there a free chunk of the order or more that the request may be served from? */
export function hasChunk(pool: Pool, order: number, cma: boolean): boolean {
  const { area } = pool.alloc;
  const orders = area.orders(0) | area.orders(1) | area.orders(2) | (cma ? area.orders(MIGRATE_CMA) : 0);
  return orders >>> order !== 0;
}

/** zone_watermark_ok(). @param cma may the request use CMA pageblocks? */
export const watermarkOk = (pool: Pool, order: number, mark: Mark, top: ZoneIndex, cma: boolean): boolean =>
  above(pool, order, markOf(pool, mark), top, cma) && (order === 0 || hasChunk(pool, order, cma));

/** compact_gap(): what a run needs free besides, for its targets. */
export const compactGap = (order: number): number => 2 * 2 ** order;

/** Is enough free for a run, or would it be with `more` pages? __compaction_suitable(). Cost O(1). */
export const hasRoomToCompact = (pool: Pool, order: number, top: ZoneIndex, more = 0): boolean =>
  above(pool, 0, markOf(pool, order > COSTLY_ORDER ? 'low' : 'min') + compactGap(order) - more, top, true);

/** See the table above. Cost O(pageblocks in use) for orders above 3, else O(1). */
export function compactionSuitable(m: Machine, pool: Pool, order: number, top: ZoneIndex = pool.zone): Suitability {
  if (!hasRoomToCompact(pool, order, top)) return 'skipped';
  if (order <= COSTLY_ORDER) return 'continue';
  const index = fragmentationIndex(chunkCounts(pool.alloc.area), order);
  return index >= 0 && index <= m.vm.extfragThreshold ? 'not-suitable' : 'continue';
}

/** Would a request of this order and type find a page, its own or one whose pageblock it may claim? */
export function suitablePageFree(pool: Pool, order: number, mt: number): boolean {
  const { area } = pool.alloc;
  if (area.orders(mt) >>> order !== 0) return true;
  if (mt === MIGRATE_MOVABLE && area.orders(MIGRATE_CMA) >>> order !== 0) return true;
  for (const from of FALLBACKS[mt] ?? []) {
    const orders = area.orders(from) >>> order;
    if (orders !== 0 && claimPermitted(highest(orders) + order, mt, true)) return true;
  }
  return false;
}

const highest = (bits: number): number => Math.min(MAX_ORDER, 31 - Math.clz32(bits));

/** __isolate_free_page(): may 2^order frames be taken as targets without going below min? */
export const mayIsolateFree = (pool: Pool, order: number): boolean => {
  const { nrFree, watermarks } = pool;
  return (nrFree[0] as number) + (nrFree[2] as number) > watermarks.min + 2 ** order + watermarks.reserve[0];
};
