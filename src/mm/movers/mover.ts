// Mover: how the pages of one class of holder move. migrate.ts drives them; table.ts says which class has which.
//
//   lookup ──> reserve ──> isolate ──> copy ──> switch ──> the old frames are free
//   (driver)   (driver)    mover       └─── mover ───┘     (driver)
//
//   mover         where its entry is           isolate: what keeps it just now         switch: what goes along
//   anonymous     a process's page table       an extra reference; swap reads it        all that the head says
//   file          its index in the mapping     the same; dirty, and nobody but          the old entry is invalid, the index
//                                              storage can take it: written back first  leads to the new frame, dirty or not
//   shmem         its index in the mapping     as anonymous: it is always dirty         as file
//   hugetlb       a process's page table       as anonymous; never split                the pools follow (hugetlb.ts)
//   balloon       its driver's list            a pin: the driver is at it               managed: given back here, taken there
//   movable-ops   its owner's own              a pin: the owner is at it                what the owner knows it by
//
// A page table has no mover: remapping moves it, by the entry of its parent (kremap/, class T).
//
// In the engine every such entry is the holder's slot (holder.ts), so that looking it up, invalid, and adding again are the
// same load and store for all; what differs is what a mover asks and what else it has to keep true. Copy and switch are
// one act (Machine.relocate): nobody can come between.
//
// Follows Linux v6.12 mm/migrate.c: migrate_folio_unmap(), move_to_new_folio(), fallback_migrate_folio(), writeout();
// mm/balloon_compaction.c: balloon_page_migrate(); include/linux/migrate.h: struct movable_operations.

import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';

/**
 * What an attempt to move an allocation came to. All but `moved` and `final` are worth another try.
 *
 *   moved       done
 *   pinned      an extra reference; may go away
 *   writeback   storage reads it just now, or has to before it can move; will be over
 *   no-target   nothing free where it may go; may change
 *   fault       something failed in the middle (Machine.faultAt); the page is as it was
 *   final       it does not move, ever
 */
export type MigrateOutcome = 'moved' | 'pinned' | 'writeback' | 'no-target' | 'fault' | 'final';

/** Why it is still where it was. */
export type Standstill = Exclude<MigrateOutcome, 'moved'>;

/** A move in two steps may find that the page is another's by then: freed, used again, split, or moved by somebody else. */
export type MoveOutcome = MigrateOutcome | 'raced';

/**
 * `async`       compaction's first try: passes by what storage has to do with
 * `sync-light`  waits for locks, never for storage
 * `sync`        has dirty pages written back where they cannot move else; a caller that waits tries again
 */
export type MigrateMode = 'async' | 'sync-light' | 'sync';

/** Steps that can fail in the world, as Machine.faultAt is asked for them. */
export const MIGRATE_FAULT_POINTS = [
  'migrate.reserve',
  'migrate.unmap',
  'migrate.writeout',
  'migrate.copy',
  'migrate.switch',
] as const;
export type FaultPoint = (typeof MIGRATE_FAULT_POINTS)[number];

export type Mover = {
  readonly name: string;
  /** Bits of a head that `isolate` has to look at: a page that has none of them is isolated without being asked. */
  readonly asks: number;
  /** Nowhere to go for the whole: may its single frames go one by one? (Linux: split_folio.) */
  readonly splits: boolean;
  /** Out of its users' hands. @returns what keeps it, if anything does: then it is as it was (or is being written back) */
  isolate(m: Machine, head: number, mode: MigrateMode): Standstill | undefined;
  /** Copy and switch. `to`: 2^order frames that nobody has; the frames at `from` are nobody's afterwards. Cannot fail. */
  transfer(m: Machine, from: number, to: number, order: number, source: Pool): void;
};
