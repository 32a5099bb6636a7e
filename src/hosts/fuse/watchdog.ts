// The watchdog: a small shell that outlives its server and detaches what that has left mounted.
//
//   dimmer ────pipe────> sh: read        "done"  the server has unmounted itself, nothing to do
//                                        EOF     it is gone (a crash, kill -9, process.exit): umount -f -l, at most 50 times;
//                                              looks for a second, as its mount(8) may outlive it, too
//
// It runs in a session of its own and ignores the terminal's signals, so that Ctrl-C does not end it before its server.
// It touches nothing but a mount that carries the server's tag, and only where that is on top of the directory.
//
// `-f` ends the connection, which wakes the server's waiting read (device.ts); `-l` detaches although files are open.
// Node's own exit hook cannot do this: it would have to wait for umount(8), which may ask a server that has stopped.

import { type ChildProcess, spawn } from 'node:child_process';
import type { Writable } from 'node:stream';
import { escapePath, FUSE_TYPE } from './mount-table.ts';

/** Shell function `ours PATH-AS-MOUNTINFO-WRITES-IT`: does our mount, $tag, lie on top there? */
export const SH_OURS = `ours() {
  top=
  while read -r _id _parent _dev _root at rest; do
    [ "$at" = "$1" ] && top=$rest
  done < /proc/self/mountinfo
  case "$top" in
    *" - ${FUSE_TYPE} $tag "*) return 0 ;;
  esac
  return 1
}`;

const SCRIPT = `trap '' INT TERM HUP QUIT PIPE
tag=$1 dir=$2 escaped=$3
${SH_OURS}
read -r word && [ "$word" = done ] && exit 0
tries=0
while [ "$tries" -lt 50 ]; do
  if ours "$escaped"; then umount -i -f -l "$dir"; elif [ "$tries" -ge 10 ]; then exit 0; fi
  tries=$((tries + 1))
  sleep 0.1
done`;

export type Watchdog = {
  readonly pid: number | undefined;
  /** The server unmounts by itself: the watchdog leaves without doing anything. */
  dismiss(): void;
  /** As if the server had died. Synchronous: for an exit hook. */
  release(): void;
};

/** @param dir real path of the mount @param tag source of the mount, unique on this machine */
export function startWatchdog(dir: string, tag: string): Watchdog {
  const child: ChildProcess = spawn('sh', ['-c', SCRIPT, 'dimmer-watchdog', tag, dir, escapePath(dir)], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  child.on('error', () => {}); // no sh: mount(8) will not be there either, and says so
  child.unref();
  const pipe = child.stdin as Writable & { unref?: () => void }; // stdio[0] is a pipe
  pipe.on('error', () => {}); // it has left already
  pipe.unref?.();
  return {
    pid: child.pid,
    dismiss: () => void pipe.end('done\n'),
    release: () => void pipe.destroy(),
  };
}
