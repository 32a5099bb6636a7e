// Replication: a table that programs on four nodes read all day. One copy for all, or a copy near each.
//
//   0 ── 1     one copy     the page cache of the node that read it first: node 0
//   │    │     update       a copy on every node, taken as one set; a write goes to all of them
//   2 ── 3     collapse     a page that was read 8 times from afar gets its copies; a write leaves one
//
//   1  12 000 accesses of a seed from all nodes, some pages far more popular than others: no writes; one in a thousand; one in ten
//   2  node 2 is short of memory: its copies go, and nothing is read from storage for it
//   3  the readers move to node 3, and the pages after them: at first one frame is missing there
//
// Each write stamps its page with a number, and each read compares the stamp of the copy it gets with what was written last:
// a copy that is behind would stop the demonstration. Distances are those of a firmware's table: 10 is local.
// Copies are mm/pools/replica.ts. After Snook 2007, problem 5.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import type { Result } from '#base/result';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGE_SIZE } from '#mm/geometry';
import { Machine } from '#mm/machine';
import { checkReplicas, type ReplicaId, replicas } from '#mm/pools/replica';
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
const NODES = [0, 1, 2, 3];
const PAGES = 512;
const ACCESSES = 12_000;
const PATIENCE = 8;
const STAMP_BYTES = 4;
/** Writes in 1000 accesses. */
const RATES = [0, 1, 100] as const;

const WAYS = ['one', 'update', 'collapse'] as const;
type Way = (typeof WAYS)[number];

type Phase = {
  readonly reads: number;
  readonly farReads: number;
  readonly meanDistance: number;
  readonly writes: number;
  readonly copiesWritten: number;
  /** Pages copied from node to node. */
  readonly copied: number;
  /** Frames in use at the end. */
  readonly frames: number;
};

type Story = {
  readonly phases: readonly Phase[];
  readonly shed: number;
  readonly lost: number;
  readonly migration: {
    readonly refused: string;
    readonly movedThen: number;
    readonly moved: number;
    readonly far: number;
  };
};

export const replication: PoolDemo = {
  name: 'replication',
  problem:
    'Replicating pages across multiple nodes requires coordinated allocation on multiple nodes, something that is not ' +
    'at all straightforward with the current NUMA allocator. A similar strategy would make NUMA migration relatively ' +
    'straightforward, even without using swap.',
  run: ({ seed = 2007 }) => {
    const [one, update, collapse] = WAYS.map((way) => story(seed, way)) as [Story, Story, Story]; // one for each
    return report(seed, one, update, collapse);
  },
};

const must = <T>(r: Result<T, Refusal>): T => {
  assert(r.ok, 'the demonstration asks for what there is', { refusal: r.ok ? '' : r.error.message });
  return r.value;
};

const boot = (): Machine =>
  Machine.boot({
    ram: NODES.map((n) => ({
      start: toPfn(FIRST + n * NODE_PAGES),
      end: toPfn(FIRST + (n + 1) * NODE_PAGES),
      node: toNodeId(n),
    })),
    distance: DISTANCE,
    contents: 'bytes',
    code: 'shared',
  });

const sound = (m: Machine): void => {
  const wrong = [...m.check().map((v) => v.detail), ...checkReplicas(m)];
  assert(wrong.length === 0, 'the machine is sound', { wrong: wrong.join('; ') });
};

function object(m: Machine, way: Way): { id: ReplicaId; pages: readonly number[] } {
  const r = replicas(m);
  const id = must(
    r.create({
      name: 'table',
      on: NODES,
      onWrite: way === 'collapse' ? 'collapse' : 'update',
      ...(way === 'collapse' ? { replicateAfter: PATIENCE } : {}),
    }),
  );
  return { id, pages: must(r.add(id, PAGES, way === 'update' ? 'everywhere' : 'home')) };
}

function story(seed: number, way: Way): Story {
  const phases = RATES.map((perMille) => use(seed, way, perMille));
  const m = boot();
  const { id, pages } = object(m, way);
  const r = replicas(m);
  if (way === 'collapse') for (const page of pages) must(r.replicate(id, page));
  const shed = r.shed(id, 2);
  const lost = pages.filter((page) => r.copiesOf(id, page).length === 0).length;

  // The readers run on node 3 from now on, where one frame less is free than there are pages.
  for (const page of pages) must(r.collapse(id, page, 0));
  const others = fill(m, 3, PAGES - 1);
  const moves = pages.map((page) => ({ page, from: 0, to: 3 }));
  const first = r.migrate(id, moves);
  const movedThen = pages.filter((page) => r.copiesOf(id, page)[0]?.node === 3).length;
  if (!first.ok) m.free(others[0] as Pfn); // it took frames
  const moved = first.ok ? first.value : must(r.migrate(id, moves));
  const far = pages.filter((page) => must(r.read(id, page, 3)).node !== 3).length;
  sound(m);
  return { phases, shed, lost, migration: { refused: first.ok ? '' : first.error.message, movedThen, moved, far } };
}

/** Takes a node's frames, but so many that a request may still have. */
function fill(m: Machine, node: number, left: number): Pfn[] {
  const holder: HolderId = m.addHolder({ class: 'anonymous', name: 'others', node: toNodeId(node) });
  const out: Pfn[] = [];
  for (;;) {
    const pfn = m.alloc(holder, toOrder(0), { node: toNodeId(node), thisNode: true });
    if (pfn === -1) break;
    out.push(pfn);
  }
  for (let k = 0; k < left; k++) m.free(out.pop() as Pfn); // a node has more frames than the pages need
  return out;
}

/** Accesses from all nodes. */
function use(seed: number, way: Way, perMille: number): Phase {
  const m = boot();
  const { id, pages } = object(m, way);
  const r = replicas(m);
  const rng = new Prng(seed);
  const stamps = new Uint32Array(PAGES);
  let distance = 0;
  for (let k = 1; k <= ACCESSES; k++) {
    // The square of a chance: the first tenth of the pages gets a third of the accesses.
    const which = Math.floor(PAGES * (rng.below(65536) / 65536) ** 2);
    const page = pages[which] as number;
    const node = rng.pick(NODES);
    if (rng.below(1000) < perMille) {
      const stamp = new Uint8Array(Uint32Array.of(k).buffer);
      must(r.write(id, page, node, 0, stamp));
      stamps[which] = k;
      continue;
    }
    const copy = must(r.read(id, page, node));
    distance += copy.distance;
    const [seen] = new Uint32Array(m.read(copy.pfn).slice(0, STAMP_BYTES).buffer);
    assert(seen === stamps[which], 'a copy is behind', { page, node, seen, written: stamps[which] });
  }
  const { reads, farReads, writes, copiesWritten, copied, copies } = r.stat(id);
  sound(m);
  const filled = way === 'update' ? PAGES * (NODES.length - 1) : 0; // copies of what was read from storage once
  return {
    reads,
    farReads,
    meanDistance: distance / reads,
    writes,
    copiesWritten,
    copied: copied + filled,
    frames: copies,
  };
}

const kib = (frames: number): string => `${(frames * PAGE_SIZE) / 1024} KiB`;
const percent = (n: number, of: number): string => `${((100 * n) / of).toFixed(0)} %`;
const RATE_NAMES = ['no writes', '1 write in 1000', '1 write in 10'] as const;

function report(seed: number, one: Story, update: Story, collapse: Story): DemoResult {
  const all = [one, update, collapse];
  const row = (name: string, cell: (s: Story) => string | number): (string | number)[] => [name, ...all.map(cell)];
  const at = (s: Story, k: number): Phase => s.phases[k] as Phase;
  const perWrite = (p: Phase): string => (p.writes === 0 ? '-' : (p.copiesWritten / p.writes).toFixed(2));
  const [calm, often] = [at(collapse, 0), at(collapse, 2)];
  const { migration } = update;
  return {
    title: `${PAGES} pages of a table, read by programs on four nodes: one copy for all, or one near each`,
    lines: [
      `Programs on four nodes read the same table. The kernel keeps one copy, on node 0, where it was read first: so`,
      `${percent(at(one, 0).farReads, at(one, 0).reads)} of all reads go to another node. With a copy of every page on every node it is ${percent(at(update, 0).farReads, at(update, 0).reads)}, and the price is memory:`,
      `${kib(at(update, 0).frames)}, not ${kib(at(one, 0).frames)}.`,
      `All copies say the same at all times. So a write has a price too, and there are two ways to pay it: write all ${NODES.length} copies`,
      `(update), or give back all but the writer's own (collapse): others read it from afar until it has its copies again, which`,
      `it gets after ${PATIENCE} such reads. Without writes ${percent(calm.farReads, calm.reads)} of the reads are remote meanwhile, with one write in ten accesses it is ${percent(often.farReads, often.reads)}:`,
      `what is written often should not collapse, or not be replicated at all.`,
      `When node 2 runs short, its ${update.shed} copies are given back at once: none is the last one (${update.lost} pages lost), nothing is written to`,
      `swap or read from storage.`,
      `The readers move to node 3, and the pages follow: all of them or none. One frame is missing there at first, and ${migration.movedThen} pages move:`,
      `"${migration.refused}".`,
      `When the frame is there, ${migration.moved} do, without swap.`,
    ],
    table: {
      columns: ['', 'one copy', 'replicas, update', 'replicas, collapse'],
      rows: [
        ...RATE_NAMES.flatMap((rate, k) => [
          row(`${rate}: reads from another node`, (s) => percent(at(s, k).farReads, at(s, k).reads)),
          row(`${rate}: mean distance of a read (10: local)`, (s) => at(s, k).meanDistance.toFixed(2)),
        ]),
        ...[1, 2].map((k) => row(`price: ${RATE_NAMES[k]}: pages written for one write`, (s) => perWrite(at(s, k)))),
        ...RATE_NAMES.map((rate, k) => row(`price: ${rate}: pages copied from node to node`, (s) => at(s, k).copied)),
        ...RATE_NAMES.map((rate, k) => row(`price: ${rate}: memory at the end`, (s) => kib(at(s, k).frames))),
        row('node 2 is short: copies given back', (s) => s.shed),
        row('node 2 is short: pages lost', (s) => s.lost),
        row('to node 3, a frame is missing: pages moved', (s) => s.migration.movedThen),
        row('to node 3, with room: pages moved', (s) => s.migration.moved),
      ],
    },
    facts: {
      seed,
      pages: PAGES,
      accesses: ACCESSES,
      refusal: migration.refused,
      ...Object.assign({}, ...WAYS.map((way, k) => factsOf(way, all[k] as Story))),
    },
  };
}

const factsOf = (way: Way, s: Story): Record<string, number> => ({
  ...Object.fromEntries(
    s.phases.flatMap((p, k) =>
      Object.entries(p).map(([name, value]) => [`${way}.writes${RATES[k]}.${name}`, value] as const),
    ),
  ),
  [`${way}.shed`]: s.shed,
  [`${way}.lost`]: s.lost,
  [`${way}.movedThen`]: s.migration.movedThen,
  [`${way}.moved`]: s.migration.moved,
  [`${way}.farAfterwards`]: s.migration.far,
});
