import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE, NR_ORDERS } from '#mm/index';
import { assignTypes, type TypeTargets, type TypeUnits } from './pageblock-types.ts';

const TYPES = [MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE];

/** Units with random free chunks and a hidden type each; what pagetypeinfo would print of them. */
function world(prng: Prng, length: number): { units: TypeUnits; targets: TypeTargets; hidden: Uint8Array } {
  const free = new Int32Array(length * NR_ORDERS);
  const kernel = new Uint8Array(length);
  const pageblocks = new Uint8Array(length).fill(1);
  const hidden = new Uint8Array(length);
  for (let u = 0; u < length; u++) {
    const roll = prng.below(10);
    hidden[u] = roll < 6 ? MIGRATE_MOVABLE : roll < 9 ? MIGRATE_UNMOVABLE : MIGRATE_RECLAIMABLE;
    kernel[u] = hidden[u] === MIGRATE_MOVABLE ? 0 : prng.below(2);
    if (prng.below(3) === 0) {
      free[u * NR_ORDERS + 10] = 1; // two pageblocks under one chunk
      pageblocks[u] = 2;
      kernel[u] = 0;
    } else {
      for (let o = 0; o < 8; o++) if (prng.below(3) === 0) free[u * NR_ORDERS + o] = 1 + prng.below(3);
    }
  }
  return {
    units: { length, pageblocks, free, kernel },
    targets: sumsOf({ length, pageblocks, free, kernel }, hidden),
    hidden,
  };
}

/** Naive twin of the search's bookkeeping: sums by looking at every unit. */
function sumsOf(units: TypeUnits, types: Uint8Array): TypeTargets {
  const free = new Float64Array(8 * NR_ORDERS);
  const blocks = new Float64Array(8);
  for (let u = 0; u < units.length; u++) {
    blocks[types[u]] += units.pageblocks[u];
    for (let o = 0; o < NR_ORDERS; o++) free[types[u] * NR_ORDERS + o] += units.free[u * NR_ORDERS + o];
  }
  return { types: TYPES, free, blocks, capped: new Uint8Array(8 * NR_ORDERS) };
}

/** Pages in the wrong list, and pageblocks of the wrong type. */
function distance(units: TypeUnits, types: Uint8Array, targets: TypeTargets): number {
  const mine = sumsOf(units, types);
  let d = 0;
  for (let k = 0; k < 8 * NR_ORDERS; k++) {
    const gap = mine.free[k] - targets.free[k];
    if (!(targets.capped[k] === 1 && gap > 0)) d += Math.abs(gap) * 2 ** (k % NR_ORDERS);
  }
  for (let t = 0; t < 8; t++) d += 4 * Math.abs(mine.blocks[t] - targets.blocks[t]);
  return d;
}

/** The best that any choice reaches, by trying all of them: 3^length. */
function bestOf(units: TypeUnits, targets: TypeTargets): number {
  const types = new Uint8Array(units.length);
  let best = Number.POSITIVE_INFINITY;
  const go = (u: number): void => {
    if (u === units.length) {
      best = Math.min(best, distance(units, types, targets));
      return;
    }
    for (const t of TYPES) {
      types[u] = t;
      go(u + 1);
    }
  };
  go(0);
  return best;
}

const byContents = (units: TypeUnits): Uint8Array =>
  Uint8Array.from(units.kernel, (k) => (k === 1 ? MIGRATE_UNMOVABLE : MIGRATE_MOVABLE));

describe('pageblock types', () => {
  it('T13 an exact solution is found in most small worlds, and the start is never made worse', () => {
    let exact = 0;
    for (let seed = 1; seed <= 60; seed++) {
      const { units, targets } = world(new Prng(seed), 8);
      const found = distance(units, assignTypes(units, targets, new Prng(seed)), targets);
      expect(found, `seed=${seed}`).toBeLessThanOrEqual(distance(units, byContents(units), targets));
      if (found === 0) exact++;
    }
    expect(exact).toBeGreaterThanOrEqual(45);
  });

  it('T13 large worlds come out within one part in a hundred of their free pages', () => {
    for (let seed = 1; seed <= 5; seed++) {
      const { units, targets } = world(new Prng(seed), 600);
      const pages = targets.free.reduce((n, count, k) => n + count * 2 ** (k % NR_ORDERS), 0);
      const found = distance(units, assignTypes(units, targets, new Prng(1)), targets);
      expect(found, `seed=${seed}`).toBeLessThan(pages / 100);
    }
  });

  it('T14 sums that no choice gives (a torn capture) end near the best possible', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const prng = new Prng(seed);
      const { units, targets } = world(prng, 6);
      targets.free[MIGRATE_MOVABLE * NR_ORDERS] += 5; // five pages that are in no unit
      const best = bestOf(units, targets);
      expect(best, `seed=${seed}`).toBeGreaterThan(0);
      const found = distance(units, assignTypes(units, targets, new Prng(seed)), targets);
      expect(found, `seed=${seed}`).toBeGreaterThanOrEqual(best);
      expect(found, `seed=${seed}`).toBeLessThanOrEqual(distance(units, byContents(units), targets));
    }
  });

  it('T15 a count that was capped at >100000 is a lower bound: more costs nothing', () => {
    const { units, targets } = world(new Prng(3), 40);
    const k = MIGRATE_MOVABLE * NR_ORDERS;
    const capped = new Uint8Array(targets.capped);
    capped[k] = 1;
    const free = Float64Array.from(targets.free);
    free[k] = Math.max(0, free[k] - 10);
    const bent = { ...targets, free, capped };
    const found = assignTypes(units, bent, new Prng(1));
    expect(distance(units, found, bent)).toBeLessThanOrEqual(
      distance(units, assignTypes(units, targets, new Prng(1)), targets),
    );
  });

  it('T16 one capture gives one choice: the same seed, the same types', () => {
    const { units, targets } = world(new Prng(9), 300);
    expect(assignTypes(units, targets, new Prng(7))).toEqual(assignTypes(units, targets, new Prng(7)));
  });
});
