// FreeArea: the free frames of one pool, by order and migrate type. One interface, several placements, one suite.
//
// A free area is mechanism only: it splits, coalesces and finds. Which list to raid when a request's own lists are
// empty is policy and lives in fallback.ts. Frames are named by their index in the pool, 0 <= i < pages; `pages` is a
// multiple of 1024, so that every chunk lies inside. A frame is in the area exactly while it is free.
//
//   placement   `address`  lowest address first (the default)
//               `fullest`  order 0 from the fullest pageblock that is partly free (keeps 2 MiB blocks whole)
//               `lifo`     Linux's lists: last freed first, "likely to merge soon" goes to the tail
//
// Rules every implementation keeps (spec 2.1; suite free-area.cases.ts):
//   FA1  alloc takes from the smallest order that has a page of the type; a split keeps the low half. (`fullest`, order
//        0: from the smallest order of the pageblock that it picks; singles elsewhere must not tempt it away.)
//   FA2  free coalesces while the buddy of the same order is free; a freed page goes to the lists of its
//        *pageblock's* type, whatever it was allocated as.
//   FA3  order 9 -> 10 merges only if both pageblocks have one type, or both are in {Unmovable, Movable,
//        Reclaimable}; then both take the freed page's type. Never across Isolate, CMA or HighAtomic.
//   FA4  setPageblockType moves that pageblock's free pages to the new type's lists; a chunk of order 10 that covers
//        it is split first when the two halves may not stay merged.
//   FA5  no two free buddies of one order whose merge FA2/FA3 allows.
//
// Follows Linux v6.12 mm/page_alloc.c: __free_one_page(), expand(), move_freepages_block().

import type { MigrateType } from './geometry.ts';

export type Placement = 'address' | 'fullest' | 'lifo';

export interface FreeArea {
  readonly placement: Placement;
  /** Frames the area can hold; a multiple of 1024. */
  readonly pages: number;

  /** Takes 2^order frames of this type's own lists. @returns the index of the first, aligned to 2^order; -1 if none. */
  alloc(order: number, mt: number): number;
  /** Up to `count` single frames of the type's own lists into ring[(at + k) & mask]. @returns how many. */
  allocBulk(mt: number, ring: Int32Array, at: number, mask: number, count: number): number;
  /** Frees 2^order frames at i (aligned). `tail` puts them behind the others where a list has an order (lifo). */
  free(i: number, order: number, tail?: boolean): void;

  /** Bit o is set when the list (o, mt) has a page. */
  orders(mt: number): number;
  /** The first page of exactly the list (order, mt), by list order (lifo) or address; -1 if it is empty. */
  first(order: number, mt: number): number;
  /** Takes the free chunk of exactly this order at i out of the area. */
  take(i: number, order: number): void;
  /** Puts 2^order frames at i on the list (order, type of its pageblock) without coalescing: the rest of a split. */
  put(i: number, order: number): void;

  /** Migrate type ^ Movable of each pageblock; read only. typeOf is the same without a call's cost. */
  readonly types: Uint8Array;
  /** Migrate type of the pageblock that holds frame i. */
  typeOf(i: number): MigrateType;
  /** FA4 for the pageblock that holds frame i. @returns free pages that changed lists. */
  setPageblockType(i: number, mt: number): number;

  /**
   * Declares [start, end), 1024-aligned and with no free page in it, to be all free chunks of order 10 of type Movable.
   * Lazy: one bit a chunk, and the same lists as if each had been freed to the tail in ascending order.
   */
  online(start: number, end: number): void;

  /** Order of the free chunk that begins at i, else -1. */
  orderAt(i: number): number;
  /** First frame of the free chunk that covers frame i, else -1. */
  headOf(i: number): number;
  /** Free pages in [start, end). Cost O(pageblocks). */
  freeIn(start: number, end: number): number;
  /** Calls back for each free chunk that begins in [start, end), ascending. */
  forEachFree(start: number, end: number, each: (i: number, order: number, mt: number) => void): void;
  /** Adds the length of every list to out[mt * 11 + order]. Cost O(pageblocks in use). */
  count(out: Float64Array | Int32Array): void;
  /** Pageblocks of each type among those with index in [start, end): adds to out[mt]. */
  countTypes(start: number, end: number, out: Float64Array | Int32Array): void;

  /** Makes this area equal to `other` (same placement and pages): a memcpy of the columns in use. */
  copyFrom(other: FreeArea): void;
  /** Bytes of tables, virtual and touched alike. */
  bytes(): number;
  /** Violations of FA5 and of the tables' own invariants, in words; empty when sound. Cost O(pages). */
  check(): string[];
}
