// The demo of DMA pools near their device: its figures, before and after.

import { describe, expect, it } from 'vitest';
import { dmaLocality } from './dma-locality.ts';

describe('demo pools/dma-locality', () => {
  for (const seed of [1, 2007]) {
    it(`every device is next to all of its memory, where a wish is not enough: seed ${seed}`, () => {
      const { facts, table } = dmaLocality.run({ seed });
      expect(facts['pools.local']).toBe(facts['pools.pages']);
      expect(facts['pools.refused']).toBe(0);
      expect(facts['pools.distance']).toBe(10);
      expect(facts['mask.local'] as number).toBeLessThan(0.8 * (facts['pools.local'] as number));
      expect(facts['pools.moved'] as number).toBeGreaterThan(0); // the price
      for (const row of table.rows) expect(row).toHaveLength(table.columns.length);
    });
  }

  it('two runs say the same', () => {
    expect(dmaLocality.run({})).toEqual(dmaLocality.run({}));
  });
});
