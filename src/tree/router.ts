// Router: from a path to its node, and a KernelFs from the root of a tree.
//
//   "/sys/devices/system/node/node0/memory3/state"
//      walk names, a link in the middle is followed by its own text: node0/memory3 -> ../../memory/memory3
//
// stat does not follow a link at the end; read, write and list do, as open(2) and opendir(2). A walk follows at most
// 40 links. Rules are the kernel's own, seen as root: a sysfs file without a read or write bit is EACCES for everyone
// (kernfs_fop_open()), a /proc file without a write method is EIO (proc_reg_write()), an empty write does nothing and
// is 0, a sysfs write is cut at a page.

import { assert } from '#base/assert';
import type { ErrnoName } from '#base/errno';
import type { FsNode, FsWrite, KernelFs } from '#kernfs/kernel-fs';
import type { DirNode, FileNode, StoreJob, TreeNode } from './tree-node.ts';

const LINKS_MAX = 40;
const PAGE = 4096;

export type RouterOptions = {
  /** Writes that only a signal ends: 'wait' for it, or 'refuse' at the engine's bound. */
  readonly endless: 'wait' | 'refuse';
};

export function routed(root: DirNode, options: RouterOptions): KernelFs {
  const encoder = new TextEncoder();
  const decoder = new TextDecoder();

  const open = (path: string): TreeNode | ErrnoName => walk(root, path, true);

  function read(path: string, offset = 0, length = Number.POSITIVE_INFINITY): Uint8Array | ErrnoName {
    const node = open(path);
    if (typeof node === 'string') return node;
    if (node.kind !== 'file') return 'EISDIR';
    if ((node.mode & 0o444) === 0) return 'EACCES';
    if (node.unreadable !== undefined) return node.unreadable;
    if (node.readAt !== undefined) return node.readAt(offset, length);
    if (node.read === undefined) return 'EIO';
    const bytes = encoder.encode(node.read());
    return offset === 0 && length >= bytes.length ? bytes : bytes.subarray(offset, offset + length);
  }

  function begin(path: string, data: string | Uint8Array, endless: boolean): PendingWrite {
    const node = open(path);
    if (typeof node === 'string') return new PendingWrite(node);
    if (node.kind !== 'file') return new PendingWrite('EISDIR');
    const { store } = node;
    if (store === undefined || (node.mode & 0o222) === 0) return new PendingWrite(node.unwritable ?? 'EACCES');
    const bytes = (typeof data === 'string' ? encoder.encode(data) : data).subarray(0, PAGE);
    if (bytes.length === 0) return new PendingWrite(0);
    const end = bytes.indexOf(0);
    const text = decoder.decode(end < 0 ? bytes : bytes.subarray(0, end));
    return new PendingWrite(bytes.length, () => store(text, { endless }));
  }

  return {
    readText(path) {
      const node = open(path);
      const readable = typeof node !== 'string' && node.kind === 'file' && (node.mode & 0o444) !== 0;
      return readable && node.unreadable === undefined ? node.read?.() : undefined;
    },
    list(path) {
      const node = open(path);
      return typeof node === 'string' || node.kind !== 'dir' ? [] : [...node.names()].sort();
    },
    stat(path) {
      const node = walk(root, path, false);
      return typeof node === 'string' ? undefined : statOf(node);
    },
    read,
    beginWrite: (path, data) => begin(path, data, options.endless === 'wait'),
    write(path, data) {
      const w = begin(path, data, false);
      for (;;) {
        const result = w.step();
        if (result !== undefined) return result;
        // Nobody else runs meanwhile: whoever has what it waits for will not give it back.
        if (w.waits) w.cancel();
      }
    },
  };
}

const statOf = (node: TreeNode): FsNode => {
  if (node.kind === 'link') return node;
  return node.kind === 'dir'
    ? { kind: 'dir', mode: node.mode }
    : { kind: 'file', mode: node.mode, size: (node as FileNode).size };
};

/** The node of an absolute path, or ENOENT, ENOTDIR. "." and ".." come from links only. */
function walk(root: DirNode, path: string, followLast: boolean): TreeNode | ErrnoName {
  assert(path.startsWith('/'), 'paths of a tree are absolute', { path });
  const trail: DirNode[] = [root];
  const parts = path.split('/').filter((p) => p !== '');
  let links = 0;
  let node: TreeNode = root;
  for (let k = 0; k < parts.length; k++) {
    const name = parts[k] as string;
    if (name === '.') continue;
    if (name === '..') {
      if (trail.length > 1) trail.pop();
      node = trail[trail.length - 1] as DirNode; // the root stays
      continue;
    }
    if (node.kind !== 'dir') return 'ENOTDIR';
    const next: TreeNode | undefined = node.at(name);
    if (next === undefined) return 'ENOENT';
    if (next.kind === 'link' && (followLast || k < parts.length - 1)) {
      if (++links > LINKS_MAX) return 'ENOENT';
      const absolute = next.target.startsWith('/');
      if (absolute) trail.length = 1;
      node = trail[trail.length - 1] as DirNode;
      parts.splice(0, k + 1, ...next.target.split('/').filter((p) => p !== ''));
      k = -1;
      continue;
    }
    node = next;
    if (next.kind === 'dir') trail.push(next);
  }
  return node;
}

/** A write under way: takes effect with its first step, not before. */
class PendingWrite implements FsWrite {
  readonly #start: (() => 'ok' | ErrnoName | StoreJob) | undefined;
  readonly #bytes: number;
  #job: StoreJob | undefined;
  #result: number | ErrnoName | undefined;

  constructor(outcome: number | ErrnoName, start?: () => 'ok' | ErrnoName | StoreJob) {
    this.#start = start;
    this.#bytes = typeof outcome === 'number' ? outcome : 0;
    this.#result = start === undefined ? outcome : undefined;
  }

  get waits(): boolean {
    return this.#job?.waits === true;
  }

  step(): number | ErrnoName | undefined {
    if (this.#result !== undefined) return this.#result;
    if (this.#job === undefined) {
      const stored = (this.#start as () => 'ok' | ErrnoName | StoreJob)(); // without one there is a result
      if (typeof stored === 'string') return this.#end(stored);
      this.#job = stored;
    }
    const done = this.#job.step();
    return done === undefined ? undefined : this.#end(done);
  }

  cancel(): void {
    if (this.#result !== undefined) return;
    if (this.#job === undefined) this.#result = 'EINTR';
    else this.#job.cancel();
  }

  #end(done: 'ok' | ErrnoName): number | ErrnoName {
    this.#result = done === 'ok' ? this.#bytes : done;
    return this.#result;
  }
}
