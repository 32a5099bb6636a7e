// Paravirtualisation: a guest may use what other guests leave idle, until they wake up. Three ways to give it memory.
//
//   locked    24 MiB are the guest's for ever, and nobody else's
//   balloon   the guest has 64 MiB; the host's balloon (mm/drivers/balloon.ts) takes pages in it, whatever is free. When there
//             is nothing, the guest drops clean page cache. It cannot know which is critical: chance decides
//   pools     64 MiB too, in pools: `critical` is guaranteed, `extra` opportunistic; the host revokes from `extra`
//
//   guest     a database: an index (page cache that has to stay), jobs (programs), other page cache as much as there is room for
//
//   1  others sleep: how much can the guest use?
//   2  others wake up: 20 times the host wants 400 pages, each time before a deadline: so many pages dropped or moved. The database
//      asks for 8 pages of its index after each; when there is none, the guest drops page cache first
//   3  the host wants more than there is time for; then more than can be had at all
//   4  others sleep again: memory comes back
//
// A deadline is a number of pages, because the engine has no clock (mm/pools/revoke.ts); the driver of the balloon has its own
// rest of 200 ms. After Snook 2007, problem 10.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import type { Result } from '#base/result';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { QemuBalloon, VirtioBalloon } from '#mm/drivers/balloon';
import { PAGE_SIZE } from '#mm/geometry';
import { Machine } from '#mm/machine';
import { type Pools, pools } from '#mm/pools/pools';
import { setPageState } from '#mm/pools/shed';
import { framesIn, type Refusal } from '#mm/refusal';
import type { DemoResult, PoolDemo } from './demo.ts';

const FIRST = 2 ** 20; // 4 GiB: one zone, Normal
const PAGES = 16384; // 64 MiB
const LOCKED = 6144; // 24 MiB
const CRITICAL = 4096;
/** Pages that the guest's kernel keeps in its zone. */
const KERNEL = 1024;
const INDEX = 3000;
const JOBS = 1500;
const TURNS = 20;
const WANTED = 400;
const DEADLINE = 500;
const ASKED = 8;
/** Pages that the guest drops when a request finds nothing: SWAP_CLUSTER_MAX. */
const CLUSTER = 32;
/** The host is in a hurry: so many pages, and time for so few. */
const HURRY = { pages: 600, deadline: 250 };
const FRAME = toOrder(0);
const REST_MS = 200;

const WAYS = ['locked', 'balloon', 'pools'] as const;
type Way = (typeof WAYS)[number];

type Story = {
  /** Pages that the guest uses while others sleep. */
  readonly used: number;
  /** Of 8000 pages, how many the host got, and by how many turns it was too late. */
  readonly got: number;
  readonly late: number;
  readonly indexDropped: number;
  /** Requests for the index that found nothing, so that the guest had to drop page cache first. */
  readonly indexWaited: number;
  readonly cacheDropped: number;
  readonly moved: number;
  readonly rests: number;
  /** In a hurry: pages got, and what was said. */
  readonly hurry: number;
  readonly hurrySays: string;
  /** Too much: pages got, and what was said. */
  readonly most: number;
  readonly mostSays: string;
  /** Pages that the refusal names. */
  readonly named: number;
  readonly indexLeft: number;
  readonly usedAgain: number;
};

export const paravirt: PoolDemo = {
  name: 'paravirt',
  problem:
    'A hybrid approach would allow the host to provide a guest with a chunk of guaranteed-fast memory for critical ' +
    'stuff, while still allowing it to use as much capacity as is available when other guests are idle.',
  run: ({ seed = 2007 }) => {
    const [locked, balloon, own] = WAYS.map((way) => story(seed, way)) as [Story, Story, Story]; // one for each
    return report(seed, locked, balloon, own);
  },
};

const must = <T>(r: Result<T, Refusal>): T => {
  assert(r.ok, 'the demonstration asks for what there is', { refusal: r.ok ? '' : r.error.message });
  return r.value;
};

type Guest = {
  readonly m: Machine;
  readonly p: Pools;
  readonly index: HolderId;
  readonly jobs: HolderId;
  readonly cache: HolderId;
};

function boot(way: Way): Guest {
  const pages = way === 'locked' ? LOCKED : PAGES;
  const m = Machine.boot({
    ram: [{ start: toPfn(FIRST), end: toPfn(FIRST + pages), node: toNodeId(0) }],
    code: 'shared',
  });
  const p = pools(m);
  if (way === 'pools') {
    must(p.create({ name: 'critical', pages: CRITICAL, min: CRITICAL, class: 'guaranteed' }));
    const extra = PAGES - CRITICAL - KERNEL;
    must(p.create({ name: 'extra', pages: extra, class: 'opportunistic', perms: { host: ['reclaim'] } }));
    must(p.create({ name: 'host', owner: 'host' }));
  }
  const holder = (name: string, cls: 'file' | 'anonymous', pool: string): HolderId =>
    way === 'pools' ? must(p.addHolder({ class: cls, name, pool })) : m.addHolder({ class: cls, name });
  const g = {
    m,
    p,
    index: holder('index', 'file', 'critical'),
    jobs: holder('batch job', 'anonymous', 'extra'),
    cache: holder('other page cache', 'file', 'extra'),
  };
  setPageState(m, (h) => (h === g.index || h === g.cache ? { dirty: false, mapped: false } : undefined));
  return g;
}

const pagesOf = ({ m }: Guest, h: HolderId): number => m.holders.pages[h] as number;
const usedBy = (g: Guest): number => pagesOf(g, g.index) + pagesOf(g, g.jobs) + pagesOf(g, g.cache);

function take(g: Guest, h: HolderId, most = Number.POSITIVE_INFINITY): number {
  let n = 0;
  while (n < most && g.m.alloc(h, FRAME) !== -1) n++;
  return n;
}

/** What the host does to get pages, and what it is told when it does not. */
type Host = {
  readonly want: (
    pages: number,
    deadline: number,
  ) => { readonly got: number; readonly says: string; readonly named: number };
  readonly giveAllBack: () => void;
  readonly tally: { moved: number; rests: number; indexDropped: number };
};

/** Revocation in parts: what cannot be had in time is said. */
function byRevoking({ p }: Guest): Host {
  const tally = { moved: 0, rests: 0, indexDropped: 0 };
  return {
    tally,
    want: (pages, budget) => {
      const r = must(p.revoke({ from: 'extra', to: 'host', pages, budget, partial: true }, { as: 'host' }));
      tally.moved += r.moved;
      const says = r.missing === undefined ? '' : `${r.missing.errno}: ${r.missing.message}`;
      return { got: r.pages, says, named: framesIn(r.missing?.blockers ?? []) };
    },
    giveAllBack: () => void must(p.move('host', 'extra', { count: must(p.stat('host')).free })),
  };
}

/** A balloon that the guest makes room for by dropping page cache, whichever. */
function byBalloon(g: Guest, rng: Prng): Host {
  const { m } = g;
  const device = new QemuBalloon(PAGES * PAGE_SIZE);
  const balloon = new VirtioBalloon(m, device, { name: 'virtio0', node: toNodeId(0) });
  const tally = { moved: 0, rests: 0, indexDropped: 0 };
  let now = 0;
  return {
    tally,
    want: (pages, deadline) => {
      const before = balloon.pages;
      must(device.setTarget((PAGES - before - pages) * PAGE_SIZE));
      let left = deadline;
      balloon.settle();
      while (balloon.pages < before + pages && left > 0) {
        const dropped = dropCache(g, rng, Math.min(left, before + pages - balloon.pages));
        if (dropped.pages === 0) break;
        left -= dropped.pages;
        tally.indexDropped += dropped.index;
        balloon.tick((now += REST_MS));
        tally.rests++;
        balloon.settle();
      }
      const got = balloon.pages - before;
      must(device.setTarget((PAGES - balloon.pages) * PAGE_SIZE)); // it would go on for ever
      balloon.settle();
      return { got, says: '', named: 0 };
    },
    giveAllBack: () => {
      must(device.setTarget(PAGES * PAGE_SIZE));
      balloon.tick((now += REST_MS));
      balloon.settle();
      assert(balloon.pages === 0, 'the balloon is empty', { pages: balloon.pages });
    },
  };
}

/** The guest drops clean page cache, the index among it: it is page cache like any other. @returns pages dropped */
function dropCache(g: Guest, rng: Prng, most: number): { pages: number; index: number } {
  const { m } = g;
  const all: Pfn[] = [];
  for (const h of [g.index, g.cache]) m.forEachFrameOf(h, (pfn) => void all.push(pfn));
  const before = pagesOf(g, g.index);
  const chosen = rng.shuffle(all).slice(0, most);
  for (const pfn of chosen) m.free(pfn);
  return { pages: chosen.length, index: before - pagesOf(g, g.index) };
}

const nothing: Host = {
  tally: { moved: 0, rests: 0, indexDropped: 0 },
  want: () => ({ got: 0, says: '', named: 0 }),
  giveAllBack: () => {},
};

function story(seed: number, way: Way): Story {
  const rng = new Prng(seed);
  const g = boot(way);
  const { m } = g;
  const host = way === 'locked' ? nothing : way === 'pools' ? byRevoking(g) : byBalloon(g, rng);
  assert(take(g, g.index, INDEX) === INDEX && take(g, g.jobs, JOBS) === JOBS, 'the database starts');
  take(g, g.cache);
  const used = usedBy(g);
  const cache = pagesOf(g, g.cache);

  let got = 0;
  let late = 0;
  let indexWaited = 0;
  let indexDropped = 0;
  for (let turn = 0; turn < TURNS; turn++) {
    const one = host.want(WANTED, DEADLINE).got;
    got += one;
    if (one < WANTED) late++;
    for (let k = 0; k < ASKED; k++) {
      if (take(g, g.index, 1) === 1) continue;
      indexWaited++;
      indexDropped += dropCache(g, rng, CLUSTER).index;
      assert(take(g, g.index, 1) === 1, 'there was page cache to drop');
    }
  }
  indexDropped += host.tally.indexDropped;
  const cacheDropped = cache - pagesOf(g, g.cache);
  const { moved, rests } = host.tally;

  const hurry = host.want(HURRY.pages, HURRY.deadline);
  const rest = PAGES - CRITICAL - KERNEL - got - hurry.got; // all that was ever opportunistic
  const most = host.want(rest, PAGES);
  const indexLeft = pagesOf(g, g.index);
  const wrong = m.check();
  assert(wrong.length === 0, 'the guest is sound', { wrong: wrong.map((v) => v.detail).join('; ') });

  host.giveAllBack();
  take(g, g.cache);
  const again = m.check();
  assert(again.length === 0, 'the guest is sound', { wrong: again.map((v) => v.detail).join('; ') });
  return {
    used,
    got,
    late,
    indexDropped,
    indexWaited,
    cacheDropped,
    moved,
    rests,
    hurry: hurry.got,
    hurrySays: hurry.says,
    most: most.got,
    mostSays: most.says,
    named: most.named,
    indexLeft,
    usedAgain: usedBy(g),
  };
}

const mib = (pages: number): string => `${((pages * PAGE_SIZE) / 2 ** 20).toFixed(0)} MiB`;

function report(seed: number, locked: Story, balloon: Story, own: Story): DemoResult {
  const all = [locked, balloon, own];
  const row = (name: string, cell: (s: Story) => string | number): (string | number)[] => [name, ...all.map(cell)];
  /** What is not asked of locked memory. */
  const asked = (name: string, cell: (s: Story) => string | number): (string | number)[] => [
    name,
    '-',
    cell(balloon),
    cell(own),
  ];
  const wanted = TURNS * WANTED;
  return {
    title: `A guest with a database, while other guests sleep and when they wake up: locked memory, a balloon, pools`,
    lines: [
      `While other guests sleep, a guest with ${mib(LOCKED)} of locked memory uses ${mib(locked.used)}, however much else is idle; with a balloon or`,
      `pools it uses ${mib(balloon.used)} and ${mib(own.used)} of ${mib(PAGES)}. Then the others wake up, and the host wants ${wanted} pages back.`,
      `The balloon gets ${balloon.got} of them, and takes anything: the guest has to drop page cache for it, and ${balloon.indexDropped} pages of the`,
      `database's index are among it. ${balloon.indexWaited} of the next ${TURNS * ASKED} requests for the index find no memory, and have to make room first.`,
      `Revocation gets ${own.got}, from the opportunistic pool only: the index loses ${own.indexDropped} pages, and ${own.indexWaited} of its requests wait.`,
      `A host in a hurry wants ${HURRY.pages} more, with time for ${HURRY.deadline} pages to be dropped or moved. It gets ${own.hurry}, and is told:`,
      `"${own.hurrySays}". A balloon gives ${balloon.hurry} and says nothing.`,
      `In the end the host wants all that is opportunistic. The pool gives ${own.most} pages and names the ${own.named} that cannot leave:`,
      `"${own.mostSays}".`,
      `The balloon takes ${balloon.most} and leaves ${balloon.indexLeft} pages of the index; the pool leaves ${own.indexLeft}.`,
      `When the others sleep again, the guest uses ${mib(balloon.usedAgain)} and ${mib(own.usedAgain)} again. The price of the guarantee: ${CRITICAL - INDEX} pages of it are idle`,
      `at first, and the host can never have them.`,
    ],
    table: {
      columns: ['', 'locked', 'balloon', 'pools'],
      rows: [
        row('the guest uses, others asleep', (s) => mib(s.used)),
        asked(`others awake: pages for the host, of ${wanted}`, (s) => s.got),
        asked(`others awake: deadlines missed, of ${TURNS}`, (s) => s.late),
        row('index: pages dropped', (s) => s.indexDropped),
        row(`index: requests that had to make room first, of ${TURNS * ASKED}`, (s) => s.indexWaited),
        row('price: other page cache dropped', (s) => s.cacheDropped),
        row('rests of 200 ms because nothing was free', (s) => s.rests),
        asked(`in a hurry: pages, of ${HURRY.pages}`, (s) => s.hurry),
        asked('in a hurry: the host is told', (s) => s.hurrySays.split(':')[0] || 'nothing'),
        asked('all of it: pages', (s) => s.most),
        asked('all of it: the host is told', (s) => s.mostSays.split(':')[0] || 'nothing'),
        row('all of it: pages of the index left', (s) => s.indexLeft),
        row('asleep again: the guest uses', (s) => mib(s.usedAgain)),
        ['price: what the host can never have', mib(LOCKED), mib(0), mib(CRITICAL + KERNEL)],
      ],
    },
    facts: {
      seed,
      wanted,
      ...factsOf('locked', locked),
      ...factsOf('balloon', balloon),
      ...factsOf('pools', own),
    },
  };
}

const factsOf = (way: Way, s: Story): Record<string, number | string> =>
  Object.fromEntries(Object.entries(s).map(([name, value]) => [`${way}.${name}`, value]));
