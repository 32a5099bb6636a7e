// Zone labels: "Node 0, zone    DMA32", the head of every line about a zone, and the order such lines come in.
//
// The kernel walks nodes in ascending order and the zones of a node in index order. A label out of that order, given
// twice or with a name that no kernel uses means that the text was damaged or pasted together.
// Follows Linux v6.12 mm/page_alloc.c: zone_names[], mm/vmstat.c: walk_zones_in_node().

import type { NodeId } from '#base/units';
import { toNodeId } from '#base/units';
import { readNodeNumber } from './text.ts';

/** All zone names Linux has, in index order (HighMem on 32-bit machines only). */
export const ZONE_NAMES: readonly string[] = ['DMA', 'DMA32', 'Normal', 'HighMem', 'Movable', 'Device'];

export type ZoneLabel = { readonly node: NodeId; readonly zone: string };

/** "Node %d, zone %8s". */
export const printZoneLabel = (x: ZoneLabel): string => `Node ${x.node}, zone ${x.zone.padStart(8)}`;

/** "Node 0, zone   Normal, and Normal of node 0" in sentences. */
export const sayZone = (x: ZoneLabel): string => `zone ${x.zone} of node ${x.node}`;

/** The label at the start of a line and the text behind it; undefined when the line begins with something else. */
export function readZoneLabel(line: string): (ZoneLabel & { readonly rest: string }) | undefined {
  const m = /^Node +(\d+), zone +([A-Za-z0-9]+)(.*)$/.exec(line);
  if (m === null) return undefined;
  const node = readNodeNumber(m[1]);
  if (node === undefined || !ZONE_NAMES.includes(m[2])) return undefined;
  return { node: toNodeId(node), zone: m[2], rest: m[3] };
}

/** May a line about `next` follow one about `previous`? */
export function isInOrder(previous: ZoneLabel | undefined, next: ZoneLabel): boolean {
  if (previous === undefined || next.node > previous.node) return true;
  return next.node === previous.node && ZONE_NAMES.indexOf(next.zone) > ZONE_NAMES.indexOf(previous.zone);
}
