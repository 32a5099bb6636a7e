// Guest write: one write to a kernel file of a guest, with a deadline that holds in the guest.
//
//   guest-exec allowed      timeout SECS dd of=PATH bs=64 < word       ended by the guest itself, also when dimmer was killed
//                             exit 0                     written
//                             exit 1, "... : SENTENCE"   the kernel's errno, in the C locale's words
//                             exit 124, or a signal      the time was over: what hung got EINTR and was put back
//   guest-exec not allowed  guest-file-open, -write, -flush, -close    no deadline but the kernel's: a block with a pinned page
//                                                                      keeps the agent busy for ever (lab fact 5)
//
// dd writes what it has read in one write(2): sysfs takes a word as a whole. What dd says of a refused write is the only way in
// which its errno comes out of a guest: "dd: error writing '/sys/.../state': Device or resource busy" (GNU and busybox).
//
// Invariants: one write at most; nothing but files of /sys and /proc; "done" means that the kernel took the word, no more: whether
// the block is offline, the next observation tells. Spec 1.10, 7.3; Linux v6.12 drivers/base/memory.c: state_store().

import { Buffer } from 'node:buffer';
import { assert } from '#base/assert';
import { type ErrnoName, errnoOfText } from '#base/errno';
import { err, ok, type Result } from '#base/result';
import type { ActDone, HostFailure, Limits } from '#control/host';
import type { GuestReach } from './guest-files.ts';
import { countdown } from './line-channel.ts';
import { type ExecResult, exec, fileWrite } from './qga-verbs.ts';

/** The guest's own deadline is so much shorter than the caller's, so that what it said still arrives. */
const MARGIN_MS = 1500;
/** PATH for timeout and dd, wherever the distribution has them; the C locale for what dd says. */
const ENV = ['LC_ALL=C', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin'];
/** Exit codes of timeout: time over; cannot run at all, and no such command. */
const TIME_OVER = 124;
const CANNOT_RUN = [125, 126, 127];
/** GLib's g_spawn_async_with_pipes, as the agent passes it on. */
const NOT_STARTED = /Failed to execute child process/;
const SIGNALS_OF_TIMEOUT = [9, 15];

/** Whole seconds, as busybox wants them; at least one. */
export const guestSeconds = (deadlineMs: number): number => Math.max(1, Math.floor((deadlineMs - MARGIN_MS) / 1000));

/**
 * Writes `text` to `path`. Refusals carry the kernel's errno. `timeout`: the kernel had not finished; ended in the guest
 * where the sentence says so. Cost: a command in the guest, or four requests.
 */
export async function guestWrite(
  reach: GuestReach,
  path: string,
  text: string,
  limits: Limits,
): Promise<Result<ActDone, HostFailure>> {
  assert(/^\/(sys|proc)\/[\w./-]+$/.test(path) && !path.includes('/../'), 'only kernel files are written', { path });
  assert(/^[\w-]{1,64}$/.test(text), 'a word of a kernel file', { text });
  const left = countdown(limits);
  const what = `write "${text}" to ${path}`;
  if (reach.exec) {
    const seconds = guestSeconds(limits.deadlineMs);
    const args = [String(seconds), 'dd', `of=${path}`, 'bs=64'];
    const run = await exec(reach.agent, 'timeout', args, { input: text, env: ENV }, left());
    const said = outcomeOf(run, what, seconds);
    if (said !== 'cannot-run') return said;
    if (!reach.writes) return err(noTool(path));
  }
  if (!reach.writes)
    return err({
      kind: 'denied',
      sentence: `the guest's agent may neither run commands nor write files: ${path} cannot be written`,
    });
  const written = await fileWrite(reach.agent, path, text, left());
  if (written.ok) return ok({ evidence: [`${what}: done, without a deadline in the guest`] });
  const { kind, errno, sentence, evidence = [] } = written.error;
  if (kind === 'refused' && errno !== undefined)
    return err({ ...written.error, kind: kindOf(errno), sentence: `${what}: ${lastPart(evidence[0] ?? sentence)}` });
  if (kind !== 'timeout') return err({ ...written.error, sentence: `${what}: ${sentence}` });
  return err({
    ...written.error,
    sentence: `${what}: not finished after ${Math.round(limits.deadlineMs)} ms, and it goes on; the agent answers nobody before it has ended`,
  });
}

/** EACCES and EPERM are about who asks, not about the memory. */
const kindOf = (errno: ErrnoName | undefined): 'denied' | 'refused' =>
  errno === 'EACCES' || errno === 'EPERM' ? 'denied' : 'refused';

/** "failed to flush file: Device or resource busy" -> "Device or resource busy". */
const lastPart = (sentence: string): string => sentence.slice(sentence.lastIndexOf(': ') + 1).trim();

/** `cannot-run`: the guest has no timeout or dd that takes these arguments; nothing was written. */
export function outcomeOf(
  run: Result<ExecResult, HostFailure>,
  what: string,
  seconds: number,
): Result<ActDone, HostFailure> | 'cannot-run' {
  if (!run.ok) {
    // No such program: it was not started. Any other refusal may be about one that was.
    if (run.error.kind === 'refused' && NOT_STARTED.test(run.error.sentence)) return 'cannot-run';
    // Whether it has ended we were not told; the guest's own deadline ends it without us.
    const ended = ['disconnected', 'timeout'].includes(run.error.kind)
      ? `; the guest ends it after ${seconds} s at the latest`
      : '';
    return err({ ...run.error, sentence: `${what}: ${run.error.sentence}${ended}` });
  }
  const { exitCode, signal } = run.value;
  const lines = Buffer.from(run.value.err)
    .toString('utf8')
    .split('\n')
    .filter((line) => line !== '');
  // dd's two lines of counts are no evidence of anything.
  const evidence = lines.filter((line) => !/^\d+\+\d+ records (in|out)$|^\d+ bytes /.test(line));
  // A dd that found nothing on its standard input has written nothing, and calls that success.
  if (exitCode === 0 && lines.includes('0+0 records out'))
    return err({
      kind: 'protocol',
      sentence: `${what}: the agent passed no input on to dd, nothing was written`,
      evidence: lines,
    });
  if (exitCode === 0) return ok({ evidence: [`${what}: done`] });
  if (exitCode === TIME_OVER || SIGNALS_OF_TIMEOUT.some((n) => signal === n || exitCode === 128 + n))
    return err({
      kind: 'timeout',
      errno: 'EINTR',
      sentence: `${what}: not finished after ${seconds} s, and ended in the guest by a signal`,
      evidence,
    });
  const refused = evidence
    .map((line) => ({ line, errno: errnoOfText(line) }))
    .find(({ line }) => line.startsWith('dd:'));
  if (refused !== undefined && exitCode === 1)
    return err({
      kind: kindOf(refused.errno),
      sentence: `${what}: ${lastPart(refused.line)}`,
      ...(refused.errno === undefined ? {} : { errno: refused.errno }),
      evidence,
    });
  if (exitCode !== undefined && (CANNOT_RUN.includes(exitCode) || evidence.some((line) => line.startsWith('timeout:'))))
    return 'cannot-run';
  return err({
    kind: 'protocol',
    sentence: `${what}: the guest's dd ended with ${exitCode ?? `signal ${signal}`}`,
    evidence,
  });
}

const noTool = (path: string): HostFailure => ({
  kind: 'unsupported',
  sentence: `the guest has no timeout and dd (coreutils, or busybox 1.30), and its agent may not write files: ${path} cannot be written`,
});

/** sync(1), for what only drops clean pages. False where no command can be run. */
export async function guestSync(reach: GuestReach, limits: Limits): Promise<Result<boolean, HostFailure>> {
  if (!reach.exec) return ok(false);
  const run = await exec(reach.agent, 'sync', [], { env: ENV }, limits);
  if (run.ok) return ok(run.value.exitCode === 0);
  return NOT_STARTED.test(run.error.sentence) ? ok(false) : run;
}
