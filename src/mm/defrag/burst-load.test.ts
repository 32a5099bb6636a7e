// The acceptance test of spec 9.F4. Rule DF11, docs/spec/defrag.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toNodeId, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import { ZONE_NORMAL } from '../page-class.ts';
import { MAKER_KINDS, type MakerKind } from './block-maker.ts';
import { type BurstReport, burstLoad } from './burst-load.ts';
import { Defragmenter, type DefragSettings, type DefragSource, type Worker } from './defragmenter.ts';

const LOAD = {
  used: 0.7,
  kernel: 0.03,
  bursts: 8,
  burst: 8,
  gap: 64,
  every: 8192,
  churnPages: 64,
  churnEvery: 256,
  churnBusy: 64,
  tickEvery: 256,
};

const boot = (): Machine =>
  Machine.boot({
    ram: [{ start: toPfn(0), end: toPfn(4 * 32768), node: toNodeId(0), zone: ZONE_NORMAL }],
    placement: 'lifo',
    code: 'shared',
  });

function settings(maker: MakerKind, sources: readonly DefragSource[]): DefragSettings {
  return {
    maker,
    thresholds: [{ order: 9, low: 8, high: 16 }],
    pause: 64,
    ...(sources.includes('failure') && { failure: {} }),
    ...(sources.includes('daemon') && { daemon: { pages: [32, 64, 256] } }),
    ...(sources.includes('idle') && { idle: {} }),
  };
}

function run(seed: number, maker: MakerKind, ...sources: DefragSource[]): BurstReport {
  const m = boot();
  const d = new Defragmenter(m, settings(maker, sources));
  const r = burstLoad(m, d, { ...LOAD, prng: new Prng(seed) });
  expect(m.check(), `seed=${seed} ${maker} ${sources}`).toEqual([]);
  const counted = sources.reduce((n, s) => n + d.counts[s].moved, 0);
  expect(counted, `seed=${seed}`).toBe(r.moved);
  return r;
}

describe('9.F4', () => {
  it.each(MAKER_KINDS)('DF11 a tenth of the stalls, 1.5 times the pages, a page of delay (%s)', (maker) => {
    for (const seed of [2004]) {
      const say = `seed=${seed}`;
      const nobody = burstLoad(boot(), undefined, { ...LOAD, prng: new Prng(seed) });
      expect(nobody.served, say).toBeLessThan(nobody.requests / 10); // memory is in pieces
      const failure = run(seed, maker, 'failure');
      const daemon = run(seed, maker, 'daemon', 'failure');
      const all = run(seed, maker, 'failure', 'daemon', 'idle');
      expect(failure, say).toMatchObject({ served: failure.requests, mostIdleDelay: 0 });
      expect(failure.stalls, say).toBeGreaterThan(failure.requests / 2);
      expect(failure.mostWaited, say).toBeGreaterThan(100);
      expect(all.served, say).toBe(all.requests);
      expect(all.stalls, say).toBeLessThanOrEqual(failure.stalls / 10);
      expect(all.moved, say).toBeLessThanOrEqual(1.5 * daemon.moved);
      expect(all.mostIdleDelay, say).toBeGreaterThan(0); // requests did meet it in the middle of a page
      expect(all.mostIdleDelay, say).toBeLessThanOrEqual(1);
    }
  });

  it('DF3 by cost fewer pages are moved for a block than by scanners, once pageblocks differ', () => {
    const [scanners, directed] = MAKER_KINDS.map((maker) => {
      const m = boot();
      const d = new Defragmenter(m, settings(maker, ['failure']));
      return burstLoad(m, d, { ...LOAD, bursts: 24, prng: new Prng(7) });
    });
    expect(directed.moved / directed.gained).toBeLessThan(0.85 * (scanners.moved / scanners.gained));
  });

  it('DF11 the load would see idle work that does not yield', () => {
    const m = boot();
    const d = new Defragmenter(m, settings('directed', ['idle']));
    const greedy: Worker = {
      slowPath: (next) => d.slowPath(next),
      tick: (now) => d.tick(now),
      idle: (now) => {
        let moved = 0;
        for (let k = 0; k < 32; k++) moved += d.idle(now);
        return moved;
      },
    };
    const r = burstLoad(m, greedy, { ...LOAD, prng: new Prng(1) });
    expect(r.mostIdleDelay).toBeGreaterThan(16);
    expect(m.check()).toEqual([]);
  });
});
