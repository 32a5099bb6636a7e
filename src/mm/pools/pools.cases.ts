// Small machines with pools, for tests: nodes of 128 MiB blocks from 4 GiB on, all of it Normal.

import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import type { MachineSpec } from '../machine-spec.ts';
import type { PageClass } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import type { Refusal } from '../refusal.ts';
import { poolNamed } from './pool-table.ts';
import { pools } from './pools.ts';

export const BASE = 2 ** 20; // 4 GiB: Normal from here on
export const BLOCK = 32768;

export type Verdict<T> = { ok: true; value: T } | { ok: false; error: Refusal };

export const must = <T>(r: Verdict<T>): T => {
  if (!r.ok) throw new Error(r.error.message);
  return r.value;
};

export function boot(nodes = 1, blocks = 4, spec: Partial<MachineSpec> = {}): Machine {
  const ram = Array.from({ length: nodes }, (_, k) => {
    const start = BASE + k * blocks * BLOCK;
    return { start: toPfn(start), end: toPfn(start + blocks * BLOCK), node: toNodeId(k) };
  });
  return Machine.boot({ ram, code: 'shared', watermarks: 'none', ...spec });
}

export const holderOf = (m: Machine, pool: string, cls: PageClass = 'anonymous', as = 'root'): HolderId =>
  must(pools(m).addHolder({ class: cls, name: `${cls} of ${pool}`, pool }, { as }));

/** Allocations until there are so many, or no more. */
export const take = (m: Machine, holder: HolderId, count: number, order = 0): Pfn[] => {
  const out: Pfn[] = [];
  for (let k = 0; k < count; k++) {
    const pfn = m.alloc(holder, toOrder(order));
    if (pfn === -1) break;
    out.push(pfn);
  }
  return out;
};

/** The pool of that name; a test that names none is wrong. */
export function poolOf(m: Machine, name: string): Pool {
  const a = poolNamed(m, name);
  if (a === undefined) throw new Error(`no pool ${name}`);
  return m.pools[a.id] as Pool;
}

/** Pool id of each frame of the dense index, one by one. */
export const ownersOf = (m: Machine): Int16Array =>
  Int16Array.from({ length: m.sections.frames }, (_, i) => m.owners.at(i));

/** Nodes whose frames a pool has, by their labels. */
export const nodesOf = (m: Machine, name: string): number[] =>
  [...new Set([...poolOf(m, name).labels.keys()].map((id) => (m.pools[id] as Pool).node))].sort();
