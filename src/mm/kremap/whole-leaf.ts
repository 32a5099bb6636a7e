// Whole leaves: all kernel pages of a 2 MiB leaf go to the same offsets of a free, aligned 2 MiB, and the leaf stays one.
//
//   leaf v         │ a │   │ b b │ user │   │ c │        d = base - v
//   frames base    │ a │   │ b b │      │   │ c │        free ones stay free: their own addresses lead to them
//
// No page table, no cost for the TLB; but 2 MiB must be free in one piece, and each page of class K in the leaf must be able
// to move now. A leaf that is split or moved already is not asked again. Other classes have no address here that matters:
// they move one by one. Spec 9.C, policy `whole-leaf`.

import { toPfn } from '#base/units';
import type { Undo } from '../evictor.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../geometry.ts';
import { allocationsIn } from '../page-isolation.ts';
import type { KremapState } from './kremap-state.ts';
import { type MoveFailure, movePages, type Part, type Place, partAt } from './protocol.ts';
import { findWhole, giveBack, makeUnmovable, takeExactly } from './target.ts';

/**
 * Moves the leaf around the address of `part` as a whole.
 *
 * @param list  pools to go to, in order
 * @returns 'moved', with all of its pages; else nothing has changed, and the page may still move by itself
 */
export function moveWholeLeaf(k: KremapState, part: Part, list: Int32Array): 'moved' | MoveFailure {
  const { m } = k;
  const va = part.va - (part.va % PAGEBLOCK_PAGES);
  const first = m.sections.indexOf(toPfn(va));
  if (part.kernel !== 'K' || first < 0 || k.translation.displacedInLeaf(va) > 0) return 'no-target';
  const parts: Part[] = [];
  for (const a of allocationsIn(m, first, first + PAGEBLOCK_PAGES)) {
    const other = partAt(k, a.head);
    if (other?.kernel !== 'K') continue;
    if (other.va < va || a.order > PAGEBLOCK_ORDER || other.va !== m.sections.pfnOf(a.head)) return 'no-target';
    parts.push(other);
  }
  const base = findWhole(m, list);
  if (base < 0 || parts.length === 0) return 'no-target';
  const at: Place = (all) => {
    const undo: Undo[] = [];
    for (const p of all) {
      p.to = base + (p.head - first);
      if (!takeExactly(m, p.to, p.order)) {
        for (const back of undo.reverse()) back();
        return undefined;
      }
      undo.push(() => giveBack(m, p.to, p.order));
    }
    makeUnmovable(m, base);
    return () => {
      for (const back of undo.reverse()) back();
    };
  };
  return movePages(k, parts, at, { faults: 'ask', whole: (m.sections.pfnOf(base) as number) - va });
}
