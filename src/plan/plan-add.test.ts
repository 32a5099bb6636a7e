// Adding planned, on captures of real guests with made-up hypervisors. Rules: docs/spec/planner.md.

import { describe, expect, it } from 'vitest';
import { pfnOf, WORD } from '../../test/support/synthetic-capture.ts';
import { deviceBase, firstFit } from './device-addresses.ts';
import { memmapBudget } from './memmap-budget.ts';
import type { Goal } from './plan.ts';
import { plan } from './planner.ts';
import { movableRatio, movableRoom } from './ratio.ts';
import { actionsOf, drawnWorld, executed, GIB, golden, type MadeUp, MIB } from './worlds.cases.ts';

const add = (bytes: number, node = 1): Extract<Goal, { verb: 'add' }> => ({ verb: 'add', bytes, node });
const MIXED = 'twin/guest-6.1-mixed.dimmer';
const ROOM: MadeUp = { max: 64 * GIB, slots: 4, dimms: [{ id: 'dimm0', addr: 4 * GIB, size: GIB, node: 1 }] };
const ONLINE: MadeUp = { ...ROOM, files: { '/sys/devices/system/memory/auto_online_blocks': 'online\n' } };

/** Eight blocks of a GiB on node 0, `used` of it anonymous, node 1 without memory yet. */
const small = (used: number, h: MadeUp): ReturnType<typeof drawnWorld> =>
  drawnWorld(
    {
      blocks: Array.from({ length: 8 }, (_, k) => ({ id: 8 + k, zone: 'DMA32' as const })),
      frames: [[pfnOf(8), used, WORD.anon]],
    },
    { base: GIB, max: 1024 * GIB, slots: 8, ...h },
  );

describe('adding a DIMM', () => {
  it('PN5 adds it, then brings each block online in Movable, at the address that the plan chose', () => {
    const input = golden(MIXED, ROOM);
    const p = plan(add(GIB), input);
    expect(p).toMatchObject({ feasible: true, rejected: [] });
    const [first, ...rest] = p.units[0]?.steps ?? [];
    expect(first?.action).toEqual({
      do: 'add-dimm',
      id: 'dimm1',
      memdev: 'mem-dimm1',
      bytes: GIB,
      node: 1,
      addr: 5 * GIB,
    });
    expect(first?.effect).toContainEqual({ is: 'blocks', first: 40, last: 47, present: true });
    expect(rest.map((s) => s.action)).toEqual(
      Array.from({ length: 8 }, (_, k) => ({ do: 'online-block', block: 40 + k, zone: 'movable' })),
    );
    expect(rest.every((s) => s.effect[0]?.is === 'block' && s.effect[0].zone === 'Movable')).toBe(true);
    const { m, wrong } = executed(input, p);
    expect(wrong).toEqual([]);
    expect(m.check()).toEqual([]);
  });

  it('PN6 in a kernel zone is said to be a one-way door, and the zone is the one it comes to', () => {
    const input = golden(MIXED, ROOM);
    const p = plan(add(GIB), input, { zone: 'kernel' });
    expect(p.warnings.join('\n')).toMatch(/one-way door/);
    expect(p.units[0]?.steps.at(-1)?.effect).toEqual([{ is: 'block', block: 47, state: 'online', zone: 'Normal' }]);
    expect(executed(input, p).wrong).toEqual([]);
  });

  it('PN6 where the guest would bring it up elsewhere, that is switched off first and put back at the end', () => {
    const input = golden(MIXED, ONLINE);
    const p = plan(add(GIB), input);
    const actions = actionsOf(p);
    expect(actions[0]).toBe('auto-online offline');
    expect(actions.at(-1)).toBe('auto-online online');
    expect(p.units).toHaveLength(1);
    expect(p.units[0]?.steps[0]?.undo).toEqual([{ do: 'auto-online', word: 'online' }]);
    expect(executed(input, p).wrong).toEqual([]);
    const same = golden(MIXED, {
      ...ROOM,
      files: { '/sys/devices/system/memory/auto_online_blocks': 'online_movable\n' },
    });
    expect(actionsOf(plan(add(GIB), same))[0]).toBe('add-dimm dimm1'); // it does by itself what the plan would
    expect(executed(same, plan(add(GIB), same)).wrong.filter((w) => !w.includes('not offline'))).toEqual([]);
    const can = new Set(['add-dimm', 'online-block', 'offline-block', 'remove-dimm'] as const);
    const stuck = { ...input, host: { ...input.host, can } };
    expect(plan(add(GIB), stuck)).toMatchObject({ feasible: false, units: [] });
    expect(plan(add(GIB), stuck).summary).toMatch(/auto_online_blocks is online.* cannot change that/);
    expect(plan(add(GIB), stuck, { force: true })).toMatchObject({ feasible: true });
  });

  it('PN7 the struct pages are counted and executed: 1/64 of the DIMM, out of free kernel-zone memory', () => {
    const { twin } = golden(MIXED, ROOM);
    const { needed, room } = memmapBudget(twin.machine, 5 * GIB, 10 * GIB);
    expect(needed.value / MIB).toBeGreaterThanOrEqual(160);
    expect(needed.value / MIB).toBeLessThan(161);
    expect(room).toEqual({ value: expect.any(Number), provenance: 'measured' });
    const own = golden('twin/guest-6.12-memmap-on-memory.dimmer', {});
    expect(own.twin.machine.hotplug.settings.memmapOnMemory).toBe('Y');
    expect(memmapBudget(own.twin.machine, 8 * GIB, GIB).needed.value).toBeLessThan(MIB);
  });

  it('PN7 a large add is split: each DIMM the largest that leaves the watermarks kept, fully online before the next', () => {
    const input = small(32768 * 7, {}); // 128 MiB left: struct pages of some 8 GiB
    const p = plan(add(40 * GIB, 0), input, { zone: 'kernel' });
    expect(p.feasible).toBe(true);
    expect(p.units.length).toBeGreaterThan(1);
    expect(p.units.reduce((n, u) => n + u.bytes, 0)).toBe(40 * GIB);
    for (const u of p.units)
      expect(u.steps.map((s) => s.action.do)).toEqual(['add-dimm', ...u.steps.slice(1).map(() => 'online-block')]);
    const { m, wrong } = executed(input, p);
    expect(wrong).toEqual([]);
    expect(m.check()).toEqual([]);
  });

  it('PN7 one block more does not fit where the planner stopped, and it says so', () => {
    const input = small(32768 * 8 - 400, {});
    const p = plan(add(GIB, 0), input);
    expect(p).toMatchObject({ feasible: false, units: [] });
    expect(p.rejected[0]?.reason).toMatch(/^not even one block more fits: struct pages of 128M take 2M/);
  });

  it('PN8 what is no multiple of a memory block is refused with the two nearest', () => {
    const p = plan(add(300 * MIB), golden(MIXED, ROOM));
    expect(p.feasible).toBe(false);
    expect(p.summary).toContain('size:256M or size:384M?');
  });

  it.each([
    ['node', add(GIB, 5), ROOM, /no node 5; it has 0, 1/],
    ['slots', add(GIB), { ...ROOM, slots: 1 }, /all 1 memory slots are taken/],
    ['maxmem', add(62 * GIB), ROOM, /maxmem is 64G: 61G more can be added/],
    ['hypervisor', add(GIB), undefined, /added by a hypervisor, and none is asked/],
  ] as const)('PN8 is refused for lack of: %s', (_, goal, h, why) => {
    const p = plan(goal, golden(MIXED, h));
    expect(p).toMatchObject({ feasible: false, units: [] });
    expect(p.summary).toMatch(why);
  });

  it('PN9 warns when Movable outgrows the kernel, with how much would not', () => {
    const input = golden(MIXED, ROOM);
    const { movable, kernel, percent } = movableRatio(input.observation);
    expect([movable, kernel, Math.round(percent)]).toEqual([3 * 128 * MIB, 2 * GIB, 19]);
    const fits = movableRoom(input.observation);
    expect(movableRatio(input.observation, fits).percent).toBeLessThanOrEqual(301);
    expect(movableRatio(input.observation, fits + 128 * MIB).percent).toBeGreaterThan(301);
    expect(plan(add(fits), input).warnings.join('\n')).not.toMatch(/auto_movable_ratio/);
    expect(plan(add(fits + 128 * MIB), input).warnings.join('\n')).toMatch(
      /auto_movable_ratio is 301 %.*--zone kernel/,
    );
  });
});

describe('addresses', () => {
  it('PN5 are the first that fit, aligned to 1 GiB, above boot memory, in no other device', () => {
    const dimms = [
      { id: 'a', addr: 4 * GIB, size: 128 * MIB, node: 1 },
      { id: 'b', addr: 7 * GIB, size: GIB, node: 1 },
    ];
    const input = drawnWorld(
      { blocks: [{ id: 8 }, { id: 32, zone: 'Movable', node: 1 }] },
      { base: 128 * MIB, max: 16 * GIB, slots: 4, dimms },
    );
    const o = input.observation;
    expect(deviceBase(o)).toBe(4 * GIB);
    expect(firstFit(o, 2 * GIB, [])).toBe(5 * GIB);
    expect(firstFit(o, 3 * GIB, [])).toBe(8 * GIB);
    expect(firstFit(o, GIB, [{ addr: 5 * GIB, size: GIB }])).toBe(6 * GIB);
    expect(firstFit(o, 64 * GIB, [])).toBeUndefined();
    expect(deviceBase(drawnWorld({ blocks: [{ id: 8 }, { id: 33 }] }, {}).observation)).toBe(5 * GIB);
  });
});

describe('a virtio-mem device', () => {
  const VM: MadeUp = {
    ...ROOM,
    virtioMem: [{ id: 'vm0', addr: 8 * GIB, size: 0, node: 1, maxSize: 8 * GIB }],
  };

  it('PN10 with room on that node is preferred to a DIMM, and takes sizes that are no memory blocks', () => {
    const p = plan(add(300 * MIB), golden(MIXED, VM));
    expect(p.feasible).toBe(true);
    expect(p.units.map((u) => u.name)).toEqual(['virtio-mem:vm0']);
    const resize = p.units[0]?.steps.find((s) => s.action.do === 'resize-virtio-mem');
    expect(resize?.action).toEqual({ do: 'resize-virtio-mem', id: 'vm0', bytes: 300 * MIB });
    expect(resize?.undo).toEqual([{ do: 'resize-virtio-mem', id: 'vm0', bytes: 0 }]);
    // Its blocks come online by auto_online_blocks alone: for the time being it says where to.
    expect(actionsOf(p)).toEqual(['auto-online online_movable', 'resize-virtio-mem vm0', 'auto-online offline']);
    expect(p.rejected.map((r) => r.name)).toEqual(['dimm']);
    const can = new Set(['resize-virtio-mem'] as const);
    const fixed = { ...golden(MIXED, VM), host: { ...golden(MIXED, VM).host, can } };
    expect(
      plan(add(300 * MIB), fixed)
        .rejected.map((r) => r.reason)
        .join(),
    ).toMatch(/come online by auto_online_blocks \(offline\)/);
  });

  it('PN10 without enough room it is told why, and a DIMM comes', () => {
    const p = plan(add(9 * GIB), golden(MIXED, VM));
    expect(p.rejected).toEqual([{ name: 'virtio-mem:vm0', reason: 'it can grow by 8G only' }]);
    expect(p.units.map((u) => u.name)).toEqual(['dimm:dimm1']);
  });
});
