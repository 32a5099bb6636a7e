// Struct pages move: to every place, back, at every fault, while blocks come and go. Rules in docs/spec/memmap-move.md.

import { describe, expect, it } from 'vitest';
import { type BlockId, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { pfnOfSlot } from './memmap-frames.ts';
import {
  MEMMAP_FAULT_POINTS,
  MemmapMove,
  type MoveTarget,
  memmapCounters,
  memmapSequence,
  moveMemmap,
} from './memmap-move.ts';
import { leafOf, memmapStat, structPageOf } from './memmap-where.ts';
import type { AddOptions, AddReport, MemoryRange } from './memory-add.ts';

const S = PAGES_PER_SECTION;
const node0 = toNodeId(0);
const node1 = toNodeId(1);
const b = toBlockId;
const sections = (first: number, end: number): MemoryRange => ({ start: toPfn(first * S), end: toPfn(end * S) });

/** Nodes 0 and 1 with 1 GiB each, blocks of 128 MiB; adds begin at section 32. */
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
const add = (m: Machine, first: number, end: number, options: AddOptions = {}): AddReport =>
  must(m.addMemory(sections(first, end), node1, options));
const online = (m: Machine, blocks: readonly BlockId[], how: 'kernel' | 'movable' = 'movable'): void => {
  for (const id of blocks) must(m.online(id, how));
};
const counts = (m: Machine) => {
  for (const p of m.pools) p.alloc.drain();
  return {
    present: m.pools.reduce((n, p) => n + p.present, 0),
    managed: m.pools.reduce((n, p) => n + p.managed, 0),
    free: m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0),
  };
};
/** Contents of every struct page frame of a block, by its virtual address. */
const tagsOf = (m: Machine, block: BlockId): Map<string, number> => {
  const out = new Map<string, number>();
  const start = block * m.blockPages;
  for (let pfn = start; pfn < start + m.blockPages; pfn += 64) {
    const page = structPageOf(m, toPfn(pfn));
    if (page?.frame === undefined) throw new Error('no struct page');
    out.set(page.address, m.sections.metaAt(m.sections.indexOf(page.frame)) >>> 9);
  }
  return out;
};

describe('one move', () => {
  const TARGETS: readonly { name: string; target: MoveTarget; policy: string; from: AddOptions['memmap'] }[] = [
    { name: 'self-block -> kernel', from: 'self-block', target: { policy: 'kernel' }, policy: 'kernel' },
    { name: 'kernel -> self-block', from: 'kernel', target: { policy: 'self-block' }, policy: 'self-block' },
    { name: 'kernel -> self-range', from: 'kernel', target: { policy: 'self-range' }, policy: 'self-range' },
    {
      name: 'kernel -> host-section',
      from: 'kernel',
      target: { policy: 'host-section', hosts: [b(2)] },
      policy: 'host-section',
    },
    { name: 'self-range -> kernel', from: 'self-range', target: { policy: 'kernel' }, policy: 'kernel' },
    { name: 'self-range -> self-block', from: 'self-range', target: { policy: 'self-block' }, policy: 'self-block' },
    { name: 'self-block -> a range', from: 'self-block', target: { range: sections(5, 6) }, policy: 'kernel' },
    { name: 'kernel -> fallback', from: 'kernel', target: { policy: 'fallback' }, policy: 'self-block' },
    {
      name: 'self-block -> auto, gigantic',
      from: 'self-block',
      target: { policy: 'auto', gigantic: true },
      policy: 'host-section',
    },
  ];
  for (const { name, target, policy, from } of TARGETS) {
    for (const how of ['movable', 'kernel', 'offline'] as const) {
      it(`LM1 ${name}, ${how}: address and contents stay, the frames are others`, () => {
        const m = boot();
        const { blocks } = add(m, 32, 36, { memmap: from ?? 'kernel' });
        if (how !== 'offline') online(m, blocks, how);
        const guest = b(35);
        const tags = tagsOf(m, guest);
        const before = memmapStat(m, guest);
        expect(must(moveMemmap(m, guest, target))).toEqual({ block: guest, moved: 1, stayed: 0 });
        expect(m.check()).toEqual([]);
        const after = memmapStat(m, guest);
        expect(after?.policy).toBe(policy);
        expect(after?.basePfn).not.toBe(before?.basePfn);
        expect(tagsOf(m, guest)).toEqual(tags);
        // There already: nothing happens.
        expect(must(moveMemmap(m, guest, target))).toEqual({ block: guest, moved: 0, stayed: 1 });
        expect(memmapCounters(m)).toMatchObject({ moves: 1, copiedPages: 512, shootdowns: 1 });
      });
    }
  }
});

describe('faults and mixes', () => {
  const world = (memmap: AddOptions['memmap']): { m: Machine; block: BlockId } => {
    const m = boot({ blockSize: 2 ** 28 }); // two sections a block
    const { blocks } = add(m, 32, 36, { memmap: memmap ?? 'kernel' });
    online(m, blocks);
    return { m, block: b(17) };
  };
  const PAIRS = [
    ['self-block', { policy: 'kernel' }],
    ['kernel', { policy: 'self-block' }],
    ['self-range', { policy: 'kernel' }],
    ['kernel', { policy: 'host-section', hosts: [b(0)] }],
  ] as const;

  for (const [from, target] of PAIRS) {
    it(`LM2 ${from} -> ${target.policy}: a fault at any step leaves every table as it was, and is counted by its name`, () => {
      for (const point of MEMMAP_FAULT_POINTS) {
        const { m, block } = world(from);
        must(moveMemmap(m, block, target)); // what stays of a first move: types of pageblocks, per-CPU lists
        must(moveMemmap(m, block, from === 'self-range' ? { policy: 'self-range' } : { policy: from }));
        for (const p of m.pools) p.alloc.drain();
        const before = { digest: m.digest(), stat: memmapStat(m, block), counts: counts(m) };
        m.faultAt = (p) => p === point;
        expect(moveMemmap(m, block, target), point).toMatchObject({ error: { reason: 'fault', errno: 'EIO' } });
        expect({ digest: m.digest(), stat: memmapStat(m, block), counts: counts(m) }, point).toEqual(before);
        expect(memmapCounters(m).faults[point]).toBe(1);
        expect(memmapSequence(m, 34) % 2).toBe(0);
        expect(m.check()).toEqual([]);
        m.faultAt = undefined;
        expect(must(moveMemmap(m, block, target)).moved).toBe(2);
        expect(m.check()).toEqual([]);
      }
    });

    it(`LM3 ${from} -> ${target.policy}: broken off between two sections, one lies here and one there; the next move ends it`, () => {
      for (const point of MEMMAP_FAULT_POINTS) {
        const { m, block } = world(from);
        let asked = 0;
        m.faultAt = (p) => p === point && ++asked === 2;
        expect(moveMemmap(m, block, target), point).toMatchObject({ error: { reason: 'fault' } });
        expect(memmapStat(m, block)?.policy, point).toBe('mixed');
        expect(m.check()).toEqual([]);
        expect(must(moveMemmap(m, block, target))).toEqual({ block, moved: 1, stayed: 1 });
        expect(m.check()).toEqual([]);
      }
      const { m, block } = world(from);
      const move = new MemmapMove(m, block, target);
      expect(move.step()).toBe(true);
      move.cancel();
      expect(move).toMatchObject({ finished: true, moved: 1, refusal: { reason: 'interrupted', errno: 'EINTR' } });
      expect(memmapStat(m, block)?.policy).toBe('mixed');
      expect(m.check()).toEqual([]);
    });
  }

  it('LM4 between freeze and release the section says that its struct pages may not be written', () => {
    const { m, block } = world('self-block');
    const seen: string[] = [];
    m.faultAt = (point) => {
      seen.push(`${point} ${memmapSequence(m, 34)} ${memmapSequence(m, 35)}`);
      return false;
    };
    must(moveMemmap(m, block, { policy: 'kernel' }));
    expect(seen).toEqual([
      ...['memmap.reserve 0 0', 'memmap.freeze 1 0', 'memmap.copy 1 0', 'memmap.switch 1 0', 'memmap.shootdown 1 0'],
      ...['memmap.reserve 2 0', 'memmap.freeze 2 1', 'memmap.copy 2 1', 'memmap.switch 2 1', 'memmap.shootdown 2 1'],
    ]);
    expect([memmapSequence(m, 34), memmapSequence(m, 35), memmapSequence(m, 0)]).toEqual([2, 2, 0]);
    expect(m.check()).toEqual([]);
  });
});

describe('refusals', () => {
  it('LM5 each has its reason, and nothing has changed', () => {
    const m = boot();
    const { blocks } = add(m, 32, 34, { memmap: 'kernel' });
    online(m, blocks);
    add(m, 48, 49);
    const before = m.digest();
    const refused = (block: number, target: MoveTarget) => {
      const r = moveMemmap(m, b(block), target);
      return r.ok ? 'moved' : `${r.error.reason} ${r.error.errno}`;
    };
    expect(refused(99, { policy: 'kernel' })).toBe('no-such-block ENOENT');
    expect(refused(3, { policy: 'kernel' })).toBe('bad-request EINVAL'); // boot memory
    expect(refused(32, { policy: 'host-section', hosts: [] })).toBe('bad-request EINVAL');
    expect(refused(32, { policy: 'host-section', hosts: [b(32)] })).toBe('bad-request EINVAL'); // itself
    expect(refused(32, { policy: 'host-section', hosts: [b(33)] })).toBe('bad-request EINVAL'); // in Movable
    expect(refused(32, { policy: 'host-section', hosts: [b(77)] })).toBe('bad-request EINVAL');
    expect(refused(32, { range: { start: toPfn(1), end: toPfn(513) } })).toBe('unaligned EINVAL');
    expect(refused(32, { range: sections(33, 34) })).toBe('no-memory ENOMEM'); // in Movable
    expect(refused(32, { range: sections(60, 61) })).toBe('no-memory ENOMEM'); // nothing there
    expect(m.digest()).toBe(before);

    const leaf = leafOf(m, 32)?.leaf.slots[0] as number;
    m.pin(pfnOfSlot(m, leaf));
    expect(refused(32, { policy: 'self-block' })).toBe('in-use EBUSY');
    m.unpin(pfnOfSlot(m, leaf));
    expect(m.digest()).toBe(before);

    const work = m.beginOffline(b(33));
    work.step();
    expect(refused(32, { policy: 'self-block' })).toBe('busy EBUSY');
    work.cancel();
    expect(m.digest()).toBe(before);
    expect(m.check()).toEqual([]);
  });

  it('LM5 no frames: nothing free, nothing that can move out of the way', () => {
    const m = boot();
    const { blocks } = add(m, 32, 33, { memmap: 'self-block' });
    online(m, blocks);
    const hog = m.addHolder({ class: 'slab', name: 'hog' });
    for (let order = 9; order >= 0; order -= 9) while (m.alloc(hog, toOrder(order)) >= 0);
    expect(moveMemmap(m, b(32), { policy: 'kernel' })).toMatchObject({
      error: { reason: 'no-memory', errno: 'ENOMEM' },
    });
    expect(memmapStat(m, b(32))?.policy).toBe('self-block');
    expect(m.check()).toEqual([]);
  });

  it('LM5 with no pageblock free, one is emptied of what can move', () => {
    const m = boot();
    const { blocks } = add(m, 32, 33, { memmap: 'self-block' });
    online(m, blocks);
    // Every pageblock of the kernel zones has a page of a process in it, half of each is free.
    const user = m.addHolder({ class: 'anonymous', name: 'user' });
    const taken: number[] = [];
    for (let pfn = m.alloc(user, toOrder(8)); pfn >= 0; pfn = m.alloc(user, toOrder(8))) taken.push(pfn);
    for (const pfn of taken) if (pfn % 512 === 0) m.free(toPfn(pfn));
    const moved = m.vmstat.pgmigrate_success;
    expect(must(moveMemmap(m, b(32), { policy: 'kernel' })).moved).toBe(1);
    expect(m.vmstat.pgmigrate_success - moved).toBe(256);
    expect(m.check()).toEqual([]);
  });
});

describe('accounting', () => {
  it('LM6 self-block -> kernel: 512 frames a section become managed and free, as many are taken; and back', () => {
    for (const how of ['movable', 'kernel'] as const) {
      const m = boot();
      const { blocks } = add(m, 32, 36, { memmap: 'self-block' });
      online(m, blocks, how);
      const home = counts(m);
      must(moveMemmap(m, b(34), { policy: 'kernel' }));
      expect(counts(m)).toEqual({ present: home.present, managed: home.managed + 512, free: home.free });
      expect(m.blocks.vmemmapPages[m.blocks.rowOf(b(34))]).toBe(0);
      must(moveMemmap(m, b(34), { policy: 'self-block' }));
      expect(counts(m)).toEqual(home);
      expect(m.blocks.vmemmapPages[m.blocks.rowOf(b(34))]).toBe(512);
      expect(m.check()).toEqual([]);
    }
  });

  it('LM6 a self-range counts its head as managed, wherever its leaves are', () => {
    const m = boot();
    const { blocks } = add(m, 32, 36, { memmap: 'self-range' });
    online(m, blocks);
    const home = counts(m);
    for (const id of blocks) must(moveMemmap(m, id, { policy: 'kernel' }));
    expect(counts(m)).toEqual(home); // 2048 frames are free in the head, 2048 taken elsewhere
    expect(m.blocks.vmemmapPages[m.blocks.rowOf(b(32))]).toBe(0);
    for (const id of blocks) must(moveMemmap(m, id, { policy: 'self-range' }));
    expect(counts(m)).toEqual(home);
    expect(m.blocks.vmemmapPages[m.blocks.rowOf(b(32))]).toBe(2048);
    expect(m.check()).toEqual([]);
  });

  it('LM6 a block whose struct pages moved out goes offline whole, comes online whole, and takes them back while offline', () => {
    const m = boot();
    const { blocks } = add(m, 32, 33, { memmap: 'self-block' });
    online(m, blocks);
    must(moveMemmap(m, b(32), { policy: 'kernel' }));
    expect(must(m.offline(b(32))).pages).toBe(S);
    expect(must(m.online(b(32), 'movable')).pages).toBe(S);
    must(m.offline(b(32)));
    must(moveMemmap(m, b(32), { policy: 'self-block' }));
    expect(must(m.online(b(32), 'movable')).pages).toBe(S - 512);
    expect(m.check()).toEqual([]);
  });
});

describe('single frames and heads', () => {
  it('LM7 struct pages in single frames come to one pageblock, in order, and their table is free', () => {
    const m = boot({ contents: 'bytes' });
    // No free run of 2 MiB: one page of a process in each pageblock.
    const user = m.addHolder({ class: 'anonymous', name: 'user' });
    const all: number[] = [];
    for (let pfn = m.alloc(user, toOrder(0)); pfn >= 0; pfn = m.alloc(user, toOrder(0))) all.push(pfn);
    for (const pfn of all) if (pfn % 512 !== 7) m.free(toPfn(pfn));
    add(m, 32, 33);
    const single = leafOf(m, 32)?.leaf;
    expect([single?.slots.length, (single?.table ?? -1) >= 0]).toEqual([512, true]);
    single?.slots.forEach((slot, k) => {
      m.write(pfnOfSlot(m, slot), 0, Uint8Array.of(k & 255, k >> 8));
    });
    const { free } = counts(m);
    const tags = tagsOf(m, b(32));
    must(moveMemmap(m, b(32), { range: sections(4, 5) }));
    const leaf = leafOf(m, 32)?.leaf;
    expect([leaf?.slots.length, leaf?.table]).toEqual([512, -1]);
    const first = pfnOfSlot(m, leaf?.slots[0] as number);
    expect(first % 512).toBe(0);
    leaf?.slots.forEach((slot, k) => {
      expect(pfnOfSlot(m, slot)).toBe(first + k);
      expect([...m.read(toPfn(first + k)).subarray(0, 2)]).toEqual([k & 255, k >> 8]);
    });
    expect(tagsOf(m, b(32))).toEqual(tags);
    expect(counts(m).free).toBe(free + 1);
    expect(memmapCounters(m).collapses).toBe(1);
    expect(m.check()).toEqual([]);
    must(m.removeMemory(sections(32, 33)));
    expect(counts(m).free).toBe(free + 1 + 512 + 1); // the leaf, and the table of a GiB that is mapped by 2 MiB
    expect(m.check()).toEqual([]);
  });

  it('LM8 a leaf that leaves the middle of a head leaves a place for the next; the head ends when its last one leaves', () => {
    const m = boot();
    const { blocks } = add(m, 32, 36, { memmap: 'self-range' });
    online(m, blocks);
    const head = (): number => memmapStat(m, b(32))?.headPages ?? -1;
    const { free } = counts(m);
    must(moveMemmap(m, b(34), { policy: 'kernel' }));
    expect([head(), counts(m).free]).toEqual([2048, free - 512]); // kept: section 35's lies behind it
    expect(memmapStat(m, b(32))).toMatchObject({ guests: [33, 35], policy: 'self-range' });
    expect(m.check()).toEqual([]);
    must(moveMemmap(m, b(34), { policy: 'self-range' })); // home
    expect([head(), counts(m).free]).toEqual([2048, free]);
    must(moveMemmap(m, b(34), { policy: 'kernel' }));
    must(moveMemmap(m, b(35), { policy: 'kernel' }));
    expect([head(), counts(m).free]).toEqual([1024, free]);
    must(moveMemmap(m, b(33), { policy: 'kernel' }));
    expect(memmapStat(m, b(32))).toMatchObject({ headPages: 512, guests: [], policy: 'self-block' });
    expect(m.hotplug.hosts.size).toBe(0);
    expect(m.check()).toEqual([]);
  });

  it('LM8 tables in a head (pageTables: self) keep it as long as it is: places before them stay vacant', () => {
    const m = boot();
    const { blocks } = add(m, 32, 40, { memmap: 'self-block', pageTables: 'self' });
    online(m, blocks);
    const first = memmapStat(m, b(32));
    expect(first?.headPages).toBe(1024); // one table of a GiB, rounded up to a pageblock
    must(moveMemmap(m, b(32), { policy: 'kernel' }));
    expect(memmapStat(m, b(32))).toMatchObject({ headPages: 1024, policy: 'kernel' });
    must(moveMemmap(m, b(32), { policy: 'self-block' }));
    expect(memmapStat(m, b(32))).toEqual(first);
    expect(m.check()).toEqual([]);
  });
});

describe('copies', () => {
  it('LM9 a fork and a snapshot have their own places, hosts and counters', () => {
    const m = boot();
    const { blocks } = add(m, 32, 36, { memmap: 'self-range' });
    online(m, blocks);
    const snapshot = m.snapshot();
    const digest = m.digest();
    const fork = m.fork();
    for (const id of blocks) must(moveMemmap(fork, id, { policy: 'self-block' }));
    expect([fork.hotplug.hosts.size, m.hotplug.hosts.size]).toEqual([0, 1]);
    expect([memmapCounters(fork).moves, memmapCounters(m).moves]).toEqual([3, 0]);
    expect(m.digest()).toBe(digest);
    for (const id of blocks) must(moveMemmap(m, id, { policy: 'kernel' }));
    m.restore(snapshot);
    expect([memmapCounters(m).moves, memmapSequence(m, 33), m.hotplug.hosts.size]).toEqual([0, 0, 1]);
    expect(m.digest()).toBe(digest);
    expect([...m.check(), ...fork.check()]).toEqual([]);
  });
});

describe('D-4', () => {
  for (const memmap of ['kernel', 'self-block', 'self-range', 'host-section'] as const) {
    it(`LM10 ${memmap}: a thousand times added, moved about and removed: every counter returns`, () => {
      const m = boot();
      const range = sections(32, 35);
      const total = (): number => m.hotplug.ranges.reduce((n, r) => n + r.memmapPages, 0);
      const cycle = (k: number): void => {
        const { blocks } = add(m, 32, 35, { memmap });
        expect(total()).toBe(3 * 512);
        const guest = blocks[k % 3] as BlockId;
        must(m.online(guest, k % 2 === 0 ? 'movable' : 'kernel'));
        const to = (['kernel', 'self-block', 'self-range', 'host-section'] as const)[k % 4] as 'kernel';
        const hosts = to === ('host-section' as string) ? { hosts: [b(k % 8)] } : {};
        must(moveMemmap(m, guest, { policy: to, ...hosts }));
        if (k % 5 === 0) must(moveMemmap(m, blocks[(k + 1) % 3] as BlockId, { policy: 'kernel' }));
        const work = m.beginOffline(guest, { evictors: [memmapEvictor()] });
        while (!work.finished) work.step();
        expect(work.stage).toBe('done');
        must(m.removeMemory(range));
      };
      const bare = counts(m);
      for (let k = 0; k < 120; k++) cycle(k); // all there is: every host's section has columns now
      const { length } = m.holders;
      const bytes = m.bytes();
      for (let k = 120; k < 1000; k++) cycle(k);
      expect(counts(m)).toEqual(bare);
      expect(total()).toBe(0);
      expect([m.hotplug.ranges.length, m.hotplug.hosts.size]).toEqual([0, 0]);
      expect(m.holders.length).toBe(length);
      expect(m.bytes()).toBe(bytes);
      for (let h = 0; h < m.holders.length; h++) expect(m.holders.pages[h]).toBe(0);
      expect(memmapSequence(m, 32)).toBe(0);
      expect(m.check()).toEqual([]);
    });
  }
});
