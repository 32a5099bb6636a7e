// A file system as the place where kernel files are: the live machine ("/") or a directory that looks like one.
//
// Text is read with one large buffer: the kernel makes a seq_file's text as it is read, and the fewer calls, the less it
// is torn. Only regular files are opened (a fifo or a device in somebody's directory would hang the reader) and, below
// a directory, only what really lies in it: a link out of it reads as absent. Nothing is ever opened for writing.
//
// Page words: a live file is read in chunks of 1 MiB, a multiple of the eight bytes that the kernel insists on; in a
// directory also as NAME.gz, see gzip.ts.

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { performance } from 'node:perf_hooks';
import type { MachineFiles, ReadFailure, TextRead } from '#capture/gather';
import type { KernTree } from '#kernfs/source';
import { memoryCgroups } from './cgroups.ts';
import { codeOf, forEachGzipMember } from './gzip.ts';

/** No text file of the kernel that a capture wants comes near; slabinfo and node lists are tens of kilobytes. */
const TEXT_BYTES_MAX = 16 * 1024 ** 2;
const WORD_CHUNK_BYTES = 1024 ** 2;
/** A compressed page file is held as a whole while it is unpacked. */
const GZIP_BYTES_MAX = 1024 ** 3;

export interface FsTree extends KernTree {
  readonly root: string;
  /** Where a kernel path is in this file system; undefined when it is absent or leads out of the directory. */
  locate(file: string): string | undefined;
  /** readText with the reason for a failure. */
  read(file: string): TextRead;
}

/** The kernel files under a directory, "/" for this machine. Cost of a read: one open, one or two reads. */
export function fsTree(root: string): FsTree {
  const base = path.resolve(root);
  const real = base === '/' ? '/' : realPathOf(base);
  const locate = (file: string): string | undefined => {
    if (base === '/') return file;
    const target = realPathOf(path.join(base, file));
    return target !== undefined && real !== undefined && isWithin(target, real) ? target : undefined;
  };
  const read = (file: string): TextRead => {
    const target = locate(file);
    return target === undefined ? ABSENT : readTextFile(target);
  };
  return {
    root: base,
    locate,
    read,
    readText: (file) => {
      const got = read(file);
      return got.kind === 'text' ? got.text : undefined;
    },
    list: (directory) => {
      const target = locate(directory);
      if (target === undefined) return [];
      try {
        return fs.readdirSync(target).sort();
      } catch {
        return [];
      }
    },
  };
}

/** The port that a capture reads through, on a live machine or a directory with its layout. */
export function machineFiles(root: string): MachineFiles {
  const tree = fsTree(root);
  return {
    read: tree.read,
    list: tree.list,
    readWords: (file, push) => {
      const raw = tree.locate(file);
      if (raw !== undefined) return readRawWords(raw, push);
      const packed = tree.locate(`${file}.gz`);
      return packed === undefined ? ABSENT : readGzipWords(packed, push);
    },
    // Inodes name cgroups on the machine itself only; a copy of the directory has other inodes.
    cgroups: () => (tree.root === '/' ? memoryCgroups('/sys/fs/cgroup') : { paths: new Map(), more: false }),
    // When a copy is read says nothing about the machine it was made of.
    nowMs: () => (tree.root === '/' ? performance.now() : 0),
  };
}

const ABSENT: ReadFailure = { kind: 'absent', detail: 'no such file' };

/** True when `file` is `directory` or below it; both absolute. */
export const isWithin = (file: string, directory: string): boolean =>
  directory === '/' || file === directory || file.startsWith(`${directory}/`);

function realPathOf(file: string): string | undefined {
  try {
    return fs.realpathSync.native(file);
  } catch {
    return undefined;
  }
}

/** A regular file as text. The buffer is shared by all reads: a capture reads thousands of files of a few bytes. */
function readTextFile(file: string): TextRead {
  return withFile(file, (fd): TextRead => {
    let length = 0;
    for (;;) {
      if (length === textBuffer.length) {
        if (length >= TEXT_BYTES_MAX) return { kind: 'corrupt', detail: 'it is larger than any such file of a kernel' };
        textBuffer = Buffer.concat([textBuffer], length * 4);
      }
      const got = fs.readSync(fd, textBuffer, length, textBuffer.length - length, null);
      if (got === 0) return { kind: 'text', text: textBuffer.toString('utf8', 0, length) };
      length += got;
    }
  });
}

let textBuffer = Buffer.alloc(256 * 1024);

/** Words of a live kernel file, or of a plain copy of one. */
function readRawWords(file: string, push: (pairs: Uint32Array, words: number) => void): ReadFailure | undefined {
  if (os.endianness() !== 'LE')
    return { kind: 'corrupt', detail: 'words of a big-endian machine are not understood yet' };
  const pairs = new Uint32Array(WORD_CHUNK_BYTES / 4);
  const bytes = new Uint8Array(pairs.buffer);
  const outcome = withFile(file, (fd): ReadFailure | 'done' => {
    let held = 0; // bytes of a word cut in two; the kernel never does that, a pipe-like file system might
    let total = 0;
    for (;;) {
      let got: number;
      try {
        got = fs.readSync(fd, bytes, held, bytes.length - held, null);
      } catch (e) {
        return total === 0 ? failureOf(e) : { kind: 'truncated', detail: `${codeOf(e)} after ${total} bytes` };
      }
      if (got === 0) return held === 0 ? 'done' : { kind: 'truncated', detail: 'it ends in the middle of a word' };
      total += got;
      const words = Math.floor((held + got) / 8);
      push(pairs, words);
      held = held + got - words * 8;
      if (held > 0) bytes.copyWithin(0, words * 8, words * 8 + held);
    }
  });
  return outcome === 'done' ? undefined : outcome;
}

/** Words of NAME.gz: little-endian, whatever the machine. */
export function readGzipWords(
  file: string,
  push: (pairs: Uint32Array, words: number) => void,
): ReadFailure | undefined {
  const packed = readWholeFile(file, GZIP_BYTES_MAX);
  if ('kind' in packed) return packed;
  const pairs = new Uint32Array(WORD_CHUNK_BYTES / 4);
  const chunk = new Uint8Array(pairs.buffer);
  let held = 0;
  let total = 0;
  const fault = forEachGzipMember(packed, (raw) => {
    for (let at = 0; at < raw.length; ) {
      const take = Math.min(chunk.length - held, raw.length - at);
      chunk.set(raw.subarray(at, at + take), held);
      at += take;
      total += take;
      const words = Math.floor((held + take) / 8);
      push(pairs, words);
      const left = held + take - words * 8;
      if (left > 0) chunk.copyWithin(0, words * 8, words * 8 + left);
      held = left;
    }
  });
  if (fault !== undefined) return { kind: 'corrupt', detail: `${fault} (${total} bytes of words were sound)` };
  return held === 0 ? undefined : { kind: 'truncated', detail: 'it ends in the middle of a word' };
}

/** All bytes of a regular file of at most `bytesMax`. */
export function readWholeFile(file: string, bytesMax: number): Uint8Array | ReadFailure {
  return withFile(file, (fd): Uint8Array | ReadFailure => {
    const { size } = fs.fstatSync(fd);
    if (size > bytesMax) return { kind: 'corrupt', detail: `it has ${size} bytes, more than ${bytesMax}` };
    const bytes = Buffer.allocUnsafe(size);
    let length = 0;
    while (length < size) {
      const got = fs.readSync(fd, bytes, length, size - length, null);
      if (got === 0) break; // it shrank since
      length += got;
    }
    return bytes.subarray(0, length);
  });
}

/** Opens a regular file for reading, and closes it whatever happens. */
function withFile<T>(file: string, use: (fd: number) => T): T | ReadFailure {
  let fd: number;
  try {
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK | fs.constants.O_NOCTTY);
  } catch (e) {
    return failureOf(e);
  }
  try {
    return fs.fstatSync(fd).isFile() ? use(fd) : { kind: 'absent', detail: 'not a regular file' };
  } catch (e) {
    return failureOf(e);
  } finally {
    fs.closeSync(fd);
  }
}

/** Weather into words: what a system error means for a capture. */
export function failureOf(e: unknown): ReadFailure {
  const code = codeOf(e);
  if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENODEV' || code === 'EOPNOTSUPP')
    return { kind: 'absent', detail: 'no such file' };
  if (code === 'EACCES' || code === 'EPERM') return { kind: 'denied', detail: `reading it is refused (${code})` };
  return { kind: 'corrupt', detail: `reading it failed (${code === '' ? String(e) : code})` };
}
