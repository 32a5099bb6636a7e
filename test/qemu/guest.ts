// Guest: a real Debian kernel under QEMU (TCG), made for one scenario file, gone with it.
//
//   QEMU ── qmp.sock      for dimmer: one client at a time, so the harness stays away from it
//        ── harness.sock  a second monitor, for the harness: prepare, look, quit
//        ── agent.sock    the guest agent, for dimmer
//        ── command.sock  a shell in the guest over a virtio-serial port of its own: works while the agent does not
//        └─ console.log   the kernel's messages
//
//   2 nodes of half the memory each, one CPU each; hot-added memory comes offline until somebody puts it online
//
// No network, unix sockets in a folder of its own. A guest ends by `quit` or by the pid that was started here; should the test
// process die, the kernel ends the guest (setpriv --pdeathsig) where it can. Time is real here, and printed: boots, commands.

import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, inject } from 'vitest';
import type { BuiltGuest } from '../../tools/build-guest.mjs';
import { askAgent, connectWhenThere, onLines, Qmp, sleep } from './qmp.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** undefined: something is missing, and the lane is skipped; global-setup.ts has said what. */
    readonly guest: BuiltGuest | undefined;
    /** A folder in which executions keep others away; not the machine's own place. */
    readonly locks: string;
  }
}

export type GuestOptions = {
  readonly name: string;
  /** MiB, split evenly over the nodes. 2048 unless told. */
  readonly memoryMb?: number;
  readonly nodes?: 1 | 2;
  readonly slots?: number;
  readonly maxmem?: string;
  /** A disk with an ext2 of this size at /mnt/disk: for page cache. */
  readonly diskMb?: number;
  /** More kernel arguments. */
  readonly append?: string;
  /** More QEMU arguments: VIRTIO_MEM(...), BALLOON. */
  readonly devices?: readonly string[];
};

export type Ran = { readonly code: number; readonly out: string; readonly ms: number };

export type Block = {
  readonly id: number;
  readonly state: string;
  readonly zones: string;
  readonly node: number;
};

export const MIB = 2 ** 20;
export const GIB = 2 ** 30;

export const BALLOON: readonly string[] = ['-device', 'virtio-balloon-pci,id=balloon0'];

/** A virtio-mem device with nothing plugged yet. */
export const virtioMem = (o: { id: string; node: number; maxMb: number }): readonly string[] => [
  '-object',
  `memory-backend-ram,id=mem-${o.id},size=${o.maxMb}M`,
  '-device',
  `virtio-mem-pci,id=${o.id},memdev=mem-${o.id},node=${o.node},requested-size=0`,
];

/**
 * Scenarios on one guest, booted before the first and gone after the last, also when one fails. Skipped where there is no
 * guest: global-setup.ts has said why. Each scenario leaves the guest as it found it, or says so.
 */
export function describeQemu(options: GuestOptions, scenarios: (guest: () => Guest) => void): void {
  describe.skipIf(inject('guest') === undefined)(options.name, () => {
    let guest: Guest | undefined;
    beforeAll(async () => {
      guest = await Guest.boot(options);
    });
    afterAll(() => guest?.stop());
    scenarios(() => {
      if (guest === undefined) throw new Error(`${options.name}: the guest did not boot`);
      return guest;
    });
  });
}

const BOOT_MS = 120_000;
const COMMAND_MS = 120_000;
const PDEATHSIG = ['/usr/bin/setpriv', '/bin/setpriv'].find((f) => existsSync(f));

const alive = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of alive) child.kill('SIGKILL');
});

export class Guest {
  readonly name: string;
  /** Folder of the sockets, for files that go with this guest. */
  readonly dir: string;
  readonly qmpSocket: string;
  readonly agentSocket: string;
  readonly monitor: Qmp;
  readonly bootMs: number;
  readonly #child: ChildProcess;
  readonly #command: Socket;
  readonly #answers = new Map<string, (lines: readonly string[], code: number) => void>();
  #next = 1;

  private constructor(o: {
    name: string;
    dir: string;
    child: ChildProcess;
    monitor: Qmp;
    command: Socket;
    bootMs: number;
  }) {
    this.name = o.name;
    this.dir = o.dir;
    this.qmpSocket = join(o.dir, 'qmp.sock');
    this.agentSocket = join(o.dir, 'agent.sock');
    this.monitor = o.monitor;
    this.bootMs = o.bootMs;
    this.#child = o.child;
    this.#command = o.command;
    let lines: string[] = [];
    onLines(o.command, (line) => {
      const end = /^(T\d+) (\d+)$/.exec(line);
      const answer = end === null ? undefined : this.#answers.get(end[1] as string);
      if (end === null || answer === undefined) lines.push(line);
      else {
        this.#answers.delete(end[1] as string);
        answer(lines, Number(end[2]));
        lines = [];
      }
    });
  }

  /** Boots, and prints how long it took. Throws with the console's end when the kernel does not come up. */
  static async boot(options: GuestOptions): Promise<Guest> {
    const built = inject('guest');
    if (built === undefined) throw new Error('no guest was built: use describeQemu');
    const dir = mkdtempSync(join(tmpdir(), 'dimmer-qemu-'));
    const start = performance.now();
    const errors = openSync(join(dir, 'stderr'), 'w');
    const command = [built.qemu, ...qemuArguments(built, dir, options)];
    const whole = PDEATHSIG === undefined ? command : [PDEATHSIG, '--pdeathsig', 'KILL', ...command];
    const child = spawn(whole[0] as string, whole.slice(1), { stdio: ['ignore', errors, errors] });
    closeSync(errors);
    alive.add(child);
    child.on('exit', () => alive.delete(child));
    try {
      const dead = (): string | undefined =>
        child.exitCode === null && child.signalCode === null
          ? undefined
          : `QEMU has ended: ${tail(join(dir, 'stderr'))}`;
      const socket = await connectWhenThere(join(dir, 'command.sock'), dead);
      const monitor = await Qmp.connect(join(dir, 'harness.sock'), dead);
      await ready(socket, dead, join(dir, 'console.log'));
      const bootMs = performance.now() - start;
      console.log(`${options.name}: kernel ${built.version} up after ${(bootMs / 1000).toFixed(1)} s`);
      return new Guest({ name: options.name, dir, child, monitor, command: socket, bootMs });
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  /** Runs shell text in the guest. Output is both streams; code 124 never comes from here: no answer in time throws. */
  sh(text: string, timeoutMs = COMMAND_MS): Promise<Ran> {
    const token = `T${this.#next++}`;
    const start = performance.now();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#answers.delete(token);
        reject(new Error(`${this.name}: no answer within ${timeoutMs} ms to: ${text}\n${this.console(2000)}`));
      }, timeoutMs);
      this.#answers.set(token, (lines, code) => {
        clearTimeout(timer);
        // The end marker is always on a line of its own: an empty line, or the end of the output's last line, is before it.
        resolve({ code, out: lines.join('\n').replace(/\n$/, ''), ms: performance.now() - start });
      });
      this.#command.write(`${token} ${Buffer.from(text).toString('base64')}\n`);
    });
  }

  /** As sh, and the output of a command that must succeed. */
  async text(command: string): Promise<string> {
    const ran = await this.sh(command);
    if (ran.code !== 0) throw new Error(`${this.name}: exit ${ran.code} of: ${command}\n${ran.out}`);
    return ran.out;
  }

  /** Starts a load that holds memory (tools/guest/load) and waits until it does. @returns what it says: pid, pfn, block */
  async hold(load: string): Promise<Readonly<Record<string, number>>> {
    const log = `/run/load.${this.#next}`;
    const tries = 600;
    const wait = `for i in $(seq ${tries}); do grep -q '^READY' ${log} && break; kill -0 $p || break; sleep 0.1; done`;
    const said = await this.text(`load ${load} >${log} 2>&1 </dev/null & p=$!; ${wait}; cat ${log}`);
    if (!said.startsWith('READY')) throw new Error(`${this.name}: load ${load}: ${said}`);
    return Object.fromEntries([...said.matchAll(/(\w+)=(\d+)/g)].map((m) => [m[1], Number(m[2])]));
  }

  async release(pid: number): Promise<void> {
    await this.text(`kill -9 ${pid}; while kill -0 ${pid} 2>/dev/null; do sleep 0.05; done`);
  }

  /** Writes a word into a kernel file as a plain writer would. @returns errno, 0 for done */
  async write(file: string, word: string, seconds = 60): Promise<number> {
    const ran = await this.sh(`load write ${file} ${word} ${seconds}`);
    const errno = /^errno=(\d+)/.exec(ran.out);
    if (errno === null) throw new Error(`${this.name}: load write ${file}: ${ran.out}`);
    return Number(errno[1]);
  }

  setBlock(id: number, word: 'online' | 'online_movable' | 'online_kernel' | 'offline'): Promise<number> {
    return this.write(`/sys/devices/system/memory/memory${id}/state`, word);
  }

  /** All blocks, or those from first on, ascending. */
  async blocks(first = 0): Promise<readonly Block[]> {
    // Builtins only: a process for each file would cost seconds under emulation.
    const text = await this.text(
      'cd /sys/devices/system/memory; for m in memory*; do read -r s <$m/state; read -r z <$m/valid_zones; ' +
        'set -- $m/node*; echo "$m|$s|$z|$1"; done',
    );
    return text
      .split('\n')
      .map((line) => line.split('|'))
      .map(([name, state, zones, node]) => ({ id: numberIn(name), state, zones, node: numberIn(node) }) as Block)
      .filter((b) => b.id >= first)
      .sort((a, b) => a.id - b.id);
  }

  /** Bytes, of /proc/meminfo. */
  async meminfo(key: string): Promise<number> {
    return Number(await this.text(`awk '/^${key}:/ {print $2}' /proc/meminfo`)) * 1024;
  }

  /** A DIMM as an administrator would add it by hand: backend, device; waits until the guest has its blocks, offline. */
  async addDimm(o: { id: string; bytes: number; node: number }): Promise<readonly Block[]> {
    const before = new Set((await this.blocks()).map((b) => b.id));
    const memdev = `mem-${o.id}`;
    await this.monitor.request('object-add', { 'qom-type': 'memory-backend-ram', id: memdev, size: o.bytes });
    await this.monitor.request('device_add', { driver: 'pc-dimm', id: o.id, memdev, node: o.node });
    for (let k = 0; k < 100; k++) {
      const fresh = (await this.blocks()).filter((b) => !before.has(b.id));
      if (fresh.reduce((n, _) => n + 128 * MIB, 0) === o.bytes) return fresh;
      await sleep(50);
    }
    throw new Error(`${this.name}: the blocks of DIMM ${o.id} did not appear`);
  }

  /** addDimm, and online by that word. */
  async addOnlineDimm(o: {
    id: string;
    bytes: number;
    node: number;
    word: 'online_movable' | 'online_kernel';
  }): Promise<readonly Block[]> {
    const fresh = await this.addDimm(o);
    for (const b of fresh) {
      const errno = await this.setBlock(b.id, o.word);
      if (errno !== 0) throw new Error(`${this.name}: block ${b.id} ${o.word}: errno ${errno}`);
    }
    return this.blocksOf(fresh);
  }

  /** The same blocks, as they are now. */
  async blocksOf(list: readonly Block[]): Promise<readonly Block[]> {
    const ids = new Set(list.map((b) => b.id));
    return (await this.blocks()).filter((b) => ids.has(b.id));
  }

  async dimms(): Promise<readonly string[]> {
    const devices = (await this.monitor.request('query-memory-devices')) as { type: string; data: { id: string } }[];
    return devices.filter((d) => d.type === 'dimm').map((d) => d.data.id);
  }

  async agent(verb: 'start' | 'kill' | 'stop' | 'continue', blocked?: readonly string[]): Promise<void> {
    await this.text(`agent ${verb} ${blocked?.join(',') ?? ''}`);
  }

  askAgent(execute: string, args?: Record<string, unknown>, timeoutMs = 10_000): Promise<unknown> {
    return askAgent(this.agentSocket, execute, args, timeoutMs);
  }

  /** The last characters of the console. */
  console(chars: number): string {
    return tail(join(this.dir, 'console.log'), chars);
  }

  /** Ends the guest. Never throws: it is what afterAll calls. */
  async stop(): Promise<void> {
    const gone = new Promise<void>((resolve) => {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) resolve();
      else this.#child.once('exit', () => resolve());
    });
    await Promise.race([this.monitor.request('quit').catch(() => {}), gone, sleep(2000)]);
    await Promise.race([gone, sleep(3000)]);
    this.#child.kill('SIGKILL');
    await gone;
    this.monitor.close();
    this.#command.destroy();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function qemuArguments(built: BuiltGuest, dir: string, o: GuestOptions): string[] {
  const memoryMb = o.memoryMb ?? 2048;
  const nodes = o.nodes ?? 2;
  const numa = Array.from({ length: nodes }, (_, k) => [
    '-object',
    `memory-backend-ram,id=ram${k},size=${memoryMb / nodes}M`,
    '-numa',
    nodes === 1 ? `node,nodeid=0,memdev=ram0` : `node,nodeid=${k},memdev=ram${k},cpus=${k}`,
  ]).flat();
  const append = `console=ttyS0 panic=-1 loglevel=7 log_buf_len=1M ${o.append ?? ''}`.trim();
  const port = (id: string, name: string, file: string): string[] => [
    '-chardev',
    `socket,id=${id},path=${join(dir, file)},server=on,wait=off`,
    '-device',
    `virtserialport,bus=serial0.0,chardev=${id},name=${name}`,
  ];
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-machine', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2'],
    ...['-m', `${memoryMb}M,slots=${o.slots ?? 16},maxmem=${o.maxmem ?? '32G'}`, ...numa],
    ...['-kernel', built.kernel, '-initrd', built.initrd, '-append', append],
    ...['-serial', `file:${join(dir, 'console.log')}`],
    ...['-qmp', `unix:${join(dir, 'qmp.sock')},server=on,wait=off`],
    ...['-qmp', `unix:${join(dir, 'harness.sock')},server=on,wait=off`],
    ...['-device', 'virtio-serial-pci,id=serial0'],
    ...port('command', 'dimmer.cmd', 'command.sock'),
    ...port('agent', 'org.qemu.guest_agent.0', 'agent.sock'),
    ...(o.diskMb === undefined ? [] : diskArguments(join(dir, 'disk.img'), o.diskMb)),
    ...(o.devices ?? []),
  ];
}

/** A sparse file; the guest makes its file system at boot. */
function diskArguments(file: string, megabytes: number): string[] {
  writeFileSync(file, '');
  truncateSync(file, megabytes * MIB);
  return ['-drive', `if=none,id=disk0,file=${file},format=raw`, '-device', 'virtio-blk-pci,drive=disk0'];
}

/** Resolves when the guest's shell says so, rejects when it cannot any more. */
async function ready(socket: Socket, dead: () => string | undefined, log: string): Promise<void> {
  let said = '';
  const listen = (data: Buffer): void => {
    said += data.toString();
  };
  socket.on('data', listen);
  const end = performance.now() + BOOT_MS;
  while (!/READY .*\n/.test(said)) {
    const why = dead() ?? (performance.now() > end ? `not up after ${BOOT_MS} ms` : undefined);
    if (why !== undefined) throw new Error(`${why}\n${tail(log, 3000)}`);
    await sleep(50);
  }
  socket.off('data', listen);
}

/** memory32 is 32, node1 is 1. */
const numberIn = (name: string | undefined): number => Number(/\d+$/.exec(name ?? '')?.[0] ?? Number.NaN);

function tail(file: string, chars = 1000): string {
  return existsSync(file) ? readFileSync(file, 'utf8').slice(-chars) : '';
}
