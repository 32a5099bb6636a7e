// Unflagged frames: what a frame is whose word in /proc/kpageflags is zero. Decided zone by zone, by counting.
//
//   spans of zeros │ below │ ... │ top of the zone │
//                    per-CPU pages, kernel memory     not initialised, while D lasts
//
//   D = present - managed - frames known to be unmanaged. The kernel initialises struct pages from the low end, so
//   whole unflagged pageblocks at the top of the zone are "deferred" while D lasts                       (derived)
//   pcp = sum of zoneinfo's pagesets counts: so many unflagged frames lie on per-CPU lists   (measured; which: assumed)
//   the rest is kernel memory that shows no flag                                                         (derived)
//
// Invariant: every unflagged frame gets one holder. Sources: spec 1.5, 2.4, 4.4; docs/fidelity.md.

import type { ZoneinfoZone } from '#kernfs/zoneinfo';
import { CLASS_TRAITS, type Machine, PAGEBLOCK_PAGES, type Pool, toPfn } from '#mm/index';
import { type FrameRange, zoneOf } from './layout.ts';
import type { FramePlacer } from './place-frames.ts';

/** Names of the holders of unflagged frames; verdicts and explanations look for them. */
export const HOLDER_PCP = 'free on per-CPU lists (which ones is assumed)';
export const HOLDER_UNFLAGGED = 'kernel memory that shows no flag';
export const HOLDER_WHOLE =
  'whole pageblocks without flags (memory map of hot-added memory, or another large allocation)';
export const HOLDER_DEFERRED = 'struct pages not initialised yet';

/** Gives every unflagged frame a holder. Spans ascending; see the top. */
export function placeUnflagged(
  m: Machine,
  placer: FramePlacer,
  unflagged: readonly FrameRange[],
  zones: readonly ZoneinfoZone[],
): void {
  const pcp = placer.holder({ class: 'unknown', name: HOLDER_PCP });
  const rest = placer.holder({ class: 'unknown', name: HOLDER_UNFLAGGED });
  const whole = placer.holder({ class: 'unknown', name: HOLDER_WHOLE });
  const deferredHolder = placer.holder({ class: 'deferred', name: HOLDER_DEFERRED });
  for (const pool of m.zones) {
    const z = zoneOf(zones, pool);
    const spans = cutByPool(m, unflagged, pool);
    let deferred = z === undefined ? 0 : z.present - z.managed - unmanagedIn(m, pool);
    const onLists = z === undefined ? 0 : z.pagesets.reduce((n, s) => n + s.count, 0);

    const left: FrameRange[] = [];
    // From the top: what is not initialised.
    for (let k = spans.length - 1; k >= 0; k--) {
      const s = spans[k] as FrameRange;
      const first = Math.ceil(s.startPfn / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES;
      const last = Math.floor(s.endPfn / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES;
      const take = Math.min(last - first, deferred - (deferred % PAGEBLOCK_PAGES));
      if (take <= 0) {
        left.push(s);
        continue;
      }
      deferred -= take;
      m.place(deferredHolder, toPfn(last - take), toPfn(last));
      tallyEach(placer, last - take, last, (t, n) => {
        t.deferred += n;
        t.unflagged -= n;
      });
      if (s.endPfn > last) left.push({ startPfn: last, endPfn: s.endPfn });
      if (s.startPfn < last - take) left.push({ startPfn: s.startPfn, endPfn: last - take });
    }
    left.sort((a, b) => a.startPfn - b.startPfn);
    const all = left.reduce((n, s) => n + s.endPfn - s.startPfn, 0);

    // A whole pageblock without flags is a large kernel allocation, or an order-9 page on a per-CPU list. It is called
    // kernel memory only if the unflagged frames beyond the lists' length could be all of them; never in Movable. Even
    // then, pageblocks that stand alone go to the lists first, as many as could fit: huge pages are freed here and
    // there, while a memory map comes in rows (2 MiB for each 128 MiB that were added).
    const wholePages = left.reduce((n, s) => n + wholePageblocks(s) * PAGEBLOCK_PAGES, 0);
    const wholeIsKernel = pool.name !== 'Movable' && wholePages <= all - onLists;
    let hugeOnLists = z === undefined ? 0 : z.pagesets.reduce((n, s) => n + Math.floor(s.count / PAGEBLOCK_PAGES), 0);
    let onListsLeft = onLists;
    for (const s of left) {
      const alone = wholeIsKernel && wholePageblocks(s) === 1 && hugeOnLists > 0;
      if (alone) hugeOnLists--;
      for (let pfn = s.startPfn; pfn < s.endPfn; ) {
        const isWhole = wholeIsKernel && !alone && pfn % PAGEBLOCK_PAGES === 0 && pfn + PAGEBLOCK_PAGES <= s.endPfn;
        if (isWhole) {
          m.place(whole, toPfn(pfn), toPfn(pfn + PAGEBLOCK_PAGES));
          placer.tallyOf(pfn).unflaggedWhole += PAGEBLOCK_PAGES;
          pfn += PAGEBLOCK_PAGES;
          continue;
        }
        const stop = Math.min(s.endPfn, (Math.floor(pfn / PAGEBLOCK_PAGES) + 1) * PAGEBLOCK_PAGES);
        const listed = Math.min(onListsLeft, stop - pfn);
        if (listed > 0) m.place(pcp, toPfn(pfn), toPfn(pfn + listed), 0);
        if (pfn + listed < stop) m.place(rest, toPfn(pfn + listed), toPfn(stop), 0);
        onListsLeft -= listed;
        pfn = stop;
      }
    }
  }
}

const wholePageblocks = (s: FrameRange): number =>
  Math.max(0, Math.floor(s.endPfn / PAGEBLOCK_PAGES) - Math.ceil(s.startPfn / PAGEBLOCK_PAGES));

function tallyEach(
  placer: FramePlacer,
  start: number,
  end: number,
  each: (t: ReturnType<FramePlacer['tallyOf']>, pages: number) => void,
): void {
  for (let pfn = start; pfn < end; pfn += PAGEBLOCK_PAGES)
    each(placer.tallyOf(pfn), Math.min(PAGEBLOCK_PAGES, end - pfn));
}

/** The parts of the spans that lie in the pool, cut at pageblocks of other pools. */
function cutByPool(m: Machine, spans: readonly FrameRange[], pool: Pool): FrameRange[] {
  const out: { startPfn: number; endPfn: number }[] = [];
  for (const s of spans) {
    for (let pfn = s.startPfn; pfn < s.endPfn; ) {
      const stop = Math.min(s.endPfn, (Math.floor(pfn / PAGEBLOCK_PAGES) + 1) * PAGEBLOCK_PAGES);
      if (m.poolAt(m.sections.indexOf(toPfn(pfn))) === pool) {
        const last = out[out.length - 1];
        if (last !== undefined && last.endPfn === pfn) last.endPfn = stop;
        else out.push({ startPfn: pfn, endPfn: stop });
      }
      pfn = stop;
    }
  }
  return out;
}

/**
 * Frames of the pool that are placed and not managed: reserved, balloon, not initialised, and what a block keeps aside as
 * its own memmap. Memmap frames elsewhere (a torn reading) are the kernel's like any others.
 */
export function unmanagedIn(m: Machine, pool: Pool): number {
  let n = 0;
  for (let h = 0; h < m.holders.length; h++) {
    if (CLASS_TRAITS[m.holders.specs[h].class].managed) continue;
    m.holders.forEachMember(h, (frame) => {
      const a = m.sections.allocationAt(frame);
      if (a !== undefined && m.poolAt(frame) === pool) n += 1 << a.order;
    });
  }
  for (let row = 0; row < m.blocks.length; row++) if (m.blocks.pool[row] === pool.id) n += m.blocks.vmemmapPages[row];
  return n;
}
