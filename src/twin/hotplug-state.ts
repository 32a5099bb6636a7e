// What a capture says of its machine's memory hotplug: kernel, settings, addresses, nodes that are possible. Measured
// where a file says it; the rest are the kernel's defaults.
//
//   /sys/devices/system/memory/auto_online_blocks       settings.autoOnline
//   /sys/module/memory_hotplug/parameters/*             online policy, ratio, memmap_on_memory
//   /proc/cmdline                                       movable_node
//   /proc/iomem                                         resources
//   /sys/devices/system/node/possible                   nodes that memory may come to

import { cmdlineValue, parseCmdline } from '#kernfs/cmdline';
import type { IomemEntry } from '#kernfs/iomem';
import { readMemhpParams } from '#kernfs/memhp-params';
import type { MemoryBlocks } from '#kernfs/memory-blocks';
import { readNodes } from '#kernfs/nodes';
import type { KernTree } from '#kernfs/source';
import type { HotplugSettings, MachineSpec } from '#mm/index';
import { profileOfRelease } from '#mm/kernel-profile';
import type { ResourceSpec } from '#mm/resource';

/** Parts of a MachineSpec. `release`: "6.12.100+deb12-amd64"; undefined where it is not known. */
export function hotplugStateOf(
  tree: KernTree,
  memory: Pick<MemoryBlocks, 'autoOnlineBlocks'>,
  iomem: readonly IomemEntry[] | undefined,
  release: string | undefined,
): Pick<MachineSpec, 'kernel' | 'hotplug' | 'iomem' | 'possibleNodes'> {
  const params = readMemhpParams(tree);
  const text = tree.readText('/proc/cmdline');
  const cmdline = text === undefined ? undefined : parseCmdline(text);
  const settings: Partial<HotplugSettings> = {
    ...(memory.autoOnlineBlocks === undefined ? {} : { autoOnline: memory.autoOnlineBlocks }),
    movableNode: cmdline?.ok === true && cmdlineValue(cmdline.value, 'movable_node') !== undefined,
  };
  if (params.ok) {
    const { onlinePolicy, autoMovableRatio, autoMovableNumaAware, memmapOnMemory } = params.value;
    if (onlinePolicy !== undefined) settings.onlinePolicy = onlinePolicy;
    settings.autoMovable = { ratio: autoMovableRatio ?? 301, numaAware: autoMovableNumaAware ?? true };
    if (memmapOnMemory !== undefined) settings.memmapOnMemory = memmapOnMemory;
  }
  const nodes = readNodes(tree);
  const possible = nodes.ok ? nodes.value.possible : undefined;
  return {
    kernel: profileOfRelease(release ?? '').name,
    hotplug: settings,
    ...(possible === undefined ? {} : { possibleNodes: possible }),
    ...(iomem === undefined ? {} : { iomem: resourcesOf(iomem) }),
  };
}

/** Windows of buses and regions of virtio-mem are not busy: others may claim addresses inside of them. */
const NOT_BUSY = /^(PCI Bus |PCI MMCONFIG |virtio\d+$)/;

/** Entries as a tree, in one pass: an entry's parent is the last one above it that is less deep. */
export function resourcesOf(entries: readonly IomemEntry[]): ResourceSpec[] {
  type Open = ResourceSpec & { readonly children: Open[] };
  const roots: Open[] = [];
  const path: Open[] = [];
  for (const e of entries) {
    const made: Open = {
      start: e.startPhys,
      end: e.endPhys - 1,
      name: e.name,
      busy: !NOT_BUSY.test(e.name),
      children: [],
    };
    path.length = e.depth;
    (path[e.depth - 1]?.children ?? roots).push(made);
    path.push(made);
  }
  return roots;
}
