// The demo of DMA rules: modules share pools by what their devices can address.

import { describe, expect, it } from 'vitest';
import { dmaRules } from './dma-rules.ts';

describe('demo pools/dma-rules', () => {
  for (const seed of [1, 2007]) {
    it(`drivers that state their rule all get buffers that keep it, from as many pools as there are rules at most: seed ${seed}`, () => {
      const { facts, table } = dmaRules.run({ seed });
      expect(facts['rules.loaded']).toBe(facts.all);
      expect(facts['rules.right']).toBe(facts.all);
      expect(facts['rules.pools'] as number).toBeLessThanOrEqual(6);
      expect(facts['mask.right'] as number).toBeLessThan(facts.all as number);
      expect(facts['rules.belowDma'] as number).toBeLessThanOrEqual(facts['mask.belowDma'] as number);
      expect(facts['rules.moved'] as number).toBeGreaterThan(0); // the price
      for (const row of table.rows) expect(row).toHaveLength(table.columns.length);
    });
  }

  it('two runs say the same', () => {
    expect(dmaRules.run({})).toEqual(dmaRules.run({}));
  });
});
