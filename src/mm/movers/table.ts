// Which mover an allocation has: its owner's word, where there is one (HolderSpec.moves); else its class's row.

import { type HolderSpec, REQUEST_MOVES, REQUEST_STAYS } from '../holder.ts';
import type { Machine } from '../machine.ts';
import { PAGE_CLASSES, type PageClass } from '../page-class.ts';
import { ANONYMOUS, FILE, HUGETLB, SHMEM } from './lru.ts';
import type { Mover } from './mover.ts';
import { BALLOON, MOVABLE_OPS } from './owner.ts';

/** Classes that ordinary migration moves. All others stay, unless their owner says that it moves them. */
const MOVERS: Readonly<Partial<Record<PageClass, Mover>>> = Object.freeze({
  anonymous: ANONYMOUS,
  file: FILE,
  shmem: SHMEM,
  hugetlb: HUGETLB,
  balloon: BALLOON,
  'movable-ops': MOVABLE_OPS,
});

const BY_CLASS: readonly (Mover | undefined)[] = PAGE_CLASSES.map((cls) => MOVERS[cls]);

/** Of a holder, by its class's index and its word of requests (Holders.classIndex, Holders.request). Cost O(1), no objects. */
export function moverOfHolder(classIndex: number, request: number): Mover | undefined {
  if ((request & (REQUEST_MOVES | REQUEST_STAYS)) === 0) return BY_CLASS[classIndex];
  return (request & REQUEST_STAYS) !== 0 ? undefined : (BY_CLASS[classIndex] ?? MOVABLE_OPS);
}

/** The same from a holder's description. */
export function moverOfSpec(spec: Pick<HolderSpec, 'class' | 'moves'>): Mover | undefined {
  if (spec.moves === false) return undefined;
  return MOVERS[spec.class] ?? (spec.moves === true ? MOVABLE_OPS : undefined);
}

/** Of the allocation whose head is at `head` of the dense index; undefined: it does not move. */
export function moverAt(m: Machine, head: number): Mover | undefined {
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  return moverOfHolder(m.holders.classIndex[holder] as number, m.holders.request[holder] as number);
}
