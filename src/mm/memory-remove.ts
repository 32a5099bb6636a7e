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
import { type MemmapFrames, PAGES_PER_GIGABYTE, releaseKernelMemmap, splitMemmap } from './memmap.ts';
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
  const hosted = Array.from({ length: count }, (_, k) => (blocks.vmemmapPages[row + k] as number) > 0);
  const wholeRange = m.hotplug.ranges.some((r) => r.policy === 'self-range' && r.start < end && start < r.end);
  if (!wholeRange && hosted.some((h) => h !== hosted[0])) {
    return err(refusal('bad-request', 'some of the blocks host their own memmap and some do not: remove them apart'));
  }
  for (const r of m.hotplug.ranges) {
    const inside = start <= r.start && r.end <= end;
    if (r.policy !== 'self-range' || inside || r.end <= start || end <= r.start) continue;
    return err(refusal('bad-request', 'memory whose head hosts the memmap of all of it can only be removed whole'));
  }

  // ═══ Point of no return: nothing below can fail. ═══
  const nodes = new Set<NodeId>();
  const perBlock = blockPages / PAGES_PER_SECTION;
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
  releaseAddresses(m, start, end);
  const kernelPages = forgetRanges(m, start, end);
  const gone = [...nodes].filter((n) => m.tryOfflineNode(n));
  m.emit({ type: 'remove', start, end, node: [...nodes][0] as NodeId });
  return ok({ blocks: count, kernelPages, nodes: gone });
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
    if (r.start < start) left.push({ ...partOf(r, r.start, start), memmap: before });
    if (end < r.end) left.push({ ...partOf(r, end, r.end), memmap: after });
    if (gone !== undefined) given.push(gone);
  }
  m.hotplug.ranges = left;
  return given.reduce((pages, frames) => pages + releaseKernelMemmap(m, withoutShared(left, frames)), 0);
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
    const own = r.memmap ?? { tables: [], chunks: [], pages: 0 };
    ranges[heir] = { ...r, memmap: { ...own, tables: [...own.tables, t], pages: own.pages + 1 } };
    return false;
  });
  return { ...frames, tables, pages: frames.pages - (frames.tables.length - tables.length) };
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
