// A DIMM's life: planned, added, put online movable, loaded, planned to go, gone. Every claim is checked in the guest.

import { expect, it } from 'vitest';
import { describeQemu, GIB } from './guest.ts';
import { apply, endOf, plan } from './scenario.ts';

describeQemu({ name: 'dimm-life' }, (booted) => {
  it('1 GiB on node 1 comes, is used, and leaves; the guest loses nothing', async () => {
    const guest = booted();
    const totalBefore = await guest.meminfo('MemTotal');
    const idsBefore = new Set((await guest.blocks()).map((b) => b.id));

    const adding = await plan(guest, ['add', 'size:1G', 'node:1']);
    const added = await apply(guest, adding.file);
    expect(endOf(added)).toBe('done');
    const fresh = (await guest.blocks()).filter((b) => !idsBefore.has(b.id));
    expect(fresh.map((b) => [b.state, b.zones, b.node])).toEqual(Array(8).fill(['online', 'Movable', 1]));
    expect(await guest.meminfo('MemTotal')).toBe(totalBefore + GIB);
    const [dimm] = await guest.dimms();

    const anon = await guest.hold('anon 300 1 nothp');
    await guest.text('load fill /tmp/contents 100 1');
    const sum = await guest.text('md5sum < /tmp/contents');
    const used = Number(/used=(\d+)/.exec(await guest.text(`load used ${fresh[0]?.id} ${fresh.at(-1)?.id}`))?.[1]);
    expect(used).toBeGreaterThan((300 * 2 ** 20) / 4096); // else the load lies elsewhere, and nothing is proved

    const going = await plan(guest, ['remove', `dimm:${dimm}`]);
    expect(going.plan.feasible).toBe(true);
    expect(going.plan.units.map((u) => u.steps.length)).toEqual([9]);
    const mark = guest.monitor.events.length;
    const gone = await apply(guest, going.file);
    expect(endOf(gone)).toBe('done');
    expect(await guest.monitor.waitEvent('DEVICE_DELETED', mark, 1000)).toMatchObject({ data: { device: dimm } });
    expect(await guest.dimms()).toEqual([]);
    expect((await guest.blocks()).every((b) => idsBefore.has(b.id))).toBe(true);
    expect(await guest.meminfo('MemTotal')).toBe(totalBefore);
    const backends = (await guest.monitor.request('query-memdev')) as { id: string }[];
    expect(backends.map((b) => b.id).sort()).toEqual(['ram0', 'ram1']);

    expect((await guest.sh(`kill -0 ${anon.pid}`)).code).toBe(0);
    expect(await guest.text('md5sum < /tmp/contents')).toBe(sum);
    console.log(
      `dimm-life: ${used} pages were in the DIMM; plan ${seconds(going.run.ms)}, removal ${seconds(gone.run.ms)}`,
    );
  });
});

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
