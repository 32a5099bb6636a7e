// gather: reads one machine through a port and says honestly what it got.
//
//   1  descriptions and counters (manifest FILES, DIRECTORIES)
//   2  conditions: zoneinfo, buddyinfo, the state of every memory block
//   3  the page files, streamed into runs                 | the long part: seconds on a large machine
//   4  conditions again; what moved in between is the tear
//
// The copies of step 2 are kept, because a capture describes one moment as well as it can; step 4 is only compared.
// Nothing is repaired: a torn, denied, hidden or short file is a CaptureProblem with what is lost and how to get it.
// The only words that change are secrets, see redact.ts. Reading is all there is: the port has no way to write.
//
// The walk is one generator that yields requests; a machine at hand answers at once (gather), one behind a guest agent
// when its answer has come (gatherAsync). Both give the same capture for the same files:
//
//   walk ──ask──> { read, list, words, cgroups, soon }        `soon` is a hint: what is asked next, so that a source with
//        <─────── what was read                               slow round trips may fetch it in one; it answers nothing

import type { KernTree } from '#kernfs/source';
import type { Capture, CaptureOrigin, CaptureProblem } from './capture.ts';
import {
  BLOCK_SIZE,
  CONDITIONS,
  DIRECTORIES,
  FILES,
  type Loss,
  type ManifestDirectory,
  MEMORY_BLOCKS,
  NO_BLOCKS,
  NODE_POOLS,
  PAGES,
} from './manifest.ts';
import { type PageRuns, RunBuilder } from './page-runs.ts';
import { isKernelPath, type ReadTime, type RecordedFile, RecordedTree } from './recorded-tree.ts';
import { redact, redactCgroup, type Secrets } from './redact.ts';
import { describeTear } from './tear.ts';

/** Why a file gave nothing, or not all of it. `detail` is the system's own word for it, for people. */
export type ReadFailure = {
  readonly kind: 'absent' | 'denied' | 'truncated' | 'corrupt';
  readonly detail: string;
};

export type TextRead = { readonly kind: 'text'; readonly text: string } | ReadFailure;

/** The port that gather reads through: a live root, a directory, or a test's own tree. */
export interface MachineFiles {
  read(path: string): TextRead;
  list(path: string): readonly string[];
  /**
   * Streams a file of 64-bit words from frame 0 on: `push` gets (lo, hi pairs, how many words); the buffer is reused.
   * @returns undefined when the file was read to its end; what was pushed before a failure stays good.
   */
  readWords(path: string, push: (pairs: Uint32Array, words: number) => void): ReadFailure | undefined;
  /** Inodes of the memory cgroups and their paths below the root; `more` when the stated bound cut the walk short. */
  cgroups(): { readonly paths: ReadonlyMap<number, string>; readonly more: boolean };
  /** Milliseconds since some fixed moment. */
  nowMs(): number;
}

/** A text, and when it was really read: milliseconds of the source's own `nowMs`; absent where reading it took place now. */
export type TimedRead = TextRead & { readonly at?: ReadTime };

/** The same port for a machine whose answers take their time: a guest behind its agent. */
export interface AsyncMachineFiles {
  read(path: string): Promise<TimedRead>;
  list(path: string): Promise<readonly string[]>;
  readWords(path: string, push: (pairs: Uint32Array, words: number) => void): Promise<ReadFailure | undefined>;
  cgroups(): Promise<{ readonly paths: ReadonlyMap<number, string>; readonly more: boolean }>;
  /** These files and directories are asked for next, each once. A copy fetched for it serves one question only. */
  soon(paths: Soon): Promise<void>;
  nowMs(): number;
}

export type Soon = { readonly files: readonly string[]; readonly directories: readonly string[] };

/** A KernTree as the port, for sources that have text only; every absent file is just absent. */
export function filesOfTree(tree: KernTree): MachineFiles {
  return {
    read: (path) => {
      const text = tree.readText(path);
      return text === undefined ? { kind: 'absent', detail: 'no such file' } : { kind: 'text', text };
    },
    list: (path) => tree.list(path),
    readWords: () => ({ kind: 'absent', detail: 'no such file' }),
    cgroups: () => ({ paths: new Map(), more: false }),
    nowMs: () => 0,
  };
}

/**
 * Reads everything that the manifest names.
 *
 * @returns undefined when there is neither /proc/zoneinfo nor a memory block: not a Linux machine, nor a picture of one.
 * Cost: one pass over each file; memory for the runs and the text, never for the words.
 */
export function gather(files: MachineFiles, origin: CaptureOrigin): Capture | undefined {
  return answered(files, new Gathering(() => files.nowMs(), origin).run());
}

/**
 * The same through a source that answers later. `extra` are files of another source that belong to the same machine and are
 * read last, word for word (a hypervisor's replies, as /qmp/...). Cost: a round trip for each `soon`, and for each piece of a
 * page file, where the source makes use of them.
 */
export async function gatherAsync(
  files: AsyncMachineFiles,
  origin: CaptureOrigin,
  extra?: () => Promise<readonly { readonly path: string; readonly text: string }[]>,
): Promise<Capture | undefined> {
  const gathering = new Gathering(() => files.nowMs(), origin);
  const walk = gathering.run(extra !== undefined);
  for (let step = walk.next(); ; ) {
    if (step.done === true) return step.value;
    const { value: request } = step;
    switch (request.ask) {
      case 'read':
        step = walk.next({ read: await files.read(request.path) });
        break;
      case 'list':
        step = walk.next({ names: await files.list(request.path) });
        break;
      case 'words':
        step = walk.next({ failure: await files.readWords(request.path, request.push) });
        break;
      case 'cgroups':
        step = walk.next({ cgroups: await files.cgroups() });
        break;
      case 'soon':
        await files.soon(request);
        step = walk.next({});
        break;
      case 'extra':
        step = walk.next({ extra: (await extra?.()) ?? [] });
        break;
    }
  }
}

/** The files of a capture one by one: its recorded tree, or what the manifest finds in another kind of tree. */
export function recordedTreeOf(capture: Capture): RecordedTree {
  if (capture.tree instanceof RecordedTree) return capture.tree;
  const files = filesOfTree(capture.tree);
  return answered(files, new Gathering(() => files.nowMs(), capture.origin).readAll());
}

type Request =
  | { readonly ask: 'read'; readonly path: string }
  | { readonly ask: 'list'; readonly path: string }
  | {
      readonly ask: 'words';
      readonly path: string;
      readonly push: (pairs: Uint32Array, words: number) => void;
    }
  | { readonly ask: 'cgroups' }
  | ({ readonly ask: 'soon' } & Soon)
  | { readonly ask: 'extra' };

/** One member for each kind of request; a generator's type cannot tie the two, the walk's own helpers do. */
type Answer = {
  readonly read?: TimedRead;
  readonly names?: readonly string[];
  readonly failure?: ReadFailure | undefined;
  readonly cgroups?: { readonly paths: ReadonlyMap<number, string>; readonly more: boolean };
  readonly extra?: readonly { readonly path: string; readonly text: string }[];
};

type Walk<T> = Generator<Request, T, Answer>;

/** Drives a walk with answers that are there at once. */
function answered<T>(files: MachineFiles, walk: Walk<T>): T {
  for (let step = walk.next(); ; ) {
    if (step.done === true) return step.value;
    const { value: request } = step;
    switch (request.ask) {
      case 'read':
        step = walk.next({ read: files.read(request.path) });
        break;
      case 'list':
        step = walk.next({ names: files.list(request.path) });
        break;
      case 'words':
        step = walk.next({ failure: files.readWords(request.path, request.push) });
        break;
      case 'cgroups':
        step = walk.next({ cgroups: files.cgroups() });
        break;
      case 'soon':
      case 'extra':
        step = walk.next({});
        break;
    }
  }
}

const HOST_NAME = '/proc/sys/kernel/hostname';
const NODES = '/sys/devices/system/node';

class Gathering {
  readonly #nowMs: () => number;
  readonly #origin: CaptureOrigin;
  #secrets: Secrets = {};
  readonly #startedMs: number;
  readonly #recorded = new Map<string, RecordedFile>();
  readonly #pageReads = new Map<string, ReadTime>();
  readonly #problems: CaptureProblem[] = [];

  constructor(nowMs: () => number, origin: CaptureOrigin) {
    this.#nowMs = nowMs;
    this.#origin = origin;
    this.#startedMs = nowMs();
  }

  /** All text files and links. */
  *readAll(): Walk<RecordedTree> {
    yield* this.#readDescriptions();
    return new RecordedTree([...this.#recorded.values()]);
  }

  *run(hasExtra = false): Walk<Capture | undefined> {
    yield* this.#readDescriptions();
    if (!this.#recorded.has(BLOCK_SIZE)) {
      if (!this.#recorded.has('/proc/zoneinfo')) return undefined;
      this.#report(BLOCK_SIZE, { kind: 'absent', detail: 'no memory blocks in sysfs' }, NO_BLOCKS);
    }
    this.#checkHidden();
    const pages: { -readonly [F in 'kpageflags' | 'kpagecount' | 'kpagecgroup']?: PageRuns } = {};
    for (const { path, field, loss } of PAGES) {
      const runs = yield* this.#readPages(path, loss);
      if (runs !== undefined) pages[field] = runs;
    }
    if (this.#pageReads.size > 0) yield* this.#checkTorn();

    const named = (yield { ask: 'cgroups' }).cgroups ?? { paths: new Map(), more: false };
    if (named.more)
      this.#report(
        '/sys/fs/cgroup',
        { kind: 'truncated', detail: `only ${named.paths.size} cgroups were named` },
        {
          lost: 'the names of the others',
          remedy: 'none: the bound keeps a capture small',
        },
      );
    if (hasExtra) {
      const startedMs = this.#elapsedMs();
      const extra = (yield { ask: 'extra' }).extra ?? [];
      const endedMs = this.#elapsedMs();
      for (const { path, text } of extra) this.#recorded.set(path, { path, kind: 'text', text, startedMs, endedMs });
    }
    return {
      origin: this.#origin,
      tree: new RecordedTree([...this.#recorded.values()], this.#pageReads),
      ...pages,
      cgroups: new Map([...named.paths].map(([inode, path]) => [inode, redactCgroup(path, this.#secrets)])),
      problems: this.#problems,
    };
  }

  *#readDescriptions(): Walk<void> {
    const within = (d: ManifestDirectory): string[] =>
      d.each === undefined && d.files !== 'all' ? d.files.map((name) => `${d.path}/${name}`) : [];
    yield {
      ask: 'soon',
      files: [HOST_NAME, ...FILES.map((file) => file.path), ...DIRECTORIES.flatMap(within)],
      directories: [...new Set(DIRECTORIES.filter((d) => within(d).length === 0).map((d) => d.path))],
    };
    const hostName = yield* this.#read(HOST_NAME);
    this.#secrets = { hostName: hostName.kind === 'text' ? hostName.text : undefined };
    for (const file of FILES) yield* this.#readText(file.path, file.loss, file.deniedLoss);
    for (const directory of DIRECTORIES) yield* this.#readDirectory(directory);
    for (const node of yield* this.#names(NODES, /^node\d+$/))
      yield* this.#readDirectory({ ...NODE_POOLS, path: `${NODES}/${node}/${NODE_POOLS.path}` });
    yield { ask: 'soon', files: CONDITIONS.map((file) => file.path), directories: [] };
    for (const file of CONDITIONS) yield* this.#readText(file.path, file.loss);
  }

  *#read(path: string): Walk<TimedRead> {
    return (yield { ask: 'read', path }).read ?? { kind: 'absent', detail: 'no answer' };
  }

  *#readText(path: string, loss?: Loss, deniedLoss?: Loss): Walk<void> {
    const startedMs = this.#elapsedMs();
    const read = yield* this.#read(path);
    if (read.kind === 'text') {
      const text = redact(path, read.text, this.#secrets);
      const at =
        read.at === undefined
          ? { startedMs, endedMs: this.#elapsedMs() }
          : { startedMs: this.#since(read.at.startedMs), endedMs: this.#since(read.at.endedMs) };
      this.#recorded.set(path, { path, kind: 'text', text, ...at });
      return;
    }
    const worth = loss ?? (read.kind === 'absent' ? undefined : deniedLoss);
    if (worth !== undefined) this.#report(path, read, worth);
  }

  *#readDirectory(directory: ManifestDirectory): Walk<void> {
    const { path, each, files, links } = directory;
    const places = each === undefined ? [path] : (yield* this.#names(path, each)).map((name) => `${path}/${name}`);
    const wanted: string[] = [];
    const named = new Map<string, readonly string[]>();
    if (each !== undefined)
      yield {
        ask: 'soon',
        files: files === 'all' ? [] : places.flatMap((place) => files.map((name) => `${place}/${name}`)),
        directories: files === 'all' || links !== undefined ? places : [],
      };
    for (const place of places) {
      if (files === 'all' || links !== undefined) named.set(place, yield* this.#names(place, /./));
      for (const name of files === 'all' ? (named.get(place) ?? []) : files) wanted.push(`${place}/${name}`);
    }
    if (files === 'all') yield { ask: 'soon', files: wanted, directories: [] };
    for (const file of wanted) yield* this.#readText(file);
    if (links === undefined) return;
    for (const place of places) {
      for (const name of (named.get(place) ?? []).filter((n) => links.test(n))) {
        const now = this.#elapsedMs();
        const link = `${place}/${name}`;
        this.#recorded.set(link, { path: link, kind: 'link', text: '', startedMs: now, endedMs: now });
      }
    }
  }

  /** Names as the directory gives them; one that could not stand in a bundle is not taken up. */
  *#names(path: string, matching: RegExp): Walk<readonly string[]> {
    const names = (yield { ask: 'list', path }).names ?? [];
    return names.filter((name) => matching.test(name) && isKernelPath(`${path}/${name}`));
  }

  *#readPages(path: string, loss: Loss): Walk<PageRuns | undefined> {
    const startedMs = this.#elapsedMs();
    const builder = new RunBuilder();
    const push = (pairs: Uint32Array, words: number): void => builder.push(pairs, words);
    const { failure } = yield { ask: 'words', path, push };
    if (failure !== undefined) this.#report(path, failure, loss);
    if (builder.endPfn === 0) {
      if (failure === undefined) this.#report(path, { kind: 'truncated', detail: 'the file is empty' }, loss);
      return undefined;
    }
    this.#pageReads.set(path, { startedMs, endedMs: this.#elapsedMs() });
    const endOfZones = zonesEndPfn(this.#recorded.get('/proc/zoneinfo')?.text ?? '');
    if (failure === undefined && builder.endPfn < endOfZones)
      this.#report(
        path,
        { kind: 'truncated', detail: `ends at frame ${builder.endPfn}, the last zone at ${endOfZones}` },
        loss,
      );
    return builder.finish();
  }

  /** Not root: the kernel shows the lines of iomem with every address zero. */
  #checkHidden(): void {
    const text = this.#recorded.get('/proc/iomem')?.text;
    const loss = FILES.find((file) => file.path === '/proc/iomem')?.loss;
    if (text === undefined || loss === undefined || text === '') return;
    if (text.split('\n').some((line) => /[1-9a-f]/.test(line.split(' : ')[0]))) return;
    this.#report('/proc/iomem', { kind: 'hidden', detail: 'every address reads as zero' }, loss);
  }

  *#checkTorn(): Walk<void> {
    const stateOf = (name: string): string => `${MEMORY_BLOCKS}/${name}/state`;
    const before = (path: string): string => this.#recorded.get(path)?.text ?? '';
    const known = [...this.#recorded.keys()]
      .filter((path) => path.startsWith(`${MEMORY_BLOCKS}/memory`) && path.endsWith('/state'))
      .map((path) => path.slice(MEMORY_BLOCKS.length + 1, -'/state'.length));
    const files = [...CONDITIONS.map((file) => file.path), ...known.map(stateOf)];
    yield { ask: 'soon', files, directories: [MEMORY_BLOCKS] };
    const now = new Map<string, string>();
    const listed = yield* this.#names(MEMORY_BLOCKS, /^memory\d+$/);
    for (const path of [...CONDITIONS.map((file) => file.path), ...listed.map(stateOf)]) {
      const read = yield* this.#read(path);
      now.set(path, read.kind === 'text' ? read.text : '');
    }
    const times = [...this.#pageReads.values()];
    const tear = describeTear(
      {
        zoneinfo: before('/proc/zoneinfo'),
        buddyinfo: before('/proc/buddyinfo'),
        blocks: new Map(known.map((name) => [name, before(stateOf(name)).trim()])),
      },
      {
        zoneinfo: now.get('/proc/zoneinfo') ?? '',
        buddyinfo: now.get('/proc/buddyinfo') ?? '',
        blocks: new Map(listed.map((name) => [name, (now.get(stateOf(name)) ?? '').trim()])),
      },
      times[times.length - 1].endedMs - times[0].startedMs,
    );
    this.#problems.push(...tear);
  }

  #report(file: string, what: { kind: CaptureProblem['kind']; detail: string }, loss: Loss): void {
    this.#problems.push({ file, kind: what.kind, detail: what.detail, lost: loss.lost, remedy: loss.remedy });
  }

  #elapsedMs(): number {
    return this.#since(this.#nowMs());
  }

  /** A moment of the source's clock, in milliseconds since the capture began. */
  #since(ms: number): number {
    return Math.max(0, Math.round(ms - this.#startedMs));
  }
}

/** End of the highest populated zone, from "start_pfn:" and "spanned" of zoneinfo; 0 when there is none. */
function zonesEndPfn(zoneinfo: string): number {
  let end = 0;
  for (const zone of zoneinfo.split(/^Node /m)) {
    const spanned = /^\s+spanned\s+(\d+)$/m.exec(zone);
    const start = /^\s+start_pfn:\s+(\d+)$/m.exec(zone);
    if (spanned !== null && start !== null && Number(spanned[1]) > 0)
      end = Math.max(end, Number(start[1]) + Number(spanned[1]));
  }
  return end;
}
