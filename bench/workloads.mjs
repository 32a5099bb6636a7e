// The workloads of the page allocator bench. Pure: an engine comes in, a row of figures goes out.
//
//   engine   { allocPages(order, type) -> first frame or -1, freePages(frame, order), metadataBytes?() }
//            types 0 Unmovable, 1 Movable, 2 Reclaimable; fresh from create(pages), everything is free
//
//   W1   order-0 random walk between 68 and 72 % in use, Movable                          ns per operation
//   W1b  free 4096 random frames, allocate 4096: defeats per-CPU lists                    ns per operation
//   W2   orders 0..9 at 70 %, three types                                                 ns per operation
//   W3   allocate all of memory frame by frame, free it in random order                   ns, freeNs
//   W4   order 9 until it fails, half the pageblocks free, the rest half full; free them  ns, freeNs, got, expected
//   W5   boot a terabyte                                                                  ms, firstMs, bytesPerPage
//   Q    2 MiB blocks left after churn between 20 and 40 %                                huge, best
//   F    the frag recipe of LLFree (ATC'23): 90 % taken, half freed, 100 rounds of        percent of possible 2 MiB
//        freeing and taking 10 %                                                          blocks by round
//   V    verifier: no overlap, alignment, exact exhaustion, full coalescing               ok
//
// W1..W5, Q and V follow the same PRNG and the same sequence of operations as the reference harness in C, so that rows
// of one table are the same work. Every loop body is a function of its own and a process runs one workload on one
// engine: a second engine through the same call site would cost it its inlining.
// Times are CPU time of the process where work is long (W1..W3), wall time where it is short (W4, W5).
// Each row has `hash`, a digest of the frames that were given: equal work, equal hash.

const SCALE = 2.3283064365386963e-10; // 2^-32
const ORDER_WEIGHTS = [860, 52, 41, 31, 15, 10, 6, 4, 2, 3]; // of 1024
const ORDERS = new Uint8Array(1024);
ORDER_WEIGHTS.reduce((at, n, order) => {
  ORDERS.fill(order, at, at + n);
  return at + n;
}, 0);
const START = 0x9e3779b9 | 0;

let seed = START;
let held = new Int32Array(0);
let heldOrder = new Uint8Array(0);

const wallNs = () => Number(process.hrtime.bigint());
const cpuNs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1000;
};
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

function random() {
  seed ^= seed << 13;
  seed ^= seed >>> 17;
  seed ^= seed << 5;
  return seed >>> 0;
}

function shuffle(a, n) {
  for (let i = n - 1; i > 0; i--) {
    const j = (random() * ((i + 1) * SCALE)) | 0;
    const t = a[i];
    a[i] = a[j];
    a[j] = t;
  }
}

/** FNV-1a over the first n entries. */
function digest(a, n) {
  let h = 0x811c9dc5;
  for (let i = 0; i < n; i++) h = Math.imul(h ^ a[i], 0x01000193);
  return (h >>> 0).toString(16).padStart(8, '0');
}

function fill(e) {
  let n = 0;
  for (;;) {
    const p = e.allocPages(0, 1);
    if (p < 0) return n;
    held[n++] = p;
  }
}

function freeLast(e, n, count) {
  for (let k = count; k > 0; k--) e.freePages(held[--n], 0);
  return n;
}

function walk(e, n, ops, low, high) {
  let s = seed;
  const h = held;
  for (let k = 0; k < ops; k++) {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    if (n < low || (n <= high && s & 1)) {
      const p = e.allocPages(0, 1);
      if (p < 0) throw new Error('out of memory');
      h[n++] = p;
    } else {
      const i = ((s >>> 0) * (n * SCALE)) | 0;
      const p = h[i];
      h[i] = h[--n];
      e.freePages(p, 0);
    }
  }
  seed = s;
  return n;
}

function burst(e, n, rounds, count) {
  let s = seed;
  const h = held;
  for (let r = 0; r < rounds; r++) {
    for (let k = 0; k < count; k++) {
      s ^= s << 13;
      s ^= s >>> 17;
      s ^= s << 5;
      const i = ((s >>> 0) * (n * SCALE)) | 0;
      const p = h[i];
      h[i] = h[--n];
      e.freePages(p, 0);
    }
    for (let k = 0; k < count; k++) {
      const p = e.allocPages(0, 1);
      if (p < 0) throw new Error('out of memory');
      h[n++] = p;
    }
  }
  seed = s;
  return n;
}

function mixed(e, state, ops, low, high) {
  let s = seed;
  let { n, used } = state;
  let fails = 0;
  const h = held;
  const ho = heldOrder;
  const orders = ORDERS;
  for (let k = 0; k < ops; k++) {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    if (used < low || (used <= high && s & 1)) {
      const order = orders[(s >>> 1) & 1023];
      const t = (s >>> 11) & 15;
      const p = e.allocPages(order, t < 4 ? 0 : t === 4 ? 2 : 1);
      if (p < 0) fails++;
      else {
        h[n] = p;
        ho[n++] = order;
        used += 1 << order;
      }
    } else {
      const i = ((s >>> 0) * (n * SCALE)) | 0;
      const p = h[i];
      const order = ho[i];
      n--;
      h[i] = h[n];
      ho[i] = ho[n];
      used -= 1 << order;
      e.freePages(p, order);
    }
  }
  seed = s;
  state.n = n;
  state.used = used;
  state.fails += fails;
}

function hugeAlloc(e, huge) {
  let n = 0;
  for (;;) {
    const p = e.allocPages(9, 1);
    if (p < 0) return n;
    huge[n++] = p;
  }
}

function hugeFree(e, huge, n) {
  for (let i = 0; i < n; i++) e.freePages(huge[i], 9);
}

function fillTimed(e) {
  const t = cpuNs();
  const n = fill(e);
  return [n, cpuNs() - t];
}

function freeTimed(e, n) {
  const t = cpuNs();
  freeLast(e, n, n);
  return cpuNs() - t;
}

/** All of memory taken and shuffled, then 70 % given back: holes everywhere. */
function riddled(e) {
  const all = fill(e);
  shuffle(held, all);
  return { all, n: freeLast(e, all, all - (all - Math.floor(all * 0.7))) };
}

const WORKLOADS = {
  W1(create, { pages, ops }) {
    const e = create(pages);
    let { all, n } = riddled(e);
    const low = Math.floor(all * 0.68);
    const high = Math.floor(all * 0.72);
    n = walk(e, n, ops / 4, low, high);
    const times = [];
    for (let r = 0; r < 3; r++) {
      const t = cpuNs();
      n = walk(e, n, ops, low, high);
      times.push((cpuNs() - t) / ops);
    }
    return { ns: median(times), hash: digest(held, n) };
  },

  W1b(create, { pages, ops }) {
    const e = create(pages);
    let { n } = riddled(e);
    const count = Math.min(4096, Math.floor(n / 2));
    const rounds = Math.max(1, Math.floor(ops / 2 / count));
    n = burst(e, n, rounds >> 2, count);
    const times = [];
    for (let r = 0; r < 3; r++) {
      const t = cpuNs();
      n = burst(e, n, rounds, count);
      times.push((cpuNs() - t) / (rounds * count * 2));
    }
    return { ns: median(times), hash: digest(held, n) };
  },

  W2(create, { pages, ops }) {
    const e = create(pages);
    const low = Math.floor(pages * 0.68);
    const high = Math.floor(pages * 0.72);
    const state = { n: 0, used: 0, fails: 0 };
    mixed(e, state, ops / 2, low, high);
    state.fails = 0;
    const times = [];
    for (let r = 0; r < 3; r++) {
      const t = cpuNs();
      mixed(e, state, ops, low, high);
      times.push((cpuNs() - t) / ops);
    }
    return { ns: median(times), failPercent: (100 * state.fails) / (3 * ops), hash: digest(held, state.n) };
  },

  W3(create, { pages }) {
    const e = create(pages);
    const alloc = [];
    const free = [];
    let given = 0;
    let hash = '';
    for (let r = 0; r < 7; r++) {
      const [n, t] = fillTimed(e);
      if (r === 0) {
        given = n;
        hash = digest(held, n);
      }
      shuffle(held, n);
      alloc.push(t / n);
      free.push(freeTimed(e, n) / n);
    }
    alloc.sort((a, b) => a - b);
    free.sort((a, b) => a - b);
    return { ns: alloc[2], freeNs: free[2], given, hash };
  },

  W4(create, { pages, rounds }) {
    const e = create(pages);
    const n = fill(e);
    const blocks = pages >> 9;
    const empty = new Uint8Array(blocks);
    let expected = 0;
    for (let b = 0; b < blocks; b++) expected += empty[b] = random() & 1;
    const toFree = new Int32Array(pages);
    let k = 0;
    for (let i = 0; i < n; i++) if (empty[held[i] >>> 9] || random() & 1) toFree[k++] = held[i];
    shuffle(toFree, k);
    for (let i = 0; i < k; i++) e.freePages(toFree[i], 0);
    const huge = new Int32Array(blocks + 1);
    let got = hugeAlloc(e, huge);
    hugeFree(e, huge, got);
    const alloc = [];
    const free = [];
    for (let r = 0; r < 5; r++) {
      let allocNs = 0;
      let freeNs = 0;
      let taken = 0;
      for (let j = 0; j < rounds; j++) {
        let t = wallNs();
        got = hugeAlloc(e, huge);
        allocNs += wallNs() - t;
        taken += got;
        t = wallNs();
        hugeFree(e, huge, got);
        freeNs += wallNs() - t;
      }
      alloc.push(allocNs / taken);
      free.push(freeNs / taken);
    }
    return { ns: Math.min(...alloc), freeNs: Math.min(...free), got, expected, hash: digest(huge.sort(), huge.length) };
  },

  W5(create, { boot }) {
    globalThis.gc?.();
    const rss = process.memoryUsage().rss;
    const times = [];
    let row;
    for (let r = 0; r < 5; r++) {
      const t = wallNs();
      const e = create(boot);
      times.push((wallNs() - t) / 1e6);
      const t1 = wallNs();
      const first = e.allocPages(0, 1);
      if (first < 0) throw new Error('an empty terabyte');
      row ??= {
        firstAllocUs: (wallNs() - t1) / 1000,
        rssMiB: (process.memoryUsage().rss - rss) / 2 ** 20,
        bytesPerPage: e.metadataBytes === undefined ? null : e.metadataBytes() / boot,
      };
    }
    return { ms: Math.min(...times), firstMs: times[0], ...row };
  },

  Q(create, { pages }) {
    const e = create(pages);
    const high = Math.floor(pages * 0.4);
    const low = Math.floor(pages * 0.2);
    let n = 0;
    for (let r = 0; r < 20; r++) {
      while (n < high) held[n++] = e.allocPages(0, 1);
      shuffle(held, n);
      n = freeLast(e, n, n - low);
    }
    while (n < high) held[n++] = e.allocPages(0, 1);
    const hash = digest(held, n);
    return { huge: hugeAlloc(e, new Int32Array((pages >> 9) + 1)), best: Math.floor((pages >> 9) * 0.6), hash };
  },

  F(create, { pages }) {
    const e = create(pages);
    const huge = new Int32Array((pages >> 9) + 1);
    let n = 0;
    while (n < Math.floor(pages * 0.9)) held[n++] = e.allocPages(0, 1);
    shuffle(held, n);
    n = freeLast(e, n, n >> 1);
    const possible = Math.floor((pages - n) / 512);
    const percent = {};
    for (let round = 0; round <= 100; round++) {
      if (round % 25 === 0) {
        const got = hugeAlloc(e, huge);
        hugeFree(e, huge, got);
        percent[round] = Math.round((1000 * got) / possible) / 10;
      }
      shuffle(held, n);
      const count = Math.floor(n / 10);
      n = freeLast(e, n, count);
      for (let k = 0; k < count; k++) held[n++] = e.allocPages(0, 1);
    }
    return { percent, possible, hash: digest(held, n) };
  },

  V(create, { pages, ops }) {
    const e = create(pages);
    const own = new Uint8Array(pages);
    const steps = Math.min(ops, 2e6);
    let n = 0;
    let bad = 0;
    const claim = (p, order) => {
      if (p < 0 || p + (1 << order) > pages || (p & ((1 << order) - 1)) !== 0) bad++;
      for (let i = p; i < p + (1 << order); i++) {
        if (own[i]) bad++;
        own[i] = 1;
      }
    };
    for (let k = 0; k < steps && bad < 10; k++) {
      const s = random();
      const order = k < steps / 2 ? ORDERS[(s >>> 1) & 1023] : (s >>> 1) % 11;
      const t = (s >>> 11) & 15;
      const up = (k >> 15) & 1 ? (s & 3) !== 0 : (s & 3) === 0;
      if (n === 0 || up) {
        const p = e.allocPages(order, t < 4 ? 0 : t === 4 ? 2 : 1);
        if (p < 0) continue;
        claim(p, order);
        held[n] = p;
        heldOrder[n++] = order;
      } else {
        const i = random() % n;
        const p = held[i];
        const o = heldOrder[i];
        n--;
        held[i] = held[n];
        heldOrder[i] = heldOrder[n];
        own.fill(0, p, p + (1 << o));
        e.freePages(p, o);
      }
    }
    const hash = digest(held, n);
    while (n > 0) {
      n--;
      e.freePages(held[n], heldOrder[n]);
    }
    const chunks = [];
    for (let p = e.allocPages(10, 1); p >= 0; p = e.allocPages(10, 1)) chunks.push(p);
    own.fill(0);
    for (const p of chunks) claim(p, 10);
    for (const p of chunks) e.freePages(p, 10);
    own.fill(0);
    let singles = 0;
    for (let p = e.allocPages(0, 0); p >= 0; p = e.allocPages(0, 0)) {
      claim(p, 0);
      singles++;
    }
    const coalesced = chunks.length * 1024;
    return { ok: bad === 0 && coalesced === pages && singles === pages, bad, coalesced, singles, hash };
  },
};

export const WORKLOAD_NAMES = Object.keys(WORKLOADS);

/**
 * Runs one workload on fresh engines of create(pages).
 *
 * @param sizes  pages (multiple of 1024), ops, boot (pages of W5), rounds (of W4)
 */
export function runWorkload(name, create, sizes) {
  seed = START;
  held = new Int32Array(sizes.pages + 1);
  heldOrder = new Uint8Array(sizes.pages + 1);
  return { workload: name, ...WORKLOADS[name](create, { rounds: 100, boot: 2 ** 28, ...sizes }) };
}
