// Journal file: where the lines of an execution go, so that a crash of dimmer or of the machine loses none that counted.
//
//   createJournal   O_EXCL: an older journal is never overwritten; the directory is flushed, so that the name survives
//   openJournal     for --resume: what it says is decoded first; a torn last line is cut off; damage: nothing is touched
//   append          one line: written, then fsync; what fails is cut off again, and nothing follows it
//
// A line that did not reach the disk is a failure of the append, before anything is acted on: a full disk ends an execution,
// it does not make it unsafe. Mode 600: a plan names machines and devices.

import * as fs from 'node:fs/promises';
import * as path from 'node:path';
import { err, ok, type Result } from '#base/result';
import type { HostFailure } from '#control/host';
import type { JournalSink } from '#control/journal';
import { decodeJournal, type JournalProblem } from '#control/journal-text';

/** The little of a file that a journal needs; a test gives one that fails. */
export interface JournalHandle {
  write(data: Uint8Array): Promise<{ readonly bytesWritten: number }>;
  sync(): Promise<void>;
  truncate(bytes: number): Promise<void>;
  close(): Promise<void>;
}

export class JournalFile implements JournalSink {
  readonly file: string;
  readonly #handle: JournalHandle;
  #bytes: number;
  #broken: HostFailure | undefined;

  /** @param bytes  how long the file is */
  constructor(file: string, handle: JournalHandle, bytes: number) {
    this.file = file;
    this.#handle = handle;
    this.#bytes = bytes;
  }

  /** Cost: one flush of the disk. After a failure every later line fails, too: it would follow a gap. */
  async append(text: string): Promise<Result<undefined, HostFailure>> {
    if (this.#broken !== undefined) return err(this.#broken);
    const data = new TextEncoder().encode(text);
    try {
      for (let at = 0; at < data.length; ) {
        const { bytesWritten } = await this.#handle.write(data.subarray(at));
        if (bytesWritten <= 0) throw new Error('nothing was written');
        at += bytesWritten;
      }
      await this.#handle.sync();
      this.#bytes += data.length;
      return ok(undefined);
    } catch (e) {
      this.#broken = failureOf(this.file, e);
      // A reader would drop half a line by itself; without it the file is whole for people, too.
      await this.#handle.truncate(this.#bytes).catch(() => undefined);
      return err(this.#broken);
    }
  }

  async close(): Promise<void> {
    await this.#handle.close().catch(() => undefined);
  }
}

/** A new journal. @returns `refused` when there is a file of that name, `denied` where it may not be made */
export async function createJournal(file: string): Promise<Result<JournalFile, HostFailure>> {
  try {
    const handle = await fs.open(file, 'ax', 0o600);
    await handle.sync();
    await flushDirectory(path.dirname(file));
    return ok(new JournalFile(file, handleOf(handle), 0));
  } catch (e) {
    return err(failureOf(file, e));
  }
}

/**
 * An older journal, to go on with. `text` is what resume() wants: without the torn line.
 * @returns a problem when it cannot be read or believed; the file is untouched then
 */
export async function openJournal(
  file: string,
): Promise<Result<{ readonly text: string; readonly journal: JournalFile }, HostFailure | JournalProblem>> {
  try {
    const whole = await fs.readFile(file, 'utf8');
    const decoded = decodeJournal(whole);
    if (!decoded.ok) return decoded;
    const { bytes, length, torn } = decoded.value;
    const handle = await fs.open(file, 'a');
    if (torn) {
      await handle.truncate(bytes);
      await handle.sync();
    }
    return ok({ text: whole.slice(0, length), journal: new JournalFile(file, handleOf(handle), bytes) });
  } catch (e) {
    return err(failureOf(file, e));
  }
}

const handleOf = (handle: fs.FileHandle): JournalHandle => ({
  write: (data) => handle.write(data),
  sync: () => handle.sync(),
  truncate: (bytes) => handle.truncate(bytes),
  close: () => handle.close(),
});

async function flushDirectory(directory: string): Promise<void> {
  const handle = await fs.open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

const WORDS: Readonly<Record<string, string>> = {
  ENOSPC: 'no space is left on the disk',
  EDQUOT: 'the disk quota is used up',
  EEXIST: 'there is a file of that name; an execution gets a journal of its own',
  ENOENT: 'there is no such file or directory',
  EACCES: 'permission denied',
  EROFS: 'the file system is read-only',
};

function failureOf(file: string, e: unknown): HostFailure {
  const code = typeof e === 'object' && e !== null && 'code' in e ? String(e.code) : '';
  const denied = code === 'EACCES' || code === 'EPERM' || code === 'EROFS';
  const why = WORDS[code] ?? (e instanceof Error ? e.message : String(e));
  return { kind: denied ? 'denied' : 'refused', sentence: `journal ${file}: ${why}` };
}
