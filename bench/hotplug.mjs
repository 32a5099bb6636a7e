// The bench of memory hotplug: every case in a process of its own, interleaved round-robin, medians at the end.
//
//   node bench/hotplug.mjs [--json] [--reps N] [--quick] [--h H1,H3]
//
// Needs dist (npm run build). What each case does: hotplug-cases.mjs. Judge ratios to the naive walk that stands beside
// each figure, never the figure: machines and their neighbours differ (README.md).

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CASE_NAMES } from './hotplug-cases.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const args = process.argv.slice(2);
const quick = args.includes('--quick');
const json = args.includes('--json');
const option = (name, otherwise) => (args.includes(`--${name}`) ? args[args.indexOf(`--${name}`) + 1] : otherwise);
const reps = Number(option('reps', quick ? 1 : 3));
const only = option('h', '').split(',').filter(Boolean);
const TIMEOUT_MS = 300_000;

if (!existsSync(`${here}../dist/mm/index.js`)) {
  console.error('dist is not built: npm run build');
  process.exit(2);
}
const names = CASE_NAMES.filter((name) => only.length === 0 || only.some((h) => name.includes(h)));
const rows = new Map();
let failed = false;
for (let rep = 0; rep < reps; rep++) {
  for (const name of names) {
    const argv = [`${here}hotplug-one.mjs`, name, ...(quick ? ['--quick'] : [])];
    const child = spawnSync(process.execPath, argv, { encoding: 'utf8', timeout: TIMEOUT_MS });
    if (child.status !== 0) {
      failed = true;
      console.error(
        `FAILED  ${name}: ${child.error?.message ?? child.stderr.trim().split('\n').slice(0, 8).join(' | ')}`,
      );
      continue;
    }
    const row = JSON.parse(child.stdout);
    if (row.wrong.length > 0) {
      failed = true;
      console.error(`WRONG   ${name}: ${JSON.stringify(row.wrong.slice(0, 3))}`);
    }
    rows.set(name, [...(rows.get(name) ?? []), row]);
  }
  if (!json) console.error(`rep ${rep + 1} of ${reps} done`);
}

const number = (v) => (v >= 100 ? v.toFixed(0) : v >= 1 ? v.toFixed(1) : v.toPrecision(2));
/** Median and least (of rates: most) of one figure over the repetitions. */
function figure(list, key, best = Math.min) {
  const values = list.map((r) => r[key]).sort((a, b) => a - b);
  return `${number(values[values.length >> 1])} (${number(best(...values))})`;
}
const DETAIL = {
  H1: (l) => `offline and remove: ${figure(l, 'removeMs')} ms, ${figure(l, 'removeRatio')} of the walk`,
  H3: (l) =>
    `${l[0].moved} frames moved; millions a second: ${figure(
      l.map((r) => ({ rate: r.pagesPerSecond / 1e6 })),
      'rate',
      Math.max,
    )}`,
  H4: (l) => `${figure(l, 'usPerWrite')} us a write; ${l[0].hash.replaceAll('"', '')}`,
  H5: (l) => `of which the fork: ${figure(l, 'forkLeast')} ms; tables ${number(l[0].tablesMiB)} MiB`,
  H6: (l) => `${figure(l, 'msPerTurn')} ms a turn; tables ${l[0].bytesBefore} -> ${l[0].bytesAfter} bytes`,
};

if (json) console.log(JSON.stringify([...rows.values()].flat(), null, 1));
else {
  console.log(`\n${reps} repetitions: median (least). walk: one entry a page of the same range.\n`);
  console.log('| case | ms, least of each | walk, ms | ratio | |\n|---|---|---|---|---|');
  for (const [name, list] of rows) {
    const cells = [name, figure(list, 'least'), figure(list, 'walkMs'), figure(list, 'ratio')];
    console.log(`| ${[...cells, DETAIL[name.slice(0, 2)](list)].join(' | ')} |`);
  }
}
process.exitCode = failed ? 1 : 0;
