// Frame owners: which pool each frame belongs to, and which zone labels it.
//
//   PageIndex >>> 9 ──> owner   pool id            one pool has the whole pageblock (nearly always)
//                               -1   NOBODY        offline, or no RAM
//                               -2   MIXED    ──>  mixed.get(pageblock)[index & 511]: pool id of each frame
//                   ──> zone    id of the zone pool whose label its frames bear; -1 = offline
//
//   column   type    length       meaning                                   bytes a GiB of memory
//   owner    Int16   pageblocks   see above                                 1024
//   zone     Int16   pageblocks   see above                                 1024
//   mixed    Int16   512 each     only for pageblocks that pools share      1024 each
//
// Without user pools the two columns are equal. A pageblock that a zone border cuts belongs to the zone of its first frame
// (Linux's borders are aligned). A label changes only as memory goes offline or comes online.
//
// Invariants: FO1 `mixed` has a row exactly for the pageblocks that say MIXED, and no row names one pool throughout;
// FO2 owner is NOBODY exactly where zone is. After Snook 2007: pools are exclusive of each other.

import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';

export const NOBODY = -1;
export const MIXED = -2;

const OFFSET = PAGEBLOCK_PAGES - 1;

export class FrameOwners {
  owner: Int16Array;
  zone: Int16Array;
  readonly mixed = new Map<number, Int16Array>();

  constructor(pageblocks: number) {
    this.owner = new Int16Array(pageblocks).fill(NOBODY);
    this.zone = new Int16Array(pageblocks).fill(NOBODY);
  }

  /** Pool id of a frame, or NOBODY. */
  at(index: number): number {
    const id = this.owner[index >>> PAGEBLOCK_ORDER] as number;
    return id === MIXED ? (this.mixed.get(index >>> PAGEBLOCK_ORDER)?.[index & OFFSET] ?? NOBODY) : id;
  }

  /** Zone pool's id that labels a frame, or NOBODY. */
  zoneAt(index: number): number {
    return this.zone[index >>> PAGEBLOCK_ORDER] as number;
  }

  /** Pageblocks [first, end) come to a zone, or to NOBODY: label and owner. No user pool has frames of them. */
  setZone(first: number, end: number, id: number): void {
    this.owner.fill(id, first, end);
    this.zone.fill(id, first, end);
  }

  /** Frames [start, end) get an owner; labels stay. Cost O(pageblocks), and O(512) for one that is cut. */
  setOwner(start: number, end: number, id: number): void {
    for (let i = start; i < end; ) {
      const block = i >>> PAGEBLOCK_ORDER;
      const next = Math.min(end, (block + 1) << PAGEBLOCK_ORDER);
      if (next - i === PAGEBLOCK_PAGES) {
        if (this.owner[block] === MIXED) this.mixed.delete(block);
        this.owner[block] = id;
      } else this.#setPart(block, i & OFFSET, next - (block << PAGEBLOCK_ORDER), id);
      i = next;
    }
  }

  #setPart(block: number, from: number, to: number, id: number): void {
    const whole = this.owner[block] as number;
    if (whole === id) return;
    let row = this.mixed.get(block);
    if (row === undefined) {
      row = new Int16Array(PAGEBLOCK_PAGES).fill(whole);
      this.mixed.set(block, row);
      this.owner[block] = MIXED;
    }
    row.fill(id, from, to);
    for (const other of row) if (other !== id) return;
    this.mixed.delete(block);
    this.owner[block] = id;
  }

  /** Has the pool a frame of the pageblock? Cost O(1), O(512) for one that pools share. */
  has(block: number, id: number): boolean {
    const owner = this.owner[block] as number;
    return owner === MIXED ? (this.mixed.get(block)?.includes(id) ?? false) : owner === id;
  }

  /** Ids of the pools that have frames in [start, end), ascending. Cost O(pageblocks). */
  ownersIn(start: number, end: number): number[] {
    const ids = new Set<number>();
    for (let block = start >>> PAGEBLOCK_ORDER; block < Math.ceil(end / PAGEBLOCK_PAGES); block++) {
      const id = this.owner[block] as number;
      if (id >= 0) ids.add(id);
      else if (id === MIXED) for (const one of this.mixed.get(block) ?? []) ids.add(one);
    }
    return [...ids].sort((a, b) => a - b);
  }

  /** Calls back for each run of [start, end) that has one owner, ascending; a run may end at a pageblock's border. */
  forEachRun(start: number, end: number, each: (from: number, to: number, id: number) => void): void {
    for (let i = start; i < end; ) {
      const block = i >>> PAGEBLOCK_ORDER;
      const id = this.at(i);
      let next = i + 1;
      if (this.owner[block] === MIXED) {
        const stop = Math.min(end, (block + 1) << PAGEBLOCK_ORDER);
        while (next < stop && this.at(next) === id) next++;
      } else {
        next = (block + 1) << PAGEBLOCK_ORDER;
        while (next < end && this.owner[next >>> PAGEBLOCK_ORDER] === id) next += PAGEBLOCK_PAGES;
        next = Math.min(end, next);
      }
      each(i, next, id);
      i = next;
    }
  }

  /** The tables cover `pageblocks`; new ones belong to nobody. */
  grow(pageblocks: number): void {
    if (this.owner.length >= pageblocks) return;
    const length = Math.max(pageblocks, 2 * this.owner.length);
    const grown = (old: Int16Array): Int16Array => {
      const out = new Int16Array(length).fill(NOBODY);
      out.set(old);
      return out;
    };
    this.owner = grown(this.owner);
    this.zone = grown(this.zone);
  }

  copyFrom(other: FrameOwners): void {
    this.owner = other.owner.slice();
    this.zone = other.zone.slice();
    this.mixed.clear();
    for (const [block, row] of other.mixed) this.mixed.set(block, row.slice());
  }

  bytes(): number {
    return this.owner.byteLength + this.zone.byteLength + this.mixed.size * PAGEBLOCK_PAGES * 2;
  }
}
