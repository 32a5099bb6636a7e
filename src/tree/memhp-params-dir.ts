// /sys/module/memory_hotplug/parameters: how memory that is added comes online, and where its memmap lies.
//
//   online_policy             0644   contig-zones | auto-movable                    other words EINVAL
//   auto_movable_ratio        0644   unsigned int, per cent                         no such number EINVAL
//   auto_movable_numa_aware   0644   kstrtobool, shown Y or N                       EINVAL
//   memmap_on_memory          0444   Y | N | force: decided at boot                 EACCES
//
// A change counts from the next block that comes online. Follows Linux v6.12 mm/memory_hotplug.c (spec 1.8, 4.3).

import { printMemhpParams } from '#kernfs/memhp-params';
import { ONLINE_POLICIES } from '#mm/hotplug';
import { readBool } from './block-store.ts';
import type { TreeContext } from './tree-context.ts';
import { attribute, type DirNode, type FileNode, fixedDir, word } from './tree-node.ts';

export function memhpParamsDir({ machine: m }: TreeContext): DirNode {
  const { hotplug } = m;
  const shown = (name: string) => (): string => {
    const { onlinePolicy, autoMovable, memmapOnMemory } = hotplug.settings;
    const files = printMemhpParams({
      onlinePolicy,
      autoMovableRatio: autoMovable.ratio,
      autoMovableNumaAware: autoMovable.numaAware,
      memmapOnMemory,
    });
    return files.get(name) as string; // all four are given
  };
  const parameter = (name: string, store?: FileNode['store']): FileNode => attribute(shown(name), store);
  return fixedDir({
    auto_movable_numa_aware: parameter('auto_movable_numa_aware', (text) => {
      const numaAware = readBool(text);
      if (numaAware === undefined) return 'EINVAL';
      hotplug.settings.autoMovable.numaAware = numaAware;
      return 'ok';
    }),
    auto_movable_ratio: parameter('auto_movable_ratio', (text) => {
      const ratio = readUnsigned(text, 2 ** 32 - 1);
      if (ratio === undefined) return 'EINVAL';
      hotplug.settings.autoMovable.ratio = ratio;
      return 'ok';
    }),
    memmap_on_memory: parameter('memmap_on_memory'),
    online_policy: parameter('online_policy', (text) => {
      const policy = ONLINE_POLICIES.find((p) => p === word(text));
      if (policy === undefined) return 'EINVAL';
      hotplug.settings.onlinePolicy = policy;
      return 'ok';
    }),
  });
}

/** kstrtouint() with base 0: decimal, 0x hexadecimal or 0 octal, one newline behind it. */
export function readUnsigned(text: string, max: number): number | undefined {
  const said = word(text).replace(/^\+/, '');
  const n = /^0x[0-9a-f]+$/i.test(said)
    ? Number(said)
    : /^0[0-7]+$/.test(said)
      ? Number.parseInt(said, 8)
      : /^\d+$/.test(said)
        ? Number(said)
        : undefined;
  return n !== undefined && n <= max ? n : undefined;
}
