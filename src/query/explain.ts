// explain: what stands in the way in the target's blocks, by holder, with what would free it and what that costs.

import { PAGEBLOCK_PAGES } from '#mm/index';
import type { BlockVerdict, ExplainGroup, Twin } from '#twin/index';
import { explain as groupsOf } from '#twin/index';
import { shortReason } from './reason.ts';
import { type SourceInfo, sourceInfo } from './source-info.ts';

export type ExplainBlock = Pick<
  BlockVerdict,
  'block' | 'nodes' | 'zones' | 'state' | 'verdict' | 'code' | 'errno' | 'blockingPages' | 'provenance'
> & {
  /** For a table. */
  readonly brief: string;
  /** A sentence. */
  readonly reason: string;
  /** Pageblocks of 2 MiB with at least one blocking page, of the block's own. */
  readonly pageblocks: number;
};

export type ExplainReport = {
  readonly source: SourceInfo;
  readonly blocks: readonly ExplainBlock[];
  /** Blockers by class and holder, the one that spoils most pageblocks first. */
  readonly groups: readonly ExplainGroup[];
};

/** Groups know the pageblocks they spoil; a block's are those of all its blockers together. */
export function explainBlocks(twin: Twin, verdicts: readonly BlockVerdict[]): ExplainReport {
  return {
    source: sourceInfo(twin),
    blocks: verdicts.map((v) => ({
      block: v.block,
      nodes: v.nodes,
      zones: v.zones,
      state: v.state,
      verdict: v.verdict,
      code: v.code,
      errno: v.errno,
      blockingPages: v.blockingPages,
      provenance: v.provenance,
      brief: shortReason([v]),
      reason: v.reason,
      pageblocks: spoiled(v),
    })),
    groups: groupsOf(verdicts),
  };
}

function spoiled(v: BlockVerdict): number {
  const seen = new Set<number>();
  for (const b of v.blockers) {
    for (let pb = Math.floor(b.startPfn / PAGEBLOCK_PAGES); pb * PAGEBLOCK_PAGES < b.endPfn; pb++) seen.add(pb);
  }
  return seen.size;
}
