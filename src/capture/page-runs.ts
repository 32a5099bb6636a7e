// PageRuns: one 64-bit word per frame (/proc/kpageflags, kpagecount, kpagecgroup), as runs of equal words.
//
//   startPfn  Float64  [n]   first frame of run k; ascending; startPfn[0] = 0
//   word      Uint32   [n]   index into the dictionary
//   lo, hi    Uint32   [d]   the dictionary: the two halves of each distinct word (never a BigInt in a loop)
//   endPfn    number         end of the last run (half-open): frames the file had
//
//   frames  0      1      2      3      4      5      6            startPfn  0  1  4
//         | 0x400| 0x68 | 0x68 | 0x68 | 0x400| 0x400|        =>    word      0  1  0        lo  0x400  0x68
//         endPfn ------------------------------------^             endPfn 6                 hi  0      0
//
// Neighbouring runs have different words. The dictionary holds each word once, in the order in which it first appears,
// and no word that is not used: equal contents are equal columns, and equal bytes when encoded. A 24 GiB host has about
// 140 thousand runs of 170 words, a 1 TiB host is the same columns, longer: 12 bytes a run.
//
// Spec 7 (/proc/kpageflags); docs/formats/capture.md draws the encoding.

import { assert } from '#base/assert';
import { ByteReader, ByteWriter } from './bytes.ts';

export type PageRuns = {
  readonly length: number;
  readonly startPfn: Float64Array;
  readonly word: Uint32Array;
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
  readonly endPfn: number;
};

/** No machine has more frames: 52 bits of physical address are 2^40 frames of 4 KiB. */
const FRAMES_MAX = 2 ** 40;

/**
 * Builds runs from words in frame order. Holds the runs only, never the words: a 1 TiB host streams 2 GiB through it.
 *
 * `push` takes what the kernel gives, chunk by chunk; `pushRun` a whole run. Both may be mixed.
 */
export class RunBuilder {
  #startPfn = new Float64Array(1024);
  #word = new Uint32Array(1024);
  #length = 0;
  #endPfn = 0;
  readonly #dictionary = new Dictionary();
  /** The word of the open run as two int32; meaningless while #length is 0. */
  #openLo = 0;
  #openHi = 0;

  /** Frames so far. */
  get endPfn(): number {
    return this.#endPfn;
  }

  /**
   * Adds `frames` words; `pairs` holds lo, hi, lo, hi, ... and may be reused by the caller afterwards.
   * Cost: 1 to 2 ns a frame, plus about 20 ns where the word changes.
   */
  push(pairs: Uint32Array, frames: number): void {
    assert(frames >= 0 && frames * 2 <= pairs.length, 'more frames than words', { frames, room: pairs.length });
    if (frames === 0) return;
    const base = this.#endPfn;
    if (this.#length === 0) this.#open(base, pairs[0], pairs[1]);
    let lo = this.#openLo;
    let hi = this.#openHi;
    for (let i = 0, at = 0; i < frames; i++, at += 2) {
      // Halves are compared as int32: one test for both, and no double leaves the loop.
      if (((pairs[at] ^ lo) | (pairs[at + 1] ^ hi)) === 0) continue;
      this.#open(base + i, pairs[at], pairs[at + 1]);
      lo = this.#openLo;
      hi = this.#openHi;
    }
    this.#endPfn = base + frames;
  }

  /** Adds `frames` frames of one word. Cost O(1). */
  pushRun(lo: number, hi: number, frames: number): void {
    assert(frames >= 0, 'a run of negative length', { frames });
    if (frames === 0) return;
    if (this.#length === 0 || ((lo ^ this.#openLo) | (hi ^ this.#openHi)) !== 0) this.#open(this.#endPfn, lo, hi);
    this.#endPfn += frames;
  }

  finish(): PageRuns {
    assert(this.#endPfn <= FRAMES_MAX, 'more frames than any machine has', { frames: this.#endPfn });
    return {
      length: this.#length,
      startPfn: this.#startPfn.slice(0, this.#length),
      word: this.#word.slice(0, this.#length),
      lo: this.#dictionary.lo.slice(0, this.#dictionary.length),
      hi: this.#dictionary.hi.slice(0, this.#dictionary.length),
      endPfn: this.#endPfn,
    };
  }

  #open(pfn: number, lo: number, hi: number): void {
    if (this.#length === this.#word.length) {
      this.#startPfn = grownFloat64(this.#startPfn);
      this.#word = grownUint32(this.#word);
    }
    this.#startPfn[this.#length] = pfn;
    this.#word[this.#length] = this.#dictionary.add(lo, hi);
    this.#length++;
    this.#openLo = lo | 0;
    this.#openHi = hi | 0;
  }
}

/** Distinct words in the order of their first appearance. Columns grow; `length` of their rows are in use. */
class Dictionary {
  lo = new Uint32Array(64);
  hi = new Uint32Array(64);
  length = 0;
  /** Open addressing, a power of two, at most half full; a slot holds an index, or -1. */
  #slots = new Int32Array(128).fill(-1);

  /** Index of the word, which is added where it is new. Cost O(1). */
  add(lo: number, hi: number): number {
    const mask = this.#slots.length - 1;
    let slot = hashOf(lo, hi) & mask;
    for (let at = this.#slots[slot]; at >= 0; at = this.#slots[slot]) {
      if (((this.lo[at] ^ lo) | (this.hi[at] ^ hi)) === 0) return at;
      slot = (slot + 1) & mask;
    }
    if (this.length === this.lo.length) {
      this.lo = grownUint32(this.lo);
      this.hi = grownUint32(this.hi);
    }
    const index = this.length++;
    this.lo[index] = lo;
    this.hi[index] = hi;
    this.#slots[slot] = index;
    if (this.length * 2 > this.#slots.length) this.#rehash();
    return index;
  }

  #rehash(): void {
    const slots = new Int32Array(this.#slots.length * 2).fill(-1);
    const mask = slots.length - 1;
    for (let index = 0; index < this.length; index++) {
      let slot = hashOf(this.lo[index], this.hi[index]) & mask;
      while (slots[slot] >= 0) slot = (slot + 1) & mask;
      slots[slot] = index;
    }
    this.#slots = slots;
  }
}

function hashOf(lo: number, hi: number): number {
  let h = Math.imul(lo, 0x9e3779b1) ^ Math.imul(hi, 0x85ebca6b);
  h ^= h >>> 15;
  h = Math.imul(h, 0xc2b2ae35);
  return h ^ (h >>> 13);
}

function grownUint32(column: Uint32Array): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(column.length * 2);
  larger.set(column);
  return larger;
}

function grownFloat64(column: Float64Array): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(column.length * 2);
  larger.set(column);
  return larger;
}

/** Runs from explicit (lo, hi, frames) triples: for tests and for sources that are already runs. */
export function runsOf(triples: Iterable<readonly [lo: number, hi: number, frames: number]>): PageRuns {
  const builder = new RunBuilder();
  for (const [lo, hi, frames] of triples) builder.pushRun(lo, hi, frames);
  return builder.finish();
}

/** The run that holds a frame, or -1 outside [0, endPfn). Cost O(log runs). */
export function runAt(runs: PageRuns, pfn: number): number {
  if (pfn < 0 || pfn >= runs.endPfn) return -1;
  const { startPfn } = runs;
  let low = 0;
  let high = runs.length; // startPfn[low] <= pfn < startPfn[high], with startPfn[length] = endPfn
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (startPfn[middle] <= pfn) low = middle;
    else high = middle;
  }
  return low;
}

/** The word of a frame as an index into `runs.lo` and `runs.hi`, or -1 outside [0, endPfn). Cost O(log runs). */
export function wordAt(runs: PageRuns, pfn: number): number {
  const run = runAt(runs, pfn);
  return run < 0 ? -1 : runs.word[run];
}

/**
 * Calls back for each run in [startPfn, endPfn), ascending, cut at both ends; `word` indexes `runs.lo` and `runs.hi`.
 * A range that reaches outside the file is clipped to it. Cost O(log runs + runs in the range).
 */
export function forEachRun(
  runs: PageRuns,
  startPfn: number,
  endPfn: number,
  each: (startPfn: number, endPfn: number, word: number) => void,
): void {
  const end = Math.min(endPfn, runs.endPfn);
  let start = Math.max(startPfn, 0);
  if (start >= end) return;
  for (let run = runAt(runs, start); start < end; run++) {
    const next = run + 1 < runs.length ? runs.startPfn[run + 1] : runs.endPfn;
    const stop = Math.min(next, end);
    each(start, stop, runs.word[run]);
    start = stop;
  }
}

/**
 * `runs` with [startPfn, startPfn + patch.endPfn) replaced by `patch`; it grows when the patch reaches past the end.
 * Used to put a memory block's own flags over an older reading of the whole machine.
 *
 * The caller promises 0 <= startPfn <= runs.endPfn: a gap has no word. Cost O(runs of both).
 */
export function overlay(runs: PageRuns, startPfn: number, patch: PageRuns): PageRuns {
  assert(startPfn >= 0 && startPfn <= runs.endPfn, 'a patch must touch the file', { startPfn, endPfn: runs.endPfn });
  const builder = new RunBuilder();
  const copy = (from: PageRuns, start: number, end: number): void =>
    forEachRun(from, start, end, (s, e, word) => builder.pushRun(from.lo[word], from.hi[word], e - s));
  copy(runs, 0, startPfn);
  copy(patch, 0, patch.endPfn);
  copy(runs, startPfn + patch.endPfn, runs.endPfn);
  return builder.finish();
}

/**
 * Runs as bytes: the dictionary, then the word indexes, then the lengths. Indexes and lengths are columns of their own
 * because gzip finds more in each than in the two interleaved (host of 24 GiB: 21.9 kB against 23.6 kB).
 */
export function encodeRuns(runs: PageRuns): Uint8Array {
  const out = new ByteWriter(64 + runs.lo.length * 8 + runs.length * 3);
  out.varint(runs.lo.length);
  for (let i = 0; i < runs.lo.length; i++) {
    out.u32(runs.lo[i]);
    out.u32(runs.hi[i]);
  }
  out.varint(runs.length);
  for (let run = 0; run < runs.length; run++) out.varint(runs.word[run]);
  for (let run = 0; run < runs.length; run++) {
    const next = run + 1 < runs.length ? runs.startPfn[run + 1] : runs.endPfn;
    out.varint(next - runs.startPfn[run]);
  }
  return out.finish();
}

/**
 * The runs that `encodeRuns` wrote, or undefined for anything else. Safe on hostile bytes: every count is
 * checked against the bytes that are left before anything is allocated, so memory stays within a small multiple of the
 * input. Accepts exactly one encoding of each content.
 */
export function decodeRuns(bytes: Uint8Array): PageRuns | undefined {
  const from = new ByteReader(bytes);
  const words = from.varint();
  if (words * 8 > from.left) return undefined;
  const lo = new Uint32Array(words);
  const hi = new Uint32Array(words);
  const seen = new Dictionary();
  for (let i = 0; i < words; i++) {
    lo[i] = from.u32();
    hi[i] = from.u32();
    if (seen.add(lo[i], hi[i]) !== i) return undefined; // the word was there before
  }

  const length = from.varint();
  if (length * 2 > from.left) return undefined;
  const word = new Uint32Array(length);
  let used = 0;
  for (let run = 0; run < length; run++) {
    const index = from.varint();
    if (index > used || index >= words || (run > 0 && index === word[run - 1])) return undefined;
    if (index === used) used++;
    word[run] = index;
  }
  if (used !== words) return undefined;

  const startPfn = new Float64Array(length);
  let pfn = 0;
  for (let run = 0; run < length; run++) {
    startPfn[run] = pfn;
    const frames = from.varint();
    if (frames === 0) return undefined; // also what a reader gone bad returns
    pfn += frames;
    if (pfn > FRAMES_MAX) return undefined;
  }
  return from.bad || from.left > 0 ? undefined : { length, startPfn, word, lo, hi, endPfn: pfn };
}
