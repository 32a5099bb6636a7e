// Sections and the frame columns: which frames exist, and what is known about each used one.
//
// Present sections get dense slots, so that holes cost nothing and table indexes stay below 2^31 while frame numbers
// may reach 2^40. A section's frame columns are made when the first of its frames gets a story; an idle section has
// none. Forks share them and copy one section's when they first write to it (copy on write).
//
//   PageIndex   slot << 15 | offset in section
//
//   per section                                          per frame k of a section that has columns (6 bytes)
//   column   width    meaning                            word            width   meaning
//   number   Float64  section number; -1 = slot is free  k               Uint16  meta, see below
//   shift    Float64  frame number minus index           32768 + 2k      Uint16  holder slot + 1 of a head, low half
//   words[]  Uint16[] frame columns, or undefined        32768 + 2k + 1  Uint16  high half; both 0 = none
//   mine     Uint8    1 = this machine may write them
//
// Metas lie together, so that the tails of a large allocation are one fill; a slot's halves lie together, so that
// reading one waits for one cache line. Measured: whole frames in rows of 6 bytes made single frames 5 % faster and
// allocations of order 9 seven times slower.
//
//   meta   15 ........ 9   8          7            6          5      4       3 ....... 0
//          contents tag    displaced  unevictable  writeback  dirty  pinned  kind: 0 nothing known (free, or not online)
//                                                                            1..11 head of an allocation, order kind - 1
//                                                                            12 tail of an allocation   13 absent: a hole
//
// Bits 4 to 8 are a head's and travel with it: an extra reference; what the page's user said of it (page-state.ts); and
// that its virtual address is not the frame's own (kremap/).
//
// Sections that are removed leave free slots, which the next ones take: the lowest run that is long enough, so that the
// sections of a memory block are always neighbours. Free slots at the end are given up.
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
export const META_DIRTY = 0x20;
export const META_WRITEBACK = 0x40;
export const META_UNEVICTABLE = 0x80;
export const META_DISPLACED = 0x100;
/** All that a head says besides its kind and tag. */
export const META_STATE = META_PINNED | META_DIRTY | META_WRITEBACK | META_UNEVICTABLE | META_DISPLACED;
export const TAG_SHIFT = 9;
export const TAG_BITS = 7;

/** Where the slots begin in a section's frame columns, and how many words it has. */
export const SLOTS_AT = PAGES_PER_SECTION;
const WORDS = 3 * PAGES_PER_SECTION;
const OFFSET_MASK = PAGES_PER_SECTION - 1;

/** No slot: the frame's section is not present. */
const NO_SLOT = -1;
/** No section: the slot is free. */
export const FREE_SLOT = -1;
/** Frames below 8 TiB: integer arithmetic on 31 bits. */
const MAX_SMALL_PFN = 2 ** 31 - 1;

export class Sections {
  /** Slots, free ones included; the last one is in use. */
  length = 0;
  /** Section number of each slot. */
  number: Float64Array;
  /** Frame number minus index, for each slot. */
  shift: Float64Array;
  words: (Uint16Array | undefined)[] = [];
  mine: Uint8Array;
  /** Slot of each section number below the highest present one, plus one; 0 = absent. */
  #slot: Int32Array;
  /** Free slots below length. */
  #free = 0;

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
    return this.addRun(number, 1);
  }

  /** Makes `count` sections from `first` on present, in neighbouring slots. @returns the first. Cost O(slots) at worst. */
  addRun(first: number, count: number): number {
    assert(first >= 0 && first + count <= MAX_PFN / PAGES_PER_SECTION, 'section out of range', { first, count });
    for (let k = 0; k < count; k++) {
      assert(this.slotOf(first + k) === NO_SLOT, 'section is present already', { number: first + k });
    }
    const slot = this.#freeRun(count);
    this.#reserve(first + count, slot + count);
    for (let k = 0; k < count; k++) {
      this.number[slot + k] = first + k;
      this.shift[slot + k] = (first - slot) * PAGES_PER_SECTION;
      this.#slot[first + k] = slot + k + 1;
      this.words[slot + k] = undefined;
      this.mine[slot + k] = 1;
    }
    if (slot + count > this.length) this.length = slot + count;
    else this.#free -= count;
    return slot;
  }

  /** Section `number` is gone, and what was known of its frames. Cost O(1) amortised. */
  remove(number: number): void {
    const slot = this.slotOf(number);
    assert(slot !== NO_SLOT, 'section is not present', { number });
    this.number[slot] = FREE_SLOT;
    this.shift[slot] = 0;
    this.#slot[number] = 0;
    this.words[slot] = undefined;
    this.#free++;
    while (this.length > 0 && this.number[this.length - 1] === FREE_SLOT) {
      this.length--;
      this.#free--;
    }
    this.words.length = this.length;
  }

  /** The lowest run of `count` free slots; else the end. */
  #freeRun(count: number): number {
    if (this.#free < count) return this.length;
    let run = 0;
    for (let slot = 0; slot < this.length; slot++) {
      run = this.number[slot] === FREE_SLOT ? run + 1 : 0;
      if (run === count) return slot + 1 - count;
    }
    return this.length;
  }

  /** Room for section numbers below `numbers` and slots below `slots`. */
  #reserve(numbers: number, slots: number): void {
    if (numbers > this.#slot.length) {
      const grown = new Int32Array(Math.max(numbers, 2 * this.#slot.length));
      grown.set(this.#slot);
      this.#slot = grown;
    }
    if (slots <= this.number.length) return;
    const capacity = Math.max(slots, 2 * this.number.length);
    const number = new Float64Array(capacity);
    number.set(this.number);
    this.number = number;
    const shift = new Float64Array(capacity);
    shift.set(this.shift);
    this.shift = shift;
    const mine = new Uint8Array(capacity);
    mine.set(this.mine);
    this.mine = mine;
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

  /** A frame's meta word; 0 where its section has no columns. */
  metaAt(index: number): number {
    const words = this.words[index >>> SECTION_ORDER];
    return words === undefined ? 0 : (words[index & OFFSET_MASK] as number);
  }

  /** The first frame in [index, end) of which anything is known; `end` when there is none. Cost O(sections), small. */
  nextKnown(index: number, end: number): number {
    for (let i = index; i < end; ) {
      const s = i >>> SECTION_ORDER;
      const next = (s + 1) << SECTION_ORDER;
      const words = this.words[s];
      if (words !== undefined) {
        const stop = end < next ? end & OFFSET_MASK : PAGES_PER_SECTION;
        let k = i & OFFSET_MASK;
        while (k < stop && words[k] === 0) k++;
        if (k < stop) return (s << SECTION_ORDER) | k;
      }
      i = next;
    }
    return end;
  }

  /** A head's holder slot; -1 for frames that have none. */
  ownerAt(index: number): number {
    const words = this.words[index >>> SECTION_ORDER];
    if (words === undefined) return -1;
    const k = SLOTS_AT + 2 * (index & OFFSET_MASK);
    return ((words[k] as number) | ((words[k + 1] as number) << 16)) - 1;
  }

  /** Columns of the section that holds a frame, made or copied so that they may be written. */
  wordsFor(index: number): Uint16Array {
    const s = index >>> SECTION_ORDER;
    if (this.mine[s] === 0 || this.words[s] === undefined) this.#own(s);
    return this.words[s] as Uint16Array;
  }

  setMeta(index: number, meta: number): void {
    this.wordsFor(index)[index & OFFSET_MASK] = meta;
  }

  /** Writes an allocation: its head with the slot, its tails. `tag` is in place, shifted. */
  occupy(index: number, order: number, slot: number, tag: number): void {
    const words = this.wordsFor(index);
    const off = index & OFFSET_MASK;
    const k = SLOTS_AT + 2 * off;
    words[off] = (KIND_HEAD0 + order) | tag;
    words[k] = slot + 1;
    words[k + 1] = (slot + 1) >>> 16;
    if (order > 0) words.fill(KIND_TAIL | tag, off + 1, off + (1 << order));
  }

  /** Nothing is known of these frames any more. */
  vacate(index: number, order: number): void {
    const words = this.wordsFor(index);
    const off = index & OFFSET_MASK;
    const k = SLOTS_AT + 2 * off;
    words[k] = 0;
    words[k + 1] = 0;
    words[off] = 0;
    if (order > 0) words.fill(0, off, off + (1 << order));
  }

  /**
   * The common case of vacate, in one look: a single frame's columns are cleared.
   * @returns its slot; -1, and nothing is changed, for any other frame, a displaced one, and columns that a fork shares
   */
  vacateSingle(index: number): number {
    const s = index >>> SECTION_ORDER;
    const words = this.words[s];
    if (words === undefined || this.mine[s] === 0) return -1;
    const off = index & OFFSET_MASK;
    if (((words[off] as number) & (KIND_MASK | META_DISPLACED)) !== KIND_HEAD0) return -1;
    const k = SLOTS_AT + 2 * off;
    const slot = ((words[k] as number) | ((words[k + 1] as number) << 16)) - 1;
    words[off] = 0;
    words[k] = 0;
    words[k + 1] = 0;
    return slot;
  }

  /** Copies an allocation's columns: head, tails, tags and slot, so that a frame that was missed shows in check(). */
  copy(from: number, to: number, order: number): void {
    const target = this.wordsFor(to);
    const source = this.words[from >>> SECTION_ORDER] as Uint16Array; // an allocation has columns
    const a = from & OFFSET_MASK;
    const b = to & OFFSET_MASK;
    for (let k = 0; k < 1 << order; k++) target[b + k] = source[a + k] as number;
    target[SLOTS_AT + 2 * b] = source[SLOTS_AT + 2 * a] as number;
    target[SLOTS_AT + 2 * b + 1] = source[SLOTS_AT + 2 * a + 1] as number;
  }

  /** Makes a section's columns writable here: creates them, or copies those that are shared with a fork. */
  #own(slot: number): void {
    const words = this.words[slot];
    this.words[slot] = words === undefined ? new Uint16Array(WORDS) : words.slice();
    this.mine[slot] = 1;
  }

  /** Becomes equal to `other`, sharing its columns; from now on both copy before they write. Cost O(sections). */
  share(other: Sections): void {
    other.mine.fill(0, 0, other.length);
    this.length = other.length;
    this.#free = other.#free;
    this.number = other.number.slice();
    this.shift = other.shift.slice();
    this.#slot = other.#slot.slice();
    this.mine = new Uint8Array(this.number.length);
    this.words = other.words.slice();
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
      n += this.words[s]?.byteLength ?? 0;
    }
    return n;
  }
}
