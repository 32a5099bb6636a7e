// dimmer demo ingo [--seeds N] [--seed N] [--size SIZE] [--json]: T-INGO on the terminal.
//
//   one seed      a table, a line for each DIMM: what Linux could free, what each help more frees, what it cost
//   many seeds    the sums, and the seeds in which something stayed that should have gone
//
// The test itself is src/demo/ingo.ts; here is only text.

import { formatSize } from '#base/format';
import { type INGO_HELPS, INGO_TLB_PPM, type IngoDimm, type IngoReport, type IngoSums, ingo, sumUp } from '#demo/index';
import { type Io, wantsColour, widthOf } from './io.ts';
import { type Column, formatTable } from './table.ts';

export type IngoAsked = {
  readonly seeds: readonly number[];
  /** Of the machine, 8 DIMMs. */
  readonly bytes: number;
  readonly json: boolean;
};

const DIMMS = 8;
/** 8 DIMMs of so many bytes are whole memory blocks, and large enough for what is reserved in the first. */
export const INGO_SIZE_STEP = DIMMS * 2 ** 29;
export const INGO_SIZE = 64 * 2 ** 30;
/** A small machine is full sooner. */
const SMALL_ROUNDS = 12;

const percent = (ppm: number): string => `${(ppm / 10_000).toFixed(4)} %`;
const gone = (d: IngoDimm, help: (typeof INGO_HELPS)[number]): string => (d.trials[help].removed ? 'goes' : 'stays');
const kernelPages = (d: IngoDimm): number => {
  const { memmap, drivers, remap } = d.trials.remap.moved;
  return memmap + drivers + remap;
};

const COLUMNS: readonly Column<IngoDimm>[] = [
  { name: 'DIMM', align: 'left', help: 'which', text: (d) => d.name },
  { name: 'SIZE', align: 'right', help: 'of it', text: (d) => formatSize(d.bytes) },
  {
    name: 'BLOCKS',
    align: 'right',
    help: 'that Linux takes offline, of all',
    text: (d) => `${d.trials.linux.blocksGone}/${d.blocks}`,
  },
  { name: 'LINUX', align: 'left', help: 'does it go?', text: (d) => gone(d, 'linux') },
  { name: '+MEMMAP', align: 'left', help: 'with movable struct pages', text: (d) => gone(d, 'memmap') },
  { name: '+DRIVERS', align: 'left', help: 'and drivers that give areas up', text: (d) => gone(d, 'drivers') },
  { name: '+REMAP', align: 'left', help: 'and kernel pages that move', text: (d) => gone(d, 'remap') },
  { name: 'MIGRATED', align: 'right', help: 'frames, as Linux does', text: (d) => `${d.trials.remap.moved.migration}` },
  { name: 'HELPED', align: 'right', help: 'frames moved by the helps', text: (d) => `${kernelPages(d)}` },
  { name: 'SPLITS', align: 'right', help: 'large mappings', text: (d) => `${d.trials.remap.splits}` },
  { name: 'TLB', align: 'right', help: 'bound of the overhead', text: (d) => percent(d.trials.remap.tlbPpm) },
  {
    name: 'WHY NOT',
    align: 'left',
    help: 'what stops Linux first; with all the help, if it stays',
    text: (d) => {
      const why = d.trials.remap.why ?? d.trials.linux.why;
      return why === undefined ? '' : `${why.holder} (${why.class}, ${why.cause})`;
    },
    prose: true,
  },
];

/** Runs and prints. Cost: some 10 s a seed at 64 GiB. @returns did all go that should? */
export function runIngo(io: Io, { seeds, bytes, json }: IngoAsked): boolean {
  const spec = { bytes, dimms: DIMMS, ...(bytes < INGO_SIZE ? { rounds: SMALL_ROUNDS } : {}) };
  // A hundred machines at 64 GiB: every frame of each is looked at twice, its lists 32 times.
  const thorough = seeds.length > 3 ? 'one' : 'every';
  const reports = seeds.map((seed) => ingo(seed, { ...spec, thorough }));
  const sums = sumUp(reports);
  if (json) {
    const body = { bytes, tlbLimitPpm: INGO_TLB_PPM, sums, seeds: reports };
    io.out(`${JSON.stringify({ dimmer: 'demo-ingo', version: 1, ...body }, undefined, 2)}\n`);
  } else {
    io.out(reports.length === 1 ? oneText(io, reports[0] as IngoReport, bytes) : '');
    io.out(sumsText(sums, bytes));
  }
  return sums.stayed === 0 && sums.unnamed === 0 && sums.maxTlbPpm < INGO_TLB_PPM;
}

function oneText(io: Io, r: IngoReport, bytes: number): string {
  const style = { form: 'table', headings: true, colour: wantsColour(io), width: widthOf(io), chosen: false } as const;
  const free = ((100 * r.freePages) / r.managedPages).toFixed(1);
  return (
    '> I have stopped all nonessential services, and free RAM is at 90 %, still I cannot remove that piece of faulty RAM\n' +
    `\n${formatSize(bytes)} in ${DIMMS} DIMMs, seed ${r.seed}, ${free} % free. Each DIMM is pulled out of a copy of the machine.\n\n` +
    `${formatTable(r.dimms, COLUMNS, style)}\n`
  );
}

function sumsText(s: IngoSums, bytes: number): string {
  const of = (n: number, all: number): string => `${n} of ${all}`;
  const moved = `${s.moved.migration} by migration, ${s.moved.memmap} of struct pages, ${s.moved.drivers} by drivers, ${s.moved.remap} remapped`;
  return [
    `${s.seeds === 1 ? '1 seed' : `${s.seeds} seeds`} of ${formatSize(bytes)}: ${s.dimms} DIMMs, ${s.withoutX} without memory that never moves.`,
    `Linux removes ${of(s.removed.linux, s.dimms)} DIMMs, though ${of(s.linuxBlocks, s.blocks)} of their blocks go.`,
    `With movable struct pages ${s.removed.memmap}, and drivers ${s.removed.drivers}, and remapping ${s.removed.remap}:`,
    `${of(s.withoutX - s.stayed, s.withoutX)} that can go, each in one pass; ${s.unnamed === 0 ? 'every refusal names who is in the way' : `${s.unnamed} refusals name nobody`}.`,
    `Frames moved: ${moved}.`,
    `${s.splits} large mappings split; TLB overhead at most ${percent(s.maxTlbPpm)}, allowed ${percent(INGO_TLB_PPM)}.`,
    '',
  ].join('\n');
}
