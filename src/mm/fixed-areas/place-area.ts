// Frames for a fixed area: found by rule, taken, carried, given back.
//
//   takePlace     frames that keep a form and belong to nobody afterwards:
//                 1  a chunk from the zonelist of the node that the rule is near to, if it happens to keep the form (most do)
//                 2  free frames of the kernel zones, the nearest nodes first, cut into segments as the form allows
//                 3  the same with pages that can move, which are moved away (contig-alloc.ts), three tries
//   takeConfined  the same in areas that are kept for drivers that give nothing up: the lowest area first, filled to its last
//                 frame where the form allows pieces, so that few areas are touched
//   carry         an area's allocations and contents go from their frames to others
//
//   pieces        [ order 3 ][ 1 ][0]        a segment is cut into the largest aligned pieces: each is an allocation
//
// Pieces go whole where they find their alignment at the other place; else the area goes frame by frame, and consists of
// single frames afterwards. Frames of isolated pageblocks are never found: nobody is given frames of a range that leaves.
// A zone keeps its min watermark.
//
// Spec 9.E with the rules of 9.B. Movable pages and CMA as in pools/dma-memory.ts.

import { assert } from '#base/assert';
import { type HolderId, type NodeId, type Pfn, toPfn } from '#base/units';
import { takeFrames } from '../alloc-path.ts';
import { allocContigRange, freeContigRange } from '../contig-alloc.ts';
import { takeFreeFrames } from '../free-frames.ts';
import { DMA_END, DMA32_END, MAX_ORDER, MIGRATE_UNMOVABLE, PAGE_SIZE, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { splitAllocation } from '../migrate.ts';
import { ZONE_DMA, ZONE_DMA32, ZONE_NORMAL, type ZoneIndex } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { placeBuffer, violationOf } from '../pools/dma-buffer.ts';
import { type Extent, extent, framesOf, intersect, normalise, pagesOf, trimStarts } from '../pools/dma-extent.ts';
import { distanceOf, dmaMemory, freeExtents, kernelZones } from '../pools/dma-memory.ts';
import type { DmaForm } from '../pools/dma-rule.ts';
import { META_PINNED } from '../section.ts';

const TRIES = 3;

/** One allocation of an area: head in the dense index. */
export type Piece = { readonly head: number; readonly order: number };

/** The allocations that these frames are; they are whole ones. */
export function piecesOf(m: Machine, segments: readonly Extent[]): Piece[] {
  const out: Piece[] = [];
  for (const s of segments) {
    for (let pfn: number = s.start; pfn < s.end; ) {
      const index = m.sections.indexOf(toPfn(pfn));
      const a = index < 0 ? undefined : m.sections.allocationAt(index);
      assert(a !== undefined && a.head === index, 'a frame of a fixed area is no allocation', { pfn });
      out.push(a);
      pfn += 1 << a.order;
    }
    const last = m.sections.allocationAt(m.sections.indexOf(toPfn(s.end - 1)));
    const end = last === undefined ? -1 : m.sections.pfnOf(last.head) + (1 << last.order);
    assert(end === s.end, 'an allocation reaches over the end of a fixed area', { end: s.end });
  }
  return out;
}

/** Has somebody else a reference to a frame of the area? */
export const isPinned = (m: Machine, segments: readonly Extent[]): boolean =>
  piecesOf(m, segments).some((p) => (m.sections.metaAt(p.head) & META_PINNED) !== 0);

// ------------------------------------------------------------------------------------------------------- to find

/** Runs of frames that are neighbours in the dense index too, cut at pageblocks: each is of one zone. */
function* runsOf(m: Machine, segments: readonly Extent[]): Generator<{ start: number; end: number }> {
  for (const s of segments) {
    for (let pfn: number = s.start; pfn < s.end; ) {
      const stop = Math.min(s.end, pfn - (pfn % PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES);
      const index = m.sections.indexOf(toPfn(pfn));
      assert(index >= 0, 'a frame of a fixed area is not there', { pfn });
      yield { start: index, end: index + stop - pfn };
      pfn = stop;
    }
  }
}

function takeFree(m: Machine, segments: readonly Extent[]): void {
  for (const r of runsOf(m, segments)) takeFreeFrames(m.poolAt(r.start) as Pool, r.start, r.end); // free: it has a pool
}

/** Frames that belong to nobody become free. In isolated pageblocks they stay out of reach. */
export function putFree(m: Machine, segments: readonly Extent[]): void {
  for (const s of segments) {
    for (let pfn: number = s.start; pfn < s.end; ) {
      let order = 0;
      while (order < MAX_ORDER && pfn % (2 << order) === 0 && pfn + (2 << order) <= s.end) order++;
      const index = m.sections.indexOf(toPfn(pfn));
      const pool = m.poolAt(index) as Pool; // it was in use a moment ago
      pool.alloc.freeToArea(index - pool.base, order);
      pfn += 1 << order;
    }
  }
}

/** Are all these frames free now, so that they can be taken again at this address? Those on per-CPU lists are not. */
function allFree(m: Machine, segments: readonly Extent[]): boolean {
  for (const s of segments) {
    for (let pfn: number = s.start; pfn < s.end; ) {
      const stop = Math.min(s.end, pfn - (pfn % PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES);
      const index = m.sections.indexOf(toPfn(pfn));
      const pool = index < 0 ? undefined : m.poolAt(index);
      if (pool === undefined) return false;
      const at = index - pool.base;
      if (pool.alloc.area.freeIn(at, at + stop - pfn) !== stop - pfn) return false;
      pfn = stop;
    }
  }
  return true;
}

/** Takes exactly these frames, if they are free. */
export function takeAt(m: Machine, segments: readonly Extent[]): boolean {
  if (!allFree(m, segments)) return false;
  takeFree(m, segments);
  return true;
}

/** The highest zone that a form reaches into. */
function topZoneOf(form: DmaForm): ZoneIndex {
  const end: number = form.ranges.at(-1)?.end ?? 0;
  return end <= DMA_END ? ZONE_DMA : end <= DMA32_END ? ZONE_DMA32 : ZONE_NORMAL;
}

/** 1: what the buddy allocator gives first. */
function takeChunk(m: Machine, form: DmaForm, pages: number): Extent[] | undefined {
  let order = 0;
  while (1 << order < pages) order++;
  if (order > MAX_ORDER) return undefined;
  const home = form.near?.find((n) => m.nodes.includes(n)) ?? (m.nodes[0] as NodeId); // a machine has a node
  const top = topZoneOf(form);
  const list = m
    .zonelist(home, top)
    .filter((id) => form.required === undefined || form.required.includes((m.pools[id] as Pool).node));
  const index = takeFrames(m, list, order, MIGRATE_UNMOVABLE, top);
  if (index < 0) return undefined;
  const start: number = m.sections.pfnOf(index);
  const segments = [extent(start, start + pages)];
  if (violationOf(form, [segments]) !== undefined) {
    putFree(m, [extent(start, start + 2 ** order)]);
    return undefined;
  }
  if (2 ** order > pages) putFree(m, [extent(start + pages, start + 2 ** order)]);
  return segments;
}

/** Zones by how far they are, each group with all nearer ones. */
function zonesByDistance(m: Machine, form: DmaForm, pages: number): Pool[][] {
  const zones = kernelZones(m)
    .filter((z) => form.required === undefined || form.required.includes(z.node))
    .filter((z) => z.alloc.nrFree() + z.alloc.pcpPages() - pages >= z.watermarks.min)
    .map((zone) => ({ zone, distance: distanceOf(m, form, zone.node) }))
    .sort((a, b) => a.distance - b.distance || b.zone.zone - a.zone.zone);
  const distances = [...new Set(zones.map((z) => z.distance))];
  return distances.map((d) => zones.filter((z) => z.distance <= d).map((z) => z.zone));
}

/** 2: any free frames that keep the form. */
function takeSegments(m: Machine, form: DmaForm, pages: number): Extent[] | undefined {
  for (const zones of zonesByDistance(m, form, pages)) {
    for (const z of zones) z.alloc.drain();
    const free = normalise(zones.flatMap((z) => freeExtents(m, z)));
    const placed = placeBuffer(form, free, pages * PAGE_SIZE);
    if (!placed.ok) continue;
    takeFree(m, placed.value);
    return placed.value;
  }
  return undefined;
}

/** 3: frames of pages that move away. @param within only there; [] = anywhere */
function takeVacated(
  m: Machine,
  holder: HolderId,
  form: DmaForm,
  pages: number,
  within?: readonly Extent[],
): Extent[] | undefined {
  let bad: Extent[] = [];
  for (let tried = 0; tried < TRIES; tried++) {
    const all = normalise(dmaMemory(m, form, { what: 'vacatable' }).nodes.flatMap((n) => [...n.extents]));
    const allowed = within === undefined ? all : intersect(all, within);
    const placed = placeBuffer(form, cutOut(allowed, bad), pages * PAGE_SIZE);
    if (!placed.ok) return undefined;
    const got: Extent[] = [];
    for (const s of placed.value) {
      if (!allocContigRange(m, s.start, s.end, { holder }).ok) break;
      got.push(s);
    }
    for (const s of got) freeContigRange(m, s.start, s.end);
    for (const z of kernelZones(m)) z.alloc.drain();
    if (got.length === placed.value.length && takeAt(m, got)) return got;
    bad = [...bad, ...placed.value.slice(got.length)];
  }
  return undefined;
}

const cutOut = (from: readonly Extent[], cuts: readonly Extent[]): Extent[] =>
  cuts.reduce<Extent[]>(
    (left, c) =>
      left.flatMap((e) =>
        [extent(e.start, Math.min(e.end, c.start)), extent(Math.max(e.start, c.end), e.end)].filter(
          (x) => x.start < x.end,
        ),
      ),
    [...from],
  );

/**
 * Frames that keep the form, taken for nobody yet.
 * @param holder  whom frames that are vacated are given to for a moment
 * @returns segments, ascending; undefined when there is no place. Cost O(order); O(free pieces) where the first chunk will
 *   not do; O(used frames) where pages have to move
 */
export const takePlace = (m: Machine, holder: HolderId, form: DmaForm, pages: number): Extent[] | undefined =>
  takeChunk(m, form, pages) ?? takeSegments(m, form, pages) ?? takeVacated(m, holder, form, pages);

/**
 * The same within `areas` (ascending, apart), of which the lowest are filled first.
 *
 * Where the form allows pieces every free frame of an area is used before the next one is looked at.
 */
export function takeConfined(
  m: Machine,
  holder: HolderId,
  form: DmaForm,
  pages: number,
  areas: readonly Extent[],
): Extent[] | undefined {
  for (const z of kernelZones(m)) z.alloc.drain();
  const free = intersect(normalise(kernelZones(m).flatMap((z) => freeExtents(m, z))), areas);
  const packed = packUp(form, free, pages);
  if (packed !== undefined) {
    takeFree(m, packed);
    return packed;
  }
  for (let k = 1; k <= areas.length; k++) {
    const some = areas.slice(0, k);
    const placed = placeBuffer(form, intersect(free, some), pages * PAGE_SIZE);
    if (placed.ok) {
      takeFree(m, placed.value);
      return placed.value;
    }
    const vacated = takeVacated(m, holder, form, pages, some);
    if (vacated !== undefined) return vacated;
  }
  return undefined;
}

/** The lowest free frames, as many as it takes; undefined if the form does not allow these pieces. */
function packUp(form: DmaForm, free: readonly Extent[], pages: number): Extent[] | undefined {
  const out: Extent[] = [];
  let left = pages;
  const align = framesOf(form.alignBits);
  for (const e of trimStarts(intersect(form.ranges, free), form.alignBits)) {
    if (left === 0) break;
    let take = Math.min(left, e.end - e.start);
    if (take < left) take -= take % align; // another segment follows: it has to begin at a multiple, and so does what is left
    if (take === 0) continue;
    out.push(extent(e.start, e.start + take));
    left -= take;
  }
  return left === 0 && violationOf(form, [out]) === undefined ? out : undefined;
}

// ------------------------------------------------------------------------------------------------------ to carry

/**
 * Allocations and contents of `from` go to `to`, as many frames, taken and nobody's. Afterwards those of `from` are nobody's.
 * Nothing of it is pinned. Cost O(pages).
 */
export function carry(m: Machine, from: readonly Extent[], to: readonly Extent[]): void {
  assert(pagesOf(from) === pagesOf(to), 'an area has the same size everywhere', { from, to });
  let pieces = piecesOf(m, from);
  let target = landing(pieces, to);
  if (target === undefined) {
    for (const p of pieces) if (p.order > 0) splitAllocation(m, p.head);
    pieces = piecesOf(m, from);
    target = landing(pieces, to) as number[]; // single frames fit anywhere
  }
  for (const [k, p] of pieces.entries()) {
    m.relocate(p.head, m.sections.indexOf(toPfn(target[k] as number)), p.order); // as many as pieces
  }
}

/** Where pieces come to lie, one after another; undefined if one would not be aligned, or be cut. */
function landing(pieces: readonly Piece[], to: readonly Extent[]): number[] | undefined {
  const out: number[] = [];
  let k = 0;
  for (const s of to) {
    for (let pfn: number = s.start; pfn < s.end; k++) {
      const pages = 1 << (pieces[k] as Piece).order; // sizes are equal
      if (pfn % pages !== 0 || pfn + pages > s.end) return undefined;
      out.push(pfn);
      pfn += pages;
    }
  }
  return out;
}

/** Frames that belong to nobody become a holder's. */
export function hold(m: Machine, holder: HolderId, segments: readonly Extent[]): void {
  for (const s of segments) m.place(holder, s.start, s.end);
}

/** Ends the allocations: their frames are free, and in isolated pageblocks they stay out of reach. */
export function letGo(m: Machine, segments: readonly Extent[]): void {
  for (const p of piecesOf(m, segments)) m.free(m.sections.pfnOf(p.head));
}

/** Heads of an area's allocations, as frame numbers. */
export const headPfns = (m: Machine, segments: readonly Extent[]): Pfn[] =>
  piecesOf(m, segments).map((p) => m.sections.pfnOf(p.head));
