// Levels and tokens. Rules DF1 and DF2, docs/spec/defrag.md.

import { describe, expect, it } from 'vitest';
import { toNodeId } from '#base/units';
import { worldFrom } from '../../../test/support/picture.ts';
import { MIGRATE_HIGHATOMIC } from '../geometry.ts';
import type { Pool } from '../pool.ts';
import { checkThresholds, freeBlocks, levelOf, needOf } from './thresholds.ts';
import { TokenBucket } from './token-bucket.ts';

const normal = (text: string): Pool => worldFrom(text).m.poolNamed(toNodeId(0), 'Normal') as Pool;

describe('thresholds', () => {
  it('DF1 the level of a number of blocks', () => {
    const t = { order: 9, low: 5, high: 8 };
    expect(Array.from({ length: 10 }, (_, n) => levelOf(n, t))).toEqual([3, 3, 3, 2, 2, 1, 1, 1, 0, 0]);
    expect(levelOf(0, { order: 9, low: 0, high: 1 })).toBe(1);
  });

  it('DF1 larger blocks count as so many, blocks that are kept for others not at all', () => {
    // 64 pageblocks of the section: the first three are drawn, the last is a chunk's half.
    const pool = normal('n0 Normal MM......|....MMMM|........');
    expect(freeBlocks(pool, 10)).toBe(31);
    expect(freeBlocks(pool, 9)).toBe(62);
    expect(freeBlocks(pool, 8)).toBe(2 * 62 + 1 + 1);
    pool.alloc.setPageblockType(2 * 512, MIGRATE_HIGHATOMIC);
    expect(freeBlocks(pool, 9)).toBe(61);
    pool.alloc.isolate(4 * 512);
    expect(freeBlocks(pool, 9)).toBe(60);
    pool.alloc.unisolate(4 * 512, 1);
    pool.alloc.setPageblockType(2 * 512, 1);
    expect(freeBlocks(pool, 9)).toBe(62);
  });

  it('DF1 the worst threshold of a pool counts, the larger order of equals', () => {
    const pool = normal('n0 Normal MM......|....MMMM|........');
    const need = (low9: number, high9: number, low10: number, high10: number) =>
      needOf(pool, [
        { order: 10, low: low10, high: high10 },
        { order: 9, low: low9, high: high9 },
      ]);
    expect(need(10, 62, 10, 31)).toEqual({ level: 0, order: 0 });
    expect(need(10, 63, 10, 31)).toEqual({ level: 1, order: 9 });
    expect(need(10, 63, 10, 32)).toEqual({ level: 1, order: 10 });
    expect(need(125, 125, 10, 32)).toEqual({ level: 3, order: 9 });
    for (const wrong of [
      { order: 0, low: 1, high: 2 },
      { order: 11, low: 1, high: 2 },
      { order: 9, low: 3, high: 2 },
      { order: 9, low: 0, high: 0 },
      { order: 9, low: 0.5, high: 2 },
    ])
      expect(() => checkThresholds([wrong])).toThrow(/threshold/);
  });
});

describe('tokens', () => {
  it('DF2 come with time, up to the burst, and a debt is waited for', () => {
    const b = new TokenBucket({ rate: 0.5, burst: 4 });
    expect(b.available(0)).toBe(4);
    b.spend(3);
    expect(b.available(1)).toBe(1); // 1.5
    b.spend(1);
    expect(b.available(2)).toBe(1);
    expect(b.available(100)).toBe(4);
    b.spend(6);
    expect(b.available(103)).toBe(-1); // -0.5
    expect(b.available(106)).toBe(1);
    expect(() => b.available(105)).toThrow(/time/);
    const free = new TokenBucket({ rate: Number.POSITIVE_INFINITY, burst: 1 });
    free.spend(10 ** 6);
    expect(free.available(0)).toBe(Number.POSITIVE_INFINITY);
    expect(() => new TokenBucket({ rate: -1, burst: 1 })).toThrow(/rate/);
  });
});
