// Columns of pools, shared by ls pools and sim.

import { PAGE_SIZE } from '#mm/index';
import type { PoolEntry } from '#query/index';
import { sizeText } from './columns.ts';
import type { Column } from './table.ts';

export const POOL_DEFAULTS = [
  'NAME',
  'KIND',
  'PARENT',
  'CLASS',
  'NODES',
  'SIZE',
  'FREE',
  'USED',
  'MIN',
  'PRIO',
  'OWNER',
] as const;

export function poolColumns(inBytes: boolean): readonly Column<PoolEntry>[] {
  const pages = (of: (p: PoolEntry) => number | undefined) => (p: PoolEntry) => {
    const n = of(p);
    return n === undefined ? '-' : n === 0 ? '0' : sizeText(n * PAGE_SIZE, inBytes);
  };
  return [
    { name: 'NAME', align: 'left', help: 'name; nodes and zones have theirs from Linux', text: (p) => p.name },
    { name: 'KIND', align: 'left', help: 'node (a union of zones and pools), zone, or user', text: (p) => p.kind },
    { name: 'PARENT', align: 'left', help: 'the pool or node whose memory it has', text: (p) => p.parent || '-' },
    { name: 'CLASS', align: 'left', help: 'what it is for', narrow: 'drop', text: (p) => p.class },
    {
      name: 'NODES',
      align: 'left',
      help: 'nodes whose frames it may have, home first',
      text: (p) => p.nodes.join(','),
    },
    {
      name: 'ZONES',
      align: 'left',
      help: 'zones whose frames it may have',
      text: (p) => p.zones.join('/') || '-',
    },
    { name: 'CPUS', align: 'left', help: 'CPUs that may allocate', text: (p) => p.cpus?.join(',') ?? 'all' },
    { name: 'SIZE', align: 'right', help: 'memory that it has', text: pages((p) => p.size) },
    { name: 'FREE', align: 'right', help: 'of it, free', text: pages((p) => p.free) },
    { name: 'USED', align: 'right', help: 'of it, in use', text: pages((p) => p.used) },
    { name: 'MIN', align: 'right', help: 'what nobody but its owner takes', text: pages((p) => p.min) },
    { name: 'LOW', align: 'right', help: 'below this it is called low', text: pages((p) => p.low) },
    { name: 'MAX', align: 'right', help: 'most that it may have; a dash: no limit', text: pages((p) => p.max) },
    { name: 'BORROWED', align: 'right', help: 'of other pools, on loan', text: pages((p) => p.borrowed) },
    { name: 'LENT', align: 'right', help: 'on loan to other pools', text: pages((p) => p.lent) },
    {
      name: 'PRIO',
      align: 'right',
      help: 'priority: shortage takes from lower ones first',
      text: (p) => String(p.priority),
    },
    { name: 'OWNER', align: 'left', help: 'who may change it, besides root', text: (p) => p.owner },
    {
      name: 'PERMS',
      align: 'left',
      help: 'what others may do',
      text: (p) =>
        Object.entries(p.perms ?? {})
          .map(([who, what]) => `${who}:${what.join('+')}`)
          .join(',') || '-',
    },
    {
      name: 'FALLBACK',
      align: 'left',
      help: 'where requests go when it is empty',
      text: (p) => p.fallback?.map((e) => e.to).join(',') ?? '-',
    },
    { name: 'RULE', align: 'left', help: 'its DMA rule', text: (p) => p.rule ?? '-' },
    { name: 'STATE', align: 'left', help: 'active, or draining: nothing new', text: (p) => p.state },
  ];
}
