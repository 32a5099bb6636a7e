// Migration: an allocation moves to other frames, its holder, index and contents with it.
//
//   take target frames ──> copy ──> the holder's entry switches ──> source frames are freed (into their isolated block)
//
// One attempt has one of these outcomes, raised by real causes and never by dice:
//   moved       done
//   pinned      an extra reference; may go away: retry
//   writeback   storage reads it just now; will be over: retry
//   no-target   nothing free where it may go; may change: retry. A huge page is split first, unless it is hugetlb's
//   final       its class does not move, ever
//
// Where to (offline): other nodes that have memory, and only if there is none its own; frames of a kernel zone go to
// kernel zones, frames of ZONE_MOVABLE may go to any (Linux asks for a movable zone only if the source lies in one).
//
// Follows Linux v6.12 mm/migrate.c: migrate_pages(), alloc_migration_target(); mm/memory_hotplug.c: do_migrate_range()
// (spec 3.1 step 5). Left out: reclaim to make room, writeback, LRU order of the migrated pages.

import { assert } from '#base/assert';
import { takeFrames } from './alloc-path.ts';
import type { HolderSpec } from './holder.ts';
import type { Machine } from './machine.ts';
import { CLASS_TRAITS, ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import type { Pool } from './pool.ts';
import { KIND_HEAD0, KIND_MASK, KIND_TAIL, META_PINNED, META_WRITEBACK } from './section.ts';

export type MigrateOutcome = 'moved' | 'pinned' | 'writeback' | 'no-target' | 'final';

/** Pools where an offline of frames of `pool` may put them, in order. */
export function offlineTargets(m: Machine, pool: Pool): Int32Array {
  const top = pool.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL;
  const list = m.zonelist(pool.node, top);
  const elsewhere = list.filter((id) => (m.pools[id] as Pool).node !== pool.node);
  const anyMemory = m.zones.some((p) => p.node !== pool.node && p.managed > 0);
  return anyMemory ? elsewhere : list;
}

/** Moves the allocation whose head is at `head` of the dense index into a pool of `targets`. Cost O(pages of it). */
export function migrateAllocation(m: Machine, head: number, targets: Int32Array): MigrateOutcome {
  const meta = m.sections.metaAt(head);
  const order = (meta & KIND_MASK) - KIND_HEAD0;
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  const cls = (m.holders.specs[holder] as HolderSpec).class;
  const traits = CLASS_TRAITS[cls];
  if (traits.mobility !== 'lru' && traits.mobility !== 'driver') return 'final';
  if ((meta & META_PINNED) !== 0) {
    m.vmstat.pgmigrate_fail += 1 << order;
    return 'pinned';
  }
  if ((meta & META_WRITEBACK) !== 0) {
    m.vmstat.pgmigrate_fail += 1 << order;
    return 'writeback';
  }
  const source = m.poolAt(head) as Pool; // an allocation lies in an online pageblock
  const top = source.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL;
  const to = takeFrames(m, targets, order, traits.migratetype, top);
  if (to < 0) {
    if (order > 0 && cls !== 'hugetlb') {
      splitAllocation(m, head);
      return migrateParts(m, head, order, targets);
    }
    m.vmstat.pgmigrate_fail += 1 << order;
    return 'no-target';
  }
  m.relocate(head, to, order);
  if (!traits.managed) {
    // Linux: balloon_page_migrate() takes the new page out of managed and gives the old one back.
    source.managed += 1 << order;
    (m.poolAt(to) as Pool).managed -= 1 << order; // a pool hands out only frames it owns
  }
  source.alloc.freeToArea(head - source.base, order);
  m.vmstat.pgmigrate_success += 1 << order;
  return 'moved';
}

function migrateParts(m: Machine, head: number, order: number, targets: Int32Array): MigrateOutcome {
  let outcome: MigrateOutcome = 'moved';
  for (let i = head; i < head + (1 << order); i++) {
    const part = migrateAllocation(m, i, targets);
    if (part !== 'moved') outcome = part;
  }
  return outcome;
}

/**
 * A large allocation becomes single frames of the same holder, in place, contents and all (Linux: split_folio).
 *
 * The parts get indexes of their own. A pinned allocation cannot be split (Linux: EAGAIN): to ask for it is a bug.
 * Cost O(pages of it).
 */
export function splitAllocation(m: Machine, head: number): void {
  const meta = m.sections.metaAt(head);
  const order = (meta & KIND_MASK) - KIND_HEAD0;
  assert(order >= 0 && order < KIND_TAIL - KIND_HEAD0, 'split of a frame that is no head', { head });
  assert((meta & META_PINNED) === 0, 'split of a pinned allocation', { head });
  if (order > 0) m.divide(head, order);
}
