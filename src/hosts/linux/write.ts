// Writing: the only two things that dimmer puts on a disk from a capture, a bundle and its unpacked directory.
//
// Both appear whole or not at all: written next to the target under a temporary name, then renamed; a bundle is flushed
// to the disk first, a directory can be unpacked again. On any
// failure the temporary is removed and the target is as it was. Refused before anything is written: a target under /proc,
// /sys or /dev, a bundle over a file that is not one, a directory that holds anything.
//
//   DIR/capture.json                         when, which kernel, problems, cgroup names, pools
//   DIR/proc/zoneinfo ...                    text files where the machine has them: lsmem --sysroot DIR reads this
//   DIR/proc/kpageflags.gz ...               page words, little-endian u64 by frame, gzip with a member per 8 MiB
//   DIR/sys/devices/system/memory/memory3/node0 -> ../../node/node0
//
// A capture tells things that only root may read: files are made for their owner only (mode 600, directories 700).

import * as fs from 'node:fs';
import * as path from 'node:path';
import { err, ok, type Result } from '#base/result';
import { encodeBundle, looksLikeBundle } from '#capture/bundle';
import type { CaptureAbout } from '#capture/bundle-table';
import type { Capture } from '#capture/capture';
import { recordedTreeOf } from '#capture/gather';
import { PAGES } from '#capture/manifest';
import { forEachRun, type PageRuns } from '#capture/page-runs';
import { codeOf, gzip } from './gzip.ts';
import { ABOUT_FILE, readHead } from './read-capture.ts';
import { isWithin } from './root.ts';

export type WriteRefusal = {
  readonly reason: 'forbidden-place' | 'not-a-bundle' | 'not-a-file' | 'not-empty' | 'no-such-directory' | 'failed';
  /** One sentence for people; it says that nothing was written. */
  readonly sentence: string;
};

const FORBIDDEN = ['/proc', '/sys', '/dev'];
const MEMBER_FRAMES = 1024 ** 2;

/** Writes a capture as a bundle. An older bundle of that name is replaced, anything else is refused. */
export function writeBundle(
  capture: Capture,
  options: { file: string; toolVersion: string },
): Result<{ file: string; bytes: number }, WriteRefusal> {
  const place = placeOf(options.file);
  if (!place.ok) return place;
  const target = place.value;
  const known = fs.lstatSync(target, { throwIfNoEntry: false });
  if (known !== undefined) {
    if (!known.isFile()) return refuse('not-a-file', `${options.file} is not a regular file`);
    // An empty file holds nothing to lose: mktemp(1) makes one to be written over.
    const head = known.size === 0 ? undefined : readHead(target);
    if (known.size > 0 && (head === undefined || !looksLikeBundle(head)))
      return refuse('not-a-bundle', `${options.file} exists and is not a dimmer bundle`);
  }
  const bytes = encodeBundle(capture, { gzip, toolVersion: options.toolVersion });
  const temporary = temporaryFor(target);
  try {
    writeFile(temporary, [bytes], { flush: true });
    fs.renameSync(temporary, target);
    flushDirectory(path.dirname(target));
  } catch (e) {
    discard(temporary);
    return failed(options.file, e);
  }
  return ok({ file: target, bytes: bytes.length });
}

/** Unpacks a capture into a directory that does not exist yet, or is empty. */
export function unpackCapture(
  capture: Capture,
  options: { directory: string },
): Result<{ directory: string; files: number }, WriteRefusal> {
  const place = placeOf(options.directory);
  if (!place.ok) return place;
  const target = place.value;
  const known = fs.lstatSync(target, { throwIfNoEntry: false });
  if (known !== undefined) {
    if (!known.isDirectory()) return refuse('not-a-file', `${options.directory} exists and is not a directory`);
    if (!isEmptyDirectory(target))
      return refuse('not-empty', `${options.directory} is not an empty directory: name a new one`);
  }
  const temporary = temporaryFor(target);
  try {
    fs.mkdirSync(temporary, { mode: 0o700 });
    const files = writeTree(capture, temporary);
    fs.renameSync(temporary, target); // replaces an empty directory, and fails on one that has filled meanwhile
    return ok({ directory: target, files });
  } catch (e) {
    discard(temporary);
    return failed(options.directory, e);
  }
}

/** A directory that cannot be listed may hold something. */
function isEmptyDirectory(directory: string): boolean {
  try {
    return fs.readdirSync(directory).length === 0;
  } catch {
    return false;
  }
}

function writeTree(capture: Capture, directory: string): number {
  const tree = recordedTreeOf(capture);
  let files = 0;
  const prepare = (file: string): string => {
    const target = path.join(directory, file);
    fs.mkdirSync(path.dirname(target), { recursive: true, mode: 0o700 });
    files++;
    return target;
  };
  // Links last: until then no path can lead through one. Their targets follow from their names, never from the bundle.
  for (const file of tree.files)
    if (file.kind === 'text') writeFile(prepare(file.path), [Buffer.from(file.text)], { flush: false });
  for (const file of tree.files) {
    if (file.kind !== 'link') continue;
    const to = linkTarget(file.path);
    if (to === undefined) fs.mkdirSync(prepare(file.path), { recursive: true, mode: 0o700 });
    else fs.symlinkSync(to, prepare(file.path));
  }
  for (const { path: file, field } of PAGES) {
    const runs = capture[field];
    if (runs !== undefined) writeFile(prepare(`${file}.gz`), packedWords(runs), { flush: false });
  }
  const about: CaptureAbout = {
    ...(capture.origin.takenAt === undefined ? {} : { takenAt: capture.origin.takenAt }),
    problems: capture.problems,
    cgroups: [...capture.cgroups].sort(([a], [b]) => a - b),
    ...(capture.pools === undefined ? {} : { pools: capture.pools }),
  };
  writeFile(prepare(`/${ABOUT_FILE}`), [Buffer.from(JSON.stringify(about, undefined, 1) + '\n')], { flush: false });
  return files;
}

/** The two kinds of links that sysfs has between blocks and nodes, relative as there; undefined for any other name. */
function linkTarget(file: string): string | undefined {
  const ofBlock = /^\/sys\/devices\/system\/memory\/memory\d+\/(node\d+)$/.exec(file);
  if (ofBlock !== null) return `../../node/${ofBlock[1]}`;
  const ofNode = /^\/sys\/devices\/system\/node\/node\d+\/(memory\d+)$/.exec(file);
  return ofNode === null ? undefined : `../../memory/${ofNode[1]}`;
}

/** Page words as gzip members of 8 MiB each, one at a time. */
function* packedWords(runs: PageRuns): Generator<Uint8Array> {
  const words = new DataView(new ArrayBuffer(MEMBER_FRAMES * 8));
  for (let base = 0; base < runs.endPfn; base += MEMBER_FRAMES) {
    forEachRun(runs, base, base + MEMBER_FRAMES, (start, end, word) => {
      for (let at = (start - base) * 8; at < (end - base) * 8; at += 8) {
        words.setUint32(at, runs.lo[word], true);
        words.setUint32(at + 4, runs.hi[word], true);
      }
    });
    const frames = Math.min(MEMBER_FRAMES, runs.endPfn - base);
    yield gzip(new Uint8Array(words.buffer, 0, frames * 8));
  }
}

/** A new file; `flush` waits until it is on the disk. Throws what the system says. */
function writeFile(file: string, parts: Iterable<Uint8Array>, options: { flush: boolean }): void {
  const fd = fs.openSync(file, 'wx', 0o600);
  try {
    for (const part of parts) for (let at = 0; at < part.length; ) at += fs.writeSync(fd, part, at);
    if (options.flush) fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** Makes a rename survive a power cut, where the file system can. The file is there by now: no failure undoes that. */
function flushDirectory(directory: string): void {
  try {
    const fd = fs.openSync(directory, 'r');
    try {
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
  } catch {
    // Not every file system can flush a directory, and not everyone may open it.
  }
}

/** The absolute path that a name means, with all links above it followed: a refusal where nothing may be written. */
function placeOf(name: string): Result<string, WriteRefusal> {
  let target = path.resolve(name);
  try {
    if (fs.lstatSync(target, { throwIfNoEntry: false })?.isSymbolicLink()) target = fs.realpathSync(target);
    target = path.join(fs.realpathSync(path.dirname(target)), path.basename(target));
  } catch (e) {
    const code = codeOf(e);
    if (code === 'ENOENT' || code === 'ENOTDIR')
      return refuse('no-such-directory', `${path.dirname(target)} does not exist`);
    return failed(name, e);
  }
  if (target === '/' || FORBIDDEN.some((place) => isWithin(target, place)))
    return refuse('forbidden-place', `${name} is ${target === '/' ? 'the root' : 'a place of the kernel'}`);
  return ok(target);
}

/** Takes back what was begun. It may not exist at all; the failure that led here is the one worth telling. */
function discard(temporary: string): void {
  try {
    fs.rmSync(temporary, { recursive: true, force: true });
  } catch {
    // Not even its name is possible, or the place is gone: then there is nothing to take back.
  }
}

let temporaries = 0;

const temporaryFor = (target: string): string =>
  path.join(path.dirname(target), `.${path.basename(target)}.${process.pid}-${temporaries++}.tmp`);

function failed(name: string, e: unknown): Result<never, WriteRefusal> {
  const code = codeOf(e);
  if (code === '') throw e; // not the system's: a bug
  const why =
    code === 'ENOSPC' ? 'the disk is full' : code === 'EACCES' || code === 'EPERM' ? 'that is not allowed' : code;
  return refuse('failed', `${name} cannot be written (${why})`);
}

const refuse = (reason: WriteRefusal['reason'], what: string): Result<never, WriteRefusal> =>
  err({ reason, sentence: `${what}; nothing was written.` });
