// The cheapest set: which of several things to give so that they come to at least so much (or at most), at the least cost.
//
//   a thing   a DIMM: give it or not                    options  [(8 units, 57 ms)]
//             a device: as little or as much as it can  options  [(1 unit, 2 ms) (2 units, 5 ms) ...]
//
//   best[s] = the cheapest way to s units or more, out of the things looked at so far
//
// Dynamic programming over units, at most one option of each thing: exact, unlike taking the cheapest first, which takes a
// small cheap DIMM and then the large one that would have done alone. Cost is compared first, then what is given in excess,
// then the order in which things were named: equal input, equal answer.
//
// Cost O(things * options * units); units are memory blocks, of which a TiB has 8192.

export type Option = { readonly units: number; readonly cost: number };
export type Thing = { readonly options: readonly Option[] };

/** Option by thing; -1: it is not given. */
export type Choice = readonly number[];

/** The last thing taken, and what was taken before it. */
type Best = {
  readonly cost: number;
  readonly units: number;
  readonly thing: number;
  readonly option: number;
  readonly before: Best | undefined;
};

/** The cheapest choice that comes to `units` or more. @returns undefined when all of them together do not */
export function cheapestSet(things: readonly Thing[], units: number): Choice | undefined {
  const end = waysTo(things, units, 'at-least')[units];
  return end === undefined ? undefined : choiceOf(things, end);
}

/** The choice that comes nearest to `units` without going beyond; of those the cheapest. */
export function fullestSet(things: readonly Thing[], units: number): Choice {
  const best = waysTo(things, units, 'at-most').findLast((b) => b !== undefined) as Best; // nothing taken is a way to 0
  return choiceOf(things, best);
}

/** By units: the best way to them. 'at-least': the last entry stands for all that is more; 'at-most': more is left out. */
function waysTo(things: readonly Thing[], units: number, bound: 'at-least' | 'at-most'): readonly (Best | undefined)[] {
  let best: (Best | undefined)[] = new Array<Best | undefined>(units + 1).fill(undefined);
  best[0] = { cost: 0, units: 0, thing: -1, option: -1, before: undefined };
  things.forEach(({ options }, thing) => {
    const next = best.slice();
    for (const before of best) {
      if (before === undefined) continue;
      options.forEach((o, option) => {
        const sum = before.units + o.units;
        if (bound === 'at-most' && sum > units) return;
        const to = Math.min(units, sum);
        const made = { cost: before.cost + o.cost, units: sum, thing, option, before };
        const there = next[to];
        if (there === undefined || cheaper(made, there)) next[to] = made;
      });
    }
    best = next;
  });
  return best;
}

function choiceOf(things: readonly Thing[], end: Best): Choice {
  const choice = new Array<number>(things.length).fill(-1);
  for (let b: Best | undefined = end; b !== undefined && b.thing >= 0; b = b.before) choice[b.thing] = b.option;
  return choice;
}

const cheaper = (a: Best, b: Best): boolean => a.cost < b.cost || (a.cost === b.cost && a.units < b.units);
