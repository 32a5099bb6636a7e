// Addresses for new DIMMs: chosen by the plan, so that it knows their blocks before they are there.
//
//   boot memory below 4 GiB │ boot memory above │ device memory: base .............................. end
//                                                 dimm0 ████    dimm1 ██  (free)  virtio-mem ████████
//                                                 ^ 1 GiB aligned, first fit
//
//   base   the end of boot memory, at least 4 GiB, rounded up to 1 GiB
//   end    base + (maxmem - boot memory) + 1 GiB a slot: QEMU keeps that much for alignment
//
// QEMU counts sizes against maxmem, a virtio-mem device by the most it may grow to. Left out: machines whose firmware moves
// all device memory above 1 TiB (AMD's HyperTransport hole); there the address is refused by QEMU, and nothing has changed.
//
// Follows QEMU v7.2 hw/i386/pc.c: pc_memory_init(); hw/mem/memory-device.c: memory_device_get_free_addr() (spec 7.1).

import type { HypervisorSeen, Observation } from './observation.ts';
import { blocksWithin } from './observation.ts';

const GIB = 2 ** 30;
const FOUR_GIB = 4 * GIB;
const up = (n: number): number => Math.ceil(n / GIB) * GIB;

type Area = { readonly addr: number; readonly size: number };

const areasOf = (h: HypervisorSeen): Area[] => [
  ...h.dimms,
  ...h.virtioMem.map((v) => ({ addr: v.addr, size: v.maxSize })),
];

/** Bytes that QEMU would still accept; undefined where maxmem is not known. */
export function roomBelowMax(h: HypervisorSeen): number | undefined {
  if (h.maxBytes === undefined) return undefined;
  return h.maxBytes - h.baseBytes - areasOf(h).reduce((n, a) => n + a.size, 0);
}

/** Slots that are free, ascending; undefined where it is not known how many there are. */
export function freeSlots(h: HypervisorSeen): number[] | undefined {
  const { slots } = h;
  if (slots === undefined) return undefined;
  return Array.from({ length: slots.total }, (_, k) => k).filter((k) => !slots.used.includes(k));
}

/** First frame of device memory, bytes. */
export function deviceBase(o: Observation): number {
  const h = o.hypervisor;
  const devices = new Set(h === undefined ? [] : areasOf(h).flatMap((a) => blocksWithin(o, a.addr, a.size)));
  const boot = o.blocks
    .filter((b) => !devices.has(b.id))
    .reduce((end, b) => Math.max(end, (b.id + 1) * o.blockBytes), 0);
  return Math.max(FOUR_GIB, up(boot));
}

/**
 * The lowest address where `size` bytes fit.
 *
 * @param planned  devices that the plan adds before
 * @returns undefined when there is no such gap
 */
export function firstFit(o: Observation, size: number, planned: readonly Area[]): number | undefined {
  const h = o.hypervisor;
  if (h === undefined) return undefined;
  const base = deviceBase(o);
  const slots = h.slots?.total ?? 0;
  const end = h.maxBytes === undefined ? Number.POSITIVE_INFINITY : base + (h.maxBytes - h.baseBytes) + slots * GIB;
  const taken = [...areasOf(h), ...planned].sort((a, b) => a.addr - b.addr);
  let at = base;
  for (const a of taken) {
    if (a.addr >= at + size) break;
    at = Math.max(at, up(a.addr + a.size));
  }
  return at + size <= end ? at : undefined;
}
