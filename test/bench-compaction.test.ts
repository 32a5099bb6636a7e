// The compaction bench, tiny, on the sources: it cannot rot. Counts are judged, time never.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import * as results from '#mm/compaction/compact-result';
import * as zone from '#mm/compaction/compact-zone';
import * as direct from '#mm/compaction/direct';
import * as kcompactd from '#mm/compaction/kcompactd';
import * as migratable from '#mm/compaction/migratable';
import * as mm from '#mm/index';
import { evacuateCheapest } from '#mm/pools/evacuate';
import { compactPool } from '#mm/pools/two-scanner';
import * as reclaim from '#mm/reclaim';
import { CASE_NAMES, QUICK, type Row, runCase } from '../bench/compaction-cases.mjs';

const api = {
  Prng,
  ...mm,
  ...results,
  ...zone,
  ...direct,
  ...kcompactd,
  ...migratable,
  ...reclaim,
  evacuateCheapest,
  compactPool,
};
const rows = new Map<string, Row>();
const row = (name: string): Row => {
  const there = rows.get(name) ?? runCase(name, api, QUICK);
  rows.set(name, there);
  return there;
};
const of = (name: string, key: keyof Row): number => row(name)[key] as number;

describe('compaction bench', () => {
  it('every case leaves a sound machine; the same case does the same work', () => {
    for (const name of CASE_NAMES) expect(row(name).wrong, name).toEqual([]);
    for (const name of ['scan half', 'cost 20 % direct', 'H6 lumpy, compaction', 'H8 on demand']) {
      expect(runCase(name, api, QUICK).hash, name).toBe(row(name).hash);
    }
  });

  it('pages moved for a huge page: the cheapest chunk first is best, everything at once worst; cursors save looking', () => {
    for (const share of [0, 20, 60]) {
      const way = (name: string): string => `cost ${share} % ${name}`;
      for (const name of ['direct', 'anew', 'cheapest', 'all'])
        expect(of(way(name), 'got'), way(name)).toBe(row(way(name)).want);
      expect(of(way('cheapest'), 'scannedEach')).toBeLessThan(of(way('direct'), 'scannedEach'));
      expect(of(way('direct'), 'scannedEach')).toBeLessThan(of(way('anew'), 'scannedEach'));
      expect(of(way('direct'), 'movedEach')).toBeLessThan(of(way('all'), 'movedEach'));
    }
  });

  it('H6 with compaction as many huge pages for a fraction of the reclaim, as long as there is free memory', () => {
    expect(of('H6 lumpy, compaction', 'earlyGot')).toBe(of('H6 lumpy', 'earlyGot'));
    expect(of('H6 lumpy, compaction', 'earlyReclaimed')).toBeLessThan(of('H6 lumpy', 'earlyReclaimed') / 2);
    expect(of('H6 plain, compaction', 'got')).toBeGreaterThan(0);
  });

  it('H8 proactive compaction takes the moving out of the foreground', () => {
    expect(of('H8 proactive, 128 turns', 'got')).toBeGreaterThanOrEqual(of('H8 on demand', 'got') - 1);
    expect(of('H8 proactive, 128 turns', 'foreground')).toBeLessThan(of('H8 on demand', 'foreground') / 2);
    expect(of('H8 proactive, 128 turns', 'background')).toBeGreaterThan(0);
  });
});
