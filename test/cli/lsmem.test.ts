// dimmer ls blocks and util-linux's lsmem, line for line, on unpacked captures of real machines.

import { spawnSync } from 'node:child_process';
import { beforeAll, describe, expect, it } from 'vitest';
import { BUSY_DIMM, DEMO, runCli, unpacked } from './run-cli.ts';

const lsmem = (args: readonly string[]) =>
  spawnSync('lsmem', args, { encoding: 'utf8', env: { PATH: process.env.PATH, LC_ALL: 'C' } });
const version = lsmem(['--version']);
const there = version.status === 0;

describe('Q10 lsmem', () => {
  beforeAll(() => {
    if (!there) process.stderr.write('SKIPPED: lsmem of util-linux is not installed; nothing was compared with it\n');
  });

  const bundles = { demo: DEMO, 'busy-dimm': BUSY_DIMM };
  const forms: readonly (readonly string[])[] = [
    [],
    ['-a'],
    ['-a', '-b'],
    ['-b'],
    ['-n'],
    ['-P'],
    ['-r'],
    ['--summary'],
    ['--summary=never'],
    ['-o', '+NODE,ZONES'],
    ['-o', 'BLOCK,ZONES,STATE'],
    ['-o', 'SIZE,NODE'],
    ['-o', 'RANGE,SIZE', '-n', '-b'],
  ];
  for (const [name, bundle] of Object.entries(bundles)) {
    it.skipIf(!there)(`prints the same for ${name} as ls blocks, in ${forms.length} forms`, () => {
      const directory = unpacked(bundle, { pages: true });
      for (const form of forms) {
        const ours = runCli(['ls', 'blocks', '-q', '--sysroot', directory, ...form]);
        const theirs = lsmem(['--sysroot', directory, ...form]);
        expect(ours.code).toBe(0);
        expect(ours.out, form.join(' ')).toBe(theirs.stdout);
      }
    });
  }
});
