// Huge pages at boot: what hugepages= asks for is set aside before anyone else can have it.
//
//   1 GiB   from the RAM itself, before the allocators exist: Movable is no obstacle then (later it is, spec 3.4)
//   2 MiB   from the allocators, once the watermarks are known; they may run out
//
//   node 0   │■■■■│■■■■│    │        nodes take turns, 1 GiB pages from the top of each node down; a node that is full
//   node 1   │■■■■│    │             is passed over
//
// What is not there is not there: the pool is smaller than was asked for, and that is no refusal, as in Linux.
//
// Follows Linux v6.12 mm/hugetlb.c: hugetlb_hstate_alloc_pages(), __alloc_bootmem_huge_page(), alloc_pool_huge_folio();
// mm/memblock.c: memblock_find_in_range_node() for the direction.

import { type NodeId, toHolderId, toOrder, toPfn } from '#base/units';
import { PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import { BYTES_1G, BYTES_2M, type HugepageRequest } from './hugepage-params.ts';
import { HUGE_1G, HUGE_2M } from './hugetlb.ts';
import { adoptHugePages } from './hugetlb-resize.ts';
import type { Machine } from './machine.ts';
import type { ZonedRange } from './machine-spec.ts';
import type { Pool } from './pool.ts';

/** Holders of the pages until they are their pool's. Nobody else has huge pages while a machine boots. */
const HOLDER_2M = 'huge pages of 2 MiB';
const HOLDER_1G = 'huge pages of 1 GiB';

type Span = { readonly start: number; readonly end: number };

/**
 * Huge pages of 1 GiB are set aside before the allocators exist, wherever the RAM is: Movable is no obstacle.
 *
 * From the top of each node down, as memblock allocates; from the bottom up, and not from hot-pluggable ranges, with
 * movable_node. Nodes take turns; one that is full is passed over. What is not there is not there: no refusal.
 *
 * @returns the ranges that were taken, whole pages of 1 GiB
 */
export function bootGigantic(m: Machine, zoned: readonly ZonedRange[], taken: readonly Span[]): Span[] {
  const { params } = m;
  const request = params.hugepages.find((h) => h.size === BYTES_1G);
  if (request === undefined || request.count === 0) return [];
  const pages = BYTES_1G / PAGE_SIZE;
  const candidates = new Map<NodeId, number[]>();
  for (const r of wholeRanges(zoned.filter((z) => !z.offline))) {
    if (params.movableNode && m.spec.ram.some((x) => x.hotpluggable === true && x.start < r.end && r.start < x.end))
      continue;
    for (let at = Math.ceil(r.start / pages) * pages; at + pages <= r.end; at += pages) {
      if (taken.some((t) => t.start < at + pages && at < t.end)) continue;
      candidates.set(r.node, [...(candidates.get(r.node) ?? []), at]);
    }
  }
  for (const list of candidates.values()) if (!params.movableNode) list.reverse();
  const chosen: Span[] = [];
  const take = (node: NodeId): boolean => {
    const at = candidates.get(node)?.shift();
    if (at !== undefined) chosen.push({ start: at, end: at + pages });
    return at !== undefined;
  };
  inTurns(
    request,
    [...candidates.keys()].sort((a, b) => a - b),
    take,
  );
  if (chosen.length === 0) return [];
  const holder = m.addHolder({ class: 'gigantic', name: HOLDER_1G });
  for (const c of chosen) {
    m.place(holder, toPfn(c.start), toPfn(c.end));
    // Linux: gather_bootmem_prealloc() counts them as managed.
    for (let pfn = c.start; pfn < c.end; pfn += PAGEBLOCK_PAGES) {
      (m.poolAt(m.sections.indexOf(toPfn(pfn))) as Pool).managed += PAGEBLOCK_PAGES; // RAM at boot has a pool
    }
  }
  return chosen;
}

/** Neighbouring ranges of one node joined, whatever their zone. */
function wholeRanges(zoned: readonly ZonedRange[]): { start: number; end: number; node: NodeId }[] {
  const out: { start: number; end: number; node: NodeId }[] = [];
  for (const z of zoned) {
    const last = out[out.length - 1];
    if (last !== undefined && last.end === z.start && last.node === z.node) last.end = z.end;
    else out.push({ start: z.start, end: z.end, node: z.node });
  }
  return out;
}

/** Fills a request: node by node as it says, else the nodes in turn until none has any left. */
function inTurns(request: HugepageRequest, nodes: readonly NodeId[], take: (node: NodeId) => boolean): void {
  if (request.perNode.size > 0) {
    for (const node of nodes) {
      for (let n = request.perNode.get(node) ?? 0; n > 0 && take(node); n--);
    }
    return;
  }
  let left = [...nodes];
  for (let got = 0, turn = 0; got < request.count && left.length > 0; ) {
    const node = left[turn % left.length] as NodeId; // left is not empty
    if (take(node)) {
      got++;
      turn++;
    } else {
      turn %= left.length;
      left = left.filter((n) => n !== node);
    }
  }
}

/**
 * Huge pages of 2 MiB, from the allocators, which may run out; then those of both sizes become their pools'
 * (hugetlb.ts), free.
 *
 * After the watermarks are known. Nodes take turns, as alloc_pool_huge_folio() lets them.
 */
export function bootHugepages(m: Machine): void {
  if (m.spec.populate === 'nothing') return;
  const request = m.params.hugepages.find((h) => h.size === BYTES_2M);
  if (request !== undefined && request.count > 0) {
    const holder = m.addHolder({ class: 'hugetlb', name: HOLDER_2M });
    inTurns(request, m.nodes, (node) => {
      const pfn = m.alloc(holder, toOrder(PAGEBLOCK_ORDER), { node });
      if (pfn < 0) return false;
      const pool = m.poolAt(m.sections.indexOf(toPfn(pfn))) as Pool; // it was just handed out
      if (pool.node === node) return true;
      m.free(toPfn(pfn)); // Linux asks with __GFP_THISNODE
      return false;
    });
  }
  m.holders.specs.forEach((spec, id) => {
    if (spec.class === 'hugetlb') adoptHugePages(m, HUGE_2M, toHolderId(id));
    if (spec.class === 'gigantic') adoptHugePages(m, HUGE_1G, toHolderId(id));
  });
}
