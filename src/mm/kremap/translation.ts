// Translation: where the kernel's virtual addresses are. Identity until the first page is displaced, and again after the last.
//
//   VA page v   named by the frame that it has by identity; lives on when its memory was removed
//   frame p     named by its number
//
//                     leafOf[section]        table[offset]
//   virtToPhys(v)  ──>  0: p = v            0: p = v      > 0: where v is      < 0: none, frame v serves another address
//   physToVirt(p)  ──>  0: v = p            0: v = p      < 0: whose p is      > 0: none, address p is elsewhere
//
//   column    row              width      meaning
//   leafOf    section number   Int32      1 + row of its leaf table; 0 = identity throughout
//   number    leaf table       Float64    section number; -1 = the row is free
//   table     leaf table       Int32 x 32768, 128 KiB, by offset in the section:
//                                0   address and frame are each other's
//                              > 0   1 + handle of the frame that the address leads to │ bit 30: by its second alias, too
//                              < 0   ~handle of the address that the frame serves
//   inLeaf    leaf table       Uint16 x 64   displaced addresses in each 2 MiB
//   used      leaf table       Int32      entries that are not 0; the table goes with the last
//   mine      leaf table       Uint8      1 = this machine may write it
//
//   handle = row << 15 | offset: 30 bits. A frame number has 40, and frames of 8 TiB up would not fit in 32 bits; a row
//   stays as long as an entry names it.
//
// An address is 1 load away when its section is identity, 2 when it is displaced (and one from the short column `number`).
// One table serves both directions, because a frame whose own address is displaced serves nobody: it has left, or is kept
// out of use until the address comes home (home.ts). Copies share leaf tables until one of the two writes.
//
// Invariants (check): R2 virtToPhys and physToVirt invert each other; R4 inLeaf is its recount; R5 one table for each
// section with an entry, and no other. Spec 9.C; Hansen 2005: "__{p,v}a() become more expensive, likely a table lookup".

import { assert } from '#base/assert';
import {
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
  PAGEBLOCKS_PER_SECTION,
  PAGES_PER_SECTION,
  SECTION_ORDER,
} from '../geometry.ts';

/** Bytes of one leaf table, and the frames that hold it. */
export const LEAF_TABLE_BYTES = 4 * PAGES_PER_SECTION;
export const LEAF_TABLE_PAGES = LEAF_TABLE_BYTES / 4096;

const OFFSET_MASK = PAGES_PER_SECTION - 1;
const IMAGE_BIT = 1 << 30;
const HANDLE_MASK = IMAGE_BIT - 1;
const MAX_ROWS = 1 << (30 - SECTION_ORDER); // 32768 sections, 4 TiB of memory with displaced pages
const FREE_ROW = -1;
const MAX_SMALL_PAGE = 2 ** 31 - 1;

assert(LEAF_TABLE_PAGES === 32, 'a leaf table is 128 KiB');

const sectionOf = (page: number): number => Math.floor(page / PAGES_PER_SECTION);
const offsetOf = (page: number): number => page % PAGES_PER_SECTION;

export class Translation {
  /** Addresses that lead to another frame than their own. */
  displaced = 0;
  /** Leaf tables. */
  leafTables = 0;
  #leafOf = new Int32Array(0);
  #number: number[] = [];
  #table: Int32Array[] = [];
  #inLeaf: Uint16Array[] = [];
  #used: number[] = [];
  #mine: boolean[] = [];

  /** The frame that an address leads to; -1 when it leads nowhere. Cost: 1 load, or 2. */
  virtToPhys(va: number): number {
    const entry = this.#entry(va);
    if (entry === 0) return va;
    return entry > 0 ? this.#pageOf((entry - 1) & HANDLE_MASK) : -1;
  }

  /** The address that leads to a frame; -1 when none does. Cost: 1 load, or 2. */
  physToVirt(pfn: number): number {
    const entry = this.#entry(pfn);
    if (entry === 0) return pfn;
    return entry < 0 ? this.#pageOf(~entry) : -1;
  }

  /** Is the address displaced? The frame of its own name then serves nobody. */
  isDisplaced(va: number): boolean {
    return this.#entry(va) > 0;
  }

  /** Has the address a second alias that was displaced with it? */
  hasImage(va: number): boolean {
    const entry = this.#entry(va);
    return entry > 0 && ((entry - 1) & IMAGE_BIT) !== 0;
  }

  /** Is there a leaf table for the section of this page? */
  covers(page: number): boolean {
    const s = sectionOf(page);
    return s < this.#leafOf.length && this.#leafOf[s] !== 0;
  }

  /** Displaced addresses in the 2 MiB around `va`. */
  displacedInLeaf(va: number): number {
    const row = this.#rowOf(va);
    return row < 0 ? 0 : ((this.#inLeaf[row] as Uint16Array)[offsetOf(va) >>> PAGEBLOCK_ORDER] as number);
  }

  /** `va`, so far identity, leads to `pfn`, whose own address is nobody's. Makes leaf tables where there are none. */
  pair(va: number, pfn: number, image: boolean): void {
    assert(va !== pfn && this.#entry(va) === 0 && this.#entry(pfn) === 0, 'an entry is taken', { va, pfn });
    const v = this.#ownRow(va);
    const p = this.#ownRow(pfn);
    const inLeaf = this.#inLeaf[v] as Uint16Array;
    (this.#table[v] as Int32Array)[offsetOf(va)] = 1 + ((p << SECTION_ORDER) | offsetOf(pfn) | (image ? IMAGE_BIT : 0));
    (this.#table[p] as Int32Array)[offsetOf(pfn)] = ~((v << SECTION_ORDER) | offsetOf(va));
    (this.#used[v] as number)++;
    (this.#used[p] as number)++;
    inLeaf[offsetOf(va) >>> PAGEBLOCK_ORDER] = (inLeaf[offsetOf(va) >>> PAGEBLOCK_ORDER] as number) + 1;
    this.displaced++;
  }

  /** `va` is identity again. Leaf tables without an entry go. */
  unpair(va: number): void {
    const pfn = this.virtToPhys(va);
    assert(this.isDisplaced(va), 'the address is not displaced', { va });
    const v = this.#ownRow(va);
    const p = this.#ownRow(pfn);
    const inLeaf = this.#inLeaf[v] as Uint16Array;
    (this.#table[v] as Int32Array)[offsetOf(va)] = 0;
    (this.#table[p] as Int32Array)[offsetOf(pfn)] = 0;
    inLeaf[offsetOf(va) >>> PAGEBLOCK_ORDER] = (inLeaf[offsetOf(va) >>> PAGEBLOCK_ORDER] as number) - 1;
    this.displaced--;
    this.#drop(v);
    this.#drop(p);
  }

  /** Calls back for each displaced address in [start, end), ascending. The callback may pair and unpair. */
  forEachDisplaced(start: number, end: number, each: (va: number, pfn: number) => void): void {
    for (const s of this.#sections()) {
      const first = s * PAGES_PER_SECTION;
      if (first >= end || first + PAGES_PER_SECTION <= start) continue;
      for (let leaf = 0; leaf < PAGEBLOCKS_PER_SECTION; leaf++) {
        const at = first + leaf * PAGEBLOCK_PAGES;
        if (this.displacedInLeaf(at) === 0) continue;
        for (let va = Math.max(at, start); va < Math.min(at + PAGEBLOCK_PAGES, end); va++) {
          if (this.isDisplaced(va)) each(va, this.virtToPhys(va));
        }
      }
    }
  }

  /** Numbers of the sections that have a leaf table, ascending. */
  #sections(): number[] {
    return this.#number.filter((n) => n !== FREE_ROW).sort((a, b) => a - b);
  }

  #pageOf(handle: number): number {
    return (this.#number[handle >>> SECTION_ORDER] as number) * PAGES_PER_SECTION + (handle & OFFSET_MASK);
  }

  #rowOf(page: number): number {
    const s = sectionOf(page);
    return s < this.#leafOf.length ? (this.#leafOf[s] as number) - 1 : -1;
  }

  #entry(page: number): number {
    // Frames below 8 TiB: integer arithmetic on 31 bits.
    const small = page <= MAX_SMALL_PAGE;
    const s = small ? page >>> SECTION_ORDER : sectionOf(page);
    const row1 = s < this.#leafOf.length ? (this.#leafOf[s] as number) : 0;
    if (row1 === 0) return 0;
    return (this.#table[row1 - 1] as Int32Array)[small ? page & OFFSET_MASK : offsetOf(page)] as number;
  }

  /** The page's leaf table: made, or copied, so that it may be written. */
  #ownRow(page: number): number {
    const s = sectionOf(page);
    let row = this.#rowOf(page);
    if (row >= 0) {
      if (this.#mine[row] !== true) {
        this.#table[row] = (this.#table[row] as Int32Array).slice();
        this.#inLeaf[row] = (this.#inLeaf[row] as Uint16Array).slice();
        this.#mine[row] = true;
      }
      return row;
    }
    if (s >= this.#leafOf.length) {
      const grown = new Int32Array(Math.max(s + 1, 2 * this.#leafOf.length));
      grown.set(this.#leafOf);
      this.#leafOf = grown;
    }
    row = this.#number.indexOf(FREE_ROW);
    if (row < 0) row = this.#number.length;
    assert(row < MAX_ROWS, 'too many sections have displaced pages', { rows: row });
    this.#leafOf[s] = row + 1;
    this.#number[row] = s;
    this.#table[row] = new Int32Array(PAGES_PER_SECTION);
    this.#inLeaf[row] = new Uint16Array(PAGEBLOCKS_PER_SECTION);
    this.#used[row] = 0;
    this.#mine[row] = true;
    this.leafTables++;
    return row;
  }

  /** One entry of the row is 0 again. */
  #drop(row: number): void {
    (this.#used[row] as number)--;
    if (this.#used[row] !== 0) return;
    this.#leafOf[this.#number[row] as number] = 0;
    this.#number[row] = FREE_ROW;
    this.#table[row] = new Int32Array(0);
    this.#inLeaf[row] = new Uint16Array(0);
    this.leafTables--;
  }

  /** An equal translation. Both copy a leaf table before they write it. Cost O(leaf tables + highest section). */
  copy(): Translation {
    const out = new Translation();
    this.#mine.fill(false);
    out.displaced = this.displaced;
    out.leafTables = this.leafTables;
    out.#leafOf = this.#leafOf.slice();
    out.#number = this.#number.slice();
    out.#table = this.#table.slice();
    out.#inLeaf = this.#inLeaf.slice();
    out.#used = this.#used.slice();
    out.#mine = this.#mine.slice();
    return out;
  }

  /** Bytes of leaf tables, shared ones included. */
  get bytes(): number {
    return this.leafTables * LEAF_TABLE_BYTES;
  }

  /** R2, R4 and R5 by looking at every entry; empty when sound. Cost O(leaf tables x 32768). */
  check(): string[] {
    const wrong: string[] = [];
    let displaced = 0;
    let tables = 0;
    for (let row = 0; row < this.#number.length; row++) {
      const s = this.#number[row] as number;
      if (s === FREE_ROW) continue;
      tables++;
      if (this.#leafOf[s] !== row + 1) wrong.push(`R5 leaf table ${row} is of section ${s}, which has another`);
      const table = this.#table[row] as Int32Array;
      const inLeaf = new Uint16Array(PAGEBLOCKS_PER_SECTION);
      let used = 0;
      for (let off = 0; off < PAGES_PER_SECTION; off++) {
        const entry = table[off] as number;
        if (entry === 0) continue;
        used++;
        const page = s * PAGES_PER_SECTION + off;
        const other = this.#pageOf(entry > 0 ? (entry - 1) & HANDLE_MASK : ~entry);
        const back = entry > 0 ? this.physToVirt(other) : this.virtToPhys(other);
        if (back !== page) wrong.push(`R2 ${entry > 0 ? 'address' : 'frame'} ${page} has ${other}, which has ${back}`);
        if (entry < 0) continue;
        displaced++;
        inLeaf[off >>> PAGEBLOCK_ORDER] = (inLeaf[off >>> PAGEBLOCK_ORDER] as number) + 1;
      }
      if (used === 0 || used !== this.#used[row])
        wrong.push(`R5 section ${s}: ${used} entries, counted ${this.#used[row]}`);
      const counted = this.#inLeaf[row] as Uint16Array;
      inLeaf.forEach((n, leaf) => {
        if (n !== counted[leaf]) wrong.push(`R4 section ${s}, leaf ${leaf}: ${n} displaced, counted ${counted[leaf]}`);
      });
    }
    if (displaced !== this.displaced) wrong.push(`R2 ${displaced} addresses are displaced, counted ${this.displaced}`);
    if (tables !== this.leafTables) wrong.push(`R5 ${tables} leaf tables, counted ${this.leafTables}`);
    return wrong;
  }
}
