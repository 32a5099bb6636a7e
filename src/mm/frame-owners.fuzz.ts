// The owner table against one id a frame.   DIMMER_SEED=n   replay a seed

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { FrameOwners, MIXED, NOBODY } from './frame-owners.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 20071025);

/** One id a frame, and nothing else. */
class Naive {
  owner: number[];
  zone: number[];

  constructor(frames: number) {
    this.owner = Array.from({ length: frames }, () => NOBODY);
    this.zone = Array.from({ length: frames }, () => NOBODY);
  }
}

function compare(t: FrameOwners, n: Naive, rng: Prng, why: string): void {
  n.owner.forEach((id, i) => {
    if (t.at(i) !== id || t.zoneAt(i) !== n.zone[i]) throw new Error(`${why}: frame ${i} is ${t.at(i)}, not ${id}`);
  });
  for (let block = 0; block < n.owner.length >>> PAGEBLOCK_ORDER; block++) {
    const ids = new Set(n.owner.slice(block << PAGEBLOCK_ORDER, (block + 1) << PAGEBLOCK_ORDER));
    expect(t.owner[block], why).toBe(ids.size > 1 ? MIXED : [...ids][0]);
    expect(t.mixed.has(block), why).toBe(ids.size > 1);
    for (const id of [NOBODY, 0, 1, 2, 3]) expect(t.has(block, id), why).toBe(ids.has(id));
  }
  const start = rng.below(n.owner.length);
  const end = start + rng.below(n.owner.length - start + 1);
  const seen: number[] = [];
  t.forEachRun(start, end, (from, to, id) => {
    expect(from, why).toBe(start + seen.length);
    for (let i = from; i < to; i++) seen.push(id);
  });
  expect(seen, why).toEqual(n.owner.slice(start, end));
  const whole = n.owner.slice(start - (start % PAGEBLOCK_PAGES), Math.ceil(end / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES);
  const ids = [...new Set(whole)].filter((id) => id !== NOBODY).sort((a, b) => a - b);
  if (start < end) expect(t.ownersIn(start, end), why).toEqual(ids);
}

describe('frame owners', () => {
  it('PL20 agree with a table of one id a frame, in any order of changes', () => {
    for (let seed = SEED; seed < SEED + 20; seed++) {
      const rng = new Prng(seed);
      let blocks = 6;
      let t = new FrameOwners(blocks);
      const n = new Naive(blocks * PAGEBLOCK_PAGES);
      for (let k = 0; k < 60; k++) {
        const frames = blocks * PAGEBLOCK_PAGES;
        switch (rng.weighted([3, 10, 1, 1])) {
          case 0: {
            const first = rng.below(blocks);
            const end = first + 1 + rng.below(blocks - first);
            // Only where no user pool has frames: a zone takes, or gives back, whole pageblocks of its own.
            const pure = n.owner.slice(first * PAGEBLOCK_PAGES, end * PAGEBLOCK_PAGES).every((id, i) => {
              return id === n.zone[first * PAGEBLOCK_PAGES + i];
            });
            if (!pure) break;
            const id = rng.below(3) - 1;
            t.setZone(first, end, id);
            n.owner.fill(id, first * PAGEBLOCK_PAGES, end * PAGEBLOCK_PAGES);
            n.zone.fill(id, first * PAGEBLOCK_PAGES, end * PAGEBLOCK_PAGES);
            break;
          }
          case 1: {
            const start = rng.below(frames);
            const end = Math.min(frames, start + 1 + rng.pick([rng.below(3), rng.below(700), rng.below(3000)]));
            if (n.zone.slice(start, end).includes(NOBODY)) break;
            const id = rng.chance(0.3) ? (n.zone[start] as number) : 2 + rng.below(2);
            t.setOwner(start, end, id);
            n.owner.fill(id, start, end);
            break;
          }
          case 2: {
            const copy = new FrameOwners(1);
            copy.copyFrom(t);
            t.setOwner(0, frames, 77); // the copy is on its own
            t = copy;
            break;
          }
          default: {
            blocks++;
            t.grow(blocks);
            for (let i = 0; i < PAGEBLOCK_PAGES; i++) {
              n.owner.push(NOBODY);
              n.zone.push(NOBODY);
            }
          }
        }
        compare(t, n, rng, `seed=${seed} step ${k}`);
      }
    }
  });
});
