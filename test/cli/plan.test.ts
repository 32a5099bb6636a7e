// dimmer plan remove: text, exit codes, refusals. Rules: docs/spec/plan.md.

import { describe, expect, it } from 'vitest';
import { DEMO, runCli } from './run-cli.ts';

const plan = (...argv: string[]): ReturnType<typeof runCli> =>
  runCli(['plan', 'remove', ...argv, '-q', '--from', DEMO]);

describe('dimmer plan remove', () => {
  it('RC7 exit 0 when all of the target would go with the last helps, 3 when not', () => {
    const free = plan('block:9-13');
    expect([free.code, free.err]).toEqual([0, '']);
    expect(free.out).toMatch(/All of it would go\.\n$/);
    const slab = plan('block:33', '--with', 'compaction');
    expect(slab.code).toBe(3);
    expect(slab.out).toContain('slab');
    const remapped = plan('block:33', '--with', 'remap,drivers');
    expect(remapped.out).toContain('+ remapped kernel pages');
    expect(remapped.code).toBe(0);
  });

  it('RC7 what is no target, no help, or not there, is one sentence and exit 2', () => {
    for (const [argv, sentence] of [
      [['size:1G'], 'a size has no place to remove'],
      [['32'], 'a bare number is ambiguous'],
      [['block:99'], 'this machine has no block 99'],
      [['node:1', '--with', 'magic'], '--with knows compaction, memmap, drivers, remap, not "magic"'],
    ] as const) {
      const ran = plan(...argv);
      expect([ran.code, ran.out]).toEqual([2, '']);
      expect(ran.err).toContain(sentence);
      expect(ran.err.trim().split('\n')).toHaveLength(1);
    }
  });

  it('RC1 the table has a line for Linux and one for each help that was asked for', () => {
    const lines = plan('block:2', '--with', 'drivers,compaction').out.split('\n');
    expect(lines.filter((l) => /^(Linux as it is|\+ )/.test(l)).map((l) => l.split('  ')[0])).toEqual([
      'Linux as it is',
      '+ compaction',
      '+ drivers that relinquish',
    ]);
  });
});
