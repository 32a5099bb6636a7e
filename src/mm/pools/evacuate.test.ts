// Evacuation of a chunk, by example. Rules EV1..EV4, docs/spec/chunk-index.md.

import { describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { CHUNK_PAGES } from '../geometry.ts';
import { Machine } from '../machine.ts';
import type { PageClass } from '../page-class.ts';
import { isolatePageblock, unisolatePageblock } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import { checkChunkCosts, chunkCosts } from './chunk-cost.ts';
import { evacuateCheapest, evacuateChunk } from './evacuate.ts';
import { pools } from './pools.ts';

const BASE = 2 ** 20;
const O0 = toOrder(0);

/** 16 chunks in one zone; frames are handed out from below. `plan[c]` = what chunk c has of it: [class, pages]. */
function world(plan: readonly (readonly [PageClass, number])[][], contents: 'tag' | 'bytes' = 'tag') {
  const m = Machine.boot({
    ram: [{ start: toPfn(BASE), end: toPfn(BASE + 16 * CHUNK_PAGES), node: toNodeId(0) }],
    watermarks: 'none',
    code: 'shared',
    contents,
  });
  const pool = m.zones.find((p) => p.present > 0) as Pool;
  pool.alloc.setPcp({ batch: 1, high: 0 });
  const filler = m.addHolder({ class: 'shmem', name: 'filler' });
  const holders = new Map<PageClass, HolderId>();
  const rest: Pfn[] = [];
  plan.forEach((chunk, c) => {
    let at = 0;
    for (const [cls, pages] of chunk) {
      const holder = holders.get(cls) ?? m.addHolder({ class: cls, name: cls });
      holders.set(cls, holder);
      for (let k = 0; k < pages; k++, at++) {
        expect(m.alloc(holder, O0, { movable: true })).toBe(BASE + c * CHUNK_PAGES + at);
      }
    }
    for (; at < CHUNK_PAGES; at++) rest.push(m.alloc(filler, O0) as Pfn);
  });
  for (const pfn of rest) m.free(pfn);
  chunkCosts(m);
  return { m, pool, at: (c: number, k = 0): Pfn => toPfn(BASE + c * CHUNK_PAGES + k), holders };
}

const sound = (m: Machine): void => {
  expect(checkChunkCosts(m)).toEqual([]);
  expect(m.check()).toEqual([]);
};

describe('evacuateChunk', () => {
  it('EV2 the chunk becomes one free block of order 10; contents follow', () => {
    const { m, pool, at, holders } = world([[['anonymous', 300]], [['anonymous', 1000]]], 'bytes');
    m.write(at(0, 7), 0, Uint8Array.of(42));
    const r = evacuateChunk(m, at(0, 500));
    expect(r).toMatchObject({ ok: true, value: { startPfn: at(0), endPfn: at(1), migratedPages: 300, tried: 1 } });
    expect(pool.alloc.area.orderAt(m.sections.indexOf(at(0)) - pool.base)).toBe(10);
    let found = 0;
    m.forEachFrameOf(holders.get('anonymous') as HolderId, (pfn) => {
      expect(pfn).toBeGreaterThanOrEqual(at(1));
      if (m.read(pfn)[0] === 42) found++;
    });
    expect(found).toBe(1);
    sound(m);
  });

  it("EV2 or it is the holder's, all of it", () => {
    const { m, at } = world([[['anonymous', 3]], []]);
    const camera = m.addHolder({ class: 'driver', name: 'camera' });
    expect(evacuateChunk(m, at(0), { holder: camera }).ok).toBe(true);
    for (const k of [0, 511, 512, 1023]) expect(m.frame(at(0, k))).toMatchObject({ holder: camera });
    expect(m.holders.pages[camera]).toBe(CHUNK_PAGES);
    sound(m);
  });

  it('EV2 a chunk that is free is one look, and nothing moves', () => {
    const { m, at } = world([[], []]);
    const r = evacuateChunk(m, at(1));
    expect(r).toMatchObject({ ok: true, value: { migratedPages: 0, frameVisits: 1 } });
    sound(m);
  });

  it('EV2 targets are of the same pool, even where a zone has plenty', () => {
    const { m, at } = world([[], [], [], []]);
    const made = pools(m).create({ name: 'web', ranges: [{ start: at(4), end: at(6) }], pages: 2 * CHUNK_PAGES });
    if (!made.ok) throw new Error(made.error.message);
    const web = m.pools.find((p) => p.name === 'web') as Pool;
    const added = pools(m).addHolder({ class: 'anonymous', name: 'web', pool: 'web' });
    if (!added.ok) throw new Error(added.error.message);
    for (let k = 0; k < 100; k++) expect(m.alloc(added.value, O0)).toBeGreaterThanOrEqual(0);
    const spent = [at(4), at(5)].find((pfn) => chunkCosts(m).costOf(pfn) > 0) as Pfn;
    expect(evacuateChunk(m, spent)).toMatchObject({ ok: true, value: { migratedPages: 100 } });
    m.forEachFrameOf(added.value, (pfn) => expect(m.poolAt(m.sections.indexOf(pfn))).toBe(web));
    expect(m.holders.pages[added.value]).toBe(100);
    // Filled up, nothing can go anywhere: ENOMEM of the pool is no business of the zone's.
    while (m.alloc(added.value, O0) >= 0);
    expect(evacuateChunk(m, spent)).toMatchObject({ ok: false, error: { reason: 'pool-busy', errno: 'EBUSY' } });
    sound(m);
  });

  const REFUSALS: readonly (readonly [string, PageClass, string, boolean])[] = [
    ['a kernel page', 'slab', 'unmovable', false],
    ['slab that nobody can shrink', 'slab-reclaimable', 'unmovable', false],
    ['a pinned page', 'anonymous', 'pinned', true],
  ];
  for (const [name, cls, cause, pin] of REFUSALS) {
    it(`EV1 ${name} refuses, is named, and everything stays usable`, () => {
      const { m, pool, at } = world([
        [
          ['anonymous', 20],
          [cls, 1],
        ],
        [],
      ]);
      if (pin) m.pin(at(0, 20));
      const types = [0, 512].map((k) => pool.alloc.area.typeOf(m.sections.indexOf(at(0, k)) - pool.base));
      const pages = m.holders.pages.slice();
      const r = evacuateChunk(m, at(0));
      expect(r).toMatchObject({
        ok: false,
        error: { reason: 'pool-busy', errno: 'EBUSY', blockers: [{ startPfn: at(0, 20), endPfn: at(0, 21), cause }] },
      });
      expect([0, 512].map((k) => pool.alloc.area.typeOf(m.sections.indexOf(at(0, k)) - pool.base))).toEqual(types);
      expect(m.holders.pages.slice()).toEqual(pages);
      expect(m.alloc(m.addHolder({ class: 'anonymous', name: 'next' }), O0)).toBe(at(0, 21)); // the smallest free piece: usable at once
      sound(m);
    });
  }

  it('EV1 two pools, no memory, an isolated pageblock: refused before anything is touched', () => {
    const { m, pool, at } = world([[], []]);
    expect(evacuateChunk(m, toPfn(7))).toMatchObject({ ok: false, error: { reason: 'multizone', errno: 'EINVAL' } });
    const i = m.sections.indexOf(at(0, 512));
    const type = isolatePageblock(pool, i);
    expect(evacuateChunk(m, at(0))).toMatchObject({ ok: false, error: { reason: 'busy', errno: 'EBUSY' } });
    unisolatePageblock(pool, i, type);
    expect(pools(m).create({ name: 'x', pages: 10, ranges: [{ start: at(0), end: at(0, 10) }] }).ok).toBe(true);
    expect(evacuateChunk(m, at(0))).toMatchObject({ ok: false, error: { reason: 'multizone' } });
    sound(m);
  });

  it('EV3 clean cache is dropped, slab is shrunk by its owner', () => {
    const { m, at, holders } = world([
      [
        ['file', 40],
        ['slab-reclaimable', 5],
        ['anonymous', 6],
      ],
      [],
    ]);
    const r = evacuateChunk(m, at(0), {
      pageState: (_holder, index) => ({ dirty: index >= 30, mapped: false }),
      shrink(holder, pfn) {
        expect(holder).toBe(holders.get('slab-reclaimable'));
        m.free(pfn);
        return true;
      },
    });
    expect(r).toMatchObject({ ok: true, value: { droppedPages: 30, shrunkPages: 5, migratedPages: 16 } });
    sound(m);
  });

  it('EV4 the cheapest chunk is taken; one that refuses is passed over, and the tries are bounded', () => {
    const { m, pool, at } = world([
      [['slab-reclaimable', 1]], // 8
      [['anonymous', 5]], // 10
      [['anonymous', 50]],
      ...Array.from({ length: 13 }, () => [['anonymous', 900] as const]),
    ]);
    expect(evacuateCheapest(m, pool, { tries: 1 })).toMatchObject({ ok: false, error: { reason: 'pool-busy' } });
    const r = evacuateCheapest(m, pool);
    expect(r).toMatchObject({ ok: true, value: { startPfn: at(1), migratedPages: 5, tried: 2 } });
    expect(chunkCosts(m).visits(pool)).toBe(1 + 8);
    sound(m);
  });

  it('EV4 a pool without a chunk to empty refuses with ENOMEM, and looks at none', () => {
    const { m, pool } = world(Array.from({ length: 16 }, () => [['slab', 1] as const]));
    const read = chunkCosts(m).framesRead;
    expect(evacuateCheapest(m, pool)).toMatchObject({ ok: false, error: { reason: 'no-memory', errno: 'ENOMEM' } });
    expect(chunkCosts(m).visits(pool)).toBe(0);
    expect(chunkCosts(m).framesRead - read).toBe(16 * CHUNK_PAGES); // the first scan
    evacuateCheapest(m, pool);
    expect(chunkCosts(m).framesRead - read).toBe(16 * CHUNK_PAGES);
    sound(m);
  });
});
