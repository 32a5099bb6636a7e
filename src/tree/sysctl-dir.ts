// /proc/sys/vm: the settings of memory management that have an effect in the engine, or that readers look for.
//
//   file                                   mode   a write
//   min_free_kbytes                        0644   vm-tunables.ts: watermarks at once; EINVAL out of range
//   watermark_scale_factor                 0644   1..3000
//   watermark_boost_factor                 0644
//   percpu_pagelist_high_fraction          0644   0, or 8 and more
//   defrag_mode                            0644   0, 1; kernels that have it (6.18)
//   nr_hugepages                           0644   the pool of 2 MiB pages becomes so large, as far as that goes
//   enable_soft_offline                    0644   0, 1; kernels that have it (6.12, 6.18)
//   hotadd_memory_treat_as_movable         0644   0, 1: ours, after Ishimatsu's talk 2013: memory that is added comes
//                                                 online in Movable; the same as auto_online_blocks=online_movable
//   compact_memory                         0200   1: all zones are compacted; anything else EINVAL
//   compaction_proactiveness               0644   0..100; more than 0 wakes kcompactd at once
//   compact_unevictable_allowed            0644   0, 1
//   extfrag_threshold                      0644   0..1000
//   drop_caches                            0644   1 page cache, 2 slab (nobody here can shrink it), 3 both; 4 added: silently
//   lowmem_reserve_ratio                   0444   the engine sets it at boot only
//
// Linux has the last as 0644: here a file is writable only if the write does something, so that a script is
// refused (EACCES) rather than believed. Numbers are read as proc_dointvec() does: decimal, blanks around it; else EINVAL.
// Follows Linux v6.12 kernel/sysctl.c, mm/page_alloc.c (spec 2.4 to 2.7, 2.11),
// fs/drop_caches.c.

import { compactMemory } from '#mm/compaction/kcompactd';
import type { Machine } from '#mm/machine';
import { dropPageCache } from '#mm/reclaim';
import { readTunable, type Tunable, writeTunable } from '#mm/vm-tunables';
import type { Counters } from './counters.ts';
import { nrHugepagesFile } from './hugepages-dir.ts';
import type { TreeContext } from './tree-context.ts';
import { type DirNode, type FileNode, fixedDir } from './tree-node.ts';

const sysctl = (read: () => string, store?: FileNode['store']): FileNode => ({
  kind: 'file',
  mode: store === undefined ? 0o444 : 0o644,
  size: 0,
  read,
  ...(store === undefined ? {} : { store }),
});

export function sysctlVmDir(c: TreeContext, counters: Counters): DirNode {
  const { machine: m, profile } = c;
  return fixedDir({
    compact_memory: compactMemoryFile(m),
    compact_unevictable_allowed: tunable(m, 'compact_unevictable_allowed'),
    compaction_proactiveness: tunable(m, 'compaction_proactiveness'),
    defrag_mode: profile.freePageblocks ? tunable(m, 'defrag_mode') : undefined,
    drop_caches: dropCaches(m),
    enable_soft_offline: profile.name === '6.1' ? undefined : softOffline(c),
    extfrag_threshold: tunable(m, 'extfrag_threshold'),
    hotadd_memory_treat_as_movable: treatAsMovable(m),
    lowmem_reserve_ratio: sysctl(() => `${[...m.vm.lowmemReserveRatio, 0].join('\t')}\n`),
    min_free_kbytes: tunable(m, 'min_free_kbytes'),
    nr_hugepages: { ...nrHugepagesFile(c, counters), size: 0 },
    percpu_pagelist_high_fraction: tunable(m, 'percpu_pagelist_high_fraction'),
    watermark_boost_factor: tunable(m, 'watermark_boost_factor'),
    watermark_scale_factor: tunable(m, 'watermark_scale_factor'),
  });
}

const tunable = (m: Machine, name: Tunable): FileNode =>
  sysctl(
    () => `${readTunable(m, name)}\n`,
    (text) => {
      const value = readInt(text);
      return value !== undefined && writeTunable(m, name, value).ok ? 'ok' : 'EINVAL';
    },
  );

/** sysctl_compaction_handler() */
const compactMemoryFile = (m: Machine): FileNode => ({
  kind: 'file',
  mode: 0o200,
  size: 0,
  store: (text) => {
    if (readInt(text) !== 1) return 'EINVAL';
    compactMemory(m);
    return 'ok';
  },
});

/** drop_caches_sysctl_handler(). It reads as what was written last. */
function dropCaches(m: Machine): FileNode {
  let last = 0;
  return sysctl(
    () => `${last}\n`,
    (text) => {
      const value = readInt(text);
      if (value === undefined || value < 1 || value > 4) return 'EINVAL';
      last = value;
      if ((value & 1) !== 0) dropPageCache(m);
      if ((value & 2) !== 0) m.vmstat.drop_slab++;
      return 'ok';
    },
  );
}

/** 0 refuses soft_offline_page (EOPNOTSUPP). Since 6.11. */
const softOffline = (c: TreeContext): FileNode =>
  sysctl(
    () => (c.vm.enableSoftOffline ? '1\n' : '0\n'),
    (text) => {
      const value = readInt(text);
      if (value !== 0 && value !== 1) return 'EINVAL';
      c.vm.enableSoftOffline = value === 1;
      return 'ok';
    },
  );

/** 1 where added memory comes online in Movable; 0 written puts the kernel's default back. */
const treatAsMovable = (m: Machine): FileNode =>
  sysctl(
    () => (m.hotplug.settings.autoOnline === 'online_movable' ? '1\n' : '0\n'),
    (text) => {
      const value = readInt(text);
      if (value !== 0 && value !== 1) return 'EINVAL';
      if (value === 1) m.hotplug.settings.autoOnline = 'online_movable';
      else if (m.hotplug.settings.autoOnline === 'online_movable')
        m.hotplug.settings.autoOnline = m.profile.defaultOnline;
      return 'ok';
    },
  );

/** The first number of a write, as proc_get_long() reads it. */
export function readInt(text: string): number | undefined {
  const said = /^[ \t\n]*(-?\d+)(?=[ \t\n]|$)/.exec(text)?.[1];
  return said === undefined ? undefined : Number(said);
}
