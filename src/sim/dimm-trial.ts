// One trial: may this DIMM be pulled? Tried on the machine that is given, which is a fork: a trial leaves its traces.
//
//   nobody helps   block by block, as Linux ejects a DIMM: those that went come back when another does not go
//   with help      all blocks at once (mm/dimm-offline.ts): every block is asked, then emptied, once, then all are gone
//   then           is everything still there? who moved what, what does it cost?
//
//   moved by    migration   what Linux moves itself
//               memmap      struct pages                      (spec 9.D)
//               drivers     buffers at fixed places           (spec 9.E)
//               remap       kernel pages                      (spec 9.C)
//
// Nothing lost: each holder has as many frames as before; struct pages of the DIMM and tables of the remapping excepted.
// Source: spec 9.C, acceptance T-INGO.

import { err, ok, type Result } from '#base/result';
import { type DimmRefusal, type DimmRemoval, DimmWork, removeDimm } from '#mm/dimm-offline';
import type { Evictor } from '#mm/evictor';
import type { Blocker, Machine, PageClass, RefusalReason } from '#mm/index';
import { kremap } from '#mm/kremap/kremap';
import { kremapOf } from '#mm/kremap/kremap-state';
import type { Dimm } from './dimm-box.ts';

export const MOVERS = ['migration', 'memmap', 'drivers', 'remap'] as const;

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
  /** Of its blocks, those that went: Linux takes them one by one; where somebody helps, all go or none. */
  readonly blocksGone: number;
  /** Frames by whom they were moved. */
  readonly moved: Readonly<Record<(typeof MOVERS)[number], number>>;
  /** Leaves of the direct map that were split. */
  readonly splits: number;
  /** Upper bound of the TLB overhead, in millionths. */
  readonly tlbPpm: number;
  /** Holders that have fewer or more frames than before. */
  readonly lost: readonly string[];
};

/**
 * Pulls a DIMM out of `m`, in one pass. @param all  with help, all blocks are asked although one refused. Cost O(frames that move), and a fork where somebody helps.
 */
export function tryDimm(m: Machine, dimm: Dimm, evictors: readonly Evictor[], all = true): Trial {
  const before = framesByHolder(m);
  const done = evictors.length === 0 ? asLinux(m, dimm) : atOnce(m, dimm, evictors, all);
  const { blocks } = done.ok ? done.value : done.error;
  const moved = { migration: 0, memmap: 0, drivers: 0, remap: 0 };
  for (const b of blocks) {
    for (const who of MOVERS) moved[who] += b.moved[who] ?? 0;
  }
  const stat = kremapOf(m) === undefined ? undefined : kremap(m).stat();
  return {
    removed: done.ok,
    why: done.ok ? undefined : nameOf(done.error),
    blocksGone: done.ok || evictors.length === 0 ? blocks.filter((b) => b.refusal === undefined).length : 0,
    moved,
    splits: stat?.splits ?? 0,
    tlbPpm: stat?.tlb.boundPpm ?? 0,
    lost: lostFrom(m, before),
  };
}

const asLinux = (m: Machine, dimm: Dimm): Result<DimmRemoval, DimmRefusal> =>
  removeDimm(m, dimm.ranges, { compat: 'linux' });

/** What was moved when it was refused stays moved, as the machine is a copy. */
function atOnce(m: Machine, dimm: Dimm, evictors: readonly Evictor[], all: boolean): Result<DimmRemoval, DimmRefusal> {
  const work = new DimmWork(m, dimm.ranges, { evictors, all });
  while (!work.finished) work.step();
  return work.refusal === undefined ? ok(work.report as DimmRemoval) : err(work.refusal); // it is finished
}

/** The first in the way; what never moves before what might. A block of two zones has nobody, its neighbours may. */
function nameOf(r: DimmRefusal): NamedReason {
  const all = [...r.blockers, ...r.blocks.flatMap((b) => b.refusal?.blockers ?? [])];
  const first = all.find((b) => b.cause === 'hard-pinned') ?? all[0];
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
