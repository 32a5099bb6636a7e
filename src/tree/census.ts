// Census: how many frames each class has on each node, counted from the frames themselves.
//
//   row = pool      column = class       pages[pool * classes + class]; huge[pool]: anonymous frames in huge pages
//
// The engine counts by holder, which is not by node; /proc/zoneinfo and nodeN/meminfo want it by node. Counted when it
// is asked for: O(frames of sections that have a story).

import { PAGEBLOCK_ORDER, PAGES_PER_SECTION } from '#mm/geometry';
import type { Machine } from '#mm/machine';
import { PAGE_CLASSES, type PageClass } from '#mm/page-class';
import { KIND_HEAD0, KIND_MASK, KIND_TAIL, SLOTS_AT } from '#mm/section';

const CLASSES = PAGE_CLASSES.length;

export class Census {
  /** By pool and class. */
  readonly #pages: Float64Array;
  /** Anonymous frames in allocations of a pageblock, by pool. */
  readonly #huge: Float64Array;

  constructor(m: Machine) {
    this.#pages = new Float64Array(m.pools.length * CLASSES);
    this.#huge = new Float64Array(m.pools.length);
    const { sections, holders } = m;
    const anonymous = PAGE_CLASSES.indexOf('anonymous');
    for (let slot = 0; slot < sections.length; slot++) {
      const words = sections.words[slot];
      if (words === undefined) continue;
      const first = slot * PAGES_PER_SECTION;
      for (let k = 0; k < PAGES_PER_SECTION; ) {
        const kind = (words[k] as number) & KIND_MASK;
        if (kind < KIND_HEAD0 || kind >= KIND_TAIL) {
          k++;
          continue;
        }
        const order = kind - KIND_HEAD0;
        const pool = m.owners.zoneAt(first + k);
        if (pool >= 0) {
          const at = SLOTS_AT + 2 * k;
          const slotOfHead = ((words[at] as number) | ((words[at + 1] as number) << 16)) - 1;
          const cls = holders.classIndex[holders.holderOf(slotOfHead)] as number;
          const cell = pool * CLASSES + cls;
          this.#pages[cell] = (this.#pages[cell] as number) + (1 << order);
          if (cls === anonymous && order >= PAGEBLOCK_ORDER) {
            this.#huge[pool] = (this.#huge[pool] as number) + (1 << order);
          }
        }
        k += 1 << order;
      }
    }
  }

  /** Frames of these classes in one pool; undefined: in all. */
  pages(pool: number | undefined, ...classes: readonly PageClass[]): number {
    let n = 0;
    for (const cls of classes) {
      const column = PAGE_CLASSES.indexOf(cls);
      if (pool !== undefined) n += this.#pages[pool * CLASSES + column] ?? 0;
      else for (let cell = column; cell < this.#pages.length; cell += CLASSES) n += this.#pages[cell] as number;
    }
    return n;
  }

  /** Anonymous frames in huge pages, in one pool or in all. */
  anonymousHuge(pool: number | undefined): number {
    if (pool !== undefined) return this.#huge[pool] ?? 0;
    return this.#huge.reduce((a, b) => a + b, 0);
  }
}
