// Containers: two of them on one machine, and one goes wild. What the neighbour notices.
//
//   machine   two nodes of 128 MiB; "shop" works near node 0; "batch" is to have what shop does not need
//   1 work    both, in turns of a seed: heap, page cache, page tables
//   2 storm   batch takes memory until node 0 is full, or it is refused; then shop needs pages
//   3 flood   batch takes all that it can get; shop needs pages again
//   4 ebb     batch gives back every other page; shop needs buffers of 64 KiB
//   5 tweak   limits change and groups move while both run (with pools)
//
//                          no limits        cgroups: a counter             pools: frames
//   batch is refused       never            at its limit                   at its limit
//   batch's frames lie     anywhere         anywhere                       in pools of its own
//
// Three machines get the same requests. A cgroup is a counter that the demonstration keeps, as memory.max does; a pool's
// container is a group (mm/pools/pool-group.ts). What is left out: Linux would reclaim page cache before it refuses; the
// engine does not, and batch's page cache is mapped until phase 5. After Snook 2007, problem 4.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import type { Result } from '#base/result';
import { type HolderId, type NodeId, type Order, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { NR_MIGRATE_TYPES, NR_ORDERS, PAGE_SIZE, PAGEBLOCK_PAGES } from '#mm/geometry';
import { Machine } from '#mm/machine';
import { type PoolGroups, poolGroups } from '#mm/pools/pool-group';
import { pools } from '#mm/pools/pools';
import { setPageState } from '#mm/pools/shed';
import type { Refusal } from '#mm/refusal';
import type { DemoResult, PoolDemo } from './demo.ts';

const NODE_PAGES = 32768; // 128 MiB
const HOME = toNodeId(0);
/** Limits in pages. Batch's is the sum of two: near shop, and on the other node. */
const SHOP = 16384;
const BATCH_NEAR = 12288;
const BATCH_FAR = 24576;
const BATCH = BATCH_NEAR + BATCH_FAR;
const WORK = 6000;
const NEED = 2000;
const BUFFERS = 64;
const BUFFER_ORDER = toOrder(4); // 64 KiB
const STEP = 2048; // 8 MiB

const KINDS = ['anonymous', 'file', 'pagetable'] as const;
type Kind = (typeof KINDS)[number];
/** Of 16 pages: heap, page cache, page tables. */
const MIX: readonly number[] = [10, 5, 1];

const WAYS = ['free', 'cgroups', 'pools'] as const;
type Way = (typeof WAYS)[number];

export const containers: PoolDemo = {
  name: 'containers',
  problem: 'containers: This should be obvious.',
  run: ({ seed = 2007 }) => {
    const [free, cgroups, own] = WAYS.map((way) => story(seed, way)) as [Story, Story, Story]; // one for each
    return report(seed, free, cgroups, own);
  },
};

/** A container: its holders by class. */
type Container = Readonly<Record<Kind, HolderId>>;

type Setup = {
  readonly way: Way;
  readonly m: Machine;
  readonly g: PoolGroups;
  readonly shop: Container;
  readonly batch: Container;
};

/** What one machine did. */
type Story = {
  /** Is everything that is counted about shop's memory as it was before the storm? */
  readonly unchanged: boolean;
  /** Of NEED pages in the storm, how many were the other node's. */
  readonly stormFar: number;
  readonly stormRefused: number;
  readonly floodRefused: number;
  readonly buffersRefused: number;
  readonly buffersFar: number;
  /** Blocks of 2 MiB in which pages of both lie. */
  readonly mixedBlocks: number;
  /** The price: pages that batch got, and those that lay idle in shop's pool while it was refused. */
  readonly batchPages: number;
  readonly idlePages: number;
  readonly tweak: Tweak | undefined;
};

type Tweak = {
  readonly dropped: number;
  readonly moved: number;
  readonly batchLimit: number;
  readonly shopLimit: number;
  readonly migrated: number;
  readonly stayed: number;
  readonly inPlace: number;
  readonly copied: number;
  readonly refusal: string;
};

const must = <T>(r: Result<T, Refusal>): T => {
  assert(r.ok, 'the demonstration asks for what there is', { refusal: r.ok ? '' : r.error.message });
  return r.value;
};

function setUp(way: Way): Setup {
  const m = Machine.boot({
    ram: [0, 1].map((n) => ({ start: toPfn(n * NODE_PAGES), end: toPfn((n + 1) * NODE_PAGES), node: toNodeId(n) })),
    code: 'shared',
  });
  const g = poolGroups(m);
  if (way === 'pools') {
    must(g.create({ name: 'shop', pages: SHOP, nodes: [0] }));
    must(g.create({ name: 'batch', pages: BATCH_NEAR, nodes: [0] }));
    must(pools(m).create({ name: 'batch-far', pages: BATCH_FAR, nodes: [1] }));
    must(pools(m).setFallback('batch', 'batch-far', 1));
  }
  const container = (group: string): Container => {
    const add = (cls: Kind): HolderId => {
      const name = `${group}'s ${cls === 'anonymous' ? 'heap' : cls === 'file' ? 'page cache' : 'page tables'}`;
      return way === 'pools'
        ? must(g.addMember(group, { class: cls, name }))
        : m.addHolder({ class: cls, name, node: HOME });
    };
    return { anonymous: add('anonymous'), file: add('file'), pagetable: add('pagetable') };
  };
  return { way, m, g, shop: container('shop'), batch: container('batch') };
}

function story(seed: number, way: Way): Story {
  const s = setUp(way);
  const { m, shop, batch } = s;
  const rng = new Prng(seed);
  /** One page for a container. A cgroup is asked first. */
  const one = (c: Container): Pfn | -1 => {
    const kind = KINDS[rng.weighted(MIX)] as Kind; // as many weights as kinds
    if (way === 'cgroups' && pagesOf(m, c) >= (c === shop ? SHOP : BATCH)) return -1;
    return m.alloc(c[kind], toOrder(0));
  };
  const need = (count: number, order: Order): { refused: number; far: number } => {
    const n = { refused: 0, far: 0 };
    for (let k = 0; k < count; k++) {
      const pfn = m.alloc(shop.anonymous, order);
      if (pfn === -1) n.refused++;
      else if (nodeOf(m, pfn) !== HOME) n.far++;
    }
    return n;
  };

  for (let k = 0; k < WORK; k++) one(rng.chance(0.5) ? shop : batch);

  const before = countersOf(s);
  for (let pfn = one(batch); pfn !== -1 && nodeOf(m, pfn) === HOME; pfn = one(batch));
  const unchanged = countersOf(s) === before;
  const storm = need(NEED, toOrder(0));

  // Page tables are refused before heap is: they may not lie everywhere.
  for (let refused = 0; refused < 64; ) if (one(batch) === -1) refused++;
  const batchPages = pagesOf(m, batch);
  const idlePages = way === 'pools' ? must(s.g.usage('shop')).free : 0;
  const flood = need(NEED, toOrder(0));

  const held: Pfn[] = [];
  forEachPage(m, batch, (pfn) => void held.push(pfn));
  for (let k = 0; k < held.length; k += 2) m.free(held[k] as Pfn);
  const buffers = need(BUFFERS, BUFFER_ORDER);

  const figures = {
    unchanged,
    stormFar: storm.far,
    stormRefused: storm.refused,
    floodRefused: flood.refused,
    buffersRefused: buffers.refused,
    buffersFar: buffers.far,
    mixedBlocks: mixedBlocks(m, shop, batch),
    batchPages,
    idlePages,
  };
  const tweak = way === 'pools' ? changeLimits(s) : undefined;
  const wrong = m.check();
  assert(wrong.length === 0, 'the machine is sound', { way, wrong });
  return { ...figures, tweak };
}

/** Everything that is counted about the memory that shop takes from: whose it is, what is free, in which pieces. */
function countersOf({ way, m, shop }: Setup): string {
  const where: number[] = [];
  for (const kind of KINDS) m.forEachFrameOf(shop[kind], (pfn, order, index) => void where.push(pfn, order, index));
  const mine = way === 'pools' ? m.pools.filter((p) => p.name === 'shop') : m.zones.filter((z) => z.node === HOME);
  const lists = mine.map((p) => {
    const pieces = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);
    p.alloc.area.count(pieces);
    return [p.managed, p.alloc.nrFree(), p.alloc.pcpPages(), p.extfrag.events, ...pieces];
  });
  return JSON.stringify([where, lists]);
}

const pagesOf = (m: Machine, c: Container): number =>
  KINDS.reduce((n, kind) => n + (m.holders.pages[c[kind]] as number), 0);

function forEachPage(m: Machine, c: Container, each: (pfn: Pfn) => void): void {
  for (const kind of KINDS) m.forEachFrameOf(c[kind], (pfn) => each(pfn));
}

const nodeOf = (m: Machine, pfn: Pfn): NodeId => {
  const zone = m.zoneAt(m.sections.indexOf(pfn));
  assert(zone !== undefined, 'a used page is online', { pfn });
  return zone.node;
};

function mixedBlocks(m: Machine, a: Container, b: Container): number {
  const blocks = (c: Container): Set<number> => {
    const out = new Set<number>();
    forEachPage(m, c, (pfn) => void out.add(Math.floor(pfn / PAGEBLOCK_PAGES)));
    return out;
  };
  const mine = blocks(a);
  return [...blocks(b)].filter((x) => mine.has(x)).length;
}

/** While both run: frames go from batch to shop, batch to the other node, shop to a better pool. */
function changeLimits({ m, g, batch }: Setup): Tweak {
  // What batch has read, it does not need any more.
  setPageState(m, (holder) => (holder === batch.file ? { dirty: false, mapped: false } : undefined));
  const full = must(g.usage('batch'));
  const lowered = must(g.setLimit('batch', full.used - STEP));
  must(g.setLimit('shop', SHOP + STEP));
  const batchLimit = must(g.usage('batch')).limit;
  const shopLimit = must(g.usage('shop')).limit;
  const moved = must(g.moveTo('batch', 'batch-far', { partial: true }));
  must(pools(m).create({ name: 'gold', pages: 512, nodes: [0], priority: 9 }));
  const copies = m.vmstat.pgmigrate_success;
  const promoted = must(g.moveTo('shop', 'gold'));
  const copied = m.vmstat.pgmigrate_success - copies;
  const refused = g.setLimit('batch', STEP);
  assert(!refused.ok, 'batch holds more than a step, and has nowhere else to go', {});
  return {
    dropped: lowered.dropped,
    moved: lowered.moved,
    batchLimit,
    shopLimit,
    migrated: moved.migrated,
    stayed: moved.stayed,
    inPlace: promoted.inPlace,
    copied,
    refusal: refused.error.message,
  };
}

const mib = (pages: number): string => `${Math.round((pages * PAGE_SIZE) / 2 ** 20)} MiB`;

function report(seed: number, free: Story, cgroups: Story, own: Story): DemoResult {
  const { tweak } = own;
  assert(tweak !== undefined, 'limits are changed where there are pools', {});
  const row = (what: string, of: (s: Story) => string | number): (string | number)[] => [
    what,
    of(free),
    of(cgroups),
    of(own),
  ];
  return {
    title: `Two containers, "shop" and "batch", on a machine with two nodes of ${mib(NODE_PAGES)}: batch goes wild`,
    lines: [
      `Shop is to have ${mib(SHOP)}, batch ${mib(BATCH)}. Three machines get the same requests: one without limits, one with limits that`,
      `are counters, as cgroups have them, and one on which each container has pools: frames of its own.`,
      `A counter stops batch in the end, but says nothing about which frames it takes: it fills the node next to shop, and shop gets`,
      `${cgroups.stormFar} of ${NEED} pages from the other node. Without any limit ${free.floodRefused} of the next ${NEED} are refused.`,
      `With pools nothing that is counted about shop's memory changes while batch takes all it can, not by one bit.`,
      `The price: frames that shop does not use now (${mib(own.idlePages)}) are not batch's, though it is refused.`,
      `So limits are changed while both run: batch drops ${tweak.dropped} pages of page cache, ${tweak.moved} others move, and the frames become`,
      `shop's, which may have ${mib(tweak.shopLimit)} now. Batch moves to the other node's pool: ${tweak.migrated} pages are copied, ${tweak.stayed} page tables cannot leave and stay.`,
      `Shop moves to a pool of higher priority on its own node: ${tweak.inPlace} pages change hands where they lie, ${tweak.copied} are copied.`,
      `A limit that cannot be had is refused, and it says who is in the way: "${tweak.refusal}".`,
    ],
    table: {
      columns: ['', 'no limits', 'cgroups', 'pools'],
      rows: [
        row('shop’s memory, while batch fills node 0', (s) => (s.unchanged ? 'unchanged' : 'changed')),
        row(`shop needs ${NEED} pages: from the far node`, (s) => s.stormFar),
        row(`shop needs ${NEED} more, batch has taken all: refused`, (s) => s.floodRefused),
        row(`shop needs ${BUFFERS} buffers of 64 KiB: refused`, (s) => s.buffersRefused),
        row(`shop needs ${BUFFERS} buffers of 64 KiB: from the far node`, (s) => s.buffersFar),
        row('2 MiB blocks in which pages of both lie', (s) => s.mixedBlocks),
        row('price: batch gets', (s) => mib(s.batchPages)),
        row('price: shop’s own, idle while batch is refused', (s) => mib(s.idlePages)),
      ],
    },
    facts: {
      seed,
      ...factsOf('free', free),
      ...factsOf('cgroups', cgroups),
      ...factsOf('pools', own),
      'tweak.dropped': tweak.dropped,
      'tweak.moved': tweak.moved,
      'tweak.batchLimit': tweak.batchLimit,
      'tweak.shopLimit': tweak.shopLimit,
      'tweak.migrated': tweak.migrated,
      'tweak.stayed': tweak.stayed,
      'tweak.inPlace': tweak.inPlace,
      'tweak.copied': tweak.copied,
      'tweak.refusal': tweak.refusal,
    },
  };
}

const factsOf = (way: Way, s: Story): Record<string, number | boolean> => ({
  [`${way}.unchanged`]: s.unchanged,
  [`${way}.stormFar`]: s.stormFar,
  [`${way}.stormRefused`]: s.stormRefused,
  [`${way}.floodRefused`]: s.floodRefused,
  [`${way}.buffersRefused`]: s.buffersRefused,
  [`${way}.buffersFar`]: s.buffersFar,
  [`${way}.mixedBlocks`]: s.mixedBlocks,
  [`${way}.batchPages`]: s.batchPages,
  [`${way}.idlePages`]: s.idlePages,
});
