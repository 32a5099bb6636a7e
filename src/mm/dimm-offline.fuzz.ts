// Random DIMMs, contents, helpers and faults: all or nothing, every time. Rules: docs/spec/dimm-offline.md.
//
// Ordinary run: 60 seeds. More: DIMMER_SEEDS=1000 npx vitest run src/mm/dimm-offline.fuzz.ts; one: DIMMER_SEED=n.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { DIMM_FAULT_POINTS, type DimmOptions, DimmWork, removeDimm } from './dimm-offline.ts';
import type { Evictor } from './evictor.ts';
import { PAGES_PER_SECTION } from './geometry.ts';
import { remapEvictor } from './kremap/evictor.ts';
import { KREMAP_FAULTS } from './kremap/protocol.ts';
import { Machine } from './machine.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { MEMMAP_FAULT_POINTS } from './memmap-move.ts';
import { plugDimm } from './memory-device.ts';
import { MIGRATE_FAULT_POINTS } from './migrate.ts';

const SEEDS = Number(process.env.DIMMER_SEEDS ?? 60);
const ONLY = process.env.DIMMER_SEED;
const POINTS = new Set<string>([
  ...DIMM_FAULT_POINTS,
  ...MIGRATE_FAULT_POINTS,
  ...KREMAP_FAULTS,
  ...MEMMAP_FAULT_POINTS,
]);
const node0 = toNodeId(0);
const section = (n: number): Pfn => toPfn(n * PAGES_PER_SECTION);
const DIMM = { start: section(32), end: section(34) };
const IDS = [32, 33].map(toBlockId);
const CLASSES = ['anonymous', 'file', 'shmem', 'slab', 'vmalloc', 'pagetable', 'movable-ops'] as const;

type World = { m: Machine; rng: Prng; pages: Map<string, [number, number]>; pinned: Set<string> };

function world(seed: number): World {
  const rng = new Prng(seed);
  const m = Machine.boot({
    ram: [{ start: section(0), end: section(2), node: node0 }],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    compat: rng.chance(0.3) ? 'linux' : 'strict',
    hotplug: { autoOnline: 'offline', memmapOnMemory: rng.chance(0.5) ? 'Y' : 'N' },
  });
  const added = plugDimm(m, DIMM, node0);
  if (!added.ok) throw new Error(added.error.message);
  for (const id of IDS) {
    const roll = rng.below(10);
    if (roll < 9 && !m.online(id, roll < 5 ? 'kernel' : 'movable').ok) throw new Error('it does not come online');
  }
  const w: World = { m, rng, pages: new Map(), pinned: new Set() };
  // Holes in the boot memory, so that what follows lies in the DIMM, too.
  const filler = m.addHolder({ class: 'slab', name: 'boot' });
  const held: Pfn[] = [];
  for (let pfn = m.alloc(filler, toOrder(9)); pfn >= 0 && pfn < section(2); pfn = m.alloc(filler, toOrder(9)))
    held.push(toPfn(pfn));
  for (let n = 0; n < 20 + rng.below(60); n++) take(w);
  for (const pfn of held) m.free(pfn);
  return w;
}

/** Some allocations of one holder; few, so that there is room elsewhere for all of them. */
function take({ m, rng, pages }: World): void {
  const cls = CLASSES[rng.below(CLASSES.length)] as (typeof CLASSES)[number]; // below its length
  const holder = m.addHolder({ class: cls, name: cls });
  const order = rng.below(rng.chance(0.1) ? 10 : 4);
  for (let n = 1 + rng.below(6); n > 0; n--) {
    const pfn = m.alloc(holder, toOrder(order));
    if (pfn < 0) return;
    const index = m.holders.indexOf(m.sections.ownerAt(m.sections.indexOf(toPfn(pfn))));
    pages.set(`${holder} ${index}`, [holder, index]);
  }
}

function some({ m, rng, pages }: World): { key: string; pfn: Pfn } | undefined {
  const keys = [...pages.keys()];
  const key = keys[rng.below(Math.max(1, keys.length))];
  const at = key === undefined ? undefined : pages.get(key);
  const slot = at === undefined ? -1 : m.holders.slotAt(at[0], at[1]);
  return key === undefined || slot < 0 ? undefined : { key, pfn: m.sections.pfnOf(m.holders.frameAt(slot)) };
}

/** What others do: take, free, pin for a while. */
function others(w: World): void {
  const roll = w.rng.below(10);
  if (roll < 4) return take(w);
  const page = some(w);
  if (page === undefined) return;
  if (roll < 7) {
    w.m.unpin(page.pfn);
    w.m.free(page.pfn);
    w.pages.delete(page.key);
    w.pinned.delete(page.key);
  } else if (roll < 8 && w.rng.chance(0.02)) {
    w.m.pin(page.pfn);
    w.pinned.add(page.key);
  } else {
    w.m.unpin(page.pfn);
    w.pinned.delete(page.key);
  }
}

const shape = (m: Machine): unknown => IDS.map((id) => [m.block(id)?.state, m.block(id)?.pool?.name]);
/** Frames of each holder that is ours: page tables of the direct map and of struct pages come and go. */
const holdings = (m: Machine): number[] =>
  m.holders.specs.flatMap((spec, h) => (spec.name === spec.class ? [m.holders.pages[h] as number] : []));

function optionsOf(rng: Prng): DimmOptions {
  const evictors: Evictor[] = [
    ...(rng.chance(0.7) ? [memmapEvictor()] : []),
    ...(rng.chance(0.8) ? [remapEvictor()] : []),
  ];
  const order = (['worst-first', 'ascending', 'descending'] as const)[rng.below(3)] ?? 'ascending';
  return { evictors, order, all: rng.chance(0.3), keep: rng.chance(0.2), offline: { batch: 1 + rng.below(32) } };
}

const seeds = ONLY === undefined ? Array.from({ length: SEEDS }, (_, k) => k + 1) : [Number(ONLY)];

describe('random DIMMs', () => {
  it(`DM2 DM13 ${seeds.length} seeds, nobody in between: gone, or exactly as it was`, () => {
    const seen = { gone: 0, refused: 0, fault: 0 };
    for (const seed of seeds) {
      const { m, rng, pages } = world(seed);
      for (const [h, index] of pages.values()) {
        const slot = m.holders.slotAt(h, index);
        if (rng.chance(0.003)) m.pin(m.sections.pfnOf(m.holders.frameAt(slot)));
      }
      const rate = rng.chance(0.5) ? 0.01 : 0;
      const options = optionsOf(rng);
      const before = { digest: m.digest(), shape: shape(m), holdings: holdings(m) };
      const dry = removeDimm(m, DIMM, { ...options, dryRun: true });
      m.faultAt = (p) => rate > 0 && POINTS.has(p) && rng.chance(rate);
      const r = removeDimm(m, DIMM, options);
      m.faultAt = undefined;
      if (rate === 0) expect(dry.ok, `DM4 seed=${seed}`).toBe(r.ok);
      if (r.ok) {
        seen.gone++;
        const state = options.keep === true ? 'offline' : undefined;
        expect(shape(m), `seed=${seed}`).toEqual(IDS.map(() => [state, undefined]));
        expect(holdings(m), `seed=${seed}: nothing is lost`).toEqual(before.holdings);
      } else {
        seen[r.error.reason === 'fault' ? 'fault' : 'refused']++;
        expect([m.digest(), shape(m)], `seed=${seed} ${r.error.message}`).toEqual([before.digest, before.shape]);
      }
      expect(m.check(), `seed=${seed}`).toEqual([]);
    }
    if (seeds.length >= 60)
      expect(Math.min(seen.gone, seen.refused, seen.fault), JSON.stringify(seen)).toBeGreaterThan(1);
  });

  it(`DM7 DM8 ${seeds.length} seeds, others between the steps: gone, or every block in its state and zone`, () => {
    const seen = { gone: 0, kept: 0 };
    for (const seed of seeds) {
      const w = world(seed);
      const { m, rng } = w;
      const before = shape(m);
      const work = new DimmWork(m, DIMM, optionsOf(rng));
      const rate = rng.chance(0.3) ? 0.005 : 0;
      const cancelAt = rng.chance(0.2) ? rng.below(200) : Number.POSITIVE_INFINITY;
      m.faultAt = (p) => rate > 0 && POINTS.has(p) && rng.chance(rate);
      for (let n = 0; !work.finished; n++) {
        expect(n, `seed=${seed}: it ends`).toBeLessThan(20_000);
        if (n === cancelAt) work.cancel();
        else work.step();
        for (let k = rng.below(3); k > 0 && !work.finished; k--) others(w);
      }
      m.faultAt = undefined;
      if (work.stage === 'done') seen.gone++;
      else {
        seen.kept++;
        expect(shape(m), `seed=${seed} ${work.refusal?.message}`).toEqual(before);
      }
      expect(m.offlinesUnderWay, `seed=${seed}`).toBe(0);
      expect(m.check(), `seed=${seed}`).toEqual([]);
    }
    if (seeds.length >= 60) expect(Math.min(seen.gone, seen.kept), JSON.stringify(seen)).toBeGreaterThan(5);
  });
});
