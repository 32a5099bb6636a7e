// DMA plans: which frames a pool would get for a need, before anything is taken.
//
//   need      pages that the pool lacks, and the buffers that are to lie in them
//     1       free frames alone; if all of them are as near, and as plentiful, as memory of the rule can be: done
//     2       used frames that may move, too (dma-window.ts weighs them), unless what they hold has nowhere to go
//     3       can the buffers be placed in the choice? If not: the largest buffer chooses, piece by piece:
//               the nearest nodes alone, then farther ones  >  memory above 4 GiB, above 16 MiB, all  >  free, then used
//   plan ──>  frames to take, where in the order of scarcity they lie, how far, at which cost
//
// One buffer, or pages without buffers, find a place if and only if there is one. Several buffers are placed the largest
// first, each where it is best: that may miss a place that a search over all orders would find.
//
// Pure but for reading the machine. After Snook 2007, problems 1 and 2 (spec 9.B).

import { err, ok, type Result } from '#base/result';
import { DMA_END, DMA32_END, PAGE_SIZE } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { PageStateOf } from '../page-state.ts';
import { placeBuffer } from './dma-buffer.ts';
import { type Extent, extent, intersect, normalise, pagesOf } from './dma-extent.ts';
import { type DmaMemory, distanceOf, dmaMemory, kernelZones, nodeAt, without } from './dma-memory.ts';
import { type DmaForm, restricted } from './dma-rule.ts';
import { chooseWindow, type NoWindow, windowAt } from './dma-window.ts';

export type DmaWant = {
  /** Pages that the pool is to get, 1 at least. */
  readonly pages: number;
  /** Bytes of buffers that are to find a place in them and in `own`. */
  readonly buffers: readonly number[];
  /** Frames that are the pool's and free. */
  readonly own: readonly Extent[];
  readonly pageState?: PageStateOf | undefined;
};

/** How good a plan is: smaller is better, field by field. */
export type DmaRank = {
  /** Of its farthest frame. */
  readonly distance: number;
  /** 0: all above 4 GiB; 1: above 16 MiB; 2: some below. */
  readonly tier: number;
};

export type DmaPlan = DmaRank & {
  readonly window: Extent;
  /** Frames to take, ascending and apart; none of them is `own`. */
  readonly extents: readonly Extent[];
  readonly cost: number;
};

/** Lowest frames of what is not scarce, of what is less scarce, of all. */
const TIER_FLOORS = [DMA32_END, DMA_END, 0] as const;
const tierOf = (pfn: number): number => TIER_FLOORS.findIndex((floor) => pfn >= floor);

/** Rank of frames for a rule. No frames rank before all others. */
export function rankOf(m: Machine, form: DmaForm, extents: readonly Extent[]): DmaRank {
  let distance = 0;
  for (const z of kernelZones(m)) {
    const here = distanceOf(m, form, z.node);
    if (
      here > distance &&
      intersect(extents, [extent(z.startPfn, z.endPfn)]).some((e) => nodeAt(m, e.start) === z.node)
    ) {
      distance = here;
    }
  }
  return { distance, tier: extents.reduce((t, e) => Math.max(t, tierOf(e.start)), 0) };
}

/** Is `a` nearer, or as near and less scarce? */
export const ranksBefore = (a: DmaRank, b: DmaRank): boolean =>
  a.distance < b.distance || (a.distance === b.distance && a.tier < b.tier);

/** The best that memory of the form can be, be it free or not. */
function bestRank(m: Machine, form: DmaForm): DmaRank {
  let best: DmaRank = { distance: Number.POSITIVE_INFINITY, tier: 2 };
  for (const z of kernelZones(m)) {
    if (z.present === 0 || (form.required !== undefined && !form.required.includes(z.node))) continue;
    const reach = intersect(form.ranges, [extent(z.startPfn, z.endPfn)]).at(-1);
    if (reach === undefined) continue;
    const rank = { distance: distanceOf(m, form, z.node), tier: tierOf(reach.end - 1) };
    if (ranksBefore(rank, best)) best = rank;
  }
  return best;
}

const freeOnly = (m: Machine, form: DmaForm, { own }: DmaWant): DmaMemory => dmaMemory(m, form, { what: 'free', own });

const withUsed = (m: Machine, form: DmaForm, { own, pageState }: DmaWant): DmaMemory =>
  dmaMemory(m, form, { what: 'vacatable', own, ...(pageState === undefined ? {} : { pageState }) });

/**
 * Chooses frames of zones for a form; `free` leaves what is used alone.
 *
 * @returns no-window (ENOSPC) with the best window and what it lacks. Cost as dmaMemory and chooseWindow, twice at most
 */
export function planPool(
  m: Machine,
  form: DmaForm,
  want: DmaWant,
  what: 'free' | 'vacatable' = 'vacatable',
): Result<DmaPlan, NoWindow> {
  const quick = planIn(m, form, freeOnly(m, form, want), want);
  if (what === 'free') return quick;
  if (quick.ok && !ranksBefore(bestRank(m, form), quick.value)) return quick;
  const thorough = planIn(m, form, withUsed(m, form, want), want);
  if (!thorough.ok) return quick.ok ? quick : thorough;
  return quick.ok && !ranksBefore(thorough.value, quick.value) && quick.value.cost <= thorough.value.cost
    ? quick
    : thorough;
}

function planIn(m: Machine, form: DmaForm, memory: DmaMemory, want: DmaWant): Result<DmaPlan, NoWindow> {
  const { pages, own } = want;
  const need = pages + pagesOf(intersect(own, form.ranges)); // what the pool has is chosen too: it costs nothing
  if (own.length === 0) {
    const chosen = chooseWindow(form, memory.nodes, { min: need, max: need }, memory.costOf);
    if (!chosen.ok) return chosen;
    const { extents } = chosen.value;
    if (canHold(form, extents, want.buffers)) return ok(planOf(m, form, extents, memory));
  } else {
    const fresh = { ...memory, nodes: memory.nodes.map((n) => ({ ...n, extents: without(n.extents, own) })) };
    const chosen = chooseWindow(form, fresh.nodes, { min: pages, max: pages }, memory.costOf);
    if (!chosen.ok) return chosen;
    const { extents } = chosen.value;
    if (canHold(form, normalise([...extents, ...own]), want.buffers)) return ok(planOf(m, form, extents, memory));
  }
  const placed = placeAll(form, memory, want.buffers);
  if (!placed.ok) return placed;
  const segments = without(placed.value, own);
  const rest = pages - pagesOf(segments);
  if (rest <= 0) return ok(planOf(m, form, segments, memory));
  // Pages beyond the buffers, in the same window.
  const at = placed.value[0] as Extent;
  const inWindow = restricted(form, [windowAt(form, at.start)]);
  const nodes = memory.nodes.map((n) => ({ ...n, extents: without(n.extents, [...placed.value, ...own]) }));
  const more = chooseWindow(inWindow, nodes, { min: rest, max: rest }, memory.costOf);
  if (!more.ok) return more;
  return ok(planOf(m, form, normalise([...segments, ...more.value.extents]), memory));
}

function planOf(m: Machine, form: DmaForm, extents: readonly Extent[], { costOf }: DmaMemory): DmaPlan {
  const first = extents[0] as Extent; // a plan has one page at least
  const cost = extents.reduce((n, e) => n + costOf(e.start, e.end), 0);
  return { window: windowAt(form, first.start), extents, cost, ...rankOf(m, form, extents) };
}

const largestFirst = (buffers: readonly number[]): number[] => [...buffers].sort((a, b) => b - a);

/** Can the buffers be placed in free frames, the largest first? */
export function canHold(form: DmaForm, free: readonly Extent[], buffers: readonly number[]): boolean {
  let left = free;
  let in_ = form;
  for (const bytes of largestFirst(buffers)) {
    const placed = placeBuffer(in_, left, bytes);
    if (!placed.ok) return false;
    left = without(left, placed.value);
    in_ = restricted(form, [windowAt(form, (placed.value[0] as Extent).start)]);
  }
  return true;
}

/** A place for each buffer: the first one's window is everybody's. @returns all segments */
function placeAll(form: DmaForm, memory: DmaMemory, buffers: readonly number[]): Result<Extent[], NoWindow> {
  const taken: Extent[] = [];
  let inWindow = form;
  let left = memory;
  for (const bytes of largestFirst(buffers)) {
    const placed = placeBest(inWindow, left, bytes);
    if (placed === undefined) {
      const refused = placeBuffer(
        inWindow,
        left.nodes.flatMap((n) => n.extents),
        bytes,
      );
      const pages = Math.ceil(bytes / PAGE_SIZE);
      const largest = chooseWindow(inWindow, left.nodes, { min: pages, max: pages }, left.costOf);
      const best = largest.ok
        ? { window: largest.value.window, pages: largest.value.room, missing: 0 }
        : largest.error.best;
      return err({ refusal: (refused as { ok: false; error: NoWindow['refusal'] }).error, best });
    }
    taken.push(...placed);
    inWindow = restricted(form, [windowAt(form, (placed[0] as Extent).start)]);
    left = { ...left, nodes: left.nodes.map((n) => ({ ...n, extents: without(n.extents, placed) })) };
  }
  return ok(normalise(taken));
}

/** Step 3 of the top: where one buffer is best. */
export function placeBest(form: DmaForm, memory: DmaMemory, bytes: number): readonly Extent[] | undefined {
  const usable = memory.nodes.filter((n) => form.required?.includes(n.node) ?? true);
  const distances = [...new Set(usable.map((n) => n.distance))].sort((a, b) => a - b);
  for (const distance of distances) {
    const near = normalise(usable.flatMap((n) => (n.distance <= distance ? n.extents : [])));
    for (const floor of TIER_FLOORS) {
      const high = without(near, [extent(0, floor)]);
      if (high.length === 0) continue;
      for (const extents of memory.used.length === 0 ? [high] : [without(high, memory.used), high]) {
        const placed = placeBuffer(form, extents, bytes);
        if (placed.ok) return placed.value;
      }
    }
  }
  return undefined;
}
