// The Host port's cases on the hosts that need no guest: twins, recordings of them, and recordings of real QEMU guests.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { SYSTEM_CLOCK } from '../../src/cli/system-clock.ts';
import type { Host } from '../../src/control/host.ts';
import { gunzip, gzip } from '../../src/hosts/linux/gzip.ts';
import { playHost, recordHost } from '../../src/hosts/recording/index.ts';
import type { TwinHost } from '../../src/hosts/twin/twin-host.ts';
import { ROOT } from '../support/source-files.ts';
import { D1, twinWorld } from '../support/twin-world.ts';
import { type Around, eachHostCase, type HostCase, hostCases, methodsOf, type Subject } from './host.cases.ts';
import { aroundTwin, twinSubject } from './twin-subject.ts';

hostCases('a twin of a guest', aroundTwin());
hostCases('a twin without a hypervisor', aroundTwin({ hypervisor: 'none' }));

/** Each case twice: on a twin that is being written down, then on what was written. */
const aroundRecording: Around = async (body) => {
  const { twin, subject } = twinSubject();
  let text = '';
  const states: (readonly string[])[] = [];
  const recorder = recordHost(
    twin,
    (line) => {
      text += line;
    },
    { pack: { gzip, toolVersion: 'test' } },
  );
  await body({
    ...subject,
    host: recorder,
    state: async () => {
      const now = await subject.state();
      states.push(now);
      return now;
    },
  });
  expect(twin.check()).toEqual([]);
  await body(played(subject, text, states));
  expect(states).toEqual([]); // the same story, to its end
};

/** What was written down, as a subject; `states` are what was seen past the host, in order. */
function played(
  of: Omit<Subject, 'host' | 'state' | 'nowMs' | 'after'>,
  text: string,
  states: (readonly string[])[],
): Subject {
  const host = playHost(text, { clock: SYSTEM_CLOCK, gunzip });
  if (!host.ok) throw new Error(host.error);
  return {
    ...of,
    host: host.value,
    nowMs: () => SYSTEM_CLOCK.nowMs(),
    after: (_, run) => void setTimeout(run, 1), // no time passes in a recording: it waits for the signal
    state: () => Promise.resolve(states.shift() ?? []),
  };
}

hostCases('a recording of a twin', aroundRecording);

/** What a real guest said, kept by the lane (test/golden/hosts/README.md): one file a case. */
const GUESTS = join(ROOT, 'test/golden/hosts/qemu-7.2');
type Kept = Pick<Subject, 'movable' | 'refused' | 'endless' | 'dimm'> & {
  readonly states: readonly (readonly string[])[];
  readonly recording: readonly string[];
};

hostCases('a recording of a QEMU guest', async (body, title) => {
  const file = join(GUESTS, `${title.slice(0, title.indexOf(' '))}.json`);
  const kept = JSON.parse(readFileSync(file, 'utf8')) as Kept;
  const states = [...kept.states];
  const captures = { lacks: 'captures were left out of it' };
  await body(played({ ...kept, captures }, `${kept.recording.join('\n')}\n`, states));
  expect(states).toEqual([]);
});

describe('the cases', () => {
  const cases = new Map<string, HostCase>();
  eachHostCase((title, body) => cases.set(title.slice(0, title.indexOf(' ')), body));

  /** Hosts that break a rule, by the case that has to notice. */
  const BROKEN: readonly (readonly [id: string, what: string, spoil: (h: Host, twin: TwinHost) => Partial<Host>])[] = [
    [
      'HC1',
      'observing offlines a block',
      (h, twin) => ({
        observe: (l) => {
          twin.machine.offline(D1 as never);
          return h.observe(l);
        },
      }),
    ],
    [
      'HC2',
      'an unsupported action is done',
      () => ({ act: () => Promise.resolve({ ok: true, value: { evidence: [] } }) }),
    ],
    [
      'HC3',
      'yes is said, and nothing done',
      () => ({ act: () => Promise.resolve({ ok: true, value: { evidence: [] } }) }),
    ],
    [
      'HC4',
      'the errno is lost',
      (h) => ({
        act: async (a, l) => {
          const r = await h.act(a, l);
          return r.ok ? r : { ok: false, error: { kind: r.error.kind, sentence: r.error.sentence } };
        },
      }),
    ],
    [
      'HC5',
      'what is so already is done',
      () => ({ act: () => Promise.resolve({ ok: true, value: { evidence: [] } }) }),
    ],
    ['HC6', 'the deadline is forgotten', (h) => ({ act: (a) => h.act(a, { deadlineMs: 12_000 }) })],
    ['HC7', 'the signal is forgotten', (h) => ({ act: (a, l) => h.act(a, { deadlineMs: l.deadlineMs }) })],
    [
      'HC8',
      'a DIMM is pulled with its blocks online',
      () => ({ act: () => Promise.resolve({ ok: true, value: { evidence: [] } }) }),
    ],
    [
      'HC9',
      'the capture is of another machine',
      () => ({ capture: (l) => twinWorld({ blocks: 'absent' }).capture(l) }),
    ],
    ['HC11', 'it goes on after close', () => ({ close: () => Promise.resolve() })],
  ];

  const NOTHING_LACKS = (): never => {
    throw new Error('nothing is lacking here');
  };

  it.each(BROKEN)('RH4 %s fails on a host where %s', async (id, _, spoil) => {
    const body = cases.get(id) as HostCase;
    const hypervisor = id === 'HC8' ? 'qemu' : 'none';
    const sound = twinSubject({ hypervisor });
    await body({ ...sound.subject, host: methodsOf(sound.twin) }, NOTHING_LACKS);
    const { twin, subject } = twinSubject({ hypervisor });
    const whole = methodsOf(twin);
    await expect(body({ ...subject, host: { ...whole, ...spoil(whole, twin) } }, NOTHING_LACKS)).rejects.toThrow();
  });
});
