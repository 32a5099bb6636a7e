// Where the struct pages of added memory lie, and the frames they cost. Decided before anything changes.
//
//   policy       struct pages of the range lie                            first frames of the blocks       who pays
//   kernel       in memory that the machine already has                   |....|....|....|....|            at the add
//   self-block   at the head of each of its memory blocks                 |M...|M...|M...|M...|            each block
//   self-range   all at the head of the range (Salvador, Hildenbrand      |MMMM|....|....|....|            the first
//                2018): the first blocks are eaten whole                                                   blocks
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
// means `kernel`, silently, with `why`; MM8 takeKernelMemmap takes all that is planned or nothing.
//
// Follows Linux v6.12 mm/memory_hotplug.c: mhp_supports_memmap_on_memory(), create_altmaps_and_memory_blocks(); mm/
// sparse-vmemmap.c: vmemmap_populate_hugepages(); arch/x86/mm/init_64.c (spec 4.1-4.4). Left out: five-level page tables
// and KASLR, which moves the areas a table covers.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, type Pfn, toHolderId, toOrder, toPfn } from '#base/units';
import { PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { KernelProfile } from './kernel-profile.ts';
import type { Machine } from './machine.ts';
import type { PageClass } from './page-class.ts';
import { type Refusal, refusal } from './refusal.ts';
import { FREE_SLOT } from './section.ts';

export const MEMMAP_POLICIES = ['kernel', 'self-block', 'self-range'] as const;
export type MemmapPolicy = (typeof MEMMAP_POLICIES)[number];

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
  | 'gigantic'; // fewer 1 GiB pages would remain than the caller wants

export type MemmapInput = {
  readonly startPfn: Pfn;
  readonly pages: number;
  /** Pages of a memory block; start and size of the range are multiples of it. */
  readonly blockPages: number;
  readonly policy: MemmapPolicy;
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
function pageTablesOf(input: MemmapInput, policy: MemmapPolicy): Tables {
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
function layOut(input: MemmapInput, policy: MemmapPolicy, why: MemmapFallback | undefined): MemmapPlan | undefined;
function layOut(input: MemmapInput, policy: MemmapPolicy, why: MemmapFallback | undefined): MemmapPlan | undefined {
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

// ------------------------------------------------------------------------------------- frames from existing memory

/** A page table, and the frames that it serves. */
export type MemmapTable = TableArea & { readonly pfn: Pfn };

/** What an add took from existing memory. A value: forks share it. */
export type MemmapFrames = {
  readonly tables: readonly MemmapTable[];
  /** By leaf of 2 MiB, that is by section: one frame of order 9; or the table and the 512 single frames instead. */
  readonly chunks: readonly (readonly Pfn[])[];
  /** All frames of them. */
  readonly pages: number;
};

const MEMMAP_HOLDER = 'struct pages of added memory';
const TABLES_HOLDER = 'page tables of added memory';

/** The machine's one holder of that name, made when it is first needed. */
function holderNamed(m: Machine, cls: PageClass, name: string): HolderId {
  const there = m.holders.specs.findIndex((s) => s.class === cls && s.name === name);
  return there >= 0 ? toHolderId(there) : m.addHolder({ class: cls, name }); // ids are rows of specs
}

/** Is there memory in [startPfn, endPfn) already? Then what maps it is there, too. */
function isPresent(m: Machine, { startPfn, endPfn }: TableArea): boolean {
  const first = Math.floor(startPfn / PAGES_PER_SECTION);
  const end = Math.ceil(endPfn / PAGES_PER_SECTION);
  if (end - first > m.sections.length) return presentSections(m).some((n) => n >= first && n < end);
  for (let n = first; n < end; n++) if (m.sections.slotOf(n) >= 0) return true;
  return false;
}

/**
 * Takes the frames that a plan needs of existing memory: near node first, then the others by distance.
 *
 * To be called before the sections appear: a table that something present uses already is not taken again, whether the
 * plan knew or not. A leaf of 2 MiB that cannot be had is replaced by 512 single frames and a table for them, as
 * vmemmap_populate_hugepages() does. All or nothing: a refusal gives everything back; what may stay is the type of
 * pageblocks that were claimed, as after any allocation. Cost O(frames of the plan).
 *
 * @param node  of the added memory; a node without memory so far begins like the machine's first
 * @returns no-memory (ENOMEM) when there is not enough above the watermarks
 */
export function takeKernelMemmap(m: Machine, node: NodeId, plan: MemmapPlan): Result<MemmapFrames, Refusal> {
  const missing = plan.kernelTables.filter((t) => !isPresent(m, t));
  const tables: MemmapTable[] = [];
  const chunks: Pfn[][] = [];
  if (missing.length === 0 && plan.kernelChunks === 0) return ok({ tables, chunks, pages: 0 });

  const near = m.nodes.includes(node) ? { node } : undefined;
  const table = holderNamed(m, 'pagetable', TABLES_HOLDER);
  const memmap = holderNamed(m, 'memmap', MEMMAP_HOLDER);
  let pages = 0;
  const take = (holder: HolderId, order: number): Pfn | -1 => {
    const pfn = m.alloc(holder, toOrder(order), near);
    if (pfn >= 0) pages += 2 ** order;
    return pfn;
  };
  const takeTable = (served: TableArea): boolean => {
    const pfn = take(table, 0);
    if (pfn >= 0) tables.push({ ...served, pfn: toPfn(pfn) });
    return pfn >= 0;
  };
  const takeLeaf = (): boolean => {
    const leaf: Pfn[] = [];
    chunks.push(leaf);
    const into = (pfn: Pfn | -1): boolean => pfn >= 0 && leaf.push(toPfn(pfn)) > 0;
    if (into(take(memmap, PAGEBLOCK_ORDER))) return true;
    let all = into(take(table, 0));
    for (let k = 0; all && k < PAGEBLOCK_PAGES; k++) all = into(take(memmap, 0));
    return all;
  };
  let all = missing.every(takeTable);
  for (let k = 0; all && k < plan.kernelChunks; k++) all = takeLeaf();
  const frames: MemmapFrames = Object.freeze({ tables, chunks, pages });
  if (all) return ok(frames);
  releaseKernelMemmap(m, frames);
  const wanted = missing.length + plan.kernelChunks * PAGEBLOCK_PAGES;
  return err(refusal('no-memory', `the struct pages take ${wanted} frames of existing memory; ${pages} could be had`));
}

/**
 * Gives the frames back: struct pages in the order of their sections, then the tables, as arch_remove_memory() does.
 * @returns how many frames
 */
export function releaseKernelMemmap(m: Machine, frames: MemmapFrames): number {
  for (const leaf of frames.chunks) for (const pfn of leaf) m.free(pfn);
  for (const t of frames.tables) m.free(t.pfn);
  return frames.pages;
}

export type MemmapParts = {
  readonly before: MemmapFrames | undefined;
  readonly gone: MemmapFrames | undefined;
  readonly after: MemmapFrames | undefined;
};

/**
 * The frames of a range of which `cut` goes: what goes with it, and what stays with the parts before and after. A table
 * stays as long as a part of the range needs it. Undefined where there is nothing. Cost O(sections).
 */
export function splitMemmap(
  frames: MemmapFrames | undefined,
  range: { readonly start: Pfn; readonly end: Pfn },
  cut: { readonly start: number; readonly end: number },
): MemmapParts {
  if (frames === undefined) return { before: undefined, gone: undefined, after: undefined };
  const sections = (range.end - range.start) / PAGES_PER_SECTION;
  const leaves = frames.chunks.length;
  assert(leaves === 0 || leaves === sections, 'a leaf for each section', { leaves, sections });
  const start = Math.max(range.start, cut.start);
  const end = Math.min(range.end, cut.end);
  assert(start < end, 'the cut lies in the range', { range, cut });

  const serves = (t: TableArea, from: number, to: number): boolean => from < to && t.startPfn < to && from < t.endPfn;
  const partOf = (t: TableArea): keyof MemmapParts =>
    serves(t, range.start, start) ? 'before' : serves(t, end, range.end) ? 'after' : 'gone';
  const part = (name: keyof MemmapParts, from: number, to: number): MemmapFrames | undefined => {
    const at = (pfn: number): number => (pfn - range.start) / PAGES_PER_SECTION;
    const tables = frames.tables.filter((t) => partOf(t) === name);
    const chunks = leaves === 0 ? [] : frames.chunks.slice(at(from), at(to));
    const pages = chunks.reduce((n, leaf) => n + (leaf.length === 1 ? PAGEBLOCK_PAGES : leaf.length), tables.length);
    return pages === 0 ? undefined : Object.freeze({ tables, chunks, pages });
  };
  return {
    before: part('before', range.start, start),
    gone: part('gone', start, end),
    after: part('after', end, range.end),
  };
}
