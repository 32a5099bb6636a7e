// Exclusive pools in real threads: random work, chunks that move with frames in use, frees across. Bounded.
//
// A worker is a program that esbuild makes of the sources. Each frame that is in use is claimed in a table beside the
// memory, by compareExchange, so that a frame with two users is noticed by whoever comes second.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lockedPoolBytes, openLockedPool } from './locked-pool.ts';
import { createSharedFrames } from './shared-frames.ts';

const CHUNK = 1024;
const HERE = fileURLToPath(new URL('.', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'dimmer-shared-'));
const program = join(folder, 'worker.mjs');

const WORKER = `
import { parentPort, workerData } from 'node:worker_threads';
import { attachPool, openLockedPool, openSharedFrames } from './index.ts';
import { Prng } from '#base/prng';

const { kind, me, workers, pages, buffer, claims, control, steps, seed } = workerData;
const claimed = new Int32Array(claims);
const meetings = new Int32Array(control);
const prng = new Prng(seed * 16 + me);
const held = [];
let crossed = 0, refused = 0, unclaimed = 0;

function meet(k) {
  if (Atomics.add(meetings, k, 1) + 1 === workers) Atomics.notify(meetings, k);
  for (let n = Atomics.load(meetings, k); n < workers; n = Atomics.load(meetings, k)) {
    if (Atomics.wait(meetings, k, n, 60000) === 'timed-out') throw new Error('nobody came to meeting ' + k);
  }
}
function claim(i, order) {
  for (let k = i; k < i + 2 ** order; k++) {
    const was = Atomics.compareExchange(claimed, k, 0, me + 1);
    if (was !== 0) throw new Error('seed=' + seed + ': frame ' + k + ' is given to ' + me + ', in use by ' + (was - 1));
  }
}
function unclaim(i, order) {
  for (let k = i; k < i + 2 ** order; k++) if (Atomics.exchange(claimed, k, 0) !== me + 1) unclaimed++;
}

let pool;
if (kind === 'sleepers') {
  // Ping and pong with one chunk: who has none wishes for it, sleeps, and gets it from the other.
  const attached = attachPool(openSharedFrames(buffer), { pool: me, code: 'shared' });
  pool = attached.value;
  meet(0);
  for (let k = 0; k < steps; k++) {
    let i = -1;
    for (let tries = 0; (i = pool.alloc(10, 1)) < 0; tries++) {
      if (tries > 1000 || pool.waitForBell(20000) === 'timed-out') throw new Error('nobody woke pool ' + me + ' at ' + k);
    }
    claim(i, 10);
    unclaim(i, 10);
    pool.free(i, 10);
    pool.look(); // the other may have it
  }
  Atomics.add(meetings, 1, 1);
  while (Atomics.load(meetings, 1) < workers) { pool.look(); pool.waitForBell(5); }
  const stat = pool.stat();
  const wrong = pool.check();
  pool.detach();
  parentPort.postMessage({ crossed, refused, unclaimed, wrong, stat });
  process.exit(0);
}
if (kind === 'exclusive') {
  const attached = attachPool(openSharedFrames(buffer), { pool: me, batch: 16, high: 48 });
  if (!attached.ok) throw new Error(attached.error.reason);
  pool = attached.value;
} else pool = openLockedPool(buffer, { pages, first: false, ...(kind === 'rings' && { ring: { batch: 16, high: 48 } }) });
meet(0);
for (let step = 0; step < steps; step++) {
  if (held.length < 40 || (held.length < 3000 && prng.chance(0.5))) {
    const order = prng.weighted([60, 6, 3, 1]);
    const i = pool.alloc(order, 1);
    if (i < 0) refused++;
    else { claim(i, order); held.push(i, order); }
  } else {
    const k = prng.below(held.length / 2) * 2;
    const [i, order] = [held[k], held[k + 1]];
    held[k + 1] = held.at(-1); held[k] = held.at(-2); held.length -= 2;
    unclaim(i, order);
    pool.free(i, order);
  }
  if (kind === 'exclusive') {
    if (step % 64 === 0) pool.look();
    if (step % 500 === 250) {
      // A chunk in use goes to the other, its frames stay with this worker, which frees them from afar.
      const i = prng.chance(0.5) && held.length > 0 ? held[0] : pool.cheapest(false);
      if (i >= 0 && pool.give(i, me ^ 1).ok) crossed++;
    }
    if (step % 5000 === 4999) { const i = pool.cheapest(true); if (i >= 0) pool.giveBack(i); }
  }
}
meet(1); // nobody frees any more
let stat, wrong = [];
if (kind === 'exclusive') { pool.look(); wrong = pool.check(); stat = pool.stat(); pool.detach(); }
else pool.drain();
parentPort.postMessage({ crossed, refused, unclaimed, wrong, stat });
`;

type Report = {
  readonly crossed: number;
  readonly refused: number;
  readonly unclaimed: number;
  readonly wrong: string[];
  readonly stat: { readonly freedForOthers: number; readonly freedByOthers: number; readonly chunksAdopted: number };
};

async function work(kind: string, buffer: SharedArrayBuffer, sizes: { pages: number; seed: number; steps: number }) {
  const claims = new SharedArrayBuffer(sizes.pages * 4);
  const control = new SharedArrayBuffer(64);
  const reports = await Promise.all(
    [0, 1].map((me) => {
      const worker = new Worker(pathToFileURL(program), {
        workerData: { kind, me, workers: 2, buffer, claims, control, ...sizes },
      });
      return new Promise<Report>((resolve, reject) => {
        worker.on('message', resolve);
        worker.on('error', reject);
      });
    }),
  );
  return { reports, claimed: new Int32Array(claims) };
}

beforeAll(async () => {
  const bundle = await build({
    stdin: { contents: WORKER, resolveDir: HERE, loader: 'js' },
    bundle: true,
    format: 'esm',
    platform: 'node',
    conditions: ['dimmer-src'],
    write: false,
    logLevel: 'silent',
  });
  writeFileSync(program, bundle.outputFiles[0]?.contents ?? '');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('XP13 two threads', () => {
  it('pools of their own: 200 000 operations, chunks and frees across, every frame exactly once', async () => {
    for (const seed of [1, 2]) {
      const pages = 24 * CHUNK;
      const frames = createSharedFrames({ pages, pools: 2 });
      const { reports, claimed } = await work('exclusive', frames.buffer, { pages, seed, steps: 100_000 });
      for (const report of reports) {
        expect(report.wrong, `seed=${seed}`).toEqual([]);
        expect(report.unclaimed, `seed=${seed}`).toBe(0);
        expect(report.crossed, `seed=${seed}`).toBeGreaterThan(10);
        expect(report.stat.freedForOthers, `seed=${seed}`).toBeGreaterThan(100);
        expect(report.stat.chunksAdopted, `seed=${seed}`).toBeGreaterThan(10);
      }
      const [a, b] = reports as [Report, Report];
      expect(frames.check(), `seed=${seed}`).toEqual([]);
      const state = frames.survey();
      // What was freed across and not taken in by its owner waits in the memory (state 2).
      const waiting = state.filter((s) => s === 2).length;
      const freed = a.stat.freedForOthers + b.stat.freedForOthers;
      expect(a.stat.freedByOthers + b.stat.freedByOthers + waiting, `seed=${seed}`).toBe(freed);
      for (let k = 0; k < pages; k++) {
        if ((state[k] === 0) !== (claimed[k] !== 0))
          expect.fail(`seed=${seed}: frame ${k} is ${state[k]}, ${claimed[k]}`);
      }
    }
  });

  it('XP8 a pool that sleeps on its bell is woken by the chunk that it wished for', async () => {
    const pages = CHUNK;
    const frames = createSharedFrames({ pages, pools: 2 });
    const { reports } = await work('sleepers', frames.buffer, { pages, seed: 1, steps: 200 });
    expect(reports.map((r) => r.unclaimed)).toEqual([0, 0]);
    expect(reports.flatMap((r) => r.wrong)).toEqual([]);
    expect(reports.reduce((n, r) => n + r.stat.chunksAdopted, 0)).toBeGreaterThan(0);
    expect(frames.check()).toEqual([]);
    expect(frames.survey().includes(0)).toBe(false);
  });

  it('one pool behind a lock, with rings and without: every frame exactly once', async () => {
    for (const kind of ['rings', 'bare']) {
      const pages = 8 * CHUNK;
      const buffer = new SharedArrayBuffer(lockedPoolBytes(pages));
      const pool = openLockedPool(buffer, { pages, first: true, code: 'shared' });
      const { reports, claimed } = await work(kind, buffer, { pages, seed: 3, steps: 40_000 });
      expect(reports.map((r) => r.unclaimed)).toEqual([0, 0]);
      expect(pool.check(), kind).toEqual([]);
      expect(pool.nrFree(), kind).toBe(claimed.filter((by) => by === 0).length);
    }
  });
});
