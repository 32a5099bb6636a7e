// KernelFs: a kernel's /proc and /sys that can be written to. What a live tree over FUSE, an exported directory, a shell
// and the conformance replay all stand on; src/tree makes one of a Machine.
//
//   beginWrite("/sys/devices/system/memory/memory34/state", "offline\n")
//      └── FsWrite ──step()──> undefined      at work: others may read (state says going-offline) and write (they wait)
//                  ──step()──> 8              accepted: so many bytes
//                  ──step()──> 'EBUSY'        refused, with the errno that Linux gives
//                  ──cancel()                 a signal came: the next step says EINTR, if it is not over by then
//
// Paths are absolute, as on the live machine, without "." and "..". Files are text or bytes; nothing is cached between
// two reads, because the kernel computes attributes when they are read.

import type { ErrnoName } from '#base/errno';
import type { KernTree } from './source.ts';

export type FsNode =
  /** `size` as stat shows it: 4096 for sysfs attributes, 0 for /proc files. */
  | { readonly kind: 'file'; readonly mode: number; readonly size: number }
  | { readonly kind: 'dir'; readonly mode: number }
  | { readonly kind: 'link'; readonly target: string };

/** A write under way. */
export interface FsWrite {
  /** A small piece of work. @returns undefined while it is not over; then the bytes taken, or why not */
  step(): number | ErrnoName | undefined;
  /** What a signal to the writer does. */
  cancel(): void;
}

export interface KernelFs extends KernTree {
  /** Undefined: no such file (ENOENT). Links are not followed at the end of the path, but are on the way. */
  stat(path: string): FsNode | undefined;
  /** The bytes of [offset, offset + length) of a file; fewer at its end. */
  read(path: string, offset?: number, length?: number): Uint8Array | ErrnoName;
  beginWrite(path: string, data: string | Uint8Array): FsWrite;
  /** A write from begin to end, with nobody in between. */
  write(path: string, data: string | Uint8Array): number | ErrnoName;
}
