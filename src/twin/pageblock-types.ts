// Pageblock types: the kernel prints how many pageblocks of each migrate type there are, and how many free chunks of
// each order and type; it does not print which pageblock is which. This finds a choice that gives those very counts.
//
//   unit            one pageblock, or the two under a free chunk of order 10 (they are of one type, or mergeable)
//   free vector     free chunks of the unit by order: f[unit][order]
//   wanted          pagetypeinfo: T[type][order], and N[type] pageblocks
//   start           by contents: kernel pages -> Unmovable, all else -> Movable
//   then            move units to other types, one by one and in pairs, while the distance shrinks
//
// distance = sum |S - T| over types and orders, in pages, plus a little for the pageblock counts. Counts capped at
// ">100000" are only a lower bound. The result is one choice among the possible: derived in its sums, assumed in its
// places. What is left of the distance is reported by compare.ts, zone by zone.

import type { Prng } from '#base/prng';
import { MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, NR_ORDERS } from '#mm/index';

export type TypeUnits = {
  readonly length: number;
  /** Pageblocks in the unit: 1 or 2. */
  readonly pageblocks: Uint8Array;
  /** Free chunks by order, [unit * 11 + order]. */
  readonly free: Int32Array;
  /** 1 = the unit holds kernel pages: a first guess at its type. */
  readonly kernel: Uint8Array;
};

export type TypeTargets = {
  /** Engine types that pagetypeinfo lists, ascending. */
  readonly types: readonly number[];
  /** Free chunks wanted, [type * 11 + order]. */
  readonly free: Float64Array;
  /** 1 where the count was printed as ">100000". */
  readonly capped: Uint8Array;
  /** Pageblocks wanted, [type]. */
  readonly blocks: Float64Array;
};

/** Give up after this many pair moves without gain: torn captures leave a distance that no choice removes. */
const PATIENCE = 8_000;

/** Weight of one pageblock too many against pages in the wrong list. */
const BLOCK_WEIGHT = 4;

/**
 * @returns type of each unit. Cost O(tries): bounded by `tries` pair moves after at most 8 sweeps; a move looks at the
 *          orders that the units have only.
 */
export function assignTypes(units: TypeUnits, targets: TypeTargets, prng: Prng, tries = 200_000): Uint8Array {
  const { free, pageblocks } = units;
  const { types } = targets;
  const type = Uint8Array.from(units.kernel, (k) => (k === 1 ? MIGRATE_UNMOVABLE : MIGRATE_MOVABLE));
  /** Bit o is set when the unit has a free chunk of order o. */
  const orders = new Int32Array(units.length);
  const have = new Float64Array(8 * NR_ORDERS);
  const blocks = new Float64Array(8);
  for (let u = 0; u < units.length; u++) {
    const t = type[u] as number;
    blocks[t] = (blocks[t] as number) + (pageblocks[u] as number);
    for (let o = 0; o < NR_ORDERS; o++) {
      const n = free[u * NR_ORDERS + o] as number;
      if (n > 0) orders[u] = (orders[u] as number) | (1 << o);
      have[t * NR_ORDERS + o] = (have[t * NR_ORDERS + o] as number) + n;
    }
  }

  /** What it costs that a list (t * 11 + order) has `n` chunks. */
  function listCost(list: number, n: number): number {
    const gap = n - (targets.free[list] as number);
    if (gap > 0 && targets.capped[list] === 1) return 0;
    return Math.abs(gap) * (1 << (list % NR_ORDERS));
  }

  const blockCost = (t: number, n: number): number => BLOCK_WEIGHT * Math.abs(n - (targets.blocks[t] as number));

  /** Distance that is saved when unit u goes from type a to b and, with w >= 0, unit w from b to a. */
  function gainOf(u: number, w: number, a: number, b: number): number {
    const lost = (pageblocks[u] as number) - (w < 0 ? 0 : (pageblocks[w] as number));
    const na = blocks[a] as number;
    const nb = blocks[b] as number;
    let gain = blockCost(a, na) - blockCost(a, na - lost) + blockCost(b, nb) - blockCost(b, nb + lost);
    for (let left = (orders[u] as number) | (w < 0 ? 0 : (orders[w] as number)); left !== 0; left &= left - 1) {
      const o = 31 - Math.clz32(left & -left);
      const d = (free[u * NR_ORDERS + o] as number) - (w < 0 ? 0 : (free[w * NR_ORDERS + o] as number));
      const la = a * NR_ORDERS + o;
      const lb = b * NR_ORDERS + o;
      const ha = have[la] as number;
      const hb = have[lb] as number;
      gain += listCost(la, ha) - listCost(la, ha - d) + listCost(lb, hb) - listCost(lb, hb + d);
    }
    return gain;
  }

  function move(u: number, a: number, b: number): void {
    type[u] = b;
    blocks[a] = (blocks[a] as number) - (pageblocks[u] as number);
    blocks[b] = (blocks[b] as number) + (pageblocks[u] as number);
    for (let left = orders[u] as number; left !== 0; left &= left - 1) {
      const o = 31 - Math.clz32(left & -left);
      const n = free[u * NR_ORDERS + o] as number;
      have[a * NR_ORDERS + o] = (have[a * NR_ORDERS + o] as number) - n;
      have[b * NR_ORDERS + o] = (have[b * NR_ORDERS + o] as number) + n;
    }
  }

  /** Gives unit u type t if that helps. */
  function tryMove(u: number, t: number): boolean {
    const from = type[u] as number;
    if (from === t || gainOf(u, -1, from, t) <= 0) return false;
    move(u, from, t);
    return true;
  }

  for (let sweep = 0; sweep < 8; sweep++) {
    let gained = false;
    for (let u = 0; u < units.length; u++) for (const t of types) gained = tryMove(u, t) || gained;
    if (!gained) break;
  }

  // Pairs: one unit goes from a to b, another comes from b to a. Only units with few free pages tell types apart.
  const SMALL = (1 << 9) - 1; // orders 0 to 8
  const partial: number[] = [];
  for (let u = 0; u < units.length; u++) {
    if (((orders[u] as number) & SMALL) !== 0 || units.kernel[u] === 1) partial.push(u);
  }
  let idle = 0;
  for (let k = 0; k < tries && partial.length > 1 && idle < PATIENCE; k++) {
    idle++;
    const u = partial[prng.below(partial.length)] as number;
    const w = partial[prng.below(partial.length)] as number;
    const a = type[u] as number;
    const b = type[w] as number;
    if (a === b) {
      if (tryMove(u, types[prng.below(types.length)] as number)) idle = 0;
      continue;
    }
    const gain = gainOf(u, w, a, b);
    if (gain < 0) continue;
    if (gain > 0) idle = 0;
    move(u, a, b); // an exchange that changes nothing is taken too: it leads on from flat places
    move(w, b, a);
  }
  return type;
}
