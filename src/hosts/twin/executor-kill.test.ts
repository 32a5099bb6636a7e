// kill -9 between any two lines of the journal, in the middle of any line, and in the middle of any act: whatever the machine
// is like then, --resume ends with everything done or everything as it was. Rules in docs/spec/executor.md.

import { describe, expect, it } from 'vitest';
import { toPfn } from '#base/units';
import { type ExecuteOptions, execute, resume } from '#control/executor';
import { replay } from '#control/journal-replay';
import { decodeJournal } from '#control/journal-text';
import type { ExecutionReport } from '#control/report';
import type { Plan } from '#plan/plan';
import {
  addPlan,
  D1,
  DIMM,
  fill,
  MemoryJournal,
  MIB,
  offlineDraft,
  planOf,
  removalPlan,
  seen,
  stateOf,
  twinOf,
  twinWorld,
  VM0,
  virtioMemDraft,
} from '../../../test/support/twin-world.ts';
import type { When } from './faults.ts';
import type { TwinHost } from './twin-host.ts';

type Scenario = {
  readonly name: string;
  readonly end: ExecutionReport['end'];
  readonly world: () => Promise<TwinHost>;
  readonly plan: (host: TwinHost) => Plan;
  /** A DIMM comes and goes in it. */
  readonly came?: boolean;
};

const state = (block: number): string => `/sys/devices/system/memory/memory${block}/state`;

const scenarios: readonly Scenario[] = [
  { name: 'a removal', end: 'done', world: async () => twinWorld(), plan: removalPlan },
  { name: 'an add', end: 'done', world: async () => twinWorld({ blocks: 'absent' }), plan: addPlan },
  {
    name: 'a removal that is refused, of blocks in two zones, and its way back',
    end: 'refused',
    world: async () => {
      const host = twinWorld({ blocks: ['Normal', 'Movable'] });
      fill(host, D1, 'slab', 1);
      // What lies in per-CPU lists goes back to the free lists with the first offline: let that be before the start.
      host.fs.write(state(D1 + 1), 'offline');
      host.fs.write(state(D1 + 1), 'online_movable');
      return host;
    },
    plan: removalPlan,
  },
  {
    name: 'an add that the guest refuses half way, and its way back',
    end: 'refused',
    came: true,
    world: async () => {
      // The struct pages of a DIMM come from other free lists than they went to: let one have come and gone before the start.
      const host = twinWorld({ blocks: ['Movable', 'offline'] });
      host.fs.write(state(D1), 'offline');
      await host.act({ do: 'remove-dimm', id: DIMM.id, memdev: DIMM.memdev }, { deadlineMs: 1000 });
      return host;
    },
    plan: (host) => {
      const plan = addPlan(host);
      const [unit] = plan.units;
      // The last step asks for what no kernel does: block 0 has a hole, and cannot go (lab fact 7).
      const steps = unit!.steps.map((s) => (s.n === 3 ? { ...s, ...offlineDraft(0, 'DMA32'), expect: [] } : s));
      return { ...plan, units: [{ ...unit!, steps }] };
    },
  },
];

/** All that can happen without time passing has happened: what hangs now hangs for ever. */
const quiet = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

const options = (host: TwinHost, journal: MemoryJournal): ExecuteOptions => ({
  journal,
  clock: host.clock,
  signal: new AbortController().signal,
});

/** What is true of a machine whatever happened, and whether it is all done or all as it was. */
async function afterKill(
  host: TwinHost,
  journal: MemoryJournal,
  want: { readonly start: Picture; readonly done: Picture; readonly end: string; readonly came: boolean },
  why: string,
): Promise<void> {
  const decoded = decodeJournal(journal.text);
  if (!decoded.ok) {
    expect(decoded.error.reason, why).toBe('empty');
    expect(pictureOf(host, want.came), why).toEqual(want.start);
    return;
  }
  const rest = new MemoryJournal({ text: journal.text.slice(0, decoded.value.length) });
  const resumed = await resume(journal.text, host, options(host, rest));
  if (!resumed.ok) throw new Error(`${why}: ${resumed.error.sentence}`);
  const report = resumed.value;
  expect(report, why).toMatchObject({ end: want.end, left: [] });
  expect(pictureOf(host, want.came), why).toEqual(report.end === 'done' ? want.done : want.start);
  expect(report.units[0]?.outcome, why).toBe(report.end === 'done' ? 'done' : 'undone');
  const whole = decodeJournal(rest.text);
  expect(whole.ok && replay(whole.value.lines), why).toMatchObject({ value: { end: { end: report.end } } });
}

type Picture = { readonly lines: readonly string[]; readonly tables: string };

/**
 * All of a machine: its digest; where a DIMM came and went, which leaves the number of a holder behind, what the kernel says
 * of every zone and free list.
 */
const pictureOf = (host: TwinHost, came: boolean): Picture => ({
  lines: stateOf(host),
  tables: came
    ? ['meminfo', 'buddyinfo', 'pagetypeinfo'].map((f) => host.fs.readText(`/proc/${f}`)).join('')
    : host.machine.digest(),
});

for (const { name, end, world: first, plan, came = false } of scenarios) {
  describe(`kill -9 in ${name}`, () => {
    const made = first();
    const world = async (): Promise<TwinHost> => twinOf(await made);

    async function reference() {
      const host = await world();
      const start = pictureOf(host, came);
      const journal = new MemoryJournal();
      let acts = 0;
      const theirs = plan(host);
      host.faults = (call) => {
        acts = Math.max(acts, call.verb === 'act' ? call.act + 1 : 0);
        return undefined;
      };
      const report = await execute(theirs, host, options(host, journal));
      expect(report.end, report.sentence).toBe(end);
      if (end !== 'done') expect(pictureOf(host, came)).toEqual(start);
      return { start, done: pictureOf(host, came), came, end, lines: journal.lines, acts };
    }

    it('EC17 between any two lines, and in the middle of any line', async () => {
      const want = await reference();
      expect(want.lines).toBeGreaterThan(8);
      for (let line = 0; line < want.lines; line++) {
        for (const keep of ['whole', 40] as const) {
          const host = await world();
          const journal = new MemoryJournal({ cut: { line, keep } });
          void execute(plan(host), host, options(host, journal));
          await journal.death;
          await afterKill(host, journal, want, `${name}, line ${line}, ${keep}`);
          if (line === want.lines - 2) expect(host.check()).toEqual([]);
        }
      }
    });

    it('EC17 in the middle of any act: before it was asked for, while the guest is at it, and before its answer', async () => {
      const want = await reference();
      expect(want.acts).toBeGreaterThan(2);
      for (let act = 0; act < want.acts; act++) {
        for (const when of ['before', 'midway', 'after'] satisfies When[]) {
          const host = await world();
          const journal = new MemoryJournal();
          const theirs = plan(host);
          host.faults = (call) => (call.verb === 'act' && call.act === act ? { fault: 'die', when } : undefined);
          void execute(theirs, host, options(host, journal));
          await quiet();
          host.faults = () => undefined;
          await afterKill(host, journal, want, `${name}, act ${act}, ${when}`);
          if (act === 1) expect(host.check()).toEqual([]);
        }
      }
    });
  });
}

describe('kill -9 while virtio-mem stops short', () => {
  const world = (): TwinHost => {
    const host = twinWorld({ blocks: 'absent', virtioMem: [{ ...VM0, bytes: 0 }] });
    host.fs.write('/sys/devices/system/memory/auto_online_blocks', 'online_movable');
    const { device } = host.hypervisor.virtioMem.get(VM0.id)!;
    device.setRequestedSize(64 * MIB);
    host.clock.advance(1000);
    const [page] = fill(host, VM0.addr / (128 * MIB), 'anonymous', 1);
    host.machine.pin(toPfn(page as number));
    return host;
  };
  const shrink = (host: TwinHost): Plan =>
    planOf(seen(host), [
      { name: 'vm0', bytes: 64 * MIB, steps: [{ ...virtioMemDraft(64 * MIB, 0), deadlineMs: 500 }] },
    ]);

  it('EC9 EC17 at any line: it stands where it was told to stay, and the report says where', async () => {
    for (let line = 0; line < 6; line++) {
      for (const keep of ['whole', 40] as const) {
        const host = world();
        const journal = new MemoryJournal({ cut: { line, keep } });
        void execute(shrink(host), host, options(host, journal));
        await journal.death;
        // The guest goes on while nobody is there.
        host.clock.advance(100);
        const why = `line ${line}, ${keep}`;
        const decoded = decodeJournal(journal.text);
        if (!decoded.ok) {
          expect(line, why).toBe(0);
          continue;
        }
        const resumed = await resume(journal.text, host, options(host, new MemoryJournal()));
        if (!resumed.ok) throw new Error(resumed.error.sentence);
        const v = seen(host).hypervisor?.virtioMem[0];
        expect(v?.size, why).toBeGreaterThan(0);
        expect(v?.requested, why).toBe(v?.size);
        const reachedBytes = 64 * MIB - (v?.size ?? 0);
        expect(resumed.value, why).toMatchObject({ end: 'partial', reachedBytes, left: [] });
        host.clock.advance(60_000);
        expect(seen(host).hypervisor?.virtioMem[0]?.size, why).toBe(v?.size);
        if (line === 3) expect(host.check(), why).toEqual([]);
      }
    }
  });
});
