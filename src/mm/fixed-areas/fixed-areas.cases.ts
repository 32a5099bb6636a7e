// Worlds for the tests of fixed areas: a machine above 4 GiB, one device with one buffer, and who must be content at the end.

import { expect } from 'vitest';
import type { Result } from '#base/result';
import { type BlockId, toBlockId, toNodeId, toPfn } from '#base/units';
import { PAGE_SIZE, PAGES_PER_SECTION } from '../geometry.ts';
import { Machine } from '../machine.ts';
import { type Extent, extent } from '../pools/dma-extent.ts';
import type { Refusal } from '../refusal.ts';
import {
  addBuffer,
  addDevice,
  auditDevices,
  type DeviceSpec,
  DmaMonitor,
  deviceClock,
  runDevices,
} from './device-model.ts';
import type { FixedArea } from './driver.ts';
import type { AreaRequest } from './fixed-areas.ts';
import type { AreaClock } from './relinquish.ts';

/** 4 GiB: all of a machine is one zone, Normal. */
export const BASE = 2 ** 20;

export function boot(blocks = 4, contents: 'tag' | 'bytes' = 'bytes'): Machine {
  const end = BASE + blocks * PAGES_PER_SECTION;
  return Machine.boot({ ram: [{ start: toPfn(BASE), end: toPfn(end), node: toNodeId(0) }], contents, code: 'shared' });
}

/** The value, or the test fails with the refusal's words. */
export function loud<T>(r: Result<T, Refusal>): T {
  if (!r.ok) throw new Error(`${r.error.errno} ${r.error.reason}: ${r.error.message}`);
  return r.value;
}

export type DeviceWorld = {
  readonly m: Machine;
  readonly monitor: DmaMonitor;
  readonly area: FixedArea;
  readonly clock: AreaClock;
};

/** A machine with one device, nic0, and one buffer that it has written to for 20 ms. */
export function withDevice(spec: Partial<DeviceSpec> = {}, want: Partial<AreaRequest> = {}): DeviceWorld {
  const m = boot();
  const monitor = new DmaMonitor();
  addDevice(m, { name: 'nic0', ...spec });
  const area = loud(addBuffer(m, 'nic0', { bytes: 5 * PAGE_SIZE, reason: 'ring', ...want }));
  runDevices(m, 20, monitor);
  return { m, monitor, area, clock: deviceClock(monitor) };
}

export const rangeOf = (area: FixedArea): Extent =>
  extent(area.segments[0]?.start ?? 0, area.segments.at(-1)?.end ?? 0);

export const blockOf = (area: FixedArea): BlockId => toBlockId(Math.floor(rangeOf(area).start / PAGES_PER_SECTION));

/** The tables agree, devices find what they wrote, and no write went astray. */
export function sound(m: Machine, monitor: DmaMonitor, why = ''): void {
  expect(m.check(), why).toEqual([]);
  expect(auditDevices(m), why).toEqual([]);
  expect(monitor.violations, why).toEqual([]);
}
