// Embedded: one board, the same requests, two builds of one engine. What is saved, and what it costs.
//
//   board   32 MiB, one CPU ──┬── full build      a Machine: zones, per-CPU lists, grouping, holders
//                             └── embedded build  its free area alone
//
//   1  20 000 requests of a seed: who refuses how many, and what one request has to do
//   2  the reserve: memory is taken until no request is served, then an urgent caller comes
//   3  the price: kernel frames between those of programs; the programs end; how many 2 MiB blocks are whole again?
//
// What a request has to do is counted from outside: the frames that leave or enter the free lists until it is served (one
// that a per-CPU list has moves none). On a board so small Linux refills that list by one frame (spec 2.4). Both builds
// are chosen at boot (mm/boot-allocator.ts). Nanoseconds and the size of the program are for bench/embedded.mjs.
// After Snook 2007, problem 8.

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import { type Order, type Pfn, toOrder, toPfn } from '#base/units';
import { bootAllocator } from '#mm/boot-allocator';
import type { FrameAllocator } from '#mm/frame-allocator';
import { NR_MIGRATE_TYPES, NR_ORDERS, NR_PCP_TYPES, PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '#mm/geometry';
import type { DemoResult, PoolDemo } from './demo.ts';

const BOARD_PAGES = 8192; // 32 MiB
const RESERVE = 64;
const REQUESTS = 20_000;
const SPEC = { startPfn: toPfn(0), endPfn: toPfn(BOARD_PAGES), minFree: RESERVE, code: 'shared' } as const;
const FRAME = toOrder(0);

/** Orders of requests: mostly single frames, some buffers of up to 16. */
const ORDERS = [80, 8, 6, 4, 2].flatMap((weight, order) => new Array<Order>(weight).fill(toOrder(order)));

/** Of every eight frames of part 3, the kernel has one. */
const KERNEL_SHARE = 1 / 8;

export const embedded: PoolDemo = {
  name: 'embedded',
  problem:
    'If we do it right (and I think we can) we can eliminate the overhead of the scale-up code at compile time or ' +
    'dynamically at boot time.',
  run: ({ seed = 2007 }) => report(seed, onFull(seed), onEmbedded(seed)),
};

/** What one build did. */
type Figures = Work & {
  readonly tableBytes: number;
  /** After part 1: tables that are made when the first frame needs them included. */
  readonly tableBytesInUse: number;
  /** Lists that a free frame of the board can be on. */
  readonly lists: number;
  /** Frames that an urgent caller got when nobody else got one. */
  readonly urgent: number;
  /** 2 MiB blocks that are free after the programs ended. */
  readonly wholeBlocks: number;
  /** What the build says of a used frame; '' if it cannot. */
  readonly usedBy: string;
};

function onFull(seed: number): Figures {
  const a = bootAllocator({ build: 'full', ...SPEC });
  const tableBytes = a.bytes(); // at boot: no frame has a story yet
  const lists = NR_ORDERS * NR_MIGRATE_TYPES + NR_PCP_TYPES;
  const work = serve(a, seed);
  const tableBytesInUse = a.bytes();
  const urgent = exhaust(a);

  const b = bootAllocator({ build: 'full', ...SPEC });
  const { machine } = b;
  const kernel = machine.addHolder({ class: 'slab', name: 'kernel' });
  const program = machine.addHolder({ class: 'anonymous', name: 'program' });
  const taken = interleave(seed, (who) => machine.alloc(who === 'kernel' ? kernel : program, FRAME));
  const used = machine.frame(taken.kernel[0] as Pfn); // interleave gives the kernel its share
  for (const pfn of taken.program) machine.free(pfn);
  for (const pool of machine.pools) pool.alloc.drain();
  return {
    ...work,
    tableBytes,
    tableBytesInUse,
    lists,
    urgent,
    wholeBlocks: wholeBlocks(b),
    usedBy: used.state === 'used' ? used.name : '',
  };
}

function onEmbedded(seed: number): Figures {
  const a = bootAllocator({ build: 'embedded', ...SPEC });
  const tableBytes = a.bytes();
  const work = serve(a, seed);
  const tableBytesInUse = a.bytes();
  const urgent = exhaust(a);

  const b = bootAllocator({ build: 'embedded', ...SPEC });
  const taken = interleave(seed, () => b.alloc(FRAME));
  for (const pfn of taken.program) b.free(pfn, FRAME);
  return { ...work, tableBytes, tableBytesInUse, lists: NR_ORDERS, urgent, wholeBlocks: wholeBlocks(b), usedBy: '' };
}

type Work = {
  readonly refused: number;
  /** Frames that left or entered the free lists while one frame was taken or given back. */
  readonly moved: { readonly mean: number; readonly worst: number };
  /** Most frames that were free and on no free list: those on per-CPU lists. */
  readonly setAside: number;
};

/** Frames on the free lists. */
const listed = (a: FrameAllocator): number => a.freeByOrder().reduce((n, chunks, order) => n + chunks * 2 ** order, 0);

/** Part 1: use goes up and down between a quarter and all of the memory. */
function serve(a: FrameAllocator, seed: number): Work {
  const rng = new Prng(seed);
  const held: { readonly pfn: Pfn; readonly order: Order }[] = [];
  let refused = 0;
  let singles = 0;
  let moved = 0;
  let worst = 0;
  let setAside = 0;
  let growing = true;
  for (let k = 0; k < REQUESTS; k++) {
    const before = listed(a);
    let order = rng.pick(ORDERS);
    if (rng.chance(0.7) === growing || held.length === 0) {
      const pfn = a.alloc(order);
      if (pfn < 0) {
        refused++;
        growing = false;
        continue;
      }
      held.push({ pfn: toPfn(pfn), order });
    } else {
      const [one] = held.splice(rng.below(held.length), 1);
      order = one.order;
      a.free(one.pfn, order);
    }
    if (a.nrFree() > (3 * BOARD_PAGES) / 4) growing = true;
    setAside = Math.max(setAside, a.nrFree() - listed(a));
    if (order !== FRAME) continue;
    const now = Math.abs(before - listed(a));
    singles++;
    moved += now;
    worst = Math.max(worst, now);
  }
  for (const { pfn, order } of held) a.free(pfn, order);
  sound(a);
  return { refused, moved: { mean: moved / singles, worst }, setAside };
}

/** Part 2: everybody takes what there is. @returns frames that are left to an urgent caller */
function exhaust(a: FrameAllocator): number {
  while (a.alloc(FRAME) >= 0);
  let urgent = 0;
  while (a.allocUrgent(FRAME) >= 0) urgent++;
  sound(a);
  return urgent;
}

type Taken = { readonly kernel: readonly Pfn[]; readonly program: readonly Pfn[] };

/** Part 3: nine tenths of the board, the kernel's frames between those of programs. */
function interleave(seed: number, take: (who: keyof Taken) => Pfn | -1): Taken {
  const rng = new Prng(seed);
  const taken = { kernel: [] as Pfn[], program: [] as Pfn[] };
  for (let k = 0; k < 0.9 * BOARD_PAGES; k++) {
    const who = rng.chance(KERNEL_SHARE) ? 'kernel' : 'program';
    const pfn = take(who);
    assert(pfn >= 0, 'nine tenths fit', { k });
    taken[who].push(toPfn(pfn));
  }
  return taken;
}

function wholeBlocks(a: FrameAllocator): number {
  sound(a);
  const chunks = a.freeByOrder();
  return chunks.slice(PAGEBLOCK_ORDER).reduce((n, count, k) => n + count * 2 ** k, 0);
}

const sound = (a: FrameAllocator): void => {
  const wrong = a.check();
  assert(wrong.length === 0, 'the build is sound', { build: a.build, wrong });
};

function report(seed: number, full: Figures, small: Figures): DemoResult {
  const kib = (bytes: number): string => `${Math.round(bytes / 1024)} KiB`;
  const share = (bytes: number): string => `${((100 * bytes) / (BOARD_PAGES * PAGE_SIZE)).toFixed(2)} %`;
  const mib = (BOARD_PAGES * PAGE_SIZE) / 2 ** 20;
  const blocks = BOARD_PAGES / PAGEBLOCK_PAGES;
  return {
    title: `A board with ${mib} MiB and one CPU: the full engine, and the embedded build of it`,
    lines: [
      `A small computer boots twice: with the whole engine, and with the embedded build, which is the same allocator`,
      `without what large machines need. Both serve the same ${REQUESTS} requests and refuse ${full.refused} and ${small.refused} of them.`,
      `The full build's tables take ${share(full.tableBytesInUse)} of the memory, the embedded build's ${share(small.tableBytesInUse)}: it knows what is free, not whose the rest is.`,
      `The full build keeps up to ${full.setAside} free frames on a list of the CPU, which saves it work: per frame ${full.moved.mean.toFixed(2)} pass through`,
      `the free lists, but now and then ${full.moved.worst} at once. The embedded build has no such list: 1 for each, never more, and what is`,
      `free is in one place.`,
      `Both keep ${RESERVE} frames for callers that may not fail: when all others are refused, they get ${full.urgent} and ${small.urgent}.`,
      `The price: frames of the kernel cannot be moved, and only the full build keeps them together. When the programs end,`,
      `it has ${full.wholeBlocks} of ${blocks} blocks of 2 MiB whole, the embedded build ${small.wholeBlocks}.`,
    ],
    table: {
      columns: ['', 'full build', 'embedded build'],
      rows: [
        ['tables at boot', kib(full.tableBytes), kib(small.tableBytes)],
        ['tables in use', kib(full.tableBytesInUse), kib(small.tableBytesInUse)],
        ['tables in use, of the memory', share(full.tableBytesInUse), share(small.tableBytesInUse)],
        ['lists that a free frame can be on', full.lists, small.lists],
        ['requests refused', full.refused, small.refused],
        ['frames through the free lists for one, mean', full.moved.mean.toFixed(2), small.moved.mean.toFixed(2)],
        ['frames through the free lists for one, worst', full.moved.worst, small.moved.worst],
        ['free frames set aside for the CPU, at most', full.setAside, small.setAside],
        ['frames left to urgent callers', full.urgent, small.urgent],
        [`2 MiB blocks whole after programs end, of ${blocks}`, full.wholeBlocks, small.wholeBlocks],
        ['says of a used frame', full.usedBy, small.usedBy === '' ? 'nothing' : small.usedBy],
      ],
    },
    facts: {
      seed,
      boardBytes: BOARD_PAGES * PAGE_SIZE,
      requests: REQUESTS,
      reserve: RESERVE,
      ...factsOf('full', full),
      ...factsOf('embedded', small),
    },
  };
}

const factsOf = (build: string, f: Figures): Record<string, number | string> => ({
  [`${build}.tableBytes`]: f.tableBytes,
  [`${build}.tableBytesInUse`]: f.tableBytesInUse,
  [`${build}.lists`]: f.lists,
  [`${build}.refused`]: f.refused,
  [`${build}.movedMean`]: f.moved.mean,
  [`${build}.movedWorst`]: f.moved.worst,
  [`${build}.setAside`]: f.setAside,
  [`${build}.urgent`]: f.urgent,
  [`${build}.wholeBlocks`]: f.wholeBlocks,
  [`${build}.usedBy`]: f.usedBy,
});
