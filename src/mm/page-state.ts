// Page state: what only the user of a page knows about it. The engine keeps no page tables: whoever has them says so, by
// flags in the page's head (Machine.setPageFlags: dirty, writeback, unevictable), by its holder's `mapped`, or through a
// callback; where nobody does, a default by class stands in.
//
//   class        dirty   mapped   why
//   anonymous    yes     yes      a process wrote to it and has it mapped
//   shmem        yes     yes      it is nowhere else but in memory
//   file         no      yes      as `mapped` it is moved and never dropped, as clean it is never lost: nothing is claimed
//   hugetlb      yes     yes      a private mapping (MAP_HUGETLB)
//   others       no      no       they are not on the LRU
//
// Used by mm/memory-failure.ts (what is dropped, lost or moved, spec 3.5) and mm/contig-alloc.ts (clean page cache is
// dropped instead of moved). Source: Linux v6.12 mm/memory-failure.c: error_states[]; mm/vmscan.c:
// reclaim_clean_pages_from_list().

import type { HolderId, Pfn } from '#base/units';
import type { Machine } from './machine.ts';
import type { PageClass } from './page-class.ts';
import { META_DIRTY, META_UNEVICTABLE, META_WRITEBACK } from './section.ts';

export type PageState = {
  /** It differs from what storage has. */
  readonly dirty: boolean;
  /** Storage reads it just now: it can neither move nor be dropped until that is over. */
  readonly writeback?: boolean;
  /** Some process has it in its page tables. */
  readonly mapped: boolean;
  readonly mlocked?: boolean;
  readonly unevictable?: boolean;
  /** It has a place in swap. */
  readonly swapCache?: boolean;
  /** Its file was truncated while it was held: it belongs to nobody. */
  readonly truncated?: boolean;
  /** A huge page of a hugetlbfs file, not of a private mapping. */
  readonly hugetlbfs?: boolean;
};

/** What the holder says about the page at its index; undefined: it does not know. */
export type PageStateOf = (holder: HolderId, index: number, pfn: Pfn) => PageState | undefined;

const DIRTY_MAPPED: PageState = Object.freeze({ dirty: true, mapped: true });
const CLEAN_MAPPED: PageState = Object.freeze({ dirty: false, mapped: true });
const NEITHER: PageState = Object.freeze({ dirty: false, mapped: false });

/** The table at the top of this file. */
export function defaultPageState(cls: PageClass): PageState {
  if (cls === 'anonymous' || cls === 'shmem' || cls === 'hugetlb' || cls === 'gigantic') return DIRTY_MAPPED;
  return cls === 'file' ? CLEAN_MAPPED : NEITHER;
}

/** State of the allocation whose head is at `head` of the dense index: its holder's word, else the default. */
export function pageStateAt(m: Machine, head: number, said: PageStateOf | undefined): PageState {
  const slot = m.sections.ownerAt(head);
  const holder = m.holders.holderOf(slot);
  const told = said?.(holder, m.holders.indexOf(slot), m.sections.pfnOf(head));
  const spec = m.holders.specs[holder];
  const state = told ?? defaultPageState(spec.class);
  const flags = m.sections.metaAt(head) & (META_DIRTY | META_WRITEBACK | META_UNEVICTABLE);
  if (flags === 0 && (spec.mapped === undefined || told !== undefined)) return state;
  return {
    ...state,
    mapped: told?.mapped ?? spec.mapped ?? state.mapped,
    dirty: state.dirty || (flags & META_DIRTY) !== 0,
    writeback: state.writeback === true || (flags & META_WRITEBACK) !== 0,
    unevictable: state.unevictable === true || (flags & META_UNEVICTABLE) !== 0,
  };
}

/**
 * May the allocation be dropped, because storage has all of it? Page cache that is clean, that no process has mapped or
 * locked, that nobody holds on to, and that storage is not reading just now.
 */
export function isDroppable(
  m: Machine,
  a: { readonly head: number; readonly cls: PageClass; readonly pinned: boolean },
  said: PageStateOf | undefined,
): boolean {
  if (a.cls !== 'file' || a.pinned) return false;
  const s = pageStateAt(m, a.head, said);
  return !s.dirty && !s.mapped && s.writeback !== true && s.mlocked !== true && s.unevictable !== true;
}
