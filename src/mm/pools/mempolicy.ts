// Memory policies: from which pools a holder's pages come, and moving them there when the policy changes.
//
//   mode                  an allocation comes from                        a page lies right
//   bind                  the first pool of the list that has it, and     in any pool of the list
//                         from nowhere else
//   preferred             the first that has it, else wherever an         in any pool of the list
//                         ordinary request on the first pool's node goes
//   interleave            one pool after the other, then as `preferred`   in the pool of its index, see below
//   weighted-interleave   weight[k] allocations from pool k, then as many as the next one's weight ...     likewise
//
//   holder ──> policy ──choose──> place k ──> Machine.alloc, by the pool's row of requests or by node
//                 └──settle(atMost)──> pages that lie wrong migrate to where they belong, as many as that a call
//
// A place is a pool, or a node ("node2": its zones), because a node is a pool too. Weights are 1 to 255, by pool, as in
// /sys/kernel/mm/mempolicy/weighted_interleave/nodeN; a policy has its own. The pool of an allocation is chosen by a
// counter of the holder (task_struct's il_prev and il_weight); the pool of a page that is there is chosen by its index in the
// holder (weighted_interleave_nid() with an offset): index mod sum of weights. For a holder that only grows from nothing
// the two agree. A pool that is full does not stop the counter, nor does an allocation that failed.
//
// What Linux does not: a page within the right set of nodes, but on the wrong one of them, moves too, so that changed weights
// reach pages that are there ("changes at runtime will not cause migrations", says its ABI text); and no page is split for
// a target that has no room for it whole.
//
// Invariants: MP1 `bind` never gives a page from anywhere else; MP2 settle moves at most
// `atMost` pages, each call either makes progress, or is done, or refuses with what stays; MP3 copies of a machine have its
// policies with their counters. Nothing decides for the administrator: "we do not want the kernel in the business of trying
// to solve" the knapsack. After Snook 2007, problem 6; Linux v6.12 mm/mempolicy.c: weighted_interleave_nodes(),
// weighted_interleave_nid(), alloc_pages_mpol(), do_mbind() (spec 9.A, semantics 4).

import { err, ok, type Result } from '#base/result';
import type { HolderId, NodeId, Order, Pfn } from '#base/units';
import { MAX_ORDER } from '../geometry.ts';
import type { HolderSpec } from '../holder.ts';
import { migrateWithPools } from '../hugetlb.ts';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import { CLASS_TRAITS, ZONE_MOVABLE, ZONE_NORMAL } from '../page-class.ts';
import { allocationsIn, BlockerList, blockerOf } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import { type Blocker, type BlockerCause, type Refusal, type RefusalReason, refusal } from '../refusal.ts';
import { requestRow } from './pool-requests.ts';
import { attrsOf, may, nodeNamed, type Principal, poolNamed, ROOT } from './pool-table.ts';
import type { As } from './pools.ts';
import type { PoolRequest } from './request.ts';

/** Pools by name, nodes as "node0". Order counts. */
export type Mempolicy =
  | { readonly mode: 'bind' | 'preferred' | 'interleave'; readonly pools: readonly string[] }
  | {
      readonly mode: 'weighted-interleave';
      readonly pools: readonly string[];
      /** One for each pool, 1 to 255. */
      readonly weights: readonly number[];
    };

export type Settled = {
  /** Pages that moved in this call. */
  readonly moved: number;
  /** Pages that still lie wrong. */
  readonly left: number;
  /** Those of them that did not move when they were asked, and why. */
  readonly stay: readonly Blocker[];
};

/** A place of a policy. */
type Place = {
  readonly name: string;
  readonly node: NodeId;
  /** A row of Machine.requests; undefined: the node's zones. */
  readonly row: number | undefined;
  /** Pools that it is, by id: where its pages lie. */
  readonly ids: readonly number[];
};

/** The policy of one holder. Replaced as a whole; only the counter goes on. */
type Row = {
  readonly policy: Mempolicy;
  readonly as: Principal;
  /** By place, 1 unless the policy says otherwise. */
  readonly weights: readonly number[];
  /** Place of the last allocation, and how many more it gives before it is the next one's turn. */
  readonly at: number;
  readonly left: number;
};

class PolicyTable {
  rows = new Map<HolderId, Row>();

  copy(): PolicyTable {
    const to = new PolicyTable();
    to.rows = new Map(this.rows);
    return to;
  }
}

const state = machineState(() => new PolicyTable());

const no = (reason: RefusalReason, message: string): { ok: false; error: Refusal } => err(refusal(reason, message));

const MOST_WEIGHT = 255;
/** Pages that one call of `settle` moves, unless it is told: 2 MiB, a bound on how long the holder waits. */
const AT_MOST = 512;

/**
 * Gives a holder a policy, or another one; its next allocation starts at the first pool. Pages that it has stay: `settle`.
 *
 * @returns EINVAL: no such holder, no pool named, weights that do not match. ENOENT: no such pool. EPERM without `alloc`.
 */
export function setMempolicy(
  m: Machine,
  holder: HolderId,
  policy: Mempolicy,
  { as = ROOT }: As = {},
): Result<void, Refusal> {
  const spec = m.holders.specs[holder];
  if (spec === undefined) return no('bad-argument', `there is no holder ${holder}`);
  if (!CLASS_TRAITS[spec.class].managed) return no('bad-argument', `${spec.class} frames are not managed`);
  const { pools } = policy;
  if (pools.length === 0) return no('bad-argument', `a policy of ${spec.name} names no pool`);
  if (new Set(pools).size < pools.length) return no('bad-argument', `a policy of ${spec.name} names a pool twice`);
  for (const name of pools) {
    const place = placeOf(m, name, as);
    if (!place.ok) return place;
  }
  const weights = policy.mode === 'weighted-interleave' ? policy.weights : pools.map(() => 1);
  if (weights.length !== pools.length) {
    return no('bad-argument', `${weights.length} weights for ${pools.length} pools`);
  }
  const wrong = weights.find((w) => !Number.isInteger(w) || w < 1 || w > MOST_WEIGHT);
  if (wrong !== undefined) return no('bad-argument', `a weight is 1 to ${MOST_WEIGHT}, not ${wrong}`);
  state.of(m).rows.set(holder, { policy, as, weights, at: pools.length - 1, left: 0 });
  return ok(undefined);
}

/** What was set; undefined: nothing, and its requests go where the holder's pool or node says. */
export const mempolicyOf = (m: Machine, holder: HolderId): Mempolicy | undefined =>
  state.has(m)?.rows.get(holder)?.policy;

/**
 * 2^order frames for a holder, where its policy says.
 *
 * @returns the first frame. EINVAL: it has no policy. ENOENT: a pool of it is gone. ENOMEM: there are none that it may
 *          have. Cost: a request or more, O(pools of the policy)
 */
export function allocByPolicy(m: Machine, holder: HolderId, order: Order): Result<Pfn, Refusal> {
  const row = state.of(m).rows.get(holder);
  if (row === undefined) return no('bad-argument', `holder ${holder} has no policy`);
  const places = placesOf(m, row);
  if (!places.ok) return places;
  const { mode } = row.policy;
  const turns = mode === 'interleave' || mode === 'weighted-interleave';
  const first = turns ? nextTurn(m, holder, row) : 0;
  const all = places.value;
  for (let k = 0; k < all.length; k++) {
    const place = all[(first + k) % all.length] as Place;
    const pfn = m.alloc(
      holder,
      order,
      place.row === undefined ? { node: place.node, thisNode: true } : { pool: place.row },
    );
    if (pfn === -1) continue;
    // What a pool's own fallback edges give is as good as the pool, but for `bind`.
    if (mode !== 'bind' || liesIn(m, pfn, all)) return ok(pfn);
    m.free(pfn);
  }
  if (mode === 'bind') {
    const names = all.map((p) => p.name).join(', ');
    return no(
      'no-memory',
      `${(m.holders.specs[holder] as HolderSpec).name} is bound to ${names}: no free run of ${2 ** order} frames`,
    );
  }
  const pfn = m.alloc(holder, order, { node: (all[first] as Place).node });
  return pfn === -1 ? err(m.lastRefusal as Refusal) : ok(pfn); // a request that fails leaves its refusal
}

/**
 * Moves pages of a holder to where its policy wants them: at most `atMost`, in the order of their indexes.
 *
 * Call it until `left` is 0: a page that stays is passed over and named, and tried again by the next call (it may be pinned
 * no more, its pool may have room again). An allocation larger than what is left of `atMost` waits for the next call, but
 * for the first one of a call.
 *
 * @returns what it did. EINVAL, ENOENT: as allocByPolicy. EBUSY (pool-busy): pages lie wrong and none of them moves; each is
 *          named. Cost O(pages of the holder + pages moved)
 */
export function settleByPolicy(
  m: Machine,
  holder: HolderId,
  { atMost = AT_MOST }: { readonly atMost?: number } = {},
): Result<Settled, Refusal> {
  const row = state.of(m).rows.get(holder);
  if (row === undefined) return no('bad-argument', `holder ${holder} has no policy`);
  if (!Number.isSafeInteger(atMost) || atMost < 1) return no('bad-argument', `${atMost} is no number of pages to move`);
  const places = placesOf(m, row);
  if (!places.ok) return places;
  const wrong = misplaced(m, holder, row, places.value);
  // No page waits on a per-CPU list where another one could have it.
  const targets = [...new Set(places.value.flatMap((place) => place.ids))].map((id) => m.pools[id] as Pool);
  for (const pool of targets) pool.alloc.disable();
  const stay = new BlockerList();
  let moved = 0;
  let left = 0;
  for (const { head, order, wanted } of wrong) {
    const pages = 2 ** order;
    if (moved > 0 && moved + pages > atMost) {
      left += pages;
      continue;
    }
    const cause = moveOne(m, head, order, wanted);
    if (cause === undefined) moved += pages;
    else {
      left += pages;
      stay.add(blockerOf(m, head, pages, cause));
    }
  }
  for (const pool of targets) pool.alloc.enable();
  if (moved === 0 && left > 0) {
    const first = stay.items[0] as Blocker; // nothing moved, so that each was asked
    const { name } = m.holders.specs[holder] as HolderSpec;
    const why = `${left} pages lie where its policy does not want them and stay, the first is ${first.cause}`;
    return err(refusal('pool-busy', `${name}: ${why}`, stay.items));
  }
  return ok({ moved, left, stay: stay.items });
}

/** Pages of a holder by pool's name, those of a zone as "node0-Normal". Cost O(pages of the holder). */
export function pagesByPool(m: Machine, holder: HolderId): Map<string, number> {
  const out = new Map<string, number>();
  m.forEachFrameOf(holder, (pfn, order) => {
    const { name } = attrsOf(m, m.owners.at(m.sections.indexOf(pfn)));
    out.set(name, (out.get(name) ?? 0) + 2 ** order);
  });
  return out;
}

/** weighted_interleave_nodes(): the place of the next allocation. */
function nextTurn(m: Machine, holder: HolderId, row: Row): number {
  let { at, left } = row;
  if (left === 0) {
    at = (at + 1) % row.weights.length;
    left = row.weights[at] as number;
  }
  state.of(m).rows.set(holder, { ...row, at, left: left - 1 });
  return at;
}

/** weighted_interleave_nid(): the place of a page by its index. */
function turnOf(index: number, weights: readonly number[]): number {
  let target = index % weights.reduce((n, w) => n + w, 0);
  for (let k = 0; k < weights.length; k++) {
    target -= weights[k] as number;
    if (target < 0) return k;
  }
  return 0;
}

function placeOf(m: Machine, name: string, as: Principal): Result<Place, Refusal> {
  const node = nodeNamed(m, name);
  if (node !== undefined) {
    const ids = m.zones.filter((z) => z.node === node).map((z) => z.id);
    return ok({ name, node, row: undefined, ids });
  }
  const attrs = poolNamed(m, name);
  if (attrs === undefined) return no('no-such-pool', `there is no pool ${name}`);
  if (!may(attrs, as, 'alloc')) return no('permission', `${as} may not allocate from pool ${name}`);
  return ok({ name, node: attrs.nodes[0] as NodeId, row: requestRow(m, attrs.id, as), ids: [attrs.id] });
}

/** Names are looked up at each use: pools come and go, and their ids are taken again. */
function placesOf(m: Machine, row: Row): Result<Place[], Refusal> {
  const out: Place[] = [];
  for (const name of row.policy.pools) {
    const place = placeOf(m, name, row.as);
    if (!place.ok) return place;
    out.push(place.value);
  }
  return ok(out);
}

function liesIn(m: Machine, pfn: Pfn, places: readonly Place[]): boolean {
  const id = m.owners.at(m.sections.indexOf(pfn));
  return places.some((p) => p.ids.includes(id));
}

type Misplaced = { readonly head: number; readonly order: number; readonly wanted: readonly Place[] };

function misplaced(m: Machine, holder: HolderId, row: Row, places: readonly Place[]): Misplaced[] {
  const turns = row.policy.mode === 'interleave' || row.policy.mode === 'weighted-interleave';
  const out: Misplaced[] = [];
  m.forEachFrameOf(holder, (pfn, order, index) => {
    const wanted = turns ? [places[turnOf(index, row.weights)] as Place] : places;
    if (!liesIn(m, pfn, wanted)) out.push({ head: m.sections.indexOf(pfn), order, wanted });
  });
  return out;
}

/** @returns why an allocation stays; undefined when it moved */
function moveOne(m: Machine, head: number, order: number, wanted: readonly Place[]): BlockerCause | undefined {
  const [a] = allocationsIn(m, head, head + 1);
  if (a === undefined || a.head !== head) return 'unmovable';
  if (a.pinned) return 'pinned';
  const { mobility } = CLASS_TRAITS[a.cls];
  if (mobility === 'stays') return 'poisoned';
  if (mobility !== 'lru') return 'unmovable';
  const source = m.poolAt(head) as Pool; // an allocation has an owner
  const top = source.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL; // as migrate.ts asks
  for (const place of wanted) {
    const targets = place.ids.filter((id) => hasRoom(m, m.pools[id] as Pool, place, order, top));
    if (targets.length === 0) continue;
    const outcome = migrateWithPools(m, head, Int32Array.from(targets));
    if (outcome === 'moved') return undefined;
    if (outcome !== 'no-target') return outcome === 'final' ? 'unmovable' : outcome;
  }
  return 'no-target';
}

/** May a page come to the pool without taking what is kept there, and has it a run of the order? */
function hasRoom(m: Machine, pool: Pool, place: Place, order: number, top: number): boolean {
  if (pool.zone > top) return false;
  const request = place.row === undefined ? undefined : (m.requests[place.row] as PoolRequest);
  const kept = Math.max(0, request?.floor ?? 0, pool.marks[4 + top] as number);
  if ((pool.nrFree[0] as number) - 2 ** order < kept) return false;
  const { area } = pool.alloc;
  return (area.orders(0) | area.orders(1) | area.orders(2)) >>> Math.min(order, MAX_ORDER) !== 0;
}
