// QMP: a Monitor over QEMU's own socket: JSON lines, a greeting first, replies by id, events at any time.
//
//   socket opens ──> {"QMP": {version, capabilities}}                         the greeting; none: somebody else is connected
//                <── {"execute":"qmp_capabilities","id":"dimmer-1"}           no out-of-band: nothing here needs it
//                ──> {"return":{},"id":"dimmer-1"}                            now commands are taken
//                <── {"execute":"device_del","arguments":{...},"id":"dimmer-2"}
//                ──> {"event":"ACPI_DEVICE_OST",...}                          events go to the log (events.ts)
//                ──> {"return":{},"id":"dimmer-2"}                            replies to whoever sent that id
//
//   idle ──request──> connecting ──capabilities──> ready ──cut──> idle: every request that was under way has failed as
//                        └── refused: the requests that waited for it fail, the next one tries again      `disconnected`
//
// A QMP socket serves one client at a time; a second one is taken by the kernel's queue and hears nothing, so that a missing
// greeting is told as just that. Connecting waits, in bounded tries, only where this client was connected before (QEMU needs a
// moment to listen again) or the queue is full; a socket that is not there fails at once.
//
// Invariants: an id is used once in the life of a Monitor, so that no answer of an old connection answers a new request; lines
// that make no sense change nothing and are kept as evidence. Spec 7.1; QEMU 7.2 docs/interop/qmp-spec.txt.

import { err, ok, type Result } from '#base/result';
import type { HostFailure, Limits } from '#control/host';
import { type SocketAddress, sayAddress } from './endpoint.ts';
import { type EventListener, EventLog, parseEvent } from './events.ts';
import { connectLines, countdown, type LineChannel, within } from './line-channel.ts';
import { type Monitor, type QmpFailure, qmpRefusal, short } from './qmp-port.ts';

export type QmpOptions = {
  /** For the greeting and the capabilities. A QEMU that zeroes a large DIMM may be silent for seconds. */
  readonly greetingMs?: number;
};

const GREETING_MS = 10_000;
/** Waits before a next try to connect: 1.3 s in all. */
const RETRY_MS = [20, 40, 80, 160, 320, 640] as const;
/** Lines that made no sense, kept as evidence for the next failure. */
const NOISE_LINES = 8;

/** A request that was sent and not yet answered. */
type Pending = { readonly command: string; readonly settle: (result: Result<unknown, QmpFailure>) => void };

/** One connection, from greeting to cut. Pending requests by id. */
type Session = { readonly channel: LineChannel; readonly pending: Map<string, Pending> };

export class QmpMonitor implements Monitor {
  readonly name: string;
  private readonly address: SocketAddress;
  private readonly greetingMs: number;
  private readonly log = new EventLog();
  private session: Session | undefined;
  private connecting: Promise<Result<Session, HostFailure>> | undefined;
  private readonly ending = new AbortController();
  private lastId = 0;
  private wasConnected = false;
  private noise: string[] = [];

  /** Connects with the first request, not here. */
  constructor(address: SocketAddress, options: QmpOptions = {}) {
    this.address = address;
    this.name = sayAddress(address);
    this.greetingMs = options.greetingMs ?? GREETING_MS;
  }

  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    limits: Limits,
  ): Promise<Result<unknown, QmpFailure>> {
    const left = countdown(limits);
    const session = await this.ready(left());
    return session.ok ? this.request(session.value, command, args, left()) : session;
  }

  listen(): EventListener {
    return this.log.listen((limits) => this.ready(limits));
  }

  async close(): Promise<void> {
    this.ending.abort();
    this.log.close(this.closed());
    const { session } = this;
    this.session = undefined;
    for (const { settle } of [...(session?.pending.values() ?? [])]) settle(err(this.closed()));
    session?.channel.close();
    await this.connecting;
  }

  private closed(): HostFailure {
    return { kind: 'closed', sentence: `the connection to ${this.name} was closed before` };
  }

  /** A connection that takes commands; all who wait share one attempt, each within its own deadline. */
  private async ready(limits: Limits): Promise<Result<Session, HostFailure>> {
    if (this.ending.signal.aborted) return err(this.closed());
    if (limits.signal?.aborted === true) return err({ kind: 'cancelled', sentence: 'cancelled before it was sent' });
    if (this.session !== undefined) return ok(this.session);
    this.connecting ??= this.connect().finally(() => {
      this.connecting = undefined;
    });
    const { connecting } = this;
    return within<Session>(
      limits,
      (why) =>
        why === 'cancelled'
          ? { kind: 'cancelled', sentence: 'cancelled before it was sent' }
          : {
              kind: 'unreachable',
              sentence: `no QMP connection to ${this.name} within the deadline; nothing was sent`,
            },
      (settle) => void connecting.then(settle),
    );
  }

  private async connect(): Promise<Result<Session, HostFailure>> {
    for (let tries = 0; ; tries++) {
      const result = await this.connectOnce();
      if (this.ending.signal.aborted) {
        if (result.ok) result.value.channel.close();
        return err(this.closed());
      }
      if (result.ok) {
        this.session = result.value;
        this.wasConnected = true;
        return result;
      }
      const wait = RETRY_MS[tries];
      const worth = result.error.errno === 'EAGAIN' || (this.wasConnected && result.error.kind === 'unreachable');
      if (wait === undefined || !worth || result.error.evidence?.[0] === NO_GREETING) return result;
      await within(
        { deadlineMs: wait, signal: this.ending.signal },
        () => this.closed(),
        () => undefined,
      );
    }
  }

  private async connectOnce(): Promise<Result<Session, HostFailure>> {
    const limits = { deadlineMs: this.greetingMs, signal: this.ending.signal };
    const left = countdown(limits);
    const pending = new Map<string, Pending>();
    // Until the greeting has come, whoever waits for it; then replies and events.
    let greeted: ((line: Buffer) => void) | undefined;
    let cut: ((sentence: string) => void) | undefined;
    let live: Session | undefined;
    const early: Buffer[] = [];
    const connected = await connectLines(
      this.address,
      {
        onLine: (line) => {
          if (live !== undefined) this.receive(pending, line);
          else if (greeted !== undefined) greeted(line);
          else early.push(line);
        },
        onEnd: (sentence) => {
          cut?.(sentence);
          this.lost(pending, live, sentence);
        },
      },
      left(),
    );
    if (!connected.ok) return connected;
    const channel = connected.value;
    const greeting = await within<undefined>(
      left(),
      (why) => (why === 'cancelled' ? this.closed() : this.noGreeting()),
      (settle) => {
        greeted = (line) => {
          greeted = undefined; // what follows waits until the capabilities are asked for
          settle(checkGreeting(this.name, line));
        };
        cut = (sentence) => settle(err({ kind: 'unreachable', sentence: `${sentence} before it greeted` }));
        const first = early.shift();
        if (first !== undefined) greeted(first);
      },
    );
    if (!greeting.ok) {
      channel.close();
      return greeting;
    }
    live = { channel, pending };
    for (const line of early) this.receive(pending, line);
    const agreed = await this.request(live, 'qmp_capabilities', undefined, left());
    if (agreed.ok) return ok(live);
    channel.close();
    // Nothing of the caller's was sent yet, whatever broke.
    const { sentence, evidence } = agreed.error;
    return err({ kind: 'unreachable', sentence, ...(evidence === undefined ? {} : { evidence }) });
  }

  private noGreeting(): HostFailure {
    return {
      kind: 'unreachable',
      sentence:
        `${this.name} was opened, but sent no greeting within ${this.greetingMs} ms: a QMP socket serves one client at a time, ` +
        'and another one holds it (libvirt, another dimmer?); give QEMU a -qmp socket of its own for dimmer',
      evidence: [NO_GREETING],
    };
  }

  private request(
    session: Session,
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    limits: Limits,
  ): Promise<Result<unknown, QmpFailure>> {
    const id = `dimmer-${++this.lastId}`;
    return within<unknown, QmpFailure>(
      limits,
      (why) => ({
        kind: why,
        sentence:
          why === 'timeout'
            ? `QEMU did not answer ${command} within ${Math.round(limits.deadlineMs)} ms; it may still do it`
            : `${command} was cancelled; QEMU may still do it`,
        ...(this.noise.length === 0 ? {} : { evidence: this.noise.splice(0) }),
      }),
      (settle) => {
        session.pending.set(id, { command, settle });
        session.channel.write(`${JSON.stringify({ execute: command, ...(args && { arguments: args }), id })}\n`);
        return () => session.pending.delete(id);
      },
    );
  }

  private receive(pending: Map<string, Pending>, line: Buffer): void {
    const message = parseObject(line);
    if (message === undefined) return this.keepNoise(line);
    const event = parseEvent(message);
    if (event !== undefined) return this.log.push(event);
    const request = typeof message.id === 'string' ? pending.get(message.id) : undefined;
    if (request !== undefined) {
      const { command, settle } = request;
      if ('error' in message) settle(qmpRefusal(command, message.error));
      else if ('return' in message) settle(ok(message.return));
      else
        settle(err({ kind: 'protocol', sentence: `QEMU's answer to ${command} is none`, evidence: [short(message)] }));
      return;
    }
    // A reply that comes after its deadline is no noise: it was told that it may still be done.
    if (!(typeof message.id === 'string' && /^dimmer-\d+$/.test(message.id))) this.keepNoise(line);
  }

  private keepNoise(line: Buffer): void {
    if (line.length === 0) return;
    this.noise.push(`QEMU sent: ${short(line.toString('latin1'))}`);
    if (this.noise.length > NOISE_LINES) this.noise.shift();
  }

  private lost(pending: Map<string, Pending>, session: Session | undefined, sentence: string): void {
    if (this.session !== undefined && this.session === session) {
      this.session = undefined;
      this.log.push({ cut: `${sentence}: events may have been missed` });
    }
    for (const { command, settle } of [...pending.values()]) {
      const told = `${sentence} before ${command} was answered; it may or may not have been done`;
      settle(err({ kind: 'disconnected', sentence: told }));
    }
  }
}

/** Marks the failure that trying again would only prolong. */
const NO_GREETING = 'no greeting';

function checkGreeting(name: string, line: Buffer): Result<undefined, HostFailure> {
  const message = parseObject(line);
  if (message !== undefined && typeof message.QMP === 'object') return ok(undefined);
  const text = line.toString('latin1');
  const sentence = text.startsWith('QEMU ')
    ? `${name} is QEMU's human monitor (-monitor): dimmer needs a QMP socket (-qmp)`
    : `${name} is no QMP socket: it began with something else than QEMU's greeting`;
  return err({ kind: 'protocol', sentence, evidence: [short(text)] });
}

/** A JSON object, or undefined. */
export function parseObject(line: Buffer): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(line.toString('utf8'));
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}
