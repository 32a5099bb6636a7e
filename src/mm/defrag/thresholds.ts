// Thresholds: how many large free blocks each pool should have, by order, and how far it is from that.
//
//   free blocks of order o or more, counted in blocks of order o
//
//   0          low / 2             low                 high
//   │ level 3    │     level 2      │     level 1       │  level 0: nothing to do
//   └────────────┴──────────────────┴───────────────────┘
//     all that may be done           a little, early
//
// A block counts where a request of any ordinary type may have it: Unmovable, Movable and Reclaimable lists; CMA, atomic
// reserves and isolated pageblocks are kept for others.
//
// After Mooley 2004: "defragment based on thresholds kept for each allocation order", and Hansen 2004: "start earlier,
// and more easily have various levels" (spec 9.F4).

import { assert } from '#base/assert';
import { MAX_ORDER, NR_MIGRATE_TYPES, NR_ORDERS, NR_PCP_TYPES } from '../geometry.ts';
import type { Pool } from '../pool.ts';

export type Threshold = {
  readonly order: number;
  /** Free blocks of the order, or more: below `high` something is done, below `low` more, below half of that all. */
  readonly low: number;
  readonly high: number;
};

export type Level = 0 | 1 | 2 | 3;

/** What is wanted most of a pool; `order` has no meaning at level 0. */
export type Need = { readonly level: Level; readonly order: number };

const CONTENT: Need = Object.freeze({ level: 0, order: 0 });

/** A threshold that contradicts itself throws. */
export function checkThresholds(thresholds: readonly Threshold[]): void {
  for (const t of thresholds) {
    const whole = Number.isInteger(t.low) && Number.isInteger(t.high) && Number.isInteger(t.order);
    const sane = whole && t.order >= 1 && t.order <= MAX_ORDER && t.low >= 0 && t.high >= t.low && t.high > 0;
    assert(sane, 'a threshold is an order from 1 to 10 and 0 <= low <= high, high > 0', { ...t });
  }
}

const lists = new Float64Array(NR_MIGRATE_TYPES * NR_ORDERS);

/** Free chunks by order, of ordinary types, into out[0..10]. Cost O(pageblocks in use) at worst. */
function ordinary(pool: Pool, out: Float64Array): void {
  pool.alloc.area.count(lists.fill(0));
  out.fill(0);
  for (let k = 0; k < NR_PCP_TYPES * NR_ORDERS; k++)
    out[k % NR_ORDERS] = (out[k % NR_ORDERS] as number) + (lists[k] as number);
}

const byOrder = new Float64Array(NR_ORDERS);

const blocksIn = (counts: Float64Array, order: number): number => {
  let n = 0;
  for (let o = order; o < NR_ORDERS; o++) n += (counts[o] as number) * 2 ** (o - order);
  return n;
};

/** Free blocks of the order that the pool has, larger ones counted as so many. */
export function freeBlocks(pool: Pool, order: number): number {
  ordinary(pool, byOrder);
  return blocksIn(byOrder, order);
}

/** Level by one threshold. */
export function levelOf(blocks: number, t: Threshold): Level {
  if (blocks >= t.high) return 0;
  if (blocks >= t.low) return 1;
  return 2 * blocks >= t.low ? 2 : 3;
}

/** The highest level of a pool's thresholds, the largest order of equals. Cost as freeBlocks. */
export function needOf(pool: Pool, thresholds: readonly Threshold[]): Need {
  ordinary(pool, byOrder);
  let need = CONTENT;
  for (const t of thresholds) {
    const level = levelOf(blocksIn(byOrder, t.order), t);
    if (level > need.level || (level > 0 && level === need.level && t.order > need.order))
      need = { level, order: t.order };
  }
  return need;
}
