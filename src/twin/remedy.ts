// Remedies: what would free pages of a class, and at what price. For people; one sentence each, least harm first.
//
// Nothing here is done by dimmer. "Remapping" (moving kernel pages under constant virtual addresses, Hansen 2005) is
// what no Linux does; it is named where it alone would help, so that a person need not look further.

import type { PageClass } from '#mm/index';

export type Remedy = {
  readonly text: string;
  /** What it costs: 'none' = a moment's work, 'service' = something stops, 'reboot' = the machine restarts. */
  readonly cost: 'none' | 'service' | 'reboot' | 'not-in-linux';
};

const MOVABLE_NEXT_TIME: Remedy = {
  text: 'for memory that is added later: online it with online_movable, so that no kernel page gets there',
  cost: 'none',
};
const REBOOT: Remedy = {
  text: 'reboot with movable_node (hot-pluggable nodes) or kernelcore=SIZE, so that kernel pages stay out of most blocks',
  cost: 'reboot',
};
const REMAP: Remedy = { text: 'remapping kernel pages would move them; no Linux kernel can', cost: 'not-in-linux' };

const stop = (whom: string): Remedy => ({ text: `stop ${whom}`, cost: 'service' });

/** @param cgroup  whose pages they are, where kpagecgroup said so */
export function remediesFor(cls: PageClass | 'none', name: string, cgroup: string | undefined): readonly Remedy[] {
  const owner = cgroup === undefined ? 'the processes that own them' : `what runs in cgroup ${cgroup}`;
  switch (cls) {
    case 'slab':
    case 'slab-reclaimable':
      return [
        { text: 'echo 2 > /proc/sys/vm/drop_caches frees unused dentries and inodes, part of the slab', cost: 'none' },
        ...(cgroup === undefined ? [] : [stop(owner)]),
        MOVABLE_NEXT_TIME,
        REBOOT,
        REMAP,
      ];
    case 'pagetable':
      return [stop(cgroup === undefined ? 'the processes that they map' : owner), MOVABLE_NEXT_TIME, REBOOT, REMAP];
    case 'driver':
      return [
        {
          text: 'unload or rebind the driver that holds them (network, storage, GPU), or stop its users',
          cost: 'service',
        },
        MOVABLE_NEXT_TIME,
        REBOOT,
        REMAP,
      ];
    case 'stack':
      return [stop('the processes whose kernel stacks they are'), REBOOT, REMAP];
    case 'vmalloc':
      return [{ text: 'unload the module that allocated them', cost: 'service' }, REBOOT, REMAP];
    case 'memmap':
      return [
        { text: 'remove the hot-added memory that they describe first', cost: 'none' },
        {
          text: 'add memory with memory_hotplug.memmap_on_memory=1, which keeps its memory map on itself',
          cost: 'reboot',
        },
        REMAP,
      ];
    case 'reserved':
      return [{ text: 'nothing at run time: given out before the allocator existed', cost: 'reboot' }, REMAP];
    case 'gigantic':
      return [{ text: 'give 1 GiB huge pages back: lower nr_hugepages of that size on this node', cost: 'service' }];
    case 'unknown':
      return [
        { text: 'free per-CPU lists go away by themselves; kernel memory without flags does not', cost: 'none' },
        REBOOT,
      ];
    case 'deferred':
      return [
        { text: 'wait until the kernel has initialised the memory, or use it once (it grows on demand)', cost: 'none' },
      ];
    case 'anonymous':
      return [stop(owner)];
    case 'file':
      return name.includes('block device')
        ? [{ text: 'unmount the file system, or sync and echo 3 > /proc/sys/vm/drop_caches', cost: 'service' }]
        : [{ text: 'sync; echo 1 > /proc/sys/vm/drop_caches', cost: 'none' }];
    case 'shmem':
      return [{ text: 'delete files on tmpfs, or stop the users of the shared memory', cost: 'service' }];
    case 'hugetlb':
      return [{ text: 'lower vm.nr_hugepages, or free memory on another node for them', cost: 'service' }];
    case 'balloon':
      return [{ text: 'deflate the balloon', cost: 'none' }];
    case 'movable-ops':
      return [{ text: 'swapoff the zram device, or disable zswap, that they belong to', cost: 'service' }];
    case 'unplugged':
    case 'poisoned':
    case 'none':
      return [];
  }
}
