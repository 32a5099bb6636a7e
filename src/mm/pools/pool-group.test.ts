// Groups by hand. Rules in docs/spec/pool-policies.md; random ones in pool-group.fuzz.ts.

import { afterEach, describe, expect, it } from 'vitest';
import { type HolderId, type NodeId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGEBLOCK_PAGES } from '../geometry.ts';
import { Machine } from '../machine.ts';
import { type MachineSpec, simpleSpec } from '../machine-spec.ts';
import { isolatePageblock, unisolatePageblock } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import type { Refusal } from '../refusal.ts';
import { type PoolGroups, poolGroups } from './pool-group.ts';
import { type Pools, pools } from './pools.ts';
import { setPageState } from './shed.ts';

const MiB = 2 ** 20;
const machines: Machine[] = [];

type World = { m: Machine; p: Pools; g: PoolGroups };

function boot(spec: MachineSpec): World {
  const m = Machine.boot({ code: 'shared', ...spec });
  machines.push(m);
  return { m, p: pools(m), g: poolGroups(m) };
}

const small = (): World => boot(simpleSpec(256 * MiB));

/** Two nodes of 256 MiB. */
const two = (): World =>
  boot({
    ram: [0, 1].map((n) => ({ start: toPfn(n * 65536), end: toPfn((n + 1) * 65536), node: toNodeId(n) })),
  });

const must = <T>(r: { ok: true; value: T } | { ok: false; error: Refusal }): T => {
  if (!r.ok) throw new Error(`${r.error.errno}: ${r.error.message}`);
  return r.value;
};

const why = (r: { ok: true } | { ok: false; error: Refusal }): string =>
  r.ok ? 'ok' : `${r.error.errno} ${r.error.reason}`;

function take(m: Machine, holder: HolderId, count: number, order = 0): Pfn[] {
  const out: Pfn[] = [];
  for (let k = 0; k < count; k++) {
    const pfn = m.alloc(holder, toOrder(order));
    if (pfn === -1) throw new Error(m.lastRefusal?.message);
    out.push(pfn);
  }
  return out;
}

const member = (w: World, group: string, cls: 'anonymous' | 'file' | 'slab' | 'hugetlb' = 'anonymous'): HolderId =>
  must(w.g.addMember(group, { class: cls, name: `${group}'s ${cls}` }));

/** All page cache is clean and unmapped. */
const cleanCache = (m: Machine): void => setPageState(m, () => ({ dirty: false, mapped: false }));

afterEach(() => {
  for (const m of machines.splice(0)) expect(m.check()).toEqual([]);
});

describe('account', () => {
  it('PG1 members take from the group’s pool, and the account says who holds what', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 4096 }));
    const heap = member(w, 'shop');
    const cache = member(w, 'shop', 'file');
    take(w.m, heap, 100);
    take(w.m, cache, 3, 4);
    expect(must(w.g.usage('shop'))).toMatchObject({
      pool: 'shop',
      limit: 4096,
      managed: 4096,
      used: 148,
      free: 3948,
      byClass: { anonymous: 100, file: 48 },
      members: [
        { holder: heap, pages: 100, outside: 0 },
        { holder: cache, pages: 48, outside: 0 },
      ],
    });
  });

  it('PG1 what a fallback gave is counted as outside', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 512 }));
    must(w.p.setFallback('shop', 'node0', 1));
    const heap = member(w, 'shop');
    take(w.m, heap, 600);
    expect(must(w.g.usage('shop')).members).toMatchObject([{ pages: 512, outside: 88 }]);
  });

  it('PG2 a member that exits gives everything back, and an empty group can be destroyed with its pool', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 512 }));
    const heap = member(w, 'shop');
    take(w.m, heap, 77);
    expect(why(w.g.destroy('shop'))).toBe('EBUSY pool-busy');
    expect(must(w.g.exit('shop', heap))).toBe(77);
    expect(must(w.p.stat('shop')).used).toBe(0);
    expect(why(w.g.exit('shop', heap))).toBe('EINVAL bad-argument');
    must(w.g.destroy('shop'));
    expect([w.g.list(), why(w.p.stat('shop'))]).toEqual([[], 'ENOENT no-such-pool']);
  });

  it('PG2 groups may share a pool; it outlives them; zones are no group’s; names are unique', () => {
    const w = small();
    must(w.p.create({ name: 'batch', pages: 1024 }));
    must(w.g.create({ name: 'a', pool: 'batch' }));
    must(w.g.create({ name: 'b', pool: 'batch' }));
    take(w.m, member(w, 'a'), 10);
    take(w.m, member(w, 'b'), 20);
    expect([must(w.g.usage('a')), must(w.g.usage('b'))]).toMatchObject([
      { used: 30, byClass: { anonymous: 10 } },
      { used: 30, byClass: { anonymous: 20 } },
    ]);
    expect(why(w.g.create({ name: 'a', pool: 'batch' }))).toBe('EEXIST pool-exists');
    expect(why(w.g.create({ name: 'c', pool: 'node0-DMA32' }))).toBe('EINVAL bad-argument');
    expect(why(w.g.create({ name: 'c', pool: 'none' }))).toBe('ENOENT no-such-pool');
    expect(why(w.g.create({ name: 'c', pool: 'batch' }, { as: 'web' }))).toBe('EPERM permission');
    expect(why(w.g.addMember('c', { class: 'file', name: 'x' }))).toBe('ENOENT no-such-pool');
  });

  it('PG3 copies of a machine have its groups, and change them independently', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 512 }));
    take(w.m, member(w, 'shop'), 7);
    const copy = w.m.fork();
    machines.push(copy);
    const g = poolGroups(copy);
    must(g.addMember('shop', { class: 'file', name: 'more' }));
    expect([must(g.usage('shop')).members.length, must(w.g.usage('shop')).members.length]).toEqual([2, 1]);
    expect(must(g.usage('shop')).used).toBe(7);
  });
});

describe('limit', () => {
  it('PG4 a limit grows and shrinks by free frames', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 1024 }));
    take(w.m, member(w, 'shop'), 500);
    expect(must(w.g.setLimit('shop', 2048))).toEqual({ limit: 2048, dropped: 0, moved: 0 });
    expect(must(w.g.setLimit('shop', 500))).toEqual({ limit: 500, dropped: 0, moved: 0 });
    expect(must(w.p.stat('shop'))).toMatchObject({ managed: 500, free: 0 });
  });

  it('PG5 below what is used, clean page cache goes first, then what may move goes to the fallbacks', () => {
    const w = small();
    cleanCache(w.m);
    must(w.g.create({ name: 'shop', pages: 1000 }));
    must(w.p.create({ name: 'overflow', pages: 200 }));
    must(w.p.setFallback('shop', 'overflow', 1));
    const heap = member(w, 'shop');
    const cache = member(w, 'shop', 'file');
    take(w.m, heap, 600);
    take(w.m, cache, 400);
    expect(must(w.g.setLimit('shop', 900))).toEqual({ limit: 900, dropped: 100, moved: 0 });
    expect(must(w.g.setLimit('shop', 550))).toEqual({ limit: 550, dropped: 300, moved: 50 });
    expect(must(w.g.usage('shop')).members).toMatchObject([
      { pages: 550, outside: 50 },
      { pages: 0, outside: 0 },
    ]);
  });

  it('PG6 what does not leave stops it: who holds what is said, and the limit stays', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 1000 }));
    const heap = member(w, 'shop');
    const kernel = member(w, 'shop', 'slab');
    take(w.m, heap, 300);
    take(w.m, kernel, 500);
    const refused = w.g.setLimit('shop', 700);
    expect(why(refused)).toBe('EBUSY pool-busy');
    if (refused.ok) return;
    expect(refused.error.message).toContain("shop's slab 500 (slab), shop's anonymous 300 (anonymous)");
    expect(new Set(refused.error.blockers.map((b) => b.holder))).toEqual(new Set([heap, kernel]));
    expect(must(w.g.usage('shop')).limit).toBe(1000);
    expect(must(w.g.setLimit('shop', 700, { partial: true }))).toEqual({ limit: 800, dropped: 0, moved: 0 });
  });

  it('PG6 pages of others in the same pool are not shed', () => {
    const w = small();
    cleanCache(w.m);
    must(w.p.create({ name: 'batch', pages: 100 }));
    for (const name of ['a', 'b']) must(w.g.create({ name, pool: 'batch' }));
    take(w.m, member(w, 'a', 'file'), 50);
    take(w.m, member(w, 'b', 'file'), 50);
    expect(must(w.g.setLimit('a', 60))).toMatchObject({ dropped: 40 });
    expect(why(w.g.setLimit('a', 40))).toBe('EBUSY pool-busy');
    expect(must(w.g.usage('b')).byClass).toEqual({ file: 50 });
  });

  it('PG7 a sub-group’s frames count: a limit is for all of it, and does not go below what sub-groups have', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 2000 }));
    must(w.g.create({ name: 'shop-db', pages: 500, parent: 'shop' }));
    expect(must(w.g.usage('shop'))).toMatchObject({ limit: 2000, managed: 1500, carved: ['shop-db'] });
    must(w.g.setLimit('shop-db', 800));
    expect(must(w.g.usage('shop'))).toMatchObject({ limit: 2000, managed: 1200 });
    expect(must(w.g.setLimit('shop', 900)).limit).toBe(900);
    expect(must(w.g.usage('shop'))).toMatchObject({ limit: 900, managed: 100 });
    const refused = w.g.setLimit('shop', 700);
    expect(why(refused)).toBe('EBUSY pool-busy');
    if (!refused.ok) expect(refused.error.message).toContain('shop-db 800');
    expect(why(w.g.setLimit('shop-db', 1000))).toBe('ENOMEM no-memory');
  });

  it('PG7 min, max, permission and numbers are the pool’s business, and nothing is shed for a refusal', () => {
    const w = small();
    cleanCache(w.m);
    must(w.g.create({ name: 'shop', pages: 1000, min: 500, max: 2000 }));
    const cache = member(w, 'shop', 'file');
    take(w.m, cache, 900);
    expect(why(w.g.setLimit('shop', 400))).toBe('ENOSPC guarantee');
    expect(why(w.g.setLimit('shop', 2001))).toBe('EINVAL bad-argument');
    expect(why(w.g.setLimit('shop', -1))).toBe('EINVAL bad-argument');
    expect(why(w.g.setLimit('shop', 0.5))).toBe('EINVAL bad-argument');
    expect(why(w.g.setLimit('shop', 600, { as: 'web' }))).toBe('EPERM permission');
    expect(w.m.holders.pages[cache]).toBe(900);
  });
});

describe('move', () => {
  it('PG8 pages whose frames the new pool may have change hands in place, pinned and kernel pages too', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 2000 }));
    must(w.p.create({ name: 'gold', pages: 100 }));
    const heap = member(w, 'shop');
    const kernel = member(w, 'shop', 'slab');
    const pages = take(w.m, heap, 300);
    take(w.m, kernel, 10, 2);
    w.m.pin(pages[5] as Pfn);
    expect(must(w.g.moveTo('shop', 'gold'))).toEqual({ inPlace: 340, migrated: 0, stayed: 0 });
    expect(w.m.vmstat.pgmigrate_success).toBe(0);
    expect(pages.map((pfn) => w.m.frame(pfn)).every((f) => f.state === 'used' && f.pool.name === 'gold')).toBe(true);
    expect([must(w.p.stat('shop')), must(w.p.stat('gold'))]).toMatchObject([
      { managed: 1660, used: 0 },
      { managed: 440, used: 340 },
    ]);
    take(w.m, heap, 100);
    expect(must(w.g.usage('shop'))).toMatchObject({
      pool: 'gold',
      used: 440,
      free: 0,
    });
  });

  it('PG9 to another node they migrate, contents and indexes with them', () => {
    const w = two();
    must(w.g.create({ name: 'shop', pages: 2000, nodes: [0] }));
    must(w.p.create({ name: 'far', pages: 1000, nodes: [1] }));
    const heap = member(w, 'shop');
    take(w.m, heap, 300);
    take(w.m, heap, 2, 5);
    const tags = (): number[] => {
      const out: number[] = [];
      w.m.forEachFrameOf(heap, (pfn, order, index) => {
        const i = w.m.sections.indexOf(pfn);
        out.push(index, order, w.m.sections.metaAt(i) >>> 8);
      });
      return out;
    };
    const before = tags();
    expect(must(w.g.moveTo('shop', 'far'))).toEqual({ inPlace: 0, migrated: 364, stayed: 0 });
    expect(tags()).toEqual(before);
    expect([must(w.p.stat('shop')), must(w.p.stat('far'))]).toMatchObject([
      { managed: 2000, used: 0 },
      { managed: 1000, used: 364 },
    ]);
    const nodes = new Set<NodeId | undefined>();
    w.m.forEachFrameOf(heap, (pfn) => void nodes.add(w.m.zoneAt(w.m.sections.indexOf(pfn))?.node));
    expect([...nodes]).toEqual([1]);
  });

  it('PG10 all or nothing: a page that would have to migrate and cannot stops it, and nothing has moved', () => {
    const w = two();
    must(w.g.create({ name: 'shop', pages: 2000, nodes: [0] }));
    must(w.p.create({ name: 'far', pages: 1000, nodes: [1] }));
    const heap = member(w, 'shop');
    const kernel = member(w, 'shop', 'slab');
    const pages = take(w.m, heap, 300);
    take(w.m, kernel, 7);
    w.m.pin(pages[5] as Pfn);
    const before = w.m.digest();
    const refused = w.g.moveTo('shop', 'far');
    expect(why(refused)).toBe('EBUSY pool-busy');
    if (!refused.ok) expect(refused.error.blockers.map((b) => b.cause).sort()).toEqual(['pinned', 'unmovable']);
    expect(w.m.digest()).toBe(before);
    expect(must(w.g.usage('shop')).pool).toBe('shop');
    expect(must(w.g.moveTo('shop', 'far', { partial: true }))).toEqual({ inPlace: 0, migrated: 299, stayed: 8 });
    expect(must(w.g.usage('shop')).members).toMatchObject([
      { pages: 299, outside: 1 },
      { pages: 0, outside: 7 },
    ]);
  });

  it('PG10 so do a new pool without room, its max, and the old pool’s min', () => {
    const w = two();
    must(w.g.create({ name: 'shop', pages: 1000, nodes: [0], min: 800 }));
    must(w.p.create({ name: 'far', pages: 200, nodes: [1] }));
    must(w.p.create({ name: 'tight', pages: 100, nodes: [0], max: 300 }));
    must(w.p.create({ name: 'near', pages: 100, nodes: [0] }));
    const heap = member(w, 'shop');
    take(w.m, heap, 250);
    const before = w.m.digest();
    expect(why(w.g.moveTo('shop', 'far'))).toBe('ENOMEM no-memory');
    expect(why(w.g.moveTo('shop', 'near'))).toBe('ENOSPC guarantee');
    must(w.p.setattr('shop', { min: 0 }));
    expect(why(w.g.moveTo('shop', 'tight'))).toBe('ENOSPC guarantee');
    expect(why(w.g.moveTo('shop', 'shop'))).toBe('EINVAL bad-argument');
    expect(why(w.g.moveTo('shop', 'near', { as: 'web' }))).toBe('EPERM permission');
    expect(w.m.digest()).toBe(before);
    expect(must(w.g.moveTo('shop', 'tight', { partial: true }))).toEqual({ inPlace: 200, migrated: 0, stayed: 50 });
  });

  it('PG11 without `donate` on both pools nothing changes hands in place: it migrates', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 500, owner: 'web', perms: {} }));
    must(w.p.create({ name: 'gold', pages: 500, perms: { web: ['alloc'] } }));
    const heap = must(w.g.addMember('shop', { class: 'anonymous', name: 'heap' }, { as: 'web' }));
    take(w.m, heap, 100);
    expect(must(w.g.moveTo('shop', 'gold', { as: 'web' }))).toEqual({ inPlace: 0, migrated: 100, stayed: 0 });
    expect(must(w.p.stat('shop')).managed).toBe(500);
  });

  it('PG11 nor do frames on loan: they stay the lender’s', () => {
    const w = small();
    must(w.p.create({ name: 'rich', pages: 500 }));
    must(w.g.create({ name: 'shop', pages: 100 }));
    must(w.p.create({ name: 'gold', pages: 600 }));
    must(w.p.borrow({ from: 'rich', to: 'shop', pages: 400 }));
    const heap = member(w, 'shop');
    take(w.m, heap, 500);
    expect(must(w.g.moveTo('shop', 'gold'))).toMatchObject({ inPlace: 100, migrated: 400 });
    const [lease] = w.p.leases();
    expect(must(w.p.reclaim(lease?.id as number))).toMatchObject({ pages: 400 });
  });

  it('PG11 nor do frames of a pageblock that somebody is taking out of use', () => {
    const w = small();
    must(w.g.create({ name: 'shop', pages: 1024 }));
    must(w.p.create({ name: 'gold', pages: 1024 }));
    const heap = member(w, 'shop');
    const pages = take(w.m, heap, 600);
    const index = w.m.sections.indexOf(pages[0] as Pfn);
    const shop = w.m.poolAt(index) as Pool;
    const block = index - (index % PAGEBLOCK_PAGES);
    const inside = pages.filter(
      (pfn) => Math.floor(w.m.sections.indexOf(pfn) / PAGEBLOCK_PAGES) === block / PAGEBLOCK_PAGES,
    );
    shop.alloc.disable();
    const type = isolatePageblock(shop, block);
    expect(must(w.g.moveTo('shop', 'gold'))).toEqual({
      inPlace: 600 - inside.length,
      migrated: inside.length,
      stayed: 0,
    });
    unisolatePageblock(shop, block, type);
    shop.alloc.enable();
    expect(inside.length).toBeGreaterThan(0);
  });

  it('PG11 huge pages are not split on the way: without a free block of 2 MiB for each they stop the move', () => {
    const w = two();
    must(w.g.create({ name: 'shop', pages: 4096, nodes: [0] }));
    must(w.p.create({ name: 'far', pages: 2048, nodes: [1] }));
    const huge = member(w, 'shop', 'hugetlb');
    take(w.m, huge, 2, 9);
    const sand = must(w.p.addHolder({ class: 'slab', name: 'sand', pool: 'far' }));
    const grains = take(w.m, sand, 1600);
    grains.forEach((pfn, k) => {
      if (k % 100 !== 0) w.m.free(pfn);
    });
    expect(why(w.g.moveTo('shop', 'far'))).toBe('ENOMEM no-memory');
    for (let k = 0; k < grains.length; k += 100) w.m.free(grains[k] as Pfn);
    expect(must(w.g.moveTo('shop', 'far'))).toEqual({ inPlace: 0, migrated: 1024, stayed: 0 });
    expect(w.m.holders.members[huge]).toBe(2);
  });
});
