// kernelTree: the /sys and /proc of a Machine, read and written.
//
//   /proc    buddyinfo cmdline iomem kpagecount kpageflags meminfo pagetypeinfo version vmstat zoneinfo
//            sys/vm/...                                                              sysctl-dir.ts
//   /sys     devices/system/memory/...     memory-dir.ts, block-store.ts
//            devices/system/node/...       node-dir.ts
//            module/memory_hotplug/parameters/...     memhp-params-dir.ts
//            bus/{memory,node}/devices/...            links to both
//            kernel/mm/hugepages/...                  hugepages-dir.ts
//            kernel/mm/pools/...                      pools-dir.ts: ours
//            kernel/mm/fixed_areas/...                fixed-areas-dir.ts: ours
//            kernel/mm/kremap/...                     kremap-dir.ts: ours
//            kernel/debug/extfrag/...                 debugfs
//
//   every file (machine, profile, base) -> text, when it is read          kernfs/... print, mm/... knows
//
// Reads see what is true at that moment, in the middle of an offline too. Writes answer with Linux's errno.
// docs/spec/tree.md has the rules, docs/guide/tree.md shows it at work.

import { toBlockId } from '#base/units';
import type { KernelFs } from '#kernfs/kernel-fs';
import { blockName } from '#kernfs/memory-blocks';
import type { KernTree } from '#kernfs/source';
import { numberIn } from '#kernfs/sysfs';
import type { Machine } from '#mm/machine';
import type { PageStateOf } from '#mm/page-state';
import { Counters } from './counters.ts';
import { fixedAreasDir, listsFixedAreas } from './fixed-areas-dir.ts';
import { hugepagesDir } from './hugepages-dir.ts';
import { iomemText } from './iomem-file.ts';
import { kremapDir, listsKremap } from './kremap-dir.ts';
import { memhpParamsDir } from './memhp-params-dir.ts';
import { meminfoText } from './meminfo-file.ts';
import { memoryDir } from './memory-dir.ts';
import { nodeDir } from './node-dir.ts';
import { kpagecountFile, kpageflagsFile } from './page-words.ts';
import { listsPools, poolsDir } from './pools-dir.ts';
import { routed } from './router.ts';
import { sysctlVmDir } from './sysctl-dir.ts';
import type { TreeContext } from './tree-context.ts';
import { attribute, type DirNode, type FileNode, fixedDir, growingDir, link, procFile } from './tree-node.ts';
import { vmstatText } from './vmstat-file.ts';
import { buddyinfoText, extfragText, pagetypeinfoText } from './zone-files.ts';
import { zoneinfoText } from './zoneinfo-file.ts';

export type KernelTreeOptions = {
  /** Files that were recorded of this machine, when it is a twin: what the engine does not model is as it was there. */
  readonly base?: KernTree;
  /**
   * An offline that Linux would go on with until a signal: 'refuse' (default) ends it with EINTR at the engine's bound,
   * 'wait' goes on until FsWrite.cancel, on a machine with compat 'linux'.
   */
  readonly endless?: 'wait' | 'refuse';
  /** What users know of their pages (dirty, mapped): what soft and hard offline go by. Default: page-state.ts. */
  readonly pageState?: PageStateOf;
};

/**
 * The tree of a machine. It lives as long as the machine and keeps nothing of it but, with a base, what it counted when
 * it was made. Cost: O(1); with a base O(frames in use) once.
 */
export function kernelTree(machine: Machine, options: KernelTreeOptions = {}): KernelFs {
  const context: TreeContext = {
    machine,
    profile: machine.profile,
    base: options.base,
    pageState: options.pageState,
    vm: { enableSoftOffline: true },
  };
  const counters = new Counters(context);
  return routed(rootDir(context, counters), { endless: options.endless ?? 'refuse' });
}

/** Directories of /sys/kernel/mm that no Linux has. */
const OURS = [
  { name: 'fixed_areas', lists: listsFixedAreas, dir: fixedAreasDir },
  { name: 'kremap', lists: listsKremap, dir: kremapDir },
  { name: 'pools', lists: listsPools, dir: poolsDir },
] as const;

function rootDir(c: TreeContext, counters: Counters): DirNode {
  return fixedDir({
    proc: fixedDir({
      ...recordedFiles(c),
      buddyinfo: procFile(() => buddyinfoText(c)),
      cmdline: procFile(() => cmdlineText(c)),
      iomem: procFile(() => iomemText(c)),
      kpagecount: kpagecountFile(c),
      kpageflags: kpageflagsFile(c),
      meminfo: procFile(() => meminfoText(counters)),
      pagetypeinfo: procFile(() => pagetypeinfoText(c), 0o400),
      sys: fixedDir({ vm: sysctlVmDir(c, counters) }),
      version: procFile(() => versionText(c)),
      vmstat: procFile(() => vmstatText(counters)),
      zoneinfo: procFile(() => zoneinfoText(c, counters)),
    }),
    sys: fixedDir({
      bus: fixedDir({
        memory: busDir('memory', () => blockNames(c.machine)),
        node: busDir('node', () => nodeNames(c.machine)),
      }),
      devices: fixedDir({ system: fixedDir({ memory: memoryDir(c, counters), node: nodeDir(c, counters) }) }),
      kernel: fixedDir({
        mm: growingDir(
          { hugepages: hugepagesDir(c, counters) },
          {
            names: () => OURS.filter((d) => d.lists(c)).map((d) => d.name),
            at: (name) => OURS.find((d) => d.name === name)?.dir(c), // there before they are listed: see pools-dir.ts
          },
        ),
        debug: fixedDir({
          extfrag: fixedDir({
            extfrag_index: { ...attribute(() => extfragText(c, 'extfrag_index')), size: 0 },
            unusable_index: { ...attribute(() => extfragText(c, 'unusable_index')), size: 0 },
          }),
        }),
      }),
      module: fixedDir({ memory_hotplug: fixedDir({ parameters: memhpParamsDir(c) }) }),
    }),
  });
}

/** Files that say nothing of memory blocks, but that readers of a capture look for: as they were recorded. */
function recordedFiles({ base }: TreeContext): Record<string, FileNode> {
  const files: Record<string, FileNode> = {};
  for (const [name, mode] of [
    ['cpuinfo', 0o444],
    ['modules', 0o444],
    ['slabinfo', 0o400],
  ] as const) {
    const text = base?.readText(`/proc/${name}`);
    if (text !== undefined) files[name] = procFile(() => text, mode);
  }
  return files;
}

const blockNames = (m: Machine): string[] => Array.from(m.blocks.id, (id) => blockName(toBlockId(id)));
const nodeNames = (m: Machine): string[] => m.nodes.map((n) => `node${n}`);

/** /sys/bus/memory: what a device's `subsystem` link leads to. */
function busDir(bus: 'memory' | 'node', devices: () => readonly string[]): DirNode {
  return fixedDir({
    devices: growingDir(
      {},
      {
        names: devices,
        at: (name) =>
          numberIn(name, bus) !== undefined && devices().includes(name)
            ? link(`../../../devices/system/${bus}/${name}`)
            : undefined,
      },
    ),
  });
}

function cmdlineText({ machine, base }: TreeContext): string {
  const said = machine.spec.cmdline;
  return said === undefined ? (base?.readText('/proc/cmdline') ?? '\n') : `${said}\n`;
}

/** The recorded line; else one that says what this is. */
const versionText = ({ profile, base }: TreeContext): string =>
  base?.readText('/proc/version') ?? `Linux version ${profile.name}.0-dimmer (a machine of dimmer, not a kernel)\n`;
