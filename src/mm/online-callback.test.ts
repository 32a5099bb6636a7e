// The online callback: who may have it, what it is told, what becomes of the frames. Rules in docs/spec/virtio-mem.md.

import { describe, expect, it } from 'vitest';
import { toBlockId, toNodeId, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import {
  genericOnlinePage,
  type OnlinePageCallback,
  restoreOnlinePageCallback,
  setOnlinePageCallback,
} from './online-callback.ts';

const NODE = toNodeId(0);
const block = toBlockId(4);

/** Four blocks of RAM and an offline one behind them. */
function world(spec: Partial<MachineSpec> = {}): Machine {
  const ram = [{ start: toPfn(0), end: toPfn(4 * PAGES_PER_SECTION), node: NODE }];
  const m = Machine.boot({
    ram,
    kernel: '6.12',
    hotplug: { autoOnline: 'offline', memmapOnMemory: 'Y' },
    code: 'shared',
    ...spec,
  });
  return m;
}
const dimm = { start: toPfn(4 * PAGES_PER_SECTION), end: toPfn(5 * PAGES_PER_SECTION) };

describe('OC1 the slot', () => {
  it('OC1 there is one: taking it while another has it, and giving back what one has not, is EINVAL', () => {
    const m = world();
    const mine: OnlinePageCallback = genericOnlinePage;
    const other: OnlinePageCallback = () => {};
    expect(restoreOnlinePageCallback(m, mine)).toMatchObject({ error: { reason: 'bad-argument', errno: 'EINVAL' } });
    expect(setOnlinePageCallback(m, mine).ok).toBe(true);
    expect(setOnlinePageCallback(m, other)).toMatchObject({ error: { errno: 'EINVAL' } });
    expect(setOnlinePageCallback(m, mine)).toMatchObject({ error: { errno: 'EINVAL' } });
    expect(restoreOnlinePageCallback(m, other)).toMatchObject({ error: { errno: 'EINVAL' } });
    expect(restoreOnlinePageCallback(m, mine).ok).toBe(true);
    expect(setOnlinePageCallback(m, other).ok).toBe(true);
    expect(setOnlinePageCallback(world(), other).ok).toBe(true); // each machine has its own
  });
});

describe('OC2 what it is told', () => {
  it('OC2 chunks of order 10, aligned, ascending; behind a memmap the first is of order 9', () => {
    for (const memmap of ['kernel', 'self-block'] as const) {
      const m = world();
      const told: number[][] = [];
      setOnlinePageCallback(m, (who, pfn, order) => {
        told.push([pfn - dimm.start, order]);
        genericOnlinePage(who, pfn, order);
      });
      expect(m.addMemory(dimm, NODE, { memmap })).toMatchObject({ value: { memmap } });
      expect(m.online(block, 'movable').ok).toBe(true);
      const chunks = Array.from({ length: 32 }, (_, k) => [k * 1024, 10]);
      if (memmap === 'self-block') chunks[0] = [512, 9];
      expect(told).toEqual(chunks);
      expect(m.check()).toEqual([]);
    }
  });

  it('OC2 what it frees is managed, what it keeps is only present', () => {
    const m = world();
    const holder = m.addHolder({ class: 'unplugged', name: 'kept' });
    setOnlinePageCallback(m, (who, pfn, order) => {
      if ((pfn / 1024) % 2 === 0) genericOnlinePage(who, pfn, order);
      else who.place(holder, pfn, toPfn(pfn + 2 ** order));
    });
    m.addMemory(dimm, NODE);
    expect(m.online(block, 'movable')).toMatchObject({ value: { pages: PAGES_PER_SECTION / 2 } });
    const pool = m.poolNamed(NODE, 'Movable');
    expect([pool?.present, pool?.managed]).toEqual([PAGES_PER_SECTION, PAGES_PER_SECTION / 2]);
    expect(m.check()).toEqual([]);
  });

  it('OC2 the generic callback gives the machine that no callback gives', () => {
    const digests = [false, true].map((set) => {
      const m = world();
      if (set) setOnlinePageCallback(m, genericOnlinePage);
      m.addMemory(dimm, NODE);
      m.online(block, 'movable');
      expect(m.check()).toEqual([]);
      return m.digest();
    });
    expect(digests[1]).toBe(digests[0]);
  });

  it('OC2 a fork has the generic callback again', () => {
    const m = world();
    setOnlinePageCallback(m, () => {});
    m.addMemory(dimm, NODE);
    const fork = m.fork();
    expect(fork.online(block, 'movable')).toMatchObject({ value: { pages: PAGES_PER_SECTION } });
    expect(setOnlinePageCallback(fork, () => {}).ok).toBe(true);
    expect(fork.check()).toEqual([]);
  });
});
