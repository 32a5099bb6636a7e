// What the program says no to: one clear sentence, the right exit code, no stack, nothing written.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BUSY_DIMM, DEMO, runCli, scratchDirectory, unpacked } from './run-cli.ts';

const refused = (argv: readonly string[], code: number, says: RegExp): void => {
  const ran = runCli(argv);
  expect(ran.code, argv.join(' ')).toBe(code);
  expect(ran.out).toBe('');
  expect(ran.err).toMatch(/^dimmer: [^\n]+\n$/);
  expect(ran.err).toMatch(says);
  expect(ran.err).not.toMatch(/\bat .*:\d+:\d+|Error:/);
};

describe('refusals', () => {
  it.each([
    [['chek'], /unknown command 'chek' \(did you mean check\?\)/],
    [['check', '--fro', 'x'], /unknown option '--fro' \(did you mean --from\?\)/],
    [['check', '--from'], /argument missing/],
    [['explain'], /missing required argument 'target'/],
    [['ls', 'foo'], /ls knows blocks, zones, nodes, dimms, pools, not "foo"/],
    [['ls', 'zones', 'node:1'], /takes no target/],
    [['check', 'a', 'b'], /too many arguments/],
    [['check', '-o', 'NOPE'], /no column "NOPE"; there are RANGE, SIZE/],
    [['check', '--json', '-r'], /exclude each other/],
    [['check', '--from', 'a', '--sysroot', 'b'], /exclude each other/],
    [['check', '--summary=perhaps'], /never, always, only/],
    [['completion', 'tcsh'], /bash, zsh, fish, not "tcsh"/],
    [['explain', 'size:4G'], /a size has no place/],
    [['map', '--json', '-o', 'x.svg'], /--json goes to stdout/],
  ] as const)('%j is a usage error', (argv, says) => refused(argv, 2, says));

  it.each([
    ['32', /block:32 or size:32G\?/],
    ['4G', /size:4G\?/],
    ['memory32', /block:32\?/],
    ['blok:3', /block:3\?/],
    ['range:100000000-13fffffff', /range:0x100000000-0x13fffffff\?/],
    ['block:900', /no block 900; it has blocks 0-15,32-47/],
    ['node:7', /no memory on node 7; it has memory on nodes 0-1/],
    ['zone:1/DMA', /it has whole blocks in 0\/DMA32, 1\/Normal, 1\/Movable/],
    ['dimm:9', /it has dimm:0 to dimm:1/],
  ])('target %s is refused with a suggestion', (target, says) => {
    refused(['check', target, '-q', '--from', DEMO], 2, says);
  });

  it('Q2 a truncated, damaged, foreign or newer file is exit 2, and no output file appears', () => {
    const directory = scratchDirectory();
    const good = readFileSync(DEMO);
    const file = join(directory, 'bad.dimmer');
    const target = join(directory, 'out.dimmer');
    const tries: [Uint8Array, RegExp][] = [
      ...[0, 1, 7, 8, 11, 31, 32, 100, good.length - 1].map((n): [Uint8Array, RegExp] => [
        good.subarray(0, n),
        /cut short|empty|not a dimmer bundle/,
      ]),
      ...[9, 13, 25, 40, good.length - 5].map((at): [Uint8Array, RegExp] => {
        const bad = Uint8Array.from(good);
        bad[at] = (bad[at] as number) ^ 0x40;
        return [bad, /damaged|cut short|version/];
      }),
      [Buffer.from('hello, this is a text file and no bundle at all\n'), /not a dimmer bundle/],
      [Uint8Array.from(good, (b, k) => (k === 8 ? 9 : k === 10 ? 0xff ^ 9 : b)), /version 9/],
    ];
    for (const [bytes, says] of tries) {
      writeFileSync(file, bytes);
      for (const argv of [['check'], ['map'], ['verify'], ['capture', '-o', target]])
        refused([...argv, '-q', '--from', file], 2, says);
      refused(['unpack', file, join(directory, 'tree')], 2, says);
    }
    expect(readdirSync(directory)).toEqual(['bad.dimmer']);
  });

  it('Q3 a source that is absent, empty or no machine is exit 2', () => {
    const directory = scratchDirectory();
    refused(['check', '-q', '--from', join(directory, 'none')], 2, /does not exist/);
    refused(['check', '-q', '--from', directory], 2, /neither proc\/zoneinfo/);
    refused(['check', '-q', '--sysroot', DEMO], 2, /is not a directory; a bundle is read with --from/);
  });

  it('Q3 files of a kernel that make no sense are exit 2, a kernel without memory blocks is exit 4', () => {
    const broken = unpacked(BUSY_DIMM, { pages: false });
    writeFileSync(join(broken, 'proc/zoneinfo'), 'Node 0, zone what\n');
    refused(['check', '-q', '--sysroot', broken], 2, /\/proc\/zoneinfo, line 1/);
    const bare = join(scratchDirectory(), 'bare');
    mkdirSync(join(bare, 'proc'), { recursive: true });
    writeFileSync(
      join(bare, 'proc/zoneinfo'),
      readFileSync(join(unpacked(BUSY_DIMM, { pages: false }), 'proc/zoneinfo')),
    );
    refused(['check', '-q', '--sysroot', bare], 4, /memory blocks/);
  });

  it('Q4 what cannot be had is exit 3', () => {
    for (const target of ['size:4G', 'block:2', 'block:5', 'node:0'])
      expect(runCli(['check', target, '-q', '--from', DEMO]).code, target).toBe(3);
    for (const target of ['size:512M', 'block:9-13', 'block:45-46'])
      expect(runCli(['check', target, '-q', '--from', DEMO]).code, target).toBe(0);
  });

  it('Q4 without the pages there is no picture (4), and no size is promised (3)', () => {
    const directory = unpacked(DEMO, { pages: false });
    refused(['map', '-q', '--sysroot', directory], 4, /run it as root/);
    expect(runCli(['check', 'size:128M', '-q', '--sysroot', directory]).code).toBe(3);
  });

  it('Q1 never writes to /proc, /sys or /dev, nor over a file that is not its own kind', () => {
    for (const place of ['/proc/x', '/sys/x', '/dev/null']) {
      refused(['map', '-q', '--from', DEMO, '-o', place], 2, /nothing was written/);
      refused(['capture', '-q', '--from', DEMO, '-o', place], 2, /nothing was written/);
    }
    const directory = scratchDirectory();
    const precious = join(directory, 'thesis.txt');
    writeFileSync(precious, 'years of work');
    refused(['map', '-q', '--from', DEMO, '-o', precious], 2, /is not an SVG; nothing was written/);
    refused(['capture', '-q', '--from', DEMO, '-o', precious], 2, /not a dimmer bundle; nothing was written/);
    expect(readFileSync(precious, 'utf8')).toBe('years of work');
  });

  it('Q9 where there is no Linux, the bundled capture answers, and says so', () => {
    const ran = runCli(['check'], { platform: 'darwin' });
    expect(ran.code).toBe(0);
    expect(ran.err).toMatch(/^dimmer: there is no Linux here: this is a bundled capture of a real guest/);
    expect(ran.out).toMatch(/^demo\.dimmer, Linux 6\.1/);
  });
});

describe('capture and unpack', () => {
  it('Q10 a capture of an unpacked bundle gives the same answer as the bundle', () => {
    const directory = unpacked(DEMO, { pages: true });
    const again = join(scratchDirectory(), 'again.dimmer');
    expect(runCli(['capture', '-q', '-s', directory, '-o', again]).code).toBe(0);
    expect(existsSync(again)).toBe(true);
    const tail = (text: string): string => text.slice(text.indexOf('\n'));
    expect(tail(runCli(['check', '-q', '--from', again]).out)).toBe(tail(runCli(['check', '-q', '--from', DEMO]).out));
  });
});
