// NUMA policy: three jobs on a box with four nodes. How far each is from its memory, and what a tweak while they run does.
//
//      16
//   0 ───── 1      weather   computes near node 0, needs more than a node has; bandwidth counts: two nodes, 3 to 1
//   │ ╲ 22╱ │      crash     computes near node 1; latency counts: all of its memory is to be local
//   │16   16│      visitor   somebody else's job near node 1, which nobody has told anything
//   2 ───── 3
//      16          phase 1   all grow in turns of a seed
//                  phase 2   weather's processes move to node 2: its weights become 1 to 3, its pages are to follow
//
//                 weather                              crash                    visitor
//   first touch   the node it runs on, then the next   the same                 the same
//   numactl       weighted-interleave node0, node2     bind node1               the same
//   pools         the same over pools of these nodes   bind a pool of node 1    what is left
//
// Policies are mm/pools/mempolicy.ts in the columns `numactl` and `pools`: a node is a pool too. What differs is that a
// pool's frames are nobody else's, and that pages follow changed weights: Linux's weights count for new pages only, and
// migrate_pages() moves all pages of a node or none. Distances are those of the firmware's table: 10 is local.
// After Snook 2007, problem 6: no knapsack is solved here. The administrator says what he knows, and can change it.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import type { Result } from '#base/result';
import { type HolderId, type NodeId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGE_SIZE } from '#mm/geometry';
import { Machine } from '#mm/machine';
import { allocByPolicy, type Mempolicy, setMempolicy, settleByPolicy } from '#mm/pools/mempolicy';
import { pools } from '#mm/pools/pools';
import type { Refusal } from '#mm/refusal';
import type { DemoResult, PoolDemo } from './demo.ts';

const FIRST = 2 ** 20; // 4 GiB: each node is one zone, Normal
const NODE_PAGES = 32768; // 128 MiB
const DISTANCE = [
  [10, 16, 16, 22],
  [16, 10, 22, 16],
  [16, 22, 10, 16],
  [22, 16, 16, 10],
];
const FRAME = toOrder(0);

const JOBS = ['weather', 'crash', 'visitor'] as const;
type Job = (typeof JOBS)[number];
const NEED: Readonly<Record<Job, number>> = { weather: 38_000, crash: 20_000, visitor: 24_000 };
const RUNS_ON: Readonly<Record<Job, NodeId>> = { weather: toNodeId(0), crash: toNodeId(1), visitor: toNodeId(1) };
const AFTERWARDS = toNodeId(2);
/** Buffers of the network card, by which weather's processes talk: they cannot move while the card may write to them. */
const PINNED = 12;
const PER_CALL = 512;

const WAYS = ['touch', 'numactl', 'pools'] as const;
type Way = (typeof WAYS)[number];

/** Pages by distance from where the job runs. */
type Reach = { readonly near: number; readonly far: number; readonly farthest: number; readonly mean: number };

type Story = {
  readonly refused: Readonly<Record<Job, number>>;
  readonly reach: Readonly<Record<Job, Reach>>;
  /** Frames of pools that nobody uses. */
  readonly idle: number;
  /** Weather's mean distance once it runs elsewhere, before and after the tweak. */
  readonly movedMean: number;
  readonly tweakedMean: number;
  readonly copied: number;
  readonly calls: number;
  /** The sentence that names the pages which stay; '' if none was asked to move. */
  readonly refusal: string;
};

export const numaPolicy: PoolDemo = {
  name: 'numa-policy',
  problem:
    'These sorts of configurations, typical in HPC, are generally hand-tuned, so we should let the ' +
    'application/administrator tweak allocations between these pools explicitly with the knowledge they have of how ' +
    'the application behaves.',
  run: ({ seed = 2007 }) => {
    const [touch, numactl, own] = WAYS.map((way) => story(seed, way)) as [Story, Story, Story]; // one for each
    return report(seed, touch, numactl, own);
  },
};

const must = <T>(r: Result<T, Refusal>): T => {
  assert(r.ok, 'the demonstration asks for what there is', { refusal: r.ok ? '' : r.error.message });
  return r.value;
};

/** What the administrator says. Weather's turns: 3 to 1 at first. */
function policyOf(way: Way, job: Job, weights: readonly [number, number]): Mempolicy | undefined {
  if (way === 'touch' || job === 'visitor') return undefined;
  if (job === 'crash') return { mode: 'bind', pools: [way === 'pools' ? 'crash-1' : 'node1'] };
  const names = way === 'pools' ? ['weather-0', 'weather-2'] : ['node0', 'node2'];
  return { mode: 'weighted-interleave', pools: names, weights };
}

function story(seed: number, way: Way): Story {
  const m = Machine.boot({
    ram: [0, 1, 2, 3].map((n) => ({
      start: toPfn(FIRST + n * NODE_PAGES),
      end: toPfn(FIRST + (n + 1) * NODE_PAGES),
      node: toNodeId(n),
    })),
    distance: DISTANCE,
    code: 'shared',
  });
  const p = pools(m);
  if (way === 'pools') {
    must(p.create({ name: 'weather-0', nodes: [0], pages: 30_000 }));
    must(p.create({ name: 'weather-2', nodes: [2], pages: 10_000 }));
    must(p.create({ name: 'crash-1', nodes: [1], pages: 20_480 }));
  }
  const holders = Object.fromEntries(
    JOBS.map((job) => [job, m.addHolder({ class: 'anonymous', name: job, node: RUNS_ON[job] })]),
  ) as Record<Job, HolderId>; // one for each
  for (const job of JOBS) {
    const policy = policyOf(way, job, [3, 1]);
    if (policy !== undefined) must(setMempolicy(m, holders[job], policy));
  }

  const rng = new Prng(seed);
  const refused: Record<Job, number> = { weather: 0, crash: 0, visitor: 0 };
  const left = { ...NEED };
  while (JOBS.some((job) => left[job] > 0)) {
    const job = JOBS[rng.weighted(JOBS.map((j) => left[j]))] as Job; // as many weights as jobs
    left[job]--;
    const told = policyOf(way, job, [3, 1]) !== undefined;
    const got = told ? allocByPolicy(m, holders[job], FRAME).ok : m.alloc(holders[job], FRAME) !== -1;
    if (!got) refused[job]++;
  }
  const reach = Object.fromEntries(JOBS.map((job) => [job, reachOf(m, holders[job], RUNS_ON[job])])) as Story['reach'];
  const idle = p.list().reduce((n, s) => n + (s.kind === 'user' ? s.free : 0), 0);

  // Phase 2: the processes run on node 2 now.
  const { weather } = holders;
  const pinned: Pfn[] = [];
  m.forEachFrameOf(weather, (pfn, _order, index) => {
    if (index % 3000 === 1 && pinned.length < PINNED) pinned.push(pfn);
  });
  for (const pfn of pinned) m.pin(pfn);
  const movedMean = reachOf(m, weather, AFTERWARDS).mean;
  const policy = policyOf(way, 'weather', [1, 3]);
  if (policy !== undefined) must(setMempolicy(m, weather, policy));
  const tweak = way === 'pools' ? follow(m, weather, pinned) : { copied: 0, calls: 0, refusal: '' };
  const tweakedMean = reachOf(m, weather, AFTERWARDS).mean;
  const wrong = m.check();
  assert(wrong.length === 0, 'the machine is sound', { way, wrong });
  return { refused, reach, idle, movedMean, tweakedMean, ...tweak };
}

/** Weather's pages follow its weights, call by call; then its pools get the sizes that go with them. */
function follow(
  m: Machine,
  weather: HolderId,
  pinned: readonly Pfn[],
): { copied: number; calls: number; refusal: string } {
  const p = pools(m);
  must(p.resize('weather-2', 30_000));
  let copied = 0;
  let calls = 0;
  let refusal = '';
  for (let left = Number.POSITIVE_INFINITY; left > 0; calls++) {
    const r = settleByPolicy(m, weather, { atMost: PER_CALL });
    if (!r.ok) {
      // Only pinned pages are left: the card is told to let go of them.
      assert(refusal === '', 'a page that is not pinned moves', { refusal: r.error.message });
      refusal = r.error.message;
      for (const pfn of pinned) m.unpin(pfn);
      continue;
    }
    assert(r.value.moved <= PER_CALL, 'a call is bounded', { moved: r.value.moved });
    copied += r.value.moved;
    ({ left } = r.value);
  }
  must(p.resize('weather-0', 10_000));
  return { copied, calls, refusal };
}

function reachOf(m: Machine, job: HolderId, from: NodeId): Reach {
  const by = new Map<number, number>();
  m.forEachFrameOf(job, (pfn) => {
    const zone = m.zoneAt(m.sections.indexOf(pfn));
    assert(zone !== undefined, 'a used page is online', { pfn });
    const d = m.distance(from, zone.node);
    by.set(d, (by.get(d) ?? 0) + 1);
  });
  const pages = [...by.values()].reduce((n, k) => n + k, 0);
  const sum = [...by].reduce((n, [d, k]) => n + d * k, 0);
  return {
    near: by.get(10) ?? 0,
    far: by.get(16) ?? 0,
    farthest: by.get(22) ?? 0,
    mean: pages === 0 ? 0 : sum / pages,
  };
}

const mib = (pages: number): string => `${Math.round((pages * PAGE_SIZE) / 2 ** 20)} MiB`;
const fixed = (n: number): string => n.toFixed(2);
const share = (r: Reach): string => {
  const all = r.near + r.far + r.farthest;
  return `${((100 * (r.far + r.farthest)) / all).toFixed(1)} %`;
};

function report(seed: number, touch: Story, numactl: Story, own: Story): DemoResult {
  const row = (what: string, of: (s: Story) => string | number): (string | number)[] => [
    what,
    of(touch),
    of(numactl),
    of(own),
  ];
  return {
    title: `Three jobs on four nodes of ${mib(NODE_PAGES)}: how far each is from its memory (10 is local, then 16 and 22)`,
    lines: [
      `Crash needs ${mib(NEED.crash)} near node 1, weather ${mib(NEED.weather)} on nodes 0 and 2, three to one; a visitor near node 1 is told nothing.`,
      `By first touch, as Linux does unless told otherwise, ${share(touch.reach.crash)} of crash's pages end up remote: the visitor was there first.`,
      `With numactl crash is bound to node 1, but so that others may take from it: ${numactl.refused.crash} of its ${NEED.crash} requests are refused.`,
      `With a pool on node 1 all of crash's pages are local and none is refused. The price is the visitor's, ${fixed(own.reach.visitor.mean)} instead of`,
      `${fixed(touch.reach.visitor.mean)} on average, and ${mib(own.idle)} of the pools that nobody uses.`,
      `Weather is further from its memory than by first touch, ${fixed(own.reach.weather.mean)} instead of ${fixed(touch.reach.weather.mean)}: it was told to use the bandwidth of two nodes.`,
      `Then weather's processes move to node 2, and its weights become one to three. In Linux that counts for new pages: its mean`,
      `distance stays ${fixed(numactl.tweakedMean)}. Over pools its pages follow: ${own.copied} are copied in ${own.calls} calls of at most ${PER_CALL}, and it is ${fixed(own.tweakedMean)}.`,
      `A call that finds only pages which cannot move says so: "${own.refusal}".`,
    ],
    table: {
      columns: ['', 'first touch', 'numactl', 'pools'],
      rows: [
        row('crash: requests refused', (s) => s.refused.crash),
        row('crash: remote pages', (s) => share(s.reach.crash)),
        row('crash: mean distance', (s) => fixed(s.reach.crash.mean)),
        row('weather: pages at 10 / 16 / 22', ({ reach: { weather: w } }) => `${w.near} / ${w.far} / ${w.farthest}`),
        row('weather: mean distance', (s) => fixed(s.reach.weather.mean)),
        row('weather on node 2, before the tweak', (s) => fixed(s.movedMean)),
        row('weather on node 2, after the tweak', (s) => fixed(s.tweakedMean)),
        row('price: pages copied for it', (s) => s.copied),
        row('price: visitor’s mean distance', (s) => fixed(s.reach.visitor.mean)),
        row('price: frames of pools that nobody uses', (s) => mib(s.idle)),
      ],
    },
    facts: {
      seed,
      perCall: PER_CALL,
      ...factsOf('touch', touch),
      ...factsOf('numactl', numactl),
      ...factsOf('pools', own),
      refusal: own.refusal,
      calls: own.calls,
    },
  };
}

const factsOf = (way: Way, s: Story): Record<string, number> => ({
  ...Object.fromEntries(
    JOBS.flatMap((job) => [
      [`${way}.${job}.refused`, s.refused[job]],
      [`${way}.${job}.near`, s.reach[job].near],
      [`${way}.${job}.far`, s.reach[job].far],
      [`${way}.${job}.farthest`, s.reach[job].farthest],
      [`${way}.${job}.mean`, s.reach[job].mean],
    ]),
  ),
  [`${way}.idle`]: s.idle,
  [`${way}.movedMean`]: s.movedMean,
  [`${way}.tweakedMean`]: s.tweakedMean,
  [`${way}.copied`]: s.copied,
});
