// Tree snapshot: every file of a tree that has text, and every link, as a list: what an export writes.
//
// Write-only files and files of words have no text and are left out. A walk does not follow links, so that it ends.
// What is said twice under two directories is said twice. Cost: every file once.

import type { KernelFs } from '#kernfs/kernel-fs';

export type TreeFile = {
  readonly path: string;
  readonly kind: 'text' | 'link';
  /** The file's text, or where the link leads. */
  readonly text: string;
};

/** Sorted by directory and name. `from`: a directory, "/" for all. */
export function treeSnapshot(fs: KernelFs, from = '/'): TreeFile[] {
  const files: TreeFile[] = [];
  const walk = (directory: string): void => {
    for (const name of fs.list(directory === '' ? '/' : directory)) {
      const path = `${directory}/${name}`;
      const node = fs.stat(path);
      if (node === undefined) continue; // gone meanwhile
      if (node.kind === 'dir') walk(path);
      else if (node.kind === 'link') files.push({ path, kind: 'link', text: node.target });
      else {
        const text = fs.readText(path);
        if (text !== undefined) files.push({ path, kind: 'text', text });
      }
    }
  };
  walk(from === '/' ? '' : from);
  return files;
}
