// Evictor of drivers: an offline asks the drivers of a block's fixed areas to give them up.
//
//   look, isolate   claims    'yes' for areas that can leave; 'relinquish', with the driver's name, for others
//   notify          prepare   phase 1: every driver of the range; a veto refuses the offline with the driver's errno
//   (listeners)
//   migrate         evict     phase 2 for the area that the frame belongs to: all of it leaves at once
//   commit          commit    final: DMA goes on, dropped areas are reacquired elsewhere if there is room
//   any refusal     undo      reacquired, the last one first, at the same addresses: they are isolated still
//
// A frame of kernel class D that nobody registered is in the way, as in Linux; with `assume` it moves as if its driver
// implemented the protocol: for plans on twins, whose drivers cannot be asked. It stays in one piece and goes to its own zone
// or a lower one, as nobody knows which addresses its device can reach.
//
// The value has no state: sessions are the machine's (area-table.ts). Rules: docs/spec/fixed-areas.md; spec 9.E.

import { ok } from '#base/result';
import { takeFrames } from '../alloc-path.ts';
import type { Evictor, EvictRange, Occupant } from '../evictor.ts';
import { MIGRATE_UNMOVABLE } from '../geometry.ts';
import type { HolderSpec } from '../holder.ts';
import { kernelClassOf } from '../kernel-class.ts';
import type { Machine } from '../machine.ts';
import { ZONE_NORMAL, type ZoneIndex } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { type Extent, extent } from '../pools/dma-extent.ts';
import type { BlockerCause } from '../refusal.ts';
import { META_PINNED, META_WRITEBACK } from '../section.ts';
import { type AreaRow, areasIn, areaTableIfAny, areaTableOf, type Session } from './area-table.ts';
import type { RelinquishMode } from './driver.ts';
import {
  type AreaClock,
  abortSession,
  beginSession,
  canLeave,
  commitSession,
  driverOf,
  expireSessions,
  giveUp,
  reacquireInto,
  TABLE_CLOCK,
} from './relinquish.ts';

export type DriversEvictorOptions = {
  /** For all drivers of one block together, from prepare on. */
  readonly deadlineMs: number;
  /** Default: time passes only while somebody waits. */
  readonly clock?: AreaClock;
  /** Default 'move'. */
  readonly mode?: RelinquishMode;
  /** Between two questions whether a device is quiet. Default 1. */
  readonly pollMs?: number;
  /** What is said of drivers that never registered. Default: they give nothing up. */
  readonly assume?: 'relinquish';
};

/** See the top. The value may be used for any number of offlines, also at one time. */
export function driversEvictor(options: DriversEvictorOptions): Evictor {
  const { mode = 'move', clock = TABLE_CLOCK, pollMs = 1 } = options;
  return {
    name: 'drivers',
    claims(m, a) {
      const spec = m.holders.specs[m.holders.holderOf(m.sections.ownerAt(a.head))] as HolderSpec; // it is allocated
      if (kernelClassOf(spec) !== 'D') return undefined;
      const area = areaAt(m, a);
      if (area === undefined) return options.assume === 'relinquish' ? 'yes' : 'relinquish';
      return canLeave(driverOf(m, area), mode) ? 'yes' : 'relinquish';
    },
    prepare(m, range) {
      const t = areaTableIfAny(m);
      const frames = framesOf(m, range);
      if (t === undefined || areasIn(t, frames.start, frames.end).length === 0) return ok(undefined);
      const begun = beginSession(m, frames, { ...options, mode, clock });
      if (!begun.ok) return begun;
      const { id } = begun.value;
      return ok(() => {
        const session = areaTableOf(m).sessions.get(id);
        if (session !== undefined) abortSession(m, session);
      });
    },
    evict(m, a, range) {
      const area = areaAt(m, a);
      if (area === undefined) return moveUnregistered(m, a);
      expireSessions(m, clock.now(m));
      const session = sessionOf(m, range);
      if (session === undefined) return 'relinquish'; // it was never prepared: nobody may be disturbed
      const outcome = giveUp(m, session, area, { clock, pollMs, atOnce: true });
      return outcome === 'done' ? 'moved' : outcome;
    },
    commit(m, range) {
      const session = sessionOf(m, range);
      if (session === undefined) return;
      commitSession(m, session);
      for (const x of session.done) {
        const area = areaTableOf(m).areas.get(x.id) as AreaRow; // areas under way are not released
        if (x.how !== 'dropped' || m.faultAt?.('drivers.reacquire') === true) continue;
        // Without room it stays RELEASED, and is listed so: FixedAreas.reacquire.
        const said = reacquireInto(m, area, driverOf(m, area), undefined, area.generation);
        if (said === 'done') areaTableOf(m).counts.reacquired++;
      }
    },
  };
}

/** The area that an allocation belongs to. */
function areaAt(m: Machine, a: Occupant): AreaRow | undefined {
  const t = areaTableIfAny(m);
  const id = t?.at.get(m.sections.pfnOf(a.head));
  return id === undefined ? undefined : t?.areas.get(id);
}

/** Sections of a block are neighbours in both. */
function framesOf(m: Machine, range: EvictRange): Extent {
  const start: number = m.sections.pfnOf(range.start);
  return extent(start, start + range.end - range.start);
}

function sessionOf(m: Machine, range: EvictRange): Session | undefined {
  const { start } = framesOf(m, range);
  return [...(areaTableIfAny(m)?.sessions.values() ?? [])].find((s) => s.start === start);
}

/** As if its driver had the protocol. */
function moveUnregistered(m: Machine, a: Occupant): 'moved' | BlockerCause {
  const meta = m.sections.metaAt(a.head);
  if ((meta & META_PINNED) !== 0) return 'pinned';
  if ((meta & META_WRITEBACK) !== 0) return 'writeback';
  const source = m.poolAt(a.head) as Pool; // the block is online
  const top = Math.min(source.zone, ZONE_NORMAL) as ZoneIndex;
  // Its own node first, unlike what an offline does with user pages: its device is there. The block itself is isolated.
  const list = m.zonelist(source.node, top);
  const to = takeFrames(m, list, a.order, MIGRATE_UNMOVABLE, top);
  if (to < 0) return 'no-target';
  m.relocate(a.head, to, a.order);
  source.alloc.freeToArea(a.head - source.base, a.order);
  m.vmstat.pgmigrate_success += 1 << a.order;
  return 'moved';
}
