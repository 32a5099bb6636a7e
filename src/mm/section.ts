// Sections and the frame columns: which frames exist, and what is known about each used one.
//
// Present sections get dense slots, so that holes cost nothing and table indexes stay below 2^31 while frame numbers
// may reach 2^40. A section's rows are made when the first of its frames gets a story; an idle section has none. Forks share rows and copy one section's when they first write to it (copy on write).
//
//   PageIndex   slot << 15 | offset in section
//
//   per section                                          per frame of a section that has rows (6 bytes, in one place:
//   column   width    meaning                            a free reads all three, and memory is what it waits for)
//   number   Float64  section number, pfn >> 15          offset  width   meaning
//   shift    Float64  frame number minus index           3k      Uint16  meta, see below
//   rows[]   Uint16[] its frames, or undefined           3k + 1  Uint16  holder slot + 1 of a head, low half; 0 = none
//   mine     Uint8    1 = this machine may write them    3k + 2  Uint16  high half
//
//   meta   15 .............. 5   4       3 ....... 0
//          contents tag          pinned  kind: 0 nothing known (free, or not online)
//                                              1..11 head of an allocation of order kind - 1
//                                              12 tail of an allocation   13 absent: a hole
//
// Invariants: S1 number[slot] is unique and slotOf inverts it; S2 shift = (number - slot) * 32768; S3 a head's 2^order
// frames lie in one section and all others of them are tails; S4 shared columns are never written.

import { assert } from '#base/assert';
import { type PageIndex, type Pfn, toPageIndex, toPfn } from '#base/units';
import { MAX_PFN, PAGES_PER_SECTION, SECTION_ORDER } from './geometry.ts';

export const KIND_MASK = 0x0f;
export const KIND_NONE = 0;
export const KIND_HEAD0 = 1; // head of order o is KIND_HEAD0 + o
export const KIND_TAIL = 12;
export const KIND_ABSENT = 13;
export const META_PINNED = 0x10;
export const TAG_SHIFT = 5;
export const TAG_BITS = 11;

/** Words of a frame's row. */
export const ROW = 3;
const OFFSET_MASK = PAGES_PER_SECTION - 1;

/** No slot: the frame's section is not present. */
const NO_SLOT = -1;
/** Frames below 8 TiB: integer arithmetic on 31 bits. */
const MAX_SMALL_PFN = 2 ** 31 - 1;

export class Sections {
  /** Slots in use. */
  length = 0;
  /** Section number of each slot. */
  number: Float64Array;
  /** Frame number minus index, for each slot. */
  shift: Float64Array;
  rows: (Uint16Array | undefined)[] = [];
  mine: Uint8Array;
  /** Slot of each section number below the highest present one, plus one; 0 = absent. */
  #slot: Int32Array;

  constructor(sections: number) {
    this.number = new Float64Array(Math.max(16, sections));
    this.shift = new Float64Array(this.number.length);
    this.mine = new Uint8Array(this.number.length);
    this.#slot = new Int32Array(64);
  }

  /** Frames that have an index. */
  get frames(): number {
    return this.length * PAGES_PER_SECTION;
  }

  /** Makes section `number` present. @returns its slot. Cost O(1) amortised. */
  add(number: number): number {
    assert(number >= 0 && number < MAX_PFN / PAGES_PER_SECTION, 'section out of range', { number });
    assert(this.slotOf(number) === NO_SLOT, 'section is present already', { number });
    if (number >= this.#slot.length) {
      const grown = new Int32Array(Math.max(number + 1, 2 * this.#slot.length));
      grown.set(this.#slot);
      this.#slot = grown;
    }
    if (this.length === this.number.length) {
      const number2 = new Float64Array(2 * this.length);
      number2.set(this.number);
      this.number = number2;
      const shift2 = new Float64Array(2 * this.length);
      shift2.set(this.shift);
      this.shift = shift2;
      const mine2 = new Uint8Array(2 * this.length);
      mine2.set(this.mine);
      this.mine = mine2;
    }
    const slot = this.length++;
    this.number[slot] = number;
    this.shift[slot] = (number - slot) * PAGES_PER_SECTION;
    this.#slot[number] = slot + 1;
    this.rows.push(undefined);
    this.mine[slot] = 1;
    return slot;
  }

  slotOf(number: number): number {
    return number < this.#slot.length ? (this.#slot[number] as number) - 1 : NO_SLOT;
  }

  /** Index of a frame; -1 where its section is not present. */
  indexOf(pfn: Pfn): PageIndex | -1 {
    if (pfn <= MAX_SMALL_PFN) {
      const n = pfn >>> SECTION_ORDER;
      const slot1 = n < this.#slot.length ? (this.#slot[n] as number) : 0;
      return slot1 === 0 ? -1 : toPageIndex(((slot1 - 1) << SECTION_ORDER) | (pfn & (PAGES_PER_SECTION - 1)));
    }
    const number = Math.floor(pfn / PAGES_PER_SECTION);
    const slot = this.slotOf(number);
    if (slot === NO_SLOT) return -1;
    return toPageIndex(slot * PAGES_PER_SECTION + (pfn - number * PAGES_PER_SECTION));
  }

  pfnOf(index: number): Pfn {
    return toPfn((this.shift[index >>> SECTION_ORDER] as number) + index);
  }

  /** A frame's meta word; 0 where its section has no rows. */
  metaAt(index: number): number {
    const rows = this.rows[index >>> SECTION_ORDER];
    return rows === undefined ? 0 : (rows[ROW * (index & OFFSET_MASK)] as number);
  }

  /** A head's holder slot; -1 for frames that have none. */
  ownerAt(index: number): number {
    const rows = this.rows[index >>> SECTION_ORDER];
    if (rows === undefined) return -1;
    const k = ROW * (index & OFFSET_MASK);
    return ((rows[k + 1] as number) | ((rows[k + 2] as number) << 16)) - 1;
  }

  /** Rows of the section that holds a frame, made or copied so that they may be written. */
  rowsFor(index: number): Uint16Array {
    const s = index >>> SECTION_ORDER;
    if (this.mine[s] === 0 || this.rows[s] === undefined) this.#own(s);
    return this.rows[s] as Uint16Array;
  }

  setMeta(index: number, meta: number): void {
    this.rowsFor(index)[ROW * (index & OFFSET_MASK)] = meta;
  }

  /** Writes an allocation: its head with the slot, its tails. `tag` is in place, shifted. */
  occupy(index: number, order: number, slot: number, tag: number): void {
    const rows = this.rowsFor(index);
    const k = ROW * (index & OFFSET_MASK);
    rows[k] = (KIND_HEAD0 + order) | tag;
    rows[k + 1] = slot + 1;
    rows[k + 2] = (slot + 1) >>> 16;
    const end = k + (ROW << order);
    for (let t = k + ROW; t < end; t += ROW) rows[t] = KIND_TAIL | tag;
  }

  /** Nothing is known of these frames any more. */
  vacate(index: number, order: number): void {
    const rows = this.rowsFor(index);
    const k = ROW * (index & OFFSET_MASK);
    rows[k + 1] = 0;
    rows[k + 2] = 0;
    const end = k + (ROW << order);
    for (let t = k; t < end; t += ROW) rows[t] = 0;
  }

  /**
   * The common case of vacate, in one look: a single frame's row is cleared.
   * @returns its slot; -1, and nothing is changed, for any other frame and for rows that a fork shares
   */
  vacateSingle(index: number): number {
    const s = index >>> SECTION_ORDER;
    const rows = this.rows[s];
    if (rows === undefined || this.mine[s] === 0) return -1;
    const k = ROW * (index & OFFSET_MASK);
    if (((rows[k] as number) & KIND_MASK) !== KIND_HEAD0) return -1;
    const slot = ((rows[k + 1] as number) | ((rows[k + 2] as number) << 16)) - 1;
    rows[k] = 0;
    rows[k + 1] = 0;
    rows[k + 2] = 0;
    return slot;
  }

  /** Copies the rows of an allocation: head, tails, tags and slot, so that a frame that was missed shows in check(). */
  copy(from: number, to: number, order: number): void {
    const target = this.rowsFor(to);
    const source = this.rows[from >>> SECTION_ORDER] as Uint16Array; // an allocation has rows
    const a = ROW * (from & OFFSET_MASK);
    const b = ROW * (to & OFFSET_MASK);
    for (let k = 0; k < ROW << order; k++) target[b + k] = source[a + k] as number;
  }

  /** Makes a section's rows writable here: creates them, or copies those that are shared with a fork. */
  #own(slot: number): void {
    const rows = this.rows[slot];
    this.rows[slot] = rows === undefined ? new Uint16Array(ROW * PAGES_PER_SECTION) : rows.slice();
    this.mine[slot] = 1;
  }

  /** Becomes equal to `other`, sharing its columns; from now on both copy before they write. Cost O(sections). */
  share(other: Sections): void {
    other.mine.fill(0, 0, other.length);
    this.length = other.length;
    this.number = other.number.slice();
    this.shift = other.shift.slice();
    this.#slot = other.#slot.slice();
    this.mine = new Uint8Array(this.number.length);
    this.rows = other.rows.slice();
  }

  /** Order of the allocation that covers a frame and its head; undefined for a frame that is not allocated. */
  allocationAt(index: number): { head: PageIndex; order: number } | undefined {
    const kind = this.metaAt(index) & KIND_MASK;
    if (kind >= KIND_HEAD0 && kind < KIND_TAIL) return { head: toPageIndex(index), order: kind - KIND_HEAD0 };
    if (kind !== KIND_TAIL) return undefined;
    for (let order = 1; order < KIND_TAIL - KIND_HEAD0; order++) {
      const head = index - (index & ((1 << order) - 1));
      const headKind = this.metaAt(head) & KIND_MASK;
      if (headKind !== KIND_TAIL) {
        assert(headKind - KIND_HEAD0 >= order, 'a tail lies outside its head', { index, head, headKind });
        return { head: toPageIndex(head), order: headKind - KIND_HEAD0 };
      }
    }
    assert(false, 'a tail has no head', { index });
  }

  /** Bytes of tables, shared columns included. */
  bytes(): number {
    let n = 2 * this.number.byteLength + this.mine.byteLength + this.#slot.byteLength;
    for (let s = 0; s < this.length; s++) {
      n += this.rows[s]?.byteLength ?? 0;
    }
    return n;
  }
}
