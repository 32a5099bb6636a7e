// What small pages in the direct map cost: a bound, and a counted run.
//
//   bound     split leaves / leaves in all x 4.5 %      mapping all of it by 4 KiB pages cost at most 4.5 % (spec 8.2, H3: the
//                                                       worst micro-benchmark of a kernel without large pages)
//   counted   the same accesses through a TLB, three times: mapped as it is, all by 2 MiB leaves, all by 4 KiB pages;
//             what the walks of the first cost more than those of the second, in parts of what the third costs more
//
//   TLB       1536 entries, 12 ways, either size in any of them, the least recently used goes     a second-level TLB of 2015
//   walk      3 loads to a leaf of 2 MiB, 4 to a page                                             four levels, nothing cached
//
// An access of the kernel is to any frame in use, with equal chance: it copies, clears and checks user memory by the direct
// map, too. Both figures are in millionths of run time; 45000 is all of memory mapped by small pages.

import { assert } from '#base/assert';
import type { Prng } from '#base/prng';
import { PAGEBLOCK_ORDER, PAGEBLOCKS_PER_SECTION } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { allocationsIn } from '../page-isolation.ts';
import { FREE_SLOT } from '../section.ts';
import { type KremapState, kremapOf } from './kremap-state.ts';

/** Overhead in millionths when all of memory is mapped by 4 KiB pages: the published bound. */
export const ALL_SMALL_PPM = 45_000;

const SETS = 128;
const WAYS = 12;
const LARGE_WALK = 3;
const SMALL_WALK = 4;

export type TlbCost = {
  /** Leaves of 2 MiB of the direct map, those of removed memory that live on included. */
  readonly leaves: number;
  readonly splitLeaves: number;
  /** Upper bound of the overhead, in millionths. */
  readonly boundPpm: number;
};

/** Cost O(sections + displaced pages). */
export function tlbCost(m: Machine, k: KremapState): TlbCost {
  let present = 0;
  for (let s = 0; s < m.sections.length; s++) if (m.sections.number[s] !== FREE_SLOT) present++;
  const leaves = present * PAGEBLOCKS_PER_SECTION + k.orphanLeaves();
  return {
    leaves,
    splitLeaves: k.map.splitLeaves,
    boundPpm: leaves === 0 ? 0 : Math.ceil((k.map.splitLeaves / leaves) * ALL_SMALL_PPM),
  };
}

export type TlbRun = {
  readonly accesses: number;
  /** Of these, those that found nothing in the TLB. */
  readonly walks: number;
  /** Loads of page table entries: as it is mapped, by large leaves only, by small pages only. */
  readonly loads: number;
  readonly loadsAllLarge: number;
  readonly loadsAllSmall: number;
  /** In millionths; 0 when small pages throughout would cost nothing either (all fits). */
  readonly overheadPpm: number;
};

/** A set-associative TLB: keys of pages and leaves, the most recently used first. */
class Tlb {
  readonly #keys = new Float64Array(SETS * WAYS).fill(-1);
  loads = 0;
  walks = 0;

  access(va: number, small: boolean): void {
    const leaf = Math.floor(va / 2 ** PAGEBLOCK_ORDER);
    const key = small ? 2 * va + 1 : 2 * leaf;
    const set = ((small ? va : leaf) % SETS) * WAYS;
    const keys = this.#keys;
    let way = 0;
    while (way < WAYS - 1 && keys[set + way] !== key) way++;
    if (keys[set + way] !== key) {
      this.walks++;
      this.loads += small ? SMALL_WALK : LARGE_WALK;
    }
    keys.copyWithin(set + 1, set, set + way);
    keys[set] = key;
  }
}

/** Counts the walks of random accesses of the kernel. Changes nothing. Cost O(allocations + accesses). */
export function tlbRun(m: Machine, accesses: number, rng: Prng): TlbRun {
  assert(accesses > 0, 'a run has accesses', { accesses });
  const k = kremapOf(m);
  const heads: number[] = [];
  const ends: number[] = [];
  let frames = 0;
  for (const a of allocationsIn(m, 0, m.sections.frames)) {
    heads.push(a.head);
    ends.push((frames += 1 << a.order));
  }
  const [asIs, large, small] = [new Tlb(), new Tlb(), new Tlb()];
  for (let n = 0; n < accesses && frames > 0; n++) {
    const at = rng.below(frames);
    const a = firstAbove(ends, at);
    const pfn: number = m.sections.pfnOf((heads[a] as number) + at - (a === 0 ? 0 : (ends[a - 1] as number)));
    const va = k?.translation.physToVirt(pfn) ?? pfn;
    if (va < 0) continue; // nobody reaches it by the direct map
    asIs.access(va, k?.map.isSplit(va) === true);
    large.access(va, false);
    small.access(va, true);
  }
  const most = small.loads - large.loads;
  const share = most <= 0 ? 0 : Math.max(0, asIs.loads - large.loads) / most;
  return {
    accesses,
    walks: asIs.walks,
    loads: asIs.loads,
    loadsAllLarge: large.loads,
    loadsAllSmall: small.loads,
    overheadPpm: Math.ceil(share * ALL_SMALL_PPM),
  };
}

/** Index of the first of ascending numbers that is larger. */
function firstAbove(ends: readonly number[], at: number): number {
  let low = 0;
  let high = ends.length - 1;
  while (low < high) {
    const mid = (low + high) >>> 1;
    if ((ends[mid] as number) > at) high = mid;
    else low = mid + 1;
  }
  return low;
}
