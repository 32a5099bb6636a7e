// Memory that is backed in part: a balloon adds a whole block, and says which part of it may be used (spec 9.F6).
//
//   add_memory(range, usable)    │■■■■■■■■■■■■■■■■│□□□□□□□□□□□□□□│    ■ usable: struct pages may lie here, frames come online
//                                                                    □ PageOffline from birth: never read, never written
//   growUsable(part)             │■■■■■■■■■■■■■■■■■■■■■■■│□□□□□□□│    in use at once when its block is online, else with it
//
// What is not backed belongs to a holder of class `unplugged`: present, not managed, it stays where it is when its block
// goes offline. Its struct pages exist (they lie in a usable part, or elsewhere); the memory itself is nobody's to touch.
//
// Invariant: US2 no frame outside of the usable parts is ever handed out, written or moved to.
//
// After Hildenbrand's answer to the RFC of 2018: "It could work for them if they could know and communicate to add_memory()
// which part of a newly added memory block is definitely usable."

import { err, ok, type Result } from '#base/result';
import { toBlockId, toPfn } from '#base/units';
import type { Machine } from './machine.ts';
import { holderNamed } from './memmap-frames.ts';
import type { MemoryRange } from './memory-add.ts';
import { allocationsIn } from './page-isolation.ts';
import { type Refusal, refusal } from './refusal.ts';

const UNBACKED_HOLDER = 'not backed';

/** What of a range that has just appeared is not backed. */
export function placeUnbacked(m: Machine, range: MemoryRange, usable: readonly MemoryRange[] | undefined): void {
  if (usable === undefined) return;
  const holder = holderNamed(m, 'unplugged', UNBACKED_HOLDER);
  let at: number = range.start;
  for (const u of [...usable].sort((a, b) => a.start - b.start)) {
    const to = Math.min(u.start, range.end);
    if (to > at) m.place(holder, toPfn(at), toPfn(to));
    at = Math.max(at, u.end);
  }
  if (at < range.end) m.place(holder, toPfn(at), range.end);
}

/**
 * The host backs more: frames of [start, end) that were not backed are from now on. In blocks that are online they are free
 * at once, in others they come online with their block. What was backed before stays as it is.
 *
 * @returns frames that are backed now and were not; refused (ENOENT) where there is no memory. Cost O(allocations in it)
 */
export function growUsable(m: Machine, { start, end }: MemoryRange): Result<number, Refusal> {
  const holder = holderNamed(m, 'unplugged', UNBACKED_HOLDER);
  for (let pfn: number = start - (start % m.blockPages); pfn < end; pfn += m.blockPages) {
    if (m.blocks.rowOf(toBlockId(pfn / m.blockPages)) >= 0) continue;
    return err(refusal('no-such-memory', `there is no memory at frame ${pfn.toString(16)}`));
  }
  let grown = 0;
  for (let pfn: number = start; pfn < end; ) {
    const stop = Math.min(end, pfn - (pfn % m.blockPages) + m.blockPages);
    const first = m.sections.indexOf(toPfn(pfn));
    for (const a of [...allocationsIn(m, first, first + stop - pfn)]) {
      if (m.holders.holderOf(m.sections.ownerAt(a.head)) !== holder) continue;
      grown += giveOut(m, a, first, first + stop - pfn);
    }
    pfn = stop;
  }
  m.updateWatermarks();
  return ok(grown);
}

/** Of an allocation that is not backed, the part in [start, end) becomes free, or nobody's while it is offline. */
function giveOut(m: Machine, a: { readonly head: number; readonly order: number }, start: number, end: number): number {
  const from = Math.max(a.head, start);
  const to = Math.min(a.head + 2 ** a.order, end);
  const holder = m.unhold(a.head, a.order);
  m.sections.vacate(a.head, a.order);
  const keep = (x: number, y: number): void => {
    if (x < y) m.place(holder, m.sections.pfnOf(x), toPfn(m.sections.pfnOf(x) + y - x));
  };
  keep(a.head, from);
  keep(to, a.head + 2 ** a.order);
  const pool = m.poolAt(from);
  if (pool !== undefined) {
    pool.fill(from, to);
    pool.managed += to - from;
  }
  return to - from;
}
