// Explain a range: would its memory go if it were asked for now, what is in the way, and what would it cost? By looking only.
//
//   the block is no candidate: not RAM throughout, several zones, offline, host of others' struct pages    no
//   a page that isolation refuses, or that is pinned, under writeback, or without a mover                  no, named
//   more to move than there is room for, pool by pool down to its min mark                                 no
//   what must stay whole (huge pages, movable-ops) finds no chunk in a rehearsal, or may not (explain-room)  no, maybe
//   huge pages to dissolve that are promised to somebody                                                   no
//   frames of user pools; listeners that may object; pages of 1 GiB under a policy                         maybe
//   else                                                                                                   yes
//
// The offline's own questions in its own order, answered by counting instead of doing; no fork is taken, nothing changes.
// Estimated copies are frames that would move. Each blocker has a remedy, a word for what would help.
//
// Spec 9.F2: "explain(block|pfn range) -> {verdict, blockers:[{pfn, order, class, owner, remedy}], estimatedCopies}";
// Hansen 2004: "given any random page in the system, we'll need to be able to see what's being done with it". The twin
// explains captures to people (src/twin/explain.ts); this is the engine's own, for programs.

import type { BlockId, Order, Pfn } from '#base/units';
import { toOrder } from '#base/units';
import { type Leaving, type Moving, rehearse, roomOf } from './explain-room.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import { HUGE_2M, hugePageAt, hugetlbOf } from './hugetlb.ts';
import { kernelClassOf } from './kernel-class.ts';
import { largePagePolicyAt } from './large-page-state.ts';
import type { Machine } from './machine.ts';
import { guestsInTheWay } from './memmap-where.ts';
import { moverAt, offlineTargets } from './migrate.ts';
import { CLASS_TRAITS, type PageClass, ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { allocationsIn, blockersIn } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import type { BlockerCause } from './refusal.ts';
import { META_WRITEBACK } from './section.ts';

/**
 * `wait` storage is at it; `unpin` its user lets go; `free-memory` room elsewhere; `remap` a kernel class that 9.C moves;
 * `relinquish` its driver, 9.E; `move-memmap` 9.D; `policy` of large pages, 9.F5; `reclassify` its owner says that it
 * moves, 9.F2; `release` its owner gives it back; `none` no way is known
 */
export type RemedyWord =
  | 'wait'
  | 'unpin'
  | 'free-memory'
  | 'remap'
  | 'relinquish'
  | 'move-memmap'
  | 'policy'
  | 'reclassify'
  | 'release'
  | 'none';

export type RangeBlocker = {
  readonly pfn: Pfn;
  readonly order: Order;
  readonly class: PageClass | 'none';
  /** Its holder's name. */
  readonly owner: string;
  readonly cause: BlockerCause | 'reserved-huge-page';
  readonly remedy: RemedyWord;
};

export type RangeExplanation = {
  readonly verdict: 'yes' | 'no' | 'maybe';
  /** Why, in one word: the first that decided. */
  readonly reason:
    | 'free'
    | 'moves'
    | 'no-such-block'
    | 'not-online'
    | 'hole'
    | 'multizone'
    | 'hosts'
    | 'blocked'
    | 'no-room'
    | 'no-runs'
    | 'huge-pages'
    | 'pools'
    | 'listeners'
    | 'policy';
  /** One entry an allocation, ascending. Empty for 'yes'. */
  readonly blockers: readonly RangeBlocker[];
  /** Frames whose contents would be copied. */
  readonly estimatedCopies: number;
};

type Reason = RangeExplanation['reason'];

/** What would leave, and how. */
type Demand = {
  /** Frames in all. */
  pages: number;
  /** By address. `pooled`: a used page of a huge page pool. */
  readonly moving: (Moving & { pooled: boolean })[];
  /** Of `moving`, those of a pool of 2 MiB; and free pages of it, which are to be dissolved. */
  pooled: number;
  free2M: number;
};

const answer = (
  verdict: RangeExplanation['verdict'],
  reason: Reason,
  blockers: readonly RangeBlocker[] = [],
  estimatedCopies = 0,
): RangeExplanation => ({ verdict, reason, blockers, estimatedCopies });

/** Would an offline of the block end well now, without evictors? Cost O(frames in use of the block + chunks of the targets). */
export function explainBlock(m: Machine, id: BlockId): RangeExplanation {
  const block = m.block(id);
  if (block === undefined) return answer('no', 'no-such-block');
  if (block.state !== 'online') return answer('no', 'not-online');
  if (block.absent > 0) return answer('no', 'hole');
  if (block.pool === undefined) return answer('no', 'multizone');
  const hosts = guestsInTheWay(m, id);
  if (hosts.length > 0) {
    const named = hosts.map((b) => {
      const order = toOrder(PAGEBLOCK_ORDER);
      return { pfn: b.startPfn, order, class: b.class, owner: b.name, cause: b.cause, remedy: 'move-memmap' as const };
    });
    return answer('no', 'hosts', named);
  }
  const vmemmap = m.blocks.vmemmapPages[m.blocks.rowOf(id)] as number;
  const start = (block.startPfn + vmemmap) as Pfn; // inside of the block
  if (start === block.endPfn) return answer('yes', 'free');
  const found = explainFrames(m, start, block.endPfn, block.pool);
  const objects = m.notifiers.some((n) => n.goingOffline !== undefined);
  return found.verdict === 'yes' && objects ? { ...found, verdict: 'maybe', reason: 'listeners' } : found;
}

/** The same of frames [start, end) of one zone, online: could they be emptied? 'multizone' when they are of several. */
export function explainRange(m: Machine, start: Pfn, end: Pfn): RangeExplanation {
  const first = m.sections.indexOf(start);
  const zone = first < 0 ? undefined : m.zoneAt(first);
  if (zone === undefined) return answer('no', 'hole');
  for (let pfn: number = start; pfn < end; pfn += PAGEBLOCK_PAGES - (pfn % PAGEBLOCK_PAGES)) {
    const index = m.sections.indexOf(pfn as Pfn);
    const here = index < 0 ? undefined : m.zoneAt(index);
    if (here !== zone) return answer('no', here === undefined ? 'hole' : 'multizone');
  }
  return explainFrames(m, start, end, zone);
}

function explainFrames(m: Machine, start: Pfn, end: Pfn, zone: Pool): RangeExplanation {
  const from = m.sections.indexOf(start);
  const to = from + (end - start);
  const demand: Demand = { pages: 0, moving: [], pooled: 0, free2M: 0 };
  const blockers: RangeBlocker[] = [];
  let gigantic = false;
  const refused = refusedHeads(m, start, end);
  for (const a of allocationsIn(m, from, to)) {
    const policy = a.order >= PAGEBLOCK_ORDER ? largePagePolicyAt(m, m.sections.pfnOf(a.head)) : 'linux';
    const large = policy !== 'linux' && (a.cls === 'gigantic' || CLASS_TRAITS[a.cls].mobility === 'lru');
    const pooled = a.order >= PAGEBLOCK_ORDER ? hugePageAt(m, a.head) : undefined;
    if (pooled?.free === true && (a.cls !== 'gigantic' || large)) {
      if (pooled.h.order === HUGE_2M) demand.free2M++;
      else gigantic = true;
      continue;
    }
    const cause = large && policy === 'punt' ? 'large-page' : causeOf(m, a, large ? undefined : refused(a.head));
    if (cause !== undefined) {
      blockers.push(blockerFor(m, a, cause));
      continue;
    }
    if (CLASS_TRAITS[a.cls].mobility === 'stays') continue;
    demand.pages += 2 ** a.order;
    if (a.cls === 'gigantic') gigantic = true;
    const ofPool = pooled !== undefined && a.cls !== 'gigantic';
    if (ofPool) demand.pooled++;
    const splits = large ? policy !== 'migrate' : moverAt(m, a.head)?.splits === true;
    demand.moving.push({ order: a.order, splits, pooled: ofPool });
  }
  if (blockers.length > 0) return answer('no', 'blocked', blockers, demand.pages);
  if (m.owners.ownersIn(from, to).some((id) => m.pools[id]?.kind === 'user'))
    return answer('maybe', 'pools', [], demand.pages);
  if (gigantic) return answer('maybe', 'policy', [], demand.pages);
  return explainRoom(m, demand, zone, { from, to });
}

/** Which frames isolation refuses, and for what: asked once for the whole range. */
function refusedHeads(m: Machine, start: Pfn, end: Pfn): (head: number) => BlockerCause | undefined {
  const found = blockersIn(m, start, end);
  return (head) => {
    const pfn = m.sections.pfnOf(head);
    return found.find((b) => b.startPfn <= Math.max(pfn, start) && Math.max(pfn, start) < b.endPfn)?.cause;
  };
}

type Seen = { readonly head: number; readonly order: number; readonly cls: PageClass; readonly pinned: boolean };

/** Why an allocation would not leave, whatever room there is. */
function causeOf(m: Machine, a: Seen, refused: BlockerCause | undefined): BlockerCause | undefined {
  if (refused !== undefined) return refused;
  if (CLASS_TRAITS[a.cls].mobility === 'stays') return undefined;
  if (a.cls === 'gigantic') return a.pinned ? 'pinned' : undefined;
  const mover = moverAt(m, a.head);
  if (mover === undefined) return 'kernel-in-movable';
  if (a.pinned) return 'pinned';
  return (m.sections.metaAt(a.head) & mover.asks & META_WRITEBACK) !== 0 ? 'writeback' : undefined;
}

function blockerFor(m: Machine, a: Seen, cause: BlockerCause): RangeBlocker {
  const spec = m.holders.specs[m.holders.holderOf(m.sections.ownerAt(a.head))];
  const kernel = kernelClassOf(spec);
  return {
    pfn: m.sections.pfnOf(a.head),
    order: toOrder(a.order),
    class: a.cls,
    owner: spec.name,
    cause,
    remedy: remedyOf(cause, a.cls, kernel),
  };
}

function remedyOf(cause: BlockerCause, cls: PageClass, kernel: string | undefined): RemedyWord {
  if (cause === 'pinned') return 'unpin';
  if (cause === 'writeback') return 'wait';
  if (cause === 'large-page' || cls === 'gigantic') return 'policy';
  if (cause === 'cma') return 'release';
  if (kernel === 'X') return 'none';
  if (kernel === 'D') return 'relinquish';
  if (kernel === 'M') return 'move-memmap';
  return kernel === undefined ? 'reclassify' : 'remap';
}

// -------------------------------------------------------------------------------------------------------- room

function explainRoom(m: Machine, demand: Demand, zone: Pool, leaving: Leaving): RangeExplanation {
  const no = (reason: Reason): RangeExplanation => answer('no', reason, [], demand.pages);
  const top = zone.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL;
  const targets = [...offlineTargets(m, zone)];
  const h = hugetlbOf(m).size(HUGE_2M);
  // A used page of the pool takes a free one of a target, if one is not promised; its own is dissolved in its stead.
  const spare = h.free.length - h.reserved;
  const reach = h.free.filter((slot) => reaches(m, m.holders.frameAt(slot), targets, top, leaving)).length;
  const swaps = spare > 0 ? Math.min(demand.pooled, reach) : 0;
  if (demand.free2M + swaps > Math.max(0, spare)) return no('huge-pages');

  const rooms = targets.map((id) => roomOf(m, m.pools[id] as Pool, top, leaving));
  const pages = demand.pages - swaps * PAGEBLOCK_PAGES;
  if (pages === 0) return answer('yes', demand.pages === 0 ? 'free' : 'moves', [], demand.pages);
  if (pages > rooms.reduce((n, r) => n + r.pages, 0)) return no('no-room');
  const moving = withoutSwapped(demand.moving, swaps);
  if (moving.every((x) => x.splits || x.order === 0)) return answer('yes', 'moves', [], demand.pages);
  const found = rehearse(rooms, moving, m.slowPath !== undefined);
  return answer(found, found === 'yes' ? 'moves' : 'no-runs', [], demand.pages);
}

/** The first pages of the pool are those that are swapped. */
function withoutSwapped(moving: readonly (Moving & { pooled: boolean })[], swaps: number): readonly Moving[] {
  let left = swaps;
  return moving.filter((x) => !x.pooled || left-- <= 0);
}

function reaches(m: Machine, index: number, targets: readonly number[], top: number, leaving: Leaving): boolean {
  const pool = m.poolAt(index);
  const inside = index >= leaving.from && index < leaving.to;
  return pool !== undefined && !inside && pool.zone <= top && targets.includes(pool.id);
}
