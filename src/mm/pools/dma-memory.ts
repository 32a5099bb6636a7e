// DMA memory: what zones can give to a pool that is made for a rule, and how it is taken.
//
//   zone       │ free │ used, may move │ slab │ free │ CMA │         frames of a zone, as they are
//   freeOnly   [──────)                       [──────)               cost 0
//   vacatable  [───────────────────────)      [──────)               cost of what is used, by the weights of the chunk index
//   take       the chosen frames: large pages that a border cuts are split, clean cache is dropped, what is free changes
//              its pool, what is used moves to other frames and what it leaves changes its pool: all of it, or none
//
// Where contents go: the zones of the same node, the highest first, then those of other nodes, by distance, always above
// their watermarks. All free frames of the choice change their pool before the first page moves, so that no page moves
// into the window that is being emptied. A zone keeps its min watermark: of its free frames the highest are offered.
//
// Never offered: ZONE_MOVABLE (buffers do not move), CMA, HighAtomic and isolated pageblocks, frames on loan, huge pages
// of hugetlb (they cannot be cut at the border of a window), pinned pages, and what belongs to other pools.
//
// Invariant: after a refusal each frame is its pool's again; pages that moved stay where they are. Spec 9.B, step 3.

import { type NodeId, type Pfn, toPfn } from '#base/units';
import { NR_PCP_TYPES, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { splitAllocation } from '../migrate.ts';
import { CLASS_TRAITS, ZONE_MOVABLE } from '../page-class.ts';
import { allocationsIn } from '../page-isolation.ts';
import { isDroppable, type PageStateOf, pageStateAt } from '../page-state.ts';
import type { Pool } from '../pool.ts';
import { type Refusal, refusal } from '../refusal.ts';
import { CHUNK_WEIGHTS, pageWeight } from './chunk-cost.ts';
import { alignDown, type Extent, extent, framesOf, intersect, normalise, pagesOf } from './dma-extent.ts';
import type { DmaForm } from './dma-rule.ts';
import type { EvacuationCost, NodeMemory } from './dma-window.ts';
import { settle } from './pool-fit.ts';
import { denseRuns, freeOf, givable, moveFree, moveRanges, ownedRuns } from './pool-move.ts';
import { poolTableOf } from './pool-table.ts';

/** Memory as windows are chosen from it: by node, and what each frame of it costs to vacate. */
export type DmaMemory = {
  readonly nodes: readonly NodeMemory[];
  readonly costOf: EvacuationCost;
  /** Those of its frames that are used, ascending and apart. */
  readonly used: readonly Extent[];
};

export type MemoryWanted = {
  /** Of the zones: 'free' frames only; 'vacatable': used ones too, where their contents may move; 'none': `own` alone. */
  readonly what: 'free' | 'vacatable' | 'none';
  /** Frames that may be counted as free whatever zone they came from: those of the pool itself. */
  readonly own?: readonly Extent[];
  readonly pageState?: PageStateOf;
};

/** Used frames that may leave, and the cost of each. Ascending. */
type Used = { readonly start: number; readonly end: number; readonly weight: number };

/** From the nearest of the rule's nodes; 0 everywhere where it names none. */
export function distanceOf(m: Machine, form: DmaForm, node: NodeId): number {
  const near = form.near?.filter((n) => m.nodes.includes(n)) ?? [];
  return near.length === 0 ? 0 : Math.min(...near.map((n) => m.distance(n, node)));
}

/** Of the nearest node that has memory which the form allows; Infinity where none has. */
export const nearestDistance = (m: Machine, form: DmaForm): number =>
  Math.min(
    ...kernelZones(m)
      .filter((z) => z.present > 0 && (form.required?.includes(z.node) ?? true))
      .filter((z) => intersect(form.ranges, [extent(z.startPfn, z.endPfn)]).length > 0)
      .map((z) => distanceOf(m, form, z.node)),
  );

/** Zones that buffers may lie in. */
export const kernelZones = (m: Machine): Pool[] => m.zones.filter((z) => z.zone !== ZONE_MOVABLE);

/** Node of a frame; undefined where there is no memory, or it is offline. */
export function nodeAt(m: Machine, pfn: Pfn): NodeId | undefined {
  const index = m.sections.indexOf(pfn);
  return index < 0 ? undefined : m.zoneAt(index)?.node;
}

/**
 * What the machine's zones can give for a form. Cost O(free pieces), and O(used frames of the zones) for 'vacatable'.
 */
export function dmaMemory(m: Machine, form: DmaForm, { what, own = [], pageState }: MemoryWanted): DmaMemory {
  const byNode = new Map<NodeId, Extent[]>();
  const used: Used[] = [];
  const add = (node: NodeId, extents: readonly Extent[]): void => {
    byNode.set(node, [...(byNode.get(node) ?? []), ...extents]);
  };
  for (const zone of what === 'none' ? [] : kernelZones(m)) {
    if (form.required !== undefined && !form.required.includes(zone.node)) continue;
    add(zone.node, offered(m, zone, form));
    if (what === 'free') continue;
    const mine = movableOf(m, zone, pageState);
    for (const u of mine) used.push(u);
    add(
      zone.node,
      mine.map((u) => extent(u.start, u.end)),
    );
  }
  for (const e of own) {
    for (const part of byNodeOf(m, e)) add(part.node, [part.extent]);
  }
  used.sort((a, b) => a.start - b.start);
  const nodes = [...byNode]
    .map(([node, extents]) => ({ node, distance: distanceOf(m, form, node), extents: normalise(extents) }))
    .sort((a, b) => a.node - b.node);
  return { nodes, costOf: costIn(used), used: normalise(used.map((u) => extent(u.start, u.end))) };
}

/** Frames of [start, end), whose pageblocks may be of several nodes, in runs of one node. */
function byNodeOf(m: Machine, e: Extent): { node: NodeId; extent: Extent }[] {
  const out: { node: NodeId; extent: Extent }[] = [];
  for (let pfn: number = e.start; pfn < e.end; ) {
    const next = Math.min(e.end, alignDown(pfn, PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES);
    const node = nodeAt(m, toPfn(pfn));
    if (node !== undefined) out.push({ node, extent: extent(pfn, next) });
    pfn = next;
  }
  return out;
}

/** Free frames of a pool, those on per-CPU lists included, ascending and apart. */
export function freeExtents(m: Machine, pool: Pool): Extent[] {
  const out: Extent[] = [];
  const { area } = pool.alloc;
  const add = (i: number, order: number): void => {
    const pfn: number = m.sections.pfnOf(i + pool.base);
    out.push(extent(pfn, pfn + 2 ** order));
  };
  area.forEachFree(0, Math.min(pool.pages, m.sections.frames - pool.base), (i, order, mt) => {
    if (mt < NR_PCP_TYPES) add(i, order);
  });
  pool.alloc.forEachPcp((_cpu, _mt, i, order) => {
    if (area.typeOf(i) < NR_PCP_TYPES) add(i, order);
  });
  return normalise(out);
}

/** What a zone can give of its free frames: in each window of the form as many as it can spare, the highest. */
function offered(m: Machine, zone: Pool, form: DmaForm): Extent[] {
  let free = freeExtents(m, zone);
  for (const lease of poolTableOf(m).leases.values()) {
    if (lease.to === zone.id) free = without(free, lease.ranges);
  }
  free = intersect(free, form.ranges);
  const spare = spareOf(m, zone);
  if (pagesOf(free) <= spare) return free;
  const window = framesOf(form.windowBits);
  const out: Extent[] = [];
  let at = -1;
  let left = 0;
  for (const e of [...free].reverse()) {
    for (let end: number = e.end; end > e.start; ) {
      const start = Math.max(e.start, alignDown(end - 1, window));
      const here = Math.floor(start / window);
      if (here !== at) left = spare;
      at = here;
      const pages = Math.min(left, end - start);
      if (pages > 0) out.push(extent(end - pages, end));
      left -= pages;
      end = start;
    }
  }
  return normalise(out);
}

/** Free frames that a zone can give before it is at its min watermark. */
const spareOf = (m: Machine, zone: Pool): number => Math.max(0, givable(m, zone) - Math.max(0, zone.watermarks.min));

/** Extents less others. The first list is ascending and apart; so is the answer. O(a + b log b). */
export function without(from: readonly Extent[], others: readonly Extent[]): Extent[] {
  const cuts = normalise(others);
  const out: Extent[] = [];
  let k = 0;
  for (const e of from) {
    let start: number = e.start;
    while (k < cuts.length && (cuts[k] as Extent).end <= start) k++;
    for (let j = k; j < cuts.length && (cuts[j] as Extent).start < e.end; j++) {
      const cut = cuts[j] as Extent;
      if (start < cut.start) out.push(extent(start, cut.start));
      start = Math.max(start, cut.end);
    }
    if (start < e.end) out.push(extent(start, e.end));
  }
  return out;
}

/** Used frames of a zone whose contents may move. */
function movableOf(m: Machine, zone: Pool, pageState: PageStateOf | undefined): Used[] {
  const out: Used[] = [];
  const { area } = zone.alloc;
  const leased = [...poolTableOf(m).leases.values()].filter((l) => l.to === zone.id).flatMap((l) => l.ranges);
  const end = Math.min(zone.base + zone.pages, m.sections.frames);
  for (const run of ownedRuns(m, zone, { start: zone.base, end })) {
    for (const a of allocationsIn(m, run.start, run.end)) {
      if (a.head < run.start || a.head + 2 ** a.order > run.end) continue;
      if (a.pinned || a.cls === 'hugetlb' || CLASS_TRAITS[a.cls].mobility !== 'lru') continue;
      if (area.typeOf(a.head - zone.base) >= NR_PCP_TYPES) continue;
      const start: number = m.sections.pfnOf(a.head);
      const last = start + 2 ** a.order;
      if (leased.some((r) => r.start < last && start < r.end)) continue;
      const weight = pageWeight(a.cls, pageStateAt(m, a.head, pageState), CHUNK_WEIGHTS);
      out.push({ start, end: last, weight });
    }
  }
  return out;
}

/** Sums of weights, by bisection. */
function costIn(used: readonly Used[]): EvacuationCost {
  const upTo = new Float64Array(used.length + 1);
  for (const [k, u] of used.entries()) upTo[k + 1] = (upTo[k] as number) + (u.end - u.start) * u.weight;
  const below = (pfn: number): number => {
    let low = 0;
    for (let high = used.length; low < high; ) {
      const mid = (low + high) >> 1;
      if ((used[mid] as Used).end <= pfn) low = mid + 1;
      else high = mid;
    }
    const cut = used[low];
    const part = cut !== undefined && cut.start < pfn ? (pfn - cut.start) * cut.weight : 0;
    return (upTo[low] as number) + part;
  };
  return (start, end) => below(end) - below(start);
}

export type Taken = {
  readonly migratedPages: number;
  readonly droppedPages: number;
};

/**
 * Frames change from the zones that have them to a pool: all of `extents`, or none.
 *
 * @returns what had to go; pool-busy (EBUSY) with the frames in the way, and then every frame is its zone's. Cost
 *   O(pieces + frames that are used)
 */
export function takeExtents(
  m: Machine,
  pool: Pool,
  extents: readonly Extent[],
  pageState?: PageStateOf,
): Taken | Refusal {
  const sources = kernelZones(m)
    .map((zone) => ({ zone, ranges: ownedBy(m, zone, extents) }))
    .filter((s) => s.ranges.length > 0);
  const got: { zone: Pool; ranges: Extent[] }[] = [];
  const undo = (): void => {
    for (const g of got) returnExtents(m, pool, g.zone, ownedBy(m, pool, g.ranges));
  };
  const migrated = m.vmstat.pgmigrate_success;
  let dropped = 0;
  for (const { zone, ranges } of sources) {
    zone.alloc.drain();
    dropped += clearBorders(m, zone, ranges, pageState);
    got.push({ zone, ranges });
    const free = ranges.reduce((n, r) => n + freeOf(m, zone, r.start, r.end), 0);
    if (free > 0) moveFree(m, zone, pool, free, ranges);
  }
  for (const { zone, ranges } of sources) {
    const left = ownedBy(m, zone, ranges);
    const moved =
      left.length === 0
        ? undefined
        : moveRanges(m, zone, pool, left, { used: 'evacuate', targets: targetsOf(m, zone) });
    if (moved !== undefined && 'reason' in moved) {
      undo();
      return moved;
    }
    settle(m, zone, pool);
  }
  const missing = pagesOf(extents) - ownedBy(m, pool, extents).reduce((n, e) => n + e.end - e.start, 0);
  if (missing > 0) {
    undo();
    return refusal('pool-busy', `${missing} frames of the choice are no zone's any more`);
  }
  return { migratedPages: m.vmstat.pgmigrate_success - migrated, droppedPages: dropped };
}

/** Free frames of a pool go back to the zone that labels them. */
export function returnExtents(m: Machine, pool: Pool, zone: Pool, extents: readonly Extent[]): void {
  pool.alloc.drain();
  const free = extents.reduce((n, r) => n + freeOf(m, pool, r.start, r.end), 0);
  if (free > 0) moveFree(m, pool, zone, free, extents);
  settle(m, pool, zone);
}

/** The parts of extents that are a pool's. */
export function ownedBy(m: Machine, pool: Pool, extents: readonly Extent[]): Extent[] {
  const out: Extent[] = [];
  for (const e of extents) {
    for (const run of denseRuns(m, e.start, e.end)) {
      for (const own of ownedRuns(m, pool, run)) {
        // A run of the dense index may go on in a section that is not its neighbour in memory.
        for (let i = own.start; i < own.end; ) {
          const next = Math.min(own.end, alignDown(i, SECTION) + SECTION);
          const pfn: number = m.sections.pfnOf(i);
          out.push(extent(pfn, pfn + next - i));
          i = next;
        }
      }
    }
  }
  return normalise(out);
}

const SECTION = 32768;

/** Clean cache that nobody has mapped is dropped; a large page that reaches out of the choice is split. */
function clearBorders(m: Machine, zone: Pool, ranges: readonly Extent[], pageState: PageStateOf | undefined): number {
  let dropped = 0;
  for (const r of ranges) {
    for (const run of denseRuns(m, r.start, r.end)) {
      for (const a of [...allocationsIn(m, run.start, run.end)]) {
        if (a.pinned || CLASS_TRAITS[a.cls].mobility !== 'lru' || a.cls === 'hugetlb') continue;
        if (m.owners.at(a.head) !== zone.id) continue;
        const inside = a.head >= run.start && a.head + 2 ** a.order <= run.end;
        if (inside && isDroppable(m, a, pageState)) {
          m.free(m.sections.pfnOf(a.head));
          dropped += 2 ** a.order;
        } else if (!inside) splitAllocation(m, a.head);
      }
    }
  }
  zone.alloc.drain();
  return dropped;
}

/** Where the contents of a zone's frames may go: kernel zones of its node, the highest first, then by distance. */
function targetsOf(m: Machine, zone: Pool): Int32Array {
  const rank = (z: Pool): number => m.distance(zone.node, z.node) * 4 - z.zone;
  return Int32Array.from(
    kernelZones(m)
      .filter((z) => z.managed > 0)
      .sort((a, b) => rank(a) - rank(b) || a.id - b.id)
      .map((z) => z.id),
  );
}
