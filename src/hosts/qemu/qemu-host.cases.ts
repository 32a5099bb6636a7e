// A guest for tests: QEMU's memory devices and a guest agent, made up after recorded replies (test/golden/qemu; spec 7.1 to 7.3).
//
//   FakeQemu    a Monitor: devices, backends, events; refuses in QEMU 7.2's words; `cut` makes the next request fail so
//   FakeGuest   an Agent over a map of files: file verbs, and guest-exec of the few commands that dimmer runs
//
// Requests are written down in order. Nothing takes time, but a write that hangs, which ends when it is killed.

import { Buffer } from 'node:buffer';
import { gzipSync } from 'node:zlib';
import { err, ok, type Result } from '#base/result';
import type { Clock, HostFailure, Limits } from '#control/host';
import { EventLog, type QmpEvent } from './events.ts';
import { BATCH_SCRIPT, OBSERVE_SCRIPT } from './guest-files-batch.ts';
import type { Agent } from './qga-port.ts';
import { agentRefusal } from './qga-port.ts';
import { type Monitor, type QmpFailure, qmpRefusal } from './qmp-port.ts';

type Json = Readonly<Record<string, unknown>>;

export const LIMITS: Limits = { deadlineMs: 5000 };

/** Real time for deadlines, none for waiting. */
export const CLOCK: Clock = {
  nowMs: () => performance.now(),
  stamp: () => '2026-11-21T12:00:00.000Z',
  sleep: () => new Promise((resolve) => setTimeout(resolve, 1)),
};

const MiB = 2 ** 20;

export class FakeQemu implements Monitor {
  readonly name = 'fake.qmp';
  readonly requests: { readonly command: string; readonly args: Json | undefined }[] = [];
  readonly log = new EventLog();
  devices: { type: string; data: Json }[] = [];
  backends: { id: string; type: string; size: number; more: Json; busy?: boolean }[] = [
    { id: 'ram0', type: 'memory-backend-ram', size: 1024 * MiB, more: { share: false, prealloc: false } },
  ];
  /** What it leaves of the boot memory; QEMU's figure has the DIMMs besides. */
  balloon: number | undefined = 2048 * MiB;
  machine: Json | undefined = { size: 2048 * MiB, slots: 4, 'max-size': 16384 * MiB };
  /** What the guest does when it is asked to let a device go. Default: it does, at once. */
  onUnplug: (id: string) => void = (id) => {
    this.ost(id, 132);
    this.gone(id);
  };
  /** Asked before every request; a failure instead of an answer. */
  cut: (command: string) => QmpFailure | undefined = () => undefined;
  closed = false;

  #dimmBytes(): number {
    return this.devices.reduce((n, d) => n + (d.type === 'dimm' ? Number(d.data.size) : 0), 0);
  }

  commands(): string[] {
    return this.requests.map((r) => r.command);
  }

  listen(): ReturnType<Monitor['listen']> {
    return this.log.listen();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.log.close({ kind: 'closed', sentence: 'closed' });
  }

  say(event: string, data: Json): void {
    const said: QmpEvent = { event, data, atMs: 1_795_207_221_344 };
    this.log.push(said);
  }

  ost(device: string, status: number): void {
    this.say('ACPI_DEVICE_OST', { info: { device, source: 3, status, slot: '0', 'slot-type': 'DIMM' } });
  }

  gone(id: string): void {
    this.devices = this.devices.filter((d) => d.data.id !== id);
    this.say('DEVICE_DELETED', { device: id, path: `/machine/peripheral/${id}` });
  }

  dimm(id: string, addr: number, size: number): void {
    this.backends.push({ id: `mem-${id}`, type: 'memory-backend-ram', size, more: { share: false } });
    this.devices.push({ type: 'dimm', data: { id, addr, size, node: 1, slot: 0, memdev: `/objects/mem-${id}` } });
  }

  async execute(command: string, args: Json | undefined): Promise<Result<unknown, QmpFailure>> {
    if (this.closed) return err({ kind: 'closed', sentence: 'closed' });
    this.requests.push({ command, args });
    const cut = this.cut(command);
    if (cut !== undefined) return err(cut);
    const refuse = (desc: string, name = 'GenericError'): Result<never, QmpFailure> =>
      qmpRefusal(command, { class: name, desc });
    const id = String(args?.id);
    switch (command) {
      case 'query-status':
        return ok({ status: 'running', singlestep: false, running: true });
      case 'query-memory-devices':
        return ok(this.devices);
      case 'query-memory-size-summary':
        return ok({ 'base-memory': 2048 * MiB, 'plugged-memory': 0 });
      case 'query-acpi-ospm-status':
        return ok([{ source: 0, status: 0, slot: '0', 'slot-type': 'DIMM' }]);
      case 'query-balloon':
        return this.balloon === undefined
          ? refuse('No balloon device has been activated', 'DeviceNotActive')
          : ok({ actual: this.balloon + this.#dimmBytes() });
      case 'balloon':
        if (this.balloon === undefined) return refuse('No balloon device has been activated', 'DeviceNotActive');
        this.balloon = Number(args?.value) - this.#dimmBytes();
        return ok({});
      case 'query-memdev':
        return ok(this.backends.map((b) => ({ id: b.id, size: b.size, ...b.more })));
      case 'qom-get':
        return this.#qomGet(String(args?.path), String(args?.property), refuse);
      case 'qom-set':
        return ok({});
      case 'object-add':
        if (this.backends.some((b) => b.id === id))
          return refuse(`attempt to add duplicate property '${id}' to object (type 'container')`);
        if (Number(args?.size) > 2 ** 40) return refuse(`cannot set up guest memory '${id}': Cannot allocate memory`);
        this.backends.push({ id, type: String(args?.['qom-type']), size: Number(args?.size), more: { ...args } });
        return ok({});
      case 'object-del': {
        const backend = this.backends.find((b) => b.id === id);
        if (backend === undefined) return refuse(`object '${id}' not found`);
        if (backend.busy === true || this.devices.some((d) => d.data.memdev === `/objects/${id}`)) {
          backend.busy = false;
          return refuse(`object '${id}' is in use, can not be deleted`);
        }
        this.backends = this.backends.filter((b) => b !== backend);
        return ok({});
      }
      case 'device_add': {
        if (this.devices.some((d) => d.data.id === id)) return refuse(`Duplicate device ID '${id}'`);
        if (Number(args?.node) > 1)
          return refuse(`'DIMM property node has value ${args?.node}' which exceeds the number of numa nodes: 2`);
        const size = this.backends.find((b) => b.id === args?.memdev)?.size ?? 0;
        const data = { id, addr: args?.addr, size, node: args?.node, slot: 0, memdev: `/objects/${args?.memdev}` };
        this.devices.push({ type: 'dimm', data });
        return ok({});
      }
      case 'device_del':
        if (!this.devices.some((d) => d.data.id === id)) return refuse(`Device '${id}' not found`, 'DeviceNotFound');
        this.onUnplug(id);
        return ok({});
      default:
        return refuse(`The command ${command} has not been found`, 'CommandNotFound');
    }
  }

  #qomGet(
    path: string,
    property: string,
    refuse: (desc: string) => Result<never, QmpFailure>,
  ): Result<unknown, QmpFailure> {
    if (path === '/machine')
      return this.machine === undefined ? refuse(`Property '${property}' not found`) : ok(this.machine);
    const backend = this.backends.find((b) => `/objects/${b.id}` === path);
    if (backend === undefined) return refuse(`Device '${path}' not found`);
    const value = property === 'type' ? backend.type : backend.more[property];
    return value === undefined ? refuse(`Property '${backend.type}.${property}' not found`) : ok(value);
  }
}

/** What a write to a kernel file comes to. */
export type Written = 'done' | 'hangs' | { readonly refused: string };

type Command = { exited: boolean; exitcode?: number; signal?: number; out: string | Uint8Array; err: string };

export class FakeGuest implements Agent {
  readonly name = 'fake.qga';
  readonly requests: { readonly command: string; readonly args: Json | undefined }[] = [];
  readonly writes: string[] = [];
  /** Verbs that are switched off. */
  readonly off = new Set<string>();
  /** Programs that the guest does not have. */
  readonly without = new Set<string>();
  onWrite: (path: string, text: string) => Written = (path, text) => {
    if (path.endsWith('/state')) this.files.set(path, `${text.replace(/_.*/, '')}\n`);
    return 'done';
  };
  /** Output of commands is cut after so many characters, as an agent does after 16 MiB. */
  outMax = Number.POSITIVE_INFINITY;
  cut: (command: string) => HostFailure | undefined = () => undefined;
  readonly files: Map<string, string | undefined>;
  readonly words: ReadonlyMap<string, Uint8Array>;
  readonly denied: ReadonlyMap<string, string>;
  closed = false;
  readonly #handles = new Map<number, { path: string; at: number; text: string }>();
  readonly #running = new Map<number, Command>();
  #last = 1000;

  /** @param denied  path to the sentence with which opening it is refused */
  constructor(
    files: Map<string, string | undefined>,
    words: ReadonlyMap<string, Uint8Array> = new Map(),
    denied: ReadonlyMap<string, string> = new Map(),
  ) {
    this.files = files;
    this.words = words;
    this.denied = denied;
  }

  commands(): string[] {
    return this.requests.map((r) => r.command);
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  async verbs(): Promise<Result<ReadonlyMap<string, boolean>, HostFailure>> {
    const failed = this.cut('guest-info');
    if (failed !== undefined) return err(failed);
    const all = [
      ...['open', 'close', 'read', 'write', 'flush', 'seek'].map((v) => `guest-file-${v}`),
      'guest-exec',
      'guest-exec-status',
      'guest-get-memory-blocks',
    ];
    return ok(new Map(all.map((v) => [v, !this.off.has(v)])));
  }

  async execute(command: string, args: Json | undefined): Promise<Result<unknown, HostFailure>> {
    if (this.closed) return err({ kind: 'closed', sentence: 'closed' });
    this.requests.push({ command, args });
    const cut = this.cut(command);
    if (cut !== undefined) return err(cut);
    const refuse = (desc: string): Result<never, HostFailure> => agentRefusal(command, { class: 'GenericError', desc });
    if (this.off.has(command)) return refuse(`Command ${command} has been disabled: the command is not allowed`);
    const handle = this.#handles.get(Number(args?.handle));
    switch (command) {
      case 'guest-get-memory-blocks':
        return ok(
          this.#names('/sys/devices/system/memory')
            .filter((n) => /^memory\d+$/.test(n))
            .map((n) => ({ 'phys-index': Number(n.slice(6)), online: true, 'can-offline': true })),
        );
      case 'guest-file-open': {
        const path = String(args?.path);
        const words = this.denied.get(path);
        if (words !== undefined || !this.#opens(path))
          return refuse(
            `failed to open file '${path}' (mode: '${args?.mode}'): ${words ?? 'No such file or directory'}`,
          );
        this.#handles.set(++this.#last, { path, at: 0, text: '' });
        return ok(this.#last);
      }
      case 'guest-file-seek':
        if (handle !== undefined) handle.at = Number(args?.offset);
        return ok({ position: handle?.at, eof: false });
      case 'guest-file-read': {
        if (handle === undefined) return refuse("handle '0' has not been found");
        const bytes = this.#bytes(handle.path).subarray(handle.at, handle.at + Number(args?.count));
        handle.at += bytes.length;
        return ok({ count: bytes.length, 'buf-b64': Buffer.from(bytes).toString('base64'), eof: bytes.length === 0 });
      }
      case 'guest-file-write':
        if (handle !== undefined) handle.text += Buffer.from(String(args?.['buf-b64']), 'base64').toString();
        return ok({ count: handle?.text.length, eof: false });
      case 'guest-file-flush': {
        if (handle === undefined) return refuse("handle '0' has not been found");
        const outcome = this.#write(handle.path, handle.text);
        if (outcome === 'hangs') return err({ kind: 'timeout', sentence: 'no answer' });
        return outcome === 'done' ? ok({}) : refuse(`failed to flush file: ${outcome.refused}`);
      }
      case 'guest-file-close':
        this.#handles.delete(Number(args?.handle));
        return ok({});
      case 'guest-exec': {
        const path = String(args?.path);
        if (this.without.has(path))
          return refuse(
            `Guest agent command failed, error was 'Failed to execute child process “${path}” (No such file or directory)'`,
          );
        const input = Buffer.from(String(args?.['input-data'] ?? ''), 'base64').toString();
        this.#running.set(++this.#last, this.#run(path, (args?.arg ?? []) as string[], input));
        return ok({ pid: this.#last });
      }
      case 'guest-exec-status': {
        const run = this.#running.get(Number(args?.pid));
        if (run === undefined) return refuse("Invalid parameter 'pid'");
        const b64 = (x: string | Uint8Array): string => Buffer.from(x).toString('base64');
        const { exited, exitcode, signal } = run;
        if (!exited) return ok({ exited });
        const out = run.out.length === 0 ? {} : { 'out-data': b64(run.out.slice(0, this.outMax)) };
        return ok({ exited, exitcode, signal, ...out, ...(run.err === '' ? {} : { 'err-data': b64(run.err) }) });
      }
      default:
        return refuse(`The command ${command} has not been found`);
    }
  }

  #opens(path: string): boolean {
    return this.words.has(path) || this.files.has(path) || [...this.files.keys()].some((f) => f.startsWith(`${path}/`));
  }

  #bytes(path: string): Uint8Array {
    return this.words.get(path) ?? Buffer.from(this.files.get(path) ?? '');
  }

  #names(directory: string): string[] {
    const below = [...this.files.keys()].filter((f) => f.startsWith(`${directory}/`));
    return [...new Set(below.map((f) => f.slice(directory.length + 1).split('/')[0]))].sort();
  }

  #write(path: string, text: string): Written {
    this.writes.push(`${path} ${text}`);
    return this.onWrite(path, text);
  }

  #run(path: string, args: readonly string[], input: string): Command {
    const done = (out: string | Uint8Array, errors = ''): Command => ({ exited: true, exitcode: 0, out, err: errors });
    const script = args[1] ?? '';
    if (path === '/bin/sh' && script.startsWith('kill')) {
      const victim = this.#running.get(Number(args[2]));
      if (victim !== undefined) Object.assign(victim, { exited: true, signal: 15 });
      return done('');
    }
    if (path === 'sync') return done('');
    if (path === 'timeout') {
      if (args[1] !== 'dd') return { exited: true, exitcode: 127, out: '', err: 'timeout: no such command' };
      const file = args[2].replace(/^of=/, '');
      const failed = (words: string): Command => ({
        exited: true,
        exitcode: 1,
        out: '',
        err: `dd: error writing '${file}': ${words}\n0+1 records in\n0+0 records out\n`,
      });
      if (!this.files.has(file)) return failed('No such file or directory');
      const outcome = this.#write(file, input);
      if (outcome === 'hangs') return { exited: false, out: '', err: '' };
      return outcome === 'done' ? done('', '0+1 records in\n0+1 records out\n') : failed(outcome.refused);
    }
    if (script === BATCH_SCRIPT) return this.#batch(input);
    if (script === OBSERVE_SCRIPT) return this.#observe();
    const dd = /^dd if=(\S+) bs=1048576 skip=(\d+) count=(\d+)/.exec(script);
    if (dd !== null) {
      const from = Number(dd[2]) * MiB;
      return done(gzipSync(this.#bytes(dd[1]).subarray(from, from + Number(dd[3]) * MiB)));
    }
    return done('');
  }

  /** What grep -H '' prints of these files, on standard output and on standard error. */
  #grep(files: readonly string[]): { out: string; errors: string } {
    let out = '';
    let errors = '';
    for (const file of files) {
      const text = this.files.get(file);
      const words = this.denied.get(file) ?? (text === undefined ? 'No such file or directory' : undefined);
      if (words !== undefined) errors += `grep: ${file}: ${words}\n`;
      else out += (text ?? '').replace(/[^\n]*\n/g, (line) => `${file}:${line}`);
    }
    return { out, errors };
  }

  #batch(input: string): Command {
    const [directories, files] = input.split('\n\n', 2).map((part) => part.split('\n').filter((l) => l !== ''));
    const names = input.startsWith('\n') ? [] : directories;
    const wanted = input.startsWith('\n') ? input.split('\n').filter((l) => l !== '') : files;
    const listed = names.flatMap((d) => {
      const found = this.#names(d);
      return found.length === 0 ? [`${d}/*`] : found.map((n) => `${d}/${n}`);
    });
    const { out, errors } = this.#grep(wanted ?? []);
    return {
      exited: true,
      exitcode: 0,
      out: `${listed.join('\n')}${listed.length === 0 ? '' : '\n'}\n${out}END-of-dimmer\n`,
      err: errors,
    };
  }

  #observe(): Command {
    const all = [...this.files.keys()].sort();
    const links = all.filter((f) => /\/memory\d+\/node\d+$/.test(f) && f.startsWith('/sys/devices/system/memory/'));
    const wanted =
      /(block_size_bytes|auto_online_blocks|memory\/memory\d+\/(state|valid_zones)|hugepages\/\S+\/(nr|free)_hugepages|^\/proc\/(version|meminfo|buddyinfo))$/;
    const { out } = this.#grep(all.filter((f) => wanted.test(f)));
    return { exited: true, exitcode: 0, out: `${links.join('\n')}\n\n${out}END-of-dimmer\n`, err: '' };
  }
}
