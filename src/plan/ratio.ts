// The ratio of Movable to kernel memory: how much the kernel has left for itself when memory is added to Movable only.
//
//   kernel    blocks of boot memory that are not in Movable                    "early" memory in Linux's words
//   movable   blocks in Movable, wherever they came from
//   ratio     100 * movable / kernel; Linux's auto-movable policy stops at auto_movable_ratio, 301 by default
//
// Kernel zones that were hot-added do not count, as in Linux: they may be meant to leave again. Blocks of a hypervisor's
// device are not boot memory. Offline blocks count for nobody. The figures are of whole blocks, so that they may differ from
// the kernel's own by what firmware keeps.
//
// Follows Linux v6.12 mm/memory_hotplug.c: auto_movable_can_online_movable() (spec 1.8; lab fact 16).

import { blocksWithin, type Observation } from './observation.ts';

/** Percent; the kernel's default of auto_movable_ratio. */
export const AUTO_MOVABLE_RATIO = 301;

export type MovableRatio = {
  /** Bytes. */
  readonly movable: number;
  readonly kernel: number;
  /** Percent; Infinity without kernel memory. */
  readonly percent: number;
};

/** @param added  bytes that come to Movable on top */
export function movableRatio(o: Observation, added = 0): MovableRatio {
  const hotAdded = new Set([
    ...(o.hypervisor?.dimms ?? []).flatMap((d) => blocksWithin(o, d.addr, d.size)),
    ...(o.hypervisor?.virtioMem ?? []).flatMap((v) => blocksWithin(o, v.addr, v.maxSize)),
  ]);
  let movable = added;
  let kernel = 0;
  for (const b of o.blocks) {
    if (b.state === 'offline') continue;
    if (b.zone === 'Movable') movable += o.blockBytes;
    else if (!hotAdded.has(b.id)) kernel += o.blockBytes;
  }
  return { movable, kernel, percent: kernel === 0 ? Number.POSITIVE_INFINITY : (100 * movable) / kernel };
}

/** Bytes that may still come to Movable before the ratio is above `limit` percent; whole blocks. */
export function movableRoom(o: Observation, limit = AUTO_MOVABLE_RATIO): number {
  const { movable, kernel } = movableRatio(o);
  const bytes = Math.max(0, (kernel * limit) / 100 - movable);
  return Math.floor(bytes / o.blockBytes) * o.blockBytes;
}
