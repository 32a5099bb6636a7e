import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import type { Srat, SratEntry } from '#kernfs/srat';
import { Machine, type RamRange, toNodeId } from '#mm/index';
import { type MachineFile, parseMachineFile } from './machine-file.ts';
import { sratToSpec } from './srat-ram.ts';

const G = 2 ** 18;
const GIB = 2 ** 30;

const read = (text: string, options = {}): MachineFile => {
  const r = parseMachineFile(text, options);
  if (!r.ok) throw new Error(r.error.sentence);
  return r.value;
};
const refusal = (text: string, options = {}): string => {
  const r = parseMachineFile(text, options);
  return r.ok ? 'read' : r.error.sentence;
};
const shown = (ram: readonly RamRange[]) =>
  ram.map((r) => [r.node, r.start, r.end, ...(r.hotpluggable ? ['hot'] : []), ...(r.mirrored ? ['mirror'] : [])]);

const WHOLE = `
name: everything
kernel: "6.1"
compat: linux
cmdline: kernelcore=1G
hypervisor: false
block-size: 256M
placement: lifo
nodes:
  - { id: 3, cpus: "4,6-7", distance: [20, 10], ram: [{ start: 5G, size: 1G, hotpluggable: true }] }
  - id: 0
    cpus: 0
    distance: [10, 20]
    ram:
      - { start: 0x100800, end: 0x40000800, mirrored: true }   # parts of frames are lost
      - { start: 0, size: 0x9fc00 }
possible-nodes: 8-9
reserved:
  - { start: 0x1000800, size: 0x1000, name: kernel }
  - { start: 0x8000, end: 0x9000 }
dimms:
  - { size: 10G, node: 9, online: movable, start: 0x200000000 }
  - { size: 128M }
`;

describe('machine file', () => {
  it('YF1 every field of it arrives in the spec', () => {
    const { name, spec, dimms, notes } = read(WHOLE);
    expect(name).toBe('everything');
    expect(notes).toEqual([]);
    const { ram, reserved, cpuMask, ...rest } = spec;
    expect(shown(ram)).toEqual([
      [0, 0, 159],
      [0, 257, G, 'mirror'],
      [3, 5 * G, 6 * G, 'hot'],
    ]);
    expect(reserved).toEqual([
      { start: 4096, end: 4098, name: 'kernel' }, // every frame that it touches
      { start: 8, end: 9, name: 'reserved' },
    ]);
    expect(cpuMask).toEqual(
      new Map([
        [0, [0]],
        [3, [4, 6, 7]],
      ]),
    );
    expect(rest).toEqual({
      kernel: '6.1',
      compat: 'linux',
      cmdline: 'kernelcore=1G',
      hypervisor: false,
      blockSize: 2 ** 28,
      placement: 'lifo',
      possibleNodes: [0, 3, 8, 9],
      distance: [
        [10, 20],
        [20, 10],
      ],
    });
    expect(dimms).toEqual([
      { size: 10 * GIB, node: 9, online: 'movable', start: 0x200000000 },
      { size: 2 ** 27, node: 0, online: 'auto' },
    ]);
  });

  it('YF2 RAM by size is laid out as q35 does it: the recorded guests’ zones come out', () => {
    expect(shown(read('ram: 2G').spec.ram)).toEqual([
      [0, 1, 159],
      [0, 256, 2 * G],
    ]);
    expect(shown(read('nodes: [{ ram: 3G }, { ram: 3G }]').spec.ram)).toEqual([
      [0, 1, 159],
      [0, 256, 2 * G],
      [0, 4 * G, 5 * G],
      [1, 5 * G, 8 * G],
    ]);
    expect(shown(read('ram: 2815M').spec.ram).at(-1)).toEqual([0, 256, 2815 * 256]);
    expect(shown(read('ram: 2816M').spec.ram).at(-1)).toEqual([0, 4 * G, 4 * G + 768 * 256]);
    expect(shown(read('nodes: [{ ram: 2G }, { ram: 2G }]').spec.ram).at(-1)).toEqual([1, 4 * G, 6 * G]);
  });

  it('YF2 nodes without RAM: those with CPUs are online, the others possible', () => {
    const { spec } = read(
      'nodes: [{ ram: 1G, distance: [10, 11, 12] }, { distance: [11, 10, 13] }, { cpus: 0-1, distance: [12, 13, 10] }]',
    );
    expect(spec.distance).toEqual([
      [10, 12],
      [12, 10],
    ]);
    const m = Machine.boot(spec);
    expect(m.nodes).toEqual([0, 2]);
    expect(m.isPossible(toNodeId(1))).toBe(true);
    expect(m.isPossible(toNodeId(5))).toBe(false);
    expect(m.check()).toEqual([]);
  });

  it.each(['two-nodes', 'hot-pluggable-node'])('YF1 the example %s boots', (name) => {
    const text = readFileSync(new URL(`../../docs/guide/machines/${name}.yaml`, import.meta.url), 'utf8');
    const m = Machine.boot(read(text).spec);
    expect(m.zones.some((p) => p.name === 'Movable' && p.present > 0)).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it.each([
    ['', /^line 1: the file is empty$/],
    ['# nothing', /^line 1: the file is empty$/],
    ['- a', /^line 1: fields are wanted here/],
    ['ram: 4G\nram: 5G', /^line 2: not YAML: Map keys must be unique$/],
    ['ram: [', /^line \d: not YAML: /],
    ['ram: 4G\n---\nram: 4G', /^line \d: not YAML: /],
    ['name: x', /^line 1: a machine needs RAM/],
    ['ram: 4G\nnodez: 3', /^line 2, nodez: there is no such field; there are name, kernel, .*nodes/],
    ['ram: 4096', /^line 1, ram: "4096" is no size: write one with its unit/],
    ['ram: -4G', /^line 1, ram: "-4G" is no size/],
    ['ram: 0', /^line 1, ram: a size is more than nothing/],
    ['ram: 5P', /^line 1, ram: a size is more than nothing, and at most 4P/],
    ['ram:\n  - { start: 1048576, size: 1G }', /^line 2, ram\[0\]\.start: "1048576" is no address: write 0x100000000/],
    ['ram:\n  - { size: 1G }', /^line 2, ram\[0\]: start is missing$/],
    ['ram:\n  - { start: 0 }', /^line 2, ram\[0\]: end or size is missing$/],
    ['ram:\n  - { start: 0, end: 1G, size: 1G }', /^line 2, ram\[0\]\.size: give end or size, not both$/],
    [
      'ram:\n  - { start: 2G, end: 1G }',
      /^line 2, ram\[0\]\.end: the end, 0x40000000, is not behind the start, 0x80000000$/,
    ],
    ['ram:\n  - { start: 0x800, size: 0x1000 }', /^line 2, ram\[0\]: the range holds no whole frame/],
    ['ram:\n  - { start: 4P, size: 4K }', /^line 2, ram\[0\]: an address has at most 52 bits/],
    [
      'ram:\n  - { start: 0, size: 2G }\n\n  - { start: 1G, size: 2G }',
      /^line 4, ram\[1\]: overlaps the range of line 2, at 0x40000000$/,
    ],
    ['ram: []', /^line 1, ram: a machine needs RAM$/],
    ['ram: { start: 0 }', /^line 1, ram: fields is no size/],
    ['ram: 1G\nnodes: []', /^line 1, ram: nodes are given/],
    ['nodes: []', /^line 1, nodes: a machine has at least one node$/],
    ['nodes: 3', /^line 1, nodes: a list is wanted here, not "3"$/],
    ['nodes:\n  - { cpus: 0 }', /^line 2, nodes\[0\]: no node has RAM$/],
    ['nodes:\n  - { ram: 1G }\n  - { id: 0, ram: 1G }', /^line 3, nodes\[1\]\.id: there is a node 0 already$/],
    ['nodes:\n  - { id: 1024, ram: 1G }', /^line 2, nodes\[0\]\.id: a whole number from 0 to 1023/],
    ['nodes:\n  - { ram: 1G, cpus: 0-3 }\n  - { cpus: 3 }', /^line 3, nodes\[1\]\.cpus: CPU 3 is on node 0 already$/],
    ['nodes:\n  - { ram: 1G, cpus: 3-0 }', /^line 2, nodes\[0\]\.cpus: .*; write them as 0-3,8$/],
    ['nodes:\n  - { ram: 1G, cpus: 9999 }', /^line 2, nodes\[0\]\.cpus: 9999 is too many/],
    [
      'nodes:\n  - { ram: 1G }\n  - { ram: [{ start: 4G, size: 1G }] }',
      /^line 2, nodes\[0\]\.ram: node 1 gives ranges/,
    ],
    ['nodes:\n  - { ram: 640K }\n  - { ram: 100K }', /^line 3, nodes\[1\]\.ram: 100K are too little/],
    [
      'nodes:\n  - { ram: 1G, distance: [10] }\n  - { ram: 1G }',
      /^line 2, nodes\[0\]: distance has 1 numbers for 2 nodes$/,
    ],
    [
      'nodes:\n  - { ram: 1G, distance: [10, 20] }\n  - { ram: 1G }',
      /^line 3, nodes\[1\]: the other nodes have a distance/,
    ],
    ['nodes:\n  - { ram: 1G, distance: [11] }', /^line 2, nodes\[0\]: the distance of a node to itself is 10$/],
    ['nodes:\n  - { ram: 1G, distance: [9] }', /^line 2, nodes\[0\]\.distance\[0\]: a whole number from 10 to 255/],
    ['ram: 4G\nkernel: 5.15', /^line 2, kernel: "5\.15" is none of 6\.1, 6\.12, 6\.18$/],
    ['ram: 4G\nhypervisor: maybe', /^line 2, hypervisor: true or false is wanted here, not "maybe"$/],
    ['ram: 4G\ncmdline: [a]', /^line 2, cmdline: text is wanted here, not a list$/],
    ['ram: 4G\ncmdline: mem=1K', /^line 2, cmdline: mem= leaves no RAM at all$/],
    ['ram: 4G\nblock-size: 3G', /^line 2, block-size: a memory block is a power of two from 128M to 64G$/],
    ['ram: 4G\nplacement: random', /^line 2, placement: "random" is none of address, fullest, lifo$/],
    ['ram: 4G\ncpus: 0', /^line 2, cpus: a whole number from 1 to 8192/],
    ['ram: 4G\nreserved:\n  - { start: 0x90000, size: 1M }', /^line 3, reserved\[0\]: the range is not RAM throughout/],
    [
      'ram: 4G\nreserved:\n  - { start: 16M, size: 1M }\n  - { start: 0x10fffff, size: 1M }',
      /^line 4, reserved\[1\]: overlaps the range of line 3$/,
    ],
    ['ram: 4G\ndimms:\n  - { node: 0 }', /^line 3, dimms\[0\]: size is missing$/],
    [
      'ram: 4G\ndimms:\n  - { size: 1G, node: 1 }',
      /^line 3, dimms\[0\]\.node: there is no node 1; name it under nodes/,
    ],
    ['ram: 4G\ndimms:\n  - { size: 1G, online: yes }', /^line 3, dimms\[0\]\.online: "yes" is none of auto, offline/],
  ])('YF3 %j is refused, with line and field', (text, sentence) => {
    expect(refusal(text)).toMatch(sentence);
  });

  it('YF3 a damaged file is refused in one sentence, or it boots', () => {
    let booted = 0;
    for (let seed = 1; seed <= 400; seed++) {
      const prng = new Prng(seed);
      let text = WHOLE;
      for (let n = 1 + prng.below(2); n > 0; n--) {
        const at = prng.below(text.length);
        const junk = prng.pick(['', ' ', '-', ':', '0x', '9', '\n', '{', '"', '#', 'G', '*a', '&a ', '\t', '~', '[]']);
        text = text.slice(0, at) + junk + text.slice(at + prng.below(2));
      }
      const r = parseMachineFile(text);
      if (!r.ok) {
        expect(r.error.sentence, `seed=${seed}`).toMatch(/^line \d+[,:] .+$/);
        continue;
      }
      booted++;
      const m = Machine.boot({ ...r.value.spec, contents: 'none' });
      expect(m.check(1), `seed=${seed}`).toEqual([]);
    }
    expect(booted).toBeGreaterThan(20);
    expect(booted).toBeLessThan(340);
  });
});

const memory = (proximity: number, start: number, end: number, hotpluggable = false, enabled = true): SratEntry => ({
  kind: 'memory',
  proximity,
  base: start,
  length: end - start,
  enabled,
  hotpluggable,
  nonVolatile: false,
});
const cpu = (proximity: number, apicId: number, enabled = true): SratEntry => ({
  kind: 'cpu',
  id: 'x2apic',
  proximity,
  apicId,
  enabled,
  sapicEid: 0,
  clockDomain: 0,
});
const table = (entries: readonly SratEntry[], revision = 3): Srat => ({
  revision,
  oemId: 'TEST',
  oemTableId: 'TEST',
  oemRevision: 1,
  creatorId: 'TEST',
  creatorRevision: 1,
  entries,
});

describe('RAM by SRAT', () => {
  it('SR4 the recorded guest of two nodes: nodes, hot-plug area, CPUs', () => {
    const srat = table(
      [
        cpu(0, 0),
        cpu(1, 1),
        memory(0, 0, 0xa0000),
        memory(0, 0x100000, GIB),
        memory(1, GIB, 2 * GIB),
        memory(0, 0, 0, false, false),
        memory(1, 4 * GIB, 50 * GIB, true),
      ],
      1,
    );
    const got = sratToSpec(srat, [
      { start: 0x1000, end: 0x9fc00 },
      { start: 0x100000, end: 0x7ffdd000 },
    ]);
    expect(shown(got.ram)).toEqual([
      [0, 1, 159],
      [0, 256, 262144],
      [1, 262144, 524253],
    ]);
    expect(got.hotplug).toEqual([{ start: 4 * GIB, end: 50 * GIB, node: 1 }]);
    expect(got.cpuMask).toEqual(
      new Map([
        [0, [0]],
        [1, [1]],
      ]),
    );
    expect(got).toMatchObject({ possibleNodes: [0, 1], notes: [] });
  });

  it('SR4 domains become nodes in the order of CPUs, then memory; disabled entries do not count', () => {
    const srat = table([
      memory(7, 0, GIB),
      memory(9, GIB, 2 * GIB, true),
      memory(8, GIB, 2 * GIB, true, false),
      cpu(9, 0),
      cpu(5, 1, false),
    ]);
    const got = sratToSpec(srat, [{ start: 0, end: 2 * GIB }]);
    expect(shown(got.ram)).toEqual([
      [1, 0, G],
      [0, G, 2 * G, 'hot'],
    ]);
    const low = sratToSpec(table([memory(0x100, 0, GIB), memory(0x200, GIB, 2 * GIB)], 1), [
      { start: 0, end: 2 * GIB },
    ]);
    expect(low.possibleNodes).toEqual([0]); // revision 1 knows eight bits of a domain
  });

  it('SR5 holes of the table within one node are that node’s; a little RAM without a node is lost', () => {
    const srat = table([memory(0, 0, GIB), memory(0, GIB + 4096, 2 * GIB), memory(1, 3 * GIB, 4 * GIB)]);
    expect(shown(sratToSpec(srat, [{ start: 0, end: 2 * GIB }]).ram).at(-1)?.[2]).toBe(2 * G);
    const some = sratToSpec(srat, [{ start: 3 * GIB, end: 4 * GIB + 2 ** 20 }]);
    expect(shown(some.ram)).toEqual([[1, 3 * G, 4 * G]]);
    expect(some.notes).toEqual(['1024 KiB of the RAM have no node and are not used']);
  });

  it('SR5 a table that cannot be true is not believed: one node, and a note', () => {
    const ram = [{ start: 0, end: 2 * GIB }];
    for (const [entries, note] of [
      [[memory(0, 0, GIB), cpu(0, 0), cpu(1, 1)], /1024 MiB of the RAM have no node/],
      [[memory(0, 0, 2 * GIB), memory(1, GIB, 3 * GIB)], /memory of node 0 is another node’s as well/],
      [[], /2048 MiB/],
    ] as const) {
      const got = sratToSpec(table(entries), ram);
      expect(shown(got.ram)).toEqual([[0, 0, 2 * G]]);
      expect(got.notes).toEqual([expect.stringMatching(note)]);
      expect(got.possibleNodes).toEqual([0]);
    }
  });

  it('SR6 a machine file takes its nodes from the table, and movable_node its bits', () => {
    const srat = table([cpu(0, 0), cpu(1, 1), memory(0, 0, 4 * GIB), memory(1, 4 * GIB, 8 * GIB, true)]);
    const text = 'cmdline: movable_node\nram:\n  - { start: 1M, end: 3G }\n  - { start: 4G, size: 2G }\n';
    const m = Machine.boot(read(text, { srat }).spec);
    expect(m.poolNamed(toNodeId(1), 'Movable')).toMatchObject({ startPfn: 4 * G, present: 2 * G });
    expect(m.check()).toEqual([]);
    expect(refusal('nodes: [{ ram: 1G }]', { srat })).toMatch(/firmware’s table says which nodes/);
    expect(refusal('ram: 4G', { srat })).toMatch(/needs ranges here/);
    expect(refusal('ram: [{ start: 0, size: 4G, hotpluggable: true }]', { srat })).toMatch(/what is hot-pluggable/);
  });
});
