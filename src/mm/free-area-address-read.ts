// Queries of the address-ordered free area: counts, walks and its own check. They read the columns, change nothing.
//
// Layout and invariants are drawn in free-area-address.ts. Sections that were never seen are answered from the summary
// of order 10 alone, so that a walk over an idle terabyte reads kilobytes. A walk goes in ascending order and looks at
// each frame when it gets there: a callback may take the chunk that it was given.

import type { FreeArea } from './free-area.ts';
import type { AddressColumns } from './free-area-address.ts';
import { MIGRATE_MOVABLE, NR_MIGRATE_TYPES, NR_ORDERS, PAGEBLOCKS_PER_SECTION } from './geometry.ts';

type Reads = Pick<
  FreeArea,
  'orders' | 'orderAt' | 'headOf' | 'freeIn' | 'forEachFree' | 'count' | 'countTypes' | 'bytes' | 'check'
>;

const ctz = (v: number): number => 31 - Math.clz32(v & -v);

function popcount(v: number): number {
  v -= (v >>> 1) & 0x55555555;
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

export function addressReads(columns: AddressColumns): Reads {
  const { bins, record, nonzero, type, lists, slots, seen, blockFree, listWords } = columns;
  const blocks = record.length / 32;

  /** Bit (x = frame & 511, order < 10) of pageblock b's record. */
  const bitAt = (b: number, x: number, o: number): number => {
    const k = 1024 - (1024 >> o) + (x >> o);
    return (record[(b << 5) + (k >> 5)] >>> k) & 1;
  };

  /** Is the chunk of order 10 that holds pageblock b free? */
  const chunkIsFree = (b: number): boolean => {
    const even = b & -2;
    return ((lists[(60 + (type[even] ^ 1)) * listWords + (even >>> 5)] >>> even) & 1) !== 0;
  };

  function orderAt(i: number): number {
    const b = i >>> 9;
    const x = i & 511;
    const highest = x === 0 ? 9 : ctz(x);
    for (let o = 0; o <= highest; o++) if (bitAt(b, x, o) !== 0) return o;
    return (i & 1023) === 0 && chunkIsFree(b) ? 10 : -1;
  }

  function headOf(i: number): number {
    const b = i >>> 9;
    const x = i & 511;
    for (let o = 0; o <= 9; o++) if (bitAt(b, x, o) !== 0) return (b << 9) + ((x >> o) << o);
    return chunkIsFree(b) ? (b & -2) << 9 : -1;
  }

  /** Free pages of a pageblock, its half of a chunk of order 10 included. */
  function freeInBlock(b: number): number {
    let n = 0;
    for (let words = nonzero[b]; words !== 0; words &= words - 1) {
      const w = ctz(words);
      const o = w < 16 ? 0 : w < 24 ? 1 : w < 28 ? 2 : w < 30 ? 3 : 4;
      n += popcount(record[(b << 5) + w]) << o;
    }
    const v = record[(b << 5) + 31];
    if (v !== 0) {
      n += popcount(v & 0xffff) << 5;
      n += popcount(v & (0xff << 16)) << 6;
      n += popcount(v & (15 << 24)) << 7;
      n += popcount(v & (3 << 28)) << 8;
      n += ((v >>> 30) & 1) << 9;
    }
    return n === 0 && chunkIsFree(b) ? 512 : n;
  }

  /** Free pages in a part of a pageblock. */
  function freeInPart(start: number, end: number): number {
    let n = 0;
    for (let p = start; p < end; ) {
      const head = headOf(p);
      if (head < 0) {
        p++;
        continue;
      }
      const stop = Math.min(head + 2 ** orderAt(head), end);
      n += stop - p;
      p = stop;
    }
    return n;
  }

  /** Free pages of a virgin section: its chunks of order 10, all Movable. */
  function freeInVirgin(section: number): number {
    const at = (60 + MIGRATE_MOVABLE) * listWords + section * 2;
    return (popcount(lists[at]) + (section * 64 + 32 < blocks ? popcount(lists[at + 1]) : 0)) * 1024;
  }

  function freeIn(start: number, end: number): number {
    let n = 0;
    for (let p = start; p < end; ) {
      const b = p >>> 9;
      if ((p & 32767) === 0 && end - p >= 32768 && seen[b >>> 6] === 0) {
        n += freeInVirgin(b >>> 6);
        p += 32768;
        continue;
      }
      const stop = Math.min((b + 1) * 512, end);
      n += stop - p === 512 ? freeInBlock(b) : freeInPart(p, stop);
      p = stop;
    }
    return n;
  }

  /** Does any free chunk below order 5 begin in the 32 frames from x on? */
  const groupHasSmall = (b: number, x: number): boolean => {
    const g = x >> 5;
    const k = b << 5;
    return (
      (record[k + g] |
        ((record[k + 16 + (g >> 1)] >>> ((g & 1) << 4)) & 0xffff) |
        ((record[k + 24 + (g >> 2)] >>> ((g & 3) << 3)) & 0xff) |
        ((record[k + 28 + (g >> 3)] >>> ((g & 7) << 2)) & 15) |
        ((record[k + 30] >>> (g << 1)) & 3)) !==
      0
    );
  };

  function forEachFree(start: number, end: number, each: (i: number, order: number, mt: number) => void): void {
    for (let p = start; p < end; ) {
      const b = p >>> 9;
      if ((p & 511) === 0 && nonzero[b] === 0 && record[(b << 5) + 31] === 0) {
        if ((b & 1) === 0 && chunkIsFree(b)) {
          each(p, 10, type[b] ^ 1);
          p += 1024;
        } else p += 512;
        continue;
      }
      const o = orderAt(p);
      if (o >= 0) {
        each(p, o, type[b] ^ 1);
        p += 2 ** o;
      } else if ((p & 31) === 0 && !groupHasSmall(b, p & 511)) p += 32;
      else p++;
    }
  }

  function count(out: Float64Array | Int32Array): void {
    for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) {
      if ((slots[mt] & (1 << 10)) === 0) continue;
      const at = (60 + mt) * listWords;
      const words = Math.ceil(blocks / 32);
      let n = 0;
      for (let w = 0; w < words; w++) n += popcount(lists[at + w]);
      out[mt * NR_ORDERS + 10] += n;
    }
    for (let s = seen.indexOf(1); s >= 0; s = seen.indexOf(1, s + 1)) {
      const last = Math.min((s + 1) * PAGEBLOCKS_PER_SECTION, blocks);
      for (let b = s * PAGEBLOCKS_PER_SECTION; b < last; b++) {
        const at = (type[b] ^ 1) * NR_ORDERS;
        for (let words = nonzero[b]; words !== 0; words &= words - 1) {
          const w = ctz(words);
          out[at + (w < 16 ? 0 : w < 24 ? 1 : w < 28 ? 2 : w < 30 ? 3 : 4)] += popcount(record[(b << 5) + w]);
        }
        const v = record[(b << 5) + 31];
        if (v === 0) continue;
        out[at + 5] += popcount(v & 0xffff);
        out[at + 6] += popcount(v & (0xff << 16));
        out[at + 7] += popcount(v & (15 << 24));
        out[at + 8] += popcount(v & (3 << 28));
        out[at + 9] += (v >>> 30) & 1;
      }
    }
  }

  function countTypes(start: number, end: number, out: Float64Array | Int32Array): void {
    for (let b = start; b < end; b++) out[type[b] ^ 1]++;
  }

  const orders = (mt: number): number => slots[mt] & 0x7ff;

  function bytes(): number {
    return (
      record.byteLength +
      nonzero.byteLength +
      type.byteLength +
      lists.byteLength +
      slots.byteLength +
      seen.byteLength +
      blockFree.byteLength
    );
  }

  /** One pageblock's record against itself: overlaps and unmerged buddies, into `wrong`. */
  function checkRecord(b: number, wrong: string[]): void {
    const covered = new Int8Array(512).fill(-1);
    for (let o = 9; o >= 0; o--) {
      for (let x = 0; x < 512; x += 1 << o) {
        if (bitAt(b, x, o) === 0) continue;
        if (covered[x] >= 0) wrong.push(`frame ${b * 512 + x} of order ${o} lies in a free chunk of ${covered[x]}`);
        covered.fill(o, x, x + (1 << o));
        const buddy = x ^ (1 << o);
        if (o < 9 && x < buddy && bitAt(b, buddy, o) !== 0)
          wrong.push(`FA5 frame ${b * 512 + x}: free buddies of ${o}`);
      }
    }
    if (chunkIsFree(b) && covered.some((o) => o >= 0)) wrong.push(`pageblock ${b} is free twice: in a chunk, in parts`);
  }

  function check(): string[] {
    const wrong: string[] = [];
    const expected = new Int32Array(lists.length); // level 0 of every summary, rebuilt from the records
    const { level1, level2, level3 } = columns;
    for (let b = 0; b < blocks; b++) {
      const virgin = seen[b >>> 6] === 0;
      let words = 0;
      for (let w = 0; w < 31; w++) if (record[(b << 5) + w] !== 0) words |= 1 << w;
      const word31 = record[(b << 5) + 31];
      if (words !== nonzero[b]) wrong.push(`pageblock ${b}: nonzero is ${nonzero[b]}, the record says ${words}`);
      if (virgin && (words !== 0 || word31 !== 0 || type[b] !== 0)) wrong.push(`pageblock ${b}: not seen, not virgin`);
      if (word31 < 0) wrong.push(`pageblock ${b}: bit 1023 is set`);
      if (words === 0 && word31 === 0) {
        if (bins > 0 && blockFree[b] !== 0) wrong.push(`pageblock ${b}: blockFree is ${blockFree[b]}, has none`);
        continue;
      }
      checkRecord(b, wrong);
      const free = freeInBlock(b);
      if (bins > 0 && blockFree[b] !== free) wrong.push(`pageblock ${b}: blockFree is ${blockFree[b]}, has ${free}`);
      if (bins > 0 && free < 512) {
        const bin = NR_ORDERS + ((free - 1) >> (9 - Math.log2(bins)));
        expected[(bin * 6 + (type[b] ^ 1)) * listWords + (b >>> 5)] |= 1 << b;
      }
      for (let o = 0; o < 10; o++) {
        let has = false;
        for (let x = 0; x < 512; x += 1 << o) if (bitAt(b, x, o) !== 0) has = true;
        if (has) expected[(o * 6 + (type[b] ^ 1)) * listWords + (b >>> 5)] |= 1 << b;
      }
      const mine = type[b] ^ 1;
      const theirs = type[b ^ 1] ^ 1;
      const whole = (v: number): boolean => (v & (1 << 30)) !== 0;
      if ((b & 1) === 0 && whole(word31) && whole(record[((b + 1) << 5) + 31])) {
        if (mine === theirs || (mine < 3 && theirs < 3))
          wrong.push(`FA5 pageblocks ${b} and ${b + 1}: free, not merged`);
      }
    }
    for (let b = 0; b < blocks; b += 2) {
      for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) {
        const k = (60 + mt) * listWords + (b >>> 5);
        if (((lists[k] >>> b) & 1) === 0) continue;
        expected[k] |= 1 << b;
        if ((type[b] ^ 1) !== mt || (type[b + 1] ^ 1) !== mt) {
          wrong.push(`chunk at ${b * 512} is on list ${mt}, its pageblocks are ${type[b] ^ 1} and ${type[b + 1] ^ 1}`);
        }
      }
    }
    for (let list = 0; list < lists.length / listWords; list++) {
      const at = list * listWords;
      let any = false;
      const levels = [0, level1, level2, level3, listWords];
      for (let level = 1; level < 4; level++) {
        for (let w = levels[level - 1]; w < levels[level]; w++) {
          const bit = w - levels[level - 1];
          if (expected[at + w] !== 0) expected[at + levels[level] + (bit >>> 5)] |= 1 << bit;
        }
      }
      for (let w = 0; w < listWords; w++) {
        if (expected[at + w] !== 0) any = true;
        if (expected[at + w] !== lists[at + w]) {
          wrong.push(`summary of slot ${Math.floor(list / 6)} type ${list % 6} word ${w}: ${lists[at + w]}`);
        }
      }
      const set = (slots[list % 6] & (1 << Math.floor(list / 6))) !== 0;
      if (set !== any) wrong.push(`slot ${Math.floor(list / 6)} of type ${list % 6} says ${set}, its summary ${any}`);
    }
    return wrong;
  }

  return {
    orders,
    orderAt,
    headOf,
    freeIn,
    forEachFree,
    count,
    countTypes,
    bytes,
    check,
  };
}
