// The embedded build: the engine's free area, and next to nothing around it. One node, one pool, one list a order.
//
//   alloc(order)      ──> are minFree left? ──> free area: lowest chunk of the smallest order, split ──> frame
//   free(pfn, order)  ──> was it given?     ──> free area: joins its buddies
//
//   left out                 what the full build has it for          what it costs to be without
//   node, zones, zonelists   choosing among memories that differ     nothing: there is one memory
//   per-CPU lists            CPUs that rarely meet; they are also    time on single frames (bench/embedded.md); what is
//                            a cache in front of the free area       free is in one place, no request works for others
//   grouping by mobility     2 MiB blocks that stay whole            blocks mix (src/demo/pools/embedded.ts); Linux leaves
//                                                                    it out, too, when memory is tiny (spec 2.2)
//   holders, frame columns   asking a frame whose it is, moving it   explain, migrate, offline
//
// It is the same free area, of which it uses one migrate type, so that what is measured or fixed in one build is in the
// other. Imported alone it is a program of its own size; bench/embedded.mjs weighs it.
//
//   tables   the free area's (free-area-address.ts), over the whole chunks around [startPfn, endPfn)
//   given    32 words a pageblock, 2 bits a frame, if frees are checked: a heap of bits as in the free area's records, one
//            for each chunk that was given away: bit 1024 - (1024 >> order) + (x >> order), x = frame & 511
//   frame    base                startPfn                          endPfn                 base + area.pages
//            │ never free        │ free or given away              │ never free           │
//
// Invariants: those of frame-allocator.ts; chunks that were given and free chunks tile [startPfn, endPfn); no frame
// outside is ever free, so that buddies never merge across the borders. Work per request is bounded: at most MAX_ORDER
// splits or merges.
//
// After Snook 2007, problem 8: "we can eliminate the overhead of the scale-up code at compile time or dynamically at
// boot time". Follows Linux v6.12 mm/page_alloc.c: rmqueue_buddy(), __free_one_page(), __zone_watermark_ok().

import { assert } from '#base/assert';
import { specialise } from '#base/specialise';
import { type Order, type Pfn, toPfn } from '#base/units';
import type { AllocRefusal, FrameAllocator, FrameAllocatorSpec } from './frame-allocator.ts';
import { refusalFor } from './frame-allocator.ts';
import type { FreeArea } from './free-area.ts';
import { createAddressArea } from './free-area-address.ts';
import {
  CHUNK_PAGES,
  MAX_ORDER,
  MAX_PFN,
  MIGRATE_MOVABLE,
  NR_MIGRATE_TYPES,
  NR_ORDERS,
  PAGEBLOCK_PAGES,
} from './geometry.ts';

export type { AllocRefusal, FrameAllocator, FrameAllocatorSpec } from './frame-allocator.ts';

/** Of `given`, a pageblock. */
const GIVEN_BYTES = 128;

export type EmbeddedSpec = FrameAllocatorSpec & {
  /**
   * 'checked' (default): a free of anything but what alloc gave, with its order, throws; a quarter of a byte a frame.
   * 'trusted': it throws when it happens to meet a free chunk of the same order. bench/embedded.md has what that saves.
   */
  readonly frees?: 'checked' | 'trusted';
};

export interface EmbeddedAllocator extends FrameAllocator {
  readonly build: 'embedded';
  /** @internal Changed through the allocator only. */
  readonly area: FreeArea;
}

/**
 * Switches the embedded build on: all of the RAM is free.
 *
 * A spec that contradicts itself throws. Cost: one bit a chunk; with code 'own' the compilation, too.
 */
export function bootEmbedded(spec: EmbeddedSpec): EmbeddedAllocator {
  const { startPfn, endPfn, minFree = 0, code = 'own' } = spec;
  const managed = endPfn - startPfn;
  assert(
    Number.isInteger(startPfn) && Number.isInteger(endPfn) && startPfn >= 0 && managed > 0 && endPfn <= MAX_PFN,
    'RAM is a range of whole frames',
    { startPfn, endPfn },
  );
  assert(Number.isInteger(minFree) && minFree >= 0 && minFree <= managed, 'minFree is a number of its frames', {
    minFree,
    managed,
  });
  const base = Math.floor(startPfn / CHUNK_PAGES) * CHUNK_PAGES;
  const pages = Math.ceil((endPfn - base) / CHUNK_PAGES) * CHUNK_PAGES;
  const area = createAddressArea(pages, 'address', code);
  const range = { base, start: startPfn - base, end: endPfn - base };
  fill(area, range.start, range.end);
  const given = new Int32Array(new ArrayBuffer(spec.frees === 'trusted' ? 0 : (pages / PAGEBLOCK_PAGES) * GIVEN_BYTES));
  const core = specialise(embeddedCore, code)(area, { ...range, minFree, given }, assert);
  const { nrFree } = core;

  const countByOrder = (): Int32Array => {
    const lists = new Int32Array(NR_MIGRATE_TYPES * NR_ORDERS);
    area.count(lists);
    return lists.slice(MIGRATE_MOVABLE * NR_ORDERS, (MIGRATE_MOVABLE + 1) * NR_ORDERS);
  };

  return {
    build: 'embedded',
    area,
    startPfn,
    endPfn,
    managed,
    minFree,
    alloc: core.alloc as (order: Order) => Pfn | -1, // the core knows numbers only: a copy of it has no imports
    allocUrgent: core.allocUrgent as (order: Order) => Pfn | -1,
    free: core.free,
    nrFree,
    freeByOrder: countByOrder,
    refusalOf: (order, caller = 'ordinary'): AllocRefusal | undefined =>
      refusalFor(order, nrFree(), caller === 'urgent' ? 0 : minFree, area.orders(MIGRATE_MOVABLE)),
    bytes: () => area.bytes() + given.byteLength,
    check() {
      const wrong = area.check();
      const listed = countByOrder().reduce((n, chunks, order) => n + chunks * 2 ** order, 0);
      if (listed !== nrFree()) wrong.push(`EB3 the counter says ${nrFree()} frames are free, the lists hold ${listed}`);
      const inside = area.freeIn(range.start, range.end);
      if (inside !== listed) wrong.push(`EB4 ${listed - inside} free frames lie outside of the RAM`);
      for (let b = 0; b < pages; b += PAGEBLOCK_PAGES) {
        if (area.typeOf(b) !== MIGRATE_MOVABLE) wrong.push(`EB5 the pageblock at ${toPfn(base + b)} has another type`);
      }
      if (given.length > 0) checkGiven(area, given, range, wrong);
      return wrong;
    },
  };
}

/** All of [start, end) is free: whole chunks by one bit each, the rest in the largest aligned pieces. */
function fill(area: FreeArea, start: number, end: number): void {
  const first = Math.ceil(start / CHUNK_PAGES) * CHUNK_PAGES;
  const last = Math.floor(end / CHUNK_PAGES) * CHUNK_PAGES;
  if (first < last) area.online(first, last);
  const pieces: readonly (readonly [number, number])[] =
    first < last
      ? [
          [start, first],
          [last, end],
        ]
      : [[start, end]];
  for (const [from, to] of pieces) {
    for (let i = from; i < to; ) {
      let order = 0;
      while (order < MAX_ORDER && i % (2 << order) === 0 && i + (2 << order) <= to) order++;
      area.free(i, order);
      i += 1 << order;
    }
  }
}

/** Chunks that were given away and free ones tile the RAM: whoever is found twice, or not at all, goes into `wrong`. */
function checkGiven(
  area: FreeArea,
  given: Int32Array,
  range: { readonly start: number; readonly end: number },
  wrong: string[],
): void {
  const owners = new Uint8Array(area.pages); // by frame: chunks, given or free, that it lies in
  const mark = (i: number, order: number): void => {
    for (let k = i; k < i + 2 ** order; k++) owners[k] = (owners[k] as number) + 1;
  };
  area.forEachFree(0, area.pages, mark);
  for (let i = 0; i < area.pages; i++) {
    for (let order = 0; order <= MAX_ORDER && i % 2 ** order === 0; order++) {
      const bit = 1024 - (1024 >> order) + ((i & 511) >> order);
      if (((given[((i >>> 9) << 5) + (bit >> 5)] as number) & (1 << bit)) !== 0) {
        mark(i, order);
      }
    }
  }
  owners.forEach((n, i) => {
    const expected = i >= range.start && i < range.end ? 1 : 0;
    if (n !== expected) wrong.push(`EB3 the frame ${i - range.start} of the RAM lies in ${n} chunks, given or free`);
  });
}

type Core = {
  alloc(order: number): number;
  allocUrgent(order: number): number;
  free(pfn: number, order: number): void;
  nrFree(): number;
};

/**
 * The hot part: a factory by the contract of base/specialise.ts. Literals stand for geometry: block = frame >>> 9,
 * 1 is MIGRATE_MOVABLE, the type in which frames come online. With one type its name does not matter, and Linux, which
 * uses Unmovable there, means the same.
 */
function embeddedCore(
  area: FreeArea,
  parts: {
    readonly base: number;
    readonly start: number;
    readonly end: number;
    readonly minFree: number;
    readonly given: Int32Array;
  },
  check: typeof assert,
): Core {
  const { base, start, end, minFree, given } = parts;
  const checked = given.length > 0;
  const areaAlloc = area.alloc;
  const areaFree = area.free;
  let free = end - start;

  function allocUrgent(order: number): number {
    const i = order >>> 0 > 10 ? -1 : areaAlloc(order, 1);
    if (i < 0) return -1;
    free -= 1 << order;
    if (checked) {
      const x = 1024 - (1024 >> order) + ((i & 511) >> order);
      given[((i >>> 9) << 5) + (x >> 5)] |= 1 << x;
    }
    return base + i;
  }

  function alloc(order: number): number {
    return free - (1 << order) < minFree ? -1 : allocUrgent(order);
  }

  function release(pfn: number, order: number): void {
    const i = pfn - base;
    const size = 1 << order;
    // No object is made on the way past a check that holds.
    if (order >>> 0 > 10 || i < start || i + size > end || (i & (size - 1)) !== 0) {
      check(false, 'free: no such frames', { pfn, order });
    }
    if (checked) {
      const x = 1024 - (1024 >> order) + ((i & 511) >> order);
      const k = ((i >>> 9) << 5) + (x >> 5);
      const v = given[k];
      if ((v & (1 << x)) === 0) check(false, 'free: not what alloc gave', { pfn, order });
      given[k] = v ^ (1 << x);
    }
    areaFree(i, order);
    free += size;
  }

  return { alloc, allocUrgent, free: release, nrFree: () => free };
}
