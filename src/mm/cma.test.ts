// CMA areas: rules CM1..CM5, docs/spec/allocator.md (spec 2.3, 2.5, 3.4).

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { type CmaArea, checkCma, cmaAlloc, cmaAreas, cmaCounters, cmaRelease } from './cma.ts';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import type { PageClass } from './page-class.ts';

const BASE = 2 ** 20; // Normal
const S = PAGES_PER_SECTION;
const AREA = { start: toPfn(BASE + 4096), end: toPfn(BASE + 8192), name: 'reserved' };

function world(spec: Partial<MachineSpec> = {}): { m: Machine; area: CmaArea } {
  const m = Machine.boot({
    ram: [{ start: toPfn(BASE), end: toPfn(BASE + S), node: toNodeId(0) }],
    cma: [AREA],
    watermarks: 'none',
    code: 'shared',
    ...spec,
  });
  return { m, area: cmaAreas(m)[0] };
}

const sound = (m: Machine): void => {
  expect(m.check()).toEqual([]);
  expect(checkCma(m)).toEqual([]);
};

describe('an area', () => {
  it('CM1 CM2 is CMA from boot on, free, and belongs to the machine and its copies', () => {
    const { m, area } = world();
    expect([area.start, area.end, area.available]).toEqual([AREA.start, AREA.end, 4096]);
    expect(cmaCounters(m)).toEqual({ totalPages: 4096, freePages: 4096 });
    expect(m.pools.reduce((n, p) => n + p.managed, 0)).toBe(S); // CMA frames are managed
    const first = cmaAlloc(m, area, 100);
    const fork = m.fork();
    expect(first.ok && first.value).toBe(AREA.start);
    expect(cmaAreas(fork)[0].available).toBe(3996);
    cmaRelease(fork, cmaAreas(fork)[0], AREA.start, 100);
    expect([cmaAreas(fork)[0].available, area.available]).toEqual([4096, 3996]);
    sound(m);
    sound(fork);
  });

  it('CM3 movable requests use it first while it holds more than half of what is free, kernel requests never', () => {
    const { m } = world();
    const kernel = m.addHolder({ class: 'slab', name: 'k' });
    const user = m.addHolder({ class: 'anonymous', name: 'u' });
    const inArea = (pfn: Pfn | -1): boolean => pfn >= AREA.start && pfn < AREA.end;
    expect(inArea(m.alloc(user, toOrder(9)))).toBe(false); // 4096 of 32768 is less than half
    for (let pfn = m.alloc(kernel, toOrder(9)); pfn !== -1; pfn = m.alloc(kernel, toOrder(9))) {
      expect(inArea(pfn)).toBe(false);
    }
    expect(m.alloc(kernel, toOrder(0))).toBe(-1);
    expect(cmaCounters(m).freePages).toBe(4096);
    expect(inArea(m.alloc(user, toOrder(9)))).toBe(true);
    expect(inArea(m.alloc(user, toOrder(0)))).toBe(true);
    sound(m);
  });

  it('CM3 watermarks count its free frames for movable requests only', () => {
    const { m } = world({ watermarks: { scaleFactor: 10, thp: false, minFreeKbytes: 16000 } }); // min 4000
    const kernel = m.addHolder({ class: 'slab', name: 'k' });
    const user = m.addHolder({ class: 'anonymous', name: 'u' });
    while (m.alloc(kernel, toOrder(0)) !== -1) {
      // down to min, beside the area
    }
    expect(m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0)).toBe(4000 + 4096);
    expect(m.alloc(user, toOrder(0))).not.toBe(-1);
    sound(m);
  });

  it('CM4 alloc gives the first gap that fits, aligned as asked; guests move away with their contents', () => {
    const { m, area } = world();
    const user = m.addHolder({ class: 'anonymous', name: 'u' });
    const all: Pfn[] = [];
    for (let pfn = m.alloc(user, toOrder(0)); pfn !== -1; pfn = m.alloc(user, toOrder(0))) all.push(pfn);
    const guests = all.filter((pfn) => pfn >= AREA.start && pfn < AREA.end);
    expect(guests).toHaveLength(4096);
    for (const pfn of all.filter((p) => p < AREA.start).slice(0, 3000)) m.free(pfn);
    const a = cmaAlloc(m, area, 1);
    const b = cmaAlloc(m, area, 700, { align: 8 });
    const c = cmaAlloc(m, area, 255);
    expect([a, b, c].map((r) => r.ok && r.value - AREA.start)).toEqual([0, 256, 1]);
    expect(m.vmstat.cma_alloc_success).toBe(956);
    expect(m.vmstat.pgmigrate_success).toBe(956);
    sound(m);
  });

  it('CM4 a gap with a page that stays is passed over; ENOMEM, and nothing marked, when every one has one', () => {
    const { m, area } = world();
    const user = m.addHolder({ class: 'anonymous', name: 'u' });
    // One guest, pinned, in the second pageblock.
    for (let k = 0; k < S; k++) m.alloc(user, toOrder(0));
    m.forEachFrameOf(user, (pfn) => {
      if (pfn !== AREA.start + 600) m.free(pfn);
    });
    m.pin(toPfn(AREA.start + 600));
    const got = cmaAlloc(m, area, 512, { align: 9 });
    expect(got.ok && got.value - AREA.start).toBe(0);
    const next = cmaAlloc(m, area, 512, { align: 9 });
    expect(next.ok && next.value - AREA.start).toBe(1024);
    const large = cmaAlloc(m, area, 3000);
    expect(large.ok).toBe(false);
    expect(!large.ok && [large.error.reason, large.error.errno]).toEqual(['no-memory', 'ENOMEM']);
    expect(m.vmstat.cma_alloc_fail).toBe(3000);
    expect(area.available).toBe(4096 - 1024);
    sound(m);
  });

  it('CM5 release gives back all or a part; what was not handed out is a bug', () => {
    const { m, area } = world();
    const got = cmaAlloc(m, area, 1000);
    expect(got.ok).toBe(true);
    cmaRelease(m, area, toPfn(AREA.start + 100), 800);
    expect(area.available).toBe(4096 - 200);
    expect(() => cmaRelease(m, area, toPfn(AREA.start + 50), 100)).toThrow(/did not give/);
    expect(() => cmaRelease(m, area, toPfn(AREA.start - 1), 2)).toThrow(/did not give/);
    const again = cmaAlloc(m, area, 700);
    expect(again.ok && again.value - AREA.start).toBe(100);
    sound(m);
  });

  it('CM1 areas that are cut, taken, twice there or in two zones are bugs of the spec', () => {
    const at = (start: number, end: number, name = 'x') => ({ start: toPfn(start), end: toPfn(end), name });
    const boot =
      (...cma: ReturnType<typeof at>[]) =>
      () =>
        world({ cma });
    expect(boot(at(BASE + 100, BASE + 1024))).toThrow(/whole pageblocks/);
    expect(boot(at(BASE, BASE + 1024), at(BASE + 512, BASE + 2048, 'y'))).toThrow(/overlaps/);
    expect(boot(at(BASE, BASE + 1024), at(BASE + 2048, BASE + 3072))).toThrow(/overlaps another, or has its name/);
    expect(boot(at(BASE + S - 512, BASE + S + 512))).toThrow(/one zone/);
    expect(() => world({ reserved: [at(BASE + 4200, BASE + 4300)] })).toThrow(/free at boot/);
  });
});

it('CM1 CM2 CM3 random use: nobody gets a frame of another, all comes back', () => {
  const seed = Number(process.env.DIMMER_SEED ?? 17);
  for (let run = 0; run < 6; run++) {
    const rng = new Prng(seed + run);
    const { m, area } = world({ placement: rng.pick(['address', 'fullest', 'lifo'] as const) });
    const where = `seed=${seed + run}`;
    const classes: PageClass[] = ['anonymous', 'slab', 'file'];
    const holders = classes.map((c) => m.addHolder({ class: c, name: c }));
    const held: Pfn[] = [];
    for (let n = 0; n < 1500; n++) {
      const roll = rng.below(100);
      if (roll < 55) {
        const pfn = m.alloc(rng.pick(holders), toOrder(rng.weighted([8, 1, 1, 1, 1, 0, 0, 0, 1, 3])));
        if (pfn !== -1) held.push(pfn);
      } else if (roll < 85 && held.length > 0) {
        m.free(held.splice(rng.below(held.length), 1)[0]);
      } else if (roll < 95) {
        // What moves gets new frames: the ledger is asked anew.
        const align = rng.below(6);
        const got = cmaAlloc(m, area, 1 + rng.below(700), { align });
        if (got.ok) expect(got.value % 2 ** align, where).toBe(0);
        held.length = 0;
        for (const h of holders) m.forEachFrameOf(h, (pfn) => held.push(pfn));
      } else {
        const at = area.bitmap.indexOf(1);
        if (at >= 0) {
          const end = area.bitmap.indexOf(0, at);
          cmaRelease(m, area, toPfn(area.start + at), (end < 0 ? area.bitmap.length : end) - at);
        }
      }
      if (n % 250 === 249) {
        expect(m.check(), where).toEqual([]);
        expect(checkCma(m), where).toEqual([]);
      }
    }
    for (const pfn of held) m.free(pfn);
    for (let at = area.bitmap.indexOf(1); at >= 0; at = area.bitmap.indexOf(1)) {
      cmaRelease(m, area, toPfn(area.start + at), 1);
    }
    for (const p of m.pools) p.alloc.drain();
    expect(
      m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0),
      where,
    ).toBe(S);
    expect(cmaCounters(m).freePages, where).toBe(4096);
    expect(m.check(), where).toEqual([]);
  }
});
