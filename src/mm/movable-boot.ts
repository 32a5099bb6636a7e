// Movable at boot: the frame from which each node's memory is ZONE_MOVABLE, as the command line asks.
//
//   movable_node           the lowest frame that the firmware calls hot-pluggable, node by node
//   kernelcore=mirror      the lowest frame from 4 GiB on that is not mirrored
//   kernelcore=, movablecore=   so much kernel memory, spread over the nodes:
//
//        kernelcore = 4                    node 0          node 1
//        pass 1: 2 each                    ##|MMMMMMMM     ##|MM         # kernel   M Movable
//        node 1 is too small for its share ->  what it could not take is spread over the nodes that are left
//
// `lowest` is the first frame of the highest kernel zone: below it nothing may be Movable, so that all of it is counted
// as kernel memory, asked for or not. That is why a node with much low memory can leave others without any.
//
// Everything is counted in frames of RAM: holes do not count, reserved ranges do. Starts are rounded up to the largest
// chunk; one at or after its node's end is no Movable at all. Neighbouring ranges may be cut anywhere: the answer is
// the same.
//
// Follows Linux v6.12 mm/mm_init.c: find_zone_movable_pfns_for_nodes(), and arch/x86/mm/numa.c:
// numa_clear_kernel_node_hotplug() (spec 1.11).

import { type NodeId, type Pfn, toPfn } from '#base/units';
import type { BootParams } from './boot-params.ts';
import { CHUNK_PAGES, DMA_END, DMA32_END } from './geometry.ts';

/** RAM that is there at boot: [start, end) of one node. */
export type BootRange = {
  readonly start: number;
  readonly end: number;
  readonly node: NodeId;
  readonly hotpluggable?: boolean;
  readonly mirrored?: boolean;
};

export type MovableBoot = {
  /** First frame of Movable, by node; nodes without one are not there. */
  readonly start: ReadonlyMap<NodeId, Pfn>;
  /** Mirrored memory stays in Normal even above a node's start: the two zones overlap. */
  readonly mirror: boolean;
  /** What became of the request, where that may surprise: one sentence each. */
  readonly notes: readonly string[];
};

type Request = Pick<BootParams, 'kernelcore' | 'movablecore' | 'kernelcoreMirror' | 'movableNode'>;

const roundUp = (pfn: number): number => Math.ceil(pfn / CHUNK_PAGES) * CHUNK_PAGES;

/** First frame of the highest kernel zone that the RAM reaches (spec 1.4). `ram` is not empty. */
export function lowestMovablePfn(ram: readonly BootRange[]): number {
  const start = ram.reduce((low, r) => Math.min(low, r.start), Number.POSITIVE_INFINITY);
  const end = ram.reduce((high, r) => Math.max(high, r.end), 0);
  return Math.max(start, end > DMA32_END ? DMA32_END : end > DMA_END ? DMA_END : 0);
}

/**
 * @param ram          what is there at boot, in any order, without overlaps
 * @param kernelNodes  nodes that hold memory of the kernel itself: their hot-pluggable bits do not count, because the
 *                     node could not go anyway
 * Cost O(nodes^2 * ranges).
 */
export function findZoneMovable(
  ram: readonly BootRange[],
  request: Request,
  kernelNodes: ReadonlySet<NodeId> = new Set(),
): MovableBoot {
  const ranges = [...ram].sort((a, b) => a.start - b.start);
  const none = (...notes: string[]): MovableBoot => ({ start: new Map(), mirror: false, notes });
  if (ranges.length === 0) return none();
  if (request.movableNode) return byFirmware(ranges, kernelNodes);
  if (request.kernelcoreMirror) {
    // Linux: memblock_has_mirror(). The movablecore= that may stand beside it is not looked at either way.
    if (!ranges.some((r) => r.mirrored))
      return none('kernelcore=mirror: no memory is mirrored, so there is no Movable');
    return byMirror(ranges);
  }
  const total = ranges.reduce((n, r) => n + r.end - r.start, 0);
  const kernelcore = kernelPages(request, total);
  if (kernelcore >= total) return none('the kernel is to have all memory: there is no Movable');
  if (kernelcore === 0) {
    const asked = request.movablecore.pages > 0 || request.movablecore.percent > 0;
    return asked ? none('nothing would be left for the kernel: there is no Movable') : none();
  }
  return { start: settle(ranges, spread(ranges, kernelcore)), mirror: false, notes: [] };
}

/** Frames that the kernel is to have at least; 0: nobody asked. */
function kernelPages({ kernelcore, movablecore }: Request, total: number): number {
  const of = (core: { pages: number; percent: number }): number =>
    core.percent > 0 ? Math.floor((total * 100 * core.percent) / 10_000) : core.pages;
  const movable = of(movablecore);
  if (movable === 0) return of(kernelcore);
  return Math.max(of(kernelcore), total - Math.min(total, roundUp(movable)));
}

/** The passes: each gives every node an equal share; what a node cannot take goes to the others in the next pass. */
function spread(ranges: readonly BootRange[], kernelcore: number): Map<NodeId, number> {
  const nodes = [...new Set(ranges.map((r) => r.node))].sort((a, b) => a - b);
  const lowest = lowestMovablePfn(ranges);
  const start = new Map<NodeId, number>(nodes.map((n) => [n, 0]));
  let wanted = kernelcore;
  // At most one pass a node: each counts one node less.
  for (let nodesLeft = nodes.length; nodesLeft > 0; ) {
    let share = Math.floor(wanted / nodesLeft);
    for (const node of nodes) {
      if (wanted < share) share = Math.floor(wanted / nodesLeft);
      let left = share;
      for (const r of ranges) {
        if (r.node !== node) continue;
        let from = Math.max(r.start, start.get(node) as number); // every node has one
        if (from >= r.end) continue;
        if (from < lowest) {
          const kernelOnly = Math.min(r.end, lowest) - from;
          left -= Math.min(kernelOnly, left);
          wanted -= Math.min(kernelOnly, wanted);
          start.set(node, Math.min(r.end, lowest));
          if (r.end <= lowest) continue;
          from = lowest;
        }
        const take = Math.min(r.end - from, left);
        start.set(node, from + take);
        wanted -= Math.min(wanted, take);
        left -= take;
        if (left === 0) break;
      }
    }
    nodesLeft--;
    if (wanted <= nodesLeft) break;
  }
  return start;
}

function byFirmware(ranges: readonly BootRange[], kernelNodes: ReadonlySet<NodeId>): MovableBoot {
  const start = new Map<NodeId, number>();
  const kept = new Set<NodeId>();
  for (const r of ranges) {
    if (r.hotpluggable !== true) continue;
    if (kernelNodes.has(r.node)) kept.add(r.node);
    else if (!start.has(r.node)) start.set(r.node, r.start); // ascending: the first is the lowest
  }
  const notes = [...kept].map(
    (n) => `movable_node: node ${n} holds memory of the kernel, so that its hot-pluggable bits do not count`,
  );
  if (start.size === 0 && kept.size === 0) notes.push('movable_node: no memory is hot-pluggable at boot');
  return { start: settle(ranges, start), mirror: false, notes };
}

function byMirror(ranges: readonly BootRange[]): MovableBoot {
  const start = new Map<NodeId, number>();
  let low = false;
  for (const r of ranges) {
    if (r.mirrored === true) continue;
    // Where a range begins decides, as in Linux: one that begins below 4 GiB and ends above is not looked at.
    if (r.start < DMA32_END) low = true;
    else if (!start.has(r.node)) start.set(r.node, r.start);
  }
  const notes = low ? ['kernelcore=mirror: memory below 4 GiB is not all mirrored, and the kernel uses it'] : [];
  return { start: settle(ranges, start), mirror: true, notes };
}

/** Rounded up to a chunk; one that is not before its node's end is none. */
function settle(ranges: readonly BootRange[], starts: ReadonlyMap<NodeId, number>): Map<NodeId, Pfn> {
  const out = new Map<NodeId, Pfn>();
  for (const [node, from] of starts) {
    const start = roundUp(from);
    const end = ranges.reduce((high, r) => (r.node === node ? Math.max(high, r.end) : high), 0);
    if (start > 0 && start < end) out.set(node, toPfn(start));
  }
  return out;
}
