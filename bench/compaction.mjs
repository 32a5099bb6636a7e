// The bench of compaction: every case once, in one process; figures by kind of case.
//
//   node bench/compaction.mjs [--json] [--quick] [--case scan,H6]
//
// Needs dist (npm run build). What each case does: compaction-cases.mjs. All figures but those of `scan` are counts, and the same
// on every machine; of `scan` judge the ratio to the naive walk beside it, never the time (README.md).

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CASE_NAMES, FULL, QUICK, runCase } from './compaction-cases.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const args = process.argv.slice(2);
const option = (name, otherwise) => (args.includes(`--${name}`) ? args[args.indexOf(`--${name}`) + 1] : otherwise);
const only = option('case', '').split(',').filter(Boolean);
if (!existsSync(`${here}../dist/mm/index.js`)) {
  console.error('dist is not built: npm run build');
  process.exit(2);
}
const dist = (path) => import(`../dist/${path}.js`);
const api = Object.assign(
  {},
  ...(await Promise.all(
    [
      'base/prng',
      'mm/index',
      'mm/compaction/compact-result',
      'mm/compaction/compact-zone',
      'mm/compaction/direct',
      'mm/compaction/kcompactd',
      'mm/compaction/migratable',
      'mm/pools/evacuate',
      'mm/pools/two-scanner',
      'mm/reclaim',
    ].map(dist),
  )),
);
const size = args.includes('--quick') ? QUICK : FULL;
const rows = [];
for (const name of CASE_NAMES) {
  if (only.length > 0 && !only.some((c) => name.startsWith(c))) continue;
  const row = runCase(name, api, size);
  rows.push(row);
  if (row.wrong.length > 0) {
    process.exitCode = 1;
    console.error(`WRONG   ${name}: ${JSON.stringify(row.wrong.slice(0, 3))}`);
  }
}
const COLUMNS = {
  scan: ['ms', 'walkMs', 'ratio', 'scanned', 'moved'],
  cost: ['want', 'got', 'moved', 'movedEach', 'scannedEach'],
  H6: ['want', 'earlyGot', 'earlyReclaimed', 'got', 'reclaimed', 'moved'],
  H8: ['want', 'got', 'p50', 'p95', 'most', 'foreground', 'background'],
};
if (args.includes('--json')) console.log(JSON.stringify(rows));
else {
  const text = (v) => (v === undefined ? '' : Number.isInteger(v) ? String(v) : v.toFixed(v < 10 ? 2 : 0));
  for (const [kind, columns] of Object.entries(COLUMNS)) {
    const mine = rows.filter((r) => r.case.startsWith(kind));
    if (mine.length === 0) continue;
    console.log(`\n| case | ${columns.join(' | ')} |\n| --- |${' --: |'.repeat(columns.length)}`);
    for (const r of mine) console.log(`| ${r.case} | ${columns.map((c) => text(r[c])).join(' | ')} |`);
  }
}
