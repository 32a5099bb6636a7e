// Events: what QEMU says without being asked, kept so that nobody who listened before misses one.
//
//   push ──> │ e17 │ e18 │ cut │ e19 │ ... │      a ring of the newest entries, each with a number that only ascends
//                    ▲           ▲
//                    │           └── listener made before a device_del: next() finds the DEVICE_DELETED that
//                    │               came while the reply to device_del was still under way
//                    └── listener of a watcher that has not come round yet
//
// A listener is a cursor, made BEFORE the command is sent. next() goes on from where the last next() stopped: an event
// that does not match is passed over, and seen by `match`, so that a caller can keep it as evidence. What could not be heard
// is told, never skipped: a cut connection is an entry of its own (`disconnected`: events of the gap are lost), and so is
// falling behind by more than the ring holds.
//
// Invariants: numbers ascend by one; entries before `first` are gone; a waiter is woken by every push. Spec 7.2.

import { err, ok, type Result } from '#base/result';
import type { HostFailure, Limits } from '#control/host';
import { within } from './line-channel.ts';

export type QmpEvent = {
  /** "DEVICE_DELETED". */
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** QEMU's clock, milliseconds since 1970; undefined where the transport does not tell. */
  readonly atMs: number | undefined;
};

export interface EventListener {
  /**
   * The next event after the cursor for which `match` is true, connecting first if need be. Ends as `timeout` (none came),
   * `cancelled`, `closed`, `disconnected` (once a cut; ask again to go on), or `protocol` (once after entries were lost).
   */
  next(match: (event: QmpEvent) => boolean, limits: Limits): Promise<Result<QmpEvent, HostFailure>>;
}

type Cut = { readonly cut: string };

/** How many entries are kept: a DIMM of 64 blocks is refused with about as many OST events; a watcher polls faster. */
const RING = 1024;

export class EventLog {
  private readonly entries: (QmpEvent | Cut)[] = [];
  private first = 0;
  private readonly waiters = new Set<() => void>();
  private ended: HostFailure | undefined;
  private readonly keep: number;

  constructor(keep = RING) {
    this.keep = keep;
  }

  /** The number that the next entry gets. */
  get end(): number {
    return this.first + this.entries.length;
  }

  push(entry: QmpEvent | Cut): void {
    this.entries.push(entry);
    if (this.entries.length > this.keep) {
      this.entries.shift();
      this.first++;
    }
    this.wake();
  }

  /** No more events, ever: waiting listeners end with this, and later ones when they have read what is left. */
  close(failure: HostFailure): void {
    this.ended ??= failure;
    this.wake();
  }

  /** @param ready  asked before waiting: connects, where nothing would come otherwise */
  listen(ready?: (limits: Limits) => Promise<Result<unknown, HostFailure>>): EventListener {
    let cursor = this.end;
    /** What lies after the cursor; undefined: nothing yet that would answer. */
    const scan = (match: (event: QmpEvent) => boolean): Result<QmpEvent, HostFailure> | undefined => {
      if (cursor < this.first) {
        const lost = this.first - cursor;
        cursor = this.first;
        return err({ kind: 'protocol', sentence: `${lost} events came faster than they were read, and are lost` });
      }
      while (cursor < this.end) {
        const entry = this.entries[cursor++ - this.first] as QmpEvent | Cut;
        if ('cut' in entry) return err({ kind: 'disconnected', sentence: entry.cut });
        if (match(entry)) return ok(entry);
      }
      return this.ended === undefined ? undefined : err(this.ended);
    };
    return {
      next: async (match, limits) => {
        const now = scan(match);
        if (now !== undefined) return now;
        return within<QmpEvent>(
          limits,
          (why) => ({
            kind: why,
            sentence:
              why === 'timeout' ? `no such event within ${limits.deadlineMs} ms` : 'waiting for an event was cancelled',
          }),
          (settle) => {
            const look = (): void => {
              const found = scan(match);
              if (found !== undefined) settle(found);
            };
            this.waiters.add(look);
            void ready?.(limits).then((r) => {
              if (!r.ok) settle(r);
            });
            return () => this.waiters.delete(look);
          },
        );
      },
    };
  }

  private wake(): void {
    for (const look of [...this.waiters]) look();
  }
}

/** An event as QEMU sends it; undefined when it is none. */
export function parseEvent(message: Readonly<Record<string, unknown>>): QmpEvent | undefined {
  const { event, data, timestamp } = message;
  if (typeof event !== 'string') return undefined;
  const at = timestamp as { seconds?: unknown; microseconds?: unknown } | undefined;
  const seconds = Number(at?.seconds ?? Number.NaN);
  // QEMU says -1 when the host's clock did not answer (docs/interop/qmp-spec).
  const atMs = seconds >= 0 ? seconds * 1000 + Math.floor(Number(at?.microseconds ?? 0) / 1000) : undefined;
  return { event, data: isRecord(data) ? data : {}, atMs };
}

const isRecord = (x: unknown): x is Readonly<Record<string, unknown>> =>
  typeof x === 'object' && x !== null && !Array.isArray(x);

/** "DEVICE_DELETED {"device":"dimm1"}": for evidence and watchers. */
export const sayEvent = (e: QmpEvent): string => `${e.event} ${JSON.stringify(e.data)}`;
