// Growing and shrinking a pool of huge pages: what a write to nr_hugepages does; pages that boot set aside join.
//
//   grow     surplus pages become regular ones │ then fresh pages, node after node in turn, until one try finds none anywhere
//   shrink   free pages go back, node after node in turn, but never those that are reserved │ then used pages become
//            surplus: they leave when their holder gives them back
//
// A write never fails for want of memory: it does what it can, and the file says what became of it. Pages of 1 GiB come
// from allocContigPages, kernel zones only: they cannot move, so that ZONE_MOVABLE never has one (measured: nr_hugepages
// stays 0).
//
// Follows Linux v6.12 mm/hugetlb.c: set_max_huge_pages(), adjust_pool_surplus(). Left out: allocation by
// several threads.

import { assert } from '#base/assert';
import { type HolderId, type NodeId, type Pfn, toPfn } from '#base/units';
import { allocContigPages } from './contig-alloc.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import {
  buddyHugePage,
  enqueue,
  firstFree,
  freePoolPage,
  type Hstate,
  HUGE_1G,
  HUGE_2M,
  type HugeOrder,
  handOver,
  hugetlbCounts,
  hugetlbOf,
  poolHolder,
} from './hugetlb.ts';
import type { Machine } from './machine.ts';

/** Nodes with memory, starting with the one whose turn it is. */
function* inTurn(nodes: readonly NodeId[], turn: number): Generator<{ node: NodeId; next: number }> {
  const first = nodes.findIndex((n) => n >= turn);
  for (let k = 0; k < nodes.length; k++) {
    const at = (Math.max(0, first) + k) % nodes.length;
    yield { node: nodes[at], next: nodes[(at + 1) % nodes.length] };
  }
}

const withMemory = (m: Machine): NodeId[] =>
  m.nodes.filter((node) => m.zones.some((p) => p.node === node && p.managed > 0));

/** A fresh page of one node. @returns its first slot, or -1. */
function freshPage(m: Machine, h: Hstate, node: NodeId): number {
  const holder = poolHolder(m, h);
  if (h.order === HUGE_1G) {
    const r = allocContigPages(m, h.pages, { holder, node, thisNode: true });
    return r.ok ? m.sections.ownerAt(m.sections.indexOf(r.value.startPfn)) : -1;
  }
  const index = buddyHugePage(m, node);
  if (index < 0) return -1;
  m.occupy(holder, index, PAGEBLOCK_ORDER);
  return m.sections.ownerAt(index);
}

/** One surplus page becomes a regular one (-1), or the other way round (+1), on the next node that has such a page. */
function adjustSurplus(m: Machine, h: Hstate, nodes: readonly NodeId[], delta: 1 | -1): boolean {
  for (const { node, next } of inTurn(nodes, delta < 0 ? h.nextToAlloc : h.nextToFree)) {
    if (delta < 0) h.nextToAlloc = next;
    else h.nextToFree = next;
    const surplus = h.surplusOn(node);
    if (delta < 0 ? surplus === 0 : surplus >= hugetlbCounts(m, h.order, node).nr) continue;
    h.addSurplus(node, delta);
    return true;
  }
  return false;
}

function growOne(m: Machine, h: Hstate, nodes: readonly NodeId[]): number {
  for (const { node, next } of inTurn(nodes, h.nextToAlloc)) {
    h.nextToAlloc = next;
    const slot = freshPage(m, h, node);
    if (slot >= 0) return slot;
  }
  return -1;
}

function shrinkOne(m: Machine, h: Hstate, nodes: readonly NodeId[]): boolean {
  for (const { node, next } of inTurn(nodes, h.nextToFree)) {
    h.nextToFree = next;
    const slot = firstFree(m, h, node);
    if (slot < 0) continue;
    freePoolPage(m, h, slot);
    return true;
  }
  return false;
}

/**
 * A write to nr_hugepages: the pool of a size becomes `count` pages large, as far as that is possible.
 *
 * @param node  the file of one node: only its pages come and go; undefined = the whole
 * @returns what nr_hugepages of the whole reads afterwards. Cost O(pages that come or go), each O(frames).
 */
export function setNrHugepages(m: Machine, order: HugeOrder, count: number, node?: NodeId): number {
  assert(Number.isInteger(count) && count >= 0, 'a pool has a whole number of pages', { count });
  const h = hugetlbOf(m).size(order);
  const nodes = node === undefined ? withMemory(m) : withMemory(m).filter((n) => n === node);
  if (nodes.length === 0) return h.nr;
  let want = count;
  if (node !== undefined) {
    const here = hugetlbCounts(m, order, node);
    want += h.persistent - (here.nr - here.surplus);
  }
  while (h.surplusAll > 0 && want > h.persistent) if (!adjustSurplus(m, h, nodes, -1)) break;
  const fresh: number[] = [];
  while (want > h.persistent + fresh.length) {
    const slot = growOne(m, h, nodes);
    if (slot < 0) break;
    fresh.push(slot);
  }
  // Since 6.7 pages are added when all are made, the last one first, so that the first one made is the first one used.
  if (m.profile.name !== '6.1') fresh.reverse();
  for (const slot of fresh) enqueue(h, slot);
  if (want > h.persistent) return h.nr;

  const keep = Math.max(want, h.reserved + h.nr - h.free.length);
  while (keep < h.persistent) if (!shrinkOne(m, h, nodes)) break;
  while (want < h.persistent) if (!adjustSurplus(m, h, nodes, 1)) break;
  return h.nr;
}

/** A write to nr_overcommit_hugepages: surplus pages that faults and reservations may make. Not for 1 GiB (EINVAL there). */
export function setNrOvercommitHugepages(m: Machine, count: number): void {
  assert(Number.isInteger(count) && count >= 0, 'a limit is a whole number of pages', { count });
  hugetlbOf(m).size(HUGE_2M).overcommit = count;
}

/**
 * Pages that a holder was given before the pools were there (hugepages= at boot) become the pool's, free. Frames that are
 * no whole page stay where they are. @returns pages that came. Cost O(frames of the holder).
 */
export function adoptHugePages(m: Machine, order: HugeOrder, holder: HolderId): number {
  const h = hugetlbOf(m).size(order);
  const heads = new Set<number>();
  m.forEachFrameOf(holder, (pfn) => heads.add(pfn));
  let came = 0;
  for (const pfn of [...heads].sort((a, b) => a - b)) {
    if (pfn % h.pages !== 0) continue;
    let whole = true;
    for (let k = 0; k < h.pages; k += PAGEBLOCK_PAGES) {
      const piece = m.frame(toPfn(pfn + k));
      if (!heads.has(pfn + k) || piece.state !== 'used' || piece.order !== PAGEBLOCK_ORDER) whole = false;
    }
    if (!whole) continue;
    enqueue(h, handOver(m, h, m.sections.ownerAt(m.sections.indexOf(toPfn(pfn))), poolHolder(m, h)));
    came++;
  }
  return came;
}

/** Frame numbers of a size's free pages, the one that is used first at the front. */
export function freeHugePages(m: Machine, order: HugeOrder): Pfn[] {
  const h = hugetlbOf(m).size(order);
  return h.free.map((slot) => m.sections.pfnOf(m.holders.frameAt(slot))).reverse();
}
