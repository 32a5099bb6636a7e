// Random plans against a model that looks at every section, block and GiB one by one; random adds that come and go.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toNodeId, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import { KERNEL_PROFILES } from './kernel-profile.ts';
import { Machine } from './machine.ts';
import { gigabytesLeft, MEMMAP_POLICIES, type MemmapInput, PAGES_PER_GIGABYTE, planMemmap } from './memmap.ts';
import { type MemmapFrames, memmapPages, releaseKernelMemmap, splitMemmap, takeKernelMemmap } from './memmap-frames.ts';

const SECTION = PAGES_PER_SECTION;
const GIB = PAGES_PER_GIGABYTE;
const PER_GIB = GIB / SECTION; // 8 sections

/** What a plan must say, section by section. Tables in the range are left to the examples (MM4). */
function naive(input: MemmapInput) {
  const { startPfn, pages, blockPages, policy, enabled, callerAsks, profile } = input;
  const first = startPfn / SECTION;
  const end = first + pages / SECTION;
  const perBlock = blockPages / SECTION;
  const blocks = pages / blockPages;
  const single = profile.memmapOnMemory === 'single-block';
  const self =
    policy !== 'kernel' && enabled !== 'N' && callerAsks && !(policy === 'self-block' && single && blocks > 1);
  const actual = self ? policy : 'kernel';
  const present = new Set(input.present);

  // A head frame for every 1/64 of the pages it serves, dealt out one section's worth at a time.
  const heads: number[] = new Array(blocks).fill(0);
  if (actual === 'self-block') for (let s = first; s < end; s++) heads[Math.floor((s - first) / perBlock)] += 512;
  if (actual === 'self-range') {
    let k = 0;
    for (let s = first; s < end; s++) {
      if (heads[k] === blockPages) k++;
      heads[k] += 512;
    }
  }

  const areas = new Set<string>();
  let leaves1G = 0;
  for (let s = first; s < end; s++) {
    const gib = Math.floor(s / PER_GIB);
    const pieceFirst = actual === 'self-block' ? s - ((s - first) % perBlock) : first;
    const pieceEnd = actual === 'self-block' ? pieceFirst + perBlock : end;
    const whole = gib * PER_GIB >= pieceFirst && (gib + 1) * PER_GIB <= pieceEnd;
    if (whole) leaves1G += 1 / PER_GIB;
    else areas.add(`pmd ${gib}`);
    areas.add(`pud ${Math.floor(gib / 512)}`);
    areas.add(`vmemmap pmd ${Math.floor(gib / 64)}`);
    areas.add(`vmemmap pud ${Math.floor(gib / 32768)}`);
  }
  for (const s of present) {
    const gib = Math.floor(s / PER_GIB);
    areas.delete(`pmd ${gib}`);
    areas.delete(`pud ${Math.floor(gib / 512)}`);
    areas.delete(`vmemmap pmd ${Math.floor(gib / 64)}`);
    areas.delete(`vmemmap pud ${Math.floor(gib / 32768)}`);
  }

  let gigabytes = 0;
  for (let g = Math.ceil(first / PER_GIB); (g + 1) * PER_GIB <= end; g++) {
    let free = true;
    for (let s = g * PER_GIB; s < (g + 1) * PER_GIB; s++) {
      const k = Math.floor((s - first) / perBlock);
      if (heads[k] > ((s - first) % perBlock) * SECTION) free = false;
    }
    if (free) gigabytes++;
  }
  return { policy: actual, heads, leaves1G, tables: areas.size, gigabytes };
}

describe('random', () => {
  it('MM13 plans equal those of a model that goes section by section', () => {
    const seen = { self: 0, kernel: 0, gigabytes: 0 };
    for (let seed = 1; seed <= 1500; seed++) {
      const rng = new Prng(seed);
      const perBlock = rng.pick([1, 1, 1, 2, 4, 8, 16]);
      const blocks = 1 + rng.below(rng.pick([2, 10, 100]));
      const firstBlock = rng.below(rng.pick([4, 64, 600, 40000]));
      const first = firstBlock * perBlock;
      const end = first + blocks * perBlock;
      const present = Array.from({ length: rng.below(20) }, () =>
        rng.chance(0.5) ? rng.below(first + 1) : end + rng.below(64),
      ).filter((s) => s < first || s >= end);
      const input: MemmapInput = {
        startPfn: toPfn(first * SECTION),
        pages: (end - first) * SECTION,
        blockPages: perBlock * SECTION,
        policy: rng.pick(MEMMAP_POLICIES),
        enabled: rng.pick(['N', 'Y', 'Y', 'force']),
        callerAsks: rng.chance(0.9),
        profile: KERNEL_PROFILES[rng.pick(['6.1', '6.12', '6.12', '6.18'] as const)],
        pageTables: 'kernel',
        present,
      };
      const plan = planMemmap(input);
      const model = naive(input);
      const said = `seed=${seed}`;
      expect(plan.policy, said).toBe(model.policy);
      expect([...plan.headPages], said).toEqual(model.heads);
      expect(plan.directMap.leaves1G, said).toBe(model.leaves1G);
      expect(plan.directMap.leaves2M, said).toBe((end - first) * 64 - model.leaves1G * 512);
      expect(plan.kernelPageTables, said).toBe(model.tables);
      expect(gigabytesLeft(input, plan.headPages), said).toBe(model.gigabytes);
      expect(plan.memmapPages, said).toBe((end - first) * 512);
      expect(plan.kernelChunks, said).toBe(plan.policy === 'kernel' ? end - first : 0);
      expect(plan.wastedPages, said).toBe(0);
      seen[plan.policy === 'kernel' ? 'kernel' : 'self']++;
      seen.gigabytes += model.gigabytes;
      // With tables of its own a range still has all of its memmap in its heads, and nothing is lost or had twice.
      const own = planMemmap({ ...input, pageTables: 'self' });
      const heads = own.headPages.reduce((a, b) => a + b, 0);
      if (own.policy !== 'kernel') expect(heads, said).toBe(own.memmapPages + own.selfPageTables + own.wastedPages);
      expect(own.kernelPageTables + own.selfPageTables, said).toBe(
        own.policy === plan.policy ? plan.kernelPageTables : own.kernelPageTables,
      );
    }
    for (const n of Object.values(seen)) expect(n).toBeGreaterThan(300);
  });

  it('MM13 adds that come, go in parts and are refused leave as many free frames as there were', () => {
    const seen = { taken: 0, refused: 0, cut: 0 };
    for (let seed = 1; seed <= 12; seed++) {
      const rng = new Prng(seed);
      const m = Machine.boot({
        ram: [0, 1].map((n) => ({ start: toPfn(n * SECTION), end: toPfn((n + 1) * SECTION), node: toNodeId(n) })),
        watermarks: 'none',
      });
      const free = (): number =>
        m.pools.reduce((n, p) => {
          p.alloc.drain();
          return n + p.alloc.nrFree();
        }, 0);
      const all = free();
      const held: { frames: MemmapFrames; start: number; end: number }[] = [];
      for (let step = 0; step < 60; step++) {
        const said = `seed=${seed} step=${step}`;
        const before = free();
        if (held.length === 0 || rng.chance(0.6)) {
          const start = (64 + rng.below(4000)) * SECTION;
          const end = start + (1 + rng.below(60)) * SECTION;
          const plan = planMemmap({
            startPfn: toPfn(start),
            pages: end - start,
            blockPages: SECTION,
            policy: 'kernel',
            enabled: 'N',
            callerAsks: false,
            profile: KERNEL_PROFILES['6.12'],
            pageTables: 'kernel',
          });
          const taken = takeKernelMemmap(m, toNodeId(rng.below(3)), plan);
          if (taken.ok) held.push({ frames: taken.value, start, end });
          expect(free(), said).toBe(before - (taken.ok ? memmapPages(taken.value) : 0));
          seen[taken.ok ? 'taken' : 'refused']++;
          continue;
        }
        const [h] = held.splice(rng.below(held.length), 1);
        const range = { start: toPfn(h.start), end: toPfn(h.end) };
        const at = (): number => h.start + rng.below((h.end - h.start) / SECTION + 1) * SECTION;
        const [a, b] = [at(), at()].sort((x, y) => x - y);
        const cut = a === b ? range : { start: a, end: b };
        const { before: left, gone, after } = splitMemmap(h.frames, range, cut);
        const sum = [left, gone, after].reduce((n, p) => n + (p === undefined ? 0 : memmapPages(p)), 0);
        expect(sum, said).toBe(memmapPages(h.frames));
        const gonePages = gone === undefined ? 0 : memmapPages(gone);
        if (gone !== undefined) expect(releaseKernelMemmap(m, gone), said).toBe(gonePages);
        if (left !== undefined) held.push({ frames: left, start: h.start, end: cut.start });
        if (after !== undefined) held.push({ frames: after, start: cut.end, end: h.end });
        expect(free(), said).toBe(before + gonePages);
        seen.cut++;
      }
      // D1 is not asked of frames that no add has.
      const sound = (): unknown[] => m.check().filter((v) => v.rule !== 'C11');
      expect(sound(), `seed=${seed}`).toEqual([]);
      for (const h of held) releaseKernelMemmap(m, h.frames);
      expect(free(), `seed=${seed}`).toBe(all);
      expect(m.check(), `seed=${seed}`).toEqual([]);
    }
    for (const n of Object.values(seen)) expect(n).toBeGreaterThan(20);
  });
});
