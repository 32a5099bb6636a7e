// Requests that name a pool: which pools they may use, in which order, and how deep they may reach into each.
//
//   own pool, down to `floor` ──> its per-CPU lists drained ──> reclaim from pools of lower priority ──> fallbacks in
//   ascending weight, each down to its own floor ──> -1 and a refusal
//
//   row of Machine.requests     who asks (principal) for which pool; holders and callers name the row
//   floor                       pages that must stay free there: none for the pool's owner, its `min` for others
//   fallbacks                   pools that the pool's fallback edges name, that the principal may allocate from, whose
//                               priority is not above the pool's own; never realtime, guaranteed or dma pools
//
// The rows are compiled from the pools' attributes (pool-table.ts) whenever one changes, so that a request loads a row and
// walks it. A page that came from a fallback belongs to that pool: borrowing is another verb (pool-lease.ts).
// A frame's label still counts: memory of ZONE_MOVABLE serves requests that may be moved only, in a pool as in a zone.
//
// Invariant: I5 free >= min after every request, but for those of the pool's owner. After Snook 2007 (spec 9.A, 4 and 5).

import type { Machine } from '../machine.ts';
import { ALLOC_CMA } from '../page-alloc.ts';
import type { Pool } from '../pool.ts';
import { refusal } from '../refusal.ts';
import { reclaimFor } from './pool-reclaim.ts';

/** A holder whose `node` is this less k asks by row k. */
export const NODE_OF_REQUEST = -2;

export type PoolRequest = {
  /** Pool id. */
  readonly pool: number;
  readonly principal: string;
  /** May the principal allocate from the pool at all? */
  readonly allowed: boolean;
  /** The pool was destroyed. */
  readonly gone: boolean;
  /** Pages that must stay free in the pool; -Infinity: it may be emptied; Infinity: not allowed. */
  readonly floor: number;
  /** Realtime: bounded work, so that nothing is drained, reclaimed or borrowed. */
  readonly bounded: boolean;
  /** Pool ids, in order, and what must stay free there. A zone's floor is its low mark. */
  readonly fallbacks: readonly { readonly pool: number; readonly floor: number }[];
};

/** 2^order frames by a row. @param mt 0..2 @param top highest zone that will do @returns PageIndex; -1 with lastRefusal */
export function takeFromPool(m: Machine, request: PoolRequest, order: number, mt: number, top: number): number {
  const pool = m.pools[request.pool] as Pool;
  // Whoever may not allocate has a floor that nothing is above.
  if ((pool.nrFree[0] as number) - (1 << order) >= request.floor && pool.zone <= top) {
    const type = pool.typeFor[mt] as number;
    const { rings } = pool;
    const waiting = order === 0 && rings !== undefined ? rings.pop(type) : -1;
    if (waiting >= 0) return waiting + pool.base;
    const i = pool.alloc.alloc(order, type, pool.requestFlags[type]);
    if (i >= 0) return i + pool.base;
  }
  return slowly(m, request, order, mt, top);
}

function slowly(m: Machine, request: PoolRequest, order: number, mt: number, top: number): number {
  const pool = m.pools[request.pool] as Pool;
  if (!request.allowed) {
    m.lastRefusal = request.gone
      ? refusal('no-such-pool', 'the pool that the request names was destroyed')
      : refusal('permission', `${request.principal} may not allocate from ${pool.title}`);
    return -1;
  }
  let i = -1;
  if (pool.zone <= top && !request.bounded) {
    i = above(pool, request.floor, order, mt);
    if (i < 0 && pool.alloc.drain() > 0) i = above(pool, request.floor, order, mt);
    if (i < 0 && reclaimFor(m, request, 1 << order)) i = above(pool, request.floor, order, mt);
  }
  for (let k = 0; k < request.fallbacks.length && i < 0; k++) {
    const { pool: id, floor } = request.fallbacks[k] as { pool: number; floor: number };
    const other = m.pools[id] as Pool;
    if (other.zone > top) continue;
    i = above(other, other.kind === 'zone' ? (other.marks[top] as number) : floor, order, mt);
  }
  if (i >= 0) return i;
  m.vmstat.pgalloc_fail++;
  const free = pool.alloc.nrFree();
  const floor = Math.max(0, request.floor);
  const kept = floor > 0 ? `, ${floor} of them kept for its owner` : '';
  const movable = pool.zone > top ? '; it has frames of zones that the request may not use' : '';
  m.lastRefusal = refusal(
    'no-memory',
    `${pool.title}: no free run of ${1 << order} frames; ${free} are free${kept}${movable}, and no fallback has one`,
  );
  return -1;
}

/** From one pool, if so many frames stay free. @returns PageIndex, or -1 */
function above(pool: Pool, floor: number, order: number, mt: number): number {
  const type = pool.typeFor[mt] as number;
  const flags = (pool.requestFlags[type] as number) & ALLOC_CMA;
  const waiting = pool.kind === 'user' ? pool.alloc.pcpPages() : 0; // a bulk that went to a list is still the pool's
  if ((pool.nrFree[0] as number) + waiting - (1 << order) < floor) return -1;
  const i = pool.alloc.alloc(order, type, flags | 4); // ALLOC_KEEP_PCP: other pools are not drained for this one
  return i < 0 ? -1 : i + pool.base;
}
