// The Linux host: the machine that dimmer runs on, as a Host.
//
//   observe, capture   /proc and /sys below `root`, read only                           root.ts, patient-files.ts
//   act                one word into one kernel file, by a child that a signal ends     sysfs-write.ts
//   watch              block states, polled, and lines of the kernel's log              uevents.ts
//
//   action              file                                            word
//   offline-block       memory/memoryN/state                            offline
//   online-block        memory/memoryN/state                            online_movable | online_kernel | online
//   auto-online         memory/auto_online_blocks                       as given
//   drop-caches         /proc/sys/vm/drop_caches, after sync(1)         1 | 2 | 3
//   compact             /proc/sys/vm/compact_memory, node/nodeN/compact 1
//   set-hugepages       .../hugepages-SIZEkB/nr_hugepages               as given
//   add-dimm, remove-dimm, resize-virtio-mem, balloon                   cannot: only firmware or a hypervisor can
//
// Three locks before a write: `apply` was said (typed out as --apply by whoever runs the command, after the target was shown);
// the machine is ours (guard.ts: not a container, root); the file that resolves is the kernel's own and writable. Each refusal
// is one sentence, and nothing has been touched. Whether a word had its effect, the next observation tells.

import * as fs from 'node:fs';
import { unreachable } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import type { ActDone, Clock, Host, HostFailure, HostInfo, Limits } from '#control/host';
import { MEMORY_DIR } from '#kernfs/memory-blocks';
import { type Observation, observe } from '#plan/observation';
import type { Action, OnlineZone } from '#plan/plan';
import { surroundings as realSurroundings, type Surroundings, whyNotOurs, whyNotWritable } from './guard.ts';
import { patientCapture } from './patient-files.ts';
import { type FsTree, fsTree } from './root.ts';
import { syncDisks, sysfsWrite } from './sysfs-write.ts';
import { watchBlocks } from './uevents.ts';

export type LinuxHostOptions = {
  /** "/" for this machine, or where a kernel's tree is mounted (dimmer mount). */
  readonly root?: string;
  readonly clock: Clock;
  /** Whether anything may be written at all. */
  readonly apply: boolean;
  /** How often watch() looks. */
  readonly watchMs?: number;
  /** What the guard looks at; a test gives its own. */
  readonly surroundings?: () => Surroundings;
};

const WATCH_MS = 500;
/** A block may leave while the directory is read: then it is read again, so often. */
const OBSERVE_TRIES = 3;

const STATE_WORD: Readonly<Record<OnlineZone, string>> = {
  movable: 'online_movable',
  kernel: 'online_kernel',
  default: 'online',
};

const ALL_ACTIONS: readonly Action['do'][] = [
  'offline-block',
  'online-block',
  'add-dimm',
  'remove-dimm',
  'resize-virtio-mem',
  'balloon',
  'drop-caches',
  'compact',
  'set-hugepages',
  'auto-online',
];

/** Where an action writes, and what; or why a Linux host has no such thing. */
export function writeOf(action: Action): Result<{ readonly file: string; readonly word: string }, string> {
  switch (action.do) {
    case 'offline-block':
      return ok({ file: `${MEMORY_DIR}/memory${action.block}/state`, word: 'offline' });
    case 'online-block':
      return ok({ file: `${MEMORY_DIR}/memory${action.block}/state`, word: STATE_WORD[action.zone] });
    case 'auto-online':
      return ok({ file: `${MEMORY_DIR}/auto_online_blocks`, word: action.word });
    case 'drop-caches':
      return ok({ file: '/proc/sys/vm/drop_caches', word: String(action.what) });
    case 'compact':
      return ok(
        action.node === undefined
          ? { file: '/proc/sys/vm/compact_memory', word: '1' }
          : { file: `/sys/devices/system/node/node${action.node}/compact`, word: '1' },
      );
    case 'set-hugepages': {
      const pool = `hugepages/hugepages-${action.pageBytes / 1024}kB/nr_hugepages`;
      const top = action.node === undefined ? '/sys/kernel/mm' : `/sys/devices/system/node/node${action.node}`;
      return ok({ file: `${top}/${pool}`, word: String(action.pages) });
    }
    case 'add-dimm':
    case 'remove-dimm':
      return err('DIMMs are plugged and pulled by firmware or a hypervisor, not by the machine itself');
    case 'resize-virtio-mem':
      return err('what a virtio-mem device is asked for is set by the hypervisor');
    case 'balloon':
      return err('the balloon is the hypervisor’s; a guest only follows it');
    default:
      return unreachable(action);
  }
}

/** Cost of observe: five small files a block. No effect before the first act. */
export function linuxHost(options: LinuxHostOptions): Host {
  return new LinuxHost(options);
}

class LinuxHost implements Host {
  readonly #options: LinuxHostOptions;
  readonly #root: string;
  readonly #tree: FsTree;
  #closed = false;

  constructor(options: LinuxHostOptions) {
    this.#options = options;
    this.#root = realRoot(options.root ?? '/');
    this.#tree = fsTree(this.#root);
  }

  async info(limits: Limits): Promise<Result<HostInfo, HostFailure>> {
    const over = this.#over(limits);
    if (over !== undefined) return err(over);
    const can = new Set<Action['do']>();
    const cannot = new Map<Action['do'], string>();
    for (const verb of ALL_ACTIONS) {
      const why = this.#whyNot(verb);
      if (why === undefined) can.add(verb);
      else cannot.set(verb, why.sentence);
    }
    const kernel = /^Linux version (\S+)/.exec(this.#tree.readText('/proc/version') ?? '')?.[1] ?? 'unknown';
    return ok({ kind: 'linux', name: this.#name(), kernel, can, cannot });
  }

  async observe(limits: Limits): Promise<Result<Observation, HostFailure>> {
    const over = this.#over(limits);
    if (over !== undefined) return err(over);
    let seen = observe(this.#tree);
    for (let tries = 1; !seen.ok && tries < OBSERVE_TRIES; tries++) seen = observe(this.#tree);
    return seen.ok ? seen : err({ kind: 'protocol', sentence: `${this.#name()}: ${seen.error}` });
  }

  async act(action: Action, limits: Limits): Promise<Result<ActDone, HostFailure>> {
    const over = this.#over(limits);
    if (over !== undefined) return err(over);
    const refused = this.#whyNot(action.do);
    if (refused !== undefined) return err(refused);
    if (!this.#options.apply)
      return err({ kind: 'denied', sentence: `${this.#name()} is only read: say --apply to have it changed` });
    const write = writeOf(action);
    if (!write.ok) return err({ kind: 'unsupported', sentence: write.error });
    const { file, word } = write.value;
    const target = this.#tree.locate(file);
    if (target === undefined || !fs.existsSync(target)) {
      const sentence = `${file} is not there: ${absent(action)}`;
      return err(
        action.do.endsWith('block')
          ? { kind: 'refused', sentence, errno: 'ENOENT' }
          : { kind: 'unsupported', sentence },
      );
    }
    const barred = whyNotWritable(this.#root, file, this.#surroundings());
    if (barred !== undefined) return err(barred);
    if (action.do !== 'drop-caches') return sysfsWrite(target, word, limits);
    const { clock } = this.#options;
    const started = clock.nowMs();
    const synced = await syncDisks(limits);
    if (!synced.ok) return synced;
    const left = Math.max(1, limits.deadlineMs - (clock.nowMs() - started));
    const dropped = await sysfsWrite(target, word, { ...limits, deadlineMs: left });
    return dropped.ok ? ok({ evidence: [...synced.value.evidence, ...dropped.value.evidence] }) : dropped;
  }

  async capture(limits: Limits): ReturnType<Host['capture']> {
    const over = this.#over(limits);
    if (over !== undefined) return err(over);
    return patientCapture(this.#root, this.#options.clock, limits);
  }

  async watch(onLine: (line: string) => void, signal: AbortSignal): Promise<void> {
    if (this.#closed) return;
    await watchBlocks({
      tree: this.#tree,
      clock: this.#options.clock,
      intervalMs: this.#options.watchMs ?? WATCH_MS,
      onLine,
      signal,
      ...(this.#root === '/' ? { kmsg: '/dev/kmsg' } : {}),
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #name(): string {
    return this.#root === '/' ? 'this machine' : this.#root;
  }

  #surroundings(): Surroundings {
    return (this.#options.surroundings ?? realSurroundings)();
  }

  #over({ signal }: Limits): HostFailure | undefined {
    if (this.#closed) return { kind: 'closed', sentence: `${this.#name()} was closed` };
    return signal?.aborted === true ? { kind: 'cancelled', sentence: 'it was cancelled before it began' } : undefined;
  }

  /** Why an action of this kind is not possible here, whatever it is about; `apply` is another question: a dry run asks. */
  #whyNot(verb: Action['do']): HostFailure | undefined {
    const probe = SAMPLE[verb];
    const write = writeOf(probe);
    if (!write.ok) return { kind: 'unsupported', sentence: write.error };
    const s = this.#surroundings();
    return whyNotOurs(this.#root, s) ?? whyNotWritable(this.#root, write.value.file, s);
  }
}

/** One action of each kind: the kinds differ in the file system that they write to. */
const SAMPLE: Readonly<Record<Action['do'], Action>> = {
  'offline-block': { do: 'offline-block', block: 0 },
  'online-block': { do: 'online-block', block: 0, zone: 'default' },
  'add-dimm': { do: 'add-dimm', id: '', memdev: '', bytes: 0, node: 0, addr: 0 },
  'remove-dimm': { do: 'remove-dimm', id: '', memdev: '' },
  'resize-virtio-mem': { do: 'resize-virtio-mem', id: '', bytes: 0 },
  balloon: { do: 'balloon', bytes: 0 },
  'drop-caches': { do: 'drop-caches', what: 1 },
  compact: { do: 'compact' },
  'set-hugepages': { do: 'set-hugepages', pageBytes: 2 * 1024 ** 2, pages: 0 },
  'auto-online': { do: 'auto-online', word: 'offline' },
};

function absent(action: Action): string {
  switch (action.do) {
    case 'offline-block':
    case 'online-block':
      return 'there is no such memory block';
    case 'compact':
      return 'the kernel has no compaction, or there is no such node';
    case 'set-hugepages':
      return 'there is no such node, or no huge pages of that size';
    default:
      return 'this kernel has no such setting';
  }
}

function realRoot(root: string): string {
  try {
    return fs.realpathSync(root);
  } catch {
    return root; // absent: every reading says so
  }
}
