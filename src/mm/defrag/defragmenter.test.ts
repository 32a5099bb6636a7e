// Sources, levels, pauses, lists. Rules DF2, DF6 to DF10, DF12, DF14, docs/spec/defrag.md. A cell is 64 frames.

import { describe, expect, it } from 'vitest';
import { toNodeId, toOrder, toPfn } from '#base/units';
import { pictureOf, worldFrom } from '../../../test/support/picture.ts';
import { COMPACT_FAULT_POINTS } from '../compaction/compact-result.ts';
import { Machine } from '../machine.ts';
import type { MachineSpec } from '../machine-spec.ts';
import { MIGRATE_FAULT_POINTS } from '../migrate.ts';
import { ZONE_NORMAL } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { pools } from '../pools/pools.ts';
import { MAKER_KINDS } from './block-maker.ts';
import { DEFRAG_FAULT_POINTS, Defragmenter, type DefragSettings } from './defragmenter.ts';
import { freeBlocks } from './thresholds.ts';

const poolOf = (m: Machine): Pool => m.poolNamed(toNodeId(0), 'Normal') as Pool;
const WORLD = 'n0 Normal mmmm....|mm......|m.m.m.m.|U....... *m';

const settings = (more: Partial<DefragSettings>, low = 1, high = 2): DefragSettings => ({
  maker: 'directed',
  thresholds: [{ order: 9, low, high }],
  pause: 10,
  ...more,
});

const hogOf = (m: Machine) => m.addHolder({ class: 'anonymous', name: 'hog' });

describe('failure', () => {
  it.each(MAKER_KINDS)('DF6 a request has its block made and takes it (%s)', (maker) => {
    const { m } = worldFrom(WORLD);
    const d = new Defragmenter(m, settings({ maker, failure: {} }));
    const hog = hogOf(m);
    expect(m.fork().alloc(hog, toOrder(9))).toBe(-1);
    m.slowPath = d.slowPath();
    const pfn = m.alloc(hog, toOrder(9));
    expect(pfn).toBeGreaterThanOrEqual(0);
    expect(d.counts.failure).toMatchObject({ made: 1, vain: 0 });
    expect(d.counts.failure.moved).toBeGreaterThan(0);
    expect(d.counts.failure.longestStep).toBeLessThanOrEqual(32);
    if (maker === 'directed') expect(pictureOf(m)).toBe('n0 Normal   mmmm....|TTTTTTTT|m.m.m.m.|Umm..... *m');
    expect(poolOf(m).alloc.front.settings().disabled).toBe(0);
    expect(m.check()).toEqual([]);
  });

  it("DF6 single pages, too little free, and what cannot be made are the next one's", () => {
    const asked: number[] = [];
    const next = (_: Machine, r: { order: number }): 'failed' => {
      asked.push(r.order);
      return 'failed';
    };
    // 14 cells are free, 896 frames: order 10 needs 2048.
    const { m } = worldFrom('n0 Normal mmmm....|mm......|m.m.m.m.|mmmmmmmm *m');
    const d = new Defragmenter(m, settings({ failure: {} }));
    m.slowPath = d.slowPath(next);
    const hog = hogOf(m);
    expect(m.alloc(hog, toOrder(10))).toBe(-1);
    expect(asked).toEqual([10]);
    expect(d.counts.failure.steps).toBe(0);
    while (m.alloc(hog, toOrder(0)) >= 0);
    expect(asked).toEqual([10, 0]);
    expect(d.counts.failure).toMatchObject({ steps: 0, vain: 0 });
    // Enough is free, and every pageblock has a page that stays.
    const never = worldFrom('n0 Normal U.......|U.......|U.......|U....... *U').m;
    const e = new Defragmenter(never, settings({ failure: {} }));
    never.slowPath = e.slowPath(next);
    expect(never.alloc(hogOf(never), toOrder(9))).toBe(-1);
    expect(asked).toEqual([10, 0, 9]);
    expect(e.counts.failure).toMatchObject({ moved: 0, vain: 1 });
    // Another machine's requests are none of its business.
    const other = worldFrom(WORLD).m;
    other.slowPath = d.slowPath(next);
    expect(other.alloc(hogOf(other), toOrder(9))).toBe(-1);
    expect(m.check()).toEqual([]);
  });

  it('DF6 a flush that was enough moves nothing', () => {
    const { m } = worldFrom('n0 Normal m....... *m');
    const hog = hogOf(m);
    // 448 frames free, and a pageblock more: freed one by one, its last pages wait on per-CPU lists.
    for (let i = 512; i < 1024; i++) m.free(toPfn(i));
    const pool = poolOf(m);
    expect(pool.alloc.pcpPages()).toBeGreaterThan(0);
    const d = new Defragmenter(m, settings({ failure: {} }));
    m.slowPath = d.slowPath();
    // Twice the block is not free above min: 448 + 512 < 1024. A cell more makes it worth a try.
    for (let i = 1024; i < 1152; i++) m.free(toPfn(i));
    expect(freeBlocks(pool, 9)).toBe(0);
    expect(m.alloc(hog, toOrder(9))).toBe(512);
    expect(d.counts.failure).toMatchObject({ moved: 0, made: 0, vain: 0 });
    expect(m.check()).toEqual([]);
  });

  it('DF2 tokens bound what requests may cost', () => {
    const { m } = worldFrom(WORLD);
    const d = new Defragmenter(m, settings({ failure: { limit: { rate: 1, burst: 40 } } }));
    m.slowPath = d.slowPath();
    const hog = hogOf(m);
    expect(m.alloc(hog, toOrder(9))).toBe(-1);
    expect(d.counts.failure).toMatchObject({ moved: 40, vain: 1 });
    expect(m.alloc(hog, toOrder(9))).toBe(-1);
    expect(d.counts.failure.moved).toBe(40);
    d.tick(1000); // time is told, though the daemon is off
    expect(m.alloc(hog, toOrder(9))).toBe(-1);
    d.tick(2000);
    d.tick(3000);
    expect(m.alloc(hog, toOrder(9))).toBe(-1);
    d.tick(4000);
    expect(m.alloc(hog, toOrder(9))).toBeGreaterThanOrEqual(0); // what was moved before stays moved
    expect(d.counts.failure.moved).toBe(128);
    expect(m.check()).toEqual([]);
  });
});

describe('daemon', () => {
  it.each(MAKER_KINDS)('DF7 does what its level allows, and rests at high (%s)', (maker) => {
    const { m } = worldFrom(WORLD);
    const pool = poolOf(m);
    const d = new Defragmenter(m, settings({ maker, daemon: { pages: [8, 32, 64] } }));
    expect(d.levels()).toEqual([{ pool, level: 3, blocks: 0 }]);
    expect(d.tick(1)).toBe(64);
    let ticks = 1;
    while (freeBlocks(pool, 9) === 0) {
      expect(d.tick(++ticks)).toBeLessThanOrEqual(64);
      expect(ticks).toBeLessThan(50);
    }
    expect(d.levels()).toEqual([{ pool, level: 1, blocks: 1 }]);
    for (let k = 0; k < 5; k++) expect(d.tick(++ticks)).toBe(8);
    while (freeBlocks(pool, 9) === 1) {
      expect(d.tick(++ticks)).toBeLessThanOrEqual(8);
      expect(ticks).toBeLessThan(200);
    }
    expect(d.levels()).toEqual([{ pool, level: 0, blocks: 2 }]);
    const { moved } = d.counts.daemon;
    for (let k = 0; k < 5; k++) expect(d.tick(++ticks)).toBe(0);
    expect(d.counts.daemon).toMatchObject({ moved, made: 2, vain: 0 });
    expect(d.counts.daemon.longestStep).toBeLessThanOrEqual(32);
    expect(m.check()).toEqual([]);
  });

  it('DF2 no faster than its tokens', () => {
    const { m } = worldFrom(WORLD);
    const d = new Defragmenter(m, settings({ daemon: { pages: [64, 64, 64], limit: { rate: 2, burst: 10 } } }));
    expect([1, 2, 3, 10, 11].map((now) => d.tick(now))).toEqual([10, 2, 2, 10, 2]);
    expect(m.check()).toEqual([]);
  });

  it('DF9 where nothing can be made a pool pauses, longer each time, until something was', () => {
    const { m } = worldFrom('n0 Normal m.......|U.......|U.......|U....... *U');
    for (let i = 0; i < 64; i++) m.pin(toPfn(i));
    const d = new Defragmenter(m, settings({ daemon: { pages: [8, 32, 64] } }));
    const tries: number[] = [];
    for (let now = 1; now < 3000; now++) {
      const before = d.counts.daemon.vain;
      d.tick(now);
      if (d.counts.daemon.vain > before) tries.push(now);
    }
    const pauses = tries.map((t, k) => t - (tries[k - 1] ?? 1)).slice(1);
    expect(pauses).toEqual([10, 20, 40, 80, 160, 320, 640, 640, 640]);
    expect(d.counts.daemon.moved).toBe(0);
    for (let i = 0; i < 64; i++) m.unpin(toPfn(i));
    for (let now = 3000; now < 4000 && d.counts.daemon.made === 0; now++) d.tick(now);
    expect(d.counts.daemon.made).toBe(1);
    expect(m.check()).toEqual([]);
  });
});

describe('idle', () => {
  it.each(MAKER_KINDS)('DF8 moves one page at a time, then says that there is nothing to do (%s)', (maker) => {
    const { m } = worldFrom(WORLD);
    const pool = poolOf(m);
    const d = new Defragmenter(m, settings({ maker, idle: {} }));
    let calls = 0;
    while (d.idle(calls) === 1) expect(++calls).toBeLessThan(2000);
    expect(d.idle(calls)).toBe(0);
    expect(freeBlocks(pool, 9)).toBe(2);
    expect(d.counts.idle).toMatchObject({ moved: calls, made: 2, longestStep: 1 });
    if (maker === 'directed') expect(calls).toBe(128 + 256);
    expect(m.check()).toEqual([]);
  });

  it('DF8 goes on with what the daemon began, and the other way round', () => {
    const { m } = worldFrom(WORLD);
    const d = new Defragmenter(m, settings({ idle: {}, daemon: { pages: [8, 32, 64] } }, 1, 1));
    expect(d.tick(1)).toBe(64);
    let moved = 64;
    for (let k = 0; k < 32; k++) moved += d.idle(2);
    moved += d.tick(3);
    expect(moved).toBe(128);
    expect(freeBlocks(poolOf(m), 9)).toBe(1);
    expect([d.idle(4), d.tick(4)]).toEqual([0, 0]);
    expect(m.check()).toEqual([]);
  });

  it('DF8 a source that is off does nothing; settings that contradict themselves throw', () => {
    const { m } = worldFrom(WORLD);
    const d = new Defragmenter(m, settings({}));
    expect([d.tick(1), d.idle(1)]).toEqual([0, 0]);
    m.slowPath = d.slowPath();
    expect(m.alloc(hogOf(m), toOrder(9))).toBe(-1);
    expect(() => new Defragmenter(m, settings({ daemon: { pages: [2, 1, 1] } }))).toThrow(/levels/);
    expect(() => new Defragmenter(m, { ...settings({}), pause: 0 })).toThrow(/pause/);
    expect(() => new Defragmenter(m, settings({}, 3, 2))).toThrow(/threshold/);
    expect(m.check()).toEqual([]);
  });
});

describe('lists, faults, pools', () => {
  it('DF10 the lists are flushed and off while a step lasts, and on after it', () => {
    const { m } = worldFrom(WORLD);
    const pool = poolOf(m);
    const d = new Defragmenter(m, settings({ idle: {}, daemon: { pages: [8, 32, 64] }, failure: {} }, 1, 3));
    const hog = hogOf(m);
    const waiting = (): number => {
      m.free(toPfn(m.alloc(hog, toOrder(0))));
      return pool.alloc.pcpPages();
    };
    const seen: number[] = [];
    m.faultAt = (point) => {
      if (point === 'defrag.target' || point === 'defrag.capture') seen.push(pool.alloc.pcpPages());
      return false;
    };
    m.slowPath = d.slowPath();
    for (const act of [() => d.idle(1), () => d.tick(2), () => m.alloc(hog, toOrder(9))]) {
      expect(waiting()).toBeGreaterThan(0);
      seen.length = 0;
      act();
      expect(seen.length).toBeGreaterThan(0);
      expect(seen.every((n) => n === 0)).toBe(true);
      expect(waiting()).toBeGreaterThan(0);
    }
    // Off before: off afterwards.
    pool.alloc.disable();
    d.idle(3);
    expect(pool.alloc.front.settings().disabled).toBe(1);
    pool.alloc.enable();
    m.faultAt = undefined;
    expect(m.check()).toEqual([]);
  });

  it.each(MAKER_KINDS)('DF12 whatever fails, nothing is lost; without faults the block is made (%s)', (maker) => {
    const points = [...DEFRAG_FAULT_POINTS, ...MIGRATE_FAULT_POINTS, ...COMPACT_FAULT_POINTS];
    const reached = new Set<string>();
    for (const point of points) {
      const { m } = worldFrom(WORLD);
      const d = new Defragmenter(m, settings({ maker, idle: {}, daemon: { pages: [8, 32, 64] }, failure: {} }, 1, 3));
      m.slowPath = d.slowPath();
      const hog = hogOf(m);
      m.faultAt = (p) => p === point && reached.add(p) !== undefined;
      const before = framesInUse(m);
      d.tick(1);
      for (let k = 0; k < 20; k++) d.idle(2);
      const failed = m.alloc(hog, toOrder(9));
      expect(framesInUse(m) - before, point).toBe(failed < 0 ? 0 : 512);
      expect(m.check(), point).toEqual([]);
      m.faultAt = undefined;
      if (failed < 0) expect(m.alloc(hog, toOrder(9)), point).toBeGreaterThanOrEqual(0);
      expect(m.check(), point).toEqual([]);
    }
    // Both reach the capture; each the steps of its own way.
    expect(reached.has('defrag.capture')).toBe(true);
    expect(reached.has(maker === 'directed' ? 'defrag.target' : 'compact.target')).toBe(true);
    expect(reached.has(maker === 'directed' ? 'migrate.copy' : 'compact.copy')).toBe(true);
  });

  it('DF14 realtime pools are left alone, other user pools have a run of their own', () => {
    const spec: MachineSpec = {
      ram: [{ start: toPfn(0), end: toPfn(32768), node: toNodeId(0), zone: ZONE_NORMAL }],
      watermarks: 'none',
    };
    const m = Machine.boot(spec);
    const p = pools(m);
    for (const [name, cls] of [
      ['rt', 'realtime'],
      ['web', 'normal'],
    ] as const) {
      expect(p.create({ name, pages: 8192, class: cls }).ok).toBe(true);
      const h = p.addHolder({ class: 'anonymous', name, pool: name });
      if (!h.ok) throw new Error(h.error.message);
      const got: number[] = [];
      for (;;) {
        const pfn = m.alloc(h.value, toOrder(0));
        if (pfn < 0 || m.poolAt(m.sections.indexOf(toPfn(pfn)))?.name !== name) break;
        got.push(pfn);
      }
      got.forEach((pfn, k) => {
        if (k % 3 === 0) m.free(toPfn(pfn));
      });
    }
    for (const pool of m.pools) pool.alloc.drain();
    const of = (name: string): Pool => m.pools.find((pool) => pool.name === name) as Pool;
    const d = new Defragmenter(m, settings({ daemon: { pages: [8, 32, 256] } }));
    for (let now = 1; now < 30; now++) d.tick(now);
    expect(freeBlocks(of('rt'), 9)).toBe(0);
    expect(freeBlocks(of('web'), 9)).toBe(2);
    expect(d.levels().map((l) => l.pool.name)).not.toContain('rt');
    expect(m.check()).toEqual([]);
  });

  it('DF14 a pool that is gone, or not there any more after a restore, ends its run', () => {
    const { m } = worldFrom('n0 Normal ........');
    const p = pools(m);
    const before = m.snapshot();
    const d = new Defragmenter(m, settings({ idle: {} }, 1, 20));
    const make = (): void => {
      expect(p.create({ name: 'web', pages: 8192 }).ok).toBe(true);
      const h = p.addHolder({ class: 'anonymous', name: 'web', pool: 'web' });
      if (!h.ok) throw new Error(h.error.message);
      const got = Array.from({ length: 8192 }, () => toPfn(m.alloc(h.value, toOrder(0))));
      got.forEach((pfn, k) => {
        if (k % 3 === 0) m.free(pfn);
      });
      for (const pool of m.pools) pool.alloc.drain();
    };
    make();
    expect(d.idle(1)).toBe(1);
    m.restore(before);
    expect(d.idle(2)).toBe(0);
    make();
    expect(d.idle(3)).toBe(1);
    expect(m.check()).toEqual([]);
  });
});

const framesInUse = (m: Machine): number => m.holders.pages.reduce((n, pages) => n + pages, 0);
