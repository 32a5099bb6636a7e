// Reasons: why one block, or several blocks with the same verdict, go or stay; short enough for a table.
//
// The words are for people who have never heard of pageblocks; a kernel engineer finds the class and the count. The
// full sentence of each block (with its errno) is BlockVerdict.reason.

import { PAGE_CLASSES, type PageClass } from '#mm/index';
import type { BlockVerdict, VerdictCode } from '#twin/index';

/** Page classes in words. */
export const CLASS_WORDS: Readonly<Record<PageClass | 'none', string>> = Object.freeze({
  anonymous: 'process memory',
  file: 'page cache',
  shmem: 'shared memory',
  hugetlb: 'huge pages',
  balloon: 'balloon',
  gigantic: '1 GiB huge pages',
  slab: 'slab',
  'slab-reclaimable': 'reclaimable slab',
  pagetable: 'page tables',
  stack: 'kernel stacks',
  vmalloc: 'vmalloc',
  driver: 'drivers',
  memmap: 'memory map',
  reserved: 'reserved at boot',
  deferred: 'not initialised',
  unplugged: 'not plugged',
  poisoned: 'poisoned',
  unknown: 'no flags',
  'movable-ops': 'zsmalloc and the like',
  none: 'no RAM',
});

/** @param members  at least one, all with the same code and zone */
export function shortReason(members: readonly BlockVerdict[]): string {
  const first = members[0] as BlockVerdict;
  return FIXED[first.code] ?? COUNTED[first.code]?.(members) ?? first.reason;
}

const FIXED: Readonly<Partial<Record<VerdictCode, string>>> = {
  'all-free': 'nothing in use',
  migrates: 'all that is in use can move',
  hole: 'not RAM throughout (memory holes): never',
  multizone: 'in no one zone (holes, or several zones): never',
  offline: 'offline already',
  'going-offline': 'going offline right now',
  deferred: 'the kernel has not initialised all of it yet',
  'no-target': 'its pages have nowhere to go: retries until memory is freed, or a signal',
  stuck: 'pages that do not move: retries for ever, until a signal',
  gigantic: 'a 1 GiB huge page ends here: goes if that is free',
  unflagged: 'whole pageblocks without flags: the kernel’s, or free',
};

const COUNTED: Readonly<Partial<Record<VerdictCode, (members: readonly BlockVerdict[]) => string>>> = {
  unmovable: (members) => `cannot move: ${classCounts(members)}`,
  'pin-sign': (members) => `look pinned: ${classCounts(members)}; if so it retries for ever, until a signal`,
  'zone-only': (members) =>
    (members[0] as BlockVerdict).verdict === 'yes'
      ? 'in ZONE_MOVABLE; its pages were not seen'
      : 'in a kernel zone; its pages were not seen',
};

/** "slab 2131, page tables 40": the largest classes first, three at the most. */
function classCounts(members: readonly BlockVerdict[]): string {
  const pages = new Map<PageClass | 'none', number>();
  for (const v of members)
    for (const b of v.blockers) pages.set(b.class, (pages.get(b.class) ?? 0) + b.endPfn - b.startPfn);
  const rank = (c: PageClass | 'none'): number => (c === 'none' ? -1 : PAGE_CLASSES.indexOf(c));
  const sorted = [...pages].sort((a, b) => b[1] - a[1] || rank(a[0]) - rank(b[0]));
  const shown = sorted.slice(0, 3).map(([c, n]) => `${CLASS_WORDS[c]} ${n}`);
  return shown.join(', ') + (sorted.length > 3 ? ', more' : '');
}
