// kremap: the verbs of kernel-page remapping. Kernel memory moves, its virtual addresses stay.
//
//   virtToPhys, physToVirt   where an address is, whose a frame is
//   move       one allocation, to frames that are named or to any
//   evacuate   everything of classes K V T H in a range: all, or with `partial` what goes
//   home       displaced pages whose addresses lie in a range come back to the frames that are held for them
//   stat       what was done and what it costs
//
// A page that leaves a frame behind that stays in use leaves it without an address: that frame is held, out of use, until the
// address comes home or dies with its page. So moving without removing gains nothing but the choice of the target; offline
// with remapEvictor() (evictor.ts) is the way to remove memory.
//
//   reason        errno        when
//   hard-pinned   EBUSY        class X
//   relinquish    EBUSY        class D: the driver is to be asked (9.E)
//   hosts         EBUSY        class M: struct pages are moved by 9.D
//   in-use        EBUSY        pinned, or under writeback
//   untyped       EOPNOTSUPP   nobody knows what it is for
//   no-memory     ENOMEM       no target
//   raced         EAGAIN       it changed under the copy, three times
//   fault         EIO          a step failed in the world
//   interrupted   EINTR        the deadline came
//   outside       ENXIO        no memory at that address, or not online
//   bad-argument  EINVAL       not an allocation of the kernel, or a target that is not free
//
// Spec 9.C; Hansen 2005, step 3.

import { err, ok, type Result } from '#base/result';
import { type Pfn, toBlockId, toPfn } from '#base/units';
import type { Undo } from '../evictor.ts';
import { PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { MemoryRange } from '../memory-add.ts';
import { allocationsIn, BlockerList, blockerOf, isolatePageblock, unisolatePageblock } from '../page-isolation.ts';
import type { Pool } from '../pool.ts';
import { type Blocker, type BlockerCause, type Refusal, type RefusalReason, refusal } from '../refusal.ts';
import { KIND_ABSENT, KIND_MASK } from '../section.ts';
import { anywhere, evictPart, type LeafPolicy, type RemapOptions, remapClaim, targetsOf } from './evictor.ts';
import { displacedIn, goHome, holdDisplaced, undoEvacuation } from './home.ts';
import { type KremapState, kremapOf, kremapState, MOVED_CLASSES, type MovedClass } from './kremap-state.ts';
import { isIsolated, type MoveFailure, movePages, type Place, partAt } from './protocol.ts';
import { giveBack, takeExactly } from './target.ts';
import { type TlbCost, tlbCost } from './tlb.ts';
import { LEAF_TABLE_BYTES } from './translation.ts';

export type MovedPages = { readonly from: Pfn; readonly to: Pfn; readonly pages: number };

export type EvacuateOptions = RemapOptions & {
  /** Asked before each page: is it over? Default never. */
  readonly deadline?: () => boolean;
  /** What does not go does not stop the rest. Default false: all or nothing. */
  readonly partial?: boolean;
};

export type Evacuated = {
  /** Pages that moved. */
  readonly pages: number;
  /** With `partial`: what did not. */
  readonly left: readonly Blocker[];
};

export type CameHome = {
  readonly pages: number;
  /** Displaced pages of the range that are still elsewhere. */
  readonly left: number;
};

export type KremapStat = {
  /** Addresses that lead to another frame than their own. */
  readonly displaced: number;
  readonly splits: number;
  readonly collapses: number;
  readonly splits1G: number;
  readonly collapses1G: number;
  /** Leaves of 2 MiB that are mapped by small pages now, both aliases; and those that lie elsewhere as a whole. */
  readonly splitLeaves: number;
  readonly wholeLeaves: number;
  readonly leafTables: number;
  /** Bytes of leaf tables and page tables, and the frames that hold them. */
  readonly tableBytes: number;
  readonly tableFrames: number;
  readonly stopWindows: number;
  readonly maxStopPages: number;
  /** Frames that are kept out of use because their address is taken. */
  readonly vaBlocked: number;
  /** Pages moved in all, and by class; those that moved again, or came home, count again. */
  readonly moves: number;
  readonly pages: Readonly<Record<MovedClass, number>>;
  readonly entries: Readonly<Record<'V' | 'T' | 'H', number>>;
  readonly rootLoads: number;
  readonly home: number;
  readonly shootdowns: number;
  readonly ipis: number;
  readonly aborts: number;
  readonly refused: ReadonlyMap<RefusalReason, number>;
  readonly tlb: TlbCost;
};

export type Kremap = {
  /** Frame that an address (named by its own frame) leads to; -1: none. Cost: 1 load, or 2. */
  virtToPhys(va: number): number;
  /** Address that leads to a frame; -1: none. Cost: 1 load, or 2. */
  physToVirt(pfn: number): number;
  move(pfn: Pfn, target?: Pfn): Result<MovedPages, Refusal>;
  evacuate(range: MemoryRange, options?: EvacuateOptions): Result<Evacuated, Refusal>;
  home(range: MemoryRange): CameHome;
  stat(): KremapStat;
};

export type { LeafPolicy };

const REASON: Readonly<Record<MoveFailure, RefusalReason>> = {
  'no-target': 'no-memory',
  pinned: 'in-use',
  writeback: 'in-use',
  raced: 'raced',
  fault: 'fault',
};
const CAUSE: Readonly<Record<MoveFailure, BlockerCause>> = {
  'no-target': 'no-target',
  pinned: 'pinned',
  writeback: 'writeback',
  raced: 'fault',
  fault: 'fault',
};
const WHY: Readonly<Partial<Record<RefusalReason, string>>> = {
  'no-memory': 'there is no free run of frames for it in kernel zones',
  'in-use': 'it has an extra reference, or storage reads it',
  raced: 'it changed each time that it was copied',
  fault: 'a step failed; all is as it was',
  'hard-pinned': 'it never moves',
  untyped: 'nobody knows what it is for',
  relinquish: 'its driver has to give it up',
  hosts: 'struct pages are moved on their own',
  unmovable: 'the policy leaves it alone',
};

/** The verbs for a machine. Cost O(1); nothing is kept here. */
export function kremap(m: Machine): Kremap {
  return {
    virtToPhys: (va) => kremapOf(m)?.translation.virtToPhys(va) ?? va,
    physToVirt: (pfn) => kremapOf(m)?.translation.physToVirt(pfn) ?? pfn,
    move: (pfn, target) => counted(m, move(m, pfn, target)),
    evacuate: (range, options) => counted(m, evacuate(m, range, options ?? {})),
    home: (range) => home(kremapState(m), range),
    stat: () => stat(m),
  };
}

function counted<T>(m: Machine, r: Result<T, Refusal>): Result<T, Refusal> {
  if (!r.ok) kremapState(m).countRefusal(r.error.reason);
  return r;
}

function refuse(m: Machine, head: number, pages: number, reason: RefusalReason, cause: BlockerCause): Refusal {
  const b = blockerOf(m, head, pages, cause);
  const at = `frame ${b.startPfn.toString(16)} (${b.class}, ${b.name})`;
  return refusal(reason, `${at}: ${WHY[reason] ?? reason}`, [b]);
}

/** Why remapping does not move an allocation, before it is tried; undefined when it would. */
function objection(m: Machine, head: number, pages: number, options: RemapOptions): Refusal | undefined {
  const claim = remapClaim(m, head, options);
  if (claim === 'yes') return undefined;
  if (claim === 'hard-pinned' || claim === 'untyped') return refuse(m, head, pages, claim, claim);
  if (claim !== undefined) return refuse(m, head, pages, 'unmovable', claim);
  const spec = blockerOf(m, head, pages, 'unmovable');
  if (spec.class === 'driver') return refuse(m, head, pages, 'relinquish', 'relinquish');
  if (spec.class === 'memmap') return refuse(m, head, pages, 'hosts', 'hosts');
  return undefined;
}

function move(m: Machine, pfn: Pfn, target: Pfn | undefined): Result<MovedPages, Refusal> {
  const index = m.sections.indexOf(pfn);
  if (index < 0 || m.poolAt(index) === undefined) {
    return err(refusal('outside', `there is no memory online at frame ${pfn.toString(16)}`));
  }
  const a = m.sections.allocationAt(index);
  if (a === undefined) return err(refusal('bad-argument', `frame ${pfn.toString(16)} is not in use`));
  const pages = 1 << a.order;
  const no = objection(m, a.head, pages, {});
  if (no !== undefined) return err(no);
  const k = kremapState(m);
  const part = partAt(k, a.head);
  if (part === undefined) return err(refusal('bad-argument', `frame ${pfn.toString(16)} is not the kernel's`));
  const from = m.sections.pfnOf(a.head);
  const to = target === undefined ? undefined : m.sections.indexOf(target);
  if (to !== undefined && !isTarget(m, to, a.order)) {
    return err(
      refusal('bad-argument', `frame ${(target as number).toString(16)} is no free target for ${pages} frames`),
    );
  }
  const named: Place | undefined = to === undefined ? undefined : exactly(m, [to]);
  const outcome = movePages(k, [part], named ?? anywhere(m, targetsOf(m, part)), { faults: 'ask', hold: true });
  if (outcome !== 'moved') return err(refuse(m, a.head, pages, REASON[outcome], CAUSE[outcome]));
  return ok({ from, to: m.sections.pfnOf(part.to), pages });
}

/** Free frames, aligned, in a pageblock that is not isolated. */
function isTarget(m: Machine, index: number, order: number): boolean {
  const pool = index < 0 ? undefined : m.poolAt(index);
  if (pool === undefined || (m.sections.metaAt(index) & KIND_MASK) === KIND_ABSENT) return false;
  const at = index - pool.base;
  return (
    index % (1 << order) === 0 &&
    !isIsolated(pool, index) &&
    pool.alloc.area.freeIn(at, at + (1 << order)) === 1 << order
  );
}

/** Each part goes to the frames named. */
const exactly =
  (m: Machine, to: readonly number[]): Place =>
  (parts) => {
    const undo: Undo[] = [];
    for (const [n, part] of parts.entries()) {
      part.to = to[n] as number; // one for each
      if (!takeExactly(m, part.to, part.order)) return undefined;
      undo.push(() => giveBack(m, part.to, part.order));
    }
    return () => {
      for (const back of undo.reverse()) back();
    };
  };

const movedPages = (k: KremapState): number => MOVED_CLASSES.reduce((n, c) => n + k.counters.pages[c], 0);

/** A page that moved: where its holder finds it, and where it was. */
type Trace = { readonly slot: number; readonly from: number };

function evacuate(m: Machine, range: MemoryRange, options: EvacuateOptions): Result<Evacuated, Refusal> {
  const { start, end } = range;
  if (start >= end) return err(refusal('bad-argument', `[${start.toString(16)}, ${end.toString(16)}) is no range`));
  const first = m.sections.indexOf(start);
  const online = first >= 0 && m.sections.indexOf(toPfn(end - 1)) === first + (end - start) - 1;
  if (!online || !pageblocksOnline(m, first, first + end - start)) {
    return err(refusal('outside', `[${start.toString(16)}, ${end.toString(16)}) is not online memory throughout`));
  }
  const k = kremapState(m);
  const undo = isolate(m, first, first + end - start);
  // A whole leaf that reaches over the range's ends goes, too.
  const cover = { start: start - (start % PAGEBLOCK_PAGES), end: Math.ceil(end / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES };
  const traces: Trace[] = [];
  const left = new BlockerList();
  const before = movedPages(k);
  let failed: Refusal | undefined;
  for (const a of [...allocationsIn(m, first, first + end - start)]) {
    if (failed !== undefined) break;
    const n = 1 << a.order;
    if (a.cls === 'memmap' && isOwnMemmap(m, a.head)) continue; // leaves with its block
    if ((m.sections.allocationAt(a.head)?.head ?? -1) !== a.head) continue; // went with its whole leaf
    if (options.deadline?.() === true) {
      failed = refusal('interrupted', `the deadline came when ${movedPages(k) - before} pages had moved`);
      break;
    }
    const refused = objection(m, a.head, n, options);
    const part = refused === undefined ? partAt(k, a.head) : undefined;
    if (refused === undefined && part === undefined) continue; // not the kernel's: ordinary migration moves it
    const trace = { slot: m.sections.ownerAt(a.head), from: a.head };
    const outcome = part === undefined ? undefined : evictPart(k, part, options.policy ?? 'page');
    if (outcome === 'moved') {
      traces.push(trace);
      continue;
    }
    const why = outcome === undefined ? (refused as Refusal) : refuse(m, a.head, n, REASON[outcome], CAUSE[outcome]);
    for (const b of why.blockers) left.add(b);
    if (options.partial === true) k.countRefusal(why.reason);
    else failed = why; // counted when it is given back
  }
  const keep = failed === undefined || (options.partial === true && failed.reason === 'interrupted');
  const pages = movedPages(k) - before;
  if (!keep) {
    for (const t of traces.reverse()) takeBack(k, t);
    undoEvacuation(k, cover.start, cover.end); // and what went along with a whole leaf
  }
  holdDisplaced(k, cover.start, cover.end);
  for (const back of undo.reverse()) back();
  return keep ? ok({ pages, left: left.items }) : err(failed as Refusal);
}

/** Does the frame hold struct pages of the very block that it lies in (memmap_on_memory)? */
function isOwnMemmap(m: Machine, index: number): boolean {
  const pfn: number = m.sections.pfnOf(index);
  const row = m.blocks.rowOf(toBlockId(Math.floor(pfn / m.blockPages)));
  return row >= 0 && pfn % m.blockPages < (m.blocks.vmemmapPages[row] as number);
}

/** Back to the frames that it left, which are free in their isolated pageblock. All CPUs stand still. */
function takeBack(k: KremapState, { slot, from }: Trace): void {
  const part = partAt(k, k.m.holders.frameAt(slot));
  if (part !== undefined && part.head !== from) movePages(k, [part], exactly(k.m, [from]), { faults: 'none' });
}

function pageblocksOnline(m: Machine, start: number, end: number): boolean {
  for (let i = start; i < end; i += PAGEBLOCK_PAGES) if (m.poolAt(i) === undefined) return false;
  return m.poolAt(end - 1) !== undefined;
}

/** Nothing is allocated from the pageblocks around [start, end). @returns how to undo it, in the order of doing */
function isolate(m: Machine, start: number, end: number): Undo[] {
  const undo: Undo[] = [];
  for (let i = start - (start % PAGEBLOCK_PAGES); i < end; i += PAGEBLOCK_PAGES) {
    const pool = m.poolAt(Math.max(i, start)) as Pool; // the caller looked
    if (isIsolated(pool, i)) continue;
    const type = isolatePageblock(pool, i);
    undo.push(() => unisolatePageblock(pool, i, type));
  }
  return undo;
}

function home(k: KremapState, range: MemoryRange): CameHome {
  let pages = 0;
  let left = 0;
  for (const part of displacedIn(k, range.start, range.end)) {
    const n = 1 << part.order;
    if (goHome(k, part) === 'moved') pages += n;
    else left += n;
  }
  return { pages, left };
}

function stat(m: Machine): KremapStat {
  const k = kremapState(m);
  const { translation, map, counters } = k;
  const { leaf, page } = k.tableFrames;
  return {
    displaced: translation.displaced,
    splits: map.splits,
    collapses: map.collapses,
    splits1G: map.splits1G,
    collapses1G: map.collapses1G,
    splitLeaves: map.splitLeaves,
    wholeLeaves: map.wholeLeaves,
    leafTables: translation.leafTables,
    tableBytes: translation.leafTables * LEAF_TABLE_BYTES + map.tables * 4096,
    tableFrames: leaf + page,
    stopWindows: counters.stopWindows,
    maxStopPages: counters.maxStopPages,
    vaBlocked: k.held,
    moves: movedPages(k),
    pages: { ...counters.pages },
    entries: { ...counters.entries },
    rootLoads: counters.rootLoads,
    home: counters.home,
    shootdowns: counters.shootdowns,
    ipis: counters.ipis,
    aborts: counters.aborts,
    refused: new Map(k.refused),
    tlb: tlbCost(m, k),
  };
}
