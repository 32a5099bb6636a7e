// Pools: the verbs by which pools are made, changed and asked about. `pools(machine).create({...})`.
//
//   verb        does                                                        refusals (errno)
//   create      carves frames out of zones or of a parent pool              EEXIST EINVAL EPERM ENOSPC ENOMEM ENOENT EXDEV
//   destroy     gives all frames back to where they were carved from        EBUSY EPERM ENOENT
//   resize      more frames from there, or fewer                            ENOSPC ENOMEM EBUSY EPERM
//   move        frames from pool to pool: a count, a range, chunks          EPERM EXDEV EBUSY ENOSPC ENOMEM
//   setattr     owner, permissions, priority, min, low, max, masks          EACCES EINVAL ENOSPC EXDEV
//   setFallback where requests go when the pool is empty                    EACCES EINVAL ENOENT
//   alloc free  frames, as a principal                                      EPERM ENOMEM
//   allocSet    one allocation on each of several nodes (alloc-set.ts)      ENOMEM EPERM EINVAL ENOENT
//   revoke      pages of an opportunistic pool for the host (revoke.ts)     ETIMEDOUT EBUSY EPERM ENOSPC EXDEV
//   stat list   numbers                                                     ENOENT
//
//   borrow      a lease of free frames of another pool                      EPERM ENOSPC ENOMEM EXDEV EINVAL ENOENT
//   reclaim     ends a lease (pool-lease.ts)                                EBUSY EPERM ENOSPC ENOENT
// Every verb does all or nothing, returns its refusal as a value, and sends one event. Who asks is an argument; root may
// everything. A source is named by a pool's name, or by a node's ("node0"): its zones, the highest first, but never
// ZONE_MOVABLE unless the pool's zones say so: frames of it serve only requests that may be moved.
//
// Invariants: I1 to I6 (check-pools.ts). After Snook 2007 (spec 9.A).

import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, type Order, type Pfn, toNodeId } from '#base/units';
import { poolConfig } from '../boot.ts';
import { CHUNK_PAGES } from '../geometry.ts';
import { type HolderSpec, REQUEST_UNMANAGED } from '../holder.ts';
import type { Machine } from '../machine.ts';
import {
  CLASS_TRAITS,
  type PageClass,
  ZONE_MOVABLE,
  ZONE_NAMES,
  type ZoneIndex,
  type ZoneName,
} from '../page-class.ts';
import { Pool } from '../pool.ts';
import { type Refusal, refusal } from '../refusal.ts';
import { sizePcp } from '../vm-tunables.ts';
import { type AllocSetSpec, allocSet, type SetMember, type SetRefusal } from './alloc-set.ts';
import { describeLease, onLoan, roomOf } from './pool-fit.ts';
import { type BorrowSpec, borrow, type GivenBack, giveBack } from './pool-lease.ts';
import { type FrameRange, freeOf, givable, moveFree, moveRange } from './pool-move.ts';
import { forgetRequests, rebuildRequests, requestRow } from './pool-requests.ts';
import {
  attrsOf,
  type Lease,
  leasedIn,
  livePools,
  may,
  nodeNamed,
  PERMS,
  type Perm,
  POOL_CLASSES,
  type PoolAttrs,
  type PoolClass,
  type Principal,
  poolNamed,
  poolTableOf,
  ROOT,
} from './pool-table.ts';
import { reshare, zoneTotals } from './pool-watermarks.ts';
import { unifyTypes } from './relabel.ts';
import { NODE_OF_REQUEST } from './request.ts';
import { type Revoked, type RevokeSpec, revoke } from './revoke.ts';

/** Who asks. Default: root. */
export type As = { readonly as?: Principal };

export type Grants = Readonly<Record<Principal, readonly Perm[]>>;

export type PoolSpec = {
  readonly name: string;
  /** Frames to carve. Default: min. */
  readonly pages?: number;
  /** Nodes whose frames it may have, home first. Default: the parent's, else the first node. */
  readonly nodes?: readonly number[];
  /** Zones whose frames it may have. Default: all but Movable; with ranges: all. */
  readonly zones?: readonly ZoneName[];
  /** Frame numbers that it may have, [start, end). Default: any. */
  readonly ranges?: readonly { readonly start: Pfn; readonly end: Pfn }[];
  /** The pool to carve from. Default: the zones of its nodes. */
  readonly parent?: string;
  readonly cpus?: readonly number[];
  readonly rule?: string;
  readonly owner?: Principal;
  readonly perms?: Grants;
  readonly priority?: number;
  readonly min?: number;
  readonly low?: number;
  readonly max?: number;
  readonly class?: PoolClass;
  /**
   * Its allocator's machine code. 'own' is compiled for it (milliseconds): for the one pool that a program lives in. 'shared'
   * is one for all, faster where requests go to many pools in turn (bench/README.md). Default 'shared'.
   */
  readonly code?: 'own' | 'shared';
};

export type AttrChange = Partial<
  Pick<PoolSpec, 'nodes' | 'cpus' | 'owner' | 'perms' | 'priority' | 'min' | 'low' | 'max' | 'class'>
>;

export type MoveWhat =
  | { readonly count: number }
  | { readonly range: { readonly start: Pfn; readonly end: Pfn } }
  /** Chunk numbers: frame number / 1024. */
  | { readonly chunks: readonly number[] };

export type MoveOptions = As & {
  /** What happens to used frames of a range: 'evacuate' migrates contents inside the source, 'donate' lets them stay. Default: they stop the move. */
  readonly used?: 'refuse' | 'evacuate' | 'donate';
  /** By count: as many as there are, rather than all or nothing. Default false. */
  readonly partial?: boolean;
};

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

const NAME = /^[A-Za-z][A-Za-z0-9_.-]{0,63}$/;
/** Names that the tree needs for itself, and those of nodes and zones. */
const RESERVED_NAME = /^(create|destroy|root|node\d+(-(DMA|DMA32|Normal|Movable))?)$/;

const no = (reason: Parameters<typeof refusal>[0], message: string): { ok: false; error: Refusal } =>
  err(refusal(reason, message));

/** The pools of a machine. */
export const pools = (m: Machine): Pools => new Pools(m);

export class Pools {
  readonly #m: Machine;

  constructor(m: Machine) {
    this.#m = m;
  }

  /** Makes a pool. Cost O(pieces carved + pools). */
  create(spec: PoolSpec, { as = ROOT }: As = {}): Result<PoolStat, Refusal> {
    const m = this.#m;
    const checked = this.#attrsFor(spec, as);
    if (!checked.ok) return checked;
    const { attrs, sources } = checked.value;
    const pages = spec.pages ?? attrs.min;
    if (pages < attrs.min)
      return no('bad-argument', `pool ${spec.name}: ${pages} pages are fewer than its min, ${attrs.min}`);
    if (pages > attrs.max)
      return no('bad-argument', `pool ${spec.name}: ${pages} pages are more than its max, ${attrs.max}`);
    const promised = this.#overcommitted([...livePools(m), attrs], pages);
    if (promised !== undefined) return no('guarantee', `pool ${spec.name}: ${promised}`);
    const enough = this.#canGive(sources, pages, attrs);
    if (enough !== undefined) return no(enough.reason, `pool ${spec.name}: ${enough.message}`);

    // ═══ Point of no return: nothing below can fail. ═══
    const table = poolTableOf(m);
    const config = { ...poolConfig(m), code: spec.code ?? 'shared' } as const;
    const home = attrs.nodes[0] as NodeId;
    const pool = new Pool(attrs.id, { node: home, zone: 0, name: attrs.name }, { base: 0, pages: CHUNK_PAGES }, config);
    m.pools[attrs.id] = pool;
    table.rows[attrs.id] = attrs;
    if (attrs.class === 'realtime') pool.typeFor.fill(1); // one migratetype: nothing is ever claimed or stolen
    this.#carve(sources, pool, pages, attrs.ranges);
    sizePcp(m, pool);
    rebuildRequests(m);
    m.emit({ type: 'pool', verb: 'create', pool: attrs.name, pages });
    return ok(this.#statOf(attrs));
  }

  /**
   * Ends a pool: its frames go back to the pool or zones that they were carved from.
   *
   * @returns frames given back; pool-busy while pages are used. `drain` lets them stay where they are and belong there
   */
  destroy(name: string, { as = ROOT, drain = false }: As & { drain?: boolean } = {}): Result<number, Refusal> {
    const m = this.#m;
    const found = this.#user(name, as, 'admin');
    if (!found.ok) return found;
    const attrs = found.value;
    const pool = m.pools[attrs.id] as Pool;
    const lent = [...poolTableOf(m).leases.values()].find((l) => l.from === attrs.id || l.to === attrs.id);
    if (lent !== undefined) return no('pool-busy', `pool ${name}: lease ${lent.id} is open`);
    const child = livePools(m).find((a) => a.parent === name);
    if (child !== undefined) return no('pool-busy', `pool ${name}: ${child.name} was carved from it`);
    pool.alloc.drain();
    const used = pool.managed - pool.alloc.nrFree();
    if (used > 0 && !drain) return no('pool-busy', `pool ${name}: ${used} of its pages are used`);
    const pages = pool.managed;
    this.#giveAllBack(attrs, pool);
    const table = poolTableOf(m);
    // ═══ The pool is empty: nothing below can fail. ═══
    forgetRequests(m, attrs.id);
    table.rows[attrs.id] = { ...attrs, state: 'dead', name: '', parent: '', min: 0, fallbacks: [] };
    table.rows = table.rows.map((row) => {
      if (row === undefined || !row.fallbacks.some((e) => e.to === attrs.id)) return row;
      return { ...row, fallbacks: row.fallbacks.filter((e) => e.to !== attrs.id) };
    });
    rebuildRequests(m);
    m.emit({ type: 'pool', verb: 'destroy', pool: name, pages });
    return ok(pages);
  }

  /** A pool's size in pages. More come from where it was carved from, fewer go back there: free ones only. */
  resize(name: string, pages: number, { as = ROOT }: As = {}): Result<PoolStat, Refusal> {
    const m = this.#m;
    const found = this.#user(name, as, 'admin');
    if (!found.ok) return found;
    const attrs = found.value;
    const pool = m.pools[attrs.id] as Pool;
    if (!isCount(pages)) return no('bad-argument', `pool ${name}: ${pages} is no number of pages`);
    const loans = onLoan(m, attrs.id);
    if (pages + loans.out > attrs.max)
      return no('bad-argument', `pool ${name}: ${pages + loans.out} pages are more than its max, ${attrs.max}`);
    const delta = pages - pool.managed;
    if (delta > 0) {
      const sources = this.#sources(attrs);
      const enough = this.#canGive(sources, delta, attrs);
      if (enough !== undefined) return no(enough.reason, `pool ${name}: ${enough.message}`);
      this.#carve(sources, pool, delta, attrs.ranges);
    } else if (delta < 0) {
      const own = Math.max(0, pages - loans.in);
      if (own < attrs.min) return no('guarantee', `pool ${name}: ${own} pages are fewer than its min, ${attrs.min}`);
      const free = givable(m, pool);
      if (free < -delta) return no('pool-busy', `pool ${name}: ${-delta} pages are to go, ${free} are free`);
      this.#giveBack(attrs, pool, -delta);
    }
    sizePcp(m, pool);
    m.emit({ type: 'pool', verb: 'resize', pool: name, pages });
    return ok(this.#statOf(attrs));
  }

  /** Frames from one pool to another. @returns how many. Cost O(pieces); a chunk that is free is one. */
  move(src: string, dst: string, what: MoveWhat, options: MoveOptions = {}): Result<number, Refusal> {
    const m = this.#m;
    const { as = ROOT, used = 'refuse', partial = false } = options;
    const ends = this.#ends(src, dst, as, 'donate');
    if (!ends.ok) return ends;
    const { from, to, a, b } = ends.value;
    let moved = 0;
    if ('count' in what) {
      if (!isCount(what.count)) return no('bad-argument', `${what.count} is no number of pages`);
      const checked = this.#countToMove(from, to, a, b, what.count, partial);
      if (!checked.ok) return checked;
      moved = checked.value;
      moveFree(m, from, to, moved, b.ranges);
    } else {
      const ranges =
        'range' in what
          ? [what.range]
          : what.chunks.map((c) => ({ start: c * CHUNK_PAGES, end: (c + 1) * CHUNK_PAGES }));
      const misfit = ranges.find((r) => !this.#fits(b, r));
      if (misfit !== undefined)
        return no('label', `pool ${dst} may not have frames ${hex(misfit.start)}-${hex(misfit.end)}`);
      const owned = ranges.reduce((n, r) => n + this.#ownedIn(from, r), 0);
      const spare = this.#spare(from, a, ranges, used);
      if (spare !== undefined) return no(spare.reason, spare.message);
      if (owned > roomOf(m, b)) return no('guarantee', `pool ${dst} has ${to.present} pages, its max is ${b.max}`);
      const done: FrameRange[] = [];
      for (const r of ranges) {
        const result = moveRange(m, from, to, r, { used });
        if ('reason' in result) {
          for (const back of done) moveRange(m, to, from, back, { used: 'donate' });
          return err(result);
        }
        done.push(r);
        moved += result.pages;
      }
    }
    this.#settled(from, to);
    m.emit({ type: 'pool', verb: 'move', pool: src, to: dst, pages: moved });
    return ok(moved);
  }

  /** Changes attributes: the owner's and root's right. */
  setattr(name: string, change: AttrChange, { as = ROOT }: As = {}): Result<PoolStat, Refusal> {
    const m = this.#m;
    const attrs = poolNamed(m, name);
    if (attrs === undefined) return no('no-such-pool', `there is no pool ${name}`);
    if (as !== ROOT && as !== attrs.owner) return no('not-owner', `pool ${name} is ${attrs.owner}'s, not ${as}'s`);
    const next = merged(m, attrs, change);
    if (!next.ok) return next;
    const pool = m.pools[attrs.id] as Pool;
    const loans = onLoan(m, attrs.id);
    const own = pool.managed - loans.in; // what is borrowed can be promised to nobody
    if (next.value.min > own && next.value.kind === 'user') {
      return no('guarantee', `pool ${name} has ${own} pages, fewer than a min of ${next.value.min}: resize it first`);
    }
    if (next.value.max < pool.present + loans.out) {
      return no(
        'guarantee',
        `pool ${name} has ${pool.present + loans.out} pages, more than a max of ${next.value.max}`,
      );
    }
    const foreign = [...pool.labels.keys()].find((id) => !next.value.nodes.includes((m.pools[id] as Pool).node));
    if (foreign !== undefined) return no('label', `pool ${name} has frames of node ${(m.pools[foreign] as Pool).node}`);
    const others = livePools(m).map((a) => (a.id === attrs.id ? next.value : a));
    const promised = this.#overcommitted(others, 0);
    if (promised !== undefined) return no('guarantee', `pool ${name}: ${promised}`);
    poolTableOf(m).rows[attrs.id] = next.value;
    if (next.value.kind === 'user') pool.typeFor.set(next.value.class === 'realtime' ? [1, 1, 1] : [0, 1, 2]);
    unifyTypes(m, pool);
    sizePcp(m, pool);
    rebuildRequests(m);
    m.emit({ type: 'pool', verb: 'setattr', pool: name });
    return ok(this.#statOf(next.value));
  }

  /** Draws an edge: when `name` is empty, its requests go to `to` ("node0": each of the node's zones). No weight: removed. */
  setFallback(name: string, to: string, weight: number | undefined, { as = ROOT }: As = {}): Result<void, Refusal> {
    const m = this.#m;
    const attrs = poolNamed(m, name);
    if (attrs === undefined) return no('no-such-pool', `there is no pool ${name}`);
    if (as !== ROOT && as !== attrs.owner) return no('not-owner', `pool ${name} is ${attrs.owner}'s, not ${as}'s`);
    const node = nodeNamed(m, to);
    const target = poolNamed(m, to);
    const ids =
      node === undefined
        ? [target?.id]
        : m.zones
            .filter((z) => z.node === node)
            .sort((x, y) => y.zone - x.zone)
            .map((z) => z.id);
    if (ids.some((id) => id === undefined)) return no('no-such-pool', `there is no pool ${to}`);
    if (ids.includes(attrs.id)) return no('bad-argument', `pool ${name} cannot fall back to itself`);
    if (weight !== undefined && !(weight >= 0))
      return no('bad-argument', `a weight is a number from 0 on, not ${weight}`);
    const kept = attrs.fallbacks.filter((e) => !ids.includes(e.to));
    const added = weight === undefined ? [] : (ids as number[]).map((id) => ({ to: id, weight }));
    const fallbacks = [...kept, ...added].sort((x, y) => x.weight - y.weight); // stable: zones stay highest first
    poolTableOf(m).rows[attrs.id] = { ...attrs, fallbacks };
    rebuildRequests(m);
    m.emit({ type: 'pool', verb: 'fallback', pool: name, to });
    return ok(undefined);
  }

  /** A holder whose allocations come from a pool. */
  addHolder(spec: { class: PageClass; name: string; pool: string }, { as = ROOT }: As = {}): Result<HolderId, Refusal> {
    const m = this.#m;
    const row = this.request(spec.pool, { as });
    if (!row.ok) return row;
    if (!CLASS_TRAITS[spec.class].managed) {
      return no('bad-argument', `${spec.class} frames are not managed: no pool can have them`);
    }
    const holder = m.addHolder({ class: spec.class, name: spec.name });
    m.holders.node[holder] = NODE_OF_REQUEST - row.value;
    return ok(holder);
  }

  /** A row of Machine.requests for AllocOptions.pool: who asks for which pool. EPERM without `alloc`. */
  request(pool: string, { as = ROOT }: As = {}): Result<number, Refusal> {
    const m = this.#m;
    const attrs = poolNamed(m, pool);
    if (attrs === undefined) return no('no-such-pool', `there is no pool ${pool}`);
    if (!may(attrs, as, 'alloc')) return no('permission', `${as} may not allocate from pool ${pool}`);
    return ok(requestRow(m, attrs.id, as));
  }

  /** 2^order frames of a pool for a holder. A hot loop makes a holder of the pool instead, and calls Machine.alloc. */
  alloc(
    pool: string,
    holder: HolderId,
    order: Order,
    { as = ROOT, cpu }: As & { cpu?: number } = {},
  ): Result<Pfn, Refusal> {
    const m = this.#m;
    const row = this.request(pool, { as });
    if (!row.ok) return row;
    const attrs = attrsOf(m, (m.requests[row.value] as { pool: number }).pool);
    if (cpu !== undefined && attrs.cpus !== undefined && !attrs.cpus.includes(cpu)) {
      return no('permission', `CPU ${cpu} may not allocate from pool ${pool}: its CPUs are ${attrs.cpus.join(',')}`);
    }
    if (((m.holders.request[holder] as number) & REQUEST_UNMANAGED) !== 0) {
      const { class: cls } = m.holders.specs[holder] as HolderSpec;
      return no('bad-argument', `${cls} frames are not managed: no pool can have them`);
    }
    const pfn = m.alloc(holder, order, { pool: row.value });
    return pfn === -1 ? err(m.lastRefusal as Refusal) : ok(pfn); // a request that fails leaves its refusal
  }

  /** Gives an allocation back, as a principal. EPERM without `free` on the pool that has it. */
  free(pfn: Pfn, { as = ROOT }: As = {}): Result<void, Refusal> {
    const m = this.#m;
    const index = m.sections.indexOf(pfn);
    const owner = index < 0 ? undefined : m.poolAt(index);
    if (owner === undefined || m.sections.allocationAt(index)?.head !== index) {
      return no('bad-argument', `${hex(pfn)} is no allocation`);
    }
    if (!may(attrsOf(m, owner.id), as, 'free')) return no('permission', `${as} may not free pages of ${owner.title}`);
    m.free(pfn);
    return ok(undefined);
  }

  /** One allocation on each of several nodes, all or none: see alloc-set.ts. The refusal says which node had none. */
  allocSet(spec: AllocSetSpec, { as = ROOT }: As = {}): Result<SetMember[], SetRefusal> {
    return allocSet(this.#m, spec, as);
  }

  /** Free frames of one pool for another, to be given back: see pool-lease.ts. */
  borrow(spec: BorrowSpec, { as = ROOT }: As = {}): Result<Lease, Refusal> {
    return borrow(this.#m, spec, as);
  }

  /** Ends a lease: free frames at once, used ones after their contents moved. `partial`: those that can. */
  reclaim(lease: number, { as = ROOT, partial = false }: As & { partial?: boolean } = {}): Result<GivenBack, Refusal> {
    return giveBack(this.#m, lease, as, { partial });
  }

  /** Takes pages back from an opportunistic pool, within a deadline: see revoke.ts. */
  revoke(spec: RevokeSpec, { as = ROOT }: As = {}): Result<Revoked, Refusal> {
    return revoke(this.#m, spec, as);
  }

  /** Leases that are open, by id. */
  leases(): Lease[] {
    return [...poolTableOf(this.#m).leases.values()].sort((x, y) => x.id - y.id);
  }

  stat(name: string, { as = ROOT }: As = {}): Result<PoolStat, Refusal> {
    const node = nodeNamed(this.#m, name);
    if (node !== undefined) return ok(this.#nodeStat(node));
    const attrs = poolNamed(this.#m, name);
    if (attrs === undefined) return no('no-such-pool', `there is no pool ${name}`);
    if (attrs.kind === 'user' && !may(attrs, as, 'inspect'))
      return no('permission', `${as} may not look at pool ${name}`);
    return ok(this.#statOf(attrs));
  }

  /** All pools that the principal may look at: zones and user pools by id. Nodes: `nodes`. */
  list({ as = ROOT }: As = {}): PoolStat[] {
    return livePools(this.#m)
      .filter((a) => a.kind === 'zone' || may(a, as, 'inspect'))
      .map((a) => this.#statOf(a));
  }

  /** The node pools: unions of their zones and what was carved out of them. */
  nodes(): PoolStat[] {
    return this.#m.nodes.map((node) => this.#nodeStat(node));
  }

  /** Attributes as they stand. */
  attrs(name: string): PoolAttrs | undefined {
    return poolNamed(this.#m, name);
  }

  // ---------------------------------------------------------------------------------------------------- how it is done

  #user(name: string, as: Principal, perm: Perm): Result<PoolAttrs, Refusal> {
    const attrs = poolNamed(this.#m, name);
    if (attrs === undefined) return no('no-such-pool', `there is no pool ${name}`);
    if (attrs.kind === 'zone') return no('permission', `${name} is a zone: memory hotplug changes it, nobody else`);
    if (!may(attrs, as, perm))
      return no('permission', `${as} may not ${perm === 'admin' ? 'change' : perm} pool ${name}`);
    return ok(attrs);
  }

  #ends(
    src: string,
    dst: string,
    as: Principal,
    perm: Perm,
  ): Result<{ from: Pool; to: Pool; a: PoolAttrs; b: PoolAttrs }, Refusal> {
    const m = this.#m;
    const found: PoolAttrs[] = [];
    for (const name of [src, dst]) {
      const attrs = poolNamed(m, name);
      if (attrs === undefined) return no('no-such-pool', `there is no pool ${name}`);
      if (!may(attrs, as, perm)) return no('permission', `${as} may not ${perm} pages of pool ${name}`);
      found.push(attrs);
    }
    const [a, b] = found as [PoolAttrs, PoolAttrs];
    if (a.id === b.id) return no('bad-argument', `pool ${src} is both ends`);
    return ok({ from: m.pools[a.id] as Pool, to: m.pools[b.id] as Pool, a, b });
  }

  /** May a pool have these frames, by its nodes, zones and ranges? A zone takes back only what bears its label. */
  #fits(b: PoolAttrs, r: FrameRange): boolean {
    const m = this.#m;
    if (b.ranges !== undefined && !b.ranges.some((q) => q.start <= r.start && r.end <= q.end)) return false;
    for (let pfn = r.start - (r.start % 512); pfn < r.end; pfn += 512) {
      const index = m.sections.indexOf(Math.max(pfn, r.start) as Pfn);
      const zone = index < 0 ? undefined : m.zoneAt(index);
      if (zone === undefined) return false;
      if (b.kind === 'zone' ? zone.id !== b.id : !b.nodes.includes(zone.node) || !b.zones.includes(zone.zone))
        return false;
    }
    return true;
  }

  #ownedIn(pool: Pool, r: FrameRange): number {
    let n = 0;
    for (let pfn = r.start; pfn < r.end; ) {
      const index = this.#m.sections.indexOf(pfn as Pfn);
      const stop = Math.min(r.end, pfn - (pfn % 512) + 512);
      if (index >= 0)
        this.#m.owners.forEachRun(index, index + stop - pfn, (s, e, id) => void (n += id === pool.id ? e - s : 0));
      pfn = stop;
    }
    return n;
  }

  /** Would `from` keep its promise if all of these ranges left? */
  #spare(
    from: Pool,
    a: PoolAttrs,
    ranges: readonly FrameRange[],
    used: string,
  ): { reason: 'guarantee' | 'pool-busy'; message: string } | undefined {
    from.alloc.drain();
    for (const r of ranges) {
      const lease = leasedIn(poolTableOf(this.#m), r.start, r.end);
      if (lease?.to === from.id) return { reason: 'pool-busy', message: `frames of ${describeLease(this.#m, lease)}` };
    }
    const owned = ranges.reduce((n, r) => n + this.#ownedIn(from, r), 0);
    const free = ranges.reduce((n, r) => n + freeOf(this.#m, from, r.start, r.end), 0);
    const leaves = used === 'donate' ? free : owned; // what is evacuated takes other free frames
    const kept = givable(this.#m, from) - leaves;
    if (kept < a.min)
      return { reason: 'guarantee', message: `${from.title}: ${kept} pages would stay free, its min is ${a.min}` };
    return undefined;
  }

  #countToMove(
    from: Pool,
    to: Pool,
    a: PoolAttrs,
    b: PoolAttrs,
    count: number,
    partial: boolean,
  ): Result<number, Refusal> {
    const m = this.#m;
    if (
      b.kind === 'zone'
        ? from.labels.size !== 1 || !from.labels.has(b.id)
        : !this.#labelsOf(from).every((z) => b.nodes.includes(z.node) && b.zones.includes(z.zone))
    ) {
      return no('label', `pool ${b.name} may not have frames of ${a.name}: name a range`);
    }
    const free = Math.min(
      givable(m, from),
      b.ranges === undefined
        ? Number.POSITIVE_INFINITY
        : b.ranges.reduce((n, r) => n + freeOf(m, from, r.start, r.end), 0),
    );
    const floor = a.kind === 'zone' ? Math.max(0, from.watermarks.min) : a.min;
    const room = roomOf(m, b);
    const most = Math.max(0, Math.min(free - floor, room));
    if (count <= most) return ok(count);
    if (partial) return ok(most);
    if (room < count) return no('guarantee', `pool ${b.name} has ${to.present} pages, its max is ${b.max}`);
    if (free < count) return no('no-memory', `pool ${a.name}: ${count} pages are asked for, ${free} are free`);
    return no('guarantee', `pool ${a.name}: ${free - count} pages would stay free, ${floor} have to`);
  }

  #labelsOf(pool: Pool): Pool[] {
    return pool.kind === 'zone' ? [pool] : [...pool.labels.keys()].map((id) => this.#m.pools[id] as Pool);
  }

  #attrsFor(spec: PoolSpec, as: Principal): Result<{ attrs: PoolAttrs; sources: Pool[] }, Refusal> {
    const m = this.#m;
    const { name } = spec;
    if (!NAME.test(name) || RESERVED_NAME.test(name)) {
      return no(
        'bad-argument',
        `"${name}" is no name for a pool: a letter, then up to 63 letters, digits and _ . -; node0 and the like are taken`,
      );
    }
    if (poolNamed(m, name) !== undefined) return no('pool-exists', `pool ${name} exists already`);
    const parent = spec.parent === undefined ? undefined : poolNamed(m, spec.parent);
    if (spec.parent !== undefined && parent === undefined) return no('no-such-pool', `there is no pool ${spec.parent}`);
    const source = parent?.kind === 'user' ? parent : undefined;
    if (source === undefined ? as !== ROOT : !may(source, as, 'donate')) {
      return no('permission', `${as} may not carve pools out of ${parent?.name ?? 'zones'}`);
    }
    const nodes = (spec.nodes ?? parent?.nodes ?? m.nodes.slice(0, 1)).map((n) => toNodeId(n));
    const usual: readonly ZoneIndex[] = spec.ranges === undefined ? [0, 1, 2] : [0, 1, 2, 3];
    const zones = spec.zones?.map((z) => ZONE_NAMES.indexOf(z) as ZoneIndex) ?? parent?.zones ?? usual; // names of the type
    const id = this.#freeId();
    const blank: PoolAttrs = {
      id,
      name,
      kind: 'user',
      parent: parent?.name ?? `node${nodes[0]}`,
      nodes,
      zones,
      ranges: spec.ranges,
      cpus: undefined,
      rule: spec.rule ?? '',
      owner: as,
      perms: new Map(),
      priority: 0,
      min: 0,
      low: 0,
      max: Number.POSITIVE_INFINITY,
      class: 'normal',
      state: 'active',
      fallbacks: [],
    };
    const attrs = merged(m, blank, spec);
    if (!attrs.ok) return attrs;
    if (zones.length === 0 || zones.some((z) => z < 0)) return no('bad-argument', `pool ${name}: its zones name none`);
    if (spec.pages !== undefined && !isCount(spec.pages))
      return no('bad-argument', `pool ${name}: ${spec.pages} is no number of pages`);
    return ok({ attrs: attrs.value, sources: this.#sources(attrs.value) });
  }

  /** The lowest id of a pool that is dead, or a new one. */
  #freeId(): number {
    const m = this.#m;
    const dead = m.pools.findIndex((p) => p.kind === 'user' && attrsOf(m, p.id).state === 'dead');
    return dead >= 0 ? dead : m.pools.length;
  }

  /** Where a pool's frames come from and go back to: its parent, or the zones of its nodes, highest first, Movable last. */
  #sources(a: PoolAttrs): Pool[] {
    const m = this.#m;
    const parent = poolNamed(m, a.parent);
    if (parent?.kind === 'user') return [m.pools[parent.id] as Pool];
    const rank = (z: Pool): number => (z.zone === ZONE_MOVABLE ? -1 : z.zone);
    return a.nodes.flatMap((node) =>
      m.zones
        .filter((z) => z.node === node && a.zones.includes(z.zone) && (parent === undefined || z.id === parent.id))
        .sort((x, y) => rank(y) - rank(x)),
    );
  }

  /** Frames that a source can give to a pool now: a zone keeps its min watermark, a pool its min. */
  #spareOf(source: Pool, a: PoolAttrs): number {
    const m = this.#m;
    const s = attrsOf(m, source.id);
    const all = givable(m, source);
    const floor = s.kind === 'zone' ? Math.max(0, source.watermarks.min) : s.min;
    const inRange = a.ranges === undefined ? all : a.ranges.reduce((n, r) => n + freeOf(m, source, r.start, r.end), 0);
    return Math.max(0, Math.min(all - floor, inRange));
  }

  #canGive(
    sources: readonly Pool[],
    pages: number,
    a: PoolAttrs,
  ): { reason: 'no-memory'; message: string } | undefined {
    const spare = sources.reduce((n, s) => n + this.#spareOf(s, a), 0);
    if (spare >= pages) return undefined;
    const names = sources.length === 0 ? 'no zone' : sources.map((s) => s.title).join(', ');
    return { reason: 'no-memory', message: `${pages} pages are wanted, ${names} can give ${spare}` };
  }

  #carve(sources: readonly Pool[], to: Pool, pages: number, ranges: PoolAttrs['ranges']): void {
    const m = this.#m;
    let left = pages;
    for (const source of sources) {
      if (left === 0) break;
      const take = Math.min(left, this.#spareOf(source, attrsOf(m, to.id)));
      if (take === 0) continue;
      moveFree(m, source, to, take, ranges);
      this.#settled(source, to);
      left -= take;
    }
  }

  /** `pages` free frames go home. */
  #giveBack(a: PoolAttrs, pool: Pool, pages: number): void {
    const m = this.#m;
    const parent = poolNamed(m, a.parent);
    if (parent?.kind === 'user') {
      const to = m.pools[parent.id] as Pool;
      moveFree(m, pool, to, pages);
      this.#settled(pool, to);
      return;
    }
    // Lowest zones first: scarce memory goes back before plenty does.
    let left = pages;
    const zones = this.#labelsOf(pool).sort((x, y) => x.zone - y.zone || x.id - y.id);
    for (const zone of zones) {
      const ranges = this.#labelRanges(pool, zone);
      const free = ranges.reduce((n, r) => n + freeOf(m, pool, r.start, r.end), 0);
      const take = Math.min(left, free);
      if (take === 0) continue;
      // Borrowed frames are free here too, and stay.
      const moved = moveFree(m, pool, zone, take, zones.length === 1 ? undefined : ranges);
      this.#settled(pool, zone);
      left -= moved.reduce((n, r) => n + r.end - r.start, 0);
    }
  }

  /** Everything goes home, used frames where they lie. */
  #giveAllBack(a: PoolAttrs, pool: Pool): void {
    const m = this.#m;
    const parent = poolNamed(m, a.parent);
    for (const zone of this.#labelsOf(pool)) {
      const to = parent?.kind === 'user' ? (m.pools[parent.id] as Pool) : zone;
      for (const r of this.#labelRanges(pool, zone)) moveRange(m, pool, to, r, { used: 'donate' });
      this.#settled(pool, to);
    }
  }

  /** Frame numbers of a pool's frames that bear a zone's label, in runs. Cost O(pageblocks of the hull). */
  #labelRanges(pool: Pool, zone: Pool): FrameRange[] {
    const m = this.#m;
    const out: { start: number; end: number }[] = [];
    const end = Math.min(pool.base + pool.pages, m.sections.frames);
    m.owners.forEachRun(pool.base, end, (from, to, id) => {
      if (id !== pool.id) return;
      for (let i = from; i < to; ) {
        const next = Math.min(to, (i | 511) + 1);
        const pfn = m.sections.pfnOf(i);
        const last = out[out.length - 1];
        if (m.owners.zoneAt(i) === zone.id) {
          if (last !== undefined && last.end === pfn) last.end += next - i;
          else out.push({ start: pfn, end: pfn + next - i });
        }
        i = next;
      }
    });
    return out;
  }

  #settled(from: Pool, to: Pool): void {
    const m = this.#m;
    reshare(m, from, to);
    sizePcp(m, from);
    sizePcp(m, to);
  }

  /** Are promises larger than what there is? Nodes that share promises are looked at together. @returns a sentence */
  #overcommitted(all: readonly PoolAttrs[], _pages: number): string | undefined {
    const m = this.#m;
    const masks = new Set(all.filter((a) => a.min > 0).map((a) => [...a.nodes].sort((x, y) => x - y).join(',')));
    for (const mask of masks) {
      const nodes = mask.split(',').map(Number);
      const promised = all.reduce((n, a) => n + (a.nodes.every((x) => nodes.includes(x)) ? a.min : 0), 0);
      const managed = m.zones.reduce((n, z) => n + (nodes.includes(z.node) ? zoneTotals(m, z).managed : 0), 0);
      if (promised > managed) return `${promised} pages would be promised on node ${mask}, which has ${managed}`;
    }
    return undefined;
  }

  #statOf(a: PoolAttrs): PoolStat {
    const m = this.#m;
    const pool = m.pools[a.id] as Pool;
    const free = pool.alloc.nrFree() + pool.alloc.pcpPages();
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
      zones: a.zones.map((z) => ZONE_NAMES[z] as ZoneName),
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

  #nodeStat(node: NodeId): PoolStat {
    const m = this.#m;
    const mine = this.list().filter((s) => s.kind === 'zone' && s.nodes[0] === node);
    let managed = 0;
    let free = 0;
    for (const z of m.zones.filter((p) => p.node === node)) managed += zoneTotals(m, z).managed;
    for (const p of m.pools) {
      if (p.kind === 'zone') free += p.node === node ? p.alloc.nrFree() + p.alloc.pcpPages() : 0;
      else if (this.#labelsOf(p).every((z) => z.node === node)) free += p.alloc.nrFree() + p.alloc.pcpPages();
      else
        for (const z of this.#labelsOf(p))
          if (z.node === node) free += this.#labelRanges(p, z).reduce((n, r) => n + freeOf(m, p, r.start, r.end), 0);
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
      zones: mine.flatMap((s) => s.zones),
      cpus: undefined,
      rule: '',
      min: 0,
      low: 0,
      max: Number.POSITIVE_INFINITY,
      managed,
      free,
      used: managed - free,
      borrowedIn: 0,
      borrowedOut: 0,
      state: 'active',
    };
  }
}

const isCount = (n: number): boolean => Number.isSafeInteger(n) && n >= 0;
const hex = (n: number): string => n.toString(16);

/** Attributes with a change applied, or why not. */
function merged(m: Machine, a: PoolAttrs, change: AttrChange): Result<PoolAttrs, Refusal> {
  const bad = (why: string): { ok: false; error: Refusal } => no('bad-argument', `pool ${a.name}: ${why}`);
  const nodes = change.nodes?.map((n) => toNodeId(n)) ?? a.nodes;
  if (nodes.length === 0) return bad('its node mask is empty');
  const stranger = nodes.find((n) => !m.nodes.includes(n));
  if (stranger !== undefined) return bad(`there is no node ${stranger}`);
  const cpus = change.cpus ?? a.cpus;
  const all = m.spec.cpus ?? 1;
  if (cpus !== undefined && cpus.length === 0) return bad('its CPU mask is empty');
  const missing = cpus?.find((c) => !Number.isInteger(c) || c < 0 || c >= all);
  if (missing !== undefined) return bad(`there is no CPU ${missing}: the machine has ${all}`);
  const priority = change.priority ?? a.priority;
  if (!Number.isInteger(priority) || priority < 0 || priority > 255)
    return bad(`its priority is 0 to 255, not ${priority}`);
  const { min = a.min, low = a.low, max = a.max } = change;
  if (!isCount(min) || !isCount(low)) return bad(`min and low are numbers of pages, not ${min} and ${low}`);
  if (!(max === Number.POSITIVE_INFINITY || isCount(max)) || max < min)
    return bad(`its max, ${max}, is below its min, ${min}`);
  const cls = change.class ?? a.class;
  if (!POOL_CLASSES.includes(cls)) return bad(`its class is one of ${POOL_CLASSES.join(', ')}`);
  let { perms } = a;
  if (change.perms !== undefined) {
    const wrong = Object.values(change.perms)
      .flat()
      .find((p) => !PERMS.includes(p));
    if (wrong !== undefined) return bad(`"${wrong}" is no permission: ${PERMS.join(', ')}`);
    perms = new Map(Object.entries(change.perms).map(([who, what]) => [who, new Set(what)]));
  }
  const owner = change.owner ?? a.owner;
  if (owner === '') return bad('its owner is nobody');
  return ok({
    ...a,
    nodes,
    cpus: cpus && [...cpus].sort((x, y) => x - y),
    priority,
    min,
    low,
    max,
    class: cls,
    perms,
    owner,
  });
}
