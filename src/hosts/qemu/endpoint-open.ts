// Opening an endpoint: the Monitor and the Agent of a guest, over whichever transport its source names. Nothing is connected
// yet: the first request does.

import { VirshAgent, VirshMonitor, type VirshOptions } from './command-transport.ts';
import type { QemuSource } from './endpoint.ts';
import { AgentSocket } from './qga.ts';
import type { Agent } from './qga-port.ts';
import { QmpMonitor, type QmpOptions } from './qmp.ts';
import type { Monitor } from './qmp-port.ts';

/** `agent` is undefined where the source names none: then nothing inside the guest can be seen or done. */
export type OpenGuest = { readonly monitor: Monitor; readonly agent: Agent | undefined };

/** Close both when done. Never fails: whether somebody answers is told by the first request. */
export function openGuest(source: QemuSource, options: QmpOptions & VirshOptions = {}): OpenGuest {
  if (source.kind === 'libvirt')
    return { monitor: new VirshMonitor(source.domain, options), agent: new VirshAgent(source.domain, options) };
  return {
    monitor: new QmpMonitor(source.monitor, options),
    agent: source.agent === undefined ? undefined : new AgentSocket(source.agent),
  };
}
