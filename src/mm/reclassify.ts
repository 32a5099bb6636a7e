// Reclassify: pages that were taken as movable become fixed, or the other way round, and go where such pages belong.
//
//   reclassify(pfns, 'movable')   out of Unmovable and Reclaimable pageblocks into a Movable one
//   reclassify(pfns, 'fixed')     out of Movable and CMA pageblocks, and out of ZONE_MOVABLE, into an Unmovable one
//
//   collect ──> each: whose? may it? does it lie right? ──> reserve frames for those that do not ═══> move, and change hands
//
// Linux fixes this at the allocation: __GFP_MOVABLE or not, for ever. Here the owner may say otherwise later: the page's class
// stays what it is, and its holder says whether it moves (HolderSpec.moves). A page whose holder says what is wanted keeps
// it; else it changes to a sibling of the same class and name that does. What its owner moves is then moved by migration
// wherever isolation lets it pass, and by the evictor `ownersMove` of an offline, which claims it in kernel zones too.
//
// All or nothing: frames for all that have to move are reserved before anything moves. What the allocator did to find them
// (pageblocks that were claimed, lists that were drained) stays when they are given back, as after any alloc and free.
//
// Invariants: RY1 after 'movable' no page of the list lies in a pageblock of kernel memory, after 'fixed' none among
// movable ones; RY2 contents and state survive; RY3 after a refusal every page is where and whose it was.
//
// Spec 9.F2; Hansen 2004: "the default being for things that either refuse to be moved, or don't know if they can be".

import { err, ok, type Result } from '#base/result';
import type { HolderId, NodeId, Pfn } from '#base/units';
import type { Evictor } from './evictor.ts';
import { MIGRATE_CMA, MIGRATE_ISOLATE, MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, PAGEBLOCK_PAGES } from './geometry.ts';
import { hugePageAt, migrateWithPools } from './hugetlb.ts';
import type { Machine } from './machine.ts';
import { machineState } from './machine-state.ts';
import { migrateFaults, moverAt, offlineTargets } from './migrate.ts';
import { moverOfSpec } from './movers/table.ts';
import { ALLOC_CMA, ALLOC_NOFRAGMENT } from './page-alloc.ts';
import { CLASS_TRAITS, ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { blockerOf } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { type BlockerCause, type Refusal, type RefusalReason, refusal } from './refusal.ts';
import { META_DISPLACED, META_PINNED, META_STATE, META_WRITEBACK } from './section.ts';

export type PageMobility = 'movable' | 'fixed';

export type ReclassifyReport = {
  /** Frames that are as they were asked to be, and were not before. */
  readonly pages: number;
  /** Of these, frames that had to move. */
  readonly moved: number;
};

/** Steps that can fail in the world, as Machine.faultAt is asked for them. */
export const RECLASSIFY_FAULT_POINTS = ['reclassify.reserve', 'reclassify.move'] as const;

/** Holders of one class and name that differ in what they say of their pages. */
class Siblings {
  /** By the first holder: its siblings that say 'movable' and 'fixed'. */
  readonly of = new Map<HolderId, { movable?: HolderId; fixed?: HolderId }>();
  /** By a sibling: the first holder. */
  readonly first = new Map<HolderId, HolderId>();

  copy(): Siblings {
    const out = new Siblings();
    for (const [h, s] of this.of) out.of.set(h, { ...s });
    for (const [h, f] of this.first) out.first.set(h, f);
    return out;
  }
}

const siblings = machineState(() => new Siblings());

/** Who is to have a page of `holder` from now on: itself where it says so already. Makes the sibling that is missing. */
function holderFor(m: Machine, holder: HolderId, as: PageMobility): HolderId {
  const state = siblings.of(m);
  const first = state.first.get(holder) ?? holder;
  const spec = m.holders.specs[first];
  if ((moverOfSpec(spec) !== undefined) === (as === 'movable')) return first;
  const of = state.of.get(first) ?? {};
  const known = of[as];
  if (known !== undefined) return known;
  const made = m.addHolder({ ...spec, node: spec.node as NodeId, moves: as === 'movable' });
  state.of.set(first, { ...of, [as]: made });
  state.first.set(made, first);
  return made;
}

/** One allocation of the list. */
type Item = { readonly head: number; readonly order: number; readonly misplaced: boolean };

/**
 * The pages at `pfns` become what `as` says; those that lie wrong move. A frame of a large allocation stands for all of it.
 *
 * @returns what changed; else nothing has: bad-argument (EINVAL: not in use, not managed, a huge page of a pool, struct
 *          pages), unmovable (EBUSY: displaced by remapping, or in a pageblock that is being isolated), in-use (EBUSY: pinned, or
 *          under writeback, and would have to move), no-memory (ENOMEM: no frames in a fitting pageblock), fault (EIO).
 *          Cost O(frames), and an allocation each.
 */
export function reclassify(m: Machine, pfns: readonly Pfn[], as: PageMobility): Result<ReclassifyReport, Refusal> {
  const items = collect(m, pfns, as);
  if (!items.ok) return items;
  const targets = new Map<number, number>();
  const giveBack = (): void => {
    for (const { head, order } of items.value) {
      const to = targets.get(head);
      const pool = to === undefined ? undefined : m.poolAt(to);
      if (to === undefined || pool === undefined) continue;
      pool.alloc.freeToArea(to - pool.base, order);
      pool.alloc.drain(); // what came to its lists along with it
    }
  };
  for (const { head, order, misplaced } of items.value) {
    if (!misplaced) continue;
    const to = m.faultAt?.('reclassify.reserve') === true ? -1 : fittingFrames(m, head, order, as);
    if (to >= 0) {
      targets.set(head, to);
      continue;
    }
    giveBack();
    const kind = as === 'movable' ? 'Movable' : 'Unmovable';
    return err(
      refusal('no-memory', `no ${2 ** order} frames in ${kind} pageblocks`, [blocker(m, head, order, 'no-target')]),
    );
  }
  if (m.faultAt?.('reclassify.move') === true || (targets.size > 0 && migrateFaults(m))) {
    giveBack();
    return err(refusal('fault', 'a page could not be moved just now; all is as it was'));
  }

  // ═══ Point of no return: nothing below can fail. ═══
  const report = { pages: 0, moved: 0 };
  for (const { head, order } of items.value) {
    const to = targets.get(head);
    const changed = changeHands(m, head, order, as);
    if (to !== undefined) {
      const source = m.poolAt(head) as Pool; // collect() saw it
      m.relocate(head, to, order);
      source.alloc.freeToArea(head - source.base, order);
      m.vmstat.pgmigrate_success += 2 ** order;
      report.moved += 2 ** order;
    }
    if (changed || to !== undefined) report.pages += 2 ** order;
  }
  return ok(report);
}

const blocker = (m: Machine, head: number, order: number, cause: BlockerCause) => blockerOf(m, head, 2 ** order, cause);

/** The allocations of the list, each once; the first that refuses ends it. */
function collect(m: Machine, pfns: readonly Pfn[], as: PageMobility): Result<readonly Item[], Refusal> {
  const items = new Map<number, Item>();
  for (const pfn of pfns) {
    const index = m.sections.indexOf(pfn);
    const a = index < 0 ? undefined : m.sections.allocationAt(index);
    if (a === undefined || m.poolAt(index) === undefined) {
      return err(refusal('bad-argument', `frame ${pfn.toString(16)} is not in use`));
    }
    if (items.has(a.head)) continue;
    const no = (reason: RefusalReason, cause: BlockerCause, why: string): Result<never, Refusal> =>
      err(refusal(reason, `frame ${pfn.toString(16)}: ${why}`, [blocker(m, a.head, a.order, cause)]));
    const { class: cls } = m.holders.specs[m.holders.holderOf(m.sections.ownerAt(a.head))];
    const traits = CLASS_TRAITS[cls];
    if (!traits.managed || traits.mobility === 'stays') return no('bad-argument', 'unmovable', `${cls} is not managed`);
    if (cls === 'memmap') return no('bad-argument', 'hosts', 'struct pages have a mover of their own');
    if (cls === 'gigantic' || hugePageAt(m, a.head) !== undefined) {
      return no('bad-argument', 'large-page', 'it is a page of a huge page pool');
    }
    const meta = m.sections.metaAt(a.head);
    if ((meta & META_DISPLACED) !== 0) return no('unmovable', 'unmovable', 'remapping keeps its address');
    const lies = placeOf(m, a.head, a.order);
    if (lies === 'isolated') return no('unmovable', 'unmovable', 'its pageblock is being emptied');
    const misplaced = lies !== as;
    if (misplaced && (meta & META_PINNED) !== 0) return no('in-use', 'pinned', 'it is pinned');
    if (misplaced && (meta & META_WRITEBACK) !== 0) return no('in-use', 'writeback', 'storage reads it');
    items.set(a.head, { head: a.head, order: a.order, misplaced });
  }
  return ok([...items.values()]);
}

/** What the pageblocks of an allocation are for. */
function placeOf(m: Machine, head: number, order: number): PageMobility | 'isolated' | 'mixed' {
  const seen = new Set<PageMobility | 'isolated'>();
  const pool = m.poolAt(head) as Pool; // the caller saw that it is online
  const zone = m.zoneAt(head) as Pool;
  for (let i = head; i < head + 2 ** order; i += PAGEBLOCK_PAGES) {
    const type = pool.alloc.area.typeOf(i - pool.base);
    if (type === MIGRATE_ISOLATE) seen.add('isolated');
    else seen.add(zone.zone === ZONE_MOVABLE || type === MIGRATE_MOVABLE || type === MIGRATE_CMA ? 'movable' : 'fixed');
  }
  const [only] = seen;
  if (seen.has('isolated')) return 'isolated';
  return seen.size === 1 && only !== undefined ? only : 'mixed';
}

/**
 * Frames in pageblocks of the kind: of the page's own pool if that is a user's, else of the zones of its node and the others,
 * above their min mark. Pageblocks are claimed whole or not at all (ALLOC_NOFRAGMENT). @returns PageIndex, or -1
 */
function fittingFrames(m: Machine, head: number, order: number, as: PageMobility): number {
  const source = m.poolAt(head) as Pool; // collect() saw it
  const zone = m.zoneAt(head) as Pool;
  const { class: cls } = m.holders.specs[m.holders.holderOf(m.sections.ownerAt(head))];
  // Kernel memory may need its zone (a DMA buffer); a process's does not. ZONE_MOVABLE is for what was born movable.
  const { topZone } = CLASS_TRAITS[cls];
  const kernel = topZone !== ZONE_MOVABLE && zone.zone !== ZONE_MOVABLE;
  const top = as === 'fixed' ? Math.min(ZONE_NORMAL, kernel ? zone.zone : topZone) : kernel ? zone.zone : topZone;
  const list = source.kind === 'user' ? Int32Array.of(source.id) : m.zonelist(zone.node, top as typeof zone.zone);
  const type = as === 'movable' ? MIGRATE_MOVABLE : MIGRATE_UNMOVABLE;
  const flags = as === 'movable' ? ALLOC_NOFRAGMENT | ALLOC_CMA : ALLOC_NOFRAGMENT;
  for (const id of list) {
    const pool = m.pools[id] as Pool;
    if (pool.zone > top && pool.kind === 'zone') continue;
    pool.alloc.drain(); // what lists have may lie anywhere
    const mark = pool.watermarks.min + pool.watermarks.reserve[top];
    if (pool.alloc.nrFree() - 2 ** order + 1 <= mark) continue;
    const i = pool.alloc.alloc(order, type, flags);
    if (i < 0) continue;
    if (placeOf(m, i + pool.base, order) === as) return i + pool.base;
    pool.alloc.freeToArea(i, order);
  }
  return -1;
}

/** In place. @returns whether its holder is another now */
function changeHands(m: Machine, head: number, order: number, as: PageMobility): boolean {
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  const to = holderFor(m, holder, as);
  if (to === holder) return false;
  const state = m.sections.metaAt(head) & META_STATE;
  m.unhold(head, order);
  m.occupy(to, head, order);
  if (state !== 0) m.sections.setMeta(head, m.sections.metaAt(head) | state);
  return true;
}

/**
 * Claims what its owner moves though its class does not (HolderSpec.moves), so that an offline that is given this evictor takes
 * it out of kernel zones too, where Linux's isolation refuses the class.
 */
export const ownersMove: Evictor = Object.freeze<Evictor>({
  name: 'owners-move',
  claims: (m, a) =>
    CLASS_TRAITS[a.cls].mobility === 'never' && a.cls !== 'gigantic' && moverAt(m, a.head) !== undefined
      ? 'yes'
      : undefined,
  evict(m, a) {
    const outcome = migrateWithPools(m, a.head, offlineTargets(m, m.poolAt(a.head) as Pool)); // the block is online
    return outcome === 'final' ? 'unmovable' : outcome;
  },
});
