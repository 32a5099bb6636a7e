// A small machine in memory for tests of capturing: two nodes, three blocks, 3 x 32768 frames, all made up by us.
//
// Files are a map that a test may change, also in the middle of a capture (`onWords` runs after a page file is read).
// A path in `denied` reads as refused. Time advances by one millisecond a question.

import type { MachineFiles, ReadFailure } from '../../src/capture/gather.ts';
import { runsOf } from '../../src/capture/page-runs.ts';
import { treeFromFiles } from '../../src/kernfs/memory-tree.ts';

const BUDDY = 0x400;
const ANON = 0x5828;
const RESERVED_HI = 0x1;

const MEMORY = '/sys/devices/system/memory';
const NODE = '/sys/devices/system/node';

const zone = (node: number, name: string, free: number, startPfn: number, spanned: number): string =>
  `Node ${node}, zone ${name.padStart(8)}\n  pages free     ${free}\n        boost    0\n        spanned  ${spanned}\n` +
  `        present  ${spanned}\n        managed  ${spanned}\n  start_pfn:           ${startPfn}\n`;

export const zoneinfoOf = (free: readonly [number, number]): string =>
  zone(0, 'DMA32', free[0], 0, 65536) + zone(1, 'Movable', free[1], 65536, 32768);

const buddyOf = (counts: readonly [string, string]): string =>
  `Node 0, zone    DMA32 ${counts[0]} \nNode 1, zone  Movable ${counts[1]} \n`;

export type FakeMachine = MachineFiles & {
  readonly files: Map<string, string | undefined>;
  readonly words: Map<string, readonly (readonly [lo: number, hi: number, frames: number])[]>;
  readonly denied: Map<string, ReadFailure>;
  cgroupsFound: { paths: ReadonlyMap<number, string>; more: boolean };
  onWords: (path: string) => void;
};

export function fakeMachine(): FakeMachine {
  const files = new Map<string, string | undefined>([
    ['/proc/version', 'Linux version 6.1.0-test (builder@forge) (gcc 12.2.0) #1 SMP\n'],
    ['/proc/cmdline', 'console=ttyS0 movablecore=512M root_password=secret quiet\n'],
    ['/proc/cpuinfo', 'processor\t: 0\nflags\t\t: fpu hypervisor\n\nprocessor\t: 1\nflags\t\t: fpu hypervisor\n\n'],
    ['/proc/modules', 'virtio_mem 36864 0 - Live 0xffffffffc0895000\n'],
    ['/proc/iomem', '00000000-00000fff : Reserved\n00001000-17ffffff : System RAM\n'],
    ['/proc/meminfo', 'MemTotal:         393216 kB\n'],
    ['/proc/vmstat', 'nr_free_pages 3000\n'],
    ['/proc/pagetypeinfo', 'Page block order: 9\nPages per block:  512\n'],
    ['/proc/slabinfo', 'slabinfo - version: 2.1\n'],
    ['/proc/zoneinfo', zoneinfoOf([1000, 2000])],
    ['/proc/buddyinfo', buddyOf(['2 1 0', '0 0 500'])],
    ['/proc/sys/kernel/hostname', 'db-17\n'],
    ['/proc/sys/vm/min_free_kbytes', '67584\n'],
    ['/proc/sys/vm/drop_caches', '0\n'], // not in the manifest
    [`${MEMORY}/block_size_bytes`, '8000000\n'],
    [`${MEMORY}/auto_online_blocks`, 'offline\n'],
    [`${MEMORY}/soft_offline_page`, undefined],
    [`${NODE}/online`, '0-1\n'],
    ['/sys/module/memory_hotplug/parameters/online_policy', 'contig-zones\n'],
    ['/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages', '0\n'],
    ['/sys/kernel/mm/transparent_hugepage/enabled', 'always [madvise] never\n'],
  ]);
  for (const [block, node] of [
    [0, 0],
    [1, 0],
    [2, 1],
  ]) {
    files.set(`${MEMORY}/memory${block}/state`, 'online\n');
    files.set(`${MEMORY}/memory${block}/removable`, '1\n');
    files.set(`${MEMORY}/memory${block}/phys_index`, `0000000${block}\n`);
    files.set(`${MEMORY}/memory${block}/valid_zones`, block === 2 ? 'Movable\n' : 'DMA32\n');
    files.set(`${MEMORY}/memory${block}/node${node}`, undefined);
    files.set(`${NODE}/node${node}/memory${block}`, undefined);
    files.set(`${NODE}/node${node}/cpulist`, `${node}\n`);
    files.set(`${NODE}/node${node}/hugepages/hugepages-2048kB/nr_hugepages`, '0\n');
  }
  let ms = 100;
  const machine: FakeMachine = {
    files,
    words: new Map([
      [
        '/proc/kpageflags',
        [
          [0, RESERVED_HI, 16],
          [ANON, 0, 50000],
          [BUDDY, 0, 3 * 32768 - 50016],
        ],
      ],
      [
        '/proc/kpagecount',
        [
          [0, 0, 16],
          [1, 0, 50000],
          [0, 0, 3 * 32768 - 50016],
        ],
      ],
      [
        '/proc/kpagecgroup',
        [
          [0, 0, 16],
          [4242, 0, 50000],
          [0, 0, 3 * 32768 - 50016],
        ],
      ],
    ]),
    denied: new Map(),
    cgroupsFound: {
      paths: new Map([
        [1, '/'],
        [4242, '/db-17.slice/postgres'],
      ]),
      more: false,
    },
    onWords: () => {},
    read: (path) => {
      const denied = machine.denied.get(path);
      if (denied !== undefined) return denied;
      const text = files.get(path);
      return text === undefined ? { kind: 'absent', detail: 'no such file' } : { kind: 'text', text };
    },
    list: (path) => treeFromFiles(files).list(path),
    readWords: (path, push) => {
      const triples = machine.words.get(path);
      const denied = machine.denied.get(path);
      if (triples === undefined) return denied ?? { kind: 'absent', detail: 'no such file' };
      const runs = runsOf(triples);
      const pairs = new Uint32Array(4096);
      for (let run = 0; run < runs.length; run++) {
        const end = run + 1 < runs.length ? runs.startPfn[run + 1] : runs.endPfn;
        for (let left = end - runs.startPfn[run]; left > 0; left -= 2048) {
          const frames = Math.min(left, 2048);
          for (let i = 0; i < frames; i++) {
            pairs[2 * i] = runs.lo[runs.word[run]];
            pairs[2 * i + 1] = runs.hi[runs.word[run]];
          }
          push(pairs, frames);
        }
      }
      machine.onWords(path);
      return denied;
    },
    cgroups: () => machine.cgroupsFound,
    nowMs: () => ms++,
  };
  return machine;
}
