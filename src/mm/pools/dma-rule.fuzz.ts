// DMA rules against brute force: in a world of eight pages every list of segments is tried on every rule.
//
// The oracle reads the rule as it is written, never its form. A rule allows some lists of at most four segments, and some
// pairs of them to be live at the same time; the one rule implies the other if it allows no more of either.

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { PAGE_SIZE } from '../geometry.ts';
import { type Extent, extent } from './dma-extent.ts';
import { type DmaForm, type DmaRule, formOfRule, leastStrictFirst, restricted, satisfies } from './dma-rule.ts';

const PAGES = 8;
type World = { readonly rule: DmaRule; readonly frames: readonly Extent[]; readonly form: DmaForm };

/** Every set of one to four disjoint runs of eight pages. */
const LISTS: readonly (readonly Extent[])[] = (() => {
  const all: Extent[][] = [];
  const grow = (from: number, list: Extent[]): void => {
    if (list.length > 0) all.push(list);
    if (list.length === 4) return;
    for (let s = from; s < PAGES; s++) for (let e = s + 1; e <= PAGES; e++) grow(e, [...list, extent(s, e)]);
  };
  grow(0, []);
  return all;
})();

const formOf = (rule: DmaRule): DmaForm => {
  const form = formOfRule(rule);
  if (!form.ok) throw new Error(form.error.message);
  return form.value;
};

/** A rule, and the frames that a pool made for it has: these, or any. */
function world(prng: Prng, same?: readonly Extent[]): World {
  const align = prng.weighted([5, 3, 2, 1]);
  const window = align + prng.below(4 - align);
  const boundary = align + prng.below(4 - align);
  const highest = prng.chance(0.7) ? PAGES - 1 : 2 ** window - 1 + prng.below(PAGES - 2 ** window + 1);
  const rule: DmaRule = {
    addrMax: { highest: (highest + 1) * PAGE_SIZE - 1 },
    align: 2 ** align * PAGE_SIZE,
    ...(prng.chance(0.5) ? { windowBits: 12 + window } : {}),
    ...(prng.chance(0.5) ? { boundary: 2 ** boundary * PAGE_SIZE } : {}),
    ...(prng.chance(0.5) ? { maxSegments: 1 + prng.below(3) } : {}),
    ...(prng.chance(0.3) ? { node: { nodes: prng.pick([[0], [1], [0, 1]]), strength: 'required' as const } } : {}),
  };
  const frames: Extent[] = [...(same ?? [])];
  if (same !== undefined) return { rule, frames, form: restricted(formOf(rule), frames) };
  if (prng.chance(0.4)) frames.push(extent(0, PAGES));
  else for (let p = 0; p < PAGES; p++) if (prng.chance(0.6)) frames.push(extent(p, p + 1));
  return { rule, frames, form: restricted(formOf(rule), frames) };
}

/** What a rule allows where all memory is on one node: a flag a list; and hulls (first * 8 + last) by window. */
function allowed(w: World, node: number): { lists: boolean[]; hulls: Map<number, Set<number>>; most: number } {
  const { rule } = w;
  const has = new Set(w.frames.flatMap((f) => Array.from({ length: f.end - f.start }, (_, i) => f.start + i)));
  const block = (bytes: number | undefined): number => (bytes ?? 2 ** 40) / PAGE_SIZE;
  const window = rule.windowBits === undefined ? block(undefined) : block(2 ** rule.windowBits);
  const hulls = new Map<number, Set<number>>();
  let most = 0;
  const lists = LISTS.map((list) => {
    if (rule.node !== undefined && !rule.node.nodes.includes(node)) return false;
    if (list.length > (rule.maxSegments ?? 99)) return false;
    for (const s of list) {
      if (s.start % block(rule.align) !== 0) return false;
      const at = Math.floor(s.start / block(rule.boundary));
      for (let p: number = s.start; p < s.end; p++) {
        if (!has.has(p) || p * PAGE_SIZE > (rule.addrMax as { highest: number }).highest) return false;
        if (Math.floor(p / block(rule.boundary)) !== at) return false;
      }
    }
    const [first, last] = [list[0]?.start ?? 0, (list.at(-1)?.end ?? 0) - 1];
    const at = Math.floor(first / window);
    if (Math.floor(last / window) !== at) return false;
    hulls.set(at, (hulls.get(at) ?? new Set()).add(first * PAGES + last));
    most = Math.max(most, list.length);
    return true;
  });
  return { lists, hulls, most };
}

/** Does `a` allow no list, and no pair of lists at a time, that `b` does not? `most`: segments of its longest list. */
function implies(a: World, b: World): { yes: boolean; some: boolean; most: number } {
  let some = false;
  let most = 0;
  // No rule names node 2: to require nodes 0 and 1 is something.
  for (const node of [0, 1, 2]) {
    const [x, y] = [allowed(a, node), allowed(b, node)];
    most = Math.max(most, x.most);
    if (x.lists.some((l) => l)) some = true;
    if (x.lists.some((l, i) => l && !y.lists[i])) return { yes: false, some, most };
    const together = (hulls: Map<number, Set<number>>, p: number, q: number): boolean =>
      [...hulls.values()].some((set) => set.has(p) && set.has(q));
    for (const set of x.hulls.values()) {
      for (const p of set) for (const q of set) if (!together(y.hulls, p, q)) return { yes: false, some, most };
    }
  }
  return { yes: true, some, most };
}

it('DR10 DR11 satisfies is what brute force over all buffers of eight pages finds, both ways', () => {
  const seed = 20071025;
  const prng = new Prng(seed);
  const seen = { implies: 0, not: 0, segmentsOnly: 0, equal: 0 };
  let a = world(prng);
  for (let i = 0; i < 4000; i++) {
    const b = world(prng, prng.chance(0.5) ? a.frames : undefined);
    const where = `seed=${seed} i=${i} a=${a.form.key} b=${b.form.key}`;
    const oracle = implies(a, b);
    const said = satisfies(a.form, b.form);
    if (said) expect(oracle.yes, where).toBe(true);
    if (oracle.yes && oracle.some && !said) {
      // The one exception: memory too small for as many segments as `a` allows.
      expect(oracle.most, where).toBeLessThanOrEqual(b.form.maxSegments);
      expect(a.form.maxSegments, where).toBeGreaterThan(b.form.maxSegments);
      expect(satisfies({ ...a.form, maxSegments: b.form.maxSegments }, b.form), where).toBe(true);
      seen.segmentsOnly++;
    } else if (said) seen.implies++;
    else seen.not++;
    // The same buffers, the same key. (Without maxSegments, for the reason above.)
    if (oracle.yes && oracle.some && a.form.maxSegments === b.form.maxSegments && implies(b, a).yes) {
      expect(a.form.key, where).toBe(b.form.key);
      seen.equal++;
    }
    if (prng.chance(0.9)) a = prng.chance(0.5) ? b : world(prng);
  }
  expect(Math.min(...Object.values(seen)), JSON.stringify(seen)).toBeGreaterThan(20);
});

/** A rule of any size, all fields; undefined where it contradicts itself. */
function anyForm(prng: Prng): DmaForm | undefined {
  const bits = prng.pick([24, 32, 32, 36, 64]);
  const form = formOfRule({
    ...(prng.chance(0.8) ? { addrMax: { bits } } : { addrMax: { highest: 2 ** bits * 0.75 - 1 } }),
    ...(prng.chance(0.4) ? { windowBits: prng.pick([22, 24, 26, 32]) } : {}),
    ...(prng.chance(0.4) ? { align: 2 ** prng.pick([9, 12, 16, 24]) } : {}),
    ...(prng.chance(0.4) ? { boundary: 2 ** prng.pick([16, 24, 32]) } : {}),
    ...(prng.chance(0.4) ? { maxSegments: prng.pick([1, 4, 128]) } : {}),
    ...(prng.chance(0.5)
      ? {
          node: {
            nodes: prng.pick([[0], [1], [0, 1], [1, 0, 1]]),
            strength: prng.pick(['preferred', 'required'] as const),
          },
        }
      : {}),
    ...(prng.chance(0.3) ? { coherent: prng.chance(0.5) } : {}),
    ...(prng.chance(0.2) ? { encryptedShared: true } : {}),
  });
  if (!form.ok) return undefined;
  if (prng.chance(0.6)) return form.value;
  const start = prng.below(2 ** 14) * 2 ** prng.pick([0, 10, 16]);
  return restricted(form.value, [extent(start, start + 1 + prng.below(2 ** 21))]);
}

it('DR12 satisfies is a partial order, and leastStrictFirst extends it to a total one', () => {
  const seed = 9;
  const prng = new Prng(seed);
  const forms = Array.from({ length: 400 }, () => anyForm(prng)).filter((f): f is DmaForm => f !== undefined);
  // Close relatives, so that chains occur: the same form on fewer frames.
  for (const f of forms.slice(0, 60)) {
    const last = f.ranges.at(-1);
    if (last !== undefined) forms.push(restricted(f, [extent(0, Math.ceil((last.start + last.end) / 2))]));
  }
  let chains = 0;
  let strict = 0;
  for (const a of forms) {
    expect(satisfies(a, a), `seed=${seed} ${a.key}`).toBe(true);
    for (const b of forms) {
      if (!satisfies(a, b)) continue;
      const where = `seed=${seed} a=${a.key} b=${b.key}`;
      if (satisfies(b, a)) expect(a.key, where).toBe(b.key);
      else {
        strict++;
        expect(leastStrictFirst(b, a), where).toBeLessThan(0);
        expect(leastStrictFirst(a, b), where).toBeGreaterThan(0);
      }
      for (const c of forms) {
        if (!satisfies(b, c)) continue;
        chains++;
        if (!satisfies(a, c)) expect.fail(`not transitive: ${where} c=${c.key}`);
      }
    }
  }
  expect(strict).toBeGreaterThan(1000);
  expect(chains).toBeGreaterThan(10_000);
});

it('DR9 what is canonical stays: to restrict twice is to restrict to the frames in both', () => {
  const seed = 34;
  const prng = new Prng(seed);
  for (let i = 0; i < 3000; i++) {
    const a = world(prng);
    const b = world(prng).frames;
    const both = a.frames.flatMap((x) =>
      b.map((y) => extent(Math.max(x.start, y.start), Math.min(x.end, y.end))).filter((e) => e.start < e.end),
    );
    const where = `seed=${seed} i=${i} ${a.form.key}`;
    expect(restricted(a.form, [extent(0, PAGES)]).key, where).toBe(a.form.key);
    expect(restricted(a.form, b).key, where).toBe(restricted(formOf(a.rule), both).key);
  }
});
