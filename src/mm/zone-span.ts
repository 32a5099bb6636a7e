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
import { PAGEBLOCK_PAGES } from './geometry.ts';
import type { Machine } from './machine.ts';
import { BLOCK_OFFLINE } from './memory-block.ts';
import type { Pool } from './pool.ts';

/** [start, end) came to the pool: its span becomes the hull of both. O(1). */
export function growSpan(pool: Pool, start: number, end: number): void {
  const empty = pool.spanned === 0;
  pool.startPfn = toPfn(empty ? start : Math.min(pool.startPfn, start));
  pool.endPfn = toPfn(empty ? end : Math.max(pool.endPfn, end));
}

/**
 * [start, end) left the pool (`owners` and the blocks say so already). Cost O(1) when no border left; else O(blocks),
 * small: it looks from the border inwards, and at pageblocks only in blocks that are not RAM of one pool throughout.
 */
export function shrinkSpan(m: Machine, pool: Pool, start: number, end: number): void {
  if (start > pool.startPfn && end < pool.endPfn) return;
  const rows = m.blocks.length;
  let low = -1;
  for (let row = 0; row < rows && low < 0; row++) low = edgeIn(m, pool, row, 'first');
  if (low < 0) {
    pool.startPfn = toPfn(0);
    pool.endPfn = toPfn(0);
    return;
  }
  let high = -1;
  for (let row = rows - 1; high < 0; row--) high = edgeIn(m, pool, row, 'last'); // ends at the row that gave `low`
  if (start <= pool.startPfn) pool.startPfn = toPfn(low);
  if (end >= pool.endPfn) pool.endPfn = toPfn(high);
}

/** First frame of the pool in a block, or the frame after its last one, in whole pageblocks; -1 where it has none. */
function edgeIn(m: Machine, pool: Pool, row: number, edge: 'first' | 'last'): number {
  const { blocks } = m;
  if (blocks.state[row] === BLOCK_OFFLINE) return -1;
  const start = (blocks.id[row] as number) * m.blockPages;
  const end = start + m.blockPages;
  const whole = blocks.absent[row] === 0 && (blocks.pool[row] as number) >= 0;
  if (whole) return blocks.pool[row] === pool.id ? (edge === 'first' ? start : end) : -1;
  const step = edge === 'first' ? PAGEBLOCK_PAGES : -PAGEBLOCK_PAGES;
  for (let pfn = edge === 'first' ? start : end - PAGEBLOCK_PAGES; start <= pfn && pfn < end; pfn += step) {
    const index = m.sections.indexOf(toPfn(pfn));
    if (index < 0 || m.owners.zoneAt(index) !== pool.id) continue;
    return edge === 'first' ? pfn : pfn + PAGEBLOCK_PAGES;
  }
  return -1;
}
