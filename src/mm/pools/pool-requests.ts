// Compiles what principals may ask of which pools into the rows of Machine.requests (request.ts says what a row is).
//
// Rows are never removed, so that a holder may keep the number of its row; after each change of an attribute, a
// permission or a fallback edge all rows are compiled anew. Cost of that: O(rows x edges), a few microseconds.

import type { Machine } from '../machine.ts';
import { attrsOf, may, type PoolAttrs, type Principal, poolTableOf, ROOT } from './pool-table.ts';
import type { PoolRequest } from './request.ts';

/** What must stay free in a pool when this principal takes from it. */
const floorFor = (a: PoolAttrs, who: Principal): number =>
  a.kind === 'user' && (who === a.owner || (who === ROOT && a.owner === ROOT) || a.min === 0)
    ? Number.NEGATIVE_INFINITY
    : a.min;

/** Classes that nobody falls back to: what they keep is kept for somebody. */
const isPrivate = (a: PoolAttrs): boolean => a.class === 'realtime' || a.class === 'guaranteed' || a.class === 'dma';

/** The pool of a row was destroyed: its id may be another's by now. */
const GONE = -1;

function compile(m: Machine, pool: number, who: Principal): PoolRequest {
  if (pool === GONE) {
    const floor = Number.POSITIVE_INFINITY;
    return { pool: 0, principal: who, allowed: false, gone: true, floor, bounded: true, fallbacks: [] };
  }
  const a = attrsOf(m, pool);
  const bounded = a.class === 'realtime';
  const reachable = a.fallbacks
    .map((edge) => ({ edge, to: attrsOf(m, edge.to) }))
    .filter(({ to }) => to.state === 'active' && !isPrivate(to) && to.priority <= a.priority)
    // A zone serves whoever the pool sends there: root drew the edge.
    .filter(({ to }) => to.kind === 'zone' || may(to, who, 'alloc'));
  const allowed = a.state === 'active' && may(a, who, 'alloc');
  return {
    pool,
    principal: who,
    allowed,
    gone: false,
    floor: allowed ? floorFor(a, who) : Number.POSITIVE_INFINITY,
    bounded,
    fallbacks: bounded
      ? []
      : reachable.map(({ edge, to }) => ({ pool: edge.to, floor: Math.max(0, floorFor(to, who)) })),
  };
}

/** After a change of attributes. */
export function rebuildRequests(m: Machine): void {
  const { asked } = poolTableOf(m);
  m.requests = asked.map(({ pool, principal }) => compile(m, pool, principal));
}

/** Rows that named a pool name nothing any more: whoever is bound to it is refused, whatever its id becomes. */
export function forgetRequests(m: Machine, pool: number): void {
  const table = poolTableOf(m);
  table.asked = table.asked.map((row) => (row.pool === pool ? { ...row, pool: GONE } : row));
}

/** The row for a principal that asks for a pool; made if there is none. Cost O(rows). */
export function requestRow(m: Machine, pool: number, who: Principal): number {
  const { asked } = poolTableOf(m);
  const found = asked.findIndex((row) => row.pool === pool && row.principal === who);
  if (found >= 0) return found;
  asked.push({ pool, principal: who });
  m.requests = [...m.requests, compile(m, pool, who)];
  return asked.length - 1;
}
