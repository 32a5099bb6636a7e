// The frames of struct pages: by section of 128 MiB, which frames hold its 2 MiB of them; and those of existing memory.
//
//   an add ──tables──> page tables, one frame each, and what they serve
//          ──leaves──> by section   slots: one allocation of order 9      mapped by one entry of the vmemmap's table
//                                   or 512 single frames, in order        mapped by a table of their own, or by one entry
//                                                                         when they are neighbours
//
// A leaf is named by holder slots (holder.ts) and not by frame numbers: a slot stays the same wherever its allocation
// moves, by whoever moves it. So the table below never changes when a leaf moves; where a leaf lies is asked of the frames
// (memmap-where.ts). A value: forks share it.
//
// Invariants: D1 each section of added memory has exactly one leaf, and each allocation of the holder is in exactly one
// (checkMemmap); MM8 takeKernelMemmap takes all that is planned or nothing.
//
// Follows Linux v6.12 mm/sparse-vmemmap.c: vmemmap_populate_hugepages(); arch/x86/mm/init_64.c: remove_pagetable()
// (spec 4.1 to 4.4, 9.D).

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, type Pfn, toHolderId, toOrder, toPfn } from '#base/units';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { Machine } from './machine.ts';
import { type MemmapPlan, presentSections, type TableArea } from './memmap.ts';
import type { PageClass } from './page-class.ts';
import { type Refusal, refusal } from './refusal.ts';

/** A page table, and the frames that it serves. */
export type MemmapTable = TableArea & { readonly slot: number };

/** 2 MiB of struct pages: a section's. */
export type MemmapLeaf = {
  /** Holder slots: of one allocation of order 9, or of 512 single frames in order. */
  readonly slots: readonly number[];
  /** Slot of the table that maps single frames one by one; -1: one entry maps all. */
  readonly table: number;
};

/** What the memmap of an add consists of. */
export type MemmapFrames = {
  readonly tables: readonly MemmapTable[];
  /** By section of the range; empty while the heads of its blocks are not there yet. */
  readonly leaves: readonly MemmapLeaf[];
};

export const MEMMAP_HOLDER = 'struct pages of added memory';
export const TABLES_HOLDER = 'page tables of added memory';

/** The machine's one holder of that name, made when first needed: memory that comes and goes must not leave holders. */
export function holderNamed(m: Machine, cls: PageClass, name: string): HolderId {
  const there = m.holders.specs.findIndex((s) => s.class === cls && s.name === name);
  return there >= 0 ? toHolderId(there) : m.addHolder({ class: cls, name }); // ids are rows of specs
}

/** Where a slot's allocation lies now. */
export function pfnOfSlot(m: Machine, slot: number): Pfn {
  const index = m.holders.frameAt(slot);
  assert(index >= 0, 'a slot of the memmap is free', { slot });
  return m.sections.pfnOf(index);
}

export const slotAt = (m: Machine, pfn: number): number => m.sections.ownerAt(m.sections.indexOf(toPfn(pfn)));

/** Frames of a leaf, its table included. */
export const leafPages = (leaf: MemmapLeaf): number => PAGEBLOCK_PAGES + (leaf.table >= 0 ? 1 : 0);

/** All frames, wherever they lie. */
export const memmapPages = (frames: MemmapFrames): number =>
  frames.leaves.reduce((n, leaf) => n + leafPages(leaf), frames.tables.length);

/** Is there memory in [startPfn, endPfn) already? Then what maps it is there, too. */
function isPresent(m: Machine, { startPfn, endPfn }: TableArea): boolean {
  const first = Math.floor(startPfn / PAGES_PER_SECTION);
  const end = Math.ceil(endPfn / PAGES_PER_SECTION);
  if (end - first > m.sections.length) return presentSections(m).some((n) => n >= first && n < end);
  for (let n = first; n < end; n++) if (m.sections.slotOf(n) >= 0) return true;
  return false;
}

/**
 * Takes the frames that a plan needs of existing memory: near node first, then the others by distance.
 *
 * To be called before the sections appear: a table that something present uses already is not taken again, whether the
 * plan knew or not. A leaf of 2 MiB that cannot be had is replaced by 512 single frames and a table for them, as
 * vmemmap_populate_hugepages() does. All or nothing: a refusal gives everything back; what may stay is the type of
 * pageblocks that were claimed, as after any allocation. Cost O(frames of the plan).
 *
 * @param node  of the added memory; a node without memory so far begins like the machine's first
 * @returns no-memory (ENOMEM) when there is not enough above the watermarks
 */
export function takeKernelMemmap(m: Machine, node: NodeId, plan: MemmapPlan): Result<MemmapFrames, Refusal> {
  const missing = plan.kernelTables.filter((t) => !isPresent(m, t));
  const tables: MemmapTable[] = [];
  const leaves: MemmapLeaf[] = [];
  if (missing.length === 0 && plan.kernelChunks === 0) return ok({ tables, leaves });

  const near = m.nodes.includes(node) ? { node } : undefined;
  const table = holderNamed(m, 'pagetable', TABLES_HOLDER);
  const memmap = holderNamed(m, 'memmap', MEMMAP_HOLDER);
  const taken: Pfn[] = []; // in order, to be given back in order
  const take = (holder: HolderId, order: number): number => {
    const pfn = m.alloc(holder, toOrder(order), near);
    if (pfn < 0) return -1;
    taken.push(toPfn(pfn));
    return slotAt(m, pfn);
  };
  const takeTable = (served: TableArea): boolean => {
    const slot = take(table, 0);
    if (slot >= 0) tables.push({ ...served, slot });
    return slot >= 0;
  };
  const takeLeaf = (): boolean => {
    const whole = take(memmap, PAGEBLOCK_ORDER);
    if (whole >= 0) return leaves.push({ slots: [whole], table: -1 }) > 0;
    const own = take(table, 0);
    const slots: number[] = [];
    while (own >= 0 && slots.length < PAGEBLOCK_PAGES) {
      const slot = take(memmap, 0);
      if (slot < 0) return false;
      slots.push(slot);
    }
    return own >= 0 && leaves.push({ slots, table: own }) > 0;
  };
  let all = missing.every(takeTable);
  for (let k = 0; all && k < plan.kernelChunks; k++) all = takeLeaf();
  if (all) return ok(Object.freeze({ tables, leaves }));
  const had = taken.reduce((n, pfn) => n + 2 ** (m.sections.allocationAt(m.sections.indexOf(pfn))?.order ?? 0), 0);
  for (const pfn of taken) m.free(pfn);
  const wanted = missing.length + plan.kernelChunks * PAGEBLOCK_PAGES;
  return err(refusal('no-memory', `the struct pages take ${wanted} frames of existing memory; ${had} could be had`));
}

/**
 * Gives frames of existing memory back: struct pages in the order of their sections, then the tables, as
 * arch_remove_memory() does. Leaves in the heads of blocks are not its business (memmap-head.ts). @returns how many frames
 */
export function releaseKernelMemmap(m: Machine, frames: MemmapFrames): number {
  for (const leaf of frames.leaves) releaseKernelLeaf(m, leaf);
  for (const t of frames.tables) m.free(pfnOfSlot(m, t.slot));
  return memmapPages(frames);
}

export function releaseKernelLeaf(m: Machine, leaf: MemmapLeaf): void {
  if (leaf.table >= 0) m.free(pfnOfSlot(m, leaf.table));
  for (const slot of leaf.slots) m.free(pfnOfSlot(m, slot));
}

export type MemmapParts = {
  readonly before: MemmapFrames | undefined;
  readonly gone: MemmapFrames | undefined;
  readonly after: MemmapFrames | undefined;
};

/**
 * The frames of a range of which `cut` goes: what goes with it, and what stays with the parts before and after. A table
 * stays as long as a part of the range needs it. Undefined where there is nothing. Cost O(sections).
 */
export function splitMemmap(
  frames: MemmapFrames,
  range: { readonly start: Pfn; readonly end: Pfn },
  cut: { readonly start: number; readonly end: number },
): MemmapParts {
  const sections = (range.end - range.start) / PAGES_PER_SECTION;
  const leaves = frames.leaves.length;
  assert(leaves === sections, 'a leaf for each section', { leaves, sections });
  const start = Math.max(range.start, cut.start);
  const end = Math.min(range.end, cut.end);
  assert(start < end, 'the cut lies in the range', { range, cut });

  const serves = (t: TableArea, from: number, to: number): boolean => from < to && t.startPfn < to && from < t.endPfn;
  const partOf = (t: TableArea): keyof MemmapParts =>
    serves(t, range.start, start) ? 'before' : serves(t, end, range.end) ? 'after' : 'gone';
  const part = (name: keyof MemmapParts, from: number, to: number): MemmapFrames | undefined => {
    const at = (pfn: number): number => (pfn - range.start) / PAGES_PER_SECTION;
    const tables = frames.tables.filter((t) => partOf(t) === name);
    const own = frames.leaves.slice(at(from), at(to));
    return tables.length + own.length === 0 ? undefined : Object.freeze({ tables, leaves: own });
  };
  return {
    before: part('before', range.start, start),
    gone: part('gone', start, end),
    after: part('after', end, range.end),
  };
}

// ----------------------------------------------------------------------------------------------- the leaves in place

/** The leaf of a section becomes another: it was split into single frames, or collapsed. */
export function setLeaf(m: Machine, section: number, leaf: MemmapLeaf): void {
  const pfn = section * PAGES_PER_SECTION;
  m.hotplug.ranges = m.hotplug.ranges.map((r) => {
    if (pfn < r.start || pfn >= r.end) return r;
    const leaves = r.memmap.leaves.slice();
    leaves[(pfn - r.start) / PAGES_PER_SECTION] = leaf;
    return { ...r, memmap: { ...r.memmap, leaves } };
  });
}

/** Is this slot one of the memmap of added memory: a leaf's, or a table's? Cost O(frames of all memmaps). */
export const isMemmapSlot = (m: Machine, slot: number): boolean =>
  m.hotplug.ranges.some(
    ({ memmap }) =>
      memmap.tables.some((t) => t.slot === slot) ||
      memmap.leaves.some((leaf) => leaf.table === slot || leaf.slots.includes(slot)),
  );

/** Wherever the memmap of added memory names slot `from`, it is `to` from now on: for who freed it and took another. */
export function replaceMemmapSlot(m: Machine, from: number, to: number): void {
  const at = (slot: number): number => (slot === from ? to : slot);
  m.hotplug.ranges = m.hotplug.ranges.map((r) => ({
    ...r,
    memmap: {
      tables: r.memmap.tables.map((t) => (t.slot === from ? { ...t, slot: to } : t)),
      leaves: r.memmap.leaves.map((leaf) =>
        leaf.table === from || leaf.slots.includes(from) ? { slots: leaf.slots.map(at), table: at(leaf.table) } : leaf,
      ),
    },
  }));
}
