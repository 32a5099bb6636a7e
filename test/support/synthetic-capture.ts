// Synthetic captures: a machine's kernel files, written from a drawing of a few memory blocks.
//
//   syntheticCapture({
//     blocks: [{ id: 8, zone: 'DMA32' }, { id: 32, zone: 'Movable', node: 1 }, { id: 33, state: 'offline' }],
//     frames: [[pfnOf(8), 512, WORD.slab], [pfnOf(8, 4), 3, WORD.anon]],
//   })
//
// Frames that are not drawn are free where the block is online, NOPAGE elsewhere. zoneinfo, buddyinfo, pagetypeinfo,
// iomem and the block files follow from the drawing, so that a twin of it must agree with all of them: free chunks are
// what coalescing makes of the free spans, one type per pageblock ("Unmovable" where a kernel page lies in it).
// Options bend single files: `pcp` (frames on per-CPU lists), `managed` (fewer: deferred), `hide` (files left out).

import { assert } from '#base/assert';
import { type NodeId, toBlockId, toNodeId } from '#base/units';
import type { Capture } from '#capture/capture';
import { overlay, type PageRuns, RunBuilder, runsOf } from '#capture/page-runs';
import { printBuddyinfo } from '#kernfs/buddyinfo';
import { MEMORY_DIR, printBlockSizeBytes, printMemoryBlock } from '#kernfs/memory-blocks';
import { treeFromFiles } from '#kernfs/memory-tree';
import { type PagetypeBlocks, type PagetypeFree, printPagetypeinfo } from '#kernfs/pagetypeinfo';
import { printVmstat } from '#kernfs/vmstat';
import { printZoneinfo, type ZoneinfoZone } from '#kernfs/zoneinfo';
import { classify } from '../../src/twin/classify.ts';

export const BLOCK_PAGES = 32768;

/** First frame of a block, or of a pageblock of it. */
export const pfnOf = (block: number, pageblock = 0): number => block * BLOCK_PAGES + pageblock * 512;

/** Page words as the captures show them: [low half, high half]. */
export const WORD = {
  nothing: [0, 0],
  buddy: [0x400, 0],
  nopage: [0x100000, 0],
  /** On the LRU, mapped, written: uptodate, swapbacked. */
  anon: [0x5828, 0],
  /** The same after get_user_pages(): referenced. */
  pinned: [0x582c, 0],
  thpHead: [0x40d828, 0],
  thpTail: [0x411800, 0],
  /** Clean and unmapped: dropping caches frees it. */
  cache: [0x28, 0],
  mappedFile: [0x868, 0],
  shmem: [0x4028, 0],
  /** Page cache of a block device that looks held: referenced, active, private, not wholly up to date. */
  metadata: [0x64, 0x8],
  slab: [0x80, 0],
  pagetable: [0x4000000, 0],
  compoundHead: [0x8000, 0],
  compoundTail: [0x10000, 0],
  hugetlbHead: [0x28000, 0],
  hugetlbTail: [0x30000, 0],
  reserved: [0, 0x1],
  selfmemmap: [0, 0x20],
  selfmemmap61: [0, 0x21],
  balloon: [0x800000, 0],
  poisoned: [0x80000, 0],
} as const satisfies Record<string, readonly [number, number]>;

export type SyntheticBlock = {
  readonly id: number;
  readonly zone?: 'DMA' | 'DMA32' | 'Normal' | 'Movable';
  readonly node?: number;
  readonly state?: 'online' | 'offline' | 'going-offline';
  /** As valid_zones prints it; default the zone, or "Normal Movable" when offline. [] prints "none". */
  readonly validZones?: readonly string[];
};

export type SyntheticWorld = {
  readonly blocks: readonly SyntheticBlock[];
  /** Runs of frames: first pfn, how many, word; later ones win. */
  readonly frames?: readonly (readonly [pfn: number, frames: number, word: readonly [number, number]])[];
  /** Frames that are no RAM, [start, end). */
  readonly holes?: readonly (readonly [number, number])[];
  /** Per-CPU list lengths by "node zone", e.g. { '0 Normal': [600, 3] }. */
  readonly pcp?: Readonly<Record<string, readonly number[]>>;
  /** Frames by "node zone" that are present but not yet managed. */
  readonly deferred?: Readonly<Record<string, number>>;
  /** Watermark min by "node zone"; low and high are a quarter and a half above. Default 0. */
  readonly min?: Readonly<Record<string, number>>;
  /** Paths or page files to leave out. */
  readonly hide?: readonly string[];
  /** Replaces /proc/iomem. */
  readonly iomem?: string;
  readonly vmstat?: Readonly<Record<string, number>>;
  readonly blockPages?: number;
  readonly pagecgroup?: PageRuns;
  readonly cgroups?: ReadonlyMap<number, string>;
  /** Only the head of a free chunk carries BUDDY, as on kernels that flag no tails. */
  readonly headsOnly?: boolean;
};

const TYPES = ['Unmovable', 'Movable', 'Reclaimable', 'HighAtomic', 'Isolate'] as const;
const ZONES = ['DMA', 'DMA32', 'Normal', 'Movable'] as const;
const UNMANAGED = new Set(['reserved', 'balloon', 'selfmemmap', 'hole']);
const KERNEL = new Set(['slab', 'pagetable', 'driver', 'reserved', 'selfmemmap']);

export function syntheticCapture(world: SyntheticWorld): Capture {
  const blockPages = world.blockPages ?? BLOCK_PAGES;
  const blocks = [...world.blocks].sort((a, b) => a.id - b.id);
  const last = blocks.at(-1);
  assert(last !== undefined, 'a synthetic machine needs a block');
  let flags = runsOf([[...WORD.nopage, (last.id + 1) * blockPages]]);
  const paint = (pfn: number, frames: number, word: readonly [number, number]): void => {
    flags = overlay(flags, pfn, runsOf([[...word, frames]]));
  };
  for (const b of blocks) if (b.state !== 'offline') paint(b.id * blockPages, blockPages, WORD.buddy);
  for (const [pfn, frames, word] of world.frames ?? []) paint(pfn, frames, word);
  for (const [start, end] of world.holes ?? []) paint(start, end - start, WORD.nopage);

  const words = unpack(flags);
  const zones = [...new Set(blocks.filter((b) => b.state !== 'offline').map((b) => b.node ?? 0))]
    .sort((a, b) => a - b)
    .flatMap((node) => ZONES.map((zone) => zoneOf(world, blocks, words, node, zone, blockPages)));
  const files = new Map<string, string | undefined>([
    ['/proc/version', 'Linux version 6.1.0-synthetic (dimmer@test) (gcc) #1 SMP\n'],
    ['/proc/zoneinfo', printZoneinfo(zones.map((z) => z.info))],
    [
      '/proc/buddyinfo',
      printBuddyinfo(
        zones
          .filter((z) => z.info.present > 0)
          .map((z) => ({ node: z.info.node, zone: z.info.zone, nrFree: z.byOrder })),
      ),
    ],
    [
      '/proc/pagetypeinfo',
      printPagetypeinfo({
        pageblockOrder: 9,
        pagesPerBlock: 512,
        types: TYPES,
        free: zones.flatMap((z) => z.free),
        blocks: zones.flatMap((z) => z.blocks),
      }),
    ],
    ['/proc/iomem', world.iomem ?? iomemOf(blocks, world.holes ?? [], blockPages)],
    ['/proc/vmstat', printVmstat(new Map(Object.entries(world.vmstat ?? { nr_free_pages: 0 })))],
    [`${MEMORY_DIR}/block_size_bytes`, printBlockSizeBytes(blockPages * 4096)],
  ]);
  for (const b of blocks) {
    const offline = b.state === 'offline';
    const printed = printMemoryBlock({
      id: toBlockId(b.id),
      state: b.state ?? 'online',
      validZones: b.validZones ?? (offline ? ['Normal', 'Movable'] : [b.zone ?? 'Normal']),
      removable: true,
      physDevice: 0,
      nodes: [toNodeId(b.node ?? 0)],
    });
    for (const [name, text] of printed) files.set(`${MEMORY_DIR}/memory${b.id}/${name}`, text);
  }
  const hidden = new Set(world.hide ?? []);
  for (const path of hidden) files.delete(path);
  return {
    origin: { kind: 'directory', name: 'a synthetic machine' },
    tree: treeFromFiles(files),
    ...(hidden.has('/proc/kpageflags') ? {} : { kpageflags: world.headsOnly === true ? headsOnly(words) : flags }),
    ...(world.pagecgroup === undefined ? {} : { kpagecgroup: world.pagecgroup }),
    cgroups: world.cgroups ?? new Map(),
    problems: [],
  };
}

type Words = { readonly lo: Uint32Array; readonly hi: Uint32Array };

function unpack(runs: PageRuns): Words {
  const lo = new Uint32Array(runs.endPfn);
  const hi = new Uint32Array(runs.endPfn);
  for (let k = 0; k < runs.length; k++) {
    const end = k + 1 < runs.length ? runs.startPfn[k + 1] : runs.endPfn;
    lo.fill(runs.lo[runs.word[k]], runs.startPfn[k], end);
    hi.fill(runs.hi[runs.word[k]], runs.startPfn[k], end);
  }
  return { lo, hi };
}

/** Free chunks as [pfn, order]: the largest aligned pieces of each free span. */
function chunksIn({ lo }: Words, start: number, end: number): [number, number][] {
  const out: [number, number][] = [];
  const isFree = (pfn: number, pages: number): boolean => {
    for (let i = pfn; i < pfn + pages; i++) if ((lo[i] & WORD.buddy[0]) === 0) return false;
    return true;
  };
  for (let pfn = start; pfn < end; ) {
    if (!isFree(pfn, 1)) {
      pfn++;
      continue;
    }
    let order = 0;
    while (order < 10 && pfn % (2 << order) === 0 && pfn + (2 << order) <= end && isFree(pfn, 2 << order)) order++;
    out.push([pfn, order]);
    pfn += 1 << order;
  }
  return out;
}

function headsOnly(words: Words): PageRuns {
  const out = new RunBuilder();
  const heads = new Set(chunksIn(words, 0, words.lo.length).map(([pfn]) => pfn));
  for (let pfn = 0; pfn < words.lo.length; pfn++) {
    const tail = words.lo[pfn] === WORD.buddy[0] && !heads.has(pfn);
    out.pushRun(tail ? 0 : words.lo[pfn], words.hi[pfn], 1);
  }
  return out.finish();
}

type ZoneFiles = { info: ZoneinfoZone; byOrder: number[]; free: PagetypeFree[]; blocks: PagetypeBlocks[] };

function zoneOf(
  world: SyntheticWorld,
  blocks: readonly SyntheticBlock[],
  words: Words,
  nodeNumber: number,
  zone: (typeof ZONES)[number],
  blockPages: number,
): ZoneFiles {
  const node: NodeId = toNodeId(nodeNumber);
  const key = `${node} ${zone}`;
  const mine = blocks.filter((b) => b.state !== 'offline' && (b.zone ?? 'Normal') === zone && (b.node ?? 0) === node);
  const byOrder = new Array<number>(11).fill(0);
  const byType = TYPES.map(() => new Array<number>(11).fill(0));
  const counts = TYPES.map(() => 0);
  let present = 0;
  let unmanaged = world.deferred?.[key] ?? 0;
  let free = 0;
  for (const b of mine) {
    const start = b.id * blockPages;
    const typeAt = (pfn: number): number => {
      const first = pfn - (pfn % 512);
      for (let i = first; i < first + 512; i++) if (KERNEL.has(classify(words.lo[i], words.hi[i]))) return 0;
      return 1;
    };
    for (let pfn = start; pfn < start + blockPages; pfn += 512) counts[typeAt(pfn)]++;
    for (let pfn = start; pfn < start + blockPages; pfn++) {
      const kind = classify(words.lo[pfn], words.hi[pfn]);
      if (kind !== 'hole') present++;
      if (kind !== 'hole' && UNMANAGED.has(kind)) unmanaged++;
    }
    for (const [pfn, order] of chunksIn(words, start, start + blockPages)) {
      byOrder[order]++;
      byType[typeAt(pfn)][order]++;
      free += 1 << order;
    }
  }
  const populated = present > 0;
  const min = world.min?.[key] ?? 0;
  const first = mine[0];
  const end = mine.at(-1);
  const firstOfNode = ZONES.find((z) =>
    blocks.some((b) => b.state !== 'offline' && (b.zone ?? 'Normal') === z && (b.node ?? 0) === node),
  );
  const info: ZoneinfoZone = {
    node,
    zone,
    ...(populated && zone === firstOfNode ? { perNodeStats: [['nr_inactive_anon', 0]] } : {}),
    free,
    boost: 0,
    min,
    low: Math.floor((min * 5) / 4),
    high: Math.floor((min * 3) / 2),
    spanned: first === undefined || end === undefined ? 0 : (end.id + 1 - first.id) * blockPages,
    present,
    managed: present - unmanaged,
    cma: 0,
    protection: [0, 0, 0, 0],
    stats: populated ? [['nr_free_pages', free]] : [],
    pagesets: populated
      ? listsOf(world, key).map((count, cpu) => ({ cpu, count, high: 1000, batch: 63, statThreshold: 10 }))
      : [],
    ...(populated && first !== undefined ? { nodeUnreclaimable: 0, startPfn: first.id * blockPages } : {}),
  };
  return {
    info,
    byOrder,
    free: populated
      ? TYPES.map((type, t) => ({ node, zone, type, nrFree: byType[t], capped: byType[t].map(() => false) }))
      : [],
    blocks: populated ? [{ node, zone, counts }] : [],
  };
}

/** Every zone has as many lists as the longest that was given: the kernel prints one for each CPU. */
function listsOf(world: SyntheticWorld, key: string): number[] {
  const cpus = Math.max(1, ...Object.values(world.pcp ?? {}).map((counts) => counts.length));
  return Array.from({ length: cpus }, (_, cpu) => world.pcp?.[key]?.[cpu] ?? 0);
}

function iomemOf(
  blocks: readonly SyntheticBlock[],
  holes: readonly (readonly [number, number])[],
  blockPages: number,
): string {
  let text = '';
  const hex = (n: number): string => n.toString(16).padStart(8, '0');
  const line = (start: number, end: number): void => {
    if (end > start) text += `${hex(start * 4096)}-${hex(end * 4096 - 1)} : System RAM\n`;
  };
  for (const b of blocks) {
    let at = b.id * blockPages;
    const end = at + blockPages;
    for (const [from, to] of holes) {
      if (to <= at || from >= end) continue;
      line(at, from);
      at = Math.min(end, to);
    }
    line(at, end);
  }
  return text;
}
