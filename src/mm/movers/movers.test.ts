// Movers by class, what keeps a page, faults at each step. Rules MV1..MV7, docs/spec/movers.md.

import { describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { worldFrom } from '../../../test/support/picture.ts';
import { PAGES_PER_SECTION } from '../geometry.ts';
import type { HolderSpec } from '../holder.ts';
import { kremap } from '../kremap/kremap.ts';
import type { Machine } from '../machine.ts';
import { type FaultPoint, MIGRATE_FAULT_POINTS, type MigrateMode, migrateAllocation } from '../migrate.ts';
import { CLASS_TRAITS, PAGE_CLASSES } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { META_DIRTY, META_WRITEBACK } from '../section.ts';
import { moverAt, moverOfSpec } from './table.ts';

type World = { m: Machine; h: HolderId; pfn: Pfn; head: number; to: Int32Array };

/** One page of a holder on node 0, with a byte in it; room on both nodes. */
function world(spec: Omit<HolderSpec, 'node'>, order = 0): World {
  const { m } = worldFrom('n0 Normal ........\n n1 Normal ........', { contents: 'bytes' });
  const h = m.addHolder(spec);
  const pfn = toPfn(m.alloc(h, toOrder(order), { node: toNodeId(0) }));
  m.write(pfn, 7, Uint8Array.of(42));
  const to = Int32Array.of((m.poolNamed(toNodeId(1), 'Normal') as Pool).id);
  return { m, h, pfn, head: m.sections.indexOf(pfn), to };
}

/** Where the holder's only allocation is, and its byte. */
function placeOf({ m, h }: World): { pfn: Pfn; node: number; byte: number; flags: number } {
  let at = toPfn(-1);
  m.forEachFrameOf(h, (pfn) => {
    at = pfn;
  });
  const index = m.sections.indexOf(at);
  return {
    pfn: at,
    node: (m.zoneAt(index) as Pool).node,
    byte: m.read(at)[7],
    flags: m.sections.metaAt(index) & (META_DIRTY | META_WRITEBACK),
  };
}

const freeFrames = (m: Machine): number => {
  for (const p of m.pools) p.alloc.drain();
  return m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0);
};

describe('which mover', () => {
  it('MV1 a class has one if and only if its traits say that it moves; its owner may know better, either way', () => {
    for (const cls of PAGE_CLASSES) {
      const { mobility, managed } = CLASS_TRAITS[cls];
      const moves = mobility === 'lru' || mobility === 'driver';
      expect(moverOfSpec({ class: cls }) !== undefined, cls).toBe(moves);
      expect(moverOfSpec({ class: cls, moves: false }), cls).toBeUndefined();
      expect(moverOfSpec({ class: cls, moves: true })?.name, cls).toBe(
        moves ? moverOfSpec({ class: cls })?.name : 'movable-ops',
      );
      if (managed) {
        for (const word of [undefined, true, false]) {
          const w = world({ class: cls, name: cls, ...(word !== undefined && { moves: word }) });
          const mover = moverAt(w.m, w.head);
          expect(mover, cls).toBe(moverOfSpec({ class: cls, ...(word !== undefined && { moves: word }) }));
          expect(migrateAllocation(w.m, w.head, w.to), cls).toBe(mover === undefined ? 'final' : 'moved');
          expect(placeOf(w)).toMatchObject({ node: mover === undefined ? 0 : 1, byte: 42 });
        }
      } else {
        const m = world({ class: 'slab', name: 's' }).m;
        expect(() => m.addHolder({ class: cls, name: cls, moves: true })).toThrow(/not managed/);
      }
    }
  });

  it('MV1 requests follow the owner: __GFP_MOVABLE when it moves them, never in Movable when they stay', () => {
    const { m } = worldFrom('n0 Normal U:........|........\n n0 Movable ........');
    const where = (spec: Omit<HolderSpec, 'node'>): [string, number] => {
      const index = m.sections.indexOf(toPfn(m.alloc(m.addHolder(spec), toOrder(0))));
      const pool = m.poolAt(index) as Pool;
      return [pool.name, pool.alloc.area.typeOf(index - pool.base)];
    };
    expect(where({ class: 'slab', name: 'kernel' })).toEqual(['Normal', 0]);
    expect(where({ class: 'slab', name: 'its owner moves it', moves: true })).toEqual(['Normal', 1]);
    expect(where({ class: 'anonymous', name: 'process' })).toEqual(['Movable', 1]);
    expect(where({ class: 'anonymous', name: 'pinned for long', moves: false })).toEqual(['Normal', 0]);
    expect(where({ class: 'movable-ops', name: 'zsmalloc' })).toEqual(['Movable', 1]);
    expect(m.check()).toEqual([]);
  });
});

describe('what keeps a page', () => {
  it('MV2 dirty files keep their dirtiness; without a migrate callback they are written back first, by who may wait', () => {
    const dirty = (spec: Partial<HolderSpec>): World => {
      const w = world({ class: 'file', name: 'log', ...spec });
      w.m.setPageFlags(w.pfn, { dirty: true });
      return w;
    };
    for (const mode of ['async', 'sync-light', 'sync'] as const) {
      const w = dirty({});
      expect(migrateAllocation(w.m, w.head, w.to, mode)).toBe('moved');
      expect(placeOf(w)).toMatchObject({ node: 1, byte: 42, flags: META_DIRTY });
    }
    for (const [mode, fails] of [
      ['async', 0],
      ['sync-light', 1],
    ] as [MigrateMode, number][]) {
      const w = dirty({ migrateCallback: false });
      expect(migrateAllocation(w.m, w.head, w.to, mode)).toBe('writeback');
      expect(placeOf(w)).toMatchObject({ pfn: w.pfn, flags: META_DIRTY });
      expect(w.m.vmstat.pgmigrate_fail).toBe(fails);
      w.m.setPageFlags(w.pfn, { dirty: false });
      expect(migrateAllocation(w.m, w.head, w.to, mode)).toBe('moved');
    }
    const w = dirty({ migrateCallback: false });
    expect(migrateAllocation(w.m, w.head, w.to)).toBe('writeback');
    expect(placeOf(w)).toMatchObject({ pfn: w.pfn, flags: 0 });
    expect(migrateAllocation(w.m, w.head, w.to)).toBe('moved');
    expect(placeOf(w)).toMatchObject({ node: 1, byte: 42, flags: 0 });
    expect(w.m.check()).toEqual([]);
  });

  it('MV2 a write that fails leaves the page dirty; a page that storage still reads waits for its end', () => {
    const w = world({ class: 'file', name: 'log', migrateCallback: false });
    w.m.setPageFlags(w.pfn, { dirty: true });
    w.m.faultAt = (point) => point === 'migrate.writeout';
    expect(migrateAllocation(w.m, w.head, w.to)).toBe('fault');
    expect(placeOf(w)).toMatchObject({ pfn: w.pfn, flags: META_DIRTY });
    w.m.faultAt = undefined;
    expect(migrateAllocation(w.m, w.head, w.to)).toBe('writeback');
    w.m.setPageFlags(w.pfn, { writeback: true });
    expect(migrateAllocation(w.m, w.head, w.to)).toBe('writeback');
    w.m.setPageFlags(w.pfn, { writeback: false });
    expect(migrateAllocation(w.m, w.head, w.to)).toBe('moved');
    expect(w.m.check()).toEqual([]);
  });

  it('MV2 an offline has what is dirty written back, and ends', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n1 Normal ........');
    const h = m.addHolder({ class: 'file', name: 'old file system', migrateCallback: false, node: toNodeId(0) });
    for (let k = 0; k < 100; k++) m.setPageFlags(toPfn(m.alloc(h, toOrder(0))), { dirty: true });
    const left = m.offline(block(0));
    expect(left).toMatchObject({ ok: true, value: { migratedPages: 100 } });
    expect(m.vmstat.pgmigrate_fail).toBe(100);
    expect(m.check()).toEqual([]);
  });

  it('MV3 a pin keeps every class that moves, a writeback those on the LRU; attempts are counted, async passes by storage', () => {
    for (const cls of PAGE_CLASSES) {
      if (moverOfSpec({ class: cls }) === undefined) continue;
      const w = world({ class: cls, name: cls });
      w.m.pin(w.pfn);
      for (const mode of ['async', 'sync-light', 'sync'] as const) {
        expect(migrateAllocation(w.m, w.head, w.to, mode), cls).toBe('pinned');
      }
      expect(w.m.vmstat.pgmigrate_fail).toBe(3);
      w.m.unpin(w.pfn);
      w.m.setPageFlags(w.pfn, { writeback: true });
      const lru = CLASS_TRAITS[cls].mobility === 'lru';
      expect(migrateAllocation(w.m, w.head, w.to, 'async'), cls).toBe(lru ? 'writeback' : 'moved');
      expect(w.m.vmstat.pgmigrate_fail).toBe(3);
      if (lru) expect(migrateAllocation(w.m, w.head, w.to, 'sync-light'), cls).toBe('writeback');
      expect(w.m.vmstat.pgmigrate_fail).toBe(lru ? 4 : 3);
      expect(w.m.check()).toEqual([]);
    }
  });
});

describe('faults', () => {
  it('MV4 at each step of each class: the page is as it was, the target is free again, and it moves when it is over', () => {
    const steps = MIGRATE_FAULT_POINTS.filter(
      (p): p is Exclude<FaultPoint, 'migrate.writeout'> => p !== 'migrate.writeout',
    );
    expect(steps).toEqual(['migrate.reserve', 'migrate.unmap', 'migrate.copy', 'migrate.switch']);
    for (const cls of PAGE_CLASSES) {
      if (moverOfSpec({ class: cls }) === undefined) continue;
      for (const order of [0, 9]) {
        for (const step of steps) {
          const w = world({ class: cls, name: cls }, order);
          w.m.setPageFlags(w.pfn, { dirty: true });
          const before = { place: placeOf(w), free: freeFrames(w.m), managed: w.m.pools.map((p) => p.managed) };
          let asked = 0;
          w.m.faultAt = (point) => {
            asked++;
            return point === step;
          };
          const why = `${cls}, order ${order}, ${step}`;
          expect(migrateAllocation(w.m, w.head, w.to), why).toBe(step === 'migrate.reserve' ? 'no-target' : 'fault');
          expect(asked, why).toBe(steps.indexOf(step) + 1);
          expect({ place: placeOf(w), free: freeFrames(w.m), managed: w.m.pools.map((p) => p.managed) }, why).toEqual(
            before,
          );
          expect(w.m.vmstat).toMatchObject({ pgmigrate_success: 0, pgmigrate_fail: 2 ** order });
          w.m.faultAt = () => false;
          expect(migrateAllocation(w.m, w.head, w.to), why).toBe('moved');
          expect(placeOf(w), why).toMatchObject({ node: 1, byte: 42, flags: META_DIRTY });
          expect(w.m.check(), why).toEqual([]);
        }
      }
    }
  });

  it('MV4 an offline whose steps fail now and then ends; one whose steps always fail is refused, and nothing has changed', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n1 Normal ........', { contents: 'bytes' });
    const h = m.addHolder({ class: 'anonymous', name: 'a', node: toNodeId(0) });
    for (let k = 0; k < 64; k++) m.write(toPfn(m.alloc(h, toOrder(0))), 0, Uint8Array.of(k));
    const before = m.digest();
    m.faultAt = (point) => point === 'migrate.copy';
    const refused = m.offline(block(0));
    expect(refused).toMatchObject({ ok: false, error: { errno: 'EBUSY' } });
    if (!refused.ok) expect(refused.error.blockers.map((b) => b.cause)).toEqual(['fault']);
    expect(m.digest()).toBe(before);
    let n = 0;
    m.faultAt = () => ++n % 7 === 0; // a page that moves asks four times
    expect(m.offline(block(0)).ok).toBe(true);
    const bytes: number[] = [];
    m.forEachFrameOf(h, (pfn, _order, index) => bytes.push(m.read(pfn)[0] - index));
    expect(bytes).toEqual(Array.from({ length: 64 }, () => 0));
    expect(m.check()).toEqual([]);
  });
});

describe('kernel objects and page tables', () => {
  it('MV5 movable-ops pages leave a kernel zone with their block and are never split', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n1 Normal ........', { contents: 'bytes' });
    const h = m.addHolder({ class: 'movable-ops', name: 'zsmalloc', node: toNodeId(0) });
    const pfn = toPfn(m.alloc(h, toOrder(3)));
    m.write(toPfn(pfn + 5), 0, Uint8Array.of(99));
    expect(m.fork().offline(block(0)).ok).toBe(true);
    // Node 1 is full of holes: there is no run of 8.
    const filler = m.addHolder({ class: 'slab', name: 'filler', node: toNodeId(1) });
    const singles: Pfn[] = [];
    for (let p = m.alloc(filler, toOrder(0), { thisNode: true }); p >= 0; ) {
      singles.push(toPfn(p));
      p = m.alloc(filler, toOrder(0), { thisNode: true });
    }
    for (const p of singles) if (p % 2 === 0) m.free(p);
    const refused = m.offline(block(0));
    expect(refused).toMatchObject({ ok: false, error: { reason: 'no-target', errno: 'EINTR' } });
    expect(m.frame(pfn)).toMatchObject({ order: 3, class: 'movable-ops' });
    for (const p of singles) if (p % 2 === 1) m.free(p);
    expect(m.offline(block(0)).ok).toBe(true);
    let at = toPfn(0);
    m.forEachFrameOf(h, (p) => {
      at = p;
    });
    expect(m.read(toPfn(at + 5))[0]).toBe(99);
    expect(m.check()).toEqual([]);
  });

  it('MV5 what its owner moves leaves Movable, whatever its class; elsewhere isolation knows nothing of it', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n0 Movable ........\n n0 Normal ........');
    const h = m.addHolder({ class: 'driver', name: 'its driver moves it', moves: true });
    const stays = m.addHolder({ class: 'driver', name: 'of the same class' });
    const pages = [h, stays].map((x) => toPfn(m.alloc(x, toOrder(0), { movable: true })));
    expect(m.frame(pages[0]).state === 'used' && (m.frame(pages[0]) as { pool: Pool }).pool.name).toBe('Movable');
    const refused = m.fork().offline(block(1));
    expect(refused).toMatchObject({ ok: false, error: { reason: 'stuck' } });
    if (!refused.ok) expect(refused.error.blockers.map((b) => b.name)).toEqual(['of the same class']);
    m.free(pages[1]);
    expect(m.offline(block(1)).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('MV6 a page table moves by the entry of its parent, when remapping is asked for it; no ordinary migration does it', () => {
    const w = world({ class: 'pagetable', name: 'shell' });
    expect(migrateAllocation(w.m, w.head, w.to)).toBe('final');
    const target = w.m.sections.pfnOf(w.m.sections.indexOf(toPfn(PAGES_PER_SECTION + 512)));
    w.m.pin(w.pfn);
    expect(kremap(w.m).move(w.pfn, target)).toMatchObject({ ok: false, error: { reason: 'in-use' } });
    w.m.unpin(w.pfn);
    expect(kremap(w.m).move(w.pfn, target).ok).toBe(true);
    expect(placeOf(w)).toMatchObject({ node: 1, byte: 42 });
    expect(w.m.frame(w.pfn).state).toBe('free');
    expect(w.m.check()).toEqual([]);
  });
});
