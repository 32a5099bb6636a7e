// Guest of a twin: the kernel's work that goes on by itself, one small step at a time.
//
//   write   a write to a kernel file, with a deadline of its own: `timeout` in a real guest    ──> bytes or errno
//   plug    an ACPI driver got a DIMM: waits for the hotplug lock, plugDimm                    ──> its blocks, or none
//   eject   the same driver is asked to give one back: waits, ejectDimm                        ──> gone, or still there
//   virtio-mem, balloon: drivers that follow their devices' wishes
//
//   step(): one step of the first write that is not over, or one job that may run, or the drivers
//
// Jobs outlive whoever asked for them: a connection that broke or a controller that was killed ends nothing here, only a
// deadline that the job itself has. Follows Linux v6.12 drivers/acpi/acpi_memhotplug.c, block-store.ts.

import type { ErrnoName } from '#base/errno';
import { toBlockId, toNodeId, toPfn } from '#base/units';
import type { FsWrite } from '#kernfs/kernel-fs';
import type { VirtioBalloon } from '#mm/drivers/balloon';
import type { VirtioMem } from '#mm/drivers/virtio-mem';
import { PAGE_SIZE } from '#mm/geometry';
import type { Ticket } from '#mm/hotplug-lock';
import type { Machine } from '#mm/machine';
import { ejectDimm, plugDimm } from '#mm/memory-device';
import type { Dimm } from './hypervisor.ts';

const SETTLE_STEPS_MAX = 1_000_000;

export type JobResult = { readonly ok: true } | { readonly ok: false; readonly errno: ErrnoName };

export interface Job {
  readonly result: JobResult | undefined;
  /** A small piece of work, or waiting. */
  step(nowMs: number): void;
  /** What a signal does; a job of the kernel's own hears none. */
  cancel(): void;
  readonly endsBySignal: boolean;
}

export class WriteJob implements Job {
  readonly endsBySignal = true;
  result: JobResult | undefined;
  readonly #write: FsWrite;
  readonly #untilMs: number;
  #cancelled = false;

  /** @param untilMs  when a signal ends it, whoever waits */
  constructor(write: FsWrite, untilMs: number) {
    this.#write = write;
    this.#untilMs = untilMs;
  }

  step(nowMs: number): void {
    if (this.result !== undefined) return;
    if (nowMs >= this.#untilMs) this.cancel();
    const done = this.#write.step();
    if (done === undefined) return;
    this.result = typeof done === 'number' ? { ok: true } : { ok: false, errno: done };
  }

  cancel(): void {
    if (!this.#cancelled) this.#write.cancel();
    this.#cancelled = true;
  }
}

/** Work of the kernel that changes memory as a whole: in turn with all others. */
class LockedJob implements Job {
  readonly endsBySignal = false;
  result: JobResult | undefined;
  readonly #m: Machine;
  readonly #ticket: Ticket;
  readonly #work: () => JobResult;

  constructor(m: Machine, work: () => JobResult) {
    this.#m = m;
    this.#ticket = m.hotplug.lock.request();
    this.#work = work;
  }

  step(): void {
    const { lock } = this.#m.hotplug;
    if (this.result !== undefined || !lock.holds(this.#ticket) || this.#m.offlinesUnderWay > 0) return;
    this.result = this.#work();
    lock.release(this.#ticket);
  }

  cancel(): void {
    // A kworker has nobody who could send it a signal (lab fact 5).
  }
}

const rangeOf = (d: Dimm) => ({ start: toPfn(d.addr / PAGE_SIZE), end: toPfn((d.addr + d.bytes) / PAGE_SIZE) });

/** The guest is told of a new DIMM. What it cannot use it leaves alone; QEMU hears nothing of that (lab fact 3). */
export const plugJob = (m: Machine, d: Dimm): Job =>
  new LockedJob(m, () => {
    const done = plugDimm(m, rangeOf(d), toNodeId(d.node));
    return done.ok ? { ok: true } : { ok: false, errno: done.error.errno };
  });

/** The guest is asked to let a DIMM go. @param over  told whether it has */
export const ejectJob = (m: Machine, d: Dimm, over: (gone: boolean) => void): Job =>
  new LockedJob(m, () => {
    const first = toBlockId(d.addr / PAGE_SIZE / m.blockPages);
    if (m.block(first) === undefined) {
      over(true); // the guest never made blocks of it
      return { ok: true };
    }
    const { refusal } = ejectDimm(m, rangeOf(d));
    over(refusal === undefined);
    return refusal === undefined ? { ok: true } : { ok: false, errno: refusal.errno };
  });

export class Guest {
  readonly jobs: Job[] = [];
  readonly virtioMem = new Map<string, VirtioMem>();
  balloon: VirtioBalloon | undefined;

  begin<J extends Job>(job: J): J {
    this.jobs.push(job);
    return job;
  }

  /** One step of everything that is going on. */
  step(nowMs: number): void {
    for (const job of [...this.jobs]) {
      job.step(nowMs);
      if (job.result !== undefined) this.jobs.splice(this.jobs.indexOf(job), 1);
    }
    for (const vm of this.virtioMem.values()) {
      vm.tick(nowMs);
      vm.step();
    }
    this.balloon?.tick(nowMs);
    this.balloon?.step();
  }

  /** Until nothing goes on by itself, at one moment of time; jobs that would never end keep it from that, so it is bounded. */
  settle(nowMs: number): void {
    for (let n = 0; n < SETTLE_STEPS_MAX && !this.#isIdle; n++) this.step(nowMs);
  }

  get #isIdle(): boolean {
    const drivers = [...this.virtioMem.values()].every((v) => v.activity !== 'working');
    return this.jobs.length === 0 && drivers && this.balloon?.activity !== 'working';
  }
}
