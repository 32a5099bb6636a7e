// Priority reclaim: a pool that is short takes from pools of lower priority (spec 9.A, semantics 6).
//
//   victims   pools with a lower priority than the one that asks, from which the principal may `reclaim`
//   order     priority ascending; among equals what is free first, by id; then pieces by cost ascending, then by id
//   what      1  free frames above the victim's min: a batch of 64 for single frames, one run for a larger order
//             2  none left: used pages of the victim's cheapest chunks are shed (shed.ts), 32 at least, and their frames
//                taken; for a larger order the cheapest aligned run is emptied as a whole
//   never     from realtime, guaranteed or dma pools; frames on loan; frames that the pool may not have (pool-fit.ts);
//             above the asking pool's max
//
//   work      one look at the victims' pages at most, four chunks shed at most; after a look in vain the next 1, 2, 4 ...
//             64 shortages do not look at that victim again (Linux defers compaction so)
//
// What is shed leaves the victim's free pages as many as they were: a page that goes makes one frame free, and that one is
// taken. Invariant: I5: a victim keeps min pages free. Nothing is undone: pages that moved, or were dropped, stay so.

import { MAX_ORDER, MIGRATE_ISOLATE, NR_MIGRATE_TYPES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { fittingRanges, freeToGive, isIsolated, roomOf, settle } from './pool-fit.ts';
import { type FrameRange, givable, moveFree } from './pool-move.ts';
import { attrsOf, leasedIn, livePools, type PoolAttrs, poolTableOf } from './pool-table.ts';
import { relabelFree } from './relabel.ts';
import type { PoolRequest } from './request.ts';
import {
  isGone,
  looked,
  ownIn,
  type Piece,
  raggedPieces,
  vacate,
  waysOutOf,
  wholePieces,
  worthLooking,
} from './shed.ts';

/** Frames that one shortage takes at least where they are free, so that the next one is not at once. */
const BATCH = 64;
/** Used pages that go at least, if there are any that can: Linux's SWAP_CLUSTER_MAX. */
const SHED_BATCH = 32;
/** Chunks that one shortage sheds at most. */
const MOST_CHUNKS = 4;

type Victim = { readonly a: PoolAttrs; readonly pool: Pool; readonly ranges: readonly FrameRange[] | undefined };

/** Makes 2^order free frames in the pool of a request, if others can spare them. @returns whether it got any. */
export function reclaimFor(m: Machine, request: PoolRequest, pages: number): boolean {
  const mine = attrsOf(m, request.pool);
  const to = m.pools[request.pool] as Pool;
  // One who is not the owner has to leave min free, and may find less than that.
  const short = Math.max(0, request.floor + pages - to.alloc.nrFree());
  if (pages > 1 && short > pages) return false; // its owner lives on what is kept for him: no run will do for others
  const need = pages > 1 ? pages : Math.max(1, short);
  const room = roomOf(m, mine);
  if (room < need) return false;
  let got = 0;
  for (const group of victimsOf(m, request, mine)) {
    for (const v of group) {
      if (got >= need) break;
      const taken =
        pages > 1 ? takeRun(m, v, to, pages) : takeFree(m, v, to, Math.min(room, Math.max(need, BATCH)) - got);
      got += taken;
      announce(m, v, mine, taken);
    }
    if (got >= need) break;
    const looking = group.filter((v) => worthLooking(m, v.pool));
    const few = Math.min(room - got, Math.max(need - got, SHED_BATCH));
    const shed = pages > 1 ? emptyRun(m, looking, to, pages) : shedChunks(m, looking, to, few);
    for (const v of looking) {
      const taken = shed.get(v) ?? 0;
      if (taken > 0 || shed.size === 0) looked(m, v.pool, taken > 0); // else another was cheaper
      announce(m, v, mine, taken);
      got += taken;
    }
    if (got >= need) break;
  }
  return got > 0;
}

function announce(m: Machine, v: Victim, to: PoolAttrs, pages: number): void {
  if (pages === 0) return;
  settle(m, v.pool, m.pools[to.id] as Pool);
  m.emit({ type: 'pool', verb: 'reclaim', pool: v.a.name, to: to.name, pages });
}

/** Victims by priority, each group by id. */
function victimsOf(m: Machine, request: PoolRequest, mine: PoolAttrs): Victim[][] {
  const groups = new Map<number, Victim[]>();
  for (const a of livePools(m)) {
    if (a.kind !== 'user' || a.id === mine.id || a.priority >= mine.priority) continue;
    if (a.class === 'realtime' || a.class === 'guaranteed' || a.class === 'dma') continue;
    if (a.owner !== request.principal && a.perms.get(request.principal)?.has('reclaim') !== true) continue;
    const pool = m.pools[a.id] as Pool;
    const ranges = fittingRanges(m, pool, mine);
    if (ranges?.length === 0) continue;
    groups.set(a.priority, [...(groups.get(a.priority) ?? []), { a, pool, ranges }]);
  }
  return [...groups].sort(([x], [y]) => x - y).map(([, group]) => group);
}

/** Free frames beyond the victim's min. */
function takeFree(m: Machine, v: Victim, to: Pool, wanted: number): number {
  const spare = Math.min(wanted, freeToGive(m, v.pool, v.ranges), givable(m, v.pool) - v.a.min);
  if (spare <= 0) return 0;
  return moveFree(m, v.pool, to, spare, v.ranges).reduce((n, r) => n + r.end - r.start, 0);
}

/** A free run of `pages`, if the victim has one and can spare it. @returns frames taken */
function takeRun(m: Machine, v: Victim, to: Pool, pages: number): number {
  if (givable(m, v.pool) - v.a.min < pages) return 0;
  v.pool.alloc.drain();
  const { area } = v.pool.alloc;
  let run = -1;
  const look = (i: number): void => {
    const start = v.pool.base + i;
    if (run < 0 && mayTake(m, v, start, start + pages)) run = start;
  };
  // The smallest piece that will do, nearly always the first of its list.
  for (let order = Math.log2(pages); order <= MAX_ORDER && run < 0; order++) {
    for (let mt = 0; mt < NR_MIGRATE_TYPES && run < 0; mt++) {
      const i = mt === MIGRATE_ISOLATE ? -1 : area.first(order, mt);
      if (i >= 0) look(i);
    }
  }
  const restricted = v.ranges !== undefined || poolTableOf(m).leases.size > 0;
  if (run < 0 && restricted) {
    area.forEachFree(0, area.pages, (i, order, mt) => {
      if (mt === MIGRATE_ISOLATE) return;
      for (let at = i; at < i + 2 ** order && run < 0 && 2 ** order >= pages; at += pages) look(at);
    });
  }
  if (run < 0) return 0;
  relabelFree(m, v.pool, to, run, run + pages);
  return pages;
}

/** May the asking pool have these frames of the dense index, and has nobody lent or isolated them? They lie in one section. */
function mayTake(m: Machine, v: Victim, start: number, end: number): boolean {
  const pfn = m.sections.pfnOf(start);
  const last = pfn + end - start;
  if (v.ranges !== undefined && !v.ranges.some((r) => r.start <= pfn && last <= r.end)) return false;
  return leasedIn(poolTableOf(m), pfn, last) === undefined && !isIsolated(v.pool, start, end);
}

type Candidate = { readonly v: Victim; readonly piece: Piece };

/** Pieces of a group of victims, cheapest first: at most MOST_CHUNKS. @param run  frames of a whole run; 0: chunks, or parts of them */
function candidates(m: Machine, group: readonly Victim[], run: number): Candidate[] {
  const all = group.flatMap((v) => {
    const found = wholePieces(m, v.pool, run === 0 ? MAX_ORDER : Math.log2(run), MOST_CHUNKS);
    if (run === 0) found.push(...raggedPieces(m, v.pool)); // one that was begun is finished first: less of it is left
    return found.map((piece) => ({ v, piece }));
  });
  all.sort((x, y) => x.piece.cost - y.piece.cost || x.v.a.id - y.v.a.id || x.piece.start - y.piece.start);
  return all.slice(0, MOST_CHUNKS);
}

/** Used pages of the cheapest chunks go, one by one, and their frames change their pool. @returns frames taken, by victim */
function shedChunks(m: Machine, group: readonly Victim[], to: Pool, wanted: number): Map<Victim, number> {
  const taken = new Map<Victim, number>();
  let left = wanted;
  for (const { v, piece } of candidates(m, group, 0)) {
    if (left === 0) break;
    const { pool } = v;
    pool.alloc.disable();
    const ways = waysOutOf(m, pool, 0); // its free frames are at its min: none is to spare
    for (const a of ownIn(m, pool, piece)) {
      if (left === 0) break;
      if (!mayTake(m, v, a.head, a.head + (1 << a.order)) || !isGone(vacate(m, pool, a, ways))) continue;
      const pages = Math.min(left, 1 << a.order); // the rest of a large page is free in the victim
      relabelFree(m, pool, to, a.head, a.head + pages);
      left -= pages;
      taken.set(v, (taken.get(v) ?? 0) + pages);
    }
    pool.alloc.enable();
  }
  return taken;
}

/** The cheapest run that can be emptied as a whole is. @returns frames taken, by victim: all of a run, or nothing */
function emptyRun(m: Machine, group: readonly Victim[], to: Pool, pages: number): Map<Victim, number> {
  const run = candidates(m, group, pages).find(
    ({ v, piece }) => mayTake(m, v, piece.start, piece.end) && emptyPiece(m, v, piece, to),
  );
  return new Map(run === undefined ? [] : [[run.v, pages]]);
}

/** All of a piece changes its pool, or none of it. Its free frames go first, so that no page can find its place there. */
function emptyPiece(m: Machine, v: Victim, piece: Piece, to: Pool): boolean {
  const { pool } = v;
  pool.alloc.disable();
  const free = piece.end - piece.start - piece.used;
  const ownSpare = givable(m, pool) - v.a.min - free;
  let empty = ownSpare >= 0;
  const done: FrameRange[] = [];
  if (empty) {
    for (const r of freeRuns(pool, piece)) {
      relabelFree(m, pool, to, r.start, r.end);
      done.push(r);
    }
    const ways = waysOutOf(m, pool, ownSpare);
    for (const a of ownIn(m, pool, piece)) {
      empty = isGone(vacate(m, pool, a, ways));
      if (!empty) break;
      relabelFree(m, pool, to, a.head, a.head + (1 << a.order));
      done.push({ start: a.head, end: a.head + (1 << a.order) });
    }
    if (!empty) for (const r of done) relabelFree(m, to, pool, r.start, r.end);
  }
  pool.alloc.enable();
  return empty;
}

/** Free pieces of the pool in a piece. */
function freeRuns(pool: Pool, piece: Piece): FrameRange[] {
  const out: FrameRange[] = [];
  const at = piece.start - pool.base;
  const head = pool.alloc.area.headOf(at);
  pool.alloc.area.forEachFree(head >= 0 ? head : at, piece.end - pool.base, (i, order) => {
    const start = Math.max(piece.start, pool.base + i);
    const end = Math.min(piece.end, pool.base + i + 2 ** order);
    if (start < end) out.push({ start, end });
  });
  return out;
}
