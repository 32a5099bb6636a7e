// /sys/devices/system/node: the NUMA nodes of a Machine, and which blocks are whose.
//
//   online, possible, has_memory, has_normal_memory, has_cpu, has_generic_initiator     sets, "0-1\n"
//   nodeN/   compact, cpulist, cpumap, distance, meminfo, numastat, vmstat, hugepages/, memory_failure/
//            memoryM -> ../../memory/memoryM
//
// A CPU's number and a node's distance are the spec's, else the recorded file's, else counted on from 0 and 10 or 20. Of
// Linux's entries these are left out: cpuN links and reclaim, because there are no CPUs to look at and no LRU lists to reclaim from.
// Follows Linux v6.12 drivers/base/node.c (spec 6).

import { type NodeId, toBlockId, toNodeId } from '#base/units';
import { parseList } from '#kernfs/list-format';
import { blockName } from '#kernfs/memory-blocks';
import { NODE_DIR, printDistances, printListFile } from '#kernfs/nodes';
import { numberIn } from '#kernfs/sysfs';
import { compactNode } from '#mm/compaction/kcompactd';
import { zoneTotals } from '#mm/pools/pool-watermarks';
import type { Counters } from './counters.ts';
import { powerDir, ueventFile } from './device-files.ts';
import { nodeHugepagesDir } from './hugepages-dir.ts';
import { nodeMeminfoText } from './meminfo-file.ts';
import { nodesOfBlock } from './memory-dir.ts';
import { hasMemoryFailure, memoryFailureDir } from './memory-failure-files.ts';
import type { TreeContext } from './tree-context.ts';
import { attribute, type DirNode, growingDir, link, trigger } from './tree-node.ts';
import { nodeVmstatText } from './vmstat-file.ts';

/** Linux's default distances. */
const LOCAL = 10;
const REMOTE = 20;

export function nodeDir(c: TreeContext, counters: Counters): DirNode {
  const m = c.machine;
  const set = (members: () => readonly number[]) => attribute(() => printListFile(members()));
  const withMemory = (topZone: number) => () =>
    m.nodes.filter((n) => m.zones.some((p) => p.node === n && p.zone <= topZone && zoneTotals(m, p).present > 0));
  return growingDir(
    {
      has_cpu: set(() => m.nodes.filter((n) => cpusOf(c, n).length > 0)),
      has_generic_initiator: set(() => []),
      has_memory: set(withMemory(3)),
      has_normal_memory: set(withMemory(2)),
      online: set(() => m.nodes),
      possible: attribute(() => possibleText(c)),
      power: powerDir,
      uevent: ueventFile,
    },
    {
      names: () => m.nodes.map((n) => `node${n}`),
      at: (name) => {
        const id = numberIn(name, 'node');
        return id === undefined || !m.nodes.includes(toNodeId(id)) ? undefined : oneNode(c, counters, toNodeId(id));
      },
    },
  );
}

function oneNode(c: TreeContext, counters: Counters, node: NodeId): DirNode {
  const m = c.machine;
  const owns = (id: number): boolean => nodesOfBlock(m, toBlockId(id)).includes(node);
  return growingDir(
    {
      compact: trigger(() => {
        compactNode(m, node);
        return 'ok'; // whatever was written
      }),
      cpulist: attribute(() => printListFile(cpusOf(c, node))),
      cpumap: attribute(() => printCpumap(cpusOf(c, node), cpuCount(c))),
      distance: attribute(() => printDistances(distancesOf(c, node))),
      hugepages: nodeHugepagesDir(c, node),
      meminfo: attribute(() => nodeMeminfoText(counters, node)),
      memory_failure: c.profile.name !== '6.1' && hasMemoryFailure(c, counters) ? memoryFailureDir(c, node) : undefined,
      numastat: attribute(() => counters.numastat(node)),
      power: powerDir,
      subsystem: link('../../../../bus/node'),
      uevent: ueventFile,
      vmstat: attribute(() => nodeVmstatText(counters, node)),
    },
    {
      names: () =>
        Array.from(m.blocks.id)
          .filter(owns)
          .map((id) => blockName(toBlockId(id))),
      at: (name) => {
        const id = numberIn(name, 'memory');
        return id !== undefined && owns(id) ? link(`../../memory/${blockName(toBlockId(id))}`) : undefined;
      },
    },
  );
}

/** "0-1": what the spec says, else the recorded file, else the engine's default. */
function possibleText({ machine: m, base }: TreeContext): string {
  const recorded = m.spec.possibleNodes === undefined ? base?.readText(`${NODE_DIR}/possible`) : undefined;
  if (recorded !== undefined) return recorded;
  const nodes: number[] = [];
  for (let n = 0; n < 1024; n++) if (m.isPossible(toNodeId(n))) nodes.push(n);
  return printListFile(nodes);
}

/** CPU numbers of a node, ascending. Where only their count is known they are counted on from node to node. */
export function cpusOf({ machine: m, base }: TreeContext, node: NodeId): readonly number[] {
  const said = m.spec.cpuMask?.get(node);
  if (said !== undefined) return said;
  const text = base?.readText(`${NODE_DIR}/node${node}/cpulist`);
  const recorded = text === undefined ? undefined : parseList(text);
  if (recorded?.ok === true) return recorded.value;
  const cpus = m.spec.cpus ?? 1;
  const counts = m.spec.nodeCpus;
  let at = 0;
  for (const n of m.nodes) {
    const count = Math.min(counts === undefined ? (n === m.nodes[0] ? cpus : 0) : (counts.get(n) ?? 0), cpus - at);
    if (n === node) return Array.from({ length: count }, (_, k) => at + k);
    at += count;
  }
  return [];
}

/** All CPUs, by number. */
export const allCpus = (c: TreeContext): readonly number[] => {
  const near = c.machine.nodes.flatMap((n) => cpusOf(c, n)).sort((a, b) => a - b);
  return near.length > 0 ? near : Array.from({ length: c.machine.spec.cpus ?? 1 }, (_, k) => k);
};

const cpuCount = (c: TreeContext): number => Math.max(1, ...allCpus(c).map((cpu) => cpu + 1));

/** "%*pb": groups of 32 bits, the highest first, as many digits as `bits` take. */
export function printCpumap(cpus: readonly number[], bits: number): string {
  const words: string[] = [];
  for (let low = 0; low < bits; low += 32) {
    let value = 0;
    for (const cpu of cpus) if (cpu >= low && cpu < low + 32) value += 2 ** (cpu - low);
    words.unshift(value.toString(16).padStart(Math.ceil(Math.min(32, bits - low) / 4), '0'));
  }
  return `${words.join(',')}\n`;
}

function distancesOf({ machine: m, base }: TreeContext, node: NodeId): number[] {
  const said = m.spec.distance === undefined ? undefined : m.nodes.map((other) => m.distance(node, other));
  const recorded = base?.readText(`${NODE_DIR}/node${node}/distance`)?.trim().split(/ +/).map(Number);
  const known = said ?? (recorded?.length === m.nodes.length ? recorded : undefined);
  return m.nodes.map((other, k) => known?.[k] ?? (other === node ? LOCAL : REMOTE));
}
