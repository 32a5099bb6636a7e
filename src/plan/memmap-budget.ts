// The memmap budget: struct pages of added memory are taken from free memory of the kernel zones, at the add, before any of
// the new memory can be used (lab fact 13: 60 GiB took 964 MiB at once).
//
//   needed   64 bytes a page, and page tables: planMemmap's, nothing where the blocks host their own       derived
//   room     free frames of the kernel zones above their high watermarks                                  measured
//   cache    clean page cache there: Linux drops it to make room                                          measured
//
// The rule says how much would fit; the rehearsal says whether it did. `keepsMarks` is asked of the fork afterwards.
//
// Spec 4.1 to 4.4.

import { type Machine, PAGE_SIZE, toHolderId, toPfn } from '#mm/index';
import { planMemmap, presentSections } from '#mm/memmap';
import { ZONE_MOVABLE } from '#mm/page-class';
import type { Figure } from '#twin/index';
import { HOLDER_CLEAN } from '#twin/place-frames';

export type MemmapBudget = {
  /** Bytes of existing memory that the add takes. */
  readonly needed: Figure;
  readonly room: Figure;
  readonly cache: Figure;
};

/** @param addr, bytes  of the added memory, whole blocks */
export function memmapBudget(m: Machine, addr: number, bytes: number): MemmapBudget {
  const startPfn = toPfn(addr / PAGE_SIZE);
  const plan = planMemmap({
    startPfn,
    pages: bytes / PAGE_SIZE,
    blockPages: m.blockPages,
    policy: 'self-block',
    enabled: m.hotplug.settings.memmapOnMemory,
    callerAsks: true,
    profile: m.profile,
    pageTables: 'kernel',
    present: presentSections(m),
  });
  const pages = (plan.policy === 'kernel' ? plan.memmapPages : 0) + plan.kernelPageTables;
  return {
    needed: { value: pages * PAGE_SIZE, provenance: 'derived' },
    room: { value: kernelRoom(m), provenance: 'measured' },
    cache: { value: cleanInKernelZones(m) * PAGE_SIZE, provenance: 'measured' },
  };
}

/** Bytes free in kernel zones above the high watermarks. */
export const kernelRoom = (m: Machine): number =>
  m.zones.reduce(
    (n, p) => (p.zone === ZONE_MOVABLE ? n : n + Math.max(0, p.alloc.nrFree() - Math.max(0, p.watermarks.high))),
    0,
  ) * PAGE_SIZE;

/**
 * Do the kernel zones keep what their watermarks ask for: the high ones in sum, as kswapd sees to it, and each its low one?
 * A zone that had less before must not have lost more.
 */
export function keepsMarks(m: Machine, before: Machine): boolean {
  let free = 0;
  let high = 0;
  let all = true;
  for (const p of m.zones) {
    if (p.zone === ZONE_MOVABLE || p.managed === 0) continue;
    const was = before.zones.find((z) => z.node === p.node && z.zone === p.zone)?.alloc.nrFree() ?? 0;
    free += p.alloc.nrFree();
    high += p.watermarks.high;
    all &&= p.alloc.nrFree() >= Math.min(p.watermarks.low, was);
  }
  return all && free >= high;
}

const cleanInKernelZones = (m: Machine): number => cleanPages(m, 'kernel').pages;

/** On a fork: what Linux does when struct pages find no room. @returns bytes that became free */
export const dropCleanCache = (m: Machine): number => drop(m, 'kernel');
/** The same, wherever it lies. */
export const dropAllCleanCache = (m: Machine): number => drop(m, 'all');

function drop(m: Machine, where: 'kernel' | 'all'): number {
  const { heads, pages } = cleanPages(m, where);
  for (const head of heads) m.free(toPfn(head));
  for (const p of m.pools) p.alloc.drain();
  return pages * PAGE_SIZE;
}

/** Page cache that nobody has mapped and that is written: heads, and frames in all. */
function cleanPages(
  m: Machine,
  where: 'kernel' | 'all',
): { readonly heads: readonly number[]; readonly pages: number } {
  const heads: number[] = [];
  let pages = 0;
  m.holders.specs.forEach((s, h) => {
    if (!s.name.startsWith(HOLDER_CLEAN)) return;
    m.forEachFrameOf(toHolderId(h), (head, order) => {
      if (where === 'kernel' && m.zoneAt(m.sections.indexOf(head))?.zone === ZONE_MOVABLE) return;
      heads.push(head);
      pages += 2 ** order;
    });
  });
  return { heads, pages };
}
