// Device model: devices that write by DMA all the time, drivers that behave or do not, and a monitor that sees every write.
//
//   device nic0     ring of buffers       address registers          the driver's table says where each lies (segments)
//     ──tick──>  DMA write: page k of buffer 3 gets the next number of its sequence
//                   │ IOMMU, if there is one: DMA address -> frame
//                   v
//   monitor         is that frame the area's now, and not given up?  no: a violation (E1)
//                   contents 'bytes': the number is written into the frame, and must be found there again (audit)
//
//   manner     what its driver does when it is asked
//   good       quiet after `drainMs`, moves, drops, reacquires, resumes
//   refuses    says no in phase 1              changes-mind   says no in phase 2, when it is to be quiet
//   hangs      stays busy for ever             crashes        dies in the middle of quiescing: its device goes on writing
//   throws     the same, by throwing
//
// A device writes `burst` pages each millisecond to each of its buffers that is not paused: round and round, by sequence, no
// chance in it. While it drains, what is under way still lands. A device whose driver died writes on for ever, to the frames
// that it was last told.
//
// All of it but the monitor is machine state, so that forks and rollbacks take devices along; the monitor sees the writes of
// all copies. For tests, worlds and demonstrations. Spec 9.E, E1 and E2.

import { assert } from '#base/assert';
import { type NodeId, type Pfn, toPfn } from '#base/units';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import type { Extent } from '../pools/dma-extent.ts';
import { areaTableIfAny } from './area-table.ts';
import type { DriverCap, DriverNo, DriverOps, FixedArea } from './driver.ts';
import { type AreaRequest, fixedAreas } from './fixed-areas.ts';
import type { AreaClock } from './relinquish.ts';

export const DEVICE_MANNERS = ['good', 'refuses', 'changes-mind', 'hangs', 'crashes', 'throws'] as const;
export type DeviceManner = (typeof DEVICE_MANNERS)[number];

export type DeviceSpec = {
  readonly name: string;
  readonly manner?: DeviceManner;
  /** Default: relinquish, reacquire, quiesce. */
  readonly caps?: readonly DriverCap[];
  /** Time that DMA under way takes to end. Default 2. */
  readonly drainMs?: number;
  /** What its driver promises. Default 10. */
  readonly maxQuiesceMs?: number;
  /** Pages written each millisecond, each buffer. Default 1. */
  readonly burst?: number;
  readonly node?: NodeId;
};

/** One buffer as its device knows it. */
type Buffer = {
  segments: readonly Extent[];
  /** -1: running; else the time from which on nothing is under way. */
  quietAt: number;
  paused: boolean;
  /** The next number, and the last one of each page. */
  seq: number;
  readonly last: Float64Array;
};

type Device = {
  readonly name: string;
  readonly manner: DeviceManner;
  readonly drainMs: number;
  readonly burst: number;
  readonly buffers: Map<number, Buffer>;
  /** Its driver was asked so often to be quiet since it began. */
  asked: number;
  crashed: boolean;
};

class Devices {
  now = 0;
  all = new Map<string, Device>();

  copy(): Devices {
    const to = new Devices();
    to.now = this.now;
    for (const [name, d] of this.all) {
      const buffers = new Map([...d.buffers].map(([id, b]) => [id, { ...b, last: b.last.slice() }]));
      to.all.set(name, { ...d, buffers });
    }
    return to;
  }
}

const states = machineState(() => new Devices());

const deviceOf = (m: Machine, name: string): Device => {
  const d = states.of(m).all.get(name);
  assert(d !== undefined, 'no such device', { name });
  return d;
};

const bufferOf = (m: Machine, area: FixedArea): Buffer => {
  const b = deviceOf(m, area.driver).buffers.get(area.handle.id);
  assert(b !== undefined, 'the device has no such buffer', { area: area.handle.id, driver: area.driver });
  return b;
};

// -------------------------------------------------------------------------------------------------------- monitor

/** Sees each DMA write of all devices that were made with it, on all copies of the machine. */
export class DmaMonitor {
  writes = 0;
  /** E1: writes to frames that were not the area's any more, in words. The first 20. */
  readonly violations: string[] = [];

  saw(m: Machine, device: string, area: number, pfn: Pfn): void {
    this.writes++;
    const row = areaTableIfAny(m)?.areas.get(area);
    const its = row?.segments.some((s) => s.start <= pfn && pfn < s.end) === true && row.state !== 'RELEASED';
    const frame = m.frame(pfn);
    const held = frame.state === 'used' && frame.holder === areaTableIfAny(m)?.drivers.get(device)?.holder;
    if (its && (held || row.workedAround)) return;
    if (this.violations.length < 20) {
      this.violations.push(
        `${device} wrote to frame ${pfn}, which is ${its ? frame.state : 'not of its area'} (area ${area})`,
      );
    }
  }
}

// --------------------------------------------------------------------------------------------------------- driver

const REFUSES: DriverNo = { errno: 'EBUSY', why: 'a transfer that cannot be interrupted' };

/** Functions without state: everything is in the device's registers. */
const OPS: DriverOps = {
  prepare: (m, area) => (deviceOf(m, area.driver).manner === 'refuses' ? REFUSES : 'yes'),
  quiesce(m, area, now) {
    const d = deviceOf(m, area.driver);
    const b = bufferOf(m, area);
    if (d.manner === 'changes-mind') return REFUSES;
    if (!b.paused) {
      b.paused = true;
      b.quietAt = d.manner === 'good' ? now + d.drainMs : Number.POSITIVE_INFINITY;
      d.asked = 0;
    }
    d.asked++;
    if (d.asked > 2 && (d.manner === 'crashes' || d.manner === 'throws')) {
      d.crashed = true;
      if (d.manner === 'throws') throw new RangeError('a bug in a driver');
      return 'dead';
    }
    return now >= b.quietAt ? 'quiet' : 'busy';
  },
  move(m, area, to) {
    bufferOf(m, area).segments = to.segments;
    return 'done';
  },
  drop(m, area) {
    deviceOf(m, area.driver).buffers.delete(area.handle.id);
    return 'done';
  },
  reacquire(m, area) {
    const d = deviceOf(m, area.driver);
    d.buffers.set(area.handle.id, { ...newBuffer(area), paused: true, quietAt: states.of(m).now });
    return 'done';
  },
  resume(m, area) {
    const b = bufferOf(m, area);
    b.paused = false;
    b.quietAt = -1;
    return 'done';
  },
  // The device's DMA address is an IOVA; what it leads to is the IOMMU's.
  switchIova(m, area, to) {
    bufferOf(m, area).segments = to.segments;
  },
};

const newBuffer = (area: FixedArea): Buffer => ({
  segments: area.segments,
  quietAt: -1,
  paused: false,
  seq: 1,
  last: new Float64Array(area.pages),
});

const DEFAULT_CAPS: readonly DriverCap[] = ['relinquish', 'reacquire', 'quiesce'];

/** Plugs a device in and registers its driver; areas that the driver had already (`holder`) become its buffers. */
export function addDevice(m: Machine, spec: DeviceSpec, holder?: ReturnType<Machine['addHolder']>): void {
  const { name, caps = DEFAULT_CAPS, maxQuiesceMs = 10 } = spec;
  const done = fixedAreas(m).register({
    name,
    abi: 1,
    caps,
    maxQuiesceMs,
    ops: OPS,
    ...(spec.node === undefined ? {} : { node: spec.node }),
    ...(holder === undefined ? {} : { holder }),
  });
  assert(done.ok, 'a device of this name, or of these caps, cannot be', { name, caps });
  const device: Device = {
    name,
    manner: spec.manner ?? 'good',
    drainMs: spec.drainMs ?? 2,
    burst: spec.burst ?? 1,
    buffers: new Map(),
    asked: 0,
    crashed: false,
  };
  for (const area of done.value) device.buffers.set(area.handle.id, newBuffer(area));
  states.of(m).all.set(name, device);
}

/** Unplugs a device: its bus stops it first, so that what it had can be free whatever became of its driver. */
export function removeDevice(m: Machine, name: string): ReturnType<ReturnType<typeof fixedAreas>['unregister']> {
  const done = fixedAreas(m).unregister(name);
  if (done.ok) states.of(m).all.delete(name);
  return done;
}

/** The driver asks for a buffer and its device begins to write there. @returns as FixedAreas.request */
export function addBuffer(
  m: Machine,
  device: string,
  want: AreaRequest,
): ReturnType<ReturnType<typeof fixedAreas>['request']> {
  const got = fixedAreas(m).request(device, want);
  if (got.ok) deviceOf(m, device).buffers.set(got.value.handle.id, newBuffer(got.value));
  return got;
}

// ----------------------------------------------------------------------------------------------------------- time

/** `ms` milliseconds: each device writes to each of its buffers. Cost O(ms * buffers * burst). */
export function runDevices(m: Machine, ms: number, monitor: DmaMonitor): void {
  const s = states.of(m);
  for (let k = 0; k < ms; k++) {
    s.now++;
    for (const d of s.all.values()) {
      for (const [id, b] of d.buffers) {
        const under = !b.paused || d.crashed || s.now < b.quietAt;
        for (let n = 0; under && n < d.burst; n++) writeNext(m, d, id, b, monitor);
      }
    }
  }
}

function writeNext(m: Machine, d: Device, id: number, b: Buffer, monitor: DmaMonitor): void {
  const page = b.seq % b.last.length;
  const pfn = frameOf(b.segments, page);
  monitor.saw(m, d.name, id, pfn);
  b.last[page] = b.seq;
  if (m.spec.contents === 'bytes' && isThere(m, pfn)) m.write(pfn, 0, wordOf(b.seq));
  b.seq++;
}

/** The machine has a row for it, if it is offline, too: frames that a host backs. */
const isThere = (m: Machine, pfn: Pfn): boolean => {
  const index = m.sections.indexOf(pfn);
  return index >= 0 && m.sections.allocationAt(index) !== undefined;
};

const wordOf = (n: number): Uint8Array => new Uint8Array(new Float64Array([n]).buffer);

function frameOf(segments: readonly Extent[], page: number): Pfn {
  let left = page;
  for (const s of segments) {
    if (left < s.end - s.start) return toPfn(s.start + left);
    left -= s.end - s.start;
  }
  assert(false, 'a page beyond the buffer', { page });
}

/** The devices' time; they go on while somebody waits. */
export const deviceClock = (monitor: DmaMonitor): AreaClock => ({
  now: (m) => states.of(m).now,
  pause: (m, ms) => runDevices(m, Math.ceil(ms), monitor),
});

// ---------------------------------------------------------------------------------------------------------- audit

/**
 * Do devices and the engine agree, and is every number where its device wrote it? Numbers are looked at with contents 'bytes'.
 * @returns what does not hold; empty: all is well. Cost O(pages of buffers)
 */
export function auditDevices(m: Machine): string[] {
  const wrong: string[] = [];
  const t = areaTableIfAny(m);
  for (const d of states.of(m).all.values()) {
    for (const [id, b] of d.buffers) {
      const row = t?.areas.get(id);
      if (row === undefined || row.state === 'RELEASED') {
        wrong.push(`${d.name} has buffer ${id}, which is not its area`);
        continue;
      }
      if (JSON.stringify(row.segments) !== JSON.stringify(b.segments)) {
        wrong.push(
          `${d.name} believes buffer ${id} at ${JSON.stringify(b.segments)}, it is at ${JSON.stringify(row.segments)}`,
        );
      }
      if (m.spec.contents !== 'bytes') continue;
      for (const [page, seq] of b.last.entries()) {
        const pfn = frameOf(b.segments, page);
        if (!isThere(m, pfn)) continue; // its memory has gone: the host knows
        const found = new Float64Array(m.read(pfn).slice(0, 8).buffer)[0];
        if (found !== seq) wrong.push(`${d.name} wrote ${seq} to page ${page} of buffer ${id}, there is ${found}`);
      }
    }
  }
  return wrong;
}

/** Everything that devices know but the time, as text: to be compared byte by byte. */
export function deviceImage(m: Machine): string {
  const of = (d: Device): object => ({
    name: d.name,
    crashed: d.crashed,
    buffers: [...d.buffers]
      .sort(([a], [b]) => a - b)
      .map(([id, b]) => ({ id, segments: b.segments, paused: b.paused, seq: b.seq, last: [...b.last] })),
  });
  return JSON.stringify([...states.of(m).all.values()].map(of));
}

/** Pages of a device's buffers: what an abort may not change (E2). */
export const bufferPages = (m: Machine, device: string): number =>
  [...deviceOf(m, device).buffers.values()].reduce((n, b) => n + b.last.length, 0);
