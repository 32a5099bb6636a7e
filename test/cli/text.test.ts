// What the commands print, for people: snapshots on real captures.

import { describe, expect, it } from 'vitest';
import { BUSY_DIMM, DEMO, runCli, unpacked } from './run-cli.ts';

const golden = (name: string): string => `../golden/cli/${name}.txt`;
const demo = ['--from', DEMO, '-q'];
const busyDimm = ['--from', BUSY_DIMM, '-q'];

describe('text output', () => {
  it.each([
    ['check', ['check', ...demo], {}],
    ['check-busy-dimm', ['check', ...busyDimm], {}],
    ['check-80-columns', ['check', 'node:1', ...demo], { env: { COLUMNS: '80' } }],
    ['check-colour', ['check', 'node:1', ...demo], { env: { COLUMNS: '120', FORCE_COLOR: '1' } }],
    ['explain-block', ['explain', 'block:2-3', ...demo], {}],
    ['explain-pinned', ['explain', 'block:5', ...demo], {}],
    ['map', ['map', 'block:32-43', ...busyDimm], { env: { COLUMNS: '80' } }],
    ['map-colour', ['map', 'block:32-33', ...demo], { env: { COLUMNS: '80', FORCE_COLOR: '1' } }],
    ['ls-blocks-verdict', ['ls', 'blocks', '-o', '+NODE,ZONES,VERDICT,REASON', ...busyDimm], {}],
    ['ls-zones', ['ls', 'zones', ...demo], {}],
    ['ls-nodes', ['ls', 'nodes', ...demo], {}],
    ['ls-dimms', ['ls', 'dimms', '-o', '+NAME', ...busyDimm], {}],
    ['verify', ['verify', ...demo], {}],
  ] as const)('%s', async (name, argv, io) => {
    const { code, out, err } = runCli(argv, io);
    expect(err).toBe('');
    expect(code).toBe(name === 'check-80-columns' || name === 'check-colour' ? 3 : 0); // not all of node 1 would go
    await expect(out).toMatchFileSnapshot(golden(name));
  });

  it('Q8 without /proc/kpageflags: says what is not known and how to get it', async () => {
    const { code, out } = runCli(['check', '-q', '--sysroot', unpacked(DEMO, { pages: false })]);
    expect(code).toBe(0);
    expect(out).toMatch(/as root: sudo dimmer check/);
    await expect(out.replace(/^.*\/machine,/, 'DIR,')).toMatchFileSnapshot(golden('check-counters'));
  });

  it('Q5 notes on what is missing go to stderr, data to stdout; -q silences them', () => {
    const loud = runCli(['check', '--from', DEMO]);
    expect(loud.err).toMatch(/^note: \/proc\/kpagecgroup absent/);
    expect(loud.out).toBe(runCli(['check', ...demo]).out);
  });

  it('Q5 a terminal sees progress on stderr and colour on stdout, NO_COLOR takes the colour away', () => {
    const tty = { outIsTty: true, errIsTty: true, columns: 120, env: {} };
    const ran = runCli(['check', '--from', DEMO], tty);
    expect(ran.err).toMatch(/judging blocks \[#+\.*\] \d+\/32/);
    expect(ran.out).toContain('\x1b[32myes');
    const plain = runCli(['check', '--from', DEMO], { ...tty, env: { NO_COLOR: '1' } });
    expect(plain.out).not.toContain('\x1b');
    expect(runCli(['check', '--from', DEMO]).err).not.toContain('\r');
  });

  it('Q6 two runs print the same bytes', () => {
    expect(runCli(['check', ...demo]).out).toBe(runCli(['check', ...demo]).out);
  });

  it('Q7 no line of a table is wider than the terminal', () => {
    for (const columns of ['80', '100', '120', '160']) {
      const { out } = runCli(['check', ...demo], { env: { COLUMNS: columns } });
      const wide = out.split('\n').filter((line) => line.length > Number(columns));
      expect(wide, columns).toEqual([]);
    }
  });

  it('every word of a merged row is still there when its blocks stand alone', () => {
    const merged = JSON.parse(runCli(['check', '--json', ...demo]).out);
    const alone = JSON.parse(runCli(['check', '--json', '-a', ...demo]).out);
    for (const row of merged.rows) {
      const parts = alone.rows.filter(
        (r: { firstBlock: number }) => row.firstBlock <= r.firstBlock && r.firstBlock <= row.lastBlock,
      );
      expect(parts.length).toBe(row.lastBlock - row.firstBlock + 1);
      expect(new Set(parts.map((r: { verdict: string }) => r.verdict))).toEqual(new Set([row.verdict]));
      const sum = parts.reduce((n: number, r: { blockingPages: number }) => n + r.blockingPages, 0);
      expect(row.blockingPages).toBe(sum);
    }
  });
});
