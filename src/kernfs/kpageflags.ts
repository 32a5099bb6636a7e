// /proc/kpageflags: what each page is, as 64 bits; and the same shape of kpagecount and kpagecgroup.
//
// Each of the three files is one little-endian u64 per frame, from frame 0, no header. kpageflags holds the bits
// below; kpagecount how often the frame is *mapped* (not its reference count); kpagecgroup the inode of the cgroup
// that is charged for it. Reads end at the last frame rounded up to a section; a frame that is not online reads NOPAGE.
//
//   bit   0       8       16      24      32      40
//         LERUDlAS|WIBMasbH|TGuXnxto|zig.....|rmdPpOhc|fHH.....      letters as the kernel's page-types prints them
//         |------- stable interface ---------|- for kernel hackers; may change -|
//
// What a flag does not say (measured, Linux 6.1 and 6.12): a word of 0 is a page on a per-CPU list or a plain kernel
// allocation; since 6.12 every anonymous page also carries KSM; BUDDY is on every page of a free chunk, not its head
// only. Words are lo/hi pairs of Uint32: a BigInt has no place in a loop over frames.
// Follows Linux v6.12 include/uapi/linux/kernel-page-flags.h, include/linux/kernel-page-flags.h, fs/proc/page.c,
// tools/mm/page-types.c; spec 6.

import { assert } from '#base/assert';
import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem } from './source.ts';
import { problem } from './text.ts';

/** Bit positions, by the kernel's names without KPF_. */
export const KPF = Object.freeze({
  LOCKED: 0,
  ERROR: 1,
  REFERENCED: 2,
  UPTODATE: 3,
  DIRTY: 4,
  LRU: 5,
  ACTIVE: 6,
  SLAB: 7,
  WRITEBACK: 8,
  RECLAIM: 9,
  BUDDY: 10,
  MMAP: 11,
  ANON: 12,
  SWAPCACHE: 13,
  SWAPBACKED: 14,
  COMPOUND_HEAD: 15,
  COMPOUND_TAIL: 16,
  HUGE: 17,
  UNEVICTABLE: 18,
  HWPOISON: 19,
  NOPAGE: 20,
  KSM: 21,
  THP: 22,
  OFFLINE: 23,
  ZERO_PAGE: 24,
  IDLE: 25,
  PGTABLE: 26,
  RESERVED: 32,
  MLOCKED: 33,
  OWNER_2: 34,
  PRIVATE: 35,
  PRIVATE_2: 36,
  OWNER_PRIVATE: 37,
  ARCH: 38,
  UNCACHED: 39,
  SOFTDIRTY: 40,
  ARCH_2: 41,
  ARCH_3: 42,
});

export type PageFlag = {
  readonly bit: number;
  /** One character; "d" and "H" stand for two flags each, told apart by their column. */
  readonly letter: string;
  /** page-types' long name. */
  readonly name: string;
};

const flag = (bit: number, letter: string, name: string): PageFlag => ({ bit, letter, name });

/** All flags, by bit. */
export const PAGE_FLAGS: readonly PageFlag[] = [
  flag(KPF.LOCKED, 'L', 'locked'),
  flag(KPF.ERROR, 'E', 'error'),
  flag(KPF.REFERENCED, 'R', 'referenced'),
  flag(KPF.UPTODATE, 'U', 'uptodate'),
  flag(KPF.DIRTY, 'D', 'dirty'),
  flag(KPF.LRU, 'l', 'lru'),
  flag(KPF.ACTIVE, 'A', 'active'),
  flag(KPF.SLAB, 'S', 'slab'),
  flag(KPF.WRITEBACK, 'W', 'writeback'),
  flag(KPF.RECLAIM, 'I', 'reclaim'),
  flag(KPF.BUDDY, 'B', 'buddy'),
  flag(KPF.MMAP, 'M', 'mmap'),
  flag(KPF.ANON, 'a', 'anonymous'),
  flag(KPF.SWAPCACHE, 's', 'swapcache'),
  flag(KPF.SWAPBACKED, 'b', 'swapbacked'),
  flag(KPF.COMPOUND_HEAD, 'H', 'compound_head'),
  flag(KPF.COMPOUND_TAIL, 'T', 'compound_tail'),
  flag(KPF.HUGE, 'G', 'huge'),
  flag(KPF.UNEVICTABLE, 'u', 'unevictable'),
  flag(KPF.HWPOISON, 'X', 'hwpoison'),
  flag(KPF.NOPAGE, 'n', 'nopage'),
  flag(KPF.KSM, 'x', 'ksm'),
  flag(KPF.THP, 't', 'thp'),
  flag(KPF.OFFLINE, 'o', 'offline'),
  flag(KPF.ZERO_PAGE, 'z', 'zero_page'),
  flag(KPF.IDLE, 'i', 'idle_page'),
  flag(KPF.PGTABLE, 'g', 'pgtable'),
  flag(KPF.RESERVED, 'r', 'reserved'),
  flag(KPF.MLOCKED, 'm', 'mlocked'),
  flag(KPF.OWNER_2, 'd', 'owner_2'), // once "mappedtodisk"
  flag(KPF.PRIVATE, 'P', 'private'),
  flag(KPF.PRIVATE_2, 'p', 'private_2'),
  flag(KPF.OWNER_PRIVATE, 'O', 'owner_private'),
  flag(KPF.ARCH, 'h', 'arch'),
  flag(KPF.UNCACHED, 'c', 'uncached'), // no longer set by 6.12: spec 6 leaves it out
  flag(KPF.SOFTDIRTY, 'f', 'softdirty'),
  flag(KPF.ARCH_2, 'H', 'arch_2'),
  flag(KPF.ARCH_3, 'H', 'arch_3'),
];

/** Is this bit (a KPF position) set in the word? */
export const hasFlag = (lo: number, hi: number, bit: number): boolean =>
  (bit < 32 ? (lo >>> bit) & 1 : (hi >>> (bit - 32)) & 1) === 1;

const FLAG_OF_BIT: readonly (PageFlag | undefined)[] = Array.from({ length: 64 }, (_, bit) =>
  PAGE_FLAGS.find((f) => f.bit === bit),
);

/** Names of the set flags, by bit; a bit that this table does not know is "bit27". */
export function decodeFlags(lo: number, hi: number): string[] {
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if (hasFlag(lo, hi, bit)) names.push(FLAG_OF_BIT[bit]?.name ?? `bit${bit}`);
  }
  return names;
}

/** One column per flag, its letter or "_": what `page-types --raw` shows. Unknown bits follow as "+bit27". */
export function formatFlags(lo: number, hi: number): string {
  let text = '';
  for (const { bit, letter } of PAGE_FLAGS) text += hasFlag(lo, hi, bit) ? letter : '_';
  for (let bit = 0; bit < 64; bit++) {
    if (hasFlag(lo, hi, bit) && FLAG_OF_BIT[bit] === undefined) text += `+bit${bit}`;
  }
  return text;
}

/**
 * Words in place: word k is lo[k * WORD_STRIDE], hi[k * WORD_STRIDE]. Two views of the same bytes, `hi` four bytes
 * further on, so that loops index both alike and nothing is copied.
 */
export type Words = { readonly length: number; readonly lo: Uint32Array; readonly hi: Uint32Array };

export const WORD_STRIDE = 2;
const WORD_BYTES = 8;

/**
 * The 64-bit words of a page file. Refuses a length that is no multiple of eight: the end is missing. Cost O(1), or a
 * copy when the bytes do not start on a multiple of four.
 */
export function wordsOf(bytes: Uint8Array | ArrayBuffer, file = '/proc/kpageflags'): Result<Words, KernfsProblem> {
  assert(LITTLE_ENDIAN, 'page files are read in place, which takes a little-endian machine');
  const view = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes);
  const length = view.byteLength / WORD_BYTES;
  if (!Number.isInteger(length)) {
    return problem(file, 0, `${view.byteLength} bytes are not whole words of ${WORD_BYTES}: the file was cut off`);
  }
  if (length === 0) return ok({ length, lo: new Uint32Array(0), hi: new Uint32Array(0) });
  const aligned = view.byteOffset % 4 === 0 ? view : view.slice();
  const { buffer, byteOffset } = aligned;
  return ok({
    length,
    lo: new Uint32Array(buffer, byteOffset, length * WORD_STRIDE - 1),
    hi: new Uint32Array(buffer, byteOffset + 4, length * WORD_STRIDE - 1),
  });
}

/** x86-64 and every arm64 Linux that dimmer knows; s390x is not. */
const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
