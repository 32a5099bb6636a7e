// Leases: one pool borrows free frames of another, and gives them back.
//
//   lender   │ free ▒▒▒▒ ──borrow──> borrower │ ▒▒▒▒ │         the frames change their owner, never their label; the
//            │      ▒▒▒▒ <─giveBack─          │ ▒▓▓▒ │         lease remembers which ones they are
//                      free at once, used ones (▓) after their contents moved to other frames of the borrower
//
//   who lends     any pool but realtime, guaranteed and dma ones: what these keep is kept for somebody
//   who borrows   any user pool but realtime ones: what is preallocated cannot be asked for again
//   how much      the lender keeps `min` free (a zone its min watermark); the borrower stays below its max
//   what          frames that the borrower may have by its nodes, zones and ranges (pool-fit.ts)
//   and again     borrowed frames are not lent, moved, reclaimed or revoked: the one that may ask for them is the lender.
//                 A borrower may lend what is its own, so that leases may form chains, but never a circle
//
// A lease is for these frames, not for a number of frames: neither side finds others in their place. So memory with frames
// on loan cannot go offline before they are given back (vacate-block.ts names the lease).
//
// Giving back goes through all frames of the lease twice. First those that are free: then no page can find its new place
// among frames that are about to leave. Then the used ones, by migration. A page that does not move stops it, and
// everything that was given back returns to the borrower; with `partial` it stays given back, and the lease shrinks.
//
// Invariants: I6 the lease graph has no circle, each frame of a lease is the borrower's, none is on loan twice
// (check-pools.ts). A refusal leaves every frame with its pool. Spec 9.A, semantics 4 and 5. After Snook 2007:
// "allowing pages or groups of pages to be moved between them when necessary".

import { err, ok, type Result } from '#base/result';
import type { Machine } from '../machine.ts';
import { allocationsIn, BlockerList, blockerOf } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import { type Blocker, type Refusal, refusal } from '../refusal.ts';
import { migrateWithin } from './migrate-within.ts';
import { fittingRanges, freeToGive, isIsolated, roomOf, settle } from './pool-fit.ts';
import { denseRuns, type FrameRange, givable, moveFree } from './pool-move.ts';
import {
  attrsOf,
  type Lease,
  may,
  type PoolAttrs,
  type PoolClass,
  type Principal,
  poolNamed,
  poolTableOf,
} from './pool-table.ts';
import { relabelFree } from './relabel.ts';

export type BorrowSpec = {
  /** Names of the lender and of the borrower. */
  readonly from: string;
  readonly to: string;
  /** 1 or more. */
  readonly pages: number;
  /** As many as there are, if there are fewer; never none. Default false. */
  readonly partial?: boolean;
};

export type GivenBack = {
  readonly pages: number;
  /** Pages that are still on loan: 0 = the lease has ended. Only `partial` leaves any. */
  readonly left: number;
  /** What keeps them. */
  readonly blockers: readonly Blocker[];
};

/** Classes that keep what they have for somebody. */
export const NEVER_LEND: readonly PoolClass[] = ['realtime', 'guaranteed', 'dma'];

const no = (reason: Parameters<typeof refusal>[0], message: string): { ok: false; error: Refusal } =>
  err(refusal(reason, message));

/**
 * Takes a loan.
 *
 * @returns the lease. EPERM: no `donate` on the lender, no `alloc` on the borrower, a class that does not lend or borrow.
 *          EINVAL: a circle, a zone that borrows. ENOSPC: the lender's min, the borrower's max. ENOMEM: too few free
 *          frames. EXDEV: none that the borrower may have. Cost O(pieces); O(pageblocks of the lender) where not any frame will do
 */
export function borrow(m: Machine, spec: BorrowSpec, as: Principal): Result<Lease, Refusal> {
  const { pages, partial = false } = spec;
  const ends = endsOf(m, spec, as);
  if (!ends.ok) return ends;
  const { a, b } = ends.value;
  const from = m.pools[a.id] as Pool;
  const to = m.pools[b.id] as Pool;
  const ranges = fittingRanges(m, from, b);
  if (ranges?.length === 0) return no('label', `pool ${b.name} may have no frame of ${a.name}`);
  const free = givable(m, from);
  const fitting = freeToGive(m, from, ranges);
  const floor = a.kind === 'zone' ? Math.max(0, from.watermarks.min) : a.min;
  const room = roomOf(m, b);
  const most = Math.max(0, Math.min(free - floor, fitting, room));
  const take = partial ? Math.min(pages, most) : pages;
  if (take > most || take === 0) {
    if (take > room || room === 0) {
      return no('guarantee', `pool ${b.name} has ${to.present} pages, its max is ${b.max}`);
    }
    if (take > fitting || fitting === 0) {
      return no('no-memory', `pool ${a.name}: ${pages} pages are asked for, ${fitting} are free`);
    }
    return no('guarantee', `pool ${a.name}: ${free - pages} pages would stay free, ${floor} have to`);
  }

  // ═══ Point of no return: nothing below can fail. ═══
  const table = poolTableOf(m);
  const moved = moveFree(m, from, to, take, ranges);
  const lease: Lease = {
    id: table.nextLease++,
    from: a.id,
    to: b.id,
    principal: as,
    ranges: joined(moved.map((r) => framesOf(m, r))),
    pages: take,
  };
  table.leases.set(lease.id, lease);
  settle(m, from, to);
  m.emit({ type: 'pool', verb: 'borrow', pool: a.name, to: b.name, pages: take });
  return ok(lease);
}

/** Both ends of a lease that may be taken, but for how much there is. */
function endsOf(m: Machine, spec: BorrowSpec, as: Principal): Result<{ a: PoolAttrs; b: PoolAttrs }, Refusal> {
  const a = poolNamed(m, spec.from);
  if (a === undefined) return no('no-such-pool', `there is no pool ${spec.from}`);
  const b = poolNamed(m, spec.to);
  if (b === undefined) return no('no-such-pool', `there is no pool ${spec.to}`);
  if (!Number.isSafeInteger(spec.pages) || spec.pages < 1) {
    return no('bad-argument', `${spec.pages} is no number of pages to borrow`);
  }
  if (a.id === b.id) return no('bad-argument', `pool ${a.name} is both ends`);
  if (b.kind === 'zone') return no('bad-argument', `${b.name} is a zone: it borrows nothing`);
  if (!may(a, as, 'donate')) return no('permission', `${as} may not donate pages of pool ${a.name}`);
  if (!may(b, as, 'alloc')) return no('permission', `${as} may not allocate from pool ${b.name}`);
  if (NEVER_LEND.includes(a.class)) return no('permission', `pool ${a.name} is ${a.class}: it lends nothing`);
  if (b.class === 'realtime') return no('permission', `pool ${b.name} is realtime: it borrows nothing`);
  if (lends(m, b.id, a.id)) {
    return no('bad-argument', `pool ${b.name} has lent to ${a.name}, itself or through others: that would be a circle`);
  }
  return ok({ a, b });
}

/** Do leases lead from pool `from` to pool `to`? Cost O(leases x pools on the way). */
function lends(m: Machine, from: number, to: number): boolean {
  const { leases } = poolTableOf(m);
  const seen = new Set([from]);
  for (const id of seen) {
    for (const lease of leases.values()) if (lease.from === id) seen.add(lease.to); // a Set visits what is added meanwhile
  }
  return from !== to && seen.has(to);
}

/**
 * Ends a lease, or part of it. The borrower's per-CPU lists are drained.
 *
 * @returns what the lender has again. ENOENT: no such lease. EPERM: the principal neither took it nor may `donate` on an
 *          end of it. ENOSPC: the lender would be larger than its
 *          max, the borrower smaller than its min. EBUSY: pages that do not move, named; each frame is where it was,
 *          but contents may have moved within the borrower. Cost O(pages of the lease)
 */
export function giveBack(
  m: Machine,
  id: number,
  as: Principal,
  { partial = false }: { partial?: boolean } = {},
): Result<GivenBack, Refusal> {
  const table = poolTableOf(m);
  const lease = table.leases.get(id);
  if (lease === undefined) return no('no-such-lease', `there is no lease ${id}`);
  const a = attrsOf(m, lease.from);
  const b = attrsOf(m, lease.to);
  if (as !== lease.principal && !may(a, as, 'donate') && !may(b, as, 'donate')) {
    return no('permission', `${as} may not end lease ${id}, of ${a.name} to ${b.name}`);
  }
  const from = m.pools[a.id] as Pool;
  const to = m.pools[b.id] as Pool;
  if (from.present + lease.pages > a.max) {
    return no('guarantee', `pool ${a.name} has ${from.present} pages, its max is ${a.max}`);
  }
  if (to.managed - lease.pages < b.min) {
    return no(
      'guarantee',
      `pool ${b.name} has ${to.managed} pages, ${lease.pages} of them borrowed, its min is ${b.min}`,
    );
  }
  const dense = lease.ranges.flatMap((r) => denseRuns(m, r.start, r.end));
  const isolated = dense.find((r) => isIsolated(to, r.start, r.end) || isIsolated(from, r.start, r.end));
  if (isolated !== undefined) {
    return no(
      'pool-busy',
      `lease ${id}: its frame ${m.sections.pfnOf(isolated.start).toString(16)} or a later one is isolated`,
    );
  }

  to.alloc.disable(); // what is freed here is to be found at once
  table.leases.delete(id);
  returnFree(m, to, from, dense);
  const busy = emptyUsed(m, to, from, dense);
  const left = dense.flatMap((r) => ownedRuns(m, to, r)).map((r) => framesOf(m, r));
  const leftPages = left.reduce((n, r) => n + r.end - r.start, 0);
  if (leftPages > 0 && !partial) {
    for (const r of dense) for (const given of ownedRuns(m, from, r)) relabelFree(m, from, to, given.start, given.end);
    table.leases.set(id, lease);
    to.alloc.enable();
    const first = busy[0] as Blocker; // a frame that is left is one that did not move
    const message = `lease ${id}: ${leftPages} pages of ${to.title} do not leave, the first is ${first.name}'s (${first.cause})`;
    return err(refusal('pool-busy', message, busy));
  }
  if (leftPages > 0) table.leases.set(id, { ...lease, ranges: joined(left), pages: leftPages });
  to.alloc.enable();
  settle(m, to, from);
  const pages = lease.pages - leftPages;
  m.emit({ type: 'pool', verb: 'return', pool: b.name, to: a.name, pages });
  return ok({ pages, left: leftPages, blockers: busy });
}

/** Frames of the runs that are free in `to` are `from`'s again. */
function returnFree(m: Machine, to: Pool, from: Pool, dense: readonly FrameRange[]): void {
  for (const run of dense) {
    const pieces: FrameRange[] = [];
    const at = run.start - to.base;
    const head = to.alloc.area.headOf(at);
    to.alloc.area.forEachFree(head >= 0 ? head : at, run.end - to.base, (i, order) => {
      const start = Math.max(run.start, to.base + i);
      const end = Math.min(run.end, to.base + i + 2 ** order);
      if (start < end) pieces.push({ start, end });
    });
    for (const p of pieces) relabelFree(m, to, from, p.start, p.end);
  }
}

/** Used frames of the runs are vacated, and are `from`'s again. @returns what did not move */
function emptyUsed(m: Machine, to: Pool, from: Pool, dense: readonly FrameRange[]): Blocker[] {
  const busy = new BlockerList();
  const targets = Int32Array.of(to.id);
  let last = -1; // an allocation may reach over the border of two runs
  for (const run of dense) {
    for (const a of [...allocationsIn(m, run.start, run.end)]) {
      if (a.head === last) continue;
      last = a.head;
      const pages = 1 << a.order;
      const cause = migrateWithin(m, a, targets, (start, end) => {
        for (const r of dense) {
          const first = Math.max(r.start, start);
          const next = Math.min(r.end, end);
          if (first < next) relabelFree(m, to, from, first, next);
        }
      });
      if (cause === undefined) continue;
      // A large page may have been split, and parts of it moved: what is left is in the way.
      for (const part of allocationsIn(m, a.head, a.head + pages)) {
        if (m.owners.at(part.head) === to.id) busy.add(blockerOf(m, part.head, 1 << part.order, cause));
      }
    }
  }
  return busy.items;
}

/** Runs of the dense index in a run that are a pool's. */
function ownedRuns(m: Machine, pool: Pool, run: FrameRange): FrameRange[] {
  const out: FrameRange[] = [];
  m.owners.forEachRun(run.start, run.end, (start, end, id) => {
    if (id === pool.id) out.push({ start, end });
  });
  return out;
}

/** A run of the dense index as frame numbers. It lies in one section, or in sections that are neighbours. */
function framesOf(m: Machine, r: FrameRange): FrameRange {
  const start = m.sections.pfnOf(r.start);
  return { start, end: start + r.end - r.start };
}

/** Ranges in ascending order, neighbours joined. */
function joined(ranges: readonly FrameRange[]): Lease['ranges'] {
  const out: { start: number; end: number }[] = [];
  for (const r of [...ranges].sort((x, y) => x.start - y.start)) {
    const last = out[out.length - 1];
    if (last !== undefined && last.end === r.start) last.end = r.end;
    else out.push({ ...r });
  }
  return out as unknown as Lease['ranges']; // frame numbers that came from pfnOf
}
