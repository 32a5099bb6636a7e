// Huge page pools: memory set aside in pages of 2 MiB or 1 GiB, and who has them.
//
//   buddy ──resize, boot──> free in the pool ──fault──> used by a holder ──release──> free in the pool
//     ^                          │  └ some of them are reserved (mmap() promised them)          │
//     └──────resize, dissolve────┘                                                              │
//     └───────────────── surplus or temporary: goes back at once ───────────────────────────────┘
//
//   field      meaning                                            /proc/meminfo      sysfs
//   nr         pages of the pool, free and used                   HugePages_Total    nr_hugepages
//   free       in the pool, nobody has them; reserved included    HugePages_Free     free_hugepages
//   reserved   promised to mappings, not yet taken                HugePages_Rsvd     resv_hugepages
//   surplus    of nr, beyond the size asked for; leave when freed HugePages_Surp     surplus_hugepages
//   overcommit how many surplus pages faults may make             -                  nr_overcommit_hugepages
//
// A page of 2 MiB is one allocation of order 9; a page of 1 GiB is 512 of them, neighbours, of class `gigantic`, because
// no allocation is larger than a buddy. Free pages belong to a holder of the pool. Lists keep the *slot* of a page's first
// allocation (holder.ts): a slot stays when its page moves, so that a pool never looks for pages that were migrated.
// Free lists are taken from where they are added to: the last one freed is the first one used.
//
// Invariants: HU1 free lists and used pages are each a page's first slot, of the right order and holder; HU2 the pool's
// holder has what the free list says; HU3 reserved <= free, surplus <= nr, per node too.
//
// A holder of class `hugetlb` that took its frames elsewhere (a twin's) is no business of the pool: nothing here touches
// it. Growing and shrinking: hugetlb-resize.ts. Follows Linux v6.12 mm/hugetlb.c: enqueue_hugetlb_folio(),
// dequeue_hugetlb_folio_nodemask(), free_huge_folio(), dissolve_free_hugetlb_folio(), hugetlb_acct_memory(). Left out:
// subpools and reserve maps (a caller says whether its fault is covered by a reservation), cgroups, mempolicies, demotion.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, type Pfn, toPfn } from '#base/units';
import { takeFrames } from './alloc-path.ts';
import {
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  PAGE_SHIFT,
  PAGE_SIZE,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
} from './geometry.ts';
import type { Machine } from './machine.ts';
import { machineState } from './machine-state.ts';
import { type MigrateMode, type MigrateOutcome, migrateAllocation, migrateFaults } from './migrate.ts';
import { ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { blockerOf } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { type Refusal, refusal } from './refusal.ts';
import { KIND_HEAD0, KIND_MASK, META_PINNED, META_WRITEBACK } from './section.ts';

/** Orders of the two sizes of x86-64. */
export const HUGE_2M = 9;
export const HUGE_1G = 18;
export type HugeOrder = typeof HUGE_2M | typeof HUGE_1G;

export type HugetlbCounts = {
  readonly nr: number;
  readonly free: number;
  readonly reserved: number;
  readonly surplus: number;
  readonly overcommit: number;
};

/** One size of huge pages: Linux's struct hstate. Rows are pages, named by the slot of their first allocation. */
export class Hstate {
  readonly order: HugeOrder;
  /** Frames of a page. */
  readonly pages: number;
  /** Who has the free ones; -1 = nobody yet. */
  holder: HolderId | -1 = -1;
  /** Free pages; the last one is taken first. */
  free: number[] = [];
  used = new Set<number>();
  reserved = 0;
  overcommit = 0;
  readonly surplus = new Map<NodeId, number>();
  /** Whose turn it is, when nothing says on which node to grow and to shrink. */
  nextToAlloc = 0;
  nextToFree = 0;

  constructor(order: HugeOrder) {
    this.order = order;
    this.pages = 2 ** order;
  }

  /** "hugepages-2048kB". */
  get directory(): string {
    return `hugepages-${2 ** (this.order + PAGE_SHIFT - 10)}kB`;
  }

  get nr(): number {
    return this.free.length + this.used.size;
  }

  get surplusAll(): number {
    let n = 0;
    for (const k of this.surplus.values()) n += k;
    return n;
  }

  /** Pages that were asked for: all but surplus ones. */
  get persistent(): number {
    return this.nr - this.surplusAll;
  }

  surplusOn(node: NodeId): number {
    return this.surplus.get(node) ?? 0;
  }

  addSurplus(node: NodeId, delta: 1 | -1): void {
    const now = this.surplusOn(node) + delta;
    assert(now >= 0, 'surplus pages of a node cannot be fewer than none', { node, order: this.order });
    this.surplus.set(node, now);
  }

  copy(): Hstate {
    const out = new Hstate(this.order);
    out.holder = this.holder;
    out.free = this.free.slice();
    out.used = new Set(this.used);
    out.reserved = this.reserved;
    out.overcommit = this.overcommit;
    for (const [node, n] of this.surplus) out.surplus.set(node, n);
    out.nextToAlloc = this.nextToAlloc;
    out.nextToFree = this.nextToFree;
    return out;
  }
}

export class HugetlbPools {
  readonly sizes: readonly Hstate[];

  constructor(sizes: readonly Hstate[] = [new Hstate(HUGE_2M), new Hstate(HUGE_1G)]) {
    this.sizes = sizes;
  }

  size(order: HugeOrder): Hstate {
    return this.sizes.find((h) => h.order === order) as Hstate; // both sizes always exist
  }

  copy(): HugetlbPools {
    return new HugetlbPools(this.sizes.map((h) => h.copy()));
  }
}

const pools = machineState(() => new HugetlbPools());

/** The pools of a machine: empty ones when nobody has asked before. Cost O(1). */
export const hugetlbOf = (m: Machine): HugetlbPools => pools.of(m);

// ------------------------------------------------------------------------------------------------- questions

/** Dense index of a page's first frame. */
const headOf = (m: Machine, slot: number): number => m.holders.frameAt(slot);

/** Node of a page, where it lies now. */
function nodeOf(m: Machine, slot: number): NodeId {
  return (m.zoneAt(headOf(m, slot)) as Pool).node; // a page of the pool is online
}

/** The five numbers of a size, of one node or of all. `reserved` and `overcommit` are kept for the whole only. Cost O(pages). */
export function hugetlbCounts(m: Machine, order: HugeOrder, node?: NodeId): HugetlbCounts {
  const h = hugetlbOf(m).size(order);
  if (node === undefined) {
    return {
      nr: h.nr,
      free: h.free.length,
      reserved: h.reserved,
      surplus: h.surplusAll,
      overcommit: h.overcommit,
    };
  }
  const free = h.free.filter((slot) => nodeOf(m, slot) === node).length;
  let used = 0;
  for (const slot of h.used) if (nodeOf(m, slot) === node) used++;
  return { nr: free + used, free, reserved: 0, surplus: h.surplusOn(node), overcommit: 0 };
}

/** "Hugetlb:" of /proc/meminfo: bytes in all pools. */
export const hugetlbBytes = (m: Machine): number =>
  hugetlbOf(m).sizes.reduce((bytes, h) => bytes + h.nr * h.pages * PAGE_SIZE, 0);

/** The pool's page that covers a frame: its size, its first slot, and whether it is free. Cost O(1). */
export function hugePageAt(m: Machine, index: number): { h: Hstate; slot: number; free: boolean } | undefined {
  const state = pools.has(m);
  const a = state === undefined ? undefined : m.sections.allocationAt(index);
  if (state === undefined || a === undefined) return undefined;
  for (const h of state.sizes) {
    const pfn = m.sections.pfnOf(a.head);
    const first = m.sections.indexOf(toPfn(pfn - (pfn % h.pages)));
    if (first < 0 || m.sections.allocationAt(first)?.head !== first) continue;
    const slot = m.sections.ownerAt(first);
    if (h.used.has(slot)) return { h, slot, free: false };
    if (m.holders.holderOf(slot) === h.holder) return { h, slot, free: true };
  }
  return undefined;
}

// ------------------------------------------------------------------------------------------ pages come and go

/** The holder of the pool's free pages; made when it is first needed. */
export function poolHolder(m: Machine, h: Hstate): HolderId {
  if (h.holder < 0) {
    const name = `${h.directory}, free in the pool`;
    h.holder = m.addHolder({ class: h.order === HUGE_2M ? 'hugetlb' : 'gigantic', name });
  }
  return h.holder as HolderId;
}

/** Calls back for each allocation of a page, ascending: one of 2 MiB, 512 of 1 GiB. */
function forEachPiece(m: Machine, h: Hstate, head: number, each: (index: number, order: number) => void): void {
  const start = m.sections.pfnOf(head);
  for (let pfn: number = start; pfn < start + h.pages; ) {
    const index = m.sections.indexOf(toPfn(pfn));
    const a = m.sections.allocationAt(index);
    assert(a !== undefined && a.head === index, 'a huge page has a hole', { start, pfn, order: h.order });
    each(index, a.order);
    pfn += 2 ** a.order;
  }
}

/** The page's frames change hands, in place, contents and all. @returns the new first slot. */
export function handOver(m: Machine, h: Hstate, slot: number, to: HolderId): number {
  const head = headOf(m, slot);
  forEachPiece(m, h, head, (index, order) => {
    m.unhold(index, order);
    m.occupy(to, index, order);
  });
  return m.sections.ownerAt(head);
}

/** A free page joins the pool (its frames are the pool holder's). */
export function enqueue(h: Hstate, slot: number): void {
  h.free.push(slot);
}

/** The page leaves the pool and its frames go back to the allocator. `slot` is on no list any more. */
function toBuddy(m: Machine, h: Hstate, slot: number): void {
  const heads: Pfn[] = [];
  forEachPiece(m, h, headOf(m, slot), (index) => heads.push(m.sections.pfnOf(index)));
  for (const pfn of heads) m.free(pfn);
}

/** Takes a free page off its list and gives its frames back. */
export function freePoolPage(m: Machine, h: Hstate, slot: number): void {
  const at = h.free.lastIndexOf(slot);
  assert(at >= 0, 'the page is not free in the pool', { slot, order: h.order });
  h.free.splice(at, 1);
  toBuddy(m, h, slot);
}

/** Free pages of a node, the one that is taken first at the front. Pages in isolated pageblocks are left alone. */
export function firstFree(m: Machine, h: Hstate, node: NodeId): number {
  for (let k = h.free.length - 1; k >= 0; k--) {
    const pool = m.poolAt(headOf(m, h.free[k])) as Pool; // a page of the pool is online
    if ((m.zoneAt(headOf(m, h.free[k])) as Pool).node !== node) continue;
    if (pool.alloc.area.typeOf(headOf(m, h.free[k]) - pool.base) === MIGRATE_ISOLATE) continue;
    return h.free[k];
  }
  return -1;
}

/** Linux: clear_huge_page(). Contents by tag need nothing: the new owner's tag replaces the old one. */
function clear(m: Machine, h: Hstate, slot: number): void {
  if (m.spec.contents !== 'bytes') return;
  const zeros = new Uint8Array(PAGE_SIZE);
  const start = m.sections.pfnOf(headOf(m, slot));
  for (let k = 0; k < h.pages; k++) m.write(toPfn(start + k), 0, zeros);
}

/** 2^9 frames of one node from the allocator, or -1. */
export function buddyHugePage(m: Machine, node: NodeId): number {
  const list = m.zonelist(node, ZONE_MOVABLE).filter((id) => m.pools[id].node === node);
  return takeFrames(m, list, PAGEBLOCK_ORDER, MIGRATE_MOVABLE, ZONE_MOVABLE);
}

/** A page beyond the pool's size, if the limit on those allows and there is memory. @returns its slot, or -1. */
function surplusPage(m: Machine, h: Hstate, holder: HolderId, node: NodeId): number {
  if (h.order !== HUGE_2M || h.surplusAll >= h.overcommit) return -1; // gigantic pages are never made by a fault
  const index = takeFrames(m, m.zonelist(node, ZONE_MOVABLE), PAGEBLOCK_ORDER, MIGRATE_MOVABLE, ZONE_MOVABLE);
  if (index < 0) return -1;
  m.occupy(holder, index, PAGEBLOCK_ORDER);
  const slot = m.sections.ownerAt(index);
  h.addSurplus(nodeOf(m, slot), 1);
  return slot;
}

const nodeFor = (m: Machine, node: NodeId | undefined): NodeId => node ?? m.nodes[0];

/** Nodes by distance from one: the order in which a request looks for a page. */
const nodesFrom = (m: Machine, node: NodeId): NodeId[] => [
  ...new Set([...m.zonelist(node, ZONE_MOVABLE)].map((id) => m.pools[id].node)),
];

// -------------------------------------------------------------------------------------------------- the verbs

/**
 * mmap(): `count` pages are promised. Pages that the pool lacks are made as surplus, as far as overcommit allows.
 *
 * @returns reserved pages in all; ENOMEM (no-memory) and nothing has changed
 */
export function reserveHuge(m: Machine, order: HugeOrder, count: number): Result<number, Refusal> {
  const h = hugetlbOf(m).size(order);
  assert(Number.isInteger(count) && count >= 0, 'a reservation is a whole number of pages', { count });
  const made: number[] = [];
  while (h.reserved + count > h.free.length + made.length) {
    const slot = surplusPage(m, h, poolHolder(m, h), nodeFor(m, undefined));
    if (slot < 0) {
      for (const s of made) {
        h.addSurplus(nodeOf(m, s), -1);
        toBuddy(m, h, s);
      }
      return err(refusal('no-memory', `${h.directory}: ${h.free.length - h.reserved} pages are free and not reserved`));
    }
    made.push(slot);
  }
  for (const slot of made) enqueue(h, slot);
  h.reserved += count;
  return ok(h.reserved);
}

/** munmap() of what was never touched: the promise ends, and surplus pages that stood for it leave. */
export function unreserveHuge(m: Machine, order: HugeOrder, count: number): void {
  const h = hugetlbOf(m).size(order);
  assert(count >= 0 && count <= h.reserved, 'more than was reserved', { count, reserved: h.reserved });
  h.reserved -= count;
  let left = Math.min(count, h.surplusAll);
  for (const node of m.nodes) {
    for (; left > 0 && h.surplusOn(node) > 0; left--) {
      const slot = firstFree(m, h, node);
      if (slot < 0) break;
      h.addSurplus(node, -1);
      freePoolPage(m, h, slot);
    }
  }
}

/**
 * A page fault takes a page for a holder, from the nearest node that has a free one.
 *
 * `reserved`: the fault was promised its page by reserveHuge. Without a promise only pages that are not reserved are for
 * the taking; when there is none, a surplus page is made, as far as overcommit allows. The holder's class must be
 * `hugetlb` (2 MiB) or `gigantic` (1 GiB).
 *
 * @returns the first frame; ENOSPC (no-huge-page: Linux sends SIGBUS) and nothing has changed. Cost O(frames of a page).
 */
export function faultHuge(
  m: Machine,
  order: HugeOrder,
  holder: HolderId,
  options: { readonly node?: NodeId; readonly reserved: boolean },
): Result<Pfn, Refusal> {
  const h = hugetlbOf(m).size(order);
  const cls = m.holders.specs[holder].class;
  assert(cls === (order === HUGE_2M ? 'hugetlb' : 'gigantic'), 'a huge page needs a holder of its class', { cls });
  assert(!options.reserved || h.reserved > 0, 'the fault was promised nothing', { reserved: h.reserved });
  const preferred = m.holders.node[holder];
  const node = nodeFor(m, options.node ?? (preferred < 0 ? undefined : (preferred as NodeId)));
  let slot = -1;
  if (options.reserved || h.free.length > h.reserved) {
    for (const n of nodesFrom(m, node)) {
      slot = firstFree(m, h, n);
      if (slot >= 0) break;
    }
  }
  if (slot >= 0) {
    h.free.splice(h.free.lastIndexOf(slot), 1);
    if (options.reserved) h.reserved--;
    slot = handOver(m, h, slot, holder);
  } else {
    slot = surplusPage(m, h, holder, node);
    if (slot < 0) {
      const message = `${h.directory}: ${h.free.length} pages are free, ${h.reserved} of them reserved`;
      return err(refusal('no-huge-page', message));
    }
  }
  clear(m, h, slot);
  h.used.add(slot);
  return ok(m.sections.pfnOf(headOf(m, slot)));
}

/**
 * munmap(): the holder gives a page back. To the pool; to the allocator while its node has surplus pages.
 * A frame that is not the first of a used page of a pool is a bug and throws.
 */
export function releaseHuge(m: Machine, pfn: Pfn): void {
  const index = m.sections.indexOf(pfn);
  const at = index < 0 ? undefined : hugePageAt(m, index);
  assert(at !== undefined && !at.free && headOf(m, at.slot) === index, 'no used huge page begins here', { pfn });
  const { h, slot } = at;
  const node = nodeOf(m, slot);
  forEachPiece(m, h, index, (i) => m.unpin(m.sections.pfnOf(i)));
  h.used.delete(slot);
  if (h.surplusOn(node) > 0) {
    h.addSurplus(node, -1);
    toBuddy(m, h, slot);
    return;
  }
  enqueue(h, handOver(m, h, slot, poolHolder(m, h)));
}

/** @internal A used page leaves its pool's books; its frames stay its holder's. @returns whether a pool had it. Cost O(1). */
export function forgetHugePage(m: Machine, index: number): boolean {
  const at = hugePageAt(m, index);
  if (at === undefined || at.free) return false;
  const node = nodeOf(m, at.slot);
  at.h.used.delete(at.slot);
  if (at.h.surplusOn(node) > 0) at.h.addSurplus(node, -1);
  return true;
}

/**
 * A free page leaves the pool for the allocator, wherever it is asked for (hot-remove, memory failure).
 *
 * @returns EBUSY (dissolve) when the page is used, or when no page could be spared: all free ones are reserved
 */
export function dissolveFreeHugePage(m: Machine, index: number): Result<'dissolved' | 'none', Refusal> {
  const at = hugePageAt(m, index);
  if (at === undefined) return ok('none');
  const { h, slot, free } = at;
  if (!free || h.free.length === h.reserved) {
    const why = free ? `all ${h.free.length} free pages are reserved` : 'it is used';
    return err(
      refusal('dissolve', `failure to dissolve huge pages: ${h.directory}: ${why}`, [
        blockerOf(m, headOf(m, slot), PAGEBLOCK_PAGES, free ? 'unmovable' : 'pinned'),
      ]),
    );
  }
  const node = nodeOf(m, slot);
  if (h.surplusOn(node) > 0) h.addSurplus(node, -1);
  freePoolPage(m, h, slot);
  return ok('dissolved');
}

/**
 * Every free page that lies in [start, end), even in part, is dissolved, ascending; what was dissolved before a refusal
 * stays dissolved, as in Linux.
 *
 * @returns pages dissolved; EBUSY (dissolve). Cost O(pageblocks + frames dissolved).
 */
export function dissolveFreeHugePages(m: Machine, start: Pfn, end: Pfn): Result<number, Refusal> {
  if (pools.has(m) === undefined) return ok(0);
  let dissolved = 0;
  for (let pfn: number = start - (start % PAGEBLOCK_PAGES); pfn < end; pfn += PAGEBLOCK_PAGES) {
    const index = m.sections.indexOf(toPfn(pfn));
    if (index < 0) continue;
    const r = dissolveFreeHugePage(m, index);
    if (!r.ok) return r;
    if (r.value === 'dissolved') dissolved++;
  }
  return ok(dissolved);
}

/** Most allocations are too small to be a huge page: one load tells, before any table of the pools is asked. */
const isHugeSized = (m: Machine, head: number): boolean =>
  (m.sections.metaAt(head) & KIND_MASK) === KIND_HEAD0 + PAGEBLOCK_ORDER;

/** True for a frame of a pool's free page: an offline leaves it where it is until it dissolves it. */
export function isFreeHugePage(m: Machine, head: number): boolean {
  if (!isHugeSized(m, head)) return false;
  const state = pools.has(m);
  if (state === undefined) return false;
  const holder = m.holders.holderOf(m.sections.ownerAt(head));
  return state.sizes.some((h) => h.holder === holder);
}

/**
 * Moves the allocation at `head`, as migrateAllocation does, with what the pools know: a used page of 2 MiB goes to a free
 * page of a target node, if one is not reserved (its own page is free in the pool then), else to a fresh one (its own
 * goes back to the allocator). The pool's size does not change; a surplus follows its page to the other node.
 */
export function migrateWithPools(
  m: Machine,
  head: number,
  targets: Int32Array,
  mode: MigrateMode = 'sync',
): MigrateOutcome {
  const at = isHugeSized(m, head) ? hugePageAt(m, head) : undefined;
  if (at === undefined) return migrateAllocation(m, head, targets, mode);
  const { h, slot, free } = at;
  if (h.order !== HUGE_2M) return 'final';
  const from = nodeOf(m, slot);
  const still = (m.sections.metaAt(head) & (META_PINNED | META_WRITEBACK)) === 0;
  if (!free && still && h.free.length > h.reserved && m.faultAt?.('migrate.reserve') !== true) {
    const source = m.poolAt(head) as Pool; // a page of the pool is online
    const target = poolPageIn(m, h, targets, source.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL);
    if (target >= 0) {
      if (migrateFaults(m)) {
        m.vmstat.pgmigrate_fail += h.pages;
        return 'fault';
      }
      swapPages(m, h, head, target);
      m.vmstat.pgmigrate_success += h.pages;
      followSurplus(h, from, nodeOf(m, slot));
      return 'moved';
    }
  }
  const outcome = migrateAllocation(m, head, targets, mode);
  if (outcome === 'moved') followSurplus(h, from, nodeOf(m, slot));
  return outcome;
}

/** Linux: move_hugetlb_state(). @internal */
export function followSurplus(h: Hstate, from: NodeId, to: NodeId): void {
  if (from === to || h.surplusOn(from) === 0) return;
  h.addSurplus(from, -1);
  h.addSurplus(to, 1);
}

/** The free page that a migration would take, on the first of the target nodes that has one in a zone it may use. */
function poolPageIn(m: Machine, h: Hstate, targets: Int32Array, top: number): number {
  for (const id of targets) {
    for (let k = h.free.length - 1; k >= 0; k--) {
      const index = headOf(m, h.free[k]);
      const pool = m.poolAt(index) as Pool; // a page of the pool is online
      if (pool.id !== id || pool.zone > top) continue;
      if (pool.alloc.area.typeOf(index - pool.base) === MIGRATE_ISOLATE) continue;
      return h.free[k];
    }
  }
  return -1;
}

/**
 * The used page at `head` moves into the free page `target`; the frames that it leaves are the pool's, and free. Nothing
 * of the target's old contents shows: a page was cleared when it was handed out, so that all of it is copied.
 */
function swapPages(m: Machine, h: Hstate, head: number, target: number): void {
  const to = headOf(m, target);
  h.free.splice(h.free.lastIndexOf(target), 1);
  m.unhold(to, PAGEBLOCK_ORDER);
  m.sections.vacate(to, PAGEBLOCK_ORDER);
  m.relocate(head, to, PAGEBLOCK_ORDER);
  m.occupy(poolHolder(m, h), head, PAGEBLOCK_ORDER);
  enqueue(h, m.sections.ownerAt(head));
}

/** HU1 to HU3, in words; empty when sound. Cost O(pages). */
export function checkHugetlb(m: Machine): string[] {
  const wrong: string[] = [];
  for (const h of pools.has(m)?.sizes ?? []) {
    const cls = h.order === HUGE_2M ? 'hugetlb' : 'gigantic';
    const seen = new Set<number>();
    for (const [what, slots] of [
      ['free', h.free],
      ['used', h.used],
    ] as const) {
      for (const slot of slots) {
        if (seen.has(slot)) wrong.push(`HU1 ${h.directory}: slot ${slot} is listed twice`);
        seen.add(slot);
        const head = m.holders.has(slot) ? headOf(m, slot) : -1;
        const holder = head < 0 ? -1 : m.holders.holderOf(slot);
        const right =
          head >= 0 && (what === 'free' ? holder === h.holder : m.holders.specs[holder as HolderId].class === cls);
        if (!right) wrong.push(`HU1 ${h.directory}: slot ${slot} is ${what}, and no page of that kind`);
        else if (m.sections.pfnOf(head) % h.pages !== 0) wrong.push(`HU1 ${h.directory}: slot ${slot} is not aligned`);
      }
    }
    const pages = h.holder < 0 ? 0 : m.holders.pages[h.holder];
    if (pages !== h.free.length * h.pages) {
      wrong.push(`HU2 ${h.directory}: ${h.free.length} pages are free, their holder has ${pages} frames`);
    }
    if (h.reserved > h.free.length) wrong.push(`HU3 ${h.directory}: ${h.reserved} reserved of ${h.free.length} free`);
    if (wrong.length > 0) continue; // nodes of wrong slots mean nothing
    for (const node of m.nodes) {
      const { nr, surplus } = hugetlbCounts(m, h.order, node);
      if (surplus > nr) wrong.push(`HU3 ${h.directory}: node ${node} has ${nr} pages, ${surplus} of them surplus`);
    }
  }
  return wrong;
}
