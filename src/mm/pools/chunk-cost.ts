// Chunk costs: what it would cost to empty each chunk of a machine, kept up to date frame by frame.
//
//   page                        cost   by class and state                                         (spec 9.A, semantics 7)
//   free, on a per-CPU list     0
//   clean cache                 1      file, not dirty
//   migratable                  2      anonymous, shmem, hugetlb, balloon; clean cache that may not be dropped (mlocked)
//   dirty                       4      file, dirty
//   reclaimable slab            8      slab-reclaimable
//   unmovable                   ∞      all other classes; frames that are no RAM; whatever is pinned, for as long as it is:
//                                      a pin can last for ever, and evacuation would find it only when half the work is done
//
//   an event of a frame ──> sum[pageblock] += weight << order, and the chunk is marked     two stores, a few ns
//   a query             ──> marked chunks go into the index of their pool (chunk-index.ts), each once
//
//   column   type    length       meaning
//   sum      Int32   pageblocks   weights of its frames; one that cannot move weighs BAD = 2^20, more than a chunk of others
//                                 can, so that sum / BAD counts them and no second column is needed
//   home     Int16   chunks       pool that has all 1024 frames; -1 nobody; -2 more than one, or a CMA pageblock
//   mark     Uint8   chunks       0 clean, 1 its sum changed, 2 its owner may have changed
//   marked   Int32   chunks       the chunks that are marked, in order of time
//   odd      Map     head         weight of an allocation that is not its holder's class's (pinned, dirty)
//
// A chunk is in a pool's index only if all its frames are the pool's. Page contents change without a word to the engine:
// who answers `pageState` says `changed(pfn)` when the answer changes. Copies of a machine count anew when first asked.
//
// Invariants: CC1 after any activity every sum and owner equals a recount; CC2 each index holds exactly the chunks of its
// pool, at their costs. After Snook 2007, problem 9.

import { assert } from '#base/assert';
import { type Order, type Pfn, toPfn } from '#base/units';
import type { FrameWatch } from '../frame-watch.ts';
import { CHUNK_PAGES, MAX_ORDER, MIGRATE_CMA, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Holders } from '../holder.ts';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import { CLASS_TRAITS, PAGE_CLASSES, type PageClass } from '../page-class.ts';
import { type PageState, type PageStateOf, pageStateAt } from '../page-state.ts';
import type { Pool } from '../pool.ts';
import { KIND_ABSENT, KIND_HEAD0, KIND_MASK, META_PINNED } from '../section.ts';
import { ChunkIndex, INFINITE } from './chunk-index.ts';

export { INFINITE };

/** What one page costs; whole numbers from 0 to 1023, or Infinity. */
export type ChunkWeights = {
  readonly cleanCache: number;
  readonly migratable: number;
  readonly dirty: number;
  readonly reclaimableSlab: number;
};

export const CHUNK_WEIGHTS: ChunkWeights = Object.freeze({
  cleanCache: 1,
  migratable: 2,
  dirty: 4,
  reclaimableSlab: 8,
});

export type ChunkSettings = {
  readonly weights?: Partial<ChunkWeights>;
  /** Who knows which page cache is dirty or locked. Default: file pages are clean (page-state.ts). */
  readonly pageState?: PageStateOf;
};

/** A piece of 2^order frames and what it costs to empty it. */
export type RankedPiece = { readonly startPfn: Pfn; readonly order: Order; readonly cost: number };

/** Chunks by what they cost, as `chunk_histogram` of a pool lists them. */
export const HISTOGRAM_LABELS = ['free', '<=64', '<=512', '<=1024', '<=2048', 'more', 'unreclaimable'] as const;
const HISTOGRAM_LIMITS = [0, 64, 512, 1024, 2048, INFINITE - 1] as const;

const CHUNK_ORDER = MAX_ORDER;
const MAX_WEIGHT = 1023;
/** Weight of a frame that cannot move: more than 1024 frames of the largest finite weight, and 1024 of them fit in 31 bits. */
const BAD = 2 ** 20;
assert(BAD > MAX_WEIGHT * CHUNK_PAGES && BAD * CHUNK_PAGES <= INFINITE, 'weights and their sums must not meet');

const NOBODY = -1;
const SHARED = -2;

const CLEAN = 0;
const CHANGED = 1;
const STALE = 2;

/** The class whose cost depends on what its pages contain. */
const FILE = PAGE_CLASSES.indexOf('file');

/** Weight of a page of this class, in this state; BAD when it cannot go away. Pins are not asked here. */
export function pageWeight(
  cls: PageClass,
  state: Pick<PageState, 'dirty' | 'mlocked' | 'unevictable'>,
  w: ChunkWeights,
): number {
  let weight = Number.POSITIVE_INFINITY;
  if (cls === 'slab-reclaimable') weight = w.reclaimableSlab;
  else if (cls === 'file' && state.dirty) weight = w.dirty;
  else if (cls === 'file' && state.mlocked !== true && state.unevictable !== true) weight = w.cleanCache;
  else if (CLASS_TRAITS[cls].mobility === 'lru' || CLASS_TRAITS[cls].mobility === 'driver') weight = w.migratable;
  return weight <= MAX_WEIGHT ? weight : BAD;
}

class ChunkState {
  settings: ChunkSettings = {};
  costs: ChunkCosts | undefined;

  /** A copy counts its own frames when it is first asked. */
  copy(): ChunkState {
    const to = new ChunkState();
    to.settings = this.settings;
    return to;
  }
}

const states = machineState(() => new ChunkState());

/**
 * The costs of a machine's chunks. Made when first asked for, by one scan of the frames in use; the machine tells it of
 * every change from then on. Ask for it anew after a restore: what it knew is of another past.
 */
export function chunkCosts(m: Machine): ChunkCosts {
  const state = states.of(m);
  if (state.costs === undefined) {
    assert(m.frameWatch === undefined || m.frameWatch instanceof ChunkCosts, 'somebody else watches the frames');
    state.costs = new ChunkCosts(m, state.settings);
    m.frameWatch = state.costs;
  }
  return state.costs;
}

/** What pages cost from now on. Everything is counted anew at the next query. A weight out of range throws. */
export function setChunkSettings(m: Machine, settings: ChunkSettings): void {
  for (const [name, weight] of Object.entries(settings.weights ?? {})) {
    const fits =
      weight === Number.POSITIVE_INFINITY || (Number.isInteger(weight) && weight >= 0 && weight <= MAX_WEIGHT);
    assert(fits, 'a weight is a whole number from 0 to 1023, or Infinity', { name, weight });
  }
  const state = states.of(m);
  state.settings = settings;
  state.costs = undefined;
}

/** CC1 and CC2 of a machine whose costs are kept; empty for all others. Cost O(frames in use). For machine.check(). */
export const checkChunkCosts = (m: Machine): string[] => states.has(m)?.costs?.check() ?? [];

export class ChunkCosts implements FrameWatch {
  /** Frames that were read to count chunks, the first scan included. Tests read it: queries for chunks read none. */
  framesRead = 0;
  readonly #m: Machine;
  readonly #holders: Holders;
  readonly #pageState: PageStateOf | undefined;
  readonly #weights: ChunkWeights;
  /** By index in PAGE_CLASSES, in the state that page-state.ts takes for granted. */
  readonly #byClass: Int32Array;
  #sum = new Int32Array(0);
  #home = new Int16Array(0);
  #mark = new Uint8Array(0);
  #marked = new Int32Array(0);
  #nrMarked = 0;
  readonly #odd = new Map<number, number>();
  /** Can an allocation be odd? Nearly always not, and then nobody asks. */
  #extra: boolean;
  /** By pool id. */
  readonly #indexes: (ChunkIndex | undefined)[] = [];

  /** @internal Made by chunkCosts(). */
  constructor(m: Machine, settings: ChunkSettings) {
    this.#m = m;
    this.#holders = m.holders;
    this.#pageState = settings.pageState;
    this.#extra = settings.pageState !== undefined;
    this.#weights = { ...CHUNK_WEIGHTS, ...settings.weights };
    this.#byClass = Int32Array.from(PAGE_CLASSES, (cls) => pageWeight(cls, { dirty: false }, this.#weights));
    this.owned(0, m.sections.frames);
  }

  // ------------------------------------------------------------------------------------------- what the machine says

  occupied(index: number, order: number, holder: number): void {
    const cls = this.#holders.classIndex[holder] as number;
    let weight = this.#byClass[cls] as number;
    if (this.#extra) {
      if (this.#pageState !== undefined && cls === FILE) weight = this.#look(index, weight);
      else this.#forget(index);
    }
    this.#add(index, order, weight);
  }

  vacated(index: number, order: number, holder: number): void {
    let weight = this.#byClass[this.#holders.classIndex[holder] as number] as number;
    if (this.#extra) {
      weight = this.#odd.get(index) ?? weight;
      this.#forget(index);
    }
    this.#add(index, order, -weight);
  }

  moved(from: number, to: number, order: number, holder: number): void {
    const weight = this.#weightOf(from, holder);
    this.#add(from, order, -weight);
    this.#add(to, order, weight);
    if (!this.#extra) return;
    const odd = this.#odd.get(from);
    this.#forget(from);
    if (odd === undefined) this.#forget(to);
    else this.#remember(to, odd);
  }

  owned(start: number, end: number): void {
    const { owner } = this.#m.owners;
    this.#cover(end);
    for (let c = start >>> CHUNK_ORDER; c << CHUNK_ORDER < end; c++) {
      const home = this.#home[c] as number;
      if (home >= 0 && (owner[2 * c] === NOBODY || owner[2 * c + 1] === NOBODY)) {
        // Offline: its memory may be removed and another's come to its place before anybody asks.
        this.#indexOf(home).remove(c);
        this.#home[c] = NOBODY;
      }
      if (this.#mark[c] === CLEAN) this.#marked[this.#nrMarked++] = c;
      this.#mark[c] = STALE;
    }
  }

  marked(head: number): void {
    this.#refresh(head);
  }

  /** What `pageState` says of the allocation that covers this frame has changed. */
  changed(pfn: Pfn): void {
    const index = this.#m.sections.indexOf(pfn);
    const a = index < 0 ? undefined : this.#m.sections.allocationAt(index);
    if (a !== undefined) this.#refresh(a.head);
  }

  /** Two stores. Frames beyond the columns are offline: they are counted when they come to a pool. */
  #add(index: number, order: number, weight: number): void {
    const sum = this.#sum;
    if (order <= PAGEBLOCK_ORDER) {
      sum[index >>> PAGEBLOCK_ORDER] = (sum[index >>> PAGEBLOCK_ORDER] as number) + (weight << order);
    } else {
      for (let pb = index >>> PAGEBLOCK_ORDER; pb < (index + (1 << order)) >>> PAGEBLOCK_ORDER; pb++) {
        sum[pb] = (sum[pb] as number) + (weight << PAGEBLOCK_ORDER);
      }
    }
    const c = index >>> CHUNK_ORDER;
    if (this.#mark[c] !== CLEAN) return;
    this.#mark[c] = CHANGED;
    this.#marked[this.#nrMarked++] = c;
  }

  #weightOf(head: number, holder: number): number {
    const odd = this.#extra ? this.#odd.get(head) : undefined;
    return odd ?? (this.#byClass[this.#holders.classIndex[holder] as number] as number);
  }

  /** Asks what an allocation weighs now, and remembers it where that is not what its class says. */
  #look(head: number, byClass: number): number {
    const { sections, holders } = this.#m;
    let weight = byClass;
    if ((sections.metaAt(head) & META_PINNED) !== 0) weight = BAD;
    else if (this.#pageState !== undefined) {
      const cls = PAGE_CLASSES[holders.classIndex[holders.holderOf(sections.ownerAt(head))] as number] as PageClass;
      if (cls === 'file') weight = pageWeight(cls, pageStateAt(this.#m, head, this.#pageState), this.#weights);
    }
    if (weight !== byClass) this.#remember(head, weight);
    else this.#forget(head);
    return weight;
  }

  #remember(head: number, weight: number): void {
    this.#odd.set(head, weight);
    this.#extra = true;
  }

  #forget(head: number): void {
    if (this.#odd.delete(head)) this.#extra = this.#pageState !== undefined || this.#odd.size > 0;
  }

  #refresh(head: number): void {
    const { sections, holders } = this.#m;
    const holder = holders.holderOf(sections.ownerAt(head));
    const order = (sections.metaAt(head) & KIND_MASK) - KIND_HEAD0;
    const before = this.#weightOf(head, holder);
    const now = this.#look(head, this.#byClass[holders.classIndex[holder] as number] as number);
    if (now !== before) this.#add(head, order, now - before);
  }

  // ----------------------------------------------------------------------------------------------------- questions

  /** The cheapest chunk of a pool, the lowest of equals; undefined when none can be emptied. Cost: marked chunks, then O(1). */
  cheapest(pool: Pool): RankedPiece | undefined {
    this.#settle();
    const index = this.#indexes[pool.id];
    const c = index === undefined ? -1 : index.argmin();
    return c < 0 ? undefined : this.#piece(c << CHUNK_ORDER, MAX_ORDER as Order, (index as ChunkIndex).costOf(c));
  }

  /**
   * The `n` cheapest aligned pieces of 2^order frames that are all the pool's, ascending by (cost, address).
   *
   * Order 10: from the index, n visits. Order 9: from the sums, O(pageblocks of the pool); pageblocks of chunks that
   * cannot be emptied as a whole are found too. Below: O(frames of the pool), until there are n that are free.
   */
  top(pool: Pool, n: number, order: Order): RankedPiece[] {
    this.#settle();
    if (order === MAX_ORDER) {
      const found = this.#indexes[pool.id]?.top(n) ?? [];
      return found.map((r) => this.#piece(r.chunk << CHUNK_ORDER, order, r.cost));
    }
    const found: RankedPiece[] = [];
    let free = 0;
    const end = Math.min(pool.base + pool.pages, this.#m.sections.frames);
    for (let i = pool.base; i < end && free < n; i += 1 << order) {
      const cost = this.#pieceCost(pool, i, order);
      if (cost === INFINITE) continue;
      if (cost === 0) free++;
      found.push(this.#piece(i, order, cost));
    }
    return found.sort((a, b) => a.cost - b.cost).slice(0, n); // a stable sort: equals stay in order of address
  }

  /** What the aligned chunk of a frame costs; INFINITE where it is not all one pool's, or cannot be emptied. */
  costOf(pfn: Pfn): number {
    this.#settle();
    const index = this.#m.sections.indexOf(pfn);
    const c = index >>> CHUNK_ORDER;
    return index < 0 || (this.#home[c] as number) < 0 ? INFINITE : this.#chunkCost(c);
  }

  /** Chunks of a pool by cost, a number for each of HISTOGRAM_LABELS. Cost O(chunks of the pool's hull). */
  histogram(pool: Pool): number[] {
    this.#settle();
    const out: number[] = HISTOGRAM_LABELS.map(() => 0);
    const end = Math.min(this.#home.length, (pool.base + pool.pages) >>> CHUNK_ORDER);
    for (let c = pool.base >>> CHUNK_ORDER; c < end; c++) {
      if (this.#home[c] !== pool.id) continue;
      const cost = this.#chunkCost(c);
      const column = HISTOGRAM_LIMITS.findIndex((limit) => cost <= limit);
      out[column < 0 ? HISTOGRAM_LABELS.length - 1 : column]++;
    }
    return out;
  }

  /** Chunks that queries of a pool's index have looked at. */
  visits(pool: Pool): number {
    return this.#indexes[pool.id]?.visits ?? 0;
  }

  bytes(): number {
    const columns = this.#sum.byteLength + this.#home.byteLength + this.#mark.byteLength + this.#marked.byteLength;
    return columns + this.#indexes.reduce((n, x) => n + (x?.bytes() ?? 0), 0);
  }

  /** CC1 and CC2, in words; empty when sound. Cost O(frames in use). */
  check(): string[] {
    this.#settle();
    const wrong: string[] = [];
    const { sections } = this.#m;
    const members = new Map<number, number>();
    for (let c = 0; c < sections.frames >>> CHUNK_ORDER; c++) {
      const home = this.#homeOf(c);
      if (home !== this.#home[c]) wrong.push(`CC1 chunk ${c} belongs to ${home}, remembered ${this.#home[c]}`);
      if (home < 0) continue;
      for (const pb of [2 * c, 2 * c + 1]) {
        const now = this.#count(pb, false);
        if (now !== this.#sum[pb]) wrong.push(`CC1 pageblock ${pb} weighs ${now}, remembered ${this.#sum[pb]}`);
      }
      const cost = this.#chunkCost(c);
      const known = this.#indexes[home]?.costOf(c) ?? INFINITE;
      if (known !== cost) wrong.push(`CC2 chunk ${c} of pool ${home} costs ${cost}, its index says ${known}`);
      if (cost < INFINITE) members.set(home, (members.get(home) ?? 0) + 1);
    }
    this.#indexes.forEach((x, id) => {
      if (x === undefined) return;
      wrong.push(...x.check().map((s) => `pool ${id}: ${s}`));
      const mine = members.get(id) ?? 0;
      if (x.players !== mine) wrong.push(`CC2 pool ${id} has ${mine} chunks to empty, its index ${x.players}`);
    });
    return wrong;
  }

  #piece(index: number, order: Order, cost: number): RankedPiece {
    return { startPfn: this.#m.sections.pfnOf(index), order, cost };
  }

  #chunkCost(c: number): number {
    const sum = (this.#sum[2 * c] as number) + (this.#sum[2 * c + 1] as number);
    return sum >= BAD ? INFINITE : sum;
  }

  #pieceCost(pool: Pool, start: number, order: number): number {
    const { owners } = this.#m;
    const pb = start >>> PAGEBLOCK_ORDER;
    const whole = owners.owner[pb] === pool.id;
    if (!whole && order === PAGEBLOCK_ORDER) return INFINITE;
    const end = start + (1 << order);
    for (let i = start; !whole && i < end; i++) if (owners.at(i) !== pool.id) return INFINITE;
    if (pool.alloc.area.typeOf(start - pool.base) === MIGRATE_CMA) return INFINITE;
    const sum = order === PAGEBLOCK_ORDER ? (this.#sum[pb] as number) : this.#sumIn(start, end, false);
    return sum >= BAD ? INFINITE : sum;
  }

  // ------------------------------------------------------------------------------------------- keeping it up to date

  /** Marked chunks go into the indexes. */
  #settle(): void {
    assert(
      states.of(this.#m).costs === this,
      'the machine became another one, or the weights changed: ask chunkCosts()',
    );
    for (let k = 0; k < this.#nrMarked; k++) {
      const c = this.#marked[k] as number;
      if (this.#mark[c] === STALE) this.#rehome(c);
      this.#mark[c] = CLEAN;
      const home = this.#home[c] as number;
      if (home >= 0) this.#indexOf(home).set(c, this.#chunkCost(c));
    }
    this.#nrMarked = 0;
  }

  /** A chunk that was no pool's is counted: what happened to it meanwhile went unheard. Others only change their index. */
  #rehome(c: number): void {
    const before = this.#home[c] as number;
    const now = this.#homeOf(c);
    if (before >= 0 && before !== now) this.#indexOf(before).remove(c);
    this.#home[c] = now;
    if (before >= 0 || now === NOBODY) return;
    this.#sum[2 * c] = this.#count(2 * c, true);
    this.#sum[2 * c + 1] = this.#count(2 * c + 1, true);
  }

  /** The pool that has all frames of a chunk, if there is one and no other rule binds them. */
  #homeOf(c: number): number {
    const { owners, pools } = this.#m;
    const a = owners.owner[2 * c] as number;
    const b = owners.owner[2 * c + 1] as number;
    if (a === NOBODY && b === NOBODY) return NOBODY;
    if (a !== b || a < 0) return SHARED;
    const { alloc, base } = pools[a] as Pool;
    const first = (c << CHUNK_ORDER) - base;
    const cma = alloc.area.typeOf(first) === MIGRATE_CMA || alloc.area.typeOf(first + PAGEBLOCK_PAGES) === MIGRATE_CMA;
    return cma ? SHARED : a;
  }

  /** What a pageblock weighs by the machine's tables. `keep`: the odd ones are remembered anew. */
  #count(pb: number, keep: boolean): number {
    return this.#sumIn(pb << PAGEBLOCK_ORDER, (pb + 1) << PAGEBLOCK_ORDER, keep);
  }

  #sumIn(start: number, end: number, keep: boolean): number {
    const { sections, holders } = this.#m;
    let sum = 0;
    if (keep) this.framesRead += end - start;
    // An allocation that is larger than the range begins before it.
    const first = sections.allocationAt(start);
    for (let i = start; i < end; ) {
      const head = i === start && first !== undefined ? first.head : i;
      const kind = sections.metaAt(head) & KIND_MASK;
      if (kind === 0) {
        i = sections.nextKnown(i, end);
        continue;
      }
      if (kind === KIND_ABSENT) {
        sum += BAD;
        i++;
        continue;
      }
      const next = Math.min(end, head + (1 << (kind - KIND_HEAD0)));
      const cls = holders.classIndex[holders.holderOf(sections.ownerAt(head))] as number;
      const byClass = this.#byClass[cls] as number;
      const weight = keep ? this.#look(head, byClass) : this.#peek(head, byClass);
      sum += weight * (next - i);
      i = next;
    }
    return sum;
  }

  /** #look, with nothing remembered: for check() and pieces. */
  #peek(head: number, byClass: number): number {
    const odd = this.#odd.get(head);
    const weight = this.#look(head, byClass);
    if (odd === undefined) this.#forget(head);
    else this.#remember(head, odd);
    return weight;
  }

  #indexOf(pool: number): ChunkIndex {
    let index = this.#indexes[pool];
    if (index === undefined) {
      index = new ChunkIndex();
      this.#indexes[pool] = index;
    }
    return index;
  }

  /** The columns cover frames below `end`: at least twice as many as before when they grow. */
  #cover(end: number): void {
    const chunks = (end + CHUNK_PAGES - 1) >>> CHUNK_ORDER;
    if (chunks <= this.#home.length) return;
    const length = Math.max(chunks, 2 * this.#home.length);
    const sum = new Int32Array(2 * length);
    sum.set(this.#sum);
    this.#sum = sum;
    const home = new Int16Array(length).fill(NOBODY);
    home.set(this.#home);
    this.#home = home;
    const mark = new Uint8Array(length);
    mark.set(this.#mark);
    this.#mark = mark;
    const marked = new Int32Array(length);
    marked.set(this.#marked);
    this.#marked = marked;
  }
}

/** The aligned chunk of a frame, [start, end) of frame numbers. */
export const chunkOf = (pfn: Pfn): { readonly start: Pfn; readonly end: Pfn } => {
  const start = pfn - (pfn % CHUNK_PAGES);
  return { start: toPfn(start), end: toPfn(start + CHUNK_PAGES) };
};
