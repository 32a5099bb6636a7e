// The chunk index against a list and a linear scan: 10^4 random states (spec 9.A, A5). Rules CX1 to CX3.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { ChunkIndex, INFINITE } from './chunk-index.ts';

const SEEDS = 20;
const STATES = 500;

describe('the chunk index, random', () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    it(`CX1 CX2 CX3 a linear scan finds the same in ${STATES} states, seed=${seed}`, () => {
      const rng = new Prng(seed);
      const x = new ChunkIndex();
      const model = new Map<number, number>();
      let base = rng.below(5000);
      for (let state = 0; state < STATES; state++) {
        const where = `seed=${seed} state=${state}`;
        if (rng.chance(0.01)) base = rng.below(10000); // the hull moves: old chunks leave, most of the time
        if (rng.chance(0.005)) {
          for (const chunk of model.keys()) x.remove(chunk);
          model.clear();
        }
        for (let k = rng.below(20); k >= 0; k--) {
          const chunk = base + rng.below(rng.pick([8, 100, 700]));
          const cost = rng.pick([0, rng.below(4), rng.below(4096), INFINITE, INFINITE]);
          if (rng.chance(0.2)) {
            x.remove(chunk);
            model.delete(chunk);
          } else {
            x.set(chunk, cost);
            model.set(chunk, cost);
          }
          expect(x.costOf(chunk), where).toBe(model.get(chunk) ?? INFINITE);
        }
        const scan = [...model].filter(([, cost]) => cost < INFINITE).sort(([a, p], [b, q]) => p - q || a - b);
        const before = x.visits;
        expect(x.argmin(), where).toBe(scan[0]?.[0] ?? -1);
        expect(x.visits - before, where).toBe(Math.min(1, scan.length));
        const n = rng.below(30);
        expect(x.top(n), where).toEqual(scan.slice(0, n).map(([chunk, cost]) => ({ chunk, cost })));
        expect(x.visits - before, where).toBe(Math.min(1, scan.length) + Math.min(n, scan.length));
        expect(x.players, where).toBe(scan.length);
        expect(x.check(), where).toEqual([]);
      }
    });
  }
});
