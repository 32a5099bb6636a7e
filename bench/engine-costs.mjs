// What copies, checks and offlines cost: `npm run build && node bench/engine-costs.mjs [--quick]`.
//
// Median and least of a few runs in one process. --quick: a small machine, to see that it runs at all.

import { Machine, simpleSpec, toNodeId, toOrder, toPfn } from '../dist/mm/index.js';

const quick = process.argv.includes('--quick');
const GiB = 2 ** 30;

/** @returns median and least of `runs` durations of `work`, in ms; `before` runs outside of the clock */
function time(runs, work, before = () => {}) {
  const ms = [];
  for (let k = 0; k < (quick ? 1 : runs); k++) {
    before();
    const start = performance.now();
    work();
    ms.push(performance.now() - start);
  }
  ms.sort((a, b) => a - b);
  return `${ms[ms.length >> 1].toFixed(2)} (${ms[0].toFixed(2)}) ms`;
}

const rows = [];
// At 1 TiB huge pages: 188 million single frames would measure the host's memory.
for (const [bytes, order] of quick
  ? [[GiB, 0]]
  : [
      [24 * GiB, 0],
      [1024 * GiB, 9],
    ]) {
  for (const share of [0, 0.7]) {
    const m = Machine.boot(simpleSpec(bytes, { watermarks: 'none', code: 'shared' }));
    const holder = m.addHolder({ class: 'anonymous', name: 'app' });
    for (let pages = 0; pages < (share * bytes) / 4096; pages += 2 ** order) m.alloc(holder, toOrder(order));
    const other = m.fork();
    const row = {
      machine: `${bytes / GiB} GiB, ${100 * share} % in use`,
      tables: `${Math.round(m.bytes() / 1e6)} MB`,
      fork: time(7, () => m.fork()),
      copyFrom: time(7, () => other.copyFrom(m)),
    };
    for (const level of [0, 1, 2, 3]) row[`check ${level}`] = time(3, () => m.check(level));
    rows.push(row);
  }
}
console.table(rows);

const half = toPfn((quick ? GiB : 4 * GiB) / 4096);
const m = Machine.boot({
  ram: [
    { start: toPfn(0), end: half, node: toNodeId(0), zone: 2 },
    { start: half, end: toPfn(2 * half), node: toNodeId(1), zone: 2 },
  ],
  watermarks: 'none',
  code: 'shared',
  blockSize: 2 ** 27,
});
const holder = m.addHolder({ class: 'anonymous', name: 'app', node: toNodeId(0) });
for (let k = 0; k < half; k++) m.alloc(holder, toOrder(0));
const full = m.snapshot();
const [, block] = m.blockIds();
const last = m.blockIds()[m.blockIds().length - 1];
const back = () => m.restore(full);
const gone = () => {
  back();
  m.offline(last);
};
console.table([
  { 'a block of 128 MiB': 'offline, 32768 single frames to move', cost: time(9, () => m.offline(block), back) },
  { 'a block of 128 MiB': 'offline, all free', cost: time(9, () => m.offline(last), back) },
  { 'a block of 128 MiB': 'online', cost: time(9, () => m.online(last, 'kernel'), gone) },
]);
