// virtio-mem: a driver that grows and shrinks a machine as its host asks, in pieces smaller than a memory block.
//
//   host: requested-size ──> device (virtio-mem-device.ts) ──configChanged──> driver: one run after the other
//
//   a run      pending unplugs ──> requested > plugged: plug ──> ok             the retry time starts anew at 50 s
//                              └─> requested < plugged: unplug ─> ENOSPC        waits for memory to come online
//                                                            ├─> ETXTBSY EBUSY ENOMEM   a timer: 50 s, doubling to 300 s
//                                                            ├─> EAGAIN         at once: the config changed, or NACK
//                                                            └─> other          broken, for good
//
//   sub-block mode   virtio-mem-sbm.ts   device block, at least a pageblock, below a memory block
//   big-block mode   virtio-mem-bbm.ts   device block of a memory block and more, or `forceBbm`
//   frames           virtio-mem-pages.ts how a frame is kept out of use and comes back
//
// A run is cut into steps between which the machine may be used: `step` does one try of one piece and returns. Time is an
// argument of `tick`. No step is done while an offline is under way or somebody has the hotplug lock ('waiting'). While a
// step works on the parts of a block, the block's own online and offline are refused with EBUSY; Linux lets them wait.
//
// Invariants: VS1 plugged size of driver, device and sub-block table are one; VS2 the frames of an online block that are
// not plugged are the driver's, no others are; VS3 what is added and not online never exceeds the threshold by the
// driver's doing.
//
// Follows Linux v6.12 drivers/virtio/virtio_mem.c (spec 5.4). Left out: kdump, suspend, and the bound that Linux does not
// have: a device that answers NACK again and again without a new config is asked IMMEDIATE_RETRIES times, then by timer.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type BlockId, type NodeId, type Order, type Pfn, toBlockId, toOrder, toPfn } from '#base/units';
import { MAX_PFN, PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { GroupId } from '../memory-group.ts';
import { type Notifier, OfflineWork } from '../memory-hotplug.ts';
import { genericOnlinePage, restoreOnlinePageCallback, setOnlinePageCallback } from '../online-callback.ts';
import { ZONE_MOVABLE } from '../page-class.ts';
import { type ErrnoName, type Refusal, refusal } from '../refusal.ts';
import type { Resource } from '../resource.ts';
import { plugBbm, unplugBbm, unplugPendingBbm } from './virtio-mem-bbm.ts';
import {
  BBM_FAKE_OFFLINE,
  BBM_STATES,
  SBM_KERNEL,
  SBM_MOVABLE,
  SBM_OFFLINE,
  SBM_OFFLINE_PARTIAL,
  SBM_STATES,
  VirtioMemBlocks,
} from './virtio-mem-blocks.ts';
import type { VirtioMemPort, VirtioMemReply } from './virtio-mem-device.ts';
import { FakeOfflinePages } from './virtio-mem-pages.ts';
import { plugSbm, unplugPendingSbm, unplugSbm } from './virtio-mem-sbm.ts';

/** Linux's return code, by name. */
export type Rc = 'ok' | 'EAGAIN' | 'ETXTBSY' | ErrnoName;

export const RETRY_MIN_MS = 50_000;
export const RETRY_MAX_MS = 300_000;
const OFFLINE_THRESHOLD = 2 ** 30;
const IMMEDIATE_RETRIES = 8;
const RESOURCE_NAME = 'System RAM (virtio_mem)';

export type VirtioMemOptions = {
  /** Its name in /proc/iomem and in the log. */
  readonly name: string;
  /** Big-block mode also where sub-blocks would do. Default false. */
  readonly forceBbm?: boolean;
  /** Bytes of a big block; a power of two, not below the automatic one, else it is ignored as Linux does. */
  readonly bbmBlockSize?: number;
  /** Big blocks are emptied before they are offlined. Default true. */
  readonly bbmSafeUnplug?: boolean;
  /** May memory that is online be unplugged? Default true. */
  readonly unplugOnline?: boolean;
};

/**
 * idle      nothing to do until the config changes, memory comes online or the timer fires
 * working   there is more to do
 * waiting   somebody else changes memory: nothing was done
 * broken    the device answered what it must not; the driver does nothing any more
 */
export type VirtioMemActivity = 'idle' | 'working' | 'waiting' | 'broken';

/** Drivers of a machine share its one online callback. */
const drivers = new WeakMap<Machine, VirtioMem[]>();

function onlinePage(m: Machine, pfn: Pfn, order: Order): void {
  const mine = drivers.get(m)?.find((vm) => vm.contains(pfn));
  if (mine === undefined) genericOnlinePage(m, pfn, order);
  else mine.onlinePage(pfn, order);
}

const hex = (n: number): string => `0x${n.toString(16)}`;

export class VirtioMem {
  readonly name: string;
  readonly node: NodeId;
  readonly inSbm: boolean;
  /** Bytes of a sub-block; of a big block in BBM. */
  readonly sbSize: number;
  /** Bytes that are added and removed at once: a memory block or a big block. */
  readonly unitSize: number;
  readonly offlineThreshold: number;
  readonly unplugOnline: boolean;
  readonly safeUnplug: boolean;
  readonly blocks: VirtioMemBlocks;
  readonly pages: FakeOfflinePages;
  readonly group: GroupId;
  pluggedSize: number;
  requestedSize = 0;
  /** Bytes added and not online. */
  offlineSize = 0;
  /** Last row of the usable region; -1 = none. */
  lastUsableRow = -1;
  /** How the last run ended. */
  lastRc: Rc = 'ok';

  readonly #m: Machine;
  readonly #port: VirtioMemPort;
  readonly #addr: number;
  readonly #regionSize: number;
  readonly #firstUnit: number;
  readonly #resource: Resource;
  readonly #notifier: Notifier;
  #run: Generator<void, void> | undefined;
  #queued = true;
  #configChanged = true;
  #unplugAllRequired: boolean;
  #broken = false;
  #removed = false;
  /** Row whose parts a step works on; -1 = none. */
  #held = -1;
  #nowMs = 0;
  #retryMs = RETRY_MIN_MS;
  #timerMs: number | undefined;

  /**
   * Binds a driver to a device. Work begins with the first `step`.
   *
   * @returns EBUSY: others have addresses of its region; EINVAL: no such node, or another driver has the online callback
   */
  static probe(m: Machine, port: VirtioMemPort, options: VirtioMemOptions): Result<VirtioMem, Refusal> {
    const { addr, regionSize, node } = port.config();
    if (!m.isPossible(node)) return err(refusal('bad-request', `node ${node} is not possible on this machine`));
    const others = drivers.get(m) ?? [];
    const reserved = m.hotplug.resources.request(addr, addr + regionSize - 1, options.name, false);
    if (!reserved.ok) {
      m.onLog?.({ level: 'warn', text: `virtio_mem ${options.name}: could not reserve device region` });
      return err(refusal('busy', `could not reserve the region of ${options.name}: ${reserved.error.name} is in it`));
    }
    if (others.length === 0) {
      const set = setOnlinePageCallback(m, onlinePage);
      if (!set.ok) {
        dropResource(m, reserved.value);
        return set;
      }
    }
    const vm = new VirtioMem(m, port, options, reserved.value);
    drivers.set(m, [...others, vm]);
    return ok(vm);
  }

  private constructor(m: Machine, port: VirtioMemPort, options: VirtioMemOptions, resource: Resource) {
    const { blockSize, node, addr, regionSize, pluggedSize } = port.config();
    const memoryBlock = m.blockPages * PAGE_SIZE;
    this.#m = m;
    this.#port = port;
    this.#addr = addr;
    this.#regionSize = regionSize;
    this.#resource = resource;
    this.name = options.name;
    this.node = node;
    this.unplugOnline = options.unplugOnline ?? true;
    this.safeUnplug = options.bbmSafeUnplug ?? true;
    this.pluggedSize = pluggedSize;
    this.#unplugAllRequired = pluggedSize > 0;
    this.#log(`start address: ${hex(addr)}`, `region size: ${hex(regionSize)}`);
    this.#log(`device block size: ${hex(blockSize)}`, `nid: ${node}`);

    const sbSize = Math.max(blockSize, PAGEBLOCK_PAGES * PAGE_SIZE);
    this.inSbm = sbSize < memoryBlock && options.forceBbm !== true;
    this.unitSize = this.inSbm ? memoryBlock : this.#bigBlock(Math.max(blockSize, memoryBlock), options.bbmBlockSize);
    this.sbSize = this.inSbm ? sbSize : this.unitSize;
    this.offlineThreshold = Math.max(2 * this.unitSize, OFFLINE_THRESHOLD);
    this.#firstUnit = Math.ceil(addr / this.unitSize);
    const rows = Math.max(0, Math.floor((addr + regionSize) / this.unitSize) - this.#firstUnit);
    this.blocks = new VirtioMemBlocks(rows, this.unitSize / this.sbSize);
    this.pages = new FakeOfflinePages(m, options.name, node);
    this.group = m.hotplug.groups.register('dynamic', node, this.unitSize / PAGE_SIZE);
    this.#log(`memory block size: ${hex(memoryBlock)}`);
    this.#log(`${this.inSbm ? 'subblock' : 'big block'} size: ${hex(this.sbSize)}`);
    if (this.#unplugAllRequired) this.#log('unplugging all memory is required');

    this.#notifier = {
      name: options.name,
      goingOnline: (block) => this.#goingOnline(block),
      online: (block) => this.#online(block),
      goingOffline: (block) => this.#goingOffline(block),
      offline: (block) => this.#offline(block),
    };
    m.notifiers.push(this.#notifier);
    port.onConfigChanged = () => {
      this.#configChanged = true;
      this.#queued = true;
    };
  }

  #bigBlock(least: number, asked: number | undefined): number {
    if (asked === undefined || asked === 0) return least;
    if (!Number.isInteger(Math.log2(asked))) this.#warn('bbm_block_size is not a power of 2');
    else if (asked < least) this.#warn('bbm_block_size is too small');
    else return asked;
    return least;
  }

  #log(...lines: string[]): void {
    for (const text of lines) this.#m.onLog?.({ level: 'info', text: `virtio_mem ${this.name}: ${text}` });
  }

  #warn(text: string): void {
    this.#m.onLog?.({ level: 'warn', text: `virtio_mem ${this.name}: ${text}` });
  }

  // -------------------------------------------------------------------------------------------------- time and steps

  /** When the retry timer fires, in the time of `tick`; undefined when it does not run. */
  get timerMs(): number | undefined {
    return this.#timerMs;
  }

  get activity(): VirtioMemActivity {
    if (this.#broken) return 'broken';
    return this.#run !== undefined || (this.#queued && !this.#removed) ? 'working' : 'idle';
  }

  /** It is `nowMs` now: a timer that is due starts a run, and the next one will take twice as long. */
  tick(nowMs: number): void {
    assert(nowMs >= this.#nowMs, 'time goes forward', { nowMs, was: this.#nowMs });
    this.#nowMs = nowMs;
    if (this.#timerMs === undefined || nowMs < this.#timerMs) return;
    this.#timerMs = undefined;
    this.#queued = true;
    this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MAX_MS);
  }

  /** One small piece of work. Cost: one request to the device and one attempt to empty a sub-block or a block. */
  step(): VirtioMemActivity {
    if (this.activity !== 'working') return this.activity;
    const { lock } = this.#m.hotplug;
    if (this.#m.offlinesUnderWay > 0 || lock.taken) return 'waiting';
    if (this.#run === undefined) {
      this.#queued = false;
      this.#run = this.#work();
    }
    if (this.#run.next().done === true) this.#run = undefined;
    return this.activity;
  }

  /** Steps until there is nothing to do; `maxSteps` is a bound, not a wish. @returns what it is then. */
  settle(maxSteps = 1_000_000): VirtioMemActivity {
    for (let k = 0; k < maxSteps; k++) {
      const now = this.step();
      if (now !== 'working') return now;
    }
    return this.activity;
  }

  /** Linux: virtio_mem_run_wq(). */
  *#work(): Generator<void, void> {
    this.#timerMs = undefined;
    let rc: Rc;
    for (let again = 0; ; ) {
      rc = yield* this.#attempt();
      if (rc !== 'EAGAIN') break;
      if (this.#configChanged) again = 0;
      else if (++again >= IMMEDIATE_RETRIES) {
        rc = 'ETXTBSY'; // Linux would ask for ever
        break;
      }
      yield;
    }
    this.lastRc = rc;
    if (rc === 'ok') this.#retryMs = RETRY_MIN_MS;
    else if (rc === 'ETXTBSY' || rc === 'EBUSY' || rc === 'ENOMEM') this.#timerMs = this.#nowMs + this.#retryMs;
    else if (rc !== 'ENOSPC') {
      this.#warn(`unknown error, marking device broken: ${rc}`);
      this.#broken = true;
    }
  }

  *#attempt(): Generator<void, Rc> {
    let rc: Rc = this.#unplugAllRequired ? this.#sendUnplugAll() : 'ok';
    if (this.#configChanged) {
      this.#configChanged = false;
      this.#refreshConfig();
    }
    if (rc === 'ok') rc = this.inSbm ? unplugPendingSbm(this) : unplugPendingBbm(this);
    if (rc !== 'ok') return rc;
    const more = this.requestedSize - this.pluggedSize;
    if (more > 0) return yield* this.inSbm ? plugSbm(this, more) : plugBbm(this, more);
    if (more < 0) return yield* this.inSbm ? unplugSbm(this, -more) : unplugBbm(this, -more);
    return 'ok';
  }

  #refreshConfig(): void {
    const { pluggedSize, usableRegionSize, requestedSize } = this.#port.config();
    this.pluggedSize = pluggedSize;
    const end = Math.min(this.#addr + usableRegionSize, MAX_PFN * PAGE_SIZE);
    this.lastUsableRow = Math.floor(end / this.unitSize) - this.#firstUnit - 1;
    this.requestedSize = requestedSize;
    this.#log(`plugged size: ${hex(pluggedSize)}`, `requested size: ${hex(requestedSize)}`);
  }

  // ------------------------------------------------------------------------------------------- requests to the device

  /** @internal [addr, addr + size) is to be plugged. */
  sendPlug(addr: number, size: number): Rc {
    if (this.#configChanged) return 'EAGAIN';
    const reply = this.#port.plug(addr, size);
    if (reply === 'ACK') this.pluggedSize += size;
    return rcOf(reply);
  }

  /** @internal [addr, addr + size) is to be unplugged. A NACK is no answer to that: ENOMEM, as in Linux. */
  sendUnplug(addr: number, size: number): Rc {
    if (this.#configChanged) return 'EAGAIN';
    const reply = this.#port.unplug(addr, size);
    if (reply === 'ACK') this.pluggedSize -= size;
    return reply === 'NACK' ? 'ENOMEM' : rcOf(reply);
  }

  #sendUnplugAll(): Rc {
    const reply = this.#port.unplugAll();
    if (reply !== 'ACK') return reply === 'BUSY' ? 'ETXTBSY' : 'ENOMEM';
    this.#unplugAllRequired = false;
    this.pluggedSize = 0;
    this.#configChanged = true; // the usable region may have shrunk
    return 'ok';
  }

  // ------------------------------------------------------------------------------------------------- requests to Linux

  /** @internal First byte of a row. */
  addrOf(row: number): number {
    return (this.#firstUnit + row) * this.unitSize;
  }

  /** @internal The row whose parts a step works on; -1: none. */
  hold(row: number): void {
    this.#held = row;
  }

  /** @internal May `size` more bytes be added, without too much being offline? */
  couldAdd(size: number): boolean {
    return this.offlineSize + size <= this.offlineThreshold;
  }

  #range(row: number): { start: Pfn; end: Pfn } {
    const start = this.addrOf(row) / PAGE_SIZE;
    return { start: toPfn(start), end: toPfn(start + this.unitSize / PAGE_SIZE) };
  }

  /** @internal Linux gets to know a row; its blocks may come online at once. */
  addUnit(row: number): Rc {
    this.offlineSize += this.unitSize;
    const options = { group: this.group, driverManaged: RESOURCE_NAME, merge: true };
    const r = this.#m.addMemory(this.#range(row), this.node, options);
    if (r.ok) return 'ok';
    this.offlineSize -= this.unitSize;
    this.#warn(`adding memory failed: ${r.error.errno}`);
    return r.error.errno;
  }

  /** @internal Linux forgets a row, all offline. */
  removeUnit(row: number): Rc {
    const r = this.#m.removeMemory(this.#range(row));
    if (!r.ok) return r.error.errno;
    this.offlineSize -= this.unitSize;
    this.#queued = true; // memory became free: what did not go before may go now
    return 'ok';
  }

  /** @internal The same, of a row that may be online. A block that refuses brings the others back to their zones. */
  offlineAndRemoveUnit(row: number): Rc {
    const m = this.#m;
    const { start, end } = this.#range(row);
    const offlined: { block: BlockId; how: 'kernel' | 'movable' }[] = [];
    for (let pfn: number = start; pfn < end; pfn += m.blockPages) {
      const block = toBlockId(pfn / m.blockPages);
      const info = m.block(block);
      if (info === undefined || info.state !== 'online') continue;
      const how = info.pool?.zone === ZONE_MOVABLE ? 'movable' : 'kernel';
      const work = new OfflineWork(m, block);
      while (!work.finished) work.step();
      if (work.refusal === undefined) {
        offlined.push({ block, how });
        continue;
      }
      for (const o of offlined) m.online(o.block, o.how);
      // No signal reaches a kernel worker: where Linux would try for ever, the engine's bound is EBUSY.
      return work.refusal.errno === 'EINTR' ? 'EBUSY' : work.refusal.errno;
    }
    return this.removeUnit(row);
  }

  // -------------------------------------------------------------------------------------------- what Linux tells it

  /** Does the frame lie in the device's region? */
  contains(pfn: Pfn): boolean {
    const at = pfn * PAGE_SIZE;
    return at >= this.#addr && at < this.#addr + this.#regionSize;
  }

  #rowOf(block: BlockId): number {
    const pfn = toPfn(block * this.#m.blockPages);
    return this.contains(pfn) ? Math.floor((pfn * PAGE_SIZE) / this.unitSize) - this.#firstUnit : -1;
  }

  /** @internal 2^order frames of a block of its come online: plugged ones become free, the others stay out. */
  onlinePage(pfn: Pfn, order: Order): void {
    const at = pfn * PAGE_SIZE;
    const row = Math.floor(at / this.unitSize) - this.#firstUnit;
    if (!this.inSbm) {
      if (this.blocks.stateAt(row) === BBM_FAKE_OFFLINE) this.pages.keepOut(pfn, order);
      else genericOnlinePage(this.#m, pfn, order);
      return;
    }
    // A chunk of order 10 may hold a plugged and an unplugged sub-block of order 9: then each is looked at.
    const bytes = 2 ** order * PAGE_SIZE;
    const first = Math.floor((at - this.addrOf(row)) / this.sbSize);
    const last = Math.floor((at + bytes - 1 - this.addrOf(row)) / this.sbSize);
    const plugged = this.blocks.isPlugged(row, first);
    for (let sb = first + 1; sb <= last; sb++) {
      if (this.blocks.isPlugged(row, sb) === plugged) continue;
      for (let k = 0; k < 2 ** order; k += PAGEBLOCK_PAGES) this.onlinePage(toPfn(pfn + k), toOrder(PAGEBLOCK_ORDER));
      return;
    }
    if (plugged) genericOnlinePage(this.#m, pfn, order);
    else this.pages.keepOut(pfn, order);
  }

  #goingOnline(block: BlockId): ErrnoName | undefined {
    const row = this.#rowOf(block);
    if (row < 0) return undefined;
    if (this.#held === row) return 'EBUSY';
    if (!this.inSbm) return undefined;
    const state = this.blocks.stateAt(row);
    if (state === SBM_OFFLINE || state === SBM_OFFLINE_PARTIAL) return undefined;
    this.#warn('memory block onlining denied');
    return 'EPERM'; // NOTIFY_BAD
  }

  #online(block: BlockId): void {
    const row = this.#rowOf(block);
    if (row < 0) return;
    if (this.inSbm) {
      const full = this.#m.block(block)?.pool?.zone === ZONE_MOVABLE ? SBM_MOVABLE : SBM_KERNEL;
      this.blocks.setState(row, full + (this.blocks.allPlugged(row) ? 0 : 1));
    }
    this.offlineSize -= this.#m.blockPages * PAGE_SIZE;
    if (this.#run === undefined && this.couldAdd(this.offlineThreshold / 2)) this.#queued = true;
  }

  #goingOffline(block: BlockId): ErrnoName | undefined {
    const row = this.#rowOf(block);
    return row >= 0 && this.#held === row ? 'EBUSY' : undefined;
  }

  #offline(block: BlockId): void {
    const row = this.#rowOf(block);
    if (row < 0) return;
    const start = block * this.#m.blockPages;
    this.pages.forgetIn(toPfn(start), toPfn(start + this.#m.blockPages));
    if (this.inSbm) this.blocks.setState(row, this.blocks.allPlugged(row) ? SBM_OFFLINE : SBM_OFFLINE_PARTIAL);
    this.offlineSize += this.#m.blockPages * PAGE_SIZE;
    if (!this.unplugOnline) this.#queued = true;
  }

  // ------------------------------------------------------------------------------------------------------- unbinding

  /**
   * The driver leaves. Offline blocks of which a part is plugged go with it; all else stays Linux's, with its addresses,
   * until the machine is off. A bug in the middle of a run.
   */
  remove(): void {
    const m = this.#m;
    assert(!this.#removed && this.#run === undefined, 'a driver leaves between two runs, once', { name: this.name });
    this.#removed = true;
    this.#timerMs = undefined;
    const { blocks } = this;
    for (let row = 0; this.inSbm && row < blocks.next; row++) {
      if (blocks.stateAt(row) !== SBM_OFFLINE_PARTIAL) continue;
      const gone = this.removeUnit(row);
      assert(gone === 'ok', 'an offline block could not be removed', { row, gone });
      blocks.setState(row, 0);
    }
    const left = (drivers.get(m) ?? []).filter((vm) => vm !== this);
    drivers.set(m, left);
    if (left.length === 0) restoreOnlinePageCallback(m, onlinePage);
    m.notifiers.splice(m.notifiers.indexOf(this.#notifier), 1);
    this.#port.onConfigChanged = undefined;
    if (this.#resource.children.length > 0) {
      this.#warn('device still has system memory added');
      return;
    }
    dropResource(m, this.#resource);
    m.hotplug.groups.unregister(this.group);
  }

  // -------------------------------------------------------------------------------------------------------- questions

  /** Name of a row's state: the tables of virtio-mem-blocks.ts. */
  stateOf(row: number): string {
    return (this.inSbm ? SBM_STATES : BBM_STATES)[this.blocks.stateAt(row)];
  }

  /** VS1 to VS3, B1, B2; empty when sound. Cost O(frames of its blocks). */
  check(): string[] {
    const m = this.#m;
    const wrong = this.blocks.check(this.inSbm ? 'sbm' : 'bbm', this.#held);
    const table = this.blocks.totalPlugged() * this.sbSize;
    if (table !== this.pluggedSize) wrong.push(`VS1 table ${hex(table)}, driver ${hex(this.pluggedSize)}`);
    const device = this.#port.config().pluggedSize;
    if (device !== this.pluggedSize) wrong.push(`VS1 device ${hex(device)}, driver ${hex(this.pluggedSize)}`);
    let out = 0;
    let offline = 0;
    for (let row = 0; row < this.blocks.next; row++) {
      const { start, end } = this.#range(row);
      for (let pfn: number = start; pfn < end; pfn += m.blockPages) {
        if (m.block(toBlockId(pfn / m.blockPages))?.state === 'offline') offline += m.blockPages * PAGE_SIZE;
      }
      const sbPages = this.sbSize / PAGE_SIZE;
      for (let sb = 0; sb < this.blocks.perBlock; sb++) {
        const first = start + sb * sbPages;
        for (let pfn = first; pfn < first + sbPages; pfn += PAGEBLOCK_PAGES) {
          const held = this.pages.holds(toPfn(pfn));
          if (held) out += PAGEBLOCK_PAGES;
          const online = this.pages.zoneOf(toPfn(pfn)) !== undefined;
          const want = online && (this.inSbm ? !this.blocks.isPlugged(row, sb) : this.#kept(row));
          if (held !== want && row !== this.#held) wrong.push(`VS2 frame ${hex(pfn)} of row ${row}: held ${held}`);
        }
      }
    }
    if (out !== this.pages.pages) wrong.push(`VS2 ${this.pages.pages} frames held, ${out} of them in its blocks`);
    if (offline !== this.offlineSize) wrong.push(`VS3 ${hex(offline)} offline, counted ${hex(this.offlineSize)}`);
    return wrong;
  }

  #kept(row: number): boolean {
    return this.blocks.stateAt(row) === BBM_FAKE_OFFLINE;
  }
}

function rcOf(reply: VirtioMemReply): Rc {
  return reply === 'ACK' ? 'ok' : reply === 'NACK' ? 'EAGAIN' : reply === 'BUSY' ? 'ETXTBSY' : 'EINVAL';
}

/** A region without memory leaves /proc/iomem. Resources.release gives back what is busy; a region is not. */
function dropResource(m: Machine, resource: Resource): void {
  const from = (list: Resource[]): boolean => {
    const k = list.indexOf(resource);
    if (k >= 0) list.splice(k, 1);
    return k >= 0 || list.some((r) => from(r.children));
  };
  const found = from(m.hotplug.resources.roots);
  assert(found, 'the region of the driver is gone', { name: resource.name });
}
