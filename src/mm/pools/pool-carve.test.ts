// Which frames a new pool gets out of a zone, and where they go back to.

import { describe, expect, it } from 'vitest';
import { type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import { simpleSpec } from '../machine-spec.ts';
import { softOffline } from '../memory-failure.ts';
import type { Pool } from '../pool.ts';
import { BASE, BLOCK, boot, holderOf, must, nodesOf, ownersOf, poolOf, take } from './pools.cases.ts';
import { pools } from './pools.ts';

describe('where frames come from, and go back to', () => {
  it('PL12 a child takes from its parent only frames of nodes that it may have', () => {
    const m = boot(2);
    const p = pools(m);
    must(p.create({ name: 'parent', pages: 8192, nodes: [0, 1] }));
    must(p.create({ name: 'other', pages: 8192, nodes: [1] }));
    must(p.move('other', 'parent', { count: 8192 }));
    expect(nodesOf(m, 'parent')).toEqual([0, 1]);
    must(p.create({ name: 'child', parent: 'parent', nodes: [1], pages: 4000 }));
    expect(nodesOf(m, 'child')).toEqual([1]);
    expect(p.resize('child', 8193)).toMatchObject({ ok: false, error: { errno: 'ENOMEM' } });
    must(p.resize('child', 8192));
    expect(nodesOf(m, 'parent')).toEqual([0]);
    expect(m.check()).toEqual([]);
  });

  it('PL12 what a parent may not have goes back to the zones that label it', () => {
    const m = boot(2);
    const p = pools(m);
    must(p.create({ name: 'parent', pages: 1000, nodes: [0] }));
    must(p.create({ name: 'child', parent: 'parent', nodes: [0, 1], pages: 500 }));
    must(p.create({ name: 'other', nodes: [1], pages: 500 }));
    must(p.move('other', 'child', { count: 500 }));
    take(m, holderOf(m, 'child'), 700); // of both nodes
    must(p.destroy('child', { drain: true }));
    expect(nodesOf(m, 'parent')).toEqual([0]);
    expect(poolOf(m, 'parent').managed).toBe(1000);
    expect(m.check()).toEqual([]);
  });

  it.each(['resize', 'destroy'] as const)('PL12 a parent is not filled beyond its max: %s of its child', (verb) => {
    const m = boot();
    const p = pools(m);
    const free = m.zones[0]?.alloc.nrFree();
    must(p.create({ name: 'parent', pages: 1000, max: 1000 }));
    must(p.create({ name: 'child', parent: 'parent', pages: 500 }));
    must(p.resize('parent', 900));
    must<unknown>(verb === 'resize' ? p.resize('child', 0) : p.destroy('child'));
    expect(poolOf(m, 'parent').managed).toBe(1000);
    expect((m.zones[0]?.alloc.nrFree() ?? 0) + 1000).toBe(free);
    expect(m.check()).toEqual([]);
  });

  it('PL12 a parent keeps its min free, a zone its min watermark', () => {
    const m = Machine.boot(simpleSpec(2 ** 32, { code: 'shared' }));
    const p = pools(m);
    const zone = m.poolNamed(toNodeId(0), 'DMA32') as Pool;
    const kept = zone.watermarks.min;
    expect(kept).toBeGreaterThan(100);
    must(p.create({ name: 'parent', pages: 1000, min: 300 }));
    expect(p.create({ name: 'child', parent: 'parent', pages: 701 })).toMatchObject({
      ok: false,
      error: { errno: 'ENOMEM' },
    });
    must(p.create({ name: 'child', parent: 'parent', pages: 700 }));
    const most = zone.alloc.nrFree() + zone.alloc.pcpPages() - zone.watermarks.min;
    expect(p.create({ name: 'x', zones: ['DMA32'], pages: most + 1 })).toMatchObject({
      ok: false,
      error: { errno: 'ENOMEM' },
    });
    must(p.create({ name: 'x', zones: ['DMA32'], pages: most }));
    expect(m.check()).toEqual([]);
  });

  it('PL13 frames of a CMA area are not carved, and a range of them refuses', () => {
    const area = { start: toPfn(BASE + 8192), end: toPfn(BASE + 16384), name: 'camera' };
    const m = boot(1, 1, { cma: [area] });
    const p = pools(m);
    const there = BLOCK - 8192;
    expect(p.create({ name: 'a', pages: there + 1 })).toMatchObject({ ok: false, error: { errno: 'ENOMEM' } });
    must(p.create({ name: 'a', pages: there }));
    const zone = m.zones[0]?.id;
    const owners = ownersOf(m);
    for (let pfn = area.start as number; pfn < area.end; pfn++) {
      expect(owners[m.sections.indexOf(toPfn(pfn))]).toBe(zone);
    }
    const windowed = p.create({ name: 'b', pages: 1, ranges: [{ start: area.start, end: area.end }] });
    expect(windowed).toMatchObject({ ok: false, error: { errno: 'ENOMEM' } });
    const before = m.digest();
    expect(p.move('node0-Normal', 'a', { range: { start: area.start, end: toPfn(area.start + 5) } })).toMatchObject({
      ok: false,
      error: { errno: 'EBUSY', message: expect.stringMatching(/CMA/) },
    });
    expect(m.digest()).toBe(before);
    expect(m.check()).toEqual([]);
  });

  it('PL13 frames that are being taken out of use stay where they are, free and used ones', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 0 }));
    const page = toPfn(m.alloc(m.addHolder({ class: 'anonymous', name: 'x' }), toOrder(0)));
    m.pin(page);
    const work = m.beginOffline(toBlockId(Math.floor(page / BLOCK)));
    while (work.stage !== 'migrate') work.step();
    const start = Math.floor(page / BLOCK) * BLOCK;
    const inBlock = [{ start: toPfn(start), end: toPfn(start + BLOCK) }];
    const before = m.digest();
    expect(p.create({ name: 'b', pages: 1, ranges: inBlock })).toMatchObject({ ok: false, error: { errno: 'ENOMEM' } });
    for (const range of [inBlock[0], { start: page, end: toPfn(page + 1) }]) {
      const r = p.move(
        'node0-Normal',
        'a',
        { range: range as { start: typeof page; end: typeof page } },
        { used: 'donate' },
      );
      expect(r).toMatchObject({ ok: false, error: { errno: 'EBUSY', message: expect.stringMatching(/isolated/) } });
    }
    expect(m.digest()).toBe(before);
    work.cancel();
    must(p.move('node0-Normal', 'a', { range: { start: page, end: toPfn(page + 1) } }, { used: 'donate' }));
    expect(m.check()).toEqual([]);
  });

  it('PL14 chunks move all or none: a refusal takes back what moved, and nothing that the other pool had', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 8192 }));
    must(p.create({ name: 'b', pages: 0 }));
    const first = Math.ceil(m.sections.pfnOf(poolOf(m, 'a').base) / 1024);
    must(p.move('a', 'b', { range: { start: toPfn(first * 1024 + 7), end: toPfn(first * 1024 + 107) } }));
    const holder = holderOf(m, 'a', 'slab');
    const last = first + 3;
    while (Math.floor(Math.max(...take(m, holder, 100)) / 1024) < last);
    const owners = ownersOf(m);
    const before = m.digest();
    for (const used of ['refuse', 'evacuate'] as const) {
      const r = p.move('a', 'b', { chunks: [first + 4, first + 5, last, first] }, { used });
      expect(r).toMatchObject({ ok: false, error: { errno: 'EBUSY' } });
      expect(ownersOf(m)).toEqual(owners);
      expect(m.digest()).toBe(before);
    }
    expect(must(p.move('a', 'b', { chunks: [first + 4, first + 4, first] }, { used: 'donate' }))).toBe(2048 - 100);
    expect(m.check()).toEqual([]);
  });

  it('PL14 a move that could not place a page puts every frame back', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 2048 }));
    must(p.create({ name: 'b', pages: 100 }));
    const holder = holderOf(m, 'a');
    take(m, holder, 1200);
    const owners = ownersOf(m);
    const start = m.sections.pfnOf(poolOf(m, 'a').base);
    const r = p.move('a', 'b', { range: { start, end: toPfn(start + 1024) } }, { used: 'evacuate' });
    expect(r).toMatchObject({ ok: false, error: { errno: 'ENOMEM', message: expect.stringMatching(/nowhere to go/) } });
    expect(ownersOf(m)).toEqual(owners);
    expect(m.check()).toEqual([]);
  });

  it('PL14 what moved before a page that did not is the pool’s again', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 4096 }));
    must(p.create({ name: 'b', pages: 0 }));
    const singles = take(m, holderOf(m, 'a'), 1500);
    const [huge] = take(m, holderOf(m, 'a', 'hugetlb'), 1, 9) as [Pfn]; // moves as a whole, to a run of its order
    const rest = take(m, holderOf(m, 'a', 'file'), 4096);
    const block = Math.floor(huge / 512);
    const outside = rest.filter((pfn) => Math.floor(pfn / 512) !== block);
    outside.forEach((pfn, k) => void (k % 2 === 0 && m.free(pfn))); // no such run is left
    const near = singles.find((pfn) => Math.floor(pfn / 1024) === Math.floor(huge / 1024)) ?? (singles[0] as Pfn);
    const owners = ownersOf(m);
    const used = must(p.stat('a')).used;
    const chunks = [...new Set([Math.floor(near / 1024), Math.floor(huge / 1024)])];
    const range = { start: toPfn(huge - 40), end: toPfn(huge + 512) };
    for (const what of [{ range }, { chunks: chunks.slice(0, 1) }]) {
      const r = p.move('a', 'b', what, { used: 'evacuate' });
      expect(r.ok).toBe(false);
      expect(ownersOf(m)).toEqual(owners);
      expect(must(p.stat('a')).used).toBe(used);
      expect(m.check()).toEqual([]);
    }
    expect(p.move('a', 'b', { range }, { used: 'evacuate' })).toMatchObject({
      error: { reason: 'pool-busy', blockers: [{ startPfn: huge, cause: 'no-target' }] },
    });
  });

  it('PL14 by count from a pool of several nodes: frames that the other may have, or EXDEV', () => {
    const m = boot(2);
    const p = pools(m);
    must(p.create({ name: 'wide', pages: 600, nodes: [0, 1] }));
    must(p.create({ name: 'one', pages: 300, nodes: [1] }));
    must(p.move('one', 'wide', { count: 300 }));
    expect(p.move('wide', 'one', { count: 301 })).toMatchObject({ ok: false, error: { errno: 'ENOMEM' } });
    expect(must(p.move('wide', 'one', { count: 1000 }, { partial: true }))).toBe(300);
    expect(nodesOf(m, 'one')).toEqual([1]);
    expect(p.move('wide', 'one', { count: 1 })).toMatchObject({ ok: false, error: { errno: 'EXDEV' } });
    expect(m.check()).toEqual([]);
  });

  it('PL16 what the kernel keeps is not given back by a principal: poisoned and huge pages', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 8192 }));
    const [pfn] = take(m, holderOf(m, 'a'), 1) as [ReturnType<typeof toPfn>];
    expect(softOffline(m, pfn, { enabled: true }).result.ok).toBe(true);
    const before = m.digest();
    expect(p.free(pfn)).toMatchObject({
      ok: false,
      error: { errno: 'EINVAL', message: expect.stringMatching(/poisoned/) },
    });
    expect(m.digest()).toBe(before);
    expect(poolOf(m, 'a').managed).toBe(8192);
    expect(p.destroy('a')).toMatchObject({ ok: false, error: { errno: 'EBUSY' } });
    must(p.destroy('a', { drain: true }));
    expect(m.check()).toEqual([]);
  });
});
