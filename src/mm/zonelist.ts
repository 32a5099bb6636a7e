// Zonelists: which pools a request may use, and in what order it tries them.
//
//   node 0, top zone Movable      Movable, Normal, DMA32, DMA of node 0, then of the next best node, then of the next
//
// Only pools with memory are in a list, and only nodes that have one. The next best node is the one of the least
//
//   (distance + 1 if its number is smaller ("prefer the next node") + 1 if it has CPUs) * 1024 + its load
//
// where its load counts for how many nodes it already is the first of a distance: nodes equally far share the pressure.
// Within a node the highest zone first, so that scarce low memory is kept. Lists change when a pool gets its first
// memory or loses its last.
//
// Follows Linux v6.12 mm/page_alloc.c: find_next_best_node(), build_zonelists(), build_zonerefs_node() (spec 2.9).

import type { NodeId } from '#base/units';
import { ZONE_MOVABLE } from './page-class.ts';
import type { Pool } from './pool.ts';

/** 1 << CONFIG_NODES_SHIFT. */
const MAX_NUMNODES = 1024;

/** What of a pool decides its place. */
type Member = Pick<Pool, 'id' | 'node' | 'zone' | 'present'>;

export type Topology = {
  /** Ascending. */
  readonly nodes: readonly NodeId[];
  /** distance[a][b] by position in `nodes`; undefined = 10 local, 20 remote. */
  readonly distance: readonly (readonly number[])[] | undefined;
  readonly hasCpus: (node: NodeId) => boolean;
};

/**
 * For each node, all nodes that have memory in the order its requests try them; itself first if it has any.
 *
 * @returns by position in `nodes`. Cost O(nodes^3).
 */
export function nodeOrders(topology: Topology, hasMemory: (node: NodeId) => boolean): NodeId[][] {
  const { nodes, hasCpus } = topology;
  const distance = (a: number, b: number): number => topology.distance?.[a]?.[b] ?? (a === b ? 10 : 20);
  const load = nodes.map(() => 0);
  return nodes.map((_, local) => {
    const order: NodeId[] = [];
    const left = new Set(nodes.map((_n, k) => k).filter((k) => hasMemory(nodes[k])));
    let previous = local;
    for (let next = left.has(local) ? local : -1; left.size > 0; next = -1) {
      if (next < 0) {
        let least = Number.POSITIVE_INFINITY;
        for (const k of left) {
          const penalty = (k < local ? 1 : 0) + (hasCpus(nodes[k]) ? 1 : 0);
          const score = (distance(local, k) + penalty) * MAX_NUMNODES + load[k];
          if (score < least) {
            least = score;
            next = k;
          }
        }
      }
      if (distance(local, next) !== distance(local, previous)) load[next]++;
      previous = next;
      left.delete(next);
      order.push(nodes[next]);
    }
    return order;
  });
}

/** @returns pool ids, at [position of the node * 4 + highest zone] */
export function buildZonelists(topology: Topology, pools: readonly Member[]): Int32Array[] {
  const byNode = new Map<NodeId, Member[]>();
  for (const p of pools) {
    if (p.present === 0) continue;
    const mine = byNode.get(p.node);
    if (mine === undefined) byNode.set(p.node, [p]);
    else mine.push(p);
  }
  for (const mine of byNode.values()) mine.sort((a, b) => b.zone - a.zone);
  const lists: Int32Array[] = [];
  for (const order of nodeOrders(topology, (node) => byNode.has(node))) {
    for (let top = 0; top <= ZONE_MOVABLE; top++) {
      const ids = order.flatMap((n) => (byNode.get(n) ?? []).filter((p) => p.zone <= top).map((p) => p.id));
      lists.push(Int32Array.from(ids));
    }
  }
  return lists;
}
