// /proc/vmstat and nodeN/vmstat of a Machine: every line of that kernel, in its order (counters.ts says what they mean).

import type { NodeId } from '#base/units';
import { printVmstat } from '#kernfs/vmstat';
import type { Counters } from './counters.ts';

export function vmstatText(counters: Counters): string {
  const { zone, numa, node, events } = counters.names;
  const census = counters.census();
  return printVmstat(new Map([...zone, ...numa, ...node, ...events].map((n) => [n, counters.machine(n, census)])));
}

export function nodeVmstatText(counters: Counters, id: NodeId): string {
  const { zone, numa, node } = counters.names;
  const census = counters.census();
  return printVmstat(new Map([...zone, ...numa, ...node].map((n) => [n, counters.node(n, id, census)])));
}
