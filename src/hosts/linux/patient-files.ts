// The files of a live root for a capture that others wait beside: keys of `top`, a deadline, Ctrl-C.
//
//   text files    read at once, as in root.ts; after each PAUSE_AFTER of them everybody else gets a turn
//   page files    read in pieces by Node's threads: the kernel makes them up as they are read, a second for each 20 GiB
//
// Between any two requests the deadline and the signal are looked at; then Stopped is thrown, for patientCapture to catch: a walk
// that is given up leaves nothing behind. The same files give the same capture as readCapture's.

import * as fs from 'node:fs';
import * as fsp from 'node:fs/promises';
import * as os from 'node:os';
import { err, ok, type Result } from '#base/result';
import type { Capture } from '#capture/capture';
import { type AsyncMachineFiles, gatherAsync, type ReadFailure } from '#capture/gather';
import type { Clock, HostFailure, Limits } from '#control/host';
import { codeOf } from './gzip.ts';
import { failureOf, fsTree, machineFiles } from './root.ts';

const PIECE_BYTES = 2 ** 20;
const PAUSE_AFTER = 64;

class Stopped extends Error {
  readonly why: 'timeout' | 'cancelled';

  constructor(why: 'timeout' | 'cancelled') {
    super(why);
    this.why = why;
  }
}

/** A capture of the machine at `root`, "/" or where a kernel's tree is mounted. Never rejects for weather. */
export async function patientCapture(
  root: string,
  clock: Clock,
  limits: Limits,
): Promise<Result<Capture, HostFailure>> {
  const name = root === '/' ? 'this machine' : root;
  const endMs = clock.nowMs() + limits.deadlineMs;
  const look = (): void => {
    if (limits.signal?.aborted === true) throw new Stopped('cancelled');
    if (clock.nowMs() >= endMs) throw new Stopped('timeout');
  };
  try {
    const kind = root === '/' ? 'live' : 'directory';
    const capture = await gatherAsync(patientFiles(root, look), { kind, name, takenAt: clock.stamp() });
    if (capture !== undefined) return ok(capture);
    return err({ kind: 'unsupported', sentence: `${name} shows no Linux /proc and /sys` });
  } catch (e) {
    if (!(e instanceof Stopped)) throw e;
    const how = e.why === 'timeout' ? `was not over after ${limits.deadlineMs} ms` : 'was cancelled';
    return err({ kind: e.why, sentence: `capturing ${name} ${how}; nothing was changed` });
  }
}

function patientFiles(root: string, look: () => void): AsyncMachineFiles {
  const files = machineFiles(root);
  const tree = fsTree(root);
  let asked = 0;
  const turn = async (): Promise<void> => {
    look();
    if (++asked % PAUSE_AFTER === 0) await new Promise((resolve) => setImmediate(resolve));
  };
  return {
    read: async (file) => {
      await turn();
      return files.read(file);
    },
    list: async (directory) => {
      await turn();
      return files.list(directory);
    },
    readWords: async (file, push) => {
      await turn();
      const raw = tree.locate(file);
      // Packed page files are those of a copy, which nobody waits beside; words of another byte order are refused there.
      if (raw === undefined || os.endianness() !== 'LE') return files.readWords(file, push);
      return readPieces(raw, push, look);
    },
    cgroups: async () => {
      await turn();
      return files.cgroups();
    },
    soon: async () => {},
    nowMs: () => files.nowMs(),
  };
}

/** As root.ts reads them; the difference is who waits. */
async function readPieces(
  file: string,
  push: (pairs: Uint32Array, words: number) => void,
  look: () => void,
): Promise<ReadFailure | undefined> {
  let handle: fsp.FileHandle;
  try {
    handle = await fsp.open(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK | fs.constants.O_NOCTTY);
  } catch (e) {
    return failureOf(e);
  }
  const pairs = new Uint32Array(PIECE_BYTES / 4);
  const bytes = new Uint8Array(pairs.buffer);
  let held = 0; // bytes of a word cut in two; the kernel never does that
  let total = 0;
  try {
    if (!(await handle.stat()).isFile()) return { kind: 'absent', detail: 'not a regular file' };
    for (;;) {
      look();
      let got: number;
      try {
        got = (await handle.read(bytes, held, bytes.length - held, null)).bytesRead;
      } catch (e) {
        return total === 0 ? failureOf(e) : { kind: 'truncated', detail: `${codeOf(e)} after ${total} bytes` };
      }
      if (got === 0) return held === 0 ? undefined : { kind: 'truncated', detail: 'it ends in the middle of a word' };
      total += got;
      const words = Math.floor((held + got) / 8);
      push(pairs, words);
      const left = held + got - words * 8;
      if (left > 0) bytes.copyWithin(0, words * 8, words * 8 + left);
      held = left;
    }
  } finally {
    await handle.close();
  }
}
