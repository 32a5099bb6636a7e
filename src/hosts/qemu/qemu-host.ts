// QEMU host: a running QEMU/KVM guest as a Host: the hypervisor by QMP, the guest by its agent.
//
//   observe   one command in the guest ───────┐
//             six questions to QEMU, at once ─┴──> files ──> observe(tree) ──> Observation
//   act       blocks, caches, pools   guest-write.ts       in the guest
//             DIMMs, sizes, balloon   device-requests.ts, unplug.ts      asked of QEMU
//   capture   gatherAsync over guest-files.ts, and QEMU's replies as /qmp/... files
//   watch     events of QEMU as lines; the guest's own (uevents, kernel log) do not come out of a guest
//
// What it can do follows from what the agent may do; why not, `cannot` says. Without an agent only the hypervisor's side is there: no
// observation, hence no plan, and no removal, which looks at the guest's blocks first.
//
// Invariants: those of control/host.ts. A monitor and an agent reconnect by themselves; what was under way when a connection broke
// is told as such. Spec 7; QMP and agent verbs in device-requests.ts, unplug.ts, guest-write.ts.

import { performance } from 'node:perf_hooks';
import { unreachable } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import type { Capture } from '#capture/capture';
import { gatherAsync } from '#capture/gather';
import type { ActDone, Clock, Host, HostFailure, HostInfo, Limits } from '#control/host';
import { treeFromFiles } from '#kernfs/memory-tree';
import { blocksWithin, type Observation, observe, QMP_FILES } from '#plan/observation';
import type { Action } from '#plan/plan';
import {
  addDimm,
  type BackendKind,
  queryHypervisor,
  type ReplyFile,
  resizeVirtioMem,
  setBalloon,
} from './device-requests.ts';
import { sayEvent } from './events.ts';
import { GuestFiles, type GuestReach, guestReach } from './guest-files.ts';
import { guestSync, guestWrite } from './guest-write.ts';
import { countdown } from './line-channel.ts';
import type { Agent } from './qga-port.ts';
import type { Monitor } from './qmp-port.ts';
import { removeDimm } from './unplug.ts';

export type QemuHostPorts = {
  /** As the user named it: "qemu:/run/vm.qmp,agent=/run/vm.qga". */
  readonly name: string;
  readonly monitor: Monitor;
  /** Absent: the source names none. */
  readonly agent?: Agent;
  readonly clock: Clock;
  /** What new DIMMs are made of; absent: as the machine's other memory. */
  readonly backend?: BackendKind;
};

const MEMORY = '/sys/devices/system/memory';
/** After a cut, or events that were lost, before listening again. */
const LISTEN_AGAIN_MS = 500;
/** One wait for an event; the signal ends it sooner. */
const LISTEN_MS = 60_000;

const IN_GUEST = ['offline-block', 'online-block', 'drop-caches', 'compact', 'set-hugepages', 'auto-online'] as const;

/** A guest as a Host. Nothing is connected before the first request. */
export function qemuHost(ports: QemuHostPorts): Host {
  return new QemuHost(ports);
}

const NO_DEADLINE =
  "the guest's agent may not run commands (guest-exec): an offline that does not end by itself has no deadline in the guest, " +
  'and the agent answers nobody until it ends';
const BEHIND_LIBVIRT =
  "QEMU is asked directly: the domain's XML does not learn of it, and libvirt's next start has the memory it had";

class QemuHost implements Host {
  readonly #ports: QemuHostPorts;
  #reach: GuestReach | undefined;
  #closed = false;

  constructor(ports: QemuHostPorts) {
    this.#ports = ports;
  }

  async info(limits: Limits): Promise<Result<HostInfo, HostFailure>> {
    const left = countdown(limits);
    const cannot = new Map<Action['do'], string>();
    const can = new Set<Action['do']>();
    const say = (action: Action['do'], why: string | undefined): void => {
      if (why === undefined) can.add(action);
      else cannot.set(action, why);
    };
    const replies = await queryHypervisor(this.#ports.monitor, left());
    if (!replies.ok) return replies;
    const reply = (path: string): unknown => JSON.parse(replies.value.find((f) => f.path === path)?.text ?? 'null');
    say('add-dimm', noRoomForDimms(reply(QMP_FILES.machine)));
    const devices = reply(QMP_FILES.devices) as readonly { readonly type?: unknown }[] | null;
    const virtioMem = devices?.some((d) => d.type === 'virtio-mem') === true;
    say('resize-virtio-mem', virtioMem ? undefined : 'the machine has no virtio-mem device');
    say('balloon', reply(QMP_FILES.balloon) === null ? 'the machine has no balloon device' : undefined);

    const reach = await this.#guest(left());
    let kernel = 'unknown';
    let blind: string | undefined;
    if (reach.ok) {
      const read = await new GuestFiles(reach.value, () => performance.now(), left()).read('/proc/version');
      if (read.kind === 'text') kernel = /^Linux version (\S+)/.exec(read.text)?.[1] ?? 'unknown';
      else blind = `nothing can be read in the guest: ${read.detail}`;
    } else if (NO_AGENT.has(reach.error.kind)) blind = reach.error.sentence;
    else return reach;
    const why = reach.ok ? writesNothing(reach.value) : blind;
    for (const action of IN_GUEST) say(action, why);
    say('remove-dimm', blind === undefined ? undefined : `whether its blocks are offline cannot be seen: ${blind}`);
    const notes: { action: Action['do']; sentence: string }[] = [];
    if (reach.ok && !reach.value.exec && can.has('offline-block')) {
      notes.push({ action: 'offline-block', sentence: NO_DEADLINE });
    }
    if (this.#ports.name.startsWith('libvirt:')) {
      for (const action of ['add-dimm', 'remove-dimm'] as const) notes.push({ action, sentence: BEHIND_LIBVIRT });
    }
    return ok({ kind: 'qemu', name: this.#ports.name, kernel, can, cannot, notes });
  }

  async observe(limits: Limits): Promise<Result<Observation, HostFailure>> {
    const left = countdown(limits);
    const reach = await this.#guest(left());
    if (!reach.ok) return reach;
    const files = new GuestFiles(reach.value, () => performance.now(), left());
    const [guest, replies] = await Promise.all([files.forObservation(), queryHypervisor(this.#ports.monitor, left())]);
    if (files.failed !== undefined) return err(files.failed);
    if (!replies.ok) return replies;
    const all = new Map(guest);
    for (const { path, text } of replies.value) all.set(path, text);
    const seen = observe(treeFromFiles(all));
    if (seen.ok) return seen;
    if (!reach.value.files && !reach.value.exec)
      return err({
        kind: 'denied',
        sentence: `nothing can be read in the guest: ${MAY_NOT_READ}`,
        evidence: [seen.error],
      });
    return err({ kind: 'protocol', sentence: `the guest makes no sense: ${seen.error}` });
  }

  async act(action: Action, limits: Limits): Promise<Result<ActDone, HostFailure>> {
    if (this.#closed) return err(CLOSED);
    if (limits.signal?.aborted === true) return err({ kind: 'cancelled', sentence: 'cancelled before it was begun' });
    const { monitor, clock, backend } = this.#ports;
    switch (action.do) {
      case 'add-dimm':
        return addDimm(monitor, action, backend, limits);
      case 'remove-dimm': {
        const notOffline = (addr: number, size: number, l: Limits): Promise<Result<readonly string[], HostFailure>> =>
          this.#notOffline(addr, size, l);
        return removeDimm({ monitor, clock, notOffline }, action, limits);
      }
      case 'resize-virtio-mem':
        return resizeVirtioMem(monitor, action, limits);
      case 'balloon':
        return setBalloon(monitor, action.bytes, limits);
      case 'offline-block':
        return this.#write(`${MEMORY}/memory${action.block}/state`, 'offline', limits);
      case 'online-block': {
        const word = action.zone === 'default' ? 'online' : `online_${action.zone}`;
        return this.#write(`${MEMORY}/memory${action.block}/state`, word, limits);
      }
      case 'drop-caches':
        return this.#dropCaches(String(action.what), limits);
      case 'compact':
        return action.node === undefined
          ? this.#write('/proc/sys/vm/compact_memory', '1', limits)
          : this.#write(`/sys/devices/system/node/node${action.node}/compact`, '1', limits);
      case 'set-hugepages': {
        const place = action.node === undefined ? '/sys/kernel/mm' : `/sys/devices/system/node/node${action.node}`;
        const pool = `${place}/hugepages/hugepages-${action.pageBytes / 1024}kB`;
        return this.#write(`${pool}/nr_hugepages`, String(action.pages), limits);
      }
      case 'auto-online':
        return this.#write(`${MEMORY}/auto_online_blocks`, action.word, limits);
      default:
        return unreachable(action);
    }
  }

  async capture(limits: Limits): Promise<Result<Capture, HostFailure>> {
    const left = countdown(limits);
    const reach = await this.#guest(left());
    if (!reach.ok) return reach;
    if (!reach.value.files && !reach.value.exec) return err({ kind: 'denied', sentence: MAY_NOT_READ });
    const files = new GuestFiles(reach.value, () => performance.now(), left());
    let failed: HostFailure | undefined;
    const replies = async (): Promise<readonly ReplyFile[]> => {
      const got = await queryHypervisor(this.#ports.monitor, left());
      if (got.ok) return got.value;
      failed = got.error;
      return [];
    };
    const takenAt = this.#ports.clock.stamp();
    const capture = await gatherAsync(files, { kind: 'guest', name: this.#ports.name, takenAt }, replies);
    failed ??= files.failed;
    if (failed !== undefined) return err(failed);
    if (capture === undefined)
      return err({
        kind: 'unsupported',
        sentence: 'the guest shows neither /proc/zoneinfo nor memory blocks: is it Linux?',
      });
    return ok(capture);
  }

  async watch(onLine: (line: string) => void, signal: AbortSignal): Promise<void> {
    const { monitor, clock } = this.#ports;
    const events = monitor.listen();
    onLine("watching QEMU's events; the guest's own (uevents, kernel log) cannot be seen from outside");
    while (!signal.aborted && !this.#closed) {
      const next = await events.next(() => true, { deadlineMs: LISTEN_MS, signal });
      if (next.ok) {
        const at = next.value.atMs === undefined ? clock.stamp() : new Date(next.value.atMs).toISOString();
        onLine(`${at} ${sayEvent(next.value)}`);
        continue;
      }
      const { kind, sentence } = next.error;
      if (kind === 'cancelled' || kind === 'closed') return;
      if (kind === 'timeout') continue;
      onLine(`${clock.stamp()} ${sentence}`);
      await clock.sleep(LISTEN_AGAIN_MS, signal);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([this.#ports.monitor.close(), this.#ports.agent?.close()]);
  }

  /** The agent and what it may do. Asked until it has answered once; a restarted agent has the same configuration. */
  async #guest(limits: Limits): Promise<Result<GuestReach, HostFailure>> {
    if (this.#closed) return err(CLOSED);
    if (this.#reach !== undefined) return ok(this.#reach);
    const { agent } = this.#ports;
    if (agent === undefined) return err({ kind: 'unsupported', sentence: NO_AGENT_NAMED });
    const reach = await guestReach(agent, limits);
    if (reach.ok) this.#reach = reach.value;
    return reach;
  }

  async #write(path: string, text: string, limits: Limits): Promise<Result<ActDone, HostFailure>> {
    const left = countdown(limits);
    const reach = await this.#guest(left());
    return reach.ok ? guestWrite(reach.value, path, text, left()) : reach;
  }

  /** Only clean pages are dropped: dirty ones are written back first. */
  async #dropCaches(what: string, limits: Limits): Promise<Result<ActDone, HostFailure>> {
    const left = countdown(limits);
    const reach = await this.#guest(left());
    if (!reach.ok) return reach;
    const synced = await guestSync(reach.value, left());
    if (!synced.ok) return synced;
    const dropped = await guestWrite(reach.value, '/proc/sys/vm/drop_caches', what, left());
    if (!dropped.ok) return dropped;
    const said = synced.value ? 'sync: done' : 'no sync before: the agent cannot run one, dirty pages stay';
    return ok({ evidence: [said, ...dropped.value.evidence] });
  }

  async #notOffline(addr: number, size: number, limits: Limits): Promise<Result<readonly string[], HostFailure>> {
    const seen = await this.observe(limits);
    if (!seen.ok) return seen;
    const within = new Set(blocksWithin(seen.value, addr, size));
    return ok(
      seen.value.blocks.filter((b) => within.has(b.id) && b.state !== 'offline').map((b) => `${b.id} ${b.state}`),
    );
  }
}

const CLOSED: HostFailure = { kind: 'closed', sentence: 'the connection to this guest was closed before' };

const NO_AGENT_NAMED = 'no guest agent is named (agent=SOCKET): nothing inside the guest can be seen or done';

const MAY_NOT_READ =
  "the guest's agent may neither read files nor run commands: allow guest-file-open, -read and -close, or guest-exec and " +
  'guest-exec-status, in its configuration (BLOCK_RPCS or FILTER_RPC_ARGS in /etc/sysconfig/qemu-ga, ' +
  'block-rpcs or allow-rpcs in /etc/qemu/qemu-ga.conf)';

/** Failures to reach the agent that leave the hypervisor's side usable. */
const NO_AGENT: ReadonlySet<HostFailure['kind']> = new Set(['unsupported', 'unreachable', 'denied', 'timeout']);

/** Of qom-get /machine memory, QEMU 7.1 and later; an older one is simply asked when it comes to it. */
function noRoomForDimms(machine: unknown): string | undefined {
  const { size, slots, 'max-size': max } = (machine ?? {}) as Readonly<Record<string, unknown>>;
  const room = typeof max !== 'number' || typeof size !== 'number' || max > size;
  return room && slots !== 0 ? undefined : 'QEMU was started without room for it: -m SIZE,slots=N,maxmem=MAX';
}

const writesNothing = (reach: GuestReach): string | undefined =>
  reach.exec || reach.writes
    ? undefined
    : "the guest's agent may neither run commands (guest-exec) nor write files (guest-file-write)";
