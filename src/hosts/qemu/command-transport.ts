// Command transport: Monitor and Agent where somebody else holds the sockets: libvirt, asked by one virsh command a request.
//
//   execute ──> virsh qemu-monitor-command --domain DOMAIN --cmd JSON             its output is QEMU's reply, errors too
//   execute ──> virsh qemu-agent-command --domain DOMAIN --timeout N --cmd JSON   its output is the agent's return only
//   listen  ──> virsh qemu-monitor-event --domain DOMAIN --loop                   runs on; a line for each event
//
// No shell: JSON and domain are arguments of their own. libvirt syncs with the agent itself and lets one request at a time
// through, and carries strings of 4 MiB at most. virsh tells failures as sentences (in the C locale), which are sorted here; the one about the agent's own refusal
// carries the agent's words. Nobody tells when qemu-monitor-event has begun to listen, so that a first request waits for it:
// the time that a whole request took meanwhile, and the same once more.
//
// Invariants: every process that was started has ended once its request has; nothing but our own children is ever signalled.
// libvirt 9.0 tools/virsh-domain.c, src/qemu/qemu_agent.c.

import { type ChildProcess, spawn } from 'node:child_process';
import { setMaxListeners } from 'node:events';
import { err, ok, type Result } from '#base/result';
import type { HostFailure, Limits } from '#control/host';
import { type EventListener, EventLog, type QmpEvent } from './events.ts';
import { countdown, LineSplitter, MAX_LINE_BYTES, within } from './line-channel.ts';
import { parseVerbs } from './qga.ts';
import { type Agent, agentRefusal } from './qga-port.ts';
import { parseObject } from './qmp.ts';
import { type Monitor, type QmpFailure, qmpRefusal, short } from './qmp-port.ts';

export type VirshOptions = {
  /** The program and its first arguments; default: virsh, of the PATH. */
  readonly virsh?: readonly [string, ...string[]];
};

/** Linux takes arguments of 128 KiB (MAX_ARG_STRLEN). */
const ARGUMENT_BYTES = 128 * 1024 - 1;
/** Between SIGTERM and SIGKILL for a virsh that does not end. */
const END_MS = 1000;
/** At least so long from the start of qemu-monitor-event until it listens. Assumed: libvirt acknowledges nothing here. */
const ARM_MS = 200;

type Output = { readonly code: number | null; readonly out: string; readonly err: string };

/** What both sides have in common: a program to run, until it is closed. */
class Virsh {
  readonly domain: string;
  readonly ending = new AbortController();
  private readonly program: readonly [string, ...string[]];

  constructor(domain: string, options: VirshOptions) {
    this.domain = domain;
    this.program = options.virsh ?? ['virsh'];
    setMaxListeners(0, this.ending.signal); // one for each command under way
  }

  closed(): HostFailure {
    return { kind: 'closed', sentence: `the connection to libvirt domain ${this.domain} was closed before` };
  }

  start(args: readonly string[]): ChildProcess {
    const [file, ...first] = this.program;
    return spawn(file, [...first, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C', LANGUAGE: 'C' },
    });
  }

  /** One command, from start to end. `what` names the request in failures. */
  run(args: readonly string[], what: string, limits: Limits): Promise<Result<Output, HostFailure>> {
    const { ending } = this;
    if (ending.signal.aborted) return Promise.resolve(err(this.closed()));
    if (limits.signal?.aborted)
      return Promise.resolve(err({ kind: 'cancelled', sentence: 'cancelled before it was sent' }));
    if (args.some((a) => Buffer.byteLength(a) > ARGUMENT_BYTES))
      return Promise.resolve(err({ kind: 'unsupported', sentence: `${what} is too long for virsh's command line` }));
    return within<Output>(
      limits,
      (why) => ({
        kind: why,
        sentence:
          why === 'timeout'
            ? `virsh did not answer ${what} within ${Math.round(limits.deadlineMs)} ms; it may still be done`
            : `${what} was cancelled; it may still be done`,
      }),
      (settle) => {
        const child = this.start(args);
        const out: Buffer[] = [];
        const said: Buffer[] = [];
        child.stdout?.on('data', (b: Buffer) => out.push(b));
        child.stderr?.on('data', (b: Buffer) => said.push(b));
        child.on('error', (e: NodeJS.ErrnoException) => settle(err(this.notStarted(e))));
        child.on('close', (code) =>
          settle(ok({ code, out: Buffer.concat(out).toString(), err: Buffer.concat(said).toString() })),
        );
        const close = (): void => settle(err(this.closed()));
        ending.signal.addEventListener('abort', close);
        return () => {
          ending.signal.removeEventListener('abort', close);
          endChild(child);
        };
      },
    );
  }

  notStarted(e: NodeJS.ErrnoException): HostFailure {
    const [file] = this.program;
    if (e.code === 'ENOENT')
      return {
        kind: 'unsupported',
        sentence: `${file} is not here: install libvirt-clients, or use qemu:SOCKET`,
        errno: 'ENOENT',
      };
    return { kind: 'unsupported', sentence: `${file} could not be started (${e.code ?? e.message})` };
  }
}

function endChild(child: ChildProcess): void {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), END_MS);
  child.once('exit', () => clearTimeout(timer));
}

export class VirshMonitor implements Monitor {
  readonly name: string;
  private readonly virsh: Virsh;
  private readonly log = new EventLog();
  private events: { readonly child: ChildProcess; readonly armed: Promise<unknown> } | undefined;

  constructor(domain: string, options: VirshOptions = {}) {
    this.name = `libvirt:${domain}`;
    this.virsh = new Virsh(domain, options);
  }

  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    limits: Limits,
  ): Promise<Result<unknown, QmpFailure>> {
    const left = countdown(limits);
    if (this.events !== undefined) {
      const { armed } = this.events;
      const waited = await within<undefined>(
        left(),
        (why) => ({
          kind: why === 'timeout' ? 'unreachable' : why,
          sentence: 'virsh took too long to listen for events; nothing was sent',
        }),
        (settle) => void armed.then(() => settle(ok(undefined))),
      );
      if (!waited.ok) return waited;
    }
    return this.request(command, args, left());
  }

  private async request(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    limits: Limits,
  ): Promise<Result<unknown, QmpFailure>> {
    const json = JSON.stringify({ execute: command, ...(args && { arguments: args }) });
    const argv = ['qemu-monitor-command', '--domain', this.virsh.domain, '--cmd', json];
    const ran = await this.virsh.run(argv, command, limits);
    if (!ran.ok) return ran;
    if (ran.value.code !== 0) return err(virshFailure(this.virsh.domain, command, ran.value));
    const reply = parseObject(Buffer.from(ran.value.out));
    if (reply !== undefined && 'return' in reply) return ok(reply.return);
    if (reply !== undefined && 'error' in reply) return qmpRefusal(command, reply.error);
    return err({
      kind: 'protocol',
      sentence: `virsh's answer to ${command} is none`,
      evidence: [short(ran.value.out)],
    });
  }

  listen(): EventListener {
    if (!this.virsh.ending.signal.aborted) this.startEvents();
    return this.log.listen(async () => {
      if (!this.virsh.ending.signal.aborted) this.startEvents();
      return ok(undefined);
    });
  }

  private startEvents(): void {
    if (this.events !== undefined) return;
    const child = this.virsh.start(['qemu-monitor-event', '--domain', this.virsh.domain, '--loop']);
    const splitter = new LineSplitter(MAX_LINE_BYTES);
    let said = '';
    let gone: (() => void) | undefined;
    child.stdout?.on('data', (chunk: Buffer) => {
      splitter.push(chunk, (line) => {
        const event = parseVirshEvent(line.toString());
        if (event !== undefined) this.log.push(event);
      });
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString()).slice(-1000);
    });
    const lost = (why: string): void => {
      if (this.events?.child !== child) return;
      this.events = undefined;
      gone?.();
      this.log.push({ cut: `virsh qemu-monitor-event ended (${why}): events may have been missed` });
    };
    child.on('error', (e) => lost(e.message));
    child.on('close', (code) => lost(said.trim() || `exit code ${code}`));
    const ended = new Promise<void>((resolve) => {
      gone = resolve;
    });
    this.events = { child, armed: Promise.race([ended, this.arm()]) };
  }

  /** As long as a whole request takes from now on, and the same once more, and at least ARM_MS. */
  private async arm(): Promise<void> {
    const startMs = performance.now();
    await this.request('query-status', undefined, { deadlineMs: 10_000, signal: this.virsh.ending.signal });
    const tookMs = performance.now() - startMs;
    const restMs = Math.max(tookMs, ARM_MS - tookMs);
    const limits = { deadlineMs: restMs, signal: this.virsh.ending.signal };
    await within(
      limits,
      () => this.virsh.closed(),
      () => undefined,
    );
  }

  async close(): Promise<void> {
    this.virsh.ending.abort();
    this.log.close(this.virsh.closed());
    const { events } = this;
    this.events = undefined;
    if (events !== undefined) endChild(events.child);
  }
}

export class VirshAgent implements Agent {
  readonly name: string;
  private readonly virsh: Virsh;
  private known: ReadonlyMap<string, boolean> | undefined;

  constructor(domain: string, options: VirshOptions = {}) {
    this.name = `libvirt:${domain}`;
    this.virsh = new Virsh(domain, options);
  }

  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    limits: Limits,
  ): Promise<Result<unknown, HostFailure>> {
    const json = JSON.stringify({ execute: command, ...(args && { arguments: args }) });
    // Whole seconds, and at least one: libvirt's own deadline, in case ours ends virsh without ending the request.
    const seconds = Math.max(1, Math.ceil(limits.deadlineMs / 1000));
    const argv = ['qemu-agent-command', '--domain', this.virsh.domain, '--timeout', String(seconds), '--cmd', json];
    const ran = await this.virsh.run(argv, command, limits);
    if (!ran.ok) return ran;
    if (ran.value.code !== 0) return err(virshFailure(this.virsh.domain, command, ran.value));
    const reply = parseObject(Buffer.from(ran.value.out));
    if (reply !== undefined && 'return' in reply) return ok(reply.return);
    if (reply !== undefined && 'error' in reply) return agentRefusal(command, reply.error);
    return err({
      kind: 'protocol',
      sentence: `virsh's answer to ${command} is none`,
      evidence: [short(ran.value.out)],
    });
  }

  async verbs(limits: Limits): Promise<Result<ReadonlyMap<string, boolean>, HostFailure>> {
    if (this.known !== undefined) return ok(this.known);
    const info = await this.execute('guest-info', undefined, limits);
    if (!info.ok) return info;
    const verbs = parseVerbs(info.value);
    if (verbs.ok) this.known = verbs.value;
    return verbs;
  }

  async close(): Promise<void> {
    this.virsh.ending.abort();
  }
}

/** virsh's sentences, first match first, and what each comes to. */
const SENTENCES: readonly (readonly [RegExp, HostFailure['kind'], (domain: string) => string])[] = [
  [
    /guest agent is not configured/i,
    'unsupported',
    (d) => `domain ${d} has no channel for a guest agent (org.qemu.guest_agent.0)`,
  ],
  [
    /guest agent is not connected|agent not available for now/i,
    'unreachable',
    (d) => `the guest agent of domain ${d} is not connected: is qemu-guest-agent running in the guest?`,
  ],
  [
    /agent disappeared/i,
    'disconnected',
    (d) => `the guest agent of domain ${d} went away; it may or may not have been done`,
  ],
  [
    /guest agent is not responding|agent command timed out|agent didn't respond/i,
    'timeout',
    (d) => `the guest agent of domain ${d} did not answer in time; it may still do it`,
  ],
  [
    /state change lock/i,
    'unreachable',
    (d) => `libvirt is busy with another request for domain ${d}; nothing was sent`,
  ],
  [
    /failed to get domain|no domain with matching|domain not found/i,
    'unreachable',
    (d) => `libvirt knows no domain ${d}: virsh list --all shows them`,
  ],
  [/domain is not running/i, 'unreachable', (d) => `domain ${d} is not running`],
  [
    /permission denied|access denied|authentication/i,
    'denied',
    () => 'libvirt does not let this user in: try as root, or as a member of group libvirt',
  ],
  [
    /failed to connect to the hypervisor|failed to connect socket/i,
    'unreachable',
    () => 'libvirt does not answer: is it running?',
  ],
  [
    /end of file while|cannot recv data|client socket is closed/i,
    'disconnected',
    () => 'libvirt closed the connection; it may or may not have been done',
  ],
];

/** A virsh that ended with an exit code, as a failure. */
export function virshFailure(domain: string, command: string, output: Output): HostFailure {
  const lines = output.err.split('\n').flatMap((l) => (l.trim() === '' ? [] : [l.replace(/^error: /, '').trim()]));
  const text = lines.join('\n');
  const agent = /unable to execute QEMU agent command '[^']*': ([\s\S]*)/.exec(text);
  if (agent !== null) {
    const refusal = agentRefusal(command, { desc: (agent[1] as string).trim() });
    if (!refusal.ok) return refusal.error;
  }
  for (const [pattern, kind, sentence] of SENTENCES) {
    if (pattern.test(text)) return { kind, sentence: sentence(domain), evidence: lines };
  }
  const told = lines.at(-1) ?? `exit code ${output.code}`;
  return { kind: 'refused', sentence: `virsh refused ${command}: ${told}`, evidence: lines };
}

/**
 * A line of qemu-monitor-event; undefined when it is none.
 *   event DEVICE_DELETED at 1795265735.576123 for domain 'vm1': {"device":"d9","path":"/machine/peripheral/d9"}
 *   2026-11-21 12:55:35.576+0000: event RESUME for domain 'vm1': <null>          with --timestamp
 */
export function parseVirshEvent(line: string): QmpEvent | undefined {
  const match =
    /^(?:(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d+)(\+\d{4}): )?event (\S+)(?: at (\d+)\.(\d{6}))? for domain .*?: (\{.*\}|<null>)$/.exec(
      line,
    );
  if (match === null) return undefined;
  const [, day, time, zone, event, seconds, micros, details] = match as unknown as string[];
  const data = details === '<null>' ? {} : parseObject(Buffer.from(details as string));
  if (data === undefined) return undefined;
  const atMs =
    seconds !== undefined
      ? Number(seconds) * 1000 + Math.floor(Number(micros) / 1000)
      : day !== undefined
        ? Date.parse(`${day}T${time}${zone}`)
        : undefined;
  return { event: event as string, data, atMs };
}
