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
import { type Machine, PAGE_SIZE } from '#mm/index';
import { kernelClassOf } from '#mm/kernel-class';
import { remapEvictor } from '#mm/kremap/evictor';
import { type Dimm, holds } from '#sim/dimm-box';
import { blocksOf, removableBlocks, type Trial, tryDimm } from '#sim/dimm-trial';
import { type FragmentSpec, fragment, INGO_BOX } from '#sim/fragment';

/** Each adds its evictor to those of the helps before it. */
const HELPS = {
  linux: [],
  remap: [remapEvictor()],
} as const satisfies Readonly<Record<string, readonly Evictor[]>>;
export type Help = keyof typeof HELPS;
export const INGO_HELPS = Object.keys(HELPS) as readonly Help[]; // literal keys, in order

/** A tenth of what mapping everything by small pages costs (4.5 %), in millionths: what T-INGO allows. */
export const INGO_TLB_PPM = 4500;

export type IngoDimm = {
  readonly name: string;
  readonly bytes: number;
  readonly blocks: number;
  /** Frames of class X: with some, nobody promises that it goes. */
  readonly hardPinnedPages: number;
  /** Of its blocks, how many Linux offlines. */
  readonly linuxBlocks: number;
  readonly trials: Readonly<Record<Help, Trial>>;
};

export type IngoReport = {
  readonly seed: number;
  readonly freePages: number;
  readonly managedPages: number;
  readonly dimms: readonly IngoDimm[];
};

export type IngoOptions = FragmentSpec & {
  /** Level of Machine.check after the last column; level 1 after the others. Default 3. */
  readonly check?: 1 | 2 | 3;
};

/** One seed. A machine that breaks an invariant throws. Cost: some seconds at 64 GiB. */
export function ingo(seed: number, options: IngoOptions = INGO_BOX): IngoReport {
  const { m, dimms, free, managed } = fragment(seed, options);
  sound(m, options.check ?? 3, { seed });
  const fork = m.fork();
  const tried = dimms.map((dimm): IngoDimm => {
    const linuxBlocks = removableBlocks(fork, dimm, []);
    const trials = {} as Record<Help, Trial>;
    let evictors: readonly Evictor[] = [];
    for (const help of INGO_HELPS) {
      evictors = [...evictors, ...HELPS[help]];
      fork.copyFrom(m);
      const trial = tryDimm(fork, dimm, evictors);
      sound(fork, help === INGO_HELPS.at(-1) ? (options.check ?? 3) : 1, { seed, dimm: dimm.name, help });
      assert(trial.lost.length === 0, 'nothing is lost', { seed, dimm: dimm.name, help, lost: trial.lost });
      trials[help] = trial;
    }
    fork.copyFrom(m);
    return {
      name: dimm.name,
      bytes: dimm.pages * PAGE_SIZE,
      blocks: blocksOf(m, dimm).length,
      hardPinnedPages: hardPinned(m, dimm),
      linuxBlocks,
      trials,
    };
  });
  return { seed, freePages: free, managedPages: managed, dimms: tried };
}

function sound(m: Machine, level: 1 | 2 | 3, values: Readonly<Record<string, unknown>>): void {
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
  readonly linuxBlocks: number;
  readonly blocks: number;
  /** With all the help. */
  readonly moved: Trial['moved'];
  readonly splits: number;
  readonly maxTlbPpm: number;
};

export function sumUp(reports: readonly IngoReport[]): IngoSums {
  const last = INGO_HELPS.at(-1) as Help; // there are some
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
    linuxBlocks: sum((d) => d.linuxBlocks),
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

/** A refusal names the cause and who it is, unless it is of a kind that has no blocker (a block of two zones). */
const isUnnamed = ({ removed, why }: Trial): boolean =>
  !removed &&
  (why === undefined ||
    (why.cause === 'none' && why.reason !== 'multizone') ||
    (why.class === 'none' && why.reason !== 'multizone'));
