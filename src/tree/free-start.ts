// Free start: where the next DIMM goes when nobody says: behind everything, above 4 GiB, at a memory block.

import { type Pfn, toPfn } from '#base/units';
import { DMA32_END, PAGE_SIZE } from '#mm/geometry';
import type { Machine } from '#mm/machine';
import { endOfFrames } from './page-words.ts';

/** First frame of it. Behind present sections and busy System RAM; bus windows do not count. */
export function nextFreeStart(m: Machine): Pfn {
  let end = Math.max(DMA32_END, endOfFrames(m));
  m.hotplug.resources.forEach((r) => {
    if (r.busy && r.name.startsWith('System RAM')) end = Math.max(end, Math.ceil((r.end + 1) / PAGE_SIZE));
  });
  return toPfn(Math.ceil(end / m.blockPages) * m.blockPages);
}
