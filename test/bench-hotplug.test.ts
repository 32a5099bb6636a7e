// The hotplug bench, tiny, on the sources: it cannot rot. Results and equal work are judged, time never.

import { describe, expect, it, vi } from 'vitest';
import * as mm from '#mm/index';
import { kernelTree } from '#tree/index';
import { CASE_NAMES, QUICK, type Row, runCase } from '../bench/hotplug-cases.mjs';

const GiB = 2 ** 30;
const SIZES = { ...QUICK, bytes: 2 * GiB, runs: 2, writes: 60, times: 2, small: GiB, large: GiB };
const run = (name: string): Row => runCase(name, { ...mm, kernelTree }, SIZES);
const rows = new Map<string, Row>();
/** Each case is run once for all tests but the one that compares. */
const row = (name: string): Row => {
  const there = rows.get(name) ?? run(name);
  rows.set(name, there);
  return there;
};

describe('hotplug bench', () => {
  it('every case leaves a sound machine, and does the same work twice in a row', () => {
    for (const name of CASE_NAMES) {
      const first = row(name);
      expect(first.wrong, name).toEqual([]);
      expect(run(name).hash, name).toBe(first.hash);
    }
  });

  it('H1 brings every block online, H3 moves every page in use, H4 is refused where it should be', () => {
    expect(row('H1 H2 memmap self-block').blocks).toBe(16);
    expect(row('H3 single frames').moved).toBe(32768);
    expect(row('H3 single frames, half free').moved).toBe(16384);
    expect(row('H3 order 9').moved).toBe(32768);
    // 7 and 14 are the lengths of the words that were taken. Of ten writes one is EINVAL, and one is EBUSY.
    expect(JSON.parse(row('H4 writes to state').hash)).toEqual({ '7': 24, '14': 24, EINVAL: 6, EBUSY: 6 });
  });

  it('contents tags change what is carried along, not what is done', () => {
    const work = (name: string): string | undefined => row(name).hash.split(',')[0];
    expect(work('H3 single frames, bare')).toBe(work('H3 single frames'));
  });

  it('what a refusal costs: a copy is taken where an offline may still be refused, and only there', () => {
    const m = mm.Machine.boot(mm.simpleSpec(GiB, { code: 'shared' }));
    const fork = vi.spyOn(m, 'fork');
    const offline = (id: number): boolean => m.offline(mm.toBlockId(id)).ok;
    expect([offline(7), fork.mock.calls.length]).toEqual([true, 0]);
    m.notifiers.push({ name: 'objects', goingOffline: () => 'EBUSY' });
    const before = m.digest();
    expect([offline(6), fork.mock.calls.length]).toEqual([false, 1]);
    expect(m.digest()).toBe(before);
    m.notifiers.length = 0;
    const app = m.addHolder({ class: 'anonymous', name: 'app' });
    let block = 0; // it lies in two zones, and cannot go
    while (block === 0) block = Math.floor(m.alloc(app, mm.toOrder(9)) / m.blockPages);
    fork.mockClear();
    expect([offline(block), fork.mock.calls.length]).toEqual([true, 1]);
    expect(m.check()).toEqual([]);
  });
});
