// What compaction remembers of a zone between two runs: where it stopped, where it found nothing, how often it failed.
//
//   zone start   cachedMigrate (async, sync)                      cachedFree    zone end
//   │ done │ done │───────>                                          <──────│ done │
//
//   one row a pool
//   cachedMigrate[2]   PageIndex   where the migrate scanner of async runs, and of sync ones, goes on; -1 = nowhere yet
//   cachedFree         PageIndex   where the free scanner goes on, the first frame of its pageblock; -1 = nowhere yet
//   initMigrate        PageIndex   a run that starts here or before has looked at the whole zone; -1 = never known
//   flush              boolean     a direct compaction ended with the scanners meeting: kswapd resets the hints before it sleeps
//   considered, shift  0..64, 0..6 deferral: so many requests were turned away, of 2^shift
//   orderFailed        0..11       requests below this order are not turned away
//
//   skip     one bit a pageblock, of the whole machine: nothing was found there, whichever scanner looked. A hint.
//
// Positions are of the dense index: the order of addresses, but for memory that was added where other memory had gone.
// Rows and bits are copied to forks, and come back with a restore.
//
// Follows Linux v6.12 mm/compaction.c: defer_compaction(), compaction_deferred(), compaction_defer_reset(),
// compaction_restarting(), reset_cached_positions(), __reset_isolation_suitable() (spec 2.11).

import { MIGRATE_MOVABLE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import type { Pool } from '../pool.ts';
import { KIND_HEAD0, KIND_MASK, KIND_NONE, KIND_TAIL } from '../section.ts';
import { isLru } from './migratable.ts';

/** COMPACT_MAX_DEFER_SHIFT: no more than 64 requests are turned away in a row. */
export const MAX_DEFER_SHIFT = 6;
const NOWHERE = -1;

export type ZoneRow = {
  readonly cachedMigrate: [number, number];
  cachedFree: number;
  initMigrate: number;
  initFree: number;
  flush: boolean;
  considered: number;
  shift: number;
  orderFailed: number;
};

const newRow = (): ZoneRow => ({
  cachedMigrate: [NOWHERE, NOWHERE],
  cachedFree: NOWHERE,
  initMigrate: NOWHERE,
  initFree: NOWHERE,
  flush: false,
  considered: 0,
  shift: 0,
  orderFailed: 0,
});

export class CompactState {
  readonly #rows: (ZoneRow | undefined)[] = [];
  #skip = new Uint32Array(64);

  row(pool: Pool): ZoneRow {
    let row = this.#rows[pool.id];
    if (row === undefined) this.#rows[pool.id] = row = newRow();
    return row;
  }

  /** Of the pageblock that holds a frame of the dense index. */
  skips(index: number): boolean {
    const pb = index >>> PAGEBLOCK_ORDER;
    return ((this.#skip[pb >>> 5] ?? 0) & (1 << (pb & 31))) !== 0;
  }

  setSkip(index: number): void {
    const pb = index >>> PAGEBLOCK_ORDER;
    if (pb >>> 5 >= this.#skip.length) {
      const grown = new Uint32Array(Math.max(2 * this.#skip.length, (pb >>> 5) + 1));
      grown.set(this.#skip);
      this.#skip = grown;
    }
    this.#skip[pb >>> 5] |= 1 << (pb & 31);
  }

  clearSkip(index: number): void {
    const pb = index >>> PAGEBLOCK_ORDER;
    if (pb >>> 5 < this.#skip.length) this.#skip[pb >>> 5] &= ~(1 << (pb & 31));
  }

  copy(): CompactState {
    const out = new CompactState();
    this.#rows.forEach((row, id) => {
      if (row !== undefined) out.#rows[id] = { ...row, cachedMigrate: [...row.cachedMigrate] };
    });
    out.#skip = this.#skip.slice();
    return out;
  }
}

const states = machineState(() => new CompactState());

export const compactStateOf = (m: Machine): CompactState => states.of(m);

/** A zone's row. To be read; written by compaction only. */
export const compactRow = (m: Machine, pool: Pool): ZoneRow => states.of(m).row(pool);

// --------------------------------------------------------------------------------------------------- where it stopped

/** First frame of the zone's last pageblock: where a free scanner starts. */
export const lastPageblock = (pool: Pool): number => pool.base + pool.pages - PAGEBLOCK_PAGES;

/** Both scanners met: the next run starts anew. */
export function resetCachedPositions(row: ZoneRow, pool: Pool): void {
  row.cachedMigrate[0] = row.cachedMigrate[1] = pool.base;
  row.cachedFree = lastPageblock(pool);
}

/**
 * Before kswapd sleeps: pageblocks in which a sample finds a page of the LRU, or a free one, are looked at again; the
 * scanners start at the first and the last of them. Nothing happens unless a direct compaction has ended since.
 * Cost O(pageblocks).
 */
export function resetIsolationSuitable(m: Machine, pool: Pool): void {
  const state = states.of(m);
  const row = state.row(pool);
  if (!row.flush) return;
  row.flush = false;
  let low = pool.base;
  let high = pool.base + pool.pages - 1;
  let resetMigrate = high;
  let resetFree = low;
  let sourceSet = false;
  let freeSet = false;
  for (; low < high; low += PAGEBLOCK_PAGES, high -= PAGEBLOCK_PAGES) {
    if (resetOne(m, state, pool, low, true, sourceSet) && low < resetMigrate) {
      sourceSet = true;
      resetMigrate = low;
      row.initMigrate = low;
      row.cachedMigrate[0] = row.cachedMigrate[1] = low;
    }
    if (resetOne(m, state, pool, high, freeSet, true) && high > resetFree) {
      freeSet = true;
      resetFree = high;
      row.initFree = row.cachedFree = startOf(high);
    }
  }
  if (resetMigrate >= resetFree) {
    row.cachedMigrate[0] = row.cachedMigrate[1] = low;
    row.cachedFree = startOf(high);
  }
}

/** The cached position is the first frame of a pageblock, always. (Here, Linux leaves it at the last one.) */
const startOf = (index: number): number => index - (index % PAGEBLOCK_PAGES);

/** Every eighth frame is looked at. */
const SAMPLE = 8;

/** __reset_isolation_pfn(). @returns is the pageblock one to start with? */
function resetOne(
  m: Machine,
  state: CompactState,
  pool: Pool,
  index: number,
  source: boolean,
  target: boolean,
): boolean {
  const pb = startOf(index);
  if (m.owners.owner[pb >>> PAGEBLOCK_ORDER] !== pool.id || isOneLargePage(m, pb)) return false;
  if (source && target && !state.skips(pb)) return true;
  const { area } = pool.alloc;
  if (!source && target && area.typeOf(pb - pool.base) !== MIGRATE_MOVABLE) return false;
  for (let i = pb; i < pb + PAGEBLOCK_PAGES; i += SAMPLE) {
    const kind = m.sections.metaAt(i) & KIND_MASK;
    const hit = kind === KIND_NONE ? target && area.headOf(i - pool.base) >= 0 : source && isLru(m, i);
    if (hit) {
      state.clearSkip(pb);
      return true;
    }
  }
  return false;
}

/** Is the pageblock part of one allocation of a pageblock or more? */
export function isOneLargePage(m: Machine, pb: number): boolean {
  const kind = m.sections.metaAt(pb) & KIND_MASK;
  if (kind === KIND_TAIL) return true; // allocations are aligned: a tail at a pageblock's start is of one of order 10
  return kind >= KIND_HEAD0 + PAGEBLOCK_ORDER && kind < KIND_TAIL;
}

// ------------------------------------------------------------------------------------------------------- deferral

/** A run in vain: twice as many requests as the last time are turned away, 64 at most. */
export function deferCompaction(row: ZoneRow, order: number): void {
  row.considered = 0;
  row.shift = Math.min(row.shift + 1, MAX_DEFER_SHIFT);
  row.orderFailed = Math.min(row.orderFailed, order);
}

/** Is this request turned away? It is counted. */
export function compactionDeferred(row: ZoneRow, order: number): boolean {
  if (order < row.orderFailed) return false;
  const limit = 2 ** row.shift;
  row.considered = Math.min(row.considered + 1, limit);
  return row.considered < limit;
}

/** A page of the order is expected (`allocated` false), or somebody has it (true). */
export function deferReset(row: ZoneRow, order: number, allocated: boolean): void {
  if (allocated) {
    row.considered = 0;
    row.shift = 0;
  }
  if (order >= row.orderFailed) row.orderFailed = order + 1;
}

/** Is this the run after 64 requests were turned away? Then hints are reset before it. */
export const compactionRestarting = (row: ZoneRow, order: number): boolean =>
  order >= row.orderFailed && row.shift === MAX_DEFER_SHIFT && row.considered >= 2 ** row.shift;
