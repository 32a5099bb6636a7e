// dimmer explain: what stands in the way, who holds it, what would free it, and what that costs.

import type { Command } from 'commander';
import { formatSize, hex, plural } from '#base/format';
import { CLASS_WORDS, type ExplainReport, explainBlocks, sayIds } from '#query/index';
import type { ExplainGroup, Remedy } from '#twin/index';
import { sourceLine } from './check-command.ts';
import { EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { ask, type SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';
import { hanging, paint, VERDICT_PAINT } from './style.ts';

type Options = SourceOptions & { readonly json?: boolean; readonly all?: boolean };

export function addExplain(program: Command, io: Io, exit: (code: number) => void): void {
  withSource(program.command('explain'))
    .description('What stands in the way in a target: which pages, whose they are, what would free them.')
    .argument('<target>', 'block:32-39, range:0x..-0x.., node:1, zone:1/Normal or dimm:0')
    .option('-J, --json', 'a JSON document (docs/formats/json.md)')
    .option('-a, --all', 'every run of page frames, not the first few')
    .addHelpText(
      'after',
      `
A pageblock is 2 MiB. One page that cannot move spoils all of it, for offlining and for huge pages alike.

Examples:
  dimmer explain block:2             why does this block stay?
  dimmer explain zone:0/Normal       the same for a zone, holders summed up
  dimmer explain dimm:1 --json       for a program, with every run of page frames`,
    )
    .action((target: string, options: Options) => exit(run(io, target, options)));
}

function run(io: Io, target: string, options: Options): number {
  if (target.startsWith('size:'))
    return complain(io, {
      exit: EXIT.USAGE,
      sentence: `a size has no place to explain; dimmer check ${target} tells what stops it`,
    });
  const asked = ask(io, target, options);
  if (!asked.ok) return complain(io, asked.error);
  const { twin, verdicts } = asked.value;
  if (twin.level === 'counters' && options.json !== true)
    io.err('dimmer: the pages were not seen (/proc/kpageflags): run it as root to learn who holds them\n');
  const report = explainBlocks(twin, verdicts);
  io.out(options.json === true ? formatJson('explain', report) : formatReport(io, report, options.all === true));
  return twin.level === 'counters' ? EXIT.UNSUPPORTED : EXIT.OK;
}

/** More blocks than this are summed up by what they have in common. */
const BLOCKS_SHOWN = 16;
const RUNS_SHOWN = 4;

function formatReport(io: Io, report: ExplainReport, all: boolean): string {
  const colour = wantsColour(io);
  const width = widthOf(io);
  let text = `${sourceLine(report.source)}\n\n`;
  const shown = all || report.blocks.length <= BLOCKS_SHOWN ? report.blocks : [];
  for (const b of shown) {
    const where = `block ${b.block}, node ${b.nodes.join(',') || '0'}, ${b.zones.join('/') || 'no one zone'}`;
    const word = b.verdict === undefined ? 'offline' : paint(b.verdict, VERDICT_PAINT[b.verdict], colour);
    const errno = b.errno === undefined ? '' : ` (${b.errno})`;
    const spoils =
      b.pageblocks === 0
        ? ''
        : `; ${plural(b.pageblocks, 'pageblock')} of ${report.source.blockSizeBytes / 2 ** 21} spoiled`;
    text += `${where}: ${word}${errno}\n${hanging('', b.reason + spoils, { indent: 4, width })}\n`;
  }
  if (shown.length === 0) {
    const count = (verdict: string | undefined): number => report.blocks.filter((b) => b.verdict === verdict).length;
    text += `${plural(report.blocks.length, 'block')}: ${count('yes')} would go, ${count('no')} would not, ${count('maybe')} might, ${count(undefined)} offline (-a lists them)\n`;
  }
  if (report.groups.length === 0) {
    return `${text}\n${sayNoPages(report)}\n`;
  }
  const shared = sharedRemedies(report.groups);
  const section = (title: string, groups: readonly ExplainGroup[]): string =>
    groups.length === 0
      ? ''
      : `\n${paint(title, 'bold', colour)}\n${groups.map((g) => formatGroup(g, { all, width, shared })).join('')}`;
  text += section(
    'Stands in the way',
    report.groups.filter((g) => g.certain),
  );
  text += section(
    'May stand in the way',
    report.groups.filter((g) => !g.certain),
  );
  if (shared.length > 0)
    text += `\n${paint('For several of these', 'bold', colour)}\n${shared.map((r) => sayRemedy(r, width)).join('\n')}\n`;
  return text;
}

const sayRemedy = (r: Remedy, width: number | undefined): string =>
  hanging('  -', `${r.text} (${COST[r.cost]})`, { indent: 4, width });

/** Remedies that several groups have: told once, at the end. */
function sharedRemedies(groups: readonly ExplainGroup[]): readonly Remedy[] {
  const groupsWith = (r: Remedy): number => groups.filter((g) => g.remedies.some((o) => o.text === r.text)).length;
  const all = new Map(groups.flatMap((g) => g.remedies).map((r) => [r.text, r]));
  return [...all.values()].filter((r) => groupsWith(r) > 1);
}

function sayNoPages(report: ExplainReport): string {
  if (report.source.level === 'counters') return 'Nothing is known of single pages.';
  return report.blocks.some((b) => b.verdict === 'no')
    ? 'No single page stands in the way: it is where the block lies. Only a reboot into another layout changes that.'
    : 'No page stands in the way.';
}

const COST: Readonly<Record<Remedy['cost'], string>> = {
  none: 'cheap',
  service: 'something stops',
  reboot: 'reboot',
  'not-in-linux': 'not in Linux',
};

function formatGroup(
  g: ExplainGroup,
  options: { all: boolean; width: number | undefined; shared: readonly Remedy[] },
): string {
  const { all, width, shared } = options;
  const owner = g.cgroup === undefined ? '' : `, of cgroup ${g.cgroup}`;
  const what =
    g.name === CLASS_WORDS[g.class] || g.class === 'unknown' || g.class === 'none' ? g.name : `${g.name} [${g.class}]`;
  const counted = `${plural(g.pages, 'page')} (${formatSize(g.bytes)}) in ${plural(g.pageblocks, 'pageblock')} of block${g.blocks.length === 1 ? '' : 's'} ${sayIds(g.blocks)}`;
  const runs = all ? g.runs : g.runs.slice(0, RUNS_SHOWN);
  const more = g.runs.length > runs.length ? `, and ${plural(g.runs.length - runs.length, 'run')} more (-a)` : '';
  const pfns = runs.map((r) =>
    r.endPfn - r.startPfn === 1 ? `0x${hex(r.startPfn)}` : `0x${hex(r.startPfn)}-0x${hex(r.endPfn - 1)}`,
  );
  const lines = [
    hanging('', `${what}${owner}: ${counted}`, { indent: 2, width }),
    hanging('    pfn:', pfns.join(', ') + more, { indent: 10, width }),
    ...g.remedies
      .filter((r) => !shared.some((other) => other.text === r.text))
      .map((r, k) => hanging(k === 0 ? '    frees:' : '', `- ${r.text} (${COST[r.cost]})`, { indent: 12, width })),
  ];
  return `${lines.join('\n')}\n`;
}
