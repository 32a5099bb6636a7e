// What is to become of large pages when an area is emptied, area by area; and what that has cost so far.
//
//   frames   0 ............ start ─────────── end ......... start ──── end .........
//   policy        linux          punt               linux        split       linux
//
//   policy             a large page in use, in memory that is to go
//   linux              as Linux does by type: THP move whole, or split when there is no room; huge pages of 2 MiB move whole;
//                      of 1 GiB refuse
//   punt               refuses, before anything is touched ("just punt like AIX")
//   split              becomes small pages, which move: 2 MiB into 4 KiB; 1 GiB into 2 MiB, and those further without room
//   migrate            moves whole, or waits for room
//   migrate-or-split   moves whole if there is room, else it is split
//
// Large: one translation of 2 MiB or more. Free pages of a huge page pool are nobody's: policies leave them to the offline,
// which dissolves them. What splits cost is counted in leaves lost: a leaf of 2 MiB becomes 512 of 4 KiB, one of 1 GiB 512
// of 2 MiB, each of which needs a TLB entry of its own.
//
// Invariants: LP1 areas are disjoint, ascending, and none of them says linux; neighbours differ.
// Spec 9.F5; Hansen 2005: "Is it better to just punt like AIX and refuse to remove their areas? Break them down into small
// pages and degrade performance?"

import { err, ok, type Result } from '#base/result';
import { type HolderId, type Pfn, toPfn } from '#base/units';
import { PAGEBLOCK_ORDER } from './geometry.ts';
import type { Machine } from './machine.ts';
import { machineState } from './machine-state.ts';
import { type Refusal, refusal } from './refusal.ts';

export const LARGE_PAGE_POLICIES = ['linux', 'punt', 'split', 'migrate', 'migrate-or-split'] as const;
export type LargePagePolicy = (typeof LARGE_PAGE_POLICIES)[number];

export type LargePageArea = { readonly start: Pfn; readonly end: Pfn; readonly policy: LargePagePolicy };

export type LargePageStat = {
  /** Leaves of 2 MiB that were lost to splits, by Linux's own too. */
  readonly lost2M: number;
  /** Leaves of 1 GiB that were lost to splits; each left 512 of 2 MiB. */
  readonly lost1G: number;
  /** Pages of 1 GiB that moved whole. */
  readonly moved1G: number;
};

/** @internal */
export class LargePageState {
  areas: LargePageArea[] = [];
  lost2M = 0;
  lost1G = 0;
  moved1G = 0;
  /** Who has the frames that a page of 1 GiB is about to move to; -1 = nobody yet. */
  target: HolderId | -1 = -1;
  /** Who has the pages of 2 MiB that pages of 1 GiB were split into, by who had those. */
  readonly heirs = new Map<HolderId, HolderId>();

  copy(): LargePageState {
    const out = new LargePageState();
    out.areas = this.areas.slice();
    out.lost2M = this.lost2M;
    out.lost1G = this.lost1G;
    out.moved1G = this.moved1G;
    out.target = this.target;
    for (const [from, to] of this.heirs) out.heirs.set(from, to);
    return out;
  }
}

/** @internal */
export const largePageStates = machineState(() => new LargePageState());

/** @internal An allocation of 2^order frames was split into single frames. */
export function countSplit(m: Machine, order: number): void {
  if (order >= PAGEBLOCK_ORDER) largePageStates.of(m).lost2M += 1 << (order - PAGEBLOCK_ORDER);
}

/** The policy of the area that a frame lies in. Cost O(log areas). */
export function largePagePolicyAt(m: Machine, pfn: Pfn): LargePagePolicy {
  const areas = largePageStates.has(m)?.areas ?? [];
  let low = 0;
  let high = areas.length;
  while (low < high) {
    const mid = (low + high) >>> 1;
    if (areas[mid].end <= pfn) low = mid + 1;
    else high = mid;
  }
  const area = areas[low];
  return area !== undefined && area.start <= pfn ? area.policy : 'linux';
}

/** Pieces of the areas outside of [start, end), and the new one in between. */
function withArea(areas: readonly LargePageArea[], area: LargePageArea): LargePageArea[] {
  const { start, end, policy } = area;
  const out: LargePageArea[] = [];
  const add = (a: LargePageArea): void => {
    const last = out[out.length - 1];
    if (a.start >= a.end || a.policy === 'linux') return;
    if (last?.end === a.start && last.policy === a.policy) out[out.length - 1] = { ...last, end: a.end };
    else out.push(a);
  };
  for (const a of areas) add({ ...a, end: toPfn(Math.min(a.end, start)) });
  add({ start, end, policy });
  for (const a of areas) add({ ...a, start: toPfn(Math.max(a.start, end)) });
  return out;
}

export type LargePages = {
  /** From now on; what an earlier call said of these frames is forgotten. 'linux' ends it. EINVAL: no range. */
  set(range: { readonly start: Pfn; readonly end: Pfn }, policy: LargePagePolicy): Result<void, Refusal>;
  at(pfn: Pfn): LargePagePolicy;
  areas(): readonly LargePageArea[];
  stat(): LargePageStat;
};

/** The policies of a machine. Its forks have their own. */
export function largePages(m: Machine): LargePages {
  return {
    set({ start, end }, policy) {
      if (!(Number.isInteger(start) && Number.isInteger(end) && start >= 0 && start < end)) {
        return err(refusal('bad-argument', `[${start}, ${end}) is no range of frames`));
      }
      const state = largePageStates.of(m);
      state.areas = withArea(state.areas, { start, end, policy });
      return ok(undefined);
    },
    at: (pfn) => largePagePolicyAt(m, pfn),
    areas: () => largePageStates.has(m)?.areas ?? [],
    stat() {
      const { lost2M = 0, lost1G = 0, moved1G = 0 } = largePageStates.has(m) ?? {};
      return { lost2M, lost1G, moved1G };
    },
  };
}
