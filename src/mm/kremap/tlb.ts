// What small pages in the direct map cost: a bound, and a counted run.
//
//   bound    split leaves / leaves in all x 4.5 %     mapping everything by 4 KiB pages cost 4.5 % (published for kernels
//                                                     whose direct map was broken up; spec 8.2, H3)
//   counted  accesses of the kernel through a TLB of two sizes; each miss walks the tables: 3 loads to a 2 MiB leaf, 4 to a
//            4 KiB page
//
// The counted overhead is held against the same accesses on the same memory mapped by leaves of 2 MiB only, and scaled by the
// run in which all of it is mapped by 4 KiB pages, so that both figures have one unit.

import { PAGEBLOCKS_PER_SECTION } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { FREE_SLOT } from '../section.ts';
import type { KremapState } from './kremap-state.ts';

/** Overhead in millionths when all of memory is mapped by 4 KiB pages: the published bound. */
export const ALL_SMALL_PPM = 45_000;

export type TlbCost = {
  /** Leaves of 2 MiB of the direct map, those of removed memory that live on included. */
  readonly leaves: number;
  readonly splitLeaves: number;
  /** Upper bound of the overhead, in millionths. */
  readonly boundPpm: number;
};

/** Cost O(sections + leaf tables). */
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
