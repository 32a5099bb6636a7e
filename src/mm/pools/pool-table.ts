// Pool table: what the pools of a machine are called and what they are for. Attributes only; frames are in pool.ts.
//
//   attribute  of a zone            of a user pool                                     changed by
//   name       "node0-Normal"       [A-Za-z][A-Za-z0-9_.-]*, unique                    create
//   parent     "node0"              the pool or node it was carved from                create
//   nodes      its node             nodes whose frames it may have, home first         setattr
//   zones      its zone             zones whose frames it may have                     create
//   ranges     all                  frames that it may have, by a DMA rule             dma.rebase
//   cpus       all                  CPUs that may allocate; undefined = all            setattr
//   owner      root                 a principal: "root", "web", "driver:nic"           setattr
//   perms      root: all            principal -> alloc free donate reclaim inspect admin
//   priority   0                    0..255; shortage takes from lower ones             setattr
//   min        0                    pages that nobody but the owner takes              setattr
//   low        its low mark         pages below which the pool is called low           setattr
//   max        all                  most pages that it may have                        setattr
//   class      normal               normal realtime guaranteed opportunistic dma replica
//   state      active               active, draining (nothing new), dead (its id is free)
//
// A node is a pool too: the union of its zones and what was carved out of them. It holds no frames and has no row here;
// its name, "node0", stands for its zones wherever a pool may be named as a source.
// The table follows its machine into copies (machine-state.ts). Invariant: row k describes Machine.pools[k].
// After Snook 2007: "giving physical memory pools various properties (node mask, cpu mask, permissions, priority, owner)".

import type { NodeId, Pfn } from '#base/units';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import type { ZoneIndex } from '../page-class.ts';
import type { Pool } from '../pool.ts';

/** Whoever asks: a user, a container, a driver. `root` may everything. */
export type Principal = string;
export const ROOT: Principal = 'root';

export const PERMS = ['alloc', 'free', 'donate', 'reclaim', 'inspect', 'admin'] as const;
export type Perm = (typeof PERMS)[number];

export const POOL_CLASSES = ['normal', 'realtime', 'guaranteed', 'opportunistic', 'dma', 'replica'] as const;
export type PoolClass = (typeof POOL_CLASSES)[number];

export type PoolState = 'active' | 'draining' | 'dead';

export type FallbackEdge = { readonly to: number; readonly weight: number };

/** One row. Immutable: a change replaces the row. */
export type PoolAttrs = {
  readonly id: number;
  readonly name: string;
  readonly kind: 'zone' | 'user';
  readonly parent: string;
  readonly nodes: readonly NodeId[];
  readonly zones: readonly ZoneIndex[];
  /** [start, end) frame numbers, ascending; undefined = any. */
  readonly ranges: readonly { readonly start: Pfn; readonly end: Pfn }[] | undefined;
  readonly cpus: readonly number[] | undefined;
  /** The DMA rule in its canonical words, for people; '' = none. */
  readonly rule: string;
  readonly owner: Principal;
  readonly perms: ReadonlyMap<Principal, ReadonlySet<Perm>>;
  readonly priority: number;
  readonly min: number;
  readonly low: number;
  readonly max: number;
  readonly class: PoolClass;
  readonly state: PoolState;
  /** Where requests go when the pool is empty, in ascending weight. */
  readonly fallbacks: readonly FallbackEdge[];
};

/** Frames lent by one pool to another: borrowed frames are the borrower's until the lease ends. */
export type Lease = {
  readonly id: number;
  /** Pool ids. */
  readonly from: number;
  readonly to: number;
  readonly principal: Principal;
  /** [start, end) frame numbers, ascending, neighbours joined. */
  readonly ranges: readonly { readonly start: Pfn; readonly end: Pfn }[];
  readonly pages: number;
};

export class PoolTable {
  /** By pool id; undefined for zones whose attributes nobody changed. */
  rows: (PoolAttrs | undefined)[] = [];
  leases = new Map<number, Lease>();
  nextLease = 1;
  /** What Machine.requests was compiled for, row by row. */
  asked: { readonly pool: number; readonly principal: Principal }[] = [];
  /** Chunks and pieces that changed their pool since boot. */
  relabels = 0;

  copy(): PoolTable {
    const to = new PoolTable();
    to.rows = this.rows.slice();
    to.leases = new Map(this.leases);
    to.nextLease = this.nextLease;
    to.asked = this.asked.slice();
    to.relabels = this.relabels;
    return to;
  }
}

const state = machineState(() => new PoolTable());

export const poolTableOf = (m: Machine): PoolTable => state.of(m);

/** Has anything ever been asked of the pools of this machine? */
export const hasPoolTable = (m: Machine): boolean => state.has(m) !== undefined;

export const zonePoolName = (p: Pool): string => `node${p.node}-${p.name}`;

/** What a zone is, until somebody says otherwise. */
function zoneAttrs(p: Pool): PoolAttrs {
  return {
    id: p.id,
    name: zonePoolName(p),
    kind: 'zone',
    parent: `node${p.node}`,
    nodes: [p.node],
    zones: [p.zone],
    ranges: undefined,
    cpus: undefined,
    rule: '',
    owner: ROOT,
    perms: new Map(),
    priority: 0,
    min: 0,
    low: 0,
    max: Number.POSITIVE_INFINITY,
    class: 'normal',
    state: 'active',
    fallbacks: [],
  };
}

/** Attributes of a pool. */
export const attrsOf = (m: Machine, id: number): PoolAttrs => poolTableOf(m).rows[id] ?? zoneAttrs(m.pools[id] as Pool);

/** All pools that are not dead, by id. */
export const livePools = (m: Machine): PoolAttrs[] =>
  m.pools.map((p) => attrsOf(m, p.id)).filter((a) => a.state !== 'dead');

/** A pool by its name; undefined when there is none. Nodes have no row: nodeNamed. */
export const poolNamed = (m: Machine, name: string): PoolAttrs | undefined => livePools(m).find((a) => a.name === name);

/** "node3" -> 3, if there is such a node. */
export function nodeNamed(m: Machine, name: string): NodeId | undefined {
  const found = /^node(\d+)$/.exec(name);
  return found === null ? undefined : m.nodes.find((n) => n === Number(found[1]));
}

/** May the principal do this to the pool? The owner and root may everything. */
export function may(a: PoolAttrs, who: Principal, perm: Perm): boolean {
  return who === ROOT || who === a.owner || (a.perms.get(who)?.has(perm) ?? false);
}

/** Frames of user pools that are on loan in [start, end) of frame numbers. */
export function leasedIn(table: PoolTable, start: number, end: number): Lease | undefined {
  for (const lease of table.leases.values()) {
    for (const r of lease.ranges) if (r.start < end && start < r.end) return lease;
  }
  return undefined;
}
