// Contiguous allocation. Rules AC1..AC9, docs/spec/contiguous-allocation.md (spec 3.4).

import { describe, expect, it } from 'vitest';
import { type HolderId, toNodeId, toOrder, toPfn } from '#base/units';
import { CELL_PAGES, drawn, pictureOf, worldFrom } from '../../test/support/picture.ts';
import { alignLikeLinux, allocContigPages, allocContigRange, freeContigRange } from './contig-alloc.ts';
import { takeFreeFrames } from './free-frames.ts';
import { isolatePageblock } from './page-isolation.ts';
import type { Pool } from './pool.ts';

type Case = {
  name: string;
  world: string;
  reason: string;
  errno: string;
  gfp?: string[];
  start?: number;
  end?: number;
};

// The range is cells 4 to 12 of the first line: half of the first pageblock and half of the second.
const REFUSALS: readonly Case[] = [
  {
    name: 'gfp bits that are not supported',
    world: '........',
    gfp: ['__GFP_IO', '__GFP_NOFAIL'],
    reason: 'bad-argument',
    errno: 'EINVAL',
  },
  { name: 'an empty range', world: '........', start: 5, end: 5, reason: 'bad-argument', errno: 'EINVAL' },
  { name: 'a kernel page', world: '.....U..', reason: 'unmovable', errno: 'EBUSY' },
  { name: 'a reserved page', world: '.....R..', reason: 'unmovable', errno: 'EBUSY' },
  { name: 'a poisoned page, which hot-remove tolerates', world: '.....X..', reason: 'unmovable', errno: 'EBUSY' },
  { name: 'a page that was never plugged, too', world: '.....V..', reason: 'unmovable', errno: 'EBUSY' },
  { name: 'a hole', world: '.....#..', reason: 'unmovable', errno: 'EBUSY' },
  { name: 'a CMA pageblock of someone else', world: 'C:........', reason: 'unmovable', errno: 'EBUSY' },
  { name: 'a pinned page, after five tries', world: '.....P..', reason: 'in-use', errno: 'EBUSY' },
];

describe('allocContigRange', () => {
  for (const placement of ['address', 'lifo'] as const) {
    it(`AC1 AC2 a range that is not aligned is emptied; head and tail stay free, contents follow, ${placement}`, () => {
      const { m, at, holder } = worldFrom('n0 Normal .M..mM..|..M..F..|........', { contents: 'bytes', placement });
      m.write(at(0, 0, 5), 0, Uint8Array.of(7, 8));
      const h = m.addHolder({ class: 'driver', name: 'camera' });
      const start = toPfn(at(0, 0, 4) + 3);
      const end = toPfn(at(0, 1, 3) - 5);
      const r = allocContigRange(m, start, end, { holder: h });
      expect(r).toEqual({
        ok: true,
        value: { startPfn: start, endPfn: end, migratedPages: 61 + 2 * CELL_PAGES, droppedPages: 0 },
      });
      for (let pfn: number = start; pfn < end; pfn++) expect(m.frame(toPfn(pfn))).toMatchObject({ holder: h });
      for (const pfn of [start - 4, end, end + 4]) expect(m.frame(toPfn(pfn)).state).toBe('free');
      expect(m.holders.pages[h]).toBe(end - start);
      let moved = 0;
      m.forEachFrameOf(holder('M'), (pfn, order) => {
        if (order === 6 && m.read(pfn)[1] === 8) moved++;
      });
      expect(moved).toBe(1);
      expect(m.check()).toEqual([]);
      freeContigRange(m, start, toPfn(start + 100));
      expect(m.holders.pages[h]).toBe(end - start - 100);
      expect(m.check()).toEqual([]);
      freeContigRange(m, toPfn(start + 100), end);
      expect(m.holders.pages[h]).toBe(0);
      expect(m.check()).toEqual([]);
    });
  }

  for (const c of REFUSALS) {
    it(`AC3 ${c.name}: ${c.reason}, ${c.errno}, and nothing has changed`, () => {
      const { m, at } = worldFrom(`n0 Normal ${c.world}|........\n n0 Normal ........`);
      const h = m.addHolder({ class: 'driver', name: 'camera' });
      const before = m.digest();
      const [start, end] = c.start === undefined ? [at(0, 0, 4), at(0, 1, 4)] : [toPfn(c.start), toPfn(c.end ?? 0)];
      const r = allocContigRange(m, start, end, { holder: h, ...(c.gfp === undefined ? {} : { gfp: c.gfp }) });
      expect(r).toMatchObject({ ok: false, error: { reason: c.reason, errno: c.errno } });
      m.vmstat.pgmigrate_fail = 0; // Linux counts what it tried, too
      expect(m.digest()).toBe(before);
      expect(m.check()).toEqual([]);
    });
  }

  it('AC3 two zones: multizone, EINVAL; a pageblock that is isolated already: busy, EBUSY', () => {
    const { m, at } = worldFrom('n0 DMA32 ........\n n0 Normal ........');
    const h = m.addHolder({ class: 'driver', name: 'camera' });
    const before = m.digest();
    expect(allocContigRange(m, at(0, 63), at(1, 1), { holder: h })).toMatchObject({ error: { reason: 'multizone' } });
    expect(m.digest()).toBe(before);
    isolatePageblock(m.pools[m.owners.owner[1]] as Pool, 512);
    const isolated = m.digest();
    expect(allocContigRange(m, at(0, 0), at(0, 3), { holder: h })).toMatchObject({ error: { reason: 'busy' } });
    expect(m.digest()).toBe(isolated);
    expect(m.check()).toEqual([]);
  });

  it('AC4 a batch is tried five times; what lets go in between is moved', () => {
    const { m, at } = worldFrom('n0 Normal P.......|........');
    const h = m.addHolder({ class: 'driver', name: 'camera' });
    let asked = 0;
    const give = (after: number) => () => {
      if (++asked === after) m.unpin(at(0));
      return false;
    };
    expect(allocContigRange(m, at(0), at(0, 1), { holder: h, signal: give(6) })).toMatchObject({
      error: { reason: 'in-use' },
    });
    expect(asked).toBe(5);
    asked = 0;
    expect(allocContigRange(m, at(0), at(0, 1), { holder: h, signal: give(5) }).ok).toBe(true);
    expect(asked).toBe(5);
    expect(m.check()).toEqual([]);
  });

  it('AC4 a fatal signal ends it: EINTR; what had moved stays moved, the rest is as before', () => {
    const { m, at } = worldFrom('n0 Normal TTTTTTTT|M......M|........');
    const h = m.addHolder({ class: 'driver', name: 'camera' });
    let asked = 0;
    const r = allocContigRange(m, at(0), at(0, 2), { holder: h, signal: () => ++asked === 2 });
    expect(r).toMatchObject({ error: { reason: 'interrupted', errno: 'EINTR' } });
    expect(pictureOf(m)).toBe(drawn('n0 Normal ........|M......M|TTTTTTTT'));
    expect(m.check()).toEqual([]);
  });

  it('AC4 no room for what is in it: ENOMEM at once', () => {
    const { m, at } = worldFrom('n0 Normal MM......|UUUUUUUU *U');
    const h = m.addHolder({ class: 'driver', name: 'camera' });
    let asked = 0;
    const signal = () => ++asked > 100;
    const before = m.digest();
    expect(allocContigRange(m, at(0), at(0, 1), { holder: h, signal })).toMatchObject({
      error: { reason: 'no-memory', errno: 'ENOMEM' },
    });
    expect(asked).toBe(1);
    expect(m.check()).toEqual([]);
    expect(m.digest()).not.toBe(before); // a large page was split: it could not move as a whole
    expect(pictureOf(m)).toBe(drawn('n0 Normal mM...... *U'));
  });

  it('AC5 pageblocks get their own types again; a Linux before 6.17 makes them what was asked for', () => {
    const world = 'n0 Normal U:........|R:......M.|........';
    const typesAfter = (spec: Parameters<typeof worldFrom>[1], type?: 'cma') => {
      const { m, at } = worldFrom(world, spec ?? {});
      const h = m.addHolder({ class: 'driver', name: 'camera' });
      expect(allocContigRange(m, at(0, 0, 3), at(0, 1, 3), { holder: h, ...(type && { type }) }).ok).toBe(true);
      expect(m.check()).toEqual([]);
      const { area } = (m.pools[m.owners.owner[0]] as Pool).alloc;
      return [area.typeOf(0), area.typeOf(512), area.typeOf(1024)];
    };
    expect(typesAfter({})).toEqual([0, 2, 1]);
    expect(typesAfter({ compat: 'linux', kernel: '6.18' })).toEqual([0, 2, 1]);
    expect(typesAfter({ compat: 'linux', kernel: '6.12' })).toEqual([1, 1, 1]);
    expect(typesAfter({ compat: 'linux', kernel: '6.12' }, 'cma')).toEqual([4, 4, 1]);
  });

  it('AC6 the owner of a CMA area gets it emptied, others do not', () => {
    const { m, at } = worldFrom('n0 Normal C:.M..MM..|C:........|........');
    const h = m.addHolder({ class: 'driver', name: 'camera' });
    expect(allocContigRange(m, at(0), at(0, 2), { holder: h })).toMatchObject({ error: { reason: 'unmovable' } });
    expect(allocContigRange(m, at(0), at(0, 2), { holder: h, type: 'cma' }).ok).toBe(true);
    freeContigRange(m, at(0), at(0, 2));
    expect(pictureOf(m)).toBe(drawn('n0 Normal C:........|C:........|MMM.....'));
    expect(m.check()).toEqual([]);
  });

  it('AC7 clean page cache that nobody maps is dropped instead of moved, when its holder says so', () => {
    const { m, at, holder } = worldFrom('n0 Normal FF.F....|........');
    const h = m.addHolder({ class: 'driver', name: 'camera' });
    const pageState = (_: HolderId, index: number) =>
      index === 1 ? { dirty: true, mapped: false } : { dirty: false, mapped: false };
    const r = allocContigRange(m, at(0), at(0, 1), { holder: h, pageState });
    expect(r).toMatchObject({ value: { migratedPages: CELL_PAGES, droppedPages: 2 * CELL_PAGES } });
    expect(m.holders.pages[holder('F')]).toBe(CELL_PAGES);
    expect(m.check()).toEqual([]);
  });

  it('AC2 a chunk or an allocation of order 10 that reaches over the edge is dealt with as a whole', () => {
    for (const [used, from, to] of [
      [false, 512, 1024],
      [false, 0, 512],
      [true, 512, 1024],
      [true, 0, 512],
      [true, 100, 900],
    ] as const) {
      const { m } = worldFrom('n0 Normal ........');
      if (used) expect(m.alloc(m.addHolder({ class: 'anonymous', name: 'big' }), toOrder(10))).toBe(0);
      const h = m.addHolder({ class: 'balloon', name: 'balloon' });
      const { managed } = m.pools[m.owners.owner[0]] as Pool;
      expect(allocContigRange(m, toPfn(from), toPfn(to), { holder: h }).ok).toBe(true);
      expect((m.pools[m.owners.owner[0]] as Pool).managed).toBe(managed - (to - from));
      expect(m.check()).toEqual([]);
      freeContigRange(m, toPfn(from), toPfn(to));
      expect((m.pools[m.owners.owner[0]] as Pool).alloc.area.orderAt(0)).toBe(10);
      expect(m.check()).toEqual([]);
    }
  });

  it('AC2 frames that an allocation of order 10 leaves behind in the range are out of reach at once', () => {
    const { m, holder } = worldFrom('n0 Normal ........|........|M.......|........');
    expect(m.alloc(holder('T'), toOrder(10))).toBe(0);
    const h = m.addHolder({ class: 'driver', name: 'camera' });
    const got: number[] = [];
    let asked = 0;
    const signal = (): boolean => {
      if (++asked === 2) for (let k = 0; k < 2; k++) got.push(m.alloc(holder('T'), toOrder(9)));
      return false;
    };
    expect(allocContigRange(m, toPfn(512), toPfn(1536), { holder: h, signal }).ok).toBe(true);
    expect(got.map((pfn) => pfn >= 1536)).toEqual([true, true]);
    expect(m.check()).toEqual([]);
  });
});

describe('allocContigPages', () => {
  it('AC8 zones in zonelist order, aligned candidates, the first that can be emptied', () => {
    const { m, at } = worldFrom('n0 DMA32 ........\n n0 Normal U.......|MM......|HHHHHHHH');
    const kernel = m.addHolder({ class: 'driver', name: 'camera' });
    const options = { holder: kernel, node: toNodeId(0) };
    expect(allocContigPages(m, 512, options)).toMatchObject({
      value: { startPfn: at(1, 1), migratedPages: 2 * CELL_PAGES },
    });
    expect(allocContigPages(m, 1024, options)).toMatchObject({ value: { startPfn: at(1, 4) } }); // 2 and 3: a huge page
    expect(m.check()).toEqual([]);
  });

  it('AC8 offline memory, holes, reserved and huge pages are passed over without a try; nothing left: ENOMEM', () => {
    const { m, block } = worldFrom(
      'n0 Normal R....... *R\n n0 Normal ........\n n0 Normal HHHHHHHH *H\n n0 Normal U....... *U',
    );
    m.offline(block(1));
    const h = m.addHolder({ class: 'driver', name: 'camera' });
    const r = allocContigPages(m, 2048, { holder: h, node: toNodeId(0) });
    expect(r).toMatchObject({ ok: false, error: { reason: 'no-memory', errno: 'ENOMEM' } });
    if (!r.ok) expect(r.error.message).toContain('16 ranges were tried');
    expect(m.check()).toEqual([]);
  });

  it('AC8 with thisNode only that node; a wrong number of frames is EINVAL', () => {
    const { m } = worldFrom('n0 Normal U....... *U\n n1 Normal ........');
    const h = m.addHolder({ class: 'driver', name: 'camera' });
    expect(allocContigPages(m, 512, { holder: h, node: toNodeId(0), thisNode: true }).ok).toBe(false);
    expect(allocContigPages(m, 512, { holder: h, node: toNodeId(0) })).toMatchObject({ value: { startPfn: 32768 } });
    expect(allocContigPages(m, 0, { holder: h, node: toNodeId(0) })).toMatchObject({ error: { errno: 'EINVAL' } });
    expect(m.check()).toEqual([]);
  });

  it("AC8 a kernel holder's frames never come from Movable; a movable one's may", () => {
    const { m } = worldFrom('n0 Normal U....... *U\n n0 Movable ........');
    const kernel = m.addHolder({ class: 'driver', name: 'camera' });
    const user = m.addHolder({ class: 'anonymous', name: 'process' });
    expect(allocContigPages(m, 512, { holder: kernel, node: toNodeId(0) }).ok).toBe(false);
    expect(allocContigPages(m, 512, { holder: user, node: toNodeId(0) })).toMatchObject({ value: { startPfn: 32768 } });
    expect(m.check()).toEqual([]);
  });

  it('AC9 1 GiB: held in neighbours of a pageblock each, and free again as it was', () => {
    const { m } = worldFrom(Array(17).fill('n0 Normal M.......').join('\n'));
    const h = m.addHolder({ class: 'gigantic', name: 'guest' });
    const r = allocContigPages(m, 2 ** 18, { holder: h, node: toNodeId(0) });
    expect(r).toMatchObject({ value: { startPfn: 0, endPfn: 2 ** 18, migratedPages: 8 * CELL_PAGES } });
    expect([m.holders.members[h], m.holders.pages[h]]).toEqual([512, 2 ** 18]);
    expect(m.check()).toEqual([]);
    freeContigRange(m, toPfn(0), toPfn(2 ** 18));
    expect(m.holders.members[h]).toBe(0);
    expect(m.check()).toEqual([]);
  });

  it("AC8 alignment is the kernel's macro, powers of two or not", () => {
    for (const [pfn, n, want] of [
      [0, 512, 0],
      [1, 512, 512],
      [513, 1024, 1024],
      [5, 3, 5],
      [6, 3, 8],
      [2 ** 33 + 1, 512, 2 ** 33 + 512],
    ]) {
      expect(alignLikeLinux(pfn, n), `${pfn} ${n}`).toBe(want);
      expect(alignLikeLinux(pfn, n)).toBe(Number((BigInt(pfn) + BigInt(n - 1)) & ~BigInt(n - 1)));
    }
  });
});

describe('takeFreeFrames', () => {
  it('AC2 takes exactly these frames; the rest of the chunks is on the lists of its pageblock, and merges again', () => {
    for (const [start, end] of [
      [0, 1],
      [5, 6],
      [1, 1023],
      [511, 513],
      [300, 1500],
      [0, 2048],
    ]) {
      const { m } = worldFrom('n0 Normal U:........|........|........|........');
      const pool = m.pools[m.owners.owner[0]] as Pool;
      const before = pool.alloc.area.freeIn(0, 2048);
      takeFreeFrames(pool, start, end);
      expect(pool.alloc.area.freeIn(0, 2048)).toBe(before - (end - start));
      expect(pool.alloc.area.freeIn(start, end)).toBe(0);
      expect(pool.alloc.check()).toEqual([]);
      pool.managed -= end - start;
      const h = m.addHolder({ class: 'driver', name: 'x' });
      m.place(h, toPfn(start), toPfn(end));
      pool.managed += end - start;
      expect(m.check()).toEqual([]);
      freeContigRange(m, toPfn(start), toPfn(end));
      pool.alloc.drain();
      expect(m.check()).toEqual([]);
      expect(pool.alloc.area.freeIn(0, 2048)).toBe(before);
    }
  });

  it('AC2 a frame that is not free is a bug', () => {
    const { m } = worldFrom('n0 Normal ..M.....');
    const pool = m.pools[m.owners.owner[0]] as Pool;
    expect(() => takeFreeFrames(pool, 128, 130)).toThrow(/not free/);
    expect(() => takeFreeFrames(pool, 127, 130)).toThrow(/not free/);
  });
});
