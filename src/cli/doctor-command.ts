// dimmer doctor: one screen of findings about this machine's memory, each with its fix; an exit code for launch scripts.

import type { Command } from 'commander';
import { formatSize, plural } from '#base/format';
import { observe } from '#plan/observation';
import {
  type DoctorReport,
  doctor,
  type Finding,
  isPrometheusText,
  judgeBlocks,
  type Need,
  prometheusText,
  type Severity,
} from '#query/index';
import { sourceLine } from './check-command.ts';
import { EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { openTwin, type SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';
import { Progress } from './progress.ts';
import { hanging, type Paint, paint } from './style.ts';
import { type Column, formatTable } from './table.ts';
import { writeWhole } from './write-file.ts';

type Options = SourceOptions & {
  readonly json?: boolean;
  readonly strict?: boolean;
  readonly need?: string;
  readonly order?: string;
  readonly prometheus?: string;
};

export function addDoctor(program: Command, io: Io, exit: (code: number) => void): void {
  withSource(program.command('doctor'))
    .description('What is wrong with the memory of this machine, or soon will be, and the fix for each.')
    .option('-J, --json', 'a JSON document (docs/formats/json.md)')
    .option('--strict', 'warnings end with exit 3, too')
    .option('--need <chunks>', 'so many free pieces must be there, each of 2^order pages')
    .option('--order <order>', 'for --need: 0 to 10; 9 is 2 MiB (default: 9)')
    .option(
      '--prometheus <file>',
      'write metrics for node_exporter\'s textfile collector ("-": to stdout), not the report',
    )
    .addHelpText(
      'after',
      `
Nothing is done to the machine. Exit code: 0 nothing bad; 3 something bad (--strict: or a warning).

Examples:
  sudo dimmer doctor
  sudo dimmer doctor --need 512 --order 9 -q || exit 1     before a start that needs 1 GiB of huge pages
  sudo dimmer doctor -q --prometheus /var/lib/prometheus/node-exporter/dimmer.prom`,
    )
    .action((options: Options) => exit(run(io, options)));
}

function run(io: Io, options: Options): number {
  const usage = (sentence: string): number => complain(io, { exit: EXIT.USAGE, sentence });
  if (options.json === true && options.prometheus === '-')
    return usage('--json and --prometheus - both go to stdout: choose one');
  if (options.order !== undefined && options.need === undefined) return usage('--order belongs to --need CHUNKS');
  const need = needOf(options);
  if (typeof need === 'string') return usage(need);
  const twin = openTwin(io, options);
  if (!twin.ok) return complain(io, twin.error);
  const seen = observe(twin.value.capture.tree);
  if (!seen.ok) return usage(seen.error);
  const progress = new Progress(io, options.quiet === true);
  const ids = twin.value.blocks.map((b) => b.id);
  const verdicts = judgeBlocks(twin.value, ids, (done, of) => progress.step('judging blocks', done, of));
  progress.end();
  const report = doctor(twin.value, seen.value, { verdicts, ...(need === undefined ? {} : { need }) });
  const { counts } = report;
  const code = counts.bad > 0 || (options.strict === true && counts.warn > 0) ? EXIT.NOT_FEASIBLE : EXIT.OK;
  if (options.prometheus !== undefined) {
    const { takenAt } = report.source;
    const text = prometheusText(report, verdicts, takenAt === undefined ? undefined : Date.parse(takenAt) / 1000);
    if (options.prometheus === '-') io.out(text);
    else {
      const failed = writeWhole(options.prometheus, text, { kind: 'metrics of dimmer', isOurs: isPrometheusText });
      if (failed !== undefined) return complain(io, failed);
    }
    if (options.json !== true) return code;
  }
  io.out(options.json === true ? formatJson('doctor', report) : formatReport(io, report));
  return code;
}

/** A sentence when it makes no sense. */
function needOf({ need, order = '9' }: Options): Need | string | undefined {
  if (need === undefined) return undefined;
  const [chunks, o] = [need, order].map((text) => (/^\d{1,9}$/.test(text) ? Number(text) : -1)) as [number, number];
  if (chunks < 1) return `--need takes a number of pieces, not "${need}"`;
  if (o < 0 || o > 10) return `--order is 0 to 10, not "${order}"`;
  return { chunks, order: o };
}

const PAINT: Readonly<Record<Severity, Paint>> = { bad: 'red', warn: 'yellow', note: 'dim' };
const INDENT = 6;

function formatReport(io: Io, report: DoctorReport): string {
  const colour = wantsColour(io);
  const width = widthOf(io);
  const style = { form: 'table' as const, headings: true, colour, width, chosen: false };
  const { bad, warn, note } = report.counts;
  const parts = [
    `${bad === 0 ? 'nothing' : bad} bad`,
    ...(warn === 0 ? [] : [plural(warn, 'warning')]),
    ...(note === 0 ? [] : [plural(note, 'note')]),
  ];
  let text = `${sourceLine(report.source)}\n${parts.join(', ')}\n\n`;
  for (const f of report.findings) text += `${formatFinding(f, width, colour)}\n`;
  text += formatTable(report.nodes, COLUMNS, style);
  const { value: largest } = report.largestDimmBytes;
  const dimm =
    largest === 0
      ? 'none'
      : `${formatSize(largest)} (its memory map is 1/64 of it, out of free memory of kernel zones)`;
  text += `\n${hanging('Largest DIMM that could be added now: ', dimm, { indent: INDENT, width })}\n`;
  if (report.need?.met === true) {
    const { chunks, order, usable } = report.need;
    text += `Asked for: ${plural(chunks, 'piece')} of order ${order}: yes, ${usable} can be had\n`;
  }
  return text;
}

function formatFinding(f: Finding, width: number | undefined, colour: boolean): string {
  const line = (label: string, body: string): string => hanging(label, body, { indent: INDENT, width });
  const head = line(f.severity, f.sentence);
  const lines = [
    paint(head.slice(0, f.severity.length), PAINT[f.severity], colour) + head.slice(f.severity.length),
    ...f.evidence.map((e) => line('', e)),
    // A command is never broken: it is copied.
    ...f.fix.map((x, k) => `${(k === 0 ? ' fix' : '').padEnd(INDENT)}${x}`),
  ];
  return `${lines.join('\n')}\n`;
}

const COLUMNS: readonly Column<DoctorReport['nodes'][number]>[] = [
  { name: 'NODE', align: 'right', help: 'node', text: (n) => `${n.node}` },
  { name: 'FREE', align: 'right', help: 'free memory', text: (n) => formatSize(n.freeBytes) },
  { name: '2M', align: 'right', help: 'usable pieces of 2 MiB', text: (n) => `${n.order9}` },
  { name: '4M', align: 'right', help: 'usable pieces of 4 MiB', text: (n) => `${n.order10}` },
  {
    name: 'SCORE',
    align: 'right',
    help: 'fragmentation, 0 to 100, as the kernel counts it',
    text: (n) => `${n.score}`,
  },
];
