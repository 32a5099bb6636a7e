// Pools: frames become free in whole chunks and ragged pieces; hulls widen. Rules P1..P3, docs/spec/machine.md.

import { describe, expect, it } from 'vitest';
import { toNodeId } from '#base/units';
import { MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE } from './geometry.ts';
import { Pool } from './pool.ts';

const make = (base: number, pages: number, placement: 'address' | 'fullest' | 'lifo' = 'address'): Pool =>
  new Pool(
    0,
    { node: toNodeId(0), zone: 2 },
    { base, pages },
    { placement, cpus: 2, code: 'shared', movableIn: () => 0 },
  );

const freeChunks = (p: Pool): string => {
  const out: string[] = [];
  p.alloc.area.forEachFree(0, p.pages, (i, order, mt) => out.push(`${i + p.base}/${order}/${mt}`));
  return out.join(' ');
};

describe('pool', () => {
  for (const placement of ['address', 'fullest', 'lifo'] as const) {
    it(`P3 fill: [1000, 4100) becomes its largest aligned pieces, ${placement}`, () => {
      const p = make(0, 8192, placement);
      p.fill(1000, 4100);
      expect(freeChunks(p)).toBe('1000/3/1 1008/4/1 1024/10/1 2048/10/1 3072/10/1 4096/2/1');
      expect(p.alloc.nrFree()).toBe(3100);
      expect(p.alloc.check()).toEqual([]);
    });
  }

  it('P3 fill works inside one chunk and across the base of a hull that does not begin at 0', () => {
    const p = make(4096, 4096);
    p.fill(4100, 4200);
    expect(freeChunks(p)).toBe('4100/2/1 4104/3/1 4112/4/1 4128/5/1 4160/5/1 4192/3/1');
    p.fill(5120, 6144);
    expect(p.alloc.nrFree()).toBe(100 + 1024);
  });

  it('P3 widen carries over what is free, types and the state of per-CPU lists, downwards and upwards', () => {
    const p = make(8192, 2048);
    p.present = 2048;
    p.fill(8192, 10240);
    p.alloc.setPageblockType(1024, MIGRATE_RECLAIMABLE);
    // Claims the Reclaimable chunk, the second.
    const taken = Array.from({ length: 700 }, () => p.alloc.alloc(0, MIGRATE_UNMOVABLE) + p.base);
    for (const i of [taken[3], taken[40]]) p.alloc.free(i - p.base, 0);
    p.alloc.setPcp({ batch: 7, high: 21 });
    p.alloc.disable();
    p.alloc.disable();
    const before = freeChunks(p);
    const second = [MIGRATE_UNMOVABLE, MIGRATE_UNMOVABLE];
    const nrFree = p.alloc.nrFree();
    p.widen(1000, 1001);
    expect([p.base, p.base + p.pages]).toEqual([0, 10240]);
    p.widen(20000, 20480);
    expect([p.base, p.base + p.pages]).toEqual([0, 20480]);
    expect(freeChunks(p)).toBe(before);
    expect(p.alloc.nrFree()).toBe(nrFree);
    expect([8192, 9216, 9728].map((i) => p.alloc.area.typeOf(i))).toEqual([MIGRATE_MOVABLE, ...second]);
    expect(p.alloc.check()).toEqual([]);
    // Two disables were in effect: a page freed goes to the area until the second enable.
    p.alloc.free(taken[100] - p.base, 0);
    expect(p.alloc.pcpPages()).toBe(0);
    p.alloc.enable();
    p.alloc.enable();
    p.alloc.free(taken[102] - p.base, 0);
    expect(p.alloc.pcpPages()).toBe(1);
    expect(() => p.alloc.enable()).toThrow(/without disable/);
  });

  it('P3 a hull that covers the range already stays; an empty pool keeps nothing of its old one', () => {
    const p = make(0, 4096);
    const { alloc } = p;
    p.widen(1000, 3000);
    expect(p.alloc).toBe(alloc);
    p.widen(2 ** 20, 2 ** 20 + 32768);
    expect([p.base, p.pages]).toEqual([2 ** 20, 32768]);
  });

  it('a copy of a pool with another hull is equal to it', () => {
    const a = make(0, 1024);
    a.present = 1024;
    a.fill(0, 1024);
    a.widen(0, 4096);
    a.fill(2048, 3072);
    a.managed = 2048;
    const b = make(0, 1024);
    b.copyFrom(a);
    expect([b.base, b.pages, b.managed, freeChunks(b)]).toEqual([0, 4096, 2048, freeChunks(a)]);
    b.alloc.alloc(10, 1);
    expect(freeChunks(a)).not.toBe(freeChunks(b));
  });

  it('a hull that is not whole chunks is a bug', () => {
    expect(() => make(512, 1024)).toThrow(/whole chunks/);
    expect(() => make(0, 1000)).toThrow(/whole chunks/);
  });
});
