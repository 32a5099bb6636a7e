// Queries of the LIFO free area: counts, walks and its own check. They read the columns, change nothing.
//
// Layout and invariants are drawn in free-area-lifo.ts. A walk goes in ascending order and looks at each frame when it
// gets there: a callback may take the chunk that it was given.

import type { FreeArea } from './free-area.ts';
import type { LifoColumns } from './free-area-lifo.ts';
import { NR_MIGRATE_TYPES, NR_ORDERS, PAGES_PER_SECTION } from './geometry.ts';

type Reads = Pick<
  FreeArea,
  'orders' | 'orderAt' | 'headOf' | 'freeIn' | 'forEachFree' | 'count' | 'countTypes' | 'bytes' | 'check'
>;

export function lifoReads(columns: LifoColumns): Reads {
  const { pages, next, prev, order: begins, chunkFree, type, seen, heads, tails, length, orders } = columns;

  const chunkIsFree = (i: number): boolean => ((chunkFree[i >>> 15] >>> (i >>> 10)) & 1) !== 0;

  function orderAt(i: number): number {
    if (begins[i] !== 0) return begins[i] - 1;
    return (i & 1023) === 0 && chunkIsFree(i) ? 10 : -1;
  }

  function headOf(i: number): number {
    for (let o = 0; o <= 9; o++) {
      const head = (i >>> o) << o;
      if (begins[head] === o + 1) return head;
    }
    return chunkIsFree(i) ? i & ~1023 : -1;
  }

  function forEachFree(start: number, end: number, each: (i: number, order: number, mt: number) => void): void {
    for (let p = start; p < end; ) {
      const o = orderAt(p);
      if (o >= 0) {
        each(p, o, type[p >>> 9] ^ 1);
        p += 2 ** o;
      } else if ((p & (PAGES_PER_SECTION - 1)) === 0 && seen[p >>> 15] === 0) {
        p += chunkFree[p >>> 15] === 0 ? PAGES_PER_SECTION : 1024; // virgin: chunks of order 10 or nothing
      } else if ((p & 1023) === 0 && seen[p >>> 15] === 0) p += 1024;
      else p++;
    }
  }

  function freeIn(start: number, end: number): number {
    let n = 0;
    if (start >= end) return 0;
    const head = headOf(start);
    if (head >= 0 && head < start) n += Math.min(head + 2 ** orderAt(head), end) - start;
    forEachFree(start, end, (i, o) => {
      n += Math.min(i + 2 ** o, end) - i;
    });
    return n;
  }

  function count(out: Float64Array | Int32Array): void {
    for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) {
      for (let o = 0; o < NR_ORDERS; o++) out[mt * NR_ORDERS + o] += length[o * NR_MIGRATE_TYPES + mt];
    }
  }

  function countTypes(start: number, end: number, out: Float64Array | Int32Array): void {
    for (let b = start; b < end; b++) out[type[b] ^ 1]++;
  }

  const bytes = (): number =>
    next.byteLength +
    prev.byteLength +
    begins.byteLength +
    chunkFree.byteLength +
    type.byteLength +
    seen.byteLength +
    heads.byteLength * 3 +
    orders.byteLength;

  /** Walks one list both ways against its length; marks its members. */
  function checkList(o: number, mt: number, listed: Uint8Array, wrong: string[]): void {
    const list = o * NR_MIGRATE_TYPES + mt;
    const name = `list of order ${o} type ${mt}`;
    let before = -1;
    let n = 0;
    for (let i = heads[list]; i >= 0; ) {
      if (n++ > length[list] || i >= pages) {
        wrong.push(`${name} is longer than ${length[list]}, or leaves the area at ${i}`);
        return;
      }
      if (orderAt(i) !== o) wrong.push(`${name} holds ${i}, which begins a chunk of order ${orderAt(i)}`);
      if ((type[i >>> 9] ^ 1) !== mt) wrong.push(`${name} holds ${i}, whose pageblock has type ${type[i >>> 9] ^ 1}`);
      if (((prev[i] + i - 1024) | 0) !== before) wrong.push(`${name}: ${i} does not point back to ${before}`);
      listed[i] = 1;
      before = i;
      i = (next[i] + i + 1024) | 0;
    }
    if (n !== length[list]) wrong.push(`${name} has ${n} chunks, its length says ${length[list]}`);
    if (tails[list] !== before) wrong.push(`${name} ends at ${before}, its tail says ${tails[list]}`);
    if (((orders[mt] >>> o) & 1) !== (n > 0 ? 1 : 0)) wrong.push(`${name}: orders says ${(orders[mt] >>> o) & 1}`);
  }

  function check(): string[] {
    const wrong: string[] = [];
    const listed = new Uint8Array(pages);
    for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) for (let o = 0; o < NR_ORDERS; o++) checkList(o, mt, listed, wrong);
    let covered = 0;
    for (let i = 0; i < pages; i++) {
      const o = orderAt(i);
      if (o < 0) continue;
      if (listed[i] === 0) wrong.push(`free chunk ${i} of order ${o} is on no list`);
      if (i < covered) wrong.push(`frame ${i} of order ${o} lies in another free chunk`);
      covered = Math.max(covered, i + 2 ** o);
      const mine = type[i >>> 9] ^ 1;
      if (o === 10 && (type[(i >>> 9) + 1] ^ 1) !== mine) wrong.push(`chunk ${i}: two types`);
      const buddy = i + 2 ** o;
      if (o === 10 || (i & (1 << o)) !== 0 || orderAt(buddy) !== o) continue;
      const theirs = type[buddy >>> 9] ^ 1;
      if (o < 9 || mine === theirs || (mine < 3 && theirs < 3))
        wrong.push(`FA5 ${i} and ${buddy}: free buddies of ${o}`);
    }
    for (let b = 0; b < type.length; b++) {
      if (seen[b >>> 6] === 0 && type[b] !== 0) wrong.push(`pageblock ${b}: not seen, not virgin`);
    }
    return wrong;
  }

  return { orders: (mt) => orders[mt], orderAt, headOf, freeIn, forEachFree, count, countTypes, bytes, check };
}
