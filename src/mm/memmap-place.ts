// Placing: where the struct pages of an added range go, when the policy alone does not say, and host blocks.
//
//   wish           comes to
//   kernel         kernel
//   self-block     self-block; when a condition of spec 4.3 fails: kernel, without a word (today's Linux)
//   self-range     the same with self-range
//   host-section   the hosts that are named; else blocks of the node that can be, lowest first, if they have room for all of
//                  it; else the lowest blocks of the range itself host the rest of it: laid out as self-range
//   fallback       self-block while it works and leaves as many 1 GiB pages as are wanted, else kernel: option (c) of 2018
//   auto           self-block; when it leaves too few 1 GiB pages: host-section, if that leaves enough; else kernel
//
// A block can be a host if it is offline, or online in a kernel zone: struct pages do not move by themselves, and ZONE_MOVABLE
// promises that all does. In an online host a leaf takes a pageblock wherever it is free, lowest first; an offline one's head
// grows. A block of 2 GiB hosts 1024 leaves: its own 16 and 1008 others.
//
// What is not backed is not touched (spec 9.F6): heads lie in the usable part, or the add is refused (ENOSPC) or, by fallback
// and auto, goes to existing memory.
//
// Invariant: a refusal has changed nothing.
//
// Spec 9.D, 9.F6; Salvador and Hildenbrand 2018, options (a) to (c).

import { err, ok, type Result } from '#base/result';
import { type BlockId, type NodeId, toPfn } from '#base/units';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { Machine } from './machine.ts';
import {
  gigabytesLeft,
  type MemmapInput,
  type MemmapLayout,
  type MemmapPlan,
  type MemmapPolicy,
  planMemmap,
} from './memmap.ts';
import {
  holderNamed,
  MEMMAP_HOLDER,
  type MemmapFrames,
  type MemmapLeaf,
  memmapPages,
  pfnOfSlot,
  releaseKernelLeaf,
  slotAt,
  takeKernelMemmap,
} from './memmap-frames.ts';
import { type LeafPlace, leaveHead, spares, takeHeadPlace, takePageblock } from './memmap-head.ts';
import { blockOf, HEAD_TABLES_HOLDER, inHead, leafPfn, settleHosts } from './memmap-where.ts';
import { BLOCK_OFFLINE, BLOCK_ONLINE } from './memory-block.ts';
import { ZONE_DMA, ZONE_MOVABLE } from './page-class.ts';
import type { Pool } from './pool.ts';
import { type Refusal, refusal } from './refusal.ts';

/** What one may ask for. */
export const MEMMAP_WISHES = ['kernel', 'self-block', 'self-range', 'host-section', 'fallback', 'auto'] as const;
export type MemmapWish = (typeof MEMMAP_WISHES)[number];

/** Half-open range of frames. */
type FrameRange = { readonly start: number; readonly end: number };

export type PlaceInput = Omit<MemmapInput, 'policy'> & {
  readonly node: NodeId;
  readonly wish: MemmapWish;
  /** Blocks that are to host it; for host-section and auto. */
  readonly hosts?: readonly BlockId[];
  /** Parts that are backed now; default all. */
  readonly usable?: readonly FrameRange[];
};

export type Placement = {
  readonly policy: MemmapPolicy;
  readonly plan: MemmapPlan;
  /** Tables, and the leaves that lie outside of the range; those in heads come to be with their blocks. */
  readonly frames: MemmapFrames;
  /** Frames of free memory that they took. */
  readonly kernelPages: number;
};

/**
 * Chooses, and takes what lies in memory that is there. To be called before the sections appear. Cost O(blocks + frames).
 *
 * @returns refusals: bad-request (EINVAL) a named host is none; not-backed (ENOSPC) a head would lie outside of the usable part;
 *          no-memory (ENOMEM)
 */
export function placeMemmap(m: Machine, input: PlaceInput): Result<Placement, Refusal> {
  const { wish } = input;
  if (wish === 'kernel') return take(m, input, plan(input, 'kernel'));
  if (wish === 'host-section') return host(m, input) ?? backed(m, input, hostingItself(input));
  if (wish === 'self-block' || wish === 'self-range') return backed(m, input, plan(input, wish));
  const own = plan(input, 'self-block');
  const usable = headsAreBacked(own.headPages, input);
  if (usable && (own.policy === 'self-block' || wish === 'fallback')) return take(m, input, own);
  if (wish === 'auto' && (own.why === 'gigantic' || !usable)) {
    const hosted = host(m, input);
    if (hosted?.ok === true) return hosted;
    const range = hostingItself(input);
    if (range.policy !== 'kernel' && headsAreBacked(range.headPages, input)) return take(m, input, range);
  }
  return take(m, input, { ...plan(input, 'kernel'), why: own.why ?? 'not-backed' });
}

const plan = (input: PlaceInput, policy: MemmapLayout): MemmapPlan => planMemmap({ ...input, policy });

/** The range's lowest blocks host the others: the layout of self-range. */
function hostingItself(input: PlaceInput): MemmapPlan {
  const range = plan(input, 'self-range');
  return range.policy === 'self-range' ? { ...range, policy: 'host-section' } : range;
}

/** The frames of a plan that was asked for by name, which its heads must be backed for. */
function backed(m: Machine, input: PlaceInput, wanted: MemmapPlan): Result<Placement, Refusal> {
  if (headsAreBacked(wanted.headPages, input)) return take(m, input, wanted);
  const pages = wanted.headPages.reduce((n, x) => n + x, 0);
  return err(
    refusal('not-backed', `${pages} frames of struct pages at the head of each block, and not all are backed`),
  );
}

/** Spec 4.4: the memmap is written before anything comes online, so that its frames must be backed. */
function headsAreBacked(heads: Int32Array, { startPfn, blockPages, usable }: PlaceInput): boolean {
  if (usable === undefined) return true;
  return heads.every((pages, k) => {
    const start = startPfn + k * blockPages;
    return pages === 0 || usable.some((u) => u.start <= start && start + pages <= u.end);
  });
}

function take(m: Machine, input: PlaceInput, chosen: MemmapPlan): Result<Placement, Refusal> {
  const frames = takeKernelMemmap(m, input.node, chosen);
  if (!frames.ok) return frames;
  return ok({ policy: chosen.policy, plan: chosen, frames: frames.value, kernelPages: memmapPages(frames.value) });
}

// ------------------------------------------------------------------------------------------------------------- hosts

/** Everything on other blocks. Undefined when none were named and those there are have too little room, or too few GiB stay. */
function host(m: Machine, input: PlaceInput): Result<Placement, Refusal> | undefined {
  const sections = input.pages / PAGES_PER_SECTION;
  const base = planMemmap({ ...input, policy: 'kernel' });
  const hosted: MemmapPlan = { ...base, policy: 'host-section', why: undefined, kernelChunks: 0 };
  if (gigabytesLeft(input, base.headPages) < (input.gigantic ?? 0)) return undefined;
  const named = input.hosts;
  if (named !== undefined) {
    const bad = named.find((id) => !canHost(m, id));
    if (bad !== undefined || named.length === 0) return err(noHost(bad));
  }
  const candidates = named ?? hostCandidates(m, input.node);
  if (named === undefined && hostRoom(m, candidates) < sections) return undefined;
  const frames = takeKernelMemmap(m, input.node, hosted);
  if (!frames.ok) return frames;
  const seats = new HostSeats(m, candidates);
  const leaves: MemmapLeaf[] = [];
  const memmap = holderNamed(m, 'memmap', MEMMAP_HOLDER);
  while (leaves.length < sections) {
    const place = seats.next();
    if (place === undefined) {
      for (const leaf of leaves.reverse()) releaseLeaf(m, leaf); // last first: holders get their slots back in order
      for (const t of frames.value.tables) m.free(pfnOfSlot(m, t.slot));
      settleHosts(m);
      const message = `${leaves.length} of ${sections} leaves of struct pages found room in the hosts`;
      return named === undefined ? undefined : err(refusal('no-memory', message));
    }
    m.occupy(memmap, place.index, PAGEBLOCK_ORDER);
    place.commit();
    leaves.push({ slots: [m.sections.ownerAt(place.index)], table: -1 });
  }
  const inZones = leaves.filter((leaf) => !inHead(m, leafPfn(m, leaf))).length;
  return ok({
    policy: 'host-section',
    plan: hosted,
    frames: { tables: frames.value.tables, leaves },
    kernelPages: frames.value.tables.length + inZones * PAGEBLOCK_PAGES,
  });
}

const noHost = (id: BlockId | undefined): Refusal =>
  refusal(
    'bad-request',
    id === undefined ? 'no block was named' : `block ${id} cannot host: it is not there, in ZONE_MOVABLE, or leaving`,
  );

/** Is it there, whole, and offline or online in kernel zones? */
export function canHost(m: Machine, id: BlockId): boolean {
  const row = m.blocks.rowOf(id);
  if (row < 0 || m.blocks.absent[row] !== 0) return false;
  const state = m.blocks.state[row];
  if (state === BLOCK_OFFLINE) return true;
  return state === BLOCK_ONLINE && m.pools[m.blocks.pool[row] as number]?.zone !== ZONE_MOVABLE;
}

/** Of a block that lies in several zones, not what old devices need, and not Movable. */
const hostsLeaves = (pool: Pool): boolean => pool.zone !== ZONE_DMA && pool.zone !== ZONE_MOVABLE;

/** Blocks of a node that can host, hosts first, then the lowest. */
export function hostCandidates(m: Machine, node: NodeId): BlockId[] {
  const mine = m.blockIds().filter((id) => m.blocks.node[m.blocks.rowOf(id)] === node && canHost(m, id));
  return [...mine.filter((id) => m.hotplug.hosts.has(id)), ...mine.filter((id) => !m.hotplug.hosts.has(id))];
}

/** Leaves that blocks could take now without anything being moved. An estimate: watermarks are looked at one by one. */
function hostRoom(m: Machine, blocks: readonly BlockId[]): number {
  let room = 0;
  for (const id of blocks) {
    const row = m.blocks.rowOf(id);
    const first = m.sections.indexOf(toPfn(id * m.blockPages));
    const head = m.blocks.vmemmapPages[row] as number;
    if (m.blocks.state[row] === BLOCK_OFFLINE) {
      const known = m.sections.nextKnown(first + head, first + m.blockPages);
      room += Math.floor((known - first - head) / PAGEBLOCK_PAGES);
      continue;
    }
    for (let i = first + head; i < first + m.blockPages; i += PAGEBLOCK_PAGES) {
      const pool = m.poolAt(i);
      if (pool === undefined || !hostsLeaves(pool) || !spares(pool)) continue;
      const at = i - pool.base;
      if (pool.alloc.area.freeIn(at, at + PAGEBLOCK_PAGES) === PAGEBLOCK_PAGES) room++;
    }
  }
  return room;
}

/** Places in hosts, one after the other: all that are free first, then those that can be emptied. Marks hosts as such. */
export class HostSeats {
  readonly #m: Machine;
  readonly #places: Generator<LeafPlace>;

  constructor(m: Machine, hosts: readonly BlockId[], avoid?: BlockId) {
    this.#m = m;
    this.#places = this.#walk(hosts.filter((id) => id !== avoid));
  }

  /** The next place; undefined when there is none. */
  next(): LeafPlace | undefined {
    const r = this.#places.next();
    return r.done === true ? undefined : r.value;
  }

  *#walk(hosts: readonly BlockId[]): Generator<LeafPlace> {
    for (const how of ['free', 'empty'] as const) {
      for (const id of hosts) {
        for (const place of this.#in(id, how)) {
          yield { ...place, commit: () => this.#m.hotplug.hosts.add(id) && place.commit() };
        }
      }
    }
  }

  *#in(id: BlockId, how: 'free' | 'empty'): Generator<LeafPlace> {
    const m = this.#m;
    const row = m.blocks.rowOf(id);
    if (!canHost(m, id)) return;
    if (m.blocks.state[row] === BLOCK_OFFLINE) {
      for (let place = takeHeadPlace(m, id); place !== undefined; place = takeHeadPlace(m, id)) yield place;
      return;
    }
    const first = m.sections.indexOf(toPfn(id * m.blockPages));
    for (let i = first + (m.blocks.vmemmapPages[row] as number); i < first + m.blockPages; i += PAGEBLOCK_PAGES) {
      const pool = m.poolAt(i);
      const place = pool !== undefined && hostsLeaves(pool) ? takePageblock(m, i, how) : undefined;
      if (place !== undefined) yield place;
    }
  }
}

/** A leaf is given up, wherever it lies. Its section is gone, or never came. @returns frames that are free now */
export function releaseLeaf(m: Machine, leaf: MemmapLeaf): number {
  const pfn = leafPfn(m, leaf);
  if (leaf.slots.length > 1 || !inHead(m, pfn)) {
    releaseKernelLeaf(m, leaf);
    return PAGEBLOCK_PAGES + (leaf.table >= 0 ? 1 : 0);
  }
  const index = m.sections.indexOf(pfn);
  m.unhold(index, PAGEBLOCK_ORDER);
  m.sections.vacate(index, PAGEBLOCK_ORDER);
  leaveHead(m, index);
  return 0;
}

/**
 * The heads of a range that has just appeared get their struct pages, and the tables behind them.
 * @returns its leaves by section; none when the plan has no heads
 */
export function placeHeads(m: Machine, first: BlockId, plan: MemmapPlan): MemmapLeaf[] {
  const leaves: MemmapLeaf[] = [];
  if (!plan.headPages.some((n) => n > 0)) return leaves;
  const memmap = holderNamed(m, 'memmap', MEMMAP_HOLDER);
  const perBlock = m.blockPages / PAGES_PER_SECTION;
  const sections = plan.headPages.length * perBlock;
  plan.headPages.forEach((pages, k) => {
    const start = (first + k) * m.blockPages;
    const wanted = plan.policy === 'self-block' ? perBlock : sections - leaves.length;
    const here = Math.min(wanted, Math.floor(pages / PAGEBLOCK_PAGES));
    for (let n = 0; n < here; n++) {
      const pfn = start + n * PAGEBLOCK_PAGES;
      m.place(memmap, toPfn(pfn), toPfn(pfn + PAGEBLOCK_PAGES));
      leaves.push({ slots: [slotAt(m, pfn)], table: -1 });
    }
    const rest = start + here * PAGEBLOCK_PAGES;
    if (rest === start + pages) return;
    m.place(holderNamed(m, 'memmap', HEAD_TABLES_HOLDER), toPfn(rest), toPfn(start + pages));
  });
  return leaves;
}

/** Blocks of a range that has just appeared whose heads hold struct pages of its other blocks. */
export function markHosts(m: Machine, leaves: readonly MemmapLeaf[], startPfn: number): void {
  leaves.forEach((leaf, k) => {
    const there = blockOf(m, leafPfn(m, leaf));
    if (there !== blockOf(m, startPfn + k * PAGES_PER_SECTION)) m.hotplug.hosts.add(there);
  });
}
