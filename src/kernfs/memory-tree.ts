// A KernTree made of strings in memory: what bundles, the lab's flat folders and tests present.
//
//   files   path -> text; `undefined` marks a name that exists but has no text to read (a symbolic link, a
//           write-only file). Parent directories exist by implication.
//
// Names are listed sorted by code unit, as the port promises. Cost: one index of all directories, made once.

import type { KernTree } from './source.ts';

/** Paths are absolute, without a slash at the end. */
export function treeFromFiles(files: ReadonlyMap<string, string | undefined>): KernTree {
  const names = new Map<string, Set<string>>();
  for (const path of files.keys()) {
    let at = path.lastIndexOf('/');
    let child = path;
    while (at >= 0) {
      const directory = at === 0 ? '/' : child.slice(0, at);
      const name = child.slice(at + 1);
      const known = names.get(directory);
      if (known === undefined) names.set(directory, new Set([name]));
      else if (known.has(name))
        break; // its parents are known, too
      else known.add(name);
      if (directory === '/') break;
      child = directory;
      at = child.lastIndexOf('/');
    }
  }
  const listings = new Map<string, readonly string[]>();
  for (const [directory, children] of names) listings.set(directory, [...children].sort());
  return {
    readText: (path) => files.get(path),
    list: (path) => listings.get(path) ?? [],
  };
}
