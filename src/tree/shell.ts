// Shell: a prompt on the tree of a Machine. A line in, its output and status out: no effects, so that a terminal, a script
// and a test are the same to it.
//
//   cat FILE...            echo [-n] TEXT [> FILE]     ls [-l] [PATH]     stat PATH     cd [DIR]     pwd
//   ls blocks|zones|nodes  tables, as lsmem prints them
//   add SIZE [NODE]        a DIMM is plugged            remove BLOCK[-BLOCK]   memory that is offline goes
//   eject BLOCK[-BLOCK]    a DIMM is to go: offline and remove, or back online
//   help  history  exit [STATUS]
//
// Statuses are a shell's: 0, 1 for a refusal, 2 for a line that is none, 127 for an unknown command. Errors are in the C
// library's words, so that a refused write reads as it does in sh: "sh: write error: Device or resource busy".

import { parseSize } from '#base/format';
import { toNodeId, toPfn } from '#base/units';
import type { FsNode, KernelFs } from '#kernfs/kernel-fs';
import { blockName } from '#kernfs/memory-blocks';
import { PAGE_SIZE } from '#mm/geometry';
import type { Machine } from '#mm/machine';
import type { MemoryRange } from '#mm/memory-add';
import { ejectDimm, plugDimm } from '#mm/memory-device';
import { nextFreeStart } from './free-start.ts';
import { blockTable, nodeTable, zoneTable } from './shell-tables.ts';
import { LAST_STATUS, parseLine, type ShellCommand, type Word } from './shell-words.ts';
import { strerror } from './strerror.ts';

export type Answer = {
  readonly out: string;
  readonly err: string;
  readonly status: number;
  /** The session is over. */
  readonly exit: boolean;
};

/** What one command does. */
type Done = { readonly out?: string; readonly err?: string; readonly status?: number };

const fail = (err: string, status = 1): Done => ({ err: `${err}\n`, status });

const TABLES: Readonly<Record<string, (m: Machine) => string>> = {
  blocks: blockTable,
  zones: zoneTable,
  nodes: nodeTable,
};
const STATE_WORDS = ['online', 'offline', 'online_kernel', 'online_movable'];

const HELP = `cat FILE...                 what the kernel says
echo [-n] TEXT [> FILE]     tell it: echo offline > memory32/state
ls [-l] [PATH...]           names; ls blocks, ls zones, ls nodes: tables
cd [DIR], pwd, stat PATH    where, and what it is
add SIZE [NODE]             plug a DIMM: add 1G 0
eject BLOCK[-BLOCK]         unplug it: offline and remove, or back online
remove BLOCK[-BLOCK]        memory whose blocks are offline goes
history, help, exit [N]
* and ? match names; quotes, ";" and "#" as in sh; $? is the last status
`;

export class Shell {
  readonly #m: Machine;
  readonly #fs: KernelFs;
  readonly #history: string[] = [];
  #cwd: string;
  #status = 0;
  /** Status of the last command that failed; 0 as long as none did. */
  #lastFailure = 0;
  #exit = false;

  /** @param start  the directory it begins in */
  constructor(machine: Machine, fs: KernelFs, start = '/sys/devices/system/memory') {
    this.#m = machine;
    this.#fs = fs;
    this.#cwd = start;
  }

  get cwd(): string {
    return this.#cwd;
  }

  /** What a script ends with: the status given to exit, else that of the last command that failed. */
  get exitStatus(): number {
    return this.#exit ? this.#status : this.#lastFailure;
  }

  get prompt(): string {
    return `${this.#cwd} $ `;
  }

  /** Runs one line. */
  run(line: string): Answer {
    if (line.trim() !== '') this.#history.push(line.trim());
    const parsed = parseLine(line.replaceAll(LAST_STATUS, ''));
    if (!parsed.ok) {
      this.#note(2);
      return { out: '', err: `sh: ${parsed.error}\n`, status: 2, exit: false };
    }
    let out = '';
    let err = '';
    for (const command of parsed.value) {
      const done = this.#command(command);
      out += done.out ?? '';
      err += done.err ?? '';
      this.#note(done.status ?? 0);
      if (this.#exit) break;
    }
    return { out, err, status: this.#status, exit: this.#exit };
  }

  #note(status: number): void {
    this.#status = status;
    if (status !== 0) this.#lastFailure = status;
  }

  #command(c: ShellCommand): Done {
    const words = c.words.flatMap((w) => this.#expand(w));
    const [name, ...args] = words;
    const done = name === undefined ? {} : this.#builtin(name, args);
    if (c.to === undefined) return done;
    const targets = this.#expand(c.to);
    if (targets.length !== 1) return fail(`sh: ${c.to.text}: ambiguous redirect`);
    const path = this.#path(targets[0] as string);
    // sh opens the file before the command runs: what is not there, or a directory, is the shell's own complaint.
    const node = this.#follow(path);
    if (node === undefined) return fail(`sh: can't create ${c.to.text}: nonexistent directory`);
    if (node.kind === 'dir') return fail(`sh: can't create ${c.to.text}: Is a directory`);
    const wrote = this.#fs.write(path, done.out ?? '');
    if (typeof wrote === 'number')
      return { ...(done.err === undefined ? {} : { err: done.err }), status: done.status ?? 0 };
    if (wrote === 'EACCES') return fail(`sh: can't create ${c.to.text}: ${strerror(wrote)}`);
    return fail(`sh: write error: ${strerror(wrote)}`);
  }

  #builtin(name: string, args: readonly string[]): Done {
    switch (name) {
      case 'cat':
        return this.#cat(args);
      case 'echo':
        return { out: args[0] === '-n' ? args.slice(1).join(' ') : `${args.join(' ')}\n` };
      case 'ls':
        return this.#ls(args);
      case 'cd':
        return this.#cd(args);
      case 'pwd':
        return { out: `${this.#cwd}\n` };
      case 'stat':
        return this.#each(args, 'stat', (path, shown) => this.#stat(path, shown));
      case 'add':
        return this.#add(args);
      case 'remove':
        return this.#remove(args);
      case 'eject':
        return this.#eject(args);
      case 'help':
        return { out: HELP };
      case 'history':
        return { out: this.#history.map((l, k) => `${String(k + 1).padStart(5)}  ${l}\n`).join('') };
      case 'exit':
      case 'quit':
        this.#exit = true;
        return { status: args[0] === undefined ? this.#lastFailure : Number.parseInt(args[0], 10) & 255 };
      case 'true':
        return {};
      case 'false':
        return { status: 1 };
      default:
        return fail(`sh: ${name}: not found`, 127);
    }
  }

  // ------------------------------------------------------------------------------------------------------ reading

  #each(args: readonly string[], name: string, one: (path: string, shown: string) => Done): Done {
    if (args.length === 0) return fail(`${name}: missing operand`, 2);
    let out = '';
    let err = '';
    let status = 0;
    for (const arg of args) {
      const done = one(this.#path(arg), arg);
      out += done.out ?? '';
      err += done.err ?? '';
      status = done.status ?? status;
    }
    return { out, err, status };
  }

  #cat(args: readonly string[]): Done {
    return this.#each(args, 'cat', (path, shown) => {
      const text = this.#fs.readText(path);
      if (text !== undefined) return { out: text };
      const bytes = this.#fs.read(path, 0, 8);
      if (typeof bytes === 'string') return fail(`cat: ${shown}: ${strerror(bytes)}`);
      return fail(`cat: ${shown}: words of 64 bits, no text`);
    });
  }

  #ls(args: readonly string[]): Done {
    const long = args.includes('-l');
    const paths = args.filter((a) => a !== '-l');
    const only = paths.length === 1 ? (paths[0] as string) : undefined;
    if (only !== undefined && Object.hasOwn(TABLES, only) && this.#follow(this.#path(only)) === undefined) {
      return { out: (TABLES[only] as (m: Machine) => string)(this.#m) };
    }
    const names = paths.length === 0 ? ['.'] : paths;
    return this.#each(names, 'ls', (path, shown) => {
      const node = this.#follow(path);
      if (node === undefined) return fail(`ls: ${shown}: No such file or directory`);
      if (node.kind !== 'dir') return { out: `${long ? longLine(node, shown) : shown}\n` };
      const entries = this.#fs.list(path);
      const lines = entries.map((name) => {
        const entry = long ? this.#fs.stat(`${path === '/' ? '' : path}/${name}`) : undefined;
        return `${entry === undefined ? name : longLine(entry, name)}\n`;
      });
      return { out: `${names.length > 1 ? `${shown}:\n` : ''}${lines.join('')}` };
    });
  }

  #stat(path: string, shown: string): Done {
    const node = this.#fs.stat(path);
    if (node === undefined) return fail(`stat: can't stat '${shown}': No such file or directory`);
    const mode = node.kind === 'link' ? 0o777 : node.mode;
    const kind = node.kind === 'link' ? 'symbolic link' : node.kind === 'dir' ? 'directory' : 'regular file';
    const name = node.kind === 'link' ? `${shown} -> ${node.target}` : shown;
    const size = node.kind === 'file' ? node.size : 0;
    return {
      out: `  File: ${name}\n  Size: ${size}  ${kind}\nAccess: (${mode.toString(8).padStart(4, '0')}/${letters(node)})\n`,
    };
  }

  #cd(args: readonly string[]): Done {
    const to = this.#path(args[0] ?? '/');
    const node = this.#follow(to);
    if (node === undefined) return fail(`sh: cd: can't cd to ${args[0]}: No such file or directory`);
    if (node.kind !== 'dir') return fail(`sh: cd: can't cd to ${args[0]}: Not a directory`);
    this.#cwd = to;
    return {};
  }

  // ------------------------------------------------------------------------------------------- memory comes and goes

  #add(args: readonly string[]): Done {
    const bytes = parseSize(args[0] ?? '');
    const node = Number(args[1] ?? '0');
    if (bytes === undefined || bytes === 0 || !Number.isInteger(node) || node < 0) {
      return fail('add: a size with a unit and a node are wanted: add 1G 0', 2);
    }
    if (bytes % PAGE_SIZE !== 0) return fail('add: memory comes in whole frames of 4K', 2);
    if (this.#m.hotplug.lock.taken) return fail('add: memory is being changed by somebody else');
    const start = nextFreeStart(this.#m);
    const done = plugDimm(this.#m, { start, end: toPfn(start + bytes / PAGE_SIZE) }, toNodeId(node));
    if (!done.ok) return fail(`add: ${done.error.errno}: ${done.error.message}`);
    const { blocks, onlined } = done.value;
    const last = blocks[blocks.length - 1] ?? blocks[0];
    return { out: `${sayBlocks(blocks[0] as number, last as number)} on node ${node}, ${onlined.length} online\n` };
  }

  /** The range of "32" or "32-39", with or without "memory". */
  #range(args: readonly string[]): (MemoryRange & { readonly first: number; readonly last: number }) | undefined {
    const m = /^(?:memory|block:)?(\d+)(?:-(?:memory)?(\d+))?$/.exec(args[0] ?? '');
    if (m === null || args.length > 1) return undefined;
    const first = Number(m[1]);
    const last = Number(m[2] ?? m[1]);
    const { blockPages } = this.#m;
    return last < first
      ? undefined
      : { first, last, start: toPfn(first * blockPages), end: toPfn((last + 1) * blockPages) };
  }

  #remove(args: readonly string[]): Done {
    const range = this.#range(args);
    if (range === undefined) return fail('remove: blocks are wanted: remove 32-39', 2);
    if (this.#m.hotplug.lock.taken) return fail('remove: memory is being changed by somebody else');
    const done = this.#m.removeMemory(range);
    if (!done.ok) return fail(`remove: ${done.error.errno}: ${done.error.message}`);
    return { out: `${sayBlocks(range.first, range.last)} removed\n` };
  }

  #eject(args: readonly string[]): Done {
    const range = this.#range(args);
    if (range === undefined) return fail('eject: blocks are wanted: eject 32-39', 2);
    if (this.#m.hotplug.lock.taken) return fail('eject: memory is being changed by somebody else');
    const report = ejectDimm(this.#m, range);
    if (report.refusal === undefined) return { out: `${sayBlocks(range.first, range.last)} removed\n` };
    const back = report.back.length === 0 ? '' : `; ${report.back.length} blocks are back online`;
    return fail(`eject: ${report.refusal.errno}: ${report.refusal.message}${back}`);
  }

  // -------------------------------------------------------------------------------------------------------- paths

  /** An absolute path without "." and "..", as a shell's own cd makes it. */
  #path(text: string): string {
    const parts: string[] = [];
    for (const part of (text.startsWith('/') ? text : `${this.#cwd}/${text}`).split('/')) {
      if (part === '..') parts.pop();
      else if (part !== '' && part !== '.') parts.push(part);
    }
    return `/${parts.join('/')}`;
  }

  /** What is at a path, a link at its end followed. */
  #follow(path: string): FsNode | undefined {
    const node = this.#fs.stat(path);
    if (node?.kind !== 'link') return node;
    // A link in the middle of a path is followed: "." behind it is the directory that it leads to.
    return this.#fs.stat(`${path}/.`);
  }

  /** Names that a pattern matches, sorted; the word itself where there are none, as in sh. */
  #expand(word: Word): string[] {
    const text = word.text.replaceAll(LAST_STATUS, String(this.#status));
    if (!word.glob) return [text];
    const absolute = text.startsWith('/');
    let found = [absolute ? '' : this.#cwd === '/' ? '' : this.#cwd];
    for (const part of text.split('/').filter((p) => p !== '')) {
      const next: string[] = [];
      for (const directory of found) {
        if (!/[*?]/.test(part)) {
          if (this.#fs.stat(`${directory}/${part}`) !== undefined) next.push(`${directory}/${part}`);
          continue;
        }
        const pattern = patternOf(part);
        for (const name of this.#fs.list(directory === '' ? '/' : directory)) {
          if (pattern.test(name)) next.push(`${directory}/${name}`);
        }
      }
      found = next;
    }
    if (found.length === 0) return [text];
    const prefix = this.#cwd === '/' ? '/' : `${this.#cwd}/`;
    return absolute ? found : found.map((path) => path.slice(prefix.length));
  }

  /**
   * Completions of the last word of a line.
   * @returns the words that it may become, and the part that they replace
   */
  complete(line: string): readonly [words: readonly string[], part: string] {
    const part = /[^\s;>]*$/.exec(line)?.[0] ?? '';
    const before = line.slice(0, line.length - part.length);
    const first = /(^|;)\s*$/.test(before);
    if (first) return [COMMANDS.filter((c) => c.startsWith(part)).map((c) => `${c} `), part];
    const words: string[] = [];
    if (/(^|;)\s*echo\s+$/.test(before)) words.push(...STATE_WORDS.filter((w) => w.startsWith(part)));
    if (/(^|;)\s*ls\s+(-l\s+)?$/.test(before)) words.push(...Object.keys(TABLES).filter((w) => w.startsWith(part)));
    const slash = part.lastIndexOf('/') + 1;
    const directory = this.#path(slash === 0 ? '.' : part.slice(0, slash));
    for (const name of this.#fs.list(directory)) {
      if (!name.startsWith(part.slice(slash))) continue;
      const isDir = this.#follow(`${directory === '/' ? '' : directory}/${name}`)?.kind === 'dir';
      words.push(`${part.slice(0, slash)}${name}${isDir ? '/' : ' '}`);
    }
    return [words, part];
  }
}

const COMMANDS = ['add', 'cat', 'cd', 'echo', 'eject', 'exit', 'help', 'history', 'ls', 'pwd', 'remove', 'stat'];

const patternOf = (part: string): RegExp =>
  new RegExp(
    `^${part
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.')}$`,
  );

const sayBlocks = (first: number, last: number): string =>
  first === last ? blockName(first as Parameters<typeof blockName>[0]) : `memory${first}-${last}`;

/** "-rw-r--r--" */
function letters(node: FsNode): string {
  const mode = node.kind === 'link' ? 0o777 : node.mode;
  const kind = node.kind === 'link' ? 'l' : node.kind === 'dir' ? 'd' : '-';
  return `${kind}${[...'rwxrwxrwx'].map((c, k) => ((mode >> (8 - k)) & 1 ? c : '-')).join('')}`;
}

/** A line of ls -l; without the time, which a tree has not. */
function longLine(node: FsNode, name: string): string {
  const size = node.kind === 'file' ? node.size : 0;
  const shown = node.kind === 'link' ? `${name} -> ${node.target}` : name;
  return `${letters(node)} root root ${String(size).padStart(5)} ${shown}`;
}
