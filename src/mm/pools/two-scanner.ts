// Two scanners: Linux's plain compaction, as the rival that the chunk index is measured against.
//
//   zone start                                                                            zone end
//   │ migrate scanner ──>                                                   <── free scanner │
//   │ takes movable pages of each pageblock                 finds free frames for them       │
//   └──────────────────────────────── meet: finished ────────────────────────────────────────┘
//
//   for each pageblock from the bottom, until a free chunk of the order exists or the two meet
//     skip it      async: its type is not the request's
//     its pages    single frames on the LRU, not pinned: moved to frames of the free scanner
//   for each pageblock from the top, as frames are needed
//     skip it      its type is not Movable or CMA
//
// It knows nothing before it looks: a pageblock with one unmovable page is emptied of all others in vain.
//
// Frame visits, by the rule of evacuate.ts: one for each frame whose entry is read; free blocks and large allocations count
// once and are stepped over, a pageblock that is skipped by its type counts once. Frames that the free scanner reads
// count; those that it keeps are not counted again as targets.
//
// Follows Linux v6.12 mm/compaction.c: compact_zone(), isolate_migratepages(), isolate_freepages(), compact_finished()
// (spec 2.11), modes async and sync. Left out, to come with the whole of compaction: cached positions and skip bits (this
// is a first run), suitability, deferral, capture, contention, proactive runs; allocations of more than one frame stay
// where they are; a round of 32 pages is a pageblock here.

import type { Order } from '#base/units';
import { takeFreeFrames } from '../free-frames.ts';
import { MAX_ORDER, MIGRATE_CMA, MIGRATE_MOVABLE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { HolderSpec } from '../holder.ts';
import type { Machine } from '../machine.ts';
import { CLASS_TRAITS } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { KIND_ABSENT, KIND_HEAD0, KIND_MASK, KIND_NONE, KIND_TAIL, META_PINNED } from '../section.ts';

export type CompactMode =
  /** Movable pageblocks only, for a movable request. */
  | 'async'
  /** Any pageblock. */
  | 'sync';

export type CompactReport = {
  /** A free block of the order exists. */
  readonly success: boolean;
  readonly migrateVisits: number;
  readonly freeVisits: number;
  /** Both. */
  readonly frameVisits: number;
  readonly migratedPages: number;
};

type Scan = {
  readonly m: Machine;
  readonly pool: Pool;
  readonly order: number;
  readonly mode: CompactMode;
  migrateAt: number;
  freeAt: number;
  /** Single frames that the free scanner took; the last one is used first. */
  readonly targets: number[];
  migrateVisits: number;
  freeVisits: number;
  migrated: number;
};

const isMovableType = (type: number): boolean => type === MIGRATE_MOVABLE || type === MIGRATE_CMA;

/**
 * Compacts a pool until it has a free block of 2^order frames, or the scanners meet. Per-CPU lists are drained first.
 * All frames of the pool's hull that are not its own are stepped over. Cost O(frames) at worst; never refuses.
 */
export function compactPool(m: Machine, pool: Pool, order: Order, mode: CompactMode): CompactReport {
  pool.alloc.disable();
  const s: Scan = {
    m,
    pool,
    order,
    mode,
    migrateAt: pool.base,
    freeAt: pool.base + pool.pages,
    targets: [],
    migrateVisits: 0,
    freeVisits: 0,
    migrated: 0,
  };
  while (!isDone(s) && s.migrateAt < s.freeAt) {
    migratePageblock(s, s.migrateAt);
    s.migrateAt += PAGEBLOCK_PAGES;
  }
  release(s);
  pool.alloc.enable();
  return {
    success: isDone(s),
    migrateVisits: s.migrateVisits,
    freeVisits: s.freeVisits,
    frameVisits: s.migrateVisits + s.freeVisits,
    migratedPages: s.migrated,
  };
}

/** compact_finished(): is there a free block of the order, in a list that a movable request may use? */
function isDone(s: Scan): boolean {
  const { area } = s.pool.alloc;
  for (let order = s.order; order <= MAX_ORDER; order++) {
    if (area.first(order, MIGRATE_MOVABLE) >= 0 || area.first(order, MIGRATE_CMA) >= 0) return true;
    if (s.mode === 'sync' && [0, 2].some((mt) => area.first(order, mt) >= 0)) return true;
  }
  return false;
}

const isMine = (s: Scan, pb: number): boolean => s.m.owners.owner[pb >>> PAGEBLOCK_ORDER] === s.pool.id;

/** isolate_migratepages_block() and migrate_pages(). */
function migratePageblock(s: Scan, pb: number): void {
  const { m, pool } = s;
  const { sections, holders } = m;
  s.migrateVisits++; // the pageblock's type and first frame decide whether it is scanned
  if (!isMine(s, pb) || (s.mode === 'async' && !isMovableType(pool.alloc.area.typeOf(pb - pool.base)))) return;
  s.migrateVisits--;
  for (let i = pb; i < pb + PAGEBLOCK_PAGES; ) {
    s.migrateVisits++;
    const meta = sections.metaAt(i);
    const kind = meta & KIND_MASK;
    if (kind === KIND_NONE) {
      const order = pool.alloc.area.orderAt(i - pool.base);
      i += order > 0 ? 1 << order : 1;
      continue;
    }
    if (kind === KIND_ABSENT || kind === KIND_TAIL) {
      i++;
      continue;
    }
    const order = kind - KIND_HEAD0;
    const spec = holders.specs[holders.holderOf(sections.ownerAt(i))] as HolderSpec;
    const { mobility } = CLASS_TRAITS[spec.class];
    const movable = order === 0 && mobility === 'lru' && spec.class !== 'hugetlb' && (meta & META_PINNED) === 0;
    if (movable && !moveOne(s, i)) return;
    i += 1 << order;
  }
}

/** @returns false when there is no free frame left for it */
function moveOne(s: Scan, head: number): boolean {
  const { m, pool } = s;
  if (s.targets.length === 0) isolateFreePages(s);
  const to = s.targets.pop();
  if (to === undefined) return false;
  m.relocate(head, to, 0);
  pool.alloc.freeToArea(head - pool.base, 0);
  m.vmstat.pgmigrate_success++;
  s.migrated++;
  return true;
}

/** isolate_freepages(): the next pageblock from the top that has free frames gives all of them. */
function isolateFreePages(s: Scan): void {
  const { m, pool } = s;
  const { area } = pool.alloc;
  while (s.targets.length === 0 && s.freeAt - PAGEBLOCK_PAGES > s.migrateAt) {
    s.freeAt -= PAGEBLOCK_PAGES;
    const pb = s.freeAt;
    s.freeVisits++;
    if (!isMine(s, pb) || !isMovableType(area.typeOf(pb - pool.base))) continue;
    s.freeVisits--;
    const found: { start: number; pages: number }[] = [];
    for (let i = pb; i < pb + PAGEBLOCK_PAGES; ) {
      s.freeVisits++;
      const kind = m.sections.metaAt(i) & KIND_MASK;
      const order = kind === KIND_NONE ? area.orderAt(i - pool.base) : -1;
      if (order >= 0) {
        if (order >= s.order) break; // large enough already: not to be broken
        const pages = Math.min(1 << order, pb + PAGEBLOCK_PAGES - i);
        found.push({ start: i, pages });
        i += pages;
      } else {
        i += kind >= KIND_HEAD0 && kind < KIND_TAIL ? 1 << (kind - KIND_HEAD0) : 1;
      }
    }
    for (const f of found) {
      takeFreeFrames(pool, f.start, f.start + f.pages);
      for (let k = 0; k < f.pages; k++) s.targets.push(f.start + k);
    }
  }
}

/** Frames that were isolated and not needed go back. */
function release(s: Scan): void {
  for (const i of s.targets) s.pool.alloc.freeToArea(i - s.pool.base, 0);
  s.targets.length = 0;
}
