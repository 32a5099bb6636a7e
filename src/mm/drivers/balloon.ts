// virtio-balloon: a driver that takes pages out of use when its host asks, anywhere in the machine, one by one.
//
//   host: balloon TARGET ──> device: num_pages = (RAM of boot - TARGET) / 4096 ──configChanged──> driver
//
//   step    held < num_pages   up to 256 pages are allocated and told to the device; none to be had: 200 ms of rest
//           held > num_pages   up to 256 pages are told and freed, the newest batch first
//           then `actual` is written, and if there is more to do there is another step
//
//   list    │ batch 3 │ batch 2 │ batch 1 │     head first; within a batch in the order of allocation
//
// A page in the balloon is present and not managed: MemTotal falls. It is movable (its holder's slot follows it), so that
// it keeps no block online; the device hears of moves with the driver's next step. With deflate-on-oom an allocation that
// failed may have up to 256 pages back. Time is an argument of `tick`.
//
// Invariants: BS1 the holder's pages and the driver's list are the same set of pages, after a step also what the device was
// told; BS2 managed is lower by exactly them.
//
// Follows Linux v6.12 drivers/virtio/virtio_balloon.c: update_balloon_size_func(), fill_balloon(), leak_balloon(),
// virtio_balloon_oom_notify(); mm/balloon_compaction.c; QEMU v7.2 hw/virtio/virtio-balloon.c (spec 5.5). Left out: statistics,
// page hinting and reporting, the shrinker; a page that migrates stays at its place of the list (Linux puts it first, and
// tells the device at once); with deflate-on-oom Linux leaves MemTotal as it is.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, type Pfn, toOrder } from '#base/units';
import { PAGE_SIZE } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { type Refusal, refusal } from '../refusal.ts';

/** Pages that one message to the device names; also what an OOM gets back: VIRTIO_BALLOON_ARRAY_PFNS_MAX. */
export const BALLOON_BATCH = 256;
const REST_MS = 200;

/** The device as its driver sees it. */
export interface BalloonPort {
  /** Pages that the balloon should hold: num_pages of its config. */
  numPages(): number;
  /** These pages are not used any more; the device may drop their contents. */
  inflate(pfns: readonly Pfn[]): void;
  /** These pages will be used again. */
  deflate(pfns: readonly Pfn[]): void;
  /** Pages that the balloon holds: `actual` of its config. */
  setActual(pages: number): void;
  onConfigChanged: (() => void) | undefined;
}

/** QEMU's device. It counts the memory of boot only: DIMMs and virtio-mem are not in `actual`. */
export class QemuBalloon implements BalloonPort {
  readonly ramSize: number;
  onConfigChanged: (() => void) | undefined;
  /** QEMU's BALLOON_CHANGE, before its limit of one a second. */
  onChange: ((actual: number) => void) | undefined;
  /** Pages that the guest gave. */
  readonly dropped = new Set<Pfn>();
  #numPages = 0;
  #held = 0;

  /** @param ramSize  bytes of RAM at boot */
  constructor(ramSize: number) {
    assert(ramSize > 0 && ramSize % PAGE_SIZE === 0, 'RAM is whole pages', { ramSize });
    this.ramSize = ramSize;
  }

  /** query-balloon: bytes of RAM that the guest has. */
  get actual(): number {
    return this.ramSize - this.#held * PAGE_SIZE;
  }

  /** QMP balloon: the RAM that the guest is to have, in bytes. More than there is means all. @returns QEMU's refusal. */
  setTarget(bytes: number): Result<void, Refusal> {
    if (!Number.isInteger(bytes) || bytes <= 0) {
      return err(refusal('bad-argument', "Parameter 'target' expects a size"));
    }
    this.#numPages = Math.floor((this.ramSize - Math.min(bytes, this.ramSize)) / PAGE_SIZE);
    this.onConfigChanged?.();
    return ok(undefined);
  }

  numPages(): number {
    return this.#numPages;
  }

  inflate(pfns: readonly Pfn[]): void {
    for (const pfn of pfns) {
      assert(!this.dropped.has(pfn), 'a page is inflated twice', { pfn });
      this.dropped.add(pfn);
    }
  }

  deflate(pfns: readonly Pfn[]): void {
    for (const pfn of pfns) this.dropped.delete(pfn);
  }

  setActual(pages: number): void {
    if (pages === this.#held) return;
    this.#held = pages;
    this.onChange?.(this.actual);
  }
}

export type BalloonOptions = {
  /** Its name in the log, "virtio1". */
  readonly name: string;
  /** Where it looks for pages first: the node of the worker that runs it. */
  readonly node: NodeId;
  /** VIRTIO_BALLOON_F_DEFLATE_ON_OOM. Default false. */
  readonly deflateOnOom?: boolean;
};

export type BalloonActivity = 'idle' | 'working' | 'resting';

export class VirtioBalloon {
  readonly holder: HolderId;
  /** balloon_inflate, balloon_deflate and balloon_migrate of /proc/vmstat. */
  inflated = 0;
  deflated = 0;
  migrated = 0;

  readonly #m: Machine;
  readonly #port: BalloonPort;
  readonly #name: string;
  readonly #deflateOnOom: boolean;
  /** Slots of the holder, the head of Linux's list last; and the frame of each that the device knows. */
  readonly #list: number[] = [];
  readonly #told: Pfn[] = [];
  /** pgmigrate_success when all of #told was true. */
  #movesSeen = 0;
  #queued = true;
  #nowMs = 0;
  #restUntilMs = 0;

  /** Binds a driver to a device. Work begins with the first `step`. */
  constructor(m: Machine, port: BalloonPort, options: BalloonOptions) {
    this.#m = m;
    this.#port = port;
    this.#name = options.name;
    this.#deflateOnOom = options.deflateOnOom ?? false;
    this.holder = m.addHolder({ class: 'balloon', name: options.name, node: options.node });
    port.onConfigChanged = () => {
      this.#queued = true;
    };
  }

  /** Pages in the balloon. */
  get pages(): number {
    return this.#list.length;
  }

  get activity(): BalloonActivity {
    if (!this.#queued) return 'idle';
    return this.#nowMs < this.#restUntilMs ? 'resting' : 'working';
  }

  /** It is `nowMs` now. */
  tick(nowMs: number): void {
    assert(nowMs >= this.#nowMs, 'time goes forward', { nowMs, was: this.#nowMs });
    this.#nowMs = nowMs;
  }

  /** One message to the device: up to 256 pages. */
  step(): BalloonActivity {
    if (this.activity !== 'working') return this.activity;
    this.#queued = false;
    this.#followMoves();
    const more = this.#port.numPages() - this.pages;
    const done = more > 0 ? this.#fill(Math.min(more, BALLOON_BATCH)) : this.#leak(Math.min(-more, BALLOON_BATCH));
    this.#port.setActual(this.pages);
    if (done !== Math.abs(more)) this.#queued = true;
    return this.activity;
  }

  /** Steps until there is nothing to do or nothing to be had. Each step moves pages, or rests. */
  settle(): BalloonActivity {
    while (this.activity === 'working') this.step();
    return this.activity;
  }

  /** Tells the device which pages lie elsewhere now. Cost O(pages in the balloon) when anything has moved, else O(1). */
  #followMoves(): void {
    const m = this.#m;
    if (m.vmstat.pgmigrate_success === this.#movesSeen) return;
    this.#movesSeen = m.vmstat.pgmigrate_success;
    const from: Pfn[] = [];
    const to: Pfn[] = [];
    this.#list.forEach((slot, k) => {
      const now = m.sections.pfnOf(m.holders.frameAt(slot));
      if (now === this.#told[k]) return;
      from.push(this.#told[k]);
      to.push(now);
      this.#told[k] = now;
    });
    this.migrated += to.length;
    if (to.length === 0) return;
    this.#port.deflate(from); // first: one page may lie where another was
    this.#port.inflate(to);
  }

  /** @returns pages taken; fewer than asked for when there are no more, and then it rests */
  #fill(want: number): number {
    const m = this.#m;
    const pfns: Pfn[] = [];
    while (pfns.length < want) {
      const pfn = m.alloc(this.holder, toOrder(0));
      if (pfn < 0) {
        m.onLog?.({ level: 'info', text: `virtio_balloon ${this.#name}: Out of puff! Can't get 1 pages` });
        this.#restUntilMs = this.#nowMs + REST_MS;
        break;
      }
      pfns.push(pfn as Pfn); // alloc gave a frame
    }
    if (pfns.length === 0) return 0;
    // Linux pops its private list while it enqueues: what was allocated first ends up at the head.
    for (const pfn of pfns.toReversed()) {
      this.#list.push(m.sections.ownerAt(m.sections.indexOf(pfn)));
      this.#told.push(pfn);
    }
    this.inflated += pfns.length;
    this.#port.inflate(pfns);
    return pfns.length;
  }

  /** @returns pages given back: all that were asked for, or all there are */
  #leak(want: number): number {
    const m = this.#m;
    const kept = Math.max(0, this.pages - want);
    const pfns = this.#told.splice(kept).reverse();
    this.#list.length = kept;
    if (pfns.length === 0) return 0;
    this.deflated += pfns.length;
    this.#port.deflate(pfns); // told before the pages are used
    for (const pfn of pfns) m.free(pfn);
    return pfns.length;
  }

  /**
   * The kernel is out of memory: the last resort before it kills.
   * @returns pages that are free now: up to 256 with deflate-on-oom, else 0
   */
  oomNotify(): number {
    if (!this.#deflateOnOom) return 0;
    this.#followMoves();
    const freed = this.#leak(BALLOON_BATCH);
    this.#port.setActual(this.pages);
    return freed;
  }

  /** BS1, without the device; empty when sound. */
  check(): string[] {
    const m = this.#m;
    const wrong: string[] = [];
    const held = m.holders.members[this.holder];
    if (held !== this.pages) wrong.push(`BS1 ${this.pages} pages on the list, the holder has ${held}`);
    if (new Set(this.#list).size !== this.pages) wrong.push('BS1 a page is on the list twice');
    for (const slot of this.#list) {
      if (m.holders.frameAt(slot) < 0 || m.holders.holderOf(slot) !== this.holder)
        wrong.push(`BS1 slot ${slot} is not its own`);
    }
    if (this.inflated - this.deflated !== this.pages) {
      wrong.push(`BS1 ${this.inflated} in, ${this.deflated} out, ${this.pages} held`);
    }
    return wrong;
  }
}
