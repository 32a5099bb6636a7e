// What pools cost an order-0 allocation: every case in a process of its own, interleaved round-robin.
//
//   node bench/pools.mjs [--json] [--reps N] [--quick] [--case one,bound]
//
// Needs dist (npm run build). The cases: pools-cases.mjs; the walk is W1 of workloads.mjs. Each row is held against `one`,
// the engine with one pool, of the same run: judge the ratio, never the figure (README.md).

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const args = process.argv.slice(2);
const quick = args.includes('--quick');
const option = (name, otherwise) => (args.includes(`--${name}`) ? args[args.indexOf(`--${name}`) + 1] : otherwise);
const reps = Number(option('reps', quick ? 1 : 5));
const TIMEOUT_MS = 300_000;

if (!existsSync(`${here}../dist/mm/index.js`)) {
  console.error('dist is not built: npm run build');
  process.exit(2);
}
const { CASES } = await import('./pools-cases.mjs');
const only = option('case', '').split(',').filter(Boolean);
const names = Object.keys(CASES).filter((name) => only.length === 0 || only.includes(name));
const sizes = quick ? [16384] : [65536, 1048576];
const ops = quick ? 20_000 : 8_000_000;

const rows = new Map();
let failed = false;
for (let rep = 0; rep < reps; rep++) {
  for (const pages of sizes) {
    for (const name of names) {
      const argv = [`${here}pools-one.mjs`, name, 'W1', JSON.stringify({ pages, ops })];
      const child = spawnSync(process.execPath, argv, { encoding: 'utf8', timeout: TIMEOUT_MS });
      if (child.status !== 0) {
        failed = true;
        console.error(
          `FAILED  ${name}: ${child.error?.message ?? child.stderr.trim().split('\n').slice(0, 8).join(' | ')}`,
        );
        continue;
      }
      const key = `${name} ${pages}`;
      rows.set(key, [...(rows.get(key) ?? []), JSON.parse(child.stdout).ns]);
    }
  }
}

const least = (values) => Math.min(...values);
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const out = [];
for (const pages of sizes) {
  const base = rows.get(`one ${pages}`);
  for (const name of names) {
    const ns = rows.get(`${name} ${pages}`);
    if (ns === undefined) continue;
    const row = { case: name, pages, median: median(ns), least: least(ns) };
    if (base !== undefined)
      Object.assign(row, { toOne: row.median / median(base), toOneLeast: row.least / least(base) });
    out.push(row);
  }
}
if (args.includes('--json')) console.log(JSON.stringify(out));
else {
  console.log(
    '| case | pages | ns per operation, median (least) | of `one`, median (least) |\n| --- | --: | --: | --: |',
  );
  for (const r of out) {
    const ratio = r.toOne === undefined ? '' : `${r.toOne.toFixed(2)} (${r.toOneLeast.toFixed(2)})`;
    console.log(`| ${r.case} | ${r.pages} | ${r.median.toFixed(1)} (${r.least.toFixed(1)}) | ${ratio} |`);
  }
}
process.exitCode = failed ? 1 : 0;
