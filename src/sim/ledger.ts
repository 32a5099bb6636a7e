// The ledger: a second, naive account of who has which frames, kept from what the machine tells (frame-watch.ts) and from
// nothing else. Held against the machine's own tables now and then; operations pick their victims from it.
//
//   told          the ledger
//   occupied      writes head -> order, holder; a frame that is in use already is a bug there and then
//   vacated       strikes it out
//   moved         the same entry under another head, its stamp with it
//
// Entries of holders that the world made itself are its own: only they may be freed or pinned by its operations. A stamp is
// what the world wrote into the first frame of an allocation (contents 'bytes'): it must be found there wherever the
// allocation lies.
//
// After Linux's mm/page_table_check.c: a second ledger, checked at each change, is the cheapest strong oracle (taste 1.5).

import { assert } from '#base/assert';
import type { Prng } from '#base/prng';
import type { FrameWatch } from '#mm/frame-watch';
import type { Machine } from '#mm/index';
import { allocationsIn } from '#mm/page-isolation';

export type Entry = { head: number; readonly order: number; readonly holder: number; stamp: number; at: number };

export class Ledger implements FrameWatch {
  readonly entries = new Map<number, Entry>();
  /** Entries of the world's own holders, in no order. */
  readonly own: Entry[] = [];
  readonly #ours = new Set<number>();

  /** What is in use now. Cost O(frames in use). */
  constructor(m: Machine) {
    for (const a of allocationsIn(m, 0, m.sections.length * 32768)) {
      this.occupied(a.head, a.order, m.holders.holderOf(m.sections.ownerAt(a.head)));
    }
    m.frameWatch = this;
  }

  /** From now on, allocations of this holder are the world's to free. */
  claim(holder: number): void {
    this.#ours.add(holder);
  }

  occupied(head: number, order: number, holder: number): void {
    assert(!this.entries.has(head), 'ledger: the frame is in use already', { head, order, holder });
    const entry: Entry = { head, order, holder, stamp: -1, at: -1 };
    this.entries.set(head, entry);
    if (!this.#ours.has(holder)) return;
    entry.at = this.own.length;
    this.own.push(entry);
  }

  vacated(head: number, order: number, holder: number): void {
    const entry = this.entries.get(head);
    assert(entry?.order === order && entry.holder === holder, 'ledger: another allocation ends', {
      head,
      order,
      holder,
      entry: entry ?? 'none',
    });
    this.entries.delete(head);
    if (entry.at < 0) return;
    const last = this.own.pop() as Entry; // it holds this one at least
    if (last === entry) return;
    last.at = entry.at;
    this.own[entry.at] = last;
  }

  moved(from: number, to: number, order: number, holder: number): void {
    const entry = this.entries.get(from);
    assert(entry?.order === order && entry.holder === holder, 'ledger: another allocation moves', { from, to, order });
    assert(!this.entries.has(to), 'ledger: it moves to frames that are in use', { from, to, order });
    this.entries.delete(from);
    entry.head = to;
    this.entries.set(to, entry);
  }

  owned(): void {}
  marked(): void {}

  /** One of the world's own; undefined when it has none. */
  pick(prng: Prng): Entry | undefined {
    return this.own.length === 0 ? undefined : this.own[prng.below(this.own.length)];
  }

  /** What the machine says differs from what it told; empty: nothing. Cost O(frames in use). */
  compare(m: Machine): string[] {
    const wrong: string[] = [];
    let seen = 0;
    for (const a of allocationsIn(m, 0, m.sections.length * 32768)) {
      seen++;
      const entry = this.entries.get(a.head);
      const holder = m.holders.holderOf(m.sections.ownerAt(a.head));
      if (entry?.order !== a.order || entry.holder !== holder) {
        wrong.push(`frame ${m.sections.pfnOf(a.head)}: order ${a.order} of ${holder}, told ${JSON.stringify(entry)}`);
      }
    }
    if (seen !== this.entries.size) wrong.push(`${seen} allocations, ${this.entries.size} were told of`);
    return wrong;
  }
}
