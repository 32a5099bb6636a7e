// Carving: where a pool's frames come from, and where they go back to.
//
//   parent given      parent pool ──carve──> pool ──giveBack──> the parent, as far as it may have them; the rest as below
//   no parent         zones of its nodes, home first, the highest zone first, Movable last and only if the pool names it
//                     ──carve──> pool ──giveBack──> each frame to the zone that labels it, scarce (low) zones first
//
//   keeps         the source its floor (pool-promise.ts), the parent its max
//   never         frames on loan, isolated, or set apart (pool-move.ts)
//
// Invariant: what `canCarve` has let pass, `carve` gets in full. Spec 9.A, semantics 1 and 3.

import { assert } from '#base/assert';
import { PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { ZONE_MOVABLE } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { fittingRanges, freeToGive, labelsOf, roomOf, settle } from './pool-fit.ts';
import { denseRuns, type FrameRange, moveFree, moveRanges, ownedRuns } from './pool-move.ts';
import { spareFor } from './pool-promise.ts';
import { type PoolAttrs, poolNamed } from './pool-table.ts';

/** The user pool that a pool was carved from; undefined: zones. */
function parentOf(m: Machine, a: PoolAttrs): PoolAttrs | undefined {
  const parent = poolNamed(m, a.parent);
  return parent?.kind === 'user' ? parent : undefined;
}

/** Pools that a pool's frames come from, in order. */
function sourcesOf(m: Machine, a: PoolAttrs): Pool[] {
  const parent = poolNamed(m, a.parent);
  if (parent?.kind === 'user') return [m.pools[parent.id] as Pool];
  const rank = (z: Pool): number => (z.zone === ZONE_MOVABLE ? -1 : z.zone);
  return a.nodes.flatMap((node) =>
    m.zones
      .filter((z) => z.node === node && a.zones.includes(z.zone) && (parent === undefined || z.id === parent.id))
      .sort((x, y) => rank(y) - rank(x)),
  );
}

/** Can the sources give that many pages? @returns why not, in a sentence */
export function canCarve(m: Machine, a: PoolAttrs, pages: number): string | undefined {
  const sources = sourcesOf(m, a);
  const spare = sources.reduce((n, s) => n + spareFor(m, s, a), 0);
  if (spare >= pages) return undefined;
  const names = sources.length === 0 ? 'no zone' : sources.map((s) => s.title).join(', ');
  return `${pages} pages are wanted, ${names} can give ${spare}`;
}

/** Frames for a pool, from its sources in order. The caller has asked canCarve. Cost O(pieces). */
export function carve(m: Machine, a: PoolAttrs, pages: number): void {
  const to = m.pools[a.id] as Pool;
  let left = pages;
  for (const source of sourcesOf(m, a)) {
    const take = Math.min(left, spareFor(m, source, a));
    if (take === 0) continue;
    left -= pagesOf(moveFree(m, source, to, take, fittingRanges(m, source, a)));
    settle(m, source, to);
  }
  assert(left === 0, 'a pool got fewer frames than its sources could give', { pool: a.name, pages, left });
}

const pagesOf = (ranges: readonly FrameRange[]): number => ranges.reduce((n, r) => n + r.end - r.start, 0);

/** That many free frames go back. The caller has seen that they are givable. */
export function giveBack(m: Machine, a: PoolAttrs, pages: number): void {
  const pool = m.pools[a.id] as Pool;
  let left = pages;
  const give = (to: Pool, most: number, ranges: readonly FrameRange[] | undefined): void => {
    const take = Math.min(left, most, freeToGive(m, pool, ranges));
    if (take === 0) return;
    left -= pagesOf(moveFree(m, pool, to, take, ranges));
    settle(m, pool, to);
  };
  const parent = parentOf(m, a);
  if (parent !== undefined) give(m.pools[parent.id] as Pool, roomOf(m, parent), fittingRanges(m, pool, parent));
  for (const zone of labelsOf(m, pool).sort((x, y) => x.zone - y.zone || x.id - y.id)) {
    give(zone, left, pool.labels.size === 1 ? undefined : labelRanges(m, pool, zone));
  }
  assert(left === 0, 'a pool gave back fewer frames than it could', { pool: a.name, pages, left });
}

/** Everything goes back, used frames where they lie. Nothing of it is on loan. */
export function giveAllBack(m: Machine, a: PoolAttrs): void {
  const pool = m.pools[a.id] as Pool;
  const parent = parentOf(m, a);
  if (parent !== undefined) giveToParent(m, pool, parent);
  for (const zone of labelsOf(m, pool)) {
    const left = moveRanges(m, pool, zone, labelRanges(m, pool, zone), { used: 'donate' });
    assert(!('reason' in left), 'frames of a pool that ends do not leave it', { pool: a.name });
    settle(m, pool, zone);
  }
  assert(pool.present === 0, 'a pool that ends still has frames', { pool: a.name, present: pool.present });
}

/** What the parent may have: used frames too if there is room for all of it, else free ones as far as it goes. */
function giveToParent(m: Machine, pool: Pool, parent: PoolAttrs): void {
  const to = m.pools[parent.id] as Pool;
  const fitting = fittingRanges(m, pool, parent);
  const ranges = fitting ?? labelsOf(m, pool).flatMap((zone) => labelRanges(m, pool, zone));
  const room = roomOf(m, parent);
  const all = fitting === undefined ? pool.present : ownedIn(m, pool, fitting);
  // An allocation that reaches over the edge of a window is refused: then only free frames go, and it goes to the zone.
  const whole = all <= room ? moveRanges(m, pool, to, ranges, { used: 'donate' }) : undefined;
  if (whole === undefined || 'reason' in whole) {
    moveFree(m, pool, to, Math.min(room, freeToGive(m, pool, fitting)), fitting);
  }
  settle(m, pool, to);
}

/** Frames of a pool in ranges of frame numbers. Cost O(pageblocks). */
export function ownedIn(m: Machine, pool: Pool, ranges: readonly FrameRange[]): number {
  return ranges.reduce(
    (n, r) => n + pagesOf(denseRuns(m, r.start, r.end).flatMap((run) => ownedRuns(m, pool, run))),
    0,
  );
}

/** Frame numbers of a pool's frames that bear a zone's label, in runs. Cost O(pageblocks of the hull). */
export function labelRanges(m: Machine, pool: Pool, zone: Pool): FrameRange[] {
  const out: { start: number; end: number }[] = [];
  const hull = { start: pool.base, end: Math.min(pool.base + pool.pages, m.sections.frames) };
  for (const own of ownedRuns(m, pool, hull)) {
    for (let i = own.start; i < own.end; ) {
      const next = Math.min(own.end, i - (i % PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES);
      const pfn: number = m.sections.pfnOf(i);
      const last = out[out.length - 1];
      if (m.owners.zoneAt(i) === zone.id) {
        if (last !== undefined && last.end === pfn) last.end += next - i;
        else out.push({ start: pfn, end: pfn + next - i });
      }
      i = next;
    }
  }
  return out;
}
