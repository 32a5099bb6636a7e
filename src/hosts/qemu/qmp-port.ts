// Monitor: QEMU's side of a guest, whatever carries the requests: a socket (qmp.ts) or a command per request
// (command-transport.ts).
//
//   const events = monitor.listen();                         // first: what comes from now on is kept
//   await monitor.execute('device_del', { id }, limits);     // "yes" means that the guest was asked, nothing more
//   await events.next((e) => e.event === 'DEVICE_DELETED' && e.data.device === id, limits);
//
// A reply is what QEMU said, not what is: an empty return to device_del, and an OST status 0, promise nothing (spec 7.2).
//
// Invariants for both: every request ends within its deadline; a request that was never sent ends as `unreachable`, `denied`,
// `unsupported`, `cancelled` or `closed`, and its sentence says so where it might be doubted; one that may have been done ends
// as `disconnected`, `timeout`, `cancelled`, `protocol` or `closed`.

import { err, type Result } from '#base/result';
import type { HostFailure, Limits } from '#control/host';
import type { EventListener } from './events.ts';

/** `qmpClass`: of a refusal, QEMU's error class. "DeviceNotFound" is the one that a caller acts on. */
export type QmpFailure = HostFailure & { readonly qmpClass?: string };

export interface Monitor {
  /** As a person would name it: the socket's path, the domain. */
  readonly name: string;
  /** The `return` member. Several may be under way at once. Reconnects after a cut, within the deadline. */
  execute(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    limits: Limits,
  ): Promise<Result<unknown, QmpFailure>>;
  /** Make it before sending the command whose event is waited for. */
  listen(): EventListener;
  /** Ends what is under way as `closed`. */
  close(): Promise<void>;
}

/** QEMU said no: `error` of its reply. */
export function qmpRefusal(command: string, error: unknown): Result<never, QmpFailure> {
  const { class: name, desc } = (error ?? {}) as { class?: unknown; desc?: unknown };
  if (typeof name !== 'string' || typeof desc !== 'string')
    return err({
      kind: 'protocol',
      sentence: `QEMU answered ${command} with an error that is none`,
      evidence: [short(error)],
    });
  const evidence = [`${name}: ${desc}`];
  if (name === 'CommandNotFound')
    return err({ kind: 'unsupported', sentence: `this QEMU does not know ${command}`, evidence, qmpClass: name });
  return err({ kind: 'refused', sentence: `QEMU refused ${command}: ${desc}`, evidence, qmpClass: name });
}

/** The device or object that was named is not there: for a removal, that it is done. */
export const isDeviceNotFound = (f: QmpFailure): boolean => f.qmpClass === 'DeviceNotFound';

/** JSON for evidence, cut to what a person reads. */
export function short(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? 'nothing');
  return text.length <= 200 ? text : `${text.slice(0, 197)}...`;
}
