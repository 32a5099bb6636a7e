// Memory hotplug, the logical half: a block goes offline, in small steps between which other work may run.
//
//   step       what                                                      refusal                undo
//   check      online? RAM throughout? one zone?  now going-offline      EINVAL                 online again
//              does it host struct pages of others (9.D, D2)?            EBUSY  hosts
//   look       blockersIn: anything that can never move?                 EBUSY  unmovable       -
//   quiesce    per-CPU lists of the pool drained and off                                        on again
//   isolate    one pageblock a step; looked at again first               EBUSY  unmovable       its own type again
//   notify     listeners in order                                        their errno            cancel, to all
//   migrate    one batch of allocations a step, in bounded rounds        EINTR  stuck,no-target -
//   dissolve   free huge pages of the pools leave them                   EBUSY  dissolve         -
//   commit     all free?  ═══ point of no return ═══  counters, span, watermarks
//
// Linux retries the migrate step for ever, until a signal (spec 3.1 step 5); the engine stops after `rounds` rounds
// without progress and says what did not move. What was moved by then stays moved, as in Linux, and frames drained from
// per-CPU lists stay drained; `offlineBlock`, which lets nothing run in between, puts that back too, so that its
// refusal leaves the machine exactly as it was.
//
// What ordinary migration cannot move is asked of the evictors that the offline was given (evictor.ts): remapping, drivers,
// the memmap's mover. Without any it is Linux's offline.
//
// Invariants: O1 after a refusal every pageblock has its type and the pool its per-CPU lists; O2 after a commit no frame
// of the block is in any list and no holder has one (those that stay excepted: poisoned, never plugged); O3 contents
// survive; O4 a block has one work at a time.
//
// Follows Linux v6.12 mm/memory_hotplug.c: offline_pages() (spec 3.1, 3.3). The way back is in memory-online.ts.

import { assert, unreachable } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type BlockId, type Pfn, toPfn } from '#base/units';
import { claimOf, type Evictor, withoutEvicted } from './evictor.ts';
import { NOBODY } from './frame-owners.ts';
import { MIGRATE_MOVABLE, PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import { dissolveFreeHugePages, isFreeHugePage, migrateWithPools } from './hugetlb.ts';
import { withLargePages } from './large-page.ts';
import type { LargePagePolicy } from './large-page-state.ts';
import type { Machine } from './machine.ts';
import { guestsInTheWay } from './memmap-where.ts';
import { BLOCK_GOING_OFFLINE, BLOCK_OFFLINE, BLOCK_ONLINE } from './memory-block.ts';
import { countGroup, headManaged } from './memory-online.ts';
import { offlineTargets } from './migrate.ts';
import { CLASS_TRAITS } from './page-class.ts';
import { allocationsIn, BlockerList, blockerOf, isolatePageblock, unisolatePageblock } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import { vacateBlock } from './pools/vacate-block.ts';
import { type Blocker, type BlockerCause, type ErrnoName, framesIn, type Refusal, refusal } from './refusal.ts';
import { shrinkSpan } from './zone-span.ts';

/**
 * A listener of the memory notifier chain (spec 3.3). Online: prepareOnline, goingOnline, online; or cancelOnline,
 * finishOffline. Offline: goingOffline, offline, finishOffline; or cancelOffline. A cancel also reaches those that never
 * saw the question. Nobody may change the machine's blocks from within.
 */
export type Notifier = {
  readonly name: string;
  /** Its errno when it objects: then nobody hears of a cancel. Since 6.8. */
  prepareOnline?(block: BlockId): ErrnoName | undefined;
  /** Its errno when it objects. */
  goingOnline?(block: BlockId): ErrnoName | undefined;
  cancelOnline?(block: BlockId): void;
  online?(block: BlockId): void;
  /** Its errno when it objects. */
  goingOffline?(block: BlockId): ErrnoName | undefined;
  cancelOffline?(block: BlockId): void;
  offline?(block: BlockId): void;
  finishOffline?(block: BlockId): void;
};

export type OfflineOptions = {
  /** Rounds over the block that may pass without moving anything before it is given up; default 2. */
  readonly rounds?: number;
  /** Allocations moved in one step; default 32. */
  readonly batch?: number;
  /** Who else can empty frames; default nobody, as in Linux. */
  readonly evictors?: readonly Evictor[];
  /** Blocks that leave together with it, or not at all: it may host their struct pages to the end. Default none. */
  readonly leavesWith?: readonly BlockId[];
  /** What is to become of large pages in use; default what their area says (large-page-state.ts), and that is Linux's way. */
  readonly largePages?: LargePagePolicy;
};

export type OfflineReport = {
  readonly block: BlockId;
  /** Frames that left the pool. */
  readonly pages: number;
  /** Frames whose contents were moved elsewhere. */
  readonly migratedPages: number;
  readonly steps: number;
};

export type OfflineStage =
  | 'check'
  | 'look'
  | 'quiesce'
  | 'isolate'
  | 'notify'
  | 'migrate'
  | 'dissolve'
  | 'commit'
  | 'done'
  | 'refused';

/** What offline_pages() gives as its reason (spec 3.1); the other refusals come before it. */
const KERNEL_REASONS: Readonly<Partial<Record<Refusal['reason'], string>>> = {
  hole: 'memory holes',
  multizone: 'multizone range',
  unmovable: 'failure to isolate range',
  notifier: 'notifier failure',
  stuck: 'signal backoff',
  'no-target': 'signal backoff',
  interrupted: 'signal backoff',
  dissolve: 'failure to dissolve huge pages',
};

/** Causes that Linux would retry for ever. Others come from evictors, which were asked often enough. */
const LINUX_RETRIES: ReadonlySet<BlockerCause> = new Set<BlockerCause>([
  'pinned',
  'writeback',
  'no-target',
  'kernel-in-movable',
]);

export class OfflineWork {
  readonly block: BlockId;
  stage: OfflineStage = 'check';
  /** Set when stage is 'refused'. */
  refusal: Refusal | undefined;
  steps = 0;
  /** Frames that were moved out so far, those of a part of a split huge page too. */
  migratedPages = 0;

  readonly #m: Machine;
  readonly #rounds: number;
  readonly #batch: number;
  readonly #evictors: readonly Evictor[];
  readonly #leavesWith: readonly BlockId[];
  readonly #onRefusal: 'keep-moved' | 'restore';
  readonly #row: number;
  /** Frames to take, [start, end) of the dense index: without the block's own memmap. */
  #start = 0;
  #end = 0;
  #cursor = 0;
  #idleRounds = 0;
  #movedThisRound = 0;
  #notified = false;
  #left = new BlockerList();
  #pool!: Pool; // set by the check stage, the first to run
  /** The undo ladder: one rung a stage that changed something, taken down from the top. */
  readonly #ladder: (() => void)[] = [];

  /** @param onRefusal 'restore' takes a copy before the first change and goes back to it: nobody else may have run. */
  constructor(
    m: Machine,
    block: BlockId,
    options: OfflineOptions = {},
    onRefusal: 'keep-moved' | 'restore' = 'keep-moved',
  ) {
    this.#m = m;
    this.block = block;
    this.#rounds = options.rounds ?? 2;
    this.#batch = options.batch ?? 32;
    this.#evictors = withLargePages(m, options.evictors ?? [], options.largePages);
    this.#leavesWith = options.leavesWith ?? [];
    this.#onRefusal = onRefusal;
    this.#row = m.blocks.rowOf(block);
    assert(this.#rounds >= 1 && this.#batch >= 1, 'an offline needs rounds >= 1 and batch >= 1', options);
  }

  get finished(): boolean {
    return this.stage === 'done' || this.stage === 'refused';
  }

  /** True once a page has moved: from then on undo alone does not restore where contents lie. */
  get moved(): boolean {
    return this.migratedPages > 0;
  }

  /** Does the next small piece of work. @returns the stage it is in afterwards. */
  step(): OfflineStage {
    assert(!this.finished, 'the offline is over', { block: this.block, stage: this.stage });
    this.steps++;
    switch (this.stage) {
      case 'check':
        this.#check();
        break;
      case 'look':
        this.#look();
        break;
      case 'quiesce':
        this.#quiesce();
        break;
      case 'isolate':
        this.#isolate();
        break;
      case 'notify':
        this.#notify();
        break;
      case 'migrate':
        this.#migrate();
        break;
      case 'dissolve':
        this.#dissolve();
        break;
      case 'commit':
        this.#commit();
        break;
      case 'done':
      case 'refused':
        break;
      default:
        unreachable(this.stage);
    }
    return this.stage;
  }

  /** Gives up now, as a signal does: everything is put back but what has moved. Nothing happens when it is over. */
  cancel(): void {
    if (!this.finished) this.#refuse(refusal('interrupted', `the offline of block ${this.block} was interrupted`));
  }

  #refuse(r: Refusal): void {
    const begun = this.#ladder.length > 0;
    for (let undo = this.#ladder.pop(); undo !== undefined; undo = this.#ladder.pop()) undo();
    this.refusal = r;
    this.stage = 'refused';
    this.#logRefusal(r);
    if (!begun) return; // nobody was told that it began
    this.#m.offlinesUnderWay--;
    this.#m.emit({ type: 'cancel-offline', block: this.block, refusal: r });
  }

  /** The kernel's own line, with its reasons. The memmap that the block hosts is not part of what was tried. */
  #logRefusal(r: Refusal): void {
    const why = KERNEL_REASONS[r.reason];
    if (why === undefined || this.#m.onLog === undefined) return;
    const hex = (pfn: number, less = 0): string => `0x${(pfn * PAGE_SIZE - less).toString(16).padStart(8, '0')}`;
    const start = this.block * this.#m.blockPages + (this.#m.blocks.vmemmapPages[this.#row] as number);
    const range = `[mem ${hex(start)}-${hex((this.block + 1) * this.#m.blockPages, 1)}]`;
    this.#m.onLog({ level: 'debug', text: `memory offlining ${range} failed due to ${why}` });
  }

  #check(): void {
    const m = this.#m;
    const { blocks } = m;
    const { block } = this;
    const row = this.#row;
    if (row < 0) return this.#refuse(refusal('no-such-block', `there is no memory block ${block}`));
    const state = blocks.stateAt(row);
    if (state === 'going-offline') {
      return this.#refuse(refusal('busy', `block ${block} is going offline already`));
    }
    if (state === 'offline') return this.#refuse(refusal('not-online', `block ${block} is offline already`));
    const absent = blocks.absent[row];
    if (absent > 0) {
      return this.#refuse(refusal('hole', `block ${block} has memory holes: ${absent} of its frames are not RAM`));
    }
    const pool = m.pools[blocks.pool[row]];
    if (pool === undefined) {
      return this.#refuse(refusal('multizone', `block ${block} lies in more than one zone`));
    }
    this.#pool = pool;
    blocks.state[row] = BLOCK_GOING_OFFLINE;
    m.offlinesUnderWay++;
    this.#ladder.push(() => {
      blocks.state[row] = BLOCK_ONLINE;
    });
    m.emit({ type: 'going-offline', block });
    if (this.#onRefusal === 'restore' && this.#evictors.some((e) => e.ready !== undefined)) {
      const before = m.fork();
      this.#ladder.push(() => m.rollBack(before));
    }
    for (const e of this.#evictors) {
      const ready = e.ready?.(m, block, this.#leavesWith);
      if (ready === undefined) continue;
      if (!ready.ok) return this.#refuse(ready.error);
      if (ready.value !== undefined) this.#ladder.push(ready.value);
    }
    const guests = guestsInTheWay(m, block, this.#leavesWith);
    if (guests.length > 0) {
      const message = `block ${block} hosts struct pages of others that are in use, the first: ${guests[0]?.name}`;
      return this.#refuse(refusal('hosts', message, guests));
    }
    const startPfn = toPfn(block * m.blockPages + blocks.vmemmapPages[row]);
    this.#start = m.sections.indexOf(startPfn);
    // A block's sections were made present together, so that its frames are neighbours in the dense index.
    this.#end = this.#start + m.blockPages - blocks.vmemmapPages[row];
    this.stage = 'look';
  }

  #look(): void {
    const start = this.#m.sections.pfnOf(this.#start);
    const found = this.#inTheWay(start, toPfn(start + this.#end - this.#start));
    if (found.length > 0) return this.#refuse(this.#unmovable(found));
    this.stage = 'quiesce';
  }

  /** What isolation would refuse, without what an evictor says it would take away. */
  #inTheWay(start: Pfn, end: Pfn): readonly Blocker[] {
    const m = this.#m;
    const found = m.blockersIn(start, end);
    return found.length === 0 || this.#evictors.length === 0 ? found : withoutEvicted(m, found, this.#evictors);
  }

  #unmovable(found: readonly Blocker[]): Refusal {
    const [first] = found; // callers pass a non-empty list
    const message =
      `block ${this.block}: failure to isolate range: ${framesIn(found)} frames cannot move, ` +
      `the first is ${first.startPfn.toString(16)} (${first.class}, ${first.name})`;
    return refusal('unmovable', message, found);
  }

  #quiesce(): void {
    const m = this.#m;
    const pool = this.#pool;
    if (this.#onRefusal === 'restore' && this.#mayRefuseYet()) {
      const before = m.fork();
      this.#ladder.push(() => m.rollBack(before));
    }
    pool.alloc.disable();
    this.#ladder.push(() => pool.alloc.enable());
    // Undone after the pageblocks are back, as in Linux: a listener that is told may allocate there again.
    this.#ladder.push(() => {
      if (this.#notified) for (const n of m.notifiers) n.cancelOffline?.(this.block);
    });
    const kept = vacateBlock(m, { start: this.#start, end: this.#end });
    if (!kept.ok) return this.#refuse({ ...kept.error, message: `block ${this.block}: ${kept.error.message}` });
    if (kept.value !== undefined) this.#ladder.push(kept.value);
    this.#cursor = this.#start;
    // A block that is all memmap (self-range) has nothing to isolate.
    this.stage = this.#start < this.#end ? 'isolate' : 'notify';
  }

  /**
   * From here on, can anything stop an offline that nobody interrupts? Not one of a block whose frames are all in the
   * free area: it has nothing to drain, to move or to dissolve, and without listeners nobody is asked. Then there is
   * nothing to go back to, and no copy is taken: 8192 free blocks go offline in a second instead of minutes.
   */
  #mayRefuseYet(): boolean {
    const { alloc, base } = this.#pool;
    // A zone whose frames were all carved out may have a hull that ends before the block.
    const end = Math.min(alloc.area.pages, this.#end - base);
    const free = this.#start - base < end && this.#start >= base ? alloc.area.freeIn(this.#start - base, end) : 0;
    return this.#m.notifiers.length > 0 || free < this.#end - this.#start;
  }

  #isolate(): void {
    // Other work may have put something here since the look.
    const pfn = this.#m.sections.pfnOf(this.#cursor);
    const found = this.#inTheWay(pfn, toPfn(pfn + PAGEBLOCK_PAGES));
    if (found.length > 0) return this.#refuse(this.#unmovable(found));
    const pool = this.#pool;
    const index = this.#cursor;
    const type = isolatePageblock(pool, index);
    // Until 6.17 Linux forgot the type: an offline that fails leaves Movable pageblocks behind (spec 3.1, corner).
    const linux = this.#m.spec.compat === 'linux' && this.#m.profile.failedOffline === 'movable';
    this.#ladder.push(() => unisolatePageblock(pool, index, linux ? MIGRATE_MOVABLE : type));
    this.#cursor += PAGEBLOCK_PAGES;
    if (this.#cursor >= this.#end) this.stage = 'notify';
  }

  #notify(): void {
    const { block } = this;
    for (const e of this.#evictors) {
      const prepared = e.prepare?.(this.#m, { start: this.#start, end: this.#end });
      if (prepared === undefined) continue;
      if (!prepared.ok) {
        return this.#refuse({ ...prepared.error, message: `block ${block}: ${prepared.error.message}` });
      }
      if (prepared.value !== undefined) this.#ladder.push(prepared.value);
    }
    this.#notified = true;
    for (const n of this.#m.notifiers) {
      const errno = n.goingOffline?.(block);
      if (errno === undefined) continue;
      return this.#refuse({ ...refusal('notifier', `block ${block}: notifier failure: ${n.name} objects`), errno });
    }
    this.#startRound();
    this.stage = 'migrate';
  }

  #startRound(): void {
    this.#cursor = this.#start;
    this.#movedThisRound = 0;
    this.#left = new BlockerList();
  }

  #migrate(): void {
    const m = this.#m;
    const targets = offlineTargets(m, this.#pool);
    let done = 0;
    for (const a of allocationsIn(m, this.#cursor, this.#end)) {
      const pages = 1 << a.order;
      this.#cursor = a.head + pages;
      if (CLASS_TRAITS[a.cls].mobility === 'stays') continue; // spec 3.2 rule 6
      if (isFreeHugePage(m, a.head)) continue; // not moved but dissolved, when all else is gone
      const before = m.vmstat.pgmigrate_success;
      const claimed = claimOf(m, this.#evictors, a);
      const outcome =
        claimed === undefined
          ? migrateWithPools(m, a.head, targets)
          : claimed.claim === 'yes'
            ? claimed.evictor.evict(m, a, { start: this.#start, end: this.#end })
            : claimed.claim;
      // A split huge page may have moved in part: count what moved, name the frames that are still there.
      const moved = claimed !== undefined ? (outcome === 'moved' ? pages : 0) : m.vmstat.pgmigrate_success - before;
      this.migratedPages += moved;
      this.#movedThisRound += moved;
      if (outcome !== 'moved') {
        const cause: BlockerCause = outcome === 'final' ? 'kernel-in-movable' : outcome;
        for (const b of allocationsIn(m, a.head, a.head + pages)) {
          this.#left.add(blockerOf(m, b.head, 1 << b.order, cause));
        }
      }
      if (++done === this.#batch) return; // other work may run now
    }
    if (this.#left.items.length === 0) {
      this.stage = 'dissolve';
      return;
    }
    this.#idleRounds = this.#movedThisRound === 0 ? this.#idleRounds + 1 : 0;
    if (this.#idleRounds < this.#rounds) return this.#startRound();
    const left = this.#stillLeft();
    if (left.length > 0) return this.#refuse(this.#stuck(left));
    if (this.#idleRounds < 2 * this.#rounds) return this.#startRound(); // others made way: that is progress, too
    this.#refuse(this.#restless());
  }

  /** What was dissolved before a refusal has left its pool for good, as in Linux; only 'restore' takes it back. */
  #dissolve(): void {
    const m = this.#m;
    const start = m.sections.pfnOf(this.#start);
    const r = dissolveFreeHugePages(m, start, toPfn(start + this.#end - this.#start));
    if (!r.ok) return this.#refuse({ ...r.error, message: `block ${this.block}: ${r.error.message}` });
    this.stage = 'commit';
  }

  /** The round's evidence as it is now: others may have freed or unpinned what was in the way when it was looked at. */
  #stillLeft(): readonly Blocker[] {
    const m = this.#m;
    const now = new BlockerList();
    for (const b of this.#left.items) {
      const start = m.sections.indexOf(b.startPfn);
      for (const a of allocationsIn(m, start, start + b.endPfn - b.startPfn)) {
        const { mobility } = CLASS_TRAITS[a.cls];
        if (mobility === 'stays') continue;
        if (claimOf(m, this.#evictors, a) !== undefined) {
          now.add(blockerOf(m, a.head, 1 << a.order, b.cause));
          continue;
        }
        const cause = mobility === 'never' ? 'kernel-in-movable' : a.pinned ? 'pinned' : b.cause;
        const unpinned = cause === 'pinned' && !a.pinned;
        if (!unpinned) now.add(blockerOf(m, a.head, 1 << a.order, cause));
      }
    }
    return now.items;
  }

  #restless(): Refusal {
    return refusal('stuck', `block ${this.block}: pages come and go in it, Linux would retry until a signal`);
  }

  #stuck(left: readonly Blocker[]): Refusal {
    const [first] = left; // callers pass a non-empty list
    const pages = framesIn(left);
    const final = left.find((b) => !LINUX_RETRIES.has(b.cause));
    if (final !== undefined) {
      const at = `${final.startPfn.toString(16)} (${final.cause}, ${final.name})`;
      return refusal('unmovable', `block ${this.block}: ${pages} frames do not leave, one is ${at}`, left);
    }
    const noTarget = left.every((b) => b.cause === 'no-target');
    const why = noTarget
      ? `${pages} frames have nowhere to go: no free memory above the watermarks where they may live`
      : `${pages} frames do not move, the first is ${first.startPfn.toString(16)} (${first.cause}, ${first.name})`;
    const message = `block ${this.block}: ${why}; Linux would retry until a signal`;
    return refusal(noTarget ? 'no-target' : 'stuck', message, left);
  }

  #commit(): void {
    const m = this.#m;
    const pool = this.#pool;
    const { area } = pool.alloc;
    const start = this.#start - pool.base;
    const end = this.#end - pool.base;
    let staying = 0;
    let unmanaged = 0;
    for (const a of allocationsIn(m, this.#start, this.#end)) {
      const traits = CLASS_TRAITS[a.cls];
      if (traits.mobility !== 'stays') return this.#startAgain(); // arrived meanwhile, e.g. by a driver's own doing
      staying += 1 << a.order;
      if (!traits.managed) unmanaged += 1 << a.order;
    }
    const free = area.freeIn(start, end);
    if (free + staying !== end - start) return this.#startAgain();

    // ═══ Point of no return: nothing below can fail. ═══
    this.#ladder.length = 0;
    const chunks: number[] = [];
    area.forEachFree(start, end, (i, order) => chunks.push(i, order));
    for (let k = 0; k < chunks.length; k += 2) pool.alloc.take(chunks[k], chunks[k + 1]);
    for (let i = start; i < end; i += PAGEBLOCK_PAGES) pool.alloc.unisolate(i, MIGRATE_MOVABLE);
    pool.alloc.enable();
    const vmemmap = m.blocks.vmemmapPages[this.#row];
    m.owners.setZone((this.#start - vmemmap) >>> PAGEBLOCK_ORDER, this.#end >>> PAGEBLOCK_ORDER, NOBODY);
    m.frameWatch?.owned(this.#start - vmemmap, this.#end);
    for (const e of this.#evictors) e.commit?.(m, { start: this.#start, end: this.#end });
    pool.managed -= end - start - unmanaged + (headManaged(m, this.block * m.blockPages) ? vmemmap : 0);
    pool.present -= end - start + vmemmap;
    if (m.blocks.early[this.#row] === 1) pool.presentEarly -= end - start + vmemmap;
    countGroup(m, this.#row, pool, -(end - start + vmemmap));
    m.blocks.state[this.#row] = BLOCK_OFFLINE;
    m.blocks.pool[this.#row] = -1;
    m.blocks.stayed[this.#row] = staying > 0 ? 1 : 0;
    shrinkSpan(m, pool, this.block * m.blockPages, (this.block + 1) * m.blockPages);
    m.updateWatermarks();
    m.offlinesUnderWay--;
    this.stage = 'done';
    for (const n of m.notifiers) n.offline?.(this.block);
    for (const n of m.notifiers) n.finishOffline?.(this.block);
    m.onLog?.({ level: 'debug', text: `Offlined Pages ${end - start}` });
    m.emit({ type: 'offline', block: this.block, pages: end - start });
  }

  #startAgain(): void {
    this.#idleRounds++;
    if (this.#idleRounds > this.#rounds) {
      return this.#refuse(this.#restless());
    }
    this.#startRound();
    this.stage = 'migrate';
  }
}

/**
 * Runs an offline to its end. A refusal leaves the machine exactly as it was. Cost of that promise: one fork, unless
 * the block is free throughout and the machine has no listeners.
 */
export function offlineBlock(m: Machine, block: BlockId, options?: OfflineOptions): Result<OfflineReport, Refusal> {
  const work = new OfflineWork(m, block, options, m.spec.compat === 'linux' ? 'keep-moved' : 'restore');
  while (!work.finished) work.step();
  if (work.refusal !== undefined) return err(work.refusal);
  return ok({
    block,
    pages: m.blockPages - m.blocks.vmemmapPages[m.blocks.rowOf(block)],
    migratedPages: work.migratedPages,
    steps: work.steps,
  });
}
