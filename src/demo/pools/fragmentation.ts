// Fragmentation: a machine whose free memory is in crumbs, and somebody who wants 32 chunks of 4 MiB.
//
//   chunk   ▒ clean page cache   ░ memory of programs   ▓ dirty page cache   K one page or more of the kernel
//   │▒▒··▒│░░K··│▓··▓▓│▒K▒··│·▒▒·▒│K▓·▓·│░·░··│ ...       60 % of the chunks have a K, and nobody knows which
//
//   two scanners    from the bottom they take what may move, from the top they find room for it, until a chunk is whole
//   the same, told  the type of each pageblock says where the kernel is (what grouping by mobility is at its best)
//   chunk index     each event of a frame keeps a sum up to date: the cheapest chunk is known before anybody looks
//   pools           the same, and the kernel has its frames in a pool of its own from boot on
//
// The rival is Linux's compaction in its plain form (mm/pools/two-scanner.ts): async, then sync. It starts anew for each
// request; Linux remembers where it stopped, so that the first request is the fair comparison, and has a row of its own.
// A page is moved in vain when its chunk keeps a page of the kernel. Frames looked at are counted by one rule for all
// (mm/pools/evacuate.ts). After Snook 2007, problem 9.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import type { Result } from '#base/result';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { CHUNK_PAGES, MAX_ORDER, MIGRATE_UNMOVABLE, PAGE_SIZE, PAGEBLOCK_PAGES } from '#mm/geometry';
import { Machine } from '#mm/machine';
import type { PageState } from '#mm/page-state';
import type { Pool } from '#mm/pool';
import { chunkCosts, setChunkSettings } from '#mm/pools/chunk-cost';
import { evacuateCheapest } from '#mm/pools/evacuate';
import { pools } from '#mm/pools/pools';
import { compactPool } from '#mm/pools/two-scanner';
import type { Refusal } from '#mm/refusal';
import type { DemoResult, PoolDemo } from './demo.ts';

const FIRST = 2 ** 20; // 4 GiB: one zone, Normal
const CHUNKS = 128;
const REQUESTS = 32;
const UNMOVABLE = 0.6;
const KERNEL_POOL = 4 * CHUNK_PAGES;
const FRAME = toOrder(0);
const WHOLE = toOrder(MAX_ORDER);

const KINDS = ['clean', 'program', 'dirty'] as const;
type Kind = (typeof KINDS)[number];

const WAYS = ['scanners', 'told', 'index', 'pools'] as const;
type Way = (typeof WAYS)[number];

/** What a chunk is filled with: so many movable pages of a kind, so many of the kernel. */
type Filling = { readonly kind: Kind; readonly used: number; readonly kernel: number };

type World = {
  readonly m: Machine;
  readonly zone: Pool;
  readonly holders: Readonly<Record<Kind | 'kernel', HolderId>>;
  /** Chunks that have a page of the kernel; what they keep. */
  readonly unmovable: ReadonlySet<number>;
};

type Story = {
  readonly served: number;
  readonly visits: number;
  readonly firstVisits: number;
  readonly moved: number;
  readonly dropped: number;
  readonly inVain: number;
  /** Of `moved`, pages of dirty page cache. */
  readonly dirtyMoved: number;
  readonly unmovableChunks: number;
  /** Frames read once, before the first request. */
  readonly prepared: number;
  readonly idle: number;
};

export const fragmentation: PoolDemo = {
  name: 'fragmentation',
  problem:
    'By tracking the utilization of large memory chunks (say, MAX_ORDER) we can tell which ones would be cheapest to ' +
    'reclaim to satisfy large physically contiguous allocations. Moreover, by segregating this tracking into multiple ' +
    'pools with different properties, we can avoid wasting cycles on unreclaimable memory, and delay wasting cycles on ' +
    'expensively-reclaimable memory until we absolutely need to.',
  run: ({ seed = 2007 }) => {
    const mixed = world(seed, false);
    const stories = WAYS.map((way) => story(way, way === 'pools' ? world(seed, true) : forked(mixed)));
    return report(seed, stories as [Story, Story, Story, Story]); // one for each
  },
};

const must = <T>(r: Result<T, Refusal>): T => {
  assert(r.ok, 'the demonstration asks for what there is', { refusal: r.ok ? '' : r.error.message });
  return r.value;
};

/** Clean page cache is mapped by nobody; only it may be dropped. */
const stateOf =
  (w: World) =>
  (holder: HolderId): PageState | undefined =>
    holder === w.holders.clean || holder === w.holders.dirty
      ? { dirty: holder === w.holders.dirty, mapped: false }
      : undefined;

function fillings(rng: Prng): Filling[] {
  const bad = rng.shuffle(Array.from({ length: CHUNKS }, (_, c) => c < Math.round(UNMOVABLE * CHUNKS)));
  return bad.map((b) => ({ kind: rng.pick(KINDS), used: 100 + rng.below(500), kernel: b ? 1 + rng.below(32) : 0 }));
}

/** The machine after a while: filled in order of address, and what is not kept is freed. */
function world(seed: number, ownPool: boolean): World {
  const rng = new Prng(seed);
  const plan = fillings(rng);
  const m = Machine.boot({
    ram: [{ start: toPfn(FIRST), end: toPfn(FIRST + CHUNKS * CHUNK_PAGES), node: toNodeId(0) }],
    watermarks: 'none',
    code: 'shared',
  });
  const zone = m.zones.find((z) => z.present > 0) as Pool;
  zone.alloc.setPcp({ batch: 1, high: 0 }); // so that pages lie where the plan says
  if (ownPool) must(pools(m).create({ name: 'kernel', pages: KERNEL_POOL }));
  const kernel = ownPool
    ? must(pools(m).addHolder({ class: 'slab', name: 'kernel', pool: 'kernel' }))
    : m.addHolder({ class: 'slab', name: 'kernel' });
  const holders = {
    kernel,
    clean: m.addHolder({ class: 'file', name: 'libraries' }),
    program: m.addHolder({ class: 'anonymous', name: 'programs' }),
    dirty: m.addHolder({ class: 'file', name: 'logs' }),
  };
  const gone: Pfn[] = [];
  // What the kernel's pool has more than it needs is not there for others.
  let missing = ownPool ? KERNEL_POOL - plan.reduce((n, f) => n + f.kernel, 0) : 0;
  for (const { kind, used, kernel: pages } of plan) {
    const frames: (Kind | 'kernel' | 'free')[] = Array.from({ length: CHUNK_PAGES }, (_, k) =>
      k < pages ? 'kernel' : k < pages + used ? kind : 'free',
    );
    for (const what of rng.shuffle(frames)) {
      if (what === 'free' && missing > 0) {
        missing--;
        continue;
      }
      const movable = what !== 'kernel' || !ownPool;
      const pfn = m.alloc(what === 'free' ? holders.program : holders[what], FRAME, movable ? { movable } : undefined);
      assert(pfn !== -1, 'what is planned fits', { what });
      if (what === 'free') gone.push(pfn);
    }
  }
  for (const pfn of gone) m.free(pfn);
  return { m, zone, holders, unmovable: chunksOf(m, kernel) };
}

function chunksOf(m: Machine, holder: HolderId): Set<number> {
  const out = new Set<number>();
  m.forEachFrameOf(holder, (pfn) => void out.add(Math.floor(pfn / CHUNK_PAGES)));
  return out;
}

function forked(w: World): World {
  const m = w.m.fork();
  return { ...w, m, zone: m.pools[w.zone.id] as Pool };
}

/** Where each movable page lies: chunk by kind and index in its holder, -1 for none. */
function places(w: World): readonly Int32Array[] {
  return KINDS.map((kind) => {
    const where = new Int32Array(CHUNKS * CHUNK_PAGES).fill(-1); // no holder had more pages
    w.m.forEachFrameOf(w.holders[kind], (pfn, _order, index) => {
      where[index] = Math.floor(pfn / CHUNK_PAGES);
    });
    return where;
  });
}

type Served = { readonly ok: boolean; readonly visits: number; readonly moved: number; readonly dropped: number };

function story(way: Way, w: World): Story {
  const { m, zone } = w;
  const buffer = m.addHolder({ class: 'driver', name: 'buffers' });
  let prepared = 0;
  if (way === 'told') {
    for (const chunk of w.unmovable) {
      const at = chunk * CHUNK_PAGES - FIRST;
      for (const i of [at, at + PAGEBLOCK_PAGES]) zone.alloc.setPageblockType(i, MIGRATE_UNMOVABLE);
    }
  } else if (way !== 'scanners') {
    setChunkSettings(m, { pageState: stateOf(w) });
    chunkCosts(m).cheapest(zone);
    prepared = chunkCosts(m).framesRead;
  }
  const total = { served: 0, visits: 0, firstVisits: 0, moved: 0, dropped: 0, inVain: 0, dirtyMoved: 0 };
  let before = places(w);
  for (let k = 1; k <= REQUESTS; k++) {
    const one = way === 'index' || way === 'pools' ? byIndex(w, buffer) : byScanners(w, buffer);
    if (one.ok) total.served++;
    total.visits += one.visits;
    if (k === 1) total.firstVisits = one.visits;
    total.moved += one.moved;
    total.dropped += one.dropped;
    const after = places(w);
    KINDS.forEach((kind, n) => {
      const [then, now] = [before[n] as Int32Array, after[n] as Int32Array]; // one for each kind
      for (let i = 0; i < now.length; i++) {
        if (now[i] === then[i] || now[i] === -1) continue;
        if (w.unmovable.has(then[i] as number)) total.inVain++;
        if (kind === 'dirty') total.dirtyMoved++;
      }
    });
    before = after;
  }
  const wrong = m.check();
  assert(wrong.length === 0, 'the machine is sound', { wrong: wrong.map((v) => v.detail).join('; ') });
  const idle = pools(m)
    .list()
    .reduce((n, s) => n + (s.kind === 'user' ? s.free : 0), 0);
  return { ...total, unmovableChunks: w.unmovable.size, prepared, idle };
}

/** As Linux: async, and when that was in vain, sync. */
function byScanners({ m, zone }: World, buffer: HolderId): Served {
  let visits = 0;
  let moved = 0;
  for (const mode of ['async', 'sync'] as const) {
    const r = compactPool(m, zone, WHOLE, mode);
    visits += r.frameVisits;
    moved += r.migratedPages;
    if (r.success) return { ok: m.alloc(buffer, WHOLE, { movable: true }) !== -1, visits, moved, dropped: 0 };
  }
  return { ok: false, visits, moved, dropped: 0 };
}

function byIndex(w: World, buffer: HolderId): Served {
  const r = evacuateCheapest(w.m, w.zone, { holder: buffer, pageState: stateOf(w) });
  if (!r.ok) return { ok: false, visits: 0, moved: 0, dropped: 0 };
  const { frameVisits: visits, migratedPages: moved, droppedPages: dropped } = r.value;
  return { ok: true, visits, moved, dropped };
}

function report(seed: number, stories: readonly [Story, Story, Story, Story]): DemoResult {
  const [scanners, told, index, own] = stories;
  const row = (name: string, cell: (s: Story) => string | number): (string | number)[] => [name, ...stories.map(cell)];
  const mib = (CHUNKS * CHUNK_PAGES * PAGE_SIZE) / 2 ** 20;
  const times = (a: number, b: number): string => (a / b).toFixed(1);
  return {
    title: `${REQUESTS} times "one chunk of 4 MiB, please" on a machine with ${mib} MiB: ${scanners.unmovableChunks} of its ${CHUNKS} chunks have a page of the kernel`,
    lines: [
      `About a third of all memory is in use, but it lies everywhere, and not one chunk of 4 MiB is free. To get one, a chunk has`,
      `to be emptied; a page of the kernel cannot move, so that in ${scanners.unmovableChunks} of ${CHUNKS} chunks all work would be in vain.`,
      `Two scanners find out by trying: for the first chunk they look at ${scanners.firstVisits} frames, for ${scanners.served} chunks they move ${scanners.moved} pages,`,
      `${scanners.inVain} of them in vain; they start anew for each. Told where the kernel is, it is ${told.inVain} in vain, and ${told.firstVisits} frames for the first chunk.`,
      `The index knows what each chunk costs: ${index.firstVisits} frames for the first (${times(scanners.firstVisits, index.firstVisits)} times fewer), ${index.moved} pages moved, ${index.inVain} in vain,`,
      `and ${index.dropped} pages of clean page cache dropped rather than copied. Expensive memory is put off: ${index.dirtyMoved} pages of dirty`,
      `page cache move, with two scanners ${scanners.dirtyMoved}.`,
      `With the kernel in a pool of its own ${own.unmovableChunks} chunks hold all of its pages, so that there are more cheap ones to choose from:`,
      `${own.moved} pages move, ${own.dirtyMoved} of them dirty page cache.`,
      `The price: ${own.idle} frames of that pool are nobody's. And the index is not free: it reads all ${index.prepared} frames once to begin, and`,
      `each allocation and free adds to a sum from then on.`,
    ],
    table: {
      columns: ['', 'two scanners', 'two scanners, told', 'chunk index', 'index, kernel in a pool'],
      rows: [
        row('chunks that no work can empty', (s) => s.unmovableChunks),
        row(`chunks had, of ${REQUESTS}`, (s) => s.served),
        row('frames looked at, first request', (s) => s.firstVisits),
        row('frames looked at, all requests', (s) => s.visits),
        row('pages moved', (s) => s.moved),
        row('pages moved in vain', (s) => s.inVain),
        row('dirty page cache moved, pages', (s) => s.dirtyMoved),
        row('price: clean page cache dropped, pages', (s) => s.dropped),
        row('price: frames read once to begin', (s) => s.prepared),
        row('price: frames of the kernel’s pool that nobody uses', (s) => s.idle),
      ],
    },
    facts: {
      seed,
      chunks: CHUNKS,
      requests: REQUESTS,
      ...Object.assign(
        {},
        ...WAYS.map((way, k) =>
          Object.fromEntries(Object.entries(stories[k] as Story).map(([name, value]) => [`${way}.${name}`, value])),
        ),
      ),
    },
  };
}
