// Resources: who has which physical addresses, /proc/iomem.
//
//   00000000-bffdffff : System RAM             a tree; children lie inside of their parent; siblings ascend and
//     01000000-01ffffff : Kernel code          do not overlap
//   100000000-13fffffff : System RAM           one line for each range that was added: neighbours stay apart, unless
//   140000000-33fffffff : virtio0              the driver asks for merging (virtio-mem, Hyper-V, Xen)
//     140000000-147ffffff : System RAM (virtio_mem)
//
// A request walks down: a resource in its way that is not busy (a bus window, a driver's region) becomes the parent; a
// busy one refuses it with EEXIST. Follows Linux v6.12 kernel/resource.c: __request_region(), merge_system_ram_resource(),
// release_mem_region_adjustable(); mm/memory_hotplug.c: register_memory_resource() (spec 1.13).

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';

export type ResourceSpec = {
  /** Bytes; `end` is inclusive, as the kernel prints it. */
  readonly start: number;
  readonly end: number;
  readonly name: string;
  /** False: others may request inside of it (bus windows, regions of drivers). Default true. */
  readonly busy?: boolean;
  readonly children?: readonly ResourceSpec[];
};

export type Resource = {
  start: number;
  end: number;
  readonly name: string;
  readonly busy: boolean;
  /** May grow into its neighbour of the same name. */
  mergeable: boolean;
  children: Resource[];
};

const make = (s: ResourceSpec): Resource => ({
  start: s.start,
  end: s.end,
  name: s.name,
  busy: s.busy ?? true,
  mergeable: false,
  children: (s.children ?? []).map(make),
});

export class Resources {
  roots: Resource[];

  constructor(specs: readonly ResourceSpec[]) {
    this.roots = specs.map(make).sort((a, b) => a.start - b.start);
  }

  /**
   * Claims [start, end], inclusive.
   * @returns EEXIST, with the resource in the way
   */
  request(start: number, end: number, name: string, busy = true): Result<Resource, Resource> {
    assert(start <= end, 'an empty resource', { start, end });
    let siblings = this.roots;
    for (;;) {
      const hit = siblings.find((r) => r.start <= end && start <= r.end);
      if (hit === undefined) break;
      if (hit.busy || hit.start > start || end > hit.end) return err(hit);
      siblings = hit.children;
    }
    const made: Resource = { start, end, name, busy, mergeable: false, children: [] };
    const at = siblings.findIndex((r) => r.start > end);
    siblings.splice(at < 0 ? siblings.length : at, 0, made);
    return ok(made);
  }

  /** Joins a resource with neighbours of its name that asked for it too, as long as neither has children. */
  merge(resource: Resource): void {
    const siblings = this.#siblingsOf(resource);
    resource.mergeable = true;
    for (let k = siblings.indexOf(resource); ; ) {
      const next = siblings[k + 1];
      const before = siblings[k - 1];
      const fits = (a: Resource | undefined, b: Resource | undefined): boolean =>
        a !== undefined &&
        b !== undefined &&
        a.mergeable &&
        b.mergeable &&
        a.name === b.name &&
        a.end + 1 === b.start &&
        a.children.length + b.children.length === 0;
      const me = siblings[k] as Resource; // k indexes the resource, or what it became part of
      if (fits(me, next)) {
        me.end = (next as Resource).end;
        siblings.splice(k + 1, 1);
      } else if (fits(before, me)) {
        (before as Resource).end = me.end;
        siblings.splice(k, 1);
        k--;
      } else return;
    }
  }

  #siblingsOf(resource: Resource): Resource[] {
    const within = (list: Resource[]): Resource[] | undefined => {
      if (list.includes(resource)) return list;
      for (const r of list) {
        const found = within(r.children);
        if (found !== undefined) return found;
      }
      return undefined;
    };
    const found = within(this.roots);
    assert(found !== undefined, 'no such resource', { name: resource.name, start: resource.start });
    return found;
  }

  /** Gives [start, end] back. A resource that is larger is cut, or split in two. @returns false where nobody has it. */
  release(start: number, end: number): boolean {
    const from = (list: Resource[]): boolean => {
      const k = list.findIndex((r) => r.start <= start && end <= r.end);
      if (k < 0) return false;
      const r = list[k] as Resource;
      if (!r.busy) return from(r.children);
      const inside = (lo: number, hi: number): Resource[] => r.children.filter((c) => lo <= c.start && c.end <= hi);
      const rest: Resource[] = [];
      if (r.start < start) rest.push({ ...r, end: start - 1, children: inside(r.start, start - 1) });
      if (end < r.end) rest.push({ ...r, start: end + 1, children: inside(end + 1, r.end) });
      list.splice(k, 1, ...rest);
      return true;
    };
    return from(this.roots);
  }

  /** Each resource, parents first, ascending. */
  forEach(each: (r: Resource, depth: number) => void): void {
    const walk = (list: readonly Resource[], depth: number): void => {
      for (const r of list) {
        each(r, depth);
        walk(r.children, depth + 1);
      }
    };
    walk(this.roots, 0);
  }

  copy(): Resources {
    const other = new Resources([]);
    const dup = (r: Resource): Resource => ({ ...r, children: r.children.map(dup) });
    other.roots = this.roots.map(dup);
    return other;
  }
}
