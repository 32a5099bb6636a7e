// doctor, on drawn machines: each finding has one that has it and one that just does not. Rules: docs/spec/doctor.md.

import { describe, expect, it } from 'vitest';
import { treeFromFiles } from '#kernfs/memory-tree';
import { toBlockId } from '#mm/index';
import { observe, QMP_FILES } from '#plan/observation';
import { buildTwin } from '#twin/index';
import { pfnOf, type SyntheticWorld, syntheticCapture, WORD } from '../../test/support/synthetic-capture.ts';
import { type DoctorReport, doctor, type Finding, type FindingCode, type Need, SEVERITIES } from './doctor.ts';
import { addedRanges } from './hot-added.ts';
import { judgeBlocks } from './judge-blocks.ts';
import { isPrometheusText, prometheusText } from './prometheus.ts';

const GIB = 2 ** 30;
const BLOCK = 2 ** 27;
const AUTO = '/sys/devices/system/memory/auto_online_blocks';
const PARAMS = '/sys/module/memory_hotplug/parameters';
const UDEV = '/usr/lib/udev/rules.d/40-memory.rules';
const rule = (word: string): string => `SUBSYSTEM=="memory", ACTION=="add", ATTR{state}="${word}"\n`;

type Files = Readonly<Record<string, string>>;

/** One line of iomem from block to block, so that nothing looks added. */
const bootRam = (first: number, last: number): string =>
  `${(first * BLOCK).toString(16).padStart(8, '0')}-${((last + 1) * BLOCK - 1).toString(16)} : System RAM\n`;

function examined(
  world: SyntheticWorld,
  files: Files = {},
  need?: Need,
): { report: DoctorReport; metrics: string; check: readonly unknown[] } {
  const ids = world.blocks.map((b) => b.id).sort((a, b) => a - b);
  const capture = syntheticCapture({ iomem: bootRam(ids[0] as number, ids.at(-1) as number), ...world });
  const over = treeFromFiles(
    new Map(
      Object.entries({
        '/proc/meminfo': 'MemTotal: 4194304 kB\nMemFree: 1048576 kB\nHardwareCorrupted: 0 kB\n',
        '/proc/cmdline': 'quiet\n',
        ...files,
      }),
    ),
  );
  const tree = {
    readText: (path: string) => over.readText(path) ?? capture.tree.readText(path),
    list: (path: string) => [...new Set([...capture.tree.list(path), ...over.list(path)])].sort(),
  };
  const built = buildTwin({ ...capture, tree });
  if (!built.ok) throw new Error(built.error.message);
  const twin = built.value;
  const seen = observe(tree);
  if (!seen.ok) throw new Error(seen.error);
  // Judging is the dear part, and only doors ask for it.
  const added = addedRanges(twin, seen.value.hypervisor).flatMap((r) => r.blocks);
  const verdicts = judgeBlocks(twin, added.map(toBlockId));
  const report = doctor(twin, seen.value, { verdicts, ...(need === undefined ? {} : { need }) });
  const check = twin.level === 'pages' ? twin.machine.check() : [];
  return { report, metrics: prometheusText(report, verdicts, 12), check };
}

function findings(world: SyntheticWorld, files: Files = {}, need?: Need): readonly Finding[] {
  const { report, check } = examined(world, files, need);
  expect(check).toEqual([]);
  for (const f of report.findings) {
    expect(f.sentence, f.code).toMatch(/[^.]$/);
    expect(f.evidence.length, f.code).toBeGreaterThan(0);
  }
  const ranks = report.findings.map((f) => SEVERITIES.indexOf(f.severity));
  expect(ranks).toEqual([...ranks].sort((a, b) => a - b));
  return report.findings;
}

const codes = (world: SyntheticWorld, files: Files = {}): string[] =>
  findings(world, files).map((f) => `${f.severity} ${f.code}`);
const find = (code: FindingCode, world: SyntheticWorld, files: Files = {}): Finding | undefined =>
  findings(world, files).find((f) => f.code === code);

const normal = (...ids: number[]): SyntheticWorld['blocks'] => ids.map((id) => ({ id, zone: 'Normal' as const }));
const movable = (...ids: number[]): SyntheticWorld['blocks'] => ids.map((id) => ({ id, zone: 'Movable' as const }));
const HEALTHY: SyntheticWorld = { blocks: normal(32, 33) };

const qmp = (
  devices: readonly object[],
  more: { base?: number; max?: number; slots?: number; balloon?: number } = {},
): Files => ({
  [QMP_FILES.devices]: JSON.stringify(devices),
  [QMP_FILES.summary]: JSON.stringify({
    'base-memory': more.base ?? GIB,
    'plugged-memory': devices.reduce((n, d) => n + ((d as { data: { size: number } }).data.size ?? 0), 0),
  }),
  ...(more.max === undefined
    ? {}
    : { [QMP_FILES.machine]: JSON.stringify({ size: GIB, 'max-size': more.max, slots: more.slots ?? 8 }) }),
  ...(more.balloon === undefined ? {} : { [QMP_FILES.balloon]: JSON.stringify({ actual: more.balloon }) }),
});
const dimm = (id: string, block: number, blocks: number, slot = 0): object => ({
  type: 'dimm',
  data: { id, addr: block * BLOCK, size: blocks * BLOCK, node: 0, slot, memdev: `/objects/mem-${id}` },
});

it('DO1 a healthy machine has no findings', () => expect(codes(HEALTHY)).toEqual([]));

describe('blocks', () => {
  it('DO5 an added block in a kernel zone: one-way with a kernel page, open without', () => {
    const files = qmp([dimm('dimm1', 33, 2)]);
    const held = { blocks: normal(32, 33, 34), frames: [[pfnOf(33, 3), 5, WORD.slab]] } as const;
    const shut = find('one-way-door', held, files);
    expect(shut).toMatchObject({ severity: 'warn', provenance: 'measured' });
    expect(shut?.sentence).toContain('DIMM dimm1 cannot be taken back: 1 of its 2 blocks');
    expect(shut?.evidence).toEqual(['block 33, zone Normal', 'slab: 5 pages (slab)']);
    const open = find('door-still-open', held, files);
    expect(open?.evidence).toEqual(['block 34, zone Normal']);
    expect(open?.fix[0]).toContain('for b in 34; do echo offline');
    expect(codes({ blocks: [...normal(32), ...movable(33, 34)] }, files)).toEqual([]);
  });

  it('DO4 memory is called added on evidence only', () => {
    const frames = [[pfnOf(34), 1, WORD.slab]] as const;
    const two = `${bootRam(32, 33)}${bootRam(34, 35)}`;
    const names = (world: SyntheticWorld, files: Files = {}): string[] =>
      examined(world, files).report.added.map((a) => `${a.name}, ${a.provenance}`);
    const boot = { blocks: normal(32, 33, 34, 35), frames };
    expect(names(boot)).toEqual([]);
    expect(names({ ...boot, iomem: two })).toEqual(['memory added at 0x110000000, derived']);
    expect(names({ ...boot, iomem: two.replace(/M\n$/, 'M (kmem)\n') })).toEqual([
      'memory that kmem added at 0x110000000, measured',
    ]);
    expect(names({ ...boot, iomem: two, vmstat: { nr_free_pages: 0, nr_memmap_pages: 0, nr_unstable: 0 } })).toEqual(
      [],
    );
    const mixed = { blocks: [...normal(32), ...movable(33)], iomem: bootRam(32, 33) };
    expect(names(mixed)).toEqual(['memory added at 0x100000000, derived']);
    for (const word of ['movablecore=1G', 'kernelcore=1G', 'movable_node'])
      expect(names(mixed, { '/proc/cmdline': `quiet ${word}\n` }), word).toEqual([]);
    expect(names(mixed, qmp([dimm('d', 33, 1)]))).toEqual(['DIMM d, measured']);
    expect(names({ ...mixed, iomem: '00000000-00000000 : System RAM\n' })).toEqual([]); // hidden
  });

  it('DO6 a block that is going offline is told, with its number', () => {
    const f = find('going-offline', { blocks: [...normal(32), { id: 33, zone: 'Movable', state: 'going-offline' }] });
    expect(f?.severity).toBe('bad');
    expect(f?.sentence).toContain('block 33 is going offline');
    expect(f?.fix.join()).toContain('/sys/devices/system/memory/memory33/state');
  });

  it('DO7 poisoned frames are told with their range; a count without frames is remembered', () => {
    const world = { blocks: normal(32, 33), frames: [[pfnOf(33, 1), 2, WORD.poisoned]] } as const;
    const corrupted = { '/proc/meminfo': 'MemTotal: 1 kB\nMemFree: 1 kB\nHardwareCorrupted: 8 kB\n' };
    const boot = find('poisoned', world, corrupted);
    expect(boot?.sentence).toBe('2 frames are poisoned: broken memory on block 33');
    expect(boot?.evidence[0]).toContain(`0x${(pfnOf(33, 1) * 4096).toString(16)}`);
    const added = find('poisoned', world, { ...corrupted, ...qmp([dimm('d1', 33, 1)]) });
    expect(added?.sentence).toContain('DIMM d1 (block 33)');
    expect(codes(HEALTHY, corrupted)).toEqual(['warn poison-remembered']);
    expect(find('poisoned', { ...world, hide: ['/proc/kpageflags'] }, corrupted)).toBeUndefined();
    expect(codes({ ...world, hide: ['/proc/kpageflags'] }, corrupted)).toEqual([
      'warn poison-remembered',
      'note pages-not-seen',
    ]);
  });

  it('DO13 memmap_on_memory that is set and without effect', () => {
    const files = { ...qmp([dimm('d1', 33, 1)]), [`${PARAMS}/memmap_on_memory`]: 'Y\n' };
    const plain = { blocks: [...normal(32), ...movable(33)] };
    expect(find('memmap-on-memory-idle', plain, files)?.sentence).toContain('memmap_on_memory is Y');
    const self = { ...plain, frames: [[pfnOf(33), 512, WORD.selfmemmap61]] as const };
    expect(codes(self, files)).toEqual([]);
    expect(codes(plain, { ...files, [`${PARAMS}/memmap_on_memory`]: 'N\n' })).toEqual([]);
    expect(codes(HEALTHY, { [`${PARAMS}/memmap_on_memory`]: 'Y\n' })).toEqual([]);
  });
});

describe('policy', () => {
  const policy = (files: Files): string[] => codes(HEALTHY, files).map((c) => c.replace(/^\w+ /, ''));

  it('DO8 kernel and rule contradict exactly when they would choose different zones', () => {
    expect(policy({ [AUTO]: 'online_movable\n', [UDEV]: rule('online') })).toEqual(['udev-conflict']);
    expect(policy({ [AUTO]: 'online_kernel\n', [UDEV]: rule('online_movable') })).toEqual(['udev-conflict']);
    expect(policy({ [AUTO]: 'online\n', [UDEV]: rule('online_kernel') })).toEqual(['udev-rule']);
    expect(policy({ [AUTO]: 'online_movable\n', [UDEV]: rule('online_movable') })).toEqual(['udev-rule']);
    const movableNode = { '/proc/cmdline': 'movable_node\n' };
    expect(policy({ [AUTO]: 'online_movable\n', [UDEV]: rule('online'), ...movableNode })).toEqual(['udev-rule']);
    expect(policy({ [AUTO]: 'offline\n', [UDEV]: rule('online') })).toEqual(['udev-rule']);
    const other = { '/etc/udev/rules.d/50-other.rules': rule('online_movable') };
    expect(policy({ [AUTO]: 'offline\n', [UDEV]: rule('online'), ...other })).toEqual(['udev-conflict']);
    for (const word of ['offline', 'online_movable']) expect(policy({ [AUTO]: `${word}\n` }), word).toEqual([]);
  });

  it('DO8 a rule alone is a warning where it chooses a kernel zone, else a note', () => {
    const severity = (files: Files): string | undefined => find('udev-rule', HEALTHY, files)?.severity;
    expect(severity({ [AUTO]: 'offline\n', [UDEV]: rule('online') })).toBe('warn');
    expect(severity({ [AUTO]: 'offline\n', [UDEV]: rule('online_movable') })).toBe('note');
  });

  it('DO8 a policy that is never asked, and one that always says the same', () => {
    const auto = { [`${PARAMS}/online_policy`]: 'auto-movable\n' };
    for (const word of ['online_movable', 'online_kernel'])
      expect(policy({ ...auto, [AUTO]: `${word}\n` }), word).toEqual(['policy-idle']);
    for (const word of ['online', 'offline']) expect(policy({ ...auto, [AUTO]: `${word}\n` }), word).toEqual([]);
    expect(policy({ ...auto, [AUTO]: 'online\n', [`${PARAMS}/auto_movable_ratio`]: '0\n' })).toEqual([
      'policy-always-kernel',
    ]);
  });

  it('DO8 added memory that would go to a kernel zone is told where memory does come', () => {
    const files = qmp([], { max: 4 * GIB });
    for (const word of ['online', 'online_kernel']) {
      expect(policy({ [AUTO]: `${word}\n` }), word).toEqual([]);
      expect(policy({ ...files, [AUTO]: `${word}\n` }), word).toEqual(['next-add-one-way']);
    }
    expect(policy({ ...files, [AUTO]: 'online_movable\n' })).toEqual([]);
    expect(policy({ ...files, [AUTO]: 'online\n', [`${PARAMS}/online_policy`]: 'auto-movable\n' })).toEqual([]);
  });
});

describe('room', () => {
  const full = (
    block: number,
    word: readonly [number, number],
  ): readonly [number, number, readonly [number, number]] => [pfnOf(block), 32768, word];

  it('DO10 kernel zones without memory while ZONE_MOVABLE has some', () => {
    const world = { blocks: [...normal(32), ...movable(33)], min: { '0 Normal': 100 }, iomem: bootRam(32, 33) };
    const boot = { '/proc/cmdline': 'movablecore=128M\n' };
    expect(codes({ ...world, frames: [full(32, WORD.anon)] }, boot)).toContain('bad kernel-zones-starved');
    expect(codes({ ...world, frames: [full(33, WORD.anon)] }, boot)).not.toContain('bad kernel-zones-starved');
  });

  it('DO10 DO12 inactive page cache of kernel zones makes the difference between bad and a warning', () => {
    const world = {
      blocks: [...normal(32), ...movable(33)],
      frames: [[pfnOf(32), 32768 - 256, WORD.anon]] as const,
      min: { '0 Normal': 200 },
    };
    const text = syntheticCapture({ iomem: bootRam(32, 33), ...world }).tree.readText('/proc/zoneinfo') ?? '';
    const cached = (pages: number): Files => ({
      '/proc/cmdline': 'movablecore=128M\n',
      '/proc/zoneinfo': text.replace(/^( +nr_free_pages .*)$/gm, `$1\n      nr_zone_inactive_file ${pages}`),
    });
    expect(codes(world, cached(511))).toEqual(['bad no-room-for-memmap', 'warn kernel-zones-starved']);
    expect(codes(world, cached(512))).toEqual(['warn kernel-zones-starved', 'warn no-room-for-memmap']);
    expect(codes(world, cached(44))).toEqual(['bad kernel-zones-starved', 'bad no-room-for-memmap']); // high is 300
  });

  it('DO10 more Movable than auto_movable_ratio allows', () => {
    const boot = { '/proc/cmdline': 'movablecore=128M\n' };
    const world = (n: number): SyntheticWorld => ({
      blocks: [...normal(32), ...movable(...Array.from({ length: n }, (_, k) => 33 + k))],
    });
    expect(codes(world(3), boot)).toEqual([]);
    expect(codes(world(4), boot)).toEqual(['warn ratio-exceeded']);
    expect(codes(world(4), { ...boot, [`${PARAMS}/auto_movable_ratio`]: '400\n' })).toEqual([]);
  });

  /** One page in each pageblock of a block. */
  const sprinkled = (block: number, pageblocks: number): NonNullable<SyntheticWorld['frames']> =>
    Array.from({ length: pageblocks }, (_, k) => [pfnOf(block, k) + 9, 1, WORD.anon] as const);

  it('DO11 a node without one usable piece of 2M, or in pieces beyond the mark of the kernel, is a warning', () => {
    const blocks = normal(32);
    expect(codes({ blocks, frames: sprinkled(32, 64) })).toEqual(['warn no-contiguous']);
    expect(codes({ blocks, frames: sprinkled(32, 63) })).toEqual(['warn fragmented']); // 98 % of what is free
    expect(codes({ blocks, frames: sprinkled(32, 50) })).toEqual([]); // 78 %: below 90
    const eager = { '/proc/sys/vm/compaction_proactiveness': '60\n' };
    expect(codes({ blocks, frames: sprinkled(32, 50) }, eager)).toEqual(['warn fragmented']);
  });

  it('DO11 watermarks: below high is a note, below low a warning, below min bad; one zone above is enough', () => {
    const used = [pfnOf(32), 32768 - 1024, WORD.anon] as const;
    const at = (min: number): string | undefined =>
      find('below-watermarks', { blocks: normal(32), frames: [used], min: { '0 Normal': min } })?.severity;
    expect([600, 700, 900, 1024].map(at)).toEqual([undefined, 'note', 'warn', 'bad']); // 1024 are free
    expect(
      codes({ blocks: [...normal(32), { id: 8, zone: 'DMA32' }], frames: [used], min: { '0 Normal': 1024 } }),
    ).not.toContain('bad below-watermarks');
  });

  it('DO3 only pieces above the low watermark are counted for --need', () => {
    const world = { blocks: normal(32), min: { '0 Normal': 4096 } };
    const most = Math.floor((32768 - 5120) / 512);
    expect(findings(world, {}, { chunks: most, order: 9 })).toEqual([]);
    const [unmet, ...others] = findings(world, {}, { chunks: most + 1, order: 9 });
    expect(others).toEqual([]);
    expect(unmet).toMatchObject({ code: 'need-unmet', severity: 'bad' });
    expect(unmet?.sentence).toBe(`${most + 1} pieces of 2M (order 9) were asked for; ${most} can be had now`);
    const pool = { '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages': '9\n' };
    const idle = { ...pool, '/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages': '7\n' };
    expect(findings(world, idle, { chunks: most, order: 9 })).toEqual([]);
    expect(findings(world, idle, { chunks: most + 1, order: 9 })[1]).toMatchObject({
      code: 'huge-pages-idle',
      severity: 'note',
      evidence: ['7 of 9 pages of 2M'],
      fix: [expect.stringMatching(/^echo 2 > .*hugepages-2048kB\/nr_hugepages/)],
    });
  });

  it('DO12 the largest DIMM is 64 times what kernel zones have above their low marks', () => {
    const { report } = examined({ blocks: normal(32), min: { '0 Normal': 4096 } });
    expect(report.largestDimmBytes.value).toBe(Math.floor(((32768 - 5120) * 4096 * 64) / BLOCK) * BLOCK);
    const none = { blocks: [...normal(32), ...movable(33)], frames: [[pfnOf(32), 32768 - 256, WORD.anon]] as const };
    expect(find('no-room-for-memmap', none)?.severity).toBe('bad'); // 256 free frames describe 64 MiB
    const left = (more: Parameters<typeof qmp>[1]): number =>
      examined({ blocks: [...normal(32), ...movable(33)] }, qmp([dimm('d1', 33, 1)], more)).report.largestDimmBytes
        .value;
    expect(left({ max: 2 * GIB, slots: 2 })).toBe(GIB - BLOCK);
    expect(left({ max: 2 * GIB, slots: 1 })).toBe(0);
    expect(left({ max: GIB + BLOCK + 4096, slots: 2 })).toBe(0);
    const hypervisor = qmp([], { max: 1024 * GIB });
    expect(find('no-room-for-memmap', HEALTHY, hypervisor)?.severity).toBe('note');
    expect(codes(HEALTHY, qmp([], { max: 8 * GIB }))).toEqual([]);
  });
});

describe('from outside', () => {
  it('DO14 a DIMM that the guest does not have, has in part, or has offline', () => {
    const missing = find('dimm-not-in-guest', HEALTHY, qmp([dimm('d1', 40, 2)]));
    expect(missing?.severity).toBe('bad');
    expect(missing?.sentence).toContain('the guest has nothing of it');
    const odd = find('dimm-not-in-guest', HEALTHY, qmp([dimm('d1', 40, 100 / 128)]));
    expect(odd?.evidence.join()).toContain('it is no multiple of a block of 128M');
    const part = find('dimm-not-in-guest', { blocks: [...normal(32), ...movable(33)] }, qmp([dimm('d1', 33, 2)]));
    expect(part?.sentence).toContain('lacks part of it');
    const off = { blocks: [...normal(32), { id: 33, state: 'offline' as const }, ...movable(34)] };
    expect(find('dimm-offline', off, qmp([dimm('d1', 33, 1)]))?.sentence).toContain('plugged and offline');
    expect(find('dimm-offline', off, qmp([dimm('d1', 33, 2)]))?.sentence).toContain('partly offline');
    expect(codes({ blocks: [...normal(32), ...movable(33)] }, qmp([dimm('d1', 33, 1)]))).toEqual([]);
  });

  it('DO14 virtio-mem that is not at its size, a balloon, slots, maxmem', () => {
    const device = (requested: number, size: number): object => ({
      type: 'virtio-mem',
      data: {
        id: 'vm0',
        memaddr: 40 * BLOCK,
        node: 0,
        'requested-size': requested,
        size,
        'max-size': GIB,
        'block-size': 2 ** 21,
        memdev: '/objects/m',
      },
    });
    expect(find('virtio-mem-short', HEALTHY, qmp([device(BLOCK, 0)]))?.fix[0]).toContain('modprobe virtio_mem');
    expect(find('virtio-mem-short', HEALTHY, qmp([device(0, BLOCK)]))?.fix[0]).toContain('tries again by itself');
    expect(codes(HEALTHY, qmp([device(0, 0)]))).toEqual([]);
    expect(codes(HEALTHY, qmp([], { balloon: GIB - 4096 }))).toEqual(['note balloon-inflated']);
    expect(codes(HEALTHY, qmp([], { balloon: GIB }))).toEqual([]);
    const one = { blocks: [...normal(32), ...movable(33)] };
    expect(codes(one, qmp([dimm('d1', 33, 1)], { max: 8 * GIB, slots: 1 }))).toEqual(['note no-slot']);
    expect(codes(one, qmp([dimm('d1', 33, 1)], { max: 8 * GIB, slots: 2 }))).toEqual([]);
    expect(codes(one, qmp([dimm('d1', 33, 1)], { max: GIB + BLOCK, slots: 2 }))).toEqual(['note maxmem-reached']);
  });
});

it('DO15 every metric has HELP and TYPE before it, the prefix, and labels without an address', () => {
  const { metrics } = examined({ blocks: normal(32, 33) }, {}, { chunks: 1000, order: 9 });
  expect(isPrometheusText(metrics)).toBe(true);
  const typed = new Set<string>();
  for (const line of metrics.trimEnd().split('\n')) {
    const help = /^# (HELP|TYPE) (dimmer_[a-z0-9_]+) (.+)$/.exec(line);
    if (help !== null) {
      if (help[1] === 'TYPE') expect(help[3]).toBe('gauge');
      typed.add(`${help[1]} ${help[2]}`);
      continue;
    }
    const sample = /^(dimmer_[a-z0-9_]+)(?:\{((?:[a-z]+="[^"\\]*",?)+)\})? (-?\d+(?:\.\d+)?)$/.exec(line);
    expect(sample, line).not.toBeNull();
    expect(typed.has(`HELP ${sample?.[1]}`) && typed.has(`TYPE ${sample?.[1]}`), line).toBe(true);
    for (const [, name, value] of (sample?.[2] ?? '').matchAll(/([a-z]+)="([^"]*)"/g)) {
      expect(['severity', 'code', 'node', 'zone', 'order', 'state', 'verdict']).toContain(name);
      expect(value).not.toMatch(/0x/);
    }
  }
  expect(metrics).toContain('dimmer_need_met{order="9"} 0\n');
  expect(metrics).toContain('dimmer_finding{code="need-unmet",severity="bad"} 1\n');
  expect(metrics).toContain('dimmer_doctor_timestamp_seconds 12\n');
});
