// kill -9 between any two lines of the journal, then --resume: the DIMM is gone, or all is as it was and the exit code says so.
//
//   for each line n of the journal of a removal: a DIMM of two blocks, plan, apply ── SIGKILL when line n is there ──> resume

import { expect, it } from 'vitest';
import { describeQemu, MIB } from './guest.ts';
import { apply, endOf, expectNoWriters, picture, plan, resume } from './scenario.ts';

describeQemu({ name: 'crash' }, (booted) => {
  it('kill -9 after each journal line, then --resume: nothing lost, every outcome true', async () => {
    const guest = booted();
    const totalBefore = await guest.meminfo('MemTotal');
    const anon = await guest.hold('anon 64 1 nothp');
    const add = (id: string) => guest.addOnlineDimm({ id, bytes: 256 * MIB, node: 1, word: 'online_movable' });

    await add('whole');
    const whole = await apply(guest, (await plan(guest, ['remove', 'dimm:whole'])).file);
    const lines = whole.journal.length;
    expect(lines).toBeGreaterThanOrEqual(8); // begin, three steps of two lines, end

    const told: string[] = [];
    for (let line = 1; line < lines; line++) {
      const id = `crash${line}`;
      const fresh = await add(id);
      const made = await plan(guest, ['remove', `dimm:${id}`]);
      const killed = await apply(guest, made.file, { code: undefined, at: { line, signal: 'SIGKILL' } });
      expect([killed.run.code, line], 'it was killed').toEqual([undefined, line]);
      const then = picture(await guest.blocksOf(fresh));
      const resumed = await resume(killed.file);
      told.push(`${line} (at ${killed.run.lines}: ${then.join(', ') || 'gone'}) -> ${endOf(resumed)}`);
      expect(endOf(resumed), told.join('\n')).toBe('done');
      expect(await guest.dimms(), told.join('\n')).toEqual([]);
      expect(await guest.meminfo('MemTotal'), told.join('\n')).toBe(totalBefore);
      await expectNoWriters(guest);
    }
    console.log(`crash: killed after line\n  ${told.join('\n  ')}`);
    const backends = (await guest.monitor.request('query-memdev')) as { id: string }[];
    expect(backends.map((b) => b.id).sort(), 'no backend is left behind').toEqual(['ram0', 'ram1']);
    expect((await guest.sh(`kill -0 ${anon.pid}`)).code).toBe(0);
  });
});
