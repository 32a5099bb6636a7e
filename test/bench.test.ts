// The bench, tiny, on the sources: it cannot rot. Correctness and equal work are judged, time never.

import { describe, expect, it } from 'vitest';
import type { Code } from '#base/specialise';
import type { Placement } from '#mm/free-area';
import { createFreeArea } from '#mm/free-area-create';
import { createPageAlloc } from '#mm/page-alloc';
import type { Engine } from '../bench/workloads.mjs';
import { runWorkload, WORKLOAD_NAMES } from '../bench/workloads.mjs';

const SIZES = { pages: 16384, ops: 20_000, boot: 2 ** 20, rounds: 1 };

const engine =
  (placement: Placement, code: Code) =>
  (pages: number): Engine => {
    const area = createFreeArea(pages, placement, code);
    const pool = createPageAlloc(area, { cpus: 1, batch: 64, high: 256, capacity: 512, code });
    pool.online(0, pages);
    return { allocPages: pool.alloc, freePages: pool.free, metadataBytes: pool.bytes };
  };

for (const placement of ['address', 'fullest', 'lifo'] as const) {
  describe(`bench on ${placement}`, () => {
    it('every workload does the same work with own and with shared code, and twice in a row', () => {
      const hashes = (code: Code) =>
        WORKLOAD_NAMES.map((name) => `${name} ${runWorkload(name, engine(placement, code), SIZES).hash ?? ''}`);
      const first = hashes('own');
      console.log(`${placement}: ${first.join(', ')}`);
      expect(hashes('own')).toEqual(first);
      expect(hashes('shared')).toEqual(first);
    });

    it('V the verifier passes', () => {
      expect(runWorkload('V', engine(placement, 'shared'), { ...SIZES, ops: 60_000 })).toMatchObject({
        ok: true,
        bad: 0,
      });
    });

    it('W3 gives every frame; W4 finds every free 2 MiB block; Q leaves the best possible', () => {
      expect(runWorkload('W3', engine(placement, 'shared'), SIZES).given).toBe(SIZES.pages);
      const w4 = runWorkload('W4', engine(placement, 'shared'), SIZES);
      expect(w4.got).toBe(w4.expected);
      const q = runWorkload('Q', engine(placement, 'shared'), SIZES);
      expect(q.huge).toBe(q.best);
    });
  });
}

describe('what the bench says of placements', () => {
  const last = (placement: Placement): number =>
    runWorkload('F', engine(placement, 'shared'), SIZES).percent?.['100'] ?? -1;

  it('F fullest makes pageblocks whole under churn; address and lifo leave them as they are', () => {
    expect(last('fullest')).toBeGreaterThan(75);
    expect(last('address')).toBeLessThan(30);
    expect(last('lifo')).toBeLessThan(30);
  });

  it('W5 an idle machine costs less than 0.3 bytes a page', () => {
    for (const placement of ['address', 'fullest'] as const) {
      const row = runWorkload('W5', engine(placement, 'shared'), { ...SIZES, boot: 2 ** 28 });
      expect(row.bytesPerPage).toBeLessThan(0.3);
    }
  });

  it('V sees an engine that gives a frame twice', () => {
    const broken = (pages: number): Engine => {
      const good = engine('address', 'shared')(pages);
      let n = 0;
      return { ...good, allocPages: (order, type) => (++n === 500 ? 0 : good.allocPages(order, type)) };
    };
    expect(runWorkload('V', broken, SIZES).ok).toBe(false);
  });
});
