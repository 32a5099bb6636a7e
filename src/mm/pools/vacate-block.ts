// A memory block that goes offline is vacated by the pools that have frames of it: the memory is the hardware's first.
//
//   for each user pool with frames in the block
//     1  its free frames in the block go back to the zone that labels them
//     2  it gets as many frames of its own nodes and zones elsewhere, so that it keeps its size; as far as they can spare,
//        but at least what its used pages need, and its min
//     3  its used pages migrate to these, and what they leave goes back to the zone as well
//   ──> the block is the zone's alone, and the offline goes on as if there were no pools
//
// A refusal names the pool and what is in the way, and everything goes back. Frames on loan leave when the lease ends:
// until then the block stays. Spec 9.A, semantics 3 and 5; 9.F1 for blocks that must always be removable.

import { err, ok, type Result } from '#base/result';
import type { Pfn } from '#base/units';
import { PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { type Refusal, refusal } from '../refusal.ts';
import { describeLease } from './pool-fit.ts';
import { type FrameRange, freeOf, givable, moveFree, moveRange } from './pool-move.ts';
import { attrsOf, hasPoolTable, leasedIn, poolTableOf } from './pool-table.ts';
import { reshare } from './pool-watermarks.ts';

/**
 * @param block  [start, end) of the dense index
 * @returns how to undo it (undefined: no pool had frames there); pool-busy (EBUSY) and guarantee (ENOSPC) otherwise
 */
export function vacateBlock(m: Machine, block: FrameRange): Result<(() => void) | undefined, Refusal> {
  if (!hasPoolTable(m) || m.pools.length === m.zones.length) return ok(undefined);
  const owners = m.owners.ownersIn(block.start, block.end).map((id) => m.pools[id] as Pool);
  const table = poolTableOf(m);
  const lease = table.leases.size === 0 ? undefined : leasedIn(table, ...framesOf(m, block));
  if (lease !== undefined) {
    return err(refusal('pool-busy', `it has frames of ${describeLease(m, lease)}, which has to end first`));
  }
  const undo: (() => void)[] = [];
  for (const pool of owners) {
    if (pool?.kind !== 'user') continue;
    const refused = vacate(m, pool, block, undo);
    if (refused === undefined) continue;
    for (let back = undo.pop(); back !== undefined; back = undo.pop()) back();
    return err(refused);
  }
  if (undo.length === 0) return ok(undefined);
  return ok(() => {
    for (let back = undo.pop(); back !== undefined; back = undo.pop()) back();
  });
}

/** First frame number of a block, and the one behind its last. */
function framesOf(m: Machine, block: FrameRange): [number, number] {
  const start = m.sections.pfnOf(block.start);
  return [start, start + block.end - block.start];
}

function vacate(m: Machine, pool: Pool, block: FrameRange, undo: (() => void)[]): Refusal | undefined {
  const a = attrsOf(m, pool.id);
  pool.alloc.drain();
  const runs: FrameRange[] = [];
  m.owners.forEachRun(block.start, block.end, (start, end, id) => {
    if (id !== pool.id) return;
    // One run a pageblock at least: each has one label.
    for (let i = start; i < end; ) {
      const next = Math.min(end, i - (i % PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES);
      runs.push({ start: i, end: next });
      i = next;
    }
  });
  const inBlock = runs.reduce((n, r) => n + r.end - r.start, 0);
  const first = m.sections.pfnOf(block.start);
  const freeHere = freeOf(m, pool, first, first + block.end - block.start);
  const usedHere = inBlock - freeHere;
  const freeElsewhere = pool.alloc.nrFree() - freeHere;
  // Replacement frames: all of its size if they can be had; else what is needed.
  const elsewhere = (z: Pool): FrameRange[] => outside(m, z, block);
  const zones = m.zones.filter((z) => a.nodes.includes(z.node) && a.zones.includes(z.zone) && a.ranges === undefined);
  let wanted = inBlock;
  const got: { zone: Pool; ranges: FrameRange[] }[] = [];
  const spare = (z: Pool): number => {
    const all = givable(m, z) - Math.max(0, z.watermarks.min);
    const here = freeOf(m, z, first, first + block.end - block.start);
    return Math.max(0, all - here);
  };
  const possible = zones.reduce((n, z) => n + spare(z), 0);
  const least = Math.max(usedHere - freeElsewhere, a.min - (pool.managed - inBlock), 0);
  if (possible < least) {
    const message = `${pool.title} has ${inBlock} pages there and needs ${least} elsewhere, ${possible} are to be had`;
    return refusal('guarantee', message);
  }
  for (const zone of zones.sort((x, y) => y.zone - x.zone)) {
    const take = Math.min(wanted, spare(zone));
    if (take === 0) continue;
    const moved = moveFree(m, zone, pool, take, elsewhere(zone));
    reshare(m, zone, pool);
    got.push({ zone, ranges: moved });
    wanted -= take;
  }
  const giveUp = (): void => {
    for (const { zone, ranges } of got) {
      for (const r of ranges) {
        const start = m.sections.pfnOf(r.start);
        moveRange(m, pool, zone, { start, end: start + r.end - r.start }, { used: 'donate' });
      }
      reshare(m, pool, zone);
    }
  };
  const left: { zone: Pool; range: FrameRange }[] = [];
  for (const r of runs) {
    const zone = m.zoneAt(r.start) as Pool; // a frame with an owner has a label
    const start = m.sections.pfnOf(r.start);
    left.push({ zone, range: { start, end: start + r.end - r.start } });
  }
  // First what is free, in every run: then no page can find its new place in the block.
  const back = (): void => {
    for (const { zone, range } of left) {
      moveRange(m, zone, pool, range, { used: 'donate' });
      reshare(m, zone, pool);
    }
  };
  for (const { zone, range } of left) freeOnly(m, pool, zone, range);
  for (const { zone, range } of left) {
    const result = moveRange(m, pool, zone, range, { used: 'evacuate' });
    if (!('reason' in result)) continue;
    back();
    giveUp();
    return result;
  }
  for (const { zone } of left) reshare(m, pool, zone);
  undo.push(() => {
    back();
    giveUp();
  });
  return undefined;
}

/** The free frames of a range go to the zone; used ones are left alone. */
function freeOnly(m: Machine, pool: Pool, zone: Pool, range: FrameRange): void {
  const pages = freeOf(m, pool, range.start, range.end);
  if (pages > 0) moveFree(m, pool, zone, pages, [range]);
}

/** A zone's span without the block, in frame numbers. */
function outside(m: Machine, zone: Pool, block: FrameRange): FrameRange[] {
  const start = m.sections.pfnOf(block.start);
  const end = (start + block.end - block.start) as Pfn;
  return [
    { start: zone.startPfn, end: Math.min(zone.endPfn, start) },
    { start: Math.max(zone.startPfn, end), end: zone.endPfn },
  ].filter((r) => r.start < r.end);
}
