// The simulator finds nothing in sound code, finds what is broken, and replays. Rules in docs/spec/sim.md.
//
//   DIMMER_SEED=n  one seed      DIMMER_SIM_SEEDS=n  how many (default 8)      DIMMER_SIM_STEPS=n  of each (default 2500)
//   The long run is a command: npm run sim -- --steps 1000000

import { describe, expect, it } from 'vitest';
import { META_DIRTY } from '#mm/section';
import { FAULT_POINTS } from './faults.ts';
import { type SimReport, shrink, simulate } from './simulate.ts';
import { World } from './world.ts';

const STEPS = Number(process.env.DIMMER_SIM_STEPS ?? 2500);
const SEEDS =
  process.env.DIMMER_SEED === undefined
    ? Array.from({ length: Number(process.env.DIMMER_SIM_SEEDS ?? 8) }, (_, k) => k + 1)
    : [Number(process.env.DIMMER_SEED)];

const told = (r: SimReport): string =>
  `seed=${r.seed} step=${r.failure?.step} ${r.failure?.operation}: ${r.failure?.message}\n${r.failure?.last.join('\n')}`;

describe('simulate', () => {
  it.each(SEEDS)('SS1 seed %i with faults: every invariant holds, DMA goes where it may, nothing is lost', (seed) => {
    const r = simulate({ seed, steps: STEPS });
    expect(r.failure, told(r)).toBeUndefined();
    expect(r.faults, `seed=${seed}`).toBeGreaterThan(0);
  });

  // Each found a bug: a captured page that leaked, an area that two sessions had, a head that gave away taken addresses.
  it.each([
    [34, 6000],
    [1038, 12_000],
    [1012, 12_000],
  ])('SS1 seed %i, %i steps: worlds that once found something', (seed, steps) => {
    const r = simulate({ seed, steps });
    expect(r.failure, told(r)).toBeUndefined();
  });

  it.each(SEEDS.slice(0, 3))(
    'SS2 seed %i without faults: every DIMM that may go goes, in a bounded number of steps',
    (seed) => {
      const r = simulate({ seed: seed + 100, steps: STEPS, faults: false });
      expect(r.failure, told(r)).toBeUndefined();
      expect(r.faults).toBe(0);
      const { dimms, removed, stayed } = r.progress ?? { dimms: -1, removed: 0, stayed: 0 };
      expect(removed + stayed, `seed=${r.seed}`).toBe(dimms);
    },
  );

  it('SS3 a seed replays exactly: the same digest at each 1000th step, the same operations', () => {
    const [a, b] = [simulate({ seed: 11, steps: 3000 }), simulate({ seed: 11, steps: 3000 })];
    expect(a.digests.length).toBe(3);
    expect(b).toEqual(a);
    expect(simulate({ seed: 12, steps: 1000 }).digests).not.toEqual(a.digests.slice(0, 1));
  });

  it('SS4 what is broken is found, and the failure says where; the same seed finds it again', () => {
    const sabotage = (w: World, step: number): void => {
      const [zone] = w.m.zones;
      if (step === 500 && zone !== undefined) zone.managed++; // a page is counted twice
    };
    const options = { seed: 3, steps: 20_000, before: sabotage };
    const r = simulate(options);
    expect(r.failure?.step).toBeGreaterThanOrEqual(500);
    expect(r.failure?.step).toBeLessThanOrEqual(8192);
    const { step, message, last } = r.failure ?? {};
    expect(simulate(options).failure).toMatchObject({ step, message, last });
  });

  it('SS5 a failure shrinks to the kinds of operations that it needs', () => {
    // Fails as soon as something is dirty: that takes an allocation and a word of its state, and nothing else.
    const sabotage = (w: World, step: number): void => {
      for (const e of step % 50 === 0 ? w.ledger.own : []) {
        if ((w.m.sections.metaAt(e.head) & META_DIRTY) !== 0) throw new Error('dirty');
      }
    };
    // In some worlds pages are never dirty: the first one in which they are.
    const worlds = [5, 6, 7, 8].map((seed) => ({ seed, steps: 2000, before: sabotage }));
    const options = worlds.find((o) => simulate(o).failure !== undefined);
    const found = options && simulate(options).failure;
    if (options === undefined || found === undefined) throw new Error('the sabotage is found');
    const { only, report } = shrink(options, found);
    expect(only.sort()).toEqual(['alloc', 'state']);
    expect(report.failure?.message).toBe('dirty');
  });

  it('SS6 every list of fault points is in it, and a world asks for points of several protocols', () => {
    expect(new Set(FAULT_POINTS).size).toBe(FAULT_POINTS.length);
    const w = new World(1, true);
    expect(FAULT_POINTS.length).toBeGreaterThan(20);
    for (const protocol of ['migrate', 'kremap', 'memmap', 'drivers', 'compact'])
      expect(FAULT_POINTS.some((p) => p.startsWith(`${protocol}.`))).toBe(true);
    expect(w.m.faultAt?.('migrate.copy')).toBeTypeOf('boolean');
  });

  it('SS7 the ledger does not let a frame be had twice, nor end as another allocation than it began', () => {
    const { ledger, m } = new World(2, false);
    const [entry] = ledger.entries.values();
    if (entry === undefined) throw new Error('something is in use');
    expect(() => ledger.occupied(entry.head, 0, 0)).toThrow('in use already');
    expect(() => ledger.vacated(entry.head, entry.order + 1, entry.holder)).toThrow('another allocation');
    expect(() => ledger.moved(entry.head, entry.head, entry.order, entry.holder)).toThrow('in use');
    expect(ledger.compare(m)).toEqual([]);
    ledger.entries.delete(entry.head);
    expect(ledger.compare(m).length).toBeGreaterThan(0);
  });
});
