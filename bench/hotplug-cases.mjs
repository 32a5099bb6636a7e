// The cases of the hotplug bench. Pure: an engine comes in (its sources or its build), a row of figures goes out.
//
//   H1  add `bytes` in blocks of 128 MiB and bring them online        kernel and self-block memmap; by policy to Movable
//   H2  take all of them offline again, and remove them
//   H3  offline of one full block: `moved` frames                     single frames (tags; bare), order 9, half free
//   H4  writes to `state` through the tree, a fifth of them refused   EINVAL (so already), EBUSY (a kernel page)
//   H5  a refused offline (it restores: one fork) of a busy block     machines of two sizes; the fork alone
//   H6  one DIMM comes and goes                                       bytes of tables before and after
//
// Beside each stands a naive walk of the same pages in the same run: one entry of a typed array is touched for every page
// of the range, eight times over, least of all. `hash` is what came out of the work (never time): equal work, equal hash.
// What a case needs is built outside of the clock; work that can be repeated is, and the least and the median are kept.

const PAGE = 4096;
const GiB = 2 ** 30;
const BLOCK = 2 ** 27;
const BLOCK_PAGES = BLOCK / PAGE;
const wallNs = () => Number(process.hrtime.bigint());

/** One entry a page: written once, then read, changed and summed. @returns least ns of eight walks, and their sum. */
function naiveWalk(pages) {
  const row = new Int32Array(pages).fill(1);
  let least = Number.POSITIVE_INFINITY;
  let sum = 0;
  for (let round = 0; round < 8; round++) {
    const t = wallNs();
    for (let i = 0; i < pages; i++) {
      sum = (sum + row[i]) | 0;
      row[i] = row[i] ^ (i & 7);
    }
    least = Math.min(least, wallNs() - t);
  }
  return { ns: least, sum };
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/** ms of `work`, `runs` times; `before` is outside of the clock. */
function time(runs, before, work) {
  const ms = [];
  for (let k = 0; k < runs; k++) {
    before();
    const t = wallNs();
    work();
    ms.push((wallNs() - t) / 1e6);
  }
  return { ms: median(ms), least: Math.min(...ms) };
}

function must(result, what) {
  if (!result.ok) throw new Error(`${what}: ${result.error.message}`);
  return result.value;
}

/** A machine that boots with `boot` bytes on node 0, all of it below 4 GiB when it is 4 GiB or less. */
const booted = (api, boot, rest) => api.Machine.boot(api.simpleSpec(boot, { blockSize: BLOCK, ...rest }));

/** Where hot memory begins: 64 TiB, past everything. */
const HOT = 2 ** 34;

function addAndOnline(memmap) {
  return (api, { bytes, boot }) => {
    const hotplug = { autoOnline: 'online_movable', memmapOnMemory: memmap === 'kernel' ? 'N' : 'Y' };
    const range = { start: api.toPfn(HOT), end: api.toPfn(HOT + bytes / PAGE) };
    let m;
    let out;
    let removed;
    const add = time(
      3,
      () => {
        m = booted(api, boot, { hotplug });
      },
      () => {
        out = must(m.addMemory(range, 0, { memmap }), 'add');
      },
    );
    const remove = time(
      1,
      () => {},
      () => {
        for (const id of out.blocks) must(m.offline(id), 'offline');
        removed = must(m.removeMemory(range), 'remove');
      },
    );
    const blocks = out.onlined.length;
    const walk = naiveWalk(bytes / PAGE);
    const hash = `${blocks} online, ${out.memmap}, ${out.kernelPages} frames; ${removed.blocks} gone, ${m.digest()}`;
    return {
      ...add,
      removeMs: remove.ms,
      blocks,
      walkMs: walk.ns / 1e6,
      ratio: add.least / (walk.ns / 1e6),
      removeRatio: remove.ms / (walk.ns / 1e6),
      wrong: [...m.check(0), ...(blocks === bytes / BLOCK ? [] : [{ what: `${blocks} blocks online` }])],
      hash,
    };
  };
}

/** A full block on node 0, room for it on node 1, both Normal. `order` of the pages; `free`: every second one is. */
function offlineOf({ order, free = false, contents = 'tag' }) {
  return (api, { runs }) => {
    const { Machine, toPfn, toOrder, toBlockId } = api;
    const first = 2 ** 20;
    const size = 4 * BLOCK_PAGES;
    const m = Machine.boot({
      ram: [
        { start: toPfn(first), end: toPfn(first + size), node: 0, zone: 2 },
        { start: toPfn(first + size), end: toPfn(first + 2 * size), node: 1, zone: 2 },
      ],
      watermarks: 'none',
      blockSize: BLOCK,
      contents,
    });
    const holder = m.addHolder({ class: 'anonymous', name: 'app', node: 0 });
    const block = toBlockId(first / BLOCK_PAGES + 1);
    for (let k = 0; k < size >> order; k++) if (m.alloc(holder, toOrder(order)) < 0) throw new Error('no memory');
    if (free) {
      const start = block * BLOCK_PAGES;
      for (let pfn = start; pfn < start + BLOCK_PAGES; pfn += 2 << order) m.free(toPfn(pfn));
    }
    const wrong = [];
    let moved = 0;
    const ns = [];
    // Away with it and back: what migrates lies on node 1, so that each run begins from the same copy.
    const full = m.snapshot();
    for (let k = 0; k < runs; k++) {
      m.restore(full);
      const work = m.beginOffline(block);
      // Columns that a snapshot shares are copied by whoever writes first: that is the snapshot's cost, not migration's.
      m.sections.wordsFor(m.sections.indexOf(toPfn(block * BLOCK_PAGES)));
      const t = wallNs();
      while (!work.finished) work.step();
      ns.push(wallNs() - t);
      if (work.refusal !== undefined) throw new Error(work.refusal.message);
      moved = work.migratedPages;
    }
    wrong.push(...m.check());
    const walk = naiveWalk(BLOCK_PAGES);
    const least = Math.min(...ns);
    return {
      ms: median(ns) / 1e6,
      least: least / 1e6,
      moved,
      pagesPerSecond: Math.round(moved / (least / 1e9)),
      medianPagesPerSecond: Math.round(moved / (median(ns) / 1e9)),
      walkMs: walk.ns / 1e6,
      ratio: least / walk.ns,
      wrong,
      hash: `${moved} moved, ${m.digest()}`,
    };
  };
}

function stateWrites(api, { writes, blocks }) {
  const m = booted(api, 2 * GiB, { hotplug: { autoOnline: 'offline' } });
  const range = { start: api.toPfn(HOT), end: api.toPfn(HOT + blocks * BLOCK_PAGES) };
  const added = must(m.addMemory(range, 0, {}), 'add');
  const kernelPage = m.addHolder({ class: 'slab', name: 'in the way' });
  const [busy, ...others] = added.blocks;
  must(m.online(busy, 'kernel'), 'online');
  // One kernel page in the first block, in whichever zone the pages are taken from: others are given back.
  const taken = [];
  for (;;) {
    const pfn = m.alloc(kernelPage, 9);
    if (pfn < 0) throw new Error('the busy block cannot be reached');
    taken.push(pfn);
    if (Math.floor(pfn / BLOCK_PAGES) === busy) break;
  }
  for (const pfn of taken.slice(0, -1)) m.free(pfn);
  const fs = api.kernelTree(m);
  const paths = others.map((id) => `/sys/devices/system/memory/memory${id}/state`);
  const busyPath = `/sys/devices/system/memory/memory${busy}/state`;
  const answers = {};
  // Ten writes a turn: four blocks go one way, are asked for the same again once (EINVAL), and the busy one refuses.
  const t = wallNs();
  let n = 0;
  let at = 0;
  while (n < writes) {
    for (const word of ['online_movable', 'offline']) {
      for (let k = 0; k < 4; k++) {
        const said = fs.write(paths[(at + k) % paths.length], word);
        answers[said] = (answers[said] ?? 0) + 1;
      }
      const said = fs.write(word === 'offline' ? busyPath : paths[at % paths.length], word);
      answers[said] = (answers[said] ?? 0) + 1;
      n += 5;
    }
    at = (at + 4) % paths.length;
  }
  const ms = (wallNs() - t) / 1e6;
  const walk = naiveWalk(BLOCK_PAGES);
  return {
    ms,
    least: ms,
    usPerWrite: (ms * 1000) / n,
    walkMs: walk.ns / 1e6,
    ratio: (ms / n) * (1e6 / walk.ns),
    writes: n,
    wrong: m.check(1),
    hash: JSON.stringify(answers),
  };
}

/** Everything in use by one app, one kernel page in the middle: `unmovable` in look; a pin is found in migrate. */
function refusedOffline(bytesOf, why) {
  return (api, sizes) => {
    const bytes = bytesOf(sizes);
    const m = booted(api, bytes, { watermarks: 'none', code: 'shared' });
    const app = m.addHolder({ class: 'anonymous', name: 'app' });
    for (let used = 0; used < bytes * 0.7; used += 512 * PAGE) m.alloc(app, 9);
    const block = api.toBlockId(m.blockIds().length - 1);
    // The block is half used by small pages; one of them stays.
    const small = m.addHolder({ class: why === 'pinned' ? 'anonymous' : 'slab', name: 'one that stays' });
    let pfn = -1;
    const tried = [];
    while (Math.floor(pfn / BLOCK_PAGES) !== block) {
      pfn = m.alloc(small, 9);
      if (pfn < 0) throw new Error('the last block cannot be reached');
      tried.push(pfn);
    }
    for (const p of tried.slice(0, -1)) m.free(p);
    if (why === 'pinned') m.pin(pfn);
    const before = m.digest();
    let r;
    const cost = time(
      sizes.runs,
      () => {},
      () => {
        r = m.offline(block);
      },
    );
    if (r.ok || r.error.reason !== (why === 'pinned' ? 'stuck' : 'unmovable')) throw new Error('it should be refused');
    const same = m.digest() === before;
    const fork = time(
      sizes.runs,
      () => {},
      () => m.fork(),
    );
    const walk = naiveWalk(BLOCK_PAGES);
    return {
      ...cost,
      forkMs: fork.ms,
      forkLeast: fork.least,
      tablesMiB: m.bytes() / 2 ** 20,
      walkMs: walk.ns / 1e6,
      ratio: cost.least / (walk.ns / 1e6),
      wrong: same ? [] : [{ what: 'a refusal changed the machine' }],
      hash: `${r.error.reason} ${r.error.errno} ${before}`,
    };
  };
}

function dimmComesAndGoes(api, { times }) {
  const m = booted(api, 2 * GiB, { hotplug: { memmapOnMemory: 'Y', autoOnline: 'online_movable' } });
  const range = { start: api.toPfn(HOT), end: api.toPfn(HOT + GiB / PAGE) };
  const once = () => {
    must(api.plugDimm(m, range, 0), 'plug');
    const gone = api.ejectDimm(m, range);
    if (gone.refusal !== undefined) throw new Error(gone.refusal.message);
  };
  once();
  const before = m.bytes();
  const digest = m.digest();
  const t = wallNs();
  for (let k = 0; k < times; k++) once();
  const ms = (wallNs() - t) / 1e6;
  const walk = naiveWalk(GiB / PAGE);
  const wrong = [...m.check(1)];
  if (m.bytes() !== before) wrong.push({ what: `tables grew from ${before} to ${m.bytes()}` });
  if (m.digest() !== digest) wrong.push({ what: 'it left a trace' });
  return {
    ms,
    least: ms,
    msPerTurn: ms / times,
    walkMs: walk.ns / 1e6,
    ratio: ms / times / (walk.ns / 1e6),
    bytesBefore: before,
    bytesAfter: m.bytes(),
    wrong,
    hash: digest,
  };
}

const CASES = {
  'H1 H2 memmap kernel': addAndOnline('kernel'),
  'H1 H2 memmap self-block': addAndOnline('self-block'),
  'H3 single frames': offlineOf({ order: 0 }),
  'H3 single frames, bare': offlineOf({ order: 0, contents: 'none' }),
  'H3 single frames, half free': offlineOf({ order: 0, free: true }),
  'H3 order 9': offlineOf({ order: 9 }),
  'H4 writes to state': stateWrites,
  'H5 unmovable, small': refusedOffline((s) => s.small, 'unmovable'),
  'H5 pinned, small': refusedOffline((s) => s.small, 'pinned'),
  'H5 pinned, large': refusedOffline((s) => s.large, 'pinned'),
  'H6 DIMM of 1 GiB': dimmComesAndGoes,
};

export const CASE_NAMES = Object.keys(CASES);

/** What `npm run bench:hotplug` does, and the sizes at which `--quick` and the tests only see that it works. */
export const FULL = {
  bytes: 1024 * GiB,
  boot: 32 * GiB,
  runs: 60,
  writes: 100_000,
  blocks: 256,
  small: 4 * GiB,
  large: 64 * GiB,
  times: 1000,
};
export const QUICK = {
  bytes: 8 * GiB,
  boot: 2 * GiB,
  runs: 3,
  writes: 500,
  blocks: 16,
  small: GiB,
  large: 2 * GiB,
  times: 10,
};

/** @param api  what dimmer and dimmer/tree export @returns figures, `wrong` (empty when sound) and `hash` */
export function runCase(name, api, sizes) {
  return { case: name, ...CASES[name](api, sizes) };
}
