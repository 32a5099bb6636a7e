// kcompactd: one daemon a node. It makes large pages for those who asked in vain, and keeps free memory in large pieces.
//
//               ┌── woken, or asked for an order ──> each zone: a page of the order, sync-light      ──> sleeps 500 ms
//   sleeps ─────┤
//               └── 500 ms are over, or triggered ─> is the node's score above `high`? each zone     ──> sleeps 500 ms;
//                                                    down to `low`                                       32 s if in vain
//
//   score of a zone   percent of its free memory that is in pieces below a pageblock
//   score of a node   the zones' scores, weighted by their size
//   low, high         100 - proactiveness, 5 at least; ten more, 100 at most: 80 and 90 by default
//
// It has no clock of its own: who has one calls kcompactdTick. Work is done to its end within the tick. Besides: what
// /proc/sys/vm/compact_memory and nodeN/compact do. A user pool is one more zone of its home node; realtime ones are left
// alone.
//
// Follows Linux v6.12 mm/compaction.c: kcompactd(), kcompactd_do_work(), wakeup_kcompactd(), fragmentation_score_node(),
// should_proactive_compact_node(), compact_node(); mm/vmscan.c: prepare_kswapd_sleep() (spec 2.11).

import type { NodeId } from '#base/units';
import { chunkCounts, extfragForOrder } from '../extfrag.ts';
import { NR_ORDERS, PAGEBLOCK_ORDER } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { ZONE_MOVABLE, type ZoneIndex } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { type CompactReport, ORDER_ALL } from './compact-result.ts';
import {
  compactionDeferred,
  compactRow,
  deferCompaction,
  deferReset,
  MAX_DEFER_SHIFT,
  resetIsolationSuitable,
} from './compact-state.ts';
import { compactZone } from './compact-zone.ts';
import { CHECK_INTERVAL_MS, kcompactdRow, type NodeRow } from './kcompactd-state.ts';
import { compactionSuitable, watermarkOk } from './suitability.ts';

/** Pools of a node that have frames, zones first, by zone. */
export const poolsOfNode = (m: Machine, node: NodeId): Pool[] =>
  m.pools
    .filter((p) => p.node === node && p.present > 0)
    .sort((a, b) => Number(a.kind === 'user') - Number(b.kind === 'user') || a.zone - b.zone || a.id - b.id);

// --------------------------------------------------------------------------------------------------------- scores

/** Percent of a zone's free memory that is of no use for huge pages. Cost O(pageblocks in use). */
export const zoneScore = (pool: Pool): number => extfragForOrder(chunkCounts(pool.alloc.area), PAGEBLOCK_ORDER);

/** The zones' scores by their share of the node, each rounded down: small zones do not count. */
export function nodeScore(m: Machine, node: NodeId): number {
  const pools = poolsOfNode(m, node);
  const present = pools.reduce((n, p) => n + p.present, 0);
  return pools.reduce((n, p) => n + Math.floor((p.present * zoneScore(p)) / (present + 1)), 0);
}

/** Above `high` proactive work starts, at `low` a zone is done. */
export function scoreMarks(m: Machine): { readonly low: number; readonly high: number } {
  const low = Math.max(100 - m.vm.compactionProactiveness, 5);
  return { low, high: Math.min(low + 10, 100) };
}

// ------------------------------------------------------------------------------------------------------- on demand

/** nodeN/compact: all zones of a node, everything that moves, waiting for storage. Cost O(frames of the node). */
export function compactNode(m: Machine, node: NodeId): CompactReport[] {
  return poolsOfNode(m, node).map((p) =>
    compactZone(m, p, { order: ORDER_ALL, mode: 'sync', wholeZone: true, ignoreSkip: true }),
  );
}

/** /proc/sys/vm/compact_memory: all nodes. */
export const compactMemory = (m: Machine): CompactReport[] => m.nodes.flatMap((node) => compactNode(m, node));

// ------------------------------------------------------------------------------------------------------ the daemon

/** Somebody found no page of the order in zones up to `topZone`. kcompactd is woken if it could do anything about it. */
export function wakeKcompactd(m: Machine, node: NodeId, order: number, topZone: ZoneIndex): void {
  if (order === 0) return;
  const row = kcompactdRow(m, node);
  row.maxOrder = Math.max(row.maxOrder, order);
  row.topZone = Math.min(row.topZone, topZone) as ZoneIndex;
  const useful = poolsOfNode(m, node).some(
    (p) =>
      p.zone <= row.topZone &&
      !watermarkOk(p, row.maxOrder, 'min', row.topZone, false) &&
      compactionSuitable(m, p, row.maxOrder, row.topZone) === 'continue',
  );
  if (useful) row.woken = true;
}

/**
 * kswapd of a node is about to sleep: hints about pageblocks are reset where a direct compaction ended in vain, and
 * kcompactd makes of what is free now what was asked for. Nothing happens while no zone is above its high mark.
 */
export function kswapdSleeps(m: Machine, node: NodeId, order: number, topZone: ZoneIndex): void {
  const pools = poolsOfNode(m, node);
  if (!pools.some((p) => p.zone <= topZone && watermarkOk(p, 0, 'high', topZone, false))) return;
  for (const p of pools) resetIsolationSuitable(m, p);
  wakeKcompactd(m, node, order, topZone);
}

export type TickOptions = {
  /** Nobody works proactively while kswapd of the node runs. Default: it never does. */
  readonly kswapdRunning?: (node: NodeId) => boolean;
};

export type TickReport = {
  readonly node: NodeId;
  readonly why: 'asked' | 'proactive';
  readonly zones: readonly CompactReport[];
};

/**
 * It is `nowMs` (any origin, never less than before): kcompactd of each node does what is due.
 *
 * @returns what was done, in order; nothing where all sleep. Cost: of the runs; else O(nodes), and at most once in 500 ms a
 *          node the score, O(pageblocks in use)
 */
export function kcompactdTick(m: Machine, nowMs: number, options: TickOptions = {}): TickReport[] {
  const done: TickReport[] = [];
  for (const node of m.nodes) {
    const row = kcompactdRow(m, node);
    if (row.sleptAtMs === undefined) fallAsleep(m, row, nowMs, CHECK_INTERVAL_MS);
    // Each time round it ends with one order less to do, or asleep.
    for (let k = 0; k <= NR_ORDERS && isAwake(row, nowMs); k++) {
      row.woken = false;
      if (row.maxOrder > 0 && !row.trigger) {
        done.push({ node, why: 'asked', zones: doWork(m, node, row) });
        fallAsleep(m, row, nowMs, CHECK_INTERVAL_MS);
        continue;
      }
      const zones = proactiveWork(m, node, options);
      if (zones !== undefined) done.push({ node, why: 'proactive', zones: zones.reports });
      row.trigger = false;
      fallAsleep(m, row, nowMs, zones?.inVain === true ? CHECK_INTERVAL_MS * 2 ** MAX_DEFER_SHIFT : CHECK_INTERVAL_MS);
    }
  }
  return done;
}

/** When the next tick has something to do; Infinity: not before somebody wakes it. */
export const nextTickMs = (m: Machine): number =>
  m.nodes.reduce((first, node) => {
    const { woken, sleptAtMs, timeoutMs } = kcompactdRow(m, node);
    return woken || sleptAtMs === undefined ? Number.NEGATIVE_INFINITY : Math.min(first, sleptAtMs + timeoutMs);
  }, Number.POSITIVE_INFINITY);

const isAwake = (row: NodeRow, nowMs: number): boolean =>
  row.woken || nowMs - (row.sleptAtMs ?? nowMs) >= row.timeoutMs;

/** Whoever asked meanwhile wakes it again at once. */
function fallAsleep(m: Machine, row: NodeRow, nowMs: number, timeoutMs: number): void {
  row.sleptAtMs = nowMs;
  row.timeoutMs = m.vm.compactionProactiveness === 0 ? Number.POSITIVE_INFINITY : timeoutMs;
  if (row.maxOrder > 0 || row.trigger) row.woken = true;
}

/** kcompactd_do_work(): each zone that has no page of the order. */
function doWork(m: Machine, node: NodeId, row: NodeRow): CompactReport[] {
  const { maxOrder: order, topZone } = row;
  const reports: CompactReport[] = [];
  m.vmstat.compact_daemon_wake++;
  for (const pool of poolsOfNode(m, node)) {
    if (pool.zone > topZone) continue;
    const zone = compactRow(m, pool);
    if (compactionDeferred(zone, order)) continue;
    if (watermarkOk(pool, order, 'min', pool.zone as ZoneIndex, false)) continue;
    if (compactionSuitable(m, pool, order) !== 'continue') continue;
    const report = compactZone(m, pool, { order, mode: 'sync-light', topZone });
    if (report.result === 'success') deferReset(zone, order, false);
    else if (report.result === 'partial-skipped' || report.result === 'complete') {
      pool.alloc.drain();
      deferCompaction(zone, order);
    }
    count(m, report);
    reports.push(report);
  }
  if (row.maxOrder <= order) row.maxOrder = 0;
  if (row.topZone >= topZone) row.topZone = ZONE_MOVABLE;
  return reports;
}

/** proactive_compact_node(), if it is worth it. `inVain`: the score did not go down. */
function proactiveWork(
  m: Machine,
  node: NodeId,
  options: TickOptions,
): { readonly reports: CompactReport[]; readonly inVain: boolean } | undefined {
  if (m.vm.compactionProactiveness === 0 || options.kswapdRunning?.(node) === true) return undefined;
  const { low, high } = scoreMarks(m);
  const before = nodeScore(m, node);
  if (before <= high) return undefined;
  const reports = poolsOfNode(m, node).map((pool) => {
    const report = compactZone(m, pool, {
      order: ORDER_ALL,
      mode: 'sync-light',
      wholeZone: true,
      ignoreSkip: true,
      done: (p) => zoneScore(p) <= low,
    });
    count(m, report);
    return report;
  });
  return { reports, inVain: nodeScore(m, node) >= before };
}

function count(m: Machine, report: CompactReport): void {
  m.vmstat.compact_daemon_migrate_scanned += report.migrateScanned;
  m.vmstat.compact_daemon_free_scanned += report.freeScanned;
}
