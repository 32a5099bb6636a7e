// Pools as rows: nodes, zones and the pools of users, each below what it was carved from.
//
//   node0                  node   a union: holds no frames of its own
//   node0-DMA32            zone   in the order of the machine
//   node0-Normal           zone
//   web                    user   below its parent: here node0
//   web-cache              user   carved from web
//   node1 ...
//
// Sizes are pages. A row says only what is known and what was set: no max where there is none. A source without page flags
// has no machine; its zones and nodes are listed from /proc/zoneinfo.

import type { Machine, PoolStat, ZoneName } from '#mm/index';
import { pools } from '#mm/index';
import { attrsOf } from '#mm/pools/pool-table';
import type { Twin } from '#twin/index';

export type PoolEntry = {
  readonly name: string;
  readonly kind: PoolStat['kind'];
  /** Empty for a node. */
  readonly parent: string;
  readonly class: PoolStat['class'];
  readonly owner: string;
  readonly priority: number;
  readonly nodes: readonly number[];
  readonly zones: readonly ZoneName[];
  /** CPUs that may allocate; absent: all. */
  readonly cpus?: readonly number[];
  /** Its DMA rule in canonical words; absent: none. */
  readonly rule?: string;
  readonly size: number;
  readonly free: number;
  readonly used: number;
  readonly min: number;
  readonly low: number;
  /** Absent: as much as there is. */
  readonly max?: number;
  /** Pages of other pools that it has on loan, and pages that others have of it. */
  readonly borrowed: number;
  readonly lent: number;
  readonly state: PoolStat['state'];
  readonly perms?: Readonly<Record<string, readonly string[]>>;
  /** Where its requests go when it is empty, in this order. */
  readonly fallback?: readonly { readonly to: string; readonly weight: number }[];
};

/** All pools of a machine but zones that span nothing; parents before children. Cost O(pools^2). */
export function listPools(m: Machine): PoolEntry[] {
  const there = pools(m)
    .list()
    .filter((s) => s.kind === 'user' || (m.pools[s.id]?.spanned ?? 0) > 0);
  const all = [...pools(m).nodes(), ...there].map((s) => entryOf(m, s));
  const out: PoolEntry[] = [];
  const add = (p: PoolEntry): void => {
    out.push(p);
    for (const child of all) if (child.parent === p.name) add(child);
  };
  for (const p of all) if (p.parent === '') add(p);
  return out;
}

function entryOf(m: Machine, s: PoolStat): PoolEntry {
  const attrs = pools(m).attrs(s.name);
  const perms = [...(attrs?.perms ?? [])].map(([who, what]) => [who, [...what]] as const);
  const fallback = (attrs?.fallbacks ?? []).map((e) => ({ to: attrsOf(m, e.to).name, weight: e.weight }));
  return {
    name: s.name,
    kind: s.kind,
    parent: s.parent,
    class: s.class,
    owner: s.owner,
    priority: s.priority,
    nodes: s.nodes,
    zones: s.zones,
    ...(s.cpus === undefined ? {} : { cpus: s.cpus }),
    ...(s.rule === '' ? {} : { rule: s.rule }),
    size: s.managed,
    free: s.free,
    used: s.used,
    min: s.min,
    low: s.low,
    ...(Number.isFinite(s.max) ? { max: s.max } : {}),
    borrowed: s.borrowedIn,
    lent: s.borrowedOut,
    state: s.state,
    ...(perms.length === 0 ? {} : { perms: Object.fromEntries(perms) }),
    ...(fallback.length === 0 ? {} : { fallback }),
  };
}

/** Pools of a twin: of its machine, or, without page flags, the built-in ones as the kernel counts them. */
export function poolsOfTwin(twin: Twin): PoolEntry[] {
  if (twin.level === 'pages') return listPools(twin.machine);
  const zones = twin.zones.filter((z) => z.present > 0);
  const nodes = [...new Set(zones.map((z) => z.node))].sort((a, b) => a - b);
  return nodes.flatMap((node) => {
    const mine = zones
      .filter((z) => z.node === node)
      .map((z) =>
        builtIn('zone', `node${node}-${z.zone}`, `node${node}`, node, [z.zone as ZoneName], z.managed, z.free),
      );
    const sum = (of: (p: PoolEntry) => number): number => mine.reduce((n, p) => n + of(p), 0);
    const names = mine.flatMap((p) => p.zones);
    return [
      builtIn(
        'node',
        `node${node}`,
        '',
        node,
        names,
        sum((p) => p.size),
        sum((p) => p.free),
      ),
      ...mine,
    ];
  });
}

const builtIn = (
  kind: 'node' | 'zone',
  name: string,
  parent: string,
  node: number,
  zones: readonly ZoneName[],
  size: number,
  free: number,
): PoolEntry => ({
  name,
  kind,
  parent,
  class: 'normal',
  owner: 'root',
  priority: 0,
  nodes: [node],
  zones,
  size,
  free,
  used: size - free,
  min: 0,
  low: 0,
  borrowed: 0,
  lent: 0,
  state: 'active',
});
