// Watermarks of pools: a zone's marks are computed from all that bears its label, and each pool has its share of them.
//
//   /proc/zoneinfo   min low high of the zone, as Linux computes them from what the zone manages        Pool.zoneMarks
//                        │ divided by frames
//                        ├── what is left of the zone itself       holds requests to the zone back       Pool.watermarks
//                        └── each user pool with its frames        says when the pool is low             Pool.watermarks
//
// So carving a pool out of a zone changes nothing in /proc, and no pool's storm can use up another's reserve. Without
// user pools a zone's share is all of it, to the page (I7). Spec 9.A, semantics 2; 2.5 for the formulas.

import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { NO_WATERMARKS, type Watermarks } from '../watermark.ts';

/** Frames that a zone would manage, and have, if nothing had been carved out of it. */
export function zoneTotals(m: Machine, zone: Pool): { managed: number; present: number } {
  let { managed, present } = zone;
  if (m.pools.length === m.zones.length) return { managed, present };
  for (const p of m.pools) {
    const frames = p.kind === 'user' ? (p.labels.get(zone.id) ?? 0) : 0;
    managed += frames;
    present += frames;
  }
  return { managed, present };
}

const share = (marks: Watermarks, part: number, whole: number): Watermarks => {
  if (part === whole || marks === NO_WATERMARKS) return marks;
  const of = (n: number): number => (whole === 0 ? 0 : Math.floor((n * part) / whole));
  const [a, b, c, d] = marks.reserve;
  return {
    min: of(marks.min),
    low: of(marks.low),
    high: of(marks.high),
    promo: of(marks.promo),
    reserve: [of(a), of(b), of(c), of(d)],
  };
};

const sum = (a: Watermarks, b: Watermarks): Watermarks => ({
  min: a.min + b.min,
  low: a.low + b.low,
  high: a.high + b.high,
  promo: a.promo + b.promo,
  reserve: [0, 0, 0, 0],
});

const NOTHING: Watermarks = Object.freeze({ min: 0, low: 0, high: 0, promo: 0, reserve: [0, 0, 0, 0] as const });

/** The shares of all pools, after the zones' marks or sizes changed. Boost stays. Cost O(pools x labels). */
export function shareWatermarks(m: Machine, zones: readonly Pool[]): void {
  const totals = new Map(zones.map((zone) => [zone.id, zone.managed]));
  const users = m.pools.length === m.zones.length ? [] : m.pools.filter((p) => p.kind === 'user');
  for (const p of users) {
    for (const [id, frames] of p.labels) if (totals.has(id)) totals.set(id, (totals.get(id) as number) + frames);
  }
  const totalOf = (zone: Pool): number => totals.get(zone.id) ?? zoneTotals(m, zone).managed;
  for (const zone of zones) setShare(m, zone, totalOf);
  for (const p of users) setShare(m, p, totalOf);
}

/** After frames changed between these pools: their shares. Those of others stay, for what bears a label is as much as it was. */
export function reshare(m: Machine, from: Pool, to: Pool): void {
  for (const p of [from, to]) setShare(m, p, (zone) => zoneTotals(m, zone).managed);
}

function setShare(m: Machine, pool: Pool, totalOf: (zone: Pool) => number): void {
  if (pool.kind === 'zone') {
    const part = share(pool.zoneMarks, pool.managed, totalOf(pool));
    if (part === pool.watermarks) return;
    const { boost } = pool;
    pool.watermarks = part;
    pool.boost = boost;
    return;
  }
  let marks = NOTHING;
  let none = pool.labels.size > 0;
  for (const [id, frames] of pool.labels) {
    const zone = m.pools[id] as Pool;
    if (zone.zoneMarks === NO_WATERMARKS) continue;
    none = false;
    marks = sum(marks, share(zone.zoneMarks, frames, totalOf(zone)));
  }
  pool.watermarks = none ? NO_WATERMARKS : marks;
}
