// Inodes: the numbers that the kernel knows our files by, and how often it has been told each.
//
//   LOOKUP "state" ──> number 7 (told once) ── LOOKUP ──> told twice ── FORGET 2 ──> row gone, the number is not used again
//
// The kernel holds a number until it forgets it as often as it was told it; the root, 1, is never forgotten. The same path
// gets the same number, with one exception: a file that can be written gets a *new* number on each lookup. The reason is
// the kernel's lock of an inode, which it holds over a direct write. With one inode, a second writer (even the truncation
// of `echo online > state`) would wait for it in the kernel, where no signal reaches him, as long as the first offline
// runs. sysfs has no such lock (kernfs locks the open file, and device_hotplug_lock is waited for in a way that a signal
// ends), so each open gets an inode of its own and all writers wait in our session. What stat shows as st_ino is made of
// the path and stays the same.
//
// Follows Linux fs/fuse/inode.c (fuse_iget, nlookup), dir.c (fuse_dentry_revalidate: another number drops the dentry,
// which is why directories keep theirs: mounts upon them would go too), file.c (fuse_direct_write_iter: inode_lock).

import { assert } from '#base/assert';
import type { FsNode } from '#kernfs/kernel-fs';

export const ROOT_ID = 1;

export type Inode = { readonly id: number; readonly path: string; readonly kind: FsNode['kind'] };
type Row = Inode & { told: number; readonly shared: boolean };

const WRITE_BITS = 0o222;

export class Inodes {
  readonly #rows = new Map<number, Row>();
  /** The number of a path whose number is shared. */
  readonly #byPath = new Map<string, Row>();
  #next = ROOT_ID + 1;

  constructor() {
    this.#rows.set(ROOT_ID, { id: ROOT_ID, path: '/', kind: 'dir', told: 1, shared: true });
  }

  /** How many numbers the kernel holds, the root included. */
  get size(): number {
    return this.#rows.size;
  }

  get(id: number): Inode | undefined {
    return this.#rows.get(id);
  }

  /** The number of a file that the kernel is about to be told: counts one lookup. O(1). */
  tell(path: string, node: FsNode): number {
    const shared = !(node.kind === 'file' && (node.mode & WRITE_BITS) !== 0);
    const known = shared ? this.#byPath.get(path) : undefined;
    if (known !== undefined && known.kind === node.kind) {
      known.told++;
      return known.id;
    }
    const row: Row = { id: this.#next++, path, kind: node.kind, told: 1, shared };
    this.#rows.set(row.id, row);
    if (shared) this.#byPath.set(path, row);
    return row.id;
  }

  /** Numbers that were never told, or are forgotten already, are the kernel's mistake and change nothing. */
  forget(id: number, times: number): void {
    const row = this.#rows.get(id);
    if (row === undefined || id === ROOT_ID) return;
    row.told -= times;
    if (row.told > 0) return;
    this.#rows.delete(id);
    if (this.#byPath.get(row.path) === row) this.#byPath.delete(row.path);
  }

  /** Invariants: rows agree with their keys, each was told, and each shared path has a row. Throws. O(rows). */
  check(): void {
    for (const [id, row] of this.#rows) {
      assert(row.id === id && row.told > 0, 'an inode row is wrong', { id, told: row.told });
    }
    for (const [path, row] of this.#byPath) {
      assert(this.#rows.get(row.id) === row && row.path === path && row.shared, 'a path has no inode', { path });
    }
  }
}

/** A number for st_ino that depends on the path only: 52 bits, never 0. Two multiplicative hashes (Fowler-Noll-Vo 1a). */
export function inoOf(path: string): number {
  let lo = 0x811c9dc5;
  let hi = 0x9747b28c;
  for (let k = 0; k < path.length; k++) {
    const c = path.charCodeAt(k);
    lo = Math.imul(lo ^ c, 0x01000193);
    hi = Math.imul(hi ^ c, 0x01000193) ^ (lo >>> 15);
  }
  return (hi >>> 12) * 2 ** 32 + (lo >>> 0) + 1;
}
