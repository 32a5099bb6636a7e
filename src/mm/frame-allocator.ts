// FrameAllocator: what every build of the engine can do. Frames out, frames in, how many are free.
//
//   build      is                                                               made by
//   embedded   one node, one pool, no per-CPU lists, no grouping, no holders    embedded.ts
//   full       a Machine and one holder in it                                   boot-allocator.ts
//
// A caller that needs no more than this runs on either, and a system says at boot which one it wants. Types and one
// function only, so that naming the interface costs a bundle nothing.
//
//   free frames   0 ─────── minFree ───────────────────────────> managed
//                 │ urgent only │ everybody                     │
//
// Invariants, of every build (rules EB1 to EB10, docs/spec/embedded.md): a frame is free or was given to one caller; a
// request is served from the lowest address of the smallest order that has a free chunk; nrFree + frames given away =
// managed. After Snook 2007, problem 8.

import type { Code } from '#base/specialise';
import type { Order, Pfn } from '#base/units';

export type FrameAllocatorSpec = {
  /** RAM is the frames [startPfn, endPfn): any two borders, a whole number of frames apart. At most 2^31 - 1024. */
  readonly startPfn: Pfn;
  readonly endPfn: Pfn;
  /** Frames that `alloc` leaves free, for callers that may not fail. 0 to endPfn - startPfn; default 0. */
  readonly minFree?: number;
  /** Machine code: 'own' (default) is the fastest and takes milliseconds to make (base/specialise.ts). */
  readonly code?: Code;
};

/**
 * Why a request is refused; the errno of each is ENOMEM.
 *
 *   exhausted    there are not so many free frames
 *   reserve      there are, but they are kept for urgent callers
 *   fragmented   there are, but no free chunk is that large
 */
export type AllocRefusal = 'exhausted' | 'reserve' | 'fragmented';

export interface FrameAllocator {
  readonly build: 'embedded' | 'full';
  readonly startPfn: Pfn;
  readonly endPfn: Pfn;
  /** Frames that it can give away in all. */
  readonly managed: number;
  readonly minFree: number;

  /** 2^order frames, order 0 to 10, so that at least minFree stay free. @returns the first; -1: see refusalOf. */
  alloc(order: Order): Pfn | -1;
  /** The same for a caller that may not fail: it may have the last frame. */
  allocUrgent(order: Order): Pfn | -1;
  /**
   * Returns what alloc gave: its first frame and its order. Anything else is a bug and throws (an embedded build that
   * trusts its callers notices less).
   */
  free(pfn: Pfn, order: Order): void;

  /** Frames that are free, wherever they wait. */
  nrFree(): number;
  /** Free chunks by order, 0 to 10; those on per-CPU lists, where a build has such, are not among them. */
  freeByOrder(): Int32Array;
  /** Why `alloc` (or `allocUrgent`) would refuse this order now; undefined: it would not. Cost O(orders). */
  refusalOf(order: Order, caller?: 'ordinary' | 'urgent'): AllocRefusal | undefined;
  /** Bytes of tables, touched or not. */
  bytes(): number;
  /** Violations in words; empty when sound. Cost O(frames). */
  check(): string[];
}

/**
 * The rule behind refusalOf.
 *
 * @param free    free frames
 * @param keep    of these, the ones that this caller must leave
 * @param chunks  bit o: there is a free chunk of order o
 */
export function refusalFor(order: number, free: number, keep: number, chunks: number): AllocRefusal | undefined {
  const left = free - 2 ** order;
  if (left < 0) return 'exhausted';
  if (left < keep) return 'reserve';
  return chunks >>> order === 0 ? 'fragmented' : undefined;
}
