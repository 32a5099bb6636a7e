// Extents: runs of frames seen through powers of two, which is how a device sees memory.
//
//   frames      0   1   2   3   4   5   6   7   8   9
//   extents         [───────────)       [───────)            { start, end }, half-open, ascending, apart
//   windows 2^2 |───────────────|───────────────|───────     aligned blocks; a block number is floor(pfn / 2^2)
//   pieces          [───────────)       [───────)            what lies in one window: here each extent is one piece
//   cover           2^2                 2^1                  log2 of the smallest aligned block around a piece
//
// A power of two is written as its log2 in bits of an address, 12 (a page) to 52 (all that x86-64 addresses), so that a
// window of 4 GiB is 32. Frame numbers reach 2^40: everything here divides, nothing shifts.

import { type Pfn, toPfn } from '#base/units';
import { PAGE_SHIFT } from '../geometry.ts';

/** Frames [start, end). */
export type Extent = { readonly start: Pfn; readonly end: Pfn };

/** A page, and all of the physical address space, as bits. */
export const PAGE_BITS = PAGE_SHIFT;
export const ALL_BITS = 52;

/** Frames of an aligned block of 2^bits bytes. */
export const framesOf = (bits: number): number => 2 ** (bits - PAGE_SHIFT);

export const alignDown = (pfn: number, frames: number): number => pfn - (pfn % frames);
export const alignUp = (pfn: number, frames: number): number => alignDown(pfn + frames - 1, frames);

export const extent = (start: number, end: number): Extent => ({ start: toPfn(start), end: toPfn(end) });

export const pagesOf = (extents: readonly Extent[]): number => extents.reduce((n, e) => n + e.end - e.start, 0);

/** log2 of the largest power of two that divides the address of this frame; 52 for frame 0. */
export function alignmentOf(pfn: number): number {
  let bits = PAGE_BITS;
  while (bits < ALL_BITS && pfn % framesOf(bits + 1) === 0) bits++;
  return bits;
}

/** log2 of the smallest aligned block around frames [start, end), end > start. */
export function coverOf(start: number, end: number): number {
  let bits = PAGE_BITS;
  while (Math.floor(start / framesOf(bits)) !== Math.floor((end - 1) / framesOf(bits))) bits++;
  return bits;
}

/** Ascending and apart: empty ones go, those that touch or overlap become one. O(n log n). */
export function normalise(extents: readonly Extent[]): Extent[] {
  const sorted = extents.filter((e) => e.start < e.end).sort((a, b) => a.start - b.start);
  const out: Extent[] = [];
  for (const e of sorted) {
    const before = out.at(-1);
    if (before === undefined || e.start > before.end) out.push(e);
    else if (e.end > before.end) out[out.length - 1] = extent(before.start, e.end);
  }
  return out;
}

/** Frames in both. Both lists are normal. O(a + b). */
export function intersect(a: readonly Extent[], b: readonly Extent[]): Extent[] {
  const out: Extent[] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const x = a[i] as Extent;
    const y = b[j] as Extent;
    const start = Math.max(x.start, y.start);
    const end = Math.min(x.end, y.end);
    if (start < end) out.push(extent(start, end));
    if (x.end <= y.end) i++;
    else j++;
  }
  return out;
}

/** All frames of `a` are frames of `b`. Both lists are normal. O(a + b). */
export function isSubset(a: readonly Extent[], b: readonly Extent[]): boolean {
  let j = 0;
  for (const x of a) {
    while (j < b.length && (b[j] as Extent).end < x.end) j++;
    const y = b[j];
    if (y === undefined || y.start > x.start) return false;
  }
  return true;
}

/** Extents that begin at a multiple of 2^bits bytes: what lies before the first multiple is cut off. */
export function trimStarts(extents: readonly Extent[], bits: number): Extent[] {
  const frames = framesOf(bits);
  const out: Extent[] = [];
  for (const e of extents) {
    const start = alignUp(e.start, frames);
    if (start < e.end) out.push(extent(start, e.end));
  }
  return out;
}

/**
 * The pieces that extents leave in windows of 2^bits bytes, as far as their shape matters: of the windows that one
 * extent fills, the highest stands for all. `fn` is told (window number, start, end), ascending; at most three times an
 * extent, however many windows there are.
 */
export function forEachPiece(
  extents: readonly Extent[],
  bits: number,
  fn: (window: number, start: number, end: number) => void,
): void {
  const frames = framesOf(bits);
  for (const e of extents) {
    const first = Math.floor(e.start / frames);
    const last = Math.floor((e.end - 1) / frames);
    if (first === last) {
      fn(first, e.start, e.end);
      continue;
    }
    fn(first, e.start, (first + 1) * frames);
    if (last - first > 1) fn(last - 1, (last - 1) * frames, last * frames);
    fn(last, last * frames, e.end);
  }
}
