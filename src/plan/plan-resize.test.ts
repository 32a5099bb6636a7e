// Resizing planned, on drawn machines and captures with made-up hypervisors. Rules: docs/spec/planner.md.

import { describe, expect, it } from 'vitest';
import { pfnOf, WORD } from '../../test/support/synthetic-capture.ts';
import type { Goal } from './plan.ts';
import { plan } from './planner.ts';
import { actionsOf, drawnWorld, executed, GIB, type MadeUp, MIB } from './worlds.cases.ts';

const BLOCK = 128 * MIB;
const to = (bytes: number): Extract<Goal, { verb: 'resize' }> => ({ verb: 'resize', bytes });

/** 1 GiB of boot memory; two DIMMs of 128 and 256 MiB at 4 and 5 GiB, a virtio-mem device of 256 MiB at 6 GiB; all Movable. */
const world = (h: MadeUp = {}, frames: (readonly [number, number, readonly [number, number]])[] = []) =>
  drawnWorld(
    {
      blocks: [
        ...Array.from({ length: 8 }, (_, k) => ({ id: 8 + k, zone: 'DMA32' as const })),
        ...[32, 40, 41, 48, 49].map((id) => ({ id, zone: 'Movable' as const, node: 1 })),
      ],
      frames,
    },
    {
      base: GIB,
      max: 64 * GIB,
      slots: 8,
      balloon: GIB,
      dimms: [
        { id: 'd128', addr: 4 * GIB, size: BLOCK, node: 1 },
        { id: 'd256', addr: 5 * GIB, size: 2 * BLOCK, node: 1 },
      ],
      virtioMem: [{ id: 'vm0', addr: 6 * GIB, size: 2 * BLOCK, node: 1, maxSize: GIB }],
      ...h,
    },
  );
const HAS = GIB + 5 * BLOCK;

describe('resizing', () => {
  it('PN11 what it has already is an empty plan', () => {
    expect(plan(to(HAS), world())).toMatchObject({ feasible: true, units: [], rejected: [] });
  });

  it('PN11 down: devices first, to the byte where they can', () => {
    const p = plan(to(HAS - 132 * MIB), world());
    expect(p.feasible).toBe(true);
    expect(p.units.reduce((n, u) => n + u.bytes, 0)).toBe(132 * MIB);
    expect(p.units.some((u) => u.name === 'balloon')).toBe(false);
    expect(p.rejected.find((r) => r.name === 'balloon')?.reason).toMatch(/not needed/);
    expect(p.rejected.find((r) => r.name === 'dimm:d256')?.reason).toMatch(/256M are more than is to go/);
  });

  it('PN11 down: virtio-mem to its last block, the rest is the balloon', () => {
    const p = plan(to(HAS - 5 * BLOCK - 3 * MIB), world());
    expect(p.feasible).toBe(true);
    expect(p.units.map((u) => u.name).toSorted()).toEqual(['balloon', 'dimm:d128', 'dimm:d256', 'virtio-mem:vm0']);
    expect(p.units.at(-1)).toMatchObject({ name: 'balloon', bytes: 3 * MIB });
    expect(p.units.at(-1)?.steps[0]).toMatchObject({
      action: { do: 'balloon', bytes: GIB - 3 * MIB },
      undo: [{ do: 'balloon', bytes: GIB }],
      risk: expect.stringMatching(/may take it back/),
    });
    const input = world();
    const odd = plan(to(HAS - 3 * MIB), input);
    expect(odd.units.map((u) => [u.name, u.bytes])).toEqual([
      ['virtio-mem:vm0', 2 * MIB],
      ['balloon', MIB],
    ]);
    const { m, wrong } = executed(input, p);
    expect(wrong).toEqual([]);
    expect(m.check()).toEqual([]);
  });

  it('PN11 down: never below, and without a balloon what devices cannot give is missing', () => {
    const { balloon: _, ...none } = { balloon: 0 };
    const input = drawnWorld(
      { blocks: [{ id: 8 }, { id: 9 }, { id: 32, zone: 'Movable', node: 1 }] },
      { base: 2 * BLOCK, dimms: [{ id: 'd128', addr: 4 * GIB, size: BLOCK, node: 1 }], ...none },
    );
    const p = plan(to(2 * BLOCK + MIB), input);
    expect(p).toMatchObject({ feasible: false, units: [] });
    expect(p.summary).toMatch(/127M more would have to go/);
    expect(p.rejected.map((r) => r.name)).toEqual(['dimm:d128', 'balloon']);
  });

  it('PN11 down: a DIMM with kernel pages stays, and is named; the balloon takes what it may', () => {
    const stuck = [32, 40, 48].map((b) => [pfnOf(b), 4, WORD.slab] as const);
    const more = [41, 49].map((b) => [pfnOf(b), 4, WORD.slab] as const);
    const p = plan(to(HAS - BLOCK), world({}, [...stuck, ...more]));
    expect(p.feasible).toBe(true);
    expect(p.rejected.map((r) => r.name)).toContain('dimm:d128');
    expect(p.rejected.find((r) => r.name === 'dimm:d128')?.reason).toMatch(
      /block:32: 4 pages in ZONE_MOVABLE do not move.* held by slab/,
    );
    // All of virtio-mem but the pieces with slab pages can go: it is enough.
    expect(p.units.map((u) => [u.name, u.bytes])).toEqual([['virtio-mem:vm0', BLOCK]]);
  });

  it('PN11 down: more than the guest can spare is refused, and planned by force with the risk', () => {
    const used = Array.from({ length: 8 }, (_, k) => [pfnOf(8 + k), 32000, WORD.anon] as const);
    const goal = to(HAS - 5 * BLOCK - 512 * MIB);
    const p = plan(goal, world({}, used));
    expect(p.feasible).toBe(false);
    expect(p.rejected.map((r) => r.name)).toContain('balloon');
    expect(p.rejected.find((r) => r.name === 'balloon')?.reason).toMatch(
      /could give \d.* and would be out of memory|high watermarks/,
    );
    const forced = plan(goal, world({}, used), { force: true });
    expect(forced.feasible).toBe(true);
    expect(forced.warnings.join('\n')).toMatch(/balloon: /);
  });

  it('PN11 up: the balloon gives back first, then virtio-mem grows, then a DIMM comes', () => {
    const shrunk = world({ balloon: GIB - 256 * MIB });
    const has = HAS - 256 * MIB;
    expect(actionsOf(plan(to(has + 100 * MIB), shrunk))).toEqual(['balloon']);
    const second = plan(to(has + 356 * MIB), shrunk);
    expect(second.units.map((u) => [u.name, u.bytes])).toEqual([
      ['balloon', 256 * MIB],
      ['virtio-mem:vm0', 100 * MIB],
    ]);
    const third = plan(to(has + 256 * MIB + 768 * MIB + 2 * BLOCK), shrunk);
    expect(third.units.map((u) => [u.name, u.bytes])).toEqual([
      ['balloon', 256 * MIB],
      ['virtio-mem:vm0', 768 * MIB],
      ['dimm:dimm0', 2 * BLOCK],
    ]);
    expect(executed(shrunk, third).wrong).toEqual([]);
  });

  it('PN11 up: a DIMM is whole memory blocks, and the balloon keeps what is too much', () => {
    const shrunk = world({ balloon: GIB - 256 * MIB });
    const p = plan(to(HAS + 768 * MIB + 100 * MIB), shrunk);
    expect(p.feasible).toBe(true);
    expect(p.units.map((u) => [u.name, u.bytes])).toEqual([
      ['balloon', 228 * MIB],
      ['virtio-mem:vm0', 768 * MIB],
      ['dimm:dimm0', BLOCK],
    ]);
    const p2 = plan(to(HAS + 768 * MIB + 100 * MIB), world());
    expect(p2.feasible).toBe(false);
    expect(p2.rejected.map((r) => r.reason).join()).toMatch(/100M are no whole memory blocks \(128M\)/);
  });

  it('PN11 without a hypervisor, or to a part of a page, is refused', () => {
    expect(plan(to(GIB), drawnWorld({ blocks: [{ id: 8 }] })).summary).toMatch(/by its hypervisor, and none is asked/);
    expect(plan(to(GIB + 1), world()).summary).toMatch(/no whole pages/);
  });
});
