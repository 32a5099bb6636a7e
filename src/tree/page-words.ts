// /proc/kpageflags and /proc/kpagecount of a Machine: one little-endian u64 a frame, from frame 0 to the end of the
// highest present section.
//
//   frame                           kpageflags                              kpagecount (map count)
//   not present, offline, a hole    NOPAGE (a hole: RESERVED)               0
//   in a free chunk                 BUDDY, every frame of it                0
//   on a per-CPU list               0                                       0
//   used                            by class, below; tails their own word   1 for pages of processes, else 0
//   memmap on its own block         the profile's word                      0
//
// A class stands for many states of a page. The words are the commonest ones of recorded guests (Debian 6.1.192 and
// 6.12.100): a page of a process is up to date and on the LRU; its cache is mapped, as page-state.ts assumes.
// Kernel memory without marks of its own (vmalloc, stacks, memmap, single pages of drivers) reads 0, as it does there.
//
// Offset and length must be multiples of eight, else EINVAL. Follows Linux v6.12 fs/proc/page.c (spec 6).

import type { ErrnoName } from '#base/errno';
import { toPfn } from '#base/units';
import { KPF } from '#kernfs/kpageflags';
import { PAGES_PER_SECTION } from '#mm/geometry';
import type { KernelProfile } from '#mm/kernel-profile';
import type { Machine } from '#mm/machine';
import { PAGE_CLASSES, type PageClass } from '#mm/page-class';
import { FREE_SLOT, KIND_ABSENT, KIND_MASK, KIND_NONE } from '#mm/section';
import type { TreeContext } from './tree-context.ts';
import type { FileNode } from './tree-node.ts';

const WORD = 8;

/** A word in two halves. */
type Word = { readonly lo: number; readonly hi: number };

/** Words of a class: an allocation of one frame, the head of a larger one, its tails. */
type ClassWords = { readonly single: Word; readonly head: Word; readonly tail: Word };

const bits = (...flags: readonly number[]): Word => ({
  lo: flags.reduce((w, b) => (b < 32 ? w + 2 ** b : w), 0),
  hi: flags.reduce((w, b) => (b < 32 ? w : w + 2 ** (b - 32)), 0),
});
const NOTHING = bits();
const BUDDY = bits(KPF.BUDDY);
const NOPAGE = bits(KPF.NOPAGE);
const RESERVED = bits(KPF.RESERVED);
const HEAD = KPF.COMPOUND_HEAD;
const TAIL = KPF.COMPOUND_TAIL;

const all = (word: Word): ClassWords => ({ single: word, head: word, tail: word });
const kernel: ClassWords = { single: NOTHING, head: bits(HEAD), tail: bits(TAIL) };

/** Ordinary pages on the LRU; in huge pages with THP, where 6.1 shows on tails only what the whole page shares. */
function lru(flags: readonly number[], shared: readonly number[], profile: KernelProfile): ClassWords {
  const tail = profile.name === '6.18' ? flags : shared;
  return {
    single: bits(...flags),
    head: bits(...flags, HEAD, KPF.THP),
    tail: bits(...tail, TAIL, KPF.THP),
  };
}

/** The table of classes for one kernel. */
export function wordsOfClasses(profile: KernelProfile): Readonly<Record<PageClass, ClassWords>> {
  const { UPTODATE, LRU, MMAP, ANON, SWAPBACKED, DIRTY, REFERENCED, SLAB } = KPF;
  const ksm = profile.anonymousKsm ? [KPF.KSM] : [];
  const huge: ClassWords = {
    single: bits(KPF.HUGE, HEAD),
    head: bits(KPF.HUGE, HEAD),
    tail: bits(KPF.HUGE, TAIL),
  };
  const slab: ClassWords = { single: bits(SLAB), head: bits(SLAB, HEAD), tail: bits(SLAB, TAIL) };
  const memmap = all({ lo: profile.memmapFlags.low, hi: profile.memmapFlags.high });
  return {
    anonymous: lru([UPTODATE, LRU, MMAP, ANON, SWAPBACKED, ...ksm], [MMAP, ANON, ...ksm], profile),
    file: lru([REFERENCED, UPTODATE, LRU, MMAP], [MMAP], profile),
    shmem: lru([REFERENCED, UPTODATE, DIRTY, LRU, MMAP, SWAPBACKED], [MMAP], profile),
    hugetlb: huge,
    gigantic: huge,
    balloon: all(bits(KPF.OFFLINE)),
    slab,
    'slab-reclaimable': slab,
    pagetable: all(bits(KPF.PGTABLE)),
    stack: all(NOTHING),
    vmalloc: all(NOTHING),
    driver: kernel,
    memmap, // on its own block; elsewhere it shows nothing, see wordAt
    reserved: all(RESERVED),
    deferred: all(NOTHING),
    unplugged: all(bits(KPF.OFFLINE, DIRTY)),
    poisoned: all(bits(KPF.HWPOISON)),
    unknown: all(NOTHING),
    'movable-ops': all(NOTHING),
  };
}

/** Classes whose pages some process has mapped. */
const MAPPED: ReadonlySet<PageClass> = new Set(['anonymous', 'file', 'shmem', 'hugetlb', 'gigantic']);

const NONE: Word = NOTHING;
const ONE: Word = { lo: 1, hi: 0 };

export const kpageflagsFile = (c: TreeContext): FileNode => {
  const words = wordsOfClasses(c.profile);
  return wordFile(c.machine, {
    absent: NOPAGE,
    hole: RESERVED,
    free: BUDDY,
    used: (m, index, cls, part) => (cls === 'memmap' && !hostsItself(m, index) ? NOTHING : words[cls][part]),
  });
};

export const kpagecountFile = (c: TreeContext): FileNode =>
  wordFile(c.machine, {
    absent: NONE,
    hole: NONE,
    free: NONE,
    used: (_m, _index, cls) => (MAPPED.has(cls) ? ONE : NONE),
  });

/** Does a frame with struct pages lie in the memory that they describe? */
function hostsItself(m: Machine, index: number): boolean {
  const pfn = m.sections.pfnOf(index);
  const row = m.blocks.rowOf(Math.floor(pfn / m.blockPages) as Parameters<typeof m.blocks.rowOf>[0]);
  return row >= 0 && pfn % m.blockPages < (m.blocks.vmemmapPages[row] as number);
}

type Story = {
  readonly absent: Word;
  readonly hole: Word;
  readonly free: Word;
  used(m: Machine, index: number, cls: PageClass, part: keyof ClassWords): Word;
};

const wordFile = (m: Machine, story: Story): FileNode => ({
  kind: 'file',
  mode: 0o400,
  size: 0,
  unwritable: 'EIO',
  readAt: (offset, length) => readWords(m, story, offset, length),
});

/** First frame number behind the highest present section. */
export function endOfFrames(m: Machine): number {
  let end = 0;
  for (let s = 0; s < m.sections.length; s++) {
    const number = m.sections.number[s] as number;
    if (number !== FREE_SLOT) end = Math.max(end, (number + 1) * PAGES_PER_SECTION);
  }
  return end;
}

/** Cost O(frames asked for). */
function readWords(m: Machine, story: Story, offset: number, length: number): Uint8Array | ErrnoName {
  const end = endOfFrames(m);
  const first = offset / WORD;
  const count = length === Number.POSITIVE_INFINITY ? Math.max(0, end - first) : length / WORD;
  if (!Number.isInteger(first) || !Number.isInteger(count)) return 'EINVAL';
  const stop = Math.min(end, first + count);
  if (stop <= first) return new Uint8Array(0);
  const bytes = new Uint8Array((stop - first) * WORD);
  const view = new DataView(bytes.buffer);
  const put = (pfn: number, until: number, word: Word): number => {
    const to = Math.min(until, stop);
    for (let at = (pfn - first) * WORD; at < (to - first) * WORD; at += WORD) {
      view.setUint32(at, word.lo, true);
      view.setUint32(at + 4, word.hi, true);
    }
    return to;
  };
  for (let pfn = first; pfn < stop; ) pfn = stretch(m, story, pfn, put);
  return bytes;
}

/** Writes the words from `pfn` on as far as they are alike. @returns the frame behind them */
function stretch(
  m: Machine,
  story: Story,
  pfn: number,
  put: (pfn: number, until: number, word: Word) => number,
): number {
  const index = m.sections.indexOf(toPfn(pfn));
  if (index < 0) return put(pfn, (Math.floor(pfn / PAGES_PER_SECTION) + 1) * PAGES_PER_SECTION, story.absent);
  const pool = m.poolAt(index);
  const kind = m.sections.metaAt(index) & KIND_MASK;
  if (pool === undefined) return put(pfn, pfn + 1, story.absent);
  if (kind === KIND_ABSENT) return put(pfn, pfn + 1, story.hole);
  if (kind === KIND_NONE) {
    const { area } = pool.alloc;
    const head = area.headOf(index - pool.base);
    if (head < 0) return put(pfn, pfn + 1, NOTHING);
    return put(pfn, pfn + head + (1 << area.orderAt(head)) - (index - pool.base), story.free);
  }
  const a = m.sections.allocationAt(index);
  if (a === undefined) return put(pfn, pfn + 1, NOTHING);
  const holder = m.holders.holderOf(m.sections.ownerAt(a.head));
  const cls = PAGE_CLASSES[m.holders.classIndex[holder] as number] as PageClass;
  if (a.order === 0) return put(pfn, pfn + 1, story.used(m, index, cls, 'single'));
  if (a.head === index) return put(pfn, pfn + 1, story.used(m, index, cls, 'head'));
  return put(pfn, pfn + a.head + (1 << a.order) - index, story.used(m, index, cls, 'tail'));
}
