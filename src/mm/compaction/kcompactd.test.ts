// The daemon by example: who wakes it, what it does, when it sleeps how long. Rules CP24..CP27, docs/spec/compaction.md.

import { describe, expect, it } from 'vitest';
import { toNodeId, toOrder } from '#base/units';
import { drawn, pictureOf, worldFrom } from '../../../test/support/picture.ts';
import { ZONE_MOVABLE, ZONE_NORMAL } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { pools } from '../pools/pools.ts';
import { writeTunable } from '../vm-tunables.ts';
import { compactRow } from './compact-state.ts';
import { installCompaction } from './direct.ts';
import {
  compactMemory,
  compactNode,
  kcompactdTick,
  nextTickMs,
  nodeScore,
  poolsOfNode,
  scoreMarks,
  wakeKcompactd,
  zoneScore,
} from './kcompactd.ts';

const N0 = toNodeId(0);
const N1 = toNodeId(1);
const FULL_OF_HOLES = 'm.m.m.m.|m.m.m.m.|m.m.m.m.|m.m.m.m.|m.m.m.m.|UUUUUUUU|UUUUUUUU|UUUUUUUU';

describe('asked for a page', () => {
  it('CP24 it makes a page of the largest order that was asked for, in zones that the request may use, then sleeps', () => {
    const { m } = worldFrom(`
      n0 DMA32  ${FULL_OF_HOLES} *#
      n0 Normal ${FULL_OF_HOLES} *#`);
    m.vm.extfragThreshold = 0;
    m.vm.compactionProactiveness = 0;
    expect(kcompactdTick(m, 0)).toEqual([]);
    wakeKcompactd(m, N0, 4, ZONE_MOVABLE);
    wakeKcompactd(m, N0, 0, ZONE_NORMAL);
    // There are pages of order 4: nobody is woken for that. For order 9 somebody is.
    expect(nextTickMs(m)).toBe(Number.POSITIVE_INFINITY);
    wakeKcompactd(m, N0, 9, 1);
    expect(nextTickMs(m)).toBe(Number.NEGATIVE_INFINITY);
    const done = kcompactdTick(m, 10);
    expect(done.map((d) => [d.node, d.why, d.zones.length])).toEqual([[N0, 'asked', 1]]);
    expect(done[0].zones[0]).toMatchObject({ result: 'success', moved: 256 });
    expect(pictureOf(m).startsWith(drawn('n0 DMA32 ........|m.m.m.m.|m.m.m.m.|'))).toBe(true);
    expect(m.vmstat).toMatchObject({
      compact_daemon_wake: 1,
      compact_daemon_migrate_scanned: done[0].zones[0].migrateScanned,
    });
    expect(kcompactdTick(m, 20_000)).toEqual([]);
    expect(m.check()).toEqual([]);
  });

  it('CP24 a run in vain defers the zone, and drains it', () => {
    const { m } = worldFrom('n0 Normal U.U.U.U.|U.......|m.U.....|U....... *#');
    m.vm.extfragThreshold = 0;
    m.vm.compactionProactiveness = 0;
    const pool = m.zones.find((p) => p.present > 0) as Pool;
    kcompactdTick(m, 0);
    const runs: number[] = [];
    for (let k = 0; k < 8; k++) {
      wakeKcompactd(m, N0, 9, ZONE_MOVABLE);
      runs.push(kcompactdTick(m, k).flatMap((d) => d.zones).length);
    }
    expect(runs).toEqual([1, 0, 1, 0, 0, 0, 1, 0]);
    expect(compactRow(m, pool).shift).toBe(3);
    expect(m.vmstat.compact_daemon_wake).toBe(8);
    expect(m.check()).toEqual([]);
  });

  it('CP24 it is woken by the end of kswapd’s run, which a request that found nothing had started', () => {
    const { m } = worldFrom(`n0 Normal m.m.m.m.|m.m.m.m.|m.m.m.m.|${FULL_OF_HOLES} *#`);
    m.vm.extfragThreshold = 0;
    kcompactdTick(m, 0);
    installCompaction(m);
    const h = m.addHolder({ class: 'anonymous', name: 'huge' });
    expect(m.alloc(h, toOrder(9))).toBeGreaterThanOrEqual(0);
    const done = kcompactdTick(m, 1);
    expect(done.map((d) => d.why)).toEqual(['asked']);
    expect(done[0].zones[0].result).toBe('success');
    const moved = m.vmstat.pgmigrate_success;
    expect(m.alloc(h, toOrder(9))).toBeGreaterThanOrEqual(0);
    expect(m.vmstat.pgmigrate_success).toBe(moved); // it was there already
    expect(m.check()).toEqual([]);
  });
});

describe('proactive', () => {
  it('CP25 a zone’s score is the share of its free memory in pieces below order 9, a node’s weighs them by size', () => {
    const { m } = worldFrom(`
      n0 DMA32  ........|m.m.m.m.|UUUUUUUU *#
      n0 Normal m.m.m.m.|m.m.m.m.|m.m.m.m.|........|UUUUUUUU|UUUUUUUU|UUUUUUUU *#
      n1 Normal ........ *#`);
    const [low, high] = poolsOfNode(m, N0);
    expect([zoneScore(low), zoneScore(high)]).toEqual([33, 60]);
    // 1536 and 3584 frames of 5120, and one.
    expect(nodeScore(m, N0)).toBe(Math.floor((1536 * 33) / 5121) + Math.floor((3584 * 60) / 5121));
    expect(nodeScore(m, N1)).toBe(0);
  });

  it('CP25 marks: 100 - proactiveness, at least 5; ten more, at most 100', () => {
    const { m } = worldFrom('n0 Normal ........ *#');
    const at = (p: number) => {
      expect(writeTunable(m, 'compaction_proactiveness', p).ok).toBe(true);
      return scoreMarks(m);
    };
    expect(at(20)).toEqual({ low: 80, high: 90 });
    expect(at(100)).toEqual({ low: 5, high: 15 });
    expect(at(96)).toEqual({ low: 5, high: 15 });
    expect(at(95)).toEqual({ low: 5, high: 15 });
    expect(at(5)).toEqual({ low: 95, high: 100 });
    expect(at(0)).toEqual({ low: 100, high: 100 });
    for (const wrong of [-1, 101, 1.5]) expect(writeTunable(m, 'compaction_proactiveness', wrong).ok).toBe(false);
  });

  it('CP26 every 500 ms a node above `high` is worked down, each zone to `low`; in vain: not before 32 s', () => {
    const { m } = worldFrom(`n0 Normal ${FULL_OF_HOLES} *#`);
    const pool = m.zones.find((p) => p.present > 0) as Pool;
    expect(kcompactdTick(m, 1000)).toEqual([]);
    expect(kcompactdTick(m, 1499)).toEqual([]);
    expect(zoneScore(pool)).toBe(100);
    const done = kcompactdTick(m, 1500);
    expect(done.map((d) => [d.why, d.zones[0].result])).toEqual([['proactive', 'success']]);
    expect(zoneScore(pool)).toBeLessThanOrEqual(80);
    expect(m.vmstat).toMatchObject({ compact_daemon_wake: 0, compact_stall: 0 });
    expect(m.vmstat.compact_daemon_free_scanned).toBeGreaterThan(0);
    expect(kcompactdTick(m, 2000)).toEqual([]);
    expect(nextTickMs(m)).toBe(2500);
    expect(m.check()).toEqual([]);

    const vain = worldFrom('n0 Normal U.U.U.U.|UUUUUUUU *#').m;
    kcompactdTick(vain, 0);
    expect(kcompactdTick(vain, 500)).toHaveLength(1);
    expect(nextTickMs(vain)).toBe(32_500);
    expect(kcompactdTick(vain, 32_499)).toEqual([]);
    expect(kcompactdTick(vain, 32_500)).toHaveLength(1);
  });

  it('CP26 a write of compaction_proactiveness wakes it at once, 0 lets it sleep; not while kswapd runs', () => {
    const { m } = worldFrom(`n0 Normal ${FULL_OF_HOLES} *#`);
    kcompactdTick(m, 0);
    writeTunable(m, 'compaction_proactiveness', 0);
    expect(kcompactdTick(m, 1)).toEqual([]);
    kcompactdTick(m, 500);
    expect(nextTickMs(m)).toBe(Number.POSITIVE_INFINITY);
    writeTunable(m, 'compaction_proactiveness', 50);
    expect(kcompactdTick(m, 501, { kswapdRunning: () => true })).toEqual([]);
    expect(kcompactdTick(m, 502)).toEqual([]); // the trigger is used up
    writeTunable(m, 'compaction_proactiveness', 50);
    expect(kcompactdTick(m, 503)).toHaveLength(1);
    const fork = m.fork();
    expect(nextTickMs(fork)).toBe(nextTickMs(m));
  });
});

describe('on demand', () => {
  it('CP27 compact_memory empties all zones of all nodes as far as that goes, whatever hints say; a node’s file its own', () => {
    const text = `
      n0 Normal  m.m.m.m.|UUUUUUUU|U....... *#
      n1 Normal  m.m.m.m.|UUUUUUUU|UUUU.... *#`;
    const { m } = worldFrom(text);
    expect(compactNode(m, N1).map((r) => r.result)).toEqual(['complete']);
    expect(pictureOf(m)).toBe(
      drawn('n0 Normal m.m.m.m.|UUUUUUUU|U....... *#\n n1 Normal ........|UUUUUUUU|UUUUmmmm *#'),
    );
    expect(compactMemory(m)).toHaveLength(2);
    expect(pictureOf(m)).toBe(
      drawn('n0 Normal ........|UUUUUUUU|Ummmm... *#\n n1 Normal ........|UUUUUUUU|UUUUmmmm *#'),
    );
    expect(m.check()).toEqual([]);
  });

  it('CP27 user pools are zones of their home node; realtime pools are left alone', () => {
    const { m } = worldFrom('n0 Normal mm......|........|........|........ *.');
    for (const [name, cls] of [
      ['web', 'normal'],
      ['loop', 'realtime'],
    ] as const) {
      const made = pools(m).create({ name, class: cls, nodes: [N0], pages: 4096 });
      if (!made.ok) throw new Error(made.error.message);
    }
    const reports = compactNode(m, N0);
    expect(reports.map((r) => r.result)).toEqual(['complete', 'complete', 'skipped']);
    expect(m.check()).toEqual([]);
  });
});
