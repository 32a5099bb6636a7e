// What the demo says of containers. Rules in docs/spec/pool-policies.md.

import { describe, expect, it } from 'vitest';
import { containers } from './containers.ts';

describe('pools/containers', () => {
  const { facts, table, lines } = containers.run({});
  const fact = (name: string): number => facts[name] as number;

  it('PG13 a storm in one pool changes nothing that is counted about the other, bit by bit; without pools it does', () => {
    expect([facts['free.unchanged'], facts['cgroups.unchanged'], facts['pools.unchanged']]).toEqual([
      false,
      false,
      true,
    ]);
    expect([fact('pools.stormRefused'), fact('pools.floodRefused'), fact('pools.buffersRefused')]).toEqual([0, 0, 0]);
    expect(fact('free.floodRefused')).toBeGreaterThan(1000);
    expect(fact('free.buffersRefused')).toBeGreaterThan(0);
  });

  it('PG13 a counter limits how much, not which frames: shop goes to the far node and shares blocks', () => {
    expect(fact('cgroups.stormFar')).toBeGreaterThan(1000);
    expect(fact('cgroups.mixedBlocks')).toBeGreaterThan(0);
    expect([fact('pools.stormFar'), fact('pools.buffersFar'), fact('pools.mixedBlocks')]).toEqual([0, 0, 0]);
  });

  it('PG13 the price is said: batch gets less than without limits, while frames of shop lie idle', () => {
    expect(fact('pools.batchPages')).toBeLessThan(fact('free.batchPages'));
    expect(fact('pools.idlePages')).toBeGreaterThan(0);
    expect(fact('pools.batchPages')).toBeLessThanOrEqual(fact('cgroups.batchPages'));
  });

  it('PG5 PG6 PG8 PG9 limits change while both run, pages move or change hands, and a refusal says who holds what', () => {
    expect(fact('tweak.dropped')).toBeGreaterThan(0);
    expect(fact('tweak.shopLimit')).toBe(16384 + 2048);
    expect(fact('tweak.migrated')).toBeGreaterThan(0);
    expect(fact('tweak.stayed')).toBeGreaterThan(0);
    expect([fact('tweak.inPlace') > 0, fact('tweak.copied')]).toEqual([true, 0]);
    expect(facts['tweak.refusal']).toMatch(/do not leave: batch's heap \d+ \(anonymous\)/);
  });

  it('another seed gives another result; the table is whole', () => {
    expect(containers.run({ seed: 1 }).facts).not.toEqual({ ...facts, seed: 1 });
    for (const row of table.rows) expect(row.length).toBe(table.columns.length);
    expect(lines.join('\n')).toContain(`${fact('cgroups.stormFar')} of 2000 pages from the other node`);
  });
});
