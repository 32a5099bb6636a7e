// /proc/buddyinfo: free chunks per zone and order. Populated zones only; a blank ends every line.
//
//   Node 0, zone   Normal      2      1      0      1      0      3      1      4      8      2     66
//                          nrFree[0] ...                                                     nrFree[10]
//
// nrFree[o] chunks of 2^o pages. Chunks in isolated pageblocks are counted here although nr_free_pages leaves them
// out; pages on per-CPU lists are in neither. Nothing marks the end: a file that lost whole lines looks complete, and
// only zoneinfo, which names every zone, shows it.
// Follows Linux v6.12 mm/vmstat.c: frag_show_print(); spec 6.

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem } from './source.ts';
import { fieldsOf, linesOf, printCount, problem, quoted, readCounts } from './text.ts';
import type { ZoneLabel } from './zone-label.ts';
import { isInOrder, printZoneLabel, readZoneLabel, sayZone } from './zone-label.ts';

export type BuddyinfoZone = ZoneLabel & {
  /** Chunks by order; 11 orders with 4 KiB pages, as many in every zone. */
  readonly nrFree: readonly number[];
};

/** Lines in file order. Refuses lines of unequal length and zones out of order. Cost O(text). */
export function parseBuddyinfo(text: string, file = '/proc/buddyinfo'): Result<BuddyinfoZone[], KernfsProblem> {
  const lines = linesOf(text, file);
  if (!lines.ok) return lines;
  const zones: BuddyinfoZone[] = [];
  for (const [i, line] of lines.value.entries()) {
    const label = readZoneLabel(line);
    const nrFree = label === undefined ? undefined : readCounts(fieldsOf(label.rest));
    if (label === undefined || nrFree === undefined || nrFree.length === 0) {
      return problem(file, i + 1, `expected "Node N, zone NAME" and free counts, found ${quoted(line)}`);
    }
    const { node, zone } = label;
    const previous = zones.at(-1);
    if (!isInOrder(previous, label)) return problem(file, i + 1, `${sayZone(label)} does not belong here`);
    if (previous !== undefined && nrFree.length !== previous.nrFree.length) {
      return problem(file, i + 1, `${nrFree.length} orders, but ${previous.nrFree.length} in the line before`);
    }
    zones.push({ node, zone, nrFree });
  }
  return ok(zones);
}

export function printBuddyinfo(zones: readonly BuddyinfoZone[]): string {
  let text = '';
  for (const x of zones) {
    text += `${printZoneLabel(x)} `;
    for (const n of x.nrFree) text += `${printCount(n).padStart(6)} `;
    text += '\n';
  }
  return text;
}

/** Free pages of one line: the sum over orders of nrFree * 2^order. */
export const freePagesOf = (x: BuddyinfoZone): number => x.nrFree.reduce((sum, n, order) => sum + n * 2 ** order, 0);
