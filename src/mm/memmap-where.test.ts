// What is said of where struct pages lie, and the checker that holds it against the frames. Rules in docs/spec/memmap-move.md.

import { describe, expect, it } from 'vitest';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { AddedRange } from './hotplug.ts';
import { Machine } from './machine.ts';
import { holderNamed, isMemmapSlot, MEMMAP_HOLDER, pfnOfSlot, replaceMemmapSlot, slotAt } from './memmap-frames.ts';
import { moveMemmap } from './memmap-move.ts';
import { checkMemmap, leafOf, memmapStat, structPageOf, VACANT_HOLDER } from './memmap-where.ts';

const S = PAGES_PER_SECTION;
const b = toBlockId;

/** Two sections a block. Blocks 16 and 17 host themselves at the head of 16; 24 is in host 16 too; 28 is kernel's. */
function world(): Machine {
  const m = Machine.boot({
    ram: [{ start: toPfn(0), end: toPfn(8 * S), node: toNodeId(0) }],
    blockSize: 2 ** 28,
    watermarks: 'none',
    code: 'shared',
    hotplug: { memmapOnMemory: 'Y', autoOnline: 'offline' },
  });
  const add = (first: number, end: number, options: Parameters<Machine['addMemory']>[2]): void => {
    expect(m.addMemory({ start: toPfn(first * S), end: toPfn(end * S) }, toNodeId(0), options).ok).toBe(true);
  };
  add(32, 36, { memmap: 'self-range' });
  add(48, 50, { memmap: 'host-section', memmapHosts: [b(16)] });
  add(56, 58, { memmap: 'kernel' });
  for (const id of [16, 17, 24, 28]) expect(m.online(b(id), 'movable').ok).toBe(true);
  expect(m.check()).toEqual([]);
  return m;
}

describe('memmap.stat', () => {
  it('LM15 policy, base, pages, hosts and guests of a block; of boot memory nothing is known', () => {
    const m = world();
    const head = { headPages: 6 * 512 };
    expect(memmapStat(m, b(16))).toEqual({
      ...{ block: 16, policy: 'self-range', basePfn: 32 * S, pages: 1024, hostBlocks: [16], guests: [17, 24] },
      ...head,
    });
    expect(memmapStat(m, b(17))).toMatchObject({ policy: 'self-range', basePfn: 32 * S + 1024, hostBlocks: [16] });
    expect(memmapStat(m, b(24))).toMatchObject({ policy: 'host-section', basePfn: 32 * S + 2048, hostBlocks: [16] });
    expect(memmapStat(m, b(28))).toMatchObject({ policy: 'kernel', guests: [], headPages: 0 });
    expect(memmapStat(m, b(0))).toMatchObject({ policy: 'boot', basePfn: -1, hostBlocks: [], guests: [] });
    expect(memmapStat(m, b(99))).toBeUndefined();
  });

  it('LM15 a struct page has the address V + 64 pfn; 64 of them are in a frame', () => {
    const m = world();
    const first = structPageOf(m, toPfn(33 * S));
    expect(first).toEqual({ address: 'ffffea0004200000', frame: 32 * S + 512 });
    expect(structPageOf(m, toPfn(33 * S + 63))?.frame).toBe(32 * S + 512);
    expect(structPageOf(m, toPfn(33 * S + 64))?.frame).toBe(32 * S + 513);
    expect(structPageOf(m, toPfn(34 * S - 1))?.frame).toBe(32 * S + 1023);
    expect(structPageOf(m, toPfn(0))).toEqual({ address: 'ffffea0000000000', frame: undefined });
    expect(structPageOf(m, toPfn(99 * S))).toBeUndefined();
  });
});

describe('the checker', () => {
  /** The range that begins at a section, with something else said of its struct pages. */
  const rewrite = (m: Machine, section: number, change: (r: AddedRange) => Partial<AddedRange['memmap']>): void => {
    m.hotplug.ranges = m.hotplug.ranges.map((r) =>
      r.start === section * S ? { ...r, memmap: { ...r.memmap, ...change(r) } } : r,
    );
  };
  const BREAKS: readonly { name: string; says: RegExp; break: (m: Machine) => void }[] = [
    {
      name: 'one leaf for two sections',
      says: /D1 slot \d+ is of the leaf of section 32 and of the leaf of section 33/,
      break: (m) =>
        rewrite(m, 32, ({ memmap: { leaves } }) => ({ leaves: [leaves[0], leaves[0], leaves[2], leaves[3]] as never })),
    },
    {
      name: 'a section without a leaf',
      says: /D1 2 sections, 1 leaves/,
      break: (m) => rewrite(m, 56, ({ memmap: { leaves } }) => ({ leaves: leaves.slice(0, 1) })),
    },
    {
      name: 'frames that are of no section',
      says: /D1 frame \d+ \(struct pages of added memory\) is of no section/,
      break: (m) => void m.alloc(holderNamed(m, 'memmap', MEMMAP_HOLDER), toOrder(9)),
    },
    {
      name: 'a leaf whose frames were given away',
      says: /D1 the leaf of section 56: no allocation of order 9 there/,
      break: (m) => m.free(pfnOfSlot(m, leafOf(m, 56)?.leaf.slots[0] as number)),
    },
    {
      name: 'a host that nobody knows',
      says: /D2 block 16 hosts others and is no host/,
      break: (m) => m.hotplug.hosts.clear(),
    },
    {
      name: 'a host without guests',
      says: /D2 block 3 is a host without guests/,
      break: (m) => void m.hotplug.hosts.add(b(3)),
    },
    {
      name: 'something else in a head',
      says: /D1 frame \d+ in the head of its block: noise/,
      break: (m) => {
        const noise = m.addHolder({ class: 'memmap', name: 'noise' });
        const at = m.sections.indexOf(toPfn(32 * S + 2560));
        m.unhold(at, 9);
        m.occupy(noise, at, 9);
      },
    },
    {
      name: 'a head that ends vacant',
      says: /D4 block 16: its head ends vacant/,
      break: (m) => {
        const at = m.sections.indexOf(toPfn(32 * S + 6 * PAGEBLOCK_PAGES));
        m.blocks.vmemmapPages[m.blocks.rowOf(b(16))] = 7 * PAGEBLOCK_PAGES;
        m.occupy(holderNamed(m, 'memmap', VACANT_HOLDER), at, 9);
      },
    },
  ];
  for (const { name, says, break: breakIt } of BREAKS) {
    it(`LM15 ${name}: check() says so`, () => {
      const m = world();
      breakIt(m);
      expect(
        checkMemmap(m).some((s) => says.test(s)),
        checkMemmap(m).join('\n'),
      ).toBe(true);
      expect(m.check().some((v) => v.rule === 'C11')).toBe(true);
    });
  }

  it('LM15 who frees a leaf and takes another says so, and all is sound', () => {
    const m = world();
    const slot = leafOf(m, 56)?.leaf.slots[0] ?? -1;
    const pfn = pfnOfSlot(m, slot);
    expect([isMemmapSlot(m, slot), isMemmapSlot(m, 10 ** 6)]).toEqual([true, false]);
    const to = m.alloc(holderNamed(m, 'memmap', MEMMAP_HOLDER), toOrder(9));
    m.free(pfn);
    replaceMemmapSlot(m, slot, slotAt(m, to));
    expect(m.check()).toEqual([]);
    expect(memmapStat(m, b(28))?.basePfn).toBe(to);
    expect(moveMemmap(m, b(28), { policy: 'self-block' }).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });
});
