// Evacuation: one chunk of 4 MiB is emptied, the cheapest first, so that a large contiguous request can have it.
//
//   index ──cheapest──> chunk │ isolate │ one pass: drop, shrink or migrate what is there │ take ──> the caller's, or free
//                               two        within the same pool                             ═══
//
//   step       what                                                        refusal                    undo
//   ask        the whole chunk is one pool's, no pageblock CMA             multizone (EINVAL)         -
//   isolate    its two pageblocks, per-CPU lists drained and off           busy (EBUSY)               types, lists on
//   empty      clean cache that nobody has mapped is dropped; slab is      pool-busy (EBUSY), with    what moved stays
//              shrunk by its owner, if there is one who can; the rest      everything in the way
//              migrates to other frames of the pool
//   take       ═══ point of no return ═══ all 1024 frames are free
//
// It is what contig-alloc.ts does, with two differences that make it cheap: the index already knows that nothing in the
// chunk is unmovable, so that there is no look before the work, and that the range is one aligned chunk, so that its free
// frames are a counter: it is read once. And targets are the pool's own frames, because pools are exclusive.
//
// Frame visits: blocks whose entry is read, be they free, a frame in use or a large allocation (what else is in it is
// stepped over), and one for each target.
// Invariants: EV1 after a refusal every pageblock has its type, nobody has lost a page, no page has left the pool;
// EV2 after success the chunk is the holder's, or one free block of order 10.
//
// After Snook 2007, problem 9; Linux v6.12 mm/page_alloc.c: alloc_contig_range() (spec 3.4, 9.A semantics 7).

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type Pfn, toOrder } from '#base/units';
import { takeFreeFrames } from '../free-frames.ts';
import {
  CHUNK_PAGES,
  MAX_ORDER,
  MIGRATE_CMA,
  MIGRATE_ISOLATE,
  type MigrateType,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from '../geometry.ts';
import { migrateWithPools } from '../hugetlb.ts';
import type { Machine } from '../machine.ts';
import { CLASS_TRAITS } from '../page-class.ts';
import { allocationsIn, BlockerList, blockerOf, isolatePageblock, unisolatePageblock } from '../page-isolation.ts';
import { isDroppable, type PageStateOf } from '../page-state.ts';
import type { Pool } from '../pool.ts';
import { type BlockerCause, framesIn, type Refusal, refusal } from '../refusal.ts';
import { chunkCosts, chunkOf } from './chunk-cost.ts';

/** How many chunks `evacuateCheapest` tries, unless it is told: a refusal is rare, because the index knows of pins. */
const TRIES = 8;

export type EvacuateOptions = {
  /** Who gets the chunk, in pieces of a pageblock. Left out: it stays free. */
  readonly holder?: HolderId;
  /** Clean page cache that nobody has mapped is dropped rather than moved: who knows which that is (page-state.ts)? */
  readonly pageState?: PageStateOf;
  /** Asks the owner of reclaimable slab to free the allocation at this frame. @returns whether it did. */
  readonly shrink?: (holder: HolderId, pfn: Pfn) => boolean;
};

export type EvacuateReport = {
  readonly startPfn: Pfn;
  readonly endPfn: Pfn;
  readonly migratedPages: number;
  readonly droppedPages: number;
  readonly shrunkPages: number;
  /** Frames looked at: see above. Those of chunks that were tried in vain count too. */
  readonly frameVisits: number;
  /** Chunks tried. */
  readonly tried: number;
};

type Tally = { migrated: number; dropped: number; shrunk: number; visits: number };

/**
 * Empties the aligned chunk that holds `pfn`.
 *
 * @returns what it took; refusals see the table. Cost O(frames of the chunk).
 */
export function evacuateChunk(m: Machine, pfn: Pfn, options: EvacuateOptions = {}): Result<EvacuateReport, Refusal> {
  const tally: Tally = { migrated: 0, dropped: 0, shrunk: 0, visits: 0 };
  const refused = empty(m, pfn, options, tally);
  return refused === undefined ? ok(reportOf(pfn, tally, 1)) : err(refused);
}

/**
 * Empties the cheapest chunk of a pool; when that refuses, the next one, `tries` at most.
 *
 * @returns as evacuateChunk; no-memory (ENOMEM) when no chunk of the pool can be emptied
 */
export function evacuateCheapest(
  m: Machine,
  pool: Pool,
  options: EvacuateOptions & { readonly tries?: number } = {},
): Result<EvacuateReport, Refusal> {
  const tally: Tally = { migrated: 0, dropped: 0, shrunk: 0, visits: 0 };
  let last: Refusal | undefined;
  let tried = 0;
  for (const { startPfn } of chunkCosts(m).top(pool, options.tries ?? TRIES, toOrder(MAX_ORDER))) {
    tried++;
    last = empty(m, startPfn, options, tally);
    if (last === undefined) return ok(reportOf(startPfn, tally, tried));
  }
  return err(last ?? refusal('no-memory', `${pool.title}: it has no chunk that can be emptied`));
}

function reportOf(pfn: Pfn, t: Tally, tried: number): EvacuateReport {
  const { start, end } = chunkOf(pfn);
  return {
    startPfn: start,
    endPfn: end,
    migratedPages: t.migrated,
    droppedPages: t.dropped,
    shrunkPages: t.shrunk,
    frameVisits: t.visits,
    tried,
  };
}

/** The steps. @returns why not; undefined when the chunk is empty and where it should be */
function empty(m: Machine, pfn: Pfn, options: EvacuateOptions, tally: Tally): Refusal | undefined {
  const { start: startPfn, end: endPfn } = chunkOf(pfn);
  const start = m.sections.indexOf(startPfn);
  const name = `the chunk at ${startPfn.toString(16)}`;
  const pool = start < 0 ? undefined : m.poolAt(start);
  const owners = start < 0 ? [] : m.owners.ownersIn(start, start + CHUNK_PAGES);
  if (pool === undefined || owners.length !== 1 || m.poolAt(start + PAGEBLOCK_PAGES) !== pool) {
    return refusal('multizone', `${name} is not one pool's throughout`);
  }
  const { area } = pool.alloc;
  for (const i of [start, start + PAGEBLOCK_PAGES]) {
    const type = area.typeOf(i - pool.base);
    if (type === MIGRATE_ISOLATE) return refusal('busy', `${name} is isolated already`);
    if (type === MIGRATE_CMA) return refusal('unmovable', `${name} is in a CMA area`);
  }
  pool.alloc.disable();
  const ladder: (() => void)[] = [() => pool.alloc.enable()];
  for (const i of [start, start + PAGEBLOCK_PAGES]) {
    const type: MigrateType = isolatePageblock(pool, i);
    ladder.push(() => unisolatePageblock(pool, i, type));
  }
  const busy = clear(m, pool, start, options, tally);
  const free = area.freeIn(start - pool.base, start - pool.base + CHUNK_PAGES);
  const taken = free === CHUNK_PAGES && options.holder !== undefined;
  // ═══ Point of no return: nothing below can fail. ═══
  if (taken) takeFreeFrames(pool, start, start + CHUNK_PAGES);
  for (let undo = ladder.pop(); undo !== undefined; undo = ladder.pop()) undo();
  if (taken && options.holder !== undefined) {
    m.place(options.holder, startPfn, endPfn, PAGEBLOCK_ORDER);
    if (!CLASS_TRAITS[m.holders.specs[options.holder].class].managed) pool.managed -= CHUNK_PAGES;
  }
  if (free === CHUNK_PAGES) return undefined;
  const [first] = busy.items;
  assert(first !== undefined, 'a frame of the chunk is neither used nor free', { start, free });
  const why = `the first is ${first.name}'s (${first.cause})`;
  return refusal('pool-busy', `${name}: ${framesIn(busy.items)} frames do not leave, ${why}`, busy.items);
}

/** One pass over the chunk, from block to block. What does not leave is named. */
function clear(m: Machine, pool: Pool, start: number, options: EvacuateOptions, tally: Tally): BlockerList {
  const busy = new BlockerList();
  const targets = Int32Array.of(pool.id);
  const { area } = pool.alloc;
  for (let i = start; i < start + CHUNK_PAGES; ) {
    tally.visits++;
    // A page that left may have merged with what is free behind and ahead of it: the whole free block is stepped over.
    const free = area.headOf(i - pool.base);
    if (free >= 0) {
      i = pool.base + free + (1 << area.orderAt(free));
      continue;
    }
    const a = allocationsIn(m, i, i + 1).next().value;
    if (a === undefined) {
      busy.add(blockerOf(m, i, 1, 'hole'));
      i++;
      continue;
    }
    const pages = 1 << a.order;
    const cause = clearOne(m, a, targets, options, tally);
    if (cause !== undefined) busy.add(blockerOf(m, a.head, pages, cause));
    i += pages;
  }
  return busy;
}

function clearOne(
  m: Machine,
  a: { head: number; order: number; cls: keyof typeof CLASS_TRAITS; pinned: boolean },
  targets: Int32Array,
  options: EvacuateOptions,
  tally: Tally,
): BlockerCause | undefined {
  const pages = 1 << a.order;
  const pfn = m.sections.pfnOf(a.head);
  if (a.cls === 'slab-reclaimable' && !a.pinned && options.shrink !== undefined) {
    // Its owner frees it, or says that it cannot.
    const shrunk = options.shrink(m.holders.holderOf(m.sections.ownerAt(a.head)), pfn);
    if (shrunk) tally.shrunk += pages;
    return shrunk ? undefined : 'unmovable';
  }
  if (isDroppable(m, a, options.pageState)) {
    m.free(pfn);
    tally.dropped += pages;
    return undefined;
  }
  const before = m.vmstat.pgmigrate_success;
  const outcome = migrateWithPools(m, a.head, targets);
  const moved = m.vmstat.pgmigrate_success - before;
  tally.migrated += moved;
  tally.visits += moved;
  if (outcome === 'moved') return undefined;
  return outcome === 'final' ? 'unmovable' : outcome;
}
