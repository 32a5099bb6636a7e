// A DIMM with kernel pages in it: the twin says so beforehand and names them. Forced, it is refused by the kernel at the first
// block that holds one, and every block is back in its own zone: the kernel's own eject would have put all into one (lab fact 4).

import { writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { describeQemu, MIB } from './guest.ts';
import { apply, endOf, type Made, picture, plan } from './scenario.ts';

/** The plan with its offline steps the other way round, in a file of its own. */
function worstLast(made: Made): Made {
  const units = made.plan.units.map((u) => {
    const last = u.steps.at(-1);
    const blocks = u.steps.slice(0, -1).toReversed();
    const numbers = u.steps.map((s) => s.n);
    return {
      ...u,
      steps: [...blocks, ...(last === undefined ? [] : [last])].map((s, k) => ({ ...s, n: numbers[k] as number })),
    };
  });
  const edited = { ...made.plan, units };
  const file = `${made.file}.worst-last`;
  writeFileSync(file, JSON.stringify(edited));
  return { ...made, file, plan: edited };
}

describeQemu({ name: 'kernel-pages' }, (booted) => {
  it('is refused beforehand, by block and holder; forced, each block ends in its old zone', async () => {
    const guest = booted();
    const fresh = await guest.addDimm({ id: 'mixed', bytes: 512 * MIB, node: 1 });
    const words = ['online_kernel', 'online_kernel', 'online_movable', 'online_movable'] as const;
    for (const [k, b] of fresh.entries()) expect(await guest.setBlock(b.id, words[k] as 'online')).toBe(0);
    await guest.text('load dentries /tmp 8000 1');
    await guest.hold('sleepers 30 1');
    await guest.hold('anon 64 1 nothp');
    const before = picture(await guest.blocksOf(fresh));
    const zones = before.map((p) => p.split(' ')[2]);
    expect(zones).toEqual(['Normal', 'Normal', 'Movable', 'Movable']);

    const refused = await plan(guest, ['remove', 'dimm:mixed'], { code: 3 });
    expect(refused.plan.feasible).toBe(false);
    const kernelBlocks = fresh.slice(0, 2).map((b) => `block:${b.id}`);
    expect(refused.plan.rejected.length).toBeGreaterThan(0);
    for (const r of refused.plan.rejected) {
      expect(kernelBlocks).toContain(r.name);
      expect(r.reason).toMatch(/slab|page tables?|kernel/);
    }
    expect(refused.run.out).toContain(refused.plan.rejected[0]?.reason.slice(0, 30));

    // Worst first, as it is planned; and the other way round, so that much has to be put back, into two zones.
    const forced = await plan(guest, ['remove', 'dimm:mixed', '--force']);
    for (const made of [forced, worstLast(forced)]) {
      const mark = guest.monitor.events.length;
      const applied = await apply(guest, made.file, { code: 5 });
      expect(endOf(applied)).toBe('refused');
      const outcomes = applied.journal.flatMap((l) => (l.kind === 'outcome' ? [l.errno ?? l.result] : []));
      expect(outcomes.at(-1)).toBe('EBUSY');
      console.log(`kernel-pages: ${outcomes.join(', ')}, then all as before in ${applied.run.ms.toFixed(0)} ms`);
      if (made !== forced) expect(outcomes.filter((o) => o === 'done').length).toBeGreaterThanOrEqual(2);
      expect(picture(await guest.blocksOf(fresh))).toEqual(before);
      expect(await guest.dimms()).toEqual(['mixed']);
      expect(guest.monitor.events.slice(mark).map((e) => e.event)).not.toContain('DEVICE_DELETED');
    }
  });
});
