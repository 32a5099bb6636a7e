// The check of fixed areas: the table against the frames.
//
//   FX1  an area that is held consists of its driver's allocations, whole, as many pages as it says, and keeps its form; its
//        heads, and nothing else, are in the index
//   FX2  a RELEASED area has no frames; one that is QUIESCING belongs to a session
//   FX3  frames that were given to a driver without `relinquish` lie in areas that were marked
//   FX4  a worked-around area's frames are its host holder's, or their memory has gone
//
// Spec 9.E. Called by check(), level 3. Cost O(allocations of areas).

import { toPfn } from '#base/units';
import type { Machine } from '../machine.ts';
import { violationOf } from '../pools/dma-buffer.ts';
import { intersect, isSubset, normalise, pagesOf } from '../pools/dma-extent.ts';
import { type AreaRow, type AreaTable, areaTableIfAny } from './area-table.ts';

/** One sentence for each violation, which begins with its rule. */
export function checkFixedAreas(m: Machine): string[] {
  const t = areaTableIfAny(m);
  if (t === undefined) return [];
  const wrong: string[] = [];
  const heads = new Map<number, number>();
  for (const a of t.areas.values()) {
    const who = `area ${a.id} of ${a.driver}`;
    if (a.state === 'RELEASED') {
      if (a.segments.length > 0) wrong.push(`FX2 ${who} is released and has frames`);
      continue;
    }
    if (a.state === 'QUIESCING' && t.sessions.size === 0) wrong.push(`FX2 ${who} quiesces for nobody`);
    if (pagesOf(a.segments) !== a.pages) wrong.push(`FX1 ${who} has ${pagesOf(a.segments)} of ${a.pages} pages`);
    // The rule of its first place, or the one for all others: a way back leads to where it was first.
    const broken = violationOf(a.form, [a.segments]);
    if (broken !== undefined && violationOf(a.again, [a.segments]) !== undefined) wrong.push(`FX1 ${who}: ${broken}`);
    if (a.confined && !isSubset(normalise(a.segments), t.nonRemovable)) {
      wrong.push(`FX3 ${who} has ${a.pages - pagesOf(intersect(normalise(a.segments), t.nonRemovable))} pages outside`);
    }
    checkFrames(m, t, a, who, heads, wrong);
  }
  for (const [pfn, id] of t.at)
    if (heads.get(pfn) !== id) wrong.push(`FX1 the index says frame ${pfn} is of area ${id}`);
  return wrong;
}

function checkFrames(
  m: Machine,
  t: AreaTable,
  a: AreaRow,
  who: string,
  heads: Map<number, number>,
  wrong: string[],
): void {
  const d = t.drivers.get(a.driver);
  if (d === undefined) {
    wrong.push(`FX1 ${who} has no driver`);
    return;
  }
  const holder = a.workedAround ? d.hostHolder : d.holder;
  for (const s of a.segments) {
    for (let pfn: number = s.start; pfn < s.end; ) {
      const index = m.sections.indexOf(toPfn(pfn));
      const piece = index < 0 ? undefined : m.sections.allocationAt(index);
      if (piece === undefined) {
        if (!a.workedAround) wrong.push(`FX1 ${who}: frame ${pfn} is nobody's`);
        else if (index >= 0 && m.poolAt(index) !== undefined)
          wrong.push(`FX4 ${who}: frame ${pfn} is online, and free`);
        else heads.set(pfn, a.id);
        pfn++;
        continue;
      }
      const whose = m.holders.holderOf(m.sections.ownerAt(piece.head));
      if (piece.head !== index || whose !== holder) {
        wrong.push(`${a.workedAround ? 'FX4' : 'FX1'} ${who}: frame ${pfn} belongs to holder ${whose}, not ${holder}`);
      }
      if (t.at.get(pfn) !== a.id) wrong.push(`FX1 ${who}: frame ${pfn} is not in the index`);
      heads.set(pfn, a.id);
      pfn += 2 ** piece.order;
    }
  }
}
