// Free tails: some kernels flag every frame of a free chunk in kpageflags, some only its head.
//
//   all frames   B B B B B B B B . . B B        heads only   B 0 0 0 B 0 0 0 . . B 0
//
// Heads only is noticed by the sums: far fewer flagged frames than zoneinfo's free pages. Then each head takes the
// unflagged frames behind it, as far as alignment and other frames allow. Per-CPU pages that happen to follow a head
// are taken too; compare.ts shows the difference. Measured: Debian 6.1, 6.12 and a 6.18 flag all frames (T11, T12).

import type { ZoneinfoZone } from '#kernfs/zoneinfo';
import { MAX_ORDER } from '#mm/index';
import type { FrameRange } from './layout.ts';

export type FreeSpans = { readonly free: readonly FrameRange[]; readonly unflagged: readonly FrameRange[] };

/** A healthy machine's average free chunk has far more than 4 pages; half of that says which kernel it is. */
export function flagsHeadsOnly(spans: FreeSpans, zones: readonly ZoneinfoZone[]): boolean {
  const flagged = spans.free.reduce((n, s) => n + s.endPfn - s.startPfn, 0);
  const counted = zones.reduce((n, z) => n + z.free, 0);
  const unflagged = spans.unflagged.reduce((n, s) => n + s.endPfn - s.startPfn, 0);
  return flagged * 4 < counted && unflagged >= counted - flagged;
}

/** Free heads with their tails, and the unflagged frames that are left. Spans ascending, as given. */
export function joinTails(spans: FreeSpans): FreeSpans {
  const free: { startPfn: number; endPfn: number }[] = [];
  const unflagged: { startPfn: number; endPfn: number }[] = [];
  const bare = spans.unflagged.map((s) => ({ ...s }));
  let k = 0;
  for (const s of spans.free) {
    for (let pfn = s.startPfn; pfn < s.endPfn; ) {
      while (k < bare.length && (bare[k] as FrameRange).endPfn <= pfn) unflagged.push(bare[k++] as FrameRange);
      const behind = bare[k];
      // Only the last frame of a run of heads can have tails.
      const limit =
        pfn + 1 === s.endPfn && behind !== undefined && behind.startPfn === pfn + 1 ? behind.endPfn : pfn + 1;
      let order = 0;
      while (order < MAX_ORDER && pfn % (2 << order) === 0 && pfn + (2 << order) <= limit) order++;
      const end = pfn + (1 << order);
      free.push({ startPfn: pfn, endPfn: end });
      if (behind !== undefined && end > behind.startPfn) behind.startPfn = Math.min(end, behind.endPfn);
      pfn = end;
    }
  }
  for (; k < bare.length; k++) unflagged.push(bare[k] as FrameRange);
  return { free, unflagged: unflagged.filter((s) => s.startPfn < s.endPfn) };
}
