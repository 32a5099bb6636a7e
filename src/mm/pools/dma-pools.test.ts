// DMA pools on a machine: find or create, windows, buffers, release. Rules in docs/spec/dma-pools.md.

import { describe, expect, it } from 'vitest';
import { toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import type { MachineSpec, RamRange } from '../machine-spec.ts';
import type { PageClass } from '../page-class.ts';
import type { Refusal } from '../refusal.ts';
import { dmaDirectAlloc } from './dma-direct.ts';
import { type Extent, framesOf, pagesOf } from './dma-extent.ts';
import { loadedModules, loadModule, unloadModule } from './dma-module.ts';
import { checkDma, type DmaNeed, type DmaPools, type DmaRef, dmaPools } from './dma-pools.ts';
import type { DmaRule } from './dma-rule.ts';
import { pools } from './pools.ts';

const MIB = 256; // pages
const GIB = 1024 * MIB;

const ram = (start: number, end: number, node = 0): RamRange => ({
  start: toPfn(start),
  end: toPfn(end),
  node: toNodeId(node),
});
const boot = (ranges: readonly RamRange[], rest: Partial<MachineSpec> = {}): Machine =>
  Machine.boot({ ram: ranges, watermarks: 'none', code: 'shared', ...rest });

/** 16 MiB of DMA, 48 MiB of DMA32, 64 MiB of Normal. */
const pc = (rest?: Partial<MachineSpec>): Machine => boot([ram(0, 64 * MIB), ram(4 * GIB, 4 * GIB + 64 * MIB)], rest);

const device = (name: string, node?: number): DmaNeed['device'] => (node === undefined ? { name } : { name, node });

function find(dma: DmaPools, rule: DmaRule, need: Partial<DmaNeed> & { name?: string } = {}): DmaRef {
  const found = dma.findOrCreate(rule, { device: device(need.name ?? 'dev'), min: 16, ...need });
  if (!found.ok) throw new Error(found.error.message);
  return found.value;
}

function refusalOf(result: { ok: true; value: unknown } | { ok: false; error: Refusal }): Refusal {
  if (result.ok) throw new Error('it was not refused');
  return result.error;
}

const sound = (m: Machine): void => {
  expect(checkDma(m)).toEqual([]);
  expect(m.check()).toEqual([]);
};

const allFree = (m: Machine): number => m.zones.reduce((n, z) => n + z.alloc.nrFree() + z.alloc.pcpPages(), 0);

function fill(m: Machine, cls: PageClass, pages: number, topZone?: 0 | 1 | 2): { pfns: number[]; holder: number } {
  const holder = m.addHolder({ class: cls, name: cls });
  const pfns: number[] = [];
  for (let k = 0; k < pages; k++) {
    const pfn = m.alloc(holder, toOrder(0), topZone === undefined ? undefined : { topZone });
    if (pfn === -1) break;
    pfns.push(pfn);
  }
  return { pfns, holder };
}

describe('find or create', () => {
  it('DP5 equal demands share one pool, however they are spelled; another demand gets another', () => {
    const m = pc();
    const dma = dmaPools(m);
    const a = find(dma, { windowBits: 24, align: 8192 }, { name: 'a' });
    const b = find(dma, { sameHighBits: 40, align: 8192, boundary: 2 ** 40 }, { name: 'b' });
    const c = find(dma, { windowBits: 24 }, { name: 'c' });
    expect([a.how, b.how, b.pool === a.pool]).toEqual(['created', 'shared', true]);
    expect([c.how, c.pool === a.pool]).toEqual(['satisfied', true]);
    const d = find(dma, { windowBits: 24, align: 16384 }, { name: 'd' });
    expect([d.how, d.pool === a.pool]).toEqual(['created', false]);
    expect(dma.list().map((p) => [p.users, p.promised, p.pages])).toEqual([
      [3, 48, 48],
      [1, 16, 16],
    ]);
    sound(m);
  });

  it('DP5 B2 a thousand modules with twenty rules, none of which implies another: twenty pools', () => {
    const m = boot([0, 1, 2, 3].map((n) => ram((4 + n) * GIB, (4 + n) * GIB + 128 * MIB, n)));
    const before = allFree(m);
    const names: string[] = [];
    for (let k = 0; k < 1000; k++) {
      const i = k % 5;
      const nodes = [Math.floor(k / 5) % 4];
      const rule: DmaRule = { align: 2 ** (12 + i), windowBits: 24 + i, node: { nodes, strength: 'required' } };
      const loaded = loadModule(m, { name: `mod${k}`, uses: [{ rule, buffers: [3 * 4096, 4096] }] });
      if (!loaded.ok) throw new Error(`module ${k}: ${loaded.error.message}`);
      names.push(loaded.value.name);
    }
    expect(
      dmaPools(m)
        .list()
        .map((p) => p.users),
    ).toEqual(new Array(20).fill(50));
    sound(m);
    for (const name of names) expect(unloadModule(m, name).ok).toBe(true);
    expect([dmaPools(m).list().length, allFree(m), loadedModules(m).length]).toEqual([0, before, 0]);
    sound(m);
  });

  it('DP6 a rule is served by a stricter pool, of two by the less strict; but not with scarcer memory than it needs', () => {
    const m = pc();
    const dma = dmaPools(m);
    const low = find(dma, { addrMax: { bits: 24 } }, { name: 'isa' });
    const narrow = find(dma, { windowBits: 20 }, { name: 'narrow' });
    const wide = find(dma, { windowBits: 24, align: 8192 }, { name: 'wide' });
    expect(new Set([low.pool, narrow.pool, wide.pool]).size).toBe(3);
    // All three keep this rule.
    const any = find(dma, { windowBits: 26 }, { name: 'any' });
    expect([any.how, any.pool]).toEqual(['satisfied', wide.pool]);
    // The 24-bit pool keeps the rule of a 32-bit device, but there is memory below 4 GiB that is less scarce.
    const pci = find(dma, { addrMax: { bits: 32 } }, { name: 'pci' });
    expect([pci.how, pci.pool === low.pool]).toEqual(['created', false]);
    sound(m);
  });

  it('DP6 where nothing else is left, a stricter pool of scarce memory serves after all', () => {
    const m = boot([ram(0, 16 * MIB), ram(4 * GIB, 4 * GIB + 2 * MIB)]);
    const dma = dmaPools(m);
    const low = find(dma, { addrMax: { bits: 24 } }, { name: 'isa' });
    const pool = m.poolNamed(toNodeId(0), 'Normal');
    fill(m, 'slab', pool?.managed ?? 0, 2); // Normal is full of what cannot move
    const any = find(dma, {}, { name: 'any' });
    expect([any.how, any.pool]).toEqual(['satisfied', low.pool]);
    sound(m);
  });

  it('DP7 the window is emptied: what may move moves, clean cache is dropped, large pages are cut at its border', () => {
    const m = pc();
    const { pfns } = fill(m, 'anonymous', 3000, 0); // below 16 MiB
    const cache = m.addHolder({ class: 'file', name: 'cache' });
    for (let k = 0; k < 500; k++) m.alloc(cache, toOrder(0), { topZone: 0 });
    const before = m.vmstat.pgmigrate_success;
    const clean = { dirty: false, mapped: false };
    const dma = dmaPools(m, { pageState: (holder) => (holder === cache ? clean : undefined) });
    const free = m.poolNamed(toNodeId(0), 'DMA')?.alloc.nrFree() ?? 0;
    expect(free).toBeLessThan(1024);
    const ref = find(dma, { addrMax: { bits: 24 } }, { min: 2048, name: 'isa' });
    expect(ref.window).toEqual({ start: 0, end: 4096 });
    let cached = 0;
    m.forEachFrameOf(cache, () => void cached++);
    expect(cached).toBeLessThan(500);
    expect(m.vmstat.pgmigrate_success - before).toBeGreaterThan(0);
    expect(m.vmstat.pgmigrate_success - before).toBeLessThanOrEqual(pfns.length);
    sound(m);

    const n = pc();
    const heap = n.addHolder({ class: 'anonymous', name: 'heap' });
    for (let k = 0; k < 8; k++) n.alloc(heap, toOrder(9), { topZone: 0 });
    expect(find(dmaPools(n), { addrMax: { bits: 24 } }, { min: 100, name: 'isa' }).how).toBe('created');
    let parts = 0;
    n.forEachFrameOf(heap, (_, order) => void (parts += Number(order === 0)));
    expect([parts, n.vmstat.pgmigrate_success]).toEqual([512, 100]);
    sound(n);
  });

  it('DP7 the cheapest frames of the best memory are taken: what is free before what has to move', () => {
    const m = boot([ram(4 * GIB, 4 * GIB + 16 * MIB)]);
    const { pfns } = fill(m, 'anonymous', 10 * MIB);
    const before = m.vmstat.pgmigrate_success;
    find(dmaPools(m), { windowBits: 32 }, { min: 6 * MIB, name: 'fits' });
    expect(m.vmstat.pgmigrate_success).toBe(before);
    for (const pfn of pfns.splice(0, 2 * MIB)) m.free(toPfn(pfn));
    find(dmaPools(m), { windowBits: 33 }, { min: MIB, name: 'other' });
    expect(m.vmstat.pgmigrate_success).toBe(before);
    sound(m);
  });

  it('DP8 no window: ENOSPC with the best one and what it lacks, and nothing has changed', () => {
    const m = boot([ram(0, 4 * MIB), ram(4 * GIB, 4 * GIB + MIB)]);
    const { pfns } = fill(m, 'slab', 2 * MIB);
    for (const pfn of pfns) if (pfn < 4 * GIB && pfn % 3 === 0) m.free(toPfn(pfn));
    const before = m.digest();
    const refused = dmaPools(m).findOrCreate({ windowBits: 20 }, { device: device('big'), min: 2 * MIB });
    if (refused.ok) throw new Error('found');
    expect([refused.error.reason, refused.error.errno]).toEqual(['no-window', 'ENOSPC']);
    expect(refused.error.best).toMatchObject({ pages: MIB, missing: MIB });
    expect([m.digest(), dmaPools(m).list()]).toEqual([before, []]);
    sound(m);
  });

  it('DP8 what is in the way and has nowhere to go: refused, every frame is its zone’s, no pool is left', () => {
    const m = boot([ram(0, 16 * MIB)]);
    fill(m, 'anonymous', 15 * MIB);
    const free = allFree(m);
    const refused = refusalOf(
      dmaPools(m).findOrCreate({ addrMax: { bits: 24 } }, { device: device('isa'), min: 2 * MIB }),
    );
    expect(refused.reason).toBe('pool-busy');
    expect([allFree(m), dmaPools(m).list().length]).toEqual([free, 0]);
    expect(
      pools(m)
        .list()
        .filter((p) => p.kind === 'user'),
    ).toEqual([]);
    sound(m);
    // As much as is free can still be had.
    expect(find(dmaPools(m), { addrMax: { bits: 24 } }, { min: MIB }).how).toBe('created');
    sound(m);
  });

  it('DP19 a need that is none, a node that is not there, a rule that contradicts itself: EINVAL', () => {
    const dma = dmaPools(pc());
    const ask = (rule: DmaRule, need: Partial<DmaNeed>): string =>
      refusalOf(dma.findOrCreate(rule, { device: device('x'), min: 1, ...need })).errno;
    expect(ask({}, { min: 0 })).toBe('EINVAL');
    expect(ask({}, { min: 8, max: 4 })).toBe('EINVAL');
    expect(ask({}, { priority: 256 })).toBe('EINVAL');
    expect(ask({}, { buffers: [8192] })).toBe('EINVAL');
    expect(ask({}, { buffers: [0] })).toBe('EINVAL');
    expect(ask({ node: { nodes: [7], strength: 'required' } }, {})).toBe('EINVAL');
    expect(ask({ align: 3000 }, {})).toBe('EINVAL');
    expect(dma.list()).toEqual([]);
  });

  it('DP21 never taken: Movable, CMA, pinned pages, huge pages, frames of other pools, and the min watermark', () => {
    const m = Machine.boot({
      ram: [ram(0, 16 * MIB), ram(4 * GIB, 4 * GIB + 128 * MIB)],
      movableStart: new Map([[toNodeId(0), toPfn(4 * GIB + 64 * MIB)]]),
      cma: [{ start: toPfn(4 * GIB + 32 * MIB), end: toPfn(4 * GIB + 48 * MIB), name: 'cma' }],
      code: 'shared',
    });
    const heap = m.addHolder({ class: 'anonymous', name: 'heap' });
    const pinned = m.alloc(heap, toOrder(4), { topZone: 2 });
    m.pin(toPfn(pinned));
    const huge = m.alloc(m.addHolder({ class: 'hugetlb', name: 'huge' }), toOrder(9), { topZone: 2 });
    expect(pools(m).create({ name: 'web', pages: MIB, zones: ['Normal'] }).ok).toBe(true);
    const dma = dmaPools(m);
    const normal = m.poolNamed(toNodeId(0), 'Normal');
    let got = 0;
    for (let k = 0; k < 200; k++) {
      const rule: DmaRule = { addrMax: { bits: 40 } };
      const found = dma.findOrCreate(rule, { device: device(`d${k}`), min: MIB });
      if (!found.ok) break;
      got++;
    }
    expect(got).toBeGreaterThan(40);
    const mine = pools(m)
      .list()
      .filter((p) => p.class === 'dma');
    expect(mine.every((p) => !p.zones.includes('Movable'))).toBe(true);
    for (const p of [pinned, huge]) expect(m.frame(toPfn(p))).toMatchObject({ state: 'used', pool: normal });
    expect(m.frame(toPfn(4 * GIB + 40 * MIB))).toMatchObject({ state: 'free', pool: normal });
    for (const z of m.zones) if (z.managed > 0) expect(z.alloc.nrFree()).toBeGreaterThanOrEqual(z.watermarks.min);
    expect(pools(m).stat('web')).toMatchObject({ value: { managed: MIB } });
    sound(m);
  });
});

describe('buffers', () => {
  const RULE: DmaRule = { windowBits: 22, align: 16384, boundary: 65536, maxSegments: 4 };

  it('DP1 DP2 DP4 every segment keeps the rule; live buffers agree in the high bits; freed frames are the pool’s', () => {
    const m = pc();
    const dma = dmaPools(m);
    const ref = find(dma, RULE, { min: 64, max: 256 });
    const sizes = [65536, 40960, 4096, 4 * 65536, 12288];
    const buffers = sizes.map((bytes) => dma.allocBuffer(ref.id, bytes));
    const windows = new Set<number>();
    for (const b of buffers) {
      if (!b.ok) throw new Error(b.error.message);
      expect(b.value.segments.length).toBeLessThanOrEqual(4);
      for (const s of b.value.segments) {
        expect(s.start % 4).toBe(0);
        expect(Math.floor(s.start / 16)).toBe(Math.floor((s.end - 1) / 16));
        windows.add(Math.floor(s.start / framesOf(22)));
      }
    }
    expect(windows.size).toBe(1);
    sound(m);
    const live = (): number => dma.list()[0]?.live ?? -1;
    expect(live()).toBe(sizes.reduce((n, b) => n + b / 4096, 0));
    for (const b of dma.buffers(ref.id)) expect(dma.freeBuffer(ref.id, b.id).ok).toBe(true);
    expect(live()).toBe(0);
    sound(m);
  });

  it('DP1 DP2 DP3 DP4 what is broken is named', () => {
    const m = pc();
    const dma = dmaPools(m);
    const ref = find(dma, RULE, { min: 64 });
    const [a] = [dma.allocBuffer(ref.id, 65536)];
    if (!a.ok) throw new Error(a.error.message);
    const at = (a.value.segments[0] as Extent).start;
    m.free(m.frame(at).state === 'used' ? at : at);
    expect(checkDma(m).join('\n')).toMatch(/DP1 frame .* is not dev's/);
    expect(checkDma(m).join('\n')).toMatch(/DP4 dma-0 has/);
    expect(pools(m).destroy('dma-0', { drain: true }).ok).toBe(true);
    expect(checkDma(m).join('\n')).toMatch(/DP3 dma-0 is no DMA pool any more/);
    expect(refusalOf(dma.allocBuffer(ref.id, 4096)).errno).toBe('ENOENT');
  });

  it('DP3 what one was promised nobody else gets: its buffers fit when it comes for them', () => {
    const m = boot([ram(0, 16 * MIB)]);
    const dma = dmaPools(m);
    const rule: DmaRule = { addrMax: { bits: 24 } };
    const a = find(dma, rule, { name: 'a', min: 8 * MIB });
    const b = find(dma, rule, { name: 'b', min: 6 * MIB, max: 16 * MIB });
    expect(b.pool).toBe(a.pool);
    let got = 0;
    while (dma.allocBuffer(b.id, MIB * 4096).ok) got++;
    expect(got).toBe(8);
    for (let k = 0; k < 8; k++) expect(dma.allocBuffer(a.id, MIB * 4096).ok).toBe(true);
    sound(m);
  });

  it('DP16 a pool grows for a buffer, up to the reference’s max; beyond it ENOSPC; no size is EINVAL', () => {
    const m = pc();
    const dma = dmaPools(m);
    const ref = find(dma, { addrMax: { bits: 32 }, contiguous: true }, { min: 1, max: MIB });
    expect(dma.allocBuffer(ref.id, (MIB / 2) * 4096).ok).toBe(true);
    expect(dma.allocBuffer(ref.id, (MIB / 2) * 4096).ok).toBe(true);
    expect(dma.list()).toMatchObject([{ pages: MIB, live: MIB }]);
    expect(refusalOf(dma.allocBuffer(ref.id, 1))).toMatchObject({ reason: 'guarantee', errno: 'ENOSPC' });
    expect(refusalOf(dma.allocBuffer(ref.id, 0.5)).errno).toBe('EINVAL');
    expect(refusalOf(dma.release(ref.id))).toMatchObject({ reason: 'pool-busy', errno: 'EBUSY' });
    expect(refusalOf(dma.freeBuffer(ref.id, 99)).errno).toBe('EINVAL');
    sound(m);
  });

  it('DP16 where the pool’s free frames are in pieces, it grows by one that holds the buffer, and gives others back', () => {
    const m = pc();
    const dma = dmaPools(m);
    const ref = find(dma, { addrMax: { bits: 32 }, contiguous: true }, { min: 64, max: 64 });
    const singles = Array.from({ length: 64 }, () => dma.allocBuffer(ref.id, 4096));
    for (const [k, b] of singles.entries()) if (k % 2 === 0 && b.ok) dma.freeBuffer(ref.id, b.value.id);
    const large = dma.allocBuffer(ref.id, 32 * 4096);
    expect(large).toMatchObject({ ok: true, value: { pages: 32 } });
    expect(dma.list()).toMatchObject([{ pages: 64, live: 64, promised: 64 }]);
    sound(m);
  });
});

describe('windows', () => {
  /** 20 GiB: five windows of 4 GiB, two of 16 GiB. */
  const large = (): Machine => boot([ram(0, 3 * GIB), ram(4 * GIB, 21 * GIB)]);

  it('DP12 B5 windows of 26, 32 and 34 bits, in both readings: all buffers agree in the high bits', () => {
    const m = large();
    const before = allFree(m);
    const cases: [DmaRule, number][] = [
      [{ windowBits: 26 }, 26],
      [{ windowBits: 32 }, 32],
      [{ windowBits: 34 }, 34],
      [{ sameHighBits: 26 }, 38],
      [{ sameHighBits: 32 }, 32],
      [{ sameHighBits: 34 }, 30],
    ];
    for (const [k, [rule, bits]] of cases.entries()) {
      const buffers = [2 ** 20, 2 ** 20, 4096, 2 ** 24];
      const loaded = loadModule(m, { name: `m${k}`, uses: [{ rule, buffers }] });
      if (!loaded.ok) throw new Error(loaded.error.message);
      const segments = (loaded.value.uses[0]?.buffers ?? []).flatMap((b) => b.segments);
      expect(pagesOf(segments)).toBe(MIB + MIB + 1 + 16 * MIB);
      expect(new Set(segments.map((s) => Math.floor(s.start / framesOf(bits)))).size).toBe(1);
    }
    sound(m);
    for (const { name } of loadedModules(m)) unloadModule(m, name);
    expect(allFree(m)).toBe(before);
    sound(m);
  });

  it('DP12 B5 unloaded, its frames are free; loaded again where its window was taken meanwhile, it lies elsewhere', () => {
    const m = boot([ram(4 * GIB, 4 * GIB + 128 * MIB)]);
    const nic = { name: 'nic', uses: [{ rule: { windowBits: 26 }, buffers: [8 * 2 ** 20] }] } as const;
    const first = loadModule(m, nic);
    if (!first.ok) throw new Error(first.error.message);
    const where = first.value.uses[0]?.ref.window as Extent;
    expect(unloadModule(m, 'nic').ok).toBe(true);
    expect(m.frame(where.start).state).toBe('free');
    expect(refusalOf(unloadModule(m, 'nic')).errno).toBe('ENOENT');
    // Kernel memory, which cannot move, comes to lie there.
    const slab = m.addHolder({ class: 'slab', name: 'slab' });
    const kept: number[] = [];
    for (let k = 0; k < 128 * MIB; k += 1024) {
      const pfn = m.alloc(slab, toOrder(10));
      if (pfn !== -1) kept.push(pfn);
    }
    for (const pfn of kept) if (pfn < where.start || pfn >= where.end) m.free(toPfn(pfn));
    const again = loadModule(m, nic);
    if (!again.ok) throw new Error(again.error.message);
    expect(again.value.uses[0]?.ref.window).not.toEqual(where);
    expect(refusalOf(loadModule(m, nic)).errno).toBe('EEXIST');
    sound(m);
  });

  it('DP13 a window stays while a buffer is live; empty, it may be chosen anew, with an event', () => {
    const m = boot([ram(4 * GIB, 4 * GIB + 128 * MIB)]);
    const verbs: string[] = [];
    m.onEvent = (e) => void (e.type === 'pool' && verbs.push(e.verb));
    const dma = dmaPools(m);
    const ref = find(dma, { windowBits: 26 }, { min: MIB });
    expect(ref.window.start).toBe(4 * GIB + 64 * MIB); // the highest
    const buffer = dma.allocBuffer(ref.id, 4096);
    expect(refusalOf(dma.rebase(ref.pool)).reason).toBe('pool-busy');
    if (buffer.ok) dma.freeBuffer(ref.id, buffer.value.id);
    // Nothing better: nothing changes, and nobody is told.
    expect(dma.rebase(ref.pool)).toEqual({ ok: true, value: ref.window });
    expect(verbs).not.toContain('rebase');
    // The upper window cannot hold what it wants now.
    const slab = m.addHolder({ class: 'slab', name: 'slab' });
    const taken: number[] = [];
    for (let pfn = m.alloc(slab, toOrder(8)); pfn !== -1; pfn = m.alloc(slab, toOrder(8))) taken.push(pfn);
    for (const pfn of taken) if (pfn < ref.window.start) m.free(toPfn(pfn));
    const lower = { start: 4 * GIB, end: 4 * GIB + 64 * MIB };
    expect(dma.rebase(ref.pool, { more: 4 * MIB })).toEqual({ ok: true, value: lower });
    expect(verbs).toContain('rebase');
    expect(dma.ref(ref.id)?.window).toEqual(lower);
    expect(refusalOf(dma.rebase(ref.pool, { more: GIB }))).toMatchObject({ errno: 'ENOSPC' });
    expect(dma.ref(ref.id)?.window).toEqual(lower);
    expect(refusalOf(dma.rebase('web')).errno).toBe('ENOENT');
    sound(m);
  });

  it('DP13 find or create chooses the window of an empty pool anew, rather than make a second pool', () => {
    const m = boot([ram(4 * GIB, 4 * GIB + 64 * MIB + MIB)]);
    const dma = dmaPools(m);
    const a = find(dma, { windowBits: 26 }, { name: 'a', min: 4 });
    expect(a.window.start).toBe(4 * GIB + 64 * MIB); // the highest: 1 MiB
    const b = find(dma, { windowBits: 26 }, { name: 'b', min: 8 * MIB });
    expect([b.how, b.pool]).toEqual(['shared', a.pool]);
    expect([dma.ref(a.id)?.window.start, dma.list().length]).toEqual([4 * GIB, 1]);
    sound(m);
    // With a live buffer it stays, and who needs more gets a pool of its own.
    const n = boot([ram(4 * GIB, 4 * GIB + 64 * MIB + MIB)]);
    const other = dmaPools(n);
    const c = find(other, { windowBits: 26 }, { name: 'c', min: 4 });
    expect(other.allocBuffer(c.id, 4096).ok).toBe(true);
    const d = find(other, { windowBits: 26 }, { name: 'd', min: 8 * MIB });
    expect([d.how, d.pool === c.pool, other.ref(c.id)?.window]).toEqual(['created', false, c.window]);
    sound(n);
  });

  it('DP14 a device’s references with one rule lie in one window, and another device’s need not', () => {
    const m = boot([ram(4 * GIB, 4 * GIB + 64 * MIB + MIB)]);
    const dma = dmaPools(m);
    const a = find(dma, { windowBits: 26 }, { name: 'a', min: 4 });
    expect(dma.allocBuffer(a.id, 4096).ok).toBe(true);
    const refused = dma.findOrCreate({ windowBits: 26 }, { device: device('a'), min: 8 * MIB });
    expect(refusalOf(refused).errno).toBe('ENOSPC');
    const more = find(dma, { windowBits: 26 }, { name: 'a', min: MIB - 4 });
    expect(more.window).toEqual(a.window);
    expect(find(dma, { windowBits: 26 }, { name: 'b', min: 8 * MIB }).window).not.toEqual(a.window);
    sound(m);
  });
});

describe('references', () => {
  it('DP3 DP15 the last release gives all back, but a pool with lifetime boot stays and is found again', () => {
    const m = pc();
    const before = allFree(m);
    const dma = dmaPools(m);
    const rule: DmaRule = { addrMax: { bits: 24 } };
    const a = find(dma, rule, { name: 'a', min: 32 });
    const b = find(dma, rule, { name: 'b', min: 16 });
    expect(dma.release(a.id).ok).toBe(true);
    expect(dma.list()).toMatchObject([{ users: 1, pages: 16, promised: 16 }]);
    expect(dma.release(b.id).ok).toBe(true);
    expect([dma.list(), allFree(m)]).toEqual([[], before]);
    expect(refusalOf(dma.release(b.id)).errno).toBe('ENOENT');

    const c = find(dma, { ...rule, lifetime: 'boot' }, { name: 'c', min: 32 });
    expect(dma.release(c.id).ok).toBe(true);
    expect(dma.list()).toMatchObject([{ users: 0, pages: 32, lifetime: 'boot' }]);
    const slab = fill(m, 'slab', 32 * MIB * 4); // memory runs out
    expect(slab.pfns.length).toBe(before - 32);
    const d = find(dma, rule, { name: 'd', min: 32 });
    expect([d.how, d.pool]).toEqual(['shared', c.pool]);
    expect(dma.allocBuffer(d.id, 32 * 4096).ok).toBe(true);
    sound(m);
  });

  it('DP17 a module gets all of its buffers or nothing', () => {
    const m = boot([ram(0, 16 * MIB)]);
    const before = allFree(m);
    const refused = loadModule(m, {
      name: 'greedy',
      uses: [
        { rule: { addrMax: { bits: 24 } }, buffers: [2 ** 20, 4096] },
        { rule: { windowBits: 32, contiguous: true }, buffers: [64 * 2 ** 20] },
      ],
    });
    expect(refusalOf(refused).errno).toBe('ENOSPC');
    expect([allFree(m), dmaPools(m).list(), loadedModules(m)]).toEqual([before, [], []]);
    sound(m);
  });

  it('DP18 a copy of the machine has pools, references, buffers and modules of its own', () => {
    const m = pc();
    const load = { name: 'isa', uses: [{ rule: { addrMax: { bits: 24 } }, buffers: [65536] }] } as const;
    expect(loadModule(m, load).ok).toBe(true);
    const snapshot = m.snapshot();
    const copy = m.fork();
    expect(unloadModule(copy, 'isa').ok).toBe(true);
    expect([dmaPools(copy).list().length, dmaPools(m).list().length]).toEqual([0, 1]);
    sound(copy);
    sound(m);
    expect(unloadModule(m, 'isa').ok).toBe(true);
    m.restore(snapshot);
    expect([dmaPools(m).list().length, loadedModules(m).length]).toEqual([1, 1]);
    sound(m);
  });
});

describe('B3: the four-node box of the mail', () => {
  const DISTANCE = [
    [10, 20, 20, 30],
    [20, 10, 30, 20],
    [20, 30, 10, 25],
    [30, 20, 25, 10],
  ];
  const box = (): Machine =>
    Machine.boot({
      ram: [0, 1, 2, 3].map((n) => ram((4 + n) * GIB, (4 + n) * GIB + 32 * MIB, n)),
      distance: DISTANCE,
      code: 'shared',
    });

  it('DP10 local as long as there is local memory that is free or may move; then the nearest, to the last', () => {
    const m = box();
    fill(m, 'anonymous', 8 * MIB); // node 0
    const dma = dmaPools(m);
    const found = dma.findOrCreate({}, { device: device('fc', 3), min: MIB, max: 128 * MIB });
    if (!found.ok) throw new Error(found.error.message);
    const nodes: number[] = [];
    for (let b = dma.allocBuffer(found.value.id, 2 ** 20); b.ok; b = dma.allocBuffer(found.value.id, 2 ** 20)) {
      const at = b.value.segments.map((s) => Math.floor(s.start / GIB) - 4);
      nodes.push(Math.max(...at.map((n) => DISTANCE[3]?.[n] ?? 0)));
    }
    expect(nodes).toEqual([...nodes].sort((x, y) => x - y));
    expect(nodes.filter((d) => d === 10).length).toBeGreaterThanOrEqual(30);
    expect(new Set(nodes)).toEqual(new Set([10, 20, 25, 30]));
    sound(m);
  });

  it('DP10 each of the four devices at its own node, though programs have filled all of them', () => {
    const m = box();
    for (const node of [0, 1, 2, 3]) {
      const heap = m.addHolder({ class: 'anonymous', name: `heap${node}`, node: toNodeId(node) });
      for (let k = 0; k < (node === 0 ? 8 : 28) * MIB; k++) m.alloc(heap, toOrder(0), { node: toNodeId(node) });
    }
    for (const [node, name] of ['legacy', 'raid', 'nic', 'fc'].entries()) {
      const loaded = loadModule(m, { name, node, uses: [{ rule: {}, buffers: new Array(8).fill(2 ** 20) }] });
      if (!loaded.ok) throw new Error(`${name}: ${loaded.error.message}`);
      for (const b of loaded.value.uses[0]?.buffers ?? []) {
        for (const s of b.segments) expect(Math.floor(s.start / GIB) - 4).toBe(node);
      }
    }
    expect(m.vmstat.pgmigrate_success).toBeGreaterThanOrEqual(3 * 4 * MIB - MIB);
    sound(m);
  });

  it('DP10 a rule that requires its node gets no other: ENOSPC', () => {
    const m = box();
    const node = { nodes: [2], strength: 'required' } as const;
    const ask = (min: number): { ok: boolean } => dmaPools(m).findOrCreate({ node }, { device: device('nic', 2), min });
    expect(ask(33 * MIB).ok).toBe(false);
    expect(ask(24 * MIB).ok).toBe(true);
    sound(m);
  });
});

describe('B4: 90 % of memory taken by drivers that could use any', () => {
  const CHUNKS = 16;
  /** 256 MiB: DMA 16, DMA32 112, Normal 128. */
  const small = (reserveRatio?: readonly number[]): Machine =>
    Machine.boot({
      ram: [ram(0, 128 * MIB), ram(4 * GIB, 4 * GIB + 128 * MIB)],
      watermarks: { scaleFactor: 10, thp: false, ...(reserveRatio === undefined ? {} : { reserveRatio }) },
      code: 'shared',
    });

  function linux(reserveRatio?: readonly number[]): { got: number; isa: boolean } {
    const m = small(reserveRatio);
    fill(m, 'file', 25 * MIB);
    const nic = m.addHolder({ class: 'driver', name: 'nic' });
    let got = 0;
    while (got < 231 * MIB && dmaDirectAlloc(m, nic, { bytes: 4096, bits: 64 }).ok) got++;
    const isa = dmaDirectAlloc(m, m.addHolder({ class: 'driver', name: 'isa' }), { bytes: 2 ** 20, bits: 24 });
    expect(m.check()).toEqual([]);
    return { got, isa: isa.ok };
  }

  it('DP11 DP20 Linux: the 24-bit device gets its MiB only if lowmem_reserve kept it', () => {
    expect(linux([0, 0, 0, 0]).isa).toBe(false);
    expect(linux([16, 16, 32, 0]).isa).toBe(true);
  });

  it('DP11 pools: it does, with lowmem_reserve and without: drivers that can use high memory got high memory', () => {
    for (const ratio of [
      [0, 0, 0, 0],
      [256, 256, 32, 0],
    ]) {
      const m = small(ratio);
      const cache = fill(m, 'file', 20 * MIB).holder;
      const options = { pageState: (h: number) => (h === cache ? { dirty: false, mapped: false } : undefined) };
      for (let k = 0; k < CHUNKS; k++) {
        const uses = [{ rule: {}, buffers: new Array(14).fill(2 ** 20) }];
        const loaded = loadModule(m, { name: `drv${k}`, uses }, options);
        if (!loaded.ok) throw new Error(`drv${k}: ${loaded.error.message}`);
      }
      const live = dmaPools(m)
        .list()
        .reduce((n, p) => n + p.live, 0);
      expect(live / (256 * MIB)).toBeGreaterThan(0.87);
      const isa = { name: 'isa', uses: [{ rule: { addrMax: { bits: 24 }, contiguous: true }, buffers: [2 ** 20] }] };
      expect(loadModule(m, isa, options).ok).toBe(true);
      sound(m);
    }
  });
});

describe('Linux’s way', () => {
  it('DP20 a mask is a zone: a frame above it is freed, and asked for in the next lower zone', () => {
    const m = boot([ram(0, 32 * MIB), ram(4 * GIB, 4 * GIB + 32 * MIB), ram(20 * GIB, 20 * GIB + 32 * MIB)]);
    const dev = m.addHolder({ class: 'driver', name: 'dev' });
    const at = (bits: number): number => {
      const pfn = dmaDirectAlloc(m, dev, { bytes: 4096, bits });
      if (!pfn.ok) throw new Error(pfn.error.message);
      return pfn.value;
    };
    expect(at(24)).toBeLessThan(16 * MIB);
    const low = at(32);
    expect([low >= 16 * MIB, low < 4 * GIB]).toEqual([true, true]);
    expect(at(64)).toBeGreaterThanOrEqual(4 * GIB);
    // 26 bits: DMA32 gives a frame below 2^26 or DMA does.
    expect(at(26)).toBeLessThan(2 ** 14);
    expect(refusalOf(dmaDirectAlloc(m, dev, { bytes: 8 * 2 ** 20, bits: 64 })).errno).toBe('EINVAL');
    // Nothing below 2^34 is left but in Normal, where the first frames are above: Linux gives up, a pool does not.
    for (let pfn = m.alloc(dev, toOrder(10), { topZone: 1 }); pfn !== -1; )
      pfn = m.alloc(dev, toOrder(10), { topZone: 1 });
    for (let pfn = m.alloc(dev, toOrder(0), { topZone: 1 }); pfn !== -1; )
      pfn = m.alloc(dev, toOrder(0), { topZone: 1 });
    const holes: number[] = [];
    for (let k = 0; k < 32 * MIB; k++) holes.push(m.alloc(dev, toOrder(0)));
    const first = holes.filter((pfn) => pfn >= 4 * GIB && pfn < 5 * GIB);
    expect(first.length).toBeGreaterThan(0);
    sound(m);
  });
});
