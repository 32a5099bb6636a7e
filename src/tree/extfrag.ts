// debugfs extfrag: how fragmented each zone's free memory is, for each order.
//
//   Node 0, zone   Normal 0.000 0.001 0.004 ... 0.957      unusable_index: free memory in chunks too small for the order
//   Node 0, zone   Normal -1.000 -1.000 ... 0.932          extfrag_index: -1 a chunk is there; towards 0 for want of
//                                                          memory, towards 1 for fragmentation
//
// F free pages, B free chunks, S chunks of at least the order, counted in chunks of the order:
//   unusable = (F - S * 2^o) * 1000 / F, 1000 where F is 0;   extfrag = 1000 - (1000 + F * 1000 / 2^o) / B, 0 where B is 0
// Integer divisions. Free pages of all types count, isolated ones too.
// Follows Linux v6.12 mm/vmstat.c: fill_contig_page_info(), unusable_show_print(), __fragmentation_index() (spec 2.10).

import type { BuddyinfoZone } from '#kernfs/buddyinfo';
import { printZoneLabel } from '#kernfs/zone-label';

export type ExtfragIndex = 'unusable_index' | 'extfrag_index';

export function printExtfrag(zones: readonly BuddyinfoZone[], index: ExtfragIndex): string {
  const of = index === 'unusable_index' ? unusableIndex : fragmentationIndex;
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

const freeOf = (nrFree: readonly number[]): number => nrFree.reduce((n, chunks, o) => n + chunks * 2 ** o, 0);

/** In thousandths. */
export function unusableIndex(nrFree: readonly number[], order: number): number {
  const free = freeOf(nrFree);
  if (free === 0) return 1000;
  let suitable = 0;
  for (let o = order; o < nrFree.length; o++) suitable += (nrFree[o] as number) * 2 ** o;
  return Math.floor(((free - suitable) * 1000) / free);
}

/** In thousandths, or -1000 where the request would be met. */
export function fragmentationIndex(nrFree: readonly number[], order: number): number {
  const chunks = nrFree.reduce((a, b) => a + b, 0);
  if (chunks === 0) return 0;
  if (nrFree.slice(order).some((n) => n > 0)) return -1000;
  const wanted = 1000 + Math.floor((freeOf(nrFree) * 1000) / 2 ** order);
  return 1000 - Math.floor(wanted / chunks);
}
