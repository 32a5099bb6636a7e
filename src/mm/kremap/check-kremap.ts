// Remapping's part of check(): R2 to R5, rebuilt from scratch and compared with what the tables say.
//
//   R2   address -> frame -> address, for every entry; every displaced frame is in use by an allocation that says so
//   R3   no frame of an offline block, and none that is no memory, is led to by an address
//   R4   splits - collapses = leaves with a displaced page that were not moved whole
//   R5   one leaf table for each section with an entry; frames of tables are what tables take, none more
//   VA   a frame whose own address is displaced serves nobody that has an address: it left, is isolated, held, or holds
//        what needs none (struct pages, poison, what a driver never plugged)
//
// R1 (contents) is check()'s own: tags and holders (C3, C4). R6 is about interleavings: interleave.ts.

import { toPfn } from '#base/units';
import type { HolderSpec } from '../holder.ts';
import { kernelClassOf } from '../kernel-class.ts';
import type { Machine } from '../machine.ts';
import { CLASS_TRAITS } from '../page-class.ts';
import { KIND_HEAD0, KIND_MASK, KIND_TAIL, META_DISPLACED } from '../section.ts';
import { leafOf } from './direct-map.ts';
import { type KremapState, kremapOf } from './kremap-state.ts';
import { isIsolated } from './protocol.ts';

/** In words; empty when sound. Cost O(leaf tables x 32768 + frames in use). */
export function checkKremap(m: Machine): string[] {
  const k = kremapOf(m);
  if (k === undefined) return []; // nothing was ever displaced here
  const wrong = k.translation.check();
  const leaves = new Map<number, { pages: number; images: number }>();
  k.translation.forEachDisplaced(0, Number.POSITIVE_INFINITY, (va, pfn) => {
    const image = k.translation.hasImage(va) ? 1 : 0;
    const leaf = leaves.get(leafOf(va)) ?? { pages: 0, images: 0 };
    leaves.set(leafOf(va), { pages: leaf.pages + 1, images: leaf.images + image });
    checkFrame(k, va, pfn, wrong);
    checkOwnFrame(k, va, wrong);
  });
  wrong.push(...k.map.check(leaves));
  if (displacedHeads(m) !== displacedAllocations(k)) wrong.push('R2 heads that say displaced are not those that are');
  const { leaf, page } = k.tableFrames;
  const held = (holder: number): number => (holder < 0 ? 0 : (m.holders.members[holder] as number));
  if (held(k.leafTableHolder) !== leaf) wrong.push(`R5 ${leaf} frames of leaf tables, their holder has others`);
  if (held(k.pageTableHolder) !== page) wrong.push(`R5 ${page} page tables, their holder has others`);
  if (k.owed < 0) wrong.push(`R5 tables have ${-k.owed} frames too many`);
  return wrong;
}

/** The frame that a displaced address leads to. */
function checkFrame(k: KremapState, va: number, pfn: number, wrong: string[]): void {
  const { m } = k;
  const index = m.sections.indexOf(toPfn(pfn));
  if (index < 0 || m.poolAt(index) === undefined) {
    wrong.push(`R3 address ${va} leads to frame ${pfn}, which is offline`);
    return;
  }
  const a = m.sections.allocationAt(index);
  const says = a !== undefined && (m.sections.metaAt(a.head) & META_DISPLACED) !== 0;
  if (!says) wrong.push(`R2 address ${va} leads to frame ${pfn}, where nothing displaced is`);
  else if (kernelClassOf(specAt(m, a.head)) !== 'K') wrong.push(`R2 frame ${pfn} is displaced and not of class K`);
}

/** The frame that has the displaced address's name. */
function checkOwnFrame(k: KremapState, va: number, wrong: string[]): void {
  const { m } = k;
  const index = m.sections.indexOf(toPfn(va));
  const pool = index < 0 ? undefined : m.poolAt(index);
  if (pool === undefined) return;
  const a = m.sections.allocationAt(index);
  if (a === undefined) {
    if (!isIsolated(pool, index)) wrong.push(`VA frame ${va} may be given out, and its address leads elsewhere`);
    return;
  }
  const spec = specAt(m, a.head);
  const needsNone = CLASS_TRAITS[spec.class].mobility === 'stays' || spec.class === 'memmap';
  if (!needsNone) wrong.push(`VA frame ${va} is used by ${spec.name}, and its address leads elsewhere`);
}

const specAt = (m: Machine, head: number): HolderSpec =>
  m.holders.specs[m.holders.holderOf(m.sections.ownerAt(head))] as HolderSpec; // a head has a holder: C3

/** Heads whose bit is set. */
function displacedHeads(m: Machine): number {
  let n = 0;
  const { frames } = m.sections;
  for (let i = m.sections.nextKnown(0, frames); i < frames; i = m.sections.nextKnown(i + 1, frames)) {
    const meta = m.sections.metaAt(i);
    const kind = meta & KIND_MASK;
    if (kind >= KIND_HEAD0 && kind < KIND_TAIL && (meta & META_DISPLACED) !== 0) n++;
  }
  return n;
}

/** Allocations with a displaced page, by the translation. */
function displacedAllocations(k: KremapState): number {
  const heads = new Set<number>();
  k.translation.forEachDisplaced(0, Number.POSITIVE_INFINITY, (_va, pfn) => {
    const index = k.m.sections.indexOf(toPfn(pfn));
    const a = index < 0 ? undefined : k.m.sections.allocationAt(index);
    if (a !== undefined) heads.add(a.head);
  });
  return heads.size;
}
