// Is it worth a try, how hard, how often: suitability, deferral, direct compaction. Rules CP16..CP23, docs/spec/compaction.md.

import { describe, expect, it } from 'vitest';
import { toNodeId, toOrder, toPfn } from '#base/units';
import { worldFrom } from '../../../test/support/picture.ts';
import type { SlowRequest } from '../alloc-path.ts';
import { MIGRATE_MOVABLE, type MigrateType } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { ZONE_MOVABLE } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { COMPACT_RESULTS, worthier } from './compact-result.ts';
import {
  compactionDeferred,
  compactionRestarting,
  compactRow,
  compactStateOf,
  deferCompaction,
  deferReset,
} from './compact-state.ts';
import { compactZone } from './compact-zone.ts';
import { compactDirect, installCompaction, tryToCompactPages } from './direct.ts';
import { kswapdSleeps } from './kcompactd.ts';
import { compactionSuitable, watermarkOk } from './suitability.ts';

const PB = 512;
const zonesOf = (m: Machine): Pool[] => m.zones.filter((p) => p.present > 0);
const requestFor = (m: Machine, order: number, migratetype: MigrateType = MIGRATE_MOVABLE): SlowRequest => ({
  list: Int32Array.from(zonesOf(m), (p) => p.id),
  order,
  migratetype,
  topZone: ZONE_MOVABLE,
});
/** A zone with `min` and `low` so far below what is free. */
const marks = (pool: Pool, minBelow: number, lowBelow: number, reserve = 0): void => {
  const free = pool.alloc.nrFree();
  const low = free - lowBelow;
  pool.watermarks = { min: free - minBelow, low, high: low, promo: low, reserve: [0, 0, 0, reserve] };
};

describe('suitability', () => {
  it('CP16 order 0 must be above min, above order 3 low, by twice the request and one, with boost and reserve', () => {
    const { m } = worldFrom('n0 Normal m.m.m.m.|UUUUUUUU *#');
    const pool = zonesOf(m)[0];
    m.vm.extfragThreshold = 0;
    const suits = (order: number, minBelow: number, lowBelow: number, reserve = 0): string => {
      marks(pool, minBelow, lowBelow, reserve);
      return compactionSuitable(m, pool, order, ZONE_MOVABLE);
    };
    expect(suits(3, 17, 0)).toBe('continue');
    expect(suits(3, 16, 1000)).toBe('skipped');
    expect(suits(3, 17 + 5, 0, 5)).toBe('continue');
    expect(suits(3, 16 + 5, 0, 5)).toBe('skipped');
    expect(suits(4, 0, 33)).toBe('continue');
    expect(suits(4, 1000, 32)).toBe('skipped');
    marks(pool, 0, 33);
    pool.boost = 1;
    expect(compactionSuitable(m, pool, 4)).toBe('skipped');
    pool.boost = 0;
    expect(compactZone(m, pool, { order: 9, mode: 'sync-light' }).result).toBe('skipped');
    expect(compactZone(m, pool, { order: -1, mode: 'sync' }).result).not.toBe('skipped');
  });

  it('CP17 above order 3 it must be fragmentation: an index from 0 to extfrag_threshold is want of memory', () => {
    // Four pieces of 64: 1000 - (1000 + 256 * 1000 / 512) / 4 = 625.
    const { m } = worldFrom('n0 Normal m.m.m.m.|UUUUUUUU *#');
    const pool = zonesOf(m)[0];
    const at = (threshold: number, order = 9): string => {
      m.vm.extfragThreshold = threshold;
      return compactionSuitable(m, pool, order);
    };
    expect(at(625)).toBe('not-suitable');
    expect(at(624)).toBe('continue');
    // A page of the order is there: -1000, which is for the watermark to say.
    expect(at(1000, 6)).toBe('continue');
    // Smaller orders are not asked: the alternative is to kill somebody.
    expect(at(1000, 3)).toBe('continue');
    m.vm.extfragThreshold = 625;
    expect(compactZone(m, pool, { order: 9, mode: 'async' }).result).toBe('skipped');
  });

  it('CP16 a zone that has the page does nothing', () => {
    const { m } = worldFrom('n0 Normal m.m.m.m.|........ *#');
    const pool = zonesOf(m)[0];
    expect(compactZone(m, pool, { order: 9, mode: 'sync' })).toMatchObject({ result: 'success', rounds: 0 });
    marks(pool, 511, 511);
    expect(watermarkOk(pool, 9, 'min', ZONE_MOVABLE, true)).toBe(false);
    marks(pool, 512, 512);
    expect(watermarkOk(pool, 9, 'min', ZONE_MOVABLE, true)).toBe(true);
  });
});

describe('deferral', () => {
  const row = () => compactRow(worldFrom('n0 Normal ........ *#').m, { id: 3 } as Pool);

  it('CP18 after each failure twice as many requests are turned away, 63 at most; of its order and above', () => {
    const r = row();
    expect([compactionDeferred(r, 9), compactionDeferred(r, 0)]).toEqual([false, false]);
    deferReset(r, 9, false);
    expect(r.orderFailed).toBe(10);
    deferCompaction(r, 9);
    expect(r).toMatchObject({ shift: 1, considered: 0, orderFailed: 9 });
    const turnedAway = (): number => {
      for (let n = 0; ; n++) if (!compactionDeferred(r, 9)) return n;
    };
    const seen: number[] = [];
    for (let k = 0; k < 8; k++) {
      seen.push(turnedAway());
      expect(compactionRestarting(r, 9)).toBe(r.shift === 6);
      expect(compactionRestarting(r, 8)).toBe(false);
      deferCompaction(r, 9);
    }
    expect(seen).toEqual([1, 3, 7, 15, 31, 63, 63, 63]);
    expect(compactionDeferred(r, 8)).toBe(false);
    deferCompaction(r, 5);
    expect(r.orderFailed).toBe(5);
  });

  it('CP18 a success expected puts the order up, an allocation ends the deferral', () => {
    const r = row();
    deferReset(r, 3, false);
    deferCompaction(r, 3);
    deferCompaction(r, 3);
    deferReset(r, 2, false);
    expect(r).toMatchObject({ shift: 2, orderFailed: 3 });
    deferReset(r, 4, false);
    expect(r).toMatchObject({ shift: 2, orderFailed: 5 });
    compactionDeferred(r, 5);
    deferReset(r, 5, true);
    expect(r).toMatchObject({ shift: 0, considered: 0, orderFailed: 6 });
  });
});

describe('hints', () => {
  const TEXT = 'n0 Normal U.U.U.U.|U.......|m.U.....|U....... *#';

  it('CP19 are reset before kswapd sleeps, if a direct run had ended with the scanners meeting', () => {
    const { m } = worldFrom(TEXT);
    const pool = zonesOf(m)[0];
    const state = compactStateOf(m);
    const run = (direct: boolean): void => {
      compactZone(m, pool, { order: 9, mode: 'sync-light', direct, wholeZone: true, done: () => false });
    };
    run(false);
    kswapdSleeps(m, toNodeId(0), 9, ZONE_MOVABLE);
    expect([0, 1, 2].map((k) => state.skips(k * PB))).toEqual([true, true, true]);
    run(true);
    expect(compactRow(m, pool).flush).toBe(true);
    marks(pool, 0, -1);
    kswapdSleeps(m, toNodeId(0), 9, ZONE_MOVABLE); // below high it does not sleep
    expect(state.skips(0)).toBe(true);
    marks(pool, 100, 100);
    kswapdSleeps(m, toNodeId(0), 9, ZONE_MOVABLE);
    expect([0, 1, 2].map((k) => state.skips(k * PB))).toEqual([true, true, false]);
    expect(compactRow(m, pool).flush).toBe(false);
  });

  it('CP19 a reset starts the scanners at pageblocks where a sample finds something', () => {
    const { m } = worldFrom('n0 Normal UUUUUUUU|TTTTTTTT|m.......|U.......|U:U.......|UUUUUUUU *#');
    const pool = zonesOf(m)[0];
    const row = compactRow(m, pool);
    row.flush = true;
    for (let k = 0; k < 6; k++) compactStateOf(m).setSkip(k * PB);
    kswapdSleeps(m, toNodeId(0), 9, ZONE_MOVABLE);
    expect(row).toMatchObject({
      cachedMigrate: [2 * PB, 2 * PB],
      initMigrate: 2 * PB,
      cachedFree: 3 * PB,
      initFree: 3 * PB,
    });
    // A run from there on has looked at the whole zone.
    expect(compactZone(m, pool, { order: 9, mode: 'sync-light', done: () => false }).result).toBe('complete');
  });

  it('CP19 the 65th request after failures of all kinds looks again everywhere', () => {
    const { m } = worldFrom(TEXT);
    const pool = zonesOf(m)[0];
    m.vm.extfragThreshold = 0;
    const request = requestFor(m, 9);
    const results: string[] = [];
    for (let k = 0; k < 300; k++) results.push(tryToCompactPages(m, request, 'sync-light').result);
    const tries = results.flatMap((r, k) => (r === 'deferred' ? [] : [k]));
    expect(tries.slice(0, 9)).toEqual([0, 2, 6, 14, 30, 62, 126, 190, 254]);
    expect(compactRow(m, pool).shift).toBe(6);
    expect(m.check()).toEqual([]);
  });
});

describe('direct compaction', () => {
  it('CP20 zones in the request’s order, until one has the page; the best result counts', () => {
    const { m } = worldFrom(`
      n0 Normal  m.m.m.m.|U.U.U.U.|UUUUUUUU|U....... *#
      n0 Movable m.m.m.m.|m.......|MMMMMMMM|m....... *#`);
    const zones = zonesOf(m);
    const list = Int32Array.of(zones[1].id, zones[0].id);
    const r = tryToCompactPages(m, { ...requestFor(m, 9), list }, 'sync-light');
    expect(r.result).toBe('success');
    expect((m.poolAt(r.captured) as Pool).name).toBe('Movable');
    m.occupy(m.addHolder({ class: 'anonymous', name: 'huge' }), r.captured, 9);
    expect(m.check()).toEqual([]);
    expect(COMPACT_RESULTS.reduce(worthier)).toBe('success');
    expect(worthier('deferred', 'skipped')).toBe('deferred');
  });

  it('CP21 a zone that failed not long ago is passed by, but for the last priority', () => {
    const { m } = worldFrom('n0 Normal U.U.U.U.|U.......|m.U.....|U....... *#');
    const pool = zonesOf(m)[0];
    const request = requestFor(m, 3);
    marks(pool, 20, 20);
    const deferred = compactRow(m, pool);
    deferCompaction(deferred, 3);
    deferCompaction(deferred, 3);
    expect(tryToCompactPages(m, request, 'async').result).toBe('deferred');
    expect(tryToCompactPages(m, request, 'sync-light').result).toBe('deferred');
    expect(tryToCompactPages(m, request, 'sync-full').result).not.toBe('deferred');
  });

  it('CP21 a failure of async does not defer, one of sync-light does; sync-full begins at the ends and takes any target', () => {
    const { m } = worldFrom('n0 Normal m.U.m.U.|UUUUUUUU|U:UUUUUUU. *#');
    const pool = zonesOf(m)[0];
    m.vm.extfragThreshold = 0;
    const row = compactRow(m, pool);
    const request = requestFor(m, 9);
    expect(tryToCompactPages(m.fork(), request, 'async').result).toBe('partial-skipped');
    expect(row.shift).toBe(0);
    tryToCompactPages(m, request, 'sync-light');
    expect(row).toMatchObject({ shift: 1, orderFailed: 0 });
    const full = tryToCompactPages(m, request, 'sync-full');
    expect(full).toMatchObject({ result: 'complete', moved: 64 });
    expect(row.shift).toBe(2);
    expect(m.check()).toEqual([]);
  });

  it('CP22 a try is a stall, unless no zone was worth it: then a success or a fail', () => {
    const count = (m: Machine): number[] => [m.vmstat.compact_stall, m.vmstat.compact_success, m.vmstat.compact_fail];
    const { m } = worldFrom('n0 Normal m.m.m.m.|UUUUUUUU|UUUU.... *#');
    m.vm.extfragThreshold = 1000;
    expect(compactDirect(m, requestFor(m, 9), 'async').result).toBe('skipped');
    expect(count(m)).toEqual([0, 0, 0]);
    m.vm.extfragThreshold = 0;
    const got = compactDirect(m, requestFor(m, 9), 'async');
    expect(got).toMatchObject({ index: 0, result: 'success' });
    m.occupy(m.addHolder({ class: 'anonymous', name: 'huge' }), got.index, 9);
    expect(count(m)).toEqual([1, 1, 0]);
    expect(compactRow(m, zonesOf(m)[0])).toMatchObject({ orderFailed: 10, shift: 0, flush: false });
    expect(m.check()).toEqual([]);
    const vain = worldFrom('n0 Normal U.U.U.U.|UUUUUUUU|UUUU.... *#').m;
    vain.vm.extfragThreshold = 0;
    expect(compactDirect(vain, requestFor(vain, 9), 'async').index).toBe(-1);
    expect(count(vain)).toEqual([1, 0, 1]);
  });

  it('CP23 installed, a request gets its huge page; without, it is refused', () => {
    const text = 'n0 Normal m.m.m.m.|m.m.m.m.|UUUUUUUU|UUUU.... *#';
    const { m } = worldFrom(text);
    m.vm.extfragThreshold = 0;
    const h = m.addHolder({ class: 'anonymous', name: 'huge' });
    expect(m.alloc(h, toOrder(9))).toBe(-1);
    installCompaction(m);
    const pfn = m.alloc(h, toOrder(9));
    expect(pfn).toBe(toPfn(0));
    expect(m.check()).toEqual([]);
    expect(m.alloc(h, toOrder(9))).toBe(-1); // not enough is free in all
    expect(m.fork().slowPath).toBeUndefined();
    expect(m.check()).toEqual([]);
  });

  it('CP23 an Unmovable request of a small order tries async first, then ever harder; reclaim is asked in between', () => {
    const { m } = worldFrom('n0 Normal U.U.U.U.|UUUUUUUU|UUUUUUUU|U:UUUUUUUU *#');
    const pool = zonesOf(m)[0];
    const asked: number[] = [];
    installCompaction(m, {
      reclaim: (_m, r) => {
        asked.push(r.order);
        return asked.length < 3 ? 1 : 0;
      },
    });
    pool.watermarks = { min: 1000, low: 1000, high: 1000, promo: 1000, reserve: [0, 0, 0, 0] };
    const h = m.addHolder({ class: 'slab', name: 'slab' });
    expect(m.alloc(h, toOrder(2))).toBe(-1);
    // No zone is worth compacting, and no reclaim will change that: it is not repeated.
    expect(asked).toEqual([2]);
    asked.length = 0;
    expect(m.alloc(h, toOrder(0))).toBe(-1);
    expect(asked).toEqual([0, 0, 0]);
    pool.watermarks = { min: 100, low: 100, high: 100, promo: 100, reserve: [0, 0, 0, 0] };
    expect(m.alloc(h, toOrder(2), { movable: false })).toBeGreaterThanOrEqual(0);
    expect(m.check()).toEqual([]);
  });

  it('CP23 orders up to 3 go on to the last priority, larger ones may fail', () => {
    const modes = (order: number, retryMayFail: boolean): number => {
      const { m } = worldFrom('n0 Normal U.U.U.U.|UUUUUUUU|UUUUUUUU|U:UUUUUUUU *#');
      m.vm.extfragThreshold = 0;
      const pool = zonesOf(m)[0];
      // Pieces of 8: singles and pairs only.
      const comb = m.addHolder({ class: 'slab', name: 'comb' });
      for (let cell = 1; cell < 8; cell += 2) {
        for (let k = 0; k < 64; k += 4) {
          const head = pool.alloc.area.headOf(cell * 64 + k);
          const size = pool.alloc.area.orderAt(head);
          pool.alloc.take(head, size);
          for (let i = head; i < head + 2 ** size; i++) if (i !== cell * 64 + k) pool.alloc.freeToArea(i, 0);
          m.place(comb, toPfn(cell * 64 + k), toPfn(cell * 64 + k + 1), 0);
        }
      }
      installCompaction(m, { retryMayFail });
      const h = m.addHolder({ class: 'anonymous', name: 'h' });
      expect(m.alloc(h, toOrder(order))).toBe(-1);
      expect(m.check()).toEqual([]);
      return m.vmstat.compact_stall;
    };
    expect(modes(3, false)).toBe(2); // sync-light, sync-full
    expect(modes(9, false)).toBe(2); // async, sync-light
    expect(modes(9, true)).toBe(2); // another round only after a success that came to nothing
  });
});
