// What the demo says of NUMA policies. Rules in docs/spec/pool-policies.md.

import { describe, expect, it } from 'vitest';
import { numaPolicy } from './numa-policy.ts';

describe('pools/numa-policy', () => {
  const { facts, table, lines } = numaPolicy.run({});
  const fact = (name: string): number => facts[name] as number;

  it('MP12 first touch gives remote pages, a node that is bound refuses, a pool does neither', () => {
    expect(fact('touch.crash.far')).toBeGreaterThan(1000);
    expect([fact('numactl.crash.far'), fact('numactl.crash.refused') > 1000]).toEqual([0, true]);
    expect([fact('pools.crash.near'), fact('pools.crash.far'), fact('pools.crash.refused')]).toEqual([20_000, 0, 0]);
  });

  it('MP3 MP12 turns of three to one are three to one, to the page', () => {
    for (const way of ['numactl', 'pools']) {
      expect([fact(`${way}.weather.near`), fact(`${way}.weather.far`)], way).toEqual([28_500, 9_500]);
    }
  });

  it('MP7 MP9 MP12 pages follow changed weights in bounded calls; pinned ones are named, and follow when they may', () => {
    // 0 0 0 2 becomes 0 2 2 2: half of the pages move, the least that can.
    expect(fact('pools.copied')).toBe(19_000);
    // 37 calls of 512 and one for the rest, a call that is refused, and one for what was pinned.
    expect(fact('calls')).toBe(Math.ceil((19_000 - 12) / fact('perCall')) + 2);
    expect(facts.refusal).toContain('12 pages lie where its policy does not want them and stay, the first is pinned');
    expect(fact('pools.tweakedMean')).toBe((10 * 3 + 16) / 4);
    expect([fact('numactl.tweakedMean'), fact('numactl.copied')]).toEqual([fact('numactl.movedMean'), 0]);
  });

  it('MP12 the price is said: the visitor is further from its memory, and frames lie idle', () => {
    expect(fact('pools.visitor.mean')).toBeGreaterThan(fact('touch.visitor.mean'));
    expect(fact('pools.idle')).toBeGreaterThan(0);
    expect(fact('pools.visitor.refused')).toBe(0);
  });

  it('another seed gives another result; the table is whole', () => {
    expect(numaPolicy.run({ seed: 1 }).facts).not.toEqual({ ...facts, seed: 1 });
    for (const row of table.rows) expect(row.length).toBe(table.columns.length);
    expect(lines.join('\n')).toContain(`${fact('numactl.crash.refused')} of its 20000 requests are refused`);
  });
});
