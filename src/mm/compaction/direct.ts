// Direct compaction: a request that found nothing makes its page itself, harder each time.
//
//   request of order > 0, nothing above min
//      │ order > 3, or not Movable
//      v   async        pageblocks of its own type, nothing that waits              ──> page: captured, or from the lists
//      v   reclaim      if there is somebody who does it                            ──> page
//      v   sync-light   any pageblock                                               ──> page
//      v   sync-full    (orders up to 3) the whole zone, hints ignored, any target  ──> page
//     failed
//
// Which zones: those of the request, in order, but for those where it failed not long ago (deferral). Orders above 3 may
// fail: they are not tried harder than sync-light. Between two priorities the lists are looked at, and reclaim is asked; a
// success that found no page is repeated, 16 times at most (4 above order 3).
//
//   priority     mode         from the zone's ends, hints ignored, any target    deferred
//   async        async        no                                                 yes
//   sync-light   sync-light   no                                                 yes
//   sync-full    sync-light   yes                                                no
//
// Follows Linux v6.12 mm/compaction.c: try_to_compact_pages(), compact_zone_order(); mm/page_alloc.c:
// __alloc_pages_direct_compact(), should_compact_retry(), __alloc_pages_slowpath() (spec 2.11).

import type { NodeId } from '#base/units';
import type { SlowPath, SlowRequest } from '../alloc-path.ts';
import { MIGRATE_MOVABLE } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { ALLOC_CMA, ALLOC_KEEP_PCP, ALLOC_NOFRAGMENT } from '../page-alloc.ts';
import type { Pool } from '../pool.ts';
import { COSTLY_ORDER, type CompactResult, worthier } from './compact-result.ts';
import { compactionDeferred, compactRow, deferCompaction, deferReset } from './compact-state.ts';
import { compactZone } from './compact-zone.ts';
import { kswapdSleeps } from './kcompactd.ts';
import { hasRoomToCompact, watermarkOk } from './suitability.ts';

export const COMPACT_PRIORITIES = ['async', 'sync-light', 'sync-full'] as const;
export type CompactPriority = (typeof COMPACT_PRIORITIES)[number];

/** MAX_COMPACT_RETRIES */
const MAX_RETRIES = 16;
/** MAX_RECLAIM_RETRIES: rounds of reclaim and compaction for one request. */
const MAX_ROUNDS = 16;

export type DirectReport = {
  readonly result: CompactResult;
  /** PageIndex of 2^order frames that the caller has now; -1 = none. */
  readonly captured: number;
  /** Pages whose contents were moved. */
  readonly moved: number;
};

/** Compacts the zones of a request, one after the other, until one has its page. Cost: of the runs. */
export function tryToCompactPages(m: Machine, request: SlowRequest, priority: CompactPriority): DirectReport {
  const { order, migratetype, topZone } = request;
  let result: CompactResult = 'skipped';
  let moved = 0;
  const full = priority === 'sync-full';
  for (const id of request.list) {
    const pool = m.pools[id] as Pool;
    const row = compactRow(m, pool);
    if (!full && compactionDeferred(row, order)) {
      result = worthier(result, 'deferred');
      continue;
    }
    const run = compactZone(m, pool, {
      order,
      migratetype,
      topZone,
      mode: priority === 'async' ? 'async' : 'sync-light',
      direct: true,
      capture: true,
      wholeZone: full,
      ignoreSkip: full,
      anyTarget: full,
    });
    moved += run.moved;
    result = worthier(result, run.result);
    if (run.result === 'success') {
      deferReset(row, order, false);
      return { result, captured: run.captured, moved };
    }
    if (priority !== 'async' && (run.result === 'complete' || run.result === 'partial-skipped')) {
      deferCompaction(row, order);
    }
  }
  return { result, captured: -1, moved };
}

/** The first pool of the request that is above min gives a page, if it has one. @returns PageIndex, or -1 */
function takeAboveMin(m: Machine, { list, order, migratetype, topZone }: SlowRequest): number {
  const cma = migratetype === MIGRATE_MOVABLE;
  const preferred = m.pools[list[0] as number] as Pool;
  const flags = ALLOC_KEEP_PCP | (cma ? ALLOC_CMA : 0) | (preferred.fragmentPolicy === 'never' ? ALLOC_NOFRAGMENT : 0);
  for (const id of list) {
    const pool = m.pools[id] as Pool;
    if (!watermarkOk(pool, order, 'min', topZone, cma)) continue;
    const i = pool.alloc.alloc(order, migratetype, flags);
    if (i < 0) continue;
    if (pool.node === preferred.node) pool.numa.hit++;
    else {
      pool.numa.miss++;
      preferred.numa.foreign++;
    }
    return i + pool.base;
  }
  return -1;
}

/** One try of a request: compaction, then the page that it made. Counted as a stall, unless no zone was worth it. */
export function compactDirect(
  m: Machine,
  request: SlowRequest,
  priority: CompactPriority,
): { readonly index: number; readonly result: CompactResult } {
  const { result, captured } = tryToCompactPages(m, request, priority);
  if (result === 'skipped') return { index: -1, result };
  m.vmstat.compact_stall++;
  const index = captured >= 0 ? captured : takeAboveMin(m, request);
  if (index < 0) {
    m.vmstat.compact_fail++;
    return { index, result };
  }
  const row = compactRow(m, m.poolAt(index) as Pool); // a pool hands out only frames it owns
  row.flush = false;
  deferReset(row, request.order, true);
  m.vmstat.compact_success++;
  return { index, result };
}

export type CompactionOptions = {
  /** Direct reclaim: frees pages that nobody needs now. @returns how many */
  readonly reclaim?: (m: Machine, request: SlowRequest) => number;
  /** Pages that reclaim might free in the long run: whether it is worth to go on. Default 0. */
  readonly reclaimable?: (m: Machine) => number;
  /** Orders above 3 too are tried again: __GFP_RETRY_MAYFAIL. Default false. */
  readonly retryMayFail?: boolean;
  /** False: reclaim alone, as before there was compaction. Default true. */
  readonly compact?: boolean;
};

/** should_compact_retry() */
type Retries = { priority: CompactPriority; successes: number };

function retries(m: Machine, request: SlowRequest, result: CompactResult, r: Retries, reclaimable: number): boolean {
  const { order, list, topZone } = request;
  const costly = order > COSTLY_ORDER;
  if (result === 'skipped') {
    const more = Math.floor(reclaimable / Math.max(1, order)); // all of it would be too much to pay for one page
    return list.some((id) => hasRoomToCompact(m.pools[id] as Pool, order, topZone, more));
  }
  if (result === 'success' && ++r.successes <= (costly ? MAX_RETRIES / 4 : MAX_RETRIES)) return true;
  if (r.priority !== 'sync-light' || costly) return false;
  r.priority = 'sync-full';
  r.successes = 0;
  return true;
}

/** The slow path of spec 2.11: asked by requests that found nothing above min (alloc-path.ts). */
export const compactionSlowPath =
  (options: CompactionOptions = {}): SlowPath =>
  (m, request) => {
    const made = makePage(m, request, options);
    // kswapd, woken by the request, has nothing to reclaim: it goes to sleep again.
    for (const node of new Set(Array.from(request.list, (id) => (m.pools[id] as Pool).node))) {
      kswapdSleeps(m, node as NodeId, request.order, request.topZone);
    }
    return made >= 0 ? made : 'failed';
  };

function makePage(m: Machine, request: SlowRequest, options: CompactionOptions): number {
  const { reclaim, retryMayFail, compact = true } = options;
  const { order, migratetype } = request;
  if (request.list.length === 0) return -1;
  const costly = order > COSTLY_ORDER;
  if (compact && (costly || (order > 0 && migratetype !== MIGRATE_MOVABLE))) {
    const { index } = compactDirect(m, request, 'async');
    if (index >= 0) return index;
  }
  const r: Retries = { priority: 'sync-light', successes: 0 };
  for (let k = 0; k < MAX_ROUNDS; k++) {
    const freed = reclaim?.(m, request) ?? 0;
    const reclaimed = freed > 0 ? takeAboveMin(m, request) : -1;
    if (reclaimed >= 0) return reclaimed;
    if (order === 0 || !compact) {
      if (freed === 0) return -1;
      continue;
    }
    const { index, result } = compactDirect(m, request, r.priority);
    if (index >= 0) return index;
    if (costly && retryMayFail !== true) return -1;
    // Without room for its targets compaction comes to nothing: reclaim has to make it, if there is reclaim at all.
    if (reclaim !== undefined && freed === 0) return -1;
    if (!retries(m, request, result, r, options.reclaimable?.(m) ?? 0)) return -1;
  }
  return -1;
}

/** From now on requests of this machine compact when they have to. Forks do not: install it there too. */
export function installCompaction(m: Machine, options: CompactionOptions = {}): void {
  m.slowPath = compactionSlowPath(options);
}
