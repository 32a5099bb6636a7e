// dimmer ls: blocks as lsmem lists them, zones, nodes, the ranges that might be pulled out (DIMMs), and pools.
//
// ls blocks prints what `lsmem` prints on the same tree, line for line, unless other columns are asked for. ls pools takes
// machine files as well: the pools of a computer that is not there.

import type { Command } from 'commander';
import { hex } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { PAGE_SIZE } from '#mm/index';
import {
  type CheckRow,
  type DimmRow,
  listBlocks,
  listDimms,
  listNodes,
  listPools,
  listZones,
  machineInfo,
  type PoolEntry,
  type PoolRow,
  poolsOfTwin,
  type SourceInfo,
  type SplitBy,
  sourceInfo,
} from '#query/index';
import type { Twin } from '#twin/index';
import { blockColumns, sizeText } from './columns.ts';
import { type Complaint, EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
import { formatJson } from './json.ts';
import { bootMachineFile, isMachineFile } from './machine-source.ts';
import { type Asked, ask, openTwin } from './open-twin.ts';
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
import { POOL_DEFAULTS, poolColumns } from './pool-columns.ts';
import { VERDICT_PAINT } from './style.ts';
import type { Column } from './table.ts';

const BLOCK_DEFAULTS = ['RANGE', 'SIZE', 'STATE', 'REMOVABLE', 'BLOCK'];
const ZONE_DEFAULTS = ['NODE', 'ZONE', 'PRESENT', 'MANAGED', 'FREE', 'YES', 'NO', 'MAYBE', 'CANGO'];
const DIMM_DEFAULTS = ['DIMM', 'RANGE', 'SIZE', 'BLOCK', 'NODE', 'ZONES', 'STATE', 'YES', 'NO', 'MAYBE', 'VERDICT'];

export const LS_WHAT = ['blocks', 'zones', 'nodes', 'dimms', 'pools'] as const;
type What = (typeof LS_WHAT)[number];

export function addLs(program: Command, io: Io, exit: (code: number) => void): void {
  withSummary(withTable(program.command('ls')))
    .description('Blocks, zones, nodes, the ranges in which memory came (dimms), or pools.')
    .argument('<what>', LS_WHAT.join(', '))
    .argument('[target]', 'ls blocks: only the blocks of this target; ls pools: the source, as --from takes it')
    .addHelpText(
      'after',
      () => `${helpOfColumns(blockColumns({ inBytes: false, addressDigits: 16 }), BLOCK_DEFAULTS)}
${helpOfColumns(poolColumns(false), POOL_DEFAULTS).replace('Columns (', 'Columns of ls pools (')}

Examples:
  dimmer ls blocks                    the same lines as lsmem
  dimmer ls blocks -o +VERDICT,REASON with an answer that is not constant
  dimmer ls blocks zone:1/Movable -a  every block of a zone
  dimmer ls zones                     what each zone has, and could give back
  dimmer ls dimms                     ranges that might be unplugged as a whole
  dimmer ls pools machine.yaml        pools, each below what it was carved from`,
    )
    .action((what: string, target: string | undefined, options: TableOptions) => exit(run(io, what, target, options)));
}

function run(io: Io, what: string, target: string | undefined, options: TableOptions): number {
  if (!(LS_WHAT as readonly string[]).includes(what))
    return complain(io, { exit: EXIT.USAGE, sentence: `ls knows ${LS_WHAT.join(', ')}, not "${what}"` });
  const printed =
    what === 'blocks'
      ? lsBlocks(io, target, options)
      : what === 'pools'
        ? lsPools(io, target, options)
        : lsOthers(io, what as What, target, options);
  if (!printed.ok) return complain(io, printed.error);
  io.out(printed.value);
  return EXIT.OK;
}

/** Columns of ls blocks that need the blocks judged. */
const JUDGED = new Set(['VERDICT', 'ERRNO', 'BLOCKING', 'MOVE', 'TIME', 'BASIS', 'REASON']);

const SPLITS: Readonly<Record<string, SplitBy>> = {
  STATE: 'state',
  REMOVABLE: 'removable',
  NODE: 'node',
  ZONES: 'zones',
  VERDICT: 'verdict',
  ERRNO: 'verdict',
  REASON: 'verdict',
};

function lsBlocks(io: Io, target: string | undefined, options: TableOptions): Result<string, Complaint> {
  const columns = blockColumns({ inBytes: options.bytes === true, addressDigits: 16 });
  const sheet = sheetOf(io, options, columns, BLOCK_DEFAULTS);
  if (!sheet.ok) return sheet;
  const asked = ask(io, target, options);
  if (!asked.ok) return asked;
  const { twin, verdicts } = asked.value;
  const names = sheet.value.columns.map((c) => c.name);
  const splitBy = names.flatMap((name) => SPLITS[name] ?? []);
  const rows = listBlocks(twin, verdicts, { all: options.all === true, splitBy });
  if (options.json === true) {
    const judged = names.some((name) => JUDGED.has(name)) || splitBy.includes('verdict');
    const body = judged ? rows : rows.map(withoutVerdict);
    return { ok: true, value: formatJson('ls-blocks', { source: sourceInfo(twin), rows: body }) };
  }
  const shows = showsSummary(options);
  const table = shows.table ? printSheet<CheckRow>(sheet.value, rows) : '';
  const gap = shows.table && shows.summary ? '\n' : '';
  return { ok: true, value: table + gap + (shows.summary ? lsmemSummary(asked.value, options) : '') };
}

const withoutVerdict = (r: CheckRow): Partial<CheckRow> => ({
  firstBlock: r.firstBlock,
  lastBlock: r.lastBlock,
  startPhys: r.startPhys,
  endPhys: r.endPhys,
  nodes: r.nodes,
  zones: r.zones,
  state: r.state,
  ...(r.removable === undefined ? {} : { removable: r.removable }),
});

/** lsmem's own three lines. */
function lsmemSummary({ twin, blocks }: Asked, options: TableOptions): string {
  const bytes = twin.blockPages * PAGE_SIZE;
  const mine = new Set<number>(blocks);
  const total = (online: boolean): number =>
    twin.blocks.filter((b) => mine.has(b.id) && (b.state === 'online') === online).length * bytes;
  const line = (label: string, value: number): string => {
    const text = value === 0 && options.bytes !== true ? '0B' : sizeText(value, options.bytes === true);
    return `${label.padEnd(23)} ${text.padStart(options.bytes === true ? 15 : 5)}\n`;
  };
  return (
    line('Memory block size:', bytes) +
    line('Total online memory:', total(true)) +
    line('Total offline memory:', total(false))
  );
}

// ------------------------------------------------------------------------------------------------ zones, nodes, dimms

function lsOthers(io: Io, what: What, target: string | undefined, options: TableOptions): Result<string, Complaint> {
  if (target !== undefined)
    return err({ exit: EXIT.USAGE, sentence: `ls ${what} takes no target; ls blocks ${target} does` });
  if (what === 'dimms')
    return lsWith(io, options, dimmColumns(options.bytes === true), DIMM_DEFAULTS, 'ls-dimms', listDimms);
  const defaults = what === 'zones' ? ZONE_DEFAULTS : ZONE_DEFAULTS.filter((name) => name !== 'ZONE');
  const list = what === 'zones' ? listZones : listNodes;
  return lsWith(io, options, zoneColumns(options.bytes === true), defaults, `ls-${what as 'zones' | 'nodes'}`, list);
}

function lsWith<Row>(
  io: Io,
  options: TableOptions,
  columns: readonly Column<Row>[],
  defaults: readonly string[],
  kind: 'ls-zones' | 'ls-nodes' | 'ls-dimms',
  list: (twin: Twin, verdicts: Asked['verdicts']) => readonly Row[],
): Result<string, Complaint> {
  const sheet = sheetOf(io, options, columns, defaults);
  if (!sheet.ok) return sheet;
  const asked = ask(io, undefined, options);
  if (!asked.ok) return asked;
  const rows = list(asked.value.twin, asked.value.verdicts);
  const value =
    options.json === true
      ? formatJson(kind, { source: sourceInfo(asked.value.twin), rows })
      : printSheet(sheet.value, rows);
  return { ok: true, value };
}

/** How many blocks got which verdict. */
const COUNTS: readonly Column<Record<'yes' | 'no' | 'maybe', number>>[] = [
  { name: 'YES', align: 'right', help: 'blocks that would go, each judged alone', text: (r) => String(r.yes) },
  { name: 'NO', align: 'right', help: 'blocks that would not', text: (r) => String(r.no) },
  { name: 'MAYBE', align: 'right', help: 'blocks that might', text: (r) => String(r.maybe) },
];

function zoneColumns(inBytes: boolean): readonly Column<PoolRow>[] {
  const pages = (of: (r: PoolRow) => number) => (r: PoolRow) => sizeText(of(r) * PAGE_SIZE, inBytes);
  return [
    { name: 'NODE', align: 'right', help: 'NUMA node', text: (r) => String(r.node) },
    { name: 'ZONE', align: 'left', help: 'zone', text: (r) => r.zone ?? '' },
    { name: 'PRESENT', align: 'right', help: 'RAM', text: pages((r) => r.present) },
    { name: 'MANAGED', align: 'right', help: 'what the allocator has', text: pages((r) => r.managed) },
    { name: 'FREE', align: 'right', help: 'free', text: pages((r) => r.free) },
    { name: 'HIGH', align: 'right', help: 'what should stay free (high watermark)', text: pages((r) => r.high) },
    ...COUNTS,
    {
      name: 'CANGO',
      align: 'right',
      help: 'size of the blocks that would go',
      text: (r) => sizeText(r.yesBytes, inBytes),
    },
  ];
}

function dimmColumns(inBytes: boolean): readonly Column<DimmRow>[] {
  return [
    { name: 'DIMM', align: 'left', help: 'as a target', text: (r) => `dimm:${r.index}` },
    {
      name: 'RANGE',
      align: 'left',
      help: 'physical addresses, first and last byte',
      narrow: 'drop',
      text: (r) => `0x${hex(r.startPhys, 9)}-0x${hex(r.endPhys - 1, 9)}`,
    },
    { name: 'SIZE', align: 'right', help: 'size', text: (r) => sizeText(r.endPhys - r.startPhys, inBytes) },
    { name: 'BLOCK', align: 'right', help: 'memory blocks', text: (r) => `${r.firstBlock}-${r.lastBlock}` },
    { name: 'NODE', align: 'right', help: 'NUMA nodes', text: (r) => r.nodes.join(',') || '0' },
    { name: 'ZONES', align: 'left', help: 'zones of its online blocks', text: (r) => r.zones.join('/') || '-' },
    { name: 'STATE', align: 'left', help: 'online, offline or mixed', text: (r) => r.state },
    ...COUNTS,
    {
      name: 'VERDICT',
      align: 'left',
      help: 'could the whole range go? no if one block stays',
      text: (r) => r.verdict ?? '-',
      paint: (r) => (r.verdict === undefined ? 'dim' : VERDICT_PAINT[r.verdict]),
    },
    { name: 'NAME', align: 'left', help: 'the kernel’s name of the range (/proc/iomem)', text: (r) => r.name },
  ];
}

// ------------------------------------------------------------------------------------------------------------- pools

function lsPools(io: Io, source: string | undefined, options: TableOptions): Result<string, Complaint> {
  if (source !== undefined && (options.from ?? options.sysroot) !== undefined)
    return err({
      exit: EXIT.USAGE,
      sentence: `the source is named twice: ${source} and ${options.from ?? options.sysroot}`,
    });
  const from = source ?? options.from;
  const sheet = sheetOf(io, options, poolColumns(options.bytes === true), POOL_DEFAULTS);
  if (!sheet.ok) return sheet;
  const found = poolsOf(io, { ...options, ...(from === undefined ? {} : { from }) });
  if (!found.ok) return found;
  return ok(options.json === true ? formatJson('ls-pools', found.value) : printSheet(sheet.value, found.value.rows));
}

function poolsOf(io: Io, options: TableOptions): Result<{ source: SourceInfo; rows: readonly PoolEntry[] }, Complaint> {
  if (isMachineFile(options.from) && options.sysroot === undefined) {
    const booted = bootMachineFile(options.from);
    if (!booted.ok) return booted;
    const { machine, name } = booted.value;
    return ok({ source: machineInfo(machine, name), rows: listPools(machine) });
  }
  const twin = openTwin(io, options);
  return twin.ok ? ok({ source: sourceInfo(twin.value), rows: poolsOfTwin(twin.value) }) : twin;
}
