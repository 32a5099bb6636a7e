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
// That is the shape 'claim-steal'. The shape 'largest-first' is older: it takes the largest page of any fallback type,
// whatever becomes of its pageblock, unless a Movable request finds nothing above order 3; then the smallest.
//
//   c = 10 down to order (9 if no-fragment) ──> a page? ─┬─ of a pageblock or more, or half suits ──> claim
//                                                        ├─ Movable, below order 4, above the request ──> steal
//                                                        └─ else ──> split: the smallest page of its pageblock that
//                                                           fits; the pageblock keeps its type
//
// Invariants: CMA, HighAtomic and Isolate are never raided. A claim pass looks at no more than one page an order: the
// first of the first type that has one. Claims of less than a pageblock need half of it to be free or alike.
//
// Follows spec 2.3 (Linux v6.12.y-stable and >= 6.15, mm/page_alloc.c: fallbacks[], __rmqueue_claim(),
// try_to_claim_block(), __rmqueue_steal()) and Linux v6.1 (__rmqueue_fallback(), steal_suitable_fallback()). The latter
// moves the free pages of a pageblock that it does not claim to the lists of the request's type all the same, where the
// next requests find them. Here a page is on the list of its pageblock's type, always; `lent` remembers the pageblock,
// so that the next requests are served from it ("lent" decisions, which are no fallback).

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
  /** Before each look into a pageblock for less than the whole: the moment to boost the watermark (spec 2.6). */
  readonly onBoost?: ((start: number) => void) | undefined;
  /** Which Linux: see above. Default 'claim-steal'. */
  readonly shape?: 'claim-steal' | 'largest-first' | undefined;
  /** For 'largest-first': the pageblock whose free pages each type uses up now, -1 for none. Three, the owner's. */
  readonly lent?: Int32Array | undefined;
  /** False where memory is too small for grouping (spec 2.2): then every claim is permitted. Default true. */
  readonly grouping?: boolean | undefined;
};

/** A decision, in a record that the caller owns and reuses: the allocator makes no object per request. */
export type FallbackDecision = {
  /** 'split' and 'lent' take the page at `index` and no other; 'steal' the smallest of the raided type, which it is. */
  action: 'none' | 'claim' | 'steal' | 'split' | 'lent';
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

/** What is asked for. */
export type FallbackRequest = {
  readonly order: number;
  readonly mt: number;
  /** Whole pageblocks or nothing (spec 2.7). */
  readonly noFragment: boolean;
  /** This bulk had to steal already: nothing is left to claim ('claim-steal' only). */
  readonly stealing?: boolean;
};

const NONE = -1;

/** What the two types of a row have. */
type Row = {
  readonly near: number;
  readonly far: number;
  /** Bit c: there is a free page of order c. */
  readonly nearOrders: number;
  readonly farOrders: number;
};

/**
 * Decides for a request whose own lists are empty. Changes nothing but `out` and `policy.lent`.
 *
 * To execute a claim: setPageblockType of the pageblock at out.index (of both, for a chunk of order 10), then alloc of
 * the request's own type. To execute a steal: alloc of type out.from. To execute a split or a loan: take the page of
 * order out.fallbackOrder at out.index, and put the rest back. Cost: O(orders), and one look through a pageblock for
 * each order from 8 down that is tried.
 */
export function decideFallback(
  area: FreeArea,
  request: FallbackRequest,
  policy: FallbackPolicy,
  out: FallbackDecision,
): void {
  out.action = 'none';
  const types = FALLBACKS[request.mt];
  if (types === undefined) return;
  const near = types[0] as number;
  const far = types[1] as number;
  const row: Row = { near, far, nearOrders: area.orders(near), farOrders: area.orders(far) };
  if (policy.shape === 'largest-first') largestFirst(area, request, policy, row, out);
  else claimOrSteal(area, request, policy, row, out);
}

function claimOrSteal(
  area: FreeArea,
  request: FallbackRequest,
  policy: FallbackPolicy,
  row: Row,
  out: FallbackDecision,
): void {
  const { order, mt, noFragment } = request;
  if (request.stealing !== true) {
    const lowest = noFragment ? Math.max(order, PAGEBLOCK_ORDER) : order;
    for (let c = MAX_ORDER; c >= lowest && claimPermitted(c, mt, policy.grouping !== false); c--) {
      const from = typeWith(row, c);
      if (from === NONE) continue;
      const index = area.first(c, from);
      if (c < PAGEBLOCK_ORDER && !mayClaim(area, policy, { from, index }, mt)) continue;
      return decide(out, 'claim', from, c, index);
    }
  }
  if (!noFragment) stealSmallest(area, order, row, out);
}

function largestFirst(
  area: FreeArea,
  request: FallbackRequest,
  policy: FallbackPolicy,
  row: Row,
  out: FallbackDecision,
): void {
  const { order, mt, noFragment } = request;
  if (fromLent(area, request, policy, out)) return;
  const lowest = noFragment ? Math.max(order, PAGEBLOCK_ORDER) : order;
  for (let c = MAX_ORDER; c >= lowest; c--) {
    const from = typeWith(row, c);
    if (from === NONE) continue;
    const index = area.first(c, from);
    if (c >= PAGEBLOCK_ORDER) return decide(out, 'claim', from, c, index);
    if (claimPermitted(c, mt, policy.grouping !== false)) {
      if (mayClaim(area, policy, { from, index }, mt)) return decide(out, 'claim', from, c, index);
      if (policy.spans?.(pageblockOf(index)) === false) return decide(out, 'split', from, c, index);
      if (policy.lent !== undefined) policy.lent[mt] = pageblockOf(index);
      return splitSmallestIn(area, pageblockOf(index), order, 'split', out);
    }
    if (c > order) stealSmallest(area, order, row, out);
    else decide(out, 'split', from, c, index);
    policy.onBoost?.(pageblockOf(out.index)); // steal_suitable_fallback() boosts before it asks for the whole block
    return;
  }
}

/** Serves the request from the pageblock that its type uses up, if that has a page that fits. */
function fromLent(area: FreeArea, request: FallbackRequest, policy: FallbackPolicy, out: FallbackDecision): boolean {
  const { lent } = policy;
  const { order, mt } = request;
  if (lent === undefined || lent[mt] < 0) return false;
  if (FALLBACKS[mt]?.includes(area.typeOf(lent[mt])) === true) splitSmallestIn(area, lent[mt], order, 'lent', out);
  if (out.action === 'none') lent[mt] = NONE; // used up, or it has become something else
  return out.action !== 'none';
}

/** The smallest page of the pageblock that fits, lowest address first; nothing when there is none. */
function splitSmallestIn(
  area: FreeArea,
  start: number,
  order: number,
  action: 'split' | 'lent',
  out: FallbackDecision,
): void {
  let best = MAX_ORDER + 1;
  area.forEachFree(start, start + PAGEBLOCK_PAGES, (i, c, from) => {
    if (c < order || c >= best || c >= PAGEBLOCK_ORDER) return;
    best = c;
    decide(out, action, from, c, i);
  });
}

const decide = (
  out: FallbackDecision,
  action: FallbackDecision['action'],
  from: number,
  order: number,
  index: number,
): void => {
  out.action = action;
  out.from = from;
  out.fallbackOrder = order;
  out.index = index;
};

/** The first type of the row that has a page of order c. */
function typeWith(row: Row, c: number): number {
  const bit = 1 << c;
  return (row.nearOrders & bit) !== 0 ? row.near : (row.farOrders & bit) !== 0 ? row.far : NONE;
}

const pageblockOf = (index: number): number => index - (index % PAGEBLOCK_PAGES);

/** try_to_claim_block() for the page at `index`, smaller than a pageblock, where claiming is permitted. */
function mayClaim(area: FreeArea, policy: FallbackPolicy, page: { from: number; index: number }, mt: number): boolean {
  const { from, index } = page;
  const start = pageblockOf(index);
  if (policy.onBoost !== undefined) policy.onBoost(start);
  if (policy.spans !== undefined && !policy.spans(start)) return false;
  if (policy.grouping === false) return true;
  const free = area.freeIn(start, start + PAGEBLOCK_PAGES);
  const assumed = from === MIGRATE_MOVABLE ? PAGEBLOCK_PAGES - free : 0;
  const movable = policy.movableIn === undefined ? assumed : policy.movableIn(start);
  return worthClaiming({ free, movable, from }, mt);
}

/** The smallest page that fits, of the first type that has one. */
function stealSmallest(area: FreeArea, order: number, row: Row, out: FallbackDecision): void {
  const reachable = ((row.nearOrders | row.farOrders) >>> order) << order;
  if (reachable === 0) return;
  const c = 31 - Math.clz32(reachable & -reachable);
  const from = typeWith(row, c);
  decide(out, 'steal', from, c, area.first(c, from));
}
