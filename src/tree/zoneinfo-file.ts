// /proc/zoneinfo of a Machine: every zone of every online node, empty ones too, as its kernel's version prints it.
//
//   field                 from
//   free, spanned, present, managed, start_pfn     the pool
//   min, low, high, promo, protection              its watermarks; promo is not yet in 6.1; "none" prints 0
//   cma                                            pages of its CMA pageblocks
//   counters                                       counters.ts
//   pagesets                                       per-CPU lists: pages on them, limits; 6.18 prints high_min, high_max
//   vm stats threshold                             min(125, 2 * fls(cpus) * (1 + fls(managed in 128 MiB units)))
//
// A zone that the engine has no pool for (DMA on a second node, Device) is empty. Follows Linux v6.12 mm/vmstat.c:
// zoneinfo_show_print(), calculate_normal_threshold() (spec 6).

import { type NodeId, toNodeId } from '#base/units';
import { ZONE_NAMES as LINUX_ZONES } from '#kernfs/zone-label';
import { printZoneinfo, type ZoneinfoPageset, type ZoneinfoZone } from '#kernfs/zoneinfo';
import { MIGRATE_CMA, NR_MIGRATE_TYPES, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, SECTION_ORDER } from '#mm/geometry';
import type { Pool } from '#mm/pool';
import { type ZoneView, zoneViews } from '#mm/pools/zone-view';
import { pcpSizes } from '#mm/watermark';
import type { Census } from './census.ts';
import type { Counters } from './counters.ts';
import { allCpus } from './node-dir.ts';
import type { TreeContext } from './tree-context.ts';

/** CONFIG_ZONE_DMA, _DMA32, _DEVICE: all kernels that were recorded. */
const ZONES = ['DMA', 'DMA32', 'Normal', 'Movable', 'Device'];

export function zoneinfoText(c: TreeContext, counters: Counters): string {
  const m = c.machine;
  const census = counters.census();
  const recorded = new Set(counters.recorded.zones.map((z) => z.zone));
  const names = recorded.size === 0 ? ZONES : LINUX_ZONES.filter((name) => recorded.has(name));
  const zones: ZoneinfoZone[] = [];
  const views = zoneViews(m);
  for (const node of m.nodes) {
    let first = true;
    for (const zone of names) {
      const pool = views.find((p) => p.node === node && p.name === zone);
      const populated = pool !== undefined && pool.present > 0;
      const stats = populated && first ? perNodeStats(counters, toNodeId(node), census) : undefined;
      if (populated) first = false;
      zones.push({
        ...headOf(c, pool, names.length),
        node,
        zone,
        ...(stats === undefined ? {} : { perNodeStats: stats }),
        ...(populated ? bodyOf(c, counters, pool, census) : { stats: [], pagesets: [] }),
      });
    }
  }
  return printZoneinfo(zones);
}

const perNodeStats = (counters: Counters, node: NodeId, census: Census): [string, number][] =>
  counters.names.node.map((name) => [name, counters.perNode(name, node, census)]);

type Head = Omit<ZoneinfoZone, 'node' | 'zone' | 'stats' | 'pagesets' | 'perNodeStats'>;

function headOf(c: TreeContext, pool: ZoneView | undefined, zones: number): Head {
  const marks = pool?.watermarks;
  const boost = pool?.boost ?? 0;
  // A machine without watermarks has them at minus infinity. What is printed includes the boost.
  const mark = (n: number | undefined): number => (n === undefined || !Number.isFinite(n) ? 0 : n + boost);
  const reserve = marks?.reserve ?? [0, 0, 0, 0];
  return {
    free: pool?.nrFree() ?? 0,
    boost,
    min: mark(marks?.min),
    low: mark(marks?.low),
    high: mark(marks?.high),
    ...(c.profile.name === '6.1' ? {} : { promo: mark(marks?.promo) }),
    spanned: pool?.spanned ?? 0,
    present: pool?.present ?? 0,
    managed: pool?.managed ?? 0,
    cma: pool === undefined ? 0 : cmaPages(pool.zone),
    // Zones behind Movable (Device) have no managed pages: what they reserve is what Movable does.
    protection: Array.from({ length: zones }, (_, k) => reserve[Math.min(k, 3)] as number),
  };
}

function cmaPages(pool: Pool): number {
  const counts = new Float64Array(NR_MIGRATE_TYPES);
  pool.alloc.area.countTypes(0, pool.pages >>> PAGEBLOCK_ORDER, counts);
  return (counts[MIGRATE_CMA] as number) * PAGEBLOCK_PAGES;
}

function bodyOf(
  c: TreeContext,
  counters: Counters,
  pool: ZoneView,
  census: Census,
): Pick<ZoneinfoZone, 'stats' | 'pagesets' | 'nodeUnreclaimable' | 'startPfn'> {
  const { zone, numa } = counters.names;
  return {
    stats: [...zone, ...numa].map((name) => [name, counters.zone(name, pool, census)] as const),
    pagesets: pagesetsOf(c, pool),
    nodeUnreclaimable: 0,
    startPfn: pool.zone.startPfn,
  };
}

function pagesetsOf(c: TreeContext, pool: ZoneView): ZoneinfoPageset[] {
  const m = c.machine;
  const cpus = allCpus(c);
  const counts = pool.pcp();
  // The limits of Linux's lists, whichever lists the engine keeps in their place (page-alloc.ts).
  const near = m.spec.nodeCpus?.get(pool.zone.node) ?? 0;
  const low = Math.max(0, pool.watermarks.low);
  const sizes = pcpSizes(pool.managed, low, near > 0 ? near : (m.spec.cpus ?? 1), m.vm.percpuPagelistHighFraction);
  const off = pool.pcpOff;
  return cpus.map((cpu, k) => ({
    cpu,
    count: counts.get(k) ?? 0,
    high: off ? 0 : sizes.high,
    batch: off ? 1 : sizes.batch,
    ...(c.profile.pcpHighMinMax ? { highMin: off ? 0 : sizes.high, highMax: off ? 0 : sizes.highMax } : {}),
    statThreshold: statThreshold(cpus.length, pool.managed),
  }));
}

/** fls(): the position of the highest bit, from 1; 0 for 0. */
const fls = (n: number): number => (n === 0 ? 0 : 32 - Math.clz32(n));

/** @param managed  pages. A counter that drifts less than this on one CPU is not folded in. */
export const statThreshold = (cpus: number, managed: number): number =>
  Math.min(125, 2 * fls(cpus) * (1 + fls(Math.floor(managed / 2 ** SECTION_ORDER))));
