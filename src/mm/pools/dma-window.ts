// DMA windows: where a pool for a rule can lie, and where it should.
//
//   memory that can be had, by node          0 ──────── 16M ─────────────── 4G ──────────────────────────────
//     node 0, distance 10                       ▒▒▒▒         ░░░▒▒▒    ▒▒▒▒      ░░░░░▒▒▒▒▒
//     node 1, distance 21                                                                     ▒▒▒▒▒▒▒▒▒▒▒▒
//   1  parts: cut at chunks; what a chunk costs to vacate is asked, and what can never be vacated goes
//   2  pieces: what a segment of the rule can reach of each chunk, or of each aligned block where the rule asks for more
//   3  per window: nearest pieces first, of these high memory first, then the cheapest, then the highest, until `min` is met
//   4  of the windows that have `min`: by the same four, in sum; the highest of equals
//
// "High memory first" is minimal strictness: memory below 16 MiB and below 4 GiB is what 24-bit and 32-bit devices have to
// live on; a rule that can do with other memory as near as that gets other memory, even where it costs an evacuation.
// Distance comes first because it is part of the rule: memory elsewhere satisfies a device at that node less well.
//
// A window is found if and only if there is one. The choice is the best one exactly if the frames of a chunk cost the same
// each; else a piece that is taken in part is priced by what is taken of it. Pure: reads its arguments, changes nothing.
// After Snook 2007, problems 1 and 2 (spec 9.B, step 3 of findOrCreate).

import { assert } from '#base/assert';
import { formatSize, hex, plural } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { type NodeId, type Pfn, toPfn } from '#base/units';
import { CHUNK_PAGES, DMA_END, DMA32_END, MAX_PFN, PAGE_SIZE } from '../geometry.ts';
import { type Refusal, refusal } from '../refusal.ts';
import { alignDown, alignUp, type Extent, extent, framesOf, intersect, normalise } from './dma-extent.ts';
import type { DmaForm } from './dma-rule.ts';

export type NodeMemory = {
  readonly node: NodeId;
  /** From the device, in any unit: 10 is local in an ACPI SLIT. Equal for all nodes where the rule names none. */
  readonly distance: number;
  /** Frames that are free or may be vacated. No frame belongs to two nodes. */
  readonly extents: readonly Extent[];
};

/**
 * What it costs to vacate frames [start, end) of one chunk: 0 if they are free, Infinity if one of them can never move.
 * The cost of frames is the sum of the cost of each.
 */
export type EvacuationCost = (start: Pfn, end: Pfn) => number;

/** Pages: what the pool has to have now, and what it may grow to. */
export type DmaNeed = { readonly min: number; readonly max: number };

export type WindowChoice = {
  /** The aligned window of the rule, or all addresses. */
  readonly window: Extent;
  /** `min` pages in it, ascending and apart. */
  readonly extents: readonly Extent[];
  /** Pages of the window that the pool could have, these included, up to `max`. */
  readonly room: number;
  /** Sum over the pages. */
  readonly distance: number;
  readonly cost: number;
};

export type NoWindow = {
  /** no-window (ENOSPC), or bad-argument (EINVAL) for a need that is none. */
  readonly refusal: Refusal;
  /** The window that comes closest; undefined if not one page can be had. */
  readonly best: { readonly window: Extent; readonly pages: number; readonly missing: number } | undefined;
};

/** Below which address memory is scarce, the scarcest first. A frame's tier counts those above it: 0 is plenty. */
const SCARCE_BELOW = [DMA_END, DMA32_END] as const;
const tierOf = (pfn: number): number => SCARCE_BELOW.reduce((n, end) => n + (pfn < end ? 1 : 0), 0);

/** What one window would give: smaller is better, field by field. */
type Score = { distance: number; scarcest: number; scarce: number; cost: number };

type Piece = { readonly start: number; readonly end: number; readonly distance: number; readonly cost: number };

/** The aligned window that this frame lies in. */
export function windowAt(form: DmaForm, pfn: Pfn): Extent {
  const frames = framesOf(form.windowBits);
  const start = alignDown(pfn, frames);
  return extent(start, Math.min(start + frames, MAX_PFN));
}

/**
 * Chooses frames for a pool of this form. For a pool that has its window already, pass restricted(form, [window]).
 *
 * @param memory  what can be had; nodes that the rule does not allow are passed over
 * @returns frames to take, not taken yet; or the best window and how many pages it lacks.
 *   O(c log c) for c chunks of memory, and at most two questions for the cost of each
 */
export function chooseWindow(
  form: DmaForm,
  memory: readonly NodeMemory[],
  need: DmaNeed,
  costOf: EvacuationCost,
): Result<WindowChoice, NoWindow> {
  const { min, max } = need;
  if (!(Number.isSafeInteger(min) && min > 0 && max >= min)) {
    const message = `a DMA pool of ${min} to ${max} pages is none`;
    return err({ refusal: refusal('bad-argument', message), best: undefined });
  }
  const pieces = piecesOf(form, partsOf(form, memory, costOf), costOf);
  const frames = framesOf(form.windowBits);

  let chosen: { score: Score; at: number; taken: Piece[]; pages: number } | undefined;
  let closest: { at: number; pages: number } | undefined;
  for (let i = 0, next = 0; i < pieces.length; i = next) {
    const at = Math.floor((pieces[i] as Piece).start / frames);
    let pages = 0;
    for (next = i; next < pieces.length; next++) {
      const p = pieces[next] as Piece;
      if (Math.floor(p.start / frames) !== at) break;
      pages += p.end - p.start;
    }
    if (closest === undefined || pages >= closest.pages) closest = { at, pages }; // the highest of equals
    if (pages < min) continue;
    const taken = take(form, pieces.slice(i, next), min, costOf);
    const score = scoreOf(taken);
    if (chosen === undefined || compareScores(score, chosen.score) <= 0) chosen = { score, at, taken, pages };
  }

  const windowOf = (at: number): Extent => windowAt(form, toPfn(at * frames));
  if (chosen !== undefined) {
    const { distance, cost } = chosen.score;
    const extents = normalise(chosen.taken.map((p) => extent(p.start, p.end)));
    return ok({ window: windowOf(chosen.at), extents, room: Math.min(max, chosen.pages), distance, cost });
  }
  if (closest === undefined) {
    const message = `no page that the DMA rule allows can be had; it wants ${plural(min, 'page')}`;
    return err({ refusal: refusal('no-window', message), best: undefined });
  }
  const window = windowOf(closest.at);
  const missing = min - closest.pages;
  const message =
    `no window of ${formatSize((window.end - window.start) * PAGE_SIZE)} has ${plural(min, 'page')} for the DMA rule: ` +
    `the best, at 0x${hex(window.start * PAGE_SIZE)}, lacks ${plural(missing, 'page')}`;
  return err({ refusal: refusal('no-window', message), best: { window, pages: closest.pages, missing } });
}

/** Step 1: allowed frames that can be vacated, cut at chunks, ascending. */
function partsOf(form: DmaForm, memory: readonly NodeMemory[], costOf: EvacuationCost): Piece[] {
  const parts: Piece[] = [];
  for (const { node, distance, extents } of memory) {
    if (form.required !== undefined && !form.required.includes(node)) continue;
    for (const e of intersect(form.ranges, normalise(extents))) {
      for (let start: number = e.start; start < e.end; ) {
        const end = Math.min(e.end, alignDown(start, CHUNK_PAGES) + CHUNK_PAGES);
        const cost = costOf(toPfn(start), toPfn(end));
        assert(cost >= 0, 'a cost is a number from 0', { start, end, cost });
        if (cost < Infinity) parts.push({ start, end, distance, cost });
        start = end;
      }
    }
  }
  parts.sort((a, b) => a.start - b.start);
  for (let i = 1; i < parts.length; i++) {
    const [a, b] = [parts[i - 1] as Piece, parts[i] as Piece];
    assert(a.end <= b.start, 'a frame belongs to one node', { start: b.start, end: a.end });
  }
  return parts;
}

/**
 * Step 2: what segments reach. Each piece begins at a possible start and lies in one window. Where the rule's alignment is
 * a chunk or less, a piece lies in one chunk; else it is what an aligned block has without a gap from its start. A border between nodes
 * ends a piece where a segment may begin; where none may, the piece is as far away as its farthest frame.
 */
function piecesOf(form: DmaForm, parts: readonly Piece[], costOf: EvacuationCost): Piece[] {
  const align = framesOf(form.alignBits);
  const window = framesOf(form.windowBits);
  const unit = Math.max(align, Math.min(CHUNK_PAGES, window));
  const pieces: Piece[] = [];
  for (let i = 0, next = 0; i < parts.length; i = next) {
    let runEnd = (parts[i] as Piece).end;
    for (next = i + 1; next < parts.length && (parts[next] as Piece).start === runEnd; next++) {
      runEnd = (parts[next] as Piece).end;
    }
    let k = i;
    for (let start = alignUp((parts[i] as Piece).start, align); start < runEnd; ) {
      let end = Math.min(runEnd, alignDown(start, unit) + unit, alignDown(start, window) + window);
      while ((parts[k] as Piece).end <= start) k++;
      const near = (parts[k] as Piece).distance;
      for (let j = k + 1; j < next && (parts[j] as Piece).start < end; j++) {
        const border = parts[j] as Piece;
        if (border.distance !== near && border.start % align === 0) end = border.start;
      }
      let distance = 0;
      let cost = 0;
      for (let j = k; j < next && (parts[j] as Piece).start < end; j++) {
        const p = parts[j] as Piece;
        const [from, to] = [Math.max(start, p.start), Math.min(end, p.end)];
        distance = Math.max(distance, p.distance);
        cost += from === p.start && to === p.end ? p.cost : costOf(toPfn(from), toPfn(to));
      }
      pieces.push({ start, end, distance, cost });
      start = end; // a multiple of the alignment too, or the end of the run
    }
  }
  return pieces;
}

/**
 * Step 3: the `pages` best frames of one window's pieces, which have as many. The last piece is taken in part: its upper
 * end, from a possible start on, so that what stays below can be reached as before.
 */
function take(form: DmaForm, pieces: Piece[], pages: number, costOf: EvacuationCost): Piece[] {
  const align = framesOf(form.alignBits);
  pieces.sort(
    (a, b) =>
      a.distance - b.distance ||
      tierOf(a.start) - tierOf(b.start) ||
      a.cost * (b.end - b.start) - b.cost * (a.end - a.start) || // per page
      b.start - a.start,
  );
  const taken: Piece[] = [];
  let left = pages;
  for (const p of pieces) {
    if (left === 0) break;
    if (p.end - p.start <= left) {
      taken.push(p);
      left -= p.end - p.start;
      continue;
    }
    const start = Math.max(p.start, alignDown(p.end - left, align));
    const end = start + left;
    let cost = 0;
    for (let from = start; from < end; ) {
      const to = Math.min(end, alignDown(from, CHUNK_PAGES) + CHUNK_PAGES);
      cost += p.cost === 0 ? 0 : costOf(toPfn(from), toPfn(to));
      from = to;
    }
    taken.push({ ...p, start, end, cost });
    left = 0;
  }
  assert(left === 0, 'the window has the pages that were counted', { left, pages });
  return taken;
}

function scoreOf(taken: readonly Piece[]): Score {
  const score = { distance: 0, scarcest: 0, scarce: 0, cost: 0 };
  for (const p of taken) {
    const pages = p.end - p.start;
    const tier = tierOf(p.start);
    score.distance += pages * p.distance;
    score.cost += p.cost;
    if (tier === 2) score.scarcest += pages;
    else if (tier === 1) score.scarce += pages;
  }
  return score;
}

const compareScores = (a: Score, b: Score): number =>
  a.distance - b.distance || a.scarcest - b.scarcest || a.scarce - b.scarce || a.cost - b.cost;
