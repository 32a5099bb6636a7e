// Where struct pages lie: from a section to its leaf and back, who hosts whom, and what memmap.stat says of a block.
//
//   the leaf of a section lies in                                       it is called
//   the head of its own block                                           self-block    (or the add's policy, for a range
//   the head of another block of the same add                           self-range     that was laid out so)
//   the head of a block of another add, or a host block's zone          host-section
//   any other zone                                                      kernel
//   boot memory, of which no table says more                            boot
//
// A block is a *host* while a leaf of another block lies in its head, or in its zone after a host was asked for
// (Hotplug.hosts). Its *guests* are those blocks. D2: a host with a guest that is online does not go offline.
//
// Invariants: D1 (checkMemmap) each section of added memory has one leaf, in frames that exist, and nothing else belongs to
// the memmap's holders; every pageblock of a head is a leaf, a vacancy, or tables; hosts are exactly the blocks with guests.
//
// Spec 9.D; Salvador and Hildenbrand 2018, option (b).

import { type BlockId, type HolderId, type Pfn, toBlockId, toPfn } from '#base/units';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { AddedRange } from './hotplug.ts';
import type { Machine } from './machine.ts';
import type { MemmapPolicy } from './memmap.ts';
import { MEMMAP_HOLDER, type MemmapLeaf, pfnOfSlot, TABLES_HOLDER } from './memmap-frames.ts';
import { structPageAddress } from './memmap-self-range.ts';
import { BLOCK_OFFLINE } from './memory-block.ts';
import type { Blocker } from './refusal.ts';

/** Place of a head that a leaf has left and that lies before others still in use: kept for one that comes home. */
export const VACANT_HOLDER = 'vacant places for struct pages';
/** Page tables in a head (pageTables: 'self'), with what rounding wastes. */
export const HEAD_TABLES_HOLDER = 'page tables on the memory itself';

export type LeafAt = {
  readonly section: number;
  readonly range: AddedRange;
  readonly leaf: MemmapLeaf;
};

export const blockOf = (m: Machine, pfn: number): BlockId => toBlockId(Math.floor(pfn / m.blockPages));
export const sectionOf = (pfn: number): number => Math.floor(pfn / PAGES_PER_SECTION);

/** The add that brought a frame; undefined for boot memory. Cost O(adds). */
export const rangeAt = (m: Machine, pfn: number): AddedRange | undefined =>
  m.hotplug.ranges.find((r) => r.start <= pfn && pfn < r.end);

/** The leaf of a section; undefined for boot memory. */
export function leafOf(m: Machine, section: number): LeafAt | undefined {
  const pfn = section * PAGES_PER_SECTION;
  const range = rangeAt(m, pfn);
  const leaf = range?.memmap.leaves[(pfn - range.start) / PAGES_PER_SECTION];
  return range === undefined || leaf === undefined ? undefined : { section, range, leaf };
}

/** All leaves of [start, end), which default to all added memory, by section. */
export function* leavesOf(m: Machine, start = 0, end = Number.POSITIVE_INFINITY): Generator<LeafAt> {
  for (const range of m.hotplug.ranges) {
    if (range.end <= start || end <= range.start) continue;
    const first = sectionOf(range.start);
    const to = Math.min(range.memmap.leaves.length, (end - range.start) / PAGES_PER_SECTION);
    for (let k = Math.max(0, (start - range.start) / PAGES_PER_SECTION); k < to; k++) {
      yield { section: first + k, range, leaf: range.memmap.leaves[k] as MemmapLeaf };
    }
  }
}

/** First frame of a leaf. Its other frames are the next 511, unless it has a table. */
export const leafPfn = (m: Machine, leaf: MemmapLeaf): Pfn => pfnOfSlot(m, leaf.slots[0] as number);

/** Does a frame lie in the head of its block? */
export function inHead(m: Machine, pfn: number): boolean {
  const row = m.blocks.rowOf(blockOf(m, pfn));
  return row >= 0 && pfn % m.blockPages < (m.blocks.vmemmapPages[row] as number);
}

/** Which of the policies describes where a leaf lies now. */
export function placeOf(m: Machine, { section, range, leaf }: LeafAt): MemmapPolicy {
  const pfn = leafPfn(m, leaf);
  const there = blockOf(m, pfn);
  const own = there === blockOf(m, section * PAGES_PER_SECTION);
  if (!inHead(m, pfn)) return !own && m.hotplug.hosts.has(there) ? 'host-section' : 'kernel';
  if (own) {
    const shared = range.policy === 'self-range' || range.policy === 'host-section';
    return shared && m.hotplug.hosts.has(there) ? range.policy : 'self-block';
  }
  if (pfn < range.start || range.end <= pfn) return 'host-section';
  return range.policy === 'host-section' ? 'host-section' : 'self-range';
}

/** The leaves of other blocks that a host holds. Nothing, and at once, for a block that is none. */
export function* guestLeaves(m: Machine, host: BlockId): Generator<LeafAt> {
  if (!m.hotplug.hosts.has(host)) return;
  for (const at of leavesOf(m)) {
    if (blockOf(m, leafPfn(m, at.leaf)) !== host) continue;
    if (blockOf(m, at.section * PAGES_PER_SECTION) !== host) yield at;
  }
}

/**
 * Evidence that a block cannot go offline: leaves of others that are in use, and do not leave with it. Empty when there are
 * none (D2).
 */
export function guestsInTheWay(m: Machine, host: BlockId, leavesWith: readonly BlockId[] = []): Blocker[] {
  const out: Blocker[] = [];
  for (const { section, leaf } of guestLeaves(m, host)) {
    const guest = blockOf(m, section * PAGES_PER_SECTION);
    if (m.blocks.state[m.blocks.rowOf(guest)] === BLOCK_OFFLINE || leavesWith.includes(guest)) continue;
    const startPfn = leafPfn(m, leaf);
    const holder = m.holders.holderOf(leaf.slots[0] as number);
    const name = `struct pages of block ${guest}`;
    out.push({ startPfn, endPfn: toPfn(startPfn + PAGEBLOCK_PAGES), cause: 'hosts', class: 'memmap', holder, name });
  }
  return out;
}

/** After leaves moved or went: who hosts nobody any more is no host. Cost O(sections of added memory) if there are hosts. */
export function settleHosts(m: Machine): void {
  if (m.hotplug.hosts.size === 0) return;
  const still = new Set<BlockId>();
  for (const { section, leaf } of leavesOf(m)) {
    const there = blockOf(m, leafPfn(m, leaf));
    if (m.hotplug.hosts.has(there) && there !== blockOf(m, section * PAGES_PER_SECTION)) still.add(there);
  }
  for (const host of [...m.hotplug.hosts]) if (!still.has(host)) m.hotplug.hosts.delete(host);
}

// ---------------------------------------------------------------------------------------------------- memmap.stat

export type MemmapStat = {
  readonly block: BlockId;
  /** Where its struct pages lie; 'mixed' after a move that did not end; 'boot' for memory of which no table says more. */
  readonly policy: MemmapPolicy | 'mixed' | 'boot';
  /** First frame of its first leaf; -1 for boot memory. */
  readonly basePfn: Pfn | -1;
  /** Frames that hold its struct pages. */
  readonly pages: number;
  /** Blocks where they lie, ascending: itself, a host, or any other. */
  readonly hostBlocks: readonly BlockId[];
  /** Blocks whose struct pages it hosts, ascending. */
  readonly guests: readonly BlockId[];
  /** Frames at its head: struct pages, vacant places, tables. */
  readonly headPages: number;
};

/** What is known of a block's struct pages; undefined where there is no such block. Cost O(its sections), a host O(all). */
export function memmapStat(m: Machine, block: BlockId): MemmapStat | undefined {
  const row = m.blocks.rowOf(block);
  if (row < 0) return undefined;
  const start = block * m.blockPages;
  const own = [...leavesOf(m, start, start + m.blockPages)];
  const places = new Set(own.map((at) => placeOf(m, at)));
  const [place] = places;
  const hosts = new Set(own.flatMap(({ leaf }) => leaf.slots.map((slot) => blockOf(m, pfnOfSlot(m, slot)))));
  const guests = new Set([...guestLeaves(m, block)].map(({ section }) => blockOf(m, section * PAGES_PER_SECTION)));
  const [first] = own;
  return {
    block,
    policy: place === undefined ? 'boot' : places.size > 1 ? 'mixed' : place,
    basePfn: first === undefined ? -1 : leafPfn(m, first.leaf),
    pages: (m.blockPages / PAGES_PER_SECTION) * PAGEBLOCK_PAGES,
    hostBlocks: ascending(hosts),
    guests: ascending(guests),
    headPages: m.blocks.vmemmapPages[row] as number,
  };
}

const ascending = (blocks: Iterable<BlockId>): BlockId[] => [...blocks].sort((a, b) => a - b);

/**
 * A frame's struct page: its address never changes, the frame behind it does when its leaf moves.
 * @returns undefined where there is no memory, and no frame for boot memory
 */
export function structPageOf(
  m: Machine,
  pfn: Pfn,
): { readonly address: string; readonly frame: Pfn | undefined } | undefined {
  if (m.sections.indexOf(pfn) < 0) return undefined;
  const address = structPageAddress(pfn);
  const leaf = leafOf(m, sectionOf(pfn))?.leaf;
  if (leaf === undefined) return { address, frame: undefined };
  // 64 struct pages a frame.
  const at = Math.floor((pfn % PAGES_PER_SECTION) / (PAGES_PER_SECTION / PAGEBLOCK_PAGES));
  if (leaf.slots.length > 1) return { address, frame: pfnOfSlot(m, leaf.slots[at] as number) };
  return { address, frame: toPfn(leafPfn(m, leaf) + at) };
}

// ------------------------------------------------------------------------------------------------------- the check

/** D1 and the invariants above; empty when sound. Cost O(sections of added memory). */
export function checkMemmap(m: Machine): string[] {
  const wrong: string[] = [];
  const seen = new Map<number, string>(); // slot -> what has it
  const note = (slot: number, by: string, order: number): number => {
    const twice = seen.get(slot);
    if (twice !== undefined) wrong.push(`D1 slot ${slot} is of ${twice} and of ${by}`);
    seen.set(slot, by);
    const index = m.holders.has(slot) ? m.holders.frameAt(slot) : -1;
    const a = index < 0 ? undefined : m.sections.allocationAt(index);
    if (a?.head !== index || a.order !== order) wrong.push(`D1 ${by}: no allocation of order ${order} there`);
    return index;
  };
  const hosts = new Set<BlockId>();
  for (const { section, range, leaf } of leavesOf(m)) {
    const by = `the leaf of section ${section}`;
    if (m.sections.slotOf(section) < 0) wrong.push(`D1 ${by}: the section is not present`);
    const whole = leaf.slots.length === 1;
    if (!whole && leaf.slots.length !== PAGEBLOCK_PAGES) wrong.push(`D1 ${by} has ${leaf.slots.length} pieces`);
    const at = leaf.slots.map((slot) => note(slot, by, whole ? PAGEBLOCK_ORDER : 0));
    if (leaf.table >= 0) note(leaf.table, `the table of section ${section}`, 0);
    if (leaf.table < 0 && (at[0] as number) % PAGEBLOCK_PAGES !== 0) wrong.push(`D1 ${by} is not aligned`);
    if (leaf.table < 0 && at.some((i, k) => i !== (at[0] as number) + k)) wrong.push(`D1 ${by}: no table, in pieces`);
    for (const index of at) {
      if (index < 0) continue;
      const pfn = m.sections.pfnOf(index);
      if (m.poolAt(index) === undefined && !inHead(m, pfn)) wrong.push(`D1 ${by}: frame ${pfn} is offline`);
      const there = blockOf(m, pfn);
      if (there === blockOf(m, section * PAGES_PER_SECTION)) continue;
      if (inHead(m, pfn) || m.hotplug.hosts.has(there)) hosts.add(there);
    }
    const leaves = (range.end - range.start) / PAGES_PER_SECTION;
    if (range.memmap.leaves.length !== leaves)
      wrong.push(`D1 ${leaves} sections, ${range.memmap.leaves.length} leaves`);
  }
  for (const r of m.hotplug.ranges) for (const t of r.memmap.tables) note(t.slot, `a table of ${r.start}`, 0);
  for (const host of hosts) if (!m.hotplug.hosts.has(host)) wrong.push(`D2 block ${host} hosts others and is no host`);
  for (const host of m.hotplug.hosts) if (!hosts.has(host)) wrong.push(`D2 block ${host} is a host without guests`);
  for (let h = 0; h < m.holders.length; h++) {
    const name = m.holders.specs[h]?.name;
    if (name !== MEMMAP_HOLDER && name !== TABLES_HOLDER) continue;
    m.holders.forEachMember(h, (frame, _index, slot) => {
      if (!seen.has(slot)) wrong.push(`D1 frame ${m.sections.pfnOf(frame)} (${name}) is of no section`);
    });
  }
  for (let row = 0; row < m.blocks.length; row++) checkHead(m, row, seen, wrong);
  return wrong;
}

/** Every pageblock of an added block's head is a leaf, a vacancy that is not the last, or tables. */
function checkHead(m: Machine, row: number, leaves: ReadonlyMap<number, string>, wrong: string[]): void {
  const pages = m.blocks.vmemmapPages[row] as number;
  const start = toPfn(m.blocks.idAt(row) * m.blockPages);
  if (pages === 0 || rangeAt(m, start) === undefined) return; // a twin's: no table says more
  const first = m.sections.indexOf(start);
  for (let i = first; i < first + pages; ) {
    const a = m.sections.allocationAt(i);
    const slot = m.sections.ownerAt(i);
    const name = a?.head === i ? holderName(m, m.holders.holderOf(slot)) : 'nobody';
    const known = leaves.has(slot) || name === VACANT_HOLDER || name === HEAD_TABLES_HOLDER;
    if (!known) wrong.push(`D1 frame ${m.sections.pfnOf(i)} in the head of its block: ${name}`);
    i += a?.head === i ? 2 ** a.order : 1;
    if (i === first + pages && name === VACANT_HOLDER)
      wrong.push(`D4 block ${blockOf(m, start)}: its head ends vacant`);
  }
}

const holderName = (m: Machine, holder: HolderId): string => m.holders.specs[holder]?.name ?? 'nobody';
