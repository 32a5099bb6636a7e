// dimmer top: with a host that changes as the test says, a terminal that remembers, and a clock that the test turns.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { err, ok, type Result } from '../../src/base/result.ts';
import type { Capture } from '../../src/capture/capture.ts';
import { addTop } from '../../src/cli/top-command.ts';
import {
  drawFrame,
  drawSpans,
  type Key,
  keysOf,
  type Terminal,
  type TerminalEvents,
} from '../../src/cli/top-terminal.ts';
import { WatchLines } from '../../src/cli/watch-lines.ts';
import type { Clock, Host, HostFailure } from '../../src/control/host.ts';
import { readCapture } from '../../src/hosts/linux/read-capture.ts';
import { type Observation, observe } from '../../src/plan/observation.ts';
import type { FrameLine } from '../../src/query/top.ts';
import { ROOT } from '../support/source-files.ts';
import { DEMO, runCli, scratchDirectory } from './run-cli.ts';

const read = readCapture(DEMO, { now: () => new Date(0) });
if (!read.ok) throw new Error(read.error.sentence);
const CAPTURE = read.value;
const seen = observe(CAPTURE.tree);
if (!seen.ok) throw new Error(seen.error);
const SEEN = seen.value;
const DOWN: HostFailure = { kind: 'timeout', sentence: 'the agent does not answer' };

/** The observation with one block in another state. */
const withBlock = (o: Observation, id: number, state: string, zone?: string): Observation => ({
  ...o,
  blocks: o.blocks.map((b) => (b.id === id ? { ...b, state, zone } : b)),
});

type World = {
  /** What the next looks see; the last one stays. */
  looks: Result<Observation, HostFailure>[];
  capture: () => Promise<Result<Capture, HostFailure>>;
  kind: 'qemu' | 'linux';
  say: (line: string) => void;
  closed: number;
  shown: FrameLine[][];
  terminal: 'open' | 'closed' | 'never';
  press: (key: Key) => void;
  /** Lets so many sleeps end, one after another. */
  turn: (times: number) => Promise<void>;
};

type Ran = { code: number; out: string; err: string };

function start(argv: readonly string[], on: { terminal: boolean }, change: Partial<World> = {}): [World, Promise<Ran>] {
  const sleepers: (() => void)[] = [];
  const settle = async (): Promise<void> => {
    for (let k = 0; k < 40; k++) await new Promise((resolve) => setImmediate(resolve));
  };
  const world: World = {
    looks: [ok(SEEN)],
    capture: async () => ok(CAPTURE),
    kind: 'qemu',
    say: () => {},
    closed: 0,
    shown: [],
    terminal: 'never',
    press: () => {},
    turn: async (times) => {
      for (let k = 0; k < times; k++) {
        await settle();
        for (const wake of sleepers.splice(0)) wake();
      }
      await settle();
    },
    ...change,
  };
  const clock: Clock = {
    nowMs: () => 0,
    stamp: () => new Date(0).toISOString(),
    sleep: (_ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted === true) return resolve();
        sleepers.push(resolve);
        signal?.addEventListener('abort', () => resolve());
      }),
  };
  const host: Host = {
    info: async () => ok({ kind: world.kind, name: 'vm', kernel: '6.1', can: new Set(), cannot: new Map() }),
    observe: async () =>
      (world.looks.length > 1 ? world.looks.shift() : world.looks[0]) as Result<Observation, HostFailure>,
    act: async () => Promise.reject(new Error('top acts on nothing')),
    capture: () => world.capture(),
    watch: (onLine, signal) =>
      new Promise((resolve) => {
        world.say = onLine;
        signal.addEventListener('abort', () => resolve());
      }),
    close: async () => {
      world.closed++;
    },
  };
  const terminal: Terminal = {
    size: () => ({ width: 100, height: 40 }),
    open: (events: TerminalEvents) => {
      world.terminal = 'open';
      world.press = events.key;
    },
    draw: (lines) => {
      expect(world.terminal).toBe('open');
      world.shown.push([...lines]);
    },
    close: () => {
      world.terminal = 'closed';
    },
  };
  let out = '';
  let said = '';
  let late: Promise<number> | undefined;
  let code = 0;
  const program = new Command('dimmer').exitOverride();
  const io = {
    out: (text: string) => {
      out += text;
    },
    err: (text: string) => {
      said += text;
    },
    env: { COLUMNS: '100' },
    outIsTty: on.terminal,
    errIsTty: false,
    columns: undefined,
    platform: 'linux',
    now: () => new Date(0),
    later: (promise: Promise<number>) => {
      late = promise;
    },
    openHost: () => ok(host),
  };
  addTop(
    program,
    io,
    (n) => void (code = n),
    () => (on.terminal ? terminal : undefined),
    clock,
  );
  program.parse(['top', ...argv], { from: 'user' });
  return [world, (late ?? Promise.resolve(code)).then((c) => ({ code: c, out, err: said }))];
}

const textOf = (lines: readonly FrameLine[] | undefined): string =>
  (lines ?? []).map((l) => l.map((s) => s.text).join('')).join('\n');
const screen = (w: World): string => textOf(w.shown[w.shown.length - 1]);
const TIME = new Date(0).toTimeString().slice(0, 8);

describe('dimmer top', () => {
  it('LT6 --once prints one frame with the verdicts that check gives', async () => {
    const [world, ran] = start(['--once', '--from', 'qemu:/vm'], { terminal: true });
    const { code, out, err: text } = await ran;
    expect({ code, text, closed: world.closed, terminal: world.terminal }).toEqual({
      code: 0,
      text: '',
      closed: 1,
      terminal: 'never',
    });
    await expect(out.replaceAll(TIME, 'HH:MM:SS')).toMatchFileSnapshot('../golden/cli/top-once.txt');
    const check = runCli(['check', '--from', DEMO, '-a', '-r', '-n', '-o', 'VERDICT']).out.split('\n');
    const cells = out
      .split('\n')
      .filter((l) => /^[✓✗?#o>!]+$/.test(l))
      .join('');
    for (const [glyph, word] of [
      ['✓', 'yes'],
      ['✗', 'no'],
      ['?', 'maybe'],
    ])
      expect({ word, n: [...cells].filter((c) => c === glyph).length }).toEqual({
        word,
        n: check.filter((v) => v === word).length,
      });
  });

  it('LT6 --verdicts off captures nothing; a capture that fails is a note, and the frame comes without', async () => {
    const never = async (): Promise<never> => Promise.reject(new Error('nothing is captured'));
    const [, off] = start(['--once', '--verdicts', 'off'], { terminal: true }, { capture: never });
    expect(await off).toMatchObject({ code: 0, err: '' });
    const [, failed] = start(['--once'], { terminal: true }, { capture: async () => err(DOWN) });
    const ran = await failed;
    expect(ran).toMatchObject({ code: 0, err: 'note: the blocks are not judged: the agent does not answer\n' });
    expect(ran.out).toContain('# not judged yet');
  });

  it('LT7 a first look that fails is one sentence and its exit code; the host is closed', async () => {
    const [world, ran] = start(['--from', 'qemu:/vm'], { terminal: true }, { looks: [err(DOWN)] });
    expect(await ran).toEqual({ code: 124, out: '', err: 'dimmer: qemu:/vm: the agent does not answer\n' });
    expect([world.closed, world.terminal]).toEqual([1, 'never']);
  });

  it('LT7 a later look that fails is said, and tried again', async () => {
    const [world, ran] = start(['--verdicts', 'off'], { terminal: true });
    await world.turn(0);
    world.looks = [err(DOWN), err(DOWN), ok(SEEN)];
    await world.turn(2);
    expect(screen(world)).toContain(`NO ANSWER since ${TIME}`);
    expect(screen(world)).toContain(`${TIME} the agent does not answer (2 times)`);
    await world.turn(1);
    expect(screen(world)).not.toContain('NO ANSWER');
    expect(screen(world)).toContain(`${TIME} it answers again`);
    world.press('quit');
    expect((await ran).code).toBe(0);
  });

  it('LT8 shows what changes, and events as lines; q ends it and gives the terminal back', async () => {
    const [world, ran] = start([], { terminal: true });
    await world.turn(0);
    expect(screen(world)).toContain('q quit');
    world.looks = [ok(withBlock(SEEN, 9, 'going-offline')), ok(withBlock(SEEN, 9, 'offline'))];
    await world.turn(1);
    expect(screen(world)).toMatch(/memory9 online \w+ -> going-offline/);
    expect(screen(world)).toContain('> going offline');
    await world.turn(1);
    expect(screen(world)).toContain('memory9 going-offline -> offline');
    world.say('2026-11-21T13:10:22.123Z DEVICE_DELETED {"device":"dimm1"}');
    expect(screen(world)).toContain(`${TIME} DEVICE_DELETED {"device":"dimm1"}`);
    world.press('quit');
    expect(await ran).toEqual({ code: 0, out: '', err: '' });
    expect([world.closed, world.terminal]).toEqual([1, 'closed']);
  });

  it('LT8 blocks are judged at the start and at r; verdicts come with their time, also of a capture that failed before', async () => {
    const captures: Result<Capture, HostFailure>[] = [err(DOWN), ok(CAPTURE)];
    const capture = async (): Promise<Result<Capture, HostFailure>> => captures.shift() as Result<Capture, HostFailure>;
    const [world, ran] = start([], { terminal: true }, { capture });
    await world.turn(0);
    expect(screen(world)).toContain('the blocks are not judged: the agent does not answer');
    expect(screen(world)).not.toContain('would go');
    world.press('refresh');
    for (let k = 0; k < 200 && !screen(world).includes('verdicts of'); k++) await new Promise((r) => setTimeout(r, 10));
    expect(screen(world)).toContain(`verdicts of ${TIME}`);
    expect(screen(world)).toContain('✓ would go');
    expect(captures).toEqual([]);
    world.press('down');
    world.press('right');
    world.press('enter');
    expect(screen(world)).toMatch(/block \d+, 0x[0-9a-f]+-0x[0-9a-f]+, node 0, \w+, online: (would|might)/);
    world.press('escape');
    expect(screen(world)).not.toMatch(/block \d+, 0x/);
    world.press('quit');
    await ran;
  });

  it('LT8 enter says why a block stays, as explain does', async () => {
    const [world, ran] = start([], { terminal: true });
    for (let k = 0; k < 200 && !screen(world).includes('verdicts of'); k++) await new Promise((r) => setTimeout(r, 10));
    const explained = runCli(['explain', 'block:2', '--from', DEMO]).out;
    for (let k = 0; k < 64 && !/block 2, 0x/.test(screen(world)); k++) world.press('right');
    world.press('enter');
    expect(screen(world)).toContain('block 2, 0x10000000-0x17ffffff');
    const reason =
      explained
        .split('\n')
        .find((l) => l.startsWith('    '))
        ?.trim()
        .split(';')[0] ?? 'no reason was found';
    expect(screen(world).replace(/\n {2}/g, ' ')).toContain(reason.slice(0, 40));
    expect(screen(world)).toMatch(/\d+ pages?, .*: spoils \d+ pageblocks?/);
    world.press('quit');
    await ran;
  });

  it.each([
    ['interrupt', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('LT9 %s ends it with %i, and the terminal is as it was', async (how, code) => {
    const listeners = process.listenerCount('SIGTERM');
    const [world, ran] = start(['--verdicts', 'off'], { terminal: true });
    await world.turn(0);
    if (how === 'interrupt') world.press(how);
    else process.emit(how);
    expect((await ran).code).toBe(code);
    expect([world.closed, world.terminal, process.listenerCount('SIGTERM')]).toEqual([1, 'closed', listeners]);
  });

  it('LT9 a bug ends it with its own error, and the terminal is as it was', async () => {
    const capture = async (): Promise<never> => Promise.reject(new Error('a bug'));
    const [world, ran] = start([], { terminal: true }, { capture });
    await expect(ran).rejects.toThrow('a bug');
    expect([world.closed, world.terminal]).toEqual([1, 'closed']);
  });

  it('LT10 without a terminal: one frame, then a line for each thing that happens', async () => {
    const [world, ran] = start(['--verdicts', 'off', '--interval', '500ms'], { terminal: false });
    await world.turn(0);
    world.looks = [ok(withBlock(SEEN, 9, 'offline'))];
    await world.turn(3);
    world.say('BALLOON_CHANGE {"actual":1}');
    process.emit('SIGINT');
    const { code, out } = await ran;
    expect(code).toBe(130);
    expect(out.split('\n').slice(-3)).toEqual([
      expect.stringMatching(/^\d\d:\d\d:\d\d memory9 online \w+ -> offline$/),
      expect.stringMatching(/^\d\d:\d\d:\d\d BALLOON_CHANGE \{"actual":1\}$/),
      '',
    ]);
    expect(out.split('\n')[0]).toMatch(/^this machine +\d\d:\d\d:\d\d$/);
    expect(out).not.toContain('\x1b');
  });

  it('LT10 on this machine block changes come from its own watch, once', async () => {
    const [world, ran] = start(['--verdicts', 'off'], { terminal: false }, { kind: 'linux' });
    await world.turn(0);
    world.looks = [ok(withBlock(SEEN, 9, 'offline'))];
    await world.turn(2);
    world.say('memory9 online Normal -> offline');
    process.emit('SIGINT');
    expect((await ran).out.match(/memory9/g)).toHaveLength(1);
  });

  it('LT11 what is no time, no source, and no process of its own', () => {
    for (const argv of [
      ['--interval', '1ms'],
      ['--interval', 'often'],
      ['--verdicts', 'never'],
      ['--timeout', '0'],
    ]) {
      const { code, err: text } = runCli(['top', ...argv]);
      expect({ argv, code }).toEqual({ argv, code: 2 });
      expect(text).toMatch(new RegExp(`^dimmer: ${argv[0]} takes a time`));
    }
    expect(runCli(['top'])).toMatchObject({ code: 4, err: 'dimmer: top needs a process of its own\n' });
  });
});

describe('the terminal', () => {
  const whyNot = (): string | undefined => {
    if (spawnSync('script', ['--version']).status !== 0) return 'there is no script(1) to make a terminal with';
    return existsSync('/sys/devices/system/memory/block_size_bytes') ? undefined : 'this machine has no memory blocks';
  };

  it.each([
    ['q', 0],
    ['\\003', 130],
  ])('LT9 on a real terminal: %s leaves the screen, shows the cursor and ends with %i', (key, code) => {
    const why = whyNot();
    if (why !== undefined) return void process.stderr.write(`test/cli/top: skipped: ${why}\n`);
    const top = `'${process.execPath}' '${join(ROOT, 'dist/cli/main.js')}' top --verdicts off --interval 100ms`;
    // The key comes when the screen is there, however long that takes.
    const seen = join(scratchDirectory(), 'seen');
    const press = `for k in $(seq 150); do grep -qs 'q quit' '${seen}' && break; sleep 0.1; done; printf '${key}'; sleep 1`;
    const ran = spawnSync('bash', ['-c', `(${press}) | script -qefc "${top}" '${seen}'`], {
      encoding: 'utf8',
      env: { ...process.env, TERM: 'xterm' },
      timeout: 40_000,
    });
    expect(ran.stdout).toMatch(/blocks? of \d+[MG].*\x1b\[\?25h\x1b\[\?1049l$/s);
    expect(ran.stdout.match(/\x1b\[\?1049h/g)).toHaveLength(1);
    expect(ran.status).toBe(code);
  });

  it('LT12 keys: arrows in both forms, several at once, unknown ones are nothing', () => {
    expect(keysOf('\x1b[A\x1b[B\x1bOC\x1b[D')).toEqual(['up', 'down', 'right', 'left']);
    expect(keysOf('q')).toEqual(['quit']);
    expect(keysOf('\x03')).toEqual(['interrupt']);
    expect(keysOf('\x1b')).toEqual(['escape']);
    expect(keysOf('ABCD x\x1b[5~\x1b[1;5Zö')).toEqual([]);
    expect(keysOf('r\rq')).toEqual(['refresh', 'enter', 'quit']);
  });

  it('LT12 a frame is drawn over the last one; without colour nothing but attributes is left', () => {
    const line: FrameLine = [{ text: '✓', look: 'yes' }, { text: 'x', look: 'chosen' }, { text: ' free' }];
    expect(drawSpans(line, true)).toBe('\x1b[32m✓\x1b[0m\x1b[7mx\x1b[0m free');
    expect(drawSpans(line, false)).toBe('✓\x1b[7mx\x1b[0m free');
    expect(drawFrame([line, []], false)).toBe('\x1b[H✓\x1b[7mx\x1b[0m free\x1b[K\r\n\x1b[K\x1b[J');
  });

  it('LT12 lines: the same one again is counted, the oldest go', () => {
    const lines = new WatchLines(2);
    expect([lines.push('1', 'a'), lines.push('2', 'a'), lines.push('3', 'b'), lines.push('4', 'a')]).toEqual([
      '1 a',
      '2 a (2 times)',
      '3 b',
      '4 a',
    ]);
    expect(lines.lines).toEqual(['3 b', '4 a']);
  });
});
