// Kremap state: what a machine knows of its displaced pages. It is the machine's DisplacedTable, copied with it.
//
//   translation   address <-> frame                            translation.ts
//   map           leaves of the direct map, splits             direct-map.ts
//   tables        the frames that both cost: 32 for each leaf table (vmalloc), one for each page table; by holder slot,
//                 so that they are found when they move, as all kernel pages may
//   holds         frames that are kept out of use because their address leads elsewhere: present, not managed (va_blocked)
//   counters      what was done
//
// A page is displaced by remap() only, which keeps translation and map in step. When a displaced allocation is freed, its
// addresses are identity again, and frames that were held for them are free.
//
// Invariant (check-kremap.ts): table frames = 32 x leaf tables + page tables, but for what could not be had inside of a
// foreign move (`owed`, taken up at the next occasion).

import { type HolderId, type NodeId, toPfn } from '#base/units';
import type { DisplacedTable } from '../frame-watch.ts';
import type { Machine } from '../machine.ts';
import { ZONE_NORMAL } from '../page-class.ts';
import type { RefusalReason } from '../refusal.ts';
import { DirectMap, leafOf } from './direct-map.ts';
import { giveBack, takeTarget } from './target.ts';
import { LEAF_TABLE_PAGES, Translation } from './translation.ts';

/** Classes that remapping moves. */
export const MOVED_CLASSES = ['K', 'V', 'T', 'H'] as const;
export type MovedClass = (typeof MOVED_CLASSES)[number];

export type KremapCounters = {
  /** Pages moved, by class; those that went home or elsewhere again count again. */
  readonly pages: Record<MovedClass, number>;
  /** Entries rewritten instead of addresses mapped anew: vmalloc leaves, parents of page tables, registrations with the host. */
  readonly entries: Record<'V' | 'T' | 'H', number>;
  /** Registers of CPUs that were loaded because the root of a process's tables moved. */
  rootLoads: number;
  /** Pages that came home. */
  home: number;
  /** Times that all CPUs were stopped, and the most pages that were moved in one of them. */
  stopWindows: number;
  maxStopPages: number;
  /** Times that a translation was withdrawn, and the interrupts that other CPUs got for it. */
  shootdowns: number;
  ipis: number;
  /** Moves that were given up half-way, and put back. */
  aborts: number;
};

const noCounters = (): KremapCounters => ({
  pages: { K: 0, V: 0, T: 0, H: 0 },
  entries: { V: 0, T: 0, H: 0 },
  rootLoads: 0,
  home: 0,
  stopWindows: 0,
  maxStopPages: 0,
  shootdowns: 0,
  ipis: 0,
  aborts: 0,
});

export class KremapState implements DisplacedTable {
  readonly m: Machine;
  translation = new Translation();
  map = new DirectMap();
  readonly counters = noCounters();
  readonly refused = new Map<RefusalReason, number>();
  /** Whose the tables' and the held frames are; -1 = there were none yet. */
  leafTableHolder: HolderId | -1 = -1;
  pageTableHolder: HolderId | -1 = -1;
  heldHolder: HolderId | -1 = -1;
  #leafTableSlots: number[] = [];
  #pageTableSlots: number[] = [];

  constructor(m: Machine) {
    this.m = m;
  }

  // ------------------------------------------------------------------------------------------------- addresses

  /**
   * `va` leads to `pfn` from now on; to the frame of its own name: it is home.
   *
   * @param image  it has a second alias, the kernel image's
   * @param whole  frame minus address, when all of its 2 MiB goes with it
   */
  remap(va: number, pfn: number, image: boolean, whole: number | undefined): void {
    const { translation, map } = this;
    const was = translation.isDisplaced(va) ? { image: translation.hasImage(va) } : undefined;
    if (was !== undefined) translation.unpair(va);
    if (pfn !== va) {
      translation.pair(va, pfn, image);
      map.displace(this.m, va, image, whole);
    }
    if (was !== undefined) map.restore(va, was.image);
  }

  // ------------------------------------------------------------------------------------- DisplacedTable, the hooks

  vacated(index: number, order: number): void {
    const { m, translation } = this;
    for (let i = index; i < index + (1 << order); i++) {
      const pfn = m.sections.pfnOf(i);
      const va = translation.physToVirt(pfn);
      if (va === pfn || va < 0) continue;
      this.remap(va, va, false, undefined);
      this.letGo(va);
    }
    this.settle();
  }

  moved(from: number, to: number, order: number): void {
    const { m, translation } = this;
    for (let k = 0; k < 1 << order; k++) {
      const pfn = m.sections.pfnOf(from + k);
      const va = translation.physToVirt(pfn);
      if (va === pfn || va < 0) continue;
      this.remap(va, m.sections.pfnOf(to + k), translation.hasImage(va), undefined);
    }
    this.settle();
  }

  copy(to: Machine): KremapState {
    const out = new KremapState(to);
    out.translation = this.translation.copy();
    out.map = this.map.copy();
    const { pages, entries } = this.counters;
    Object.assign(out.counters, { ...this.counters, pages: { ...pages }, entries: { ...entries } });
    for (const [reason, n] of this.refused) out.refused.set(reason, n);
    out.leafTableHolder = this.leafTableHolder;
    out.pageTableHolder = this.pageTableHolder;
    out.heldHolder = this.heldHolder;
    out.#leafTableSlots = this.#leafTableSlots.slice();
    out.#pageTableSlots = this.#pageTableSlots.slice();
    return out;
  }

  // ----------------------------------------------------------------------------------------------------- holds

  /** Is the frame kept out of use for its address? */
  isHeld(index: number): boolean {
    const slot = this.heldHolder < 0 ? -1 : this.m.sections.ownerAt(index);
    return slot >= 0 && this.m.holders.holderOf(slot) === this.heldHolder;
  }

  /** Frames that are. */
  get held(): number {
    return this.heldHolder < 0 ? 0 : (this.m.holders.members[this.heldHolder] as number);
  }

  /** A frame of an online pool that is on no list and in nobody's hands: kept, and not managed. */
  hold(index: number): void {
    const { m } = this;
    if (this.heldHolder < 0) this.heldHolder = m.addHolder({ class: 'unplugged', name: 'its address is taken' });
    m.occupy(this.heldHolder, index, 0);
    const pool = m.poolAt(index);
    if (pool !== undefined) pool.managed -= 1;
  }

  /** The reverse: the frame is in nobody's hands. */
  unhold(index: number): void {
    const { m } = this;
    m.unhold(index, 0);
    m.sections.vacate(index, 0);
    const pool = m.poolAt(index);
    if (pool !== undefined) pool.managed += 1;
  }

  /** The address is its frame's own again, with nothing behind it: a frame that was held for it is free. */
  letGo(va: number): void {
    const { m } = this;
    const index = m.sections.indexOf(toPfn(va));
    if (index < 0 || !this.isHeld(index)) return;
    const pool = m.poolAt(index);
    this.unhold(index);
    pool?.alloc.freeToArea(index - pool.base, 0);
  }

  // ---------------------------------------------------------------------------------------------------- tables

  /**
   * Takes the frames that more tables will need. What is left over goes back with settle().
   * @returns false, and nothing is taken, when there are not enough
   */
  provide(node: NodeId, leafTables: number, pageTables: number): boolean {
    const { m } = this;
    const list = m.zonelist(node, ZONE_NORMAL);
    const leafFrames = leafTables * LEAF_TABLE_PAGES;
    for (let k = 0; k < leafFrames + pageTables; k++) {
      const index = takeTarget(m, list, 0);
      if (index < 0) {
        this.settle();
        return false;
      }
      this.#enter(k < leafFrames ? 'leaf' : 'page', index);
    }
    return true;
  }

  #enter(kind: 'leaf' | 'page', index: number): void {
    const { m } = this;
    if (kind === 'leaf') {
      if (this.leafTableHolder < 0) {
        this.leafTableHolder = m.addHolder({ class: 'vmalloc', name: 'tables of displaced pages' });
      }
      m.occupy(this.leafTableHolder, index, 0);
      this.#leafTableSlots.push(m.sections.ownerAt(index));
    } else {
      if (this.pageTableHolder < 0) {
        this.pageTableHolder = m.addHolder({ class: 'pagetable', name: 'page tables of split leaves', kernel: 'T' });
      }
      m.occupy(this.pageTableHolder, index, 0);
      this.#pageTableSlots.push(m.sections.ownerAt(index));
    }
  }

  /** Table frames that are too many go back; those that are owed are taken, if they can be had. */
  settle(): void {
    this.#settleKind('leaf', this.#leafTableSlots, this.translation.leafTables * LEAF_TABLE_PAGES);
    this.#settleKind('page', this.#pageTableSlots, this.map.tables);
  }

  #settleKind(kind: 'leaf' | 'page', slots: number[], wanted: number): void {
    const { m } = this;
    while (slots.length > wanted) {
      const head = m.holders.frameAt(slots.pop() as number); // longer than wanted, which is not negative
      m.unhold(head, 0);
      m.sections.vacate(head, 0);
      giveBack(m, head, 0);
    }
    while (slots.length < wanted) {
      const index = takeTarget(m, m.zonelist(m.nodes[0] as NodeId, ZONE_NORMAL), 0); // a machine has a node
      if (index < 0) return;
      this.#enter(kind, index);
    }
  }

  get tableFrames(): { readonly leaf: number; readonly page: number } {
    return { leaf: this.#leafTableSlots.length, page: this.#pageTableSlots.length };
  }

  /** Frames that tables are short of: a foreign move of a displaced page may find no memory for its tables. */
  get owed(): number {
    const { leaf, page } = this.tableFrames;
    return this.translation.leafTables * LEAF_TABLE_PAGES - leaf + this.map.tables - page;
  }

  /** Leaves of 2 MiB that live on though their memory was removed. Cost O(leaf tables). */
  orphanLeaves(): number {
    const { m, translation } = this;
    let n = 0;
    let last = -1;
    translation.forEachDisplaced(0, Number.POSITIVE_INFINITY, (va) => {
      const leaf = leafOf(va);
      if (leaf === last) return;
      last = leaf;
      if (m.sections.indexOf(toPfn(va)) < 0) n++;
    });
    return n;
  }

  countRefusal(reason: RefusalReason): void {
    this.refused.set(reason, (this.refused.get(reason) ?? 0) + 1);
  }
}

/** The machine's state, if it was ever asked for. Cost O(1). */
export const kremapOf = (m: Machine): KremapState | undefined =>
  m.displaced instanceof KremapState ? m.displaced : undefined;

/** The machine's state; made when it has none. Cost O(1). */
export function kremapState(m: Machine): KremapState {
  const state = kremapOf(m) ?? new KremapState(m);
  m.displaced = state;
  return state;
}
