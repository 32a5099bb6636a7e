// Is there room? A rehearsal of the requests that an offline would make, on counts of free chunks instead of frames.
//
//   per target pool    own[o]      free chunks of order o in Movable pageblocks
//                      foreign[o]  those in Unmovable, Reclaimable and CMA ones
//                      free        their pages; a request passes a mark when free - 2^order + 1 > mark (alloc-path.ts)
//                      onLists     pages on per-CPU lists: they join when nothing else is left
//
//   a request    pools above low in order, then above min │ the smallest own chunk that fits, its rest split
//                else a foreign one: whole pageblocks are claimed, the largest first; smaller ones are stolen from
//
// Without requests that must stay whole the sum of pages decides, and is exact. With them it matters which chunk each
// request takes, so that they are rehearsed in order of address. Where a pageblock might be claimed for the half of it that is free,
// where pages on lists might merge, or where compaction might help, the rehearsal may be wrong: then it says 'maybe'.
//
// Follows the engine's allocation path and spec 2.3; used by explain-range.ts.

import {
  MIGRATE_HIGHATOMIC,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  NR_MIGRATE_TYPES,
  NR_ORDERS,
  PAGEBLOCK_ORDER,
} from './geometry.ts';
import type { Machine } from './machine.ts';
import type { Pool } from './pool.ts';

/** What a pool has for requests of one kind. */
export class Room {
  readonly own = new Float64Array(NR_ORDERS);
  readonly foreign = new Float64Array(NR_ORDERS);
  free = 0;
  onLists = 0;
  low = 0;
  min = 0;
  /** Pages that may be had in all, down to the min mark, lists drained and atomic reserves given back. */
  pages = 0;
}

/** Frames of the dense index that will be isolated by then. */
export type Leaving = { readonly from: number; readonly to: number };

/** @param top  the requests' highest zone. Cost O(pageblocks in use of the pool). */
export function roomOf(m: Machine, pool: Pool, top: number, leaving: Leaving): Room {
  const { alloc, base } = pool;
  const room = new Room();
  const lists = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);
  alloc.area.count(lists);
  const columnOf = (type: number): Float64Array | undefined => {
    if (type === MIGRATE_ISOLATE || type === MIGRATE_HIGHATOMIC) return undefined;
    return type === MIGRATE_MOVABLE ? room.own : room.foreign;
  };
  for (let type = 0; type < NR_MIGRATE_TYPES; type++) {
    const column = columnOf(type);
    for (let order = 0; order < NR_ORDERS && column !== undefined; order++) {
      column[order] += lists[type * NR_ORDERS + order] as number;
    }
  }
  // The pool's own part of what leaves, if it has one: free chunks of it are isolated, and so is what its lists have of it.
  let reserved = alloc.nrFreeHighAtomic();
  const from = Math.max(leaving.from - base, 0);
  const to = Math.min(leaving.to - base, alloc.area.pages);
  if (from < to) {
    alloc.area.forEachFree(from, to, (i, order) => {
      if (m.poolAt(i + base) !== pool) return;
      const type = alloc.area.typeOf(i);
      const column = columnOf(type);
      if (column !== undefined) column[order]--;
      if (type === MIGRATE_HIGHATOMIC) reserved -= 2 ** order;
    });
  }
  alloc.forEachPcp((_cpu, _mt, i, order) => {
    if (i + base < leaving.from || i + base >= leaving.to) room.onLists += 2 ** order;
  });
  for (let order = 0; order < NR_ORDERS; order++) {
    room.free += ((room.own[order] as number) + (room.foreign[order] as number)) * 2 ** order;
  }
  const { watermarks } = pool;
  const reserve = watermarks.reserve[top] as number;
  room.low = watermarks.low + reserve;
  room.min = watermarks.min + reserve;
  const all = room.free + room.onLists + Math.max(0, reserved);
  room.pages = Math.max(0, Math.min(all, Math.ceil(all - room.min)));
  return room;
}

/** One allocation that is to move. */
export type Moving = { readonly order: number; readonly splits: boolean };

/**
 * Do all of them find room, in this order? Changes the rooms. Cost O(requests * pools * orders); what is split costs a
 * request for each of its frames.
 */
export function rehearse(rooms: readonly Room[], moving: readonly Moving[], compacts: boolean): 'yes' | 'no' | 'maybe' {
  const r = new Rehearsal(rooms);
  for (const { order, splits } of moving) {
    if (r.take(order)) continue;
    let found = splits;
    for (let k = 0; k < 2 ** order && found && order > 0; k++) found = r.take(0);
    if (splits && found && order > 0) continue;
    return r.doubtful || (compacts && order > 0) ? 'maybe' : 'no';
  }
  return r.doubtful && moving.some((x) => !x.splits && x.order > 0) ? 'maybe' : 'yes';
}

class Rehearsal {
  /** True once a request may have been served otherwise than here. */
  doubtful = false;
  readonly #rooms: readonly Room[];

  constructor(rooms: readonly Room[]) {
    this.#rooms = rooms;
  }

  take(order: number): boolean {
    if (this.#pass(order, 'low') || this.#pass(order, 'min')) return true;
    let drained = false;
    for (const room of this.#rooms) {
      if (room.onLists === 0) continue;
      room.own[0] += room.onLists;
      room.free += room.onLists;
      room.onLists = 0;
      drained = true;
    }
    if (drained && order > 0) this.doubtful = true; // they may have merged
    return drained && this.#pass(order, 'min');
  }

  #pass(order: number, mark: 'low' | 'min'): boolean {
    for (const room of this.#rooms) {
      if (room.free - 2 ** order + 1 > room[mark] && this.#from(room, order)) return true;
    }
    return false;
  }

  #from(room: Room, order: number): boolean {
    if (split(room.own, order, room.own)) {
      room.free -= 2 ** order;
      return true;
    }
    for (let c = NR_ORDERS - 1; c >= Math.max(order, PAGEBLOCK_ORDER); c--) {
      if (room.foreign[c] === 0) continue;
      room.foreign[c]--;
      room.own[c]++;
      split(room.own, order, room.own);
      room.free -= 2 ** order;
      return true;
    }
    if (!split(room.foreign, order, room.foreign)) return false;
    this.doubtful = true; // or the pageblock was claimed
    room.free -= 2 ** order;
    return true;
  }
}

/** Takes 2^order pages out of the smallest chunk that has them; the rest goes to `rest`. @returns false when there is none */
function split(chunks: Float64Array, order: number, rest: Float64Array): boolean {
  let c = order;
  while (c < NR_ORDERS && chunks[c] === 0) c++;
  if (c === NR_ORDERS) return false;
  chunks[c]--;
  while (c > order) rest[--c]++;
  return true;
}
