// Adding memory: the physical half of hotplug. A range becomes known; its blocks appear, offline.
//
//   step       what                                                          refusal                          undo
//   check      name, reach                                                   EINVAL E2BIG                     -
//   reserve    the addresses, /proc/iomem                                    EEXIST                           released
//   check      whole blocks, group, node, not there                          EINVAL EEXIST                    -
//   memmap     placed (memmap-place.ts); takes frames of existing memory      ENOMEM ENOSPC EINVAL             given back
//   ═══ point of no return ═══
//   appear     node, sections, blocks with group and memmap; frames that are not backed are marked
//   merge      its resource with its neighbours', if the driver asks
//   online     each block on its own by auto_online_blocks; what fails stays offline, the memory stays added
//
// Invariants: A1 a refusal leaves every table as it was; A2 blocks of one range all host their memmap or none does.
//
// Follows Linux v6.12 mm/memory_hotplug.c: add_memory_resource(), create_altmaps_and_memory_blocks(), __add_pages()
// (spec 1.9, 1.13, 4.3); Salvador and Hildenbrand 2018 for `self-range`.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type BlockId, type NodeId, type Pfn, toBlockId } from '#base/units';
import type { LogLine } from './events.ts';
import { workedAroundIn } from './fixed-areas/fixed-areas.ts';
import { MAX_PFN, PAGE_SIZE, PAGES_PER_SECTION } from './geometry.ts';
import type { Machine } from './machine.ts';
import { type MemmapFallback, type MemmapPolicy, presentSections } from './memmap.ts';
import { type MemmapWish, markHosts, placeHeads, placeMemmap } from './memmap-place.ts';
import type { GroupId } from './memory-group.ts';
import { placeUnbacked } from './memory-usable.ts';
import { type Refusal, type RefusalReason, refusal } from './refusal.ts';
import type { Resource } from './resource.ts';
import type { OnlineType } from './zone-choice.ts';

export type MemoryRange = { readonly start: Pfn; readonly end: Pfn };

export type AddOptions = {
  /** Where its struct pages lie; default `kernel`. `self-block` needs memmap_on_memory (spec 4.3), else it is `kernel`. */
  readonly memmap?: MemmapWish;
  /** Blocks that are to host them, for `host-section` and `auto`; default: those of the node, else its own lowest ones. */
  readonly memmapHosts?: readonly BlockId[];
  /** Where its part of the kernel's page tables lies; default `kernel`. `self` is the wish of Ishimatsu's talk 2013. */
  readonly pageTables?: 'kernel' | 'self';
  /** 1 GiB pages that it must be able to give: a policy that leaves fewer falls back to `kernel`. Default 0. */
  readonly gigantic?: number;
  /** Parts that are backed now; default all. The rest is never plugged until it grows (memory-usable.ts; spec 5.2, 9.F6). */
  readonly usable?: readonly MemoryRange[];
  /** Blocks that the online policy looks at as one. */
  readonly group?: GroupId;
  /** Its name in /proc/iomem, "System RAM (kmem)": not for the next kernel. Default: System RAM. */
  readonly driverManaged?: string;
  /** Its line in /proc/iomem joins its neighbours'. */
  readonly merge?: boolean;
};

export type AddReport = {
  readonly start: Pfn;
  readonly end: Pfn;
  readonly node: NodeId;
  readonly blocks: readonly BlockId[];
  /** The policy that it came to, and why it is not the one that was asked for. */
  readonly memmap: MemmapPolicy;
  readonly memmapWhy: MemmapFallback | undefined;
  /** Frames of existing memory that the memmap and page tables took. */
  readonly kernelPages: number;
  /** Blocks that auto-online brought up. */
  readonly onlined: readonly BlockId[];
};

const DRIVER_NAME = /^System RAM \(.+\)$/;
const hex = (n: number): string => `0x${n.toString(16)}`;
/** Physical addresses have 52 bits; a double holds them. */
const address = (pfn: number): number => pfn * PAGE_SIZE;

/** See Machine.addMemory. */
export function addMemory(
  m: Machine,
  range: MemoryRange,
  node: NodeId,
  options: AddOptions = {},
): Result<AddReport, Refusal> {
  assert(m.offlinesUnderWay === 0, 'an offline is under way: wait for the hotplug lock', range);
  const name = options.driverManaged ?? 'System RAM';
  if (options.driverManaged !== undefined && !DRIVER_NAME.test(name)) {
    return err(refusal('bad-request', `"${name}" is not of the form "System RAM (driver)"`));
  }
  if (range.start >= range.end) return err(unaligned(m, range));
  if (range.start < 0 || range.end > MAX_PFN) return err(outOfReach(m, range));
  if (workedAroundIn(m, range.start, range.end).length > 0) {
    return err(refusal('exists', 'the host backs these addresses for a driver whose area was worked around'));
  }
  const reserved = m.hotplug.resources.request(address(range.start), address(range.end) - 1, name);
  if (!reserved.ok) return err(taken(m, range, reserved.error));
  const added = addReserved(m, range, node, options, reserved.value);
  if (!added.ok) m.hotplug.resources.release(address(range.start), address(range.end) - 1);
  return added;
}

function addReserved(
  m: Machine,
  range: MemoryRange,
  node: NodeId,
  options: AddOptions,
  resource: Resource,
): Result<AddReport, Refusal> {
  const { start, end } = range;
  const { blockPages } = m;
  if (start % blockPages !== 0 || end % blockPages !== 0) return err(unaligned(m, range));
  const group = options.group === undefined ? undefined : m.hotplug.groups.get(options.group);
  if (options.group !== undefined && group?.node !== node) {
    return err(refusal('bad-request', `there is no memory group ${options.group} on node ${node}`));
  }
  if (!m.isPossible(node)) return err(logged(m, 'bad-request', `node ${node} was absent from the node_possible_map`));
  for (let n = Math.floor(start / PAGES_PER_SECTION); n < end / PAGES_PER_SECTION; n++) {
    if (m.sections.slotOf(n) >= 0) return err(refusal('exists', `section ${n} is present already`));
  }
  const placed = placeMemmap(m, {
    startPfn: start,
    pages: end - start,
    blockPages,
    node,
    wish: options.memmap ?? 'kernel',
    enabled: m.hotplug.settings.memmapOnMemory,
    callerAsks: options.memmap !== undefined && options.memmap !== 'kernel',
    profile: m.profile,
    pageTables: options.pageTables ?? 'kernel',
    present: presentSections(m),
    ...(options.gigantic === undefined ? {} : { gigantic: options.gigantic }),
    ...(options.memmapHosts === undefined ? {} : { hosts: options.memmapHosts }),
    ...(options.usable === undefined ? {} : { usable: options.usable }),
  });
  if (!placed.ok) return err(placed.error);
  const { plan, frames } = placed.value;

  // ═══ Point of no return: nothing below can fail. ═══
  if (!m.nodes.includes(node)) m.onlineNode(node);
  const first = toBlockId(start / blockPages);
  const count = (end - start) / blockPages;
  const row = m.blocks.insert(first, count);
  const perBlock = blockPages / PAGES_PER_SECTION;
  for (let k = 0; k < count; k++) {
    m.sections.addRun((first + k) * perBlock, perBlock);
    m.blocks.node[row + k] = node;
    m.blocks.vmemmapPages[row + k] = plan.headPages[k] ?? 0;
    if (options.group !== undefined) m.blocks.group[row + k] = options.group;
  }
  if (group !== undefined) group.blocks += count;
  m.growTables();
  const inHeads = placeHeads(m, first, plan);
  const leaves = inHeads.length > 0 ? inHeads : frames.leaves;
  markHosts(m, inHeads, start);
  m.blocks.stayed.fill(0, row, row + count); // the heads leave with their blocks; nothing else is there
  placeUnbacked(m, range, options.usable);
  m.hotplug.ranges.push({
    start,
    end,
    node,
    policy: plan.policy,
    memmapPages: plan.memmapPages,
    directMap: plan.directMap,
    memmap: Object.freeze({ tables: frames.tables, leaves }),
  });
  m.hotplug.ranges.sort((a, b) => a.start - b.start);
  if (options.merge === true) m.hotplug.resources.merge(resource);
  m.emit({ type: 'add', start, end, node });

  const blocks = Array.from({ length: count }, (_, k) => toBlockId(first + k));
  const onlined = autoOnline(m, blocks);
  return ok({
    start,
    end,
    node,
    blocks,
    memmap: plan.policy,
    memmapWhy: plan.why,
    kernelPages: placed.value.kernelPages,
    onlined,
  });
}

const AUTO: Readonly<Record<string, OnlineType>> = {
  online: 'online',
  online_kernel: 'kernel',
  online_movable: 'movable',
};

/** Each block on its own; Linux ignores what fails (spec 1.9). */
function autoOnline(m: Machine, blocks: readonly BlockId[]): BlockId[] {
  const how = AUTO[m.hotplug.settings.autoOnline];
  return how === undefined ? [] : blocks.filter((b) => m.online(b, how).ok);
}

/** A refusal whose message is the line that the kernel logs. */
function logged(m: Machine, reason: RefusalReason, text: string, level: LogLine['level'] = 'warn'): Refusal {
  m.onLog?.({ level, text });
  return refusal(reason, text);
}

function unaligned(m: Machine, { start, end }: MemoryRange): Refusal {
  const size = hex(address(m.blockPages));
  const range = `start ${hex(address(start))}, size ${hex(address(end - start))}`;
  return logged(m, 'unaligned', `Block size [${size}] unaligned hotplug range: ${range}`);
}

function outOfReach(m: Machine, { start, end }: MemoryRange): Refusal {
  const range = `[${hex(address(start))}-${hex(address(end))}]`; // the kernel prints the end excluded here
  const reach = `[0x0-${hex(address(MAX_PFN) - 1)}]`;
  return logged(m, 'out-of-range', `Hotplug memory ${range} exceeds maximum addressable range ${reach}`);
}

function taken(m: Machine, { start, end }: MemoryRange, by: Resource): Refusal {
  const digits = (pfn: number): string => address(pfn).toString(16).padStart(16, '0');
  const text = `Unable to reserve System RAM region: ${digits(start)}->${digits(end)}`;
  m.onLog?.({ level: 'debug', text });
  return refusal('exists', `${text}: ${by.name} has ${hex(by.start)}-${hex(by.end)}`);
}
