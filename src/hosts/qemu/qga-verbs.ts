// Agent verbs: files, commands and memory blocks of a guest, through its agent, whatever transport carries it.
//
//   fileRead    open "r", seek, read.. , close       /proc and /sys included, in pieces, at any offset
//   fileWrite   open "w", write, flush, close        the flush is the write(2): its errno comes back as a sentence
//   exec        guest-exec, then guest-exec-status until it has exited; ended by pid at its deadline or the caller's signal
//   memoryBlocks                                     guest-get-memory-blocks, in order
//
// fileWrite hangs the whole agent where the kernel's write hangs (offline of a block with a pinned page, for ever); exec hangs
// only the command, which a signal ends: prefer it where guest-exec is allowed. fileWrite opens "w" because sysctl files such
// as compact_memory cannot be opened for reading even by root, and "w" is the mode without; it would empty an ordinary file,
// so that it takes paths of /sys and /proc only.
//
// Invariants: a handle that was opened is closed, but where the agent stopped answering (it keeps it, then, until it is
// restarted); a command that was started has exited or its pid is told. QEMU 7.2 qga/commands.c, qga/commands-posix.c.

import { Buffer } from 'node:buffer';
import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import type { HostFailure, Limits } from '#control/host';
import { countdown, within } from './line-channel.ts';
import type { Agent } from './qga-port.ts';
import { short } from './qmp-port.ts';

/** Of one guest-file-read. The agent takes 48 MiB; libvirt carries strings of 4 MiB, which is 3 MiB before base64. */
const READ_BYTES = 2 * 2 ** 20;
/** For closing a handle, or ending a command, after the caller's own time is over. */
const CLEAN_MS = 3000;
/** Between two looks at a command: at first, and at most. */
const POLL_MS = { first: 10, most: 250 } as const;
/** One look; after it the agent is asked anew, in case it was restarted in between. */
const POLL_REPLY_MS = 5000;

export type FileReadOptions = {
  /** Bytes from the beginning; default 0. */
  readonly from?: number;
  /** Bytes at most; default: to the end. */
  readonly max?: number;
  /** Bytes of one request. */
  readonly piece?: number;
};

/**
 * A file's bytes. Refused with the kernel's errno (ENOENT, EACCES ...). Cost: three requests, and one more for each piece
 * after the first; the end is known when a read gives nothing more, or said to be the end.
 */
export async function fileRead(
  agent: Agent,
  path: string,
  options: FileReadOptions,
  limits: Limits,
): Promise<Result<Uint8Array, HostFailure>> {
  const { from = 0, max = Number.POSITIVE_INFINITY, piece = READ_BYTES } = options;
  const left = countdown(limits);
  return withHandle(agent, path, 'r', left, async (handle) => {
    if (from > 0) {
      const sought = await agent.execute('guest-file-seek', { handle, offset: from, whence: 'set' }, left());
      if (!sought.ok) return sought;
    }
    const parts: Buffer[] = [];
    let bytes = 0;
    while (bytes < max) {
      const count = Math.min(piece, max - bytes);
      const read = await agent.execute('guest-file-read', { handle, count }, left());
      if (!read.ok) return read;
      const { 'buf-b64': text, eof } = read.value as { 'buf-b64'?: unknown; eof?: unknown };
      if (typeof text !== 'string') return nonsense('guest-file-read', read.value);
      const part = Buffer.from(text, 'base64');
      if (part.length > count) return nonsense('guest-file-read', read.value);
      parts.push(part);
      bytes += part.length;
      if (part.length === 0 || eof === true) break;
    }
    return ok(Buffer.concat(parts));
  });
}

/**
 * Writes a kernel file in one write(2). Refused with the kernel's errno (EBUSY, EINVAL, EINTR ...), in which case nothing else
 * was written. A `timeout` leaves the write under way, and the agent with it, until the kernel is done.
 * @param path  below /sys or /proc
 * @param text  at most a page: more would be several writes
 */
export async function fileWrite(
  agent: Agent,
  path: string,
  text: string,
  limits: Limits,
): Promise<Result<undefined, HostFailure>> {
  assert(/^\/(sys|proc)\//.test(path) && !path.split('/').includes('..'), 'only kernel files are written', { path });
  const bytes = Buffer.from(text);
  assert(bytes.length > 0 && bytes.length <= 4096, 'one write is at most a page', { path, bytes: bytes.length });
  const left = countdown(limits);
  return withHandle(agent, path, 'w', left, async (handle) => {
    const written = await agent.execute('guest-file-write', { handle, 'buf-b64': bytes.toString('base64') }, left());
    if (!written.ok) return written;
    const flushed = await agent.execute('guest-file-flush', { handle }, left());
    return flushed.ok ? ok(undefined) : flushed;
  });
}

async function withHandle<T>(
  agent: Agent,
  path: string,
  mode: 'r' | 'w',
  left: () => Limits,
  work: (handle: number) => Promise<Result<T, HostFailure>>,
): Promise<Result<T, HostFailure>> {
  const opened = await agent.execute('guest-file-open', { path, mode }, left());
  if (!opened.ok) return opened;
  if (typeof opened.value !== 'number') return nonsense('guest-file-open', opened.value);
  const handle = opened.value;
  const result = await work(handle);
  const answers =
    result.ok || ['refused', 'denied', 'unsupported', 'cancelled', 'protocol'].includes(result.error.kind);
  // What closing says does not matter: the outcome is known. An agent that has stopped answering is not asked once more.
  if (answers) await agent.execute('guest-file-close', { handle }, { deadlineMs: CLEAN_MS });
  return result;
}

export type ExecOptions = {
  /** For its standard input. */
  readonly input?: string | Uint8Array;
  /** NAME=value; all that it gets, when given. */
  readonly env?: readonly string[];
  /** After so long it is ended; default: the limits' own deadline. */
  readonly deadlineMs?: number;
};

export type ExecResult = {
  /** Of a command that ended by itself. */
  readonly exitCode: number | undefined;
  /** Of one that a signal ended: its number. */
  readonly signal: number | undefined;
  readonly out: Uint8Array;
  readonly err: Uint8Array;
  /** The agent keeps 16 MiB of each. */
  readonly truncated: boolean;
};

/**
 * Runs a command in the guest: no shell, found on the agent's PATH unless absolute. Whatever its exit code, it ran, and the
 * result is ok. At the deadline, or at the caller's signal, it gets SIGTERM, then SIGKILL, and the failure (`timeout`,
 * `cancelled`) says whether it has ended; that takes at most 3 s more. Where the agent was restarted meanwhile, nobody knows
 * of the command any more: `disconnected`.
 */
export async function exec(
  agent: Agent,
  path: string,
  args: readonly string[],
  options: ExecOptions,
  limits: Limits,
): Promise<Result<ExecResult, HostFailure>> {
  const { deadlineMs = limits.deadlineMs } = options;
  const left = countdown({ ...limits, deadlineMs: Math.min(deadlineMs, limits.deadlineMs) });
  const started = await agent.execute(
    'guest-exec',
    {
      path,
      arg: args,
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(options.input === undefined ? {} : { 'input-data': Buffer.from(options.input).toString('base64') }),
      'capture-output': true,
    },
    left(),
  );
  if (!started.ok) return started;
  const { pid } = started.value as { pid?: unknown };
  if (typeof pid !== 'number') return nonsense('guest-exec', started.value);
  const exited = await untilExited(agent, pid, path, left);
  if (exited.ok || !(exited.error.kind === 'timeout' || exited.error.kind === 'cancelled')) return exited;
  return err({ ...exited.error, ...(await endCommand(agent, pid, path, exited.error)) });
}

/** One look at a command: what it came to, or undefined while it runs. */
async function look(
  agent: Agent,
  pid: number,
  path: string,
  limits: Limits,
): Promise<Result<ExecResult | undefined, HostFailure>> {
  const status = await agent.execute('guest-exec-status', { pid }, limits);
  if (status.ok) {
    const s = status.value as Readonly<Record<string, unknown>> | null;
    if (typeof s?.exited !== 'boolean') return nonsense('guest-exec-status', s);
    return ok(s.exited ? parseExit(s) : undefined);
  }
  // 7.2: "Invalid parameter 'pid'"; since 9.0: "PID 42 does not exist".
  const { kind, evidence = [] } = status.error;
  if (kind !== 'refused' || !evidence.some((e) => /parameter 'pid'|PID \S+ does not exist/.test(e))) return status;
  const sentence = `the guest's agent was restarted while ${path} ran; it may or may not have ended`;
  return err({ kind: 'disconnected', sentence, evidence });
}

/** Looks until it has exited. Ends as `timeout` or `cancelled` only when its time is over, whatever single looks came to. */
async function untilExited(
  agent: Agent,
  pid: number,
  path: string,
  left: () => Limits,
): Promise<Result<ExecResult, HostFailure>> {
  for (let pollMs: number = POLL_MS.first; ; pollMs = Math.min(POLL_MS.most, pollMs * 1.5)) {
    const { deadlineMs, signal } = left();
    if (signal?.aborted === true) return err({ kind: 'cancelled', sentence: `${path} was cancelled` });
    if (deadlineMs === 0) return err({ kind: 'timeout', sentence: `${path} took longer than it was given` });
    const within5s = { deadlineMs: Math.min(deadlineMs, POLL_REPLY_MS), ...(signal && { signal }) };
    const seen = await look(agent, pid, path, within5s);
    if (seen.ok) {
      if (seen.value !== undefined) return ok(seen.value);
    } else if (!(['timeout', 'unreachable', 'cancelled'].includes(seen.error.kind) || isCut(seen.error))) return seen;
    await within(
      { ...left(), deadlineMs: Math.min(pollMs, left().deadlineMs) },
      () => NOTHING,
      () => undefined,
    );
  }
}

/** The connection broke, while the agent in the guest may be well. */
const isCut = (f: HostFailure): boolean => f.kind === 'disconnected' && f.evidence === undefined;

/** Ends a command of ours. It is looked at right before, so that no later process of the same number is hit. */
async function endCommand(
  agent: Agent,
  pid: number,
  path: string,
  why: HostFailure,
): Promise<Pick<HostFailure, 'sentence' | 'evidence'>> {
  for (const signal of ['TERM', 'KILL'] as const) {
    const left = countdown({ deadlineMs: CLEAN_MS / 2 });
    const now = await look(agent, pid, path, left());
    if (!now.ok) continue;
    if (now.value !== undefined) return ended(why, now.value);
    // A shell's own kill: /bin/kill is not on every guest.
    const arg = ['-c', `kill -${signal} "$0"`, String(pid)];
    await agent.execute('guest-exec', { path: '/bin/sh', arg, 'capture-output': false }, left());
    const then = await untilExited(agent, pid, path, left);
    if (then.ok) return ended(why, then.value);
  }
  return { sentence: `${why.sentence}, and could not be ended: it may still run in the guest as process ${pid}` };
}

const ended = (why: HostFailure, exit: ExecResult): Pick<HostFailure, 'sentence' | 'evidence'> => ({
  sentence: `${why.sentence}, and has ended`,
  evidence: [
    exit.signal === undefined ? `it exited with ${exit.exitCode}` : `signal ${exit.signal} ended it`,
    ...[exit.out, exit.err].map((b) => Buffer.from(b).toString('utf8').trim()).filter((t) => t !== ''),
  ],
});

function parseExit(s: Readonly<Record<string, unknown>>): ExecResult {
  const bytes = (key: string): Uint8Array =>
    Buffer.from(typeof s[key] === 'string' ? (s[key] as string) : '', 'base64');
  const number = (key: string): number | undefined => (typeof s[key] === 'number' ? (s[key] as number) : undefined);
  return {
    exitCode: number('exitcode'),
    signal: number('signal'),
    out: bytes('out-data'),
    err: bytes('err-data'),
    truncated: s['out-truncated'] === true || s['err-truncated'] === true,
  };
}

export type GuestMemoryBlock = {
  readonly id: number;
  readonly online: boolean;
  /** The `removable` file: always true on current kernels, and no promise of anything. */
  readonly canOffline: boolean | undefined;
};

/** The guest's memory blocks, ascending; the agent lists them in the order of readdir. */
export async function memoryBlocks(
  agent: Agent,
  limits: Limits,
): Promise<Result<readonly GuestMemoryBlock[], HostFailure>> {
  const reply = await agent.execute('guest-get-memory-blocks', undefined, limits);
  if (!reply.ok) return reply;
  if (!Array.isArray(reply.value)) return nonsense('guest-get-memory-blocks', reply.value);
  const blocks: GuestMemoryBlock[] = [];
  for (const b of reply.value as Readonly<Record<string, unknown>>[]) {
    if (typeof b['phys-index'] !== 'number' || typeof b.online !== 'boolean')
      return nonsense('guest-get-memory-blocks', b);
    const can = b['can-offline'];
    blocks.push({ id: b['phys-index'], online: b.online, canOffline: typeof can === 'boolean' ? can : undefined });
  }
  return ok(blocks.sort((a, b) => a.id - b.id));
}

const NOTHING: HostFailure = { kind: 'timeout', sentence: '' };

const nonsense = (command: string, value: unknown): Result<never, HostFailure> =>
  err({
    kind: 'protocol',
    sentence: `the guest agent's answer to ${command} makes no sense`,
    evidence: [short(value)],
  });
