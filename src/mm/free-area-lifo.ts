// LIFO free area (placement `lifo`): Linux's lists. Last freed first, "likely to merge soon" behind the others.
//
// One doubly linked list per (order, type), linked through the frames themselves, in the order that Linux would have.
// For replays that must fragment as Linux does; 9 bytes a page, and every link is a cache miss.
//
//   column     type    length     meaning                                                             zero means
//   next       Int32   pages      next head on the list, as a distance: next - i - 1024, modulo 2^32  i + 1024
//   prev       Int32   pages      the one before: prev - i + 1024                                     i - 1024
//   order      Uint8   pages      1 + order of the free chunk that begins here, orders 0..9           none begins
//   chunkFree  Int32   chunks/32  bit: the chunk is free, order 10                                    in use
//   type       Uint8   blocks     migrate type ^ Movable                                              Movable
//   seen       Uint8   sections   1: next, prev, order or type may be not zero                        virgin
//   heads, tails, length  per list (order * 6 + type): first and last head, -1 when empty; chunks on the list
//   orders     Int32   6          bit o: the list (o, type) is not empty
//
//   list:  heads ─> i <─> j <─> k <─ tails        alloc takes heads; free adds there, or at tails when
//                                                 (a) order <= 8 and the merged parent's buddy is free, or (b) told to
//
// The distance form makes a run of virgin chunks a linked list of zeros: online() writes the two ends of the run and
// one bit a chunk, and the list is the same as if every chunk had been freed to the tail in ascending order.
//
// Invariants (check): the lists hold exactly the free chunks, each on the list of its pageblock's type; both
// directions agree; FA3, FA5; both pageblocks of a free chunk of order 10 have one type.
// Follows spec 2.1 (Linux v6.12 mm/page_alloc.c: __free_one_page(), buddy_merge_likely(), expand(),
// move_freepages_block(): moved pages go to the tail).

import { assert } from '#base/assert';
import type { Code } from '#base/specialise';
import { specialise } from '#base/specialise';
import type { FreeArea } from './free-area.ts';
import { carveColumns, forEachUsedRun } from './free-area-columns.ts';
import { lifoReads } from './free-area-lifo-read.ts';
import {
  CHUNK_PAGES,
  MAX_ORDER,
  MIGRATE_MOVABLE,
  NR_MIGRATE_TYPES,
  NR_ORDERS,
  NR_PCP_TYPES,
  PAGEBLOCK_PAGES,
  PAGEBLOCKS_PER_SECTION,
  PAGES_PER_SECTION,
} from './geometry.ts';

export type LifoColumns = {
  readonly pages: number;
  readonly next: Int32Array;
  readonly prev: Int32Array;
  readonly order: Uint8Array;
  readonly chunkFree: Int32Array;
  readonly type: Uint8Array;
  readonly seen: Uint8Array;
  readonly heads: Int32Array;
  readonly tails: Int32Array;
  readonly length: Int32Array;
  readonly orders: Int32Array;
};

export interface LifoArea extends FreeArea {
  /** @internal */
  readonly columns: LifoColumns;
}

/** An area with nothing in it. @param pages a multiple of 1024, at most 2^31 */
export function createLifoArea(pages: number, code: Code): LifoArea {
  assert(pages > 0 && pages % CHUNK_PAGES === 0 && pages <= 2 ** 31, 'an area is chunks of 1024 pages, up to 2^31', {
    pages,
  });
  const lists = NR_ORDERS * NR_MIGRATE_TYPES;
  const ends = carveColumns([lists * 4, lists * 4, lists * 4, NR_MIGRATE_TYPES * 4]);
  const columns: LifoColumns = {
    pages,
    next: new Int32Array(pages),
    prev: new Int32Array(pages),
    order: new Uint8Array(pages),
    chunkFree: new Int32Array(Math.ceil(pages / CHUNK_PAGES / 32)),
    type: new Uint8Array(pages / PAGEBLOCK_PAGES),
    seen: new Uint8Array(Math.ceil(pages / PAGES_PER_SECTION)),
    heads: ends.int32(lists).fill(-1),
    tails: ends.int32(lists).fill(-1),
    length: ends.int32(lists),
    orders: ends.int32(NR_MIGRATE_TYPES),
  };
  const core = specialise(lifoCore, code)(columns, assert);
  return {
    placement: 'lifo',
    pages,
    columns,
    alloc: core.alloc,
    allocBulk: core.allocBulk,
    free: core.free,
    first: (order, mt) => columns.heads[order * NR_MIGRATE_TYPES + mt],
    take: core.take,
    put: core.put,
    types: columns.type,
    typeOf: core.typeOf,
    setPageblockType: core.setPageblockType,
    online(start, end) {
      assert(
        start >= 0 && start < end && end <= pages && start % CHUNK_PAGES === 0 && end % CHUNK_PAGES === 0,
        'online: a range of whole chunks inside the area',
        { start, end, pages },
      );
      core.online(start, end);
    },
    copyFrom(other) {
      const from = (other as Partial<LifoArea>).columns;
      assert(from !== undefined && other.placement === 'lifo' && other.pages === pages, 'copyFrom: another shape', {
        placement: other.placement,
        pages: other.pages,
      });
      copyColumns(columns, from);
    },
    ...lifoReads(columns),
  };
}

type Core = Pick<FreeArea, 'alloc' | 'allocBulk' | 'free' | 'take' | 'put' | 'typeOf' | 'setPageblockType' | 'online'>;

/** The mechanism: a factory by the contract of base/specialise.ts; literals stand for geometry, asserted below. */
function lifoCore(columns: LifoColumns, check: typeof assert): Core {
  const { next, prev, order: begins, chunkFree, type, seen, heads, tails, length, orders } = columns;

  function setNext(i: number, to: number): void {
    next[i] = to - i - 1024;
    seen[i >>> 15] = 1;
  }

  function setPrev(i: number, to: number): void {
    prev[i] = to - i + 1024;
    seen[i >>> 15] = 1;
  }

  /** Marks the chunk at i as free, of order o, and links it at the head or the tail of its list. */
  function link(i: number, o: number, mt: number, tail: boolean): void {
    const list = o * 6 + mt;
    if (o === 10) chunkFree[i >>> 15] |= 1 << (i >>> 10);
    else begins[i] = o + 1;
    if (tail) {
      const last = tails[list];
      setPrev(i, last);
      setNext(i, -1);
      tails[list] = i;
      if (last < 0) heads[list] = i;
      else setNext(last, i);
    } else {
      const first = heads[list];
      setNext(i, first);
      setPrev(i, -1);
      heads[list] = i;
      if (first < 0) tails[list] = i;
      else setPrev(first, i);
    }
    length[list]++;
    orders[mt] |= 1 << o;
  }

  function unlink(i: number, o: number, mt: number): void {
    const list = o * 6 + mt;
    if (o === 10) chunkFree[i >>> 15] &= ~(1 << (i >>> 10));
    else begins[i] = 0;
    const after = (next[i] + i + 1024) | 0;
    const before = (prev[i] + i - 1024) | 0;
    if (before < 0) heads[list] = after;
    else setNext(before, after);
    if (after < 0) tails[list] = before;
    else setPrev(after, before);
    if (--length[list] === 0) orders[mt] &= ~(1 << o);
  }

  function alloc(order: number, mt: number): number {
    const m = orders[mt] >>> order;
    if (m === 0) return -1;
    let o = order + 31 - Math.clz32(m & -m);
    const i = heads[o * 6 + mt];
    unlink(i, o, mt);
    while (o > order) {
      o--;
      link(i + (1 << o), o, mt, false);
    }
    return i;
  }

  function allocBulk(mt: number, ring: Int32Array, at: number, mask: number, count: number): number {
    for (let got = 0; got < count; got++) {
      const i = alloc(0, mt);
      if (i < 0) return got;
      ring[(at + got) & mask] = i;
    }
    return count;
  }

  /** buddy_merge_likely(): would one more free page let the parent merge? Then this one should rest. */
  const likely = (i: number, o: number): boolean => {
    if (o > 8) return false;
    const parent = i & ~(1 << o);
    return begins[parent ^ (2 << o)] === o + 2;
  };

  function free(i: number, order: number, tail = false): void {
    if (order === 10) {
      // Pageblock by pageblock, as split_large_buddy(): the halves may have different types.
      free(i, 9, tail);
      free(i + 512, 9, tail);
      return;
    }
    const b = i >>> 9;
    const mt = type[b] ^ 1;
    if (begins[i] !== 0) check(false, 'frame freed twice', { i, order }); // no object is made on the way past
    let p = i;
    let o = order;
    while (o < 9 && begins[p ^ (1 << o)] === o + 1) {
      const buddy = p ^ (1 << o);
      unlink(buddy, o, mt);
      p &= buddy;
      o++;
    }
    if (o === 9) settle(b, mt, tail);
    else link(p, o, mt, tail || likely(p, o));
  }

  /** A whole free pageblock, on no list: joins its other half to a chunk of order 10 where FA3 allows. */
  function settle(b: number, mt: number, tail: boolean): void {
    const other = b ^ 1;
    const theirs = type[other] ^ 1;
    if (begins[other << 9] === 10 && (theirs === mt || (theirs < 3 && mt < 3))) {
      unlink(other << 9, 9, theirs);
      type[other] = mt ^ 1;
      link((b & -2) << 9, 10, mt, tail);
    } else link(b << 9, 9, mt, tail);
  }

  const chunkIsFree = (i: number): boolean => ((chunkFree[i >>> 15] >>> (i >>> 10)) & 1) !== 0;

  function take(i: number, order: number): void {
    const is = order === 10 ? chunkIsFree(i) : begins[i] === order + 1;
    if (!is) check(false, 'take: no such free chunk', { i, order });
    unlink(i, order, type[i >>> 9] ^ 1);
  }

  function put(i: number, order: number): void {
    const b = i >>> 9;
    if (order === 10 && type[b] !== type[b + 1]) check(false, 'put: the halves of a chunk have one type', { i });
    link(i, order, type[b] ^ 1, false);
  }

  const typeOf = (i: number): ReturnType<FreeArea['typeOf']> => (type[i >>> 9] ^ 1) as ReturnType<FreeArea['typeOf']>;

  function setPageblockType(i: number, mt: number): number {
    const b = i >>> 9;
    const old = type[b] ^ 1;
    if (old === mt) return 0;
    seen[b >>> 6] = 1;
    const even = b & -2;
    if (chunkIsFree(even << 9)) {
      unlink(even << 9, 10, old);
      if (old < 3 && mt < 3) {
        type[even] = mt ^ 1;
        type[even + 1] = mt ^ 1;
        link(even << 9, 10, mt, true);
        return 1024;
      }
      link(even << 9, 9, old, false);
      link((even + 1) << 9, 9, old, false);
    }
    let moved = 0;
    const end = (b + 1) * 512;
    for (let p = b << 9; p < end; ) {
      const o = begins[p] - 1;
      if (o < 0) {
        p++;
        continue;
      }
      unlink(p, o, old);
      link(p, o, mt, true);
      moved += 1 << o;
      p += 1 << o;
    }
    type[b] = mt ^ 1;
    if (begins[b << 9] === 10) {
      // A whole free pageblock may fit its other half now.
      unlink(b << 9, 9, mt);
      settle(b, mt, true);
    }
    return moved;
  }

  function online(start: number, end: number): void {
    const last = end - 1024;
    for (let b = start >>> 9; b <= last >>> 9; b += 64 - (b & 63)) {
      if (seen[b >>> 6] === 0) continue;
      // A range that comes back: its columns as if it were virgin. (Its frames are in no list.)
      const stop = Math.min(b + 64 - (b & 63), (last >>> 9) + 2);
      type.fill(0, b, stop);
      next.fill(0, b * 512, stop * 512);
      prev.fill(0, b * 512, stop * 512);
    }
    for (let w = start >>> 15; w <= last >>> 15; w++) {
      let bits = -1;
      if (w === start >>> 15) bits &= -1 << (start >>> 10);
      if (w === last >>> 15) bits &= -1 >>> (31 - ((last >>> 10) & 31));
      chunkFree[w] |= bits;
    }
    const list = 61; // order 10, Movable
    const before = tails[list];
    setPrev(start, before);
    setNext(last, -1);
    tails[list] = last;
    if (before < 0) heads[list] = start;
    else setNext(before, start);
    length[list] += (end - start) / 1024;
    orders[1] |= 1 << 10;
  }

  return { alloc, allocBulk, free, take, put, typeOf, setPageblockType, online };
}

/** Copies what either side has in use; all else is zero on both. */
function copyColumns(to: LifoColumns, from: LifoColumns): void {
  forEachUsedRun(to.seen, from.seen, (s, end) => {
    const a = s * PAGES_PER_SECTION;
    const z = end * PAGES_PER_SECTION;
    to.next.set(from.next.subarray(a, z), a);
    to.prev.set(from.prev.subarray(a, z), a);
    to.order.set(from.order.subarray(a, z), a);
    const perBlock = PAGEBLOCKS_PER_SECTION;
    to.type.set(from.type.subarray(s * perBlock, end * perBlock), s * perBlock);
  });
  to.seen.set(from.seen);
  to.chunkFree.set(from.chunkFree);
  to.heads.set(from.heads);
  to.tails.set(from.tails);
  to.length.set(from.length);
  to.orders.set(from.orders);
}

// The literals of lifoCore, proved once.
assert(
  PAGEBLOCK_PAGES === 512 &&
    CHUNK_PAGES === 1024 &&
    MAX_ORDER === 10 &&
    PAGES_PER_SECTION === 32768 &&
    MIGRATE_MOVABLE === 1 &&
    NR_MIGRATE_TYPES === 6 &&
    NR_PCP_TYPES === 3,
  'lifoCore is written for this geometry',
);
