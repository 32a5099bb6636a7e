// Block maker: how one more large free block comes to be, in steps of a few pages. Two ways of doing it:
//
//   scanners   compaction's: everything that moves goes from the bottom of the pool to its top (compaction/compact-zone.ts)
//   directed   what is cheapest to empty moves to where emptying is dearest (by-cost.ts)
//
// All optimistic: between two steps nothing is held, nothing is isolated, and whoever comes by may change everything. So a
// step looks again; a block that others filled meanwhile is given up, and the maker ends when it gave up too many.

import { COMPACT_CLUSTER } from '../compaction/compact-result.ts';
import { CompactWork } from '../compaction/compact-zone.ts';
import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { ByCost } from './by-cost.ts';
import { freeBlocks } from './thresholds.ts';

/** Pages that are held at one time, at most. */
export const MOST_HELD = 32;

export const MAKER_KINDS = ['scanners', 'directed'] as const;
export type MakerKind = (typeof MAKER_KINDS)[number];

/** How a run ended: there is one block more; or there is none to be made, as far as the maker could see. */
export type MakerEnd = 'made' | 'nothing';

export interface BlockMaker {
  /** Undefined while it goes on. */
  readonly over: MakerEnd | undefined;
  /**
   * Moves at most `pages` pages, 1 to MOST_HELD. Afterwards nothing is in flight. The pool's per-CPU lists are off meanwhile, by
   * the caller: what waits on them is in nobody's reach. @returns pages moved
   */
  step(pages: number): number;
  /** Gives up. Nothing is left behind. */
  cancel(): void;
}

/** One run, for one block of 2^order frames in the pool. Cost so far: by cost O(pageblocks of the pool), else nothing. */
export function blockMaker(kind: MakerKind, m: Machine, pool: Pool, order: number): BlockMaker {
  return kind === 'directed' ? new ByCost(m, pool, order) : new Scanners(m, pool, order);
}

/** As proactive compaction does it: no pageblock is skipped for what it was, and no mark is asked for. */
class Scanners implements BlockMaker {
  over: MakerEnd | undefined;
  readonly #m: Machine;
  readonly #poolId: number;
  readonly #order: number;
  #work: CompactWork;
  /** The scanners met, but had begun in the middle: once more, from the ends. */
  #again = true;
  /** Free blocks when the step began: between steps others take some. */
  #before = 0;

  constructor(m: Machine, pool: Pool, order: number) {
    this.#m = m;
    this.#poolId = pool.id;
    this.#order = order;
    this.#work = this.#begin();
  }

  get #pool(): Pool {
    return this.#m.pools[this.#poolId] as Pool; // pools are never taken off the list
  }

  #begin(): CompactWork {
    return new CompactWork(this.#m, this.#pool, {
      order: this.#order,
      mode: 'sync-light',
      ignoreSkip: true,
      done: () => this.#gained(),
    });
  }

  #gained(): boolean {
    return freeBlocks(this.#pool, this.#order) > this.#before;
  }

  step(pages: number): number {
    this.#before = freeBlocks(this.#pool, this.#order);
    let moved = 0;
    // A cluster is 32 pages; less is done page by page.
    while (this.over === undefined && moved < pages) {
      const before = this.#work.moved;
      const over = this.#work.step(pages - moved >= COMPACT_CLUSTER ? 'cluster' : 'page');
      moved += this.#work.moved - before;
      if (this.#gained()) this.#end('made');
      else if (over && this.#work.result === 'partial-skipped' && this.#again) {
        this.#again = false;
        this.#work = this.#begin();
      } else if (over) this.#end('nothing');
    }
    return moved;
  }

  #end(end: MakerEnd): void {
    this.#work.cancel();
    this.over = end;
  }

  cancel(): void {
    if (this.over === undefined) this.#end('nothing');
  }
}
