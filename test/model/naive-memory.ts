// NaiveMemory: the free area as anyone would write it first. Arrays, linear search, nothing incremental.
//
// The lists are plain arrays in Linux's order (spec 2.1); a placement is only a way to pick from one. Slow on purpose:
// what it says is meant to be seen to be right, so that the fuzzers may hold the engine's structures against it.
//
//   lists[order * 6 + type]   first frames of the free chunks, list order        begins   first frame -> order

import type { FreeArea, Placement } from '#mm/free-area';
import type { MigrateType } from '#mm/geometry';

const TYPES = 6;

export class NaiveMemory {
  readonly placement: Placement;
  readonly pages: number;
  readonly lists: number[][];
  readonly begins = new Map<number, number>();
  readonly types: MigrateType[];

  constructor(pages: number, placement: Placement) {
    this.pages = pages;
    this.placement = placement;
    this.lists = Array.from({ length: 11 * TYPES }, () => []);
    this.types = new Array<MigrateType>(pages / 512).fill(1);
  }

  list(order: number, mt: number): number[] {
    return this.lists[order * TYPES + mt];
  }

  typeOf(i: number): MigrateType {
    return this.types[Math.floor(i / 512)];
  }

  add(i: number, order: number, tail: boolean): void {
    const list = this.list(order, this.typeOf(i));
    if (tail) list.push(i);
    else list.unshift(i);
    this.begins.set(i, order);
  }

  take(i: number, order: number): void {
    const list = this.list(order, this.typeOf(i));
    list.splice(list.indexOf(i), 1);
    this.begins.delete(i);
  }

  put(i: number, order: number): void {
    this.add(i, order, false);
  }

  first(order: number, mt: number): number {
    const list = this.list(order, mt);
    if (list.length === 0) return -1;
    return this.placement === 'lifo' ? list[0] : Math.min(...list);
  }

  /** `fullest`: the pageblock of this type that a single frame comes from, partly free below order 9; else -1. */
  fullestBlock(mt: number): number {
    const free = new Map<number, number>();
    for (const [i, order] of this.begins) {
      if (this.typeOf(i) !== mt || order >= 9) continue;
      const b = Math.floor(i / 512);
      free.set(b, (free.get(b) ?? 0) + 2 ** order);
    }
    const byQuarter = [...free].map(([b, n]) => ({ b, quarter: Math.floor((n - 1) / 128) }));
    byQuarter.sort((x, y) => x.quarter - y.quarter || x.b - y.b);
    return byQuarter.length === 0 ? -1 : byQuarter[0].b;
  }

  /** The chunk that alloc takes, and splits if it is larger. */
  pick(order: number, mt: number): [i: number, order: number] | undefined {
    if (this.placement === 'fullest' && order === 0) {
      const block = this.fullestBlock(mt);
      const inside = [...this.begins].filter(([i]) => Math.floor(i / 512) === block);
      inside.sort(([i, a], [j, b]) => a - b || i - j);
      if (inside.length > 0) return inside[0];
    }
    for (let o = order; o <= 10; o++) {
      const i = this.first(o, mt);
      if (i >= 0) return [i, o];
    }
    return undefined;
  }

  alloc(order: number, mt: number): number {
    const chunk = this.pick(order, mt);
    if (chunk === undefined) return -1;
    const [i, o] = chunk;
    this.take(i, o);
    for (let half = o - 1; half >= order; half--) this.put(i + 2 ** half, half);
    return i;
  }

  free(i: number, order: number, tail = false): void {
    if (order === 10) {
      this.free(i, 9, tail);
      this.free(i + 512, 9, tail);
      return;
    }
    const mt = this.typeOf(i);
    let p = i;
    let o = order;
    for (; o < 10; o++) {
      const buddy = this.buddy(p, o);
      if (this.begins.get(buddy) !== o) break;
      if (o === 9 && !this.mayMerge(mt, this.typeOf(buddy))) break;
      this.take(buddy, o);
      this.types[Math.floor(buddy / 512)] = mt;
      p = Math.min(p, buddy);
    }
    const parent = p - (p % 2 ** (o + 1));
    const likely = o <= 8 && this.begins.get(this.buddy(parent, o + 1)) === o + 1;
    this.add(p, o, tail || likely);
  }

  buddy(i: number, order: number): number {
    return Math.floor(i / 2 ** order) % 2 === 0 ? i + 2 ** order : i - 2 ** order;
  }

  mayMerge(a: number, b: number): boolean {
    return a === b || (a <= 2 && b <= 2);
  }

  setPageblockType(i: number, mt: MigrateType): number {
    const start = i - (i % 512);
    const chunk = i - (i % 1024);
    const old = this.typeOf(i);
    if (old === mt) return 0;
    if (this.begins.get(chunk) === 10) {
      this.take(chunk, 10);
      if (this.mayMerge(old, mt)) {
        this.types[chunk / 512] = mt;
        this.types[chunk / 512 + 1] = mt;
        this.add(chunk, 10, true);
        return 1024;
      }
      this.add(chunk, 9, false);
      this.add(chunk + 512, 9, false);
    }
    const inside = [...this.begins].filter(([p]) => p >= start && p < start + 512).sort(([a], [b]) => a - b);
    for (const [p, order] of inside) this.take(p, order);
    this.types[start / 512] = mt;
    if (inside.length === 1 && inside[0][1] === 9) this.free(start, 9, true);
    else for (const [p, order] of inside) this.add(p, order, true);
    return inside.reduce((sum, [, order]) => sum + 2 ** order, 0);
  }

  online(start: number, end: number): void {
    for (let i = start; i < end; i += 1024) {
      this.types[i / 512] = 1;
      this.types[i / 512 + 1] = 1;
      this.add(i, 10, true);
    }
  }

  orders(mt: number): number {
    let bits = 0;
    for (let o = 0; o <= 10; o++) if (this.list(o, mt).length > 0) bits |= 1 << o;
    return bits;
  }

  headOf(i: number): number {
    for (const [p, order] of this.begins) if (p <= i && i < p + 2 ** order) return p;
    return -1;
  }

  freeIn(start: number, end: number): number {
    let n = 0;
    for (let i = start; i < end; i++) if (this.headOf(i) >= 0) n++;
    return n;
  }

  clone(): NaiveMemory {
    const copy = new NaiveMemory(this.pages, this.placement);
    copy.lists.forEach((list, k) => {
      list.push(...this.lists[k]);
    });
    for (const [p, order] of this.begins) copy.begins.set(p, order);
    copy.types.splice(0, copy.types.length, ...this.types);
    return copy;
  }

  /** How `area` differs from this, in words; empty when every list has the same length. */
  differences(area: FreeArea, scratch: Int32Array = new Int32Array(66)): string[] {
    const wrong: string[] = [];
    scratch.fill(0);
    area.count(scratch);
    for (let mt = 0; mt < TYPES; mt++) {
      for (let o = 0; o <= 10; o++) {
        const mine = this.lists[o * TYPES + mt].length;
        if (mine !== scratch[mt * 11 + o]) wrong.push(`order ${o} type ${mt}: ${scratch[mt * 11 + o]}, model ${mine}`);
      }
      if (this.orders(mt) !== area.orders(mt))
        wrong.push(`orders(${mt}): ${area.orders(mt)}, model ${this.orders(mt)}`);
    }
    return wrong;
  }

  /** The same, chunk by chunk, with the pageblocks' types and the pick of each list. Cost O(pages). */
  deepDifferences(area: FreeArea): string[] {
    const wrong = this.differences(area);
    const chunks: string[] = [];
    area.forEachFree(0, area.pages, (i, order, mt) => {
      chunks.push(`${i}/${order}/${mt}`);
    });
    const mine = [...this.begins].sort(([a], [b]) => a - b).map(([i, order]) => `${i}/${order}/${this.typeOf(i)}`);
    if (chunks.join(' ') !== mine.join(' ')) wrong.push(`chunks ${chunks.join(' ')}; model ${mine.join(' ')}`);
    this.types.forEach((mt, b) => {
      if (area.typeOf(b * 512) !== mt) wrong.push(`pageblock ${b}: type ${area.typeOf(b * 512)}, model ${mt}`);
    });
    for (let mt = 0; mt < TYPES; mt++) {
      for (let o = 0; o <= 10; o++) {
        const pick = area.first(o, mt);
        if (pick !== this.first(o, mt)) wrong.push(`first(${o}, ${mt}): ${pick}, model ${this.first(o, mt)}`);
      }
    }
    return wrong;
  }
}
