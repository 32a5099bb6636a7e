// Progress: when nothing fails any more, what can be removed is removed, within a bounded number of steps.
//
//   faults off ──> the work under way is cancelled, moves are given up, pins and writeback end
//              ──> users give memory back until 70 % of each zone is free
//              ──> each slot: its blocks go offline with all the help, and the memory is removed
//
// A DIMM may stay for these reasons: a driver that gives nothing up has an area there ('relinquish'); or its pages may go
// nowhere, as Linux sends them to other nodes only, and pages of a kernel zone to kernel zones only, where there are none
// (spec 3.1 step 5), or no run of its size though compaction tried; or it holds struct pages of one that stays. All other refusals are failures. Steps of an offline are bounded by its frames: a batch of 32 moves at least one page or the round is idle.

import { InvariantError } from '#base/assert';
import { type BlockId, toPfn } from '#base/units';
import { compactZone } from '#mm/compaction/compact-zone';
import { MAX_ORDER } from '#mm/geometry';
import type { OfflineWork } from '#mm/memory-hotplug';
import { abortMove, offlineTargets } from '#mm/migrate';
import type { Pool } from '#mm/pool';
import { hasRun } from '#mm/pools/migrate-within';
import type { Blocker } from '#mm/refusal';
import { blockIds, isPresent, settle } from './operations.ts';
import { SLOTS, type Slot, type World } from './world.ts';

export type Progress = {
  /** DIMMs that were there, that went, and that stayed because of a driver. */
  readonly dimms: number;
  readonly removed: number;
  readonly stayed: number;
  /** The most steps that one block took. */
  readonly maxSteps: number;
};

/** What is free in each zone after the users went: then there is room for everything. */
const ROOM = 0.7;

/** Drives the world to that state and asks for every DIMM. Throws when one stays without a reason. */
export function demandProgress(w: World, log: (line: string) => void): Progress {
  const { m } = w;
  w.faults.on = false;
  w.work?.cancel();
  w.work = undefined;
  while (w.compaction !== undefined && !w.compaction.finished) w.compaction.step();
  for (const move of w.moves.splice(0)) abortMove(m, move);
  log(`end: ${settle(w)}`);
  const there = w.slots.filter((slot) => isPresent(w, slot));
  let stayed = 0;
  let maxSteps = 0;
  // A DIMM whose blocks hold struct pages of another that is offline goes after that one: a pass for each, at most.
  for (let left = there, passes = 0; left.length > 0; passes++) {
    if (passes > SLOTS) throw new InvariantError('DIMMs hold each other', { slots: left.map((s) => s.range.start) });
    const hosts: Slot[] = [];
    for (const slot of left) {
      makeRoom(w);
      const out = takeOut(w, slot, log);
      maxSteps = Math.max(maxSteps, out.steps);
      if (out.how === 'stays') stayed++;
      if (out.how === 'hosts') hosts.push(slot);
    }
    if (hosts.length === left.length && stayed > 0) {
      stayed += hosts.length; // for DIMMs that stay
      break;
    }
    left = hosts;
  }
  const removed = there.filter((slot) => !isPresent(w, slot)).length;
  return { dimms: there.length, removed, stayed, maxSteps };
}

/** Users of any kind give memory back, zone by zone: what leaves a node goes to the others, and there must be room. */
function makeRoom(w: World): void {
  const { m } = w;
  for (const e of w.prng.shuffle([...w.ledger.own])) {
    const pool = m.poolAt(e.head) as Pool; // what is in use is online
    if (pool.alloc.nrFree() < pool.managed * ROOM) m.free(m.sections.pfnOf(e.head));
  }
}

/** Are the pools that an offline of the block may use too small for what is in it? */
function hasNoRoom(w: World, id: BlockId): boolean {
  const { m } = w;
  const pool = m.block(id)?.pool as Pool; // a refused offline leaves it online
  const room = [...offlineTargets(m, pool)].reduce((n, t) => n + (m.pools[t] as Pool).alloc.nrFree(), 0);
  const start = m.sections.indexOf(toPfn(id * m.blockPages)) - pool.base;
  return room < 2 * (m.blockPages - pool.alloc.area.freeIn(start, start + m.blockPages));
}

/** Is each page that stayed one that moves whole only, and larger than every free run of the pools where it may go? */
function hasNoRun(w: World, id: BlockId, blockers: readonly Blocker[]): boolean {
  const { m } = w;
  const pools = [...offlineTargets(m, m.block(id)?.pool as Pool)].map((t) => m.pools[t] as Pool);
  return blockers.every((b) => {
    const { order } = m.sections.allocationAt(m.sections.indexOf(b.startPfn)) ?? { order: 0 };
    return order > 0 && !pools.some((p) => hasRun(p, order));
  });
}

/** One offline with all the help. Throws when it takes more steps than its frames allow. */
function offlineToItsEnd(w: World, id: BlockId, log: (line: string) => void): OfflineWork {
  const { m } = w;
  const work = m.beginOffline(id, { evictors: w.evictors });
  // check, look, quiesce, 64 pageblocks, notify, dissolve, commit; each page alone, each idle round, and once more.
  const bound = 2 * (m.blockPages + 64) + 16;
  while (!work.finished && work.steps < bound) work.step();
  log(`end: offline of block ${id}: ${work.stage} ${work.refusal?.message ?? ''}`);
  if (!work.finished) throw new InvariantError('an offline does not end', { block: id, steps: work.steps });
  return work;
}

type TakenOut = { readonly how: 'removed' | 'stays' | 'hosts'; readonly steps: number };

/** @returns what became of it, and the most steps that a block took */
function takeOut(w: World, slot: Slot, log: (line: string) => void): TakenOut {
  const { m } = w;
  let most = 0;
  for (const id of blockIds(w, slot)) {
    if (m.block(id)?.state !== 'online') continue;
    let work = offlineToItsEnd(w, id, log);
    most = Math.max(most, work.steps);
    if (work.refusal?.reason === 'no-target') {
      // What moves in one piece only may lack a run of its size: compaction makes one, if it can be made.
      for (const t of offlineTargets(m, m.block(id)?.pool as Pool)) {
        compactZone(m, m.pools[t] as Pool, { order: MAX_ORDER, mode: 'sync', wholeZone: true, ignoreSkip: true });
      }
      work = offlineToItsEnd(w, id, log);
      most = Math.max(most, work.steps);
    }
    if (work.refusal === undefined) continue;
    const { blockers, reason, message } = work.refusal;
    const driver = reason === 'relinquish' || reason === 'deadline' || blockers.some((b) => b.cause === 'relinquish');
    if (!driver && !(reason === 'no-target' && (hasNoRoom(w, id) || hasNoRun(w, id, blockers))))
      throw new InvariantError('a block that could go stays', {
        block: id,
        reason,
        message,
        blockers: blockers.slice(0, 4).map((b) => `${b.startPfn}-${b.endPfn} ${b.name} ${b.cause}`),
      });
    return { how: 'stays', steps: most };
  }
  const gone = m.removeMemory(slot.range);
  if (gone.ok) return { how: 'removed', steps: most };
  if (gone.error.reason === 'hosts') return { how: 'hosts', steps: most };
  throw new InvariantError('a DIMM that is offline stays', { reason: gone.error.message });
}
