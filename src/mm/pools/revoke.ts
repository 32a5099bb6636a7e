// Revocation: the host takes memory back from an opportunistic pool, before a deadline.
//
//   guest      guaranteed  ████████████  never revoked, ballooned, reported, lent or reclaimed
//              opportunistic ▓▓▓▒▒▒▒▒▒▒  ▒ free: at once    ▓ used: shed (shed.ts), the cheapest chunks first
//                            ──revoke──>  pool of the host, which nobody in the guest may allocate from
//                            <──move────  and back, when the host has memory to spare
//
//   to         names the pool that gets the frames: one that stands for the host; without it they go where they were
//              carved from, as if the pool had been made smaller: then the machine is the host, and its pools the guests
//   min        stays free in the pool, and stays its own: only what is above was ever opportunistic
//   deadline   a budget of pages that are moved or dropped, or expired(), asked before each of them; free frames cost
//              nothing. There is no clock in mm
//
//   ends with  all pages                  ok
//              the deadline               revoke-timeout (ETIMEDOUT), and every frame is back; `partial`: ok, with fewer
//              nothing left that moves    pool-busy (EBUSY), with what stays; `partial`: ok, with fewer
//
// What was dropped or has moved stays so after a refusal, and the frames that it left are free in the pool.
//
// Invariants: a refusal leaves every frame with its pool; frames on loan to the pool stay. Spec 9.A, semantics 9. After
// Snook 2007: "a chunk of guaranteed-fast memory for critical stuff, while still allowing it to use as much capacity as is
// available when other guests are idle".

import { err, ok, type Result } from '#base/result';
import { CHUNK_PAGES, MAX_ORDER } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { BlockerList, blockerOf } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import { type Blocker, type Refusal, refusal } from '../refusal.ts';
import type { UsedFrames } from './migrate-within.ts';
import { fittingRanges, freeToGive, isIsolated, labelsOf, onLoan, roomOf, settle } from './pool-fit.ts';
import { type FrameRange, givable, moveFree } from './pool-move.ts';
import { attrsOf, leasedIn, may, type PoolAttrs, type Principal, poolNamed, poolTableOf } from './pool-table.ts';
import { relabelFree } from './relabel.ts';
import { isGone, ownIn, raggedPieces, type Shed, vacate, waysOutOf, wholePieces } from './shed.ts';

export type RevokeSpec = {
  /** The opportunistic pool. */
  readonly from: string;
  /** 1 or more. */
  readonly pages: number;
  /** The user pool that gets them. Default: where they were carved from. */
  readonly to?: string;
  /** Pages that may be moved or dropped. Default: any number. */
  readonly budget?: number;
  /** Asked before each page that is moved or dropped: is it too late? Default: never. */
  readonly expired?: () => boolean;
  /** As many as could be had in time. Default false: all or nothing. */
  readonly partial?: boolean;
};

export type Revoked = {
  readonly pages: number;
  /** Of these, pages that were used. */
  readonly moved: number;
  readonly dropped: number;
  /** Why there are not more; undefined: all that were asked for. */
  readonly missing: Refusal | undefined;
};

const no = (reason: Parameters<typeof refusal>[0], message: string): { ok: false; error: Refusal } =>
  err(refusal(reason, message));

/** Frames that have left, and to whom they went. */
type Given = { readonly range: FrameRange; readonly to: Pool };

type Work = {
  readonly a: PoolAttrs;
  readonly from: Pool;
  /** undefined: each frame goes home. */
  readonly to: Pool | undefined;
  readonly ranges: readonly FrameRange[] | undefined;
  readonly given: Given[];
  readonly busy: BlockerList;
  left: number;
  budget: number;
  moved: number;
  dropped: number;
  late: boolean;
};

/**
 * Takes pages back.
 *
 * @returns what was given up. EPERM: no `reclaim` on the pool, or its class is not opportunistic. ENOSPC: its min, the max
 *          of `to`. EXDEV: `to` may have none of its frames. ETIMEDOUT, EBUSY: above. EINVAL, ENOENT: no such pool, number
 *          or budget. Cost O(pieces + pages shed); O(frames in use) for a pool without a whole chunk that can be emptied
 */
export function revoke(m: Machine, spec: RevokeSpec, as: Principal): Result<Revoked, Refusal> {
  const checked = check(m, spec, as);
  if (!checked.ok) return checked;
  const w = checked.value;
  const { from, a } = w;
  const expired = spec.expired ?? (() => false);
  giveFree(m, w);
  if (w.left > 0) {
    from.alloc.disable(); // what is shed is to be found at once
    giveUsed(m, w, expired);
    from.alloc.enable();
  }
  const pages = spec.pages - w.left;
  const missing = w.left === 0 ? undefined : shortfall(w, spec.pages);
  if (missing !== undefined && spec.partial !== true) {
    for (const g of w.given.reverse()) relabelFree(m, g.to, from, g.range.start, g.range.end);
    settleAll(m, w);
    return err(missing);
  }
  settleAll(m, w);
  m.emit({ type: 'pool', verb: 'revoke', pool: a.name, pages, ...(spec.to !== undefined && { to: spec.to }) });
  return ok({ pages, moved: w.moved, dropped: w.dropped, missing });
}

function check(m: Machine, spec: RevokeSpec, as: Principal): Result<Work, Refusal> {
  const { pages, budget = Number.POSITIVE_INFINITY } = spec;
  const a = poolNamed(m, spec.from);
  if (a === undefined) return no('no-such-pool', `there is no pool ${spec.from}`);
  const b = spec.to === undefined ? undefined : poolNamed(m, spec.to);
  if (spec.to !== undefined && b === undefined) return no('no-such-pool', `there is no pool ${spec.to}`);
  if (!Number.isSafeInteger(pages) || pages < 1) return no('bad-argument', `${pages} is no number of pages to revoke`);
  if (!(budget >= 0)) return no('bad-argument', `${budget} is no number of pages to move`);
  if (b !== undefined && (b.kind === 'zone' || b.id === a.id)) {
    return no('bad-argument', `what ${a.name} gives up cannot go to ${b.name}: name a pool, or none`);
  }
  if (a.class !== 'opportunistic') return no('permission', `pool ${a.name} is ${a.class}: its pages are not revoked`);
  if (!may(a, as, 'reclaim')) return no('permission', `${as} may not reclaim pages of pool ${a.name}`);
  const from = m.pools[a.id] as Pool;
  const own = from.managed - onLoan(m, a.id).in;
  if (own - pages < a.min) return no('guarantee', `pool ${a.name} has ${own} pages of its own, its min is ${a.min}`);
  if (b !== undefined && pages > roomOf(m, b)) {
    return no('guarantee', `pool ${b.name} has ${(m.pools[b.id] as Pool).present} pages, its max is ${b.max}`);
  }
  const ranges = b === undefined ? undefined : fittingRanges(m, from, b);
  if (ranges?.length === 0) return no('label', `pool ${(b as PoolAttrs).name} may have no frame of ${a.name}`);
  return ok({
    a,
    from,
    to: b && (m.pools[b.id] as Pool),
    ranges,
    given: [],
    busy: new BlockerList(),
    left: pages,
    budget,
    moved: 0,
    dropped: 0,
    late: false,
  });
}

/** Where frames go: the pool that was named, else the parent, else the zones that label them, scarce ones first. */
function homesOf(m: Machine, w: Work): Pool[] {
  if (w.to !== undefined) return [w.to];
  const parent = poolNamed(m, w.a.parent);
  if (parent?.kind === 'user') return [m.pools[parent.id] as Pool];
  return labelsOf(m, w.from).sort((x, y) => x.zone - y.zone || x.id - y.id);
}

/** The home of the frame at `index`. */
function homeOf(m: Machine, w: Work, index: number): Pool {
  const homes = homesOf(m, w);
  return homes.length === 1 ? (homes[0] as Pool) : (m.zoneAt(index) as Pool); // an owned frame has a label
}

function give(m: Machine, w: Work, start: number, end: number): void {
  const to = homeOf(m, w, start);
  relabelFree(m, w.from, to, start, end);
  w.given.push({ range: { start, end }, to });
  w.left -= end - start;
}

/** Free frames above the pool's min: largest pieces first. */
function giveFree(m: Machine, w: Work): void {
  const { from, a } = w;
  let spare = givable(m, from) - a.min;
  for (const to of homesOf(m, w)) {
    const ranges = w.to === undefined ? fittingRanges(m, from, attrsOf(m, to.id)) : w.ranges;
    const take = Math.min(w.left, freeToGive(m, from, ranges), spare);
    if (take <= 0) continue;
    for (const range of moveFree(m, from, to, take, ranges)) {
      w.given.push({ range, to });
      w.left -= range.end - range.start;
      spare -= range.end - range.start;
    }
  }
}

/** Used pages, chunk by chunk. Bounded by the pages that are used. */
function giveUsed(m: Machine, w: Work, expired: () => boolean): void {
  const { from } = w;
  const whole = wholePieces(m, from, MAX_ORDER, from.pages / CHUNK_PAGES);
  const done = new Set(whole.map((p) => p.start));
  const ways = waysOutOf(m, from, 0);
  for (const piece of [...whole, ...raggedPieces(m, from).filter((p) => !done.has(p.start))]) {
    for (const a of ownIn(m, from, piece)) {
      if (w.left === 0) return;
      const pages = 1 << a.order;
      if (!mayGive(m, w, a)) continue;
      if (w.budget < pages || expired()) {
        w.late = true;
        return;
      }
      const how = vacate(m, from, a, ways);
      if (!isGone(how)) {
        w.busy.add(blockerOf(m, a.head, pages, how));
        continue;
      }
      count(w, how, pages);
      give(m, w, a.head, a.head + Math.min(w.left, pages));
    }
  }
}

function count(w: Work, how: Shed, pages: number): void {
  w.budget -= pages;
  if (how === 'moved') w.moved += pages;
  else w.dropped += pages;
}

/** Are the allocation's frames the pool's own, and may `to` have them? */
function mayGive(m: Machine, w: Work, a: UsedFrames): boolean {
  const pfn = m.sections.pfnOf(a.head);
  const end = pfn + (1 << a.order);
  if (w.ranges !== undefined && !w.ranges.some((r) => r.start <= pfn && end <= r.end)) return false;
  return leasedIn(poolTableOf(m), pfn, end) === undefined && !isIsolated(w.from, a.head, a.head + (1 << a.order));
}

function shortfall(w: Work, asked: number): Refusal {
  const { a, left, busy } = w;
  const had = `${asked - left} of ${asked} pages`;
  if (w.late) return refusal('revoke-timeout', `pool ${a.name}: ${had} before the deadline`, busy.items);
  const first = busy.items[0] as Blocker | undefined;
  const why =
    first === undefined ? 'the rest cannot move' : `the first of the rest is ${first.name}'s (${first.cause})`;
  return refusal('pool-busy', `pool ${a.name}: ${had}, ${why}`, busy.items);
}

function settleAll(m: Machine, w: Work): void {
  for (const to of new Set(w.given.map((g) => g.to))) settle(m, w.from, to);
}
