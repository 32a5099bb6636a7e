// Recording and playing: what is written, and what becomes of a caller who does something else. Rules: docs/spec/host-port.md.

import { describe, expect, it } from 'vitest';
import type { Result } from '#base/result';
import { err, ok } from '#base/result';
import type { Clock, Host, HostFailure } from '#control/host';
import type { Observation } from '#plan/observation';
import type { Action } from '#plan/plan';
import { playHost } from './play-host.ts';
import { recordHost } from './record-host.ts';

const LIMITS = { deadlineMs: 1000 };
const OFF: Action = { do: 'offline-block', block: 7 };
const ON: Action = { do: 'online-block', block: 7, zone: 'movable' };
const REFUSED: HostFailure = { kind: 'refused', sentence: 'no', errno: 'EBUSY', evidence: ['dmesg: unmovable page'] };

/** Time that stands still until somebody sleeps on it. */
const clock = (): Clock => ({
  nowMs: () => 0,
  stamp: () => '',
  sleep: (_, signal) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, 20);
      signal?.addEventListener('abort', () => {
        clearTimeout(timer);
        resolve();
      });
    }),
});

const seenWith = (state: string): Observation => ({
  blockBytes: 2 ** 27,
  autoOnline: 'offline',
  blocks: [{ id: 7, state, zone: state === 'online' ? 'Movable' : undefined, validZones: ['Movable'], nodes: [1] }],
  memTotal: 2 ** 31,
  memFree: 2 ** 30,
  memAvailable: undefined,
  free: [],
  hugePages: [],
  hypervisor: undefined,
});

/** A host with one block that refuses to come back once. */
function machine(): Host {
  let state = 'online';
  let tries = 0;
  const never = async <T>(signal: AbortSignal | undefined): Promise<Result<T, HostFailure>> => {
    await new Promise((resolve) => signal?.addEventListener('abort', resolve));
    return err({ kind: 'cancelled', sentence: 'given up' });
  };
  return {
    info: async () =>
      ok({
        kind: 'twin',
        name: 'm',
        kernel: '6.1',
        can: new Set(['offline-block']),
        cannot: new Map([['compact', 'no']]),
      }),
    observe: async () => ok(seenWith(state)),
    act: async (a, l) => {
      if (a.do === 'compact') return never(l.signal);
      if (a.do === 'online-block' && tries++ === 0) return err(REFUSED);
      state = a.do === 'offline-block' ? 'offline' : 'online';
      return ok({ evidence: [`state: ${state}`] });
    },
    capture: async () => err({ kind: 'unsupported', sentence: 'no captures' }),
    watch: async (onLine, signal) => {
      onLine('first');
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      onLine('last');
    },
    close: async () => {},
  };
}

function recorder(): { host: Host; text: () => string } {
  let text = '';
  const host = recordHost(machine(), (line) => {
    text += line;
  });
  return { host, text: () => text };
}

function played(text: string): Host {
  const host = playHost(text, { clock: clock() });
  if (!host.ok) throw new Error(host.error);
  return host.value;
}

/** Everything that a caller sees, in order. */
async function story(host: Host): Promise<unknown[]> {
  const said: unknown[] = [];
  const stop = new AbortController();
  const watching = host.watch((line) => said.push(line), stop.signal);
  said.push(await host.info(LIMITS), await host.observe(LIMITS));
  said.push(await host.act(OFF, LIMITS), await host.observe(LIMITS), await host.observe(LIMITS));
  said.push(await host.act(ON, LIMITS), await host.act(ON, LIMITS), await host.observe(LIMITS));
  const cancel = new AbortController();
  const compacting = host.act({ do: 'compact' }, { ...LIMITS, signal: cancel.signal });
  cancel.abort();
  said.push(await compacting, await host.capture(LIMITS));
  stop.abort();
  await watching;
  await host.close();
  said.push(await host.observe(LIMITS));
  return said;
}

/** A recording in which block 7 goes offline and does not come back at once. */
async function recorded(): Promise<string> {
  const { host, text } = recorder();
  await host.observe(LIMITS);
  await host.act(OFF, LIMITS);
  await host.observe(LIMITS);
  await host.act(ON, LIMITS);
  return text();
}

describe('a recording', () => {
  it('RH2 played to the same caller says the same: answers, failures, lines, cancels, and after close', async () => {
    const { host, text } = recorder();
    const first = await story(host);
    const again = await story(played(text()));
    const closed = { ok: false, error: { kind: 'closed', sentence: 'the host has been closed' } };
    expect(again).toEqual([...first.slice(0, -1), closed]); // the machine of this test does not mind being closed
  });

  it('RH2 whatever the caller has seen is written, and an observation in which nothing changed is a word', async () => {
    const { host, text } = recorder();
    await host.observe(LIMITS);
    await host.observe(LIMITS);
    await host.act(OFF, LIMITS);
    await host.observe(LIMITS);
    const lines = text().trim().split('\n');
    expect(lines[0]).toBe('{"dimmer":"host-recording","version":1}');
    expect(lines.slice(3, 5)).toEqual(['{"n":2,"call":"observe","deadlineMs":1000}', '{"n":2,"observed":null}']);
    expect(lines[6]).toBe('{"n":3,"done":["state: offline"]}');
    expect(lines[8]).toBe(
      '{"n":4,"observed":{"~":{"blocks":{"~":{"0":{"~":{"state":{"=":"offline"}},"-":["zone"]}}}}}}',
    );
  });

  it('RH3 another call than the recorded one fails as protocol, names both, and nothing is played any more', async () => {
    const host = played(await recorded());
    await host.observe(LIMITS);
    const wrong = await host.act(ON, LIMITS);
    const sentence = 'asked was online block 7 (movable); in the recording comes offline block 7';
    expect(wrong).toEqual(err({ kind: 'protocol', sentence }));
    expect(await host.act(OFF, LIMITS)).toEqual(wrong);
  });

  it('RH3 at the end of the recording requests fail as disconnected, and so does one that it breaks off in', async () => {
    const text = await recorded();
    const whole = played(text);
    for (const ask of [() => whole.observe(LIMITS), () => whole.act(OFF, LIMITS), () => whole.observe(LIMITS)])
      expect((await ask()).ok).toBe(true);
    expect(await whole.act(ON, LIMITS)).toEqual(err(REFUSED));
    const ends = err({ kind: 'disconnected', sentence: 'the recording ends here' });
    expect(await whole.observe(LIMITS)).toEqual(ends);
    for (const cut of [text.lastIndexOf('\n', text.length - 2) + 1, text.length - 5]) {
      const host = played(text.slice(0, cut));
      for (const ask of [() => host.observe(LIMITS), () => host.act(OFF, LIMITS), () => host.observe(LIMITS)])
        expect((await ask()).ok).toBe(true);
      expect(await host.act(ON, LIMITS)).toEqual(ends);
    }
  });

  it('RH3 no request waits for ever: a signal that was recorded and does not come is a timeout', async () => {
    const { host, text } = recorder();
    const stop = new AbortController();
    const pending = host.act({ do: 'compact' }, { ...LIMITS, signal: stop.signal });
    await host.observe(LIMITS);
    stop.abort();
    await pending;
    expect(await played(text()).act({ do: 'compact' }, LIMITS)).toMatchObject(err({ kind: 'timeout' }));
    const early = played(text());
    const now = AbortSignal.abort();
    expect(await early.act({ do: 'compact' }, { ...LIMITS, signal: now })).toMatchObject(err({ kind: 'cancelled' }));
    const sentence = 'compact all memory was cancelled; not so in the recording';
    expect(await early.observe(LIMITS)).toEqual(err({ kind: 'protocol', sentence }));
  });

  it('RH5 a text that is no recording is one sentence with the line', () => {
    const head = '{"dimmer":"host-recording","version":1}\n';
    for (const [text, sentence] of [
      ['', 'line 1 is not the head of a host recording'],
      ['{"dimmer":"plan"}\n', 'line 1 is not the head of a host recording'],
      ['{"dimmer":"host-recording","version":2}\n', 'the recording is of version 2, this dimmer knows 1'],
      [`${head}[]\n`, 'line 2 is not a line of a recording'],
      [`${head}{"n":1,"call":"dance"}\n`, 'line 2 is a call that this dimmer does not know'],
      [`${head}{"n":2,"call":"close"}\n`, 'line 2 says that it is call 2; it is 1'],
      [`${head}{"n":1,"done":[]}\n`, 'line 2 answers call 1, which is not under way'],
      [`${head}{"n":1,"call":"close"}\n{"n":1,"done":[]}\n`, 'line 3 is no answer to close'],
    ] as const)
      expect(playHost(text, { clock: clock() })).toEqual(err(sentence));
  });
});
