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
// Left out: boost (spec 2.6) and a value of min_free_kbytes that a user wrote earlier.

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
};

export type WatermarkSettings = {
  /** Set by hand, in kB; undefined = computed. */
  readonly minFreeKbytes?: number;
  /** vm.watermark_scale_factor, ten-thousandths, default 10. */
  readonly scaleFactor: number;
  /** Transparent huge pages on: khugepaged raises min_free_kbytes. */
  readonly thp: boolean;
  /** 'share': Movable counts as low memory and gets its share of min (Linux 6.1). Default 'own' (6.12): see W3. */
  readonly movable?: 'own' | 'share';
};

const KB_PER_PAGE = PAGE_SIZE / 1024;
/** sysctl_lowmem_reserve_ratio: DMA, DMA32, Normal, Movable (0 = off). */
const RESERVE_RATIO = [256, 256, 32, 0] as const;

/** vm.min_free_kbytes as the kernel computes it at boot. */
export function minFreeKbytes(pools: readonly WatermarkInput[], settings: WatermarkSettings): number {
  if (settings.minFreeKbytes !== undefined) return settings.minFreeKbytes;
  const bufferPages = pools.reduce((n, p) => n + (p.zone <= ZONE_NORMAL ? p.managed : 0), 0);
  const auto = Math.min(262144, Math.max(128, Math.floor(Math.sqrt(bufferPages * KB_PER_PAGE * 16))));
  if (!settings.thp) return auto;
  const zones = pools.filter((p) => p.zone <= ZONE_NORMAL && p.managed > 0).length;
  // Two free pageblocks a zone, and one for each pair of a wanted and a fallback type (3 x 3).
  const recommended = Math.min(PAGEBLOCK_PAGES * zones * 2 + PAGEBLOCK_PAGES * zones * 9, Math.floor(bufferPages / 20));
  return Math.max(auto, recommended * KB_PER_PAGE);
}

/** Watermarks of all pools, in the order given. Recomputed on every online and offline. Cost O(pools^2). */
export function computeWatermarks(pools: readonly WatermarkInput[], settings: WatermarkSettings): Watermarks[] {
  const pagesMin = Math.floor(minFreeKbytes(pools, settings) / KB_PER_PAGE);
  const own = (p: WatermarkInput): boolean => p.zone === ZONE_MOVABLE && settings.movable !== 'share';
  const lowmem = pools.reduce((n, p) => n + (own(p) ? 0 : p.managed), 0);
  return pools.map((p) => {
    const share = lowmem === 0 ? 0 : Math.floor((pagesMin * p.managed) / lowmem);
    const min = own(p) ? Math.min(128, Math.max(32, Math.floor(p.managed / 1024))) : share;
    const step = Math.max(Math.floor(share / 4), Math.floor((p.managed * settings.scaleFactor) / 10000));
    const reserve = ([0, 1, 2, 3] as const).map((j) => {
      const ratio = RESERVE_RATIO[p.zone];
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

/** Per-CPU list sizes of a pool (spec 2.4). `cpus` = CPUs of its node, or all CPUs for a node without. */
export function pcpSizes(managed: number, low: number, cpus: number): { batch: number; high: number } {
  const quarter = Math.floor(Math.min(Math.floor(managed / 1024), 256) / 4);
  const raw = Math.max(1, quarter + Math.floor(quarter / 2));
  const batch = Math.max(1, 2 ** Math.floor(Math.log2(raw)) - 1);
  return { batch, high: Math.max(4 * batch, Math.floor(Math.max(0, low) / cpus)) };
}
