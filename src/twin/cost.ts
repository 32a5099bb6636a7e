// Cost: how long an offline would take. Assumed constants, shown as such; good for comparing plans, not for clocks.
//
//   ms = block + pageblocks * isolate + single pages * move + huge pages * moveHuge
//
// Bounds from published figures (spec 8.2, H11, one Xeon): virtio-mem empties touched movable memory at about
// 35 GiB/s when nothing has to be copied, which is 3.6 ms for 128 MiB. Copying 4 KiB and switching its mappings costs
// some microseconds. Under emulation (the lab's guests) all of it is 10 to 50 times slower.

import type { Figure } from './provenance.ts';

/** Notifiers, watermarks, zonelists: once a block. */
const BLOCK_MS = 2;
/** Isolate and take out one pageblock. */
const PAGEBLOCK_MS = 0.02;
/** Unmap, copy, remap one page of 4 KiB. */
const PAGE_MS = 0.003;
/** The same for 2 MiB at about 5 GiB/s. */
const HUGE_MS = 0.4;

export function offlineCost(work: { pageblocks: number; pages: number; hugePages: number }): Figure {
  const ms = BLOCK_MS + work.pageblocks * PAGEBLOCK_MS + work.pages * PAGE_MS + work.hugePages * HUGE_MS;
  return { value: Math.round(ms * 10) / 10, provenance: 'assumed' };
}
