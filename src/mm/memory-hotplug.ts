// Memory hotplug, the logical half: a block goes offline, in small steps between which other work may run.
//
//   step       what                                                      refusal                undo
//   check      online? RAM throughout? one zone?                         EINVAL                 -
//   look       blockersIn: anything that can never move?                 EBUSY  unmovable       -
//   quiesce    per-CPU lists of the pool drained and off                                        on again
//   isolate    one pageblock a step; looked at again first               EBUSY  unmovable       its own type again
//   notify     listeners in order                                        their errno            cancel, to all
//   migrate    one batch of allocations a step, in bounded rounds        EINTR  stuck,no-target -
//   commit     all free?  ═══ point of no return ═══  counters, span, watermarks
//
// Linux retries the migrate step for ever, until a signal (spec 3.1 step 5); the engine stops after `rounds` rounds
// without progress and says what did not move. What was moved by then stays moved, as in Linux; `offlineBlock`, which
// lets nothing run in between, also puts that back, so that its refusal leaves the machine exactly as it was.
//
// Invariants: O1 after a refusal every pageblock has its type and the pool its per-CPU lists; O2 after a commit no frame
// of the block is in any list and no holder has one (poisoned ones excepted); O3 contents survive.
//
// Follows Linux v6.12 mm/memory_hotplug.c: offline_pages(), online_pages(), shrink_zone_span() (spec 1.6, 3.1, 3.3).

import { assert, unreachable } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type BlockId, toPfn } from '#base/units';
import { MIGRATE_MOVABLE, type MigrateType, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import type { Machine } from './machine.ts';
import { BLOCK_GOING_OFFLINE, BLOCK_OFFLINE, BLOCK_ONLINE } from './memory-block.ts';
import { migrateAllocation, offlineTargets } from './migrate.ts';
import { CLASS_TRAITS, ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { allocationsIn, BlockerList, blockerOf, isolatePageblock, unisolatePageblock } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import type { Blocker, BlockerCause, ErrnoName, Refusal, RefusalReason } from './refusal.ts';
import { KIND_MASK } from './section.ts';

/** A listener of the memory notifier chain (spec 3.3). `cancel` also reaches those that never saw `goingOffline`. */
export type Notifier = {
  readonly name: string;
  /** Its errno when it objects. */
  goingOffline?(block: BlockId): ErrnoName | undefined;
  cancelOffline?(block: BlockId): void;
  offline?(block: BlockId): void;
};

export type OfflineOptions = {
  /** Rounds over the block that may pass without moving anything before it is given up; default 2. */
  readonly rounds?: number;
  /** Allocations moved in one step; default 32. */
  readonly batch?: number;
};

export type OfflineReport = {
  readonly block: BlockId;
  /** Frames that left the pool. */
  readonly pages: number;
  /** Frames whose contents were moved elsewhere. */
  readonly migratedPages: number;
  readonly steps: number;
};

export type OnlineReport = { readonly block: BlockId; readonly pages: number; readonly zone: string };

export type OfflineStage =
  | 'check'
  | 'look'
  | 'quiesce'
  | 'isolate'
  | 'notify'
  | 'migrate'
  | 'commit'
  | 'done'
  | 'refused';

const refusal = (
  reason: RefusalReason,
  errno: ErrnoName,
  message: string,
  blockers: readonly Blocker[] = [],
): Refusal => ({ reason, errno, message, blockers });

const framesIn = (blockers: readonly Blocker[]): number => blockers.reduce((n, b) => n + (b.endPfn - b.startPfn), 0);

export class OfflineWork {
  readonly block: BlockId;
  stage: OfflineStage = 'check';
  /** Set when stage is 'refused'. */
  refusal: Refusal | undefined;
  steps = 0;
  migratedPages = 0;
  /** True once a page has moved: from then on undo alone does not restore where contents lie. */
  moved = false;

  readonly #m: Machine;
  readonly #rounds: number;
  readonly #batch: number;
  readonly #row: number;
  /** Frames to take, [start, end) of the dense index: without the block's own memmap. */
  #start = 0;
  #end = 0;
  #cursor = 0;
  #idleRounds = 0;
  #movedThisRound = 0;
  #left = new BlockerList();
  #pool!: Pool; // set by the check stage, the first to run
  readonly #ladder: (() => void)[] = [];

  constructor(m: Machine, block: BlockId, options: OfflineOptions = {}) {
    this.#m = m;
    this.block = block;
    this.#rounds = options.rounds ?? 2;
    this.#batch = options.batch ?? 32;
    this.#row = m.blocks.rowOf(block);
  }

  get finished(): boolean {
    return this.stage === 'done' || this.stage === 'refused';
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

  /** Gives up now, as a signal does: everything is put back. */
  cancel(): void {
    if (!this.finished) this.#refuse(refusal('stuck', 'EINTR', `the offline of block ${this.block} was interrupted`));
  }

  #refuse(r: Refusal): void {
    for (let undo = this.#ladder.pop(); undo !== undefined; undo = this.#ladder.pop()) undo();
    this.refusal = r;
    this.stage = 'refused';
    if (this.#row >= 0) this.#m.emit({ type: 'cancel-offline', block: this.block, refusal: r });
  }

  #check(): void {
    const { blocks } = this.#m;
    const row = this.#row;
    if (row < 0) return this.#refuse(refusal('no-such-block', 'ENOENT', `there is no memory block ${this.block}`));
    const state = blocks.stateAt(row);
    if (state === 'going-offline') {
      return this.#refuse(refusal('busy', 'EBUSY', `block ${this.block} is going offline already`));
    }
    if (state === 'offline') {
      return this.#refuse(refusal('not-online', 'EINVAL', `block ${this.block} is offline already`));
    }
    const absent = blocks.absent[row] as number;
    if (absent > 0) {
      const message = `block ${this.block} has memory holes: ${absent} of its frames are not RAM`;
      return this.#refuse(refusal('hole', 'EINVAL', message));
    }
    const pool = this.#m.pools[blocks.pool[row] as number];
    if (pool === undefined) {
      return this.#refuse(refusal('multizone', 'EINVAL', `block ${this.block} lies in more than one zone`));
    }
    this.#pool = pool;
    const startPfn = toPfn(this.block * this.#m.blockPages + (blocks.vmemmapPages[row] as number));
    this.#start = this.#m.sections.indexOf(startPfn);
    // A block's sections were made present together, so that its frames are neighbours in the dense index.
    this.#end = this.#start + this.#m.blockPages - (blocks.vmemmapPages[row] as number);
    this.stage = 'look';
  }

  #look(): void {
    const start = this.#m.sections.pfnOf(this.#start);
    const found = this.#m.blockersIn(start, toPfn(start + this.#end - this.#start));
    if (found.length > 0) return this.#refuse(this.#unmovable(found));
    this.#m.emit({ type: 'going-offline', block: this.block });
    this.stage = 'quiesce';
  }

  #unmovable(found: readonly Blocker[]): Refusal {
    const first = found[0] as Blocker; // callers pass a non-empty list
    const message =
      `block ${this.block}: failure to isolate range: ${framesIn(found)} frames cannot move, ` +
      `the first is ${first.startPfn.toString(16)} (${first.class}, ${first.name})`;
    return refusal('unmovable', 'EBUSY', message, found);
  }

  #quiesce(): void {
    const pool = this.#pool;
    this.#m.blocks.state[this.#row] = BLOCK_GOING_OFFLINE;
    this.#ladder.push(() => {
      this.#m.blocks.state[this.#row] = BLOCK_ONLINE;
    });
    pool.alloc.disable();
    this.#ladder.push(() => pool.alloc.enable());
    this.#cursor = this.#start;
    this.stage = 'isolate';
  }

  #isolate(): void {
    // Other work may have put something here since the look.
    const pfn = this.#m.sections.pfnOf(this.#cursor);
    const found = this.#m.blockersIn(pfn, toPfn(pfn + PAGEBLOCK_PAGES));
    if (found.length > 0) return this.#refuse(this.#unmovable(found));
    const pool = this.#pool;
    const index = this.#cursor;
    const type = isolatePageblock(pool, index);
    this.#ladder.push(() => unisolatePageblock(pool, index, type));
    this.#cursor += PAGEBLOCK_PAGES;
    if (this.#cursor >= this.#end) this.stage = 'notify';
  }

  #notify(): void {
    const { notifiers } = this.#m;
    this.#ladder.push(() => {
      for (const n of notifiers) n.cancelOffline?.(this.block);
    });
    for (const n of notifiers) {
      const errno = n.goingOffline?.(this.block);
      if (errno === undefined) continue;
      return this.#refuse(refusal('notifier', errno, `block ${this.block}: notifier failure: ${n.name} objects`));
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
      const outcome = migrateAllocation(m, a.head, targets);
      if (outcome === 'moved') {
        this.moved = true;
        this.migratedPages += pages;
        this.#movedThisRound += pages;
      } else {
        const cause: BlockerCause = outcome === 'final' ? 'kernel-in-movable' : outcome;
        // A split huge page may have moved in part: name the frames that are still there.
        for (const b of allocationsIn(m, a.head, a.head + pages)) {
          this.#left.add(blockerOf(m, b.head, 1 << b.order, cause));
        }
      }
      if (++done === this.#batch) return; // other work may run now
    }
    if (this.#left.items.length === 0) {
      this.stage = 'commit';
      return;
    }
    this.#idleRounds = this.#movedThisRound === 0 ? this.#idleRounds + 1 : 0;
    if (this.#idleRounds < this.#rounds) return this.#startRound();
    this.#refuse(this.#stuck(this.#left.items));
  }

  #stuck(left: readonly Blocker[]): Refusal {
    const first = left[0] as Blocker; // callers pass a non-empty list
    const pages = framesIn(left);
    const noTarget = left.every((b) => b.cause === 'no-target');
    const why = noTarget
      ? `${pages} frames have nowhere to go: no free memory above the watermarks where they may live`
      : `${pages} frames do not move, the first is ${first.startPfn.toString(16)} (${first.cause}, ${first.name})`;
    const message = `block ${this.block}: ${why}; Linux would retry until a signal`;
    return refusal(noTarget ? 'no-target' : 'stuck', 'EINTR', message, left);
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
    for (let k = 0; k < chunks.length; k += 2) pool.alloc.take(chunks[k] as number, chunks[k + 1] as number);
    for (let i = start; i < end; i += PAGEBLOCK_PAGES) pool.alloc.unisolate(i, MIGRATE_MOVABLE);
    pool.alloc.enable();
    const vmemmap = m.blocks.vmemmapPages[this.#row] as number;
    for (let i = this.#start - vmemmap; i < this.#end; i += PAGEBLOCK_PAGES) m.poolOf[i >>> PAGEBLOCK_ORDER] = -1;
    pool.managed -= end - start - unmanaged;
    pool.present -= end - start + vmemmap;
    m.blocks.state[this.#row] = BLOCK_OFFLINE;
    m.blocks.pool[this.#row] = -1;
    shrinkSpan(m, pool, toPfn(this.block * m.blockPages), toPfn((this.block + 1) * m.blockPages));
    m.updateWatermarks();
    this.stage = 'done';
    for (const n of m.notifiers) n.offline?.(this.block);
    m.emit({ type: 'offline', block: this.block, pages: end - start });
  }

  #startAgain(): void {
    this.#idleRounds++;
    if (this.#idleRounds > this.#rounds) {
      return this.#refuse(refusal('stuck', 'EINTR', `block ${this.block}: pages keep appearing in it`));
    }
    this.#startRound();
    this.stage = 'migrate';
  }
}

/** Spec 1.6: the span shrinks only when its start or its end left, to the nearest pageblock that is still there. */
function shrinkSpan(m: Machine, pool: Pool, start: number, end: number): void {
  if (start > pool.startPfn && end < pool.endPfn) return;
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  const first = pool.base >>> PAGEBLOCK_ORDER;
  const last = (pool.base + pool.pages) >>> PAGEBLOCK_ORDER;
  for (let pb = first; pb < last && pb < m.poolOf.length; pb++) {
    if (m.poolOf[pb] !== pool.id) continue;
    const pfn = m.sections.pfnOf(pb * PAGEBLOCK_PAGES);
    low = Math.min(low, pfn);
    high = Math.max(high, pfn + PAGEBLOCK_PAGES);
  }
  if (high === 0) {
    pool.startPfn = toPfn(0);
    pool.endPfn = toPfn(0);
    return;
  }
  // Only the side that left moves: the other may be ragged (a zone that begins at frame 1).
  if (start <= pool.startPfn) pool.startPfn = toPfn(low);
  if (end >= pool.endPfn) pool.endPfn = toPfn(high);
}

/** Runs an offline to its end. A refusal leaves the machine exactly as it was. Cost of that promise: one fork. */
export function offlineBlock(m: Machine, block: BlockId, options?: OfflineOptions): Result<OfflineReport, Refusal> {
  const work = new OfflineWork(m, block, options);
  while (work.stage === 'check' || work.stage === 'look') work.step();
  if (work.refusal !== undefined) return err(work.refusal); // nothing was touched
  const before = m.fork();
  while (!work.finished) work.step();
  if (work.refusal !== undefined) {
    const { seq } = m;
    m.copyFrom(before);
    m.seq = seq; // events were sent: their numbers are spent
    return err(work.refusal);
  }
  return ok({
    block,
    pages: m.blockPages - (m.blocks.vmemmapPages[m.blocks.rowOf(block)] as number),
    migratedPages: work.migratedPages,
    steps: work.steps,
  });
}

/** Spec 1.7: the kernel zone of a range is the first of DMA, DMA32 whose span it meets, else Normal. */
function kernelZone(m: Machine, node: number, start: number, end: number): Pool | undefined {
  const low = m.pools.find(
    (p) => p.node === node && p.zone <= ZONE_DMA32 && p.spanned > 0 && p.startPfn < end && start < p.endPfn,
  );
  return low ?? m.pools.find((p) => p.node === node && p.zone === ZONE_NORMAL);
}

/** See Machine.online. Frames go to the tail of their lists, in chunks (spec 2.1). */
export function onlineBlock(m: Machine, block: BlockId, zone: 'kernel' | 'movable'): Result<OnlineReport, Refusal> {
  const row = m.blocks.rowOf(block);
  if (row < 0) return err(refusal('no-such-block', 'ENOENT', `there is no memory block ${block}`));
  if (m.blocks.state[row] !== BLOCK_OFFLINE) {
    return err(refusal('not-online', 'EINVAL', `block ${block} is ${m.blocks.stateAt(row)}, not offline`));
  }
  const startPfn = block * m.blockPages;
  const endPfn = startPfn + m.blockPages;
  const node = m.blocks.node[row] as number;
  const pool =
    zone === 'movable'
      ? m.pools.find((p) => p.node === node && p.zone === ZONE_MOVABLE)
      : kernelZone(m, node, startPfn, endPfn);
  if (pool === undefined) {
    return err(refusal('wrong-zone', 'EINVAL', `node ${node} has no ${zone} zone for block ${block}`));
  }
  const vmemmap = m.blocks.vmemmapPages[row] as number;
  const whole = m.sections.indexOf(toPfn(startPfn));
  const start = whole + vmemmap;
  const end = whole + m.blockPages;
  pool.widen(whole, end);
  for (let i = whole; i < end; i += PAGEBLOCK_PAGES) {
    m.poolOf[i >>> PAGEBLOCK_ORDER] = pool.id;
    const type: MigrateType = MIGRATE_MOVABLE;
    if (pool.alloc.area.typeOf(i - pool.base) !== type) pool.alloc.setPageblockType(i - pool.base, type);
  }
  for (let i = start; i < end; ) {
    const kind = m.sections.metaAt(i) & KIND_MASK;
    if (kind !== 0) {
      i++; // poisoned frames stay out
      continue;
    }
    let order = 0;
    while (order < 10 && (i & ((2 << order) - 1)) === 0 && i + (2 << order) <= end && isBlank(m, i, 2 << order))
      order++;
    pool.alloc.freeToArea(i - pool.base, order, true);
    i += 1 << order;
  }
  pool.managed += end - start;
  pool.present += end - whole;
  if (pool.spanned === 0) {
    pool.startPfn = toPfn(startPfn);
    pool.endPfn = toPfn(endPfn);
  } else {
    pool.startPfn = toPfn(Math.min(pool.startPfn, startPfn));
    pool.endPfn = toPfn(Math.max(pool.endPfn, endPfn));
  }
  m.blocks.state[row] = BLOCK_ONLINE;
  m.blocks.pool[row] = pool.id;
  m.updateWatermarks();
  m.emit({ type: 'online', block, zone: pool.name });
  return ok({ block, pages: end - start, zone: pool.name });
}

function isBlank(m: Machine, start: number, pages: number): boolean {
  for (let i = start; i < start + pages; i++) if ((m.sections.metaAt(i) & KIND_MASK) !== 0) return false;
  return true;
}
