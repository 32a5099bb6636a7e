import { describe, expect, it } from 'vitest';
import { toNodeId, toPfn } from '#base/units';
import { bootParamsOf, defaultBootParams, hotplugSettingsOf, parseCommandLine } from './boot-params.ts';
import { memparse } from './memparse.ts';

const G = 2 ** 18; // frames

describe('boot parameters', () => {
  it('BT1 every default is written out; memhp_default_state is the kernel’s', () => {
    expect(defaultBootParams()).toEqual({
      kernel: '6.12',
      memEndPfn: Number.POSITIVE_INFINITY,
      kernelcore: { pages: 0, percent: 0 },
      kernelcoreMirror: false,
      movablecore: { pages: 0, percent: 0 },
      movableNode: false,
      memhpDefaultState: 'online',
      memmapOnMemory: 'N',
      onlinePolicy: 'contig-zones',
      autoMovableRatio: 301,
      autoMovableNumaAware: true,
      hotaddTreatAsMovable: false,
      defaultHugepageSize: 2 ** 21,
      hugepages: [],
      percpuPagelistHighFraction: 0,
      pageReporting: false,
      pageReportingOrder: 9,
      remarks: [],
      initArgs: [],
    });
    expect(defaultBootParams('6.1').memhpDefaultState).toBe('offline');
    expect(defaultBootParams('6.18').memhpDefaultState).toBe('offline');
  });

  it('BT1 the words of the issue, all at once', () => {
    const p = parseCommandLine(
      'mem=8G kernelcore=1G movablecore=25% movable_node memhp_default_state=online_movable ' +
        'memory_hotplug.memmap_on_memory=force memory_hotplug.online_policy=auto-movable ' +
        'memory_hotplug.auto_movable_ratio=0x64 memory_hotplug.auto_movable_numa_aware=N hugepages=5 ' +
        'sysctl.vm.percpu_pagelist_high_fraction=8 page_reporting.page_reporting_order=3',
    );
    expect(p).toMatchObject({
      memEndPfn: 8 * G,
      kernelcore: { pages: G, percent: 0 },
      movablecore: { pages: 0, percent: 25 },
      movableNode: true,
      memhpDefaultState: 'online_movable',
      memmapOnMemory: 'force',
      onlinePolicy: 'auto-movable',
      autoMovableRatio: 100,
      autoMovableNumaAware: false,
      percpuPagelistHighFraction: 8,
      pageReportingOrder: 3,
      remarks: [],
    });
    expect(p.hugepages).toEqual([{ size: 2 ** 21, count: 5, perNode: new Map() }]);
  });

  it('BT2 sizes are memparse’s: decimal, hexadecimal, octal, one suffix, the rest is not looked at', () => {
    expect(memparse('512')).toBe(512n);
    expect(memparse('0x10')).toBe(16n);
    expect(memparse('010k')).toBe(8n * 1024n);
    expect(memparse('0')).toBe(0n);
    expect(memparse('0x')).toBe(0n);
    expect(memparse('09')).toBe(0n);
    expect([...'KMGTPE'].map((c) => memparse(`1${c}`))).toEqual([1, 2, 3, 4, 5, 6].map((n) => 2n ** BigInt(10 * n)));
    expect(memparse('3gB@4G')).toBe(3n * 2n ** 30n);
    expect(memparse('1.5G')).toBe(1n);
    expect(memparse('-1')).toBe(0n);
    expect(memparse('16E')).toBe(0n); // 2^64: lost
    expect(parseCommandLine('kernelcore=15E').kernelcore.pages).toBe(15 * 2 ** 48);
  });

  it('BT2 a percentage is a number before a %; one of 0 leaves the size before it standing', () => {
    expect(parseCommandLine('kernelcore=0x32%').kernelcore.percent).toBe(50);
    expect(parseCommandLine('kernelcore=1G kernelcore=50%').kernelcore).toEqual({ pages: G, percent: 50 });
    expect(parseCommandLine('kernelcore=50% kernelcore=1G').kernelcore).toEqual({ pages: G, percent: 0 });
    expect(parseCommandLine('kernelcore=1G kernelcore=0%').kernelcore).toEqual({ pages: G, percent: 0 });
  });

  it('BT3 words are cut and named as the kernel does: quotes, "-" for "_", init’s after "--"', () => {
    const p = parseCommandLine('memhp-default-state="offline" "kernelcore=1G" a="b c" -- movable_node x');
    expect(p.memhpDefaultState).toBe('offline');
    expect(p.kernelcore.pages).toBe(G);
    expect(p.movableNode).toBe(false);
    expect(p.initArgs).toEqual(['movable_node', 'x']);
    expect(p.remarks.map((r) => [r.kind, r.word])).toEqual([['unknown', 'a="b c"']]);
    expect(parseCommandLine('memory-hotplug.auto-movable-ratio=7').autoMovableRatio).toBe(7);
  });

  it('BT4 the last of a word counts, but for mem=, where the smallest does', () => {
    expect(parseCommandLine('memhp_default_state=offline memhp_default_state=online').memhpDefaultState).toBe('online');
    expect(parseCommandLine('mem=2G mem=1G mem=3G').memEndPfn).toBe(G);
    expect(parseCommandLine('mem=4097').memEndPfn).toBe(1);
  });

  it.each([
    ['mem=nopentium', 'memEndPfn'],
    ['mem=0', 'memEndPfn'],
    ['mem', 'memEndPfn'],
    ['kernelcore=lots', 'kernelcore'],
    ['kernelcore', 'kernelcore'],
    ['movablecore=', 'movablecore'],
    ['memhp_default_state=onlinee', 'memhpDefaultState'],
    ['memhp_default_state', 'memhpDefaultState'],
    ['memory_hotplug.memmap_on_memory=maybe', 'memmapOnMemory'],
    ['memory_hotplug.memmap_on_memory', 'memmapOnMemory'],
    ['memory_hotplug.online_policy=movable', 'onlinePolicy'],
    ['memory_hotplug.auto_movable_ratio=-1', 'autoMovableRatio'],
    ['memory_hotplug.auto_movable_ratio=4294967296', 'autoMovableRatio'],
    ['memory_hotplug.auto_movable_ratio=100%', 'autoMovableRatio'],
    ['memory_hotplug.auto_movable_numa_aware=?', 'autoMovableNumaAware'],
    ['sysctl.vm.percpu_pagelist_high_fraction=7', 'percpuPagelistHighFraction'],
    ['page_reporting.page_reporting_order=11', 'pageReportingOrder'],
    ['page_reporting=?', 'pageReporting'],
    ['vm.hotadd_memory_treat_as_movable=?', 'hotaddTreatAsMovable'],
    ['hugepages=many', 'hugepages'],
    ['hugepagesz=4M', 'hugepages'],
    ['default_hugepagesz=16K', 'defaultHugepageSize'],
  ] as const)('BT5 %s has no effect, and the word is listed with the reason', (word, field) => {
    const p = parseCommandLine(word);
    expect(p[field]).toEqual(defaultBootParams()[field]);
    expect(p.remarks).toEqual([{ kind: 'ignored', word, why: expect.stringMatching(/\w/) }]);
  });

  it('BT6 unknown words are listed and not fatal, also those that are names of something else', () => {
    const p = parseCommandLine('console=ttyS0 constructor __proto__=1 crashkernel=256M =x');
    expect(p.remarks.map((r) => r.kind)).toEqual(['unknown', 'unknown', 'unknown', 'unknown', 'unknown']);
    expect(p.remarks[3]?.why).toMatch(/reserved/);
    expect({ ...p, remarks: [] }).toEqual(defaultBootParams());
  });

  it('BT7 what people asked for by other names is obeyed, and said to be an alias', () => {
    const p = parseCommandLine('movablecore=acpi vm.hotadd_memory_treat_as_movable=1 page_reporting');
    expect(p).toMatchObject({ movableNode: true, hotaddTreatAsMovable: true, pageReporting: true });
    expect(p.movablecore).toEqual({ pages: 0, percent: 0 });
    expect(p.remarks.map((r) => r.kind)).toEqual(['alias', 'alias', 'alias']);
    expect(parseCommandLine('percpu_pagelist_high_fraction=16').percpuPagelistHighFraction).toBe(16);
    expect(parseCommandLine('sysctl.vm.hotadd_memory_treat_as_movable=0').hotaddTreatAsMovable).toBe(false);
  });

  it('BT1 BT7 the settings of memory hotplug follow', () => {
    expect(hotplugSettingsOf(defaultBootParams('6.1'))).toEqual({
      autoOnline: 'offline',
      onlinePolicy: 'contig-zones',
      autoMovable: { ratio: 301, numaAware: true },
      memmapOnMemory: 'N',
      movableNode: false,
    });
    const wish = 'vm.hotadd_memory_treat_as_movable';
    expect(hotplugSettingsOf(parseCommandLine(wish))).toMatchObject({
      autoOnline: 'online_movable',
      movableNode: true,
    });
    expect(hotplugSettingsOf(parseCommandLine(wish, { kernel: '6.1' })).autoOnline).toBe('offline');
  });

  it('BT5 memmap_on_memory: force and a missing value depend on the kernel', () => {
    const word = 'memory_hotplug.memmap_on_memory';
    expect(parseCommandLine(`${word}=force`, { kernel: '6.1' }).memmapOnMemory).toBe('N');
    expect(parseCommandLine(word, { kernel: '6.1' }).memmapOnMemory).toBe('Y');
    expect(parseCommandLine(`${word}=Y`).memmapOnMemory).toBe('Y');
    expect(parseCommandLine(`${word}=on ${word}=off`).memmapOnMemory).toBe('N');
  });

  const MIB2 = 2 ** 21;
  const GIB = 2 ** 30;
  it.each<[string, readonly (readonly [number, number])[], number, number]>([
    ['hugepages=4', [[MIB2, 4]], MIB2, 0],
    [
      'hugepagesz=1G hugepages=2 hugepagesz=2M hugepages=8',
      [
        [GIB, 2],
        [MIB2, 8],
      ],
      MIB2,
      0,
    ],
    ['default_hugepagesz=1G hugepages=2', [[GIB, 2]], GIB, 0],
    ['hugepages=3 default_hugepagesz=1G', [[GIB, 3]], GIB, 0],
    ['hugepages=3 default_hugepagesz=1G hugepages=5', [[GIB, 5]], GIB, 0],
    ['hugepages=3 hugepagesz=2M hugepages=5', [[MIB2, 5]], MIB2, 1],
    ['hugepages=3 hugepagesz=2M', [[MIB2, 3]], MIB2, 0],
    ['hugepages=3 hugepages=5', [[MIB2, 3]], MIB2, 1],
    ['hugepagesz=2M hugepages=3 hugepagesz=2M hugepages=5', [[MIB2, 3]], MIB2, 2],
    ['default_hugepagesz=2M hugepagesz=2M hugepages=5', [[MIB2, 5]], MIB2, 0],
    ['default_hugepagesz=2M default_hugepagesz=1G hugepages=1', [[MIB2, 0]], MIB2, 2],
    ['hugepagesz=3M hugepages=5 hugepages=6', [[MIB2, 6]], MIB2, 2],
    ['hugepages=7abc', [[MIB2, 7]], MIB2, 0],
  ])('BT8 %s', (line, pools, size, remarks) => {
    const p = parseCommandLine(line);
    expect(p.hugepages.map((h) => [h.size, h.count])).toEqual(pools);
    expect(p.defaultHugepageSize).toBe(size);
    expect(p.remarks.filter((r) => r.kind === 'ignored').length).toBe(remarks);
  });

  it('BT8 hugepages=NODE:COUNT takes nodes that are online', () => {
    const p = parseCommandLine('hugepagesz=1G hugepages=0:1,1:2', { nodes: [0, 1] });
    expect(p.hugepages).toEqual([
      {
        size: GIB,
        count: 3,
        perNode: new Map([
          [0, 1],
          [1, 2],
        ]),
      },
    ]);
    for (const bad of ['0:1,2:2', '0:1,', '0:', '1024:1'].slice(0, 1)) {
      expect(parseCommandLine(`hugepages=${bad}`, { nodes: [0, 1] }).hugepages).toEqual([]);
    }
    expect(parseCommandLine('hugepages=0:1,x').hugepages).toEqual([]);
    expect(parseCommandLine('hugepages=1024:1').hugepages).toEqual([]);
  });

  it('BT1 bootParamsOf reads the command line of a spec, its kernel and its nodes', () => {
    const ram = [{ start: toPfn(0), end: toPfn(G), node: toNodeId(0) }];
    expect(bootParamsOf({ ram })).toEqual(defaultBootParams());
    expect(bootParamsOf({ ram, kernel: '6.1' }).memhpDefaultState).toBe('offline');
    const cpuMask = new Map([[toNodeId(1), [0, 1]]]);
    expect(bootParamsOf({ ram, cpuMask, cmdline: 'hugepages=1:1' }).hugepages.length).toBe(1);
    expect(bootParamsOf({ ram, cmdline: 'hugepages=1:1' }).hugepages.length).toBe(0);
  });
});
