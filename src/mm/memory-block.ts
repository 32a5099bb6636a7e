// Memory blocks: the unit of online and offline, /sys/devices/system/memory/memoryN.
//
//   column         width    meaning
//   id             Float64  N of memoryN = startPfn / pages of a block
//   state          Uint8    0 offline, 1 online, 2 going-offline
//   pool           Int32    id of the one pool it lies in; -1 = more than one, or offline
//   node           Int32    node of its first present frame
//   absent         Int32    frames of the block that are not RAM ("memory holes": it can never be offlined)
//   vmemmapPages   Int32    frames at its head that hold its own memmap (memmap_on_memory); they leave with it
//
// Rows are sorted by id. Invariant: M1 an online block with absent = 0 and pool >= 0 has every frame in that pool.
// Source: Linux v6.12 drivers/base/memory.c (spec 1.3, 1.10).

import { type BlockId, toBlockId } from '#base/units';

export const BLOCK_STATES = ['offline', 'online', 'going-offline'] as const;
export type BlockState = (typeof BLOCK_STATES)[number];
export const BLOCK_OFFLINE = 0;
export const BLOCK_ONLINE = 1;
export const BLOCK_GOING_OFFLINE = 2;

export class MemoryBlocks {
  readonly length: number;
  readonly id: Float64Array;
  readonly state: Uint8Array;
  readonly pool: Int32Array;
  readonly node: Int32Array;
  readonly absent: Int32Array;
  readonly vmemmapPages: Int32Array;
  readonly #row: ReadonlyMap<number, number>;

  constructor(ids: Float64Array) {
    this.length = ids.length;
    this.id = ids;
    this.state = new Uint8Array(ids.length);
    this.pool = new Int32Array(ids.length).fill(-1);
    this.node = new Int32Array(ids.length).fill(-1);
    this.absent = new Int32Array(ids.length);
    this.vmemmapPages = new Int32Array(ids.length);
    this.#row = new Map(Array.from(ids, (id, r) => [id, r]));
  }

  /** Row of a block; -1 where there is no such block. */
  rowOf(id: BlockId): number {
    return this.#row.get(id) ?? -1;
  }

  idAt(row: number): BlockId {
    return toBlockId(this.id[row] as number);
  }

  stateAt(row: number): BlockState {
    return BLOCK_STATES[this.state[row] as number] as BlockState; // only the three constants are ever stored
  }

  copyFrom(other: MemoryBlocks): void {
    this.state.set(other.state);
    this.pool.set(other.pool);
    this.node.set(other.node);
    this.absent.set(other.absent);
    this.vmemmapPages.set(other.vmemmapPages);
  }
}
