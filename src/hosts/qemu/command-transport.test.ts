// libvirt through virsh, played by a script that says what virsh 9.0 says.

import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { parseVirshEvent, VirshAgent, VirshMonitor, virshFailure } from './command-transport.ts';

const FAKE = fileURLToPath(new URL('../../../test/support/fake-virsh.mjs', import.meta.url));
const LIMITS = { deadlineMs: 20_000 };

let world = '';
const open: { close(): Promise<void> }[] = [];
beforeEach(() => {
  world = mkdtempSync(join(tmpdir(), 'dimmer-virsh-'));
});
afterEach(async () => {
  for (const x of open.splice(0)) await x.close();
  rmSync(world, { recursive: true, force: true });
});
const monitorOf = (domain = 'vm1'): VirshMonitor => {
  const m = new VirshMonitor(domain, { virsh: [process.execPath, FAKE, world] });
  open.push(m);
  return m;
};
const agentOf = (domain = 'vm1'): VirshAgent => {
  const a = new VirshAgent(domain, { virsh: [process.execPath, FAKE, world] });
  open.push(a);
  return a;
};
type Call = { verb: string; args: string[]; locale: string; pid: number };
const calls = (): Call[] =>
  readFileSync(join(world, 'calls'), 'utf8')
    .trim()
    .split('\n')
    .map((l) => JSON.parse(l) as Call);
const failure = async (
  p: Promise<{ ok: boolean; error?: unknown }>,
): Promise<{ kind: string; sentence: string; errno?: string }> => {
  const r = await p;
  if (r.ok) throw new Error(`no failure: ${JSON.stringify(r)}`);
  return r.error as { kind: string; sentence: string };
};

describe('virsh', () => {
  it('QM15 a request is one command, without a shell, and its reply is QEMU’s', async () => {
    const args = { name: `$(touch x); "'\n`, n: 1 };
    const monitor = monitorOf('$HOME; vm 1');
    expect(await monitor.execute('qom-get', args, LIMITS)).toEqual({ ok: true, value: args });
    expect(calls()).toMatchObject([
      {
        verb: 'qemu-monitor-command',
        args: ['--domain', '$HOME; vm 1', '--cmd', JSON.stringify({ execute: 'qom-get', arguments: args })],
        locale: 'C',
      },
    ]);
  });

  it('QM15 errors of QEMU come back with their class, nonsense as protocol', async () => {
    const monitor = monitorOf();
    const [gone, nope, odd] = await Promise.all(
      ['gone', 'query-nope', 'odd'].map((c) => failure(monitor.execute(c, undefined, LIMITS))),
    );
    expect(gone).toMatchObject({ kind: 'refused', qmpClass: 'DeviceNotFound' });
    expect(nope).toMatchObject({ kind: 'unsupported' });
    expect(odd).toMatchObject({ kind: 'protocol' });
  });

  it('QM15 a deadline, a signal and closing end the command, and none is left behind', async () => {
    const monitor = monitorOf();
    const late = await failure(monitor.execute('hang', undefined, { deadlineMs: 400 }));
    expect([late.kind, late.sentence]).toEqual(['timeout', expect.stringContaining('may still')]);
    const limits = { ...LIMITS, signal: AbortSignal.timeout(50) };
    expect((await failure(monitor.execute('hang', undefined, limits))).kind).toBe('cancelled');
    const under = failure(monitor.execute('hang', undefined, LIMITS));
    setTimeout(() => void monitor.close(), 50);
    expect((await under).kind).toBe('closed');
    expect((await failure(monitor.execute('query-status', undefined, LIMITS))).kind).toBe('closed');
    const events = monitorOf();
    events.listen();
    await events.execute('query-status', undefined, LIMITS);
    await events.close();
    const alive = (pid: number): boolean => {
      try {
        return process.kill(pid, 0);
      } catch {
        return false;
      }
    };
    await vi.waitFor(() => expect(calls().filter((c) => alive(c.pid))).toEqual([]), { timeout: 3000 });
    expect(calls().map((c) => c.verb)).toContain('qemu-monitor-event');
  });

  it('QM15 a virsh that is not there is unsupported, a request too long for a command line, too', async () => {
    const none = new VirshMonitor('vm1', { virsh: ['/nonexistent/virsh'] });
    const f = await failure(none.execute('query-status', undefined, LIMITS));
    expect([f.kind, f.sentence]).toEqual(['unsupported', expect.stringContaining('libvirt-clients')]);
    const long = await failure(agentOf().execute('guest-file-write', { x: 'x'.repeat(128 * 1024) }, LIMITS));
    expect(long.kind).toBe('unsupported');
  });

  it('QM16 QA16 what virsh says is sorted: no such domain, not running, no permission, no agent, busy, refused', async () => {
    const agent = (domain: string, command = 'guest-ping') =>
      failure(agentOf(domain).execute(command, undefined, LIMITS));
    const table: readonly (readonly [Promise<{ kind: string; sentence: string; errno?: string }>, string, string])[] = [
      [failure(monitorOf('none').execute('query-status', undefined, LIMITS)), 'unreachable', 'no domain none'],
      [failure(monitorOf('off').execute('query-status', undefined, LIMITS)), 'unreachable', 'not running'],
      [failure(monitorOf('down').execute('query-status', undefined, LIMITS)), 'unreachable', 'is it running'],
      [failure(monitorOf('mine').execute('query-status', undefined, LIMITS)), 'denied', 'group libvirt'],
      [agent('deaf'), 'unreachable', 'qemu-guest-agent running'],
      [agent('bare'), 'unsupported', 'no channel'],
      [agent('vm1', 'slow'), 'timeout', 'may still do it'],
      [agent('vm1', 'vanish'), 'disconnected', 'may or may not'],
      [agent('vm1', 'locked'), 'unreachable', 'nothing was sent'],
      [agent('vm1', 'guest-exec'), 'denied', 'allow-rpcs'],
      [agent('vm1', 'guest-nope'), 'unsupported', 'does not know guest-nope'],
    ];
    for (const [got, kind, words] of table)
      expect(await got).toMatchObject({ kind, sentence: expect.stringContaining(words) });
    expect(await agent('vm1', 'guest-file-flush')).toMatchObject({ kind: 'refused', errno: 'EBUSY' });
    const odd = virshFailure('vm1', 'x', { code: 1, out: '', err: 'error: something else\n' });
    expect(odd).toMatchObject({ kind: 'refused', sentence: 'virsh refused x: something else' });
  });

  it('QA16 the agent’s verbs go through virsh with its own deadline in whole seconds', async () => {
    const agent = agentOf();
    expect(await agent.execute('guest-file-read', { handle: 1 }, { deadlineMs: 19_001 })).toEqual({
      ok: true,
      value: { handle: 1 },
    });
    expect(calls()[0]?.args).toEqual([
      '--domain',
      'vm1',
      '--timeout',
      '20',
      '--cmd',
      '{"execute":"guest-file-read","arguments":{"handle":1}}',
    ]);
    const verbs = await agent.verbs(LIMITS);
    expect(verbs.ok && [...verbs.value]).toEqual([['guest-ping', true]]);
  });

  it('QM17 events are listened for before the request is sent, and the one that it causes is heard', async () => {
    const monitor = monitorOf();
    const listener = monitor.listen();
    expect(await monitor.execute('device_del', { id: 'dimm1' }, LIMITS)).toEqual({ ok: true, value: {} });
    expect(await listener.next((e) => e.event === 'DEVICE_DELETED', LIMITS)).toEqual({
      ok: true,
      value: {
        event: 'DEVICE_DELETED',
        data: { device: 'dimm1', path: '/machine/peripheral/dimm1' },
        atMs: 1795265735576,
      },
    });
    const order = calls().map((c) => c.verb);
    expect(order.filter((v) => v === 'qemu-monitor-event')).toHaveLength(1);
    expect(order).toHaveLength(3); // the second one only measured how long libvirt takes
  });

  it('QM17 an event process that ends is told as a cut, and is started anew', async () => {
    const monitor = monitorOf();
    const listener = monitor.listen();
    await monitor.execute('query-status', undefined, LIMITS);
    appendFileSync(join(world, 'events'), 'END\n');
    expect(await failure(listener.next(() => true, LIMITS))).toMatchObject({ kind: 'disconnected' });
    rmSync(join(world, 'events'));
    const going = listener.next(() => true, LIMITS);
    await monitor.execute('device_del', { id: 'd' }, LIMITS);
    expect(await going).toMatchObject({ ok: true, value: { event: 'DEVICE_DELETED' } });
  });

  it('QM17 lines of events are read with and without --timestamp, and anything else is none', () => {
    const at = Date.UTC(2026, 10, 21, 12, 55, 35, 576);
    expect(parseVirshEvent(`2026-11-21 12:55:35.576+0000: event RESUME for domain 'a b': <null>`)).toEqual({
      event: 'RESUME',
      data: {},
      atMs: at,
    });
    expect(parseVirshEvent(`event X at 7.000250 for domain 'it's: odd': {"for domain 'x': ":{"b":1}}`)).toMatchObject({
      event: 'X',
      atMs: 7000,
    });
    expect(parseVirshEvent(`event BALLOON_CHANGE at 1.500000 for domain vm1: {"actual":5}`)).toEqual({
      event: 'BALLOON_CHANGE',
      data: { actual: 5 },
      atMs: 1500,
    });
    for (const line of [
      'events received: 3',
      '',
      'event',
      `event X at 1.2 for domain 'a': {`,
      `event X for domain 'a': {"a"}`,
    ])
      expect(parseVirshEvent(line), line).toBeUndefined();
  });
});
