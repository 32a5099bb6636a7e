import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import type { Refusal } from '../refusal.ts';
import { attrsOf, poolTableOf } from './pool-table.ts';
import { BASE, BLOCK, boot, holderOf, must, take, type Verdict } from './pools.cases.ts';
import { type PoolSpec, type Pools, pools } from './pools.ts';

const CHUNK = 1024;

/** A frame that pool a has in use. */
function aPage(m: Machine): Pfn {
  for (let i = 0; ; i++)
    if (m.sections.allocationAt(i) !== undefined && m.poolAt(i)?.name === 'a') return m.sections.pfnOf(i);
}

/** Everything that a pool's allocator knows, as one string. */
function columnsOf(m: Machine, name: string): string {
  const pool = m.pools[attrsOf(m, must(pools(m).stat(name)).id).id] as Pool;
  const parts: unknown[] = [
    pool.base,
    pool.present,
    pool.managed,
    pool.watermarks,
    pool.numa,
    pool.extfrag,
    [...pool.labels],
  ];
  pool.alloc.area.forEachFree(0, pool.pages, (i, order, mt) => parts.push([i, order, mt]));
  pool.alloc.forEachPcp((cpu, mt, i, order) => parts.push([cpu, mt, i, order]));
  return JSON.stringify(parts);
}

describe('pools are carved, used and given back', () => {
  it('PL1 a zone is a pool, a node is the union of its zones, and all frames are someone’s', () => {
    const m = boot(2);
    const p = pools(m);
    expect(p.list().map((s) => [s.name, s.kind, s.managed])).toEqual([
      ['node0-Normal', 'zone', 4 * BLOCK],
      ['node0-Movable', 'zone', 0],
      ['node1-Normal', 'zone', 4 * BLOCK],
      ['node1-Movable', 'zone', 0],
    ]);
    must(p.create({ name: 'web', pages: 1000, nodes: [1] }));
    expect(p.nodes().map((s) => [s.name, s.managed, s.free])).toEqual([
      ['node0', 4 * BLOCK, 4 * BLOCK],
      ['node1', 4 * BLOCK, 4 * BLOCK],
    ]);
    expect(must(p.stat('node1-Normal')).managed).toBe(4 * BLOCK - 1000);
    expect(m.check()).toEqual([]);
  });

  it('PL2 frames of a pool keep the label of their zone, and go back where they came from', () => {
    const m = boot(2);
    const p = pools(m);
    const before = m.zones.map((z) => [z.managed, z.alloc.nrFree()]);
    must(p.create({ name: 'both', pages: 5 * BLOCK, nodes: [1, 0] }));
    const pool = m.pools[must(p.stat('both')).id] as Pool;
    expect([...pool.labels]).toEqual([
      [2, 4 * BLOCK],
      [0, BLOCK],
    ]);
    expect(m.check()).toEqual([]);
    const got = take(m, holderOf(m, 'both'), 1000);
    for (const pfn of got) m.free(pfn);
    expect(must(p.destroy('both'))).toBe(5 * BLOCK);
    expect(m.zones.map((z) => [z.managed, z.alloc.nrFree()])).toEqual(before);
    expect(m.zones[0]?.alloc.area.orders(1)).toBe(1 << 10); // merged again, to chunks
    expect(m.check()).toEqual([]);
  });

  it('PL3 destroy with used pages is refused; with drain they stay where they are and belong to the zone', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'web', pages: 3000 }));
    const [pfn] = take(m, holderOf(m, 'web', 'slab'), 1) as [Pfn];
    expect(p.destroy('web')).toMatchObject({ ok: false, error: { errno: 'EBUSY' } });
    expect(must(p.destroy('web', { drain: true }))).toBe(3000);
    expect(m.frame(pfn)).toMatchObject({ state: 'used', pool: { name: 'Normal' } });
    m.free(pfn);
    expect(m.check()).toEqual([]);
  });

  it('PL4 whoever was bound to a pool that is gone is refused, even when its id is another pool’s', () => {
    const m = boot();
    const p = pools(m);
    const first = must(p.create({ name: 'first', pages: 2000 }));
    const holder = holderOf(m, 'first');
    must(p.destroy('first'));
    const second = must(p.create({ name: 'second', pages: 2000 }));
    expect(second.id).toBe(first.id);
    expect(m.alloc(holder, toOrder(0))).toBe(-1);
    expect(m.lastRefusal).toMatchObject({ errno: 'ENOENT' });
    expect(must(p.stat('second')).free).toBe(2000);
    expect(m.check()).toEqual([]);
  });

  it('PL5 memory of ZONE_MOVABLE is carved only when asked for, and serves only what may be moved', () => {
    const m = Machine.boot({
      ram: [{ start: toPfn(BASE), end: toPfn(BASE + 8 * BLOCK), node: toNodeId(0) }],
      cmdline: 'movablecore=512M',
      code: 'shared',
      watermarks: 'none',
    });
    const p = pools(m);
    const normal = must(p.stat('node0-Normal')).managed;
    expect(p.create({ name: 'big', pages: normal + 1 })).toMatchObject({ ok: false, error: { errno: 'ENOMEM' } });
    must(p.create({ name: 'mov', pages: 2000, zones: ['Movable'] }));
    expect(take(m, holderOf(m, 'mov', 'slab'), 1)).toEqual([]);
    expect(take(m, holderOf(m, 'mov'), 2000)).toHaveLength(2000);
    expect(m.check()).toEqual([]);
  });

  it('PL6 an empty pool’s requests go to its fallbacks, by weight, and stay those pools’ pages', () => {
    const m = boot(2);
    const p = pools(m);
    for (const name of ['a', 'b', 'rt']) {
      must(
        p.create({ name, pages: 100, class: name === 'rt' ? 'realtime' : 'normal', ...(name === 'b' && { min: 40 }) }),
      );
    }
    must(p.create({ name: 'high', pages: 100, priority: 9 }));
    must(p.setattr('b', { owner: 'bob', perms: { alice: ['alloc'] } }));
    must(p.setattr('a', { owner: 'alice' }));
    for (const [to, weight] of [
      ['rt', 0],
      ['high', 1],
      ['b', 2],
      ['node1', 3],
    ] as const)
      must(p.setFallback('a', to, weight));
    const holder = holderOf(m, 'a', 'anonymous', 'alice');
    const got = take(m, holder, 400).map((pfn) => m.poolAt(m.sections.indexOf(pfn))?.title);
    const count = (title: string) => got.filter((t) => t === title).length;
    // Never realtime, never a pool of higher priority; another's min stays.
    expect([
      count('pool a'),
      count('pool b'),
      count('pool rt'),
      count('pool high'),
      count('Node 1, zone Normal'),
    ]).toEqual([100, 60, 0, 0, 240]);
    must(p.setFallback('a', 'node1', undefined));
    expect(m.alloc(holder, toOrder(0))).toBe(-1);
    expect(m.lastRefusal?.message).toMatch(/^pool a: no free run of 1 frames/);
    expect(m.check()).toEqual([]);
  });

  it('PL7 single frames move, and frames of one pageblock may be several pools’', () => {
    const m = boot();
    const p = pools(m);
    for (const name of ['a', 'b', 'c']) must(p.create({ name, pages: 3 * CHUNK }));
    const holder = holderOf(m, 'a', 'slab');
    const got = take(m, holder, 2000);
    const rng = new Prng(7);
    for (const pfn of got)
      must(p.move('a', rng.pick(['b', 'c']), { range: { start: pfn, end: toPfn(pfn + 1) } }, { used: 'donate' }));
    expect(m.owners.mixed.size).toBeGreaterThan(0);
    expect(m.check()).toEqual([]);
    expect(must(p.stat('b')).managed + must(p.stat('c')).managed).toBe(6 * CHUNK + 2000);
    for (const pfn of got) m.free(pfn);
    expect(m.check()).toEqual([]);
    for (const name of ['b', 'c', 'a']) must(p.destroy(name));
    expect(m.owners.mixed.size).toBe(0);
    expect(m.check()).toEqual([]);
  });

  it('PL8 a range is emptied by migration inside its pool; a pinned page stops it and everything stays', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 4 * CHUNK }));
    must(p.create({ name: 'b', pages: 0 }));
    const holder = holderOf(m, 'a');
    const got = take(m, holder, CHUNK);
    const start = Math.min(...got) - (Math.min(...got) % CHUNK);
    const range = { start: toPfn(start), end: toPfn(start + CHUNK) };
    expect(p.move('a', 'b', { range })).toMatchObject({ ok: false, error: { errno: 'EBUSY' } });
    const pinned = got.find((pfn) => pfn >= range.start && pfn < range.end) as Pfn;
    m.pin(pinned);
    const before = [must(p.stat('a')), must(p.stat('b'))];
    const refused = p.move('a', 'b', { range }, { used: 'evacuate' });
    expect(refused).toMatchObject({
      ok: false,
      error: { errno: 'EBUSY', blockers: [{ cause: 'pinned', startPfn: pinned }] },
    });
    expect([must(p.stat('a')), must(p.stat('b'))]).toEqual(before);
    m.unpin(pinned);
    expect(must(p.move('a', 'b', { range }, { used: 'evacuate' }))).toBe(CHUNK);
    expect(must(p.stat('b'))).toMatchObject({ managed: CHUNK, used: 0 });
    expect(must(p.stat('a')).used).toBe(CHUNK);
    expect(m.check()).toEqual([]);
  });
});

describe('acceptance', () => {
  it('A2 a storm in one pool changes no counter of another, bit for bit', () => {
    const m = boot(2, 4, { placement: 'lifo', compat: 'linux', cpus: 4, watermarks: undefined as never });
    const p = pools(m);
    must(p.create({ name: 'x', pages: 20000, min: 100 }));
    must(p.create({ name: 'y', pages: 20000, min: 100 }));
    const y = take(m, holderOf(m, 'y'), 700);
    for (const pfn of y.slice(0, 99)) m.free(pfn);
    const before = columnsOf(m, 'y');
    const rng = new Prng(20071025);
    const held: Pfn[] = [];
    const holders = [
      holderOf(m, 'x'),
      holderOf(m, 'x', 'slab'),
      m.addHolder({ class: 'file', name: 'node', node: toNodeId(0) }),
    ];
    for (let k = 0; k < 150_000; k++) {
      for (const pool of m.pools) if (k % 1000 === 0 && pool.name !== 'y') pool.alloc.useCpu(rng.below(4));
      if (rng.chance(0.55)) {
        const pfn = m.alloc(rng.pick(holders), toOrder(rng.chance(0.9) ? 0 : rng.below(11)));
        if (pfn !== -1) held.push(pfn);
      } else if (held.length > 0) {
        const at = rng.below(held.length);
        m.free(held[at] as Pfn);
        held[at] = held[held.length - 1] as Pfn;
        held.pop();
      }
    }
    expect(held.length).toBeGreaterThan(10000);
    expect(columnsOf(m, 'y'), 'seed=20071025').toBe(before);
    expect(m.check()).toEqual([]);
  });

  it('A4 64 CPUs and 8 pools of 8 CPUs: no lock is taken from outside, conflicts fall to an eighth or less', () => {
    const CPUS = 64;
    const TICKS = 3000;
    /** An operation needs its pool's lock exactly when the free area behind the per-CPU lists changed. */
    const conflicts = (count: number): { conflicts: number; handOvers: number; locks: number } => {
      const m = boot(1, 16, { cpus: CPUS });
      const p = pools(m);
      const per = CPUS / count;
      const ids: number[] = [];
      const holders: HolderId[] = [];
      for (let k = 0; k < count; k++) {
        const cpus = Array.from({ length: per }, (_, c) => k * per + c);
        ids.push(must(p.create({ name: `p${k}`, pages: (12 * BLOCK) / count, cpus })).id);
        holders.push(holderOf(m, `p${k}`));
        must(p.stat(`p${k}`));
        (m.pools[ids[k] as number] as Pool).alloc.setPcp({ batch: 31, high: 124 });
      }
      const rng = new Prng(4);
      const held: Pfn[][] = Array.from({ length: CPUS }, () => []);
      let clashes = 0;
      let handOvers = 0;
      let locks = 0;
      for (let tick = 0; tick < TICKS; tick++) {
        const wanted = new Map<number, number>();
        for (let cpu = 0; cpu < CPUS; cpu++) {
          const k = Math.floor(cpu / per);
          const pool = m.pools[ids[k] as number] as Pool;
          const mine = held[cpu] as Pfn[];
          const alloc = mine.length < 40 || (mine.length < 400 && rng.chance(0.5));
          pool.alloc.useCpu(cpu);
          const area = pool.alloc.nrFree();
          let touched = pool;
          if (alloc) {
            const pfn = m.alloc(holders[k] as HolderId, toOrder(0));
            mine.push(pfn as Pfn);
            touched = m.poolAt(m.sections.indexOf(pfn as Pfn)) as Pool;
          } else m.free(mine.splice(rng.below(mine.length), 1)[0] as Pfn);
          if (pool.alloc.nrFree() === area) continue;
          locks++;
          wanted.set(pool.id, (wanted.get(pool.id) ?? 0) + 1);
          if (!(attrsOf(m, touched.id).cpus as number[]).includes(cpu)) handOvers++;
        }
        for (const n of wanted.values()) clashes += n * (n - 1);
      }
      expect(m.check(1)).toEqual([]);
      return { conflicts: clashes, handOvers, locks };
    };
    const one = conflicts(1);
    const eight = conflicts(8);
    const numbers = JSON.stringify({ one, eight });
    expect(eight.handOvers, numbers).toBe(0);
    expect(one.conflicts / Math.max(1, eight.conflicts), numbers).toBeGreaterThanOrEqual(8);
    expect(Math.abs(one.locks - eight.locks) / one.locks, numbers).toBeLessThan(0.1); // the same work
  }, 60_000);

  it('A8 1 GiB that is 256 free chunks moves in 256 relabels', () => {
    const m = boot(1, 24);
    const p = pools(m);
    must(p.create({ name: 'a', pages: 2 ** 18 }));
    must(p.create({ name: 'b', pages: 0 }));
    const before = poolTableOf(m).relabels;
    expect(must(p.move('a', 'b', { count: 2 ** 18 }))).toBe(2 ** 18);
    expect(poolTableOf(m).relabels - before).toBe(256);
    expect(m.check()).toEqual([]);
  });
});

describe('refusals leave everything as it was', () => {
  const spec: PoolSpec = {
    name: 'a',
    pages: 2000,
    min: 500,
    max: 9000,
    owner: 'alice',
    perms: { bob: ['alloc', 'inspect'], dora: ['donate'] },
  };
  const cases: readonly [string, string, (p: Pools, m: Machine) => Verdict<unknown>][] = [
    ['a name that is taken', 'EEXIST', (p) => p.create({ name: 'a', pages: 1 })],
    ['a name that is none', 'EINVAL', (p) => p.create({ name: '7up', pages: 1 })],
    ['a node’s name', 'EINVAL', (p) => p.create({ name: 'node3', pages: 1 })],
    ['an empty node mask', 'EINVAL', (p) => p.create({ name: 'x', pages: 1, nodes: [] })],
    ['a node that is not there', 'EINVAL', (p) => p.create({ name: 'x', pages: 1, nodes: [9] })],
    ['an empty CPU mask', 'EINVAL', (p) => p.create({ name: 'x', pages: 1, cpus: [] })],
    ['a CPU that is not there', 'EINVAL', (p) => p.create({ name: 'x', pages: 1, cpus: [99] })],
    ['a priority beyond 255', 'EINVAL', (p) => p.create({ name: 'x', pages: 1, priority: 256 })],
    ['half a page', 'EINVAL', (p) => p.create({ name: 'x', pages: 1.5 })],
    ['a max below min', 'EINVAL', (p) => p.setattr('a', { max: 100 })],
    ['a permission that is none', 'EINVAL', (p) => p.setattr('a', { perms: { bob: ['fly' as never] } })],
    ['more than there is', 'ENOMEM', (p) => p.create({ name: 'x', pages: 2 ** 24 })],
    ['promises beyond the node', 'ENOSPC', (p) => p.create({ name: 'x', pages: 5 * BLOCK, min: 5 * BLOCK })],
    ['a min above its pages', 'ENOSPC', (p) => p.setattr('a', { min: 3000 })],
    ['below its min', 'ENOSPC', (p) => p.resize('a', 400)],
    ['above its max', 'EINVAL', (p) => p.resize('a', 9500)],
    ['pages that are used', 'EBUSY', (p) => p.resize('a', 600)],
    ['out of the min', 'ENOSPC', (p) => p.move('a', 'b', { count: 600 })],
    ['more than is free', 'ENOMEM', (p) => p.move('b', 'a', { count: 5000 })],
    ['a pool that is not there', 'ENOENT', (p) => p.move('a', 'nobody', { count: 1 })],
    ['no pool to look at', 'ENOENT', (p) => p.stat('nobody')],
    ['a stranger looks', 'EPERM', (p) => p.stat('a', { as: 'eve' })],
    [
      'a stranger allocates',
      'EPERM',
      (p, m) => p.alloc('a', m.addHolder({ class: 'slab', name: 'eve' }), toOrder(0), { as: 'eve' }),
    ],
    ['a stranger destroys', 'EPERM', (p) => p.destroy('b', { as: 'bob' })],
    ['a stranger carves from zones', 'EPERM', (p) => p.create({ name: 'x', pages: 1 }, { as: 'bob' })],
    ['a zone is resized', 'EPERM', (p) => p.resize('node0-Normal', 1)],
    ['a guest changes attributes', 'EACCES', (p) => p.setattr('a', { priority: 3 }, { as: 'bob' })],
    ['a guest draws edges', 'EACCES', (p) => p.setFallback('a', 'b', 1, { as: 'bob' })],
    ['frames of another node', 'EXDEV', (p) => p.move('a', 'far', { count: 10 })],
    [
      'a range of another node',
      'EXDEV',
      (p) => p.move('a', 'far', { range: { start: toPfn(BASE), end: toPfn(BASE + 1) } }),
    ],
    ['nodes that its frames are not of', 'EXDEV', (p) => p.setattr('a', { nodes: [1] })],
    ['itself', 'EINVAL', (p) => p.move('a', 'a', { count: 1 })],
    ['frees another’s page', 'EPERM', (p, m) => p.free(aPage(m), { as: 'eve' })],
    ['frees what is no allocation', 'EINVAL', (p) => p.free(toPfn(7))],
    [
      'a balloon that names a row',
      'EINVAL',
      (p, m) => {
        const balloon = m.addHolder({ class: 'balloon', name: 'balloon' });
        expect(m.alloc(balloon, toOrder(0), { pool: must(p.request('a')) })).toBe(-1);
        return { ok: false, error: m.lastRefusal as Refusal };
      },
    ],
    ['a class without managed frames', 'EINVAL', (p) => p.addHolder({ class: 'balloon', name: 'x', pool: 'a' })],
  ];
  for (const [name, errno, verb] of cases) {
    it(`PL9 ${name}: ${errno}`, () => {
      const m = boot(2);
      const p = pools(m);
      must(p.create(spec));
      must(p.create({ name: 'b', pages: 3000, owner: 'carl' }));
      must(p.create({ name: 'far', pages: 100, nodes: [1] }));
      take(m, holderOf(m, 'a', 'anonymous', 'alice'), 1000);
      for (const pool of m.pools) pool.alloc.drain(); // verbs may empty per-CPU lists
      const m2 = m.fork();
      const r = verb(p, m);
      expect(r).toMatchObject({ ok: false, error: { errno } });
      expect((r as { error: Refusal }).error.message.length).toBeGreaterThan(10);
      if (!name.includes('allocates') && !name.includes('balloon')) expect(m.digest()).toBe(m2.digest());
      expect(p.list()).toEqual(pools(m2).list());
      expect(m.check()).toEqual([]);
    });
  }
});

describe('memory blocks and pools', () => {
  /** Four blocks; the pool has frames of the first, some used. */
  const world = (cls: 'anonymous' | 'slab', spec: Partial<PoolSpec> = {}): { m: Machine; got: Pfn[] } => {
    const m = boot(1, 4);
    must(pools(m).create({ name: 'web', pages: 9000, ...spec }));
    return { m, got: take(m, holderOf(m, 'web', cls), 5000) };
  };
  const block0 = toBlockId(BASE / BLOCK);

  it('PL10 a block goes offline: its pools keep their size, their pages move inside the pool', () => {
    const { m } = world('anonymous', { min: 9000 });
    const before = must(pools(m).stat('web'));
    expect(must(m.offline(block0)).pages).toBe(BLOCK);
    expect(must(pools(m).stat('web'))).toEqual(before);
    expect(m.check()).toEqual([]);
    must(m.online(block0, 'online'));
    expect(m.check()).toEqual([]);
  });

  it('PL10 kernel pages of a pool stop it, and everything is as before', () => {
    const { m } = world('slab');
    const before = m.digest();
    const r = m.offline(block0);
    expect(r).toMatchObject({ ok: false, error: { errno: 'EBUSY' } });
    expect(m.digest()).toBe(before);
    expect(m.check()).toEqual([]);
  });

  it('PL10 a pinned page of a pool stops it, named; what was moved of the pool is its own again', () => {
    const { m, got } = world('anonymous');
    m.pin(got[17] as Pfn);
    const before = must(pools(m).stat('web'));
    expect(m.offline(block0)).toMatchObject({
      ok: false,
      error: { reason: 'pool-busy', blockers: [{ cause: 'pinned' }] },
    });
    expect(must(pools(m).stat('web'))).toEqual(before);
    expect(m.check()).toEqual([]);
  });

  it('PL10 no room for what was promised: ENOSPC names the pool', () => {
    const m = boot(1, 2);
    must(pools(m).create({ name: 'web', pages: 40000, min: 40000 }));
    const r = m.offline(block0);
    expect(r).toMatchObject({ ok: false, error: { errno: 'ENOSPC' } });
    expect((r as { error: Refusal }).error.message).toMatch(/pool web/);
    expect(m.check()).toEqual([]);
  });

  it('PL10 random worlds: blocks go and come with pools on them, step by step', () => {
    for (let seed = 1; seed <= 8; seed++) {
      const rng = new Prng(seed);
      const m = boot(2, 4, { placement: rng.pick(['address', 'lifo', 'fullest']) });
      const p = pools(m);
      const holders: HolderId[] = [];
      for (let k = 0; k < 4; k++) {
        must(p.create({ name: `p${k}`, pages: rng.below(30000), nodes: rng.chance(0.5) ? [0, 1] : [rng.below(2)] }));
        holders.push(holderOf(m, `p${k}`, rng.chance(0.8) ? 'anonymous' : 'slab'));
      }
      const held: Pfn[] = [];
      let done = 0;
      for (let k = 0; k < 40; k++) {
        for (let n = rng.below(3000); n > 0; n--) {
          const pfn = m.alloc(rng.pick(holders), toOrder(rng.chance(0.97) ? 0 : rng.below(10)));
          if (pfn !== -1) held.push(pfn);
        }
        const id = rng.pick(m.blockIds());
        const state = m.block(id)?.state;
        const sizes = p
          .list()
          .filter((s) => s.kind === 'user')
          .map((s) => [s.name, s.managed, s.used]);
        if (state === 'online') done += m.offline(id).ok ? 1 : 0;
        else if (state === 'offline') must(m.online(id, rng.pick(['online', 'movable'] as const)));
        const after = p
          .list()
          .filter((s) => s.kind === 'user')
          .map((s) => [s.name, s.managed, s.used]);
        expect(
          after.map((s) => [s[0], s[2]]),
          `seed=${seed} step ${k}`,
        ).toEqual(sizes.map((s) => [s[0], s[2]]));
        expect(m.check(), `seed=${seed} step ${k}`).toEqual([]);
      }
      expect(done, `seed=${seed}`).toBeGreaterThan(0);
    }
  }, 120_000);
});

describe('check speaks', () => {
  const world = (): { m: Machine; pool: Pool } => {
    const m = boot();
    must(pools(m).create({ name: 'a', pages: 4 * CHUNK, min: 100 }));
    must(pools(m).create({ name: 'b', pages: 4 * CHUNK }));
    take(m, holderOf(m, 'a', 'slab'), 10);
    must(pools(m).move('a', 'b', { count: 3 }));
    return { m, pool: m.pools.find((p) => p.name === 'a') as Pool };
  };
  const broken: readonly [string, RegExp, (w: { m: Machine; pool: Pool }) => void][] = [
    ['a frame of a pool that is none', /I1/, ({ m }) => void (m.owners.owner[9] = 77)],
    ['a pageblock that says shared and is not', /FO1/, ({ m }) => void (m.owners.owner[9] = -2)],
    ['a row for a pageblock that is not shared', /FO1/, ({ m }) => void m.owners.mixed.set(9, new Int16Array(512))],
    ['a label’s count', /I2/, ({ pool }) => void pool.labels.set(0, 5)],
    ['present', /I2/, ({ pool }) => void pool.present++],
    ['managed', /P1/, ({ pool }) => void pool.managed--],
    ['the highest zone', /I2/, ({ pool }) => void (pool.zone = 1)],
    ['a free block in two pools', /I4/, ({ m, pool }) => void m.owners.setOwner(pool.base + 1023, pool.base + 1024, 0)],
    [
      'a promise that is not kept',
      /I5/,
      ({ m, pool }) => void (poolTableOf(m).rows[pool.id] = { ...attrsOf(m, pool.id), min: 2 ** 20 }),
    ],
    [
      'a lease of frames that are another’s',
      /I6/,
      ({ m, pool }) =>
        void poolTableOf(m).leases.set(9, {
          id: 9,
          from: pool.id,
          to: pool.id + 1,
          principal: 'root',
          ranges: [{ start: toPfn(BASE), end: toPfn(BASE + 4) }],
          pages: 4,
        }),
    ],
    [
      'leases that go round',
      /I6.*circle/,
      ({ m, pool }) => {
        const lease = { id: 1, principal: 'root', ranges: [], pages: 0 };
        poolTableOf(m).leases.set(1, { ...lease, from: pool.id, to: pool.id + 1 });
        poolTableOf(m).leases.set(2, { ...lease, id: 2, from: pool.id + 1, to: pool.id });
      },
    ],
  ];
  for (const [name, rule, breakIt] of broken) {
    it(`PL11 ${name}`, () => {
      const w = world();
      expect(w.m.check()).toEqual([]);
      breakIt(w);
      expect(
        w.m
          .check()
          .map((v) => v.detail)
          .join('\n'),
      ).toMatch(rule);
    });
  }
});
