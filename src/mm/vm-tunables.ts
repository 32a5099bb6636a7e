// VM tunables: what /proc/sys/vm says about watermarks and lists, and what follows when it or the zones change.
//
//   written by a user ──┐
//                       ├──> setupWatermarks ──> watermarks, reserves (every pool) ──> sizes of per-CPU lists
//   zones changed ──────┘         │
//                                 └──> zonelists, and which pools avoid to mix pageblocks
//
// A write is refused with EINVAL by the sysctl's own range, and nothing changes. Boost ends with every setup.
//
// Follows Linux v6.12 mm/page_alloc.c: init_per_zone_wmark_min(), setup_per_zone_wmarks(), zone_set_pageset_high_and_batch(),
// *_sysctl_handler(), alloc_flags_nofragment() (spec 2.4 to 2.7).

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { triggerProactive } from './compaction/kcompactd-state.ts';
import type { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { ZONE_DMA32, ZONE_NORMAL } from './page-class.ts';
import type { FragmentPolicy, Pool } from './pool.ts';
import { attrsOf } from './pools/pool-table.ts';
import { shareWatermarks, zoneTotals } from './pools/pool-watermarks.ts';
import {
  computeWatermarks,
  type MinFree,
  minFreeKbytes,
  NO_WATERMARKS,
  PCP_HIGH_FRACTION_MIN,
  pcpSizes,
  RESERVE_RATIO,
  type WatermarkSettings,
} from './watermark.ts';

/** Mutable: a machine's own. Copied to forks. */
export type VmTunables = {
  /** 'none': the spec wants no watermarks, and writes change nothing that can be seen. */
  watermarks: 'none' | 'computed';
  /** min_free_kbytes; undefined before the first setup. */
  minFree: MinFree | undefined;
  watermarkScaleFactor: number;
  watermarkBoostFactor: number;
  percpuPagelistHighFraction: number;
  lowmemReserveRatio: readonly number[];
  defragMode: boolean;
  /** Thousandths of the fragmentation index up to which compaction is not worth a try (spec 2.11). */
  extfragThreshold: number;
  /** 0..100: how eagerly free memory is kept in large pieces; 0 = not at all. */
  compactionProactiveness: number;
  /** May compaction move unevictable pages? */
  compactUnevictableAllowed: boolean;
};

const DEFAULTS: WatermarkSettings = { scaleFactor: 10, thp: false };

const settingsOf = (spec: MachineSpec): WatermarkSettings =>
  spec.watermarks === undefined || spec.watermarks === 'none' ? DEFAULTS : spec.watermarks;

export function vmTunables(spec: MachineSpec): VmTunables {
  const settings = settingsOf(spec);
  const user = settings.minFreeKbytes;
  return {
    watermarks: spec.watermarks === 'none' ? 'none' : 'computed',
    minFree: user === undefined ? undefined : { value: user, user },
    watermarkScaleFactor: settings.scaleFactor,
    watermarkBoostFactor: settings.boostFactor ?? 15000,
    percpuPagelistHighFraction: settings.highFraction ?? 0,
    lowmemReserveRatio: settings.reserveRatio ?? RESERVE_RATIO,
    defragMode: settings.defragMode ?? false,
    extfragThreshold: 500,
    compactionProactiveness: 20,
    compactUnevictableAllowed: true,
  };
}

/** The spec's settings, with what was written since, and the kernel's own share of Movable. */
const settingsNow = (m: Machine): WatermarkSettings => ({
  movable: m.profile.movableWatermark,
  ...settingsOf(m.spec),
  scaleFactor: m.vm.watermarkScaleFactor,
  reserveRatio: m.vm.lowmemReserveRatio,
});

/** Watermarks, reserves, per-CPU list sizes and fragment policies from `m.vm` as it is. Cost O(pools^2). */
function applyTunables(m: Machine): void {
  const { vm } = m;
  for (const p of m.pools) {
    p.fragmentPolicy = fragmentPolicy(m, p);
    p.boostFactor = vm.watermarks === 'none' ? 0 : vm.watermarkBoostFactor;
  }
  if (vm.watermarks === 'none') {
    for (const p of m.pools) p.watermarks = NO_WATERMARKS;
    for (const p of m.zones) p.zoneMarks = NO_WATERMARKS;
    return;
  }
  assert(vm.minFree !== undefined, 'watermarks before the first setup');
  const zones = m.zones.map((p) => ({ node: p.node, zone: p.zone, ...zoneTotals(m, p) }));
  const all = computeWatermarks(zones, settingsNow(m), vm.minFree.value);
  m.zones.forEach((p, k) => {
    p.zoneMarks = all[k];
    p.boost = 0;
  });
  shareWatermarks(m, m.zones);
  for (const p of m.pools) sizePcp(m, p);
}

/** Per-CPU list sizes of a pool, from its frames and marks. A realtime pool has no lists: its work is bounded. */
export function sizePcp(m: Machine, pool: Pool): void {
  const a = pool.kind === 'user' ? attrsOf(m, pool.id) : undefined;
  if (a?.class === 'realtime') return pool.alloc.setPcp({ batch: 1, high: 0 });
  if (m.vm.watermarks === 'none') return; // as a pool has them when it is made
  const cpus = a?.cpus?.length ?? cpusOf(m, pool);
  pool.alloc.setPcp(pcpSizes(pool.managed, pool.watermarks.low, cpus, m.vm.percpuPagelistHighFraction));
}

/** CPUs that share a pool's low mark: those of its node, or all where it has none. */
function cpusOf(m: Machine, pool: Pool): number {
  const near = m.spec.nodeCpus?.get(pool.node) ?? 0;
  return near > 0 ? near : (m.spec.cpus ?? 1);
}

/** alloc_flags_nofragment(), for requests that prefer this pool. */
function fragmentPolicy(m: Machine, pool: Pool): FragmentPolicy {
  if (m.vm.defragMode) return 'never';
  if (pool.zone !== ZONE_NORMAL) return 'mix';
  const below = m.zones.some((p) => p.node === pool.node && p.zone === ZONE_DMA32 && p.present > 0);
  return m.nodes.length === 1 || below ? 'avoid' : 'mix';
}

/**
 * Watermarks and zonelists of a machine whose zones changed, or that boots: then a user's min_free_kbytes stands as it
 * is, written after the automatic one.
 */
export function setupWatermarks(m: Machine, reason: 'boot' | 'zones-changed'): void {
  const { vm } = m;
  if (reason === 'zones-changed' || vm.minFree === undefined) {
    const pools = m.zones.map((p) => {
      return { node: p.node, zone: p.zone, ...zoneTotals(m, p), high: p.zoneMarks.high + p.boost };
    });
    vm.minFree = minFreeKbytes(pools, settingsNow(m), vm.minFree);
  }
  m.rebuildZonelists();
  applyTunables(m);
}

export type Tunable =
  | 'min_free_kbytes'
  | 'watermark_scale_factor'
  | 'watermark_boost_factor'
  | 'percpu_pagelist_high_fraction'
  | 'defrag_mode'
  | 'extfrag_threshold'
  | 'compaction_proactiveness'
  | 'compact_unevictable_allowed';

/** What each file takes: [least, most]. */
const RANGES: Readonly<Record<Tunable, readonly [number, number]>> = Object.freeze({
  min_free_kbytes: [0, 2 ** 31 - 1],
  watermark_scale_factor: [1, 3000],
  watermark_boost_factor: [0, 2 ** 31 - 1],
  percpu_pagelist_high_fraction: [0, 2 ** 31 - 1],
  defrag_mode: [0, 1],
  extfrag_threshold: [0, 1000],
  compaction_proactiveness: [0, 100],
  compact_unevictable_allowed: [0, 1],
});

/** A write to /proc/sys/vm/<name>. @returns EINVAL, and nothing changed, where Linux refuses the value. */
export function writeTunable(m: Machine, name: Tunable, value: number): Result<void, 'EINVAL'> {
  const { vm } = m;
  const [least, most] = RANGES[name];
  if (!Number.isInteger(value) || value < least || value > most) return err('EINVAL');
  switch (name) {
    case 'min_free_kbytes':
      vm.minFree = { value, user: value };
      break;
    case 'watermark_scale_factor':
      vm.watermarkScaleFactor = value;
      break;
    case 'watermark_boost_factor':
      vm.watermarkBoostFactor = value;
      break;
    case 'percpu_pagelist_high_fraction':
      if (value > 0 && value < PCP_HIGH_FRACTION_MIN) return err('EINVAL');
      vm.percpuPagelistHighFraction = value;
      break;
    case 'defrag_mode':
      vm.defragMode = value === 1;
      break;
    default:
      writeCompactionTunable(m, name, value);
      return ok(undefined);
  }
  applyTunables(m);
  return ok(undefined);
}

type CompactionTunable = 'extfrag_threshold' | 'compaction_proactiveness' | 'compact_unevictable_allowed';

/** Watermarks do not follow from these. To ask for proactiveness wakes kcompactd of every node at once. */
function writeCompactionTunable(m: Machine, name: CompactionTunable, value: number): void {
  if (name === 'extfrag_threshold') m.vm.extfragThreshold = value;
  else if (name === 'compact_unevictable_allowed') m.vm.compactUnevictableAllowed = value === 1;
  else {
    m.vm.compactionProactiveness = value;
    if (value > 0) triggerProactive(m);
  }
}

/** What the file says now. */
export function readTunable(m: Machine, name: Tunable): number {
  const { vm } = m;
  switch (name) {
    case 'min_free_kbytes':
      return vm.minFree?.value ?? 0;
    case 'watermark_scale_factor':
      return vm.watermarkScaleFactor;
    case 'watermark_boost_factor':
      return vm.watermarkBoostFactor;
    case 'percpu_pagelist_high_fraction':
      return vm.percpuPagelistHighFraction;
    case 'extfrag_threshold':
      return vm.extfragThreshold;
    case 'compaction_proactiveness':
      return vm.compactionProactiveness;
    case 'compact_unevictable_allowed':
      return vm.compactUnevictableAllowed ? 1 : 0;
    default:
      return vm.defragMode ? 1 : 0;
  }
}
