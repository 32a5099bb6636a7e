// Guest files: the /proc and /sys of a guest, read through its agent, as the port that a capture reads through.
//
//   guest-exec allowed      small files and directories many at a time (guest-files-batch.ts); page files beyond the first
//                           32 MiB packed in the guest
//   guest-exec not allowed  guest-file-open, -read, -close for each file; the agent cannot list a directory, so that names are
//                             memoryN          of guest-get-memory-blocks
//                             nodeN            of node/online and node/possible
//                             memoryN/nodeM    what opens: a directory can be opened, one that is not there cannot
//                             hugepages-NkB, parameters of memory_hotplug    the names that Linux knows, where they open
//   neither                 nothing can be read; qemu-host.ts says so before
//
// A connection that fails is remembered (`failed`): from there on nothing is asked any more, everything reads as not readable,
// and whoever made this looks at `failed` first. One object serves one capture or one observation.
//
// Invariants: only reads; a text that was fetched ahead is given out once, so that the second reading of a file, which is to
// tell what moved, is a second reading. Spec 7.3.

import { Buffer } from 'node:buffer';
import { gunzipSync } from 'node:zlib';
import type { Result } from '#base/result';
import type { AsyncMachineFiles, ReadFailure, Soon, TimedRead } from '#capture/gather';
import type { HostFailure, Limits } from '#control/host';
import {
  BATCH_MAX,
  BATCH_SCRIPT,
  type Batch,
  batchInput,
  isPlainName,
  OBSERVE_SCRIPT,
  parseBatch,
  readOf,
} from './guest-files-batch.ts';
import { countdown } from './line-channel.ts';
import type { Agent } from './qga-port.ts';
import { exec, fileRead, memoryBlocks } from './qga-verbs.ts';

/** An agent, and which of its verbs are switched on. */
export type GuestReach = {
  readonly agent: Agent;
  /** guest-exec and guest-exec-status. */
  readonly exec: boolean;
  /** guest-file-open, -read, -close. */
  readonly files: boolean;
  /** And guest-file-write, -flush. */
  readonly writes: boolean;
  /** guest-get-memory-blocks. */
  readonly blocks: boolean;
};

/** What the agent says that it may do. Cost: one request, the first time. */
export async function guestReach(agent: Agent, limits: Limits): Promise<Result<GuestReach, HostFailure>> {
  const verbs = await agent.verbs(limits);
  if (!verbs.ok) return verbs;
  const all = (...names: readonly string[]): boolean => names.every((name) => verbs.value.get(name) === true);
  const files = all('guest-file-open', 'guest-file-read', 'guest-file-close');
  return {
    ok: true,
    value: {
      agent,
      exec: all('guest-exec', 'guest-exec-status'),
      files,
      writes: files && all('guest-file-write', 'guest-file-flush'),
      blocks: all('guest-get-memory-blocks'),
    },
  };
}

const MEMORY = '/sys/devices/system/memory';
const NODES = '/sys/devices/system/node';
const HUGE = '/sys/kernel/mm/hugepages';
const PARAMETERS = '/sys/module/memory_hotplug/parameters';

/** Linux v6.12 mm/memory_hotplug.c: module_param. */
const PARAMETER_NAMES = ['auto_movable_numa_aware', 'auto_movable_ratio', 'memmap_on_memory', 'online_policy'];
/** kB; of x86, arm64, riscv, powerpc and s390, whatever their base page. */
const HUGE_SIZES = [64, 1024, 2048, 16384, 32768, 524288, 1048576, 2097152, 16777216];

/** Plain reading ends here, where guest-exec can pack the rest: page words of the first 16 GiB. */
const PLAIN_BYTES = 32 * 2 ** 20;
/** One opening of a page file; the requests below it are smaller. */
const STRETCH_BYTES = 16 * 2 ** 20;
/** MiB of page words packed by one command: at worst a few MiB of output, of the 16 that the agent keeps. */
const PACKED_MIB = 64;

const ABSENT: ReadFailure = { kind: 'absent', detail: 'no such file' };

export class GuestFiles implements AsyncMachineFiles {
  /** The first failure of the connection, or of the whole agent; undefined while all is well. */
  failed: HostFailure | undefined;
  readonly #reach: GuestReach;
  readonly #nowMs: () => number;
  readonly #left: () => Limits;
  readonly #texts = new Map<string, TimedRead>();
  readonly #lists = new Map<string, readonly string[]>();
  /** Of blocks whose links were probed: block's number to its nodes. */
  #links: Map<number, readonly number[]> | undefined;
  #exec: boolean;

  /** @param limits  for everything that is read through this object together */
  constructor(reach: GuestReach, nowMs: () => number, limits: Limits) {
    this.#reach = reach;
    this.#exec = reach.exec;
    this.#nowMs = nowMs;
    this.#left = countdown(limits);
  }

  nowMs(): number {
    return this.#nowMs();
  }

  async soon({ files, directories }: Soon): Promise<void> {
    const asked = [
      ...directories.filter(isPlainName).map((path) => ({ path, directory: true })),
      ...files.filter(isPlainName).map((path) => ({ path, directory: false })),
    ];
    for (let from = 0; from < asked.length && this.#exec && this.failed === undefined; from += BATCH_MAX) {
      const some = asked.slice(from, from + BATCH_MAX);
      const paths = (directory: boolean): string[] => some.filter((a) => a.directory === directory).map((a) => a.path);
      const soon = { directories: paths(true), files: paths(false) };
      const startedMs = this.#nowMs();
      const batch = await this.#run(BATCH_SCRIPT, batchInput(soon));
      if (batch === undefined) return;
      const at = { startedMs, endedMs: this.#nowMs() };
      for (const path of soon.files) this.#texts.set(path, { ...readOf(batch, path), at });
      for (const path of soon.directories) this.#lists.set(path, namesIn(batch, path));
    }
  }

  async read(path: string): Promise<TimedRead> {
    const ahead = this.#texts.get(path);
    this.#texts.delete(path);
    if (ahead !== undefined) return ahead;
    if (this.failed !== undefined) return unreadable(this.failed);
    if (!this.#reach.files) {
      await this.soon({ files: [path], directories: [] });
      const read = this.#texts.get(path) ?? { kind: 'denied', detail: 'the agent may not read files' };
      this.#texts.delete(path);
      return read;
    }
    const read = await fileRead(this.#reach.agent, path, {}, this.#left());
    if (read.ok) return { kind: 'text', text: Buffer.from(read.value).toString('utf8') };
    return this.#failure(read.error);
  }

  async list(path: string): Promise<readonly string[]> {
    const ahead = this.#lists.get(path);
    this.#lists.delete(path);
    if (ahead !== undefined) return ahead;
    if (this.#exec && isPlainName(path)) {
      await this.soon({ files: [], directories: [path] });
      const names = this.#lists.get(path);
      this.#lists.delete(path);
      if (names !== undefined) return names;
    }
    return this.#probe(path);
  }

  /** Page words, in frame order. Cost: one request for 2 MiB; beyond 16 GiB of memory, where it is allowed, one for 64 MiB. */
  async readWords(path: string, push: (pairs: Uint32Array, words: number) => void): Promise<ReadFailure | undefined> {
    let bytes = 0;
    const take = (part: Uint8Array): void => {
      const words = Math.floor(part.length / 8);
      // A copy: the words need an address that is a multiple of four.
      const pairs = new Uint32Array(words * 2);
      new Uint8Array(pairs.buffer).set(part.subarray(0, words * 8));
      push(pairs, words);
      bytes += part.length;
    };
    const cut = (failure: ReadFailure): ReadFailure =>
      bytes === 0 ? failure : { kind: 'truncated', detail: `${failure.detail}, after ${bytes} bytes` };
    for (;;) {
      if (this.failed !== undefined) return cut(unreadable(this.failed));
      if (bytes % 8 !== 0) return { kind: 'truncated', detail: 'it ends in the middle of a word' };
      const packed = this.#exec && (bytes >= PLAIN_BYTES || !this.#reach.files);
      const wanted = packed ? PACKED_MIB * 2 ** 20 : STRETCH_BYTES;
      const before = bytes;
      if (packed) {
        const part = await this.#packed(path, bytes);
        if (part === undefined && !this.#reach.files)
          return cut({ kind: 'denied', detail: 'the agent may not read files, and packing them in the guest failed' });
        if (part === undefined) continue; // #exec is off now: plain reading goes on
        take(part);
      } else {
        const part = await fileRead(this.#reach.agent, path, { from: bytes, max: STRETCH_BYTES }, this.#left());
        if (!part.ok) return cut(this.#failure(part.error));
        take(part.value);
      }
      if (bytes - before < wanted)
        return bytes % 8 === 0 ? undefined : { kind: 'truncated', detail: 'it ends in the middle of a word' };
    }
  }

  /** Inodes and paths of the memory cgroups; empty where no command may run, since the agent's file verbs give no inodes. */
  async cgroups(): Promise<{ readonly paths: ReadonlyMap<number, string>; readonly more: boolean }> {
    const paths = new Map<number, string>();
    if (!this.#exec || this.failed !== undefined) return { paths, more: false };
    const run = await exec(this.#reach.agent, 'sh', ['-c', CGROUP_SCRIPT], {}, this.#left());
    if (!run.ok) {
      this.#failure(run.error);
      return { paths, more: false };
    }
    const [root = '', ...lines] = Buffer.from(run.value.out).toString('utf8').split('\n');
    for (const line of lines.slice(0, CGROUPS_MAX)) {
      const entry = /^\s*(\d+) (\/.*)$/.exec(line);
      if (entry?.[2].startsWith(root)) paths.set(Number(entry[1]), entry[2].slice(root.length) || '/');
    }
    return { paths, more: lines.length > CGROUPS_MAX };
  }

  /** The few files that an Observation needs: path to text, links without one. Cost: one command, or five requests a block. */
  async forObservation(): Promise<ReadonlyMap<string, string | undefined>> {
    const files = new Map<string, string | undefined>();
    const batch = this.#exec ? await this.#run(OBSERVE_SCRIPT, '') : undefined;
    if (batch !== undefined) {
      for (const path of batch.names) files.set(path, undefined);
      for (const [path, text] of batch.texts) files.set(path, text);
    } else if (this.failed === undefined) await this.#probeForObservation(files);
    // A block that was removed in between has a link and no state any more, or the reverse: it is not there.
    for (const path of [...files.keys()]) {
      const block = /^(.*\/memory\d+)\/(?:node\d+|valid_zones)$/.exec(path);
      if (block !== null && !files.has(`${block[1]}/state`)) files.delete(path);
    }
    return files;
  }

  async #probeForObservation(files: Map<string, string | undefined>): Promise<void> {
    const keep = async (path: string): Promise<void> => {
      const read = await this.read(path);
      if (read.kind === 'text') files.set(path, read.text);
    };
    for (const name of ['block_size_bytes', 'auto_online_blocks']) await keep(`${MEMORY}/${name}`);
    for (const name of await this.list(MEMORY)) {
      await keep(`${MEMORY}/${name}/state`);
      await keep(`${MEMORY}/${name}/valid_zones`);
      for (const node of await this.list(`${MEMORY}/${name}`)) files.set(`${MEMORY}/${name}/${node}`, undefined);
    }
    const nodes = (await this.list(NODES)).map((node) => `${NODES}/${node}/hugepages`);
    for (const place of [...nodes, HUGE])
      for (const pool of await this.list(place))
        for (const name of ['nr_hugepages', 'free_hugepages']) await keep(`${place}/${pool}/${name}`);
    for (const path of ['/proc/version', '/proc/meminfo', '/proc/buddyinfo']) await keep(path);
  }

  /** Names of a directory that nobody lists for us. */
  async #probe(path: string): Promise<readonly string[]> {
    const below = (parent: string): string | undefined =>
      path.startsWith(`${parent}/`) ? path.slice(parent.length + 1) : undefined;
    if (path === MEMORY) return (await this.#blocks()).map((id) => `memory${id}`);
    if (path === NODES) return (await this.#nodes()).map((id) => `node${id}`);
    if (path === PARAMETERS) return this.#thatOpen(path, PARAMETER_NAMES);
    if (path === HUGE || /^node\d+\/hugepages$/.test(below(NODES) ?? ''))
      return this.#thatOpen(
        path,
        HUGE_SIZES.map((kb) => `hugepages-${kb}kB`),
      );
    const block = /^memory(\d+)$/.exec(below(MEMORY) ?? '');
    if (block !== null) return ((await this.#nodeLinks()).get(Number(block[1])) ?? []).map((id) => `node${id}`);
    const node = /^node(\d+)$/.exec(below(NODES) ?? '');
    if (node !== null)
      return [...(await this.#nodeLinks())]
        .filter(([, nodes]) => nodes.includes(Number(node[1])))
        .map(([id]) => `memory${id}`);
    return [];
  }

  async #blocks(): Promise<readonly number[]> {
    if (!this.#reach.blocks || this.failed !== undefined) return [];
    const blocks = await memoryBlocks(this.#reach.agent, this.#left());
    if (blocks.ok) return blocks.value.map((b) => b.id);
    this.#failure(blocks.error);
    return [];
  }

  async #nodes(): Promise<readonly number[]> {
    const read = await this.read(`${NODES}/online`);
    return read.kind === 'text' ? parseList(read.text) : [];
  }

  /** Of every block the nodes that it is linked to. Cost: a request or two for each block and node, once. */
  async #nodeLinks(): Promise<ReadonlyMap<number, readonly number[]>> {
    if (this.#links !== undefined) return this.#links;
    this.#links = new Map();
    const nodes = await this.#nodes();
    for (const id of await this.#blocks())
      this.#links.set(
        id,
        (
          await this.#thatOpen(
            `${MEMORY}/memory${id}`,
            nodes.map((n) => `node${n}`),
          )
        ).map((name) => Number(name.slice(4))),
      );
    return this.#links;
  }

  async #thatOpen(directory: string, names: readonly string[]): Promise<readonly string[]> {
    const there: string[] = [];
    for (const name of names) {
      if (this.failed !== undefined) break;
      const path = `${directory}/${name}`;
      const opened = await this.#reach.agent.execute('guest-file-open', { path, mode: 'r' }, this.#left());
      if (!opened.ok) {
        this.#failure(opened.error);
        continue;
      }
      there.push(name);
      const closed = await this.#reach.agent.execute('guest-file-close', { handle: opened.value }, this.#left());
      if (!closed.ok) this.#failure(closed.error);
    }
    return there;
  }

  /** Words from byte `from` on, packed in the guest; undefined, and no command from then on, where that does not work. */
  async #packed(path: string, from: number): Promise<Uint8Array | undefined> {
    const script = `dd if=${path} bs=1048576 skip=${from / 2 ** 20} count=${PACKED_MIB} 2>/dev/null | gzip -1c`;
    const run = await exec(this.#reach.agent, 'sh', ['-c', script], {}, this.#left());
    if (!run.ok) {
      this.#failure(run.error);
      this.#exec = false;
      return undefined;
    }
    try {
      return gunzipSync(run.value.out, { maxOutputLength: PACKED_MIB * 2 ** 20 });
    } catch {
      this.#exec = false; // no gzip, or more than the agent keeps
      return undefined;
    }
  }

  async #run(script: string, input: string): Promise<Batch | undefined> {
    const run = await exec(this.#reach.agent, 'sh', ['-c', script], { input }, this.#left());
    if (!run.ok) this.#failure(run.error);
    const [out, errors] = run.ok ? [run.value.out, run.value.err].map((b) => Buffer.from(b).toString('utf8')) : [];
    const batch = out === undefined || errors === undefined ? undefined : parseBatch(out, errors);
    // No shell, no grep, or output that was cut: the file verbs do the rest.
    if (batch === undefined) this.#exec = false;
    return batch;
  }

  /** What a failed request means for one file; a failure of the connection is one for all that follow. */
  #failure(failure: HostFailure): ReadFailure {
    switch (failure.kind) {
      case 'refused':
        switch (failure.errno) {
          case 'ENOENT':
          case 'ENOTDIR':
          case 'ENODEV':
          case 'EISDIR':
          case 'EOPNOTSUPP':
            return ABSENT;
          case 'EACCES':
          case 'EPERM':
            return { kind: 'denied', detail: `reading it is refused in the guest (${failure.errno})` };
          default:
            return { kind: 'corrupt', detail: failure.sentence };
        }
      case 'denied':
      case 'unsupported':
        return { kind: 'denied', detail: failure.sentence };
      default:
        this.failed ??= failure;
        return unreadable(failure);
    }
  }
}

const unreadable = (failure: HostFailure): ReadFailure => ({ kind: 'corrupt', detail: failure.sentence });

const namesIn = (batch: Batch, directory: string): readonly string[] =>
  batch.names
    .filter((path) => path.startsWith(`${directory}/`) && !path.includes('/', directory.length + 1))
    .map((path) => path.slice(directory.length + 1))
    .sort();

/** "0-1,3\n" -> [0, 1, 3]; nothing for what is none, or names more nodes than Linux has. */
function parseList(text: string): number[] {
  const ids: number[] = [];
  for (const part of text.trim().split(',')) {
    const range = /^(\d+)(?:-(\d+))?$/.exec(part);
    if (range === null) return [];
    const [first, last] = [Number(range[1]), Number(range[2] ?? range[1])];
    if (last > 1023) return [];
    for (let id = first; id <= last; id++) ids.push(id);
  }
  return ids;
}

const CGROUPS_MAX = 20_000;

/** First line: where memory cgroups live, as of src/hosts/linux/cgroups.ts; then "inode path", breadth and order as they come. */
const CGROUP_SCRIPT = `for r in /sys/fs/cgroup/memory /sys/fs/cgroup /sys/fs/cgroup/unified; do
  [ -e $r/memory.usage_in_bytes ] || [ -e $r/cgroup.controllers ] || continue
  echo $r; find $r -type d -exec ls -id {} + | head -n ${CGROUPS_MAX + 1}; break
done`;
