// Memory failure: a page of failing hardware is taken out of use. Softly, before anything is lost; or hard, after.
//
//   soft_offline_page   a page that still works: its contents move, its frame leaves. Nobody is harmed.
//   hard_offline_page   a page that is lost: who has it loses it. memory_failure(), as a machine check would call it.
//
//                  soft                                             hard (printed class: outcome)
//   free           leaves the buddy                                 free buddy page: Recovered
//   huge, free     dissolved, the frame leaves; EBUSY if reserved   free huge page: Recovered, or Failed
//   huge, used     moves, is dissolved, the frame leaves            huge page: Recovered (dissolved; of a file: kept)
//   THP            split, then as below; pinned: EBUSY              split; pinned: unsplit thp: Failed, EHWPOISON
//   page cache     clean and unmapped: dropped, else it moves       dropped; dirty: the next fsync() gets EIO
//   anonymous      moves                                            gone; its processes get SIGBUS
//   swap cache     moves                                            clean: dropped; dirty: kept, Delayed
//   balloon        moves                                            get hwpoison page: Ignored
//   kernel         EIO, "unhandlable page."                         get hwpoison page: Ignored
//   poisoned       fine, "page already poisoned"                    already poisoned page: Failed, EHWPOISON
//
// The frame that was taken belongs to a holder of class `poisoned`; what could not be taken is remembered as poisoned
// while its user keeps it. Counters: HardwareCorrupted (all poisoned frames), memory_failure/* of each node (hard ones only),
// and a count for each memory block, which forbids its return (EHWPOISON) and is forgotten when the block is removed.
//
// Invariants: MF1 every frame of the holder is known as poisoned; MF2 total = ignored + failed + delayed + recovered on each
// node; MF3 a block has at least as many errors on its count as it has poisoned frames.
//
// Follows Linux v6.12 mm/memory-failure.c: soft_offline_page(), memory_failure(), unpoison_memory(), action_result();
// drivers/base/memory.c: soft_offline_page_store() (spec 3.5; log lines of a recorded 6.12 guest). Left out: killing by pid
// (the report says who would be), DAX, filters, writeback, and the flags that Linux prints behind "type" in two messages.

import { err, ok, type Result } from '#base/result';
import { type BlockId, type HolderId, type NodeId, type Pfn, toBlockId, toPfn } from '#base/units';
import { takeFreeFrames } from './free-frames.ts';
import { PAGE_SIZE } from './geometry.ts';
import { dissolveFreeHugePage, hugePageAt, migrateWithPools, releaseHuge } from './hugetlb.ts';
import type { Machine } from './machine.ts';
import { machineState } from './machine-state.ts';
import { splitAllocation } from './migrate.ts';
import { CLASS_TRAITS, type PageClass, ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { blockerOf } from './page-isolation.ts';
import { type PageState, type PageStateOf, pageStateAt } from './page-state.ts';
import type { Pool } from './pool.ts';
import { type ErrnoName, type Refusal, type RefusalReason, refusal } from './refusal.ts';
import { KIND_ABSENT, KIND_MASK, META_PINNED } from './section.ts';

export const FAILURE_RESULTS = ['Ignored', 'Failed', 'Delayed', 'Recovered'] as const;
export type FailureResult = (typeof FAILURE_RESULTS)[number];

/** What a page is called in the log: action_page_types[]. */
export type FailureClass =
  | 'get hwpoison page'
  | 'huge page'
  | 'free huge page'
  | 'dirty swapcache page'
  | 'clean swapcache page'
  | 'dirty mlocked LRU page'
  | 'clean mlocked LRU page'
  | 'dirty unevictable LRU page'
  | 'clean unevictable LRU page'
  | 'dirty LRU page'
  | 'clean LRU page'
  | 'already truncated LRU page'
  | 'free buddy page'
  | 'unsplit thp'
  | 'already poisoned page';

/** memory_failure/* of one node. */
export type FailureCounts = { total: number; ignored: number; failed: number; delayed: number; recovered: number };

export type FailureReport = {
  readonly pfn: Pfn;
  /** What happened to the frame: it left, it is marked but stays with its user, or it was poisoned before. */
  readonly frame: 'taken' | 'marked' | 'was-poisoned';
  /** Hard only: the two words of the log. */
  readonly class?: FailureClass;
  readonly result?: FailureResult;
  /** Frames whose contents went elsewhere. */
  readonly migratedPages: number;
  /** Whose page was dropped or lost; -1 nobody's. */
  readonly lost: HolderId | -1;
  /** Processes that have it mapped get SIGBUS. */
  readonly sigbus: boolean;
  /** The file's next fsync() gets EIO. */
  readonly eio: boolean;
};

/** A verb's end: what the kernel's log says, and the outcome. */
export type FailureOutcome = { readonly log: readonly string[]; readonly result: Result<FailureReport, Refusal> };

export type FailureOptions = {
  readonly pageState?: PageStateOf;
};
export type SoftOfflineOptions = FailureOptions & {
  /** vm.enable_soft_offline. */
  readonly enabled: boolean;
};
export type HardOfflineOptions = FailureOptions & {
  /** 'hardware': a machine check, after which nothing can be unpoisoned. 'simulated': hard_offline_page, injection. */
  readonly cause: 'hardware' | 'simulated';
};

/** What a machine remembers of its failing memory. */
export class PoisonLedger {
  holder: HolderId | -1 = -1;
  /** Poisoned frames by number, those that left and those still in use: PG_hwpoison. */
  readonly frames = new Set<number>();
  /** Errors of each memory block: their sum is HardwareCorrupted. Not the same once memory came online anew (6.1). */
  readonly blocks = new Map<BlockId, number>();
  readonly nodes = new Map<NodeId, FailureCounts>();
  /** A real hardware error was seen. */
  hardware = false;
  /** "disabled by ..." is printed once. */
  saidDisabled = false;

  copy(): PoisonLedger {
    const out = new PoisonLedger();
    out.holder = this.holder;
    for (const pfn of this.frames) out.frames.add(pfn);
    for (const [block, n] of this.blocks) out.blocks.set(block, n);
    for (const [node, counts] of this.nodes) out.nodes.set(node, { ...counts });
    out.hardware = this.hardware;
    out.saidDisabled = this.saidDisabled;
    return out;
  }
}

const ledgers = machineState(() => new PoisonLedger());

/** The machine's ledger. Cost O(1). */
export const poisonOf = (m: Machine): PoisonLedger => ledgers.of(m);

// ------------------------------------------------------------------------------------------------- questions

/** "HardwareCorrupted:" of /proc/meminfo, in bytes. Cost O(blocks with errors). */
export function hardwareCorrupted(m: Machine): number {
  let frames = 0;
  for (const n of ledgers.has(m)?.blocks.values() ?? []) frames += n;
  return frames * PAGE_SIZE;
}

/** memory_failure/{total,ignored,failed,delayed,recovered} of a node. */
export function memoryFailureCounts(m: Machine, node: NodeId): FailureCounts {
  const none = { total: 0, ignored: 0, failed: 0, delayed: 0, recovered: 0 };
  return { ...none, ...ledgers.has(m)?.nodes.get(node) };
}

const blockOf = (m: Machine, pfn: number): BlockId => toBlockId(Math.floor(pfn / m.blockPages));

/** Errors on a memory block's count: more than none forbids its return (from 6.2 on). Cost O(1). */
export const poisonedInBlock = (m: Machine, block: BlockId): number => ledgers.has(m)?.blocks.get(block) ?? 0;

/** The block is removed: its errors are forgotten, and HardwareCorrupted drops. @returns how many there were. */
export function forgetPoison(m: Machine, block: BlockId): number {
  const n = poisonedInBlock(m, block);
  poisonRenewed(m, block);
  ledgers.has(m)?.blocks.delete(block);
  return n;
}

/** 6.1 brought the block online anew: its frames are as good as any, only the count remembers (recorded). */
export function poisonRenewed(m: Machine, block: BlockId): void {
  const frames = ledgers.has(m)?.frames ?? new Set<number>();
  for (const pfn of [...frames]) if (blockOf(m, pfn) === block) frames.delete(pfn);
}

/**
 * What is written into soft_offline_page and hard_offline_page: a physical address, as kstrtoull(, 0) reads it (0x, leading
 * 0 for octal, else decimal; an optional + and one newline at the end). @returns the frame it lies in; EINVAL otherwise
 */
export function parsePhysicalAddress(text: string): Result<Pfn, Refusal> {
  const m = /^\+?(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))\n?$/.exec(text);
  const digits = m?.[1] ?? m?.[2] ?? m?.[3];
  if (m === null || digits === undefined) return err(refusal('bad-argument', 'not a physical address'));
  const value = BigInt(m[1] !== undefined ? `0x${digits}` : m[2] !== undefined ? `0o0${digits}` : digits);
  if (value >= 2n ** 64n) return err(refusal('bad-argument', 'not a physical address: more than 64 bits'));
  return ok(toPfn(Number(value / BigInt(PAGE_SIZE)))); // below 2^52: exact
}

// ------------------------------------------------------------------------------------------- what the verbs share

/** One verb on its way. */
type Work = { readonly m: Machine; readonly pfn: Pfn; readonly log: string[]; readonly options: FailureOptions };

const hexPfn = (pfn: number): string => `0x${pfn.toString(16)}`;

const report = (pfn: Pfn, frame: FailureReport['frame'], more: Partial<FailureReport> = {}): FailureReport => ({
  pfn,
  frame,
  migratedPages: 0,
  lost: -1,
  sigbus: false,
  eio: false,
  ...more,
});

const refuse = (w: Work, reason: RefusalReason, message: string, errno?: ErrnoName): Result<never, Refusal> => {
  const r = refusal(reason, `${hexPfn(w.pfn)}: ${message}`);
  return err(errno === undefined ? r : { ...r, errno });
};

/** 'online', 'offline' (it is memory, but no pool has it) or 'outside'. */
function whereIs(m: Machine, pfn: Pfn): 'online' | 'offline' | 'outside' {
  const index = m.sections.indexOf(pfn);
  if (index < 0) return 'outside';
  return m.block(blockOf(m, pfn))?.state === 'offline' ? 'offline' : 'online';
}

type Use =
  | { readonly use: 'free' }
  | { readonly use: 'free-huge' }
  /** No RAM, or held by the kernel, or never plugged: nobody can be asked to let go. */
  | { readonly use: 'kernel' }
  | {
      readonly use: 'page';
      readonly head: number;
      readonly order: number;
      readonly cls: PageClass;
      readonly pinned: boolean;
    };

function useOf(m: Machine, pfn: Pfn): Use {
  const index = m.sections.indexOf(pfn);
  if ((m.sections.metaAt(index) & KIND_MASK) === KIND_ABSENT) return { use: 'kernel' };
  const a = m.sections.allocationAt(index);
  if (a === undefined) return { use: 'free' };
  if (hugePageAt(m, index)?.free === true) return { use: 'free-huge' };
  const cls = m.holders.specs[m.holders.holderOf(m.sections.ownerAt(a.head))].class;
  const { mobility } = CLASS_TRAITS[cls];
  if (mobility !== 'lru' && mobility !== 'driver' && cls !== 'gigantic') return { use: 'kernel' };
  const pinned = (m.sections.metaAt(a.head) & META_PINNED) !== 0;
  return { use: 'page', head: a.head, order: a.order, cls, pinned };
}

function poisonHolder(m: Machine): HolderId {
  const ledger = poisonOf(m);
  if (ledger.holder < 0) ledger.holder = m.addHolder({ class: 'poisoned', name: 'hardware memory errors' });
  return ledger.holder as HolderId;
}

/** The frame is known as poisoned from now on: num_poisoned_pages_inc(). */
function mark(m: Machine, pfn: Pfn): void {
  const { frames, blocks } = poisonOf(m);
  if (frames.has(pfn)) return;
  frames.add(pfn);
  blocks.set(blockOf(m, pfn), poisonedInBlock(m, blockOf(m, pfn)) + 1);
}

/** A free frame leaves the buddy for good. Per-CPU lists are off meanwhile, as Linux has them (zone_pcp_disable()). */
function takeFree(m: Machine, pfn: Pfn): void {
  const index = m.sections.indexOf(pfn);
  const pool = m.poolAt(index) as Pool; // the frame is online
  pool.alloc.disable();
  takeFreeFrames(pool, index, index + 1);
  m.occupy(poisonHolder(m), index, 0);
  pool.alloc.enable();
  mark(m, pfn);
}

/** A single frame's user, of a class on the LRU, loses it in place: it never sees the free lists. @returns who that was. */
function takeUsed(m: Machine, pfn: Pfn): HolderId {
  const index = m.sections.indexOf(pfn);
  const holder = m.unhold(index, 0);
  m.occupy(poisonHolder(m), index, 0);
  mark(m, pfn);
  return holder;
}

/** A free frame leaves; one of a free huge page after the page was dissolved. @returns false: it could not be spared. */
function takeOfHuge(m: Machine, pfn: Pfn): boolean {
  if (!dissolveFreeHugePage(m, m.sections.indexOf(pfn)).ok) return false;
  takeFree(m, pfn);
  return true;
}

// ------------------------------------------------------------------------------------------------- soft offline

/**
 * soft_offline_page: the page that covers `pfn` is moved away or dropped, and the frame leaves. Nothing is ever lost.
 *
 * @returns taken or was-poisoned; outside (ENXIO), section-offline (EIO), disabled (EOPNOTSUPP), unhandlable (EIO), dissolve
 *          and in-use (EBUSY), no-memory (ENOMEM: there was nowhere to move it). Cost O(frames of its allocation).
 */
export function softOffline(m: Machine, pfn: Pfn, options: SoftOfflineOptions): FailureOutcome {
  const w: Work = { m, pfn, log: [], options };
  return { log: w.log, result: soft(w, options.enabled) };
}

function soft(w: Work, enabled: boolean): Result<FailureReport, Refusal> {
  const { m, pfn, log } = w;
  const where = whereIs(m, pfn);
  if (where === 'outside') return refuse(w, 'outside', 'there is no memory');
  if (where === 'offline') return refuse(w, 'section-offline', 'it is not online');
  const ledger = poisonOf(m);
  if (!enabled) {
    if (!ledger.saidDisabled) log.push('Soft offline: disabled by /proc/sys/vm/enable_soft_offline');
    ledger.saidDisabled = true;
    return refuse(w, 'disabled', 'disabled by /proc/sys/vm/enable_soft_offline');
  }
  if (ledger.frames.has(pfn)) {
    log.push(`Soft offline: ${hexPfn(pfn)}: page already poisoned`);
    return ok(report(pfn, 'was-poisoned'));
  }
  const use = useOf(m, pfn);
  switch (use.use) {
    case 'free':
      takeFree(m, pfn);
      return ok(report(pfn, 'taken'));
    case 'free-huge':
      return takeOfHuge(m, pfn)
        ? ok(report(pfn, 'taken'))
        : refuse(w, 'dissolve', 'the huge page cannot be spared: all free ones are reserved');
    case 'kernel':
      log.push(`Memory failure: ${hexPfn(pfn)}: unhandlable page.`);
      return refuse(w, 'unhandlable', 'only the kernel could move it');
    case 'page':
      return softUsed(w, use);
  }
}

function softUsed(w: Work, use: Extract<Use, { use: 'page' }>): Result<FailureReport, Refusal> {
  const { m, pfn, log } = w;
  const huge = use.cls === 'hugetlb' || use.cls === 'gigantic';
  const state = pageStateAt(m, use.head, w.options.pageState);
  let { head } = use;
  if (!huge && use.order > 0) {
    if (use.pinned) {
      log.push(`Soft offline: ${hexPfn(pfn)}: thp split failed`);
      return refuse(w, 'in-use', 'the large page cannot be split: someone holds it');
    }
    splitAllocation(m, head);
    head = m.sections.indexOf(pfn);
  }
  // An unevictable page is invalidated like others; one that storage reads is not.
  const clean = !state.dirty && !state.mapped && state.writeback !== true && state.swapCache !== true;
  const droppable = use.cls === 'file' && clean && !use.pinned;
  if (droppable) {
    log.push(`Soft offline: ${hexPfn(pfn)}: invalidated`);
    return ok(report(pfn, 'taken', { lost: takeUsed(m, pfn) }));
  }
  const pool = m.zoneAt(head) as Pool; // the frame is online
  const own = m.poolAt(head) as Pool; // as above
  const list = m.zonelist(pool.node, pool.zone === ZONE_MOVABLE ? ZONE_MOVABLE : ZONE_NORMAL);
  // What a pool has stays in it while it has room.
  const targets = own.kind === 'user' ? Int32Array.of(own.id, ...list) : list;
  const before = m.vmstat.pgmigrate_success;
  // A fresh page of 1 GiB is never made to move one (Linux: alloc_migrate_hugetlb_folio() has none, ENOMEM).
  const outcome = use.cls === 'gigantic' ? 'no-target' : migrateWithPools(m, head, targets);
  const migratedPages = m.vmstat.pgmigrate_success - before;
  if (outcome === 'moved') {
    if (takeOfHuge(m, pfn)) return ok(report(pfn, 'taken', { migratedPages })); // what it left may be the pool's now
    return refuse(w, 'dissolve', 'the huge page cannot be spared: all free ones are reserved');
  }
  const noRoom = outcome === 'no-target';
  log.push(`Soft offline: ${hexPfn(pfn)}: ${huge ? 'hugepage' : 'page'} migration failed ${noRoom ? -12 : 1}`);
  const r = refusal(noRoom ? 'no-memory' : 'in-use', `${hexPfn(pfn)}: it did not move`, [
    blockerOf(m, head, 1, noRoom ? 'no-target' : 'pinned'),
  ]);
  return err(r);
}

// ------------------------------------------------------------------------------------------------- hard offline

/** Counts and prints an outcome: action_result(). */
function action(
  w: Work,
  cls: FailureClass,
  result: FailureResult,
  made: Partial<FailureReport> & Pick<FailureReport, 'frame'>,
  errno?: ErrnoName,
): Result<FailureReport, Refusal> {
  const { m, pfn, log } = w;
  const ledger = poisonOf(m);
  if (cls !== 'already poisoned page') {
    mark(m, pfn);
    // A frame without RAM, in an online block, may lie in no pool.
    const node = m.zoneAt(m.sections.indexOf(pfn))?.node ?? m.block(blockOf(m, pfn))?.node ?? m.nodes[0];
    const counts = memoryFailureCounts(m, node);
    counts.total++;
    counts[result.toLowerCase() as 'ignored' | 'failed' | 'delayed' | 'recovered']++;
    ledger.nodes.set(node, counts);
  }
  log.push(`Memory failure: ${hexPfn(pfn)}: recovery action for ${cls}: ${result}`);
  if (result === 'Recovered' || result === 'Delayed')
    return ok(report(pfn, made.frame, { ...made, class: cls, result }));
  return refuse(w, errno === 'EHWPOISON' ? 'poisoned' : 'failure', `recovery action for ${cls}: ${result}`);
}

/**
 * memory_failure(): the frame is lost. What can be contained is; who had it loses it. `hard_offline_page` is cause
 * 'simulated'.
 *
 * @returns the report; outside (ENXIO, an offline frame too), poisoned (EHWPOISON: it was before, or a pinned huge page),
 *          failure (EBUSY: ignored or failed, the frame stays marked). Cost O(frames of its allocation).
 */
export function hardOffline(m: Machine, pfn: Pfn, options: HardOfflineOptions): FailureOutcome {
  const w: Work = { m, pfn, log: [], options };
  if (options.cause === 'hardware') poisonOf(m).hardware = true;
  return { log: w.log, result: hard(w) };
}

function hard(w: Work): Result<FailureReport, Refusal> {
  const { m, pfn, log } = w;
  if (whereIs(m, pfn) !== 'online') {
    log.push(`Memory failure: ${hexPfn(pfn)}: memory outside kernel control`);
    return refuse(w, 'outside', 'memory outside kernel control');
  }
  if (poisonOf(m).frames.has(pfn)) {
    return action(w, 'already poisoned page', 'Failed', { frame: 'was-poisoned' }, 'EHWPOISON');
  }
  const use = useOf(m, pfn);
  switch (use.use) {
    case 'free':
      takeFree(m, pfn);
      return action(w, 'free buddy page', 'Recovered', { frame: 'taken' });
    case 'free-huge': {
      const taken = takeOfHuge(m, pfn);
      return action(w, 'free huge page', taken ? 'Recovered' : 'Failed', { frame: taken ? 'taken' : 'marked' });
    }
    case 'kernel':
      log.push(`Memory failure: ${hexPfn(pfn)}: unhandlable page.`);
      return action(w, 'get hwpoison page', 'Ignored', { frame: 'marked' });
    case 'page':
      return hardUsed(w, use);
  }
}

function hardUsed(w: Work, use: Extract<Use, { use: 'page' }>): Result<FailureReport, Refusal> {
  const { m, pfn, log } = w;
  const state = pageStateAt(m, use.head, w.options.pageState);
  if (use.cls === 'hugetlb' || use.cls === 'gigantic') return hardHuge(w, use, state);
  if (CLASS_TRAITS[use.cls].mobility === 'driver') {
    log.push(`Memory failure: ${hexPfn(pfn)}: unhandlable page.`);
    return action(w, 'get hwpoison page', 'Ignored', { frame: 'marked' });
  }
  if (use.order > 0) {
    if (use.pinned) return action(w, 'unsplit thp', 'Failed', { frame: 'marked' }, 'EHWPOISON');
    splitAllocation(m, use.head);
  }
  if (state.truncated === true) return action(w, 'already truncated LRU page', 'Ignored', { frame: 'marked' });
  const anonymous = use.cls === 'anonymous';
  if (use.cls === 'file' && state.mapped && !state.dirty) {
    log.push(`Memory failure: ${hexPfn(pfn)}: corrupted page was clean: dropped without side effects`);
  }
  const cls = failureClassOf(state);
  const sigbus = state.mapped && (state.dirty || anonymous);
  const holder = m.holders.holderOf(m.sections.ownerAt(m.sections.indexOf(pfn)));
  if (use.pinned && (!anonymous || state.swapCache === true)) {
    log.push(`Memory failure: ${hexPfn(pfn)}: ${cls} still referenced by 1 users`);
    return action(w, cls, 'Failed', { frame: 'marked' });
  }
  if (cls === 'dirty swapcache page') return action(w, cls, 'Delayed', { frame: 'marked', lost: holder, sigbus });
  // Linux keeps a page of shmem where its file looks for it, and one that someone pins where it is: both stay marked.
  const stays = use.pinned || use.cls === 'shmem';
  if (!stays) takeUsed(m, pfn);
  const eio = state.dirty && !anonymous;
  return action(w, cls, 'Recovered', { frame: stays ? 'marked' : 'taken', lost: holder, sigbus, eio });
}

function hardHuge(w: Work, use: Extract<Use, { use: 'page' }>, state: PageState): Result<FailureReport, Refusal> {
  const { m, pfn, log } = w;
  const index = m.sections.indexOf(pfn);
  const holder = m.holders.holderOf(m.sections.ownerAt(use.head));
  if (use.pinned) {
    log.push(`Memory failure: ${hexPfn(pfn)}: huge page still referenced by 1 users`);
    return action(w, 'huge page', 'Failed', { frame: 'marked' });
  }
  const made = { lost: holder, sigbus: state.mapped };
  if (state.hugetlbfs === true) return action(w, 'huge page', 'Recovered', { frame: 'marked', ...made });
  const at = hugePageAt(m, index);
  // How far a page of 1 GiB reaches, only its pool knows: what a twin has is left alone.
  if (at === undefined && use.cls === 'gigantic') return action(w, 'huge page', 'Failed', { frame: 'marked' });
  if (at === undefined) m.free(m.sections.pfnOf(use.head));
  else releaseHuge(m, m.sections.pfnOf(m.holders.frameAt(at.slot)));
  const taken = takeOfHuge(m, pfn);
  return action(w, 'huge page', taken ? 'Recovered' : 'Failed', { frame: taken ? 'taken' : 'marked', ...made });
}

/** error_states[], from the top: the first that fits. */
function failureClassOf(state: PageState): FailureClass {
  const dirt = state.dirty ? 'dirty' : 'clean';
  if (state.swapCache === true) return `${dirt} swapcache page`;
  if (state.mlocked === true) return `${dirt} mlocked LRU page`;
  if (state.unevictable === true) return `${dirt} unevictable LRU page`;
  return `${dirt} LRU page`;
}

// ------------------------------------------------------------------------------------------------- and back again

/**
 * hwpoison/unpoison-pfn: a frame that was poisoned in software goes back to the allocator.
 *
 * @returns taken frames only; section-offline (EIO, also where there is no memory), disabled (EOPNOTSUPP: there was a real
 *          hardware error), not-poisoned (EBUSY: it is not, or someone still uses it)
 */
export function unpoison(
  m: Machine,
  pfn: Pfn,
): { readonly log: readonly string[]; readonly result: Result<Pfn, Refusal> } {
  const w: Work = { m, pfn, log: [], options: {} };
  const ledger = poisonOf(m);
  const say = (text: string): void => {
    w.log.push(`Unpoison: ${hexPfn(pfn)}: ${text}`);
  };
  if (whereIs(m, pfn) !== 'online') return { log: w.log, result: refuse(w, 'section-offline', 'it is not online') };
  if (ledger.hardware) {
    say('disabled after HW memory failure');
    return { log: w.log, result: refuse(w, 'disabled', 'there was a real hardware error') };
  }
  if (!ledger.frames.has(pfn)) {
    say('page was already unpoisoned');
    return { log: w.log, result: refuse(w, 'not-poisoned', 'it is not poisoned') };
  }
  const index = m.sections.indexOf(pfn);
  const a = m.sections.allocationAt(index);
  if (a === undefined || m.holders.holderOf(m.sections.ownerAt(a.head)) !== ledger.holder) {
    if (useOf(m, pfn).use === 'page') say('someone grabs the hwpoison page');
    return { log: w.log, result: refuse(w, 'not-poisoned', 'someone still uses it') };
  }
  const pool = m.poolAt(index) as Pool; // the frame is online
  ledger.frames.delete(pfn);
  ledger.blocks.set(blockOf(m, pfn), poisonedInBlock(m, blockOf(m, pfn)) - 1);
  pool.alloc.disable(); // past the per-CPU lists, as Linux does
  m.free(pfn);
  pool.alloc.enable();
  say('software-unpoisoned page');
  return { log: w.log, result: ok(pfn) };
}

// ---------------------------------------------------------------------------------------- the files of sysfs

export type StoreContext = SoftOfflineOptions & { readonly capSysAdmin: boolean };

/** A write to /sys/devices/system/memory/soft_offline_page: EPERM, then EINVAL, then softOffline. */
export function softOfflinePageStore(m: Machine, text: string, context: StoreContext): FailureOutcome {
  return store(text, context, (pfn) => softOffline(m, pfn, context));
}

/** A write to hard_offline_page: EPERM, then EINVAL, then hardOffline, simulated. */
export function hardOfflinePageStore(m: Machine, text: string, context: StoreContext): FailureOutcome {
  return store(text, context, (pfn) => hardOffline(m, pfn, { ...context, cause: 'simulated' }));
}

function store(text: string, context: StoreContext, verb: (pfn: Pfn) => FailureOutcome): FailureOutcome {
  if (!context.capSysAdmin) return { log: [], result: err(refusal('not-permitted', 'CAP_SYS_ADMIN is needed')) };
  const pfn = parsePhysicalAddress(text);
  return pfn.ok ? verb(pfn.value) : { log: [], result: pfn };
}

/** MF1 to MF3 of this file, in words; empty when sound. Cost O(poisoned frames). */
export function checkPoison(m: Machine): string[] {
  const ledger = ledgers.has(m);
  if (ledger === undefined) return [];
  const wrong: string[] = [];
  if (ledger.holder >= 0) {
    m.forEachFrameOf(ledger.holder as HolderId, (pfn, order) => {
      if (order !== 0 || !ledger.frames.has(pfn)) wrong.push(`MF1 frame ${pfn} was taken and is not known as poisoned`);
    });
  }
  const frames = new Map<BlockId, number>();
  for (const pfn of ledger.frames) frames.set(blockOf(m, pfn), (frames.get(blockOf(m, pfn)) ?? 0) + 1);
  for (const [block, n] of frames) {
    const counted = poisonedInBlock(m, block);
    if (counted < n) wrong.push(`MF3 block ${block} has ${n} poisoned frames, its count says ${counted}`);
  }
  for (const [node, c] of ledger.nodes) {
    if (c.total !== c.ignored + c.failed + c.delayed + c.recovered)
      wrong.push(`MF2 node ${node}: ${JSON.stringify(c)}`);
  }
  return wrong;
}
