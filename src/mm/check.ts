// check(): the invariants, with evidence. Rebuilt from scratch and compared with what the tables say.
//
//   level  what                                                                        cost
//   0      C0 counters: managed <= present <= spanned, nothing negative                O(pools)
//   1      C1 free lists: the allocators' own checks                                   O(frames), small
//          C5 maps agree: section numbers, states of memory blocks, owners of          O(pageblocks)
//             pageblocks
//   2      C2 every frame has exactly one state: free, on a per-CPU list, used,        O(frames)
//             absent or offline; managed and present equal their recount (P1)
//   3      C3 frame <-> holder is a bijection (H1-H3); C4 contents are where           O(frames)
//             their holder looks for them
//
// Callable by users at any time. An empty list means sound. Every rule here has a test that breaks the tables and sees
// the rule speak (check.test.ts).

import {
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
  PAGEBLOCKS_PER_SECTION,
  PAGES_PER_SECTION,
  SECTION_ORDER,
} from './geometry.ts';
import { type Machine, tagOf } from './machine.ts';
import { BLOCK_OFFLINE } from './memory-block.ts';
import { CLASS_TRAITS, type PageClass } from './page-class.ts';
import type { Pool } from './pool.ts';
import { KIND_ABSENT, KIND_HEAD0, KIND_MASK, KIND_NONE, KIND_TAIL, TAG_SHIFT } from './section.ts';

export type Violation = { readonly rule: string; readonly detail: string };

/** At most this many of one rule: the first ones tell, a million say no more. */
const MOST = 20;

class Violations {
  readonly list: Violation[] = [];
  readonly #count = new Map<string, number>();

  add(rule: string, detail: string): void {
    const n = (this.#count.get(rule) ?? 0) + 1;
    this.#count.set(rule, n);
    if (n <= MOST) this.list.push({ rule, detail });
  }
}

export function checkMachine(m: Machine, level: number, tagged: boolean): Violation[] {
  const v = new Violations();
  for (const p of m.pools) {
    const { present, managed, spanned, title } = p;
    if (managed < 0 || managed > present || present > spanned) {
      v.add('C0', `${title}: managed ${managed}, present ${present}, spanned ${spanned}`);
    }
    if (level >= 1) for (const s of p.alloc.check()) v.add('C1', `${title}: ${s}`);
  }
  if (level >= 1) checkMaps(m, v);
  if (level >= 2) checkFrames(m, v);
  if (level >= 3) checkHolders(m, v, tagged);
  return v.list;
}

function checkMaps(m: Machine, v: Violations): void {
  const { sections, blocks, poolOf } = m;
  for (let s = 0; s < sections.length; s++) {
    if (sections.slotOf(sections.number[s]) !== s) v.add('C5', `S1 slot ${s} says section ${sections.number[s]}`);
    if (sections.shift[s] !== (sections.number[s] - s) * PAGES_PER_SECTION) {
      v.add('C5', `S2 slot ${s} of section ${sections.number[s]} is shifted by ${sections.shift[s]} frames`);
    }
  }
  for (let row = 0; row < blocks.length; row++) {
    const state = blocks.state[row];
    const id = blocks.id[row];
    if (state === BLOCK_OFFLINE && blocks.pool[row] !== -1) {
      v.add('C5', `block ${id} is offline and in pool ${blocks.pool[row]}`);
    }
    const firstSection = Math.floor((id * m.blockPages) / PAGES_PER_SECTION);
    for (let n = firstSection; n < firstSection + m.blockPages / PAGES_PER_SECTION; n++) {
      const slot = sections.slotOf(n);
      if (slot < 0) continue;
      for (let pb = slot * PAGEBLOCKS_PER_SECTION; pb < (slot + 1) * PAGEBLOCKS_PER_SECTION; pb++) {
        const pool = poolOf[pb];
        const pfn = sections.pfnOf(pb * PAGEBLOCK_PAGES);
        if (state === BLOCK_OFFLINE && pool !== -1)
          v.add('C5', `block ${id} is offline, its frame ${pfn} is in a pool`);
        if (
          state !== BLOCK_OFFLINE &&
          blocks.pool[row] !== -1 &&
          blocks.absent[row] === 0 &&
          pool !== blocks.pool[row]
        ) {
          v.add('C5', `M1 block ${id} is in pool ${blocks.pool[row]}, its frame ${pfn} in ${pool}`);
        }
        if (pool < 0) continue;
        const owner = m.pools[pool];
        const i = pb * PAGEBLOCK_PAGES - owner.base;
        if (i < 0 || i >= owner.pages) {
          v.add('C5', `frame ${pfn} lies outside the hull of its pool, ${owner.title}`);
        }
      }
    }
  }
}

const FREE = 1;
const PCP = 2;

function checkFrames(m: Machine, v: Violations): void {
  const { sections } = m;
  const state = new Uint8Array(sections.frames);
  const counts = m.pools.map(() => 0);
  const present = m.pools.map(() => 0);
  for (const p of m.pools) {
    p.alloc.area.forEachFree(0, p.pages, (i, order) => {
      for (let k = p.base + i; k < p.base + i + (1 << order); k++) {
        if (state[k] !== 0) v.add('C2', `frame ${sections.pfnOf(k)} is free twice`);
        state[k] = FREE;
        if (m.poolOf[k >>> PAGEBLOCK_ORDER] !== p.id)
          v.add('C2', `frame ${sections.pfnOf(k)} is free in ${p.title}, not its pool`);
      }
      counts[p.id] = (counts[p.id] as number) + (1 << order);
    });
    p.alloc.forEachPcp((_cpu, _mt, i) => {
      const k = p.base + i;
      if (state[k] !== 0) v.add('C2', `frame ${sections.pfnOf(k)} is on a per-CPU list and free or there twice`);
      state[k] = PCP;
      counts[p.id] = (counts[p.id] as number) + 1;
    });
  }
  const vmemmap = vmemmapFrames(m);
  for (let s = 0; s < sections.length; s++) {
    const first = s * PAGES_PER_SECTION;
    for (let i = first; i < first + PAGES_PER_SECTION; ) {
      const pool = m.poolOf[i >>> PAGEBLOCK_ORDER] as number;
      const kind = sections.metaAt(i) & KIND_MASK;
      const run = kind >= KIND_HEAD0 && kind < KIND_TAIL ? 1 << (kind - KIND_HEAD0) : 1;
      if (kind === KIND_TAIL) v.add('C2', `frame ${sections.pfnOf(i)} is a tail without a head before it`);
      for (let k = i; k < i + run; k++) {
        const st = state[k] as number;
        if (k > i) {
          const tail = sections.metaAt(k) & KIND_MASK;
          if (tail !== KIND_TAIL) v.add('C2', `frame ${sections.pfnOf(k)} should be a tail, is ${tail}`);
        }
        if (pool >= 0 && kind !== KIND_ABSENT) present[pool]++;
        if (pool < 0) {
          if (st !== 0) v.add('C2', `frame ${sections.pfnOf(k)} is offline and on a list`);
        } else if (kind === KIND_NONE && st === 0) {
          v.add('C2', `frame ${sections.pfnOf(k)} is neither free nor used`);
        } else if (kind !== KIND_NONE && st !== 0) {
          v.add('C2', `frame ${sections.pfnOf(k)} is ${kind === KIND_ABSENT ? 'absent' : 'used'} and on a list`);
        }
      }
      if (pool < 0 && kind >= KIND_HEAD0 && kind < KIND_TAIL && !mayStay(m, i, vmemmap)) {
        v.add('C2', `O2 frame ${sections.pfnOf(i)} is offline and used`);
      }
      if (pool >= 0 && kind >= KIND_HEAD0 && kind < KIND_TAIL && isManaged(m, i, vmemmap)) {
        counts[pool] = (counts[pool] as number) + run;
      }
      i += run;
    }
  }
  m.pools.forEach((p: Pool) => {
    const n = counts[p.id] as number;
    if (n !== p.managed) v.add('C2', `P1 ${p.title}: managed is ${p.managed}, recounted ${n}`);
    if (present[p.id] !== p.present) {
      v.add('C2', `P1 ${p.title}: present is ${p.present}, recounted ${present[p.id]}`);
    }
  });
}

/** Pageblocks that hold a block's own memmap: present, never managed. */
function vmemmapFrames(m: Machine): Set<number> {
  const out = new Set<number>();
  for (let r = 0; r < m.blocks.length; r++) {
    const pages = m.blocks.vmemmapPages[r] as number;
    if (pages === 0) continue;
    const start = indexOfBlock(m, r);
    for (let i = start; i < start + pages; i += PAGEBLOCK_PAGES) out.add(i >>> PAGEBLOCK_ORDER);
  }
  return out;
}

const indexOfBlock = (m: Machine, row: number): number => {
  const slot = m.sections.slotOf(((m.blocks.id[row] as number) * m.blockPages) / PAGES_PER_SECTION);
  return slot << SECTION_ORDER;
};

/** Class of a head's holder; undefined when the head points at none. */
function classOf(m: Machine, head: number): PageClass | undefined {
  const slot = m.sections.ownerAt(head);
  return m.holders.has(slot) ? m.holders.specs[m.holders.holderOf(slot)].class : undefined;
}

/** May this allocation lie in an offline block: poisoned, never plugged, or the block's own memmap? */
function mayStay(m: Machine, head: number, vmemmap: ReadonlySet<number>): boolean {
  const cls = classOf(m, head);
  if (cls === undefined) return false;
  return CLASS_TRAITS[cls].mobility === 'stays' || (cls === 'memmap' && vmemmap.has(head >>> PAGEBLOCK_ORDER));
}

function isManaged(m: Machine, head: number, vmemmap: ReadonlySet<number>): boolean {
  const cls = classOf(m, head);
  if (cls === undefined) return true; // told elsewhere; most are
  if (!CLASS_TRAITS[cls].managed) return false;
  return cls !== 'memmap' || !vmemmap.has(head >>> PAGEBLOCK_ORDER);
}

function checkHolders(m: Machine, v: Violations, tagged: boolean): void {
  const { sections, holders } = m;
  const pagesOf = (frame: number): number => {
    const kind = sections.metaAt(frame) & KIND_MASK;
    return kind >= KIND_HEAD0 && kind < KIND_TAIL ? 1 << (kind - KIND_HEAD0) : 0;
  };
  for (const s of holders.check(pagesOf)) v.add('C3', s);
  let members = 0;
  for (let h = 0; h < holders.length; h++) {
    holders.forEachMember(h, (frame, _index, slot) => {
      members++;
      if (sections.ownerAt(frame) !== slot)
        v.add('C3', `H1 slot ${slot} says frame ${sections.pfnOf(frame)}, which says ${sections.ownerAt(frame)}`);
    });
  }
  let heads = 0;
  for (let s = 0; s < sections.length; s++) {
    if (sections.rows[s] === undefined) continue;
    let want = 0;
    for (let k = 0; k < PAGES_PER_SECTION; k++) {
      const word = sections.metaAt(s * PAGES_PER_SECTION + k);
      const kind = word & KIND_MASK;
      if (kind === KIND_NONE || kind === KIND_ABSENT) continue;
      if (kind !== KIND_TAIL) {
        heads++;
        if (!holders.has(sections.ownerAt(s * PAGES_PER_SECTION + k))) {
          v.add('C3', `H1 frame ${sections.pfnOf(s * PAGES_PER_SECTION + k)} is allocated and has no holder`);
        }
        want = tagged ? tagOf(sections.ownerAt(s * PAGES_PER_SECTION + k)) : 0;
      }
      if (word >>> TAG_SHIFT !== want) {
        v.add(
          'C4',
          `frame ${sections.pfnOf(s * PAGES_PER_SECTION + k)} holds contents ${word >>> TAG_SHIFT}, its holder expects ${want}`,
        );
      }
    }
  }
  if (heads !== members) v.add('C3', `${heads} allocations, ${members} members of holders`);
}
