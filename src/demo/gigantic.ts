// The gigantic-page conflict of Salvador and Hildenbrand 2018, measured: how many 1 GiB pages does a DIMM of 10 GiB
// yield when its struct pages lie here or there?
//
//   for each size of a memory block, for each policy
//     boot 4 GiB on node 0 ──> add 10 GiB on node 1, online it in Normal ──> take runs of 1 GiB until there are none
//
// `host-section` is option (b) of the document: blocks of the same node host the struct pages of others. They are a small DIMM
// above, as few blocks as hold 80 leaves besides their own. Its 1 GiB pages do not count.
//
// Linux takes 1 GiB pages from kernel zones only, so that the DIMM comes online there (lab: none out of Movable). Taken
// by alloc_contig_pages (mm/contig-alloc.ts), as `echo n > nr_hugepages` does. `derived` is what the plan alone says.

import { assert } from '#base/assert';
import type { Result } from '#base/result';
import { toNodeId, toPfn } from '#base/units';
import { allocContigPages } from '#mm/contig-alloc';
import { type BlockId, Machine, PAGE_SIZE, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from '#mm/index';
import { gigabytesLeft, MEMMAP_POLICIES, type MemmapPolicy, PAGES_PER_GIGABYTE } from '#mm/memmap';

export const GIGANTIC_BLOCK_SIZES = [128, 256, 512, 1024, 2048].map((mib) => mib * 2 ** 20);

export type GiganticRow = {
  readonly blockBytes: number;
  readonly policy: MemmapPolicy;
  /** 1 GiB pages that were taken on the machine, of 10. */
  readonly measured: number;
  /** Aligned GiB that no head reaches into, by the plan. */
  readonly derived: number;
  /** Bytes of the DIMM that hold struct pages. */
  readonly hostedBytes: number;
  /** Bytes of other memory that the add took: struct pages and page tables. */
  readonly kernelBytes: number;
};

export const GIGANTIC_DIMM_BYTES = 10 * 2 ** 30;

const GIB = PAGES_PER_GIGABYTE;
const NODE = toNodeId(1);
const DIMM = { start: toPfn(4 * GIB), end: toPfn(14 * GIB) };

/** Where a host of 2 GiB or less lies, whatever the block size. */
const HOST_START = 16 * GIB;

const POLICIES: readonly MemmapPolicy[] = [...MEMMAP_POLICIES, 'host-section'];

/** The table, blocks ascending. Deterministic. Cost: 20 machines. */
export const gigantic = (): GiganticRow[] =>
  GIGANTIC_BLOCK_SIZES.flatMap((blockBytes) => POLICIES.map((policy) => measure(blockBytes, policy)));

/** Plugs as few blocks as have room for the leaves of the DIMM behind their own. */
function plugHost(m: Machine): readonly BlockId[] {
  const leaves = (DIMM.end - DIMM.start) / PAGES_PER_SECTION;
  const room = m.blockPages / PAGEBLOCK_PAGES - m.blockPages / PAGES_PER_SECTION; // of a block, without its own
  const end = HOST_START + Math.ceil(leaves / room) * m.blockPages;
  return must(m.addMemory({ start: toPfn(HOST_START), end: toPfn(end) }, NODE, { memmap: 'self-block' })).blocks;
}

function measure(blockBytes: number, policy: MemmapPolicy): GiganticRow {
  const m = Machine.boot({
    ram: [{ start: toPfn(0), end: toPfn(4 * GIB), node: toNodeId(0) }],
    blockSize: blockBytes,
    hotplug: { memmapOnMemory: 'Y', autoOnline: 'online_kernel' },
  });
  const hosts = policy === 'host-section' ? { memmapHosts: plugHost(m) } : {};
  const added = must(m.addMemory(DIMM, NODE, { memmap: policy, ...hosts }));
  assert(added.memmap === policy && added.onlined.length === added.blocks.length, 'all of it is online', added);
  const heads = Int32Array.from(added.blocks, (b) => m.blocks.vmemmapPages[m.blocks.rowOf(b)]);
  const derived = gigabytesLeft(
    { startPfn: DIMM.start, pages: DIMM.end - DIMM.start, blockPages: m.blockPages },
    heads,
  );

  const holder = m.addHolder({ class: 'gigantic', name: '1 GiB pages', node: NODE });
  let measured = 0;
  while (measured < GIGANTIC_DIMM_BYTES / 2 ** 30) {
    const taken = allocContigPages(m, GIB, { holder, node: NODE, thisNode: true }); // lowest first: the DIMM's
    if (!taken.ok || taken.value.startPfn >= DIMM.end) break;
    measured++;
  }
  assert(m.check(1).length === 0, 'the machine is sound', { blockBytes, policy });
  return {
    blockBytes,
    policy,
    measured,
    derived,
    hostedBytes: heads.reduce((n, pages) => n + pages, 0) * PAGE_SIZE,
    kernelBytes: added.kernelPages * PAGE_SIZE,
  };
}

/** Nothing here can be refused. */
function must<T>(r: Result<T, unknown>): T {
  assert(r.ok, 'the demo is not refused', { refusal: r.ok ? undefined : r.error });
  return r.value;
}
