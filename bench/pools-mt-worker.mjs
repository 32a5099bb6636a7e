// One worker thread of bench/pools-mt.mjs: takes and frees single frames of its pool for a while, and says how many.
//
//   walk   between 68 and 72 % of its share in use, Movable; a freed frame is a random one of those it has (W1 of
//          workloads.mjs)
//   burst  frees 4096 random frames, takes 4096: the rings are refilled and spilled all the time (W1b)
//
// Slices of 10 000 or 8192 operations, between which the clock is read.
//
// Both workers start together: the main thread sets a word when all are ready. A frame that the other shall free goes
// there through a ring of this file, one writer and one reader, so that the frees are evenly spread over the walk.

import { cpus } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { createFreeArea } from '../dist/mm/free-area-create.js';
import { createPageAlloc } from '../dist/mm/page-alloc.js';
import { attachPool, openLockedPool, openSharedFrames } from '../dist/mm/shared/index.js';

const { kind, work, me, workers, share, spare, warmMs, runMs, buffer, control, mail, giveEvery, giveUsed, mailEvery } =
  workerData;
const CHUNK = 1024;
const BURST = 4096;
const SLICE = work === 'burst' ? 2 * BURST : 10_000;
const SCALE = 2.3283064365386963e-10; // 2^-32
const MAIL_SLOTS = 4096;
const pages = share + spare * CHUNK; // of this worker
const LIMITS = { batch: 64, high: 256 };

const words = new Int32Array(control);

function exclusive() {
  const attached = attachPool(openSharedFrames(buffer), { pool: me, ...LIMITS });
  if (!attached.ok) throw new Error(attached.error.reason);
  const pool = attached.value;
  pool.take(pages / CHUNK);
  return {
    alloc: pool.alloc,
    free: pool.free,
    give() {
      const i = giveUsed ? usedChunk(pool) : pool.cheapest(true);
      return i >= 0 && pool.give(i, me ^ 1).ok;
    },
    look: pool.look,
    end: () => {
      const wrong = pool.check();
      pool.detach();
      return { wrong, stat: pool.stat() };
    },
  };
}

/** A chunk that is in use: that of a frame it has. */
function usedChunk(pool) {
  const i = held[n >> 1];
  return pool.frames.ownerOf(i) === me ? i : -1;
}

function plain() {
  const pool = createPageAlloc(createFreeArea(pages, 'address', 'own'), {
    cpus: 1,
    ...LIMITS,
    capacity: 512,
    code: 'own',
  });
  pool.online(0, pages);
  const end = () => ({ wrong: pool.nrFree() + pool.pcpPages() === pages ? pool.check() : ['frames are missing'] });
  return { alloc: pool.alloc, free: pool.free, end };
}

function locked(ring) {
  const pool = openLockedPool(buffer, { pages: pages * workers, first: false, ...(ring && { ring: LIMITS }) });
  const end = () => {
    pool.drain();
    return { wrong: [] };
  };
  return { alloc: pool.alloc, free: pool.free, end };
}

const ENGINES = { exclusive, plain, 'locked-rings': () => locked(true), locked: () => locked(false) };
const engine = ENGINES[kind]();
const held = new Int32Array(share);
let n = 0;
let seed = (0x9e3779b9 + me) | 0;
let given = 0;
let mailed = 0;

function random() {
  seed ^= seed << 13;
  seed ^= seed >>> 17;
  seed ^= seed << 5;
  return seed >>> 0;
}

// Mail to the other worker: head and tail in cache lines of their own, published every 16 frames.
const box = (from) => {
  const at = from * (MAIL_SLOTS + 64);
  return { cursor: new Int32Array(mail, at * 4, 64), slots: new Int32Array(mail, (at + 64) * 4, MAIL_SLOTS) };
};
const out = mailEvery > 0 ? box(me) : undefined;
const inbox = mailEvery > 0 ? box(me ^ 1) : undefined;
let outTail = 0;

/** @returns whether there was room */
function send(frame) {
  if ((outTail & 15) === 0 && outTail - Atomics.load(out.cursor, 0) > MAIL_SLOTS - 32) return false;
  out.slots[outTail++ & (MAIL_SLOTS - 1)] = frame;
  if ((outTail & 15) === 0) Atomics.store(out.cursor, 16, outTail);
  mailed++;
  return true;
}

function receive() {
  let at = Atomics.load(inbox.cursor, 0);
  const end = Atomics.load(inbox.cursor, 16);
  if (at === end) return;
  while (at < end) engine.free(inbox.slots[at++ & (MAIL_SLOTS - 1)], 0);
  Atomics.store(inbox.cursor, 0, at);
}

function walk(e, ops, low, high) {
  let s = seed;
  const h = held;
  let k = n;
  for (let op = 0; op < ops; op++) {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    if (k < low || (k <= high && s & 1)) {
      const p = e.alloc(0, 1);
      if (p < 0) throw new Error('out of memory');
      h[k++] = p;
    } else {
      const i = ((s >>> 0) * (k * SCALE)) | 0;
      const p = h[i];
      h[i] = h[--k];
      e.free(p, 0);
    }
  }
  seed = s;
  n = k;
}

function burst(e) {
  let s = seed;
  const h = held;
  let k = n;
  for (let op = 0; op < BURST; op++) {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    const i = ((s >>> 0) * (k * SCALE)) | 0;
    const p = h[i];
    h[i] = h[--k];
    e.free(p, 0);
  }
  for (let op = 0; op < BURST; op++) {
    const p = e.alloc(0, 1);
    if (p < 0) throw new Error('out of memory');
    h[k++] = p;
  }
  seed = s;
  n = k;
}

/** One slice, with what happens besides: a chunk or a frame for the other. */
function slice(low, high) {
  if (work === 'burst') {
    burst(engine);
    return;
  }
  const step = Math.min(giveEvery || SLICE, mailEvery || SLICE, SLICE);
  for (let done = 0; done < SLICE; done += step) {
    walk(engine, step, low, high);
    sinceGive += step;
    if (giveEvery > 0 && sinceGive >= giveEvery) {
      sinceGive = 0;
      if (engine.give()) given++;
    }
    if (mailEvery > 0) {
      if (send(held[n - 1])) n--;
      if ((++sinceReceive & 15) === 0) receive();
    }
  }
}
let sinceGive = 0;
let sinceReceive = 0;

function runFor(ms, low, high) {
  const start = performance.now();
  let ops = 0;
  let now = start;
  do {
    slice(low, high);
    ops += SLICE;
    now = performance.now();
  } while (now - start < ms);
  return { ops, ms: now - start };
}

/** Milliseconds of processor time so far: of this process, all threads; of the whole machine. */
function busy() {
  const { user, system } = process.cpuUsage();
  const all = cpus().reduce((ms, { times }) => ms + times.user + times.nice + times.sys + times.irq, 0);
  return { own: (user + system) / 1000, all };
}

/** All workers reach the same line: word `k` counts them. */
function meet(k) {
  if (Atomics.add(words, k, 1) + 1 === workers) Atomics.notify(words, k);
  for (let seen = Atomics.load(words, k); seen < workers; seen = Atomics.load(words, k)) {
    if (Atomics.wait(words, k, seen, 60_000) === 'timed-out') throw new Error('the other worker did not come');
  }
}

// All of the share taken and shuffled, then 30 % given back: holes everywhere. The spare chunks stay whole.
while (n < share) {
  const p = engine.alloc(0, 1);
  if (p < 0) throw new Error('out of memory');
  held[n++] = p;
}
for (let i = n - 1; i > 0; i--) {
  const j = (random() * ((i + 1) * SCALE)) | 0;
  const t = held[i];
  held[i] = held[j];
  held[j] = t;
}
while (n > share * 0.7) engine.free(held[--n], 0);
const low = Math.floor(share * 0.68);
const high = Math.floor(share * 0.72);
meet(0);
runFor(warmMs, low, high);
meet(1);
given = 0;
mailed = 0;
const before = busy();
const measured = runFor(runMs, low, high);
const after = busy();
// What the workers used, and what others did meanwhile, in processors.
const own = (after.own - before.own) / measured.ms;
const others = Math.max(0, (after.all - before.all) / measured.ms - own);
const crossed = { given, mailed };
meet(2); // both have stopped
if (out !== undefined) {
  Atomics.store(out.cursor, 16, outTail);
  meet(3);
  receive();
}
while (n > 0) engine.free(held[--n], 0);
meet(4); // nothing is freed any more
engine.look?.();
parentPort.postMessage({ ...measured, own, others, ...crossed, ...engine.end() });
