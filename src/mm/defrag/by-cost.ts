// By cost: the piece that is cheapest to empty is emptied, and its pages go to where emptying is dearest.
//
//   pieces of the pool (pageblocks; chunks for order 10), by what it costs to empty them (pools/chunk-cost.ts)
//
//        cheap ──────────────────────────────────────────────── dear ──── cannot be emptied
//        │ source ──>                                                        <── targets  │
//        └───────────────────────── meet: nothing left ─────────────────────────────────────┘
//
// Two scanners, as compaction has, but over a list in order of cost: free pieces are left out at the cheap end, and the pieces
// with a page that never moves take guests first. The list is made once a run; it ages, and each piece is looked at
// again when its turn comes.
//
//   step = until `pages` are moved: next allocation of the source ──> target, isolate, copy, switch ──> its frames are free
//          source is free throughout: made       something stays, or came: once more, then the next source
//
// Invariants: DF4 between steps every frame is free, used or on a per-CPU list, and a step moves `pages` pages at most; DF5 a
// run ends: it gives up SOURCES pieces at most, each after SWEEPS sweeps.
//
// Costs are kept by the machine from the first run on, which every allocation pays for (25 to 35 ns, bench/README.md).
//
// Follows no kernel: Linux has no index of what emptying costs. After Snook 2007, problem 9, and Hansen 2004.

import { assert } from '#base/assert';
import { toOrder } from '#base/units';
import { isolatable } from '../compaction/migratable.ts';
import { Targets } from '../compaction/targets.ts';
import { MIGRATE_MOVABLE, NR_PCP_TYPES, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { migrateFaults, moverAt } from '../migrate.ts';
import type { Pool } from '../pool.ts';
import { chunkCosts } from '../pools/chunk-cost.ts';
import { KIND_HEAD0, KIND_MASK, KIND_NONE, KIND_TAIL } from '../section.ts';
import type { BlockMaker, MakerEnd } from './block-maker.ts';

/** Sources that a run gives up before it ends. */
const SOURCES = 4;
/** Times a source is gone through: what came while its other pages left is moved, too, once. */
const SWEEPS = 2;

export class ByCost implements BlockMaker {
  over: MakerEnd | undefined;
  readonly #m: Machine;
  readonly #poolId: number;
  /** Of a piece. */
  readonly #order: number;
  /** First frames of the pieces, cheapest first; those that cannot be emptied last. */
  readonly #pieces: Float64Array;
  /** How many of them can be emptied. */
  readonly #emptiable: number;
  /** Index of the source among the pieces, and of the piece that gives targets. */
  #source = 0;
  #target: number;
  /** The next frame of the source to look at. */
  #at = -1;
  #sweeps = 0;
  #givenUp = 0;
  readonly #targets = new Targets();

  constructor(m: Machine, pool: Pool, order: number) {
    this.#m = m;
    this.#poolId = pool.id;
    this.#order = Math.max(order, PAGEBLOCK_ORDER);
    const ranked = chunkCosts(m).top(pool, pool.pages, toOrder(this.#order));
    const cheap = ranked.filter((r) => r.cost > 0).map((r) => m.sections.indexOf(r.startPfn));
    const rest = unmovable(m, pool, this.#order, new Set(ranked.map((r) => m.sections.indexOf(r.startPfn))));
    this.#pieces = Float64Array.from([...cheap, ...rest]);
    this.#emptiable = cheap.length;
    this.#target = this.#pieces.length - 1;
    if (cheap.length === 0) this.over = 'nothing';
  }

  get #pool(): Pool {
    return this.#m.pools[this.#poolId] as Pool; // pools are never taken off the list
  }

  step(pages: number): number {
    let moved = 0;
    if (this.#at < 0 && this.over === undefined) this.#begin();
    while (moved < pages && this.over === undefined) {
      const head = this.#nextHead();
      if (head < 0) {
        this.#sweepDone();
        continue;
      }
      const size = 2 ** ((this.#m.sections.metaAt(head) & KIND_MASK) - KIND_HEAD0);
      if (size > pages - moved) {
        if (moved > 0) break; // next step
        this.#giveUp(); // larger than a step may be
        continue;
      }
      this.#at = head + size;
      if (this.#move(head)) moved += size;
    }
    this.#targets.release(this.#pool);
    if (this.over === undefined && this.#at >= 0) {
      const piece = this.#pieces[this.#source] as number;
      if (this.#freeIn(piece) === 2 ** this.#order) this.over = 'made'; // there is no need for another step to see it
    }
    return moved;
  }

  cancel(): void {
    this.over ??= 'nothing';
  }

  // ------------------------------------------------------------------------------------------------------- sources

  #begin(): void {
    // Others may have taken it, or isolated it, since the list was made.
    while (this.#source < this.#emptiable && !this.#isOurs(this.#pieces[this.#source] as number)) this.#source++;
    if (this.#source >= this.#emptiable || !this.#hasRoom()) this.over = 'nothing';
    else this.#at = this.#pieces[this.#source] as number;
    this.#sweeps = 0;
  }

  /** Is there room for all of the source? If not, nothing is moved in vain: dearer ones need more. Cost O(pieces) at worst. */
  #hasRoom(): boolean {
    const { base, alloc } = this.#pool;
    let need = 2 ** this.#order - this.#freeIn(this.#pieces[this.#source] as number);
    for (let k = this.#target; need > 0 && k > this.#source; k--) {
      const piece = this.#pieces[k] as number;
      if (!this.#isOurs(piece)) continue;
      for (let i = piece - base; i < piece - base + 2 ** this.#order; i += PAGEBLOCK_PAGES) {
        const free = alloc.area.typeOf(i) === MIGRATE_MOVABLE ? alloc.area.freeIn(i, i + PAGEBLOCK_PAGES) : 0;
        if (free < PAGEBLOCK_PAGES) need -= free;
      }
    }
    return need <= 0;
  }

  /** All the pool's, of ordinary types, and in use in part at least. */
  #isOurs(piece: number): boolean {
    const { owner } = this.#m.owners;
    const pool = this.#pool;
    for (let pb = piece; pb < piece + 2 ** this.#order; pb += PAGEBLOCK_PAGES) {
      if (owner[pb >>> PAGEBLOCK_ORDER] !== pool.id) return false;
      if (pool.alloc.area.typeOf(pb - pool.base) >= NR_PCP_TYPES) return false;
    }
    return this.#freeIn(piece) < 2 ** this.#order;
  }

  #freeIn(piece: number): number {
    const { base, alloc } = this.#pool;
    return alloc.area.freeIn(piece - base, piece - base + 2 ** this.#order);
  }

  /** The next allocation of the source; -1 at its end. Free blocks and tails are stepped over. */
  #nextHead(): number {
    const { sections } = this.#m;
    const { area } = this.#pool.alloc;
    const { base } = this.#pool;
    const end = (this.#pieces[this.#source] as number) + 2 ** this.#order;
    let i = this.#at;
    while (i < end) {
      const kind = sections.metaAt(i) & KIND_MASK;
      if (kind >= KIND_HEAD0 && kind < KIND_TAIL) return i;
      const free = kind === KIND_NONE ? area.headOf(i - base) : -1;
      i = free < 0 ? i + 1 : base + free + 2 ** area.orderAt(free);
    }
    return -1;
  }

  #sweepDone(): void {
    const piece = this.#pieces[this.#source] as number;
    if (this.#freeIn(piece) === 2 ** this.#order) {
      this.over = 'made';
      return;
    }
    this.#sweeps++;
    if (this.#sweeps < SWEEPS) this.#at = piece;
    else this.#giveUp();
  }

  #giveUp(): void {
    this.#givenUp++;
    if (this.#givenUp >= SOURCES) {
      this.over = 'nothing';
      return;
    }
    this.#source++;
    this.#begin();
  }

  // --------------------------------------------------------------------------------------------------- the movement

  /** @returns whether it moved. Nothing to move to ends the run. */
  #move(head: number): boolean {
    const m = this.#m;
    const pool = this.#pool;
    const meta = m.sections.metaAt(head);
    const order = (meta & KIND_MASK) - KIND_HEAD0;
    const mover = isolatable(m, head, meta, this.#order, 'sync-light') ? moverAt(m, head) : undefined;
    if (mover === undefined || mover.isolate(m, head, 'sync-light') !== undefined) return this.#failed(order);
    const to = m.faultAt?.('defrag.target') === true ? -1 : this.#takeTarget(order);
    if (to < 0) {
      this.over = 'nothing';
      return this.#failed(order);
    }
    if (migrateFaults(m)) {
      this.#targets.giveBack(to, order);
      return this.#failed(order);
    }
    mover.transfer(m, head, to, order, pool);
    pool.alloc.freeToArea(head - pool.base, order);
    m.vmstat.pgmigrate_success += 2 ** order;
    return true;
  }

  #failed(order: number): false {
    this.#m.vmstat.pgmigrate_fail += 2 ** order;
    return false;
  }

  /** 2^order free frames of the dearest piece that has some; -1 when the pieces between are used up. */
  #takeTarget(order: number): number {
    let to = this.#targets.alloc(order);
    // A piece whose chunks are too small for this one has room for the next: only order 0 uses it up.
    for (let k = this.#target; to < 0 && k > this.#source; k--) {
      this.#gather(this.#pieces[k] as number, order);
      to = this.#targets.alloc(order);
      if (order === 0) this.#target = to < 0 ? k - 1 : k;
    }
    return to;
  }

  /** One free chunk of the piece that will do, the smallest, goes to the targets. Pieces that are free throughout stay so. */
  #gather(piece: number, order: number): void {
    const pool = this.#pool;
    const { area } = pool.alloc;
    if (!this.#isOurs(piece)) return;
    let best = -1;
    let bestOrder = this.#order;
    for (let pb = piece; pb < piece + 2 ** this.#order; pb += PAGEBLOCK_PAGES) {
      const first = pb - pool.base;
      if (area.typeOf(first) !== MIGRATE_MOVABLE || area.freeIn(first, first + PAGEBLOCK_PAGES) < 2 ** order) continue;
      area.forEachFree(first, first + PAGEBLOCK_PAGES, (i, o) => {
        if (o < order || o >= bestOrder || o >= PAGEBLOCK_ORDER) return;
        best = i;
        bestOrder = o;
      });
    }
    if (best >= 0) this.#targets.take(pool, best + pool.base, bestOrder);
  }
}

/** Pieces of the pool that are not in `known`: they have a page that never moves, or one that is not the pool's. */
function unmovable(m: Machine, pool: Pool, order: number, known: ReadonlySet<number>): number[] {
  const out: number[] = [];
  const end = Math.min(pool.base + pool.pages, m.sections.frames);
  assert(pool.base % 2 ** order === 0, 'a hull begins at a chunk', { base: pool.base });
  for (let i = pool.base; i < end; i += 2 ** order) if (!known.has(i)) out.push(i);
  return out;
}
