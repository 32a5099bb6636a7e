// Free lists of a twin: the free spans of the page flags become chunks on the lists of orders and migrate types.
//
//   span   │ 3 4 5 6 7 8 9 10 │        coalescing leaves no choice: the largest aligned pieces
//   chunks │3│ 4 . . . │ 8 9 │10│
//
// A chunk lies on the list of its pageblock's type, which no file names: pageblock-types.ts chooses types such that
// pagetypeinfo's sums come out. Types are set first, chunks put second, so that nothing merges on the way.
// Sources: spec 2.1, 6.

import { Prng } from '#base/prng';
import type { Pagetypeinfo } from '#kernfs/pagetypeinfo';
import {
  CHUNK_PAGES,
  MAX_ORDER,
  type Machine,
  MIGRATE_MOVABLE,
  MIGRATE_NAMES,
  MIGRATE_UNMOVABLE,
  NR_ORDERS,
  PAGEBLOCK_PAGES,
  type Pool,
  toPfn,
} from '#mm/index';
import type { FrameRange } from './layout.ts';
import { assignTypes, type TypeTargets, type TypeUnits } from './pageblock-types.ts';

/** The type assignment is a search: its seed is fixed so that one capture always gives one twin. */
const TYPE_SEED = 2007;

/**
 * Fills the free areas of all pools.
 *
 * @param free  ascending spans of free frames
 * @param kernelPageblocks  pfn >> 9 of pageblocks that hold kernel pages: a first guess at their type
 * @param pagetypes  undefined: the guess stands
 */
export function seedFreeLists(
  m: Machine,
  free: readonly FrameRange[],
  kernelPageblocks: ReadonlySet<number>,
  pagetypes: Pagetypeinfo | undefined,
): void {
  const byPool = unitsByPool(m, chunksOf(m, free), kernelPageblocks);
  for (const pool of m.zones) seedPool(pool, byPool[pool.id] as PoolUnits, pagetypes);
}

/** Free chunks, ascending: index in the dense tables and order. */
type Chunks = { readonly index: Int32Array; readonly order: Uint8Array; readonly length: number };

/** Coalescing leaves no choice: a free span is cut into its largest aligned pieces. */
function chunksOf(m: Machine, free: readonly FrameRange[]): Chunks {
  const index: number[] = [];
  const order: number[] = [];
  for (const s of free) {
    for (let pfn = s.startPfn; pfn < s.endPfn; ) {
      let o = 0;
      while (o < MAX_ORDER && pfn % (2 << o) === 0 && pfn + (2 << o) <= s.endPfn) o++;
      index.push(m.sections.indexOf(toPfn(pfn)));
      order.push(o);
      pfn += 1 << o;
    }
  }
  return { index: Int32Array.from(index), order: Uint8Array.from(order), length: index.length };
}

type PoolUnits = {
  units: TypeUnits;
  /** First frame (dense index) of each unit. */
  start: Int32Array;
  /** Chunks of the pool. */
  index: number[];
  order: number[];
};

function unitsByPool(m: Machine, chunks: Chunks, kernelPageblocks: ReadonlySet<number>): PoolUnits[] {
  const perPool: { index: number[]; order: number[] }[] = m.pools.map(() => ({ index: [], order: [] }));
  for (let k = 0; k < chunks.length; k++) {
    const pool = m.poolAt(chunks.index[k] as number);
    if (pool === undefined) continue;
    (perPool[pool.id] as { index: number[]; order: number[] }).index.push(chunks.index[k] as number);
    (perPool[pool.id] as { index: number[]; order: number[] }).order.push(chunks.order[k] as number);
  }
  return m.pools.map((pool) => {
    const { index, order } = perPool[pool.id] as { index: number[]; order: number[] };
    const unitOf = new Map<number, number>();
    const start: number[] = [];
    const pageblocks: number[] = [];
    // Pageblocks under a free chunk of order 10 are one unit.
    const wide = new Set<number>();
    for (let k = 0; k < index.length; k++) if (order[k] === MAX_ORDER) wide.add((index[k] as number) / CHUNK_PAGES);
    for (let i = pool.base; i < pool.base + pool.pages; i += PAGEBLOCK_PAGES) {
      if (m.poolAt(i) !== pool) continue;
      const second = i % CHUNK_PAGES !== 0 && wide.has((i - PAGEBLOCK_PAGES) / CHUNK_PAGES);
      if (second) {
        const u = unitOf.get(i - PAGEBLOCK_PAGES) as number;
        unitOf.set(i, u);
        pageblocks[u] = 2;
        continue;
      }
      unitOf.set(i, start.length);
      start.push(i);
      pageblocks.push(1);
    }
    const free = new Int32Array(start.length * NR_ORDERS);
    for (let k = 0; k < index.length; k++) {
      const i = index[k] as number;
      const u = unitOf.get(i - (i % PAGEBLOCK_PAGES)) as number;
      const cell = u * NR_ORDERS + (order[k] as number);
      free[cell] = (free[cell] as number) + 1;
    }
    const kernel = Uint8Array.from(start, (i) =>
      kernelPageblocks.has(Math.floor(m.sections.pfnOf(i) / PAGEBLOCK_PAGES)) ? 1 : 0,
    );
    const units = { length: start.length, pageblocks: Uint8Array.from(pageblocks), free, kernel };
    return { units, start: Int32Array.from(start), index, order };
  });
}

function seedPool(pool: Pool, p: PoolUnits, pagetypes: Pagetypeinfo | undefined): void {
  const targets = pagetypes === undefined ? undefined : targetsOf(pool, pagetypes);
  const types =
    targets === undefined
      ? Uint8Array.from(p.units.kernel, (k) => (k === 1 ? MIGRATE_UNMOVABLE : MIGRATE_MOVABLE))
      : assignTypes(p.units, targets, new Prng(TYPE_SEED));
  for (let u = 0; u < p.units.length; u++) {
    for (let k = 0; k < (p.units.pageblocks[u] as number); k++) {
      const i = (p.start[u] as number) + k * PAGEBLOCK_PAGES - pool.base;
      const t = types[u] as number;
      if (pool.alloc.area.typeOf(i) !== t) pool.alloc.setPageblockType(i, t);
    }
  }
  for (let k = 0; k < p.index.length; k++) pool.alloc.put((p.index[k] as number) - pool.base, p.order[k] as number);
}

/** pagetypeinfo's rows of one zone, in the engine's type numbers; undefined when it has none. */
function targetsOf(pool: Pool, x: Pagetypeinfo): TypeTargets | undefined {
  const here = (l: { node: number; zone: string }): boolean => l.node === pool.node && l.zone === pool.name;
  const rows = x.free.filter(here);
  const blocks = x.blocks.find(here);
  if (rows.length === 0 || blocks === undefined) return undefined;
  const free = new Float64Array(8 * NR_ORDERS);
  const capped = new Uint8Array(8 * NR_ORDERS);
  const wanted = new Float64Array(8);
  const types: number[] = [];
  x.types.forEach((name, column) => {
    const t = (MIGRATE_NAMES as readonly string[]).indexOf(name);
    if (t < 0) return; // a type this engine does not know: its pages stay in the difference
    types.push(t);
    wanted[t] = blocks.counts[column] ?? 0;
    const row = rows.find((r) => r.type === name);
    for (let o = 0; o < NR_ORDERS && row !== undefined; o++) {
      free[t * NR_ORDERS + o] = row.nrFree[o] ?? 0;
      capped[t * NR_ORDERS + o] = row.capped[o] === true ? 1 : 0;
    }
  });
  return { types, free, capped, blocks: wanted };
}
