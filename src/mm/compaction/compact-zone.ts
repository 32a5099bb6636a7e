// Compaction of one zone: what moves goes from its bottom to its top, until a large piece is free in one.
//
//   zone start                                                                            zone end
//   │ migrate scanner ──>                                                   <── free scanner │
//   │ takes up to 32 pages of a pageblock                 takes free chunks for them, as needed │
//   └──────────────────────────────── meet: finished ────────────────────────────────────────┘
//
//   round = finished? ─no─> isolate up to 32 pages ──> each: target, stop its users, copy, switch ──> source is free
//             │yes          (all the rest of the         (fault, pin ...: target given back,          (or captured)
//             v              pageblock from its           the page stays)
//           report           second round on)
//
// CompactWork runs in steps; between two of them others may do what they like: alloc, free, pin, take memory offline. So a
// step leaves nothing in anybody's hands, and starts by looking again. compactZone runs to the end without a pause.
//
// Neither scanner looks at free frames one by one: free chunks come from the area's bitmaps, and a whole chunk or
// allocation is one look. (Linux samples instead: it strides by 32, and searches its lists for a place to start at.)
//
// Invariants (rules CP1, CP12, CP31, CP32): no page is lost, doubled or torn, and no frame leaves the pool; between steps every
// frame is free, used or on a per-CPU list; a run ends, because the migrate scanner goes forward in each round, and never
// past the free scanner.
//
// Follows Linux v6.12 mm/compaction.c: compact_zone(), isolate_migratepages(), isolate_freepages(), __compact_finished();
// mm/migrate.c: migrate_pages(); mm/page_alloc.c: compaction_capture() (spec 2.11). What differs: docs/spec/compaction.md.

import { assert } from '#base/assert';
import {
  MIGRATE_CMA,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  type MigrateType,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { type MigrateMode, moverAt, splitAllocation } from '../migrate.ts';
import type { ZoneIndex } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { attrsOf } from '../pools/pool-table.ts';
import { KIND_HEAD0, KIND_MASK, KIND_NONE, META_DISPLACED, META_PINNED, META_WRITEBACK } from '../section.ts';
import { COMPACT_CLUSTER, type CompactOptions, type CompactReport, type CompactResult } from './compact-result.ts';
import {
  type CompactState,
  compactionRestarting,
  compactStateOf,
  isOneLargePage,
  lastPageblock,
  resetCachedPositions,
  resetIsolationSuitable,
  type ZoneRow,
} from './compact-state.ts';
import { isHead, isolatable } from './migratable.ts';
import { compactionSuitable, mayIsolateFree, suitablePageFree, watermarkOk } from './suitability.ts';
import { Targets } from './targets.ts';

export type StepSize =
  /** One allocation. */
  | 'page'
  /** A round: up to 32 pages. */
  | 'cluster';

const NEVER = -1;
/** What a large page is not split with: an extra reference, storage that reads it; a displaced one is kremap's. */
const NEVER_SPLIT = META_PINNED | META_WRITEBACK | META_DISPLACED;
/** A page that had to be written back is tried once more: it is clean by then, or storage is still at it. */
const TRIES = 2;

const pageblockOf = (index: number): number => index & -PAGEBLOCK_PAGES;
const isMovableType = (type: number): boolean => type === MIGRATE_MOVABLE || type === MIGRATE_CMA;

/** What became of the pages that a round isolated. */
type Moving = 'moved' | 'some-failed' | 'no-room';

export class CompactWork {
  readonly m: Machine;
  readonly poolId: number;
  readonly order: number;
  readonly mode: MigrateMode;
  readonly migratetype: MigrateType;
  finished = false;
  /** Set when it is finished. */
  result: CompactResult | undefined;
  captured = NEVER;
  moved = 0;
  failed = 0;
  migrateScanned = 0;
  freeScanned = 0;
  visits = 0;
  freeVisits = 0;
  rounds = 0;

  readonly #o: CompactOptions;
  readonly #direct: boolean;
  readonly #ignoreSkip: boolean;
  #began = false;
  #wholeZone: boolean;
  /** PageIndex that each scanner is at. */
  #migrateAt = 0;
  #freeAt = 0;
  /** Frames from which pages were taken last: its pageblock's first. */
  #lastMigrated = NEVER;
  /** The rest of the pageblock is isolated at once. */
  #finishPageblock = false;
  /** A round failed in part: the same pageblock again, without asking whether it is over. */
  #rescan = false;
  #updateCached = false;
  /** A round takes so many pages; more only to finish a pageblock, and only without pause. */
  #cluster = COMPACT_CLUSTER;
  #stepping = false;
  /** Heads that this round isolated; the last is moved first. */
  readonly #isolated: number[] = [];
  #toMove = 0;
  readonly #targets = new Targets();
  /** Pageblocks that this round's free scanner marked as used up. */
  readonly #usedUp: number[] = [];

  /**
   * @param pool     a zone, or a user pool; a realtime pool is never compacted: skipped (spec 9.A)
   * @param options  see CompactOptions
   */
  constructor(m: Machine, pool: Pool, options: CompactOptions) {
    assert(options.order >= -1 && options.order <= 10, 'an order is 0 to 10, or ORDER_ALL', { order: options.order });
    this.m = m;
    this.poolId = pool.id;
    this.order = options.order;
    this.mode = options.mode;
    this.migratetype = options.migratetype ?? MIGRATE_MOVABLE;
    this.#o = options;
    this.#direct = options.direct ?? false;
    this.#wholeZone = options.wholeZone ?? false;
    this.#ignoreSkip = options.ignoreSkip ?? false;
  }

  get report(): CompactReport {
    const { captured, moved, failed, migrateScanned, freeScanned, visits, freeVisits, rounds } = this;
    const result = this.result ?? 'partial-skipped';
    return { result, captured, moved, failed, migrateScanned, freeScanned, visits, freeVisits, rounds };
  }

  get #pool(): Pool {
    return this.m.pools[this.poolId] as Pool; // pools are never taken off the list
  }

  get #row(): ZoneRow {
    return compactStateOf(this.m).row(this.#pool);
  }

  get #hints(): CompactState {
    return compactStateOf(this.m);
  }

  // ------------------------------------------------------------------------------------------------------- running

  /**
   * One step: at most so much is isolated and moved. Afterwards nothing is in flight.
   * @returns is it over? Cost: what was scanned; O(frames of the zone) at worst, when nothing is to be found
   */
  step(size: StepSize = 'cluster'): boolean {
    if (this.finished) return true;
    this.#stepping = true;
    this.#cluster = size === 'page' ? 1 : COMPACT_CLUSTER;
    if (!this.#began) this.#begin();
    if (!this.finished) this.#round();
    if (!this.finished) this.#pause();
    return this.finished;
  }

  /** To the end. Bounded by the frames of the zone. */
  run(): CompactReport {
    this.#stepping = false;
    this.#cluster = COMPACT_CLUSTER;
    if (!this.finished && !this.#began) this.#begin();
    while (!this.finished) this.#round();
    return this.report;
  }

  /** Gives up: per-CPU lists work as before. Also where the machine is about to be restored to another moment. */
  cancel(): void {
    if (!this.finished) this.#end(this.#began ? 'contended' : 'skipped');
  }

  #begin(): void {
    this.#began = true;
    const { m, order, migratetype } = this;
    const pool = this.#pool;
    if (pool.kind === 'user' && attrsOf(m, pool.id).class === 'realtime') return this.#end('skipped');
    if (this.#o.perCpuLists === 'off') pool.alloc.disable();
    else pool.alloc.drain();
    if (order >= 0 && this.#o.done === undefined) {
      const top = this.#o.topZone ?? (pool.zone as ZoneIndex);
      if (watermarkOk(pool, order, 'min', top, migratetype === MIGRATE_MOVABLE)) return this.#end('success');
      if (compactionSuitable(m, pool, order, top) !== 'continue') return this.#end('skipped');
    }
    const row = this.#row;
    if (order >= 0 && compactionRestarting(row, order)) resetIsolationSuitable(m, pool);
    const { base } = pool;
    const last = lastPageblock(pool);
    const sync = this.mode === 'async' ? 0 : 1;
    if (this.#wholeZone) {
      this.#migrateAt = base;
      this.#freeAt = last;
    } else {
      const end = base + pool.pages;
      if (row.cachedFree < base || row.cachedFree >= end) row.cachedFree = last;
      this.#freeAt = row.cachedFree;
      if (row.cachedMigrate[sync] < base || row.cachedMigrate[sync] >= end) {
        row.cachedMigrate[0] = row.cachedMigrate[1] = base;
      }
      this.#migrateAt = row.cachedMigrate[sync];
      if (this.#migrateAt <= row.initMigrate) this.#wholeZone = true;
    }
    // Until a pageblock has something to isolate, it does not matter in which mode there was nothing.
    this.#updateCached = sync === 0 && row.cachedMigrate[0] === row.cachedMigrate[1];
  }

  #round(): void {
    if (!this.#rescan) {
      const over = this.#isFinished();
      if (over !== undefined) return this.#end(over);
      this.#finishPageblock = this.#lastMigrated >= 0 && this.#lastMigrated === pageblockOf(this.#migrateAt);
    }
    this.#rescan = false;
    this.rounds++;
    if (!this.#isolateMigratePages()) {
      const { cachedMigrate } = this.#row;
      if (this.#updateCached) cachedMigrate[1] = cachedMigrate[0];
      return this.#leaveBlock();
    }
    this.#updateCached = false;
    this.#lastMigrated = pageblockOf(this.#migrateAt - 1);
    const moving = this.#migrateIsolated();
    if (moving === 'no-room' && !this.#met()) return this.#end('contended');
    const inside = this.#migrateAt % PAGEBLOCK_PAGES !== 0;
    if (moving !== 'moved' && inside && !this.#ignoreSkip && !this.#finishPageblock && this.mode !== 'sync') {
      // What is left of the pageblock is of no use to the request: it is gone through once, and marked.
      this.#finishPageblock = true;
      this.#rescan = true;
      if (this.order === PAGEBLOCK_ORDER) this.#lastMigrated = NEVER;
      return;
    }
    if (this.captured >= 0) return this.#end('success');
    this.#leaveBlock();
  }

  /** Behind the piece that pages were taken from: what waits on per-CPU lists may complete it. */
  #leaveBlock(): void {
    if (this.order <= 0 || this.#lastMigrated < 0) return;
    if (this.#lastMigrated >= (this.#migrateAt & -(2 ** this.order))) return;
    this.#pool.alloc.drain();
    this.#lastMigrated = NEVER;
  }

  #met(): boolean {
    return this.#freeAt >>> PAGEBLOCK_ORDER <= this.#migrateAt >>> PAGEBLOCK_ORDER;
  }

  /** compact_finished(). @returns undefined to go on */
  #isFinished(): CompactResult | undefined {
    const pool = this.#pool;
    if (this.#met()) {
      const row = this.#row;
      resetCachedPositions(row, pool);
      if (this.#direct) row.flush = true;
      return this.#wholeZone ? 'complete' : 'partial-skipped';
    }
    if (this.#o.done !== undefined) return this.#o.done(pool) ? 'success' : undefined;
    // A pageblock is gone through to its end, so that a fallback will not mix it.
    if (this.order < 0 || this.#migrateAt % PAGEBLOCK_PAGES !== 0) return undefined;
    return suitablePageFree(pool, this.order, this.migratetype) ? 'success' : undefined;
  }

  /** Between two steps: targets go back, and the free scanner with them. */
  #pause(): void {
    const low = this.#targets.release(this.#pool);
    if (low >= 0) {
      const row = this.#row;
      this.#freeAt = low;
      row.cachedFree = Math.max(row.cachedFree, pageblockOf(low));
      for (const pb of this.#usedUp) if (pb <= low) this.#hints.clearSkip(pb);
    }
    this.#usedUp.length = 0;
  }

  #end(result: CompactResult): void {
    const { m } = this;
    const pool = this.#pool;
    const low = this.#targets.release(pool);
    if (low >= 0) {
      const row = this.#row;
      row.cachedFree = Math.max(row.cachedFree, pageblockOf(low)); // back, never forward: it may have been reset
    }
    if (this.#began && this.#o.perCpuLists === 'off' && pool.alloc.front.settings().disabled > 0) pool.alloc.enable();
    m.vmstat.compact_migrate_scanned += this.migrateScanned;
    m.vmstat.compact_free_scanned += this.freeScanned;
    this.finished = true;
    // Whatever ended the run: who captured a page has what it came for (compact_zone_order()).
    this.result = this.captured >= 0 ? 'success' : result;
  }

  // ------------------------------------------------------------------------------------------- the migrate scanner

  /** isolate_migratepages(): from the next pageblock that will do. @returns whether anything was isolated */
  #isolateMigratePages(): boolean {
    const pool = this.#pool;
    const { owner } = this.m.owners;
    let blockEnd = pageblockOf(this.#migrateAt) + PAGEBLOCK_PAGES;
    for (; blockEnd <= this.#freeAt; this.#migrateAt = blockEnd, blockEnd += PAGEBLOCK_PAGES) {
      const pb = blockEnd - PAGEBLOCK_PAGES;
      this.visits += this.#visit;
      if (owner[pb >>> PAGEBLOCK_ORDER] !== pool.id) continue;
      if (this.#migrateAt === pb && !this.#ignoreSkip && this.#hints.skips(pb)) continue;
      if (!this.#isSource(pool, pb)) {
        this.#cacheMigrate(blockEnd);
        continue;
      }
      this.visits -= this.#visit; // its first frame is counted by the scan
      this.#isolateBlock(pool, pb, blockEnd);
      break;
    }
    return this.#isolated.length > 0;
  }

  get #visit(): number {
    return this.#o.countVisits === true ? 1 : 0;
  }

  /** suitable_migration_source() */
  #isSource(pool: Pool, pb: number): boolean {
    if (isOneLargePage(this.m, pb)) return false;
    if (this.mode !== 'async' || !this.#direct) return true;
    const type = pool.alloc.area.typeOf(pb - pool.base);
    return this.migratetype === MIGRATE_MOVABLE ? isMovableType(type) : type === this.migratetype;
  }

  /** update_cached_migrate(): one pageblock beyond what was scanned, as in Linux. */
  #cacheMigrate(scanned: number): void {
    const { cachedMigrate } = this.#row;
    const to = pageblockOf(scanned) + PAGEBLOCK_PAGES;
    cachedMigrate[0] = Math.max(cachedMigrate[0], to);
    if (this.mode !== 'async') cachedMigrate[1] = Math.max(cachedMigrate[1], to);
  }

  /** isolate_migratepages_block(): [migrateAt, end) of the pageblock at pb. */
  #isolateBlock(pool: Pool, pb: number, end: number): void {
    const { m, order, mode } = this;
    const { sections } = m;
    const { area } = pool.alloc;
    const visit = this.#visit;
    const start = this.#migrateAt;
    const fromStart = start === pb;
    // An async request wants its piece at once: where one page of it stays, the others may as well.
    const giveUp = this.#direct && mode === 'async';
    const piece = giveUp ? 2 ** order : PAGEBLOCK_PAGES;
    const cluster = this.#finishPageblock && !this.#stepping ? Number.POSITIVE_INFINITY : this.#cluster;
    let nextPiece = (start & -piece) + piece;
    let marked = false;
    let isolated = 0;
    let i = start;
    while (i < end) {
      if (giveUp && i >= nextPiece) {
        if (isolated > 0) break;
        nextPiece = (i & -piece) + piece;
      }
      this.visits += visit;
      const meta = sections.metaAt(i);
      const kind = meta & KIND_MASK;
      let pages = 1;
      if (kind === KIND_NONE) {
        const head = area.headOf(i - pool.base);
        if (head >= 0) {
          i = pool.base + head + 2 ** area.orderAt(head);
          continue;
        }
      } else if (isHead(kind)) {
        pages = 2 ** (kind - KIND_HEAD0);
        if (isolatable(m, i, meta, order, mode) && m.faultAt?.('compact.isolate') !== true) {
          if (!marked && !this.#ignoreSkip && fromStart) this.#hints.setSkip(pb);
          marked = true;
          this.#isolated.push(i);
          this.#toMove += pages;
          isolated += pages;
          i += pages;
          if (this.#toMove >= cluster) break;
          continue;
        }
      }
      i += pages;
      if (!giveUp) continue;
      if (isolated > 0) {
        this.#isolated.length = 0;
        this.#toMove = 0;
        isolated = 0;
      }
      if (i <= nextPiece) {
        i = nextPiece;
        nextPiece += piece;
      }
    }
    i = Math.min(i, end);
    if (i === end && (isolated === 0 || this.#finishPageblock)) {
      if (fromStart && !marked) this.#hints.setSkip(pb);
      this.#cacheMigrate(i);
    }
    this.migrateScanned += i - start;
    m.vmstat.compact_isolated += isolated;
    this.#migrateAt = i;
  }

  // --------------------------------------------------------------------------------------------------- the movement

  /** migrate_pages() of what the round isolated. */
  #migrateIsolated(): Moving {
    const heads = this.#isolated;
    let moving: Moving = 'moved';
    for (let head = heads.pop(); head !== undefined; head = heads.pop()) {
      const came = this.#migrateOne(head, heads);
      if (came !== 'moved') moving = came;
      if (came === 'no-room') break;
    }
    heads.length = 0;
    this.#toMove = 0;
    return moving;
  }

  /** @param heads  parts of a page that had to be split are added to it */
  #migrateOne(head: number, heads: number[]): Moving {
    const { m } = this;
    const meta = m.sections.metaAt(head);
    const order = (meta & KIND_MASK) - KIND_HEAD0;
    const mover = moverAt(m, head);
    assert(mover !== undefined, 'a page that was isolated has a mover', { head, order });
    const to = this.#target(order);
    if (to < 0) {
      if (order > 0 && mover.splits && (meta & NEVER_SPLIT) === 0) {
        splitAllocation(m, head);
        for (let i = head + 2 ** order - 1; i >= head; i--) heads.push(i);
        return 'moved';
      }
      this.#fail(order);
      return 'no-room';
    }
    this.#toMove -= 2 ** order;
    let held = mover.isolate(m, head, this.mode);
    for (let k = 1; k < TRIES && held === 'writeback' && this.mode === 'sync'; k++)
      held = mover.isolate(m, head, 'sync');
    if (held !== undefined || m.faultAt?.('compact.migrate') === true || m.faultAt?.('compact.copy') === true) {
      this.#targets.giveBack(to, order);
      this.#fail(order);
      return 'some-failed';
    }
    const pool = this.#pool;
    mover.transfer(m, head, to, order, pool);
    if (!this.#capture(pool, head, order)) pool.alloc.freeToArea(head - pool.base, order);
    this.moved += 2 ** order;
    m.vmstat.pgmigrate_success += 2 ** order;
    return 'moved';
  }

  #fail(order: number): void {
    this.failed += 2 ** order;
    this.m.vmstat.pgmigrate_fail += 2 ** order;
  }

  /**
   * compaction_capture(): would these frames, given back, complete a piece of the wanted order? Then the piece is the
   * caller's, and never was free. Not for a request that would mix a pageblock.
   */
  #capture(pool: Pool, head: number, order: number): boolean {
    const want = this.order;
    if (this.#o.capture !== true || this.captured >= 0 || want < 0 || want >= 10) return false;
    const { area } = pool.alloc;
    const type = area.typeOf(head - pool.base);
    if (type === MIGRATE_CMA || type === MIGRATE_ISOLATE) return false;
    if (want < PAGEBLOCK_ORDER && type === MIGRATE_MOVABLE && this.migratetype !== MIGRATE_MOVABLE) return false;
    let at = head - pool.base;
    for (let o = order; o < want; o++) {
      if (area.orderAt(at ^ (1 << o)) !== o) return false;
      at &= ~(1 << o);
    }
    let mine = head - pool.base;
    for (let o = order; o < want; o++) {
      pool.alloc.take(mine ^ (1 << o), o);
      mine &= ~(1 << o);
    }
    this.captured = pool.base + at;
    return true;
  }

  // ----------------------------------------------------------------------------------------------- the free scanner

  /** compaction_alloc(): 2^order frames to move to; -1 = none. */
  #target(order: number): number {
    const at = this.#targets.alloc(order);
    if (at >= 0) return at;
    this.#isolateFreePages();
    return this.#targets.alloc(order);
  }

  /** isolate_freepages(): from the top down, until there is room for what was isolated. */
  #isolateFreePages(): void {
    const before = this.visits;
    this.#scanForFree();
    this.freeVisits += this.visits - before;
  }

  #scanForFree(): void {
    const pool = this.#pool;
    const { owner } = this.m.owners;
    let start = this.#freeAt;
    let pb = pageblockOf(start);
    const low = pageblockOf(this.#migrateAt) + PAGEBLOCK_PAGES;
    for (; pb >= low; pb -= PAGEBLOCK_PAGES, start = pb) {
      const end = pb + PAGEBLOCK_PAGES;
      this.visits += this.#visit;
      if (owner[pb >>> PAGEBLOCK_ORDER] !== pool.id || !this.#isTarget(pool, pb)) continue;
      if (!this.#ignoreSkip && this.#hints.skips(pb)) continue;
      this.visits -= this.#visit;
      start = this.#isolateFreeBlock(pool, start, end);
      if (start === end) {
        this.#hints.setSkip(pb);
        this.#usedUp.push(pb);
        const row = this.#row;
        row.cachedFree = Math.min(row.cachedFree, pb - PAGEBLOCK_PAGES);
      }
      if (this.#targets.pages >= this.#toMove) {
        if (start === end) start = pb - PAGEBLOCK_PAGES;
        break;
      }
      if (start < end) break; // refused: no further down either
    }
    this.#freeAt = start;
  }

  /** suitable_migration_target(), and never a pageblock that somebody isolates. */
  #isTarget(pool: Pool, pb: number): boolean {
    const { area } = pool.alloc;
    const i = pb - pool.base;
    const head = area.headOf(i);
    const large = this.order > 0 ? this.order : PAGEBLOCK_ORDER;
    if (head >= 0 && area.orderAt(head) >= large) return false;
    const type = area.typeOf(i);
    return isMovableType(type) || (this.#o.anyTarget === true && type !== MIGRATE_ISOLATE);
  }

  /** isolate_freepages_block(): free chunks in [start, end), as many as needed. @returns where it stopped */
  #isolateFreeBlock(pool: Pool, start: number, end: number): number {
    const { m } = this;
    const { area } = pool.alloc;
    let at = end;
    let taken = 0;
    let seen = start;
    let over = false;
    // What others gave back meanwhile may have merged across the place where the scan stopped.
    const covering = area.headOf(start - pool.base);
    const from = covering >= 0 ? covering : start - pool.base;
    if (area.freeIn(from, end - pool.base) > 0) {
      area.forEachFree(from, end - pool.base, (i, order) => {
        if (over) return;
        const head = i + pool.base;
        this.visits += this.#entriesIn(seen, head) + this.#visit;
        if (!mayIsolateFree(pool, order) || m.faultAt?.('compact.target') === true) {
          over = true;
          at = seen = head;
          return;
        }
        this.#targets.take(pool, head, order);
        taken += 2 ** order;
        seen = head + 2 ** order;
        if (this.#targets.pages < this.#toMove) return;
        over = true;
        at = seen;
      });
    }
    this.visits += this.#entriesIn(seen, at);
    at = Math.min(at, end);
    this.freeScanned += at - start;
    m.vmstat.compact_isolated += taken;
    return at;
  }

  /** Entries that a scanner without an index reads in [start, end), none of it free chunks; 0 unless they are to be counted. */
  #entriesIn(start: number, end: number): number {
    if (this.#visit === 0) return 0;
    let n = 0;
    for (let i = start; i < end; n++) {
      const kind = this.m.sections.metaAt(i) & KIND_MASK;
      i += isHead(kind) ? 2 ** (kind - KIND_HEAD0) : 1;
    }
    return n;
  }
}

/** A run over one zone to its end: see CompactOptions. Never refuses; the report says how it ended. */
export const compactZone = (m: Machine, pool: Pool, options: CompactOptions): CompactReport =>
  new CompactWork(m, pool, options).run();
