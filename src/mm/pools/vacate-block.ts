// A memory block that goes offline is vacated by the pools that have frames of it: the memory is the hardware's first.
//
//   for each user pool with frames in the block
//     1  it gets as many frames elsewhere that it may have by node, zone and range, so that it keeps its size; as far as
//        they can be spared, but at least what its used pages need, and its min
//     2  its free frames in the block go to the zone that labels them; so do pages that may stay in a block that is
//        offline (poisoned ones), and free huge pages, which the offline dissolves
//     3  its used pages migrate to other frames of the pool, and what they leave goes to the zone as well
//   ──> the block is the zone's alone, and the offline goes on as if there were no pools
//
// A refusal names the pool and what is in the way. A realtime pool's used pages never move: they refuse. Frames on loan
// leave when the lease ends: until then the block stays.
//
// The way back, after a refusal here or later in the offline: the pool gets free frames of the block again, and gives up
// the frames that it got instead, as many as it was short or long before. Pages that moved stay where they are, as in
// Linux, and the pool keeps those frames for others of the block. Between two steps of an offline anybody may have
// allocated, or changed or destroyed the pool: what is there now decides.
//
// Invariants: the pool's size after the way back differs from that before by what others did to it meanwhile, and never
// exceeds its max; no frame goes to a pool that is dead. Spec 9.A, semantics 3 and 5; 9.F1.

import { err, ok, type Result } from '#base/result';
import { isFreeHugePage } from '../hugetlb.ts';
import type { Machine } from '../machine.ts';
import { CLASS_TRAITS } from '../page-class.ts';
import { allocationsIn, BlockerList, blockerOf } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import { type Refusal, refusal } from '../refusal.ts';
import { describeLease, fittingRanges, freeToGive, roomOf, settle } from './pool-fit.ts';
import { type FrameRange, freeOf, givable, moveFree, moveRanges, ownedRuns } from './pool-move.ts';
import { floorOf } from './pool-promise.ts';
import { attrsOf, hasPoolTable, leasedIn, type PoolAttrs, poolTableOf } from './pool-table.ts';
import { relabelFree, relabelUsed } from './relabel.ts';

/** What a pool gave up for the block, and got instead. */
type Exchange = {
  readonly pool: Pool;
  /** The zone that labels the block. */
  readonly zone: Pool;
  /** Frames of the block that were the pool's, in runs of the dense index. */
  readonly gave: readonly FrameRange[];
  readonly got: { readonly from: Pool; readonly ranges: readonly FrameRange[] }[];
};

/**
 * @param block  [start, end) of the dense index, of one zone
 * @returns how to undo it (undefined: no pool had frames there); pool-busy (EBUSY) and guarantee (ENOSPC) otherwise.
 *          Cost O(pageblocks of the block + pieces), and O(used frames) to migrate
 */
export function vacateBlock(m: Machine, block: FrameRange): Result<(() => void) | undefined, Refusal> {
  if (!hasPoolTable(m) || m.pools.length === m.zones.length || block.start === block.end) return ok(undefined);
  const owners = m.owners.ownersIn(block.start, block.end).map((id) => m.pools[id] as Pool);
  const pfns = framesOf(m, block);
  const lease = leasedIn(poolTableOf(m), pfns.start, pfns.end);
  if (lease !== undefined) {
    return err(refusal('pool-busy', `it has frames of ${describeLease(m, lease)}, which has to end first`));
  }
  const zone = m.zoneAt(block.start) as Pool; // the block is online
  const done: Exchange[] = [];
  for (const pool of owners) {
    if (pool?.kind !== 'user') continue;
    const exchange: Exchange = { pool, zone, gave: ownedRuns(m, pool, block), got: [] };
    const refused = vacate(m, exchange, block);
    done.push(exchange);
    if (refused === undefined) continue;
    for (let x = done.pop(); x !== undefined; x = done.pop()) takeBack(m, x);
    return err(refused);
  }
  if (done.length === 0) return ok(undefined);
  return ok(() => {
    for (let x = done.pop(); x !== undefined; x = done.pop()) takeBack(m, x);
  });
}

const sizeOf = (runs: readonly FrameRange[]): number => runs.reduce((n, r) => n + r.end - r.start, 0);

/** A run of the dense index in frame numbers. Sections of a block are neighbours in both. */
function framesOf(m: Machine, r: FrameRange): FrameRange {
  const start: number = m.sections.pfnOf(r.start);
  return { start, end: start + r.end - r.start };
}

function vacate(m: Machine, x: Exchange, block: FrameRange): Refusal | undefined {
  const { pool, zone, gave } = x;
  const a = attrsOf(m, pool.id);
  const leaving = allocationsOf(m, pool, gave);
  const moving = leaving.filter((u) => CLASS_TRAITS[u.cls].mobility !== 'stays' && !isFreeHugePage(m, u.head));
  if (a.class === 'realtime' && moving.length > 0) return realtimeStays(m, pool, moving);
  const refused = replace(m, x, a, block);
  if (refused !== undefined) return refused;
  for (const r of gave.map((run) => framesOf(m, run))) {
    const free = freeOf(m, pool, r.start, r.end);
    if (free > 0) moveFree(m, pool, zone, free, [r]);
  }
  const stay = new Set(moving.map((u) => u.head));
  for (const u of leaving) if (!stay.has(u.head)) relabelUsed(m, pool, zone, u.head, u.order);
  const moved = moveRanges(
    m,
    pool,
    zone,
    gave.map((run) => framesOf(m, run)),
    { used: 'evacuate' },
  );
  settle(m, pool, zone);
  return 'reason' in moved ? moved : undefined;
}

type Used = ReturnType<typeof allocationsIn> extends Generator<infer U> ? U : never;

/** Allocations of a pool in runs. */
const allocationsOf = (m: Machine, pool: Pool, runs: readonly FrameRange[]): Used[] =>
  runs.flatMap((r) => [...allocationsIn(m, r.start, r.end)]).filter((u) => m.owners.at(u.head) === pool.id);

function realtimeStays(m: Machine, pool: Pool, used: readonly Used[]): Refusal {
  const busy = new BlockerList();
  for (const u of used) busy.add(blockerOf(m, u.head, 1 << u.order, 'unmovable'));
  return refusal('pool-busy', `${pool.title} is realtime: its ${busy.pages} used pages there never move`, busy.items);
}

/** Frames elsewhere for those in the block: all if they can be had, else what is needed. */
function replace(m: Machine, x: Exchange, a: PoolAttrs, block: FrameRange): Refusal | undefined {
  const { pool, gave } = x;
  const inBlock = sizeOf(gave);
  const pfns = framesOf(m, block);
  const freeHere = freeOf(m, pool, pfns.start, pfns.end);
  const freeElsewhere = givable(m, pool) - freeHere; // no lease has frames of the block
  const sources = m.zones
    .map((from) => ({ from, ranges: outside(fittingRanges(m, from, a) ?? spanOf(from), pfns) }))
    .map((s) => ({ ...s, spare: Math.min(freeToGive(m, s.from, s.ranges), aboveMin(m, s.from, pfns)) }))
    .filter((s) => s.spare > 0)
    .sort((s, t) => t.from.zone - s.from.zone || a.nodes.indexOf(s.from.node) - a.nodes.indexOf(t.from.node));
  const possible = sources.reduce((n, s) => n + s.spare, 0);
  const least = Math.max(inBlock - freeHere - freeElsewhere, a.min - (pool.managed - inBlock), 0);
  if (possible < least) {
    const message = `${pool.title} has ${inBlock} pages there and needs ${least} elsewhere, ${possible} are to be had`;
    return refusal('guarantee', message);
  }
  let wanted = inBlock;
  for (const { from, ranges, spare } of sources) {
    const take = Math.min(wanted, spare);
    if (take === 0) break;
    x.got.push({ from, ranges: moveFree(m, from, pool, take, ranges) });
    settle(m, from, pool);
    wanted -= take;
  }
  return undefined;
}

/** What a zone can give when the block is gone and its min watermark stays free. */
const aboveMin = (m: Machine, zone: Pool, block: FrameRange): number =>
  Math.max(0, givable(m, zone) - freeOf(m, zone, block.start, block.end) - floorOf(m, zone));

const spanOf = (zone: Pool): FrameRange[] => [{ start: zone.startPfn, end: zone.endPfn }];

/** Ranges of frame numbers without the block. */
const outside = (ranges: readonly FrameRange[], block: FrameRange): FrameRange[] =>
  ranges
    .flatMap((r) => [
      { start: r.start, end: Math.min(r.end, block.start) },
      { start: Math.max(r.start, block.end), end: r.end },
    ])
    .filter((r) => r.start < r.end);

/** The way back: see the top. */
function takeBack(m: Machine, { pool, zone, gave, got }: Exchange): void {
  const a = attrsOf(m, pool.id);
  if (m.pools[pool.id] !== pool || a.state === 'dead') return; // destroyed meanwhile: what it had is the zones' already
  pool.alloc.drain();
  zone.alloc.drain();
  const kept = got.map(({ from, ranges }) => ({ from, runs: ranges.flatMap((r) => ownedRuns(m, pool, r)) }));
  const mine = kept.reduce((n, k) => n + sizeOf(k.runs), 0);
  const inUse = mine - kept.reduce((n, k) => n + freeIn(m, pool, k.runs), 0);
  const given = gave.flatMap((r) => ownedRuns(m, zone, r));
  const gone = sizeOf(gave) - gave.reduce((n, r) => n + sizeOf(ownedRuns(m, pool, r)), 0);
  const shrunk = Math.min(gone - got.reduce((n, g) => n + sizeOf(g.ranges), 0), roomOf(m, a)); // others may have filled it
  // It is to have `shrunk` frames more than now: each frame of the block beyond that is for one that it got instead.
  const back = relabelSome(m, zone, pool, given, shrunk + mine - inUse);
  let surplus = Math.max(0, Math.min(mine - inUse, back - shrunk));
  for (const { from, runs } of kept) {
    surplus -= relabelSome(m, pool, from, runs, surplus);
    settle(m, pool, from);
  }
  settle(m, zone, pool);
}

/** Free frames of a pool in runs of the dense index. */
const freeIn = (m: Machine, pool: Pool, runs: readonly FrameRange[]): number =>
  runs.reduce((n, r) => n + freePieces(m, pool, r).reduce((k, p) => k + p.end - p.start, 0), 0);

/** Free pieces of a pool in a run, its lists drained. */
function freePieces(m: Machine, pool: Pool, run: FrameRange): FrameRange[] {
  const out: FrameRange[] = [];
  for (const own of ownedRuns(m, pool, run)) {
    const at = own.start - pool.base;
    const head = pool.alloc.area.headOf(at);
    pool.alloc.area.forEachFree(head >= 0 ? head : at, own.end - pool.base, (i, order) => {
      const start = Math.max(own.start, i + pool.base);
      const end = Math.min(own.end, i + pool.base + 2 ** order);
      if (start < end) out.push({ start, end });
    });
  }
  return out;
}

/** Up to `most` free frames of runs change their pool. @returns how many */
function relabelSome(m: Machine, from: Pool, to: Pool, runs: readonly FrameRange[], most: number): number {
  let left = Math.max(0, most);
  for (const run of runs) {
    for (const p of freePieces(m, from, run)) {
      const pages = Math.min(left, p.end - p.start);
      if (pages > 0) relabelFree(m, from, to, p.start, p.start + pages);
      left -= pages;
    }
  }
  return Math.max(0, most) - left;
}
