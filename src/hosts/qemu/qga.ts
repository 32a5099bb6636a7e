// QGA: an Agent over the guest agent's socket: JSON lines with no greeting, no ids and no sign of life.
//
//   request n ── its deadline passes ──> given up                 nothing can be taken back: the agent may still answer
//   request n+1:
//      <── 0xFF {"execute":"guest-sync-delimited","arguments":{"id":4711}}      0xFF makes the agent drop half a request
//      ──> {"return": ...answer to n...}                                        stale: thrown away
//      ──> {"error": ..."JSON parse error, stray"...}                           its complaint about the 0xFF: thrown away
//      ──> 0xFF {"return":4711}                                                 the number just sent: from here on in step
//      <── {"execute":"guest-file-read",...}
//      ──> {"return":{...}}                                                     the next line is the answer
//
// In step or not is all the state there is: a new connection, a deadline that passed, a cancelled request, and an answer that
// makes no sense end it; a sync begins it. A guest whose agent was restarted keeps the connection open (virtio-serial), so
// that nobody answers: the sync is said again at growing intervals, and only the answer to the last one counts.
//
// Requests wait for their turn, as the agent does one thing after the other anyway; the wait counts against the deadline.
//
// Invariants: between two syncs, as many answers were read as requests sent; an answer is never taken for another's.
// QEMU 7.2 qga/main.c, qga/qapi-schema.json (guest-sync-delimited).

import { err, ok, type Result } from '#base/result';
import type { HostFailure, Limits } from '#control/host';
import { type SocketAddress, sayAddress } from './endpoint.ts';
import { connectLines, countdown, type LineChannel, within } from './line-channel.ts';
import { type Agent, agentRefusal, isDisabled } from './qga-port.ts';
import { parseObject } from './qmp.ts';
import { short } from './qmp-port.ts';

/** Between a sync and its repetition; doubled each time. */
const SYNC_AGAIN_MS = 1000;
/** Waits before a next try to connect where this client was connected before: 1.3 s in all. */
const RETRY_MS = [20, 40, 80, 160, 320, 640] as const;
/** For asking whether the file systems are frozen, once a verb turned out to be switched off. */
const FROZEN_MS = 2000;
/** The byte that delimits: it is in no UTF-8 text. */
const SENTINEL = 0xff;

/** One line of the agent. `delimited`: the answer to a sync. */
type Answer = { readonly delimited: boolean; readonly line: Buffer };

export class AgentSocket implements Agent {
  readonly name: string;
  private readonly address: SocketAddress;
  private channel: LineChannel | undefined;
  private inStep = false;
  private known: ReadonlyMap<string, boolean> | undefined;
  /** Whoever waits for the next line, and what to tell him when there is none. */
  private waiter: { readonly line: (answer: Answer) => void; readonly end: (f: HostFailure) => void } | undefined;
  private turns: Promise<unknown> = Promise.resolve();
  private readonly ending = new AbortController();
  private wasConnected = false;
  /** Starts anywhere, so that answers to a former client's syncs are told from ours. */
  private lastSync = Math.floor(Math.random() * 2 ** 30);

  /** Connects with the first request, not here. */
  constructor(address: SocketAddress) {
    this.address = address;
    this.name = sayAddress(address);
  }

  execute(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    limits: Limits,
  ): Promise<Result<unknown, HostFailure>> {
    return this.turn(limits, (left) => this.request(command, args, left));
  }

  verbs(limits: Limits): Promise<Result<ReadonlyMap<string, boolean>, HostFailure>> {
    return this.turn(limits, async (left) => {
      if (this.known !== undefined) return ok(this.known);
      const info = await this.request('guest-info', undefined, left);
      if (!info.ok) return info;
      const verbs = parseVerbs(info.value);
      if (verbs.ok) this.known = verbs.value;
      return verbs;
    });
  }

  async close(): Promise<void> {
    this.ending.abort();
    const { waiter, channel } = this;
    this.channel = undefined;
    this.waiter = undefined;
    waiter?.end(this.closed());
    channel?.close();
    await this.turns;
  }

  private closed(): HostFailure {
    return { kind: 'closed', sentence: `the connection to ${this.name} was closed before` };
  }

  /** Runs `work` when all earlier turns are over, connected and in step. */
  private async turn<T>(
    limits: Limits,
    work: (left: () => Limits) => Promise<Result<T, HostFailure>>,
  ): Promise<Result<T, HostFailure>> {
    const left = countdown(limits);
    const before = this.turns;
    let over: (() => void) | undefined;
    const mine = new Promise<void>((resolve) => {
      over = resolve;
    });
    this.turns = before.then(() => mine);
    try {
      const waited = await within<undefined>(
        left(),
        (why) =>
          why === 'cancelled'
            ? { kind: 'cancelled', sentence: 'cancelled before it was sent' }
            : {
                kind: 'unreachable',
                sentence: `the agent at ${this.name} was busy until the deadline; nothing was sent`,
              },
        (settle) => void before.then(() => settle(ok(undefined))),
      );
      if (!waited.ok) return waited;
      const ready = await this.ready(left);
      return ready.ok ? await work(left) : ready;
    } finally {
      over?.();
    }
  }

  private async ready(left: () => Limits): Promise<Result<undefined, HostFailure>> {
    if (this.ending.signal.aborted) return err(this.closed());
    const until = (ms = Number.POSITIVE_INFINITY): Limits => {
      const { deadlineMs, signal } = left();
      const signals = signal === undefined ? [this.ending.signal] : [this.ending.signal, signal];
      return { deadlineMs: Math.min(ms, deadlineMs), signal: AbortSignal.any(signals) };
    };
    for (let tries = 0; this.channel === undefined; tries++) {
      const connected = await connectLines(
        this.address,
        { onLine: (line) => this.receive(line), onEnd: (sentence) => this.lost(sentence) },
        until(),
      );
      if (this.ending.signal.aborted) {
        if (connected.ok) connected.value.close();
        return err(this.closed());
      }
      if (connected.ok) {
        this.channel = connected.value;
        this.wasConnected = true;
        this.outOfStep();
        break;
      }
      const wait = RETRY_MS[tries];
      const { error } = connected;
      const worth = error.errno === 'EAGAIN' || (this.wasConnected && error.kind === 'unreachable');
      if (wait === undefined || !worth || left().deadlineMs < wait) return connected;
      await within(
        until(wait),
        () => error,
        () => undefined,
      );
    }
    return this.inStep ? ok(undefined) : this.sync(left());
  }

  private outOfStep(): void {
    this.inStep = false;
    this.known = undefined;
  }

  private sync(limits: Limits): Promise<Result<undefined, HostFailure>> {
    let timer: NodeJS.Timeout | undefined;
    return this.wait<undefined>(
      limits,
      (why) =>
        why === 'cancelled'
          ? { kind: 'cancelled', sentence: 'cancelled before it was sent' }
          : {
              kind: 'unreachable',
              sentence:
                `the guest agent at ${this.name} did not answer within ${Math.round(limits.deadlineMs)} ms: is qemu-guest-agent ` +
                'running in the guest, and not busy? Or does another client hold its socket (libvirt?), which serves one at a time',
            },
      (settle) => {
        const say = (againMs: number): void => {
          const id = ++this.lastSync;
          const request = JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } });
          this.channel?.write(Buffer.concat([Buffer.of(SENTINEL), Buffer.from(`${request}\n`)]));
          timer = setTimeout(() => say(2 * againMs), againMs);
        };
        say(SYNC_AGAIN_MS);
        return ({ delimited, line }) => {
          const number = delimited ? parseObject(line)?.return : undefined;
          // Only the last one said: after an earlier one's answer comes a complaint about the next 0xFF. Seen on 7.2.
          if (number !== this.lastSync) return;
          this.inStep = true;
          settle(ok(undefined));
        };
      },
      () => clearTimeout(timer),
    );
  }

  private async request(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    left: () => Limits,
  ): Promise<Result<unknown, HostFailure>> {
    const answer = await this.ask(command, args, left());
    if (!answer.ok) return answer;
    const { value } = answer;
    if ('return' in value) return ok(value.return);
    const desc = String((value.error as { desc?: unknown } | undefined)?.desc);
    if (!isDisabled(desc)) return agentRefusal(command, value.error);
    // Some versions give the same words for a verb that was switched off and for frozen file systems.
    const { deadlineMs, ...rest } = left();
    const limits = { ...rest, deadlineMs: Math.min(deadlineMs, FROZEN_MS) };
    const status = await this.ask('guest-fsfreeze-status', undefined, limits);
    return agentRefusal(command, value.error, status.ok && status.value.return === 'frozen');
  }

  /** One request, and the next line as its answer. In step before, and after it when an answer came. */
  private ask(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    limits: Limits,
  ): Promise<Result<Readonly<Record<string, unknown>>, HostFailure>> {
    return this.wait(
      limits,
      (why) => {
        this.outOfStep();
        const told = why === 'timeout' ? `within ${Math.round(limits.deadlineMs)} ms` : 'before it was cancelled';
        return { kind: why, sentence: `the guest agent did not answer ${command} ${told}; it may still do it` };
      },
      (settle) => {
        this.channel?.write(`${JSON.stringify({ execute: command, ...(args && { arguments: args }) })}\n`);
        return ({ delimited, line }) => {
          if (delimited) return; // an answer to somebody else's sync
          const value = parseObject(line);
          if (value !== undefined && ('return' in value || 'error' in value)) return settle(ok(value));
          this.outOfStep();
          const evidence = [short(line.toString('latin1'))];
          settle(err({ kind: 'protocol', sentence: `the guest agent's answer to ${command} is none`, evidence }));
        };
      },
    );
  }

  /** Waits for lines. `begin` sends, and returns what to do with each line. */
  private wait<T>(
    limits: Limits,
    late: (why: 'timeout' | 'cancelled') => HostFailure,
    begin: (settle: (result: Result<T, HostFailure>) => void) => (answer: Answer) => void,
    end?: () => void,
  ): Promise<Result<T, HostFailure>> {
    return within<T>(limits, late, (settle) => {
      if (this.channel === undefined) {
        settle(err({ kind: 'unreachable', sentence: `the connection to ${this.name} is cut; nothing was sent` }));
        return;
      }
      const waiter = { line: begin(settle), end: (f: HostFailure) => settle(err(f)) };
      this.waiter = waiter;
      return () => {
        if (this.waiter === waiter) this.waiter = undefined;
        end?.();
      };
    });
  }

  private receive(line: Buffer): void {
    const at = line.lastIndexOf(SENTINEL);
    const answer = { delimited: at >= 0, line: at < 0 ? line : line.subarray(at + 1) };
    if (this.waiter !== undefined) this.waiter.line(answer);
    else if (!answer.delimited) this.outOfStep(); // nobody asked
  }

  private lost(sentence: string): void {
    this.channel = undefined;
    this.outOfStep();
    const { waiter } = this;
    this.waiter = undefined;
    waiter?.end({
      kind: 'disconnected',
      sentence: `${sentence} before it was answered; it may or may not have been done`,
    });
  }
}

/** What guest-info says: its commands by name, allowed or not. */
export function parseVerbs(value: unknown): Result<ReadonlyMap<string, boolean>, HostFailure> {
  const list = (value as { supported_commands?: unknown } | null)?.supported_commands;
  if (!Array.isArray(list))
    return err({ kind: 'protocol', sentence: 'guest-info tells no commands', evidence: [short(value)] });
  return ok(
    new Map((list as { name?: unknown; enabled?: unknown }[]).map((c) => [String(c.name), c.enabled === true])),
  );
}
