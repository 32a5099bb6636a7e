// External fragmentation: three measures of how far free memory is in pieces too small for a request.
//
//   F free pages, B free chunks, S free chunks that fit, counted in units of the request (one of 2^c counts 2^(c - o))
//
//   measure               value                                        reads
//   extfrag_for_order     (F - S * 2^o) * 100 / F       percent         free memory that is of no use to order o
//   unusable_index        (F - S * 2^o) * 1000 / F      thousandths     the same, as debugfs prints it
//   fragmentation_index   1000 - (1000 + F * 1000 / 2^o) / B            -1000: a request would not fail; else towards 0
//                                                                       for want of memory, towards 1000 for pieces
//
// All divisions are those of integers, towards zero. All types count, Isolate too; pages on per-CPU lists do not.
// Follows Linux v6.12 mm/vmstat.c: fill_contig_page_info(), extfrag_for_order(), unusable_free_index(),
// __fragmentation_index() (spec 2.10).

import { assert } from '#base/assert';
import type { FreeArea } from './free-area.ts';
import { MAX_ORDER, NR_MIGRATE_TYPES, NR_ORDERS } from './geometry.ts';

/** Free chunks by order, of all types together. */
export type ChunkCounts = ArrayLike<number>;

/** nr_free of a free area by order: NR_ORDERS numbers. Cost O(pageblocks in use). */
export function chunkCounts(area: FreeArea): Float64Array {
  const lists = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);
  area.count(lists);
  const out = new Float64Array(NR_ORDERS);
  lists.forEach((n, k) => {
    out[k % NR_ORDERS] += n;
  });
  return out;
}

type ContigInfo = { readonly pages: number; readonly chunks: number; readonly suitable: number };

function contigInfo(counts: ChunkCounts, order: number): ContigInfo {
  assert(order >= 0 && order <= MAX_ORDER, 'an order is 0 to 10', { order });
  let pages = 0;
  let chunks = 0;
  let suitable = 0;
  for (let c = 0; c <= MAX_ORDER; c++) {
    chunks += counts[c];
    pages += counts[c] * 2 ** c;
    if (c >= order) suitable += counts[c] * 2 ** (c - order);
  }
  return { pages, chunks, suitable };
}

/** Percent of the free pages that lie in chunks too small for the order; 0 when nothing is free. */
export function extfragForOrder(counts: ChunkCounts, order: number): number {
  const { pages, suitable } = contigInfo(counts, order);
  return pages === 0 ? 0 : Math.trunc(((pages - suitable * 2 ** order) * 100) / pages);
}

/** Thousandths of the free pages that lie in chunks too small for the order; 1000 when nothing is free. */
export function unusableFreeIndex(counts: ChunkCounts, order: number): number {
  const { pages, suitable } = contigInfo(counts, order);
  return pages === 0 ? 1000 : Math.trunc(((pages - suitable * 2 ** order) * 1000) / pages);
}

/**
 * Why a request of the order would fail: 0 for want of memory, 1000 for fragmentation; -1000 when it would not fail, 0
 * when nothing is free.
 */
export function fragmentationIndex(counts: ChunkCounts, order: number): number {
  const { pages, chunks, suitable } = contigInfo(counts, order);
  if (chunks === 0) return 0;
  if (suitable > 0) return -1000;
  return 1000 - Math.trunc((1000 + Math.trunc((pages * 1000) / 2 ** order)) / chunks);
}
