// Hand-over: how a chunk and a freed frame cross from one thread to another without a lock, and nothing is lost.
//
// Three verbs cross: give a chunk, free a frame of a chunk that another owns, take from the reserve. All of them tell a
// pool "look at chunk c", by a bit; when it looks, the owner word says whether the chunk is its own, and the heap of
// freed frames says what there is to take in. The bit is a hint, the two others are the truth: looking once too often
// does nothing, and no order of arrival is wrong.
//
//   giver                               another, who frees frame i              owner, when its bell rings
//   G1 takes the chunk off its          F1 freed[word] |= bit    (was it 0?)    O1 bell, attention1, attention0: each
//      summaries (private)              F2 freedWords[b] |= word (was it 0?)       exchanged for 0, from the top down
//   G2 owner[c] = receiver + state      F3 p = owner[c]                         O2 is it owner[c]? then adopt (private)
//   G3 attention of receiver |= c,      F4 attention of p |= c, bell            O3 freedWords[b], then freed[word]: each
//      bell                                                                        exchanged for 0; frees what was there
//
//   A setter (F1, F2, F4, G3: four levels freed < freedWords < attention0 < attention1 < bell) sets from the bottom up,
//   and stops at the first word that was not zero: whoever made it so goes on, or has gone on, to the top.
//
// Why nothing is lost. All operations here are Atomics: sequentially consistent, one order of all of them.
//   1. A free without a hand-over: a word that is not zero is always under way: its setter has not reached the top yet,
//      or the level above has a bit, or the owner has taken that bit and is about to exchange the word. Hence a setter
//      that finds it not zero may stop: the exchange is still to come, and brings its bit along.
//   2. A free against a hand-over: if F3 reads the receiver, the receiver is told. If F3 reads the giver, F3 came before
//      G2, so F1 and F2 did; and the receiver looks at the heap (O3) after it has read G2's word (O2), so it finds the
//      bit. The giver is told in vain: the chunk is not its own, it does nothing.
//   3. A chunk given: G3 comes after G2, so that whoever takes the bit of G3 reads G2's word, or a later one: then the
//      receiver has adopted it before, by another hint, and given it on.
// Why nothing is done twice. A bit of `freed` is taken by one exchange. Only the owner exchanges, and a pool knows of
// itself that it is the owner: ownership leaves by its own act (G1). One that sets a bit that is set was the second to
// free that frame: a bug, it throws.
// Why ordinary loads and stores of records are right. The giver's come before G2, the receiver's after O2 has read it:
// an atomic store that an atomic load reads orders what is around them.
//
// `hand-over.test.ts` runs every interleaving of these steps for two and three threads (a free, two frees, a hand-over
// there and back), by giving `atomics` of its own.
//
// Costs: giving a chunk that is wholly free touches its owner word and three words of attention, no record. A free is
// one atomic operation when the word has one waiting, at most six. Looking for work costs one load.

import { assert } from '#base/assert';
import {
  BELL,
  frameInHeap,
  lineOf,
  ownerIn,
  ownerWord,
  RESERVE,
  type SharedWords,
  SLEEPS,
  WISH,
} from './shared-frames.ts';

/** What of Atomics is used: an argument, so that a test may stop between any two operations. */
export interface AtomicWords {
  load(words: Int32Array, index: number): number;
  store(words: Int32Array, index: number, value: number): number;
  or(words: Int32Array, index: number, bits: number): number;
  add(words: Int32Array, index: number, by: number): number;
  sub(words: Int32Array, index: number, by: number): number;
  exchange(words: Int32Array, index: number, value: number): number;
  compareExchange(words: Int32Array, index: number, expected: number, value: number): number;
  notify(words: Int32Array, index: number): number;
  wait(words: Int32Array, index: number, value: number, timeoutMs: number): 'ok' | 'not-equal' | 'timed-out';
}

/** What a pool does with what it finds. All of it is private to its thread. */
export type PoolDesk = {
  /** Is the chunk adopted, and not given away since? */
  isMine(chunk: number): boolean;
  /** The chunk becomes this pool's: `word` is its owner word. */
  adopt(chunk: number, word: number): void;
  /** 2^order frames at i of an adopted chunk were freed by another. */
  freed(i: number, order: number): void;
};

/** Bits of a bell: 0..15 that word w of attention1 with w % 16 has something, 16 that somebody has a wish. */
const BELL_WORDS = 16;
const BELL_WISH = 1 << 16;

/** What a pool wishes for; the value of its wish word. */
export const WISH_NONE = 0;
/** One chunk, whatever is free in it. */
export const WISH_ANY = 1;
/** One chunk that is wholly free. */
export const WISH_WHOLE = 2;

const lowestBit = (v: number): number => 31 - Math.clz32(v & -v);

export class HandOver {
  readonly me: number;
  readonly #words: SharedWords;
  readonly #desk: PoolDesk;
  readonly #atomics: AtomicWords;
  /** Somebody had a wish when the bell rang last. */
  wished = false;

  constructor(words: SharedWords, me: number, desk: PoolDesk, atomics: AtomicWords = Atomics) {
    this.me = me;
    this.#words = words;
    this.#desk = desk;
    this.#atomics = atomics;
  }

  /** G2, G3: the caller has done G1. `types` and `whole` are what the receiver has to know of the chunk. */
  give(chunk: number, to: number, types: readonly [number, number], whole: boolean): void {
    this.#atomics.store(this.#words.owner, chunk, ownerWord(to, types, whole));
    this.#tell(to, chunk);
  }

  /** The chunk, wholly free, Movable and off the caller's summaries, goes to the reserve. */
  giveToReserve(chunk: number): void {
    this.#atomics.store(this.#words.owner, chunk, 0);
    this.#atomics.add(this.#words.header, RESERVE, 1);
  }

  /**
   * A chunk of nobody, looked for from `start` on, becomes this pool's; it is not adopted yet. -1: there is none. The
   * counter is looked at first and may lag behind: a chunk that is just coming is found by the next call.
   */
  takeFromReserve(start: number): number {
    const { owner, header, chunks } = this.#words;
    const atomics = this.#atomics;
    if (atomics.load(header, RESERVE) <= 0) return -1;
    const mine = ownerWord(this.me, [1, 1], true);
    for (let k = 0; k < chunks; k++) {
      const c = start + k < chunks ? start + k : start + k - chunks;
      if (atomics.load(owner, c) !== 0 || atomics.compareExchange(owner, c, 0, mine) !== 0) continue;
      atomics.sub(header, RESERVE, 1);
      return c;
    }
    return -1;
  }

  /** F1 to F4: 2^order frames at i, of a chunk that is not this pool's. Freed before: a bug, and throws. */
  free(i: number, order: number): void {
    if (order === 10) {
      this.free(i, 9);
      this.free(i + 512, 9);
      return;
    }
    const { freed, freedWords, owner } = this.#words;
    const b = i >>> 9;
    const x = 1024 - (1024 >> order) + ((i & 511) >> order);
    const before = this.#atomics.or(freed, (b << 5) + (x >> 5), 1 << x);
    assert((before & (1 << x)) === 0, 'frame freed twice', { i, order });
    if (before !== 0) return;
    if (this.#atomics.or(freedWords, b, 1 << (x >> 5)) !== 0) return;
    const to = ownerIn(this.#atomics.load(owner, i >>> 10));
    assert(to >= 0, 'a frame of the reserve is freed: it was free', { i, order });
    this.#tell(to, i >>> 10);
  }

  /** A wish of this pool; with one of WISH_ANY and WISH_WHOLE every other pool's bell rings. */
  wish(what: number): void {
    const { line, pools } = this.#words;
    this.#atomics.store(line, lineOf(this.me, WISH), what);
    if (what === WISH_NONE) return;
    for (let p = 0; p < pools; p++) if (p !== this.me) this.#ring(p, BELL_WISH);
  }

  /** What another pool wishes for. */
  wishOf(pool: number): number {
    return this.#atomics.load(this.#words.line, lineOf(pool, WISH));
  }

  /** Takes a wish over, so that one giver fulfils it. @returns whether this pool is the one */
  claimWish(pool: number, what: number): boolean {
    return this.#atomics.compareExchange(this.#words.line, lineOf(pool, WISH), what, WISH_NONE) === what;
  }

  /** O1 to O3, if the bell rang. @returns chunks looked at. Cost without a ring: one load. */
  look(): number {
    const { line, attention0, attention1, words0, words1 } = this.#words;
    const atomics = this.#atomics;
    const bell = lineOf(this.me, BELL);
    if (atomics.load(line, bell) === 0) return 0;
    const rung = atomics.exchange(line, bell, 0);
    if ((rung & BELL_WISH) !== 0) this.wished = true;
    let looked = 0;
    for (let bits = rung & 0xffff; bits !== 0; bits &= bits - 1) {
      for (let w1 = lowestBit(bits); w1 < words1; w1 += BELL_WORDS) {
        const at1 = this.me * words1 + w1;
        if (atomics.load(attention1, at1) === 0) continue;
        for (let in1 = atomics.exchange(attention1, at1, 0); in1 !== 0; in1 &= in1 - 1) {
          const w0 = w1 * 32 + lowestBit(in1);
          for (let in0 = atomics.exchange(attention0, this.me * words0 + w0, 0); in0 !== 0; in0 &= in0 - 1) {
            this.lookAt(w0 * 32 + lowestBit(in0));
            looked++;
          }
        }
      }
    }
    return looked;
  }

  /** O2, O3 for one chunk: adopts it if it has come, takes in what others freed in it if it is this pool's. */
  lookAt(chunk: number): void {
    if (!this.#desk.isMine(chunk)) {
      const word = this.#atomics.load(this.#words.owner, chunk);
      if (ownerIn(word) !== this.me) return;
      this.#desk.adopt(chunk, word);
    }
    const { freed, freedWords } = this.#words;
    for (let b = chunk * 2; b <= chunk * 2 + 1; b++) {
      if (this.#atomics.load(freedWords, b) === 0) continue;
      for (let words = this.#atomics.exchange(freedWords, b, 0); words !== 0; words &= words - 1) {
        const w = lowestBit(words);
        for (let bits = this.#atomics.exchange(freed, (b << 5) + w, 0); bits !== 0; bits &= bits - 1) {
          const { i, order } = frameInHeap(b, w * 32 + lowestBit(bits));
          this.#desk.freed(i, order);
        }
      }
    }
  }

  /** Attention of a pool to a chunk, from the bottom up; stops where somebody else is under way. */
  #tell(pool: number, chunk: number): void {
    const { attention0, attention1, words0, words1 } = this.#words;
    if (this.#atomics.or(attention0, pool * words0 + (chunk >>> 5), 1 << chunk) !== 0) return;
    const w1 = chunk >>> 10;
    if (this.#atomics.or(attention1, pool * words1 + w1, 1 << (chunk >>> 5)) !== 0) return;
    this.#ring(pool, 1 << (w1 % BELL_WORDS));
  }

  #ring(pool: number, bits: number): void {
    const { line } = this.#words;
    const bell = lineOf(pool, BELL);
    if (this.#atomics.or(line, bell, bits) !== 0) return;
    // To wake somebody is a system call. A sleeper says so before it looks at its bell for the last time.
    if (this.#atomics.load(line, lineOf(pool, SLEEPS)) !== 0) this.#atomics.notify(line, bell);
  }

  /** Until the bell rings, or so many milliseconds. @returns whether it rang */
  sleep(timeoutMs: number): boolean {
    const { line } = this.#words;
    const sleeps = lineOf(this.me, SLEEPS);
    this.#atomics.store(line, sleeps, 1);
    const end = this.#atomics.wait(line, lineOf(this.me, BELL), 0, timeoutMs); // at once, if it has rung
    this.#atomics.store(line, sleeps, 0);
    return end !== 'timed-out';
  }
}
