// Translation against a naive model: two maps. Random pairs near and far, copies that go their own ways, R2 and R5 throughout.
//
//   DIMMER_SEED=n  replays one seed

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { PAGES_PER_SECTION } from '../geometry.ts';
import { LEAF_TABLE_BYTES, Translation } from './translation.ts';

const ONE = process.env.DIMMER_SEED;
const S = PAGES_PER_SECTION;
/** Low, above 4 GiB, and as far up as frames reach. */
const SECTIONS = [0, 1, 7, 40, 41, 2 ** 17, 2 ** 20 - 1];

type Model = { readonly phys: Map<number, number>; readonly image: Set<number> };

function step(t: Translation, model: Model, rng: Prng): void {
  const page = () => rng.pick(SECTIONS) * S + (rng.chance(0.5) ? rng.below(40) : rng.below(S));
  const taken = (p: number) => model.phys.has(p) || [...model.phys.values()].includes(p);
  if (rng.chance(0.45) && model.phys.size > 0) {
    const va = rng.pick([...model.phys.keys()]);
    t.unpair(va);
    model.phys.delete(va);
    model.image.delete(va);
    return;
  }
  const va = page();
  const pfn = page();
  if (va === pfn || taken(va) || taken(pfn)) return;
  const image = rng.chance(0.2);
  t.pair(va, pfn, image);
  model.phys.set(va, pfn);
  if (image) model.image.add(va);
}

function compare(t: Translation, model: Model, said: string): void {
  const virt = new Map([...model.phys].map(([va, pfn]) => [pfn, va]));
  const pages = new Set([...model.phys.keys(), ...virt.keys(), 5, 40 * S, 41 * S - 1]);
  for (const page of pages) {
    const phys = model.phys.get(page) ?? (virt.has(page) ? -1 : page);
    expect(t.virtToPhys(page), `${said}: frame of ${page}`).toBe(phys);
    expect(t.physToVirt(page), `${said}: address of ${page}`).toBe(
      virt.get(page) ?? (model.phys.has(page) ? -1 : page),
    );
    expect(t.isDisplaced(page), said).toBe(model.phys.has(page));
    expect(t.hasImage(page), said).toBe(model.image.has(page));
  }
  const sections = new Set([...model.phys].flat().map((p) => Math.floor(p / S)));
  expect([t.displaced, t.leafTables, t.bytes], said).toEqual([
    model.phys.size,
    sections.size,
    sections.size * LEAF_TABLE_BYTES,
  ]);
  const listed: number[] = [];
  t.forEachDisplaced(0, Number.POSITIVE_INFINITY, (va) => listed.push(va));
  expect(listed, said).toEqual([...model.phys.keys()].sort((a, b) => a - b));
}

it('R2 R5 KR14 random pairs and copies equal two maps', () => {
  const seeds = ONE === undefined ? Array.from({ length: 60 }, (_, n) => n + 1) : [Number(ONE)];
  for (const seed of seeds) {
    const rng = new Prng(seed);
    let worlds: { t: Translation; model: Model }[] = [
      { t: new Translation(), model: { phys: new Map(), image: new Set() } },
    ];
    for (let n = 0; n < 60; n++) {
      const w = rng.pick(worlds);
      if (rng.chance(0.06)) {
        const model = { phys: new Map(w.model.phys), image: new Set(w.model.image) };
        worlds = [...worlds, { t: w.t.copy(), model }].slice(-3);
      } else step(w.t, w.model, rng);
    }
    worlds.forEach(({ t, model }, k) => {
      compare(t, model, `seed=${seed} copy ${k}`);
      expect(t.check(), `seed=${seed} copy ${k}`).toEqual([]);
    });
  }
});
