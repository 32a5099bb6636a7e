// Relabelling: frames change their pool where they lie. Nothing is copied; a chunk that is free costs O(1).
//
//   from's free area ──take──> nobody's ──owner──> `to`'s free area, behind its own
//   a used allocation: only its owner changes; it will be freed into `to`
//
// The zone that labels a frame never changes here. User pools count their frames by label, so that /proc can add a zone
// up from the pools that have frames of it (zone-view.ts). A pageblock that comes whole keeps its migratetype; so does one
// of which `to` has nothing yet.
//
// Invariants: present and managed of both pools stay exact; buddies never merge across pools, because each pool's free
// area has only ever seen its own frames; an allocation is never cut (spec 9.A, 1 to 3).

import { assert } from '#base/assert';
import { takeFreeFrames } from '../free-frames.ts';
import {
  MAX_ORDER,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  NR_PCP_TYPES,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from '../geometry.ts';
import type { HolderSpec } from '../holder.ts';
import type { Machine } from '../machine.ts';
import { CLASS_TRAITS, type ZoneIndex } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { poolTableOf } from './pool-table.ts';

/**
 * Frames [start, end) of the dense index, all of `from`, are `to`'s from now on: owners and counters only.
 *
 * @param managed  how many of them are: all, or none (a device has taken them out of use, and nobody manages them)
 */
function passOn(m: Machine, from: Pool, to: Pool, start: number, end: number, managed = end - start): void {
  m.owners.setOwner(start, end, to.id);
  const pages = end - start;
  from.present -= pages;
  from.managed -= managed;
  to.present += pages;
  to.managed += managed;
  for (let i = start; i < end; ) {
    const zone = m.owners.zoneAt(i);
    let next = (i | (PAGEBLOCK_PAGES - 1)) + 1;
    while (next < end && m.owners.zoneAt(next) === zone) next += PAGEBLOCK_PAGES;
    next = Math.min(next, end);
    if (from.kind === 'user') countLabel(m, from, zone, i - next);
    if (to.kind === 'user') countLabel(m, to, zone, next - i);
    i = next;
  }
  poolTableOf(m).relabels++;
  m.frameWatch?.owned(start, end);
}

function countLabel(m: Machine, pool: Pool, zone: number, delta: number): void {
  const now = (pool.labels.get(zone) ?? 0) + delta;
  assert(now >= 0, 'a pool has fewer frames of a zone than none', { pool: pool.name, zone, now });
  if (now === 0) pool.labels.delete(zone);
  else pool.labels.set(zone, now);
  if (now > 0 && now !== delta) return; // neither the first nor the last of its label
  const highest = Math.max(0, ...[...pool.labels.keys()].map((id) => (m.pools[id] as Pool).zone));
  pool.zone = highest as ZoneIndex; // the maximum of zone indexes
}

/** A realtime pool serves all requests as one type: a pageblock of another would make a request claim it, list by list. */
const hasOneType = (pool: Pool): boolean => pool.typeFor[0] === pool.typeFor[1];

/** All pageblocks of a pool that has one type take it. Cost O(pageblocks of the hull). */
export function unifyTypes(m: Machine, pool: Pool): void {
  if (!hasOneType(pool)) return;
  const end = Math.min(pool.base + pool.pages, m.sections.frames);
  m.owners.forEachRun(pool.base, end, (from, to, id) => {
    for (let i = from - (from % PAGEBLOCK_PAGES); id === pool.id && i < to; i += PAGEBLOCK_PAGES) {
      const type = pool.alloc.area.typeOf(i - pool.base);
      if (type === MIGRATE_MOVABLE || type >= NR_PCP_TYPES) continue;
      pool.alloc.setPageblockType(i - pool.base, MIGRATE_MOVABLE);
    }
  });
}

/** The pageblock types of frames that `to` is about to get, where it has none of that pageblock yet. */
function bringTypes(m: Machine, from: Pool, to: Pool, start: number, end: number): void {
  const first = start - (start % PAGEBLOCK_PAGES);
  for (let i = first; i < end; i += PAGEBLOCK_PAGES) {
    if (m.owners.has(i >>> PAGEBLOCK_ORDER, to.id)) continue;
    const theirs = from.alloc.area.typeOf(i - from.base);
    assert(theirs !== MIGRATE_ISOLATE, 'frames of an isolated pageblock cannot change their pool', { index: i });
    const type = hasOneType(to) && theirs < NR_PCP_TYPES ? MIGRATE_MOVABLE : theirs;
    if (to.alloc.area.typeOf(i - to.base) !== type) to.alloc.setPageblockType(i - to.base, type);
  }
}

/** Free frames [start, end) of the dense index, on the lists of `from`, change to those of `to`. Cost O(pieces + pageblocks). */
export function relabelFree(m: Machine, from: Pool, to: Pool, start: number, end: number): void {
  takeFreeFrames(from, start, end);
  to.widen(start, end, m.sections.frames);
  bringTypes(m, from, to, start, end);
  passOn(m, from, to, start, end);
  for (let i = start; i < end; ) {
    let order = 0;
    while (order < MAX_ORDER && i % (2 << order) === 0 && i + (2 << order) <= end) order++;
    to.alloc.freeToArea(i - to.base, order, true);
    i += 1 << order;
  }
}

/** The allocation at `head` changes its pool in place. Cost O(pageblocks). */
export function relabelUsed(m: Machine, from: Pool, to: Pool, head: number, order: number): void {
  to.widen(head, head + (1 << order), m.sections.frames);
  bringTypes(m, from, to, head, head + (1 << order));
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  const { managed } = CLASS_TRAITS[(m.holders.specs[holder] as HolderSpec).class];
  passOn(m, from, to, head, head + (1 << order), managed ? 1 << order : 0);
}
