// Page tables: how the kernel's address space maps memory just now, in runs, as a walk of its tables would find it.
//
//   direct map   0xffff888000000000 + address    leaves of 1 GiB (pud), 2 MiB (pmd) and 4 KiB (pte)
//   image        0xffffffff80000000 + address    the second alias of the kernel's image, as far as it was displaced
//
// A run is as long as its leaves have one size and their frames follow each other. Addresses of removed memory are there as
// long as a displaced page needs them. Linux without KASLR and with four levels of tables; areas of other memory (vmalloc,
// the memmap, modules) are left out: nothing of them moves here.
//
// Follows Linux v6.12 arch/x86/mm/dump_pagetables.c, Documentation/arch/x86/x86_64/mm.rst.

import { toPfn } from '#base/units';
import { PAGEBLOCK_PAGES, PAGES_PER_SECTION } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { PAGES_PER_GIGABYTE } from '../memmap.ts';
import { FREE_SLOT } from '../section.ts';
import { mappedBy1G } from './direct-map.ts';
import { kremapOf } from './kremap-state.ts';

export type MappedRun = {
  readonly area: 'direct' | 'image';
  readonly level: 'pud' | 'pmd' | 'pte';
  /** First VA page, by the frame that it has by identity. */
  readonly va: number;
  readonly pages: number;
  /** Frame of the first page; those of the others follow. */
  readonly pfn: number;
};

class Runs {
  readonly list: MappedRun[] = [];

  add(run: MappedRun): void {
    const last = this.list[this.list.length - 1];
    const joins =
      last !== undefined &&
      last.area === run.area &&
      last.level === run.level &&
      last.va + last.pages === run.va &&
      last.pfn + last.pages === run.pfn;
    if (joins) this.list[this.list.length - 1] = { ...last, pages: last.pages + run.pages };
    else this.list.push(run);
  }
}

/** Ascending by area and address. Cost O(GiB + leaves of GiB that are not one leaf + displaced pages). */
export function mappedRuns(m: Machine): MappedRun[] {
  const runs = new Runs();
  for (const gib of gigabytes(m)) addGib(m, gib * PAGES_PER_GIGABYTE, runs);
  const k = kremapOf(m);
  k?.translation.forEachDisplaced(0, Number.POSITIVE_INFINITY, (va, pfn) => {
    if (k.translation.hasImage(va)) runs.add({ area: 'image', level: 'pte', va, pages: 1, pfn });
  });
  return runs.list;
}

/** Those with memory, and those of removed memory whose addresses live on; ascending. */
function gigabytes(m: Machine): number[] {
  const found = new Set<number>();
  for (let s = 0; s < m.sections.length; s++) {
    const number = m.sections.number[s] as number;
    if (number !== FREE_SLOT) found.add(Math.floor((number * PAGES_PER_SECTION) / PAGES_PER_GIGABYTE));
  }
  kremapOf(m)?.translation.forEachDisplaced(0, Number.POSITIVE_INFINITY, (va) => {
    found.add(Math.floor(va / PAGES_PER_GIGABYTE));
  });
  return [...found].sort((a, b) => a - b);
}

function addGib(m: Machine, start: number, runs: Runs): void {
  const k = kremapOf(m);
  const end = start + PAGES_PER_GIGABYTE;
  let differs = false;
  k?.translation.forEachDisplaced(start, end, () => {
    differs = true;
  });
  if (!differs && mappedBy1G(m, start)) {
    runs.add({ area: 'direct', level: 'pud', va: start, pages: PAGES_PER_GIGABYTE, pfn: start });
    return;
  }
  for (let va = start; va < end; va += PAGEBLOCK_PAGES) {
    const present = m.sections.indexOf(toPfn(va)) >= 0;
    const whole = k?.map.wholeDistance(va);
    if (k?.map.isSplit(va) === true) addPages(m, va, runs);
    else if (whole !== undefined)
      runs.add({ area: 'direct', level: 'pmd', va, pages: PAGEBLOCK_PAGES, pfn: va + whole });
    else if (present) runs.add({ area: 'direct', level: 'pmd', va, pages: PAGEBLOCK_PAGES, pfn: va });
  }
}

/** The entries of a split leaf. An address whose frame serves another one is not mapped twice here: it is nobody's. */
function addPages(m: Machine, start: number, runs: Runs): void {
  const present = m.sections.indexOf(toPfn(start)) >= 0;
  const translation = kremapOf(m)?.translation;
  for (let va = start; va < start + PAGEBLOCK_PAGES; va++) {
    const pfn = translation?.virtToPhys(va) ?? va;
    if (pfn >= 0 && (pfn !== va || present)) runs.add({ area: 'direct', level: 'pte', va, pages: 1, pfn });
  }
}
