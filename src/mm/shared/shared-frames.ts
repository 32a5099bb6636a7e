// SharedFrames: what belongs to frames, in one SharedArrayBuffer: the memory that exclusive pools of several threads own.
//
// Each chunk (1024 frames, 4 MiB) has one owner, a pool, and each pool is worked on by one thread. Only the owner reads
// and writes a chunk's records, with ordinary loads and stores: an allocation needs no lock and no atomic operation. All
// that is about the pool and not about frames (summaries, per-CPU rings, counters) is private memory of its thread.
//
//   thread A                         SharedArrayBuffer                          thread B
//   ┌──────────────────────┐   ┌───────────────────────────────────┐   ┌──────────────────────┐
//   │ rings, summaries,    │   │ chunk 0 │ 1 │ 2 │ 3 │ 4 │ 5 │ ...  │   │ rings, summaries,    │
//   │ nonzero, types,      │──>│    A    │ A │ - │ B │ A │ B │ owner │<──│ nonzero, types,      │
//   │ counters, mine[]     │   │ records │   │   │   │   │   │ heaps │   │ counters, mine[]     │
//   └──────────────────────┘   │ freed by others, bells, wishes    │   └──────────────────────┘
//                              └───────────────────────────────────┘
//
//   column      type   length              meaning                                                       zero means
//   header      Int32  16                  [0] magic, [1] chunks, [2] pools, [3] chunks of nobody
//   line        Int32  16 * pools          a cache line a pool: [0] bell, [1] wish, [2] attached,         nothing
//                                              [3] its thread sleeps, or is about to
//   owner       Int32  chunks              the owner word, below                                          nobody's
//   attention0  Int32  pools * words0      bit c: pool, look at chunk c (hand-over.ts)                    nothing new
//   attention1  Int32  pools * words1      bit w: word w of attention0 is not zero
//   freedWords  Int32  pageblocks          bit w: word w of `freed` is not zero                           none
//   freed       Int32  32 * pageblocks     freed by others, not yet taken in: a heap like a record        none
//   record      Int32  32 * pageblocks     the free area's heaps (free-area-address.ts), 128 bytes each   nothing free
//
//   owner word   31 ... 15 │ 14    │ 13 .. 11        │ 10 .. 8          │ 7 .. 0
//                    0     │ whole │ type ^ 1 of odd │ type ^ 1 of even │ pool + 1, 0: nobody
//
// `whole` and the types are written at a hand-over and hold until the next owner adopts; from then on its private
// columns say it. A chunk of nobody is all free and Movable with records of zero, so that a new buffer, all zeros, is a
// memory of which everything is in the reserve, and a terabyte starts without touching its tables.
//
// Invariants (check, while no pool is attached): every frame is in a free chunk, freed by another and waiting, or in
// use, exactly one; a chunk of nobody has no record and nothing waiting; the reserve counts the chunks of nobody.
//
// After Snook 2007 ("By keeping them exclusive of each other, and allowing pages or groups of pages to be moved between
// them when necessary, we reduce the amount of locking necessary for common-case operations"); spec 9.A semantics 1 to 3.

import { assert } from '#base/assert';
import { createAddressArea, RECORD_WORDS } from '../free-area-address.ts';
import { columnBytes } from '../free-area-columns.ts';
import { CHUNK_PAGES, PAGEBLOCK_PAGES } from '../geometry.ts';

/** Pools of one memory; the owner word has eight bits for pool + 1. */
export const MAX_SHARED_POOLS = 64;

const MAGIC = 0x646d7231; // "dmr1"
const HEADER_WORDS = 16;
const LINE_WORDS = 16; // 64 bytes: no two pools ring bells in one cache line
/** Words of `header`. */
export const RESERVE = 3;
/** Words of a pool's line. */
export const BELL = 0;
export const WISH = 1;
export const ATTACHED = 2;
export const SLEEPS = 3;

const WHOLE = 1 << 14;

export type SharedFrames = {
  readonly buffer: SharedArrayBuffer;
  /** Frames, a multiple of 1024. A frame is named by its index, 0 <= i < pages. */
  readonly pages: number;
  readonly chunks: number;
  readonly pools: number;
  /** The pool that owns the chunk of frame i, -1: nobody. Another thread may change it at any time. */
  ownerOf(i: number): number;
  /** Chunks that nobody owns. */
  reserve(): number;
  /**
   * What each frame is, while no pool is attached: 0 used, 1 free, 2 freed by another and not yet taken in. Anything
   * that is wrong goes into `wrong`, in words. Cost O(pages).
   */
  survey(wrong?: string[]): Uint8Array;
  /** Violations of the invariants, in words; empty when sound. No pool may be attached. Cost O(pages). */
  check(): string[];
  /** @internal */
  readonly words: SharedWords;
};

/** @internal The columns. */
export type SharedWords = {
  readonly chunks: number;
  readonly pools: number;
  readonly header: Int32Array;
  readonly line: Int32Array;
  readonly owner: Int32Array;
  /** A pool's part of attention0 and of attention1, in words: a whole number of cache lines. */
  readonly words0: number;
  readonly words1: number;
  readonly attention0: Int32Array;
  readonly attention1: Int32Array;
  readonly freedWords: Int32Array;
  readonly freed: Int32Array;
  readonly record: Int32Array;
};

/** Word of `line` for a pool. */
export const lineOf = (pool: number, word: number): number => pool * LINE_WORDS + word;

/** The owner word of a chunk that pool `pool` may adopt. Types 0..5 of its even and its odd pageblock. */
export const ownerWord = (pool: number, types: readonly [number, number], whole: boolean): number =>
  (pool + 1) | ((types[0] ^ 1) << 8) | ((types[1] ^ 1) << 11) | (whole ? WHOLE : 0);

/** The pool in an owner word, -1: nobody. */
export const ownerIn = (word: number): number => (word & 0xff) - 1;

/** What an owner word says of its chunk at a hand-over. */
export const chunkIn = (word: number): { readonly types: readonly [number, number]; readonly whole: boolean } => ({
  types: [((word >>> 8) & 7) ^ 1, ((word >>> 11) & 7) ^ 1],
  whole: (word & WHOLE) !== 0,
});

/**
 * A memory of `pages` frames that nobody owns: all of it is in the reserve.
 *
 * @param spec  pages: a multiple of 1024, at most 2^31; pools: 1 to 64. A wrong one throws.
 * @returns the memory; send `buffer` to the other threads and openSharedFrames there. Cost: about half a byte a page,
 *          virtual; nothing is touched but the header.
 */
export function createSharedFrames(spec: { readonly pages: number; readonly pools: number }): SharedFrames {
  const { pages, pools } = spec;
  assert(pages > 0 && pages % CHUNK_PAGES === 0 && pages <= 2 ** 31, 'shared memory is chunks of 1024 pages', {
    pages,
  });
  assert(Number.isInteger(pools) && pools >= 1 && pools <= MAX_SHARED_POOLS, 'shared memory has 1 to 64 pools', {
    pools,
  });
  const chunks = pages / CHUNK_PAGES;
  const buffer = new SharedArrayBuffer(columnBytes(columnWords(chunks, pools).map((words) => words * 4)));
  const words = wordsOf(buffer, chunks, pools);
  words.header.set([MAGIC, chunks, pools, chunks]);
  return framesOf(buffer, words);
}

/** The same memory in another thread. A buffer that createSharedFrames did not make throws. */
export function openSharedFrames(buffer: SharedArrayBuffer): SharedFrames {
  const [magic, chunks, pools] = new Int32Array(buffer, 0, HEADER_WORDS);
  assert(magic === MAGIC && chunks !== undefined && pools !== undefined, 'not a buffer of shared frames', { magic });
  return framesOf(buffer, wordsOf(buffer, chunks, pools));
}

const lines = (words: number): number => Math.ceil(words / LINE_WORDS) * LINE_WORDS;

/** Lengths of the columns, in words, in their order. Two pools never have attention in one cache line. */
function columnWords(chunks: number, pools: number): number[] {
  const blocks = chunks * 2;
  const words0 = lines(Math.ceil(chunks / 32));
  const words1 = lines(Math.ceil(chunks / 1024));
  const heaps = blocks * RECORD_WORDS;
  return [HEADER_WORDS, LINE_WORDS * pools, chunks, pools * words0, pools * words1, blocks, heaps, heaps];
}

function wordsOf(buffer: SharedArrayBuffer, chunks: number, pools: number): SharedWords {
  const lengths = columnWords(chunks, pools);
  let at = 0;
  const [header, line, owner, attention0, attention1, freedWords, freed, record] = lengths.map((length) => {
    const column = new Int32Array(buffer, at, length);
    at += columnBytes([length * 4]);
    return column;
  }) as [Int32Array, Int32Array, Int32Array, Int32Array, Int32Array, Int32Array, Int32Array, Int32Array];
  const words0 = attention0.length / pools;
  const words1 = attention1.length / pools;
  return {
    chunks,
    pools,
    header,
    line,
    owner,
    words0,
    words1,
    attention0,
    attention1,
    freedWords,
    freed,
    record,
  };
}

function framesOf(buffer: SharedArrayBuffer, words: SharedWords): SharedFrames {
  const { chunks, pools, owner, header } = words;
  const pages = chunks * CHUNK_PAGES;
  const survey = (wrong: string[] = []): Uint8Array => surveyOf(words, wrong);
  return {
    buffer,
    pages,
    chunks,
    pools,
    ownerOf: (i) => ownerIn(Atomics.load(owner, Math.floor(i / CHUNK_PAGES))),
    reserve: () => Atomics.load(header, RESERVE),
    survey,
    check() {
      const wrong: string[] = [];
      survey(wrong);
      return wrong;
    },
    words,
  };
}

function surveyOf(words: SharedWords, wrong: string[]): Uint8Array {
  const { chunks, pools, owner, line, header, record, freed, freedWords } = words;
  for (let p = 0; p < pools; p++) {
    assert(Atomics.load(line, lineOf(p, ATTACHED)) === 0, 'a pool is attached: its counters are private', { pool: p });
  }
  const pages = chunks * CHUNK_PAGES;
  const area = createAddressArea(pages, 'address', 'shared', { record: record.slice() });
  const state = new Uint8Array(pages);
  let reserve = 0;
  for (let c = 0; c < chunks; c++) {
    const word = owner[c] as number;
    const { types, whole } = chunkIn(word);
    const isEmpty = (heap: Int32Array): boolean =>
      heap.subarray(c * 2 * RECORD_WORDS, (c + 1) * 2 * RECORD_WORDS).every((w) => w === 0);
    if (ownerIn(word) < 0) {
      reserve++;
      if (word !== 0) wrong.push(`chunk ${c} is nobody's, its word says ${word}`);
    } else if (ownerIn(word) >= pools) wrong.push(`chunk ${c} is owned by pool ${ownerIn(word)} of ${pools}`);
    if (whole || word === 0) {
      if (!isEmpty(record)) wrong.push(`chunk ${c} is one free chunk, and has records`);
      if (!isEmpty(freed)) wrong.push(`chunk ${c} is one free chunk, and has frames that were freed by others`);
    }
    area.adoptChunk(c * CHUNK_PAGES, types, whole || word === 0);
  }
  if (reserve !== header[RESERVE]) wrong.push(`${reserve} chunks are nobody's, the reserve says ${header[RESERVE]}`);
  wrong.push(...area.check());
  area.forEachFree(0, pages, (i, order) => state.fill(1, i, i + 2 ** order));
  for (let b = 0; b < chunks * 2; b++) {
    for (let w = 0; w < RECORD_WORDS; w++) {
      if ((freed[b * RECORD_WORDS + w] !== 0) !== (((freedWords[b] as number) >>> w) % 2 === 1)) {
        wrong.push(`pageblock ${b}: word ${w} of what others freed and its summary differ`);
      }
    }
    forEachInHeap(freed, b, (i, order) => {
      for (let k = i; k < i + 2 ** order; k++) {
        if (state[k] !== 0) wrong.push(`frame ${k} was freed by another, and is free already (${state[k]})`);
        state[k] = 2;
      }
    });
  }
  return state;
}

/** Calls back for each set bit of pageblock b's heap (free-area-address.ts: the record's layout). */
function forEachInHeap(heap: Int32Array, b: number, each: (i: number, order: number) => void): void {
  for (let w = 0; w < RECORD_WORDS; w++) {
    for (let left = heap[b * RECORD_WORDS + w] as number; left !== 0; left &= left - 1) {
      const { i, order } = frameInHeap(b, w * 32 + 31 - Math.clz32(left & -left));
      each(i, order);
    }
  }
}

/** The chunk of frames that bit `bit` (0 to 1022) of pageblock b's heap stands for. */
export function frameInHeap(b: number, bit: number): { readonly i: number; readonly order: number } {
  const order = Math.clz32(~(bit << 22)); // ten bits: as many leading ones as its order
  return { i: b * PAGEBLOCK_PAGES + (bit - (1024 - (1024 >> order))) * 2 ** order, order };
}
