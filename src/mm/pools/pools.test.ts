import { describe, expect, it } from 'vitest';
import { toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import { simpleSpec } from '../machine-spec.ts';
import { pools } from './pools.ts';

const must = <T>(r: { ok: true; value: T } | { ok: false; error: { message: string } }): T => {
  if (!r.ok) throw new Error(r.error.message);
  return r.value;
};

describe('pools', () => {
  it('PL1 a pool is carved, used, resized, moved, destroyed', () => {
    const m = Machine.boot(simpleSpec(2 ** 31));
    const p = pools(m);

    const before = p.list().map((s) => s.managed);
    must(p.create({ name: 'web', pages: 10000, min: 500 }));
    expect(m.check()).toEqual([]);
    must(p.create({ name: 'db', pages: 777 }));
    expect(m.check()).toEqual([]);
    const h = must(p.addHolder({ class: 'anonymous', name: 'x', pool: 'web' }));
    const got: number[] = [];
    for (let k = 0; k < 9000; k++) got.push(m.alloc(h, toOrder(0)));
    expect(got.every((x) => x >= 0)).toBe(true);
    expect(m.check()).toEqual([]);
    must(p.move('web', 'db', { count: 100 }));
    expect(m.check()).toEqual([]);
    must(p.resize('web', 20000));
    expect(m.check()).toEqual([]);
    for (const x of got) m.free(toPfn(x));
    expect(m.check()).toEqual([]);
    must(p.destroy('web'));
    must(p.destroy('db'));
    expect(m.check()).toEqual([]);
    expect(p.list().map((s) => s.managed)).toEqual(before);
    expect(m.zones.map((z) => z.alloc.nrFree())).toEqual(m.zones.map((z) => z.managed));
  });
});
