// Names for what /proc/kpagecgroup says: the inode of a memory cgroup's directory is the word of its pages.
//
// Where memory cgroups live: the v1 memory hierarchy when it is mounted (/sys/fs/cgroup/memory), else the one v2 tree.
// The walk is breadth first, sorted, and stops at a bound: machines with a hundred thousand dead containers exist.
//
// Linux v6.12 mm/memcontrol.c: page_cgroup_ino(); fs/proc/page.c: kpagecgroup_read().

import * as fs from 'node:fs';
import * as path from 'node:path';

const CGROUPS_MAX = 20_000;

/** Inode -> path below the root ("/" for the root itself). Cost: one stat and one listing per cgroup. */
export function memoryCgroups(mount: string): { paths: ReadonlyMap<number, string>; more: boolean } {
  const paths = new Map<number, string>();
  const root = [path.join(mount, 'memory'), mount, path.join(mount, 'unified')].find(isMemoryHierarchy);
  if (root === undefined) return { paths, more: false };
  const queue = ['/'];
  for (let at = 0; at < queue.length; at++) {
    if (paths.size === CGROUPS_MAX) return { paths, more: true };
    const below = queue[at];
    try {
      const directory = path.join(root, below);
      paths.set(fs.lstatSync(directory).ino, below);
      const children = fs.readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory());
      for (const { name } of children.sort((a, b) => (a.name < b.name ? -1 : 1))) queue.push(path.join(below, name));
    } catch {
      // A cgroup that ended while we walked: its pages stay unnamed, like those of all dead cgroups.
    }
  }
  return { paths, more: false };
}

/** v1 memory has memory.usage_in_bytes at its root; v2 has cgroup.controllers. */
const isMemoryHierarchy = (directory: string): boolean =>
  ['memory.usage_in_bytes', 'cgroup.controllers'].some((name) => fs.existsSync(path.join(directory, name)));
