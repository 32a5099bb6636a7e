// Relinquish: drivers give up the fixed areas of a range, all of them or none.
//
//   begin    phase 1: every area of the range, by id: can it leave, and will its driver?   a no: nothing has happened
//   giveUp   phase 2, one area:
//              IOMMU    find a place, carry, switch the IOVA                  at once; the driver is not asked
//              driver   quiesce until quiet ──> find a place, carry, move     or drop
//              host     the guest frame is backed by other memory             incompatible drivers, and those that said no
//   commit   DMA goes on where areas lie now; what was dropped is RELEASED
//   abort    what was done is undone, the last first: carried back to the same frames if they are free still, else it stays at
//            the place that its rule allowed; dropped areas are reacquired; DMA goes on
//
//   time         begin ─────────── deadlineMs ───────────│
//   an area        quiesce ── at most maxQuiesceMs ──│ paused until commit or abort, at the latest at the deadline
//
// Devices stay paused until the end so that the way back asks nobody to be quiet once more: it cannot hang. An area that an
// IOMMU or a host takes away is never paused. `expire` ends a session whose deadline has passed while others ran.
//
// Who gives frames up is believed once it is quiet, and not before: a driver that refuses, hangs or dies keeps its frames, and
// its device may go on writing to them. Everything else of the session is undone then.
//
// Invariants: E1 frames are free, or another's, only after quiet (or a switch); E2 an abort leaves each driver with as many
// pages as before; E3 areas by id, nobody waits for another, a range is relinquished once at a time (EALREADY), its pageblocks
// are isolated, so that callbacks get no frames of it. Fault points: DRIVER_FAULT_POINTS. Spec 9.E.

import { assert, InvariantError } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import type { Machine } from '../machine.ts';
import { BlockerList, blockerOf } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import type { Extent } from '../pools/dma-extent.ts';
import { type Blocker, type BlockerCause, type ErrnoName, type Refusal, refusal } from '../refusal.ts';
import { META_STATE } from '../section.ts';
import {
  type AreaRow,
  type AreaTable,
  areaOf,
  areasIn,
  areaTableOf,
  type Done,
  type DriverRow,
  noteRefused,
  type Session,
  sessionOver,
} from './area-table.ts';
import type { Dead, DriverNo, RelinquishMode } from './driver.ts';
import {
  carry,
  headPfns,
  hold,
  isPinned,
  letGo,
  piecesOf,
  putFree,
  takeAt,
  takeConfined,
  takePlace,
} from './place-area.ts';

/** Time as drivers have it: logical, an argument. */
export type AreaClock = {
  /** Milliseconds; never goes back while a session is under way. */
  now(m: Machine): number;
  /** Somebody waits: time passes, by `ms` at least, and devices go on. */
  pause(m: Machine, ms: number): void;
};

/** For those that bring no clock: time passes only while somebody waits. */
export const TABLE_CLOCK: AreaClock = {
  now: (m) => areaTableOf(m).now,
  pause: (m, ms) => {
    areaTableOf(m).now += ms;
  },
};

export type RelinquishOptions = {
  /** From begin to the end of phase 2. */
  readonly deadlineMs: number;
  /** Default 'move'. */
  readonly mode?: RelinquishMode;
  readonly clock?: AreaClock;
  /** Between two questions whether it is quiet. Default 1. */
  readonly pollMs?: number;
};

/** Where it can fail in the world (Machine.faultAt), in the order of the protocol. */
export const DRIVER_FAULT_POINTS = [
  'drivers.prepare',
  'drivers.quiesce',
  'drivers.drain',
  'drivers.target',
  'drivers.copy',
  'drivers.switch',
  'drivers.release',
  'drivers.host-remap',
  'drivers.reacquire',
] as const;
export type DriverFaultPoint = (typeof DRIVER_FAULT_POINTS)[number];

const faults = (m: Machine, point: DriverFaultPoint): boolean => m.faultAt?.(point) === true;

export const driverOf = (m: Machine, a: AreaRow): DriverRow => {
  const d = areaTableOf(m).drivers.get(a.driver);
  assert(d !== undefined, 'an area has no driver', { area: a.id, driver: a.driver });
  return d;
};

/** Asks a driver. Whoever throws has died; what is broken in the engine is not the driver's. */
export function ask<T extends string>(d: DriverRow, op: () => T | DriverNo | Dead): T | DriverNo | Dead {
  if (d.dead) return 'dead';
  let said: T | DriverNo | Dead;
  try {
    said = op();
  } catch (e) {
    if (e instanceof InvariantError) throw e;
    said = 'dead';
  }
  if (said === 'dead') d.dead = true;
  return said;
}

/** Could its areas leave at all? */
export function canLeave(d: DriverRow, mode: RelinquishMode): boolean {
  if (d.caps.has('hostRemap')) return true;
  if (d.caps.has('dmaFault') && mode !== 'drop') return true;
  return canRelinquish(d, mode);
}

/** Would it give them up itself? An area that was dropped must be had back if something else fails: that is reacquire. */
function canRelinquish(d: DriverRow, mode: RelinquishMode): boolean {
  if (d.dead || !d.caps.has('relinquish') || !d.caps.has('quiesce')) return false;
  const moves = d.ops.move !== undefined;
  const drops = d.ops.drop !== undefined && d.caps.has('reacquire');
  return mode === 'move' ? moves : mode === 'drop' ? drops : moves || drops;
}

/** Evidence: the frames of an area. */
export function blockersOf(m: Machine, a: AreaRow, cause: BlockerCause = 'relinquish'): readonly Blocker[] {
  const list = new BlockerList();
  for (const p of piecesOf(m, a.segments)) list.add(blockerOf(m, p.head, 1 << p.order, cause));
  return list.items;
}

const isNo = (said: unknown): said is DriverNo => typeof said === 'object';

// ------------------------------------------------------------------------------------------------------ phase 1

/**
 * Phase 1. [start, end) are frame numbers; its pageblocks are isolated.
 *
 * @returns the session, which is to be committed or aborted; nested (EALREADY); no-relinquish (EOPNOTSUPP) for a driver that
 *   cannot, relinquish (its errno) for one that will not, with its frames; fault. Then nothing has changed. Cost O(areas)
 */
export function beginSession(m: Machine, range: Extent, options: RelinquishOptions): Result<Session, Refusal> {
  const t = areaTableOf(m);
  const { deadlineMs, mode = 'move', clock = TABLE_CLOCK } = options;
  assert(deadlineMs >= 0, 'a deadline is a time from now', { deadlineMs });
  const other = sessionOver(t, range.start, range.end);
  if (other !== undefined) {
    return err(
      refusal('nested', `frames of [${other.start.toString(16)}, ${other.end.toString(16)}) are being relinquished`),
    );
  }
  // An area that another session has moved here, and may take back, is that session's until it ends.
  const taken = areasIn(t, range.start, range.end).find((a) => inDoubt(t, a.id));
  if (taken !== undefined) {
    return err(
      refusal('nested', `an area of ${driverOf(m, taken).name} lies there only until another relinquish ends`),
    );
  }
  const session: Session = {
    id: t.nextSession++,
    start: range.start,
    end: range.end,
    mode,
    deadlineMs,
    deadlineAt: clock.now(m) + deadlineMs,
    how: new Map(),
    done: [],
    failed: new Map(),
    late: false,
  };
  // From here on, so that a callback that asks for the same is told so.
  t.sessions.set(session.id, session);
  for (const a of areasIn(t, range.start, range.end)) {
    const refused = prepare(m, session, a, clock);
    stillOurs(m, session);
    if (refused === undefined) continue;
    t.sessions.delete(session.id);
    return err(refused);
  }
  return ok(session);
}

/** Has a session that is not over given the area up or moved it? */
const inDoubt = (t: AreaTable, id: number): boolean =>
  [...t.sessions.values()].some((s) => s.done.some((d) => d.id === id));

function prepare(m: Machine, s: Session, a: AreaRow, clock: AreaClock): Refusal | undefined {
  const d = driverOf(m, a);
  if (a.workedAround) return undefined;
  if (!canLeave(d, s.mode)) {
    const why = d.dead ? 'has died' : `cannot ${s.mode === 'drop' ? 'drop and reacquire' : 'relinquish'} areas`;
    note(m, a, 'REFUSED', 'EOPNOTSUPP', why, clock);
    return refusal(
      'no-relinquish',
      `${d.name} ${why}: ${d.name} holds ${a.pages} pages (${a.reason})`,
      blockersOf(m, a),
    );
  }
  if (faults(m, 'drivers.prepare')) return refusal('fault', `${d.name} was not reached`, blockersOf(m, a, 'fault'));
  if (byIommu(d, s.mode) || !canRelinquish(d, s.mode)) return undefined; // nobody has to be asked
  const said = d.ops.prepare === undefined ? 'yes' : ask(d, () => d.ops.prepare?.(m, areaOf(a), s.mode) ?? 'yes');
  if (said === 'yes' || said === 'move' || said === 'drop') {
    const wanted = s.mode !== 'ask' ? s.mode : said !== 'yes' ? said : d.ops.move === undefined ? 'drop' : 'move';
    s.how.set(a.id, wanted === 'drop' && !canRelinquish(d, 'drop') ? 'move' : wanted);
    return undefined;
  }
  if (d.caps.has('hostRemap')) return undefined; // its host does it
  const no: DriverNo = said === 'dead' ? { errno: 'EBUSY', why: 'died when it was asked' } : said;
  note(m, a, 'REFUSED', no.errno, no.why, clock);
  const message = `${d.name} does not give up ${a.pages} pages (${a.reason}): ${no.why}`;
  return { ...refusal('relinquish', message, blockersOf(m, a)), errno: no.errno };
}

const byIommu = (d: DriverRow, mode: RelinquishMode): boolean => d.caps.has('dmaFault') && mode !== 'drop';

function note(
  m: Machine,
  a: AreaRow,
  outcome: 'REFUSED' | 'TIMEOUT',
  errno: ErrnoName,
  why: string,
  clock: AreaClock,
): void {
  const t = areaTableOf(m);
  a.outcome = outcome === 'TIMEOUT' ? { kind: outcome } : { kind: outcome, errno };
  t.counts[outcome === 'TIMEOUT' ? 'timeouts' : 'refused']++;
  noteRefused(m, { at: clock.now(m), driver: a.driver, area: a.id, outcome, errno, why });
}

// ------------------------------------------------------------------------------------------------------ phase 2

export type GiveUpOptions = {
  readonly clock: AreaClock;
  readonly pollMs: number;
  /** The caller needs the frames now (an offline). Else an area is only made quiet; dropQuiet drops all of them at the end. */
  readonly atOnce: boolean;
};

/**
 * Phase 2 for one area: afterwards none of its frames is in the way.
 *
 * @returns 'done'; 'pinned', 'no-target' and 'fault' may be tried again, and nothing has changed; 'relinquish': the driver
 *   refused, died or was too late, and will not be asked again in this session
 */
export function giveUp(m: Machine, s: Session, a: AreaRow, o: GiveUpOptions): 'done' | BlockerCause {
  const d = driverOf(m, a);
  if (a.workedAround) return 'done';
  const failed = s.failed.get(a.id);
  if (failed !== undefined) return failed;
  if (s.late || o.clock.now(m) > s.deadlineAt) {
    note(m, a, 'TIMEOUT', 'ETIMEDOUT', `its turn came after the deadline of ${s.deadlineMs} ms`, o.clock);
    return otherwise(m, s, a, d);
  }
  if (byIommu(d, s.mode)) return isPinned(m, a.segments) ? 'pinned' : switchOver(m, s, a, d);
  const how = s.how.get(a.id);
  if (how === undefined || d.dead) return otherwise(m, s, a, d);
  if (isPinned(m, a.segments)) return 'pinned';
  const outcome = quiet(m, s, a, d, o) ?? (how === 'move' ? move(m, s, a, d, o) : drop(m, s, a, d, o));
  stillOurs(m, s);
  return outcome;
}

/** A driver that was asked may do much, but not take the machine back to an earlier state: rows and sessions would be others. */
const stillOurs = (m: Machine, s: Session): void =>
  assert(areaTableOf(m).sessions.get(s.id) === s, 'a driver rolled the machine back while it was asked', {
    session: s.id,
  });

/** The host does it, if it can; else the session has failed. */
function otherwise(m: Machine, s: Session, a: AreaRow, d: DriverRow): 'done' | BlockerCause {
  if (d.caps.has('hostRemap')) return hostRemap(m, s, a, d);
  s.failed.set(a.id, 'relinquish');
  return 'relinquish';
}

/** A driver said no in the middle, or said nothing any more: its device goes on where it was. */
function refused(
  m: Machine,
  s: Session,
  a: AreaRow,
  d: DriverRow,
  said: DriverNo | Dead,
  o: GiveUpOptions,
): 'done' | BlockerCause {
  const no: DriverNo = isNo(said) ? said : { errno: 'EBUSY', why: 'died while it was to give the area up' };
  resume(m, a, d);
  note(m, a, 'REFUSED', no.errno, no.why, o.clock);
  return otherwise(m, s, a, d);
}

function resume(m: Machine, a: AreaRow, d: DriverRow): void {
  a.state = 'HELD';
  a.quiescingSince = -1;
  const { resume: go } = d.ops;
  if (go !== undefined) ask(d, () => go(m, areaOf(a)));
}

/** HELD -> QUIESCING. @returns undefined when it is quiet */
function quiet(m: Machine, s: Session, a: AreaRow, d: DriverRow, o: GiveUpOptions): 'done' | BlockerCause | undefined {
  if (faults(m, 'drivers.quiesce')) return 'fault';
  const { quiesce } = d.ops;
  assert(quiesce !== undefined, 'a driver that was registered with quiesce has the op', { driver: d.name });
  a.state = 'QUIESCING';
  a.quiescingSince = o.clock.now(m);
  const limit = Math.min(a.quiescingSince + d.maxQuiesceMs, s.deadlineAt);
  for (;;) {
    // Bounded: time goes on with each pause.
    const now = o.clock.now(m);
    const said = ask(d, () => quiesce(m, areaOf(a), now));
    if (said === 'quiet' && !s.late) return undefined;
    if (said !== 'busy' && said !== 'quiet') return refused(m, s, a, d, said, o);
    if (faults(m, 'drivers.drain')) {
      resume(m, a, d);
      return 'fault';
    }
    if (now >= limit || s.late) {
      const why = `busy for ${now - a.quiescingSince} ms`;
      resume(m, a, d);
      note(m, a, 'TIMEOUT', 'ETIMEDOUT', why, o.clock);
      return otherwise(m, s, a, d);
    }
    o.clock.pause(m, Math.max(1, Math.min(o.pollMs, limit - now)));
    assert(o.clock.now(m) > now, 'a clock stands still', { now });
  }
}

/** The driver is quiet: contents first, then the driver, then the frames are free. */
function move(m: Machine, s: Session, a: AreaRow, d: DriverRow, o: GiveUpOptions): 'done' | BlockerCause {
  const { move: go } = d.ops;
  assert(go !== undefined, 'a driver that moves areas has the op', { driver: d.name });
  const from = a.segments;
  const to = placeFor(m, a, d);
  if (to === undefined || faults(m, 'drivers.copy')) {
    if (to !== undefined) putFree(m, to);
    resume(m, a, d);
    return to === undefined ? 'no-target' : 'fault';
  }
  carryArea(m, a, to);
  const missed = faults(m, 'drivers.switch');
  const said = missed ? undefined : ask(d, () => go(m, areaOf(a, from), areaOf(a, to, a.generation + 1)));
  if (said !== 'done') {
    carryArea(m, a, from);
    putFree(m, to);
    if (said !== undefined) return refused(m, s, a, d, said, o);
    resume(m, a, d);
    return 'fault';
  }
  s.done.push(doneOf(a, 'moved', from));
  a.generation++;
  putFree(m, from);
  return 'done';
}

/** Undefined: no room, or the fault point says so. */
function placeFor(m: Machine, a: AreaRow, d: DriverRow): Extent[] | undefined {
  if (faults(m, 'drivers.target')) return undefined;
  return a.confined
    ? takeConfined(m, d.holder, a.again, a.pages, areaTableOf(m).nonRemovable)
    : takePlace(m, d.holder, a.again, a.pages);
}

/** Its allocations, contents and rows go to frames that nobody has; those that it leaves are nobody's. */
function carryArea(m: Machine, a: AreaRow, to: readonly Extent[]): void {
  unindexArea(m, a);
  carry(m, a.segments, to);
  a.segments = to;
  indexArea(m, a);
}

const doneOf = (a: AreaRow, how: Done['how'], from: readonly Extent[]): Done => ({
  id: a.id,
  how,
  from,
  generation: a.generation,
});

function drop(m: Machine, s: Session, a: AreaRow, d: DriverRow, o: GiveUpOptions): 'done' | BlockerCause {
  if (!o.atOnce) {
    s.done.push(doneOf(a, 'quiet', a.segments));
    return 'done';
  }
  if (faults(m, 'drivers.release')) {
    resume(m, a, d);
    return 'fault';
  }
  const from = a.segments;
  const said = dropNow(m, a, d);
  if (said !== 'done') return refused(m, s, a, d, said, o);
  s.done.push(doneOf(a, 'dropped', from));
  return 'done';
}

function dropNow(m: Machine, a: AreaRow, d: DriverRow): 'done' | DriverNo | Dead {
  const { drop: go } = d.ops;
  assert(go !== undefined, 'a driver that drops areas has the op', { driver: d.name });
  const said = ask(d, () => go(m, areaOf(a)));
  if (said !== 'done') return said;
  unindexArea(m, a);
  letGo(m, a.segments);
  a.segments = [];
  a.state = 'RELEASED';
  a.quiescingSince = -1;
  return 'done';
}

/** The IOMMU: for the device nothing happens; the same DMA address leads to other frames. */
function switchOver(m: Machine, s: Session, a: AreaRow, d: DriverRow): 'done' | BlockerCause {
  const from = a.segments;
  const to = placeFor(m, a, d);
  if (to === undefined) return 'no-target';
  if (faults(m, 'drivers.copy') || faults(m, 'drivers.switch')) {
    putFree(m, to);
    return 'fault';
  }
  switchTo(m, a, d, to);
  putFree(m, from);
  s.done.push(doneOf(a, 'switched', from));
  return 'done';
}

function switchTo(m: Machine, a: AreaRow, d: DriverRow, to: readonly Extent[]): void {
  const { switchIova } = d.ops;
  assert(switchIova !== undefined, 'a driver behind an IOMMU has the op', { driver: d.name });
  const before = areaOf(a);
  carryArea(m, a, to);
  switchIova(m, before, areaOf(a));
}

/** The guest frame stays the driver's and is backed by other memory: what was behind it may leave. */
function hostRemap(m: Machine, s: Session, a: AreaRow, d: DriverRow): 'done' | BlockerCause {
  if (faults(m, 'drivers.host-remap')) return 'fault';
  if (d.hostHolder === -1) {
    d.hostHolder = m.addHolder({ class: 'unplugged', name: `${d.name} (backed by the host)` });
  }
  s.done.push(doneOf(a, 'host', a.segments));
  for (const p of piecesOf(m, a.segments)) {
    rehold(m, p.head, p.order, d.hostHolder);
    (m.poolAt(p.head) as Pool).managed -= 1 << p.order; // an offline begins with a block that is online
  }
  a.workedAround = true;
  areaTableOf(m).counts.workedAround++;
  return 'done';
}

/** Another holder has the allocation, in place, with what is said of it. */
function rehold(m: Machine, head: number, order: number, holder: DriverRow['holder']): void {
  const state = m.sections.metaAt(head) & META_STATE;
  m.unhold(head, order);
  m.occupy(holder, head, order);
  if (state !== 0) m.sections.setMeta(head, m.sections.metaAt(head) | state);
}

/** The host gives the guest frames their own memory again; they are online. */
export function hostHome(m: Machine, a: AreaRow): void {
  const d = driverOf(m, a);
  for (const p of piecesOf(m, a.segments)) {
    rehold(m, p.head, p.order, d.holder);
    (m.poolAt(p.head) as Pool).managed += 1 << p.order; // the caller has seen that they are online
  }
  a.workedAround = false;
  areaTableOf(m).counts.workedAround--;
}

/**
 * The end of phase 2 where nobody needs frames at once: areas that are quiet are dropped, in the order in which they became so.
 * Until here contents could be kept. @returns the area that was not dropped, and why; undefined: all were
 */
export function dropQuiet(m: Machine, s: Session, o: GiveUpOptions): { a: AreaRow; cause: BlockerCause } | undefined {
  for (const [k, x] of s.done.entries()) {
    if (x.how !== 'quiet') continue;
    const a = areaTableOf(m).areas.get(x.id) as AreaRow; // areas under way are not released
    const d = driverOf(m, a);
    const said = faults(m, 'drivers.release') ? undefined : dropNow(m, a, d);
    if (said === 'done') {
      s.done[k] = { ...x, how: 'dropped' };
      continue;
    }
    s.done.splice(k, 1);
    if (said === undefined) {
      resume(m, a, d);
      return { a, cause: 'fault' };
    }
    const cause = refused(m, s, a, d, said, o);
    return cause === 'done' ? dropQuiet(m, s, o) : { a, cause };
  }
  return undefined;
}

// --------------------------------------------------------------------------------------------------------- the end

/** Final: DMA goes on. Nothing can fail here: a driver that dies now keeps what it has, at its new place. */
export function commitSession(m: Machine, s: Session): void {
  const t = areaTableOf(m);
  for (const x of s.done) {
    const a = t.areas.get(x.id) as AreaRow; // areas under way are not released
    const d = driverOf(m, a);
    if (x.how === 'moved' || x.how === 'switched') {
      a.outcome = { kind: 'MOVED' };
      t.counts[x.how]++;
    } else if (x.how === 'dropped') {
      a.outcome = { kind: 'RELEASED' };
      t.counts.released++;
    }
    if (x.how === 'moved') resume(m, a, d);
  }
  t.sessions.delete(s.id);
}

/** Undo, the last first. Nothing can fail here: see the top for what cannot be had back as it was. */
export function abortSession(m: Machine, s: Session): void {
  putBack(m, s);
  areaTableOf(m).sessions.delete(s.id);
}

function putBack(m: Machine, s: Session): void {
  for (let x = s.done.pop(); x !== undefined; x = s.done.pop()) {
    const a = areaTableOf(m).areas.get(x.id) as AreaRow; // areas under way are not released
    const d = driverOf(m, a);
    switch (x.how) {
      case 'moved':
        moveBack(m, a, d, x);
        break;
      case 'switched':
        if (!isPinned(m, a.segments) && takeAt(m, x.from)) {
          const left = a.segments;
          switchTo(m, a, d, x.from);
          putFree(m, left);
        }
        break;
      case 'dropped':
        reacquireInto(m, a, d, x.from, x.generation);
        break;
      case 'quiet':
        resume(m, a, d);
        break;
      case 'host':
        hostHome(m, a);
        break;
    }
  }
}

/** To where it was, if that is free still and the driver goes along; it is quiet. */
function moveBack(m: Machine, a: AreaRow, d: DriverRow, x: Done): void {
  const { move: go } = d.ops;
  const here = a.segments;
  if (go !== undefined && !d.dead && !isPinned(m, here) && takeAt(m, x.from)) {
    carryArea(m, a, x.from);
    const said = ask(d, () => go(m, areaOf(a, here), areaOf(a, x.from, x.generation)));
    if (said === 'done') {
      putFree(m, here);
      a.generation = x.generation;
    } else {
      carryArea(m, a, here); // the device is programmed for where it is
      putFree(m, x.from);
    }
  }
  resume(m, a, d);
}

/**
 * A RELEASED area is had again: at `at` if it is free, else by its rule.
 * @returns 'done'; 'no-target': no room; or what the driver said
 */
export function reacquireInto(
  m: Machine,
  a: AreaRow,
  d: DriverRow,
  at: readonly Extent[] | undefined,
  generation: number,
): 'done' | 'no-target' | DriverNo | Dead {
  const { reacquire } = d.ops;
  if (reacquire === undefined) return { errno: 'EOPNOTSUPP', why: 'cannot reacquire areas' };
  if (d.dead) return 'dead';
  const same = at !== undefined && takeAt(m, at);
  const place = same ? at : placeFor(m, a, d);
  if (place === undefined) return 'no-target';
  hold(m, d.holder, place);
  a.segments = place;
  const next = same ? generation : a.generation + 1;
  const said = ask(d, () => reacquire(m, areaOf(a, place, next)));
  if (said !== 'done') {
    letGo(m, place);
    a.segments = [];
    return said;
  }
  a.generation = next;
  indexArea(m, a);
  resume(m, a, d);
  return 'done';
}

/** Ends sessions whose deadline has passed: all is put back, and DMA goes on. @returns how many */
export function expireSessions(m: Machine, now: number): number {
  let n = 0;
  for (const s of areaTableOf(m).sessions.values()) {
    if (s.late || now <= s.deadlineAt) continue;
    s.late = true;
    putBack(m, s);
    n++;
  }
  return n;
}

// ------------------------------------------------------------------------------------------------------ bookkeeping

export function indexArea(m: Machine, a: AreaRow): void {
  const { at } = areaTableOf(m);
  for (const pfn of headPfns(m, a.segments)) at.set(pfn, a.id);
}

export function unindexArea(m: Machine, a: AreaRow): void {
  const { at } = areaTableOf(m);
  for (const pfn of headPfns(m, a.segments)) at.delete(pfn);
}
