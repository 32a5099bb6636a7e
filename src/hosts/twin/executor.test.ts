// The executor on a twin: every end, and what the machine is like then. Rules in docs/spec/executor.md.

import { describe, expect, it } from 'vitest';
import { toPfn } from '#base/units';
import { type ExecuteOptions, execute, type Progress, resume } from '#control/executor';
import type { JournalLine } from '#control/journal';
import { decodeJournal } from '#control/journal-text';
import type { Lock } from '#control/lock';
import type { Plan } from '#plan/plan';
import {
  addPlan,
  atAct,
  BOOT,
  balloonDraft,
  D1,
  DIMM,
  fill,
  MemoryJournal,
  MIB,
  offlineDraft,
  onlineDraft,
  planOf,
  removalPlan,
  removeDimmDraft,
  seen,
  stateOf,
  twinWorld,
  VM0,
  virtioMemDraft,
} from '../../../test/support/twin-world.ts';
import type { TwinHost } from './twin-host.ts';

const signal = new AbortController().signal;

const run = (plan: Plan, host: TwinHost, options: Partial<ExecuteOptions> = {}) =>
  execute(plan, host, { journal: new MemoryJournal(), clock: host.clock, signal, ...options });

const linesOf = (journal: MemoryJournal): readonly JournalLine[] => {
  const decoded = decodeJournal(journal.text);
  if (!decoded.ok) throw new Error(decoded.error.sentence);
  return decoded.value.lines;
};
const kindsOf = (journal: MemoryJournal): string[] =>
  linesOf(journal).map((l) => ('step' in l ? `${l.kind} ${l.step}` : l.kind));

/** The same plan with another deadline for each step. */
const within = (plan: Plan, deadlineMs: number): Plan => ({
  ...plan,
  units: plan.units.map((u) => ({ ...u, steps: u.steps.map((s) => ({ ...s, deadlineMs })) })),
});

/** A DIMM of two blocks in Normal, with a kernel page in the lower one: the higher one goes, the lower one is refused. */
function busyWorld() {
  const host = twinWorld({ blocks: ['Normal', 'Normal'] });
  fill(host, D1, 'slab', 1);
  return host;
}

/** The lower block in Movable has a page that somebody pinned: on Linux its offline never ends. */
function pinnedWorld() {
  const host = twinWorld();
  const [page] = fill(host, D1, 'anonymous', 1);
  host.machine.pin(toPfn(page as number));
  return { host, unpin: () => host.machine.unpin(toPfn(page as number)) };
}

describe('EC1 done', () => {
  it('EC1 a DIMM with pages on it: its blocks leave, it leaves, and every line is on the journal', async () => {
    const host = twinWorld();
    fill(host, D1, 'anonymous', 500);
    const journal = new MemoryJournal();
    const report = await run(removalPlan(host), host, { journal });
    expect(report).toMatchObject({ end: 'done', exitCode: 0, reachedBytes: DIMM.bytes, left: [] });
    expect(kindsOf(journal)).toEqual([
      'begin',
      ...[1, 2, 3].flatMap((n) => [`intent ${n}`, `outcome ${n}`]),
      'unit',
      'end',
    ]);
    expect(stateOf(host).filter((l) => /block 4[01]|dimm/.test(l))).toEqual([]);
    expect(host.check()).toEqual([]);
  });

  it('EC1 a DIMM is added and its blocks come online in the zone asked for', async () => {
    const host = twinWorld({ blocks: 'absent' });
    expect((await run(addPlan(host), host)).end).toBe('done');
    expect(stateOf(host).filter((l) => /block 4[01]|dimm/.test(l))).toEqual([
      'block 40 online Movable node 1',
      'block 41 online Movable node 1',
      `dimm d1 at 0x140000000 ${DIMM.bytes} node 1`,
    ]);
    expect(host.check()).toEqual([]);
  });

  it('EC1 a plan without units is done', async () => {
    const host = twinWorld();
    expect(await run(planOf(seen(host), []), host)).toMatchObject({ end: 'done', sentence: 'there was nothing to do' });
  });
});

describe('EC2 stale', () => {
  it('EC2 a machine that changed since the plan was made: nothing is done, nothing journalled, the first lines are named', async () => {
    const host = twinWorld();
    const plan = removalPlan(host);
    host.fs.write('/sys/devices/system/memory/memory35/state', 'offline');
    const journal = new MemoryJournal();
    const report = await run(plan, host, { journal });
    expect(report).toMatchObject({
      end: 'stale',
      exitCode: 3,
      differs: [{ assumed: 'block 35 online Normal node 1', found: 'block 35 offline - node 1' }],
    });
    expect(journal.text).toBe('');
  });

  it('EC2 a machine that somebody changes meanwhile: the next step finds it so, and the unit is undone', async () => {
    const host = twinWorld();
    const plan = removalPlan(host);
    host.faults = (call) => {
      if (call.verb === 'observe' && call.n === 3) {
        host.fs.write(`/sys/devices/system/memory/memory${D1}/state`, 'offline');
        host.fs.write(`/sys/devices/system/memory/memory${D1}/state`, 'online_kernel');
      }
      return undefined;
    };
    const report = await run(plan, host);
    expect(report).toMatchObject({ end: 'stale', exitCode: 3, reachedBytes: 0 });
    expect(report.sentence).toContain(`block ${D1} is online in Movable`);
    expect(report.units[0]?.outcome).toBe('undone');
    expect(stateOf(host)).toContain('block 41 online Movable node 1');
    expect(host.check()).toEqual([]);
  });
});

describe('EC3 refused', () => {
  it('EC3 the second block is refused: the first is back in its zone, exit 5, the errno and the page are told', async () => {
    const host = busyWorld();
    const before = stateOf(host);
    const journal = new MemoryJournal();
    const report = await run(removalPlan(host), host, { journal });
    expect(report).toMatchObject({ end: 'refused', exitCode: 5, reachedBytes: 0, left: [] });
    expect(report.units[0]?.steps.map((s) => s.result)).toEqual(['undone', 'refused', undefined]);
    expect(report.units[0]?.steps[1]).toMatchObject({ errno: 'EBUSY' });
    expect(report.units[0]?.steps[1]?.evidence.join()).toContain('failure to isolate range');
    expect(kindsOf(journal).slice(5)).toEqual(['unwind', 'undo 1', 'undone 1', 'end']);
    expect(stateOf(host)).toEqual(before);
    expect(host.check()).toEqual([]);
  });

  it('EC3 the step that was done last is the first to be undone', async () => {
    const host = busyWorld();
    const steps = [offlineDraft(35, 'Normal'), offlineDraft(D1 + 1, 'Normal'), offlineDraft(D1, 'Normal')];
    const journal = new MemoryJournal();
    const before = stateOf(host);
    const report = await run(planOf(seen(host), [{ name: 'u', bytes: 1, steps }]), host, { journal });
    expect(report.end).toBe('refused');
    expect(kindsOf(journal).filter((k) => k.startsWith('undo '))).toEqual(['undo 2', 'undo 1']);
    expect(stateOf(host)).toEqual(before);
  });

  it('EC3 each block goes back to the zone that it was in, not to the zone of its neighbour', async () => {
    for (const high of ['Movable', 'Normal'] as const) {
      const host = twinWorld({ blocks: ['Normal', high] });
      fill(host, D1, 'slab', 1);
      const before = stateOf(host);
      expect((await run(removalPlan(host), host)).end).toBe('refused');
      expect(stateOf(host)).toEqual(before);
    }
  });

  it('EC3 a DIMM that QEMU takes and the guest does not (no multiple of a block) is taken away again', async () => {
    const host = twinWorld({ blocks: 'absent' });
    const before = stateOf(host);
    const plan = addPlan(host);
    const bytes = 100 * MIB;
    const steps = plan.units[0]!.steps.map((s) =>
      s.action.do === 'add-dimm' ? { ...s, action: { ...s.action, bytes }, deadlineMs: 2000 } : s,
    );
    const report = await run({ ...plan, units: [{ ...plan.units[0]!, steps }] }, host);
    expect(report).toMatchObject({ end: 'deadline', left: [] });
    expect(stateOf(host)).toEqual(before);
  });

  it('EC3 an added DIMM whose blocks came online by policy is emptied before it is taken away', async () => {
    const host = twinWorld({ blocks: 'absent' });
    host.fs.write('/sys/devices/system/memory/auto_online_blocks', 'online_movable');
    const before = stateOf(host);
    const plan = addPlan(host);
    const never = {
      ...onlineDraft(35, 'movable'),
      expect: [],
      effect: [{ is: 'dimm', id: 'x', present: true } as const],
    };
    const add = plan.units[0]!.steps[0]!;
    const report = await run(planOf(seen(host), [{ name: 'u', bytes: 1, steps: [add, never] }]), host);
    expect(report).toMatchObject({ end: 'refused', left: [] });
    expect(stateOf(host)).toEqual(before);
    expect(host.check()).toEqual([]);
  });
});

describe('EC4 deadline', () => {
  it('EC4 a pinned page: the offline is ended at the deadline, all blocks are online where they were, exit 124', async () => {
    const { host } = pinnedWorld();
    const before = stateOf(host);
    const waits: Progress[] = [];
    const report = await run(within(removalPlan(host), 2000), host, { onProgress: (p) => waits.push(p) });
    expect(report).toMatchObject({ end: 'deadline', exitCode: 124, left: [] });
    expect(report.units[0]?.steps[1]).toMatchObject({ result: 'deadline', errno: 'EINTR' });
    expect(stateOf(host)).toEqual(before);
    expect(host.check()).toEqual([]);
    expect(host.clock.nowMs()).toBeGreaterThan(2000);
    expect(host.clock.nowMs()).toBeLessThan(4000);
  });

  it('EC4 a host that says done when nothing happened is not believed', async () => {
    const host = twinWorld();
    const before = stateOf(host);
    host.faults = atAct({ 1: { fault: 'lie' } });
    expect(await run(removalPlan(host), host)).toMatchObject({ end: 'deadline', left: [] });
    expect(stateOf(host)).toEqual(before);
  });
});

describe('EC5 interrupted', () => {
  it('EC5 Ctrl-C while an offline runs: it is ended, the unit undone, exit 130', async () => {
    const { host } = pinnedWorld();
    const before = stateOf(host);
    const control = new AbortController();
    host.clock.at(500, () => control.abort());
    const report = await run(removalPlan(host), host, { signal: control.signal });
    expect(report).toMatchObject({ end: 'interrupted', exitCode: 130, left: [] });
    expect(stateOf(host)).toEqual(before);
    expect(host.clock.nowMs()).toBeLessThan(1000);
    expect(host.check()).toEqual([]);
  });

  it('EC5 whenever it comes: each unit is finished or as it was, and the report says which', async () => {
    for (let n = 0; n < 16; n++) {
      const host = twinWorld();
      const plan = planOf(seen(host), [
        { name: 'a', bytes: 1, steps: [offlineDraft(35, 'Normal')] },
        ...removalPlan(host).units,
      ]);
      const control = new AbortController();
      host.faults = (call) => {
        if (call.n === n) control.abort();
        return undefined;
      };
      const report = await run(plan, host, { signal: control.signal });
      const lines = stateOf(host);
      const gone = (part: string): boolean => !lines.some((l) => l.startsWith(part));
      const outcome = report.units.map((u) => u.outcome);
      expect(outcome[0] === 'done', `call ${n}`).toBe(lines.includes('block 35 offline - node 1'));
      expect(outcome[1] === 'done', `call ${n}`).toBe(gone('dimm d1') && gone('block 40'));
      if (outcome[1] !== 'done') expect(lines.filter((l) => l.includes('Movable')).length, `call ${n}`).toBe(2);
      expect(report.end, `call ${n}`).toBe(outcome[1] === 'done' ? 'done' : 'interrupted');
      expect(host.check()).toEqual([]);
    }
  });
});

describe('EC6 partial', () => {
  it('EC6 a finished unit stays when a later one fails; none is begun after that; exit 64', async () => {
    const host = busyWorld();
    const o = seen(host);
    const plan = planOf(o, [
      { name: 'a', bytes: 5, steps: [offlineDraft(35, 'Normal')] },
      ...removalPlan(host).units,
      { name: 'c', bytes: 7, steps: [offlineDraft(34, 'Normal')] },
    ]);
    const report = await run(plan, host);
    expect(report).toMatchObject({ end: 'partial', exitCode: 64, reachedBytes: 5 });
    expect(report.units.map((u) => u.outcome)).toEqual(['done', 'undone', 'not-begun']);
    expect(report.sentence).toContain('a is done; then step 3');
    expect(stateOf(host).filter((l) => l.includes('offline -'))).toEqual(['block 35 offline - node 1']);
  });
});

describe('EC7 failed', () => {
  it('EC7 what cannot be put back is named as it is, with the command that would put it right; exit 1', async () => {
    const host = busyWorld();
    host.faults = (call) =>
      call.action?.do === 'online-block' ? { fault: 'refuse', errno: 'ENOMEM', sentence: 'no' } : undefined;
    const report = await run(removalPlan(host), host);
    expect(report).toMatchObject({ end: 'failed', exitCode: 1 });
    expect(report.units[0]?.outcome).toBe('left');
    expect(report.left).toEqual([
      {
        step: 1,
        sentence: 'not so: block 41 is online in Normal (it is offline)',
        commands: ['echo online_kernel > /sys/devices/system/memory/memory41/state'],
      },
    ]);
    expect(stateOf(host)).toContain('block 41 offline - node 1');
  });

  it('EC7 a way back is tried three times', async () => {
    const host = busyWorld();
    const before = stateOf(host);
    let refusals = 2;
    host.faults = (call) =>
      call.action?.do === 'online-block' && refusals-- > 0
        ? { fault: 'refuse', errno: 'ENOMEM', sentence: 'not now' }
        : undefined;
    expect((await run(removalPlan(host), host)).end).toBe('refused');
    expect(stateOf(host)).toEqual(before);
  });

  it('EC7 a failed execution is resumed: the way back is tried again', async () => {
    const host = busyWorld();
    const before = stateOf(host);
    host.faults = (call) =>
      call.action?.do === 'online-block' ? { fault: 'refuse', errno: 'ENOMEM', sentence: 'no' } : undefined;
    const journal = new MemoryJournal();
    expect((await run(removalPlan(host), host, { journal })).end).toBe('failed');
    host.faults = () => undefined;
    const again = await resume(journal.text, host, { journal, clock: host.clock, signal });
    expect(again).toMatchObject({ value: { end: 'refused', exitCode: 5, left: [] } });
    expect(stateOf(host)).toEqual(before);
  });

  it('EC7 nobody can be reached: nothing is done', async () => {
    const host = twinWorld();
    const plan = removalPlan(host);
    const before = stateOf(host);
    host.faults = (call) => (call.n === 0 ? { fault: 'down', forMs: 1e6 } : undefined);
    const journal = new MemoryJournal();
    expect(await run(plan, host, { journal })).toMatchObject({ end: 'failed', left: [] });
    expect(journal.text).toBe('');
    expect(stateOf(host)).toEqual(before);
  });
});

describe('EC8 unsupported', () => {
  it('EC8 an action that the host cannot do is told before anything is begun; exit 4', async () => {
    const host = twinWorld();
    const plan = planOf(seen(host), [
      { name: 'a', bytes: 1, steps: [offlineDraft(35, 'Normal')] },
      { name: 'b', bytes: 1, steps: [balloonDraft(BOOT, BOOT - 256 * MIB)] },
    ]);
    const journal = new MemoryJournal();
    const report = await run(plan, host, { journal });
    expect(report).toMatchObject({ end: 'unsupported', exitCode: 4 });
    expect(report.sentence).toContain('No balloon device has been activated');
    expect(journal.text).toBe('');
  });
});

describe('EC9 what can stop half way', () => {
  const world = (bytes: number) => {
    const host = twinWorld({ blocks: 'absent', virtioMem: [{ ...VM0, bytes }] });
    host.fs.write('/sys/devices/system/memory/auto_online_blocks', 'online_movable');
    return host;
  };
  const plan = (host: TwinHost, from: number, to: number): Plan =>
    planOf(seen(host), [{ name: 'virtio-mem:vm0', bytes: Math.abs(to - from), steps: [virtioMemDraft(from, to)] }]);

  it('EC9 virtio-mem grows and shrinks to its target', async () => {
    const host = world(0);
    expect(await run(plan(host, 0, 514 * MIB), host)).toMatchObject({ end: 'done', reachedBytes: 514 * MIB });
    expect(seen(host).hypervisor?.virtioMem[0]).toMatchObject({ requested: 514 * MIB, size: 514 * MIB });
    expect(await run(plan(host, 514 * MIB, 128 * MIB), host)).toMatchObject({ end: 'done' });
    expect(seen(host).hypervisor?.virtioMem[0]).toMatchObject({ requested: 128 * MIB, size: 128 * MIB });
    expect(host.check()).toEqual([]);
  });

  it('EC9 virtio-mem that stops short keeps what it reached, and is asked for no more; exit 64', async () => {
    const host = world(0);
    await run(plan(host, 0, 256 * MIB), host);
    const [page] = fill(host, VM0.addr / (128 * MIB), 'anonymous', 1);
    host.machine.pin(toPfn(page as number));
    const journal = new MemoryJournal();
    const report = await run(plan(host, 256 * MIB, 0), host, { journal });
    const v = seen(host).hypervisor?.virtioMem[0];
    expect(v?.size).toBeGreaterThan(0);
    expect(v?.size).toBeLessThan(256 * MIB);
    expect(v?.requested).toBe(v?.size);
    expect(report).toMatchObject({ end: 'partial', exitCode: 64, reachedBytes: 256 * MIB - (v?.size ?? 0) });
    expect(report.units[0]).toMatchObject({ outcome: 'short', steps: [{ result: 'short' }] });
    expect(kindsOf(journal)).toEqual(['begin', 'intent 1', 'keep 1', 'outcome 1', 'unit', 'end']);
    host.clock.advance(200_000);
    expect(seen(host).hypervisor?.virtioMem[0]?.size).toBe(v?.size);
    expect(host.check()).toEqual([]);
  });

  it('EC9 virtio-mem that reaches nothing is a deadline, and the request is what it was', async () => {
    const host = world(0);
    await run(plan(host, 0, 8 * MIB), host);
    for (const page of fill(host, VM0.addr / (128 * MIB), 'anonymous', 1800)) host.machine.pin(toPfn(page));
    expect(await run(within(plan(host, 8 * MIB, 0), 500), host)).toMatchObject({ end: 'deadline', left: [] });
    expect(seen(host).hypervisor?.virtioMem[0]).toMatchObject({ requested: 8 * MIB, size: 8 * MIB });
  });

  it('EC9 the balloon takes and gives back; one that finds no more pages keeps what it has', async () => {
    const host = twinWorld({ blocks: 'absent', balloon: true });
    const to = BOOT - 64 * MIB;
    const unit = (from: number, bytes: number) =>
      planOf(seen(host), [{ name: 'balloon', bytes: Math.abs(from - bytes), steps: [balloonDraft(from, bytes)] }]);
    expect((await run(unit(BOOT, to), host)).end).toBe('done');
    expect((await run(unit(to, BOOT), host)).end).toBe('done');
    const report = await run(unit(BOOT, 4096), host);
    const kept = seen(host).hypervisor?.balloonBytes ?? 0;
    expect(report).toMatchObject({ end: 'partial', reachedBytes: BOOT - kept });
    host.clock.advance(60_000);
    expect(seen(host).hypervisor?.balloonBytes).toBe(kept);
    expect(host.check()).toEqual([]);
  });

  it('EC9 Ctrl-C keeps what was reached, too; later steps of a short unit are done as far as they can be', async () => {
    const host = twinWorld({ blocks: 'absent', balloon: true });
    const control = new AbortController();
    host.clock.at(200, () => control.abort());
    const plan = planOf(seen(host), [
      { name: 'balloon', bytes: 256 * MIB, steps: [balloonDraft(BOOT, BOOT - 256 * MIB)] },
    ]);
    const report = await run(plan, host, { signal: control.signal });
    const kept = seen(host).hypervisor?.balloonBytes ?? 0;
    expect(kept).toBeGreaterThan(BOOT - 256 * MIB);
    expect(report).toMatchObject({ end: 'interrupted', exitCode: 130, reachedBytes: BOOT - kept });
    host.clock.advance(10_000);
    expect(seen(host).hypervisor?.balloonBytes).toBe(kept);

    const bad = { ...offlineDraft(35, 'Movable') };
    const word = { do: 'auto-online', word: 'online' } as const;
    const auto = {
      action: word,
      expect: [],
      effect: [{ is: 'auto-online', word: 'online' } as const],
      undo: [],
    };
    const next = planOf(seen(host), [{ name: 'u', bytes: kept, steps: [balloonDraft(kept, 4096), bad, auto] }]);
    const later = await run(next, host);
    expect(later.end).toBe('partial');
    expect(later.units[0]?.steps.map((s) => s.result)).toEqual(['short', 'stale', 'done']);
    expect(stateOf(host)).toContain('auto_online_blocks online');
  });
});

describe('EC10 steps that need no act, or no effect', () => {
  it('EC10 a step whose effect holds already is done without acting, and is not undone', async () => {
    const host = twinWorld({ blocks: ['Normal', 'offline'] });
    fill(host, D1, 'slab', 1);
    const before = stateOf(host);
    const o = seen(host);
    const steps = [offlineDraft(D1 + 1, 'Movable'), offlineDraft(D1, 'Normal'), removeDimmDraft];
    const report = await run(planOf(o, [{ name: 'u', bytes: 1, steps }]), host);
    expect(report.units[0]?.steps.map((s) => s.result)).toEqual(['already', 'refused', undefined]);
    expect(stateOf(host)).toEqual(before);
  });

  it('EC10 a best-effort step that fails fails nothing; one that nothing shows is done when it was taken', async () => {
    const host = twinWorld();
    const drop = {
      action: { do: 'drop-caches', what: 3 },
      expect: [],
      effect: [],
      undo: [],
      bestEffort: true,
    } as const;
    const compact = {
      action: { do: 'compact' },
      expect: [],
      effect: [{ is: 'free-chunks', order: 10, atLeast: 1e9 }],
      undo: [],
      bestEffort: true,
    } as const;
    const bad = { ...offlineDraft(0, 'DMA32'), expect: [], bestEffort: true };
    const report = await run(planOf(seen(host), [{ name: 'u', bytes: 1, steps: [drop, compact, bad] }]), host);
    expect(report.end).toBe('done');
    expect(report.units[0]?.steps.map((s) => s.result)).toEqual(['done', 'refused', 'refused']);
    expect(host.clock.nowMs()).toBeLessThan(5000);
  });

  it('EC19 a compaction that falls short is told at once, with what is missing, and its unit is undone', async () => {
    const host = twinWorld();
    const compact = {
      action: { do: 'compact' },
      expect: [],
      effect: [{ is: 'free-chunks', order: 10, atLeast: 1e9 }],
      undo: [],
      deadlineMs: 60_000,
    } as const;
    const steps = [offlineDraft(35, 'Normal'), compact];
    const before = stateOf(host);
    const report = await run(planOf(seen(host), [{ name: 'u', bytes: 1, steps }]), host);
    expect(report).toMatchObject({ end: 'refused', exitCode: 5, left: [] });
    expect(report.units[0]?.steps[1]?.sentence).toMatch(
      /came short .*1000000000 chunks of order 10 are free \(\d+ are\)/,
    );
    expect(host.clock.nowMs()).toBeLessThan(20_000);
    expect(stateOf(host)).toEqual(before);
  });
});

describe('EC11 answers that get lost', () => {
  for (const when of ['before', 'midway', 'after'] as const) {
    for (const act of [0, 1, 2]) {
      it(`EC11 the connection breaks ${when} act ${act} has happened: it is done all the same, once`, async () => {
        const host = twinWorld();
        fill(host, D1, 'anonymous', 2000);
        const plan = removalPlan(host);
        host.faults = atAct({ [act]: { fault: 'lose', when } });
        expect(await run(plan, host)).toMatchObject({ end: 'done', left: [] });
        expect(stateOf(host).filter((l) => /block 4[01]|dimm/.test(l))).toEqual([]);
        expect(host.check()).toEqual([]);
      });
    }
  }

  it('EC11 it is asked for three times at most, and then the unit is undone', async () => {
    const host = twinWorld();
    const before = stateOf(host);
    let acts = 0;
    host.faults = (call) => {
      if (call.action?.do !== 'offline-block') return undefined;
      acts++;
      return { fault: 'lose', when: 'before' };
    };
    expect(await run(removalPlan(host), host)).toMatchObject({ end: 'failed', left: [] });
    expect(acts).toBe(3);
    expect(stateOf(host)).toEqual(before);
  });

  it('EC11 no answer until the deadline, and it has happened: done', async () => {
    const host = twinWorld();
    const plan = removalPlan(host);
    host.faults = atAct({ 0: { fault: 'silent', when: 'after' } });
    expect((await run(plan, host)).end).toBe('done');
  });

  it('EC11 no answer until the deadline, and nothing has happened: the deadline, undone', async () => {
    const host = twinWorld();
    const before = stateOf(host);
    const plan = removalPlan(host);
    host.faults = atAct({ 1: { fault: 'silent', when: 'before' } });
    expect(await run(plan, host)).toMatchObject({ end: 'deadline', left: [] });
    expect(stateOf(host)).toEqual(before);
  });

  it('EC11 the removal that nothing undoes was lost and comes late: the unit is done, not undone', async () => {
    const host = twinWorld();
    const plan = removalPlan(host);
    // The eject waits for another writer, longer than its deadline.
    host.faults = (call) => {
      if (call.action?.do === 'remove-dimm') {
        const ticket = host.machine.hotplug.lock.request();
        host.clock.at(host.clock.nowMs() + 10_500, () => host.machine.hotplug.lock.release(ticket));
      }
      return undefined;
    };
    const report = await run(plan, host);
    expect(report).toMatchObject({ end: 'done', left: [] });
    expect(report.units[0]?.steps[2]).toMatchObject({ result: 'done', sentence: 'seen, late' });
    expect(stateOf(host).filter((l) => /block 4[01]|dimm/.test(l))).toEqual([]);
    expect(host.check()).toEqual([]);
  });
});

describe('EC12 the journal cannot be written', () => {
  it('EC12 whichever line finds the disk full: nothing is acted on after it but the way back', async () => {
    for (let fullAt = 0; fullAt < 9; fullAt++) {
      const host = twinWorld();
      const before = stateOf(host);
      const plan = removalPlan(host);
      const journal = new MemoryJournal({ fullAt });
      const acts: string[] = [];
      host.faults = (call) => {
        if (call.action !== undefined && journal.lines > fullAt) acts.push(call.action.do);
        return undefined;
      };
      const report = await run(plan, host, { journal });
      expect(journal.lines, `full at ${fullAt}`).toBe(fullAt + 1);
      if (fullAt < 6) {
        expect(report, `full at ${fullAt}`).toMatchObject({ end: 'failed', exitCode: 1, left: [] });
        expect(stateOf(host), `full at ${fullAt}`).toEqual(before);
        expect(acts.filter((a) => a !== 'online-block')).toEqual([]);
      } else {
        // The DIMM was gone when its outcome could not be written.
        expect(stateOf(host).some((l) => l.startsWith('dimm'))).toBe(false);
        expect(report, `full at ${fullAt}`).toMatchObject({ left: [] });
        expect(report.sentence).toContain('no space left');
      }
    }
  });
});

describe('EC13 dry run', () => {
  it('EC13 looks and compares, acts on nothing and writes nothing', async () => {
    const host = twinWorld({ blocks: ['Movable', 'offline'] });
    const digest = host.machine.digest();
    const steps = [offlineDraft(D1 + 1, 'Movable'), offlineDraft(D1, 'Movable'), removeDimmDraft];
    const journal = new MemoryJournal();
    const report = await run(planOf(seen(host), [{ name: 'u', bytes: 1, steps }]), host, { journal, dryRun: true });
    expect(report).toMatchObject({ end: 'done', dryRun: true });
    expect(report.units[0]?.steps.map((s) => s.result)).toEqual(['already', 'would', 'would']);
    expect(host.machine.digest()).toBe(digest);
    expect(journal.text).toBe('');
    const other = await run(removalPlan(twinWorld()), host, { dryRun: true });
    expect(other.end).toBe('stale');
  });
});

describe('EC14 one execution at a time', () => {
  it('EC14 a lock that another has: nothing is done; else it is held to the end and given back', async () => {
    const held: string[] = [];
    const lock = (isFree: boolean): Lock => ({
      acquire: async () => {
        held.push('acquire');
        if (!isFree) return { ok: false, error: { kind: 'refused', sentence: 'process 12 has it' } };
        return {
          ok: true,
          value: async () => {
            held.push('release');
          },
        };
      },
    });
    const host = twinWorld();
    const taken = await run(removalPlan(host), host, { lock: lock(false) });
    expect(taken).toMatchObject({ end: 'failed', sentence: 'nothing was done: process 12 has it' });
    expect((await run(removalPlan(host), host, { lock: lock(true) })).end).toBe('done');
    expect(held).toEqual(['acquire', 'acquire', 'release']);
  });
});

describe('EC15 resume', () => {
  it('EC15 an execution that has ended is not touched, and says how it ended', async () => {
    const host = twinWorld();
    const journal = new MemoryJournal();
    await run(removalPlan(host), host, { journal });
    const digest = host.machine.digest();
    const { text } = journal;
    const again = await resume(text, host, { journal, clock: host.clock, signal });
    expect(again).toMatchObject({ ok: true, value: { end: 'done', exitCode: 0 } });
    expect(again.ok && again.value.sentence).toContain('has ended (done)');
    expect(host.machine.digest()).toBe(digest);
    expect(journal.text).toBe(text);
  });

  it('EC15 a journal of another host is refused, and one that is damaged or empty', async () => {
    const host = twinWorld();
    const journal = new MemoryJournal({ cut: { line: 3, keep: 'whole' } });
    void run(removalPlan(host), host, { journal });
    await journal.death;
    const options = { journal: new MemoryJournal(), clock: host.clock, signal };
    const other = twinWorld({ name: 'other' });
    expect(await resume(journal.text, other, options)).toMatchObject({ error: { reason: 'other-host' } });
    const damaged = journal.text.replace('offline-block', 'online-block');
    expect(await resume(damaged, host, options)).toMatchObject({ error: { reason: 'damaged', line: 1 } });
    expect(await resume('', host, options)).toMatchObject({ error: { reason: 'empty' } });
    expect(options.journal.text).toBe('');
  });
});
