// Removing memory: the physical half of hotplug, backwards. Blocks that are all offline vanish, with their memmap.
//
//   check      whole blocks that are there; all offline                EINVAL, ENOENT, EBUSY "because memory is onlined"
//   ═══ point of no return ═══
//   vanish     what stayed in the blocks is forgotten; blocks, sections, the frames of their memmap, addresses (a larger
//              resource is split); a memory group stays its driver's
//   node       gone when it spans no frames, has no block (offline ones count) and no CPU
//
// Invariant: A3 an add that is removed leaves every table as it was before.
//
// Follows Linux v6.12 mm/memory_hotplug.c: try_remove_memory(), try_offline_node() (spec 1.13).

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type NodeId, toBlockId, toPfn } from '#base/units';
import { PAGE_SIZE, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { AddedRange } from './hotplug.ts';
import type { Machine } from './machine.ts';
import { PAGES_PER_GIGABYTE } from './memmap.ts';
import { type MemmapFrames, pfnOfSlot, splitMemmap } from './memmap-frames.ts';
import { forgetMoves } from './memmap-move.ts';
import { releaseLeaf } from './memmap-place.ts';
import { blockOf, guestLeaves, leafPfn, leavesOf, settleHosts } from './memmap-where.ts';
import type { MemoryRange } from './memory-add.ts';
import { BLOCK_OFFLINE } from './memory-block.ts';
import { forgetPoison } from './memory-failure.ts';
import { allocationsIn } from './page-isolation.ts';
import { type Refusal, refusal } from './refusal.ts';

export type RemoveReport = {
  /** Blocks that are gone. */
  readonly blocks: number;
  /** Frames of other memory that its memmap gave back. */
  readonly kernelPages: number;
  /** Nodes that went with it. */
  readonly nodes: readonly NodeId[];
};

/** See Machine.removeMemory. Cost O(blocks + frames in use in the range). */
export function removeMemory(m: Machine, range: MemoryRange): Result<RemoveReport, Refusal> {
  assert(m.offlinesUnderWay === 0, 'an offline is under way: wait for the hotplug lock', range);
  const { start, end } = range;
  const { blocks, blockPages } = m;
  const at = `start 0x${(start * PAGE_SIZE).toString(16)}, size 0x${((end - start) * PAGE_SIZE).toString(16)}`;
  if (start >= end || start % blockPages !== 0 || end % blockPages !== 0) {
    const message = `Block size [0x${(blockPages * PAGE_SIZE).toString(16)}] unaligned hotplug range: ${at}`;
    return err(refusal('unaligned', message));
  }
  const first = toBlockId(start / blockPages);
  const count = (end - start) / blockPages;
  const row = blocks.rowOf(first);
  if (row < 0 || blocks.id[row + count - 1] !== first + count - 1) {
    return err(refusal('no-such-memory', `there is no memory at all of ${at}`));
  }
  for (let k = 0; k < count; k++) {
    if (blocks.state[row + k] === BLOCK_OFFLINE) continue;
    const from = (first + k) * blockPages * PAGE_SIZE;
    const to = from + blockPages * PAGE_SIZE - 1;
    const message = `removing memory fails, because memory [0x${from.toString(16).padStart(16, '0')}-0x${to.toString(16).padStart(16, '0')}] is onlined`;
    m.onLog?.({ level: 'warn', text: message });
    return err(refusal('still-online', message));
  }
  const refused = memmapInTheWay(m, range);
  if (refused !== undefined) return err(refused);

  // ═══ Point of no return: nothing below can fail. ═══
  const nodes = new Set<NodeId>();
  const perBlock = blockPages / PAGES_PER_SECTION;
  releaseAddresses(m, start, end);
  const kernelPages = forgetRanges(m, start, end);
  // Last block first, so that holders get their slots back in the order in which the add took them (A3).
  for (let k = count - 1; k >= 0; k--) {
    nodes.add(blocks.node[row + k] as NodeId);
    const group = m.hotplug.groups.get(blocks.group[row + k] as number);
    if (group !== undefined) group.blocks--;
    forgetPoison(m, toBlockId(first + k));
    const index = m.sections.indexOf(toPfn(start + k * blockPages));
    for (const a of [...allocationsIn(m, index, index + blockPages)].reverse()) m.forget(a.head);
    for (let n = 0; n < perBlock; n++) m.sections.remove((first + k) * perBlock + n);
  }
  blocks.remove(first, count);
  m.growTables();
  settleHosts(m);
  forgetMoves(m, first * perBlock, (first + count) * perBlock);
  const gone = [...nodes].filter((n) => m.tryOfflineNode(n));
  m.emit({ type: 'remove', start, end, node: [...nodes][0] as NodeId });
  return ok({ blocks: count, kernelPages, nodes: gone });
}

/**
 * Struct pages that forbid it: blocks of adds that host themselves beside others (Linux: all or none), a part of a range
 * whose head describes the rest, and blocks that host others that stay (D2).
 */
function memmapInTheWay(m: Machine, { start, end }: MemoryRange): Refusal | undefined {
  const inside = (pfn: number): boolean => start <= pfn && pfn < end;
  const touched = m.hotplug.ranges.filter((r) => r.start < end && start < r.end);
  const covered = touched.reduce((n, r) => n + Math.min(r.end, end) - Math.max(r.start, start), 0);
  const hosting = touched.filter((r) => r.policy === 'self-block').length;
  const wholeRange = touched.some((r) => r.policy === 'self-range');
  if (!wholeRange && hosting > 0 && (hosting < touched.length || covered < end - start)) {
    return refusal('bad-request', 'some of the blocks host their own memmap and some do not: remove them apart');
  }
  for (const r of touched) {
    if (r.policy !== 'self-range' || (inside(r.start) && r.end <= end)) continue;
    for (const { section, leaf } of leavesOf(m, r.start, r.end)) {
      const pfn = leafPfn(m, leaf);
      if (pfn < r.start || r.end <= pfn || inside(pfn) === inside(section * PAGES_PER_SECTION)) continue;
      return refusal('bad-request', 'memory whose head hosts the memmap of all of it can only be removed whole');
    }
  }
  for (const host of m.hotplug.hosts) {
    if (!inside(host * m.blockPages)) continue;
    for (const { section } of guestLeaves(m, host)) {
      const pfn = section * PAGES_PER_SECTION;
      if (inside(pfn)) continue;
      return refusal('hosts', `block ${host} hosts the struct pages of block ${blockOf(m, pfn)}: move them first`);
    }
  }
  return undefined;
}

/** The adds that [start, end) came by are gone, or cut to what is left of them. @returns frames that their memmaps gave back */
function forgetRanges(m: Machine, start: number, end: number): number {
  const left: AddedRange[] = [];
  const given: MemmapFrames[] = [];
  for (const r of m.hotplug.ranges) {
    if (r.end <= start || end <= r.start) {
      left.push(r);
      continue;
    }
    const { before, gone, after } = splitMemmap(r.memmap, r, { start, end });
    if (r.start < start && before !== undefined) left.push({ ...partOf(r, r.start, start), memmap: before });
    if (end < r.end && after !== undefined) left.push({ ...partOf(r, end, r.end), memmap: after });
    if (gone !== undefined) given.push(gone);
  }
  m.hotplug.ranges = left;
  let pages = 0;
  for (const { leaves, tables } of given.map((frames) => withoutShared(left, frames))) {
    for (const leaf of leaves) {
      const pfn = leafPfn(m, leaf);
      if (pfn < start || end <= pfn) pages += releaseLeaf(m, leaf); // the others go with their blocks
    }
    for (const t of tables) m.free(pfnOfSlot(m, t.slot));
    pages += tables.length;
  }
  return pages;
}

/**
 * A page table that another add came to use does not go with the one that took it: it becomes the other's. Linux frees a
 * table when its last entry is gone. @returns the frames that nobody else needs
 */
function withoutShared(ranges: AddedRange[], frames: MemmapFrames): MemmapFrames {
  const tables = frames.tables.filter((t) => {
    const heir = ranges.findIndex((r) => r.start < t.endPfn && t.startPfn < r.end);
    if (heir < 0) return true;
    const r = ranges[heir] as AddedRange; // found above
    ranges[heir] = { ...r, memmap: { ...r.memmap, tables: [...r.memmap.tables, t] } };
    return false;
  });
  return { ...frames, tables };
}

/** Gives the addresses back, add by add: neighbours that came apart are lines of their own in /proc/iomem. */
function releaseAddresses(m: Machine, start: number, end: number): void {
  const borders = new Set([start, end]);
  for (const r of m.hotplug.ranges) {
    if (start < r.start && r.start < end) borders.add(r.start);
    if (start < r.end && r.end < end) borders.add(r.end);
  }
  const cuts = [...borders].sort((a, b) => a - b);
  for (let k = 0; k + 1 < cuts.length; k++) {
    m.hotplug.resources.release((cuts[k] as number) * PAGE_SIZE, (cuts[k + 1] as number) * PAGE_SIZE - 1);
  }
}

/** What is left of an add: struct pages are even; a GiB of the direct map that is cut goes on in leaves of 2 MiB. */
function partOf(r: AddedRange, start: number, end: number): AddedRange {
  const share = (end - start) / (r.end - r.start);
  let leaves1G = 0;
  if (r.directMap.leaves1G > 0) {
    for (let g = Math.ceil(start / PAGES_PER_GIGABYTE); (g + 1) * PAGES_PER_GIGABYTE <= end; g++) leaves1G++;
  }
  const leaves2M = (end - start - leaves1G * PAGES_PER_GIGABYTE) / PAGEBLOCK_PAGES;
  return {
    ...r,
    start: toPfn(start),
    end: toPfn(end),
    memmapPages: r.memmapPages * share,
    directMap: { leaves1G, leaves2M },
  };
}
