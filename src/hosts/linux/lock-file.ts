// Lock file: one execution per host, by the name of the process that has it.
//
//   FILE   {"pid":4711,"start":"8839201","boot":"1f0c..."}      made with link(2): whole or not at all, and only one of two
//
//   is there, owner lives    refused, with its number: same pid, same start time, same boot
//   is there, owner is gone  taken over: replaced with rename(2), while FILE.takeover keeps others from doing the same
//   cannot be read           refused: a person decides
//
// A pid alone is not enough: numbers are used again. Field 22 of /proc/PID/stat (start time in ticks since boot) with the
// boot's id names a process for good. Left out: two dimmers that do not see each other's /proc (containers with a lock file
// in common) take each other for gone. A FILE.takeover whose owner was killed within these few system calls stays behind, and
// is named to the user.

import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { err, ok, type Result } from '#base/result';
import type { HostFailure } from '#control/host';
import type { Lock, Release } from '#control/lock';

export type LockFileOptions = {
  /** Where the kernel tells of processes. Default /proc; a test gives its own. */
  readonly proc?: string;
  /** Default: this process. */
  readonly pid?: number;
};

type Owner = { readonly pid: number; readonly start: string; readonly boot: string };

/** @param file  one for each host, e.g. named after its monitor socket, in a directory that only its users may write */
export function lockFile(file: string, options: LockFileOptions = {}): Lock {
  const { proc = '/proc', pid = process.pid } = options;
  return {
    async acquire(): Promise<Result<Release, HostFailure>> {
      const me: Owner = { pid, start: (await startOf(proc, pid)) ?? '', boot: await bootOf(proc) };
      const text = `${JSON.stringify(me)}\n`;
      const temporary = `${file}.${pid}.${randomBytes(4).toString('hex')}`;
      try {
        await fs.writeFile(temporary, text, { flag: 'wx', mode: 0o600 });
        if (!(await linked(temporary, file))) {
          const taken = await takeOver(temporary, file, (owner) => isAlive(proc, owner, me.boot));
          if (taken !== undefined) return err({ kind: 'refused', sentence: taken });
        }
        return ok(() => release(file, text));
      } catch (e) {
        return err({ kind: 'denied', sentence: `lock ${file}: ${e instanceof Error ? e.message : String(e)}` });
      } finally {
        await fs.rm(temporary, { force: true });
      }
    },
  };
}

/** @returns false when there is a file of that name */
async function linked(from: string, to: string): Promise<boolean> {
  try {
    await fs.link(from, to);
    return true;
  } catch (e) {
    if (codeOf(e) === 'EEXIST') return false;
    throw e;
  }
}

/** @returns why not; undefined: it is ours */
async function takeOver(
  temporary: string,
  file: string,
  lives: (owner: Owner) => Promise<boolean>,
): Promise<string | undefined> {
  const guard = `${file}.takeover`;
  if (!(await linked(temporary, guard))) {
    return `somebody is taking ${file} over just now; if nobody is, remove ${guard}`;
  }
  try {
    // Read with the guard in hand: the owner that is judged is the one that is replaced.
    const text = await fs.readFile(file, 'utf8').catch(() => undefined);
    if (text === undefined)
      return (await linked(temporary, file)) ? undefined : `another execution has just begun (${file})`;
    const owner = parse(text);
    if (owner === undefined) return `${file} is no lock of dimmer's: look at it, and remove it`;
    if (await lives(owner)) return `another execution is under way: process ${owner.pid} (${file})`;
    await fs.rename(temporary, file);
    return undefined;
  } finally {
    await fs.rm(guard, { force: true });
  }
}

/** Removes the lock if it is still the one that was made. */
async function release(file: string, text: string): Promise<void> {
  const now = await fs.readFile(file, 'utf8').catch(() => undefined);
  if (now === text) await fs.rm(file, { force: true });
}

async function isAlive(proc: string, owner: Owner, boot: string): Promise<boolean> {
  return owner.boot === boot && (await startOf(proc, owner.pid)) === owner.start;
}

/** Start time of a process in ticks since boot; undefined: there is none, or it is a zombie, which acts no more. */
async function startOf(proc: string, pid: number): Promise<string | undefined> {
  const stat = await fs.readFile(`${proc}/${pid}/stat`, 'utf8').catch(() => undefined);
  if (stat === undefined) return undefined;
  // The name in parentheses may hold anything, blanks and parentheses too: fields are counted from the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
}

async function bootOf(proc: string): Promise<string> {
  const id = await fs.readFile(`${proc}/sys/kernel/random/boot_id`, 'utf8').catch(() => '');
  return id.trim();
}

function parse(text: string): Owner | undefined {
  try {
    const value = JSON.parse(text) as Partial<Owner> | null;
    const whole = typeof value?.pid === 'number' && typeof value.start === 'string' && typeof value.boot === 'string';
    return whole ? (value as Owner) : undefined;
  } catch {
    return undefined;
  }
}

const codeOf = (e: unknown): string => (typeof e === 'object' && e !== null && 'code' in e ? String(e.code) : '');
