// Targets: free chunks that a run has taken out of its zone's lists, for pages to move to. In nobody's hands, for a moment.
//
//   take        the scanner found a free chunk                    heads[order]   the last one in is the first one out,
//   alloc       2^order frames; a larger chunk is split,          ...            but chunks of a scan go in behind
//               its low half is used first
//   giveBack    a move that failed: first in its list again
//   release     all of it goes back to the zone
//
// Frames in this list are neither used nor free, so that it is empty whenever anybody else runs.
//
// Follows Linux v6.12 mm/compaction.c: isolate_freepages_block(), compaction_alloc(), compaction_free(),
// release_free_list(); mm/page_alloc.c: __isolate_free_page().

import { isMergeable, MAX_ORDER, MIGRATE_MOVABLE, NR_ORDERS, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Pool } from '../pool.ts';

export class Targets {
  /** Heads of chunks by order, as PageIndex; the first is the next to be used. */
  readonly #heads: number[][] = Array.from({ length: NR_ORDERS }, () => []);
  pages = 0;

  /** Takes the free chunk at `head` out of the pool's lists. */
  take(pool: Pool, head: number, order: number): void {
    const i = head - pool.base;
    const { area } = pool.alloc;
    pool.alloc.take(i, order);
    this.pages += 1 << order;
    this.#list(order).push(head);
    if (order < PAGEBLOCK_ORDER - 1) return;
    // What lies there from now on moves: so does the pageblock.
    for (let k = 0; k < 1 << order; k += PAGEBLOCK_PAGES) {
      const type = area.typeOf(i + k);
      if (isMergeable(type) && type !== MIGRATE_MOVABLE) pool.alloc.setPageblockType(i + k, MIGRATE_MOVABLE);
    }
  }

  /** @returns PageIndex of 2^order frames; -1 when no chunk is as large */
  alloc(order: number): number {
    let c = order;
    while (c <= MAX_ORDER && this.#list(c).length === 0) c++;
    const head = c > MAX_ORDER ? undefined : this.#list(c).shift();
    if (head === undefined) return -1;
    while (c > order) {
      c--;
      this.#list(c).unshift(head + (1 << c));
    }
    this.pages -= 1 << order;
    return head;
  }

  giveBack(head: number, order: number): void {
    this.#list(order).unshift(head);
    this.pages += 1 << order;
  }

  /**
   * Everything goes back to the pool. @returns the lowest frame of those in the highest pageblock: where a scanner that goes
   * down by pageblocks, and up within them, would find them again; -1 when there was nothing
   */
  release(pool: Pool): number {
    let low = -1;
    this.#heads.forEach((list, order) => {
      for (const head of list) {
        const higher = head >>> PAGEBLOCK_ORDER > low >> PAGEBLOCK_ORDER;
        if (higher || (head >>> PAGEBLOCK_ORDER === low >> PAGEBLOCK_ORDER && head < low)) low = head;
        pool.alloc.freeToArea(head - pool.base, order);
      }
      list.length = 0;
    });
    this.pages = 0;
    return low;
  }

  #list(order: number): number[] {
    return this.#heads[order] as number[]; // orders are 0 to MAX_ORDER
  }
}
