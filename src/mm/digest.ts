// Digest: one number for all tables of a machine, to tell whether anything at all is different.
//
// Two machines have one digest when their tables say the same, whatever columns they happen to have allocated: columns of
// zeros count as none. FNV and murmur steps, 64 bits in two halves: for tests and for stale plans, not for security.

import { PAGEBLOCK_PAGES, PAGEBLOCKS_PER_SECTION, PAGES_PER_SECTION } from './geometry.ts';
import type { Machine } from './machine.ts';

/** See Machine.digest. Cost O(frames in use + pageblocks). */
export function digestOf(m: Machine): string {
  let a = 0x811c9dc5;
  let b = 0x1b873593;
  const eat = (n: number): void => {
    const lo = n | 0;
    const hi = (n / 4294967296) | 0;
    a = Math.imul(a ^ lo, 0x01000193) ^ hi;
    b = Math.imul(b ^ (lo >>> 3) ^ hi, 0x85ebca6b) + lo;
  };
  const { sections } = m;
  for (let s = 0; s < sections.length; s++) {
    eat(sections.number[s] as number);
    const first = s * PAGES_PER_SECTION;
    if (sections.words[s] === undefined) continue;
    for (let k = first; k < first + PAGES_PER_SECTION; k++) {
      if (sections.metaAt(k) === 0) continue; // columns of zeros say the same as none
      eat(k);
      eat(sections.ownerAt(k));
      eat(sections.metaAt(k));
    }
  }
  for (const p of m.pools) {
    eat(p.startPfn);
    eat(p.endPfn);
    eat(p.present);
    eat(p.managed);
    eat(p.watermarks.min);
    // By index, and only its own pageblocks: a hull that is wider than need be says nothing.
    for (let i = 0; i < p.pages; i += PAGEBLOCK_PAGES) {
      const own = m.owners.at(p.base + i) === p.id;
      if (own) eat(p.alloc.area.typeOf(i));
    }
    p.alloc.area.forEachFree(0, p.pages, (i, order, mt) => {
      eat(p.base + i);
      eat(order * 8 + mt);
    });
    eat(p.boost);
    eat(p.reservedHighAtomic);
    p.alloc.forEachPcp((cpu, mt, i, order) => {
      eat((cpu * 16 + order) * 8 + mt);
      eat(p.base + i);
    });
  }
  for (let k = 0; k < sections.length * PAGEBLOCKS_PER_SECTION; k++) eat(m.owners.owner[k] as number);
  for (let r = 0; r < m.blocks.length; r++) {
    eat(m.blocks.id[r] as number);
    eat(m.blocks.state[r] as number);
    eat(m.blocks.pool[r] as number);
  }
  m.holders.digest(eat);
  return (a >>> 0).toString(16).padStart(8, '0') + (b >>> 0).toString(16).padStart(8, '0');
}
