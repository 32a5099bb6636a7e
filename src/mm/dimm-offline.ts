// A DIMM leaves: all of its blocks or none, and if none, each is in the state and the zone that it was in.
//
//   step      for every block, before the next step begins for any                         refusal             undo
//   check     whole blocks that are there, no other offline under way                     EINVAL ENOENT EBUSY  -
//   look      online? one zone? anything in it that can never leave?                      EINVAL EBUSY         online
//   isolate   per-CPU lists off, user pools vacate it, its pageblocks are nobody's        EBUSY                their types again
//   prepare   evictors are asked (phase 1), then listeners                                (theirs)             the last asked first
//   empty     allocations leave, those of the block with most that is known to stay first EBUSY EINTR EIO      see below
//   commit    all empty still? the whole end, rehearsed on a copy                         (any)
//             ═══ point of no return ═══ every block offline, the memory removed
//
//        block 32   check look isolate prepare ─ empty ─┐
//        block 33   check look isolate prepare ─ empty ─┼─ commit, in one step
//        block 34   check look isolate prepare ─ empty ─┘
//        nothing of the DIMM can be allocated ╰────────────── until it is gone or all is given back
//
// Each block is an OfflineWork (memory-hotplug.ts) that waits before its commit for the others. So nothing moves from one
// block of the DIMM to another, every driver is asked before the first page moves, and nothing has to be taken back that
// was final: a driver's area goes back to the very frames that it had, which are isolated still (spec 9.E). An offline block
// by block, Linux's, commits the first before it asks the second; its areas are elsewhere for good, and the block comes
// back by the policy, maybe in another zone: removeDimm with compat 'linux' (memory-device.ts, golden t1).
//
// `removeDimm` lets nobody run in between, so that its refusal leaves the machine exactly as it was. A DimmWork lets others
// run between steps: its refusal gives back state, zone and types; what has moved by then stays moved.
//
// Invariants: DO1 a refusal is a refusal of the whole; DO2 no frame of the DIMM is handed out from isolate to the end; DO3 the
// outcome does not depend on the order of the blocks; DO4 every fault point leaves DO1 true. Spec 9.F7; 9.E, rollback.

import { assert, unreachable } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type BlockId, toBlockId, toPfn } from '#base/units';
import type { Evictor } from './evictor.ts';
import { MIGRATE_ISOLATE, PAGE_SIZE, PAGEBLOCK_PAGES } from './geometry.ts';
import type { Machine } from './machine.ts';
import type { MemoryRange } from './memory-add.ts';
import { BLOCK_GOING_OFFLINE, BLOCK_OFFLINE, BLOCK_ONLINE } from './memory-block.ts';
import { type EjectReport, ejectDimm } from './memory-device.ts';
import { type OfflineOptions, type OfflineStage, OfflineWork } from './memory-hotplug.ts';
import type { RemoveReport } from './memory-remove.ts';
import { CLASS_TRAITS } from './page-class.ts';
import { allocationsIn } from './page-isolation.ts';
import { type Blocker, type Refusal, refusal } from './refusal.ts';
import { META_PINNED, META_WRITEBACK } from './section.ts';

export type DimmOptions = {
  /** Who else can empty frames; default those of `offline`, else nobody. */
  readonly evictors?: readonly Evictor[];
  /** For each block. */
  readonly offline?: OfflineOptions;
  /** Asks all blocks though one has refused, so that the refusal names all that is in the way. Default: of a dry run, true. */
  readonly all?: boolean;
  /** Offline is enough: the memory stays plugged. Default false. */
  readonly keep?: boolean;
  /** Which block is emptied first; changes how soon a refusal is known, never whether. Default 'worst-first'. */
  readonly order?: 'worst-first' | 'ascending' | 'descending';
};

export type RemoveDimmOptions = DimmOptions & {
  /** Tried on a copy: the machine is not touched. Listeners are not asked, as they belong to the machine. */
  readonly dryRun?: boolean;
  /** 'linux': block by block, and those that went come back by policy (ejectDimm). Default 'strict': this file. */
  readonly compat?: 'linux' | 'strict';
};

/** One block, by id. */
export type BlockTrial = {
  readonly block: BlockId;
  /** The zone that it was in: "Normal"; "offline"; "none" when it lies in several. */
  readonly zone: string;
  /** Frames that left it, by whom: 'migration', or the evictor's name. */
  readonly moved: Readonly<Record<string, number>>;
  readonly steps: number;
  /** Why it does not go; undefined: it would, or it was not asked any more. */
  readonly refusal: Refusal | undefined;
};

export type DimmRemoval = {
  readonly ranges: readonly MemoryRange[];
  readonly blocks: readonly BlockTrial[];
  /** The sum over the blocks. */
  readonly moved: Readonly<Record<string, number>>;
  readonly steps: number;
  /** One for each range; none where the memory is kept. */
  readonly removed: readonly RemoveReport[];
  readonly dryRun: boolean;
};

/** Its blockers are those of all blocks that were asked, by address. */
export type DimmRefusal = Refusal & { readonly blocks: readonly BlockTrial[] };

export type DimmStage = 'check' | 'look' | 'isolate' | 'prepare' | 'empty' | 'commit' | 'done' | 'refused';

/** Steps that can fail in the world, as Machine.faultAt is asked for them, each time before one is done. */
export const DIMM_FAULT_POINTS = [
  'dimm.check',
  'dimm.look',
  'dimm.isolate',
  'dimm.prepare',
  'dimm.empty',
  'dimm.commit',
] as const;

/** Where the block's own work is when it is ready for the next step of the DIMM. */
const GOAL = { look: 'quiesce', isolate: 'notify', prepare: 'migrate', empty: 'commit' } as const;
type Phase = keyof typeof GOAL;
const NEXT: Readonly<Record<Phase, DimmStage>> = {
  look: 'isolate',
  isolate: 'prepare',
  prepare: 'empty',
  empty: 'commit',
};
const RANK: Readonly<Record<OfflineStage, number>> = {
  check: 0,
  look: 1,
  quiesce: 2,
  isolate: 3,
  notify: 4,
  migrate: 5,
  dissolve: 6,
  commit: 7,
  done: 8,
  refused: 8,
};

/** How often a commit waits for an offline of others that began meanwhile; one of a block has some hundred steps. */
const MAX_WAITS = 100_000;

/** One block of the DIMM on its way. */
type Row = {
  readonly block: BlockId;
  readonly zone: string;
  readonly work: OfflineWork;
  /** Frames that evictors took away, by name, and those of them that the work counts as its own. */
  readonly evicted: Map<string, number>;
  counted: number;
  /** Types of its pageblocks when they were isolated: compat 'linux' forgets them. */
  types: Uint8Array;
};

export class DimmWork {
  stage: DimmStage = 'check';
  /** Set when stage is 'refused'. */
  refusal: DimmRefusal | undefined;
  /** Set when stage is 'done'. */
  report: DimmRemoval | undefined;
  steps = 0;

  readonly #m: Machine;
  readonly #ranges: readonly MemoryRange[];
  readonly #options: DimmOptions;
  readonly #onRefusal: 'keep-moved' | 'restore';
  readonly #rows: Row[] = [];
  /** Those that were offline before. */
  readonly #offline: BlockId[] = [];
  #waits = 0;
  #before: Machine | undefined;

  /**
   * @param where      a DIMM: whole blocks, maybe in several ranges
   * @param onRefusal  'restore' takes a copy before the first change and goes back to it: nobody else may have run
   */
  constructor(
    m: Machine,
    where: MemoryRange | readonly MemoryRange[],
    options: DimmOptions = {},
    onRefusal: 'keep-moved' | 'restore' = 'keep-moved',
  ) {
    this.#m = m;
    this.#ranges = rangesOf(where);
    this.#options = options;
    this.#onRefusal = onRefusal;
  }

  get finished(): boolean {
    return this.stage === 'done' || this.stage === 'refused';
  }

  /** Does the next small piece of work. @returns the stage it is in afterwards. */
  step(): DimmStage {
    const { stage } = this;
    assert(stage !== 'done' && stage !== 'refused', 'the removal is over', { stage });
    this.steps++;
    if (this.#m.faultAt?.(`dimm.${stage}`) === true) {
      this.#refuse(refusal('fault', `${this.#text()}: a fault at ${stage}`));
    } else if (stage === 'check') {
      this.#check();
    } else if (stage === 'commit') {
      this.#commit();
    } else {
      this.#phase(stage);
    }
    return this.stage;
  }

  /** Gives up now, as a signal does. Nothing happens when it is over. */
  cancel(): void {
    if (!this.finished) this.#refuse(refusal('interrupted', `${this.#text()}: the removal was interrupted`));
  }

  #text(): string {
    return this.#ranges
      .map((r) => `[mem 0x${(r.start * PAGE_SIZE).toString(16)}-0x${(r.end * PAGE_SIZE - 1).toString(16)}]`)
      .join(' ');
  }

  #check(): void {
    const m = this.#m;
    const { blocks, blockPages } = m;
    if (m.offlinesUnderWay > 0) {
      return this.#refuse(refusal('busy', `${this.#text()}: another offline is under way`));
    }
    const ids: BlockId[] = [];
    for (const { start, end } of this.#ranges) {
      if (start >= end || start % blockPages !== 0 || end % blockPages !== 0) {
        return this.#refuse(refusal('unaligned', `${this.#text()} is not whole blocks`));
      }
      for (let id = start / blockPages; id < end / blockPages; id++) ids.push(toBlockId(id));
    }
    const missing = ids.find((id) => blocks.rowOf(id) < 0);
    if (missing !== undefined || ids.length === 0) {
      return this.#refuse(
        refusal('no-such-memory', `${this.#text()}: there is no memory block ${missing ?? 'at all'}`),
      );
    }
    if (this.#onRefusal === 'restore') this.#before = m.fork();
    for (const block of ids) {
      const row = blocks.rowOf(block);
      if (blocks.state[row] === BLOCK_OFFLINE) this.#offline.push(block);
      else this.#rows.push(this.#newRow(block, ids));
    }
    this.stage = 'look';
  }

  #newRow(block: BlockId, leavesWith: readonly BlockId[]): Row {
    const m = this.#m;
    const evicted = new Map<string, number>();
    const count = (name: string, frames: number, counted: number): void => {
      evicted.set(name, (evicted.get(name) ?? 0) + frames);
      row.counted += counted;
    };
    const { offline } = this.#options;
    const evictors = (this.#options.evictors ?? offline?.evictors ?? []).map((e) => counting(e, count));
    const row: Row = {
      block,
      zone: m.pools[m.blocks.pool[m.blocks.rowOf(block)]]?.name ?? 'none',
      work: new OfflineWork(m, block, { ...offline, evictors, leavesWith }),
      evicted,
      counted: 0,
      types: new Uint8Array(m.blockPages / PAGEBLOCK_PAGES),
    };
    return row;
  }

  /** One step of one block that has not come as far as the phase goes. */
  #phase(phase: Phase): void {
    const goal = RANK[GOAL[phase]];
    const row = this.#rows.find((r) => RANK[r.work.stage] < goal);
    if (row === undefined) {
      const refused = this.#rows.find((r) => r.work.refusal !== undefined);
      if (refused !== undefined && phase === 'empty') return this.#refuse(this.#joint());
      if (phase === 'prepare') this.#worstFirst();
      this.stage = NEXT[phase];
      return;
    }
    if (row.work.stage === 'isolate' && this.#m.spec.compat === 'linux') this.#rememberTypes(row);
    row.work.step();
    if (row.work.refusal !== undefined && this.#options.all !== true) this.#refuse(this.#joint());
  }

  /** Blocks with most frames that are known to stay where they are come first: then least has moved if one refuses. */
  #worstFirst(): void {
    const { order = 'worst-first' } = this.#options;
    if (order === 'ascending') return;
    const m = this.#m;
    const stays = new Map<Row, number>();
    for (const r of order === 'worst-first' ? this.#rows : []) {
      let frames = 0;
      const { start, end } = framesOf(m, r.block);
      for (const a of allocationsIn(m, start, end)) {
        if ((m.sections.metaAt(a.head) & (META_PINNED | META_WRITEBACK)) !== 0) frames += 1 << a.order;
      }
      stays.set(r, frames);
    }
    this.#rows.sort((a, b) => (stays.get(b) ?? b.block) - (stays.get(a) ?? a.block) || a.block - b.block);
  }

  #rememberTypes(row: Row): void {
    const m = this.#m;
    const { start, end } = framesOf(m, row.block);
    const pool = m.poolAt(start);
    for (let i = start; pool !== undefined && i < end; i += PAGEBLOCK_PAGES) {
      const type = pool.alloc.area.typeOf(i - pool.base);
      if (type !== MIGRATE_ISOLATE) row.types[(i - start) / PAGEBLOCK_PAGES] = type + 1;
    }
  }

  /** Compat 'linux' gives pageblocks back as Movable; a transaction leaves no trace. */
  #restoreTypes(row: Row): void {
    const m = this.#m;
    const { start, end } = framesOf(m, row.block);
    for (let i = start; m.spec.compat === 'linux' && i < end; i += PAGEBLOCK_PAGES) {
      const type = (row.types[(i - start) / PAGEBLOCK_PAGES] as number) - 1; // 0: was never isolated
      const pool = m.zoneAt(i);
      if (type < 0 || pool === undefined || m.poolAt(i) !== pool) continue; // a user pool has it back: its types are its own
      if (pool.alloc.area.typeOf(i - pool.base) !== type) pool.alloc.setPageblockType(i - pool.base, type);
    }
  }

  #commit(): void {
    const m = this.#m;
    const works = this.#rows.map((r) => r.work);
    if (m.offlinesUnderWay > works.length) {
      // Somebody began without the hotplug lock: the physical half waits for it.
      if (++this.#waits < MAX_WAITS) return;
      return this.#refuse(refusal('busy', `${this.#text()}: another offline does not end`));
    }
    const late = works.find((w) => !isEmptied(m, w.block));
    if (late !== undefined) {
      late.step(); // it finds out what has come, and goes back to emptying, so many times
      this.stage = 'empty';
      if (late.refusal !== undefined) this.#refuse(this.#joint());
      return;
    }
    const refused = this.#rehearse();
    if (refused !== undefined) return this.#refuse(refused);

    // ═══ Point of no return: nothing below can fail. ═══
    const groups = new Set(this.#ids().map((id) => m.blocks.group[m.blocks.rowOf(id)] as number));
    this.#before = undefined;
    for (const w of works) {
      w.step();
      assert(w.stage === 'done', 'a block that was empty did not go', { block: w.block, stage: w.stage });
    }
    const removed: RemoveReport[] = [];
    for (const range of this.#options.keep === true ? [] : this.#ranges) {
      const gone = m.removeMemory(range);
      assert(gone.ok, 'removal was refused after its rehearsal', { refusal: gone.ok ? '' : gone.error.message });
      removed.push(gone.value);
    }
    m.hotplug.groups.forEach((_, g) => {
      if (groups.has(g) && !m.blocks.group.includes(g)) m.hotplug.groups.unregister(g);
    });
    const blocks = this.#trials();
    this.report = {
      ranges: this.#ranges,
      blocks,
      moved: sumOf(blocks),
      steps: this.steps,
      removed,
      dryRun: false,
    };
    this.stage = 'done';
  }

  #ids(): BlockId[] {
    return [...this.#offline, ...this.#rows.map((r) => r.block)];
  }

  /** What would refuse the removal, though every block is empty: found on a copy, before anything is final. */
  #rehearse(): Refusal | undefined {
    if (this.#options.keep === true) return undefined;
    const f = this.#m.fork();
    const leavesWith = this.#ids();
    for (const { block } of this.#rows) {
      f.blocks.state[f.blocks.rowOf(block)] = BLOCK_ONLINE;
      const went = f.offline(block, { leavesWith });
      if (!went.ok) return went.error;
    }
    for (const range of this.#ranges) {
      const gone = f.removeMemory(range);
      if (!gone.ok) return gone.error;
    }
    return undefined;
  }

  /** The refusals of all blocks in one: the reason is the first block's. */
  #joint(): Refusal {
    const refused = this.#byAddress().flatMap((r) => r.work.refusal ?? []);
    const [first] = refused;
    assert(first !== undefined, 'a joint refusal of nobody');
    const blockers: Blocker[] = refused.flatMap((r) => r.blockers);
    const rest = refused.length - 1;
    const more = rest === 0 ? '' : `; ${rest} more of its blocks ${rest === 1 ? 'refuses' : 'refuse'}`;
    return { ...first, message: `${this.#text()}: ${first.message}${more}`, blockers };
  }

  #byAddress(): Row[] {
    return [...this.#rows].sort((a, b) => a.block - b.block);
  }

  #refuse(r: Refusal): void {
    const m = this.#m;
    const blocks = this.#trials();
    for (const row of [...this.#rows].reverse()) {
      row.work.cancel();
      this.#restoreTypes(row);
    }
    if (this.#before !== undefined) m.rollBack(this.#before);
    this.#before = undefined;
    this.refusal = { ...r, blocks };
    this.stage = 'refused';
  }

  #trials(): BlockTrial[] {
    const were = this.#offline.map((block) => ({ block, zone: 'offline', moved: {}, steps: 0, refusal: undefined }));
    const rows = this.#rows.map((r): BlockTrial => {
      const migrated = r.work.migratedPages - r.counted;
      const moved = Object.fromEntries([...(migrated > 0 ? [['migration', migrated] as const] : []), ...r.evicted]);
      return { block: r.block, zone: r.zone, moved, steps: r.work.steps, refusal: r.work.refusal };
    });
    return [...were, ...rows].sort((a, b) => a.block - b.block);
  }
}

const rangesOf = (where: MemoryRange | readonly MemoryRange[]): readonly MemoryRange[] =>
  'start' in where ? [where] : where;

/** The frames of a block, [start, end) of the dense index, its own memmap included. */
function framesOf(m: Machine, block: BlockId): { start: number; end: number } {
  const start = m.sections.indexOf(toPfn(block * m.blockPages));
  return { start, end: start + m.blockPages };
}

/** Would the block's commit find it empty? */
function isEmptied(m: Machine, block: BlockId): boolean {
  const row = m.blocks.rowOf(block);
  const pool = m.pools[m.blocks.pool[row]];
  if (pool === undefined || m.blocks.state[row] !== BLOCK_GOING_OFFLINE) return false;
  const { end, start: head } = framesOf(m, block);
  const start = head + (m.blocks.vmemmapPages[row] as number);
  let staying = 0;
  for (const a of allocationsIn(m, start, end)) {
    if (CLASS_TRAITS[a.cls].mobility !== 'stays') return false;
    staying += 1 << a.order;
  }
  return pool.alloc.area.freeIn(start - pool.base, end - pool.base) + staying === end - start;
}

/** Frames that an evictor frees in isolated pageblocks are what it took away, however many allocations that were. */
function counting(e: Evictor, count: (name: string, frames: number, counted: number) => void): Evictor {
  return {
    ...e,
    evict(m, a, range) {
      const pool = m.poolAt(a.head);
      const before = pool?.alloc.nrIsolated() ?? 0;
      const outcome = e.evict(m, a, range);
      const frames = (pool?.alloc.nrIsolated() ?? 0) - before;
      count(e.name, frames, outcome === 'moved' ? 1 << a.order : 0);
      return outcome;
    },
  };
}

function sumOf(blocks: readonly BlockTrial[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const b of blocks) for (const [who, n] of Object.entries(b.moved)) sum[who] = (sum[who] ?? 0) + n;
  return sum;
}

/**
 * Takes a DIMM out, to the end: every block offline, then removed. All or nothing; a refusal leaves the machine exactly as it
 * was (but for event numbers). With `dryRun` nothing is touched in any case.
 *
 * Refusals: those of an offline, of a removal, of evictors (spec 9.E) and listeners; busy, unaligned, no-such-memory, fault.
 * Cost: two forks, one for the way back and one for the rehearsal, and O(frames that move).
 */
export function removeDimm(
  m: Machine,
  where: MemoryRange | readonly MemoryRange[],
  options: RemoveDimmOptions = {},
): Result<DimmRemoval, DimmRefusal> {
  const { dryRun = false, compat = 'strict', ...rest } = options;
  if (dryRun) {
    const f = m.fork();
    f.slowPath = m.slowPath;
    const tried = removeDimm(f, where, { all: true, ...rest, compat });
    return tried.ok ? ok({ ...tried.value, dryRun: true }) : tried;
  }
  switch (compat) {
    case 'linux':
      return asLinux(m, rangesOf(where), rest);
    case 'strict': {
      const work = new DimmWork(m, where, rest, 'restore');
      while (!work.finished) work.step();
      if (work.refusal !== undefined) return err(work.refusal);
      return ok(work.report as DimmRemoval); // finished, and not refused
    }
    default:
      return unreachable(compat);
  }
}

/** Block by block; what went comes back by policy when another does not go. `keep` leaves it offline. */
function asLinux(m: Machine, ranges: readonly MemoryRange[], options: DimmOptions): Result<DimmRemoval, DimmRefusal> {
  const trials = new Map<BlockId, BlockTrial>();
  const evictors = options.evictors ?? options.offline?.evictors ?? [];
  const offline = (block: BlockId): Result<unknown, Refusal> => {
    const zone = m.pools[m.blocks.pool[m.blocks.rowOf(block)]]?.name ?? 'none';
    const moved: Record<string, number> = {};
    let counted = 0;
    const count = (name: string, frames: number, own: number): void => {
      moved[name] = (moved[name] ?? 0) + frames;
      counted += own;
    };
    const work = new OfflineWork(m, block, { ...options.offline, evictors: evictors.map((e) => counting(e, count)) });
    while (!work.finished) work.step();
    if (work.migratedPages > counted) moved.migration = work.migratedPages - counted;
    trials.set(block, { block, zone, moved, steps: work.steps, refusal: work.refusal });
    return work.refusal === undefined ? ok(undefined) : err(work.refusal);
  };
  const blocksNow = (): BlockTrial[] => [...trials.values()].sort((a, b) => a.block - b.block);
  const removed: RemoveReport[] = [];
  for (const range of ranges) {
    const { start, end } = range;
    if (start >= end || start % m.blockPages !== 0 || end % m.blockPages !== 0) {
      return err({ ...refusal('unaligned', 'not whole blocks'), blocks: blocksNow() });
    }
    for (let id = start / m.blockPages; id < end / m.blockPages; id++) {
      if (m.blocks.rowOf(toBlockId(id)) >= 0) continue;
      return err({ ...refusal('no-such-memory', `there is no memory block ${id}`), blocks: blocksNow() });
    }
    const eject: EjectReport = ejectDimm(m, range, offline);
    if (eject.refusal !== undefined) return err({ ...eject.refusal, blocks: blocksNow() });
    if (eject.removed !== undefined) removed.push(eject.removed);
  }
  const blocks = blocksNow();
  const steps = blocks.reduce((n, b) => n + b.steps, 0);
  return ok({ ranges, blocks, moved: sumOf(blocks), steps, removed, dryRun: false });
}
