// What the demo says of chunk tracking. Rules in docs/spec/chunk-index.md.

import { describe, expect, it } from 'vitest';
import { fragmentation } from './fragmentation.ts';

describe('pools/fragmentation', () => {
  const { facts } = fragmentation.run({});
  const fact = (name: string): number => facts[name] as number;

  it('TW3 no more than half as many frames are looked at, for the first request and for all of them', () => {
    for (const way of ['scanners', 'told']) {
      for (const what of ['firstVisits', 'visits']) {
        expect(fact(`index.${what}`), `${way} ${what}`).toBeLessThanOrEqual(fact(`${way}.${what}`) / 2);
      }
      expect(fact('index.moved')).toBeLessThan(fact(`${way}.moved`) / 2);
    }
  });

  it('TW1 TW2 two scanners move pages out of chunks that keep one of the kernel; told of them, or by the index, none is', () => {
    expect(fact('scanners.unmovableChunks')).toBe(77);
    expect(fact('scanners.inVain')).toBeGreaterThan(1000);
    expect([fact('told.inVain'), fact('index.inVain'), fact('pools.inVain')]).toEqual([0, 0, 0]);
    expect([fact('index.served'), fact('pools.served')]).toEqual([32, 32]);
    expect(fact('scanners.served')).toBeLessThanOrEqual(32);
  });

  it('CC3 EV3 expensive memory is put off, and a pool for the kernel leaves more that is cheap, at a price', () => {
    expect(fact('index.dirtyMoved')).toBeLessThan(fact('told.dirtyMoved') / 2);
    expect(fact('pools.dirtyMoved')).toBeLessThan(fact('index.dirtyMoved'));
    expect([fact('index.dropped') > 0, fact('told.dropped')]).toEqual([true, 0]);
    expect([fact('pools.unmovableChunks') < 10, fact('pools.idle') > 0, fact('index.prepared') > 0]).toEqual(
      Array(3).fill(true),
    );
  });
});
