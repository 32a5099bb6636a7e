// Long-term pins: a reference that stays (RDMA, device passthrough, io_uring buffers), so that the page never moves again.
//
//   the page lies in                 contract                         what happens
//   a kernel zone                    any                              pinned where it is
//   ZONE_MOVABLE, a CMA pageblock    removable-strict, removable      moved to an Unmovable pageblock of a kernel zone, then pinned
//                                    none: Linux's rule, the same     it cannot: refused, nothing has changed
//                                    best-effort                      it cannot: pinned where it is, counted
//
// Why it cannot: there is no room in kernel zones (ENOMEM), or something keeps the page just now: another reference, storage,
// its owner (EFAULT: try again later). Pins that are short (Machine.pin) are not asked about: who offlines waits for them.
//
// Follows Linux v6.12 mm/gup.c: check_and_migrate_movable_pages(), migrate_longterm_unpinnable_folios(), and
// folio_is_longterm_pinnable(); GFP_USER, MIGRATE_SYNC. Spec 9.F1.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import type { Pfn } from '#base/units';
import { takeFrames } from './alloc-path.ts';
import { contractAt, contractTable } from './area-contract-state.ts';
import { MIGRATE_CMA, MIGRATE_UNMOVABLE } from './geometry.ts';
import { migrateWithPools } from './hugetlb.ts';
import type { Machine } from './machine.ts';
import { type MigrateOutcome, migrateFaults, moverAt } from './migrate.ts';
import { ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { blockerOf } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { type Refusal, refusal } from './refusal.ts';
import { META_PINNED } from './section.ts';

/** Where it can fail in the world, beside MIGRATE_FAULT_POINTS. */
export const PIN_FAULT_POINTS = ['pin.reserve'] as const;

/** A page that has to be written back before it moves is asked for again. */
const TRIES = 3;

/** Where the page is now: its holder was told. */
export type LongTermPin = { readonly pfn: Pfn; readonly moved: boolean };

/**
 * Pins the allocation that covers `pfn` for long. Undone by Machine.unpin; idempotent.
 *
 * @param pfn  a frame in use; else it is a bug and throws
 * @returns the frame that stands for `pfn` now. Refusals, with the page as evidence: contract, no-memory (ENOMEM): no room
 *   outside; pinned-area (EFAULT): it does not move now. Cost O(frames of the allocation).
 */
export function pinLongTerm(m: Machine, pfn: Pfn): Result<LongTermPin, Refusal> {
  const index = m.sections.indexOf(pfn);
  const a = index < 0 ? undefined : m.sections.allocationAt(index);
  assert(a !== undefined, 'a pin of a frame that is not in use', { pfn });
  if (!mustLeave(m, a.head)) {
    m.pin(pfn);
    return ok({ pfn, moved: false });
  }
  const contract = contractAt(m, pfn);
  const slot = m.sections.ownerAt(a.head);
  let outcome: MigrateOutcome = 'writeback';
  for (let tried = 0; tried < TRIES && outcome === 'writeback'; tried++) outcome = moveOut(m, a.head, a.order);
  const { counts } = contractTable(m);
  if (outcome === 'moved') {
    const head = m.holders.frameAt(slot);
    const now = m.sections.pfnOf(head + index - a.head);
    m.pin(now);
    counts.pinsMoved++;
    return ok({ pfn: now, moved: true });
  }
  if (contract === 'best-effort') {
    m.pin(pfn);
    counts.pinsGranted++;
    return ok({ pfn, moved: false });
  }
  counts.pinsRefused++;
  const where = contract === undefined ? 'ZONE_MOVABLE or a CMA area' : `an area that is ${contract}`;
  if (outcome === 'no-target') {
    const evidence = [blockerOf(m, a.head, 1 << a.order, 'no-target')];
    const message = `frame ${pfn.toString(16)} lies in ${where}, and kernel zones have no ${1 << a.order} frames for it`;
    return err(refusal(contract === undefined ? 'no-memory' : 'contract', message, evidence));
  }
  const cause = outcome === 'final' ? 'kernel-in-movable' : outcome;
  const message = `frame ${pfn.toString(16)} lies in ${where}, and does not move out of it now: ${cause}`;
  return err(refusal('pinned-area', message, [blockerOf(m, a.head, 1 << a.order, cause)]));
}

/** folio_is_longterm_pinnable(), the reverse. */
function mustLeave(m: Machine, head: number): boolean {
  const pool = m.poolAt(head) as Pool; // in use, hence online
  return m.zoneAt(head)?.zone === ZONE_MOVABLE || pool.alloc.area.typeOf(head - pool.base) === MIGRATE_CMA;
}

/** To a kernel zone of its node, then of others. Never to where it would have to leave again. */
function moveOut(m: Machine, head: number, order: number): MigrateOutcome {
  const source = m.poolAt(head) as Pool; // in use, hence online
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  const list = m.zonelist(source.node, ZONE_NORMAL);
  if (m.holders.specs[holder]?.class === 'hugetlb') return migrateWithPools(m, head, list);
  if (source.kind === 'user') return 'final'; // what a pool has stays in it
  const mover = moverAt(m, head);
  if (mover === undefined) return 'final';
  if ((m.sections.metaAt(head) & (mover.asks | META_PINNED)) !== 0) {
    const held = mover.isolate(m, head, 'sync');
    if (held !== undefined) return held;
  }
  if (m.faultAt?.('pin.reserve') === true) return 'no-target';
  const to = takeFrames(m, list, order, MIGRATE_UNMOVABLE, ZONE_NORMAL);
  if (to < 0) return 'no-target';
  if (migrateFaults(m)) {
    const target = m.poolAt(to) as Pool; // a pool hands out only frames it owns
    target.alloc.free(to - target.base, order);
    return 'fault';
  }
  mover.transfer(m, head, to, order, source);
  source.alloc.freeToArea(head - source.base, order);
  m.vmstat.pgmigrate_success += 1 << order;
  return 'moved';
}
