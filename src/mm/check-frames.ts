// check(), level 2: every frame has exactly one state, and the counters equal their recount.
//
//   free             in the area of the pool that owns its pageblock, once        offline   its pageblock has no pool
//   per-CPU          on one per-CPU list of that pool, once                       absent    no RAM
//   used             a head, or a tail behind one; not on any list
//
// One section at a time: what the lists say is marked in a scratch byte a frame, then each frame's row is held against it.
// A section without columns, wholly free in one pool, is settled by one count: an idle terabyte takes milliseconds.
// An offline frame is used only by those that may stay there (O2). managed counts what is free, on lists, or held by
// managed classes (P1).

import { toPfn } from '#base/units';
import {
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
  PAGEBLOCKS_PER_SECTION,
  PAGES_PER_SECTION,
  SECTION_ORDER,
} from './geometry.ts';
import type { Machine } from './machine.ts';
import { BLOCK_OFFLINE } from './memory-block.ts';
import { headManaged } from './memory-online.ts';
import { CLASS_TRAITS, type PageClass } from './page-class.ts';
import type { Pool } from './pool.ts';
import { KIND_ABSENT, KIND_HEAD0, KIND_MASK, KIND_NONE, KIND_TAIL } from './section.ts';
import type { Violations } from './violation.ts';

const FREE = 1;
const PCP = 2;

/** What was counted of each pool, by its id. */
type Recount = { readonly managed: number[]; readonly present: number[] };

export function checkFrames(m: Machine, v: Violations): void {
  const recount: Recount = { managed: m.pools.map(() => 0), present: m.pools.map(() => 0) };
  const scratch = new Uint8Array(PAGES_PER_SECTION);
  const onLists = pcpBySection(m);
  const vmemmap = vmemmapPageblocks(m);
  for (let s = 0; s < m.sections.length; s++) {
    const waiting = onLists.get(s);
    if (waiting === undefined && settleIdle(m, s, recount)) continue;
    scratch.fill(0);
    markLists(m, v, s, scratch, waiting ?? [], recount);
    compareRows(m, v, s, scratch, vmemmap, recount);
  }
  checkStayed(m, v);
  for (const p of m.pools) {
    const managed = recount.managed[p.id];
    const present = recount.present[p.id];
    if (managed !== p.managed) v.add('C2', `P1 ${p.title}: managed is ${p.managed}, recounted ${managed}`);
    if (present !== p.present) v.add('C2', `P1 ${p.title}: present is ${p.present}, recounted ${present}`);
  }
}

/** 2^order frames on a per-CPU list. A list's chunk lies in one section. */
/** M3: an online block is only searched for frames that stayed where some may have. */
function checkStayed(m: Machine, v: Violations): void {
  const { blocks, sections } = m;
  for (let row = 0; row < blocks.length; row++) {
    if (blocks.state[row] !== BLOCK_OFFLINE || blocks.stayed[row] === 1) continue;
    const first = sections.indexOf(toPfn(blocks.id[row] * m.blockPages));
    const end = first + m.blockPages;
    const known = sections.nextKnown(first + blocks.vmemmapPages[row], end);
    if (known < end) v.add('C2', `M3 nothing stayed in block ${blocks.id[row]}, but frame ${sections.pfnOf(known)}`);
  }
}

type Waiting = { readonly pool: Pool; readonly index: number; readonly order: number };

function pcpBySection(m: Machine): Map<number, Waiting[]> {
  const out = new Map<number, Waiting[]>();
  for (const pool of m.pools) {
    pool.alloc.forEachPcp((_cpu, _mt, i, order) => {
      const s = (pool.base + i) >>> SECTION_ORDER;
      const mine = out.get(s);
      if (mine === undefined) out.set(s, [{ pool, index: pool.base + i, order }]);
      else mine.push({ pool, index: pool.base + i, order });
    });
  }
  return out;
}

/** Free frames that a pool's lists have in section s. */
function freeInSection(pool: Pool, s: number): number {
  const start = Math.max(0, s * PAGES_PER_SECTION - pool.base);
  const end = Math.min(pool.pages, (s + 1) * PAGES_PER_SECTION - pool.base);
  return start < end ? pool.alloc.area.freeIn(start, end) : 0;
}

/** A section without columns that is all free in one pool, and in no other's lists. @returns false for any other section. */
function settleIdle(m: Machine, s: number, recount: Recount): boolean {
  if (m.sections.words[s] !== undefined) return false;
  const first = s * PAGEBLOCKS_PER_SECTION;
  const { owner } = m.owners;
  const id = owner[first];
  if (id < 0) return false;
  for (let pb = first + 1; pb < first + PAGEBLOCKS_PER_SECTION; pb++) if (owner[pb] !== id) return false;
  for (const p of m.pools) if (freeInSection(p, s) !== (p.id === id ? PAGES_PER_SECTION : 0)) return false;
  recount.managed[id] += PAGES_PER_SECTION;
  recount.present[id] += PAGES_PER_SECTION;
  return true;
}

/** Marks what free areas and per-CPU lists say about the frames of section s. */
function markLists(
  m: Machine,
  v: Violations,
  s: number,
  state: Uint8Array,
  waiting: readonly Waiting[],
  recount: Recount,
): void {
  const { sections, owners } = m;
  const first = s * PAGES_PER_SECTION;
  for (const p of m.pools) {
    const start = Math.max(0, first - p.base);
    const end = Math.min(p.pages, first + PAGES_PER_SECTION - p.base);
    if (start >= end) continue;
    p.alloc.area.forEachFree(start, end, (i, order) => {
      for (let k = p.base + i; k < p.base + i + 2 ** order; k++) {
        if (state[k - first] !== 0) v.add('C2', `frame ${sections.pfnOf(k)} is free twice`);
        state[k - first] = FREE;
        if (owners.at(k) !== p.id) {
          v.add('C2', `frame ${sections.pfnOf(k)} is free in ${p.title}, not its pool`);
        }
      }
      recount.managed[p.id] += 2 ** order;
    });
  }
  for (const { pool, index, order } of waiting) {
    for (let k = index; k < index + 2 ** order; k++) {
      if (state[k - first] !== 0) {
        v.add('C2', `frame ${sections.pfnOf(k)} is on a per-CPU list and free, or there twice`);
      }
      state[k - first] = PCP;
    }
    recount.managed[pool.id] += 2 ** order;
  }
}

/** Holds every row of section s against the marks. */
function compareRows(
  m: Machine,
  v: Violations,
  s: number,
  state: Uint8Array,
  vmemmap: ReadonlySet<number>,
  recount: Recount,
): void {
  const { sections, owners } = m;
  const first = s * PAGES_PER_SECTION;
  for (let i = first; i < first + PAGES_PER_SECTION; ) {
    const pool = owners.at(i);
    const kind = sections.metaAt(i) & KIND_MASK;
    const isHead = kind >= KIND_HEAD0 && kind < KIND_TAIL;
    const end = Math.min(i + (isHead ? 1 << (kind - KIND_HEAD0) : 1), first + PAGES_PER_SECTION);
    if (kind === KIND_TAIL) v.add('C2', `frame ${sections.pfnOf(i)} is a tail without a head before it`);
    if (pool >= 0 && kind !== KIND_ABSENT) recount.present[pool] += end - i;
    for (let k = i; k < end; k++) {
      const marked = state[k - first] !== 0;
      if (k > i) {
        if (owners.at(k) !== pool) v.add('C2', `I4 frame ${sections.pfnOf(k)} is of another pool than its allocation`);
        const tail = sections.metaAt(k) & KIND_MASK;
        if (tail !== KIND_TAIL) v.add('C2', `frame ${sections.pfnOf(k)} should be a tail, is ${tail}`);
      }
      if (pool < 0) {
        if (marked) v.add('C2', `frame ${sections.pfnOf(k)} is offline and on a list`);
      } else if (kind === KIND_NONE && !marked) {
        v.add('C2', `frame ${sections.pfnOf(k)} is neither free nor used`);
      } else if (kind !== KIND_NONE && marked) {
        v.add('C2', `frame ${sections.pfnOf(k)} is ${kind === KIND_ABSENT ? 'absent' : 'used'} and on a list`);
      }
    }
    if (isHead && pool < 0 && !mayStay(m, i, vmemmap)) {
      v.add('C2', `O2 frame ${sections.pfnOf(i)} is offline and used`);
    }
    if (isHead && pool >= 0 && isManaged(m, i, vmemmap)) recount.managed[pool] += end - i;
    i = end;
  }
}

/** Pageblocks that hold a block's own memmap: present, never managed. */
function vmemmapPageblocks(m: Machine): Set<number> {
  const out = new Set<number>();
  for (let row = 0; row < m.blocks.length; row++) {
    const pages = m.blocks.vmemmapPages[row];
    if (pages === 0) continue;
    const slot = m.sections.slotOf((m.blocks.id[row] * m.blockPages) / PAGES_PER_SECTION);
    const start = slot << SECTION_ORDER;
    for (let i = start; i < start + pages; i += PAGEBLOCK_PAGES) out.add(i >>> PAGEBLOCK_ORDER);
  }
  return out;
}

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
  return cls !== 'memmap' || !vmemmap.has(head >>> PAGEBLOCK_ORDER) || headManaged(m, m.sections.pfnOf(head));
}
