// What the demo says of guaranteed and opportunistic memory. Rules in docs/spec/pool-leases.md.

import { describe, expect, it } from 'vitest';
import { paravirt } from './paravirt.ts';

describe('pools/paravirt', () => {
  const { facts, lines } = paravirt.run({});
  const fact = (name: string): number => facts[name] as number;

  it('RV1 RV2 RV8 guaranteed memory is untouched while the host gets all it wants in time; a balloon takes anything', () => {
    expect([fact('pools.got'), fact('pools.late')]).toEqual([fact('wanted'), 0]);
    expect([fact('pools.indexDropped'), fact('pools.indexWaited'), fact('pools.rests')]).toEqual([0, 0, 0]);
    expect(fact('pools.indexLeft')).toBe(3000 + 160);
    expect(fact('balloon.got')).toBe(fact('wanted'));
    expect(fact('balloon.indexDropped')).toBeGreaterThan(1000);
    expect(fact('balloon.indexLeft')).toBeLessThan(1000);
    expect([fact('balloon.indexWaited') > 0, fact('balloon.rests')]).toEqual([true, 20]);
  });

  it('RV3 RV4 what is not had in time is ETIMEDOUT, what cannot be had is EBUSY with the pages in the way', () => {
    expect(fact('pools.hurry')).toBe(250);
    expect(facts['pools.hurrySays']).toBe('ETIMEDOUT: pool extra: 250 of 600 pages before the deadline');
    expect(facts['pools.mostSays']).toMatch(/^EBUSY: .*batch job's/);
    expect(fact('pools.named')).toBe(1500);
    expect(lines.join('\n')).toContain(String(facts['pools.mostSays']));
    expect([facts['balloon.hurrySays'], facts['balloon.mostSays']]).toEqual(['', '']);
  });

  it('RV6 idle memory is used, unlike locked memory, and comes back; the guarantee has a price', () => {
    expect(fact('pools.used')).toBeGreaterThan(2 * fact('locked.used'));
    expect(fact('balloon.used')).toBeGreaterThan(fact('pools.used'));
    for (const way of ['locked', 'balloon', 'pools']) {
      expect(fact(`${way}.usedAgain`), way).toBeGreaterThanOrEqual(fact(`${way}.used`));
    }
  });
});
