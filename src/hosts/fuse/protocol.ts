// The FUSE protocol as dimmer speaks it: bytes from /dev/fuse become typed requests, replies become bytes. Pure.
//
//   one read of /dev/fuse = one request           one write = one reply
//   ┌───────────── 40 bytes ────────────┬──────┐  ┌───── 16 bytes ────┬──────┐
//   │ len opcode unique nodeid uid gid  │ body │  │ len -errno unique │ body │
//   │ pid padding                       │      │  └───────────────────┴──────┘
//   └───────────────────────────────────┴──────┘
//
// `unique` names a request; its reply carries it, and so does an INTERRUPT for it. FORGET and BATCH_FORGET get no reply.
// A request that is shorter than its own `len`, or than the structure that its opcode needs, is refused as a value: the
// session answers EIO, nothing is guessed. Bytes after a structure that is known are left alone: newer kernels append.
//
// Follows Linux include/uapi/linux/fuse.h, version 7.31 (5.4) and later; the layouts below are that file's structures.

import { err, ok, type Result } from '#base/result';
import { struct } from './struct.ts';

/** The version that dimmer speaks. The kernel takes the smaller of both sides' minors. */
export const FUSE_VERSION = Object.freeze({ major: 7, minor: 31 });

export const OPCODE = Object.freeze({
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  readlink: 5,
  symlink: 6,
  mknod: 8,
  mkdir: 9,
  unlink: 10,
  rmdir: 11,
  rename: 12,
  link: 13,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  fsyncdir: 30,
  access: 34,
  create: 35,
  interrupt: 36,
  destroy: 38,
  poll: 40,
  batchForget: 42,
  rename2: 45,
});

/** INIT flags that dimmer asks for. */
export const INIT_FLAG = Object.freeze({
  /** Writes of more than a page in one request. */
  BIG_WRITES: 1 << 5,
  /** Lookups in one directory need not wait for each other. */
  PARALLEL_DIROPS: 1 << 18,
  /** init_out.maxPages counts. */
  MAX_PAGES: 1 << 22,
});

/** OPEN flags. */
export const FOPEN = Object.freeze({
  /** No page cache: every read(2) asks us, sizes do not matter. */
  DIRECT_IO: 1 << 0,
  /** Since 6.2: two writes of one open file may be under way. */
  PARALLEL_DIRECT_WRITES: 1 << 6,
});

/** SETATTR: which fields count. */
export const FATTR = Object.freeze({ MODE: 1 << 0, UID: 1 << 1, GID: 1 << 2, SIZE: 1 << 3 });

/** Directory entry types: the upper bits of the mode. */
export const DT = Object.freeze({ DIR: 4, REG: 8, LNK: 10 });

// ---------------------------------------------------------------------------------------------------- layouts

export const IN_HEADER = struct({
  len: 'u32',
  opcode: 'u32',
  unique: 'u64',
  nodeid: 'u64',
  uid: 'u32',
  gid: 'u32',
  pid: 'u32',
  padding: 'u32',
});
export const OUT_HEADER = struct({ len: 'u32', error: 'i32', unique: 'u64' });

/** 64 bytes since 7.36 (flags2 and reserved words), 16 before: the first 16 are all that dimmer needs. */
export const INIT_IN = struct({ major: 'u32', minor: 'u32', maxReadahead: 'u32', flags: 'u32' });
export const INIT_OUT = struct({
  major: 'u32',
  minor: 'u32',
  maxReadahead: 'u32',
  flags: 'u32',
  maxBackground: 'u16',
  congestionThreshold: 'u16',
  maxWrite: 'u32',
  timeGran: 'u32',
  maxPages: 'u16',
  mapAlignment: 'u16',
  flags2: 'u32',
  unused0: 'u32',
  unused1: 'u64',
  unused2: 'u64',
  unused3: 'u64',
});
export const FORGET_IN = struct({ nlookup: 'u64' });
export const BATCH_FORGET_IN = struct({ count: 'u32', dummy: 'u32' });
export const FORGET_ONE = struct({ nodeid: 'u64', nlookup: 'u64' });
export const SETATTR_IN = struct({
  valid: 'u32',
  padding: 'u32',
  fh: 'u64',
  size: 'u64',
  lockOwner: 'u64',
  atime: 'u64',
  mtime: 'u64',
  ctime: 'u64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  unused4: 'u32',
  uid: 'u32',
  gid: 'u32',
  unused5: 'u32',
});
export const OPEN_IN = struct({ flags: 'u32', openFlags: 'u32' });
export const OPEN_OUT = struct({ fh: 'u64', openFlags: 'u32', padding: 'u32' });
/** READ and READDIR. */
export const READ_IN = struct({
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  readFlags: 'u32',
  lockOwner: 'u64',
  flags: 'u32',
  padding: 'u32',
});
/** Followed by `size` bytes of data. */
export const WRITE_IN = struct({
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  writeFlags: 'u32',
  lockOwner: 'u64',
  flags: 'u32',
  padding: 'u32',
});
export const WRITE_OUT = struct({ size: 'u32', padding: 'u32' });
/** RELEASE and RELEASEDIR. */
export const RELEASE_IN = struct({ fh: 'u64', flags: 'u32', releaseFlags: 'u32', lockOwner: 'u64' });
export const INTERRUPT_IN = struct({ unique: 'u64' });
export const ATTR = struct({
  ino: 'u64',
  size: 'u64',
  blocks: 'u64',
  atime: 'u64',
  mtime: 'u64',
  ctime: 'u64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  nlink: 'u32',
  uid: 'u32',
  gid: 'u32',
  rdev: 'u32',
  blksize: 'u32',
  flags: 'u32',
});
/** Followed by an ATTR. */
export const ENTRY_OUT = struct({
  nodeid: 'u64',
  generation: 'u64',
  entryValid: 'u64',
  attrValid: 'u64',
  entryValidNsec: 'u32',
  attrValidNsec: 'u32',
});
/** Followed by an ATTR. */
export const ATTR_OUT = struct({ attrValid: 'u64', attrValidNsec: 'u32', dummy: 'u32' });
export const STATFS_OUT = struct({
  blocks: 'u64',
  bfree: 'u64',
  bavail: 'u64',
  files: 'u64',
  ffree: 'u64',
  bsize: 'u32',
  namelen: 'u32',
  frsize: 'u32',
  padding: 'u32',
  spare0: 'u64',
  spare1: 'u64',
  spare2: 'u64',
});
/** Followed by the name, padded with zeros to a multiple of 8. */
export const DIRENT = struct({ ino: 'u64', off: 'u64', namelen: 'u32', type: 'u32' });

// ---------------------------------------------------------------------------------------------------- requests

type Head = {
  readonly unique: number;
  readonly nodeid: number;
  readonly uid: number;
  readonly pid: number;
};

export type Request = Head &
  (
    | { readonly op: 'init'; readonly major: number; readonly minor: number; readonly flags: number }
    | { readonly op: 'lookup' | 'create' | 'mknod' | 'mkdir'; readonly name: string }
    | { readonly op: 'symlink' | 'link' | 'unlink' | 'rmdir' | 'rename'; readonly name: string }
    | { readonly op: 'forget'; readonly forgets: readonly { readonly nodeid: number; readonly nlookup: number }[] }
    | { readonly op: 'getattr' | 'readlink' }
    | { readonly op: 'statfs' | 'flush' | 'fsync' | 'fsyncdir' | 'access' | 'destroy' }
    | { readonly op: 'setattr'; readonly valid: number }
    | { readonly op: 'open' | 'opendir'; readonly flags: number }
    | { readonly op: 'read' | 'readdir'; readonly fh: number; readonly offset: number; readonly size: number }
    | { readonly op: 'write'; readonly fh: number; readonly data: Uint8Array }
    | { readonly op: 'release' | 'releasedir'; readonly fh: number }
    | { readonly op: 'interrupt'; readonly target: number }
    | { readonly op: 'unknown'; readonly opcode: number }
  );

/** What is wrong with the bytes; `unique` where the header could be read, so that somebody can be answered. */
export type Malformed = { readonly unique: number | undefined; readonly sentence: string };

/** Bytes of a name that precede it in requests which make something. */
const NAME_AFTER: Readonly<Record<string, number>> = {
  create: 16,
  mknod: 16,
  mkdir: 8,
  rename: 8,
  rename2: 16,
  link: 8,
};

const NAME_OF_OPCODE = new Map<number, keyof typeof OPCODE>(
  Object.entries(OPCODE).map(([name, code]) => [code, name as keyof typeof OPCODE]), // the keys are OPCODE's own
);

/**
 * One request.
 * @param bytes what one read of the device gave; `data` of a write is a view into it, to be copied before the next read
 * @returns the request; or what is wrong with it: shorter than its header, than its length, or than its structure.
 */
export function decodeRequest(bytes: Uint8Array): Result<Request, Malformed> {
  if (bytes.length < IN_HEADER.size)
    return malformed(undefined, `a header has ${IN_HEADER.size} bytes, not ${bytes.length}`);
  const h = IN_HEADER.read(bytes, 0);
  if (h.len < IN_HEADER.size || h.len > bytes.length)
    return malformed(h.unique, `its length says ${h.len}, ${bytes.length} bytes came`);
  const head: Head = { unique: h.unique, nodeid: h.nodeid, uid: h.uid, pid: h.pid };
  const body = bytes.subarray(IN_HEADER.size, h.len);
  const op = NAME_OF_OPCODE.get(h.opcode);
  const lacks = (size: number): boolean => body.length < size;
  const short = (): Result<never, Malformed> =>
    malformed(h.unique, `the body of ${op ?? 'it'} (opcode ${h.opcode}) has only ${body.length} bytes`);

  switch (op) {
    case undefined:
    case 'poll':
      return ok({ ...head, op: 'unknown', opcode: h.opcode });
    case 'init': {
      if (lacks(INIT_IN.size)) return short();
      const { major, minor, flags } = INIT_IN.read(body, 0);
      return ok({ ...head, op, major, minor, flags });
    }
    case 'lookup':
    case 'unlink':
    case 'rmdir':
    case 'symlink':
    case 'create':
    case 'mknod':
    case 'mkdir':
    case 'rename':
    case 'rename2':
    case 'link': {
      const name = nameAt(body, NAME_AFTER[op] ?? 0);
      return name === undefined ? short() : ok({ ...head, op: op === 'rename2' ? 'rename' : op, name });
    }
    case 'forget':
      if (lacks(FORGET_IN.size)) return short();
      return ok({ ...head, op, forgets: [{ nodeid: h.nodeid, nlookup: FORGET_IN.read(body, 0).nlookup }] });
    case 'batchForget': {
      if (lacks(BATCH_FORGET_IN.size)) return short();
      const { count } = BATCH_FORGET_IN.read(body, 0);
      if (lacks(BATCH_FORGET_IN.size + count * FORGET_ONE.size)) return short();
      const forgets = Array.from({ length: count }, (_, k) =>
        FORGET_ONE.read(body, BATCH_FORGET_IN.size + k * FORGET_ONE.size),
      );
      return ok({ ...head, op: 'forget', forgets });
    }
    case 'setattr':
      if (lacks(SETATTR_IN.size)) return short();
      return ok({ ...head, op, valid: SETATTR_IN.read(body, 0).valid });
    case 'open':
    case 'opendir':
      if (lacks(OPEN_IN.size)) return short();
      return ok({ ...head, op, flags: OPEN_IN.read(body, 0).flags });
    case 'read':
    case 'readdir': {
      if (lacks(READ_IN.size)) return short();
      const { fh, offset, size } = READ_IN.read(body, 0);
      return ok({ ...head, op, fh, offset, size });
    }
    case 'write': {
      if (lacks(WRITE_IN.size)) return short();
      const { fh, size } = WRITE_IN.read(body, 0);
      if (lacks(WRITE_IN.size + size)) return short();
      return ok({ ...head, op, fh, data: body.subarray(WRITE_IN.size, WRITE_IN.size + size) });
    }
    case 'release':
    case 'releasedir':
      if (lacks(RELEASE_IN.size)) return short();
      return ok({ ...head, op, fh: RELEASE_IN.read(body, 0).fh });
    case 'interrupt':
      if (lacks(INTERRUPT_IN.size)) return short();
      return ok({ ...head, op, target: INTERRUPT_IN.read(body, 0).unique });
    default:
      return ok({ ...head, op });
  }
}

const malformed = (unique: number | undefined, sentence: string): Result<never, Malformed> => err({ unique, sentence });

/** The text from `at` to its zero byte; undefined when there is none. */
function nameAt(body: Uint8Array, at: number): string | undefined {
  const end = body.indexOf(0, at);
  return at > body.length || end < 0 ? undefined : text.decode(body.subarray(at, end));
}

const text = new TextDecoder();
const utf8 = new TextEncoder();

// ---------------------------------------------------------------------------------------------------- replies

/** What stat shows. Owner and group are root. */
export type Attributes = {
  readonly ino: number;
  readonly size: number;
  /** Type and permission bits, as st_mode. */
  readonly mode: number;
  readonly nlink: number;
  /** Seconds: change, modification and access alike. */
  readonly timeS: number;
};

/** A reply with a body; an empty one means "done". */
export function reply(unique: number, body: Uint8Array = NOTHING): Uint8Array {
  const out = new Uint8Array(OUT_HEADER.size + body.length);
  OUT_HEADER.write(out, 0, { len: out.length, unique });
  out.set(body, OUT_HEADER.size);
  return out;
}

const NOTHING = new Uint8Array(0);

/** @param errno positive, as errno.h has it */
export function replyError(unique: number, errno: number): Uint8Array {
  const out = new Uint8Array(OUT_HEADER.size);
  OUT_HEADER.write(out, 0, { len: out.length, error: -errno, unique });
  return out;
}

/** @param maxWriteBytes largest write in one request; a multiple of 4096 */
export function initBody(kernelMinor: number, flags: number, maxWriteBytes: number): Uint8Array {
  const out = new Uint8Array(INIT_OUT.size);
  INIT_OUT.write(out, 0, {
    major: FUSE_VERSION.major,
    minor: Math.min(kernelMinor, FUSE_VERSION.minor),
    flags,
    maxBackground: 16,
    congestionThreshold: 12,
    maxWrite: maxWriteBytes,
    timeGran: 1,
    maxPages: maxWriteBytes / 4096,
  });
  return out;
}

function putAttributes(out: Uint8Array, at: number, a: Attributes): void {
  ATTR.write(out, at, {
    ino: a.ino,
    size: a.size,
    atime: a.timeS,
    mtime: a.timeS,
    ctime: a.timeS,
    mode: a.mode,
    nlink: a.nlink,
    blksize: 4096,
  });
}

/** Times of validity are 0: the kernel asks again each time, as attributes and directories change under it. */
export function entryBody(nodeid: number, a: Attributes): Uint8Array {
  const out = new Uint8Array(ENTRY_OUT.size + ATTR.size);
  ENTRY_OUT.write(out, 0, { nodeid });
  putAttributes(out, ENTRY_OUT.size, a);
  return out;
}

export function attrBody(a: Attributes): Uint8Array {
  const out = new Uint8Array(ATTR_OUT.size + ATTR.size);
  putAttributes(out, ATTR_OUT.size, a);
  return out;
}

export function openBody(fh: number, openFlags: number): Uint8Array {
  const out = new Uint8Array(OPEN_OUT.size);
  OPEN_OUT.write(out, 0, { fh, openFlags });
  return out;
}

export function writeBody(size: number): Uint8Array {
  const out = new Uint8Array(WRITE_OUT.size);
  WRITE_OUT.write(out, 0, { size });
  return out;
}

/** A file system without blocks, as sysfs and procfs are. */
export function statfsBody(): Uint8Array {
  const out = new Uint8Array(STATFS_OUT.size);
  STATFS_OUT.write(out, 0, { bsize: 4096, frsize: 4096, namelen: 255 });
  return out;
}

export type DirectoryEntry = { readonly name: string; readonly ino: number; readonly type: number };

/** Entries from index `offset` on, as many as fit into `sizeMax` bytes. An entry's `off` is the index of the next one. */
export function direntBody(entries: readonly DirectoryEntry[], offset: number, sizeMax: number): Uint8Array {
  const out = new Uint8Array(sizeMax);
  let at = 0;
  for (let k = offset; k < entries.length; k++) {
    const e = entries[k] as DirectoryEntry; // k is an index
    const name = utf8.encode(e.name);
    const length = (DIRENT.size + name.length + 7) & ~7;
    if (at + length > sizeMax) break;
    DIRENT.write(out, at, { ino: e.ino, off: k + 1, namelen: name.length, type: e.type });
    out.set(name, at + DIRENT.size);
    at += length;
  }
  return out.subarray(0, at);
}
