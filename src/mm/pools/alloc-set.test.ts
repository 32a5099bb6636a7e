// Sets by hand. Rules in docs/spec/pool-leases.md; random ones in alloc-set.fuzz.ts.

import { afterEach, describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import type { Refusal } from '../refusal.ts';
import { type Pools, pools } from './pools.ts';

const CHUNK = 1024;
const machines: Machine[] = [];

/** Nodes of 16 chunks each, in the Normal zone, without watermarks. */
function boot(nodes: number): { m: Machine; p: Pools } {
  const size = 32 * CHUNK; // a section
  const ram = Array.from({ length: nodes }, (_, k) => ({
    start: toPfn(2 ** 21 + k * size),
    end: toPfn(2 ** 21 + k * size + size / 2),
    node: toNodeId(k),
  }));
  const m = Machine.boot({ ram, watermarks: 'none', code: 'shared' });
  machines.push(m);
  return { m, p: pools(m) };
}

const must = <T>(r: { ok: true; value: T } | { ok: false; error: Refusal }): T => {
  if (!r.ok) throw new Error(`${r.error.errno}: ${r.error.message}`);
  return r.value;
};

const why = (r: { ok: true } | { ok: false; error: Refusal & { node: unknown } }): string =>
  r.ok ? 'ok' : `${r.error.errno} node ${r.error.node}`;

const holder = (m: Machine, name = 'text'): HolderId => m.addHolder({ class: 'anonymous', name });

/** Frame numbers from the start of the member's node. */
const offsets = (set: readonly { node: number; pfn: Pfn }[]): number[] =>
  set.map(({ node, pfn }) => pfn - 2 ** 21 - node * 32 * CHUNK);

/** Takes frames [start, end) of a node. */
function take(m: Machine, h: HolderId, node: number, start: number, end: number): void {
  const zone = m.poolNamed(toNodeId(node), 'Normal');
  const first = m.sections.indexOf(toPfn(2 ** 21 + node * 32 * CHUNK));
  for (let k = start; k < end; k++) {
    zone?.alloc.drain();
    const i = first + k - (zone?.base ?? 0);
    const head = zone?.alloc.area.headOf(i) ?? -1;
    const order = zone?.alloc.area.orderAt(head) ?? -1;
    zone?.alloc.take(head, order);
    for (let j = head; j < head + 2 ** order; j++) if (j !== i) zone?.alloc.put(j, 0);
    m.occupy(h, first + k, 0);
  }
  // What was put back singly joins again.
  const alone: number[] = [];
  zone?.alloc.area.forEachFree(0, zone.pages, (i, order) => void (order === 0 && alone.push(i)));
  for (const i of alone) {
    if (zone?.alloc.area.orderAt(i) !== 0) continue;
    zone.alloc.take(i, 0);
    zone.alloc.freeToArea(i, 0);
  }
}

afterEach(() => {
  for (const m of machines.splice(0)) expect(m.check()).toEqual([]);
});

describe('a set', () => {
  it('LS1 any: one allocation on each node, whatever the holder’s own node', () => {
    const { m, p } = boot(4);
    const h = holder(m);
    const set = must(p.allocSet({ on: [2, 0, 3, 1], holders: [h], order: toOrder(3), offset: 'any' }));
    expect(set.map((s) => s.node)).toEqual([2, 0, 3, 1]);
    expect(set.map(({ pfn }) => m.zoneAt(m.sections.indexOf(pfn))?.node)).toEqual([2, 0, 3, 1]);
    const members: number[][] = [];
    m.forEachFrameOf(h, (pfn, order, index) => void members.push([pfn, order, index]));
    expect(members).toEqual(set.map((s, k) => [s.pfn, 3, k]));
  });

  it('LS1 one holder for each member', () => {
    const { m, p } = boot(2);
    const holders = [holder(m, 'a'), holder(m, 'b')];
    const set = must(p.allocSet({ on: [0, 1], holders, order: toOrder(0), offset: 'same' }));
    expect(set.map(({ pfn }) => m.frame(pfn))).toMatchObject([{ name: 'a' }, { name: 'b' }]);
  });

  it('LS2 same: the lowest offset that is free on all of them', () => {
    const { m, p } = boot(3);
    const h = holder(m, 'others');
    take(m, h, 0, 0, 16);
    take(m, h, 1, 20, 21);
    take(m, h, 2, 24, 40);
    const replica = holder(m);
    const ask = (order: number): number[] =>
      offsets(must(p.allocSet({ on: [0, 1, 2], holders: [replica], order: toOrder(order), offset: 'same' })));
    expect(ask(3)).toEqual([40, 40, 40]); // 16-23 lacks 20 on node 1; 24-39 is node 2's
    expect(ask(2)).toEqual([16, 16, 16]);
    expect(ask(0)).toEqual([21, 21, 21]);
    expect(ask(1)).toEqual([22, 22, 22]);
    expect(ask(10)).toEqual([1024, 1024, 1024]);
  });

  it('LS2 same: members of pools and of nodes, at one offset from where the node begins', () => {
    const { m, p } = boot(2);
    must(p.create({ name: 'near', nodes: [1] }));
    const start = toPfn(2 ** 21 + 32 * CHUNK + 3 * CHUNK);
    must(p.move('node1-Normal', 'near', { range: { start, end: toPfn(start + 8) } }));
    const h = holder(m);
    const set = must(p.allocSet({ on: [0, 'near'], holders: [h], order: toOrder(3), offset: 'same' }));
    expect(offsets(set)).toEqual([3 * CHUNK, 3 * CHUNK]);
    expect(must(p.stat('near')).free).toBe(0);
  });

  it('LS2 same: pageblocks of the request’s own type first', () => {
    const { m, p } = boot(2);
    const zone = m.poolNamed(toNodeId(1), 'Normal');
    zone?.alloc.setPageblockType(0, 0); // Unmovable, on one node only
    const h = holder(m);
    expect(offsets(must(p.allocSet({ on: [0, 1], holders: [h], order: toOrder(0), offset: 'same' })))).toEqual([
      1024, 1024,
    ]); // the free chunk at 0 took the type as a whole
    const kernel = m.addHolder({ class: 'slab', name: 'kernel text' });
    const none = p.allocSet({ on: [0, 1], holders: [kernel], order: toOrder(0), offset: 'same' });
    expect(offsets(must(none))).toEqual([0, 0]); // none of its type on both: the lowest of any
  });

  it('LS3 all or none: members that were taken are given back, and the refusal names the node', () => {
    const { m, p } = boot(3);
    const h = holder(m, 'others');
    const last = Array.from({ length: 16 }, () => m.alloc(h, toOrder(10), { node: toNodeId(2), thisNode: true }));
    expect(last.every((pfn) => pfn >= 0)).toBe(true);
    const replica = holder(m);
    m.free(m.alloc(replica, toOrder(4)) as Pfn); // its first page makes a holder's tables
    const before = m.digest();
    const any = p.allocSet({ on: [0, 1, 2], holders: [replica], order: toOrder(4), offset: 'any' });
    const same = p.allocSet({ on: [0, 1, 2], holders: [replica], order: toOrder(4), offset: 'same' });
    expect([why(any), why(same)]).toEqual(['ENOMEM node 2', 'ENOMEM node 2']);
    expect(m.digest()).toBe(before);
  });

  it('LS3 same: the node that failed is the first that has nothing in common with those before it', () => {
    const { m, p } = boot(3);
    const h = holder(m, 'others');
    for (let k = 0; k < 16; k++) {
      take(m, h, 0, k * CHUNK, k * CHUNK + 1);
      if (k > 4) take(m, h, 1, k * CHUNK + 1, k * CHUNK + 2);
    }
    for (let k = 0; k < 5; k++) take(m, h, 2, k * CHUNK + 512, k * CHUNK + 513);
    const replica = holder(m);
    const ask = (on: number[]): string =>
      why(p.allocSet({ on, holders: [replica], order: toOrder(9), offset: 'same' }));
    expect(ask([0, 1])).toBe('ok'); // the upper half of chunk 0
    expect(ask([0, 1, 2])).toBe('ok'); // of chunk 5: node 1 lacks its lower half
    expect(why(p.allocSet({ on: [0, 1, 2], holders: [replica], order: toOrder(10), offset: 'same' }))).toBe(
      'ENOMEM node 0',
    );
    expect(why(p.allocSet({ on: [1, 0, 2], holders: [replica], order: toOrder(10), offset: 'same' }))).toBe(
      'ENOMEM node 0',
    );
  });

  it('LS3 a fallback to another node does not count', () => {
    const { m, p } = boot(2);
    must(p.create({ name: 'near', nodes: [1], pages: 8 }));
    must(p.setFallback('near', 'node0', 1));
    const h = must(p.addHolder({ class: 'anonymous', name: 'x', pool: 'near' }));
    for (let k = 0; k < 8; k++) m.alloc(h, toOrder(0));
    const replica = holder(m);
    const before = m.zones.map((z) => z.alloc.nrFree() + z.alloc.pcpPages());
    const ask = (offset: 'any' | 'same'): string =>
      why(p.allocSet({ on: [0, 'near'], holders: [replica], order: toOrder(0), offset }));
    expect([ask('any'), ask('same')]).toEqual(['ENOMEM node 1', 'ENOMEM node 1']);
    expect(m.zones.map((z) => z.alloc.nrFree() + z.alloc.pcpPages())).toEqual(before);
    expect(m.holders.members[replica]).toBe(0);
  });

  it('LS4 wrong requests', () => {
    const { m, p } = boot(2);
    must(p.create({ name: 'mine', nodes: [0], pages: 64, owner: 'alice' }));
    must(p.create({ name: 'wide', nodes: [0, 1] }));
    for (const zone of ['node0-Normal', 'node1-Normal']) must(p.move(zone, 'wide', { count: 8 }));
    const h = holder(m);
    const balloon = m.addHolder({ class: 'balloon', name: 'balloon' });
    const before = m.digest();
    const ask = (on: (number | string)[], as = 'root', holders = [h]): string => {
      const r = p.allocSet({ on, holders, order: toOrder(0), offset: 'same' }, { as });
      return r.ok ? 'ok' : r.error.errno;
    };
    expect([ask([]), ask([0, 0]), ask([0, 'mine']), ask([0, 1], 'root', [h, h, h]), ask(['wide'])]).toEqual(
      Array(5).fill('EINVAL'),
    );
    expect([ask([7]), ask(['nobody'])]).toEqual(['ENOENT', 'ENOENT']);
    expect([ask(['mine'], 'bob'), ask([0], 'alice')]).toEqual(['EPERM', 'EPERM']);
    expect(ask(['mine'], 'root', [balloon])).toBe('EINVAL');
    expect(m.digest()).toBe(before);
    expect(ask(['mine'], 'alice')).toBe('ok');
  });

  it('LS5 same: a pool’s min is kept from others, a zone’s mark from all', () => {
    const { m, p } = boot(2);
    must(p.create({ name: 'mine', nodes: [1], pages: 64, min: 60, owner: 'alice', perms: { bob: ['alloc'] } }));
    const h = holder(m);
    const ask = (as: string): string =>
      why(p.allocSet({ on: ['mine'], holders: [h], order: toOrder(0), offset: 'same' }, { as }));
    expect([1, 2, 3, 4, 5].map(() => ask('bob'))).toEqual(['ok', 'ok', 'ok', 'ok', 'ENOMEM node 1']);
    expect(ask('alice')).toBe('ok');
  });
});
