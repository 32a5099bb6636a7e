// Removing memory: refusals, what is given back, a thousand times over, parts of a range. Rules in docs/spec/hotplug-life.md.

import { describe, expect, it } from 'vitest';
import { toBlockId, toHolderId, toNodeId, toOrder, toPfn } from '#base/units';
import type { LogLine, MachineEvent } from './events.ts';
import { PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { HotplugSettings } from './hotplug.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import type { MemmapPolicy } from './memmap.ts';
import type { AddOptions, MemoryRange } from './memory-add.ts';

const node0 = toNodeId(0);
const section = (n: number) => toPfn(n * PAGES_PER_SECTION);
const sections = (first: number, end: number): MemoryRange => ({ start: section(first), end: section(end) });

const boot = (hotplug: Partial<HotplugSettings> = {}, spec: Partial<MachineSpec> = {}): Machine =>
  Machine.boot({
    ram: [{ ...sections(0, 8), node: node0 }],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    hotplug: { autoOnline: 'offline', memmapOnMemory: 'Y', ...hotplug },
    ...spec,
  });

const add = (m: Machine, range: MemoryRange, options?: AddOptions) => {
  const done = m.addMemory(range, node0, options);
  if (!done.ok) throw new Error(done.error.message);
  return done.value;
};

const remove = (m: Machine, range: MemoryRange) => {
  const done = m.removeMemory(range);
  if (!done.ok) throw new Error(done.error.message);
  return done.value;
};

const free = (m: Machine): number => m.pools.reduce((n, p) => n + p.alloc.nrFree() + p.alloc.pcpPages(), 0);

const iomem = (m: Machine): string[] => {
  const out: string[] = [];
  m.hotplug.resources.forEach((r) => {
    out.push(`${r.start.toString(16)}-${r.end.toString(16)}`);
  });
  return out;
};

describe('RM1 refusals of remove', () => {
  it('RM1 a block that is online: EBUSY, the kernel names the first', () => {
    const m = boot();
    add(m, sections(32, 36));
    for (const k of [33, 34]) expect(m.online(toBlockId(k), 'movable').ok).toBe(true);
    const lines: LogLine[] = [];
    m.onLog = (l) => lines.push(l);
    const digest = m.digest();
    const text = 'removing memory fails, because memory [0x0000000108000000-0x000000010fffffff] is onlined';
    expect(m.removeMemory(sections(32, 36))).toMatchObject({
      error: { reason: 'still-online', errno: 'EBUSY', message: text },
    });
    expect(lines).toEqual([{ level: 'warn', text }]);
    expect(m.digest()).toBe(digest);
    expect(iomem(m)).toEqual(['0-3fffffff', '100000000-11fffffff']);
    for (const k of [33, 34]) expect(m.offline(toBlockId(k)).ok).toBe(true);
    remove(m, sections(32, 36));
    expect(m.check()).toEqual([]);
  });

  it('RM1 not whole blocks: EINVAL; memory that is not there, or not throughout: ENOENT', () => {
    const m = boot();
    add(m, sections(32, 33));
    add(m, sections(34, 35));
    const start = section(32);
    for (const range of [
      { start, end: toPfn(start + 512) },
      { start: toPfn(start + 512), end: section(33) },
      { start, end: start },
    ]) {
      expect(m.removeMemory(range)).toMatchObject({ error: { reason: 'unaligned', errno: 'EINVAL' } });
    }
    for (const range of [sections(40, 41), sections(32, 34), sections(33, 35), sections(32, 35)]) {
      expect(m.removeMemory(range)).toMatchObject({ error: { reason: 'no-such-memory', errno: 'ENOENT' } });
    }
    expect(m.blockIds().slice(8)).toEqual([32, 34]);
    expect(m.check()).toEqual([]);
  });

  it('RM1 blocks that host their memmap beside blocks that do not: EINVAL; apart they go', () => {
    const m = boot();
    add(m, sections(32, 34), { memmap: 'self-block' });
    add(m, sections(34, 36), { memmap: 'kernel' });
    expect(m.removeMemory(sections(33, 35))).toMatchObject({ error: { reason: 'bad-request', errno: 'EINVAL' } });
    remove(m, sections(33, 34));
    remove(m, sections(34, 35));
    expect(m.check()).toEqual([]);
  });

  it('RM1 part of a range whose head hosts the memmap of all of it: EINVAL, whole it goes', () => {
    const m = boot();
    add(m, sections(32, 36), { memmap: 'self-range' });
    for (const [a, b] of [
      [32, 33],
      [33, 35],
      [35, 36],
    ] as const) {
      expect(m.removeMemory(sections(a, b))).toMatchObject({ error: { reason: 'bad-request', errno: 'EINVAL' } });
    }
    remove(m, sections(32, 36));
    expect(m.check()).toEqual([]);
  });

  it('RM1 boot memory that went offline can be removed, and its part of the System RAM line with it', () => {
    const m = boot();
    expect(m.offline(toBlockId(5)).ok).toBe(true);
    remove(m, sections(5, 6));
    expect(iomem(m)).toEqual(['0-27ffffff', '30000000-3fffffff']);
    expect(m.block(toBlockId(5))).toBeUndefined();
    add(m, sections(5, 6));
    expect(m.validZones(toBlockId(5))).toEqual(['DMA32', 'Movable']);
    expect(m.online(toBlockId(5), 'kernel')).toMatchObject({ value: { zone: 'DMA32' } });
    expect(m.poolNamed(node0, 'DMA32')?.presentEarly).toBe(6 * PAGES_PER_SECTION + PAGES_PER_SECTION - 4096);
    expect(m.check()).toEqual([]);
  });
});

/**
 * All that can be told of a machine, as one number. Per-CPU lists are drained first: which frames wait there depends on what
 * was allocated last, and they go back to the same lists.
 */
function settled(m: Machine): string {
  for (const p of m.pools) p.alloc.drain();
  return `${m.digest()} ${m.blockIds()} ${iomem(m)} ${m.nodes} ${m.hotplug.ranges.length} ${m.sections.length}`;
}

describe('RM2 memory that comes and goes', () => {
  const POLICIES: readonly MemmapPolicy[] = ['kernel', 'self-block', 'self-range'];
  for (const memmap of POLICIES) {
    for (const [name, blockSections] of [
      ['128 MiB', 1],
      ['1 GiB', 8],
    ] as const) {
      it(`RM2 a thousand times leaves nothing: ${memmap}, blocks of ${name}`, () => {
        const m = boot({}, { blockSize: blockSections * 2 ** 27 });
        const range = sections(32, 32 + 4 * blockSections);
        const cycle = (k: number): void => {
          const group = m.hotplug.groups.register('static', node0, range.end - range.start);
          const report = add(m, range, { memmap, group });
          expect(report.memmap).toBe(memmap);
          const last = report.blocks[3];
          expect(m.online(last, k % 2 === 0 ? 'movable' : 'kernel').ok).toBe(true);
          expect(m.offline(last).ok).toBe(true);
          expect(remove(m, range).kernelPages).toBe(report.kernelPages);
          m.hotplug.groups.unregister(group);
        };
        const bare = { free: free(m), holders: m.holders.length, iomem: iomem(m), blocks: m.blockIds() };
        // The first two cycles make what stays: the holders of the tables, pageblocks of another type, wider hulls.
        cycle(0);
        cycle(1);
        const before = settled(m);
        const bytes = m.bytes();
        const holders = m.holders.length;
        expect(holders - bare.holders).toBeLessThanOrEqual(3);
        for (let k = 2; k < 1000; k++) cycle(k);
        expect(settled(m)).toBe(before);
        expect(m.bytes()).toBe(bytes);
        expect({ free: free(m), holders: m.holders.length, iomem: iomem(m), blocks: m.blockIds() }).toEqual({
          ...bare,
          holders,
        });
        expect(m.hotplug.groups.get(0)).toBeUndefined();
        expect(m.check()).toEqual([]);
      });
    }
  }

  it('RM3 self-hosted memory that comes and goes leaves the very machine, types of pageblocks included', () => {
    for (const memmap of ['self-block', 'self-range'] as const) {
      const m = boot();
      add(m, sections(200, 201)); // the page tables of this GiB are there now
      add(m, sections(201, 202), { memmap });
      remove(m, sections(201, 202)); // and so is the holder
      const before = settled(m);
      add(m, sections(202, 208), { memmap });
      expect(m.online(toBlockId(207), 'movable').ok).toBe(true);
      expect(m.offline(toBlockId(207)).ok).toBe(true);
      expect(remove(m, sections(202, 208)).kernelPages).toBe(0);
      expect(settled(m)).toBe(before);
      expect(m.check()).toEqual([]);
    }
  });
});

describe('parts', () => {
  it('RM4 middle, head and tail of a range go apart: each gives back its own struct pages, the last one the tables', () => {
    const m = boot();
    const before = free(m);
    const report = add(m, sections(33, 40)); // not a whole GiB: it needs a page table
    const tables = report.kernelPages - 7 * PAGEBLOCK_PAGES;
    expect(tables).toBe(1);
    expect(free(m)).toBe(before - report.kernelPages);
    expect(remove(m, sections(35, 37)).kernelPages).toBe(2 * PAGEBLOCK_PAGES);
    expect(iomem(m).slice(1)).toEqual(['108000000-117ffffff', '128000000-13fffffff']);
    expect(m.hotplug.ranges.map((r) => [r.start, r.end])).toEqual([
      [section(33), section(35)],
      [section(37), section(40)],
    ]);
    expect(remove(m, sections(33, 34)).kernelPages).toBe(PAGEBLOCK_PAGES);
    expect(remove(m, sections(39, 40)).kernelPages).toBe(PAGEBLOCK_PAGES);
    expect(iomem(m).slice(1)).toEqual(['110000000-117ffffff', '128000000-137ffffff']);
    // What is left can be used, and can be filled up again.
    expect(m.online(toBlockId(34), 'movable').ok).toBe(true);
    expect(m.offline(toBlockId(34)).ok).toBe(true);
    expect(add(m, sections(35, 37)).kernelPages).toBe(2 * PAGEBLOCK_PAGES);
    expect(remove(m, sections(35, 37)).kernelPages).toBe(2 * PAGEBLOCK_PAGES);
    expect(remove(m, sections(34, 35)).kernelPages).toBe(PAGEBLOCK_PAGES);
    expect(remove(m, sections(37, 39)).kernelPages).toBe(2 * PAGEBLOCK_PAGES + tables);
    expect(free(m)).toBe(before);
    expect(m.hotplug.ranges).toEqual([]);
    expect(m.check()).toEqual([]);
  });

  it('RM4 a page table that another add came to use stays until that one goes, whatever its policy', () => {
    for (const memmap of ['kernel', 'self-block', 'self-range'] as const) {
      const m = boot();
      const before = free(m);
      const first = add(m, sections(33, 36));
      expect(first.kernelPages).toBe(3 * PAGEBLOCK_PAGES + 1);
      const second = add(m, sections(36, 38), { memmap });
      expect(second.kernelPages).toBe(memmap === 'kernel' ? 2 * PAGEBLOCK_PAGES : 0);
      expect(remove(m, sections(33, 36)).kernelPages).toBe(3 * PAGEBLOCK_PAGES);
      expect(remove(m, sections(36, 38)).kernelPages).toBe(second.kernelPages + 1);
      expect(free(m)).toBe(before);
      expect(m.check()).toEqual([]);
    }
  });

  it('RM5 neighbours that came apart can go together: every address is free again', () => {
    const m = boot();
    const before = free(m);
    add(m, sections(32, 34));
    add(m, sections(34, 36));
    add(m, sections(36, 38));
    remove(m, sections(33, 37));
    expect(iomem(m).slice(1)).toEqual(['100000000-107ffffff', '128000000-12fffffff']);
    add(m, sections(33, 37));
    remove(m, sections(32, 38));
    expect(iomem(m)).toHaveLength(1);
    expect(free(m)).toBe(before);
    add(m, sections(32, 38));
    expect(m.check()).toEqual([]);
  });

  it("RM6 blocks of several sections; a removal is one event, and its node the range's", () => {
    const m = boot({}, { blockSize: 2 ** 28 });
    add(m, sections(32, 38));
    expect(m.blockIds().slice(-3)).toEqual([16, 17, 18]);
    expect(m.removeMemory(sections(33, 35))).toMatchObject({ error: { errno: 'EINVAL' } });
    expect(m.online(toBlockId(17), 'movable')).toMatchObject({ value: { pages: 2 * PAGES_PER_SECTION } });
    const user = m.addHolder({ class: 'anonymous', name: 'user' });
    const pfn = m.alloc(user, toOrder(9));
    expect([pfn >= section(34), pfn < section(36)]).toEqual([true, true]);
    expect(m.offline(toBlockId(17)).ok).toBe(true);
    const events: MachineEvent[] = [];
    m.onEvent = (e) => events.push(e);
    remove(m, sections(34, 36));
    expect(events).toMatchObject([{ type: 'remove', start: section(34), end: section(36), node: 0 }]);
    expect(m.holders.pages[user]).toBe(PAGEBLOCK_PAGES); // it moved, and lives on
    expect(m.check()).toEqual([]);
    m.free(toPfn(m.sections.pfnOf(m.holders.frameAt(m.holders.slotAt(toHolderId(user), 0)))));
    expect(m.check()).toEqual([]);
  });

  it('RM7 with contents of bytes a frame that comes again starts as zeros', () => {
    const m = boot({}, { contents: 'bytes' });
    add(m, sections(32, 33), { usable: [{ start: toPfn(section(32) + 1024), end: section(33) }] });
    m.write(section(32), 0, Uint8Array.of(1, 2, 3)); // a frame that its driver has, never plugged
    remove(m, sections(32, 33));
    add(m, sections(32, 33), { usable: [{ start: toPfn(section(32) + 1024), end: section(33) }] });
    expect(m.read(section(32)).some((b) => b !== 0)).toBe(false);
    expect(m.check()).toEqual([]);
  });
});
