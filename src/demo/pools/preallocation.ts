// Preallocation: 256 chunks of 4 MiB for one purpose, asked for when the machine has run for a while.
//
//   boot ──> set aside? ──> compile jobs come and go, memory is full ──> 256 x 4 MiB ──> done with it ──> given back
//
//   pool at boot            256 chunks leave the zones before anybody is there. Requests of the load cannot touch them
//   no pool                 whatever the buddy lists have
//   no pool, moving pages   each aligned 4 MiB is tried once, and emptied by migration: alloc_contig_range()
//
// The load is a model of compiling (spec, "simulator workload model"): a job is 3000 to 8000 pages of heap, 30 to 60 page
// tables, a stack of 4 pages, page cache that stays until memory is short, slab of 4 % of that, and a few frames of the
// kernel that stay for good. When a request finds no memory, the oldest page cache goes first, then the oldest job ends:
// both are counted, because a machine with a pool has less to give. Both machines get the same jobs of a seed; what is dropped
// differs, and with it what is asked for next.
//
// vm.nr_hugepages does this for one size and for programs only; CMA for one area, in which nothing that cannot move may lie
// meanwhile. A pool is for anybody, and it grows, shrinks and ends. After Snook 2007, problem 3.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import type { Result } from '#base/result';
import { type HolderId, type Order, type Pfn, toOrder, toPfn } from '#base/units';
import { allocContigRange } from '#mm/contig-alloc';
import { CHUNK_PAGES, MAX_ORDER, NR_MIGRATE_TYPES, NR_ORDERS, PAGE_SIZE } from '#mm/geometry';
import { Machine } from '#mm/machine';
import { simpleSpec } from '#mm/machine-spec';
import type { PageClass } from '#mm/page-class';
import { pools } from '#mm/pools/pools';
import type { Refusal } from '#mm/refusal';
import type { DemoResult, PoolDemo } from './demo.ts';

const BYTES = 2 ** 31;
const CHUNKS = 256;
const WANTED = CHUNKS * CHUNK_PAGES; // 1 GiB
const POOL = 'video';
const JOBS = 120;
const AT_ONCE = 12;
/** Pages that a job takes before it is another one's turn. */
const BURST = 64;
/** Slab objects for a page of page cache; frames that the kernel keeps for good for a page of heap. */
const SLAB_SHARE = 0.04;
const FOR_GOOD = 0.0075;
/** Pages that are dropped when a request finds none, and how often it asks again. */
const RECLAIM = 64;
const TRIES = 32;
/** Of the page cache, when the load is over: it is in use. */
const STAYS = 0.1;
const CHUNK = toOrder(MAX_ORDER);
const FRAME = toOrder(0);

/** What one way of asking got. */
type Got = {
  /** Of CHUNKS. */
  readonly chunks: number;
  /** Pages that were copied elsewhere for them. */
  readonly migrated: number;
};

/** What one machine did. */
type Story = {
  /** What the load did without: pages of page cache and slab that went early, jobs that ended early, requests refused. */
  readonly dropped: number;
  readonly ended: number;
  readonly refused: number;
  readonly busy: { readonly lists: Got; readonly moving: Got };
  readonly quiet: { readonly lists: Got; readonly moving: Got };
  /** Memory that is free when the load is over, in the purpose's pool or anywhere. */
  readonly freePages: number;
  /** Free chunks of 4 MiB when the load is over, what was set aside has been given back, and all else too. */
  readonly chunksBack: number;
  readonly chunksInTheEnd: number;
  readonly chunksAtBoot: number;
};

export const preallocation: PoolDemo = {
  name: 'preallocation',
  problem:
    'There are plenty of circumstances in which users want to set aside a pool of memory for one particular purpose, ' +
    'and to do this at boot time.',
  run: ({ seed = 2007 }) => report(seed, story(seed, 'nothing'), story(seed, 'pool')),
};

const must = <T>(r: Result<T, Refusal>): T => {
  assert(r.ok, 'the demonstration asks for what there is', { refusal: r.ok ? '' : r.error.message });
  return r.value;
};

function story(seed: number, aside: 'nothing' | 'pool'): Story {
  const m = Machine.boot({ ...simpleSpec(BYTES), code: 'shared', contents: 'none' });
  const p = pools(m);
  const chunksAtBoot = freeChunks(m);
  if (aside === 'pool') must(p.create({ name: POOL, pages: WANTED, class: 'guaranteed' }));
  const load = new Load(m, seed);
  load.work();
  const busy = { lists: fromLists(m, aside), moving: byMoving(m, aside) };
  load.quieten();
  const freePages = p.list().reduce((n, s) => n + s.free, 0);
  const quiet = { lists: fromLists(m, aside), moving: byMoving(m, aside) };
  const before = freeChunks(m);
  if (aside === 'pool') {
    // The purpose is gone: half of it goes back, then the rest.
    must(p.resize(POOL, WANTED / 2));
    must(p.destroy(POOL));
    assert(freeChunks(m) >= before, 'what goes back is as whole as it was', { before });
  }
  const chunksBack = freeChunks(m);
  load.shutDown();
  const chunksInTheEnd = freeChunks(m);
  const wrong = m.check();
  assert(wrong.length === 0, 'the machine is sound', { aside, wrong });
  const { dropped, ended, refused } = load;
  return { dropped, ended, refused, busy, quiet, freePages, chunksBack, chunksInTheEnd, chunksAtBoot };
}

/** Asks the pool, or the zones, chunk by chunk, and gives all of it back. */
function fromLists(m: Machine, aside: 'nothing' | 'pool'): Got {
  const spec = { class: 'driver', name: POOL } as const;
  const holder = aside === 'pool' ? must(pools(m).addHolder({ ...spec, pool: POOL })) : m.addHolder(spec);
  const got: Pfn[] = [];
  for (let k = 0; k < CHUNKS; k++) {
    const pfn = m.alloc(holder, CHUNK);
    if (pfn === -1) break;
    got.push(pfn);
  }
  for (const pfn of got) m.free(pfn);
  return { chunks: got.length, migrated: 0 };
}

/** Asks for each aligned 4 MiB of the machine once, in a copy of it. With a pool nobody has to. */
function byMoving(m: Machine, aside: 'nothing' | 'pool'): Got {
  if (aside === 'pool') return { chunks: 0, migrated: 0 };
  const copy = m.fork();
  const holder = copy.addHolder({ class: 'driver', name: POOL });
  const got = { chunks: 0, migrated: 0 };
  for (let pfn = 0; pfn < BYTES / PAGE_SIZE && got.chunks < CHUNKS; pfn += CHUNK_PAGES) {
    const r = allocContigRange(copy, toPfn(pfn), toPfn(pfn + CHUNK_PAGES), { holder });
    if (r.ok) {
      got.chunks++;
      got.migrated += r.value.migratedPages;
    }
  }
  return got;
}

function freeChunks(m: Machine): number {
  const lists = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);
  for (const pool of m.pools) {
    pool.alloc.drain();
    pool.alloc.area.count(lists);
  }
  let n = 0;
  for (let mt = 0; mt < NR_MIGRATE_TYPES; mt++) n += lists[mt * NR_ORDERS + MAX_ORDER] as number;
  return n;
}

type Job = {
  readonly pfns: Pfn[];
  heap: number;
  tables: number;
  cache: number;
};

/** Compile jobs, and what they do when memory is short. */
class Load {
  readonly #m: Machine;
  readonly #rng: Prng;
  readonly #holders: Readonly<Record<'heap' | 'tables' | 'stack' | 'cache' | 'slab' | 'kernel', HolderId>>;
  #jobs: Job[] = [];
  /** Oldest first, from `#first` on. */
  #cache: Pfn[] = [];
  #first = 0;
  readonly #kernel: Pfn[] = [];
  dropped = 0;
  ended = 0;
  refused = 0;

  constructor(m: Machine, seed: number) {
    this.#m = m;
    this.#rng = new Prng(seed);
    const add = (cls: PageClass, name: string): HolderId => m.addHolder({ class: cls, name });
    this.#holders = {
      heap: add('anonymous', 'compiler heap'),
      tables: add('pagetable', 'page tables'),
      stack: add('stack', 'kernel stacks'),
      cache: add('file', 'sources and objects'),
      slab: add('slab-reclaimable', 'inodes and dentries'),
      kernel: add('slab', 'kernel, for good'),
    };
  }

  /** All jobs, AT_ONCE at a time; the last ones are still at work when it returns. */
  work(): void {
    for (let started = 0; started < JOBS || this.#jobs.length === AT_ONCE; ) {
      if (this.#jobs.length < AT_ONCE) {
        this.#start();
        started++;
        continue;
      }
      if (started >= JOBS) break;
      const k = this.#rng.below(this.#jobs.length);
      if (this.#grow(this.#jobs[k] as Job)) this.#end(k);
    }
  }

  #start(): void {
    const rng = this.#rng;
    const job: Job = {
      pfns: [],
      heap: 3000 + rng.below(5001),
      tables: 30 + rng.below(31),
      cache: 2000 + rng.below(4001),
    };
    this.#jobs.push(job);
    this.#get(this.#holders.stack, toOrder(2), job.pfns);
  }

  /** A burst of the job's work. @returns whether it is done */
  #grow(job: Job): boolean {
    const rng = this.#rng;
    for (let k = 0; k < BURST; k++) {
      const kind = rng.weighted([job.heap, job.tables, job.cache]);
      if (job.heap + job.tables + job.cache === 0) return true;
      if (kind === 0) {
        job.heap--;
        this.#get(this.#holders.heap, FRAME, job.pfns);
        if (rng.chance(FOR_GOOD)) this.#get(this.#holders.kernel, FRAME, this.#kernel);
      } else if (kind === 1) {
        job.tables--;
        this.#get(this.#holders.tables, FRAME, job.pfns);
      } else {
        job.cache--;
        this.#get(this.#holders.cache, FRAME, this.#cache);
        if (rng.chance(SLAB_SHARE)) this.#get(this.#holders.slab, toOrder(rng.below(4)), this.#cache);
      }
    }
    return false;
  }

  /** One request. When memory is short the oldest page cache goes, then the oldest job ends. */
  #get(holder: HolderId, order: Order, into: Pfn[]): void {
    for (let tries = 0; tries < TRIES; tries++) {
      const pfn = this.#m.alloc(holder, order);
      if (pfn !== -1) {
        into.push(pfn);
        return;
      }
      if (this.#drop(RECLAIM) > 0) continue;
      // The one that asks is not among them: it goes on.
      const victim = this.#jobs.findIndex((job) => job.pfns !== into);
      if (victim < 0) break;
      this.ended++;
      this.#end(victim);
    }
    this.refused++;
  }

  /** @returns pages and objects dropped */
  #drop(count: number): number {
    const n = Math.min(count, this.#cache.length - this.#first);
    for (let k = 0; k < n; k++) this.#m.free(this.#cache[this.#first++] as Pfn);
    this.dropped += n;
    return n;
  }

  #end(k: number): void {
    const [job] = this.#jobs.splice(k, 1) as [Job];
    for (const pfn of job.pfns) this.#m.free(pfn);
  }

  /** The jobs end, and nine tenths of page cache and slab are dropped, here and there. */
  quieten(): void {
    while (this.#jobs.length > 0) this.#end(0);
    const kept: Pfn[] = [];
    for (; this.#first < this.#cache.length; this.#first++) {
      const pfn = this.#cache[this.#first] as Pfn;
      if (this.#rng.chance(STAYS)) kept.push(pfn);
      else this.#m.free(pfn);
    }
    this.#cache = kept;
    this.#first = 0;
  }

  /** Nothing is left. */
  shutDown(): void {
    this.#drop(this.#cache.length);
    for (const pfn of this.#kernel) this.#m.free(pfn);
  }
}

const mib = (pages: number): string => `${Math.round((pages * PAGE_SIZE) / 2 ** 20)} MiB`;

function report(seed: number, without: Story, pool: Story): DemoResult {
  const of = (got: Got): string => `${got.chunks} of ${CHUNKS}`;
  const all = BYTES / PAGE_SIZE;
  const percent = ((100 * without.freePages) / all).toFixed(0);
  return {
    title: `${CHUNKS} chunks of 4 MiB on a machine with ${mib(all)} that has compiled for a while: set aside at boot, or asked for when needed`,
    lines: [
      `${JOBS} compile jobs run, ${AT_ONCE} at a time, until memory is full of page cache. Then somebody needs ${mib(WANTED)} in chunks of 4 MiB.`,
      `Without a pool the lists have ${of(without.busy.lists)}. Even when the jobs have ended and most page cache is dropped, so that ${percent} % of all`,
      `memory is free, they have ${of(without.quiet.lists)}: small things lie everywhere.`,
      `Emptying each 4 MiB by moving what is in it gives ${of(without.busy.moving)} while the jobs run, since there is nowhere to move to,`,
      `and ${of(without.quiet.moving)} afterwards, at the price of ${without.quiet.moving.migrated} pages copied.`,
      `With a pool that was set aside at boot it is ${of(pool.busy.lists)} at any time, and nothing is copied.`,
      `The price is paid meanwhile: the load has half of the memory, and drops ${pool.dropped} pages of page cache early, not ${without.dropped}.`,
      `When the purpose is gone the pool is resized and destroyed: its chunks are whole (${pool.chunksBack} of them in the zones again), and when`,
      `everything is given back all ${pool.chunksInTheEnd} are there, as at boot: nothing shows where the pool was.`,
    ],
    table: {
      columns: ['', 'no pool', 'no pool, moving pages', 'pool at boot'],
      rows: [
        ['chunks while the load runs', of(without.busy.lists), of(without.busy.moving), of(pool.busy.lists)],
        ['chunks when the load is over', of(without.quiet.lists), of(without.quiet.moving), of(pool.quiet.lists)],
        ['memory free then', mib(without.freePages), mib(without.freePages), mib(pool.freePages)],
        ['price: pages copied for them, while it runs', 0, without.busy.moving.migrated, pool.busy.lists.migrated],
        ['price: pages copied for them, when it is over', 0, without.quiet.moving.migrated, pool.quiet.lists.migrated],
        ['price: page cache dropped early, pages', without.dropped, without.dropped, pool.dropped],
        ['price: jobs that ended early', without.ended, without.ended, pool.ended],
        ['requests of the load refused', without.refused, without.refused, pool.refused],
        ['free chunks when all is given back', without.chunksInTheEnd, without.chunksInTheEnd, pool.chunksInTheEnd],
      ],
    },
    facts: {
      seed,
      chunks: CHUNKS,
      pages: all,
      ...factsOf('none', without),
      'none.busy.moving': without.busy.moving.chunks,
      'none.busy.copied': without.busy.moving.migrated,
      'none.quiet.moving': without.quiet.moving.chunks,
      'none.quiet.copied': without.quiet.moving.migrated,
      ...factsOf('pool', pool),
    },
  };
}

const factsOf = (name: string, s: Story): Record<string, number> => ({
  [`${name}.busy.lists`]: s.busy.lists.chunks,
  [`${name}.quiet.lists`]: s.quiet.lists.chunks,
  [`${name}.freePages`]: s.freePages,
  [`${name}.dropped`]: s.dropped,
  [`${name}.ended`]: s.ended,
  [`${name}.refused`]: s.refused,
  [`${name}.chunksBack`]: s.chunksBack,
  [`${name}.chunksInTheEnd`]: s.chunksInTheEnd,
  [`${name}.chunksAtBoot`]: s.chunksAtBoot,
});
