// Holders: whoever uses frames and can be asked about them. From a frame to its holder and back, in a few loads.
//
// Each holder has an index space (a file's offsets, a process's pages); its members are allocations, one index each.
// A member has a *slot*: slots come in runs of 64, a run belongs to one holder and covers 64 neighbouring indexes,
// like a page table covers addresses. The frame's head stores the slot (section.ts), the slot stores the frame:
//
//        frame  ──owner column──>  slot  ──slot >> 6──>  run: holder, base     (whose is it, at which index)
//        frame  <──frame table───  slot                                        (where is the holder's index k)
//
//   table    row      column   width   meaning
//   slots    slot     frame    Int32   PageIndex of the member's head; < 0: free, ~(next free slot) - 1; -1 ends
//                                      (that is -(next + 2), without a negation that could yield -0)
//   runs     slot>>6  holder   Int32   owner of the 64 slots
//                     base     Int32   first index of the run, divided by 64
//                     next     Int32   next run of the holder, -1 none
//   holders  id       class, name, node, members, pages, free slot, first and last run
//
// About 4.2 bytes a member. The slot table is kept in pages of 64 Ki slots, shared between forks until written.
// Invariants: H1 frame[slot] = head <=> owner(head) = slot; H2 members and pages equal a recount; H3 every free slot
// of a holder is on its list exactly once.
//
// After Hansen 2004: "given any random page in the system, we'll need to be able to see what's being done with it".

import { assert } from '#base/assert';
import { type HolderId, toHolderId } from '#base/units';
import { MIGRATE_MOVABLE, MIGRATE_UNMOVABLE } from './geometry.ts';
import type { KernelClass } from './kernel-class.ts';
import { CLASS_TRAITS, PAGE_CLASSES, type PageClass, ZONE_NORMAL } from './page-class.ts';

/** Fields of Holders.request. */
export const REQUEST_TYPE_MASK = 7;
export const REQUEST_ZONE_SHIFT = 3;
export const REQUEST_ZONE_MASK = 3;
export const REQUEST_UNMANAGED = 0x20;
export const REQUEST_MOVES = 0x40;
export const REQUEST_STAYS = 0x80;
export const REQUEST_WRITES_BACK = 0x100;

const RUN_SHIFT = 6;
const RUN_SLOTS = 1 << RUN_SHIFT; // 64
const RUN_MASK = RUN_SLOTS - 1;
const TABLE_SHIFT = 16;
const TABLE_SLOTS = 1 << TABLE_SHIFT; // 65536 slots = 256 KiB
const TABLE_MASK = TABLE_SLOTS - 1;
const MAX_SLOTS = 2 ** 31 - TABLE_SLOTS;

const grow = (old: Int32Array<ArrayBuffer>, length: number): Int32Array<ArrayBuffer> => {
  if (length <= old.length) return old;
  const out = new Int32Array(Math.max(length, 2 * old.length));
  out.set(old);
  return out;
};

export type HolderSpec = {
  readonly class: PageClass;
  /** For people: "postgres", "/var/log/syslog", "kernel image". Need not be unique. */
  readonly name: string;
  /** Node that its allocations prefer; -1 = none. */
  readonly node: number;
  /** False: no process has its pages in its page tables, so that clean ones may be dropped. Default: by class (page-state.ts). */
  readonly mapped?: boolean;
  /** How remapping moves its pages, where the class alone does not say (kernel-class.ts). */
  readonly kernel?: KernelClass;
  /**
   * The owner's word against its class's: true, it moves these pages when asked (Linux's movable_ops), and requests for them
   * are __GFP_MOVABLE; false, they stay where they are, and requests are not. Default: by class. See reclassify.ts.
   */
  readonly moves?: boolean;
  /** False: a file system without a migrate callback, whose dirty pages are written back before they move. Default true. */
  readonly migrateCallback?: boolean;
};

/** The word of Holders.request. */
function requestOf(spec: HolderSpec): number {
  const { migratetype, topZone, managed } = CLASS_TRAITS[spec.class];
  assert(managed || spec.moves !== true, 'frames that are not managed have no owner who moves them', spec);
  const type = spec.moves === undefined ? migratetype : spec.moves ? MIGRATE_MOVABLE : MIGRATE_UNMOVABLE;
  const zone = spec.moves === false ? Math.min(topZone, ZONE_NORMAL) : topZone;
  let word = type | (zone << REQUEST_ZONE_SHIFT) | (managed ? 0 : REQUEST_UNMANAGED);
  if (spec.moves !== undefined) word |= spec.moves ? REQUEST_MOVES : REQUEST_STAYS;
  if (spec.migrateCallback === false) word |= REQUEST_WRITES_BACK;
  return word;
}

export class Holders {
  length = 0;
  specs: HolderSpec[] = [];
  /** Index into PAGE_CLASSES. */
  classIndex = new Int32Array(16);
  /** Node that its allocations prefer; -1 = none. */
  node = new Int32Array(16);
  /**
   * What its class asks for, in one word, so that a request loads one number:
   *   bit 8 dirty pages are written back to be moved │ 7 its owner says they stay │ 6 its owner moves them
   *   5 frames not managed │ 4 3 highest zone │ 2 1 0 migratetype
   */
  request = new Int32Array(16);
  /** Allocations held, and their frames. */
  members = new Int32Array(16);
  pages = new Int32Array(16);
  #freeSlot = new Int32Array(16);
  #firstRun = new Int32Array(16);
  #lastRun = new Int32Array(16);

  #runs = 0;
  #runHolder = new Int32Array(64);
  #runBase = new Int32Array(64);
  #runNext = new Int32Array(64);

  #tables: Int32Array[] = [];
  /** 1 = this machine may write the table. */
  #tableMine = new Uint8Array(64);

  /** A new holder with nothing. Cost O(1) amortised. */
  add(spec: HolderSpec): HolderId {
    const h = this.length++;
    this.classIndex = grow(this.classIndex, this.length);
    this.node = grow(this.node, this.length);
    this.request = grow(this.request, this.length);
    this.members = grow(this.members, this.length);
    this.pages = grow(this.pages, this.length);
    this.#freeSlot = grow(this.#freeSlot, this.length);
    this.#firstRun = grow(this.#firstRun, this.length);
    this.#lastRun = grow(this.#lastRun, this.length);
    this.specs.push(Object.freeze({ ...spec }));
    const classIndex = PAGE_CLASSES.indexOf(spec.class);
    assert(classIndex >= 0, 'unknown page class', { class: spec.class });
    this.classIndex[h] = classIndex;
    this.node[h] = spec.node;
    this.request[h] = requestOf(spec);
    this.#freeSlot[h] = -1;
    this.#firstRun[h] = -1;
    this.#lastRun[h] = -1;
    return toHolderId(h);
  }

  /** Gives the holder one more member: `pages` frames whose head is `frame`. @returns the member's slot. */
  attach(h: number, frame: number, pages: number): number {
    let slot = this.#freeSlot[h] as number;
    if (slot < 0) slot = this.#addRun(h);
    const t = slot >>> TABLE_SHIFT;
    if (this.#tableMine[t] === 0) this.#ownTable(t);
    const table = this.#tables[t] as Int32Array;
    this.#freeSlot[h] = ~(table[slot & TABLE_MASK] as number) - 1;
    table[slot & TABLE_MASK] = frame;
    this.members[h] = (this.members[h] as number) + 1;
    this.pages[h] = (this.pages[h] as number) + pages;
    return slot;
  }

  /** Takes a member away. @returns its holder. */
  detach(slot: number, pages: number): number {
    const h = this.#runHolder[slot >>> RUN_SHIFT] as number;
    const t = slot >>> TABLE_SHIFT;
    if (this.#tableMine[t] === 0) this.#ownTable(t);
    (this.#tables[t] as Int32Array)[slot & TABLE_MASK] = ~(this.#freeSlot[h] as number) - 1;
    this.#freeSlot[h] = slot;
    this.members[h] = (this.members[h] as number) - 1;
    this.pages[h] = (this.pages[h] as number) - pages;
    return h;
  }

  /** The member moved: its head is `frame` now (the holder's "page table entry"). */
  move(slot: number, frame: number): void {
    const t = slot >>> TABLE_SHIFT;
    if (this.#tableMine[t] === 0) this.#ownTable(t);
    (this.#tables[t] as Int32Array)[slot & TABLE_MASK] = frame;
  }

  /** True for a slot that some holder has, used or free. For check(), which must not trust what it reads. */
  has(slot: number): boolean {
    return slot >= 0 && slot < this.#runs * RUN_SLOTS;
  }

  holderOf(slot: number): HolderId {
    return toHolderId(this.#runHolder[slot >>> RUN_SHIFT] as number);
  }

  /** The member's index in its holder. */
  indexOf(slot: number): number {
    return (this.#runBase[slot >>> RUN_SHIFT] as number) * RUN_SLOTS + (slot & RUN_MASK);
  }

  /** Head frame of a slot; negative when the slot is free. */
  frameAt(slot: number): number {
    return (this.#tables[slot >>> TABLE_SHIFT] as Int32Array)[slot & TABLE_MASK] as number;
  }

  /** Slot of the holder's index; -1 when it has no such member. Cost O(runs of the holder). */
  slotAt(h: number, index: number): number {
    for (let run = this.#firstRun[h] as number; run >= 0; run = this.#runNext[run] as number) {
      if (this.#runBase[run] !== index >>> RUN_SHIFT) continue;
      const slot = run * RUN_SLOTS + (index & RUN_MASK);
      return this.frameAt(slot) >= 0 ? slot : -1;
    }
    return -1;
  }

  /** Calls back for each member, ascending by index. */
  forEachMember(h: number, each: (frame: number, index: number, slot: number) => void): void {
    for (let run = this.#firstRun[h] as number; run >= 0; run = this.#runNext[run] as number) {
      const base = (this.#runBase[run] as number) * RUN_SLOTS;
      for (let k = 0; k < RUN_SLOTS; k++) {
        const slot = run * RUN_SLOTS + k;
        const frame = this.frameAt(slot);
        if (frame >= 0) each(frame, base + k, slot);
      }
    }
  }

  #addRun(h: number): number {
    const run = this.#runs++;
    const slot0 = run * RUN_SLOTS;
    assert(slot0 < MAX_SLOTS, 'the slot table is full', { slots: slot0 });
    this.#runHolder = grow(this.#runHolder, this.#runs);
    this.#runBase = grow(this.#runBase, this.#runs);
    this.#runNext = grow(this.#runNext, this.#runs);
    const last = this.#lastRun[h] as number;
    this.#runHolder[run] = h;
    this.#runBase[run] = last < 0 ? 0 : (this.#runBase[last] as number) + 1;
    this.#runNext[run] = -1;
    if (last < 0) this.#firstRun[h] = run;
    else this.#runNext[last] = run;
    this.#lastRun[h] = run;

    const t = slot0 >>> TABLE_SHIFT;
    if (t === this.#tables.length) {
      this.#tables.push(new Int32Array(TABLE_SLOTS));
      if (t >= this.#tableMine.length) {
        const mine = new Uint8Array(2 * t);
        mine.set(this.#tableMine);
        this.#tableMine = mine;
      }
      this.#tableMine[t] = 1;
    }
    if (this.#tableMine[t] === 0) this.#ownTable(t);
    const table = this.#tables[t] as Int32Array;
    const head = this.#freeSlot[h] as number;
    for (let k = 0; k < RUN_SLOTS; k++) {
      const next = k + 1 < RUN_SLOTS ? slot0 + k + 1 : head;
      table[(slot0 + k) & TABLE_MASK] = -next - 2;
    }
    this.#freeSlot[h] = slot0;
    return slot0;
  }

  #ownTable(t: number): void {
    this.#tables[t] = (this.#tables[t] as Int32Array).slice();
    this.#tableMine[t] = 1;
  }

  /** Becomes equal to `other`; slot tables are shared until one of the two writes. Cost O(holders + runs). */
  share(other: Holders): void {
    other.#tableMine.fill(0);
    this.length = other.length;
    this.specs = other.specs.slice();
    this.classIndex = other.classIndex.slice();
    this.node = other.node.slice();
    this.request = other.request.slice();
    this.members = other.members.slice();
    this.pages = other.pages.slice();
    this.#freeSlot = other.#freeSlot.slice();
    this.#firstRun = other.#firstRun.slice();
    this.#lastRun = other.#lastRun.slice();
    this.#runs = other.#runs;
    this.#runHolder = other.#runHolder.slice();
    this.#runBase = other.#runBase.slice();
    this.#runNext = other.#runNext.slice();
    this.#tables = other.#tables.slice();
    this.#tableMine = other.#tableMine.slice();
  }

  /** Bytes of tables, shared ones included. */
  bytes(): number {
    return this.#tables.length * TABLE_SLOTS * 4 + 3 * this.#runHolder.byteLength + 8 * this.classIndex.byteLength;
  }

  /** H2 and H3 for every holder, against a recount. @param pagesOf frames of the member whose head is given. */
  check(pagesOf: (frame: number) => number): string[] {
    const wrong: string[] = [];
    for (let h = 0; h < this.length; h++) {
      let members = 0;
      let pages = 0;
      let runs = 0;
      this.forEachMember(h, (frame) => {
        members++;
        pages += pagesOf(frame);
      });
      for (let run = this.#firstRun[h] as number; run >= 0; run = this.#runNext[run] as number) {
        runs++;
        if (this.#runHolder[run] !== h) wrong.push(`H3 run ${run} of holder ${h} says ${this.#runHolder[run]}`);
      }
      let free = 0;
      for (let s = this.#freeSlot[h] as number; s >= 0 && free <= runs * RUN_SLOTS; s = -this.frameAt(s) - 2) free++;
      if (members !== this.members[h]) wrong.push(`H2 holder ${h} has ${members} members, counted ${this.members[h]}`);
      if (pages !== this.pages[h]) wrong.push(`H2 holder ${h} has ${pages} pages, counted ${this.pages[h]}`);
      if (free + members !== runs * RUN_SLOTS) {
        wrong.push(`H3 holder ${h} has ${runs * RUN_SLOTS} slots, ${members} used and ${free} free`);
      }
    }
    return wrong;
  }

  /** Feeds every column into `eat`, in a fixed order: machine.digest(). */
  digest(eat: (n: number) => void): void {
    eat(this.length);
    for (let h = 0; h < this.length; h++) {
      eat(this.classIndex[h] as number);
      eat(this.members[h] as number);
      eat(this.pages[h] as number);
      eat(this.#freeSlot[h] as number);
      this.forEachMember(h, (frame, index) => {
        eat(frame);
        eat(index);
      });
    }
  }
}
