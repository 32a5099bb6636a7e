// Harness of the mount tests: server processes that each test starts and ends by their id, and a reason where none can run.

import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, beforeEach, expect, onTestFinished } from 'vitest';
import { whyNoFuse } from '../../src/hosts/fuse/index.ts';
import { ROOT } from '../support/source-files.ts';

/** Why nothing can be mounted here; undefined where it can. */
export function whyNotHere(): string | undefined {
  if (process.platform !== 'linux') return 'this is not Linux';
  if (process.getuid?.() !== 0) return 'mounting needs root';
  const lacking = whyNoFuse();
  if (lacking !== undefined) return lacking.sentence;
  for (const tool of ['mount', 'unshare', 'lsmem', 'chmem', 'timeout', 'dd', 'bash'])
    if (spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0) return `${tool} is not installed`;
  if (spawnSync('unshare', ['-m', 'true'], { timeout: 5000 }).status !== 0)
    return 'no mount namespace may be made here';
  return existsSync('/sys/devices/system/memory') ? undefined : 'this kernel has no /sys/devices/system/memory';
}

/** The lines of the mount table that are ours. */
export const ourMounts = (dir: string): string[] =>
  readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .filter((l) => l.includes(` ${dir} fuse.dimmer `));

/** Everything in the machine's own memory directory, by name: no test may change it. */
export const realTree = (): string =>
  readdirSync('/sys/devices/system/memory')
    .map((n) => {
      const file = `/sys/devices/system/memory/${n}/state`;
      return `${n} ${existsSync(file) ? readFileSync(file, 'utf8').trim() : ''}`;
    })
    .join('\n');

/**
 * The frame of a file of mount tests: skipped with its reason where nothing can be mounted; its programs built once; at the end
 * the machine's own tree is as it was.
 *
 * @returns the folder of the programs, and the machine's own tree before the first test
 */
export function mountFile(
  label: string,
  build: (programs: string) => Promise<void>,
): { readonly programs: string; readonly before: string } {
  const box = { programs: '', before: '' };
  const reason = whyNotHere();
  if (reason !== undefined) process.stderr.write(`${label}: skipped: ${reason}\n`);
  beforeAll(async () => {
    if (reason !== undefined) return;
    box.before = realTree();
    box.programs = mkdtempSync(join(tmpdir(), 'dimmer-mount-programs-'));
    chmodSync(box.programs, 0o755); // one test reads them as nobody
    await build(box.programs);
  });
  afterAll(() => {
    if (reason !== undefined) return;
    rmSync(box.programs, { recursive: true, force: true });
    expect(realTree()).toBe(box.before);
  });
  beforeEach((context) => {
    context.skip(reason !== undefined, reason);
  });
  return box;
}

export function scratch(): string {
  const dir = mkdtempSync(join(tmpdir(), 'dimmer-mount-'));
  onTestFinished(() => {
    spawnSync('umount', ['-i', '-q', '-f', '-l', dir]); // a test that failed half-way
    rmSync(dir, { recursive: true, force: true });
  });
  return dir;
}

/** A program of this folder as one file that plain Node runs. */
export async function bundled(entry: string, dir: string, name = entry): Promise<string> {
  const outfile = join(dir, `${name}.mjs`);
  await build({
    entryPoints: [join(ROOT, `test/mount/${entry}.ts`)],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    conditions: ['dimmer-src'],
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
    logLevel: 'silent',
  });
  return outfile;
}

export type Server = {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly code: Promise<number>;
  readonly err: () => string;
  /** The next line of output; rejects after ten seconds. */
  line(): Promise<string>;
  say(word: string): void;
};

/** Starts a program and ends it with the test, by its id. */
export function start(file: string, args: readonly string[], env: Record<string, string> = {}): Server {
  const child = spawn(process.execPath, [file, ...args], { stdio: 'pipe', env: { ...process.env, ...env } });
  let text = '';
  let err = '';
  child.stdout.on('data', (c: Buffer) => {
    text += c.toString();
  });
  child.stderr.on('data', (c: Buffer) => {
    err += c.toString();
  });
  child.stdin.on('error', () => {}); // it has ended already
  let running = true;
  const code = new Promise<number>((resolve) => {
    child.on('exit', (c, signal) => {
      running = false;
      resolve(c ?? (signal === null ? -1 : -2));
    });
  });
  onTestFinished(() => {
    if (running) child.kill('SIGKILL');
  });
  return {
    child,
    pid: child.pid ?? 0,
    code,
    err: () => err,
    say: (word) => void child.stdin.write(`${word}\n`),
    line: async () => {
      await until(
        () => text.includes('\n'),
        10_000,
        () => `a line of the server; it said: ${err}`,
      );
      const at = text.indexOf('\n');
      const line = text.slice(0, at);
      text = text.slice(at + 1);
      return line;
    },
  };
}

/** Looks each 10 ms; rejects when it takes longer. */
export async function until(is: () => boolean, ms: number, what: () => string): Promise<void> {
  for (let waited = 0; !is(); waited += 10) {
    if (waited >= ms) throw new Error(`after ${ms} ms still no ${what()}`);
    await sleep(10);
  }
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export type Ran = { readonly code: number; readonly out: string; readonly err: string };

/** A shell line, asynchronously: this process may be the server. Ends after 20 s. */
export const sh = (line: string, env: Record<string, string> = {}): Promise<Ran> =>
  new Promise((resolve) => {
    execFile(
      'sh',
      ['-c', line],
      { timeout: 20_000, env: { ...process.env, LC_ALL: 'C', ...env }, maxBuffer: 2 ** 26 },
      (e, out, err) => resolve({ code: e === null ? 0 : typeof e.code === 'number' ? e.code : -1, out, err }),
    );
  });
