// readCapture: one capture from whatever the user names.
//
//   "/"                       this machine, live
//   a directory with proc/    a --sysroot: another root, or an unpacked bundle (then capture.json tells when and where)
//   a lab snapshot folder     flat files of a test machine (kernfs/lab-snapshot.ts), page files as NAME.gz
//   a file                    a bundle
//
// Read-only, all of it: nothing is opened for writing. Weather becomes a refusal with one sentence, or a problem of the
// capture; only bugs throw.

import * as fs from 'node:fs';
import * as path from 'node:path';
import { err, ok, type Result } from '#base/result';
import { BUNDLE_HEADER_BYTES, type BundleRefusal, decodeBundle, looksLikeBundle } from '#capture/bundle';
import { parseAbout } from '#capture/bundle-table';
import type { Capture } from '#capture/capture';
import { filesOfTree, gather, type MachineFiles } from '#capture/gather';
import { isLabSnapshot, labTree } from '#kernfs/lab-snapshot';
import { gunzip } from './gzip.ts';
import { failureOf, fsTree, machineFiles, readGzipWords, readWholeFile } from './root.ts';

/** A bundle is held in memory; one of this size would be of a machine with a thousand TiB. */
const BUNDLE_BYTES_MAX = 1024 ** 3;

/** The file at the top of an unpacked bundle: what is known of the capture as a whole. */
export const ABOUT_FILE = 'capture.json';

export type CaptureRefusal = {
  readonly reason: BundleRefusal['reason'] | 'absent' | 'denied' | 'unreadable' | 'no-machine';
  /** One sentence for people; the CLI prints it and exits with 2. */
  readonly sentence: string;
};

/** Cost: live, one pass over the page files (8 bytes a frame); a bundle, its size. */
export function readCapture(source: string, options: { now: () => Date }): Result<Capture, CaptureRefusal> {
  let stat: fs.Stats;
  try {
    stat = fs.statSync(source);
  } catch (e) {
    const { kind, detail } = failureOf(e);
    if (kind === 'absent') return refuse('absent', `${source} does not exist.`);
    return refuse(kind === 'denied' ? 'denied' : 'unreadable', `${source} cannot be read: ${detail}.`);
  }
  if (stat.isDirectory()) {
    if (path.resolve(source) === '/') return readLive(options.now);
    const flat = fsTree(source);
    return isLabSnapshot(flat) ? readLab(source) : readDirectory(source);
  }
  if (!stat.isFile()) return refuse('unreadable', `${source} is neither a directory nor a file.`);
  return readBundle(source);
}

function readLive(now: () => Date): Result<Capture, CaptureRefusal> {
  const takenAt = now().toISOString();
  const capture = gather(machineFiles('/'), { kind: 'live', name: 'this machine', takenAt });
  return capture === undefined
    ? refuse('no-machine', 'This machine shows no Linux /proc and /sys: name a bundle or a directory instead.')
    : ok(capture);
}

function readDirectory(source: string): Result<Capture, CaptureRefusal> {
  const capture = gather(machineFiles(source), { kind: 'directory', name: source });
  if (capture === undefined)
    return refuse('no-machine', `${source} holds neither proc/zoneinfo nor sys/devices/system/memory.`);
  const about = readAbout(source);
  if (about === undefined) return ok(capture);
  // An unpacked bundle cannot know better than its capture did: what was lost then is lost now, with the first reason.
  const known = new Set(about.problems.map((problem) => problem.file));
  return ok({
    ...capture,
    origin: about.takenAt === undefined ? capture.origin : { ...capture.origin, takenAt: about.takenAt },
    cgroups: new Map(about.cgroups),
    problems: [...about.problems, ...capture.problems.filter((problem) => !known.has(problem.file))],
    ...(about.pools === undefined ? {} : { pools: about.pools }),
  });
}

function readAbout(directory: string): ReturnType<typeof parseAbout> {
  const text = fsTree(directory).readText(`/${ABOUT_FILE}`);
  if (text === undefined) return undefined;
  try {
    return parseAbout(JSON.parse(text));
  } catch {
    return undefined; // some other program's capture.json
  }
}

function readLab(source: string): Result<Capture, CaptureRefusal> {
  const flat = fsTree(source);
  const files: MachineFiles = {
    ...filesOfTree(labTree(flat)),
    readWords: (file, push) => {
      const packed = flat.locate(`/${path.basename(file)}.gz`);
      return packed === undefined ? { kind: 'absent', detail: 'no such file' } : readGzipWords(packed, push);
    },
  };
  const capture = gather(files, { kind: 'lab', name: source });
  return capture === undefined ? refuse('no-machine', `${source} is not a whole lab snapshot.`) : ok(capture);
}

function readBundle(source: string): Result<Capture, CaptureRefusal> {
  const name = path.basename(source);
  const head = readHead(source);
  if (head !== undefined && head.length >= BUNDLE_HEADER_BYTES && !looksLikeBundle(head))
    return decodeBundle(head, { gunzip, name }); // foreign: a sentence without reading all of a large file
  const bytes = readWholeFile(source, BUNDLE_BYTES_MAX);
  if ('kind' in bytes)
    return refuse(bytes.kind === 'denied' ? 'denied' : 'unreadable', `${name} cannot be read: ${bytes.detail}.`);
  return decodeBundle(bytes, { gunzip, name });
}

/** The first bytes of a file, or undefined when it cannot be read. */
export function readHead(file: string): Uint8Array | undefined {
  try {
    const fd = fs.openSync(file, 'r');
    try {
      const head = Buffer.alloc(BUNDLE_HEADER_BYTES);
      return head.subarray(0, fs.readSync(fd, head, 0, head.length, 0));
    } finally {
      fs.closeSync(fd);
    }
  } catch {
    return undefined;
  }
}

const refuse = (reason: CaptureRefusal['reason'], sentence: string): Result<never, CaptureRefusal> =>
  err({ reason, sentence });
