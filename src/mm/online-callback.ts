// The online page callback: a driver decides, chunk by chunk, which frames of a block that comes online become free.
//
//   block          │  order 10  │  order 10  │  ...  │       naturally aligned; the first may be of order 9, behind a memmap
//   callback            │            │
//                       │            └─> keeps it: the driver places the frames with a holder of its own (PageOffline)
//                       └─> genericOnlinePage(): the frames are free, and managed grows by them
//
// There is one slot for the whole machine. A driver may take it only while the generic callback is in it, and only who
// has it may give it back: that is why a guest cannot have virtio-mem and Hyper-V's balloon at once. Present is credited
// for the whole block by memory-online.ts; managed only by what becomes free here.
//
// Invariant: after onlinePagesRange() each frame of the range is free or held, and managed grew by those that are free.
//
// Follows Linux v6.12 mm/memory_hotplug.c: set_online_page_callback(), restore_online_page_callback(),
// generic_online_page(), online_pages_range() (spec 5.1). As a listener, the callback is not copied to forks.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type Order, type Pfn, toOrder } from '#base/units';
import { MAX_ORDER } from './geometry.ts';
import type { Machine } from './machine.ts';
import type { Pool } from './pool.ts';
import { type Refusal, refusal } from './refusal.ts';

/** Told of 2^order frames, aligned to 2^order, in an online zone; nobody has them. It frees them or places them. */
export type OnlinePageCallback = (m: Machine, pfn: Pfn, order: Order) => void;

/** Machines whose slot is not generic. */
const slots = new WeakMap<Machine, OnlinePageCallback>();

/** Takes the slot. @returns EINVAL unless the generic callback is in it. */
export function setOnlinePageCallback(m: Machine, callback: OnlinePageCallback): Result<void, Refusal> {
  if (slots.has(m)) return err(refusal('bad-argument', 'another driver decides what comes online'));
  slots.set(m, callback);
  return ok(undefined);
}

/** Gives the slot back. @returns EINVAL unless this callback is in it. */
export function restoreOnlinePageCallback(m: Machine, callback: OnlinePageCallback): Result<void, Refusal> {
  if (slots.get(m) !== callback) return err(refusal('bad-argument', 'this callback is not the one that is set'));
  slots.delete(m);
  return ok(undefined);
}

/** 2^order frames that nobody has become free, behind the free ones that are there, and managed. Cost O(1). */
export function genericOnlinePage(m: Machine, pfn: Pfn, order: Order): void {
  const index = m.sections.indexOf(pfn);
  const pool = index < 0 ? undefined : m.poolAt(index);
  assert(pool !== undefined, 'a frame that comes online lies in no zone', { pfn, order });
  pool.fill(index, index + 2 ** order);
  pool.managed += 2 ** order;
}

/**
 * [start, end) of the dense index, frames of the pool that nobody has, come online: whole when the slot is generic, else
 * chunk by chunk through the driver's callback. Cost O(1), with a callback O(chunks).
 */
export function onlinePagesRange(m: Machine, pool: Pool, start: number, end: number): void {
  const callback = slots.get(m);
  if (callback === undefined) {
    pool.fill(start, end);
    pool.managed += end - start;
    return;
  }
  for (let i = start; i < end; ) {
    const pfn = m.sections.pfnOf(i);
    let order = 0;
    while (order < MAX_ORDER && pfn % 2 ** (order + 1) === 0 && i + 2 ** (order + 1) <= end) order++;
    callback(m, pfn, toOrder(order));
    i += 2 ** order;
  }
}
