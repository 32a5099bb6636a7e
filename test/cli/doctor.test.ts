// dimmer doctor: what it prints, exit codes, metrics. Rules: docs/spec/doctor.md.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BUSY_DIMM, DEMO, runCli, scratchDirectory, unpacked } from './run-cli.ts';

const doctor = (...argv: string[]): ReturnType<typeof runCli> => runCli(['doctor', '-q', ...argv]);
const demo = ['--from', DEMO];
const busyDimm = ['--from', BUSY_DIMM];

describe('dimmer doctor', () => {
  it.each([
    ['doctor', demo],
    ['doctor-busy-dimm', busyDimm],
    ['doctor-prometheus', [...demo, '--prometheus', '-']],
  ] as const)('DO1 %s prints', async (name, argv) => {
    const { code, out, err } = doctor(...argv);
    expect([code, err]).toEqual([0, '']);
    await expect(out).toMatchFileSnapshot(`../golden/cli/${name}.txt`);
    if (name === 'doctor') expect(doctor(...argv).out).toBe(out);
  });

  it('DO2 warnings count with --strict only', () => {
    expect(doctor(...busyDimm).code).toBe(0);
    expect(doctor(...busyDimm, '--strict').code).toBe(3);
    expect(doctor(...demo, '--strict').code).toBe(0);
  });

  it('DO2 what makes no sense is one sentence and exit 2', () => {
    for (const [argv, sentence] of [
      [['--order', '9'], '--order belongs to --need CHUNKS'],
      [['--need', 'x'], '--need takes a number of pieces, not "x"'],
      [['--need', '0'], '--need takes a number of pieces, not "0"'],
      [['--need', '1', '--order', '11'], '--order is 0 to 10, not "11"'],
      [['--json', '--prometheus', '-'], 'both go to stdout'],
    ] as const) {
      const ran = doctor(...argv, ...demo);
      expect([ran.code, ran.out], argv.join(' ')).toEqual([2, '']);
      expect(ran.err).toContain(sentence);
      expect(ran.err.trim().split('\n')).toHaveLength(1);
    }
  });

  it('DO3 a launch script is told whether its pieces are there: the very last one decides', () => {
    const usable = JSON.parse(doctor(...demo, '--json', '--need', '1', '--order', '9').out).need.usable as number;
    const met = doctor(...demo, '--need', `${usable}`);
    expect([met.code, met.out.split('\n').at(-2)]).toEqual([
      0,
      `Asked for: ${`${usable}`.replace(/\B(?=(\d{3})+$)/g, ' ')} pieces of order 9: yes, ${usable} can be had`,
    ]);
    const unmet = doctor(...demo, '--need', `${usable + 1}`, '--order', '9');
    expect(unmet.code).toBe(3);
    expect(unmet.out).toContain(`dimmer plan contiguous ${usable + 1} --order 9`);
  });

  it('DO15 writes metrics whole, over its own only', () => {
    const file = join(scratchDirectory(), 'dimmer.prom');
    expect(doctor(...demo, '--prometheus', file)).toEqual({ code: 0, out: '', err: '' });
    const metrics = doctor(...demo, '--prometheus', '-').out;
    expect(readFileSync(file, 'utf8')).toBe(metrics);
    expect(doctor(...demo, '--prometheus', file).code).toBe(0);
    writeFileSync(file, 'node_other 1\n');
    expect(doctor(...demo, '--prometheus', file)).toMatchObject({ code: 2, out: '' });
    expect(readFileSync(file, 'utf8')).toBe('node_other 1\n');
    expect(doctor(...demo, '--prometheus', '/proc/x.prom').code).toBe(2);
  });

  it('DO1 without page flags it says so, and answers what counters tell', () => {
    const { code, out } = doctor('--sysroot', unpacked(BUSY_DIMM, { pages: false }));
    expect(code).toBe(0);
    expect(out).toContain('the pages themselves were not seen');
    expect(out).toContain('sudo dimmer doctor');
  });
});
