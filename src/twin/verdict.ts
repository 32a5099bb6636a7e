// Verdicts: may this memory block go? Tried, not guessed: the block is offlined on a fork of the twin.
//
//   no      Linux refuses at once: EINVAL (holes, more than one zone) or EBUSY (a page that cannot move)
//   yes     the offline ran through on the fork, and nothing says that the real one would be different
//   maybe   nothing forbids it, but something that page flags cannot show may keep it from ending
//
//   question, in this order                                        verdict   errno
//   offline already                                                (none)
//   no page flags: only zones are known                            yes in Movable, else maybe, no where there is no zone
//   holes; more than one zone or node (valid_zones: none)          no        EINVAL
//   a page that isolation refuses                                  no        EBUSY
//   struct pages not initialised                                   maybe     (not known)
//   the fork could not move everything                             maybe     EINTR: Linux retries until a signal
//   signs of an extra reference (classify.ts: pinSign)             maybe     EINTR
//   whole pageblocks without flags, kernel zone                    maybe     EBUSY
//   otherwise                                                      yes
//
// Unflagged frames are taken to be free on per-CPU lists: on 516 real attempts no block was refused for them alone.
// Sources: spec 3.1, 3.2; docs/fidelity.md tells how it did beside real kernels.

import { type Evictor, withoutEvicted } from '#mm/evictor';
import {
  type Blocker,
  type BlockId,
  type ErrnoName,
  type Machine,
  OfflineWork,
  PAGE_CLASSES,
  PAGEBLOCK_PAGES,
  type Pfn,
  type Pool,
  toBlockId,
  toHolderId,
  toPfn,
} from '#mm/index';
import { offlineTargets } from '#mm/migrate';
import { ZONE_MOVABLE, ZONE_NORMAL } from '#mm/page-class';
import { offlineCost } from './cost.ts';
import { HOLDER_BUSY_CACHE, HOLDER_CLEAN } from './place-frames.ts';
import type { Figure, Provenance } from './provenance.ts';
import type { BlockEvidence, CountersTwin, PagesTwin, Twin } from './twin.ts';
import { HOLDER_DEFERRED, HOLDER_PCP, HOLDER_UNFLAGGED, HOLDER_WHOLE } from './unflagged.ts';

export type Verdict = 'yes' | 'no' | 'maybe';

export type VerdictCode =
  | 'all-free'
  | 'migrates'
  | 'unmovable'
  | 'hole'
  | 'multizone'
  | 'offline'
  | 'going-offline'
  | 'deferred'
  | 'no-target'
  | 'stuck'
  | 'pin-sign'
  | 'unflagged'
  | 'gigantic'
  | 'zone-only';

export type BlockVerdict = {
  readonly block: BlockId;
  readonly startPfn: Pfn;
  readonly endPfn: Pfn;
  readonly nodes: readonly number[];
  /** The zone it lies in; "none" where the kernel names none; for an offline block the zones it may go to. */
  readonly zones: readonly string[];
  readonly state: string;
  /** Undefined for a block that is offline. */
  readonly verdict: Verdict | undefined;
  readonly code: VerdictCode;
  /** What Linux would answer, for `no` and most `maybe`. */
  readonly errno: ErrnoName | undefined;
  /** One sentence for a person. */
  readonly reason: string;
  /** What stands in the way, or may; runs of frames, ascending. */
  readonly blockers: readonly Blocker[];
  readonly blockingPages: number;
  /** Frames in use that would have to move, and how long that takes. */
  readonly pagesToMigrate: Figure;
  readonly predictedMs: Figure;
  /** How far the verdict rests on what was read. */
  readonly provenance: Provenance;
};

const NONE: Figure = { value: 0, provenance: 'derived' };

/** What an offline on the twin may use beyond what Linux has: for plans (plan/removal.ts). */
export type JudgeHelp = {
  /** A copy of the twin's machine to judge on: what is known better of its holders, say. Default: the twin's. */
  readonly machine?: Machine;
  readonly evictors?: readonly Evictor[];
  /** Makes contiguous free memory in these pools. */
  readonly compact?: (fork: Machine, pools: readonly Pool[]) => void;
  /** Told of each offline that ran through, on the fork it ran on. */
  readonly onDone?: (block: BlockId, fork: Machine, work: OfflineWork) => void;
};

/** Judges blocks one after another; keeps one fork and resets it, so that 200 blocks cost 200 resets, not 200 forks. */
export class Judge {
  readonly #twin: Twin;
  readonly #help: JudgeHelp;
  #fork: Machine | undefined;

  constructor(twin: Twin, help: JudgeHelp = {}) {
    this.#twin = twin;
    this.#help = help;
  }

  /** Each block on its own, as if it were the only one to go. */
  judge(id: BlockId): BlockVerdict | undefined {
    const twin = this.#twin;
    const listed = twin.blocks.find((b) => b.id === id);
    if (listed === undefined) return undefined;
    const startPfn = toPfn(id * twin.blockPages);
    const base = {
      block: id,
      startPfn,
      endPfn: toPfn(startPfn + twin.blockPages),
      nodes: listed.nodes,
      zones: listed.validZones ?? [],
      state: listed.state,
      errno: undefined,
      blockers: [],
      blockingPages: 0,
      pagesToMigrate: NONE,
      predictedMs: NONE,
      provenance: 'measured' as Provenance,
    };
    if (listed.state === 'offline') {
      return { ...base, verdict: undefined, code: 'offline', reason: 'offline already' };
    }
    const none = listed.validZones !== undefined && listed.validZones.length !== 1;
    if (twin.level === 'counters') return { ...base, ...byZone(twin, base.zones, none) };
    return { ...base, ...this.#byPages(twin, id, none), ...(listed.state === 'going-offline' ? GOING : {}) };
  }

  #byPages(
    twin: PagesTwin,
    id: BlockId,
    none: boolean,
  ): Partial<BlockVerdict> & Pick<BlockVerdict, 'verdict' | 'code' | 'reason'> {
    const m = this.#help.machine ?? twin.machine;
    const info = m.block(id);
    if (info === undefined || (none && info.absent === 0)) {
      return {
        verdict: 'no',
        code: 'multizone',
        errno: 'EINVAL',
        reason: 'lies in more than one zone or node; Linux never takes such a block offline',
      };
    }
    if (info.absent > 0) {
      return {
        verdict: 'no',
        code: 'hole',
        errno: 'EINVAL',
        reason: `has memory holes: ${info.absent} of its pages are not RAM; Linux never takes such a block offline`,
      };
    }
    if (info.pool === undefined) {
      return { verdict: 'no', code: 'multizone', errno: 'EINVAL', reason: 'lies in more than one zone' };
    }
    const evidence = twin.evidence.get(id) as BlockEvidence; // made for every block of the machine
    const row = m.blocks.rowOf(id);
    const first = toPfn(info.startPfn + (m.blocks.vmemmapPages[row] as number));
    const all = stillInTheWay(m, first, info.endPfn, this.#help.evictors ?? []);
    const hard = all.filter((b) => !isSoft(b.name));
    if (hard.length > 0) {
      const blockingPages = framesIn(hard);
      if (evidence.giganticTail && hard.every((b) => b.class === 'gigantic')) {
        return {
          verdict: 'maybe',
          code: 'gigantic',
          errno: 'EBUSY',
          blockers: hard,
          blockingPages,
          provenance: 'derived',
          reason:
            'a 1 GiB huge page ends here; the last block of one gets past the check: dissolved if free, else retried for ever',
        };
      }
      return {
        verdict: 'no',
        code: 'unmovable',
        errno: 'EBUSY',
        blockers: hard,
        blockingPages,
        reason: `${countPages(blockingPages)} cannot move: ${topClasses(hard)}`,
      };
    }
    if (evidence.deferred > 0) {
      const blockers = all.filter((b) => b.name === HOLDER_DEFERRED);
      return {
        verdict: 'maybe',
        code: 'deferred',
        errno: undefined,
        blockers,
        blockingPages: framesIn(blockers),
        provenance: 'derived',
        reason: `${countPages(evidence.deferred)} are not initialised yet (deferred struct pages): what this kernel does then was never measured`,
      };
    }
    return this.#tryOffline(twin, id, evidence, all);
  }

  #tryOffline(
    twin: PagesTwin,
    id: BlockId,
    evidence: BlockEvidence,
    soft: readonly Blocker[],
  ): Partial<BlockVerdict> & Pick<BlockVerdict, 'verdict' | 'code' | 'reason'> {
    const from = this.#help.machine ?? twin.machine;
    const { evictors, compact } = this.#help;
    const fork = this.#freshFork(from);
    const { pages, hugePages } = usedIn(fork, id);
    let work = runOffline(fork, id, evictors);
    let reclaimed = 0;
    // Linux would make room: the migration target is allocated with direct reclaim, which drops clean page cache, and if
    // that is not enough unmaps and writes back the rest of it, for as long as there is progress.
    for (const names of [[HOLDER_CLEAN], [HOLDER_CLEAN, HOLDER_BUSY_CACHE]]) {
      if (work.refusal?.reason !== 'no-target') break;
      const again = this.#freshFork(from);
      reclaimed = reclaimCache(again, id, names, pages + hugePages * PAGEBLOCK_PAGES);
      if (reclaimed > 0) work = runOffline(again, id, evictors);
    }
    const pool = from.block(id)?.pool;
    if (work.refusal?.reason === 'no-target' && compact !== undefined && pool !== undefined) {
      const again = this.#freshFork(from);
      compact(
        again,
        [...offlineTargets(again, pool)].map((k) => again.pools[k]),
      );
      work = runOffline(again, id, evictors);
    }
    if (work.refusal === undefined) this.#help.onDone?.(id, fork, work);
    const cost = {
      pagesToMigrate: { value: work.migratedPages, provenance: 'derived' as const },
      predictedMs: offlineCost({ pageblocks: twin.blockPages / PAGEBLOCK_PAGES, pages, hugePages }),
    };
    if (work.refusal !== undefined) {
      const noTarget = work.refusal.reason === 'no-target';
      const left = framesIn(work.refusal.blockers);
      return {
        ...cost,
        verdict: 'maybe',
        code: noTarget ? 'no-target' : 'stuck',
        errno: 'EINTR',
        blockers: work.refusal.blockers,
        blockingPages: left,
        provenance: 'derived',
        reason: noTarget
          ? `${countPages(left)} have nowhere to go now: Linux would retry until memory is freed elsewhere or a signal comes`
          : `${countPages(left)} in ZONE_MOVABLE do not move: Linux would retry until a signal comes`,
      };
    }
    const pins = evidence.userPins + evidence.devicePins;
    if (pins > 0) {
      return {
        ...cost,
        verdict: 'maybe',
        code: 'pin-sign',
        errno: 'EINTR',
        blockers: pinBlockers(twin.machine, evidence),
        blockingPages: pins,
        provenance: 'derived',
        reason:
          evidence.userPins > 0
            ? `${countPages(evidence.userPins)} look pinned (a pipe or a driver holds them): Linux would retry until they are let go or a signal comes`
            : `${countPages(evidence.devicePins)} of file system metadata look held: Linux would retry until they are let go or a signal comes`,
      };
    }
    if (evidence.unflaggedWhole > 0) {
      return {
        ...cost,
        verdict: 'maybe',
        code: 'unflagged',
        errno: 'EBUSY',
        blockers: soft.filter((b) => b.name === HOLDER_WHOLE),
        blockingPages: evidence.unflaggedWhole,
        provenance: 'derived',
        reason: `${countPages(evidence.unflaggedWhole)} in whole pageblocks show no flags: kernel memory (the memory map of hot-added memory?) or free`,
      };
    }
    const free = work.migratedPages === 0;
    return {
      ...cost,
      verdict: 'yes',
      code: free ? 'all-free' : 'migrates',
      errno: undefined,
      provenance: evidence.unflagged > 0 ? 'derived' : 'measured',
      reason: free
        ? 'nothing in use'
        : `${countPages(work.migratedPages)} would move elsewhere` +
          (reclaimed > 0 ? `, after Linux drops up to ${countPages(reclaimed)} of page cache to make room` : ''),
    };
  }

  #freshFork(m: Machine): Machine {
    if (this.#fork === undefined) this.#fork = m.fork();
    else this.#fork.copyFrom(m);
    return this.#fork;
  }
}

/** Linux is at it already: whether it ends is being decided right now. */
const GOING = {
  verdict: 'maybe' as Verdict,
  code: 'going-offline' as VerdictCode,
  errno: 'EINTR' as ErrnoName,
  reason: 'is going offline right now; if that lasts, a page in it does not move',
};

function byZone(
  twin: CountersTwin,
  zones: readonly string[],
  none: boolean,
): Pick<BlockVerdict, 'verdict' | 'code' | 'reason' | 'provenance'> & Partial<BlockVerdict> {
  if (none) {
    return {
      verdict: 'no',
      code: 'multizone',
      errno: 'EINVAL',
      provenance: 'measured',
      reason: 'the kernel names no zone for it (holes, or more than one zone): Linux never takes such a block offline',
    };
  }
  if (zones[0] === 'Movable') {
    return {
      verdict: 'yes',
      code: 'zone-only',
      provenance: 'assumed',
      reason: 'in ZONE_MOVABLE; page flags were not readable, so pins and boot reservations are not known',
    };
  }
  const share = unmovableShare(twin, zones[0]);
  return {
    verdict: 'maybe',
    code: 'zone-only',
    provenance: 'assumed',
    reason:
      share === undefined
        ? 'in a kernel zone; page flags were not readable, so nothing is known of its pages'
        : `in a kernel zone of which ${share} % of the pageblocks are not Movable; page flags were not readable`,
  };
}

function unmovableShare(twin: CountersTwin, zone: string | undefined): number | undefined {
  const x = twin.pagetypes;
  if (x === undefined) return undefined;
  const movable = x.types.indexOf('Movable');
  let all = 0;
  let other = 0;
  for (const row of x.blocks) {
    if (row.zone !== zone) continue;
    row.counts.forEach((n, k) => {
      all += n;
      if (k !== movable) other += n;
    });
  }
  return all === 0 ? undefined : Math.round((100 * other) / all);
}

const SOFT: ReadonlySet<string> = new Set([HOLDER_PCP, HOLDER_UNFLAGGED, HOLDER_WHOLE, HOLDER_DEFERRED]);
const isSoft = (name: string): boolean => SOFT.has(name);

/** What isolation refuses, without what an evictor would take away. */
function stillInTheWay(m: Machine, start: Pfn, end: Pfn, evictors: readonly Evictor[]): readonly Blocker[] {
  const found = m.blockersIn(start, end);
  return evictors.length === 0 ? found : withoutEvicted(m, found, evictors);
}

/** The runs that look held, with the holder of each one's first frame. */
function pinBlockers(m: Machine, evidence: BlockEvidence): Blocker[] {
  const sorted = [...evidence.pinRuns].sort((a, b) => a.startPfn - b.startPfn);
  return sorted.flatMap((r): Blocker[] => {
    const f = m.frame(toPfn(r.startPfn));
    if (f.state !== 'used') return [];
    const { holder, name } = f;
    return [{ startPfn: toPfn(r.startPfn), endPfn: toPfn(r.endPfn), cause: 'pinned', class: f.class, holder, name }];
  });
}

/** On the fork, unflagged frames become free: see the note at the top. */
export function releaseSoft(m: Machine, id: BlockId): void {
  const block = m.block(id);
  if (block === undefined) return;
  for (let pfn: number = block.startPfn; pfn < block.endPfn; ) {
    const f = m.frame(toPfn(pfn));
    if (f.state !== 'used') {
      pfn++;
      continue;
    }
    if (f.class === 'unknown' && isSoft(f.name)) m.free(f.head);
    pfn = f.head + (1 << f.order);
  }
}

/** Tries the block on a fork, to the end. */
export function runOffline(fork: Machine, id: BlockId, evictors: readonly Evictor[] = []): OfflineWork {
  releaseSoft(fork, id);
  const work = new OfflineWork(fork, id, { evictors });
  while (!work.finished) work.step();
  return work;
}

/**
 * On the fork: direct reclaim. Frees page cache of the named holders in the pools where the block's pages may go, until
 * `pages` more frames would fit above the low watermarks there. @returns how many were freed.
 */
function reclaimCache(fork: Machine, id: BlockId, names: readonly string[], pages: number): number {
  const block = fork.block(id);
  if (block?.pool === undefined) return 0;
  const targets = new Set([...offlineTargets(fork, block.pool)].map((k) => fork.pools[k]));
  let wanted = pages;
  for (const p of targets) {
    const mark = p.watermarks.low + p.watermarks.reserve[block.pool.name === 'Movable' ? ZONE_MOVABLE : ZONE_NORMAL];
    if (mark < p.managed) wanted += Math.max(0, mark + 1 - p.alloc.nrFree()); // ZONE_DMA is out of reach as a rule
  }
  const heads: Pfn[] = [];
  let found = 0;
  fork.holders.specs.forEach((spec, h) => {
    if (!names.some((name) => spec.name.startsWith(name))) return;
    fork.forEachFrameOf(toHolderId(h), (head, order) => {
      if (found >= wanted || (head >= block.startPfn && head < block.endPfn)) return;
      if (!targets.has(fork.poolAt(fork.sections.indexOf(head)) as Pool)) return; // used frames lie in a pool
      heads.push(head);
      found += 1 << order;
    });
  });
  for (const head of heads) fork.free(head);
  for (const p of fork.pools) p.alloc.drain();
  return found;
}

function usedIn(m: Machine, id: BlockId): { pages: number; hugePages: number } {
  const out = { pages: 0, hugePages: 0 };
  const block = m.block(id);
  if (block === undefined) return out;
  for (let pfn: number = block.startPfn; pfn < block.endPfn; ) {
    const f = m.frame(toPfn(pfn));
    if (f.state !== 'used') {
      pfn++;
      continue;
    }
    if (f.class !== 'unknown' && f.class !== 'poisoned' && f.class !== 'unplugged' && f.class !== 'memmap') {
      if (f.order === 9) out.hugePages++;
      else out.pages += 1 << f.order;
    }
    pfn = f.head + (1 << f.order);
  }
  return out;
}

export const framesIn = (blockers: readonly Blocker[]): number =>
  blockers.reduce((n, b) => n + (b.endPfn - b.startPfn), 0);

const countPages = (n: number): string => `${n} page${n === 1 ? '' : 's'}`;

/** "2131 slab, 40 pagetable": the largest classes first, three at the most. */
export function topClasses(blockers: readonly Blocker[]): string {
  const by = new Map<string, number>();
  for (const b of blockers) by.set(b.class, (by.get(b.class) ?? 0) + b.endPfn - b.startPfn);
  const order = [...by].sort(
    (a, b) => b[1] - a[1] || PAGE_CLASSES.indexOf(a[0] as never) - PAGE_CLASSES.indexOf(b[0] as never),
  );
  const shown = order.slice(0, 3).map(([cls, n]) => `${n} ${cls}`);
  return shown.join(', ') + (order.length > 3 ? ', ...' : '');
}

/** Every block of the capture, ascending. */
export function judgeAll(twin: Twin): BlockVerdict[] {
  const judge = new Judge(twin);
  return twin.blocks.map((b) => judge.judge(toBlockId(b.id)) as BlockVerdict); // each listed block has a verdict
}
