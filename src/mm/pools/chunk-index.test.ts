// The chunk index by example, and what a query looks at. Rules CX1..CX3, docs/spec/chunk-index.md.

import { describe, expect, it } from 'vitest';
import { ChunkIndex, INFINITE } from './chunk-index.ts';

const indexOf = (costs: readonly number[], base = 0): ChunkIndex => {
  const x = new ChunkIndex();
  costs.forEach((cost, i) => {
    x.set(base + i, cost);
  });
  return x;
};

describe('ChunkIndex', () => {
  it('CX1 names the cheapest chunk, the lowest of equals', () => {
    const x = indexOf([9, 4, INFINITE, INFINITE, 4, 7], 1000);
    expect(x.argmin()).toBe(1001);
    x.set(1001, 8);
    expect(x.argmin()).toBe(1004);
    x.set(1003, 0);
    expect(x.argmin()).toBe(1003);
    x.remove(1003);
    x.set(1004, INFINITE);
    expect(x.top(9)).toEqual([
      { chunk: 1005, cost: 7 },
      { chunk: 1001, cost: 8 },
      { chunk: 1000, cost: 9 },
    ]);
    expect(x.check()).toEqual([]);
  });

  it('CX1 an empty index has no cheapest chunk', () => {
    const x = new ChunkIndex();
    expect([x.argmin(), x.top(3), x.players, x.costOf(5)]).toEqual([-1, [], 0, INFINITE]);
    x.set(70000, 3); // it moves to where its first chunk is, and stays small
    expect([x.argmin(), x.bytes()]).toEqual([70000, 3 * 16 * 4]);
    x.remove(70000);
    expect([x.argmin(), x.visits]).toEqual([-1, 1]);
  });

  it('CX2 chunks that cannot be emptied are never looked at, whatever their number', () => {
    const costs = Array.from({ length: 10000 }, (_, i) => (i % 2500 === 1 ? i : INFINITE));
    const x = indexOf(costs);
    x.argmin();
    expect(x.visits).toBe(1);
    expect(x.top(100).map((c) => c.chunk)).toEqual([1, 2501, 5001, 7501]);
    expect(x.visits).toBe(1 + 4);
    expect(x.players).toBe(4);
  });

  it('CX3 the table follows the hull, downwards and upwards', () => {
    const x = new ChunkIndex();
    for (const chunk of [5000, 4990, 100, 9000, 0]) x.set(chunk, chunk);
    expect(x.top(9).map((c) => c.chunk)).toEqual([0, 100, 4990, 5000, 9000]);
    expect(x.check()).toEqual([]);
  });
});
