// T-INGO: "I have stopped all nonessential services, and free RAM is at 90 %, still I cannot remove that piece of faulty
// RAM" (Hansen 2005, quoting Ingo Molnar). The answer: you can, here is what it cost.
//
//   fragment(seed) ──fork──> pull DIMM k as Linux would             why not: first blocker
//                  ──fork──> the same, and struct pages move        (9.D)
//                  ──fork──> the same, and drivers give areas up    (9.E)
//                  ──fork──> the same, and kernel pages move        (9.C)      pages moved, splits, TLB
//
// Each column adds one help to those before it. DIMM 0 holds what never moves (class X): it cannot go, and is named. After
// each trial the machine's invariants are checked and no holder has lost a frame.
//
// Source: spec 9.C, acceptance T-INGO; H3 (4.5 % is what mapping everything by small pages costs).

import { assert } from '#base/assert';
import type { Evictor } from '#mm/evictor';
import { auditDevices, DmaMonitor, deviceClock, runDevices } from '#mm/fixed-areas/device-model';
import { driversEvictor } from '#mm/fixed-areas/evictor';
import { type Machine, PAGE_SIZE } from '#mm/index';
import { kernelClassOf } from '#mm/kernel-class';
import { remapEvictor } from '#mm/kremap/evictor';
import { memmapEvictor } from '#mm/memmap-evictor';
import { type Dimm, holds } from '#sim/dimm-box';
import { type Trial, tryDimm } from '#sim/dimm-trial';
import { type FragmentSpec, fragment, INGO_BOX } from '#sim/fragment';

export const INGO_HELPS = ['linux', 'memmap', 'drivers', 'remap'] as const;
export type Help = (typeof INGO_HELPS)[number];

/** For all drivers of one block together: longer than any of them takes to be quiet. */
const DEADLINE_MS = 10_000;

/** Each adds its evictor to those of the helps before it. Devices go on writing while somebody waits. */
const evictorsOf = (monitor: DmaMonitor): Readonly<Record<Help, readonly Evictor[]>> => {
  const memmap = memmapEvictor({ guests: 'all' });
  const drivers = driversEvictor({ deadlineMs: DEADLINE_MS, clock: deviceClock(monitor) });
  return { linux: [], memmap: [memmap], drivers: [memmap, drivers], remap: [memmap, drivers, remapEvictor()] };
};

/** A tenth of what mapping everything by small pages costs (4.5 %), in millionths: what T-INGO allows. */
export const INGO_TLB_PPM = 4500;

export type IngoDimm = {
  readonly name: string;
  readonly bytes: number;
  readonly blocks: number;
  /** Frames of class X: with some, nobody promises that it goes. */
  readonly hardPinnedPages: number;
  readonly trials: Readonly<Record<Help, Trial>>;
};

export type IngoReport = {
  readonly seed: number;
  readonly freePages: number;
  readonly managedPages: number;
  /** By devices, in all trials; each was held against the frames that are the device's. */
  readonly dmaWrites: number;
  readonly dimms: readonly IngoDimm[];
};

export type IngoOptions = FragmentSpec & {
  /**
   * Machine.check looks at every frame (level 3) after the last trial of every DIMM, or of one DIMM, which is another with
   * each seed; at the lists and maps (level 1) after all other trials. Default 'every'. It is two thirds of the cost.
   */
  readonly thorough?: 'every' | 'one';
};

/** One seed. A machine that breaks an invariant throws. Cost: some seconds at 64 GiB. */
export function ingo(seed: number, options: IngoOptions = INGO_BOX): IngoReport {
  const { m, dimms, free, managed } = fragment(seed, options);
  sound(m, 3, { seed });
  const fork = m.fork();
  const monitor = new DmaMonitor();
  const evictors = evictorsOf(monitor);
  const tried = dimms.map((dimm, k): IngoDimm => {
    const thorough = options.thorough !== 'one' || k === seed % dimms.length;
    const pinned = hardPinned(m, dimm);
    const trials = {} as Record<Help, Trial>; // each is written in the loop
    for (const help of INGO_HELPS) {
      fork.copyFrom(m);
      const trial = tryDimm(fork, dimm, evictors[help], pinned > 0);
      runDevices(fork, 3, monitor);
      sound(fork, help === 'remap' && thorough ? 3 : 1, { seed, dimm: dimm.name, help });
      const wrong = [...trial.lost, ...monitor.violations, ...auditDevices(fork)];
      assert(wrong.length === 0, 'nothing is lost, no DMA goes astray', { seed, dimm: dimm.name, help, wrong });
      trials[help] = trial;
    }
    const blocks = dimm.pages / m.blockPages;
    return { name: dimm.name, bytes: dimm.pages * PAGE_SIZE, blocks, hardPinnedPages: pinned, trials };
  });
  return { seed, freePages: free, managedPages: managed, dmaWrites: monitor.writes, dimms: tried };
}

function sound(m: Machine, level: 1 | 3, values: Readonly<Record<string, unknown>>): void {
  const violations = m.check(level);
  assert(violations.length === 0, 'the machine is sound', { ...values, violations });
}

/** Frames of a DIMM that never move. Cost O(allocations of class X). */
function hardPinned(m: Machine, dimm: Dimm): number {
  let pages = 0;
  for (let h = 0; h < m.holders.length; h++) {
    const spec = m.holders.specs[h];
    if (spec === undefined || kernelClassOf(spec) !== 'X') continue;
    m.holders.forEachMember(h, (frame) => {
      const a = m.sections.allocationAt(frame);
      if (a !== undefined && holds(dimm, m.sections.pfnOf(frame))) pages += 1 << a.order;
    });
  }
  return pages;
}

/** Sums over seeds. */
export type IngoSums = {
  readonly seeds: number;
  readonly dimms: number;
  readonly withoutX: number;
  /** DIMMs that were removed, of all, by help. */
  readonly removed: Readonly<Record<Help, number>>;
  /** DIMMs without class X that were not removed with all the help. */
  readonly stayed: number;
  /** Failures, whatever the help, without a reason that names who stands in the way. */
  readonly unnamed: number;
  /** Blocks that Linux takes offline, of all. */
  readonly linuxBlocks: number;
  readonly blocks: number;
  /** With all the help. */
  readonly moved: Trial['moved'];
  readonly splits: number;
  readonly maxTlbPpm: number;
};

export function sumUp(reports: readonly IngoReport[]): IngoSums {
  const last: Help = 'remap';
  const dimms = reports.flatMap((r) => r.dimms);
  const sum = (of: (d: IngoDimm) => number): number => dimms.reduce((n, d) => n + of(d), 0);
  const moved = (who: keyof Trial['moved']): number => sum((d) => d.trials[last].moved[who]);
  const removed = {} as Record<Help, number>;
  for (const help of INGO_HELPS) removed[help] = sum((d) => (d.trials[help].removed ? 1 : 0));
  return {
    seeds: reports.length,
    dimms: dimms.length,
    withoutX: sum((d) => (d.hardPinnedPages === 0 ? 1 : 0)),
    removed,
    stayed: sum((d) => (d.hardPinnedPages === 0 && !d.trials[last].removed ? 1 : 0)),
    unnamed: sum((d) => INGO_HELPS.filter((help) => isUnnamed(d.trials[help])).length),
    linuxBlocks: sum((d) => d.trials.linux.blocksGone),
    blocks: sum((d) => d.blocks),
    moved: {
      migration: moved('migration'),
      memmap: moved('memmap'),
      drivers: moved('drivers'),
      remap: moved('remap'),
    },
    splits: sum((d) => d.trials[last].splits),
    maxTlbPpm: dimms.reduce((max, d) => Math.max(max, d.trials[last].tlbPpm), 0),
  };
}

/** A refusal names the cause, and who it is. */
const isUnnamed = ({ removed, why }: Trial): boolean =>
  !removed && (why === undefined || why.cause === 'none' || why.holder === '');
