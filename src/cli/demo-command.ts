// dimmer demo: famous examples of the field, run on a machine of the engine. No capture and no privileges needed.
//
//   rfc2018     the trace of Salvador and Hildenbrand 2018, line by line; what the machine counted goes to stderr
//   gigantic    1 GiB pages that remain, by policy and block size

import type { Command } from 'commander';
import { formatSize } from '#base/format';
import { GIGANTIC_DIMM_BYTES, type GiganticRow, gigantic, type RfcStage, rfc2018 } from '#demo/index';
import { EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { complain } from './options.ts';
import { type Column, formatTable } from './table.ts';

type Options = { readonly json?: boolean; readonly quiet?: boolean };

type Demo = {
  readonly about: string;
  readonly run: (io: Io, options: Options) => void;
};

const DEMOS: Readonly<Record<string, Demo>> = {
  rfc2018: { about: 'a DIMM that hosts its own struct pages comes and goes (Salvador, Hildenbrand 2018)', run: runRfc },
  gigantic: { about: 'how many 1 GiB pages each place of the struct pages leaves', run: runGigantic },
};

export function addDemo(program: Command, io: Io, exit: (code: number) => void): void {
  program
    .command('demo')
    .description('Examples of the field, run on a machine of the engine: needs no capture and no privileges.')
    .argument('[name]', `${Object.keys(DEMOS).join(', ')}; without a name: the list`)
    .option('-J, --json', 'a JSON document')
    .option('-q, --quiet', 'only the trace, nothing on stderr')
    .addHelpText(
      'after',
      `
Examples:
  dimmer demo                         the list
  dimmer demo rfc2018                 80 leaves of struct pages, freed last to first
  dimmer demo gigantic --json`,
    )
    .action((name: string | undefined, options: Options) => exit(run(io, name, options)));
}

function run(io: Io, name: string | undefined, options: Options): number {
  if (name === undefined) {
    for (const [key, demo] of Object.entries(DEMOS)) io.out(`${key.padEnd(10)} ${demo.about}\n`);
    return EXIT.OK;
  }
  const demo = Object.hasOwn(DEMOS, name) ? DEMOS[name] : undefined;
  if (demo === undefined) {
    const sentence = `demo knows ${Object.keys(DEMOS).join(', ')}, not "${name}"`;
    return complain(io, { exit: EXIT.USAGE, sentence });
  }
  demo.run(io, options);
  return EXIT.OK;
}

/** docs/formats/demo-*.schema.json. A change that could break a reader raises the version. */
const document = (kind: string, body: object): string =>
  `${JSON.stringify({ dimmer: kind, version: 1, ...body }, undefined, 2)}\n`;

const table = <Row>(io: Io, rows: readonly Row[], columns: readonly Column<Row>[]): string =>
  formatTable(rows, columns, {
    form: 'table',
    headings: true,
    colour: wantsColour(io),
    width: widthOf(io),
    chosen: false,
  });

const STAGE_COLUMNS: readonly Column<RfcStage>[] = [
  { name: 'STAGE', align: 'left', help: 'what has happened', text: (s) => s.stage },
  { name: 'PRESENT', align: 'right', help: 'memory that exists', text: (s) => formatSize(s.presentBytes) },
  { name: 'MEMTOTAL', align: 'right', help: 'as in meminfo', text: (s) => formatSize(s.memTotalBytes) },
  { name: 'MEMFREE', align: 'right', help: 'as in meminfo', text: (s) => formatSize(s.memFreeBytes) },
];

function runRfc(io: Io, options: Options): void {
  const report = rfc2018();
  if (options.json === true) {
    io.out(document('demo-rfc2018', report));
    return;
  }
  for (const line of report.trace) io.out(`${line}\n`);
  if (options.quiet === true) return;
  io.err(
    `\nA DIMM of 10G came to node 1 at 4G and hosted its own struct pages: ${report.headPages} frames at its head,\n` +
      `${report.kernelPages} of other memory. They count in the total and are shown as allocated.\n\n${table(io, report.stages, STAGE_COLUMNS)}`,
  );
}

const GIGANTIC_COLUMNS: readonly Column<GiganticRow>[] = [
  { name: 'BLOCK', align: 'right', help: 'size of a memory block', text: (r) => formatSize(r.blockBytes) },
  { name: 'POLICY', align: 'left', help: 'place of the struct pages', text: (r) => r.policy },
  { name: 'MEASURED', align: 'right', help: '1 GiB pages taken', text: (r) => String(r.measured) },
  { name: 'DERIVED', align: 'right', help: '1 GiB pages by the plan', text: (r) => String(r.derived) },
  { name: 'ON-DIMM', align: 'right', help: 'of the DIMM', text: (r) => formatSize(r.hostedBytes) },
  { name: 'ELSEWHERE', align: 'right', help: 'of other memory', text: (r) => formatSize(r.kernelBytes) },
];

function runGigantic(io: Io, options: Options): void {
  const rows = gigantic();
  if (options.json === true) {
    io.out(document('demo-gigantic', { dimmBytes: GIGANTIC_DIMM_BYTES, rows }));
    return;
  }
  io.out(
    `1 GiB pages that a DIMM of ${formatSize(GIGANTIC_DIMM_BYTES)} yields, by block size and place of its struct pages.\n` +
      `Measured: taken on a machine, one after the other. Derived: aligned GiB without struct pages in them.\n\n${table(io, rows, GIGANTIC_COLUMNS)}`,
  );
}
