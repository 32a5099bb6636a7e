// Twin host: a Machine of the engine with made-up devices around it, as a Host. For rehearsing a plan, for tests, and as the
// pattern for other hosts: nothing here knows more of the machine than its tree and the hypervisor's replies tell.
//
//                      ┌─ observe ─ tree of the machine + replies as /qmp files ─ plan/observation.ts
//   Host port ─faults──┤
//                      └─ act ─ a write to a kernel file, or a request to the hypervisor (hypervisor.ts)
//                                   └── goes on in the guest (guest.ts) while the virtual clock runs
//
//   act: begin ──> step, time passes, step ... ──> over: done, or refused with its errno
//          │                                  └──> deadline: the guest's own ends a write (EINTR); a device request times out
//          └──> fault: refused, lost, silent, a lie, nobody there, or the caller dies (faults.ts)
//
// Deterministic: the same calls at the same virtual times give the same machine. A machine with compat 'linux' goes on with an
// endless offline until a signal, as Linux does; a strict one gives up at the engine's bound with EINTR.
//
// Invariants: those of the port (control/host.ts); TH: docs/spec/executor.md.

import { assert, unreachable } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { toBlockId, toNodeId } from '#base/units';
import type { Capture } from '#capture/capture';
import { filesOfTree, gatherAsync, type ReadFailure } from '#capture/gather';
import type { ActDone, Host, HostFailure, HostInfo, Limits } from '#control/host';
import type { KernelFs } from '#kernfs/kernel-fs';
import { MEMORY_DIR } from '#kernfs/memory-blocks';
import type { KernTree } from '#kernfs/source';
import { QemuBalloon, VirtioBalloon } from '#mm/drivers/balloon';
import { VirtioMem } from '#mm/drivers/virtio-mem';
import { QemuVirtioMem } from '#mm/drivers/virtio-mem-device';
import { PAGE_SIZE } from '#mm/geometry';
import { Machine } from '#mm/machine';
import type { MachineSpec } from '#mm/machine-spec';
import { type Observation, observe } from '#plan/observation';
import { type Action, sayAction } from '#plan/plan';
import { kernelTree } from '#tree/kernel-tree';
import type { Call, Fault, Faults } from './faults.ts';
import { ejectJob, Guest, type Job, plugJob, WriteJob } from './guest.ts';
import { type Dimm, Hypervisor } from './hypervisor.ts';
import { VirtualClock } from './virtual-clock.ts';

export type TwinVirtioMem = {
  readonly id: string;
  readonly memdev: string;
  readonly addr: number;
  readonly maxBytes: number;
  readonly node: number;
  /** Asked for, and plugged, from the beginning. Default 0. */
  readonly bytes?: number;
};

export type TwinHostOptions = {
  /** As people name it. Default "twin". */
  readonly name?: string;
  readonly clock?: VirtualClock;
  /** DIMMs that are there. Those whose blocks the machine does not have are plugged into it, offline. */
  readonly dimms?: readonly Dimm[];
  readonly virtioMem?: readonly TwinVirtioMem[];
  /** A balloon over the boot memory. Default false. */
  readonly balloon?: boolean;
  /** slots= and maxmem=. Default: 16 slots, 64 GiB more than the boot memory. */
  readonly slots?: number;
  readonly maxBytes?: number;
  /** 'none': a Linux host, without anybody to ask for devices. Default 'qemu'. */
  readonly hypervisor?: 'qemu' | 'none';
  readonly faults?: Faults;
  /** Virtual time that a request takes. Default 1. */
  readonly requestMs?: number;
};

const GIB = 2 ** 30;
/** After its signal a job has so many steps to undo itself; more is a bug of the engine. */
const CANCEL_STEPS_MAX = 100_000;
const DEVICE_ACTIONS: readonly Action['do'][] = ['add-dimm', 'remove-dimm', 'resize-virtio-mem'];
const GUEST_ACTIONS: readonly Action['do'][] = [
  'offline-block',
  'online-block',
  'auto-online',
  'drop-caches',
  'compact',
  'set-hugepages',
];

const ALL_ACTIONS: readonly Action['do'][] = [...GUEST_ACTIONS, ...DEVICE_ACTIONS, 'balloon'];

const failure = (kind: HostFailure['kind'], sentence: string, rest: Partial<HostFailure> = {}): HostFailure => ({
  kind,
  sentence,
  ...rest,
});

/** A machine, or one that is switched on for this; the devices are bound to it. A spec or device that makes no sense throws. */
export function twinHost(machine: Machine | MachineSpec, options: TwinHostOptions = {}): TwinHost {
  return new TwinHost(machine instanceof Machine ? machine : Machine.boot(machine), options);
}

export class TwinHost implements Host {
  readonly machine: Machine;
  readonly clock: VirtualClock;
  readonly hypervisor: Hypervisor;
  readonly guest = new Guest();
  readonly fs: KernelFs;
  /** May be changed while it runs: the world gets worse, or better. */
  faults: Faults;
  readonly #options: TwinHostOptions;
  readonly #listeners = new Set<(line: string) => void>();
  readonly #log: string[] = [];
  #calls = 0;
  #acts = 0;
  #downUntilMs = 0;
  #closed = false;

  constructor(machine: Machine, options: TwinHostOptions) {
    this.machine = machine;
    this.#options = options;
    this.clock = options.clock ?? new VirtualClock();
    this.faults = options.faults ?? (() => undefined);
    this.fs = kernelTree(machine, { endless: 'wait' });
    const dimms = options.dimms ?? [];
    const isThere = (d: Dimm): boolean =>
      machine.block(toBlockId(d.addr / PAGE_SIZE / machine.blockPages)) !== undefined;
    const baseBytes = bootBytes(machine.spec, dimms);
    this.hypervisor = new Hypervisor({
      baseBytes,
      slots: options.slots ?? 16,
      maxBytes: options.maxBytes ?? baseBytes + 64 * GIB,
    });
    const log = machine.onLog;
    machine.onLog = (line) => {
      log?.(line);
      this.#say(`kernel: ${line.text}`);
    };
    for (const d of dimms) this.#begin(d, isThere(d));
    for (const v of options.virtioMem ?? []) this.#bind(v);
    if (options.balloon === true) {
      const device = new QemuBalloon(baseBytes);
      this.hypervisor.balloon = device;
      this.guest.balloon = new VirtioBalloon(machine, device, { name: 'virtio0', node: toNodeId(0) });
    }
    this.guest.settle(this.clock.nowMs());
    this.clock.onTick((nowMs) => this.guest.step(nowMs));
  }

  #begin(d: Dimm, isThere: boolean): void {
    const plugged = this.hypervisor.plug(d);
    assert(plugged.ok, 'a DIMM of the first hour does not fit', { ...d, why: plugged.ok ? '' : plugged.error });
    if (!isThere) this.guest.begin(plugJob(this.machine, d));
  }

  #bind(v: TwinVirtioMem): void {
    const { addr, maxBytes: regionSize, node, bytes = 0 } = v;
    const device = new QemuVirtioMem({ addr, regionSize, node: toNodeId(node), requestedSize: bytes });
    const driver = VirtioMem.probe(this.machine, device, { name: v.id });
    assert(driver.ok, 'a virtio-mem device does not fit', { id: v.id, why: driver.ok ? '' : driver.error.message });
    device.onSizeChange = (size) => this.#say(`MEMORY_DEVICE_SIZE_CHANGE ${v.id} ${size}`);
    this.hypervisor.virtioMem.set(v.id, { device, memdev: v.memdev });
    this.guest.virtioMem.set(v.id, driver.value);
  }

  /** Events and kernel lines, for whoever watches and as evidence of an act. */
  #say(line: string): void {
    this.#log.push(line);
    for (const listener of this.#listeners) listener(line);
  }

  // -------------------------------------------------------------------------------------------------------- the port

  async info(_limits: Limits): Promise<Result<HostInfo, HostFailure>> {
    if (this.#closed) return err(failure('closed', 'the host was closed'));
    const can = new Set<Action['do']>(GUEST_ACTIONS);
    const cannot = new Map<Action['do'], string>();
    const qemu = this.#options.hypervisor !== 'none';
    for (const word of DEVICE_ACTIONS) {
      if (qemu) can.add(word);
      else cannot.set(word, 'there is no hypervisor to ask');
    }
    if (qemu && this.hypervisor.balloon !== undefined) can.add('balloon');
    else cannot.set('balloon', 'No balloon device has been activated');
    const name = this.#options.name ?? 'twin';
    return ok({ kind: 'twin', name, kernel: this.machine.profile.name, can, cannot });
  }

  async observe(limits: Limits): Promise<Result<Observation, HostFailure>> {
    const fault = this.#fault('observe', undefined);
    if (fault?.fault === 'die') return never();
    const broken = this.#weather(fault, limits);
    if (broken !== undefined) return err(broken);
    this.#pass();
    const seen = observe(this.tree());
    return seen.ok ? seen : err(failure('protocol', seen.error));
  }

  async act(action: Action, limits: Limits): Promise<Result<ActDone, HostFailure>> {
    const fault = this.#fault('act', action);
    const { can, cannot } = await this.#abilities();
    if (!can.has(action.do)) return err(failure('unsupported', cannot.get(action.do) ?? 'there is no such action'));
    if (fault?.fault === 'die' && fault.when === 'before') return never();
    if (fault?.fault === 'lie') {
      this.#pass();
      return ok({ evidence: [] });
    }
    const before = fault !== undefined && 'when' in fault && fault.when !== 'before' ? undefined : fault;
    const broken = this.#weather(before, limits);
    if (broken !== undefined) return err(broken);
    const isAborted = (): boolean => limits.signal?.aborted === true;
    if (isAborted()) return err(failure('cancelled', 'cancelled before it began'));

    const from = this.#log.length;
    const evidence = (): string[] => this.#log.slice(from);
    const endMs = this.clock.nowMs() + limits.deadlineMs;
    this.#pass();
    const begun = this.#ask(action, endMs);
    if (!begun.ok) return err({ ...begun.error, evidence: evidence() });
    const job = begun.value;
    if (fault !== undefined && 'when' in fault && fault.when === 'midway') {
      this.guest.step(this.clock.nowMs());
      return fault.fault === 'die' ? never() : err(failure('disconnected', 'the connection broke'));
    }
    while (job !== undefined && job.result === undefined && this.clock.nowMs() < endMs) {
      if (isAborted()) job.cancel();
      this.#pass();
    }
    // The deadline of a write lies in the guest: it is over a moment later.
    for (let n = 0; job !== undefined && job.result === undefined && job.endsBySignal; n++) {
      assert(n < CANCEL_STEPS_MAX, 'a write does not end by its signal', { action: sayAction(action) });
      job.cancel();
      this.guest.step(this.clock.nowMs());
    }
    if (fault?.fault === 'die') return never();
    if (fault?.fault === 'lose') return err(failure('disconnected', 'the connection broke'));
    if (fault?.fault === 'silent') {
      this.clock.advance(endMs - this.clock.nowMs());
      return err(failure('timeout', 'no answer'));
    }
    const result = job?.result;
    if (job !== undefined && result === undefined) return err(failure('timeout', 'the guest is still at it'));
    if (result?.ok === false) {
      const kind = result.errno === 'EINTR' && isAborted() ? 'cancelled' : 'refused';
      const sentence = `${sayAction(action)}: ${result.errno}`;
      return err(failure(kind, sentence, { errno: result.errno, evidence: evidence() }));
    }
    return ok({ evidence: evidence() });
  }

  async capture(_limits: Limits): Promise<Result<Capture, HostFailure>> {
    if (this.#closed) return err(failure('closed', 'the host was closed'));
    const files = filesOfTree(this.fs);
    const replies = this.#options.hypervisor === 'none' ? [] : [...this.hypervisor.replies()];
    const captured = await gatherAsync(
      {
        read: async (path) => files.read(path),
        list: async (path) => files.list(path),
        readWords: async (path, push) => this.#words(path, push),
        cgroups: async () => files.cgroups(),
        soon: async () => {},
        nowMs: () => this.clock.nowMs(),
      },
      { kind: 'live', name: this.#options.name ?? 'twin', takenAt: this.clock.stamp() },
      async () => replies.map(([path, text]) => ({ path, text })),
    );
    return captured === undefined ? err(failure('protocol', 'this is no machine')) : ok(captured);
  }

  async watch(onLine: (line: string) => void, signal: AbortSignal): Promise<void> {
    if (this.#closed || signal.aborted) return;
    this.#listeners.add(onLine);
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
    this.#listeners.delete(onLine);
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  /** The machine's files, and the hypervisor's replies beside them. */
  tree(): KernTree {
    if (this.#options.hypervisor === 'none') return this.fs;
    const replies = this.hypervisor.replies();
    const root = '/qmp';
    return {
      readText: (path) => replies.get(path) ?? this.fs.readText(path),
      list: (path) =>
        path === root ? [...replies.keys()].map((p) => p.slice(root.length + 1)).sort() : this.fs.list(path),
    };
  }

  /** What is wrong with the machine and its drivers; empty when sound. */
  check(): string[] {
    const wrong = this.machine.check().map((v) => `${v.rule}: ${v.detail}`);
    return [...wrong, ...(this.guest.balloon?.check() ?? [])];
  }

  // ------------------------------------------------------------------------------------------------------- mechanism

  /** A request takes its time, and the guest goes on meanwhile. */
  #pass(): void {
    this.clock.advance(this.#options.requestMs ?? 1);
  }

  async #abilities(): Promise<Pick<HostInfo, 'can' | 'cannot'>> {
    const info = await this.info({ deadlineMs: 0 });
    return info.ok ? info.value : { can: new Set(ALL_ACTIONS), cannot: new Map() }; // closed: told below
  }

  #fault(verb: Call['verb'], action: Action | undefined): Fault | undefined {
    const call = { n: this.#calls++, verb, act: this.#acts, action };
    if (verb === 'act') this.#acts++;
    return this.#closed ? undefined : this.faults(call);
  }

  /** What keeps a request from being made at all. */
  #weather(fault: Fault | undefined, limits: Limits): HostFailure | undefined {
    if (this.#closed) return failure('closed', 'the host was closed');
    if (fault?.fault === 'down') this.#downUntilMs = this.clock.nowMs() + fault.forMs;
    const waitMs = this.#downUntilMs - this.clock.nowMs();
    if (waitMs > 0) {
      // An adapter connects again within its deadline.
      this.clock.advance(Math.min(waitMs, limits.deadlineMs));
      if (waitMs > limits.deadlineMs || fault?.fault === 'down') return failure('unreachable', 'nobody answers');
    }
    if (fault?.fault === 'refuse') {
      this.#pass();
      return failure('refused', fault.sentence, fault.errno === undefined ? {} : { errno: fault.errno });
    }
    if (fault?.fault === 'lose') return failure('disconnected', 'the connection broke');
    if (fault?.fault === 'silent') {
      this.clock.advance(limits.deadlineMs);
      return failure('timeout', 'no answer');
    }
    return undefined;
  }

  /** Begins an action. @returns its job; undefined: it is over, a device was told its wish */
  #ask(action: Action, endMs: number): Result<Job | undefined, HostFailure> {
    const write = (path: string, text: string): Result<Job, HostFailure> =>
      ok(this.guest.begin(new WriteJob(this.fs.beginWrite(path, text), endMs)));
    const refused = (sentence: string): Result<never, HostFailure> => err(failure('refused', sentence));
    switch (action.do) {
      case 'offline-block':
        return write(`${MEMORY_DIR}/memory${action.block}/state`, 'offline');
      case 'online-block':
        return write(
          `${MEMORY_DIR}/memory${action.block}/state`,
          action.zone === 'default' ? 'online' : `online_${action.zone}`,
        );
      case 'auto-online':
        return write(`${MEMORY_DIR}/auto_online_blocks`, action.word);
      case 'drop-caches':
        return write('/proc/sys/vm/drop_caches', String(action.what));
      case 'compact':
        return write(
          action.node === undefined
            ? '/proc/sys/vm/compact_memory'
            : `/sys/devices/system/node/node${action.node}/compact`,
          '1',
        );
      case 'set-hugepages': {
        const dir = action.node === undefined ? '/sys/kernel/mm' : `/sys/devices/system/node/node${action.node}`;
        return write(`${dir}/hugepages/hugepages-${action.pageBytes / 1024}kB/nr_hugepages`, String(action.pages));
      }
      case 'add-dimm': {
        const plugged = this.hypervisor.plug(action);
        if (!plugged.ok) return refused(plugged.error);
        this.guest.begin(plugJob(this.machine, plugged.value));
        return ok(undefined); // QEMU answers before the guest has looked
      }
      case 'remove-dimm':
        return this.#unplug(action.id);
      case 'resize-virtio-mem': {
        const v = this.hypervisor.virtioMem.get(action.id);
        if (v === undefined) return refused(`Device '${action.id}' not found`);
        const set = v.device.setRequestedSize(action.bytes);
        return set.ok ? ok(undefined) : refused(set.error.message);
      }
      case 'balloon': {
        const set = this.hypervisor.balloon?.setTarget(action.bytes);
        return set?.ok === false ? refused(set.error.message) : ok(undefined);
      }
      default:
        return unreachable(action);
    }
  }

  /** device_del, once every block is offline: a refusal of the guest would put its blocks into other zones (lab fact 4). */
  #unplug(id: string): Result<Job, HostFailure> {
    const { dimms, unplugging } = this.hypervisor;
    const d = dimms.get(id);
    if (d === undefined) return err(failure('refused', `Device '${id}' not found`));
    const blockBytes = this.machine.blockPages * PAGE_SIZE;
    for (let b = Math.floor(d.addr / blockBytes); b < Math.ceil((d.addr + d.bytes) / blockBytes); b++) {
      const state = this.machine.block(toBlockId(b))?.state ?? 'offline';
      if (state !== 'offline')
        return err(failure('refused', `block ${b} of DIMM ${id} is ${state}`, { errno: 'EBUSY' }));
    }
    if (unplugging.has(id)) return err(failure('refused', `Device ${id} is already in the process of unplug`));
    unplugging.add(id);
    return ok(
      this.guest.begin(
        ejectJob(this.machine, d, (gone) => {
          unplugging.delete(id);
          if (gone) dimms.delete(id);
          this.#say(gone ? `DEVICE_DELETED ${id}` : `ACPI_DEVICE_OST ${id} source 3 status 130`);
        }),
      ),
    );
  }

  #words(path: string, push: (pairs: Uint32Array, words: number) => void): ReadFailure | undefined {
    const bytes = this.fs.read(path);
    if (typeof bytes === 'string') return { kind: bytes === 'ENOENT' ? 'absent' : 'denied', detail: bytes };
    const words = Math.floor(bytes.length / 8);
    push(new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + words * 8)), words);
    return undefined;
  }
}

/** RAM that was there when the machine was switched on, without what DIMMs brought then. */
const bootBytes = (spec: MachineSpec, dimms: readonly Dimm[]): number =>
  spec.ram.reduce((n, r) => {
    const [start, end] = [r.start * PAGE_SIZE, r.end * PAGE_SIZE];
    const own = dimms.map((d) => Math.max(0, Math.min(end, d.addr + d.bytes) - Math.max(start, d.addr)));
    return own.reduce((left, bytes) => left - bytes, n + end - start);
  }, 0);

/** The caller was killed: it does not see the end. */
const never = <T>(): Promise<T> => new Promise<T>(() => {});
