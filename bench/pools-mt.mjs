// The bench of pools and threads: what two workers do on one machine, with pools of their own and with one pool behind
// a lock, beside two machines that have nothing to do with each other: what the hardware gives two threads at best.
//
//   node bench/pools-mt.mjs [--json] [--quick] [--rounds N] [--ms N] [--share PAGES] [--patience TRIES]
//                              [--only exclusive-2,locked-2]
//
// Needs dist (npm run build). One process per case and round, cases in turn, so that a neighbour's load falls on all
// rows alike; a run in which others used more than a tenth of a processor is repeated, with patience. Every case ends with all frames freed and every table checked. The work: pools-mt-worker.mjs.
// Judge ratios within a round, never operations a second: machines and their neighbours differ (bench/README.md).

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

const self = fileURLToPath(import.meta.url);
const CHUNK = 1024;
/** Chunks of each worker that stay whole, to be given and got. */
const SPARE = 16;
const TIMEOUT_MS = 120_000;
/** Processors that others may use during a run. */
const OTHERS = 0.1;
const PAUSE_MS = 1_000;

const CASES = {
  'plain-1': { what: 'a machine of its own', kind: 'plain', workers: 1 },
  'plain-2': { what: 'two machines that have nothing in common: the ceiling', kind: 'plain', workers: 2 },
  'exclusive-1': { what: 'a pool of a shared machine', kind: 'exclusive', workers: 1 },
  'exclusive-2': { what: 'two pools of a shared machine', kind: 'exclusive', workers: 2 },
  'give-1e5': { what: 'a free chunk given each 100 000 operations', kind: 'exclusive', workers: 2, giveEvery: 100_000 },
  'give-1e4': { what: 'a free chunk given each 10 000', kind: 'exclusive', workers: 2, giveEvery: 10_000 },
  'give-1e3': { what: 'a free chunk given each 1000', kind: 'exclusive', workers: 2, giveEvery: 1_000 },
  'used-1e5': {
    what: 'a chunk in use given each 100 000',
    kind: 'exclusive',
    workers: 2,
    giveEvery: 100_000,
    giveUsed: true,
  },
  'free-0.1%': {
    what: '0.1 % of operations free a frame of the other',
    kind: 'exclusive',
    workers: 2,
    mailEvery: 1_000,
  },
  'free-1%': { what: '1 % of operations free a frame of the other', kind: 'exclusive', workers: 2, mailEvery: 100 },
  'locked-rings-1': { what: 'one pool, one lock, rings', kind: 'locked-rings', workers: 1 },
  'locked-rings-2': { what: 'one pool, one lock, rings', kind: 'locked-rings', workers: 2 },
  'locked-1': { what: 'one pool, one lock, no rings', kind: 'locked', workers: 1 },
  'locked-2': { what: 'one pool, one lock, no rings', kind: 'locked', workers: 2 },
  'burst-plain-1': { what: 'bursts, a machine of its own', kind: 'plain', workers: 1, work: 'burst' },
  'burst-plain-2': { what: 'bursts, two machines: the ceiling', kind: 'plain', workers: 2, work: 'burst' },
  'burst-exclusive-2': { what: 'bursts, two pools of a shared machine', kind: 'exclusive', workers: 2, work: 'burst' },
  'burst-locked-rings-1': {
    what: 'bursts, one pool, one lock, rings',
    kind: 'locked-rings',
    workers: 1,
    work: 'burst',
  },
  'burst-locked-rings-2': {
    what: 'bursts, one pool, one lock, rings',
    kind: 'locked-rings',
    workers: 2,
    work: 'burst',
  },
};

/** One case in this process. @returns a JSON row; throws when anything does not add up at the end. */
async function one(name, sizes) {
  const { createSharedFrames, lockedPoolBytes, openLockedPool } = await import('../dist/mm/shared/index.js');
  const spec = CASES[name];
  const { workers, kind } = spec;
  const pages = (sizes.share + SPARE * CHUNK) * workers;
  const frames = kind === 'exclusive' ? createSharedFrames({ pages, pools: workers }) : undefined;
  let buffer = frames?.buffer;
  let pool;
  if (kind.startsWith('locked')) {
    buffer = new SharedArrayBuffer(lockedPoolBytes(pages));
    pool = openLockedPool(buffer, { pages, first: true });
  }
  const control = new SharedArrayBuffer(64);
  const mail = new SharedArrayBuffer(2 * (4096 + 64) * 4);
  const rows = await Promise.all(
    Array.from({ length: workers }, (_, me) => {
      const workerData = {
        work: 'walk',
        giveEvery: 0,
        giveUsed: false,
        mailEvery: 0,
        ...spec,
        ...sizes,
        me,
        spare: SPARE,
        buffer,
        control,
        mail,
      };
      const worker = new Worker(new URL('./pools-mt-worker.mjs', import.meta.url), { workerData });
      return new Promise((resolve, reject) => {
        worker.on('message', resolve);
        worker.on('error', reject);
      });
    }),
  );
  const wrong = rows.flatMap((r) => r.wrong);
  if (frames !== undefined) {
    wrong.push(...frames.check());
    const used = frames.survey().indexOf(0);
    if (used >= 0) wrong.push(`frame ${used} is lost: all were freed`);
  }
  if (pool !== undefined) {
    wrong.push(...pool.check());
    if (pool.nrFree() !== pages) wrong.push(`${pages - pool.nrFree()} frames are lost: all were freed`);
  }
  const perSecond = rows.reduce((sum, r) => sum + r.ops / r.ms, 0) * 1000;
  const sum = (key) => rows.reduce((total, r) => total + r[key], 0);
  const seconds = rows[0].ms / 1000;
  return {
    name,
    perSecond,
    givenPerSecond: sum('given') / seconds,
    mailedPerSecond: sum('mailed') / seconds,
    own: rows[0].own,
    others: rows[0].others,
    contended: pool?.contended(),
    wrong,
  };
}

const sorted = (values) => [...values].sort((a, b) => a - b);
const median = (values) => sorted(values)[values.length >> 1];

function print(rounds, names, { rounds: asked, share, runMs }) {
  const of = (name) => rounds.map((round) => round[name]).filter((row) => row !== undefined);
  const ratios = (name, base) =>
    rounds.filter((r) => r[name] && r[base]).map((r) => r[name].perSecond / r[base].perSecond);
  const percent = (list) =>
    list.length === 0 ? '-' : `${(100 * median(list)).toFixed(0)} (${(100 * sorted(list)[0]).toFixed(0)})`;
  console.log(`\n${asked} rounds; ${share} frames and ${SPARE} free chunks a worker; ${runMs} ms a case.\n`);
  console.log(
    '| case | workers | million operations a second | % of the ceiling | times one worker | processor ns an operation | chunks a second |',
  );
  console.log('| --- | --- | --- | --- | --- | --- | --- |');
  for (const name of names) {
    const rows = of(name);
    if (rows.length === 0) continue;
    const { what, workers, work } = CASES[name];
    const base = work === 'burst' ? 'burst-plain' : 'plain';
    const millions = rows.map((r) => r.perSecond / 1e6);
    const given = median(rows.map((r) => r.givenPerSecond));
    const cells = [
      `${name.replace(/-[12]$/, '')}: ${what}`,
      workers,
      `${median(millions).toFixed(1)} (${sorted(millions)[0].toFixed(1)} to ${sorted(millions).at(-1).toFixed(1)})`,
      percent(ratios(name, `${base}-${workers}`)),
      `${(median(ratios(name, `${base}-1`)) ?? Number.NaN).toFixed(2)}`,
      median(rows.map((r) => (r.own * 1e9) / r.perSecond)).toFixed(1),
      given > 0 ? given.toFixed(0) : '-',
    ];
    console.log(`| ${cells.join(' | ')} |`);
  }
  console.log('\nMedian of the rounds (least, or least to most). The ceiling: plain with as many workers, same round.');
  const others = rounds.flatMap((round) => Object.values(round).map((row) => row.others));
  console.log(
    `Others used ${median(others).toFixed(2)} (at most ${sorted(others).at(-1).toFixed(2)}) processors meanwhile.`,
  );
  const held = of('locked-rings-2').map((r) => r.contended);
  if (held.length > 0) console.log(`locked-rings-2 found the lock held ${median(held)} times a run, warm-up included.`);
}

async function main(args) {
  const flag = (name) => args.includes(`--${name}`);
  const option = (name, otherwise) => (flag(name) ? args[args.indexOf(`--${name}`) + 1] : otherwise);
  if (!existsSync(new URL('../dist/mm/shared/index.js', import.meta.url))) {
    console.error('dist is not built: npm run build');
    return 2;
  }
  const quick = flag('quick');
  const rounds = Number(option('rounds', quick ? 1 : 5));
  const patience = Number(option('patience', quick ? 1 : 10));
  const sizes = {
    share: Number(option('share', quick ? 16 * CHUNK : 512 * CHUNK)),
    runMs: Number(option('ms', quick ? 20 : 1000)),
    warmMs: quick ? 10 : 500,
  };
  const names = option('only', Object.keys(CASES).join()).split(',');
  const results = [];
  let failed = false;
  for (let k = 0; k < rounds; k++) {
    const round = {};
    for (const name of names) {
      for (let tries = patience; tries > 0; tries--) {
        const argv = [self, '--one', name, JSON.stringify(sizes)];
        const child = spawnSync(process.execPath, argv, { encoding: 'utf8', timeout: TIMEOUT_MS });
        const row = child.status === 0 ? JSON.parse(child.stdout) : undefined;
        if (row === undefined || row.wrong.length > 0) {
          failed = true;
          console.error(
            `FAILED  ${name}: ${row?.wrong.slice(0, 5).join('; ') ?? child.error?.message ?? child.stderr}`,
          );
          break;
        }
        if (round[name] === undefined || row.others < round[name].others) round[name] = row;
        if (row.others <= OTHERS) break;
        if (tries > 1) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    }
    results.push(round);
    if (!flag('json')) console.error(`round ${k + 1} of ${rounds} done`);
  }
  if (flag('json')) console.log(JSON.stringify(results, null, 1));
  else print(results, names, { rounds, share: sizes.share, runMs: sizes.runMs });
  return failed ? 1 : 0;
}

const args = process.argv.slice(2);
if (args[0] === '--one') console.log(JSON.stringify(await one(args[1], JSON.parse(args[2]))));
else process.exitCode = await main(args);
