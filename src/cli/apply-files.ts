// The files that dimmer apply writes: its journal, and on request a recording of all that was asked and answered.

import * as fs from 'node:fs';
import * as path from 'node:path';
import { err, ok, type Result } from '#base/result';
import type { JournalSink } from '#control/journal';
import { decodeJournal } from '#control/journal-text';
import { type Complaint, EXIT } from './exit-code.ts';

export type OpenedJournal = { readonly sink: JournalSink; readonly close: () => void };

/**
 * A new journal is made with its first line: what ends before leaves no file. One that is resumed is cut behind its last
 * whole line. Each line is on the disk when append comes back.
 */
export function openJournal(file: string, resumed: string | undefined): Result<OpenedJournal, Complaint> {
  let fd: number | undefined;
  const open = (): number => {
    if (resumed !== undefined) {
      const opened = fs.openSync(file, 'r+');
      const decoded = decodeJournal(resumed);
      fs.ftruncateSync(opened, decoded.ok ? decoded.value.bytes : 0);
      fs.closeSync(opened);
      return fs.openSync(file, 'a');
    }
    const made = fs.openSync(file, 'ax');
    const dir = fs.openSync(path.dirname(path.resolve(file)), 'r');
    fs.fsyncSync(dir);
    fs.closeSync(dir);
    return made;
  };
  return ok({
    sink: {
      append: (text) => {
        try {
          fd ??= open();
          fs.writeFileSync(fd, text);
          fs.fsyncSync(fd);
          return Promise.resolve(ok(undefined));
        } catch (e) {
          const sentence = `${file} cannot be written (${(e as NodeJS.ErrnoException).code})`;
          return Promise.resolve(err({ kind: 'refused' as const, sentence }));
        }
      },
    },
    close: () => {
      if (fd !== undefined) fs.closeSync(fd);
    },
  });
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
