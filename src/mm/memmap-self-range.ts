// The struct pages of a whole added range at its own head: who still needs them, and in what order they go.
//
//   range       | section 0            | section 1            | ...            | section N-1          |
//   its head    |MMMMMMMMMMMMMMMMMMMMMM|MMMM                  |                |                      |
//                leaf 0, leaf 1, ...  leaf N-1: 512 frames each; leaf k holds the struct pages of section k
//
// Each section holds one reference on the head. Sections are removed first to last; a removal only drops its reference,
// because the head still describes the sections that come after. The last one frees all leaves, last to first: to free
// leaf k one looks at the struct pages of its 512 frames, and they lie on leaf floor(512 k / 32768), a lower one or
// itself. Freed first to last, leaf 1 would be looked up on a leaf that is gone.
//
//   state       event                      goes to      trace
//   added       removeSection(first)       removing     -
//   removing    removeSection(next)        removing     -
//   removing    removeSection(last)        gone         vmemmap-free, N times, highest first
//
// Invariants: MR1 refcount = sections that are not removed; MR2 nothing is freed before it is 0; MR3 a leaf is freed while
// the leaf with the struct pages of its frames is still there; MR4 what is freed is the memmap, each leaf once.
//
// Follows Salvador and Hildenbrand 2018 (spec 4.1); the frames themselves are the machine's business (memmap.ts).

import { assert } from '#base/assert';
import { hex } from '#base/format';
import { type Pfn, toPfn } from '#base/units';
import { PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import { STRUCT_PAGE_SIZE } from './memmap.ts';

/** Frames of a leaf: 2 MiB of struct pages, which is a section's worth (asserted in memmap.ts). */
const LEAF_PAGES = PAGEBLOCK_PAGES;

/** Frame numbers; formatSelfRangeEvent says where their struct pages are. */
export type SelfRangeEvent =
  /** The first and the last frame of the head, and the references on it. */
  | { readonly type: 'added'; readonly firstPfn: Pfn; readonly lastPfn: Pfn; readonly refcount: number }
  /** The struct pages of [startPfn, endPfn) are given up. */
  | { readonly type: 'vmemmap-free'; readonly startPfn: Pfn; readonly endPfn: Pfn };

export type SelfRangeState = 'added' | 'removing' | 'gone';

export class SelfRange {
  readonly startPfn: Pfn;
  readonly sections: number;
  state: SelfRangeState = 'added';
  refcount: number;
  readonly #trace: (event: SelfRangeEvent) => void;
  /** Leaves [0, #leaves) are mapped. */
  #leaves: number;

  /** @param range  whole sections. @param trace  hears of the add at once, and of every leaf that is freed */
  constructor(range: { readonly startPfn: Pfn; readonly pages: number }, trace: (event: SelfRangeEvent) => void) {
    const { startPfn, pages } = range;
    const whole = pages > 0 && startPfn % PAGES_PER_SECTION === 0 && pages % PAGES_PER_SECTION === 0;
    assert(whole, 'a range that hosts its memmap is whole sections', range);
    this.startPfn = startPfn;
    this.sections = pages / PAGES_PER_SECTION;
    this.refcount = this.sections;
    this.#leaves = this.sections;
    this.#trace = trace;
    trace({
      type: 'added',
      firstPfn: startPfn,
      lastPfn: toPfn(startPfn + this.headPages - 1),
      refcount: this.refcount,
    });
  }

  /** Frames of the head. */
  get headPages(): number {
    return this.sections * LEAF_PAGES;
  }

  /** The next section of the range is removed: `section` counts from its start. Any other than the next is a bug. */
  removeSection(section: number): void {
    const next = this.sections - this.refcount;
    assert(this.state !== 'gone' && section === next, 'sections are removed first to last', { section, next });
    this.state = 'removing';
    this.refcount--;
    if (this.refcount === 0) this.#freeBackwards();
  }

  #freeBackwards(): void {
    while (this.#leaves > 0) {
      const leaf = this.#leaves - 1;
      const describedBy = describingLeaf(leaf);
      assert(describedBy < this.#leaves, 'the struct pages of a leaf are gone before it', { leaf, describedBy });
      const startPfn = toPfn(this.startPfn + leaf * PAGES_PER_SECTION);
      this.#trace({ type: 'vmemmap-free', startPfn, endPfn: toPfn(startPfn + PAGES_PER_SECTION) });
      this.#leaves = leaf;
    }
    this.state = 'gone';
  }
}

/** The leaf that holds the struct pages of the frames of a leaf. */
export const describingLeaf = (leaf: number): number => Math.floor((leaf * LEAF_PAGES) / PAGES_PER_SECTION);

/** Where the array of struct pages starts on x86-64 without KASLR: 2^64 - VMEMMAP_BELOW. */
const VMEMMAP_BELOW = 0x160000000000;

/** Address of a frame's struct page, 16 digits: 0x100000 -> "ffffea0004000000". Frames below 2^38. */
export function structPageAddress(pfn: number): string {
  // The upper half of the address is all ones down to bit 45, so that it is counted from the end: exact in a double.
  const below = VMEMMAP_BELOW - pfn * STRUCT_PAGE_SIZE;
  assert(below > 0, 'the struct page lies beyond the virtual memmap', { pfn });
  const low = 2 ** 52 - below;
  return `fff${hex(low, 13)}`;
}

/** As the kernel of the document printed it. */
export function formatSelfRangeEvent(event: SelfRangeEvent): string {
  if (event.type === 'added') {
    const { firstPfn, lastPfn, refcount } = event;
    return `${structPageAddress(firstPfn)} - ${structPageAddress(lastPfn)} (refcount: ${refcount})`;
  }
  return `vmemmap_free: start/end: ${structPageAddress(event.startPfn)} - ${structPageAddress(event.endPfn)}`;
}
