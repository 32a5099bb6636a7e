// The zones of a Machine in the kernel's order, and the three files that list them chunk by chunk.
//
//   /proc/buddyinfo               0444   free chunks by order, Isolate pageblocks included; populated zones
//   /proc/pagetypeinfo            0400   the same by migrate type, and pageblocks by type; a part for each node with memory
//   debugfs extfrag/...             0444   two indexes of fragmentation for each order (extfrag.ts)
//
// A pageblock counts where its first page is online and in the zone. Walking a free list ends at 100000 chunks, here as
// there, so that both print the same ">100000". Follows Linux v6.12 mm/vmstat.c (spec 2.10, 6).

import { printBuddyinfo } from '#kernfs/buddyinfo';
import { type PagetypeBlocks, type PagetypeFree, parsePagetypeinfo, printPagetypeinfo } from '#kernfs/pagetypeinfo';
import {
  MIGRATE_CMA,
  MIGRATE_NAMES,
  NR_MIGRATE_TYPES,
  NR_ORDERS,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from '#mm/geometry';
import type { Machine } from '#mm/machine';
import type { Pool } from '#mm/pool';
import { type ZoneView, zoneViews } from '#mm/pools/zone-view';
import { type ExtfragIndex, printExtfrag } from './extfrag.ts';
import type { TreeContext } from './tree-context.ts';

const FREE_WALK_MAX = 100000;

/** Zones with present pages, by node and zone. */
export function populatedZones(m: Machine): ZoneView[] {
  return zoneViews(m)
    .filter((p) => p.present > 0 && m.nodes.includes(p.zone.node))
    .sort(byNodeAndZone);
}

const byNodeAndZone = (a: ZoneView, b: ZoneView): number => a.node - b.node || a.zone.zone - b.zone.zone;

/** Chunks by order, all types together. */
function nrFree(zone: ZoneView): number[] {
  const counts = zone.counts();
  return Array.from({ length: NR_ORDERS }, (_, order) => {
    let n = 0;
    for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) n += counts[mt * NR_ORDERS + order] as number;
    return n;
  });
}

export const buddyinfoText = ({ machine: m }: TreeContext): string =>
  printBuddyinfo(populatedZones(m).map((p) => ({ node: p.node, zone: p.name, nrFree: nrFree(p) })));

export const extfragText = ({ machine: m }: TreeContext, index: ExtfragIndex): string =>
  printExtfrag(
    populatedZones(m).map((p) => ({ node: p.node, zone: p.name, nrFree: nrFree(p) })),
    index,
  );

export function pagetypeinfoText(c: TreeContext): string {
  const m = c.machine;
  const pools = populatedZones(m);
  const types = typesOf(c, pools);
  const free: PagetypeFree[] = [];
  const blocks: PagetypeBlocks[] = [];
  for (const p of pools) {
    const zone = { node: p.zone.node, zone: p.name };
    const counts = p.counts();
    const pageblocks = p.pageblocks();
    for (const mt of types) {
      const lists = Array.from(counts.subarray(mt * NR_ORDERS, (mt + 1) * NR_ORDERS));
      free.push({
        ...zone,
        type: MIGRATE_NAMES[mt] as string,
        nrFree: lists.map((n) => Math.min(n, FREE_WALK_MAX)),
        capped: lists.map((n) => n >= FREE_WALK_MAX),
      });
    }
    blocks.push({ ...zone, counts: types.map((mt) => pageblocks[mt] as number) });
  }
  return printPagetypeinfo({
    pageblockOrder: PAGEBLOCK_ORDER,
    pagesPerBlock: PAGEBLOCK_PAGES,
    types: types.map((mt) => MIGRATE_NAMES[mt] as string),
    free,
    blocks,
  });
}

/** Columns: CMA stands where the kernel is configured for it, as a recorded file shows, or where there is any. */
function typesOf({ base }: TreeContext, zones: readonly ZoneView[]): readonly number[] {
  const text = base?.readText('/proc/pagetypeinfo');
  const recorded = text === undefined ? undefined : parsePagetypeinfo(text);
  const cma =
    (recorded?.ok === true && recorded.value.types.includes(MIGRATE_NAMES[MIGRATE_CMA] as string)) ||
    zones.some((z) => z.nrFreeCma() > 0 || hasPageblocks(z.zone, MIGRATE_CMA));
  return MIGRATE_NAMES.map((_, mt) => mt).filter((mt) => mt !== MIGRATE_CMA || cma);
}

function hasPageblocks(pool: Pool, mt: number): boolean {
  const counts = new Float64Array(NR_MIGRATE_TYPES);
  pool.alloc.area.countTypes(0, pool.pages >>> PAGEBLOCK_ORDER, counts);
  return (counts[mt] as number) > 0;
}
