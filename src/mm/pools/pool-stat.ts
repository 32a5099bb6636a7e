// Numbers of a pool, for those who look: `stat` and `list`.
//
//   user pool, zone   its own allocator's counters; what it lent and borrowed
//   node              the sum over its zones and over what was carved out of them: managed by label, free by label
//
// Free frames on per-CPU lists are free. Nothing here changes anything. Spec 9.A, verbs stat and list.

import type { NodeId } from '#base/units';
import type { Machine } from '../machine.ts';
import { ZONE_NAMES, type ZoneName } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { labelRanges } from './pool-carve.ts';
import { labelsOf, onLoan } from './pool-fit.ts';
import { denseRuns } from './pool-move.ts';
import { type PoolAttrs, type PoolClass, type Principal, ROOT } from './pool-table.ts';
import { zoneTotals } from './pool-watermarks.ts';

export type PoolStat = {
  readonly name: string;
  readonly id: number;
  readonly kind: 'node' | 'zone' | 'user';
  readonly parent: string;
  readonly class: PoolClass;
  readonly owner: Principal;
  readonly priority: number;
  readonly nodes: readonly NodeId[];
  readonly zones: readonly ZoneName[];
  readonly cpus: readonly number[] | undefined;
  readonly rule: string;
  readonly min: number;
  readonly low: number;
  readonly max: number;
  readonly managed: number;
  /** Free, those on per-CPU lists included. */
  readonly free: number;
  readonly used: number;
  readonly borrowedIn: number;
  readonly borrowedOut: number;
  readonly state: 'active' | 'draining';
};

/** Free pages of a pool's lists, isolated ones not counted. O(CPUs) */
export const freeOfPool = (pool: Pool): number => pool.alloc.nrFree() + pool.alloc.pcpPages();

/** Cost O(leases + CPUs). */
export function statOf(m: Machine, a: PoolAttrs): PoolStat {
  const pool = m.pools[a.id] as Pool;
  const free = freeOfPool(pool);
  const loans = onLoan(m, a.id);
  return {
    name: a.name,
    id: a.id,
    kind: a.kind,
    parent: a.parent,
    class: a.class,
    owner: a.owner,
    priority: a.priority,
    nodes: a.nodes,
    zones: a.zones.map((z) => ZONE_NAMES[z] as ZoneName), // ZoneIndex is 0..3
    cpus: a.cpus,
    rule: a.rule,
    min: a.min,
    low: a.low,
    max: a.max,
    managed: pool.managed,
    free,
    used: pool.managed - free - pool.alloc.nrIsolated(),
    borrowedIn: loans.in,
    borrowedOut: loans.out,
    state: a.state === 'draining' ? 'draining' : 'active',
  };
}

/** Cost O(pools), and O(pageblocks of the hull) for each pool that has frames of several nodes. */
export function nodeStat(m: Machine, node: NodeId): PoolStat {
  const zones = m.zones.filter((z) => z.node === node);
  const managed = zones.reduce((n, z) => n + zoneTotals(m, z).managed, 0);
  let free = 0;
  for (const p of m.pools) {
    const mine = labelsOf(m, p).filter((z) => z.node === node);
    if (mine.length === 0) continue;
    if (mine.length === labelsOf(m, p).length) free += freeOfPool(p);
    else free += mine.reduce((n, z) => n + freeWithLabel(m, p, z), 0);
  }
  return {
    name: `node${node}`,
    id: -1 - node,
    kind: 'node',
    parent: '',
    class: 'normal',
    owner: ROOT,
    priority: 0,
    nodes: [node],
    zones: zones.map((z) => z.name as ZoneName), // a zone's name is one
    cpus: undefined,
    rule: '',
    min: 0,
    low: 0,
    max: Number.POSITIVE_INFINITY,
    managed,
    free,
    used: managed - free - zones.reduce((n, z) => n + z.alloc.nrIsolated(), 0),
    borrowedIn: 0,
    borrowedOut: 0,
    state: 'active',
  };
}

function freeWithLabel(m: Machine, pool: Pool, zone: Pool): number {
  const listed = new Set<number>();
  pool.alloc.forEachPcp((_cpu, _mt, i, order) => {
    for (let k = i; k < i + 2 ** order; k++) if (m.owners.zoneAt(pool.base + k) === zone.id) listed.add(k);
  });
  let free = listed.size;
  for (const r of labelRanges(m, pool, zone)) {
    for (const run of denseRuns(m, r.start, r.end)) {
      free += pool.alloc.area.freeIn(run.start - pool.base, run.end - pool.base);
    }
  }
  return free;
}
