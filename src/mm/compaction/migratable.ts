// Which used pages compaction takes out of its zone's bottom, by what is known of them (spec 2.11).
//
//   page                                                        async, sync-light      sync
//   hugetlb; as large as what is wanted; a pageblock or more    never                  never
//   of a class that nobody moves                                never                  never
//   pinned: anonymous, or kept by its owner                     passed by              passed by
//   pinned: page cache, shmem                                   tried, fails           tried, fails
//   unevictable, and compact_unevictable_allowed is 0           passed by              passed by
//   under writeback                                             passed by              tried
//   dirty page cache without a migrate callback                 passed by              written back, tried
//   any other                                                   tried                  tried
//
// Follows Linux v6.12 mm/compaction.c: isolate_migratepages_block(), skip_isolation_on_order(); mm/migrate.c:
// isolate_movable_page().

import { PAGEBLOCK_ORDER } from '../geometry.ts';
import { REQUEST_MOVES, REQUEST_STAYS, REQUEST_WRITES_BACK } from '../holder.ts';
import type { Machine } from '../machine.ts';
import type { MigrateMode } from '../migrate.ts';
import { moverOfHolder } from '../movers/table.ts';
import { CLASS_TRAITS, PAGE_CLASSES } from '../page-class.ts';
import {
  KIND_HEAD0,
  KIND_MASK,
  KIND_TAIL,
  META_DIRTY,
  META_PINNED,
  META_UNEVICTABLE,
  META_WRITEBACK,
} from '../section.ts';

const ANONYMOUS = PAGE_CLASSES.indexOf('anonymous');
const HUGETLB = PAGE_CLASSES.indexOf('hugetlb');
/** 1 where a class's pages are on the LRU. Huge pages of the pools are not. */
const ON_LRU = Uint8Array.from(PAGE_CLASSES, (c) => (CLASS_TRAITS[c].mobility === 'lru' && c !== 'hugetlb' ? 1 : 0));
const HELD = META_PINNED | META_UNEVICTABLE | META_WRITEBACK | META_DIRTY;

/** Is the frame part of a page on the LRU? */
export function isLru(m: Machine, index: number): boolean {
  const a = m.sections.allocationAt(index);
  if (a === undefined) return false;
  const holder = m.holders.holderOf(m.sections.ownerAt(a.head));
  const word = m.holders.request[holder] as number;
  return (word & (REQUEST_MOVES | REQUEST_STAYS)) === 0 && ON_LRU[m.holders.classIndex[holder] as number] === 1;
}

/**
 * May the allocation whose head is at `head` be isolated? Reads only; cost O(1).
 *
 * @param meta   its meta word
 * @param order  what is wanted, or -1
 */
export function isolatable(m: Machine, head: number, meta: number, order: number, mode: MigrateMode): boolean {
  const size = (meta & KIND_MASK) - KIND_HEAD0;
  if (size >= PAGEBLOCK_ORDER || (order >= 0 && size > 0 && size >= order)) return false;
  const { holders } = m;
  const holder = holders.holderOf(m.sections.ownerAt(head));
  const cls = holders.classIndex[holder] as number;
  const word = holders.request[holder] as number;
  if (cls === HUGETLB || moverOfHolder(cls, word) === undefined) return false;
  if ((meta & HELD) === 0) return true;
  const lru = ON_LRU[cls] === 1 && (word & REQUEST_MOVES) === 0;
  if ((meta & META_PINNED) !== 0 && (!lru || cls === ANONYMOUS)) return false;
  if (!lru) return true;
  if ((meta & META_UNEVICTABLE) !== 0 && !m.vm.compactUnevictableAllowed) return false;
  if (mode === 'sync') return true;
  if ((meta & META_WRITEBACK) !== 0) return false;
  return (meta & META_DIRTY) === 0 || (word & REQUEST_WRITES_BACK) === 0;
}

/** Is the entry the head of an allocation? */
export const isHead = (kind: number): boolean => kind >= KIND_HEAD0 && kind < KIND_TAIL;
