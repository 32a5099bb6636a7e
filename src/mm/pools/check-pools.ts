// check(), for machines with user pools: the invariants of spec 9.A.
//
//   I1  each frame has one pool: owners name live pools, `mixed` has no row too many (FO1)       O(pageblocks)
//   I2  frames by label add up: pools' counts equal a recount, and with the zone's own its total  O(pageblocks)
//   I3  no free block has a free buddy of equal order in its pool (FA5: the free area's own check, C1)
//   I4  no block spans two pools: free ones here, used ones in check-frames.ts                    O(free blocks)
//   I5  min <= managed <= max: what was promised is there; who may take the last of it is request.ts   O(pools)
//   I6  the lease graph has no cycle; every lease's frames are the borrower's, none is lent twice O(leases x frames)
//
// I7 (with only zones every /proc text is what it is without pools) is proved by the golden transcripts.

import { MIXED } from '../frame-owners.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import type { Violations } from '../violation.ts';
import { denseRuns } from './pool-move.ts';
import { attrsOf, poolTableOf } from './pool-table.ts';

export function checkPools(m: Machine, v: Violations): void {
  const { owners } = m;
  const recount = m.pools.map(() => new Map<number, number>());
  const count = (id: number, zone: number, pages: number): void => {
    const mine = recount[id];
    if (mine === undefined) return;
    mine.set(zone, (mine.get(zone) ?? 0) + pages);
  };
  const live = new Set(m.pools.filter((p) => attrsOf(m, p.id).state !== 'dead').map((p) => p.id));
  for (let block = 0; block < m.sections.frames >>> PAGEBLOCK_ORDER; block++) {
    const id = owners.owner[block] as number;
    const zone = owners.zone[block] as number;
    if (id === MIXED) {
      const row = owners.mixed.get(block);
      if (row === undefined) {
        v.add('C7', `I1 FO1 pageblock ${block} is shared by pools, nobody knows which`);
        continue;
      }
      if (new Set(row).size < 2) v.add('C7', `I1 FO1 pageblock ${block} is one pool's, and listed as shared`);
      for (const one of row) {
        if (!live.has(one)) v.add('C7', `I1 pageblock ${block} has a frame of pool ${one}, which is none`);
        else count(one, zone, 1);
      }
    } else if (id >= 0) {
      if (!live.has(id)) v.add('C7', `I1 pageblock ${block} belongs to pool ${id}, which is none`);
      count(id, zone, PAGEBLOCK_PAGES);
    }
  }
  for (const block of owners.mixed.keys()) {
    if (owners.owner[block] !== MIXED) v.add('C7', `I1 FO1 pageblock ${block} is listed as shared, and is not`);
  }
  for (const p of m.pools) if (p.kind === 'user') checkPool(m, v, p, recount[p.id] as Map<number, number>);
  checkLeases(m, v);
}

function checkPool(m: Machine, v: Violations, p: Pool, labels: ReadonlyMap<number, number>): void {
  const a = attrsOf(m, p.id);
  let sum = 0;
  for (const [zone, pages] of labels) {
    sum += pages;
    if (p.labels.get(zone) !== pages) {
      v.add('C7', `I2 ${p.title} counts ${p.labels.get(zone) ?? 0} frames of zone ${zone}, it has ${pages}`);
    }
  }
  for (const zone of p.labels.keys()) {
    if (!labels.has(zone)) v.add('C7', `I2 ${p.title} counts frames of zone ${zone} and has none`);
  }
  // managed is less where a device took frames out of use; it equals its recount by C2 (P1).
  if (sum !== p.present) {
    v.add('C7', `I2 ${p.title}: present ${p.present}, it has ${sum} frames`);
  }
  p.alloc.area.forEachFree(0, p.pages, (i, order) => {
    const start = p.base + i;
    const ids = new Set<number>();
    m.owners.forEachRun(start, start + 2 ** order, (_s, _e, id) => void ids.add(id));
    if (ids.size !== 1 || !ids.has(p.id)) {
      v.add('C7', `I4 ${p.title}: the free block at index ${start} lies in pools ${[...ids].join(', ')}`);
    }
  });
  if (p.present > a.max) v.add('C7', `I5 ${p.title} has ${p.present} pages, its max is ${a.max}`);
  if (p.managed < a.min) v.add('C7', `I5 ${p.title} has ${p.managed} pages, its min is ${a.min}`);
  const zones = [...p.labels.keys()].map((id) => (m.pools[id] as Pool).zone);
  if (p.zone !== Math.max(0, ...zones)) v.add('C7', `I2 ${p.title}: highest zone ${p.zone}, its labels say otherwise`);
}

function checkLeases(m: Machine, v: Violations): void {
  const { leases } = poolTableOf(m);
  const seen = new Set<number>();
  const edges = new Map<number, number[]>();
  for (const lease of leases.values()) {
    edges.set(lease.from, [...(edges.get(lease.from) ?? []), lease.to]);
    let pages = 0;
    for (const r of lease.ranges) {
      for (const run of denseRuns(m, r.start, r.end)) {
        for (let i = run.start; i < run.end; i++) {
          pages++;
          if (m.owners.at(i) !== lease.to)
            v.add('C7', `I6 lease ${lease.id}: frame ${m.sections.pfnOf(i)} is not the borrower's`);
          if (seen.has(i)) v.add('C7', `I6 frame ${m.sections.pfnOf(i)} is on loan twice`);
          seen.add(i);
        }
      }
    }
    if (pages !== lease.pages) v.add('C7', `I6 lease ${lease.id} counts ${lease.pages} pages, it names ${pages}`);
  }
  const visiting = new Set<number>();
  const done = new Set<number>();
  const cyclic = (id: number): boolean => {
    if (visiting.has(id)) return true;
    if (done.has(id)) return false;
    visiting.add(id);
    const found = (edges.get(id) ?? []).some(cyclic);
    visiting.delete(id);
    done.add(id);
    return found;
  };
  for (const id of edges.keys()) if (cyclic(id)) v.add('C7', `I6 leases go round in a circle through pool ${id}`);
}
