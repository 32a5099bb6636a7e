// Pictures draw what they say, and read back what was drawn.

import { describe, expect, it } from 'vitest';
import { drawn, pictureOf, worldFrom } from './picture.ts';

describe('pictures', () => {
  it('a world reads back as it was drawn, is sound, and has its classes, types, pins and holes', () => {
    const text = `
      n0 DMA32    MM..U...|U:UU.U.UU.|HHHHHHHH|TTTTTTTT|mF.PBVX.
      n0 Normal   ....RD..|C:M.......|A:........
      n1 Normal   MMMMMMMM *U
      n1 Movable  ........|.......#|########
    `;
    const { m, at, holder } = worldFrom(text);
    expect(pictureOf(m)).toBe(drawn(text));
    expect(m.check()).toEqual([]);
    expect(m.frame(at(0, 4, 3))).toMatchObject({ state: 'used', pinned: true, order: 6 });
    expect(m.frame(at(0, 2, 5))).toMatchObject({ head: at(0, 2), order: 9, class: 'hugetlb' });
    expect(m.frame(at(0, 4))).toMatchObject({ order: 0, holder: holder('m') });
    expect(m.frame(at(3, 1, 7))).toEqual({ state: 'absent' });
    expect(m.block(m.blockIds()[3])?.absent).toBe(9 * 64);
  });

  it('an offline block says so, and shows what stayed', () => {
    const { m, block } = worldFrom(`
      n0 Normal   X.......
      n0 Normal   ........
    `);
    expect(m.offline(block(0)).ok).toBe(true);
    expect(pictureOf(m)).toBe(
      drawn(`
        n0 offline  X-------
        n0 Normal   ........
      `),
    );
  });

  it('a wrong picture is told', () => {
    expect(() => worldFrom('n0 Normal   MMM')).toThrow(/8 cells/);
    expect(() => worldFrom('n0 Elsewhere ........')).toThrow(/no such zone/);
    expect(() => worldFrom('n0 Normal   HHHH....')).toThrow(/fills its pageblock/);
    expect(() => worldFrom('n0 Normal   ....q...')).toThrow(/no such letter/);
  });
});
