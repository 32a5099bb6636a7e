// Programs that were not written for dimmer, on its trees: lsmem, chmem, numactl and Debian's prometheus-node-exporter. The
// test fetches what is missing; what cannot be had, or mounted, is skipped with a line that says so.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, type TestContext } from 'vitest';
import type { Io } from '../../src/cli/io.ts';
import { openMachine } from '../../src/cli/open-machine.ts';
import { mountFuse, spawnInside } from '../../src/hosts/fuse/index.ts';
import type { KernelFs } from '../../src/kernfs/kernel-fs.ts';
import type { Machine } from '../../src/mm/index.ts';
import { installTestTools, type TestTool, type TestToolName } from '../../tools/install-test-tools.mjs';
import { DEMO, type Ran, runCli, scratchDirectory } from '../cli/run-cli.ts';
import { realTree, scratch, sh, whyNotHere } from '../mount/harness.ts';
import { ROOT } from '../support/source-files.ts';
import { type Metrics, metricsOf, startExporter } from './exporter.ts';

const YAML = join(ROOT, 'test/real-tools/machine.yaml');
const M = '/sys/devices/system/memory';
const SOURCES = { 'a machine file': YAML, 'a recorded guest': DEMO } as const;

let tools: ReturnType<typeof installTestTools>;
const noMount = whyNotHere();
let before = '';

beforeAll(() => {
  tools = installTestTools();
  if (noMount === undefined) before = realTree();
}, 300_000);
afterAll(() => {
  if (noMount === undefined) expect(realTree()).toBe(before);
});

function skip(context: TestContext, why: string): never {
  process.stderr.write(`SKIPPED: ${context.task.name}: ${why}\n`);
  return context.skip(why);
}

function need(context: TestContext, name: TestToolName): TestTool {
  const tool = tools[name];
  return tool.file === undefined ? skip(context, `${name}: ${tool.why}`) : tool;
}

function needMount(context: TestContext): void {
  if (noMount !== undefined) skip(context, `nothing can be mounted: ${noMount}`);
}

const quiet: Io = {
  out: () => {},
  err: () => {},
  env: {},
  outIsTty: false,
  errIsTty: false,
  columns: undefined,
  platform: 'linux',
  now: () => new Date(0),
};

function opened(from: string): { machine: Machine; tree: KernelFs } {
  const got = openMachine(quiet, { from, quiet: true });
  if (!got.ok) throw new Error(got.error.sentence);
  return got.value;
}

function exported(from: string): string {
  const directory = join(scratchDirectory(), 'tree');
  expect(runCli(['export', directory, '--from', from, '-q'])).toEqual({ code: 0, out: '', err: '' });
  return directory;
}

async function mounted(tree: KernelFs): Promise<{ dir: string; tag: string }> {
  const got = await mountFuse(tree, scratch());
  if (!got.ok) throw new Error(got.error.sentence);
  onTestFinished(async () => {
    expect((await got.value.unmount()).error).toBeUndefined();
  });
  return got.value;
}

/** A shell line in the namespace where the tree is the machine's. */
async function inside(tree: KernelFs, line: string, env: TestTool['env'] = {}): Promise<Ran> {
  const set = Object.entries({ ...env, LC_ALL: 'C' }).map(([k, v]) => `${k}=${v}`);
  const command = ['env', ...set, 'sh', '-c', line];
  const child = spawnInside({ mounted: await mounted(tree), tree, command, stdio: 'pipe' });
  let out = '';
  let err = '';
  child.stdout?.on('data', (c: Buffer) => {
    out += c.toString();
  });
  child.stderr?.on('data', (c: Buffer) => {
    err += c.toString();
  });
  const code = await new Promise<number>((resolve) => child.on('close', (c) => resolve(c ?? -1)));
  return { code, out, err };
}

/** Every metric that the engine knows, and chunks of no other zone. */
function expectMetrics(said: Metrics, machine: Machine): void {
  const wanted = metricsOf(machine);
  expect(Object.fromEntries([...wanted.keys()].map((k) => [k, said.get(k)]))).toEqual(Object.fromEntries(wanted));
  const zones = (names: Iterable<string>) => [...names].filter((k) => k.startsWith('node_buddyinfo_blocks')).sort();
  expect(zones(said.keys())).toEqual(zones(wanted.keys()));
}

describe('an exported tree', () => {
  it('RL1 lsmem --sysroot prints what ls blocks prints, and the DIMMs are as the file plans', (context) => {
    const { file, env } = need(context, 'lsmem');
    const tree = exported(YAML);
    const lsmem = (...args: readonly string[]): string => {
      const ran = spawnSync(file, ['--sysroot', tree, ...args], {
        encoding: 'utf8',
        env: { PATH: process.env.PATH, LC_ALL: 'C', ...env },
      });
      expect(ran.status, ran.stderr).toBe(0);
      return ran.stdout;
    };
    for (const form of [
      [],
      ['-a', '-b'],
      ['-P', '-o', 'RANGE,STATE,ZONES,NODE'],
      ['-r', '-n'],
      ['-o', '+ZONES,NODE'],
      ['--summary'],
    ])
      expect(runCli(['ls', 'blocks', '-q', '--sysroot', tree, ...form]).out, form.join(' ')).toBe(lsmem(...form));
    expect(lsmem('-r', '-n', '--summary=never', '-o', 'BLOCK,STATE,ZONES,NODE').split('\n').slice(-3, -1)).toEqual([
      '40-41 online Movable 1',
      '42-43 offline Movable/Normal 0',
    ]);
  });

  for (const [name, source] of Object.entries(SOURCES))
    it(`RL2 prometheus-node-exporter reads the numbers of the machine: ${name}`, async (context) => {
      const scrape = await startExporter(need(context, 'prometheus-node-exporter'), exported(source));
      const { machine } = opened(source);
      expectMetrics(await scrape(), machine);
      expect(machine.check()).toEqual([]);
    });
});

describe('a mounted tree', () => {
  for (const [name, source, block] of [
    ['a machine file', YAML, 41],
    ['a recorded guest', DEMO, 46],
  ] as const)
    it(`RL3 prometheus-node-exporter follows a block that goes offline: ${name}`, async (context) => {
      const tool = need(context, 'prometheus-node-exporter');
      needMount(context);
      const { machine, tree } = opened(source);
      const { dir } = await mounted(tree);
      const scrape = await startExporter(tool, dir);
      const first = await scrape();
      expectMetrics(first, machine);
      expect((await sh(`echo offline > ${dir}${M}/memory${block}/state`)).err).toBe('');
      const second = await scrape();
      expectMetrics(second, machine);
      const present = (said: Metrics): number =>
        [...said].reduce((n, [k, v]) => (k.startsWith('node_zoneinfo_present_pages') ? n + v : n), 0);
      expect(present(first) - present(second)).toBe(32_768);
      expect(machine.check()).toEqual([]);
    });

  it('RL4 numactl -H prints nodes, CPUs, sizes, free memory and distances', async (context) => {
    const { file, env } = need(context, 'numactl');
    needMount(context);
    const { machine, tree } = opened(YAML);
    const ran = await inside(tree, `${file} -H`, env);
    if (/No NUMA/.test(ran.err + ran.out)) skip(context, 'this kernel, or its seccomp filter, has no get_mempolicy(2)');
    const mib = (node: number, pages: (p: Machine['pools'][number]) => number): number =>
      Math.floor(machine.pools.filter((p) => p.node === node).reduce((n, p) => n + pages(p), 0) / 256);
    const said = ran.out.replace(/ +$/gm, '');
    const size = (node: number): string =>
      `node ${node} size: ${mib(node, (p) => p.managed)} MB\nnode ${node} free: ${mib(node, (p) => p.alloc.nrFree())} MB\n`;
    // A CPU that the real machine could not have is not printed: libnuma asks it, not the tree, how many are possible.
    const cpus = /^node \d+ cpus:.*\n/gm;
    expect({ code: ran.code, err: ran.err, said: said.replace(cpus, '') }).toEqual({
      code: 0,
      err: '',
      said: `available: 2 nodes (0-1)\n${size(0)}${size(1)}node distances:\nnode   0   1\n  0:  10  21\n  1:  21  10\n`,
    });
    const possible = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim();
    if (possible !== '0') expect(said.match(cpus)).toEqual(['node 0 cpus: 0\n', 'node 1 cpus: 1\n']);
    expect(machine.check()).toEqual([]);
  });

  it('RL5 chmem by size, range and block, with and without a zone; its exit codes and its words', async (context) => {
    const { file, env } = need(context, 'chmem');
    const lsmem = need(context, 'lsmem');
    needMount(context);
    const { machine, tree } = opened(YAML);
    const steps: readonly (readonly [string, number, string])[] = [
      ['-e -b 42', 0, ''],
      ['-v -d -b 40-41', 0, 'Memory Blocks? 40|disabled'],
      ['-e -z Movable 0x0000000140000000-0x0000000147ffffff', 0, ''],
      ['-e -z Normal -b 43', 0, ''],
      ['-e -z Movable 128M', 0, ''],
      ['-d -z Movable 128M', 0, ''],
      ['-d -b 0', 1, 'Memory Block 0 \\(.*\\) disable failed: Invalid argument'],
      ['-d bogus', 1, "Failed to parse size: 'bogus'"],
      ['-d 1000', 1, 'Size must be aligned to memory block size \\(128M\\)'],
      ['-d 100T', 64, 'Could only disable .* of memory'],
    ];
    // One mount and one namespace for all: each step's words between two lines that name it and its exit code.
    const script = steps.map(([words], k) => `echo "<${k}"; ${file} ${words} 2>&1; echo ">${k} $?"`).join('\n');
    const ran = await inside(tree, `${script}\n${lsmem.file} -r -n --summary=never -o BLOCK,STATE,ZONES,NODE`, env);
    for (const [k, [words, code, said]] of steps.entries()) {
      const [, got, exit] = new RegExp(`<${k}\n([^]*?)>${k} (\\d+)\n`).exec(ran.out) ?? [];
      expect([words, exit], ran.out).toEqual([words, `${code}`]);
      expect(got, words).toMatch(said === '' ? /^$/ : new RegExp(said));
    }
    const left = { out: ran.out.slice(ran.out.lastIndexOf(`>${steps.length - 1} 64\n`)).replace(/^.*\n/, '') };
    expect(machine.check()).toEqual([]);
    expect(left.out).toBe(runLs(tree));
    expect(left.out).toMatch(/^0 online None 0$/m);
  });
});

/** The rows that lsmem's raw form prints, from the tree's files alone: runs of blocks that are alike in all three columns. */
function runLs(tree: KernelFs): string {
  const rows: { first: number; last: number; like: string }[] = [];
  const ids = tree
    .list(M)
    .flatMap((n) => /^memory(\d+)$/.exec(n)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
  for (const id of ids) {
    const at = `${M}/memory${id}`;
    const zones = (tree.readText(`${at}/valid_zones`) ?? '').trim().replaceAll(' ', '/').replace('none', 'None');
    const node = tree
      .list(at)
      .find((n) => /^node\d+$/.test(n))
      ?.slice(4);
    const like = `${(tree.readText(`${at}/state`) ?? '').trim()} ${zones} ${node}`;
    const row = rows.at(-1);
    if (row?.last === id - 1 && row.like === like) row.last = id;
    else rows.push({ first: id, last: id, like });
  }
  return rows.map((r) => `${r.first === r.last ? r.first : `${r.first}-${r.last}`} ${r.like}\n`).join('');
}

describe('a machine file as a source', () => {
  it('RL6 export and shell say the same of it; what is no machine is one sentence and exit 2', () => {
    const tree = exported(YAML);
    for (const file of [
      'memory/memory41/valid_zones',
      'memory/memory43/state',
      'node/node0/distance',
      'node/node1/cpulist',
    ])
      expect(runCli(['shell', '-q', '--from', YAML, '-c', `cat /sys/devices/system/${file}`]).out).toBe(
        readFileSync(join(tree, 'sys/devices/system', file), 'utf8'),
      );
    const directory = scratchDirectory();
    const bad = join(directory, 'bad.yaml');
    const tight = join(directory, 'tight.yaml');
    writeFileSync(bad, 'ram: 4096\n');
    writeFileSync(tight, 'ram: 2G\ndimms:\n  - { size: 128M, start: 128M }\n');
    for (const [from, sentence] of [
      [bad, /bad\.yaml, line 1, ram: /],
      [tight, /tight\.yaml: DIMM 0: /],
      [join(directory, 'none.yaml'), /none\.yaml: there is no such file/],
    ] as const) {
      const ran = runCli(['shell', '-q', '--from', from, '-c', 'pwd']);
      expect([ran.code, ran.out]).toEqual([2, '']);
      expect(ran.err).toMatch(/^dimmer: [^\n]*\n$/);
      expect(ran.err).toMatch(sentence);
    }
    expect(runCli(['shell', '--from', YAML, '--sysroot', tree, '-c', 'pwd'])).toMatchObject({ code: 2, out: '' });
  });

  it('RL6 dimmer mount takes it, and gives a command that machine', async (context) => {
    need(context, 'chmem');
    needMount(context);
    const main = join(dirname(YAML), '../../dist/cli/main.js');
    const line = `${process.execPath} ${main} mount ${scratch()} -q --from ${YAML} -- sh -c 'chmem -d -b 41; cat ${M}/memory41/state'`;
    expect(await sh(line)).toEqual({ code: 0, out: 'offline\n', err: '' });
    const bad = join(mkdtempSync(join(tmpdir(), 'dimmer-yaml-')), 'm.yaml');
    onTestFinished(() => rmSync(dirname(bad), { recursive: true, force: true }));
    writeFileSync(bad, 'ram: 4096\n');
    expect((await sh(`${process.execPath} ${main} mount ${scratch()} --from ${bad}`)).code).toBe(2);
  });
});
