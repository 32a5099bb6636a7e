// Free pieces by what the kernel prints alone: buddyinfo for what is there, zoneinfo for what has to stay. For machines of
// which no page was seen, and as a second opinion on the twin's own count (contiguous-fork.ts).

import type { Twin } from '#twin/index';
import type { Pieces } from './contiguous-fork.ts';
import type { Observation } from './observation.ts';

export type ObservedChunks = Pieces & {
  /** If all free memory of each zone were one piece: nothing that only moves pages gets beyond. */
  readonly bound: number;
};

export function observedChunks(twin: Twin, o: Observation, order: number): ObservedChunks {
  let all = 0;
  let usable = 0;
  let bound = 0;
  for (const z of o.free) {
    const zones = twin.zones.filter((x) => x.node === z.node);
    const info = zones.find((x) => x.zone === z.zone);
    if (info === undefined) continue;
    const reserve = info.protection[zones.findIndex((x) => x.zone === 'Movable')] ?? 0;
    const free = z.nrFree.reduce((n, count, k) => n + count * 2 ** k, 0);
    const most = Math.max(0, Math.floor((free - info.low - reserve) / 2 ** order));
    const there = z.nrFree.reduce((n, count, k) => (k < order ? n : n + count * 2 ** (k - order)), 0);
    all += there;
    usable += Math.min(there, most);
    bound += most;
  }
  return { there: all, usable, bound };
}
