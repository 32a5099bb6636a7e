// Page flags for a snapshot that has none: every online frame is free, but for as many reserved ones at the start of each
// zone as zoneinfo says are present and not managed. Enough for layout and counters; it says nothing of contents.

import { type PageRuns, RunBuilder } from '#capture/page-runs';
import { KPF } from '#kernfs/kpageflags';
import type { ZoneinfoZone } from '#kernfs/zoneinfo';
import type { RamRange } from '#mm/index';
import { zoneOf } from '#twin/layout';

const bit = (n: number): { lo: number; hi: number } => (n < 32 ? { lo: 2 ** n, hi: 0 } : { lo: 0, hi: 2 ** (n - 32) });

/** @param ranges  RAM with node and zone, ascending (twin/layout.ts) */
export function assumedFlags(ranges: readonly RamRange[], zones: readonly ZoneinfoZone[]): PageRuns {
  const runs = new RunBuilder();
  const push = (b: { lo: number; hi: number }, pages: number): void => {
    if (pages > 0) runs.pushRun(b.lo, b.hi, pages);
  };
  const left = new Map<ZoneinfoZone, number>(zones.map((z) => [z, z.present - z.managed]));
  let at = 0;
  for (const r of ranges) {
    push(bit(KPF.NOPAGE), r.start - at);
    const zone = r.offline === true ? undefined : zoneOf(zones, { node: r.node, zone: r.zone ?? 0 });
    const pages = r.end - r.start;
    if (zone === undefined) push(bit(KPF.NOPAGE), pages);
    else {
      const reserved = Math.min(pages, left.get(zone) ?? 0);
      left.set(zone, (left.get(zone) ?? 0) - reserved);
      push(bit(KPF.RESERVED), reserved);
      push(bit(KPF.BUDDY), pages - reserved);
    }
    at = r.end;
  }
  return runs.finish();
}
