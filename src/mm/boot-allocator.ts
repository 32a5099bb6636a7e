// bootAllocator: which build of the engine serves a system is said when it boots.
//
//   bootAllocator({ build: 'embedded', ... })   embedded.ts: one pool and its free area
//   bootAllocator({ build: 'full', ... })       a Machine, one zone on one node, and a holder that has all the frames
//
// That is the choice while running; a system that will never want the full build imports embedded.ts alone and the
// choice is made when it is bundled. So this file is the only one that knows both.
//
//   embedded            full
//   minFree             vm.min_free_kbytes: the zone's min mark (the low mark is above it, as on any machine)
//   allocUrgent         ALLOC_NO_WATERMARKS: past all marks, per-CPU lists of the pool emptied if need be
//   free(pfn, order)    the machine knows the order itself: another one throws, and so does a frame that is free
//
// Both give the same frames for the same requests where the full build's per-CPU lists are off, and agree at all times
// on which requests for a single frame are refused (rule EB8, proved by the fuzzer).

import { assert } from '#base/assert';
import { type HolderId, type Order, type Pfn, toNodeId } from '#base/units';
import { bootEmbedded, type EmbeddedAllocator, type EmbeddedSpec } from './embedded.ts';
import type { FrameAllocator, FrameAllocatorSpec } from './frame-allocator.ts';
import { refusalFor } from './frame-allocator.ts';
import { MIGRATE_ISOLATE, MIGRATE_MOVABLE, NR_MIGRATE_TYPES, NR_ORDERS, NR_PCP_TYPES, PAGE_SIZE } from './geometry.ts';
import { Machine } from './machine.ts';
import { ZONE_NORMAL } from './page-class.ts';
import { KIND_HEAD0, KIND_MASK } from './section.ts';

export type FullSpec = FrameAllocatorSpec & {
  /** CPUs that have lists of their own. Default 1. */
  readonly cpus?: number;
};

export interface FullAllocator extends FrameAllocator {
  readonly build: 'full';
  /** All that the embedded build does not have: whose is a frame, what may move, offline. */
  readonly machine: Machine;
  readonly holder: HolderId;
}

/**
 * The build that the system asks for, booted with all of its RAM free. A spec that contradicts itself throws.
 *
 * Cost: embedded one bit a chunk, full one machine; with code 'own' the compilation, too.
 */
export function bootAllocator(spec: { readonly build: 'embedded' } & EmbeddedSpec): EmbeddedAllocator;
export function bootAllocator(spec: { readonly build: 'full' } & FullSpec): FullAllocator;
export function bootAllocator(spec: { readonly build: FrameAllocator['build'] } & FrameAllocatorSpec): FrameAllocator;
export function bootAllocator(spec: { readonly build: FrameAllocator['build'] } & FrameAllocatorSpec): FrameAllocator {
  return spec.build === 'embedded' ? bootEmbedded(spec) : bootFull(spec);
}

/** A Machine of one zone behind the small interface. */
export function bootFull(spec: FullSpec): FullAllocator {
  const { startPfn, endPfn, minFree = 0 } = spec;
  const managed = endPfn - startPfn;
  assert(Number.isInteger(minFree) && minFree >= 0 && minFree <= managed, 'minFree is a number of its frames', {
    minFree,
    managed,
  });
  const machine = Machine.boot({
    ram: [{ start: startPfn, end: endPfn, node: toNodeId(0), zone: ZONE_NORMAL }],
    cpus: spec.cpus ?? 1,
    watermarks: { minFreeKbytes: (minFree * PAGE_SIZE) / 1024, scaleFactor: 10, thp: false, boostFactor: 0 },
    code: spec.code ?? 'own',
  });
  const [pool, ...others] = machine.pools.filter((p) => p.managed > 0); // a node has an empty Movable zone as well
  assert(pool !== undefined && others.length === 0, 'one range, one pool', { pools: machine.pools.length });
  assert(pool.watermarks.min === minFree, 'the reserve is its min mark', { min: pool.watermarks.min, minFree });
  const holder = machine.addHolder({ class: 'anonymous', name: 'frames', node: toNodeId(0) });

  /** Past the marks, as PF_MEMALLOC: `alloc` of the pool empties the per-CPU lists before it gives up. */
  const allocUrgent = (order: Order): Pfn | -1 => {
    const i = pool.alloc.alloc(order, MIGRATE_MOVABLE);
    if (i < 0) return -1;
    machine.occupy(holder, i + pool.base, order);
    return machine.sections.pfnOf(i + pool.base);
  };

  const nrFree = (): number => pool.alloc.nrFree() + pool.alloc.pcpPages();

  return {
    build: 'full',
    machine,
    holder,
    startPfn,
    endPfn,
    managed: pool.managed,
    minFree,
    alloc: (order) => machine.alloc(holder, order),
    allocUrgent,
    free(pfn, order) {
      const index = machine.sections.indexOf(pfn);
      const kind = index < 0 ? -1 : machine.sections.metaAt(index) & KIND_MASK;
      if (kind !== KIND_HEAD0 + order) assert(false, 'free: no allocation of this order', { pfn, order, kind });
      machine.free(pfn);
    },
    nrFree,
    freeByOrder() {
      const lists = new Int32Array(NR_MIGRATE_TYPES * NR_ORDERS);
      pool.alloc.area.count(lists);
      const sums = new Int32Array(NR_ORDERS);
      // Isolated chunks are on no list that a request may be served from.
      lists.subarray(0, MIGRATE_ISOLATE * NR_ORDERS).forEach((chunks, k) => {
        sums[k % NR_ORDERS] = (sums[k % NR_ORDERS] as number) + chunks;
      });
      return sums;
    },
    refusalOf(order, caller = 'ordinary') {
      pool.alloc.drain(); // as a request does before it is refused
      let chunks = 0;
      for (let t = 0; t < NR_PCP_TYPES; t++) chunks |= pool.alloc.area.orders(t);
      return refusalFor(order, nrFree(), caller === 'urgent' ? 0 : minFree, chunks);
    },
    bytes: () => machine.bytes(),
    check: () => machine.check().map((v) => `${v.rule} ${v.detail}`),
  };
}
