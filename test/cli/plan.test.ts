// dimmer plan: text, JSON, files, exit codes, refusals. Rules: docs/spec/plan.md, docs/spec/commands.md.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Capture } from '../../src/capture/capture.ts';
import { filesOfTree, gather } from '../../src/capture/gather.ts';
import { twinWorld } from '../support/twin-world.ts';
import { DEMO, runCli, scratchDirectory } from './run-cli.ts';

const GUEST = 'qemu:/run/vm.qmp,agent=/run/vm.qga';

/** A guest of the engine with a DIMM d1 in Movable, as its agent and its monitor tell it. */
function guestCapture(): Capture {
  const host = twinWorld();
  const captured = gather(filesOfTree(host.tree()), { kind: 'guest', name: GUEST });
  if (captured === undefined) throw new Error('this is no machine');
  return { ...captured, tree: host.tree() };
}

const plan = (...argv: string[]): ReturnType<typeof runCli> => runCli(['plan', ...argv, '-q', '--from', DEMO]);

describe('dimmer plan', () => {
  it('Q20 the plan that is printed, the one that is written and the one of --json are the same', () => {
    const file = join(scratchDirectory(), 'plan.json');
    const text = plan('remove', 'block:9-10', '-o', file);
    expect([text.code, text.err]).toEqual([0, '']);
    const written = JSON.parse(readFileSync(file, 'utf8'));
    const printed = plan('remove', 'block:9-10', '--json');
    expect(JSON.parse(printed.out)).toEqual(written);
    expect(written).toMatchObject({
      dimmer: 'plan',
      version: 1,
      feasible: true,
      goal: { verb: 'remove', target: 'block:9-10' },
    });
    const steps = (written.units as { steps: { n: number; title: string }[] }[]).flatMap((u) => u.steps);
    expect(steps.length).toBe(2);
    for (const s of steps) expect(text.out).toMatch(new RegExp(`^ *${s.n} .*${s.title.replace(/[()]/g, '.')}$`, 'm'));
    expect(text.out).toContain('Plan: remove block:9-10: feasible\n');
    expect(text.out).toContain('online_kernel');
  });

  it('Q20 exit 0 when the goal is reached, 3 when not, and then each thing in the way is named', () => {
    expect(plan('remove', 'size:512M').code).toBe(0);
    const slab = plan('remove', 'block:33');
    expect(slab.code).toBe(3);
    expect(slab.out).toContain('not feasible');
    expect(slab.out).toMatch(/Rejected\n +block:33: 66 pages cannot move: .* held by slab/);
    expect(slab.out).toContain('dimmer plan remove block:33');
    const forced = plan('remove', 'block:33', '--force');
    expect(forced.code).toBe(0);
    expect(forced.out).toMatch(/Warnings\n[\s\S]*will probably be refused \(EBUSY\)/);
  });

  it('Q20 add, resize and contiguous plan on what a guest and its hypervisor say', () => {
    const guest = (...argv: string[]): ReturnType<typeof runCli> =>
      runCli(['plan', ...argv, '-q', '--from', GUEST], { live: new Map([[GUEST, guestCapture()]]) });
    const add = guest('add', 'node:1', 'size:256M');
    expect([add.code, add.err]).toEqual([0, '']);
    expect(add.out).toContain('Plan: add 256M on node 1: feasible\n');
    expect(add.out).toMatch(/^1 .* remove it .*add DIMM/m);
    const kernel = guest('add', 'node:1', 'size:256M', '--zone', 'kernel');
    expect(kernel.out).toMatch(/Warnings\n[\s\S]*one-way door/);
    const resize = guest('resize', 'size:1536M', '--json');
    expect(JSON.parse(resize.out).goal).toEqual({ verb: 'resize', bytes: 1.5 * 2 ** 30 });
    const dimm = guest('remove', 'dimm:d1');
    expect(dimm.code).toBe(0);
    expect(dimm.out).toMatch(/remove DIMM d1/);
    const checked = runCli(['check', 'dimm:d1', '-q', '-n', '-r', '-o', 'BLOCK', '--from', GUEST], {
      live: new Map([[GUEST, guestCapture()]]),
    });
    expect(checked.out).toBe('40-41\n');
    const absent = guest('remove', 'dimm:d2');
    expect([absent.code, absent.err]).toEqual([2, 'dimmer: this machine has no DIMM "d2"; it has dimm:d1\n']);
    const some = guest('contiguous', '16');
    expect(some.code).toBe(0);
    expect(some.out).toContain('Plan: 16 free chunks of order 9 (2M): feasible\n');
  });

  it('Q20 a goal that is none is one sentence and exit 2', () => {
    for (const [argv, sentence] of [
      [['add', 'size:1G'], 'how much, and on which node?'],
      [['add', 'size:1G', 'node:0', '--zone', 'fast'], '--zone is movable or kernel, not "fast"'],
      [['resize', '8'], 'how much memory is it to have in all?'],
      [['contiguous', '0'], 'how many chunks? a number from 1 on, not "0"'],
      [['contiguous', '8', '--order', '11'], '--order is 0 to 10'],
    ] as const) {
      const ran = plan(...argv);
      expect([ran.code, ran.out]).toEqual([2, '']);
      expect(ran.err).toContain(sentence);
      expect(ran.err.trim().split('\n')).toHaveLength(1);
    }
  });

  it('Q21 -o replaces a plan, and nothing else', () => {
    const dir = scratchDirectory();
    const file = join(dir, 'mine.txt');
    writeFileSync(file, 'my notes\n');
    const refused = plan('remove', 'block:9', '-o', file);
    expect([refused.code, refused.out]).toEqual([2, '']);
    expect(refused.err).toMatch(/exists and is not a plan; nothing was written/);
    expect(readFileSync(file, 'utf8')).toBe('my notes\n');
    const old = join(dir, 'plan.json');
    expect(plan('remove', 'block:9', '-o', old).code).toBe(0);
    expect(plan('remove', 'block:10', '-o', old).code).toBe(0);
    expect(JSON.parse(readFileSync(old, 'utf8')).goal.target).toBe('block:10');
  });

  it('Q7 no line of a plan is wider than the terminal', () => {
    for (const columns of [60, 90]) {
      const ran = runCli(['plan', 'remove', 'block:2-3,9-10', '-a', '-q', '--from', DEMO], {
        env: { COLUMNS: `${columns}` },
      });
      for (const line of ran.out.split('\n').slice(1)) {
        if (line.startsWith('What would be needed')) continue; // to be pasted, so never broken
        expect(line.length, line).toBeLessThanOrEqual(columns);
      }
    }
  });

  it('RC7 what is no target, no help, or not there, is one sentence and exit 2', () => {
    for (const [argv, sentence] of [
      [['size:1G', '--with', 'all'], '--with compares memory that is named'],
      [['32'], 'a bare number is ambiguous'],
      [['block:99'], 'this machine has no block 99'],
      [['dimm:dimm1'], 'this machine has no DIMM "dimm1"; it has none that a hypervisor has named'],
      [['node:1', '--with', 'magic'], '--with knows compaction, memmap, drivers, remap and all, not "magic"'],
    ] as const) {
      const ran = plan('remove', ...argv);
      expect([ran.code, ran.out]).toEqual([2, '']);
      expect(ran.err).toContain(sentence);
      expect(ran.err.trim().split('\n')).toHaveLength(1);
    }
  });

  it('RC7 the exit code is about Linux as it is; --with shows what more would be worth', () => {
    const free = plan('remove', 'block:9-13', '--with', 'all');
    expect(free.code).toBe(0);
    expect(free.out).toMatch(/Linux alone does it: no help is needed\.\n$/);
    const slab = plan('remove', 'block:33', '--with', 'compaction');
    expect(slab.code).toBe(3);
    expect(slab.out).not.toContain('All of it would go');
    const remapped = plan('remove', 'block:33', '--with', 'remap,drivers');
    expect(remapped.code).toBe(3);
    expect(remapped.out).toContain('+ remapped kernel pages');
    expect(remapped.out).toContain('All of it would go.\n');
  });

  it('RC1 the comparison has a line for Linux and one for each help that was asked for', () => {
    const lines = plan('remove', 'block:2', '--with', 'drivers,compaction').out.split('\n');
    expect(lines.filter((l) => /^(Linux as it is|\+ )/.test(l)).map((l) => l.split('  ')[0])).toEqual([
      'Linux as it is',
      '+ compaction',
      '+ drivers that relinquish',
    ]);
  });
});
