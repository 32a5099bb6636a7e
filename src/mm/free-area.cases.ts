// The rules of FreeArea as one suite: every implementation and placement runs it (free-area.test.ts).
//
// Pictures are lists of "first frame/order/type" of the free chunks, ascending.

import { describe, expect, it } from 'vitest';
import type { FreeArea } from './free-area.ts';
import {
  MIGRATE_CMA,
  MIGRATE_HIGHATOMIC,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  MIGRATE_RECLAIMABLE,
  MIGRATE_UNMOVABLE,
  NR_MIGRATE_TYPES,
  NR_ORDERS,
} from './geometry.ts';

const M = MIGRATE_MOVABLE;
const U = MIGRATE_UNMOVABLE;
const R = MIGRATE_RECLAIMABLE;

const picture = (area: FreeArea): string => {
  const out: string[] = [];
  area.forEachFree(0, area.pages, (i, order, mt) => {
    out.push(`${i}/${order}/${'UMRHCI'[mt]}`);
  });
  return out.join(' ');
};

const counts = (area: FreeArea): number[] => {
  const out = new Int32Array(NR_MIGRATE_TYPES * NR_ORDERS);
  area.count(out);
  return [...out];
};

export function freeAreaCases(make: (pages: number) => FreeArea): void {
  const online = (pages: number): FreeArea => {
    const area = make(pages);
    area.online(0, pages);
    return area;
  };
  const isLifo = make(1024).placement === 'lifo';

  describe('online', () => {
    it('a new area has nothing free, and every pageblock is Movable', () => {
      const area = make(2048);
      expect(picture(area)).toBe('');
      expect(area.alloc(0, M)).toBe(-1);
      expect([0, 512, 1024, 1536].map((i) => area.typeOf(i))).toEqual([M, M, M, M]);
      expect(area.headOf(0)).toBe(-1);
      expect(area.freeIn(0, 2048)).toBe(0);
    });

    it('is the same as freeing every chunk to the tail in ascending order', () => {
      const pages = 3 * 32768 + 5 * 1024;
      const lazy = online(pages);
      const eager = make(pages);
      for (let i = 0; i < pages; i += 1024) eager.free(i, 10, true);
      expect(counts(lazy)).toEqual(counts(eager));
      const all = (area: FreeArea): number[] => {
        const got: number[] = [];
        for (let i = area.alloc(10, M); i >= 0; i = area.alloc(10, M)) got.push(i);
        return got;
      };
      expect(all(lazy)).toEqual(all(eager));
      expect(lazy.check()).toEqual([]);
    });

    it('touches only its own range, at any alignment to sections and summary words', () => {
      for (const [start, end] of [
        [0, 1024],
        [1024, 3072],
        [31 * 1024, 33 * 1024],
        [32768, 65536],
        [17 * 1024, 100 * 1024],
        [99 * 1024, 100 * 1024],
      ]) {
        const area = make(100 * 1024);
        area.online(start, end);
        expect(area.freeIn(0, area.pages), `${start}..${end}`).toBe(end - start);
        expect(area.freeIn(start, end), `${start}..${end}`).toBe(end - start);
        expect(area.headOf(start)).toBe(start);
        expect(area.headOf(end - 1)).toBe(end - 1024);
        expect(area.check()).toEqual([]);
      }
    });

    it('a second range goes behind the first', () => {
      const area = make(4096);
      area.online(2048, 4096);
      area.online(0, 2048);
      const got = [0, 1, 2, 3].map(() => area.alloc(10, M));
      expect(got).toEqual(isLifo ? [2048, 3072, 0, 1024] : [0, 1024, 2048, 3072]);
    });

    it('a range that was taken out comes back as Movable', () => {
      const area = online(4096);
      area.setPageblockType(1024, MIGRATE_ISOLATE);
      area.setPageblockType(1536, MIGRATE_ISOLATE);
      area.take(1024, 10);
      expect(area.freeIn(0, 4096)).toBe(3072);
      area.online(1024, 2048);
      expect(picture(area)).toBe('0/10/M 1024/10/M 2048/10/M 3072/10/M');
      expect(area.check()).toEqual([]);
    });

    it('refuses as a bug a range that is not whole chunks, or leaves the area', () => {
      const area = make(4096);
      expect(() => area.online(512, 1024)).toThrow(/whole chunks/);
      expect(() => area.online(0, 8192)).toThrow(/whole chunks/);
      expect(() => area.online(1024, 1024)).toThrow(/whole chunks/);
    });

    it('create refuses as a bug a size that is not whole chunks', () => {
      expect(() => make(1000)).toThrow(/1024/);
      expect(() => make(0)).toThrow(/1024/);
    });
  });

  describe('FA1 alloc', () => {
    it('FA1 splits a chunk and keeps the low half', () => {
      const area = online(1024);
      expect(area.alloc(7, M)).toBe(0);
      expect(picture(area)).toBe('128/7/M 256/8/M 512/9/M');
      expect(area.alloc(0, M)).toBe(128);
      expect(picture(area)).toBe('129/0/M 130/1/M 132/2/M 136/3/M 144/4/M 160/5/M 192/6/M 256/8/M 512/9/M');
      expect(area.check()).toEqual([]);
    });

    it('FA1 takes from the smallest order that has a page, however far', () => {
      const area = online(4096);
      for (let k = 0; k < 4; k++) area.alloc(10, M);
      area.free(3000, 0);
      area.free(0, 10);
      expect(area.alloc(0, M)).toBe(3000);
      expect(area.alloc(0, M)).toBe(0);
    });

    it('FA1 serves a type only from its own lists', () => {
      const area = online(1024);
      expect(area.alloc(0, U)).toBe(-1);
      expect(area.alloc(10, R)).toBe(-1);
      expect(area.orders(U)).toBe(0);
      expect(area.orders(M)).toBe(1 << 10);
    });

    it('FA1 every order comes aligned and is exhausted exactly', () => {
      for (let order = 0; order <= 10; order++) {
        const area = online(2048);
        const got: number[] = [];
        for (let i = area.alloc(order, M); i >= 0; i = area.alloc(order, M)) got.push(i);
        expect(got.sort((a, b) => a - b)).toEqual(Array.from({ length: 2048 >> order }, (_, k) => k << order));
        for (const i of got) area.free(i, order);
        expect(picture(area)).toBe('0/10/M 1024/10/M');
      }
    });

    it('bulk gives what as many allocs would give, in that order', () => {
      for (const count of [1, 31, 63, 64, 100, 1024, 3000]) {
        const one = online(2048);
        const many = online(2048);
        for (const area of [one, many]) {
          for (let k = 0; k < 300; k++) area.alloc(0, M);
          for (const i of [3, 4, 9, 70, 71, 72, 200, 250]) area.free(i, 0);
        }
        const ring = new Int32Array(4096).fill(-9);
        const got = many.allocBulk(M, ring, 4000, 4095, count);
        const expected: number[] = [];
        while (expected.length < count) {
          const i = one.alloc(0, M);
          if (i < 0) break;
          expected.push(i);
        }
        expect(got).toBe(expected.length);
        expect(expected.map((_, k) => ring[(4000 + k) & 4095])).toEqual(expected);
        expect(ring[(4000 + got) & 4095]).toBe(-9);
        expect(picture(many)).toBe(picture(one));
        expect(many.check()).toEqual([]);
      }
    });
  });

  describe('FA2 free', () => {
    it('FA2 coalesces all the way up, in any order of frees', () => {
      for (const step of [1, 3, 5, 511, 1023]) {
        const area = online(1024);
        for (let k = 0; k < 1024; k++) area.alloc(0, M);
        expect(picture(area)).toBe('');
        for (let k = 0; k < 1024; k++) area.free((k * step) % 1024, 0);
        expect(picture(area), `step ${step}`).toBe('0/10/M');
        expect(area.check()).toEqual([]);
      }
    });

    it('FA2 does not merge with a free buddy of another order', () => {
      const area = online(1024);
      area.alloc(10, M);
      area.free(2, 1);
      area.free(0, 0);
      expect(picture(area)).toBe('0/0/M 2/1/M');
      area.free(1, 0);
      expect(picture(area)).toBe('0/2/M');
    });

    it('FA2 a freed page goes to the lists of its pageblock, not of its allocation', () => {
      const area = online(2048);
      const i = area.alloc(0, M);
      area.setPageblockType(i, U);
      area.free(i, 0);
      expect(area.typeOf(i)).toBe(U);
      expect(area.first(0, M)).toBe(-1);
      expect(area.headOf(i)).toBeGreaterThanOrEqual(0);
      expect(area.orders(U)).not.toBe(0);
    });

    it('FA2 a chunk is freed pageblock by pageblock: halves of foreign types stay apart', () => {
      const area = online(1024);
      area.alloc(10, M);
      area.setPageblockType(512, MIGRATE_CMA);
      area.free(0, 10);
      expect(picture(area)).toBe('0/9/M 512/9/C');
      expect(area.check()).toEqual([]);
    });

    it('FA2 a chunk whose halves may merge takes the type of its second half, freed last', () => {
      const area = online(1024);
      area.alloc(10, M);
      area.setPageblockType(512, R);
      area.free(0, 10);
      expect(picture(area)).toBe('0/10/R');
      expect(area.typeOf(0)).toBe(R);
    });

    it('freeing a free frame is a bug', () => {
      const area = online(1024);
      const i = area.alloc(0, M);
      area.free(i, 0);
      area.alloc(10, M);
      area.free(4, 0);
      expect(() => area.free(4, 0)).toThrow(/twice/);
    });
  });

  describe('FA3 order 9 -> 10', () => {
    const halves = (low: number, high: number): FreeArea => {
      const area = online(1024);
      area.alloc(10, M);
      area.setPageblockType(0, low);
      area.setPageblockType(512, high);
      return area;
    };

    it('FA3 merges equal types, and any two of Unmovable, Movable, Reclaimable; both take the freed page type', () => {
      for (const low of [U, M, R]) {
        for (const high of [U, M, R]) {
          const area = halves(low, high);
          area.free(512, 9);
          area.free(0, 9);
          expect(picture(area)).toBe(`0/10/${'UMR'[low]}`);
          expect(area.typeOf(512)).toBe(low);
          expect(area.check()).toEqual([]);
        }
      }
      for (const both of [MIGRATE_HIGHATOMIC, MIGRATE_CMA, MIGRATE_ISOLATE]) {
        const area = halves(both, both);
        area.free(0, 9);
        area.free(512, 9);
        expect(picture(area)).toBe(`0/10/${'UMRHCI'[both]}`);
        expect(area.check()).toEqual([]);
      }
    });

    it('FA3 never merges across HighAtomic, CMA or Isolate', () => {
      for (let low = 0; low < 6; low++) {
        for (let high = 3; high < 6; high++) {
          if (low === high) continue;
          const area = halves(low, high);
          area.free(0, 9);
          area.free(512, 9);
          expect(picture(area)).toBe(`0/9/${'UMRHCI'[low]} 512/9/${'UMRHCI'[high]}`);
          expect(area.check()).toEqual([]);
        }
      }
    });
  });

  describe('FA4 setPageblockType', () => {
    it('FA4 moves the free pages of that pageblock only, and counts them', () => {
      const area = online(2048);
      for (let k = 0; k < 1024; k++) area.alloc(0, M);
      for (const i of [5, 8, 9, 600, 700]) area.free(i, 0);
      expect(area.setPageblockType(100, U)).toBe(3);
      expect(picture(area)).toBe('5/0/U 8/1/U 600/0/M 700/0/M 1024/10/M');
      expect(area.setPageblockType(100, U)).toBe(0);
      expect(area.check()).toEqual([]);
    });

    it('FA4 isolating half of a free chunk splits it; giving it back merges it again', () => {
      for (const i of [0, 512]) {
        const area = online(2048);
        expect(area.setPageblockType(i, MIGRATE_ISOLATE)).toBe(512);
        expect(picture(area)).toBe(i === 0 ? '0/9/I 512/9/M 1024/10/M' : '0/9/M 512/9/I 1024/10/M');
        expect(area.setPageblockType(i, M)).toBe(512);
        expect(picture(area)).toBe('0/10/M 1024/10/M');
        expect(area.check()).toEqual([]);
      }
    });

    it('FA4 two isolated halves merge, and come apart again', () => {
      const area = online(1024);
      area.setPageblockType(0, MIGRATE_ISOLATE);
      area.setPageblockType(512, MIGRATE_ISOLATE);
      expect(picture(area)).toBe('0/10/I');
      area.setPageblockType(512, M);
      expect(picture(area)).toBe('0/9/I 512/9/M');
      expect(area.check()).toEqual([]);
    });

    it('FA4 a free chunk whose halves may stay merged changes type as a whole', () => {
      const area = online(1024);
      expect(area.setPageblockType(512, U)).toBe(1024);
      expect(picture(area)).toBe('0/10/U');
      expect([area.typeOf(0), area.typeOf(512)]).toEqual([U, U]);
      expect(area.check()).toEqual([]);
    });

    it('isolated pages are never allocated', () => {
      const area = online(2048);
      area.setPageblockType(0, MIGRATE_ISOLATE);
      area.setPageblockType(512, MIGRATE_ISOLATE);
      let n = 0;
      while (area.alloc(0, M) >= 0) n++;
      expect(n).toBe(1024);
    });
  });

  describe('take, put, first', () => {
    it('first is the first page of its list, which alloc takes', () => {
      const area = online(4096);
      for (let k = 0; k < 2000; k++) area.alloc(0, M);
      for (let i = 1; i < 2000; i += 7) area.free(i, 0);
      for (let k = 0; k < 100; k++) {
        const expected = area.first(0, M);
        expect(area.orderAt(expected)).toBe(0);
        const got = area.alloc(0, M);
        if (area.placement !== 'fullest') expect(got).toBe(expected); // fullest looks at pageblocks, not at the list
      }
      expect(area.first(10, M)).toBe(2048);
      expect(area.first(0, U)).toBe(-1);
    });

    it('take pulls a chunk out of the middle; put gives the rest of a split back without merging', () => {
      const area = online(4096);
      area.take(1024, 10);
      expect(picture(area)).toBe('0/10/M 2048/10/M 3072/10/M');
      area.put(1536, 9);
      area.put(1280, 8);
      expect(picture(area)).toBe('0/10/M 1280/8/M 1536/9/M 2048/10/M 3072/10/M');
      area.free(1024, 8);
      expect(picture(area)).toBe('0/10/M 1024/10/M 2048/10/M 3072/10/M');
      expect(area.check()).toEqual([]);
    });

    it('taking what is not a free chunk of that order is a bug', () => {
      const area = online(1024);
      expect(() => area.take(0, 9)).toThrow(/no such free chunk/);
      expect(() => area.take(0, 0)).toThrow(/no such free chunk/);
      area.take(0, 10);
      expect(() => area.take(0, 10)).toThrow(/no such free chunk/);
    });

    it('takes every chunk of a virgin range, in any order, and puts them back', () => {
      const area = online(64 * 1024);
      const order = Array.from({ length: 64 }, (_, k) => ((k * 37) % 64) * 1024);
      for (const i of order) {
        area.take(i, 10);
        expect(area.headOf(i)).toBe(-1);
      }
      expect(area.orders(M)).toBe(0);
      for (const i of order) area.put(i, 10);
      expect(area.freeIn(0, area.pages)).toBe(area.pages);
      expect(area.check()).toEqual([]);
    });
  });

  describe('queries', () => {
    it('headOf and orderAt name the chunk that covers a frame', () => {
      const area = online(2048);
      area.alloc(3, M);
      expect([0, 7].map((i) => area.headOf(i))).toEqual([-1, -1]);
      expect([8, 15, 16, 31, 100, 511, 512, 1023, 1024, 2047].map((i) => area.headOf(i))).toEqual([
        8, 8, 16, 16, 64, 256, 512, 512, 1024, 1024,
      ]);
      expect([0, 8, 9, 16, 512, 513, 1024, 1536].map((i) => area.orderAt(i))).toEqual([-1, 3, -1, 4, 9, -1, 10, -1]);
    });

    it('freeIn counts parts of chunks, of pageblocks and of virgin sections', () => {
      const area = online(4 * 32768);
      area.alloc(3, M);
      expect(area.freeIn(0, 8)).toBe(0);
      expect(area.freeIn(0, 9)).toBe(1);
      expect(area.freeIn(5, 600)).toBe(592);
      expect(area.freeIn(0, area.pages)).toBe(area.pages - 8);
      expect(area.freeIn(32768, 65536)).toBe(32768);
      expect(area.freeIn(32767, 65537)).toBe(32770);
      expect(area.freeIn(700, 700)).toBe(0);
      area.take(2 * 32768, 10);
      expect(area.freeIn(2 * 32768, 3 * 32768)).toBe(32768 - 1024);
    });

    it('forEachFree gives the chunks that begin in the range, and may take them', () => {
      const area = online(3072);
      for (let k = 0; k < 3072; k++) area.alloc(0, M);
      for (const i of [3, 40, 41, 64, 511, 512, 1500]) area.free(i, 0);
      const seen: number[] = [];
      area.forEachFree(41, 1500, (i, order) => {
        seen.push(i);
        area.take(i, order);
      });
      expect(seen).toEqual([64, 511, 512]);
      expect(picture(area)).toBe('3/0/M 40/1/M 1500/0/M');
    });

    it('count adds every list; countTypes every pageblock', () => {
      const area = online(4096);
      area.alloc(0, M);
      area.setPageblockType(1024, MIGRATE_ISOLATE);
      const out = new Int32Array(NR_MIGRATE_TYPES * NR_ORDERS);
      area.count(out);
      area.count(out);
      expect([...out.subarray(M * 11, M * 11 + 11)]).toEqual([2, 2, 2, 2, 2, 2, 2, 2, 2, 4, 4]);
      expect(out[MIGRATE_ISOLATE * 11 + 9]).toBe(2);
      const types = new Int32Array(NR_MIGRATE_TYPES);
      area.countTypes(0, 8, types);
      expect([...types]).toEqual([0, 7, 0, 0, 0, 1]);
      area.countTypes(2, 3, types);
      expect([...types]).toEqual([0, 7, 0, 0, 0, 2]);
    });
  });

  describe('copyFrom', () => {
    it('a copy has the same picture and lives its own life', () => {
      const area = online(3 * 32768);
      for (let k = 0; k < 5000; k++) area.alloc(0, M);
      for (let i = 0; i < 5000; i += 3) area.free(i, 0);
      area.setPageblockType(70000, MIGRATE_ISOLATE);
      const copy = make(3 * 32768);
      copy.copyFrom(area);
      expect(picture(copy)).toBe(picture(area));
      expect(copy.check()).toEqual([]);
      const before = picture(area);
      while (copy.alloc(0, M) >= 0) {
        // until it is empty
      }
      expect(picture(area)).toBe(before);
    });

    it('a copy forgets what it had where the other has nothing', () => {
      const used = online(3 * 32768);
      for (let k = 0; k < 40000; k++) used.alloc(0, k % 2 === 0 ? M : U);
      used.setPageblockType(90000, MIGRATE_ISOLATE);
      used.copyFrom(online(3 * 32768));
      expect(used.check()).toEqual([]);
      expect(picture(used)).toBe(picture(online(3 * 32768)));
      expect(used.alloc(0, M)).toBe(0);
    });

    it('another shape is a bug', () => {
      expect(() => make(1024).copyFrom(make(2048))).toThrow(/another shape/);
    });
  });
}
