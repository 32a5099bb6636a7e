// dimmer sim: boots the computer that a machine file describes, makes its pools, and prints what it is then.

import type { Command } from 'commander';
import { formatSize, groupDigits, hex, plural } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { parseSrat, type Srat } from '#kernfs/srat';
import { type SimBlocks, type SimReport, type SimZone, simReport } from '#machine-file/index';
import { listPools, type PoolEntry } from '#query/index';
import { type Complaint, EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { bootWithPools, readInput, readMachineFile } from './machine-source.ts';
import { complain } from './options.ts';
import { poolColumns } from './pool-columns.ts';
import { hanging } from './style.ts';
import { type Column, formatTable } from './table.ts';

type Options = { readonly json?: boolean; readonly all?: boolean; readonly srat?: string };

const ZONES: readonly Column<SimZone>[] = [
  { name: 'NODE', align: 'right', help: 'NUMA node', text: (z) => String(z.node) },
  { name: 'ZONE', align: 'left', help: 'zone', text: (z) => z.zone },
  { name: 'START_PFN', align: 'right', help: 'first frame', text: (z) => String(z.startPfn) },
  {
    name: 'SPANNED',
    align: 'right',
    help: 'frames from first to last, holes included',
    text: (z) => String(z.spannedPages),
  },
  { name: 'PRESENT', align: 'right', help: 'frames that exist', text: (z) => String(z.presentPages) },
  { name: 'MANAGED', align: 'right', help: 'frames that the allocator has', text: (z) => String(z.managedPages) },
];

const blockColumns = (digits: number): readonly Column<SimBlocks>[] => [
  {
    name: 'RANGE',
    align: 'left',
    help: 'first and last byte',
    text: (b) => `0x${hex(b.startPhys, digits)}-0x${hex(b.endPhys - 1, digits)}`,
  },
  { name: 'SIZE', align: 'right', help: 'size', text: (b) => formatSize(b.endPhys - b.startPhys) },
  { name: 'STATE', align: 'right', help: 'state', text: (b) => b.state },
  {
    name: 'BLOCK',
    align: 'right',
    help: 'memory blocks',
    text: (b) => (b.firstBlock === b.lastBlock ? `${b.firstBlock}` : `${b.firstBlock}-${b.lastBlock}`),
  },
  { name: 'NODE', align: 'right', help: 'NUMA node', text: (b) => String(b.node) },
  {
    name: 'ZONES',
    align: 'right',
    help: 'its zone; None when it lies in several',
    text: (b) => (b.validZones.length === 0 || b.validZones[0] === 'none' ? 'None' : b.validZones.join('/')),
  },
];

/** They are all of users and were made a moment ago: nothing in them is used. */
const SIM_POOLS = poolColumns(false).filter((c) =>
  ['NAME', 'PARENT', 'CLASS', 'NODES', 'SIZE', 'MIN', 'PRIO', 'OWNER'].includes(c.name),
);

export function addSim(program: Command, io: Io, exit: (code: number) => void): void {
  program
    .command('sim')
    .description('Boots the computer that a machine file describes, and prints its zones, memory blocks and pools.')
    .argument('<machine.yaml>', 'a machine file (docs/formats/machine.md)')
    .option('--srat <file>', 'a raw ACPI SRAT: nodes and hot-pluggable ranges of the RAM in the file')
    .option('-a, --all', 'one line for each memory block')
    .option('-J, --json', 'a JSON document (docs/formats/json.md)')
    .addHelpText(
      'after',
      `
The kernel command line in the file is obeyed; words without effect are listed with the reason.
Exit code: 0 booted; 2 the file is unreadable, or no machine.

Examples:
  dimmer sim docs/guide/machines/two-nodes.yaml
  dimmer sim machine.yaml --json
  dimmer sim machine.yaml --srat SRAT`,
    )
    .action((file: string, options: Options) => exit(run(io, file, options)));
}

function run(io: Io, file: string, options: Options): number {
  const srat = options.srat === undefined ? ok(undefined) : readSrat(options.srat);
  if (!srat.ok) return complain(io, srat.error);
  const machine = readMachineFile(file, srat.value);
  if (!machine.ok) return complain(io, machine.error);
  const booted = bootWithPools(file, machine.value);
  if (!booted.ok) return complain(io, booted.error);
  const report = simReport(machine.value, booted.value, { all: options.all === true });
  const pools = listPools(booted.value).filter((p) => p.kind === 'user');
  io.out(options.json === true ? formatJson('sim', { ...report, pools }) : format(io, report, pools));
  return EXIT.OK;
}

function readSrat(file: string): Result<Srat, Complaint> {
  const bytes = readInput(file);
  if (!bytes.ok) return bytes;
  const srat = parseSrat(bytes.value, file);
  return srat.ok ? srat : err({ exit: EXIT.USAGE, sentence: `${file}: ${srat.error.reason}` });
}

const INDENT = 14;

function format(io: Io, r: SimReport, pools: readonly PoolEntry[]): string {
  const width = widthOf(io);
  const style = { form: 'table', headings: true, colour: wantsColour(io), width, chosen: false } as const;
  const cpus = r.nodes.reduce((n, x) => n + x.cpus, 0);
  const blocks = r.blocks.reduce((n, b) => n + b.lastBlock - b.firstBlock + 1, 0);
  const who = [
    `Linux ${r.kernel}`,
    plural(r.nodes.length, 'node'),
    ...(cpus > 0 ? [plural(cpus, 'CPU')] : []),
    `${formatSize(r.presentBytes)} in ${plural(blocks, 'block')} of ${formatSize(r.blockSizeBytes)}`,
    `${formatSize(r.managedBytes)} managed`,
  ].join(', ');
  const digits = hex(Math.max(0, (r.blocks[r.blocks.length - 1]?.endPhys ?? 1) - 1)).length;
  const rest = remarks(r).map(([label, text]) => hanging(label, text, { indent: INDENT, width }));
  return [
    `${r.name === undefined ? '' : `${r.name}: `}${who}\n`,
    formatTable(r.zones, ZONES, style),
    formatTable(r.blocks, blockColumns(digits), style),
    ...(pools.length === 0 ? [] : [formatTable(pools, SIM_POOLS, style)]),
    ...(rest.length === 0 ? [] : [`${rest.map((l) => l.replace(/ +$/gm, '')).join('\n')}\n`]),
  ].join('\n');
}

/** Label and text of what there is to say below the tables. */
function remarks(r: SimReport): [string, string][] {
  const out: [string, string][] = [];
  if (r.cmdline !== '') out.push(['Told:', r.cmdline]);
  for (const h of r.hugepages)
    out.push(['Huge pages:', `${groupDigits(h.got)} of ${groupDigits(h.asked)} of ${formatSize(h.sizeBytes)}`]);
  for (const note of r.notes) out.push(['Note:', note]);
  for (const kind of ['ignored', 'alias', 'unknown'] as const) {
    const label = { ignored: 'Ignored:', alias: 'Alias:', unknown: 'Unknown:' }[kind];
    const said = r.words.filter((w) => w.kind === kind);
    out.push(...said.map((w, k): [string, string] => [k === 0 ? label : '', `${w.word}: ${w.why}`]));
  }
  r.dimms.forEach((d, k) => {
    const at = d.start === undefined ? '' : ` at 0x${hex(d.start)}`;
    out.push([k === 0 ? 'DIMMs:' : '', `${formatSize(d.size)} on node ${d.node}${at}, ${d.online}: not added yet`]);
  });
  return out;
}
