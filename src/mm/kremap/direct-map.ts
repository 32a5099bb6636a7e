// The direct map's leaves: how large the pages are by which the kernel reaches memory, and what displaced pages do to them.
//
//   1 GiB leaf ──first leaf of it that differs──> 512 leaves of 2 MiB             + 1 table (PMD)
//   2 MiB leaf ──first displaced page──> 512 entries of 4 KiB     a split         + 1 table (PTE)
//   2 MiB leaf ──moved whole, offset by offset──> 2 MiB leaf elsewhere             no table, no cost for the TLB
//   2 MiB leaf <──last displaced page home, or freed── 512 entries   a collapse   - 1 table
//
//   table    key                      value
//   leaves   VA page >>> 9            displaced pages, and the distance of a leaf that was moved whole
//   images   VA page >>> 9            displaced pages whose second alias, the kernel image's, was displaced too
//   gibs     VA page >>> 18           leaves in it that differ; whether it was one leaf of 1 GiB
//
// A page that is displaced leaves its 2 MiB mapped by small pages, the target's 2 MiB stays one leaf: the frame is then
// mapped twice, and the address of the target's own name is nobody's. The image alias has leaves of 2 MiB of its own, at
// 0xffffffff80000000 on x86-64.
//
// Invariants: R4 splits - collapses = leaves (of both aliases) with a displaced page that were not moved whole; tables =
// leaves split + GiB split. Follows Linux v6.12 arch/x86/mm/pat/set_memory.c: split_large_page(), and
// arch/x86/mm/init_64.c; collapsing is 6.14's cpa_collapse_large_pages() (spec 9.C, large mappings).

import { assert } from '#base/assert';
import { toPfn } from '#base/units';
import { PAGEBLOCK_PAGES, PAGES_PER_SECTION } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { PAGES_PER_GIGABYTE } from '../memmap.ts';

/** A leaf of 2 MiB with displaced pages. */
type Leaf = {
  readonly displaced: number;
  /** Moved whole: frame minus address of each page; undefined = split into 4 KiB. */
  readonly whole: number | undefined;
};

type Gib = { readonly leaves: number; readonly was1G: boolean };

export const leafOf = (va: number): number => Math.floor(va / PAGEBLOCK_PAGES);
const gibOf = (va: number): number => Math.floor(va / PAGES_PER_GIGABYTE);

export class DirectMap {
  /** Leaves of 2 MiB that became small pages, and those that became one again; both aliases. */
  splits = 0;
  collapses = 0;
  /** The same of leaves of 1 GiB. */
  splits1G = 0;
  collapses1G = 0;
  #leaves = new Map<number, Leaf>();
  #images = new Map<number, number>();
  #gibs = new Map<number, Gib>();
  /** Leaves that are split now; both aliases. */
  #split = 0;
  #split1G = 0;

  /** Leaves of 2 MiB that are mapped by small pages now; both aliases. */
  get splitLeaves(): number {
    return this.#split;
  }

  /** Leaves of 2 MiB that lie elsewhere as a whole. */
  get wholeLeaves(): number {
    let n = 0;
    for (const leaf of this.#leaves.values()) if (leaf.whole !== undefined) n++;
    return n;
  }

  /** Page tables that large leaves do without. */
  get tables(): number {
    return this.#split + this.#split1G;
  }

  /** Is the leaf around `va` mapped by small pages? */
  isSplit(va: number): boolean {
    const leaf = this.#leaves.get(leafOf(va));
    return leaf !== undefined && leaf.whole === undefined;
  }

  /** Frame minus address of a leaf that was moved whole; undefined for all others. */
  wholeDistance(va: number): number | undefined {
    return this.#leaves.get(leafOf(va))?.whole;
  }

  /** Tables that displacing [va, va + pages) by small pages would take. Cost O(leaves touched). */
  tablesFor(m: Machine, va: number, pages: number, image: boolean, whole: number | undefined): number {
    let tables = 0;
    let gib = -1;
    for (let leaf = leafOf(va); leaf <= leafOf(va + pages - 1); leaf++) {
      const at = leaf * PAGEBLOCK_PAGES;
      const has = this.#leaves.get(leaf);
      const splits = has === undefined ? whole === undefined : has.whole !== undefined && has.whole !== whole;
      if (splits) tables++;
      if (image && !this.#images.has(leaf)) tables++;
      if (gib !== gibOf(at) && !this.#gibs.has(gibOf(at)) && mappedBy1G(m, at)) tables++;
      gib = gibOf(at);
    }
    return tables;
  }

  /** `va` leads to another frame from now on. @param whole  with its whole leaf, by this distance. */
  displace(m: Machine, va: number, image: boolean, whole: number | undefined): void {
    const key = leafOf(va);
    const leaf = this.#leaves.get(key);
    if (leaf === undefined) {
      this.#leaves.set(key, { displaced: 1, whole });
      if (whole === undefined) this.#splitOne();
      this.#enterGib(m, va);
    } else {
      const stays = leaf.whole !== undefined && leaf.whole === whole;
      if (leaf.whole !== undefined && !stays) this.#splitOne();
      this.#leaves.set(key, { displaced: leaf.displaced + 1, whole: stays ? whole : undefined });
    }
    if (!image) return;
    const images = this.#images.get(key) ?? 0;
    if (images === 0) this.#splitOne();
    this.#images.set(key, images + 1);
  }

  /** `va` is identity again. */
  restore(va: number, image: boolean): void {
    const key = leafOf(va);
    const leaf = this.#leaves.get(key);
    assert(leaf !== undefined, 'no displaced page in this leaf', { va });
    if (leaf.displaced > 1) this.#leaves.set(key, { ...leaf, displaced: leaf.displaced - 1 });
    else {
      this.#leaves.delete(key);
      if (leaf.whole === undefined) this.#collapseOne();
      this.#leaveGib(va);
    }
    if (!image) return;
    const images = this.#images.get(key) as number; // displace counted it
    if (images > 1) this.#images.set(key, images - 1);
    else {
      this.#images.delete(key);
      this.#collapseOne();
    }
  }

  #splitOne(): void {
    this.splits++;
    this.#split++;
  }

  #collapseOne(): void {
    this.collapses++;
    this.#split--;
  }

  #enterGib(m: Machine, va: number): void {
    const gib = this.#gibs.get(gibOf(va));
    if (gib !== undefined) {
      this.#gibs.set(gibOf(va), { ...gib, leaves: gib.leaves + 1 });
      return;
    }
    const was1G = mappedBy1G(m, va);
    this.#gibs.set(gibOf(va), { leaves: 1, was1G });
    if (!was1G) return;
    this.splits1G++;
    this.#split1G++;
  }

  #leaveGib(va: number): void {
    const gib = this.#gibs.get(gibOf(va)) as Gib; // enterGib made it
    if (gib.leaves > 1) {
      this.#gibs.set(gibOf(va), { ...gib, leaves: gib.leaves - 1 });
      return;
    }
    this.#gibs.delete(gibOf(va));
    if (!gib.was1G) return;
    this.collapses1G++;
    this.#split1G--;
  }

  copy(): DirectMap {
    const out = new DirectMap();
    out.splits = this.splits;
    out.collapses = this.collapses;
    out.splits1G = this.splits1G;
    out.collapses1G = this.collapses1G;
    out.#leaves = new Map(this.#leaves); // values are never changed in place
    out.#images = new Map(this.#images);
    out.#gibs = new Map(this.#gibs);
    out.#split = this.#split;
    out.#split1G = this.#split1G;
    return out;
  }

  /** Against a recount. @param displaced  displaced addresses of each leaf, and whether each has an image. */
  check(displaced: ReadonlyMap<number, { readonly pages: number; readonly images: number }>): string[] {
    const wrong: string[] = [];
    let split = 0;
    for (const [key, leaf] of this.#leaves) {
      const want = displaced.get(key)?.pages ?? 0;
      if (want !== leaf.displaced) wrong.push(`R4 leaf ${key}: ${want} displaced pages, counted ${leaf.displaced}`);
      if (leaf.whole === undefined) split++;
    }
    for (const [key, { images }] of displaced) {
      if (!this.#leaves.has(key)) wrong.push(`R4 leaf ${key} has displaced pages and is not split`);
      if (images !== (this.#images.get(key) ?? 0)) wrong.push(`R4 leaf ${key}: ${images} pages of the image alias`);
      if (images > 0) split++;
    }
    if (split !== this.splits - this.collapses || split !== this.#split) {
      wrong.push(`R4 ${split} leaves are split, counted ${this.splits} - ${this.collapses}`);
    }
    const gibs = [...this.#gibs.values()];
    if (gibs.reduce((n, g) => n + g.leaves, 0) !== this.#leaves.size) wrong.push('R4 leaves and GiB do not agree');
    const split1G = gibs.filter((g) => g.was1G).length;
    if (split1G !== this.splits1G - this.collapses1G || split1G !== this.#split1G) {
      wrong.push(`R4 ${split1G} GiB are split, counted ${this.splits1G} - ${this.collapses1G}`);
    }
    return wrong;
  }
}

/**
 * Is the GiB around `va` mapped by one leaf? Memory that was added: as its plan says (memmap.ts); memory from boot: where
 * all of the GiB is there, as on every x86-64 server. Cost O(adds).
 */
export function mappedBy1G(m: Machine, va: number): boolean {
  const start = gibOf(va) * PAGES_PER_GIGABYTE;
  const end = start + PAGES_PER_GIGABYTE;
  const added = m.hotplug.ranges.find((r) => r.start < end && start < r.end);
  if (added !== undefined) return added.start <= start && end <= added.end && added.directMap.leaves1G > 0;
  for (let pfn = start; pfn < end; pfn += PAGES_PER_SECTION) if (m.sections.indexOf(toPfn(pfn)) < 0) return false;
  return true;
}
