// Migration: an allocation moves to other frames, its holder, index and contents with it.
//
//   lookup ──> reserve ──> isolate ──> copy, switch ──> the source's frames are free (in their isolated pageblock)
//   whose?     target      by class: src/mm/movers/
//
// One attempt has one of the outcomes of movers/mover.ts, raised by real causes and never by dice. Nothing free for the
// whole of a large one: it is split first, unless it is hugetlb's or its owner's.
//
// A move in two steps lets others run in between: beginMove reserves and isolates, finishMove looks again and switches.
//
//   beginMove            others: free, pin, write, alloc, another move ...          finishMove
//   target taken  ────────────────────────────────────────────────────────────>   same holder, index, frame, order?
//   (held by "migration target")                                                   not pinned, not under writeback?
//                                                                     yes: copy, switch    no: target given back
//
// The source stays its holder's until the switch, so that a write in between lands in what is copied. A page that was freed
// and handed out to the same holder at the same index and place meanwhile is that holder's page there: it moves.
//
// Where to (offline): other nodes that have memory, and only if there is none its own; frames of a kernel zone go to
// kernel zones, frames of ZONE_MOVABLE may go to any (Linux asks for a movable zone only if the source lies in one).
//
// Invariants: MV4 after a fault the source is as it was; MV8 a frame is neither lost nor doubled in any interleaving; MV9 a
// target in flight is held, and free again when its move is over otherwise than by `moved`.
//
// Follows Linux v6.12 mm/migrate.c: migrate_pages(), alloc_migration_target(); mm/memory_hotplug.c: do_migrate_range()
// (spec 3.1 step 5). Left out: reclaim to make room, LRU order of the migrated pages.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import type { HolderId } from '#base/units';
import { takeFrames } from './alloc-path.ts';
import { REQUEST_TYPE_MASK } from './holder.ts';
import { countSplit } from './large-page-state.ts';
import type { Machine } from './machine.ts';
import { machineState } from './machine-state.ts';
import type { MigrateMode, MigrateOutcome, MoveOutcome, Mover, Standstill } from './movers/mover.ts';
import { moverOfHolder } from './movers/table.ts';
import { ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import type { Pool } from './pool.ts';
import { KIND_HEAD0, KIND_MASK, KIND_TAIL, META_DISPLACED, META_PINNED } from './section.ts';

export {
  type FaultPoint,
  MIGRATE_FAULT_POINTS,
  type MigrateMode,
  type MigrateOutcome,
  type MoveOutcome,
} from './movers/mover.ts';
export { moverAt } from './movers/table.ts';

/** Pools where an offline of frames of `pool` may put them, in order. */
export function offlineTargets(m: Machine, pool: Pool): Int32Array {
  const top = pool.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL;
  const list = m.zonelist(pool.node, top);
  const elsewhere = list.filter((id) => (m.pools[id] as Pool).node !== pool.node);
  const anyMemory = m.zones.some((p) => p.node !== pool.node && p.managed > 0);
  return anyMemory ? elsewhere : list;
}

/**
 * Moves the allocation whose head is at `head` of the dense index into a pool of `targets`.
 *
 * @returns 'moved'; else the source is as it was, but for two cases: a large page that found no room was split and its parts
 *          moved as far as there was room ('no-target'), and a dirty page was written back ('writeback'). Cost O(its pages).
 */
export function migrateAllocation(
  m: Machine,
  head: number,
  targets: Int32Array,
  mode: MigrateMode = 'sync',
): MigrateOutcome {
  const { holders } = m;
  const holder = holders.holderOf(m.sections.ownerAt(head));
  const request = holders.request[holder] as number;
  const mover = moverOfHolder(holders.classIndex[holder] as number, request);
  return mover === undefined ? 'final' : drive(m, head, mover, request, targets, mode);
}

/**
 * Is the page still where it was? Making room for a target may have moved it, split it or dropped it: Linux takes a page off
 * its LRU before it looks for a target, here it stays in everybody's sight.
 */
const isStill = (m: Machine, head: number, slot: number, order: number): boolean =>
  (m.sections.metaAt(head) & KIND_MASK) === KIND_HEAD0 + order && m.sections.ownerAt(head) === slot;

/** The steps at the top of this file, nobody in between but whoever makes room for the target. */
function drive(
  m: Machine,
  head: number,
  mover: Mover,
  request: number,
  targets: Int32Array,
  mode: MigrateMode,
): MigrateOutcome {
  const meta = m.sections.metaAt(head);
  const order = (meta & KIND_MASK) - KIND_HEAD0;
  if ((meta & mover.asks) !== 0) {
    const held = mover.isolate(m, head, mode);
    if (held !== undefined) return failed(m, order, held, mode);
  }
  const { faultAt } = m;
  if (faultAt !== undefined && faultAt('migrate.reserve')) return failed(m, order, 'no-target', mode);
  const source = m.poolAt(head) as Pool; // an allocation lies in an online pageblock
  const top = source.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL;
  const slot = m.sections.ownerAt(head);
  const to = takeFrames(m, targets, order, request & REQUEST_TYPE_MASK, top);
  if (m.slowPath !== undefined && !isStill(m, head, slot, order)) {
    if (to >= 0) giveBack(m, to, order);
    return failed(m, order, 'no-target', mode);
  }
  if (to < 0) {
    if (order > 0 && mover.splits && (meta & META_DISPLACED) === 0) {
      splitAllocation(m, head);
      countSplit(m, order);
      return migrateParts(m, head, order, targets, mode);
    }
    return failed(m, order, 'no-target', mode);
  }
  if (faultAt !== undefined && migrateFaults(m)) {
    giveBack(m, to, order);
    return failed(m, order, 'fault', mode);
  }
  mover.transfer(m, head, to, order, source);
  source.alloc.freeToArea(head - source.base, order);
  m.vmstat.pgmigrate_success += 1 << order;
  return 'moved';
}

/** What async mode passes by for storage's sake was never tried, and does not count (ISOLATE_ASYNC_MIGRATE). */
function failed(m: Machine, order: number, outcome: Standstill, mode: MigrateMode): Standstill {
  if (mode !== 'async' || outcome !== 'writeback') m.vmstat.pgmigrate_fail += 1 << order;
  return outcome;
}

/** Does one of the steps between the reservation and the end fail? Each is asked, in order, until one does. */
export const migrateFaults = (m: Machine): boolean =>
  m.faultAt?.('migrate.unmap') === true ||
  m.faultAt?.('migrate.copy') === true ||
  m.faultAt?.('migrate.switch') === true;

/** Frames that takeFrames gave and nobody had since. Linux: put_page() of the new folio. */
function giveBack(m: Machine, index: number, order: number): void {
  const pool = m.poolAt(index) as Pool; // a pool hands out only frames it owns
  if (order === 0 && pool.rings?.push(index - pool.base) === true) return;
  pool.alloc.free(index - pool.base, order);
}

function migrateParts(m: Machine, head: number, order: number, targets: Int32Array, mode: MigrateMode): MigrateOutcome {
  const slots = Int32Array.from({ length: 1 << order }, (_, k) => m.sections.ownerAt(head + k));
  let outcome: MigrateOutcome = 'moved';
  for (let i = head; i < head + (1 << order); i++) {
    if (!isStill(m, i, slots[i - head] as number, 0)) continue; // whoever made room for another part took it away
    const part = migrateAllocation(m, i, targets, mode);
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

// ------------------------------------------------------------------------------------------------- in two steps

/** A move in flight. A plain value: it can be finished on a fork of the machine, too. */
export type Move = {
  /** The holder's entry. */
  readonly slot: number;
  readonly from: number;
  readonly to: number;
  readonly order: number;
  readonly mode: MigrateMode;
};

/** Moves in flight, by the entry that is being moved; who has their targets. */
class Moves {
  target: HolderId | -1 = -1;
  readonly inFlight = new Map<number, Move>();

  copy(): Moves {
    const out = new Moves();
    out.target = this.target;
    for (const [slot, move] of this.inFlight) out.inFlight.set(slot, move);
    return out;
  }
}

const moves = machineState(() => new Moves());

/** Moves of this machine that have begun and are not over. */
export const movesInFlight = (m: Machine): readonly Move[] => [...(moves.has(m)?.inFlight.values() ?? [])];

/**
 * Reserves frames for the allocation at `head` and takes it out of its users' hands; whoever begins finishes or aborts.
 *
 * @returns the move; else why not, and nothing has changed: as migrateAllocation (a large page is not split), or 'raced'
 *          when it is being moved already. Cost O(its pages).
 */
export function beginMove(
  m: Machine,
  head: number,
  targets: Int32Array,
  mode: MigrateMode = 'sync',
): Result<Move, Standstill | 'raced'> {
  const slot = m.sections.ownerAt(head);
  const holder = m.holders.holderOf(slot);
  const request = m.holders.request[holder] as number;
  const mover = moverOfHolder(m.holders.classIndex[holder] as number, request);
  if (mover === undefined) return err('final');
  const state = moves.of(m);
  if (state.inFlight.has(slot)) return err('raced');
  const order = (m.sections.metaAt(head) & KIND_MASK) - KIND_HEAD0;
  const no = (why: Standstill): Result<Move, Standstill> => err(failed(m, order, why, mode));
  const held = mover.isolate(m, head, mode);
  if (held !== undefined) return no(held);
  const source = m.poolAt(head) as Pool; // an allocation lies in an online pageblock
  const top = source.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL;
  if (m.faultAt?.('migrate.reserve') === true) return no('no-target');
  const to = takeFrames(m, targets, order, request & REQUEST_TYPE_MASK, top);
  if (!isStill(m, head, slot, order)) {
    if (to >= 0) giveBack(m, to, order);
    return err('raced');
  }
  if (to < 0) return no('no-target');
  if (m.faultAt?.('migrate.unmap') === true) {
    giveBack(m, to, order);
    return no('fault');
  }
  if (state.target < 0) state.target = m.addHolder({ class: 'unknown', name: 'migration target' });
  m.occupy(state.target, to, order);
  const move: Move = Object.freeze({ slot, from: head, to, order, mode });
  state.inFlight.set(slot, move);
  return ok(move);
}

/**
 * Looks again and switches.
 *
 * @returns 'moved'; 'raced' when the page is not what it was, or the move is over or was never this machine's (a restore);
 *          'pinned', 'writeback', 'fault'. Else than by 'moved' the target is free again and the source untouched.
 */
export function finishMove(m: Machine, move: Move): MoveOutcome {
  const mover = land(m, move);
  if (mover === undefined) return 'raced';
  const { from, to, order, mode } = move;
  const held = stillThere(m, move) ? mover.isolate(m, from, mode) : 'raced';
  const faulty = held === undefined && (m.faultAt?.('migrate.copy') === true || m.faultAt?.('migrate.switch') === true);
  if (held !== undefined || faulty) {
    giveBack(m, to, order);
    m.vmstat.pgmigrate_fail += 1 << order;
    return held ?? 'fault';
  }
  const source = m.poolAt(from) as Pool; // an allocation lies in an online pageblock
  mover.transfer(m, from, to, order, source);
  source.alloc.freeToArea(from - source.base, order);
  m.vmstat.pgmigrate_success += 1 << order;
  return 'moved';
}

/** Gives the target back; the source is as it was. Nothing happens when the move is over. */
export function abortMove(m: Machine, move: Move): void {
  if (land(m, move) !== undefined) giveBack(m, move.to, move.order);
}

/** The move is over: its target is in nobody's hands. @returns how the entry's holder moves; undefined: it was over before */
function land(m: Machine, move: Move): Mover | undefined {
  const state = moves.has(m);
  if (state === undefined || state.inFlight.get(move.slot) !== move) return undefined;
  state.inFlight.delete(move.slot);
  m.unhold(move.to, move.order);
  m.sections.vacate(move.to, move.order);
  const holder = m.holders.holderOf(move.slot);
  return moverOfHolder(m.holders.classIndex[holder] as number, m.holders.request[holder] as number);
}

/** Does the holder's entry lead to the same frames as when the move began? */
function stillThere(m: Machine, move: Move): boolean {
  if (m.holders.frameAt(move.slot) !== move.from) return false;
  return (m.sections.metaAt(move.from) & KIND_MASK) === KIND_HEAD0 + move.order;
}
