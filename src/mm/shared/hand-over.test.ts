// Every interleaving of a few threads' steps through hand-over.ts, the product's code as it is.
//
// A thread is a function of what its atomic operations return. To stop it between two of them it is run again from its
// beginning with the results that it had, does one more, and is broken off. A state is the shared words and what each
// thread has seen; depth first, no state twice. At each end everybody looks once more, then nothing may be missing.

import { describe, expect, it } from 'vitest';
import { type AtomicWords, HandOver } from './hand-over.ts';
import { createSharedFrames, ownerIn, ownerWord } from './shared-frames.ts';

const MEMORY = { pages: 1024, pools: 3 };
/** Frames of chunk 0: two in one word of the heap, one in another word, one in the other pageblock. */
const [A, NEAR_A, FAR, OTHER_BLOCK] = [5, 6, 100, 700];

/** One pool's thread: its desk is private, and made anew each time it is run. */
type Actor = {
  readonly hand: HandOver;
  readonly mine: Set<number>;
  /** Frames that it took in. */
  readonly taken: number[];
  give(chunk: number, to: number): void;
};
type Thread = { readonly pool: number; readonly owns: readonly number[]; run(actor: Actor): void };
type Results = readonly number[];

class Paused extends Error {}

/** Operations that return what they returned before, then `more` of them for real; one further breaks off. */
function replaying(seen: Results, more: number, drop: (words: Int32Array) => boolean) {
  const results = [...seen];
  let at = 0;
  const step = (words: Int32Array, real: () => number): number => {
    if (at < results.length) return results[at++] as number;
    if (results.length >= seen.length + more) throw new Paused();
    results.push(drop(words) ? 0 : real());
    return results[at++] as number;
  };
  const atomics: AtomicWords = {
    load: (w: Int32Array, i: number) => step(w, () => Atomics.load(w, i)),
    store: (w: Int32Array, i: number, v: number) => step(w, () => Atomics.store(w, i, v)),
    or: (w: Int32Array, i: number, v: number) => step(w, () => Atomics.or(w, i, v)),
    add: (w: Int32Array, i: number, v: number) => step(w, () => Atomics.add(w, i, v)),
    sub: (w: Int32Array, i: number, v: number) => step(w, () => Atomics.sub(w, i, v)),
    exchange: (w: Int32Array, i: number, v: number) => step(w, () => Atomics.exchange(w, i, v)),
    compareExchange: (w: Int32Array, i: number, o: number, v: number) =>
      step(w, () => Atomics.compareExchange(w, i, o, v)),
    notify: () => 0,
    wait: () => 'not-equal',
  };
  return { atomics, results };
}

/** @returns how many orders of the steps there are, their states, and what was wrong at the end of any of them */
function explore(threads: readonly Thread[], frees: readonly number[], dropAttention = false) {
  const frames = createSharedFrames(MEMORY);
  const { words } = frames;
  const all = new Int32Array(frames.buffer);
  // The chunk is pool 0's, and in use throughout.
  words.owner[0] = ownerWord(0, [1, 1], false);
  const drop = (w: Int32Array): boolean => dropAttention && w === words.attention0;
  /** Orders of the steps that are left, by state. */
  const visited = new Map<string, number>();
  const wrong = new Set<string>();

  function run(thread: Thread, seen: Results, more: number) {
    const { atomics, results } = replaying(seen, more, drop);
    const mine = new Set(thread.owns);
    const taken: number[] = [];
    const hand = new HandOver(
      words,
      thread.pool,
      {
        isMine: (chunk) => mine.has(chunk),
        adopt: (chunk) => mine.add(chunk),
        freed(i) {
          if (!mine.has(i >>> 10)) wrong.add(`pool ${thread.pool} took in frame ${i} of a chunk that is not its own`);
          taken.push(i);
        },
      },
      atomics,
    );
    const give = (chunk: number, to: number): void => {
      mine.delete(chunk); // G1
      hand.give(chunk, to, [1, 1], false);
    };
    const actor: Actor = { hand, mine, taken, give };
    try {
      thread.run(actor);
      return { done: true, results, actor };
    } catch (error) {
      if (!(error instanceof Paused)) throw error;
      return { done: false, results, actor };
    }
  }

  function atEnd(memory: Int32Array, histories: readonly Results[]): void {
    all.set(memory);
    const actors = threads.map((t, k) => run(t, histories[k] as Results, Number.POSITIVE_INFINITY).actor);
    for (const actor of actors) actor.hand.look();
    const taken = actors.flatMap((actor) => actor.taken).sort((a, b) => a - b);
    const expected = [...frees].sort((a, b) => a - b);
    if (taken.join() !== expected.join()) wrong.add(`freed ${expected.join()}, taken in ${taken.join()}`);
    const owner = ownerIn(words.owner[0] as number);
    const claims = actors.filter((actor) => actor.mine.has(0)).map((actor) => actor.hand.me);
    if (claims.join() !== `${owner}`) wrong.add(`the chunk is pool ${owner}'s, adopted by ${claims.join()}`);
  }

  function visit(memory: Int32Array, histories: readonly Results[]): number {
    const key = `${memory.join()}|${histories.map((h) => h.join()).join('|')}`;
    const known = visited.get(key);
    if (known !== undefined) return known;
    let orders = 0;
    threads.forEach((thread, k) => {
      all.set(memory);
      const before = histories[k] as Results;
      const { results } = run(thread, before, 1);
      if (results.length === before.length) return; // it had ended
      const after = histories.map((h, j) => (j === k ? results : h));
      orders += visit(all.slice(), after);
    });
    if (orders === 0) {
      atEnd(memory, histories);
      orders = 1;
    }
    visited.set(key, orders);
    return orders;
  }

  const orders = visit(
    all.slice(),
    threads.map(() => []),
  );
  return { orders, states: visited.size, wrong: [...wrong] };
}

const owner = (run: Thread['run']): Thread => ({ pool: 0, owns: [0], run });
const receiver = (run: Thread['run']): Thread => ({ pool: 1, owns: [], run });
const other = (run: Thread['run']): Thread => ({ pool: 2, owns: [], run });

describe('XP5 no interleaving loses a free, or does one twice', () => {
  it('a free against a hand-over', () => {
    const threads = [owner((a) => a.give(0, 1)), receiver((a) => a.hand.look()), other((a) => a.hand.free(A, 0))];
    const { orders, wrong } = explore(threads, [A]);
    expect(wrong).toEqual([]);
    expect(orders).toBeGreaterThan(100);
  });

  it('a free against an owner who looks and then gives', () => {
    const threads = [
      owner((a) => {
        a.hand.look();
        a.give(0, 1);
      }),
      other((a) => {
        a.hand.free(A, 0);
        a.hand.free(OTHER_BLOCK, 0);
      }),
      receiver(() => undefined),
    ];
    const { orders, wrong } = explore(threads, [A, OTHER_BLOCK]);
    expect(wrong).toEqual([]);
    expect(orders).toBeGreaterThan(100);
  });

  it('the giver frees a frame that it still has in the chunk it gave', () => {
    const threads = [
      owner((a) => {
        a.give(0, 1);
        a.hand.free(A, 0);
      }),
      receiver((a) => {
        a.hand.look();
        a.hand.look();
      }),
    ];
    const { orders, wrong } = explore(threads, [A]);
    expect(wrong).toEqual([]);
    expect(orders).toBeGreaterThan(10_000);
  });

  it('two frees, in one word and in two, against an owner who looks', () => {
    for (const second of [NEAR_A, FAR]) {
      const threads = [
        owner((a) => a.hand.look()),
        receiver((a) => a.hand.free(A, 0)),
        other((a) => a.hand.free(second, 0)),
      ];
      const { orders, wrong } = explore(threads, [A, second]);
      expect(wrong, `second=${second}`).toEqual([]);
      expect(orders).toBeGreaterThan(100);
    }
  });

  it('a free against a chunk that goes there and back', () => {
    const threads = [
      owner((a) => {
        a.give(0, 1);
        a.hand.look();
      }),
      receiver((a) => {
        a.hand.look();
        if (a.mine.has(0)) a.give(0, 0);
      }),
      other((a) => a.hand.free(FAR, 2)),
    ];
    const { orders, wrong } = explore(threads, [FAR]);
    expect(wrong).toEqual([]);
    expect(orders).toBeGreaterThan(100);
  });

  it('two frees, one of them the giver’s, against a hand-over', () => {
    for (const second of [NEAR_A, FAR, OTHER_BLOCK]) {
      const threads = [
        owner((a) => {
          a.give(0, 1);
          a.hand.free(second, 0);
        }),
        receiver((a) => a.hand.look()),
        other((a) => a.hand.free(A, 0)),
      ];
      const { orders, wrong } = explore(threads, [A, second]);
      expect(wrong, `second=${second}`).toEqual([]);
      expect(orders).toBeGreaterThan(10_000);
    }
  });

  it('the search notices a protocol that forgets to tell', () => {
    const threads = [owner((a) => a.hand.look()), other((a) => a.hand.free(A, 0))];
    expect(explore(threads, [A], true).wrong).toEqual([`freed ${A}, taken in `]);
    expect(explore(threads, [A]).wrong).toEqual([]);
  });
});

describe('XP1 the reserve', () => {
  it('two pools that take its last chunk: one gets it', () => {
    const frames = createSharedFrames(MEMORY);
    const { words } = frames;
    const all = new Int32Array(frames.buffer);
    const start = all.slice();
    const orders = new Set<string>();
    // Two takers of at most three operations each: all twenty ways to shuffle them.
    for (let mask = 0; mask < 64; mask++) {
      all.set(start);
      const got: number[][] = [[], []];
      const seen: number[][] = [[], []];
      for (let k = 0; k < 12; k++) {
        const who = k < 6 ? (mask >> k) & 1 : k & 1; // then the rest, in turn
        const { atomics, results } = replaying(seen[who] as Results, 1, () => false);
        const desk = { isMine: () => false, adopt: () => undefined, freed: () => undefined };
        try {
          got[who] = [new HandOver(words, who, desk, atomics).takeFromReserve(0)];
        } catch (error) {
          if (!(error instanceof Paused)) throw error;
        }
        seen[who] = results;
      }
      expect(got.flat().sort((a, b) => a - b)).toEqual([-1, 0]);
      expect(ownerIn(words.owner[0] as number)).toBe(got[0]?.[0] === 0 ? 0 : 1);
      expect(frames.reserve()).toBe(0);
      orders.add(got.join());
    }
    expect(orders.size).toBe(2); // either may win
  });
});
