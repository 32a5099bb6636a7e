// Explain: what stands in the way in a range of blocks, by holder, with what would free it.
//
//   blockers of all blocks, and what only may block ──> groups (class, holder) ──> runs, pageblocks they spoil, remedies
//
// A pageblock is spoiled when at least one page in it cannot move: that is what scattered kernel pages cost, far more
// than their own size.

import { type Blocker, type BlockerCause, PAGE_SIZE, PAGEBLOCK_PAGES, type PageClass } from '#mm/index';
import { type Remedy, remediesFor } from './remedy.ts';
import type { BlockVerdict } from './verdict.ts';

export type ExplainGroup = {
  readonly class: PageClass | 'none';
  readonly cause: BlockerCause;
  /** The holder's name, without its cgroup. */
  readonly name: string;
  readonly cgroup: string | undefined;
  readonly pages: number;
  readonly bytes: number;
  /** Pageblocks of 2 MiB with at least one of these pages. */
  readonly pageblocks: number;
  readonly blocks: readonly number[];
  /** Runs of frames, ascending. */
  readonly runs: readonly { readonly startPfn: number; readonly endPfn: number }[];
  readonly remedies: readonly Remedy[];
  /** False: these pages may stand in the way (verdict maybe), or merely have to move. */
  readonly certain: boolean;
};

/** Groups of the verdicts' blockers, the one that spoils most pageblocks first. */
export function explain(verdicts: readonly BlockVerdict[]): ExplainGroup[] {
  type Draft = {
    blocker: Blocker;
    runs: { startPfn: number; endPfn: number }[];
    blocks: Set<number>;
    certain: boolean;
  };
  const drafts = new Map<string, Draft>();
  for (const v of verdicts) {
    for (const b of v.blockers) {
      const key = `${b.cause} ${b.class} ${b.name}`;
      let d = drafts.get(key);
      if (d === undefined) drafts.set(key, (d = { blocker: b, runs: [], blocks: new Set(), certain: false }));
      d.runs.push({ startPfn: b.startPfn, endPfn: b.endPfn });
      d.blocks.add(v.block);
      if (v.verdict === 'no') d.certain = true;
    }
  }
  const groups = [...drafts.values()].map(({ blocker, runs, blocks, certain }) => {
    const pages = runs.reduce((n, r) => n + r.endPfn - r.startPfn, 0);
    const { name, cgroup } = splitName(blocker.name);
    return {
      class: blocker.class,
      cause: blocker.cause,
      name,
      cgroup,
      pages,
      bytes: pages * PAGE_SIZE,
      pageblocks: pageblocksOf(runs),
      blocks: [...blocks].sort((a, b) => a - b),
      runs,
      remedies: remediesFor(blocker.class, blocker.name, cgroup),
      certain,
    };
  });
  return groups.sort(
    (a, b) => Number(b.certain) - Number(a.certain) || b.pageblocks - a.pageblocks || b.pages - a.pages,
  );
}

/** place-frames.ts names holders "what they are, cgroup path". */
function splitName(full: string): { name: string; cgroup: string | undefined } {
  const at = full.indexOf(', cgroup ');
  return at < 0 ? { name: full, cgroup: undefined } : { name: full.slice(0, at), cgroup: full.slice(at + 9) };
}

function pageblocksOf(runs: readonly { startPfn: number; endPfn: number }[]): number {
  const seen = new Set<number>();
  for (const r of runs) {
    for (let pb = Math.floor(r.startPfn / PAGEBLOCK_PAGES); pb * PAGEBLOCK_PAGES < r.endPfn; pb++) seen.add(pb);
  }
  return seen.size;
}
