// Evictors: whoever can empty frames that ordinary migration cannot. An offline that is given some asks them.
//
//   stage of the offline    question to an evictor                              answer
//   check                   ready: make the block ready to be looked at         an undo, or a refusal
//   look, isolate           claims: is this allocation yours, and would it go?  nothing, 'yes', or a cause
//   notify                  prepare: will you, by the deadline?  (phase 1)      an undo, or a refusal without side effects
//   (listeners are asked after all evictors have prepared, and before anything moves)
//   migrate                 evict: now                           (phase 2)      'moved', or a cause
//   commit                  commit: it is final
//
//   remap     kernel pages move under constant virtual addresses    (9.C, kremap/)
//   drivers   fixed areas are given up or moved                      (9.E, fixed-areas/)
//   memmap    struct pages move                                      (9.D, memmap-move.ts)
//
// Without evictors an offline is Linux's: the baseline. Evictors are values without state of their own: what they remember
// is the machine's, so that a fork can be asked what would happen. The first that claims an allocation has it.
// Undos run while the pageblocks are still isolated, the last one first.
//
// Spec 9.C to 9.E; Hansen 2005, steps 2 and 3.

import type { Result } from '#base/result';
import type { BlockId } from '#base/units';
import type { Machine } from './machine.ts';
import { allocationsIn, BlockerList, blockerOf } from './page-isolation.ts';
import type { Blocker, BlockerCause, Refusal } from './refusal.ts';

/** [start, end) of the dense index: the frames that are to be emptied. */
export type EvictRange = { readonly start: number; readonly end: number };

/** One allocation in the way: head in the dense index, order, class, pinned. */
export type Occupant = ReturnType<typeof allocationsIn> extends Generator<infer U> ? U : never;

export type Undo = () => void;

export type Evictor = {
  readonly name: string;
  /** Would it go? Undefined: not its business. A cause: it is, and it would not. Reads only; cost O(1). */
  claims(m: Machine, a: Occupant): 'yes' | BlockerCause | undefined;
  /** Before the block's frames are looked at. `leavesWith`: blocks that leave together with it, or not at all. */
  ready?(m: Machine, block: BlockId, leavesWith: readonly BlockId[]): Result<Undo | undefined, Refusal>;
  /** The range is isolated. A refusal has had no side effect. */
  prepare?(m: Machine, range: EvictRange): Result<Undo | undefined, Refusal>;
  /**
   * The allocation leaves: afterwards its frames are free in their isolated pageblocks (others of the range may be, too).
   * Else a cause: 'pinned', 'writeback', 'no-target' and 'fault' are tried again, in bounded rounds; nothing has changed.
   */
  evict(m: Machine, a: Occupant, range: EvictRange): 'moved' | BlockerCause;
  /** The range has left its zone for good. Nothing can fail here. */
  commit?(m: Machine, range: EvictRange): void;
};

/** The first evictor that claims the allocation, and what it says. */
export function claimOf(
  m: Machine,
  evictors: readonly Evictor[],
  a: Occupant,
): { readonly evictor: Evictor; readonly claim: 'yes' | BlockerCause } | undefined {
  for (const evictor of evictors) {
    const claim = evictor.claims(m, a);
    if (claim !== undefined) return { evictor, claim };
  }
  return undefined;
}

/** What an isolation refuses (blockersIn), without the allocations that an evictor says it would take away. */
export function withoutEvicted(
  m: Machine,
  found: readonly Blocker[],
  evictors: readonly Evictor[],
): readonly Blocker[] {
  const left = new BlockerList();
  for (const b of found) {
    if (b.cause !== 'unmovable' && b.cause !== 'reserved') {
      left.add(b);
      continue;
    }
    const from = m.sections.indexOf(b.startPfn);
    for (const a of allocationsIn(m, from, from + b.endPfn - b.startPfn)) {
      const claim = claimOf(m, evictors, a)?.claim;
      if (claim !== 'yes') left.add(blockerOf(m, a.head, 1 << a.order, claim ?? b.cause));
    }
  }
  return left.items;
}
