// Spec 2.3, sentence by sentence.

import { describe, expect, it } from 'vitest';
import type { FallbackPolicy } from './fallback.ts';
import { claimPermitted, decideFallback, FALLBACKS, noDecision, worthClaiming } from './fallback.ts';
import type { FreeArea } from './free-area.ts';
import { createFreeArea } from './free-area-create.ts';

const U = 0;
const M = 1;
const R = 2;
const H = 3;
const C = 4;
const I = 5;

/** An area with these free chunks; each pageblock's type is set before its pages are freed. */
function areaOf(types: readonly number[], free: readonly (readonly [i: number, order: number])[]): FreeArea {
  const area = createFreeArea(types.length * 512, 'address', 'shared');
  types.forEach((mt, b) => {
    area.setPageblockType(b * 512, mt);
  });
  for (const [i, order] of free) area.free(i, order);
  return area;
}

const decide = (area: FreeArea, order: number, mt: number, policy: FallbackPolicy & { noFragment?: boolean } = {}) => {
  const out = noDecision();
  decideFallback(area, { order, mt, noFragment: policy.noFragment === true }, policy, out);
  return out.action === 'none' ? 'none' : `${out.action} ${out.index}/${out.fallbackOrder} of ${out.from}`;
};

describe('FB1 the table', () => {
  it('U raids R then M, M raids R then U, R raids U then M', () => {
    expect(FALLBACKS).toEqual([
      [R, M],
      [R, U],
      [U, M],
    ]);
    const all = areaOf(
      [U, U, M, M, R, R],
      [0, 1024, 2048].map((i) => [i, 10] as const),
    );
    expect([U, M, R].map((mt) => decide(all, 0, mt))).toEqual([
      'claim 2048/10 of 2',
      'claim 2048/10 of 2',
      'claim 0/10 of 0',
    ]);
    const noFirst = areaOf(
      [U, U, M, M],
      [0, 1024].map((i) => [i, 10] as const),
    );
    expect([U, M, R].map((mt) => decide(noFirst, 0, mt))).toEqual([
      'claim 1024/10 of 1',
      'claim 0/10 of 0',
      'claim 0/10 of 0',
    ]);
  });

  it('CMA, HighAtomic and Isolate are never raided, and have no fallback', () => {
    const special = areaOf(
      [H, H, C, C, I, I],
      [0, 1024, 2048].map((i) => [i, 10] as const),
    );
    for (const mt of [U, M, R]) expect(decide(special, 0, mt)).toBe('none');
    const plenty = areaOf([M, M], [[0, 10]]);
    for (const mt of [H, C, I]) expect(decide(plenty, 0, mt)).toBe('none');
  });
});

describe('FB2 claim pass', () => {
  it('goes from the largest order down: the biggest page of any fallback type wins over the first type', () => {
    const area = areaOf(
      [R, R, M, M],
      [
        [0, 8],
        [1024, 10],
      ],
    );
    expect(decide(area, 0, U)).toBe('claim 1024/10 of 1');
  });

  it('at one order the first type of the row wins', () => {
    const area = areaOf(
      [M, H, R, H],
      [
        [0, 9],
        [1024, 9],
      ],
    );
    expect(decide(area, 0, U)).toBe('claim 1024/9 of 2');
  });

  it('is permitted from order 4 for Movable, always for Unmovable and Reclaimable, or without grouping', () => {
    const permitted = (mt: number, grouping: boolean): number[] =>
      Array.from({ length: 11 }, (_, c) => c).filter((c) => claimPermitted(c, mt, grouping));
    expect(permitted(M, true)).toEqual([4, 5, 6, 7, 8, 9, 10]);
    expect(permitted(U, true)).toHaveLength(11);
    expect(permitted(R, true)).toHaveLength(11);
    expect(permitted(M, false)).toHaveLength(11);
  });

  it('for Movable stops at order 4: order 3 is stolen even where the pageblock is worth claiming', () => {
    const chunks = Array.from({ length: 32 }, (_, k) => [k * 16, 3] as const);
    const area = areaOf([U, U], chunks); // 256 free in pageblock 0, nothing above order 3
    expect(decide(area, 0, M)).toBe('steal 0/3 of 0');
    expect(decide(area, 0, R)).toBe('claim 0/3 of 0');
    expect(decide(area, 0, M, { grouping: false })).toBe('claim 0/3 of 0');
  });

  it('looks at no order below the request', () => {
    const area = areaOf([M, M], [[0, 5]]);
    expect(decide(area, 6, U)).toBe('none');
  });

  it('never raids a page that the request could not use: own lists are not looked at', () => {
    const area = areaOf([U, U], [[0, 10]]);
    expect(decide(area, 0, U)).toBe('none');
  });
});

describe('FB2 the rule of half', () => {
  it('free + alike >= 256 claims, 255 does not', () => {
    expect(worthClaiming({ free: 256, movable: 0, from: U }, M)).toBe(true);
    expect(worthClaiming({ free: 255, movable: 0, from: U }, M)).toBe(false);
    expect(worthClaiming({ free: 100, movable: 156, from: U }, M)).toBe(true);
    expect(worthClaiming({ free: 100, movable: 155, from: U }, M)).toBe(false);
  });

  it('alike to Movable are the movable pages', () => {
    expect(worthClaiming({ free: 16, movable: 300, from: R }, M)).toBe(true);
  });

  it('alike to others, in a Movable pageblock, are those that are neither free nor movable', () => {
    expect(worthClaiming({ free: 16, movable: 240, from: M }, U)).toBe(true);
    expect(worthClaiming({ free: 16, movable: 257, from: M }, U)).toBe(false);
    expect(worthClaiming({ free: 16, movable: 256, from: M }, R)).toBe(true); // 16 + (512 - 272) = 256
  });

  it('between Unmovable and Reclaimable only free pages count', () => {
    expect(worthClaiming({ free: 255, movable: 0, from: R }, U)).toBe(false);
    expect(worthClaiming({ free: 256, movable: 0, from: U }, R)).toBe(true);
  });

  it('asks movableIn for the pageblock, and tries the next lower order when half is not reached', () => {
    const area = areaOf(
      [M, M, M, M],
      [
        [256, 6], // pageblock 0: 64 free, nearly all others movable
        [1024, 5], // pageblock 2: 32 free, few movable
      ],
    );
    const asked: number[] = [];
    const movableIn = (start: number): number => {
      asked.push(start);
      return start === 0 ? 440 : 100;
    };
    expect(decide(area, 0, U, { movableIn })).toBe('claim 1024/5 of 1');
    expect(asked).toEqual([0, 1024]);
  });

  it('without movableIn the used pages are taken to be of their pageblock type', () => {
    const area = areaOf([M, M], [[0, 7]]);
    expect(decide(area, 0, U)).toBe('steal 0/7 of 1');
    const half = areaOf([M, M], [[0, 8]]);
    expect(decide(half, 0, U)).toBe('claim 0/8 of 1');
  });

  it('does not ask for whole pageblocks', () => {
    const area = areaOf([M, H], [[0, 9]]);
    const movableIn = (): number => {
      throw new Error('asked');
    };
    expect(decide(area, 0, U, { movableIn })).toBe('claim 0/9 of 1');
  });
});

describe('FB4 boost and span', () => {
  it('each try below a pageblock is told, before it is known to succeed; whole pageblocks are not', () => {
    const area = areaOf(
      [M, M, M, M],
      [
        [256, 6],
        [1024, 5],
      ],
    );
    const tries: number[] = [];
    decide(area, 0, U, { movableIn: () => 440, onBoost: (start) => tries.push(start) });
    expect(tries).toEqual([0, 1024]);
    const whole = areaOf([M, M], [[0, 10]]);
    const none: number[] = [];
    decide(whole, 0, U, { onBoost: (start) => none.push(start) });
    expect(none).toEqual([]);
  });

  it('a pageblock that reaches out of the pool cannot be claimed, but can be stolen from', () => {
    const area = areaOf([M, M], [[0, 8]]);
    expect(decide(area, 0, U, { spans: () => false })).toBe('steal 0/8 of 1');
  });
});

describe('FB3 steal pass', () => {
  it('goes from the request order up: the smallest page that fits', () => {
    const area = areaOf(
      [M, M, M, M],
      [
        [256, 6],
        [1024, 5],
        [1536, 2],
      ],
    );
    expect(decide(area, 3, U, { movableIn: () => 512 })).toBe('steal 1024/5 of 1');
    expect(decide(area, 0, U, { movableIn: () => 512 })).toBe('steal 1536/2 of 1');
  });

  it('at one order the first type of the row wins', () => {
    const area = areaOf(
      [U, U, R, R],
      [
        [0, 2],
        [1024, 2],
      ],
    );
    expect(decide(area, 1, M)).toBe('steal 1024/2 of 2');
  });
});

describe('FB7 no-fragment (spec 2.7)', () => {
  it('claims whole pageblocks only, and never steals', () => {
    const area = areaOf([M, M], [[0, 8]]);
    expect(decide(area, 0, U, { noFragment: true })).toBe('none');
    const whole = areaOf([M, H], [[0, 9]]);
    expect(decide(whole, 0, U, { noFragment: true })).toBe('claim 0/9 of 1');
    expect(decide(whole, 10, U, { noFragment: true })).toBe('none');
  });
});

describe("FB5 FB6 the older shape, 'largest-first' (Linux 6.1)", () => {
  const old = (area: FreeArea, order: number, mt: number, policy: FallbackPolicy & { noFragment?: boolean } = {}) =>
    decide(area, order, mt, { ...policy, shape: 'largest-first' });

  it('FB5 the largest page of any type: claimed where it is a pageblock, or half of its pageblock suits', () => {
    const area = areaOf(
      [R, R, M, M],
      [
        [0, 8],
        [1024, 10],
      ],
    );
    expect(old(area, 0, U)).toBe('claim 1024/10 of 1');
    const half = areaOf([M, M], [[0, 8]]);
    expect(old(half, 0, U)).toBe('claim 0/8 of 1');
  });

  it('FB5 else it is split all the same: no lower order is tried, and the smallest page of that pageblock goes first', () => {
    const area = areaOf(
      [M, M, M, M],
      [
        [0, 6],
        [128, 2],
        [300, 1],
        [1024, 5], // a pageblock that would suit
      ],
    );
    const movableIn = (start: number): number => (start === 0 ? 430 : 100);
    expect(old(area, 0, U, { movableIn })).toBe('split 300/1 of 1');
    expect(old(area, 2, U, { movableIn })).toBe('split 128/2 of 1');
    expect(decide(area, 0, U, { movableIn })).toBe('claim 1024/5 of 1'); // the newer shape goes on to order 5
  });

  it('FB5 Movable, when nothing above order 3 is there: the smallest page, where it is larger than wanted', () => {
    const area = areaOf(
      [U, U, R, R],
      [
        [0, 3],
        [1024, 1],
      ],
    );
    expect(old(area, 0, M)).toBe('steal 1024/1 of 2');
    expect(old(area, 3, M)).toBe('split 0/3 of 0'); // just as large as wanted: no other is looked for
    expect(old(area, 0, M, { grouping: false })).toBe('claim 0/3 of 0');
  });

  it('FB5 boosts for every page below a pageblock, claimed or not', () => {
    const tries: number[] = [];
    const onBoost = (start: number): number => tries.push(start);
    old(areaOf([M, M, M, M], [[1024, 6]]), 0, U, { movableIn: () => 440, onBoost });
    old(areaOf([U, U], [[8, 3]]), 0, M, { onBoost });
    old(areaOf([M, M], [[0, 9]]), 0, U, { onBoost });
    expect(tries).toEqual([1024, 0]);
  });

  it('FB5 no-fragment: whole pageblocks or nothing', () => {
    expect(old(areaOf([M, M], [[0, 8]]), 0, U, { noFragment: true })).toBe('none');
    expect(old(areaOf([M, M], [[0, 9]]), 0, U, { noFragment: true })).toBe('claim 0/9 of 1');
  });

  it('FB6 what was not claimed is lent: the next requests of the type use that pageblock up, smallest page first', () => {
    const area = areaOf(
      [M, M, M, M],
      [
        [0, 6],
        [1024, 5],
      ],
    );
    const lent = new Int32Array(3).fill(-1);
    const policy = { movableIn: (start: number) => (start === 0 ? 430 : 100), lent };
    expect(old(area, 0, U, policy)).toBe('split 0/6 of 1');
    expect([...lent]).toEqual([0, -1, -1]);
    area.take(0, 6);
    for (let o = 5; o >= 0; o--) area.put(2 ** o, o);
    expect(old(area, 0, U, policy)).toBe('lent 1/0 of 1');
    expect(old(area, 4, U, policy)).toBe('lent 16/4 of 1');
    expect(old(area, 5, R, policy)).toBe('split 32/5 of 1'); // a search and a loan of its own
    area.setPageblockType(0, U); // claimed meanwhile: it is no fallback any more
    expect(old(area, 0, U, policy)).toBe('claim 1024/5 of 1');
    expect(lent[U]).toBe(-1);
  });
});

it('FB3 a bulk that had to steal does not try to claim again', () => {
  const area = areaOf([M, M], [[0, 9]]);
  const out = noDecision();
  decideFallback(area, { order: 0, mt: U, noFragment: false, stealing: true }, {}, out);
  expect([out.action, out.fallbackOrder]).toEqual(['steal', 9]);
});
