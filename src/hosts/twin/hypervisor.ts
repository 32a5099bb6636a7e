// Hypervisor of a twin: the devices of QEMU that a plan deals with, and what it answers about them.
//
//   backends   memdev ids ──has──> DIMMs: id, addr, size, node, slot          virtio-mem, balloon: src/mm/drivers
//
//   replies()   /qmp/query-memory-devices, ...      the `return` members, as the other hosts write them into their trees
//
// A DIMM counts from device_add on, whatever the guest makes of it; the guest's half is guest.ts. Refusals are QEMU's words
// (spec 7.1, QEMU 7.2). Left out: DIMMs without an address (a plan says where), hot-plug of virtio devices.

import { err, ok, type Result } from '#base/result';
import type { QemuBalloon } from '#mm/drivers/balloon';
import type { QemuVirtioMem } from '#mm/drivers/virtio-mem-device';
import { QMP_FILES } from '#plan/observation';

const MIB = 2 ** 20;

export type Dimm = {
  readonly id: string;
  readonly memdev: string;
  readonly addr: number;
  readonly bytes: number;
  readonly node: number;
};

type Plugged = Dimm & { readonly slot: number };

export type HypervisorOptions = {
  /** Boot memory, bytes. */
  readonly baseBytes: number;
  /** slots= and maxmem= of -m. */
  readonly slots: number;
  readonly maxBytes: number;
};

export class Hypervisor {
  readonly dimms = new Map<string, Plugged>();
  readonly virtioMem = new Map<string, { readonly device: QemuVirtioMem; readonly memdev: string }>();
  /** DIMMs that the guest was asked for and has not answered about. */
  readonly unplugging = new Set<string>();
  balloon: QemuBalloon | undefined;
  readonly #options: HypervisorOptions;

  constructor(options: HypervisorOptions) {
    this.#options = options;
  }

  /** object-add and device_add. @returns QEMU's words when it refuses; both are as before then */
  plug(d: Dimm): Result<Plugged, string> {
    const { slots, maxBytes, baseBytes } = this.#options;
    for (const other of this.dimms.values()) {
      if (other.id === d.id) return err(`Duplicate device ID '${d.id}'`);
      if (other.memdev === d.memdev)
        return err(`attempt to add duplicate property '${d.memdev}' to object (type 'container')`);
    }
    if (d.addr % (2 * MIB) !== 0) return err('address must be aligned to 0x200000 bytes');
    if (d.bytes % (2 * MIB) !== 0) return err('backend memory size must be multiple of 0x200000');
    for (const other of this.#regions()) {
      if (d.addr < other.addr + other.bytes && other.addr < d.addr + d.bytes)
        return err(`address range conflicts with memory device id='${other.id}'`);
    }
    const used = new Set([...this.dimms.values()].map((x) => x.slot));
    const slot = Array.from({ length: slots }, (_, k) => k).find((k) => !used.has(k));
    if (slot === undefined) return err('no free slots available');
    const inUse = [...this.#regions()].reduce((n, r) => n + r.bytes, 0);
    if (baseBytes + inUse + d.bytes > maxBytes)
      return err(`not enough space, currently 0x${inUse.toString(16)} in use`);
    const plugged = { ...d, slot };
    this.dimms.set(d.id, plugged);
    return ok(plugged);
  }

  *#regions(): Iterable<{ id: string; addr: number; bytes: number }> {
    yield* this.dimms.values();
    for (const [id, { device }] of this.virtioMem) yield { id, addr: device.addr, bytes: device.regionSize };
  }

  /** The replies, by path. */
  replies(): Map<string, string> {
    const { slots, maxBytes, baseBytes } = this.#options;
    const files = new Map<string, string>();
    const put = (path: string, reply: unknown): void => void files.set(path, `${JSON.stringify(reply)}\n`);
    const dimms = [...this.dimms.values()];
    const mems = [...this.virtioMem];
    put(QMP_FILES.devices, [
      ...dimms.map((d) => ({
        type: 'dimm',
        data: {
          id: d.id,
          addr: d.addr,
          size: d.bytes,
          slot: d.slot,
          node: d.node,
          memdev: `/objects/${d.memdev}`,
          hotplugged: true,
          hotpluggable: true,
        },
      })),
      ...mems.map(([id, { device, memdev }]) => ({
        type: 'virtio-mem',
        data: {
          id,
          memaddr: device.addr,
          'requested-size': device.requestedSize,
          size: device.size,
          'max-size': device.regionSize,
          'block-size': device.blockSize,
          node: device.node,
          memdev: `/objects/${memdev}`,
        },
      })),
    ]);
    const plugged = dimms.reduce((n, d) => n + d.bytes, 0) + mems.reduce((n, [, v]) => n + v.device.size, 0);
    put(QMP_FILES.summary, { 'base-memory': baseBytes, 'plugged-memory': plugged });
    const bySlot = new Map(dimms.map((d) => [d.slot, d.id]));
    put(
      QMP_FILES.slots,
      Array.from({ length: slots }, (_, k) => {
        const device = bySlot.get(k);
        return { ...(device === undefined ? {} : { device }), slot: `${k}`, 'slot-type': 'DIMM', source: 0, status: 0 };
      }),
    );
    put(QMP_FILES.machine, { size: baseBytes, 'max-size': maxBytes, slots });
    put(QMP_FILES.status, { status: 'running', running: true });
    if (this.balloon !== undefined) {
      // As QEMU counts: DIMMs are among what a balloon could take.
      put(QMP_FILES.balloon, { actual: this.balloon.actual + dimms.reduce((n, d) => n + d.bytes, 0) });
    }
    return files;
  }
}
