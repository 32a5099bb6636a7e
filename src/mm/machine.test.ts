// The machine: boot, requests, returns, pins, contents, copies. Rules in docs/spec/machine.md and frames-and-holders.md.

import { describe, expect, it } from 'vitest';
import { type HolderId, toNodeId, toOrder, toPfn } from '#base/units';
import { CELL_PAGES, drawn, pictureOf, worldFrom } from '../../test/support/picture.ts';
import { MIGRATE_UNMOVABLE, PAGES_PER_SECTION as S } from './geometry.ts';
import { Machine, tagOf } from './machine.ts';
import { type MachineSpec, simpleSpec } from './machine-spec.ts';
import type { Pool } from './pool.ts';

const N0 = toNodeId(0);
const N1 = toNodeId(1);
const one = (bytes: number, rest: Omit<MachineSpec, 'ram'> = {}): Machine =>
  Machine.boot(simpleSpec(bytes, { code: 'shared', watermarks: 'none', blockSize: 2 ** 27, ...rest }));

const counters = (m: Machine) =>
  m.pools
    .filter((p) => p.present > 0)
    .map((p) => [p.name, p.startPfn, p.spanned, p.present, p.managed, p.alloc.nrFree()]);

describe('boot', () => {
  it('P1 P2 zones, reserved ranges and holes: spanned, present and managed each count their own', () => {
    // A PC of 2 GiB, as firmware says it: a hole at 640 KiB, a last block that is 35 frames short.
    const m = Machine.boot({
      ram: [
        { start: toPfn(1), end: toPfn(0x9f), node: N0 },
        { start: toPfn(0x100), end: toPfn(0x7ffdd), node: N0 },
      ],
      reserved: [{ start: toPfn(0x1000), end: toPfn(0x3000), name: 'kernel image' }],
      blockSize: 2 ** 27,
      code: 'shared',
    });
    expect(counters(m)).toEqual([
      ['DMA', 1, 4095, 3998, 3998, 3998], // spanned and present of the lab's guests (spec 1.4)
      ['DMA32', 4096, 0x7ffdd - 4096, 0x7ffdd - 4096, 0x7ffdd - 4096 - 0x2000, 0x7ffdd - 4096 - 0x2000],
    ]);
    expect(m.check()).toEqual([]);
    expect(m.blockIds().map((b) => m.block(b)?.absent)).toEqual([1 + 0x100 - 0x9f, ...Array(14).fill(0), 35]);
    expect([0, 0x9f, 0xff, 0x7ffdd].map((pfn) => m.frame(toPfn(pfn)).state)).toEqual(Array(4).fill('absent'));
    expect(m.frame(toPfn(0x1234))).toMatchObject({ state: 'used', class: 'reserved', name: 'kernel image' });
    expect(m.frame(toPfn(0x80000)).state).toBe('absent');
  });

  it('P2 a kernel zone reaches to its border where its node has memory beyond (spec 1.6: DMA32 of 258016 + ...)', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(8 * S), node: N0 },
        { start: toPfn(2 ** 20), end: toPfn(2 ** 20 + S), node: N0 },
      ],
      blockSize: 2 ** 27,
      code: 'shared',
    });
    const dma32 = m.poolNamed(N0, 'DMA32');
    expect([dma32?.spanned, dma32?.present]).toEqual([2 ** 20 - 4096, 8 * S - 4096]);
  });

  it('P3 all of an idle machine is free, in whole chunks, whatever the ragged edges', () => {
    const m = one(3 * 2 ** 27, { reserved: [{ start: toPfn(5001), end: toPfn(5003), name: 'x' }] });
    expect(m.check()).toEqual([]);
    const pool = m.poolNamed(N0, 'DMA32') as Pool;
    expect(pool.alloc.nrFree()).toBe(3 * S - 4096 - 2);
    const chunks: string[] = [];
    pool.alloc.area.forEachFree(0, pool.pages, (i, order) => {
      if (order < 10) chunks.push(`${i + pool.base}/${order}`);
    });
    // Only the chunk around 5001 and 5002 is in pieces: 905 frames below, 117 above, each piece as large as it goes.
    expect(chunks.join(' ')).toBe('4096/9 4608/8 4864/7 4992/3 5000/0 5003/0 5004/2 5008/4 5024/5 5056/6');
  });

  it('P2 a zone border inside a pageblock: the pageblock and its frames belong to the pool of its first frame', () => {
    const cut = toPfn(S + 100);
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: cut, node: N0, zone: 2 },
        { start: cut, end: toPfn(2 * S), node: N1, zone: 2 },
      ],
      blockSize: 2 ** 27,
      watermarks: 'none',
      code: 'shared',
    });
    expect(counters(m)).toEqual([
      ['Normal', 0, S + 512, S + 512, S + 512, S + 512],
      ['Normal', S + 100, S - 100, S - 512, S - 512, S - 512],
    ]);
    expect(m.check()).toEqual([]);
  });

  it('P1 RAM may be offline from the start: no pool has it, and it can be onlined', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(S), node: N0, zone: 2 },
        { start: toPfn(S), end: toPfn(2 * S), node: N0, offline: true, zone: 2 },
      ],
      blockSize: 2 ** 27,
      code: 'shared',
      watermarks: 'none',
    });
    const [, second] = m.blockIds();
    expect(m.block(second)).toMatchObject({ state: 'offline', pool: undefined, absent: 0 });
    expect(m.frame(toPfn(S + 5))).toEqual({ state: 'offline' });
    expect(m.online(second, 'movable').ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('a spec that contradicts itself is a bug: no RAM, overlap, reserved outside RAM, a bad block size, half a block', () => {
    const boot = (spec: MachineSpec) => () => Machine.boot({ code: 'shared', ...spec });
    const ram = [{ start: toPfn(0), end: toPfn(S), node: N0 }];
    expect(boot({ ram: [] })).toThrow(/needs RAM/);
    expect(boot({ ram: [...ram, { start: toPfn(5), end: toPfn(9), node: N0 }] })).toThrow(/overlap/);
    expect(boot({ ram: [{ start: toPfn(5), end: toPfn(5), node: N0 }] })).toThrow(/empty/);
    expect(boot({ ram, reserved: [{ start: toPfn(S - 1), end: toPfn(S + 1), name: 'x' }] })).toThrow(/not RAM/);
    expect(boot({ ram, blockSize: 2 ** 26 })).toThrow(/memory block/);
    const half = { start: toPfn(S), end: toPfn(S + 1024), node: N0, offline: true };
    expect(
      boot({ ram: [...ram, half, { ...half, start: toPfn(S + 1024), end: toPfn(2 * S), offline: false }] }),
    ).toThrow(/whole memory blocks/);
  });

  it('a terabyte boots with less than 80 MB of tables, sound and allocatable to its end', () => {
    const m = Machine.boot(simpleSpec(2 ** 40, { code: 'shared' }));
    expect(m.bytes()).toBeLessThan(80e6);
    expect(m.poolNamed(N0, 'Normal')?.managed).toBe(2 ** 28 - 2 ** 20);
    const h = m.addHolder({ class: 'anonymous', name: 'app' });
    const pfn = toPfn(m.alloc(h, toOrder(0)));
    expect(m.frame(pfn)).toMatchObject({ state: 'used', holder: h });
    expect(m.frame(toPfn(2 ** 28 - 1)).state).toBe('free');
  });
});

describe('Z1 Z2 requests', () => {
  it('Z1 the own node first, then by distance; in a node from the top zone of the class down', () => {
    const { m, at } = worldFrom(
      `
      n0 DMA32 ........
      n0 Normal ........
      n0 Movable ........
      n1 Normal ........
      n2 Normal ........
    `,
      {
        distance: [
          [10, 40, 20],
          [40, 10, 30],
          [20, 30, 10],
        ],
      },
    );
    const titles = (node: 0 | 1 | 2, top: 0 | 1 | 2 | 3) =>
      Array.from(m.zonelist(toNodeId(node), top), (id) => m.pools[id])
        .filter((p) => p.present > 0)
        .map((p) => `${p.node} ${p.name}`);
    expect(titles(0, 3)).toEqual(['0 Movable', '0 Normal', '0 DMA32', '2 Normal', '1 Normal']);
    expect(titles(0, 2)).toEqual(['0 Normal', '0 DMA32', '2 Normal', '1 Normal']);
    expect(titles(1, 2)).toEqual(['1 Normal', '2 Normal', '0 Normal', '0 DMA32']);
    expect(titles(0, 1)).toEqual(['0 DMA32']);
    const app = m.addHolder({ class: 'anonymous', name: 'app', node: N0 });
    const slab = m.addHolder({ class: 'slab', name: 'slab' });
    expect(m.alloc(app, toOrder(0))).toBe(at(2));
    expect(m.alloc(slab, toOrder(0))).toBe(at(1));
    expect(m.alloc(slab, toOrder(0), { topZone: 1 })).toBe(at(0));
    expect(m.alloc(app, toOrder(0), { node: N1 })).toBe(at(3));
    expect(() => m.zonelist(toNodeId(9), 2)).toThrow(/no such node/);
  });

  it('Z1 a full pool hands over to the next one, down to the last frame of the last', () => {
    const { m, holder } = worldFrom('n0 DMA32 .UUUUUUU *U\n n0 Normal .UUUUUUU *U\n n1 Normal .UUUUUUU *U');
    const zones: string[] = [];
    for (;;) {
      const pfn = m.alloc(holder('M'), toOrder(0));
      if (pfn === -1) break;
      const f = m.frame(pfn);
      if (f.state === 'used') zones.push(`${f.pool.node} ${f.pool.name}`);
    }
    const full = (z: string): string[] => Array(CELL_PAGES).fill(z);
    expect(zones).toEqual([...full('0 Normal'), ...full('0 DMA32'), ...full('1 Normal')]);
    expect(m.lastRefusal).toMatchObject({ reason: 'no-memory', errno: 'ENOMEM' });
    expect(m.lastRefusal?.message).toContain('0 frames are free');
    expect(m.vmstat.pgalloc_fail).toBe(1);
    expect(m.check()).toEqual([]);
  });

  it('Z2 a pool is passed over below its low mark, used down to min in a second pass, and then refuses', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(S), node: N0, zone: 2 },
        { start: toPfn(S), end: toPfn(2 * S), node: N1, zone: 2 },
      ],
      blockSize: 2 ** 27,
      code: 'shared',
      watermarks: { scaleFactor: 10, thp: false, minFreeKbytes: 4096 },
    });
    const h = m.addHolder({ class: 'anonymous', name: 'app', node: N0 });
    const [near, far] = [m.poolNamed(N0, 'Normal') as Pool, m.poolNamed(N1, 'Normal') as Pool];
    expect(near.watermarks).toMatchObject({ min: 512, low: 640 });
    const fill = (p: Pool, down: number): void => {
      for (;;) {
        const pfn = m.alloc(h, toOrder(0));
        if (pfn === -1 || m.poolAt(m.sections.indexOf(pfn)) !== p) return;
        expect(p.alloc.nrFree()).toBeGreaterThanOrEqual(down - 64);
      }
    };
    fill(near, near.watermarks.low);
    expect(near.alloc.nrFree()).toBeLessThanOrEqual(near.watermarks.low);
    expect(near.alloc.nrFree()).toBeGreaterThan(near.watermarks.min);
    fill(far, far.watermarks.low);
    while (m.alloc(h, toOrder(0)) !== -1);
    for (const p of [near, far]) {
      expect(p.alloc.nrFree()).toBeLessThanOrEqual(p.watermarks.min);
      expect(p.alloc.nrFree() + 64).toBeGreaterThanOrEqual(p.watermarks.min);
    }
    expect(m.lastRefusal?.reason).toBe('no-memory');
    expect(m.check()).toEqual([]);
  });

  it('Z2 a request that could also use higher zones leaves the reserve of the lower one alone (spec 2.5)', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(S), node: N0, zone: 1 },
        { start: toPfn(S), end: toPfn(9 * S), node: N0, zone: 2 },
      ],
      blockSize: 2 ** 27,
      code: 'shared',
      watermarks: { scaleFactor: 10, thp: false, minFreeKbytes: 128 },
    });
    const dma32 = m.poolNamed(N0, 'DMA32') as Pool;
    expect(dma32.watermarks.reserve[2]).toBe(Math.floor((8 * S) / 256));
    const high = m.addHolder({ class: 'slab', name: 'slab' });
    while (m.alloc(high, toOrder(0)) !== -1);
    const left = dma32.alloc.nrFree();
    expect(left).toBeGreaterThan(dma32.watermarks.reserve[2] - 64);
    expect(m.alloc(high, toOrder(0), { topZone: 1 })).toBeGreaterThanOrEqual(0); // it can use nothing else
  });
});

describe('H6 H7 H8 H9 frames in use', () => {
  it('H6 a pin on any frame pins the allocation, and unpin on any other takes it away; both are idempotent', () => {
    const { m, at } = worldFrom('n0 Normal M.......');
    m.pin(toPfn(at(0) + 17));
    m.pin(toPfn(at(0) + 3));
    expect(m.frame(at(0))).toMatchObject({ pinned: true });
    expect(pictureOf(m)).toBe(drawn('n0 Normal P.......'));
    m.unpin(toPfn(at(0) + 63));
    m.unpin(at(0));
    expect(m.frame(at(0))).toMatchObject({ pinned: false });
    expect(() => m.pin(at(0, 0, 1))).toThrow(/not allocated/);
    expect(() => m.unpin(toPfn(2 ** 33))).toThrow(/not allocated/);
    m.free(at(0));
    expect(m.check()).toEqual([]);
  });

  it('H7 classes that are not managed leave managed while they hold frames, and come back on free', () => {
    const { m } = worldFrom('n0 Normal ........');
    const pool = m.poolNamed(N0, 'Normal') as Pool;
    for (const cls of ['balloon', 'reserved', 'unplugged', 'deferred'] as const) {
      const h = m.addHolder({ class: cls, name: cls });
      const pfn = toPfn(m.alloc(h, toOrder(5)));
      expect(pool.managed, cls).toBe(S - 32);
      expect(m.check(2)).toEqual([]);
      m.free(pfn);
      expect(pool.managed, cls).toBe(S);
    }
    expect(m.check()).toEqual([]);
  });

  it('H8 free of a tail, a free frame, a hole, a frame of no section, twice: bugs, and nothing changes', () => {
    const { m, at } = worldFrom('n0 Normal M......#');
    const before = m.digest();
    for (const pfn of [at(0) + 1, at(0, 0, 1), at(0, 0, 7), 2 ** 30, 2 ** 35]) {
      expect(() => m.free(toPfn(pfn)), `${pfn}`).toThrow(/no allocation/);
    }
    expect(m.digest()).toBe(before);
    m.free(at(0));
    expect(() => m.free(at(0))).toThrow(/no allocation/);
    expect(m.check()).toEqual([]);
  });

  it('H9 place takes frames that are neither used nor free, in the largest aligned pieces', () => {
    const m = one(2 ** 27, { populate: 'nothing' });
    const h = m.addHolder({ class: 'slab', name: 's' });
    m.place(h, toPfn(4096 + 3), toPfn(4096 + 1030));
    const pieces: number[] = [];
    m.forEachFrameOf(h, (_head, order) => pieces.push(order));
    expect(pieces).toEqual([0, 2, 3, 4, 5, 6, 7, 8, 9, 2, 1]);
    expect(() => m.place(h, toPfn(4096 + 8), toPfn(4096 + 9))).toThrow(/taken/);
    expect(() => m.place(h, toPfn(4096), toPfn(4096 + 8))).toThrow(/taken/);
    expect(() => m.place(h, toPfn(2 ** 22), toPfn(2 ** 22 + 1))).toThrow(/no such frame/);
    const free = one(2 ** 27);
    const k = free.addHolder({ class: 'slab', name: 's' });
    expect(() => free.place(k, toPfn(4096), toPfn(4097))).toThrow(/are free/);
  });

  it('H4 contents: written bytes are read back, a fresh frame reads as zeros, a freed one cannot be read', () => {
    const { m, holder } = worldFrom('n0 Normal ........', { contents: 'bytes' });
    const pfn = toPfn(m.alloc(holder('M'), toOrder(0)));
    expect(m.read(pfn).length).toBe(4096);
    m.write(pfn, 4090, Uint8Array.of(1, 2, 3, 4, 5, 6));
    expect([...m.read(pfn).subarray(4088)]).toEqual([0, 0, 1, 2, 3, 4, 5, 6]);
    const copy = m.read(pfn);
    copy[0] = 9;
    expect(m.read(pfn)[0]).toBe(0);
    expect(() => m.write(pfn, 4093, Uint8Array.of(1, 2, 3, 4))).toThrow(/beyond/);
    m.free(pfn);
    expect(() => m.read(pfn)).toThrow(/not in use/);
    const again = toPfn(m.alloc(holder('M'), toOrder(0)));
    expect([again, m.read(again)[4090]]).toEqual([pfn, 0]);
    expect(() => worldFrom('n0 Normal M.......').m.read(toPfn(0))).toThrow(/contents: 'bytes'/);
  });

  it('H4 the tag of a frame is never that of a frame without contents, and neighbours differ mostly', () => {
    let same = 0;
    for (let slot = 0; slot < 20_000; slot++) {
      const tag = tagOf(slot);
      expect(tag >= 1 && tag < 2 ** 11).toBe(true);
      if (tag === tagOf(slot + 1)) same++;
    }
    expect(same).toBeLessThan(100);
  });

  it('frame() tells all five states', () => {
    const { m, at, block, holder } = worldFrom('n0 Normal M......#\n n0 Normal ........');
    m.offline(block(1));
    expect(m.frame(at(0, 0, 7))).toEqual({ state: 'absent' });
    expect(m.frame(toPfn(2 ** 34))).toEqual({ state: 'absent' });
    expect(m.frame(at(1))).toEqual({ state: 'offline' });
    expect(m.frame(at(0, 0, 1))).toEqual({ state: 'free', pool: m.poolNamed(N0, 'Normal') });
    expect(m.frame(toPfn(at(0) + 5))).toEqual({
      state: 'used',
      pool: m.poolNamed(N0, 'Normal'),
      head: at(0),
      order: 6,
      holder: holder('M'),
      class: 'anonymous',
      name: 'M',
      index: 0,
      pinned: false,
    });
  });

  it('a used page costs at most 16 bytes of tables beyond an idle machine, counted when a quarter is in use', () => {
    const m = one(2 ** 30);
    const idle = m.bytes();
    const h = m.addHolder({ class: 'anonymous', name: 'app' });
    for (let k = 0; k < 2 ** 16; k++) m.alloc(h, toOrder(0));
    expect((m.bytes() - idle) / 2 ** 16).toBeLessThan(16);
  });
});

describe('D1 D2 D3 D4 copies', () => {
  const busy = (m: Machine): void => {
    const hs = [m.addHolder({ class: 'anonymous', name: 'a' }), m.addHolder({ class: 'slab', name: 's' })];
    const held: number[] = [];
    for (let k = 0; k < 3000; k++) {
      held.push(m.alloc(hs[k % 2], toOrder(k % 5)));
      if (k % 3 === 0) m.free(toPfn(held.splice((k * 7) % held.length, 1)[0]));
    }
  };

  it('D1 the same boot and the same calls give the same machine, whichever code runs; other calls do not', () => {
    const digests = (['own', 'shared'] as const).map((code) => {
      const m = one(2 ** 28, { code });
      busy(m);
      return m.digest();
    });
    expect(digests[0]).toBe(digests[1]);
    const other = one(2 ** 28);
    busy(other);
    other.alloc(0 as HolderId, toOrder(0));
    expect(other.digest()).not.toBe(digests[0]);
  });

  it('D1 the digest sees each table: state, types, free lists, per-CPU lists, holders, counters, pins', () => {
    const { m, at, holder } = worldFrom('n0 Normal MM......|TTTTTTTT\n n0 Normal ........');
    const changes: (() => void)[] = [
      () => m.pin(at(0)),
      () => m.unpin(at(0)),
      () => void m.pools[0].alloc.setPageblockType(5 * 512, MIGRATE_UNMOVABLE),
      () => void m.alloc(holder('M'), toOrder(0)),
      () => m.free(at(0)),
      () => void m.pools[0].alloc.drain(),
      () => void m.addHolder({ class: 'file', name: 'f' }),
      () => void m.pools[0].managed++,
      () => void m.offline(m.blockIds()[1]),
    ];
    const seen = new Set([m.digest()]);
    changes.forEach((change, k) => {
      change();
      const d = m.digest();
      if (k !== 1) expect(seen.has(d), `change ${k}`).toBe(false);
      seen.add(d);
    });
  });

  it('D2 fork and original do not see each other, in either direction and over several generations', () => {
    const { m, holder, block } = worldFrom('n0 Normal MM.m....\n n0 Normal ........\n n0 Normal P.......', {
      contents: 'bytes',
    });
    const pfn = toPfn(m.alloc(holder('M'), toOrder(0)));
    m.write(pfn, 0, Uint8Array.of(1));
    m.notifiers.push({ name: 'n', goingOffline: () => 'EBUSY' });
    const start = m.digest();
    const f = m.fork();
    const g = f.fork();
    expect([f.digest(), g.digest()]).toEqual([start, start]);
    f.write(pfn, 0, Uint8Array.of(2));
    busy(f);
    expect(f.offline(block(1)).ok).toBe(true); // the listener is not its
    expect([m.digest(), g.digest()]).toEqual([start, start]);
    expect([m.read(pfn)[0], g.read(pfn)[0]]).toEqual([1, 1]);
    const forked = f.digest();
    busy(m);
    m.free(pfn);
    expect([f.digest(), g.digest()]).toEqual([forked, start]);
    for (const x of [m, f, g]) expect(x.check()).toEqual([]);
  });

  it('D3 restore brings back everything, again and again, also after hulls widened and holders came', () => {
    const { m, block, holder } = worldFrom('n0 Normal MMP.....\n n0 Normal ........\n n0 Movable ........');
    const start = m.digest();
    const snapshot = m.snapshot();
    for (let k = 0; k < 3; k++) {
      busy(m);
      for (const b of [1, 0]) m.offline(block(b));
      m.online(block(1), 'movable');
      m.alloc(holder('M'), toOrder(0));
      expect(m.digest()).not.toBe(start);
      m.restore(snapshot);
      expect(m.digest()).toBe(start);
      expect(Object.values(m.vmstat).every((n) => n === 0)).toBe(true);
      expect(m.check()).toEqual([]);
    }
  });

  it('D4 a copy onto a machine whose offline is under way is a bug; a fork of it keeps the block going-offline', () => {
    const { m, block } = worldFrom('n0 Normal MM......\n n0 Normal ........');
    const snapshot = m.snapshot();
    const work = m.beginOffline(block(0));
    for (let k = 0; k < 20; k++) work.step();
    expect(() => m.restore(snapshot)).toThrow(/under way/);
    const f = m.fork();
    expect(f.block(block(0))?.state).toBe('going-offline');
    expect(f.offline(block(0))).toMatchObject({ error: { reason: 'busy' } });
    expect(f.check()).toEqual([]);
    work.cancel();
    m.restore(snapshot);
    expect(m.check()).toEqual([]);
    expect(() => m.copyFrom(one(2 ** 27))).toThrow(/one boot/);
  });
});
