// The fragmenting run leaves something in every DIMM. Rules in docs/spec/sim.md.

import { describe, expect, it } from 'vitest';
import { type BlockId, toBlockId } from '#base/units';
import { type Machine, PAGES_PER_SECTION } from '#mm/index';
import { leafPfn, leavesOf } from '#mm/memmap-where';
import { type Dimm, holds } from './dimm-box.ts';
import { type FragmentSpec, fragment } from './fragment.ts';

const GIB = 2 ** 30;
const SMALL: FragmentSpec = { bytes: 4 * GIB, dimms: 8, rounds: 8 };

const blocksOf = (m: Machine, d: Dimm): BlockId[] =>
  m.blockIds().filter((id) => d.ranges.some((r) => id * m.blockPages >= r.start && id * m.blockPages < r.end));

describe('fragment', () => {
  const world = fragment(1, SMALL);
  const { m, dimms } = world;

  it('SG1 the same seed gives the same machine, another seed another', () => {
    expect(fragment(1, SMALL).m.digest()).toBe(m.digest());
    expect(fragment(2, SMALL).m.digest()).not.toBe(m.digest());
  });

  it('SG2 90 % of managed memory is free, within half a percent; all DIMMs are online throughout', () => {
    expect(world.free / world.managed).toBeGreaterThanOrEqual(0.9);
    expect(world.free / world.managed).toBeLessThan(0.905);
    expect(dimms.map((d) => d.pages * 4096)).toEqual(Array.from({ length: 8 }, () => GIB / 2));
    expect(m.blockIds().every((id) => m.block(id)?.state === 'online')).toBe(true);
    expect(dimms.flatMap((d) => blocksOf(m, d))).toEqual([...m.blockIds()]);
    expect(m.check()).toEqual([]);
  });

  it('SG3 class X lies in the first DIMM only; the struct pages of each other DIMM lie in a DIMM before it', () => {
    for (let h = 0; h < m.holders.length; h++) {
      if (m.holders.specs[h]?.class !== 'reserved') continue;
      m.holders.forEachMember(h, (frame) => expect(holds(dimms[0] as Dimm, m.sections.pfnOf(frame))).toBe(true));
    }
    const dimmOf = (pfn: number): number => dimms.findIndex((d) => holds(d, pfn));
    let leaves = 0;
    for (const { section, leaf } of leavesOf(m)) {
      expect(dimmOf(leafPfn(m, leaf))).toBeLessThan(dimmOf(section * PAGES_PER_SECTION));
      leaves++;
    }
    expect(leaves).toBe((7 * GIB) / 2 / 2 ** 27);
  });

  it('SG4 each DIMM holds what Linux cannot move: none of them can be removed, though most of their blocks may go', () => {
    for (const d of dimms) {
      const fork = m.fork();
      const refused = blocksOf(m, d).filter((id) => !fork.offline(toBlockId(id)).ok);
      expect(refused.length, d.name).toBeGreaterThan(0);
      expect(fork.check(1), d.name).toEqual([]);
    }
  });

  it('SG5 without grouping by mobility kernel memory is scattered over many times as many pageblocks', () => {
    const scattered = (grouping: boolean): number => {
      const world = fragment(3, { ...SMALL, grouping }).m;
      const blocks = new Set<number>();
      for (let h = 0; h < world.holders.length; h++) {
        if (world.holders.specs[h]?.class !== 'slab') continue;
        world.holders.forEachMember(h, (frame) => blocks.add(frame >>> 9));
      }
      return blocks.size;
    };
    expect(scattered(false)).toBeGreaterThan(4 * scattered(true));
  });
});
