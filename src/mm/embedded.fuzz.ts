// The embedded build against the naive model: a set of free frames, and nothing else.
//
// Where buddies always join, the lists follow from which frames are free: a chunk is an aligned run of 2^order free
// frames that lies in no larger one. So the model keeps a flag a frame and looks for chunks anew at each request.
//
//   DIMMER_SEED=n   replay a seed

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type Order, toOrder, toPfn } from '#base/units';
import { bootEmbedded } from './embedded.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 20071025);
const WORLDS = 40;
const STEPS = 1200;

class NaiveFrames {
  readonly #free = new Set<number>();
  readonly #minFree: number;

  constructor(start: number, end: number, minFree: number) {
    for (let pfn = start; pfn < end; pfn++) this.#free.add(pfn);
    this.#minFree = minFree;
  }

  get nrFree(): number {
    return this.#free.size;
  }

  #whole(pfn: number, order: number): boolean {
    for (let k = 0; k < 2 ** order; k++) if (!this.#free.has(pfn + k)) return false;
    return true;
  }

  /** First frames of the free chunks, by order, ascending. */
  chunks(): number[][] {
    const out: number[][] = Array.from({ length: 11 }, () => []);
    const frames = [...this.#free].sort((a, b) => a - b);
    let beyond = -1;
    for (const pfn of frames) {
      if (pfn < beyond) continue;
      let order = 0;
      while (order < 10 && pfn % 2 ** (order + 1) === 0 && this.#whole(pfn, order + 1)) order++;
      (out[order] as number[]).push(pfn);
      beyond = pfn + 2 ** order;
    }
    return out;
  }

  alloc(order: number, keep = this.#minFree): number {
    if (this.#free.size - 2 ** order < keep) return -1;
    const pfn = this.chunks().find((list, o) => o >= order && list.length > 0)?.[0];
    if (pfn === undefined) return -1;
    for (let k = 0; k < 2 ** order; k++) this.#free.delete(pfn + k);
    return pfn;
  }

  free(pfn: number, order: number): void {
    for (let k = 0; k < 2 ** order; k++) this.#free.add(pfn + k);
  }
}

describe('embedded against the naive model', () => {
  for (const code of ['own', 'shared'] as const) {
    it(`EB1 EB2 EB3 EB4 EB6 random requests, ${code} code`, () => {
      const refused = new Map<string, number>();
      for (let w = 0; w < WORLDS; w++) {
        const rng = new Prng(SEED + w);
        const start = rng.pick([0, 1024, 2 ** 32, 2 ** 39]) + (rng.chance(0.7) ? rng.below(1200) : 0);
        const end = start + 1 + rng.below(rng.pick([8, 200, 2500]));
        const minFree = rng.chance(0.5) ? rng.below(Math.min(60, end - start)) : 0;
        const frees = rng.pick(['checked', 'trusted'] as const);
        const a = bootEmbedded({ startPfn: toPfn(start), endPfn: toPfn(end), minFree, frees, code });
        const model = new NaiveFrames(start, end, minFree);
        const held: { pfn: number; order: Order }[] = [];
        let bias = 0.7;
        for (let step = 0; step < STEPS; step++) {
          const said = `seed=${SEED} world ${w} step ${step}`;
          if (step % 200 === 199) bias = rng.pick([0.3, 0.5, 0.8]);
          if (held.length === 0 || rng.chance(bias)) {
            const order = toOrder(rng.chance(0.8) ? rng.below(4) : rng.below(11));
            const urgent = rng.chance(0.1);
            const why = a.refusalOf(order, urgent ? 'urgent' : 'ordinary');
            const pfn = urgent ? a.allocUrgent(order) : a.alloc(order);
            expect(pfn, said).toBe(urgent ? model.alloc(order, 0) : model.alloc(order));
            expect(why === undefined, said).toBe(pfn >= 0);
            if (pfn >= 0) held.push({ pfn, order });
            else refused.set(why as string, (refused.get(why as string) ?? 0) + 1);
          } else {
            const [{ pfn, order }] = held.splice(rng.below(held.length), 1);
            a.free(toPfn(pfn), order);
            model.free(pfn, order);
          }
          expect(a.nrFree(), said).toBe(model.nrFree);
          if (step % 20 === 0) expect([...a.freeByOrder()], said).toEqual(model.chunks().map((list) => list.length));
        }
        const said = `seed=${SEED} world ${w}`;
        expect(a.check(), said).toEqual([]);
        for (const { pfn, order } of held) a.free(toPfn(pfn), order);
        expect(a.nrFree(), said).toBe(end - start);
        const fresh = new NaiveFrames(start, end, 0).chunks();
        expect([...a.freeByOrder()], said).toEqual(fresh.map((list) => list.length));
        expect(a.check(), said).toEqual([]);
      }
      // Every reason was met, often.
      for (const why of ['exhausted', 'reserve', 'fragmented']) expect(refused.get(why), why).toBeGreaterThan(50);
    });
  }

  it('EB9 of random frees only those of what was given pass', () => {
    let passed = 0;
    let thrown = 0;
    for (let w = 0; w < WORLDS; w++) {
      const rng = new Prng(SEED + 500 + w);
      const start = rng.below(1200);
      const end = start + 1 + rng.below(3000);
      const a = bootEmbedded({ startPfn: toPfn(start), endPfn: toPfn(end), code: 'shared' });
      const held = new Map<number, Order>();
      for (let step = 0; step < STEPS; step++) {
        const said = `seed=${SEED} world ${w} step ${step}`;
        const order = toOrder(rng.below(rng.pick([2, 4, 11])));
        if (rng.chance(0.3)) {
          const pfn = a.alloc(order);
          if (pfn >= 0) held.set(pfn, order);
          continue;
        }
        // Half of them near something that was given; some outside.
        const near = [...held.keys()];
        const pfn = near.length > 0 && rng.chance(0.5) ? rng.pick(near) : start - 2 + rng.below(end - start + 4);
        const free = (): void => a.free(toPfn(pfn), order);
        if (held.get(pfn) === order) {
          free();
          held.delete(pfn);
          passed++;
        } else {
          expect(free, said).toThrow();
          thrown++;
        }
        const given = [...held.values()].reduce((n: number, o) => n + 2 ** o, 0);
        expect(a.nrFree(), said).toBe(end - start - given);
      }
      expect(a.check(), `seed=${SEED} world ${w}`).toEqual([]);
    }
    expect([passed > 1000, thrown > 1000], `seed=${SEED}, ${passed} passed, ${thrown} threw`).toEqual([true, true]);
  });
});
