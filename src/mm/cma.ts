// CMA: areas that movable pages use until their owner wants neighbouring frames of them.
//
//   area     [start, end), whole pageblocks of type CMA, one zone
//            │··■··│██████│·····│·■···│      █ handed out (bitmap)   ■ movable pages that are guests   · free
//
//   alloc    first gap of the bitmap that is long enough and aligned ──> mark ──> empty the range (contig-alloc.ts)
//              └── in the way (EBUSY)? unmark, next gap        └── anything else: give up
//   release  the frames are free, the bitmap is clear
//
// Free frames of an area serve movable requests only: first, while the area holds more than half of the zone's free pages,
// else after the request's own lists (page-alloc.ts). Watermarks do not count them for anybody else (alloc-path.ts).
//
// Invariants: CM1 a marked frame is the area's holder's, one that is not marked never is; CM2 pageblocks of an area are CMA
// whenever no allocation is under way.
//
// Follows Linux v6.12 mm/cma.c: cma_init_reserved_mem(), cma_activate_area(), cma_alloc(), cma_release() (spec 2.3, 3.4).
// One bit a frame (order_per_bit 0).

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type Pfn, toPfn } from '#base/units';
import { allocContigRange, type ContigOptions, freeContigRange } from './contig-alloc.ts';
import { MIGRATE_CMA, PAGEBLOCK_PAGES } from './geometry.ts';
import type { Machine } from './machine.ts';
import type { ReservedRange } from './machine-spec.ts';
import { machineState } from './machine-state.ts';
import type { Pool } from './pool.ts';
import { type Refusal, refusal } from './refusal.ts';

export type CmaArea = {
  readonly name: string;
  readonly start: Pfn;
  readonly end: Pfn;
  /** Who holds what the area hands out. */
  readonly holder: HolderId;
  /** One byte a frame: 1 = handed out. */
  readonly bitmap: Uint8Array;
  /** Frames that are not handed out. */
  available: number;
};

class CmaAreas {
  readonly areas: CmaArea[] = [];

  copy(): CmaAreas {
    const to = new CmaAreas();
    for (const a of this.areas) to.areas.push({ ...a, bitmap: a.bitmap.slice() });
    return to;
  }
}

const state = machineState(() => new CmaAreas());

/** Counters by Linux's name. */
export type CmaCounters = { readonly totalPages: number; readonly freePages: number };

export const cmaAreas = (m: Machine): readonly CmaArea[] => state.of(m).areas;

/** CmaTotal and CmaFree of meminfo, in pages. */
export function cmaCounters(m: Machine): CmaCounters {
  const totalPages = cmaAreas(m).reduce((n, a) => n + (a.end - a.start), 0);
  return { totalPages, freePages: m.pools.reduce((n, p) => n + p.alloc.nrFreeCma(), 0) };
}

/**
 * Makes [start, end) an area: at boot, before anything lies in it. Its pageblocks become CMA.
 *
 * A range that is not whole pageblocks, not free throughout, or in more than one zone is a bug of the spec and throws.
 */
export function declareCma(m: Machine, range: ReservedRange): CmaArea {
  const { start, end, name } = range;
  assert(
    start < end && start % PAGEBLOCK_PAGES === 0 && end % PAGEBLOCK_PAGES === 0,
    'a CMA area is whole pageblocks',
    range,
  );
  assert(
    cmaAreas(m).every((a) => a.name !== name && (end <= a.start || a.end <= start)),
    'a CMA area overlaps another, or has its name',
    range,
  );
  const pools = new Set<Pool | undefined>();
  for (let pfn: number = start; pfn < end; pfn += PAGEBLOCK_PAGES) {
    const index = m.sections.indexOf(toPfn(pfn));
    const pool = index < 0 ? undefined : m.poolAt(index);
    pools.add(pool);
    if (pool === undefined) continue;
    const i = index - pool.base;
    assert(pool.alloc.area.freeIn(i, i + PAGEBLOCK_PAGES) === PAGEBLOCK_PAGES, 'a CMA area is free at boot', { pfn });
    pool.alloc.setPageblockType(i, MIGRATE_CMA);
  }
  assert(pools.size === 1 && !pools.has(undefined), 'a CMA area lies in one zone', range);
  const area: CmaArea = {
    name,
    start,
    end,
    holder: m.addHolder({ class: 'driver', name: `CMA ${name}` }),
    bitmap: new Uint8Array(end - start),
    available: end - start,
  };
  state.of(m).areas.push(area);
  return area;
}

/** First frame, by offset in the area, of `pages` frames that are not handed out, aligned, from `from` on; -1 if none. */
function nextGap(area: CmaArea, pages: number, align: number, from: number): number {
  const { bitmap, start } = area;
  const step = 2 ** align;
  let at = Math.ceil((start + from) / step) * step - start;
  while (at + pages <= bitmap.length) {
    const taken = bitmap.subarray(at, at + pages).lastIndexOf(1);
    if (taken < 0) return at;
    at = Math.ceil((start + at + taken + 1) / step) * step - start;
  }
  return -1;
}

export type CmaOptions = Pick<ContigOptions, 'signal' | 'pageState'> & {
  /** The first frame's number is a multiple of 2^align. Default 0. */
  readonly align?: number;
};

/**
 * `pages` neighbouring frames of the area, for its holder. What movable pages lie there move away.
 *
 * @returns the first frame; ENOMEM when there is no gap, or every gap has a page that stays; what emptying a range refuses
 *          with otherwise (EINTR, ENOMEM). What moved stays moved. Cost O(frames of the gaps tried).
 */
export function cmaAlloc(m: Machine, area: CmaArea, pages: number, options: CmaOptions = {}): Result<Pfn, Refusal> {
  assert(cmaAreas(m).includes(area), 'not an area of this machine', { name: area.name });
  assert(Number.isInteger(pages) && pages > 0, 'a CMA allocation is one frame or more', { pages });
  const align = options.align ?? 0;
  let last: Refusal | undefined;
  // Bounded: each gap begins above the one before.
  for (let at = 0; pages <= area.available; at++) {
    at = nextGap(area, pages, align, at);
    if (at < 0) break;
    const start = toPfn(area.start + at);
    const end = toPfn(start + pages);
    const { signal, pageState } = options;
    const got = allocContigRange(m, start, end, {
      holder: area.holder,
      type: 'cma',
      ...(signal && { signal }),
      ...(pageState && { pageState }),
    });
    if (got.ok) {
      area.bitmap.fill(1, at, at + pages);
      area.available -= pages;
      m.vmstat.cma_alloc_success += pages;
      return ok(start);
    }
    last = got.error;
    if (last.errno !== 'EBUSY') break;
    at += 2 ** align - 1;
  }
  m.vmstat.cma_alloc_fail += pages;
  if (last !== undefined && last.errno !== 'EBUSY') return err(last);
  const why = last === undefined ? `${area.available} of its frames are left` : last.message;
  return err(
    refusal('no-memory', `the CMA area ${area.name} has no ${pages} neighbouring frames: ${why}`, last?.blockers),
  );
}

/** Gives [start, start + pages) back, all or a part of what was handed out. Frames that were not are a bug and throw. */
export function cmaRelease(m: Machine, area: CmaArea, start: Pfn, pages: number): void {
  const at = start - area.start;
  const mine = area.bitmap.subarray(Math.max(at, 0), Math.max(at + pages, 0));
  assert(at >= 0 && pages > 0 && mine.length === pages && !mine.includes(0), 'frames that the CMA area did not give', {
    start,
    pages,
  });
  freeContigRange(m, start, toPfn(start + pages));
  mine.fill(0);
  area.available += pages;
}

/** CM1 and CM2, in words; empty when sound. Cost O(frames of the areas). */
export function checkCma(m: Machine): string[] {
  const wrong: string[] = [];
  for (const area of cmaAreas(m)) {
    for (let at = 0; at < area.bitmap.length; at++) {
      const pfn = toPfn(area.start + at);
      const index = m.sections.indexOf(pfn);
      const frame = m.frame(pfn);
      const held = frame.state === 'used' && frame.holder === area.holder;
      if (held !== (area.bitmap[at] === 1)) {
        wrong.push(`CM1 frame ${pfn} of ${area.name}: handed out ${area.bitmap[at]}, held ${held}`);
      }
      const pool = index < 0 ? undefined : m.poolAt(index);
      if (pool !== undefined && pool.alloc.area.typeOf(index - pool.base) !== MIGRATE_CMA) {
        wrong.push(`CM2 frame ${pfn} of ${area.name} lies in a pageblock of another type`);
      }
    }
    const left = area.bitmap.reduce((n, b) => n + (b === 0 ? 1 : 0), 0);
    if (left !== area.available)
      wrong.push(`CM1 ${area.name} says that ${area.available} frames are left, it has ${left}`);
  }
  return wrong;
}
