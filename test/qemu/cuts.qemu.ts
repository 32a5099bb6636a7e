// What breaks between dimmer and the guest: the monitor's connection in the middle of a step, the agent, for a while or for good.
//
//   device_del done, its reply lost           it is found to be gone by looking
//   device_del lost on its way                asked again, or everything is as it was
//   QMP gone for two seconds                  reconnected
//   agent killed and started again            the offline under way goes on in the guest; its answer is lost
//   agent stopped past the deadline           nobody answers: the deadline; back again, the way back is done
//
// In each case the exit code and the guest must agree.

import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readJournal, sourceOf } from './dimmer.ts';
import { type Block, describeQemu, type Guest, MIB } from './guest.ts';
import { SocketProxy } from './proxy.ts';
import { sleep } from './qmp.ts';
import { apply, endOf, expectNoWriters, picture, plan, withDeadline } from './scenario.ts';

const add = (guest: Guest, id: string): Promise<readonly Block[]> =>
  guest.addOnlineDimm({ id, bytes: 256 * MIB, node: 1, word: 'online_movable' });

/** Does something once, when the journal has that many lines; resolves when it has been done. */
async function whenLines(journal: string, lines: number, act: () => Promise<void> | void): Promise<void> {
  for (let k = 0; k < 60_000 && readJournal(journal).length < lines; k++) await sleep(1);
  await act();
}

async function expectGone(guest: Guest, id: string, fresh: readonly Block[]): Promise<void> {
  expect(await guest.dimms()).not.toContain(id);
  expect(await guest.blocksOf(fresh)).toEqual([]);
  const backends = (await guest.monitor.request('query-memdev')) as { id: string }[];
  expect(backends.map((b) => b.id)).not.toContain(`mem-${id}`);
}

describeQemu({ name: 'cuts' }, (booted) => {
  it('the reply to device_del is lost: the removal is found to be done', async () => {
    const guest = booted();
    const fresh = await add(guest, 'c0');
    const proxy = await SocketProxy.listen(join(guest.dir, 'reply-qmp.sock'), guest.qmpSocket);
    const source = sourceOf(guest, { qmp: proxy.path });
    const made = await plan(guest, ['remove', 'dimm:c0'], { source });
    proxy.cutAt(/"device_del"/, 'reply');
    const applied = await apply(guest, made.file, { source });
    expect(proxy.cuts, 'it was cut').toBe(1);
    expect(endOf(applied)).toBe('done');
    await expectGone(guest, 'c0', fresh);
    await proxy.down();
  });

  it('device_del is lost on its way: asked again, done all the same', async () => {
    const guest = booted();
    const fresh = await add(guest, 'c4');
    const proxy = await SocketProxy.listen(join(guest.dir, 'request-qmp.sock'), guest.qmpSocket);
    const source = sourceOf(guest, { qmp: proxy.path });
    const made = withDeadline(await plan(guest, ['remove', 'dimm:c4'], { source }), 10_000);
    proxy.cutAt(/"device_del"/, 'request');
    const applied = await apply(guest, made.file, { source });
    expect(proxy.cuts, 'it was cut').toBe(1);
    console.log(`cuts: device_del lost: exit ${applied.run.code} after ${(applied.run.ms / 1000).toFixed(1)} s`);
    expect(endOf(applied)).toBe('done');
    await expectGone(guest, 'c4', fresh);
    await proxy.down();
  });

  it('the monitor is gone for two seconds in the middle of a step: reconnected', async () => {
    const guest = booted();
    const fresh = await add(guest, 'c1');
    const load = await guest.hold('anon 128 1 nothp');
    const proxy = await SocketProxy.listen(join(guest.dir, 'down-qmp.sock'), guest.qmpSocket);
    const source = sourceOf(guest, { qmp: proxy.path });
    const made = await plan(guest, ['remove', 'dimm:c1'], { source });
    const journal = join(guest.dir, 'down-journal');
    const cutting = whenLines(journal, 2, async () => {
      await proxy.down();
      await sleep(2000);
      await proxy.up();
    });
    const applied = await apply(guest, made.file, { source, journal });
    await cutting;
    expect(proxy.cuts, 'it was cut').toBeGreaterThan(0);
    expect(endOf(applied)).toBe('done');
    await expectGone(guest, 'c1', fresh);
    await guest.release(load.pid as number);
    await proxy.down();
  });

  it('the agent is killed and started again while a block goes offline', async () => {
    const guest = booted();
    const fresh = await add(guest, 'c2');
    const load = await guest.hold('anon 128 1 nothp');
    const made = await plan(guest, ['remove', 'dimm:c2']);
    const journal = join(guest.dir, 'agent-journal');
    const restarting = whenLines(journal, 2, async () => {
      await guest.agent('kill');
      await sleep(500);
      await guest.agent('start');
    });
    const applied = await apply(guest, made.file, { journal });
    await restarting;
    expect(endOf(applied)).toBe('done');
    await expectGone(guest, 'c2', fresh);
    await guest.release(load.pid as number);
  });

  it('the agent is stopped past the deadline: exit 124, and when it is back everything is put back', async () => {
    const guest = booted();
    const fresh = await add(guest, 'c3');
    const before = picture(fresh);
    const made = withDeadline(await plan(guest, ['remove', 'dimm:c3']), 5_000);
    const journal = join(guest.dir, 'stopped-journal');
    const stopping = whenLines(journal, 2, () => guest.agent('stop'));
    const starting = whenLines(journal, 3, () => guest.agent('continue'));
    const applied = await apply(guest, made.file, { journal, code: 124 });
    await Promise.all([stopping, starting]);
    console.log(`cuts: agent stopped: exit 124 after ${(applied.run.ms / 1000).toFixed(1)} s`);
    expect(endOf(applied)).toBe('deadline');
    expect(picture(await guest.blocksOf(fresh))).toEqual(before);
    await expectNoWriters(guest);
  });
});
