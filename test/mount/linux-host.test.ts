// The Linux host on a kernel's tree for real: the tree of a booted machine, mounted by another process, with a kernel's errnos.
// Nothing here writes to the machine's own /sys: the root is the mount, and the real tree is compared before and after.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';

import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { ok } from '../../src/base/result.ts';
import { SYSTEM_CLOCK } from '../../src/cli/system-clock.ts';
import { execute } from '../../src/control/executor.ts';
import type { Host } from '../../src/control/host.ts';
import { linuxHost } from '../../src/hosts/linux/linux-host.ts';
import { fsTree } from '../../src/hosts/linux/root.ts';
import { type BlockSeen, hashLines, observe, stateLines } from '../../src/plan/observation.ts';
import type { Action, Plan } from '../../src/plan/plan.ts';
import { hostCases } from '../hosts/host.cases.ts';
import { bundled, mountFile, ourMounts, type Server, scratch, sleep, start, until } from './harness.ts';

let server = '';
const box = mountFile('test/mount/linux-host', async (programs) => {
  server = await bundled('twin-server', programs);
});

const clock = SYSTEM_CLOCK;

async function world(apply = true): Promise<{ host: Host; dir: string; twin: Server; state: (b: number) => string }> {
  const dir = scratch();
  const twin = start(server, [dir]);
  expect(await twin.line()).toBe('mounted');
  const host = linuxHost({ root: dir, clock, apply, watchMs: 10 });
  onTestFinished(async () => {
    await host.close();
    twin.say('check');
    expect(await twin.line()).toBe('[]');
    twin.child.kill('SIGTERM');
    expect(await twin.code).toBe(0);
    expect(ourMounts(dir)).toEqual([]);
  });
  const state = (b: number): string => readFileSync(`${dir}/sys/devices/system/memory/memory${b}/state`, 'utf8').trim();
  return { host, dir, twin, state };
}

/** For what comes at once on an idle machine. */
const PATIENCE_MS = 15_000;
const IN_TIME = { deadlineMs: PATIENCE_MS };
const act = (host: Host, action: Action, deadlineMs = PATIENCE_MS): ReturnType<Host['act']> =>
  host.act(action, { deadlineMs });

/** Processes that have this path among their words: nothing may be left behind. */
const childrenAt = (dir: string): string[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return words.some((w) => w.startsWith(`of=${dir}`)) ? [words.join(' ')] : [];
      } catch {
        return []; // it has ended
      }
    });

describe('the Linux host on a mounted machine', () => {
  it('LH1 offlines a block and brings it back to the zone it is told, as observed', async () => {
    const { host, state } = await world();
    const look = async (): Promise<[number, BlockSeen | undefined]> => {
      const seen = await host.observe(IN_TIME);
      if (!seen.ok) throw new Error(seen.error.sentence);
      return [seen.value.memTotal, seen.value.blocks.find((b) => b.id === 4)];
    };
    const [whole] = await look();
    const off = await act(host, { do: 'offline-block', block: 4 });
    const evidence = [expect.stringMatching(/^writing offline to .*memory4\/state$/)];
    expect(off).toMatchObject({ ok: true, value: { evidence } });
    expect(await look()).toMatchObject([whole - 2 ** 27, { state: 'offline', zone: undefined }]);
    expect((await act(host, { do: 'online-block', block: 4, zone: 'kernel' })).ok).toBe(true);
    expect(await look()).toMatchObject([whole, { state: 'online', zone: 'DMA32' }]);
    expect(state(4)).toBe('online');
  });

  it('LH2 a refusal has the kernel’s errno, what dd said, and leaves the block as it was', async () => {
    const { host, state } = await world();
    expect(await act(host, { do: 'offline-block', block: 3 })).toMatchObject({
      ok: false,
      error: { kind: 'refused', errno: 'EBUSY', evidence: [expect.stringMatching(/Device or resource busy$/)] },
    });
    expect(await act(host, { do: 'offline-block', block: 0 })).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });
    expect(await act(host, { do: 'online-block', block: 4, zone: 'default' })).toMatchObject({
      ok: false,
      error: { kind: 'refused', errno: 'EINVAL' },
    });
    expect(await act(host, { do: 'offline-block', block: 99 })).toMatchObject({
      ok: false,
      error: { kind: 'refused', errno: 'ENOENT', sentence: expect.stringMatching(/no such memory block$/) },
    });
    expect([0, 3, 4].map(state)).toEqual(['online', 'online', 'online']);
  });

  it('LH3 an offline that never ends is ended at the deadline: the block is online again, and no process is left', async () => {
    const { host, state, dir } = await world();
    const started = performance.now();
    const pending = act(host, { do: 'offline-block', block: 2 }, 600);
    await until(
      () => state(2) === 'going-offline',
      PATIENCE_MS,
      () => 'going-offline',
    );
    expect(await pending).toMatchObject({ ok: false, error: { kind: 'timeout', errno: 'EINTR' } });
    expect(performance.now() - started).toBeGreaterThanOrEqual(600);
    expect(state(2)).toBe('online');
    expect(childrenAt(dir)).toEqual([]);
  });

  it('LH3 the caller’s signal ends it as well, and one that has come already touches nothing', async () => {
    const { host, state, dir } = await world();
    const control = new AbortController();
    const pending = host.act({ do: 'offline-block', block: 2 }, { deadlineMs: 20_000, signal: control.signal });
    await until(
      () => state(2) === 'going-offline',
      PATIENCE_MS,
      () => 'going-offline',
    );
    control.abort();
    expect(await pending).toMatchObject({ ok: false, error: { kind: 'cancelled', errno: 'EINTR' } });
    expect(state(2)).toBe('online');
    const late = await host.act({ do: 'offline-block', block: 4 }, { deadlineMs: 1000, signal: control.signal });
    expect(late).toMatchObject({ ok: false, error: { kind: 'cancelled' } });
    expect([state(4), childrenAt(dir)]).toEqual(['online', []]);
  });

  it('LH4 the deadline holds when nobody is left to see to it: timeout(1) ends the write', async () => {
    const { state, dir } = await world();
    const file = `${dir}/sys/devices/system/memory/memory2/state`;
    const code = `
      const { writerOf } = await import(${JSON.stringify(join(box.programs, 'writer.mjs'))});
      const { spawn } = await import('node:child_process');
      const [command, ...words] = writerOf(${JSON.stringify(file)}, 100);
      const child = spawn(command, words, { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
      child.stdin.write('offline\\n', () => { child.stdin.end(); setTimeout(() => process.kill(process.pid, 'SIGKILL'), 200); });`;
    const entry = join(box.programs, 'writer-entry.mjs');
    writeFileSync(entry, code);
    await bundled('writer', box.programs);
    const killed = start(entry, []);
    await until(
      () => state(2) === 'going-offline',
      PATIENCE_MS,
      () => 'going-offline',
    );
    expect(await killed.code).toBe(-2); // by a signal
    await until(
      () => state(2) === 'online',
      PATIENCE_MS,
      () => `an end: ${state(2)}`,
    );
    await until(
      () => childrenAt(dir).length === 0,
      PATIENCE_MS,
      () => `an end of ${childrenAt(dir)}`,
    );
  });

  it('LH5 settings: caches are dropped after a sync, memory is compacted, pools and the policy are set', async () => {
    const { host, dir } = await world();
    const said = async (action: Action): Promise<readonly string[] | string> => {
      const got = await act(host, action);
      return got.ok ? got.value.evidence.map((e) => e.replaceAll(dir, '')) : got.error.sentence;
    };
    expect(await said({ do: 'drop-caches', what: 3 })).toEqual(['sync', 'writing 3 to /proc/sys/vm/drop_caches']);
    expect(await said({ do: 'compact' })).toEqual(['writing 1 to /proc/sys/vm/compact_memory']);
    expect(await said({ do: 'compact', node: 0 })).toEqual(['writing 1 to /sys/devices/system/node/node0/compact']);
    await said({ do: 'set-hugepages', node: 0, pageBytes: 2 ** 21, pages: 7 });
    await said({ do: 'auto-online', word: 'online_movable' });
    const seen = await host.observe(IN_TIME);
    expect(seen.ok && seen.value).toMatchObject({
      autoOnline: 'online_movable',
      hugePages: expect.arrayContaining([{ node: 0, bytes: 2 ** 21, total: 7, free: 7 }]),
    });
    expect(await act(host, { do: 'compact', node: 9 })).toMatchObject({ ok: false, error: { kind: 'unsupported' } });
    expect(await act(host, { do: 'set-hugepages', pageBytes: 12345 * 1024, pages: 1 })).toMatchObject({
      ok: false,
      error: { kind: 'unsupported' },
    });
  });

  it('LH6 without apply nothing is written, and info says what could be done with it', async () => {
    const { host, state } = await world(false);
    expect(await act(host, { do: 'offline-block', block: 4 })).toMatchObject({
      ok: false,
      error: { kind: 'denied', sentence: expect.stringMatching(/only read: say --apply/) },
    });
    expect(state(4)).toBe('online');
    const info = await host.info(IN_TIME);
    const settings = ['offline-block', 'online-block', 'drop-caches', 'compact', 'set-hugepages', 'auto-online'];
    expect(info.ok && [...info.value.can].sort()).toEqual(settings.sort());
    expect(info.ok && info.value.cannot.size).toBe(4);
    expect((await host.observe(IN_TIME)).ok).toBe(true);
  });

  it('LH9 watch says at once that it polls, then what changes', async () => {
    const { host } = await world();
    const lines: string[] = [];
    const control = new AbortController();
    const watching = host.watch((line) => lines.push(line), control.signal);
    await sleep(50);
    await act(host, { do: 'offline-block', block: 4 });
    await until(
      () => lines.some((l) => l.endsWith('offline')),
      PATIENCE_MS,
      () => `a line: ${lines}`,
    );
    await act(host, { do: 'online-block', block: 4, zone: 'movable' });
    await until(
      () => lines.includes('memory4 offline -> online Movable'),
      PATIENCE_MS,
      () => `a line: ${lines}`,
    );
    control.abort();
    await watching;
    expect(lines[0]).toMatch(/read every \d+ ms; what is over sooner is not seen/);
  });

  it('LH7 a plain directory is a copy of a machine: it is never written', async () => {
    const copy = scratch();
    const memory = join(copy, 'sys/devices/system/memory/memory4');
    mkdirSync(memory, { recursive: true });
    writeFileSync(join(memory, 'state'), 'online\n');
    const host = linuxHost({ root: copy, clock, apply: true });
    expect(await act(host, { do: 'offline-block', block: 4 })).toMatchObject({
      ok: false,
      error: { kind: 'denied', sentence: expect.stringMatching(/a copy of a machine and not one/) },
    });
    expect(readFileSync(join(memory, 'state'), 'utf8')).toBe('online\n');
  });
});

describe('LH11 an execution on a kernel’s tree', () => {
  /** Blocks of one unit offline, one after another. */
  const planOf = async (host: Host, blocks: readonly number[]): Promise<Plan> => {
    const seen = await host.observe(IN_TIME);
    if (!seen.ok) throw new Error(seen.error.sentence);
    const lines = stateLines(seen.value);
    return {
      dimmer: 'plan',
      version: 1,
      goal: { verb: 'remove', target: `block:${blocks}` },
      host: { kind: 'linux', name: 'a twin', kernel: 'none' },
      assumes: { hash: hashLines(lines), lines },
      feasible: true,
      summary: '',
      warnings: [],
      rejected: [],
      units: [
        {
          name: `block:${blocks}`,
          reaches: 'less',
          bytes: blocks.length * 2 ** 27,
          steps: blocks.map((block, k) => ({
            n: k + 1,
            title: `offline block ${block}`,
            action: { do: 'offline-block', block },
            expect: [{ is: 'block', block, state: 'online' }],
            effect: [{ is: 'block', block, state: 'offline' }],
            predicts: { ms: { value: 1, provenance: 'assumed' } },
            undo: [{ do: 'online-block', block, zone: 'kernel' }],
            deadlineMs: block === 2 ? 1000 : PATIENCE_MS, // the one that holds a pinned page
          })),
        },
      ],
    };
  };

  it.each([
    ['a block that goes', [4, 5], 'done', ['offline', 'offline']],
    ['a kernel page', [4, 3], 'refused', ['online', 'online']],
    ['a pinned page', [4, 2], 'deadline', ['online', 'online']],
  ] as const)('%s: %s ends as %s', async (_what, blocks, end, states) => {
    const { host, state, dir } = await world();
    // Block 4 was online in Movable, and must be so again: the undo goes by what was seen, not by what was planned.
    expect((await act(host, { do: 'offline-block', block: 4 })).ok).toBe(true);
    expect((await act(host, { do: 'online-block', block: 4, zone: 'movable' })).ok).toBe(true);
    const plan = await planOf(host, blocks);
    const texts: string[] = [];
    const journal = {
      append: async (text: string) => {
        texts.push(text);
        return ok(undefined);
      },
    };
    const report = await execute(plan, host, { journal, clock, signal: new AbortController().signal });
    expect({ end: report.end, sentence: report.sentence }).toMatchObject({ end });
    expect(blocks.map(state)).toEqual(states);
    const seen = await host.observe(IN_TIME);
    if (end !== 'done') {
      expect(seen.ok && seen.value.blocks.find((b) => b.id === 4)?.zone).toBe('Movable');
      expect(seen.ok && hashLines(stateLines(seen.value))).toBe(plan.assumes.hash);
    }
    expect(texts.join('')).toContain('"kind":"end"');
    expect(childrenAt(dir)).toEqual([]);
  });
});

hostCases('the Linux host on a mounted twin', async (body) => {
  const { host, dir } = await world();
  for (const action of [
    { do: 'offline-block', block: 5 },
    { do: 'online-block', block: 5, zone: 'movable' },
  ] as const)
    expect((await act(host, action)).ok).toBe(true);
  await body({
    host,
    state: async () => {
      const seen = observe(fsTree(dir));
      return seen.ok ? stateLines(seen.value) : [seen.error];
    },
    nowMs: () => clock.nowMs(),
    after: (ms, run) => void setTimeout(run, ms),
    movable: 5,
    refused: { block: 3, errno: 'EBUSY' },
    endless: 2,
    dimm: { lacks: 'DIMMs are the hypervisor’s' },
    captures: true,
  });
});
