// Rehearsal: one fork of the twin on which the steps of a plan are done, one after the other, before anything is planned.
//
//   twin ──> Judge on the fork ──offline──> the fork becomes what the offline left ──> next step, seen from there
//
// A step's verdict is the twin's (twin/verdict.ts) with all earlier steps done: pages that had to move are where they went,
// free memory that was used is used. Reclaim of page cache, which Linux does to make room, is in it. What the engine did not
// carry out did not happen here either; what it refused is said with its blockers.
//
// A twin without page flags (level 'counters') cannot rehearse: verdicts come from zones, and are said to be assumed.

import { type Machine, PAGE_SIZE, type Refusal, toBlockId, toPfn } from '#mm/index';
import { type BlockVerdict, Judge, type Twin } from '#twin/index';
import { HOLDER_CLEAN } from '#twin/place-frames';

/** A verdict, and whether the offline was carried out on the fork. */
export type Rehearsed = { readonly verdict: BlockVerdict; readonly done: boolean };

export class Rehearsal {
  /** Undefined for a twin without page flags. */
  readonly machine: Machine | undefined;
  readonly #judge: Judge;
  #after: Machine | undefined;

  constructor(twin: Twin, from?: Rehearsal) {
    this.machine = twin.level === 'pages' ? (from?.machine ?? twin.machine).fork() : undefined;
    this.#judge = new Judge(twin, {
      ...(this.machine === undefined ? {} : { machine: this.machine }),
      onDone: (_, fork) => {
        this.#after = fork;
      },
    });
  }

  /** The verdict of a block as things stand, without doing it. */
  judge(id: number): BlockVerdict | undefined {
    return this.#judge.judge(toBlockId(id));
  }

  /**
   * Takes a block offline, as far as it goes. Cost: a copy or two.
   *
   * @param accept  'yes': one in doubt is left as it is
   * @returns undefined for a block that the twin does not have
   */
  offline(id: number, accept: 'yes' | 'doubtful' = 'doubtful'): Rehearsed | undefined {
    this.#after = undefined;
    const verdict = this.#judge.judge(toBlockId(id));
    if (verdict === undefined) return undefined;
    if (this.machine === undefined) return { verdict, done: verdict.verdict === 'yes' };
    const after = this.#after as Machine | undefined; // set by onDone, which the compiler does not see
    if (after === undefined || (accept === 'yes' && verdict.verdict !== 'yes')) return { verdict, done: false };
    this.machine.copyFrom(after);
    return { verdict, done: true };
  }

  /** Zones that an offline block may go to now; undefined where nothing can be tried. */
  zonesOf(id: number): string[] | undefined {
    return this.machine?.validZones(toBlockId(id));
  }

  /** Pulls memory out. Bytes, whole blocks that are offline. @returns why not; undefined too where nothing can be tried */
  remove(addr: number, size: number): Refusal | undefined {
    const removed = this.machine?.removeMemory({
      start: toPfn(addr / PAGE_SIZE),
      end: toPfn((addr + size) / PAGE_SIZE),
    });
    return removed === undefined || removed.ok ? undefined : removed.error;
  }

  /**
   * Bytes to spare: free memory and clean page cache, less what the high watermarks ask for. Undefined where frames are not
   * known. Cost O(zones + holders).
   */
  toSpare(): number | undefined {
    const m = this.machine;
    if (m === undefined) return undefined;
    const free = m.zones.reduce((n, p) => n + p.alloc.nrFree() - Math.max(0, p.watermarks.high), 0);
    const clean = m.holders.specs.reduce(
      (n, s, h) => (s.name.startsWith(HOLDER_CLEAN) ? n + (m.holders.pages[h] as number) : n),
      0,
    );
    return (free + clean) * PAGE_SIZE;
  }
}
