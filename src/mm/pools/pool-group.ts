// Groups: processes that have a pool, a limit and an account together. What Linux does with memory cgroups, by frames.
//
//   group "shop"   members: heap (anonymous), cache (file)  ──allocate from──>  pool "shop"        own frames: 8192
//     └ "shop-db"  member:  buffers (shmem)                 ──────────────────>  pool "shop-db"    carved from it: 4096
//                                                                               limit of "shop"   12288
//
//   account    the pool's numbers and, by member and class, what they hold in it; what a fallback gave them is `outside`
//   limit      frames of the pool and of all pools that were carved from it. More frames: the pool grows. Fewer: free ones
//              go; when they are not enough, members' pages are shed: page cache first (clean and unmapped it is dropped),
//              then what may move goes to the pool's fallbacks (shed.ts)
//   move       the group's pages come to another pool. Where that pool may have their frames, they change hands in place,
//              contents untouched, pinned or not; all others migrate to its free frames. New pages come from there, too
//
// A limit in Linux is a counter over frames that all groups share; here it is frames. So a group cannot be refused below
// its limit, none of its frames can lie between those of others, and what it does not use nobody else can.
//
// Invariants: GR1 a refusal of `moveTo` leaves every frame with its pool and every page where it was; GR2 a refusal of
// `setLimit` leaves the limit: what was shed until then stays shed, as after any reclaim; GR3 copies of a machine have
// its groups, and change them independently. After Snook 2007, problem 4; spec 9.A, semantics 1, 3 and 6.

import { err, ok, type Result } from '#base/result';
import type { HolderId, Pfn } from '#base/units';
import { MAX_ORDER, NR_MIGRATE_TYPES, NR_ORDERS, NR_PCP_TYPES, PAGEBLOCK_ORDER } from '../geometry.ts';
import type { HolderSpec } from '../holder.ts';
import { migrateWithPools } from '../hugetlb.ts';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import { CLASS_TRAITS, type PageClass, ZONE_MOVABLE, ZONE_NORMAL } from '../page-class.ts';
import { allocationsIn, BlockerList, blockerOf } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import { type Blocker, type BlockerCause, type Refusal, type RefusalReason, refusal } from '../refusal.ts';
import { isIsolated, onLoan, roomOf, settle } from './pool-fit.ts';
import { givable } from './pool-move.ts';
import { requestRow } from './pool-requests.ts';
import {
  leasedIn,
  livePools,
  may,
  type PoolAttrs,
  type Principal,
  poolNamed,
  poolTableOf,
  ROOT,
} from './pool-table.ts';
import { type As, type PoolSpec, pools } from './pools.ts';
import { relabelUsed } from './relabel.ts';
import { NODE_OF_REQUEST, type PoolRequest } from './request.ts';
import { type Allocation, isGone, vacate, waysOutOf } from './shed.ts';

/** A group with a pool of its own and of its name, or one in a pool that exists. */
export type GroupSpec = PoolSpec | { readonly name: string; readonly pool: string };

export type MemberUsage = {
  readonly holder: HolderId;
  readonly name: string;
  readonly class: PageClass;
  /** Pages in the group's pool. */
  readonly pages: number;
  /** Pages elsewhere: a fallback gave them, or they stayed when the group moved. */
  readonly outside: number;
};

export type GroupUsage = {
  readonly name: string;
  readonly pool: string;
  /** Frames of the pool and of pools carved from it. */
  readonly limit: number;
  /** Of the pool itself, whoever holds them. */
  readonly managed: number;
  readonly free: number;
  readonly used: number;
  /** The members' pages in the pool. */
  readonly byClass: Readonly<Partial<Record<PageClass, number>>>;
  readonly members: readonly MemberUsage[];
  /** Pools carved from this one, by name. */
  readonly carved: readonly string[];
};

export type LimitChange = {
  /** As it is now. */
  readonly limit: number;
  /** Pages of clean page cache that were given up. */
  readonly dropped: number;
  /** Pages that went to the pool's fallbacks. */
  readonly moved: number;
};

export type GroupMove = {
  /** Pages that changed their pool where they lie. */
  readonly inPlace: number;
  /** Pages that moved to other frames. */
  readonly migrated: number;
  /** Pages that stay in the old pool; with `partial` only. */
  readonly stayed: number;
};

/** One group. Immutable: a change replaces the row. */
type GroupRow = { readonly name: string; readonly pool: string; readonly members: readonly HolderId[] };

class GroupTable {
  rows = new Map<string, GroupRow>();

  copy(): GroupTable {
    const to = new GroupTable();
    to.rows = new Map(this.rows);
    return to;
  }
}

const state = machineState(() => new GroupTable());

const no = (reason: RefusalReason, message: string): { ok: false; error: Refusal } => err(refusal(reason, message));

/** The groups of a machine. */
export const poolGroups = (m: Machine): PoolGroups => new PoolGroups(m);

export class PoolGroups {
  readonly #m: Machine;

  constructor(m: Machine) {
    this.#m = m;
  }

  /**
   * Makes a group, and its pool unless it names one that exists. A sub-group's spec names its parent's pool.
   *
   * @returns its account. EEXIST: there is such a group. ENOENT, EINVAL: no such pool, or a zone. Else as Pools.create.
   */
  create(spec: GroupSpec, { as = ROOT }: As = {}): Result<GroupUsage, Refusal> {
    const table = state.of(this.#m);
    if (table.rows.has(spec.name)) return no('pool-exists', `group ${spec.name} exists already`);
    const pool = 'pool' in spec ? spec.pool : spec.name;
    if ('pool' in spec) {
      const attrs = this.#poolOf(pool);
      if (!attrs.ok) return attrs;
      if (!may(attrs.value, as, 'alloc')) return no('permission', `${as} may not allocate from pool ${pool}`);
    } else {
      const made = pools(this.#m).create(spec, { as });
      if (!made.ok) return made;
    }
    table.rows.set(spec.name, { name: spec.name, pool, members: [] });
    return this.usage(spec.name);
  }

  /** A new member: a holder whose pages come from the group's pool, for as long as it is in the group. */
  addMember(
    group: string,
    member: { readonly class: PageClass; readonly name: string },
    { as = ROOT }: As = {},
  ): Result<HolderId, Refusal> {
    const row = this.#row(group);
    if (!row.ok) return row;
    const holder = pools(this.#m).addHolder({ ...member, pool: row.value.pool }, { as });
    if (!holder.ok) return holder;
    this.#put({ ...row.value, members: [...row.value.members, holder.value] });
    return holder;
  }

  /** A member ends: all of its pages are free, wherever they lie. @returns how many. Cost O(pages of it). */
  exit(group: string, member: HolderId): Result<number, Refusal> {
    const m = this.#m;
    const row = this.#row(group);
    if (!row.ok) return row;
    const { members } = row.value;
    if (!members.includes(member)) return no('bad-argument', `holder ${member} is not in group ${group}`);
    const heads: Pfn[] = [];
    m.forEachFrameOf(member, (pfn) => void heads.push(pfn));
    const pages = m.holders.pages[member] as number;
    for (const pfn of heads) m.free(pfn);
    this.#put({ ...row.value, members: members.filter((h) => h !== member) });
    return ok(pages);
  }

  /** Ends a group that has no members, and its pool if that bears its name. Refusals as Pools.destroy. */
  destroy(group: string, { as = ROOT }: As = {}): Result<void, Refusal> {
    const row = this.#row(group);
    if (!row.ok) return row;
    const { pool, members } = row.value;
    if (members.length > 0) return no('pool-busy', `group ${group} has ${members.length} members`);
    if (pool === group) {
      const gone = pools(this.#m).destroy(pool, { as });
      if (!gone.ok) return gone;
    }
    state.of(this.#m).rows.delete(group);
    return ok(undefined);
  }

  /** Names of all groups, sorted. */
  list(): string[] {
    return [...state.of(this.#m).rows.keys()].sort();
  }

  /** The account. Cost O(pages of the members). */
  usage(group: string): Result<GroupUsage, Refusal> {
    const m = this.#m;
    const row = this.#row(group);
    if (!row.ok) return row;
    const attrs = this.#poolOf(row.value.pool);
    if (!attrs.ok) return attrs;
    const stat = pools(m).stat(attrs.value.name);
    if (!stat.ok) return stat;
    const byClass: Partial<Record<PageClass, number>> = {};
    const members = row.value.members.map((holder): MemberUsage => {
      const { name, class: cls } = m.holders.specs[holder] as HolderSpec;
      const pages = pagesIn(m, holder, attrs.value.id);
      byClass[cls] = (byClass[cls] ?? 0) + pages;
      return { holder, name, class: cls, pages, outside: (m.holders.pages[holder] as number) - pages };
    });
    const { managed, free, used } = stat.value;
    const carved = carvedFrom(m, row.value.pool);
    const limit = managed + carved.reduce((n, a) => n + (m.pools[a.id] as Pool).managed, 0);
    return ok({
      name: group,
      pool: row.value.pool,
      limit,
      managed,
      free,
      used,
      byClass,
      members,
      carved: carved.map((a) => a.name),
    });
  }

  /**
   * The group's limit becomes `pages`: see the top of this file.
   *
   * @returns what it took. EBUSY (pool-busy): members hold more than that and it does not leave; the refusal says who holds
   *          what, its frames are the evidence; or pools that were carved from it need more. `partial`: as far down as
   *          it goes. ENOMEM, ENOSPC, EPERM: as Pools.resize. Cost O(pages of the members) when they have to leave.
   */
  setLimit(
    group: string,
    pages: number,
    { as = ROOT, partial = false }: As & { readonly partial?: boolean } = {},
  ): Result<LimitChange, Refusal> {
    const m = this.#m;
    const row = this.#row(group);
    if (!row.ok) return row;
    const found = this.#poolOf(row.value.pool);
    if (!found.ok) return found;
    const attrs = found.value;
    const pool = m.pools[attrs.id] as Pool;
    if (!may(attrs, as, 'admin')) return no('permission', `${as} may not change pool ${attrs.name}`);
    const carved = carvedFrom(m, attrs.name);
    const theirs = carved.reduce((n, a) => n + (m.pools[a.id] as Pool).managed, 0);
    let own = pages - theirs;
    if (own < 0 && Number.isSafeInteger(pages) && pages >= 0) {
      const who = carved.map((a) => `${a.name} ${(m.pools[a.id] as Pool).managed}`).join(', ');
      return no('pool-busy', `group ${group}: ${pages} pages are fewer than its sub-groups have: ${who}`);
    }
    const shed = { dropped: 0, moved: 0 };
    const keeps = own - onLoan(m, attrs.id).in >= attrs.min;
    const excess = pool.managed - own - givable(m, pool);
    if (keeps && excess > 0) {
      const stay = shedMembers(m, pool, row.value.members, excess, shed);
      const missing = Math.max(0, pool.managed - own - givable(m, pool));
      if (missing > 0 && !partial) {
        const who = holdersIn(m, pool).join(', ');
        const sentence = `group ${group}: ${missing} pages more than the limit of ${pages} do not leave: ${who}`;
        return err(refusal('pool-busy', sentence, stay.items));
      }
      own += missing;
    }
    const resized = pools(m).resize(attrs.name, own, { as }); // refuses what is no number, below min or above max
    return resized.ok ? ok({ limit: own + theirs, ...shed }) : resized;
  }

  /**
   * The group and its pages come to another pool, as the top of this file says. Pages that lie elsewhere stay there.
   *
   * All or nothing: it looks before it moves. `partial` leaves behind what cannot come.
   *
   * @returns what it took. EPERM without `alloc` on the new pool. ENOSPC (guarantee): the old pool would fall below its
   *          min, or the new one rise above its max. ENOMEM: the new pool has too few free frames. EBUSY (pool-busy): pages
   *          would have to migrate and cannot. Cost O(pages of the members)
   */
  moveTo(
    group: string,
    target: string,
    { as = ROOT, partial = false }: As & { readonly partial?: boolean } = {},
  ): Result<GroupMove, Refusal> {
    const m = this.#m;
    const row = this.#row(group);
    if (!row.ok) return row;
    const a = this.#poolOf(row.value.pool);
    if (!a.ok) return a;
    const b = this.#poolOf(target);
    if (!b.ok) return b;
    if (a.value.id === b.value.id) return no('bad-argument', `group ${group} is in pool ${target} already`);
    if (!may(b.value, as, 'alloc')) return no('permission', `${as} may not allocate from pool ${target}`);
    const looked = look(m, row.value, a.value, b.value, as);
    if (!partial) {
      const refused = mayMove(m, looked, a.value, b.value, as, group);
      if (refused !== undefined) return err(refused);
    }
    const from = m.pools[a.value.id] as Pool;
    const to = m.pools[b.value.id] as Pool;
    const done = move(m, looked, a.value, b.value, as);
    settle(m, from, to);
    const request = NODE_OF_REQUEST - requestRow(m, to.id, as);
    for (const holder of row.value.members) m.holders.node[holder] = request;
    this.#put({ ...row.value, pool: target });
    m.emit({ type: 'pool', verb: 'move', pool: a.value.name, to: target, pages: done.inPlace + done.migrated });
    return ok(done);
  }

  #row(group: string): Result<GroupRow, Refusal> {
    const row = state.of(this.#m).rows.get(group);
    return row === undefined ? no('no-such-pool', `there is no group ${group}`) : ok(row);
  }

  #put(row: GroupRow): void {
    state.of(this.#m).rows.set(row.name, row);
  }

  #poolOf(name: string): Result<PoolAttrs, Refusal> {
    const attrs = poolNamed(this.#m, name);
    if (attrs === undefined) return no('no-such-pool', `there is no pool ${name}`);
    if (attrs.kind === 'zone') return no('bad-argument', `${name} is a zone: it is everybody's`);
    return ok(attrs);
  }
}

/** All pools that were carved from a pool, and from those, by id. */
function carvedFrom(m: Machine, pool: string): PoolAttrs[] {
  const live = livePools(m);
  const out = live.filter((a) => a.kind === 'user' && a.parent === pool);
  for (let k = 0; k < out.length; k++) {
    const { name } = out[k] as PoolAttrs;
    out.push(...live.filter((a) => a.kind === 'user' && a.parent === name));
  }
  return out.sort((x, y) => x.id - y.id);
}

/** A holder's pages in a pool. */
function pagesIn(m: Machine, holder: HolderId, pool: number): number {
  let pages = 0;
  m.forEachFrameOf(holder, (pfn, order) => {
    if (m.owners.at(m.sections.indexOf(pfn)) === pool) pages += 2 ** order;
  });
  return pages;
}

/** "heap 3000 (anonymous)": everybody who has pages of the pool, the most first. Cost O(pages of the pool). */
function holdersIn(m: Machine, pool: Pool): string[] {
  const held = new Map<HolderId, number>();
  m.owners.forEachRun(pool.base, Math.min(pool.base + pool.pages, m.sections.frames), (start, end, id) => {
    if (id !== pool.id) return;
    for (const a of allocationsIn(m, start, end)) {
      if (a.head < start) continue;
      const holder = m.holders.holderOf(m.sections.ownerAt(a.head));
      held.set(holder, (held.get(holder) ?? 0) + 2 ** a.order);
    }
  });
  return [...held]
    .sort(([x, n], [y, k]) => k - n || x - y)
    .map(([holder, pages]) => {
      const { name, class: cls } = m.holders.specs[holder] as HolderSpec;
      return `${name} ${pages} (${cls})`;
    });
}

/** Members' allocations in a pool, in the order of members and indexes. */
function ownIn(m: Machine, pool: Pool, members: readonly HolderId[]): Allocation[] {
  const out: Allocation[] = [];
  for (const holder of members) {
    m.forEachFrameOf(holder, (pfn) => {
      const head = m.sections.indexOf(pfn);
      if (m.owners.at(head) !== pool.id) return;
      for (const a of allocationsIn(m, head, head + 1)) out.push(a);
    });
  }
  return out;
}

const isLent = (m: Machine, a: Allocation): boolean => {
  const pfn = m.sections.pfnOf(a.head);
  return leasedIn(poolTableOf(m), pfn, pfn + 2 ** a.order) !== undefined;
};

/** Page cache first: it may be nothing that is missed. */
const byWorth = (x: Allocation, y: Allocation): number => Number(x.cls !== 'file') - Number(y.cls !== 'file');

/** Makes `pages` frames free, if members' pages leave. @returns those that did not. */
function shedMembers(
  m: Machine,
  pool: Pool,
  members: readonly HolderId[],
  pages: number,
  shed: { dropped: number; moved: number },
): BlockerList {
  const stay = new BlockerList();
  pool.alloc.disable();
  const ways = waysOutOf(m, pool, 0); // to move inside of the pool makes nothing free
  let left = pages;
  for (const a of ownIn(m, pool, members).sort(byWorth)) {
    if (left <= 0) break;
    if (isLent(m, a)) continue; // its frame is the lender's
    const how = vacate(m, pool, a, ways);
    if (!isGone(how)) {
      stay.add(blockerOf(m, a.head, 2 ** a.order, how));
      continue;
    }
    left -= 2 ** a.order;
    shed[how] += 2 ** a.order;
  }
  pool.alloc.enable();
  return stay;
}

/** What a move would do. */
type Looked = {
  /** Their frames may be the new pool's. */
  readonly inPlace: readonly Allocation[];
  /** The others, largest first: a run for them is found before single frames have broken it. */
  readonly migrate: readonly Allocation[];
  readonly stuck: BlockerList;
};

const pagesOf = (list: readonly Allocation[]): number => list.reduce((n, a) => n + 2 ** a.order, 0);

function look(m: Machine, row: GroupRow, a: PoolAttrs, b: PoolAttrs, as: Principal): Looked {
  const from = m.pools[a.id] as Pool;
  const to = m.pools[b.id] as Pool;
  const bothGive = may(a, as, 'donate') && may(b, as, 'donate');
  const inPlace: Allocation[] = [];
  const migrate: Allocation[] = [];
  const stuck = new BlockerList();
  for (const x of ownIn(m, from, row.members)) {
    const end = x.head + 2 ** x.order;
    const isolated = isIsolated(from, x.head, end) || isIsolated(to, x.head, end);
    if (bothGive && !isolated && fits(m, b, x) && !isLent(m, x)) {
      inPlace.push(x);
      continue;
    }
    const cause = stays(x);
    if (cause === undefined) migrate.push(x);
    else stuck.add(blockerOf(m, x.head, 2 ** x.order, cause));
  }
  return { inPlace, migrate: migrate.sort((x, y) => y.order - x.order), stuck };
}

/** May the pool have an allocation's frames? They bear one label. */
function fits(m: Machine, b: PoolAttrs, a: Allocation): boolean {
  const zone = m.zoneAt(a.head) as Pool; // a frame with an owner has a label
  if (!b.nodes.includes(zone.node) || !b.zones.includes(zone.zone)) return false;
  const pfn = m.sections.pfnOf(a.head);
  return b.ranges === undefined || b.ranges.some((r) => r.start <= pfn && pfn + 2 ** a.order <= r.end);
}

/** Why an allocation cannot migrate at all. */
function stays(a: Allocation): BlockerCause | undefined {
  if (a.pinned) return 'pinned';
  const { mobility } = CLASS_TRAITS[a.cls];
  if (mobility === 'stays') return 'poisoned';
  return mobility === 'lru' ? undefined : 'unmovable';
}

/** Free frames of the new pool that pages from `from` may come to, and how many of them are whole pageblocks. */
function roomFor(m: Machine, from: Pool, b: PoolAttrs, as: Principal): { pages: number; blocks: number } {
  const to = m.pools[b.id] as Pool;
  to.alloc.drain();
  const top = from.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL; // as migrate.ts asks
  if (to.zone > top) return { pages: 0, blocks: 0 };
  const k = requestRow(m, b.id, as); // may make a row: m.requests is read after it
  const request = m.requests[k] as PoolRequest;
  const kept = Math.max(0, to.marks[4 + top] as number, request.floor);
  const lists = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);
  to.alloc.area.count(lists);
  let blocks = 0;
  for (let mt = 0; mt < NR_PCP_TYPES; mt++) {
    for (let order = PAGEBLOCK_ORDER; order <= MAX_ORDER; order++) {
      blocks += (lists[mt * NR_ORDERS + order] as number) * 2 ** (order - PAGEBLOCK_ORDER);
    }
  }
  return { pages: Math.max(0, (to.nrFree[0] as number) - kept), blocks };
}

/** May all of it move? */
function mayMove(
  m: Machine,
  looked: Looked,
  a: PoolAttrs,
  b: PoolAttrs,
  as: Principal,
  group: string,
): Refusal | undefined {
  const from = m.pools[a.id] as Pool;
  const { inPlace, migrate, stuck } = looked;
  if (stuck.items.length > 0) {
    const first = stuck.items[0] as Blocker; // the list is not empty
    const why = `${stuck.pages} pages would have to migrate and cannot, the first is ${first.name}'s (${first.cause})`;
    return refusal('pool-busy', `group ${group}: ${why}`, stuck.items);
  }
  const taken = pagesOf(inPlace);
  const kept = from.managed - onLoan(m, a.id).in - taken;
  if (kept < a.min) {
    return refusal('guarantee', `group ${group}: pool ${a.name} would keep ${kept} pages, its min is ${a.min}`);
  }
  if (taken > roomOf(m, b)) {
    return refusal('guarantee', `group ${group}: pool ${b.name} may have ${roomOf(m, b)} pages more, not ${taken}`);
  }
  const room = roomFor(m, from, b, as);
  const need = pagesOf(migrate);
  if (need > room.pages) {
    return refusal(
      'no-memory',
      `group ${group}: ${need} pages would migrate, pool ${b.name} has room for ${room.pages}`,
    );
  }
  const huge = migrate.filter((x) => x.cls === 'hugetlb').length;
  if (huge > room.blocks) {
    const has = `pool ${b.name} has ${room.blocks} free blocks of 2 MiB`;
    return refusal('no-memory', `group ${group}: ${huge} huge pages would migrate, ${has}`);
  }
  return undefined;
}

/** Moves what can be moved. */
function move(m: Machine, looked: Looked, a: PoolAttrs, b: PoolAttrs, as: Principal): GroupMove {
  const from = m.pools[a.id] as Pool;
  const to = m.pools[b.id] as Pool;
  const done = { inPlace: 0, migrated: 0, stayed: looked.stuck.pages };
  let spare = roomFor(m, from, b, as).pages;
  const targets = Int32Array.of(to.id);
  from.alloc.disable();
  for (const x of looked.migrate) {
    const pages = 2 ** x.order;
    // Without room for all of it, it is not to be split for a part.
    const outcome = pages <= spare ? migrateWithPools(m, x.head, targets) : 'no-target';
    if (outcome !== 'moved') done.stayed += pages;
    else {
      done.migrated += pages;
      spare -= pages;
    }
  }
  from.alloc.enable();
  let room = Math.min(roomOf(m, b), from.managed - onLoan(m, a.id).in - a.min);
  for (const x of looked.inPlace) {
    const pages = 2 ** x.order;
    if (pages > room) {
      done.stayed += pages;
      continue;
    }
    relabelUsed(m, from, to, x.head, x.order);
    done.inPlace += pages;
    room -= pages;
  }
  return done;
}
