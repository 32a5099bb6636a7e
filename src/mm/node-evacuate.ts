// Evacuating a node: what lies on it by kind goes to other nodes. Not an offline: afterwards its memory is free, and its own.
//
//   look        which allocations are of the kinds that were asked for; who can move them?
//   isolate     every pageblock of the node's zones: nothing is handed out there meanwhile, what is freed stays
//   prepare     evictors that have something to do                             a no: theirs stay
//   move        kernel memory first, as fewer zones take it; then what processes have; in bounded rounds
//   commit      evictors are told that it is final
//   hold        frames whose addresses left with their pages are kept out of use (9.C)
//   give back   every pageblock has its type again, per-CPU lists are on
//
//   kind         what                                                        moved by
//   vmalloc      kernel class V: vmalloc, modules, stacks in vmalloc space   an evictor (remapping, 9.C)
//   slab         slab, kmalloc, stacks of the direct map (class K)           an evictor; its frames stay held, see below
//   pagetables   kernel class T                                              an evictor
//   memmap       struct pages, kernel class M, those of others too           an evictor (9.D)
//   pagecache    file, shmem                                                 migration
//   anon         anonymous, huge pages, compressed memory (movable-ops)      migration
//
// Memory of class K is found by its address in the direct map, which goes along with it: the frame that it leaves has no address
// of its own, and is held until its block is removed, or the page comes home or dies. So a node that gave up its slab is
// ready to be taken offline, but has not more free memory than before; all other kinds leave free frames.
//
// What does not go is the residue, by kind and with a cause; it is no refusal. What was not asked for is not touched, and is
// counted as well: fixed areas, reserved memory, balloons, frames that user pools have, memory that hosts its own struct
// pages. After Ishimatsu's talk 2013 (node hotplug: kernel memory on a node is what keeps it); spec 9.F8.
//
// Invariants: NE1 residue is a recount of the node's frames; NE2 every pageblock is as it was before, but for what is in it;
// NE3 an allocation of a kind that was not asked for is where it was.

import { err, ok, type Result } from '#base/result';
import { type NodeId, toBlockId } from '#base/units';
import { claimOf, type Evictor, type EvictRange, type Occupant, type Undo } from './evictor.ts';
import { MIGRATE_ISOLATE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import type { HolderSpec } from './holder.ts';
import { migrateWithPools } from './hugetlb.ts';
import { kernelClassOf } from './kernel-class.ts';
import { holdDisplaced } from './kremap/home.ts';
import { kremapOf } from './kremap/kremap-state.ts';
import type { Machine } from './machine.ts';
import { offlineTargets } from './migrate.ts';
import type { PageClass } from './page-class.ts';
import { allocationsIn, BlockerList, blockerOf, isolatePageblock, unisolatePageblock } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { type Blocker, type BlockerCause, type Refusal, refusal } from './refusal.ts';

/** In the order in which they go. */
export const EVACUATION_KINDS = ['memmap', 'vmalloc', 'slab', 'pagetables', 'pagecache', 'anon'] as const;
export type EvacuationKind = (typeof EVACUATION_KINDS)[number];
export type EvacuationKinds = Readonly<Partial<Record<EvacuationKind, boolean>>>;

export type EvacuateNodeOptions = {
  /** Who moves kernel memory; default nobody. */
  readonly evictors?: readonly Evictor[];
  /** Rounds that may pass without moving anything; default 2. */
  readonly rounds?: number;
};

export type Evacuation = {
  readonly node: NodeId;
  /** Frames that left, by kind, and by whom: 'migration' or an evictor's name. */
  readonly moved: Readonly<Record<EvacuationKind, number>>;
  readonly movedBy: Readonly<Record<string, number>>;
  /** Frames of the kinds that were asked for that are still on the node. All zero: it is empty of them. */
  readonly residue: Readonly<Record<EvacuationKind, number>>;
  /** Frames of everything else there, by class. */
  readonly others: Readonly<Partial<Record<PageClass, number>>>;
  /** The residue with causes, by address. */
  readonly left: readonly Blocker[];
  /** Frames that nobody has and nobody gets, as their addresses lead elsewhere. They leave with their block. */
  readonly held: number;
};

/** Steps that can fail in the world (Machine.faultAt). A fault of a move leaves that page for the next round. */
export const EVACUATE_FAULT_POINTS = ['evacuate.look', 'evacuate.isolate', 'evacuate.move'] as const;

const zeros = (): Record<EvacuationKind, number> => ({
  memmap: 0,
  vmalloc: 0,
  slab: 0,
  pagetables: 0,
  pagecache: 0,
  anon: 0,
});

/** The table at the top. Undefined: no kind that one can ask for. */
function kindOf(spec: HolderSpec): EvacuationKind | undefined {
  switch (spec.class) {
    case 'file':
    case 'shmem':
      return 'pagecache';
    case 'anonymous':
    case 'hugetlb':
    case 'movable-ops':
      return 'anon';
    case 'slab':
    case 'slab-reclaimable':
    case 'stack':
      return kernelClassOf(spec) === 'V' ? 'vmalloc' : 'slab';
    case 'vmalloc':
      return 'vmalloc';
    case 'pagetable':
      return 'pagetables';
    case 'memmap':
      return 'memmap';
    default:
      return undefined;
  }
}

const specAt = (m: Machine, head: number): HolderSpec =>
  m.holders.specs[m.holders.holderOf(m.sections.ownerAt(head))] as HolderSpec; // an allocation has a holder

/** Frames of one memory block in one zone of the node, whole pageblocks of the dense index: what an evictor is asked for. */
type Run = EvictRange & { readonly pool: Pool };

/** Nothing of kinds is left over where all of these are zero. */
const isEmpty = (r: Evacuation['residue']): boolean => EVACUATION_KINDS.every((k) => r[k] === 0);

/** Calls back for each pageblock that a zone of the node labels, without the struct pages at the heads of blocks. */
function* pageblocksOf(m: Machine, node: NodeId): Generator<{ index: number; block: number; head: boolean }> {
  const { zone } = m.owners;
  for (let pb = 0; pb < zone.length; pb++) {
    if (m.pools[zone[pb] as number]?.node !== node) continue;
    const index = pb << PAGEBLOCK_ORDER;
    const pfn = m.sections.pfnOf(index);
    const block = Math.floor(pfn / m.blockPages);
    const row = m.blocks.rowOf(toBlockId(block));
    const own = row < 0 ? 0 : (m.blocks.vmemmapPages[row] as number);
    yield { index, block, head: pfn - block * m.blockPages < own };
  }
}

/** What zones have whole; pageblocks that user pools have, or have a part of, are those pools' business. */
function runsOf(m: Machine, node: NodeId): Run[] {
  const runs: Run[] = [];
  let last = -1;
  for (const { index, block, head } of pageblocksOf(m, node)) {
    const pool = m.pools[m.owners.owner[index >>> PAGEBLOCK_ORDER] as number];
    if (head || pool === undefined || pool.kind !== 'zone') continue;
    const open = runs[runs.length - 1];
    if (open !== undefined && open.end === index && open.pool === pool && block === last) {
      runs[runs.length - 1] = { ...open, end: index + PAGEBLOCK_PAGES };
    } else runs.push({ start: index, end: index + PAGEBLOCK_PAGES, pool });
    last = block;
  }
  return runs;
}

/** Nothing is handed out on the node until the undo, and what is freed stays. @returns undefined after a fault: all is as it was */
function isolate(m: Machine, node: NodeId, runs: readonly Run[]): Undo | undefined {
  const ladder: Undo[] = [];
  const undo = (): void => {
    for (let step = ladder.pop(); step !== undefined; step = ladder.pop()) step();
  };
  for (const p of m.zones) {
    if (p.node !== node) continue;
    p.alloc.disable();
    ladder.push(() => p.alloc.enable());
  }
  for (const { start, end, pool } of runs) {
    if (m.faultAt?.('evacuate.isolate') === true) {
      undo();
      return undefined;
    }
    for (let i = start; i < end; i += PAGEBLOCK_PAGES) {
      if (pool.alloc.area.typeOf(i - pool.base) === MIGRATE_ISOLATE) continue; // somebody else's, to give back
      const type = isolatePageblock(pool, i);
      ladder.push(() => unisolatePageblock(pool, i, type));
    }
  }
  return undo;
}

class Evacuating {
  readonly moved = zeros();
  readonly movedBy: Record<string, number> = {};
  readonly #m: Machine;
  readonly #kinds: EvacuationKinds;
  readonly #evictors: readonly Evictor[];
  /** Why an allocation did not go, by head. */
  readonly #causes = new Map<number, BlockerCause>();
  /** Who was asked to prepare for which run, and whether they did. */
  readonly #prepared = new Map<Evictor, Map<Run, boolean>>();

  constructor(m: Machine, kinds: EvacuationKinds, evictors: readonly Evictor[]) {
    this.#m = m;
    this.#kinds = kinds;
    this.#evictors = evictors;
  }

  /** One round over all kinds. @returns frames that moved */
  round(runs: readonly Run[]): number {
    let frames = 0;
    for (const kind of EVACUATION_KINDS) {
      if (this.#kinds[kind] !== true) continue;
      for (const run of runs) {
        for (const a of allocationsIn(this.#m, run.start, run.end)) {
          if (kindOf(specAt(this.#m, a.head)) === kind) frames += this.#move(kind, a, run);
        }
      }
    }
    return frames;
  }

  /** @returns frames that left: of a split huge page a part may, of a fixed area more than this allocation */
  #move(kind: EvacuationKind, a: Occupant, run: Run): number {
    const m = this.#m;
    const found = claimOf(m, this.#evictors, a);
    const before = run.pool.alloc.nrIsolated();
    const cause =
      m.faultAt?.('evacuate.move') === true
        ? 'fault'
        : found === undefined
          ? this.#migrate(a, run)
          : this.#evict(found, a, run);
    const frames = run.pool.alloc.nrIsolated() - before;
    if (cause === undefined) this.#causes.delete(a.head);
    else this.#causes.set(a.head, cause);
    this.moved[kind] += frames;
    const who = found?.evictor.name ?? 'migration';
    if (frames > 0) this.movedBy[who] = (this.movedBy[who] ?? 0) + frames;
    return frames;
  }

  #migrate(a: Occupant, run: Run): BlockerCause | undefined {
    const said = migrateWithPools(this.#m, a.head, offlineTargets(this.#m, run.pool));
    return said === 'moved' ? undefined : said === 'final' ? 'unmovable' : said;
  }

  #evict(found: NonNullable<ReturnType<typeof claimOf>>, a: Occupant, run: Run): BlockerCause | undefined {
    const { evictor, claim } = found;
    if (claim !== 'yes') return claim;
    if (!this.#prepare(evictor, run)) return 'relinquish';
    const said = evictor.evict(this.#m, a, { start: run.start, end: run.end });
    return said === 'moved' ? undefined : said;
  }

  /** Once for each run in which it has something to do. */
  #prepare(evictor: Evictor, run: Run): boolean {
    const runs = this.#prepared.get(evictor) ?? new Map<Run, boolean>();
    this.#prepared.set(evictor, runs);
    const asked = runs.get(run);
    if (asked !== undefined) return asked;
    const said = evictor.prepare?.(this.#m, { start: run.start, end: run.end }).ok ?? true;
    runs.set(run, said);
    return said;
  }

  /** What has moved stays moved. */
  commit(): void {
    for (const [evictor, runs] of this.#prepared) {
      for (const [run, ready] of runs) if (ready) evictor.commit?.(this.#m, { start: run.start, end: run.end });
    }
  }

  /** NE1. */
  report(node: NodeId): Evacuation {
    const m = this.#m;
    const residue = zeros();
    const others: Partial<Record<PageClass, number>> = {};
    const left = new BlockerList();
    const kremap = kremapOf(m);
    let held = 0;
    let next = 0;
    for (const { index, head } of pageblocksOf(m, node)) {
      for (const a of allocationsIn(m, Math.max(index, next), index + PAGEBLOCK_PAGES)) {
        if (a.head < next) continue; // of order 10: seen with its first pageblock
        next = a.head + (1 << a.order);
        const pages = 1 << a.order;
        if (kremap?.isHeld(a.head) === true) {
          held += pages;
          continue;
        }
        const kind = kindOf(specAt(m, a.head));
        if (head || kind === undefined || this.#kinds[kind] !== true) {
          others[a.cls] = (others[a.cls] ?? 0) + pages;
          continue;
        }
        residue[kind] += pages;
        left.add(blockerOf(m, a.head, pages, this.#causes.get(a.head) ?? 'unmovable'));
      }
    }
    const { moved, movedBy } = this;
    return { node, moved, movedBy, residue, others, left: left.items, held };
  }
}

/**
 * Moves what lies on a node to other nodes, by kind.
 *
 * @param kinds  what is to go; kinds that are left out are not touched
 * @returns what moved, and the residue: all zero when the node is empty of these kinds. Refusals: bad-request (EINVAL): there
 *   is no such node; no-memory (ENOMEM): no other node has memory; busy (EBUSY): an offline is under way; fault (EIO): then
 *   nothing has moved. Cost O(frames that move + frames of the node)
 */
export function evacuateNode(
  m: Machine,
  node: NodeId,
  kinds: EvacuationKinds,
  options: EvacuateNodeOptions = {},
): Result<Evacuation, Refusal> {
  const { evictors = [], rounds = 2 } = options;
  if (!m.nodes.includes(node)) return err(refusal('bad-request', `there is no node ${node}`));
  if (m.offlinesUnderWay > 0) return err(refusal('busy', `node ${node}: an offline is under way`));
  if (!m.zones.some((p) => p.node !== node && p.managed > 0)) {
    return err(refusal('no-memory', `node ${node}: no other node has memory`));
  }
  if (m.faultAt?.('evacuate.look') === true) return err(refusal('fault', `node ${node} could not be looked at`));
  const runs = runsOf(m, node);
  const work = new Evacuating(m, kinds, evictors);
  const giveBack = isolate(m, node, runs);
  if (giveBack === undefined) return err(refusal('fault', `node ${node} could not be isolated`));
  for (let idle = 0; idle < rounds; ) {
    if (work.round(runs) > 0)
      idle = 0; // bounded: nothing comes to the node meanwhile
    else idle++;
    if (isEmpty(work.report(node).residue)) break;
  }
  work.commit();
  const kremap = kremapOf(m);
  for (const { start, end } of runs) {
    const first: number = m.sections.pfnOf(start);
    if (kremap !== undefined) holdDisplaced(kremap, first, first + end - start);
  }
  giveBack();
  return ok(work.report(node));
}
