// The checker's own test: break one table after the other, and see the right rule speak. A sound machine is silent.

import { describe, expect, it } from 'vitest';
import { toNodeId, toOrder, toPfn } from '#base/units';
import { type World, worldFrom } from '../../test/support/picture.ts';
import { PAGES_PER_SECTION } from './geometry.ts';
import { HUGE_2M } from './hugetlb.ts';
import { setNrHugepages } from './hugetlb-resize.ts';
import type { Machine } from './machine.ts';
import type { Pool } from './pool.ts';
import { KIND_ABSENT, KIND_HEAD0, KIND_TAIL, SLOTS_AT, TAG_SHIFT } from './section.ts';

const world = (): World => {
  const w = worldFrom(`
    n0 DMA32    MM..mF..|U:.U......|TTTTTTTT|HHHHHHHH
    n0 Normal   ........|M......#
    n1 Normal   .R..V...
    n1 Movable  X.......
    n1 Movable  ........
  `);
  expect(w.m.sections.words[4]).toBeUndefined(); // an idle section: the checker settles it by counting
  // Some frames on a per-CPU list.
  const got = Array.from({ length: 8 }, () => w.m.alloc(w.holder('M'), toOrder(0), { topZone: 1 }));
  for (const pfn of got) w.m.free(toPfn(pfn));
  expect(w.m.check(3)).toEqual([]);
  expect(w.m.pools.some((p) => p.alloc.pcpPages() > 0)).toBe(true);
  return w;
};

// In these worlds section k is in slot k: a frame's number is its index.
const metaOf = (m: Machine, frame: number): number => m.sections.metaAt(frame);
const setMeta = (m: Machine, frame: number, meta: number): void => m.sections.setMeta(frame, meta);
const setOwner = (m: Machine, frame: number, slot: number): void => {
  const words = m.sections.wordsFor(frame);
  const at = SLOTS_AT + 2 * (frame % PAGES_PER_SECTION);
  words[at] = (slot + 1) & 0xffff;
  words[at + 1] = (slot + 1) >>> 16;
};
const dma32 = (m: Machine): Pool => m.poolNamed(toNodeId(0), 'DMA32') as Pool; // drawn above
const aFreeFrame = (p: Pool): { i: number; order: number } => {
  const found: { i: number; order: number }[] = [];
  p.alloc.area.forEachFree(0, p.pages, (i, order) => found.push({ i, order }));
  return found[found.length - 1];
};
const aPcpFrame = (p: Pool): number => {
  let frame = -1;
  p.alloc.forEachPcp((_cpu, _mt, i) => {
    frame = i;
  });
  return frame;
};

/** What is broken, the rules that must speak, and the level from which they do. */
const BREAKS: readonly { name: string; rule: string; level: 0 | 1 | 2 | 3; break: (w: World) => void }[] = [
  { name: 'managed below zero', rule: 'C0', level: 0, break: ({ m }) => void (dma32(m).managed = -1) },
  { name: 'managed above present', rule: 'C0', level: 0, break: ({ m }) => void (dma32(m).managed = 40000) },
  { name: 'a span shorter than present', rule: 'C0', level: 0, break: ({ m }) => void (dma32(m).endPfn = toPfn(9)) },
  { name: 'a lost free chunk: the counter', rule: 'C1', level: 1, break: ({ m }) => loseChunk(dma32(m)) },
  { name: 'a lost free chunk: its frames', rule: 'C2', level: 2, break: ({ m }) => loseChunk(dma32(m)) },
  {
    name: 'a frame on a per-CPU list and free',
    rule: 'C1',
    level: 1,
    break: ({ m }) => dma32(m).alloc.area.free(aPcpFrame(dma32(m)), 0),
  },
  {
    name: 'a frame twice on a per-CPU list',
    rule: 'C1',
    level: 1,
    break: ({ m }) => {
      dma32(m).alloc.columns.pages.fill(aPcpFrame(dma32(m)));
    },
  },
  {
    name: 'a section number that two slots have',
    rule: 'C5',
    level: 1,
    break: ({ m }) => void (m.sections.number[1] = m.sections.number[0]),
  },
  { name: "a section's shift", rule: 'C5', level: 1, break: ({ m }) => void m.sections.shift[1]++ },
  { name: 'a block said to be offline', rule: 'C5', level: 1, break: ({ m }) => void (m.blocks.state[0] = 0) },
  { name: "a block's pool", rule: 'C5', level: 1, break: ({ m }) => void (m.blocks.pool[0] = 1) },
  { name: "a pageblock's pool", rule: 'C5', level: 1, break: ({ m }) => void (m.owners.owner[5] = 2) },
  { name: "a pageblock's pool: its free frames", rule: 'C2', level: 2, break: ({ m }) => void (m.owners.owner[5] = 2) },
  { name: 'a pageblock without a pool', rule: 'C2', level: 2, break: ({ m }) => void (m.owners.owner[5] = -1) },
  { name: "an idle pageblock's pool", rule: 'C2', level: 2, break: ({ m }) => void (m.owners.owner[4 * 64 + 9] = 0) },
  {
    name: 'an idle section without a pool',
    rule: 'C2',
    level: 2,
    break: ({ m }) => void m.owners.owner.fill(-1, 4 * 64),
  },
  {
    name: 'a lost chunk of an idle section',
    rule: 'C2',
    level: 2,
    break: ({ m }) => {
      const p = m.poolNamed(toNodeId(1), 'Movable') as Pool; // drawn above
      p.alloc.take(4 * PAGES_PER_SECTION + 2048 - p.base, 10);
    },
  },
  { name: 'managed off by one', rule: 'C2', level: 2, break: ({ m }) => void dma32(m).managed-- },
  { name: 'present off by one', rule: 'C2', level: 2, break: ({ m }) => void dma32(m).present-- },
  {
    name: 'a used frame that is free as well',
    rule: 'C2',
    level: 2,
    break: ({ m, at }) => setMeta(m, at(0, 0, 2), KIND_HEAD0),
  },
  {
    name: 'a used frame on a per-CPU list',
    rule: 'C2',
    level: 2,
    break: ({ m }) => {
      const p = dma32(m);
      setMeta(m, aPcpFrame(p) + p.base, KIND_HEAD0);
    },
  },
  { name: 'a head that is gone', rule: 'C2', level: 2, break: ({ m, at }) => setMeta(m, at(0, 0, 0), 0) },
  { name: 'a tail that is gone', rule: 'C2', level: 2, break: ({ m, at }) => setMeta(m, at(0, 0, 0) + 5, 0) },
  {
    name: 'a tail too many',
    rule: 'C2',
    level: 2,
    break: ({ m, at }) => setMeta(m, at(0, 0, 2), KIND_TAIL),
  },
  {
    name: 'an absent frame that is free',
    rule: 'C2',
    level: 2,
    break: ({ m, at }) => setMeta(m, at(0, 0, 2), KIND_ABSENT),
  },
  {
    name: 'a present frame of a hole',
    rule: 'C2',
    level: 2,
    break: ({ m, at }) => setMeta(m, at(1, 1, 7), 0),
  },
  {
    name: 'an allocation of the wrong order',
    rule: 'C3',
    level: 3,
    break: ({ m, at }) => {
      // Halves of one allocation: both are heads, the frames' states are sound; only the holder knows better.
      setMeta(m, at(0), metaOf(m, at(0)) - 1);
      setMeta(m, at(0) + 32, metaOf(m, at(0)));
    },
  },
  {
    name: "two allocations' holders exchanged",
    rule: 'C3',
    level: 3,
    break: ({ m, at }) => {
      const [a, b] = [m.sections.ownerAt(at(0)), m.sections.ownerAt(at(0, 0, 5))];
      setOwner(m, at(0), b);
      setOwner(m, at(0, 0, 5), a);
    },
  },
  { name: "a holder's members", rule: 'C3', level: 3, break: ({ m }) => void m.holders.members[0]++ },
  { name: "a holder's pages", rule: 'C3', level: 3, break: ({ m }) => void m.holders.pages[0]-- },
  {
    name: "a holder's entry that points elsewhere",
    rule: 'C3',
    level: 3,
    break: ({ m, at }) => m.holders.move(m.sections.ownerAt(at(0)), at(0, 0, 1)),
  },
  {
    name: 'contents of a head',
    rule: 'C4',
    level: 3,
    break: ({ m, at }) => setMeta(m, at(0, 0, 1), metaOf(m, at(0, 0, 1)) ^ (1 << TAG_SHIFT)),
  },
  {
    name: 'contents of a tail that was not copied',
    rule: 'C4',
    level: 3,
    break: ({ m, at }) => setMeta(m, at(0, 0, 1) + 63, KIND_TAIL),
  },
];

/** A chunk vanishes from the lists behind the allocator's back. */
function loseChunk(p: Pool): void {
  const { i, order } = aFreeFrame(p);
  p.alloc.area.take(i, order);
}

describe('check', () => {
  it('C0 C1 C2 C3 C4 C5 M1 a sound machine has no violations, whatever was done to it', () => {
    const { m, block } = world();
    for (const b of [3, 0]) {
      m.offline(block(b));
      for (const level of [0, 1, 2, 3] as const) expect(m.check(level)).toEqual([]);
    }
  });

  for (const { name, rule, level, break: damage } of BREAKS) {
    it(`${rule} tells ${name}, from level ${level} on`, () => {
      const w = world();
      damage(w);
      const rulesAt = (l: number): string[] => [...new Set(w.m.check(l as 0 | 1 | 2 | 3).map((v) => v.rule))];
      expect(rulesAt(level), JSON.stringify(w.m.check(level).slice(0, 3))).toContain(rule);
      for (let l = 0; l < level; l++) expect(rulesAt(l)).not.toContain(rule);
    });
  }

  it('M3 tells a frame that stayed in a block of which it is said that nothing did', () => {
    const w = world();
    expect(w.m.offline(w.block(3)).ok).toBe(true); // X stays: poisoned frames may
    const row = w.m.blocks.rowOf(w.block(3));
    expect(w.m.blocks.stayed[row]).toBe(1);
    expect(w.m.check()).toEqual([]);
    w.m.blocks.stayed[row] = 0;
    expect(w.m.check().map((v) => v.detail)).toEqual([expect.stringMatching(/^M3 nothing stayed in block 3/)]);
  });

  it('C6 asks the subsystems that remember frames: a pool of huge pages that has one less than it says', () => {
    const w = world();
    const before = new Set(w.m.holders.specs.keys());
    expect(setNrHugepages(w.m, HUGE_2M, 1)).toBe(1);
    expect(w.m.check()).toEqual([]);
    const pool = w.m.holders.specs.findIndex((s, h) => s.class === 'hugetlb' && !before.has(h));
    w.m.holders.pages[pool] = 0;
    expect(w.m.check(2).map((v) => v.rule)).not.toContain('C6');
    expect(w.m.check(3).map((v) => v.rule)).toContain('C6');
  });

  it('C2 tells a used frame in a block that is offline', () => {
    const w = world();
    expect(w.m.offline(w.block(3)).ok).toBe(true); // X stays: poisoned frames may
    expect(w.m.check()).toEqual([]);
    (w.m.holders.specs[w.holder('X')] as { class: string }) = {
      ...w.m.holders.specs[w.holder('X')],
      class: 'anonymous',
    };
    expect(w.m.check(2).map((v) => v.rule)).toContain('C2');
  });

  it('C2 names the frame and what is wrong with it; a million of one rule are cut to the first', () => {
    const w = world();
    const m = w.m;
    m.owners.owner.fill(-1);
    const found = m.check(2).filter((v) => v.rule === 'C2');
    expect(found.length).toBe(20);
    expect(found[0].detail).toMatch(/frame \d+ is free in Node 0, zone DMA32, not its pool/);
  });

  it('C4 is not asked where contents are not modelled', () => {
    const { m } = worldFrom('n0 Normal MM......', { contents: 'none' });
    expect(m.check(3)).toEqual([]);
  });
});
