// Free frames taken one by one: exactly these frames leave a pool's free lists, chunks around them are split.
//
//   before   │        free chunk, order 4         │
//   take            [start ── end)
//   after    │ 3 │ 1│ taken taken taken │ 0│ 2    │     what is left is put back in the largest aligned pieces
//
// Invariants: FF1 the frames taken are all of [start, end) and nothing else left the lists; FF2 what was put back cannot
// merge (each piece's buddy holds a frame that was taken). Follows Linux v6.12 mm/page_alloc.c: take_page_off_buddy(),
// break_down_buddy_pages(); mm/compaction.c: isolate_freepages_range().

import { assert } from '#base/assert';
import { MAX_ORDER } from './geometry.ts';
import type { Pool } from './pool.ts';

/** Puts free frames [start, end) of the pool back on its lists, in the largest aligned pieces, without merging. */
function putPieces(pool: Pool, start: number, end: number): void {
  for (let i = start; i < end; ) {
    let order = 0;
    while (order < MAX_ORDER && i % (2 << order) === 0 && i + (2 << order) <= end) order++;
    pool.alloc.put(i, order);
    i += 1 << order;
  }
}

/**
 * Takes [start, end) of the dense index, all of it free in the pool's lists (not on per-CPU lists), out of them.
 *
 * A frame that is not free is a bug and throws. Cost O(chunks touched). The frames belong to nobody afterwards.
 */
export function takeFreeFrames(pool: Pool, start: number, end: number): void {
  const { area } = pool.alloc;
  const first = start - pool.base;
  const last = end - pool.base;
  let i = area.headOf(first);
  assert(i >= 0, 'the first frame to take is not free', { start, end });
  while (i < last) {
    const order = area.orderAt(i);
    assert(order >= 0, 'a frame to take is not free', { start, end, at: i + pool.base });
    const next = i + (1 << order);
    pool.alloc.take(i, order);
    if (i < first) putPieces(pool, i, first);
    if (next > last) putPieces(pool, last, next);
    i = next;
  }
}
