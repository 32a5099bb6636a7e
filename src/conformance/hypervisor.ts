// The hypervisor's other ways to resize a guest: virtio-mem devices and the balloon, as the recording's requests set them.
//
//   qom-set requested-size ──> device ──> driver (mm/virtio-mem.ts) works until it is idle
//   qom-get size, events       what the guest had got to: as long as it is not what was requested, the guest is at work,
//                              or cannot go on because of what is in its memory, and what is read is not determined
//   balloon ──> query-balloon, BALLOON_CHANGE   when the balloon is where it should be, MemTotal has fallen by as much;
//                              from which zones, is the running kernel's choice

import { assert } from '#base/assert';
import { type HolderId, type Pfn, toNodeId, toOrder } from '#base/units';
import { VirtioMem } from '#mm/drivers/virtio-mem';
import { QemuVirtioMem } from '#mm/drivers/virtio-mem-device';
import { type Machine, PAGE_SIZE } from '#mm/index';
import type { Resource } from '#mm/resource';
import type { Device } from './device-memory.ts';
import type { JsonObject } from './ops.ts';
import type { Tally } from './tally.ts';

type Guest = {
  readonly device: QemuVirtioMem;
  readonly driver: VirtioMem /** Bytes, as last read. */;
  recorded: number;
};

export class Hypervisor {
  readonly #m: Machine;
  readonly #tally: Tally;
  readonly #guests = new Map<string, Guest>();
  readonly #balloon: HolderId;
  readonly #inflated: Pfn[] = [];
  /** Bytes of boot RAM; what the balloon is to leave of it; what it has left, as last read. */
  readonly #ram: number;
  #target: number;
  #actual: number;

  constructor(m: Machine, tally: Tally, ram: number, devices: readonly Device[]) {
    this.#m = m;
    this.#tally = tally;
    this.#ram = ram;
    this.#target = ram;
    this.#actual = ram;
    this.#balloon = m.addHolder({ class: 'balloon', name: 'virtio_balloon' });
    for (const d of devices) if (d.driver.startsWith('virtio-mem')) this.#probe(d);
  }

  #probe(d: Device): void {
    const device = new QemuVirtioMem({
      addr: d.start,
      regionSize: d.size,
      node: toNodeId(d.node),
      requestedSize: d.requested ?? 0,
    });
    const name = takeRegion(this.#m, d.start, d.start + d.size - 1) ?? 'virtio0';
    const driver = VirtioMem.probe(this.#m, device, { name });
    assert(driver.ok, 'the region of the device is taken', { id: d.id });
    this.#guests.set(d.id, { device, driver: driver.value, recorded: 0 });
  }

  /** Is the guest where it was asked to be? Before that nothing of its memory is determined. */
  get settled(): boolean {
    return (
      [...this.#guests.values()].every((g) => g.recorded === g.device.requestedSize) && this.#target === this.#actual
    );
  }

  /** With a balloon, amounts are determined, but not which zones they come from. */
  get ballooned(): boolean {
    return this.#inflated.length > 0;
  }

  request(request: JsonObject, reply: JsonObject): void {
    if (!('return' in reply)) return;
    const args = (request.arguments ?? {}) as JsonObject;
    const id =
      String(args.path ?? '')
        .split('/')
        .at(-1) ?? '';
    const guest = this.#guests.get(id);
    if (request.execute === 'qom-set' && args.property === 'requested-size')
      guest?.device.setRequestedSize(Number(args.value));
    if (request.execute === 'qom-get' && args.property === 'size') this.#read(guest, Number(reply.return));
    if (request.execute === 'balloon') this.#target = Math.min(this.#ram, toPages(Number(args.value)));
    if (request.execute === 'query-balloon') this.#left(Number((reply.return as JsonObject).actual));
  }

  event(name: string, data: JsonObject): void {
    if (name === 'MEMORY_DEVICE_SIZE_CHANGE') this.#read(this.#guests.get(String(data.id)), Number(data.size));
    if (name === 'BALLOON_CHANGE') this.#left(Number(data.actual));
  }

  #read(guest: Guest | undefined, size: number): void {
    if (guest === undefined || !Number.isFinite(size)) return;
    guest.recorded = size;
    if (size !== guest.device.requestedSize) return;
    guest.driver.settle();
    this.#tally.compare('virtio-mem', 'size', size, guest.device.size);
  }

  #left(actual: number): void {
    this.#actual = actual;
    if (actual !== this.#target) return;
    const pages = (this.#ram - actual) / PAGE_SIZE;
    while (this.#inflated.length > pages) this.#m.free(this.#inflated.pop() as Pfn); // length > 0
    while (this.#inflated.length < pages) {
      const pfn = this.#m.alloc(this.#balloon, toOrder(0));
      if (pfn < 0) break; // the replay's machine holds more than the guest did: MemTotal will tell
      this.#inflated.push(pfn as Pfn);
    }
  }
}

/** QEMU counts the balloon in pages: a target is rounded down to whole ones of what stays. */
const toPages = (bytes: number): number => Math.ceil(bytes / PAGE_SIZE) * PAGE_SIZE;

/** The boot snapshot shows the driver's region; a driver of our own takes it over. @returns its name */
function takeRegion(m: Machine, start: number, end: number): string | undefined {
  const inside = (list: Resource[]): string | undefined => {
    const at = list.findIndex((r) => r.start === start && r.end === end && /^virtio\d+$/.test(r.name));
    if (at >= 0) return list.splice(at, 1)[0]?.name;
    for (const r of list) {
      const found = inside(r.children);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  return inside(m.hotplug.resources.roots);
}
