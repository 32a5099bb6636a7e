// What a virtio-mem driver knows of its blocks: one row for each block of the device's region.
//
//   column     width                  meaning
//   state      Uint8                  see the tables below; 0 = unused, not known to Linux
//   plugged    Uint8 a sub-block      1 = the device backs it           (row * perBlock + sub-block)
//   nrPlugged  Int32                  sub-blocks of the row that are plugged
//   count      Int32 a state          rows in that state, of those below `next`
//
//   sub-block mode (SBM), rows are memory blocks           big-block mode (BBM), rows are big blocks, one sub-block each
//   0 unused             not known to Linux                0 unused         not known to Linux
//   1 plugged            backed, but adding it failed      1 plugged        backed, but not known to Linux
//   2 offline            all of it plugged                 2 added          known to Linux, online or not
//   3 offline-partial                                      3 fake-offline   all that is online of it is the driver's
//   4 kernel             online in a kernel zone
//   5 kernel-partial
//   6 movable            online in Movable
//   7 movable-partial
//
// A full state plus one is its partial state. Rows from `next` on were never used; they are taken in ascending order.
//
// Invariants: B1 nrPlugged and count equal their recount; B2 a partial state has at least one sub-block that is not
// plugged, a full one has none.
//
// Follows Linux v6.12 drivers/virtio/virtio_mem.c: virtio_mem_sbm_mb_state, virtio_mem_bbm_bb_state (spec 5.4).

import { assert } from '#base/assert';

export const SBM_STATES = [
  'unused',
  'plugged',
  'offline',
  'offline-partial',
  'kernel',
  'kernel-partial',
  'movable',
  'movable-partial',
] as const;
export type SbmState = (typeof SBM_STATES)[number];
export const SBM_UNUSED = 0;
export const SBM_PLUGGED = 1;
export const SBM_OFFLINE = 2;
export const SBM_OFFLINE_PARTIAL = 3;
export const SBM_KERNEL = 4;
export const SBM_KERNEL_PARTIAL = 5;
export const SBM_MOVABLE = 6;
export const SBM_MOVABLE_PARTIAL = 7;

export const BBM_STATES = ['unused', 'plugged', 'added', 'fake-offline'] as const;
export type BbmState = (typeof BBM_STATES)[number];
export const BBM_UNUSED = 0;
export const BBM_PLUGGED = 1;
export const BBM_ADDED = 2;
export const BBM_FAKE_OFFLINE = 3;

export class VirtioMemBlocks {
  /** Sub-blocks of a row; 1 in BBM. */
  readonly perBlock: number;
  /** Rows of the region. */
  readonly length: number;
  readonly #state: Uint8Array;
  readonly #plugged: Uint8Array;
  readonly #nrPlugged: Int32Array;
  readonly #count = new Int32Array(SBM_STATES.length);
  /** First row that was never used. */
  next = 0;

  constructor(rows: number, perBlock: number) {
    assert(rows >= 0 && perBlock >= 1, 'a region has whole blocks', { rows, perBlock });
    this.length = rows;
    this.perBlock = perBlock;
    this.#state = new Uint8Array(rows);
    this.#plugged = new Uint8Array(rows * perBlock);
    this.#nrPlugged = new Int32Array(rows);
  }

  /** The next row that was never used begins its life, unused. */
  prepareNext(): number {
    assert(this.next < this.length, 'the region has no more blocks', { next: this.next });
    this.#count[0]++;
    return this.next++;
  }

  stateAt(row: number): number {
    return this.#state[row];
  }

  setState(row: number, state: number): void {
    assert(row < this.next, 'a block that was never prepared', { row, next: this.next });
    this.#count[this.#state[row]]--;
    this.#state[row] = state;
    this.#count[state]++;
  }

  /** Rows in a state: loops stop early where there are none. */
  count(state: number): number {
    return this.#count[state];
  }

  isPlugged(row: number, sb: number): boolean {
    return this.#plugged[row * this.perBlock + sb] === 1;
  }

  allPlugged(row: number): boolean {
    return this.#nrPlugged[row] === this.perBlock;
  }

  nonePlugged(row: number): boolean {
    return this.#nrPlugged[row] === 0;
  }

  nrPlugged(row: number): number {
    return this.#nrPlugged[row];
  }

  /** Sub-blocks [sb, sb + count) of a row; they were in the other state. */
  setPlugged(row: number, sb: number, count: number, plugged: boolean): void {
    const at = row * this.perBlock + sb;
    const to = plugged ? 1 : 0;
    const part = this.#plugged.subarray(at, at + count);
    assert(sb + count <= this.perBlock && !part.includes(to), 'sub-blocks in the wrong state', { row, sb, count, to });
    part.fill(to);
    this.#nrPlugged[row] += plugged ? count : -count;
  }

  /** First sub-block that is not plugged; perBlock where all are. */
  firstUnplugged(row: number): number {
    let sb = 0;
    while (sb < this.perBlock && this.isPlugged(row, sb)) sb++;
    return sb;
  }

  /** Sub-blocks plugged in all. Cost O(rows). */
  totalPlugged(): number {
    let n = 0;
    for (let row = 0; row < this.next; row++) n += this.#nrPlugged[row];
    return n;
  }

  /** B1, B2 against a recount. B2 not for the row `held`, which the driver works on (-1: none). */
  check(mode: 'sbm' | 'bbm', held: number): string[] {
    const wrong: string[] = [];
    const count = new Int32Array(SBM_STATES.length);
    for (let row = 0; row < this.length; row++) {
      const state = this.#state[row];
      if (row < this.next) count[state]++;
      let nr = 0;
      for (let sb = 0; sb < this.perBlock; sb++) if (this.isPlugged(row, sb)) nr++;
      if (nr !== this.#nrPlugged[row])
        wrong.push(`B1 row ${row}: ${nr} sub-blocks plugged, counted ${this.#nrPlugged[row]}`);
      if (row >= this.next && (state !== 0 || nr !== 0))
        wrong.push(`B1 row ${row} was never used, is ${state} with ${nr}`);
      if (mode === 'sbm' && row !== held && state >= SBM_OFFLINE && nr < this.perBlock !== (state % 2 === 1)) {
        wrong.push(`B2 row ${row} is ${SBM_STATES[state]} with ${nr} of ${this.perBlock} plugged`);
      }
    }
    count.forEach((n, s) => {
      if (n !== this.#count[s]) wrong.push(`B1 state ${s}: ${n} rows, counted ${this.#count[s]}`);
    });
    return wrong;
  }
}
