// What the demo says of realtime pools. Rules in docs/spec/pool-leases.md.

import { describe, expect, it } from 'vitest';
import { realtime } from './realtime.ts';

describe('pools/realtime', () => {
  const { facts } = realtime.run({});
  const fact = (name: string): number => facts[name] as number;

  it('RB1 RB2 the worst call in a realtime pool stays within the bound; in a zone one has to make room for itself', () => {
    expect(fact('pool.calls')).toBe(fact('zone.calls'));
    expect(fact('pool.workWorst')).toBeLessThanOrEqual(fact('bound'));
    expect([fact('pool.slow'), fact('pool.dropped'), fact('pool.visited'), fact('pool.refused')]).toEqual([0, 0, 0, 0]);
    expect(fact('zone.slow')).toBeGreaterThan(100);
    expect(fact('zone.workP99')).toBeGreaterThan(3 * fact('pool.workP99'));
    expect(fact('zone.workWorst')).toBeGreaterThan(100 * fact('pool.workWorst'));
    expect(fact('zone.visited')).toBeGreaterThan(10_000);
  });

  it('RB3 the price: without per-CPU lists more lists change on average, and what the loop does not use is idle', () => {
    expect(fact('pool.listsMean')).toBeGreaterThan(2 * fact('zone.listsMean'));
    expect([fact('pool.idle') > 0, fact('zone.idle')]).toEqual([true, 0]);
  });

  it('LR1 LR5 RB1 its pool grows at the expense of a lower one while the loop runs, and gives the frames back', () => {
    expect([fact('resize.from'), fact('resize.to')]).toEqual([256, 1024]);
    expect(fact('resize.batchFrom') - fact('resize.batchTo')).toBe(768);
    expect([fact('resize.cacheDropped'), fact('resize.back')]).toEqual([768, 768]);
    expect(fact('resize.worst')).toBeLessThanOrEqual(fact('bound'));
    expect(facts['resize.refusal']).toContain('pool hobby');
  });
});
