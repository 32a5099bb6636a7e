// Tree nodes: what a path of the tree leads to. Directories say their names and find one; files say their text when
// they are asked.
//
//   dir    names()             at("state")
//   file   read()              the whole text, computed anew          sysfs attributes: 4096 bytes by stat; /proc: 0
//          readAt(from, n)     for files of words, which nobody wants whole
//          store(text)         what a write does: 'ok', an errno, or a job of several steps
//   link   target              as readlink shows it
//
// Nothing is cached, because the kernel computes attributes when they are read. Nodes are made while a path is walked
// and forgotten afterwards: a machine of ten thousand blocks has no ten thousand objects here.

import type { ErrnoName } from '#base/errno';

/** Work of a write that takes more than one step. */
export interface StoreJob {
  /** Undefined: not over yet. */
  step(): 'ok' | ErrnoName | undefined;
  cancel(): void;
  /** True while it waits for others: no step of its own helps. */
  readonly waits: boolean;
}

export type StoreOptions = {
  /** Work that only a signal ends may stay under way; else it is given up at the engine's bound. */
  readonly endless: boolean;
};

export type Stored = 'ok' | ErrnoName | StoreJob;

export type FileNode = {
  readonly kind: 'file';
  readonly mode: number;
  readonly size: number;
  readonly read?: () => string;
  readonly readAt?: (offset: number, length: number) => Uint8Array | ErrnoName;
  /** The text without what follows a NUL byte. */
  readonly store?: (text: string, options: StoreOptions) => Stored;
  /** Errno of reading a file that has a mode to be read and nothing to say. */
  readonly unreadable?: ErrnoName;
  /** Errno of writing a file without `store`: EACCES under /sys and of sysctls, EIO of other /proc files (as root). */
  readonly unwritable?: ErrnoName;
};

export type DirNode = {
  readonly kind: 'dir';
  readonly mode: number;
  /** In any order. */
  names(): readonly string[];
  at(name: string): TreeNode | undefined;
};

export type LinkNode = { readonly kind: 'link'; readonly target: string };

export type TreeNode = FileNode | DirNode | LinkNode;

/** A sysfs attribute: 0444, or 0644 with a store. */
export const attribute = (read: () => string, store?: FileNode['store']): FileNode => ({
  kind: 'file',
  mode: store === undefined ? 0o444 : 0o644,
  size: 4096,
  read,
  ...(store === undefined ? {} : { store }),
});

/** A sysfs attribute that is only written: 0200. */
export const trigger = (store: FileNode['store'] & object): FileNode => ({
  kind: 'file',
  mode: 0o200,
  size: 4096,
  store,
});

/** A file of /proc that is only read. */
export const procFile = (read: () => string, mode = 0o444): FileNode => ({
  kind: 'file',
  mode,
  size: 0,
  read,
  unwritable: 'EIO',
});

export const link = (target: string): LinkNode => ({ kind: 'link', target });

/** A directory of entries that are known beforehand. */
export function fixedDir(entries: Readonly<Record<string, TreeNode | undefined>>): DirNode {
  return {
    kind: 'dir',
    mode: 0o755,
    names: () => Object.keys(entries).filter((name) => entries[name] !== undefined),
    at: (name) => (Object.hasOwn(entries, name) ? entries[name] : undefined),
  };
}

/** The entries of `fixed`, and others that come and go. */
export function growingDir(
  fixed: Readonly<Record<string, TreeNode | undefined>>,
  grown: { names(): readonly string[]; at(name: string): TreeNode | undefined },
): DirNode {
  const base = fixedDir(fixed);
  return {
    kind: 'dir',
    mode: 0o755,
    names: () => [...base.names(), ...grown.names()],
    at: (name) => base.at(name) ?? grown.at(name),
  };
}

/** A write's text without the one newline that the kernel forgives: sysfs_streq(). */
export const word = (text: string): string => (text.endsWith('\n') ? text.slice(0, -1) : text);
