import { describe, expect, it } from 'vitest';
import { toNodeId, toOrder, toPfn } from '#base/units';
import type { KernelFs } from '#kernfs/kernel-fs';
import { KPF } from '#kernfs/kpageflags';
import { type KernelName, Machine, simpleSpec, toBlockId } from '#mm/index';
import { goldenPaths, goldenText } from '../../test/golden/kernfs/load.ts';
import { printExtfrag } from './extfrag.ts';
import { kernelTree } from './kernel-tree.ts';
import { statThreshold } from './zoneinfo-file.ts';

const GIB = 2 ** 30;
const GOLDEN: readonly (readonly [KernelName, string])[] = [
  ['6.1', 'guest-6.1-mixed-online'],
  ['6.12', 'guest-6.12-memmap-on-memory'],
  ['6.18', 'host-6.18'],
];

describe('layouts', () => {
  for (const [kernel, folder] of GOLDEN) {
    it(`FS4 ${kernel}: a machine without recorded files has the lines of its kernel, in their order`, () => {
      const fs = kernelTree(Machine.boot(simpleSpec(6 * GIB, { kernel, cpus: 2 })));
      const shape = (text: string): string[] =>
        text.split('\n').map((line) => line.replace(/\d+/g, '0').replace(/ +/g, ' '));
      const both = [
        ['/proc/meminfo', 'meminfo'],
        ['/proc/vmstat', 'vmstat'],
        ['/sys/devices/system/node/node0/meminfo', 'node/node0/meminfo'],
        ['/sys/devices/system/node/node0/vmstat', 'node/node0/vmstat'],
      ] as const;
      const recorded = both.filter(([, golden]) =>
        goldenPaths(golden.split('/').at(-1) as string).includes(`${folder}/${golden}`),
      );
      expect(recorded.length).toBeGreaterThanOrEqual(2);
      for (const [path, golden] of recorded) {
        expect([path, shape(fs.readText(path) ?? '')]).toEqual([path, shape(goldenText(`${folder}/${golden}`))]);
      }
      // Zone by zone: the recorded guests have other zones populated.
      const zones = (text: string): Map<string, string[]> =>
        new Map(
          text.split(/^(?=Node \d)/m).map((part) => {
            const [head, ...rest] = part.split('\n');
            const perNode = rest.some((line) => line.includes('per-node'));
            return [
              `${/zone +(\w+)/.exec(head as string)?.[1]} ${rest.length > 20} ${perNode}`,
              shape(rest.join('\n')),
            ];
          }),
        );
      const mine = zones(fs.readText('/proc/zoneinfo') ?? '');
      const theirs = zones(goldenText(`${folder}/zoneinfo`));
      let compared = 0;
      for (const [zone, lines] of theirs) {
        if (!mine.has(zone)) continue;
        compared++;
        expect([zone, mine.get(zone)]).toEqual([zone, lines]);
      }
      expect(compared).toBeGreaterThanOrEqual(4);
    });
  }
});

describe('page words', () => {
  const wordAt = (bytes: Uint8Array, k: number): readonly [number, number] => {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    return [view.getUint32(8 * k, true), view.getUint32(8 * k + 4, true)];
  };
  const read = (fs: KernelFs, file: string, pfn: number, frames: number): Uint8Array => {
    const got = fs.read(`/proc/${file}`, 8 * pfn, 8 * frames);
    if (typeof got === 'string') throw new Error(got);
    return got;
  };

  it('FS8 what frames are, from free to offline', () => {
    const m = Machine.boot(simpleSpec(GIB));
    const fs = kernelTree(m);
    const anon = m.addHolder({ class: 'anonymous', name: 'a' });
    const slab = m.addHolder({ class: 'slab', name: 's' });
    const single = m.alloc(anon, toOrder(0));
    const huge = m.alloc(anon, toOrder(9));
    const compound = m.alloc(slab, toOrder(2));
    expect(m.offline(toBlockId(5)).ok).toBe(true);
    const flags = (pfn: number): readonly [number, number] => wordAt(read(fs, 'kpageflags', pfn, 1), 0);
    const bits = (...names: (keyof typeof KPF)[]): number => names.reduce((w, n) => w | (1 << KPF[n]), 0);
    expect(flags(single)).toEqual([bits('UPTODATE', 'LRU', 'MMAP', 'ANON', 'SWAPBACKED', 'KSM'), 0]);
    expect(flags(huge)[0] & bits('THP', 'COMPOUND_HEAD', 'COMPOUND_TAIL')).toBe(bits('THP', 'COMPOUND_HEAD'));
    expect(flags(huge + 511)[0] & bits('THP', 'COMPOUND_HEAD', 'COMPOUND_TAIL')).toBe(bits('THP', 'COMPOUND_TAIL'));
    expect(flags(compound)).toEqual([bits('SLAB', 'COMPOUND_HEAD'), 0]);
    expect(flags(compound + 3)).toEqual([bits('SLAB', 'COMPOUND_TAIL'), 0]);
    expect([flags(5 * 32768), flags(6 * 32768 - 1)]).toEqual(Array(2).fill([bits('NOPAGE'), 0]));
    const all = read(fs, 'kpageflags', 0, 8 * 32768);
    let free = 0;
    for (let k = 0; k < 8 * 32768; k++) if (wordAt(all, k)[0] === bits('BUDDY')) free++;
    expect(free).toBe(m.zones.reduce((n, p) => n + p.alloc.nrFree(), 0));
    const counts = [single, huge, huge + 511, compound].map((p) => wordAt(read(fs, 'kpagecount', p, 1), 0)[0]);
    expect(counts).toEqual([1, 1, 1, 0]);
    expect(m.check()).toEqual([]);
  });

  it('FS8 any cut of the file says the same; odd offsets and lengths are EINVAL; it ends with a section', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(0x7f00), node: toNodeId(0) },
        { start: toPfn(0x20000), end: toPfn(0x28000), node: toNodeId(0) },
      ],
    });
    const fs = kernelTree(m);
    const holder = m.addHolder({ class: 'file', name: 'f' });
    for (let k = 0; k < 300; k++) m.alloc(holder, toOrder(k % 3));
    const all = fs.read('/proc/kpageflags') as Uint8Array;
    expect(all.length).toBe(8 * 0x28000);
    for (const [pfn, frames] of [
      [0, 7],
      [0x7ef0, 0x200],
      [0x1fff0, 40],
      [0x27ff8, 100],
    ] as const) {
      const part = read(fs, 'kpageflags', pfn, frames);
      expect(part).toEqual(all.slice(8 * pfn, 8 * Math.min(pfn + frames, 0x28000)));
    }
    expect(fs.read('/proc/kpageflags', 4, 8)).toBe('EINVAL');
    expect(fs.read('/proc/kpageflags', 8, 12)).toBe('EINVAL');
    expect(fs.read('/proc/kpageflags', 8 * 0x28000, 8)).toEqual(new Uint8Array(0));
    expect(fs.readText('/proc/kpageflags')).toBeUndefined();
    expect(m.check()).toEqual([]);
  });

  it('FS8 memory that hosts its own memmap shows the word of its kernel', () => {
    for (const [kernel, high] of [
      ['6.1', 0x21],
      ['6.12', 0x20],
    ] as const) {
      const m = Machine.boot(
        simpleSpec(2 * GIB, { kernel, hotplug: { memmapOnMemory: 'Y', autoOnline: 'online_movable' } }),
      );
      const start = toPfn(0x100000);
      expect(m.addMemory({ start, end: toPfn(start + 32768) }, toNodeId(0), { memmap: 'self-block' }).ok).toBe(true);
      const bytes = read(kernelTree(m), 'kpageflags', start, 513);
      expect([wordAt(bytes, 0), wordAt(bytes, 511), wordAt(bytes, 512)]).toEqual([
        [0, high],
        [0, high],
        [1 << KPF.BUDDY, 0],
      ]);
      expect(m.check()).toEqual([]);
    }
  });
});

describe('extfrag', () => {
  it('FS9 the two indexes by hand', () => {
    // 8 single pages and one chunk of 4: 12 free pages in 9 chunks. Order 3: 1000 - (1000 + 12000 / 8) / 9 = 1000 - 277.
    const nrFree = [8, 0, 1, ...Array(8).fill(0)];
    const zone = [{ node: toNodeId(0), zone: 'DMA32', nrFree }];
    expect(printExtfrag(zone, 'unusable_index')).toMatch(/^Node 0, zone {4}DMA32 0\.000 0\.666 0\.666 (1\.000 ){8}\n$/);
    expect(printExtfrag(zone, 'extfrag_index')).toMatch(
      /^Node 0, zone {4}DMA32 -1\.000 -1\.000 -1\.000 {2}0\.723 {2}0\./,
    );
  });

  it('FS9 the tree has both, for populated zones', () => {
    const fs = kernelTree(Machine.boot(simpleSpec(GIB)));
    const dir = '/sys/kernel/debug/extfrag';
    expect(fs.list(dir)).toEqual(['extfrag_index', 'unusable_index']);
    expect(fs.readText(`${dir}/unusable_index`)).toBe(
      ['DMA', 'DMA32'].map((z) => `Node 0, zone ${z.padStart(8)} ${'0.000 '.repeat(11)}\n`).join(''),
    );
  });
});

describe('zoneinfo', () => {
  it('FS10 vm stats threshold, as recorded', () => {
    // Host 6.18, 2 CPUs: DMA, DMA32 and Normal by their managed pages.
    expect([3840, 772915, 1212416].map((managed) => statThreshold(2, managed))).toEqual([4, 24, 28]);
    expect(statThreshold(1024, 2 ** 34)).toBe(125);
  });
});
