// T-INGO by example: what Linux cannot remove, and what goes. Rules in docs/spec/sim.md.

import { describe, expect, it } from 'vitest';
import { compactMemory } from '#mm/compaction/kcompactd';
import type { Machine } from '#mm/index';
import { tryDimm } from '#sim/dimm-trial';
import { fragment } from '#sim/fragment';
import { INGO_HELPS, INGO_TLB_PPM, ingo, sumUp } from './ingo.ts';

const SMALL = { bytes: 4 * 2 ** 30, dimms: 8, rounds: 8 };

describe('ingo', () => {
  const reports = [1, 2, 3].map((seed) => ingo(seed, SMALL));
  const sums = sumUp(reports);
  const dimms = reports.flatMap((r) => r.dimms);

  it('SI1 Linux removes hardly any of the DIMMs, though many of their blocks go, and says why in each', () => {
    expect(sums).toMatchObject({ seeds: 3, dimms: 24, withoutX: 21, unnamed: 0 });
    expect(sums.removed.linux).toBeLessThanOrEqual(2);
    expect(sums.linuxBlocks).toBeGreaterThan(sums.blocks / 4);
    expect(sums.linuxBlocks).toBeLessThan(sums.blocks);
  });

  it('SI2 with all the help every DIMM without class X goes, in one pass; each help more frees as many or more', () => {
    expect(sums.stayed).toBe(0);
    expect(sums.removed.remap).toBe(21);
    for (const d of dimms) {
      const gone = INGO_HELPS.map((help) => d.trials[help].removed);
      expect([...gone].sort(), d.name).toEqual(gone); // false before true
    }
  });

  it('SI3 the DIMM with class X stays, and what stands in the way is named', () => {
    for (const r of reports) {
      const [first] = r.dimms;
      expect(first?.hardPinnedPages).toBeGreaterThan(0);
      for (const trial of Object.values(first?.trials ?? {})) {
        expect(trial.removed).toBe(false);
        expect(trial.why?.holder).not.toBe('');
      }
      expect(first?.trials.remap.why).toMatchObject({ cause: 'hard-pinned', class: 'reserved', errno: 'EINVAL' });
    }
  });

  it('SI4 small pages in the direct map cost less than a tenth of 4.5 %', () => {
    expect(sums.maxTlbPpm).toBeGreaterThan(0);
    expect(sums.maxTlbPpm).toBeLessThan(INGO_TLB_PPM);
  });

  it('SI5 each help has moved something, DMA ran all the while, and nobody has lost a frame', () => {
    for (const pages of Object.values(sums.moved)) expect(pages).toBeGreaterThan(0);
    for (const r of reports) expect(r.dmaWrites).toBeGreaterThan(0);
    expect(dimms.flatMap((d) => INGO_HELPS.flatMap((help) => d.trials[help].lost))).toEqual([]);
  });
});

describe('ingo, before grouping by mobility', () => {
  it('SI6 the machine of 2005: kernel pages are everywhere, and still every DIMM without class X goes', () => {
    const sums = sumUp([ingo(4, { ...SMALL, grouping: false })]);
    expect(sums).toMatchObject({ stayed: 0, unnamed: 0 });
    expect(sums.removed.linux).toBe(0);
    expect(sums.maxTlbPpm).toBeLessThan(45_000);
  });
});

describe('compaction', () => {
  it('SI7 moves thousands of pages and frees no block more: what moves is not what keeps a DIMM', () => {
    const { m, dimms } = fragment(1, SMALL);
    const compacted = m.fork();
    const moved = compactMemory(compacted).reduce((n, r) => n + r.moved, 0);
    expect(moved).toBeGreaterThan(1000);
    const blocks = (from: Machine): number[] => dimms.map((d) => tryDimm(from.fork(), d, []).blocksGone);
    expect(blocks(compacted)).toEqual(blocks(m));
  });
});
