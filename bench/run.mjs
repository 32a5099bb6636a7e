// The bench: every engine on every workload, one process each, interleaved round-robin, medians at the end.
//
//   node bench/run.mjs [--json] [--reps N] [--ops N] [--pages N] [--quick] [--w W1,W2] [--engines dimmer-address,B2]
//
// Needs dist (npm run build). References that are not there are left out loudly, never silently. Judge ratios between
// rows of one run, never nanoseconds: machines and their neighbours differ (bench/README.md).

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const args = process.argv.slice(2);
const flag = (name) => args.includes(`--${name}`);
const option = (name, otherwise) => (args.includes(`--${name}`) ? args[args.indexOf(`--${name}`) + 1] : otherwise);

const quick = flag('quick');
const json = flag('json');
const reps = Number(option('reps', quick ? 1 : 3));
const pages = Number(option('pages', quick ? 2 ** 16 : 2 ** 20));
const ops = Number(option('ops', quick ? 400_000 : 8_000_000));
const workloads = option('w', 'V,W1,W1b,W2,W3,W4,W5,Q,F').split(',');
const onlyEngines = option('engines', '').split(',').filter(Boolean);
const TIMEOUT_MS = 180_000;

const perf = process.env.DIMMER_PERF ?? join(here, '../../shared/perf');
const built = mkdtempSync(join(tmpdir(), 'dimmer-bench-'));
process.on('exit', () => rmSync(built, { recursive: true, force: true }));

const say = (line) => process.stderr.write(`${line}\n`);
const absent = (name, why) => say(`LEFT OUT  ${name}: ${why}`);
const engine = (name) => join(here, 'engines', `${name}.mjs`);
const TIMED = ['V', 'W1', 'W1b', 'W2', 'W3', 'W4', 'W5', 'Q', 'F'];
const dist = existsSync(join(here, '../dist/mm/page-alloc.js'));

/** Engines: name, how to start one workload, workloads that make sense for it. */
function engines() {
  const found = [];
  const js = (name, module, on = TIMED, sizes = {}) => {
    found.push({
      name,
      on,
      sizes: { pages, ops, ...sizes },
      command: (w, s) => [process.execPath, [join(here, 'one.mjs'), module, w, JSON.stringify(s)]],
    });
  };
  js('null', engine('null'), ['W1', 'W1b', 'W3']);
  for (const name of ['dimmer-address', 'dimmer-fullest', 'dimmer-lifo', 'dimmer-shared']) {
    if (!dist) absent(name, 'dist is not built: npm run build');
    else js(name, engine(name), name === 'dimmer-lifo' ? TIMED.filter((w) => w !== 'W5') : TIMED);
  }
  if (!existsSync(join(here, '../dist/mm/machine.js'))) absent('dimmer-holders', 'dist/mm/machine.js does not exist');
  else if (!existsSync(engine('dimmer-holders'))) absent('dimmer-holders', 'its adapter does not exist');
  else js('dimmer-holders', engine('dimmer-holders'));

  const b2 = join(perf, 'engines/protoB2.mjs');
  if (!existsSync(b2)) absent('B2', `no ${b2}; set DIMMER_PERF`);
  else js('B2', b2);
  const source = join(perf, 'c/bench.c');
  if (!existsSync(source)) absent('C-refB', `no ${source}; set DIMMER_PERF`);
  else {
    const binary = join(built, 'refB');
    const gcc = ['-O3', '-march=native', '-DADAPTER="ref.h"', 'bench.c', '-o', binary];
    const compiled = spawnSync('gcc', gcc, { cwd: join(perf, 'c'), encoding: 'utf8' });
    if (compiled.status !== 0) absent('C-refB', compiled.error?.message ?? compiled.stderr.trim().split('\n')[0]);
    else {
      const on = ['W1', 'W1b', 'W2', 'W3', 'W4', 'W5', 'Q'];
      found.push({
        name: 'C-refB',
        on,
        sizes: { pages, ops },
        command: (w, s) => [binary, [w, String(s.pages), String(s.ops)]],
      });
    }
  }

  // The npm peers search lists: a small memory, few operations, and dimmer beside them at that size.
  const small = { pages: 16384, ops: 100_000 };
  const require = createRequire(process.env.DIMMER_PEERS ? `${process.env.DIMMER_PEERS}/` : import.meta.url);
  let peers = 0;
  for (const [name, module] of [
    ['alloc', 'npm-alloc'],
    ['@thi.ng/malloc', 'npm-thing-malloc'],
  ]) {
    try {
      require.resolve(name);
    } catch {
      absent(`npm ${name}`, 'not installed: npm install alloc @thi.ng/malloc, in any folder, and DIMMER_PEERS=folder');
      continue;
    }
    js(`npm ${name}, 16K pages`, engine(module), ['W1', 'W1b', 'W3'], small);
    peers++;
  }
  if (peers > 0 && dist) js('dimmer-address, 16K pages', engine('dimmer-address'), ['W1', 'W1b', 'W3'], small);
  return found.filter(({ name }) => onlyEngines.length === 0 || onlyEngines.includes(name));
}

/** The C harness names its figures otherwise. */
function fromC(row) {
  const { w, alloc, free, ...rest } = row;
  return { workload: w, ...(alloc === undefined ? {} : { ns: alloc, freeNs: free }), ...rest };
}

function measure(list) {
  const rows = new Map(); // `${workload} ${engine}` -> rows
  const dead = new Set();
  for (let rep = 0; rep < reps; rep++) {
    for (const w of workloads) {
      for (const { name, on, sizes, command } of list) {
        const key = `${w} ${name}`;
        if (!on.includes(w) || dead.has(key)) continue;
        const [file, argv] = command(w, sizes);
        const child = spawnSync(file, argv, { encoding: 'utf8', timeout: TIMEOUT_MS });
        const line = child.stdout
          ?.split('\n')
          .filter((l) => l.includes(`"${w}"`))
          .pop();
        if (!line) {
          dead.add(key);
          say(
            `FAILED  ${name} on ${w}: ${child.error?.message ?? child.stderr.trim().split('\n').slice(-6).join(' | ')}`,
          );
          continue;
        }
        const parsed = JSON.parse(line);
        const row = parsed.workload === undefined ? fromC(parsed) : parsed;
        rows.set(key, [...(rows.get(key) ?? []), { ...row, engine: name, pages: sizes.pages, ops: sizes.ops }]);
      }
    }
    if (!json) say(`rep ${rep + 1} of ${reps} done`);
  }
  return rows;
}

/** One row of all repetitions: the median of each figure, and the least. */
function summary(rows) {
  const out = { ...rows[0], reps: rows.length };
  for (const key of ['ns', 'freeNs', 'ms', 'firstMs', 'firstAllocUs', 'rssMiB']) {
    const values = rows.map((r) => r[key]).filter((v) => typeof v === 'number');
    if (values.length === 0) continue;
    values.sort((a, b) => a - b);
    out[key] = values[values.length >> 1];
    out[`${key}Min`] = values[0];
  }
  return out;
}

const number = (v) => (v >= 100 ? v.toFixed(0) : v.toFixed(1));

function cell(row) {
  if (row === undefined) return '-';
  const { workload: w } = row;
  if (w === 'V') return row.ok ? 'ok' : 'WRONG';
  if (w === 'Q') return `${row.huge}${row.best === undefined ? '' : ` of ${row.best}`}`;
  if (w === 'F') return Object.values(row.percent).map(Math.round).join(' ');
  if (w === 'W5') return `${number(row.ms)} ms, ${row.bytesPerPage?.toFixed(3) ?? '-'} B`;
  const one = (key) => `${number(row[key])} (${number(row[`${key}Min`])})`;
  const both = row.freeNs === undefined ? one('ns') : `${one('ns')} / ${one('freeNs')}`;
  return w === 'W4' ? `${both} ${row.got}` : both;
}

const list = engines();
const rows = measure(list);
const summaries = [...rows.values()].map(summary);
if (json) console.log(JSON.stringify(summaries, null, 1));
else {
  const of = (w, name) => summaries.find((r) => r.workload === w && r.engine === name);
  console.log(`\n${pages} pages, ${ops} operations, ${reps} repetitions. ns per operation: median (least).\n`);
  console.log(`| engine | ${workloads.join(' | ')} |`);
  console.log(`|---|${workloads.map(() => '---').join('|')}|`);
  for (const { name } of list) console.log(`| ${name} | ${workloads.map((w) => cell(of(w, name))).join(' | ')} |`);
  const base = 'B2';
  for (const name of ['dimmer-address', 'dimmer-shared']) {
    const ratios = workloads.flatMap((w) => {
      const mine = of(w, name);
      const theirs = of(w, base);
      if (mine?.ns === undefined || theirs?.ns === undefined) return [];
      const free = mine.freeNs === undefined ? '' : `/${(mine.freeNsMin / theirs.freeNsMin).toFixed(2)}`;
      return [`${w} ${(mine.nsMin / theirs.nsMin).toFixed(2)}${free}`];
    });
    if (ratios.length > 0) console.log(`\n${name} / ${base}, least of each: ${ratios.join(', ')}`);
  }
}
process.exitCode = summaries.some((r) => r.ok === false || (r.expected !== undefined && r.got !== r.expected)) ? 1 : 0;
