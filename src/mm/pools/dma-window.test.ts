// DMA windows and buffers by example: boxes as one finds them, with the numbers worked out by hand.

import { describe, expect, it } from 'vitest';
import { toNodeId, toPfn } from '#base/units';
import { PAGE_SIZE } from '../geometry.ts';
import { placeBuffer, violationOf } from './dma-buffer.ts';
import { type Extent, extent, framesOf, pagesOf } from './dma-extent.ts';
import { type DmaForm, type DmaRule, formOfRule, restricted } from './dma-rule.ts';
import {
  chooseWindow,
  type EvacuationCost,
  type NodeMemory,
  type NoWindow,
  type WindowChoice,
  windowAt,
} from './dma-window.ts';

const mib = (n: number): number => n * framesOf(20);
const gib = (n: number): number => n * framesOf(30);
const free: EvacuationCost = () => 0;

const form = (rule: DmaRule): DmaForm => {
  const made = formOfRule(rule);
  if (!made.ok) throw new Error(made.error.message);
  return made.value;
};
const at = (node: number, distance: number, ...extents: Extent[]): NodeMemory => ({
  node: toNodeId(node),
  distance,
  extents,
});
const choose = (
  rule: DmaRule | DmaForm,
  memory: NodeMemory[],
  pages: number,
  cost: EvacuationCost = free,
): WindowChoice => {
  const said = chooseWindow('key' in rule ? rule : form(rule), memory, { min: pages, max: 2 * pages }, cost);
  if (!said.ok) throw new Error(said.error.refusal.message);
  return said.value;
};
const refused = (rule: DmaRule, memory: NodeMemory[], pages: number, cost = free): NoWindow => {
  const said = chooseWindow(form(rule), memory, { min: pages, max: pages }, cost);
  if (said.ok) throw new Error(`found ${JSON.stringify(said.value)}`);
  return said.error;
};

/** Four nodes of 8 GiB, distances as from node `from`: 10 itself, 16 the neighbours, 22 across. */
const box = (from: number): NodeMemory[] =>
  [0, 1, 2, 3].map((n) => {
    const hops = Math.min((n - from + 4) % 4, (from - n + 4) % 4);
    return at(n, 10 + 6 * hops, extent(gib(8 * n) + (n === 0 ? 1 : 0), gib(8 * n + 8)));
  });

describe('where a pool lies', () => {
  it('DR14 four nodes: each device gets the memory of its own node, the highest of it', () => {
    for (const n of [1, 2, 3]) {
      expect(choose({}, box(n), mib(64)).extents).toEqual([extent(gib(8 * n + 8) - mib(64), gib(8 * n + 8))]);
    }
    expect(choose({ addrMax: { bits: 24 } }, box(0), mib(1)).extents).toEqual([extent(mib(15), mib(16))]);
  });

  it('DR14 without enough at home: all of home, then the nearest', () => {
    const small = box(2).map((m) => (m.node === 2 ? { ...m, extents: [extent(gib(16), gib(16) + mib(8))] } : m));
    const got = choose({}, small, mib(24)).extents;
    expect(got).toEqual([extent(gib(16), gib(16) + mib(8)), extent(gib(32) - mib(16), gib(32))]);
  });

  it('DR14 low memory is kept even where it is free and other memory has to be vacated', () => {
    const memory = [at(0, 10, extent(1, gib(3)), extent(gib(4), gib(5)))];
    const dear: EvacuationCost = (start, end) => (start >= gib(4) ? 4 * (end - start) : 0);
    expect(choose({}, memory, mib(4), dear)).toMatchObject({
      extents: [extent(gib(5) - mib(4), gib(5))],
      cost: 4 * mib(4),
    });
    // A 32-bit device has no other choice than below 4 GiB, and leaves what is below 16 MiB alone.
    expect(choose({ addrMax: { bits: 32 } }, memory, gib(3) - mib(16), dear).extents).toEqual([
      extent(mib(16), gib(3)),
    ]);
  });

  it('DR14 nearer low memory comes before farther high memory: the distance is part of the rule', () => {
    const memory = [at(0, 10, extent(1, gib(3))), at(1, 21, extent(gib(4), gib(8)))];
    expect(choose({}, memory, mib(4)).extents).toEqual([extent(gib(3) - mib(4), gib(3))]);
  });

  it('DR14 of windows as near and as high, the cheapest to vacate; of these the highest', () => {
    const memory = [at(0, 10, extent(gib(8), gib(12)))];
    const dear: EvacuationCost = (start, end) => (start >= gib(11) ? end - start : 0);
    const got = choose({ windowBits: 30 }, memory, gib(1), dear);
    expect(got).toMatchObject({ window: extent(gib(10), gib(11)), cost: 0, room: gib(1) });
  });

  it('DR13 a window is one window: memory that is in two of them is not enough', () => {
    const memory = [at(0, 10, extent(gib(8) - mib(24), gib(8) + mib(16)))];
    expect(choose({ windowBits: 33 }, memory, mib(24)).extents).toEqual([extent(gib(8) - mib(24), gib(8))]);
    const no = refused({ windowBits: 33 }, memory, mib(32));
    expect(no.refusal.errno).toBe('ENOSPC');
    expect(no.best).toEqual({ window: extent(0, gib(8)), pages: mib(24), missing: mib(8) });
    expect(no.refusal.message).toBe(
      'no window of 8G has 8 192 pages for the DMA rule: the best, at 0x0, lacks 2 048 pages',
    );
    expect(choose({}, memory, mib(32)).extents.map((e) => e.end)).toEqual([gib(8) + mib(16)]);
  });

  it('DR13 of windows that lack as much, the highest is named', () => {
    const memory = [at(0, 10, extent(gib(8), gib(8) + 4), extent(gib(12), gib(12) + 4), extent(gib(16), gib(16) + 1))];
    expect(refused({ windowBits: 32 }, memory, 6).best).toEqual({
      window: extent(gib(12), gib(16)),
      pages: 4,
      missing: 2,
    });
  });

  it('DR14 pages that only a segment from another node reaches are as far as the farther of the two', () => {
    // The border lies inside of an aligned block: no segment begins there.
    const rule: DmaRule = { align: 2 ** 26 };
    const block = gib(8);
    const split = [at(0, 21, extent(block, block + 1)), at(1, 10, extent(block + 1, block + 4))];
    expect(choose(rule, split, 2).distance).toBe(2 * 21);
    const mirrored = [at(1, 10, extent(block, block + 1)), at(0, 21, extent(block + 1, block + 4))];
    expect(choose(rule, mirrored, 2).distance).toBe(2 * 21);
    const elsewhere = [...mirrored, at(1, 10, extent(gib(4), gib(4) + 2))];
    expect(choose(rule, elsewhere, 2)).toMatchObject({ extents: [extent(gib(4), gib(4) + 2)], distance: 2 * 10 });
  });

  it('DR13 no page at all is a refusal without a best window', () => {
    const no = refused({ addrMax: { bits: 24 } }, [at(0, 10, extent(mib(16), gib(1)))], 1);
    expect([no.refusal.reason, no.refusal.errno, no.best]).toEqual(['no-window', 'ENOSPC', undefined]);
  });

  it('DR16 required nodes only, and never a chunk that cannot be vacated', () => {
    const rule: DmaRule = { node: { nodes: [1], strength: 'required' } };
    const memory = [at(0, 21, extent(gib(4), gib(8))), at(1, 10, extent(gib(8), gib(8) + mib(12)))];
    const pinned: EvacuationCost = (start, end) => (start < gib(8) + mib(8) && end > gib(8) + mib(4) ? Infinity : 0);
    expect(choose(rule, memory, mib(8), pinned).extents).toEqual([
      extent(gib(8), gib(8) + mib(4)),
      extent(gib(8) + mib(8), gib(8) + mib(12)),
    ]);
    expect(refused(rule, memory, mib(8) + 1, pinned).best?.missing).toBe(1);
  });

  it('DR15 a pool that has its window grows in it; room says how far it could', () => {
    const rule = form({ windowBits: 26 });
    const memory = [at(0, 10, extent(gib(8), gib(8) + mib(128)))];
    const first = choose(rule, memory, mib(40));
    expect(first).toMatchObject({ window: extent(gib(8) + mib(64), gib(8) + mib(128)), room: mib(64) });
    const left = [at(0, 10, extent(gib(8), first.extents[0]?.start ?? 0))];
    expect(choose(restricted(rule, [first.window]), left, mib(24)).extents).toEqual([
      extent(gib(8) + mib(64), gib(8) + mib(88)),
    ]);
  });

  it('DR15 alignment above a chunk: pages that no aligned start reaches do not count', () => {
    const rule: DmaRule = { align: 2 ** 26 };
    const memory = [at(0, 10, extent(gib(8) - mib(10), gib(8) + mib(10)))];
    expect(choose(rule, memory, mib(10)).extents).toEqual([extent(gib(8), gib(8) + mib(10))]);
    expect(refused(rule, memory, mib(10) + 1).best?.pages).toBe(mib(10));
  });

  it.each([
    [0, 1],
    [-1, 1],
    [1.5, 2],
    [2, 1],
  ])('DR22 a need of %d to %d pages is none: EINVAL', (min, max) => {
    const said = chooseWindow(form({}), box(0), { min, max }, free);
    expect(said.ok ? said.value : said.error.refusal.errno).toBe('EINVAL');
  });
});

describe('where a buffer lies', () => {
  const place = (rule: DmaRule, extents: Extent[], pages: number): Extent[] | string => {
    const said = placeBuffer(form(rule), extents, pages * PAGE_SIZE);
    return said.ok ? said.value : said.error.errno;
  };

  it('DR17 the longest pieces first, then the smallest that holds the rest, from its upper end', () => {
    const holes = [extent(0x1000, 0x1003), extent(0x1010, 0x1018), extent(0x1020, 0x1025)];
    expect(place({}, holes, 2)).toEqual([extent(0x1001, 0x1003)]);
    expect(place({}, holes, 4)).toEqual([extent(0x1021, 0x1025)]);
    expect(place({}, holes, 10)).toEqual([extent(0x1001, 0x1003), extent(0x1010, 0x1018)]);
    expect(place({ maxSegments: 1 }, holes, 10)).toBe('ENOSPC');
  });

  it('DR18 a segment ends where it would cross the boundary, and the next begins there', () => {
    const run = [extent(0x100e, 0x1032)];
    expect(place({ boundary: 2 ** 16 }, run, 36)).toEqual([
      extent(0x100e, 0x1010),
      extent(0x1010, 0x1020),
      extent(0x1020, 0x1030),
      extent(0x1030, 0x1032),
    ]);
    expect(place({ boundary: 2 ** 16, contiguous: true }, run, 17)).toBe('ENOSPC');
    expect(place({ boundary: 2 ** 16, contiguous: true }, run, 16)).toEqual([extent(0x1020, 0x1030)]);
  });

  it('DR19 buffers of a window pool agree in the high bits, up to 2^52', () => {
    const rule = form({ sameHighBits: 34, contiguous: true });
    const top = 2 ** 40;
    const memory = [extent(gib(7), gib(7) + 8), extent(top - gib(1) - 8, top - gib(1) + 8)];
    const first = placeBuffer(rule, memory, 8 * PAGE_SIZE);
    if (!first.ok) throw new Error(first.error.message);
    expect(first.value).toEqual([extent(top - gib(1), top - gib(1) + 8)]);
    const window = windowAt(rule, toPfn(top - gib(1)));
    expect(window).toEqual(extent(top - gib(1), top));
    // What is left lies in other windows: the device cannot use it while the first buffer lives.
    const left = memory.map((e) => extent(e.start, Math.min(e.end, top - gib(1))));
    const second = placeBuffer(restricted(rule, [window]), left, PAGE_SIZE);
    expect(second.ok ? second.value : second.error.errno).toBe('ENOSPC');
    expect(violationOf(rule, [first.value, [extent(gib(7), gib(7) + 1)]])).toMatch(/^windowBits: /);
  });

  it('DR18 a violation is named by the field it breaks', () => {
    const rule = form({ addrMax: { bits: 24 }, align: 2 ** 14, boundary: 2 ** 16, maxSegments: 2 });
    const said = (...segments: Extent[]): string => violationOf(rule, [segments])?.split(':')[0] ?? 'none';
    expect(said(extent(4, 16), extent(16, 17))).toBe('none');
    expect(said(extent(2, 3))).toBe('align');
    expect(said(extent(12, 17))).toBe('boundary');
    expect(said(extent(0, 1), extent(4, 5), extent(8, 9))).toBe('maxSegments');
    expect(said(extent(4096, 4097))).toBe('addrMax');
  });

  it('DR17 a terabyte in blocks of a page is one entry: the cost is that of the answer', () => {
    const whole = [extent(gib(4), gib(1028))];
    const got = place({ boundary: 4096 }, whole, 1000);
    expect(Array.isArray(got) && got.length === 1000 && pagesOf(got) === 1000).toBe(true);
    expect(place({ windowBits: 12 }, whole, 1)).toEqual([extent(gib(1028) - 1, gib(1028))]);
    expect(place({ windowBits: 12 }, whole, 2)).toBe('ENOSPC');
    // The highest whole window stands for all: the one above it has one page.
    const odd = [extent(gib(4), gib(1028) - 1)];
    expect(place({ windowBits: 13 }, odd, 2)).toEqual([extent(gib(1028) - 4, gib(1028) - 2)]);
  });

  it.each([0, -1, 1.5, Number.NaN])('DR22 a buffer of %d bytes is none: EINVAL', (bytes) => {
    const said = placeBuffer(form({}), [extent(0, 8)], bytes);
    expect(said.ok ? said.value : said.error.errno).toBe('EINVAL');
  });
});
