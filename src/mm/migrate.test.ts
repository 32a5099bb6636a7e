// Moving allocations. Rules H4, H5, O9..O11, docs/spec/frames-and-holders.md and isolation-and-offline.md.

import { describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { CELL_PAGES, drawn, pictureOf, worldFrom } from '../../test/support/picture.ts';
import type { Machine } from './machine.ts';
import { migrateAllocation, offlineTargets, splitAllocation } from './migrate.ts';
import { CLASS_TRAITS, PAGE_CLASSES } from './page-class.ts';
import type { Pool } from './pool.ts';

const poolsOf = (m: Machine, ...names: [number, 'DMA' | 'DMA32' | 'Normal' | 'Movable'][]): Int32Array =>
  Int32Array.from(names, ([node, zone]) => (m.poolNamed(toNodeId(node), zone) as Pool).id);

const framesOf = (m: Machine, holder: HolderId): [Pfn, number, number][] => {
  const out: [Pfn, number, number][] = [];
  m.forEachFrameOf(holder, (head, order, index) => out.push([head, order, index]));
  return out;
};

describe('migrateAllocation', () => {
  for (const order of [0, 1, 6, 9, 10]) {
    it(`H4 order ${order}: holder, index and contents are at the new place; the old frames are free`, () => {
      const { m, holder, at } = worldFrom('n0 Normal ........\n n1 Normal ........', { contents: 'bytes' });
      const a = holder('M');
      const other = m.alloc(a, toOrder(3), { node: toNodeId(1) });
      const pfn = toPfn(m.alloc(a, toOrder(order)));
      for (let k = 0; k < 2 ** order; k++) m.write(toPfn(pfn + k), 100, Uint8Array.of(k, k >> 8, 77));
      expect(migrateAllocation(m, m.sections.indexOf(pfn), poolsOf(m, [1, 'Normal']))).toBe('moved');
      const [, [to, movedOrder, index]] = framesOf(m, a);
      expect([to >= at(1), movedOrder, index]).toEqual([true, order, 1]);
      expect(m.frame(to)).toMatchObject({ state: 'used', head: to, order, holder: a, index: 1, pinned: false });
      for (let k = 0; k < 2 ** order; k++) {
        expect(m.read(toPfn(to + k)).slice(100, 103)).toEqual(Uint8Array.of(k, k >> 8, 77));
        expect(m.frame(toPfn(pfn + k)).state).toBe('free');
      }
      expect(m.vmstat).toMatchObject({ pgmigrate_success: 2 ** order, pgmigrate_fail: 0 });
      expect(framesOf(m, a)[0][0]).toBe(other);
      expect(m.check()).toEqual([]);
      // Whoever gets the old frames finds none of it.
      for (const p of m.pools) p.alloc.drain();
      const next = toPfn(m.alloc(holder('F'), toOrder(order)));
      expect(next).toBe(pfn);
      expect(m.read(next).every((b) => b === 0)).toBe(true);
    });
  }

  it('O11 a pinned one stays, and is counted as a failure', () => {
    const { m, at } = worldFrom('n0 Normal P.......\n n1 Normal ........');
    const before = m.digest();
    expect(migrateAllocation(m, 0, poolsOf(m, [1, 'Normal']))).toBe('pinned');
    expect(m.vmstat.pgmigrate_fail).toBe(CELL_PAGES);
    expect(m.digest()).toBe(before);
    m.unpin(at(0));
    expect(migrateAllocation(m, 0, poolsOf(m, [1, 'Normal']))).toBe('moved');
  });

  it('H4 a class moves if and only if its traits say so', () => {
    for (const cls of PAGE_CLASSES) {
      const { m } = worldFrom('n0 Normal ........\n n1 Normal ........');
      const h = m.addHolder({ class: cls, name: cls });
      const pfn = toPfn(m.alloc(h, toOrder(0), { node: toNodeId(0) }));
      const outcome = migrateAllocation(m, m.sections.indexOf(pfn), poolsOf(m, [1, 'Normal']));
      const { mobility } = CLASS_TRAITS[cls];
      expect(outcome, cls).toBe(mobility === 'lru' || mobility === 'driver' ? 'moved' : 'final');
      expect(m.check(), cls).toEqual([]);
    }
  });

  it('H7 a balloon that moves to another pool takes its hole in managed along', () => {
    const { m } = worldFrom('n0 Normal B.......\n n1 Normal ........');
    const [from, to] = [m.poolNamed(toNodeId(0), 'Normal') as Pool, m.poolNamed(toNodeId(1), 'Normal') as Pool];
    const before = [from.managed, to.managed];
    expect(migrateAllocation(m, 0, poolsOf(m, [1, 'Normal']))).toBe('moved');
    expect([from.managed, to.managed]).toEqual([before[0] + CELL_PAGES, before[1] - CELL_PAGES]);
    expect(m.check()).toEqual([]);
  });

  it('O10 without room a large one is split and moves as far as there is room; hugetlb and single frames wait', () => {
    const { m } = worldFrom('n0 Normal TTTTTTTT|HHHHHHHH|m.......\n n1 Normal ..UUUUUU *U');
    const to = poolsOf(m, [1, 'Normal']);
    expect(migrateAllocation(m, 512, to)).toBe('no-target');
    expect(pictureOf(m).split('\n')[0]).toContain('HHHHHHHH');
    expect(migrateAllocation(m, 0, to)).toBe('no-target');
    expect(pictureOf(m)).toBe(drawn('n0 Normal ..mmmmmm|HHHHHHHH|m.......\n n1 Normal mmUUUUUU *U'));
    expect(migrateAllocation(m, 1024, to)).toBe('no-target');
    expect(m.vmstat).toMatchObject({ pgmigrate_success: 128, pgmigrate_fail: 512 + 384 + 1 });
    expect(m.check()).toEqual([]);
  });
});

describe('a slow path that takes the page away', () => {
  it('MV12 dropped, moved or split while room was made for it: nothing moves twice, nothing is lost', () => {
    for (const order of [0, 2]) {
      for (const deed of ['drop', 'move', 'split'] as const) {
        const { m, holder } = worldFrom('n0 Normal ........\n n1 Normal ........');
        const a = holder('M');
        const pfn = toPfn(m.alloc(a, toOrder(order)));
        const head = m.sections.indexOf(pfn);
        const to = poolsOf(m, [1, 'Normal']);
        // Node 1 is full, so that the first search fails; the slow path then makes room, at the page's cost.
        const filler = m.addHolder({ class: 'anonymous', name: 'filler' });
        const filled: Pfn[] = [];
        for (let k = 10; k >= 0; ) {
          const f = m.alloc(filler, toOrder(k), { node: toNodeId(1), thisNode: true });
          if (f < 0) k--;
          else filled.push(toPfn(f));
        }
        m.slowPath = (machine) => {
          machine.slowPath = undefined;
          for (const f of filled) machine.free(f);
          if (deed === 'drop') machine.free(pfn);
          else if (deed === 'split') splitAllocation(machine, head);
          else expect(migrateAllocation(machine, head, poolsOf(m, [0, 'Normal']))).toBe('moved');
          machine.slowPath = () => 'failed';
          return 'retry';
        };
        const outcome = migrateAllocation(m, head, to);
        const stays = deed === 'split' && order === 0; // one frame is no less whole than before
        expect(outcome, `${deed} ${order}`).toBe(stays ? 'moved' : 'no-target');
        expect(m.holders.pages[a]).toBe(deed === 'drop' ? 0 : 1 << order);
        expect(m.check(), `${deed} ${order}`).toEqual([]);
      }
    }
  });
});

describe('offlineTargets', () => {
  const named = (m: Machine, zone: 'DMA32' | 'Normal' | 'Movable', node = 0): string[] =>
    Array.from(offlineTargets(m, m.poolNamed(toNodeId(node), zone) as Pool), (id) => m.pools[id].title);

  it('O9 other nodes by distance; kernel zones for a kernel zone, Movable first for Movable', () => {
    const { m } = worldFrom(
      `
      n0 DMA32 ........
      n0 Movable ........
      n1 Normal ........
      n1 Movable ........
      n2 Normal ........
    `,
      {
        distance: [
          [10, 40, 20],
          [40, 10, 20],
          [20, 20, 10],
        ],
      },
    );
    expect(named(m, 'DMA32').slice(0, 2)).toEqual(['Node 2, zone Normal', 'Node 1, zone Normal']);
    // Node 2 has no memory in Movable: that zone is in no list.
    expect(named(m, 'Movable')).toEqual(['Node 2, zone Normal', 'Node 1, zone Movable', 'Node 1, zone Normal']);
  });

  it('O9 a node whose memory is all offline does not count; then the own node it is', () => {
    const { m, block } = worldFrom('n0 DMA32 ........\n n1 Normal ........');
    expect(named(m, 'DMA32')).toEqual(['Node 1, zone Normal']);
    m.offline(block(1));
    expect(named(m, 'DMA32').filter((t) => t.startsWith('Node 0'))).toContain('Node 0, zone DMA32');
  });
});

describe('splitAllocation', () => {
  it('H5 the parts are single frames of the same holder in place, with their bytes; the first keeps the index', () => {
    const { m, holder } = worldFrom('n0 Normal ........', { contents: 'bytes' });
    const a = holder('M');
    m.alloc(a, toOrder(0));
    const pfn = toPfn(m.alloc(a, toOrder(9)));
    m.alloc(a, toOrder(0));
    for (const k of [0, 1, 511]) m.write(toPfn(pfn + k), 0, Uint8Array.of(k & 255, 9));
    splitAllocation(m, m.sections.indexOf(pfn));
    const frames = framesOf(m, a);
    expect(frames.length).toBe(514);
    expect(new Set(frames.map(([, order]) => order))).toEqual(new Set([0]));
    expect(frames[1]).toEqual([pfn, 0, 1]);
    for (const k of [0, 1, 511]) expect(m.read(toPfn(pfn + k)).slice(0, 2)).toEqual(Uint8Array.of(k & 255, 9));
    expect([m.holders.members[a], m.holders.pages[a]]).toEqual([514, 514]);
    expect(m.check()).toEqual([]);
    m.free(toPfn(pfn + 300));
    expect(m.frame(toPfn(pfn + 300)).state).toBe('free');
    expect(m.check()).toEqual([]);
  });

  it('H5 a pinned allocation, a tail and a free frame cannot be split: bugs, told as such', () => {
    const { m } = worldFrom('n0 Normal P.M.....');
    expect(() => splitAllocation(m, 0)).toThrow(/pinned/);
    expect(() => splitAllocation(m, 2 * CELL_PAGES + 1)).toThrow(/no head/);
    expect(() => splitAllocation(m, CELL_PAGES)).toThrow(/no head/);
    expect(m.check()).toEqual([]);
  });

  it('H5 splitting a single frame changes nothing', () => {
    const { m } = worldFrom('n0 Normal m.......');
    const before = m.digest();
    splitAllocation(m, 0);
    expect(m.digest()).toBe(before);
  });
});
