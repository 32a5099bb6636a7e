// One zone compacted, by example: each sentence of spec 2.11 about the scanners. Rules CP1..CP14, docs/spec/compaction.md.

import { describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toOrder, toPfn } from '#base/units';
import { drawn, pictureOf, worldFrom } from '../../../test/support/picture.ts';
import { MIGRATE_UNMOVABLE } from '../geometry.ts';
import type { HolderSpec } from '../holder.ts';
import type { Machine } from '../machine.ts';
import type { PageClass } from '../page-class.ts';
import { isolatePageblock, unisolatePageblock } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import { COMPACT_FAULT_POINTS, type CompactOptions, ORDER_ALL } from './compact-result.ts';
import { compactRow, compactStateOf } from './compact-state.ts';
import { CompactWork, compactZone } from './compact-zone.ts';

const zoneOf = (m: Machine): Pool => m.zones.find((p) => p.present > 0) as Pool;
/** Everything, as compact_memory does it. */
const ALL: CompactOptions = { order: ORDER_ALL, mode: 'sync', wholeZone: true, ignoreSkip: true };
/** A request for a huge page that waits. */
const direct = (mode: CompactOptions['mode'], order = 9): CompactOptions => ({ order, mode, direct: true });
const PB = 512;

/**
 * Pageblocks of one zone, drawn a letter for 64 frames; `pages` puts more into them: [holder, order, first frame].
 * Frames that are drawn with "." are free.
 */
function worldWith(text: string, pages: readonly { h: Omit<HolderSpec, 'node'>; at: number; order?: number }[]) {
  const { m } = worldFrom(text, { contents: 'bytes' });
  const pool = zoneOf(m);
  const ids: HolderId[] = [];
  const pfns: Pfn[] = [];
  for (const { h, at, order = 0 } of pages) {
    // The allocator is not asked where: the chunk around is taken and what is not wanted goes back.
    const head = pool.alloc.area.headOf(at);
    const size = pool.alloc.area.orderAt(head);
    pool.alloc.take(head, size);
    const id = m.addHolder(h);
    m.place(id, toPfn(at), toPfn(at + 2 ** order), order);
    for (let i = head; i < head + 2 ** size; i++) {
      if (i < at || i >= at + 2 ** order) pool.alloc.freeToArea(i, 0);
    }
    ids.push(id);
    pfns.push(toPfn(at));
  }
  return { m, pool, ids, pfns };
}

const whereIs = (m: Machine, h: HolderId): number => {
  let at = -1;
  m.forEachFrameOf(h, (pfn) => {
    at = pfn;
  });
  return at;
};

describe('scanners', () => {
  it('CP1 pages go from the bottom to the top until the scanners are in one pageblock', () => {
    const { m } = worldFrom('n0 Normal m.m.m.m.|m.......|.m.m.m.m|mmmmmmmm|..m...m. *#');
    const r = compactZone(m, zoneOf(m), ALL);
    expect(r).toMatchObject({ result: 'complete', captured: -1, moved: 384 });
    expect(pictureOf(m)).toBe(drawn('n0 Normal ........|........|.?.m.m.?|mmmmmmmm|mmmmmmmm *#'));
    expect(m.check()).toEqual([]);
  });

  it('CP1 it looked at the whole zone only if it began at its ends', () => {
    const run = (o: Partial<CompactOptions>) => {
      const { m } = worldFrom('n0 Normal UUUUUUUU|UUUUUUU.|UUUUUUUU|mmmmmmm. *#');
      m.vm.extfragThreshold = 0;
      return compactZone(m, zoneOf(m), { order: 9, mode: 'sync-light', ...o }).result;
    };
    expect(run({ wholeZone: true })).toBe('complete');
    expect(run({})).toBe('partial-skipped');
  });

  it('CP1 pageblocks that are not wholly the pool’s, or offline, are stepped over', () => {
    const { m, block } = worldFrom('n0 Normal m......m *#\n n0 Normal ........\n n0 Normal m....... *M', {});
    expect(m.offline(block(1)).ok).toBe(true);
    const r = compactZone(m, zoneOf(m), ALL);
    expect(r).toMatchObject({ result: 'complete', moved: 128 });
    expect(pictureOf(m)).toBe(
      drawn(`
        n0 Normal  ........ *#
        n0 offline --------
        n0 Normal  mmm..... *M`),
    );
    expect(m.check()).toEqual([]);
  });

  it('CP2 a round isolates 32 pages; the second in a pageblock, what is left of it', () => {
    const { m } = worldFrom('n0 Normal mmmm....|........|U....... *#');
    const pool = zoneOf(m);
    const work = new CompactWork(m, pool, ALL);
    const moved: number[] = [];
    while (!work.step('cluster')) moved.push(work.moved);
    expect(moved.slice(0, 4)).toEqual([32, 64, 96, 128]);
    expect(work.moved).toBe(256);
    expect(m.check()).toEqual([]);

    const other = worldFrom('n0 Normal mmmm....|........|U....... *#').m;
    const r = compactZone(other, zoneOf(other), ALL);
    // One round for 32 pages, one for 224.
    expect(r).toMatchObject({ moved: 256, rounds: 2 });
    expect(other.check()).toEqual([]);
  });

  it('CP3 async takes only pageblocks of the request’s type, sync any, a daemon any', () => {
    const moved = (o: Partial<CompactOptions>): number[] => {
      const { m, pool, ids } = worldWith('n0 Normal U:U.......|........|C:........|UUUUU.U. *#', [
        { h: { class: 'anonymous', name: 'in Unmovable' }, at: 100 },
        { h: { class: 'anonymous', name: 'in Movable' }, at: PB + 100 },
        { h: { class: 'anonymous', name: 'in CMA' }, at: 2 * PB + 100 },
      ]);
      compactZone(m, pool, { order: ORDER_ALL, mode: 'async', wholeZone: true, ...o });
      expect(m.check()).toEqual([]);
      return ids.map((h, k) => (whereIs(m, h) === k * PB + 100 ? 0 : 1));
    };
    expect(moved({ order: 9, direct: true, done: () => false })).toEqual([0, 1, 1]);
    expect(moved({ order: 9, direct: true, migratetype: MIGRATE_UNMOVABLE, done: () => false })).toEqual([0, 0, 0]);
    expect(moved({ direct: false })).toEqual([1, 1, 1]);
    expect(moved({ order: 9, direct: true, mode: 'sync-light', done: () => false })).toEqual([1, 1, 1]);
  });

  it('CP3 a pageblock that is one large page is no source', () => {
    const { m } = worldFrom('n0 Normal TTTTTTTT|m.......|M....... *#');
    expect(compactZone(m, zoneOf(m), ALL)).toMatchObject({ moved: 64, migrateScanned: 512 });
    expect(pictureOf(m)).toBe(drawn('n0 Normal TTTTTTTT|........|Mm...... *#'));
  });

  it('CP4 targets are pageblocks of type Movable or CMA; any, as the last resort, and never isolated ones', () => {
    const where = (top: string, o: Partial<CompactOptions> = {}): string => {
      const { m } = worldFrom(`n0 Normal m.......|U.......|${top} *#`);
      compactZone(m, zoneOf(m), { ...ALL, ...o });
      expect(m.check()).toEqual([]);
      return pictureOf(m).slice('n0 Normal   '.length);
    };
    expect(where('U.......')).toBe('........|U.......|Um...... *#');
    expect(where('C:U.......')).toBe('........|U.......|C:Um...... *#');
    expect(where('U:UUUUUUU.')).toBe('........|Um......|U:UUUUUUU. *#');
    expect(where('U:UUUUUUU.', { anyTarget: true })).toBe('........|U.......|U:UUUUUUUm *#');
    const { m } = worldFrom('n0 Normal m.......|U.......|U....... *#');
    const pool = zoneOf(m);
    const type = isolatePageblock(pool, pool.base + 2 * PB);
    compactZone(m, pool, { ...ALL, anyTarget: true });
    unisolatePageblock(pool, pool.base + 2 * PB, type);
    expect(pictureOf(m)).toBe(drawn('n0 Normal ........|Um......|U....... *#'));
  });

  it('CP4 a pageblock that begins with a free piece of the wanted order is not broken', () => {
    const { m } = worldFrom('n0 Normal m.......|U.......|....UUUU *#');
    const pool = zoneOf(m);
    const forOrder = (order: number): string => {
      const f = m.fork();
      compactZone(f, zoneOf(f), { order, mode: 'sync', wholeZone: true, done: () => false });
      expect(f.check()).toEqual([]);
      return pictureOf(f).slice('n0 Normal   '.length);
    };
    expect(pool.alloc.area.orderAt(2 * PB)).toBe(8);
    expect(forOrder(8)).toBe('........|Um......|....UUUU *#');
    expect(forOrder(9)).toBe('........|U.......|m...UUUU *#');
    const free = worldFrom('n0 Normal m.......|U.......|........ *#').m;
    compactZone(free, zoneOf(free), ALL);
    expect(pictureOf(free)).toBe(drawn('n0 Normal ........|Um......|........ *#'));
  });

  it('CP4 taken pieces of half a pageblock make it Movable', () => {
    const { m } = worldFrom('n0 Normal m.......|U.......|U:UUUU.... *#');
    compactZone(m, zoneOf(m), { ...ALL, anyTarget: true });
    expect(pictureOf(m)).toBe(drawn('n0 Normal ........|U.......|UUUUm... *#'));
    expect(m.check()).toEqual([]);
  });
});

describe('what moves', () => {
  type Case = {
    readonly what: string;
    readonly h: Partial<HolderSpec> & { readonly class: PageClass };
    readonly order?: number;
    readonly flags?: { dirty?: boolean; writeback?: boolean; unevictable?: boolean; pinned?: boolean };
    /** In async, sync-light, sync; null: tried, and it does not move. */
    readonly moves: readonly [boolean | null, boolean | null, boolean | null];
    readonly unevictableAllowed?: boolean;
  };
  const yes = [true, true, true] as const;
  const no = [false, false, false] as const;
  const cases: readonly Case[] = [
    { what: 'anonymous', h: { class: 'anonymous' }, moves: yes },
    { what: 'page cache', h: { class: 'file' }, moves: yes },
    { what: 'shmem', h: { class: 'shmem' }, moves: yes },
    { what: 'zsmalloc', h: { class: 'movable-ops' }, moves: yes },
    { what: 'a balloon', h: { class: 'balloon' }, moves: yes },
    { what: 'slab', h: { class: 'slab' }, moves: no },
    { what: 'slab whose owner moves it', h: { class: 'slab', moves: true }, moves: yes },
    { what: 'anonymous that stays', h: { class: 'anonymous', moves: false }, moves: no },
    { what: 'page tables', h: { class: 'pagetable' }, moves: no },
    { what: 'unknown use', h: { class: 'unknown' }, moves: no },
    { what: 'pinned anonymous', h: { class: 'anonymous' }, flags: { pinned: true }, moves: no },
    { what: 'pinned page cache', h: { class: 'file' }, flags: { pinned: true }, moves: [null, null, null] },
    { what: 'pinned zsmalloc', h: { class: 'movable-ops' }, flags: { pinned: true }, moves: no },
    { what: 'unevictable', h: { class: 'file' }, flags: { unevictable: true }, moves: yes },
    {
      what: 'unevictable, which vm.compact_unevictable_allowed=0 excludes',
      h: { class: 'file' },
      flags: { unevictable: true },
      moves: no,
      unevictableAllowed: false,
    },
    { what: 'under writeback', h: { class: 'file' }, flags: { writeback: true }, moves: [false, false, null] },
    { what: 'dirty', h: { class: 'file' }, flags: { dirty: true }, moves: yes },
    {
      what: 'dirty, of a file system without a migrate callback',
      h: { class: 'file', migrateCallback: false },
      flags: { dirty: true },
      moves: [false, false, true],
    },
    { what: 'a huge page of a pool', h: { class: 'hugetlb' }, order: 9, moves: no },
    { what: 'part of a huge page of a pool', h: { class: 'hugetlb' }, order: 4, moves: no },
    { what: 'a large page', h: { class: 'anonymous' }, order: 6, moves: yes },
    { what: 'a large page of the wanted order', h: { class: 'anonymous' }, order: 7, moves: no },
    { what: 'a larger page', h: { class: 'anonymous' }, order: 8, moves: no },
  ];
  for (const { what, h, order = 0, flags = {}, moves, unevictableAllowed = true } of cases) {
    it(`CP5 ${what}`, () => {
      (['async', 'sync-light', 'sync'] as const).forEach((mode, k) => {
        const { m, pool, ids, pfns } = worldWith('n0 Normal ........|UUUUUUUU|U....... *#', [
          { h: { ...h, name: what }, at: 0, order },
        ]);
        if (!['balloon', 'slab'].includes(h.class) || h.moves) expect(m.check()).toEqual([]);
        m.vm.compactUnevictableAllowed = unevictableAllowed;
        m.setPageFlags(pfns[0], flags);
        if (flags.pinned === true) m.pin(pfns[0]);
        const r = compactZone(m, pool, { order: 7, mode, wholeZone: true, done: () => false });
        const moved = whereIs(m, ids[0]) >= 2 * PB;
        expect(moved, mode).toBe(moves[k] === true);
        expect(r.moved, mode).toBe(moved ? 2 ** order : 0);
        expect(r.failed, mode).toBe(moves[k] === null ? 2 ** order : 0);
      });
    });
  }

  it('CP6 a large page for which there is no whole room is split, one that its owner keeps whole stays', () => {
    const top = Array.from({ length: 64 }, (_, k) => k)
      .filter((k) => k % 2 === 0)
      .map((k) => ({ h: { class: 'slab', name: 'comb' } as const, at: 2 * PB + 448 + k }));
    const run = (cls: 'anonymous' | 'movable-ops') => {
      const { m, pool, ids } = worldWith('n0 Normal .......U|UUUUUUUU|UUUUUUU. *#', [
        { h: { class: cls, name: 'large' }, at: 0, order: 3 },
        ...top,
      ]);
      const r = compactZone(m, pool, ALL);
      expect(m.holders.pages[ids[0]]).toBe(8);
      expect(m.check()).toEqual([]);
      return { ...r, members: m.holders.members[ids[0]], at: whereIs(m, ids[0]) };
    };
    expect(run('anonymous')).toMatchObject({ moved: 8, members: 8 });
    expect(run('movable-ops')).toMatchObject({ moved: 0, failed: 8, members: 1, at: 0 });
  });

  it('CP7 async for a request gives a piece up in which one page stays, and moves nothing of it', () => {
    const world = () =>
      worldWith('n0 Normal ........|UUUUUUUU|U....... *#', [
        { h: { class: 'anonymous', name: 'in vain' }, at: 1 },
        { h: { class: 'slab', name: 'stays' }, at: 3 },
        { h: { class: 'anonymous', name: 'in vain too' }, at: 5 },
        { h: { class: 'anonymous', name: 'worth it' }, at: 17 },
      ]);
    const a = world();
    compactZone(a.m, a.pool, { ...direct('async', 3), done: () => false });
    expect(a.ids.map((h) => whereIs(a.m, h)).slice(0, 3)).toEqual([1, 3, 5]);
    expect(whereIs(a.m, a.ids[3])).toBeGreaterThanOrEqual(2 * PB);
    const b = world();
    compactZone(b.m, b.pool, { ...direct('sync-light', 3), done: () => false });
    expect(b.ids.map((h) => whereIs(b.m, h) >= 2 * PB)).toEqual([true, false, true, true]);
  });
});

describe('where it goes on', () => {
  const PICTURE = 'n0 Normal U.U.U.U.|U.......|m.U.....|U....... *#';

  it('CP8 async and sync have a migrate cursor each, both one free cursor; they never go back by themselves', () => {
    const { m } = worldFrom(PICTURE);
    const pool = zoneOf(m);
    const row = compactRow(m, pool);
    const run = (mode: CompactOptions['mode']) => {
      const work = new CompactWork(m, pool, { order: 9, mode, direct: true, done: () => false });
      work.step();
      work.cancel();
      return work.migrateScanned;
    };
    expect(run('async')).toBe(PB);
    // Nothing was there in async mode: nothing would be there in any other. The cursor lies a pageblock further (Linux).
    expect(row.cachedMigrate).toEqual([2 * PB, 2 * PB]);
    // Not before it has taken 32 pages does it come to the one that stays.
    expect(run('async')).toBe(32);
    expect(row.cachedMigrate).toEqual([2 * PB, 2 * PB]);
    expect(m.check()).toEqual([]);
  });

  it('CP8 the free cursor goes down behind pageblocks that were used up, and back to what was given back', () => {
    const { m } = worldFrom('n0 Normal mmmmmmmm|mmmm....|........|M.......|MMMMMMM. *#');
    const pool = zoneOf(m);
    const work = new CompactWork(m, pool, { order: 9, mode: 'sync-light', done: () => false });
    for (let k = 0; k < 3; k++) work.step();
    work.cancel();
    expect(work.moved).toBe(96);
    expect(compactRow(m, pool).cachedFree).toBe(3 * PB);
    expect(pictureOf(m)).toBe(drawn('n0 Normal .?mmmmmm|mmmm....|........|M?......|MMMMMMMm *#'));
  });

  it('CP8 cursors are reset when the scanners meet, and by a machine that grew around them', () => {
    const { m } = worldFrom(PICTURE);
    const pool = zoneOf(m);
    const row = compactRow(m, pool);
    row.cachedMigrate[0] = row.cachedMigrate[1] = 2 * PB;
    row.cachedFree = 3 * PB;
    expect(compactZone(m, pool, { order: 9, mode: 'async', done: () => false }).result).toBe('partial-skipped');
    expect(row.cachedMigrate).toEqual([0, 0]);
    expect(row.cachedFree).toBe(pool.pages - PB);
    row.cachedMigrate[1] = pool.pages + PB;
    compactZone(m, pool, { order: 9, mode: 'sync', done: () => true });
    expect(row.cachedMigrate).toEqual([0, 0]);
  });

  it('CP9 a pageblock where nothing was found is marked and stepped over, unless hints are to be ignored', () => {
    const { m } = worldFrom('n0 Normal U.U.U.U.|U.......|U.U.....|U....... *#');
    const pool = zoneOf(m);
    const scan = (o: Partial<CompactOptions>): number =>
      compactZone(m, pool, { order: 9, mode: 'sync-light', wholeZone: true, done: () => false, ...o }).migrateScanned;
    // The last pageblock is the free scanner's.
    expect(scan({})).toBe(3 * PB);
    expect([0, 1, 2, 3].map((k) => compactStateOf(m).skips(k * PB))).toEqual([true, true, true, false]);
    expect(scan({})).toBe(0);
    expect(scan({ ignoreSkip: true })).toBe(3 * PB);
    const fork = m.fork();
    expect(compactZone(fork, zoneOf(fork), { ...ALL, ignoreSkip: false }).migrateScanned).toBe(0);
    compactStateOf(fork).clearSkip(0);
    expect(compactStateOf(m).skips(0)).toBe(true);
  });
});

describe('the end', () => {
  it('CP10 at a pageblock’s end, if a page of the order is free that the request would get', () => {
    const run = (first: string, o: Partial<CompactOptions>) => {
      const { m } = worldFrom(`n0 Normal ${first}|m.......|UUUUUUUU|U....... *#`);
      const r = compactZone(m, zoneOf(m), { order: 9, mode: 'sync-light', ...o });
      expect(m.check()).toEqual([]);
      return r;
    };
    expect(run('m.......', {})).toMatchObject({ result: 'success', moved: 64, migrateScanned: 512 });
    // A fallback that claims: any type, for order 9.
    expect(run('U:m.......', {})).toMatchObject({ result: 'success', moved: 64, migrateScanned: 512 });
    expect(run('m.......', { migratetype: MIGRATE_UNMOVABLE })).toMatchObject({ result: 'success', moved: 64 });
    expect(run('C:m.......', {})).toMatchObject({ result: 'success', moved: 64, migrateScanned: 512 });
    // What only CMA has, no other request gets.
    expect(run('C:m.......', { migratetype: MIGRATE_UNMOVABLE })).toMatchObject({ result: 'success', moved: 128 });
  });

  it('CP10 below order 4 a movable request does not claim: pages of other types do not end its run', () => {
    const { m, pool } = worldWith('n0 Normal U:UUUUUUUU|m.......|UUUUUUUU|UUUUUUU. *#', []);
    void pool;
    const r = compactZone(m, zoneOf(m), { order: 3, mode: 'sync-light' });
    expect(r.result).toBe('success'); // there are such pages from the start: nothing is done
    expect(r.rounds).toBe(0);
  });

  it('CP11 the piece of the order is captured when its last page leaves: nobody else gets it', () => {
    const { m } = worldFrom('n0 Normal mm......|........|UUUUUUUU|M....... *#');
    const pool = zoneOf(m);
    const before = pool.alloc.nrFree();
    const f = m.fork();
    pool.alloc.setPageblockType(PB, MIGRATE_UNMOVABLE);
    const r = compactZone(m, pool, { ...direct('sync-light'), capture: true, done: () => false });
    expect(r).toMatchObject({ result: 'success', captured: 0, moved: 128 });
    expect(pool.alloc.nrFree()).toBe(before - PB);
    const thp = m.addHolder({ class: 'anonymous', name: 'huge' });
    m.occupy(thp, r.captured, 9);
    expect(m.check()).toEqual([]);
    expect(compactZone(f, zoneOf(f), { ...direct('sync-light'), done: () => false }).captured).toBe(-1);
  });

  it('CP11 not for a request that would mix a pageblock, not of CMA', () => {
    const run = (first: string, migratetype: 0 | 1 | 2, order: number): number => {
      const { m } = worldFrom(`n0 Normal ${first}|UUUUUUUU|UUUUUUUU|M....... *#`);
      const o = { ...direct('sync-light', order), migratetype, capture: true, done: () => false };
      const { captured } = compactZone(m, zoneOf(m), o);
      if (captured >= 0) m.occupy(m.addHolder({ class: 'anonymous', name: 'caller' }), captured, order);
      expect(m.check()).toEqual([]);
      return captured;
    };
    expect(run('m.......', 1, 7)).toBe(0);
    expect(run('m.......', 0, 7)).toBe(-1);
    expect(run('U:m.......', 0, 7)).toBe(0);
    expect(run('m.......', 0, 9)).toBe(0);
    expect(run('C:m.......', 1, 9)).toBe(-1);
  });
});

describe('steps', () => {
  it('CP12 between two steps every frame is free or used; one step moves one page, if that is wanted', () => {
    const { m } = worldFrom('n0 Normal m.m.....|U.......|U....... *#');
    const work = new CompactWork(m, zoneOf(m), ALL);
    let steps = 0;
    while (!work.step('page')) {
      steps++;
      expect(work.moved).toBe(Math.min(steps, 128));
      if (steps % 16 === 0) expect(m.check()).toEqual([]);
    }
    expect(work.result).toBe('complete');
    expect(pictureOf(m)).toBe(drawn('n0 Normal ........|U.......|Umm..... *#'));
    expect(m.check()).toEqual([]);
  });

  it('CP12 in steps no fewer pages leave than in one go: targets that were taken too early come back', () => {
    const text = 'n0 Normal m.U.m.m.|m.......|.mUm.U.m|mmmmUmmm|..m...m.|U......U *#';
    const run = (size: 'page' | 'cluster' | undefined) => {
      const { m } = worldFrom(text);
      const work = new CompactWork(m, zoneOf(m), ALL);
      if (size === undefined) work.run();
      else for (let k = 0; k < 10_000 && !work.step(size); k++);
      expect(m.check()).toEqual([]);
      return [pictureOf(m), work.moved];
    };
    expect(run(undefined)).toEqual([drawn('n0 Normal ..U.....|........|..U..U..|?mmmUmm?|mmm...m.|UmmmmmmU *#'), 512]);
    const stepwise = [drawn('n0 Normal ..U.....|........|..U..U..|....U.mm|mmmmmmmm|UmmmmmmU *#'), 768];
    expect(run('page')).toEqual(stepwise);
    expect(run('cluster')).toEqual(stepwise);
  });

  it('CP12 what happens between two steps is seen: pages that came, went, were pinned; a block that left', () => {
    const { m, block, holder } = worldFrom('n0 Normal mmmm....\n n0 Normal M....... *M');
    const work = new CompactWork(m, zoneOf(m), ALL);
    work.step();
    m.forEachFrameOf(holder('m'), (pfn, _order, index) => {
      if (index >= 100 && index < 120) m.free(pfn);
      if (index >= 120 && index < 130) m.pin(pfn);
    });
    const late = m.addHolder({ class: 'anonymous', name: 'late' });
    for (let k = 0; k < 50; k++) m.alloc(late, toOrder(0));
    work.step();
    expect(m.check()).toEqual([]);
    for (const id of [block(1), block(0)]) void m.offline(id);
    while (!work.step());
    expect(m.check()).toEqual([]);
    expect(m.holders.pages[holder('m')]).toBe(236);
    expect(m.holders.pages[late]).toBe(50);
  });

  it('CP12 per-CPU lists are drained first; off until the end or until it is given up, if that is wanted', () => {
    const { m } = worldFrom('n0 Normal m.......|M.......|M....... *#');
    const pool = zoneOf(m);
    const h = m.addHolder({ class: 'anonymous', name: 'h' });
    const hot = Array.from({ length: 8 }, () => toPfn(m.alloc(h, toOrder(0))));
    for (const pfn of hot) m.free(pfn);
    expect(pool.alloc.pcpPages()).toBeGreaterThan(0);
    const drains = new CompactWork(m, pool, ALL);
    drains.step('page');
    expect(pool.alloc.pcpPages()).toBe(0);
    const again = toPfn(m.alloc(h, toOrder(0)));
    m.free(again);
    expect(pool.alloc.pcpPages()).toBeGreaterThan(0);
    const off = new CompactWork(m, pool, { ...ALL, perCpuLists: 'off' });
    off.step('page');
    m.free(toPfn(m.alloc(h, toOrder(0))));
    expect(pool.alloc.pcpPages()).toBe(0);
    off.cancel();
    expect(off.finished).toBe(true);
    m.free(toPfn(m.alloc(h, toOrder(0))));
    expect(pool.alloc.pcpPages()).toBeGreaterThan(0);
    expect(m.check()).toEqual([]);
  });

  it('CP13 targets leave the zone its minimum: the run gives up instead', () => {
    const { m } = worldFrom('n0 Normal mmmmmmmm|m.......|M.......|M....... *#');
    const pool = zoneOf(m);
    const free = pool.alloc.nrFree();
    pool.watermarks = { min: free - 40, low: free - 30, high: free, promo: free, reserve: [0, 0, 0, 0] };
    // No targets: chunks of 64 and more would leave less than min.
    expect(compactZone(m, pool, ALL)).toMatchObject({ result: 'contended', moved: 0, failed: 1 });
    expect(pool.alloc.nrFree()).toBe(free);
    expect(m.check()).toEqual([]);
  });

  it('CP14 a step that fails leaves the page where it was; the run goes on with the next', () => {
    for (const point of COMPACT_FAULT_POINTS) {
      const { m, holder } = worldFrom('n0 Normal m.......|U.......|U....... *#', { contents: 'bytes' });
      let asked = 0;
      m.faultAt = (at) => at === point && asked++ === 0;
      const r = compactZone(m, zoneOf(m), ALL);
      expect(asked, point).toBeGreaterThan(0);
      if (point === 'compact.target') expect(r).toMatchObject({ result: 'contended', moved: 0 });
      else
        expect(r, point).toMatchObject({ result: 'complete', moved: 63, failed: point === 'compact.isolate' ? 0 : 1 });
      expect(m.holders.pages[holder('m')]).toBe(64);
      expect(m.check(), point).toEqual([]);
    }
  });

  it('CP15 /proc/vmstat counts frames scanned and pages isolated, moved and not', () => {
    const { m } = worldFrom('n0 Normal m.......|U.......|U....... *#');
    compactZone(m, zoneOf(m), ALL);
    expect(m.vmstat).toMatchObject({
      compact_migrate_scanned: 2 * PB,
      compact_isolated: 64 + 64,
      pgmigrate_success: 64,
      pgmigrate_fail: 0,
      compact_stall: 0,
    });
    expect(m.vmstat.compact_free_scanned).toBeGreaterThan(0);
  });
});
