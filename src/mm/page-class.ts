// Page classes: what a used frame is used for, and what follows from that.
//
//   class        migratetype   top zone   moves?                      examples
//   anonymous    Movable       Movable    yes (LRU)                   heap, stack of a process, THP
//   file         Movable       Movable    yes (LRU)                   page cache
//   shmem        Movable       Movable    yes (LRU)                   tmpfs, shared memory
//   hugetlb      Movable       Movable    yes                         the pool of 2 MiB huge pages
//   balloon      Movable       Movable    by its driver; not managed  inflated by virtio-balloon (PageOffline)
//   movable-ops  Movable       Movable    by its owner                zsmalloc: kernel pages off the LRU with a migrate callback
//   gigantic     Unmovable     Normal     no                          1 GiB huge pages
//   slab         Unmovable     Normal     no                          kmalloc, inodes, dentries
//   pagetable    Unmovable     Normal     no                          page tables of processes
//   stack        Unmovable     Normal     no                          kernel stacks
//   vmalloc      Unmovable     Normal     no                          modules, vmalloc()
//   driver       Unmovable     Normal     no                          DMA buffers, other compound kernel pages
//   memmap       Unmovable     Normal     no                          struct pages of hot-added memory
//   reserved     Unmovable     Normal     no; not managed             kernel image, boot memmap, firmware
//   deferred     Unmovable     Normal     no; not managed             struct pages not initialised yet
//   unplugged    -             -          stays; not managed          never plugged by virtio-mem (PageOffline)
//   poisoned     -             -          stays; does not block       hwpoison
//   unknown      Unmovable     Normal     not as far as one can see   a frame without any flag
//
// Source: Linux v6.12 mm/page_isolation.c: has_unmovable_pages() (spec 3.2); gfp flags of the usual callers.

import { MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE, type MigrateType } from './geometry.ts';

export const PAGE_CLASSES = [
  'anonymous',
  'file',
  'shmem',
  'hugetlb',
  'balloon',
  'gigantic',
  'slab',
  'slab-reclaimable',
  'pagetable',
  'stack',
  'vmalloc',
  'driver',
  'memmap',
  'reserved',
  'deferred',
  'unplugged',
  'poisoned',
  'unknown',
  'movable-ops',
] as const;
export type PageClass = (typeof PAGE_CLASSES)[number];

/**
 * `lru`     ordinary migration moves it
 * `driver`  its driver or owner moves it when asked (balloon, movable-ops)
 * `stays`   it may stay in a block that goes offline (poison)
 * `never`   found at isolation: EBUSY
 */
export type Mobility = 'lru' | 'driver' | 'stays' | 'never';

/** Zones, in the kernel's index order. */
export const ZONE_NAMES = ['DMA', 'DMA32', 'Normal', 'Movable'] as const;
export type ZoneName = (typeof ZONE_NAMES)[number];
export const ZONE_DMA = 0;
export const ZONE_DMA32 = 1;
export const ZONE_NORMAL = 2;
export const ZONE_MOVABLE = 3;
export type ZoneIndex = 0 | 1 | 2 | 3;

export type ClassTraits = {
  readonly mobility: Mobility;
  /** What an allocation for this class asks for. */
  readonly migratetype: MigrateType;
  /** The highest zone an allocation for this class may use. */
  readonly topZone: ZoneIndex;
  /** False: its frames are present but not managed (spec 1.5). A balloon lowers MemTotal while it holds them. */
  readonly managed: boolean;
};

const movable = (mobility: Mobility): ClassTraits => ({
  mobility,
  migratetype: MIGRATE_MOVABLE,
  topZone: ZONE_MOVABLE,
  managed: true,
});
const kernel = (migratetype: MigrateType = MIGRATE_UNMOVABLE): ClassTraits => ({
  mobility: 'never',
  migratetype,
  topZone: ZONE_NORMAL,
  managed: true,
});

const stays: ClassTraits = { ...kernel(), mobility: 'stays' };

export const CLASS_TRAITS: Readonly<Record<PageClass, ClassTraits>> = Object.freeze({
  anonymous: movable('lru'),
  file: movable('lru'),
  shmem: movable('lru'),
  hugetlb: movable('lru'),
  balloon: { ...movable('driver'), managed: false },
  gigantic: kernel(),
  slab: kernel(),
  'slab-reclaimable': kernel(MIGRATE_RECLAIMABLE),
  pagetable: kernel(),
  stack: kernel(),
  vmalloc: kernel(),
  driver: kernel(),
  memmap: kernel(),
  reserved: { ...kernel(), managed: false },
  deferred: { ...kernel(), managed: false },
  unplugged: { ...stays, managed: false },
  poisoned: stays,
  unknown: kernel(),
  'movable-ops': movable('driver'),
});
