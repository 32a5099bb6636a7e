// Where the struct pages of added memory lie, and the frames they cost. Decided before anything changes.
//
//   policy       struct pages of the range lie                            first frames of the blocks       who pays
//   kernel       in memory that the machine already has                   |....|....|....|....|            at the add
//   self-block   at the head of each of its memory blocks                 |M...|M...|M...|M...|            each block
//   self-range   all at the head of the range (Salvador, Hildenbrand      |MMMM|....|....|....|            the first
//                2018): the first blocks are eaten whole                                                   blocks
//   host-section in blocks of the node that host others (theirs, (b))     |....|....|....|....|            the hosts:
//                                                                                               memmap-place.ts
//
// 64 bytes a page: 2 MiB of struct pages a section, which is one leaf of the virtual memmap's page table. Besides them an
// add needs page tables of its own:
//
//   table            one table frame covers        it is needed when
//   direct map PMD   1 GiB of memory               the GiB is not mapped by one leaf: not whole, not aligned, or added
//                                                  block by block (lab: DirectMap2M grows with self-block, DirectMap1G
//                                                  without)
//   direct map PUD   512 GiB of memory             always
//   vmemmap PMD      1 GiB of memmap = 64 GiB      always (its leaves are 2 MiB)
//   vmemmap PUD      512 GiB of memmap = 32 TiB    always
//
// and each only where no memory was before. With `pageTables: 'self'` (what Ishimatsu wished for in 2013) the tables that
// serve nobody but the range lie behind its memmap; the head is then rounded up to a pageblock, so that what follows can
// be given out by mobility.
//
// Invariants: MM1 a plan changes nothing, and its heads hold the whole memmap or none of it; MM2 a condition that fails
// means `kernel`, silently, with `why`. The frames themselves: memmap-frames.ts.
//
// Follows Linux v6.12 mm/memory_hotplug.c: mhp_supports_memmap_on_memory(), create_altmaps_and_memory_blocks(); mm/
// sparse-vmemmap.c: vmemmap_populate_hugepages(); arch/x86/mm/init_64.c (spec 4.1-4.4). Left out: five-level page tables
// and KASLR, which moves the areas a table covers.

import { assert } from '#base/assert';
import type { Pfn } from '#base/units';
import { PAGE_SIZE, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { KernelProfile } from './kernel-profile.ts';
import type { Machine } from './machine.ts';
import { FREE_SLOT } from './section.ts';

/** Layouts of a range that a plan alone decides. */
export const MEMMAP_POLICIES = ['kernel', 'self-block', 'self-range'] as const;
export type MemmapLayout = (typeof MEMMAP_POLICIES)[number];
/** Where struct pages lie: `host-section` is chosen by looking at the machine (memmap-place.ts). */
export type MemmapPolicy = MemmapLayout | 'host-section';

/** sizeof(struct page). */
export const STRUCT_PAGE_SIZE = 64;
export const PMD_SIZE = PAGEBLOCK_PAGES * PAGE_SIZE; // 2 MiB
const PUD_SIZE = 512 * PMD_SIZE; // 1 GiB
const PGD_SIZE = 512 * PUD_SIZE; // 512 GiB
export const PAGES_PER_GIGABYTE = PUD_SIZE / PAGE_SIZE; // 262144

assert((PAGES_PER_SECTION * STRUCT_PAGE_SIZE) % PMD_SIZE === 0, 'the memmap of a section is whole leaves');

/** Why a range does not host its own memmap, in the order in which Linux looks. */
export type MemmapFallback =
  | 'disabled' // memory_hotplug.memmap_on_memory is N
  | 'not-asked' // the caller did not ask: virtio-mem, Hyper-V and Xen back blocks in part
  | 'not-one-block' // before 6.8: a range of one memory block exactly
  | 'not-whole-pages' // P % 4096 != 0
  | 'not-whole-pageblocks' // m % 512 != 0
  | 'nothing-left' // m would be the whole block, or the whole range
  | 'not-whole-leaves' // P % 2 MiB != 0
  | 'gigantic' // fewer 1 GiB pages would remain than the caller wants
  | 'not-backed'; // the head of a block is not backed now (spec 9.F6)

export type MemmapInput = {
  readonly startPfn: Pfn;
  readonly pages: number;
  /** Pages of a memory block; start and size of the range are multiples of it. */
  readonly blockPages: number;
  readonly policy: MemmapLayout;
  /** memory_hotplug.memmap_on_memory. */
  readonly enabled: 'N' | 'Y' | 'force';
  /** MHP_MEMMAP_ON_MEMORY was among the caller's flags. */
  readonly callerAsks: boolean;
  readonly profile: Pick<KernelProfile, 'memmapOnMemory'>;
  /** Bytes of a struct page; default 64. */
  readonly structPage?: number;
  readonly pageTables: 'kernel' | 'self';
  /** Leaves of the direct map; default '1G', which every x86-64 server has. */
  readonly directMap?: '1G' | '2M';
  /** Numbers of the sections that are present now (presentSections): where there is memory, its tables are there too. */
  readonly present?: Iterable<number>;
  /** Some architectures do without whole leaves. Default 'required', as x86. */
  readonly wholeLeaves?: 'required' | 'waived';
  /** 1 GiB pages that the range must still be able to give; a policy that leaves fewer falls back. Default 0. */
  readonly gigantic?: number;
};

/** The frames [startPfn, endPfn) that one page table serves. */
export type TableArea = { readonly startPfn: number; readonly endPfn: number };

export type MemmapPlan = {
  readonly policy: MemmapPolicy;
  /** Why it is `kernel` when another was asked for. */
  readonly why: MemmapFallback | undefined;
  /** By block of the range: frames at its head that hold memmap (and tables). All 0 for `kernel`. */
  readonly headPages: Int32Array;
  /** Frames of struct pages wherever they lie; what nr_memmap_pages grows by. */
  readonly memmapPages: number;
  /** Page tables in the heads. */
  readonly selfPageTables: number;
  /** Frames of the heads that hold nothing: what rounding costs. */
  readonly wastedPages: number;
  /** Leaves of 2 MiB to take from existing memory. */
  readonly kernelChunks: number;
  /** Table frames to take from existing memory, and which frames each of them serves. */
  readonly kernelPageTables: number;
  readonly kernelTables: readonly TableArea[];
  /** How the direct map grows: leaves of 1 GiB and of 2 MiB (DirectMap1G, DirectMap2M of meminfo). */
  readonly directMap: { readonly leaves1G: number; readonly leaves2M: number };
};

/**
 * Where the struct pages of an added range lie.
 *
 * Pure. A range that is not whole memory blocks is a bug: add_memory refuses it before. Cost O(blocks + GiB + present
 * sections).
 */
export function planMemmap(input: MemmapInput): MemmapPlan {
  const { startPfn, pages, blockPages } = input;
  assert(pages > 0 && pages % blockPages === 0 && startPfn % blockPages === 0, 'a range is whole memory blocks', {
    startPfn,
    pages,
    blockPages,
  });
  if (input.policy === 'kernel') return layOut(input, 'kernel', undefined);
  const why = conditionFailed(input);
  if (why !== undefined) return layOut(input, 'kernel', why);
  const plan = layOut(input, input.policy, undefined);
  if (plan === undefined) return layOut(input, 'kernel', 'nothing-left');
  const left = gigabytesLeft(input, plan.headPages);
  return left < (input.gigantic ?? 0) ? layOut(input, 'kernel', 'gigantic') : plan;
}

/** Sections that are present now, for planMemmap. */
export const presentSections = (m: Machine): number[] => {
  const { number, length } = m.sections;
  return Array.from(number.subarray(0, length)).filter((n) => n !== FREE_SLOT);
};

/** Aligned GiB of a range that no head reaches into: the 1 GiB pages that it can ever give. Cost O(blocks). */
export function gigabytesLeft(
  range: { readonly startPfn: Pfn; readonly pages: number; readonly blockPages: number },
  headPages: Int32Array,
): number {
  const { startPfn, pages, blockPages } = range;
  const first = Math.ceil(startPfn / PAGES_PER_GIGABYTE);
  const taken = new Set<number>();
  for (let k = 0; k < headPages.length; k++) {
    const head = headPages[k] as number;
    if (head === 0) continue;
    const at = startPfn + k * blockPages;
    for (let g = Math.floor(at / PAGES_PER_GIGABYTE); g * PAGES_PER_GIGABYTE < at + head; g++) taken.add(g);
  }
  let left = 0;
  for (let g = first; (g + 1) * PAGES_PER_GIGABYTE <= startPfn + pages; g++) if (!taken.has(g)) left++;
  return left;
}

/** Frames of struct pages of `pages`, rounded up. */
const memmapOf = (input: MemmapInput, pages: number): number =>
  Math.ceil((pages * (input.structPage ?? STRUCT_PAGE_SIZE)) / PAGE_SIZE);

/** m of spec 4.3: `force` makes any memmap fit by rounding it up. */
const memmapHead = (input: MemmapInput, pages: number): number => {
  const m = memmapOf(input, pages);
  return input.enabled === 'force' ? roundUp(m, PAGEBLOCK_PAGES) : m;
};

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;

/** The conditions of spec 4.3, in Linux's order. What hosts itself is the block, or for self-range the whole range. */
function conditionFailed(input: MemmapInput): MemmapFallback | undefined {
  if (input.enabled === 'N') return 'disabled';
  if (!input.callerAsks) return 'not-asked';
  const single = input.policy === 'self-block' && input.profile.memmapOnMemory === 'single-block';
  if (single && input.pages !== input.blockPages) return 'not-one-block';
  const pages = input.policy === 'self-block' ? input.blockPages : input.pages;
  const bytes = pages * (input.structPage ?? STRUCT_PAGE_SIZE);
  const m = memmapHead(input, pages);
  if (bytes % PAGE_SIZE !== 0) return 'not-whole-pages';
  if (m % PAGEBLOCK_PAGES !== 0) return 'not-whole-pageblocks';
  if (m === pages) return 'nothing-left';
  if (bytes % PMD_SIZE !== 0 && input.wholeLeaves !== 'waived') return 'not-whole-leaves';
  return undefined;
}

// ------------------------------------------------------------------------------------------------------- page tables

/** What the tables of one level map, and how much of it one table frame covers. */
type Level = { readonly bytesPerPage: number; readonly covers: number };

type Tables = {
  /** Tables that must come from existing memory. */
  readonly kernel: TableArea[];
  /** Tables that may lie in the range itself. */
  readonly self: TableArea[];
  leaves1G: number;
  leaves2M: number;
};

/** Table frames that the range needs and that are not there yet. */
function pageTablesOf(input: MemmapInput, policy: MemmapLayout): Tables {
  const { startPfn, pages } = input;
  const endPfn = startPfn + pages;
  const out: Tables = { kernel: [], self: [], leaves1G: 0, leaves2M: 0 };
  const need = (level: Level, skip: (area: number) => boolean = () => false): void => {
    const { bytesPerPage, covers } = level;
    const areaOf = (pfn: number): number => Math.floor((pfn * bytesPerPage) / covers);
    const there = new Set<number>();
    for (const s of input.present ?? []) {
      // A section is smaller than any area; its last frame lies in the same one, or in the next for odd struct pages.
      there.add(areaOf(s * PAGES_PER_SECTION)).add(areaOf((s + 1) * PAGES_PER_SECTION - 1));
    }
    for (let area = areaOf(startPfn); area <= areaOf(endPfn - 1); area++) {
      if (there.has(area) || skip(area)) continue;
      const served = { startPfn: (area * covers) / bytesPerPage, endPfn: ((area + 1) * covers) / bytesPerPage };
      const ownOnly = served.startPfn >= startPfn && served.endPfn <= endPfn;
      const self = ownOnly && input.pageTables === 'self' && policy !== 'kernel';
      (self ? out.self : out.kernel).push(served);
    }
  };

  // arch_add_memory() maps what it is given: the range, or one block after the other. Only a whole GiB gets one leaf.
  const step = policy === 'self-block' ? input.blockPages : pages;
  const byLeaf = new Set<number>();
  if ((input.directMap ?? '1G') === '1G') {
    for (let at: number = startPfn; at < endPfn; at += step) {
      const first = Math.ceil(at / PAGES_PER_GIGABYTE);
      for (let g = first; (g + 1) * PAGES_PER_GIGABYTE <= at + step; g++) byLeaf.add(g);
    }
  }
  out.leaves1G = byLeaf.size;
  out.leaves2M = (pages - byLeaf.size * PAGES_PER_GIGABYTE) / PAGEBLOCK_PAGES;
  need({ bytesPerPage: PAGE_SIZE, covers: PUD_SIZE }, (area) => byLeaf.has(area));
  need({ bytesPerPage: PAGE_SIZE, covers: PGD_SIZE });
  const bytesPerPage = input.structPage ?? STRUCT_PAGE_SIZE;
  need({ bytesPerPage, covers: PUD_SIZE });
  need({ bytesPerPage, covers: PGD_SIZE });
  return out;
}

function layOut(input: MemmapInput, policy: 'kernel', why: MemmapFallback | undefined): MemmapPlan;
function layOut(input: MemmapInput, policy: MemmapLayout, why: MemmapFallback | undefined): MemmapPlan | undefined;
function layOut(input: MemmapInput, policy: MemmapLayout, why: MemmapFallback | undefined): MemmapPlan | undefined {
  const { startPfn, pages, blockPages } = input;
  const blocks = pages / blockPages;
  const tables = pageTablesOf(input, policy);
  const memmapPages = memmapOf(input, pages);
  const headPages = new Int32Array(blocks);
  if (policy === 'self-block') {
    headPages.fill(memmapHead(input, blockPages));
    for (const served of tables.self) {
      const k = Math.floor((served.startPfn - startPfn) / blockPages);
      headPages[k] = (headPages[k] as number) + 1;
    }
    for (let k = 0; k < blocks; k++) {
      const head = withTables(headPages[k] as number, tables.self.length);
      if (head >= blockPages) return undefined;
      headPages[k] = head;
    }
  } else if (policy === 'self-range') {
    let rest = withTables(memmapHead(input, pages) + tables.self.length, tables.self.length);
    if (rest >= pages) return undefined;
    for (let k = 0; rest > 0; k++) {
      headPages[k] = Math.min(rest, blockPages);
      rest -= headPages[k] as number;
    }
  }
  const heads = headPages.reduce((n, x) => n + x, 0);
  return Object.freeze({
    policy,
    why,
    headPages,
    memmapPages,
    selfPageTables: tables.self.length,
    wastedPages: policy === 'kernel' ? 0 : heads - memmapPages - tables.self.length,
    kernelChunks: policy === 'kernel' ? Math.ceil((memmapPages * PAGE_SIZE) / PMD_SIZE) : 0,
    kernelPageTables: tables.kernel.length,
    kernelTables: tables.kernel,
    directMap: { leaves1G: tables.leaves1G, leaves2M: tables.leaves2M },
  });
}

/** Tables in a head make it odd; what follows it must start at a pageblock. */
const withTables = (head: number, tables: number): number => (tables === 0 ? head : roundUp(head, PAGEBLOCK_PAGES));
