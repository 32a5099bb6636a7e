import { describe, expect, it } from 'vitest';
import type { ErrnoName } from '#base/errno';
import { type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { readMemoryBlocks } from '#kernfs/memory-blocks';
import { readNodes } from '#kernfs/nodes';
import { Machine, type MachineSpec, type PageClass, simpleSpec, toBlockId } from '#mm/index';
import { kernelTree } from './kernel-tree.ts';

const GIB = 2 ** 30;
const MEMORY = '/sys/devices/system/memory';
const state = (id: number): string => `${MEMORY}/memory${id}/state`;
const online = (id: number): string => `${MEMORY}/memory${id}/online`;

/** 2 GiB on one node: blocks 0 (two zones) to 15. */
const small = (rest: Omit<MachineSpec, 'ram'> = {}): Machine => Machine.boot(simpleSpec(2 * GIB, rest));

/** One allocation of 2 MiB that lies in this block. */
function occupy(m: Machine, block: number, cls: PageClass): number {
  const holder = m.addHolder({ class: cls, name: cls });
  const others: Pfn[] = [];
  for (;;) {
    const pfn = m.alloc(holder, toOrder(9));
    expect(pfn).not.toBe(-1);
    if (Math.floor(pfn / m.blockPages) !== block) {
      others.push(toPfn(pfn));
      continue;
    }
    for (const other of others) m.free(other);
    return pfn;
  }
}

describe('reading', () => {
  it('FS1 state, valid_zones and meminfo follow the machine at once', () => {
    const m = small();
    const fs = kernelTree(m);
    expect(fs.readText(state(3))).toBe('online\n');
    expect(fs.readText('/proc/meminfo')).toContain('MemTotal:        2097152 kB\n');
    expect(m.offline(toBlockId(3)).ok).toBe(true);
    expect(fs.readText(state(3))).toBe('offline\n');
    expect(fs.readText(online(3))).toBe('0\n');
    expect(fs.readText(`${MEMORY}/memory3/valid_zones`)).toBe('DMA32 Movable\n');
    expect(fs.readText('/proc/meminfo')).toContain('MemTotal:        1966080 kB\n');
    expect(m.check()).toEqual([]);
  });

  it('FS2 the attributes of a block, their text and their modes', () => {
    const fs = kernelTree(small());
    expect(fs.list(`${MEMORY}/memory1`)).toEqual(
      'node0 online phys_device phys_index power removable state subsystem uevent valid_zones'.split(' '),
    );
    const said = ['online', 'phys_device', 'phys_index', 'removable', 'state', 'uevent', 'valid_zones'].map((name) => {
      const path = `${MEMORY}/memory10/${name}`;
      const node = fs.stat(path);
      return [name, fs.readText(path), node?.kind === 'file' ? `${node.mode.toString(8)} ${node.size}` : node];
    });
    expect(said).toEqual([
      ['online', '1\n', '644 4096'],
      ['phys_device', '0\n', '444 4096'],
      ['phys_index', '0000000a\n', '444 4096'],
      ['removable', '1\n', '444 4096'],
      ['state', 'online\n', '644 4096'],
      ['uevent', '', '644 4096'],
      ['valid_zones', 'DMA32\n', '444 4096'],
    ]);
    expect(fs.readText(`${MEMORY}/memory0/valid_zones`)).toBe('none\n');
    expect(fs.readText(`${MEMORY}/block_size_bytes`)).toBe('8000000\n');
    expect(fs.list(MEMORY).filter((n) => !/^memory\d/.test(n))).toContain('auto_online_blocks');
    expect(fs.stat(`${MEMORY}/probe`)).toBeUndefined();
    expect(fs.stat(`${MEMORY}/memory16`)).toBeUndefined();
  });

  it('FS2 crash_hotplug is there from the kernel on that has it', () => {
    const has = (kernel: '6.1' | '6.12'): boolean =>
      kernelTree(small({ kernel })).list(MEMORY).includes('crash_hotplug');
    expect([has('6.1'), has('6.12')]).toEqual([false, true]);
  });

  it('FS3 a block that spans two nodes has two links, and is under both', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(0x40000 - 0x4000), node: toNodeId(0) },
        { start: toPfn(0x40000 - 0x4000), end: toPfn(0x80000), node: toNodeId(1) },
      ],
    });
    const fs = kernelTree(m);
    const blocks = readMemoryBlocks(fs);
    const nodes = readNodes(fs);
    if (!blocks.ok || !nodes.ok) throw new Error('the tree does not parse');
    const linked = blocks.value.blocks.map((b) => b.nodes.join());
    expect(linked).toEqual([...Array(7).fill('0'), '0,1', ...Array(8).fill('1')]);
    expect(nodes.value.nodes.map((n) => n.blocks.length)).toEqual([8, 9]);
    expect(fs.readText(`${MEMORY}/memory7/valid_zones`)).toBe('none\n');
    expect(fs.stat('/sys/devices/system/node/node1/memory7')).toEqual({ kind: 'link', target: '../../memory/memory7' });
    expect(fs.readText('/sys/devices/system/node/node1/memory7/node0/memory3/phys_index')).toBe('00000003\n');
    expect(fs.readText('/sys/bus/memory/devices/memory3/subsystem/devices/memory4/phys_index')).toBe('00000004\n');
    expect(m.check()).toEqual([]);
  });

  it('FS3 nodes say their CPUs and distances as their kernel does', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(0x40000), node: toNodeId(0) },
        { start: toPfn(0x40000), end: toPfn(0x80000), node: toNodeId(1) },
      ],
      cpuMask: new Map([
        [toNodeId(0), [0, 1, 34]],
        [toNodeId(1), [2, 3]],
      ]),
      distance: [
        [10, 21],
        [21, 10],
      ],
      possibleNodes: [toNodeId(0), toNodeId(1), toNodeId(2)],
    });
    const fs = kernelTree(m);
    const at = (file: string): string | undefined => fs.readText(`/sys/devices/system/node/${file}`);
    expect([at('online'), at('possible'), at('has_cpu'), at('has_memory')]).toEqual([
      '0-1\n',
      '0-2\n',
      '0-1\n',
      '0-1\n',
    ]);
    expect([at('node0/cpulist'), at('node1/cpulist')]).toEqual(['0-1,34\n', '2-3\n']);
    expect([at('node0/cpumap'), at('node1/cpumap')]).toEqual(['4,00000003\n', '0,0000000c\n']);
    expect([at('node0/distance'), at('node1/distance')]).toEqual(['10 21\n', '21 10\n']);
    expect(at('has_normal_memory')).toBe('0-1\n');
    expect(m.check()).toEqual([]);
  });
});

describe('writing', () => {
  it('FS11 words of state; one newline is forgiven, nothing else', () => {
    const m = small();
    const fs = kernelTree(m);
    for (const text of ['foo', 'offline\n\n', ' offline', 'Offline', 'online_foo', 'going-offline', '\n', '1']) {
      expect([text, fs.write(state(3), text)]).toEqual([text, 'EINVAL']);
    }
    expect(fs.write(state(3), 'offline\n')).toBe(8);
    expect(fs.write(state(3), 'online_movable')).toBe(14);
    expect(fs.readText(`${MEMORY}/memory3/valid_zones`)).toBe('Movable\n');
    expect(fs.write(state(3), new TextEncoder().encode('offline'))).toBe(7);
    expect(fs.write(state(3), 'online_kernel\n')).toBe(14);
    expect(fs.readText(`${MEMORY}/memory3/valid_zones`)).toBe('DMA32\n');
    expect(m.check()).toEqual([]);
  });

  it('FS12 what is so already: EINVAL through state, success through online', () => {
    const m = small();
    const fs = kernelTree(m);
    for (const word of ['online', 'online_kernel', 'online_movable']) expect(fs.write(state(3), word)).toBe('EINVAL');
    expect(fs.write(online(3), '1\n')).toBe(2);
    expect(fs.write(online(3), '0\n')).toBe(2);
    expect(fs.readText(state(3))).toBe('offline\n');
    expect(fs.write(state(3), 'offline')).toBe('EINVAL');
    expect(fs.write(online(3), 'off')).toBe(3);
    expect(fs.write(online(3), 'x')).toBe('EINVAL');
    expect(fs.write(online(3), 'on')).toBe(2);
    expect(fs.readText(state(3))).toBe('online\n');
    expect(m.check()).toEqual([]);
  });

  it('FS13 each refusal is its errno and changes nothing', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(0x7ffdd), node: toNodeId(0) },
        { start: toPfn(0x100000), end: toPfn(0x110000), node: toNodeId(0) },
      ],
    });
    const fs = kernelTree(m);
    occupy(m, 1, 'slab');
    let vetoed: ErrnoName | undefined;
    m.notifiers.push({ name: 'driver', goingOffline: () => (vetoed === undefined ? undefined : 'ENOMEM') });
    const before = m.digest();
    expect(fs.write(state(0), 'offline')).toBe('EINVAL'); // two zones
    expect(fs.write(state(15), 'offline')).toBe('EINVAL'); // a hole at its end
    expect(fs.write(state(1), 'offline')).toBe('EBUSY');
    vetoed = 'ENOMEM';
    expect(fs.write(state(32), 'offline')).toBe('ENOMEM');
    vetoed = undefined;
    expect(m.digest()).toBe(before);
    expect(['0', '1', '15', '32'].map((id) => fs.readText(state(Number(id))))).toEqual(Array(4).fill('online\n'));
    expect(m.check()).toEqual([]);
  });

  it('FS13 a poisoned frame keeps its block offline', () => {
    const m = small();
    const fs = kernelTree(m);
    occupy(m, 5, 'poisoned');
    expect(fs.write(state(5), 'offline')).toBe(7);
    expect(fs.write(state(5), 'online')).toBe('EHWPOISON');
    expect(fs.readText(state(5))).toBe('offline\n');
    expect(m.check()).toEqual([]);
  });

  it('FS14 others read going-offline, writers wait and run in the order in which they came', () => {
    const m = small();
    const fs = kernelTree(m);
    const first = fs.beginWrite(state(4), 'offline');
    const second = fs.beginWrite(state(4), 'online_movable');
    const third = fs.beginWrite(state(5), 'offline\n');
    expect(first.step()).toBeUndefined();
    expect(second.step()).toBeUndefined();
    expect(third.step()).toBeUndefined();
    expect(fs.readText(state(4))).toBe('going-offline\n');
    expect(fs.readText(online(4))).toBe('1\n');
    for (let k = 0; k < 20; k++) expect(third.step()).toBeUndefined();
    expect(fs.readText(state(5))).toBe('online\n');
    let done: unknown;
    while (done === undefined) done = first.step();
    expect([done, fs.readText(state(4))]).toEqual([7, 'offline\n']);
    expect(third.step()).toBeUndefined();
    expect(second.step()).toBe(14);
    expect(fs.readText(`${MEMORY}/memory4/valid_zones`)).toBe('Movable\n');
    done = undefined;
    while (done === undefined) done = third.step();
    expect([done, fs.readText(state(5))]).toEqual([8, 'offline\n']);
    expect(m.hotplug.lock.taken).toBe(false);
    expect(m.check()).toEqual([]);
  });

  it('FS14 a block that was removed while its writer waited is ENODEV', () => {
    const m = small();
    const fs = kernelTree(m);
    m.hotplug.settings.autoOnline = 'offline';
    const range = { start: toPfn(0x100000), end: toPfn(0x108000) };
    expect(m.addMemory(range, toNodeId(0)).ok).toBe(true);
    const mine = m.hotplug.lock.request();
    const w = fs.beginWrite(state(32), 'online');
    expect(w.step()).toBeUndefined();
    expect(m.removeMemory(range).ok).toBe(true);
    m.hotplug.lock.release(mine);
    expect(w.step()).toBe('ENODEV');
    expect(fs.write(state(32), 'online')).toBe('ENOENT');
    expect(m.check()).toEqual([]);
  });

  it('FS15 a cancel at every step of an offline: EINTR, online again, the lock free', () => {
    for (let after = 0; ; after++) {
      const m = small();
      occupy(m, 2, 'anonymous');
      const fs = kernelTree(m);
      const w = fs.beginWrite(state(2), 'offline');
      let result: number | ErrnoName | undefined;
      for (let k = 0; k < after && result === undefined; k++) result = w.step();
      w.cancel();
      const end = result ?? w.step();
      expect(w.step()).toBe(end);
      expect(m.hotplug.lock.taken).toBe(false);
      expect(m.check()).toEqual([]);
      if (end === 7) {
        expect(fs.readText(state(2))).toBe('offline\n');
        expect(after).toBeGreaterThan(5); // many stages were cut before this one
        return;
      }
      expect([end, fs.readText(state(2))]).toEqual(['EINTR', 'online\n']);
    }
  });

  it('FS15 a writer that waits may give up', () => {
    const m = small();
    const fs = kernelTree(m);
    const mine = m.hotplug.lock.request();
    const w = fs.beginWrite(state(2), 'offline');
    expect(w.step()).toBeUndefined();
    w.cancel();
    expect(w.step()).toBe('EINTR');
    m.hotplug.lock.release(mine);
    expect([m.hotplug.lock.taken, fs.readText(state(2))]).toEqual([false, 'online\n']);
    expect(m.check()).toEqual([]);
  });

  it('FS16 a pinned page: EINTR at the bound, or under way until the pin goes or a signal comes', () => {
    const m = small({ compat: 'linux' });
    const page = toPfn(occupy(m, 2, 'anonymous'));
    m.pin(page);
    expect(kernelTree(m).write(state(2), 'offline')).toBe('EINTR');
    const strict = small();
    strict.pin(toPfn(occupy(strict, 2, 'anonymous')));
    const bounded = kernelTree(strict, { endless: 'wait' }).beginWrite(state(2), 'offline');
    let result: unknown;
    for (let k = 0; k < 5000 && result === undefined; k++) result = bounded.step();
    expect(result).toBe('EINTR');

    const fs = kernelTree(m, { endless: 'wait' });
    for (const end of ['signal', 'unpinned'] as const) {
      const w = fs.beginWrite(state(2), 'offline');
      for (let k = 0; k < 2000; k++) expect(w.step()).toBeUndefined();
      expect(fs.readText(state(2))).toBe('going-offline\n');
      if (end === 'signal') w.cancel();
      else m.unpin(page);
      let done: unknown;
      for (let k = 0; k < 2000 && done === undefined; k++) done = w.step();
      expect(done).toBe(end === 'signal' ? 'EINTR' : 7);
      expect(m.check()).toEqual([]);
    }
    // Nobody is there to send a signal to a write from begin to end.
    expect(fs.write(state(2), 'online')).toBe(6);
  });

  it('FS17 write gives up where somebody else has the lock', () => {
    const m = small();
    const fs = kernelTree(m);
    const other = fs.beginWrite(state(2), 'offline');
    expect(other.step()).toBeUndefined();
    expect(fs.write(state(3), 'offline')).toBe('EINTR');
    expect(fs.write(`${MEMORY}/auto_online_blocks`, 'offline')).toBe(7); // takes no lock
    let done: unknown;
    while (done === undefined) done = other.step();
    expect(done).toBe(7);
    expect(m.hotplug.lock.taken).toBe(false);
    expect(m.check()).toEqual([]);
  });

  it('FS18 paths and files that take nothing', () => {
    const m = small();
    const fs = kernelTree(m);
    const cases: readonly (readonly [string, string, number | ErrnoName])[] = [
      [`${MEMORY}/memory3/removable`, '0', 'EACCES'],
      [`${MEMORY}/block_size_bytes`, '1', 'EACCES'],
      ['/proc/sys/vm/lowmem_reserve_ratio', '1', 'EACCES'],
      ['/proc/zoneinfo', '1', 'EIO'],
      ['/proc/kpageflags', '1', 'EIO'],
      [MEMORY, '1', 'EISDIR'],
      [`${state(3)}/x`, '1', 'ENOTDIR'],
      [`${MEMORY}/memory99/state`, 'online', 'ENOENT'],
      [state(3), '', 0],
      [state(3), 'offline\0 and more', 17],
      [state(3), `online\0${'x'.repeat(5000)}`, 4096],
      [`${MEMORY}/memory3/uevent`, 'change\n', 7],
      [`${MEMORY}/memory3/uevent`, 'explode', 'EINVAL'],
    ];
    for (const [path, text, want] of cases) expect([path, fs.write(path, text)]).toEqual([path, want]);
    expect(fs.read(MEMORY)).toBe('EISDIR');
    expect(fs.read(`${MEMORY}/memory99/state`)).toBe('ENOENT');
    expect(fs.read(`${MEMORY}/power/autosuspend_delay_ms`)).toBe('EIO');
    expect(new TextDecoder().decode(fs.read(state(3), 2, 3) as Uint8Array)).toBe('lin');
    expect(fs.read(state(3), 100)).toEqual(new Uint8Array(0));
    expect(m.check()).toEqual([]);
  });

  it('FS19 settings of hotplug: words, numbers, and from when they count', () => {
    const m = small();
    const fs = kernelTree(m);
    const params = '/sys/module/memory_hotplug/parameters';
    const cases: readonly (readonly [string, string, number | ErrnoName, string])[] = [
      [`${MEMORY}/auto_online_blocks`, 'online_movable\n', 15, 'online_movable\n'],
      [`${MEMORY}/auto_online_blocks`, 'yes', 'EINVAL', 'online_movable\n'],
      [`${params}/online_policy`, 'auto-movable\n', 13, 'auto-movable\n'],
      [`${params}/online_policy`, 'auto', 'EINVAL', 'auto-movable\n'],
      [`${params}/auto_movable_ratio`, '0x10', 4, '16\n'],
      [`${params}/auto_movable_ratio`, '010', 3, '8\n'],
      [`${params}/auto_movable_ratio`, '4294967296', 'EINVAL', '8\n'],
      [`${params}/auto_movable_ratio`, '-1', 'EINVAL', '8\n'],
      [`${params}/auto_movable_numa_aware`, 'n\n', 2, 'N\n'],
      [`${params}/auto_movable_numa_aware`, 'maybe', 'EINVAL', 'N\n'],
      [`${params}/memmap_on_memory`, 'Y', 'EACCES', 'N\n'],
    ];
    for (const [path, text, want, after] of cases) {
      expect([path, text, fs.write(path, text), fs.readText(path)]).toEqual([path, text, want, after]);
    }
    expect(m.addMemory({ start: toPfn(0x100000), end: toPfn(0x108000) }, toNodeId(0)).ok).toBe(true);
    expect(fs.readText(`${MEMORY}/memory32/valid_zones`)).toBe('Movable\n');
    expect(m.check()).toEqual([]);
  });

  it('FS20 sysctls', () => {
    const m = small({ kernel: '6.18' });
    const fs = kernelTree(m);
    const vm = (name: string): string => `/proc/sys/vm/${name}`;
    const mode = (name: string): number => {
      const node = fs.stat(vm(name));
      return node?.kind === 'file' ? node.mode : 0;
    };
    expect(fs.write(vm('min_free_kbytes'), '65536\n')).toBe(6);
    expect(fs.readText(vm('min_free_kbytes'))).toBe('65536\n');
    const zoneinfo = fs.readText('/proc/zoneinfo') ?? '';
    const mins = [...zoneinfo.matchAll(/^ {8}min +(\d+)$/gm)].map((x) => Number(x[1]));
    expect(mins.slice(0, 2).reduce((a, b) => a + b)).toBeGreaterThan(16382); // shares of 16384 pages, rounded down
    expect(fs.write(vm('watermark_scale_factor'), '3001')).toBe('EINVAL');
    expect(fs.write(vm('percpu_pagelist_high_fraction'), '7')).toBe('EINVAL');
    expect(fs.write(vm('defrag_mode'), '1')).toBe(1);
    expect(fs.write(vm('min_free_kbytes'), 'many')).toBe('EINVAL');
    expect(fs.readText(vm('lowmem_reserve_ratio'))).toBe('256\t256\t32\t0\t0\n');
    expect([mode('min_free_kbytes'), mode('lowmem_reserve_ratio')]).toEqual([0o644, 0o444]);
    expect(fs.readText(`${MEMORY}/auto_online_blocks`)).toBe('offline\n');
    expect(fs.write(vm('hotadd_memory_treat_as_movable'), '1\n')).toBe(2);
    expect(fs.readText(`${MEMORY}/auto_online_blocks`)).toBe('online_movable\n');
    expect(fs.write(vm('hotadd_memory_treat_as_movable'), '0')).toBe(1);
    expect(fs.readText(`${MEMORY}/auto_online_blocks`)).toBe('offline\n');
    expect(fs.write(vm('hotadd_memory_treat_as_movable'), '2')).toBe('EINVAL');
    expect(kernelTree(small({ kernel: '6.12' })).stat(vm('defrag_mode'))).toBeUndefined();
    expect(m.check()).toEqual([]);
  });

  it('FS21 pages of failing memory', () => {
    const m = small();
    const log: string[] = [];
    m.onLog = ({ text }) => log.push(text);
    const fs = kernelTree(m);
    const at = (pfn: number): string => `0x${(pfn * 4096).toString(16)}\n`;
    expect(fs.stat(`${MEMORY}/soft_offline_page`)).toEqual({ kind: 'file', mode: 0o200, size: 4096 });
    expect(fs.read(`${MEMORY}/soft_offline_page`)).toBe('EACCES');
    expect(fs.write(`${MEMORY}/soft_offline_page`, 'junk')).toBe('EINVAL');
    expect(fs.write(`${MEMORY}/soft_offline_page`, at(0x900000))).toBe('ENXIO');
    expect(fs.write(`${MEMORY}/soft_offline_page`, at(5 * 32768))).toBe(at(5 * 32768).length);
    expect(fs.write(`${MEMORY}/hard_offline_page`, at(6 * 32768))).toBe(at(6 * 32768).length);
    expect(log).toContain('Memory failure: 0x30000: recovery action for free buddy page: Recovered');
    expect(fs.write(`${MEMORY}/hard_offline_page`, at(6 * 32768))).toBe('EHWPOISON');
    expect(fs.readText('/proc/meminfo')).toContain('HardwareCorrupted:     8 kB\n');
    expect(fs.readText('/sys/devices/system/node/node0/memory_failure/recovered')).toBe('1\n');
    expect(fs.write('/proc/sys/vm/enable_soft_offline', '0')).toBe(1);
    expect(fs.write(`${MEMORY}/soft_offline_page`, at(7 * 32768))).toBe('EOPNOTSUPP');
    expect(m.check()).toEqual([]);
  });

  it('FS22 pools of huge pages', () => {
    const m = small();
    const fs = kernelTree(m);
    const all = '/sys/kernel/mm/hugepages';
    const node = '/sys/devices/system/node/node0/hugepages/hugepages-2048kB';
    expect(fs.list(all)).toEqual(['hugepages-1048576kB', 'hugepages-2048kB']);
    expect(fs.write('/proc/sys/vm/nr_hugepages', '10\n')).toBe(3);
    expect(fs.readText(`${all}/hugepages-2048kB/nr_hugepages`)).toBe('10\n');
    expect(fs.readText(`${node}/free_hugepages`)).toBe('10\n');
    expect(fs.readText('/proc/meminfo')).toMatch(/HugePages_Total: +10\nHugePages_Free: +10\n/);
    expect(fs.readText('/proc/meminfo')).toContain('Hugetlb:           20480 kB\n');
    expect(fs.write(`${node}/nr_hugepages`, '4')).toBe(1);
    expect(fs.readText('/proc/sys/vm/nr_hugepages')).toBe('4\n');
    expect(fs.write('/proc/sys/vm/nr_hugepages', '99999999')).toBe(8);
    expect(Number(fs.readText('/proc/sys/vm/nr_hugepages'))).toBeGreaterThan(900);
    expect(fs.write('/proc/sys/vm/nr_hugepages', '0')).toBe(1);
    expect(fs.write('/proc/sys/vm/nr_hugepages', 'x')).toBe('EINVAL');
    expect(fs.write(`${all}/hugepages-1048576kB/nr_overcommit_hugepages`, '1')).toBe('EINVAL');
    expect(fs.write(`${all}/hugepages-2048kB/nr_overcommit_hugepages`, '7')).toBe(1);
    expect(fs.readText(`${all}/hugepages-2048kB/nr_overcommit_hugepages`)).toBe('7\n');
    expect(m.check()).toEqual([]);
  });
});
