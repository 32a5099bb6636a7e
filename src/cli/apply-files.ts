// The files of dimmer apply: its journal, the lock that keeps a second one away, and on request a recording.
//
//   journal   a new one is made with its first line, so that what ends before leaves no file; a resumed one is gone on with
//   lock      DIR/dimmer-HASH.lock, HASH of the machine's name; DIR: $DIMMER_LOCK_DIR, else /run for root, else the user's
//             $XDG_RUNTIME_DIR, else a directory of the user's own in the system's temporary one
//   recording a new file, never over an old one

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { err, ok, type Result } from '#base/result';
import type { HostFailure } from '#control/host';
import type { JournalSink } from '#control/journal';
import type { Lock } from '#control/lock';
import { createJournal, type JournalFile, openJournal } from '#hosts/linux/journal-file';
import { lockFile } from '#hosts/linux/lock-file';
import { hashLines } from '#plan/index';
import { type Complaint, EXIT } from './exit-code.ts';
import type { Io } from './io.ts';

export type OpenedJournal = {
  readonly sink: JournalSink;
  /** Of a resumed one: its whole lines. */
  readonly text: string;
  readonly close: () => Promise<void>;
};

export async function openApplyJournal(file: string, resumed: boolean): Promise<Result<OpenedJournal, Complaint>> {
  if (resumed) {
    const opened = await openJournal(file);
    if (!opened.ok) return err({ exit: EXIT.USAGE, sentence: opened.error.sentence });
    const { journal, text } = opened.value;
    return ok({ sink: journal, text, close: () => journal.close() });
  }
  let made: Result<JournalFile, HostFailure> | undefined;
  const append = async (line: string): Promise<Result<undefined, HostFailure>> => {
    made ??= await createJournal(file);
    return made.ok ? made.value.append(line) : made;
  };
  return ok({ sink: { append }, text: '', close: async () => (made?.ok === true ? made.value.close() : undefined) });
}

/** One execution per machine. @param source  as --from names it */
export function lockOf(io: Io, source: string): Lock {
  const dir = lockDirectory(io);
  return lockFile(path.join(dir, `dimmer-${hashLines([source])}.lock`));
}

function lockDirectory(io: Io): string {
  const { DIMMER_LOCK_DIR: told = '', XDG_RUNTIME_DIR: own = '' } = io.env;
  if (told !== '') return told;
  const uid = process.getuid?.();
  if (uid === 0 && fs.existsSync('/run')) return '/run';
  if (own !== '') return own;
  const dir = path.join(os.tmpdir(), `dimmer-${uid ?? os.userInfo().username}`);
  fs.mkdirSync(dir, { recursive: true, mode: 0o700 });
  return dir;
}

/** A new file for a recording; an existing one is never written over. */
export function openRecord(file: string): Result<{ append: (text: string) => void; close: () => void }, Complaint> {
  try {
    const fd = fs.openSync(file, 'wx');
    return ok({
      append: (text) => {
        fs.writeSync(fd, text);
      },
      close: () => fs.closeSync(fd),
    });
  } catch (e) {
    const code = (e as NodeJS.ErrnoException).code;
    if (code === undefined) throw e; // not the system's: a bug
    return err({ exit: EXIT.USAGE, sentence: `${file} cannot be made for the recording (${code})` });
  }
}
