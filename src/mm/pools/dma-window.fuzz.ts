// B1: random rules on random layouts of memory against brute force, frame by frame: found if and only if it exists; and
// what is found is the best, and keeps to the rule.
//
// Memory is four islands of 64 frames, each around a border that matters: a chunk at 2 MiB, 16 MiB, 4 GiB, and 4 TiB. The
// oracle reads the rule as it is written. It knows frames only: which can be had, at which distance, at what cost.

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toNodeId } from '#base/units';
import { CHUNK_PAGES, DMA_END, DMA32_END, PAGE_SIZE } from '../geometry.ts';
import { placeBuffer, violationOf } from './dma-buffer.ts';
import { type Extent, extent, pagesOf } from './dma-extent.ts';
import { type DmaForm, type DmaRule, formOfRule, restricted } from './dma-rule.ts';
import { chooseWindow, type NodeMemory, windowAt } from './dma-window.ts';

const ISLANDS = [CHUNK_PAGES / 2, DMA_END, DMA32_END, 2 ** 30] as const;
const HALF = 32;

type Frame = { readonly node: number; readonly distance: number; readonly cost: number };
const LOCAL: Frame = { node: 0, distance: 10, cost: 0 };
type Layout = { readonly frames: ReadonlyMap<number, Frame>; readonly memory: readonly NodeMemory[] };

/** A rule with sizes around those of the islands; undefined where it contradicts itself. */
function anyRule(prng: Prng): { rule: DmaRule; form: DmaForm } | undefined {
  const some = (p: number, fields: DmaRule): DmaRule => (prng.chance(p) ? fields : {});
  const rule: DmaRule = {
    ...some(0.6, { addrMax: { bits: prng.pick([21, 22, 24, 25, 32, 33, 40, 42, 43, 64]) } }),
    ...some(0.2, { addrMax: { highest: (prng.pick(ISLANDS) - HALF + prng.below(2 * HALF) + 1) * PAGE_SIZE - 1 } }),
    ...some(0.4, { windowBits: prng.pick([12, 13, 14, 15, 16, 17, 18, 20, 24, 26, 32]) }),
    ...some(0.2, { sameHighBits: prng.pick([26, 32, 34, 38, 46, 48, 50]) }),
    ...some(0.4, { align: 2 ** prng.pick([12, 13, 14, 15, 16, 17, 23]) }),
    ...some(0.4, { boundary: 2 ** prng.pick([12, 13, 14, 15, 16, 17, 24]) }),
    ...some(0.5, { maxSegments: 1 + prng.below(6) }),
    ...some(0.3, { node: { nodes: [prng.below(3)], strength: prng.pick(['preferred', 'required'] as const) } }),
  };
  const form = formOfRule(rule);
  return form.ok ? { rule, form: form.value } : undefined;
}

/** Frames that can be had, in runs; nodes change at multiples of 8 frames; a chunk's frames cost the same each. */
function anyLayout(prng: Prng): Layout {
  const frames = new Map<number, Frame>();
  const lists: [Extent[], Extent[], Extent[]] = [[], [], []];
  const distances = prng.pick([
    [10, 21, 31],
    [21, 10, 21],
    [10, 10, 10],
  ]);
  const density = prng.pick([0.1, 0.4, 0.8]);
  for (const at of ISLANDS) {
    if (prng.chance(0.3)) continue;
    const costs = [prng.pick([0, 0, 1, 5, Infinity]), prng.pick([0, 0, 1, 5, Infinity])];
    let node = prng.below(3);
    let there = prng.chance(density);
    for (let p = at - HALF; p < at + HALF; p++) {
      if (p % 8 === 0 && prng.chance(0.2)) node = prng.below(3);
      if (prng.chance(0.25)) there = prng.chance(density);
      if (!there) continue;
      (lists[node] as Extent[]).push(extent(p, p + 1));
      const cost = costs[Number(at % CHUNK_PAGES === 0 && p >= at)] as number;
      frames.set(p, { node, distance: distances[node] as number, cost });
    }
  }
  const memory = lists.map((extents, n) => ({ node: toNodeId(n), distance: distances[n] as number, extents }));
  return { frames, memory };
}

const pagesPer = (bytes: number | undefined): number => (bytes ?? 2 ** 64) / PAGE_SIZE;
const windowPages = (r: DmaRule): number =>
  r.windowBits !== undefined ? pagesPer(2 ** r.windowBits) : pagesPer(2 ** (64 - (r.sameHighBits ?? 0)));

/** May the rule use this frame at all, given who may be used? */
function usable(rule: DmaRule, pfn: number, f: Frame | undefined): boolean {
  if (f === undefined || f.cost === Infinity) return false;
  if (rule.node?.strength === 'required' && !rule.node.nodes.includes(f.node)) return false;
  const max = rule.addrMax as { bits?: number; highest?: number } | undefined;
  const end = max?.bits !== undefined ? 2 ** max.bits : (max?.highest ?? 2 ** 64) + 1;
  return (pfn + 1) * PAGE_SIZE <= end;
}

/** Can a segment reach this frame: is there a possible start below it, with no gap and no border in between? */
function reached(rule: DmaRule, pfn: number, has: (p: number) => boolean): boolean {
  const align = Math.max(1, pagesPer(rule.align ?? PAGE_SIZE));
  const block = Math.min(pagesPer(rule.boundary), windowPages(rule));
  for (let p = pfn; has(p) && Math.floor(p / block) === Math.floor(pfn / block); p--) if (p % align === 0) return true;
  return false;
}

const tier = (p: number): number => (p < DMA_END ? 2 : p < DMA32_END ? 1 : 0);

it('DR13 DR14 DR15 DR16 a window is found if and only if there is one, and it is the best: 10^5 rules on layouts (B1)', () => {
  const seed = 1;
  const prng = new Prng(seed);
  const seen = { found: 0, refused: 0, low: 0, priced: 0, grows: 0 };
  let layout = anyLayout(prng);
  for (let i = 0; i < 100_000; i++) {
    let made = anyRule(prng);
    while (made === undefined) made = anyRule(prng);
    if (prng.chance(0.3)) layout = anyLayout(prng);
    const { rule, form } = made;
    const { frames, memory } = layout;
    const min = 1 + prng.below(prng.pick([2, 8, 40]));
    const where = `seed=${seed} i=${i} min=${min} ${JSON.stringify(rule)} ${form.key}`;

    const windows = new Map<number, { pfn: number; f: Frame }[]>();
    const has = (p: number): boolean => usable(rule, p, frames.get(p));
    for (const [pfn, f] of frames) {
      if (!reached(rule, pfn, has)) continue;
      const at = Math.floor(pfn / windowPages(rule));
      const list = windows.get(at);
      if (list === undefined) windows.set(at, [{ pfn, f }]);
      else list.push({ pfn, f });
    }
    const most = Math.max(0, ...[...windows.values()].map((w) => w.length));

    const cost = (start: number, end: number): number =>
      Array.from({ length: end - start }, (_, k) => frames.get(start + k)?.cost ?? Infinity).reduce((a, b) => a + b, 0);
    const said = chooseWindow(form, memory, { min, max: min + 5 }, cost);
    if (said.ok !== most >= min) expect.fail(`${said.ok ? 'found, but none exists' : 'missed'}: most=${most} ${where}`);
    if (!said.ok) {
      seen.refused++;
      expect(said.error.refusal.errno, where).toBe('ENOSPC');
      expect(said.error.best?.pages ?? 0, where).toBe(most);
      expect(said.error.best?.missing ?? min, where).toBe(min - most);
      continue;
    }
    seen.found++;

    // It keeps to the rule, with nothing but itself to stand on.
    const chosen = said.value.extents.flatMap((e) => Array.from({ length: e.end - e.start }, (_, k) => e.start + k));
    const mine = new Set(chosen);
    const first = chosen[0] as number;
    const at = Math.floor(first / windowPages(rule));
    const fits = chosen.every(
      (p) => has(p) && Math.floor(p / windowPages(rule)) === at && reached(rule, p, (q) => mine.has(q)),
    );
    if (!fits || chosen.length !== min) expect.fail(`${chosen.length} frames, fits=${fits}: ${chosen.join()} ${where}`);
    expect(said.value.room, where).toBe(Math.min(min + 5, windows.get(at)?.length ?? 0));
    if (said.value.room > min) seen.grows++;

    // It is the best: distance, low memory, cost; then the highest window. Where a piece may be of two nodes or chunks,
    // or where it may not be taken frame by frame, frames are not independent and only existence is compared.
    if ((rule.align ?? 0) > 8 * PAGE_SIZE) continue;
    const scored = [...windows].flatMap(([number, list]) => {
      if (list.length < min) return [];
      const sorted = list
        .map(({ pfn, f }) => [f.distance, tier(pfn), f.cost] as const)
        .sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2])
        .slice(0, min);
      const sum = (value: (s: readonly [number, number, number]) => number): number =>
        sorted.reduce((n, s) => n + value(s), 0);
      return [
        [sum((s) => s[0]), sum((s) => Number(s[1] === 2)), sum((s) => Number(s[1] === 1)), sum((s) => s[2]), -number],
      ];
    });
    scored.sort((a, b) => a.map((x, k) => x - (b[k] as number)).find((d) => d !== 0) ?? 0);
    const mineScore = [
      chosen.reduce((n, p) => n + (frames.get(p) as Frame).distance, 0),
      chosen.filter((p) => tier(p) === 2).length,
      chosen.filter((p) => tier(p) === 1).length,
      chosen.reduce((n, p) => n + (frames.get(p) as Frame).cost, 0),
      -at,
    ];
    if (JSON.stringify(scored[0]) !== JSON.stringify(mineScore)) {
      expect.fail(`best=${JSON.stringify(scored[0])} chosen=${JSON.stringify(mineScore)} ${where}`);
    }
    expect([said.value.distance, said.value.cost], where).toEqual([mineScore[0], mineScore[3]]);
    if (tier(first) > 0) seen.low++;
    if (said.value.cost > 0) seen.priced++;
  }
  expect(Math.min(...Object.values(seen)), JSON.stringify(seen)).toBeGreaterThan(500);
});

/** Most frames of one window that `segments` segments hold, one number for each count of segments up to `limit`. */
function mostIn(rule: DmaRule, has: ReadonlySet<number>, window: number, limit: number): number[] {
  const align = Math.max(1, pagesPer(rule.align ?? PAGE_SIZE));
  const block = Math.min(pagesPer(rule.boundary), windowPages(rule));
  // best[m]: with m segments so far, all below the frame that is looked at; a segment is tried from every frame.
  const frames = [...has].filter((p) => Math.floor(p / windowPages(rule)) === window).sort((a, b) => a - b);
  const after = new Map<number, number[]>();
  const none = Array.from({ length: limit + 1 }, () => 0);
  let next = none;
  for (const p of frames.toReversed()) {
    const here = [...next];
    if (p % align === 0) {
      for (let e = p + 1; ; e++) {
        const rest = frames.find((q) => q >= e);
        const behind = rest === undefined ? none : (after.get(rest) as number[]);
        for (let m = 1; m <= limit; m++) here[m] = Math.max(here[m] as number, e - p + (behind[m - 1] as number));
        if (!has.has(e) || Math.floor(e / block) !== Math.floor(p / block)) break;
      }
    }
    after.set(p, here);
    next = here;
  }
  return next;
}

it('DR17 DR18 DR19 a buffer is placed if and only if it can be, in the fewest segments (B1)', () => {
  const seed = 2;
  const prng = new Prng(seed);
  const seen = { placed: 0, refused: 0, split: 0, second: 0 };
  for (let i = 0; i < 20_000; i++) {
    let made = anyRule(prng);
    while (made === undefined) made = anyRule(prng);
    const { rule, form } = made;
    const at = prng.pick(ISLANDS) - 8;
    const density = prng.pick([0.5, 0.8, 1]);
    const free = new Set<number>();
    for (let p = at; p < at + 16; p++) if (prng.chance(density)) free.add(p);
    const extents = [...free].map((p) => extent(p, p + 1));
    const pages = 1 + prng.below(prng.pick([3, 12]));
    const limit = Math.min(rule.maxSegments ?? 16, 16);
    const where = `seed=${seed} i=${i} pages=${pages} free=${[...free].join()} ${JSON.stringify(rule)}`;

    // Which node's frames the pool has was settled when they were chosen.
    const { node: _, ...anywhere } = rule;
    const usableFree = new Set([...free].filter((p) => usable(anywhere, p, LOCAL)));
    const windows = new Set([...usableFree].map((p) => Math.floor(p / windowPages(rule))));
    const fewest = Math.min(
      ...[...windows].map((w) => {
        const most = mostIn(rule, usableFree, w, limit);
        const m = most.findIndex((n) => n >= pages);
        return m < 0 ? Infinity : m;
      }),
    );
    const said = placeBuffer(form, extents, (pages - 1) * PAGE_SIZE + 1 + prng.below(PAGE_SIZE));
    if (said.ok !== fewest < Infinity) expect.fail(`${said.ok ? 'placed' : 'missed'}: fewest=${fewest} ${where}`);
    if (!said.ok) {
      seen.refused++;
      expect(said.error.errno, where).toBe('ENOSPC');
      continue;
    }
    const segments = said.value;
    seen.placed++;
    if (segments.length > 1) seen.split++;
    expect(segments.length, where).toBe(fewest);
    expect(pagesOf(segments), where).toBe(pages);
    expect(violationOf(form, [segments]), where).toBeUndefined();
    const used = segments.flatMap((s) => Array.from({ length: s.end - s.start }, (_, k) => s.start + k));
    expect(used.every((p) => usableFree.has(p)) && new Set(used).size === pages, where).toBe(true);

    // A second buffer goes into the window of the first one, and the two keep to the rule together.
    const left = [...free].filter((p) => !used.includes(p)).map((p) => extent(p, p + 1));
    const window = windowAt(form, (segments[0] as Extent).start);
    const second = placeBuffer(restricted(form, [window]), left, PAGE_SIZE);
    if (!second.ok) continue;
    seen.second++;
    expect(violationOf(form, [segments, second.value]), where).toBeUndefined();
  }
  expect(Math.min(...Object.values(seen)), JSON.stringify(seen)).toBeGreaterThan(300);
});
