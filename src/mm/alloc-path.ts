// The allocation path: from a holder's request to frames, through the pools of a zonelist.
//
//   request = what the holder's class asks for, and the options of this call
//      │
//      v   fast   pools above low; those of the own node without mixing pageblocks first, where that is the policy
//      v   slow   pools above min, less what the request's rights allow; kswapd was woken: boost has ended
//      v   last   (may wait) per-CPU lists of all pools drained, a reserved pageblock given back: above min again,
//      v          for as long as there are reserves to give back
//     -1 and a refusal
//
// A pool is above a mark when its free pages that the request may use, less 2^order - 1, are more than mark + reserve;
// and, for order > 0, when it has a free chunk of that order or more. Free pages in CMA pageblocks count for movable
// requests only, those in HighAtomic ones for requests with rights. Which page of a pool it is, is the pool's business
// (page-alloc.ts).
//
//   rights         may go below min by                    typical caller
//   none           -                                      GFP_KERNEL, user memory
//   high           a half                                 __GFP_HIGH: needs it to go on, can wait
//   atomic         a half, then a quarter; does not wait  GFP_ATOMIC: interrupts
//   oom-victim     a half                                 a process that is being killed, so that it can end
//
// Linux reclaims and compacts in between: whoever does that here stands in Machine.slowPath and is asked between `slow` and
// `last`; without, `last` is what remains of direct reclaim (spec 2.8).
//
// Follows Linux v6.12 mm/page_alloc.c: get_page_from_freelist(), __zone_watermark_ok(), gfp_to_alloc_flags(),
// alloc_flags_nofragment(), __alloc_pages_slowpath(), zone_statistics() (spec 2.2, 2.5 to 2.9).

import { assert } from '#base/assert';
import type { NodeId } from '#base/units';
import { keptFromRequest, strictSomewhere } from './area-contract-state.ts';
import { MIGRATE_CMA, MIGRATE_HIGHATOMIC, MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, type MigrateType } from './geometry.ts';
import { reserveHighAtomic, unreserveHighAtomic } from './high-atomic.ts';
import { REQUEST_TYPE_MASK, REQUEST_UNMANAGED, REQUEST_ZONE_MASK, REQUEST_ZONE_SHIFT } from './holder.ts';
import type { Machine } from './machine.ts';
import { ALLOC_CMA, ALLOC_HIGHATOMIC, ALLOC_KEEP_PCP, ALLOC_LAST_RESERVE, ALLOC_NOFRAGMENT } from './page-alloc.ts';
import { ZONE_MOVABLE, ZONE_NORMAL, type ZoneIndex } from './page-class.ts';
import type { Pool } from './pool.ts';
import { NODE_OF_REQUEST, type PoolRequest, takeFromPool } from './pools/request.ts';
import { refusal } from './refusal.ts';

/** How much of the last memory a request may have: the table above. */
export type AllocRights = 'none' | 'high' | 'atomic' | 'oom-victim';

export type AllocOptions = {
  /** Node to start at; default: the holder's, else 0. */
  readonly node?: NodeId;
  /** Highest zone that will do (ZONE_DMA32: below 4 GiB); default: what the holder's class asks for. */
  readonly topZone?: ZoneIndex;
  /**
   * The caller's promise that the frames may be moved: __GFP_MOVABLE. It decides where they lie, near others that move.
   * Default: what the holder's class says, and a class that says nothing does not move.
   */
  readonly movable?: boolean;
  /** Default 'none'. */
  readonly rights?: AllocRights;
  /** Only the pools of its node: __GFP_THISNODE. Default false. */
  readonly thisNode?: boolean;
  /** A row of Machine.requests: the pool to take from, and as whom (pools/request.ts). Default: the holder's. */
  readonly pool?: number;
};

/** What a request asks for, whose pools have nothing above min. */
export type SlowRequest = {
  /** Pools it may use, in order. */
  readonly list: Int32Array;
  readonly order: number;
  readonly migratetype: MigrateType;
  /** Its highest zone. */
  readonly topZone: ZoneIndex;
};

/**
 * Direct compaction, direct reclaim: makes room, if it can. It may take the frames that it made for the request at once
 * (spec 2.11, capture), so that nobody is faster.
 *
 * @returns PageIndex of 2^order frames taken for the request; 'retry' = there may be some now; 'failed'. What it calls must
 *          not ask the slow path again.
 */
export type SlowPath = (m: Machine, request: SlowRequest) => number | 'retry' | 'failed';

// Marks of a pool by pass, see Pool.marks.
const LOW = 0;
const MIN = 4;
const HIGH = 8;

/** 2^order frames for a holder. @returns PageIndex; -1 when there are none, and the machine's `lastRefusal` says why. */
export function takeFor(m: Machine, holder: number, order: number, options: AllocOptions | undefined): number {
  const request = m.holders.request[holder] as number;
  const mt = request & REQUEST_TYPE_MASK;
  const top = (request >>> REQUEST_ZONE_SHIFT) & REQUEST_ZONE_MASK;
  const node = m.holders.node[holder] as number;
  if (options === undefined && node <= NODE_OF_REQUEST) {
    return takeFromPool(m, m.requests[NODE_OF_REQUEST - node] as PoolRequest, order, mt, top); // a holder names a row
  }
  if (node <= NODE_OF_REQUEST || options?.pool !== undefined)
    return takeForPool(m, holder, node, order, mt, top, options);
  if (options !== undefined) return takeWith(m, order, { mt, top: top as ZoneIndex, node }, options); // two bits
  const list = node < 0 ? (m.zonelists[top] as Int32Array) : m.zonelist(node as NodeId, top as ZoneIndex);
  const index = takeFrames(m, list, order, mt, top);
  return index >= 0 ? index : refuse(m, order, mt);
}

/** A request that names a pool. What else it says of zones must allow the pool's frames. */
function takeForPool(
  m: Machine,
  holder: number,
  node: number,
  order: number,
  mt: number,
  top: number,
  options: AllocOptions | undefined,
): number {
  const row = options?.pool ?? NODE_OF_REQUEST - node;
  const type = options?.movable === undefined ? mt : options.movable ? MIGRATE_MOVABLE : MIGRATE_UNMOVABLE;
  const asked =
    options?.topZone ?? (options?.movable === undefined ? top : options.movable ? ZONE_MOVABLE : ZONE_NORMAL);
  const highest = believed(m, mt, asked);
  const request = m.requests[row];
  assert(request !== undefined, 'no such pool request', { row });
  if (((m.holders.request[holder] as number) & REQUEST_UNMANAGED) !== 0) {
    // A balloon takes frames out of what is managed; a pool's frames all are.
    m.lastRefusal = refusal(
      'bad-argument',
      `${m.holders.specs[holder]?.class} frames are not managed: no pool has them`,
    );
    return -1;
  }
  return takeFromPool(m, request, order, type, highest);
}

/** What a holder's class asks for. */
type ClassRequest = { readonly mt: number; readonly top: ZoneIndex; readonly node: number };

function takeWith(m: Machine, order: number, byClass: ClassRequest, options: AllocOptions): number {
  const { movable, rights = 'none' } = options;
  const node = options.node ?? byClass.node;
  let { mt, top } = byClass;
  if (movable !== undefined) {
    // Only what may be moved may lie in Movable: GFP_HIGHUSER_MOVABLE against GFP_KERNEL (spec 2.2, 2.9).
    if (movable) mt = MIGRATE_MOVABLE;
    else if (mt === MIGRATE_MOVABLE) mt = MIGRATE_UNMOVABLE;
    top = movable ? ZONE_MOVABLE : (Math.min(top, ZONE_NORMAL) as ZoneIndex);
  }
  top = believed(m, byClass.mt, options.topZone ?? top);
  const home = (node < 0 ? m.nodes[0] : node) as NodeId;
  let list = m.zonelist(home, top);
  if (options.thisNode === true) list = list.filter((id) => (m.pools[id] as Pool).node === home);
  const index = list.length === 0 ? -1 : takeByPasses(m, list, order, mt, top, rights);
  return index >= 0 ? index : refuse(m, order, byClass.mt);
}

/**
 * The highest zone of a request whose caller promises more than its class or owner keeps. Linux believes it; where an area is
 * under a strict contract, what does not move stays out of ZONE_MOVABLE (area-contract.ts).
 */
const believed = (m: Machine, classType: number, top: number): ZoneIndex =>
  (top === ZONE_MOVABLE && classType !== MIGRATE_MOVABLE && strictSomewhere(m) ? ZONE_NORMAL : top) as ZoneIndex; // 0..3

/** @param mt  what the class asks for: what moves may lie anywhere */
function refuse(m: Machine, order: number, mt: number): number {
  m.vmstat.pgalloc_fail++;
  const kept = mt === MIGRATE_MOVABLE ? 0 : keptFromRequest(m, order);
  if (kept > 0) {
    const message = `no free run of ${1 << order} frames outside of areas whose contract keeps ${kept} free ones for what moves`;
    m.lastRefusal = refusal('contract', message);
    return -1;
  }
  const free = m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0);
  const message = `no free run of ${1 << order} frames above the watermarks; ${free} frames are free in all`;
  m.lastRefusal = refusal('no-memory', message);
  return -1;
}

/**
 * Frames from the first pool of the list that has them, by the steps above, for a request without rights.
 *
 * @param mt   0..2
 * @param top  the request's highest zone: it chooses the reserve
 * @returns PageIndex, or -1
 */
export function takeFrames(m: Machine, list: Int32Array, order: number, mt: number, top: number): number {
  if (list.length === 0) return -1; // no memory in any zone that would do
  // Nearly every request ends here: what the walk of the first pass would do with its first pool. Where per-CPU lists
  // have orders above 0, or want to know more, the walk itself is needed.
  const preferred = m.pools[list[0] as number] as Pool;
  if (!preferred.linuxLists && (preferred.nrFree[0] as number) - (1 << order) >= (preferred.marks[top] as number)) {
    const i = preferred.alloc.alloc(order, mt, preferred.requestFlags[mt]);
    if (i >= 0) {
      preferred.numa.hit++;
      return i + preferred.base;
    }
  }
  return takeByPasses(m, list, order, mt, top, 'none');
}

function takeByPasses(
  m: Machine,
  list: Int32Array,
  order: number,
  mt: number,
  top: number,
  rights: AllocRights,
): number {
  const preferred = m.pools[list[0] as number] as Pool;
  const i = fromFreelists(m, list, order, mt, top, LOW, preferred.requestFlags[mt], 'none');
  return i >= 0 ? i : slowPath(m, list, order, mt, top, rights);
}

/** get_page_from_freelist(). `mark` is LOW or MIN. */
function fromFreelists(
  m: Machine,
  list: Int32Array,
  order: number,
  mt: number,
  top: number,
  mark: number,
  flags: number,
  rights: AllocRights,
): number {
  const { pools } = m;
  const preferred = pools[list[0] as number] as Pool;
  for (let k = 0; k < list.length; k++) {
    const pool = pools[list[k] as number] as Pool;
    // Locality is more important than not to mix: before a remote node, all over again.
    if ((flags & ALLOC_NOFRAGMENT) !== 0 && pool.node !== preferred.node && preferred.fragmentPolicy !== 'never') break;
    if (!watermarkOk(pool, order, top, mark, flags, rights)) continue;
    const i = pool.alloc.alloc(order, mt, flags);
    if (i < 0) continue;
    if (pool.node === preferred.node) pool.numa.hit++;
    else {
      pool.numa.miss++;
      preferred.numa.foreign++;
    }
    if ((flags & ALLOC_HIGHATOMIC) !== 0) reserveHighAtomic(pool, i, order);
    return i + pool.base;
  }
  if ((flags & ALLOC_NOFRAGMENT) === 0 || preferred.fragmentPolicy === 'never') return -1;
  return fromFreelists(m, list, order, mt, top, mark, flags & ~ALLOC_NOFRAGMENT, rights);
}

/** __zone_watermark_ok() of a mark of the pool; also notices when the pool falls below high (spec 2.4). */
function watermarkOk(
  pool: Pool,
  order: number,
  top: number,
  mark: number,
  flags: number,
  rights: AllocRights,
): boolean {
  const { marks, nrFree } = pool;
  let usable = (nrFree[0] as number) - (1 << order) + 1;
  if ((flags & ALLOC_CMA) !== 0) usable += nrFree[2] as number;
  if (pool.linuxLists && usable <= (marks[HIGH + top] as number)) pool.alloc.pressure.belowHigh = true;
  if (rights === 'none') {
    if (usable <= (marks[mark + top] as number)) return false;
  } else {
    usable += nrFree[1] as number;
    if (usable <= markFor(pool, order, top, mark, rights)) return false;
  }
  // Where only the area has chunks of an order, asking it is the same check.
  return order === 0 || !pool.linuxLists || hasChunk(pool, order, flags);
}

/** The mark that a request with rights is held against, reserve included. */
function markFor(pool: Pool, order: number, top: number, mark: number, rights: AllocRights): number {
  const { watermarks } = pool;
  const reserve = watermarks.reserve[top] as number;
  let min = (pool.marks[mark + top] as number) - reserve;
  // A single frame for one who may go low is not refused for the sake of boost alone (zone_watermark_fast()).
  if (order === 0 && mark === MIN && rights !== 'oom-victim') min -= pool.boost;
  if (min <= 0) return min + reserve;
  min -= Math.floor(min / 2);
  if (rights === 'atomic') min -= Math.floor(min / 4);
  return min + reserve;
}

/** Is there a free chunk of the order or more, of a type that the request may be served from? */
function hasChunk(pool: Pool, order: number, flags: number): boolean {
  const { area } = pool.alloc;
  let orders = area.orders(0) | area.orders(1) | area.orders(2);
  if ((flags & ALLOC_CMA) !== 0) orders |= area.orders(MIGRATE_CMA);
  if ((flags & (ALLOC_HIGHATOMIC | ALLOC_LAST_RESERVE)) !== 0) orders |= area.orders(MIGRATE_HIGHATOMIC);
  return orders >>> order !== 0;
}

/** __alloc_pages_slowpath(), as far as it can go without reclaim and compaction. */
function slowPath(m: Machine, list: Int32Array, order: number, mt: number, top: number, rights: AllocRights): number {
  wakeKswapd(m, list);
  const preferred = m.pools[list[0] as number] as Pool;
  let flags = ALLOC_KEEP_PCP;
  if (mt === MIGRATE_MOVABLE) flags |= ALLOC_CMA;
  if (preferred.fragmentPolicy === 'never') flags |= ALLOC_NOFRAGMENT;
  if (rights === 'atomic' && order > 0) flags |= ALLOC_HIGHATOMIC;
  if (rights === 'atomic' || rights === 'oom-victim') flags |= ALLOC_LAST_RESERVE;
  let i = fromFreelists(m, list, order, mt, top, MIN, flags, rights);
  if (i >= 0 || rights === 'atomic') return i >= 0 ? i : withoutCare(m, list, order, mt, top, flags, rights);

  if (m.slowPath !== undefined) {
    const made = m.slowPath(m, { list, order, migratetype: mt as MigrateType, topZone: top as ZoneIndex }); // one of three
    if (typeof made === 'number') return made;
    if (made === 'retry') i = fromFreelists(m, list, order, mt, top, MIN, flags, rights);
    if (i >= 0) return i;
  }
  let drained = 0;
  for (const p of m.zones) drained += p.alloc.drain();
  if (preferred.kind === 'user') drained += preferred.alloc.drain();
  const type = mt as MigrateType; // a request names one of three
  if (unreserveHighAtomic(m, list, type, false) || drained > 0) {
    i = fromFreelists(m, list, order, mt, top, MIN, flags, rights);
  }
  // Bounded by the pageblocks in reserve.
  while (i < 0 && unreserveHighAtomic(m, list, type, true)) {
    i = fromFreelists(m, list, order, mt, top, MIN, flags, rights);
  }
  return i >= 0 ? i : withoutCare(m, list, order, mt, top, flags, rights);
}

/** defrag_mode: nothing else is left, so that a pageblock is mixed after all. */
function withoutCare(
  m: Machine,
  list: Int32Array,
  order: number,
  mt: number,
  top: number,
  flags: number,
  rights: AllocRights,
): number {
  if ((flags & ALLOC_NOFRAGMENT) === 0) return -1;
  return fromFreelists(m, list, order, mt, top, MIN, flags & ~ALLOC_NOFRAGMENT, rights);
}

/**
 * kswapd of the nodes in the list runs. Without reclaim what remains of a run is its end: the boost that it was woken
 * for is over (balance_pgdat()).
 */
export function wakeKswapd(m: Machine, list: Int32Array): void {
  for (const id of list) {
    const pool = m.pools[id] as Pool;
    if (pool.boost > 0) pool.boost = 0;
  }
}
