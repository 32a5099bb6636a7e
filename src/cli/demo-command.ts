// dimmer demo: famous examples of the field, run on a machine of the engine. No capture and no privileges needed.
//
//   rfc2018     the trace of Salvador and Hildenbrand 2018, line by line; what the machine counted goes to stderr
//   gigantic    1 GiB pages that remain, by policy and block size
//   ingo        which DIMMs can be pulled when 90 % is free: Linux, and with each help more
//   defrag      who makes large free blocks, and when: strategies compared on one load
//   pools       the list of the demonstrations of pools, one for each problem of Snook 2007
//   pools/NAME  one of them: what happened in words, and the figures before and after

import type { Command } from 'commander';
import { formatSize, parseSize } from '#base/format';
import {
  type DemoResult,
  GIGANTIC_DIMM_BYTES,
  type GiganticRow,
  gigantic,
  POOL_DEMOS,
  type PoolDemo,
  type RfcStage,
  rfc2018,
} from '#demo/index';
import { runDefrag } from './defrag-command.ts';
import { EXIT } from './exit-code.ts';
import { INGO_SIZE, INGO_SIZE_STEP, runIngo } from './ingo-command.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { complain } from './options.ts';
import { wrap } from './style.ts';
import { type Column, formatTable } from './table.ts';

type Options = {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly seed?: string;
  readonly seeds?: string;
  readonly size?: string;
};

type Demo = {
  readonly about: string;
  /** @returns the exit code */
  readonly run: (io: Io, options: Options) => number;
  /** It has a seed. Default false. */
  readonly chance?: boolean;
};

/** A demo that only shows something. */
const fine =
  (show: (io: Io, options: Options) => void) =>
  (io: Io, options: Options): number => {
    show(io, options);
    return EXIT.OK;
  };

const DEMOS: Readonly<Record<string, Demo>> = {
  rfc2018: {
    about: 'a DIMM that hosts its own struct pages comes and goes (Salvador, Hildenbrand 2018)',
    run: fine(runRfc),
  },
  gigantic: { about: 'how many 1 GiB pages each place of the struct pages leaves', run: fine(runGigantic) },
  ingo: {
    about: 'DIMMs that 90 % free memory does not free, and what frees them (Hansen 2005)',
    run: askIngo,
    chance: true,
  },
  defrag: {
    about: 'strategies of defragmentation, Linux and those of 2004 (Hansen, Mooley), on one load',
    run: fine(runDefrag),
    chance: true,
  },
  pools: { about: 'pools that no kernel has: a demo for each problem of Snook 2007', run: fine(listPools) },
};

/** "pools/containers" and so on: what may stand behind `dimmer demo`. */
export const DEMO_NAMES: readonly string[] = [...Object.keys(DEMOS), ...POOL_DEMOS.map((d) => `pools/${d.name}`)];

export function addDemo(program: Command, io: Io, exit: (code: number) => void): void {
  program
    .command('demo')
    .description('Examples of the field, run on a machine of the engine: needs no capture and no privileges.')
    .argument('[name]', `${Object.keys(DEMOS).join(', ')}; without a name: the list`)
    .option('-J, --json', 'a JSON document')
    .option('-q, --quiet', 'only the trace, nothing on stderr')
    .option('--seed <number>', 'of pools/NAME, ingo and defrag: chance of another seed')
    .option('--seeds <number>', 'of ingo: so many, from --seed (default 1) on')
    .option('--size <size>', 'of ingo: the machine, 8 DIMMs; default 64G')
    .addHelpText(
      'after',
      `
Examples:
  dimmer demo                         the list
  dimmer demo rfc2018                 80 leaves of struct pages, freed last to first
  dimmer demo gigantic --json
  dimmer demo ingo                    64 GiB in 8 DIMMs, 90 % free: which can be pulled?
  dimmer demo ingo --seeds 100        the same for a hundred machines
  dimmer demo defrag                  stalls, pages moved, blocks gained, by strategy
  dimmer demo pools                   ten problems, ten uses of pools
  dimmer demo pools/embedded          one of them`,
    )
    .action((name: string | undefined, options: Options) => exit(run(io, name, options)));
}

function run(io: Io, name: string | undefined, options: Options): number {
  if (name === undefined) {
    for (const [key, demo] of Object.entries(DEMOS)) io.out(`${key.padEnd(10)} ${demo.about}\n`);
    return EXIT.OK;
  }
  const seed = options.seed === undefined ? undefined : Number(options.seed);
  if (seed !== undefined && !(/^\d+$/.test(options.seed ?? '') && seed <= 0xffff_ffff))
    return complain(io, { exit: EXIT.USAGE, sentence: `--seed takes 0 to 4294967295, not "${options.seed}"` });
  const pool = POOL_DEMOS.find((d) => `pools/${d.name}` === name);
  if (pool !== undefined) {
    runPool(io, pool, seed, options);
    return EXIT.OK;
  }
  if (name.startsWith('pools/')) {
    const sentence = `demo pools knows ${POOL_DEMOS.map((d) => d.name).join(', ')}, not "${name.slice(6)}"`;
    return complain(io, { exit: EXIT.USAGE, sentence });
  }
  const demo = Object.hasOwn(DEMOS, name) ? DEMOS[name] : undefined;
  if (demo === undefined) {
    const sentence = `demo knows ${Object.keys(DEMOS).join(', ')}, not "${name}"`;
    return complain(io, { exit: EXIT.USAGE, sentence });
  }
  if (seed !== undefined && demo.chance !== true)
    return complain(io, { exit: EXIT.USAGE, sentence: `demo ${name} leaves nothing to chance` });
  if (name !== 'ingo' && (options.seeds ?? options.size) !== undefined)
    return complain(io, { exit: EXIT.USAGE, sentence: '--seeds and --size are for demo ingo' });
  return demo.run(io, options);
}

/** Exit code 1: a DIMM stayed that should have gone. */
function askIngo(io: Io, options: Options): number {
  const seeds = options.seeds ?? '1';
  if (!/^[1-9]\d{0,5}$/.test(seeds))
    return complain(io, { exit: EXIT.USAGE, sentence: `--seeds takes 1 to 999999, not "${seeds}"` });
  const bytes = options.size === undefined ? INGO_SIZE : parseSize(options.size);
  if (bytes === undefined || bytes % INGO_SIZE_STEP !== 0 || bytes === 0)
    return complain(io, {
      exit: EXIT.USAGE,
      sentence: `--size takes multiples of ${formatSize(INGO_SIZE_STEP)}, not "${options.size}"`,
    });
  const first = Number(options.seed ?? 1);
  const asked = { seeds: Array.from({ length: Number(seeds) }, (_, k) => first + k), bytes };
  return runIngo(io, { ...asked, json: options.json === true }) ? EXIT.OK : EXIT.FAILED;
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

const POOL_COLUMNS: readonly Column<PoolDemo>[] = [
  { name: 'DEMO', align: 'left', help: 'as dimmer demo takes it', text: (d) => `pools/${d.name}` },
  { name: 'PROBLEM', align: 'left', help: 'in the words of the mail', text: (d) => d.problem, prose: true },
];

function listPools(io: Io, options: Options): void {
  if (options.json === true) {
    const demos = POOL_DEMOS.map((d) => ({ name: `pools/${d.name}`, problem: d.problem }));
    io.out(document('demo-pools', { demos }));
    return;
  }
  io.out(table(io, POOL_DEMOS, POOL_COLUMNS));
}

function runPool(io: Io, demo: PoolDemo, seed: number | undefined, options: Options): void {
  const result = demo.run(seed === undefined ? {} : { seed });
  if (options.json === true) {
    io.out(document('demo-pools', { name: `pools/${demo.name}`, problem: demo.problem, ...result }));
    return;
  }
  const quoted = wrap(demo.problem, Math.min(widthOf(io) ?? PROSE_WIDTH, PROSE_WIDTH) - 2).map((l) => `> ${l}\n`);
  io.out(`${quoted.join('')}\n${result.title}\n\n`);
  for (const line of result.lines) io.out(`${line}\n`);
  io.out(`\n${table(io, result.table.rows, columnsOf(result.table))}`);
}

/** A sentence is easier to read in lines that are not as wide as the widest terminal. */
const PROSE_WIDTH = 120;

/** The first column says what a row is about; a column of figures stands right. */
const columnsOf = (t: DemoResult['table']): Column<DemoResult['table']['rows'][number]>[] =>
  t.columns.map((name, k) => ({
    name,
    align: k === 0 ? 'left' : 'right',
    help: '',
    text: (row) => String(row[k]),
  }));
