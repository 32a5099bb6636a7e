// Movers of pages that their owner moves when asked: the balloon's driver, kernel objects with movable_ops.
//
// Only the owner knows when it is at a page just now: it says so by a pin. What lies in these pages is never split.

import { META_PINNED } from '../section.ts';
import type { Mover } from './mover.ts';

const isolate: Mover['isolate'] = (m, head) => ((m.sections.metaAt(head) & META_PINNED) !== 0 ? 'pinned' : undefined);

/**
 * The page is inflated elsewhere and deflated here: what the target pool hands out leaves managed there, what comes back
 * joins it here. Linux: balloon_page_migrate(), adjust_managed_page_count() on each side. May go in parts: its driver
 * counts single frames.
 */
export const BALLOON: Mover = {
  name: 'balloon',
  asks: META_PINNED,
  splits: true,
  isolate,
  transfer(m, from, to, order, source) {
    m.relocate(from, to, order);
    source.managed += 1 << order;
    const target = m.poolAt(to);
    if (target !== undefined) target.managed -= 1 << order; // a pool hands out only frames it owns: always one
  },
};

/** zsmalloc's pages, and whatever else has an owner who moves it: HolderSpec.moves, class movable-ops. */
export const MOVABLE_OPS: Mover = {
  name: 'movable-ops',
  asks: META_PINNED,
  splits: false,
  isolate,
  transfer: (m, from, to, order) => m.relocate(from, to, order),
};
