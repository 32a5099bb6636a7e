// sysfsWrite: one word into one kernel file, by a child process that a signal can end.
//
//   text ──stdin──> timeout SECS dd of=FILE bs=64 conv=notrunc ──one write(2)──> kernel
//                       │                       └── "dd: error writing '...': Device or resource busy" ──> EBUSY
//                       └── ends dd even when nobody is left who would: dimmer was killed
//
// Why a child: an offline whose page cannot move never returns, and only a signal ends it, with EINTR and everything put back
// (lab fact 5). A thread of this process could not be told. Why dd: it is everywhere (GNU, busybox), writes its input with one
// call, and says the kernel's errno as a sentence (base/errno.ts knows the sentences of the C locale).
//
//   what ends it                 what we answer            what the kernel did
//   dd ends with 0               done                      took the word
//   dd ends, with a sentence     refused, errno            nothing
//   our deadline                 SIGTERM, then timeout     put back what it had begun, if dd has ended; else unknown
//   the caller's signal          SIGTERM, then cancelled   the same
//
// The deadline is ours; timeout(1) gets a second more and only matters when we are gone. A child that does not end within
// GRACE_MS after the signal sits in the kernel: it is left to itself, and the answer says so.

import { type ChildProcess, spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { assert } from '#base/assert';
import { errnoOfText } from '#base/errno';
import { err, ok, type Result } from '#base/result';
import type { ActDone, HostFailure, Limits } from '#control/host';

/** How long a child may take to end after its signal: a batch of pages that is being moved is finished first. */
const GRACE_MS = 5_000;

/** A word with its newline must fit into one write(2) of dd. */
export const BLOCK_BYTES = 64;

export type Program = readonly [command: string, ...words: string[]];

/** The command line that writes to a file. `timeout` where there is one: busybox and coreutils both have it. */
export function writerOf(file: string, deadlineMs: number, hasTimeout = onPath('timeout')): Program {
  const dd = ['dd', `of=${file}`, `bs=${BLOCK_BYTES}`, 'conv=notrunc'] as const;
  return hasTimeout ? ['timeout', String(Math.ceil(deadlineMs / 1000) + 1), ...dd] : dd;
}

function onPath(program: string): boolean {
  return (process.env.PATH ?? '').split(':').some((dir) => {
    try {
      fs.accessSync(`${dir}/${program}`, fs.constants.X_OK);
      return dir !== '';
    } catch {
      return false;
    }
  });
}

/**
 * Writes `word` and a newline to an existing file. Never rejects.
 * @returns refused (with the kernel's errno), denied (EACCES, EPERM, EROFS), timeout, cancelled, unsupported (no dd)
 */
export function sysfsWrite(file: string, word: string, limits: Limits): Promise<Result<ActDone, HostFailure>> {
  const line = `${word}\n`;
  assert(line.length <= BLOCK_BYTES && !word.includes('\n'), 'one word, one write', { word });
  return runChild(writerOf(file, limits.deadlineMs), line, limits, `writing ${word} to ${file}`);
}

/** sync(1), before caches are dropped: dirty pages cannot be. */
export const syncDisks = (limits: Limits): Promise<Result<ActDone, HostFailure>> =>
  runChild(['sync'], '', limits, 'sync');

/** @param doing  "writing offline to /sys/...": the subject of every sentence */
export function runChild(
  [command, ...words]: Program,
  input: string,
  limits: Limits,
  doing: string,
): Promise<Result<ActDone, HostFailure>> {
  const { deadlineMs, signal } = limits;
  if (signal?.aborted === true) return Promise.resolve(err({ kind: 'cancelled', sentence: `${doing} was cancelled` }));
  return new Promise((resolve) => {
    // A group of its own: the terminal's Ctrl-C is ours to pass on.
    const child = spawn(command, words, {
      stdio: ['pipe', 'ignore', 'pipe'],
      detached: true,
      env: { ...process.env, LC_ALL: 'C' },
    });
    let said = '';
    let ending: 'timeout' | 'cancelled' | undefined;
    let grace: NodeJS.Timeout | undefined;
    const end = (why: 'timeout' | 'cancelled'): void => {
      if (ending !== undefined) return;
      ending = why;
      killGroup(child);
      grace = setTimeout(() => {
        // Nothing of it may keep this process alive.
        child.unref();
        child.stdin.destroy();
        child.stderr.destroy();
        settle(err(lateFailure(why, doing, deadlineMs, { pid: child.pid })));
      }, GRACE_MS);
    };
    const cancel = (): void => end('cancelled');
    const timer = setTimeout(() => end('timeout'), deadlineMs);
    signal?.addEventListener('abort', cancel);
    const settle = (result: Result<ActDone, HostFailure>): void => {
      clearTimeout(timer);
      clearTimeout(grace);
      signal?.removeEventListener('abort', cancel);
      resolve(result);
    };
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      said = (said + chunk).slice(-4096);
    });
    child.stdin.on('error', () => {}); // it has ended without reading; its own sentence tells
    child.on('error', (e) => {
      settle(err({ kind: 'unsupported', sentence: `${command}(1) could not be run: ${e.message}` }));
    });
    child.on('close', (code, endedBy) => {
      if (code === 0) return settle(ok({ evidence: [doing] })); // also when the signal came a moment too late
      if (ending !== undefined) return settle(err(lateFailure(ending, doing, deadlineMs, 'ended')));
      settle(err(failureOfChild(doing, said, code, endedBy)));
    });
    child.stdin.end(input);
  });
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGTERM');
  } catch {
    child.kill('SIGTERM'); // it has left its group, or has ended
  }
}

/** @param how  'ended': the kernel has put back what it had begun; else the child that is still in the kernel */
function lateFailure(
  kind: 'timeout' | 'cancelled',
  doing: string,
  deadlineMs: number,
  how: 'ended' | { readonly pid: number | undefined },
): HostFailure {
  const when = kind === 'timeout' ? `was not over after ${deadlineMs} ms` : 'was cancelled';
  return how === 'ended'
    ? { kind, sentence: `${doing} ${when}: a signal ended it`, errno: 'EINTR' }
    : { kind, sentence: `${doing} ${when}, and process ${how.pid} does not end: it may still be done` };
}

/** What dd said, as a failure: its first line that ends with an errno's sentence. */
export function failureOfChild(
  doing: string,
  said: string,
  code: number | null,
  endedBy: NodeJS.Signals | null,
): HostFailure {
  const lines = said.split('\n').filter((line) => line.trim() !== '');
  const errno = lines.map(errnoOfText).find((name) => name !== undefined);
  const evidence = lines.filter((line) => !/ records (in|out)$| copied,/.test(line));
  if (errno === undefined) {
    const how = endedBy === null ? `ended with ${code}` : `was ended by ${endedBy}`;
    return { kind: 'refused', sentence: `${doing} failed: its process ${how}`, evidence };
  }
  const denied = errno === 'EACCES' || errno === 'EPERM' || errno === 'EROFS';
  const sentence = `${doing} was refused by the kernel: ${errno}`;
  return { kind: denied ? 'denied' : 'refused', sentence, errno, evidence };
}
