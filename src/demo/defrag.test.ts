// The demo's figures keep what it says. Rules DF11 and FP11, docs/spec/defrag.md and mapping-pools.md.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { DEFRAG_STRATEGIES, defrag } from './index.ts';

const report = defrag();
const row = (name: (typeof DEFRAG_STRATEGIES)[number]) => {
  const found = report.strategies.find((r) => r.strategy === name);
  if (found === undefined) throw new Error(name);
  return found;
};

describe('demo defrag', () => {
  it('DF11 the same load for all; with all three sources a tenth of the stalls, and idle work that yields', () => {
    expect(report.strategies.map((r) => r.strategy)).toEqual([...DEFRAG_STRATEGIES]);
    expect(new Set(report.strategies.map((r) => r.requests)).size).toBe(1);
    for (const by of ['scanners', 'by cost'] as const) {
      const failure = row(`${by}: failure`);
      const all = row(`${by}: all three`);
      expect(all.served).toBe(all.requests);
      expect(failure.stalls).toBeGreaterThan(row('nobody').stalls / 2);
      expect(all.stalls).toBeLessThanOrEqual(failure.stalls / 10);
      expect(all.moved).toBeLessThanOrEqual(1.5 * row(`${by}: failure, daemon`).moved);
      expect(all.mostIdleDelay).toBeLessThanOrEqual(1);
    }
    const perBlock = (r: { moved: number; gained: number }): number => r.moved / r.gained;
    expect(perBlock(row('by cost: failure'))).toBeLessThan(perBlock(row('linux')));
    expect(perBlock(row('linux'))).toBeLessThan(1.2 * perBlock(row('scanners: failure')));
  });

  it('FP11 pools that know the length leave large blocks, within the limit of tails', () => {
    const [plain, , told] = report.files;
    expect(told.large).toBeGreaterThanOrEqual(5 * plain.large);
    for (const f of report.files) expect(f.mostTails).toBeLessThanOrEqual(0.0301 * (report.ramBytes / 4096));
  });

  it('DF11 its document is what its schema names', () => {
    const url = new URL('../../docs/formats/demo-defrag.schema.json', import.meta.url);
    const schema = JSON.parse(readFileSync(url, 'utf8')) as {
      required: string[];
      properties: Record<string, { items: { required: string[] } }>;
    };
    expect(Object.keys(report).sort()).toEqual(schema.required.filter((k) => k !== 'dimmer' && k !== 'version').sort());
    for (const part of ['strategies', 'files'] as const) {
      for (const r of report[part])
        expect(Object.keys(r).sort()).toEqual([...schema.properties[part].items.required].sort());
    }
  });
});
