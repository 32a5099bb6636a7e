// Watermarks: how much of a pool stays free for whom.
//
//   free frames of a pool
//   0 ────── min ────── low ────── high ────── promo ──────> managed
//     emergencies │ kswapd runs  │  kswapd sleeps
//
// min is the pool's share of min_free_kbytes; each step above is the larger of a quarter of that share and
// watermark_scale_factor ten-thousandths of the pool. An allocation that may also use higher pools must leave
// `reserve[its highest pool]` frames to those who may use only this one.
//
// Source: Linux v6.12 mm/page_alloc.c: calculate_min_free_kbytes(), __setup_per_zone_wmarks(),
// setup_per_zone_lowmem_reserve(); mm/khugepaged.c: set_recommended_min_free_kbytes() (spec 2.5).
// Boost (spec 2.6) is a matter of one zone's history: pool.ts.

import { assert } from '#base/assert';
import { PAGE_SIZE, PAGEBLOCK_PAGES } from './geometry.ts';
import { ZONE_MOVABLE, ZONE_NORMAL, type ZoneIndex } from './page-class.ts';

export type Watermarks = {
  readonly min: number;
  readonly low: number;
  readonly high: number;
  readonly promo: number;
  /** lowmem_reserve by the request's highest zone: DMA, DMA32, Normal, Movable. */
  readonly reserve: readonly [number, number, number, number];
};

/** Below every free count: the pool has no watermark (benchmarks, small worlds, per spec `watermarks: 'none'`). */
export const NO_WATERMARKS: Watermarks = Object.freeze({
  min: Number.NEGATIVE_INFINITY,
  low: Number.NEGATIVE_INFINITY,
  high: Number.NEGATIVE_INFINITY,
  promo: Number.NEGATIVE_INFINITY,
  reserve: [0, 0, 0, 0] as const,
});

export type WatermarkInput = {
  readonly node: number;
  readonly zone: ZoneIndex;
  readonly managed: number;
  /** A zone with frames counts as populated even if none of them is managed (DMA of small guests). Default: managed. */
  readonly present?: number;
  /** Its high mark as it is now, boost included: what lies below is no buffer (nr_free_buffer_pages()). Default 0: boot. */
  readonly high?: number;
};

export type WatermarkSettings = {
  /** vm.min_free_kbytes as a user wrote it, in kB: automatic values count from then on only where they are larger. */
  readonly minFreeKbytes?: number;
  /** vm.watermark_scale_factor, ten-thousandths, default 10. */
  readonly scaleFactor: number;
  /** Transparent huge pages on: khugepaged raises min_free_kbytes. */
  readonly thp: boolean;
  /** vm.lowmem_reserve_ratio: DMA, DMA32, Normal, Movable; 0 = off. Default 256, 256, 32, 0. */
  readonly reserveRatio?: readonly number[];
  /** vm.watermark_boost_factor, ten-thousandths of the high mark, default 15000; 0 = no boost (spec 2.6). */
  readonly boostFactor?: number;
  /** vm.percpu_pagelist_high_fraction: 0 (default) or at least 8 (spec 2.4). */
  readonly highFraction?: number;
  /** vm.defrag_mode (from 6.15 on): fallback never mixes a pageblock while anything else will do (spec 2.7). */
  readonly defragMode?: boolean;
  /** 'share': Movable counts as low memory and gets its share of min (Linux 6.1). Default 'own' (6.12): see W3. */
  readonly movable?: 'own' | 'share';
};

const KB_PER_PAGE = PAGE_SIZE / 1024;
/** sysctl_lowmem_reserve_ratio: DMA, DMA32, Normal, Movable (0 = off). */
export const RESERVE_RATIO: readonly number[] = [256, 256, 32, 0];

/** vm.min_free_kbytes, and what a user wrote there last (-1: nothing yet). */
export type MinFree = { readonly value: number; readonly user: number };

/** khugepaged's recommendation, in kB: two free pageblocks a zone, and one for each pair of a wanted and a raided type. */
function recommendedKbytes(pools: readonly WatermarkInput[]): number {
  const zones = pools.filter((p) => p.zone <= ZONE_NORMAL && (p.present ?? p.managed) > 0).length;
  const wanted = PAGEBLOCK_PAGES * zones * 2 + PAGEBLOCK_PAGES * zones * (3 * 3);
  return Math.min(wanted, Math.floor(bufferPages(pools) / 20)) * KB_PER_PAGE;
}

/** nr_free_buffer_pages(): what kernel zones have above their high marks. */
const bufferPages = (pools: readonly WatermarkInput[]): number =>
  pools.reduce((n, p) => n + (p.zone <= ZONE_NORMAL ? Math.max(0, p.managed - Math.max(0, p.high ?? 0)) : 0), 0);

/**
 * vm.min_free_kbytes after the zones changed. What a user wrote stays unless the automatic value is larger; then
 * khugepaged may raise it, whoever wrote it: it looks at the marks that the automatic value has just set.
 *
 * @param now  what it was; undefined at boot
 */
export function minFreeKbytes(
  pools: readonly WatermarkInput[],
  settings: WatermarkSettings,
  now: MinFree = { value: 0, user: -1 },
): MinFree {
  const root = Math.floor(Math.sqrt(bufferPages(pools) * KB_PER_PAGE * 16));
  const auto = root > now.user ? Math.min(262144, Math.max(128, root)) : now.value;
  if (!settings.thp) return { value: auto, user: now.user };
  const marks = computeWatermarks(pools, settings, auto);
  const marked = pools.map((p, k) => ({ ...p, high: marks[k].high, present: p.present ?? p.managed }));
  return { value: Math.max(auto, recommendedKbytes(marked)), user: now.user };
}

/**
 * Watermarks of all pools, in the order given. Recomputed on every online and offline. Cost O(pools^2).
 *
 * @param minFree  vm.min_free_kbytes; default: what it is at boot
 */
export function computeWatermarks(
  pools: readonly WatermarkInput[],
  settings: WatermarkSettings,
  minFree = settings.minFreeKbytes ?? minFreeKbytes(pools, settings).value,
): Watermarks[] {
  const pagesMin = Math.floor(minFree / KB_PER_PAGE);
  const ratios = settings.reserveRatio ?? RESERVE_RATIO;
  const own = (p: WatermarkInput): boolean => p.zone === ZONE_MOVABLE && settings.movable !== 'share';
  const lowmem = pools.reduce((n, p) => n + (own(p) ? 0 : p.managed), 0);
  return pools.map((p) => {
    const share = lowmem === 0 ? 0 : Math.floor((pagesMin * p.managed) / lowmem);
    const min = own(p) ? Math.min(128, Math.max(32, Math.floor(p.managed / 1024))) : share;
    const step = Math.max(Math.floor(share / 4), Math.floor((p.managed * settings.scaleFactor) / 10000));
    const reserve = ([0, 1, 2, 3] as const).map((j) => {
      const ratio = ratios[p.zone];
      if (j <= p.zone || ratio === 0 || p.managed === 0) return 0;
      let above = 0;
      for (const q of pools) if (q.node === p.node && q.zone > p.zone && q.zone <= j) above += q.managed;
      return Math.floor(above / ratio);
    });
    return {
      min,
      low: min + step,
      high: min + 2 * step,
      promo: min + 3 * step,
      reserve: reserve as unknown as Watermarks['reserve'], // map over a 4-tuple yields four numbers
    };
  });
}

/** Sizes of per-CPU lists, in pages: one refill, and the limits between which the sum of a CPU's lists may grow. */
export type PcpSizes = { readonly batch: number; readonly high: number; readonly highMax: number };

/** Lists hold at least so many refills. */
const MIN_BATCHES = 4;
/** MIN_PERCPU_PAGELIST_HIGH_FRACTION, also what high_max is made of. */
export const PCP_HIGH_FRACTION_MIN = 8;

/**
 * Per-CPU list sizes of a pool (spec 2.4).
 *
 * @param low           its low mark, without boost
 * @param cpus          CPUs of its node, or all CPUs for a node without
 * @param highFraction  vm.percpu_pagelist_high_fraction: 0 = off, else at least 8 (the sysctl's refusal is the caller's)
 */
export function pcpSizes(managed: number, low: number, cpus: number, highFraction = 0): PcpSizes {
  assert(cpus >= 1, 'per-CPU lists are shared by at least one CPU', { cpus });
  const quarter = Math.floor(Math.min(Math.floor(managed / 1024), 256) / 4);
  const raw = Math.max(1, quarter + Math.floor(quarter / 2));
  const batch = Math.max(1, 2 ** Math.floor(Math.log2(raw)) - 1);
  const share = (pages: number): number => Math.max(MIN_BATCHES * batch, Math.floor(pages / cpus));
  if (highFraction > 0) {
    const fixed = share(Math.floor(managed / highFraction));
    return { batch, high: fixed, highMax: fixed };
  }
  return { batch, high: share(Math.max(0, low)), highMax: share(Math.floor(managed / PCP_HIGH_FRACTION_MIN)) };
}
