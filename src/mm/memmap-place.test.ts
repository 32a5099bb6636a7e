// Where the struct pages of an add come to: hosts, fallback, auto; what a host may and may not. Rules in
// docs/spec/memmap-move.md.

import { describe, expect, it } from 'vitest';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { moveMemmap } from './memmap-move.ts';
import { leavesOf, memmapStat, placeOf } from './memmap-where.ts';
import type { AddOptions, AddReport, MemoryRange } from './memory-add.ts';
import { ejectDimm, plugDimm } from './memory-device.ts';

const S = PAGES_PER_SECTION;
const GIB = 8 * S;
const node0 = toNodeId(0);
const node1 = toNodeId(1);
const b = toBlockId;
const sections = (first: number, end: number): MemoryRange => ({ start: toPfn(first * S), end: toPfn(end * S) });

const boot = (rest: Partial<MachineSpec> = {}): Machine =>
  Machine.boot({
    ram: [
      { ...sections(0, 32), node: node0 },
      { ...sections(32, 64), node: node1 },
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
const free = (m: Machine): number =>
  m.pools.reduce((n, p) => {
    p.alloc.drain();
    return n + p.alloc.nrFree();
  }, 0);
const why = (r: { ok: boolean; error?: { reason: string; errno: string } }): string =>
  r.ok ? 'done' : `${r.error?.reason} ${r.error?.errno}`;

describe('hosts', () => {
  it('HB1 without a name: the lowest pageblocks of the node that are free, and the added blocks stay whole', () => {
    const m = boot();
    const before = free(m);
    const report = add(m, 64, 144, { memmap: 'host-section' });
    expect(report).toMatchObject({ memmap: 'host-section', memmapWhy: undefined, kernelPages: 80 * 512 });
    expect(free(m)).toBe(before - report.kernelPages);
    expect(report.blocks.every((id) => memmapStat(m, id)?.headPages === 0)).toBe(true);
    // 64 leaves fill block 32, the first of node 1, and 16 are in the next.
    expect(memmapStat(m, b(32))?.guests).toEqual(Array.from({ length: 64 }, (_, k) => 64 + k));
    expect(memmapStat(m, b(33))?.guests).toEqual(Array.from({ length: 16 }, (_, k) => 128 + k));
    expect(memmapStat(m, b(143))).toMatchObject({ policy: 'host-section', hostBlocks: [33], pages: 512, guests: [] });
    expect(m.check()).toEqual([]);
    expect(must(m.removeMemory(sections(64, 144))).kernelPages).toBe(report.kernelPages);
    expect([free(m), m.hotplug.hosts.size]).toEqual([before, 0]);
    expect(m.check()).toEqual([]);
  });

  it('HB1 an offline block of 2 GiB hosts its own 16 leaves and 1008 others, and not one more', () => {
    const m = boot({ blockSize: 2 ** 31 });
    add(m, 64, 80, { memmap: 'self-block' }); // block 4
    const before = free(m);
    // 1008 sections are 63 blocks of 2 GiB.
    const guests = add(m, 80, 80 + 1008, { memmap: 'host-section', memmapHosts: [b(4)] });
    expect(guests).toMatchObject({ memmap: 'host-section', kernelPages: 2 }); // tables of its memmap: two GiB of it
    expect([free(m), guests.blocks.length]).toEqual([before - 2, 63]);
    expect(memmapStat(m, b(4))).toMatchObject({ headPages: 16 * S, policy: 'self-block' });
    expect(memmapStat(m, b(4))?.guests.length).toBe(63);
    const more = m.addMemory(sections(1088, 1104), node1, { memmap: 'host-section', memmapHosts: [b(4)] });
    expect(why(more)).toBe('no-memory ENOMEM');
    expect(free(m)).toBe(before - 2);
    // A block that is all struct pages comes online, with nothing to give out.
    expect(must(m.online(b(4), 'movable')).pages).toBe(0);
    expect(m.check(1)).toEqual([]);
    must(m.offline(b(4)));
    must(m.removeMemory(sections(80, 1088)));
    expect(memmapStat(m, b(4))).toMatchObject({ headPages: S / 4, guests: [] }); // 16 leaves of 512
    expect(m.check()).toEqual([]);
  });

  it('HB1 the lowest blocks of the range itself, when the node has no room', () => {
    const m = boot();
    const hog = m.addHolder({ class: 'slab', name: 'hog', node: node1 });
    while (m.alloc(hog, toOrder(9), { thisNode: true, node: node1 }) >= 0);
    const before = free(m);
    const report = add(m, 64, 144, { memmap: 'host-section' });
    expect([report.memmap, free(m) - before]).toEqual(['host-section', 0]);
    expect([64, 65, 66].map((id) => memmapStat(m, b(id))?.headPages)).toEqual([S, 16 * 512, 0]);
    expect(memmapStat(m, b(64))?.guests).toEqual(Array.from({ length: 63 }, (_, k) => 65 + k));
    // As Linux counts what hosts itself: present, not managed.
    const managed = (): number => m.pools.reduce((n, p) => n + p.managed, 0);
    const bare = managed();
    for (const id of report.blocks) must(m.online(id, 'movable'));
    expect(managed() - bare).toBe(80 * S - 80 * 512);
    expect(m.check(1)).toEqual([]);
  });

  it('HB2 a host that is not there, is in Movable, is leaving or is none: EINVAL; without room: ENOMEM; nothing changes', () => {
    const m = boot();
    add(m, 64, 66, { memmap: 'self-block' });
    must(m.online(b(64), 'movable'));
    expect(m.addMemory(sections(80, 80 + 64), node1, { memmap: 'host-section', memmapHosts: [b(65)] }).ok).toBe(false);
    const digest = m.digest(); // the holders are there now
    const before = { digest, ranges: m.hotplug.ranges.length, iomem: JSON.stringify(m.hotplug.resources) };
    const hosted = (memmapHosts: number[], end = 81): string =>
      why(m.addMemory(sections(80, end), node1, { memmap: 'host-section', memmapHosts: memmapHosts.map(b) }));
    expect(hosted([])).toBe('bad-request EINVAL');
    expect(hosted([70])).toBe('bad-request EINVAL');
    expect(hosted([64])).toBe('bad-request EINVAL');
    expect(hosted([65, 64])).toBe('bad-request EINVAL');
    expect(hosted([80])).toBe('bad-request EINVAL'); // the range itself is not there yet
    expect(hosted([65], 80 + 64)).toBe('no-memory ENOMEM'); // 63 fit behind its own
    const now = { digest: m.digest(), ranges: m.hotplug.ranges.length, iomem: JSON.stringify(m.hotplug.resources) };
    expect(now).toEqual(before);
    expect(m.hotplug.hosts.size).toBe(0);
    const work = m.beginOffline(b(40));
    work.step();
    expect(why(moveMemmap(m, b(64), { policy: 'host-section', hosts: [b(40)] }))).toBe('busy EBUSY');
    work.cancel();
    expect(hosted([65], 80 + 63)).toBe('done');
    expect(m.check()).toEqual([]);
  });
});

describe('D2', () => {
  for (const memmap of ['self-range', 'host-section'] as const) {
    it(`HB3 ${memmap}: a host stays while a guest is online; last to first they go; the evictor moves guests and it goes`, () => {
      const m = boot();
      const hog = m.addHolder({ class: 'slab', name: 'hog', node: node1 });
      while (m.alloc(hog, toOrder(9), { thisNode: true, node: node1 }) >= 0);
      const { blocks } = add(m, 64, 68, { memmap });
      for (const id of blocks) must(m.online(id, 'movable'));
      const digest = m.digest();
      const r = m.offline(b(64));
      expect(why(r)).toBe('hosts EBUSY');
      if (r.ok) return;
      expect(r.error.blockers).toMatchObject([
        {
          startPfn: 64 * S + 512,
          endPfn: 64 * S + 1024,
          cause: 'hosts',
          class: 'memmap',
          name: 'struct pages of block 65',
        },
        { startPfn: 64 * S + 1024, name: 'struct pages of block 66' },
        { startPfn: 64 * S + 1536, name: 'struct pages of block 67' },
      ]);
      expect(m.digest()).toBe(digest);
      const helped = m.fork();
      expect(must(helped.offline(b(64), { evictors: [memmapEvictor()] })).pages).toBe(S - 512);
      expect(memmapStat(helped, b(66))?.policy).toBe('kernel');
      expect(helped.check()).toEqual([]);
      for (const id of [...blocks].reverse()) must(m.offline(id));
      expect(m.check()).toEqual([]);
    });
  }

  it('HB3 guests that leave together with their host are no reason to stay, and are not moved', () => {
    const m = boot();
    const { blocks } = add(m, 64, 68, { memmap: 'self-range' });
    for (const id of blocks) must(m.online(id, 'movable'));
    for (const evictors of [[], [memmapEvictor()]]) {
      const fork = m.fork();
      const works = blocks.map((id) => fork.beginOffline(id, { evictors, leavesWith: blocks }));
      for (const stage of ['commit', 'done']) {
        for (const w of works) while (w.stage !== stage) w.step();
      }
      expect(memmapStat(fork, b(64))).toMatchObject({ guests: [65, 66, 67], headPages: 2048 });
      must(fork.removeMemory(sections(64, 68)));
      expect(fork.check()).toEqual([]);
    }
    expect(why(m.offline(b(64), { leavesWith: [b(65), b(66)] }))).toBe('hosts EBUSY'); // 67 stays
  });

  it('HB3 a host in use is emptied of guests, and of everything else, and removed alone after those offline moved too', () => {
    const m = boot();
    add(m, 64, 66);
    for (const id of [64, 65]) must(m.online(b(id), 'kernel'));
    add(m, 80, 84, { memmap: 'host-section', memmapHosts: [b(64)] });
    for (const id of [80, 81]) must(m.online(b(id), 'movable'));
    expect(memmapStat(m, b(64))?.guests).toEqual([80, 81, 82, 83]);
    expect(why(m.offline(b(64)))).toBe('hosts EBUSY');
    // Guests that are offline lie in the zone, and go with the rest of it.
    must(m.offline(b(64), { evictors: [memmapEvictor()] }));
    expect(memmapStat(m, b(64))).toMatchObject({ guests: [], policy: 'kernel' });
    must(m.removeMemory(sections(64, 65)));
    expect(m.check()).toEqual([]);
  });

  it('HB4 D-3: every single block of a self-range DIMM goes offline after its shared run was moved, or with the evictor', () => {
    const m = boot();
    const { blocks } = add(m, 64, 144, { memmap: 'self-range' }); // 160 MiB: block 64 whole, a quarter of 65
    for (const id of blocks) must(m.online(id, 'movable'));
    const alone = (n: Machine, helped: boolean): string[] =>
      blocks.map((id) => {
        const fork = n.fork();
        const r = fork.offline(id, helped ? { evictors: [memmapEvictor()] } : {});
        if (r.ok && (id < 68 || id === 143)) expect(fork.check(1)).toEqual([]);
        return why(r);
      });
    const rest = Array.from({ length: 78 }, () => 'done');
    expect(alone(m, false)).toEqual(['hosts EBUSY', 'hosts EBUSY', ...rest]);
    expect(alone(m, true)).toEqual(['done', 'done', ...rest]);
    for (const id of blocks) must(moveMemmap(m, id, { policy: 'kernel' }));
    expect([...leavesOf(m)].every((at) => placeOf(m, at) === 'kernel')).toBe(true);
    expect(alone(m, false)).toEqual(['done', 'done', ...rest]);
    expect(m.check(1)).toEqual([]);
  });

  it('HB5 a host is not removed while it describes memory that stays: EBUSY; a guest goes, and leaves its place', () => {
    const m = boot();
    add(m, 64, 65, { memmap: 'self-block' });
    add(m, 80, 82, { memmap: 'host-section', memmapHosts: [b(64)] });
    const digest = m.digest();
    expect(why(m.removeMemory(sections(64, 65)))).toBe('hosts EBUSY');
    expect(m.digest()).toBe(digest);
    expect(must(m.removeMemory(sections(80, 81))).kernelPages).toBe(0);
    expect(memmapStat(m, b(64))).toMatchObject({ headPages: 1536, guests: [81] });
    expect(m.check()).toEqual([]);
    must(moveMemmap(m, b(81), { policy: 'self-block' }));
    expect(memmapStat(m, b(64))).toMatchObject({ headPages: 512, guests: [] });
    must(m.removeMemory(sections(64, 65)));
    must(m.removeMemory(sections(81, 82)));
    expect(m.check()).toEqual([]);
  });

  it('HB5 parts of a self-range go alone once nothing in them describes the rest', () => {
    const m = boot();
    add(m, 64, 68, { memmap: 'self-range' });
    expect(why(m.removeMemory(sections(64, 66)))).toBe('bad-request EINVAL');
    expect(why(m.removeMemory(sections(66, 68)))).toBe('bad-request EINVAL');
    for (const id of [66, 67]) must(moveMemmap(m, b(id), { policy: 'self-block' }));
    must(m.removeMemory(sections(66, 68)));
    expect(m.check()).toEqual([]);
    must(moveMemmap(m, b(65), { policy: 'kernel' }));
    must(m.removeMemory(sections(64, 65)));
    must(m.removeMemory(sections(65, 66)));
    expect(m.check()).toEqual([]);
  });

  it('HB5 blocks of one DIMM whose struct pages were moved apart are still one DIMM: it is ejected whole', () => {
    for (const memmap of ['self-block', 'self-range', 'host-section'] as const) {
      const m = boot();
      const before = free(m);
      const range = sections(64, 68);
      must(plugDimm(m, range, node1, { memmap }));
      for (let id = 64; id < 68; id++) must(m.online(b(id), 'movable'));
      must(moveMemmap(m, b(65), { policy: 'kernel' }));
      must(moveMemmap(m, b(67), { policy: 'host-section', hosts: [b(2)] }));
      const { removed, refusal } = ejectDimm(m, range); // the first may host the others: the second pass gets it
      expect([removed?.blocks, refusal], memmap).toEqual([4, undefined]);
      expect(free(m), memmap).toBe(before);
      expect(m.check()).toEqual([]);
    }
  });
});

describe('wishes', () => {
  const came = (m: Machine, first: number, end: number, options: AddOptions): [string, string | undefined] => {
    const { memmap, memmapWhy } = add(m, first, end, options);
    expect(m.check(1)).toEqual([]);
    return [memmap, memmapWhy];
  };

  it('HB6 fallback: self-block as long as that works and leaves the 1 GiB pages that are wanted, else kernel, and why', () => {
    const m = boot();
    expect(came(m, 64, 72, { memmap: 'fallback' })).toEqual(['self-block', undefined]);
    expect(came(m, 72, 80, { memmap: 'fallback', gigantic: 1 })).toEqual(['kernel', 'gigantic']);
    m.hotplug.settings.memmapOnMemory = 'N';
    expect(came(m, 80, 88, { memmap: 'fallback' })).toEqual(['kernel', 'disabled']);
    const old = boot({ kernel: '6.1' });
    expect(came(old, 64, 66, { memmap: 'fallback' })).toEqual(['kernel', 'not-one-block']);
  });

  it('HB6 auto: self-block; for 1 GiB pages a host section: other blocks, else its own first ones, else kernel', () => {
    const m = boot();
    expect(came(m, 64, 72, { memmap: 'auto' })).toEqual(['self-block', undefined]);
    expect(came(m, 72, 80, { memmap: 'auto', gigantic: 1 })).toEqual(['host-section', undefined]);
    m.hotplug.settings.memmapOnMemory = 'N';
    expect(came(m, 80, 88, { memmap: 'auto', gigantic: 1 })).toEqual(['kernel', 'disabled']);
    m.hotplug.settings.memmapOnMemory = 'Y';
    const hog = m.addHolder({ class: 'slab', name: 'hog', node: node1 });
    while (m.alloc(hog, toOrder(9), { thisNode: true, node: node1 }) >= 0);
    for (let id = 64; id < 88; id++) must(m.online(b(id), 'movable'));
    // Nothing of the node is free, and what is online in Movable cannot host.
    expect(came(m, 96, 112, { memmap: 'auto', gigantic: 1 })).toEqual(['host-section', undefined]);
    expect(memmapStat(m, b(96))?.headPages).toBe(16 * 512);
    for (let id = 96; id < 112; id++) must(m.online(b(id), 'movable'));
    expect(came(m, 112, 120, { memmap: 'auto', gigantic: 1 })).toEqual(['kernel', 'gigantic']);
    expect(m.check()).toEqual([]);
  });

  it('HB7 D-5: 60 GiB with 64 MiB free: kernel needs 960 MiB and is refused; whatever hosts itself comes', () => {
    const m = boot();
    const load = m.addHolder({ class: 'anonymous', name: 'load' });
    while (free(m) - 512 >= 16384) m.alloc(load, toOrder(9));
    expect(free(m)).toBe(16384);
    const range = { start: toPfn(8 * GIB), end: toPfn(68 * GIB) };
    const refused = m.addMemory(range, node1, { memmap: 'kernel' });
    expect(why(refused)).toBe('no-memory ENOMEM');
    if (!refused.ok) expect(refused.error.message).toContain(`${480 * 512 + 1} frames`);
    for (const memmap of ['self-block', 'self-range', 'host-section', 'fallback', 'auto'] as const) {
      const fork = m.fork();
      const report = must(fork.addMemory(range, node1, { memmap }));
      expect(report.memmap).not.toBe('kernel');
      expect(report.kernelPages).toBeLessThanOrEqual(61); // page tables
      expect(report.blocks.length).toBe(480);
      must(fork.removeMemory(range));
      expect(free(fork)).toBe(16384);
    }
    expect(m.check()).toEqual([]);
  });
});
