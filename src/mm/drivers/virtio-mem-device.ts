// The host's side of virtio-mem: what a driver can ask of the device, and QEMU's device as a model.
//
//   driver (virtio-mem.ts)                      device
//     config()  ────────────────────────────>   block size, node, addr, region, usable region, plugged, requested
//     PLUG addr size      ──────────────────>   ACK      done
//     UNPLUG addr size                          NACK     plug beyond the requested size: read the config again
//     UNPLUG_ALL                                BUSY     the host cannot now (it migrates, it has no memory)
//     STATE addr size                           ERROR    the request makes no sense (outside, or not in that state)
//     <──────────────────────── configChanged
//
//   region   │■■■■■■■■■■■■■■□□□□□□□□□□□□│················│     ■ plugged   □ usable   · not usable yet
//            addr      plugged bitmap, one bit a device block          addr + regionSize
//
// QEMU keeps the usable region 256 MiB larger than the requested size, so that Linux finds room for a whole memory block
// of which it plugs a part. It grows with requests and shrinks only when everything is unplugged.
//
// Invariants: D1 size = device blocks plugged * blockSize; D2 size never exceeds the largest requested size since the last
// unplug.
//
// Follows QEMU v7.2 hw/virtio/virtio-mem.c and the virtio specification, "Memory Device" (spec 5.4, 7.1). Error texts are
// the recorded ones.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import type { NodeId } from '#base/units';
import { type Refusal, refusal } from '../refusal.ts';

export const MIB = 2 ** 20;
/** VIRTIO_MEM_USABLE_EXTENT on x86: two sections. */
const USABLE_EXTENT = 2 * 128 * MIB;

export type VirtioMemReply = 'ACK' | 'NACK' | 'BUSY' | 'ERROR';

/** struct virtio_mem_config. Sizes and addresses are bytes. */
export type VirtioMemConfig = {
  readonly blockSize: number;
  readonly node: NodeId;
  readonly addr: number;
  readonly regionSize: number;
  readonly usableRegionSize: number;
  readonly pluggedSize: number;
  readonly requestedSize: number;
};

/** The device as its driver sees it. Ranges are whole device blocks. */
export interface VirtioMemPort {
  config(): VirtioMemConfig;
  plug(addr: number, size: number): VirtioMemReply;
  unplug(addr: number, size: number): VirtioMemReply;
  unplugAll(): VirtioMemReply;
  /** Whom to tell when the config changed. */
  onConfigChanged: (() => void) | undefined;
}

export type QemuVirtioMemOptions = {
  /** First byte; a multiple of blockSize. */
  readonly addr: number;
  /** Size of the memory backend. */
  readonly regionSize: number;
  readonly node: NodeId;
  /** Default 2 MiB: the size of a transparent huge page of the host. */
  readonly blockSize?: number;
  readonly requestedSize?: number;
};

export class QemuVirtioMem implements VirtioMemPort {
  readonly addr: number;
  readonly regionSize: number;
  readonly blockSize: number;
  readonly node: NodeId;
  requestedSize = 0;
  /** Bytes plugged. */
  size = 0;
  usableRegionSize = 0;
  /** The host migrates the guest: it can change nothing. */
  migrating = false;
  onConfigChanged: (() => void) | undefined;
  /** QEMU's MEMORY_DEVICE_SIZE_CHANGE, before its limit of one a second. */
  onSizeChange: ((size: number) => void) | undefined;
  /** 1 = plugged, one byte a device block. */
  readonly #plugged: Uint8Array;

  constructor(options: QemuVirtioMemOptions) {
    const { addr, regionSize, node, blockSize = 2 * MIB } = options;
    assert(Number.isInteger(Math.log2(blockSize)) && blockSize >= MIB, 'a device block is a power of two', {
      blockSize,
    });
    assert(addr % blockSize === 0 && regionSize % blockSize === 0, 'a region is whole device blocks', options);
    this.addr = addr;
    this.regionSize = regionSize;
    this.blockSize = blockSize;
    this.node = node;
    this.#plugged = new Uint8Array(regionSize / blockSize);
    const set = this.setRequestedSize(options.requestedSize ?? 0);
    assert(set.ok, 'the first requested size is refused', options);
  }

  config(): VirtioMemConfig {
    const { blockSize, node, addr, regionSize, usableRegionSize, size, requestedSize } = this;
    return { blockSize, node, addr, regionSize, usableRegionSize, pluggedSize: size, requestedSize };
  }

  /** The host's wish (qom-set requested-size). @returns QEMU's refusal, in its words. */
  setRequestedSize(bytes: number): Result<void, Refusal> {
    const hex = (n: number): string => `0x${n.toString(16)}`;
    if (!Number.isInteger(bytes) || bytes % this.blockSize !== 0) {
      const message = `'requested-size' has to be multiples of 'block-size' (${hex(this.blockSize)})`;
      return err(refusal('bad-argument', message));
    }
    if (bytes < 0 || bytes > this.regionSize) {
      const message = `'requested-size' cannot exceed the memory backend size(${hex(this.regionSize)})`;
      return err(refusal('bad-argument', message));
    }
    if (bytes === this.requestedSize) return ok(undefined); // no news: the driver is not told
    this.requestedSize = bytes;
    this.#resizeUsable(false);
    this.onConfigChanged?.();
    return ok(undefined);
  }

  #resizeUsable(canShrink: boolean): void {
    const { requestedSize, regionSize } = this;
    const size = requestedSize === 0 ? 0 : Math.min(regionSize, requestedSize + USABLE_EXTENT);
    if (size < this.usableRegionSize && !canShrink) return;
    this.usableRegionSize = Math.ceil(size / this.blockSize) * this.blockSize;
  }

  plug(addr: number, size: number): VirtioMemReply {
    if (!this.#valid(addr, size)) return 'ERROR';
    if (this.size + size > this.requestedSize) return 'NACK';
    return this.#change(addr, size, 1);
  }

  unplug(addr: number, size: number): VirtioMemReply {
    return this.#valid(addr, size) ? this.#change(addr, size, 0) : 'ERROR';
  }

  unplugAll(): VirtioMemReply {
    if (this.size > 0) {
      if (this.migrating) return 'BUSY';
      this.#plugged.fill(0);
      this.size = 0;
      this.onSizeChange?.(0);
    }
    this.#resizeUsable(true);
    return 'ACK';
  }

  /** STATE: what [addr, addr + size) is; undefined (ERROR) when it is no range of the usable region. */
  state(addr: number, size: number): 'plugged' | 'unplugged' | 'mixed' | undefined {
    if (!this.#valid(addr, size)) return undefined;
    const part = this.#part(addr, size);
    if (!part.includes(0)) return 'plugged';
    return part.includes(1) ? 'mixed' : 'unplugged';
  }

  #valid(addr: number, size: number): boolean {
    const inside = addr >= this.addr && addr + size <= this.addr + this.usableRegionSize;
    return size > 0 && addr % this.blockSize === 0 && size % this.blockSize === 0 && inside;
  }

  #part(addr: number, size: number): Uint8Array {
    const first = (addr - this.addr) / this.blockSize;
    return this.#plugged.subarray(first, first + size / this.blockSize);
  }

  #change(addr: number, size: number, to: 0 | 1): VirtioMemReply {
    const part = this.#part(addr, size);
    if (part.includes(to)) return 'ERROR';
    if (this.migrating) return 'BUSY';
    part.fill(to);
    this.size += to === 1 ? size : -size;
    this.onSizeChange?.(this.size);
    return 'ACK';
  }
}
