// virtio-balloon against what real guests did, and rule by rule. Rules in docs/spec/balloon.md.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGE_SIZE, PAGES_PER_SECTION } from '../geometry.ts';
import { Machine } from '../machine.ts';
import type { MachineSpec } from '../machine-spec.ts';
import { BALLOON_BATCH, type BalloonOptions, QemuBalloon, VirtioBalloon } from './balloon.ts';

const NODE = toNodeId(0);
const MIB = 2 ** 20;
const rows = JSON.parse(readFileSync(new URL('../../../test/golden/virtio-mem/balloon.json', import.meta.url), 'utf8'));

function guest(ramSize: number, spec: Partial<MachineSpec> = {}, options: Partial<BalloonOptions> = {}) {
  const ram = [{ start: toPfn(0), end: toPfn(ramSize / PAGE_SIZE), node: NODE }];
  const m = Machine.boot({ ram, code: 'shared', ...spec });
  const device = new QemuBalloon(ramSize);
  const log: string[] = [];
  m.onLog = (line) => log.push(line.text);
  const balloon = new VirtioBalloon(m, device, { name: 'virtio1', node: NODE, ...options });
  balloon.settle();
  const sound = (why = ''): void => {
    expect(m.check(), why).toEqual([]);
    expect(balloon.check(), why).toEqual([]);
    expect(device.actual, why).toBe(ramSize - balloon.pages * PAGE_SIZE);
  };
  return { m, device, balloon, log, sound };
}
const memTotalKiB = (m: Machine): number => m.pools.reduce((n, p) => n + p.managed, 0) * 4;

describe('BL1 recorded targets', () => {
  for (const row of rows) {
    it(`BL1 ${row.guest}, balloon ${row.target}: MemTotal, the pages and query-balloon are the recorded ones`, () => {
      const { m, device, balloon, sound } = guest(row.ramSize);
      const grows = row.memTotalKiB[1] > row.memTotalKiB[0];
      if (grows) {
        device.setTarget(row.ramSize - (row.memTotalKiB[1] - row.memTotalKiB[0]) * 1024);
        balloon.settle();
      }
      const before = memTotalKiB(m);
      const present = m.pools.map((p) => p.present);
      expect(device.setTarget(row.target).ok).toBe(true);
      expect(balloon.settle()).toBe('idle');
      expect(memTotalKiB(m) - before).toBe(row.memTotalKiB[1] - row.memTotalKiB[0]);
      expect(balloon.pages).toBe(row.inflated);
      expect(device.actual).toBe(row.actual);
      expect(m.pools.map((p) => p.present)).toEqual(present);
      sound();
    });
  }

  it("BL1 a target of 0 or less is refused in QEMU's words", () => {
    const { device } = guest(256 * MIB);
    for (const bytes of [0, -5]) {
      expect(device.setTarget(bytes)).toMatchObject({
        error: { errno: 'EINVAL', message: "Parameter 'target' expects a size" },
      });
    }
  });
});

describe('BL2 batches', () => {
  it('BL2 a step takes or gives 256 pages and tells the device after each', () => {
    const { device, balloon, sound } = guest(256 * MIB);
    const told: number[] = [];
    device.onChange = (n) => told.push((256 * MIB - n) / PAGE_SIZE);
    device.setTarget(256 * MIB - 600 * PAGE_SIZE);
    expect([balloon.step(), balloon.step(), balloon.step(), balloon.step()]).toEqual([
      'working',
      'working',
      'idle',
      'idle',
    ]);
    device.setTarget(256 * MIB - 10 * PAGE_SIZE);
    balloon.settle();
    expect(told).toEqual([256, 512, 600, 344, 88, 10]);
    expect([balloon.inflated, balloon.deflated]).toEqual([600, 590]);
    sound();
  });

  it('BL2 the newest batch leaves first, in the order in which it was allocated', () => {
    const { m, device, balloon, sound } = guest(256 * MIB);
    const took: Pfn[][] = [];
    const gave: Pfn[][] = [];
    const { inflate, deflate } = device;
    device.inflate = (pfns) => {
      took.push([...pfns]);
      inflate.call(device, pfns);
    };
    device.deflate = (pfns) => {
      gave.push([...pfns]);
      deflate.call(device, pfns);
    };
    device.setTarget(256 * MIB - 2 * BALLOON_BATCH * PAGE_SIZE);
    balloon.settle();
    device.setTarget(256 * MIB);
    balloon.settle();
    expect(gave).toEqual([took[1], took[0]]);
    expect(m.holders.members[balloon.holder]).toBe(0);
    sound();
  });

  it('BL2 a new target counts from the next step on', () => {
    const { device, balloon, sound } = guest(256 * MIB);
    device.setTarget(128 * MIB);
    balloon.step();
    device.setTarget(256 * MIB - 8 * PAGE_SIZE);
    balloon.settle();
    expect(balloon.pages).toBe(8);
    sound();
  });

  it('BL2 no page to be had: it says so and rests 200 ms; what is freed meanwhile it takes then', () => {
    const { m, device, balloon, log, sound } = guest(256 * MIB);
    device.setTarget(1 * MIB);
    expect(balloon.settle()).toBe('resting');
    const held = balloon.pages;
    expect(held).toBeLessThan(255 * 256); // the watermarks keep the rest
    expect(log.at(-1)).toBe("virtio_balloon virtio1: Out of puff! Can't get 1 pages");
    balloon.tick(199);
    expect(balloon.step()).toBe('resting');
    balloon.tick(200);
    expect(balloon.step()).toBe('resting');
    expect(balloon.pages).toBe(held);
    device.setTarget(2 * MIB + 254 * MIB);
    balloon.tick(400);
    expect(balloon.settle()).toBe('idle');
    expect(balloon.pages).toBe(0);
    expect(m.pools.reduce((n, p) => n + p.alloc.nrFree() + p.alloc.pcpPages(), 0)).toBe(65536);
    sound();
  });
});

describe('BL3 out of memory', () => {
  it('BL3 with deflate-on-oom an allocation that failed may have 256 pages back, without it none', () => {
    for (const deflateOnOom of [true, false]) {
      const { m, device, balloon, sound } = guest(256 * MIB, {}, { deflateOnOom });
      device.setTarget(64 * MIB);
      balloon.settle();
      const held = balloon.pages;
      const anon = m.addHolder({ class: 'anonymous', name: 'process' });
      while (m.alloc(anon, toOrder(0)) >= 0);
      expect(balloon.oomNotify()).toBe(deflateOnOom ? BALLOON_BATCH : 0);
      expect(held - balloon.pages).toBe(deflateOnOom ? BALLOON_BATCH : 0);
      expect(m.alloc(anon, toOrder(0)) >= 0).toBe(deflateOnOom);
      sound();
    }
  });
});

describe('BL4 its pages move', () => {
  it('BL4 a block with balloon pages goes offline; what is deflated afterwards is where the pages are now', () => {
    const { m, device, balloon, sound } = guest(512 * MIB);
    device.setTarget(300 * MIB);
    balloon.settle();
    const block = m.blockIds().find((b) => {
      const { startPfn, endPfn } = m.block(b) as { startPfn: Pfn; endPfn: Pfn };
      let mine = false;
      m.forEachFrameOf(balloon.holder, (pfn) => (mine ||= pfn >= startPfn && pfn < endPfn));
      return mine && (m.block(b)?.pool?.zone ?? 0) > 0;
    });
    if (block === undefined) throw new Error('no block with balloon pages');
    const total = memTotalKiB(m);
    expect(m.offline(block)).toMatchObject({ ok: true });
    expect(m.vmstat.pgmigrate_success).toBeGreaterThan(0);
    expect(total - memTotalKiB(m)).toBe((PAGES_PER_SECTION * PAGE_SIZE) / 1024);
    sound();
    const frames = (): Pfn[] => {
      const all: Pfn[] = [];
      m.forEachFrameOf(balloon.holder, (pfn) => all.push(pfn));
      return all.sort((a, b) => a - b);
    };
    const known = (): Pfn[] => [...device.dropped].sort((a, b) => a - b);
    expect(known()).not.toEqual(frames()); // the device hears of it with the next step
    device.setTarget(300 * MIB - PAGE_SIZE);
    balloon.settle();
    expect(known()).toEqual(frames());
    expect(balloon.migrated).toBe(m.vmstat.pgmigrate_success);
    device.setTarget(512 * MIB);
    expect(balloon.settle()).toBe('idle');
    expect(m.holders.members[balloon.holder]).toBe(0);
    expect(device.dropped.size).toBe(0);
    sound();
  });

  it('BL4 random targets, other users, offline and online: sound after each, and the host gets what it asks', () => {
    for (let seed = 1; seed <= 6; seed++) {
      const rng = new Prng(seed);
      const { m, device, balloon, sound } = guest(512 * MIB, { cpus: 2 });
      const users = (['anonymous', 'slab'] as const).map((cls) => m.addHolder({ class: cls, name: cls }));
      let now = 0;
      for (let k = 0; k < 200; k++) {
        const block = rng.pick(m.blockIds());
        const what = rng.weighted([10, 60, 15, 10, 3, 5]);
        if (what === 0) device.setTarget((1 + rng.below(512)) * MIB);
        else if (what === 1) balloon.step();
        else if (what === 2) for (let n = rng.below(500); n > 0 && m.alloc(rng.pick(users), toOrder(0)) >= 0; n--);
        else if (what === 3) {
          const all: Pfn[] = [];
          m.forEachFrameOf(rng.pick(users), (pfn) => all.push(pfn));
          for (const pfn of rng.shuffle(all).slice(0, rng.below(800))) m.free(pfn);
        } else if (what === 4) {
          if (m.block(block)?.state === 'online') m.offline(block);
          else m.online(block, 'online');
        } else balloon.tick((now += rng.below(300)));
        if (k % 20 === 0) sound(`seed=${seed} event ${k}`);
      }
      device.setTarget(512 * MIB);
      balloon.tick(now + 1000);
      expect(balloon.settle(), `seed=${seed}`).toBe('idle');
      expect(balloon.pages, `seed=${seed}`).toBe(0);
      expect(device.dropped.size, `seed=${seed}`).toBe(0);
      sound(`seed=${seed}`);
    }
  });
});
