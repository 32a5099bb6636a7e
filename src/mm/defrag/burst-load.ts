// Bursts of huge requests on a machine whose memory is in use and in pieces: the load by which strategies are compared.
//
//   time, in page copies of the CPU that serves requests
//   ├─ churn ─ churn ─ churn ─┬┬┬┬─ churn ─ churn ──────── churn ─┬┬┬┬─ ...
//                             └ a burst: order 9, one after another, a gap between
//
//   heap      single pages of processes; at each churn some are given up and as many are taken
//   burst     a request of order 9 each; while the CPU is busy with it, nothing else runs on it
//   split     huge pages of the burst before last are split: their pages are the heap's, which keeps its size. So blocks
//             of order 9 are used up, and somebody has to make new ones
//   daemon    on another CPU, a tick at a time      idle      between events, one page after another
//
// What is counted: a stall is a request that found no block, whoever made one for it then; `waited` are pages that were
// copied between a request's arrival and its service. Seeded: the same load for each strategy, as far as their answers let it.

import { assert } from '#base/assert';
import type { Prng } from '#base/prng';
import { type HolderId, type Pfn, toOrder } from '#base/units';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { splitAllocation } from '../migrate.ts';
import type { Worker } from './defragmenter.ts';
import { freeBlocks } from './thresholds.ts';

export type BurstOptions = {
  readonly prng: Prng;
  /** Part of the free memory that the heap takes, 0 to 1; part of it that is the kernel's and never moves. */
  readonly used: number;
  readonly kernel: number;
  readonly bursts: number;
  /** Requests of a burst, units between two of them, and between two bursts. */
  readonly burst: number;
  readonly gap: number;
  readonly every: number;
  /** Pages that are given up and taken at each churn, units between two, and how long the CPU is busy with one. */
  readonly churnPages: number;
  readonly churnEvery: number;
  readonly churnBusy: number;
  /** Units between two ticks of the daemon. */
  readonly tickEvery: number;
};

export type BurstReport = {
  readonly requests: number;
  readonly served: number;
  /** Requests that found no block at once. */
  readonly stalls: number;
  /** Pages that were copied while a request waited: by itself, all in all and the most; by idle work, the most. */
  readonly waited: number;
  readonly mostWaited: number;
  readonly mostIdleDelay: number;
  /** Pages moved in all, and blocks of order 9 that there are more for it: those that were served, and are free. */
  readonly moved: number;
  readonly gained: number;
  /** Units in which the serving CPU had nothing to do, and idle work neither. */
  readonly slept: number;
};

class Load {
  readonly m: Machine;
  readonly o: BurstOptions;
  readonly heap: HolderId;
  readonly huge: HolderId;
  /** Slots of the heap's pages: they stay, wherever the pages go. */
  readonly slots: number[] = [];
  /** Slots of the huge pages of each burst. */
  readonly bursts: number[][] = [];
  size = 0;

  constructor(m: Machine, o: BurstOptions) {
    this.m = m;
    this.o = o;
    this.heap = m.addHolder({ class: 'anonymous', name: 'heap' });
    this.huge = m.addHolder({ class: 'anonymous', name: 'huge pages' });
  }

  slotAt(index: number): number {
    return this.m.sections.ownerAt(index);
  }

  take(): boolean {
    const pfn = this.m.alloc(this.heap, toOrder(0));
    if (pfn < 0) return false;
    this.slots.push(this.slotAt(this.m.sections.indexOf(pfn as Pfn)));
    return true;
  }

  give(): void {
    const { slots, m } = this;
    const k = this.o.prng.below(slots.length);
    const slot = slots[k] as number;
    slots[k] = slots[slots.length - 1] as number;
    slots.pop();
    m.free(m.sections.pfnOf(m.holders.frameAt(slot)));
  }

  /** Memory is filled to the brim, kernel pages in between; then as much is given up as makes the heap's size. */
  fill(): void {
    const { m, o } = this;
    const kernel = m.addHolder({ class: 'slab', name: 'kernel' });
    const free = m.pools.reduce((n, p) => n + p.alloc.nrFree() + p.alloc.pcpPages(), 0);
    const quiet = m.slowPath;
    m.slowPath = undefined;
    for (let k = 0; k < free * o.kernel; k++) m.alloc(kernel, toOrder(0));
    while (this.take());
    m.slowPath = quiet;
    this.size = Math.floor(free * o.used);
    while (this.slots.length > this.size) this.give();
  }

  churn(): void {
    for (let k = 0; k < this.o.churnPages; k++) this.give();
    for (let k = 0; k < this.o.churnPages; k++) this.take();
  }

  /** @returns whether there was a block */
  takeHuge(first: boolean): boolean {
    if (first) this.bursts.push([]);
    const pfn = this.m.alloc(this.huge, toOrder(PAGEBLOCK_ORDER));
    if (pfn < 0) return false;
    this.bursts[this.bursts.length - 1]?.push(this.slotAt(this.m.sections.indexOf(pfn as Pfn)));
    return true;
  }

  /** The huge pages of a burst that is over are split; the heap stays as large as it was. */
  splitOld(): void {
    const old = this.bursts.length >= 2 ? (this.bursts.shift() as number[]) : [];
    const { m } = this;
    for (const slot of old) {
      const head = m.holders.frameAt(slot);
      splitAllocation(m, head);
      for (let i = head; i < head + PAGEBLOCK_PAGES; i++) this.slots.push(this.slotAt(i));
    }
    while (this.slots.length > this.size) this.give();
  }
}

type Event = { readonly at: number; readonly what: 'churn' | 'huge'; readonly first: boolean };

/** When what arrives: at no round time, so that idle work is met in the middle of a page. */
function timetable(o: BurstOptions): Event[] {
  const events: Event[] = [];
  const soon = (): number => o.prng.below(1024) / 1024;
  for (let at = o.churnEvery; at <= o.every * o.bursts; at += o.churnEvery) {
    events.push({ at: at + soon(), what: 'churn', first: false });
  }
  for (let b = 1; b <= o.bursts; b++) {
    for (let k = 0; k < o.burst; k++) {
      events.push({ at: b * o.every + k * o.gap + soon(), what: 'huge', first: k === 0 });
    }
  }
  return events.sort((a, b) => a.at - b.at);
}

/**
 * Runs the load. The machine is filled first, and has the worker's slow path for as long as it lasts.
 * @param w  who defragments; undefined: nobody
 */
export function burstLoad(m: Machine, w: Worker | undefined, o: BurstOptions): BurstReport {
  assert(o.used > 0 && o.used < 1 && o.every > o.burst * o.gap, 'a load that fits', { used: o.used, every: o.every });
  const load = new Load(m, o);
  load.fill();
  const events = timetable(o);
  const blocks = (): number => m.pools.reduce((n, p) => n + freeBlocks(p, PAGEBLOCK_ORDER), 0);
  const movedNow = (): number => m.vmstat.pgmigrate_success;
  const before = { blocks: blocks(), moved: movedNow() };
  let stalled = false;
  const direct = w?.slowPath();
  m.slowPath = (machine, request) => {
    if (request.order < PAGEBLOCK_ORDER) return 'failed';
    stalled = true;
    return direct?.(machine, request) ?? 'failed';
  };
  let now = 0;
  let nextTick = o.tickEvery;
  const r = { served: 0, stalls: 0, waited: 0, mostWaited: 0, mostIdleDelay: 0, slept: 0 };

  /** On a CPU of its own: what it would have done by now. */
  const daemon = (): void => {
    for (; nextTick <= now; nextTick += o.tickEvery) w?.tick(nextTick);
  };

  /** The CPU is free until something arrives. @returns what it has to wait for then: pages that idle work is at */
  const idleUntil = (at: number): number => {
    let last = 0;
    while (now < at) {
      daemon();
      last = w?.idle(now) ?? 0;
      now += last;
      if (last > 0) continue;
      const wake = Math.min(at, nextTick); // the daemon may change what there is to do
      r.slept += wake - now;
      now = wake;
    }
    return Math.min(last, now - at);
  };

  for (const e of events) {
    daemon();
    const late = now > e.at;
    const delay = idleUntil(e.at);
    if (!late) r.mostIdleDelay = Math.max(r.mostIdleDelay, delay);
    if (e.what === 'churn') {
      load.churn();
      now += o.churnBusy;
      continue;
    }
    if (e.first) load.splitOld();
    stalled = false;
    const moved = movedNow();
    const slot = load.takeHuge(e.first);
    const copied = movedNow() - moved;
    now += copied;
    r.waited += copied + delay;
    r.mostWaited = Math.max(r.mostWaited, copied + delay);
    if (stalled) r.stalls++;
    if (slot) r.served++;
  }
  m.slowPath = undefined;
  const requests = o.bursts * o.burst;
  return { requests, ...r, moved: movedNow() - before.moved, gained: r.served + blocks() - before.blocks };
}
