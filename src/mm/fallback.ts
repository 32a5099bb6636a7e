// Fallback: which other type's list a request raids when its own lists are empty. It decides; the free area executes.
//
//   claim   a big or mostly suitable pageblock changes its type to the request's; later requests stay inside it
//   steal   one page is taken where it lies; its pageblock keeps its type (this is what mixes pageblocks)
//
//   want         raid in this order          own lists empty
//   Unmovable    Reclaimable, Movable              |
//   Movable      Reclaimable, Unmovable      claim pass: c = 10 down to max(order, 9 if no-fragment)
//   Reclaimable  Unmovable, Movable                | not permitted, or nothing suits
//   others       nothing                     steal pass: c = order up to 10 (not if no-fragment)
//
// Invariants: CMA, HighAtomic and Isolate are never raided. A claim pass looks at no more than one page an order: the
// first of the first type that has one. Claims of less than a pageblock need half of it to be free or alike.
// Follows spec 2.3 (Linux v6.12.y-stable and >= 6.15, mm/page_alloc.c: fallbacks[], __rmqueue_claim(),
// try_to_claim_block(), __rmqueue_steal()).

import type { FreeArea } from './free-area.ts';
import {
  MAX_ORDER,
  MIGRATE_MOVABLE,
  MIGRATE_RECLAIMABLE,
  MIGRATE_UNMOVABLE,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from './geometry.ts';

/** Linux v6.12 mm/page_alloc.c: fallbacks[]. Types without a row have no fallback. */
export const FALLBACKS: readonly (readonly number[])[] = [
  [MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE],
  [MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE],
  [MIGRATE_UNMOVABLE, MIGRATE_MOVABLE],
];

/** Below this order a Movable request does not claim: it would scatter, and the page is movable anyway. */
const CLAIM_ORDER_MIN = PAGEBLOCK_ORDER >> 1; // 4
const HALF_PAGEBLOCK = PAGEBLOCK_PAGES >> 1; // 256

export type FallbackPolicy = {
  /**
   * Used pages that look movable (on the LRU, or with movable operations) in the pageblock at `start`, 0..512 - free.
   * Left out: used pages are taken to be of their pageblock's type: all of a Movable pageblock's, none of others'.
   */
  readonly movableIn?: ((start: number) => number) | undefined;
  /** False for a pageblock that reaches out of the pool: it cannot be claimed. Left out: none does. */
  readonly spans?: ((start: number) => boolean) | undefined;
  /** Before each try to claim less than a pageblock: the moment at which Linux boosts the watermark (spec 2.6). */
  readonly onClaimTry?: ((start: number) => void) | undefined;
  /** False where memory is too small for grouping (spec 2.2): then every claim is permitted. Default true. */
  readonly grouping?: boolean | undefined;
};

/** A decision, in a record that the caller owns and reuses: the allocator makes no object per request. */
export type FallbackDecision = {
  action: 'none' | 'claim' | 'steal';
  /** The raided type, and the order of its page. */
  from: number;
  fallbackOrder: number;
  /** First frame of that page. */
  index: number;
};

export const noDecision = (): FallbackDecision => ({ action: 'none', from: -1, fallbackOrder: -1, index: -1 });

/** Spec 2.3: may a request of type mt claim the pageblock of a page of order c? Falls with c: once false, always. */
export const claimPermitted = (c: number, mt: number, grouping: boolean): boolean =>
  c >= CLAIM_ORDER_MIN || mt === MIGRATE_UNMOVABLE || mt === MIGRATE_RECLAIMABLE || !grouping;

/**
 * The rule of half: free pages and pages alike to the request are at least half of the pageblock.
 *
 * @param free     free pages of the pageblock
 * @param movable  its used pages that look movable
 * @param from     its type
 */
export function worthClaiming(pageblock: { free: number; movable: number; from: number }, mt: number): boolean {
  const { free, movable, from } = pageblock;
  let alike = 0;
  if (mt === MIGRATE_MOVABLE) alike = movable;
  else if (from === MIGRATE_MOVABLE) alike = PAGEBLOCK_PAGES - (free + movable);
  return free + alike >= HALF_PAGEBLOCK;
}

/**
 * Decides for a request (order, mt) whose own lists are empty. Changes nothing but `out`.
 *
 * To execute a claim: setPageblockType of the pageblock at out.index (of both, for a chunk of order 10), then alloc of
 * the request's own type. To execute a steal: alloc of type out.from. Cost: O(orders), and one look through a pageblock
 * for each order from 8 down that is tried.
 */
export function decideFallback(
  area: FreeArea,
  request: { order: number; mt: number; noFragment: boolean },
  policy: FallbackPolicy,
  out: FallbackDecision,
): void {
  const { order, mt, noFragment } = request;
  out.action = 'none';
  const raid = FALLBACKS[mt];
  if (raid === undefined) return;
  const grouping = policy.grouping !== false;
  const near = raid[0] as number; // both exist: every row of the table has two entries
  const far = raid[1] as number;
  const nearOrders = area.orders(near);
  const farOrders = area.orders(far);

  const lowest = noFragment ? Math.max(order, PAGEBLOCK_ORDER) : order;
  for (let c = MAX_ORDER; c >= lowest && claimPermitted(c, mt, grouping); c--) {
    const bit = 1 << c;
    const from = (nearOrders & bit) !== 0 ? near : (farOrders & bit) !== 0 ? far : -1;
    if (from < 0) continue;
    const index = area.first(c, from);
    const start = index - (index % PAGEBLOCK_PAGES);
    if (c < PAGEBLOCK_ORDER && policy.onClaimTry !== undefined) policy.onClaimTry(start);
    if (policy.spans !== undefined && !policy.spans(start)) continue;
    if (c < PAGEBLOCK_ORDER) {
      const free = area.freeIn(start, start + PAGEBLOCK_PAGES);
      const assumed = from === MIGRATE_MOVABLE ? PAGEBLOCK_PAGES - free : 0;
      const movable = policy.movableIn === undefined ? assumed : policy.movableIn(start);
      if (!worthClaiming({ free, movable, from }, mt)) continue;
    }
    out.action = 'claim';
    out.from = from;
    out.fallbackOrder = c;
    out.index = index;
    return;
  }
  if (noFragment) return;

  const reachable = ((nearOrders | farOrders) >>> order) << order;
  if (reachable === 0) return;
  const c = 31 - Math.clz32(reachable & -reachable);
  out.action = 'steal';
  out.from = (nearOrders & (1 << c)) !== 0 ? near : far;
  out.fallbackOrder = c;
  out.index = area.first(c, out.from);
}
