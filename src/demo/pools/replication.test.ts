// What the demo says of replicas. Rules in docs/spec/replicas.md.

import { describe, expect, it } from 'vitest';
import { replication } from './replication.ts';

describe('pools/replication', () => {
  const { facts, lines } = replication.run({});
  const fact = (name: string): number => facts[name] as number;

  it('RP4 RP6 with a copy on every node no read is remote, at four times the memory and four pages for a write', () => {
    for (const k of [0, 1, 100]) {
      expect([fact(`update.writes${k}.farReads`), fact(`update.writes${k}.meanDistance`)]).toEqual([0, 10]);
      expect(fact(`update.writes${k}.frames`)).toBe(4 * fact(`one.writes${k}.frames`));
      expect(fact(`update.writes${k}.copiesWritten`)).toBe(4 * fact(`update.writes${k}.writes`));
      expect(fact(`one.writes${k}.farReads`) / fact(`one.writes${k}.reads`)).toBeGreaterThan(0.7);
    }
    expect(fact('update.writes1.writes')).toBeGreaterThan(3);
  });

  it('RP5 RP6 collapse pays by the write: rare ones cost little, frequent ones most of what replicas are for', () => {
    const far = (k: number): number => fact(`collapse.writes${k}.farReads`) / fact(`collapse.writes${k}.reads`);
    expect(far(1) - far(0)).toBeLessThan(0.05);
    expect(far(100) - far(0)).toBeGreaterThan(0.2);
    expect(far(100)).toBeLessThan(fact('one.writes100.farReads') / fact('one.writes100.reads'));
    expect(fact('collapse.writes100.copiesWritten')).toBe(fact('collapse.writes100.writes'));
    expect(fact('collapse.writes100.frames')).toBeLessThan(fact('update.writes100.frames'));
  });

  it('RP7 RP8 a short node gets its copies back and no page is lost; a page moves with all others or not at all', () => {
    for (const way of ['update', 'collapse']) expect([fact(`${way}.shed`), fact(`${way}.lost`)]).toEqual([512, 0]);
    expect(fact('one.shed')).toBe(0);
    for (const way of ['one', 'update', 'collapse']) {
      expect([fact(`${way}.movedThen`), fact(`${way}.moved`), fact(`${way}.farAfterwards`)]).toEqual([0, 512, 0]);
    }
    expect(facts.refusal).toMatch(/^node 3: /);
    expect(lines.join('\n')).toContain(String(facts.refusal));
  });

  it('another seed gives other figures', () => {
    expect(replication.run({ seed: 1 }).facts).not.toEqual({ ...facts, seed: 1 });
  });
});
