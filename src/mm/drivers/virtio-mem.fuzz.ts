// virtio-mem under a random host, a random guest and a device that answers what it likes. Rule VM14.
//
// The naive model is the device's bitmap and the states of the memory blocks: nothing of the driver's own tables.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGE_SIZE, PAGEBLOCK_PAGES } from '../geometry.ts';
import { Machine } from '../machine.ts';
import { VirtioMem } from './virtio-mem.ts';
import { MIB, QemuVirtioMem, type VirtioMemPort, type VirtioMemReply } from './virtio-mem-device.ts';

const BASE = 2 ** 32;
const BLOCK = 128 * MIB;
const BLOCKS = 5;

type Mode = 'sbm' | 'bbm' | 'bbm-unsafe';
const MODES: readonly Mode[] = ['sbm', 'sbm', 'sbm', 'bbm', 'bbm-unsafe'];

class World {
  readonly rng: Prng;
  readonly mode: Mode;
  readonly m: Machine;
  readonly device: QemuVirtioMem;
  readonly vm: VirtioMem;
  readonly unit: number;
  faults = true;
  now = 0;
  /** The largest size that was asked for since the device was last within its request. */
  most = 0;
  readonly holders: HolderId[];
  readonly pins = new Set<string>();

  constructor(seed: number) {
    this.rng = new Prng(seed);
    this.mode = this.rng.pick(MODES);
    const ram = [0, 1].map((n) => ({ start: toPfn(n * 65536), end: toPfn((n + 1) * 65536), node: toNodeId(n) }));
    const autoOnline = this.rng.pick(['offline', 'online_movable', 'online_movable', 'online_kernel'] as const);
    const compat = this.rng.pick(['strict', 'linux'] as const);
    this.m = Machine.boot({ ram, hotplug: { autoOnline }, compat, cpus: 2, code: 'shared' });
    const blockSize = this.mode === 'sbm' ? this.rng.pick([2, 8, 32]) * MIB : BLOCK;
    this.unit = blockSize;
    this.device = new QemuVirtioMem({ addr: BASE, regionSize: BLOCKS * BLOCK, node: toNodeId(1), blockSize });
    const r = VirtioMem.probe(this.m, this.port(), { name: 'virtio0', bbmSafeUnplug: this.mode !== 'bbm-unsafe' });
    if (!r.ok) throw new Error(r.error.message);
    this.vm = r.value;
    this.holders = (['anonymous', 'file', 'slab', 'anonymous'] as const).map((cls, k) =>
      this.m.addHolder({ class: cls, name: `${cls}${k}`, node: toNodeId(1) }),
    );
  }

  /** The device, or in its place a BUSY or a NACK. */
  port(): VirtioMemPort {
    const { device } = this;
    const or = (real: () => VirtioMemReply): VirtioMemReply =>
      this.faults && this.rng.chance(0.1) ? this.rng.pick<VirtioMemReply>(['BUSY', 'NACK']) : real();
    const port: VirtioMemPort = {
      onConfigChanged: undefined,
      config: () => device.config(),
      plug: (addr, size) => or(() => device.plug(addr, size)),
      unplug: (addr, size) => or(() => device.unplug(addr, size)),
      unplugAll: () => or(() => device.unplugAll()),
    };
    device.onConfigChanged = () => port.onConfigChanged?.();
    return port;
  }

  event(): string {
    const { rng, m, vm, device } = this;
    const block = toBlockId(BASE / BLOCK + rng.below(BLOCKS));
    switch (rng.weighted([6, 60, 20, 14, 4, 4, 3, 4, 2])) {
      case 0: {
        const bytes = rng.below((BLOCKS * BLOCK) / this.unit + 1) * this.unit;
        device.setRequestedSize(bytes);
        this.most = Math.max(this.most, bytes);
        return `request ${bytes / MIB} MiB`;
      }
      case 1:
        return `step ${vm.step()}`;
      case 2: {
        const holder = rng.pick(this.holders);
        const order = rng.chance(0.1) ? 9 : rng.chance(0.3) ? 3 : 0;
        let n = 0;
        for (; n < 1 + rng.below(400); n++) {
          const pfn = m.alloc(holder, toOrder(order));
          if (pfn < 0) break;
        }
        return `alloc ${n} of order ${order}`;
      }
      case 3: {
        for (const h of this.holders) if (rng.chance(0.4)) this.freeSome(h, rng.below(600));
        return 'free';
      }
      case 4:
      case 5: {
        // Members move: what is pinned is found by holder and index.
        const h = rng.pick(this.holders);
        m.forEachFrameOf(h, (pfn, _order, index) => {
          if (!rng.chance(0.01)) return;
          const key = `${h}:${index}`;
          if (this.pins.delete(key)) m.unpin(pfn);
          else {
            this.pins.add(key);
            m.pin(pfn);
          }
        });
        return 'pins';
      }
      case 6:
        return `offline ${block}: ${m.block(block) === undefined ? 'none' : m.offline(block).ok}`;
      case 7:
        return `online ${block}: ${m.block(block) === undefined ? 'none' : m.online(block, rng.pick(['kernel', 'movable'])).ok}`;
      default:
        this.now += rng.below(200_000);
        vm.tick(this.now);
        return `tick ${this.now}`;
    }
  }

  freeSome(h: HolderId, n: number): void {
    const all: { pfn: Pfn; index: number }[] = [];
    this.m.forEachFrameOf(h, (pfn, _order, index) => all.push({ pfn, index }));
    for (const { pfn, index } of this.rng.shuffle(all).slice(0, n)) {
      this.pins.delete(`${h}:${index}`);
      this.m.free(pfn);
    }
  }

  /** The invariants, seen from outside. */
  check(text: string): void {
    const { m, vm, device } = this;
    expect(m.check(), text).toEqual([]);
    expect(vm.check(), text).toEqual([]);
    expect(device.size, text).toBe(vm.pluggedSize);
    expect(device.size, text).toBeLessThanOrEqual(this.most);
    // All memory of node 1 above 4 GiB is the device's: what is online and plugged is managed, what is online is present.
    let managed = 0;
    let present = 0;
    let offline = 0;
    for (let b = 0; b < BLOCKS; b++) {
      const info = m.block(toBlockId(BASE / BLOCK + b));
      if (info?.state === 'offline') offline += BLOCK;
      if (info?.state !== 'online') continue;
      present += info.endPfn - info.startPfn;
      for (let pfn = info.startPfn as number; pfn < info.endPfn; pfn += PAGEBLOCK_PAGES) {
        const f = m.frame(toPfn(pfn));
        const kept = f.state === 'used' && f.class === 'unplugged';
        const backed = device.state(pfn * PAGE_SIZE - ((pfn * PAGE_SIZE - BASE) % this.unit), this.unit) === 'plugged';
        if (!backed) expect(kept, `${text} frame ${pfn} is in use and not plugged`).toBe(true);
        if (!kept) managed += PAGEBLOCK_PAGES;
      }
    }
    const pools = ['Normal', 'Movable'].map((z) => m.poolNamed(toNodeId(1), z as 'Normal' | 'Movable'));
    expect(
      pools.reduce((n, p) => n + (p?.managed ?? 0), 0),
      text,
    ).toBe(managed);
    expect(
      pools.reduce((n, p) => n + (p?.present ?? 0), 0),
      text,
    ).toBe(present);
    expect(vm.offlineSize, text).toBe(offline);
  }
}

describe('VM14 random hosts, guests and devices', () => {
  for (let seed = 1; seed <= 12; seed++) {
    it(`VM14 sound after every step, and the host gets what it asks once nothing is in the way, seed=${seed}`, () => {
      const w = new World(seed);
      const log: string[] = [];
      for (let k = 0; k < 260; k++) {
        log.push(w.event());
        if (k % 13 === 0) w.check(`seed=${seed} ${w.mode} event ${k}: ${log.slice(-20).join('; ')}`);
      }
      w.check(`seed=${seed} ${w.mode} at the end: ${log.slice(-20).join('; ')}`);
      // Liveness: the device answers, nothing is pinned, only movable memory is in use.
      w.faults = false;
      for (const h of w.holders) w.freeSome(h, Number.MAX_SAFE_INTEGER);
      for (const target of [0, w.unit * 3, 0]) {
        w.device.setRequestedSize(target);
        w.most = Math.max(w.most, target);
        for (let tries = 0; tries < 4 && w.device.size !== target; tries++) {
          w.vm.settle();
          w.now += 300_000;
          w.vm.tick(w.now);
        }
        const text = `seed=${seed} ${w.mode} to ${target / MIB} MiB: ${w.vm.lastRc}, ${w.vm.activity}`;
        expect(w.device.size, text).toBe(target);
        w.vm.settle();
        w.check(text);
      }
    });
  }
});
