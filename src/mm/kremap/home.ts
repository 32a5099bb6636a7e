// Home: displaced pages go back to the frames that their addresses name, and what happens where they cannot.
//
//   frame v of a displaced address v      a page may come home             otherwise
//   removed, or offline                   no                               -
//   held, online, not isolated            yes                              stays held (va_blocked)
//   isolated, free: an offline that is    yes, while all CPUs stand still  held
//     being undone
//   coming online                         yes, before anything is free     held: "the new frame stays offline"
//
// The address of removed memory lives on with the page that was moved away from it. Memory that is added at the same place
// finds that address taken (VA squatting): the page comes home first, which makes the address identity again, or the one
// frame that has no address of its own stays out of use. A kernel page comes home to a kernel zone only; home in Movable
// would make the block immovable again.
//
// Spec 9.C, VA squatting.

import { toPfn } from '#base/units';
import type { Undo } from '../evictor.ts';
import type { Machine } from '../machine.ts';
import { CLASS_TRAITS } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { type KremapState, kremapOf } from './kremap-state.ts';
import { isHead, isIsolated, type MoveFailure, movePages, type Part, type Place, partAt } from './protocol.ts';
import { giveBack, takeExactly } from './target.ts';

/** Allocations that have a displaced address in [start, end), by address. Cost O(leaf tables of the range). */
export function displacedIn(k: KremapState, start: number, end: number): Part[] {
  const parts: Part[] = [];
  let done = -1; // addresses of an allocation are neighbours
  k.translation.forEachDisplaced(start, end, (va, pfn) => {
    if (va < done) return;
    const a = k.m.sections.allocationAt(k.m.sections.indexOf(toPfn(pfn)));
    const part = a === undefined ? undefined : partAt(k, a.head);
    if (part === undefined) return;
    parts.push(part);
    done = part.va + (1 << part.order);
  });
  return parts;
}

/** The dense index of the part's own frames; -1 where they are not memory any more. */
function homeIndex(m: Machine, part: Part): number {
  const first = m.sections.indexOf(toPfn(part.va));
  const last = m.sections.indexOf(toPfn(part.va + (1 << part.order) - 1));
  return first >= 0 && last === first + (1 << part.order) - 1 ? first : -1;
}

/** May a page of this class lie in the pool's zone? */
const allows = (pool: Pool | undefined, part: Part): pool is Pool =>
  pool !== undefined && pool.zone <= CLASS_TRAITS[part.cls].topZone;

/** All of the part's own frames are held, it may lie there, and nobody is emptying the pageblock. */
export function isHomeHeld(k: KremapState, part: Part): boolean {
  const first = homeIndex(k.m, part);
  const pool = first < 0 ? undefined : k.m.poolAt(first);
  if (!allows(pool, part) || isIsolated(pool, first)) return false;
  for (let i = first; i < first + (1 << part.order); i++) if (!isHead(k.m, i) || !k.isHeld(i)) return false;
  return true;
}

/** Frames that are held for a part become its target. */
export const intoHeld =
  (k: KremapState): Place =>
  (parts) => {
    for (const part of parts) {
      part.to = homeIndex(k.m, part);
      for (let i = part.to; i < part.to + (1 << part.order); i++) k.unhold(i);
    }
    return () => {
      for (const part of parts) for (let i = part.to; i < part.to + (1 << part.order); i++) k.hold(i);
    };
  };

/** Free frames of isolated pageblocks become the target of the one part whose own they are. */
const intoIsolated =
  (k: KremapState): Place =>
  ([part]) => {
    if (part === undefined) return undefined;
    part.to = homeIndex(k.m, part);
    if (!takeExactly(k.m, part.to, part.order)) return undefined;
    return () => giveBack(k.m, part.to, part.order);
  };

/** Brings one page home to the frames that are held for it. */
export const goHome = (k: KremapState, part: Part): 'moved' | MoveFailure =>
  isHomeHeld(k, part) ? movePages(k, [part], intoHeld(k), { faults: 'ask' }) : 'no-target';

/**
 * The pageblocks of [start, end), frame numbers, are about to be used again: pages that were moved out of them come home,
 * in one go while all CPUs stand still. Where that cannot be (a pin), the frames are held. Cannot fail.
 */
export function undoEvacuation(k: KremapState, start: number, end: number): void {
  for (const part of displacedIn(k, start, end)) {
    const first = homeIndex(k.m, part);
    const pool = first < 0 ? undefined : k.m.poolAt(first);
    if (pool === undefined || !isIsolated(pool, first) || isHead(k.m, first)) continue;
    if (movePages(k, [part], intoIsolated(k), { faults: 'none' }) !== 'moved') holdFree(k, part.va, 1 << part.order);
  }
}

/** Frames in isolated pageblocks of [start, end) whose address is displaced are kept out of use. */
export function holdDisplaced(k: KremapState, start: number, end: number): void {
  for (const part of displacedIn(k, start, end)) {
    const first = homeIndex(k.m, part);
    if (first >= 0 && !isHead(k.m, first)) holdFree(k, part.va, 1 << part.order);
  }
}

function holdFree(k: KremapState, va: number, pages: number): void {
  for (let v = va; v < va + pages; v++) {
    const index = k.m.sections.indexOf(toPfn(v));
    if (takeExactly(k.m, index, 0)) k.hold(index);
  }
}

/**
 * [start, end) of the dense index comes online in `pool`; nothing of it is free yet. Pages whose addresses are there come
 * home, and are managed; frames whose address stays taken are held. Cannot fail: a page that cannot come stays where it is.
 *
 * @returns true when the range has allocations that it had not before, or no longer has
 */
export function comeHome(m: Machine, pool: Pool, start: number, end: number): boolean {
  const k = kremapOf(m);
  if (k === undefined || k.translation.displaced === 0) return false;
  const first: number = m.sections.pfnOf(start);
  const parts = displacedIn(k, first, first + end - start);
  for (const part of parts) {
    const own = homeIndex(m, part);
    // Frames that others have meanwhile (struct pages of the block itself, poison, what a driver never plugged) are no home.
    const frames = own < start ? [] : Array.from({ length: 1 << part.order }, (_, i) => own + i);
    const free = frames.length > 0 && frames.every((i) => i < end && (!isHead(m, i) || k.isHeld(i)));
    const came = free && allows(pool, part) && movePages(k, [part], entering(k, pool), { faults: 'ask' }) === 'moved';
    if (came) continue;
    for (const i of frames) if (i < end && m.sections.allocationAt(i) === undefined) enterHeld(k, pool, i);
  }
  return parts.length > 0;
}

function enterHeld(k: KremapState, pool: Pool, index: number): void {
  pool.managed += 1; // hold takes it out again
  k.hold(index);
}

/** Frames that come online, held or in nobody's hands, become the target; from then on they are managed. */
const entering =
  (k: KremapState, pool: Pool): Place =>
  (parts) => {
    const undo: Undo[] = [];
    for (const part of parts) {
      part.to = homeIndex(k.m, part);
      for (let i = part.to; i < part.to + (1 << part.order); i++) {
        if (isHead(k.m, i)) {
          k.unhold(i);
          undo.push(() => k.hold(i));
        } else {
          pool.managed += 1;
          undo.push(() => {
            pool.managed -= 1;
          });
        }
      }
    }
    return () => {
      for (const back of undo.reverse()) back();
    };
  };
