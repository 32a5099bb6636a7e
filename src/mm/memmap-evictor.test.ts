// Struct pages leave a block that goes offline. Rules in docs/spec/memmap-move.md.

import { describe, expect, it } from 'vitest';
import { type HolderId, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { pfnOfSlot, slotAt } from './memmap-frames.ts';
import { MEMMAP_FAULT_POINTS, memmapCounters, moveMemmap } from './memmap-move.ts';
import { blockOf, inHead, leafOf, leafPfn, leavesOf, memmapStat } from './memmap-where.ts';
import type { AddOptions, MemoryRange } from './memory-add.ts';

const S = PAGES_PER_SECTION;
const node0 = toNodeId(0);
const node1 = toNodeId(1);
const b = toBlockId;
const sections = (first: number, end: number): MemoryRange => ({ start: toPfn(first * S), end: toPfn(end * S) });
const evictors = [memmapEvictor()];

/** Node 0: sections 0 to 8; node 1: 8 to 16. */
const boot = (rest: Partial<MachineSpec> = {}): Machine =>
  Machine.boot({
    ram: [
      { ...sections(0, 8), node: node0 },
      { ...sections(8, 16), node: node1 },
    ],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    hotplug: { memmapOnMemory: 'Y', autoOnline: 'offline' },
    ...rest,
  });
const must = <T>(r: { ok: true; value: T } | { ok: false; error: unknown }): T => {
  if (!r.ok) throw new Error(`refused: ${JSON.stringify(r.error)}`);
  return r.value;
};
const add = (m: Machine, first: number, end: number, options: AddOptions = {}) =>
  must(m.addMemory(sections(first, end), node1, options));
const managed = (m: Machine): number => m.pools.reduce((n, p) => n + p.managed, 0);

describe('what lies in the block', () => {
  it('LM11 kernel memmap of other memory: Linux refuses (EBUSY, unmovable), with the evictor the block goes', () => {
    const m = boot();
    add(m, 32, 36);
    const there = blockOf(m, leafPfn(m, leafOf(m, 34)?.leaf as never));
    const linux = m.offline(there);
    expect(linux).toMatchObject({ error: { reason: 'unmovable', errno: 'EBUSY' } });
    const causes = linux.ok ? [] : linux.error.blockers.map((x) => [x.class, x.cause]);
    expect(causes).toEqual([
      ['pagetable', 'unmovable'],
      ['memmap', 'unmovable'],
    ]);
    const done = must(m.offline(there, { evictors }));
    expect(done.migratedPages).toBe(4 * 512 + 1); // four leaves, and the table of the GiB
    expect([...leavesOf(m)].some(({ leaf }) => blockOf(m, leafPfn(m, leaf)) === there)).toBe(false);
    expect(memmapCounters(m)).toMatchObject({ moves: 5, copiedPages: 4 * 512 + 1, shootdowns: 5 });
    expect(m.check()).toEqual([]);
    must(m.removeMemory(sections(32, 36))); // tables are found where they are now
    expect(m.check()).toEqual([]);
  });

  it('LM11 single frames of a leaf move one by one and stay one leaf; when one entry mapped them, they get a table first', () => {
    const m = boot();
    const user = m.addHolder({ class: 'anonymous', name: 'user' });
    const all: number[] = [];
    for (let pfn = m.alloc(user, toOrder(0)); pfn >= 0; pfn = m.alloc(user, toOrder(0))) all.push(pfn);
    for (const pfn of all) if (pfn % 512 !== 7) m.free(toPfn(pfn));
    add(m, 32, 33);
    const single = leafOf(m, 32)?.leaf;
    expect(single?.slots.length).toBe(512);
    const scattered = blockOf(m, pfnOfSlot(m, single?.slots[0] as number));
    must(m.offline(scattered, { evictors }));
    expect(leafOf(m, 32)?.leaf).toEqual(single); // by slots: the same leaf
    expect(m.check()).toEqual([]);
    must(moveMemmap(m, b(32), { range: sections(4, 5) }));
    expect(leafOf(m, 32)?.leaf.table).toBe(-1);
    must(m.offline(b(4), { evictors }));
    expect(leafOf(m, 32)?.leaf.table).toBeGreaterThanOrEqual(0);
    expect(m.check()).toEqual([]);
  });

  it('LM11 nowhere to go, and a pin: named, in bounded rounds, and the machine is as it was', () => {
    const m = boot();
    add(m, 32, 33);
    const leaf = leafOf(m, 32)?.leaf as { slots: readonly number[] };
    const pfn = pfnOfSlot(m, leaf.slots[0]);
    m.pin(pfn);
    const digest = m.digest();
    const pinned = m.offline(blockOf(m, pfn), { evictors });
    expect(pinned).toMatchObject({ error: { reason: 'stuck', blockers: [{ startPfn: pfn, cause: 'pinned' }] } });
    expect(m.digest()).toBe(digest);
    m.unpin(pfn);
    const hog = m.addHolder({ class: 'slab', name: 'hog' });
    for (let order = 9; order >= 0; order -= 9) {
      // Everything but the block itself is full.
      for (let got = m.alloc(hog, toOrder(order)); got >= 0; got = m.alloc(hog, toOrder(order)));
    }
    const own: number[] = [];
    m.forEachFrameOf(hog, (head) => {
      if (blockOf(m, head) === blockOf(m, pfn)) own.push(head);
    });
    for (const head of own) m.free(toPfn(head));
    const full = m.digest();
    const refused = m.offline(blockOf(m, pfn), { evictors });
    expect(refused).toMatchObject({
      error: {
        reason: 'no-target',
        errno: 'EINTR',
        blockers: [
          { cause: 'no-target', class: 'pagetable' },
          { cause: 'no-target', class: 'memmap' },
        ],
      },
    });
    expect(m.digest()).toBe(full);
    expect(m.check()).toEqual([]);
  });

  it('LM12 boot memmap in whole leaves moves, unmanaged as it was; smaller pieces and other reserved memory stay', () => {
    const m = boot({
      reserved: [
        { ...{ start: toPfn(9 * S), end: toPfn(9 * S + 1024) }, name: 'memory map of node 1' },
        { ...{ start: toPfn(10 * S), end: toPfn(10 * S + 64) }, name: 'edge' },
      ],
    } as Partial<MachineSpec>);
    const known = m.addHolder({ class: 'reserved', name: 'boot memmap', kernel: 'M' });
    const retag = (block: number): void => {
      const found: [number, number, HolderId][] = [];
      for (let h = 0; h < m.holders.length; h++) {
        if (m.holders.specs[h].class !== 'reserved' || h === known) continue;
        m.forEachFrameOf(h as HolderId, (head, order) => {
          if (blockOf(m, head) === block) found.push([m.sections.indexOf(head), order, known]);
        });
      }
      for (const [index, order, holder] of found) {
        m.unhold(index, order);
        m.occupy(holder, index, order);
      }
    };
    expect(m.offline(b(9), { evictors })).toMatchObject({ error: { reason: 'unmovable' } }); // of unknown use: X
    retag(9);
    retag(10);
    const before = managed(m);
    const done = must(m.offline(b(9), { evictors }));
    expect(done.migratedPages).toBe(1024);
    expect(before - managed(m)).toBe(S); // the block's own frames; what came to node 1 left what is managed there
    expect(m.check()).toEqual([]);
    const edge = m.offline(b(10), { evictors });
    expect(edge).toMatchObject({
      error: { reason: 'unmovable', blockers: [{ cause: 'reserved', name: 'boot memmap' }] },
    });
    expect(m.check()).toEqual([]);
  });

  it('LM12 struct pages of which no table says more (a twin’s) move all the same', () => {
    const m = boot();
    const twin = m.addHolder({ class: 'memmap', name: 'vmemmap of a capture', node: node1 });
    const at = [toOrder(9), toOrder(0), toOrder(3)].map((order) => m.alloc(twin, order));
    const block = blockOf(m, at[0]);
    expect(at.map((pfn) => blockOf(m, pfn))).toEqual([block, block, block]);
    expect(must(m.offline(block, { evictors })).migratedPages).toBe(512 + 1 + 8);
    m.forEachFrameOf(twin, (head) => expect(blockOf(m, head)).not.toBe(block));
    expect(m.check()).toEqual([]);
  });
});

describe('faults and refusals in an offline', () => {
  const world = (): Machine => {
    const m = boot();
    add(m, 32, 36, { memmap: 'self-range' });
    for (const id of [32, 33, 34]) must(m.online(b(id), 'kernel'));
    add(m, 48, 50, { memmap: 'host-section', memmapHosts: [b(32)] });
    must(m.online(b(48), 'movable'));
    return m;
  };

  it('LM13 a step that fails once or twice is tried again; one that always fails ends it, and all is as it was', () => {
    for (const point of MEMMAP_FAULT_POINTS) {
      const m = world();
      let times = 0;
      m.faultAt = (p) => p === point && times++ < 2;
      must(m.offline(b(32), { evictors }));
      expect([times > 2, memmapCounters(m).faults[point]], point).toEqual([true, 2]);
      expect(memmapStat(m, b(32))?.guests, point).toEqual([35]); // offline: its struct pages stay in the head
      expect(m.check()).toEqual([]);

      const bad = world();
      const digest = bad.digest();
      const hosts = [...bad.hotplug.hosts];
      bad.faultAt = (p) => p === point;
      const r = bad.offline(b(32), { evictors });
      expect(r, point).toMatchObject({ error: { reason: 'hosts', errno: 'EBUSY' } });
      if (!r.ok) expect(r.error.blockers.map((x) => x.cause)).toEqual(['fault', 'fault', 'fault']);
      expect([bad.digest(), [...bad.hotplug.hosts], bad.block(b(32))?.state], point).toEqual([digest, hosts, 'online']);
      expect(bad.check()).toEqual([]);
    }
  });

  it('LM13 refused later, guests that had moved are back: an offline that nothing runs beside leaves the very machine', () => {
    const m = world();
    const slab = m.addHolder({ class: 'slab', name: 'dentry', node: node1 });
    const own: number[] = [];
    for (let pfn = m.alloc(slab, toOrder(9)); pfn >= 0; pfn = m.alloc(slab, toOrder(9))) own.push(pfn);
    const keep = own.find((pfn) => blockOf(m, pfn) === 32);
    expect(keep).toBeDefined();
    for (const pfn of own) if (pfn !== keep) m.free(toPfn(pfn));
    const state = () => [m.digest(), [...m.hotplug.hosts], memmapStat(m, b(32)), memmapCounters(m).moves];
    const before = state();
    expect(m.offline(b(32), { evictors })).toMatchObject({ error: { reason: 'unmovable' } });
    expect(state()).toEqual(before);
    // In steps, between which others may run, what moved stays moved.
    const work = m.beginOffline(b(32), { evictors });
    while (!work.finished) work.step();
    expect(work.refusal?.reason).toBe('unmovable');
    expect(memmapStat(m, b(32))).toMatchObject({ guests: [35, 49], headPages: 2048 }); // those that are offline
    expect(m.check()).toEqual([]);
  });

  it('LM13 guests: all moves those of blocks that are offline, too', () => {
    const m = world();
    must(m.offline(b(32), { evictors: [memmapEvictor({ guests: 'all' })] }));
    expect(memmapStat(m, b(32))).toMatchObject({ guests: [], headPages: 512 });
    must(m.removeMemory(sections(32, 33)));
    expect(m.check()).toEqual([]);
  });

  it('LM13 memory that hosts itself and was moved out is found by whoever asks next: every block of the machine in turn', () => {
    const m = world();
    for (const id of [32, 33, 34, 8, 9, 48]) {
      must(m.offline(b(id), { evictors }));
      expect(m.check(), `block ${id}`).toEqual([]);
    }
    for (const { leaf } of leavesOf(m)) {
      const pfn = leafPfn(m, leaf);
      expect(inHead(m, pfn) || m.block(blockOf(m, pfn))?.state === 'online').toBe(true);
      expect(slotAt(m, pfn)).toBe(leaf.slots[0]);
    }
  });
});
