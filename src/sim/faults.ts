// Faults: every named step of every protocol can fail in the world. Which do, and how often, is chance.
//
// A point is asked by the engine through Machine.faultAt. Rates are drawn once a world, point by point: most are rare, some
// are zero, one in eight is frequent, so that long undo ladders are seen as well as whole runs (swarm testing).

import type { Prng } from '#base/prng';
import { COMPACT_FAULT_POINTS } from '#mm/compaction/compact-result';
import { DIMM_FAULT_POINTS } from '#mm/dimm-offline';
import { DRIVER_FAULT_POINTS } from '#mm/fixed-areas/relinquish';
import { KREMAP_FAULTS } from '#mm/kremap/protocol';
import { MEMMAP_FAULT_POINTS } from '#mm/memmap-move';
import { MIGRATE_FAULT_POINTS } from '#mm/migrate';

/** All that the engine exports. */
export const FAULT_POINTS: readonly string[] = [
  ...MIGRATE_FAULT_POINTS,
  ...KREMAP_FAULTS,
  ...MEMMAP_FAULT_POINTS,
  ...DRIVER_FAULT_POINTS,
  ...COMPACT_FAULT_POINTS,
  ...DIMM_FAULT_POINTS,
];

export class Faults {
  readonly #prng: Prng;
  readonly #rates: ReadonlyMap<string, number>;
  on: boolean;
  /** How often each point was asked, and failed. */
  readonly asked = new Map<string, number>();
  readonly failed = new Map<string, number>();

  constructor(prng: Prng, on: boolean) {
    this.#prng = prng;
    this.on = on;
    this.#rates = new Map(
      FAULT_POINTS.map((point) => [point, prng.pick([0, 0.002, 0.01, 0.01, 0.02, 0.02, 0.05, 0.3])]),
    );
  }

  /** For Machine.faultAt. A point that no list names is rare, and counted all the same. */
  at(point: string): boolean {
    this.asked.set(point, (this.asked.get(point) ?? 0) + 1);
    if (!this.on || !this.#prng.chance(this.#rates.get(point) ?? 0.01)) return false;
    this.failed.set(point, (this.failed.get(point) ?? 0) + 1);
    return true;
  }
}
