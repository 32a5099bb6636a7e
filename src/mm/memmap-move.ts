// Moving struct pages: 2 MiB of them, a section's, go to other frames while their virtual address stays.
//
//   vmemmap   0xffffea0000000000 + 64 * pfn  ──leaf──> 512 frames          ==>  ──leaf──> 512 other frames
//
//   step        what                                                    when it fails
//   reserve     512 aligned frames in nobody's hands                    nothing has happened: no-target
//   freeze      writers of the section's struct pages wait: its         thawed, frames given back
//               sequence number is odd
//   copy        2 MiB                                                   the same
//   switch      the leaf's entry names the new frames                   the same
//   shootdown   no CPU has the old translation any more                 switched back; then the same
//   ═══ point of no return ═══
//   release     the old frames: free, vacant in a head, or isolated. Thawed: the number is even again, and another
//
// A block of n sections is n such moves, each whole: interrupted, some sections lie here and some there, which is legal. In
// the engine each is one atomic step; `relocate` copies and switches in one, faults are asked before and behind it.
//
// Struct pages in single frames (memmap-frames.ts) come to a pageblock one by one, and are mapped by one entry again: their
// table is free then.
//
// Invariants: LM1 contents, and each struct page's address, are the same before and after; LM2 after a fault at any step every
// table is as before; LM3 frames are neither lost nor had twice (D1).
//
// Spec 9.D. What Linux has of it: mm/hugetlb_vmemmap.c (v6.12) remaps parts of the vmemmap while it is in use.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type BlockId, type NodeId, toPfn } from '#base/units';
import { takeFrames } from './alloc-path.ts';
import { MIGRATE_UNMOVABLE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { Machine } from './machine.ts';
import { machineState } from './machine-state.ts';
import { pfnOfSlot, setLeaf } from './memmap-frames.ts';
import { type LeafPlace, leaveHead, takeHeadPlace, takePageblock } from './memmap-head.ts';
import { canHost, HostSeats, hostCandidates, type MemmapWish } from './memmap-place.ts';
import { blockOf, inHead, type LeafAt, leafOf, leafPfn, leavesOf, placeOf, settleHosts } from './memmap-where.ts';
import type { MemoryRange } from './memory-add.ts';
import { BLOCK_GOING_OFFLINE } from './memory-block.ts';
import { ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { blockerOf } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { type BlockerCause, type Refusal, refusal } from './refusal.ts';
import { META_PINNED } from './section.ts';

/** Steps that can fail in the world: names for Machine.faultAt. */
export const MEMMAP_FAULT_POINTS = [
  'memmap.reserve',
  'memmap.freeze',
  'memmap.copy',
  'memmap.switch',
  'memmap.shootdown',
] as const;
export type MemmapFaultPoint = (typeof MEMMAP_FAULT_POINTS)[number];

export type MemmapCounters = {
  /** Leaves that moved, and their frames. */
  moves: number;
  copiedPages: number;
  /** Times all CPUs gave up their translations. */
  shootdowns: number;
  /** Leaves of single frames that are mapped by one entry again. */
  collapses: number;
  /** Moves that were broken off and undone, by step. */
  readonly faults: Record<MemmapFaultPoint, number>;
};

const noFaults = (): Record<MemmapFaultPoint, number> => ({
  'memmap.reserve': 0,
  'memmap.freeze': 0,
  'memmap.copy': 0,
  'memmap.switch': 0,
  'memmap.shootdown': 0,
});

/** What moves leave behind: counters, and the sequence numbers of sections whose struct pages ever moved. */
class MoveLedger {
  readonly counters: MemmapCounters = { moves: 0, copiedPages: 0, shootdowns: 0, collapses: 0, faults: noFaults() };
  readonly sequence = new Map<number, number>();

  copy(): MoveLedger {
    const out = new MoveLedger();
    Object.assign(out.counters, this.counters, { faults: { ...this.counters.faults } });
    for (const [section, n] of this.sequence) out.sequence.set(section, n);
    return out;
  }
}

const ledger = machineState(() => new MoveLedger());

/** Sections [first, end) are gone, and what was counted of them. */
export function forgetMoves(m: Machine, first: number, end: number): void {
  const sequence = ledger.has(m)?.sequence;
  for (let n = first; sequence !== undefined && sequence.size > 0 && n < end; n++) sequence.delete(n);
}

/** A copy of the counters. */
export function memmapCounters(m: Machine): MemmapCounters {
  const { counters } = ledger.of(m);
  return { ...counters, faults: { ...counters.faults } };
}

/** Even: a section's struct pages may be written. Odd: they are on their way. It grows by 2 with each attempt. */
export const memmapSequence = (m: Machine, section: number): number => ledger.has(m)?.sequence.get(section) ?? 0;

/** What one attempt came to; as for migration, 'pinned' and 'no-target' may change. */
export type LeafOutcome = 'moved' | Extract<BlockerCause, 'pinned' | 'no-target' | 'fault'>;

/** One thing to move: allocations of the same order, in order, that come to lie behind one another. */
type Load = {
  /** Heads in the dense index, now. */
  readonly heads: readonly number[];
  readonly order: number;
  /** -1 where no table says of which section the struct pages are. */
  readonly section: number;
};

/**
 * The protocol at the top of this file, once. @param reserve takes the place. @param release gives the old frames of one
 * allocation back. Cost O(frames moved)
 */
function moveLoad(
  m: Machine,
  load: Load,
  reserve: () => LeafPlace | undefined,
  release: (head: number) => void,
): LeafOutcome {
  const { counters, sequence } = ledger.of(m);
  const { heads, order, section } = load;
  const fails = (point: MemmapFaultPoint): boolean => {
    if (m.faultAt?.(point) !== true) return false;
    counters.faults[point]++;
    return true;
  };
  const turn = (): void => {
    if (section >= 0) sequence.set(section, (sequence.get(section) ?? 0) + 1);
  };
  if (heads.some((head) => (m.sections.metaAt(head) & META_PINNED) !== 0)) return 'pinned';

  if (fails('memmap.reserve')) return 'fault';
  const place = reserve();
  if (place === undefined) return 'no-target';
  const ladder = [place.giveBack];
  const undo = (): LeafOutcome => {
    for (let rung = ladder.pop(); rung !== undefined; rung = ladder.pop()) rung();
    return 'fault';
  };
  turn(); // writers wait
  ladder.push(turn);
  if (fails('memmap.freeze') || fails('memmap.copy') || fails('memmap.switch')) return undo();
  const step = 2 ** order;
  heads.forEach((head, k) => {
    const to = place.index + k * step;
    m.relocate(head, to, order);
    ladder.push(() => m.relocate(to, head, order));
  });
  if (fails('memmap.shootdown')) return undo();

  // ═══ Point of no return: nothing below can fail. ═══
  place.commit();
  for (const head of heads) release(head);
  turn(); // writers go on
  counters.moves++;
  counters.shootdowns++;
  counters.copiedPages += heads.length * step;
  return 'moved';
}

/** Old frames in a zone are free, or stay isolated; those of boot memory become managed, as a balloon's do (migrate.ts). */
function freeOld(m: Machine, head: number, order: number): void {
  const pool = m.poolAt(head) as Pool; // it lies in an online pageblock
  pool.alloc.freeToArea(head - pool.base, order);
}

/** Moves the leaf of one section. The caller settles hosts when it is done (settleHosts). */
export function moveLeaf(m: Machine, at: LeafAt, reserve: () => LeafPlace | undefined): LeafOutcome {
  const { leaf, section } = at;
  const whole = leaf.slots.length === 1;
  const order = whole ? PAGEBLOCK_ORDER : 0;
  const heads = leaf.slots.map((slot) => m.holders.frameAt(slot));
  const head = inHead(m, leafPfn(m, leaf));
  const outcome = moveLoad(m, { heads, order, section }, reserve, (from) => {
    if (!head) freeOld(m, from, order);
  });
  if (outcome !== 'moved') return outcome;
  if (head) leaveHead(m, (heads[0] as number) - ((heads[0] as number) % PAGEBLOCK_PAGES));
  if (leaf.table >= 0) {
    m.free(pfnOfSlot(m, leaf.table));
    setLeaf(m, section, { slots: leaf.slots, table: -1 });
    ledger.of(m).counters.collapses++;
  }
  return 'moved';
}

/**
 * Moves one allocation of struct pages that lies in a zone, whatever its order: for evictors. A single frame of a leaf that is
 * mapped by one entry needs a table first. `unmanaged`: boot memory's.
 */
export function moveMemmapFrames(
  m: Machine,
  head: number,
  order: number,
  options: { readonly section: number; readonly unmanaged: boolean; readonly reserve: () => LeafPlace | undefined },
): LeafOutcome {
  const source = m.poolAt(head) as Pool; // an evictor's allocation is online
  const { section, unmanaged, reserve } = options;
  return moveLoad(
    m,
    { heads: [head], order, section },
    () => {
      const place = reserve();
      if (place === undefined || !unmanaged) return place;
      const target = m.poolAt(place.index) as Pool; // it was taken from one
      return {
        ...place,
        commit: () => {
          place.commit();
          source.managed += 2 ** order;
          target.managed -= 2 ** order;
        },
      };
    },
    (from) => freeOld(m, from, order),
  );
}

// ------------------------------------------------------------------------------------------------------- where to

/** Frames that a target may not be in: asked of a frame number, the same for all frames of a memory block. */
export type Avoid = (pfn: number) => boolean;

/** How many pageblocks one search tries to empty before it gives up. */
const EMPTY_TRIES = 8;

/**
 * 2^order frames in a kernel zone, near the node first, but not where they are to be avoided: what is free; for a whole leaf
 * also a pageblock whose contents can move. Cost O(1) mostly, else O(pageblocks).
 */
export function takeKernelPlace(m: Machine, node: NodeId, order: number, avoid: Avoid): LeafPlace | undefined {
  const list = m.zonelist(m.nodes.includes(node) ? node : (m.nodes[0] as NodeId), ZONE_NORMAL);
  const within = (index: number): boolean => avoid(m.sections.pfnOf(index));
  const index = takeFrames(m, list, order, MIGRATE_UNMOVABLE, ZONE_NORMAL);
  if (index >= 0) {
    const pool = m.poolAt(index) as Pool; // a pool hands out only frames it owns
    const giveBack = (): void => pool.alloc.freeToArea(index - pool.base, order);
    if (!within(index)) return { index, commit: () => undefined, giveBack };
    giveBack();
  }
  const free = searchFree(m, list, order, within);
  if (free !== undefined || order !== PAGEBLOCK_ORDER) return free;
  let tries = 0;
  for (const i of pageblocksByFree(m, list, within)) {
    const place = takePageblock(m, i, 'empty');
    if (place !== undefined || ++tries === EMPTY_TRIES) return place;
  }
  return undefined;
}

/** Free frames of the lists, zone by zone, lowest first: memory that was added later, and may go again, lies higher. */
function searchFree(
  m: Machine,
  list: Int32Array,
  order: number,
  within: (index: number) => boolean,
): LeafPlace | undefined {
  for (const id of list) {
    const pool = m.pools[id] as Pool;
    for (let at = 0; at < pool.pages; at += PAGEBLOCK_PAGES) {
      const index = pool.base + at;
      const free = pool.alloc.area.freeIn(at, at + PAGEBLOCK_PAGES);
      if (free < 2 ** order || m.poolAt(index) !== pool || within(index)) continue;
      if (order === PAGEBLOCK_ORDER) {
        const place = takePageblock(m, index, 'free');
        if (place !== undefined) return place;
        continue;
      }
      const single = takeFreeIn(pool, at, order);
      if (single !== undefined) return { ...single, index: single.index + pool.base };
    }
  }
  return undefined;
}

/** The first free chunk of an order or more in a pageblock, cut to size. */
function takeFreeIn(pool: Pool, at: number, order: number): LeafPlace | undefined {
  const { area } = pool.alloc;
  let index = -1;
  area.forEachFree(at, at + PAGEBLOCK_PAGES, (i, o) => {
    if (index < 0 && o >= order) index = area.headOf(i);
  });
  if (index < 0) return undefined;
  const had = area.orderAt(index);
  pool.alloc.take(index, had);
  for (let o = had - 1; o >= order; o--) pool.alloc.put(index + 2 ** o, o);
  return { index, commit: () => undefined, giveBack: () => pool.alloc.freeToArea(index, order) };
}

/** Pageblocks of the lists that are partly free, the emptiest first. */
function pageblocksByFree(m: Machine, list: Int32Array, within: (index: number) => boolean): number[] {
  const found: { index: number; free: number }[] = [];
  for (const id of list) {
    const pool = m.pools[id] as Pool;
    for (let at = 0; at < pool.pages; at += PAGEBLOCK_PAGES) {
      const index = pool.base + at;
      if (m.poolAt(index) !== pool || within(index)) continue;
      const pfn = m.sections.pfnOf(index);
      if (m.blockersIn(pfn, toPfn(pfn + PAGEBLOCK_PAGES)).length > 0) continue;
      found.push({ index, free: pool.alloc.area.freeIn(at, at + PAGEBLOCK_PAGES) });
    }
  }
  return found.sort((a, b) => b.free - a.free).map((f) => f.index);
}

// --------------------------------------------------------------------------------------------------- memmap.move

export type MoveTarget =
  | {
      readonly policy: MemmapWish;
      /** For host-section and auto; default: blocks of the node. */
      readonly hosts?: readonly BlockId[];
      /** For auto: 1 GiB pages are wanted of the block, so that its own head is no place. Default false. */
      readonly gigantic?: boolean;
    }
  /** Pageblocks of a kernel zone, lowest first. */
  | { readonly range: MemoryRange };

export type MemmapMoveReport = {
  readonly block: BlockId;
  /** Sections whose struct pages moved, and those that were where they should be. */
  readonly moved: number;
  readonly stayed: number;
};

/** One way to put a leaf somewhere: where it is there already, and the next place. */
type Seat = { readonly isThere: (at: LeafAt) => boolean; readonly next: () => LeafPlace | undefined };

/** memmap.move in steps of one section, between which the machine may be used. */
export class MemmapMove {
  readonly block: BlockId;
  moved = 0;
  stayed = 0;
  /** Set when it is over and not all of it moved; what moved stays moved. */
  refusal: Refusal | undefined;
  finished = false;

  readonly #m: Machine;
  readonly #target: MoveTarget;
  #seats: readonly Seat[] | undefined;
  #section: number;
  readonly #end: number;

  constructor(m: Machine, block: BlockId, target: MoveTarget) {
    this.#m = m;
    this.block = block;
    this.#target = target;
    const perBlock = m.blockPages / PAGES_PER_SECTION;
    this.#section = block * perBlock;
    this.#end = this.#section + perBlock;
  }

  /** The next section. @returns true while there are more */
  step(): boolean {
    assert(!this.finished, 'the move is over', { block: this.block });
    this.refusal = this.#start() ?? this.#moveNext();
    this.finished = this.refusal !== undefined || this.#section === this.#end;
    if (this.finished && this.moved > 0) this.#m.updateWatermarks();
    return !this.finished;
  }

  /** Ends it between two sections, as a signal does. */
  cancel(): void {
    if (this.finished) return;
    this.finished = true;
    this.refusal = refusal('interrupted', `the move of block ${this.block}'s struct pages was interrupted`);
    this.#m.updateWatermarks();
  }

  #start(): Refusal | undefined {
    const m = this.#m;
    const row = m.blocks.rowOf(this.block);
    if (row < 0) return refusal('no-such-block', `there is no memory block ${this.block}`);
    if (m.offlinesUnderWay > 0 || m.blocks.state[row] === BLOCK_GOING_OFFLINE) {
      return refusal('busy', 'an offline is under way: wait for the hotplug lock');
    }
    if (leafOf(m, this.#section) === undefined) {
      return refusal('bad-request', `no table says where the struct pages of block ${this.block} lie: boot memory`);
    }
    if (this.#seats !== undefined) return undefined;
    const seats = seatsFor(m, this.block, this.#target);
    if (!seats.ok) return seats.error;
    this.#seats = seats.value;
    return undefined;
  }

  #moveNext(): Refusal | undefined {
    const m = this.#m;
    const at = leafOf(m, this.#section) as LeafAt; // asked at the start of each step
    for (const seat of this.#seats ?? []) {
      if (seat.isThere(at)) {
        this.stayed++;
        this.#section++;
        return undefined;
      }
      const outcome = moveLeaf(m, at, seat.next);
      if (outcome === 'no-target') continue;
      if (outcome !== 'moved') return this.#refused(at, outcome);
      settleHosts(m);
      this.moved++;
      this.#section++;
      return undefined;
    }
    return this.#refused(at, 'no-target');
  }

  #refused({ leaf, section }: LeafAt, cause: Exclude<LeafOutcome, 'moved'>): Refusal {
    const m = this.#m;
    const reason = ({ 'no-target': 'no-memory', pinned: 'in-use', fault: 'fault' } as const)[cause];
    const message = `the struct pages of section ${section} stay (${cause}); ${this.moved} sections of the block moved`;
    return refusal(reason, message, [blockerOf(m, m.holders.frameAt(leaf.slots[0] as number), PAGEBLOCK_PAGES, cause)]);
  }
}

/**
 * Moves the struct pages of a block that was added, whether it is online or not. Each section is a step of its own: after a
 * refusal those that moved stay moved.
 *
 * @returns refusals: no-such-block (ENOENT), busy (EBUSY) during an offline, bad-request (EINVAL) for boot memory and hosts that
 *          are none, no-memory (ENOMEM), in-use (EBUSY) pinned, fault (EIO). Cost O(frames moved)
 */
export function moveMemmap(m: Machine, block: BlockId, target: MoveTarget): Result<MemmapMoveReport, Refusal> {
  const move = new MemmapMove(m, block, target);
  while (!move.finished) move.step();
  if (move.refusal !== undefined) return err(move.refusal);
  return ok({ block, moved: move.moved, stayed: move.stayed });
}

/** The places of a target, those to be tried first in front. */
function seatsFor(m: Machine, block: BlockId, target: MoveTarget): Result<readonly Seat[], Refusal> {
  if ('range' in target) return rangeSeat(m, target.range);
  const { policy } = target;
  const node = m.blocks.node[m.blocks.rowOf(block)] as NodeId;
  const hosts = target.hosts ?? hostCandidates(m, node);
  const bad = hosts.find((id) => !canHost(m, id) || id === block);
  const named = target.hosts !== undefined;
  if (named && (hosts.length === 0 || bad !== undefined)) {
    return err(refusal('bad-request', `block ${bad ?? 'none'} cannot host the struct pages of block ${block}`));
  }
  if (policy === 'kernel') return ok([kernelSeat(m, block, node)]);
  if (policy === 'self-block') return ok([ownSeat(m, block)]);
  if (policy === 'self-range') return ok([headOfRangeSeat(m, block)]);
  if (policy === 'host-section') return ok([hostSeat(m, block, hosts)]);
  if (policy === 'fallback') return ok([ownSeat(m, block), kernelSeat(m, block, node)]);
  const own = target.gigantic === true ? [] : [ownSeat(m, block)];
  return ok([...own, hostSeat(m, block, hosts), kernelSeat(m, block, node)]);
}

/** Neither the block itself nor a host: there it would be a guest. */
const neitherOwnNorHost =
  (m: Machine, block: BlockId): Avoid =>
  (pfn) => {
    const there = blockOf(m, pfn);
    return there === block || m.hotplug.hosts.has(there);
  };

const kernelSeat = (m: Machine, block: BlockId, node: NodeId): Seat => ({
  isThere: (at) => placeOf(m, at) === 'kernel' && blockOf(m, leafPfn(m, at.leaf)) !== block,
  next: () => takeKernelPlace(m, node, PAGEBLOCK_ORDER, neitherOwnNorHost(m, block)),
});

const ownSeat = (m: Machine, block: BlockId): Seat => ({
  isThere: ({ leaf }) => inHead(m, leafPfn(m, leaf)) && blockOf(m, leafPfn(m, leaf)) === block,
  next: () => takeHeadPlace(m, block),
});

const hostSeat = (m: Machine, block: BlockId, hosts: readonly BlockId[]): Seat => {
  const seats = new HostSeats(m, hosts, block);
  return {
    isThere: ({ leaf }) => {
      const there = blockOf(m, leafPfn(m, leaf));
      return there !== block && hosts.includes(there) && m.hotplug.hosts.has(there);
    },
    next: () => seats.next(),
  };
};

/** The heads of the blocks of the block's own add, the first that has room. */
const headOfRangeSeat = (m: Machine, block: BlockId): Seat => {
  const blocks = (): BlockId[] => {
    const { range } = leafOf(m, (block * m.blockPages) / PAGES_PER_SECTION) as LeafAt; // the block was added
    const first = blockOf(m, range.start);
    return m.blockIds().filter((id) => first <= id && id < first + (range.end - range.start) / m.blockPages);
  };
  return {
    isThere: (at) => ['self-range', 'host-section'].includes(placeOf(m, at)) && isOfOwnAdd(m, at),
    next: () => {
      for (const id of blocks()) {
        const place = takeHeadPlace(m, id);
        if (place === undefined) continue;
        if (id === block) return place;
        return { ...place, commit: () => m.hotplug.hosts.add(id) && place.commit() };
      }
      return undefined;
    },
  };
};

const isOfOwnAdd = (m: Machine, { leaf, range }: LeafAt): boolean => {
  const pfn = leafPfn(m, leaf);
  return range.start <= pfn && pfn < range.end;
};

function rangeSeat(m: Machine, { start, end }: MemoryRange): Result<readonly Seat[], Refusal> {
  if (start >= end || start % PAGEBLOCK_PAGES !== 0 || end % PAGEBLOCK_PAGES !== 0) {
    return err(refusal('unaligned', 'a place for struct pages is whole pageblocks of 2 MiB'));
  }
  let at: number = start;
  return ok([
    {
      isThere: ({ leaf }) => start <= leafPfn(m, leaf) && leafPfn(m, leaf) < end,
      next: () => {
        for (; at < end; at += PAGEBLOCK_PAGES) {
          const index = m.sections.indexOf(toPfn(at));
          const pool = index < 0 ? undefined : m.poolAt(index);
          if (pool === undefined || pool.zone === ZONE_MOVABLE || inHead(m, at)) continue;
          const place = takePageblock(m, index, 'empty');
          if (place !== undefined) return place;
        }
        return undefined;
      },
    },
  ]);
}

/** The section whose leaf has this slot, or -1. Cost O(sections of added memory). */
export function sectionOfSlot(m: Machine, slot: number): number {
  for (const { section, leaf } of leavesOf(m)) if (leaf.slots.includes(slot)) return section;
  return -1;
}
