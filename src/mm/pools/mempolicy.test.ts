// Memory policies by hand. Rules in docs/spec/pool-policies.md; random ones in mempolicy.fuzz.ts.

import { afterEach, describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toHolderId, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import type { Refusal } from '../refusal.ts';
import { allocByPolicy, type Mempolicy, mempolicyOf, pagesByPool, setMempolicy, settleByPolicy } from './mempolicy.ts';
import { type Pools, pools } from './pools.ts';

const NODE_PAGES = 32768; // 128 MiB
const machines: Machine[] = [];

/** Four nodes, each with a pool of 1000 pages: p0 to p3. Nodes begin at 4 GiB, so that each is one zone, Normal. */
function four(watermarks: 'none' | undefined = 'none'): { m: Machine; p: Pools; job: HolderId } {
  const first = 2 ** 20;
  const m = Machine.boot({
    ram: [0, 1, 2, 3].map((n) => ({
      start: toPfn(first + n * NODE_PAGES),
      end: toPfn(first + (n + 1) * NODE_PAGES),
      node: toNodeId(n),
    })),
    code: 'shared',
    ...(watermarks === undefined ? {} : { watermarks }),
  });
  machines.push(m);
  const p = pools(m);
  for (const n of [0, 1, 2, 3]) must(p.create({ name: `p${n}`, pages: 1000, nodes: [n] }));
  return { m, p, job: m.addHolder({ class: 'anonymous', name: 'job' }) };
}

const must = <T>(r: { ok: true; value: T } | { ok: false; error: Refusal }): T => {
  if (!r.ok) throw new Error(`${r.error.errno}: ${r.error.message}`);
  return r.value;
};

const why = (r: { ok: true } | { ok: false; error: Refusal }): string =>
  r.ok ? 'ok' : `${r.error.errno} ${r.error.reason}`;

const take = (m: Machine, job: HolderId, count: number, order = 0): Pfn[] =>
  Array.from({ length: count }, () => must(allocByPolicy(m, job, toOrder(order))));

const where = (m: Machine, pfn: Pfn): string => {
  const f = m.frame(pfn);
  return f.state === 'used' ? f.pool.name : f.state;
};

const by = (m: Machine, job: HolderId): Record<string, number> => Object.fromEntries(pagesByPool(m, job));

afterEach(() => {
  for (const m of machines.splice(0)) expect(m.check()).toEqual([]);
});

describe('where an allocation comes from', () => {
  it('MP1 bind: the pools of the list in order, and nowhere else', () => {
    const { m, p, job } = four();
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p2', 'p0'] }));
    take(m, job, 1500);
    expect(by(m, job)).toEqual({ p2: 1000, p0: 500 });
    take(m, job, 500);
    expect(why(allocByPolicy(m, job, toOrder(0)))).toBe('ENOMEM no-memory');
    must(p.setFallback('p2', 'p1', 1));
    must(p.setFallback('p0', 'node3', 1));
    expect(why(allocByPolicy(m, job, toOrder(0)))).toBe('ENOMEM no-memory');
    expect(by(m, job)).toEqual({ p2: 1000, p0: 1000 });
    expect(m.holders.pages[job]).toBe(2000);
  });

  it('MP2 preferred: the pools in order, then what an ordinary request on the first pool’s node gets', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'preferred', pools: ['p2', 'p1'] }));
    take(m, job, 2100);
    expect(by(m, job)).toEqual({ p2: 1000, p1: 1000, 'node2-Normal': 100 });
  });

  it('MP3 interleave: one after the other, in the order of the list', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'interleave', pools: ['p1', 'p3', 'p0'] }));
    expect(take(m, job, 7).map((pfn) => where(m, pfn))).toEqual(['p1', 'p3', 'p0', 'p1', 'p3', 'p0', 'p1']);
  });

  it('MP3 weighted: as many in a row as the weight says; large allocations count as one, like Linux’s', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'weighted-interleave', pools: ['p0', 'p1'], weights: [5, 2] }));
    const first = take(m, job, 9).map((pfn) => where(m, pfn));
    expect(first.join(' ')).toBe('p0 p0 p0 p0 p0 p1 p1 p0 p0');
    const large = take(m, job, 6, 2).map((pfn) => where(m, pfn));
    expect(large.join(' ')).toBe('p0 p0 p0 p1 p1 p0');
  });

  it('MP3 a pool that is full passes its turn on; when all are, it is as with preferred', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'interleave', pools: ['p0', 'p1'] }));
    const other = m.addHolder({ class: 'slab', name: 'other' });
    must(setMempolicy(m, other, { mode: 'bind', pools: ['p1'] }));
    take(m, other, 990);
    take(m, job, 1010);
    expect(by(m, job)).toEqual({ p0: 1000, p1: 10 });
    take(m, job, 2);
    expect(by(m, job)).toEqual({ p0: 1000, p1: 10, 'node0-Normal': 1, 'node1-Normal': 1 });
  });

  it('MP4 a node is a pool too: its zones, and nothing of what was carved out of them', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'interleave', pools: ['node1', 'p1'] }));
    take(m, job, 10);
    expect(by(m, job)).toEqual({ 'node1-Normal': 5, p1: 5 });
    must(setMempolicy(m, job, { mode: 'bind', pools: ['node2'] }));
    take(m, job, NODE_PAGES - 1000);
    expect(why(allocByPolicy(m, job, toOrder(0)))).toBe('ENOMEM no-memory');
    expect(by(m, job)['node2-Normal']).toBe(NODE_PAGES - 1000);
  });

  it.each([
    ['no pool', { mode: 'bind', pools: [] }, 'EINVAL bad-argument'],
    ['a pool twice', { mode: 'interleave', pools: ['p0', 'p0'] }, 'EINVAL bad-argument'],
    ['no such pool', { mode: 'bind', pools: ['p0', 'p9'] }, 'ENOENT no-such-pool'],
    ['no such node', { mode: 'bind', pools: ['node9'] }, 'ENOENT no-such-pool'],
    ['too few weights', { mode: 'weighted-interleave', pools: ['p0', 'p1'], weights: [1] }, 'EINVAL bad-argument'],
    ['a weight of 0', { mode: 'weighted-interleave', pools: ['p0'], weights: [0] }, 'EINVAL bad-argument'],
    ['a weight of 256', { mode: 'weighted-interleave', pools: ['p0'], weights: [256] }, 'EINVAL bad-argument'],
  ] as const)('MP5 a policy with %s is refused, and the old one stays', (_what, policy: Mempolicy, refused) => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p3'] }));
    expect(why(setMempolicy(m, job, policy))).toBe(refused);
    expect(mempolicyOf(m, job)).toEqual({ mode: 'bind', pools: ['p3'] });
  });

  it('MP5 without a policy, a holder, permission, or the pool, requests and settling are refused', () => {
    const { m, p, job } = four();
    expect(why(allocByPolicy(m, job, toOrder(0)))).toBe('EINVAL bad-argument');
    expect(why(settleByPolicy(m, job))).toBe('EINVAL bad-argument');
    const bind: Mempolicy = { mode: 'bind', pools: ['p0'] };
    expect(why(setMempolicy(m, toHolderId(999), bind))).toBe('EINVAL bad-argument');
    expect(why(setMempolicy(m, m.addHolder({ class: 'balloon', name: 'b' }), bind))).toBe('EINVAL bad-argument');
    expect(why(setMempolicy(m, job, bind, { as: 'web' }))).toBe('EPERM permission');
    must(setMempolicy(m, job, bind));
    expect(why(settleByPolicy(m, job, { atMost: 0 }))).toBe('EINVAL bad-argument');
    must(p.destroy('p0'));
    expect([why(allocByPolicy(m, job, toOrder(0))), why(settleByPolicy(m, job))]).toEqual([
      'ENOENT no-such-pool',
      'ENOENT no-such-pool',
    ]);
  });

  it('MP6 copies of a machine have its policies, with their counters', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'interleave', pools: ['p0', 'p1', 'p2'] }));
    take(m, job, 1);
    const copy = m.fork();
    machines.push(copy);
    expect(take(copy, job, 2).map((pfn) => where(copy, pfn))).toEqual(['p1', 'p2']);
    must(setMempolicy(copy, job, { mode: 'bind', pools: ['p3'] }));
    expect(take(m, job, 2).map((pfn) => where(m, pfn))).toEqual(['p1', 'p2']);
  });
});

describe('a tweak while running', () => {
  it('MP7 a changed policy moves nothing by itself; settle moves what lies wrong, at most atMost pages a call', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p0'] }));
    take(m, job, 700);
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p2'] }));
    expect(by(m, job)).toEqual({ p0: 700 });
    expect(must(settleByPolicy(m, job, { atMost: 300 }))).toEqual({ moved: 300, left: 400, stay: [] });
    expect(must(settleByPolicy(m, job, { atMost: 300 }))).toEqual({ moved: 300, left: 100, stay: [] });
    expect(must(settleByPolicy(m, job, { atMost: 300 }))).toEqual({ moved: 100, left: 0, stay: [] });
    expect(must(settleByPolicy(m, job))).toEqual({ moved: 0, left: 0, stay: [] });
    expect([by(m, job), m.vmstat.pgmigrate_success]).toEqual([{ p2: 700 }, 700]);
  });

  it('MP8 new weights reach pages that are there: each goes to the pool of its index', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'weighted-interleave', pools: ['p0', 'p1'], weights: [3, 1] }));
    take(m, job, 400);
    expect(by(m, job)).toEqual({ p0: 300, p1: 100 });
    must(setMempolicy(m, job, { mode: 'weighted-interleave', pools: ['p0', 'p1'], weights: [1, 1] }));
    // 0 0 0 1 becomes 0 1 0 1: a quarter moves, which is the least that can.
    expect(must(settleByPolicy(m, job))).toMatchObject({ moved: 100, left: 0 });
    expect(by(m, job)).toEqual({ p0: 200, p1: 200 });
    const turns: string[] = [];
    m.forEachFrameOf(job, (pfn) => void turns.push(where(m, pfn)));
    expect(turns.slice(0, 6)).toEqual(['p0', 'p1', 'p0', 'p1', 'p0', 'p1']);
  });

  it('MP8 where a holder has grown under its policy from nothing, nothing lies wrong', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'weighted-interleave', pools: ['p3', 'p1', 'p0'], weights: [4, 1, 2] }));
    take(m, job, 999);
    expect(must(settleByPolicy(m, job))).toEqual({ moved: 0, left: 0, stay: [] });
  });

  it('MP8 bind and preferred are content with any pool of the list', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'interleave', pools: ['p0', 'p1', 'p2'] }));
    take(m, job, 300);
    must(setMempolicy(m, job, { mode: 'preferred', pools: ['p1', 'p0'] }));
    expect(must(settleByPolicy(m, job))).toMatchObject({ moved: 100, left: 0 });
    expect(by(m, job)).toEqual({ p0: 100, p1: 200 });
  });

  it('MP9 a pinned page is passed over, named, and comes with a later call', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p0'] }));
    const pages = take(m, job, 100);
    m.pin(pages[7] as Pfn);
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p1'] }));
    const first = must(settleByPolicy(m, job));
    expect(first).toMatchObject({ moved: 99, left: 1, stay: [{ cause: 'pinned', holder: job, name: 'job' }] });
    const again = settleByPolicy(m, job);
    expect(why(again)).toBe('EBUSY pool-busy');
    if (!again.ok) expect(again.error.blockers).toMatchObject([{ startPfn: pages[7], cause: 'pinned' }]);
    m.unpin(pages[7] as Pfn);
    expect(must(settleByPolicy(m, job))).toEqual({ moved: 1, left: 0, stay: [] });
  });

  it('MP9 so are pages that find no room; kernel pages never move', () => {
    const { m, p, job } = four();
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p0'] }));
    take(m, job, 100);
    must(p.resize('p1', 60));
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p1'] }));
    expect(must(settleByPolicy(m, job))).toMatchObject({ moved: 60, left: 40, stay: [{ cause: 'no-target' }] });
    must(p.resize('p1', 200));
    expect(must(settleByPolicy(m, job))).toMatchObject({ moved: 40, left: 0 });
    const kernel = m.addHolder({ class: 'slab', name: 'kernel' });
    must(setMempolicy(m, kernel, { mode: 'bind', pools: ['p2'] }));
    take(m, kernel, 3);
    must(setMempolicy(m, kernel, { mode: 'bind', pools: ['p3'] }));
    const refused = settleByPolicy(m, kernel);
    expect(why(refused)).toBe('EBUSY pool-busy');
    if (!refused.ok) expect(refused.error.blockers).toMatchObject([{ cause: 'unmovable', name: 'kernel' }]);
  });

  it('MP10 what a pool keeps for its owner is not taken, nor are its watermarks; a large page is not split', () => {
    const { m, p, job } = four(undefined);
    must(p.create({ name: 'kept', pages: 1000, nodes: [1], min: 400, owner: 'web', perms: { hpc: ['alloc'] } }));
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p0'] }));
    take(m, job, 700);
    must(setMempolicy(m, job, { mode: 'bind', pools: ['kept'] }, { as: 'hpc' }));
    const settled = must(settleByPolicy(m, job, { atMost: 5000 }));
    expect(settled.moved).toBe(600);
    const big = m.addHolder({ class: 'anonymous', name: 'big' });
    must(setMempolicy(m, big, { mode: 'bind', pools: ['p2'] }));
    take(m, big, 1, 8);
    const sand = m.addHolder({ class: 'slab', name: 'sand' });
    must(setMempolicy(m, sand, { mode: 'bind', pools: ['p3'] }));
    const grains = take(m, sand, 900);
    grains.forEach((pfn, k) => {
      if (k % 100 !== 0) m.free(pfn);
    });
    must(setMempolicy(m, big, { mode: 'bind', pools: ['p3'] }));
    expect(why(settleByPolicy(m, big))).toBe('EBUSY pool-busy');
    expect(m.holders.members[big]).toBe(1);
  });

  it('MP10 an allocation larger than atMost moves alone', () => {
    const { m, job } = four();
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p0'] }));
    take(m, job, 3, 6);
    must(setMempolicy(m, job, { mode: 'bind', pools: ['p1'] }));
    expect(must(settleByPolicy(m, job, { atMost: 10 }))).toEqual({ moved: 64, left: 128, stay: [] });
  });
});
