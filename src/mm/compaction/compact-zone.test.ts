// One zone compacted, by example: each sentence of spec 2.11 about the scanners. Rules CP1..CP14, docs/spec/compaction.md.

import { describe, expect, it } from 'vitest';
import { drawn, pictureOf, worldFrom } from '../../../test/support/picture.ts';
import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { ORDER_ALL } from './compact-result.ts';
import { compactZone } from './compact-zone.ts';

const zoneOf = (m: Machine): Pool => m.zones.find((p) => p.present > 0) as Pool;

describe('scanners', () => {
  it('CP1 pages go from the bottom to the top', () => {
    const { m } = worldFrom('n0 Normal m.m.m.m.|m.......|.m.m.m.m|mmmmmmmm|..m...m. *#');
    const r = compactZone(m, zoneOf(m), { order: ORDER_ALL, mode: 'sync', wholeZone: true, ignoreSkip: true });
    expect(r).toMatchObject({ result: 'complete', captured: -1, moved: 384 });
    expect(pictureOf(m)).toBe(drawn('n0 Normal ........|........|.?.m.m.?|mmmmmmmm|mmmmmmmm *#'));
    expect(m.check()).toEqual([]);
  });
});
