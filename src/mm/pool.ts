// Pool: owns frames, each frame exactly one pool. A Linux zone is a pool that Linux has a name for; a user pool is carved
// out of zones (src/mm/pools/), and its frames keep the zone that they came from as a label.
//
// The pool's allocator counts frames from the pool's base, so that every table in it starts at 0:
//
//   PageIndex   base                                   base + pages       (multiples of 1024; the pool's hull)
//               │ in use │ free │ not ours │ free │ ... │
//   allocator   0                                       pages
//
// A hull may hold frames of other pools (zones of a node may interleave) and frames that are offline: frame-owners.ts
// says whose each frame is; the allocator has never seen the others, so that buddies never merge across pools.
//
//   spanned   endPfn - startPfn, holes included        present   frames that exist (reserved ones too)
//   managed   frames ever given to the allocator       (spec 1.5)
//
// Invariants: P1 managed = free + isolated + on per-CPU lists + allocated by any holder but `reserved` and `memmap` on
// the block itself; P2 managed <= present <= spanned. After Snook 2007.

import { assert } from '#base/assert';
import type { NodeId, Pfn } from '#base/units';
import { toPfn } from '#base/units';
import type { FallbackDecision } from './fallback.ts';
import type { Placement } from './free-area.ts';
import { createFreeArea } from './free-area-create.ts';
import {
  CHUNK_PAGES,
  MAX_ORDER,
  MIGRATE_MOVABLE,
  MIGRATE_RECLAIMABLE,
  MIGRATE_UNMOVABLE,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from './geometry.ts';
import type { KernelProfile } from './kernel-profile.ts';
import {
  ALLOC_CMA,
  ALLOC_KEEP_PCP,
  ALLOC_NOFRAGMENT,
  createPageAlloc,
  type PageAlloc,
  type Rings,
} from './page-alloc.ts';
import { ZONE_NAMES, type ZoneIndex, type ZoneName } from './page-class.ts';
import type { PcpTuning } from './per-cpu-pages.ts';
import { NO_WATERMARKS, type Watermarks } from './watermark.ts';

export type PoolConfig = {
  readonly placement: Placement;
  readonly cpus: number;
  /** 'own' compiles the allocator for this pool (fast, milliseconds to make); forks share one. */
  readonly code: 'own' | 'shared';
  /** Movable-looking frames in the pageblock whose first PageIndex is given (the claim rule, spec 2.3). */
  readonly movableIn: (index: number) => number;
  /** Frame number of a PageIndex: where the zone's borders lie inside a pageblock. Left out: no pageblock is cut. */
  readonly pfnOf?: (index: number) => number;
  /** Which Linux: the shape of fallback, and whether per-CPU lists tune themselves. Default 6.12. */
  readonly kernel?: KernelProfile;
  /** The front of the allocator (page-alloc.ts). Default: 'linux' for `lifo`, 'rings' for all else. */
  readonly pcp?: 'rings' | 'linux';
};

/** What a request that prefers this pool does rather than mix a pageblock (spec 2.7). */
export type FragmentPolicy =
  /** Nothing. */
  | 'mix'
  /** Looks through the pools of the node first. */
  | 'avoid'
  /** Anything: vm.defrag_mode. */
  | 'never';

/** Linux's mm_page_alloc_extfrag, counted. */
export type ExtfragCounts = {
  /** Fallbacks that gave a page. */
  events: number;
  /** Of these, out of a page smaller than a pageblock. */
  fragmenting: number;
  /** Of these, after which the pageblock has the request's type. */
  ownership: number;
};

/** zone_statistics(): requests, whatever their order. `hit` is local too: the CPU of a request is near its node. */
export type NumaCounts = {
  /** Served here, as wanted. */
  hit: number;
  /** Served here, though another node was preferred. */
  miss: number;
  /** Wanted here, served elsewhere. */
  foreign: number;
};

const pcpOf = (config: PoolConfig): 'rings' | 'linux' =>
  config.pcp ?? (config.placement === 'lifo' ? 'linux' : 'rings');

/** Per-CPU lists tune themselves from Linux 6.7 on. */
const pcpTuningOf = (config: PoolConfig): PcpTuning => (config.kernel?.name === '6.1' ? 'fixed' : 'auto');

/** The most pages one ring may keep; Linux limits the sum of a CPU's lists instead. */
const RING_CAPACITY = 8192;

/** A zone by its node and index; with a name, a user pool. */
export type PoolIdentity = { readonly node: NodeId; readonly zone: ZoneIndex; readonly name?: string };

export class Pool {
  readonly id: number;
  readonly kind: 'zone' | 'user';
  /** Of a user pool: its home, the first node that it may have frames of. */
  node: NodeId;
  /** Of a user pool: the highest zone that frames of it are labelled with. A request for lower ones has no business here. */
  zone: ZoneIndex;
  /** Of a zone: "DMA", "DMA32", "Normal", "Movable". Of a user pool: its own. */
  readonly name: string;
  readonly config: PoolConfig;
  /** First PageIndex of the hull; a multiple of 1024. */
  base: number;
  alloc: PageAlloc;
  /** Of a user pool without machine code of its own: many pools share one call site (page-alloc.ts: Rings). */
  rings: Rings | undefined;
  /** Free pages of the allocator by bucket: fallback types, HighAtomic, CMA, Isolate. Read only. */
  nrFree: Float64Array;
  /** Are its per-CPU lists Linux's: of other orders too, and told when the pool falls below its high mark (spec 2.4)? */
  readonly linuxLists: boolean;
  startPfn: Pfn = toPfn(0);
  endPfn: Pfn = toPfn(0);
  present = 0;
  managed = 0;
  /** Of a user pool: frames by the id of the zone that labels them. Their sum is present, and managed. */
  readonly labels = new Map<number, number>();
  /** Of a zone: its watermarks by what all pools with its label manage, as /proc shows them; `watermarks` is its share. */
  zoneMarks: Watermarks = NO_WATERMARKS;
  /** Of `present`, what was there at boot: only that lets memory go to Movable (spec 1.8). */
  presentEarly = 0;
  /**
   * What must stay free, by pass and by the request's highest zone: [top] low plus reserve, [4 + top] min plus reserve,
   * [8 + top] high plus reserve, boost included. Copied from `watermarks`, so that an allocation reads one number.
   */
  readonly marks = new Float64Array(12).fill(Number.NEGATIVE_INFINITY);
  /** Frames in pageblocks that atomic requests have reserved (high-atomic.ts); a multiple of a pageblock. */
  reservedHighAtomic = 0;
  readonly extfrag: ExtfragCounts = { events: 0, fragmenting: 0, ownership: 0 };
  readonly numa: NumaCounts = { hit: 0, miss: 0, foreign: 0 };
  /** ALLOC_* of the first pass of a request that prefers this pool, by type: Unmovable, Movable, Reclaimable. */
  readonly requestFlags = Int32Array.of(ALLOC_KEEP_PCP, ALLOC_KEEP_PCP | ALLOC_CMA, ALLOC_KEEP_PCP);
  /** The type that a request of type Unmovable, Movable, Reclaimable is served as: its own, or one for all (realtime). */
  readonly typeFor = Int32Array.of(MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE);
  /** vm.watermark_boost_factor. */
  boostFactor = 0;
  /** After each fallback that gave a page: Linux's mm_page_alloc_extfrag. Not copied. */
  onExtfrag: ((order: number, mt: number, decision: Readonly<FallbackDecision>) => void) | undefined;
  #fragmentPolicy: FragmentPolicy = 'mix';
  #watermarks: Watermarks = NO_WATERMARKS;
  #boost = 0;

  constructor(id: number, identity: PoolIdentity, hull: { base: number; pages: number }, config: PoolConfig) {
    assert(hull.base % CHUNK_PAGES === 0 && hull.pages % CHUNK_PAGES === 0, 'a hull is whole chunks', hull);
    this.id = id;
    this.kind = identity.name === undefined ? 'zone' : 'user';
    this.node = identity.node;
    this.zone = identity.zone;
    this.name = identity.name ?? (ZONE_NAMES[identity.zone] as ZoneName); // ZoneIndex is 0..3
    this.config = config;
    this.base = hull.base;
    this.linuxLists = pcpOf(config) === 'linux';
    this.alloc = this.#createAlloc(hull.pages);
    this.nrFree = this.alloc.columns.nr;
    this.rings = this.#sharedRings();
  }

  /** End minus start of the frames in the pool, holes included. */
  get spanned(): number {
    return this.endPfn - this.startPfn;
  }

  get fragmentPolicy(): FragmentPolicy {
    return this.#fragmentPolicy;
  }

  set fragmentPolicy(policy: FragmentPolicy) {
    this.#fragmentPolicy = policy;
    const flags = policy === 'mix' ? ALLOC_KEEP_PCP : ALLOC_KEEP_PCP | ALLOC_NOFRAGMENT;
    this.requestFlags.set([flags, flags | ALLOC_CMA, flags]);
  }

  get watermarks(): Watermarks {
    return this.#watermarks;
  }

  /** Without boost. Setting them ends the boost. */
  set watermarks(w: Watermarks) {
    this.#watermarks = w;
    this.boost = 0;
  }

  /** Pages by which all watermarks are raised for a while, after pageblocks were claimed in part (spec 2.6). */
  get boost(): number {
    return this.#boost;
  }

  set boost(pages: number) {
    this.#boost = pages;
    if (this.kind === 'user') return; // what must stay free in it is its min, by who asks: pools/request.ts
    const w = this.#watermarks;
    for (let top = 0; top < 4; top++) {
      const more = pages + (w.reserve[top] as number);
      this.marks[top] = w.low + more;
      this.marks[4 + top] = w.min + more;
      this.marks[8 + top] = w.high + more;
    }
    this.alloc.pressure.highMark = this.marks[8 + 3] as number;
  }

  /** boost_watermark(): a fallback is about to look into a pageblock. Small zones and zones without marks are spared. */
  boostWatermark(): void {
    if (this.boostFactor === 0 || this.managed < 4 * PAGEBLOCK_PAGES) return;
    const most = Math.floor((this.#watermarks.high * this.boostFactor) / 10000);
    if (most <= 0) return;
    this.boost = Math.min(this.#boost + PAGEBLOCK_PAGES, Math.max(most, PAGEBLOCK_PAGES));
  }

  get pages(): number {
    return this.alloc.area.pages;
  }

  /** "Node 0, zone DMA32", or "pool web". */
  get title(): string {
    return this.kind === 'user' ? `pool ${this.name}` : `Node ${this.node}, zone ${this.name}`;
  }

  #sharedRings(): Rings | undefined {
    return this.kind === 'user' ? this.alloc.rings : undefined;
  }

  #createAlloc(pages: number): PageAlloc {
    const { config } = this;
    const { pfnOf, kernel } = config;
    return createPageAlloc(createFreeArea(pages, config.placement, config.code), {
      cpus: config.cpus,
      batch: 63,
      high: 4 * 63,
      capacity: RING_CAPACITY,
      movableIn: (i) => config.movableIn(this.base + i),
      ...(pfnOf && this.kind === 'zone' && { spans: (i) => this.#spans(pfnOf(this.base + i)) }),
      shape: kernel?.fallback ?? 'claim-steal',
      onBoost: () => this.boostWatermark(),
      onFallback: (order, mt, decision) => this.#countFallback(order, mt, decision),
      pcp: pcpOf(config),
      pcpTuning: pcpTuningOf(config),
      code: config.code,
    });
  }

  /** Does the whole pageblock at `pfn` lie within the zone's span? */
  #spans(pfn: number): boolean {
    return pfn >= this.startPfn && pfn + PAGEBLOCK_PAGES <= this.endPfn;
  }

  #countFallback(order: number, mt: number, decision: Readonly<FallbackDecision>): void {
    this.extfrag.events++;
    if (decision.fallbackOrder < PAGEBLOCK_ORDER) this.extfrag.fragmenting++;
    if (decision.action === 'claim') this.extfrag.ownership++;
    this.onExtfrag?.(order, mt, decision);
  }

  /**
   * [start, end) of the dense index, frames of this pool that nobody has, become free: whole chunks lazily, the ragged
   * ends in the largest aligned pieces, all behind the frames that are free already. Their pageblocks that hold a whole
   * chunk become Movable. Counters of the pool are the caller's.
   */
  fill(start: number, end: number): void {
    const first = Math.ceil(start / CHUNK_PAGES) * CHUNK_PAGES;
    const last = Math.floor(end / CHUNK_PAGES) * CHUNK_PAGES;
    if (first >= last) return this.#fillPieces(start, end);
    this.alloc.online(first - this.base, last - this.base);
    this.#fillPieces(start, first);
    this.#fillPieces(last, end);
  }

  #fillPieces(start: number, end: number): void {
    for (let i = start; i < end; ) {
      let order = 0;
      while (order < MAX_ORDER && (i & ((2 << order) - 1)) === 0 && i + (2 << order) <= end) order++;
      this.alloc.freeToArea(i - this.base, order, true);
      i += 1 << order;
    }
  }

  /**
   * Widens the hull to cover [start, end) too: everything free is carried over, and so is the state of the per-CPU lists
   * (an offline of another block may have switched them off). It grows at least twofold, as far as `limit` frames of the
   * dense index reach, so that blocks that come one after another cost O(pages) in all.
   */
  widen(start: number, end: number, limit = end): void {
    // A pool without frames keeps nothing of its old hull: a zone far up must not pay for the frames below it.
    const empty = this.present === 0;
    const oldBase = empty ? start : this.base;
    const oldEnd = empty ? end : oldBase + this.pages;
    if (start >= this.base && end <= this.base + this.pages) return;
    const old = this.alloc;
    old.drain();
    const more = empty ? end - start : this.pages;
    const low = start < oldBase ? Math.min(start, Math.max(0, oldBase - more)) : oldBase;
    const high = end > oldEnd ? Math.max(end, Math.min(limit, oldEnd + more)) : oldEnd;
    const base = Math.floor(low / CHUNK_PAGES) * CHUNK_PAGES;
    const pages = Math.ceil((high - base) / CHUNK_PAGES) * CHUNK_PAGES;
    this.base = base;
    this.alloc = this.#createAlloc(pages);
    this.nrFree = this.alloc.columns.nr;
    this.rings = this.#sharedRings();
    this.alloc.adoptSettings(old);
    Object.assign(this.alloc.pressure, old.pressure);
    if (empty) return;
    const shift = oldBase - base;
    for (let i = 0; i < old.area.pages; i += PAGEBLOCK_PAGES) {
      const type = old.area.typeOf(i);
      if (this.alloc.area.typeOf(i + shift) !== type) this.alloc.setPageblockType(i + shift, type);
    }
    old.area.forEachFree(0, old.area.pages, (i, order) => this.alloc.put(i + shift, order));
  }

  /** Becomes equal to `other`, a pool of the same kind and name. Cost O(pageblocks in use). */
  copyFrom(other: Pool): void {
    if (this.base !== other.base || this.pages !== other.pages) {
      this.base = other.base;
      this.alloc = this.#createAlloc(other.pages);
      this.nrFree = this.alloc.columns.nr;
      this.rings = this.#sharedRings();
    }
    this.alloc.copyFrom(other.alloc);
    this.startPfn = other.startPfn;
    this.endPfn = other.endPfn;
    this.present = other.present;
    this.managed = other.managed;
    this.presentEarly = other.presentEarly;
    this.node = other.node;
    this.zone = other.zone;
    this.zoneMarks = other.zoneMarks;
    this.typeFor.set(other.typeFor);
    this.labels.clear();
    for (const [zone, frames] of other.labels) this.labels.set(zone, frames);
    this.watermarks = other.watermarks;
    this.boost = other.boost;
    this.reservedHighAtomic = other.reservedHighAtomic;
    this.fragmentPolicy = other.fragmentPolicy;
    this.boostFactor = other.boostFactor;
    Object.assign(this.extfrag, other.extfrag);
    Object.assign(this.numa, other.numa);
  }
}
