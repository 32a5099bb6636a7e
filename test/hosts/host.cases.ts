// Cases of the Host port: what every host keeps, whatever stands behind it. One suite, run on the twin host, on recordings, on
// the Linux host and, in the lane of real kernels, on a QEMU guest. Rules: docs/spec/host-port.md.
//
//   hostCases('a QEMU guest', (body) => body(subject))
//
// A subject is a host and what is known of the machine behind it. What a machine does not have is told by `lacks`, with the
// reason: the case is skipped then, and the reason printed. `state` looks past the host where it can.

import { describe, expect, test } from 'vitest';
import type { Host, HostFailure, Limits } from '../../src/control/host.ts';
import { type Observation, observe, stateLines } from '../../src/plan/observation.ts';
import type { Action } from '../../src/plan/plan.ts';

/** A thing that a case needs, or why it is not to be had here. */
export type Lack = { readonly lacks: string };
type Has<T> = T | Lack;

export type Subject = {
  readonly host: Host;
  /** State lines of the machine (plan/observation.ts), read past the host; a host of which nothing else can be read gives its own. */
  readonly state: () => Promise<readonly string[]>;
  /** Milliseconds on the host's own clock. */
  readonly nowMs: () => number;
  /** Calls `run` once, so many milliseconds later on that clock. */
  readonly after: (ms: number, run: () => void) => void;
  /** A block that is online in Movable, goes offline, and comes back. */
  readonly movable: Has<number>;
  /** A block whose offline is refused at once, and the errno. */
  readonly refused: Has<{ readonly block: number; readonly errno: 'EBUSY' | 'EINVAL' }>;
  /** A block whose offline never ends by itself (lab fact 5). */
  readonly endless: Has<number>;
  /** A DIMM with a block that is online. */
  readonly dimm: Has<{ readonly id: string; readonly memdev: string }>;
  /** May captures be taken? */
  readonly captures: Has<true>;
};

/** Makes a subject, gives it to `body`, and takes it away again. */
export type Around = (body: (s: Subject) => Promise<void>, title: string) => Promise<void>;

const LIMITS: Limits = { deadlineMs: 20_000 };
/** Given to an offline that never ends by itself; and how much later its answer may come: a process has to be ended. */
const SHORT_MS = 1500;
const LATE_MS = 8000;

type Skip = (why: string) => never;
/** Throws where the subject breaks the rule; `skip`s where it lacks what that takes. */
export type HostCase = (s: Subject, skip: Skip) => Promise<void>;

/** Runs every case on a kind of host. */
export function hostCases(name: string, around: Around): void {
  describe(`the Host port on ${name}`, () => {
    eachHostCase((title, body) => {
      test(title, async (context) => {
        const skip: Skip = (why) => {
          process.stdout.write(`skipped on ${name}: ${title.slice(0, title.indexOf(' '))}: ${why}\n`);
          return context.skip(why) as never;
        };
        await around((s) => body(s, skip), title);
      });
    });
  });
}

const have = <T>(x: Has<T>, skip: Skip): T => (typeof x === 'object' && x !== null && 'lacks' in x ? skip(x.lacks) : x);

/** The rules, one after the other: each as `it` would have it. */
export function eachHostCase(it: (title: string, body: HostCase) => void): void {
  it('HC1 observe changes nothing, and shows what is there', async (s) => {
    const before = await s.state();
    const [first, second] = [await seen(s), await seen(s)];
    expect(stateLines(first)).toEqual(before);
    expect(stateLines(second)).toEqual(before);
    expect(first.memTotal).toBeGreaterThan(0);
    expect(await s.state()).toEqual(before);
  });

  it('HC2 every action can be done, or cannot for a reason; an unsupported one is refused untouched', async (s) => {
    const info = value(await s.host.info(LIMITS));
    expect(info.name.length * info.kernel.length).toBeGreaterThan(0);
    const before = await s.state();
    for (const action of ONE_OF_EACH) {
      const why = info.cannot.get(action.do);
      expect(info.can.has(action.do) === (why === undefined), action.do).toBe(true);
      if (why === undefined) continue;
      expect(why).not.toBe('');
      expect((await failed(s.host.act(action, LIMITS))).kind, action.do).toMatch(/^(unsupported|denied)$/);
    }
    expect(await s.state()).toEqual(before);
  });

  it('HC3 a block goes offline and comes back to its zone; what was done is what is seen', async (s, skip) => {
    const block = have(s.movable, skip);
    const before = await s.state();
    value(await s.host.act({ do: 'offline-block', block }, LIMITS));
    expect((await blockOf(s, block)).state).toBe('offline');
    value(await s.host.act({ do: 'online-block', block, zone: 'movable' }, LIMITS));
    expect(await blockOf(s, block)).toMatchObject({ state: 'online', zone: 'Movable' });
    expect(await s.state()).toEqual(before);
  });

  it('HC4 a refused offline carries the kernel’s errno and a sentence, and leaves everything as it was', async (s, skip) => {
    const { block, errno } = have(s.refused, skip);
    const before = await s.state();
    const refusal = await failed(s.host.act({ do: 'offline-block', block }, LIMITS));
    expect(refusal).toMatchObject({ kind: 'refused', errno });
    expect(refusal.sentence).not.toBe('');
    expect(await s.state()).toEqual(before);
  });

  it('HC5 what makes no sense is refused: a block that is not there, one that is online already', async (s, skip) => {
    const block = have(s.movable, skip);
    const before = await s.state();
    const absent = await failed(s.host.act({ do: 'offline-block', block: 1_000_000 }, LIMITS));
    expect(absent.kind).toMatch(/^(refused|unsupported)$/);
    const again = await failed(s.host.act({ do: 'online-block', block, zone: 'movable' }, LIMITS));
    expect(again).toMatchObject({ kind: 'refused', errno: 'EINVAL' });
    expect(await s.state()).toEqual(before);
  });

  it('HC6 an endless offline is ended by its deadline, in the guest too: the block is online where it was', async (s, skip) => {
    const block = have(s.endless, skip);
    const before = await s.state();
    const began = s.nowMs();
    const ended = await failed(s.host.act({ do: 'offline-block', block }, { deadlineMs: SHORT_MS }));
    expect(s.nowMs() - began).toBeLessThan(SHORT_MS + LATE_MS);
    expect(
      ended.kind === 'timeout' || (ended.kind === 'refused' && ended.errno === 'EINTR'),
      JSON.stringify(ended),
    ).toBe(true);
    expect(await s.state()).toEqual(before);
  });

  it('HC7 a signal ends a request: before it begins, and in the middle, with nothing half done', async (s, skip) => {
    const before = await s.state();
    const sooner = await failed(s.host.act({ do: 'compact' }, { ...LIMITS, signal: AbortSignal.abort() }));
    expect(sooner.kind).toBe('cancelled');
    expect(await s.state()).toEqual(before);
    const block = have(s.endless, skip);
    const stop = new AbortController();
    s.after(300, () => stop.abort());
    const ended = await failed(s.host.act({ do: 'offline-block', block }, { ...LIMITS, signal: stop.signal }));
    expect(ended.kind).toBe('cancelled');
    expect(await s.state()).toEqual(before);
  });

  it('HC8 a DIMM with a block online is not unplugged: refused, untouched', async (s, skip) => {
    const { id, memdev } = have(s.dimm, skip);
    const before = await s.state();
    const refusal = await failed(s.host.act({ do: 'remove-dimm', id, memdev }, LIMITS));
    expect(refusal.kind).toBe('refused');
    expect(await s.state()).toEqual(before);
  });

  it('HC9 a capture holds the same machine, devices included, and taking it changes nothing', async (s, skip) => {
    have(s.captures, skip);
    const before = await s.state();
    const capture = value(await s.host.capture({ deadlineMs: 120_000 }));
    const inside = observe(capture.tree);
    expect(inside.ok && stateLines(inside.value)).toEqual(before);
    expect(await s.state()).toEqual(before);
  });

  it('HC10 watching ends with its signal', async (s) => {
    const stop = new AbortController();
    const watching = s.host.watch(() => {}, stop.signal);
    await seen(s);
    stop.abort();
    await watching;
    await seen(s);
  });

  it('HC11 after close every request fails as closed, and closing again is nothing', async (s) => {
    await s.host.close();
    for (const asked of [
      s.host.info(LIMITS),
      s.host.observe(LIMITS),
      s.host.act({ do: 'compact' }, LIMITS),
      s.host.capture(LIMITS),
    ])
      expect((await failed<unknown>(asked)).kind).toBe('closed');
    await s.host.close();
  });
}

/** Harmless where it can be done: only those that cannot are tried. */
const ONE_OF_EACH: readonly Action[] = [
  { do: 'offline-block', block: 0 },
  { do: 'online-block', block: 0, zone: 'default' },
  { do: 'add-dimm', id: 'x', memdev: 'mem-x', bytes: 2 ** 27, node: 0, addr: 2 ** 40 },
  { do: 'remove-dimm', id: 'x', memdev: 'mem-x' },
  { do: 'resize-virtio-mem', id: 'x', bytes: 0 },
  { do: 'balloon', bytes: 2 ** 30 },
  { do: 'drop-caches', what: 1 },
  { do: 'compact' },
  { do: 'set-hugepages', pageBytes: 2 ** 21, pages: 0 },
  { do: 'auto-online', word: 'offline' },
];

type Answer<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: HostFailure };

function value<T>(r: Answer<T>): T {
  if (!r.ok) throw new Error(`${r.error.kind}: ${r.error.sentence}`);
  return r.value;
}

async function failed<T>(asked: Promise<Answer<T>>): Promise<HostFailure> {
  const r = await asked;
  if (r.ok) throw new Error('it was to fail, and did not');
  return r.error;
}

const seen = async (s: Subject): Promise<Observation> => value(await s.host.observe(LIMITS));

async function blockOf(s: Subject, block: number): Promise<Observation['blocks'][number]> {
  const found = (await seen(s)).blocks.find((b) => b.id === block);
  if (found === undefined) throw new Error(`block ${block} is gone`);
  return found;
}

/** A host as an object that can be spread. */
export const methodsOf = (h: Host): Host => ({
  info: (l) => h.info(l),
  observe: (l) => h.observe(l),
  act: (a, l) => h.act(a, l),
  capture: (l) => h.capture(l),
  watch: (f, s) => h.watch(f, s),
  close: () => h.close(),
});
