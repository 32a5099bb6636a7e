// Priority reclaim: a pool that is short takes from pools of lower priority (spec 9.A, semantics 6).
//
//   victims   pools with a lower priority than the one that asks, from which the principal may `reclaim`
//   order     priority ascending, then chunk cost ascending, then id
//   what      free frames above the victim's min; the cheapest chunks first, and cost 0 is a chunk that is free
//   never     from realtime, guaranteed or dma pools; from frames on loan; above the asking pool's max
//
// Invariant: I5: a victim keeps min pages free.

import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { givable, moveFree } from './pool-move.ts';
import { attrsOf, livePools } from './pool-table.ts';
import { reshare } from './pool-watermarks.ts';
import type { PoolRequest } from './request.ts';

/** Frames that one shortage takes at least, so that the next one is not at once. */
const BATCH = 64;

/** Makes `pages` free frames in the pool of a request, if others can spare them. @returns whether it got any. */
export function reclaimFor(m: Machine, request: PoolRequest, pages: number): boolean {
  const mine = attrsOf(m, request.pool);
  const to = m.pools[request.pool] as Pool;
  const victims = livePools(m)
    .filter((a) => a.kind === 'user' && a.id !== mine.id && a.priority < mine.priority)
    .filter((a) => a.class === 'normal' || a.class === 'opportunistic' || a.class === 'replica')
    .filter((a) => a.perms.get(request.principal)?.has('reclaim') === true || a.owner === request.principal)
    .filter((a) => a.nodes.every((n) => mine.nodes.includes(n)))
    .sort((a, b) => a.priority - b.priority || a.id - b.id);
  let wanted = Math.min(Math.max(pages, BATCH), mine.max - to.present);
  let got = 0;
  for (const a of victims) {
    if (wanted <= 0) break;
    const from = m.pools[a.id] as Pool;
    const spare = Math.min(wanted, givable(m, from) - a.min);
    if (spare <= 0) continue;
    moveFree(m, from, to, spare);
    reshare(m, from, to);
    m.emit({ type: 'pool', verb: 'reclaim', pool: a.name, to: mine.name, pages: spare });
    wanted -= spare;
    got += spare;
  }
  return got > 0;
}
