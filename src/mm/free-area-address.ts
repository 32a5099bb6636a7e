// Address-ordered free area (placements `address` and `fullest`): bitmaps instead of lists, lowest address first.
//
// Each pageblock has one record of 1024 bits: a binary heap of its buddies. A set bit is a free chunk. Per (slot, type)
// a summary bitmap over the pageblocks, 32 ways a level, finds the lowest pageblock that has one: at most four words.
// Nothing is linked, so a free touches one record, and a pageblock changes type by moving at most ten summary bits.
//
//   record of a pageblock, 32 words = 128 bytes (x = frame & 511)
//     word  0..15 │ 16..23 │ 24..27 │ 28..29 │ 30     │ 31: bits 0..15 │ 16..23 │ 24..27 │ 28..29 │ 30      │ 31
//     order 0     │ 1      │ 2      │ 3      │ 4      │     5          │ 6      │ 7      │ 8      │ 9       │ -
//     the chunk of order o at x is bit 1024 - (1024 >> o) + (x >> o)
//
//   column     type    length                meaning                                                   zero means
//   record     Int32   32 * pageblocks       the heaps                                                 nothing free
//   nonzero    Int32   pageblocks            bit w: word w (0..30) of the record is not zero           none
//   type       Uint8   pageblocks            migrate type ^ Movable                                    Movable
//   lists      Int32   6 * slots * levels    summary of (slot, type): list = slot * 6 + type           empty
//   slots      Int32   6                     bit s: slot s of the type is not empty                    empty
//   seen       Uint8   sections (64 blocks)  1: record, nonzero, type or blockFree may be not zero     virgin
//   blockFree  Uint16  pageblocks, fullest   free pages in chunks below order 10                       0
//
//   slot 0..10 = the order. `fullest` has four more, 11..14: the pageblocks that are partly free below order 9, by how
//   full they are, fullest first. A chunk of order 10 has no bit in a record: it *is* its bit in the summary of order
//   10, so onlining a virgin range sets summary bits (1 TiB: 64 KiB of them) and touches no record.
//
// Invariants (check): no free chunk inside another; FA3, FA5; `nonzero`, summaries and slots equal what the records
// say; both pageblocks of a free chunk of order 10 have one type; a partly free pageblock is in exactly the slot of its
// fullness; what `seen` calls virgin is zero.
//
// Cost: 0.27 bytes a page, virtual; memory is touched as frames are. Up to 2^31 pages; all arithmetic is int32.
// The code is one factory, see base/specialise.ts; queries that nobody loops over are in free-area-address-read.ts.

import { assert } from '#base/assert';
import type { Code } from '#base/specialise';
import { specialise } from '#base/specialise';
import type { FreeArea } from './free-area.ts';
import { addressReads } from './free-area-address-read.ts';
import { carveColumns, columnBytes, forEachUsedRun } from './free-area-columns.ts';
import {
  CHUNK_PAGES,
  MAX_ORDER,
  MIGRATE_MOVABLE,
  NR_MIGRATE_TYPES,
  NR_ORDERS,
  NR_PCP_TYPES,
  PAGEBLOCK_PAGES,
  PAGEBLOCKS_PER_SECTION,
} from './geometry.ts';

export const RECORD_WORDS = 32;
/** Four bins of fullness do as well as 256 on the frag workload (bench/README.md, F), for four summaries a type. */
const FULLEST_BINS = 4;

export type AddressColumns = {
  readonly pages: number;
  /** Slots of fullness: 0 (`address`) or 4 (`fullest`). */
  readonly bins: number;
  readonly record: Int32Array;
  readonly nonzero: Int32Array;
  readonly type: Uint8Array;
  readonly lists: Int32Array;
  readonly slots: Int32Array;
  readonly seen: Uint8Array;
  readonly blockFree: Uint16Array;
  /** Words of one summary, and where its levels begin: level 0 at 0, has one bit a pageblock. */
  readonly listWords: number;
  readonly level1: number;
  readonly level2: number;
  readonly level3: number;
};

export interface AddressArea extends FreeArea {
  /** @internal */
  readonly columns: AddressColumns;
  /**
   * `address` only: takes over the chunk at frame i, of which this area has nothing, with what its records say is free
   * and the types that are set by `types` (0..5 of its two pageblocks). `whole`: it is one free chunk of order 10, its
   * records are zero. Cost: two records read, at most twenty summary bits.
   */
  adoptChunk(i: number, types: readonly [number, number], whole: boolean): void;
  /**
   * `address` only: the reverse. The chunk at frame i leaves the summaries, its records stay as they are for the next
   * area over the same table, its pageblocks are Isolate. @returns whether it was free as one chunk of order 10
   */
  releaseChunk(i: number): boolean;
}

/**
 * Tables that are there already, for src/mm/shared: all columns from a byte of a buffer on (a multiple of 64), or the
 * records alone. Zeros are a new area.
 */
export type AddressStore = { readonly buffer: ArrayBufferLike; readonly at: number } | { readonly record: Int32Array };

/**
 * An area with nothing in it: frames arrive by online(), free() or put().
 *
 * @param pages      a multiple of 1024, at most 2^31
 * @param placement  lowest address first, or single frames from the fullest pageblock
 * @param store      where its columns lie; left out: in memory of its own
 */
export function createAddressArea(
  pages: number,
  placement: 'address' | 'fullest',
  code: Code,
  store?: AddressStore,
): AddressArea {
  assert(pages > 0 && pages % CHUNK_PAGES === 0 && pages <= 2 ** 31, 'an area is chunks of 1024 pages, up to 2^31', {
    pages,
  });
  const columns = newColumns(pages, placement === 'fullest' ? FULLEST_BINS : 0, store);
  const core = specialise(addressCore, code)(columns, assert);
  const reads = addressReads(columns);
  return {
    placement,
    pages,
    columns,
    types: columns.type,
    alloc: core.alloc,
    allocBulk: core.allocBulk,
    free: core.free,
    first: core.first,
    take: core.take,
    put: core.put,
    typeOf: core.typeOf,
    setPageblockType: core.setPageblockType,
    adoptChunk: core.adoptChunk,
    releaseChunk: core.releaseChunk,
    online: (start, end) => online(columns, start, end),
    copyFrom(other) {
      const from = (other as Partial<AddressArea>).columns;
      assert(from !== undefined && other.placement === placement && other.pages === pages, 'copyFrom: another shape', {
        placement: other.placement,
        pages: other.pages,
      });
      copyColumns(columns, from);
    },
    ...reads,
  };
}

/** Bytes of the buffer that holds all columns of an area with placement `address`. */
export function addressAreaBytes(pages: number): number {
  return columnBytes(columnLengths(pages, 0).bytes);
}

function columnLengths(pages: number, bins: number) {
  const blocks = pages / PAGEBLOCK_PAGES;
  const up = (n: number): number => Math.ceil(n / 32);
  const level0 = up(blocks);
  const level1 = level0;
  const level2 = level1 + up(level0);
  const level3 = level2 + up(up(level0));
  const listWords = level3 + up(up(up(level0))); // the top level may be a few words: it is scanned
  const summaryWords = listWords * NR_MIGRATE_TYPES * (NR_ORDERS + bins);
  const sections = Math.ceil(blocks / PAGEBLOCKS_PER_SECTION);
  const counted = bins > 0 ? blocks : 0;
  const recordWords = blocks * RECORD_WORDS;
  return {
    bytes: [recordWords * 4, blocks * 4, blocks, summaryWords * 4, NR_MIGRATE_TYPES * 4, sections, counted * 2],
    blocks,
    recordWords,
    summaryWords,
    sections,
    counted,
    levels: { listWords, level1, level2, level3 },
  };
}

function newColumns(pages: number, bins: number, store: AddressStore | undefined): AddressColumns {
  const { bytes, blocks, recordWords, summaryWords, sections, counted, levels } = columnLengths(pages, bins);
  const record = store !== undefined && 'record' in store ? store.record : undefined;
  const within = store !== undefined && 'buffer' in store ? store : undefined;
  assert(record === undefined || record.length === recordWords, 'records of another area', { pages });
  const columns = carveColumns(record === undefined ? bytes : [0, ...bytes.slice(1)], within);
  return {
    pages,
    bins,
    record: record ?? columns.int32(recordWords),
    nonzero: columns.int32(blocks),
    type: columns.uint8(blocks),
    lists: columns.int32(summaryWords),
    slots: columns.int32(NR_MIGRATE_TYPES),
    seen: columns.uint8(sections),
    blockFree: columns.uint16(counted),
    ...levels,
  };
}

type Core = Pick<
  AddressArea,
  | 'alloc'
  | 'allocBulk'
  | 'free'
  | 'first'
  | 'take'
  | 'put'
  | 'typeOf'
  | 'setPageblockType'
  | 'adoptChunk'
  | 'releaseChunk'
>;

/**
 * The mechanism: a factory by the contract of base/specialise.ts. Its columns become constants of the machine code.
 * Literals stand for geometry (asserted at the end of this file): block = frame >>> 9, types below 3 may merge.
 */
function addressCore(columns: AddressColumns, check: typeof assert): Core {
  const { record, nonzero, type, lists, slots, seen, blockFree, listWords, level1, level2, level3, bins } = columns;
  const topWords = listWords - level3;
  const fullest = bins > 0;
  const binShift = 9 - (31 - Math.clz32(bins)); // four bins: 128 pages each
  // Orders 0..4 as bits of `nonzero` (which words), orders 5..9 as bits of word 31: the heap repeats itself.
  const orderBits = new Int32Array(new ArrayBuffer(64)); // an explicit buffer: see free-area-columns.ts
  orderBits.set([0xffff, 0xff << 16, 15 << 24, 3 << 28, 1 << 30, 0xffff, 0xff << 16, 15 << 24, 3 << 28, 1 << 30]);

  const ctz = (v: number): number => 31 - Math.clz32(v & -v);

  // Summaries.

  function setList(slot: number, mt: number, block: number): void {
    seen[block >>> 6] = 1;
    const at = (slot * 6 + mt) * listWords;
    let b = block;
    let k = at + (b >>> 5);
    let v = lists[k];
    lists[k] = v | (1 << b);
    if (v !== 0) return;
    b >>>= 5;
    k = at + level1 + (b >>> 5);
    v = lists[k];
    lists[k] = v | (1 << b);
    if (v !== 0) return;
    b >>>= 5;
    k = at + level2 + (b >>> 5);
    v = lists[k];
    lists[k] = v | (1 << b);
    if (v !== 0) return;
    b >>>= 5;
    k = at + level3 + (b >>> 5);
    lists[k] |= 1 << b;
    slots[mt] |= 1 << slot;
  }

  function clearList(slot: number, mt: number, block: number): void {
    const at = (slot * 6 + mt) * listWords;
    let b = block;
    let k = at + (b >>> 5);
    let v = lists[k] & ~(1 << b);
    lists[k] = v;
    if (v !== 0) return;
    b >>>= 5;
    k = at + level1 + (b >>> 5);
    v = lists[k] & ~(1 << b);
    lists[k] = v;
    if (v !== 0) return;
    b >>>= 5;
    k = at + level2 + (b >>> 5);
    v = lists[k] & ~(1 << b);
    lists[k] = v;
    if (v !== 0) return;
    b >>>= 5;
    k = at + level3 + (b >>> 5);
    v = lists[k] & ~(1 << b);
    lists[k] = v;
    if (v !== 0) return;
    for (let w = 0; w < topWords; w++) if (lists[at + level3 + w] !== 0) return;
    slots[mt] &= ~(1 << slot);
  }

  /** Lowest pageblock of a list that is not empty. */
  function firstBlock(slot: number, mt: number): number {
    const at = (slot * 6 + mt) * listWords;
    let b = 0;
    while (lists[at + level3 + b] === 0) b++;
    b = (b << 5) + ctz(lists[at + level3 + b]);
    b = (b << 5) + ctz(lists[at + level2 + b]);
    b = (b << 5) + ctz(lists[at + level1 + b]);
    return (b << 5) + ctz(lists[at + b]);
  }

  /** Lowest chunk of order o < 10 in a pageblock that has one. */
  function firstInBlock(b: number, o: number): number {
    const w = o <= 4 ? ctz(nonzero[b] & orderBits[o]) : 31;
    const v = o <= 4 ? record[(b << 5) + w] : record[(b << 5) + 31] & orderBits[o];
    return (b << 9) + (((w << 5) + ctz(v) - (1024 - (1024 >> o))) << o);
  }

  // Fullness (`fullest` only).

  /** Slot of a pageblock with so many free pages; 0 when it has none, or nothing but itself whole. */
  const binOf = (free: number): number => ((free & 511) === 0 ? 0 : 11 + ((free - 1) >> binShift));

  /** The free pages of a pageblock change by `by`. */
  function fill(b: number, mt: number, by: number): void {
    const old = blockFree[b];
    blockFree[b] = old + by;
    const from = binOf(old);
    const to = binOf(old + by);
    if (from === to) return;
    if (from !== 0) clearList(from, mt, b);
    if (to !== 0) setList(to, mt, b);
  }

  /** A chunk of order 10 comes under its records: both pageblocks are whole and free. */
  function openChunk(b: number): void {
    blockFree[b] = 512;
    blockFree[b + 1] = 512;
  }

  /** Smallest order below 10 of a pageblock that has a free chunk. */
  function smallestIn(b: number): number {
    const words = nonzero[b];
    // The place of a bit in the heap, 5 bits: as many leading ones as its order.
    return words !== 0 ? Math.clz32(~(ctz(words) << 27)) : 5 + Math.clz32(~(ctz(record[(b << 5) + 31]) << 27));
  }

  // Records: orders below 10. They do not count blockFree: the verbs do, once each.

  function insert(i: number, o: number, mt: number): void {
    const b = i >>> 9;
    const x = 1024 - (1024 >> o) + ((i & 511) >> o);
    const w = x >> 5;
    const k = (b << 5) + w;
    const v = record[k];
    record[k] = v | (1 << x);
    if (o <= 4) {
      if (v !== 0) return;
      const words = nonzero[b];
      nonzero[b] = words | (1 << w);
      if ((words & orderBits[o]) === 0) setList(o, mt, b);
    } else if ((v & orderBits[o]) === 0) setList(o, mt, b);
  }

  function remove(i: number, o: number, mt: number): void {
    const b = i >>> 9;
    const x = 1024 - (1024 >> o) + ((i & 511) >> o);
    const w = x >> 5;
    const k = (b << 5) + w;
    const v = record[k] & ~(1 << x);
    record[k] = v;
    if (o <= 4) {
      if (v !== 0) return;
      const words = nonzero[b] & ~(1 << w);
      nonzero[b] = words;
      if ((words & orderBits[o]) === 0) clearList(o, mt, b);
    } else if ((v & orderBits[o]) === 0) clearList(o, mt, b);
  }

  /** Takes the lowest chunk of order o out of pageblock b, which has one. */
  function takeIn(b: number, o: number, mt: number): number {
    if (o === 10) {
      clearList(10, mt, b);
      return b << 9;
    }
    const i = firstInBlock(b, o);
    remove(i, o, mt);
    return i;
  }

  function alloc(order: number, mt: number): number {
    let o: number;
    let b: number;
    const full = fullest && order === 0 ? slots[mt] >>> 11 : 0;
    if (full !== 0) {
      b = firstBlock(11 + ctz(full), mt);
      o = smallestIn(b);
    } else {
      const m = (slots[mt] & 0x7ff) >>> order;
      if (m === 0) return -1;
      o = order + ctz(m);
      b = firstBlock(o, mt);
    }
    const i = takeIn(b, o, mt);
    if (fullest && order < 10) {
      if (o === 10) openChunk(b);
      fill(b, mt, -(1 << order));
    }
    while (o > order) {
      o--;
      insert(i + (1 << o), o, mt);
    }
    return i;
  }

  function allocBulk(mt: number, ring: Int32Array, at: number, mask: number, count: number): number {
    let got = 0;
    while (got < count) {
      let top: number;
      let b: number;
      const full = fullest ? slots[mt] >>> 11 : 0;
      if (full !== 0) {
        b = firstBlock(11 + ctz(full), mt);
        top = smallestIn(b);
      } else {
        const m = slots[mt] & 0x7ff;
        if (m === 0) break;
        top = ctz(m);
        b = firstBlock(top, mt);
      }
      if (top === 0) {
        // Single frames: a whole word of them at once.
        const words = nonzero[b];
        const w = ctz(words & 0xffff);
        const k = (b << 5) + w;
        const base = (b << 9) + (w << 5);
        const before = got;
        let v = record[k];
        do {
          const bit = v & -v;
          ring[(at + got) & mask] = base + 31 - Math.clz32(bit);
          v ^= bit;
          got++;
        } while (v !== 0 && got < count);
        record[k] = v;
        if (v === 0) {
          const left = words & ~(1 << w);
          nonzero[b] = left;
          if ((left & 0xffff) === 0) clearList(0, mt, b);
        }
        if (fullest) fill(b, mt, before - got);
        continue;
      }
      // A chunk: its frames in order. What is not wanted goes back as halves, as if taken frame by frame.
      const i = takeIn(b, top, mt);
      let o = top;
      while (1 << o > count - got) o--;
      if (fullest && o < 10) {
        if (top === 10) openChunk(b);
        fill(b, mt, -(1 << o));
      }
      for (let half = top - 1; half >= o; half--) insert(i + (1 << half), half, mt);
      const end = i + (1 << o);
      for (let p = i; p < end; p++) ring[(at + got++) & mask] = p;
    }
    return got;
  }

  /** A whole free pageblock, on no list: joins its other half to a chunk of order 10 where FA3 allows. */
  function settle(b: number, mt: number): void {
    const other = b ^ 1;
    const k = (other << 5) + 31;
    if (record[k] === 1 << 30) {
      const theirs = type[other] ^ 1;
      if (theirs === mt || (theirs < 3 && mt < 3)) {
        record[k] = 0; // a whole pageblock has nothing else in its record
        clearList(9, theirs, other);
        type[other] = mt ^ 1;
        if (fullest) {
          blockFree[b] = 0; // from 512: a whole pageblock is in no bin
          blockFree[other] = 0;
        }
        setList(10, mt, b & -2);
        return;
      }
    }
    record[(b << 5) + 31] = 1 << 30;
    setList(9, mt, b);
  }

  function free(i: number, order: number, _tail?: boolean): void {
    const b = i >>> 9;
    const mt = type[b] ^ 1;
    if (order === 0) {
      // The common case: the buddy is in use, so that the frame just joins its word.
      const x = i & 511;
      const k = (b << 5) + (x >> 5);
      const v = record[k];
      if ((v & (3 << (x & 30))) === 0) {
        if (fullest) fill(b, mt, 1);
        record[k] = v | (1 << x);
        if (v !== 0) return;
        const words = nonzero[b];
        nonzero[b] = words | (1 << (x >> 5));
        if ((words & 0xffff) === 0) setList(0, mt, b);
        return;
      }
      if ((v & (1 << x)) !== 0) check(false, 'frame freed twice', { i }); // no object is made on the way past
    }
    freeMerging(i, order, b, mt);
  }

  function freeMerging(i: number, order: number, b: number, mt: number): void {
    if (order === 10) {
      // Pageblock by pageblock, as split_large_buddy(): the halves may have different types.
      freeMerging(i, 9, b, mt);
      freeMerging(i + 512, 9, b + 1, type[b + 1] ^ 1);
      return;
    }
    if (fullest) fill(b, mt, 1 << order);
    let p = i;
    let o = order;
    while (o < 9) {
      const buddy = p ^ (1 << o);
      const x = 1024 - (1024 >> o) + ((buddy & 511) >> o);
      const w = x >> 5;
      const k = (b << 5) + w;
      const bit = 1 << x;
      let v = record[k];
      if ((v & bit) === 0) break;
      v ^= bit;
      record[k] = v;
      if (o <= 4) {
        if (v === 0) {
          const words = nonzero[b] & ~(1 << w);
          nonzero[b] = words;
          if ((words & orderBits[o]) === 0) clearList(o, mt, b);
        }
      } else if ((v & orderBits[o]) === 0) clearList(o, mt, b);
      p &= buddy;
      o++;
    }
    if (o === 9) settle(b, mt);
    else insert(p, o, mt);
  }

  const chunkIsFree = (b: number): boolean => ((lists[(60 + (type[b] ^ 1)) * listWords + (b >>> 5)] >>> b) & 1) !== 0;

  function first(order: number, mt: number): number {
    if ((slots[mt] & (1 << order)) === 0) return -1;
    const b = firstBlock(order, mt);
    return order === 10 ? b << 9 : firstInBlock(b, order);
  }

  function take(i: number, order: number): void {
    const b = i >>> 9;
    const mt = type[b] ^ 1;
    if (order === 10) {
      if (!chunkIsFree(b)) check(false, 'take: no such free chunk', { i, order });
      clearList(10, mt, b);
      return;
    }
    const x = 1024 - (1024 >> order) + ((i & 511) >> order);
    if ((record[(b << 5) + (x >> 5)] & (1 << x)) === 0) check(false, 'take: no such free chunk', { i, order });
    remove(i, order, mt);
    if (fullest) fill(b, mt, -(1 << order));
  }

  function put(i: number, order: number): void {
    const b = i >>> 9;
    const mt = type[b] ^ 1;
    if (order === 10) {
      if (type[b] !== type[b + 1]) check(false, 'put: the halves of a chunk have one type', { i });
      setList(10, mt, b);
      return;
    }
    if (fullest) fill(b, mt, 1 << order);
    insert(i, order, mt);
  }

  const typeOf = (i: number): ReturnType<FreeArea['typeOf']> => (type[i >>> 9] ^ 1) as ReturnType<FreeArea['typeOf']>;

  function popcount(v: number): number {
    v -= (v >>> 1) & 0x55555555;
    v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
    return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }

  function setPageblockType(i: number, mt: number): number {
    const b = i >>> 9;
    const old = type[b] ^ 1;
    if (old === mt) return 0;
    seen[b >>> 6] = 1;
    const chunk = b & -2;
    if (chunkIsFree(chunk)) {
      clearList(10, old, chunk);
      if (old < 3 && mt < 3) {
        type[chunk] = mt ^ 1;
        type[chunk + 1] = mt ^ 1;
        setList(10, mt, chunk);
        return 1024;
      }
      if (fullest) openChunk(chunk);
      insert(chunk << 9, 9, old);
      insert((chunk + 1) << 9, 9, old);
    }
    const words = nonzero[b];
    const word31 = record[(b << 5) + 31];
    let moved = 0;
    for (let o = 0; o < 10; o++) {
      if (((o <= 4 ? words : word31) & orderBits[o]) === 0) continue;
      clearList(o, old, b);
      setList(o, mt, b);
      if (o > 4) {
        moved += popcount(word31 & orderBits[o]) << o;
        continue;
      }
      for (let left = words & orderBits[o]; left !== 0; left &= left - 1) {
        moved += popcount(record[(b << 5) + ctz(left)]) << o;
      }
    }
    const bin = fullest ? binOf(blockFree[b]) : 0;
    if (bin !== 0) {
      clearList(bin, old, b);
      setList(bin, mt, b);
    }
    type[b] = mt ^ 1;
    if ((word31 & (1 << 30)) !== 0) {
      // A whole free pageblock may fit its other half now.
      remove(b << 9, 9, mt);
      settle(b, mt);
    }
    return moved;
  }

  /** Order o below 10 of pageblock b, by what is known of its record: is there a free chunk? */
  const hasOrder = (b: number, o: number): boolean =>
    ((o <= 4 ? nonzero[b] : record[(b << 5) + 31]) & orderBits[o]) !== 0;

  function adoptChunk(i: number, types: readonly [number, number], whole: boolean): void {
    const first = i >>> 9;
    if (fullest) check(false, 'adoptChunk: placement address only', { i });
    seen[first >>> 6] = 1;
    type[first] = types[0] ^ 1;
    type[first + 1] = types[1] ^ 1;
    if (whole) {
      if (types[0] !== types[1]) check(false, 'adoptChunk: the halves of a chunk have one type', { i });
      setList(10, types[0], first);
      return;
    }
    for (let b = first; b <= first + 1; b++) {
      let words = 0;
      for (let w = 0; w < 31; w++) if (record[(b << 5) + w] !== 0) words |= 1 << w;
      nonzero[b] = words;
      for (let o = 0; o < 10; o++) if (hasOrder(b, o)) setList(o, type[b] ^ 1, b);
    }
  }

  function releaseChunk(i: number): boolean {
    const first = i >>> 9;
    if (fullest) check(false, 'releaseChunk: placement address only', { i });
    const whole = chunkIsFree(first);
    if (whole) clearList(10, type[first] ^ 1, first);
    for (let b = first; b <= first + 1; b++) {
      if (!whole) for (let o = 0; o < 10; o++) if (hasOrder(b, o)) clearList(o, type[b] ^ 1, b);
      nonzero[b] = 0;
      type[b] = 4; // Isolate ^ Movable
    }
    return whole;
  }

  return { alloc, allocBulk, free, first, take, put, typeOf, setPageblockType, adoptChunk, releaseChunk };
}

/** Sets the summary bits of the chunks in [start, end): the state that freeing every chunk would leave. */
function online(columns: AddressColumns, start: number, end: number): void {
  const { pages, lists, slots, seen, type, listWords, level1, level2, level3 } = columns;
  assert(
    start >= 0 && start < end && end <= pages && start % CHUNK_PAGES === 0 && end % CHUNK_PAGES === 0,
    'online: a range of whole chunks inside the area',
    { start, end, pages },
  );
  const at = (MAX_ORDER * NR_MIGRATE_TYPES + MIGRATE_MOVABLE) * listWords;
  let from = start / PAGEBLOCK_PAGES; // bits of this level in [from, to)
  let to = end / PAGEBLOCK_PAGES;
  const lastSection = Math.floor((to - 1) / PAGEBLOCKS_PER_SECTION);
  for (let s = seen.indexOf(1, Math.floor(from / PAGEBLOCKS_PER_SECTION)); s >= 0; s = seen.indexOf(1, s + 1)) {
    if (s > lastSection) break;
    const first = Math.max(from, s * PAGEBLOCKS_PER_SECTION);
    type.fill(0, first, Math.min(to, (s + 1) * PAGEBLOCKS_PER_SECTION)); // a range that comes back, as Movable
  }
  let every = 0x55555555; // level 0: the even pageblock of each chunk; above, each word that has a bit
  for (const level of [0, level1, level2, level3]) {
    const firstWord = from >>> 5;
    const lastWord = (to - 1) >>> 5;
    const head = every & (-1 << (from & 31));
    const tail = every & (-1 >>> (31 - ((to - 1) & 31)));
    if (firstWord === lastWord) lists[at + level + firstWord] |= head & tail;
    else {
      lists[at + level + firstWord] |= head;
      lists.fill(every, at + level + firstWord + 1, at + level + lastWord);
      lists[at + level + lastWord] |= tail;
    }
    from >>>= 5;
    to = ((to - 1) >>> 5) + 1;
    every = -1;
  }
  slots[MIGRATE_MOVABLE] |= 1 << MAX_ORDER;
}

/** Copies what either side has in use; all else is zero on both. */
function copyColumns(to: AddressColumns, from: AddressColumns): void {
  forEachUsedRun(to.seen, from.seen, (s, end) => {
    const a = s * PAGEBLOCKS_PER_SECTION;
    const z = end * PAGEBLOCKS_PER_SECTION;
    to.record.set(from.record.subarray(a * RECORD_WORDS, z * RECORD_WORDS), a * RECORD_WORDS);
    to.nonzero.set(from.nonzero.subarray(a, z), a);
    to.type.set(from.type.subarray(a, z), a);
    if (to.bins > 0) to.blockFree.set(from.blockFree.subarray(a, z), a);
  });
  to.seen.set(from.seen);
  const nrSlots = NR_ORDERS + to.bins;
  for (let slot = 0; slot < nrSlots; slot++) {
    for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) {
      if (((to.slots[mt] | from.slots[mt]) & (1 << slot)) === 0) continue;
      const at = (slot * NR_MIGRATE_TYPES + mt) * to.listWords;
      to.lists.set(from.lists.subarray(at, at + to.listWords), at);
    }
  }
  to.slots.set(from.slots);
}

// The literals of addressCore, proved once.
assert(
  PAGEBLOCK_PAGES === 512 &&
    CHUNK_PAGES === 1024 &&
    MAX_ORDER === 10 &&
    MIGRATE_MOVABLE === 1 &&
    NR_MIGRATE_TYPES === 6 &&
    NR_PCP_TYPES === 3 &&
    PAGEBLOCKS_PER_SECTION === 64,
  'addressCore is written for this geometry',
);
