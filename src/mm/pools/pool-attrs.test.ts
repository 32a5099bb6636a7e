// Attributes of pools: what may be changed, by whom, and what follows.

import { describe, expect, it } from 'vitest';
import { toNodeId, toPfn } from '#base/units';
import { BASE, BLOCK, boot, must, poolOf } from './pools.cases.ts';
import { type AttrChange, type MoveWhat, type PoolSpec, pools } from './pools.ts';

describe('attributes', () => {
  const contradictions: readonly [string, Partial<PoolSpec>][] = [
    ['a range that ends before it begins', { ranges: [{ start: toPfn(9), end: toPfn(3) }] }],
    ['no range at all', { ranges: [] }],
    [
      'ranges that are not in order',
      {
        ranges: [
          { start: toPfn(BASE + 9), end: toPfn(BASE + 12) },
          { start: toPfn(BASE), end: toPfn(BASE + 10) },
        ],
      },
    ],
    ['no zone', { zones: [] }],
    ['half a node', { nodes: [0.5] }],
    ['permissions that are no list', { perms: { bob: 'alloc' as never } }],
    ['a max that is no number', { max: Number.NaN }],
    ['a class that is none', { class: 'fast' as never }],
    ['nobody as its owner', { owner: '' }],
    ['a min of half a page', { min: 0.5 }],
  ];
  it.each(contradictions)('PL15 create with %s: EINVAL', (_what, more) => {
    const m = boot();
    const before = m.digest();
    expect(pools(m).create({ name: 'x', pages: 10, ...more })).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });
    expect(m.digest()).toBe(before);
    expect(m.pools.length).toBe(m.zones.length);
  });

  const moves: readonly [string, MoveWhat][] = [
    ['a chunk that is no number', { chunks: [Number.NaN] }],
    ['half a chunk', { chunks: [1024.5] }],
    ['a chunk below 0', { chunks: [-1] }],
    ['a range that is empty', { range: { start: toPfn(BASE), end: toPfn(BASE) } }],
    ['a range below 0', { range: { start: toPfn(-9), end: toPfn(3) } }],
    ['a count below 0', { count: -1 }],
  ];
  it.each(moves)('PL15 move of %s: EINVAL', (_what, what) => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 100 }));
    must(p.create({ name: 'b', pages: 100 }));
    const before = m.digest();
    expect(p.move('a', 'b', what)).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });
    expect(m.digest()).toBe(before);
  });

  const ofZones: readonly AttrChange[] = [
    { min: 1 },
    { low: 1 },
    { max: 1 },
    { class: 'realtime' },
    { nodes: [0] },
    { cpus: [0] },
  ];
  it.each(ofZones)('PL15 a zone has what memory hotplug gives it: %o is EINVAL', (change) => {
    const m = boot();
    expect(pools(m).setattr('node0-Normal', change)).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });
    must(pools(m).setattr('node0-Normal', { priority: 3, perms: { bob: ['donate'] } }));
    expect(m.check()).toEqual([]);
  });

  it('PL15 masks are sets; the first node is home', () => {
    const m = boot(2, 4, { cpus: 4 });
    const p = pools(m);
    must(p.create({ name: 'a', pages: 0, nodes: [0, 0], cpus: [3, 1, 3] }));
    expect(must(p.stat('a'))).toMatchObject({ nodes: [0], cpus: [1, 3] });
    must(p.setattr('a', { nodes: [1, 0, 1] }));
    expect(must(p.stat('a')).nodes).toEqual([1, 0]);
    expect(poolOf(m, 'a').node).toBe(1);
    expect(m.fork().digest()).toBe(m.digest());
  });

  it('PL15 a pool that names a node which is gone can still be changed', () => {
    const m = boot(2, 2, {
      nodeCpus: new Map([
        [toNodeId(0), 1],
        [toNodeId(1), 0],
      ]),
    });
    const p = pools(m);
    must(p.create({ name: 'a', pages: 100, nodes: [0, 1] }));
    for (const id of m.blockIds()) if (m.block(id)?.node === 1) must(m.offline(id));
    must(m.removeMemory({ start: toPfn(BASE + 2 * BLOCK), end: toPfn(BASE + 4 * BLOCK) }));
    expect(m.nodes).toEqual([0]);
    must(p.setattr('a', { priority: 9, min: 50 }));
    expect(must(p.stat('a')).nodes).toEqual([0, 1]);
    expect(p.setattr('a', { nodes: [0, 1] })).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });
    must(p.resize('a', 200));
    expect(m.check()).toEqual([]);
  });

  it('PL15 a pool with loans does not become one that lends or borrows nothing', () => {
    const m = boot();
    const p = pools(m);
    must(p.create({ name: 'a', pages: 1000 }));
    must(p.create({ name: 'b', pages: 0 }));
    const lease = must(p.borrow({ from: 'a', to: 'b', pages: 10 }));
    for (const cls of ['realtime', 'guaranteed', 'dma'] as const) {
      expect(p.setattr('a', { class: cls })).toMatchObject({ ok: false, error: { errno: 'EBUSY' } });
    }
    expect(p.setattr('b', { class: 'realtime' })).toMatchObject({ ok: false, error: { errno: 'EBUSY' } });
    must(p.setattr('b', { class: 'guaranteed' })); // it has borrowed, and lends nothing
    must(p.reclaim(lease.id));
    must(p.setattr('a', { class: 'realtime' }));
    expect(m.check()).toEqual([]);
  });
});
