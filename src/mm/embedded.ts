// The embedded build: the engine's free area, and next to nothing around it. One node, one pool, one list a order.
//
//   alloc(order)  ──> more than minFree left? ──> free area: lowest chunk of the smallest order, split ──> frame
//   free(pfn, o)  ──> inside, aligned?        ──> free area: joins its buddies
//
//   left out                 what the full build has it for             what is lost
//   node, zones, zonelists   choosing among memories that differ        nothing: there is one memory
//   per-CPU lists            many CPUs at once                          nothing on one CPU; no request waits for a refill
//   grouping by mobility     keeping 2 MiB blocks whole for years       see docs/guide/pools.md; Linux leaves it out, too,
//                            on machines with room for it               when memory is small (spec 2.2)
//   holders, frame columns   asking a frame whose it is, moving it      explain, migrate, offline
//
// It is the same free area, of which it uses one migrate type, so that what is measured or fixed in one build is in the
// other. Imported alone it is a program of its own size; bench/embedded.mjs weighs it.
//
//   tables   the free area's (free-area-address.ts), over the whole chunks around [startPfn, endPfn)
//   frame    base                startPfn                          endPfn                 base + area.pages
//            │ never free        │ free or given away              │ never free           │
//
// Invariants: those of frame-allocator.ts; no frame outside of [startPfn, endPfn) is ever free, so that buddies
// never merge across the borders. Work per request is bounded: at most MAX_ORDER splits or merges.
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
import { CHUNK_PAGES, MAX_ORDER, MAX_PFN, MIGRATE_MOVABLE, NR_MIGRATE_TYPES, NR_ORDERS } from './geometry.ts';

export type { AllocRefusal, FrameAllocator, FrameAllocatorSpec } from './frame-allocator.ts';

export type EmbeddedSpec = FrameAllocatorSpec & {
  /**
   * 'checked' (default): a free of frames that are free already throws. 'trusted': it does so only when it meets a
   * chunk of the same order; check() sees the others afterwards. bench/README.md says what the difference costs.
   */
  readonly frees?: 'checked' | 'trusted';
};

export interface EmbeddedAllocator extends FrameAllocator {
  readonly build: 'embedded';
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
  const core = specialise(embeddedCore, code)(area, { ...range, minFree, checked: spec.frees !== 'trusted' }, assert);
  const { nrFree } = core;

  const countByOrder = (): Int32Array => {
    const lists = new Int32Array(NR_MIGRATE_TYPES * NR_ORDERS);
    area.count(lists);
    return lists.slice(MIGRATE_MOVABLE * NR_ORDERS, (MIGRATE_MOVABLE + 1) * NR_ORDERS);
  };

  return {
    build: 'embedded',
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
    bytes: area.bytes,
    check() {
      const wrong = area.check();
      const listed = countByOrder().reduce((n, chunks, order) => n + chunks * 2 ** order, 0);
      if (listed !== nrFree()) wrong.push(`EB3 the counter says ${nrFree()} frames are free, the lists hold ${listed}`);
      const inside = area.freeIn(range.start, range.end);
      if (inside !== listed) wrong.push(`EB4 ${listed - inside} free frames lie outside of the RAM`);
      for (let b = 0; b < pages; b += CHUNK_PAGES / 2) {
        if (area.typeOf(b) !== MIGRATE_MOVABLE) wrong.push(`EB5 the pageblock at ${toPfn(base + b)} has another type`);
      }
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

type Core = {
  alloc(order: number): number;
  allocUrgent(order: number): number;
  free(pfn: number, order: number): void;
  nrFree(): number;
};

/**
 * The hot part: a factory by the contract of base/specialise.ts. The literal 1 is MIGRATE_MOVABLE, the type in which
 * frames come online: with one type its name does not matter, and Linux, which uses Unmovable there, means the same.
 */
function embeddedCore(
  area: FreeArea,
  parts: {
    readonly base: number;
    readonly start: number;
    readonly end: number;
    readonly minFree: number;
    readonly checked: boolean;
  },
  check: typeof assert,
): Core {
  const { base, start, end, minFree, checked } = parts;
  const areaAlloc = area.alloc;
  const areaFree = area.free;
  const headOf = area.headOf;
  const freeIn = area.freeIn;
  let free = end - start;

  function allocUrgent(order: number): number {
    const i = areaAlloc(order, 1);
    if (i < 0) return -1;
    free -= 1 << order;
    return base + i;
  }

  function alloc(order: number): number {
    return free - (1 << order) < minFree ? -1 : allocUrgent(order);
  }

  function release(pfn: number, order: number): void {
    const i = pfn - base;
    const size = 1 << order;
    // No object is made on the way past a check that holds.
    if (order > 10 || i < start || i + size > end || (i & (size - 1)) !== 0) {
      check(false, 'free: no such frames', { pfn, order });
    }
    if (checked && (order === 0 ? headOf(i) >= 0 : freeIn(i, i + size) > 0)) {
      check(false, 'free: frames are free already', { pfn, order });
    }
    areaFree(i, order);
    free += size;
  }

  return { alloc, allocUrgent, free: release, nrFree: () => free };
}
