// NUMA facts of a capture: how far its nodes are from each other, and how many CPUs each has.
//
// Distances decide where an offline puts pages first (the nearest other node), CPUs how long per-CPU lists get. Both
// are measured where the node directories were readable; else the machine's defaults stand (10 local, 20 remote).

import { readNodes } from '#kernfs/nodes';
import type { KernTree } from '#kernfs/source';
import type { MachineSpec, NodeId } from '#mm/index';

/**
 * @param used  nodes that have RAM, ascending: the rows and columns of the machine's distance table
 * @returns the parts of a MachineSpec that are known; distances only if every pair is
 */
export function numaOf(tree: KernTree, used: readonly NodeId[]): Pick<MachineSpec, 'distance' | 'nodeCpus'> {
  const read = readNodes(tree);
  if (!read.ok) return {};
  const { nodes } = read.value;
  const columns = read.value.online ?? nodes.map((n) => n.id);
  const rows = used.map((id) => {
    const distances = nodes.find((n) => n.id === id)?.distances;
    return used.map((to) => distances?.[columns.indexOf(to)]);
  });
  const whole = rows.every((row) => row.every((d) => d !== undefined));
  const cpus = nodes.filter((n) => n.cpus !== undefined && n.cpus.length > 0);
  return {
    ...(whole ? { distance: rows as number[][] } : {}), // `whole`: no pair is undefined
    ...(cpus.length > 0 ? { nodeCpus: new Map(cpus.map((n) => [n.id, (n.cpus ?? []).length])) } : {}),
  };
}
