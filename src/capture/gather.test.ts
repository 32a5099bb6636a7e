import { describe, expect, it } from 'vitest';
import { type FakeMachine, fakeMachine, zoneinfoOf } from '../../test/support/fake-machine.ts';
import type { Capture } from './capture.ts';
import { type AsyncMachineFiles, gather, gatherAsync } from './gather.ts';
import { wordAt } from './page-runs.ts';
import { RecordedTree } from './recorded-tree.ts';

const MEMORY = '/sys/devices/system/memory';

function captureOf(machine: FakeMachine): Capture {
  const capture = gather(machine, { kind: 'live', name: 'this machine' });
  if (capture === undefined) throw new Error('not taken for a machine');
  return capture;
}

const problemsOf = (machine: FakeMachine): string[] =>
  captureOf(machine).problems.map((p) => `${p.file} ${p.kind}: ${p.detail}`);

describe('gather', () => {
  it('GA1 a whole machine has no problems, and the capture answers like the machine', () => {
    const machine = fakeMachine();
    const capture = captureOf(machine);
    expect(capture.problems).toEqual([]);
    expect(capture.tree.readText('/proc/zoneinfo')).toBe(machine.files.get('/proc/zoneinfo'));
    expect(capture.tree.list(`${MEMORY}/memory2`)).toEqual([
      'node1',
      'phys_index',
      'removable',
      'state',
      'valid_zones',
    ]);
    expect(capture.tree.readText(`${MEMORY}/memory2/node1`)).toBeUndefined();
    expect(capture.tree.list('/sys/devices/system/node/node0')).toEqual(['cpulist', 'hugepages', 'memory0', 'memory1']);
    expect(capture.kpageflags?.endPfn).toBe(3 * 32768);
    expect(capture.kpagecgroup?.lo[wordAt(capture.kpagecgroup, 20)]).toBe(4242);
  });

  it('GA2 only files of the manifest are taken', () => {
    const capture = captureOf(fakeMachine());
    expect(capture.tree.readText('/proc/sys/vm/min_free_kbytes')).toBe('67584\n');
    expect(capture.tree.list('/proc/sys/vm')).not.toContain('drop_caches');
    expect(capture.tree.list('/proc/sys')).not.toContain('kernel'); // the host name is read, and never kept
    expect(capture.tree.list(MEMORY)).not.toContain('soft_offline_page');
  });

  it('GA3 no secret and no host name is anywhere in a capture', () => {
    const capture = captureOf(fakeMachine());
    const tree = capture.tree;
    if (!(tree instanceof RecordedTree)) throw new Error('a gathered tree is a recorded one');
    const everything = tree.files.map((file) => file.text).join('') + [...capture.cgroups.values()].join('');
    for (const secret of ['secret', 'db-17', 'forge', 'builder', 'ffffffffc0895000'])
      expect(everything.includes(secret), secret).toBe(false);
    expect(capture.cgroups.get(4242)).toBe('/*.slice/postgres');
    expect(tree.readText('/proc/cmdline')).toBe('console=* movablecore=512M root_password=* *\n');
  });

  it('GA4 each file that may not be read is one problem that says what is lost and how to get it', () => {
    const machine = fakeMachine();
    for (const path of [
      '/proc/kpageflags',
      '/proc/kpagecount',
      '/proc/kpagecgroup',
      '/proc/pagetypeinfo',
      '/proc/slabinfo',
    ]) {
      machine.denied.set(path, { kind: 'denied', detail: 'reading it is refused (EACCES)' });
      machine.words.delete(path);
    }
    const capture = captureOf(machine);
    expect(capture.problems.map((p) => p.file)).toEqual([
      '/proc/pagetypeinfo',
      '/proc/slabinfo',
      '/proc/kpageflags',
      '/proc/kpagecount',
      '/proc/kpagecgroup',
    ]);
    for (const problem of capture.problems) {
      expect(problem.kind).toBe('denied');
      expect(problem.remedy).toContain('root');
      expect(problem.lost.length).toBeGreaterThan(20);
    }
    expect(capture.kpageflags).toBeUndefined();
  });

  it('GA5 an absent file is a problem only where every kernel has it', () => {
    const machine = fakeMachine();
    for (const path of ['/proc/slabinfo', '/proc/modules', '/proc/pagetypeinfo', `${MEMORY}/auto_online_blocks`])
      machine.files.delete(path);
    expect(problemsOf(machine)).toEqual(['/proc/pagetypeinfo absent: no such file']);
  });

  it('GA6 an iomem of zeros, as shown to those who are not root, is hidden; the text is kept', () => {
    const machine = fakeMachine();
    machine.files.set('/proc/iomem', '00000000-00000000 : Reserved\n  00000000-00000000 : fec00000.apic\n');
    expect(problemsOf(machine)).toEqual(['/proc/iomem hidden: every address reads as zero']);
  });

  it('GA7 page words that end before the last zone are truncated, and what is there is kept', () => {
    const machine = fakeMachine();
    machine.words.set('/proc/kpagecount', [[1, 0, 40000]]);
    const capture = captureOf(machine);
    expect(capture.problems.map((p) => `${p.file} ${p.kind} ${p.detail}`)).toEqual([
      '/proc/kpagecount truncated ends at frame 40000, the last zone at 98304',
    ]);
    expect(capture.kpagecount?.endPfn).toBe(40000);
  });

  it('GA8 a reading that fails in the middle keeps its beginning and tells', () => {
    const machine = fakeMachine();
    machine.denied.set('/proc/kpageflags', { kind: 'truncated', detail: 'EIO after 4096 bytes' });
    const capture = captureOf(machine);
    expect(capture.problems.map((p) => p.kind)).toEqual(['truncated']);
    expect(capture.kpageflags?.endPfn).toBe(98304);
  });

  it('GA9 an empty page file gives no runs', () => {
    const machine = fakeMachine();
    machine.words.set('/proc/kpageflags', []);
    expect(problemsOf(machine)).toEqual(['/proc/kpageflags truncated: the file is empty']);
    expect(captureOf(machine).kpageflags).toBeUndefined();
  });

  it('GA10 free pages that changed while the page files were read are a tear, told with its size', () => {
    const machine = fakeMachine();
    machine.onWords = (path) => {
      if (path === '/proc/kpagecount') machine.files.set('/proc/zoneinfo', zoneinfoOf([700, 2048]));
    };
    const capture = captureOf(machine);
    expect(capture.problems).toHaveLength(1);
    const [tear] = capture.problems;
    expect(tear.kind).toBe('torn');
    expect(tear.detail).toMatch(
      /^while the page files were read \(\d+ ms\), free pages changed by 348 \(node 0 DMA32 1 000 -> 700, node 1 Movable 2 000 -> 2 048\)$/,
    );
    expect(capture.tree.readText('/proc/zoneinfo')).toBe(zoneinfoOf([1000, 2000])); // the first reading is kept
  });

  it('GA11 chunks that split without changing the number of free pages are a tear, too', () => {
    const machine = fakeMachine();
    machine.onWords = () =>
      machine.files.set('/proc/buddyinfo', 'Node 0, zone    DMA32 4 0 0 \nNode 1, zone  Movable 0 0 500 \n');
    expect(problemsOf(machine).join()).toMatch(/\), 2 free pages changed chunk$/);
  });

  it('GA11b a source without a clock is torn without a duration', () => {
    const machine = fakeMachine();
    machine.nowMs = () => 0;
    machine.onWords = () => machine.files.set('/proc/zoneinfo', zoneinfoOf([1000, 1999]));
    expect(problemsOf(machine)).toEqual([
      '/proc/kpageflags torn: while the page files were read, free pages changed by 1 (node 1 Movable 2 000 -> 1 999)',
    ]);
  });

  it('GA12 blocks that were switched, plugged or unplugged meanwhile are named', () => {
    const machine = fakeMachine();
    machine.onWords = () => {
      machine.files.set(`${MEMORY}/memory1/state`, 'going-offline\n');
      machine.files.set(`${MEMORY}/memory9/state`, 'offline\n');
      for (const path of machine.files.keys()) if (path.startsWith(`${MEMORY}/memory2/`)) machine.files.delete(path);
    };
    expect(problemsOf(machine)).toEqual([
      `${MEMORY} torn: memory was plugged or switched while it was read: ` +
        'memory1 online -> going-offline, memory2 went away, memory9 appeared (offline)',
    ]);
  });

  it('GA13 a machine without page files is still a capture, with a problem for each', () => {
    const machine = fakeMachine();
    machine.words.clear();
    const capture = captureOf(machine);
    expect(capture.problems.map((p) => `${p.file} ${p.kind}`)).toEqual([
      '/proc/kpageflags absent',
      '/proc/kpagecount absent',
      '/proc/kpagecgroup absent',
    ]);
  });

  it('GA14 neither zones nor blocks: not a machine; blocks missing: a machine without hotplug', () => {
    const machine = fakeMachine();
    machine.files.delete('/proc/zoneinfo');
    expect(problemsOf(machine)).toEqual(['/proc/zoneinfo absent: no such file']);
    machine.files.delete(`${MEMORY}/block_size_bytes`);
    expect(gather(machine, { kind: 'live', name: 'x' })).toBeUndefined();
    machine.files.set('/proc/zoneinfo', zoneinfoOf([1, 1]));
    expect(problemsOf(machine)).toEqual([`${MEMORY}/block_size_bytes absent: no memory blocks in sysfs`]);
  });

  it('GA15 when a file was read stands in the tree, in order', () => {
    const tree = captureOf(fakeMachine()).tree;
    if (!(tree instanceof RecordedTree)) throw new Error('a gathered tree is a recorded one');
    const flags = tree.pageReads.get('/proc/kpageflags');
    const count = tree.pageReads.get('/proc/kpagecount');
    const zoneinfo = tree.files.find((file) => file.path === '/proc/zoneinfo');
    expect(flags && count && zoneinfo).toBeDefined();
    expect(zoneinfo!.startedMs).toBeGreaterThan(0);
    expect(flags!.startedMs).toBeGreaterThanOrEqual(zoneinfo!.endedMs);
    expect(count!.startedMs).toBeGreaterThanOrEqual(flags!.endedMs);
  });

  it('GA16 a walk of cgroups that was cut short says so', () => {
    const machine = fakeMachine();
    machine.cgroupsFound = { paths: new Map([[1, '/']]), more: true };
    expect(problemsOf(machine)).toEqual(['/sys/fs/cgroup truncated: only 1 cgroups were named']);
  });

  it('GA17 a name that could leave a directory is never taken up', () => {
    const machine = fakeMachine();
    const list = machine.list;
    machine.list = (path) =>
      path.endsWith('/parameters') ? ['..', 'a b', 'x/../../y', 'online_policy', 'é'] : list(path);
    expect(captureOf(machine).tree.list('/sys/module/memory_hotplug/parameters')).toEqual(['online_policy']);
  });

  it('GA18 asked from afar it is the same capture; every file was announced before it was read', async () => {
    const machine = fakeMachine();
    const announced = new Set<string>();
    const unannounced: string[] = [];
    const afar: AsyncMachineFiles = {
      read: async (path) => {
        if (!announced.delete(path)) unannounced.push(path);
        return machine.read(path);
      },
      list: async (path) => machine.list(path),
      readWords: async (path, push) => machine.readWords(path, push),
      cgroups: async () => machine.cgroups(),
      soon: async ({ files }) => {
        for (const path of files) announced.add(path);
      },
      nowMs: () => machine.nowMs(),
    };
    const extra = [{ path: '/qmp/query-status', text: '{"status":"running"}\n' }];
    const capture = await gatherAsync(afar, { kind: 'live', name: 'this machine' }, async () => extra);
    const here = captureOf(fakeMachine());
    const texts = (c: Capture | undefined): unknown[] =>
      c?.tree instanceof RecordedTree ? c.tree.files.map((f) => [f.path, f.kind, f.text]) : [];
    expect(texts(capture)).toEqual([...extra.map((f) => [f.path, 'text', f.text]), ...texts(here)].sort());
    expect(capture?.kpageflags).toEqual(here.kpageflags);
    expect(capture?.cgroups).toEqual(here.cgroups);
    expect(unannounced).toEqual([]);
  });

  it('GA19 the time at which a file was read is that of its source, where that tells', async () => {
    const machine = fakeMachine();
    const began = machine.nowMs();
    const afar: AsyncMachineFiles = {
      read: async (path) => ({ ...machine.read(path), at: { startedMs: began + 500, endedMs: began + 700 } }),
      list: async (path) => machine.list(path),
      readWords: async (path, push) => machine.readWords(path, push),
      cgroups: async () => machine.cgroups(),
      soon: async () => {},
      nowMs: () => began,
    };
    const capture = await gatherAsync(afar, { kind: 'live', name: 'this machine' });
    if (!(capture?.tree instanceof RecordedTree)) throw new Error('a gathered tree is a recorded one');
    const zoneinfo = capture.tree.files.find((file) => file.path === '/proc/zoneinfo');
    expect([zoneinfo?.startedMs, zoneinfo?.endedMs]).toEqual([500, 700]);
  });
});
