// The manifest: which kernel files a capture holds, and what is lost without each.
//
// Files are read in this order: descriptions first (they do not change by themselves), then what the machine is doing.
// Only names listed here are ever opened; the write-only ones next to them (soft_offline_page, compact, probe) and the
// ones with a side effect or no end (kmsg, kcore, trace_pipe) are never touched.
//
//   FILES    one path each               DIRECTORIES   dir/<name matching `each`>/<one of `files`>, and links
//   PAGES    64-bit words by frame       CONDITIONS    re-read after the page files, to tell whether they are torn
//
// Spec 7 (file formats); paths as in Linux Documentation/admin-guide/mm/memory-hotplug.rst and mm/pagemap.rst.

import type { CaptureProblem } from './capture.ts';
import { UDEV_DIRECTORIES } from './udev-rules.ts';

export type Loss = Pick<CaptureProblem, 'lost' | 'remedy'>;

export type ManifestFile = {
  readonly path: string;
  /** What answers get worse without it, and how to get it; absent where a kernel may well not have the file. */
  readonly loss?: Loss;
  /** The file exists on every such kernel but not everyone may read it: only a refusal is worth a word. */
  readonly deniedLoss?: Loss;
};

export type ManifestDirectory = {
  readonly path: string;
  /** Which names in `path` are directories of interest; undefined: `files` lie in `path` itself. */
  readonly each?: RegExp;
  /** Files to read there; 'all': every readable name (parameters, which are all small text). */
  readonly files: readonly string[] | 'all';
  /** Names there that are links worth keeping. */
  readonly links?: RegExp;
};

export type ManifestPages = {
  readonly path: string;
  readonly field: 'kpageflags' | 'kpagecount' | 'kpagecgroup';
  readonly loss: Loss;
};

const AS_ROOT = 'run it as root (sudo dimmer capture -o FILE), then use the file as anyone';

export const FILES: readonly ManifestFile[] = [
  { path: '/proc/version' },
  { path: '/proc/cmdline' },
  { path: '/proc/cpuinfo' },
  { path: '/proc/modules' },
  {
    path: '/proc/iomem',
    loss: {
      lost: 'where memory and devices lie in the physical address space; holes and DIMM borders are guessed from blocks',
      remedy: AS_ROOT,
    },
  },
  {
    path: '/proc/meminfo',
    loss: { lost: 'totals of the machine to check the other files against', remedy: 'mount /proc' },
  },
  {
    path: '/proc/vmstat',
    loss: { lost: 'counts of migrations, compactions and failures so far', remedy: 'mount /proc' },
  },
  {
    path: '/proc/pagetypeinfo',
    loss: {
      lost: 'free pages by migrate type and pageblocks of each type: fragmentation figures become estimates',
      remedy: AS_ROOT,
    },
  },
  {
    path: '/proc/slabinfo',
    deniedLoss: { lost: 'names and sizes of the slab caches that hold unmovable memory', remedy: AS_ROOT },
  },
];

const HUGEPAGE_POOLS = /^hugepages-\d+kB$/;

export const DIRECTORIES: readonly ManifestDirectory[] = [
  {
    path: '/proc/sys/vm',
    files: [
      'compact_unevictable_allowed',
      'compaction_proactiveness',
      'defrag_mode',
      'extfrag_threshold',
      'hugetlb_optimize_vmemmap',
      'lowmem_reserve_ratio',
      'min_free_kbytes',
      'min_slab_ratio',
      'min_unmapped_ratio',
      'nr_hugepages',
      'nr_overcommit_hugepages',
      'numa_stat',
      'overcommit_memory',
      'overcommit_ratio',
      'percpu_pagelist_high_fraction',
      'swappiness',
      'user_reserve_kbytes',
      'watermark_boost_factor',
      'watermark_scale_factor',
      'zone_reclaim_mode',
    ],
  },
  { path: '/sys/devices/system/memory', files: ['auto_online_blocks', 'block_size_bytes', 'crash_hotplug'] },
  {
    path: '/sys/devices/system/memory',
    each: /^memory\d+$/,
    files: ['online', 'phys_device', 'phys_index', 'removable', 'state', 'valid_zones'],
    links: /^node\d+$/,
  },
  {
    path: '/sys/devices/system/node',
    files: ['has_cpu', 'has_generic_initiator', 'has_memory', 'has_normal_memory', 'online', 'possible'],
  },
  {
    path: '/sys/devices/system/node',
    each: /^node\d+$/,
    files: ['cpulist', 'cpumap', 'distance', 'meminfo', 'numastat', 'vmstat'],
    links: /^memory\d+$/,
  },
  { path: '/sys/module/memory_hotplug/parameters', files: 'all' },
  {
    path: '/sys/kernel/mm/hugepages',
    each: HUGEPAGE_POOLS,
    files: ['free_hugepages', 'nr_hugepages', 'nr_overcommit_hugepages', 'resv_hugepages', 'surplus_hugepages'],
  },
  {
    path: '/sys/kernel/mm/transparent_hugepage',
    files: ['defrag', 'enabled', 'hpage_pmd_size', 'shmem_enabled', 'use_zero_page'],
  },
  // Who onlines memory besides the kernel; a capture keeps the rules about memory blocks only (recorded-tree.ts).
  // Names first: one that cannot be read (a link to /dev/null) still hides the files of its name.
  ...UDEV_DIRECTORIES.map((path): ManifestDirectory => ({ path, files: [], links: /\.rules$/ })),
  ...UDEV_DIRECTORIES.map((path): ManifestDirectory => ({ path, files: 'all' })),
];

/** Pools of one node: nodeN/hugepages/hugepages-2048kB/... */
export const NODE_POOLS: ManifestDirectory = {
  path: 'hugepages',
  each: HUGEPAGE_POOLS,
  files: ['free_hugepages', 'nr_hugepages', 'surplus_hugepages'],
};

/** Without these two a place is no Linux machine, see `gather`. Both are read before and after the page files. */
export const CONDITIONS: readonly ManifestFile[] = [
  {
    path: '/proc/zoneinfo',
    loss: { lost: 'zones, their spans and watermarks: nothing can be said about room', remedy: 'mount /proc' },
  },
  {
    path: '/proc/buddyinfo',
    loss: { lost: 'free chunks by order: contiguity is only known where page flags are', remedy: 'mount /proc' },
  },
];

export const MEMORY_BLOCKS = '/sys/devices/system/memory';
export const BLOCK_SIZE = `${MEMORY_BLOCKS}/block_size_bytes`;

export const NO_BLOCKS: Loss = {
  lost: 'memory blocks: what can be put offline, and how large a step is',
  remedy: 'a kernel with CONFIG_MEMORY_HOTPLUG, and /sys mounted',
};

export const PAGES: readonly ManifestPages[] = [
  {
    path: '/proc/kpageflags',
    field: 'kpageflags',
    loss: {
      lost: 'what each page holds: which blocks can go offline, and the pages that stand in the way, stay unknown',
      remedy: `${AS_ROOT}; needs CONFIG_PROC_PAGE_MONITOR, and in a container the host's own /proc`,
    },
  },
  {
    path: '/proc/kpagecount',
    field: 'kpagecount',
    loss: { lost: 'how often each page is mapped: the cost of moving it is estimated', remedy: AS_ROOT },
  },
  {
    path: '/proc/kpagecgroup',
    field: 'kpagecgroup',
    loss: {
      lost: 'which cgroup a page is charged to: holders are named by kind only',
      remedy: `${AS_ROOT}; needs CONFIG_MEMCG`,
    },
  },
];
