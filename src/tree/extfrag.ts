// debugfs extfrag: how fragmented each zone's free memory is, for each order.
//
//   Node 0, zone   Normal 0.000 0.001 0.004 ... 0.957      unusable_index: free memory in chunks too small for the order
//   Node 0, zone   Normal -1.000 -1.000 ... 0.932          extfrag_index: -1 a chunk is there; towards 0 for want of
//                                                          memory, towards 1 for fragmentation
//
// The indexes are the engine's (mm/extfrag.ts); here is how they look.
// Follows Linux v6.12 mm/vmstat.c: unusable_show_print(), extfrag_show_print() (spec 2.10).

import type { BuddyinfoZone } from '#kernfs/buddyinfo';
import { printZoneLabel } from '#kernfs/zone-label';
import { fragmentationIndex, unusableFreeIndex } from '#mm/extfrag';

export type ExtfragIndex = 'unusable_index' | 'extfrag_index';

export function printExtfrag(zones: readonly BuddyinfoZone[], index: ExtfragIndex): string {
  const of = index === 'unusable_index' ? unusableFreeIndex : fragmentationIndex;
  const lines = zones.map((z) => {
    const cells = z.nrFree.map((_, order) => {
      const n = of(z.nrFree, order);
      const whole = String(Math.trunc(n / 1000)).padStart(index === 'extfrag_index' ? 2 : 0);
      return `${whole}.${String((n % 1000) | 0).padStart(3, '0')} `;
    });
    return `${printZoneLabel(z)} ${cells.join('')}\n`;
  });
  return lines.join('');
}
