// The cases of the compaction bench. Pure: an engine comes in (its sources or its build), a row of figures goes out.
//
//   scan    what the scanners cost: a run over a zone in which nothing moves, or half of it does, beside a naive full walk:
//           one entry read for each frame of the zone, one after the other, by the engine's own questions
//   cost    pages moved for each huge page gained: direct compaction (cursors, hints, capture), two scanners that begin anew for
//           each request, the cheapest chunk by its cost, and everything at once (compact_memory)
//   H6      memory full of files of 128 pages by many writers, every other one deleted; huge pages are asked for in 20 steps:
//           reclaim alone, plain and lumpy, against the same with compaction (Gorman 2010; spec 8.2)
//   H8      memory full, three quarters of each pageblock freed; a driver takes all huge pages it can: pages moved while it
//           waits, with and without proactive compaction before (Gupta 2020; spec 8.2)
//
// `hash` is what came out of the work, never time: equal work, equal hash. Only `scan` is about time, and there the ratio.

const PB = 512;
const BASE = 2 ** 20; // from 4 GiB up: one zone, Normal
const HUGE = 9;
const wallMs = () => Number(process.hrtime.bigint()) / 1e6;

export const FULL = { pages: 2 ** 19, wanted: 0.1, seed: 2010, runs: 5 };
export const QUICK = { pages: 2 ** 15, wanted: 0.1, seed: 2010, runs: 1 };

/** A machine of one zone without per-CPU lists, so that the place of every page is the bench's own. */
function boot(api, pages, watermarks = 'none') {
  const m = api.Machine.boot({
    ram: [{ start: api.toPfn(BASE), end: api.toPfn(BASE + pages), node: api.toNodeId(0) }],
    watermarks,
    contents: 'none',
    code: 'shared',
  });
  const zone = m.zones.find((p) => p.present > 0);
  zone.alloc.setPcp({ batch: 1, high: 0 });
  return { m, zone };
}

/** Every frame is taken in the order of addresses by whom `who(frame, pageblock)` names; those of nobody are given back. */
function fill({ m }, pages, who) {
  const gone = [];
  const keep = m.addHolder({ class: 'anonymous', name: 'gone' });
  for (let i = 0; i < pages; i++) {
    const h = who(i, i >>> 9);
    const pfn = m.alloc(h ?? keep, 0, { movable: true });
    if (pfn < 0) throw new Error('the zone is too small for its picture');
    if (h === undefined) gone.push(pfn);
  }
  for (const pfn of gone) m.free(pfn);
}

const percentile = (values, p) => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))] ?? 0;
};

// ------------------------------------------------------------------------------------------------------------- scan

/** One entry a frame, by the questions that the engine answers: is it used, would it move; else, of which free piece is it? */
function fullWalk(api, { m, zone }) {
  const { area } = zone.alloc;
  let used = 0;
  let free = 0;
  for (let i = zone.base; i < zone.base + zone.pages; i++) {
    const meta = m.sections.metaAt(i);
    if ((meta & 15) !== 0) used += api.isolatable(m, i, meta, api.ORDER_ALL, 'sync') ? 2 : 1;
    else if (area.headOf(i - zone.base) >= 0) free++;
  }
  return used * 31 + free;
}

function scan(api, size, kind) {
  const rng = new api.Prng(size.seed);
  const ms = [];
  const walks = [];
  let report;
  let wrong = [];
  for (let run = 0; run < size.runs; run++) {
    const w = boot(api, size.pages);
    const h = w.m.addHolder({ class: kind === 'kernel' ? 'slab' : 'anonymous', name: kind });
    if (kind !== 'idle') fill(w, size.pages, () => (rng.chance(0.5) ? h : undefined));
    let t = wallMs();
    const seen = fullWalk(api, w);
    walks.push(wallMs() - t);
    t = wallMs();
    report = api.compactZone(w.m, w.zone, { order: api.ORDER_ALL, mode: 'sync', wholeZone: true, ignoreSkip: true });
    ms.push(wallMs() - t);
    if (run === 0) wrong = w.m.check(seen < 0 ? 3 : 2);
  }
  const least = Math.min(...ms);
  const walkMs = Math.min(...walks);
  const { moved, migrateScanned, freeScanned } = report;
  return { ms: least, walkMs, ratio: least / walkMs, moved, scanned: migrateScanned + freeScanned, wrong };
}

// ------------------------------------------------------------------------------------------------------------- cost

/** Pageblocks of all densities; a share of them keeps a few pages of the kernel. */
function fragmented(api, size, kernelShare) {
  const rng = new api.Prng(size.seed);
  const w = boot(api, size.pages);
  const user = w.m.addHolder({ class: 'anonymous', name: 'user' });
  const kernel = w.m.addHolder({ class: 'slab', name: 'kernel' });
  const blocks = size.pages / PB;
  const density = Array.from({ length: blocks }, () => 0.2 + 0.75 * (rng.below(1000) / 1000));
  const kernelIn = rng.shuffle(Array.from({ length: blocks }, (_, k) => k < Math.round(kernelShare * blocks)));
  const spots = kernelIn.map((k) => new Set(k ? Array.from({ length: 1 + rng.below(8) }, () => rng.below(PB)) : []));
  fill(w, size.pages, (i, pb) => (spots[pb].has(i % PB) ? kernel : rng.chance(density[pb]) ? user : undefined));
  w.m.vm.extfragThreshold = 0; // the request is asked for whatever the index says
  return w;
}

/** What the machine's own counters say of all compaction so far. */
const counted = (m, got) => ({
  got,
  moved: m.vmstat.pgmigrate_success,
  scanned: m.vmstat.compact_migrate_scanned + m.vmstat.compact_free_scanned,
});

const WAYS = {
  direct(api, { m }, want) {
    api.installCompaction(m, { retryMayFail: true });
    const h = m.addHolder({ class: 'anonymous', name: 'huge' });
    let got = 0;
    while (got < want && m.alloc(h, HUGE) !== -1) got++;
    return counted(m, got);
  },
  anew(api, { m, zone }, want) {
    const h = m.addHolder({ class: 'anonymous', name: 'huge' });
    let got = 0;
    let moved = 0;
    let scanned = 0;
    for (; got < want; got++) {
      let ok = m.alloc(h, HUGE) !== -1;
      for (const mode of ['async', 'sync']) {
        if (ok) break;
        const r = api.compactPool(m, zone, HUGE, mode);
        moved += r.migratedPages;
        scanned += r.frameVisits;
        ok = m.alloc(h, HUGE) !== -1;
      }
      if (!ok) break;
    }
    return { got, moved, scanned };
  },
  cheapest(api, { m, zone }, want) {
    const h = m.addHolder({ class: 'anonymous', name: 'huge' });
    let got = 0;
    let moved = 0;
    let scanned = 0;
    while (got < want) {
      if (m.alloc(h, HUGE) !== -1) {
        got++;
        continue;
      }
      const r = api.evacuateCheapest(m, zone);
      if (!r.ok) break;
      moved += r.value.migratedPages;
      scanned += r.value.frameVisits;
    }
    return { got, moved, scanned };
  },
  all(api, { m }, want) {
    const h = m.addHolder({ class: 'anonymous', name: 'huge' });
    for (const node of m.nodes) api.compactNode(m, node);
    let got = 0;
    while (got < want && m.alloc(h, HUGE) !== -1) got++;
    return counted(m, got);
  },
};

function cost(api, size, kernelShare, way) {
  const w = fragmented(api, size, kernelShare);
  const want = Math.round((size.wanted * size.pages) / PB);
  const r = WAYS[way](api, w, want);
  return { want, ...r, movedEach: r.moved / r.got, scannedEach: r.scanned / r.got, wrong: w.m.check(2) };
}

// --------------------------------------------------------------------------------------------------------------- H6

const FILE_PAGES = 128;
/** Writers that run at one time, and the most that one writes in its turn. */
const RUNNING = 64;
const LONGEST_WRITE = 16;
const STEPS = 20;
const EARLY_STEP = 8;

function fillAndDelete(api, size, how) {
  const rng = new api.Prng(size.seed);
  const w = boot(api, size.pages, { scaleFactor: 10, thp: true });
  const { m } = w;
  const files = [];
  const open = [];
  for (let full = false; !full; ) {
    while (open.length < RUNNING) {
      const f = { h: m.addHolder({ class: 'file', name: 'file', mapped: false }), pages: 0 };
      files.push(f);
      open.push(f);
    }
    const at = rng.below(open.length);
    const f = open[at];
    for (let n = 1 + rng.below(LONGEST_WRITE); n > 0 && f.pages < FILE_PAGES && !full; n--) {
      full = m.alloc(f.h, 0) === -1;
      if (!full) f.pages++;
    }
    if (f.pages === FILE_PAGES) open.splice(at, 1);
  }
  const filled = files.reduce((n, f) => n + f.pages, 0);
  files.forEach((f, k) => {
    if (k % 2 === 0) return;
    const pfns = [];
    m.forEachFrameOf(f.h, (pfn) => pfns.push(pfn));
    for (const pfn of pfns) m.free(pfn);
  });
  const options = {
    plain: { reclaim: api.directReclaim('plain'), compact: false },
    lumpy: { reclaim: api.directReclaim('lumpy'), compact: false },
    'plain, compaction': { reclaim: api.directReclaim('plain') },
    'lumpy, compaction': { reclaim: api.directReclaim('lumpy') },
  }[how];
  api.installCompaction(m, { ...options, reclaimable: api.reclaimablePages, retryMayFail: true });
  const huge = m.addHolder({ class: 'anonymous', name: 'huge' });
  const most = Math.floor(size.pages / PB);
  let got = 0;
  let early = { got: 0, reclaimed: 0 };
  // Each step asks for 5 % of memory more, and takes what it can. Early: as much as the deleted files had, less 10 %.
  for (let step = 1; step <= STEPS; step++) {
    const target = Math.round((most * step) / STEPS);
    while (got < target && m.alloc(huge, HUGE) !== -1) got++;
    if (step === EARLY_STEP) early = { got, reclaimed: m.vmstat.pgsteal_direct };
  }
  return {
    want: most,
    earlyGot: early.got,
    earlyReclaimed: early.reclaimed,
    got,
    filled,
    reclaimed: m.vmstat.pgsteal_direct,
    moved: m.vmstat.pgmigrate_success,
    stall: m.vmstat.compact_stall,
    wrong: m.check(2),
  };
}

// --------------------------------------------------------------------------------------------------------------- H8

function proactive(api, size, turns) {
  const on = turns > 0;
  const rng = new api.Prng(size.seed);
  const w = boot(api, size.pages);
  const { m } = w;
  m.vm.compactionProactiveness = on ? 20 : 0;
  const app = m.addHolder({ class: 'anonymous', name: 'app' });
  // Three quarters of each pageblock, at random places.
  let left = [];
  fill(w, size.pages, (i) => {
    if (i % PB === 0) left = rng.shuffle(Array.from({ length: PB }, (_, k) => k < PB / 4));
    return left[i % PB] ? app : undefined;
  });
  api.kcompactdTick(m, 0);
  for (let now = 500; on && now <= 10_000; now += 500) api.kcompactdTick(m, now);
  const background = m.vmstat.pgmigrate_success;
  api.installCompaction(m, { retryMayFail: true });
  m.vm.extfragThreshold = 500;
  const huge = m.addHolder({ class: 'anonymous', name: 'driver' });
  const waits = [];
  let now = 10_000;
  for (;;) {
    const before = m.vmstat.pgmigrate_success;
    if (m.alloc(huge, HUGE) === -1) break;
    waits.push(m.vmstat.pgmigrate_success - before);
    // How often kcompactd has its half second while the driver takes all of memory.
    if (on && waits.length % Math.max(1, Math.floor(size.pages / PB / turns)) === 0) api.kcompactdTick(m, (now += 500));
  }
  const foreground = waits.reduce((n, x) => n + x, 0);
  return {
    want: Math.floor((size.pages * 3) / 4 / PB),
    got: waits.length,
    p50: percentile(waits, 0.5),
    p95: percentile(waits, 0.95),
    most: percentile(waits, 1),
    foreground,
    background: m.vmstat.pgmigrate_success - foreground,
    before: background,
    wrong: m.check(2),
  };
}

// ------------------------------------------------------------------------------------------------------------ cases

const CASES = {};
for (const kind of ['idle', 'kernel', 'half']) CASES[`scan ${kind}`] = (api, size) => scan(api, size, kind);
for (const share of [0, 0.2, 0.6]) {
  for (const way of Object.keys(WAYS)) {
    CASES[`cost ${share * 100} % ${way}`] = (api, size) => cost(api, size, share, way);
  }
}
for (const how of ['plain', 'plain, compaction', 'lumpy', 'lumpy, compaction'])
  CASES[`H6 ${how}`] = (api, size) => fillAndDelete(api, size, how);
for (const turns of [0, 16, 128]) {
  CASES[`H8 ${turns === 0 ? 'on demand' : `proactive, ${turns} turns`}`] = (api, size) => proactive(api, size, turns);
}

export const CASE_NAMES = Object.keys(CASES);

/** @returns a row of figures, with `wrong` (violations, to be empty) and `hash` of all that is not time */
export function runCase(name, api, size) {
  const row = CASES[name](api, size);
  const { ms, walkMs, ratio, ...work } = row;
  return { case: name, ...row, hash: JSON.stringify(work) };
}
