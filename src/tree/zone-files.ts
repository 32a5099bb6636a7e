// The zones of a Machine in the kernel's order, and the three files that list them chunk by chunk.
//
//   /proc/buddyinfo               0444   free chunks by order, Isolate pageblocks included; populated zones
//   /proc/pagetypeinfo            0400   the same by migrate type, and pageblocks by type; a part for each node with memory
//   debugfs extfrag/...             0444   two indexes of fragmentation for each order (extfrag.ts)
//
// A pageblock counts where its first page is online and in the zone. Walking a free list ends at 100000 chunks, here as
// there, so that both print the same ">100000". Follows Linux v6.12 mm/vmstat.c (spec 2.10, 6).

import type { NodeId } from '#base/units';
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
import { type ExtfragIndex, printExtfrag } from './extfrag.ts';
import type { TreeContext } from './tree-context.ts';

const FREE_WALK_MAX = 100000;

/** Pools with present pages, by node and zone. */
export function populatedPools(m: Machine): Pool[] {
  return m.zones.filter((p) => p.present > 0 && m.nodes.includes(p.node)).sort(byNodeAndZone);
}

export const byNodeAndZone = (a: Pool, b: Pool): number => a.node - b.node || a.zone - b.zone;

/** Chunks by order, all types together. */
function nrFree(pool: Pool): number[] {
  const counts = countsOf(pool);
  return Array.from({ length: NR_ORDERS }, (_, order) => {
    let n = 0;
    for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) n += counts[mt * NR_ORDERS + order] as number;
    return n;
  });
}

function countsOf(pool: Pool): Float64Array {
  const counts = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);
  pool.alloc.area.count(counts);
  return counts;
}

export const buddyinfoText = ({ machine: m }: TreeContext): string =>
  printBuddyinfo(populatedPools(m).map((p) => ({ node: p.node, zone: p.name, nrFree: nrFree(p) })));

export const extfragText = ({ machine: m }: TreeContext, index: ExtfragIndex): string =>
  printExtfrag(
    populatedPools(m).map((p) => ({ node: p.node, zone: p.name, nrFree: nrFree(p) })),
    index,
  );

export function pagetypeinfoText(c: TreeContext): string {
  const m = c.machine;
  const pools = populatedPools(m);
  const types = typesOf(c, pools);
  const free: PagetypeFree[] = [];
  const blocks: PagetypeBlocks[] = [];
  for (const p of pools) {
    const zone = { node: p.node as NodeId, zone: p.name };
    const counts = countsOf(p);
    const pageblocks = pageblocksByType(m, p);
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
function typesOf({ base }: TreeContext, pools: readonly Pool[]): readonly number[] {
  const text = base?.readText('/proc/pagetypeinfo');
  const recorded = text === undefined ? undefined : parsePagetypeinfo(text);
  const cma =
    (recorded?.ok === true && recorded.value.types.includes(MIGRATE_NAMES[MIGRATE_CMA] as string)) ||
    pools.some((p) => p.alloc.nrFreeCma() > 0 || hasPageblocks(p, MIGRATE_CMA));
  return MIGRATE_NAMES.map((_, mt) => mt).filter((mt) => mt !== MIGRATE_CMA || cma);
}

function hasPageblocks(pool: Pool, mt: number): boolean {
  const counts = new Float64Array(NR_MIGRATE_TYPES);
  pool.alloc.area.countTypes(0, pool.pages >>> PAGEBLOCK_ORDER, counts);
  return (counts[mt] as number) > 0;
}

function pageblocksByType(m: Machine, pool: Pool): Float64Array {
  const out = new Float64Array(NR_MIGRATE_TYPES);
  const first = pool.base >>> PAGEBLOCK_ORDER;
  for (let k = 0; k < pool.pages >>> PAGEBLOCK_ORDER; k++) {
    if (m.owners.zone[first + k] !== pool.id) continue;
    const mt = pool.alloc.area.typeOf(k << PAGEBLOCK_ORDER);
    out[mt] = (out[mt] as number) + 1;
  }
  return out;
}
