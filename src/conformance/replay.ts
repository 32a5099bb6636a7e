// Replay: the operations of a recorded guest, done again on the engine; what was read then is compared with the engine now.
//
//   boot snapshot ──buildTwin──> machine ──┬── write, qmp, qga, load ──> the same on the machine's own tree
//                                          └── blocks, zones, meminfo, snapshot, errno, replies ──> tally
//
//   not determined, so never compared     what a running kernel does by itself: how much is free, in which frames its
//                                         own data lies; and what was read while a device was on its way in or out
//   decided by contents                   whether memory goes: expected by the page flags that were read (evidence.ts).
//                                         The replay then follows the recorded kernel, so that later steps mean the same
//
// Everything else must be equal. One replay at a time holds one machine. Cost: that of the engine's work, and one verdict
// for each attempt to take a block offline.

import { assert } from '#base/assert';
import { ERRNO, type ErrnoName } from '#base/errno';
import { err, ok, type Result } from '#base/result';
import { type BlockId, toBlockId, toNodeId, toPfn } from '#base/units';
import type { Capture } from '#capture/capture';
import { iomemHidden, parseIomem, systemRamPfnRanges } from '#kernfs/iomem';
import type { KernelFs } from '#kernfs/kernel-fs';
import { ejectDimm, type Machine, PAGE_SIZE, plugDimm, type Refusal, type WatermarkSettings } from '#mm/index';
import { refusal } from '#mm/refusal';
import { kernelTree } from '#tree/kernel-tree';
import { buildTwin, watermarkSettings } from '#twin/build';
import { ramRanges } from '#twin/layout';
import { assumedFlags } from './assumed-flags.ts';
import { beforeDevices } from './before-devices.ts';
import { compareBoot } from './compare-boot.ts';
import { compareSnapshot, compareZones, type FirstReading, firstReading } from './compare-snapshot.ts';
import { type Device, DeviceMemory } from './device-memory.ts';
import { evacuate } from './evacuate.ts';
import { type BlockPages, Evidence } from './evidence.ts';
import { type BlockView, scriptWrites } from './guest-script.ts';
import { Hypervisor } from './hypervisor.ts';
import { type BlockRow, type JsonObject, type Op, parseOps, qemuSize, qemuWords, type TimedOp } from './ops.ts';
import { Tally } from './tally.ts';

/** A recorded guest, wherever its files are. */
export type Recording = {
  readonly name: string;
  /** The text of ops.jsonl. */
  readonly ops: string;
  /** A snapshot folder; undefined where there is none. */
  snapshot(dir: string): Capture | undefined;
  /** Page flags of one block, read just before an attempt in the time of this snapshot. */
  blockPages(dir: string, block: number): BlockPages | undefined;
  /** Called with the machine as it booted, before anything is replayed: to prove that something changes nothing. */
  readonly prepare?: (m: Machine) => void;
};

const MEMORY = '/sys/devices/system/memory';
/** What recordings say of a block that was tried and left offline: no write. */
const NOT_PUT_BACK = 'none';
const BLOCK_FILE = /^\/sys\/devices\/system\/memory\/memory(\d+)\/(state|online)$/;

/** @returns the tally, or one sentence why it cannot be replayed */
export function replay(recording: Recording): Result<Tally, string> {
  const parsed = parseOps(recording.ops);
  if (!parsed.ok) return parsed;
  const [boot] = parsed.value.ops;
  assert(boot?.op === 'boot', 'parseOps promises a boot');
  if (boot.snapshot === null) return err('there is no snapshot of the state after boot');
  const capture = recording.snapshot(boot.snapshot);
  if (capture === undefined) return err(`the snapshot ${boot.snapshot} of the boot cannot be read`);
  // Where the first snapshot came after the first device, the machine is what it was before.
  const plugged = devicesAt(parsed.value.ops, boot.snapshot);
  // So too where the driver of a virtio-mem device plugged what the command line asks for: the replay's driver does it.
  const atBoot = new DeviceSlots(boot).memory.all();
  const grown = atBoot.filter((d) => d.requested !== undefined && d.requested > 0);
  const start = beforeDevices(capture, [...plugged, ...grown].map(rangeOf));
  const machine = machineOf(start.capture, watermarkSettings(capture));
  if (!machine.ok) return machine;
  const run = new Replay(recording, machine.value, boot, start.capture, start.goneKb);
  if (plugged.length === 0 && grown.every((d) => grewBefore(parsed.value.ops, boot.snapshot, d))) {
    run.tally.at = { line: boot.line, t: 0 };
    compareBoot(run.tally, boot, capture, [...atBoot.filter((d) => d.driver === 'pc-dimm'), ...grown]);
  }
  for (const op of parsed.value.ops) run.step(op);
  run.finish();
  return ok(run.tally);
}

/** Devices that were plugged when the first snapshot was taken; none where it is of the boot. */
function devicesAt(ops: readonly TimedOp[], dir: string): Device[] {
  const [boot] = ops;
  assert(boot?.op === 'boot', 'parseOps promises a boot');
  const slots = new DeviceSlots(boot);
  const there = new Set<string>();
  for (const op of ops) {
    if (op.op === 'snapshot' && op.dir === dir) break;
    if (op.op === 'qmp') {
      const device = slots.request(op.request, op.reply);
      if (device !== undefined) there.add(device.id);
    }
    if (op.op === 'event' && op.event === 'DEVICE_DELETED') there.delete(String((op.data ?? {}).device));
  }
  return [...there].flatMap((id) => slots.memory.get(id) ?? []);
}

/** Had the guest got to what the command line asks for when the snapshot was taken? */
function grewBefore(ops: readonly TimedOp[], dir: string | null, device: Device): boolean {
  for (const op of ops) {
    if (op.op === 'snapshot' && op.dir === dir) return false;
    if (op.op !== 'event' || op.event !== 'MEMORY_DEVICE_SIZE_CHANGE' || op.data?.id !== device.id) continue;
    if (op.data.size === device.requested) return true;
  }
  return false;
}

/** What QEMU has been told of backends and devices. */
class DeviceSlots {
  /** Bytes of boot RAM. */
  readonly ram: number;
  readonly memory: DeviceMemory;
  /** Bytes of memory backends by id. */
  readonly #backends = new Map<string, number>();

  constructor(boot: Op & { op: 'boot' }) {
    this.ram = qemuSize((boot.memory[0] ?? '').split(',')[0] ?? '', 'MiB') ?? 0;
    this.memory = new DeviceMemory(this.ram);
    for (const b of boot.backends ?? []) {
      const words = qemuWords(b);
      this.#backends.set(words.id ?? '', qemuSize(words.size ?? '', 'bytes') ?? 0);
    }
    for (const d of boot.devices ?? []) {
      const words = qemuWords(d);
      const size = this.#backends.get(words.memdev ?? '');
      const address = words.addr ?? words.memaddr;
      if (size === undefined || words.id === undefined) continue;
      const addr = address === undefined ? undefined : Number(address);
      const requested = qemuSize(words['requested-size'] ?? '', 'bytes') ?? 0;
      this.memory.plug(words.id, words[''] ?? '', size, Number(words.node ?? 0), addr, requested);
    }
  }

  /** @returns a DIMM that was plugged by the request */
  request(request: JsonObject, reply: JsonObject): Device | undefined {
    if ('error' in reply) return undefined; // QEMU refused: nothing reached the guest
    const args = (request.arguments ?? {}) as JsonObject;
    if (request.execute === 'object-add') this.#backends.set(String(args.id), Number(args.size));
    if (request.execute !== 'device_add' || args.driver !== 'pc-dimm') return undefined;
    const size = this.#backends.get(String(args.memdev));
    if (size === undefined) return undefined;
    const addr = args.addr === undefined ? undefined : Number(args.addr);
    return this.memory.plug(String(args.id), 'pc-dimm', size, Number(args.node ?? 0), addr);
  }
}

/** The machine as it was after boot. Where no page flags were read, they are assumed: layout and counters are right. */
function machineOf(capture: Capture, watermarks: WatermarkSettings | undefined): Result<Machine, string> {
  const options = { types: 'contents', compat: 'linux', ...(watermarks === undefined ? {} : { watermarks }) } as const;
  const twin = buildTwin(capture, options);
  if (!twin.ok) return err(twin.error.message);
  if (twin.value.level === 'pages') return ok(twin.value.machine);
  const { blocks, blockPages, zones } = twin.value;
  const iomem = parseIomem(capture.tree.readText('/proc/iomem') ?? '');
  if (!iomem.ok || iomemHidden(iomem.value)) return err('there are neither page flags nor /proc/iomem at boot');
  const ranges = ramRanges(systemRamPfnRanges(iomem.value), { blockSizeBytes: blockPages * PAGE_SIZE, blocks }, zones);
  const again = buildTwin({ ...capture, kpageflags: assumedFlags(ranges, zones) }, options);
  if (!again.ok || again.value.level !== 'pages') return err('no machine can be built from the snapshot of the boot');
  return ok(again.value.machine);
}

class Replay {
  readonly tally = new Tally();
  readonly #recording: Recording;
  readonly #m: Machine;
  readonly #fs: KernelFs;
  readonly #first: FirstReading;
  readonly #slots: DeviceSlots;
  readonly #hypervisor: Hypervisor;
  readonly #evidence = new Evidence();
  /** Devices on their way in or out: what is read meanwhile is not determined. */
  readonly #moving = new Set<string>();
  #snapshot = '';

  constructor(
    recording: Recording,
    m: Machine,
    boot: Op & { op: 'boot' },
    capture: Capture,
    goneKb: ReadonlyMap<number, number>,
  ) {
    this.#recording = recording;
    this.#m = m;
    recording.prepare?.(m);
    this.#fs = kernelTree(m, { base: capture.tree });
    this.#first = firstReading(m, capture.tree, goneKb);
    this.#slots = new DeviceSlots(boot);
    this.#hypervisor = new Hypervisor(m, this.tally, this.#slots.ram, this.#slots.memory.all());
  }

  step(op: TimedOp): void {
    this.tally.at = { line: op.line, t: op.t };
    switch (op.op) {
      case 'write':
        this.#write(op);
        break;
      case 'blocks':
        if (this.#settled(op.rows.length)) for (const row of op.rows) this.#compareBlock(row);
        break;
      case 'zones':
        if (this.#zonesSettled(op.rows.length)) compareZones(this.tally, this.#m, op.rows);
        break;
      case 'meminfo':
        if (this.#settled(1)) this.#compareMemTotal(op.MemTotal);
        break;
      case 'snapshot':
        this.#takeSnapshot(op.dir);
        break;
      case 'qmp':
        this.#qmp(op.request, op.reply);
        break;
      case 'qga':
        this.#qga(op.request, op.reply);
        break;
      case 'event':
        this.#event(op.event, op.data ?? {});
        break;
      case 'load':
        this.#load(op.command);
        break;
      case 'boot':
        break;
    }
  }

  /** The machine is sound at the end: a bug of the engine, not of the comparison. */
  finish(): void {
    const violations = this.#m.check();
    this.tally.compare('check', 'invariants', '', violations.map((v) => Object.values(v).join(' ')).join('; '));
  }

  /** False, and counted as not determined, while a device is on its way. */
  #settled(items: number): boolean {
    if (this.#moving.size === 0 && this.#hypervisor.settled) return true;
    this.tally.undetermined += items;
    return false;
  }

  /** The same for what zones hold: which of them a balloon took its pages from is not determined. */
  #zonesSettled(items: number): boolean {
    if (!this.#hypervisor.ballooned) return this.#settled(items);
    this.tally.undetermined += items;
    return false;
  }

  // ------------------------------------------------------------------------------------------------------- reading

  #compareBlock(row: BlockRow): void {
    const read = (name: string): string =>
      (this.#fs.readText(`${MEMORY}/memory${row.block}/${name}`) ?? 'no such file').trim();
    const nodes = this.#fs
      .list(`${MEMORY}/memory${row.block}`)
      .filter((n) => /^node\d+$/.test(n))
      .map((n) => Number(n.slice(4)))
      .sort((a, b) => a - b);
    const what = `block ${row.block}`;
    this.tally.compare('state', what, row.state, read('state'));
    this.tally.compare('valid_zones', what, row.valid_zones, read('valid_zones'));
    this.tally.compare('node link', what, [...row.nodes].sort((a, b) => a - b).join(' '), nodes.join(' '));
  }

  #compareMemTotal(kb: number): void {
    const managed = this.#m.zones.reduce((n, p) => n + p.managed, 0);
    const since = (managed - this.#first.managed) * (PAGE_SIZE / 1024);
    this.tally.compare('MemTotal', 'since boot, kB', kb - this.#first.memTotalKb, since);
  }

  #takeSnapshot(dir: string): void {
    this.#snapshot = dir;
    const capture = this.#recording.snapshot(dir);
    if (capture === undefined) return;
    if (this.#zonesSettled(1)) compareSnapshot(this.tally, this.#m, this.#fs, this.#first, capture);
    this.#evidence.snapshot(capture);
  }

  // ------------------------------------------------------------------------------------------------------- writing

  #write(op: Op & { op: 'write' }): void {
    const block = BLOCK_FILE.exec(op.path);
    if (block !== null) {
      const id = toBlockId(Number(block[1]));
      if (op.valid_zones_offline !== undefined) {
        const now = this.#m.validZones(id).join(' ') || 'none';
        this.tally.compare('valid_zones', `block ${id} while offline`, op.valid_zones_offline, now);
      }
      if (op.value !== NOT_PUT_BACK) this.#store(id, op.path, op.value, op.errno ?? undefined);
      if (op.valid_zones_after !== undefined) {
        const now = this.#m.validZones(id).join(' ') || 'none';
        this.tally.compare('valid_zones', `block ${id} afterwards`, op.valid_zones_after, now);
      }
      return;
    }
    const errno = errnoOf(this.#fs.write(op.path, `${op.value}\n`));
    if (op.errno !== null) this.tally.compare('errno', `${op.path} <- ${op.value}`, op.errno, errno);
  }

  /** A write to a block's state. @returns true when it was accepted then, or now where nobody recorded it */
  #store(id: BlockId, path: string, value: string, recorded: number | undefined): boolean {
    if (this.#moving.size > 0) {
      this.tally.undetermined++; // it waits behind the device
      return false;
    }
    const what = `block ${id} ${path.slice(path.lastIndexOf('/') + 1)} <- ${value}`;
    const leaves = value === 'offline' || (path.endsWith('/online') && value === '0');
    const row = this.#m.blocks.rowOf(id);
    if (leaves && row >= 0 && this.#goesByContents(id)) {
      if (recorded !== undefined) this.#compareDecision(id, what, recorded);
      // Nobody recorded it: the flags decide, and movable memory goes.
      const goes = recorded === undefined ? this.#expected(id) !== 'no' : recorded === 0;
      if (!goes) return false;
      evacuate(this.#m, id);
    }
    const errno = errnoOf(this.#fs.write(path, `${value}\n`));
    if (recorded !== undefined && !(leaves && errno === 0)) this.tally.compare('errno', what, recorded, errno);
    if (errno === 0) this.#evidence.renewed(id);
    return errno === 0;
  }

  /** Online, whole, in one zone: then what is in it decides. */
  #goesByContents(id: BlockId): boolean {
    const b = this.#m.block(id);
    return b?.state === 'online' && b.absent === 0 && b.pool !== undefined;
  }

  #expected(id: BlockId): 'yes' | 'no' | 'maybe' | 'unknown' {
    const e = this.#evidence.expect(id, undefined, this.#m.blockPages);
    if (e.kind !== 'none') return e.verdict;
    return this.#m.block(id)?.pool?.name === 'Movable' ? 'yes' : 'unknown';
  }

  #compareDecision(id: BlockId, what: string, recorded: number): void {
    const own = this.#recording.blockPages(this.#snapshot, id);
    const e = this.#evidence.expect(id, own, this.#m.blockPages);
    if (e.kind === 'none' && this.#m.block(id)?.pool?.name !== 'Movable') {
      this.tally.undetermined++; // a kernel zone's block of which nothing was read
      return;
    }
    const verdict = e.kind === 'none' ? 'yes' : e.verdict;
    const expected = verdict === 'no' ? (e.kind !== 'none' && e.errno === 'EINVAL' ? 22 : 16) : 0;
    if (verdict === 'maybe') this.tally.compare('errno', what, recorded, 'maybe', 'page-flags-silent');
    else this.tally.compare('errno', what, recorded, expected, e.kind === 'exact' ? undefined : 'contents-changed');
  }

  // ------------------------------------------------------------------------------------------ hypervisor and agent

  #qmp(request: JsonObject, reply: JsonObject): void {
    const device = this.#slots.request(request, reply);
    if (device !== undefined) this.#plug(device);
    this.#hypervisor.request(request, reply);
    if ('error' in reply) return;
    if (request.execute === 'device_del') this.#moving.add(String((request.arguments as JsonObject | undefined)?.id));
    if (request.execute === 'query-memory-devices') this.#compareDevices(reply);
  }

  #plug(device: Device): void {
    plugDimm(this.#m, rangeOf(device), toNodeId(device.node));
    for (const b of blocksOf(this.#m, device)) this.#evidence.renewed(b);
    this.#moving.add(device.id);
  }

  #compareDevices(reply: JsonObject): void {
    for (const d of reply.return as readonly JsonObject[]) {
      const data = d.data as JsonObject;
      const addr = data.addr ?? data.memaddr;
      const device = this.#slots.memory.get(String(data.id));
      if (device !== undefined) this.tally.compare('address', device.id, Number(addr), device.start);
    }
  }

  #event(name: string, data: JsonObject): void {
    const info = (data.info ?? {}) as JsonObject;
    this.#hypervisor.event(name, data);
    if (name === 'DEVICE_DELETED') {
      const device = this.#slots.memory.get(String(data.device));
      this.#moving.delete(String(data.device));
      if (device !== undefined) this.#eject(device);
    }
    if (name !== 'ACPI_DEVICE_OST' || info.device === undefined) return;
    const id = String(info.device);
    // 1: the guest has dealt with the insertion. 3: with an eject request: 132 is at it, 130 could not.
    if (info.source === 1) this.#moving.delete(id);
    if (info.source === 3 && info.status === 130) {
      this.#moving.delete(id);
      const device = this.#slots.memory.get(id);
      if (device !== undefined) this.#refusedEject(device);
    }
  }

  /** The recorded kernel let it go. */
  #eject(device: Device): void {
    this.#slots.memory.unplug(device.id);
    const blocks = blocksOf(this.#m, device);
    if (blocks.length === 0) return; // it never became memory
    for (const b of blocks) if (this.#m.block(b)?.state === 'online') evacuate(this.#m, b);
    const done = ejectDimm(this.#m, rangeOf(device));
    this.tally.compare('eject', device.id, 'removed', done.refusal?.message ?? 'removed');
  }

  /** The recorded kernel could not: blocks that were said not to go stayed; without a word, the first of a kernel zone. */
  #refusedEject(device: Device): void {
    const blocks = blocksOf(this.#m, device).filter((b) => this.#m.block(b)?.state === 'online');
    let stays = blocks.filter((b) => this.#expected(b) === 'no');
    if (stays.length === 0) stays = blocks.filter((b) => this.#m.block(b)?.pool?.name !== 'Movable').slice(0, 1);
    if (stays.length === 0) stays = blocks.slice(0, 1);
    const busy: Refusal = refusal('unmovable', 'the recorded kernel found a page that cannot move');
    ejectDimm(this.#m, rangeOf(device), (id) => {
      if (stays.includes(id)) return err(busy);
      evacuate(this.#m, id);
      this.#evidence.renewed(id);
      return this.#m.offline(id);
    });
  }

  #qga(request: JsonObject, reply: JsonObject): void {
    const asked = ((request.arguments ?? {}) as JsonObject)['mem-blks'];
    if (request.execute !== 'guest-set-memory-blocks' || !('return' in reply) || !Array.isArray(asked)) return;
    const answers = reply.return as readonly JsonObject[];
    asked.forEach((a: JsonObject, k) => {
      const answer = answers[k];
      if (answer === undefined) return;
      const id = toBlockId(Number(a['phys-index']));
      const state = this.#m.block(id)?.state;
      const recorded = answer.response === 'success' ? 0 : Number(answer['error-code'] ?? 0);
      const path = `${MEMORY}/memory${id}/state`;
      const what = `agent: block ${id} ${a.online === true ? 'online' : 'offline'}`;
      if (state === undefined) this.tally.compare('errno', what, String(answer.response), 'not-found');
      else if ((state !== 'offline') === a.online)
        this.tally.compare('errno', what, recorded, 0); // it looks first
      else this.#store(id, path, a.online === true ? 'online' : 'offline', recorded);
    });
  }

  // ------------------------------------------------------------------------------------------------------- scripts

  #load(command: string): void {
    const m = this.#m;
    const view: BlockView = {
      blockBytes: m.blockPages * PAGE_SIZE,
      ids: () => m.blockIds(),
      state: (id) => m.block(toBlockId(id))?.state ?? 'offline',
      validZones: (id) => m.validZones(toBlockId(id)).join(' ') || 'none',
    };
    const writes = scriptWrites(command, view);
    for (let next = writes.next(true); next.done !== true; ) {
      const { path, value } = next.value;
      const block = BLOCK_FILE.exec(path);
      const taken =
        block === null
          ? typeof this.#fs.write(path, `${value}\n`) === 'number'
          : this.#store(toBlockId(Number(block[1])), path, value, undefined);
      next = writes.next(taken);
    }
  }
}

/** 0 for a write that was accepted. */
const errnoOf = (done: number | ErrnoName): number => (typeof done === 'number' ? 0 : ERRNO[done]);

const rangeOf = (d: Device): { start: ReturnType<typeof toPfn>; end: ReturnType<typeof toPfn> } => ({
  start: toPfn(d.start / PAGE_SIZE),
  end: toPfn((d.start + d.size) / PAGE_SIZE),
});

/** Memory blocks that a device became. */
function blocksOf(m: Machine, d: Device): BlockId[] {
  const { start, end } = rangeOf(d);
  return m.blockIds().filter((id) => id * m.blockPages >= start && (id + 1) * m.blockPages <= end);
}
