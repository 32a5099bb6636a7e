// From a live source's name to a Host: this machine, or a guest. Nothing is connected yet; the first request tells.

import { err, ok, type Result } from '#base/result';
import type { Host } from '#control/host';
import { linuxHost } from '#hosts/linux/linux-host';
import { openGuest } from '#hosts/qemu/endpoint-open';
import { parseQemuSource, qemuHost } from '#hosts/qemu/index';
import { type Complaint, EXIT } from './exit-code.ts';
import { kindOfSource, LIVE_FORMS } from './live-source.ts';
import { SYSTEM_CLOCK } from './system-clock.ts';

/**
 * @param apply  whether this machine may be changed (--apply typed out); a guest may, by whoever reaches its sockets
 * @returns a usage error for a path: a capture has nobody to ask
 */
export function openLiveHost(
  source: string,
  { apply }: { apply: boolean } = { apply: false },
): Result<Host, Complaint> {
  const kind = kindOfSource(source);
  if (!kind.ok) return kind;
  if (kind.value === 'host') return ok(linuxHost({ clock: SYSTEM_CLOCK, apply }));
  if (kind.value === 'path')
    return err({ exit: EXIT.USAGE, sentence: `${source} is a capture, which does not change: name ${LIVE_FORMS}` });
  const parsed = parseQemuSource(source);
  if (!parsed.ok) return err({ exit: EXIT.USAGE, sentence: parsed.error.replace(/\.$/, '') });
  const { monitor, agent } = openGuest(parsed.value);
  return ok(qemuHost({ name: source, monitor, ...(agent === undefined ? {} : { agent }), clock: SYSTEM_CLOCK }));
}
