// Torn reads: what changed on the machine while its page files were read.
//
// The page files take seconds on a large machine and nothing can stop the machine meanwhile. Zone counters and block
// states are read before and after; the difference bounds, from below, how much of the page words is of another moment.
// A page that was freed and taken again in between leaves no mark: a quiet reading is not proof of a still machine.
//
//   zoneinfo   "Node 0, zone   Normal" ... "pages free     12345"       per zone
//   buddyinfo  "Node 0, zone   Normal  5 3 1 ..."                       chunks by order, turned into pages

import { groupDigits, plural } from '#base/format';
import type { CaptureProblem } from './capture.ts';

export type Conditions = {
  readonly zoneinfo: string;
  readonly buddyinfo: string;
  /** memoryN -> its state. */
  readonly blocks: ReadonlyMap<string, string>;
};

const SHOWN_MAX = 4;

/** One problem for pages that moved and one for blocks that changed; none when nothing did. */
export function describeTear(before: Conditions, after: Conditions, tookMs: number): CaptureProblem[] {
  const problems: CaptureProblem[] = [];
  const moved = describePages(before, after);
  if (moved !== undefined)
    problems.push({
      file: '/proc/kpageflags',
      kind: 'torn',
      // 0: the source has no clock of its own (a directory, which may still be some machine's live /proc).
      detail: `while the page files were read${tookMs > 0 ? ` (${tookMs} ms)` : ''}, ${moved}`,
      lost: 'page words and zone counters are of slightly different moments: sums need not agree',
      remedy: 'capture again when the machine is quieter',
    });
  const blocks = changedBlocks(before.blocks, after.blocks);
  if (blocks.length > 0)
    problems.push({
      file: '/sys/devices/system/memory',
      kind: 'torn',
      detail: `memory was plugged or switched while it was read: ${some(blocks)}`,
      lost: 'the pages of these blocks may be described in the state before or after',
      remedy: 'capture again when no hotplug is going on',
    });
  return problems;
}

function describePages(before: Conditions, after: Conditions): string | undefined {
  const was = freePages(before.zoneinfo);
  const is = freePages(after.zoneinfo);
  const zones: string[] = [];
  let net = 0;
  for (const zone of new Set([...was.keys(), ...is.keys()])) {
    const from = was.get(zone) ?? 0;
    const to = is.get(zone) ?? 0;
    net += Math.abs(to - from);
    if (to !== from) zones.push(`${zone} ${groupDigits(from)} -> ${groupDigits(to)}`);
  }
  // Pages may change order without changing their number: a chunk split or merged.
  const regrouped = Math.max(0, regroupedPages(before.buddyinfo, after.buddyinfo) - net);
  if (zones.length === 0 && regrouped === 0) return undefined;
  const parts: string[] = [];
  if (zones.length > 0) parts.push(`free pages changed by ${groupDigits(net)} (${some(zones)})`);
  if (regrouped > 0) parts.push(`${plural(regrouped, 'free page')} changed chunk`);
  return parts.join(' and ');
}

/** "0 Normal" -> its free pages. */
function freePages(zoneinfo: string): Map<string, number> {
  const free = new Map<string, number>();
  let zone: string | undefined;
  for (const line of zoneinfo.split('\n')) {
    const head = /^Node (\d+), zone\s+(\S+)/.exec(line);
    if (head !== null) zone = `node ${head[1]} ${head[2]}`;
    const pages = /^\s+pages free\s+(\d+)/.exec(line);
    if (pages !== null && zone !== undefined) free.set(zone, Number(pages[1]));
  }
  return free;
}

/** Pages by which the lists of all orders differ: the larger of what left and what arrived. */
function regroupedPages(before: string, after: string): number {
  const lists = (text: string): Map<string, number[]> =>
    new Map(
      [...text.matchAll(/^(Node \d+, zone\s+\S+)\s+([\d ]+)$/gm)].map((m) => [
        m[1],
        m[2].trim().split(/\s+/).map(Number),
      ]),
    );
  const is = lists(after);
  let left = 0;
  let arrived = 0;
  for (const [zone, orders] of lists(before))
    orders.forEach((count, order) => {
      const change = ((is.get(zone)?.[order] ?? 0) - count) * 2 ** order;
      if (change < 0) left -= change;
      else arrived += change;
    });
  return Math.max(left, arrived);
}

function changedBlocks(was: ReadonlyMap<string, string>, is: ReadonlyMap<string, string>): string[] {
  const changes: string[] = [];
  for (const [block, state] of was) {
    const now = is.get(block);
    if (now === undefined) changes.push(`${block} went away`);
    else if (now !== state) changes.push(`${block} ${state} -> ${now}`);
  }
  for (const [block, state] of is) if (!was.has(block)) changes.push(`${block} appeared (${state})`);
  return changes;
}

const some = (items: readonly string[]): string =>
  items.length <= SHOWN_MAX
    ? items.join(', ')
    : `${items.slice(0, SHOWN_MAX).join(', ')} and ${items.length - SHOWN_MAX} more`;
