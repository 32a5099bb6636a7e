// Realtime: a control loop takes memory and gives it back in each period, on a machine that is short of memory all the time.
//
//   period   the loop takes 24 frames and 2 buffers of 256 KiB, and frees them │ others: page cache is read, the kernel takes, frees
//
//   zone     the loop asks the zone like everybody else. When it has nothing, the loop has to make room itself, as a task in
//            Linux does (direct reclaim, direct compaction): 32 pages of page cache are dropped, the request
//            is repeated; for a buffer two scanners (mm/pools/two-scanner.ts) look for one as well. Four tries at most
//   pool     the loop asks a realtime pool
//
// The work of a call is counted, not timed: chunks that came to a free list or left one (at least so many: a call that puts
// one where it took another counts none), frames that compaction looked at, pages that reclaim dropped.
//
// Then the pool is resized while the loop runs: `plant`, priority 200, is short, so that page cache of `batch`, a normal pool
// of priority 0, is dropped for it, and the loop's pool grows by it. `hobby`, priority 0, asks for the same in vain.
// After Snook 2007, problem 7. The bound itself is proven over 10^6 calls elsewhere (A7, mm/pools/realtime.test.ts).

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import type { Result } from '#base/result';
import { type HolderId, type Order, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { MAX_ORDER, NR_MIGRATE_TYPES, NR_ORDERS } from '#mm/geometry';
import { Machine } from '#mm/machine';
import type { Pool } from '#mm/pool';
import { pools } from '#mm/pools/pools';
import { setPageState } from '#mm/pools/shed';
import { compactPool } from '#mm/pools/two-scanner';
import type { Refusal } from '#mm/refusal';
import type { DemoResult, PoolDemo } from './demo.ts';

const FIRST = 2 ** 20; // 4 GiB: one zone, Normal
const PAGES = 16384; // 64 MiB
const PERIODS = 1000;
const FRAMES = 24;
const BUFFERS = 2;
const FRAME = toOrder(0);
const BUFFER = toOrder(6);
/** SWAP_CLUSTER_MAX. */
const CLUSTER = 32;
const TRIES = 4;
const KERNEL_SHARE = 0.15;
/** Frames that are free at first. */
const FREED = 1024;
/** Frames of the network card, which may reach below the watermark, as interrupts may. */
const PACKETS = 300;
const BATCH = 2048;
const LOOP = 256;
const GROWN = 1024;
const STEP = 128;

const WAYS = ['zone', 'pool'] as const;
type Way = (typeof WAYS)[number];

type Spread = { readonly mean: number; readonly p99: number; readonly worst: number };

type Story = {
  readonly calls: number;
  readonly lists: Spread;
  readonly work: Spread;
  readonly slow: number;
  readonly dropped: number;
  readonly visited: number;
  readonly refused: number;
  /** Frames of the loop's pool that it never used. */
  readonly idle: number;
};

type Growth = {
  readonly from: number;
  readonly to: number;
  readonly batchFrom: number;
  readonly batchTo: number;
  readonly cacheDropped: number;
  /** Most list operations of one call of the loop while its pool grew and shrank. */
  readonly worst: number;
  readonly refusal: string;
  readonly back: number;
};

export const realtime: PoolDemo = {
  name: 'realtime',
  problem:
    'Unfortunately, hugetlbfs is not very convenient, and using the regular VM sucks for some realtime work. ' +
    'Configurable, resizable, prioritized realtime memory pools would solve this problem.',
  run: ({ seed = 2007 }) => {
    const zone = new Plant(seed, 'zone');
    zone.run(PERIODS);
    const pool = new Plant(seed, 'pool');
    pool.run(PERIODS);
    const stories = [zone.story(), pool.story()] as const;
    return report(seed, ...stories, pool.resize());
  },
};

const must = <T>(r: Result<T, Refusal>): T => {
  assert(r.ok, 'the demonstration asks for what there is', { refusal: r.ok ? '' : r.error.message });
  return r.value;
};

function spread(all: readonly number[]): Spread {
  const sorted = [...all].sort((a, b) => a - b);
  return {
    mean: all.reduce((n, x) => n + x, 0) / all.length,
    p99: sorted[Math.floor(0.99 * all.length)] as number, // there are thousands
    worst: sorted[sorted.length - 1] as number,
  };
}

/** A machine, its load, and a control loop. */
class Plant {
  readonly #m: Machine;
  readonly #zone: Pool;
  readonly #rng: Prng;
  readonly #way: Way;
  readonly #cache: HolderId;
  readonly #kernel: HolderId;
  readonly #network: HolderId;
  readonly #loop: HolderId;
  /** Page cache, by the slots of its holder: compaction moves it. The kernel's frames and the network's lie still. */
  readonly #pages: number[] = [];
  readonly #kept: Pfn[] = [];
  readonly #packets: Pfn[] = [];
  #lists: number[] = [];
  #work: number[] = [];
  #slow = 0;
  #dropped = 0;
  #visited = 0;
  #refused = 0;
  #mostHeld = 0;
  readonly #counts = NR_ORDERS * NR_MIGRATE_TYPES;
  #before = new Int32Array(this.#counts);
  #now = new Int32Array(this.#counts);

  constructor(seed: number, way: Way) {
    this.#way = way;
    this.#rng = new Prng(seed);
    const m = Machine.boot({
      ram: [{ start: toPfn(FIRST), end: toPfn(FIRST + PAGES), node: toNodeId(0) }],
      code: 'shared',
    });
    this.#m = m;
    this.#zone = m.zones.find((z) => z.present > 0) as Pool;
    this.#cache = m.addHolder({ class: 'file', name: 'page cache' });
    this.#kernel = m.addHolder({ class: 'slab', name: 'kernel' });
    this.#network = m.addHolder({ class: 'driver', name: 'network' });
    if (way === 'pool') {
      const p = pools(m);
      must(p.create({ name: 'plant', pages: LOOP, priority: 200 }));
      must(p.create({ name: 'loop', parent: 'plant', pages: LOOP, class: 'realtime', priority: 255 }));
      must(p.create({ name: 'batch', pages: BATCH, priority: 0 }));
      this.#loop = must(p.addHolder({ class: 'driver', name: 'control loop', pool: 'loop' }));
    } else {
      this.#loop = m.addHolder({ class: 'driver', name: 'control loop' });
    }
    // It has run for weeks: every frame was used, and what is free by now lies anywhere.
    for (let pfn: Pfn | -1 = 0 as Pfn; pfn !== -1; ) {
      const kernel = this.#rng.chance(KERNEL_SHARE);
      pfn = m.alloc(kernel ? this.#kernel : this.#cache, FRAME, { rights: 'oom-victim' });
      if (pfn !== -1) this.#keep(kernel, pfn);
    }
    for (let k = 0; k < FREED; k += CLUSTER) this.#reclaim();
  }

  /** One frame for the load. @returns false when there was none, so that page cache had to be dropped */
  #load(kernel: boolean): boolean {
    const take = (): Pfn | -1 => this.#m.alloc(kernel ? this.#kernel : this.#cache, FRAME);
    let pfn = take();
    const easy = pfn !== -1;
    if (!easy) {
      this.#reclaim();
      pfn = take();
    }
    if (pfn !== -1) this.#keep(kernel, pfn);
    return easy;
  }

  /** Page cache goes: how long a page was not read has nothing to do with where it lies. @returns pages dropped */
  #reclaim(): number {
    const n = Math.min(CLUSTER, this.#pages.length);
    for (let k = 0; k < n; k++) {
      const { holders, sections } = this.#m;
      this.#m.free(sections.pfnOf(holders.frameAt(this.#any(this.#pages))));
    }
    return n;
  }

  /** One of some, which leaves them. There is one. */
  #any<T>(frames: T[]): T {
    const k = this.#rng.below(frames.length);
    const one = frames[k] as T;
    frames[k] = frames[frames.length - 1] as T;
    frames.pop();
    return one;
  }

  #keep(kernel: boolean, pfn: Pfn): void {
    if (kernel) this.#kept.push(pfn);
    else this.#pages.push(this.#m.sections.ownerAt(this.#m.sections.indexOf(pfn)));
  }

  #others(): void {
    for (let n = this.#rng.below(60); n > 0; n--) {
      this.#load(this.#rng.chance(KERNEL_SHARE));
      if (this.#rng.chance(KERNEL_SHARE) && this.#kept.length > 0) this.#m.free(this.#any(this.#kept));
    }
    // Packets arrive, and are read some time later.
    for (let n = this.#rng.below(60); n > 0; n--) {
      const pfn = this.#m.alloc(this.#network, FRAME, { rights: 'atomic' });
      if (pfn !== -1) this.#packets.push(pfn);
    }
    while (this.#packets.length > PACKETS) this.#m.free(this.#any(this.#packets));
  }

  run(periods: number): void {
    for (let k = 0; k < periods; k++) this.#period();
  }

  #period(): void {
    const held: Pfn[] = [];
    for (let k = 0; k < FRAMES; k++) this.#take(FRAME, held);
    for (let k = 0; k < BUFFERS; k++) this.#take(BUFFER, held);
    this.#mostHeld = Math.max(this.#mostHeld, FRAMES + BUFFERS * 2 ** BUFFER);
    for (const pfn of held) {
      this.#begin();
      this.#m.free(pfn);
      this.#end(0, 0);
    }
    this.#others();
  }

  /** One request of the loop, with all that it has to do to be served. */
  #take(order: Order, held: Pfn[]): void {
    const m = this.#m;
    let dropped = 0;
    let visited = 0;
    this.#begin();
    let pfn = m.alloc(this.#loop, order);
    for (let tries = 1; pfn === -1 && tries < TRIES && this.#way === 'zone'; tries++) {
      if (tries === 1) this.#slow++;
      dropped += this.#reclaim();
      if (order > 0) visited += compactPool(m, this.#zone, order, 'async').frameVisits;
      pfn = m.alloc(this.#loop, order);
    }
    this.#end(dropped, visited);
    if (pfn === -1) this.#refused++;
    else held.push(pfn);
  }

  /** What is on all free lists. */
  #census(out: Int32Array): void {
    const one = new Int32Array(this.#counts);
    out.fill(0);
    for (const pool of this.#m.pools) {
      pool.alloc.area.count(one.fill(0));
      for (let k = 0; k < one.length; k++) out[k] = (out[k] as number) + (one[k] as number);
    }
  }

  #begin(): void {
    this.#census(this.#before);
  }

  #end(dropped: number, visited: number): void {
    this.#census(this.#now);
    let changed = 0;
    for (let k = 0; k < this.#counts; k++) changed += Math.abs((this.#now[k] as number) - (this.#before[k] as number));
    this.#lists.push(changed);
    this.#work.push(changed + dropped + visited);
    this.#dropped += dropped;
    this.#visited += visited;
  }

  #sound(): void {
    const wrong = this.#m.check();
    assert(wrong.length === 0, 'the machine is sound', { wrong: wrong.map((v) => v.detail).join('; ') });
  }

  story(): Story {
    this.#sound();
    return {
      calls: this.#work.length,
      lists: spread(this.#lists),
      work: spread(this.#work),
      slow: this.#slow,
      dropped: this.#dropped,
      visited: this.#visited,
      refused: this.#refused,
      idle: this.#way === 'pool' ? LOOP - this.#mostHeld : 0,
    };
  }

  /** The loop's pool grows at the expense of a pool of lower priority, and gives it back; the loop runs all the time. */
  resize(): Growth {
    const m = this.#m;
    const p = pools(m);
    const managed = (name: string): number => must(p.stat(name)).managed;
    const files = must(p.addHolder({ class: 'file', name: 'batch job’s files', pool: 'batch' }));
    setPageState(m, (h) => (h === files ? { dirty: false, mapped: false } : undefined));
    while (m.alloc(files, FRAME) !== -1);
    const cached = m.holders.pages[files] as number;

    const feeders = ['hobby', 'plant'].map((pool) => {
      if (pool === 'hobby') must(p.create({ name: pool, priority: 0 }));
      return must(p.addHolder({ class: 'driver', name: `${pool} grows`, pool }));
    });
    const [hobby, feeder] = feeders as [HolderId, HolderId];
    assert(m.alloc(hobby, FRAME) === -1, 'a pool of the same priority takes nothing');
    const refusal = m.lastRefusal?.message ?? '';

    this.#lists = [];
    this.#work = [];
    for (let size = LOOP + STEP; size <= GROWN; size += STEP) {
      const taken = Array.from({ length: STEP }, () => {
        const pfn = m.alloc(feeder, FRAME);
        assert(pfn !== -1, 'a pool of lower priority has what is asked for');
        return pfn;
      });
      this.#period(); // in the middle of it
      for (const pfn of taken) m.free(pfn);
      must(p.resize('loop', size));
      this.#period();
    }
    const grown = {
      to: managed('loop'),
      batchTo: managed('batch'),
      cacheDropped: cached - (m.holders.pages[files] as number),
    };
    must(p.resize('loop', LOOP));
    this.#period();
    const back = must(p.move('plant', 'batch', { count: must(p.stat('plant')).free }));
    this.#period();
    this.#sound();
    return {
      from: LOOP,
      batchFrom: BATCH,
      ...grown,
      worst: spread(this.#work).worst,
      refusal,
      back,
    };
  }
}

function report(seed: number, zone: Story, pool: Story, growth: Growth): DemoResult {
  const row = (name: string, cell: (s: Story) => string | number): (string | number)[] => [
    name,
    cell(zone),
    cell(pool),
  ];
  const bound = MAX_ORDER + 1;
  return {
    title: `A control loop that takes and frees memory ${zone.calls} times on a machine that is short of it: the zone, and a realtime pool`,
    lines: [
      `A control loop needs ${FRAMES} frames and ${BUFFERS} buffers of 256 KiB in each of ${PERIODS} periods; all other memory fills with page cache and`,
      `scattered pages of the kernel. What counts is not how much a call has to do on average, but at worst.`,
      `In the zone a call does ${zone.work.mean.toFixed(1)} steps on average and ${zone.work.worst} at worst, and ${zone.slow} calls had to make room first: drop page`,
      `cache, or move other pages away (${zone.visited} frames looked at). ${zone.refused} calls got nothing all the same.`,
      `In a realtime pool it is ${pool.work.mean.toFixed(1)} on average and ${pool.work.worst} at worst; by construction no call can do more than ${bound}: nothing is`,
      `reclaimed, moved, borrowed or drained in it. On average the pool does ${pool.lists.mean > zone.lists.mean ? 'more' : 'less'} with lists (${pool.lists.mean.toFixed(2)}, the zone ${zone.lists.mean.toFixed(2)}): it has no`,
      `per-CPU lists, whose refills are what is unpredictable. And what the loop does not use lies idle: ${pool.idle} frames of ${LOOP}.`,
      `While the loop runs, its pool grows from ${growth.from} to ${growth.to} frames at the expense of a normal pool of lower priority, which`,
      `drops ${growth.cacheDropped} pages of page cache and keeps ${growth.batchTo} of ${growth.batchFrom} frames. The loop's worst call meanwhile: ${growth.worst}. It shrinks again,`,
      `and ${growth.back} frames go back.`,
      `A pool of the lowest priority asks for the same and is refused:`,
      `"${growth.refusal}".`,
    ],
    table: {
      columns: ['', 'zone', 'realtime pool'],
      rows: [
        row('steps of a call, mean', (s) => s.work.mean.toFixed(2)),
        row('steps of a call, p99', (s) => s.work.p99),
        row('steps of a call, worst', (s) => s.work.worst),
        row('of these, free lists: worst', (s) => s.lists.worst),
        row('calls that had to make room', (s) => s.slow),
        row('page cache dropped by the loop, pages', (s) => s.dropped),
        row('frames looked at by compaction', (s) => s.visited),
        row('calls refused', (s) => s.refused),
        ['steps of a call while the pool is resized, worst', '-', growth.worst],
        row('price: free lists, mean', (s) => s.lists.mean.toFixed(2)),
        row('price: frames set aside and not used', (s) => s.idle),
        ['price: page cache that the lower pool dropped', '-', growth.cacheDropped],
      ],
    },
    facts: {
      seed,
      periods: PERIODS,
      bound,
      ...factsOf('zone', zone),
      ...factsOf('pool', pool),
      ...growthFacts(growth),
    },
  };
}

const factsOf = (way: Way, s: Story): Record<string, number> => ({
  [`${way}.calls`]: s.calls,
  [`${way}.workMean`]: s.work.mean,
  [`${way}.workP99`]: s.work.p99,
  [`${way}.workWorst`]: s.work.worst,
  [`${way}.listsMean`]: s.lists.mean,
  [`${way}.listsP99`]: s.lists.p99,
  [`${way}.listsWorst`]: s.lists.worst,
  [`${way}.slow`]: s.slow,
  [`${way}.dropped`]: s.dropped,
  [`${way}.visited`]: s.visited,
  [`${way}.refused`]: s.refused,
  [`${way}.idle`]: s.idle,
});

const growthFacts = (g: Growth): Record<string, number | string> =>
  Object.fromEntries(Object.entries(g).map(([name, value]) => [`resize.${name}`, value]));
