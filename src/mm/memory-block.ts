// Memory blocks: the unit of online and offline, /sys/devices/system/memory/memoryN.
//
//   column         width    meaning
//   id             Float64  N of memoryN = startPfn / pages of a block
//   state          Uint8    0 offline, 1 online, 2 going-offline
//   pool           Int32    id of the one pool it lies in; -1 = more than one, or offline
//   node           Int32    node of its first present frame
//   absent         Int32    frames of the block that are not RAM ("memory holes": it can never be offlined)
//   vmemmapPages   Int32    frames at its head that hold its own memmap (memmap_on_memory); they leave with it
//   group          Int32    memory group it was added with (memory-group.ts); -1 = none
//   early          Uint8    1 = it was there at boot
//   stayed         Uint8    1 = frames of an offline block may have a holder besides its memmap: poisoned, never plugged
//   onlineType     Uint8    how the next online without a word of its own goes: 0 by policy, 1 online, 2 kernel, 3
//                           movable. A write to `state` leaves it here, even one that is refused with EINVAL because the
//                           block is online already; so a DIMM whose removal fails may come back to another zone
//
// Rows are sorted by id. Adding and removing blocks makes new columns, O(blocks): rows are numbers to use at once, not
// to keep. Invariants: M1 an online block with absent = 0 and pool >= 0 has every frame in that pool; M2 ids ascend;
// M3 an offline block that nothing stayed in has no frame with a holder but those of its own memmap.
// Source: Linux v6.12 drivers/base/memory.c (spec 1.3, 1.10).

import { assert } from '#base/assert';
import { type BlockId, toBlockId } from '#base/units';

export const BLOCK_STATES = ['offline', 'online', 'going-offline'] as const;
export type BlockState = (typeof BLOCK_STATES)[number];
export const BLOCK_OFFLINE = 0;
export const BLOCK_ONLINE = 1;
export const BLOCK_GOING_OFFLINE = 2;

type Columns = {
  id: Float64Array;
  state: Uint8Array;
  pool: Int32Array;
  node: Int32Array;
  absent: Int32Array;
  vmemmapPages: Int32Array;
  group: Int32Array;
  early: Uint8Array;
  stayed: Uint8Array;
  onlineType: Uint8Array;
};
const NAMES = [
  'id',
  'state',
  'pool',
  'node',
  'absent',
  'vmemmapPages',
  'group',
  'early',
  'stayed',
  'onlineType',
] as const;

const columns = (n: number): Columns => ({
  id: new Float64Array(n),
  state: new Uint8Array(n),
  pool: new Int32Array(n).fill(-1),
  node: new Int32Array(n).fill(-1),
  absent: new Int32Array(n),
  vmemmapPages: new Int32Array(n),
  group: new Int32Array(n).fill(-1),
  early: new Uint8Array(n),
  stayed: new Uint8Array(n),
  onlineType: new Uint8Array(n),
});

export class MemoryBlocks {
  id!: Float64Array;
  state!: Uint8Array;
  pool!: Int32Array;
  node!: Int32Array;
  absent!: Int32Array;
  vmemmapPages!: Int32Array;
  group!: Int32Array;
  early!: Uint8Array;
  stayed!: Uint8Array;
  onlineType!: Uint8Array;

  /** @param ids  ascending */
  constructor(ids: Float64Array) {
    Object.assign(this, columns(ids.length), { id: ids });
  }

  get length(): number {
    return this.id.length;
  }

  /** Row of a block; -1 where there is no such block. Cost O(log blocks). */
  rowOf(id: BlockId): number {
    const row = this.#lowerBound(id);
    return row < this.length && this.id[row] === id ? row : -1;
  }

  /** First row whose id is not below. */
  #lowerBound(id: number): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const mid = (low + high) >>> 1;
      if ((this.id[mid] as number) < id) low = mid + 1;
      else high = mid;
    }
    return low;
  }

  /** Blocks first .. first + count - 1 come to be, offline, in no pool. @returns row of the first. Cost O(blocks). */
  insert(first: BlockId, count: number): number {
    const at = this.#lowerBound(first);
    const next = this.id[at];
    assert(next === undefined || next >= first + count, 'a memory block is there already', { first, count, next });
    this.#splice(at, 0, count);
    for (let k = 0; k < count; k++) this.id[at + k] = first + k;
    return at;
  }

  /** Blocks first .. first + count - 1 are gone. All of them must be there. Cost O(blocks). */
  remove(first: BlockId, count: number): void {
    const at = this.rowOf(first);
    assert(at >= 0 && this.id[at + count - 1] === first + count - 1, 'no such memory blocks', { first, count });
    this.#splice(at, count, 0);
  }

  #splice(at: number, gone: number, come: number): void {
    const fresh = columns(this.length - gone + come);
    for (const name of NAMES) {
      const from = this[name];
      fresh[name].set(from.subarray(0, at));
      fresh[name].set(from.subarray(at + gone), at + come);
    }
    Object.assign(this, fresh);
  }

  idAt(row: number): BlockId {
    return toBlockId(this.id[row] as number);
  }

  stateAt(row: number): BlockState {
    return BLOCK_STATES[this.state[row] as number] as BlockState; // only the three constants are ever stored
  }

  copyFrom(other: MemoryBlocks): void {
    for (const name of NAMES) Object.assign(this, { [name]: other[name].slice() });
  }
}
