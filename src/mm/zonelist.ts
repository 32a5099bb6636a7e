// Zonelists: which pools a request may use, and in what order it tries them.
//
//   node 0, top zone Movable      Movable, Normal, DMA32, DMA of node 0, then of the nearest node, then of the next
//
// Nodes by distance, ties by id; within a node the highest zone first, so that scarce low memory is kept.
// Follows Linux v6.12 mm/page_alloc.c: build_zonelists() (spec 2.9). Left out: the load-balancing between equally far
// nodes, and the preference for nodes without CPUs.

import type { NodeId } from '#base/units';
import { ZONE_MOVABLE } from './page-class.ts';
import type { Pool } from './pool.ts';

/**
 * @param distance  of the nodes in ascending id; undefined = 10 local, 20 remote
 * @returns pool ids, at [row of the node * 4 + highest zone]
 */
export function buildZonelists(
  nodes: readonly NodeId[],
  pools: readonly Pool[],
  distance: readonly (readonly number[])[] | undefined,
): Int32Array[] {
  const lists: Int32Array[] = [];
  nodes.forEach((node, row) => {
    const far = (n: NodeId): number => distance?.[row]?.[nodes.indexOf(n)] ?? (n === node ? 10 : 20);
    const order = [...nodes].sort((a, b) => far(a) - far(b) || a - b);
    for (let top = 0; top <= ZONE_MOVABLE; top++) {
      const list = order.flatMap((n) =>
        pools.filter((p) => p.node === n && p.zone <= top).sort((a, b) => b.zone - a.zone),
      );
      lists.push(Int32Array.from(list, (p) => p.id));
    }
  });
  return lists;
}
