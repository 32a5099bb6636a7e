// /sys/devices/system/node: the NUMA nodes. Absent on kernels without NUMA, where everything is on node 0.
//
//   online, possible, has_memory, has_normal_memory, has_cpu     sets of nodes, list format "0-1"
//   node1/cpulist    "2-3\n"       its CPUs; a single newline when it has none
//   node1/distance   "20 10\n"     to each online node, in ascending order; 10 is to itself
//   node1/meminfo    see meminfo.ts; node1/vmstat see vmstat.ts
//   node1/memory33   a link: a block of this node (a block spanning nodes is under each)
//
// Every file may be absent (kernels and copies differ). Nodes come back ascending.
// Follows Linux v6.12 drivers/base/node.c.

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { BlockId, NodeId } from '#base/units';
import { toBlockId, toNodeId } from '#base/units';
import { parseList, printList } from './list-format.ts';
import type { Meminfo } from './meminfo.ts';
import { parseMeminfo } from './meminfo.ts';
import type { KernfsProblem, KernTree } from './source.ts';
import { numberIn, readAttribute } from './sysfs.ts';
import { fieldsOf, MAX_NODES, problem, readCounts } from './text.ts';

export type NumaNode = {
  readonly id: NodeId;
  /** CPU numbers, ascending. */
  readonly cpus?: readonly number[];
  /** To the online nodes in ascending order; 10 means local. */
  readonly distances?: readonly number[];
  readonly meminfo?: Meminfo;
  /** Blocks linked from this node, ascending. */
  readonly blocks: readonly BlockId[];
};

/** Each set is absent where its file is. */
export type Nodes = {
  readonly online?: readonly NodeId[];
  readonly possible?: readonly NodeId[];
  readonly hasMemory?: readonly NodeId[];
  readonly hasNormalMemory?: readonly NodeId[];
  readonly hasCpu?: readonly NodeId[];
  /** One per nodeN directory, ascending; [] on a kernel without NUMA. */
  readonly nodes: readonly NumaNode[];
};

export const NODE_DIR = '/sys/devices/system/node';

const SETS = [
  ['online', 'online'],
  ['possible', 'possible'],
  ['has_memory', 'hasMemory'],
  ['has_normal_memory', 'hasNormalMemory'],
  ['has_cpu', 'hasCpu'],
] as const;

export function readNodes(tree: KernTree): Result<Nodes, KernfsProblem> {
  const sets: { -readonly [K in (typeof SETS)[number][1]]?: readonly NodeId[] } = {};
  for (const [name, key] of SETS) {
    const path = `${NODE_DIR}/${name}`;
    const text = tree.readText(path);
    if (text === undefined) continue;
    const members = parseList(text, path);
    if (!members.ok) return members;
    if (members.value.some((n) => n >= MAX_NODES)) return problem(path, 1, `node numbers end at ${MAX_NODES - 1}`);
    sets[key] = members.value.map(toNodeId);
  }
  const nodes: NumaNode[] = [];
  for (const name of tree.list(NODE_DIR)) {
    const id = numberIn(name, 'node');
    if (id === undefined || id >= MAX_NODES) continue;
    const node = readNode(tree, toNodeId(id));
    if (!node.ok) return node;
    nodes.push(node.value);
  }
  nodes.sort((a, b) => a.id - b.id);
  return ok({ ...sets, nodes });
}

function readNode(tree: KernTree, id: NodeId): Result<NumaNode, KernfsProblem> {
  const dir = `${NODE_DIR}/node${id}`;
  const cpulist = tree.readText(`${dir}/cpulist`);
  const cpus = cpulist === undefined ? ok(undefined) : parseList(cpulist, `${dir}/cpulist`);
  if (!cpus.ok) return cpus;
  const distances = readAttribute(tree, `${dir}/distance`, {
    expected: 'distances like "20 10"',
    read: (line) => (line === '' ? undefined : readCounts(fieldsOf(line))),
  });
  if (!distances.ok) return distances;
  const text = tree.readText(`${dir}/meminfo`);
  const meminfo = text === undefined ? ok(undefined) : parseMeminfo(text, `${dir}/meminfo`);
  if (!meminfo.ok) return meminfo;
  if (meminfo.value !== undefined && meminfo.value.node !== id) {
    return problem(`${dir}/meminfo`, 1, `the file is not about node ${id}`);
  }
  const blocks: BlockId[] = [];
  for (const name of tree.list(dir)) {
    const block = numberIn(name, 'memory');
    if (block !== undefined) blocks.push(toBlockId(block));
  }
  blocks.sort((a, b) => a - b);
  return ok({
    id,
    ...(cpus.value === undefined ? {} : { cpus: cpus.value }),
    ...(distances.value === undefined ? {} : { distances: distances.value }),
    ...(meminfo.value === undefined ? {} : { meminfo: meminfo.value }),
    blocks,
  });
}

/** A set of nodes or CPUs as such a file has it: "0-1\n". */
export const printListFile = (members: readonly number[]): string => `${printList(members)}\n`;

/** node1/distance: "20 10\n". */
export const printDistances = (distances: readonly number[]): string => `${distances.join(' ')}\n`;
