// ExclusivePool: a pool of shared frames that one thread works on: the engine's allocator over the chunks that it owns.
//
//   alloc ──> PageAlloc: ring ─ empty ─> look at the bell ─> area ─ fallback ──> frame
//                                          └─ nothing left: a chunk of the reserve, else a wish, and -1
//   free ───> PageAlloc: whose pageblock? ─┬─ mine: ring, area
//                                          └─ another's looks isolated ─> past the rings ─> hand-over.ts
//
// A request for a single frame is PageAlloc's own code, and nothing else: what is particular to shared frames hangs
// behind it, where it asks the free area. At a refill, at every 64th larger request and when nothing fits, the pool
// looks for chunks that came, frames that others freed, and wishes of others. A thread that allocates nothing for long
// calls look() itself.
//
//   a wish is fulfilled from   wholly free chunks, lowest first (cost 0: nothing of them is in use)
//                              else, where any chunk will do, the one with the most free frames; its used frames go along
//
// The allocator is PageAlloc and its free area as everywhere (page-alloc.ts, free-area-address.ts); only the records lie
// in shared memory. What is not owned looks to them like pageblocks of type Isolate that are all in use: no summary
// leads there, and a frame that is freed there goes past the rings, to where this file tells mine from another's.
//
//   column   type    length    meaning                                            zero means
//   mine     Uint8   chunks    1: adopted, and not given away                     another's, nobody's, or on its way
//
// Invariants (check): those of PageAlloc over the records of the pool's own chunks; a chunk that is mine has this pool
// in its owner word; ring frames lie in chunks that are mine; managed = 1024 * chunks that are mine; a chunk is given
// only if `min` frames are free afterwards.
// One thread that drives several pools gets the same frames for the same calls, always: nothing here waits or chooses
// by chance. Between threads the order of arrival is the machine's.
//
// After Snook 2007 (exclusive pools, problem 9: the cheapest chunk); spec 9.A semantics 1 to 5.

import { assert } from '#base/assert';
import type { ErrnoName } from '#base/errno';
import { err, ok, type Result } from '#base/result';
import type { Code } from '#base/specialise';
import { specialise } from '#base/specialise';
import { createAddressArea, RECORD_WORDS } from '../free-area-address.ts';
import { addressReads } from '../free-area-address-read.ts';
import {
  CHUNK_PAGES,
  MAX_ORDER,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  MIGRATE_RECLAIMABLE,
  MIGRATE_UNMOVABLE,
  NR_PCP_TYPES,
  PAGEBLOCK_PAGES,
} from '../geometry.ts';
import { createPageAlloc, type PageAlloc } from '../page-alloc.ts';
import { HandOver, WISH_ANY, WISH_NONE, WISH_WHOLE } from './hand-over.ts';
import { ATTACHED, chunkIn, lineOf, ownerIn, ownerWord, type SharedFrames } from './shared-frames.ts';

export type ExclusivePoolSpec = {
  /** Which pool of the memory, 0 to pools - 1. One thread has it at a time. */
  readonly pool: number;
  /** Free frames that this pool never gives away. Default 0. */
  readonly min?: number;
  /** Frames per refill and spill of the ring, and frames it keeps. Default 63 and 252, as Linux for large zones. */
  readonly batch?: number;
  readonly high?: number;
  /** 'own' machine code (default), or 'shared' (base/specialise.ts). */
  readonly code?: Code;
};

/**
 * Why a pool says no.
 *
 *   no-such-pool  ENOENT  the memory has no pool of that number
 *   attached      EBUSY   a thread has this pool already (or had, and ended without detach)
 *   not-owner     EACCES  the chunk is not this pool's
 *   guarantee     ENOSPC  fewer than `min` frames would be free afterwards
 *   in-use        EBUSY   the reserve takes chunks that are wholly free
 */
export type ShareRefusal = {
  readonly reason: 'no-such-pool' | 'attached' | 'not-owner' | 'guarantee' | 'in-use';
  readonly errno: ErrnoName;
  readonly pool: number;
  readonly chunk?: number;
  /** Free frames of the pool, and of the chunk. */
  readonly free?: number;
  readonly freeInChunk?: number;
};

export type ExclusivePoolStat = {
  /** Frames of its chunks. */
  readonly managed: number;
  /** Free frames, those on rings among them; frames that others freed count when they are taken in. */
  readonly free: number;
  readonly chunksGiven: number;
  readonly chunksAdopted: number;
  readonly chunksFromReserve: number;
  /** Frames that this pool freed for others, and others for it. */
  readonly freedForOthers: number;
  readonly freedByOthers: number;
  readonly wishes: number;
  readonly wishesFulfilled: number;
};

export interface ExclusivePool {
  readonly pool: number;
  readonly min: number;
  readonly frames: SharedFrames;

  /**
   * Takes 2^order frames, 0 to 10, of type Unmovable, Movable or Reclaimable. @returns the index of the first, aligned;
   * -1: nothing fits, the reserve is empty, and the others have been asked for a chunk: look again later (waitForBell).
   */
  alloc(order: number, mt: number): number;
  /** Frees 2^order frames at i, of whatever pool they are. Freeing twice is a bug: it throws where it is noticed. */
  free(i: number, order: number): void;

  /** Adopts chunks that came, takes in what others freed, fulfils wishes of others. @returns chunks looked at. */
  look(): number;
  /** Takes up to so many chunks from the reserve. @returns how many. */
  take(chunks: number): number;
  /** Hands the chunk of frame i over, with all that is used in it. Frames on rings go to the free area first. */
  give(i: number, to: number): Result<void, ShareRefusal>;
  /** A chunk that is wholly free goes to the reserve. */
  giveBack(i: number): Result<void, ShareRefusal>;
  /** Any frame of the chunk that is cheapest to give, -1: none. `whole`: only one that is wholly free. */
  cheapest(whole: boolean): number;
  /** Wishes for one chunk; any, or a wholly free one. Another may fulfil it when it looks. Replaces the last wish. */
  wish(what: 'any' | 'whole' | 'none'): void;
  /** Sleeps until the bell rings or the time is over. Not where Atomics.wait is forbidden: a browser's main thread. */
  waitForBell(timeoutMs: number): 'rung' | 'timed-out';
  /**
   * Ends the work of this thread: rings are emptied, each chunk's state is written to its owner word. The pool keeps its
   * chunks; another thread may attach. Afterwards every verb throws.
   */
  detach(): void;

  stat(): ExclusivePoolStat;
  /** Violations in words; empty when sound. Cost O(pages). */
  check(): string[];
  /** @internal Changed through the pool only. */
  readonly allocator: PageAlloc;
}

/** PageAlloc's counters by migrate type: 0 the fallback types, 1 HighAtomic, 2 CMA, 3 Isolate. */
const ISOLATED = 3;
const bucketOf = (mt: number): number => (mt < NR_PCP_TYPES ? 0 : mt - 2);
/** Requests past the rings between two looks at the bell: about as many as a ring serves. */
const LOOK_EVERY = 64;
const chunkOf = (i: number): number => Math.floor(i / CHUNK_PAGES);

/**
 * The calling thread becomes the one that works on a pool. It adopts the chunks that the pool has from before.
 *
 * @returns the pool, or why not: no-such-pool, attached. A wrong number in the spec throws. Cost O(chunks); with code 'own'
 *          the compilation, milliseconds.
 */
export function attachPool(frames: SharedFrames, spec: ExclusivePoolSpec): Result<ExclusivePool, ShareRefusal> {
  const { pool, min = 0 } = spec;
  assert(Number.isInteger(min) && min >= 0, 'min is a number of frames', { min });
  if (!Number.isInteger(pool) || pool < 0 || pool >= frames.pools)
    return err({ reason: 'no-such-pool', errno: 'ENOENT', pool });
  const { line } = frames.words;
  if (Atomics.compareExchange(line, lineOf(pool, ATTACHED), 0, 1) !== 0)
    return err({ reason: 'attached', errno: 'EBUSY', pool });
  return ok(openPool(frames, { ...spec, min }));
}

function openPool(frames: SharedFrames, spec: ExclusivePoolSpec & { readonly min: number }): ExclusivePool {
  const { pool: me, min, batch = 63, high = 252, code = 'own' } = spec;
  const { words, pages, chunks, pools } = frames;
  const { line, owner } = words;
  const mine = new Uint8Array(new ArrayBuffer(Math.max(chunks, 128))); // an explicit buffer: see free-area-columns.ts
  let attached = true;
  /** [0] 1: it has wished, and got no frame from its free area since. */
  const wishing = new Uint8Array(new ArrayBuffer(128)); // an explicit buffer: see free-area-columns.ts
  let nrChunks = 0;
  let nextInReserve = Math.floor((chunks * me) / pools); // pools start apart, so that each has a region
  const nr = {
    chunksGiven: 0,
    chunksAdopted: 0,
    chunksFromReserve: 0,
    freedForOthers: 0,
    freedByOthers: 0,
    wishes: 0,
    wishesFulfilled: 0,
  };

  const area = createAddressArea(pages, 'address', code, { record: words.record });
  area.columns.type.fill(MIGRATE_ISOLATE ^ MIGRATE_MOVABLE);
  /** The tables as this pool may see them: the records of others are none of its business, and change under its eyes. */
  const ownReads = () => {
    const record = words.record.slice();
    const type = area.columns.type.slice();
    for (let c = 0; c < chunks; c++) {
      if (mine[c] === 1) continue;
      record.fill(0, c * 2 * RECORD_WORDS, (c + 1) * 2 * RECORD_WORDS);
      type.fill(0, c * 2, (c + 1) * 2);
    }
    return addressReads({ ...area.columns, record, type });
  };
  const capacity = 2 ** Math.ceil(Math.log2(Math.max(high + 1, batch)));
  const alloc = createPageAlloc(
    {
      ...area,
      allocBulk(mt, ring, at, mask, count) {
        // A refill begins at its ring's first slot. Later in it frames are on their way to the ring that no drain()
        // finds, so that no chunk may be given away then.
        if ((at & (capacity - 1)) === 0) beforeRefill();
        return area.allocBulk(mt, ring, at, mask, count);
      },
      free(i, order, tail) {
        if (mine[i >>> 10] === 1) area.free(i, order, tail);
        else freeElsewhere(i, order);
      },
      count: (out) => ownReads().count(out),
      check: () => ownReads().check(),
    },
    { cpus: 1, batch, high, capacity, code },
  );

  /** The counters of PageAlloc follow a chunk that comes (+1) or goes (-1). */
  function countChunk(chunk: number, by: 1 | -1): void {
    for (let i = chunk * CHUNK_PAGES; i < (chunk + 1) * CHUNK_PAGES; i += PAGEBLOCK_PAGES) {
      const bucket = bucketOf(area.typeOf(i));
      const counters = alloc.columns.nr;
      counters[bucket] = (counters[bucket] as number) + by * area.freeIn(i, i + PAGEBLOCK_PAGES);
    }
    nrChunks += by;
  }

  function adopt(chunk: number, word: number): void {
    const { types, whole } = chunkIn(word);
    area.adoptChunk(chunk * CHUNK_PAGES, types, whole);
    mine[chunk] = 1;
    countChunk(chunk, 1);
  }

  const hand = new HandOver(words, me, {
    isMine: (chunk) => mine[chunk] === 1,
    adopt(chunk, word) {
      adopt(chunk, word);
      nr.chunksAdopted++;
    },
    freed(i, order) {
      alloc.freeToArea(i, order);
      nr.freedByOthers += 2 ** order;
    },
  });

  /** G1 of hand-over.ts: the chunk leaves what is private. @returns what the next owner has to know. */
  function letGo(chunk: number): { types: readonly [number, number]; whole: boolean } {
    const i = chunk * CHUNK_PAGES;
    const types = [area.typeOf(i), area.typeOf(i + PAGEBLOCK_PAGES)] as const;
    countChunk(chunk, -1);
    const whole = area.releaseChunk(i);
    mine[chunk] = 0;
    return { types, whole };
  }

  const isWhole = (chunk: number): boolean => area.orderAt(chunk * CHUNK_PAGES) === MAX_ORDER;

  /** May the chunk go? With nothing of it left on the rings. */
  function refusal(chunk: number): ShareRefusal | undefined {
    if (mine[chunk] !== 1) return { reason: 'not-owner', errno: 'EACCES', pool: me, chunk };
    if (!isWhole(chunk)) alloc.drain();
    const free = alloc.nrFree() + alloc.pcpPages();
    const freeInChunk = area.freeIn(chunk * CHUNK_PAGES, (chunk + 1) * CHUNK_PAGES);
    if (free - freeInChunk >= min) return undefined;
    return { reason: 'guarantee', errno: 'ENOSPC', pool: me, chunk, free, freeInChunk };
  }

  function give(i: number, to: number): Result<void, ShareRefusal> {
    if (!Number.isInteger(to) || to < 0 || to >= pools || to === me)
      return err({ reason: 'no-such-pool', errno: 'ENOENT', pool: to });
    const chunk = chunkOf(i);
    const no = refusal(chunk);
    if (no !== undefined) return err(no);
    const { types, whole } = letGo(chunk);
    hand.give(chunk, to, types, whole);
    nr.chunksGiven++;
    return ok(undefined);
  }

  function giveBack(i: number): Result<void, ShareRefusal> {
    const chunk = chunkOf(i);
    const no = refusal(chunk);
    if (no !== undefined) return err(no);
    if (!isWhole(chunk)) return err({ reason: 'in-use', errno: 'EBUSY', pool: me, chunk });
    alloc.setPageblockType(chunk * CHUNK_PAGES, MIGRATE_MOVABLE);
    letGo(chunk);
    hand.giveToReserve(chunk);
    nr.chunksGiven++;
    return ok(undefined);
  }

  function cheapest(whole: boolean): number {
    let lowest = -1;
    for (let mt = 0; mt < NR_PCP_TYPES; mt++) {
      const i = area.first(MAX_ORDER, mt);
      if (i >= 0 && (lowest < 0 || i < lowest)) lowest = i;
    }
    if (lowest >= 0 || whole) return lowest;
    let most = 0;
    for (let c = mine.indexOf(1); c >= 0; c = mine.indexOf(1, c + 1)) {
      const free = area.freeIn(c * CHUNK_PAGES, (c + 1) * CHUNK_PAGES);
      if (free <= most) continue;
      most = free;
      lowest = c * CHUNK_PAGES;
    }
    return lowest;
  }

  /**
   * Gives one chunk to each pool with a wish, as far as `min` and `need` frames stay; what is left open is looked at
   * again. A pool that wishes itself gives nothing until it has been served: two that are short would pass the one
   * chunk that there is to and fro, and neither would ever have a frame.
   */
  function fulfilWishes(need: number): void {
    if (wishing[0] === 1) return;
    const keep = Math.max(min, need);
    let open = false;
    for (let p = 0; p < pools; p++) {
      if (p === me) continue;
      const what = hand.wishOf(p);
      if (what === WISH_NONE) continue;
      // With a chunk to spare any chunk may go, and one of them has something free: the search below is not in vain.
      const spare = (): boolean => alloc.nrFree() - CHUNK_PAGES >= keep;
      if (!spare() && alloc.nrFree() + alloc.pcpPages() - CHUNK_PAGES >= keep) alloc.drain();
      const i = spare() ? cheapest(what === WISH_WHOLE) : -1;
      if (i < 0) open = true;
      else if (hand.claimWish(p, what)) {
        const given = give(i, p);
        assert(given.ok, 'a chunk that could be spared is refused', { chunk: chunkOf(i), to: p });
        nr.wishesFulfilled++;
      }
    }
    hand.wished = open;
  }

  function look(need = 0): number {
    assert(attached, 'the pool is detached', { pool: me });
    const looked = hand.look();
    if (hand.wished) fulfilWishes(need);
    return looked;
  }

  function take(count: number): number {
    assert(attached, 'the pool is detached', { pool: me });
    let taken = 0;
    while (taken < count) {
      const chunk = hand.takeFromReserve(nextInReserve);
      if (chunk < 0) break;
      adopt(chunk, ownerWord(me, [MIGRATE_MOVABLE, MIGRATE_MOVABLE], true));
      nextInReserve = (chunk + 1) % chunks;
      taken++;
    }
    nr.chunksFromReserve += taken;
    return taken;
  }

  function wish(what: 'any' | 'whole' | 'none'): void {
    assert(attached, 'the pool is detached', { pool: me });
    wishing[0] = what === 'none' ? 0 : 1;
    if (what !== 'none') nr.wishes++;
    hand.wish(what === 'none' ? WISH_NONE : what === 'whole' ? WISH_WHOLE : WISH_ANY);
  }

  /** Nothing fits. Bounded: one look, one chunk of the reserve, one wish. */
  function allocDry(order: number, mt: number): number {
    assert(attached && order >= 0 && order <= MAX_ORDER && mt >= 0 && mt < NR_PCP_TYPES, 'alloc: no such request', {
      order,
      mt,
      attached,
    });
    if (hand.look() > 0) {
      const i = alloc.alloc(order, mt);
      if (i >= 0) return i;
    }
    if (take(1) > 0) return alloc.alloc(order, mt); // a wholly free chunk serves any request
    wish('whole');
    return -1;
  }

  /** PageAlloc took the frames for isolated ones, and has counted them. */
  function freeElsewhere(i: number, order: number): void {
    assert(attached && Number.isInteger(i) && i >= 0 && i + 2 ** order <= pages, 'free: no such frames', { i, order });
    const counters = alloc.columns.nr;
    counters[ISOLATED] = (counters[ISOLATED] as number) - 2 ** order;
    hand.free(i, order);
    nr.freedForOthers += 2 ** order;
  }

  /** A ring is empty. With nothing left behind it a chunk has to come: one look, one chunk of the reserve, one wish. */
  function beforeRefill(): void {
    assert(attached, 'the pool is detached', { pool: me });
    hand.look();
    const left = area.orders(MIGRATE_UNMOVABLE) | area.orders(MIGRATE_MOVABLE) | area.orders(MIGRATE_RECLAIMABLE);
    if (left === 0) {
      if (take(1) > 0) wishing[0] = 0;
      else wish('any');
    } else {
      wishing[0] = 0; // this refill is served
      if (hand.wished) fulfilWishes(batch);
    }
  }

  const hot = specialise(poolCore, code)(alloc, { lookEvery: LOOK_EVERY, wishing, look, allocDry });

  function detach(): void {
    assert(attached, 'the pool is detached', { pool: me });
    hand.wish(WISH_NONE);
    alloc.drain();
    for (let c = mine.indexOf(1); c >= 0; c = mine.indexOf(1, c + 1)) {
      const { types, whole } = letGo(c);
      Atomics.store(owner, c, ownerWord(me, types, whole));
    }
    attached = false;
    Atomics.store(line, lineOf(me, ATTACHED), 0);
  }

  function check(): string[] {
    const wrong = alloc.check();
    let count = 0;
    for (let c = 0; c < chunks; c++) {
      if (mine[c] === 0) continue;
      count++;
      const of = ownerIn(Atomics.load(owner, c));
      if (of !== me) wrong.push(`chunk ${c} is pool ${me}'s, its owner word says ${of}`);
    }
    if (count !== nrChunks) wrong.push(`pool ${me} has ${count} chunks, it counts ${nrChunks}`);
    alloc.forEachPcp((_cpu, _mt, i) => {
      if (mine[chunkOf(i)] !== 1) wrong.push(`frame ${i} is on a ring of pool ${me}, its chunk is another's`);
    });
    return wrong;
  }

  // What the pool had before. A chunk that is on its way to it has the same owner word, and counts as come.
  for (let c = 0; c < chunks; c++) if (ownerIn(Atomics.load(owner, c)) === me) hand.lookAt(c);
  nr.chunksAdopted = 0;

  return {
    pool: me,
    min,
    frames,
    alloc: hot.alloc,
    free: alloc.free,
    look: () => look(),
    take,
    give,
    giveBack,
    cheapest,
    wish,
    waitForBell: (timeoutMs) => (hand.sleep(timeoutMs) ? 'rung' : 'timed-out'),
    detach,
    stat: () => ({ managed: nrChunks * CHUNK_PAGES, free: alloc.nrFree() + alloc.pcpPages(), ...nr }),
    check,
    allocator: alloc,
  };
}

/** Larger requests, as a factory by the contract of base/specialise.ts; single frames are PageAlloc's alone. */
function poolCore(
  allocator: PageAlloc,
  parts: {
    readonly lookEvery: number;
    readonly wishing: Uint8Array;
    readonly look: (need: number) => number;
    readonly allocDry: (order: number, mt: number) => number;
  },
): Pick<ExclusivePool, 'alloc'> {
  const { lookEvery, wishing, look, allocDry } = parts;
  const ownAlloc = allocator.alloc;
  let left = lookEvery;

  function alloc(order: number, mt: number): number {
    if (order === 0) return ownAlloc(0, mt, 0);
    if (--left < 0) {
      left = lookEvery;
      look(1 << order);
    }
    let i = ownAlloc(order, mt, 0);
    if (i < 0) i = allocDry(order, mt);
    if (i >= 0) wishing[0] = 0;
    return i;
  }

  return { alloc };
}
