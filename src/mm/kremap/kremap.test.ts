// Remapping by example: kernel pages leave a block under constant addresses, the block goes, comes back, and they come home.
// Rules in docs/spec/kremap.md.

import { describe, expect, it } from 'vitest';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { PageClass } from '../page-class.ts';
import { remapEvictor } from './evictor.ts';
import { kremap } from './kremap.ts';
import { KREMAP_FAULTS, KREMAP_STEPS } from './protocol.ts';
import { allocAt, frameOf, holder, plug, remap, S, unplug, world } from './world.cases.ts';

const AT = 33 * S + 5 * PAGEBLOCK_PAGES + 17;
const b33 = toBlockId(33);
const range = (start: number, end: number) => ({ start: toPfn(start), end: toPfn(end) });
const section33 = range(33 * S, 34 * S);

/** A slab page at AT with some contents. */
function withSlab(m: Machine) {
  const slab = holder(m, 'slab');
  allocAt(m, slab, AT);
  m.write(toPfn(AT), 100, Uint8Array.of(1, 2, 3));
  return slab;
}
const contents = (m: Machine, pfn: number): number[] => [...m.read(toPfn(pfn)).subarray(99, 104)];

describe('a kernel page leaves', () => {
  it('KR1 R1 its address leads to the new frame, with its contents; the block goes, and its memory', () => {
    const m = world({ contents: 'bytes' });
    const slab = withSlab(m);
    expect(m.fork().offline(b33)).toMatchObject({ ok: false, error: { reason: 'unmovable' } });

    unplug(m);
    const k = kremap(m);
    const pfn = frameOf(m, slab);
    expect(pfn).toBeLessThan(8 * S);
    expect(k.virtToPhys(AT)).toBe(pfn);
    expect(k.physToVirt(pfn)).toBe(AT);
    expect(k.virtToPhys(pfn)).toBe(-1); // the frame serves another address than its own
    expect(k.virtToPhys(AT + 1)).toBe(AT + 1);
    expect(contents(m, pfn)).toEqual([0, 1, 2, 3, 0]);
    expect(k.stat()).toMatchObject({ displaced: 1, splits: 1, collapses: 0, leafTables: 2, vaBlocked: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR1 it may move again, its address stays', () => {
    const m = world({ contents: 'bytes' });
    const slab = withSlab(m);
    expect(m.offline(b33, remap).ok).toBe(true);
    const first = frameOf(m, slab);
    expect(kremap(m).move(toPfn(first), toPfn(36 * S + 603))).toMatchObject({ ok: true, value: { to: 36 * S + 603 } });
    expect(kremap(m).virtToPhys(AT)).toBe(36 * S + 603);
    expect(kremap(m).virtToPhys(first)).toBe(first); // free, and its own again
    expect(kremap(m).stat()).toMatchObject({ displaced: 1, splits: 1, collapses: 0, leafTables: 2 });
    expect(contents(m, 36 * S + 603)).toEqual([0, 1, 2, 3, 0]);
    expect(m.check()).toEqual([]);
  });

  it('KR1 whoever else moves a displaced page: its address follows', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    expect(m.offline(b33, remap).ok).toBe(true);
    const from = m.sections.indexOf(toPfn(frameOf(m, slab)));
    const to = m.sections.indexOf(allocAt(m, holder(m, 'anonymous'), 38 * S + 900));
    m.unhold(to, 0);
    m.sections.vacate(to, 0);
    m.relocate(from, to, 0);
    const source = m.poolAt(from);
    source?.alloc.freeToArea(from - source.base, 0);
    expect(kremap(m).virtToPhys(AT)).toBe(38 * S + 900);
    expect(kremap(m).stat()).toMatchObject({ displaced: 1, splits: 1, collapses: 0, leafTables: 2, tableFrames: 65 });
    expect(m.check()).toEqual([]);
  });

  it('KR2 when it is freed its address is nobody’s, the leaf collapses and the tables go', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    const before = m.pools.map((p) => p.managed).join();
    unplug(m);
    m.free(toPfn(frameOf(m, slab)));
    expect(kremap(m).stat()).toMatchObject({ displaced: 0, splits: 1, collapses: 1, leafTables: 0, tableFrames: 0 });
    plug(m, 'kernel');
    expect(m.pools.map((p) => p.managed).join()).toBe(before);
    expect(m.check()).toEqual([]);
  });

  it('KR14 copies have addresses of their own', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    const before = m.snapshot();
    expect(m.offline(b33, remap).ok).toBe(true);
    const pfn = frameOf(m, slab);
    const copy = m.fork();
    m.free(toPfn(pfn));
    expect(kremap(m).stat().displaced).toBe(0);
    expect(kremap(copy).virtToPhys(AT)).toBe(pfn);
    copy.free(toPfn(pfn));
    expect([...copy.check(), ...m.check()]).toEqual([]);
    m.restore(before);
    expect(kremap(m).virtToPhys(AT)).toBe(AT);
    expect(m.check()).toEqual([]);
  });
});

describe('the protocol', () => {
  it.each(KREMAP_STEPS)('KR3 a failure at %s leaves everything as it was', (step) => {
    const m = world({ contents: 'bytes' });
    const slab = withSlab(m);
    const asked: string[] = [];
    m.faultAt = (point) => {
      asked.push(point);
      return point === `kremap.${step}`;
    };
    const reason = step === 'reserve' ? 'no-memory' : step === 'verify' ? 'raced' : 'fault';
    expect(kremap(m).move(toPfn(AT), toPfn(36 * S + 600))).toMatchObject({ ok: false, error: { reason } });
    const tries = step === 'verify' ? 3 : 1;
    expect(asked).toEqual(
      Array.from({ length: tries }, () => KREMAP_FAULTS.slice(0, KREMAP_STEPS.indexOf(step) + 1)).flat(),
    );
    expect(frameOf(m, slab)).toBe(AT);
    expect(contents(m, AT)).toEqual([0, 1, 2, 3, 0]);
    m.faultAt = undefined;
    // Holders that were made for the tables have no page; all else is as it was.
    expect(kremap(m).stat()).toMatchObject({
      displaced: 0,
      tableFrames: 0,
      splitLeaves: 0,
      refused: new Map([[reason, 1]]),
    });
    expect(m.check()).toEqual([]);
    const whole = allocAt(m, slab, 36 * S + 600);
    expect(contents(m, whole)).toEqual([0, 0, 0, 0, 0]); // nothing of the copy is left behind
    m.free(whole);
  });

  it('KR3 a page that changes under the copy is tried again', () => {
    const m = world({ contents: 'bytes' });
    const slab = withSlab(m);
    let writes = 2;
    m.faultAt = (point) => {
      if (point === 'kremap.copy' && writes-- > 0) m.write(toPfn(AT), 100, Uint8Array.of(9, writes));
      return false;
    };
    expect(kremap(m).move(toPfn(AT)).ok).toBe(true);
    expect(contents(m, frameOf(m, slab))).toEqual([0, 9, 0, 3, 0]);
    expect(kremap(m).stat().aborts).toBe(2);
    expect(m.check()).toEqual([]);
  });

  it('KR6 stacks and the kernel image move while all CPUs stand still; slab does not stop them', () => {
    const m = world({ cpus: 4 });
    allocAt(m, holder(m, 'slab'), AT);
    expect(kremap(m).move(toPfn(AT), toPfn(36 * S + 600)).ok).toBe(true);
    expect(kremap(m).stat()).toMatchObject({ stopWindows: 0, maxStopPages: 0, shootdowns: 1, ipis: 3 });
    allocAt(m, holder(m, 'stack'), AT + 3, 0);
    allocAt(m, holder(m, 'reserved', 'K'), 34 * S + 512, 9);
    expect(kremap(m).evacuate(range(33 * S, 35 * S))).toMatchObject({ ok: true, value: { left: [] } });
    expect(kremap(m).stat()).toMatchObject({ stopWindows: 2, maxStopPages: 512, pages: { K: 514 } });
    expect(m.check()).toEqual([]);
  });
});

describe('classes', () => {
  it.each([
    ['vmalloc', 'V'],
    ['pagetable', 'T'],
    ['driver', 'H'],
  ] as const)('KR4 %s (%s): the entry is rewritten, no address of the direct map is displaced', (cls, kernel) => {
    const m = world({ cpus: 2 });
    const h = holder(m, cls, kernel);
    allocAt(m, h, AT);
    expect(m.offline(b33, remap).ok).toBe(true);
    const stat = kremap(m).stat();
    expect(stat).toMatchObject({ displaced: 0, splits: 0, tableFrames: 0, moves: 1 });
    expect(stat.pages[kernel]).toBe(1);
    expect(stat.entries[kernel]).toBe(1);
    expect(stat.rootLoads).toBe(kernel === 'T' ? 2 : 0); // its first page is the root of its tables
    expect(kremap(m).physToVirt(frameOf(m, h))).toBe(frameOf(m, h));
    expect(m.check()).toEqual([]);
  });

  it.each([
    ['reserved', 'hard-pinned', 'EBUSY'],
    ['unknown', 'untyped', 'EOPNOTSUPP'],
    ['driver', 'relinquish', 'EBUSY'],
    ['memmap', 'hosts', 'EBUSY'],
    ['anonymous', 'bad-argument', 'EINVAL'],
  ] as const)('KR10 move refuses %s: %s, %s', (cls, reason, errno) => {
    const m = world();
    allocAt(m, holder(m, cls), AT);
    expect(kremap(m).move(toPfn(AT))).toMatchObject({ ok: false, error: { reason, errno } });
    expect(kremap(m).stat().refused).toEqual(new Map([[reason, 1]]));
    expect(m.check()).toEqual([]);
  });

  it.each([
    ['reserved', 'hard-pinned'],
    ['unknown', 'untyped'],
    ['driver', 'unmovable'],
    ['gigantic', 'unmovable'],
  ] as const)('KR4 an offline says why %s stays: %s', (cls, cause) => {
    const m = world();
    allocAt(m, holder(m, cls), AT);
    const r = m.offline(b33, remap);
    expect(r).toMatchObject({ ok: false, error: { reason: 'unmovable', blockers: [{ startPfn: AT, cause }] } });
    expect(m.check()).toEqual([]);
  });

  it('KR4 pages that their owner moves are left to the owner: no address is displaced', () => {
    const m = world();
    const slab = m.addHolder({ class: 'slab', name: 'movable objects', moves: true });
    allocAt(m, slab, AT);
    expect(m.offline(b33, remap).ok).toBe(true);
    expect(kremap(m).stat().moves).toBe(0);
    expect(m.check()).toEqual([]);
  });

  it('KR10 a pin, a frame that is free, one that is none, a target that is taken', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    const k = kremap(m);
    expect(k.move(toPfn(AT + 1))).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });
    expect(k.move(toPfn(100 * S))).toMatchObject({ ok: false, error: { errno: 'ENXIO' } });
    expect(k.move(toPfn(AT), toPfn(AT))).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });
    m.pin(toPfn(AT));
    expect(k.move(toPfn(AT))).toMatchObject({ ok: false, error: { reason: 'in-use', errno: 'EBUSY' } });
    m.unpin(toPfn(AT));
    expect(k.move(toPfn(AT)).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });
});

describe('targets', () => {
  const twoNodes = (): Machine =>
    world({
      ram: [
        { start: toPfn(0), end: toPfn(8 * S), node: toNodeId(0) },
        { start: toPfn(8 * S), end: toPfn(16 * S), node: toNodeId(1) },
      ],
      movableStart: new Map([[toNodeId(1), toPfn(12 * S)]]),
    });

  it('KR5 the own node first, then the nearest; a kernel zone, never Movable', () => {
    const m = twoNodes();
    const slab = holder(m, 'slab');
    allocAt(m, slab, 9 * S + 5);
    expect(m.offline(toBlockId(9), remap).ok).toBe(true);
    expect(m.frame(toPfn(frameOf(m, slab)))).toMatchObject({ pool: { node: 1, zone: 1 } });
    // Node 1 has nothing left but Movable.
    const eater = m.addHolder({ class: 'slab', name: 'eater', node: toNodeId(1) });
    while (m.alloc(eater, toOrder(10), { thisNode: true }) >= 0);
    while (m.alloc(eater, toOrder(0), { thisNode: true }) >= 0);
    expect(kremap(m).move(toPfn(frameOf(m, slab))).ok).toBe(true);
    const there = m.frame(toPfn(frameOf(m, slab)));
    expect(there).toMatchObject({ pool: { node: 0 } });
    expect(m.check()).toEqual([]);
  });

  it('KR5 a kernel page that lies in Movable goes to a kernel zone', () => {
    const m = twoNodes();
    const slab = holder(m, 'slab');
    allocAt(m, slab, 13 * S + 5);
    expect(m.offline(toBlockId(13), remap).ok).toBe(true);
    expect(m.frame(toPfn(frameOf(m, slab)))).toMatchObject({ pool: { name: 'DMA32', node: 1 } });
    expect(m.check()).toEqual([]);
  });

  it('KR5 a large allocation moves as one, or not at all', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, 33 * S + 1024, 10);
    expect(m.fork().offline(b33, remap).ok).toBe(true);
    // No run of its order anywhere else: every chunk of memory has a page in its middle.
    const eater = holder(m, 'slab');
    const dust = holder(m, 'anonymous');
    for (let pfn = 512; pfn < 40 * S; pfn += 1024) {
      const at = m.sections.indexOf(toPfn(pfn));
      if (at >= 0 && m.frame(toPfn(pfn)).state === 'free') allocAt(m, dust, pfn);
    }
    while (m.alloc(eater, toOrder(10)) >= 0);
    const before = m.digest();
    const r = m.offline(b33, remap);
    expect(r).toMatchObject({ ok: false, error: { reason: 'no-target' } });
    expect(m.digest()).toBe(before);
    expect(kremap(m).move(toPfn(33 * S + 1024))).toMatchObject({ ok: false, error: { errno: 'ENOMEM' } });
    expect(m.check()).toEqual([]);
  });
});

describe('leaves', () => {
  it('KR7 s pages in d leaves are d splits; the target’s leaf stays large', () => {
    const m = world();
    const slab = holder(m, 'slab');
    const leaves = [3, 7, 8, 20, 63];
    for (const leaf of leaves) {
      for (let i = 0; i < 10; i++) allocAt(m, slab, 33 * S + leaf * PAGEBLOCK_PAGES + i * 37);
    }
    expect(m.offline(b33, remap).ok).toBe(true);
    const { splits, splitLeaves, displaced, tlb, splits1G, tableFrames } = kremap(m).stat();
    expect({ splits, splitLeaves, displaced }).toEqual({ splits: 5, splitLeaves: 5, displaced: 50 });
    expect(tlb.leaves).toBe(16 * 64);
    expect(tlb.boundPpm).toBeLessThanOrEqual(Math.ceil((5 / tlb.leaves) * 45_000));
    expect(splits1G).toBe(0); // hosts its own struct pages: mapped block by block
    expect(tableFrames).toBe(2 * 32 + 5);
    expect(m.check()).toEqual([]);
  });

  it('KR7 R4 R5 a leaf of 1 GiB is split first, and becomes one again last', () => {
    const m = world();
    const slab = holder(m, 'slab');
    for (const at of [S + 5, S + 6, S + 600]) allocAt(m, slab, at);
    expect(m.offline(toBlockId(1), remap).ok).toBe(true);
    expect(kremap(m).stat()).toMatchObject({ splits: 2, splits1G: 1, splitLeaves: 2, tableFrames: 32 * 2 + 2 + 1 });
    expect(kremap(m).stat().tableBytes).toBe(2 * 131072 + 3 * 4096);
    m.forEachFrameOf(slab, (head) => m.free(head));
    expect(kremap(m).stat()).toMatchObject({ collapses: 2, collapses1G: 1, tableFrames: 0, tableBytes: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR8 a whole leaf goes to a free 2 MiB, offset by offset, and is not split', () => {
    const m = world();
    const slab = holder(m, 'slab');
    const leaf = 33 * S + 9 * PAGEBLOCK_PAGES;
    for (const [off, order] of [
      [0, 0],
      [8, 3],
      [511, 0],
    ] as const) {
      allocAt(m, slab, leaf + off, order);
    }
    allocAt(m, holder(m, 'vmalloc'), leaf + 100);
    expect(m.offline(b33, { evictors: [remapEvictor({ policy: 'whole-leaf' })] }).ok).toBe(true);
    const base = frameOf(m, slab);
    expect(base % PAGEBLOCK_PAGES).toBe(0);
    expect([frameOf(m, slab, 1) - base, frameOf(m, slab, 2) - base]).toEqual([8, 511]);
    expect(kremap(m).stat()).toMatchObject({ displaced: 10, splits: 0, splitLeaves: 0, wholeLeaves: 1 });
    expect(kremap(m).stat().tlb.boundPpm).toBe(0);
    expect(m.check()).toEqual([]);
    // One of its pages goes elsewhere: now it is split.
    expect(kremap(m).move(toPfn(base)).ok).toBe(true);
    expect(kremap(m).stat()).toMatchObject({ displaced: 10, splits: 1, splitLeaves: 1, wholeLeaves: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR8 without a free 2 MiB, or with a page in it that cannot move now, pages go one by one', () => {
    const m = world();
    const slab = holder(m, 'slab');
    const leaf = 33 * S + 9 * PAGEBLOCK_PAGES;
    allocAt(m, slab, leaf);
    allocAt(m, slab, leaf + 1);
    m.pin(toPfn(leaf + 1));
    const r = kremap(m).evacuate(section33, { policy: 'whole-leaf', partial: true });
    expect(r).toMatchObject({ ok: true, value: { pages: 1, left: [{ startPfn: leaf + 1, cause: 'pinned' }] } });
    expect(kremap(m).stat()).toMatchObject({ splits: 1, wholeLeaves: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR12 the kernel image has two aliases: both are split, moved together or refused by policy, never half', () => {
    const m = world();
    const image = holder(m, 'reserved', 'K');
    allocAt(m, image, 33 * S + 512, 9);
    allocAt(m, image, 33 * S + 1024, 9);
    allocAt(m, image, 33 * S + 1536, 0);
    const before = m.digest();
    const refused = m.offline(b33, { evictors: [remapEvictor({ image: 'refuse' })] });
    expect(refused).toMatchObject({ ok: false, error: { reason: 'unmovable', blockers: [{ cause: 'reserved' }] } });
    expect(m.digest()).toBe(before);
    expect(m.offline(b33, remap).ok).toBe(true);
    expect(kremap(m).stat()).toMatchObject({ displaced: 1025, splits: 6, stopWindows: 3, maxStopPages: 512 });
    expect(m.check()).toEqual([]);
  });

  it('KR12 a page moved by hand out of a pageblock that somebody isolated: its frame is not given to others', () => {
    const m = world();
    const slab = holder(m, 'slab');
    const pfn = allocAt(m, slab, 33 * S + 512);
    const work = m.beginOffline(b33, remap);
    while (work.stage !== 'notify') work.step();
    expect(kremap(m).move(pfn).ok).toBe(true);
    work.cancel(); // it was not prepared: nothing brings the page home
    expect(kremap(m).stat()).toMatchObject({ displaced: 1, vaBlocked: 1 });
    expect(m.check()).toEqual([]);
    expect(kremap(m).home({ start: toPfn(33 * S), end: toPfn(34 * S) })).toEqual({ pages: 1, left: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR12 KR13 an offline in steps that is given up brings the image home, all of it', () => {
    const m = world();
    const image = holder(m, 'reserved', 'K');
    allocAt(m, image, 33 * S + 512, 9);
    allocAt(m, image, 33 * S + 1024, 9);
    const work = m.beginOffline(b33, { ...remap, batch: 1 });
    while (kremap(m).stat().displaced === 0) work.step();
    expect(kremap(m).stat().displaced).toBe(512);
    work.cancel();
    expect(work.refusal?.reason).toBe('interrupted');
    expect(kremap(m).stat()).toMatchObject({ displaced: 0, splitLeaves: 0, vaBlocked: 0 });
    expect(frameOf(m, image)).toBe(33 * S + 512);
    expect(m.check()).toEqual([]);
  });
});

describe('home', () => {
  it('KR9 memory that comes back: the page comes home first, its address is identity again', () => {
    const m = world({ contents: 'bytes' });
    const slab = withSlab(m);
    const before = m.pools.map((p) => `${p.managed}/${p.present}/${p.alloc.nrFree()}`).join();
    unplug(m);
    plug(m, 'kernel');
    expect(frameOf(m, slab)).toBe(AT);
    expect(kremap(m).virtToPhys(AT)).toBe(AT);
    expect(contents(m, AT)).toEqual([0, 1, 2, 3, 0]);
    expect(kremap(m).stat()).toMatchObject({ displaced: 0, splitLeaves: 0, leafTables: 0, tableFrames: 0, home: 1 });
    expect(m.pools.map((p) => `${p.managed}/${p.present}/${p.alloc.nrFree()}`).join()).toBe(before);
    expect(m.check()).toEqual([]);
  });

  it('KR9 in Movable it does not come home: the frame whose address is taken stays out of use, counted', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    unplug(m);
    plug(m, 'movable');
    expect(kremap(m).stat()).toMatchObject({ displaced: 1, vaBlocked: 1 });
    expect(m.frame(toPfn(AT))).toMatchObject({ state: 'used', class: 'unplugged' });
    expect(kremap(m).home(section33)).toEqual({ pages: 0, left: 1 });
    expect(m.check()).toEqual([]);
    // The block can go again as it is, and the frame is free when the page dies.
    expect(m.fork().offline(b33).ok).toBe(true);
    m.free(toPfn(frameOf(m, slab)));
    expect(m.frame(toPfn(AT)).state).toBe('free');
    expect(kremap(m).stat()).toMatchObject({ displaced: 0, vaBlocked: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR9 a page that is pinned when its memory comes back comes home when it is asked later', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    unplug(m);
    m.pin(toPfn(frameOf(m, slab)));
    plug(m, 'kernel');
    expect(kremap(m).stat().vaBlocked).toBe(1);
    expect(kremap(m).home(section33)).toEqual({ pages: 0, left: 1 });
    m.unpin(toPfn(frameOf(m, slab)));
    expect(kremap(m).home(section33)).toEqual({ pages: 1, left: 0 });
    expect(frameOf(m, slab)).toBe(AT);
    expect(kremap(m).stat()).toMatchObject({ displaced: 0, vaBlocked: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR9 a held frame goes with its block, and is home for its page when it comes online again', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    expect(kremap(m).evacuate(section33).ok).toBe(true);
    expect(kremap(m).stat().vaBlocked).toBe(1);
    expect(m.offline(b33).ok).toBe(true); // nothing of the kernel is in it any more
    expect(m.check()).toEqual([]);
    expect(m.online(b33, 'kernel').ok).toBe(true);
    expect(frameOf(m, slab)).toBe(AT);
    expect(kremap(m).stat()).toMatchObject({ displaced: 0, vaBlocked: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR9 a block that holds its struct pages where the address is taken: they stay, and so does the page', () => {
    const m = world();
    const slab = holder(m, 'slab');
    // The head of block 33 holds struct pages now; as a block without them, a slab page may lie there.
    unplug(m);
    expect(m.addMemory({ start: toPfn(32 * S), end: toPfn(40 * S) }, toNodeId(0)).ok).toBe(true);
    for (let b = 32; b < 40; b++) expect(m.online(toBlockId(b), 'kernel').ok).toBe(true);
    allocAt(m, slab, 33 * S + 7);
    unplug(m);
    plug(m, 'kernel');
    expect(m.frame(toPfn(33 * S + 7))).toMatchObject({ class: 'memmap' });
    expect(kremap(m).stat()).toMatchObject({ displaced: 1, vaBlocked: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR13 an offline that is given up: what had moved is home before the pageblocks are used again; a pin keeps one away', () => {
    const m = world({ contents: 'bytes' });
    const slab = withSlab(m);
    allocAt(m, slab, AT + 1);
    const work = m.beginOffline(b33, remap);
    while (work.stage !== 'dissolve') work.step();
    m.pin(toPfn(frameOf(m, slab, 1)));
    m.faultAt = () => true; // an undo asks nobody
    work.cancel();
    m.faultAt = undefined;
    expect(frameOf(m, slab)).toBe(AT);
    expect(contents(m, AT)).toEqual([0, 1, 2, 3, 0]);
    expect(kremap(m).stat()).toMatchObject({ displaced: 1, vaBlocked: 1 });
    expect(m.check()).toEqual([]);
  });

  it('KR13 a strict offline that is refused leaves the machine as it was', () => {
    const m = world();
    allocAt(m, holder(m, 'slab'), AT);
    const anon = allocAt(m, holder(m, 'anonymous'), AT + 9);
    m.pin(anon);
    const before = m.digest();
    expect(m.offline(b33, remap)).toMatchObject({ ok: false, error: { reason: 'stuck' } });
    expect(m.digest()).toBe(before);
    expect(m.check()).toEqual([]);
  });
});

describe('evacuate', () => {
  const classes: PageClass[] = ['slab', 'vmalloc', 'pagetable', 'stack', 'slab-reclaimable'];
  const scattered = (m: Machine) =>
    classes.map((cls, n) => {
      const h = holder(m, cls);
      for (let i = 0; i < 20; i++) allocAt(m, h, 33 * S + 2048 + i * 1001 + n);
      return h;
    });

  it('KR11 everything of K V T H goes, everything else is left to migration; the frames of K are held', () => {
    const m = world();
    scattered(m);
    allocAt(m, holder(m, 'anonymous'), AT + 2);
    expect(kremap(m).evacuate(section33)).toEqual({ ok: true, value: { pages: 100, left: [] } });
    expect(kremap(m).stat()).toMatchObject({ displaced: 60, vaBlocked: 60, pages: { K: 60, V: 20, T: 20, H: 0 } });
    expect(m.check()).toEqual([]);
    expect(m.offline(b33).ok).toBe(true); // Linux's offline: no help needed any more
    expect(m.check()).toEqual([]);
  });

  it('KR11 KR9 a page does not come home into memory that is being emptied', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    expect(kremap(m).move(toPfn(AT), toPfn(AT + 5000)).ok).toBe(true); // its own frame, in the same block, is held
    expect(kremap(m).evacuate(section33).ok).toBe(true);
    const at = frameOf(m, slab);
    expect(at < 33 * S || at >= 34 * S).toBe(true);
    expect(m.offline(b33, remap).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('KR11 all or nothing: one page that stays brings all others back', () => {
    const m = world();
    scattered(m);
    const x = allocAt(m, holder(m, 'reserved'), 33 * S + 32000);
    const places = placesOf(m);
    expect(kremap(m).evacuate(section33)).toMatchObject({
      ok: false,
      error: { reason: 'hard-pinned', blockers: [{ startPfn: x }] },
    });
    expect(placesOf(m)).toEqual(places);
    expect(kremap(m).stat()).toMatchObject({ displaced: 0, vaBlocked: 0, tableFrames: 0 });
    expect(m.check()).toEqual([]);
    const r = kremap(m).evacuate(section33, { partial: true, policy: 'whole-leaf' });
    expect(r).toMatchObject({ ok: true, value: { pages: 100, left: [{ startPfn: x, cause: 'hard-pinned' }] } });
    expect(m.check()).toEqual([]);
  });

  it('KR11 KR8 whole leaves that went come back as well', () => {
    const m = world();
    scattered(m);
    allocAt(m, holder(m, 'unknown'), 33 * S + 32000);
    const places = placesOf(m);
    const r = kremap(m).evacuate(section33, { policy: 'whole-leaf' });
    expect(r).toMatchObject({ ok: false, error: { reason: 'untyped' } });
    expect(placesOf(m)).toEqual(places);
    expect(kremap(m).stat()).toMatchObject({ displaced: 0, vaBlocked: 0, tableFrames: 0, wholeLeaves: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR11 the deadline: nothing has moved, or with `partial` what had', () => {
    const m = world();
    scattered(m);
    const places = placesOf(m);
    const over = (n: number) => {
      let left = n;
      return () => left-- <= 0;
    };
    expect(kremap(m).evacuate(section33, { deadline: over(7) })).toMatchObject({
      ok: false,
      error: { errno: 'EINTR' },
    });
    expect(placesOf(m)).toEqual(places);
    expect(kremap(m).evacuate(section33, { deadline: over(7), partial: true })).toMatchObject({
      ok: true,
      value: { pages: 7 },
    });
    expect(m.check()).toEqual([]);
  });

  it('KR11 refuses what is no range, and memory that is not online throughout', () => {
    const m = world();
    const k = kremap(m);
    expect(k.evacuate(range(AT, AT))).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });
    expect(k.evacuate(range(39 * S, 41 * S))).toMatchObject({ ok: false, error: { errno: 'ENXIO' } });
    expect(m.offline(b33).ok).toBe(true);
    expect(k.evacuate(section33)).toMatchObject({ ok: false, error: { errno: 'ENXIO' } });
    expect(m.check()).toEqual([]);
  });
});

/** Every allocation's frame, by holder and index. */
function placesOf(m: Machine): string[] {
  const out: string[] = [];
  for (let h = 0; h < m.holders.length; h++) {
    m.holders.forEachMember(h, (frame, index) => out.push(`${h}:${index}@${m.sections.pfnOf(frame)}`));
  }
  return out;
}
