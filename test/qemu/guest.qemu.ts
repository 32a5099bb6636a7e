// The guest itself: what every scenario stands on. Pins that do not pin and loads that lie elsewhere would prove nothing.

import { expect, it } from 'vitest';
import { describeQemu, MIB } from './guest.ts';

describeQemu({ name: 'guest' }, (booted) => {
  it('runs commands, with their code and output', async () => {
    const guest = booted();
    expect(await guest.sh('echo one; echo two >&2; false')).toMatchObject({ code: 1, out: 'one\ntwo' });
    expect(await guest.sh('printf no-end-of-line')).toMatchObject({ code: 0, out: 'no-end-of-line' });
    const trips = await Promise.all(Array.from({ length: 10 }, (_, k) => guest.sh(`echo ${k}`)));
    expect(trips.map((t) => t.out)).toEqual(Array.from({ length: 10 }, (_, k) => String(k)));
    console.log(`guest: ten commands one after another in ${(trips[9] as { ms: number }).ms.toFixed(0)} ms`);
  });

  it('has two nodes, sixteen blocks, and an agent that can be killed, stopped and started', async () => {
    const guest = booted();
    const blocks = await guest.blocks();
    expect(blocks.map((b) => b.node)).toEqual([...Array(8).fill(0), ...Array(8).fill(1)]);
    expect(blocks.every((b) => b.state === 'online')).toBe(true);
    expect(await guest.askAgent('guest-ping')).toEqual({});
    await guest.agent('kill');
    await guest.agent('start');
    expect(await guest.askAgent('guest-ping')).toEqual({});
    await guest.agent('stop');
    await expect(guest.askAgent('guest-ping', undefined, 1500)).rejects.toThrow('does not answer');
    await guest.agent('continue');
    expect(await guest.askAgent('guest-ping')).toEqual({});
  });

  it('a DIMM that is added has its blocks, offline, on its node; loads lie in them; a pin makes offline loop', async () => {
    const guest = booted();
    const fresh = await guest.addOnlineDimm({ id: 'd0', bytes: 256 * MIB, node: 1, word: 'online_movable' });
    expect(fresh.map((b) => [b.state, b.zones, b.node])).toEqual([
      ['online', 'Movable', 1],
      ['online', 'Movable', 1],
    ]);
    const [first, second] = fresh.map((b) => b.id) as [number, number];
    const anon = await guest.hold('anon 64 1 nothp');
    const pin = await guest.hold(`pin ${first} 1`);
    expect(Math.floor((pin.pfn as number) / 32768)).toBe(first);
    expect(await guest.setBlock(second, 'offline')).toBe(0);
    const start = performance.now();
    expect(await guest.write(`/sys/devices/system/memory/memory${first}/state`, 'offline', 3)).toBe(4);
    expect(performance.now() - start).toBeGreaterThan(2500);
    expect((await guest.blocksOf(fresh)).map((b) => b.state)).toEqual(['online', 'offline']);
    await guest.release(pin.pid as number);
    expect(await guest.setBlock(first, 'offline')).toBe(0);
    await guest.release(anon.pid as number);
    const mark = guest.monitor.events.length;
    await guest.monitor.request('device_del', { id: 'd0' });
    expect(await guest.monitor.waitEvent('DEVICE_DELETED', mark, 10_000)).toBeDefined();
    expect(await guest.dimms()).toEqual([]);
  });
});
