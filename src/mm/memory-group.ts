// Memory groups: blocks that come and go together, so that the online policy can look at them as one.
//
//   static    a DIMM: at most `maxPages`                    dynamic   virtio-mem: units of `unitPages`, no end
//
//   row   kind   node   max or unit pages   blocks   online pages in kernel zones   online pages in Movable
//
// The id of a group that is gone is the next one's: the lowest free row, as xa_alloc() gives it. Invariant: MG1 `blocks`
// counts the memory blocks that say they belong to the group, so that no id is given again while a block has it.
//
// Follows Linux v6.12 drivers/base/memory.c: memory_group_register(), memory_group_unregister() (spec 1.8).

import { assert } from '#base/assert';
import type { NodeId } from '#base/units';

declare const group: unique symbol;
export type GroupId = number & { readonly [group]: true };

export type MemoryGroup = {
  readonly kind: 'static' | 'dynamic';
  readonly node: NodeId;
  /** Static: pages of the device. Dynamic: pages of its unit. */
  readonly pages: number;
  /** Memory blocks of it that exist, offline ones included. */
  blocks: number;
  /** Pages of it that are present in kernel zones of its node, and in Movable. */
  presentKernel: number;
  presentMovable: number;
};

export class MemoryGroups {
  readonly #rows: (MemoryGroup | undefined)[] = [];

  register(kind: MemoryGroup['kind'], node: NodeId, pages: number): GroupId {
    assert(pages > 0, 'a memory group has pages', { pages });
    const free = this.#rows.indexOf(undefined);
    const id = free < 0 ? this.#rows.length : free;
    this.#rows[id] = { kind, node, pages, blocks: 0, presentKernel: 0, presentMovable: 0 };
    return id as GroupId; // ids are rows
  }

  /** A group whose memory is gone. Blocks that are still there, online or not, are a bug (Linux: EBUSY). */
  unregister(id: GroupId): void {
    const g = this.get(id);
    assert(g !== undefined, 'there is no such memory group', { id });
    assert(g.blocks === 0, 'a memory group in use', { id, blocks: g.blocks });
    assert(g.presentKernel === 0 && g.presentMovable === 0, 'pages without a block', { id });
    this.#rows[id] = undefined;
  }

  get(id: number): MemoryGroup | undefined {
    return this.#rows[id];
  }

  forEach(each: (g: MemoryGroup, id: GroupId) => void): void {
    this.#rows.forEach((g, id) => {
      if (g !== undefined) each(g, id as GroupId); // ids are rows
    });
  }

  copyFrom(other: MemoryGroups): void {
    this.#rows.splice(0, this.#rows.length, ...other.#rows.map((g) => (g === undefined ? undefined : { ...g })));
  }
}
