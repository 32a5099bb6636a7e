// Zone choice: into which zone does a block go that comes online, and which zones does `valid_zones` offer?
//
//   request           zone                                                                             spec 1.7
//   online_kernel     the first of DMA, DMA32 whose span meets the range now, else Normal
//   online_movable    Movable of the node, always
//   online            contig-zones: the one zone whose span meets it; both or none -> the kernel's, or Movable with
//                                   movable_node
//                     auto-movable: Movable while  movable + n <= ratio * early kernel memory        spec 1.8
//
// Everything is computed from the spans and counters of the moment, so that onlining one block changes the answer for
// another. Follows Linux v6.12 mm/memory_hotplug.c: zone_for_pfn_range(), default_kernel_zone_for_pfn(),
// auto_movable_zone_for_pfn(); drivers/base/memory.c: valid_zones_show().

import { type BlockId, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import type { Machine } from './machine.ts';
import { BLOCK_ONLINE } from './memory-block.ts';
import type { MemoryGroup } from './memory-group.ts';
import { ZONE_DMA32, ZONE_MOVABLE, ZONE_NAMES, ZONE_NORMAL, type ZoneIndex } from './page-class.ts';
import type { Pool } from './pool.ts';

export type OnlineType = 'online' | 'kernel' | 'movable';

const meets = (p: Pool | undefined, start: number, end: number): boolean =>
  p !== undefined && p.spanned > 0 && p.startPfn < end && start < p.endPfn;

const poolIn = (m: Machine, node: number, zone: ZoneIndex): Pool | undefined =>
  m.zones.find((p) => p.node === node && p.zone === zone);

/** The kernel zone of [start, end) on a node. */
export function kernelZone(m: Machine, node: number, start: number, end: number): ZoneIndex {
  const low = m.zones
    .filter((p) => p.node === node && p.zone <= ZONE_DMA32 && meets(p, start, end))
    .sort((a, b) => a.zone - b.zone)[0];
  return low?.zone ?? ZONE_NORMAL;
}

/** Zone of a block that is to come online. Cost O(pools), with auto-movable O(pools + groups + sections of the unit). */
export function zoneForBlock(m: Machine, row: number, how: OnlineType): ZoneIndex {
  const start = (m.blocks.id[row] as number) * m.blockPages;
  const end = start + m.blockPages;
  const node = m.blocks.node[row] as number;
  const kernel = kernelZone(m, node, start, end);
  if (how === 'kernel') return kernel;
  if (how === 'movable') return ZONE_MOVABLE;
  const { settings } = m.hotplug;
  if (settings.onlinePolicy === 'auto-movable') return autoMovable(m, row);
  const inKernel = meets(poolIn(m, node, kernel), start, end);
  const inMovable = meets(poolIn(m, node, ZONE_MOVABLE), start, end);
  if (inKernel !== inMovable) return inKernel ? kernel : ZONE_MOVABLE;
  return settings.movableNode ? ZONE_MOVABLE : kernel;
}

// ------------------------------------------------------------------------------------------------- auto-movable (1.8)

/**
 * The zone of a block, seen with its group: Movable as long as all that is still to come of the device fits there too.
 * Where it does not, Linux asks for the kernel zone of the range that it looked at last, which need not be the block's:
 * what is still to come of a static group, or the unit's end (or where kernel memory was found in it) for a dynamic one.
 */
function autoMovable(m: Machine, row: number): ZoneIndex {
  const node = m.blocks.node[row] as number;
  const group = m.hotplug.groups.get(m.blocks.group[row] as number);
  const { ratio, numaAware } = m.hotplug.settings.autoMovable;
  let pfn = (m.blocks.id[row] as number) * m.blockPages;
  let pages = m.blockPages;
  const kernel = (): ZoneIndex => kernelZone(m, node, pfn, pfn + pages);
  if (ratio === 0) return kernel();
  if (group?.kind === 'static') {
    if (group.presentKernel > 0) return kernel();
    pages = group.pages - group.presentMovable;
  } else if (group?.kind === 'dynamic' && group.pages !== pages) {
    pfn -= pfn % group.pages;
    let online = 0;
    for (const end = pfn + group.pages; pfn < end; pfn += PAGES_PER_SECTION) {
      const index = m.sections.indexOf(toPfn(pfn));
      const pool = index < 0 ? undefined : m.zoneAt(index);
      if (pool === undefined) continue;
      if (pool.zone !== ZONE_MOVABLE) return kernel();
      online += PAGES_PER_SECTION;
    }
    pages = group.pages - online;
  }
  if (!fits(m, undefined, group, pages, ratio)) return kernel();
  return numaAware && !fits(m, node, group, pages, ratio) ? kernel() : ZONE_MOVABLE;
}

/** The inequality of spec 1.8 over all nodes, or over one. @param ratio  not 0 */
function fits(
  m: Machine,
  node: number | undefined,
  mine: MemoryGroup | undefined,
  pages: number,
  ratio: number,
): boolean {
  let kernel = 0;
  let movable = 0;
  for (const p of m.zones) {
    if (node !== undefined && p.node !== node) continue;
    if (p.zone === ZONE_MOVABLE) movable += p.present;
    else kernel += p.presentEarly;
  }
  let need = 0;
  m.hotplug.groups.forEach((g) => {
    if (g.kind !== 'dynamic' || g === mine || (node !== undefined && g.node !== node)) return;
    need += Math.max(0, Math.floor((g.presentMovable * 100) / ratio) - g.presentKernel);
    movable -= g.presentMovable;
  });
  if (kernel <= need) return false;
  kernel -= need;
  if (mine?.kind === 'dynamic') kernel += mine.presentKernel;
  return movable + pages <= Math.floor((ratio * kernel) / 100);
}

// ---------------------------------------------------------------------------------------------------- valid_zones

/**
 * Names as /sys/devices/system/memory/memoryN/valid_zones lists them, default first. An online block: its one zone;
 * empty ("none") when it lies in several, or on several nodes. Computed anew at each call.
 */
export function validZones(m: Machine, id: BlockId): string[] {
  const row = m.blocks.rowOf(id);
  if (row < 0) return [];
  // Linux looks for MEM_ONLINE: a block that is going offline is shown as if it were there already.
  if (m.blocks.state[row] === BLOCK_ONLINE) {
    const pool = m.pools[m.blocks.pool[row] as number];
    return pool === undefined ? [] : [pool.name];
  }
  const kernel = zoneForBlock(m, row, 'kernel');
  const first = zoneForBlock(m, row, 'online');
  return [...new Set([first, kernel, ZONE_MOVABLE as ZoneIndex])].map((z) => ZONE_NAMES[z] as string);
}
