// The embedded build, by hand. Rules in docs/spec/embedded.md; random ones in embedded.fuzz.ts.

import { type BuildResult, build } from 'esbuild';
import { describe, expect, it } from 'vitest';
import { toOrder, toPfn } from '#base/units';
import { bootEmbedded, type EmbeddedSpec } from './embedded.ts';
import type { FrameAllocator } from './frame-allocator.ts';

const PAGES_16M = 4096;

/** RAM of so many frames at `start`, on code that needs no compilation. */
const boot = (start: number, pages: number, rest: Partial<EmbeddedSpec> = {}) =>
  bootEmbedded({ startPfn: toPfn(start), endPfn: toPfn(start + pages), code: 'shared', ...rest });

/** Lists as text: "9:1 10:2". */
const lists = (a: FrameAllocator): string =>
  [...a.freeByOrder()].flatMap((chunks, order) => (chunks === 0 ? [] : [`${order}:${chunks}`])).join(' ');

const order = toOrder;

describe('frames', () => {
  it('EB1 the lowest chunk of the smallest order that fits, and its low half', () => {
    const a = boot(0, PAGES_16M);
    expect([a.alloc(order(0)), a.alloc(order(0)), a.alloc(order(3)), a.alloc(order(1))]).toEqual([0, 1, 8, 2]);
    expect(lists(a)).toBe('2:1 4:1 5:1 6:1 7:1 8:1 9:1 10:3');
    a.free(toPfn(1), order(0));
    expect(a.alloc(order(2))).toBe(4); // not the pair at 0, which is used in half
    expect(a.alloc(order(0))).toBe(1);
    expect(a.check()).toEqual([]);
  });

  it('EB2 given back in any order, the lists are as at boot', () => {
    const a = boot(0x400, PAGES_16M);
    const before = lists(a);
    const taken = [0, 3, 0, 9, 10, 1].map((o) => ({ o, pfn: a.alloc(order(o)) }));
    expect(taken.every(({ pfn }) => pfn >= 0)).toBe(true);
    for (const k of [3, 0, 5, 1, 4, 2])
      a.free(toPfn((taken[k] as { pfn: number }).pfn), order((taken[k] as { o: number }).o));
    expect(lists(a)).toBe(before);
    expect(a.check()).toEqual([]);
  });

  it('EB3 all of the RAM is free at boot, in the largest aligned pieces', () => {
    const a = boot(3, 2050); // 3..2053: 1 + 4 + 8 ... + 512, a chunk, 4 + 1
    expect([a.managed, a.nrFree()]).toEqual([2050, 2050]);
    expect(lists(a)).toBe('0:2 2:2 3:1 4:1 5:1 6:1 7:1 8:1 9:1 10:1');
    const all = new Set<number>();
    for (let pfn = a.alloc(order(0)); pfn >= 0; pfn = a.alloc(order(0))) all.add(pfn);
    expect([all.size, Math.min(...all), Math.max(...all), a.nrFree()]).toEqual([2050, 3, 2052, 0]);
    expect(a.check()).toEqual([]);
  });

  it('EB4 frames beyond the borders are not joined, far up or in the smallest of machines', () => {
    for (const [start, pages, expected] of [
      [1, 1, '0:1'],
      [511, 2, '0:2'],
      [2 ** 39 + 1000, 1100, '2:1 3:1 4:2 5:1 10:1'],
    ] as const) {
      const a = boot(start, pages);
      const got: number[] = [];
      for (let pfn = a.alloc(order(0)); pfn >= 0; pfn = a.alloc(order(0))) got.push(pfn);
      expect(got.sort((x, y) => x - y)).toEqual(Array.from({ length: pages }, (_, k) => start + k));
      for (const pfn of got.reverse()) a.free(toPfn(pfn), order(0));
      expect(lists(a)).toBe(expected);
      expect(a.nrFree()).toBe(pages);
      expect(a.check()).toEqual([]);
    }
  });

  it('EB5 one type: a mix of requests leaves every pageblock as it was', () => {
    const a = boot(0, PAGES_16M);
    while (a.alloc(order(4)) >= 0);
    expect(a.nrFree()).toBe(0);
    for (let pfn = 0; pfn < PAGES_16M; pfn += 32) a.free(toPfn(pfn), order(4));
    // Every second chunk of 16 frames is free, all of one type: single frames come from the lowest, without a fallback.
    expect([a.alloc(order(0)), lists(a)]).toEqual([0, '0:1 1:1 2:1 3:1 4:127']);
    expect(a.check()).toEqual([]);
  });
});

describe('reserve and refusals', () => {
  it('EB6 the last minFree frames are for urgent callers', () => {
    const a = boot(0, 1024, { minFree: 16 });
    let taken = 0;
    while (a.alloc(order(0)) >= 0) taken++;
    expect([taken, a.nrFree(), a.alloc(order(4))]).toEqual([1008, 16, -1]);
    while (a.allocUrgent(order(0)) >= 0) taken++;
    expect([taken, a.nrFree()]).toEqual([1024, 0]);
    a.free(toPfn(0), order(0));
    expect(a.alloc(order(0))).toBe(-1); // the reserve fills first
    expect(a.check()).toEqual([]);
  });

  it('EB7 a refusal says why and changes nothing', () => {
    const a = boot(0, 1024, { minFree: 64 });
    expect(a.refusalOf(order(9))).toBe(undefined);
    expect(a.refusalOf(order(10))).toBe('reserve');
    expect(a.refusalOf(order(10), 'urgent')).toBe(undefined);
    while (a.alloc(order(0)) >= 0);
    expect([a.refusalOf(order(0)), a.refusalOf(order(7)), a.refusalOf(order(6), 'urgent')]).toEqual([
      'reserve',
      'exhausted',
      undefined,
    ]);
    expect(lists(a)).toBe('6:1');
    expect([a.alloc(order(0)), a.alloc(order(7)), lists(a)]).toEqual([-1, -1, '6:1']);
    expect(a.check()).toEqual([]);
  });

  it('EB7 fragmented: enough frames, none of them neighbours', () => {
    const a = boot(0, 64);
    while (a.alloc(order(0)) >= 0);
    for (let pfn = 0; pfn < 64; pfn += 2) a.free(toPfn(pfn), order(0));
    const before = lists(a);
    expect([a.nrFree(), a.alloc(order(1)), a.allocUrgent(order(1))]).toEqual([32, -1, -1]);
    expect([a.refusalOf(order(1)), a.refusalOf(order(1), 'urgent')]).toEqual(['fragmented', 'fragmented']);
    expect([lists(a), a.nrFree()]).toEqual([before, 32]);
    expect(a.check()).toEqual([]);
  });

  it('EB7 no request is larger than order 10', () => {
    const a = boot(0, 4096);
    for (const o of [11, 31, 32, 33, -1]) {
      expect([a.alloc(o as never), a.allocUrgent(o as never), a.nrFree()], `${o}`).toEqual([-1, -1, 4096]);
      expect(() => a.free(toPfn(0), o as never), `${o}`).toThrow('no such frames');
    }
    expect(a.refusalOf(11 as never)).toBe('fragmented');
    expect(a.check()).toEqual([]);
  });
});

describe('one engine, two builds', () => {
  it('EB9 frees that are bugs throw: outside, out of line, of no order, twice', () => {
    const a = boot(100, 1000);
    const p = a.alloc(order(3)) as number;
    for (const [pfn, o] of [
      [99, 0],
      [1100, 0],
      [p - 100 + 1023, 10],
      [p + 1, 3],
      [96, 3],
      [1096, 3],
      [0, 11],
    ] as const) {
      expect(() => a.free(toPfn(pfn), o as never), `${pfn} ${o}`).toThrow('no such frames');
    }
    for (const [pfn, o] of [
      [p, 0],
      [p, 2],
      [p + 4, 2],
      [p + 1, 0],
      [p + 8, 3],
      [p - (p % 1024) + 512, 9],
    ] as const) {
      expect(() => a.free(toPfn(pfn), order(o)), `${pfn} ${o}`).toThrow('not what alloc gave');
    }
    a.free(toPfn(p), order(3));
    expect(() => a.free(toPfn(p), order(3))).toThrow('not what alloc gave');
    const b = boot(1024, 2048);
    const chunk = toPfn(b.alloc(order(10)));
    for (const o of [0, 9]) expect(() => b.free(chunk, order(o))).toThrow('not what alloc gave');
    expect(() => b.free(toPfn(chunk + 512), order(9))).toThrow('not what alloc gave');
    expect(b.check()).toEqual([]);
    b.free(chunk, order(10));
    expect([b.nrFree(), b.check()]).toEqual([2048, []]);
    expect(a.nrFree()).toBe(1000);
    expect(a.check()).toEqual([]);
  });

  it('EB9 frees that are trusted are seen by check()', () => {
    const a = boot(0, 1024, { frees: 'trusted' });
    a.alloc(order(0));
    a.free(toPfn(8), order(0)); // it lies in the free chunk 8..15
    const wrong = a.check();
    expect(wrong.some((w) => w.includes('lies in a free chunk'))).toBe(true);
  });

  it('EB3 EB4 EB5 check() sees tables that were changed behind its back', () => {
    const broken = (spoil: (a: ReturnType<typeof boot>) => void, rest: Partial<EmbeddedSpec> = {}): string[] => {
      const a = boot(100, 1948, rest); // frame 100 to 2048 of the area
      a.alloc(order(0));
      expect(a.check()).toEqual([]);
      spoil(a);
      return a.check();
    };
    expect(broken((a) => a.area.take(1024, 10))).toContain(
      'EB3 the counter says 1947 frames are free, the lists hold 923',
    );
    expect(broken((a) => a.area.take(1024, 10)).some((w) => w.endsWith('lies in 0 chunks, given or free'))).toBe(true);
    expect(broken((a) => a.area.free(100, 0))).toContain('EB3 the frame 0 of the RAM lies in 2 chunks, given or free');
    expect(broken((a) => a.area.free(40, 0), { frees: 'trusted' })).toContain(
      'EB4 1 free frames lie outside of the RAM',
    );
    expect(broken((a) => a.area.setPageblockType(512, 0))).toContain('EB5 the pageblock at 512 has another type');
  });

  it('EB10 a request changes at most eleven lists by one chunk each', () => {
    const a = boot(0, 2048);
    const steps = (work: () => void): number[] => {
      const before = a.freeByOrder();
      work();
      return [...a.freeByOrder()].map((n, o) => n - (before[o] as number));
    };
    expect(steps(() => a.alloc(order(0)))).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1]);
    expect(steps(() => a.free(toPfn(0), order(0)))).toEqual([-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1]);
  });

  it('EB11 the bundle has nothing in it that a small machine does not need', async () => {
    const bundle = async (entry: string): Promise<{ files: string[]; bytes: number }> => {
      const result: BuildResult<{ metafile: true; write: false }> = await build({
        entryPoints: [new URL(entry, import.meta.url).pathname],
        bundle: true,
        minify: true,
        format: 'esm',
        conditions: ['dimmer-src'],
        metafile: true,
        write: false,
      });
      const files = Object.values(result.metafile.outputs).flatMap((o) => Object.keys(o.inputs));
      return {
        files: files.map((f) => f.replace(/.*src\//, '')).sort(),
        bytes: result.outputFiles[0]?.contents.length ?? 0,
      };
    };
    const embedded = await bundle('./embedded.ts');
    expect(embedded.files).toEqual([
      'base/assert.ts',
      'base/specialise.ts',
      'base/units.ts',
      'mm/embedded.ts',
      'mm/frame-allocator.ts',
      'mm/free-area-address-read.ts',
      'mm/free-area-address.ts',
      'mm/free-area-columns.ts',
      'mm/geometry.ts',
    ]);
    const full = await bundle('./boot-allocator.ts');
    expect(full.files).toContain('mm/machine.ts');
    expect(embedded.bytes * 8).toBeLessThan(full.bytes);
  });

  it('a spec that contradicts itself throws', () => {
    for (const [start, pages, minFree] of [
      [0, 0, 0],
      [-1, 4, 0],
      [0.5, 4, 0],
      [0, 4, 5],
      [0, 4, -1],
    ] as const) {
      expect(() => boot(start, pages, { minFree }), `${start} ${pages} ${minFree}`).toThrow();
    }
  });
});
