// dimmer plan remove: what of a target could leave with Linux as it is, and what each further help would free, at what price.

import type { Command } from 'commander';
import { formatSize, groupDigits, plural } from '#base/format';
import { err, ok, type Result } from '#base/result';
import {
  compareRemoval,
  HELPS,
  type Help,
  type LeftGroup,
  type RemovalComparison,
  type RemovalStage,
} from '#plan/index';
import { blocksOfTarget, parseTarget, type SourceInfo, sayIds, sourceInfo } from '#query/index';
import { sourceLine } from './check-command.ts';
import { type Complaint, EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { openTwin, type SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';
import { Progress } from './progress.ts';
import { formatMs, hanging, paint } from './style.ts';
import { type Column, formatTable } from './table.ts';

type Options = SourceOptions & { readonly json?: boolean; readonly all?: boolean; readonly with?: string };

/** What the words of --with are, for people. No Linux has the last three. */
const ABOUT: Readonly<Record<Help | 'linux', string>> = {
  linux: 'Linux as it is',
  compaction: '+ compaction',
  memmap: '+ movable memmap',
  drivers: '+ drivers that relinquish',
  remap: '+ remapped kernel pages',
};

export function addPlan(program: Command, io: Io, exit: (code: number) => void): void {
  const plan = program
    .command('plan')
    .description('Compares what could be done, by doing it on copies of the machine.');
  withSource(plan.command('remove'))
    .description('What of a target could be removed: with Linux as it is, and with each help more.')
    .argument('<target>', 'block:32-39, range:0x..-0x.., node:1, zone:1/Normal, dimm:0, or all')
    .option('--with <helps>', `of ${HELPS.join(', ')}; default: all of them`)
    .option('-a, --all', 'everything that still stays, not the first few')
    .option('-J, --json', 'a JSON document (docs/formats/json.md)')
    .addHelpText(
      'after',
      `
Each line adds one help to the line before, and all of it is tried on a copy of the machine: nothing is done to the machine
itself. Linux has compaction; that struct pages move, that drivers give up their fixed areas, and that kernel pages move
under constant virtual addresses is what no Linux can do (Hansen 2005): the plan says what it would be worth.
Exit code: 0 all of the target would go, with the last line's helps; 3 it would not.

Examples:
  dimmer plan remove dimm:1                        what would each help free?
  dimmer plan remove node:1 --with remap,drivers   only these two
  dimmer plan remove all --from host.dimmer --json a saved machine, for a program`,
    )
    .action((target: string, options: Options) => exit(run(io, target, options)));
}

function run(io: Io, targetText: string, options: Options): number {
  const helps = helpsOf(options.with);
  if (!helps.ok) return complain(io, helps.error);
  const target = targetText === 'all' ? ok({ kind: 'all' as const }) : parseTarget(targetText);
  if (!target.ok) return complain(io, { exit: EXIT.USAGE, sentence: target.error.sentence });
  if (target.value.kind === 'size') {
    const sentence = 'a size has no place to remove; name the memory: block:, range:, node:, zone:, dimm: or all';
    return complain(io, { exit: EXIT.USAGE, sentence });
  }
  const twin = openTwin(io, options);
  if (!twin.ok) return complain(io, twin.error);
  const blocks = blocksOfTarget(twin.value, target.value);
  if (!blocks.ok) return complain(io, { exit: EXIT.USAGE, sentence: blocks.error.sentence });
  const progress = new Progress(io, options.quiet === true);
  const compared = compareRemoval(twin.value, blocks.value, {
    helps: helps.value,
    onProgress: (done, of) => progress.step('trying blocks', done, of),
  });
  progress.end();
  if (!compared.ok) return complain(io, { exit: EXIT.UNSUPPORTED, sentence: compared.error });
  const source = sourceInfo(twin.value);
  if (options.json === true) io.out(formatJson('plan-remove', { source, target: targetText, ...compared.value }));
  else io.out(formatComparison(io, source, targetText, compared.value, options.all === true));
  const last = compared.value.stages[compared.value.stages.length - 1] as RemovalStage; // Linux's is always there
  return last.whole ? EXIT.OK : EXIT.NOT_FEASIBLE;
}

function helpsOf(text: string | undefined): Result<readonly Help[], Complaint> {
  if (text === undefined) return ok(HELPS);
  const words = text.split(',').map((w) => w.trim());
  const wrong = words.find((w) => !(HELPS as readonly string[]).includes(w));
  if (wrong !== undefined) {
    return err({ exit: EXIT.USAGE, sentence: `--with knows ${HELPS.join(', ')}, not "${wrong}"` });
  }
  return ok(words as Help[]); // each was looked up
}

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

function formatComparison(io: Io, source: SourceInfo, target: string, report: RemovalComparison, all: boolean): string {
  const colour = wantsColour(io);
  const width = widthOf(io);
  const style = { form: 'table' as const, headings: true, colour, width, chosen: false };
  let text = `${sourceLine(source)}\n`;
  text += `${target}: ${plural(report.blocks, 'block')}, ${formatSize(report.bytes)}\n\n`;
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
