// The hotplug lock: one change of memory at a time, in the order in which they were asked for.
//
//   A = request()   B = request()                       a second writer waits; readers never do
//   ─── A runs ───────────────┐ release(A)
//                 B waits ....└── B runs ────── release(B)
//
// Linux holds device_hotplug_lock and mem_hotplug_lock over every add, online, offline and remove; a writer to `state`
// that finds it taken sleeps and starts again (spec 1.10: ERESTARTSYS, the user sees a delay). Here a ticket says whose
// turn it is. Follows Linux v6.12 drivers/base/core.c: lock_device_hotplug_sysfs(); mm/memory_hotplug.c:
// mem_hotplug_begin().

import { assert } from '#base/assert';

declare const ticket: unique symbol;
export type Ticket = number & { readonly [ticket]: true };

export class HotplugLock {
  /** Tickets that wait, the one that may run first. */
  readonly #queue: Ticket[] = [];
  #next = 0;

  /** Gets in line. */
  request(): Ticket {
    const t = this.#next++ as Ticket; // the counter is where tickets come from
    this.#queue.push(t);
    return t;
  }

  /** Is it this one's turn? */
  holds(t: Ticket): boolean {
    return this.#queue[0] === t;
  }

  /** Leaves: after its work, or because it gave up waiting. */
  release(t: Ticket): void {
    const at = this.#queue.indexOf(t);
    assert(at >= 0, 'the ticket was released before', { ticket: t });
    this.#queue.splice(at, 1);
  }

  get waiting(): number {
    return Math.max(0, this.#queue.length - 1);
  }

  get taken(): boolean {
    return this.#queue.length > 0;
  }
}
