// Removal compared: of the memory one would like to take out, how much goes with Linux as it is, and with each help more?
//
//   target's blocks ──> stage linux        each block alone, on a fork │ then together, on one fork
//                  ──> stage + compaction  the same, with one help more
//                  ──> stage + memmap ...
//
// Each stage is executed, nothing is estimated: verdicts and the joint answer are the twin's (twin/verdict.ts, joint.ts), which
// take what helps as an argument. What still does not go after a stage is grouped by cause and holder, so that every block
// that stays has a name for it. Times are assumed constants (twin/cost.ts, and below), good for comparing only.
//
// Invariant: with more helps no block stays that went before (checked by the tests, not forced here).
//
// Issue: "the answer becomes: you can, here is what it cost". Hansen 2005; spec 9.C to 9.E.

import type { Result } from '#base/result';
import { err, ok } from '#base/result';
import { compactZone } from '#mm/compaction/compact-zone';
import type { Evictor } from '#mm/evictor';
import { driversEvictor } from '#mm/fixed-areas/evictor';
import {
  type BlockerCause,
  type BlockId,
  type Machine,
  PAGE_SIZE,
  PAGEBLOCK_ORDER,
  type PageClass,
  type Pool,
} from '#mm/index';
import { remapEvictor } from '#mm/kremap/evictor';
import { kremap } from '#mm/kremap/kremap';
import { memmapEvictor } from '#mm/memmap-evictor';
import {
  type BlockVerdict,
  type Figure,
  type JointAnswer,
  Judge,
  type JudgeHelp,
  jointly,
  type Twin,
} from '#twin/index';
import { HELPS, type Help } from './help.ts';
import { classified } from './kernel-classes.ts';

/** What still stays after a stage, by what stands in the way; a block may be in several groups. */
export type LeftGroup = {
  /** Of the blocks' verdict where no page is to blame: 'hole', 'multizone'. */
  readonly cause: BlockerCause | BlockVerdict['code'];
  readonly class: PageClass | 'none';
  readonly name: string;
  readonly pages: number;
  readonly blocks: readonly BlockId[];
};

export type RemovalStage = {
  /** What this stage adds to the one before. */
  readonly adds: Help | 'linux';
  /** Blocks that go one by one; that might (no page flag tells); that would not. */
  readonly yes: readonly BlockId[];
  readonly maybe: readonly BlockId[];
  readonly no: readonly BlockId[];
  readonly together: Pick<JointAnswer, 'order' | 'bytes' | 'stoppedBy'>;
  /** All of the target that is online goes, together. */
  readonly whole: boolean;
  /** For what goes together: pages that move, by all means; of them the kernel's; large mappings of the direct map that split. */
  readonly pagesMoved: Figure;
  readonly pagesRemapped: Figure;
  readonly mappingsSplit: Figure;
  readonly predictedMs: Figure;
  readonly left: readonly LeftGroup[];
};

export type RemovalComparison = {
  readonly blocks: number;
  readonly bytes: number;
  readonly stages: readonly RemovalStage[];
};

export type CompareOptions = {
  readonly helps?: readonly Help[];
  /** Told (blocks judged, of all stages). */
  readonly onProgress?: (done: number, of: number) => void;
};

/** What drivers of one block get together. A twin's are taken to answer at once. */
const DEADLINE_MS = 1000;
/** Remapping a page: copy, switch, shoot down, in milliseconds; and the split of a large mapping before. Assumed. */
const REMAP_MS = 0.01;
const SPLIT_MS = 0.05;

/**
 * @param blocks  of the target, ascending
 * @returns a stage for Linux and one for each help, in the order of HELPS; refused for a twin without page flags, of which
 *          nothing can be tried. Cost: some milliseconds a block and stage
 */
export function compareRemoval(
  twin: Twin,
  blocks: readonly BlockId[],
  options: CompareOptions = {},
): Result<RemovalComparison, string> {
  if (twin.level === 'counters')
    return err('without page flags nothing can be tried: who holds which page is not known');
  const helps = HELPS.filter((h) => (options.helps ?? HELPS).includes(h));
  const machine = classified(twin);
  const stages: RemovalStage[] = [];
  const of = blocks.length * (helps.length + 1);
  for (let k = 0; k <= helps.length; k++) {
    const upTo = helps.slice(0, k);
    const done = k * blocks.length;
    stages.push(
      stageOf(twin, machine, blocks, upTo, (n) => {
        options.onProgress?.(done + n, of);
      }),
    );
  }
  return ok({ blocks: blocks.length, bytes: blocks.length * twin.blockPages * PAGE_SIZE, stages });
}

function stageOf(
  twin: Twin,
  machine: Machine,
  blocks: readonly BlockId[],
  helps: readonly Help[],
  onProgress: (done: number) => void,
): RemovalStage {
  const help = helpOf(machine, helps);
  const judge = new Judge(twin, help);
  const verdicts: BlockVerdict[] = [];
  for (const id of blocks) {
    const v = judge.judge(id);
    if (v !== undefined) verdicts.push(v);
    onProgress(verdicts.length);
  }
  let last: Machine | undefined;
  const joint = jointly(twin, verdicts, {
    ...help,
    onDone: (_, fork) => {
      last = fork;
    },
  });
  const stat = last === undefined ? undefined : kremap(last).stat();
  const remapped = stat?.moves ?? 0;
  const splits = stat?.splits ?? 0;
  const idsOf = (verdict: BlockVerdict['verdict']): BlockId[] =>
    verdicts.filter((v) => v.verdict === verdict).map((v) => v.block);
  const online = verdicts.filter((v) => v.verdict !== undefined);
  return {
    adds: helps[helps.length - 1] ?? 'linux',
    yes: idsOf('yes'),
    maybe: idsOf('maybe'),
    no: idsOf('no'),
    together: { order: joint.order, bytes: joint.bytes, stoppedBy: joint.stoppedBy },
    whole: online.length > 0 && joint.order.length === online.length,
    pagesMoved: joint.pagesToMigrate,
    pagesRemapped: { value: remapped, provenance: 'derived' },
    mappingsSplit: { value: splits, provenance: 'derived' },
    predictedMs: {
      value: Math.round(joint.predictedMs.value + remapped * REMAP_MS + splits * SPLIT_MS),
      provenance: 'assumed',
    },
    left: leftOf(verdicts),
  };
}

/** What a stage's offlines may use. */
function helpOf(machine: Machine, helps: readonly Help[]): JudgeHelp {
  const evictors: Evictor[] = [];
  if (helps.includes('memmap')) evictors.push(memmapEvictor());
  if (helps.includes('drivers')) evictors.push(driversEvictor({ deadlineMs: DEADLINE_MS, assume: 'relinquish' }));
  if (helps.includes('remap')) evictors.push(remapEvictor());
  return { machine, evictors, ...(helps.includes('compaction') ? { compact } : {}) };
}

/** Compacts pools for pages of 2 MiB, as /proc/sys/vm/compact_memory does. */
function compact(m: Machine, pools: readonly Pool[]): void {
  for (const pool of pools) {
    if (pool.managed === 0) continue;
    compactZone(m, pool, { order: PAGEBLOCK_ORDER, mode: 'sync', wholeZone: true, ignoreSkip: true });
  }
}

function leftOf(verdicts: readonly BlockVerdict[]): LeftGroup[] {
  type Draft = { group: Omit<LeftGroup, 'pages' | 'blocks'>; pages: number; blocks: Set<BlockId> };
  const drafts = new Map<string, Draft>();
  const add = (group: Draft['group'], pages: number, block: BlockId): void => {
    const key = `${group.cause}\0${group.class}\0${group.name}`;
    const d = drafts.get(key) ?? { group, pages: 0, blocks: new Set<BlockId>() };
    d.pages += pages;
    d.blocks.add(block);
    drafts.set(key, d);
  };
  for (const v of verdicts) {
    if (v.verdict === 'yes' || v.verdict === undefined) continue;
    if (v.blockers.length === 0) add({ cause: v.code, class: 'none', name: v.reason }, 0, v.block);
    for (const b of v.blockers) {
      add({ cause: b.cause, class: b.class, name: b.name }, b.endPfn - b.startPfn, v.block);
    }
  }
  return [...drafts.values()]
    .map(({ group, pages, blocks }) => ({ ...group, pages, blocks: [...blocks].sort((a, b) => a - b) }))
    .sort((a, b) => b.blocks.length - a.blocks.length || b.pages - a.pages || (a.name < b.name ? -1 : 1));
}
