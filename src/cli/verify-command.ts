// dimmer verify: are the twin's tables sound, and does it say what the kernel's files say?

import type { Command } from 'commander';
import { groupDigits, plural } from '#base/format';
import { verify } from '#query/index';
import { sourceLine } from './check-command.ts';
import { EXIT } from './exit-code.ts';
import { type Io, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { openTwin, type SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';
import { type Column, formatTable } from './table.ts';

type Options = SourceOptions & { readonly json?: boolean };
type Difference = ReturnType<typeof verify>['differences'][number];

const COLUMNS: readonly Column<Difference>[] = [
  { name: 'FILE', align: 'left', help: 'kernel file', text: (d) => d.file },
  { name: 'KERNEL', align: 'right', help: 'what it says', text: (d) => String(d.captured) },
  { name: 'TWIN', align: 'right', help: 'what the twin has', text: (d) => String(d.twin) },
  { name: 'FIGURE', align: 'left', help: 'which figure', text: (d) => d.name, prose: true },
];

export function addVerify(program: Command, io: Io, exit: (code: number) => void): void {
  withSource(program.command('verify'))
    .description('Checks the twin: its invariants, and its figures against the kernel’s files.')
    .option('-J, --json', 'a JSON document (docs/formats/json.md)')
    .addHelpText(
      'after',
      `
A broken invariant is a bug of dimmer (exit 1). A difference is not: a machine goes on while its files are read.

Examples:
  dimmer verify
  dimmer verify --from host.dimmer --json`,
    )
    .action((options: Options) => exit(run(io, options)));
}

function run(io: Io, options: Options): number {
  const twin = openTwin(io, options);
  if (!twin.ok) return complain(io, twin.error);
  const report = verify(twin.value);
  const code = report.violations.length > 0 ? EXIT.FAILED : EXIT.OK;
  if (options.json === true) {
    io.out(formatJson('verify', report));
    return code;
  }
  let text = `${sourceLine(report.source)}\n\n`;
  if (twin.value.level === 'counters') {
    io.out(`${text}Without /proc/kpageflags there is no twin to verify: run it as root.\n`);
    return EXIT.UNSUPPORTED;
  }
  text +=
    report.violations.length === 0
      ? `Invariants:  all hold (machine ${report.digest})\n`
      : `Invariants:  ${plural(report.violations.length, 'violation')}; please report this bug of dimmer with the bundle\n` +
        report.violations.map((v) => `  ${v.rule}: ${v.detail}\n`).join('');
  const differ = report.differences.length;
  text += `Figures:     ${groupDigits(report.compared - differ)} of ${groupDigits(report.compared)} equal the kernel’s files\n`;
  if (differ > 0) {
    const style = { form: 'table', headings: true, colour: false, width: widthOf(io), chosen: false } as const;
    text += `\n${formatTable(report.differences, COLUMNS, style)}`;
  }
  io.out(text);
  return code;
}
