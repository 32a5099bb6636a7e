// dimmer export and dimmer shell: the tree of a machine on a disk, and under a prompt.

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../support/source-files.ts';
import { BUSY_DIMM, DEMO, runCli, scratchDirectory, unpacked } from './run-cli.ts';

const lsmem = (...args: readonly string[]) =>
  spawnSync('lsmem', args, { encoding: 'utf8', env: { PATH: process.env.PATH, LC_ALL: 'C' } });
const there = lsmem('--version').status === 0;
const TWO_NODES = join(ROOT, 'docs/guide/machines/two-nodes.yaml');

const exported = (source: string): string => {
  const directory = join(scratchDirectory(), 'tree');
  const { code, err } = runCli(['export', directory, '--from', source, '-q']);
  expect([code, err]).toEqual([0, '']);
  return directory;
};

describe('export', () => {
  beforeAll(() => {
    if (!there) process.stderr.write('SKIPPED: lsmem of util-linux is not installed; nothing was compared with it\n');
  });

  it.skipIf(!there)('SH8 SH4 lsmem reads it as the capture itself, and ls blocks says the same', () => {
    for (const source of [DEMO, BUSY_DIMM]) {
      const tree = exported(source);
      const columns = ['-o', '+NODE,ZONES'];
      const theirs = lsmem('--sysroot', tree, ...columns);
      expect(theirs.status).toBe(0);
      expect(theirs.stdout).toBe(lsmem('--sysroot', unpacked(source, { pages: true }), ...columns).stdout);
      expect(runCli(['ls', 'blocks', '-q', '--sysroot', tree, ...columns]).out).toBe(theirs.stdout);
      const shell = runCli(['shell', '-q', '--from', source, '-c', 'ls blocks']);
      expect(shell.out).toBe(lsmem('--sysroot', tree, ...columns, '--summary=never').stdout);
    }
  });

  it('SH8 dimmer finds the same zones in it as in the capture', () => {
    const tree = exported(BUSY_DIMM);
    type Rows = { rows: { node: number; zone: string; present: number; managed: number }[] };
    const zones = (...source: readonly string[]) =>
      (JSON.parse(runCli(['ls', 'zones', '-q', '--json', ...source]).out) as Rows).rows.map((r) => [
        r.node,
        r.zone,
        r.present,
        r.managed,
      ]);
    const mine = zones('--sysroot', tree);
    expect(mine.length).toBeGreaterThan(5);
    expect(mine).toEqual(zones('--from', BUSY_DIMM));
    expect(readlinkSync(join(tree, 'sys/devices/system/node/node1/memory40'))).toBe('../../memory/memory40');
    expect(readFileSync(join(tree, 'sys/devices/system/memory/memory41/state'), 'utf8')).toBe('offline\n');
    expect(existsSync(join(tree, 'proc/kpageflags.gz'))).toBe(true);
  });

  it('SH8 refused before anything is written', () => {
    const directory = scratchDirectory();
    writeFileSync(join(directory, 'mine'), 'x');
    for (const [dir, words] of [
      [directory, /is not an empty directory/],
      ['/sys/dimmer', /is a place of the kernel/],
      ['/proc/self/x', /is a place of the kernel/],
      [join(directory, 'no/where'), /does not exist/],
    ] as const) {
      const { code, err } = runCli(['export', dir, '--from', DEMO, '-q']);
      expect([code, words.test(err)]).toEqual([2, true]);
    }
    expect(readdirSync(directory)).toEqual(['mine']);
  });
});

describe('shell', () => {
  it('SH7 the exit code of a script is that of its last failing command', () => {
    const run = (line: string) => runCli(['shell', '-q', '--from', DEMO, '-c', line]);
    expect(run('cat memory1/state')).toEqual({ code: 0, out: 'online\n', err: '' });
    expect(run('echo offline > memory2/state; pwd')).toEqual({
      code: 1,
      out: '/sys/devices/system/memory\n',
      err: 'sh: write error: Device or resource busy\n',
    });
    expect(run('exit 9').code).toBe(9);
  });

  it('SH9 a machine file is a source, of an export too', () => {
    const said = runCli(['shell', '--from', TWO_NODES, '-c', 'cat block_size_bytes; ls nodes']);
    expect([said.code, said.err]).toEqual([0, '']);
    expect(said.out).toMatch(/^8000000\nNODE/);
    expect(said.out).toContain('node1');
    const tree = exported(TWO_NODES);
    expect(runCli(['ls', 'nodes', '-q', '--sysroot', tree]).code).toBe(0);
    const wrong = runCli(['shell', '--from', join(ROOT, 'no-such.yaml'), '-c', 'pwd']);
    expect(wrong.code).toBe(2);
  });

  it('SH9 the planned DIMMs of a machine file are plugged', () => {
    const file = join(scratchDirectory(), 'm.yaml');
    writeFileSync(file, 'ram: 2G\ndimms:\n  - size: 512M\n    node: 0\n    online: movable\n');
    const said = runCli(['shell', '--from', file, '-c', 'cat memory32/valid_zones memory35/state']);
    expect(said).toEqual({ code: 0, out: 'Movable\nonline\n', err: '' });
  });
});
