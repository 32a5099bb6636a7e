// What the demo says of the embedded build. Rules in docs/spec/embedded.md.

import { describe, expect, it } from 'vitest';
import { embedded } from './embedded.ts';

describe('pools/embedded', () => {
  const { facts, table, lines } = embedded.run({});
  const fact = (name: string): number => facts[name] as number;

  it('EB10 one frame through the free lists for one, and none set aside; per-CPU lists save work and set frames aside', () => {
    expect([fact('embedded.movedMean'), fact('embedded.movedWorst'), fact('embedded.setAside')]).toEqual([1, 1, 0]);
    expect(fact('full.movedMean')).toBeLessThan(1);
    expect(fact('full.movedWorst')).toBeGreaterThan(1);
    expect(fact('full.setAside')).toBeGreaterThan(0);
  });

  it('EB6 EB7 both builds refuse when memory is short, and keep the reserve for urgent callers', () => {
    expect([fact('full.refused') > 0, fact('embedded.refused') > 0]).toEqual([true, true]);
    expect([fact('full.urgent'), fact('embedded.urgent')]).toEqual([fact('reserve'), fact('reserve')]);
  });

  it('EB13 its tables are a fraction of the full build’s, in use even more so', () => {
    expect(fact('full.tableBytes')).toBeGreaterThan(30 * fact('embedded.tableBytes'));
    expect(fact('full.tableBytesInUse')).toBeGreaterThan(fact('full.tableBytes'));
    expect(fact('embedded.tableBytesInUse')).toBe(fact('embedded.tableBytes'));
    expect([fact('full.lists'), fact('embedded.lists')]).toEqual([69, 11]);
  });

  it('EB5 the price: without grouping few 2 MiB blocks become whole again, and no frame can be explained', () => {
    expect(fact('full.wholeBlocks')).toBeGreaterThan(4 * fact('embedded.wholeBlocks'));
    expect([facts['full.usedBy'], facts['embedded.usedBy']]).toEqual(['kernel', '']);
  });

  it('the same seed gives the same result, another one another; the table is whole', () => {
    expect(embedded.run({})).toEqual(embedded.run({ seed: fact('seed') }));
    expect(embedded.run({ seed: 1 }).facts).not.toEqual({ ...facts, seed: 1 });
    for (const row of table.rows) expect(row.length).toBe(table.columns.length);
    expect(lines.join('\n')).toContain(`${fact('full.wholeBlocks')} of 16 blocks`);
  });
});
