// Heads: the first frames of a block, which hold struct pages and leave with it; how leaves come to them and leave them.
//
//   block  │ leaf │ vacant │ leaf │ . . . zone, or nothing while it is offline . . . │
//          0                      vmemmapPages ──> one more leaf comes: the next pageblock is emptied and joins the head
//                                 <── the last leaf left: the pageblock becomes the zone's, and vacancies before it too
//
//   the block is    a pageblock that joins                       one that is given back
//   online          emptied, unmanaged, Unmovable                free in the zone, managed, Movable
//   offline         nobody's                                     nobody's
//
// (The heads of a `self-range` add are managed while they are its head, as its review asked: nothing changes there.) A leaf
// that leaves the middle of a head leaves a vacancy: given back when the head ends before it, or taken by the next that
// comes. So a head is always one run, and an offline's range begins right behind it.
//
// Invariants: D4 managed counts no pageblock of a head (self-range excepted); the last pageblock of a head is not vacant.
//
// Follows Linux v6.12 mm/memory_hotplug.c: mhp_init_memmap_on_memory(), mhp_deinit_memmap_on_memory() (spec 4.4, 9.D).

import { type BlockId, toPfn } from '#base/units';
import { allocContigRange } from './contig-alloc.ts';
import { takeFreeFrames } from './free-frames.ts';
import {
  MIGRATE_CMA,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  MIGRATE_UNMOVABLE,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from './geometry.ts';
import { holdDisplaced } from './kremap/home.ts';
import { kremapOf } from './kremap/kremap-state.ts';
import type { Machine } from './machine.ts';
import { holderNamed } from './memmap-frames.ts';
import { blockOf, VACANT_HOLDER } from './memmap-where.ts';
import { BLOCK_GOING_OFFLINE, BLOCK_OFFLINE } from './memory-block.ts';
import { headManaged } from './memory-online.ts';
import { ZONE_NORMAL } from './page-class.ts';
import { allocationsIn } from './page-isolation.ts';
import type { Pool } from './pool.ts';

/** 512 neighbouring, aligned frames in nobody's hands, for a leaf to come to. One of the two is called, once. */
export type LeafPlace = {
  /** The first of them, in the dense index. */
  readonly index: number;
  /** The leaf is there. Cannot fail. */
  readonly commit: () => void;
  /** It did not come: all is as it was before the place was taken. */
  readonly giveBack: () => void;
};

/** Would the zone still have its min, and what it keeps for those who need it more, if it gave a pageblock away? */
export const spares = (pool: Pool): boolean =>
  (pool.nrFree[0] as number) - PAGEBLOCK_PAGES > (pool.marks[4 + Math.max(pool.zone, ZONE_NORMAL)] as number);

/** Takes a pageblock of a zone that is free throughout, or whose contents can move. Leaves it in nobody's hands. */
export function takePageblock(m: Machine, index: number, how: 'free' | 'empty'): LeafPlace | undefined {
  const pool = m.poolAt(index);
  if (pool === undefined || pool.kind !== 'zone' || !spares(pool)) return undefined;
  const at = index - pool.base;
  const type = pool.alloc.area.typeOf(at);
  if (type === MIGRATE_CMA || type === MIGRATE_ISOLATE) return undefined;
  if (pool.alloc.area.freeIn(at, at + PAGEBLOCK_PAGES) === PAGEBLOCK_PAGES) {
    takeFreeFrames(pool, index, index + PAGEBLOCK_PAGES);
  } else {
    if (how === 'free') return undefined;
    const holder = holderNamed(m, 'memmap', VACANT_HOLDER);
    const start = m.sections.pfnOf(index);
    if (!allocContigRange(m, start, toPfn(start + PAGEBLOCK_PAGES), { holder }).ok) return undefined;
    disown(m, index);
  }
  return {
    index,
    commit: () => pool.alloc.setPageblockType(at, MIGRATE_UNMOVABLE),
    giveBack: () => pool.alloc.freeToArea(at, PAGEBLOCK_ORDER),
  };
}

/** What is in the pageblock at `index` belongs to nobody afterwards. */
function disown(m: Machine, index: number): void {
  for (const a of [...allocationsIn(m, index, index + PAGEBLOCK_PAGES)]) {
    m.unhold(a.head, a.order);
    m.sections.vacate(a.head, a.order);
  }
}

const isVacant = (m: Machine, index: number): boolean => {
  const slot = m.sections.ownerAt(index);
  return slot >= 0 && m.holders.specs[m.holders.holderOf(slot)]?.name === VACANT_HOLDER;
};

/** A place in a block's head: a vacancy, else the head grows. Undefined when it cannot, or the block is going offline. */
export function takeHeadPlace(m: Machine, block: BlockId): LeafPlace | undefined {
  const row = m.blocks.rowOf(block);
  if (row < 0 || m.blocks.state[row] === BLOCK_GOING_OFFLINE || m.blocks.absent[row] !== 0) return undefined;
  const start = block * m.blockPages;
  const first = m.sections.indexOf(toPfn(start));
  const end = first + (m.blocks.vmemmapPages[row] as number);
  for (let index = first; index < end; index += PAGEBLOCK_PAGES) {
    if (!isVacant(m, index)) continue;
    disown(m, index);
    const giveBack = (): void => m.occupy(holderNamed(m, 'memmap', VACANT_HOLDER), index, PAGEBLOCK_ORDER);
    return { index, commit: () => undefined, giveBack };
  }
  if (end >= first + m.blockPages) return undefined;
  const grow = (): void => {
    m.blocks.vmemmapPages[row] = (m.blocks.vmemmapPages[row] as number) + PAGEBLOCK_PAGES;
  };
  if (m.blocks.state[row] === BLOCK_OFFLINE) {
    if (m.sections.nextKnown(end, end + PAGEBLOCK_PAGES) < end + PAGEBLOCK_PAGES) return undefined; // poisoned, not backed
    return { index: end, commit: grow, giveBack: () => undefined };
  }
  const place = takePageblock(m, end, 'empty');
  const pool = m.poolAt(end);
  if (place === undefined || pool === undefined) return undefined;
  return {
    index: end,
    commit: () => {
      place.commit();
      grow();
      if (!headManaged(m, start)) pool.managed -= PAGEBLOCK_PAGES;
    },
    giveBack: place.giveBack,
  };
}

/**
 * The leaf that lay in a head at `index` has gone: its place is vacant, and what is vacant at the end of the head is given
 * back. The block is not between two steps of an offline: it may have begun one, before its range was taken.
 */
export function leaveHead(m: Machine, index: number): void {
  m.occupy(holderNamed(m, 'memmap', VACANT_HOLDER), index, PAGEBLOCK_ORDER);
  const block = blockOf(m, m.sections.pfnOf(index));
  const row = m.blocks.rowOf(block);
  const first = m.sections.indexOf(toPfn(block * m.blockPages));
  for (let pages = m.blocks.vmemmapPages[row] as number; pages > 0; pages -= PAGEBLOCK_PAGES) {
    const last = first + pages - PAGEBLOCK_PAGES;
    if (!isVacant(m, last)) return;
    disown(m, last);
    m.blocks.vmemmapPages[row] = pages - PAGEBLOCK_PAGES;
    const pool = m.poolAt(last);
    if (pool === undefined) continue;
    if (!headManaged(m, block * m.blockPages)) pool.managed += PAGEBLOCK_PAGES;
    pool.alloc.setPageblockType(last - pool.base, MIGRATE_MOVABLE);
    pool.alloc.freeToArea(last - pool.base, PAGEBLOCK_ORDER);
    // Addresses of frames that were struct pages when their own pages came home are taken still (kremap/).
    const remapped = kremapOf(m);
    const start: number = m.sections.pfnOf(last);
    if (remapped !== undefined) holdDisplaced(remapped, start, start + PAGEBLOCK_PAGES);
  }
}
