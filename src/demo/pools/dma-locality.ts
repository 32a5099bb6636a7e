// Problem 2 of the mail: four nodes, four devices, and each is to have its buffers next to it.
//
//   node 0  legacy I/O, 24 address bits        1 MiB of buffers        distances: 10 at home, 20 next door, 30 across
//   node 1  RAID controller, 32 bits           8 MiB                     0 ── 1
//   node 2  network controller, 64 bits       16 MiB                     │    │
//   node 3  FC adapter, 64 bits               16 MiB                     3 ── 2
//
// Programs have filled all nodes when the drivers are loaded: what they hold can move, but nobody moves it for a request
// that could be met elsewhere. Linux's way is mm/pools/dma-direct.ts: the node is a preference. The other is
// findOrCreate (mm/pools/dma-pools.ts): a pool in a window near the device, emptied if need be.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '#mm/machine';
import { dmaDirectAlloc } from '#mm/pools/dma-direct';
import { loadModule, unloadModule } from '#mm/pools/dma-module';
import { checkDma } from '#mm/pools/dma-pools';
import type { DmaRule } from '#mm/pools/dma-rule';
import type { DemoResult, PoolDemo } from './demo.ts';

const NODE_PAGES = 32768; // 128 MiB
const BUFFER = 65536; // bytes
const BUFFER_PAGES = BUFFER / 4096;
const DISTANCE = [
  [10, 20, 30, 20],
  [20, 10, 20, 30],
  [30, 20, 10, 20],
  [20, 30, 20, 10],
];
/** Free pages that programs leave on each node: nodes 2 and 3 are nearly full. */
const LEFT = [9000, 9000, 700, 700];

type Device = { readonly name: string; readonly node: number; readonly bits: number; readonly buffers: number };
const DEVICES: readonly Device[] = [
  { name: 'legacy', node: 0, bits: 24, buffers: 16 },
  { name: 'raid', node: 1, bits: 32, buffers: 128 },
  { name: 'nic', node: 2, bits: 64, buffers: 256 },
  { name: 'fc', node: 3, bits: 64, buffers: 256 },
];
type Story = {
  /** Pages by device: at home, and all. */
  readonly local: readonly number[];
  readonly pages: readonly number[];
  readonly distance: number;
  readonly refused: number;
  readonly moved: number;
};

export const dmaLocality: PoolDemo = {
  name: 'dma-locality',
  problem:
    'If I have a 4-node NUMA box with legacy I/O attached to node 0, RAID controller attached node 1, network controller ' +
    'attached to node 2, and FC HBA attached to node 3, I want them each to be DMAing to the closest memory.',
  run: ({ seed = 2007 }) => report(seed, story(seed, 'mask'), story(seed, 'pools')),
};

function boot(seed: number): Machine {
  const start = [0, NODE_PAGES, 2 ** 20, 2 ** 20 + NODE_PAGES]; // nodes 0 and 1 lie below 4 GiB
  const m = Machine.boot({
    ram: start.map((s, k) => ({ start: toPfn(s), end: toPfn(s + NODE_PAGES), node: toNodeId(k) })),
    distance: DISTANCE,
    code: 'shared',
  });
  const rng = new Prng(seed);
  for (let k = 0; k < 4; k++) {
    const near = { node: toNodeId(k), thisNode: true };
    const program = m.addHolder({ class: 'anonymous', name: `program ${k}` });
    const kernel = m.addHolder({ class: 'slab', name: `kernel ${k}` });
    const freeHere = (): number =>
      m.zones.reduce((n, z) => n + (z.node === k ? z.alloc.nrFree() + z.alloc.pcpPages() : 0), 0);
    // The kernel's pages came first and lie together; programs took the rest, and some of them ended.
    const mine: Pfn[] = [];
    for (let n = 0; n < 600; n++) m.alloc(kernel, toOrder(0), near);
    while (freeHere() > (LEFT[k] as number)) {
      const pfn = m.alloc(program, toOrder(0), near);
      if (pfn === -1) break;
      mine.push(pfn);
    }
    rng.shuffle(mine);
    for (const pfn of mine.slice(0, 400)) m.free(pfn);
  }
  for (const p of m.pools) p.alloc.drain();
  return m;
}

/** Pages of a device by distance, from the frames that its buffers have. */
function nodesOf(m: Machine, frames: readonly (readonly [number, number])[]): number[] {
  const out = [0, 0, 0, 0];
  for (const [start, pages] of frames) {
    for (let pfn = start; pfn < start + pages; pfn++) {
      const node = m.zoneAt(m.sections.indexOf(toPfn(pfn)))?.node ?? 0; // buffers lie in online memory
      out[node] = (out[node] as number) + 1;
    }
  }
  return out;
}

type Loaded = { readonly frames: (readonly [number, number])[]; readonly refused: number };

/** Linux: buffer by buffer, from the zone that the mask names; the node is a wish. */
function byMask(m: Machine, d: Device): Loaded {
  const holder: HolderId = m.addHolder({ class: 'driver', name: d.name });
  const frames: (readonly [number, number])[] = [];
  let refused = 0;
  for (let k = 0; k < d.buffers; k++) {
    const got = dmaDirectAlloc(m, holder, { bytes: BUFFER, bits: d.bits, node: toNodeId(d.node) });
    if (got.ok) frames.push([got.value, BUFFER_PAGES]);
    else refused++;
  }
  return { frames, refused };
}

function byPool(m: Machine, d: Device): Loaded {
  const rule: DmaRule = d.bits < 64 ? { addrMax: { bits: d.bits } } : {};
  const buffers = Array.from({ length: d.buffers }, () => BUFFER);
  const got = loadModule(m, { name: d.name, node: d.node, uses: [{ rule, buffers }] });
  if (!got.ok) return { frames: [], refused: d.buffers };
  const frames = got.value.uses.flatMap((u) =>
    u.buffers.flatMap((b) => b.segments.map((s) => [s.start, s.end - s.start] as const)),
  );
  return { frames, refused: 0 };
}

function story(seed: number, way: 'mask' | 'pools'): Story {
  const m = boot(seed);
  const before = m.vmstat.pgmigrate_success;
  const load = way === 'mask' ? byMask : byPool;
  const local: number[] = [];
  const pages: number[] = [];
  let sum = 0;
  let refused = 0;
  for (const d of DEVICES) {
    const got = load(m, d);
    const by = nodesOf(m, got.frames);
    const all = by.reduce((a, b) => a + b, 0);
    local.push(by[d.node] as number);
    pages.push(all);
    sum += by.reduce((n, count, node) => n + count * (DISTANCE[d.node]?.[node] ?? 0), 0);
    refused += got.refused;
  }
  const moved = m.vmstat.pgmigrate_success - before;
  if (way === 'pools') for (const d of DEVICES) unloadModule(m, d.name);
  const left = m.pools.filter((q) => q.kind === 'user' && q.present > 0).length;
  assert(left === 0, 'pools end with their last user', { left });
  const wrong = [...m.check().map((v) => v.detail), ...checkDma(m)];
  assert(wrong.length === 0, 'the machine is sound afterwards', { wrong: wrong[0] });
  return {
    local,
    pages,
    distance: sum / pages.reduce((a, b) => a + b, 0),
    refused,
    moved,
  };
}

function report(seed: number, mask: Story, own: Story): DemoResult {
  const share = (s: Story, k: number): string => `${s.local[k]} of ${s.pages[k]}`;
  const percent = (s: Story): number =>
    Math.round((100 * s.local.reduce((a, b) => a + b, 0)) / s.pages.reduce((a, b) => a + b, 0));
  return {
    title: 'Four nodes, four devices: how much of what a device reads and writes is next to it',
    lines: [
      'Programs have filled all four nodes when the drivers are loaded. What programs have could be anywhere; what a device',
      'reads and writes a million times a second should be on the node that it is plugged in to.',
      `Linux takes the node as a wish: what is not free there comes from the next node. ${percent(mask)} % of the devices' pages are at home,`,
      `at a mean distance of ${mask.distance.toFixed(1)}, and ${mask.refused} buffers are refused.`,
      `A driver that says its rule finds or creates a pool near its device. ${own.moved} pages of programs move out of the way, to nodes`,
      `that have room, and ${percent(own)} % of the devices' pages are at home: distance ${own.distance.toFixed(1)}.`,
      "When a driver is unloaded its pool ends, and the frames are the zones' again.",
    ],
    table: {
      columns: ['pages at home', 'a mask and a wish', 'pools by rule'],
      rows: [
        ...DEVICES.map((d, k) => [`${d.name}, node ${d.node}, ${d.bits} bits`, share(mask, k), share(own, k)] as const),
        ['all devices', `${percent(mask)} %`, `${percent(own)} %`],
        ['mean distance (10: at home)', mask.distance.toFixed(1), own.distance.toFixed(1)],
        ['buffers refused', mask.refused, own.refused],
        ['price: pages of programs that moved', mask.moved, own.moved],
      ],
    },
    facts: {
      seed,
      ...factsOf('mask', mask),
      ...factsOf('pools', own),
    },
  };
}

const factsOf = (way: string, s: Story): Record<string, number> => ({
  [`${way}.local`]: s.local.reduce((a, b) => a + b, 0),
  [`${way}.pages`]: s.pages.reduce((a, b) => a + b, 0),
  [`${way}.distance`]: s.distance,
  [`${way}.refused`]: s.refused,
  [`${way}.moved`]: s.moved,
});
