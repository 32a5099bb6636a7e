// Priority reclaim by hand. Rules in docs/spec/pool-leases.md.

import { afterEach, describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import { type MachineSpec, simpleSpec } from '../machine-spec.ts';
import type { PageClass } from '../page-class.ts';
import type { Refusal } from '../refusal.ts';
import { type PoolSpec, type Pools, pools } from './pools.ts';
import { setPageState } from './shed.ts';

const MiB = 2 ** 20;
const machines: Machine[] = [];

function boot(spec: MachineSpec = simpleSpec(256 * MiB)): { m: Machine; p: Pools } {
  const m = Machine.boot({ code: 'shared', watermarks: 'none', ...spec });
  machines.push(m);
  return { m, p: pools(m) };
}

const must = <T>(r: { ok: true; value: T } | { ok: false; error: Refusal }): T => {
  if (!r.ok) throw new Error(`${r.error.errno}: ${r.error.message}`);
  return r.value;
};

const holder = (p: Pools, pool: string, cls: PageClass = 'anonymous', as = 'root'): HolderId =>
  must(p.addHolder({ class: cls, name: `${pool}-${cls}`, pool }, { as }));

/** Up to `most` pages of an order. */
function take(m: Machine, h: HolderId, most = Number.POSITIVE_INFINITY, order = 0): Pfn[] {
  const out: Pfn[] = [];
  while (out.length < most) {
    const pfn = m.alloc(h, toOrder(order));
    if (pfn === -1) break;
    out.push(pfn);
  }
  return out;
}

const free = (p: Pools, name: string): number => must(p.stat(name)).free;
const managed = (p: Pools, name: string): number => must(p.stat(name)).managed;

/** Pools in this order: the one that will be short, then its victims. Chunks of a pool are whole where pages allow it. */
function make(p: Pools, ...specs: PoolSpec[]): void {
  for (const spec of specs) must(p.create(spec));
}

/** Who gave how much, in order of time. */
function gifts(m: Machine): string[] {
  const out: string[] = [];
  m.onEvent = (e) => {
    if (e.type === 'pool' && e.verb === 'reclaim') out.push(`${e.pool} ${e.pages}`);
  };
  return out;
}

afterEach(() => {
  for (const m of machines.splice(0)) expect(m.check()).toEqual([]);
});

describe('free frames', () => {
  it('LR1 the lowest priority first, then the lowest id, in batches, each down to its min', () => {
    const { m, p } = boot();
    make(p, { name: 'db', pages: 100, priority: 9 }, { name: 'c', pages: 100, priority: 2 });
    make(p, { name: 'b', pages: 100, priority: 1, min: 30 }, { name: 'a', pages: 100, priority: 1 });
    make(p, { name: 'peer', pages: 100, priority: 9 });
    const said = gifts(m);
    const got = take(m, holder(p, 'db'));
    expect(got.length).toBe(100 + 100 + 70 + 100);
    expect(said).toEqual(['b 64', 'b 6', 'a 64', 'a 36', 'c 64', 'c 36']);
    expect(said.map((s) => s.split(' ')[0]).filter((x, k, all) => x !== all[k - 1])).toEqual(['b', 'a', 'c']);
    expect([free(p, 'a'), free(p, 'b'), free(p, 'c'), free(p, 'peer')]).toEqual([0, 30, 0, 100]);
  });

  it('LR2 only where the principal may reclaim', () => {
    const { m, p } = boot();
    make(p, { name: 'db', pages: 10, priority: 9, owner: 'ann' }, { name: 'x', pages: 100, owner: 'bob' });
    const h = holder(p, 'db', 'anonymous', 'ann');
    expect(take(m, h).length).toBe(10);
    must(p.setattr('x', { perms: { ann: ['alloc', 'donate'] } }));
    expect(take(m, h).length).toBe(0);
    must(p.setattr('x', { perms: { ann: ['reclaim'] } }));
    expect(take(m, h).length).toBe(100);
  });

  it('LR3 never from realtime, guaranteed and dma pools, frames on loan, frames that the pool may not have', () => {
    const { m, p } = boot();
    make(p, { name: 'db', pages: 10, priority: 9, zones: ['DMA32'] }, { name: 'low', pages: 100, zones: ['DMA'] });
    for (const cls of ['realtime', 'guaranteed', 'dma'] as const) make(p, { name: cls, pages: 100, class: cls });
    make(p, { name: 'bank', pages: 100, priority: 9 }, { name: 'borrower', pages: 20, zones: ['DMA32'] });
    must(p.borrow({ from: 'bank', to: 'borrower', pages: 50 }));
    expect(take(m, holder(p, 'db')).length).toBe(10 + 20);
    expect(['low', 'realtime', 'guaranteed', 'dma', 'borrower'].map((n) => free(p, n))).toEqual([
      100, 100, 100, 100, 50,
    ]);
  });

  it('LR3 never beyond the max of the pool that asks', () => {
    const { m, p } = boot();
    make(p, { name: 'db', pages: 10, max: 25, priority: 9 }, { name: 'x', pages: 100 });
    expect(take(m, holder(p, 'db')).length).toBe(25);
    expect(free(p, 'x')).toBe(85);
  });

  it('LR4 a larger order gets a run, and single frames are left alone', () => {
    const { m, p } = boot();
    make(p, { name: 'db', priority: 9 }, { name: 'x', pages: 2048 + 100 });
    expect(take(m, holder(p, 'db'), 2, 9).length).toBe(2);
    expect([managed(p, 'db'), managed(p, 'x')]).toEqual([1024, 1124]);
  });
});

describe('used pages', () => {
  it('LR5 clean page cache that nobody has mapped is dropped, the cheapest chunk first', () => {
    const { m, p } = boot();
    make(p, { name: 'db', priority: 9 }, { name: 'x', pages: 2048 });
    const anon = holder(p, 'x', 'anonymous');
    take(m, anon, 1024);
    const cache = holder(p, 'x', 'file');
    take(m, cache, 1024);
    setPageState(m, (h) => (h === cache ? { dirty: false, mapped: false } : undefined));
    const said = gifts(m);
    expect(take(m, holder(p, 'db')).length).toBe(1024);
    expect(new Set(said)).toEqual(new Set(['x 32'])); // used ones go by 32, free ones by 64
    expect([m.holders.members[cache], m.holders.members[anon]]).toEqual([0, 1024]);
    expect(m.vmstat.pgmigrate_success).toBe(0);
  });

  it('LR5 dirty, mapped and pinned page cache is not dropped', () => {
    const { m, p } = boot();
    make(p, { name: 'db', priority: 9 }, { name: 'x', pages: 1024 });
    const cache = holder(p, 'x', 'file');
    const pages = take(m, cache, 1024);
    const clean = new Set(pages.slice(512, 600));
    setPageState(m, (_h, _index, pfn) => ({ dirty: !clean.has(pfn) && pfn % 2 === 0, mapped: !clean.has(pfn) }));
    expect(take(m, holder(p, 'db')).length).toBe(88);
    expect(m.holders.members[cache]).toBe(1024 - 88);
  });

  it('LR6 movable pages go to the victim’s fallbacks, in order, down to their floor; contents and index with them', () => {
    const { m, p } = boot({ ...simpleSpec(256 * MiB), contents: 'bytes' });
    make(p, { name: 'db', priority: 9 }, { name: 'x', pages: 1024, owner: 'bob' });
    make(p, { name: 'near', pages: 100, min: 40, owner: 'bank', perms: { bob: ['alloc'] } });
    make(p, { name: 'far', pages: 1000, owner: 'bank' }, { name: 'not-his', pages: 500, owner: 'bank' });
    must(p.setattr('x', { perms: { root: ['reclaim'] } }));
    must(p.setattr('far', { perms: { bob: ['alloc'] } }));
    must(p.setFallback('x', 'not-his', 0));
    must(p.setFallback('x', 'far', 2));
    must(p.setFallback('x', 'near', 1));
    const h = holder(p, 'x', 'anonymous', 'bob');
    const data = (k: number): Uint8Array => Uint8Array.of(k & 255, k >>> 8);
    take(m, h, 1024).forEach((pfn, k) => void m.write(pfn, 0, data(k)));
    expect(take(m, holder(p, 'db'), 200).length).toBe(200);
    expect([free(p, 'near'), free(p, 'far'), free(p, 'not-his')]).toEqual([40, 1000 - 164, 500]);
    const wrong: number[] = [];
    m.forEachFrameOf(h, (pfn, _order, k) => {
      if (m.read(pfn)[0] !== (k & 255) || m.read(pfn)[1] !== k >>> 8) wrong.push(k);
    });
    expect(wrong).toEqual([]);
    expect([managed(p, 'x'), m.vmstat.pgmigrate_success]).toEqual([1024 - 224, 224]);
  });

  it('LR7 a chunk with an unmovable or a pinned page is never touched', () => {
    const { m, p } = boot();
    make(p, { name: 'db', priority: 9 }, { name: 'x', pages: 3072 }, { name: 'room', pages: 4096, owner: 'bank' });
    const anon = take(m, holder(p, 'x'));
    must(p.setFallback('x', 'room', 1));
    const chunks = new Map<number, Pfn[]>();
    for (const pfn of anon) chunks.set(pfn >>> 10, [...(chunks.get(pfn >>> 10) ?? []), pfn]);
    const [first, second, third] = [...chunks.values()] as [Pfn[], Pfn[], Pfn[]];
    m.pin(first[3] as Pfn);
    m.free(second[9] as Pfn);
    expect(take(m, holder(p, 'x', 'slab'), 1)).toEqual([second[9]]);
    const got = take(m, holder(p, 'db'));
    expect(got.length).toBe(1024);
    expect(new Set(got)).toEqual(new Set(third));
  });

  it('LR8 the chunk that costs least, whichever of equal victims has it; the lower priority comes first all the same', () => {
    const { m, p } = boot();
    make(
      p,
      { name: 'db', priority: 9 },
      { name: 'dear', pages: 1024, priority: 1 },
      { name: 'a', pages: 1024, priority: 2 },
    );
    make(p, { name: 'b', pages: 1024, priority: 2 }, { name: 'room', pages: 4096, owner: 'bank' });
    for (const name of ['dear', 'a', 'b']) take(m, holder(p, name), name === 'b' ? 500 : 1024);
    const bFiles = holder(p, 'b', 'file');
    take(m, bFiles, 524); // 524 clean pages: b's chunk costs less than a's
    for (const name of ['dear', 'a', 'b']) must(p.setFallback(name, 'room', 1));
    const said = gifts(m);
    take(m, holder(p, 'db'), 1024 + 1024 + 5);
    expect(said.map((s) => s.split(' ')[0]).filter((x, k, all) => x !== all[k - 1])).toEqual(['dear', 'b', 'a']);
    expect(managed(p, 'a')).toBe(1024 - 32);
  });

  it('LR9 a run for a larger order: the cheapest piece is emptied as a whole, within the victim if it has room', () => {
    const { m, p } = boot();
    make(p, { name: 'db', priority: 9 }, { name: 'x', pages: 2048, min: 100 });
    const h = holder(p, 'x');
    const all = take(m, h);
    // Every second page is free: 1024 free frames, and no two neighbours.
    for (const pfn of all) if (pfn % 2 === 0) m.free(pfn);
    const got = take(m, holder(p, 'db'), 1, 9);
    expect(got.length).toBe(1);
    expect([managed(p, 'db'), managed(p, 'x'), free(p, 'x')]).toEqual([512, 1536, 512]);
    expect(m.holders.members[h]).toBe(1024);
    // 512 free, 100 have to stay: a second run would leave none.
    expect(take(m, holder(p, 'db'), 1, 9).length).toBe(0);
    expect([managed(p, 'x'), free(p, 'x')]).toEqual([1536, 512]);
    expect(take(m, holder(p, 'db'), 1, 8).length).toBe(1);
    expect(free(p, 'x')).toBe(256);
  });

  it('LR9 what cannot be emptied as a whole is given back', () => {
    const { m, p } = boot();
    make(p, { name: 'db', priority: 9 }, { name: 'x', pages: 1024 }, { name: 'room', pages: 100, owner: 'bank' });
    const h = holder(p, 'x');
    const all = take(m, h);
    must(p.setFallback('x', 'room', 1));
    for (const pfn of all) if (pfn % 8 === 0) m.free(pfn); // 128 free, 896 used, and room for 100 more
    const before = [managed(p, 'db'), managed(p, 'x')];
    expect(take(m, holder(p, 'db'), 1, 9).length).toBe(0);
    expect([managed(p, 'db'), managed(p, 'x')]).toEqual(before);
    expect(m.check()).toEqual([]);
    expect(take(m, holder(p, 'db'), 1, 6).length).toBe(1);
    expect(m.holders.members[h]).toBe(896);
  });

  it('LR10 a look in vain is not repeated at once: the shortages let pass double, up to 64', () => {
    const { m, p } = boot();
    make(p, { name: 'db', priority: 9 }, { name: 'x', pages: 100 });
    take(m, holder(p, 'x', 'slab'));
    const asked: number[] = [];
    const h = holder(p, 'x', 'file');
    let shortage = 0;
    m.free(firstOf(m, must(p.addHolder({ class: 'slab', name: 'no', pool: 'x' })), 'x-slab'));
    take(m, h, 1);
    setPageState(m, () => {
      if (asked[asked.length - 1] !== shortage) asked.push(shortage);
      return { dirty: false, mapped: true };
    });
    const db = holder(p, 'db');
    for (; shortage < 300; shortage++) expect(m.alloc(db, toOrder(0))).toBe(-1);
    expect(asked).toEqual([0, 2, 5, 10, 19, 36, 69, 134, 199, 264]);
  });
});

/** A page of the holder named so. */
function firstOf(m: Machine, _h: HolderId, name: string): Pfn {
  let found: Pfn | undefined;
  const h = m.holders.specs.findIndex((s) => s.name === name);
  m.forEachFrameOf(h as HolderId, (pfn) => void (found ??= pfn));
  return found ?? toPfn(0);
}

describe('a pool on another node', () => {
  it('LR3 gives nothing to one that may not have its frames', () => {
    const ram = [0, 1].map((k) => ({
      start: toPfn(2 ** 21 + k * 32768),
      end: toPfn(2 ** 21 + k * 32768 + 8192),
      node: toNodeId(k),
    }));
    const { m, p } = boot({ ram });
    make(
      p,
      { name: 'db', priority: 9, nodes: [0] },
      { name: 'there', pages: 100, nodes: [1] },
      { name: 'both', nodes: [0, 1] },
    );
    must(p.move('node0-Normal', 'both', { count: 30 }));
    must(p.move('node1-Normal', 'both', { count: 50 }));
    expect(take(m, holder(p, 'db')).length).toBe(30);
    expect([free(p, 'there'), free(p, 'both')]).toEqual([100, 50]);
  });
});
