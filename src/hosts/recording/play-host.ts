// playHost: a Host that answers as it is written in a recording, strictly in order.
//
//   lines      call 4 ─ cancel 4 ─ answer 4 ─ call 5 ─ line 3 ─ answer 5 ─ ...
//              └ waits for the caller to make that very call
//                       └ waits for the caller's signal
//                                  └ given at once: no time passes in a recording
//
// A call that is not the one that comes next is a failure of kind `protocol` that names both; from then on nothing is
// played any more, because whatever would follow belongs to another story. Behind the end of the recording every call fails
// as `disconnected`, and so does one that was under way when it broke off. After close: `closed`.
//
// Deadlines count for what is not written in the recording: an answer that waits for a call that the caller does not make.
// A request that is cancelled where the recording's was not ends as `cancelled`, and nothing is played any more.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { decodeBundle, type Gunzip } from '#capture/bundle';
import type { Capture, CaptureOrigin } from '#capture/capture';
import type { ActDone, Clock, Host, HostFailure, HostInfo, Limits } from '#control/host';
import type { Observation } from '#plan/observation';
import { sayAction } from '#plan/plan';
import { fromBase64 } from './base64.ts';
import { type Json, patch } from './json-diff.ts';
import {
  type Answer,
  type Call,
  type CaptureLine,
  type RecordingLine,
  readRecording,
  sayCall,
} from './recording-lines.ts';

export type PlayOptions = {
  readonly clock: Clock;
  /** Unpacks recorded captures; absent: a capture is `unsupported`. */
  readonly gunzip?: Gunzip;
};

type Pending = {
  readonly answer: (a: Answer) => void;
  readonly onLine?: (line: string) => void;
  readonly signal: AbortSignal | undefined;
};

/** @returns one sentence for a text that is no recording */
export function playHost(text: string, options: PlayOptions): Result<Host, string> {
  const lines = readRecording(text);
  return lines.ok ? ok(new Player(lines.value, options)) : lines;
}

const failure = (kind: HostFailure['kind'], sentence: string): HostFailure => ({ kind, sentence });
const CLOSED = failure('closed', 'the host has been closed');
const CANCELLED = failure('cancelled', 'cancelled by its caller');
const ENDS = failure('disconnected', 'the recording ends here');

class Player implements Host {
  readonly #lines: readonly RecordingLine[];
  readonly #options: PlayOptions;
  /** The line that comes next. */
  #at = 0;
  readonly #pending = new Map<number, Pending>();
  #last: Json = null;
  #closed = false;
  /** Why nothing is played any more. */
  #over: HostFailure | undefined;

  constructor(lines: readonly RecordingLine[], options: PlayOptions) {
    this.#lines = lines;
    this.#options = options;
  }

  info(limits: Limits): Promise<Result<HostInfo, HostFailure>> {
    return this.#ask({ call: 'info', deadlineMs: limits.deadlineMs }, limits, (a) => {
      assert('info' in a, 'readRecording matches answers to calls');
      return ok({ ...a.info, can: new Set(a.info.can), cannot: new Map(a.info.cannot) });
    });
  }

  observe(limits: Limits): Promise<Result<Observation, HostFailure>> {
    return this.#ask({ call: 'observe', deadlineMs: limits.deadlineMs }, limits, (a) => {
      assert('observed' in a, 'readRecording matches answers to calls');
      return ok(structuredClone(this.#last) as unknown as Observation); // an observation, when it was written
    });
  }

  act(action: Extract<Call, { call: 'act' }>['action'], limits: Limits): Promise<Result<ActDone, HostFailure>> {
    return this.#ask({ call: 'act', action, deadlineMs: limits.deadlineMs }, limits, (a) => {
      assert('done' in a, 'readRecording matches answers to calls');
      return ok({ evidence: a.done });
    });
  }

  capture(limits: Limits): Promise<Result<Capture, HostFailure>> {
    return this.#ask({ call: 'capture', deadlineMs: limits.deadlineMs }, limits, (a) => {
      assert('capture' in a, 'readRecording matches answers to calls');
      return unpack(a.capture, this.#options.gunzip);
    });
  }

  async watch(onLine: (line: string) => void, signal: AbortSignal): Promise<void> {
    const ended = await this.#begin({ call: 'watch' }, signal, undefined, onLine);
    if (!ended.ok && !signal.aborted) onLine(ended.error.sentence);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    if (this.#over === undefined && this.#next()?.call === 'close')
      await this.#begin({ call: 'close' }, undefined, undefined);
    this.#closed = true;
    this.#end(CLOSED);
  }

  async #ask<T>(
    call: Call,
    limits: Limits,
    read: (a: Answer) => Result<T, HostFailure>,
  ): Promise<Result<T, HostFailure>> {
    const said = await this.#begin(call, limits.signal, limits.deadlineMs);
    if (!said.ok) return said;
    return 'failed' in said.value ? err(said.value.failed) : read(said.value);
  }

  /** The call that comes next in the recording, if it is a call. */
  #next(): (Call & { readonly n: number }) | undefined {
    const line = this.#lines[this.#at];
    return line !== undefined && 'call' in line ? line : undefined;
  }

  async #begin(
    call: Call,
    signal: AbortSignal | undefined,
    deadlineMs: number | undefined,
    onLine?: (line: string) => void,
  ): Promise<Result<Answer, HostFailure>> {
    if (this.#closed) return err(CLOSED);
    if (this.#over !== undefined) return err(this.#over);
    const next = this.#next();
    if (next === undefined || !sameCall(call, next)) {
      if (this.#at >= this.#lines.length) return err(ENDS);
      const comes = next === undefined ? `the signal of call ${this.#lines[this.#at]?.n}` : sayCall(next, sayAction);
      const wrong = failure('protocol', `asked was ${sayCall(call, sayAction)}; in the recording comes ${comes}`);
      this.#end(wrong);
      return err(wrong);
    }
    this.#at++;
    const { n } = next;
    const waited = new AbortController();
    return new Promise<Result<Answer, HostFailure>>((resolve) => {
      const settle = (r: Result<Answer, HostFailure>): void => {
        this.#pending.delete(n);
        signal?.removeEventListener('abort', aborted);
        waited.abort();
        resolve(r);
      };
      const aborted = (): void => {
        this.#play();
        if (!this.#pending.has(n) || this.#wasCancelled(n)) return;
        // Not what was recorded: it ends here, and so does the story.
        if (call.call !== 'watch')
          this.#over ??= failure('protocol', `${sayCall(call, sayAction)} was cancelled; not so in the recording`);
        settle(err(CANCELLED));
      };
      this.#pending.set(n, {
        answer: (a) => settle('failed' in a ? err(a.failed) : ok(a)),
        ...(onLine === undefined ? {} : { onLine }),
        signal,
      });
      signal?.addEventListener('abort', aborted, { once: true });
      this.#play();
      if (!this.#pending.has(n)) return;
      if (signal?.aborted === true) aborted();
      if (deadlineMs !== undefined && this.#pending.has(n))
        void this.#options.clock.sleep(deadlineMs, waited.signal).then(() => {
          if (this.#pending.has(n)) settle(err(failure('timeout', `no answer within ${deadlineMs} ms`)));
        });
    });
  }

  /** Has the recording's own cancel of this call been played, so that its answer is still to come? */
  #wasCancelled(n: number): boolean {
    return this.#lines.slice(0, this.#at).some((l) => l.n === n && 'cancel' in l);
  }

  /** Plays all that needs nobody: answers, lines, signals that have come. */
  #play(): void {
    for (; this.#at < this.#lines.length && this.#over === undefined; this.#at++) {
      const line = this.#lines[this.#at] as RecordingLine;
      if ('call' in line) return;
      const pending = this.#pending.get(line.n);
      if ('cancel' in line) {
        if (pending !== undefined && pending.signal?.aborted !== true) return;
      } else if ('line' in line) {
        pending?.onLine?.(line.line);
      } else {
        if ('observed' in line) this.#last = patch(this.#last, line.observed ?? undefined);
        pending?.answer(line);
      }
    }
    // Broken off: nobody will answer what is still open. A watch stays until its caller ends it.
    if (this.#at >= this.#lines.length)
      for (const p of [...this.#pending.values()]) if (p.onLine === undefined) p.answer({ failed: ENDS });
  }

  /** Nothing is played any more; what is under way ends with the reason. */
  #end(why: HostFailure): void {
    this.#over ??= why;
    for (const p of [...this.#pending.values()]) p.answer({ failed: why });
  }
}

/** The deadline is the caller's business: a test may give less. */
function sameCall(a: Call, b: Call): boolean {
  if (a.call !== b.call) return false;
  return a.call !== 'act' || b.call !== 'act' || canonical(a.action) === canonical(b.action);
}

const canonical = (x: object): string => JSON.stringify(Object.entries(x).sort(([k], [l]) => (k < l ? -1 : 1)));

function unpack(line: CaptureLine, gunzip: Gunzip | undefined): Result<Capture, HostFailure> {
  if (line.bundle === undefined)
    return err(failure('unsupported', 'the recording does not keep the capture that was taken'));
  if (gunzip === undefined) return err(failure('unsupported', 'nobody here unpacks the captures of a recording'));
  const bytes = fromBase64(line.bundle);
  const read = bytes === undefined ? undefined : decodeBundle(bytes, { gunzip, name: 'a capture of the recording' });
  if (read === undefined) return err(failure('protocol', 'a capture of the recording is not base64'));
  if (!read.ok) return err(failure('protocol', read.error.sentence));
  const { kind, name, takenAt } = line;
  return ok({
    ...read.value,
    origin: { kind: kind as CaptureOrigin['kind'], name, ...(takenAt === undefined ? {} : { takenAt }) },
  });
}
