// Kernel profiles: what differs between Linux versions, as data. A machine is booted with one; twins take the one that
// their capture's release names.
//
//   field              6.1             6.12           6.18            source
//   memmapOnMemory     single-block    per-block      per-block       mhp_supports_memmap_on_memory(), lab fact 14
//   defaultOnline      offline         online         offline         CONFIG_MEMORY_HOTPLUG_DEFAULT_ONLINE of the
//                                                                     kernels that were recorded (Debian 12; a host)
//   memmapFlags        RESERVED|37     bit 37         bit 37          recorded kpageflags of self-hosted memmap
//   movableWatermark   share           own            own             __setup_per_zone_wmarks() (spec 2.5); zoneinfo
//   failedOffline      movable         movable        keep            undo_isolate_page_range() (spec 3.1, corner)
//   poisonRefuses      no              yes            yes             memory_block_online(): nr_hwpoison (since 6.2)
//   anonymousKsm       no              yes            no              recorded kpageflags: every anonymous page, bit 21
//   fallback           largest-first   claim-steal    claim-steal     __rmqueue_fallback(), rmqueue_claim() (spec 2.3)
//   pcpHighMinMax      no              no             yes             zoneinfo_show_print(): high_min, high_max
//   memmapCounters     no              yes            yes             vmstat: nr_memmap_pages, nr_memmap_boot_pages
//   freePageblocks     no              no             yes             vmstat: nr_free_pages_blocks; vm.defrag_mode
//   crashHotplug       no              yes            yes             sysfs memory/crash_hotplug
//
// `linux` compatibility takes each row as it is; `strict` departs where undo should undo (docs/fidelity.md).

export const KERNEL_NAMES = ['6.1', '6.12', '6.18'] as const;
export type KernelName = (typeof KERNEL_NAMES)[number];

export const AUTO_ONLINE = ['offline', 'online', 'online_kernel', 'online_movable'] as const;
/** What becomes of memory when it is added: auto_online_blocks, memhp_default_state (spec 1.9). */
export type AutoOnline = (typeof AUTO_ONLINE)[number];

export type KernelProfile = {
  readonly name: KernelName;
  /** Which added ranges may host their own memmap: one memory block exactly, or any, block by block (spec 4.2). */
  readonly memmapOnMemory: 'single-block' | 'per-block';
  readonly defaultOnline: AutoOnline;
  /** kpageflags word of a frame that holds its block's memmap, as a BigInt literal would be: high and low half. */
  readonly memmapFlags: { readonly high: number; readonly low: number };
  readonly movableWatermark: 'own' | 'share';
  /** What a pageblock is after an offline that failed. */
  readonly failedOffline: 'movable' | 'keep';
  /** A block with a poisoned frame cannot come online again (EHWPOISON). */
  readonly poisonRefuses: boolean;
  readonly anonymousKsm: boolean;
  readonly fallback: 'largest-first' | 'claim-steal';
  readonly pcpHighMinMax: boolean;
  readonly memmapCounters: boolean;
  readonly freePageblocks: boolean;
  readonly crashHotplug: boolean;
};

const LINUX_6_12: KernelProfile = {
  name: '6.12',
  memmapOnMemory: 'per-block',
  defaultOnline: 'online',
  memmapFlags: { high: 0x20, low: 0 },
  movableWatermark: 'own',
  failedOffline: 'movable',
  poisonRefuses: true,
  anonymousKsm: true,
  fallback: 'claim-steal',
  pcpHighMinMax: false,
  memmapCounters: true,
  freePageblocks: false,
  crashHotplug: true,
};

export const KERNEL_PROFILES: Readonly<Record<KernelName, KernelProfile>> = Object.freeze({
  '6.1': {
    ...LINUX_6_12,
    name: '6.1',
    memmapOnMemory: 'single-block',
    defaultOnline: 'offline',
    memmapFlags: { high: 0x21, low: 0 },
    movableWatermark: 'share',
    poisonRefuses: false,
    anonymousKsm: false,
    fallback: 'largest-first',
    memmapCounters: false,
    crashHotplug: false,
  },
  '6.12': LINUX_6_12,
  '6.18': {
    ...LINUX_6_12,
    name: '6.18',
    defaultOnline: 'offline',
    failedOffline: 'keep',
    anonymousKsm: false,
    pcpHighMinMax: true,
    freePageblocks: true,
  },
});

/** The profile for a kernel release such as "6.12.100+deb12-amd64": the newest that is not newer than it, else 6.1. */
export function profileOfRelease(release: string): KernelProfile {
  const m = /^(\d+)\.(\d+)/.exec(release);
  const version = m === null ? 6012 : Number(m[1]) * 1000 + Number(m[2]); // unknown: the default
  return KERNEL_PROFILES[version >= 6017 ? '6.18' : version >= 6008 ? '6.12' : '6.1'];
}
