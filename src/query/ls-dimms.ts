// ls dimms: the ranges in which memory came, as candidates for pulling out as a whole.
//
// What one may unplug is an added range. The kernel prints each as a "System RAM" line of its own in /proc/iomem (every
// add_memory() makes one, adjacent or not); boot memory is cut there by firmware holes only. Ranges smaller than one
// block are left out: they are parts of boot memory that no block covers alone. Without addresses in /proc/iomem (not
// root) runs of consecutive blocks stand in, and the row says so.
//
// Source: Linux v6.12 mm/memory_hotplug.c: register_memory_resource().

import { parseIomem } from '#kernfs/iomem';
import { PAGE_SIZE } from '#mm/index';
import type { BlockVerdict, Twin, Verdict } from '#twin/index';

export type DimmRow = {
  readonly index: number;
  readonly startPhys: number;
  /** Exclusive. */
  readonly endPhys: number;
  readonly firstBlock: number;
  readonly lastBlock: number;
  readonly nodes: readonly number[];
  readonly zones: readonly string[];
  readonly state: string;
  /** The kernel's name of the range, or why there is none. */
  readonly name: string;
  /** Of its blocks that are not offline: how many go, stay, may go. */
  readonly yes: number;
  readonly no: number;
  readonly maybe: number;
  /** Of the range as a whole: no if one block stays, maybe if one may; undefined when all of it is offline. */
  readonly verdict: Verdict | undefined;
};

/** @param verdicts  may be empty: then the counts are zero */
export function listDimms(twin: Twin, verdicts: readonly BlockVerdict[]): DimmRow[] {
  const blockBytes = twin.blockPages * PAGE_SIZE;
  const rows: DimmRow[] = [];
  for (const r of rangesOf(twin, blockBytes)) {
    const first = Math.floor(r.start / blockBytes);
    const end = Math.ceil(r.end / blockBytes);
    const blocks = twin.blocks.filter((b) => first <= b.id && b.id < end);
    if (blocks.length === 0) continue;
    const mine = verdicts.filter((v) => first <= v.block && v.block < end);
    const count = (verdict: Verdict): number => mine.filter((v) => v.verdict === verdict).length;
    const [yes, no, maybe] = [count('yes'), count('no'), count('maybe')];
    const states = new Set(blocks.map((b) => b.state));
    const online = blocks.filter((b) => b.state !== 'offline');
    rows.push({
      index: rows.length,
      startPhys: r.start,
      endPhys: r.end,
      firstBlock: (blocks[0] as (typeof blocks)[number]).id,
      lastBlock: (blocks[blocks.length - 1] as (typeof blocks)[number]).id,
      nodes: [...new Set(blocks.flatMap((b) => b.nodes))].sort((a, b) => a - b),
      zones: [...new Set(online.flatMap((b) => (b.validZones?.length === 1 ? b.validZones : [])))],
      state: states.size === 1 ? [...states].join() : 'mixed',
      name: r.name,
      yes,
      no,
      maybe,
      verdict: no > 0 ? 'no' : maybe > 0 ? 'maybe' : yes > 0 ? 'yes' : undefined,
    });
  }
  return rows;
}

function rangesOf(twin: Twin, blockBytes: number): { start: number; end: number; name: string }[] {
  const text = twin.capture.tree.readText('/proc/iomem');
  const parsed = text === undefined ? undefined : parseIomem(text);
  const ram =
    parsed?.ok === true
      ? parsed.value
          .filter((e) => /System RAM/.test(e.name) && e.endPhys - e.startPhys >= blockBytes)
          .map((e) => ({ start: e.startPhys, end: e.endPhys, name: e.name }))
      : [];
  if (ram.length > 0) return ram;
  const runs: { start: number; end: number; name: string }[] = [];
  for (const b of twin.blocks) {
    const start = b.id * blockBytes;
    const last = runs[runs.length - 1];
    if (last !== undefined && last.end === start) last.end = start + blockBytes;
    else runs.push({ start, end: start + blockBytes, name: 'consecutive blocks (no addresses in /proc/iomem)' });
  }
  return runs;
}
