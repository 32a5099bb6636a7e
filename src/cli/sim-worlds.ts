// npm run sim -- [--seed N] [--seeds N] [--steps N] [--faults on|off] [--only OP,OP] [--json]: seeded worlds, without end.
//
//   seed 7: 1000000 steps, 83 s: clean                         each seed is a world; --seeds runs that many, from --seed on
//   seed 8: step 48211, finish-move: ...                       a failure: what was done last, and the command that replays it
//           npm run sim -- --seed 8 --steps 48211 --faults on
//
// Default: seed 1, 100000 steps, faults on. Exit 0: clean. 1: something failed; it was shrunk to the kinds of operations that
// it needs. 2: usage. What a world is: src/sim/world.ts; what is checked: src/sim/simulate.ts.

import { parseArgs } from 'node:util';
import { OPERATIONS } from '#sim/operations';
import { type SimOptions, type SimReport, shrink, simulate } from '#sim/simulate';

const USAGE =
  'usage: npm run sim -- [--seed N] [--seeds N] [--steps N] [--faults on|off] [--only OPERATION,...] [--json]\n' +
  `operations: ${OPERATIONS.map((o) => o.name).join(', ')}\n`;

type Asked = {
  readonly seed: number;
  readonly seeds: number;
  readonly steps: number;
  readonly faults: boolean;
  readonly only: readonly string[] | undefined;
  readonly json: boolean;
};

/** A whole number from `least` on; undefined for anything else. */
const whole = (text: string | undefined, otherwise: number, least: number): number | undefined => {
  if (text === undefined) return otherwise;
  const n = Number(text);
  return /^\d+$/.test(text) && Number.isSafeInteger(n) && n >= least ? n : undefined;
};

function asked(args: readonly string[]): Asked | undefined {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        seed: { type: 'string' },
        seeds: { type: 'string' },
        steps: { type: 'string' },
        faults: { type: 'string' },
        only: { type: 'string' },
        json: { type: 'boolean' },
      },
    });
    const seed = whole(values.seed, 1, 0);
    const seeds = whole(values.seeds, 1, 1);
    const steps = whole(values.steps, 100_000, 1);
    const faults = values.faults ?? 'on';
    const only = values.only?.split(',');
    const known = only?.every((name) => OPERATIONS.some((o) => o.name === name)) ?? true;
    if (seed === undefined || seeds === undefined || steps === undefined || !known) return undefined;
    if (faults !== 'on' && faults !== 'off') return undefined;
    return { seed, seeds, steps, faults: faults === 'on', only, json: values.json === true };
  } catch {
    return undefined; // an unknown option: the usage line says what there is
  }
}

function main(): number {
  const what = asked(process.argv.slice(2));
  if (what === undefined) {
    process.stderr.write(USAGE);
    return 2;
  }
  let failed = 0;
  for (let seed = what.seed; seed < what.seed + what.seeds; seed++) {
    const options: SimOptions = {
      seed,
      steps: what.steps,
      faults: what.faults,
      ...(what.only === undefined ? {} : { only: what.only }),
      onStep: (step) => {
        if (process.stderr.isTTY === true && step % 10_000 === 0) process.stderr.write(`\rseed ${seed}: step ${step} `);
      },
    };
    const begun = process.hrtime.bigint();
    const report = simulate(options);
    const seconds = Number(process.hrtime.bigint() - begun) / 1e9;
    if (process.stderr.isTTY === true) process.stderr.write('\r\u001b[K');
    if (what.json) process.stdout.write(`${JSON.stringify(documentOf(report, what))}\n`);
    else process.stdout.write(textOf(report, what, seconds));
    if (report.failure === undefined) continue;
    failed++;
    if (!what.json) process.stdout.write(shrunk(options, report));
  }
  return failed === 0 ? 0 : 1;
}

/** One line a seed, for programs: everything but the time, which is not the world's. */
const documentOf = (r: SimReport, { faults }: Asked): object => ({
  dimmer: 'sim-worlds',
  version: 1,
  ...r,
  faultsOn: faults,
  done: Object.fromEntries(r.done),
});

const command = (seed: number, steps: number, { faults, only }: Pick<Asked, 'faults' | 'only'>): string =>
  `npm run sim -- --seed ${seed} --steps ${steps} --faults ${faults ? 'on' : 'off'}` +
  (only === undefined ? '' : ` --only ${only.join(',')}`);

function textOf(r: SimReport, what: Asked, seconds: number): string {
  const { failure, progress } = r;
  const counts = [...r.done].sort((a, b) => b[1] - a[1]).map(([name, n]) => `${name} ${n}`);
  const done = `  ${counts.join(', ')}; ${r.idle} idle; ${r.faults} faults, ${r.dmaWrites} DMA writes`;
  if (failure === undefined) {
    const went =
      progress === undefined || progress.dimms === 0
        ? 'no DIMM was plugged at the end'
        : `at the end ${progress.removed} of ${progress.dimms} DIMMs went, ${progress.stayed} stayed for a driver or for room`;
    return `seed ${r.seed}: ${r.steps} steps, ${seconds.toFixed(1)} s: clean\n${done}\n  ${went}; digest ${r.digests.at(-1) ?? '-'}\n`;
  }
  return [
    `seed ${r.seed}: step ${failure.step}, ${failure.operation}: ${failure.message}`,
    done,
    ...failure.last.map((l) => `  ${l}`),
    ...failure.stack.split('\n').slice(1, 7),
    `replay: ${command(r.seed, failure.step, what)}`,
    '',
  ].join('\n');
}

function shrunk(options: SimOptions, report: SimReport): string {
  if (report.failure === undefined) return '';
  const { only, report: least } = shrink(options, report.failure);
  const how = { faults: options.faults ?? true, only };
  return [
    `needs only ${only.join(', ')}: step ${least.failure?.step}, ${least.failure?.message}`,
    `replay: ${command(least.seed, least.failure?.step ?? least.steps, how)}`,
    '',
  ].join('\n');
}

process.exitCode = main();
