// Migration out of frames that are about to leave a pool, to other frames of the same pool.
//
//   offline      isolates the pageblocks first: what a page leaves is out of reach, nobody moves there
//   here         nothing is isolated, so that the caller takes each frame away as soon as it is empty: `gone`
//
// A large page that finds no run of its order is split, as migration always does. Its parts go one by one, each with its
// own `gone`: if the whole page were taken away at the end, a later part could have moved to where an earlier one was.

import { migrateWithPools } from '../hugetlb.ts';
import type { Machine } from '../machine.ts';
import { splitAllocation } from '../migrate.ts';
import { CLASS_TRAITS, type PageClass } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import type { BlockerCause } from '../refusal.ts';

export type UsedFrames = {
  readonly head: number;
  readonly order: number;
  readonly cls: PageClass;
  readonly pinned: boolean;
};

/** Has the pool a free run of the order, of a type that any request may be served from? */
export function hasRun(pool: Pool, order: number): boolean {
  const { area } = pool.alloc;
  return order === 0 || (area.orders(0) | area.orders(1) | area.orders(2)) >>> order !== 0;
}

/**
 * Moves an allocation to free frames of the first of `targets` that has some.
 *
 * @param gone  told of each piece [start, end) of the dense index that is empty now, and free in the pool's area (its
 *              per-CPU lists are to be off)
 * @returns why not all of it moved; undefined when it did. Cost O(pages of it)
 */
export function migrateWithin(
  m: Machine,
  a: UsedFrames,
  targets: Int32Array,
  gone: (start: number, end: number) => void,
): BlockerCause | undefined {
  const pages = 1 << a.order;
  const whole = a.order === 0 || a.cls === 'hugetlb' || targets.some((id) => hasRun(m.pools[id] as Pool, a.order));
  const { mobility } = CLASS_TRAITS[a.cls];
  if (whole || a.pinned || (mobility !== 'lru' && mobility !== 'driver')) {
    const outcome = migrateWithPools(m, a.head, targets);
    if (outcome === 'moved') gone(a.head, a.head + pages);
    return outcome === 'moved' ? undefined : outcome === 'final' ? 'unmovable' : outcome;
  }
  splitAllocation(m, a.head);
  let cause: BlockerCause | undefined;
  for (let i = a.head; i < a.head + pages; i++) {
    const outcome = migrateWithPools(m, i, targets);
    if (outcome === 'moved') gone(i, i + 1);
    else cause = outcome === 'final' ? 'unmovable' : outcome;
  }
  return cause;
}
