// PageAlloc: the allocator of one pool. Per-CPU lists in front, the free area behind, fallback when it is dry.
//
//   alloc(order, mt) ── order 0 ──> ring(cpu, mt) ── empty ──> refill: `batch` pages at once ─┐
//        └───────────── order > 0 ───────────────────────────────────────────────────────────┤
//                                                                                            v
//          CMA first, when it holds most │ own lists │ CMA │ claim a pageblock │ steal a page │ drain all CPUs, once
//
// Two fronts, chosen by `pcp`. 'linux' is per_cpu_pages to the letter: fourteen lists a CPU, one limit for their sum,
// batches that grow (per-cpu-pages.ts). 'rings' is what every other placement has, for speed: one ring for each CPU
// and type, order 0 only, a limit for each. bench/README.md has what the difference costs.
//
//   ring (one per cpu and type Unmovable, Movable, Reclaimable):
//        head                          tail
//         │ newest free │ ... │ oldest │        alloc and free work at the head; refill appends at the tail in the
//         └─ pages[head & mask] ───────┘        area's order; overflow (more than `high`) frees `batch` from the tail
//
// Counters: nr[bucket] = free pages in the area (not in rings) by bucket: 0 the fallback types, 1 HighAtomic, 2 CMA,
// 3 Isolate. They are exact as long as the area is changed through this allocator only.
// Invariants: a page is in the area, in one ring, or in use; a ring never holds a page that was freed in an Isolate
// pageblock; rings of a disabled allocator are empty (nested: as many enables as disables).
//
// Follows Linux v6.12 mm/page_alloc.c: rmqueue(), rmqueue_bulk(), rmqueue_buddy(), __rmqueue(), free_unref_page(),
// zone_pcp_disable() (spec 2.3, 2.4, 2.8).

import { assert } from '#base/assert';
import type { Code } from '#base/specialise';
import { specialise } from '#base/specialise';
import type { FallbackDecision, FallbackPolicy } from './fallback.ts';
import { decideFallback, noDecision } from './fallback.ts';
import type { FreeArea } from './free-area.ts';
import { carveColumns } from './free-area-columns.ts';
import {
  CHUNK_PAGES,
  MIGRATE_CMA,
  MIGRATE_HIGHATOMIC,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  NR_MIGRATE_TYPES,
  NR_PCP_TYPES,
  PAGEBLOCK_PAGES,
} from './geometry.ts';
import { createPerCpuPages, type PcpTuning } from './per-cpu-pages.ts';

/** Refuse fallbacks that would mix a pageblock: claim whole pageblocks or fail, and do not drain (spec 2.7). */
export const ALLOC_NOFRAGMENT = 1;
/** The request may use CMA pageblocks (spec 2.3, CMA balance). */
export const ALLOC_CMA = 2;
/** Do not empty the per-CPU lists when all else fails: that is the slow path's last step, for all pools at once. */
export const ALLOC_KEEP_PCP = 4;
/** An atomic request of order > 0: the high-atomic reserve first (spec 2.8). */
export const ALLOC_HIGHATOMIC = 8;
/** Non-blocking, or an OOM victim: the high-atomic reserve rather than nothing (spec 2.8). */
export const ALLOC_LAST_RESERVE = 16;

export type PageAllocConfig = FallbackPolicy & {
  /** CPUs that have rings, 1 or more. CPU 0 is selected first. */
  readonly cpus: number;
  /** Pages per refill and per spill, 1 or more. Linux: 63 for zones of 1 GiB and more. */
  readonly batch: number;
  /** Pages that one ring keeps before it spills, 0 or more. */
  readonly high: number;
  /** Slots of one ring, a power of two; bounds later setPcp. Default: the smallest that holds high and batch. */
  readonly capacity?: number;
  /** The front: see above. Default 'rings'. */
  readonly pcp?: 'rings' | 'linux';
  /** For 'linux': do high and batch follow the load? Default 'auto' (Linux from 6.7 on). */
  readonly pcpTuning?: PcpTuning;
  /** After a fallback gave pages: Linux's mm_page_alloc_extfrag. */
  readonly onFallback?: (order: number, mt: number, decision: Readonly<FallbackDecision>) => void;
  /** 'own' machine code for a long-lived pool, 'shared' for forks (base/specialise.ts). */
  readonly code: Code;
};

export interface PageAlloc {
  readonly area: FreeArea;
  /** What of alloc and free all pools may share; undefined with code of its own, and for Linux's lists. */
  readonly rings: Rings | undefined;

  /** Takes 2^order frames. `flags`: ALLOC_*. @returns the index of the first; -1 when nothing fits. */
  alloc(order: number, mt: number, flags?: number): number;
  /** Frees 2^order frames at i (aligned), onto the selected CPU's ring when order is 0 and the pageblock allows. */
  free(i: number, order: number): void;
  /** Frees past the rings. `tail`: behind the others, as hot-online and un-isolation do (lifo). */
  freeToArea(i: number, order: number, tail?: boolean): void;

  useCpu(cpu: number): void;
  /** Empties every ring into the area. @returns pages moved. */
  drain(): number;
  /** Drains and keeps rings empty until the matching enable. Nestable. */
  disable(): void;
  enable(): void;
  /**
   * Takes effect at the next operation. Rings cut `high` to their capacity - 1 and `batch` to their capacity, and know
   * no `highMax`; 'linux' lets high move between `high` and `highMax` (default: fixed at `high`).
   */
  setPcp(limits: PcpLimits): void;
  /** The limits that count when no disable is in effect, the selected CPU and the depth of disable, from `other`. */
  adoptSettings(other: PageAlloc): void;
  /** Pages on all per-CPU lists. */
  pcpPages(): number;
  forEachPcp(each: (cpu: number, mt: number, i: number, order: number) => void): void;
  /** Is the pool short of free pages? Kept by the allocation path; 'linux' lists shrink while it is (spec 2.4). */
  readonly pressure: PcpPressure;

  /** Free pages in the area, Isolate pageblocks not counted (Linux: NR_FREE_PAGES). O(1). */
  nrFree(): number;
  /** Free pages in Isolate pageblocks. O(1). */
  nrIsolated(): number;
  nrFreeCma(): number;
  nrFreeHighAtomic(): number;

  /** FreeArea.online, with the counters kept. */
  online(start: number, end: number): void;
  /** FreeArea.take, with the counters kept: pulls one free chunk out (offlining, compaction, capture). */
  take(i: number, order: number): void;
  /** FreeArea.put, with the counters kept. */
  put(i: number, order: number): void;
  /** FreeArea.setPageblockType, with the counters kept. @returns free pages that changed lists. */
  setPageblockType(i: number, mt: number): number;
  /** setPageblockType(i, Isolate). */
  isolate(i: number): number;
  /** Isolate -> mt. */
  unisolate(i: number, mt: number): number;

  /** Makes this equal to `other`, its area included: same cpus, capacity, placement and pages. */
  copyFrom(other: PageAlloc): void;
  bytes(): number;
  /** Violations in words; empty when sound. Cost O(pages). */
  check(): string[];

  /** @internal */
  readonly columns: PageAllocColumns;
  /** @internal */
  readonly front: PcpFront;
}

export type PcpLimits = { readonly batch: number; readonly high: number; readonly highMax?: number };

/** ZONE_BELOW_HIGH, and the mark above which it ends (high plus the reserve against Movable). */
export type PcpPressure = { belowHigh: boolean; highMark: number };

type PageAllocColumns = {
  /** Ring k = cpu * 3 + mt has the slots [k << shift, (k + 1) << shift). */
  readonly pages: Int32Array;
  /** Running positions of ring k; wrap at 2^32, masked on use. tail - head = pages in the ring. */
  readonly head: Int32Array;
  readonly tail: Int32Array;
  /** [0] batch, [1] high in effect; [2], [3] those to return to; [4] depth of disable; [5] selected CPU. */
  readonly limits: Int32Array;
  /** Free pages by bucket. */
  readonly nr: Float64Array;
  /** FallbackPolicy.lent: pageblock by type, -1. */
  readonly lent: Int32Array;
};

/**
 * The first few instructions of alloc and free, as methods: where requests go to many pools in turn, a call of a pool's own
 * machine code cannot be predicted or inlined, and costs more than its specialisation saves (bench/README.md, pools).
 * What they cannot settle they leave alone, and the caller asks alloc or free.
 */
export class Rings {
  readonly #pages: Int32Array;
  readonly #head: Int32Array;
  readonly #tail: Int32Array;
  readonly #limits: Int32Array;
  readonly #types: Uint8Array;
  readonly #shift: number;
  readonly #mask: number;

  constructor(columns: PageAllocColumns, types: Uint8Array, shift: number) {
    this.#pages = columns.pages;
    this.#head = columns.head;
    this.#tail = columns.tail;
    this.#limits = columns.limits;
    this.#types = types;
    this.#shift = shift;
    this.#mask = 2 ** shift - 1;
  }

  /** A single frame of type 0..2 that waits on the selected CPU's ring; -1 when there is none. */
  pop(mt: number): number {
    const k = 3 * (this.#limits[5] as number) + mt;
    const h = this.#head[k] as number;
    if (h === this.#tail[k]) return -1;
    this.#head[k] = h + 1;
    return this.#pages[(k << this.#shift) + (h & this.#mask)] as number;
  }

  /** A single frame goes to its ring, if its pageblock has one and the ring has room. @returns whether it did */
  push(i: number): boolean {
    const mt = (this.#types[i >>> 9] as number) ^ 1;
    if (mt > 2) return false;
    const k = 3 * (this.#limits[5] as number) + mt;
    const h = ((this.#head[k] as number) - 1) | 0;
    if ((((this.#tail[k] as number) - h) | 0) > (this.#limits[1] as number)) return false;
    this.#head[k] = h;
    this.#pages[(k << this.#shift) + (h & this.#mask)] = i;
    return true;
  }
}

/** Counter bucket by migrate type. */
const BUCKETS = Int32Array.of(0, 0, 0, 1, 2, 3);

/**
 * @param area    given to this allocator for good: from now on it is changed through it only
 * @param config  see PageAllocConfig; a wrong one throws
 */
export function createPageAlloc(area: FreeArea, config: PageAllocConfig): PageAlloc {
  const { cpus, batch, high } = config;
  const ringed = config.pcp !== 'linux';
  assert(cpus >= 1 && batch >= 1 && high >= 0, 'a page allocator needs a cpu, batch >= 1, high >= 0', {
    cpus,
    batch,
    high,
  });
  const wanted = Math.max(high + 1, batch);
  const capacity = config.capacity ?? 2 ** Math.ceil(Math.log2(wanted));
  assert(Number.isInteger(Math.log2(capacity)) && capacity >= wanted, 'capacity is a power of two that holds high', {
    capacity,
    wanted,
  });
  const rings = ringed ? cpus * NR_PCP_TYPES : 0;
  const carve = carveColumns([rings * capacity * 4, rings * 4, rings * 4, 6 * 4, 4 * 8, 3 * 4]);
  const columns: PageAllocColumns = {
    pages: carve.int32(rings * capacity),
    head: carve.int32(rings),
    tail: carve.int32(rings),
    limits: carve.int32(6),
    nr: carve.float64(4),
    lent: carve.int32(3).fill(-1),
  };
  columns.limits.set([batch, high, batch, high, 0, 0]);
  const decision = noDecision();
  const policy: FallbackPolicy = { ...config, lent: columns.lent };
  const request = { order: 0, mt: 0, noFragment: false, stealing: false }; // reused: no object is made per request
  const fallback = (order: number, mt: number, noFragment: boolean, stealing: boolean): FallbackDecision => {
    request.order = order;
    request.mt = mt;
    request.noFragment = noFragment;
    request.stealing = stealing;
    decideFallback(area, request, policy, decision);
    return decision;
  };
  const hot = specialise(pageAllocCore, config.code)(area, columns, {
    shift: Math.log2(capacity),
    fallback,
    onFallback: config.onFallback,
  });
  const pressure: PcpPressure = { belowHigh: false, highMark: Number.POSITIVE_INFINITY };
  if (ringed)
    return finish(
      area,
      columns,
      hot,
      ringFront(area, columns, hot, cpus),
      pressure,
      config.code === 'own' ? undefined : new Rings(columns, area.types, Math.log2(capacity)),
    );
  const lists = createPerCpuPages(area, columns.nr, hot, pressure, {
    cpus,
    batch,
    high,
    tuning: config.pcpTuning ?? 'auto',
  });
  return finish(area, columns, hot, lists, pressure);
}

/** The specialised part. `rmqueueBuddy` and `rmqueueNext` are what a front asks the area through. */
export type PageAllocCore = Pick<PageAlloc, 'alloc' | 'free' | 'freeToArea' | 'useCpu' | 'drain'> & {
  /** One chunk past the per-CPU lists, by the rights in `flags`. -1 when there is none. */
  rmqueueBuddy(order: number, mt: number, flags: number): number;
  /** One chunk of a bulk: the first of a bulk is asked for with `first`, which forgets how the last one ended. */
  rmqueueNext(order: number, mt: number, flags: number, first: boolean): number;
};

/**
 * The hot part: a factory by the contract of base/specialise.ts, so literals stand for geometry: 512 frames a
 * pageblock, types 0..2 have rings, Movable is 1, CMA 4, Isolate 5.
 */
function pageAllocCore(
  area: FreeArea,
  columns: PageAllocColumns,
  parts: {
    shift: number;
    fallback: (order: number, mt: number, noFragment: boolean, stealing: boolean) => FallbackDecision;
    onFallback: PageAllocConfig['onFallback'];
  },
): PageAllocCore {
  const { pages, head, tail, limits, nr } = columns;
  const { shift, fallback, onFallback } = parts;
  const mask = (1 << shift) - 1;
  const areaAlloc = area.alloc;
  const areaFree = area.free;
  const areaBulk = area.allocBulk;
  const typeOf = area.typeOf;
  let cpuRings = 0;
  /** RMQUEUE_STEAL: this bulk had to steal, so that nothing is left to claim until it is over. */
  let stealing = false;

  function useCpu(cpu: number): void {
    limits[5] = cpu;
    cpuRings = cpu * 3;
  }

  /** One free page or chunk into the area; its pageblock's type says which counter it goes to. */
  function freeToArea(i: number, order: number, to?: boolean): void {
    if (order === 10) {
      const second = typeOf(i + 512);
      nr[second < 3 ? 0 : second - 2] += 512;
      const first = typeOf(i);
      nr[first < 3 ? 0 : first - 2] += 512;
    } else {
      const mt = typeOf(i);
      nr[mt < 3 ? 0 : mt - 2] += 1 << order;
    }
    areaFree(i, order, to);
  }

  /** Frees `count` pages from the tail of ring k: the ones that have waited longest. */
  function spill(k: number, count: number): void {
    const at = k << shift;
    let t = tail[k];
    let plain = count;
    for (let n = count; n > 0; n--) {
      t = (t - 1) | 0;
      const i = pages[at + (t & mask)];
      const mt = typeOf(i);
      if (mt > 2) {
        plain--;
        nr[mt - 2]++;
      }
      areaFree(i, 0);
    }
    nr[0] += plain;
    tail[k] = t;
  }

  function drain(): number {
    let moved = 0;
    for (let k = 0; k < head.length; k++) {
      const n = (tail[k] - head[k]) | 0;
      if (n === 0) continue;
      spill(k, n);
      moved += n;
    }
    return moved;
  }

  /** Lets fallback decide and makes it so. @returns a chunk of 2^order frames, or -1. */
  function raid(order: number, mt: number, flags: number): number {
    const d = fallback(order, mt, (flags & 1) !== 0, stealing);
    if (d.action === 'none') return -1;
    let i = -1;
    if (d.action === 'claim') {
      area.setPageblockType(d.index, mt); // a chunk of order 10 takes the type as a whole, both its pageblocks
      i = areaAlloc(order, mt);
    } else if (d.action === 'steal') {
      stealing = true;
      i = areaAlloc(order, d.from); // the smallest order that has a page: the one that the steal pass found
    } else {
      // 'split', 'lent': exactly the page that was found. The rest of it stays with its pageblock's type.
      i = d.index;
      area.take(i, d.fallbackOrder);
      for (let o = d.fallbackOrder - 1; o >= order; o--) area.put(i + (1 << o), o);
    }
    if (onFallback !== undefined && d.action !== 'lent') onFallback(order, mt, d);
    return i;
  }

  /** One chunk from the area, by the order of __rmqueue(). */
  function rmqueue(order: number, mt: number, flags: number): number {
    const size = 1 << order;
    const cma = (flags & 2) !== 0 && nr[2] > 0;
    if (cma && nr[2] > (nr[0] + nr[1] + nr[2]) / 2) {
      const i = areaAlloc(order, 4);
      if (i >= 0) {
        nr[2] -= size;
        return i;
      }
    }
    let i = areaAlloc(order, mt);
    if (i >= 0) {
      nr[mt < 3 ? 0 : mt - 2] -= size;
      return i;
    }
    if (cma) {
      i = areaAlloc(order, 4);
      if (i >= 0) {
        nr[2] -= size;
        return i;
      }
    }
    i = raid(order, mt, flags);
    if (i >= 0) nr[0] -= size; // only the fallback types are raided
    return i;
  }

  /** Fills the empty ring k. @returns pages that it now holds: 0 when the area is dry. */
  function refill(k: number, mt: number, flags: number): number {
    const want = limits[0];
    const at = k << shift; // the ring is empty: it starts anew at its first slot, so that no position wraps
    let got = 0;
    stealing = false;
    const byOne = (flags & 2) !== 0 && nr[2] > 0; // the CMA balance is looked at for every page
    while (got < want) {
      if (!byOne) {
        const n = areaBulk(mt, pages, at + got, -1, want - got);
        nr[0] -= n;
        got += n;
        if (got === want) break;
      }
      const i = rmqueue(0, mt, flags);
      if (i < 0) break;
      pages[at + got] = i;
      got++;
    }
    head[k] = 0;
    tail[k] = got;
    return got;
  }

  /** A chunk of the high-atomic reserve. */
  function fromReserve(order: number): number {
    const i = areaAlloc(order, 3);
    if (i >= 0) nr[1] -= 1 << order;
    return i;
  }

  function rmqueueBuddy(order: number, mt: number, flags: number): number {
    stealing = false;
    let i = (flags & 8) !== 0 ? fromReserve(order) : -1;
    if (i < 0) i = rmqueue(order, mt, flags);
    if (i < 0 && (flags & 16) !== 0) i = fromReserve(order);
    return i;
  }

  function rmqueueNext(order: number, mt: number, flags: number, first: boolean): number {
    if (first) stealing = false;
    return rmqueue(order, mt, flags);
  }

  function allocSlow(order: number, mt: number, flags: number): number {
    const i = rmqueueBuddy(order, mt, flags);
    if (i >= 0 || (flags & 5) !== 0 || drain() === 0) return i;
    return rmqueueBuddy(order, mt, flags);
  }

  function alloc(order: number, mt: number, flags = 0): number {
    if (order === 0 && mt < 3) {
      const k = cpuRings + mt;
      if (head[k] === tail[k] && refill(k, mt, flags) === 0) return allocSlow(0, mt, flags);
      const h = head[k];
      head[k] = h + 1;
      return pages[(k << shift) + (h & mask)];
    }
    return allocSlow(order, mt, flags);
  }

  function free(i: number, order: number): void {
    if (order === 0) {
      let mt: number = typeOf(i);
      if (mt > 2) {
        if (mt === 5) {
          freeToArea(i, 0);
          return;
        }
        mt = 1;
      }
      const k = cpuRings + mt;
      const h = (head[k] - 1) | 0;
      head[k] = h;
      pages[(k << shift) + (h & mask)] = i;
      const n = (tail[k] - h) | 0;
      if (n > limits[1]) spill(k, Math.min(n, limits[0]));
      return;
    }
    freeToArea(i, order);
  }

  return { alloc, free, freeToArea, useCpu, drain, rmqueueBuddy, rmqueueNext };
}

/** What a front is to the rest: how pages wait before they reach the area. */
export type PcpFront = Pick<PageAlloc, 'alloc' | 'free' | 'drain' | 'useCpu' | 'disable' | 'enable' | 'setPcp'> &
  Pick<PageAlloc, 'pcpPages' | 'forEachPcp' | 'bytes'> & {
    readonly cpus: number;
    /** Lists, positions and limits of `other`, a front of the same kind and size. */
    copyPcp(other: PageAlloc): void;
    settings(): { readonly limits: PcpLimits; readonly cpu: number; readonly disabled: number };
  };

/** The slow half of the rings: limits, walks, copies. */
function ringFront(area: FreeArea, columns: PageAllocColumns, core: PageAllocCore, cpus: number): PcpFront {
  const { pages, head, tail, limits } = columns;
  const capacity = pages.length / head.length;
  return {
    cpus,
    alloc: core.alloc,
    free: core.free,
    drain: core.drain,
    useCpu: core.useCpu,
    disable() {
      limits[4]++;
      limits[0] = 1; // as Linux's zone_pcp_disable(): a page freed overflows at once, a page taken is refilled alone
      limits[1] = 0;
      core.drain();
    },
    enable() {
      limits[4]--;
      if (limits[4] !== 0) return;
      limits[0] = limits[2];
      limits[1] = limits[3];
    },
    setPcp(next) {
      limits[2] = Math.min(next.batch, capacity);
      limits[3] = Math.min(next.high, capacity - 1);
      if (limits[4] === 0) {
        limits[0] = limits[2];
        limits[1] = limits[3];
      }
    },
    settings: () => ({ limits: { batch: limits[2], high: limits[3] }, cpu: limits[5], disabled: limits[4] }),
    pcpPages() {
      let n = 0;
      for (let k = 0; k < head.length; k++) n += (tail[k] - head[k]) | 0;
      return n;
    },
    forEachPcp(each) {
      for (let k = 0; k < head.length; k++) {
        const cpu = Math.floor(k / NR_PCP_TYPES);
        const n = (tail[k] - head[k]) | 0;
        for (let j = 0; j < n; j++) {
          each(cpu, k % NR_PCP_TYPES, pages[k * capacity + ((head[k] + j) & (capacity - 1))], 0);
        }
      }
    },
    copyPcp(other) {
      const from = other.columns;
      assert(from.head.length === head.length && from.pages.length === pages.length, 'copyFrom needs the same rings');
      for (let k = 0; k < head.length; k++) {
        const n = (from.tail[k] - from.head[k]) | 0;
        for (let j = 0; j < n; j++) {
          const slot = k * capacity + ((from.head[k] + j) & (capacity - 1));
          pages[slot] = from.pages[slot];
        }
      }
      head.set(from.head);
      tail.set(from.tail);
      limits.set(from.limits);
      core.useCpu(limits[5]);
    },
    bytes: () => area.bytes() + pages.byteLength + head.byteLength + tail.byteLength,
  };
}

/** The rest of the interface, which nobody calls in a loop. */
function finish(
  area: FreeArea,
  columns: PageAllocColumns,
  core: PageAllocCore,
  front: PcpFront,
  pressure: PcpPressure,
  rings?: Rings,
): PageAlloc {
  const { nr } = columns;
  const countAll = (): Float64Array => {
    const lists = new Float64Array(NR_MIGRATE_TYPES * 11);
    area.count(lists);
    const out = new Float64Array(4);
    for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) {
      for (let order = 0; order <= 10; order++) out[BUCKETS[mt]] += lists[mt * 11 + order] * 2 ** order;
    }
    return out;
  };
  nr.set(countAll());

  const setPageblockType = (i: number, mt: number): number => {
    const from = BUCKETS[area.typeOf(i)];
    const moved = area.setPageblockType(i, mt);
    nr[from] -= moved;
    nr[BUCKETS[mt]] += moved;
    return moved;
  };
  const bucketOf = (i: number): number => BUCKETS[area.typeOf(i)];
  const setPcp = (next: PcpLimits): void => {
    const { batch, high } = next;
    assert(batch >= 1 && high >= 0, 'per-CPU lists need batch >= 1 and high >= 0', { batch, high });
    front.setPcp(next);
  };
  const enable = (): void => {
    assert(front.settings().disabled > 0, 'enable without disable');
    front.enable();
  };

  return {
    area,
    rings,
    columns,
    front,
    pressure,
    alloc: front.alloc,
    free: front.free,
    freeToArea: core.freeToArea,
    drain: front.drain,
    useCpu(cpu) {
      assert(cpu >= 0 && cpu < front.cpus, 'no such cpu', { cpu, cpus: front.cpus });
      front.useCpu(cpu);
    },
    disable: front.disable,
    enable,
    setPcp,
    adoptSettings(other) {
      const { limits, cpu, disabled } = other.front.settings();
      front.setPcp(limits);
      front.useCpu(cpu);
      while (front.settings().disabled < disabled) front.disable();
    },
    pcpPages: front.pcpPages,
    forEachPcp: front.forEachPcp,
    nrFree: () => nr[0] + nr[1] + nr[2],
    nrIsolated: () => nr[3],
    nrFreeCma: () => nr[2],
    nrFreeHighAtomic: () => nr[1],
    online(start, end) {
      area.online(start, end);
      nr[0] += end - start;
    },
    take(i, order) {
      nr[bucketOf(i)] -= 2 ** order;
      area.take(i, order);
    },
    put(i, order) {
      nr[bucketOf(i)] += 2 ** order;
      area.put(i, order);
    },
    setPageblockType,
    isolate: (i) => setPageblockType(i, MIGRATE_ISOLATE),
    unisolate(i, mt) {
      assert(area.typeOf(i) === MIGRATE_ISOLATE, 'not isolated', { i });
      return setPageblockType(i, mt);
    },
    copyFrom(other) {
      front.copyPcp(other);
      area.copyFrom(other.area);
      nr.set(other.columns.nr);
      columns.lent.set(other.columns.lent);
      pressure.belowHigh = other.pressure.belowHigh;
      pressure.highMark = other.pressure.highMark;
    },
    bytes: front.bytes,
    check() {
      const wrong = area.check();
      const counted = countAll();
      for (const [name, b] of [
        ['fallback types', 0],
        ['HighAtomic', 1],
        ['CMA', 2],
        ['Isolate', 3],
      ] as const) {
        if (counted[b] !== nr[b]) wrong.push(`counter of ${name} says ${nr[b]}, the lists hold ${counted[b]}`);
      }
      const seen = new Set<number>();
      front.forEachPcp((cpu, mt, head, order) => {
        for (let i = head; i < head + 2 ** order; i++) {
          if (i < 0 || i >= area.pages) wrong.push(`cpu ${cpu} ring ${mt} holds ${i}, which is no page`);
          else if (area.headOf(i) >= 0) wrong.push(`cpu ${cpu} ring ${mt} holds page ${i}, which is free in the area`);
          if (seen.has(i)) wrong.push(`page ${i} is in two rings`);
          seen.add(i);
        }
      });
      if (front.pcpPages() !== seen.size) wrong.push(`per-CPU lists hold ${seen.size}, they count ${front.pcpPages()}`);
      if (front.settings().disabled > 0 && seen.size > 0) {
        wrong.push(`${seen.size} pages in rings that are switched off`);
      }
      return wrong;
    },
  };
}

// The core's literals, proved once.
assert(
  PAGEBLOCK_PAGES === 512 &&
    CHUNK_PAGES === 1024 &&
    NR_PCP_TYPES === 3 &&
    MIGRATE_MOVABLE === 1 &&
    MIGRATE_HIGHATOMIC === 3 &&
    MIGRATE_CMA === 4 &&
    MIGRATE_ISOLATE === 5,
  'pageAllocCore is written for this geometry',
);
