// Fragmentation measures against naive ones: rules EX1..EX3, docs/spec/allocator.md (spec 2.10).

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { chunkCounts, extfragForOrder, fragmentationIndex, unusableFreeIndex } from './extfrag.ts';
import { createFreeArea } from './free-area-create.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 210);
const counts = (byOrder: Partial<Record<number, number>>): number[] =>
  Array.from({ length: 11 }, (_, c) => byOrder[c] ?? 0);

describe('measures', () => {
  it('EX1 the percentage and the index of unusable free pages are those in chunks below the order', () => {
    const c = counts({ 0: 100, 3: 10, 9: 1 }); // 100 + 80 + 512 = 692
    expect([0, 1, 3, 4, 9, 10].map((o) => extfragForOrder(c, o))).toEqual([0, 14, 14, 26, 26, 100]);
    expect([0, 1, 3, 4, 9, 10].map((o) => unusableFreeIndex(c, o))).toEqual([0, 144, 144, 260, 260, 1000]);
  });

  it('EX2 nothing free: no fragmentation, all of it unusable, index 0', () => {
    const none = counts({});
    expect([extfragForOrder(none, 9), unusableFreeIndex(none, 9), fragmentationIndex(none, 9)]).toEqual([0, 1000, 0]);
  });

  it('EX3 the index is -1000 where a chunk fits, near 1000 for pieces, near 0 for want of memory', () => {
    expect(fragmentationIndex(counts({ 9: 1 }), 9)).toBe(-1000);
    expect(fragmentationIndex(counts({ 0: 100_000 }), 9)).toBe(1000 - Math.trunc((1000 + 195_312) / 100_000)); // 999
    expect(fragmentationIndex(counts({ 8: 1 }), 9)).toBe(1000 - 1500);
    expect(fragmentationIndex(counts({ 0: 2 }), 3)).toBe(1000 - 625);
  });

  it('an order that does not exist is a bug', () => {
    expect(() => extfragForOrder(counts({}), 11)).toThrow(/order is 0 to 10/);
  });

  it(`EX1 EX2 EX3 equal the measures of a list of free frames (random, seed=${SEED})`, () => {
    for (let run = 0; run < 60; run++) {
      const rng = new Prng(SEED + run);
      const area = createFreeArea(8192, rng.pick(['address', 'fullest', 'lifo'] as const), 'shared');
      for (let b = 0; b < 16; b++) area.setPageblockType(b * 512, rng.below(6));
      for (let i = 0; i < 8192; ) {
        const order = rng.below(10);
        if (i % 2 ** order === 0 && i + 2 ** order <= 8192) {
          if (rng.chance(0.5)) area.free(i, order);
          i += 2 ** order;
        }
      }
      const chunks: number[] = [];
      area.forEachFree(0, 8192, (_i, order) => chunks.push(2 ** order));
      const free = chunks.reduce((a, b) => a + b, 0);
      const where = `seed=${SEED + run}`;
      for (let order = 0; order <= 10; order++) {
        const c = chunkCounts(area);
        const useless = chunks.filter((n) => n < 2 ** order).reduce((a, b) => a + b, 0);
        expect(extfragForOrder(c, order), where).toBe(free === 0 ? 0 : Math.floor((useless * 100) / free));
        expect(unusableFreeIndex(c, order), where).toBe(free === 0 ? 1000 : Math.floor((useless * 1000) / free));
        const fits = chunks.some((n) => n >= 2 ** order);
        const naive =
          free === 0
            ? 0
            : fits
              ? -1000
              : 1000 - Math.floor((1000 + Math.floor((free * 1000) / 2 ** order)) / chunks.length);
        expect(fragmentationIndex(c, order), where).toBe(naive);
      }
    }
  });
});
