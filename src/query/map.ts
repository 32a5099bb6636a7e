// map: what fills each pageblock, as letters, block by block: the picture of physical memory as data.
//
//   letter  fill                                     can it move?
//   .       free
//   a       memory of processes (anonymous, shared, huge pages)      yes
//   c       page cache                                               yes
//   K       kernel (slab, page tables, drivers)                      no
//   R       reserved at boot, or the memory map                      no
//   b       balloon, or not plugged                                  by its driver
//   ?       frames without flags: per-CPU lists, the kernel, or not initialised yet
//   x       poisoned
//   -       no RAM, or offline
//
// A pageblock shows what holds most of its used frames; free only when nothing is used. `stuck` marks those with at
// least one frame that cannot move: one such frame spoils the whole pageblock, whatever else is in it. `used` is the
// share in use. Cost O(runs of page flags).

import { forEachRun } from '#capture/page-runs';
import { PAGE_SIZE, PAGEBLOCK_PAGES } from '#mm/index';
import { classify, type FrameKind } from '#twin/classify';
import type { BlockVerdict, Twin, Verdict } from '#twin/index';
import { type SourceInfo, sourceInfo } from './source-info.ts';

export const FILLS = ['.', 'a', 'c', 'K', 'R', 'b', '?', 'x', '-'] as const;
export type Fill = (typeof FILLS)[number];

const FILL_OF: Readonly<Record<FrameKind, Fill>> = {
  hole: '-',
  free: '.',
  unflagged: '?',
  anonymous: 'a',
  file: 'c',
  shmem: 'a',
  hugetlb: 'a',
  balloon: 'b',
  slab: 'K',
  pagetable: 'K',
  driver: 'K',
  reserved: 'R',
  selfmemmap: 'R',
  poisoned: 'x',
  transient: 'a',
};

export type MapBlock = {
  readonly block: number;
  readonly startPhys: number;
  readonly node: number;
  /** "none" where the kernel names none or several. */
  readonly zone: string;
  readonly state: string;
  readonly verdict: Verdict | undefined;
  readonly errno: string | undefined;
  /** One letter a pageblock, ascending. */
  readonly fill: string;
  /** 1 where a frame cannot move, else 0; one digit a pageblock. */
  readonly stuck: string;
  /** Share of frames in use, 0 to 9 (9: more than nine tenths); one digit a pageblock. */
  readonly used: string;
};

export type MemoryMap = {
  readonly source: SourceInfo;
  readonly pageblocksPerBlock: number;
  readonly blocks: readonly MapBlock[];
  /** Frames by fill, over all blocks shown, in bytes. */
  readonly bytes: Readonly<Record<Fill, number>>;
  readonly stuckPageblocks: number;
};

/** @returns undefined for a twin without page flags: there is no picture of frames that nobody has seen. */
export function memoryMap(twin: Twin, verdicts: readonly BlockVerdict[]): MemoryMap | undefined {
  const flags = twin.capture.kpageflags;
  if (flags === undefined) return undefined;
  const kinds = Array.from(flags.lo, (lo, k) => FILLS.indexOf(FILL_OF[classify(lo, flags.hi[k] as number)]));
  const perBlock = twin.blockPages / PAGEBLOCK_PAGES;
  const bytes = Object.fromEntries(FILLS.map((f) => [f, 0])) as Record<Fill, number>;
  let stuckPageblocks = 0;
  const blocks = verdicts.map((v): MapBlock => {
    const counts = new Int32Array(perBlock * FILLS.length);
    forEachRun(flags, v.startPfn, v.endPfn, (start, end, word) => {
      const kind = kinds[word] as number;
      for (let pfn = start; pfn < end; ) {
        const cell = Math.floor((pfn - v.startPfn) / PAGEBLOCK_PAGES);
        const stop = Math.min(end, v.startPfn + (cell + 1) * PAGEBLOCK_PAGES);
        const at = cell * FILLS.length + kind;
        counts[at] = (counts[at] as number) + stop - pfn;
        pfn = stop;
      }
    });
    let fill = '';
    let stuck = '';
    let used = '';
    for (let cell = 0; cell < perBlock; cell++) {
      const of = counts.subarray(cell * FILLS.length, (cell + 1) * FILLS.length);
      FILLS.forEach((f, k) => {
        bytes[f] += (of[k] as number) * PAGE_SIZE;
      });
      const c = cellOf(of);
      fill += c.fill;
      stuck += c.stuck ? '1' : '0';
      used += String(Math.min(9, Math.floor((c.used * 10) / PAGEBLOCK_PAGES)));
      if (c.stuck) stuckPageblocks++;
    }
    return {
      block: v.block,
      startPhys: v.startPfn * PAGE_SIZE,
      node: v.nodes[0] ?? 0,
      zone: v.zones.length === 1 ? (v.zones[0] as string) : 'none',
      state: v.state,
      verdict: v.verdict,
      errno: v.errno,
      fill,
      stuck,
      used,
    };
  });
  return { source: sourceInfo(twin), pageblocksPerBlock: perBlock, blocks, bytes, stuckPageblocks };
}

const FREE = FILLS.indexOf('.');
const KERNEL = FILLS.indexOf('K');
const RESERVED = FILLS.indexOf('R');
const UNFLAGGED = FILLS.indexOf('?');
const ABSENT = FILLS.indexOf('-');

function cellOf(counts: Int32Array): { fill: Fill; stuck: boolean; used: number } {
  const stuck = (counts[KERNEL] as number) + (counts[RESERVED] as number) > 0;
  const free = counts[FREE] as number;
  const absent = counts[ABSENT] as number;
  const used = PAGEBLOCK_PAGES - free - absent;
  let best = absent > free && used === 0 ? ABSENT : FREE;
  let most = 0;
  for (let k = 0; k < FILLS.length; k++) {
    if (k === FREE || k === ABSENT || (counts[k] as number) <= most) continue;
    // A few frames on per-CPU lists do not make a free pageblock look unknown.
    if (k === UNFLAGGED && (counts[k] as number) < free) continue;
    best = k;
    most = counts[k] as number;
  }
  return { fill: FILLS[best] as Fill, stuck, used };
}
