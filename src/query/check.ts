// check: each block judged alone, then how much could go together.
//
//   verdicts of the target's blocks ──> rows (neighbours with the same answer are one row, as lsmem merges them)
//                                  └──> joint: blocks leave one fork of the twin in turn, until memory is short
//
// Neighbours are one row when node, zone, state, verdict, errno and its cause are equal; pages and times are then sums.
// A size is met by the first blocks of the joint order that add up to it; it is never promised from a `maybe`.

import { type BlockId, PAGE_SIZE } from '#mm/index';
import {
  type BlockVerdict,
  type Figure,
  type JointAnswer,
  jointly,
  type Provenance,
  type Twin,
  type Verdict,
} from '#twin/index';
import { shortReason } from './reason.ts';
import { type SourceInfo, sourceInfo } from './source-info.ts';
import type { Target } from './target.ts';

export type CheckRow = {
  readonly firstBlock: number;
  readonly lastBlock: number;
  readonly startPhys: number;
  /** Exclusive. */
  readonly endPhys: number;
  readonly nodes: readonly number[];
  /** The zone; several for an offline block (where it may go); none where the kernel names none. */
  readonly zones: readonly string[];
  readonly state: string;
  /** What sysfs says in `removable`: 1 always, on kernels that can hot-remove. */
  readonly removable: boolean | undefined;
  /** Undefined: offline already. */
  readonly verdict: Verdict | undefined;
  readonly code: BlockVerdict['code'];
  /** What Linux would answer. */
  readonly errno: string | undefined;
  readonly reason: string;
  readonly blockingPages: number;
  readonly pagesToMigrate: Figure;
  readonly predictedMs: Figure;
  readonly provenance: Provenance;
};

export type Tally = { readonly blocks: number; readonly bytes: number };

export type CheckReport = {
  readonly source: SourceInfo;
  readonly rows: readonly CheckRow[];
  /** Of the blocks asked about. */
  readonly counts: { readonly yes: Tally; readonly no: Tally; readonly maybe: Tally; readonly offline: Tally };
  readonly joint: JointAnswer;
  /** What was asked for and whether it can be had; undefined when nothing in particular was. */
  readonly goal: Goal | undefined;
};

export type Goal = {
  readonly bytes: number;
  readonly feasible: boolean;
  /** Blocks that give it, in the order they should go; empty when it is not feasible. */
  readonly order: readonly BlockId[];
  readonly pagesToMigrate: Figure;
  readonly predictedMs: Figure;
};

/** @param verdicts  of the target's blocks, ascending. @param options.all  one row a block */
export function check(
  twin: Twin,
  target: Target,
  verdicts: readonly BlockVerdict[],
  options: { readonly all: boolean },
): CheckReport {
  const joint = jointly(twin, verdicts);
  const blockBytes = twin.blockPages * PAGE_SIZE;
  const tally = (verdict: Verdict | undefined): Tally => {
    const blocks = verdicts.filter((v) => v.verdict === verdict).length;
    return { blocks, bytes: blocks * blockBytes };
  };
  return {
    source: sourceInfo(twin),
    rows: checkRows(twin, verdicts, options.all ? () => false : sameAnswer),
    counts: { yes: tally('yes'), no: tally('no'), maybe: tally('maybe'), offline: tally(undefined) },
    joint,
    goal: goalOf(twin, target, verdicts, joint),
  };
}

const sameAnswer = (a: BlockVerdict, b: BlockVerdict): boolean =>
  a.state === b.state &&
  a.nodes.join() === b.nodes.join() &&
  a.zones.join() === b.zones.join() &&
  a.verdict === b.verdict &&
  a.code === b.code;

/**
 * Rows of consecutive blocks. `mergeable` says whether two neighbours may share one; offline blocks that hold no answer
 * merge as lsmem merges them.
 */
export function checkRows(
  twin: Twin,
  verdicts: readonly BlockVerdict[],
  mergeable: (a: BlockVerdict, b: BlockVerdict) => boolean,
): CheckRow[] {
  const groups: BlockVerdict[][] = [];
  for (const v of verdicts) {
    const group = groups[groups.length - 1];
    const last = group?.[group.length - 1];
    if (group !== undefined && last !== undefined && last.block + 1 === v.block && mergeable(last, v)) group.push(v);
    else groups.push([v]);
  }
  const removable = new Map<number, boolean | undefined>(twin.blocks.map((b) => [b.id, b.removable]));
  return groups.map((group) => rowOf(group, removable));
}

function rowOf(group: readonly BlockVerdict[], removable: ReadonlyMap<number, boolean | undefined>): CheckRow {
  const first = group[0] as BlockVerdict;
  const last = group[group.length - 1] as BlockVerdict;
  // A row that was merged by another rule (ls blocks) may hold several answers: then it has none of its own.
  const one = group.every((v) => v.verdict === first.verdict);
  const same = one && group.every((v) => v.code === first.code);
  const strict = one ? first.verdict : group.some((v) => v.verdict === 'no') ? 'no' : 'maybe';
  return {
    firstBlock: first.block,
    lastBlock: last.block,
    startPhys: first.startPfn * PAGE_SIZE,
    endPhys: last.endPfn * PAGE_SIZE,
    nodes: first.nodes,
    zones: first.zones,
    state: first.state,
    removable: removable.get(first.block),
    verdict: strict,
    code: first.code,
    errno: same ? first.errno : undefined,
    reason: same ? shortReason(group) : sayMix(group),
    blockingPages: group.reduce((n, v) => n + v.blockingPages, 0),
    pagesToMigrate: sumOf(group.map((v) => v.pagesToMigrate)),
    predictedMs: sumOf(group.map((v) => v.predictedMs)),
    provenance: weakest(group.map((v) => v.provenance)),
  };
}

/** "12 yes, 3 no, 1 maybe". */
function sayMix(group: readonly BlockVerdict[]): string {
  const count = (verdict: Verdict): number => group.filter((v) => v.verdict === verdict).length;
  return (['yes', 'no', 'maybe'] as const)
    .filter((verdict) => count(verdict) > 0)
    .map((verdict) => `${count(verdict)} ${verdict}`)
    .join(', ');
}

const RANK: Readonly<Record<Provenance, number>> = { measured: 0, derived: 1, assumed: 2 };
const weakest = (all: readonly Provenance[]): Provenance =>
  all.reduce((worst, p) => (RANK[p] > RANK[worst] ? p : worst), 'measured');

const sumOf = (figures: readonly Figure[]): Figure => ({
  value: Math.round(figures.reduce((n, f) => n + f.value, 0) * 10) / 10,
  provenance: weakest(figures.map((f) => f.provenance)),
});

function goalOf(twin: Twin, target: Target, verdicts: readonly BlockVerdict[], joint: JointAnswer): Goal | undefined {
  if (target.kind === 'all') return undefined;
  const blockBytes = twin.blockPages * PAGE_SIZE;
  const online = verdicts.filter((v) => v.verdict !== undefined).length;
  const needed = target.kind === 'size' ? Math.ceil(target.bytes / blockBytes) : online;
  const feasible = twin.level === 'counters' ? false : joint.order.length >= needed;
  const order = feasible ? joint.order.slice(0, needed) : [];
  const mine = order.map((id) => verdicts.find((v) => v.block === id) as BlockVerdict); // the order is made of them
  return {
    bytes: target.kind === 'size' ? target.bytes : online * blockBytes,
    feasible,
    order,
    pagesToMigrate: sumOf(mine.map((v) => v.pagesToMigrate)),
    predictedMs: sumOf(mine.map((v) => v.predictedMs)),
  };
}
