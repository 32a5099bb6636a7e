// Large pages in memory that is to go: what an area's policy says is done, as an evictor of the offline.
//
//   THP, huge page of 2 MiB      one allocation of order 9 or 10     a page of 1 GiB      512 neighbours of order 9
//
//   punt     ready: the offline is refused before it has touched anything
//   split    2 MiB  the pool forgets it; 512 single frames of the same holder, which migrate
//            1 GiB  demoted: 512 huge pages of 2 MiB, in use, of an heir of its holder's name; those of the block migrate
//   migrate  2 MiB  moves whole, or 'no-target'
//            1 GiB  another aligned GiB on a node where it may go is emptied (contig-alloc.ts); all 512 move at once
//
// Linux demotes free pages only and splits no huge page that is in use: both are by choice, and cost what large-page-state.ts
// counts. A GiB has frames in up to eight blocks of 128 MiB: whichever of them goes first moves or demotes all of it; what
// lies in other blocks stays there.
//
// Invariants: LP2 contents survive, and a page's users find it at its holder, or at the heir that was told; LP3 a pool's
// counters agree with its pages after each step (HU1 to HU3). Spec 9.F5.

import { err, ok, type Result } from '#base/result';
import { type BlockId, type HolderId, type NodeId, type Pfn, toPfn } from '#base/units';
import { allocContigPages } from './contig-alloc.ts';
import type { Evictor, Occupant } from './evictor.ts';
import { MIGRATE_ISOLATE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import { followSurplus, forgetHugePage, HUGE_1G, HUGE_2M, hugePageAt, hugetlbOf, migrateWithPools } from './hugetlb.ts';
import { countSplit, type LargePagePolicy, largePagePolicyAt, largePageStates } from './large-page-state.ts';
import type { Machine } from './machine.ts';
import {
  beginMove,
  finishMove,
  type MigrateOutcome,
  migrateAllocation,
  offlineTargets,
  splitAllocation,
} from './migrate.ts';
import { CLASS_TRAITS } from './page-class.ts';
import { allocationsIn, BlockerList, blockerOf } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { framesIn, type Refusal, refusal } from './refusal.ts';
import { KIND_HEAD0, KIND_MASK, META_PINNED, META_WRITEBACK } from './section.ts';

const GIGANTIC_PAGES = 2 ** HUGE_1G;

/** Steps that can fail in the world besides those of migrate.ts, as Machine.faultAt is asked for them. */
export const LARGE_PAGE_FAULT_POINTS = [
  'large-page.split',
  'large-page.demote',
  'large-page.reserve',
  'large-page.switch',
] as const;

type Kind = 'thp' | 'huge' | 'gigantic';

/** What large page the allocation is, or is a piece of. Cost O(1). */
function kindOf(a: Occupant): Kind | undefined {
  if (a.order < PAGEBLOCK_ORDER) return undefined;
  if (a.cls === 'gigantic') return 'gigantic';
  if (CLASS_TRAITS[a.cls].mobility !== 'lru') return undefined;
  return a.cls === 'hugetlb' ? 'huge' : 'thp';
}

const isFree = (m: Machine, head: number): boolean => hugePageAt(m, head)?.free === true;

/**
 * Evicts large pages as the policy says: `over` for all, else each area's own. Where that is 'linux' it claims nothing.
 * Stateless, as all evictors.
 */
export function largePageEvictor(over?: LargePagePolicy): Evictor {
  const policyOf = (m: Machine, head: number): LargePagePolicy => over ?? largePagePolicyAt(m, m.sections.pfnOf(head));
  return {
    name: 'large-pages',
    claims(m, a) {
      if (kindOf(a) === undefined) return undefined;
      const policy = policyOf(m, a.head);
      if (policy === 'linux') return undefined;
      return policy === 'punt' && !isFree(m, a.head) ? 'large-page' : 'yes';
    },
    ready: (m, block) => punted(m, block, (head) => policyOf(m, head) === 'punt'),
    evict(m, a) {
      const outcome = evict(m, a, policyOf(m, a.head));
      return outcome === 'final' ? 'unmovable' : outcome;
    },
  };
}

/** The evictors of an offline, with the policies' own first where there is any. */
export function withLargePages(
  m: Machine,
  evictors: readonly Evictor[],
  over: LargePagePolicy | undefined,
): readonly Evictor[] {
  const any = over !== undefined ? over !== 'linux' : (largePageStates.has(m)?.areas.length ?? 0) > 0;
  return any ? [largePageEvictor(over), ...evictors] : evictors;
}

/** Large pages in use in the block, where the policy is to leave those alone. Cost O(allocations of the block). */
function punted(m: Machine, id: BlockId, punts: (head: number) => boolean): Result<undefined, Refusal> {
  const block = m.block(id);
  if (block === undefined) return ok(undefined);
  const start = m.sections.indexOf(block.startPfn);
  const found = new BlockerList();
  for (const a of allocationsIn(m, start, start + (block.endPfn - block.startPfn))) {
    if (kindOf(a) === undefined || !punts(a.head) || isFree(m, a.head)) continue;
    found.add(blockerOf(m, a.head, 1 << a.order, 'large-page'));
  }
  const [first] = found.items;
  if (first === undefined) return ok(undefined);
  const message =
    `block ${id}: ${framesIn(found.items)} frames are of large pages, which the area's policy leaves alone; ` +
    `the first is ${first.startPfn.toString(16)} (${first.class}, ${first.name})`;
  return err(refusal('unmovable', message, found.items));
}

function evict(m: Machine, a: Occupant, policy: LargePagePolicy): MigrateOutcome {
  const targets = offlineTargets(m, m.poolAt(a.head) as Pool); // the block is online
  if (kindOf(a) === 'gigantic') return evictGigantic(m, a, policy, targets);
  // What a page of 1 GiB was split into is not split further while there is room.
  const whole = policy === 'split' && !isPiece(m, a.head) ? 'no-target' : moveWhole(m, a, targets);
  if (whole !== 'no-target' || policy === 'migrate') return whole;
  return moveSplit(m, a.head, a.order, targets);
}

/** Was the page of 2 MiB one of 1 GiB? */
function isPiece(m: Machine, head: number): boolean {
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  return [...(largePageStates.has(m)?.heirs.values() ?? [])].includes(holder);
}

function moveWhole(m: Machine, a: Occupant, targets: Int32Array): MigrateOutcome {
  if (a.cls === 'hugetlb') return migrateWithPools(m, a.head, targets);
  const began = beginMove(m, a.head, targets);
  if (!began.ok) return began.error === 'raced' ? 'pinned' : began.error; // another has it in flight
  const outcome = finishMove(m, began.value);
  return outcome === 'raced' ? 'pinned' : outcome;
}

const heldBy = (m: Machine, head: number): 'pinned' | 'writeback' | undefined => {
  const meta = m.sections.metaAt(head);
  return (meta & META_PINNED) !== 0 ? 'pinned' : (meta & META_WRITEBACK) !== 0 ? 'writeback' : undefined;
};

/** Single frames of the same holder, which migrate as far as there is room. */
function moveSplit(m: Machine, head: number, order: number, targets: Int32Array): MigrateOutcome {
  const held = heldBy(m, head);
  if (held !== undefined) return held;
  if (m.faultAt?.('large-page.split') === true) return 'fault';
  forgetHugePage(m, head);
  splitAllocation(m, head);
  countSplit(m, order);
  let outcome: MigrateOutcome = 'moved';
  for (let i = head; i < head + 2 ** order; i++) {
    const part = migrateAllocation(m, i, targets);
    if (part !== 'moved') outcome = part;
  }
  return outcome;
}

// ------------------------------------------------------------------------------------------------- pages of 1 GiB

/** A page of 1 GiB: its pieces' heads, ascending. Undefined where the aligned GiB is not one holder's, whole. */
function piecesAt(
  m: Machine,
  head: number,
): { readonly heads: readonly number[]; readonly holder: HolderId } | undefined {
  const pfn = m.sections.pfnOf(head);
  const start = pfn - (pfn % GIGANTIC_PAGES);
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  const heads: number[] = [];
  for (let p = start; p < start + GIGANTIC_PAGES; p += PAGEBLOCK_PAGES) {
    const index = m.sections.indexOf(toPfn(p));
    if (index < 0 || (m.sections.metaAt(index) & KIND_MASK) !== KIND_HEAD0 + PAGEBLOCK_ORDER) return undefined;
    if (m.holders.holderOf(m.sections.ownerAt(index)) !== holder) return undefined;
    heads.push(index);
  }
  return { heads, holder };
}

function evictGigantic(m: Machine, a: Occupant, policy: LargePagePolicy, targets: Int32Array): MigrateOutcome {
  const page = piecesAt(m, a.head);
  if (page === undefined) return 'final';
  for (const head of page.heads) {
    const held = heldBy(m, head);
    if (held !== undefined) return held;
  }
  // The search for a GiB is made once a round, for the page's first piece that is asked for: that of a pageblock before this
  // one, if it was asked, was not served.
  const previous = page.heads[page.heads.indexOf(a.head) - 1];
  const asked = previous !== undefined && isIsolated(m, previous);
  if (policy !== 'split') {
    const whole = asked ? 'no-target' : moveGigantic(m, page.heads, targets);
    if (whole !== 'no-target' || policy === 'migrate') return whole;
  }
  if (m.faultAt?.('large-page.demote') === true) return 'fault';
  demote(m, page.heads, page.holder);
  const piece = migrateWithPools(m, a.head, targets);
  return piece === 'no-target' ? moveSplit(m, a.head, PAGEBLOCK_ORDER, targets) : piece;
}

function isIsolated(m: Machine, index: number): boolean {
  const pool = m.poolAt(index);
  return pool?.alloc.area.typeOf(index - pool.base) === MIGRATE_ISOLATE;
}

/** Nodes of the targets, in their order. */
const nodesOf = (m: Machine, targets: Int32Array): readonly NodeId[] => [
  ...new Set([...targets].map((id) => (m.pools[id] as Pool).node)),
];

/** All pieces move into another aligned GiB, at once. */
function moveGigantic(m: Machine, heads: readonly number[], targets: Int32Array): MigrateOutcome {
  if (m.faultAt?.('large-page.reserve') === true) return 'no-target';
  const state = largePageStates.of(m);
  if (state.target < 0) state.target = m.addHolder({ class: 'gigantic', name: 'migration target' });
  const to = aGiB(m, state.target as HolderId, nodesOf(m, targets));
  if (to === undefined) return 'no-target';
  if (m.faultAt?.('large-page.switch') === true) {
    for (let k = 0; k < GIGANTIC_PAGES; k += PAGEBLOCK_PAGES) m.free(toPfn(to + k));
    return 'fault';
  }
  const at = hugePageAt(m, heads[0]);
  const from = (m.zoneAt(heads[0]) as Pool).node; // it is online
  heads.forEach((head, k) => {
    const target = m.sections.indexOf(toPfn(to + k * PAGEBLOCK_PAGES));
    m.unhold(target, PAGEBLOCK_ORDER);
    m.sections.vacate(target, PAGEBLOCK_ORDER);
    m.relocate(head, target, PAGEBLOCK_ORDER);
    const source = m.poolAt(head) as Pool; // it is online
    source.alloc.freeToArea(head - source.base, PAGEBLOCK_ORDER);
  });
  m.vmstat.pgmigrate_success += GIGANTIC_PAGES;
  state.moved1G++;
  if (at !== undefined) followSurplus(at.h, from, (m.zoneAt(m.sections.indexOf(to)) as Pool).node);
  return 'moved';
}

/** An aligned GiB that was emptied for `holder`, on the first of the nodes that has one. */
function aGiB(m: Machine, holder: HolderId, nodes: readonly NodeId[]): Pfn | undefined {
  for (const node of nodes) {
    const r = allocContigPages(m, GIGANTIC_PAGES, { holder, node, thisNode: true });
    if (r.ok) return r.value.startPfn;
  }
  return undefined;
}

/** The page becomes 512 huge pages of 2 MiB, in use, in place. A pool that had it has one page less, that of 2 MiB 512 more. */
function demote(m: Machine, heads: readonly number[], holder: HolderId): void {
  const state = largePageStates.of(m);
  let heir = state.heirs.get(holder);
  if (heir === undefined) {
    const { moves, mapped, name, node } = m.holders.specs[holder];
    heir = m.addHolder({
      class: 'hugetlb',
      name,
      node: node as NodeId,
      ...(mapped !== undefined && { mapped }),
      ...(moves !== undefined && { moves }),
    });
    state.heirs.set(holder, heir);
  }
  const pooled = forgetHugePage(m, heads[0]);
  const { used } = hugetlbOf(m).size(HUGE_2M);
  for (const head of heads) {
    m.unhold(head, PAGEBLOCK_ORDER);
    m.occupy(heir, head, PAGEBLOCK_ORDER);
    if (pooled) used.add(m.sections.ownerAt(head));
  }
  state.lost1G++;
}
