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
 * @returns type of each unit. Cost O(tries): bounded by `tries` pair moves after at most 8 sweeps.
 */
export function assignTypes(units: TypeUnits, targets: TypeTargets, prng: Prng, tries = 200_000): Uint8Array {
  const type = new Uint8Array(units.length);
  const have = new Float64Array(8 * NR_ORDERS);
  const blocks = new Float64Array(8);
  const { types } = targets;
  for (let u = 0; u < units.length; u++) {
    type[u] = units.kernel[u] === 1 ? MIGRATE_UNMOVABLE : MIGRATE_MOVABLE;
    add(u, type[u] as number, 1);
  }

  function add(u: number, t: number, sign: number): void {
    for (let o = 0; o < NR_ORDERS; o++) {
      have[t * NR_ORDERS + o] = (have[t * NR_ORDERS + o] as number) + sign * (units.free[u * NR_ORDERS + o] as number);
    }
    blocks[t] = (blocks[t] as number) + sign * (units.pageblocks[u] as number);
  }

  /** Distance of one type's sums from what is wanted. */
  function distance(t: number): number {
    let d = BLOCK_WEIGHT * Math.abs((blocks[t] as number) - (targets.blocks[t] as number));
    for (let o = 0; o < NR_ORDERS; o++) {
      const k = t * NR_ORDERS + o;
      const gap = (have[k] as number) - (targets.free[k] as number);
      if (gap > 0 && targets.capped[k] === 1) continue;
      d += Math.abs(gap) * (1 << o);
    }
    return d;
  }

  /** Tries unit u as type t; keeps it when that is no worse than `limit` allows. @returns the gain. */
  function tryMove(u: number, t: number, minGain: number): number {
    const from = type[u] as number;
    if (from === t) return 0;
    const before = distance(from) + distance(t);
    add(u, from, -1);
    add(u, t, 1);
    const gain = before - distance(from) - distance(t);
    if (gain >= minGain) {
      type[u] = t;
      return gain;
    }
    add(u, t, -1);
    add(u, from, 1);
    return 0;
  }

  for (let sweep = 0; sweep < 8; sweep++) {
    let gained = 0;
    for (let u = 0; u < units.length; u++) {
      for (const t of types) gained += tryMove(u, t, 1e-9);
    }
    if (gained === 0) break;
  }

  // Pairs: one unit goes from a to b, another comes from b to a. Only units with few free pages tell types apart.
  const partial: number[] = [];
  for (let u = 0; u < units.length; u++) {
    let small = 0;
    for (let o = 0; o < 9; o++) small += units.free[u * NR_ORDERS + o] as number;
    if (small > 0 || units.kernel[u] === 1) partial.push(u);
  }
  let idle = 0;
  for (let k = 0; k < tries && partial.length > 1 && idle < PATIENCE; k++) {
    idle++;
    const u = partial[prng.below(partial.length)] as number;
    const w = partial[prng.below(partial.length)] as number;
    const a = type[u] as number;
    const b = type[w] as number;
    if (a === b) {
      if (tryMove(u, types[prng.below(types.length)] as number, 1e-9) > 0) idle = 0;
      continue;
    }
    const before = distance(a) + distance(b);
    add(u, a, -1);
    add(u, b, 1);
    add(w, b, -1);
    add(w, a, 1);
    const after = distance(a) + distance(b);
    if (after < before) idle = 0;
    if (after <= before) {
      type[u] = b;
      type[w] = a;
    } else {
      add(u, b, -1);
      add(u, a, 1);
      add(w, a, -1);
      add(w, b, 1);
    }
  }
  return type;
}
