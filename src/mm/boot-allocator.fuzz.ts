// The two builds against each other: same requests, same answers. Rule EB8 of docs/spec/embedded.md.
//
//   per-CPU lists off   every frame, every refusal and its reason, the lists after each step
//   per-CPU lists on    single frames: every refusal, the number of free frames; at the end, all given back, the lists
//
//   DIMMER_SEED=n   replay a seed

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type Order, toOrder, toPfn } from '#base/units';
import { bootAllocator } from './boot-allocator.ts';
import type { FrameAllocator } from './frame-allocator.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 20071025);
const WORLDS = 24;
const STEPS = 1500;

/** A world: somewhere, 1 to 20 MiB, with a reserve or without. */
function world(rng: Prng): { startPfn: ReturnType<typeof toPfn>; endPfn: ReturnType<typeof toPfn>; minFree: number } {
  const start = rng.pick([0, 1024, 2 ** 20, 2 ** 33]) + (rng.chance(0.5) ? rng.below(1500) : 0);
  const pages = 256 + rng.below(5000);
  return { startPfn: toPfn(start), endPfn: toPfn(start + pages), minFree: rng.chance(0.6) ? rng.below(300) : 0 };
}

const lists = (a: FrameAllocator): string => a.freeByOrder().join(' ');

describe('both builds', () => {
  it('EB8 with per-CPU lists off: frame by frame', () => {
    for (let w = 0; w < WORLDS; w++) {
      const rng = new Prng(SEED + w);
      const spec = { ...world(rng), code: 'shared' } as const;
      const small = bootAllocator({ build: 'embedded', ...spec });
      const full = bootAllocator({ build: 'full', ...spec });
      for (const p of full.machine.pools) p.alloc.disable();
      const held: { pfn: number; order: Order }[] = [];
      let bias = 0.6;
      for (let step = 0; step < STEPS; step++) {
        const said = `seed=${SEED} world ${w} step ${step}`;
        if (step % 250 === 249) bias = rng.pick([0.35, 0.5, 0.8]);
        if (held.length === 0 || rng.chance(bias)) {
          const order = toOrder(rng.chance(0.75) ? rng.below(3) : rng.below(11));
          const urgent = rng.chance(0.1);
          const why = small.refusalOf(order, urgent ? 'urgent' : 'ordinary');
          expect(full.refusalOf(order, urgent ? 'urgent' : 'ordinary'), said).toBe(why);
          const pfn = urgent ? small.allocUrgent(order) : small.alloc(order);
          expect(urgent ? full.allocUrgent(order) : full.alloc(order), said).toBe(pfn);
          expect(pfn < 0, said).toBe(why !== undefined);
          if (pfn >= 0) held.push({ pfn, order });
        } else {
          const [{ pfn, order }] = held.splice(rng.below(held.length), 1);
          small.free(toPfn(pfn), order);
          full.free(toPfn(pfn), order);
        }
        expect(full.nrFree(), said).toBe(small.nrFree());
        if (step % 10 === 0) expect(lists(full), said).toBe(lists(small));
      }
      const said = `seed=${SEED} world ${w}`;
      expect(lists(full), said).toBe(lists(small));
      expect(small.check(), said).toEqual([]);
      expect(full.check(), said).toEqual([]);
    }
  });

  it('EB8 with per-CPU lists on: the same requests are refused, the same frames are free', () => {
    let refused = 0;
    for (let w = 0; w < WORLDS; w++) {
      const rng = new Prng(SEED + 1000 + w);
      const spec = { ...world(rng), code: 'shared' } as const;
      const small = bootAllocator({ build: 'embedded', ...spec });
      const cpus = 1 + rng.below(4);
      const full = bootAllocator({ build: 'full', ...spec, cpus });
      const atBoot = lists(small);
      expect(lists(full)).toBe(atBoot);
      const held: { here: number; there: number }[] = [];
      // Up to the last frame and down to the last one held, in waves.
      let up = true;
      for (let step = 0; step < 4 * STEPS; step++) {
        const said = `seed=${SEED} world ${w} step ${step}`;
        if (rng.chance(0.01)) for (const p of full.machine.pools) p.alloc.useCpu(rng.below(cpus));
        if (rng.chance(0.002)) up = !up;
        if (held.length === 0 || (rng.chance(0.9) ? up : !up)) {
          const urgent = rng.chance(0.05);
          const here = urgent ? small.allocUrgent(toOrder(0)) : small.alloc(toOrder(0));
          const there = urgent ? full.allocUrgent(toOrder(0)) : full.alloc(toOrder(0));
          expect(there < 0, said).toBe(here < 0);
          if (here < 0) refused++;
          else held.push({ here, there });
        } else {
          const [{ here, there }] = held.splice(rng.below(held.length), 1);
          small.free(toPfn(here), toOrder(0));
          full.free(toPfn(there), toOrder(0));
        }
        expect(full.nrFree(), said).toBe(small.nrFree());
      }
      const said = `seed=${SEED} world ${w}`;
      expect(full.check(), said).toEqual([]);
      expect(small.check(), said).toEqual([]);
      for (const { here, there } of held) {
        small.free(toPfn(here), toOrder(0));
        full.free(toPfn(there), toOrder(0));
      }
      for (const p of full.machine.pools) p.alloc.drain();
      expect([lists(small), lists(full)], said).toEqual([atBoot, atBoot]);
    }
    expect(refused, `seed=${SEED}`).toBeGreaterThan(1000);
  });
});
