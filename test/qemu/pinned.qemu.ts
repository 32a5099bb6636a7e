// A page that cannot move and looks like its neighbours: a pipe holds it (vmsplice). Linux tries for ever (lab fact 5), no
// page flag tells, the plan is feasible; the deadline ends it, in the guest, and everything is as it was.

import { expect, it } from 'vitest';
import { type Block, describeQemu, type Guest, MIB } from './guest.ts';
import { apply, endOf, expectNoWriters, picture, plan, resume, withDeadline } from './scenario.ts';

const DEADLINE_MS = 8_000;

async function pinnedDimm(
  guest: Guest,
  id: string,
): Promise<{ fresh: readonly Block[]; pid: number; before: string[] }> {
  const fresh = await guest.addOnlineDimm({ id, bytes: 256 * MIB, node: 1, word: 'online_movable' });
  // The other block is full of what it takes to get there, so that it is planned, done and put back first.
  const pin = await guest.hold(`pin ${fresh[1]?.id} 1`);
  return { fresh, pid: pin.pid as number, before: picture(fresh) };
}

/** Nothing of an endless offline may be left behind: no block between states, no writer. */
async function expectAsBefore(guest: Guest, fresh: readonly Block[], before: readonly string[]): Promise<void> {
  expect(picture(await guest.blocksOf(fresh))).toEqual(before);
  await expectNoWriters(guest);
}

describeQemu({ name: 'pinned' }, (booted) => {
  it('ends at the deadline, the block back online in its zone', async () => {
    const guest = booted();
    const { fresh, pid, before } = await pinnedDimm(guest, 'p0');
    const made = withDeadline(await plan(guest, ['remove', 'dimm:p0']), DEADLINE_MS);
    const applied = await apply(guest, made.file, { code: 124 });
    expect(endOf(applied)).toBe('deadline');
    await expectAsBefore(guest, fresh, before);
    const kinds = applied.journal.map((l) => l.kind);
    console.log(`pinned: a deadline of ${DEADLINE_MS} ms ended after ${applied.run.ms.toFixed(0)} ms in all`);

    // The same plan, and dimmer dies: while Linux tries, and on the way back.
    for (const kind of ['intent', 'undo'] as const) {
      const line = kinds.lastIndexOf(kind) + 1;
      expect(line, kind).toBeGreaterThan(0);
      const killed = await apply(guest, made.file, { code: undefined, at: { line, signal: 'SIGKILL' } });
      expect(killed.run.code, 'it was killed').toBeUndefined();
      const then = picture(await guest.blocksOf(fresh)).join(', ');
      const resumed = await resume(killed.file, { code: 124 });
      console.log(`pinned: killed after line ${line} (${kind}: ${then}), then ${endOf(resumed)}`);
      await expectAsBefore(guest, fresh, before);
    }

    await guest.release(pid);
    const again = await apply(guest, made.file);
    expect(endOf(again), 'without the pin the same plan works').toBe('done');
    expect(await guest.dimms()).toEqual([]);
  });

  it('Ctrl-C in the middle of it ends it as well: interrupted, and as it was', async () => {
    const guest = booted();
    const { fresh, pid, before } = await pinnedDimm(guest, 'p1');
    const made = await plan(guest, ['remove', 'dimm:p1']);
    // The pinned block comes first or second; its step is the last intent without an outcome. Line 2 is the first intent.
    const first = made.plan.units[0]?.steps[0]?.action;
    const line = first?.do === 'offline-block' && first.block === fresh[1]?.id ? 2 : 4;
    const applied = await apply(guest, made.file, { code: 130, at: { line, signal: 'SIGINT' } });
    expect(endOf(applied)).toBe('interrupted');
    await expectAsBefore(guest, fresh, before);
    await guest.release(pid);
  });
});
