// A DIMM with kernel pages in it: the twin says so beforehand and names them. Forced, it is refused by the kernel at the first
// block that holds one, and every block is back in its own zone: the kernel's own eject would have put all into one (lab fact 4).

import { expect, it } from 'vitest';
import { describeQemu, MIB } from './guest.ts';
import { apply, endOf, picture, plan } from './scenario.ts';

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

    const forced = await plan(guest, ['remove', 'dimm:mixed', '--force'], { code: 0 });
    const mark = guest.monitor.events.length;
    const applied = await apply(guest, forced.file, { code: 5 });
    expect(endOf(applied)).toBe('refused');
    const refusals = applied.journal.filter((l) => l.kind === 'outcome' && l.result === 'refused');
    expect(refusals.map((l) => (l.kind === 'outcome' ? l.errno : ''))).toEqual(['EBUSY']);
    expect(picture(await guest.blocksOf(fresh))).toEqual(before);
    expect(await guest.dimms()).toEqual(['mixed']);
    expect(guest.monitor.events.slice(mark).map((e) => e.event)).not.toContain('DEVICE_DELETED');
  });
});
