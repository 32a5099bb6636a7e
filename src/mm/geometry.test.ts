// Sizes, block size, zone borders. Rules G1..G4, docs/spec/geometry.md.

import { describe, expect, it } from 'vitest';
import { toNodeId, toPfn } from '#base/units';
import * as g from './geometry.ts';
import { Machine } from './machine.ts';
import { zonesOf } from './machine-spec.ts';
import { ZONE_NAMES } from './page-class.ts';

const GiB = 2 ** 30;
const MiB = 2 ** 20;

describe('sizes', () => {
  it('G1 page, pageblock, chunk, section: x86-64 with 4 KiB pages (spec 1.1)', () => {
    expect([g.PAGE_SIZE, g.PAGEBLOCK_PAGES, g.CHUNK_PAGES, g.PAGES_PER_SECTION]).toEqual([4096, 512, 1024, 32768]);
    expect([g.SECTION_SIZE, g.PAGEBLOCKS_PER_SECTION, g.NR_ORDERS]).toEqual([128 * MiB, 64, 11]);
    expect(g.MAX_PFN * g.PAGE_SIZE).toBe(2 ** 52);
  });

  it('G1 migrate types in the order of pagetypeinfo; the first three merge with each other (spec 2.1)', () => {
    expect(g.MIGRATE_NAMES).toEqual(['Unmovable', 'Movable', 'Reclaimable', 'HighAtomic', 'CMA', 'Isolate']);
    expect([0, 1, 2, 3, 4, 5].map(g.isMergeable)).toEqual([true, true, true, false, false, false]);
    expect(g.NR_MIGRATE_TYPES).toBe(6);
  });
});

describe('memory block size', () => {
  const size = (endOfRam: number, hypervisor = true) => {
    const r = g.memoryBlockSize(endOfRam, { hypervisor });
    return r.ok ? r.value : r.error;
  };

  it('G2 golden: 2 GiB and 25 GiB machines 128 MiB; the guest of 65 GiB, whose RAM ends at 67 GiB, 1 GiB', () => {
    expect(size(0x7ffdd000)).toBe(128 * MiB);
    expect(size(0x640000000)).toBe(128 * MiB);
    expect(size(0x10c0000000)).toBe(0x40000000);
  });

  it('G2 below 64 GiB 128 MiB; above, bare metal 2 GiB, guests the largest power of two that divides the end', () => {
    expect(size(64 * GiB - 4096)).toBe(128 * MiB);
    expect(size(64 * GiB)).toBe(2 * GiB);
    expect(size(65 * GiB)).toBe(GiB);
    expect(size(64 * GiB + 256 * MiB)).toBe(256 * MiB);
    expect(size(64 * GiB + 128 * MiB)).toBe(128 * MiB);
    expect(size(64 * GiB + 4096)).toBe(128 * MiB);
    expect(size(64 * GiB + 4096, false)).toBe(2 * GiB);
    expect(size(63 * GiB, false)).toBe(128 * MiB);
  });

  it('G2 an override is a power of two from 128 MiB to 64 GiB, and then wins', () => {
    const of = (override: number) => g.memoryBlockSize(2 * GiB, { hypervisor: false, override });
    for (let s = 128 * MiB; s <= 64 * GiB; s *= 2) expect(of(s)).toEqual({ ok: true, value: s });
    for (const bad of [64 * MiB, 128 * GiB, 3 * 128 * MiB, 0, -1, Number.NaN]) {
      expect(of(bad)).toMatchObject({ ok: false, error: { reason: 'bad-block-size' } });
    }
  });

  it('G2 a block exists where at least one of its sections is present; its id is pfn / pages of a block', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(0x7ffdd), node: toNodeId(0) },
        { start: toPfn(0x100000), end: toPfn(0x10c0000), node: toNodeId(0) },
      ],
      code: 'shared',
    });
    expect(m.blockPages * g.PAGE_SIZE).toBe(GiB);
    const ids = m.blockIds();
    expect(ids.slice(0, 4)).toEqual([0, 1, 4, 5]); // as in the guest of 65 GiB
    expect(ids[ids.length - 1]).toBe(66);
    expect(m.block(ids[1])?.absent).toBe(35);
  });
});

describe('zone borders', () => {
  const shown = (spec: Parameters<typeof zonesOf>[0]) =>
    zonesOf(spec).map((z) => [z.node, ZONE_NAMES[z.zone], z.start, z.end - z.start]);

  it('G3 DMA below 16 MiB, DMA32 below 4 GiB, Normal above, cut exactly (spec 1.4)', () => {
    expect(shown({ ram: [{ start: toPfn(0), end: toPfn(2 ** 21), node: toNodeId(0) }] })).toEqual([
      [0, 'DMA', 0, 4096],
      [0, 'DMA32', 4096, 2 ** 20 - 4096],
      [0, 'Normal', 2 ** 20, 2 ** 20],
    ]);
  });

  it('G3 golden: spans and present pages of a guest of two nodes with movablecore=512M', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0x1), end: toPfn(0x9f), node: toNodeId(0) },
        { start: toPfn(0x100), end: toPfn(0x40000), node: toNodeId(0) },
        { start: toPfn(0x40000), end: toPfn(0x7ffdd), node: toNodeId(1) },
      ],
      movableStart: new Map([
        [toNodeId(0), toPfn(0x30400)],
        [toNodeId(1), toPfn(0x70000)],
      ]),
      code: 'shared',
    });
    const zones = m.pools.filter((p) => p.present > 0).map((p) => [p.title, p.startPfn, p.spanned, p.present]);
    expect(zones).toEqual([
      ['Node 0, zone DMA', 1, 4095, 3998],
      ['Node 0, zone DMA32', 4096, 193536, 193536],
      ['Node 0, zone Movable', 197632, 64512, 64512],
      ['Node 1, zone DMA32', 262144, 196608, 196608],
      ['Node 1, zone Movable', 458752, 65501, 65501],
    ]);
    expect(m.check(1)).toEqual([]);
  });

  it('G3 golden: DMA32 of the guest of 65 GiB spans to 4 GiB, its RAM ends at 2 GiB', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0x1), end: toPfn(0x9f), node: toNodeId(0) },
        { start: toPfn(0x100), end: toPfn(0x7ffdd), node: toNodeId(0) },
        { start: toPfn(0x100000), end: toPfn(0x10c0000), node: toNodeId(0) },
      ],
      code: 'shared',
    });
    expect(m.pools.filter((p) => p.present > 0).map((p) => [p.name, p.startPfn, p.spanned, p.present])).toEqual([
      ['DMA', 1, 4095, 3998],
      ['DMA32', 4096, 1044480, 520157],
      ['Normal', 1048576, 16515072, 16515072],
    ]);
  });

  it('G4 a range may name its zone; ranges come out sorted, and one that overlaps, is empty or broken throws', () => {
    const r = (start: number, end: number) => ({ start: toPfn(start), end: toPfn(end), node: toNodeId(0) });
    expect(shown({ ram: [{ ...r(8192, 9000), zone: 3 }, r(0, 8192)] })).toEqual([
      [0, 'DMA', 0, 4096],
      [0, 'DMA32', 4096, 4096],
      [0, 'Movable', 8192, 808],
    ]);
    expect(() => zonesOf({ ram: [r(0, 10), r(9, 20)] })).toThrow(/overlap/);
    expect(() => zonesOf({ ram: [r(5, 5)] })).toThrow(/empty/);
    expect(() => zonesOf({ ram: [r(0.5, 7)] })).toThrow(/whole frames/);
    expect(() => zonesOf({ ram: [r(-4, 7)] })).toThrow(/whole frames/);
  });
});
