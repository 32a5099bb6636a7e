// Linux's per-CPU lists: rules PC1..PC8, docs/spec/allocator.md (spec 2.4). The naive twin is at the end.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import type { Placement } from './free-area.ts';
import { createFreeArea } from './free-area-create.ts';
import { createPageAlloc, type PageAlloc, type PageAllocConfig } from './page-alloc.ts';
import { hasPcpLists, NR_PCP_LISTS, type PerCpuPages, pcpIndex, pcpOrder } from './per-cpu-pages.ts';

const U = 0;
const M = 1;
const R = 2;
const SEED = Number(process.env.DIMMER_SEED ?? 64);

function make(config: Partial<PageAllocConfig> = {}, pages = 65536, placement: Placement = 'lifo'): PageAlloc {
  const p = createPageAlloc(createFreeArea(pages, placement, 'shared'), {
    cpus: 1,
    batch: 63,
    high: 252,
    code: 'shared',
    pcp: 'linux',
    ...config,
  });
  p.online(0, pages);
  return p;
}

const lists = (p: PageAlloc): PerCpuPages => p.front as PerCpuPages; // made with pcp: 'linux'
const state = (p: PageAlloc) => lists(p).state();

describe('which list', () => {
  it('PC1 orders 0 to 3 of three types, and order 9 by movable or not; other orders have none', () => {
    expect([0, 1, 2, 3, 9].flatMap((o) => [U, M, R].map((mt) => pcpIndex(o, mt)))).toEqual([
      0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 12,
    ]);
    expect(Array.from({ length: NR_PCP_LISTS }, (_, k) => pcpOrder(k))).toEqual([
      0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 9, 9,
    ]);
    expect([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10].filter(hasPcpLists)).toEqual([0, 1, 2, 3, 9]);
  });

  it('PC1 a free of order 0 to 3 or 9 stops on its list and is taken from there; one of order 4 does not', () => {
    const p = make({ high: 2000 }); // more than a pageblock: else order 9 would overflow at once
    for (const order of [1, 2, 3, 9]) {
      const i = p.alloc(order, M);
      p.drain();
      p.free(i, order);
      expect(p.pcpPages()).toBe(2 ** order);
      expect(p.alloc(order, M)).toBe(i);
      p.free(i, order);
      p.drain();
    }
    const i = p.alloc(4, M);
    p.free(i, 4);
    expect(p.pcpPages()).toBe(0);
    expect(p.check()).toEqual([]);
  });

  it('PC2 frees in CMA and HighAtomic pageblocks wait on the Movable list, those in Isolate ones nowhere', () => {
    const p = make();
    const taken = [0, 512, 1024].map((b) => {
      const i = p.alloc(10, M);
      return i + (b > 512 ? 512 : 0);
    });
    const [a, b, c] = taken;
    p.setPageblockType(a, 4);
    p.setPageblockType(b, 3);
    p.isolate(c);
    for (const i of taken) p.free(i, 0);
    const seen: string[] = [];
    p.forEachPcp((_cpu, mt, i, order) => seen.push(`${mt}/${order}/${i}`));
    expect(seen).toEqual([`1/0/${b}`, `1/0/${a}`]);
    expect(p.nrIsolated()).toBe(1);
  });
});

describe('sizes', () => {
  it('PC3 a refill of order 0 doubles each time, up to 32 batches, and is halved by each free', () => {
    const p = make({ high: 252 });
    p.setPcp({ batch: 63, high: 4103, highMax: 48307 }); // the recorded zone of spec 2.4
    const refills: number[] = [];
    for (let k = 0; k < 7; k++) {
      const before = p.pcpPages();
      p.alloc(0, M);
      refills.push(p.pcpPages() + 1 - before);
      while (p.pcpPages() > 0) p.alloc(0, M);
    }
    expect(refills).toEqual([63, 126, 252, 504, 1008, 2016, 2016]);
    expect(state(p).allocFactor).toBe(5);
    p.free(0, 0);
    p.free(1, 0);
    expect(state(p).allocFactor).toBe(1);
  });

  it('PC3 a refill never brings the sum above high, and of order n is max(batch >> n, 2) chunks', () => {
    const p = make(); // high 252, fixed
    for (let k = 0; k < 3; k++) {
      p.alloc(0, M);
      while (p.pcpPages() > 0) p.alloc(0, M);
    }
    p.alloc(0, M);
    expect(p.pcpPages()).toBe(252 - 63 - 1); // capped at high - count - batch
    p.drain();
    for (const [order, chunks] of [
      [1, 31],
      [2, 15],
      [3, 7],
      [9, 2],
    ] as const) {
      p.alloc(order, U);
      expect(p.pcpPages(), `order ${order}`).toBe((chunks - 1) * 2 ** order);
      p.drain();
    }
  });

  it('PC4 high grows from its lower limit with every refill, and does not where the zone is below its high mark', () => {
    const p = make();
    p.setPcp({ batch: 63, high: 300, highMax: 700 });
    p.alloc(0, M);
    expect(state(p).high).toBe(363);
    p.drain();
    p.alloc(0, M);
    expect(state(p).high).toBe(363 + 126);
    p.pressure.belowHigh = true;
    p.drain();
    p.alloc(0, M);
    expect(state(p).high).toBe(489);
  });

  it('PC4 below the high mark high falls with the frees, to its lower limit; pressure ends above the mark', () => {
    const p = make({}, 8192);
    p.setPcp({ batch: 63, high: 200, highMax: 1000 });
    const held: number[] = [];
    for (let k = 0; k < 1500; k++) held.push(p.alloc(0, M));
    expect(state(p).high).toBe(1000);
    p.pressure.belowHigh = true;
    p.pressure.highMark = p.nrFree() + 1000;
    for (const i of held.slice(0, 600)) p.free(i, 0);
    expect(state(p).high).toBe(200);
    for (const i of held.slice(600)) p.free(i, 0);
    expect(p.pressure.belowHigh).toBe(false);
    expect(p.check()).toEqual([]);
  });

  it('PC4 an idle CPU loses an eighth of its limit a second, and the pages above it', () => {
    const p = make();
    p.setPcp({ batch: 63, high: 100, highMax: 4000 });
    for (let k = 0; k < 3000; k++) p.alloc(0, M);
    const { high } = state(p);
    p.front.drain();
    lists(p).decay();
    expect(state(p).high).toBe(high - (high >> 3));
    for (let k = 0; k < 60; k++) lists(p).decay();
    expect(state(p).high).toBe(100);
  });
});

describe('overflow', () => {
  it('PC5 frees go back as many as came in a row, the oldest first, and the list just freed to before others', () => {
    const p = make({ batch: 4, high: 16 });
    const held = Array.from({ length: 40 }, () => p.alloc(0, M));
    const kernel = p.alloc(0, U);
    p.drain();
    p.free(kernel, 0); // the oldest of all, on another list
    for (const i of held.slice(0, 15)) p.free(i, 0);
    // 16 pages are the limit; free_count was 16 when the last came: high - batch go.
    expect(p.pcpPages()).toBe(4);
    const left: number[] = [];
    p.forEachPcp((_c, _mt, i) => left.push(i));
    expect(left).toContain(kernel);
    expect(left).toEqual([kernel, ...held.slice(12, 15).reverse()]);
  });

  it('PC5 list after list: what the first cannot give comes from the next that has any, round the ring of lists', () => {
    const p = make({ batch: 4, high: 16 });
    const movable = Array.from({ length: 11 }, () => p.alloc(0, M));
    const pairs = [p.alloc(1, U), p.alloc(1, U)];
    const last = p.alloc(1, R);
    p.drain();
    for (const i of movable.slice(0, 9)) p.free(i, 0);
    p.free(pairs[0], 1);
    p.free(movable[9], 0);
    p.free(pairs[1], 1);
    p.free(movable[10], 0);
    expect(p.pcpPages()).toBe(15);
    // 17 are above the limit, 12 go: the pair (list 5), then past 6 to 13 and 0, ten single frames (list 1).
    const lent = p.area.headOf(last) < 0;
    p.free(last, 1);
    expect([lent, p.area.headOf(last) >= 0]).toEqual([true, true]);
    const left: string[] = [];
    p.forEachPcp((_c, mt, i, order) => left.push(`${mt}/${order}/${i}`));
    expect(left).toEqual([`1/0/${movable[10]}`, `0/1/${pairs[1]}`, `0/1/${pairs[0]}`]);
    expect(p.check()).toEqual([]);
  });

  it('PC5 many frees of orders 1 to 3 in a row go back as a whole, so that they can merge', () => {
    const p = make({ batch: 4, high: 400 });
    const pairs = Array.from({ length: 8 }, () => p.alloc(1, U));
    p.drain();
    const kept = pairs.map((i) => {
      p.free(i, 1);
      return p.pcpPages();
    });
    // The third comes after four frames, a pair just before it: all go. From then on every second or each one.
    expect(kept).toEqual([2, 4, 0, 2, 0, 2, 0, 2]);
  });

  it('PC6 switched off, a page freed leaves at once and one that is wanted comes alone; it nests', () => {
    const p = make();
    p.alloc(0, M);
    p.disable();
    expect(p.pcpPages()).toBe(0);
    const held = [0, 1, 3].map((order) => ({ i: p.alloc(order, M), order }));
    expect(p.pcpPages()).toBe(0);
    for (const { i, order } of held) p.free(i, order);
    expect(p.pcpPages()).toBe(0);
    p.disable();
    p.enable();
    p.free(p.alloc(0, M), 0);
    expect(p.pcpPages()).toBe(0);
    p.enable();
    p.alloc(0, M);
    expect(p.pcpPages()).toBe(62);
    expect(p.check()).toEqual([]);
  });

  it('PC7 before 6.7 the limits stay, a refill is a batch, and an overflow doubles with each one in a row', () => {
    const p = make({ pcpTuning: 'fixed', batch: 4, high: 64 });
    p.setPcp({ batch: 4, high: 64, highMax: 1000 });
    for (let k = 0; k < 3; k++) {
      p.alloc(0, M);
      expect(p.pcpPages()).toBe(3);
      while (p.pcpPages() > 0) p.alloc(0, M);
    }
    const held = Array.from({ length: 400 }, () => p.alloc(0, M));
    p.drain();
    const drops: number[] = [];
    for (const i of held) {
      const before = p.pcpPages();
      p.free(i, 0);
      if (p.pcpPages() < before) drops.push(before + 1 - p.pcpPages());
    }
    expect(drops.slice(0, 6)).toEqual([4, 8, 16, 32, 60, 60]);
  });

  it('PC8 a copy has the lists, limits and factors, and lives its own life', () => {
    const p = make({ cpus: 2 });
    p.useCpu(1);
    for (let k = 0; k < 100; k++) p.alloc(0, M);
    p.alloc(2, R);
    const copy = make({ cpus: 2 });
    copy.copyFrom(p);
    expect(lists(copy).state()).toEqual(state(p));
    expect(copy.pcpPages()).toBe(p.pcpPages());
    const next = p.alloc(0, M);
    expect(copy.alloc(0, M)).toBe(next);
    copy.drain();
    expect(p.pcpPages()).toBeGreaterThan(0);
    expect([...copy.check(), ...p.check()]).toEqual([]);
  });
});

/** struct per_cpu_pages with arrays and one function a rule: what the lists must be after each call. */
class NaivePcp {
  readonly lists: number[][] = Array.from({ length: NR_PCP_LISTS }, () => []);
  high = 0;
  allocFactor = 0;
  freeCount = 0;
  highOrderBefore = false;
  below = false;

  readonly batch: number;
  readonly min: number;
  readonly max: number;

  constructor(batch: number, min: number, max: number) {
    this.batch = batch;
    this.min = min;
    this.max = max;
  }

  get count(): number {
    return this.lists.reduce((n, l, k) => n + l.length * 2 ** pcpOrder(k), 0);
  }

  clampHigh(): void {
    this.high = Math.min(Math.max(this.high, this.min), this.max);
  }

  /** How many chunks a refill asks for. */
  refill(order: number): number {
    this.clampHigh();
    if (this.high < this.batch) return 1;
    let n = order === 0 ? this.batch * 2 ** this.allocFactor : this.batch;
    if (this.min !== this.max && !this.below) this.high = Math.min(this.high + n, this.max);
    if (order === 0) {
      const most = Math.max(this.high - this.count - this.batch, this.batch);
      if (n <= most) this.allocFactor = Math.min(this.allocFactor + 1, 5);
      n = Math.min(n, most);
    }
    return n > 1 ? Math.max(Math.floor(n / 2 ** order), 2) : n;
  }

  /** Pages that leave the lists, in order, after i was freed. */
  free(i: number, order: number, mt: number): { i: number; order: number }[] {
    const out: { i: number; order: number }[] = [];
    const k = pcpIndex(order, mt);
    this.allocFactor = Math.floor(this.allocFactor / 2);
    this.lists[k].unshift(i);
    const few = order >= 1 && order <= 3;
    const run = few && this.freeCount >= this.batch && this.highOrderBefore && this.count >= this.batch;
    this.highOrderBefore = few;
    if (this.freeCount < this.batch * 32) this.freeCount += 2 ** order;
    this.clampHigh();
    let limit = this.high;
    if (this.high === 0) limit = 0;
    else if (run) {
      this.high = Math.max(this.high - this.batch * 32, this.min);
      limit = 0;
    } else if (this.min !== this.max && this.below) {
      this.high = Math.max(this.high - Math.max(this.freeCount, this.batch), this.min);
      limit = Math.max(this.count, this.min);
    } else if (this.min !== this.max && this.count >= this.high) {
      this.high = Math.max(this.high, Math.min(Math.max(this.freeCount + this.batch, this.min), this.max));
    }
    if (this.count < limit) return out;
    let n = run
      ? Math.min(this.count, this.batch * 32)
      : limit < this.batch
        ? 1
        : Math.min(Math.max(this.freeCount, this.batch), limit - this.batch);
    n = Math.min(n, this.count);
    for (let at = k; n > 0; at = (at + 1) % NR_PCP_LISTS) {
      while (n > 0 && this.lists[at].length > 0) {
        out.push({ i: this.lists[at].pop() as number, order: pcpOrder(at) }); // just seen to hold one
        n -= 2 ** pcpOrder(at);
      }
    }
    return out;
  }
}

describe('random', () => {
  it(`PC3 PC4 PC5 the lists and the naive per_cpu_pages agree, call by call (seed=${SEED})`, () => {
    for (let run = 0; run < 10; run++) {
      const rng = new Prng(SEED + run);
      const batch = rng.pick([1, 3, 7, 31, 63]);
      const min = 4 * batch + rng.below(200);
      const max = rng.chance(0.3) ? min : min + rng.below(2000);
      const p = make({ batch, high: min }, 1 << 17);
      p.setPcp({ batch, high: min, highMax: max });
      const naive = new NaivePcp(batch, min, max);
      const held: { i: number; order: number }[] = [];
      const where = `seed=${SEED + run}`;
      for (let n = 0; n < 3000; n++) {
        const busy = Math.floor(n / 300) % 2 === 0;
        if (n % 500 === 499) {
          naive.below = !naive.below;
          p.pressure.belowHigh = naive.below;
        }
        if (rng.chance(busy ? 0.7 : 0.3)) {
          const order = rng.weighted([60, 12, 8, 6, 0, 0, 0, 0, 0, 2]);
          const list = naive.lists[pcpIndex(order, M)];
          naive.freeCount = Math.floor(naive.freeCount / 2);
          const before = p.pcpPages();
          const want = list.length > 0 ? 0 : naive.refill(order);
          const i = p.alloc(order, M);
          expect(p.pcpPages() - before, `${where} event ${n}`).toBe((want - 1) * 2 ** order);
          if (want > 0) p.forEachPcp((_c, mt, j, o) => mt === M && o === order && list.push(j));
          else expect(i, `${where} event ${n}`).toBe(list.shift());
          held.push({ i, order });
        } else if (held.length > 0) {
          const { i, order } = held.splice(rng.below(held.length), 1)[0];
          const gone = naive.free(i, order, M);
          p.free(i, order);
          expect(p.pcpPages(), `${where} event ${n}: ${gone.length} leave`).toBe(naive.count);
        }
        expect(state(p).high, `${where} event ${n}`).toBe(naive.high);
        expect(state(p).allocFactor, `${where} event ${n}`).toBe(naive.allocFactor);
      }
      const seen: number[] = [];
      p.forEachPcp((_c, _mt, i) => seen.push(i));
      expect(
        seen.sort((a, b) => a - b),
        where,
      ).toEqual(naive.lists.flat().sort((a, b) => a - b));
      expect(p.check(), where).toEqual([]);
    }
  });
});
