import { describe, expect, it } from 'vitest';
import { toNodeId, toOrder, toPfn } from '#base/units';
import { HUGE_1G, HUGE_2M, hugetlbCounts } from './hugetlb.ts';
import { Machine } from './machine.ts';
import { type MachineSpec, type RamRange, simpleSpec } from './machine-spec.ts';
import { PAGE_CLASSES } from './page-class.ts';

const G = 2 ** 18;
const GIB = 2 ** 30;
const node = toNodeId;
const ram = (start: number, end: number, n = 0, flags: Partial<RamRange> = {}): RamRange => ({
  start: toPfn(start),
  end: toPfn(end),
  node: node(n),
  ...flags,
});
const zones = (m: Machine) =>
  m.pools.filter((p) => p.spanned > 0).map((p) => [p.node, p.name, p.startPfn, p.spanned, p.present]);
const boot = (spec: MachineSpec): Machine => {
  const m = Machine.boot(spec);
  expect(m.check()).toEqual([]);
  return m;
};

describe('boot', () => {
  it('BT9 mem= cuts the RAM, and the memory block size with it; reserved ranges go with their RAM', () => {
    const reserved = [
      { start: toPfn(256), end: toPfn(512), name: 'kernel' },
      { start: toPfn(3 * G - 8), end: toPfn(3 * G + 8), name: 'across' },
      { start: toPfn(70 * G), end: toPfn(70 * G + 8), name: 'above' },
    ];
    const m = boot({ ram: [ram(0, 3 * G), ram(4 * G, 80 * G)], reserved: [reserved[0], reserved[2]] as never });
    expect(m.blockPages).toBe(2 * G);
    const cut = boot({ ram: [ram(0, 3 * G + 16), ram(4 * G, 80 * G)], reserved, cmdline: 'mem=3G' });
    expect(cut.blockPages).toBe(G / 8);
    expect(zones(cut)).toEqual([
      [0, 'DMA', 0, 4096, 4096],
      [0, 'DMA32', 4096, 3 * G - 4096, 3 * G - 4096],
    ]);
    expect(cut.frame(toPfn(3 * G - 1))).toMatchObject({ state: 'used', name: 'across' });
    expect(cut.frame(toPfn(3 * G))).toEqual({ state: 'absent' });
    expect(cut.params.memEndPfn).toBe(3 * G);
  });

  it('BT9 mem= leaves alone what names its zone, or was added later and is offline', () => {
    const spec: MachineSpec = {
      ram: [ram(0, G), ram(4 * G, 5 * G, 0, { zone: 2 }), ram(5 * G, 6 * G, 0, { offline: true })],
      cmdline: 'mem=512M',
    };
    const m = boot(spec);
    expect(m.frame(toPfn(G / 2)).state).toBe('absent');
    expect(m.frame(toPfn(5 * G - 1)).state).toBe('free');
    expect(m.frame(toPfn(6 * G - 1)).state).toBe('offline');
  });

  it('BT10 a node with CPUs and no RAM boots; its requests go to the nearest node that has some', () => {
    const m = boot({
      ram: [ram(0, G, 0), ram(G, 2 * G, 2)],
      cpuMask: new Map([
        [node(0), [0]],
        [node(1), [1, 2]],
        [node(2), []],
      ]),
      distance: [
        [10, 20, 30],
        [30, 10, 20],
        [30, 20, 10],
      ],
    });
    expect(m.nodes).toEqual([0, 1, 2]);
    expect(m.spec.cpus).toBe(3);
    expect([...(m.spec.nodeCpus ?? [])]).toEqual([
      [0, 1],
      [1, 2],
    ]);
    const holder = m.addHolder({ class: 'anonymous', name: 'a', node: node(1) });
    const pfn = m.alloc(holder, toOrder(0));
    expect(pfn).toBeGreaterThanOrEqual(G);
    expect(m.check()).toEqual([]);
  });

  it('BT10 a zone that its node has no RAM for is not there, but for empty Normal and Movable', () => {
    const m = boot({ ram: [ram(0, G, 0), ram(5 * G, 6 * G, 1)] });
    expect(m.pools.map((p) => `${p.node} ${p.name} ${p.present}`)).toEqual([
      '0 DMA 4096',
      `0 DMA32 ${G - 4096}`,
      '0 Normal 0',
      '0 Movable 0',
      `1 Normal ${G}`,
      '1 Movable 0',
    ]);
  });

  it('BT11 a kernel zone spans from its border, RAM there or not, where its node has memory below', () => {
    expect(zones(boot({ ram: [ram(0, G), ram(5 * G, 6 * G)] }))).toEqual([
      [0, 'DMA', 0, 4096, 4096],
      [0, 'DMA32', 4096, 4 * G - 4096, G - 4096],
      [0, 'Normal', 4 * G, 2 * G, G],
    ]);
    // Nothing below: from its first frame.
    expect(zones(boot({ ram: [ram(0, G), ram(5 * G, 6 * G, 1)] }))[2]).toEqual([1, 'Normal', 5 * G, G, G]);
  });

  it('BT12 movable_node: what the firmware calls hot-pluggable, but not on the kernel’s node', () => {
    const hot = { hotpluggable: true };
    const spec: MachineSpec = { ram: [ram(0, G), ram(G, 2 * G, 0, hot), ram(2 * G, 4 * G, 1, hot)] };
    expect(boot(spec).poolNamed(node(1), 'Movable')?.present).toBe(0);
    for (const cmdline of ['movable_node', 'movablecore=acpi']) {
      const m = boot({ ...spec, cmdline });
      expect(m.poolNamed(node(1), 'Movable')).toMatchObject({ startPfn: 2 * G, present: 2 * G });
      expect(m.poolNamed(node(0), 'Movable')?.present).toBe(0);
    }
    const reserved = [{ start: toPfn(3 * G), end: toPfn(3 * G + 1), name: 'kernel' }];
    const held = boot({ ...spec, reserved, cmdline: 'movable_node' });
    expect(held.poolNamed(node(1), 'Movable')?.present).toBe(0);
  });

  it('BT12 kernelcore=mirror: mirrored memory stays Normal above Movable’s start, and the spans overlap', () => {
    const m = boot({
      ram: [
        ram(0, 4 * G),
        ram(4 * G, 5 * G, 0, { mirrored: true }),
        ram(5 * G, 6 * G),
        ram(6 * G, 7 * G, 0, { mirrored: true }),
      ],
      cmdline: 'kernelcore=mirror',
    });
    expect(zones(m).slice(2)).toEqual([
      [0, 'Normal', 4 * G, 3 * G, 2 * G],
      [0, 'Movable', 5 * G, 2 * G, G],
    ]);
  });

  it('BT12 a start of Movable that the spec names wins over the command line', () => {
    const movableStart = new Map([[node(0), toPfn(3 * G)]]);
    const m = boot({ ram: [ram(0, 4 * G)], movableStart, cmdline: 'kernelcore=1G' });
    expect(m.poolNamed(node(0), 'Movable')).toMatchObject({ startPfn: 3 * G, present: G });
  });

  it('BT13 hugepages= of 2 MiB: nodes take turns, one that is full is passed over, the count may not be reached', () => {
    const two = [ram(0, G / 4, 0), ram(G, 2 * G, 1)];
    const counts = (cmdline: string): number[] => {
      const m = boot({ ram: two, cmdline });
      const pool = hugetlbCounts(m, HUGE_2M);
      expect(pool.free).toBe(pool.nr);
      const out = [0, 0];
      for (let h = 0; h < m.holders.length; h++) {
        m.forEachFrameOf(h as never, (pfn, order) => {
          expect(order).toBe(9);
          out[pfn < G ? 0 : 1] = (out[pfn < G ? 0 : 1] as number) + 1;
        });
      }
      expect(pool.nr).toBe(out[0] + out[1]);
      return out;
    };
    expect(counts('hugepages=7')).toEqual([4, 3]);
    expect(counts('hugepages=0:3,1:9')).toEqual([3, 9]);
    const [small, large] = counts('hugepages=300') as [number, number];
    expect(small).toBeLessThan(128);
    expect(small + large).toBe(300);
    const [all, rest] = counts('hugepages=9999') as [number, number];
    expect(all + rest).toBeLessThan(128 + 512);
    expect(all + rest).toBeGreaterThan(600);
  });

  it('BT13 hugepages= of 1 GiB are set aside from the top, whole and aligned, managed, and cannot move', () => {
    const spec: MachineSpec = { ram: [ram(0, 3 * G - 100), ram(4 * G, 8 * G), ram(8 * G, 9 * G + 1, 1)] };
    const starts = (m: Machine): number[] => {
      const out: number[] = [];
      for (let h = 0; h < m.holders.length; h++) {
        expect(PAGE_CLASSES).toContain('gigantic');
        m.forEachFrameOf(h as never, (pfn) => void (pfn % G === 0 && out.push(pfn / G)));
      }
      return out.sort((a, b) => a - b);
    };
    const managed = (m: Machine): number => m.pools.reduce((n, p) => n + p.managed, 0);
    const line = 'default_hugepagesz=1G hugepages';
    const m = boot({ ...spec, cmdline: `${line}=3` });
    expect(starts(m)).toEqual([6, 7, 8]); // nodes take turns: 7, 8, 6
    expect(managed(m)).toBe(managed(boot(spec)));
    expect(m.frame(toPfn(7 * G + 5))).toMatchObject({ state: 'used', class: 'gigantic' });
    expect(starts(boot({ ...spec, cmdline: `${line}=99` }))).toEqual([0, 1, 4, 5, 6, 7, 8]);
    expect(starts(boot({ ...spec, cmdline: `${line}=0:1,1:5` }))).toEqual([7, 8]);
    const reserved = [{ start: toPfn(7 * G + 9), end: toPfn(7 * G + 10), name: 'r' }];
    expect(starts(boot({ ...spec, reserved, cmdline: `${line}=1` }))).toEqual([6]);
    expect(hugetlbCounts(m, HUGE_1G)).toMatchObject({ nr: 3, free: 3 });
    expect(hugetlbCounts(m, HUGE_1G, node(1))).toMatchObject({ nr: 1 });
    // In Movable too: it does not exist yet for who allocates then.
    const movable = boot({ ...spec, cmdline: `${line}=1 kernelcore=5G` });
    expect(movable.frame(toPfn((starts(movable)[0] as number) * G))).toMatchObject({ pool: { name: 'Movable' } });
    expect(starts(boot({ ...spec, cmdline: `${line}=1 movable_node` }))).toEqual([0]);
  });

  it('BT13 a twin places every frame itself: the command line takes none', () => {
    const m = Machine.boot({
      ...simpleSpec(2 * GIB),
      populate: 'nothing',
      cmdline: 'hugepages=5 hugepagesz=1G hugepages=1',
    });
    expect(m.holders.length).toBe(0);
  });

  it('BT14 percpu_pagelist_high_fraction sizes the per-CPU lists, unless the spec does', () => {
    const cmdline = 'sysctl.vm.percpu_pagelist_high_fraction=8';
    const fraction = (m: Machine): number => m.vm.percpuPagelistHighFraction;
    expect(fraction(boot(simpleSpec(GIB)))).toBe(0);
    expect(fraction(boot({ ...simpleSpec(GIB), cmdline }))).toBe(8);
    const watermarks = { scaleFactor: 10, thp: false, highFraction: 16 };
    expect(fraction(boot({ ...simpleSpec(GIB), cmdline, watermarks }))).toBe(16);
    expect(fraction(boot({ ...simpleSpec(GIB), cmdline, watermarks: 'none' }))).toBe(0);
  });

  it('BT14 what the machine was told is its params, and its hotplug settings follow; the spec’s own settings win', () => {
    const cmdline = 'memhp_default_state=offline memory_hotplug.online_policy=auto-movable movable_node foo=1';
    const m = boot({ ...simpleSpec(GIB), cmdline });
    expect(m.hotplug.settings).toMatchObject({
      autoOnline: 'offline',
      onlinePolicy: 'auto-movable',
      movableNode: true,
    });
    expect(m.params.remarks).toEqual([{ kind: 'unknown', word: 'foo=1', why: expect.any(String) }]);
    expect(boot({ ...simpleSpec(GIB), cmdline, hotplug: { autoOnline: 'online' } }).hotplug.settings.autoOnline).toBe(
      'online',
    );
    expect(m.fork().params).toEqual(m.params);
  });
});
