// Errno: the names that a refusal may bear, and their numbers on Linux (asm-generic/errno-base.h, errno.h).

export const ERRNO = Object.freeze({
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOSPC: 28,
  EROFS: 30,
  ERANGE: 34,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
  EALREADY: 114,
  ESTALE: 116,
  EHWPOISON: 133,
});
export type ErrnoName = keyof typeof ERRNO;

// What strerror says, where only a sentence is at hand: glibc's words, then musl's where they differ (musl has none for
// EHWPOISON). The guest agent, dd and chmem pass no number on, in the C locale.
const SENTENCES: readonly (readonly [ErrnoName, ...string[]])[] = [
  ['EPERM', 'Operation not permitted'],
  ['ENOENT', 'No such file or directory'],
  ['EINTR', 'Interrupted system call'],
  ['EIO', 'Input/output error', 'I/O error'],
  ['ENXIO', 'No such device or address'],
  ['E2BIG', 'Argument list too long'],
  ['EAGAIN', 'Resource temporarily unavailable'],
  ['ENOMEM', 'Cannot allocate memory', 'Out of memory'],
  ['EACCES', 'Permission denied'],
  ['EFAULT', 'Bad address'],
  ['EBUSY', 'Device or resource busy', 'Resource busy'],
  ['EEXIST', 'File exists'],
  ['EXDEV', 'Invalid cross-device link', 'Cross-device link'],
  ['ENODEV', 'No such device'],
  ['ENOTDIR', 'Not a directory'],
  ['EISDIR', 'Is a directory'],
  ['EINVAL', 'Invalid argument'],
  ['ENOSPC', 'No space left on device'],
  ['EROFS', 'Read-only file system'],
  ['ERANGE', 'Numerical result out of range', 'Result not representable'],
  ['EOPNOTSUPP', 'Operation not supported', 'Not supported'],
  ['ETIMEDOUT', 'Connection timed out', 'Operation timed out'],
  ['EALREADY', 'Operation already in progress'],
  ['ESTALE', 'Stale file handle'],
  ['EHWPOISON', 'Memory page has hardware error'],
];

/** The errno whose sentence a message ends with ("dd: error writing 'state': Device or resource busy"), if any. */
export function errnoOfText(text: string): ErrnoName | undefined {
  const tail = text.replace(/[\s.)"']+$/, '');
  for (const [name, ...sentences] of SENTENCES) {
    // A sentence stands alone, or after a colon or a bracket: "Remote I/O error" is not "I/O error".
    if (sentences.some((s) => tail === s || tail.endsWith(`: ${s}`) || tail.endsWith(`(${s}`))) return name;
  }
  return undefined;
}
