// The simulator: a world, a number of steps, and checks that never rest. A failure is a seed and a step.
//
//   step        one operation, by this world's weights (some are zero: swarm testing)
//   each 64     counters (check level 0)                each 1024   free lists and maps (level 1)
//   each 8192   every frame, holders, contents, displaced addresses, areas (level 3); the ledger; the devices (E1)
//   each 1000   the digest: two runs of one seed agree in all of them, or the simulator is no proof
//   the end     faults stop; what is under way ends; then each DIMM that may go must go, within bounded steps (progress)
//
// Safety is asked with faults, progress without. Deterministic: a failing seed replays exactly, and `only` shrinks it:
// operations that the failure does not need are left out, one kind after another.
//
// After TigerBeetle's VOPR and FoundationDB: product code, one seed, faults at every step. Rules: docs/spec/sim.md.

import { InvariantError } from '#base/assert';
import { Prng } from '#base/prng';
import { auditDevices } from '#mm/fixed-areas/device-model';
import { OPERATIONS, type Operation, stampBytes } from './operations.ts';
import { demandProgress, type Progress } from './progress.ts';
import { World } from './world.ts';

export type SimOptions = {
  readonly seed: number;
  readonly steps: number;
  /** Default true. */
  readonly faults?: boolean;
  /** Names of operations that may happen; default all. */
  readonly only?: readonly string[];
  /** Called at each 1000th step. */
  readonly onStep?: (step: number) => void;
  /** Called before each step, with the world: tests break something there, and see who finds it. */
  readonly before?: (w: World, step: number) => void;
};

export type SimFailure = {
  readonly step: number;
  readonly operation: string;
  readonly message: string;
  readonly stack: string;
  /** The last operations before it, oldest first. */
  readonly last: readonly string[];
};

export type SimReport = {
  readonly seed: number;
  readonly steps: number;
  /** Of each 1000th step. */
  readonly digests: readonly string[];
  /** How often each operation did something. */
  readonly done: ReadonlyMap<string, number>;
  /** Steps in which the operation did not apply. */
  readonly idle: number;
  /** Steps of protocols that failed because the world said so. */
  readonly faults: number;
  readonly dmaWrites: number;
  readonly progress: Progress | undefined;
  readonly failure: SimFailure | undefined;
};

const KEPT = 24;
/** An operation that does not apply gives its turn to another, so often. */
const TRIES = 4;

/** Runs a world. Never throws for what goes wrong in it. Cost: some 50 us a step. */
export function simulate(options: SimOptions): SimReport {
  const { seed, steps } = options;
  const w = new World(seed, options.faults ?? true);
  const weights = weightsOf(seed, options.only);
  const digests: string[] = [];
  const done = new Map<string, number>();
  const last: string[] = [];
  let idle = 0;
  let step = 0;
  let name = 'boot';
  let failure: SimFailure | undefined;
  let progress: Progress | undefined;
  try {
    for (step = 1; step <= steps; step++) {
      options.before?.(w, step);
      let said: string | undefined;
      for (let tries = 0; said === undefined && tries < TRIES; tries++) {
        const op = OPERATIONS[w.prng.weighted(weights)] as Operation; // weighted() gives an index of the list
        ({ name } = op);
        said = op.run(w);
      }
      if (said === undefined) idle++;
      else {
        done.set(name, (done.get(name) ?? 0) + 1);
        if (last.push(`${step} ${name}: ${said}`) > KEPT) last.shift();
      }
      checkNow(w, step);
      if (step % 1000 === 0) {
        digests.push(w.m.digest());
        options.onStep?.(step);
      }
    }
    name = 'the end';
    check(w, 3);
    name = 'progress';
    progress = demandProgress(w, (line) => last.push(line) > KEPT && last.shift());
    check(w, 3);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    failure = { step, operation: name, message: error.message, stack: error.stack ?? '', last };
  }
  const faults = [...w.faults.failed.values()].reduce((n, k) => n + k, 0);
  const at = failure === undefined ? steps : step;
  return { seed, steps: at, digests, done, idle, faults, dmaWrites: w.monitor.writes, progress, failure };
}

/** Of each operation; zero for one in eight, for this world. Whole numbers. */
function weightsOf(seed: number, only: readonly string[] | undefined): number[] {
  const prng = new Prng(seed ^ 0x2545f491);
  return OPERATIONS.map(({ name, weight }) => {
    const swarm = prng.pick([0, 0.3, 1, 1, 1, 1, 2, 4]);
    const needed = name === 'alloc' || name === 'free' || name === 'step' ? Math.max(swarm, 0.3) : swarm;
    return only === undefined || only.includes(name) ? Math.round(weight * needed * 10) : 0;
  });
}

function checkNow(w: World, step: number): void {
  if (step % 8192 === 0) check(w, 3);
  else if (step % 1024 === 0) check(w, 1);
  else if (step % 64 === 0) check(w, 0);
}

/** Throws at the first thing that is wrong. */
function check(w: World, level: 0 | 1 | 3): void {
  const fail = (what: string, values: readonly unknown[]): void => {
    if (values.length > 0) throw new InvariantError(what, { found: values.slice(0, 5), in: values.length });
  };
  fail('check()', w.m.check(level));
  fail('E1: DMA to frames that were given up', w.monitor.violations);
  if (level < 3) return;
  fail('the ledger', w.ledger.compare(w.m));
  fail('devices', auditDevices(w.m));
  if (w.m.spec.contents !== 'bytes') return;
  for (const e of w.ledger.own) {
    if (e.stamp < 0) continue;
    const want = stampBytes(e.stamp);
    const found = w.m.read(w.m.sections.pfnOf(e.head)).subarray(8, 16);
    if (want.some((byte, k) => byte !== found[k])) fail('contents', [{ head: e.head, stamp: e.stamp }]);
  }
}

/** Fewer kinds of operations meet the failure later, or earlier: so many times as many steps are tried. */
const PATIENCE = 4;

/**
 * Leaves out kinds of operations that the failure does not need, one after another, for as long as something fails: another
 * chance of the same world, that is, and maybe another failure. Cost: at most one run for each kind.
 * @returns the kinds that remain, and their failure
 */
export function shrink(options: SimOptions, failure: SimFailure): { only: string[]; report: SimReport } {
  const steps = Math.min(options.steps, PATIENCE * failure.step);
  let only = OPERATIONS.map((o) => o.name).filter((n) => options.only?.includes(n) ?? true);
  let report = simulate({ ...options, only });
  for (const name of [...only]) {
    const fewer = only.filter((n) => n !== name);
    const tried = fewer.length === 0 ? report : simulate({ ...options, steps, only: fewer });
    if (tried.failure === undefined || tried === report) continue;
    only = fewer;
    report = tried;
  }
  return { only, report };
}
