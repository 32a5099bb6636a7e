// check() of displaced pages: every rule is broken once, and speaks. And what small pages cost, counted.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toBlockId, toOrder, toPfn } from '#base/units';
import { PAGEBLOCK_PAGES } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { META_DISPLACED } from '../section.ts';
import { checkKremap } from './check-kremap.ts';
import { remapEvictor } from './evictor.ts';
import { kremap } from './kremap.ts';
import { type KremapState, kremapState } from './kremap-state.ts';
import { ALL_SMALL_PPM, tlbRun } from './tlb.ts';
import { allocAt, frameOf, holder, remap, S, world } from './world.cases.ts';

const AT = 33 * S + 5 * PAGEBLOCK_PAGES + 17;

/** A machine with one displaced slab page; its block is offline. */
function displaced(): { m: Machine; k: KremapState; pfn: number; slab: ReturnType<typeof holder> } {
  const m = world();
  const slab = holder(m, 'slab');
  allocAt(m, slab, AT);
  expect(m.offline(toBlockId(33), remap).ok).toBe(true);
  expect(m.check()).toEqual([]);
  return { m, k: kremapState(m), pfn: frameOf(m, slab), slab };
}

const says = (m: Machine, words: RegExp): void => {
  expect(checkKremap(m).join('\n')).toMatch(words);
  expect(m.check().map((v) => v.rule)).toContain('C10');
};

describe('check() speaks', () => {
  it('R2 of a head that does not say that it is displaced, and of one that says so and is not', () => {
    const { m, pfn, slab } = displaced();
    const index = m.sections.indexOf(toPfn(pfn));
    m.sections.setMeta(index, m.sections.metaAt(index) & ~META_DISPLACED);
    says(m, /R2 address .* where nothing displaced is/);
    m.sections.setMeta(index, m.sections.metaAt(index) | META_DISPLACED);
    expect(m.check()).toEqual([]);
    const other = m.sections.indexOf(allocAt(m, slab, S));
    m.sections.setMeta(other, m.sections.metaAt(other) | META_DISPLACED);
    says(m, /R2 heads that say displaced/);
  });

  it('R3 of an address that leads to a frame that is offline, or no memory', () => {
    const { m, k } = displaced();
    k.remap(AT + 1, 33 * S + 9, false, undefined);
    says(m, /R3 address .* is offline/);
    k.remap(AT + 1, 400 * S, false, undefined);
    says(m, /R3 address .* is offline/);
  });

  it('R4 of splits that are none', () => {
    const { m, k } = displaced();
    k.map.splits++;
    says(m, /R4 1 leaves are split, counted 2 - 0/);
  });

  it('R5 of table frames that tables do not take', () => {
    const { m, k } = displaced();
    expect(m.alloc(k.pageTableHolder as never, toOrder(0))).toBeGreaterThanOrEqual(0);
    says(m, /R5 1 page tables, their holder has others/);
  });

  it('R2 of a frame that is given out while its address leads elsewhere', () => {
    const { m, k } = displaced();
    // The address of a frame in use, and of one that may be used at any time.
    for (const va of [allocAt(m, holder(m, 'anonymous'), S + 7), S + 8]) k.remap(va, S + 100 + va, false, undefined);
    says(m, /VA frame .* is used by a anonymous/);
    says(m, /VA frame .* may be given out/);
  });
});

describe('what small pages cost', () => {
  /** Every pageblock of two sections has kernel pages; `leaves` of them are split. */
  function split(policy: 'page' | 'whole-leaf'): Machine {
    const m = world();
    const slab = holder(m, 'slab');
    for (let n = 0; n < 60; n++) allocAt(m, slab, 33 * S + 1024 + n * PAGEBLOCK_PAGES, 5);
    for (let n = 0; n < 600; n++) allocAt(m, holder(m, 'anonymous'), 3 * S + 32 * n, 5);
    expect(m.offline(toBlockId(33), { evictors: [remapEvictor({ policy })] }).ok).toBe(true);
    return m;
  }

  it('KR7 counted over the same accesses: nothing without splits, the published bound when all is split', () => {
    expect(tlbRun(world(), 20_000, new Prng(1)).overheadPpm).toBe(0);
    const m = split('whole-leaf');
    expect(kremap(m).stat()).toMatchObject({ splits: 0, wholeLeaves: 60 });
    expect(tlbRun(m, 20_000, new Prng(1)).overheadPpm).toBe(0);
    const all = world();
    const slab = holder(all, 'slab');
    // Heads of blocks hold struct pages, which are not reached by the direct map: all else is in split leaves.
    for (let n = 0; n < 60; n++) allocAt(all, slab, 33 * S + 1024 + n * PAGEBLOCK_PAGES, 7);
    expect(kremap(all).evacuate({ start: toPfn(33 * S), end: toPfn(34 * S) }).ok).toBe(true);
    const run = tlbRun(all, 20_000, new Prng(1));
    expect(run.overheadPpm).toBeGreaterThan(0);
    expect(run.overheadPpm).toBeLessThanOrEqual(ALL_SMALL_PPM);
    expect(all.check()).toEqual([]);
  });

  it('KR7 the counted overhead is the share of accesses that go to split leaves, about', () => {
    const m = split('page');
    const run = tlbRun(m, 100_000, new Prng(7));
    const share = (60 * 32) / (60 * 32 + 600 * 32 + 8 * 512); // split leaves; memory that is not; struct pages of the DIMM
    expect(run.overheadPpm / ALL_SMALL_PPM).toBeGreaterThan(share * 0.7);
    expect(run.overheadPpm / ALL_SMALL_PPM).toBeLessThan(share * 1.5);
    expect(tlbRun(m, 100_000, new Prng(7))).toEqual(run);
    expect(m.check()).toEqual([]);
  });
});
