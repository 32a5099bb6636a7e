// Promises: what a pool keeps for its own, and how much it may give away.
//
//   pool              keeps free                        may give
//   zone              its min watermark, its share      free frames beyond, that the other pool may have
//   user              `min`                             the same
//
//   node 0   │ min of web │ min of db │ ... │  <= what node 0 manages        else create and setattr refuse (ENOSPC)
//
// Pools that name several nodes are looked at together with those that name only some of the same nodes: their promises
// can all be kept at once only if the nodes together have that much. Spec 9.A, semantics 5 and I5.

import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { fittingRanges, freeToGive } from './pool-fit.ts';
import { givable } from './pool-move.ts';
import { attrsOf, type PoolAttrs } from './pool-table.ts';
import { zoneTotals } from './pool-watermarks.ts';

/** Pages that stay free in a pool whatever it gives away. */
export function floorOf(m: Machine, pool: Pool): number {
  return pool.kind === 'zone' ? Math.max(0, pool.watermarks.min) : attrsOf(m, pool.id).min;
}

/** Frames that `source` can give to a pool with these attributes now. Cost: fittingRanges and freeToGive. */
export function spareFor(m: Machine, source: Pool, a: PoolAttrs): number {
  const ranges = fittingRanges(m, source, a);
  if (ranges?.length === 0) return 0;
  return Math.max(0, Math.min(givable(m, source) - floorOf(m, source), freeToGive(m, source, ranges)));
}

/** Are the promises of all of these pools more than there is? @returns a sentence. Cost O(masks x pools) */
export function overcommitted(m: Machine, all: readonly PoolAttrs[]): string | undefined {
  const masks = new Set(all.filter((a) => a.min > 0).map((a) => [...a.nodes].sort((x, y) => x - y).join(',')));
  for (const mask of masks) {
    const nodes = mask.split(',').map(Number);
    const promised = all.reduce((n, a) => n + (a.nodes.every((x) => nodes.includes(x)) ? a.min : 0), 0);
    const managed = m.zones.reduce((n, z) => n + (nodes.includes(z.node) ? zoneTotals(m, z).managed : 0), 0);
    if (promised > managed) return `${promised} pages would be promised on node ${mask}, which has ${managed}`;
  }
  return undefined;
}
