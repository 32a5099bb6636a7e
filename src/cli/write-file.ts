// writeWhole: a text file whole or not at all. Written beside its target under a temporary name, flushed, then renamed.
//
// Refused before anything is written: a place of the kernel, something that is no regular file, a file that the caller does
// not know as one of its kind. A link is followed: what it points at is replaced, and keeps its permissions.

import * as fs from 'node:fs';
import * as path from 'node:path';
import { type Complaint, EXIT } from './exit-code.ts';

const FORBIDDEN = /^\/(proc|sys|dev)(\/|$)/;

export type WriteOptions = {
  /** May this text be replaced? Asked of a file that is there and not empty. */
  readonly isOurs: (old: string) => boolean;
  /** What such a file is: "an SVG". */
  readonly kind: string;
};

/** @returns undefined when it is written; a complaint otherwise, and the target is as it was */
export function writeWhole(file: string, text: string, { isOurs, kind }: WriteOptions): Complaint | undefined {
  const refuse = (why: string): Complaint => ({ exit: EXIT.USAGE, sentence: `${file} ${why}; nothing was written` });
  let temporary: string | undefined;
  try {
    let target = path.resolve(file);
    if (fs.lstatSync(target, { throwIfNoEntry: false })?.isSymbolicLink()) target = fs.realpathSync(target);
    target = path.join(fs.realpathSync(path.dirname(target)), path.basename(target));
    if (FORBIDDEN.test(target)) return refuse('is a place of the kernel');
    const known = fs.lstatSync(target, { throwIfNoEntry: false });
    if (known !== undefined && !known.isFile()) return refuse('is not a regular file');
    if (known !== undefined && known.size > 0 && !isOurs(fs.readFileSync(target, 'utf8')))
      return refuse(`exists and is not ${kind}`);
    temporary = path.join(path.dirname(target), `.${path.basename(target)}.${process.pid}.tmp`);
    fs.writeFileSync(temporary, text, { flag: 'wx', flush: true });
    if (known !== undefined) fs.chmodSync(temporary, known.mode & 0o7777);
    fs.renameSync(temporary, target);
    return undefined;
  } catch (e) {
    if (temporary !== undefined) fs.rmSync(temporary, { force: true });
    const code = (e as NodeJS.ErrnoException).code;
    if (code === undefined) throw e; // not the system's: a bug
    return { exit: EXIT.FAILED, sentence: `${file} cannot be written (${code}); nothing was written` };
  }
}
