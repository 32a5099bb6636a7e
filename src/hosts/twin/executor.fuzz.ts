// The executor under random weather: faults at any call, Ctrl-C, kill -9 and resume under more weather. Whatever happens, each
// unit ends done or as it was, and the report says what an observer sees. Rules in docs/spec/executor.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toPfn } from '#base/units';
import { type ExecuteOptions, execute, resume } from '#control/executor';
import { replay } from '#control/journal-replay';
import { decodeJournal } from '#control/journal-text';
import type { ExecutionReport } from '#control/report';
import type { Observation } from '#plan/observation';
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
  twinWorld,
  VM0,
  virtioMemDraft,
} from '../../../test/support/twin-world.ts';
import type { Fault, Faults } from './faults.ts';
import type { TwinHost } from './twin-host.ts';

const SEEDS = 60;
/** So often an execution may be killed or fail before the weather clears. */
const LIVES = 4;

/** Swarm: each run has its own mix of faults, some of them never. */
function weather(prng: Prng): Faults {
  const weights = Array.from({ length: 8 }, () => prng.pick([0, 0, 1, 3]));
  if (weights.every((w) => w === 0)) return () => undefined;
  const often = prng.pick([0.02, 0.1, 0.3]);
  const when = (): 'before' | 'midway' | 'after' => prng.pick(['before', 'midway', 'after']);
  const kinds: readonly (() => Fault)[] = [
    () => ({ fault: 'refuse', errno: 'EBUSY', sentence: 'no' }),
    () => ({ fault: 'refuse', errno: 'ENOMEM', sentence: 'no memory' }),
    () => ({ fault: 'lose', when: when() }),
    () => ({ fault: 'silent', when: prng.pick(['before', 'after'] as const) }),
    () => ({ fault: 'lie' }),
    () => ({ fault: 'down', forMs: prng.below(5000) }),
    () => ({ fault: 'die', when: when() }),
    () => ({ fault: 'lose', when: 'midway' }),
  ];
  return (call) => {
    if (!prng.chance(often)) return undefined;
    const fault = (kinds[prng.weighted(weights)] as () => Fault)();
    return call.verb === 'observe' && fault.fault === 'lie' ? undefined : fault;
  };
}

function worldOf(prng: Prng): { host: TwinHost; plan: Plan } {
  const kind = prng.pick(['remove', 'remove', 'add', 'virtio'] as const);
  const zone = (): 'Movable' | 'Normal' | 'offline' => prng.pick(['Movable', 'Movable', 'Normal', 'offline']);
  const host = twinWorld(
    kind === 'remove'
      ? { blocks: [zone(), zone()] }
      : { blocks: 'absent', virtioMem: kind === 'virtio' ? [{ ...VM0, bytes: 0 }] : [] },
  );
  host.fs.write(
    '/sys/devices/system/memory/auto_online_blocks',
    kind === 'virtio' ? 'online_movable' : prng.pick(['offline', 'offline', 'online_movable']),
  );
  const o = seen(host);
  const online = (b: number): boolean => o.blocks.some((x) => x.id === b && x.state === 'online');
  const trouble = prng.pick(['none', 'pages', 'slab', 'pin'] as const);
  if (kind === 'remove' && trouble !== 'none' && online(D1)) {
    const name = trouble === 'slab' && o.blocks.some((b) => b.id === D1 && b.zone === 'Normal') ? 'slab' : 'anonymous';
    const frames = fill(host, D1, name, 1 + prng.below(40));
    if (trouble === 'pin') host.machine.pin(toPfn(prng.pick(frames)));
  }
  const main =
    kind === 'remove'
      ? removalPlan(host)
      : kind === 'add'
        ? addPlan(host)
        : planOf(o, [
            { name: 'virtio-mem:vm0', bytes: 256 * MIB, steps: [virtioMemDraft(0, 256 * MIB)] },
            { name: 'virtio-mem:vm0 back', bytes: 128 * MIB, steps: [virtioMemDraft(256 * MIB, 128 * MIB)] },
          ]);
  const other = { name: 'block:35', bytes: 128 * MIB, steps: [offlineDraft(35, 'Normal')] };
  const units = prng.chance(0.5) ? [other, ...main.units] : main.units;
  const plan = planOf(o, units);
  const deadlineMs = prng.pick([300, 2000, 10_000]);
  return {
    host,
    plan: { ...plan, units: plan.units.map((u) => ({ ...u, steps: u.steps.map((s) => ({ ...s, deadlineMs })) })) },
  };
}

const zoneOf = (o: Observation, id: number): string | undefined => {
  const b = o.blocks.find((x) => x.id === id);
  return b === undefined ? undefined : b.state === 'online' ? b.zone : b.state;
};

/** What is true after any end with nothing left. */
function judge(report: ExecutionReport, start: Observation, host: TwinHost, plan: Plan, why: string): void {
  const now = seen(host);
  for (const unit of report.units) {
    const was = report.units.indexOf(unit);
    const steps = plan.units[was]?.steps ?? [];
    for (const { action } of steps) {
      if (action.do === 'offline-block') {
        const want = unit.outcome === 'done' ? ['offline', undefined] : [zoneOf(start, action.block)];
        expect(want, `${why} block ${action.block}, ${unit.outcome}`).toContain(zoneOf(now, action.block));
      } else if (action.do === 'online-block' && unit.outcome === 'done') {
        expect(zoneOf(now, action.block), why).toBe('Movable');
      } else if (action.do === 'remove-dimm' || action.do === 'add-dimm') {
        const wasThere = action.do === 'remove-dimm';
        const isThere = now.hypervisor?.dimms.some((d) => d.id === DIMM.id) === true;
        expect(isThere, `${why} DIMM, ${unit.outcome}`).toBe(unit.outcome === 'done' ? !wasThere : wasThere);
        const blocks = [D1, D1 + 1].filter((b) => zoneOf(now, b) !== undefined).length;
        expect(blocks, `${why}: half a DIMM`).toBe(isThere ? 2 : 0);
      } else if (action.do === 'resize-virtio-mem') {
        const v = now.hypervisor?.virtioMem[0];
        if (unit.outcome === 'short') expect(v?.requested, why).toBe(v?.size);
      }
    }
  }
  const untouched = now.blocks.filter((b) => b.id < 35 && zoneOf(start, b.id) !== zoneOf(now, b.id));
  expect(untouched, why).toEqual([]);
  const reached = report.units.reduce((n, u) => n + u.reachedBytes, 0);
  expect(report.reachedBytes, why).toBe(reached);
  if (report.end === 'done')
    expect(
      report.units.every((u) => u.outcome === 'done'),
      why,
    ).toBe(true);
  if (report.end === 'refused' || report.end === 'deadline') expect(reached, why).toBe(0);
  if (report.end === 'partial')
    expect(
      report.units.some((u) => u.outcome === 'done' || u.outcome === 'short'),
      why,
    ).toBe(true);
}

/** Undefined: it was killed. */
async function orKilled<T>(work: Promise<T>, journal: MemoryJournal): Promise<T | undefined> {
  // Virtual time needs no timers: when the event loop gets here, the work is over or hangs for ever.
  const quiet = new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), 0));
  return Promise.race([work, journal.death.then(() => undefined), quiet]);
}

describe('EC18 random weather', () => {
  it('EC18 whatever fails, whenever it is killed: done or as it was in the end, and every report is true', async () => {
    const ends = new Map<string, number>();
    for (let seed = 1; seed <= SEEDS; seed++) {
      const prng = new Prng(seed);
      const { host, plan } = worldOf(prng);
      const start = seen(host);
      host.faults = weather(prng);
      let text = '';
      let report: ExecutionReport | undefined;
      for (let life = 0; life <= LIVES; life++) {
        const isClear = life === LIVES;
        if (isClear) host.faults = () => undefined;
        const control = new AbortController();
        if (!isClear && prng.chance(0.2)) host.clock.at(host.clock.nowMs() + prng.below(3000), () => control.abort());
        const kills = !isClear && prng.chance(0.5);
        const journal = new MemoryJournal({
          text,
          ...(kills ? { cut: { line: prng.below(12), keep: prng.chance(0.5) ? 'whole' : prng.below(60) } } : {}),
        });
        const options: ExecuteOptions = { journal, clock: host.clock, signal: control.signal };
        const why = `seed=${seed} life=${life}`;
        if (text === '') {
          report = await orKilled(execute(plan, host, options), journal);
        } else {
          const resumed = await orKilled(resume(text, host, options), journal);
          expect(resumed?.ok ?? true, why).toBe(true);
          report = resumed?.ok === true ? resumed.value : undefined;
        }
        const decoded = decodeJournal(journal.text);
        text = decoded.ok ? journal.text.slice(0, decoded.value.length) : '';
        if (decoded.ok) expect(replay(decoded.value.lines).ok, why).toBe(true);
        else expect(decoded.error.reason, why).toBe('empty');
        if (report !== undefined && report.left.length === 0 && report.end !== 'failed') break;
      }
      const why = `seed=${seed} end=${report?.end}: ${report?.sentence}`;
      // An eject that was asked for and lost may still be under way: that is told, and time settles it.
      expect(report?.left, why).toEqual([]);
      if (report !== undefined) judge(report, start, host, plan, why);
      ends.set(report?.end ?? 'none', (ends.get(report?.end ?? 'none') ?? 0) + 1);
      expect(host.check(), why).toEqual([]);
    }
    // The weather was bad enough to see most ends.
    expect([...ends.keys()].length, JSON.stringify([...ends])).toBeGreaterThanOrEqual(5);
  });
});
