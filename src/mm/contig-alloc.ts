// Contiguous allocation: a named range of frames, or any range of n frames, emptied and handed to one holder.
//
//   covering pageblocks   │..........│..........│..........│..........│     isolated, all of them
//   the range                  start [──────────────────────) end           emptied: what is in it migrates
//   given back            │....│                            │.........│     head and tail, when all is over
//
//   step       what                                                     refusal                     undo
//   ask        whole frames, gfp bits that are supported, one zone      EINVAL                      -
//   look       can all of it move? (spec 3.2, without hot-remove's      EBUSY  unmovable            -
//              leniency: poisoned and never plugged frames refuse)
//   isolate    one pageblock after the other                            EBUSY  busy                 its type again
//   drain      per-CPU lists of the zone                                                            -
//   migrate    batches of 32 frames, five tries each                    EBUSY  in-use, ENOMEM, EINTR   what moved stays
//   verify     every frame of the range is free                         EBUSY  in-use
//   take       ═══ point of no return ═══ frames leave the lists, head and tail go back, pageblocks get their types
//
// What is handed out is held in pieces of at most a pageblock (no allocation of the engine is larger than a buddy): 1 GiB
// is 512 neighbours of order 9. freeContigRange gives any part of it back.
//
// Invariants: AC1 after a refusal every pageblock has its type, and no frame changed hands but what moved; AC2 after
// success [start, end) is the holder's, and every other frame is as free as before.
//
// Follows Linux v6.12 mm/page_alloc.c: alloc_contig_range(), __alloc_contig_migrate_range(), alloc_contig_pages(),
// pfn_range_valid_contig(); the check of gfp bits is 6.14's (spec 3.4). Left out: gfp bits that shape the search (node,
// zone, reclaim): the options say it in words.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, type Pfn, toPfn } from '#base/units';
import { takeFreeFrames } from './free-frames.ts';
import {
  MIGRATE_CMA,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  type MigrateType,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from './geometry.ts';
import { migrateWithPools } from './hugetlb.ts';
import type { Machine } from './machine.ts';
import { splitAllocation } from './migrate.ts';
import { CLASS_TRAITS, type PageClass, ZONE_MOVABLE, ZONE_NORMAL, type ZoneIndex } from './page-class.ts';
import {
  allocationsIn,
  BlockerList,
  blockerOf,
  blockersIn,
  isolatePageblock,
  unisolatePageblock,
} from './page-isolation.ts';
import { isDroppable, type PageStateOf } from './page-state.ts';
import type { Pool } from './pool.ts';
import { type Blocker, framesIn, type Refusal, refusal } from './refusal.ts';
import { KIND_ABSENT, KIND_MASK, KIND_NONE } from './section.ts';

/** Frames that one batch isolates for migration: COMPACT_CLUSTER_MAX. */
const BATCH_PAGES = 32;
/** How often one batch is tried before its pages are taken to be in use. */
const TRIES = 5;

/** Bits of a gfp mask, by name: their values differ between kernels. */
const SUPPORTED_GFP: ReadonlySet<string> = new Set([
  '__GFP_IO',
  '__GFP_FS',
  '__GFP_DIRECT_RECLAIM',
  '__GFP_KSWAPD_RECLAIM',
  '__GFP_COMP',
  '__GFP_RETRY_MAYFAIL',
  '__GFP_NOWARN',
  '__GFP_ZERO',
  // These say where to look; the range says it already, so that they are ignored.
  '__GFP_DMA',
  '__GFP_HIGHMEM',
  '__GFP_DMA32',
  '__GFP_MOVABLE',
  '__GFP_RECLAIMABLE',
  '__GFP_WRITE',
  '__GFP_HARDWALL',
  '__GFP_THISNODE',
]);

export type ContigOptions = {
  /** Whose the frames are to be. */
  readonly holder: HolderId;
  /** 'cma': the caller is the owner of the CMA area in the range. Default 'movable'. */
  readonly type?: 'movable' | 'cma';
  /** Names of gfp bits; one that is not supported refuses (EINVAL). Default: GFP_KERNEL. */
  readonly gfp?: readonly string[];
  /** Is a fatal signal pending? Asked before each try; other work may run in it. */
  readonly signal?: () => boolean;
  /** Clean page cache that nobody has mapped is dropped instead of moved: who knows which that is (page-state.ts)? */
  readonly pageState?: PageStateOf;
};

export type ContigReport = {
  readonly startPfn: Pfn;
  readonly endPfn: Pfn;
  /** Frames whose contents went elsewhere. */
  readonly migratedPages: number;
  /** Frames of clean page cache that were dropped. */
  readonly droppedPages: number;
};

/** One allocation range on its way: what the steps share. */
type Work = {
  readonly m: Machine;
  readonly start: number;
  readonly end: number;
  readonly options: ContigOptions;
  readonly pool: Pool;
  /** Covering pageblocks: [coverStart, coverEnd). */
  coverStart: number;
  coverEnd: number;
  migratedPages: number;
  droppedPages: number;
  readonly ladder: (() => void)[];
};

const rangeText = (w: { start: number; end: number }): string => `[${w.start.toString(16)}, ${w.end.toString(16)})`;

/** First frame of each covering pageblock, as an index of the dense tables. */
function* pageblocks(w: Work): Generator<{ pfn: number; index: number }> {
  for (let pfn = w.coverStart; pfn < w.coverEnd; pfn += PAGEBLOCK_PAGES) {
    yield { pfn, index: w.m.sections.indexOf(toPfn(pfn)) };
  }
}

// ------------------------------------------------------------------------------------------------------ the steps

/** Types that Linux gives back when it is done, whatever they were (spec 3.1, corner); undefined = their own. */
function retypeOf(m: Machine, type: ContigOptions['type']): MigrateType | undefined {
  if (m.spec.compat !== 'linux' || m.profile.failedOffline !== 'movable') return undefined;
  return type === 'cma' ? MIGRATE_CMA : MIGRATE_MOVABLE;
}

function ask(m: Machine, start: number, end: number, options: ContigOptions): Result<Work, Refusal> {
  const range = rangeText({ start, end });
  const bad = options.gfp?.find((bit) => !SUPPORTED_GFP.has(bit));
  if (bad !== undefined) return err(refusal('bad-argument', `${bad} is not supported here`));
  const whole = Number.isInteger(start) && Number.isInteger(end) && start >= 0 && start < end;
  if (!whole) return err(refusal('bad-argument', `${range} is no range of frames`));
  const w = {
    m,
    start,
    end,
    options,
    coverStart: start - (start % PAGEBLOCK_PAGES),
    coverEnd: Math.ceil(end / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES,
    migratedPages: 0,
    droppedPages: 0,
    ladder: [],
  };
  const found = lookAt(m, start, end, options.type ?? 'movable');
  if (found.length > 0) {
    const [first] = found;
    const message = `${range}: ${framesIn(found)} frames cannot be moved, the first is ${first.startPfn.toString(16)}`;
    return err(refusal('unmovable', `${message} (${first.class}, ${first.name})`, found));
  }
  const pool = m.poolAt(m.sections.indexOf(toPfn(start))) as Pool; // lookAt calls an offline frame a hole
  const work: Work = { ...w, pool };
  for (const { index } of pageblocks(work)) {
    if (index < 0 || !ownsPageblock(m, pool, index)) {
      return err(refusal('multizone', `${range} lies in more than one zone, or in more than one pool`));
    }
  }
  return ok(work);
}

/** blockersIn without the leniency of hot-remove, and with CMA's own rule: the owner finds everything movable there. */
function lookAt(m: Machine, start: number, end: number, type: 'movable' | 'cma'): readonly Blocker[] {
  const found = new BlockerList();
  for (const b of blockersIn(m, toPfn(start), toPfn(end))) if (type !== 'cma' || b.cause !== 'cma') found.add(b);
  for (const run of runsOf(m, start, end)) {
    for (const a of allocationsIn(m, run.start, run.end)) {
      if (CLASS_TRAITS[a.cls].mobility !== 'stays') continue;
      const from = Math.max(a.head, run.start);
      const to = Math.min(a.head + 2 ** a.order, run.end);
      found.add(blockerOf(m, from, to - from, a.cls === 'poisoned' ? 'poisoned' : 'unmovable'));
    }
  }
  return found.items;
}

/** [start, end) in runs that are neighbours in the dense index too. */
function* runsOf(m: Machine, start: number, end: number): Generator<{ start: number; end: number }> {
  for (let pfn = start; pfn < end; ) {
    const stop = Math.min(end, pfn - (pfn % PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES);
    const index = m.sections.indexOf(toPfn(pfn));
    if (index >= 0) yield { start: index, end: index + stop - pfn };
    pfn = stop;
  }
}

/** An allocation of order 10 that reaches over the edge of the covering pageblocks: both its pageblocks are isolated. */
function coverWhole(w: Work): void {
  const { sections } = w.m;
  const first = sections.allocationAt(sections.indexOf(toPfn(w.coverStart)));
  if (first !== undefined) w.coverStart = Math.min(w.coverStart, sections.pfnOf(first.head));
  const last = sections.allocationAt(sections.indexOf(toPfn(w.coverEnd - 1)));
  if (last !== undefined) w.coverEnd = Math.max(w.coverEnd, sections.pfnOf(last.head) + 2 ** last.order);
}

function isolate(w: Work): Refusal | undefined {
  const { m, pool } = w;
  const linux = retypeOf(m, w.options.type);
  coverWhole(w);
  for (const { pfn, index } of pageblocks(w)) {
    if (pool.alloc.area.typeOf(index - pool.base) === MIGRATE_ISOLATE) {
      return refusal('busy', `${rangeText(w)}: the pageblock at ${pfn.toString(16)} is isolated already`);
    }
    const type = isolatePageblock(pool, index);
    w.ladder.push(() => unisolatePageblock(pool, index, linux ?? type));
  }
  pool.alloc.drain();
  return undefined;
}

/** Where contents may go: the zones of the node first, then the others', from the highest zone that the source allows. */
const targetsOf = (w: Work): Int32Array =>
  w.pool.kind === 'user'
    ? Int32Array.of(w.pool.id) // what a pool has stays in it
    : w.m.zonelist(w.pool.node, w.pool.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL);

function migrate(w: Work): Refusal | undefined {
  const { m } = w;
  for (const run of runsOf(m, w.start, w.end)) {
    for (let at = run.start; at < run.end; ) {
      const batch: { start: number; end: number }[] = [];
      let pages = 0;
      let next = run.end;
      for (const a of allocationsIn(m, at, run.end)) {
        next = a.head + 2 ** a.order;
        const { mobility } = CLASS_TRAITS[a.cls];
        if (mobility !== 'lru' && mobility !== 'driver') continue; // never isolated: the verification finds it
        batch.push({ start: a.head, end: next });
        pages += 2 ** a.order;
        if (pages >= BATCH_PAGES) break;
        next = run.end;
      }
      const refused = moveBatch(w, batch);
      if (refused !== undefined) return refused;
      at = next;
    }
  }
  return undefined;
}

function moveBatch(w: Work, batch: readonly { start: number; end: number }[]): Refusal | undefined {
  const { m } = w;
  for (let tried = 0; tried < TRIES && batch.some((b) => !allocationsIn(m, b.start, b.end).next().done); tried++) {
    if (w.options.signal?.() === true) return refusal('interrupted', `${rangeText(w)}: a fatal signal is pending`);
    for (const b of batch) {
      for (const a of allocationsIn(m, b.start, b.end)) {
        if (dropClean(w, a)) continue;
        const before = m.vmstat.pgmigrate_success;
        const outcome = migrateWithPools(m, a.head, targetsOf(w));
        w.migratedPages += m.vmstat.pgmigrate_success - before;
        if (outcome !== 'no-target') continue;
        const message = `${rangeText(w)}: no free frames for what is in it`;
        return refusal('no-memory', message, [blockerOf(m, a.head, 2 ** a.order, 'no-target')]);
      }
    }
  }
  return undefined;
}

/** Linux: reclaim_clean_pages_from_list(). */
function dropClean(w: Work, a: { head: number; order: number; cls: PageClass; pinned: boolean }): boolean {
  if (!isDroppable(w.m, a, w.options.pageState)) return false;
  w.m.free(w.m.sections.pfnOf(a.head));
  w.droppedPages += 2 ** a.order;
  return true;
}

function verify(w: Work): Refusal | undefined {
  const { m, pool } = w;
  const left = new BlockerList();
  for (const run of runsOf(m, w.start, w.end)) {
    for (const a of allocationsIn(m, run.start, run.end)) {
      const { mobility } = CLASS_TRAITS[a.cls];
      const cause = mobility !== 'lru' && mobility !== 'driver' ? 'unmovable' : 'pinned';
      left.add(blockerOf(m, a.head, 2 ** a.order, cause));
    }
    const free = pool.alloc.area.freeIn(run.start - pool.base, run.end - pool.base);
    assert(left.items.length > 0 || free === run.end - run.start, 'a frame is neither used nor free', { ...run, free });
  }
  if (left.items.length === 0) return undefined;
  return refusal('in-use', `${rangeText(w)}: ${left.pages} frames did not move`, left.items);
}

// -------------------------------------------------------------------------------------------------- the two requests

/**
 * Empties [start, end) and gives it to a holder. Need not be aligned to anything; must lie in one zone.
 *
 * @returns what moved; refusals see the table at the top: bad-argument, multizone (EINVAL), unmovable, busy, in-use
 *          (EBUSY), no-memory (ENOMEM), interrupted (EINTR). Cost O(frames).
 */
export function allocContigRange(
  m: Machine,
  start: Pfn,
  end: Pfn,
  options: ContigOptions,
): Result<ContigReport, Refusal> {
  const asked = ask(m, start, end, options);
  if (!asked.ok) return asked;
  const w = asked.value;
  const refused = isolate(w) ?? migrate(w) ?? verify(w);
  if (refused === undefined) {
    // ═══ Point of no return: nothing below can fail. ═══
    for (const run of runsOf(m, start, end)) takeFreeFrames(w.pool, run.start, run.end);
    m.place(options.holder, start, end);
    if (!CLASS_TRAITS[m.holders.specs[options.holder].class].managed) w.pool.managed -= end - start;
  }
  for (let undo = w.ladder.pop(); undo !== undefined; undo = w.ladder.pop()) undo();
  if (refused !== undefined) return err(refused);
  const { migratedPages, droppedPages } = w;
  return ok({ startPfn: start, endPfn: end, migratedPages, droppedPages });
}

export type ContigPagesOptions = Omit<ContigOptions, 'type'> & {
  /** Where to look first. */
  readonly node: NodeId;
  /** Only there. Default false. */
  readonly thisNode?: boolean;
  /** Highest zone that will do; default: what the holder's class may use. */
  readonly topZone?: ZoneIndex;
};

/** Linux's ALIGN(): up to a multiple of `n` when n is a power of two; for others the same bits are cut off, as there. */
export function alignLikeLinux(pfn: number, n: number): number {
  const mask = n - 1;
  const sum = pfn + mask;
  const high = Math.floor(sum / 2 ** 32);
  const low = sum - high * 2 ** 32;
  return high * 2 ** 32 + ((low & ~mask) >>> 0);
}

/** Are all frames of the pageblock at `index` the pool's? */
const ownsPageblock = (m: Machine, pool: Pool, index: number): boolean =>
  m.owners.owner[index >>> PAGEBLOCK_ORDER] === pool.id;

/** A candidate without a page that is known to be in the way: all online, of this zone, nothing reserved, no huge page. */
function isCandidate(m: Machine, pool: Pool, start: number, end: number): boolean {
  for (let pfn = start - (start % PAGEBLOCK_PAGES); pfn < end; pfn += PAGEBLOCK_PAGES) {
    const index = m.sections.indexOf(toPfn(pfn));
    if (index < 0 || !ownsPageblock(m, pool, index)) return false;
  }
  for (const run of runsOf(m, start, end)) {
    for (let i = run.start; i < run.end; ) {
      const kind = m.sections.metaAt(i) & KIND_MASK;
      if (kind === KIND_ABSENT) return false;
      if (kind === KIND_NONE) {
        const order = pool.alloc.area.orderAt(i - pool.base);
        i += order < 0 ? 1 : 2 ** order;
        continue;
      }
      const a = m.sections.allocationAt(i) as { head: number; order: number }; // neither absent nor free
      const cls = m.holders.specs[m.holders.holderOf(m.sections.ownerAt(a.head))].class;
      if (cls === 'reserved' || cls === 'hugetlb' || cls === 'gigantic') return false;
      i = a.head + 2 ** a.order;
    }
  }
  return true;
}

/**
 * Any `n` neighbouring frames, for a holder: zones in zonelist order, candidates aligned to n, the first that can be
 * emptied. Watermarks do not bind the range itself, as in Linux.
 *
 * @returns the range; no-memory (ENOMEM) when no candidate could be emptied, with what refused the last one; a signal ends
 *          the search (EINTR). Cost O(frames of the zones) at worst.
 */
export function allocContigPages(m: Machine, n: number, options: ContigPagesOptions): Result<ContigReport, Refusal> {
  if (!Number.isInteger(n) || n < 1 || n >= 2 ** 31) return err(refusal('bad-argument', `${n} is no number of frames`));
  const top = options.topZone ?? CLASS_TRAITS[m.holders.specs[options.holder].class].topZone;
  let tried = 0;
  let last: Refusal | undefined;
  for (const id of m.zonelist(options.node, top)) {
    const pool = m.pools[id];
    if (pool.spanned === 0 || (options.thisNode === true && pool.node !== options.node)) continue;
    for (let pfn = alignLikeLinux(pool.startPfn, n); pfn + n <= pool.endPfn; pfn += n) {
      if (!isCandidate(m, pool, pfn, pfn + n)) continue;
      const r = allocContigRange(m, toPfn(pfn), toPfn(pfn + n), options);
      if (r.ok || r.error.reason === 'bad-argument' || r.error.reason === 'interrupted') return r;
      tried++;
      last = r.error;
    }
  }
  const why = last === undefined ? '' : `; the last: ${last.message}`;
  return err(refusal('no-memory', `no ${n} neighbouring frames, ${tried} ranges were tried${why}`, last?.blockers));
}

/**
 * Gives [start, end) back: frames of one holder that allocContigRange handed out, all or a part of them. A piece that
 * reaches over the edge is split. Frames that nobody holds are a bug and throw.
 */
export function freeContigRange(m: Machine, start: Pfn, end: Pfn): void {
  for (const pfn of [start, end]) {
    const index = m.sections.indexOf(pfn);
    const a = index < 0 ? undefined : m.sections.allocationAt(index);
    if (a !== undefined && a.head !== index) splitAllocation(m, a.head);
  }
  for (let pfn: number = start; pfn < end; ) {
    const a = m.sections.allocationAt(m.sections.indexOf(toPfn(pfn)));
    assert(a !== undefined, 'nobody holds the frame', { pfn });
    m.free(toPfn(pfn));
    pfn += 2 ** a.order;
  }
}
