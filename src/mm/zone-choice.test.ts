// Into which zone a block comes, and what valid_zones says. Rules in docs/spec/hotplug-life.md; real guests: hotplug.test.ts;
// a literal copy of the kernel: zone-choice.fuzz.ts.

import { describe, expect, it } from 'vitest';
import { type BlockId, toBlockId, toNodeId, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import type { HotplugSettings } from './hotplug.ts';
import { Machine } from './machine.ts';
import type { MemoryGroup } from './memory-group.ts';

const node0 = toNodeId(0);
const section = (n: number) => toPfn(n * PAGES_PER_SECTION);

/** Boot blocks [0, 8) and, if wanted, [32, 32 + high) of node 0, each of 128 MiB. */
function boot(high: number, hotplug: Partial<HotplugSettings> = {}): Machine {
  const ram = [{ start: section(0), end: section(8), node: node0 }];
  if (high > 0) ram.push({ start: section(32), end: section(32 + high), node: node0 });
  return Machine.boot({
    ram,
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    hotplug: { autoOnline: 'offline', ...hotplug },
  });
}

/** Adds blocks [first, end). */
function add(
  m: Machine,
  first: number,
  end: number,
  kind?: MemoryGroup['kind'],
  pages?: number,
  node = node0,
): BlockId[] {
  const group =
    kind === undefined
      ? {}
      : { group: m.hotplug.groups.register(kind, node, pages ?? (end - first) * PAGES_PER_SECTION) };
  const added = m.addMemory({ start: section(first), end: section(end) }, node, group);
  if (!added.ok) throw new Error(added.error.message);
  return [...added.value.blocks];
}

const onlineAll = (m: Machine, ids: readonly BlockId[], how: 'online' | 'kernel' | 'movable'): string[] =>
  ids.map((id) => {
    const done = m.online(id, how);
    return done.ok ? done.value.zone : done.error.errno;
  });

const auto = (ratio: number, numaAware = true): Partial<HotplugSettings> => ({
  onlinePolicy: 'auto-movable',
  autoMovable: { ratio, numaAware },
});

describe('the zone of a block that comes online', () => {
  it('ZC1 kernel: the first of DMA and DMA32 whose span meets the block now, else Normal, below 4 GiB too', () => {
    const m = boot(4);
    const id = toBlockId(7);
    expect(m.offline(id).ok).toBe(true);
    expect(m.validZones(id)).toEqual(['DMA32', 'Movable']); // DMA32 spans to 4 GiB: the node has memory beyond
    expect(onlineAll(m, [id], 'kernel')).toEqual(['DMA32']);
    const small = boot(0);
    expect(small.offline(id).ok).toBe(true);
    expect(small.validZones(id)).toEqual(['Normal', 'Movable']); // the border of DMA32 went with its last block
    expect(onlineAll(small, [id], 'kernel')).toEqual(['Normal']);
    expect([...m.check(), ...small.check()]).toEqual([]);
  });

  it('ZC2 movable: Movable of the node, between kernel blocks too', () => {
    const m = boot(0);
    const ids = add(m, 32, 35);
    onlineAll(m, [ids[0], ids[2]], 'kernel');
    expect(onlineAll(m, [ids[1]], 'movable')).toEqual(['Movable']);
    expect(m.check()).toEqual([]);
  });

  it('ZC3 contig-zones: the one zone whose span meets it; both or none: the kernel zone, or Movable with movable_node', () => {
    for (const movableNode of [false, true]) {
      const m = boot(0, { movableNode });
      const ids = add(m, 32, 40);
      const none = movableNode ? ['Movable', 'Normal'] : ['Normal', 'Movable'];
      expect(m.validZones(ids[1])).toEqual(none);
      onlineAll(m, [ids[0], ids[2]], 'movable');
      expect(m.validZones(ids[1])).toEqual(['Movable', 'Normal']); // only Movable spans it
      expect(m.validZones(ids[4])).toEqual(none);
      onlineAll(m, [ids[3], ids[5]], 'kernel');
      expect(m.validZones(ids[4])).toEqual(['Normal', 'Movable']); // only Normal spans it
      onlineAll(m, [ids[7]], 'movable');
      expect(m.validZones(ids[4])).toEqual(none); // both span it
      expect(onlineAll(m, [ids[4]], 'online')).toEqual([none[0]]);
      expect(m.check()).toEqual([]);
    }
  });

  it('ZC4 valid_zones of an online block: its zone; none when it lies in several; going offline counts as offline', () => {
    const m = boot(0);
    expect(m.validZones(toBlockId(0))).toEqual([]); // DMA and DMA32
    expect(m.validZones(toBlockId(5))).toEqual(['DMA32']);
    expect(m.validZones(toBlockId(99))).toEqual([]);
    const work = m.beginOffline(toBlockId(5));
    work.step();
    expect(m.block(toBlockId(5))?.state).toBe('going-offline');
    expect(m.validZones(toBlockId(5))).toEqual(['DMA32', 'Movable']);
    work.cancel();
    expect(m.validZones(toBlockId(5))).toEqual(['DMA32']);
    expect(m.check()).toEqual([]);
  });

  it('ZC5 auto-movable: early kernel memory times the ratio, integers; what comes by hotplug allows nothing', () => {
    // 8 early blocks: with 100 % eight blocks may be Movable, no more, whatever is added to Normal.
    const m = boot(0, auto(100));
    const kernel = add(m, 64, 72);
    onlineAll(m, kernel, 'kernel');
    const ids = add(m, 32, 42);
    expect(onlineAll(m, ids, 'online')).toEqual([...Array(8).fill('Movable'), 'Normal', 'Normal']);
    m.hotplug.settings.autoMovable.ratio = 0;
    expect(m.offline(ids[0]).ok).toBe(true);
    expect(m.validZones(ids[0])).toEqual(['Normal', 'Movable']);
    m.hotplug.settings.autoMovable.ratio = 99; // 7.92 blocks: one block less than eight
    expect(m.validZones(ids[0])).toEqual(['Normal', 'Movable']);
    m.hotplug.settings.autoMovable.ratio = 100;
    expect(m.validZones(ids[0])).toEqual(['Movable', 'Normal']);
    expect(m.check()).toEqual([]);
  });

  it('ZC6 auto-movable and groups: a DIMM goes whole or not at all, a unit of a device stays of one kind', () => {
    const m = boot(0, auto(100));
    const nine = add(m, 32, 41, 'static');
    expect(onlineAll(m, nine.slice(0, 2), 'online')).toEqual(['Normal', 'Normal']); // 9 > 8, from its first block on
    const four = add(m, 48, 52, 'static');
    expect(m.validZones(four[0])).toEqual(['Movable', 'Normal']);
    onlineAll(m, four.slice(0, 1), 'kernel');
    expect(onlineAll(m, four.slice(1), 'online')).toEqual(['Normal', 'Normal', 'Normal']); // one kernel block decides
    const device = add(m, 64, 68, 'dynamic', 2 * PAGES_PER_SECTION);
    onlineAll(m, [device[0]], 'kernel');
    expect(onlineAll(m, [device[1], device[2], device[3]], 'online')).toEqual(['Normal', 'Movable', 'Movable']);
    // Kernel memory of a dynamic group allows more for the group itself: 8 early + 2 of its own.
    expect(m.hotplug.groups.get(m.blocks.group[m.blocks.rowOf(device[0])])).toMatchObject({
      blocks: 4,
      presentKernel: 2 * PAGES_PER_SECTION,
      presentMovable: 2 * PAGES_PER_SECTION,
    });
    const more = add(m, 68, 76);
    expect(onlineAll(m, more, 'online')).toEqual([...Array(8).fill('Movable')]); // the device pays for its own two
    expect(m.check()).toEqual([]);
  });

  it('ZC6 auto-movable per node: a node without early memory gets none, unless the test is switched off', () => {
    for (const numaAware of [true, false]) {
      const m = boot(0, auto(301, numaAware));
      const ids = add(m, 32, 34, undefined, undefined, toNodeId(1));
      expect(onlineAll(m, ids, 'online')).toEqual(Array(2).fill(numaAware ? 'Normal' : 'Movable'));
      expect(m.check()).toEqual([]);
    }
  });
});

describe('memory groups', () => {
  it('MG1 an id is taken again when its group is gone, the lowest first; a group with blocks cannot go', () => {
    const m = boot(0);
    const { groups } = m.hotplug;
    const [a, b, c] = [1, 2, 3].map((n) => groups.register('static', node0, n * PAGES_PER_SECTION));
    expect([a, b, c]).toEqual([0, 1, 2]);
    expect(m.addMemory({ start: section(32), end: section(33) }, node0, { group: b }).ok).toBe(true);
    expect(() => groups.unregister(b)).toThrow('a memory group in use'); // offline, but there
    expect(m.removeMemory({ start: section(32), end: section(33) }).ok).toBe(true);
    groups.unregister(b);
    groups.unregister(a);
    expect(groups.get(b)).toBeUndefined();
    expect(groups.register('dynamic', node0, 1)).toBe(a);
    expect(groups.register('dynamic', node0, 1)).toBe(b);
    expect(groups.register('dynamic', node0, 1)).toBe(3);
    expect(() => groups.unregister(99 as typeof a)).toThrow('there is no such memory group');
    const seen: number[] = [];
    groups.forEach((_, id) => {
      seen.push(id);
    });
    expect(seen).toEqual([0, 1, 2, 3]);
  });

  it('MG2 a fork counts for itself', () => {
    const m = boot(0);
    const ids = add(m, 32, 33, 'static');
    const fork = m.fork();
    onlineAll(fork, ids, 'movable');
    expect(fork.hotplug.groups.get(0)?.presentMovable).toBe(PAGES_PER_SECTION);
    expect(m.hotplug.groups.get(0)?.presentMovable).toBe(0);
    expect([...m.check(), ...fork.check()]).toEqual([]);
  });
});
