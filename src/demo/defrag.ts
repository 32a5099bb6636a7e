// Strategies of defragmentation on one seeded load: Linux's, and those that Hansen, Mooley and Phillips spoke of in 2004.
//
//   strategies   who makes blocks of order 9 for bursts of requests, on memory that is in use and in pieces (burst-load.ts)
//   files        what is left of deleted files, by how their page cache was handed out (fill-delete.ts)
//
// Time is counted in page copies of the CPU that serves requests. For kcompactd a copy is taken as a microsecond, which
// decides only when its half seconds come; it wakes when a request asks, at whatever speed. Deterministic in the seed.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import { toNodeId, toPfn } from '#base/units';
import { compactionSlowPath } from '#mm/compaction/direct';
import { kcompactdTick } from '#mm/compaction/kcompactd';
import { type MakerKind, MOST_HELD } from '#mm/defrag/block-maker';
import { type BurstOptions, burstLoad } from '#mm/defrag/burst-load';
import { Defragmenter, type DefragSettings, type Worker } from '#mm/defrag/defragmenter';
import { deleteEveryOther, type FillHow, fillFiles, freeInOrder } from '#mm/defrag/fill-delete';
import { Machine, PAGE_SIZE } from '#mm/index';
import { ZONE_NORMAL } from '#mm/page-class';

export const DEFRAG_STRATEGIES = [
  'nobody',
  'linux',
  'scanners: failure',
  'scanners: failure, daemon',
  'scanners: failure, idle',
  'scanners: all three',
  'by cost: failure',
  'by cost: failure, daemon',
  'by cost: failure, idle',
  'by cost: all three',
] as const;

export type DefragRow = {
  readonly strategy: (typeof DEFRAG_STRATEGIES)[number];
  readonly requests: number;
  readonly served: number;
  /** Requests that found no block, and waited until one was made, or were refused. */
  readonly stalls: number;
  /** Pages copied while a request waited, the most. */
  readonly mostWaited: number;
  /** Of idle work: part of a page that a request had to wait for, the most. */
  readonly mostIdleDelay: number;
  readonly moved: number;
  /** Blocks of order 9 that there are more: served, and free in the end. */
  readonly gained: number;
};

export type FilesRow = {
  readonly how: FillHow;
  /** Processes that wrote at one time. */
  readonly writers: number;
  readonly filePages: number;
  /** Reserved and not used, the most at any time. */
  readonly mostTails: number;
  /** Part of free memory in order 9 and above, after every other file was deleted: 0 to 1. */
  readonly large: number;
};

export type DefragReport = {
  readonly seed: number;
  readonly ramBytes: number;
  readonly strategies: readonly DefragRow[];
  readonly files: readonly FilesRow[];
};

const SEED = 2004;
const PAGES = 2 * 32768; // 256 MiB: 128 pageblocks
const LOAD: Omit<BurstOptions, 'prng'> = {
  used: 0.7,
  kernel: 0.03,
  bursts: 12,
  burst: 6,
  gap: 64,
  every: 8192,
  churnPages: 64,
  churnEvery: 256,
  churnBusy: 64,
  tickEvery: 256,
};
const FILES = { filePages: 128, filesPerProcess: 2, longestWrite: 16 } as const;

/** Runs all of it. A machine that breaks an invariant on the way throws. Cost: some seconds. */
export function defrag(options: { readonly seed?: number } = {}): DefragReport {
  const seed = options.seed ?? SEED;
  return {
    seed,
    ramBytes: PAGES * PAGE_SIZE,
    strategies: DEFRAG_STRATEGIES.map((s) => strategyRow(s, seed)),
    files: [16, 64].flatMap((writers) =>
      (['plain', 'pool', 'pool-told'] as const).map((how) => filesRow(how, writers, seed)),
    ),
  };
}

const boot = (): Machine =>
  Machine.boot({
    ram: [{ start: toPfn(0), end: toPfn(PAGES), node: toNodeId(0), zone: ZONE_NORMAL }],
    placement: 'lifo',
    code: 'shared',
  });

function strategyRow(strategy: DefragRow['strategy'], seed: number): DefragRow {
  const m = boot();
  const { slept: _, waited: __, ...counted } = burstLoad(m, workerOf(m, strategy), { ...LOAD, prng: new Prng(seed) });
  assert(m.check(1).length === 0, 'the machine is sound', { strategy });
  return { strategy, ...counted };
}

function workerOf(m: Machine, strategy: DefragRow['strategy']): Worker | undefined {
  if (strategy === 'nobody') return undefined;
  if (strategy === 'linux') return LINUX(m);
  const all = strategy.endsWith('all three');
  const maker: MakerKind = strategy.startsWith('by cost') ? 'directed' : 'scanners';
  const settings: DefragSettings = {
    maker,
    thresholds: [{ order: 9, low: LOAD.burst, high: 2 * LOAD.burst }],
    pause: 2 * MOST_HELD,
    failure: {},
    ...((all || strategy.endsWith('daemon')) && { daemon: { pages: [MOST_HELD, 2 * MOST_HELD, LOAD.tickEvery] } }),
    ...((all || strategy.endsWith('idle')) && { idle: {} }),
  };
  return new Defragmenter(m, settings);
}

/** Direct compaction, and kcompactd when a request has woken it. */
const LINUX = (m: Machine): Worker => ({
  slowPath: () => compactionSlowPath(),
  tick: (now) => {
    const before = m.vmstat.pgmigrate_success;
    kcompactdTick(m, now / 1000);
    return m.vmstat.pgmigrate_success - before;
  },
  idle: () => 0,
});

function filesRow(how: FillHow, writers: number, seed: number): FilesRow {
  const m = boot();
  const report = fillFiles(m, { how, prng: new Prng(seed), running: writers, ...FILES });
  deleteEveryOther(m, how, report.files);
  assert(m.check(1).length === 0, 'the machine is sound', { how, writers });
  const { filePages, mostTails } = report;
  return { how, writers, filePages, mostTails, large: freeInOrder(m) };
}
