// Layout: which frames exist, and to which node and zone each belongs, from the kernel's own files.
//
//   /proc/iomem          System RAM: the frames that exist            (measured; without it: frames that have flags)
//   memoryN/             state, nodes, valid_zones: one zone for almost every block            (measured)
//   /proc/zoneinfo       spans: the zones of the few blocks whose valid_zones is "none"        (derived)
//
//   block      │ 0: none      │ 1: DMA32 │ 2: DMA32 │ ... │ 11: none (straddles) │ 12: Movable │
//   ranges     │DMA│  DMA32   ────────────────────────────────────┤  Movable ──────────────────┤
//
// Ranges are cut at block borders, given their zone, and joined again: what Machine.boot wants.

import type { PageRuns } from '#capture/page-runs';
import { forEachRun } from '#capture/page-runs';
import type { MemoryBlock, MemoryBlocks } from '#kernfs/memory-blocks';
import type { ZoneinfoZone } from '#kernfs/zoneinfo';
import {
  type NodeId,
  PAGE_SIZE,
  type Pfn,
  type RamRange,
  toNodeId,
  toPfn,
  ZONE_NAMES,
  type ZoneIndex,
} from '#mm/index';

export type FrameRange = { readonly startPfn: number; readonly endPfn: number };

/** Index of a Linux zone name; undefined for "none", Device and anything unknown. */
export function zoneIndexOf(name: string | undefined): ZoneIndex | undefined {
  const k = (ZONE_NAMES as readonly (string | undefined)[]).indexOf(name);
  return k < 0 ? undefined : (k as ZoneIndex); // indexOf over four names
}

/** The zoneinfo entry of a pool. */
export const zoneOf = (
  zones: readonly ZoneinfoZone[],
  pool: { readonly node: number; readonly zone: number },
): ZoneinfoZone | undefined => zones.find((z) => z.node === pool.node && zoneIndexOf(z.zone) === pool.zone);

const NOPAGE = 1 << 20;

/**
 * Frames that have flags, and those of offline blocks: the stand-in for a /proc/iomem that is missing or shows zeros.
 * An offline block has no flags to read; only blocks that are RAM throughout can go offline, so that all of it is RAM.
 */
export function ramFromFlags(flags: PageRuns, memory: Pick<MemoryBlocks, 'blockSizeBytes' | 'blocks'>): FrameRange[] {
  const blockPages = memory.blockSizeBytes / PAGE_SIZE;
  const out: { startPfn: number; endPfn: number }[] = [];
  const add = (start: number, end: number): void => {
    const last = out[out.length - 1];
    if (last !== undefined && last.endPfn === start) last.endPfn = end;
    else if (start < end) out.push({ startPfn: start, endPfn: end });
  };
  const flagged = (from: number, to: number): void =>
    forEachRun(flags, from, to, (start, end, word) => {
      if ((flags.lo[word] & NOPAGE) === 0) add(start, end);
    });
  let at = 0;
  for (const b of memory.blocks) {
    if (b.state !== 'offline') continue;
    flagged(at, b.id * blockPages);
    at = (b.id + 1) * blockPages;
    add(b.id * blockPages, at);
  }
  flagged(at, flags.endPfn);
  return out;
}

const populated = (z: ZoneinfoZone): boolean => z.present > 0 && zoneIndexOf(z.zone) !== undefined;
const zoneStart = (z: ZoneinfoZone): number => z.startPfn ?? 0;
const zoneEnd = (z: ZoneinfoZone): number => zoneStart(z) + z.spanned;

/** Zone of a frame by spans, among the nodes of its block; where spans overlap, the lowest kernel zone. */
function zoneBySpan(zones: readonly ZoneinfoZone[], nodes: readonly number[], pfn: number): ZoneinfoZone | undefined {
  return zones.find(
    (z) => populated(z) && (nodes.length === 0 || nodes.includes(z.node)) && zoneStart(z) <= pfn && pfn < zoneEnd(z),
  );
}

/** @param ram  frames that exist, ascending; those outside of all blocks are left out (there is nothing to say on them) */
export function ramRanges(
  ram: readonly FrameRange[],
  memory: Pick<MemoryBlocks, 'blockSizeBytes' | 'blocks'>,
  zones: readonly ZoneinfoZone[],
): RamRange[] {
  const blockPages = memory.blockSizeBytes / PAGE_SIZE;
  const byId = new Map<number, MemoryBlock>(memory.blocks.map((b) => [b.id, b]));
  // Borders inside a block matter only where valid_zones does not name one zone.
  const borders = [...new Set(zones.filter(populated).flatMap((z) => [zoneStart(z), zoneEnd(z)]))].sort(
    (a, b) => a - b,
  );
  const out: { start: Pfn; end: Pfn; node: NodeId; zone: ZoneIndex; offline: boolean }[] = [];
  const push = (start: number, end: number, node: number, zone: ZoneIndex, offline: boolean): void => {
    const last = out[out.length - 1];
    if (
      last !== undefined &&
      last.end === start &&
      last.node === node &&
      last.zone === zone &&
      last.offline === offline
    ) {
      last.end = toPfn(end);
    } else {
      out.push({ start: toPfn(start), end: toPfn(end), node: toNodeId(node), zone, offline });
    }
  };
  for (const r of ram) {
    for (let pfn = r.startPfn; pfn < r.endPfn; ) {
      const id = Math.floor(pfn / blockPages);
      const end = Math.min(r.endPfn, (id + 1) * blockPages);
      const block = byId.get(id);
      if (block === undefined) {
        pfn = end;
        continue;
      }
      const offline = block.state === 'offline';
      const single = block.validZones?.length === 1 ? zoneIndexOf(block.validZones[0]) : undefined;
      if (offline || (single !== undefined && block.nodes.length <= 1)) {
        push(pfn, end, block.nodes[0] ?? 0, offline ? 2 : (single as ZoneIndex), offline);
        pfn = end;
        continue;
      }
      const next = borders.find((b) => b > pfn) ?? end;
      const stop = Math.min(end, next);
      const zone = zoneBySpan(zones, block.nodes, pfn);
      if (zone !== undefined) push(pfn, stop, zone.node, zoneIndexOf(zone.zone) as ZoneIndex, false);
      pfn = stop;
    }
  }
  return out;
}
