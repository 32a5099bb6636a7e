// Line channel: one connection to a socket of this machine, as lines, with a deadline on everything.
//
//   connectLines(address) ──> LineChannel.write          chunks ──LineSplitter──> lines ──> onLine
//                                                        end, reset, too long ──> onEnd, once, with a sentence
//
// Lines arrive split anywhere: a reply of 60 MiB (guest-file-read) comes in hundreds of chunks, and an event shares its
// chunk with the reply before it. Chunks are joined once, when the line is whole: linear in its length.
//
// Invariants: onEnd is called exactly once, and never from within connectLines or close; no line comes after it; `within`
// settles exactly once and leaves no timer and no listener behind.

import { setMaxListeners } from 'node:events';
import { connect as connectSocket, type Socket } from 'node:net';
import { err, ok, type Result } from '#base/result';
import type { HostFailure, Limits } from '#control/host';
import { type SocketAddress, sayAddress } from './endpoint.ts';

/** The longest delay that setTimeout takes (2^31 - 1 ms, 24 days): deadlines beyond are none. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/**
 * Work that ends by itself, at the deadline or at the caller's signal, whichever is first.
 * @param late   the failure when the deadline or the signal is first
 * @param start  begins the work; what it returns is called at the end, however that comes
 */
export function within<T, F extends HostFailure = HostFailure>(
  limits: Limits,
  late: (why: 'timeout' | 'cancelled') => F,
  start: (settle: (result: Result<T, F>) => void) => unknown,
): Promise<Result<T, F>> {
  return new Promise((resolve) => {
    const { signal, deadlineMs } = limits;
    if (signal?.aborted === true) return resolve(err(late('cancelled')));
    let settled = false;
    let stop: unknown;
    const settle = (result: Result<T, F>): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      signal?.removeEventListener('abort', cancel);
      if (typeof stop === 'function') stop();
      resolve(result);
    };
    const cancel = (): void => settle(err(late('cancelled')));
    const timer = setTimeout(() => settle(err(late('timeout'))), Math.min(Math.max(deadlineMs, 0), LONGEST_TIMER_MS));
    if (signal !== undefined) {
      setMaxListeners(0, signal); // one signal for many requests at once is no leak
      signal.addEventListener('abort', cancel);
    }
    stop = start(settle);
    // It was over before `start` came back: there was nothing to call yet.
    if (settled && typeof stop === 'function') stop();
  });
}

/** What is left of a deadline that several requests share. */
export function countdown(limits: Limits): () => Limits {
  const endMs = performance.now() + limits.deadlineMs;
  return () => ({
    deadlineMs: Math.max(0, endMs - performance.now()),
    ...(limits.signal === undefined ? {} : { signal: limits.signal }),
  });
}

/** Cuts a byte stream at newlines, wherever its chunks end. A carriage return before the newline goes, too (QMP sends it). */
export class LineSplitter {
  private chunks: Buffer[] = [];
  private bytes = 0;
  private readonly maxBytes: number;

  /** @param maxBytes  of one line; a longer one is refused, so that a broken peer cannot fill memory */
  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** @returns false once a line was longer than allowed; the stream is of no use any more */
  push(chunk: Buffer, onLine: (line: Buffer) => void): boolean {
    let from = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      const part = chunk.subarray(from, at);
      from = at + 1;
      if (this.bytes + part.length > this.maxBytes) return false;
      const line = this.chunks.length === 0 ? part : Buffer.concat([...this.chunks, part]);
      this.chunks = [];
      this.bytes = 0;
      onLine(line.at(-1) === 13 ? line.subarray(0, -1) : line);
    }
    if (from < chunk.length) {
      this.chunks.push(chunk.subarray(from));
      this.bytes += chunk.length - from;
    }
    return this.bytes <= this.maxBytes;
  }
}

export type LineChannel = {
  /** Queues bytes; what cannot be sent any more is told by onEnd. */
  write(data: string | Uint8Array): void;
  /** Ends the connection at once. onEnd follows. */
  close(): void;
};

export type LineHandlers = {
  readonly onLine: (line: Buffer) => void;
  readonly onEnd: (sentence: string) => void;
};

/** The agent's and QEMU's JSON parsers take 64 MiB (qobject/json-lexer.c, MAX_TOKEN_SIZE); replies stay within it. */
export const MAX_LINE_BYTES = 80 * 2 ** 20;

/**
 * Connects. Fails as `unreachable` (nobody listens; within the deadline), `denied` (permissions), `cancelled`.
 * @returns `again` on a failure that another try may cure: the socket is there, but its queue of callers is full
 */
export function connectLines(
  address: SocketAddress,
  handlers: LineHandlers,
  limits: Limits,
  maxBytes = MAX_LINE_BYTES,
): Promise<Result<LineChannel, HostFailure>> {
  const where = sayAddress(address);
  return within<LineChannel>(
    limits,
    (why) =>
      why === 'cancelled'
        ? { kind: 'cancelled', sentence: `connecting to ${where} was cancelled` }
        : { kind: 'unreachable', sentence: `${where} took no connection within ${Math.round(limits.deadlineMs)} ms` },
    (settle) => {
      let live = false;
      const socket: Socket =
        address.kind === 'unix' ? connectSocket(address.path) : connectSocket(address.port, address.host);
      const splitter = new LineSplitter(maxBytes);
      let reason: string | undefined;
      socket.on('connect', () => {
        live = true;
        socket.setNoDelay?.(true);
        settle(
          ok({
            write: (data) => void socket.write(data),
            close: () => {
              reason ??= `the connection to ${where} was closed here`;
              socket.destroy();
            },
          }),
        );
      });
      socket.on('data', (chunk) => {
        if (reason === undefined && !splitter.push(chunk, (line) => reason === undefined && handlers.onLine(line))) {
          reason ??= `${where} sent a line of more than ${maxBytes} bytes`;
          socket.destroy();
        }
      });
      socket.on('error', (e: NodeJS.ErrnoException) => {
        if (live) reason ??= `the connection to ${where} broke (${e.code ?? e.message})`;
        else settle(err(connectFailure(where, e)));
      });
      socket.on('end', () => {
        reason ??= `the other end closed ${where}`;
      });
      socket.on('close', () => {
        if (live) handlers.onEnd(reason ?? `the connection to ${where} ended`);
      });
      return () => {
        if (!live) socket.destroy();
      };
    },
  );
}

function connectFailure(where: string, e: NodeJS.ErrnoException): HostFailure {
  switch (e.code) {
    case 'ENOENT':
      return { kind: 'unreachable', sentence: `there is no socket ${where}: is the guest running?`, errno: 'ENOENT' };
    case 'ECONNREFUSED':
      return { kind: 'unreachable', sentence: `nobody listens at ${where}: the guest has ended, or not begun` };
    case 'EACCES':
    case 'EPERM':
      return {
        kind: 'denied',
        sentence: `no permission to connect to ${where}: try as its owner or root`,
        errno: e.code,
      };
    case 'EAGAIN':
      return { kind: 'unreachable', sentence: `${where} is taken, and others wait for it already`, errno: 'EAGAIN' };
    case 'ENOTSOCK':
      return { kind: 'unreachable', sentence: `${where} is no socket` };
    default:
      return { kind: 'unreachable', sentence: `${where} cannot be reached (${e.code ?? e.message})` };
  }
}
