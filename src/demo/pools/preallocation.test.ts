// What the demo says of preallocation. Rules in docs/spec/pool-policies.md.

import { describe, expect, it } from 'vitest';
import { preallocation } from './preallocation.ts';

describe('pools/preallocation', () => {
  const { facts, table, lines } = preallocation.run({});
  const fact = (name: string): number => facts[name] as number;

  it('PA1 set aside at boot: all chunks at any time; without: a few at most, with most of memory free', () => {
    expect([fact('pool.busy.lists'), fact('pool.quiet.lists')]).toEqual([256, 256]);
    expect(fact('none.busy.lists')).toBeLessThan(64);
    expect(fact('none.quiet.lists')).toBeLessThan(64);
    expect(fact('none.freePages')).toBeGreaterThan(0.85 * fact('pages'));
  });

  it('PA1 moving pages helps when there is room to move to, and costs copies', () => {
    expect(fact('none.busy.moving')).toBeLessThan(64);
    expect(fact('none.quiet.moving')).toBe(256);
    expect(fact('none.quiet.copied')).toBeGreaterThan(10_000);
  });

  it('PA2 the load pays: it drops page cache earlier; nothing is refused', () => {
    expect(fact('pool.dropped')).toBeGreaterThan(2 * fact('none.dropped'));
    expect([fact('none.refused'), fact('pool.refused')]).toEqual([0, 0]);
  });

  it('PA3 what is set aside goes back whole', () => {
    expect(fact('pool.chunksBack')).toBeGreaterThanOrEqual(256);
    expect([fact('pool.chunksInTheEnd'), fact('none.chunksInTheEnd')]).toEqual([512, 512]);
    expect(fact('pool.chunksAtBoot')).toBe(512);
  });

  it('another seed gives another result; the table is whole', () => {
    expect(preallocation.run({ seed: 1 }).facts).not.toEqual({ ...facts, seed: 1 });
    for (const row of table.rows) expect(row.length).toBe(table.columns.length);
    expect(lines.join('\n')).toContain(`they have ${fact('none.quiet.lists')} of 256`);
  });
});
