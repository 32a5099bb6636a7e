// Replicas by hand. Rules in docs/spec/replicas.md; random ones in replica.fuzz.ts.

import { afterEach, describe, expect, it } from 'vitest';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import type { Refusal } from '../refusal.ts';
import { pools } from './pools.ts';
import { checkReplicas, type ReplicaSpec, type Replicas, replicas } from './replica.ts';

const SECTION = 32768;
const machines: Machine[] = [];

/** Nodes of one memory block each, in a row: a node is 10 away from itself, and 10 more for each step. */
function boot(nodes: number, contents: 'bytes' | 'tag' = 'bytes'): { m: Machine; r: Replicas } {
  const ram = Array.from({ length: nodes }, (_, k) => ({
    start: toPfn(2 ** 21 + k * SECTION),
    end: toPfn(2 ** 21 + (k + 1) * SECTION),
    node: toNodeId(k),
  }));
  const distance = ram.map((_, a) => ram.map((__, b) => 10 + 10 * Math.abs(a - b)));
  const m = Machine.boot({ ram, distance, watermarks: 'none', contents, code: 'shared', blockSize: 2 ** 27 });
  machines.push(m);
  return { m, r: replicas(m) };
}

const must = <T>(x: { ok: true; value: T } | { ok: false; error: Refusal }): T => {
  if (!x.ok) throw new Error(`${x.error.errno}: ${x.error.message}`);
  return x.value;
};

const why = (x: { ok: true } | { ok: false; error: Refusal & { node?: unknown } }): string =>
  x.ok ? 'ok' : `${x.error.errno} ${x.error.reason}${x.error.node === undefined ? '' : ` node ${x.error.node}`}`;

const libc = (r: Replicas, on: readonly (number | string)[], rest: Partial<ReplicaSpec> = {}): number =>
  must(r.create({ name: 'libc', on, onWrite: 'update', ...rest }));

/** Nodes that have a copy of a page. */
const where = (r: Replicas, id: number, page: number): number[] => r.copiesOf(id, page).map((c) => c.node);

/** First byte of each copy. */
const bytes = (m: Machine, r: Replicas, id: number, page: number): number[] =>
  r.copiesOf(id, page).map((c) => m.read(c.pfn)[0] as number);

const freeOn = (m: Machine, node: number): number =>
  m.zones.filter((z) => z.node === node).reduce((n, z) => n + z.alloc.nrFree() + z.alloc.pcpPages(), 0);

/** Takes all frames of a node but `left`. */
function fill(m: Machine, node: number, left = 0): void {
  const h = m.addHolder({ class: 'anonymous', name: 'others', node: toNodeId(node) });
  while (freeOn(m, node) > left) m.alloc(h, toOrder(0), { node: toNodeId(node), thisNode: true });
}

const BYTE = (x: number): Uint8Array => Uint8Array.of(x);

afterEach(() => {
  for (const m of machines.splice(0)) {
    expect(m.check()).toEqual([]);
    expect(checkReplicas(m)).toEqual([]);
  }
});

describe('reads and writes', () => {
  it('RP4 the nearest copy', () => {
    const { r } = boot(4);
    const id = libc(r, [0, 3]);
    const [page] = must(r.add(id, 1));
    const at = (node: number): unknown[] => {
      const found = must(r.read(id, page, node));
      return [found.node, found.distance];
    };
    expect([0, 1, 2, 3].map(at)).toEqual([
      [0, 10],
      [0, 20],
      [3, 20],
      [3, 10],
    ]);
    expect(r.stat(id)).toMatchObject({ pages: 1, copies: 2, reads: 4, farReads: 2 });
  });

  it('RP6 RP1 update: a write goes to all copies', () => {
    const { m, r } = boot(4);
    const id = libc(r, [0, 1, 2, 3]);
    const [a, b] = must(r.add(id, 2));
    expect(must(r.write(id, a, 2, 0, BYTE(7)))).toEqual({ written: 4, dropped: 0 });
    expect([bytes(m, r, id, a), bytes(m, r, id, b)]).toEqual([
      [7, 7, 7, 7],
      [0, 0, 0, 0],
    ]);
  });

  it('RP6 RP1 collapse: only the writer’s copy stays, and others get theirs from it', () => {
    const { m, r } = boot(4);
    const id = libc(r, [0, 1, 2, 3], { onWrite: 'collapse' });
    const [page] = must(r.add(id, 1));
    expect(must(r.write(id, page, 2, 0, BYTE(9)))).toEqual({ written: 1, dropped: 3 });
    expect(where(r, id, page)).toEqual([2]);
    expect(must(r.replicate(id, page))).toBe(3);
    expect(bytes(m, r, id, page)).toEqual([9, 9, 9, 9]);
    expect(must(r.collapse(id, page, 1))).toBe(3);
    expect([where(r, id, page), r.stat(id).dropped]).toEqual([[1], 6]);
  });

  it('RP5 the n-th distant read makes copies; without room it does without, and tries again later', () => {
    const { m, r } = boot(2);
    const id = libc(r, [0, 1], { replicateAfter: 3 });
    const [page] = must(r.add(id, 1, 'home'));
    must(r.write(id, page, 0, 0, BYTE(5)));
    fill(m, 1);
    for (let k = 0; k < 3; k++) expect(must(r.read(id, page, 1)).node).toBe(0);
    expect([r.stat(id).refused, where(r, id, page)]).toEqual([1, [0]]);
    m.free(toPfn(2 ** 21 + SECTION + 77)); // one of the others'
    expect([must(r.read(id, page, 1)).node, must(r.read(id, page, 1)).node]).toEqual([0, 0]);
    must(r.write(id, page, 0, 0, BYTE(6))); // counts from here
    expect([0, 1].map(() => must(r.read(id, page, 1)).node)).toEqual([0, 0]);
    expect(must(r.read(id, page, 1))).toMatchObject({ node: 1, distance: 10 });
    expect(bytes(m, r, id, page)).toEqual([6, 6]);
    expect(r.stat(id)).toMatchObject({ refused: 1, copied: 1 });
  });
});

describe('all or nothing', () => {
  it('RP2 add: one node lacks a frame, and no page is made', () => {
    const { m, r } = boot(3);
    const id = libc(r, [0, 1, 2]);
    fill(m, 2, 5);
    const before = [0, 1, 2].map((n) => freeOn(m, n));
    expect(why(r.add(id, 6))).toBe('ENOMEM no-memory node 2');
    expect([0, 1, 2].map((n) => freeOn(m, n))).toEqual(before);
    expect(r.stat(id)).toMatchObject({ pages: 0, copies: 0 });
    expect(must(r.add(id, 5)).length).toBe(5);
  });

  it('RP2 RP7 migrate: the last of many targets is missing, and nothing has moved', () => {
    const { m, r } = boot(3);
    const id = libc(r, [0, 1, 2]);
    const pages = must(r.add(id, 10, 'home'));
    for (const p of pages) must(r.write(id, p, 0, 0, BYTE(p + 1)));
    fill(m, 2, 9);
    const moves = pages.map((page) => ({ page, from: 0, to: 2 }));
    const before = [0, 1, 2].map((n) => freeOn(m, n));
    expect(why(r.migrate(id, moves))).toBe('ENOMEM no-memory node 2');
    expect([0, 1, 2].map((n) => freeOn(m, n))).toEqual(before);
    expect(pages.map((p) => where(r, id, p))).toEqual(pages.map(() => [0]));
    expect(must(r.migrate(id, moves.slice(1)))).toBe(9);
    expect(pages.map((p) => [...where(r, id, p), ...bytes(m, r, id, p)])).toEqual(
      pages.map((p) => [p === pages[0] ? 0 : 2, p + 1]),
    );
    expect(freeOn(m, 2)).toBe(0);
  });

  it('RP7 where there is a copy already, the source is given back; moves that contradict each other are refused', () => {
    const { r } = boot(3);
    const id = libc(r, [0, 1, 2]);
    const [page] = must(r.add(id, 1));
    expect(must(r.migrate(id, [{ page, from: 0, to: 1 }]))).toBe(0);
    expect(where(r, id, page)).toEqual([1, 2]);
    const chain = [
      { page, from: 1, to: 0 },
      { page, from: 2, to: 1 },
    ];
    expect(why(r.migrate(id, chain))).toBe('EINVAL bad-argument');
    expect(where(r, id, page)).toEqual([1, 2]);
    expect([
      why(r.migrate(id, [{ page, from: 0, to: 1 }])), // it has none there
      why(r.migrate(id, [{ page, from: 1, to: 5 }])),
      why(r.migrate(id, [{ page: 99, from: 1, to: 0 }])),
      why(r.migrate(id, [{ page, from: 1, to: 1 }])),
    ]).toEqual(Array(4).fill('EINVAL bad-argument'));
  });
});

describe('what others do', () => {
  it('RP3 an offline moves copies to another node: they are found there, and read from there', () => {
    const { m, r } = boot(3);
    const id = libc(r, [0, 1, 2]);
    const pages = must(r.add(id, 20));
    for (const p of pages) must(r.write(id, p, 0, 0, BYTE(p + 100)));
    must(m.offline(toBlockId((2 ** 21 + SECTION) / SECTION))); // all of node 1
    for (const p of pages) {
      expect(must(r.read(id, p, 1)).distance).toBe(20);
      expect(bytes(m, r, id, p)).toEqual([p + 100, p + 100, p + 100]);
    }
    expect(r.stat(id).copies).toBe(60);
  });

  it('RP3 a copy that somebody freed is a copy less, also after its slot went to another page; the last one is missed', () => {
    const { m, r } = boot(2);
    const id = libc(r, [0, 1]);
    const [a] = must(r.add(id, 1));
    must(r.write(id, a, 0, 0, BYTE(3)));
    m.free(r.copiesOf(id, a)[1].pfn);
    expect(where(r, id, a)).toEqual([0]);
    const [b] = must(r.add(id, 1)); // takes the slot over
    must(r.write(id, b, 0, 0, BYTE(4)));
    expect([where(r, id, a), bytes(m, r, id, a), bytes(m, r, id, b)]).toEqual([[0], [3], [4, 4]]);
    expect(must(r.replicate(id, a))).toBe(1);
    expect(bytes(m, r, id, a)).toEqual([3, 3]);
    for (const c of r.copiesOf(id, b)) m.free(c.pfn);
    expect([
      why(r.read(id, b, 0)),
      why(r.write(id, b, 0, 0, BYTE(1))),
      why(r.replicate(id, b)),
      why(r.collapse(id, b, 0)),
    ]).toEqual(Array(4).fill('EINVAL bad-argument'));
    expect(checkReplicas(m)).toEqual(['RP3 page 1 of libc has no copy']);
    must(r.remove(id, b));
    expect(why(r.remove(id, b))).toBe('EINVAL bad-argument');
  });

  it('RP8 a node that is short gets its copies back, but no page is lost', () => {
    const { m, r } = boot(2);
    const id = libc(r, [0, 1]);
    const both = must(r.add(id, 8));
    must(r.migrate(id, [{ page: both[3], from: 0, to: 1 }]));
    const before = freeOn(m, 1);
    expect([r.shed(id, 1, 2), r.shed(id, 1), r.shed(id, 1), r.shed(id, 9)]).toEqual([2, 5, 0, 0]);
    expect(freeOn(m, 1)).toBe(before + 7);
    expect(both.map((p) => where(r, id, p))).toEqual(both.map((p) => (p === both[3] ? [1] : [0])));
  });

  it('RP10 a fork has the replicas of its machine, and its own from then on', () => {
    const { m, r } = boot(2);
    const id = libc(r, [0, 1], { onWrite: 'collapse' });
    const [page] = must(r.add(id, 1));
    must(r.write(id, page, 0, 0, BYTE(1)));
    const fork = m.fork();
    machines.push(fork);
    const other = replicas(fork);
    must(other.replicate(id, page));
    must(other.write(id, page, 1, 0, BYTE(2)));
    expect([where(r, id, page), bytes(m, r, id, page)]).toEqual([[0], [1]]);
    expect([where(other, id, page), bytes(fork, other, id, page)]).toEqual([[1], [2]]);
  });

  it('RP1 the check finds copies that differ', () => {
    const { m, r } = boot(2);
    const id = libc(r, [0, 1]);
    const [page] = must(r.add(id, 1));
    const { pfn } = r.copiesOf(id, page)[1];
    m.write(pfn, 4095, BYTE(1));
    expect(checkReplicas(m)).toEqual([`RP1 the copies of page ${page} of libc differ`]);
    m.write(pfn, 4095, BYTE(0));
  });
});

describe('places', () => {
  it('RP9 nodes and pools; what is none, or two of one node', () => {
    const { m, r } = boot(3);
    const p = pools(m);
    for (const k of [0, 1]) {
      must(p.create({ name: `copies${k}`, nodes: [k], pages: 100, class: 'replica', owner: 'libc' }));
    }
    must(p.create({ name: 'wide', nodes: [0, 1] }));
    const ask = (on: readonly (number | string)[], rest: Partial<ReplicaSpec> = {}): string =>
      why(r.create({ name: 'x', on, onWrite: 'update', ...rest }));
    expect([ask([]), ask([0, 'copies0']), ask(['wide']), ask([0], { replicateAfter: 0 })]).toEqual(
      Array(4).fill('EINVAL bad-argument'),
    );
    expect([ask([7]), ask(['nobody'])]).toEqual(Array(2).fill('ENOENT no-such-pool'));
    const id = libc(r, ['copies0', 'copies1', 2]);
    const [page] = must(r.add(id, 1));
    expect(r.copiesOf(id, page).map((c) => m.poolAt(m.sections.indexOf(c.pfn))?.title)).toEqual([
      'pool copies0',
      'pool copies1',
      'Node 2, zone Normal',
    ]);
    expect(must(p.stat('copies0')).used).toBe(1);
    expect(why(r.add(id, 100))).toBe('ENOMEM no-memory node 0');
    expect(must(p.stat('copies0')).used).toBe(1);
    const theirs = must(r.create({ name: 'y', on: ['copies0'], onWrite: 'update' }, { as: 'mallory' }));
    expect(why(r.add(theirs, 1))).toBe('EPERM permission node 0');
    const mine = must(
      r.create({ name: 'z', on: ['copies0', 'copies1'], onWrite: 'update', offset: 'same' }, { as: 'libc' }),
    );
    const [same] = must(r.add(mine, 1));
    const [c0, c1] = r.copiesOf(mine, same);
    expect(c1.pfn - c0.pfn).toBe(SECTION);
  });
});
