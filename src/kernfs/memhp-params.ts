// memory_hotplug's module parameters: how added memory comes online, and where its memmap goes.
//
//   /sys/module/memory_hotplug/parameters/
//     online_policy            contig-zones | auto-movable      which zone a plain "online" chooses
//     auto_movable_ratio       301                              per cent of Movable to kernel memory
//     auto_movable_numa_aware  Y | N
//     memmap_on_memory         Y | N | force                    (force since 6.6; read-only at run time)
//
// Each may be absent: older kernels, or another configuration. A word that is in none of the lists above is refused:
// guessing a policy would predict the wrong zones. Spec 1.8; measured on a real guest: "Y" does not mean that it took effect.
// Follows Linux v6.12 mm/memory_hotplug.c.

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem, KernTree } from './source.ts';
import { oneOf, readAttribute } from './sysfs.ts';
import { readCount } from './text.ts';

const ONLINE_POLICIES = ['contig-zones', 'auto-movable'] as const;
const MEMMAP_ON_MEMORY = ['Y', 'N', 'force'] as const;
const YES_NO = ['Y', 'N'] as const;

export type OnlinePolicy = (typeof ONLINE_POLICIES)[number];
export type MemmapOnMemory = (typeof MEMMAP_ON_MEMORY)[number];

export type MemhpParams = {
  readonly onlinePolicy?: OnlinePolicy;
  /** Per cent. */
  readonly autoMovableRatio?: number;
  readonly autoMovableNumaAware?: boolean;
  readonly memmapOnMemory?: MemmapOnMemory;
};

export const MEMHP_PARAMS_DIR = '/sys/module/memory_hotplug/parameters';

export function readMemhpParams(tree: KernTree): Result<MemhpParams, KernfsProblem> {
  const policy = readAttribute(tree, `${MEMHP_PARAMS_DIR}/online_policy`, {
    expected: ONLINE_POLICIES.join(' or '),
    read: oneOf(ONLINE_POLICIES),
  });
  if (!policy.ok) return policy;
  const ratio = readAttribute(tree, `${MEMHP_PARAMS_DIR}/auto_movable_ratio`, {
    expected: 'a percentage',
    read: readUnsignedInt,
  });
  if (!ratio.ok) return ratio;
  const numaAware = readAttribute(tree, `${MEMHP_PARAMS_DIR}/auto_movable_numa_aware`, {
    expected: 'Y or N',
    read: oneOf(YES_NO),
  });
  if (!numaAware.ok) return numaAware;
  const memmap = readAttribute(tree, `${MEMHP_PARAMS_DIR}/memmap_on_memory`, {
    expected: MEMMAP_ON_MEMORY.join(' or '),
    read: oneOf(MEMMAP_ON_MEMORY),
  });
  if (!memmap.ok) return memmap;
  return ok({
    ...(policy.value === undefined ? {} : { onlinePolicy: policy.value }),
    ...(ratio.value === undefined ? {} : { autoMovableRatio: ratio.value }),
    ...(numaAware.value === undefined ? {} : { autoMovableNumaAware: numaAware.value === 'Y' }),
    ...(memmap.value === undefined ? {} : { memmapOnMemory: memmap.value }),
  });
}

/** The parameters' files: name -> exact text, for those that are set. */
export function printMemhpParams(p: MemhpParams): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  if (p.autoMovableNumaAware !== undefined)
    files.set('auto_movable_numa_aware', p.autoMovableNumaAware ? 'Y\n' : 'N\n');
  if (p.autoMovableRatio !== undefined) files.set('auto_movable_ratio', `${p.autoMovableRatio}\n`);
  if (p.memmapOnMemory !== undefined) files.set('memmap_on_memory', `${p.memmapOnMemory}\n`);
  if (p.onlinePolicy !== undefined) files.set('online_policy', `${p.onlinePolicy}\n`);
  return files;
}

/** "%u": 0..2^32-1. */
function readUnsignedInt(line: string): number | undefined {
  const n = readCount(line);
  return n !== undefined && n >= 0 && n < 2 ** 32 ? n : undefined;
}
