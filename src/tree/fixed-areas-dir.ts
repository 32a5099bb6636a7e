// /sys/kernel/mm/fixed_areas: drivers, and memory of theirs that has to keep its address. No Linux has this directory.
//
//   file            mode   what it says, a line each
//   drivers         0444   "nic0 alive relinquish,reacquire,quiesce max_quiesce_ms=10 areas=2 pages=40"
//   handles         0444   "1.2 nic0 HELD 0x108000000-0x108004fff pages=5 last=MOVED ring": id.generation, state, last outcome
//   incompatible    0444   the same, of drivers without relinquish: whose areas stand in the way
//   refused         0444   "12 nic0 1 TIMEOUT ETIMEDOUT busy for 10 ms": when, who, which area (0: a request), why
//   non_removable   0644   "0x108000000-0x1081fffff"; a write marks more frames for incompatible drivers: whole pageblocks
//   worked_around   0444   how many areas a host backs with other memory
//
// Addresses are physical, the end of a range included, as in /proc/iomem. Drivers register by calls, not by files. What was
// refused outlives the offline that was rolled back for it. Like pools, the tree of a twin lists the directory once a driver has
// registered. Spec 9.E.

import type { ErrnoName } from '#base/errno';
import { hex } from '#base/format';
import { type AreaRow, areaTableIfAny, areaTableOf, refusedOn } from '#mm/fixed-areas/area-table';
import { fixedAreas } from '#mm/fixed-areas/fixed-areas';
import { PAGE_SIZE } from '#mm/geometry';
import type { Machine } from '#mm/machine';
import { type Extent, extent } from '#mm/pools/dma-extent';
import type { TreeContext } from './tree-context.ts';
import { attribute, type DirNode, fixedDir, word } from './tree-node.ts';

/** Is the directory listed? */
export const listsFixedAreas = ({ machine: m, base }: TreeContext): boolean =>
  base === undefined || (areaTableIfAny(m)?.drivers.size ?? 0) > 0;

export function fixedAreasDir({ machine: m }: TreeContext): DirNode {
  const areas = fixedAreas(m);
  const lines = <T>(of: () => Iterable<T>, say: (x: T) => string) =>
    attribute(() => [...of()].map((x) => `${say(x)}\n`).join(''));
  return fixedDir({
    drivers: lines(
      () => areas.drivers(),
      (d) => {
        const mine = areas.areas().filter((a) => a.driver === d.name);
        const pages = mine.reduce((n, a) => n + (a.state === 'RELEASED' ? 0 : a.pages), 0);
        const caps = d.caps.size === 0 ? '-' : [...d.caps].join(',');
        const life = d.dead ? 'dead' : 'alive';
        return `${d.name} ${life} ${caps} max_quiesce_ms=${d.maxQuiesceMs} areas=${mine.length} pages=${pages}`;
      },
    ),
    handles: lines(() => areas.areas(), lineOf),
    incompatible: lines(() => areas.incompatible(), lineOf),
    non_removable: {
      ...lines(() => areas.nonRemovable, addresses),
      mode: 0o644,
      store: (text) => mark(m, word(text)),
    },
    refused: lines(
      () => refusedOn(m),
      (r) => `${r.at} ${r.driver} ${r.area} ${r.outcome} ${r.errno} ${r.why}`,
    ),
    worked_around: attribute(() => `${areaTableIfAny(m) === undefined ? 0 : areaTableOf(m).counts.workedAround}\n`),
  });
}

function lineOf(a: Readonly<AreaRow>): string {
  const where = a.segments.length === 0 ? '-' : a.segments.map(addresses).join(',');
  const last = a.outcome === undefined ? '-' : a.outcome.kind;
  const around = a.workedAround ? ' worked_around' : '';
  return `${a.id}.${a.generation} ${a.driver} ${a.state} ${where} pages=${a.pages} last=${last}${around} ${a.reason}`;
}

const addresses = (e: Extent): string => `0x${hex(e.start * PAGE_SIZE)}-0x${hex(e.end * PAGE_SIZE - 1)}`;

/** "0x108000000-0x1081fffff". */
function mark(m: Machine, text: string): 'ok' | ErrnoName {
  const found = /^0x([0-9a-f]{1,13})-0x([0-9a-f]{1,13})$/i.exec(text.trim());
  if (found === null) return 'EINVAL';
  const start = Number.parseInt(found[1] as string, 16) / PAGE_SIZE; // both groups take part in every match
  const end = (Number.parseInt(found[2] as string, 16) + 1) / PAGE_SIZE;
  const done = fixedAreas(m).markNonRemovable(extent(start, end));
  return done.ok ? 'ok' : done.error.errno;
}
