// Exclusive pools of one thread against a naive model: an array that says of each frame who uses it, and of each chunk
// whose it is. Events in a seeded order, weights drawn anew for each seed, some of them zero.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { attachPool, type ExclusivePool } from './exclusive-pool.ts';
import { lockedPoolBytes, openLockedPool } from './locked-pool.ts';
import { createSharedFrames } from './shared-frames.ts';

const CHUNK = 1024;
const EVENTS = ['alloc', 'free', 'give', 'giveBack', 'look', 'take', 'wish', 'reattach', 'check'] as const;

type Held = { readonly i: number; readonly order: number; readonly by: number };

/** One run. @returns a digest of all that came back */
function run(seed: number, steps: number): number {
  const prng = new Prng(seed);
  const chunks = 2 + prng.below(7);
  const nrPools = 2 + prng.below(3);
  const pages = chunks * CHUNK;
  const min = prng.chance(0.5) ? 0 : prng.below(CHUNK);
  const frames = createSharedFrames({ pages, pools: nrPools });
  const attach = (pool: number): ExclusivePool => {
    const attached = attachPool(frames, { pool, min, batch: 8, high: 24, code: 'shared' });
    if (!attached.ok) throw new Error(attached.error.reason);
    return attached.value;
  };
  const pools = Array.from({ length: nrPools }, (_, p) => attach(p));

  // The model.
  const usedBy = new Int8Array(pages).fill(-1);
  const ownerOf = new Int8Array(chunks).fill(-1);
  const held: Held[] = [];
  let used = 0;

  let digest = 0x811c9dc5;
  const note = (v: number): void => {
    digest = Math.imul(digest ^ v, 0x01000193);
  };
  const say = `seed=${seed}`;
  const chunkOf = (i: number): number => Math.floor(i / CHUNK);
  /** Ownership moves inside of verbs: at a refill, by a wish. It moves whole chunks, and none to whom it was not. */
  const readOwners = (): void => {
    for (let c = 0; c < chunks; c++) ownerOf[c] = frames.ownerOf(c * CHUNK);
  };
  const settle = (): void => {
    for (let round = 0; round < 2; round++) for (const pool of pools) pool.look();
    readOwners();
  };

  const weights = EVENTS.map((event) => (event === 'alloc' || event === 'free' ? 40 : prng.below(4)));
  const orders = Array.from({ length: 11 }, (_, o) => (prng.chance(0.5) || o === 0 ? 64 >> o : 0));
  for (let step = 0; step < steps; step++) {
    const me = prng.below(nrPools);
    const pool = pools[me] as ExclusivePool;
    const event = EVENTS[prng.weighted(weights)] as (typeof EVENTS)[number];
    const at = `${say} step=${step} ${event}`;
    if (event === 'alloc') {
      const order = prng.weighted(orders);
      const i = pool.alloc(order, prng.below(3));
      note(i);
      if (i < 0) {
        readOwners();
        const mine = ownerOf.filter((p) => p === me).length * CHUNK;
        expect(frames.reserve(), `${at}: refused while the reserve has chunks`).toBe(0);
        if (order === 0) expect(pool.stat().free, `${at}: refused while it has ${mine}`).toBe(0);
        continue;
      }
      expect(i % 2 ** order, at).toBe(0);
      for (let k = i; k < i + 2 ** order; k++) {
        expect(usedBy[k], `${at}: frame ${k} is used`).toBe(-1);
        usedBy[k] = me;
      }
      expect(frames.ownerOf(i), at).toBe(me);
      used += 2 ** order;
      held.push({ i, order, by: me });
    } else if (event === 'free' && held.length > 0) {
      const [{ i, order }] = held.splice(prng.below(held.length), 1) as [Held];
      usedBy.fill(-1, i, i + 2 ** order);
      used -= 2 ** order;
      pool.free(i, order); // whoever comes: its own or another's
    } else if (event === 'give') {
      const i = prng.below(pages);
      const to = prng.below(nrPools + 1);
      const before = pool.stat();
      readOwners();
      const given = pool.give(i, to);
      note(given.ok ? 1 : 0);
      if (to === me || to === nrPools) expect(given, at).toMatchObject({ error: { reason: 'no-such-pool' } });
      else if (given.ok) {
        expect(ownerOf[chunkOf(i)], at).toBe(me);
        expect(frames.ownerOf(i), at).toBe(to);
        expect(pool.stat().free, at).toBeGreaterThanOrEqual(min);
      } else {
        expect(pool.stat(), at).toEqual(before);
        if (given.error.reason === 'guarantee') expect(min, at).toBeGreaterThan(0);
        else expect(given.error.reason, at).toBe('not-owner'); // or on its way to this pool
      }
    } else if (event === 'giveBack') {
      const i = prng.chance(0.5) ? pool.cheapest(true) : prng.below(pages);
      if (i < 0) continue;
      const c = chunkOf(i);
      const back = pool.giveBack(i);
      note(back.ok ? 1 : 0);
      if (back.ok) {
        expect(frames.ownerOf(i), at).toBe(-1);
        expect(
          usedBy.subarray(c * CHUNK, (c + 1) * CHUNK).every((by) => by < 0),
          at,
        ).toBe(true);
      }
    } else if (event === 'look') note(pool.look());
    else if (event === 'take') note(pool.take(1 + prng.below(2)));
    else if (event === 'wish') pool.wish(prng.pick(['any', 'whole', 'none']));
    else if (event === 'reattach') {
      pool.detach();
      pools[me] = attach(me);
    } else if (event === 'check') {
      for (const p of pools) expect(p.check(), at).toEqual([]);
      settle();
      const owned = ownerOf.filter((p) => p >= 0).length;
      expect(frames.reserve() + owned, at).toBe(chunks);
      const stats = pools.map((p) => p.stat());
      stats.forEach((stat, p) => {
        expect(stat.managed, `${at} pool=${p}`).toBe(ownerOf.filter((of) => of === p).length * CHUNK);
        let usedHere = 0;
        for (let k = 0; k < pages; k++) {
          if (usedBy[k] >= 0 && ownerOf[chunkOf(k)] === p) usedHere++;
        }
        expect(stat.managed - stat.free, `${at} pool=${p}`).toBe(usedHere);
      });
    }
  }
  for (const pool of pools) expect(pool.check(), say).toEqual([]);
  for (const pool of pools) pool.detach();
  expect(frames.check(), say).toEqual([]);
  const state = frames.survey();
  for (let k = 0; k < pages; k++) {
    if ((state[k] === 0) !== usedBy[k] >= 0) expect.fail(`${say}: frame ${k} is ${state[k]}, used by ${usedBy[k]}`);
  }
  note(used);
  return digest;
}

describe('XP15 exclusive pools against a naive model', () => {
  it('random events: every frame has one user or none, nothing is lost, all counts agree', () => {
    for (let seed = 1; seed <= 60; seed++) run(seed, 1500);
  });

  it('XP12 one thread that drives all pools gets the same again', () => {
    for (let seed = 100; seed < 110; seed++) expect(run(seed, 800), `seed=${seed}`).toBe(run(seed, 800));
    expect(run(100, 800)).not.toBe(run(101, 800));
  });
});

describe('XP15 the pool behind a lock against a naive model', () => {
  it('two sides of one pool, with rings and without: no frame twice, nothing lost', () => {
    for (let seed = 1; seed <= 10; seed++) {
      const prng = new Prng(seed);
      const pages = 4 * CHUNK;
      const buffer = new SharedArrayBuffer(lockedPoolBytes(pages));
      const ring = seed % 2 === 0 ? { ring: { batch: 8, high: 24 } } : {};
      const sides = [true, false].map((first) => openLockedPool(buffer, { pages, first, code: 'shared', ...ring }));
      const used = new Uint8Array(pages);
      const held: (readonly [number, number])[] = [];
      for (let step = 0; step < 4000; step++) {
        const side = prng.pick(sides);
        if (held.length === 0 || prng.chance(0.55)) {
          const order = prng.weighted([40, 4, 2, 1]);
          const i = side.alloc(order);
          if (i < 0) continue;
          for (let k = i; k < i + 2 ** order; k++) {
            if (used[k] !== 0) expect.fail(`seed=${seed} step=${step}: frame ${k} is used`);
            used[k] = 1;
          }
          held.push([i, order]);
        } else {
          const [[i, order]] = held.splice(prng.below(held.length), 1) as [readonly [number, number]];
          used.fill(0, i, i + 2 ** order);
          side.free(i, order);
        }
      }
      for (const side of sides) side.drain();
      const free = pages - used.reduce((n, v) => n + v, 0);
      expect(sides.map((side) => side.nrFree())).toEqual([free, free]);
      expect(sides[0]?.check(), `seed=${seed}`).toEqual([]);
    }
  });
});
