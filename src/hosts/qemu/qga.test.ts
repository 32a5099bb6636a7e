// The agent client beside an agent that answers late, twice, wrongly, or not at all.

import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  fakeAgent,
  type Json,
  keeper,
  type LineServer,
  lineServer,
  type Peer,
  type Request,
  refuse,
  reply,
} from '../../../test/support/line-server.ts';
import { AgentSocket } from './qga.ts';
import { type ExecResult, exec, fileRead, fileWrite, memoryBlocks } from './qga-verbs.ts';

const LIMITS = { deadlineMs: 5000 };
const kept = keeper(afterEach);
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const agentAt = (path: string): AgentSocket => kept(new AgentSocket({ kind: 'unix', path }));
async function agentOf(handle: (r: Request, peer: Peer) => void): Promise<{ server: LineServer; agent: AgentSocket }> {
  const server = kept(await fakeAgent(handle));
  return { server, agent: agentAt(server.path) };
}
const requests = (server: LineServer): Request[] =>
  server.lines.map((l) => JSON.parse(l.subarray(l[0] === 0xff ? 1 : 0).toString()) as Request);
const verbsSent = (server: LineServer): string[] => requests(server).map((r) => r.execute);
const failure = async (
  p: Promise<{ ok: boolean; error?: unknown }>,
): Promise<{ kind: string; sentence: string; errno?: string; evidence?: string[] }> => {
  const r = await p;
  if (r.ok) throw new Error(`no failure: ${JSON.stringify(r)}`);
  return r.error as { kind: string; sentence: string };
};
const SYNC = 'guest-sync-delimited';

describe('the guest agent', () => {
  it('QA1 is synced before the first request, with 0xFF before, and not again while in step', async () => {
    const { server, agent } = await agentOf((r, peer) => peer.send(reply(r.execute)));
    await pause(20);
    expect(server.peers).toHaveLength(0);
    for (const verb of ['guest-ping', 'guest-get-time'])
      expect(await agent.execute(verb, undefined, LIMITS)).toEqual({ ok: true, value: verb });
    expect(verbsSent(server)).toEqual([SYNC, 'guest-ping', 'guest-get-time']);
    expect(server.lines[0]?.[0]).toBe(0xff);
    expect(server.lines[1]?.[0]).not.toBe(0xff);
  });

  it('QA1 stale answers of a former client, whole or cut off, are thrown away', async () => {
    const server = kept(
      await lineServer({
        onPeer: (peer) =>
          peer.send(Buffer.from('{"return": "stale"}\n\xff{"return": 1}\n\xff{"return": {"buf-b64": "QUJ', 'latin1')),
        onLine: (line, peer) => {
          const r = JSON.parse(line.subarray(line[0] === 0xff ? 1 : 0).toString()) as Request;
          if (r.execute !== SYNC) return peer.send(reply('mine'));
          peer.send(Buffer.concat([Buffer.of(0xff), Buffer.from(`{"return": ${r.arguments?.id}}\n`)]));
        },
      }),
    );
    expect(await agentAt(server.path).execute('guest-ping', undefined, LIMITS)).toEqual({ ok: true, value: 'mine' });
    expect(verbsSent(server)).toEqual([SYNC, 'guest-ping']); // found at once, not when the sync was said again
  });

  it('QA1 after a deadline the answer that comes late is thrown away by a new sync', async () => {
    let first: (() => void) | undefined;
    const { server, agent } = await agentOf((r, peer) => {
      if (first === undefined) first = () => peer.send(reply('late'));
      else peer.send(reply(r.execute));
    });
    const late = await failure(agent.execute('guest-ping', undefined, { deadlineMs: 400 }));
    expect(late).toMatchObject({ kind: 'timeout', sentence: expect.stringContaining('may still do it') });
    first?.();
    expect(await agent.execute('guest-get-time', undefined, LIMITS)).toEqual({ ok: true, value: 'guest-get-time' });
    expect(verbsSent(server)).toEqual([SYNC, 'guest-ping', SYNC, 'guest-get-time']);
  });

  it('QA1 a cancelled request, an answer that is none and a line that nobody asked for end the step, too', async () => {
    const { server, agent } = await agentOf((r, peer) => {
      if (r.execute === 'garbage') peer.send('%%%\n');
      else if (r.execute === 'twice') peer.send(reply(1) + reply(2));
      else if (r.execute !== 'silent') peer.send(reply(r.execute));
    });
    const cancel = new AbortController();
    const under = failure(agent.execute('silent', undefined, { ...LIMITS, signal: cancel.signal }));
    await vi.waitFor(() => expect(verbsSent(server)).toContain('silent'), { timeout: 5000 });
    cancel.abort();
    expect((await under).kind).toBe('cancelled');
    expect(await failure(agent.execute('garbage', undefined, LIMITS))).toMatchObject({
      kind: 'protocol',
      evidence: ['%%%'],
    });
    expect(await agent.execute('twice', undefined, LIMITS)).toEqual({ ok: true, value: 1 });
    await pause(20);
    expect(await agent.execute('end', undefined, LIMITS)).toEqual({ ok: true, value: 'end' });
    expect(verbsSent(server)).toEqual([SYNC, 'silent', SYNC, 'garbage', SYNC, 'twice', SYNC, 'end']);
  });

  it('QA2 a sync that is answered with another number is skipped, and one said again counts only when it is the last', async () => {
    const syncs: number[] = [];
    const delimited = (n: number): Buffer => Buffer.concat([Buffer.of(0xff), Buffer.from(`{"return": ${n}}\n`)]);
    const stray = refuse('JSON parse error, stray');
    const server = kept(
      await lineServer({
        onLine: (line, peer) => {
          const r = JSON.parse(line.subarray(line[0] === 0xff ? 1 : 0).toString()) as Request;
          if (r.execute !== SYNC) return peer.send(reply('mine'));
          const id = r.arguments?.id as number;
          syncs.push(id);
          // The agent comes back when the sync has been said twice, and answers both, as 7.2 does.
          if (syncs.length !== 2) return;
          peer.send(Buffer.concat([delimited(id + 1000), Buffer.from(stray), delimited(syncs[0] as number)]));
          setTimeout(() => peer.send(Buffer.concat([Buffer.from(stray), delimited(id)])), 50);
        },
      }),
    );
    expect(await agentAt(server.path).execute('guest-ping', undefined, LIMITS)).toEqual({ ok: true, value: 'mine' });
    expect(syncs).toHaveLength(2);
    expect(syncs[0]).not.toBe(syncs[1]);
  });

  it('QA3 an agent that does not answer the sync is unreachable, with the causes, and nothing was sent', async () => {
    const server = kept(await lineServer({}));
    const f = await failure(agentAt(server.path).execute('guest-set-memory-blocks', {}, { deadlineMs: 400 }));
    expect([f.kind, f.sentence]).toEqual(['unreachable', expect.stringContaining('is qemu-guest-agent running')]);
    expect(f.sentence).toContain('another client');
    expect(new Set(verbsSent(server))).toEqual(new Set([SYNC]));
  });

  it('QA4 requests go one at a time and in order, whoever asks at once', async () => {
    let under = 0;
    let most = 0;
    const { server, agent } = await agentOf((r, peer) => {
      most = Math.max(most, ++under);
      setTimeout(() => {
        under--;
        peer.send(reply(r.arguments?.n));
      }, 5);
    });
    const all = await Promise.all([1, 2, 3, 4].map((n) => agent.execute('guest-exec', { n }, LIMITS)));
    expect(all).toEqual([1, 2, 3, 4].map((value) => ({ ok: true, value })));
    expect(most).toBe(1);
    expect(server.peers).toHaveLength(1);
  });

  it('QA4 waiting for a turn counts against the deadline, and what never had one was never sent', async () => {
    const { server, agent } = await agentOf((r, peer) => {
      if (r.execute === 'slow') setTimeout(() => peer.send(reply(1)), 150);
      else peer.send(reply(2));
    });
    const slow = agent.execute('slow', undefined, LIMITS);
    const f = await failure(agent.execute('fast', undefined, { deadlineMs: 40 }));
    expect([f.kind, f.sentence]).toEqual(['unreachable', expect.stringContaining('nothing was sent')]);
    const cancelled = failure(agent.execute('fast', undefined, { ...LIMITS, signal: AbortSignal.timeout(20) }));
    expect((await cancelled).kind).toBe('cancelled');
    expect(await slow).toEqual({ ok: true, value: 1 });
    expect(await agent.execute('next', undefined, LIMITS)).toEqual({ ok: true, value: 2 });
    expect(verbsSent(server)).toEqual([SYNC, 'slow', 'next']);
  });

  it('QA6 a cut ends the request as disconnected; the next one connects and syncs anew', async () => {
    const { server, agent } = await agentOf((r, peer) => {
      if (r.execute === 'cut') peer.cut();
      else peer.send(reply(r.execute));
    });
    const f = await failure(agent.execute('cut', undefined, LIMITS));
    expect([f.kind, f.sentence]).toEqual(['disconnected', expect.stringContaining('may or may not')]);
    expect(await agent.execute('end', undefined, LIMITS)).toEqual({ ok: true, value: 'end' });
    expect(verbsSent(server)).toEqual([SYNC, 'cut', SYNC, 'end']);
    expect(server.peers).toHaveLength(2);
  });

  it('QA6 a socket that is not there fails at once; one that was there is tried again for a while', async () => {
    const nowhere = agentAt('/nonexistent/vm.qga');
    expect(await failure(nowhere.execute('guest-ping', undefined, LIMITS))).toMatchObject({ kind: 'unreachable' });
    const { server, agent } = await agentOf((_, peer) => peer.send(reply({})));
    await agent.execute('guest-ping', undefined, LIMITS);
    await server.close();
    await pause(20);
    const again = agent.execute('guest-ping', undefined, LIMITS);
    await pause(60);
    mkdirSync(dirname(server.path), { recursive: true });
    const second = kept(await fakeAgent((_, peer) => peer.send(reply('back')), server.path));
    expect(await again).toEqual({ ok: true, value: 'back' });
    expect(second.peers).toHaveLength(1);
  });

  it('QA6 after close everything fails as closed, what was under way or waited included', async () => {
    const { agent } = await agentOf(() => undefined);
    const under = failure(agent.execute('guest-ping', undefined, LIMITS));
    const waiting = failure(agent.execute('guest-ping', undefined, LIMITS));
    await pause(40);
    await agent.close();
    expect((await under).kind).toBe('closed');
    expect((await waiting).kind).toBe('closed');
    expect((await failure(agent.execute('guest-ping', undefined, LIMITS))).kind).toBe('closed');
  });

  it('QA4 many requests with one signal are no leak, and end with it, all of them', async () => {
    const warnings: string[] = [];
    const warn = (w: Error): void => void warnings.push(w.message);
    process.on('warning', warn);
    const { agent } = await agentOf(() => undefined);
    const cancel = new AbortController();
    const limits = { ...LIMITS, signal: cancel.signal };
    const all = Array.from({ length: 30 }, () => failure(agent.execute('guest-ping', undefined, limits)));
    await pause(40);
    cancel.abort();
    expect(new Set((await Promise.all(all)).map((f) => f.kind))).toEqual(new Set(['cancelled']));
    await pause(5);
    process.off('warning', warn);
    expect(warnings).toEqual([]);
  });

  it('QA7 a verb that is switched off is denied with the way to allow it, frozen file systems are told apart, an unknown verb is unsupported', async () => {
    let frozen = 'thawed';
    const { agent } = await agentOf((r, peer) => {
      if (r.execute === 'guest-fsfreeze-status') peer.send(reply(frozen));
      else if (r.execute === 'guest-nope')
        peer.send(refuse('The command guest-nope has not been found', 'CommandNotFound'));
      else if (r.execute === 'old') peer.send(refuse('The command old has been disabled for this instance'));
      else peer.send(refuse(`Command ${r.execute} has been disabled: the command is not allowed`, 'CommandNotFound'));
    });
    const off = await failure(agent.execute('guest-exec', {}, LIMITS));
    expect(off.kind).toBe('denied');
    for (const word of ['guest-exec', '/etc/sysconfig/qemu-ga', 'allow-rpcs', 'BLACKLIST_RPC', 'restart'])
      expect(off.sentence).toContain(word);
    expect((await failure(agent.execute('old', {}, LIMITS))).kind).toBe('denied');
    frozen = 'frozen';
    const ice = await failure(agent.execute('guest-exec', {}, LIMITS));
    expect([ice.kind, ice.sentence]).toEqual(['denied', expect.stringContaining('frozen')]);
    expect((await failure(agent.execute('guest-nope', {}, LIMITS))).kind).toBe('unsupported');
  });

  it('QA8 the verbs are asked for once after each sync', async () => {
    let enabled = false;
    const { server, agent } = await agentOf((r, peer) => {
      if (r.execute === 'cut') return peer.cut();
      peer.send(
        reply({ version: '7.2.22', supported_commands: [{ name: 'guest-exec', enabled, 'success-response': true }] }),
      );
    });
    const verbs = async (): Promise<unknown> => {
      const r = await agent.verbs(LIMITS);
      return r.ok ? [...r.value] : r.error;
    };
    expect(await verbs()).toEqual([['guest-exec', false]]);
    enabled = true;
    expect(await verbs()).toEqual([['guest-exec', false]]);
    await agent.execute('cut', undefined, LIMITS);
    expect(await verbs()).toEqual([['guest-exec', true]]);
    expect(verbsSent(server)).toEqual([SYNC, 'guest-info', 'cut', SYNC, 'guest-info']);
  });
});

/** An agent with files in memory, that refuses as qemu-ga 7.2 does. `busy`: the kernel's sentence for each path on flush. */
async function agentWithFiles(
  files: Readonly<Record<string, Buffer>>,
  busy: Readonly<Record<string, string>> = {},
): Promise<{ server: LineServer; agent: AgentSocket; written: string[]; handles: Set<number> }> {
  const handles = new Map<number, { path: string; at: number; text: string }>();
  const written: string[] = [];
  let last = 1000;
  const { server, agent } = await agentOf((r, peer) => {
    const a = (r.arguments ?? {}) as Json & { path: string; handle: number; count: number; offset: number };
    const open = handles.get(a.handle);
    switch (r.execute) {
      case 'guest-file-open':
        if (files[a.path] === undefined)
          return peer.send(refuse(`failed to open file '${a.path}' (mode: '${a.mode}'): No such file or directory`));
        handles.set(++last, { path: a.path, at: 0, text: '' });
        return peer.send(reply(last));
      case 'guest-file-close':
        handles.delete(a.handle);
        return peer.send(reply({}));
    }
    if (open === undefined) return peer.send(refuse(`handle '${a.handle}' has not been found`));
    const file = files[open.path] as Buffer;
    switch (r.execute) {
      case 'guest-file-seek':
        open.at = a.offset;
        return peer.send(reply({ position: a.offset, eof: false }));
      case 'guest-file-read': {
        const part = file.subarray(open.at, open.at + a.count);
        open.at += part.length;
        return peer.send(
          reply({
            count: part.length,
            'buf-b64': part.toString('base64'),
            eof: open.at >= file.length && part.length < a.count,
          }),
        );
      }
      case 'guest-file-write':
        open.text += Buffer.from(String(a['buf-b64']), 'base64').toString();
        return peer.send(reply({ count: open.text.length, eof: false }));
      case 'guest-file-flush':
        written.push(`${open.path}=${open.text}`);
        if (busy[open.path] === 'silence') return;
        return peer.send(
          busy[open.path] === undefined ? reply({}) : refuse(`failed to flush file: ${busy[open.path]}`),
        );
    }
  });
  return {
    server,
    agent,
    written,
    get handles() {
      return new Set(handles.keys());
    },
  };
}

const STATE = '/sys/devices/system/memory/memory32/state';

describe('files of the guest', () => {
  it('QA10 a file is read in pieces, from any offset and up to any length, and the handle is closed', async () => {
    const file = Buffer.from(Array.from({ length: 1000 }, (_, k) => (k * 7) & 255));
    const world = await agentWithFiles({ '/proc/kpageflags': file, '/proc/empty': Buffer.alloc(0) });
    const read = async (path: string, options: Parameters<typeof fileRead>[2]): Promise<Buffer> => {
      const r = await fileRead(world.agent, path, options, LIMITS);
      if (!r.ok) throw new Error(r.error.sentence);
      return Buffer.from(r.value);
    };
    for (const piece of [1000, 999, 64, 500, 4096]) {
      expect((await read('/proc/kpageflags', { piece })).equals(file), `piece=${piece}`).toBe(true);
      const some = await read('/proc/kpageflags', { piece, from: 13, max: 640 });
      expect(some.equals(file.subarray(13, 653)), `piece=${piece}`).toBe(true);
    }
    expect(await read('/proc/kpageflags', { from: 5000 })).toHaveLength(0);
    expect(await read('/proc/kpageflags', { max: 0 })).toHaveLength(0);
    expect(await read('/proc/empty', {})).toHaveLength(0);
    expect(world.handles.size).toBe(0);
  });

  it('QA10 a missing file is ENOENT, and a read that is refused or cancelled closes the handle', async () => {
    const world = await agentWithFiles({ '/proc/x': Buffer.from('text') });
    expect(await failure(fileRead(world.agent, '/proc/none', {}, LIMITS))).toMatchObject({
      kind: 'refused',
      errno: 'ENOENT',
    });
    const { server, agent } = await agentOf((r, peer) => {
      if (r.execute === 'guest-file-open') peer.send(reply(7));
      else if (r.execute === 'guest-file-read') peer.send(refuse('failed to read file: Input/output error'));
      else peer.send(reply({}));
    });
    expect(await failure(fileRead(agent, '/proc/x', {}, LIMITS))).toMatchObject({ kind: 'refused', errno: 'EIO' });
    expect(requests(server).at(-1)).toEqual({ execute: 'guest-file-close', arguments: { handle: 7 } });
  });

  it('QA10 an agent that gives more than was asked, or no bytes, makes no sense', async () => {
    const { agent } = await agentOf((r, peer) => {
      if (r.execute === 'guest-file-open') peer.send(reply(7));
      else if (r.execute === 'guest-file-read') peer.send(reply({ count: 9, 'buf-b64': 'QUJDREVGRw==', eof: false }));
      else peer.send(reply({}));
    });
    expect((await failure(fileRead(agent, '/proc/x', { max: 3 }, LIMITS))).kind).toBe('protocol');
  });

  it('QA11 a write is one write, flushed, and its errno is the kernel’s', async () => {
    const state = Buffer.from('online\n');
    const world = await agentWithFiles(
      { [STATE]: state, '/sys/b': state, '/sys/m': state },
      {
        '/sys/b': 'Device or resource busy',
        '/sys/m': 'Resource busy',
      },
    );
    expect(await fileWrite(world.agent, STATE, 'online_movable', LIMITS)).toEqual({ ok: true, value: undefined });
    expect(world.written).toEqual([`${STATE}=online_movable`]);
    const opened = requests(world.server).find((r) => r.execute === 'guest-file-open');
    expect(opened?.arguments).toEqual({ path: STATE, mode: 'w' });
    for (const path of ['/sys/b', '/sys/m'])
      expect(await failure(fileWrite(world.agent, path, 'offline', LIMITS))).toMatchObject({
        kind: 'refused',
        errno: 'EBUSY',
      });
    expect(world.handles.size).toBe(0);
  });

  it('QA11 a write that hangs in the kernel ends at the deadline as timeout', async () => {
    const world = await agentWithFiles({ [STATE]: Buffer.from('online\n') }, { [STATE]: 'silence' });
    const f = await failure(fileWrite(world.agent, STATE, 'offline', { deadlineMs: 500 }));
    expect(f.kind).toBe('timeout');
    expect(verbsSent(world.server).at(-1)).toBe('guest-file-flush');
  });

  it('QA11 only files of /sys and /proc are written, a page at most', async () => {
    const world = await agentWithFiles({});
    for (const path of ['/etc/passwd', '/sys/../etc/passwd', 'sys/x'])
      await expect(fileWrite(world.agent, path, 'x', LIMITS)).rejects.toThrow('only kernel files');
    await expect(fileWrite(world.agent, STATE, 'x'.repeat(4097), LIMITS)).rejects.toThrow('at most a page');
    expect(world.server.lines).toHaveLength(0);
  });

  it('QA9 sentences of glibc and of musl both give the errno', async () => {
    const { agent } = await agentOf((r, peer) => peer.send(refuse(`failed to flush file: ${r.arguments?.say}`)));
    const errno = async (say: string): Promise<string | undefined> =>
      (await failure(agent.execute('guest-file-flush', { say }, LIMITS))).errno;
    expect(await errno('Invalid argument')).toBe('EINVAL');
    expect(await errno('Input/output error')).toBe('EIO');
    expect(await errno('I/O error')).toBe('EIO');
    expect(await errno('Cannot allocate memory')).toBe('ENOMEM');
    expect(await errno('Out of memory')).toBe('ENOMEM');
    expect(await errno('Remote I/O error')).toBeUndefined();
    expect(await errno('Guest agent command failed, error was “x” (No such file or directory)')).toBe('ENOENT');
    expect(await errno('nothing known')).toBeUndefined();
  });
});

/** An agent that runs commands: each is a function of the signals it got and the looks at it. */
async function agentWithCommands(
  look: (command: { path: string; arg: string[] }, looks: number, signals: string[]) => Json | undefined,
): Promise<{ server: LineServer; agent: AgentSocket; started: Json[] }> {
  const started: Json[] = [];
  const looks = new Map<number, number>();
  const signals: string[] = [];
  const { server, agent } = await agentOf((r, peer) => {
    const a = (r.arguments ?? {}) as { pid: number; path: string; arg: string[] };
    if (r.execute === 'guest-exec') {
      const kill = /^kill -(TERM|KILL) "\$0"$/.exec(a.arg[1] ?? '');
      if (a.path === '/bin/sh' && kill !== null) signals.push(`${kill[1]} ${a.arg[2]}`);
      started.push(r.arguments as Json);
      return peer.send(reply({ pid: 100 + started.length }));
    }
    const n = (looks.get(a.pid) ?? 0) + 1;
    looks.set(a.pid, n);
    const status = look(started[a.pid - 101] as never, n, signals);
    if (status === undefined) return peer.send(refuse("Invalid parameter 'pid'"));
    peer.send(reply(status));
  });
  return { server, agent, started };
}

const text = (r: ExecResult): [number | undefined, string, string] => [
  r.exitCode,
  Buffer.from(r.out).toString(),
  Buffer.from(r.err).toString(),
];
const b64 = (s: string): string => Buffer.from(s).toString('base64');

describe('commands in the guest', () => {
  it('QA12 a command’s exit code, signal and output come back, and its input and environment go in', async () => {
    const { agent, started } = await agentWithCommands((c, looks) => {
      if (looks < 3) return { exited: false };
      if (c.path === 'sleep') return { exited: true, signal: 9 };
      return { exited: true, exitcode: 3, 'out-data': b64('b\n'), 'err-data': b64('e\n'), 'out-truncated': true };
    });
    const r = await exec(agent, 'dd', ['of=/x', 'bs=64'], { input: 'offline', env: ['A=b'] }, LIMITS);
    if (!r.ok) throw new Error(r.error.sentence);
    expect(text(r.value)).toEqual([3, 'b\n', 'e\n']);
    expect([r.value.signal, r.value.truncated]).toEqual([undefined, true]);
    expect(started[0]).toEqual({
      path: 'dd',
      arg: ['of=/x', 'bs=64'],
      env: ['A=b'],
      'input-data': b64('offline'),
      'capture-output': true,
    });
    const killed = await exec(agent, 'sleep', ['9'], {}, LIMITS);
    expect(killed.ok && [killed.value.exitCode, killed.value.signal, killed.value.truncated]).toEqual([
      undefined,
      9,
      false,
    ]);
    expect(started[1]).toEqual({ path: 'sleep', arg: ['9'], 'capture-output': true });
  });

  it('QA13 at its deadline a command gets SIGTERM by its pid, and the failure says that it has ended', async () => {
    const { agent, started } = await agentWithCommands((_, __, signals) =>
      signals.includes('TERM 101') ? { exited: true, signal: 15 } : { exited: false },
    );
    const f = await failure(exec(agent, 'sleep', ['100'], { deadlineMs: 400 }, LIMITS));
    expect(f).toMatchObject({ kind: 'timeout', evidence: ['signal 15 ended it'] });
    expect(f.sentence).toContain('and has ended');
    expect(started.slice(1)).toEqual([
      { path: '/bin/sh', arg: ['-c', 'kill -TERM "$0"', '101'], 'capture-output': false },
    ]);
  });

  it('QA13 the caller’s signal ends it, too; one that ignores SIGTERM gets SIGKILL', async () => {
    const { agent } = await agentWithCommands((_, __, signals) =>
      signals.includes('KILL 101') ? { exited: true, signal: 9 } : { exited: false },
    );
    const limits = { deadlineMs: 60_000, signal: AbortSignal.timeout(400) };
    const f = await failure(exec(agent, 'sh', ['-c', 'trap "" TERM'], {}, limits));
    expect(f).toMatchObject({ kind: 'cancelled', evidence: ['signal 9 ended it'] });
  });

  it('QA13 one that cannot be ended is told with its pid, and one that just ended is not signalled', async () => {
    const stuck = await agentWithCommands(() => ({ exited: false }));
    const f = await failure(exec(stuck.agent, 'dd', [], { deadlineMs: 400 }, LIMITS));
    expect(f.sentence).toContain('may still run in the guest as process 101');
    let ended = false;
    const just = await agentWithCommands(() => (ended ? { exited: true, exitcode: 0 } : { exited: false }));
    const limits = { deadlineMs: 60_000, signal: AbortSignal.timeout(400) };
    limits.signal.addEventListener('abort', () => {
      ended = true;
    });
    const late = await failure(exec(just.agent, 'dd', [], {}, limits));
    expect(late).toMatchObject({ kind: 'cancelled', evidence: ['it exited with 0'] });
    expect(just.started).toHaveLength(1);
  });

  it('QA14 where the agent was restarted nobody knows the command any more', async () => {
    for (const words of ["Invalid parameter 'pid'", 'PID 101 does not exist']) {
      const { agent } = await agentOf((r, peer) =>
        peer.send(r.execute === 'guest-exec' ? reply({ pid: 101 }) : refuse(words)),
      );
      const f = await failure(exec(agent, 'dd', [], {}, LIMITS));
      expect([f.kind, f.sentence]).toEqual(['disconnected', expect.stringContaining('restarted')]);
    }
  });

  it('QA14 a cut between two looks is bridged', async () => {
    let cut = false;
    const { agent } = await agentOf((r, peer) => {
      if (r.execute === 'guest-exec') return peer.send(reply({ pid: 101 }));
      if (cut) return peer.send(reply({ exited: true, exitcode: 0 }));
      cut = true;
      peer.cut();
    });
    expect(await exec(agent, 'dd', [], {}, LIMITS)).toMatchObject({ ok: true, value: { exitCode: 0 } });
  });

  it('QA12 a command that cannot be started is refused with the errno, and nonsense is none', async () => {
    const { agent } = await agentOf((r, peer) =>
      peer.send(
        (r.arguments as { path: string }).path === 'odd'
          ? reply({})
          : refuse(
              "Guest agent command failed, error was 'Failed to execute child process “/bin/no” (No such file or directory)'",
            ),
      ),
    );
    expect(await failure(exec(agent, '/bin/no', [], {}, LIMITS))).toMatchObject({ kind: 'refused', errno: 'ENOENT' });
    expect((await failure(exec(agent, 'odd', [], {}, LIMITS))).kind).toBe('protocol');
  });

  it('QA15 memory blocks come in order, whatever the order of readdir', async () => {
    // As a guest of QEMU 7.2 answered, shortened.
    const blocks =
      '[{"online": true, "can-offline": true, "phys-index": 3}, {"online": false, "can-offline": true, "phys-index": 32}, ' +
      '{"online": true, "phys-index": 0}]';
    const { agent } = await agentOf((_, peer) => peer.send(`{"return": ${blocks}}\n`));
    expect(await memoryBlocks(agent, LIMITS)).toEqual({
      ok: true,
      value: [
        { id: 0, online: true, canOffline: undefined },
        { id: 3, online: true, canOffline: true },
        { id: 32, online: false, canOffline: true },
      ],
    });
    const odd = await agentOf((_, peer) => peer.send(reply([{ online: 1 }])));
    expect((await failure(memoryBlocks(odd.agent, LIMITS))).kind).toBe('protocol');
  });
});
