// Options that several commands share, named as util-linux names them (lsmem, chmem).

import { type Command, Option } from 'commander';
import { err, ok, type Result } from '#base/result';
import { type Complaint, EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import type { SourceOptions } from './open-twin.ts';
import { type Column, formatTable, pickColumns, type TableStyle } from './table.ts';

export const withSource = (command: Command): Command =>
  command
    .option('--from <source>', 'a bundle, a directory, a lab snapshot, or a guest: qemu:..., libvirt:..., proxmox:...')
    .option('-s, --sysroot <dir>', 'a directory with proc/ and sys/ in it, as lsmem takes it')
    .option('--timeout <time>', 'how long reading a guest may take: 90s, 5m (default 60s)')
    .option('-q, --quiet', 'no notes and no progress on stderr');

const MS_OF: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 };

/** "500ms", "90s", "5m", "1h"; a plain number is seconds, as timeout(1) has it. At most a day; undefined: no such time. */
export function parseTime(text: string): number | undefined {
  const m = /^(\d+(?:\.\d+)?)(ms|s|m|min|h)?$/.exec(text);
  const ms = m === null ? 0 : Math.round(Number(m[1]) * (MS_OF[m[2] ?? 's'] as number)); // the pattern's own units
  return ms > 0 && ms <= 86_400_000 ? ms : undefined;
}

export type TableOptions = SourceOptions & {
  readonly json?: boolean;
  readonly pairs?: boolean;
  readonly raw?: boolean;
  readonly noheadings?: boolean;
  readonly bytes?: boolean;
  readonly all?: boolean;
  readonly output?: string;
  readonly summary?: 'never' | 'always' | 'only';
};

/** `-o` and the forms of a table; `-J` is lsmem's short form of --json. */
export const withTable = (command: Command): Command =>
  withSource(command)
    .option('-J, --json', 'a JSON document (docs/formats/json.md)')
    .option('-P, --pairs', 'KEY="value" pairs')
    .option('-r, --raw', 'columns divided by one blank')
    .option('-n, --noheadings', 'no headings')
    .option('-b, --bytes', 'plain numbers: sizes in bytes, times in milliseconds')
    .option('-o, --output <columns>', 'columns to print: LIST instead of, or +LIST besides the usual ones');

export const withSummary = (command: Command): Command =>
  command
    .option('-a, --all', 'one line for each memory block')
    .addOption(new Option('--summary [when]', 'print the summary').choices(['never', 'always', 'only']).preset('only'));

/** Column names for a command's --help. */
export const helpOfColumns = <Row>(columns: readonly Column<Row>[], defaults: readonly string[]): string =>
  [
    '',
    'Columns (* = shown by default):',
    ...columns.map((c) => `  ${defaults.includes(c.name) ? '*' : ' '} ${c.name.padEnd(10)} ${c.help}`),
  ].join('\n');

export type Sheet<Row> = {
  readonly columns: readonly Column<Row>[];
  readonly style: TableStyle;
  readonly chosen: boolean;
};

/** Columns and form for one run; a wrong column name, or two forms at once, is a usage error. */
export function sheetOf<Row>(
  io: Io,
  options: TableOptions,
  all: readonly Column<Row>[],
  defaults: readonly string[],
): Result<Sheet<Row>, Complaint> {
  const forms = [options.json, options.pairs, options.raw].filter((x) => x === true).length;
  if (forms > 1) return err({ exit: EXIT.USAGE, sentence: '--json, --pairs and --raw exclude each other' });
  const columns = pickColumns(options.output, all, defaults);
  if (!columns.ok) return err({ exit: EXIT.USAGE, sentence: columns.error });
  return ok({
    columns: columns.value,
    chosen: options.output !== undefined,
    style: {
      form: options.pairs === true ? 'pairs' : options.raw === true ? 'raw' : 'table',
      headings: options.noheadings !== true,
      colour: wantsColour(io),
      width: widthOf(io),
    },
  });
}

export const printSheet = <Row>(sheet: Sheet<Row>, rows: readonly Row[]): string =>
  formatTable(rows, sheet.columns, { ...sheet.style, chosen: sheet.chosen });

/** The summary is for people: absent from pairs and raw unless it is asked for, as in lsmem. */
export function showsSummary(options: TableOptions): { table: boolean; summary: boolean } {
  const plain = options.pairs !== true && options.raw !== true;
  return {
    table: options.summary !== 'only',
    summary: options.summary === 'only' || options.summary === 'always' || (options.summary === undefined && plain),
  };
}

/** What every command does with a complaint. @returns the exit code */
export function complain(io: Io, c: Complaint): number {
  io.err(`dimmer: ${c.sentence}\n`);
  return c.exit;
}

/** A command's action gives the exit code; commander's own actions give nothing. */
export type Run = (io: Io, exit: (code: number) => void) => void;
