// The QMP client beside a server that splits lines, mixes answers, and goes away.

import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  fakeQemu,
  GREETING,
  type Json,
  keeper,
  type LineServer,
  lineServer,
  type Peer,
  type Request,
} from '../../../test/support/line-server.ts';
import { EventLog, type QmpEvent } from './events.ts';
import { connectLines, within } from './line-channel.ts';
import { QmpMonitor, type QmpOptions } from './qmp.ts';
import { isDeviceNotFound } from './qmp-port.ts';

const LIMITS = { deadlineMs: 5000 };
const kept = keeper(afterEach);

async function monitorOf(
  handle: (request: Request, peer: Peer) => void,
  options: QmpOptions = {},
): Promise<{ server: LineServer; monitor: QmpMonitor }> {
  const server = kept(await fakeQemu(handle));
  return { server, monitor: kept(new QmpMonitor({ kind: 'unix', path: server.path }, options)) };
}

const answer = (request: Request, body: Json): string => `${JSON.stringify({ ...body, id: request.id })}\r\n`;
const event = (name: string, data: Json = {}, seconds = 100): string =>
  `${JSON.stringify({ timestamp: { seconds, microseconds: 250_999 }, event: name, data })}\r\n`;
const requests = (server: LineServer): Request[] => server.lines.map((l) => JSON.parse(l.toString()) as Request);
const failure = async (p: Promise<{ ok: boolean; error?: unknown }>): Promise<{ kind: string; sentence: string }> => {
  const r = await p;
  if (r.ok) throw new Error(`no failure: ${JSON.stringify(r)}`);
  return r.error as { kind: string; sentence: string };
};
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('QMP', () => {
  it('QM3 connects with the first request, agrees on capabilities first, and uses no id twice', async () => {
    const { server, monitor } = await monitorOf((r, peer) => peer.send(answer(r, { return: { status: 'running' } })));
    await pause(20);
    expect(server.peers).toHaveLength(0);
    expect(await monitor.execute('query-status', undefined, LIMITS)).toEqual({
      ok: true,
      value: { status: 'running' },
    });
    await monitor.execute('qom-get', { path: '/machine', property: 'memory' }, LIMITS);
    const seen = requests(server);
    expect(seen.map((r) => r.execute)).toEqual(['qmp_capabilities', 'query-status', 'qom-get']);
    expect(seen[1]).not.toHaveProperty('arguments');
    expect(seen[2]?.arguments).toEqual({ path: '/machine', property: 'memory' });
    expect(new Set(seen.map((r) => r.id)).size).toBe(3);
    expect(server.peers).toHaveLength(1);
  });

  it('QM4 several requests are under way at once, and each gets its own answer in whatever order they come', async () => {
    const waiting: Request[] = [];
    const { monitor } = await monitorOf((r, peer) => {
      waiting.push(r);
      if (waiting.length === 4) for (const w of waiting.reverse()) peer.send(answer(w, { return: w.arguments?.n }));
    });
    const all = await Promise.all([1, 2, 3, 4].map((n) => monitor.execute('qom-get', { n }, LIMITS)));
    expect(all).toEqual([1, 2, 3, 4].map((value) => ({ ok: true, value })));
  });

  it('QM5 an error keeps its class and words; DeviceNotFound is told apart, an unknown command is unsupported', async () => {
    const errors: Readonly<Record<string, Json>> = {
      device_del: { class: 'DeviceNotFound', desc: "Device 'nosuch' not found" },
      device_add: { class: 'GenericError', desc: 'slot 0 is busy' },
      'query-nope': { class: 'CommandNotFound', desc: 'The command query-nope has not been found' },
      odd: { what: 'is this' },
    };
    const { monitor } = await monitorOf((r, peer) => peer.send(answer(r, { error: errors[r.execute] })));
    const ask = (command: string) => failure(monitor.execute(command, undefined, LIMITS));
    const gone = await ask('device_del');
    expect(gone).toMatchObject({ kind: 'refused', qmpClass: 'DeviceNotFound' });
    expect(isDeviceNotFound(gone as never)).toBe(true);
    const busy = await ask('device_add');
    expect(busy).toMatchObject({ kind: 'refused', evidence: ['GenericError: slot 0 is busy'] });
    expect(busy.sentence).toBe('QEMU refused device_add: slot 0 is busy');
    expect(isDeviceNotFound(busy as never)).toBe(false);
    expect(await ask('query-nope')).toMatchObject({ kind: 'unsupported' });
    expect(await ask('odd')).toMatchObject({ kind: 'protocol' });
  });

  it('QM7 garbage, replies to nobody and answers that are none change nothing, and are evidence of what follows', async () => {
    const { monitor } = await monitorOf((r, peer) => {
      peer.send('\r\n%%%\r\n[1]\r\n{"return": {}}\r\n{"return": {}, "id": "libvirt-7"}\r\n');
      if (r.execute === 'silent') return;
      peer.send(answer(r, r.execute === 'none' ? {} : { return: 1 }));
    });
    expect(await monitor.execute('query-status', undefined, LIMITS)).toEqual({ ok: true, value: 1 });
    expect(await failure(monitor.execute('none', undefined, LIMITS))).toMatchObject({ kind: 'protocol' });
    const late = await failure(monitor.execute('silent', undefined, { deadlineMs: 50 }));
    expect(late).toMatchObject({ kind: 'timeout' });
    expect((late as { evidence?: string[] }).evidence).toContain('QEMU sent: %%%');
  });

  it('QM8 a listener made before the request finds an event that came before the reply, and is shown all in between', async () => {
    const { monitor } = await monitorOf((r, peer) => {
      if (r.execute === 'device_del')
        peer.send(
          event('ACPI_DEVICE_OST', { info: { status: 132 } }) + event('DEVICE_DELETED', { device: 'dimm1' }, 7),
        );
      peer.send(answer(r, { return: {} }));
      if (r.execute === 'device_del') peer.send(event('ACPI_DEVICE_OST', { info: { status: 0 } }));
    });
    await monitor.execute('query-status', undefined, LIMITS);
    const listener = monitor.listen();
    await monitor.execute('device_del', { id: 'dimm1' }, LIMITS);
    const late = monitor.listen();
    const seen: string[] = [];
    const deleted = await listener.next((e) => seen.push(e.event) > 0 && e.event === 'DEVICE_DELETED', LIMITS);
    expect(deleted).toEqual({
      ok: true,
      value: { event: 'DEVICE_DELETED', data: { device: 'dimm1' }, atMs: 7250 },
    });
    expect(seen).toEqual(['ACPI_DEVICE_OST', 'DEVICE_DELETED']);
    expect(await listener.next(() => true, LIMITS)).toMatchObject({
      ok: true,
      value: { data: { info: { status: 0 } } },
    });
    // Made too late: what came before is not heard, and the wait has a deadline.
    expect(await failure(late.next((e) => e.event === 'DEVICE_DELETED', { deadlineMs: 50 }))).toMatchObject({
      kind: 'timeout',
    });
  });

  it('QM8 one event wakes every listener, and a listener connects by itself', async () => {
    const server = kept(
      await fakeQemu(
        () => undefined,
        (peer) => {
          peer.send(GREETING);
          setTimeout(() => peer.send(event('RESUME')), 30);
        },
      ),
    );
    const monitor = kept(new QmpMonitor({ kind: 'unix', path: server.path }));
    const all = await Promise.all([1, 2, 3].map(() => monitor.listen().next(() => true, LIMITS)));
    expect(all.map((r) => r.ok && r.value.event)).toEqual(['RESUME', 'RESUME', 'RESUME']);
    expect(server.peers).toHaveLength(1);
  });

  it('QM9 a listener that falls behind the ring is told so once, and goes on with the oldest that is kept', async () => {
    const log = new EventLog(4);
    const listener = log.listen();
    for (let n = 0; n < 10; n++) log.push({ event: `E${n}`, data: {}, atMs: undefined });
    expect(await failure(listener.next(() => true, LIMITS))).toMatchObject({
      kind: 'protocol',
      sentence: '6 events came faster than they were read, and are lost',
    });
    expect(await listener.next(() => true, LIMITS)).toMatchObject({ ok: true, value: { event: 'E6' } });
  });

  it('QM9 a cut is told once, after the events before it, and the listener goes on after connecting again', async () => {
    const { monitor, server } = await monitorOf((r, peer) => {
      if (r.execute === 'first') {
        peer.send(event('BALLOON_CHANGE') + answer(r, { return: 1 }));
        setTimeout(() => peer.cut(), 10);
      } else peer.send(event('DEVICE_DELETED') + answer(r, { return: 2 }));
    });
    const listener = monitor.listen();
    await monitor.execute('first', undefined, LIMITS);
    const next = (): Promise<{ ok: boolean; value?: QmpEvent }> => listener.next(() => true, LIMITS) as never;
    expect(await next()).toMatchObject({ value: { event: 'BALLOON_CHANGE' } });
    expect(await failure(next())).toMatchObject({ kind: 'disconnected' });
    const going = next();
    expect(await monitor.execute('second', undefined, LIMITS)).toEqual({ ok: true, value: 2 });
    expect(await going).toMatchObject({ value: { event: 'DEVICE_DELETED' } });
    expect(server.peers).toHaveLength(2);
  });

  it('QM10 a cut ends all that is under way as disconnected, and an old answer never answers a new request', async () => {
    const { monitor } = await monitorOf((r, peer) => {
      if (r.execute === 'query') peer.send(answer(r, { return: 'new' }));
      else if (r.arguments?.n === 3) peer.cut();
    });
    const all = await Promise.all([1, 2, 3].map((n) => failure(monitor.execute('device_del', { n }, LIMITS))));
    expect(all.map((f) => f.kind)).toEqual(['disconnected', 'disconnected', 'disconnected']);
    expect(all[0]?.sentence).toContain('may or may not have been done');
    expect(await monitor.execute('query', undefined, LIMITS)).toEqual({ ok: true, value: 'new' });
  });

  it('QM11 a socket that is not there, or that nobody listens at, fails at once', async () => {
    const nowhere = kept(new QmpMonitor({ kind: 'unix', path: '/nonexistent/vm.qmp' }));
    const startMs = performance.now();
    expect(await failure(nowhere.execute('query-status', undefined, LIMITS))).toMatchObject({
      kind: 'unreachable',
      sentence: 'there is no socket /nonexistent/vm.qmp: is the guest running?',
    });
    const closed = await lineServer({});
    await closed.close();
    const tcp = kept(new QmpMonitor({ kind: 'tcp', host: '127.0.0.1', port: 1 }));
    expect(await failure(tcp.execute('query-status', undefined, LIMITS))).toMatchObject({ kind: 'unreachable' });
    expect(performance.now() - startMs).toBeLessThan(2000);
  });

  it('QM11 after a cut it tries to connect again for a while, within the deadline and in bounded tries', async () => {
    const { monitor, server } = await monitorOf((r, peer) => peer.send(answer(r, { return: 1 })));
    await monitor.execute('query-status', undefined, LIMITS);
    await server.close();
    await pause(10);
    expect(await failure(monitor.execute('query-status', undefined, { deadlineMs: 60 }))).toMatchObject({
      kind: 'unreachable',
    });
    const startMs = performance.now();
    const later = monitor.execute('query-status', undefined, LIMITS);
    expect(await failure(later)).toMatchObject({ kind: 'unreachable' });
    expect(performance.now() - startMs).toBeLessThan(2500);
  });

  it('QM11 a QEMU that listens again a moment after a cut is reached by the next request', async () => {
    const { monitor, server } = await monitorOf((r, peer) => peer.send(answer(r, { return: 1 })));
    await monitor.execute('query-status', undefined, LIMITS);
    await server.close();
    await pause(10);
    const again = monitor.execute('query-status', undefined, LIMITS);
    await pause(60);
    mkdirSync(dirname(server.path), { recursive: true });
    const back = kept(await fakeQemu((r, peer) => peer.send(answer(r, { return: 2 })), undefined, server.path));
    expect(await again).toEqual({ ok: true, value: 2 });
    expect(back.peers).toHaveLength(1);
  });

  it('QM8 what comes in one piece with the greeting is not lost', async () => {
    const server = kept(
      await fakeQemu(
        (r, peer) => peer.send(answer(r, { return: 1 })),
        (peer) => peer.send(GREETING + event('RESUME')),
      ),
    );
    const monitor = kept(new QmpMonitor({ kind: 'unix', path: server.path }));
    const listener = monitor.listen();
    await monitor.execute('query-status', undefined, LIMITS);
    expect(await listener.next(() => true, LIMITS)).toMatchObject({ ok: true, value: { event: 'RESUME' } });
  });

  it('QM12 no greeting means that another client holds the socket, and the sentence says so', async () => {
    const server = kept(await lineServer({}));
    const monitor = kept(new QmpMonitor({ kind: 'unix', path: server.path }, { greetingMs: 60 }));
    const f = await failure(monitor.execute('query-status', undefined, LIMITS));
    expect(f.kind).toBe('unreachable');
    expect(f.sentence).toContain('one client at a time');
    expect(server.lines).toEqual([]);
  });

  it.each([
    ["QEMU 7.2.22 monitor - type 'help' for more information\r\n", 'human monitor'],
    ['HTTP/1.1 400 Bad Request\r\n', 'no QMP socket'],
    ['{"return": {}}\r\n', 'no QMP socket'],
  ])('QM12 a socket that greets otherwise is named: %s', async (greeting, words) => {
    const server = kept(await lineServer({ onPeer: (peer) => peer.send(greeting) }));
    const monitor = kept(new QmpMonitor({ kind: 'unix', path: server.path }));
    const f = await failure(monitor.execute('query-status', undefined, LIMITS));
    expect([f.kind, f.sentence]).toEqual(['protocol', expect.stringContaining(words)]);
  });

  it('QM12 a greeting that is cut off, or refused capabilities, leave nothing sent', async () => {
    const half = kept(
      await lineServer({ onPeer: (peer) => void (peer.send('{"QMP"') ?? setTimeout(() => peer.cut(), 10)) }),
    );
    const a = kept(new QmpMonitor({ kind: 'unix', path: half.path }));
    expect(await failure(a.execute('query-status', undefined, LIMITS))).toMatchObject({ kind: 'unreachable' });
    const no = kept(
      await lineServer({
        onPeer: (peer) => peer.send(GREETING),
        onLine: (line, peer) =>
          peer.send(answer(JSON.parse(line.toString()), { error: { class: 'GenericError', desc: 'no' } })),
      }),
    );
    const b = kept(new QmpMonitor({ kind: 'unix', path: no.path }));
    expect(await failure(b.execute('device_del', undefined, LIMITS))).toMatchObject({ kind: 'unreachable' });
    expect(requests(no).map((r) => r.execute)).toEqual(['qmp_capabilities']);
  });

  it('QM13 a deadline ends a request as timeout, a late answer is nobody’s, and the connection goes on', async () => {
    let late: (() => void) | undefined;
    const { monitor, server } = await monitorOf((r, peer) => {
      if (r.execute === 'slow') late = () => peer.send(answer(r, { return: 'late' }));
      else {
        late?.();
        peer.send(answer(r, { return: 'prompt' }));
      }
    });
    const f = await failure(monitor.execute('slow', undefined, { deadlineMs: 400 }));
    expect([f.kind, f.sentence]).toEqual(['timeout', expect.stringContaining('may still do it')]);
    expect(await monitor.execute('fast', undefined, LIMITS)).toEqual({ ok: true, value: 'prompt' });
    expect(server.peers).toHaveLength(1);
  });

  it('QM13 a signal ends a request as cancelled at once, and before it is sent leaves nothing sent', async () => {
    const { monitor, server } = await monitorOf(() => undefined);
    const cancel = new AbortController();
    const under = failure(monitor.execute('device_del', undefined, { deadlineMs: 60_000, signal: cancel.signal }));
    const waiting = monitor.listen().next(() => true, { deadlineMs: 60_000, signal: cancel.signal });
    await vi.waitFor(() => expect(server.lines).toHaveLength(2), { timeout: 5000 });
    cancel.abort();
    expect(await under).toMatchObject({ kind: 'cancelled' });
    expect(await failure(waiting)).toMatchObject({ kind: 'cancelled' });
    const sent = server.lines.length;
    expect(await failure(monitor.execute('device_del', undefined, { ...LIMITS, signal: cancel.signal }))).toMatchObject(
      {
        kind: 'cancelled',
        sentence: 'cancelled before it was sent',
      },
    );
    expect(server.lines).toHaveLength(sent);
  });

  it('QM14 after close everything fails as closed, what was under way included', async () => {
    const { monitor } = await monitorOf(() => undefined);
    const listener = monitor.listen();
    const under = failure(monitor.execute('device_del', undefined, LIMITS));
    const waiting = failure(listener.next(() => true, LIMITS));
    await pause(50);
    await monitor.close();
    expect((await under).kind).toBe('closed');
    expect((await waiting).kind).toBe('closed');
    expect((await failure(monitor.execute('query-status', undefined, LIMITS))).kind).toBe('closed');
    expect((await failure(monitor.listen().next(() => true, LIMITS))).kind).toBe('closed');
    await monitor.close();
  });

  it('QM14 closing while it connects ends that, too', async () => {
    const server = kept(await lineServer({}));
    const monitor = new QmpMonitor({ kind: 'unix', path: server.path });
    const under = failure(monitor.execute('query-status', undefined, LIMITS));
    await pause(20);
    await monitor.close();
    expect((await under).kind).toBe('closed');
  });
});

describe('line channels', () => {
  it('QM6 a line of 20 MB arrives whole, and quickly', async () => {
    const body = 'x'.repeat(20e6);
    const { monitor } = await monitorOf((r, peer) => peer.send(answer(r, { return: body })));
    const r = await monitor.execute('big', undefined, LIMITS);
    expect(r.ok && (r.value as string).length).toBe(20e6);
  });

  it('QM6 a line that is longer than allowed ends the connection with a sentence', async () => {
    const server = kept(await lineServer({ onPeer: (peer) => peer.send(`short\n${'x'.repeat(5000)}\n`) }));
    const lines: string[] = [];
    const end = await new Promise<string>((resolve) => {
      const handlers = { onLine: (l: Buffer) => void lines.push(l.toString()), onEnd: resolve };
      void connectLines({ kind: 'unix', path: server.path }, handlers, LIMITS, 1000);
    });
    expect(lines).toEqual(['short']);
    expect(end).toContain('more than 1000 bytes');
  });

  it('QM13 within settles once, clears up once, and a deadline of weeks is none', async () => {
    let cleared = 0;
    const settled = await within<number>(
      { deadlineMs: 1e12 },
      () => ({ kind: 'timeout', sentence: '' }),
      (settle) => {
        setTimeout(() => settle({ ok: true, value: 1 }), 5);
        setTimeout(() => settle({ ok: true, value: 2 }), 5);
        return () => cleared++;
      },
    );
    await pause(20);
    expect([settled, cleared]).toEqual([{ ok: true, value: 1 }, 1]);
    const aborted = await within(
      { deadlineMs: 1000, signal: AbortSignal.abort() },
      (why) => ({ kind: why, sentence: '' }),
      () => {
        throw new Error('not begun');
      },
    );
    expect(aborted).toMatchObject({ ok: false, error: { kind: 'cancelled' } });
  });
});
