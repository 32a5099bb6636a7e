// Zonelists: rules ZL1..ZL4, docs/spec/allocator.md (spec 2.9).

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type NodeId, toNodeId } from '#base/units';
import type { ZoneIndex } from './page-class.ts';
import { buildZonelists, nodeOrders, type Topology } from './zonelist.ts';

const nodesOf = (n: number): NodeId[] => Array.from({ length: n }, (_, k) => toNodeId(k));
const all = (): boolean => true;
const topology = (n: number, distance?: number[][], cpuless: readonly number[] = []): Topology => ({
  nodes: nodesOf(n),
  distance,
  hasCpus: (node) => !cpuless.includes(node),
});

describe('the order of nodes', () => {
  it('ZL1 the own node first, then by distance', () => {
    const line = [
      [10, 20, 30],
      [20, 10, 20],
      [30, 20, 10],
    ];
    expect(nodeOrders(topology(3, line), all)).toEqual([
      [0, 1, 2],
      [1, 2, 0],
      [2, 1, 0],
    ]);
  });

  it('ZL2 of nodes equally far, the next larger number comes first, and the load is shared', () => {
    // Linux: "Fallback order for Node 1: 1 2 3 0": the penalty of 1 for smaller numbers outweighs any load.
    expect(nodeOrders(topology(4), all)).toEqual([
      [0, 1, 2, 3],
      [1, 2, 3, 0],
      [2, 3, 0, 1],
      [3, 0, 1, 2],
    ]);
  });

  it('ZL2 load: the node that is already the first choice of another at that distance waits', () => {
    // 0 and 1 are both at 20 from 2, 3 and 4; all of these have them as smaller numbers.
    const d = Array.from({ length: 5 }, (_, a) =>
      Array.from({ length: 5 }, (_, b) => (a === b ? 10 : a + b > 8 ? 40 : 20)),
    );
    const orders = nodeOrders(topology(5, d), (n) => n <= 1);
    expect(orders.slice(2)).toEqual([
      [0, 1],
      [1, 0],
      [0, 1],
    ]);
  });

  it('ZL2 nodes without CPUs are preferred at one distance', () => {
    expect(nodeOrders(topology(4, undefined, [3]), all)[0]).toEqual([0, 3, 1, 2]);
    expect(nodeOrders(topology(3, undefined, [0]), all)[2]).toEqual([2, 0, 1]);
  });

  it('ZL3 nodes without memory are in no order, not even their own', () => {
    expect(nodeOrders(topology(3), (n) => n !== 1)).toEqual([
      [0, 2],
      [2, 0],
      [2, 0],
    ]);
  });

  it('ZL1 ZL2 every node with memory is in each order once, and the naive search agrees (random)', () => {
    const seed = Number(process.env.DIMMER_SEED ?? 29);
    const rng = new Prng(seed);
    for (let run = 0; run < 200; run++) {
      const n = 1 + rng.below(7);
      const d = Array.from({ length: n }, (_, a) =>
        Array.from({ length: n }, (_, b) => (a === b ? 10 : rng.pick([15, 20, 20, 21, 30]))),
      );
      const cpuless = nodesOf(n).filter(() => rng.chance(0.3));
      const memory = nodesOf(n).filter(() => rng.chance(0.8));
      const got = nodeOrders(topology(n, d, cpuless), (k) => memory.includes(k));
      const load = new Map<number, number>();
      for (let a = 0; a < n; a++) {
        const want: number[] = [];
        let before = a;
        while (want.length < memory.length) {
          const open = memory.filter((k) => !want.includes(k));
          const score = (k: number): number =>
            (k === a ? -1e6 : 0) +
            (d[a][k] + (k < a ? 1 : 0) + (cpuless.includes(toNodeId(k)) ? 0 : 1)) * 1024 +
            (load.get(k) ?? 0);
          const best = open.reduce((x, y) => (score(y) < score(x) ? y : x));
          if (d[a][best] !== d[a][before]) load.set(best, (load.get(best) ?? 0) + 1);
          before = best;
          want.push(best);
        }
        expect(got[a], `seed=${seed} run=${run} node=${a}`).toEqual(want);
      }
    }
  });
});

describe('the lists', () => {
  const pool = (id: number, node: number, zone: ZoneIndex, present = 1) => ({
    id,
    node: toNodeId(node),
    zone,
    present,
  });

  it('ZL4 within a node from the highest zone that will do down; a pool without memory is in no list', () => {
    const pools = [pool(0, 0, 0), pool(1, 0, 1), pool(2, 0, 2), pool(3, 0, 3, 0), pool(4, 1, 2), pool(5, 1, 3)];
    const lists = buildZonelists(topology(2), pools).map((l) => [...l]);
    expect(lists).toEqual([[0], [1, 0], [2, 1, 0, 4], [2, 1, 0, 5, 4], [0], [1, 0], [4, 2, 1, 0], [5, 4, 2, 1, 0]]);
  });
});
