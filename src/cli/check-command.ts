// dimmer check: which memory could this machine give back, block by block and jointly?

import type { Command } from 'commander';
import { formatSize, hex, plural } from '#base/format';
import { type CheckReport, type CheckRow, check, type SourceInfo } from '#query/index';
import { blockColumns, sizeText } from './columns.ts';
import { EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { ask } from './open-twin.ts';
import {
  complain,
  helpOfColumns,
  printSheet,
  sheetOf,
  showsSummary,
  type TableOptions,
  withSummary,
  withTable,
} from './options.ts';
import { formatMs, hanging, paint } from './style.ts';

const DEFAULTS = [
  'RANGE',
  'SIZE',
  'BLOCK',
  'NODE',
  'ZONES',
  'STATE',
  'VERDICT',
  'ERRNO',
  'BLOCKING',
  'MOVE',
  'TIME',
  'REASON',
];

export function addCheck(program: Command, io: Io, exit: (code: number) => void): void {
  withSummary(withTable(program.command('check')))
    .description('Which memory could go offline: each block judged alone, then all of them together.')
    .argument('[target]', 'block:32-39, range:0x..-0x.., node:1, zone:1/Normal, dimm:0 or size:4G; default: everything')
    .addHelpText(
      'after',
      () => `${helpOfColumns(blockColumns({ inBytes: false, addressDigits: 16 }), DEFAULTS)}

Nothing is done to the machine: each block is taken offline on a copy of it, in memory.
Exit code: 0 checked, and with a target: all of it could go; 3 it could not, or not for sure.

Examples:
  dimmer check                           this machine
  dimmer check size:4G                   could it give back 4 GiB? which blocks, in which order?
  dimmer check zone:1/Movable -a         every block of a zone on a line of its own
  dimmer check --from host.dimmer --json a saved machine, for a program`,
    )
    .action((target: string | undefined, options: TableOptions) => exit(run(io, target, options)));
}

function run(io: Io, targetText: string | undefined, options: TableOptions): number {
  const probe = sheetOf(io, options, blockColumns({ inBytes: false, addressDigits: 16 }), DEFAULTS);
  if (!probe.ok) return complain(io, probe.error);
  const asked = ask(io, targetText, options);
  if (!asked.ok) return complain(io, asked.error);
  const { twin, target, verdicts } = asked.value;
  const report = check(twin, target, verdicts, { all: options.all === true });
  const code = report.goal === undefined || report.goal.feasible ? EXIT.OK : EXIT.NOT_FEASIBLE;
  if (options.json === true) {
    io.out(formatJson('check', report));
    return code;
  }
  const top = report.rows[report.rows.length - 1]?.endPhys ?? 0;
  const columns = blockColumns({ inBytes: options.bytes === true, addressDigits: hex(Math.max(0, top - 1)).length });
  const sheet = sheetOf(io, options, columns, DEFAULTS);
  if (!sheet.ok) return complain(io, sheet.error);
  const shows = showsSummary(options);
  if (shows.summary) io.out(`${sourceLine(report.source)}\n\n`);
  if (shows.table) io.out(printSheet<CheckRow>(sheet.value, report.rows) + (shows.summary ? '\n' : ''));
  if (shows.summary) io.out(formatSummary(io, report, options));
  return code;
}

/** "this machine, Linux 6.18.44: 23.5G in 188 blocks of 128M, 22.6G free" */
export function sourceLine(s: SourceInfo): string {
  const free = s.freeBytes === undefined ? '' : `, ${formatSize(s.freeBytes)} free`;
  const when = s.kind === 'live' || s.takenAt === undefined ? '' : `, taken ${s.takenAt}`;
  return `${s.name}, Linux ${s.kernel}${when}: ${formatSize(s.totalBytes)} in ${plural(s.blocks, 'block')} of ${formatSize(s.blockSizeBytes)}${free}`;
}

const INDENT = 16;

function formatSummary(io: Io, report: CheckReport, options: TableOptions): string {
  const { counts, joint, goal, source } = report;
  const colour = wantsColour(io);
  const width = widthOf(io);
  const lines: string[] = [];
  const say = (label: string, text: string): void => {
    lines.push(hanging(label, text, { indent: INDENT, width }));
  };
  const size = (bytes: number): string => sizeText(bytes, options.bytes === true);
  const alone = (
    [
      [counts.yes, 'would go', 'green'],
      [counts.no, 'would not', 'red'],
      [counts.maybe, 'might', 'yellow'],
      [counts.offline, 'offline already', 'dim'],
    ] as const
  )
    .filter(([t]) => t.blocks > 0)
    .map(([t, word, how]) => ({ text: `${plural(t.blocks, 'block')} ${word} (${size(t.bytes)})`, how }));
  // Measured before it is painted: colour has no width.
  const length = INDENT + alone.reduce((n, a) => n + a.text.length + 2, -2);
  const between = width !== undefined && length > width ? `,\n${' '.repeat(INDENT)}` : ', ';
  lines.push('One by one:'.padEnd(INDENT) + alone.map((a) => paint(a.text, a.how, colour)).join(between));
  if (counts.maybe.blocks > 0 && source.level === 'pages')
    say('', 'might: page flags cannot tell; Linux could try for ever (a signal, Ctrl-C, ends that and loses nothing)');
  if (source.level === 'counters') {
    say(
      'Not seen:',
      'the pages themselves (/proc/kpageflags): who holds what, and what would have to move, is not known',
    );
    say(
      'To see them:',
      'run it as root: sudo dimmer check; or sudo dimmer capture -o FILE, then dimmer check --from FILE as anyone',
    );
  }
  const most = source.level === 'counters' ? 'at most ' : '';
  say(
    'Together:',
    joint.order.length === 0
      ? 'none'
      : `${most}${plural(joint.order.length, 'block')} (${size(joint.bytes)}): ${sayOrder(joint.order)}` +
          (source.level === 'counters'
            ? ''
            : `; ${plural(joint.pagesToMigrate.value, 'page')} would move, about ${formatMs(joint.predictedMs.value)}`),
  );
  say('What stops it:', joint.stoppedBy);
  joint.wouldRaise.forEach((text, k) => {
    say(k === 0 ? 'To raise it:' : '', text);
  });
  if (goal !== undefined) {
    const wanted = size(goal.bytes);
    lines.push(
      goal.feasible
        ? hanging(
            paint('Asked for:', 'green', colour) + ' '.repeat(INDENT - 'Asked for:'.length),
            `${wanted}: yes, ${goal.order.length === 0 ? 'all of it is offline already' : `blocks ${sayOrder(goal.order)}; ${plural(goal.pagesToMigrate.value, 'page')} would move, about ${formatMs(goal.predictedMs.value)}`}`,
            { indent: INDENT, width },
          )
        : hanging(
            paint('Asked for:', 'red', colour) + ' '.repeat(INDENT - 'Asked for:'.length),
            source.level === 'counters'
              ? `${wanted}: not known without the pages (see above)`
              : `${wanted}: no, only ${size(joint.bytes)} for sure`,
            { indent: INDENT, width },
          ),
    );
  }
  return `${lines.map((l) => l.replace(/ +$/gm, '')).join('\n')}\n`;
}

/** Blocks in the order they should go, runs up or down folded: [46, 45, 44, 9, 10] -> "46-44, 9-10". */
export function sayOrder(order: readonly number[]): string {
  const parts: string[] = [];
  for (let k = 0; k < order.length; ) {
    const first = order[k] as number;
    const step = (order[k + 1] ?? first) - first;
    let end = k;
    if (step === 1 || step === -1) while (order[end + 1] === (order[end] as number) + step) end++;
    parts.push(end === k ? `${first}` : `${first}-${order[end]}`);
    k = end + 1;
  }
  return parts.join(', ');
}
