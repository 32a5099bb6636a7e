// Reclaim: clean page cache that nobody has mapped is dropped, the oldest first, so that a request finds free frames.
//
//   holders of class file that say mapped: false, in the order they were made      ──hand──>
//   their pages, by index: the order they were read in, as far as the engine knows
//
//   plain    32 pages (SWAP_CLUSTER_MAX), wherever they lie
//   lumpy    for orders above 3: the oldest page, and all others that can be dropped in the aligned piece of 2^order frames
//            around it: what Linux did before there was compaction (2.6.23 to 3.4), and what spec 8.2 H6 compares with
//
//   stays    dirty, under writeback, pinned, unevictable, or not in a pool that the request may use
//
// The engine keeps no LRU lists and sees no accesses: a second chance, active pages, swap and the shrinking of slab are left
// out. Whoever knows his pages' ages frees them himself.
//
// Follows Linux v6.12 mm/vmscan.c: try_to_free_pages(), fs/drop_caches.c; lumpy: v2.6.34 mm/vmscan.c: isolate_lru_pages().

import type { SlowRequest } from './alloc-path.ts';
import { hasRoomToCompact } from './compaction/suitability.ts';
import type { HolderSpec } from './holder.ts';
import type { Machine } from './machine.ts';
import { machineState } from './machine-state.ts';
import type { Pool } from './pool.ts';
import {
  KIND_HEAD0,
  KIND_MASK,
  KIND_TAIL,
  META_DIRTY,
  META_PINNED,
  META_UNEVICTABLE,
  META_WRITEBACK,
} from './section.ts';

/** SWAP_CLUSTER_MAX */
export const RECLAIM_CLUSTER = 32;
/** Above this order lumpy reclaim looks around. */
const COSTLY_ORDER = 3;
const STAYS = META_PINNED | META_DIRTY | META_WRITEBACK | META_UNEVICTABLE;

/** Where the last reclaim stopped: the holder whose pages are the oldest. */
class Hand {
  holder = 0;

  copy(): Hand {
    const out = new Hand();
    out.holder = this.holder;
    return out;
  }
}

const hands = machineState(() => new Hand());

export type ReclaimOptions = {
  /** See above. Default 'plain'. */
  readonly shape?: 'plain' | 'lumpy';
  /** Pages that one call wants. Default 32. */
  readonly pages?: number;
};

const isCache = (spec: HolderSpec): boolean => spec.class === 'file' && spec.mapped === false;

/** May the allocation at `head` be dropped? @returns its frames; 0 = no */
function droppable(m: Machine, head: number): number {
  const meta = m.sections.metaAt(head);
  const kind = meta & KIND_MASK;
  if (kind < KIND_HEAD0 || kind >= KIND_TAIL || (meta & STAYS) !== 0) return 0;
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  return isCache(m.holders.specs[holder] as HolderSpec) ? 2 ** (kind - KIND_HEAD0) : 0;
}

/**
 * Drops page cache for a request, from the pools that it may use.
 *
 * @returns pages dropped: 0 when there are none to be had. Cost O(pages of the holders that were looked at), at most all
 */
export function reclaimPages(m: Machine, request: SlowRequest, options: ReclaimOptions = {}): number {
  const { list, order } = request;
  const want = options.pages ?? RECLAIM_CLUSTER;
  const around = options.shape === 'lumpy' && order > COSTLY_ORDER ? 2 ** order : 1;
  const hand = hands.of(m);
  let dropped = 0;
  const drop = (head: number): void => {
    const pages = droppable(m, head);
    if (pages === 0) return;
    const pool = m.poolAt(head);
    if (pool === undefined || !list.includes(pool.id)) return;
    m.free(m.sections.pfnOf(head));
    dropped += pages;
  };
  for (let k = 0; k < m.holders.length && dropped < want; k++) {
    const h = hand.holder % m.holders.length;
    for (const head of isCache(m.holders.specs[h] as HolderSpec) ? membersOf(m, h) : []) {
      if (dropped >= want) break;
      if (droppable(m, head) === 0) continue; // dropped with a neighbour meanwhile, or it stays
      const first = head - (head % around);
      if (around === 1) drop(head);
      else for (let i = first; i < first + around; i++) drop(i);
    }
    if (dropped < want) hand.holder = (h + 1) % m.holders.length;
  }
  // A piece can only come to be in the area (__alloc_pages_direct_reclaim() drains, too).
  if (order > 0 && dropped > 0) for (const id of list) (m.pools[id] as Pool).alloc.drain();
  m.vmstat.pgsteal_direct += dropped;
  return dropped;
}

/**
 * Direct reclaim of a request, for CompactionOptions.reclaim: 32 pages; for orders above 3 so many that compaction has room
 * (should_continue_reclaim()). Lumpy reclaim makes the page itself: a piece is enough.
 */
export const directReclaim =
  (shape: 'plain' | 'lumpy' = 'plain') =>
  (m: Machine, request: SlowRequest): number => {
    let dropped = reclaimPages(m, request, { shape });
    if (shape === 'lumpy' || request.order <= COSTLY_ORDER) return dropped;
    const hasRoom = (id: number): boolean => hasRoomToCompact(m.pools[id] as Pool, request.order, request.topZone);
    // Each round drops something, or ends it.
    for (let more = dropped; more > 0 && !request.list.some(hasRoom); dropped += more) {
      more = reclaimPages(m, request, { shape });
    }
    return dropped;
  };

/** Pages of clean and dirty cache that nobody has mapped: zone_reclaimable_pages(), of all zones. Cost O(holders). */
export function reclaimablePages(m: Machine): number {
  let pages = 0;
  for (let h = 0; h < m.holders.length; h++) {
    if (isCache(m.holders.specs[h] as HolderSpec)) pages += m.holders.pages[h] as number;
  }
  return pages;
}

/** Heads of a holder's pages, by index; a copy, so that they may be freed meanwhile. */
function membersOf(m: Machine, h: number): number[] {
  const heads: number[] = [];
  if (m.holders.members[h] !== 0) m.holders.forEachMember(h, (head) => heads.push(head));
  return heads;
}

/** /proc/sys/vm/drop_caches, 1: all clean page cache that nobody has mapped. @returns pages. Cost O(pages of such files). */
export function dropPageCache(m: Machine): number {
  let dropped = 0;
  for (let h = 0; h < m.holders.length; h++) {
    if (!isCache(m.holders.specs[h] as HolderSpec)) continue;
    for (const head of membersOf(m, h)) {
      const pages = m.poolAt(head) === undefined ? 0 : droppable(m, head);
      if (pages === 0) continue;
      m.free(m.sections.pfnOf(head));
      dropped += pages;
    }
  }
  m.vmstat.drop_pagecache++;
  return dropped;
}
