// FuseSession: answers the kernel's requests from a KernelFs. No effects: replies and turns go through the options.
//
//   request ──> handle ──┬── anything but a write ──────────────────────────────> reply at once
//                        └── WRITE ──> fs.beginWrite ──> first step ── over? ───> reply
//                                                          │ not over
//              turn ──> one step of each write under way <─┘  other requests are answered between two turns
//                        ├── a number: so many bytes      ──> reply
//                        ├── an errno                     ──> reply
//                        └── INTERRUPT, or the deadline   ──> cancel; the next step says EINTR, unless it was over;
//                                                             EINTR of a deadline is told as ETIMEDOUT
//
// So a reader sees `going-offline` while an offline runs; a second writer waits as on Linux: his own FsWrite says "not
// over" while another holds the lock that he needs. A write that goes on for longer than EAGER_MS (Linux tries for ever
// where a page is pinned) is stepped every PATIENT_MS only, the pause that the kernel itself makes between two tries for
// device_hotplug_lock, so that it does not burn a processor.
//
// What a reader gets is one picture: a file of less than SNAPSHOT_BYTES is made when a reader begins and handed out
// from there until he is at its end or seeks (the kernel's seq_file does the same), never half of `online` and half of
// `going-offline`. A larger file (kpageflags) is read where it is asked for.
//
// Modes, owners, symbolic links, EISDIR and ENOTDIR are checked by the kernel before it asks us (`default_permissions`).
// What it does not know is kernfs's own rule: a sysfs file without a write bit cannot be opened for writing, even by root.
//
// Invariants: every request but FORGET and INTERRUPT gets exactly one reply; a write under way is in #writes until then.
// Follows Linux fs/fuse/dev.c, fs/kernfs/file.c (kernfs_fop_open, kernfs_fop_write_iter), fs/seq_file.c.

import { assert, unreachable } from '#base/assert';
import { ERRNO, type ErrnoName } from '#base/errno';
import type { FsNode, FsWrite, KernelFs } from '#kernfs/kernel-fs';
import { type Inode, Inodes, inoOf } from './inodes.ts';
import * as wire from './protocol.ts';

/** Largest write in one request, and largest read; a multiple of the page size. */
export const MAX_WRITE_BYTES = 128 * 1024;
const SNAPSHOT_BYTES = 64 * 1024;
const EAGER_MS = 1000;
const PATIENT_MS = 5;
/** After a cancel a write has so many steps to undo itself; more is a bug of the tree. */
const UNDO_STEPS_MAX = 1_000_000;

/** Errnos of the protocol itself, besides those that a tree gives. */
const ENOSYS = 38;
const ESTALE = 116;
const EIO = ERRNO.EIO;

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const O_ACCMODE = 0o3;
const O_RDONLY = 0;
const O_WRONLY = 1;

export type SessionOptions = {
  readonly reply: (bytes: Uint8Array) => void;
  /** Runs `turn` once, `delayMs` from now; 0: after what is waiting already. */
  readonly schedule: (turn: () => void, delayMs: number) => void;
  /** A clock that only goes forward. */
  readonly nowMs: () => number;
  /** Seconds since 1970 for all files: when the tree was mounted. */
  readonly timeS: number;
  /** A write that takes longer is cancelled, as by a signal, and says ETIMEDOUT; undefined: never, as Linux. */
  readonly writeTimeoutMs?: number | undefined;
};

type OpenFile = {
  readonly path: string;
  /** The picture that a reader is in the middle of, and where he is in it. */
  snapshot: Uint8Array | undefined;
  position: number;
  large: boolean;
};
type OpenDirectory = { readonly entries: readonly wire.DirectoryEntry[] };
type Writing = {
  readonly unique: number;
  readonly work: FsWrite;
  readonly size: number;
  readonly path: string;
  readonly beganMs: number;
  cancelled: boolean;
  timedOut: boolean;
  undoSteps: number;
};

export class FuseSession {
  readonly #fs: KernelFs;
  readonly #options: SessionOptions;
  readonly #inodes = new Inodes();
  readonly #files = new Map<number, OpenFile>();
  readonly #directories = new Map<number, OpenDirectory>();
  #nextHandle = 1;
  #writes: Writing[] = [];
  #turnScheduled = false;

  constructor(fs: KernelFs, options: SessionOptions) {
    this.#fs = fs;
    this.#options = options;
  }

  /** What the kernel holds of us: numbers of files, open files and directories, and writes under way. */
  get held(): { inodes: number; files: number; directories: number; writes: number } {
    return {
      inodes: this.#inodes.size,
      files: this.#files.size,
      directories: this.#directories.size,
      writes: this.#writes.length,
    };
  }

  /** One request, as one read of the device gave it. The bytes may be reused afterwards. */
  handle(bytes: Uint8Array): void {
    const decoded = wire.decodeRequest(bytes);
    if (!decoded.ok) {
      if (decoded.error.unique !== undefined) this.#fail(decoded.error.unique, EIO);
      return;
    }
    this.#answer(decoded.value);
  }

  /** Interrupts every write and brings it to its end: before the tree is unmounted. */
  interruptAll(): void {
    for (const w of this.#writes) this.#cancel(w);
    while (this.#writes.length > 0) this.#stepAll();
  }

  #answer(r: wire.Request): void {
    switch (r.op) {
      case 'forget':
        for (const f of r.forgets) this.#inodes.forget(f.nodeid, f.nlookup);
        return;
      case 'interrupt': {
        // A write that is not here is over: its reply and this request have crossed.
        const w = this.#writes.find((x) => x.unique === r.target);
        if (w !== undefined) this.#cancel(w);
        return;
      }
      case 'init':
        return this.#init(r.unique, r.major, r.minor, r.flags);
      case 'unknown':
        return this.#fail(r.unique, ENOSYS);
      case 'destroy':
      case 'access':
      case 'flush':
      case 'fsync':
      case 'fsyncdir':
        return this.#say(r.unique);
      case 'statfs':
        return this.#say(r.unique, wire.statfsBody());
      case 'release':
        this.#files.delete(r.fh);
        return this.#say(r.unique);
      case 'releasedir':
        this.#directories.delete(r.fh);
        return this.#say(r.unique);
      case 'readdir': {
        const open = this.#directories.get(r.fh);
        if (open === undefined) return this.#fail(r.unique, ESTALE);
        return this.#say(r.unique, wire.direntBody(open.entries, r.offset, Math.min(r.size, MAX_WRITE_BYTES)));
      }
      case 'read':
        return this.#read(r.unique, r.fh, r.offset, r.size);
      case 'write':
        return this.#write(r.unique, r.fh, r.data);
      default:
        return this.#answerNode(r);
    }
  }

  /** Requests that name a file by its inode. */
  #answerNode(r: Extract<wire.Request, { op: NodeOp }>): void {
    const inode = this.#inodes.get(r.nodeid);
    if (inode === undefined) return this.#fail(r.unique, ESTALE);
    switch (r.op) {
      case 'lookup':
        return this.#lookup(r.unique, inode, r.name);
      case 'getattr':
      case 'setattr': {
        // Truncation and times are accepted and change nothing, as in kernfs; modes and owners are the kernel's own.
        if (r.op === 'setattr' && (r.valid & (wire.FATTR.MODE | wire.FATTR.UID | wire.FATTR.GID)) !== 0)
          return this.#fail(r.unique, ERRNO.EPERM);
        const node = this.#fs.stat(inode.path);
        if (node === undefined) return this.#fail(r.unique, ERRNO.ENOENT);
        return this.#say(r.unique, wire.attrBody(this.#attributes(inode.path, node)));
      }
      case 'readlink': {
        const node = this.#fs.stat(inode.path);
        if (node?.kind !== 'link') return this.#fail(r.unique, node === undefined ? ERRNO.ENOENT : ERRNO.EINVAL);
        return this.#say(r.unique, utf8.encode(node.target));
      }
      case 'open':
        return this.#open(r.unique, inode, r.flags);
      case 'opendir':
        return this.#openDirectory(r.unique, inode);
      // What a kernel's own tree says to those who want to add to it. procfs knows no name that is not there (its lookup
      // fails, ENOENT); sysfs has no ->create (open says EACCES) and neither has ->mkdir and the like (EPERM).
      case 'create':
        return this.#fail(r.unique, isProc(inode.path) ? ERRNO.ENOENT : ERRNO.EACCES);
      case 'mknod':
      case 'mkdir':
      case 'symlink':
      case 'link':
        return this.#fail(r.unique, isProc(inode.path) ? ERRNO.ENOENT : ERRNO.EPERM);
      case 'unlink':
      case 'rmdir':
      case 'rename':
        return this.#fail(r.unique, ERRNO.EPERM);
      default:
        return unreachable(r);
    }
  }

  #init(unique: number, major: number, minor: number, offered: number): void {
    // A kernel of another major version sends INIT again when it sees ours; one older than 7.31 is not supported.
    if (major < wire.FUSE_VERSION.major || (major === wire.FUSE_VERSION.major && minor < wire.FUSE_VERSION.minor))
      return this.#fail(unique, PROTO_TOO_OLD);
    const { BIG_WRITES, PARALLEL_DIROPS, MAX_PAGES } = wire.INIT_FLAG;
    const wanted = BIG_WRITES | PARALLEL_DIROPS | MAX_PAGES;
    this.#say(unique, wire.initBody(minor, offered & wanted, MAX_WRITE_BYTES));
  }

  #lookup(unique: number, parent: Inode, name: string): void {
    if (parent.kind !== 'dir') return this.#fail(unique, ERRNO.ENOTDIR);
    const path = join(parent.path, name);
    const node = this.#fs.stat(path);
    if (node === undefined) return this.#fail(unique, ERRNO.ENOENT);
    this.#say(unique, wire.entryBody(this.#inodes.tell(path, node), this.#attributes(path, node)));
  }

  #open(unique: number, inode: Inode, flags: number): void {
    if (inode.kind === 'dir') return this.#fail(unique, ERRNO.EISDIR);
    const node = this.#fs.stat(inode.path);
    if (node === undefined || node.kind !== 'file') return this.#fail(unique, ERRNO.ENOENT);
    const access = flags & O_ACCMODE;
    if (inode.path.startsWith('/sys/')) {
      const mayRead = (node.mode & 0o444) !== 0;
      const mayWrite = (node.mode & 0o222) !== 0;
      if ((access !== O_RDONLY && !mayWrite) || (access !== O_WRONLY && !mayRead))
        return this.#fail(unique, ERRNO.EACCES);
    }
    const fh = this.#nextHandle++;
    this.#files.set(fh, { path: inode.path, snapshot: undefined, position: 0, large: false });
    this.#say(unique, wire.openBody(fh, wire.FOPEN.DIRECT_IO | wire.FOPEN.PARALLEL_DIRECT_WRITES));
  }

  #openDirectory(unique: number, inode: Inode): void {
    if (inode.kind !== 'dir') return this.#fail(unique, ERRNO.ENOTDIR);
    const entries: wire.DirectoryEntry[] = [
      { name: '.', ino: inoOf(inode.path), type: wire.DT.DIR },
      { name: '..', ino: inoOf(parentOf(inode.path)), type: wire.DT.DIR },
    ];
    for (const name of this.#fs.list(inode.path)) {
      const path = join(inode.path, name);
      const node = this.#fs.stat(path);
      if (node !== undefined) entries.push({ name, ino: inoOf(path), type: TYPE_OF[node.kind] });
    }
    const fh = this.#nextHandle++;
    this.#directories.set(fh, { entries });
    this.#say(unique, wire.openBody(fh, 0));
  }

  #read(unique: number, fh: number, offset: number, size: number): void {
    const file = this.#files.get(fh);
    if (file === undefined) return this.#fail(unique, ESTALE);
    const got = this.#readFile(file, offset, Math.min(size, MAX_WRITE_BYTES));
    if (typeof got === 'string') return this.#fail(unique, errnoOf(file.path, got));
    this.#say(unique, got);
  }

  #readFile(file: OpenFile, offset: number, size: number): Uint8Array | ErrnoName {
    if (file.snapshot === undefined || offset === 0 || offset !== file.position) {
      file.snapshot = undefined;
      if (!file.large) {
        const all = this.#fs.read(file.path, 0, SNAPSHOT_BYTES);
        if (typeof all === 'string') return all;
        if (all.length < SNAPSHOT_BYTES) file.snapshot = all.slice();
        else file.large = true;
      }
    }
    if (file.snapshot === undefined) {
      const part = this.#fs.read(file.path, offset, size);
      assert(typeof part === 'string' || part.length <= size, 'a tree gave more than was asked for', { size });
      return part;
    }
    const part = file.snapshot.subarray(offset, offset + size);
    file.position = offset + part.length;
    return part;
  }

  #write(unique: number, fh: number, data: Uint8Array): void {
    const file = this.#files.get(fh);
    if (file === undefined) return this.#fail(unique, ESTALE);
    const work = this.#fs.beginWrite(file.path, data.slice()); // the buffer is the next request's
    const writing: Writing = {
      unique,
      work,
      size: data.length,
      path: file.path,
      beganMs: this.#options.nowMs(),
      cancelled: false,
      timedOut: false,
      undoSteps: 0,
    };
    if (this.#stepOne(writing)) return;
    this.#writes.push(writing);
    this.#scheduleTurn();
  }

  /** @returns true when it is over, and answered */
  #stepOne(w: Writing): boolean {
    const outcome = w.work.step();
    if (outcome === undefined) {
      if (w.cancelled) w.undoSteps++;
      assert(w.undoSteps <= UNDO_STEPS_MAX, 'a cancelled write does not end', { path: w.path });
      return false;
    }
    // Programs that write in a loop (chmem, dd) try again after EINTR; after a deadline that would be for ever.
    if (outcome === 'EINTR' && w.timedOut) this.#fail(w.unique, ERRNO.ETIMEDOUT);
    else if (typeof outcome === 'string') this.#fail(w.unique, errnoOf(w.path, outcome));
    else {
      assert(outcome >= 0 && outcome <= w.size, 'a write took more than it was given', { outcome, size: w.size });
      this.#say(w.unique, wire.writeBody(outcome));
    }
    return true;
  }

  #stepAll(): void {
    this.#writes = this.#writes.filter((w) => !this.#stepOne(w));
  }

  #turn(): void {
    this.#turnScheduled = false;
    const timeoutMs = this.#options.writeTimeoutMs;
    const nowMs = this.#options.nowMs();
    if (timeoutMs !== undefined)
      for (const w of this.#writes)
        if (!w.cancelled && nowMs - w.beganMs >= timeoutMs) {
          w.timedOut = true;
          this.#cancel(w);
        }
    this.#stepAll();
    if (this.#writes.length > 0) this.#scheduleTurn();
  }

  #scheduleTurn(): void {
    if (this.#turnScheduled) return;
    this.#turnScheduled = true;
    const nowMs = this.#options.nowMs();
    const eager = this.#writes.some((w) => w.cancelled || nowMs - w.beganMs < EAGER_MS);
    this.#options.schedule(() => this.#turn(), eager ? 0 : PATIENT_MS);
  }

  #cancel(w: Writing): void {
    if (w.cancelled) return;
    w.cancelled = true;
    w.work.cancel();
  }

  #attributes(path: string, node: FsNode): wire.Attributes {
    const base = { ino: inoOf(path), nlink: 1, timeS: this.#options.timeS };
    switch (node.kind) {
      case 'dir':
        return { ...base, size: 0, mode: S_IFDIR | (node.mode & 0o7777) };
      case 'link':
        return { ...base, size: 0, mode: S_IFLNK | 0o777 };
      case 'file':
        return { ...base, size: node.size, mode: S_IFREG | (node.mode & 0o7777) };
      default:
        return unreachable(node);
    }
  }

  #say(unique: number, body?: Uint8Array): void {
    this.#options.reply(wire.reply(unique, body));
  }

  #fail(unique: number, errno: number): void {
    this.#options.reply(wire.replyError(unique, errno));
  }
}

type NodeOp =
  | 'lookup'
  | 'getattr'
  | 'setattr'
  | 'readlink'
  | 'open'
  | 'opendir'
  | 'create'
  | 'mknod'
  | 'mkdir'
  | 'symlink'
  | 'link'
  | 'unlink'
  | 'rmdir'
  | 'rename';

/** EPROTO: what libfuse answers, too. */
const PROTO_TOO_OLD = 71;
const TYPE_OF = Object.freeze({ file: wire.DT.REG, dir: wire.DT.DIR, link: wire.DT.LNK });
const utf8 = new TextEncoder();

const join = (directory: string, name: string): string => (directory === '/' ? `/${name}` : `${directory}/${name}`);
const parentOf = (path: string): string => path.slice(0, path.lastIndexOf('/')) || '/';
const isProc = (path: string): boolean => path === '/proc' || path.startsWith('/proc/');

/** An open file of sysfs whose device has gone answers ENODEV (kernfs_get_active), where the path alone says ENOENT. */
const errnoOf = (path: string, errno: ErrnoName): number =>
  errno === 'ENOENT' && path.startsWith('/sys/') ? ERRNO.ENODEV : ERRNO[errno];
