// The way from a request to frames: rules AP1..AP9 and HA1..HA3, docs/spec/allocator.md (spec 2.5 to 2.9).

import { describe, expect, it } from 'vitest';
import { type HolderId, type NodeId, type Order, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import type { AllocOptions } from './alloc-path.ts';
import { MIGRATE_HIGHATOMIC, MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, PAGES_PER_SECTION } from './geometry.ts';
import { highAtomicLimit } from './high-atomic.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { ZONE_DMA32, ZONE_NORMAL } from './page-class.ts';
import type { Pool } from './pool.ts';
import { readTunable, writeTunable } from './vm-tunables.ts';

const G = 2 ** 18;
const S = PAGES_PER_SECTION;
const N0 = toNodeId(0);

type World = { m: Machine; user: HolderId; kernel: HolderId };

function world(ram: [start: number, end: number, node?: number][], spec: Partial<MachineSpec> = {}): World {
  const m = Machine.boot({
    ram: ram.map(([start, end, node]) => ({ start: toPfn(start), end: toPfn(end), node: toNodeId(node ?? 0) })),
    code: 'shared',
    blockSize: 2 ** 27,
    ...spec,
  });
  return {
    m,
    user: m.addHolder({ class: 'anonymous', name: 'user', node: N0 }),
    kernel: m.addHolder({ class: 'slab', name: 'kernel', node: N0 }),
  };
}

/** Normal alone, 128 MiB, min_free_kbytes such that min is 1000 pages, low 1250, high 1500. */
const normal = (spec: Partial<MachineSpec> = {}): World =>
  world([[4 * G, 4 * G + S]], { watermarks: { scaleFactor: 10, thp: false, minFreeKbytes: 4000 }, ...spec });

const pool = (m: Machine, name: 'DMA32' | 'Normal' | 'Movable', node: NodeId = N0): Pool =>
  m.poolNamed(node, name) as Pool; // the worlds here have it

/** Single frames until `left` are free in all. */
function fill(w: World, left: number, holder = w.user, options?: AllocOptions): void {
  const free = (): number => w.m.pools.reduce((n, p) => n + p.alloc.nrFree() + p.alloc.pcpPages(), 0);
  while (free() > left && w.m.alloc(holder, toOrder(0), options) !== -1) {
    // until then
  }
}

const typeAt = (m: Machine, pfn: Pfn): number => {
  const index = m.sections.indexOf(pfn);
  const p = m.poolAt(index) as Pool;
  return p.alloc.area.typeOf(index - p.base);
};

describe('watermarks and rights', () => {
  it('AP1 a request takes frames down to min and no further; the marks are min, low, high of 1000, 1250, 1500', () => {
    const w = normal();
    const p = pool(w.m, 'Normal');
    expect([p.watermarks.min, p.watermarks.low, p.watermarks.high]).toEqual([1000, 1250, 1500]);
    while (w.m.alloc(w.user, toOrder(0)) !== -1) {
      // all that it may have
    }
    // The last refill began above min and took a batch.
    expect(p.alloc.nrFree() + p.alloc.pcpPages()).toBe(1000);
    expect(w.m.lastRefusal?.reason).toBe('no-memory');
    expect(w.m.check()).toEqual([]);
  });

  it('AP2 high may go to a half of min, atomic to three eighths, an OOM victim to a half', () => {
    const left = (rights: AllocOptions['rights']): number => {
      const w = normal();
      fill(w, 0, w.user, rights && { rights });
      expect(w.m.check()).toEqual([]);
      return pool(w.m, 'Normal').alloc.nrFree();
    };
    expect(left('none')).toBe(1000);
    expect(left('high')).toBe(500);
    expect(left('oom-victim')).toBe(500);
    const atomic = left('atomic');
    expect(atomic).toBeLessThanOrEqual(375); // its own lists' rest stays there: an atomic request does not drain
    expect(atomic).toBeGreaterThan(375 - 63);
  });

  it('AP3 a request of order n needs a chunk of that order, however much is free', () => {
    const w = normal({ watermarks: 'none' });
    const all: Pfn[] = [];
    for (let pfn = w.m.alloc(w.user, toOrder(0)); pfn !== -1; pfn = w.m.alloc(w.user, toOrder(0))) all.push(pfn);
    for (const pfn of all) if (pfn % 2 === 0) w.m.free(pfn);
    expect(w.m.alloc(w.user, toOrder(1))).toBe(-1);
    expect(w.m.alloc(w.user, toOrder(0))).not.toBe(-1);
  });

  it('AP4 movable: the flag decides where frames lie; without it the class decides, and most classes say no', () => {
    const w = world(
      [
        [4 * G, 4 * G + S],
        [5 * G, 5 * G + S],
      ],
      { movableStart: new Map([[N0, toPfn(5 * G)]]) },
    );
    const driver = w.m.addHolder({ class: 'driver', name: 'd', node: N0 });
    const at = (h: HolderId, o?: AllocOptions): string => {
      const pfn = w.m.alloc(h, toOrder(0), o) as Pfn;
      return `${w.m.poolAt(w.m.sections.indexOf(pfn))?.name} ${typeAt(w.m, pfn)}`;
    };
    expect(at(driver)).toBe(`Normal ${MIGRATE_UNMOVABLE}`);
    expect(at(driver, { movable: true })).toBe(`Movable ${MIGRATE_MOVABLE}`);
    expect(at(w.user)).toBe(`Movable ${MIGRATE_MOVABLE}`);
    expect(at(w.user, { movable: false })).toBe(`Normal ${MIGRATE_UNMOVABLE}`);
    expect(w.m.check()).toEqual([]);
  });

  it('AP5 thisNode: no other node will do', () => {
    const w = world(
      [
        [4 * G, 4 * G + S, 0],
        [5 * G, 5 * G + S, 1],
      ],
      { watermarks: 'none' },
    );
    fill(w, S, w.user, { thisNode: true });
    expect(w.m.alloc(w.user, toOrder(0), { thisNode: true })).toBe(-1);
    expect(w.m.alloc(w.user, toOrder(0))).toBeGreaterThanOrEqual(5 * G);
  });

  it('AP6 NUMA counters: hit where it was wanted, miss and foreign where not; one a request, whatever its order', () => {
    const w = world(
      [
        [4 * G, 4 * G + S, 0],
        [5 * G, 5 * G + S, 1],
      ],
      { watermarks: 'none' },
    );
    for (let k = 0; k < S / 1024 + 2; k++) w.m.alloc(w.user, toOrder(10));
    expect(pool(w.m, 'Normal').numa).toEqual({ hit: 32, miss: 0, foreign: 2 });
    expect(pool(w.m, 'Normal', toNodeId(1)).numa).toEqual({ hit: 0, miss: 2, foreign: 0 });
    expect(w.m.fork().pools[0].numa.hit).toBe(w.m.pools[0].numa.hit);
  });
});

describe('not to mix pageblocks', () => {
  /** DMA32 and Normal of 128 MiB each; Normal is full of movable frames but for half of each pageblock's frames. */
  const mixed = (spec: Partial<MachineSpec> = {}): World => {
    const w = world(
      [
        [2 * S, 3 * S],
        [4 * G, 4 * G + S],
      ],
      { watermarks: 'none', ...spec },
    );
    const held: Pfn[] = [];
    for (let k = 0; k < S; k++) held.push(w.m.alloc(w.user, toOrder(0)) as Pfn);
    for (const pfn of held) if (pfn >= 4 * G && pfn % 4 === 0) w.m.free(pfn);
    for (const p of w.m.pools) p.alloc.drain();
    return w;
  };

  it('AP7 a request that prefers Normal looks into lower zones of the node before it mixes', () => {
    const w = mixed();
    expect(pool(w.m, 'Normal').fragmentPolicy).toBe('avoid');
    expect(pool(w.m, 'DMA32').fragmentPolicy).toBe('mix');
    const pfn = w.m.alloc(w.kernel, toOrder(0)) as Pfn;
    expect(pfn).toBeLessThan(4 * G); // Normal has free frames, all in Movable pageblocks
    expect(typeAt(w.m, pfn)).toBe(MIGRATE_UNMOVABLE);
    expect(w.m.pools.reduce((n, p) => n + p.extfrag.fragmenting, 0)).toBe(0);
    expect(w.m.check()).toEqual([]);
  });

  it('AP7 with other nodes: only where the node has DMA32; and a remote node is worse than mixing', () => {
    const two = world(
      [
        [4 * G, 4 * G + S, 0],
        [5 * G, 5 * G + S, 1],
      ],
      { watermarks: 'none' },
    );
    expect(pool(two.m, 'Normal').fragmentPolicy).toBe('mix');
    const w = world(
      [
        [2 * S, 3 * S, 0],
        [4 * G, 4 * G + S, 0],
        [5 * G, 5 * G + S, 1],
      ],
      { watermarks: 'none' },
    );
    expect(pool(w.m, 'Normal').fragmentPolicy).toBe('avoid');
    const held: Pfn[] = [];
    for (let k = 0; k < 2 * S; k++) held.push(w.m.alloc(w.user, toOrder(0), { thisNode: true }) as Pfn);
    for (const pfn of held) if (pfn % 4 === 0) w.m.free(pfn);
    for (const p of w.m.pools) p.alloc.drain();
    const pfn = w.m.alloc(w.kernel, toOrder(0)) as Pfn;
    expect(pfn).toBeGreaterThanOrEqual(4 * G);
    expect(pfn).toBeLessThan(5 * G);
    const { events, fragmenting } = pool(w.m, 'Normal').extfrag;
    expect(events).toBeGreaterThan(0);
    expect(fragmenting).toBe(events);
  });

  it('AP8 defrag_mode: anything rather than to mix, also in the slow path; at the very end it mixes all the same', () => {
    const w = mixed();
    expect(writeTunable(w.m, 'defrag_mode', 1).ok).toBe(true);
    expect(w.m.pools.every((p) => p.fragmentPolicy === 'never')).toBe(true);
    const taken: Pfn[] = [];
    for (let k = 0; k < S; k++) taken.push(w.m.alloc(w.kernel, toOrder(0)) as Pfn);
    expect(Math.max(...taken)).toBeLessThan(4 * G); // all of DMA32 first
    expect(w.m.alloc(w.kernel, toOrder(0))).toBeGreaterThanOrEqual(4 * G);
    expect(w.m.fork().vm.defragMode).toBe(true);
    expect(w.m.check()).toEqual([]);
  });

  it('AP9 boost: each look into a pageblock raises the marks by 512, up to 1.5 times high; kswapd ends it', () => {
    const w = normal({ watermarks: { scaleFactor: 10, thp: false, minFreeKbytes: 4000, boostFactor: 15000 } });
    const p = pool(w.m, 'Normal');
    for (let k = 0; k < 6; k++) p.boostWatermark();
    expect(p.boost).toBe(2250); // 1.5 * 1500, not 3072
    expect(p.marks[ZONE_NORMAL]).toBe(1250 + 2250);
    expect(w.m.fork().pools.map((q) => q.boost)).toEqual(w.m.pools.map((q) => q.boost));
    fill(w, 2000, w.user);
    // Below the boosted low mark: the slow path woke kswapd, which is done at once.
    expect(p.boost).toBe(0);
    expect(p.marks[ZONE_NORMAL]).toBe(1250);
    p.boostWatermark();
    w.m.updateWatermarks();
    expect(p.boost).toBe(0);
  });

  it('AP9 no boost in small zones, with factor 0, or without watermarks', () => {
    const none = normal({ watermarks: 'none' });
    pool(none.m, 'Normal').boostWatermark();
    expect(pool(none.m, 'Normal').boost).toBe(0);
    const w = normal();
    expect(writeTunable(w.m, 'watermark_boost_factor', 0).ok).toBe(true);
    pool(w.m, 'Normal').boostWatermark();
    expect(pool(w.m, 'Normal').boost).toBe(0);
    expect(writeTunable(w.m, 'watermark_boost_factor', 15000).ok).toBe(true);
    const p = pool(w.m, 'Normal');
    p.managed = 2047;
    p.boostWatermark();
    expect(p.boost).toBe(0);
    p.managed = S;
    p.boostWatermark();
    expect(p.boost).toBe(512);
  });
});

describe('tunables', () => {
  it('W8 W7 a write takes effect at once and is kept by copies; EINVAL outside of its range', () => {
    const { m } = normal();
    expect(readTunable(m, 'min_free_kbytes')).toBe(4000);
    expect(writeTunable(m, 'min_free_kbytes', 8000).ok).toBe(true);
    expect(pool(m, 'Normal').watermarks.min).toBe(2000);
    m.updateWatermarks(); // automatic would be less
    expect(readTunable(m.fork(), 'min_free_kbytes')).toBe(8000);
    expect(writeTunable(m, 'watermark_scale_factor', 1000).ok).toBe(true);
    expect(pool(m, 'Normal').watermarks.low).toBe(2000 + 3276);
    for (const [name, value] of [
      ['percpu_pagelist_high_fraction', 7],
      ['watermark_scale_factor', 0],
      ['watermark_scale_factor', 3001],
      ['min_free_kbytes', -1],
      ['defrag_mode', 2],
    ] as const) {
      const before = m.digest();
      expect(writeTunable(m, name, value)).toEqual({ ok: false, error: 'EINVAL' });
      expect(m.digest()).toBe(before);
    }
    expect(writeTunable(m, 'percpu_pagelist_high_fraction', 8).ok).toBe(true);
    expect(pool(m, 'Normal').alloc.front.settings().limits.high).toBe(S / 8);
    expect(readTunable(m, 'percpu_pagelist_high_fraction')).toBe(8);
  });
});

describe('high-atomic reserve', () => {
  /** Normal of 512 MiB, min 1000 and low 2310 pages; all but `left` frames are taken. */
  const tight = (left: number): World & { p: Pool } => {
    const w = world([[4 * G, 4 * G + 4 * S]], { watermarks: { scaleFactor: 100, thp: false, minFreeKbytes: 4000 } });
    const p = pool(w.m, 'Normal');
    while (p.alloc.nrFree() > left) w.m.alloc(w.user, toOrder(9));
    return { ...w, p };
  };

  it('HA1 the reserve is a hundredth in whole pageblocks, none where that is less than one', () => {
    expect([0, 51199, 51200, 51300, 131072, 2 ** 20].map(highAtomicLimit)).toEqual([0, 0, 512, 1024, 1536, 10752]);
  });

  it('HA2 an atomic request of order > 0 that got its frames in the slow path reserves their pageblock', () => {
    const { m, kernel, p } = tight(2300);
    const order = toOrder(2);
    expect(m.alloc(kernel, toOrder(0), { rights: 'atomic' })).not.toBe(-1);
    expect(p.reservedHighAtomic).toBe(0);
    const pfn = m.alloc(kernel, order, { rights: 'atomic' }) as Pfn;
    expect(typeAt(m, pfn)).toBe(MIGRATE_HIGHATOMIC);
    expect(p.reservedHighAtomic).toBe(512);
    expect(p.alloc.nrFreeHighAtomic()).toBeGreaterThan(0);
    // The next one comes from there, and reserves nothing more.
    const again = m.alloc(kernel, order, { rights: 'atomic' }) as Pfn;
    expect(typeAt(m, again)).toBe(MIGRATE_HIGHATOMIC);
    expect(p.reservedHighAtomic).toBe(512);
    expect(m.fork().pools.map((q) => q.reservedHighAtomic)).toEqual(m.pools.map((q) => q.reservedHighAtomic));
    expect(m.check()).toEqual([]);
  });

  it('HA2 others do not count it as free, and cannot have it', () => {
    const { m, user, kernel, p } = tight(2300);
    m.alloc(kernel, toOrder(3), { rights: 'atomic' });
    const reserved = p.alloc.nrFreeHighAtomic();
    const { min } = p.watermarks;
    let pfn = m.alloc(user, toOrder(0)) as Pfn;
    while (p.alloc.nrFree() - reserved > min + 63) {
      pfn = m.alloc(user, toOrder(0)) as Pfn;
      expect(typeAt(m, pfn)).not.toBe(MIGRATE_HIGHATOMIC);
    }
    expect(p.alloc.nrFreeHighAtomic()).toBe(reserved);
  });

  it('HA3 when nothing else is left a reserved pageblock goes back, as the type of who needs it', () => {
    const { m, user, kernel, p } = tight(2300);
    const pfn = m.alloc(kernel, toOrder(3), { rights: 'atomic' }) as Pfn;
    while (p.reservedHighAtomic > 0) {
      if (m.alloc(user, toOrder(0)) === -1) break;
    }
    expect(p.reservedHighAtomic).toBe(0);
    expect(typeAt(m, pfn)).toBe(MIGRATE_MOVABLE);
    expect(p.alloc.nrFreeHighAtomic()).toBe(0);
    expect(m.check()).toEqual([]);
  });
});

it('AP1 topZone: below 4 GiB when asked for', () => {
  const w = world([
    [2 * S, 3 * S],
    [4 * G, 4 * G + S],
  ]);
  expect(w.m.alloc(w.kernel, 0 as Order, { topZone: ZONE_DMA32 })).toBeLessThan(4 * G);
});
