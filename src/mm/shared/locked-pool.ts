// LockedPool: one pool of shared frames that every thread uses, behind one lock. What exclusive pools are measured by.
//
//   thread A: ring ─┐  refill, spill: `batch` frames       ┌─ ring :thread B
//                   └──> lock ─> the one free area <─ lock ┘
//
// The whole free area, summaries and all, lies in the SharedArrayBuffer; each thread has code of its own over it, and
// runs it only while it holds the lock. With rings (Linux's per-CPU lists: a batch for each time the lock is held) or
// without. It is the same free area as everywhere, so that the lock is all that differs.
//
//   word   0: lock: 0 free │ 1 held │ 2 held, somebody may sleep      after Drepper 2011, "Futexes Are Tricky"
//          1: free frames in the area, changed under the lock
//          2: times that a thread found the lock held
//   ring   of each thread, type Movable: `capacity` slots, positions that wrap, as in page-alloc.ts
//
// Invariants: a frame is in the area, in one thread's ring, or in use; the area is touched under the lock only.
// One migrate type: no fallback. A measure, and the naive twin of exclusive-pool.ts in the tests, no more.
//
// Follows Linux v6.12 mm/page_alloc.c: rmqueue_bulk(), free_pcppages_bulk(), both under zone->lock.

import { assert } from '#base/assert';
import type { Code } from '#base/specialise';
import { type AddressArea, addressAreaBytes, createAddressArea } from '../free-area-address.ts';
import { MIGRATE_MOVABLE } from '../geometry.ts';

const HEADER_BYTES = 256; // lock and counters, apart from all else
const LOCK = 0;
const FREE = 16; // a cache line further
const CONTENDED = 32;
/** Tries before a thread sleeps, and how long it may sleep in all before the holder is taken for dead. */
const SPINS = 100;
const SLEEP_MS = 1_000;
const SLEEPS = 30;

export type LockedPool = {
  /** 2^order frames, Movable. @returns the first, -1: nothing fits; other threads' rings are not asked. */
  alloc(order: number): number;
  free(i: number, order: number): void;
  /** The ring's frames go to the area. */
  drain(): void;
  nrFree(): number;
  /** Times that any thread found the lock held. */
  contended(): number;
  /** Violations in words. Rings of all threads count as used. Cost O(pages). */
  check(): string[];
};

/** Bytes of the buffer for so many pages, a multiple of 1024. */
export const lockedPoolBytes = (pages: number): number => HEADER_BYTES + addressAreaBytes(pages);

/**
 * One thread's side of the pool in `buffer`: a new SharedArrayBuffer of lockedPoolBytes(pages), of which one thread
 * says `first`, before the others come: then all frames are free.
 *
 * @param ring  frames per batch and frames that the thread keeps; left out: every request takes the lock
 */
export function openLockedPool(
  buffer: SharedArrayBuffer,
  spec: {
    readonly pages: number;
    readonly first: boolean;
    readonly ring?: { readonly batch: number; readonly high: number };
    readonly code?: Code;
  },
): LockedPool {
  const { pages, first, ring, code = 'own' } = spec;
  assert(buffer.byteLength === lockedPoolBytes(pages), 'a buffer of another size', { pages });
  const header = new Int32Array(buffer, 0, HEADER_BYTES / 4);
  const area = areaIn(buffer, pages, code);
  const add = (by: number): void => {
    header[FREE] = (header[FREE] as number) + by;
  };
  const { lock, unlock } = wordLock(header);
  if (first) {
    area.online(0, pages);
    add(pages);
  }

  function allocLocked(order: number): number {
    lock();
    const i = area.alloc(order, MIGRATE_MOVABLE);
    if (i >= 0) add(-(2 ** order));
    unlock();
    return i;
  }

  function freeLocked(i: number, order: number): void {
    lock();
    area.free(i, order);
    add(2 ** order);
    unlock();
  }

  const rest = {
    nrFree: () => header[FREE] as number,
    contended: () => Atomics.load(header, CONTENDED),
    check(): string[] {
      const wrong = area.check();
      const free = area.freeIn(0, pages);
      if (free !== header[FREE]) wrong.push(`${free} frames are free, the counter says ${header[FREE]}`);
      return wrong;
    },
  };
  if (ring === undefined) return { alloc: allocLocked, free: freeLocked, drain: () => undefined, ...rest };

  const { batch, high } = ring;
  const capacity = 2 ** Math.ceil(Math.log2(Math.max(high + 1, batch)));
  const mask = capacity - 1;
  const slots = new Int32Array(new ArrayBuffer(Math.max(capacity * 4, 128)));
  let head = 0;
  let tail = 0;

  function refill(): void {
    lock();
    const got = area.allocBulk(MIGRATE_MOVABLE, slots, 0, -1, batch);
    add(-got);
    unlock();
    head = 0;
    tail = got;
  }

  function spill(count: number): void {
    lock();
    for (let n = count; n > 0; n--) {
      tail = (tail - 1) | 0;
      area.free(slots[tail & mask] as number, 0);
    }
    add(count);
    unlock();
  }

  return {
    alloc(order) {
      if (order !== 0) return allocLocked(order);
      if (head === tail) refill();
      if (head === tail) return -1;
      const i = slots[head & mask] as number;
      head = (head + 1) | 0;
      return i;
    },
    free(i, order) {
      if (order !== 0) {
        freeLocked(i, order);
        return;
      }
      head = (head - 1) | 0;
      slots[head & mask] = i;
      const n = (tail - head) | 0;
      if (n > high) spill(Math.min(n, batch));
    },
    drain: () => spill((tail - head) | 0),
    ...rest,
  };
}

/** The area's columns lie behind the header, in a view of the same buffer. */
function areaIn(buffer: SharedArrayBuffer, pages: number, code: Code): AddressArea {
  return createAddressArea(pages, 'address', code, { buffer, at: HEADER_BYTES });
}

function wordLock(header: Int32Array): { lock: () => void; unlock: () => void } {
  function lock(): void {
    if (Atomics.compareExchange(header, LOCK, 0, 1) === 0) return;
    Atomics.add(header, CONTENDED, 1);
    for (let k = 0; k < SPINS; k++) {
      if (Atomics.load(header, LOCK) === 0 && Atomics.compareExchange(header, LOCK, 0, 1) === 0) return;
    }
    for (let k = 0; k < SLEEPS; ) {
      if (Atomics.exchange(header, LOCK, 2) === 0) return;
      if (Atomics.wait(header, LOCK, 2, SLEEP_MS) === 'timed-out') k++;
    }
    assert(false, 'the lock was not released: its holder is dead', { ms: SLEEPS * SLEEP_MS });
  }

  function unlock(): void {
    if (Atomics.exchange(header, LOCK, 0) === 2) Atomics.notify(header, LOCK, 1);
  }

  return { lock, unlock };
}
