// Every demonstration of pools keeps the shape that demo.ts promises.

import { describe, expect, it } from 'vitest';
import { POOL_DEMOS } from './index.ts';

describe('demos of pools', () => {
  it('each has a name of its own, in the words of a command line', () => {
    const names = POOL_DEMOS.map((d) => d.name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[a-z]+(-[a-z]+)*$/);
    for (const demo of POOL_DEMOS) expect(demo.problem).toMatch(/^\S[^\n]*\S$/);
  });

  it.each(POOL_DEMOS)('$name: two runs agree, and each row has a cell for each column', (demo) => {
    const one = demo.run({ seed: 7 });
    expect(demo.run({ seed: 7 })).toEqual(one);
    expect(one.table.rows.length).toBeGreaterThan(0);
    for (const row of one.table.rows) expect(row.length, String(row[0])).toBe(one.table.columns.length);
    for (const line of [one.title, ...one.lines]) expect(line).not.toContain('\n');
    expect(Object.values(one.facts).some((v) => typeof v === 'number' && !Number.isFinite(v))).toBe(false);
  });
});
