// virtio-mem against what real guests did, and rule by rule. Rules in docs/spec/virtio-mem.md.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type NodeId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { MIGRATE_NAMES, PAGE_SIZE, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from '../geometry.ts';
import { Machine } from '../machine.ts';
import type { MachineSpec } from '../machine-spec.ts';
import { setOnlinePageCallback } from '../online-callback.ts';
import type { OnlineType } from '../zone-choice.ts';
import { RETRY_MAX_MS, RETRY_MIN_MS, VirtioMem, type VirtioMemOptions } from './virtio-mem.ts';
import { MIB, QemuVirtioMem, type VirtioMemPort, type VirtioMemReply } from './virtio-mem-device.ts';

const golden = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../../test/golden/virtio-mem/${name}.json`, import.meta.url), 'utf8'));

const BASE = 2 ** 32;
const BLOCK = 128 * MIB;
const SB = 2 * MIB;
const blockOf = (k: number) => toBlockId(BASE / BLOCK + k);
const pfnOf = (block: number, sb = 0): Pfn => toPfn((BASE + block * BLOCK + sb * SB) / PAGE_SIZE);

type Lab = { m: Machine; device: QemuVirtioMem; vm: VirtioMem; log: string[] };

/** A small machine (512 MiB on each of two nodes) with a device of 2 GiB on node 1. */
function lab(
  spec: Partial<MachineSpec> = {},
  options: Partial<VirtioMemOptions> = {},
  device: QemuVirtioMem = new QemuVirtioMem({ addr: BASE, regionSize: 2048 * MIB, node: toNodeId(1) }),
  port: VirtioMemPort = device,
): Lab {
  const ram = [0, 1].map((n) => ({ start: toPfn(n * 131072), end: toPfn((n + 1) * 131072), node: toNodeId(n) }));
  const m = Machine.boot({ ram, kernel: '6.12', hotplug: { autoOnline: 'online_movable' }, code: 'shared', ...spec });
  const log: string[] = [];
  m.onLog = (line) => log.push(line.text);
  const r = VirtioMem.probe(m, port, { name: 'virtio0', ...options });
  if (!r.ok) throw new Error(r.error.message);
  expect(r.value.settle()).toBe('idle');
  return { m, device, vm: r.value, log };
}

const sound = ({ m, vm }: Pick<Lab, 'm' | 'vm'>): void => {
  expect(vm.check()).toEqual([]);
  expect(m.check()).toEqual([]);
};

/** The host asks, the driver works until it is done. */
const request = ({ vm, device }: Lab, bytes: number): string => {
  const r = device.setRequestedSize(bytes);
  expect(r.ok).toBe(true);
  return vm.settle();
};

const memTotalKiB = (m: Machine): number => m.pools.reduce((n, p) => n + p.managed, 0) * 4;
const movable = (m: Machine, node: number) => {
  const p = m.poolNamed(toNodeId(node), 'Movable');
  return { startPfn: p?.startPfn, spanned: p?.spanned, present: p?.present, managed: p?.managed };
};
const iomem = (m: Machine, from: number): string[] => {
  const out: string[] = [];
  m.hotplug.resources.forEach((r, depth) => {
    const span = `${r.start.toString(16).padStart(8, '0')}-${r.end.toString(16).padStart(8, '0')}`;
    if (r.start >= from) out.push(`${'  '.repeat(depth)}${span} : ${r.name}`);
  });
  return out;
};
const states = (vm: VirtioMem): string[] => Array.from({ length: vm.blocks.next }, (_, row) => vm.stateOf(row));
const plugged = (vm: VirtioMem): number[] => Array.from({ length: vm.blocks.next }, (_, r) => vm.blocks.nrPlugged(r));
const HOW: Record<string, OnlineType> = { online: 'online', online_movable: 'movable', online_kernel: 'kernel' };

/** Wraps a device: `next` may answer a request in its place. */
function faulty(device: QemuVirtioMem) {
  const port = {
    replies: [] as VirtioMemReply[],
    asked: [] as string[],
    onConfigChanged: undefined as (() => void) | undefined,
    config: () => device.config(),
    plug: (addr: number, size: number) => port.answer('PLUG', addr, size, () => device.plug(addr, size)),
    unplug: (addr: number, size: number) => port.answer('UNPLUG', addr, size, () => device.unplug(addr, size)),
    unplugAll: () => port.answer('UNPLUG_ALL', 0, 0, () => device.unplugAll()),
    answer(what: string, addr: number, size: number, real: () => VirtioMemReply): VirtioMemReply {
      const reply = port.replies.shift() ?? real();
      port.asked.push(`${what} ${addr === 0 ? '' : (addr - BASE) / SB}+${size / SB} ${reply}`);
      return reply;
    },
  };
  device.onConfigChanged = () => port.onConfigChanged?.();
  return port;
}

function faultyLab(spec: Partial<MachineSpec> = {}, options: Partial<VirtioMemOptions> = {}) {
  const device = new QemuVirtioMem({ addr: BASE, regionSize: 2048 * MIB, node: toNodeId(1) });
  const port = faulty(device);
  return { ...lab(spec, options, device, port), port };
}

describe('VM1 a recorded host asks a recorded guest', () => {
  it("VM1 6.1: sizes, blocks, zone, MemTotal, /proc/iomem, the log and QEMU's refusals are the recorded ones", () => {
    const rec = golden('lab-6.1');
    const ram = rec.ram.map(([node, start, end]: number[]) => ({ node: node as NodeId, start, end }));
    const device = new QemuVirtioMem(rec.device);
    const m = Machine.boot({
      ram,
      kernel: '6.1',
      nodeCpus: new Map([
        [toNodeId(0), 1],
        [toNodeId(1), 1],
      ]),
      code: 'shared',
    });
    const log: string[] = [];
    m.onLog = (line) => line.text.includes('virtio_mem') && log.push(line.text);
    const probed = VirtioMem.probe(m, device, { name: 'virtio3' });
    if (!probed.ok) throw new Error(probed.error.message);
    const vm = probed.value;
    vm.settle();
    const base = memTotalKiB(m);
    expect(iomem(m, BASE)).toEqual(['100000000-2ffffffff : virtio3']);
    for (const step of rec.steps) {
      if (step.autoOnline !== undefined) m.hotplug.settings.autoOnline = step.autoOnline;
      if (step.write !== undefined) for (let b = step.blocks[0]; b <= step.blocks[1]; b++) m.online(b, HOW[step.write]);
      if (step.request !== undefined) {
        const r = device.setRequestedSize(step.request);
        expect(r.ok ? undefined : r.error.message).toBe(step.refused);
      }
      expect(vm.settle()).toBe('idle');
      expect(device.size).toBe(step.plugged);
      expect(memTotalKiB(m) - base).toBe(step.memTotalKiB - rec.memTotalKiB);
      const [first, last] = step.blocks;
      const added = m.blockIds().filter((b) => b >= 32);
      expect(added).toEqual(Array.from({ length: last - first + 1 }, (_, k) => first + k));
      for (const b of added) {
        expect(m.block(b)?.state).toBe(step.state);
        expect(m.block(b)?.node).toBe(1);
        expect(m.validZones(b)).toEqual(step.validZones);
      }
      if (step.movable !== undefined) expect(movable(m, 1)).toEqual(step.movable);
      if (step.iomem !== undefined) expect(iomem(m, BASE)).toEqual(step.iomem);
      sound({ m, vm });
    }
    expect(log).toEqual(rec.log);
  });

  it('VM1 6.12: 300 MiB of 2 GiB are two blocks and a part of a third; back to 0 nothing is left', () => {
    const rec = golden('guest-6.12');
    const device = new QemuVirtioMem(rec.device);
    const ram = rec.ram.map(([node, start, end]: number[]) => ({ node: node as NodeId, start, end }));
    const l = lab({ ram }, {}, device);
    const sizes: number[] = [];
    device.onSizeChange = (n) => sizes.push(n);
    const before = memTotalKiB(l.m);
    expect(request(l, rec.request)).toBe('idle');
    expect(sizes[0]).toBe(rec.firstSize);
    expect(sizes.at(-1)).toBe(rec.request);
    expect(memTotalKiB(l.m) - before).toBe(rec.memTotalGrowsKiB);
    expect(states(l.vm)).toEqual(rec.states);
    expect(movable(l.m, 0)).toEqual(rec.movable);
    const types: Record<string, number> = {};
    const pool = l.m.poolNamed(toNodeId(0), 'Movable');
    for (let b = 0; b < 3; b++) {
      for (let sb = 0; sb < 64; sb++) {
        const type = MIGRATE_NAMES[pool?.alloc.area.typeOf(l.m.sections.indexOf(pfnOf(b, sb)) - pool.base) ?? 5];
        types[type] = (types[type] ?? 0) + 1;
      }
    }
    expect(types).toEqual(rec.pageblocks);
    sound(l);
    expect(request(l, 0)).toBe('idle');
    expect(device.size).toBe(0);
    expect(l.m.blockIds().filter((b) => b >= 32)).toEqual([]);
    expect(movable(l.m, 0)).toEqual(rec.shrunkTo0);
    expect(memTotalKiB(l.m)).toBe(before);
    sound(l);
  });
});

describe('VM2 modes and sizes', () => {
  const at = (blockSize: number) =>
    new QemuVirtioMem({ addr: BASE, regionSize: 2048 * MIB, node: toNodeId(1), blockSize });

  it('VM2 sub-blocks are at least a pageblock; from a memory block on, and if forced, blocks are big', () => {
    const size = (blockSize: number, options: Partial<VirtioMemOptions> = {}) => {
      const { vm } = lab({}, options, at(blockSize));
      return { sbm: vm.inSbm, sb: vm.sbSize / MIB, unit: vm.unitSize / MIB, threshold: vm.offlineThreshold / MIB };
    };
    expect(size(1 * MIB)).toEqual({ sbm: true, sb: 2, unit: 128, threshold: 1024 });
    expect(size(4 * MIB)).toEqual({ sbm: true, sb: 4, unit: 128, threshold: 1024 });
    expect(size(64 * MIB)).toEqual({ sbm: true, sb: 64, unit: 128, threshold: 1024 });
    expect(size(128 * MIB)).toEqual({ sbm: false, sb: 128, unit: 128, threshold: 1024 });
    expect(size(2 * MIB, { forceBbm: true })).toEqual({ sbm: false, sb: 128, unit: 128, threshold: 1024 });
    expect(size(2 * MIB, { forceBbm: true, bbmBlockSize: 1024 * MIB })).toEqual({
      sbm: false,
      sb: 1024,
      unit: 1024,
      threshold: 2048,
    });
  });

  it('VM2 a big block size that is too small or no power of two is ignored with a warning', () => {
    for (const [bytes, text] of [
      [64 * MIB, 'bbm_block_size is too small'],
      [384 * MIB, 'bbm_block_size is not a power of 2'],
    ] as const) {
      const { vm, log } = lab({}, { forceBbm: true, bbmBlockSize: bytes });
      expect(vm.unitSize).toBe(BLOCK);
      expect(log).toContain(`virtio_mem virtio0: ${text}`);
    }
  });

  it('VM2 a region that is not aligned loses its ragged ends; memory beyond the usable region is not touched', () => {
    const device = new QemuVirtioMem({ addr: BASE + 64 * MIB, regionSize: 512 * MIB, node: toNodeId(1) });
    const l = lab({}, {}, device);
    expect(request(l, 512 * MIB)).toBe('idle');
    expect(l.vm.lastRc).toBe('ENOSPC');
    expect(device.size).toBe(3 * BLOCK);
    expect(l.m.blockIds().filter((b) => b >= 32)).toEqual([33, 34, 35]);
    sound(l);
  });
});

describe('VM3 orders', () => {
  it('VM3 plug fills kernel-partial, then movable-partial, then offline-partial blocks, then unused ones, then new ones', () => {
    const l = lab({ hotplug: { autoOnline: 'offline' } });
    request(l, 5 * BLOCK);
    l.m.online(blockOf(1), 'movable');
    l.m.online(blockOf(3), 'kernel');
    l.m.online(blockOf(4), 'movable');
    // From the top: offline ones go first, so that the request says which are left partial.
    request(l, 3 * BLOCK); // blocks 2 and 0 went
    expect(states(l.vm)).toEqual(['unused', 'movable', 'unused', 'kernel', 'movable']);
    request(l, 3 * BLOCK - 2 * SB); // Movable before kernel: block 4
    expect(states(l.vm)).toEqual(['unused', 'movable', 'unused', 'kernel', 'movable-partial']);
    l.m.offline(blockOf(4));
    l.m.online(blockOf(4), 'kernel');
    expect(states(l.vm)[4]).toBe('kernel-partial');
    const asked: string[] = [];
    const { plug } = l.device;
    l.device.plug = (addr, size) => {
      asked.push(`${Math.floor((addr - BASE) / BLOCK)}:${((addr - BASE) % BLOCK) / SB}+${size / SB}`);
      return plug.call(l.device, addr, size);
    };
    request(l, 6 * BLOCK);
    expect(asked).toEqual(['4:62+2', '0:0+64', '2:0+64', '5:0+64']);
    expect(states(l.vm)).toEqual(['offline', 'movable', 'offline', 'kernel', 'kernel', 'offline']);
    sound(l);
  });

  it('VM3 within the same state plug takes blocks and sub-blocks ascending', () => {
    const l = lab();
    request(l, 2 * BLOCK);
    const pins = [0, 1].flatMap((b) => [3, 9].map((sb) => occupy(l, b, sb)));
    request(l, 0); // all but what is pinned
    expect(plugged(l.vm)).toEqual([2, 2]);
    for (const p of pins) l.m.unpin(p);
    request(l, 6 * SB);
    expect(plugged(l.vm)).toEqual([4, 2]);
    expect([0, 1, 2].map((sb) => l.vm.blocks.isPlugged(0, sb))).toEqual([true, true, false]);
    sound(l);
  });

  it('VM3 unplug: offline-partial, offline, movable-partial, kernel-partial, movable, kernel; from the top', () => {
    const l = lab({ hotplug: { autoOnline: 'offline' } });
    request(l, 6 * BLOCK + 10 * SB); // block 6 is partial
    const how: Record<number, OnlineType> = { 0: 'kernel', 1: 'movable', 2: 'kernel', 3: 'movable' };
    for (const [b, zone] of Object.entries(how)) l.m.online(blockOf(Number(b)), zone);
    const asked: string[] = [];
    const { unplug } = l.device;
    l.device.unplug = (addr, size) => {
      asked.push(`${Math.floor((addr - BASE) / BLOCK)}:${((addr - BASE) % BLOCK) / SB}+${size / SB}`);
      return unplug.call(l.device, addr, size);
    };
    request(l, 4 * BLOCK); // offline-partial 6, then offline 5 and 4
    expect(asked).toEqual(['6:0+10', '5:0+64', '4:0+64']);
    request(l, 4 * BLOCK - SB); // movable 3, its last sub-block
    asked.length = 0;
    request(l, 0);
    expect(asked.slice(0, 63)).toEqual(Array.from({ length: 63 }, (_, k) => `3:${62 - k}+1`));
    expect(asked.slice(63)).toEqual(['1:0+64', '2:0+64', '0:0+64']);
    expect(l.device.size).toBe(0);
    sound(l);
  });

  it('VM3 a whole block goes at once when that much is asked for and nothing of it is unplugged yet', () => {
    const l = faultyLab();
    request(l, BLOCK);
    l.port.asked.length = 0;
    request(l, SB);
    expect(l.port.asked[0]).toBe('UNPLUG 63+1 ACK');
    request(l, BLOCK);
    l.port.asked.length = 0;
    request(l, 0);
    expect(l.port.asked).toEqual(['UNPLUG 0+64 ACK']);
    sound(l);
  });
});

/** A pinned page in a sub-block: it can neither be moved nor given up. */
function occupy({ m }: Lab, block: number, sb: number): Pfn {
  const holder = m.addHolder({ class: 'anonymous', name: `guest of ${block}:${sb}`, node: toNodeId(1) });
  const start = pfnOf(block, sb);
  for (let k = 0; k < 500_000; k++) {
    const pfn = m.alloc(holder, toOrder(0));
    if (pfn < 0) throw new Error('no page left to look for one in the sub-block');
    if (pfn >= start && pfn < start + PAGEBLOCK_PAGES) {
      const all: Pfn[] = [];
      m.forEachFrameOf(holder, (head) => all.push(head));
      for (const p of all) if (p !== pfn) m.free(p);
      m.pin(pfn as Pfn);
      return pfn as Pfn;
    }
  }
  throw new Error('not found');
}

describe('VM4 what is in use', () => {
  it('VM4 contents move out of a sub-block that goes; a busy one is skipped; what could be had is gone', () => {
    const l = lab();
    request(l, 2 * BLOCK);
    const files = l.m.addHolder({ class: 'file', name: 'data', node: toNodeId(1) });
    for (let k = 0; k < 20_000; k++) expect(l.m.alloc(files, toOrder(0))).toBeGreaterThanOrEqual(0);
    const pinned = occupy(l, 1, 40);
    const managed = memTotalKiB(l.m);
    expect(request(l, 0)).toBe('idle');
    expect(l.vm.lastRc).toBe('EBUSY');
    expect(l.device.size).toBe(SB);
    expect(states(l.vm)).toEqual(['unused', 'movable-partial']);
    expect(l.vm.blocks.isPlugged(1, 40)).toBe(true);
    expect(l.m.holders.pages[files]).toBe(20_000);
    expect(managed - memTotalKiB(l.m)).toBe((2 * BLOCK - SB) / 1024);
    sound(l);
    l.m.unpin(pinned);
    expect(l.vm.settle()).toBe('idle');
    expect(l.device.size).toBe(SB); // nobody told it: the timer will
    l.vm.tick(RETRY_MIN_MS);
    expect(l.vm.settle()).toBe('idle');
    expect(l.device.size).toBe(0);
    sound(l);
  });

  it('VM4 a slab page keeps its sub-block of a kernel zone, after one try; Movable is tried five times', () => {
    const steps = (autoOnline: 'online_kernel' | 'online_movable'): number => {
      const l = lab({ hotplug: { autoOnline } });
      request(l, SB);
      occupyAny(l, autoOnline === 'online_kernel' ? 'slab' : 'anonymous');
      l.device.setRequestedSize(0);
      let n = 0;
      while (l.vm.step() === 'working') n++;
      expect(l.vm.lastRc).toBe('EBUSY');
      expect(l.device.size).toBe(SB);
      sound(l);
      return n;
    };
    expect(steps('online_movable') - steps('online_kernel')).toBe(4); // one step a try
  });

  it('VM4 between two tries of a sub-block of Movable others may make way', () => {
    const l = lab();
    request(l, SB);
    const pinned = occupyAny(l, 'anonymous');
    l.device.setRequestedSize(0);
    l.vm.step();
    l.vm.step();
    l.m.unpin(pinned);
    expect(l.vm.settle()).toBe('idle');
    expect(l.vm.lastRc).toBe('ok');
    expect(l.device.size).toBe(0);
    sound(l);
  });

  it('VM4 nowhere to move the contents to: ENOMEM ends the run, the timer runs', () => {
    const l = lab({ watermarks: 'none' });
    request(l, BLOCK);
    const all = l.m.addHolder({ class: 'anonymous', name: 'everything', node: toNodeId(1) });
    while (l.m.alloc(all, toOrder(0)) >= 0);
    request(l, 0);
    expect(l.vm.lastRc).toBe('ENOMEM');
    expect(l.vm.timerMs).toBe(RETRY_MIN_MS);
    expect(l.device.size).toBe(BLOCK);
    sound(l);
  });
});

/** A page of a class somewhere in sub-block 0 of block 0, pinned when it could move. */
function occupyAny({ m }: Lab, cls: 'slab' | 'anonymous'): Pfn {
  const holder = m.addHolder({ class: cls, name: cls, node: toNodeId(1) });
  for (;;) {
    const pfn = m.alloc(holder, toOrder(0));
    if (pfn < 0) throw new Error('no page left');
    if (pfn >= pfnOf(0)) {
      if (cls === 'anonymous') m.pin(pfn as Pfn);
      return pfn as Pfn;
    }
  }
}

describe('VM5 time', () => {
  it('VM5 the retry timer is 50 s, doubles to 300 s while it fires in vain, and starts anew after a success', () => {
    const l = faultyLab();
    request(l, SB);
    const waits: number[] = [];
    let now = 0;
    l.port.replies.push(...Array<VirtioMemReply>(6).fill('BUSY'));
    request(l, 0);
    for (let k = 0; k < 5; k++) {
      const due = l.vm.timerMs ?? Number.NaN;
      waits.push(due - now);
      l.vm.tick(due - 1);
      expect(l.vm.activity).toBe('idle');
      now = due;
      l.vm.tick(now);
      expect(l.vm.settle()).toBe('idle');
    }
    expect(waits).toEqual([50_000, 100_000, 200_000, 300_000, 300_000]);
    expect(RETRY_MAX_MS).toBe(300_000);
    l.vm.tick(l.vm.timerMs ?? Number.NaN);
    l.vm.settle();
    expect(l.vm.lastRc).toBe('ok');
    expect(l.vm.timerMs).toBeUndefined();
    now = 2_000_000;
    l.vm.tick(now);
    l.port.replies.push('BUSY');
    request(l, SB);
    expect((l.vm.timerMs ?? 0) - now).toBe(RETRY_MIN_MS);
    sound(l);
  });

  it('VM5 a new request cancels the timer and runs at once', () => {
    const l = faultyLab();
    l.port.replies.push('BUSY');
    request(l, SB);
    expect(l.vm.timerMs).toBe(RETRY_MIN_MS);
    request(l, 2 * SB);
    expect(l.vm.timerMs).toBeUndefined();
    expect(l.device.size).toBe(2 * SB);
    sound(l);
  });
});

describe('VM6 replies', () => {
  const ROWS: readonly { reply: VirtioMemReply; plug: string; unplug: string }[] = [
    { reply: 'ACK', plug: 'ok', unplug: 'ok' },
    { reply: 'BUSY', plug: 'ETXTBSY', unplug: 'ETXTBSY' },
    { reply: 'ERROR', plug: 'EINVAL', unplug: 'EINVAL' },
  ];
  for (const { reply, plug, unplug } of ROWS) {
    it(`VM6 ${reply}: a plug ends with ${plug}, an unplug with ${unplug}, and the frames are free again`, () => {
      for (const how of ['plug', 'unplug'] as const) {
        const l = faultyLab();
        request(l, 4 * SB);
        const before = memTotalKiB(l.m);
        const size = l.device.size;
        if (reply !== 'ACK') l.port.replies.push(reply);
        request(l, how === 'plug' ? 5 * SB : 3 * SB);
        expect(l.vm.lastRc).toBe(how === 'plug' ? plug : unplug);
        const change = how === 'plug' ? SB : -SB;
        expect(l.device.size - size).toBe(reply === 'ACK' ? change : 0);
        expect(memTotalKiB(l.m) - before).toBe(reply === 'ACK' ? change / 1024 : 0);
        expect(l.vm.activity).toBe(reply === 'ERROR' ? 'broken' : 'idle');
        sound(l);
      }
    });
  }

  it('VM6 NACK: the plug is tried again at once with a new config; without one, eight times, then by timer', () => {
    const l = faultyLab();
    l.port.replies.push('NACK', 'NACK');
    request(l, SB);
    expect(l.vm.lastRc).toBe('ok');
    expect(l.port.asked.map((a) => a.split(' ')[2])).toEqual(['NACK', 'NACK', 'ACK']);
    l.port.asked.length = 0;
    l.port.replies.push(...Array<VirtioMemReply>(100).fill('NACK'));
    request(l, 2 * SB);
    expect(l.port.asked).toHaveLength(8);
    expect(l.vm.lastRc).toBe('ETXTBSY');
    expect(l.vm.timerMs).toBe(RETRY_MIN_MS);
    sound(l);
  });

  it('VM6 a NACK to an unplug is no answer: ENOMEM, by timer', () => {
    const l = faultyLab();
    request(l, SB);
    l.port.replies.push('NACK');
    request(l, 0);
    expect(l.vm.lastRc).toBe('ENOMEM');
    expect(l.device.size).toBe(SB);
    sound(l);
  });

  it('VM6 a broken driver does nothing any more; its memory stays', () => {
    const l = faultyLab();
    request(l, 4 * SB);
    l.port.replies.push('ERROR');
    expect(request(l, 0)).toBe('broken');
    expect(l.log.at(-1)).toBe('virtio_mem virtio0: unknown error, marking device broken: EINVAL');
    l.device.setRequestedSize(SB);
    l.vm.tick(10 * RETRY_MAX_MS);
    expect(l.vm.step()).toBe('broken');
    expect(l.device.size).toBe(4 * SB);
    sound(l);
  });

  it('VM6 a request that comes while the driver works aborts what it does: the newest size wins', () => {
    const l = faultyLab();
    l.device.setRequestedSize(2048 * MIB);
    for (let k = 0; k < 4; k++) l.vm.step();
    expect(l.device.size).toBeGreaterThan(2 * SB);
    l.device.setRequestedSize(2 * SB);
    expect(l.vm.settle()).toBe('idle');
    expect(l.device.size).toBe(2 * SB);
    expect(l.port.asked.some((a) => a.endsWith('ERROR'))).toBe(false);
    sound(l);
  });

  it('VM6 a guest that migrates can neither plug nor unplug', () => {
    const l = lab();
    request(l, SB);
    l.device.migrating = true;
    request(l, 2 * SB);
    expect(l.vm.lastRc).toBe('ETXTBSY');
    request(l, 0);
    expect(l.vm.lastRc).toBe('ETXTBSY');
    l.device.migrating = false;
    l.vm.tick(RETRY_MAX_MS);
    l.vm.settle();
    expect(l.device.size).toBe(0);
    sound(l);
  });
});

describe('VM7 throttle', () => {
  it('VM7 at most 1 GiB is added and not online; more comes when half of that may be added', () => {
    const l = lab({ hotplug: { autoOnline: 'offline' } });
    request(l, 2048 * MIB);
    expect(l.device.size).toBe(1024 * MIB);
    expect(l.vm.lastRc).toBe('ENOSPC');
    expect(l.vm.timerMs).toBeUndefined();
    for (let b = 0; b < 3; b++) l.m.online(blockOf(b), 'movable');
    expect(l.vm.settle()).toBe('idle');
    expect(l.device.size).toBe(1024 * MIB);
    l.m.online(blockOf(3), 'movable');
    expect(l.vm.settle()).toBe('idle');
    expect(l.device.size).toBe(1536 * MIB);
    expect(l.vm.offlineSize).toBe(1024 * MIB);
    sound(l);
  });

  it('VM7 memory that comes online within the add does not count', () => {
    const l = lab();
    request(l, 2048 * MIB);
    expect(l.device.size).toBe(2048 * MIB);
    expect(l.vm.offlineSize).toBe(0);
    sound(l);
  });
});

describe('VM8 its blocks in other hands', () => {
  it('VM8 what is not plugged stays out whenever the block comes online, and never keeps it from going offline', () => {
    const l = lab({ hotplug: { autoOnline: 'offline' } });
    request(l, 3 * SB);
    expect(states(l.vm)).toEqual(['offline-partial']);
    for (const [how, state, zone] of [
      ['kernel', 'kernel-partial', 'Normal'],
      ['movable', 'movable-partial', 'Movable'],
    ] as const) {
      const pool = l.m.poolNamed(toNodeId(1), zone);
      expect(l.m.online(blockOf(0), how)).toMatchObject({ ok: true, value: { pages: (3 * SB) / PAGE_SIZE } });
      expect(states(l.vm)).toEqual([state]);
      expect([pool?.present, pool?.managed]).toEqual([PAGES_PER_SECTION, (3 * SB) / PAGE_SIZE]);
      sound(l);
      expect(l.m.offline(blockOf(0))).toMatchObject({ ok: true });
      expect(states(l.vm)).toEqual(['offline-partial']);
      expect(pool?.present).toBe(0);
      sound(l);
    }
  });

  it('VM8 sub-blocks plugged and unplugged while the block is offline show when it comes online', () => {
    const l = lab({ hotplug: { autoOnline: 'offline' } });
    request(l, 4 * SB);
    request(l, 9 * SB);
    request(l, 7 * SB);
    l.m.online(blockOf(0), 'movable');
    expect(movable(l.m, 1).managed).toBe((7 * SB) / PAGE_SIZE);
    sound(l);
  });

  it('VM8 a chunk of 4 MiB with a plugged and an unplugged half comes online as far as it is plugged', () => {
    const l = lab({ hotplug: { autoOnline: 'offline' } });
    request(l, 5 * SB);
    l.m.online(blockOf(0), 'movable');
    expect(l.vm.pages.holds(pfnOf(0, 4))).toBe(false);
    expect(l.vm.pages.holds(pfnOf(0, 5))).toBe(true);
    sound(l);
  });

  it('VM8 frames that never were online and frames that were taken come back as free, managed memory', () => {
    const l = lab();
    request(l, 10 * SB);
    request(l, 6 * SB); // 4 taken
    const out = (h: number) => l.m.holders.pages[h];
    expect(out(l.vm.pages.fakeOffline)).toBe(4 * PAGEBLOCK_PAGES);
    expect(out(l.vm.pages.neverOnlined)).toBe(54 * PAGEBLOCK_PAGES);
    const pool = l.m.poolNamed(toNodeId(1), 'Movable');
    expect(pool?.managed).toBe(6 * PAGEBLOCK_PAGES);
    request(l, BLOCK);
    expect(pool?.managed).toBe(PAGES_PER_SECTION);
    expect([out(l.vm.pages.fakeOffline), out(l.vm.pages.neverOnlined)]).toEqual([0, 0]);
    sound(l);
  });

  it('VM8 a user who offlines a block while a step works on its parts is refused with EBUSY; afterwards he is not', () => {
    const l = lab();
    request(l, 2 * BLOCK);
    occupy(l, 1, 60);
    l.device.setRequestedSize(BLOCK);
    l.vm.step();
    expect(l.m.offline(blockOf(1))).toMatchObject({ error: { reason: 'notifier', errno: 'EBUSY' } });
    expect(l.m.offline(blockOf(0))).toMatchObject({ ok: true });
    l.vm.settle();
    // This run was past the offline blocks already: all of block 1 but the busy part, and EBUSY.
    expect(states(l.vm)).toEqual(['offline', 'movable-partial']);
    expect([l.device.size, l.vm.lastRc]).toEqual([BLOCK + SB, 'EBUSY']);
    l.vm.tick(RETRY_MIN_MS);
    l.vm.settle();
    expect(states(l.vm)).toEqual(['offline-partial', 'movable-partial']);
    expect(l.m.offline(blockOf(1))).toMatchObject({ error: { reason: 'stuck' } });
    sound(l);
  });

  it('VM8 a user who brings an offline block online while its holes are plugged is refused with EBUSY', () => {
    const l = lab();
    request(l, BLOCK);
    const pins = [10, 20].map((sb) => occupy(l, 0, sb));
    request(l, 2 * SB);
    for (const p of pins) l.m.free(p);
    l.m.offline(blockOf(0));
    expect(states(l.vm)).toEqual(['offline-partial']);
    l.device.setRequestedSize(BLOCK); // three holes, one a step
    l.vm.step();
    expect(l.device.size).toBeLessThan(BLOCK);
    expect(l.m.online(blockOf(0), 'movable')).toMatchObject({ error: { reason: 'notifier', errno: 'EBUSY' } });
    l.vm.settle();
    expect(states(l.vm)).toEqual(['offline']);
    expect(l.m.online(blockOf(0), 'movable')).toMatchObject({ ok: true });
    sound(l);
  });

  it('VM8 nothing is done while an offline is under way or somebody has the hotplug lock', () => {
    const l = lab();
    request(l, BLOCK);
    const other = l.m.blockIds()[1];
    const work = l.m.beginOffline(other);
    work.step();
    l.device.setRequestedSize(2 * BLOCK);
    expect(l.vm.step()).toBe('waiting');
    work.cancel();
    const ticket = l.m.hotplug.lock.request();
    expect(l.vm.step()).toBe('waiting');
    l.m.hotplug.lock.release(ticket);
    expect(l.vm.settle()).toBe('idle');
    expect(l.device.size).toBe(2 * BLOCK);
    sound(l);
  });

  it('VM8 online memory is left alone when unplug_online is off, until it goes offline', () => {
    const l = lab({}, { unplugOnline: false });
    request(l, 2 * BLOCK);
    request(l, 0);
    expect(l.device.size).toBe(2 * BLOCK);
    expect(l.vm.lastRc).toBe('ok');
    l.m.offline(blockOf(0));
    expect(l.vm.settle()).toBe('idle');
    expect(l.device.size).toBe(BLOCK);
    sound(l);
  });

  it('VM8 a block that a listener keeps online stays, empty, and goes with the next run', () => {
    const l = lab();
    request(l, BLOCK);
    l.m.notifiers.push({ name: 'somebody', goingOffline: () => 'EBUSY' });
    request(l, 0);
    expect(l.device.size).toBe(0);
    expect(states(l.vm)).toEqual(['movable-partial']);
    expect(movable(l.m, 1)).toMatchObject({ present: PAGES_PER_SECTION, managed: 0 });
    sound(l);
    l.m.notifiers.pop();
    request(l, SB);
    request(l, 0);
    expect(states(l.vm)).toEqual(['unused']);
    sound(l);
  });
});

describe('VM9 the group and /proc/iomem', () => {
  it("VM9 one line under the device's grows, and is split when memory in the middle goes", () => {
    const l = lab();
    request(l, 4 * BLOCK);
    const hexOf = (k: number) => (BASE + k * BLOCK).toString(16);
    const end = (k: number) => (BASE + k * BLOCK - 1).toString(16);
    const top = `${hexOf(0)}-${end(16)} : virtio0`;
    expect(iomem(l.m, BASE)).toEqual([top, `  ${hexOf(0)}-${end(4)} : System RAM (virtio_mem)`]);
    occupy(l, 3, 0);
    request(l, 2 * BLOCK + SB);
    expect(states(l.vm)).toEqual(['movable', 'movable', 'unused', 'movable-partial']);
    expect(iomem(l.m, BASE)).toEqual([
      top,
      `  ${hexOf(0)}-${end(2)} : System RAM (virtio_mem)`,
      `  ${hexOf(3)}-${end(4)} : System RAM (virtio_mem)`,
    ]);
    sound(l);
  });

  it('VM9 its blocks are one dynamic group of units of a block', () => {
    const l = lab({ hotplug: { autoOnline: 'online', onlinePolicy: 'auto-movable' } });
    request(l, 3 * BLOCK);
    const group = l.m.hotplug.groups.get(l.vm.group);
    expect(group).toMatchObject({ kind: 'dynamic', node: 1, pages: PAGES_PER_SECTION });
    expect(group?.presentMovable).toBe(3 * PAGES_PER_SECTION);
    sound(l);
  });

  it('VM9 memory of the machine in the region refuses the driver with EBUSY', () => {
    const device = new QemuVirtioMem({ addr: 0, regionSize: 256 * MIB, node: toNodeId(0) });
    const m = Machine.boot({ ram: [{ start: toPfn(0), end: toPfn(65536), node: toNodeId(0) }], code: 'shared' });
    expect(VirtioMem.probe(m, device, { name: 'virtio0' })).toMatchObject({
      error: { reason: 'busy', errno: 'EBUSY' },
    });
    expect(m.notifiers).toEqual([]);
  });

  it('VM9 another driver with the online callback refuses it with EINVAL and leaves no trace', () => {
    const m = Machine.boot({ ram: [{ start: toPfn(0), end: toPfn(65536), node: toNodeId(0) }], code: 'shared' });
    expect(setOnlinePageCallback(m, () => {}).ok).toBe(true);
    const device = new QemuVirtioMem({ addr: BASE, regionSize: 256 * MIB, node: toNodeId(0) });
    expect(VirtioMem.probe(m, device, { name: 'virtio0' })).toMatchObject({ error: { errno: 'EINVAL' } });
    expect(iomem(m, BASE)).toEqual([]);
  });

  it('VM9 two devices share the callback, each has its region; a DIMM between them comes online whole', () => {
    const l = lab({ hotplug: { autoOnline: 'online_movable' } });
    const second = new QemuVirtioMem({ addr: 2 * BASE, regionSize: 1024 * MIB, node: toNodeId(0) });
    const r = VirtioMem.probe(l.m, second, { name: 'virtio1' });
    if (!r.ok) throw new Error(r.error.message);
    second.setRequestedSize(3 * SB);
    r.value.settle();
    request(l, 5 * SB);
    const dimm = { start: toPfn((1.5 * BASE) / PAGE_SIZE), end: toPfn((1.5 * BASE + BLOCK) / PAGE_SIZE) };
    expect(l.m.addMemory(dimm, toNodeId(1)).ok).toBe(true);
    expect(movable(l.m, 0).managed).toBe(3 * PAGEBLOCK_PAGES);
    expect(movable(l.m, 1).managed).toBe(5 * PAGEBLOCK_PAGES + PAGES_PER_SECTION);
    expect(r.value.check()).toEqual([]);
    sound(l);
  });
});

describe('VM10 what Linux refuses', () => {
  it('VM10 no memory for the struct pages: unplugged again, ENOMEM, the timer runs', () => {
    const l = lab({ watermarks: 'none' });
    const slab = l.m.addHolder({ class: 'slab', name: 'everything', node: toNodeId(1) });
    while (l.m.alloc(slab, toOrder(0)) >= 0);
    request(l, SB);
    expect(l.vm.lastRc).toBe('ENOMEM');
    expect(l.device.size).toBe(0);
    expect(states(l.vm)).toEqual(['unused']);
    expect(l.log.at(-1)).toBe('virtio_mem virtio0: adding memory failed: ENOMEM');
    const some: Pfn[] = [];
    l.m.forEachFrameOf(slab, (head) => some.length < 5000 && some.push(head));
    for (const p of some) l.m.free(p);
    l.vm.tick(RETRY_MIN_MS);
    l.vm.settle();
    expect(l.device.size).toBe(SB);
    sound(l);
  });

  it('VM10 when the device is busy then, too, the block stays plugged and is unplugged first thing in the next run', () => {
    const l = faultyLab({ watermarks: 'none' });
    const slab = l.m.addHolder({ class: 'slab', name: 'everything', node: toNodeId(1) });
    while (l.m.alloc(slab, toOrder(0)) >= 0);
    const real = l.port.answer;
    let busy = true;
    l.port.answer = (what, addr, size, then) => {
      if (what !== 'UNPLUG' || !busy) return real(what, addr, size, then);
      busy = false;
      l.port.asked.push('UNPLUG BUSY');
      return 'BUSY';
    };
    request(l, 2 * SB);
    expect(states(l.vm)).toEqual(['plugged']);
    expect(l.device.size).toBe(2 * SB);
    sound(l);
    l.port.asked.length = 2;
    l.vm.tick(RETRY_MIN_MS);
    l.vm.settle();
    expect(l.port.asked[2]).toBe('UNPLUG 0+2 ACK');
    sound(l);
  });

  it('VM10 a block that is there already is an error that Linux does not know: the driver is broken', () => {
    const l = lab();
    const range = { start: pfnOf(0), end: pfnOf(1) };
    expect(l.m.addMemory(range, toNodeId(1)).ok).toBe(true);
    expect(request(l, SB)).toBe('broken');
    expect(l.vm.lastRc).toBe('EEXIST');
    expect(l.device.size).toBe(0);
    expect(l.m.check()).toEqual([]);
  });
});

describe('VM11 big blocks', () => {
  const big = (unit: number, options: Partial<VirtioMemOptions> = {}) =>
    lab(
      {},
      options,
      new QemuVirtioMem({ addr: BASE, regionSize: 2048 * MIB, node: toNodeId(1), blockSize: unit * MIB }),
    );

  it('VM11 whole big blocks come and go: a request is rounded down', () => {
    const l = big(256);
    request(l, 768 * MIB);
    expect(l.m.blockIds().filter((b) => b >= 32)).toEqual([32, 33, 34, 35, 36, 37]);
    expect(states(l.vm)).toEqual(['added', 'added', 'added']);
    expect(movable(l.m, 1).managed).toBe(6 * PAGES_PER_SECTION);
    sound(l);
    request(l, 256 * MIB);
    expect(states(l.vm)).toEqual(['added', 'unused', 'unused']);
    sound(l);
    request(l, 0);
    expect(l.m.blockIds().filter((b) => b >= 32)).toEqual([]);
    sound(l);
  });

  it('VM11 a busy page puts back what was taken of its big block; the next one goes in its place', () => {
    const l = big(256);
    request(l, 512 * MIB);
    const pinned = occupy(l, 3, 5);
    const managed = memTotalKiB(l.m);
    request(l, 256 * MIB);
    expect(states(l.vm)).toEqual(['unused', 'added']);
    expect(l.vm.pages.pages).toBe(0);
    expect(managed - memTotalKiB(l.m)).toBe(256 * 1024);
    sound(l);
    request(l, 0);
    expect(l.vm.lastRc).toBe('EBUSY');
    sound(l);
    l.m.unpin(pinned);
    l.vm.tick(RETRY_MIN_MS);
    l.vm.settle();
    expect(l.device.size).toBe(0);
    sound(l);
  });

  it("VM11 a listener's veto brings blocks that went offline back to their zones", () => {
    const l = big(256);
    request(l, 256 * MIB);
    l.m.offline(blockOf(0));
    l.m.online(blockOf(0), 'kernel');
    l.m.notifiers.push({ name: 'somebody', goingOffline: (b) => (b === blockOf(1) ? 'EBUSY' : undefined) });
    request(l, 0);
    expect(l.vm.lastRc).toBe('EBUSY');
    expect([0, 1].map((k) => l.m.block(blockOf(k))?.pool?.name)).toEqual(['Normal', 'Movable']);
    expect(l.vm.pages.pages).toBe(0);
    expect(states(l.vm)).toEqual(['added']);
    sound(l);
  });

  it('VM11 offline ones go first, then those in Movable, then any; from the top', () => {
    const l = big(128);
    request(l, 4 * BLOCK);
    for (const b of [0, 3]) {
      l.m.offline(blockOf(b));
      if (b === 3) l.m.online(blockOf(3), 'kernel');
    }
    const order: number[] = [];
    const { unplug } = l.device;
    l.device.unplug = (addr, size) => {
      order.push((addr - BASE) / BLOCK);
      return unplug.call(l.device, addr, size);
    };
    request(l, 0);
    expect(order).toEqual([0, 2, 1, 3]);
    sound(l);
  });

  it('VM11 without safe unplug the contents move when its blocks are offlined', () => {
    const l = big(256, { bbmSafeUnplug: false });
    request(l, 256 * MIB);
    const files = l.m.addHolder({ class: 'file', name: 'data', node: toNodeId(1) });
    for (let k = 0; k < 1000; k++) l.m.alloc(files, toOrder(0));
    request(l, 0);
    expect(l.device.size).toBe(0);
    expect(l.m.holders.pages[files]).toBe(1000);
    sound(l);
  });

  it('VM11 a device that is busy when Linux has let go keeps the big block plugged until the next run', () => {
    const l = big(256);
    request(l, 256 * MIB);
    const { unplug } = l.device;
    l.device.unplug = () => 'BUSY';
    request(l, 0);
    expect(states(l.vm)).toEqual(['plugged']);
    expect(l.vm.lastRc).toBe('ETXTBSY');
    sound(l);
    l.device.unplug = (addr, size) => unplug.call(l.device, addr, size);
    l.vm.tick(RETRY_MIN_MS);
    l.vm.settle();
    expect(states(l.vm)).toEqual(['unused']);
    sound(l);
  });
});

describe('VM12 coming and leaving', () => {
  it('VM12 a device that comes with memory plugged is emptied first; a busy device keeps the driver waiting', () => {
    const device = new QemuVirtioMem({ addr: BASE, regionSize: 1024 * MIB, node: toNodeId(1), requestedSize: 4 * SB });
    expect(device.plug(BASE, 3 * SB)).toBe('ACK');
    device.migrating = true;
    const l = lab({}, {}, device);
    expect(l.vm.lastRc).toBe('ETXTBSY');
    expect(l.log).toContain('virtio_mem virtio0: unplugging all memory is required');
    device.migrating = false;
    l.vm.tick(RETRY_MIN_MS);
    l.vm.settle();
    expect(device.size).toBe(4 * SB);
    expect(plugged(l.vm)).toEqual([4]);
    sound(l);
  });

  it('VM12 a driver without memory leaves no trace; one with memory leaves it, warned, and its region', () => {
    const l = lab();
    request(l, BLOCK);
    request(l, 0);
    l.vm.remove();
    expect(iomem(l.m, BASE)).toEqual([]);
    expect(l.m.notifiers).toEqual([]);
    expect(setOnlinePageCallback(l.m, () => {}).ok).toBe(true);

    const kept = lab();
    request(kept, BLOCK);
    kept.vm.remove();
    expect(kept.log.at(-1)).toBe('virtio_mem virtio0: device still has system memory added');
    expect(iomem(kept.m, BASE)).toHaveLength(2);
    kept.device.setRequestedSize(0);
    expect(kept.vm.step()).toBe('idle');
    expect(kept.m.check()).toEqual([]);
  });

  it('VM12 offline blocks of which a part is plugged leave with it', () => {
    const l = lab({ hotplug: { autoOnline: 'offline' } });
    request(l, BLOCK + SB);
    l.vm.remove();
    expect(l.m.blockIds().filter((b) => b >= 32)).toEqual([32]);
    expect(l.m.check()).toEqual([]);
  });

  it('VM12 a fork keeps what is kept out, offline and online again', () => {
    const l = lab();
    request(l, 3 * SB);
    const fork = l.m.fork();
    expect(fork.offline(blockOf(0)).ok).toBe(true);
    expect(fork.online(blockOf(0), 'movable')).toMatchObject({ value: { pages: 3 * PAGEBLOCK_PAGES } });
    expect(fork.check()).toEqual([]);
    sound(l);
  });
});

describe("VM13 QEMU's device", () => {
  it('VM13 the usable region is 256 MiB more than is asked for, grows only, and is 0 after all was unplugged at 0', () => {
    const d = new QemuVirtioMem({ addr: BASE, regionSize: 1024 * MIB, node: toNodeId(0) });
    const usable = () => d.config().usableRegionSize / MIB;
    expect(usable()).toBe(0);
    d.setRequestedSize(2 * MIB);
    expect(usable()).toBe(258);
    d.setRequestedSize(900 * MIB);
    expect(usable()).toBe(1024);
    d.setRequestedSize(100 * MIB);
    expect(usable()).toBe(1024);
    expect(d.unplugAll()).toBe('ACK');
    expect(usable()).toBe(356);
    d.setRequestedSize(0);
    d.unplugAll();
    expect(usable()).toBe(0);
  });

  it('VM13 requests outside, unaligned, empty, or of blocks in that state already are errors', () => {
    const d = new QemuVirtioMem({ addr: BASE, regionSize: 1024 * MIB, node: toNodeId(0), requestedSize: 512 * MIB });
    expect(d.plug(BASE, 2 * SB)).toBe('ACK');
    expect([d.plug(BASE + SB, SB), d.unplug(BASE + SB, 2 * SB)]).toEqual(['ERROR', 'ERROR']);
    expect([
      d.plug(BASE + 1, SB),
      d.plug(BASE + 2 * SB, SB / 2),
      d.plug(BASE - SB, SB),
      d.plug(BASE + 2 * SB, 0),
    ]).toEqual(['ERROR', 'ERROR', 'ERROR', 'ERROR']);
    expect(d.plug(BASE + 800 * MIB, SB)).toBe('ERROR');
    expect(d.plug(BASE + 2 * SB, 511 * MIB - 1 * MIB)).toBe('NACK');
    expect([d.state(BASE, SB), d.state(BASE + SB, 2 * SB), d.state(BASE + 2 * SB, SB), d.state(0, SB)]).toEqual([
      'plugged',
      'mixed',
      'unplugged',
      undefined,
    ]);
    expect(d.size).toBe(2 * SB);
  });

  it('VM13 the driver is told of a new size, and not of the same one again', () => {
    const d = new QemuVirtioMem({ addr: BASE, regionSize: 1024 * MIB, node: toNodeId(0) });
    let told = 0;
    d.onConfigChanged = () => told++;
    d.setRequestedSize(SB);
    d.setRequestedSize(SB);
    expect(told).toBe(1);
  });
});
