// A memory block that goes offline is vacated by its pools first.

import { describe, expect, it } from 'vitest';
import { type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { allocContigPages, allocContigRange, freeContigRange } from '../contig-alloc.ts';
import { HUGE_2M } from '../hugetlb.ts';
import { setNrHugepages } from '../hugetlb-resize.ts';
import type { Machine } from '../machine.ts';
import { hardOffline, softOffline } from '../memory-failure.ts';
import { BASE, BLOCK, boot, holderOf, must, ownersOf, poolOf, take } from './pools.cases.ts';
import { pools } from './pools.ts';

const blockOf = (pfn: number): ReturnType<typeof toBlockId> => toBlockId(Math.floor(pfn / BLOCK));

/** Frames of the pool in a block. */
function framesIn(m: Machine, name: string, block: number): number {
  const id = poolOf(m, name).id;
  let n = 0;
  for (let pfn = block * BLOCK; pfn < (block + 1) * BLOCK; pfn++)
    n += m.owners.at(m.sections.indexOf(toPfn(pfn))) === id ? 1 : 0;
  return n;
}

describe('pages of pools leave a block that goes offline', () => {
  it.each([0, 3, 9, 10])('PL17 of order %i', (order) => {
    const m = boot();
    must(pools(m).create({ name: 'a', pages: 8192, min: 8192 }));
    const [pfn] = take(m, holderOf(m, 'a'), 1, order) as [Pfn];
    must(m.offline(blockOf(pfn)));
    expect(must(pools(m).stat('a'))).toMatchObject({ managed: 8192, used: 2 ** order });
    expect(m.check()).toEqual([]);
  });

  it('PL17 a poisoned page stays in the block, and the pool has another frame for it', () => {
    const m = boot();
    must(pools(m).create({ name: 'a', pages: 8192, min: 8192 }));
    const [pfn] = take(m, holderOf(m, 'a'), 1) as [Pfn];
    expect(softOffline(m, pfn, { enabled: true }).result.ok).toBe(true);
    must(m.offline(blockOf(pfn)));
    expect(must(pools(m).stat('a')).managed).toBe(8192);
    expect(m.frame(pfn).state).toBe('offline');
    expect(m.check()).toEqual([]);
  });

  it('PL17 a pool with a window gets frames of its window, or refuses', () => {
    const m = boot(1, 4);
    const end = toPfn(BASE + 2 * BLOCK);
    must(pools(m).create({ name: 'a', pages: 9000, min: 9000, class: 'dma', ranges: [{ start: toPfn(BASE), end }] }));
    const got = take(m, holderOf(m, 'a'), 4000);
    const first = blockOf(got[0] as Pfn);
    must(m.offline(first));
    expect(must(pools(m).stat('a'))).toMatchObject({ managed: 9000, used: 4000 });
    const id = poolOf(m, 'a').id;
    ownersOf(m).forEach((owner, i) => {
      if (owner === id) expect(m.sections.pfnOf(i)).toBeLessThan(end);
    });
    const before = m.digest();
    const second = toBlockId(2 * (BASE / BLOCK) + 1 - first);
    expect(m.offline(second)).toMatchObject({
      ok: false,
      error: { errno: 'ENOSPC', message: expect.stringMatching(/pool a .* 0 are to be had/) },
    });
    expect(m.digest()).toBe(before);
    expect(m.check()).toEqual([]);
  });

  it('PL17 used pages of a realtime pool never move: the refusal names them; its free frames are exchanged', () => {
    const m = boot();
    must(pools(m).create({ name: 'rt', pages: 3000, class: 'realtime' }));
    const holder = holderOf(m, 'rt');
    const [pfn] = take(m, holder, 1) as [Pfn];
    const before = m.digest();
    expect(m.offline(blockOf(pfn))).toMatchObject({
      ok: false,
      error: { errno: 'EBUSY', message: expect.stringMatching(/realtime/), blockers: [{ startPfn: pfn, holder }] },
    });
    expect(m.digest()).toBe(before);
    m.free(pfn);
    must(m.offline(blockOf(pfn)));
    expect(must(pools(m).stat('rt')).managed).toBe(3000);
    expect(m.check()).toEqual([]);
  });

  it('PL17 a mixed pageblock is vacated by each of its pools', () => {
    const m = boot(1, 4);
    const p = pools(m);
    for (const name of ['a', 'b', 'c']) must(p.create({ name, pages: 0 }));
    for (let k = 0; k < 300; k++) {
      const start = BASE + k * 7;
      must(p.move('node0-Normal', 'abc'[k % 3] as string, { range: { start: toPfn(start), end: toPfn(start + 5) } }));
    }
    for (const name of ['a', 'b', 'c']) take(m, holderOf(m, name), 200);
    const sizes = p.list().map((s) => [s.name, s.used]);
    must(m.offline(blockOf(BASE)));
    expect(p.list().map((s) => [s.name, s.used])).toEqual(sizes);
    expect(['a', 'b', 'c'].map((name) => must(p.stat(name)).managed)).toEqual([500, 500, 500]);
    expect(m.owners.mixed.size).toBeGreaterThan(0);
    expect(m.check()).toEqual([]);
  });
});

describe('the way back', () => {
  /** A pool with frames of the first block, 2000 of them used, in pageblocks that it shares with another. */
  const world = (spec = {}): { m: Machine; block: ReturnType<typeof toBlockId> } => {
    const m = boot(1, 4, spec);
    const p = pools(m);
    must(p.create({ name: 'a', pages: 5000, max: 5000, min: 100 }));
    must(p.create({ name: 'b', pages: 700 }));
    const block = blockOf(m.sections.pfnOf(poolOf(m, 'a').base));
    take(m, holderOf(m, 'a'), 2000);
    take(m, holderOf(m, 'b', 'file'), 300);
    return { m, block };
  };

  it.each(['strict', 'linux'] as const)('PL18 after a cancel at any step every pool has its size: %s', (compat) => {
    const { m: start, block } = world({ compat });
    const before = pools(start).list();
    let steps = 0;
    for (let finished = false; !finished; steps++) {
      const m = start.fork();
      const work = m.beginOffline(block, { batch: 300 });
      for (let k = 0; k < steps && !work.finished; k++) work.step();
      finished = work.finished;
      work.cancel();
      expect(
        pools(m)
          .list()
          .filter((s) => s.kind === 'user'),
        `step ${steps}`,
      ).toEqual(before.filter((s) => s.kind === 'user'));
      expect(m.check(), `step ${steps}`).toEqual([]);
    }
    expect(steps).toBeGreaterThan(20);
  });

  it('PL18 without pages that moved, everything is as it was', () => {
    const m = boot();
    must(pools(m).create({ name: 'a', pages: 5000 }));
    const before = m.digest();
    const work = m.beginOffline(blockOf(m.sections.pfnOf(poolOf(m, 'a').base)));
    while (work.stage !== 'commit') work.step();
    expect(m.digest()).not.toBe(before);
    work.cancel();
    expect(m.digest()).toBe(before);
  });

  it('PL18 a pool that was destroyed meanwhile gets nothing, nor does another with its id', () => {
    for (const again of [false, true]) {
      const { m, block } = world();
      const p = pools(m);
      const work = m.beginOffline(block);
      while (work.stage !== 'migrate') work.step();
      must(p.destroy('a', { drain: true }));
      if (again) must(p.create({ name: 'c', pages: 10 }));
      work.cancel();
      if (again) expect(must(p.stat('c')).managed).toBe(10);
      expect(m.check()).toEqual([]);
    }
  });

  it('PL18 a pool that was short of frames meanwhile is as large as before, whatever others took; a dead one gets none', () => {
    for (const end of ['cancel', 'others took some', 'destroyed'] as const) {
      const m = boot(1, 2);
      const p = pools(m);
      must(p.create({ name: 'a', pages: 40000 }));
      const work = m.beginOffline(blockOf(m.sections.pfnOf(poolOf(m, 'a').base)));
      while (work.stage !== 'isolate') work.step();
      expect(must(p.stat('a')).managed).toBe(BLOCK); // all that is to be had elsewhere
      const rest = m.addHolder({ class: 'slab', name: 'the rest of the system' });
      if (end === 'others took some') expect(take(m, rest, BLOCK - 10000).length).toBe(BLOCK - 10000);
      if (end === 'destroyed') must(p.destroy('a'));
      work.cancel();
      if (end !== 'destroyed') expect(must(p.stat('a')).managed).toBe(40000);
      expect(m.check()).toEqual([]);
    }
  });

  it('PL18 a pool that was short of frames, and that others filled meanwhile, stays below its max', () => {
    const m = boot(1, 2);
    const p = pools(m);
    must(p.create({ name: 'a', pages: 40000, max: 40000 }));
    const rest = take(m, m.addHolder({ class: 'slab', name: 'the rest of the system' }), 10000);
    const work = m.beginOffline(blockOf(m.sections.pfnOf(poolOf(m, 'a').base)));
    while (work.stage !== 'isolate') work.step();
    const { managed } = must(p.stat('a'));
    expect(managed).toBe(BLOCK - 10000);
    for (const pfn of rest) m.free(pfn);
    must(p.resize('a', managed + 10000));
    work.cancel();
    expect(must(p.stat('a')).managed).toBe(40000);
    expect(m.check()).toEqual([]);
  });

  it('PL18 a pool that others shrank or filled meanwhile keeps what they did, and its max', () => {
    for (const pages of [4000, 5000, 2000]) {
      const { m, block } = world();
      const p = pools(m);
      const work = m.beginOffline(block);
      while (work.stage !== 'isolate') work.step();
      must(p.resize('a', pages));
      take(m, holderOf(m, 'a'), 500);
      work.cancel();
      expect(must(p.stat('a')).managed).toBe(pages);
      expect(m.check()).toEqual([]);
    }
  });

  it('PL18 frames that others took meanwhile are not taken back: the pool keeps those that it got instead', () => {
    const { m, block } = world();
    const work = m.beginOffline(block);
    while (work.stage !== 'isolate') work.step();
    const zone = m.addHolder({ class: 'slab', name: 'the rest of the system' });
    while (m.alloc(zone, toOrder(0)) >= 0);
    work.cancel();
    expect(framesIn(m, 'a', block)).toBe(0);
    expect(must(pools(m).stat('a')).managed).toBe(5000);
    expect(m.check()).toEqual([]);
  });

  it('PL18 memory comes and goes with pools on it: nothing is lost or left over', () => {
    const m = boot(1, 2, { possibleNodes: [toNodeId(0), toNodeId(1)] });
    const p = pools(m);
    must(p.create({ name: 'a', pages: 20000, min: 15000 }));
    const holder = holderOf(m, 'a');
    const range = { start: toPfn(BASE + 4 * BLOCK), end: toPfn(BASE + 8 * BLOCK) };
    const free = m.zones.map((z) => z.alloc.nrFree());
    for (let round = 0; round < 12; round++) {
      must(m.addMemory(range, toNodeId(1)));
      for (const id of m.blockIds())
        if (m.block(id)?.state === 'offline') must(m.online(id, round % 2 === 0 ? 'online' : 'movable'));
      must(p.setattr('a', { nodes: [0, 1] }));
      must(p.create({ name: `n${round}`, nodes: [1], zones: ['Normal', 'Movable'], pages: 9000 }));
      const got = take(m, holder, 12000);
      take(m, holderOf(m, `n${round}`), 5000);
      must(p.destroy(`n${round}`, { drain: true }));
      expect(m.check()).toEqual([]);
      for (let id = range.start / BLOCK; id < range.end / BLOCK; id++) must(m.offline(toBlockId(id)));
      must(m.removeMemory(range));
      for (const pfn of got) m.free(pfn);
      expect(must(p.stat('a'))).toMatchObject({ managed: 20000, used: 0 });
      for (let h = 0; h < m.holders.length; h++) {
        const pages: Pfn[] = [];
        m.forEachFrameOf(h as typeof holder, (pfn) => void pages.push(pfn));
        for (const pfn of pages) m.free(pfn);
      }
      for (const z of m.pools) z.alloc.drain();
      expect(m.zones.filter((z) => z.node === 0).map((z) => z.alloc.nrFree())).toEqual(free);
      expect(m.check(), `round ${round}`).toEqual([]);
    }
  });
});

describe('others that take frames', () => {
  it('PL19 huge pages and contiguous ranges come from zones, never from a user pool', () => {
    const m = boot(1, 4);
    must(pools(m).create({ name: 'a', pages: 3 * BLOCK }));
    const before = ownersOf(m);
    setNrHugepages(m, HUGE_2M, 40);
    const holder = m.addHolder({ class: 'driver', name: 'device' });
    must(allocContigPages(m, 512, { holder, node: toNodeId(0) }));
    expect(ownersOf(m)).toEqual(before);
    expect(must(pools(m).stat('a'))).toMatchObject({ managed: 3 * BLOCK, used: 0 });
    expect(m.check()).toEqual([]);
  });

  it('PL19 frames that a device took out of use inside a pool are its own, unmanaged, and go home when it ends', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 8192 }));
    const start = m.sections.pfnOf(poolOf(m, 'a').base);
    const device = m.addHolder({ class: 'unplugged', name: 'a device' });
    must(allocContigRange(m, start, toPfn(start + 1024), { holder: device }));
    expect(poolOf(m, 'a')).toMatchObject({ present: 8192, managed: 8192 - 1024 });
    expect(m.check()).toEqual([]);
    must(p.destroy('a', { drain: true }));
    expect(m.zones[0]).toMatchObject({ present: 4 * BLOCK, managed: 4 * BLOCK - 1024 });
    expect(m.check()).toEqual([]);
    freeContigRange(m, start, toPfn(start + 1024));
    expect(m.zones[0]).toMatchObject({ managed: 4 * BLOCK });
    expect(m.check()).toEqual([]);
  });

  it('PL19 memory that fails in a pool stays in its account, free, used and in a full pool', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 100, min: 100 }));
    const holder = holderOf(m, 'a');
    const first = m.sections.pfnOf(poolOf(m, 'a').base);
    for (let i = first as number; poolOf(m, 'a').managed > 0; i++) {
      if (m.poolAt(m.sections.indexOf(toPfn(i)))?.name !== 'a') continue;
      expect(hardOffline(m, toPfn(i), { cause: 'simulated' }).result.ok).toBe(true); // a free one
      break;
    }
    const got = take(m, holder, 100);
    expect(got.length).toBe(99);
    expect(hardOffline(m, got[5] as Pfn, { cause: 'simulated' }).result.ok).toBe(true);
    expect(softOffline(m, got[7] as Pfn, { enabled: true }).result.ok).toBe(true);
    expect(must(p.stat('a'))).toMatchObject({ managed: 100, free: 0 });
    expect(m.check()).toEqual([]);
    must(p.destroy('a', { drain: true }));
    expect(m.check()).toEqual([]);
  });
});
