// May these frames go? Rules I1..I4, docs/spec/isolation-and-offline.md (spec 3.2).

import { describe, expect, it } from 'vitest';
import { toOrder, toPfn } from '#base/units';
import { CELL_PAGES, drawn, pictureOf, worldFrom } from '../../test/support/picture.ts';
import { MIGRATE_CMA, MIGRATE_ISOLATE, MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, type MigrateType } from './geometry.ts';
import { PAGE_CLASSES, type PageClass, ZONE_DMA, ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { allocationsIn, BlockerList, isolatePageblock, isolationCause, unisolatePageblock } from './page-isolation.ts';
import type { Pool } from './pool.ts';

const MOVES: readonly PageClass[] = ['anonymous', 'file', 'shmem', 'hugetlb', 'balloon', 'movable-ops'];
const STAYS: readonly PageClass[] = ['unplugged', 'poisoned'];
const NEVER = PAGE_CLASSES.filter((c) => !MOVES.includes(c) && !STAYS.includes(c));

describe('I3 the questions, in their order', () => {
  it('I3 a CMA pageblock refuses every class, in every zone', () => {
    for (const cls of PAGE_CLASSES) {
      for (const zone of [ZONE_DMA, ZONE_NORMAL, ZONE_MOVABLE]) {
        expect(isolationCause(cls, zone, MIGRATE_CMA)).toBe('cma');
      }
    }
  });

  it('I3 reserved refuses in every zone, Movable too', () => {
    for (const zone of [ZONE_DMA, ZONE_DMA32, ZONE_NORMAL, ZONE_MOVABLE]) {
      expect(isolationCause('reserved', zone, MIGRATE_MOVABLE)).toBe('reserved');
    }
  });

  it('I3 in Movable everything else passes', () => {
    for (const cls of PAGE_CLASSES) {
      if (cls !== 'reserved') expect(isolationCause(cls, ZONE_MOVABLE, MIGRATE_MOVABLE), cls).toBeUndefined();
    }
  });

  it('I3 in kernel zones the classes that move or may stay pass, all others refuse, whatever the pageblock type', () => {
    expect(NEVER.length).toBeGreaterThan(8);
    for (const zone of [ZONE_DMA, ZONE_DMA32, ZONE_NORMAL]) {
      for (const type of [MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, MIGRATE_ISOLATE] as MigrateType[]) {
        for (const cls of [...MOVES, ...STAYS]) expect(isolationCause(cls, zone, type), cls).toBeUndefined();
        for (const cls of NEVER) {
          expect(isolationCause(cls, zone, type), cls).toBe(cls === 'reserved' ? 'reserved' : 'unmovable');
        }
      }
    }
  });
});

describe('I4 evidence', () => {
  it('I4 neighbours of one holder and cause are one run; a pin is not seen, free and per-CPU frames are fine', () => {
    const { m, at, holder } = worldFrom(`
      n0 Normal   UU.DDU..|PMF..XVB|TTTTTTTT|HHHHHHHH
      n0 Movable  UUDD.P..|R.......
    `);
    m.free(toPfn(m.alloc(holder('M'), toOrder(0)))); // leaves a batch on a per-CPU list
    expect(m.blockersIn(at(0), at(2)).map((b) => [b.startPfn, b.endPfn, b.cause, b.name])).toEqual([
      [at(0, 0, 0), at(0, 0, 2), 'unmovable', 'U'],
      [at(0, 0, 3), at(0, 0, 5), 'unmovable', 'D'],
      [at(0, 0, 5), at(0, 0, 6), 'unmovable', 'U'],
      [at(1, 1, 0), at(1, 1, 1), 'reserved', 'R'],
    ]);
  });

  it('I4 a range may cut an allocation: only the part inside is named', () => {
    const { m, at } = worldFrom('n0 Normal U.......');
    expect(m.blockersIn(toPfn(at(0) + 10), toPfn(at(0) + 20))).toMatchObject([{ startPfn: 10, endPfn: 20 }]);
    expect(m.blockersIn(toPfn(at(0) + 60), toPfn(at(0) + 200))).toMatchObject([{ startPfn: 60, endPfn: CELL_PAGES }]);
  });

  it('I4 frames that are not RAM, offline, or of no section at all are holes', () => {
    const { m, at, block } = worldFrom('n0 Normal ........|.......#\n n0 Normal ........');
    expect(m.blockersIn(at(0, 1), at(0, 2))).toMatchObject([
      { startPfn: at(0, 1, 7), endPfn: at(0, 2), cause: 'hole' },
    ]);
    m.offline(block(1));
    expect(m.blockersIn(at(1), toPfn(at(2) + 5))).toEqual([
      { startPfn: at(1), endPfn: at(2) + 5, cause: 'hole', class: 'none', holder: -1, name: 'not RAM, or offline' },
    ]);
  });

  it('I4 asking changes nothing', () => {
    const { m, at } = worldFrom('n0 Normal UM......|TTTTTTTT');
    const before = m.digest();
    m.blockersIn(at(0), at(1));
    expect(m.digest()).toBe(before);
  });

  it('a list counts the frames it names', () => {
    const list = new BlockerList();
    const b = { cause: 'pinned', class: 'file', holder: -1, name: 'x' } as const;
    list.add({ startPfn: toPfn(1), endPfn: toPfn(3), ...b });
    list.add({ startPfn: toPfn(3), endPfn: toPfn(4), ...b });
    list.add({ startPfn: toPfn(9), endPfn: toPfn(10), ...b });
    expect(list.items.map((i) => [i.startPfn, i.endPfn])).toEqual([
      [1, 4],
      [9, 10],
    ]);
    expect(list.pages).toBe(4);
  });
});

describe('I1 I2 a pageblock goes and comes back', () => {
  const text = 'n0 Normal U:U......U|........|R:M.......|..M.....|A:........|MMMMMMMM';
  for (const placement of ['address', 'fullest', 'lifo'] as const) {
    it(`I1 undone in reverse, each has its type and its chunks again, ${placement}`, () => {
      const { m } = worldFrom(text, { placement });
      const before = m.digest();
      const pool = m.pools[0] as Pool;
      const ladder: { index: number; type: MigrateType }[] = [];
      for (let index = 0; index < 32768; index += 512) ladder.push({ index, type: isolatePageblock(pool, index) });
      expect(pool.alloc.nrFree()).toBe(0);
      expect(m.check()).toEqual([]);
      expect(m.digest()).not.toBe(before);
      for (const { index, type } of ladder.reverse()) unisolatePageblock(pool, index, type);
      expect(m.digest()).toBe(before);
      expect(pictureOf(m)).toBe(drawn(text));
      expect(m.check()).toEqual([]);
    });
  }

  it('I1 half of a free chunk of order 10 can be isolated alone, and joins it again', () => {
    for (const half of [0, 512]) {
      const { m } = worldFrom('n0 Normal ........');
      const pool = m.poolNamed(m.nodes[0], 'Normal') as Pool;
      const type = isolatePageblock(pool, half);
      expect([pool.alloc.area.orderAt(0), pool.alloc.area.orderAt(512)]).toEqual([9, 9]);
      expect(pool.alloc.nrIsolated()).toBe(512);
      unisolatePageblock(pool, half, type);
      expect(pool.alloc.area.orderAt(0)).toBe(10);
      expect(m.check()).toEqual([]);
    }
  });

  it('I2 frames freed into an isolated pageblock stay isolated, also from a per-CPU point of view', () => {
    const { m, at } = worldFrom('n0 Normal m.......');
    const pool = m.poolNamed(m.nodes[0], 'Normal') as Pool;
    isolatePageblock(pool, 0);
    const free = pool.alloc.nrFree();
    for (let k = 0; k < CELL_PAGES; k++) m.free(toPfn(at(0) + k));
    expect([pool.alloc.nrFree(), pool.alloc.nrIsolated(), pool.alloc.pcpPages()]).toEqual([free, 512, 0]);
    expect(m.check()).toEqual([]);
  });
});

describe('allocationsIn', () => {
  it('gives each allocation once, ascending, and one that begins before the range, too', () => {
    const { m, at } = worldFrom('n0 Normal .M.P..m.|TTTTTTTT|X.......');
    const heads = (start: number, end: number) =>
      [...allocationsIn(m, start, end)].map((a) => [a.head, a.order, a.cls, a.pinned]);
    const singles = Array.from({ length: CELL_PAGES }, (_, k) => [at(0, 0, 6) + k, 0, 'anonymous', false]);
    expect(heads(0, 32768)).toEqual([
      [at(0, 0, 1), 6, 'anonymous', false],
      [at(0, 0, 3), 6, 'anonymous', true],
      ...singles,
      [at(0, 1), 9, 'anonymous', false],
      [at(0, 2), 6, 'poisoned', false],
    ]);
    expect(heads(at(0, 1, 4), at(0, 2))).toEqual([[at(0, 1), 9, 'anonymous', false]]);
    expect(heads(at(0, 3), at(1))).toEqual([]);
  });
});
