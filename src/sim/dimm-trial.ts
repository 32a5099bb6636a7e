// One trial: may this DIMM be pulled? Tried on the machine that is given, which is a fork: a trial leaves its traces.
//
//   for each block of the DIMM   offline, once, with the evictors that help   ──refused──> named, the trial is over; where
//                                the refusal says nobody (a block of two zones), the next ones are asked who is there
//   all went                     remove the memory
//   then                         is everything still there? who moved what, what does it cost?
//
//   moved by    migration   what Linux moves itself
//               memmap      struct pages                      (spec 9.D)
//               drivers     buffers at fixed places           (spec 9.E)
//               remap       kernel pages, by kernel class     (spec 9.C)
//
// Nothing lost: each holder has as many frames as before; struct pages of the DIMM and tables of the remapping excepted.
// Source: spec 9.C, acceptance T-INGO.

import { type BlockId, toBlockId } from '#base/units';
import type { Evictor } from '#mm/evictor';
import type { Blocker, Machine, PageClass, Refusal, RefusalReason } from '#mm/index';
import { kremap } from '#mm/kremap/kremap';
import { kremapOf } from '#mm/kremap/kremap-state';
import type { Dimm } from './dimm-box.ts';

/** What stands in the way first, by name. */
export type NamedReason = {
  readonly reason: RefusalReason;
  readonly errno: string;
  readonly cause: Blocker['cause'] | 'none';
  readonly class: PageClass | 'none';
  readonly holder: string;
};

export type Trial = {
  readonly removed: boolean;
  /** Undefined when it was removed. */
  readonly why: NamedReason | undefined;
  /** Frames by whom they were moved. */
  readonly moved: Readonly<Record<'migration' | 'memmap' | 'drivers' | 'remap', number>>;
  /** Leaves of the direct map that were split. */
  readonly splits: number;
  /** Upper bound of the TLB overhead, in millionths. */
  readonly tlbPpm: number;
  /** Holders that have fewer or more frames than before. */
  readonly lost: readonly string[];
};

/** Ids of the blocks of a DIMM, ascending. */
export const blocksOf = (m: Machine, dimm: Dimm): BlockId[] =>
  dimm.ranges.flatMap(({ start, end }) => {
    const first = start / m.blockPages;
    return Array.from({ length: (end - start) / m.blockPages }, (_, k) => toBlockId(first + k));
  });

/** How many of its blocks go, each tried once in ascending order. Leaves its traces in `m`. */
export const removableBlocks = (m: Machine, dimm: Dimm, evictors: readonly Evictor[]): number =>
  blocksOf(m, dimm).filter((id) => m.offline(id, { evictors }).ok).length;

/** Pulls a DIMM out of `m`, in one pass. Cost O(frames that move), and one fork for each block in compat 'strict'. */
export function tryDimm(m: Machine, dimm: Dimm, evictors: readonly Evictor[]): Trial {
  const before = framesByHolder(m);
  const migrated = m.vmstat.pgmigrate_success;
  const claimed = new Map<string, number>();
  const counting = evictors.map((e) => counted(e, claimed));
  let refused: Refusal | undefined;
  for (const id of blocksOf(m, dimm)) {
    const done = m.offline(id, { evictors: counting });
    if (done.ok) continue;
    refused = done.error;
    if (refused.blockers.length > 0) break;
  }
  for (const range of refused === undefined ? dimm.ranges : []) {
    const gone = m.removeMemory(range);
    if (!gone.ok) refused = gone.error;
  }
  const stat = kremapOf(m) === undefined ? undefined : kremap(m).stat();
  const of = (name: string): number => claimed.get(name) ?? 0;
  return {
    removed: refused === undefined,
    why: refused === undefined ? undefined : nameOf(refused),
    moved: {
      migration: m.vmstat.pgmigrate_success - migrated - of('by migration'),
      memmap: of('memmap'),
      drivers: of('drivers'),
      remap: of('remap'),
    },
    splits: stat?.splits ?? 0,
    tlbPpm: stat?.tlb.boundPpm ?? 0,
    lost: lostFrom(m, before),
  };
}

/** An evictor whose moves are counted, those that it has done by ordinary migration too. */
function counted(e: Evictor, into: Map<string, number>): Evictor {
  const add = (name: string, pages: number): void => void into.set(name, (into.get(name) ?? 0) + pages);
  return {
    ...e,
    evict(m, a, range) {
      const before = m.vmstat.pgmigrate_success;
      const outcome = e.evict(m, a, range);
      if (outcome === 'moved') add(e.name, 1 << a.order);
      add('by migration', m.vmstat.pgmigrate_success - before);
      return outcome;
    },
  };
}

function nameOf(r: Refusal): NamedReason {
  const first = r.blockers[0];
  return {
    reason: r.reason,
    errno: r.errno,
    cause: first?.cause ?? 'none',
    class: first?.class ?? 'none',
    holder: first?.name ?? '',
  };
}

const framesByHolder = (m: Machine): Int32Array => m.holders.pages.slice(0, m.holders.length);

function lostFrom(m: Machine, before: Int32Array): string[] {
  const out: string[] = [];
  for (const [h, pages] of before.entries()) {
    const spec = m.holders.specs[h];
    const now = m.holders.pages[h] as number; // holders stay for ever
    // Struct pages go with the memory that they describe; page tables are made and given back where leaves are split.
    if (now === pages || spec?.class === 'memmap' || spec?.name.startsWith('page tables of') === true) continue;
    out.push(`${spec?.name}: ${pages} frames before, ${now} now`);
  }
  return out;
}
