// A command that takes the tree for the machine's own: in a private mount namespace, with the tree bound over the real files.
//
//   unshare -m ─> sh: /sys and /proc/sys read-only ─> bind, and look ─> bind, and look ... ─> exec COMMAND
//                                                        └── not our mount on top? refuse, exit 4; nothing was started
//
//   DIR/sys/devices/system/memory   over   /sys/devices/system/memory        must be there on both sides
//   DIR/sys/devices/system/node     over   /sys/devices/system/node          and other directories of OVER: where both have it
//   DIR/proc/zoneinfo, ...          over   /proc/zoneinfo, ...               each file of the tree's /proc and /proc/sys/vm
//
// Two locks, each enough by itself, keep a command away from the real tree: the guard looks into the mount table of the
// namespace for *this* mount's tag on top of each path, and the rest of /sys (and /proc/sys) is read-only in there, so that
// even a path that was overlooked cannot be written. Both end with the namespace: with the last process in it.
//
// Source: mount_namespaces(7); util-linux unshare, mount.

import { type ChildProcess, spawn } from 'node:child_process';
import type { KernelFs } from '#kernfs/kernel-fs';
import { SH_OURS } from './watchdog.ts';

/** What a command must find bound, or it is not started. */
export const REQUIRED_DIRECTORY = '/sys/devices/system/memory';

/** Directories that are bound where the tree and the machine both have them. Memory is first. */
const OVER = [
  REQUIRED_DIRECTORY,
  '/sys/devices/system/node',
  '/sys/module/memory_hotplug/parameters',
  '/sys/kernel/debug/extfrag',
];

/** Directories whose files are bound one by one, as there are others beside them. */
const OVER_FILES = ['/proc', '/proc/sys/vm'];

/** What a tree has to be bound: directories of OVER, and the files of OVER_FILES. In the order of mounting. */
export function bindsOf(tree: KernelFs): string[] {
  const directories = OVER.filter((d) => tree.stat(d)?.kind === 'dir');
  const files = OVER_FILES.flatMap((d) => tree.list(d).map((name) => `${d}/${name}`)).filter(
    (f) => tree.stat(f)?.kind === 'file',
  );
  return [...directories, ...files];
}

const SCRIPT = `tag=$1 dir=$2 required=$3 count=$4
shift 4
refuse() {
  echo "dimmer: $1; the command was not started" >&2
  exit 4
}
${SH_OURS}
read_only() {
  options=
  while read -r _id _parent _dev _root at opts _rest; do
    [ "$at" = "$1" ] && options=$opts
  done < /proc/self/mountinfo
  case "$options" in
    ro | ro,*) return 0 ;;
  esac
  return 1
}
[ -d "$required" ] || refuse "this kernel has no $required to put the tree upon"
mount -i -o remount,bind,ro /sys && read_only /sys || refuse "/sys could not be made read-only in the namespace"
mount -i --bind /proc/sys /proc/sys && mount -i -o remount,bind,ro /proc/sys && read_only /proc/sys ||
  refuse "/proc/sys could not be made read-only in the namespace"
while [ "$count" -gt 0 ]; do
  at=$1
  shift
  count=$((count - 1))
  [ -e "$at" ] || continue
  mount -i --bind "$dir$at" "$at" || refuse "$at could not be bound"
  ours "$at" || refuse "$at is not the tree after it was bound"
done
ours "$required" || refuse "$required is not the tree"
exec "$@"`;

export type InsideOptions = {
  /** Of mountFuse. */
  readonly mounted: { readonly dir: string; readonly tag: string };
  readonly tree: KernelFs;
  /** At least one word. */
  readonly command: readonly string[];
  readonly stdio?: 'inherit' | 'pipe';
};

/**
 * Starts a command in a namespace where the tree is the machine's. Its exit code is the command's; 4 when the guard refuses,
 * 127 when there is no such command. Effects: one child process; nothing outside of the namespace is mounted.
 */
export function spawnInside({ mounted, tree, command, stdio = 'inherit' }: InsideOptions): ChildProcess {
  const binds = bindsOf(tree);
  const words = [mounted.tag, mounted.dir, REQUIRED_DIRECTORY, `${binds.length}`, ...binds, ...command];
  return spawn('unshare', ['-m', '--propagation', 'private', '--', 'sh', '-c', SCRIPT, 'dimmer', ...words], { stdio });
}
