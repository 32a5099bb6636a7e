// RecordedTree: kernel files held in memory, with the time at which each was read.
//
// Everything that a capture keeps of /proc and /sys is here: text files, and names of symbolic links that tools look
// for (memoryN/nodeM says which node a block is on; its target says nothing more). A directory is what some path lies
// under. The page files are not text and live beside the tree as PageRuns; only their times are here.
//
// Besides the kernel's files: rules of udev about memory blocks (udev-rules.ts), and of those files nothing else. Whoever makes
// a tree may hand in whole rules files; what is not about memory does not get in.
//
// Invariants: paths are absolute, normal (`isKernelPath`) and distinct; no path lies under another one.

import { assert } from '#base/assert';
import { treeFromFiles } from '#kernfs/memory-tree';
import type { KernTree } from '#kernfs/source';
import { effectiveRules, memoryRulesOf, udevRulesFile } from './udev-rules.ts';

/** When a file was read: milliseconds after the capture began, start and end of the reading. */
export type ReadTime = { readonly startedMs: number; readonly endedMs: number };

export type RecordedFile = ReadTime & {
  readonly path: string;
  /** `link`: a name that a directory lists and that has no text. */
  readonly kind: 'text' | 'link';
  /** Empty for a link. */
  readonly text: string;
};

const PATH_LENGTH_MAX = 512;

/**
 * True for a path that a capture may hold: absolute, under /proc, /sys or /qmp (what a hypervisor said), or a rules file of
 * udev; no empty, `.` or `..` part, printable ASCII only. This is what keeps a forged bundle from being unpacked outside its directory.
 */
export function isKernelPath(path: string): boolean {
  if (path.length > PATH_LENGTH_MAX) return false;
  if (udevRulesFile(path) !== undefined) return true;
  if (!/^\/(?:proc|sys|qmp)(?:\/[!-.0-~]+)+$/.test(path)) return false;
  return path.split('/').every((part) => part !== '.' && part !== '..');
}

/** The first path that is not a kernel path, comes twice or lies under another one; undefined when all are sound. */
export function firstBadPath(paths: readonly string[]): string | undefined {
  const seen = new Set<string>();
  for (const path of paths) {
    if (!isKernelPath(path) || seen.has(path)) return path;
    seen.add(path);
  }
  return paths.find((path) => ancestorsOf(path).some((above) => seen.has(above)));
}

/** "/proc/sys/vm/x" -> ["/proc/sys/vm", "/proc/sys", "/proc"]. */
function ancestorsOf(path: string): string[] {
  const above: string[] = [];
  for (let cut = path.lastIndexOf('/'); cut > 0; cut = path.lastIndexOf('/', cut - 1)) above.push(path.slice(0, cut));
  return above;
}

export class RecordedTree implements KernTree {
  /** Sorted by path. */
  readonly files: readonly RecordedFile[];
  /** Times of the page files, by path. */
  readonly pageReads: ReadonlyMap<string, ReadTime>;
  readonly #tree: KernTree;

  /** The caller promises sound paths (`firstBadPath`). Cost O(files x depth). */
  constructor(files: readonly RecordedFile[], pageReads: ReadonlyMap<string, ReadTime> = new Map()) {
    const bad = firstBadPath(files.map((file) => file.path));
    assert(bad === undefined, 'a path that a capture may not hold', { path: bad });
    this.files = withoutForeignRules(files).toSorted((a, b) => (a.path < b.path ? -1 : 1));
    this.pageReads = pageReads;
    this.#tree = treeFromFiles(
      new Map(this.files.map(({ path, kind, text }) => [path, kind === 'text' ? text : undefined])),
    );
  }

  readText(path: string): string | undefined {
    return this.#tree.readText(path);
  }

  list(path: string): readonly string[] {
    return this.#tree.list(path);
  }
}

/** Of udev's files the rules about memory that count; a file that hides them by an empty one of its name hides them here too. */
function withoutForeignRules(files: readonly RecordedFile[]): readonly RecordedFile[] {
  if (!files.some((f) => udevRulesFile(f.path) !== undefined)) return files;
  const count = new Set(effectiveRules(files.map((f) => f.path)));
  return files.flatMap((f) => {
    if (udevRulesFile(f.path) === undefined) return [f];
    const text = count.has(f.path) ? memoryRulesOf(f.text) : '';
    return text === '' ? [] : [{ ...f, text }];
  });
}
