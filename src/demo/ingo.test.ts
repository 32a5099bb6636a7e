// T-INGO by example: what Linux cannot remove, and what goes. Rules in docs/spec/sim.md.

import { describe, expect, it } from 'vitest';
import { INGO_TLB_PPM, ingo, sumUp } from './ingo.ts';

const SMALL = { bytes: 8 * 2 ** 30, dimms: 8, rounds: 12 };

describe('ingo', () => {
  const reports = [1, 2, 3].map((seed) => ingo(seed, SMALL));
  const sums = sumUp(reports);

  it('SI1 Linux removes none of the DIMMs, and says why in each', () => {
    expect(sums).toMatchObject({ seeds: 3, dimms: 24, withoutX: 21, unnamed: 0 });
    expect(sums.removed.linux).toBe(0);
    expect(sums.linuxBlocks).toBeGreaterThan(0);
  });

  it('SI3 the DIMM with class X stays, and what stands in the way is named', () => {
    for (const r of reports) {
      const [first] = r.dimms;
      expect(first?.hardPinnedPages).toBeGreaterThan(0);
      for (const trial of Object.values(first?.trials ?? {})) {
        expect(trial.removed).toBe(false);
        expect(trial.why?.holder).not.toBe('');
      }
    }
  });

  it('SI4 small pages in the direct map cost less than a tenth of 4.5 %', () => {
    expect(sums.maxTlbPpm).toBeLessThan(INGO_TLB_PPM);
  });
});
