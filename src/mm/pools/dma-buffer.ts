// DMA buffers: which free frames one buffer gets, segment by segment, and whether buffers keep to a rule.
//
//   window        |───────────────────────────────────────|        boundary blocks |────|, a segment begins at a multiple
//   free             ▒▒▒▒▒▒   ▒▒▒▒▒▒▒▒▒▒▒▒▒▒   ▒▒▒                 of the alignment
//   blocks        |────|────|────|────|────|────|────|────|
//   pieces             [──)     [──)[──) [──)   [─)                each piece can hold one segment
//   buffer                      [──)[──) [─)                       the longest pieces, then the smallest that holds the rest
//
// Of the windows, the one where the buffer has the fewest segments, then the highest. The last segment comes from the upper
// end of its piece, so that the possible starts below it stay. A place is found if and only if there is one: in a window the
// m longest pieces hold most of what m segments can hold. Pieces of equal size side by side are one entry with a count, so
// the cost does not depend on how small the blocks are. After Snook 2007, problem 1 (spec 9.B: "every address handed out
// satisfies all fields").

import { assert } from '#base/assert';
import { formatSize, plural } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { PAGE_SIZE } from '../geometry.ts';
import { type Refusal, refusal } from '../refusal.ts';
import {
  alignDown,
  type Extent,
  extent,
  forEachPiece,
  framesOf,
  intersect,
  isSubset,
  normalise,
  trimStarts,
} from './dma-extent.ts';
import type { DmaForm } from './dma-rule.ts';

/** `count` pieces of `length` frames side by side, the first at `start`. */
type Pieces = { readonly start: number; readonly length: number; readonly count: number };

/**
 * Places one buffer in free frames. Where other buffers of the device are live, pass restricted(form, [their window]).
 *
 * @param free  frames, in any order
 * @param bytes  rounded up to pages; the last segment holds the rest
 * @returns segments, ascending; bad-argument (EINVAL) for a size that is none, no-window (ENOSPC) if there is no place.
 *   O(e log e + s) for e extents and s segments
 */
export function placeBuffer(form: DmaForm, free: readonly Extent[], bytes: number): Result<Extent[], Refusal> {
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    return err(refusal('bad-argument', `a DMA buffer of ${bytes} bytes is none`));
  }
  const pages = Math.ceil(bytes / PAGE_SIZE);
  let best: { pieces: Pieces[]; segments: number } | undefined;
  for (const pieces of windowsOf(form, free)) {
    const segments = segmentsFor(pieces, pages, form.maxSegments);
    if (segments !== undefined && (best === undefined || segments <= best.segments)) best = { pieces, segments };
  }
  if (best === undefined) {
    const within = form.maxSegments === Infinity ? 'segments' : plural(form.maxSegments, 'segment');
    return err(refusal('no-window', `no free place for a DMA buffer of ${formatSize(pages * PAGE_SIZE)} in ${within}`));
  }
  const segments = cut(best.pieces, pages, framesOf(form.alignBits));
  assert(segments.length === best.segments, 'as many segments as were counted', { pages, counted: best.segments });
  return ok(segments);
}

/** The pieces of each window that may be the best, the longest first, of equals the highest; windows ascending. */
function windowsOf(form: DmaForm, free: readonly Extent[]): Pieces[][] {
  const windows: Pieces[][] = [];
  const block = framesOf(form.boundaryBits);
  let window = -1;
  const usable = trimStarts(intersect(form.ranges, normalise(free)), form.alignBits);
  forEachPiece(usable, form.windowBits, (at, start, end) => {
    if (at !== window) windows.push([]);
    window = at;
    const pieces = windows.at(-1) as Pieces[];
    const firstCut = Math.min(end, alignDown(start + block - 1, block));
    const lastCut = Math.max(firstCut, alignDown(end, block));
    if (firstCut > start) pieces.push({ start, length: firstCut - start, count: 1 });
    if (lastCut > firstCut) pieces.push({ start: firstCut, length: block, count: (lastCut - firstCut) / block });
    if (end > lastCut) pieces.push({ start: lastCut, length: end - lastCut, count: 1 });
  });
  for (const pieces of windows) pieces.sort((a, b) => b.length - a.length || b.start - a.start);
  return windows;
}

/** The fewest segments that hold `pages`; undefined: there is no room in `max` segments. */
function segmentsFor(pieces: readonly Pieces[], pages: number, max: number): number | undefined {
  let left = pages;
  let segments = 0;
  for (const { length, count } of pieces) {
    const n = Math.min(count, Math.ceil(left / length));
    left -= n * length;
    segments += n;
    if (left <= 0) return segments <= max ? segments : undefined;
    if (segments >= max) return undefined;
  }
  return undefined;
}

/** Whole pieces from the longest on; as soon as one can hold the rest, the smallest that can. The room is there. */
function cut(pieces: readonly Pieces[], pages: number, align: number): Extent[] {
  const segments: Extent[] = [];
  let left = pages;
  for (const [k, { start, length, count }] of pieces.entries()) {
    const whole = Math.min(count, Math.ceil(left / length) - 1);
    for (let i = count - 1; i >= count - whole; i--) {
      segments.push(extent(start + i * length, start + (i + 1) * length));
    }
    left -= whole * length;
    if (whole === count) continue;
    // One more of these holds the rest; a later entry may hold it with less to spare.
    let last = { start: start + (count - whole - 1) * length, length };
    for (const p of pieces.slice(k + 1)) {
      if (p.length < left) break;
      if (p.length < last.length) last = { start: p.start + (p.count - 1) * p.length, length: p.length };
    }
    const from = Math.max(last.start, alignDown(last.start + last.length - left, align));
    segments.push(extent(from, from + left));
    break;
  }
  return segments.sort((a, b) => a.start - b.start);
}

/**
 * What is wrong with buffers that are live at the same time, by the words of the rule: for check() and tests.
 * @param buffers  the segments of each
 * @returns one sentence that begins with the field; undefined if all is well
 */
export function violationOf(form: DmaForm, buffers: readonly (readonly Extent[])[]): string | undefined {
  let window = -1;
  for (const segments of buffers) {
    if (segments.length > form.maxSegments) return `maxSegments: a buffer has ${segments.length} segments`;
    for (const s of segments) {
      const where = `frames ${s.start} to ${s.end - 1}`;
      const crosses = (bits: number): boolean =>
        Math.floor(s.start / framesOf(bits)) !== Math.floor((s.end - 1) / framesOf(bits));
      if (!isSubset([s], form.ranges)) return `addrMax: ${where} are not in the rule's ranges`;
      if (s.start % framesOf(form.alignBits) !== 0) return `align: ${where} begin at no multiple`;
      if (crosses(form.boundaryBits)) return `boundary: ${where} cross a multiple`;
      const at = Math.floor(s.start / framesOf(form.windowBits));
      if (window >= 0 && at !== window) return `windowBits: ${where} are in another window than the rest`;
      window = at;
    }
  }
  return undefined;
}
