// Geometry: the sizes that everything else is counted in, and what each word means.
//
//   page = frame   4 KiB of physical memory, named by its Pfn
//   pageblock      512 pages = 2 MiB, the unit of grouping by mobility
//   chunk          the largest buddy, order 10 = 1024 pages = 4 MiB = two pageblocks
//   section        32768 pages = 128 MiB, the unit of presence
//   memory block   one or more sections, the unit of online and offline
//   DIMM           an added range, the unit of removal
//
//   |<------------------------------ section, 128 MiB ------------------------------>|
//   |<- chunk, 4 MiB ->|                                                              |
//   |pageblock|pageblock|pageblock|pageblock| ...                                     |
//
// Invariants (asserted below): a pageblock is a whole number of buddies, a section of chunks; no buddy crosses a
// section. x86-64, 4 KiB pages. Source: Linux v6.12 include/linux/{mmzone,pageblock-flags}.h,
// arch/x86/include/asm/sparsemem.h, arch/x86/mm/init_64.c: probe_memory_block_size().

import { assert } from '#base/assert';
import type { Result } from '#base/result';
import { err, ok } from '#base/result';

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 1 << PAGE_SHIFT; // 4096
export const PAGEBLOCK_ORDER = 9;
export const PAGEBLOCK_PAGES = 1 << PAGEBLOCK_ORDER; // 512
export const MAX_ORDER = 10;
export const NR_ORDERS = MAX_ORDER + 1; // 11 free lists a type
export const CHUNK_PAGES = 1 << MAX_ORDER; // 1024
export const SECTION_SHIFT = 27;
export const SECTION_ORDER = SECTION_SHIFT - PAGE_SHIFT; // 15
export const PAGES_PER_SECTION = 1 << SECTION_ORDER; // 32768
export const SECTION_SIZE = PAGES_PER_SECTION * PAGE_SIZE; // 134217728
export const PAGEBLOCKS_PER_SECTION = PAGES_PER_SECTION >> PAGEBLOCK_ORDER; // 64

/** Where the kernel zones end (spec 1.4): what old devices can address, and what 32-bit ones can. */
export const DMA_END = 16 * 2 ** (20 - PAGE_SHIFT); // 4096
export const DMA32_END = 4 * 2 ** (30 - PAGE_SHIFT); // 1048576

/** Frames end here: 2^40 frames of 4 KiB are 52 bits of physical address. */
export const MAX_PFN = 2 ** 40;

assert(PAGES_PER_SECTION % CHUNK_PAGES === 0, 'a chunk must not cross a section');
assert(CHUNK_PAGES === 2 * PAGEBLOCK_PAGES, 'a chunk is two pageblocks');

// Migrate types, in the kernel's index order; CMA is always index 4 here, Isolate always 5 (a kernel without CMA
// prints Isolate as 4: that is the printer's business).
export const MIGRATE_UNMOVABLE = 0;
export const MIGRATE_MOVABLE = 1;
export const MIGRATE_RECLAIMABLE = 2;
export const MIGRATE_HIGHATOMIC = 3;
export const MIGRATE_CMA = 4;
export const MIGRATE_ISOLATE = 5;
export const NR_MIGRATE_TYPES = 6;

/** Types whose pages per-CPU lists keep, and which a request may name: Unmovable, Movable, Reclaimable. */
export const NR_PCP_TYPES = 3;

export const MIGRATE_NAMES = ['Unmovable', 'Movable', 'Reclaimable', 'HighAtomic', 'CMA', 'Isolate'] as const;
export type MigrateType = 0 | 1 | 2 | 3 | 4 | 5;

/** Types that may merge into one chunk of order 10 (spec 2.1): Unmovable, Movable and Reclaimable. */
export const isMergeable = (mt: number): boolean => mt < NR_PCP_TYPES;

const MIN_BLOCK = SECTION_SIZE;
const MAX_BOOT_BLOCK = 2 * 1024 ** 3; // 2 GiB
const MAX_BLOCK = 64 * 1024 ** 3; // 64 GiB
const LARGE_MACHINE = 64 * 1024 ** 3; // below this, blocks stay at 128 MiB

/**
 * Memory block size in bytes by the x86-64 rule (spec 1.2).
 *
 * @param endOfRam  end of boot memory in bytes, exclusive
 * @returns a power of two from 128 MiB to 64 GiB; a refusal when `override` is not one
 */
export function memoryBlockSize(
  endOfRam: number,
  options: { hypervisor: boolean; override?: number },
): Result<number, { reason: 'bad-block-size'; override: number }> {
  const { override } = options;
  if (override !== undefined) {
    const exact = Number.isInteger(Math.log2(override));
    return exact && override >= MIN_BLOCK && override <= MAX_BLOCK
      ? ok(override)
      : err({ reason: 'bad-block-size', override });
  }
  if (endOfRam < LARGE_MACHINE) return ok(MIN_BLOCK);
  if (!options.hypervisor) return ok(MAX_BOOT_BLOCK);
  let size = MAX_BOOT_BLOCK;
  while (size > MIN_BLOCK && endOfRam % size !== 0) size /= 2;
  return ok(size);
}
