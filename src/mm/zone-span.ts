// Zone spans: [startPfn, endPfn) of a pool, the hull of its frames, as blocks come and go.
//
//        before   │■■■■│····│■■■■│■■■■│        ■ a block of the pool   · a hole, or another zone's block
//   middle goes   │■■■■│····│····│■■■■│        the span stays: /proc/zoneinfo keeps the old `spanned`
//      end goes   │■■■■│····│····│             the end moves down past every block that is not there
//
// The spans of two zones of a node may overlap. Steps of a shrinking border are pageblocks, as Linux's are subsections
// of 2 MiB; a border that stays may be ragged (a zone that begins at frame 1).
//
// Follows Linux v6.12 mm/memory_hotplug.c: resize_zone_range(), shrink_zone_span() (spec 1.6).

import { toPfn } from '#base/units';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import type { Machine } from './machine.ts';
import type { Pool } from './pool.ts';

/** [start, end) came to the pool: its span becomes the hull of both. O(1). */
export function growSpan(pool: Pool, start: number, end: number): void {
  const empty = pool.spanned === 0;
  pool.startPfn = toPfn(empty ? start : Math.min(pool.startPfn, start));
  pool.endPfn = toPfn(empty ? end : Math.max(pool.endPfn, end));
}

/** [start, end) left the pool (`poolOf` says so already). Cost O(pageblocks of the hull) when a border left, else O(1). */
export function shrinkSpan(m: Machine, pool: Pool, start: number, end: number): void {
  if (start > pool.startPfn && end < pool.endPfn) return;
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  const first = pool.base >>> PAGEBLOCK_ORDER;
  const stop = Math.min((pool.base + pool.pages) >>> PAGEBLOCK_ORDER, m.poolOf.length);
  for (let pb = first; pb < stop; pb++) {
    if (m.poolOf[pb] !== pool.id) continue;
    const pfn = m.sections.pfnOf(pb * PAGEBLOCK_PAGES);
    low = Math.min(low, pfn);
    high = Math.max(high, pfn + PAGEBLOCK_PAGES);
  }
  if (high === 0) {
    pool.startPfn = toPfn(0);
    pool.endPfn = toPfn(0);
    return;
  }
  if (start <= pool.startPfn) pool.startPfn = toPfn(low);
  if (end >= pool.endPfn) pool.endPfn = toPfn(high);
}
