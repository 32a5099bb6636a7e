// Which frames of a pool another pool may have: by node, zone and range.
//
//   frames of `from`   │ node 0 DMA32 │ node 0 Normal │ node 1 Normal │       runs by label (frame-owners.ts)
//   `b` may have               nodes 0, zones Normal, ranges 4G-5G
//   fitting                           │ 4G-5G │
//
// A zone takes back only what bears its label; a user pool has nodes, zones and perhaps ranges (a DMA rule). Whoever moves
// frames without being told which asks here first: a lease, priority reclaim, a revocation. Spec 9.A, EXDEV.

import { MIGRATE_ISOLATE, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { sizePcp } from '../vm-tunables.ts';
import { type FrameRange, freeOf, givable } from './pool-move.ts';
import { attrsOf, type Lease, type PoolAttrs, poolTableOf } from './pool-table.ts';
import { reshare } from './pool-watermarks.ts';

/** May the pool have frames that bear this zone's label? */
const mayHave = (b: PoolAttrs, zone: Pool): boolean =>
  b.kind === 'zone' ? b.id === zone.id : b.nodes.includes(zone.node) && b.zones.includes(zone.zone);

/** Zones that label the frames of a pool. */
export const labelsOf = (m: Machine, pool: Pool): Pool[] =>
  pool.kind === 'zone' ? [pool] : [...pool.labels.keys()].map((id) => m.pools[id] as Pool);

/**
 * Frame numbers of `from`'s hull that `b` may have, in runs, ascending; undefined: any frame of `from`. Empty: none.
 * Cost O(1) if it is any, else O(pageblocks of the hull).
 */
export function fittingRanges(m: Machine, from: Pool, b: PoolAttrs): readonly FrameRange[] | undefined {
  const labels = labelsOf(m, from);
  const fitting = new Set(labels.filter((zone) => mayHave(b, zone)).map((zone) => zone.id));
  if (fitting.size === 0) return [];
  if (fitting.size === labels.length && b.ranges === undefined) return undefined;
  const runs: { start: number; end: number }[] = [];
  const end = Math.min(from.base + from.pages, m.sections.frames);
  for (let i = from.base; i < end; i += PAGEBLOCK_PAGES) {
    if (!fitting.has(m.owners.zoneAt(i))) continue;
    const pfn: number = m.sections.pfnOf(i);
    const last = runs[runs.length - 1];
    if (last !== undefined && last.end === pfn) last.end += PAGEBLOCK_PAGES;
    else runs.push({ start: pfn, end: pfn + PAGEBLOCK_PAGES });
  }
  if (b.ranges === undefined) return runs;
  const { ranges } = b;
  return runs.flatMap((r) =>
    ranges
      .map((q) => ({ start: Math.max(r.start, q.start), end: Math.min(r.end, q.end) }))
      .filter((q) => q.start < q.end),
  );
}

/**
 * Free frames that a pool could give away now, of all or of `ranges` of frame numbers: neither isolated nor borrowed. Its
 * per-CPU lists are drained. Cost O(pageblocks of the ranges + loans x ranges)
 */
export function freeToGive(m: Machine, pool: Pool, ranges: readonly FrameRange[] | undefined): number {
  const all = givable(m, pool);
  if (ranges === undefined) return all;
  let free = ranges.reduce((n, r) => n + freeOf(m, pool, r.start, r.end), 0);
  for (const lease of poolTableOf(m).leases.values()) {
    if (lease.to !== pool.id) continue;
    for (const lent of lease.ranges) {
      for (const r of ranges) {
        const start = Math.max(lent.start, r.start);
        const end = Math.min(lent.end, r.end);
        if (start < end) free -= freeOf(m, pool, start, end);
      }
    }
  }
  return Math.min(all, free);
}

/** Is a pageblock of [start, end) of the dense index closed? Free frames of it cannot change their pool until it is open. */
export function isIsolated(pool: Pool, start: number, end: number): boolean {
  for (let i = start - (start % PAGEBLOCK_PAGES); i < end; i += PAGEBLOCK_PAGES) {
    const at = i - pool.base; // the other end of a loan may never have had frames as far out as this
    if (at >= 0 && at < pool.pages && pool.alloc.area.typeOf(at) === MIGRATE_ISOLATE) return true;
  }
  return false;
}

/** Pages on loan to a pool, and by it. Cost O(leases). */
export function onLoan(m: Machine, pool: number): { in: number; out: number } {
  const pages = { in: 0, out: 0 };
  for (const lease of poolTableOf(m).leases.values()) {
    if (lease.to === pool) pages.in += lease.pages;
    if (lease.from === pool) pages.out += lease.pages;
  }
  return pages;
}

/** "lease 3 (web lent 512 pages to batch)". */
export const describeLease = (m: Machine, lease: Lease): string =>
  `lease ${lease.id} (${attrsOf(m, lease.from).name} lent ${lease.pages} pages to ${attrsOf(m, lease.to).name})`;

/** Pages that a pool may get before it is as large as it may be: what it has lent counts, since it comes back. */
export const roomOf = (m: Machine, a: PoolAttrs): number =>
  Math.max(0, a.max - (m.pools[a.id] as Pool).present - onLoan(m, a.id).out);

/** After frames changed between two pools: the shares of watermarks, and the sizes of per-CPU lists. */
export function settle(m: Machine, from: Pool, to: Pool): void {
  reshare(m, from, to);
  sizePcp(m, from);
  sizePcp(m, to);
}
