import { describe, expect, it } from 'vitest';
import type { ZoneinfoZone } from '#kernfs/zoneinfo';
import { flagsHeadsOnly, joinTails } from './free-tails.ts';

const span = (startPfn: number, endPfn: number) => ({ startPfn, endPfn });
const counting = (free: number) => [{ free } as ZoneinfoZone];

describe('free tails', () => {
  it('T11 a kernel that flags heads only is told by far fewer flagged frames than zoneinfo counts free', () => {
    const heads = { free: [span(0, 1), span(1024, 1025)], unflagged: [span(1, 1024), span(1025, 2048)] };
    expect(flagsHeadsOnly(heads, counting(2048))).toBe(true);
    expect(flagsHeadsOnly(heads, counting(7)), 'more than a quarter is flagged').toBe(false);
    const full = { free: [span(0, 2048)], unflagged: [] };
    expect(flagsHeadsOnly(full, counting(2048)), 'all flagged').toBe(false);
    expect(flagsHeadsOnly(full, counting(100_000)), 'torn: nothing unflagged could be the missing').toBe(false);
  });

  it('T12 a head takes the unflagged frames behind it, as far as its alignment allows', () => {
    // 8 is aligned to order 3: it could take 8..16, and 12 is used.
    expect(joinTails({ free: [span(8, 9)], unflagged: [span(9, 12)] })).toEqual({ free: [span(8, 12)], unflagged: [] });
    // 6 is aligned to order 1 only: the frames behind 8 are not its own.
    expect(joinTails({ free: [span(6, 7)], unflagged: [span(7, 20)] })).toEqual({
      free: [span(6, 8)],
      unflagged: [span(8, 20)],
    });
  });

  it('T12 of neighbouring heads only the last one has tails', () => {
    expect(joinTails({ free: [span(14, 17)], unflagged: [span(17, 32)] })).toEqual({
      free: [span(14, 15), span(15, 16), span(16, 32)],
      unflagged: [],
    });
  });

  it('T12 a chunk is never larger than order 10, and frames before a head stay unflagged', () => {
    const joined = joinTails({ free: [span(2048, 2049)], unflagged: [span(100, 200), span(2049, 8192)] });
    expect(joined).toEqual({ free: [span(2048, 3072)], unflagged: [span(100, 200), span(3072, 8192)] });
  });
});
