// What makes contiguous memory, done on a fork of the twin; and how much of it there is.
//
//   drop      clean page cache that nobody has mapped becomes free          echo 1 > /proc/sys/vm/drop_caches
//   compact   what moves goes to the end of its zone, all zones             echo 1 > /proc/sys/vm/compact_memory
//   evacuate  a memory block goes offline and comes back to its zone: what was in it is elsewhere, and all of it is free
//
// A piece of 2^order frames is usable when a request would get it without anybody making room: above the zone's low watermark
// and what the zone keeps for requests that could use no lower one. What would have to stay free is not counted.
//
// Slab is left alone: how much of it `echo 2` would free, no page flag tells.
//
// Follows Linux v6.12 fs/drop_caches.c, mm/compaction.c: compact_nodes(), mm/page_alloc.c: __zone_watermark_ok(); spec 2.5, 2.11.

import {
  chunkCounts,
  compactMemory,
  type Machine,
  PAGE_SIZE,
  type Pfn,
  type Pool,
  toBlockId,
  toHolderId,
} from '#mm/index';
import { ZONE_MOVABLE } from '#mm/page-class';
import { HOLDER_CLEAN } from '#twin/place-frames';
import { HOLDER_PCP } from '#twin/unflagged';
import type { Rehearsal } from './rehearsal.ts';

export type Pieces = {
  /** Free pieces of the order, larger ones counted as what they split into. */
  readonly there: number;
  /** Of these, what a request would get. */
  readonly usable: number;
};

/** Of one zone. Cost O(pageblocks in use). */
function piecesOfZone(pool: Pool, order: number): Pieces {
  const counts = chunkCounts(pool.alloc.area);
  let there = 0;
  for (let k = order; k < counts.length; k++) there += (counts[k] as number) * 2 ** (k - order);
  const above = pool.alloc.nrFree() - pool.watermarks.low - pool.watermarks.reserve[ZONE_MOVABLE];
  return { there, usable: Math.min(there, Math.max(0, Math.floor(above / 2 ** order))) };
}

/** Of the machine. */
export function piecesOf(m: Machine, order: number): Pieces {
  const all = m.zones.map((pool) => piecesOfZone(pool, order));
  return { there: all.reduce((n, p) => n + p.there, 0), usable: all.reduce((n, p) => n + p.usable, 0) };
}

/** Pieces if all that is free, on per-CPU lists or clean cache were in one: what no step can go beyond. */
export function ceilingOf(m: Machine, order: number): number {
  const spare = new Map<Pool, number>();
  for (const holder of [HOLDER_CLEAN, HOLDER_PCP]) {
    forEachHeld(m, holder, (head, o) => {
      const pool = m.poolAt(m.sections.indexOf(head));
      if (pool !== undefined) spare.set(pool, (spare.get(pool) ?? 0) + 2 ** o);
    });
  }
  const pages = m.zones.reduce((n, pool) => {
    const free = pool.alloc.nrFree() + (spare.get(pool) ?? 0);
    return n + Math.max(0, free - pool.watermarks.low - pool.watermarks.reserve[ZONE_MOVABLE]);
  }, 0);
  return Math.floor(pages / 2 ** order);
}

/** @returns pages that became free. Cost O(pages of clean cache) */
export function dropCaches(m: Machine): number {
  return freeAll(m, HOLDER_CLEAN);
}

/** Per-CPU lists are drained first, as Linux does. @returns pages that moved. Cost O(frames) */
export function compactAll(m: Machine): number {
  freeAll(m, HOLDER_PCP);
  return compactMemory(m).reduce((n, report) => n + report.moved, 0);
}

function freeAll(m: Machine, holder: string): number {
  const heads: Pfn[] = [];
  let pages = 0;
  forEachHeld(m, holder, (head, order) => {
    heads.push(head);
    pages += 2 ** order;
  });
  for (const head of heads) m.free(head);
  for (const pool of m.pools) pool.alloc.drain();
  return pages;
}

function forEachHeld(m: Machine, holder: string, each: (head: Pfn, order: number) => void): void {
  m.holders.specs.forEach((spec, h) => {
    if (spec.name.startsWith(holder)) m.forEachFrameOf(toHolderId(h), each);
  });
}

export type Evacuated = {
  readonly block: number;
  /** As valid_zones names it. */
  readonly zone: string;
  readonly pagesMoved: number;
  readonly ms: number;
};

/**
 * Empties one block on the rehearsal: offline, online again to its zone.
 *
 * @returns why not, as a sentence; the rehearsal is then of no use any more
 */
export function evacuate(r: Rehearsal, id: number): Evacuated | string {
  const m = r.machine;
  const zone = m?.block(toBlockId(id))?.pool?.name;
  if (m === undefined || zone === undefined) return 'it is in no one zone';
  const before = m.zones.map((p) => p.alloc.nrFree());
  const done = r.offline(id, 'yes');
  if (done === undefined) return 'the machine has no such block';
  if (!done.done) return done.verdict.reason;
  const short = m.zones.find(
    (p, k) => p.managed > 0 && p.alloc.nrFree() < Math.min(p.watermarks.high, before[k] as number),
  );
  if (short !== undefined)
    return `while it is offline zone ${short.name} of node ${short.node} would be below its high watermark`;
  const online = m.online(toBlockId(id), zone === 'Movable' ? 'movable' : 'kernel');
  if (!online.ok) return online.error.message;
  if (online.value.zone !== zone) return `it would come back to ${online.value.zone}, not to ${zone}`;
  const { verdict } = done;
  return { block: id, zone, pagesMoved: verdict.pagesToMigrate.value, ms: verdict.predictedMs.value };
}

/** Blocks with huge pages of a pool in them: offline would take the free ones out of the pool (lab fact 18). */
export function blocksWithPoolPages(m: Machine): ReadonlySet<number> {
  const ids = new Set<number>();
  m.holders.specs.forEach((spec, h) => {
    if (spec.class !== 'hugetlb' && spec.class !== 'gigantic') return;
    m.forEachFrameOf(toHolderId(h), (head) => {
      ids.add(Math.floor(head / m.blockPages));
    });
  });
  return ids;
}

export const pieceBytes = (order: number): number => 2 ** order * PAGE_SIZE;
