// Unplug: takes a DIMM out of a running guest, and finds out whether it went.
//
//   every block of its range offline?   read inside the guest; one that is not: refused, nothing was sent
//        │
//   listen, then device_del             QEMU answers at once, and that says nothing
//        │
//        ├── DEVICE_DELETED             gone: object-del, so that the host has its memory back
//        ├── ACPI_DEVICE_OST 132        in progress: go on waiting
//        ├── ACPI_DEVICE_OST, other     the guest refused (130, busy); no other event follows on x86 (lab fact 2)
//        ├── MEM_UNPLUG_ERROR, DEVICE_UNPLUG_GUEST_ERROR     refused; older and newer QEMUs, other machine types
//        ├── nothing                    every second QEMU is asked for its devices: an event may have been lost in a cut
//        └── the answer was lost        likewise, for LOST_MS: then `disconnected`, and the caller may ask again
//
// Why blocks must be offline before: the kernel's own eject offlines what it can, and when one block stays, it puts the others
// back by its default policy, Movable or not (lab fact 4); and where a page is pinned, it never ends, and nobody can stop it
// (lab fact 5). With every block offline before, there is nothing left that the guest could refuse.
//
// Invariants: device_del is sent at most once a call; "already in the process of unplug" is waited for as if it had been this call;
// every wait ends by the deadline. Spec 7.1, 7.2; Linux v6.12 drivers/acpi/acpi_memhotplug.c, scan.c: acpi_scan_hot_remove().

import type { ErrnoName } from '#base/errno';
import { err, ok, type Result } from '#base/result';
import type { ActDone, Clock, HostFailure, Limits } from '#control/host';
import type { Action } from '#plan/plan';
import { memoryDevices, withErrno } from './device-requests.ts';
import { type QmpEvent, sayEvent } from './events.ts';
import { countdown } from './line-channel.ts';
import { isDeviceNotFound, type Monitor, type QmpFailure } from './qmp-port.ts';

/** How often QEMU is asked for its devices while no event comes. */
const POLL_MS = 1000;
/** The backend is let go of a moment after the device: object-del is tried so often, with this in between. */
const RELEASE_TRIES = 10;
const RELEASE_MS = 100;
/** After a request whose answer was lost: so long without the DIMM going, and the caller may ask again. Assumed. */
const LOST_MS = 2000;

/** ACPI 6.5, 6.3.5 _OST: ejection request. */
const OST_EJECT = 3;
const OST_OK = 0;
const OST_IN_PROGRESS = 0x84;
const OST_WORDS: ReadonlyMap<number, string> = new Map([
  [0x80, 'not supported'],
  [0x81, 'in use'],
  [0x82, 'busy'],
  [0x83, 'something that depends on it is busy'],
]);

/** Inside the guest: the blocks of [addr, addr + size) that are not offline, each with its state: "34 online". */
export type NotOffline = (
  addr: number,
  size: number,
  limits: Limits,
) => Promise<Result<readonly string[], HostFailure>>;

/**
 * Takes DIMM `id` out and frees its memory. Refusals: ENOENT (neither such a DIMM nor its backend), EBUSY (a block is not
 * offline; the guest refused; QEMU still uses the backend). `timeout`: it was asked for and may still happen.
 */
export async function removeDimm(
  port: { readonly monitor: Monitor; readonly clock: Clock; readonly notOffline: NotOffline },
  action: Extract<Action, { do: 'remove-dimm' }>,
  limits: Limits,
): Promise<Result<ActDone, HostFailure>> {
  const { monitor, clock } = port;
  const { id } = action;
  const left = countdown(limits);
  const devices = await memoryDevices(monitor, left());
  if (!devices.ok) return devices;
  const dimm = devices.value.find((d) => d.type === 'dimm' && d.id === id);
  if (dimm === undefined)
    return freeBackend(port, { memdev: action.memdev, seen: false }, [`there is no DIMM ${id}`], left());

  const addr = Number(dimm.data.addr);
  const size = Number(dimm.data.size);
  const backend = { memdev: dimm.memdev, seen: true };
  const still = await port.notOffline(addr, size, left());
  if (!still.ok) return still;
  if (still.value.length > 0)
    return err({
      kind: 'refused',
      errno: 'EBUSY',
      sentence: `DIMM ${id} is not taken out while a memory block of it is not offline: ${some(still.value)}`,
      evidence: still.value.map((b) => `block ${b}`),
    });

  const events = monitor.listen();
  const evidence: string[] = [];
  // ═══ Point of no return: from here on the guest may let the DIMM go at any time, and there is no way to call it back.
  let lost: QmpFailure | undefined;
  let lostAtMs = 0;
  const asked = await monitor.execute('device_del', { id }, left());
  if (asked.ok) evidence.push(`device_del ${id}: asked`);
  else if (isDeviceNotFound(asked.error)) return freeBackend(port, backend, [asked.error.sentence], left());
  else if (isPending(asked.error)) evidence.push(`device_del ${id}: asked before, and still under way`);
  else if (asked.error.kind === 'disconnected') {
    evidence.push(asked.error.sentence);
    lost = asked.error;
    lostAtMs = left().deadlineMs;
  } else return err(withErrno(asked.error));

  let heard: { readonly refused: string; readonly errno: ErrnoName } | undefined;
  const hear = (event: QmpEvent): boolean => {
    if (!concerns(event, id)) return false;
    evidence.push(sayEvent(event));
    heard = refusalIn(event);
    return heard !== undefined || event.event === 'DEVICE_DELETED';
  };
  for (;;) {
    const { deadlineMs, signal } = left();
    const told = await events.next(hear, { deadlineMs: Math.min(POLL_MS, deadlineMs), ...(signal && { signal }) });
    if (heard !== undefined)
      return err({
        kind: 'refused',
        errno: heard.errno,
        sentence: `the guest keeps DIMM ${id}: ${heard.refused}`,
        evidence,
      });
    if (told.ok) return freeBackend(port, backend, evidence, left());
    const { kind, sentence } = told.error;
    if (kind === 'closed') return told;
    if (kind === 'cancelled')
      return err({
        kind,
        sentence: `waiting for DIMM ${id} to go was cancelled; the guest may still let it go`,
        evidence,
      });
    if (kind !== 'timeout') evidence.push(sentence);
    const now = await memoryDevices(monitor, left());
    if (now.ok && !now.value.some((d) => d.id === id)) {
      evidence.push(`QEMU does not name DIMM ${id} any more`);
      return freeBackend(port, backend, evidence, left());
    }
    if (!now.ok && now.error.kind === 'closed') return now;
    // Nobody knows whether QEMU heard it: the caller may ask again, which does no harm where it did.
    if (lost !== undefined && now.ok && lostAtMs - left().deadlineMs >= LOST_MS) return err({ ...lost, evidence });
    if (left().deadlineMs <= 0)
      return err({
        kind: 'timeout',
        sentence: `DIMM ${id} was not let go of within ${Math.round(limits.deadlineMs)} ms; the guest may still do it`,
        evidence,
      });
    // A connection that fails at once must not make this a busy loop.
    if (!now.ok || kind !== 'timeout') await clock.sleep(Math.min(RELEASE_MS, left().deadlineMs), signal);
  }
}

async function freeBackend(
  { monitor, clock }: { readonly monitor: Monitor; readonly clock: Clock },
  /** `seen`: its DIMM was there a moment ago. */
  { memdev, seen }: { readonly memdev: string; readonly seen: boolean },
  evidence: readonly string[],
  limits: Limits,
): Promise<Result<ActDone, HostFailure>> {
  const left = countdown(limits);
  for (let tries = 1; ; tries++) {
    const freed = await monitor.execute('object-del', { id: memdev }, left());
    if (freed.ok) return ok({ evidence: [...evidence, `object-del ${memdev}: done`] });
    const failure = withErrno(freed.error, evidence);
    // Freed by whoever else waited for the DIMM to go; but where there was no DIMM either, there was nothing to remove.
    if (failure.errno === 'ENOENT')
      return seen || tries > 1
        ? ok({ evidence: [...evidence, `object-del ${memdev}: it is not there any more`] })
        : err({ ...failure, sentence: `there is neither the DIMM nor its memory ${memdev}` });
    if (failure.errno !== 'EBUSY' || tries === RELEASE_TRIES)
      return err({
        ...failure,
        sentence: `the DIMM is gone, but its memory ${memdev} is not freed: ${failure.sentence}`,
      });
    await clock.sleep(RELEASE_MS, limits.signal);
  }
}

const isPending = (f: QmpFailure): boolean =>
  f.kind === 'refused' && /already in the process of unplug/.test(f.sentence);

/** Events name a device by id; OST in an object of its own, and without an id once the device is gone. */
function concerns({ data }: QmpEvent, id: string): boolean {
  const info = data.info as { readonly device?: unknown } | undefined;
  return data.device === id || info?.device === id || data.path === `/machine/peripheral/${id}`;
}

function refusalIn({ event, data }: QmpEvent): { readonly refused: string; readonly errno: ErrnoName } | undefined {
  switch (event) {
    case 'ACPI_DEVICE_OST': {
      const { source, status } = data.info as { readonly source?: unknown; readonly status?: unknown };
      if (source !== OST_EJECT || status === OST_OK || status === OST_IN_PROGRESS) return undefined;
      return { refused: OST_WORDS.get(Number(status)) ?? `ACPI status ${String(status)}`, errno: 'EBUSY' };
    }
    case 'MEM_UNPLUG_ERROR':
      return { refused: String(data.msg ?? 'no reason given'), errno: 'EBUSY' };
    case 'DEVICE_UNPLUG_GUEST_ERROR':
      return { refused: 'its driver refused', errno: 'EBUSY' };
    default:
      return undefined;
  }
}

const SHOWN_MAX = 4;
const some = (items: readonly string[]): string =>
  items.length <= SHOWN_MAX
    ? items.join(', ')
    : `${items.slice(0, SHOWN_MAX).join(', ')} and ${items.length - SHOWN_MAX} more`;
