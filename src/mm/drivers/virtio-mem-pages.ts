// Frames that a driver keeps out: logically offline inside of a block that is online (PageOffline).
//
//                        fakeOffline: emptied by contiguous allocation, managed falls
//            free ─────────────────────────────────────────────────────────────────────> held, `fake offline`
//             ^  <────────────────────────────── fakeOnline: managed rises ─────────────        │
//             │                                                                                 │ the block goes offline:
//             └──── fakeOnline, in chunks of up to order 10 ──── held, `never onlined` <─┐      │ nobody holds its frames
//                                                                                        │      v
//                     keepOut: the online callback, when the block comes online ─────────┴── (offline block)
//
// Linux tells the two kinds apart by PageDirty: a page that was never given to the buddy goes there like memory that comes
// online, one that was taken from it goes back like any free page. Here two holders of class `unplugged` do: present, not
// managed, and no obstacle to the offline of the block.
//
// Invariant: F1 managed falls by exactly the frames that are held, whichever way they came.
//
// Follows Linux v6.12 drivers/virtio/virtio_mem.c: virtio_mem_fake_offline(), virtio_mem_fake_online(),
// virtio_mem_set_fake_offline() (spec 5.1, 5.4).

import { assert } from '#base/assert';
import { type HolderId, type NodeId, type Order, type Pfn, toOrder, toPfn } from '#base/units';
import { allocContigRange, freeContigRange } from '../contig-alloc.ts';
import { MAX_ORDER } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { genericOnlinePage } from '../online-callback.ts';
import { ZONE_MOVABLE } from '../page-class.ts';
import { allocationsIn } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';

/** Movable is to be trusted more: it is tried this often, a kernel zone once. */
const MOVABLE_TRIES = 5;

export class FakeOfflinePages {
  readonly #m: Machine;
  /** Frames that no allocator ever had since their block came online. */
  readonly neverOnlined: HolderId;
  /** Frames that were taken from the free lists. */
  readonly fakeOffline: HolderId;

  constructor(m: Machine, name: string, node: NodeId) {
    this.#m = m;
    this.neverOnlined = m.addHolder({ class: 'unplugged', name: `${name}: never onlined`, node });
    this.fakeOffline = m.addHolder({ class: 'unplugged', name: `${name}: fake offline`, node });
  }

  /** Frames held in all. */
  get pages(): number {
    const { pages } = this.#m.holders;
    return pages[this.neverOnlined] + pages[this.fakeOffline];
  }

  /** Is the frame held? */
  holds(pfn: Pfn): boolean {
    const { sections, holders } = this.#m;
    const index = sections.indexOf(pfn);
    const a = index < 0 ? undefined : sections.allocationAt(index);
    return a !== undefined && this.#mine(holders.holderOf(sections.ownerAt(a.head)));
  }

  #mine(holder: HolderId): boolean {
    return holder === this.neverOnlined || holder === this.fakeOffline;
  }

  /** 2^order frames of a block that comes online stay out. They are nobody's. */
  keepOut(pfn: Pfn, order: Order): void {
    this.#m.place(this.neverOnlined, pfn, toPfn(pfn + 2 ** order));
  }

  /**
   * Empties [start, end) of one zone and keeps it. Between two tries others may run.
   *
   * @returns EBUSY: something in it did not move; ENOMEM: nowhere to move it. Then it is as it was, but for what moved.
   */
  *takeOut(start: Pfn, end: Pfn): Generator<void, 'ok' | 'EBUSY' | 'ENOMEM'> {
    const m = this.#m;
    const pool = m.poolAt(m.sections.indexOf(start));
    assert(pool !== undefined, 'frames to fake offline are not online', { start, end });
    const tries = pool.zone === ZONE_MOVABLE ? MOVABLE_TRIES : 1;
    for (let k = 0; k < tries; k++) {
      if (k > 0) yield;
      const r = allocContigRange(m, start, end, { holder: this.fakeOffline });
      if (r.ok) return 'ok';
      if (r.error.reason === 'no-memory') return 'ENOMEM';
    }
    return 'EBUSY';
  }

  /** [start, end), all held, become free. */
  putBack(start: Pfn, end: Pfn): void {
    const m = this.#m;
    let order = MAX_ORDER;
    while (start % 2 ** order !== 0 || (end - start) % 2 ** order !== 0) order--;
    for (let pfn: number = start; pfn < end; pfn += 2 ** order) {
      const from = toPfn(pfn);
      const to = toPfn(pfn + 2 ** order);
      const holder = m.holders.holderOf(m.sections.ownerAt(m.sections.indexOf(from)));
      assert(this.#mine(holder), 'frames that the driver does not hold', { pfn, holder });
      if (holder === this.fakeOffline) {
        freeContigRange(m, from, to);
      } else {
        this.#release(from, to);
        genericOnlinePage(m, from, toOrder(order));
      }
    }
  }

  /** Nobody holds [start, end) any more, and no list has it yet. managed is not touched. */
  #release(start: Pfn, end: Pfn): void {
    const { sections } = this.#m;
    const first = sections.indexOf(start);
    for (const a of [...allocationsIn(this.#m, first, first + end - start)]) {
      this.#m.unhold(a.head, a.order);
      sections.vacate(a.head, a.order);
    }
  }

  /** A block went offline: what was held in it is forgotten, the driver's own tables say what is plugged. */
  forgetIn(start: Pfn, end: Pfn): void {
    const m = this.#m;
    const first = m.sections.indexOf(start);
    for (const a of [...allocationsIn(m, first, first + end - start)]) {
      if (this.#mine(m.holders.holderOf(m.sections.ownerAt(a.head)))) m.forget(a.head);
    }
  }

  /** The zone of a frame; undefined where it is offline. */
  zoneOf(pfn: Pfn): Pool | undefined {
    const index = this.#m.sections.indexOf(pfn);
    return index < 0 ? undefined : this.#m.poolAt(index);
  }
}
