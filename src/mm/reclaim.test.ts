// Reclaim by example. Rules CP33, CP34, docs/spec/compaction.md.

import { describe, expect, it } from 'vitest';
import { toOrder, toPfn } from '#base/units';
import { worldFrom } from '../../test/support/picture.ts';
import type { SlowRequest } from './alloc-path.ts';
import type { HolderSpec } from './holder.ts';
import type { Machine } from './machine.ts';
import { directReclaim, reclaimablePages, reclaimPages } from './reclaim.ts';

const COLD: Omit<HolderSpec, 'node'> = { class: 'file', name: 'cold', mapped: false };

function worldOf(files: number, pages: number): { m: Machine; holders: number[] } {
  const { m } = worldFrom('n0 Normal ........|........|........|........ *#');
  const holders = Array.from({ length: files }, () => m.addHolder(COLD));
  for (let k = 0; k < pages; k++) for (const h of holders) m.alloc(h as never, toOrder(0)); // interleaved
  return { m, holders };
}

const request = (m: Machine, order: number): SlowRequest => ({
  list: Int32Array.from(
    m.zones.filter((p) => p.present > 0),
    (p) => p.id,
  ),
  order,
  migratetype: 1,
  topZone: 3,
});

describe('reclaim', () => {
  it('CP33 drops clean cache that nobody has mapped, 32 pages a call, the oldest file first, each from its start', () => {
    const { m, holders } = worldOf(3, 40);
    const left = () => holders.map((h) => m.holders.pages[h]);
    expect(reclaimablePages(m)).toBe(120);
    expect(reclaimPages(m, request(m, 0))).toBe(32);
    expect(left()).toEqual([8, 40, 40]);
    expect(reclaimPages(m, request(m, 0))).toBe(32);
    expect(left()).toEqual([0, 16, 40]);
    expect(reclaimPages(m.fork(), request(m, 0), { pages: 1000 })).toBe(56);
    expect(m.vmstat.pgsteal_direct).toBe(64);
    expect(m.check()).toEqual([]);
  });

  it('CP33 passes by what is dirty, under writeback, pinned, unevictable, mapped, or not where the request may use it', () => {
    const { m } = worldFrom('n0 Normal ........|........ *#\n n1 Normal ........ *#');
    const add = (spec: Partial<Omit<HolderSpec, 'node'>>) =>
      toPfn(m.alloc(m.addHolder({ ...COLD, ...spec }), toOrder(0)));
    m.setPageFlags(add({}), { dirty: true });
    m.setPageFlags(add({}), { writeback: true });
    m.setPageFlags(add({}), { unevictable: true });
    m.pin(add({}));
    add({ mapped: true });
    add({ class: 'anonymous' });
    const there = add({});
    const list = Int32Array.from(
      m.zones.filter((p) => p.node === 1),
      (p) => p.id,
    );
    expect(reclaimPages(m, { ...request(m, 0), list })).toBe(0);
    expect(m.frame(there).state).toBe('used');
    expect(reclaimPages(m, request(m, 0))).toBe(1);
    expect(m.frame(there).state).toBe('free');
    expect(m.check()).toEqual([]);
  });

  it('CP34 lumpy: above order 3 all that can be dropped in the oldest page’s aligned piece goes with it', () => {
    const { m, holders } = worldOf(4, 64);
    const first = m.zones.find((p) => p.present > 0);
    expect(reclaimPages(m, request(m, 5), { shape: 'lumpy' })).toBe(32);
    // Its neighbours are of all four files.
    expect(holders.map((h) => m.holders.pages[h])).toEqual([56, 56, 56, 56]);
    expect(first?.alloc.drain()).toBeGreaterThanOrEqual(0);
    expect(reclaimPages(m, request(m, 3), { shape: 'lumpy' })).toBe(32);
    expect(holders.map((h) => m.holders.pages[h])).toEqual([24, 56, 56, 56]);
    expect(m.check()).toEqual([]);
  });

  it('CP34 plain: above order 3 it goes on until compaction has room, or nothing is left', () => {
    const { m } = worldOf(4, 250);
    const pool = m.zones.find((p) => p.present > 0);
    if (pool === undefined) throw new Error('a zone');
    pool.alloc.setPcp({ batch: 1, high: 0 });
    pool.alloc.drain();
    const free = pool.alloc.nrFree();
    const marks = (low: number): void => {
      pool.watermarks = { min: low, low, high: low, promo: low, reserve: [0, 0, 0, 0] };
    };
    marks(free - 1024 + 100); // 2 * 2^9 above low: 101 pages are wanting
    expect(directReclaim()(m, request(m, 9))).toBe(128);
    expect(directReclaim()(m, request(m, 3))).toBe(32);
    marks(free + 5000);
    expect(directReclaim()(m, request(m, 9))).toBe(1000 - 160);
    expect(directReclaim()(m, request(m, 9))).toBe(0);
    expect(m.check()).toEqual([]);
  });
});
