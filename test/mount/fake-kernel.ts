// FakeKernel: a small kernel tree in memory, for tests of what stands on the KernelFs port. No engine behind it.
//
//   /sys/devices/system/memory/  auto_online_blocks block_size_bytes probe(0200) memory0 .. memoryN
//     memoryN/  state online removable(0444) valid_zones phys_index phys_device node0 -> ../../node/node0
//   /sys/devices/system/node/node0/  memoryN -> ../../memory/memoryN
//   /proc/  zoneinfo (long), uptick (another text each time), kpageflags (8 bytes a frame, no text, 2^43 bytes long)
//
// An offline takes `steps` steps; block 1 is busy (EBUSY after half of them), block 2 is pinned (never over), block 0 has
// a hole (EINVAL at once). Online and offline hold one lock, as device_hotplug_lock; whoever comes second waits.

import type { ErrnoName } from '../../src/base/errno.ts';
import type { FsNode, FsWrite, KernelFs } from '../../src/kernfs/kernel-fs.ts';

const MEMORY = '/sys/devices/system/memory';
const NODE = '/sys/devices/system/node';
const KPAGEFLAGS_BYTES = 2 ** 43;

type Entry =
  | { kind: 'dir'; mode: number; names: string[] }
  | { kind: 'link'; target: string }
  | { kind: 'file'; mode: number; size: number; read: () => string; write?: (text: string) => FsWrite };

export class FakeKernel implements KernelFs {
  readonly #entries = new Map<string, Entry>();
  readonly state: string[] = [];
  readonly steps: number;
  /** Who is in the middle of an online or offline. */
  #lock: object | undefined;
  #ticks = 0;
  autoOnline = 'offline';
  /** A read of this path throws: a bug of the tree. */
  bugAt: string | undefined;

  constructor(options: { blocks?: number; steps?: number } = {}) {
    this.steps = options.steps ?? 50;
    this.#dir('/');
    const blocks = options.blocks ?? 8;
    for (const d of ['/sys', '/sys/devices', '/sys/devices/system', MEMORY, NODE, `${NODE}/node0`, '/proc'])
      this.#dir(d);
    this.#file(`${MEMORY}/block_size_bytes`, 0o444, () => '8000000\n');
    this.#file(
      `${MEMORY}/auto_online_blocks`,
      0o644,
      () => `${this.autoOnline}\n`,
      (text) => {
        const word = text.trim();
        if (word !== 'online' && word !== 'offline') return done('EINVAL');
        this.autoOnline = word;
        return done(text.length);
      },
    );
    this.#file(
      `${MEMORY}/probe`,
      0o200,
      () => '',
      () => done('EINVAL'),
    );
    for (let b = 0; b < blocks; b++) this.#block(b);
    this.#file('/proc/zoneinfo', 0o444, () => 'Node 0, zone   Normal\n'.repeat(6000), undefined, 0);
    this.#file('/proc/uptick', 0o444, () => `${'x'.repeat(20 - (this.#ticks++ % 10))}\n`, undefined, 0);
    this.#file('/proc/kpageflags', 0o400, () => '', undefined, 0);
  }

  /** A block leaves, as after an unplug. */
  remove(block: number): void {
    for (const path of [...this.#entries.keys()])
      if (path === `${MEMORY}/memory${block}` || path.startsWith(`${MEMORY}/memory${block}/`))
        this.#entries.delete(path);
    const top = this.#entries.get(MEMORY);
    if (top?.kind === 'dir') top.names = top.names.filter((n) => n !== `memory${block}`);
  }

  stat(path: string): FsNode | undefined {
    const e = this.#entries.get(path);
    if (e === undefined) return undefined;
    if (e.kind === 'file') return { kind: 'file', mode: e.mode, size: e.size };
    return e.kind === 'dir' ? { kind: 'dir', mode: e.mode } : e;
  }

  list(path: string): readonly string[] {
    const e = this.#entries.get(path);
    return e?.kind === 'dir' ? [...e.names].sort() : [];
  }

  readText(path: string): string | undefined {
    const got = this.read(path);
    return typeof got === 'string' ? undefined : new TextDecoder().decode(got);
  }

  read(path: string, offset = 0, length = 2 ** 24): Uint8Array | ErrnoName {
    if (path === this.bugAt) throw new Error('the tree has a bug');
    const e = this.#entries.get(path);
    if (e === undefined) return 'ENOENT';
    if (e.kind !== 'file') return 'EISDIR';
    if (path === '/proc/kpageflags') return kpageflags(offset, length);
    return new TextEncoder().encode(e.read()).subarray(offset, offset + length);
  }

  beginWrite(path: string, data: string | Uint8Array): FsWrite {
    const e = this.#entries.get(path);
    if (e === undefined) return done('ENOENT');
    if (e.kind !== 'file') return done('EISDIR');
    if (e.write === undefined) return done('EIO');
    return e.write(typeof data === 'string' ? data : new TextDecoder().decode(data));
  }

  write(path: string, data: string | Uint8Array): number | ErrnoName {
    const work = this.beginWrite(path, data);
    for (let k = 0; k < 10_000; k++) {
      const outcome = work.step();
      if (outcome !== undefined) return outcome;
    }
    throw new Error(`a write to ${path} does not end`);
  }

  #block(b: number): void {
    const dir = `${MEMORY}/memory${b}`;
    this.state[b] = 'online';
    this.#dir(dir);
    const set = (text: string): FsWrite => this.#setState(b, text);
    this.#file(`${dir}/state`, 0o644, () => `${this.state[b]}\n`, set);
    this.#file(
      `${dir}/online`,
      0o644,
      () => (this.state[b] === 'offline' ? '0\n' : '1\n'),
      (text) => set(text.trim() === '0' ? 'offline' : 'online'),
    );
    this.#file(`${dir}/removable`, 0o444, () => '1\n');
    this.#file(`${dir}/phys_device`, 0o444, () => '0\n');
    this.#file(`${dir}/phys_index`, 0o444, () => `${b.toString(16).padStart(8, '0')}\n`);
    this.#file(`${dir}/valid_zones`, 0o444, () => (this.state[b] === 'online' ? 'Movable\n' : 'Normal Movable\n'));
    this.#link(`${dir}/node0`, '../../node/node0');
    this.#link(`${NODE}/node0/memory${b}`, `../../memory/memory${b}`);
  }

  #setState(b: number, text: string): FsWrite {
    const word = text.trim();
    const online = /^online(_movable|_kernel)?$/.test(word);
    if (!online && word !== 'offline') return done('EINVAL');
    const me = {};
    let left = online ? 1 : this.steps;
    let cancelled = false;
    const leave = (outcome: number | ErrnoName): number | ErrnoName => {
      if (this.#lock === me) this.#lock = undefined;
      return outcome;
    };
    return {
      cancel: () => {
        cancelled = true;
      },
      step: () => {
        if (this.#lock !== me) {
          if (cancelled) return 'EINTR';
          if (this.#lock !== undefined) return undefined;
          if (online === (this.state[b] === 'online') || (!online && b === 0)) return 'EINVAL';
          this.#lock = me;
          this.state[b] = online ? 'going-online' : 'going-offline';
        }
        const back = (outcome: ErrnoName): number | ErrnoName => {
          this.state[b] = online ? 'offline' : 'online';
          return leave(outcome);
        };
        if (cancelled) return back('EINTR');
        left--;
        if (!online && b === 1 && left < this.steps / 2) return back('EBUSY');
        if (left > 0 || (!online && b === 2)) return undefined;
        this.state[b] = online ? 'online' : 'offline';
        return leave(text.length);
      },
    };
  }

  #enter(path: string, e: Entry): void {
    this.#entries.set(path, e);
    const at = path.lastIndexOf('/');
    const parent = this.#entries.get(path.slice(0, at) || '/');
    if (path !== '/' && parent?.kind === 'dir') parent.names.push(path.slice(at + 1));
  }
  #dir(path: string): void {
    this.#enter(path, { kind: 'dir', mode: 0o755, names: [] });
  }
  #link(path: string, target: string): void {
    this.#enter(path, { kind: 'link', target });
  }
  #file(path: string, mode: number, read: () => string, write?: (text: string) => FsWrite, size = 4096): void {
    this.#enter(path, { kind: 'file', mode, size, read, ...(write === undefined ? {} : { write }) });
  }
}

const done = (outcome: number | ErrnoName): FsWrite => ({ step: () => outcome, cancel: () => {} });

/** Word k of the file is k, little-endian; reads must be of whole words, as on Linux. */
function kpageflags(offset: number, length: number): Uint8Array | ErrnoName {
  if (offset % 8 !== 0 || length % 8 !== 0) return 'EINVAL';
  const end = Math.min(offset + length, KPAGEFLAGS_BYTES);
  const out = new Uint8Array(Math.max(0, end - offset));
  const view = new DataView(out.buffer);
  for (let at = 0; at < out.length; at += 8) {
    const k = (offset + at) / 8;
    view.setUint32(at, k % 2 ** 32, true);
    view.setUint32(at + 4, Math.floor(k / 2 ** 32), true);
  }
  return out;
}
