// Evacuate: the recorded kernel took this block offline, so that nothing in it can have been in the way. What the replay's
// machine has there by chance is cleared: frames are given back, and the memmap of added memory moves elsewhere.
//
// Contents of a running kernel are not determined by the operations. Layout and counters are; those stay as they are.

import { assert } from '#base/assert';
import { type BlockId, type Pfn, toHolderId, toOrder } from '#base/units';
import { hugePageAt } from '#mm/hugetlb';
import type { Machine } from '#mm/index';
import { isMemmapSlot, replaceMemmapSlot, slotAt } from '#mm/memmap-frames';
import { allocationsIn } from '#mm/page-isolation';

/** Clears a block of everything but its own memmap. @returns false when something can neither move nor be given back */
export function evacuate(m: Machine, block: BlockId): boolean {
  const info = m.block(block);
  assert(info !== undefined, 'no such block', { block });
  const first = m.sections.indexOf(info.startPfn);
  const start = first + (m.blocks.vmemmapPages[m.blocks.rowOf(block)] as number);
  const end = first + m.blockPages;
  for (const a of [...allocationsIn(m, start, end)]) {
    if (a.cls === 'unplugged' || a.cls === 'poisoned') continue; // they stay in a block that goes
    if (hugePageAt(m, a.head) !== undefined) continue; // its pool's own: the offline dissolves or moves it
    const pfn = m.sections.pfnOf(a.head);
    const holder = m.holders.holderOf(m.sections.ownerAt(a.head));
    const slot = m.sections.ownerAt(a.head);
    const memmap = isMemmapSlot(m, slot);
    m.free(pfn);
    if (!memmap) continue;
    const to = outside(m, () => m.alloc(toHolderId(holder), toOrder(a.order)), start, end);
    if (to === undefined) return false;
    replaceMemmapSlot(m, slot, slotAt(m, to));
  }
  return true;
}

/** An allocation outside of [start, end): those inside are put aside until one is found. */
function outside(m: Machine, take: () => Pfn | -1, start: number, end: number): Pfn | undefined {
  const aside: Pfn[] = [];
  let found: Pfn | undefined;
  for (let pfn = take(); pfn >= 0; pfn = take()) {
    const index = m.sections.indexOf(pfn as Pfn);
    if (index < start || index >= end) {
      found = pfn as Pfn;
      break;
    }
    aside.push(pfn as Pfn);
  }
  for (const pfn of aside) m.free(pfn);
  return found;
}
