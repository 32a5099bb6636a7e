// check(): the invariants, with evidence. Rebuilt from scratch and compared with what the tables say.
//
//   level  what                                                                        cost
//   0      C0 counters: managed <= present <= spanned, nothing negative                O(pools)
//   1      C1 free lists: the allocators' own checks                                   O(frames), small
//          C5 maps agree: section numbers, states of memory blocks, owners of          O(pageblocks)
//             pageblocks; C7 user pools: I1 to I6 (pools/check-pools.ts)
//   2      C2 every frame has exactly one state: free, on a per-CPU list, used,        O(frames of sections in use)
//             absent or offline; managed and present equal their recount (P1):
//             check-frames.ts
//   3      C3 frame <-> holder is a bijection (H1-H3); C4 contents are where           O(frames of sections in use)
//             their holder looks for them; C6 pools of huge pages, poisoned frames
//             and CMA areas agree with the frames that they name; C8 chunk costs
//             equal a recount, where somebody asked for them; C9 replicated pages, DMA pools;
//             C10 addresses of displaced pages (kremap/check-kremap.ts);
//             C11 where struct pages lie (memmap-where.ts);
//             C12 fixed areas of drivers: FX1 to FX4 (fixed-areas/check-fixed-areas.ts);
//             C13 areas under a contract: AR1 to AR3 (area-contract.ts);
//             C14 chunks of files (mapping-pool.ts)
//
// Callable by users at any time. An empty list means sound. Every rule here has a test that breaks the tables and sees
// the rule speak (check.test.ts).

import { checkContracts } from './area-contract.ts';
import { checkFrames } from './check-frames.ts';
import { checkCma } from './cma.ts';
import { checkFixedAreas } from './fixed-areas/check-fixed-areas.ts';
import { NOBODY } from './frame-owners.ts';
import { PAGEBLOCK_PAGES, PAGEBLOCKS_PER_SECTION, PAGES_PER_SECTION } from './geometry.ts';
import { checkHugetlb } from './hugetlb.ts';
import { checkKremap } from './kremap/check-kremap.ts';
import { type Machine, tagOf } from './machine.ts';
import { checkMappings } from './mapping-pool.ts';
import { checkMemmap } from './memmap-where.ts';
import { BLOCK_OFFLINE } from './memory-block.ts';
import { checkPoison } from './memory-failure.ts';
import { checkPools } from './pools/check-pools.ts';
import { checkChunkCosts } from './pools/chunk-cost.ts';
import { checkDma } from './pools/dma-pools.ts';
import { hasPoolTable } from './pools/pool-table.ts';
import { checkReplicas } from './pools/replica.ts';
import { FREE_SLOT, KIND_ABSENT, KIND_HEAD0, KIND_MASK, KIND_NONE, KIND_TAIL, TAG_SHIFT } from './section.ts';
import { type Violation, Violations } from './violation.ts';

export type { Violation };

export function checkMachine(m: Machine, level: number, tagged: boolean): Violation[] {
  const v = new Violations();
  for (const p of m.pools) {
    const { present, managed, spanned, title } = p;
    if (managed < 0 || managed > present || (present > spanned && p.kind === 'zone')) {
      v.add('C0', `${title}: managed ${managed}, present ${present}, spanned ${spanned}`);
    }
    if (level >= 1) for (const s of p.alloc.check()) v.add('C1', `${title}: ${s}`);
  }
  if (level >= 1) checkMaps(m, v);
  if (level >= 1 && hasPoolTable(m)) checkPools(m, v);
  if (level >= 2) checkFrames(m, v);
  if (level >= 3) checkHolders(m, v, tagged);
  if (level >= 3) for (const s of checkChunkCosts(m)) v.add('C8', s);
  if (level >= 3) for (const s of [...checkReplicas(m), ...checkDma(m)]) v.add('C9', s);
  if (level >= 3) for (const s of checkKremap(m)) v.add('C10', s);
  if (level >= 3) for (const s of checkMemmap(m)) v.add('C11', s);
  if (level >= 3) for (const s of checkFixedAreas(m)) v.add('C12', s);
  if (level >= 3) for (const s of checkContracts(m)) v.add('C13', s);
  if (level >= 3) for (const s of checkMappings(m)) v.add('C14', s);
  if (level >= 3) for (const s of [...checkHugetlb(m), ...checkPoison(m), ...checkCma(m)]) v.add('C6', s);
  return v.list;
}

function checkMaps(m: Machine, v: Violations): void {
  const { sections, blocks } = m;
  const { owner, zone } = m.owners;
  for (let s = 0; s < sections.length; s++) {
    if (sections.number[s] === FREE_SLOT) {
      for (let pb = s * PAGEBLOCKS_PER_SECTION; pb < (s + 1) * PAGEBLOCKS_PER_SECTION; pb++) {
        if (owner[pb] !== NOBODY) v.add('C5', `S1 slot ${s} is free, its pageblock ${pb} is in pool ${owner[pb]}`);
      }
      continue;
    }
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
        const pool = zone[pb];
        const pfn = sections.pfnOf(pb * PAGEBLOCK_PAGES);
        if ((owner[pb] === NOBODY) !== (pool === NOBODY)) {
          v.add('C5', `FO2 frame ${pfn} belongs to pool ${owner[pb]}, its zone is ${pool}`);
        }
        if (state === BLOCK_OFFLINE && pool !== NOBODY)
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
        const first = pb * PAGEBLOCK_PAGES;
        for (const id of m.owners.ownersIn(first, first + PAGEBLOCK_PAGES)) {
          const pool = m.pools[id];
          const i = first - (pool?.base ?? 0);
          if (pool === undefined || i < 0 || i >= pool.pages) {
            v.add('C5', `frame ${pfn} lies outside the hull of its pool, ${pool?.title ?? id}`);
          }
        }
      }
    }
  }
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
    if (sections.words[s] === undefined) continue;
    let want = 0;
    const first = s * PAGES_PER_SECTION;
    for (let i = first; i < first + PAGES_PER_SECTION; i++) {
      const word = sections.metaAt(i);
      const kind = word & KIND_MASK;
      if (kind === KIND_NONE || kind === KIND_ABSENT) continue;
      if (kind !== KIND_TAIL) {
        heads++;
        const slot = sections.ownerAt(i);
        if (!holders.has(slot)) v.add('C3', `H1 frame ${sections.pfnOf(i)} is allocated and has no holder`);
        want = tagged ? tagOf(slot) : 0;
      }
      const tag = word >>> TAG_SHIFT;
      if (tag !== want) v.add('C4', `frame ${sections.pfnOf(i)} holds contents ${tag}, its holder expects ${want}`);
    }
  }
  if (heads !== members) v.add('C3', `${heads} allocations, ${members} members of holders`);
}
