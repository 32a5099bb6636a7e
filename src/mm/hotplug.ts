// What a machine knows of its memory hotplug: the settings a person may change, who has which addresses, and what was
// added how. Data only: memory-add.ts, memory-remove.ts, memory-online.ts and memory-hotplug.ts act on it.
//
//   settings    auto_online_blocks, /sys/module/memory_hotplug/parameters/*, movable_node, vm.* of this subject
//   resources   /proc/iomem (resource.ts)
//   groups      blocks that the online policy looks at as one (memory-group.ts)
//   ranges      [start, end) of each add, ascending: node, memmap policy, the frames of its memmap
//   hosts       blocks that hold struct pages of other blocks
//   lock        who may change memory now (hotplug-lock.ts)
//
// Copied to forks, but for the lock. Source: spec 1.8, 1.9, 4.

import type { BlockId, NodeId, Pfn } from '#base/units';
import { HotplugLock } from './hotplug-lock.ts';
import type { AutoOnline } from './kernel-profile.ts';
import type { MemmapPolicy } from './memmap.ts';
import type { MemmapFrames } from './memmap-frames.ts';
import { MemoryGroups } from './memory-group.ts';
import type { Resources } from './resource.ts';

export const ONLINE_POLICIES = ['contig-zones', 'auto-movable'] as const;
export type OnlinePolicy = (typeof ONLINE_POLICIES)[number];

export type HotplugSettings = {
  autoOnline: AutoOnline;
  onlinePolicy: OnlinePolicy;
  autoMovable: {
    /** Percent; Linux's default is 301. */
    ratio: number;
    numaAware: boolean;
  };
  /** memory_hotplug.memmap_on_memory=: may memory host its own memmap when the caller asks for it (spec 4.3)? */
  memmapOnMemory: 'N' | 'Y' | 'force';
  /** Booted with movable_node: what comes to a place between zones goes to Movable. */
  movableNode: boolean;
};

export const DEFAULT_HOTPLUG_SETTINGS: HotplugSettings = Object.freeze({
  autoOnline: 'offline',
  onlinePolicy: 'contig-zones',
  autoMovable: Object.freeze({ ratio: 301, numaAware: true }),
  memmapOnMemory: 'N',
  movableNode: false,
});

/** One add, or what is left of it. */
export type AddedRange = {
  readonly start: Pfn;
  readonly end: Pfn;
  readonly node: NodeId;
  readonly policy: MemmapPolicy;
  /** Frames of struct pages wherever they lie: what nr_memmap_pages counts (spec 4.4). */
  readonly memmapPages: number;
  /** Leaves of the direct map that it brought: DirectMap1G and DirectMap2M of meminfo. */
  readonly directMap: { readonly leaves1G: number; readonly leaves2M: number };
  /** Its struct pages by section, wherever they lie now, and the page tables that it brought. */
  readonly memmap: MemmapFrames;
};

export class Hotplug {
  settings: HotplugSettings;
  resources: Resources;
  readonly groups = new MemoryGroups();
  ranges: AddedRange[] = [];
  /** Blocks that hold struct pages of others (memmap-where.ts). */
  hosts = new Set<BlockId>();
  readonly lock = new HotplugLock();

  constructor(settings: HotplugSettings, resources: Resources) {
    this.settings = { ...settings, autoMovable: { ...settings.autoMovable } };
    this.resources = resources;
  }

  copyFrom(other: Hotplug): void {
    this.settings = { ...other.settings, autoMovable: { ...other.settings.autoMovable } };
    this.resources = other.resources.copy();
    this.groups.copyFrom(other.groups);
    this.ranges = other.ranges.slice();
    this.hosts = new Set(other.hosts);
  }
}
