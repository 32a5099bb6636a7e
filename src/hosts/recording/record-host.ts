// recordHost: a Host that does what another one does, and writes it down.
//
//   caller ──call──> recordHost ──call──> inner          {"n":4,"call":"act",...}
//          <─answer─            <─answer─                {"n":4,"done":[...]}       written before the caller has it
//
// Changes nothing in between: the same limits go in, the same answer comes out, overlapping calls stay overlapping. For tests
// without a guest, and for bug reports: playHost plays it (play-host.ts), `dimmer apply --record FILE` writes it.
//
// Invariant: whatever the caller has seen is in the recording, because lines are appended before answers are given.

import type { Result } from '#base/result';
import { encodeBundle, type Gzip } from '#capture/bundle';
import type { Capture } from '#capture/capture';
import type { ActDone, Host, HostFailure, HostInfo, Limits } from '#control/host';
import type { Observation } from '#plan/observation';
import type { Action } from '#plan/plan';
import { toBase64 } from './base64.ts';
import { diff, type Json } from './json-diff.ts';
import { type Answer, type Call, type CaptureLine, RECORDING_HEAD } from './recording-lines.ts';

export type RecordOptions = {
  /** Captures are kept as bundles packed by this; absent: only that there was one. */
  readonly pack?: { readonly gzip: Gzip; readonly toolVersion: string };
};

/** @param append  takes whole lines with their newlines, the head first; what it throws ends the call */
export function recordHost(inner: Host, append: (text: string) => void, options: RecordOptions = {}): Host {
  let calls = 0;
  let last: Json = null;
  append(RECORDING_HEAD);
  const write = (n: number, what: object): void => append(`${JSON.stringify({ n, ...what })}\n`);

  const call = async <T>(
    asked: Call,
    signal: AbortSignal | undefined,
    run: (n: number) => Promise<T>,
    answer: (value: T) => Answer,
  ): Promise<T> => {
    const n = ++calls;
    write(n, asked);
    const cancel = (): void => write(n, { cancel: true });
    if (signal?.aborted === true) cancel();
    else signal?.addEventListener('abort', cancel, { once: true });
    try {
      const value = await run(n);
      write(n, answer(value));
      return value;
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  };
  const asked = <T>(
    what: Call,
    { signal }: Limits,
    run: () => Promise<Result<T, HostFailure>>,
    answer: (value: T) => Answer,
  ): Promise<Result<T, HostFailure>> => call(what, signal, run, (r) => (r.ok ? answer(r.value) : { failed: r.error }));

  return {
    info: (limits) =>
      asked<HostInfo>(
        { call: 'info', deadlineMs: limits.deadlineMs },
        limits,
        () => inner.info(limits),
        (i) => ({
          info: { ...i, can: [...i.can], cannot: [...i.cannot] },
        }),
      ),
    observe: (limits) =>
      asked<Observation>(
        { call: 'observe', deadlineMs: limits.deadlineMs },
        limits,
        () => inner.observe(limits),
        (o) => {
          const before = last;
          last = JSON.parse(JSON.stringify(o)) as Json; // as a reader will have it; and the caller's object may change
          return { observed: diff(before, last) ?? null };
        },
      ),
    act: (action: Action, limits) =>
      asked<ActDone>(
        { call: 'act', action, deadlineMs: limits.deadlineMs },
        limits,
        () => inner.act(action, limits),
        (d) => ({ done: d.evidence }),
      ),
    capture: (limits) =>
      asked<Capture>(
        { call: 'capture', deadlineMs: limits.deadlineMs },
        limits,
        () => inner.capture(limits),
        (c) => ({ capture: captureLine(c, options.pack) }),
      ),
    watch: (onLine, signal) =>
      call(
        { call: 'watch' },
        signal,
        (n) =>
          inner.watch((line) => {
            write(n, { line });
            onLine(line);
          }, signal),
        () => ({ ended: true }),
      ),
    close: () =>
      call(
        { call: 'close' },
        undefined,
        () => inner.close(),
        () => ({ ended: true }),
      ),
  };
}

function captureLine(c: Capture, pack: RecordOptions['pack']): CaptureLine {
  const { kind, name, takenAt } = c.origin;
  return {
    kind,
    name,
    ...(takenAt === undefined ? {} : { takenAt }),
    ...(pack === undefined ? {} : { bundle: toBase64(encodeBundle(c, pack)) }),
  };
}
