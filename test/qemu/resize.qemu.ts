// The guest's size, up and down to a target: virtio-mem grows and shrinks, the balloon goes below the boot memory and back.
// The target is what the hypervisor gives in all; the guest's MemTotal must follow, or nothing has happened.

import { expect, it } from 'vitest';
import { BALLOON, describeQemu, GIB, type Guest, MIB, virtioMem } from './guest.ts';
import { sleep } from './qmp.ts';
import { apply, endOf, plan, withDeadline } from './scenario.ts';

const MAX_MB = 2048;

type Size = { readonly plugged: number; readonly balloon: number };

async function sizeOf(guest: Guest): Promise<Size> {
  const devices = (await guest.monitor.request('query-memory-devices')) as { data: { size: number } }[];
  const balloon = (await guest.monitor.request('query-balloon')) as { actual: number };
  return { plugged: devices.reduce((n, d) => n + d.data.size, 0), balloon: balloon.actual };
}

/** Plans and applies a resize. @returns how far MemTotal moved, bytes */
async function resizeTo(guest: Guest, target: string): Promise<number> {
  const before = await guest.meminfo('MemTotal');
  const made = await plan(guest, ['resize', `size:${target}`]);
  const applied = await apply(guest, made.file);
  expect(endOf(applied), applied.run.out).toBe('done');
  console.log(`resize: to ${target} in ${applied.run.ms.toFixed(0)} ms`);
  return (await guest.meminfo('MemTotal')) - before;
}

describeQemu(
  { name: 'resize', devices: [...virtioMem({ id: 'vm0', node: 1, maxMb: MAX_MB }), ...BALLOON] },
  (booted) => {
    it('virtio-mem up, used, and down to the target', async () => {
      const guest = booted();
      expect(await resizeTo(guest, '3G')).toBe(GIB);
      expect(await sizeOf(guest)).toEqual({ plugged: GIB, balloon: 2 * GIB });
      const load = await guest.hold('anon 400 1 nothp');
      expect(await resizeTo(guest, '2560M')).toBe(-512 * MIB);
      expect(await sizeOf(guest)).toEqual({ plugged: 512 * MIB, balloon: 2 * GIB });
      expect((await guest.sh(`kill -0 ${load.pid}`)).code).toBe(0);
      await guest.release(load.pid as number);
    });

    it('below the boot memory by the balloon, and back', async () => {
      const guest = booted();
      const fell = await resizeTo(guest, '1536M');
      expect(await sizeOf(guest)).toEqual({ plugged: 0, balloon: 1536 * MIB });
      expect(fell).toBe(-1024 * MIB);
      expect(await resizeTo(guest, '2G')).toBe(512 * MIB);
      expect(await sizeOf(guest)).toEqual({ plugged: 0, balloon: 2 * GIB });
    });

    it('a device that stops short keeps what it reached: partial, and it does not go on by itself', async () => {
      const guest = booted();
      await resizeTo(guest, '2304M');
      // A page of the device's memory that cannot move: nothing tells the plan.
      const [block] = (await guest.blocks()).filter((b) => b.zones === 'Movable' && b.state === 'online');
      const pin = await guest.hold(`pin ${block?.id} 1`);
      const made = withDeadline(await plan(guest, ['resize', 'size:2G']), 15_000);
      const applied = await apply(guest, made.file, { code: 64 });
      expect(endOf(applied)).toBe('partial');
      const reached = await sizeOf(guest);
      expect(reached.plugged).toBeGreaterThan(0);
      expect(reached.plugged).toBeLessThan(256 * MIB);
      const asked = (await guest.monitor.request('query-memory-devices')) as { data: { 'requested-size': number } }[];
      expect(asked[0]?.data['requested-size']).toBe(reached.plugged);
      await guest.release(pin.pid as number);
      await sleep(1500);
      expect(await sizeOf(guest)).toEqual(reached);
    });
  },
);
