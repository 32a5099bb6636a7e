// Blocks by cost, step by step, on drawn worlds. Rules DF3 to DF5, DF12, docs/spec/defrag.md. A cell is 64 frames.

import { describe, expect, it } from 'vitest';
import { toNodeId, toOrder, toPfn } from '#base/units';
import { pictureOf, worldFrom } from '../../../test/support/picture.ts';
import { MIGRATE_ISOLATE, MIGRATE_UNMOVABLE } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { MIGRATE_FAULT_POINTS } from '../migrate.ts';
import type { Pool } from '../pool.ts';
import { blockMaker, MAKER_KINDS } from './block-maker.ts';
import { ByCost } from './by-cost.ts';
import { freeBlocks } from './thresholds.ts';

const poolOf = (m: Machine): Pool => m.poolNamed(toNodeId(0), 'Normal') as Pool;

/** To the end, in steps of so many pages; what every step must leave behind is checked. */
function toTheEnd(
  m: Machine,
  pool: Pool,
  order = 9,
  pages = 32,
  between?: (step: number) => void,
): { moved: number; steps: number; over: string } {
  const maker = new ByCost(m, pool, order);
  let moved = 0;
  let steps = 0;
  for (; maker.over === undefined; steps++) {
    expect(steps).toBeLessThan(5000);
    pool.alloc.disable();
    const n = maker.step(pages);
    pool.alloc.enable();
    expect(n).toBeLessThanOrEqual(pages);
    moved += n;
    if (steps % 50 === 0) expect(m.check(2)).toEqual([]);
    for (let i = 0; i < pool.pages; i += 512) expect(pool.alloc.area.typeOf(i)).not.toBe(MIGRATE_ISOLATE);
    between?.(steps);
  }
  expect(m.check()).toEqual([]);
  return { moved, steps, over: maker.over };
}

describe('which block, and where its pages go', () => {
  it('DF3 the cheapest is emptied, the piece that cannot be emptied takes its pages', () => {
    const { m } = worldFrom('n0 Normal mmmm....|mm......|m.m.m.m.|U....... *m');
    const pool = poolOf(m);
    expect(toTheEnd(m, pool)).toEqual({ moved: 128, steps: 4, over: 'made' });
    expect(pictureOf(m)).toBe('n0 Normal   mmmm....|........|m.m.m.m.|Umm..... *m');
  });

  it('DF3 without such a piece the dearest takes them; free pageblocks are not broken', () => {
    const { m } = worldFrom('n0 Normal mm......|mmmm....|........|mmmmmm.. *m');
    const pool = poolOf(m);
    expect(freeBlocks(pool, 9)).toBe(1);
    expect(toTheEnd(m, pool).over).toBe('made');
    expect(pictureOf(m)).toBe('n0 Normal   ........|mmmm....|........ *m');
    expect(toTheEnd(m, pool)).toMatchObject({ moved: 0, over: 'nothing' }); // nothing to move to but free pageblocks
    expect(freeBlocks(pool, 9)).toBe(2);
  });

  it('DF3 guests go to Movable pageblocks only', () => {
    const { m } = worldFrom('n0 Normal mm......|mmmm....|U....... *m');
    const pool = poolOf(m);
    pool.alloc.setPageblockType(2 * 512, MIGRATE_UNMOVABLE);
    expect(toTheEnd(m, pool).over).toBe('made');
    expect(pictureOf(m)).toBe('n0 Normal   ........|mmmmmm..|U:U....... *m');
  });

  it('DF3 for order 10 both halves of a chunk are emptied', () => {
    const { m } = worldFrom('n0 Normal mm......|........|mmm.....|m.......|U...U...|U....... *m');
    const pool = poolOf(m);
    expect(toTheEnd(m, pool, 10)).toMatchObject({ moved: 128, over: 'made' });
    expect(freeBlocks(pool, 10)).toBe(1);
    expect(pictureOf(m)).toBe('n0 Normal   ........|........|mmm.....|m.......|Um..Um..|U....... *m');
  });

  it('DF3 larger pages move to free chunks of their size, huge ones stay', () => {
    const { m } = worldFrom('n0 Normal M.......|U.M.....|TTTTTTTT *m');
    const pool = poolOf(m);
    expect(toTheEnd(m, pool, 9, 64)).toMatchObject({ moved: 64, over: 'made' });
    expect(pictureOf(m)).toBe('n0 Normal   ........|UMM.....|TTTTTTTT *m');
    // A step that may not move so much gives the piece up.
    const again = worldFrom('n0 Normal M.......|U.M.....|TTTTTTTT *m');
    expect(toTheEnd(again.m, poolOf(again.m), 9, 32)).toMatchObject({ moved: 0, over: 'nothing' });
  });

  it('DF3 a pool without anything to gain ends at once', () => {
    for (const text of ['n0 Normal ........', 'n0 Normal mmmmmmmm *m', 'n0 Normal U....... *U']) {
      const { m } = worldFrom(text);
      expect(toTheEnd(m, poolOf(m)), text).toMatchObject({ moved: 0, over: 'nothing' });
    }
  });
});

describe('underneath', () => {
  it.each([1, 7, 32])('DF4 in steps of %i pages: the same world in the end, nothing held between', (pages) => {
    const { m } = worldFrom('n0 Normal mmmm....|mm......|m.m.m.m.|U....... *m');
    expect(toTheEnd(m, poolOf(m), 9, pages)).toMatchObject({
      moved: 128,
      over: 'made',
      steps: Math.ceil(128 / pages),
    });
  });

  it('DF5 pages that come to the source while it is emptied are moved once more', () => {
    const { m } = worldFrom('n0 Normal mm......|mmmm....|U....... *m', { placement: 'address' });
    const pool = poolOf(m);
    const guest = m.addHolder({ class: 'anonymous', name: 'guest' });
    let came = 0;
    const r = toTheEnd(m, pool, 9, 32, (step) => {
      if (step >= 3) return;
      came += Number((m.alloc(guest, toOrder(0)) as number) < 512); // the lowest address: the source
    });
    expect(came).toBe(3);
    expect(r).toMatchObject({ moved: 128 + 3, over: 'made' });
  });

  it('DF5 what stays makes the run go to the next source, four at most', () => {
    const { m } = worldFrom(
      'n0 Normal m.......|mm......|mmm.....|mmmm....|mmmm.m..|mmmm.mm.|U.......|U.......|U....... *m',
    );
    const pool = poolOf(m);
    const pin = (pb: number): void => m.pin(toPfn(pb * 512 + 5));
    // Pinned only when the run has begun: chunk costs would have left them out.
    let done = false;
    const r = toTheEnd(m, pool, 9, 1, () => {
      if (done) return;
      pin(0);
      pin(1);
      done = true;
    });
    expect(r.over).toBe('made');
    expect(pictureOf(m)).toMatch(/^n0 Normal [^|]*\|[^|]*\|\.{8}\|mmmm\.{4}\|/);
    expect(m.frame(toPfn(5))).toMatchObject({ pinned: true });

    const all = worldFrom(
      'n0 Normal m.......|mm......|mmm.....|mmmm....|mmmm.m..|mmmm.mm.|U.......|U.......|U....... *m',
    );
    const late = toTheEnd(all.m, poolOf(all.m), 9, 1, (step) => {
      if (step === 0) for (let pb = 0; pb < 6; pb++) all.m.pin(toPfn(pb * 512 + 5));
    });
    expect(late.over).toBe('nothing');
    expect(late.moved).toBe(63 + 127 + 191 + 255);
  });

  it('DF12 a fault at each step costs that page once, and nothing else', () => {
    for (const point of [
      ...MIGRATE_FAULT_POINTS.filter((p) => p !== 'migrate.reserve' && p !== 'migrate.writeout'),
      'defrag.target',
    ]) {
      const { m } = worldFrom('n0 Normal mmmm....|mm......|m.m.m.m.|U....... *m');
      let asked = 0;
      m.faultAt = (p) => p === point && ++asked === 40;
      const r = toTheEnd(m, poolOf(m));
      expect(asked, point).toBeGreaterThanOrEqual(40);
      // Without a target the run is over; a page that failed is taken by the second sweep.
      expect(r, point).toMatchObject(
        point === 'defrag.target' ? { moved: 39, over: 'nothing' } : { moved: 128, over: 'made' },
      );
      m.faultAt = undefined;
      expect(toTheEnd(m, poolOf(m)).over).toBe('made');
    }
  });

  it.each(MAKER_KINDS)('DF4 a run that is cancelled leaves nothing behind (%s)', (kind) => {
    const { m } = worldFrom('n0 Normal mmmm....|mm......|m.m.m.m.|U....... *m');
    const maker = blockMaker(kind, m, poolOf(m), 9);
    expect(maker.step(32)).toBe(32);
    maker.cancel();
    expect(maker.over).toBe('nothing');
    expect(maker.step(32)).toBe(0);
    expect(m.check()).toEqual([]);
  });

  it.each(MAKER_KINDS)('DF5 a run ends with a block, or because there is none (%s)', (kind) => {
    const { m } = worldFrom('n0 Normal mmmm....|mm......|m.m.m.m.|mmmmmm.. *m');
    const pool = poolOf(m);
    const before = freeBlocks(pool, 9);
    let runs = 0;
    for (let over: string | undefined = 'made'; over === 'made'; runs++) {
      const maker = blockMaker(kind, m, pool, 9);
      for (let k = 0; maker.over === undefined; k++) {
        expect(k).toBeLessThan(5000);
        maker.step(32);
      }
      over = maker.over;
      expect(m.check()).toEqual([]);
    }
    expect(freeBlocks(pool, 9) - before).toBe(runs - 1);
    expect(runs - 1).toBe(2); // 16 cells are used, 14 free: what fits into two pageblocks less
  });
});
