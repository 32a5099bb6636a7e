// Shell tables: blocks, zones and nodes of a Machine for people, in lsmem's manner.
//
//   RANGE                                  SIZE  STATE REMOVABLE BLOCK NODE  ZONES
//   0x0000000000000000-0x0000000007ffffff  128M online       yes     0    0   None
//
// Neighbouring blocks that are alike in state, nodes and zones are one line, as `lsmem -o +NODE,ZONES` prints them.

import { formatSize, hex } from '#base/format';
import { toBlockId } from '#base/units';
import { PAGE_SIZE } from '#mm/geometry';
import type { Machine } from '#mm/machine';
import { zoneViews } from '#mm/pools/zone-view';
import { nodesOfBlock } from './memory-dir.ts';
import { populatedZones } from './zone-files.ts';

type Row = readonly string[];

/** Columns as wide as they need to be; the first one to the left. */
function table(rows: readonly Row[]): string {
  const widths = (rows[0] ?? []).map((_, k) => Math.max(...rows.map((r) => (r[k] as string).length)));
  const line = (r: Row): string =>
    r.map((cell, k) => (k === 0 ? cell.padEnd(widths[k] as number) : cell.padStart(widths[k] as number))).join(' ');
  return rows.map((r) => `${line(r)}\n`).join('');
}

export function blockTable(m: Machine): string {
  type Run = { first: number; last: number; state: string; nodes: string; zones: string };
  const runs: Run[] = [];
  for (let row = 0; row < m.blocks.length; row++) {
    const id = toBlockId(m.blocks.id[row] as number);
    const state = m.blocks.stateAt(row);
    const nodes = nodesOfBlock(m, id);
    const zones = m.validZones(id).join('/') || 'None';
    const last = runs[runs.length - 1];
    const node = String(nodes[0]);
    if (last?.last === id - 1 && last.state === state && last.nodes === node && last.zones === zones) last.last = id;
    else runs.push({ first: id, last: id, state, nodes: node, zones });
  }
  const bytes = m.blockPages * PAGE_SIZE;
  return table([
    ['RANGE', ' SIZE', 'STATE', 'REMOVABLE', 'BLOCK', 'NODE', 'ZONES'],
    ...runs.map((r) => [
      `0x${hex(r.first * bytes, 16)}-0x${hex((r.last + 1) * bytes - 1, 16)}`,
      formatSize((r.last + 1 - r.first) * bytes),
      r.state === 'going-offline' ? 'on->off' : r.state,
      r.state === 'online' ? 'yes' : '',
      r.first === r.last ? String(r.first) : `${r.first}-${r.last}`,
      r.nodes,
      r.zones,
    ]),
  ]);
}

export const zoneTable = (m: Machine): string =>
  table([
    ['ZONE', 'NODE', 'START_PFN', 'SPANNED', 'PRESENT', 'MANAGED', 'FREE', 'MIN', 'LOW', 'HIGH'],
    ...populatedZones(m).map((p) => [
      p.name,
      ...[p.node, p.startPfn, p.spanned, p.present, p.managed, p.nrFree()].map(String),
      ...[p.watermarks.min, p.watermarks.low, p.watermarks.high].map((n) => (Number.isFinite(n) ? String(n) : '-')),
    ]),
  ]);

export function nodeTable(m: Machine): string {
  const rows = m.nodes.map((node) => {
    const pools = zoneViews(m).filter((p) => p.node === node);
    const pages = (of: (p: (typeof pools)[number]) => number): string =>
      formatSize(pools.reduce((n, p) => n + of(p), 0) * PAGE_SIZE);
    const ids = Array.from(m.blocks.id, toBlockId);
    const blocks = ids.filter((id) => nodesOfBlock(m, id).includes(node));
    const online = blocks.filter((id) => m.block(id)?.state === 'online').length;
    return [
      `node${node}`,
      String(blocks.length),
      String(online),
      pages((p) => p.present),
      pages((p) => p.managed),
      pages((p) => p.nrFree()),
    ];
  });
  return table([['NODE', 'BLOCKS', 'ONLINE', 'PRESENT', 'MANAGED', 'FREE'], ...rows]);
}
