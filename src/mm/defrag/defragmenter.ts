// Defragmenter: who makes large free blocks, when, and how fast. Three sources, each of which may be off:
//
//   source    runs when                                        how much at a time
//   failure   a request found no block (Machine.slowPath)      until there is one, and it is the request's at once
//   daemon    a pool is below a threshold, at each tick        pages of its level: little and early, more as it gets worse
//   idle      the CPU has nothing else to do, and says so      one page; then it asks the CPU again
//
//   thresholds ──> need of each pool ──> run: one more block of that order ──step, step ...──> made | nothing ──> need ...
//                                         (block-maker.ts)                                        └> pause, doubled
//
// Per-CPU lists of the pool are flushed and off while a step lasts, and a step holds 32 pages at most; a direct run is as
// many steps. Between steps nothing is held: the state may change underneath. A run that finds nothing to make is not
// repeated at once: its pool pauses, twice as long each time up to 64 times, until a run makes a block.
//
// Each source has tokens, one a page (token-bucket.ts). Time is an argument, in the caller's unit. A Defragmenter is
// somebody who uses a machine, like a daemon: it is not copied to forks, and stands a restore, because it looks again.
//
// Invariants: DF4 a step moves MOST_HELD pages at most, and leaves nothing in anybody's hands; DF8 an idle one moves 1; DF10 after
// each call the lists are as on or off as before. Every call is bounded: by its level's pages, by one page, by a run.
//
// After Hansen and Mooley 2004: failure-based, thresholds by order, a daemon with levels, idle cycles (spec 9.F4); the
// doubled pause is that of kcompactd, Linux v6.12 mm/compaction.c: COMPACT_MAX_DEFER_SHIFT.

import { assert } from '#base/assert';
import type { SlowPath, SlowRequest } from '../alloc-path.ts';
import type { Machine } from '../machine.ts';
import { ALLOC_KEEP_PCP } from '../page-alloc.ts';
import type { Pool } from '../pool.ts';
import { attrsOf, hasPoolTable } from '../pools/pool-table.ts';
import { type BlockMaker, blockMaker, type MakerKind, MOST_HELD } from './block-maker.ts';
import { checkThresholds, freeBlocks, type Level, needOf, type Threshold } from './thresholds.ts';
import { type Rate, TokenBucket } from './token-bucket.ts';

export const DEFRAG_SOURCES = ['failure', 'daemon', 'idle'] as const;
export type DefragSource = (typeof DEFRAG_SOURCES)[number];

/** Steps that can fail in the world, as Machine.faultAt is asked for them, besides those of compaction and migration. */
export const DEFRAG_FAULT_POINTS = [
  /** Nothing is to be had to move to. */
  'defrag.target',
  /** Somebody else takes the block that was made for a request. */
  'defrag.capture',
] as const;

export type SourceSettings = {
  /** Default: no limit. */
  readonly limit?: Rate;
};

export type DaemonSettings = SourceSettings & {
  /** Pages a tick at levels 1, 2 and 3. */
  readonly pages: readonly [number, number, number];
};

export type DefragSettings = {
  readonly maker: MakerKind;
  readonly thresholds: readonly Threshold[];
  /** A source that is left out is off. */
  readonly failure?: SourceSettings;
  readonly daemon?: DaemonSettings;
  readonly idle?: SourceSettings;
  /** How long a pool pauses after the first run that found nothing, in units of time. */
  readonly pause: number;
};

/** The longest pause is 2^6 of the first. */
const MAX_PAUSE_SHIFT = 6;
/** A block is made of frames that are free: so many times its size have to be, above the low mark (compact_gap()). */
const GAP = 2;

/** Whoever makes large free blocks: this, or what it is compared with. */
export interface Worker {
  /** For Machine.slowPath. */
  slowPath(next?: SlowPath): SlowPath;
  /** Its daemon wakes. @returns pages moved */
  tick(now: number): number;
  /** The CPU has nothing to do. @returns pages moved; 0: it may sleep */
  idle(now: number): number;
}

/** What a source did so far. */
export type SourceCounts = {
  moved: number;
  /** Blocks that its runs made. */
  made: number;
  /** Runs that found nothing to make. */
  vain: number;
  steps: number;
  /** The most pages that one step moved. */
  longestStep: number;
};

const noCounts = (): SourceCounts => ({ moved: 0, made: 0, vain: 0, steps: 0, longestStep: 0 });

/** A pool's run, which daemon and idle work share, and its pause. */
type Run = { maker: BlockMaker | undefined; until: number; shift: number };

export class Defragmenter implements Worker {
  readonly counts: Record<DefragSource, SourceCounts> = {
    failure: noCounts(),
    daemon: noCounts(),
    idle: noCounts(),
  };
  readonly #m: Machine;
  readonly #settings: DefragSettings;
  readonly #tokens: Record<DefragSource, TokenBucket | undefined>;
  /** By pool id. */
  readonly #runs = new Map<number, Run>();
  /** The latest time that anybody told. */
  #now = 0;

  /** Settings that contradict themselves throw. Nothing happens until it is called. */
  constructor(m: Machine, settings: DefragSettings) {
    checkThresholds(settings.thresholds);
    assert(settings.pause > 0, 'a pause takes time', { pause: settings.pause });
    const pages = settings.daemon?.pages ?? [1, 1, 1];
    assert(pages[0] > 0 && pages[1] >= pages[0] && pages[2] >= pages[1], 'levels do more as it gets worse', { pages });
    this.#m = m;
    this.#settings = settings;
    const bucket = (s: SourceSettings | undefined): TokenBucket | undefined =>
      s === undefined ? undefined : new TokenBucket(s.limit ?? { rate: Number.POSITIVE_INFINITY, burst: 1 });
    this.#tokens = { failure: bucket(settings.failure), daemon: bucket(settings.daemon), idle: bucket(settings.idle) };
  }

  // ------------------------------------------------------------------------------------------------------ the daemon

  /**
   * The daemon wakes: what each pool's level allows is done, and no more than its tokens.
   * @returns pages moved. Cost O(pageblocks of the pools), and the moves
   */
  tick(now: number): number {
    this.#now = now;
    const { daemon, thresholds } = this.#settings;
    if (daemon === undefined) return 0;
    let moved = 0;
    for (const pool of this.#pools()) {
      const run = this.#runOf(pool);
      const { level } = needOf(pool, thresholds);
      let left = level === 0 ? 0 : (daemon.pages[level - 1] as number); // levels are 0 to 3
      let gained = true;
      while (left > 0 && gained) {
        const most = Math.min(left, MOST_HELD, this.#tokenOf('daemon', now));
        const n = most < 1 ? 0 : this.#advance('daemon', pool, run, most);
        gained = n > 0;
        left -= n;
        moved += n;
      }
    }
    return moved;
  }

  // -------------------------------------------------------------------------------------------------------- idle CPUs

  /**
   * The CPU has nothing to do: one page is moved for the pool that is furthest below its thresholds.
   * @returns pages moved, 0 or 1; 0: there is nothing to do, the CPU may sleep
   */
  idle(now: number): number {
    this.#now = now;
    const { idle, thresholds } = this.#settings;
    if (idle === undefined || this.#tokenOf('idle', now) < 1) return 0;
    // A run that goes on is for the pool that was worst when it began.
    for (const [id, run] of this.#runs) {
      if (run.maker === undefined) continue;
      const pool = this.#m.pools[id];
      if (pool === undefined || !this.#mayServe(pool)) {
        run.maker = undefined; // destroyed, or not there yet: the machine was restored
        continue;
      }
      const moved = this.#advance('idle', pool, run, 1);
      if (moved > 0) return moved;
    }
    const pools = this.#pools().filter((p) => this.#runOf(p).until <= now);
    const byNeed = pools.map((p) => ({ p, level: needOf(p, thresholds).level })).sort((a, b) => b.level - a.level);
    for (const { p, level } of byNeed) {
      if (level === 0) break;
      const moved = this.#advance('idle', p, this.#runOf(p), 1);
      if (moved > 0) return moved;
    }
    return 0;
  }

  // ---------------------------------------------------------------------------------------------------- failed requests

  /**
   * For Machine.slowPath: a request of order 1 or more that found nothing has a block made for it, in the first of its
   * pools that can, and takes it at once. `next` is asked when none can, and for single pages.
   */
  slowPath(next?: SlowPath): SlowPath {
    return (m, request) => {
      const { failure } = this.#settings;
      if (m === this.#m && failure !== undefined && request.order > 0) {
        for (const id of request.list) {
          const at = this.#direct(m.pools[id] as Pool, request);
          if (at >= 0) return at;
        }
      }
      return next?.(m, request) ?? 'failed';
    };
  }

  /** @returns PageIndex of 2^order frames in the request's hands; -1 */
  #direct(pool: Pool, request: SlowRequest): number {
    if (!this.#suits(pool, request.order, 4 + request.topZone)) return -1;
    const counts = this.counts.failure;
    const maker = blockMaker(this.#settings.maker, this.#m, pool, request.order);
    pool.alloc.disable();
    // Flushing may have been enough. A run ends by itself: DF5, CP3.
    let at = this.#capture(pool, request);
    let moved = 0;
    while (at < 0 && maker.over === undefined) {
      const most = Math.min(MOST_HELD, this.#tokenOf('failure', this.#now));
      if (most < 1) break;
      const n = maker.step(most);
      this.#count('failure', n);
      moved += n;
      if (maker.over !== 'nothing') at = this.#capture(pool, request);
    }
    maker.cancel();
    if (at >= 0 && moved > 0) counts.made++;
    if (at < 0) counts.vain++;
    pool.alloc.enable();
    return at;
  }

  /** A free block that the request may have, once there is one: the allocator's own rules say which. */
  #capture(pool: Pool, { order, migratetype }: SlowRequest): number {
    const { area } = pool.alloc;
    if ((area.orders(0) | area.orders(1) | area.orders(2)) >>> order === 0) return -1;
    if (this.#m.faultAt?.('defrag.capture') === true) return -1;
    const i = pool.alloc.alloc(order, pool.typeFor[migratetype] as number, ALLOC_KEEP_PCP);
    return i < 0 ? -1 : pool.base + i;
  }

  // --------------------------------------------------------------------------------------------------------- one step

  /** At most `pages` pages for the pool, lists off meanwhile. @returns pages moved; 0 when the pool needs or can do nothing */
  #advance(source: 'daemon' | 'idle', pool: Pool, run: Run, pages: number): number {
    const now = this.#now;
    pool.alloc.disable();
    let moved = 0;
    // A run that turns out to be over is followed by one more at most: the first pages of the next block.
    for (let k = 0; k < 2 && moved === 0; k++) {
      if (run.maker === undefined) {
        if (run.until > now) break;
        const need = needOf(pool, this.#settings.thresholds);
        if (need.level === 0 || !this.#suits(pool, need.order, 3)) break;
        run.maker = blockMaker(this.#settings.maker, this.#m, pool, need.order);
      }
      moved = run.maker.step(pages);
      this.#count(source, moved);
      if (run.maker.over !== undefined) this.#ended(source, run);
    }
    pool.alloc.enable();
    return moved;
  }

  #ended(source: DefragSource, run: Run): void {
    const made = run.maker?.over === 'made';
    run.maker = undefined;
    if (made) {
      this.counts[source].made++;
      run.shift = 0;
      return;
    }
    this.counts[source].vain++;
    run.until = this.#now + this.#settings.pause * 2 ** run.shift;
    run.shift = Math.min(run.shift + 1, MAX_PAUSE_SHIFT);
  }

  #count(source: DefragSource, moved: number): void {
    const counts = this.counts[source];
    counts.moved += moved;
    counts.steps++;
    counts.longestStep = Math.max(counts.longestStep, moved);
    this.#tokens[source]?.spend(moved);
  }

  #tokenOf(source: DefragSource, now: number): number {
    return this.#tokens[source]?.available(now) ?? 0;
  }

  /** Is enough free for a block, above a mark of the pool? */
  #suits(pool: Pool, order: number, mark: number): boolean {
    if (!this.#mayServe(pool)) return false;
    const free = pool.alloc.nrFree() + pool.alloc.pcpPages();
    return free - GAP * 2 ** order > Math.max(0, pool.marks[mark] as number);
  }

  /** A realtime pool is never compacted (spec 9.A, class realtime). */
  #mayServe(pool: Pool): boolean {
    if (pool.managed === 0) return false;
    return pool.kind === 'zone' || !hasPoolTable(this.#m) || attrsOf(this.#m, pool.id).class !== 'realtime';
  }

  #pools(): Pool[] {
    return this.#m.pools.filter((p) => this.#mayServe(p));
  }

  #runOf(pool: Pool): Run {
    let run = this.#runs.get(pool.id);
    if (run === undefined) this.#runs.set(pool.id, (run = { maker: undefined, until: 0, shift: 0 }));
    return run;
  }

  /** Level of each pool now, and its free blocks of the largest order that has a threshold. Cost O(pageblocks). */
  levels(): { readonly pool: Pool; readonly level: Level; readonly blocks: number }[] {
    const { thresholds } = this.#settings;
    const largest = thresholds.reduce((n, t) => Math.max(n, t.order), 0);
    return this.#pools().map((pool) => {
      const { level } = needOf(pool, thresholds);
      return { pool, level, blocks: freeBlocks(pool, largest) };
    });
  }
}
