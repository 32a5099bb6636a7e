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

import type { BlockId } from '#base/units';
import type { Machine } from './machine.ts';
import { BLOCK_OFFLINE } from './memory-block.ts';
import type { MemoryGroup } from './memory-group.ts';
import { ZONE_DMA32, ZONE_MOVABLE, ZONE_NAMES, ZONE_NORMAL, type ZoneIndex } from './page-class.ts';
import type { Pool } from './pool.ts';

export type OnlineType = 'online' | 'kernel' | 'movable';

const meets = (p: Pool | undefined, start: number, end: number): boolean =>
  p !== undefined && p.spanned > 0 && p.startPfn < end && start < p.endPfn;

const poolIn = (m: Machine, node: number, zone: ZoneIndex): Pool | undefined =>
  m.pools.find((p) => p.node === node && p.zone === zone);

/** The kernel zone of [start, end) on a node. */
export function kernelZone(m: Machine, node: number, start: number, end: number): ZoneIndex {
  const low = m.pools
    .filter((p) => p.node === node && p.zone <= ZONE_DMA32 && meets(p, start, end))
    .sort((a, b) => a.zone - b.zone)[0];
  return low?.zone ?? ZONE_NORMAL;
}

/** Zone of a block that is to come online. Cost O(pools), with auto-movable O(pools + groups + blocks of the unit). */
export function zoneForBlock(m: Machine, row: number, how: OnlineType): ZoneIndex {
  const start = (m.blocks.id[row] as number) * m.blockPages;
  const end = start + m.blockPages;
  const node = m.blocks.node[row] as number;
  const kernel = kernelZone(m, node, start, end);
  if (how === 'kernel') return kernel;
  if (how === 'movable') return ZONE_MOVABLE;
  const { settings } = m.hotplug;
  if (settings.onlinePolicy === 'auto-movable') return autoMovable(m, row) ? ZONE_MOVABLE : kernel;
  const inKernel = meets(poolIn(m, node, kernel), start, end);
  const inMovable = meets(poolIn(m, node, ZONE_MOVABLE), start, end);
  if (inKernel !== inMovable) return inKernel ? kernel : ZONE_MOVABLE;
  return settings.movableNode ? ZONE_MOVABLE : kernel;
}

// ------------------------------------------------------------------------------------------------- auto-movable (1.8)

/** May the block go to Movable, seen with its group? */
function autoMovable(m: Machine, row: number): boolean {
  const group = m.hotplug.groups.get(m.blocks.group[row] as number);
  const node = m.blocks.node[row] as number;
  const kernelInUnit = (pages: number): { kernel: boolean; movable: number } => {
    const first = m.blocks.id[row] as number;
    const unit = pages / m.blockPages;
    const from = first - (first % unit);
    let kernel = false;
    let movable = 0;
    for (let id = from; id < from + unit; id++) {
      const r = m.blocks.rowOf(id as BlockId);
      const pool = r < 0 ? undefined : m.pools[m.blocks.pool[r] as number];
      if (pool === undefined || m.blocks.state[r] === BLOCK_OFFLINE) continue;
      if (pool.zone === ZONE_MOVABLE) movable += m.blockPages;
      else kernel = true;
    }
    return { kernel, movable };
  };
  let pages = m.blockPages;
  if (group?.kind === 'static') {
    if (group.presentKernel > 0) return false;
    pages = group.pages - group.presentMovable;
  } else if (group?.kind === 'dynamic') {
    const unit = Math.max(group.pages, m.blockPages);
    const seen = kernelInUnit(unit);
    if (seen.kernel) return false;
    pages = unit - seen.movable;
  }
  const { ratio, numaAware } = m.hotplug.settings.autoMovable;
  if (!fits(m, undefined, group, pages, ratio)) return false;
  return !numaAware || fits(m, node, group, pages, ratio);
}

/** The inequality of spec 1.8 over all nodes, or over one. */
function fits(
  m: Machine,
  node: number | undefined,
  mine: MemoryGroup | undefined,
  pages: number,
  ratio: number,
): boolean {
  let kernel = 0;
  let movable = 0;
  for (const p of m.pools) {
    if (node !== undefined && p.node !== node) continue;
    if (p.zone === ZONE_MOVABLE) movable += p.present;
    else kernel += p.presentEarly;
  }
  let need = 0;
  m.hotplug.groups.forEach((g) => {
    if (g.kind !== 'dynamic' || g === mine || (node !== undefined && g.node !== node)) return;
    if (ratio > 0) need += Math.max(0, Math.floor((g.presentMovable * 100) / ratio) - g.presentKernel);
    movable -= g.presentMovable;
  });
  if (kernel <= need || ratio === 0) return false;
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
  if (m.blocks.state[row] !== BLOCK_OFFLINE) {
    const pool = m.pools[m.blocks.pool[row] as number];
    return pool === undefined ? [] : [pool.name];
  }
  const kernel = zoneForBlock(m, row, 'kernel');
  const first = zoneForBlock(m, row, 'online');
  return [...new Set([first, kernel, ZONE_MOVABLE as ZoneIndex])].map((z) => ZONE_NAMES[z] as string);
}
