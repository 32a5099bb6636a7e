// Memory groups: blocks that come and go together, so that the online policy can look at them as one.
//
//   static    a DIMM: at most `maxPages`                    dynamic   virtio-mem: units of `unitPages`, no end
//
//   row   kind   node   max or unit pages   online pages in kernel zones   online pages in Movable
//
// A group that nobody uses any more is removed with its row left behind, so that ids stay what they are. Follows Linux
// v6.12 drivers/base/memory.c: memory_group_register() (spec 1.8).

import { assert } from '#base/assert';
import type { NodeId } from '#base/units';

declare const group: unique symbol;
export type GroupId = number & { readonly [group]: true };

export type MemoryGroup = {
  readonly kind: 'static' | 'dynamic';
  readonly node: NodeId;
  /** Static: pages of the device. Dynamic: pages of its unit. */
  readonly pages: number;
  /** Pages of it that are present in kernel zones of its node, and in Movable. */
  presentKernel: number;
  presentMovable: number;
};

export class MemoryGroups {
  readonly #rows: (MemoryGroup | undefined)[] = [];

  register(kind: MemoryGroup['kind'], node: NodeId, pages: number): GroupId {
    assert(pages > 0, 'a memory group has pages', { pages });
    this.#rows.push({ kind, node, pages, presentKernel: 0, presentMovable: 0 });
    return (this.#rows.length - 1) as GroupId; // ids are rows
  }

  /** A group whose memory is gone. Pages still present are a bug. */
  unregister(id: GroupId): void {
    const g = this.get(id);
    assert(g !== undefined && g.presentKernel === 0 && g.presentMovable === 0, 'a group in use', { id });
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
