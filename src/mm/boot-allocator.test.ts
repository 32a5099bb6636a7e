// Which build serves is said at boot. Rules in docs/spec/embedded.md; the builds against each other: boot-allocator.fuzz.ts.

import { describe, expect, it } from 'vitest';
import { toOrder as order, toPfn } from '#base/units';
import { bootAllocator } from './boot-allocator.ts';
import type { FrameAllocator } from './frame-allocator.ts';

const PAGES_16M = 4096;

/** Lists as text: "9:1 10:2". */
const lists = (a: FrameAllocator): string =>
  [...a.freeByOrder()].flatMap((chunks, o) => (chunks === 0 ? [] : [`${o}:${chunks}`])).join(' ');

describe('bootAllocator', () => {
  it('EB12 a caller of the small interface runs on either build', () => {
    for (const build of ['embedded', 'full'] as const) {
      const a = bootAllocator({
        build,
        startPfn: toPfn(0x400),
        endPfn: toPfn(0x400 + PAGES_16M),
        minFree: 32,
        code: 'shared',
      });
      expect([a.build, a.managed, a.nrFree(), a.minFree]).toEqual([build, PAGES_16M, PAGES_16M, 32]);
      expect(lists(a)).toBe('10:4');
      const held: { pfn: number; o: number }[] = [];
      for (const o of [0, 2, 9, 0]) held.push({ pfn: a.alloc(order(o)), o });
      expect(held.every(({ pfn, o }) => pfn >= 0x400 && pfn % 2 ** o === 0)).toBe(true);
      while (a.alloc(order(0)) >= 0);
      expect([a.nrFree(), a.refusalOf(order(0)), a.allocUrgent(order(0)) >= 0]).toEqual([32, 'reserve', true]);
      expect(() => a.free(toPfn(0x3ff), order(0))).toThrow();
      for (const { pfn, o } of held) a.free(toPfn(pfn), order(o));
      expect(a.nrFree()).toBe(31 + 1 + 4 + 512 + 1);
      expect(a.bytes()).toBeGreaterThan(0);
      expect(a.check()).toEqual([]);
    }
  });

  it('EB12 the full build is a machine: what it gave away, it can tell whose it is', () => {
    const a = bootAllocator({ build: 'full', startPfn: toPfn(0), endPfn: toPfn(2 ** 15), cpus: 2, code: 'shared' });
    const pfn = toPfn(a.alloc(order(1)));
    expect(a.machine.frame(pfn)).toMatchObject({ state: 'used', name: 'frames', order: 1 });
    expect(() => a.free(pfn, order(0))).toThrow('no allocation of this order');
    const last = toPfn(a.allocUrgent(order(0)));
    expect(a.machine.frame(last)).toMatchObject({ state: 'used', name: 'frames', order: 0 });
    a.free(pfn, order(1));
    a.free(last, order(0));
    expect(() => a.free(last, order(0))).toThrow();
    expect(a.machine.check()).toEqual([]);
  });
});
