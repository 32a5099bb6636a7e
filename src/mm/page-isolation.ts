// Page isolation: may these frames go, and keeping new allocations out while they leave.
//
// `blockersIn` answers the first half by the kernel's own order of questions, reading only:
//
//   1 no RAM                        -> hole                  5 free, or on a per-CPU list   -> fine
//   2 CMA pageblock                 -> cma                   6 poisoned, balloon            -> fine (now)
//   3 reserved                      -> reserved, even in     7 LRU                          -> fine (a pin shows later)
//   4 ZONE_MOVABLE                  -> fine (optimistic)       all else                     -> unmovable
//                                                                                              (Movable: step 4)
// Linux stops at the first; dimmer lists all, so that a person sees what stands in the way.
//
// An isolated pageblock's free pages sit on the Isolate lists: nothing is allocated from it, what is freed stays there.
// Invariant: I1 undo restores each pageblock's own type. (Linux up to 6.16 makes them all Movable: docs/fidelity.md.)
//
// Follows Linux v6.12 mm/page_isolation.c: has_unmovable_pages(), set_migratetype_isolate() (spec 3.1, 3.2).

import { type Pfn, toPfn } from '#base/units';
import {
  MIGRATE_CMA,
  MIGRATE_ISOLATE,
  type MigrateType,
  PAGEBLOCK_PAGES,
  PAGES_PER_SECTION,
  SECTION_ORDER,
} from './geometry.ts';
import type { HolderSpec } from './holder.ts';
import type { Machine } from './machine.ts';
import { CLASS_TRAITS, PAGE_CLASSES, type PageClass, ZONE_MOVABLE } from './page-class.ts';
import type { Pool } from './pool.ts';
import type { Blocker, BlockerCause } from './refusal.ts';
import { KIND_ABSENT, KIND_HEAD0, KIND_MASK, KIND_NONE, KIND_TAIL, META_PINNED, SLOTS_AT } from './section.ts';

/** Collects evidence and merges neighbours of one cause and holder. */
export class BlockerList {
  readonly items: Blocker[] = [];

  add(b: Blocker): void {
    const last = this.items[this.items.length - 1];
    if (last !== undefined && last.endPfn === b.startPfn && last.cause === b.cause && last.holder === b.holder) {
      this.items[this.items.length - 1] = { ...last, endPfn: b.endPfn };
    } else {
      this.items.push(b);
    }
  }

  get pages(): number {
    return this.items.reduce((n, b) => n + (b.endPfn - b.startPfn), 0);
  }
}

/** The cause that isolation would give for an allocation of this class; undefined when it lets it pass. */
export function isolationCause(cls: PageClass, zone: number, pageblockType: MigrateType): BlockerCause | undefined {
  if (pageblockType === MIGRATE_CMA) return 'cma';
  if (cls === 'reserved') return 'reserved';
  if (zone === ZONE_MOVABLE) return undefined;
  return CLASS_TRAITS[cls].mobility === 'never' ? 'unmovable' : undefined;
}

/** Evidence for the allocation at `index`, cut to [index, index + pages). */
export function blockerOf(m: Machine, index: number, pages: number, cause: BlockerCause): Blocker {
  const a = m.sections.allocationAt(index);
  const startPfn = m.sections.pfnOf(index);
  const endPfn = toPfn(startPfn + pages);
  if (a === undefined) return { startPfn, endPfn, cause, class: 'none', holder: -1, name: 'not RAM' };
  const holder = m.holders.holderOf(m.sections.ownerAt(a.head));
  const spec = m.holders.specs[holder] as HolderSpec;
  return { startPfn, endPfn, cause, class: spec.class, holder, name: spec.name };
}

/**
 * The common case of blockersIn, by numbers only: from `index` on, single frames in use that isolation lets pass.
 * Pageblocks of one pool and type are asked for once, and a class is judged once for all frames in a row that have it.
 * @returns the first index that has to be looked at by itself, at most `end`; all of [index, end) lies in one pageblock
 */
function passSingles(m: Machine, index: number, end: number, zone: number, type: MigrateType): number {
  const words = m.sections.words[index >>> SECTION_ORDER];
  if (words === undefined) return index;
  const { holders } = m;
  let passes = -1; // the class that was judged last, by its index in PAGE_CLASSES
  for (let i = index; i < end; i++) {
    const off = i & (PAGES_PER_SECTION - 1);
    if (((words[off] as number) & KIND_MASK) !== KIND_HEAD0) return i;
    const k = SLOTS_AT + 2 * off;
    const holder = holders.holderOf(((words[k] as number) | ((words[k + 1] as number) << 16)) - 1);
    const cls = holders.classIndex[holder] as number;
    if (cls === passes) continue;
    if (isolationCause(PAGE_CLASSES[cls] as PageClass, zone, type) !== undefined) return i;
    passes = cls;
  }
  return end;
}

/** Frames of the free chunk that covers frame i of the pool, from i on; 1 for a frame that is on a per-CPU list. */
function freeFrom({ alloc }: Pool, i: number): number {
  const order = alloc.area.orderAt(i);
  if (order >= 0) return 1 << order;
  const head = alloc.area.headOf(i); // the second pageblock of a chunk of order 10 is looked at by itself
  return head < 0 ? 1 : head + (1 << alloc.area.orderAt(head)) - i;
}

/** See Machine.blockersIn. Offline frames and frames without RAM count as holes. */
export function blockersIn(m: Machine, start: Pfn, end: Pfn): Blocker[] {
  const list = new BlockerList();
  for (let pfn: number = start; pfn < end; ) {
    const index = m.sections.indexOf(toPfn(pfn));
    const pool = index < 0 ? undefined : m.poolAt(index);
    const kind = index < 0 ? KIND_ABSENT : m.sections.metaAt(index) & KIND_MASK;
    if (pool === undefined || kind === KIND_ABSENT) {
      list.add({
        startPfn: toPfn(pfn),
        endPfn: toPfn(pfn + 1),
        cause: 'hole',
        class: 'none',
        holder: -1,
        name: 'not RAM, or offline',
      });
      pfn++;
      continue;
    }
    const zone = (m.zoneAt(index) as Pool).zone; // a frame with an owner has a label
    const type = pool.alloc.area.typeOf(index - pool.base);
    if (kind === KIND_NONE) {
      // Free, or on a per-CPU list: fine, unless the whole pageblock is CMA's. Large free chunks are skipped at once.
      const run = Math.min(end - pfn, freeFrom(pool, index - pool.base));
      if (type === MIGRATE_CMA) {
        list.add({
          startPfn: toPfn(pfn),
          endPfn: toPfn(pfn + run),
          cause: 'cma',
          class: 'none',
          holder: -1,
          name: 'a CMA area',
        });
      }
      pfn += run;
      continue;
    }
    if (kind === KIND_HEAD0) {
      const border = Math.min(index + end - pfn, (index | (PAGEBLOCK_PAGES - 1)) + 1);
      const passed = passSingles(m, index, border, zone, type) - index;
      if (passed > 0) {
        pfn += passed;
        continue;
      }
    }
    const a = m.sections.allocationAt(index);
    const head = a === undefined ? index : a.head;
    const pages = a === undefined ? 1 : head + (1 << a.order) - index;
    const run = Math.min(end - pfn, pages);
    const holder = m.holders.holderOf(m.sections.ownerAt(head));
    const cause = isolationCause((m.holders.specs[holder] as HolderSpec).class, zone, type);
    if (cause !== undefined) list.add(blockerOf(m, index, run, cause));
    pfn += run;
  }
  return list.items;
}

/** Moves a pageblock's free pages out of reach. @returns the type to give back on undo. */
export function isolatePageblock(pool: Pool, index: number): MigrateType {
  const i = index - pool.base;
  const type = pool.alloc.area.typeOf(i);
  if (type !== MIGRATE_ISOLATE) pool.alloc.isolate(i);
  return type;
}

/** Undo: back to its own type; free neighbours that isolation had parted merge again (FA4). */
export function unisolatePageblock(pool: Pool, index: number, type: MigrateType): void {
  pool.alloc.unisolate(index - pool.base, type);
}

/** Allocation heads in [start, end) of the dense index, ascending; an allocation that begins before `start` is included. */
export function* allocationsIn(
  m: Machine,
  start: number,
  end: number,
): Generator<{ head: number; order: number; cls: PageClass; pinned: boolean }> {
  for (let i = m.sections.nextKnown(start, end); i < end; i = m.sections.nextKnown(i, end)) {
    const kind = m.sections.metaAt(i) & KIND_MASK;
    if (kind === KIND_ABSENT) {
      i++;
      continue;
    }
    const a =
      kind === KIND_TAIL
        ? (m.sections.allocationAt(i) as { head: number; order: number }) // a tail has a head, or allocationAt throws
        : { head: i, order: kind - KIND_HEAD0 };
    const holder = m.holders.holderOf(m.sections.ownerAt(a.head));
    yield {
      head: a.head,
      order: a.order,
      cls: (m.holders.specs[holder] as HolderSpec).class,
      pinned: (m.sections.metaAt(a.head) & META_PINNED) !== 0,
    };
    i = a.head + (1 << a.order);
  }
}

export const pageblockStart = (index: number): number => index - (index % PAGEBLOCK_PAGES);
