// A plan is for the state it was made on: when somebody has changed a block since, it is refused with the difference, and
// nothing is done.

import { expect, it } from 'vitest';
import { describeQemu, MIB } from './guest.ts';
import { apply, picture, plan } from './scenario.ts';

describeQemu({ name: 'stale' }, (booted) => {
  it('a block that was changed by hand makes the plan stale: exit 3, with the difference', async () => {
    const guest = booted();
    const fresh = await guest.addOnlineDimm({ id: 's0', bytes: 256 * MIB, node: 1, word: 'online_movable' });
    const made = await plan(guest, ['remove', 'dimm:s0']);
    const [changed] = fresh;
    expect(await guest.setBlock(changed?.id as number, 'offline')).toBe(0);
    const before = picture(await guest.blocks());

    const applied = await apply(guest, made.file, { code: 3 });
    expect(`${applied.run.out}${applied.run.err}`).toMatch(new RegExp(`block ?${changed?.id}\\b.*offline`, 's'));
    expect(applied.journal.filter((l) => l.kind === 'intent')).toEqual([]);
    expect(picture(await guest.blocks())).toEqual(before);
    expect(await guest.dimms()).toEqual(['s0']);

    // As it was again: the same plan is good again.
    expect(await guest.setBlock(changed?.id as number, 'online_movable')).toBe(0);
    await apply(guest, made.file);
    expect(await guest.dimms()).toEqual([]);
  });
});
