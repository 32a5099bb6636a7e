// What a machine is like now, from made-up files. Rules: docs/spec/planner.md.

import { describe, expect, it } from 'vitest';
import { treeFromFiles } from '#kernfs/memory-tree';
import type { KernTree } from '#kernfs/source';
import { blocksWithin, hashLines, type Observation, observe, QMP_FILES, stateLines } from './observation.ts';
import { GIB, MIB } from './worlds.cases.ts';

const DIR = '/sys/devices/system/memory';
const FILES: Readonly<Record<string, string>> = {
  [`${DIR}/block_size_bytes`]: '8000000\n',
  [`${DIR}/auto_online_blocks`]: 'offline\n',
  [`${DIR}/memory8/state`]: 'online\n',
  [`${DIR}/memory8/valid_zones`]: 'DMA32\n',
  [`${DIR}/memory9/state`]: 'online\n',
  [`${DIR}/memory9/valid_zones`]: 'none\n',
  [`${DIR}/memory32/state`]: 'offline\n',
  [`${DIR}/memory32/valid_zones`]: 'Normal Movable\n',
  '/proc/meminfo': 'MemTotal:  262144 kB\nMemFree:  131072 kB\nMemAvailable:  196608 kB\n',
  '/proc/buddyinfo':
    'Node 0, zone    DMA32      4      3      2      1      0      0      0      0      0      1      7 \n',
  '/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages': '5\n',
  '/sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages': '2\n',
};
const QMP: Readonly<Record<string, string>> = {
  [QMP_FILES.devices]: JSON.stringify([
    { type: 'dimm', data: { id: 'd1', addr: 5 * GIB, size: GIB, node: 1, slot: 1, memdev: '/objects/m1' } },
    { type: 'dimm', data: { id: 'd0', addr: 4 * GIB, size: GIB, node: 1, slot: 0, memdev: '/objects/m0' } },
    {
      type: 'virtio-mem',
      data: {
        id: 'vm0',
        memaddr: 8 * GIB,
        node: 0,
        'requested-size': 2 * MIB,
        size: 0,
        'max-size': GIB,
        'block-size': 2 * MIB,
        memdev: '/objects/v0',
      },
    },
    { type: 'nvdimm', data: { id: 'n0' } },
  ]),
  [QMP_FILES.summary]: '{"base-memory": 1073741824, "plugged-memory": 2147483648}',
  [QMP_FILES.machine]: '{"size": 1073741824, "max-size": 17179869184, "slots": 4}',
  // QEMU counts DIMMs among what a balloon leaves; an observation does not.
  [QMP_FILES.balloon]: '{"actual": 2684354560}',
  [QMP_FILES.status]: '{"status": "running", "running": true}',
};

const treeOf = (files: Readonly<Record<string, string>>): KernTree => treeFromFiles(new Map(Object.entries(files)));
function seen(files: Readonly<Record<string, string>>): Observation {
  const o = observe(treeOf(files));
  if (!o.ok) throw new Error(o.error);
  return o.value;
}

describe('an observation', () => {
  it('PN16 says where each block is, how much is free, and which huge pages there are', () => {
    const o = seen(FILES);
    expect(o.blocks.map((b) => [b.id, b.state, b.zone, b.validZones])).toEqual([
      [8, 'online', 'DMA32', ['DMA32']],
      [9, 'online', undefined, []],
      [32, 'offline', undefined, ['Normal', 'Movable']],
    ]);
    expect([o.blockBytes, o.autoOnline, o.memTotal, o.memFree, o.memAvailable]).toEqual([
      128 * MIB,
      'offline',
      256 * MIB,
      128 * MIB,
      192 * MIB,
    ]);
    expect(o.free).toEqual([{ node: 0, zone: 'DMA32', nrFree: [4, 3, 2, 1, 0, 0, 0, 0, 0, 1, 7] }]);
    expect(o.hugePages).toEqual([{ node: 0, bytes: 2 * MIB, total: 5, free: 2 }]);
    expect(o.hypervisor).toBeUndefined();
  });

  it('PN16 reads the hypervisor from its replies, devices by address', () => {
    const h = seen({ ...FILES, ...QMP }).hypervisor;
    expect(h?.dimms.map((d) => [d.id, d.addr, d.memdev])).toEqual([
      ['d0', 4 * GIB, 'm0'],
      ['d1', 5 * GIB, 'm1'],
    ]);
    expect(h?.virtioMem).toEqual([
      {
        id: 'vm0',
        addr: 8 * GIB,
        node: 0,
        requested: 2 * MIB,
        size: 0,
        maxSize: GIB,
        blockSize: 2 * MIB,
        memdev: 'v0',
      },
    ]);
    expect(h).toMatchObject({
      baseBytes: GIB,
      pluggedBytes: 2 * GIB,
      maxBytes: 16 * GIB,
      balloonBytes: GIB / 2,
      status: 'running',
    });
    expect(h?.slots).toEqual({ total: 4, used: [0, 1] });
  });

  it.each([
    ['no blocks', { '/proc/meminfo': FILES['/proc/meminfo'] as string }, /there are no memory blocks/],
    ['no MemFree', { ...FILES, '/proc/meminfo': 'MemTotal: 1 kB\n' }, /MemTotal and MemFree are not both there/],
    ['devices that are no list', { ...FILES, [QMP_FILES.devices]: '{}' }, /not a list of devices/],
    ['half a DIMM', { ...FILES, [QMP_FILES.devices]: '[{"type":"dimm","data":{"id":"x"}}]' }, /DIMM "x" is not whole/],
  ])('PN16 is refused in one sentence: %s', (_, files, why) => {
    const o = observe(treeOf(files));
    expect(o.ok ? '' : o.error).toMatch(why);
  });

  it('PN16 lines change with every block, zone and device, and not with what changes by itself', () => {
    const all = { ...FILES, ...QMP };
    const hash = (files: Readonly<Record<string, string>>): string => hashLines(stateLines(seen(files)));
    const was = hash(all);
    for (const [path, text] of [
      [`${DIR}/memory8/state`, 'offline\n'],
      [`${DIR}/memory8/valid_zones`, 'Movable\n'],
      [`${DIR}/auto_online_blocks`, 'online\n'],
      [QMP_FILES.devices, '[]'],
      [QMP_FILES.balloon, '{"actual": 1}'],
    ] as const)
      expect(hash({ ...all, [path]: text }), path).not.toBe(was);
    const free = FILES['/proc/buddyinfo']?.replace('7 ', '6 ') as string;
    expect(hash({ ...all, '/proc/meminfo': 'MemTotal: 8 kB\nMemFree: 4 kB\n', '/proc/buddyinfo': free })).toBe(was);
    expect(was).toMatch(/^[0-9a-f]{16}$/);
    expect(hashLines(['a', 'b'])).not.toBe(hashLines(['ab']));
    expect(hashLines(['a', 'b'])).not.toBe(hashLines(['b', 'a']));
  });

  it('PN16 a range of bytes is the blocks that it touches', () => {
    expect(blocksWithin({ blockBytes: 128 * MIB }, 4 * GIB, 256 * MIB)).toEqual([32, 33]);
    expect(blocksWithin({ blockBytes: 128 * MIB }, 4 * GIB + MIB, 128 * MIB)).toEqual([32, 33]);
  });
});
