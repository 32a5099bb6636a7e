// Area contracts, the table: which addresses were promised what. What a contract means is in area-contract.ts; the allocator
// reads this table only for requests that are about to fail, or that contradict themselves (alloc-path.ts).
//
//   areas   [start, end) frames, whole memory blocks, ascending, apart from each other
//
// A contract belongs to addresses. It is in force for a block while the block is online in a zone that fits: memory that goes
// offline takes nothing along, and comes back under its contract when it comes online in that zone again.

import type { Pfn } from '#base/units';
import type { Machine } from './machine.ts';
import { machineState } from './machine-state.ts';
import { BLOCK_ONLINE } from './memory-block.ts';
import { ZONE_MOVABLE } from './page-class.ts';

export const CONTRACTS = ['removable-strict', 'removable', 'best-effort', 'pinned-ok'] as const;
export type Contract = (typeof CONTRACTS)[number];

export type ContractArea = { readonly start: Pfn; readonly end: Pfn; readonly contract: Contract };

/** What was done in the name of contracts, since boot. */
export type ContractCounts = {
  /** Requests that found memory only where a contract forbids them. */
  requestsRefused: number;
  /** Long-term pins: moved out first; refused; granted where they were, as nothing forbids it. */
  pinsMoved: number;
  pinsRefused: number;
  pinsGranted: number;
};

class ContractTable {
  areas: readonly ContractArea[] = [];
  counts: ContractCounts = { requestsRefused: 0, pinsMoved: 0, pinsRefused: 0, pinsGranted: 0 };

  copy(): ContractTable {
    const to = new ContractTable();
    to.areas = this.areas;
    to.counts = { ...this.counts };
    return to;
  }
}

const tables = machineState(() => new ContractTable());

export const contractTable = (m: Machine): ContractTable => tables.of(m);
export const contractTableIfAny = (m: Machine): ContractTable | undefined => tables.has(m);

/** The contract of a frame's address, in force or not. Cost O(log areas). */
export function contractAt(m: Machine, pfn: number): Contract | undefined {
  const areas = tables.has(m)?.areas ?? [];
  let low = 0;
  let high = areas.length;
  while (low < high) {
    const mid = (low + high) >>> 1;
    if ((areas[mid] as ContractArea).end <= pfn) low = mid + 1;
    else high = mid;
  }
  const a = areas[low];
  return a !== undefined && a.start <= pfn ? a.contract : undefined;
}

/** Rows of Machine.blocks that are under this contract, online in ZONE_MOVABLE. Cost O(blocks). */
export function* rowsUnder(m: Machine, contract: Contract): Generator<number> {
  const { blocks } = m;
  for (const a of tables.has(m)?.areas ?? []) {
    if (a.contract !== contract) continue;
    for (let row = 0; row < blocks.length; row++) {
      const pfn = (blocks.id[row] as number) * m.blockPages;
      if (pfn < a.start || pfn >= a.end || blocks.state[row] !== BLOCK_ONLINE) continue;
      if (m.pools[blocks.pool[row] as number]?.zone === ZONE_MOVABLE) yield row;
    }
  }
}

/** May a kernel allocation be told to lie in ZONE_MOVABLE, on its caller's word? Not where a strict contract is. Cost O(areas). */
export const strictSomewhere = (m: Machine): boolean =>
  tables.has(m)?.areas.some((a) => a.contract === 'removable-strict') === true;

/** Frames that strict areas have free, if a run of 2^order could be among them; counts the refusal. */
export function keptFromRequest(m: Machine, order: number): number {
  const table = tables.has(m);
  if (table === undefined) return 0;
  let free = 0;
  for (const row of rowsUnder(m, 'removable-strict')) {
    const pool = m.pools[m.blocks.pool[row] as number];
    const index = m.sections.indexOf(((m.blocks.id[row] as number) * m.blockPages) as Pfn);
    if (pool === undefined || pool.alloc.area.orders(1) >>> order === 0) continue;
    free += pool.alloc.area.freeIn(index - pool.base, index - pool.base + m.blockPages);
  }
  if (free >= 1 << order) table.counts.requestsRefused++;
  return free >= 1 << order ? free : 0;
}
