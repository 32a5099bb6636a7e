// Every free area runs the one suite; then what only some of them promise.

import { describe, expect, it } from 'vitest';
import { freeAreaCases } from './free-area.cases.ts';
import type { Placement } from './free-area.ts';
import { createFreeArea } from './free-area-create.ts';

const PLACEMENTS: readonly Placement[] = ['address', 'fullest', 'lifo'];
const M = 1;

for (const placement of PLACEMENTS) {
  for (const code of ['own', 'shared'] as const) {
    describe(`${placement}, ${code} code`, () => freeAreaCases((pages) => createFreeArea(pages, placement, code)));
  }
}

describe('address', () => {
  it('single frames come lowest first, whatever was freed last', () => {
    const area = createFreeArea(2048, 'address', 'shared');
    area.online(0, 2048);
    for (let k = 0; k < 2048; k++) area.alloc(0, M);
    for (const i of [900, 17, 1600, 40, 513]) area.free(i, 0);
    expect([0, 1, 2, 3, 4].map(() => area.alloc(0, M))).toEqual([17, 40, 513, 900, 1600]);
  });
});

describe('fullest', () => {
  it('a single frame comes from the fullest pageblock that has one, by quarters, lowest first', () => {
    const area = createFreeArea(4096, 'fullest', 'shared');
    area.online(0, 4096);
    for (let k = 0; k < 4096; k++) area.alloc(0, M);
    for (let i = 0; i < 512; i += 2) area.free(i, 0); // 256 free
    for (let i = 512; i < 1024; i += 8) area.free(i, 0); // 64 free
    for (let i = 1536; i < 2048; i += 4) area.free(i, 0); // 128 free
    expect(area.first(0, M)).toBe(0); // the list itself is by address
    const got = Array.from({ length: 64 + 128 + 256 }, () => area.alloc(0, M) >> 9);
    expect(got).toEqual([...Array(64).fill(1), ...Array(128).fill(3), ...Array(256).fill(0)]);
  });

  it('takes the smallest chunk of that pageblock, though single frames lie elsewhere', () => {
    const area = createFreeArea(2048, 'fullest', 'shared');
    area.online(0, 2048);
    area.alloc(10, M);
    area.alloc(10, M);
    for (let i = 0; i < 512; i += 2) area.free(i, 0);
    area.free(1100, 2);
    expect([0, 1, 2, 3, 4].map(() => area.alloc(0, M))).toEqual([1100, 1101, 1102, 1103, 0]);
    expect(area.check()).toEqual([]);
  });

  it('opens a whole pageblock only when none is partly free, an order 9 before an order 10', () => {
    const area = createFreeArea(4096, 'fullest', 'shared');
    area.online(0, 2048);
    area.free(2560, 9);
    expect(area.alloc(0, M)).toBe(2560);
    for (let k = 1; k < 512; k++) expect(area.alloc(0, M)).toBe(2560 + k);
    expect(area.alloc(0, M)).toBe(0);
  });

  it('other orders come lowest first', () => {
    const area = createFreeArea(2048, 'fullest', 'shared');
    area.online(0, 2048);
    area.alloc(10, M);
    area.alloc(10, M);
    area.free(8, 3);
    area.free(1024, 3);
    for (let i = 1536; i < 2040; i += 4) area.free(i, 0);
    expect(area.alloc(3, M)).toBe(8);
  });
});

describe('lifo', () => {
  const empty = () => {
    const area = createFreeArea(2048, 'lifo', 'shared');
    area.online(0, 2048);
    area.alloc(10, M);
    area.alloc(10, M);
    return area;
  };

  it('last freed, first taken', () => {
    const area = empty();
    for (const i of [100, 300, 200]) area.free(i, 0);
    expect([0, 1, 2].map(() => area.alloc(0, M))).toEqual([200, 300, 100]);
  });

  it('a page goes to the tail when the buddy of its merged parent is free: it is likely to merge soon', () => {
    const area = empty();
    area.free(2, 1); // the parent 0..1 of frame 0 has this buddy
    area.free(100, 0);
    area.free(0, 0);
    expect([0, 1].map(() => area.alloc(0, M))).toEqual([100, 0]);
  });

  it('orders above 8 have no parent to wait for', () => {
    const area = empty();
    area.free(1024, 8);
    area.free(512, 9);
    area.free(256, 8); // its parent 0..511 has the free buddy 512: tail
    expect(area.first(8, M)).toBe(1024);
    expect(area.first(9, M)).toBe(512);
  });

  it('a caller may ask for the tail', () => {
    const area = empty();
    area.free(100, 0);
    area.free(300, 0, true);
    area.free(200, 0);
    expect([0, 1, 2].map(() => area.alloc(0, M))).toEqual([200, 100, 300]);
  });
});

describe('a terabyte', () => {
  it('costs under 0.3 bytes a page and is sound where it is used', () => {
    for (const placement of ['address', 'fullest'] as const) {
      const pages = 2 ** 28;
      const area = createFreeArea(pages, placement, 'shared');
      area.online(0, pages);
      expect(area.bytes() / pages).toBeLessThan(0.3);
      expect(area.freeIn(0, pages)).toBe(pages);
      expect(area.alloc(0, M)).toBe(0);
      area.take(pages - 1024, 10);
      expect(area.headOf(pages - 1)).toBe(-1);
      area.free(pages - 1024, 10);
      expect(area.headOf(pages - 1)).toBe(pages - 1024);
    }
  });

  it('the largest area, 2^31 pages, allocates, frees and merges at its very end', () => {
    const pages = 2 ** 31;
    const area = createFreeArea(pages, 'address', 'shared');
    area.online(0, 1024);
    area.online(pages - 2048, pages);
    expect(area.freeIn(0, pages)).toBe(3072);
    expect(area.alloc(10, M)).toBe(0); // emptying one word of the summary's top level leaves the others
    const got = Array.from({ length: 2048 }, () => area.alloc(0, M));
    expect(got[0]).toBe(pages - 2048);
    expect(got[2047]).toBe(pages - 1);
    expect(area.alloc(0, M)).toBe(-1);
    expect(area.orders(M)).toBe(0);
    for (const i of got) area.free(i, 0);
    expect(area.orderAt(pages - 1024)).toBe(10);
    expect(area.freeIn(pages - 2048, pages)).toBe(2048);
    expect(area.setPageblockType(pages - 1, 5)).toBe(512);
    expect(area.headOf(pages - 1)).toBe(pages - 512);
  });
});
