// Struct pages leave a block that goes offline: the evictor of movable memmap (evictor.ts, spec 9.D).
//
//   what lies in the block                                   when        how
//   leaves of others, in its head or in its zone as a host   ready       each section moves to a kernel zone: D2
//   a leaf, or a single frame of one, in its zone            migrate     the same; a single frame stays one
//   a table of the memmap                                    migrate     its parent's entry is rewritten
//   boot's memmap, in whole leaves of 2 MiB                  migrate     the same as a leaf; not managed, as it was
//
// Struct pages of which no table says what they describe (a twin's) move all the same: the page table that maps them knows.
// Boot's memmap in smaller pieces shares its leaf with something else: it is not claimed, and stays what Linux calls it.
// The block's own head is not in the range that is emptied, and leaves with the block.
//
// A value without state: what moves leave behind is the machine's (memmap-move.ts).

import { err, ok } from '#base/result';
import { type BlockId, type NodeId, toOrder } from '#base/units';
import type { Evictor, EvictRange, Occupant } from './evictor.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { HolderSpec } from './holder.ts';
import { kernelClassOf } from './kernel-class.ts';
import type { Machine } from './machine.ts';
import { holderNamed, setLeaf, slotAt, TABLES_HOLDER } from './memmap-frames.ts';
import { type LeafOutcome, moveLeaf, moveMemmapFrames, sectionOfSlot, takeKernelPlace } from './memmap-move.ts';
import { blockOf, guestLeaves, type LeafAt, leafOf, settleHosts } from './memmap-where.ts';
import { BLOCK_OFFLINE } from './memory-block.ts';
import { blockerOf } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { type Blocker, refusal } from './refusal.ts';

export type MemmapEvictorOptions = {
  /** Whose struct pages a host's head gives up: of blocks that are online (what D2 asks), or of all. Default 'online'. */
  readonly guests?: 'online' | 'all';
  /** How often a move that hardware broke off is tried; default 3. */
  readonly tries?: number;
};

/** See the top of this file. `ready` refuses with hosts (EBUSY) when a guest in use does not leave. */
export function memmapEvictor(options: MemmapEvictorOptions = {}): Evictor {
  const tries = options.tries ?? 3;
  return {
    name: 'memmap',
    claims: (m, a) => (isMemmap(m, a) ? 'yes' : undefined),
    ready: (m, block, leavesWith) => {
      const stays = (guest: BlockId, online: boolean): boolean =>
        !leavesWith.includes(guest) && (online || options.guests === 'all');
      const left = evictGuests(m, block, stays, tries);
      if (left.length === 0) return ok(undefined);
      const [first] = left;
      const message = `block ${block} hosts struct pages of others, ${left.length} leaves do not leave (${first?.cause})`;
      return err(refusal('hosts', message, left));
    },
    evict,
  };
}

const specOf = (m: Machine, a: Occupant): HolderSpec =>
  m.holders.specs[m.holders.holderOf(m.sections.ownerAt(a.head))] as HolderSpec; // an allocation has a holder

function isMemmap(m: Machine, a: Occupant): boolean {
  if (a.cls === 'memmap') return true;
  if (a.cls === 'reserved') return a.order >= PAGEBLOCK_ORDER && kernelClassOf(specOf(m, a)) === 'M';
  return a.cls === 'pagetable' && specOf(m, a).name === TABLES_HOLDER;
}

/** Moves the leaves of guests out of a host. @returns those that stay though they should not, with the cause */
function evictGuests(
  m: Machine,
  block: BlockId,
  stays: (guest: BlockId, online: boolean) => boolean,
  tries: number,
): Blocker[] {
  const left: Blocker[] = [];
  for (const at of [...guestLeaves(m, block)]) {
    const guest = blockOf(m, at.section * PAGES_PER_SECTION);
    const row = m.blocks.rowOf(guest);
    const inUse = m.blocks.state[row] !== BLOCK_OFFLINE;
    if (!stays(guest, inUse)) continue;
    const node = m.blocks.node[row] as NodeId;
    const away = (): LeafOutcome =>
      moveLeaf(m, at, () => takeKernelPlace(m, node, PAGEBLOCK_ORDER, (pfn) => blockOf(m, pfn) === block));
    let outcome = away();
    for (let k = 1; k < tries && outcome === 'fault'; k++) outcome = away();
    if (outcome === 'moved' || !inUse) continue;
    left.push(blockerOf(m, m.holders.frameAt(at.leaf.slots[0] as number), PAGEBLOCK_PAGES, outcome));
  }
  settleHosts(m);
  m.updateWatermarks();
  return left;
}

function evict(m: Machine, a: Occupant, range: EvictRange): LeafOutcome {
  const slot = m.sections.ownerAt(a.head);
  const section = a.cls === 'memmap' ? sectionOfSlot(m, slot) : -1;
  const { node } = m.poolAt(a.head) as Pool; // what is to be evicted is online
  const at = section < 0 || a.order > 0 ? undefined : leafOf(m, section);
  if (at !== undefined && at.leaf.table < 0 && !giveTable(m, at, node)) return 'no-target';
  const start = m.sections.pfnOf(range.start);
  const end = start + range.end - range.start;
  const reserve = () => takeKernelPlace(m, node, a.order, (pfn) => start <= pfn && pfn < end);
  const unmanaged = a.cls === 'reserved';
  const outcome = moveMemmapFrames(m, a.head, a.order, { section, unmanaged, reserve });
  if (outcome === 'moved' && section >= 0) settleHosts(m);
  return outcome;
}

/** Single frames that one entry maps are about to part: a table of their own. @returns false when there is no frame for it */
function giveTable(m: Machine, { section, leaf }: LeafAt, node: NodeId): boolean {
  const pfn = m.alloc(holderNamed(m, 'pagetable', TABLES_HOLDER), toOrder(0), { node });
  if (pfn < 0) return false;
  setLeaf(m, section, { slots: leaf.slots, table: slotAt(m, pfn) });
  return true;
}
