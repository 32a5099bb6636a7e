// Chunk costs by example. Rules CC1..CC7, docs/spec/chunk-index.md.

import { describe, expect, it } from 'vitest';
import { type HolderId, type Order, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { CHUNK_PAGES } from '../geometry.ts';
import { Machine } from '../machine.ts';
import { PAGE_CLASSES, type PageClass } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import {
  CHUNK_WEIGHTS,
  checkChunkCosts,
  chunkCosts,
  HISTOGRAM_LABELS,
  INFINITE,
  pageWeight,
  setChunkSettings,
} from './chunk-cost.ts';
import { pools } from './pools.ts';

const O0 = toOrder(0);

/** 64 MiB, one zone, 16 chunks. Everything that a test takes is movable by request, so that it fills chunks from below. */
function world(): {
  m: Machine;
  pool: Pool;
  take(cls: PageClass, pages: number, order?: Order): Pfn[];
  last(): HolderId;
} {
  const base = 2 ** 20; // from 4 GiB up: one zone, Normal
  const m = Machine.boot({
    ram: [{ start: toPfn(base), end: toPfn(base + 16 * CHUNK_PAGES), node: toNodeId(0) }],
    watermarks: 'none',
    code: 'shared',
  });
  const pool = m.zones.find((p) => p.present > 0) as Pool;
  let holder = -1 as HolderId;
  return {
    m,
    pool,
    last: () => holder,
    take(cls, pages, order = O0) {
      holder = m.addHolder({ class: cls, name: cls });
      const out: Pfn[] = [];
      for (let k = 0; k < pages; k += 2 ** order) {
        const pfn = m.alloc(holder, order, { movable: true });
        expect(pfn).toBeGreaterThanOrEqual(0);
        out.push(pfn as Pfn);
      }
      return out;
    },
  };
}

const sound = (m: Machine): void => {
  expect(checkChunkCosts(m)).toEqual([]);
  expect(m.check()).toEqual([]);
};

describe('chunk costs', () => {
  it('CC3 what a page costs, by class and state', () => {
    const table = Object.fromEntries(
      PAGE_CLASSES.map((cls) => [cls, pageWeight(cls, { dirty: false }, CHUNK_WEIGHTS)] as const),
    );
    const never = 2 ** 20;
    expect(table).toEqual({
      anonymous: 2,
      file: 1,
      shmem: 2,
      hugetlb: 2,
      balloon: 2,
      gigantic: never,
      slab: never,
      'slab-reclaimable': 8,
      pagetable: never,
      stack: never,
      vmalloc: never,
      driver: never,
      memmap: never,
      reserved: never,
      deferred: never,
      unplugged: never,
      poisoned: never,
      unknown: never,
      'movable-ops': 2,
    });
    expect(pageWeight('file', { dirty: true }, CHUNK_WEIGHTS)).toBe(4);
    expect(pageWeight('file', { dirty: false, mlocked: true }, CHUNK_WEIGHTS)).toBe(2);
    expect(pageWeight('file', { dirty: false, unevictable: true }, CHUNK_WEIGHTS)).toBe(2);
  });

  it('CC1 pages on per-CPU lists cost nothing', () => {
    const { m, pool, take } = world();
    m.updateWatermarks();
    pool.alloc.setPcp({ batch: 63, high: 252 });
    const [a] = take('anonymous', 5) as [Pfn];
    expect(pool.alloc.pcpPages()).toBe(58);
    expect(chunkCosts(m).costOf(a)).toBe(10);
    m.free(a);
    expect(pool.alloc.pcpPages()).toBe(59);
    expect(chunkCosts(m).costOf(a)).toBe(8);
    sound(m);
  });

  it('CC1 a chunk costs the sum of its pages', () => {
    const { m, take } = world();
    const anon = take('anonymous', 100);
    const first = anon[0] as Pfn;
    expect(chunkCosts(m).costOf(first)).toBe(200);
    take('file', 30);
    take('slab-reclaimable', 16, toOrder(4));
    expect(chunkCosts(m).costOf(first)).toBe(200 + 30 + 16 * 8);
    m.free(anon[50] as Pfn);
    expect(chunkCosts(m).costOf(first)).toBe(198 + 30 + 128);
    take('slab', 1);
    expect(chunkCosts(m).costOf(first)).toBe(INFINITE);
    sound(m);
  });

  it('CC4 a pin makes a chunk unreclaimable for as long as it lasts', () => {
    const { m, take } = world();
    const [a, b] = take('anonymous', 2) as [Pfn, Pfn];
    const cost = (): number => chunkCosts(m).costOf(a);
    m.pin(a);
    expect(cost()).toBe(INFINITE);
    m.pin(a); // idempotent
    m.pin(b);
    m.unpin(a);
    expect(cost()).toBe(INFINITE);
    m.unpin(b);
    expect(cost()).toBe(4);
    m.pin(a);
    m.free(a); // gone with its pin
    expect(cost()).toBe(2);
    sound(m);
  });

  it('CC5 dirty cache costs more, as its holder says when it changes', () => {
    const { m, take, last } = world();
    const dirty = new Set<number>();
    setChunkSettings(m, {
      pageState: (holder, _index, pfn) => (holder === last() ? { dirty: dirty.has(pfn), mapped: false } : undefined),
    });
    const pages = take('file', 10);
    const first = pages[0] as Pfn;
    const costs = chunkCosts(m);
    expect(costs.costOf(first)).toBe(10);
    dirty.add(pages[3] as Pfn).add(pages[4] as Pfn);
    expect(costs.costOf(first)).toBe(10); // nobody said a word yet
    costs.changed(pages[3] as Pfn);
    costs.changed(pages[4] as Pfn);
    expect(costs.costOf(first)).toBe(8 + 2 * 4);
    m.free(pages[3] as Pfn);
    expect(costs.costOf(first)).toBe(8 + 4);
    sound(m);
  });

  it('CC5 weights can be others, and then everything is counted anew', () => {
    const { m, take } = world();
    const [a] = take('slab-reclaimable', 3) as [Pfn];
    expect(chunkCosts(m).costOf(a)).toBe(24);
    setChunkSettings(m, { weights: { reclaimableSlab: 5 } });
    expect(chunkCosts(m).costOf(a)).toBe(15);
    setChunkSettings(m, { weights: { reclaimableSlab: Number.POSITIVE_INFINITY } });
    expect(chunkCosts(m).costOf(a)).toBe(INFINITE);
    expect(() => setChunkSettings(m, { weights: { dirty: 1024 } })).toThrow('0 to 1023');
    sound(m);
  });

  it('CC6 cheapest, top and the histogram of a pool', () => {
    const { m, pool, take } = world();
    const costs = chunkCosts(m);
    const start = pool.startPfn;
    take('anonymous', 600); // 1200: the first chunk
    take('file', 424);
    take('file', 500); // the second chunk
    const found = costs.top(pool, 16, toOrder(10));
    expect(found.length).toBe(16);
    expect(found.slice(0, 2)).toEqual([
      { startPfn: start + 2 * CHUNK_PAGES, order: 10, cost: 0 },
      { startPfn: start + 3 * CHUNK_PAGES, order: 10, cost: 0 },
    ]);
    expect(found.slice(14)).toEqual([
      { startPfn: start + CHUNK_PAGES, order: 10, cost: 500 },
      { startPfn: start, order: 10, cost: 1624 },
    ]);
    expect(costs.cheapest(pool)).toEqual(found[0]);
    take('slab', 1);
    const counts = Object.fromEntries(costs.histogram(pool).map((n, k) => [HISTOGRAM_LABELS[k], n]));
    expect(counts).toEqual({ free: 14, '<=64': 0, '<=512': 0, '<=1024': 0, '<=2048': 1, more: 0, unreclaimable: 1 });
    // The pageblock behind the slab is free, though its chunk cannot be emptied.
    expect(costs.top(pool, 1, toOrder(9))).toEqual([{ startPfn: start + 3 * 512, order: 9, cost: 0 }]);
    expect(costs.top(pool, 1, toOrder(3))).toEqual([{ startPfn: start + 1024 + 504, order: 3, cost: 0 }]);
    sound(m);
  });

  it('CC2 a chunk is in a pool only when all of it is', () => {
    const { m, pool, take } = world();
    take('anonymous', 8);
    const costs = chunkCosts(m);
    expect(costs.top(pool, 99, toOrder(10)).length).toBe(16);
    const made = pools(m).create({ name: 'web', pages: 3 * CHUNK_PAGES + 100, zones: [pool.name as 'Normal'] });
    if (!made.ok) throw new Error(made.error.message);
    const web = m.pools.find((p) => p.name === 'web') as Pool;
    expect(costs.top(web, 99, toOrder(10)).length).toBe(3);
    expect(costs.top(pool, 99, toOrder(10)).length).toBe(12); // one chunk is shared
    sound(m);
    expect(pools(m).destroy('web').ok).toBe(true);
    expect(costs.top(pool, 99, toOrder(10)).length).toBe(16);
    expect(costs.cheapest(web)).toBe(undefined);
    sound(m);
  });

  it('CC7 copies and restored machines count anew; the first is not disturbed', () => {
    const { m, pool, take } = world();
    const [a] = take('anonymous', 4) as [Pfn];
    const before = m.snapshot();
    expect(chunkCosts(m).costOf(a)).toBe(8);
    const fork = m.fork();
    fork.free(a);
    expect([chunkCosts(fork).costOf(a), chunkCosts(m).costOf(a)]).toEqual([6, 8]);
    take('slab', 1);
    const old = chunkCosts(m);
    expect(old.costOf(a)).toBe(INFINITE);
    m.restore(before);
    expect(() => old.cheapest(pool)).toThrow('another one');
    expect(chunkCosts(m).costOf(a)).toBe(8);
    m.free(a);
    expect(chunkCosts(m).costOf(a)).toBe(6);
    sound(fork);
    sound(m);
  });

  it('CC7 somebody else who watches the frames is not pushed aside', () => {
    const { m } = world();
    const nothing = (): void => undefined;
    m.frameWatch = { occupied: nothing, vacated: nothing, moved: nothing, owned: nothing, marked: nothing };
    expect(() => chunkCosts(m)).toThrow('somebody else');
  });

  it('CC1 a cost that went wrong is noticed by check', () => {
    const { m, take } = world();
    const [a] = take('anonymous', 4) as [Pfn];
    expect(chunkCosts(m).costOf(a)).toBe(8);
    const index = m.sections.indexOf(toPfn(a));
    m.frameWatch?.vacated(index, 0, m.holders.holderOf(m.sections.ownerAt(index)));
    expect(checkChunkCosts(m)).toEqual([expect.stringMatching(/^CC1 pageblock \d+ weighs 8, remembered 6$/)]);
  });
});
