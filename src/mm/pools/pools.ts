// Pools: the verbs by which pools are made, changed and asked about. `pools(machine).create({...})`.
//
//   verb        does                                                        refusals (errno)
//   create      carves frames out of zones or of a parent pool              EEXIST EINVAL EPERM ENOSPC ENOMEM ENOENT EXDEV
//   destroy     gives all frames back to where they were carved from        EBUSY EPERM ENOENT
//   resize      more frames from there, or fewer                            ENOSPC ENOMEM EBUSY EPERM
//   move        frames from pool to pool: a count, a range, chunks          EPERM EXDEV EBUSY ENOSPC ENOMEM EINVAL
//   setattr     owner, permissions, priority, min, low, max, masks          EACCES EINVAL ENOSPC EXDEV EBUSY
//   setFallback where requests go when the pool is empty                    EACCES EINVAL ENOENT
//   alloc free  frames, as a principal                                      EPERM ENOMEM EINVAL
//   allocSet    one allocation on each of several nodes (alloc-set.ts)      ENOMEM EPERM EINVAL ENOENT
//   revoke      pages of an opportunistic pool for the host (revoke.ts)     ETIMEDOUT EBUSY EPERM ENOSPC EXDEV
//   stat list   numbers                                                     ENOENT
//
//   borrow      a lease of free frames of another pool                      EPERM ENOSPC ENOMEM EXDEV EINVAL ENOENT
//   reclaim     ends a lease (pool-lease.ts)                                EBUSY EPERM ENOSPC ENOENT
//
//   where            what                                        where            what
//   pool-attrs.ts    attributes, what contradicts itself         pool-move.ts     frames change their pool
//   pool-promise.ts  how much a pool may give                    pool-stat.ts     numbers
//   pool-carve.ts    where frames come from and go back to       pool-table.ts    the rows
//
// Every verb does all or nothing, returns its refusal as a value, and sends one event. Who asks is an argument; root may
// everything. A source is named by a pool's name, or by a node's ("node0"): its zones, the highest first, but never
// ZONE_MOVABLE unless the pool's zones say so: frames of it serve only requests that may be moved.
//
// Invariants: I1 to I6 (check-pools.ts). A refusal changes nothing at all, but for contents that moved within a pool before
// one that could not stopped an `evacuate`. After Snook 2007 (spec 9.A).

import { err, ok, type Result } from '#base/result';
import type { HolderId, NodeId, Order, Pfn } from '#base/units';
import { poolConfig } from '../boot.ts';
import { CHUNK_PAGES, PAGEBLOCK_PAGES } from '../geometry.ts';
import { type HolderSpec, REQUEST_UNMANAGED } from '../holder.ts';
import { hugePageAt } from '../hugetlb.ts';
import type { Machine } from '../machine.ts';
import { CLASS_TRAITS, type PageClass } from '../page-class.ts';
import { Pool } from '../pool.ts';
import type { Refusal } from '../refusal.ts';
import { sizePcp } from '../vm-tunables.ts';
import { type AllocSetSpec, allocSet, type SetMember, type SetRefusal } from './alloc-set.ts';
import { type As, type AttrChange, changedAttrs, isCount, isRange, newAttrs, no, type PoolSpec } from './pool-attrs.ts';
import { canCarve, carve, giveAllBack, giveBack, ownedIn } from './pool-carve.ts';
import { describeLease, fittingRanges, freeToGive, onLoan, roomOf, settle } from './pool-fit.ts';
import { type BorrowSpec, borrow, giveBack as endLease, type GivenBack, NEVER_LEND } from './pool-lease.ts';
import { type FrameRange, freeOf, givable, moveFree, moveRanges } from './pool-move.ts';
import { floorOf, overcommitted } from './pool-promise.ts';
import { forgetRequests, rebuildRequests, requestRow } from './pool-requests.ts';
import { nodeStat, type PoolStat, statOf } from './pool-stat.ts';
import {
  attrsOf,
  type Lease,
  leasedIn,
  livePools,
  may,
  nodeNamed,
  type Perm,
  type PoolAttrs,
  type Principal,
  poolNamed,
  poolTableOf,
  ROOT,
} from './pool-table.ts';
import { unifyTypes } from './relabel.ts';
import { NODE_OF_REQUEST } from './request.ts';
import { type Revoked, type RevokeSpec, revoke } from './revoke.ts';

export type { As, AttrChange, Grants, PoolSpec } from './pool-attrs.ts';
export type { PoolStat } from './pool-stat.ts';

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
    const checked = newAttrs(m, spec, this.#freeId(), as);
    if (!checked.ok) return checked;
    const attrs = checked.value;
    const pages = spec.pages ?? attrs.min;
    if (pages < attrs.min)
      return no('bad-argument', `pool ${spec.name}: ${pages} pages are fewer than its min, ${attrs.min}`);
    if (pages > attrs.max)
      return no('bad-argument', `pool ${spec.name}: ${pages} pages are more than its max, ${attrs.max}`);
    const promised = overcommitted(m, [...livePools(m), attrs]);
    if (promised !== undefined) return no('guarantee', `pool ${spec.name}: ${promised}`);
    const tooFew = canCarve(m, attrs, pages);
    if (tooFew !== undefined) return no('no-memory', `pool ${spec.name}: ${tooFew}`);

    // ═══ Point of no return: nothing below can fail. ═══
    const config = { ...poolConfig(m), code: spec.code ?? 'shared' } as const;
    const home = attrs.nodes[0] as NodeId; // newAttrs refuses an empty mask
    const pool = new Pool(attrs.id, { node: home, zone: 0, name: attrs.name }, { base: 0, pages: CHUNK_PAGES }, config);
    m.pools[attrs.id] = pool;
    poolTableOf(m).rows[attrs.id] = attrs;
    if (attrs.class === 'realtime') pool.typeFor.fill(1); // one migratetype: nothing is ever claimed or stolen
    carve(m, attrs, pages);
    sizePcp(m, pool);
    rebuildRequests(m);
    m.emit({ type: 'pool', verb: 'create', pool: attrs.name, pages });
    return ok(statOf(m, attrs));
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
    const table = poolTableOf(m);
    const lent = [...table.leases.values()].find((l) => l.from === attrs.id || l.to === attrs.id);
    if (lent !== undefined) return no('pool-busy', `pool ${name}: lease ${lent.id} is open`);
    const child = livePools(m).find((a) => a.parent === name);
    if (child !== undefined) return no('pool-busy', `pool ${name}: ${child.name} was carved from it`);
    const { managed, used } = statOf(m, attrs);
    if (used > 0 && !drain) return no('pool-busy', `pool ${name}: ${used} of its pages are used`);

    // ═══ Point of no return: nothing below can fail. ═══
    giveAllBack(m, attrs);
    forgetRequests(m, attrs.id);
    table.rows[attrs.id] = { ...attrs, state: 'dead', name: '', parent: '', min: 0, fallbacks: [] };
    table.rows = table.rows.map((row) => {
      if (row === undefined || !row.fallbacks.some((e) => e.to === attrs.id)) return row;
      return { ...row, fallbacks: row.fallbacks.filter((e) => e.to !== attrs.id) };
    });
    rebuildRequests(m);
    m.emit({ type: 'pool', verb: 'destroy', pool: name, pages: managed });
    return ok(managed);
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
      const tooFew = canCarve(m, attrs, delta);
      if (tooFew !== undefined) return no('no-memory', `pool ${name}: ${tooFew}`);
      carve(m, attrs, delta);
    } else if (delta < 0) {
      const own = Math.max(0, pages - loans.in);
      if (own < attrs.min) return no('guarantee', `pool ${name}: ${own} pages are fewer than its min, ${attrs.min}`);
      const free = givable(m, pool);
      if (free < -delta) return no('pool-busy', `pool ${name}: ${-delta} pages are to go, ${free} are free`);
      giveBack(m, attrs, -delta);
    }
    sizePcp(m, pool);
    m.emit({ type: 'pool', verb: 'resize', pool: name, pages });
    return ok(statOf(m, attrs));
  }

  /**
   * Frames from one pool to another: a number of free ones, largest pieces first, or all that the source has in a range or
   * in chunks. @returns how many. Cost O(pieces); a chunk that is free is one.
   */
  move(src: string, dst: string, what: MoveWhat, options: MoveOptions = {}): Result<number, Refusal> {
    const m = this.#m;
    const { as = ROOT } = options;
    const ends = this.#ends(src, dst, as, 'donate');
    if (!ends.ok) return ends;
    const moved =
      'count' in what ? this.#moveCount(ends.value, what.count, options) : this.#moveRanges(ends.value, what, options);
    if (!moved.ok) return moved;
    settle(m, ends.value.from, ends.value.to);
    m.emit({ type: 'pool', verb: 'move', pool: src, to: dst, pages: moved.value });
    return moved;
  }

  #moveCount({ from, to, a, b }: Ends, count: number, { partial = false }: MoveOptions): Result<number, Refusal> {
    const m = this.#m;
    if (!isCount(count)) return no('bad-argument', `${count} is no number of pages`);
    const ranges = fittingRanges(m, from, b);
    if (ranges?.length === 0 && from.present > 0) return no('label', `pool ${b.name} may have no frame of ${a.name}`);
    const free = freeToGive(m, from, ranges);
    const all = givable(m, from);
    const floor = floorOf(m, from);
    const room = roomOf(m, b);
    const most = Math.max(0, Math.min(free, all - floor, room));
    const pages = partial ? Math.min(count, most) : count;
    if (pages <= most) {
      moveFree(m, from, to, pages, ranges);
      return ok(pages);
    }
    if (room < count) return no('guarantee', `pool ${b.name} has ${to.present} pages, its max is ${b.max}`);
    if (free < count) return no('no-memory', `pool ${a.name}: ${count} pages are asked for, ${free} are free`);
    return no('guarantee', `pool ${a.name}: ${all - count} pages would stay free, ${floor} have to`);
  }

  #moveRanges(
    { from, to, a, b }: Ends,
    what: Exclude<MoveWhat, { count: number }>,
    { used = 'refuse' }: MoveOptions,
  ): Result<number, Refusal> {
    const m = this.#m;
    const ranges: readonly FrameRange[] =
      'range' in what
        ? [what.range]
        : [...new Set(what.chunks)].map((c) => ({ start: c * CHUNK_PAGES, end: (c + 1) * CHUNK_PAGES }));
    const half = 'chunks' in what ? what.chunks.find((c) => !isCount(c)) : undefined;
    if (half !== undefined) return no('bad-argument', `${half} is no chunk`);
    const none = ranges.find((r) => !isRange(r));
    if (none !== undefined) return no('bad-argument', `${none.start}-${none.end} is no range of frames`);
    const misfit = ranges.find((r) => !this.#fits(b, r));
    if (misfit !== undefined)
      return no('label', `pool ${b.name} may not have frames ${hex(misfit.start)}-${hex(misfit.end)}`);
    for (const r of ranges) {
      const lease = leasedIn(poolTableOf(m), r.start, r.end);
      if (lease?.to === from.id) return no('pool-busy', `frames of ${describeLease(m, lease)}`);
    }
    const owned = ownedIn(m, from, ranges);
    if (owned > roomOf(m, b)) return no('guarantee', `pool ${b.name} has ${to.present} pages, its max is ${b.max}`);
    const free = ranges.reduce((n, r) => n + freeOf(m, from, r.start, r.end), 0);
    // What is evacuated takes other free frames; what stays takes none.
    const kept = givable(m, from) - (used === 'evacuate' ? owned : free);
    if (kept < 0) return no('no-memory', `pool ${a.name}: ${owned - free} used pages have nowhere to go`);
    if (kept < a.min) return no('guarantee', `pool ${a.name}: ${kept} pages would stay free, its min is ${a.min}`);
    const result = moveRanges(m, from, to, ranges, { used });
    return 'reason' in result ? err(result) : ok(result.pages);
  }

  /** Changes attributes: the owner's and root's right. Of a zone: owner, permissions, priority. */
  setattr(name: string, change: AttrChange, { as = ROOT }: As = {}): Result<PoolStat, Refusal> {
    const m = this.#m;
    const attrs = poolNamed(m, name);
    if (attrs === undefined) return no('no-such-pool', `there is no pool ${name}`);
    if (as !== ROOT && as !== attrs.owner) return no('not-owner', `pool ${name} is ${attrs.owner}'s, not ${as}'s`);
    const next = changedAttrs(m, attrs, change);
    if (!next.ok) return next;
    const refused = attrs.kind === 'zone' ? undefined : this.#cannotBecome(attrs, next.value);
    if (refused !== undefined) return no(refused.reason, `pool ${name} ${refused.message}`);

    // ═══ Point of no return: nothing below can fail. ═══
    const pool = m.pools[attrs.id] as Pool;
    poolTableOf(m).rows[attrs.id] = next.value;
    if (attrs.kind === 'user') {
      pool.node = next.value.nodes[0] as NodeId; // changedAttrs refuses an empty mask
      pool.typeFor.set(next.value.class === 'realtime' ? [1, 1, 1] : [0, 1, 2]);
      unifyTypes(m, pool);
      sizePcp(m, pool);
    }
    rebuildRequests(m);
    m.emit({ type: 'pool', verb: 'setattr', pool: name });
    return ok(statOf(m, next.value));
  }

  /** Why a user pool's frames, leases and promises do not allow these attributes. */
  #cannotBecome(
    now: PoolAttrs,
    next: PoolAttrs,
  ): { reason: 'guarantee' | 'label' | 'pool-busy'; message: string } | undefined {
    const m = this.#m;
    const pool = m.pools[now.id] as Pool;
    const loans = onLoan(m, now.id);
    const own = pool.managed - loans.in; // what is borrowed can be promised to nobody
    if (next.min > own) {
      return { reason: 'guarantee', message: `has ${own} pages, fewer than a min of ${next.min}: resize it first` };
    }
    const size = pool.present + loans.out;
    if (next.max < size) return { reason: 'guarantee', message: `has ${size} pages, more than a max of ${next.max}` };
    const foreign = [...pool.labels.keys()].find((id) => !next.nodes.includes((m.pools[id] as Pool).node));
    if (foreign !== undefined) {
      return { reason: 'label', message: `has frames of node ${(m.pools[foreign] as Pool).node}` };
    }
    if (loans.out > 0 && NEVER_LEND.includes(next.class)) {
      return { reason: 'pool-busy', message: `has lent ${loans.out} pages: a ${next.class} pool lends none` };
    }
    if (loans.in > 0 && next.class === 'realtime') {
      return { reason: 'pool-busy', message: `has borrowed ${loans.in} pages: a realtime pool borrows none` };
    }
    const all = livePools(m).map((a) => (a.id === now.id ? next : a));
    const promised = next.min > now.min || next.nodes !== now.nodes ? overcommitted(m, all) : undefined;
    return promised === undefined ? undefined : { reason: 'guarantee', message: `cannot promise that: ${promised}` };
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

  /** Gives an allocation back, as a principal. EPERM without `free` on the pool that has it; EINVAL: what the kernel keeps. */
  free(pfn: Pfn, { as = ROOT }: As = {}): Result<void, Refusal> {
    const m = this.#m;
    const index = m.sections.indexOf(pfn);
    const owner = index < 0 ? undefined : m.poolAt(index);
    if (owner === undefined || m.sections.allocationAt(index)?.head !== index) {
      return no('bad-argument', `${hex(pfn)} is no allocation`);
    }
    if (!may(attrsOf(m, owner.id), as, 'free')) return no('permission', `${as} may not free pages of ${owner.title}`);
    const cls = (m.holders.specs[m.holders.holderOf(m.sections.ownerAt(index))] as HolderSpec).class;
    const { managed, mobility } = CLASS_TRAITS[cls];
    if (!managed || mobility === 'stays' || cls === 'memmap' || hugePageAt(m, index) !== undefined) {
      return no('bad-argument', `${hex(pfn)} is ${cls}: it is not for a principal to give back`);
    }
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
    return endLease(this.#m, lease, as, { partial });
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
    if (node !== undefined) return ok(nodeStat(this.#m, node));
    const attrs = poolNamed(this.#m, name);
    if (attrs === undefined) return no('no-such-pool', `there is no pool ${name}`);
    if (attrs.kind === 'user' && !may(attrs, as, 'inspect'))
      return no('permission', `${as} may not look at pool ${name}`);
    return ok(statOf(this.#m, attrs));
  }

  /** All pools that the principal may look at: zones and user pools by id. Nodes: `nodes`. */
  list({ as = ROOT }: As = {}): PoolStat[] {
    return livePools(this.#m)
      .filter((a) => a.kind === 'zone' || may(a, as, 'inspect'))
      .map((a) => statOf(this.#m, a));
  }

  /** The node pools: unions of their zones and what was carved out of them. */
  nodes(): PoolStat[] {
    return this.#m.nodes.map((node) => nodeStat(this.#m, node));
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

  #ends(src: string, dst: string, as: Principal, perm: Perm): Result<Ends, Refusal> {
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
    for (let pfn = r.start - (r.start % PAGEBLOCK_PAGES); pfn < r.end; pfn += PAGEBLOCK_PAGES) {
      const index = m.sections.indexOf(Math.max(pfn, r.start) as Pfn);
      const zone = index < 0 ? undefined : m.zoneAt(index);
      if (zone === undefined) return false;
      if (b.kind === 'zone' ? zone.id !== b.id : !b.nodes.includes(zone.node) || !b.zones.includes(zone.zone))
        return false;
    }
    return true;
  }

  /** The lowest id of a pool that is dead, or a new one. */
  #freeId(): number {
    const m = this.#m;
    const dead = m.pools.findIndex((p) => p.kind === 'user' && attrsOf(m, p.id).state === 'dead');
    return dead >= 0 ? dead : m.pools.length;
  }
}

/** Both pools of a move, with their attributes. */
type Ends = { readonly from: Pool; readonly to: Pool; readonly a: PoolAttrs; readonly b: PoolAttrs };

const hex = (n: number): string => n.toString(16);
