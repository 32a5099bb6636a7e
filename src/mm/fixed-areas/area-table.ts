// The area table: what one machine knows about its drivers, their fixed areas, and who is being asked to give some up.
//
//   drivers    name      ──> caps, ops, maxQuiesceMs, holder of its frames, dead?
//   areas      id        ──> driver, rules, segments, state, generation, last outcome
//   at         head pfn  ──> area id                       (each allocation that an area consists of)
//   sessions   id        ──> range, deadline, what has been done so far, who said no
//   nonRemovable           frames for drivers that give nothing up
//
//   state       HELD ──> QUIESCING ──> HELD, at another address  (MOVED)
//                            │    └──> RELEASED ──reacquire──> HELD
//                            └──────> HELD, where it was         (REFUSED, TIMEOUT)
//
// The words in brackets are outcomes: an area keeps its last one. The table is machine state: forks have their own, and it
// is rolled back with its machine. What drivers refused is not: it was said, and stays said (as event numbers stay spent).
//
// Invariants: checkFixedAreas (check-fixed-areas.ts). Spec 9.E.

import type { HolderId, Pfn } from '#base/units';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import type { Extent } from '../pools/dma-extent.ts';
import type { DmaForm } from '../pools/dma-rule.ts';
import type { BlockerCause, ErrnoName } from '../refusal.ts';
import type { AreaHandle, DriverCap, DriverOps, FixedArea } from './driver.ts';

export type AreaState = 'HELD' | 'QUIESCING' | 'RELEASED';

export type AreaOutcome =
  | { readonly kind: 'MOVED' }
  | { readonly kind: 'RELEASED' }
  | { readonly kind: 'REFUSED'; readonly errno: ErrnoName }
  | { readonly kind: 'TIMEOUT' };

export type DriverRow = {
  readonly name: string;
  readonly caps: ReadonlySet<DriverCap>;
  readonly maxQuiesceMs: number;
  readonly ops: DriverOps;
  readonly holder: HolderId;
  /** Of its frames whose backing the host has changed; -1 until there are some. */
  hostHolder: HolderId | -1;
  dead: boolean;
};

export type AreaRow = {
  readonly id: number;
  generation: number;
  readonly driver: string;
  /** What the frames keep now, and what others would have to. */
  readonly form: DmaForm;
  readonly again: DmaForm;
  readonly pages: number;
  readonly reason: string;
  /** It was given out of a non-removable area, and has to stay in one. */
  readonly confined: boolean;
  state: AreaState;
  /** Ascending; none while it is RELEASED. */
  segments: readonly Extent[];
  outcome: AreaOutcome | undefined;
  /** The host backs these guest frames with other memory: the machine may lose theirs. */
  workedAround: boolean;
  /** When it began to quiesce; -1: it does not. */
  quiescingSince: number;
};

/** What phase 2 did for one area, and what it needs to undo it. */
export type Done = {
  readonly id: number;
  readonly how: 'moved' | 'switched' | 'dropped' | 'quiet' | 'host';
  readonly from: readonly Extent[];
  readonly generation: number;
};

export type Session = {
  readonly id: number;
  readonly start: Pfn;
  readonly end: Pfn;
  readonly mode: 'move' | 'drop' | 'ask';
  readonly deadlineMs: number;
  readonly deadlineAt: number;
  /** Answers of phase 1: by area, how it would leave. */
  readonly how: Map<number, 'move' | 'drop'>;
  readonly done: Done[];
  readonly failed: Map<number, BlockerCause>;
  /** The deadline passed: all has been put back, nothing more is done. */
  late: boolean;
};

export class AreaTable {
  drivers = new Map<string, DriverRow>();
  areas = new Map<number, AreaRow>();
  at = new Map<number, number>();
  sessions = new Map<number, Session>();
  nonRemovable: readonly Extent[] = [];
  /** The clock of those who bring none. */
  now = 0;
  nextArea = 1;
  nextSession = 1;
  readonly counts = { moved: 0, switched: 0, released: 0, reacquired: 0, refused: 0, timeouts: 0, workedAround: 0 };

  copy(): AreaTable {
    const to = new AreaTable();
    for (const [name, d] of this.drivers) to.drivers.set(name, { ...d });
    for (const [id, a] of this.areas) to.areas.set(id, { ...a });
    to.at = new Map(this.at);
    for (const [id, s] of this.sessions) {
      to.sessions.set(id, { ...s, how: new Map(s.how), done: [...s.done], failed: new Map(s.failed) });
    }
    to.nonRemovable = this.nonRemovable;
    to.now = this.now;
    to.nextArea = this.nextArea;
    to.nextSession = this.nextSession;
    Object.assign(to.counts, this.counts);
    return to;
  }
}

const tables = machineState(() => new AreaTable());

export const areaTableOf = (m: Machine): AreaTable => tables.of(m);
export const areaTableIfAny = (m: Machine): AreaTable | undefined => tables.has(m);

export const handleOf = (a: AreaRow): AreaHandle => ({ id: a.id, generation: a.generation });

/** The area as its driver is told of it; with `segments`, as it would be there. */
export const areaOf = (a: AreaRow, segments: readonly Extent[] = a.segments, generation = a.generation): FixedArea => ({
  handle: { id: a.id, generation },
  driver: a.driver,
  segments,
  pages: a.pages,
  reason: a.reason,
});

/** Areas with a frame in [start, end), by id. Cost O(areas). */
export function areasIn(t: AreaTable, start: number, end: number): AreaRow[] {
  const touches = (a: AreaRow): boolean => a.segments.some((s) => s.start < end && start < s.end);
  return [...t.areas.values()].filter(touches).sort((a, b) => a.id - b.id);
}

export const sessionOver = (t: AreaTable, start: number, end: number): Session | undefined =>
  [...t.sessions.values()].find((s) => s.start < end && start < s.end);

// --------------------------------------------------------------------------------------------- what was refused

export type Refused = {
  readonly at: number;
  readonly driver: string;
  /** 0: a request, which has no area. */
  readonly area: number;
  readonly outcome: 'REFUSED' | 'TIMEOUT';
  readonly errno: ErrnoName;
  readonly why: string;
};

/** The last ones that are kept. */
export const REFUSED_KEPT = 256;

const logs = new WeakMap<Machine, Refused[]>();

/** What drivers refused on this machine, the oldest first. Not copied to forks, and not rolled back. */
export const refusedOn = (m: Machine): readonly Refused[] => logs.get(m) ?? [];

export function noteRefused(m: Machine, r: Refused): void {
  let log = logs.get(m);
  if (log === undefined) logs.set(m, (log = []));
  log.push(r);
  if (log.length > REFUSED_KEPT) log.shift();
}
