// Removal as text: what each help beyond Linux would be worth (src/plan/removal.ts), as a table and what still stays.

import { formatSize, groupDigits, plural } from '#base/format';
import type { Help, LeftGroup, RemovalComparison, RemovalStage } from '#plan/index';
import { sayIds } from '#query/index';
import { formatMs, hanging, paint } from './style.ts';
import { type Column, formatTable } from './table.ts';

/** What the words of --with are, for people. No Linux has the last three. */
const ABOUT: Readonly<Record<Help | 'linux', string>> = {
  linux: 'Linux as it is',
  compaction: '+ compaction',
  memmap: '+ movable memmap',
  drivers: '+ drivers that relinquish',
  remap: '+ remapped kernel pages',
};

const COLUMNS: readonly Column<RemovalStage>[] = [
  { name: 'WITH', align: 'left', help: 'what may be used', text: (s) => ABOUT[s.adds] },
  { name: 'YES', align: 'right', help: 'blocks that go one by one', text: (s) => `${s.yes.length}` },
  { name: 'MAYBE', align: 'right', help: 'no page flag tells', text: (s) => `${s.maybe.length}` },
  { name: 'NO', align: 'right', help: 'blocks that stay', text: (s) => `${s.no.length}` },
  { name: 'TOGETHER', align: 'right', help: 'how much goes together', text: (s) => formatSize(s.together.bytes) },
  { name: 'MOVED', align: 'right', help: 'pages that move for that', text: (s) => groupDigits(s.pagesMoved.value) },
  { name: 'REMAPPED', align: 'right', help: 'of them the kernel', text: (s) => groupDigits(s.pagesRemapped.value) },
  { name: 'SPLIT', align: 'right', help: 'large mappings split', text: (s) => groupDigits(s.mappingsSplit.value) },
  { name: 'TIME', align: 'right', help: 'assumed', text: (s) => formatMs(s.predictedMs.value) },
];

const GROUPS_SHOWN = 6;

export type RemovalStyle = {
  readonly colour: boolean;
  readonly width: number | undefined;
  /** All groups of what stays, not the first few. */
  readonly all: boolean;
};

/** The table, and what still stays with all helps. */
export function formatRemoval(target: string, report: RemovalComparison, { colour, width, all }: RemovalStyle): string {
  const style = { form: 'table' as const, headings: true, colour, width, chosen: false };
  let text = `${target}: ${plural(report.blocks, 'block')}, ${formatSize(report.bytes)}\n\n`;
  text += formatTable(report.stages, COLUMNS, style);
  const last = report.stages[report.stages.length - 1] as RemovalStage; // Linux's is always there
  if (last.whole) return `${text}\nAll of it would go.\n`;
  text += `\n${hanging('Together: ', last.together.stoppedBy, { indent: 10, width })}\n`;
  if (last.left.length === 0) return text;
  const shown = all ? last.left : last.left.slice(0, GROUPS_SHOWN);
  text += `\n${paint('Still stays', 'bold', colour)}\n`;
  for (const g of shown) text += `${hanging('  ', sayGroup(g), { indent: 4, width })}\n`;
  if (shown.length < last.left.length) text += `  and ${plural(last.left.length - shown.length, 'more group')} (-a)\n`;
  return text;
}

/** "slab: 12 pages in blocks 3, 7 (untyped)" */
function sayGroup(g: LeftGroup): string {
  const pages = g.pages === 0 ? '' : ` ${plural(g.pages, 'page')} in`;
  const blocks = `block${g.blocks.length === 1 ? '' : 's'} ${sayIds(g.blocks)}`;
  return `${g.name}:${pages} ${blocks} (${g.cause})`;
}
