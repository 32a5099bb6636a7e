// The allocator of one pool: rings, order of attempts, counters. Spec 2.3 and 2.4.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import type { Placement } from './free-area.ts';
import { createFreeArea } from './free-area-create.ts';
import type { MigrateType } from './geometry.ts';
import type { PageAlloc, PageAllocConfig } from './page-alloc.ts';
import { ALLOC_CMA, ALLOC_NOFRAGMENT, createPageAlloc } from './page-alloc.ts';

const U = 0;
const M = 1;
const H = 3;
const C = 4;
const I = 5;

const SEED = Number(process.env.DIMMER_SEED ?? 4711);

function pool(pages: number, config: Partial<PageAllocConfig> = {}, placement: Placement = 'address'): PageAlloc {
  const area = createFreeArea(pages, placement, 'shared');
  const alloc = createPageAlloc(area, { cpus: 1, batch: 4, high: 8, code: 'shared', ...config });
  alloc.online(0, pages);
  return alloc;
}

const ringOf = (p: PageAlloc, cpu: number, mt: number): number[] => {
  const out: number[] = [];
  p.forEachPcp((c, t, i) => {
    if (c === cpu && t === mt) out.push(i);
  });
  return out;
};

for (const code of ['own', 'shared'] as const) {
  describe(`rings, ${code} code`, () => {
    const make = (config: Partial<PageAllocConfig> = {}) => pool(4096, { code, ...config });

    it('an empty ring is refilled with a batch, lowest first, and gives its pages in that order', () => {
      const p = make();
      expect(p.alloc(0, M)).toBe(0);
      expect(ringOf(p, 0, M)).toEqual([1, 2, 3]);
      expect([p.pcpPages(), p.nrFree()]).toEqual([3, 4092]);
      expect([1, 2, 3, 4].map(() => p.alloc(0, M))).toEqual([1, 2, 3, 4]);
      expect(p.check()).toEqual([]);
    });

    it('the page freed last is taken first', () => {
      const p = make();
      for (let k = 0; k < 8; k++) p.alloc(0, M);
      p.free(2, 0);
      p.free(6, 0);
      expect([0, 1, 2].map(() => p.alloc(0, M))).toEqual([6, 2, 8]);
    });

    it('above high, a batch of the pages that waited longest goes back to the area', () => {
      const p = make();
      for (let k = 0; k < 20; k++) p.alloc(0, M);
      for (let k = 0; k < 8; k++) p.free(2 * k, 0);
      expect(p.pcpPages()).toBe(8);
      p.free(16, 0);
      expect(ringOf(p, 0, M)).toEqual([16, 14, 12, 10, 8]);
      expect([0, 2, 4, 6].map((i) => p.area.headOf(i))).toEqual([0, 2, 4, 6]);
      expect(p.check()).toEqual([]);
    });

    it('each CPU and each type has its own ring', () => {
      const p = make({ cpus: 2 });
      p.alloc(0, M);
      p.useCpu(1);
      p.alloc(0, U);
      expect([ringOf(p, 0, M).length, ringOf(p, 1, M).length, ringOf(p, 1, U).length]).toEqual([3, 0, 3]);
      p.free(0, 0);
      expect(ringOf(p, 1, M)).toEqual([0]);
      expect(() => p.useCpu(2)).toThrow(/no such cpu/);
    });

    it('other orders go straight to the area', () => {
      const p = make();
      const i = p.alloc(3, M);
      expect([p.pcpPages(), p.nrFree()]).toEqual([0, 4088]);
      p.free(i, 3);
      expect([p.pcpPages(), p.nrFree()]).toEqual([0, 4096]);
    });

    it('frees in Isolate pageblocks bypass the rings; HighAtomic and CMA frees sit on the Movable ring', () => {
      const p = make({ high: 100 });
      for (let k = 0; k < 2048; k++) p.alloc(0, M);
      p.drain();
      p.setPageblockType(0, C);
      p.setPageblockType(512, H);
      p.setPageblockType(1024, I);
      p.free(5, 0);
      p.free(600, 0);
      p.free(1100, 0);
      expect(ringOf(p, 0, M)).toEqual([600, 5]);
      expect(p.area.headOf(1100)).toBe(1100);
      expect(p.nrIsolated()).toBe(1);
      p.drain();
      expect([p.nrFreeCma(), p.nrFreeHighAtomic(), p.nrIsolated()]).toEqual([1, 1, 1]);
      expect(p.check()).toEqual([]);
    });

    it('drain empties the rings of every CPU', () => {
      const p = make({ cpus: 3 });
      for (let cpu = 0; cpu < 3; cpu++) {
        p.useCpu(cpu);
        p.free(p.alloc(0, M), 0);
      }
      expect(p.drain()).toBe(12);
      expect([p.pcpPages(), p.nrFree()]).toEqual([0, 4096]);
      expect(p.area.orders(M)).toBe(1 << 10);
    });

    it('disabled, rings stay empty; it nests; setPcp meanwhile counts afterwards', () => {
      const p = make();
      p.alloc(0, M);
      p.disable();
      p.disable();
      expect(p.pcpPages()).toBe(0);
      const i = p.alloc(0, M);
      expect(p.pcpPages()).toBe(0);
      p.free(i, 0);
      expect(p.pcpPages()).toBe(0);
      p.setPcp({ batch: 2, high: 4 });
      p.enable();
      p.free(p.alloc(0, M), 0);
      expect(p.pcpPages()).toBe(0);
      expect(p.check()).toEqual([]);
      p.enable();
      p.alloc(0, M);
      expect(p.pcpPages()).toBe(1);
      expect(() => p.enable()).toThrow(/without disable/);
    });

    it('setPcp cuts high to the ring', () => {
      const p = make({ capacity: 16 });
      p.setPcp({ batch: 4, high: 1000 });
      for (let k = 0; k < 100; k++) p.alloc(0, M);
      for (let k = 0; k < 100; k++) p.free(k, 0);
      expect(p.pcpPages()).toBeLessThanOrEqual(15);
      expect(p.check()).toEqual([]);
    });
  });
}

describe('the order of attempts', () => {
  it('claims a chunk of another type: both its pageblocks change', () => {
    const told: string[] = [];
    const p = pool(4096, { onFallback: (order, mt, d) => told.push(`${order} ${mt} ${d.action} ${d.fallbackOrder}`) });
    expect(p.alloc(2, U)).toBe(0);
    expect([0, 512, 1024].map((i) => p.area.typeOf(i))).toEqual([U, U, M]);
    expect(told).toEqual(['2 0 claim 10']);
    p.alloc(0, U);
    expect(told).toHaveLength(1);
    expect(p.check()).toEqual([]);
  });

  it('after a claim below a pageblock it allocates the smallest fitting page of the type, not the raided one', () => {
    const p = pool(1024, { batch: 1, high: 0 });
    for (let k = 0; k < 1024; k++) p.alloc(0, M);
    p.free(256, 8);
    p.free(9, 0);
    p.setPageblockType(512, H);
    expect(p.alloc(0, U)).toBe(9);
    expect(p.area.typeOf(0)).toBe(U);
    expect(p.check()).toEqual([]);
  });

  it('steals where nothing may be claimed: the rest stays with the raided type', () => {
    const p = pool(1024, { batch: 1, high: 0 });
    for (let k = 0; k < 1024; k++) p.alloc(0, M);
    p.free(64, 3);
    expect(p.alloc(0, U)).toBe(64);
    expect(p.area.typeOf(64)).toBe(M);
    expect([p.area.orders(U), p.area.orders(M)]).toEqual([0, 0b111]);
    expect(p.check()).toEqual([]);
  });

  it('ALLOC_NOFRAGMENT claims whole pageblocks or fails, and drains nobody', () => {
    const p = pool(1024, { cpus: 2 });
    for (let k = 0; k < 1020; k++) p.alloc(0, M);
    expect(p.pcpPages()).toBe(0);
    p.useCpu(1);
    p.free(3, 0);
    p.useCpu(0);
    expect(p.alloc(0, U, ALLOC_NOFRAGMENT)).toBe(-1);
    expect(p.pcpPages()).toBe(1);
    expect(p.alloc(0, U)).toBeGreaterThanOrEqual(1020);
  });

  it('a last attempt drains all CPUs, and merges what they held', () => {
    const p = pool(1024, { cpus: 2, high: 600, batch: 1 });
    for (let k = 0; k < 1024; k++) p.alloc(0, M);
    p.useCpu(1);
    for (let k = 0; k < 512; k++) p.free(k, 0);
    p.useCpu(0);
    expect(p.nrFree()).toBe(0);
    expect(p.alloc(9, M)).toBe(0);
    expect(p.alloc(9, M)).toBe(-1);
    expect(p.alloc(0, M)).toBe(-1);
  });

  it('CMA: a request that may use it takes there first while CMA holds more than half of what is free', () => {
    const p = pool(4096, { batch: 1, high: 0 });
    p.take(0, 10);
    p.setPageblockType(0, C);
    p.setPageblockType(512, C);
    p.put(0, 10);
    expect(p.nrFreeCma()).toBe(1024);
    expect(p.alloc(0, M, ALLOC_CMA)).toBe(1024); // 1024 of 4096 is not more than half
    const rest = [2048, 3072].map(() => p.alloc(10, M));
    expect(rest).toEqual([2048, 3072]);
    expect(p.alloc(0, M, ALLOC_CMA)).toBe(0); // 1024 of 2047 is
    expect(p.alloc(0, M)).toBe(1025);
    expect(p.nrFreeCma()).toBe(1023);
    expect(p.check()).toEqual([]);
  });

  it('CMA: otherwise after the own lists, before anything is claimed; never without the flag', () => {
    const p = pool(2048, { batch: 1, high: 0 });
    p.take(0, 10);
    p.setPageblockType(0, C);
    p.setPageblockType(512, C);
    p.put(0, 10);
    while (p.alloc(0, M) >= 0) {
      // Movable is empty; CMA is not touched
    }
    expect(p.nrFree()).toBe(1024);
    expect(p.alloc(3, U)).toBe(-1);
    expect(p.alloc(3, M, ALLOC_CMA)).toBe(0);
    expect(p.nrFree()).toBe(1016);
  });

  it('types without rings are served from their own lists alone', () => {
    const p = pool(2048);
    p.setPageblockType(0, I);
    expect(p.alloc(0, H)).toBe(-1);
    p.unisolate(0, M);
    p.take(0, 10);
    p.setPageblockType(0, H);
    p.setPageblockType(512, H);
    p.put(0, 10);
    expect(p.alloc(0, H)).toBe(0);
    expect(p.nrFreeHighAtomic()).toBe(1023);
    expect(p.check()).toEqual([]);
  });
});

describe('counters', () => {
  it('isolate takes pages out of nrFree, unisolate gives them back', () => {
    const p = pool(4096);
    expect(p.isolate(0)).toBe(512);
    expect([p.nrFree(), p.nrIsolated()]).toEqual([3584, 512]);
    expect(p.unisolate(0, M)).toBe(512);
    expect([p.nrFree(), p.nrIsolated()]).toEqual([4096, 0]);
    expect(() => p.unisolate(0, M)).toThrow(/not isolated/);
    expect(p.check()).toEqual([]);
  });

  it('a wrong counter is found by check', () => {
    const p = pool(1024);
    p.area.take(0, 10); // behind the allocator's back
    expect(p.check()).toEqual(['counter of fallback types says 1024, the lists hold 0']);
  });

  it('refuses as a bug a configuration without cpu, batch or room', () => {
    expect(() => pool(1024, { cpus: 0 })).toThrow(/needs a cpu/);
    expect(() => pool(1024, { batch: 0 })).toThrow(/needs a cpu/);
    expect(() => pool(1024, { capacity: 12 })).toThrow(/power of two/);
    expect(() => pool(1024, { capacity: 4, high: 8 })).toThrow(/power of two/);
  });
});

describe('copyFrom', () => {
  it('a copy has the rings, the counters, the limits and the selected CPU, and lives its own life', () => {
    const p = pool(4096, { cpus: 2 });
    p.useCpu(1);
    for (let k = 0; k < 7; k++) p.alloc(0, M);
    p.isolate(3000);
    p.setPcp({ batch: 2, high: 3 });
    const copy = createPageAlloc(createFreeArea(4096, 'address', 'shared'), {
      cpus: 2,
      batch: 4,
      high: 8,
      code: 'shared',
    });
    copy.copyFrom(p);
    expect(ringOf(copy, 1, M)).toEqual([7]);
    expect([copy.nrFree(), copy.nrIsolated(), copy.pcpPages()]).toEqual([p.nrFree(), p.nrIsolated(), p.pcpPages()]);
    expect([copy.alloc(0, M), copy.alloc(0, M)]).toEqual([7, 8]);
    expect(ringOf(copy, 1, M)).toEqual([9]);
    expect(ringOf(p, 1, M)).toEqual([7]);
    expect([...copy.check(), ...p.check()]).toEqual([]);
  });
});

/** Random use of everything, against a ledger of who has each page. */
function storm(seed: number, placement: Placement, events: number): string {
  const rng = new Prng(seed);
  const pages = 1024 * rng.pick([2, 4, 16]);
  const cpus = rng.below(3) + 1;
  const config: PageAllocConfig = {
    cpus,
    batch: rng.below(63) + 1,
    high: rng.below(256),
    capacity: 512,
    code: rng.chance(0.5) ? 'own' : 'shared',
  };
  let p = createPageAlloc(createFreeArea(pages, placement, 'shared'), config);
  let spare = createPageAlloc(createFreeArea(pages, placement, 'shared'), { ...config, code: 'shared' });
  p.online(0, pages / 2);
  p.online(pages / 2, pages);
  const owned = new Uint8Array(pages);
  const held: { i: number; order: number }[] = [];
  let used = 0;
  let disabled = 0;
  const fail = (what: string): string => `seed=${seed} placement=${placement} pages=${pages}: ${what}`;
  for (let n = 0; n < events; n++) {
    const flood = Math.floor(n / 600) % 2 === 0;
    const roll = rng.below(100);
    if (roll < (flood ? 60 : 30)) {
      const order = rng.chance(0.8) ? 0 : rng.below(11);
      const mt = rng.weighted([3, 8, 1, 1, 1]);
      const i = p.alloc(order, mt, rng.below(4));
      if (i < 0) continue;
      if (i % 2 ** order !== 0 || i + 2 ** order > pages) return fail(`event ${n}: got ${i} for order ${order}`);
      for (let k = i; k < i + 2 ** order; k++) {
        if (owned[k] !== 0) return fail(`event ${n}: page ${k} was given twice`);
        owned[k] = 1;
      }
      if (p.area.typeOf(i) === I && disabled > 0) return fail(`event ${n}: page ${i} of an Isolate pageblock`);
      held.push({ i, order });
      used += 2 ** order;
    } else if (roll < 88) {
      if (held.length === 0) continue;
      const k = rng.below(held.length);
      const { i, order } = held[k];
      held[k] = held[held.length - 1];
      held.pop();
      owned.fill(0, i, i + 2 ** order);
      used -= 2 ** order;
      p.free(i, order);
    } else if (roll < 91) p.useCpu(rng.below(cpus));
    else if (roll < 95) {
      const i = rng.below(pages);
      p.setPageblockType(i, rng.weighted([2, 6, 1, 1, 1, 2]) as MigrateType);
    } else if (roll === 95) p.drain();
    else if (roll === 96) {
      if (disabled > 0 && rng.chance(0.7)) {
        p.enable();
        disabled--;
      } else if (disabled < 3) {
        p.disable();
        disabled++;
      }
    } else if (roll === 97) p.setPcp({ batch: rng.below(63) + 1, high: rng.below(256) });
    else if (roll === 98 && rng.chance(0.1)) {
      spare.copyFrom(p);
      [p, spare] = [spare, p];
    }
    const sum = p.nrFree() + p.nrIsolated() + p.pcpPages() + used;
    if (sum !== pages) return fail(`event ${n}: ${sum} pages are accounted for`);
    if (n % 1000 === 999) {
      const wrong = p.check();
      if (wrong.length > 0) return fail(`event ${n}: ${wrong.slice(0, 4).join('; ')}`);
    }
  }
  for (const { i, order } of held) p.free(i, order);
  p.drain();
  for (let b = 0; b < pages; b += 512) p.setPageblockType(b, M);
  if (p.nrFree() !== pages) return fail(`at the end ${p.nrFree()} pages are free`);
  for (let i = 0; i < pages; i += 1024) if (p.area.orderAt(i) !== 10) return fail(`chunk ${i} did not coalesce`);
  return '';
}

describe('random use', () => {
  for (const placement of ['address', 'fullest', 'lifo'] as const) {
    it(`${placement}: no page is given twice, none is lost, all coalesce (seed=${SEED})`, () => {
      for (let k = 0; k < 12; k++) expect(storm(SEED + k, placement, 8000)).toBe('');
    });
  }
});
