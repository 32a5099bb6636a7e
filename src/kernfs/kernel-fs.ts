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

import type { KernTree } from './source.ts';

/** Errno names a tree may give. The numbers are in ERRNO_NUMBER. */
export const ERRNO_NUMBER = Object.freeze({
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOSPC: 28,
  EROFS: 30,
  ERANGE: 34,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
  EHWPOISON: 133,
});
export type FsErrno = keyof typeof ERRNO_NUMBER;

export type FsNode =
  /** `size` as stat shows it: 4096 for sysfs attributes, 0 for /proc files. */
  | { readonly kind: 'file'; readonly mode: number; readonly size: number }
  | { readonly kind: 'dir'; readonly mode: number }
  | { readonly kind: 'link'; readonly target: string };

/** A write under way. */
export interface FsWrite {
  /** A small piece of work. @returns undefined while it is not over; then the bytes taken, or why not */
  step(): number | FsErrno | undefined;
  /** What a signal to the writer does. */
  cancel(): void;
}

export interface KernelFs extends KernTree {
  /** Undefined: no such file (ENOENT). Links are not followed at the end of the path, but are on the way. */
  stat(path: string): FsNode | undefined;
  /** The bytes of [offset, offset + length) of a file; fewer at its end. */
  read(path: string, offset?: number, length?: number): Uint8Array | FsErrno;
  beginWrite(path: string, data: string | Uint8Array): FsWrite;
  /** A write from begin to end, with nobody in between. */
  write(path: string, data: string | Uint8Array): number | FsErrno;
}
