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
  return new Gathering(files, origin).run();
}

/** The files of a capture one by one: its recorded tree, or what the manifest finds in another kind of tree. */
export function recordedTreeOf(capture: Capture): RecordedTree {
  if (capture.tree instanceof RecordedTree) return capture.tree;
  const files = new Gathering(filesOfTree(capture.tree), capture.origin);
  return files.readAll();
}

class Gathering {
  readonly #files: MachineFiles;
  readonly #origin: CaptureOrigin;
  readonly #secrets: Secrets;
  readonly #startedMs: number;
  readonly #recorded = new Map<string, RecordedFile>();
  readonly #pageReads = new Map<string, ReadTime>();
  readonly #problems: CaptureProblem[] = [];

  constructor(files: MachineFiles, origin: CaptureOrigin) {
    this.#files = files;
    this.#origin = origin;
    this.#startedMs = files.nowMs();
    const hostName = files.read('/proc/sys/kernel/hostname');
    this.#secrets = { hostName: hostName.kind === 'text' ? hostName.text : undefined };
  }

  /** All text files and links. */
  readAll(): RecordedTree {
    this.#readDescriptions();
    return new RecordedTree([...this.#recorded.values()]);
  }

  run(): Capture | undefined {
    this.#readDescriptions();
    if (!this.#recorded.has(BLOCK_SIZE)) {
      if (!this.#recorded.has('/proc/zoneinfo')) return undefined;
      this.#report(BLOCK_SIZE, { kind: 'absent', detail: 'no memory blocks in sysfs' }, NO_BLOCKS);
    }
    this.#checkHidden();
    const pages: { -readonly [F in 'kpageflags' | 'kpagecount' | 'kpagecgroup']?: PageRuns } = {};
    for (const { path, field, loss } of PAGES) {
      const runs = this.#readPages(path, loss);
      if (runs !== undefined) pages[field] = runs;
    }
    if (this.#pageReads.size > 0) this.#checkTorn();

    const named = this.#files.cgroups();
    if (named.more)
      this.#report(
        '/sys/fs/cgroup',
        { kind: 'truncated', detail: `only ${named.paths.size} cgroups were named` },
        {
          lost: 'the names of the others',
          remedy: 'none: the bound keeps a capture small',
        },
      );
    return {
      origin: this.#origin,
      tree: new RecordedTree([...this.#recorded.values()], this.#pageReads),
      ...pages,
      cgroups: new Map([...named.paths].map(([inode, path]) => [inode, redactCgroup(path, this.#secrets)])),
      problems: this.#problems,
    };
  }

  #readDescriptions(): void {
    for (const file of FILES) this.#readText(file.path, file.loss, file.deniedLoss);
    for (const directory of DIRECTORIES) this.#readDirectory(directory);
    for (const node of this.#names('/sys/devices/system/node', /^node\d+$/))
      this.#readDirectory({ ...NODE_POOLS, path: `/sys/devices/system/node/${node}/${NODE_POOLS.path}` });
    for (const file of CONDITIONS) this.#readText(file.path, file.loss);
  }

  #readText(path: string, loss?: Loss, deniedLoss?: Loss): void {
    const startedMs = this.#elapsedMs();
    const read = this.#files.read(path);
    if (read.kind === 'text') {
      const text = redact(path, read.text, this.#secrets);
      this.#recorded.set(path, { path, kind: 'text', text, startedMs, endedMs: this.#elapsedMs() });
      return;
    }
    const worth = loss ?? (read.kind === 'absent' ? undefined : deniedLoss);
    if (worth !== undefined) this.#report(path, read, worth);
  }

  #readDirectory(directory: ManifestDirectory): void {
    const { path, each, files, links } = directory;
    for (const place of each === undefined ? [path] : this.#names(path, each).map((name) => `${path}/${name}`)) {
      for (const name of files === 'all' ? this.#names(place, /./) : files) this.#readText(`${place}/${name}`);
      if (links === undefined) continue;
      for (const name of this.#names(place, links)) {
        const now = this.#elapsedMs();
        const link = `${place}/${name}`;
        this.#recorded.set(link, { path: link, kind: 'link', text: '', startedMs: now, endedMs: now });
      }
    }
  }

  /** Names as the directory gives them; one that could not stand in a bundle is not taken up. */
  #names(path: string, matching: RegExp): readonly string[] {
    return this.#files.list(path).filter((name) => matching.test(name) && isKernelPath(`${path}/${name}`));
  }

  #readPages(path: string, loss: Loss): PageRuns | undefined {
    const startedMs = this.#elapsedMs();
    const builder = new RunBuilder();
    const failure = this.#files.readWords(path, (pairs, words) => builder.push(pairs, words));
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

  #checkTorn(): void {
    const before = (path: string): string => this.#recorded.get(path)?.text ?? '';
    const after = (path: string): string => {
      const read = this.#files.read(path);
      return read.kind === 'text' ? read.text : '';
    };
    const blockStates = (state: (path: string) => string, blocks: readonly string[]): Map<string, string> =>
      new Map(blocks.map((name) => [name, state(`${MEMORY_BLOCKS}/${name}/state`).trim()]));
    const known = [...this.#recorded.keys()]
      .filter((path) => path.startsWith(`${MEMORY_BLOCKS}/memory`) && path.endsWith('/state'))
      .map((path) => path.slice(MEMORY_BLOCKS.length + 1, -'/state'.length));
    const times = [...this.#pageReads.values()];
    const tear = describeTear(
      {
        zoneinfo: before('/proc/zoneinfo'),
        buddyinfo: before('/proc/buddyinfo'),
        blocks: blockStates(before, known),
      },
      {
        zoneinfo: after('/proc/zoneinfo'),
        buddyinfo: after('/proc/buddyinfo'),
        blocks: blockStates(after, this.#names(MEMORY_BLOCKS, /^memory\d+$/)),
      },
      times[times.length - 1].endedMs - times[0].startedMs,
    );
    this.#problems.push(...tear);
  }

  #report(file: string, what: { kind: CaptureProblem['kind']; detail: string }, loss: Loss): void {
    this.#problems.push({ file, kind: what.kind, detail: what.detail, lost: loss.lost, remedy: loss.remedy });
  }

  #elapsedMs(): number {
    return Math.max(0, Math.round(this.#files.nowMs() - this.#startedMs));
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
