// Device memory: where QEMU's q35 machine puts DIMMs and virtio-mem devices.
//
//   0 ── RAM below 4 GiB ── hole ── 4 GiB ── RAM above ──┤ rounded up to 1 GiB ├── device memory: first fit, 2 MiB ──>
//
// Follows QEMU 7.2 hw/i386/pc_q35.c: pc_q35_init(); hw/i386/pc.c: pc_memory_init(); hw/mem/memory-device.c:
// memory_device_get_free_addr().

const GIB = 2 ** 30;
const ALIGN = 2 ** 21;

export type Device = {
  readonly id: string;
  /** pc-dimm, virtio-mem-pci. */
  readonly driver: string;
  readonly start: number;
  readonly size: number;
  readonly node: number;
  /** virtio-mem: bytes that the command line asks for, which the guest's driver plugs while it boots. */
  readonly requested?: number;
};

export class DeviceMemory {
  readonly #base: number;
  readonly #devices: Device[] = [];

  /** @param ram  bytes of boot RAM (-m) */
  constructor(ram: number) {
    const below = ram >= 0xb0000000 ? 0x80000000 : 0xb0000000;
    const above = Math.max(0, ram - below);
    this.#base = Math.ceil((4 * GIB + above) / GIB) * GIB;
  }

  /** Plugs a device, at an address of its own or the first that fits. */
  plug(id: string, driver: string, size: number, node: number, addr?: number, requested = 0): Device {
    let start = addr ?? this.#base;
    if (addr === undefined) {
      for (const d of this.#devices) {
        if (start + size <= d.start) break;
        start = Math.max(start, Math.ceil((d.start + d.size) / ALIGN) * ALIGN);
      }
    }
    const device = { id, driver, start, size, node, requested };
    this.#devices.push(device);
    this.#devices.sort((a, b) => a.start - b.start);
    return device;
  }

  /** Ascending by address. */
  all(): readonly Device[] {
    return this.#devices;
  }

  get(id: string): Device | undefined {
    return this.#devices.find((d) => d.id === id);
  }

  unplug(id: string): Device | undefined {
    const at = this.#devices.findIndex((d) => d.id === id);
    return at < 0 ? undefined : this.#devices.splice(at, 1)[0];
  }
}
