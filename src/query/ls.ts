// ls: blocks, zones and nodes as the kernel lists them, with what dimmer knows beside.
//
// Blocks merge as lsmem merges them: neighbours are one row when the columns that are shown agree (state, node, zones,
// removable). util-linux 2.38 sys-utils/lsmem.c: is_mergeable().

import { PAGE_SIZE } from '#mm/index';
import type { BlockVerdict, Twin, Verdict } from '#twin/index';
import { type CheckRow, checkRows } from './check.ts';

/** What splits rows; `verdict` is ours. */
export type SplitBy = 'state' | 'removable' | 'node' | 'zones' | 'verdict';

export function listBlocks(
  twin: Twin,
  verdicts: readonly BlockVerdict[],
  options: { readonly all: boolean; readonly splitBy: readonly SplitBy[] },
): CheckRow[] {
  const { all, splitBy } = options;
  const removable = new Map<number, boolean | undefined>(twin.blocks.map((b) => [b.id, b.removable]));
  const same: Readonly<Record<SplitBy, (a: BlockVerdict, b: BlockVerdict) => boolean>> = {
    state: (a, b) => a.state === b.state,
    removable: (a, b) => removable.get(a.block) === removable.get(b.block),
    node: (a, b) => (a.nodes[0] ?? 0) === (b.nodes[0] ?? 0),
    // lsmem does not know the zone "none", and never merges blocks whose zone it does not know.
    zones: (a, b) => a.zones.length > 0 && a.zones.join() === b.zones.join(),
    verdict: (a, b) => a.verdict === b.verdict && a.errno === b.errno,
  };
  return checkRows(twin, verdicts, (a, b) => !all && splitBy.every((by) => same[by](a, b)));
}

export type PoolRow = {
  readonly node: number;
  /** Undefined in a row about a whole node. */
  readonly zone: string | undefined;
  /** Pages, as /proc/zoneinfo prints them. */
  readonly present: number;
  readonly managed: number;
  readonly free: number;
  readonly high: number;
  /** Memory blocks that lie wholly in it, by verdict. */
  readonly yes: number;
  readonly no: number;
  readonly maybe: number;
  /** Bytes of the blocks with verdict yes, each judged alone. */
  readonly yesBytes: number;
};

/** Populated zones, in the kernel's order. */
export function listZones(twin: Twin, verdicts: readonly BlockVerdict[]): PoolRow[] {
  return twin.zones
    .filter((z) => z.present > 0)
    .map((z) =>
      poolRow(
        twin,
        z.node,
        z.zone,
        [z],
        verdicts.filter((v) => (v.nodes[0] ?? 0) === z.node && v.zones.length === 1 && v.zones[0] === z.zone),
      ),
    );
}

/** Nodes with memory, ascending; a block of several nodes counts for the first. */
export function listNodes(twin: Twin, verdicts: readonly BlockVerdict[]): PoolRow[] {
  const nodes = [...new Set(twin.zones.filter((z) => z.present > 0).map((z) => z.node))].sort((a, b) => a - b);
  return nodes.map((node) =>
    poolRow(
      twin,
      node,
      undefined,
      twin.zones.filter((z) => z.node === node),
      verdicts.filter((v) => (v.nodes[0] ?? 0) === node),
    ),
  );
}

function poolRow(
  twin: Twin,
  node: number,
  zone: string | undefined,
  zones: Twin['zones'],
  verdicts: readonly BlockVerdict[],
): PoolRow {
  const sum = (of: (z: Twin['zones'][number]) => number): number => zones.reduce((n, z) => n + of(z), 0);
  const count = (verdict: Verdict): number => verdicts.filter((v) => v.verdict === verdict).length;
  return {
    node,
    zone,
    present: sum((z) => z.present),
    managed: sum((z) => z.managed),
    free: sum((z) => z.free),
    high: sum((z) => z.high),
    yes: count('yes'),
    no: count('no'),
    maybe: count('maybe'),
    yesBytes: count('yes') * twin.blockPages * PAGE_SIZE,
  };
}
