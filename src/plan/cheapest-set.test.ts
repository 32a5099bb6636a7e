// The cheapest set beside all sets there are. Rules: docs/spec/planner.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type Choice, cheapestSet, fullestSet, type Thing } from './cheapest-set.ts';

const worth = (things: readonly Thing[], choice: Choice): { units: number; cost: number } =>
  choice.reduce(
    (sum, k, t) => {
      const o = things[t]?.options[k];
      return o === undefined ? sum : { units: sum.units + o.units, cost: sum.cost + o.cost };
    },
    { units: 0, cost: 0 },
  );

/** Every choice there is. */
function all(things: readonly Thing[]): { units: number; cost: number }[] {
  let choices: Choice[] = [[]];
  for (const t of things) choices = choices.flatMap((c) => [-1, ...t.options.keys()].map((k) => [...c, k]));
  return choices.map((c) => worth(things, c));
}

const cheapest = (things: readonly Thing[], units: number): { units: number; cost: number } | undefined =>
  all(things)
    .filter((w) => w.units >= units)
    .sort((a, b) => a.cost - b.cost || a.units - b.units)[0];

const fullest = (things: readonly Thing[], units: number): { units: number; cost: number } | undefined =>
  all(things)
    .filter((w) => w.units <= units)
    .sort((a, b) => b.units - a.units || a.cost - b.cost)[0];

describe('the cheapest set', () => {
  it('PN4 is as cheap as the best of all sets, and gives no more than the smallest of the cheapest', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const prng = new Prng(seed);
      const things = Array.from({ length: prng.below(6) }, (): Thing => {
        if (prng.chance(0.6)) return { options: [{ units: 1 + prng.below(6), cost: prng.below(20) }] };
        let cost = 0;
        return {
          options: Array.from({ length: 1 + prng.below(4) }, (_, k) => ({
            units: k + 1,
            cost: (cost += prng.below(5)),
          })),
        };
      });
      const units = 1 + prng.below(14);
      const choice = cheapestSet(things, units);
      expect(choice === undefined ? undefined : worth(things, choice), `seed=${seed}`).toEqual(cheapest(things, units));
      expect(worth(things, fullestSet(things, units)), `seed=${seed}`).toEqual(fullest(things, units));
    }
  });

  it('PN4 takes the one large thing that does alone, not a cheap small one as well', () => {
    const things = [{ options: [{ units: 1, cost: 1 }] }, { options: [{ units: 4, cost: 5 }] }];
    expect(cheapestSet(things, 4)).toEqual([-1, 0]);
  });

  it('PN4 nothing wanted is nothing taken, and too much wanted is no answer', () => {
    const things = [{ options: [{ units: 2, cost: 1 }] }];
    expect(cheapestSet(things, 0)).toEqual([-1]);
    expect(cheapestSet(things, 3)).toBeUndefined();
  });
});
