// Compaction against its naive twin, and under fire. Rules CP30..CP32, docs/spec/compaction.md.
//
// DIMMER_SEEDS raises the number of cases: DIMMER_SEEDS=1000 npx vitest run src/mm/compaction/compact-zone.fuzz.ts

import { describe, expect, it } from 'vitest';
import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import type { HolderSpec } from '../holder.ts';
import { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { COMPACT_FAULT_POINTS, type CompactOptions } from './compact-result.ts';
import { compactRow, compactStateOf } from './compact-state.ts';
import { CompactWork, compactZone } from './compact-zone.ts';
import { installCompaction } from './direct.ts';
import { kcompactdTick, wakeKcompactd } from './kcompactd.ts';
import { type NaiveKind, type NaiveOptions, type NaivePage, NaiveZone } from './naive-zone.cases.ts';

const SEEDS = Number(process.env.DIMMER_SEEDS ?? 24);
const PB = 512;
const BLOCKS = 12;
const FRAMES = BLOCKS * PB;

const SPEC: Readonly<Record<NaiveKind, Omit<HolderSpec, 'node'>>> = {
  move: { class: 'anonymous', name: 'move' },
  whole: { class: 'movable-ops', name: 'whole' },
  stay: { class: 'slab', name: 'stay' },
  fails: { class: 'file', name: 'fails' },
  dirty: { class: 'file', name: 'dirty', migrateCallback: false },
  written: { class: 'shmem', name: 'written' },
};
const KINDS = Object.keys(SPEC) as NaiveKind[];

type Twins = { readonly m: Machine; readonly pool: Pool; readonly zone: NaiveZone; readonly holders: HolderId[] };

function bootZone(rng: Prng, movable = false): Twins {
  const m = Machine.boot({
    ram: [{ start: toPfn(0), end: toPfn(FRAMES), node: toNodeId(0), zone: 2 }],
    watermarks: 'none',
    code: 'shared',
    populate: 'nothing',
  });
  const pool = m.zones.find((p) => p.present > 0) as Pool;
  pool.alloc.setPcp({ batch: 1, high: 0 });
  const types: number[] = [];
  for (let pb = 0; pb < BLOCKS; pb += 2) {
    const type = movable ? 1 : rng.pick([1, 1, 1, 1, 0, 2, 4]);
    types.push(type, type);
  }
  const zone = new NaiveZone(types);
  types.forEach((type, pb) => {
    if (type !== 1) pool.alloc.setPageblockType(pb * PB, type);
  });
  return { m, pool, zone, holders: [] };
}

/** A page at a place, in both. */
function place({ m, pool, zone, holders }: Twins, at: number, order: number, kind: NaiveKind): void {
  const h = m.addHolder(SPEC[kind]);
  m.place(h, toPfn(at), toPfn(at + 2 ** order), order);
  pool.managed += 2 ** order;
  if (kind === 'fails') m.pin(toPfn(at));
  if (kind === 'dirty') m.setPageFlags(toPfn(at), { dirty: true });
  if (kind === 'written') m.setPageFlags(toPfn(at), { writeback: true });
  zone.put({ owner: holders.length, at, order, kind });
  holders.push(h);
}

/** Fills both: density, sizes and kinds differ by pageblock. What is left over becomes free. */
function populate(t: Twins, rng: Prng): void {
  const weights = KINDS.map((k) => (k === 'move' ? 20 : rng.chance(0.5) ? rng.below(4) : 0));
  for (let pb = 0; pb < BLOCKS; pb++) {
    if (rng.chance(0.05)) {
      place(t, pb * PB, 9, 'move');
      continue;
    }
    const density = rng.pick([0, 0.05, 0.3, 0.6, 0.9, 1]);
    const clean = rng.chance(0.5);
    const large = rng.chance(0.4) ? 0.1 : 0;
    for (let i = pb * PB; i < (pb + 1) * PB; ) {
      if (!rng.chance(density)) {
        t.pool.alloc.freeToArea(i, 0);
        t.pool.managed++;
        i++;
        continue;
      }
      let order = rng.chance(large) ? 1 + rng.below(5) : 0;
      while (i % 2 ** order !== 0) order--;
      const kind = clean ? 'move' : (KINDS[rng.weighted(weights)] as NaiveKind);
      place(t, i, order, kind);
      i += 2 ** order;
    }
  }
}

/** Frames of each holder, sorted; the model's and the machine's. */
function comparePlaces({ m, zone, holders }: Twins, why: string): void {
  const model = holders.map((): number[] => []);
  zone.at.forEach((p, i) => {
    if (p !== undefined && p !== 'taken') model[p.owner].push(i);
  });
  holders.forEach((h, owner) => {
    const mine: number[] = [];
    m.forEachFrameOf(h, (pfn, order) => {
      for (let k = 0; k < 2 ** order; k++) mine.push(pfn + k);
    });
    mine.sort((a, b) => a - b);
    if (mine.join() !== model[owner].join()) expect(mine, `${why}: holder ${owner}`).toEqual(model[owner]);
  });
}

/** Pages come and go in both. */
function churn(t: Twins, rng: Prng): void {
  for (const p of t.zone.pages) {
    if (!rng.chance(0.15)) continue;
    t.m.free(toPfn(p.at));
    t.zone.remove(p);
  }
  const h = t.m.addHolder(SPEC.move);
  const owner = t.holders.push(h) - 1;
  for (let k = rng.below(600); k > 0; k--) {
    const order = rng.chance(0.1) ? rng.below(4) : 0;
    const pfn = t.m.alloc(h, toOrder(order));
    if (pfn >= 0) t.zone.put({ owner, at: pfn, order, kind: 'move' });
  }
  // A request that falls back claims pageblocks: which, is the allocator's business.
  t.zone.types.forEach((_, pb) => {
    t.zone.types[pb] = t.pool.alloc.area.typeOf(pb * PB);
  });
}

function randomOptions(rng: Prng): NaiveOptions {
  const order = rng.pick([-1, -1, -1, 1, 2, 3, 4, 6, 8, 9, 9, 9, 10]);
  const mode = rng.pick(['async', 'sync-light', 'sync'] as const);
  const whole = rng.chance(0.3);
  return {
    order,
    mode,
    migratetype: rng.pick([1, 1, 1, 0, 2]),
    direct: order > 0 && rng.chance(0.6),
    wholeZone: whole,
    ignoreSkip: rng.chance(0.3),
    capture: order > 0 && rng.chance(0.4),
  };
}

describe('compaction', () => {
  it('CP30 moves the pages that its naive twin moves, to the same places, with the same result and cursors', () => {
    const results = new Map<string, number>();
    for (let seed = 1; seed <= SEEDS; seed++) {
      const rng = new Prng(seed);
      const t = bootZone(rng);
      populate(t, rng);
      const { m, pool, zone } = t;
      m.vm.extfragThreshold = 0;
      const row = compactRow(m, pool);
      for (let round = 0; round < 6; round++) {
        const o = randomOptions(rng);
        const why = `seed=${seed} round=${round} ${JSON.stringify(o)}`;
        const free = pool.alloc.nrFree();
        const spare = (o.order < 0 ? 0 : 2 * 2 ** o.order) + rng.below(200);
        const min = rng.chance(0.3) ? free - spare : Number.NEGATIVE_INFINITY;
        pool.watermarks = { min, low: min, high: min, promo: min, reserve: [0, 0, 0, 0] };
        zone.min = min;
        const options = { ...o, migratetype: o.migratetype as 0 | 1 | 2 };
        const r = compactZone(m, pool, options);
        if (r.rounds === 0 && o.order >= 0 && (r.result === 'skipped' || r.result === 'success')) {
          if (r.result === 'success') expect(free, why).toBeGreaterThan(0);
          zone.cached = { migrate: [...row.cachedMigrate], free: row.cachedFree }; // it may have begun
          churn(t, rng);
          continue;
        }
        const said = zone.compact(o);
        expect([r.result, r.moved, r.failed, r.captured], why).toEqual([said, zone.moved, zone.failed, zone.captured]);
        expect([r.migrateScanned, r.freeScanned], why).toEqual(zone.scanned);
        expect([row.cachedMigrate, row.cachedFree, row.flush], why).toEqual([
          zone.cached.migrate,
          zone.cached.free,
          zone.flush,
        ]);
        const state = compactStateOf(m);
        expect(
          zone.skip.map((_, pb) => state.skips(pb * PB)),
          why,
        ).toEqual(zone.skip);
        if (r.captured >= 0) {
          const h = m.addHolder(SPEC.move);
          m.occupy(h, r.captured, o.order);
          const page: NaivePage = { owner: t.holders.push(h) - 1, at: r.captured, order: o.order, kind: 'move' };
          zone.put(page);
        }
        comparePlaces(t, why);
        expect(pool.alloc.nrFree(), why).toBe(zone.at.filter((p) => p === undefined).length);
        results.set(r.result, (results.get(r.result) ?? 0) + 1);
        if (rng.chance(0.5)) churn(t, rng);
      }
      expect(m.check(), `seed=${seed}`).toEqual([]);
    }
    // It would prove little if nearly all runs ended in one way.
    for (const result of ['complete', 'partial-skipped', 'contended', 'success']) {
      expect(results.get(result) ?? 0, result).toBeGreaterThan(0);
    }
  });
});

describe('under fire', () => {
  /** Faults, requests, frees, pins and offlines between the steps of runs that are under way. */
  it('CP31 nothing is lost, doubled or torn, whatever happens between two steps and whatever fails', () => {
    for (let seed = 1; seed <= SEEDS; seed++) {
      const rng = new Prng(1000 + seed);
      const m = Machine.boot({
        ram: [{ start: toPfn(0), end: toPfn(2 * 32768), node: toNodeId(0), zone: 2 }],
        watermarks: 'none',
        code: 'shared',
        contents: 'tag',
      });
      const pool = m.zones.find((p) => p.present > 0) as Pool;
      const faulty = rng.chance(0.7) ? rng.pick([0.01, 0.2]) : 0;
      m.faultAt = (point) => COMPACT_FAULT_POINTS.some((p) => p === point) && rng.chance(faulty);
      installCompaction(m);
      const kinds = [SPEC.move, SPEC.whole, SPEC.fails, SPEC.stay, { class: 'balloon', name: 'b' }] as const;
      const holders = kinds.map((k) => m.addHolder(k));
      const count = holders.map(() => 0);
      const live: { pfn: () => Pfn; h: number; pages: number; slot: number }[] = [];
      const add = (h: number, order: number): void => {
        const pfn = m.alloc(holders[h], toOrder(order));
        if (pfn < 0) return;
        count[h] += 2 ** order;
        const slot = m.sections.ownerAt(m.sections.indexOf(toPfn(pfn)));
        live.push({ pfn: () => m.sections.pfnOf(m.holders.frameAt(slot)), h, pages: 2 ** order, slot });
      };
      for (let k = 0; k < 3000; k++) add(rng.weighted([20, 2, 2, 1, 1]), rng.chance(0.05) ? rng.below(5) : 0);
      let work: CompactWork | undefined;
      for (let step = 0; step < 400; step++) {
        switch (rng.below(8)) {
          case 0:
            add(rng.below(5), rng.chance(0.1) ? rng.below(10) : 0);
            break;
          case 1: {
            const k = rng.below(live.length);
            const one = live[k];
            // Large pages may have been split: their parts are freed by the holder's whole.
            if (one === undefined || one.pages > 1) break;
            m.free(one.pfn());
            count[one.h] -= one.pages;
            live.splice(k, 1);
            break;
          }
          case 2: {
            const one = live[rng.below(live.length)];
            if (one === undefined || one.pages > 1) break;
            if (rng.chance(0.5)) m.pin(one.pfn());
            else m.unpin(one.pfn());
            break;
          }
          case 3:
            if (rng.chance(0.1)) void m.offline(m.blockIds()[rng.below(m.blockIds().length)]);
            break;
          case 4:
            wakeKcompactd(m, toNodeId(0), 9, 3);
            if (rng.chance(0.1)) kcompactdTick(m, step);
            break;
          default: {
            if (work === undefined || work.finished) {
              const mode = rng.pick(['async', 'sync-light', 'sync'] as const);
              const o: CompactOptions = {
                order: rng.pick([-1, 4, 9]),
                mode,
                wholeZone: rng.chance(0.5),
                ignoreSkip: true,
              };
              work = new CompactWork(m, pool, { ...o, perCpuLists: rng.pick(['off', 'drained'] as const) });
            }
            work.step(rng.pick(['page', 'cluster'] as const));
            if (rng.chance(0.02)) work.cancel();
          }
        }
        if (step % 100 === 0) expect(m.check(), `seed=${1000 + seed} step=${step}`).toEqual([]);
      }
      work?.cancel();
      expect(
        holders.map((h) => m.holders.pages[h]),
        `seed=${1000 + seed}`,
      ).toEqual(count);
      expect(m.check(), `seed=${1000 + seed}`).toEqual([]);
    }
  });

  it('CP32 without faults a run ends within as many steps as there are frames; of what all moves, two pageblocks stay part full', () => {
    for (let seed = 1; seed <= SEEDS / 2; seed++) {
      const rng = new Prng(2000 + seed);
      const t = bootZone(rng, true);
      const density = 0.1 + 0.8 * (rng.below(1000) / 1000);
      for (let i = 0; i < FRAMES; i++) {
        if (rng.chance(density)) place(t, i, 0, 'move');
        else {
          t.pool.alloc.freeToArea(i, 0);
          t.pool.managed++;
        }
      }
      const { m, pool } = t;
      const why = `seed=${2000 + seed}`;
      const work = new CompactWork(m, pool, { order: -1, mode: 'sync', wholeZone: true, ignoreSkip: true });
      const size = rng.pick(['page', 'cluster'] as const);
      let steps = 0;
      while (!work.step(size)) assert(++steps <= FRAMES, 'a run ends', { seed: 2000 + seed, steps });
      expect(work.result, why).toBe('complete');
      let partFull = 0;
      for (let i = 0; i < FRAMES; i += PB) {
        const free = pool.alloc.area.freeIn(i, i + PB);
        if (free > 0 && free < PB) partFull++;
      }
      expect(partFull, why).toBeLessThanOrEqual(2);
      expect(m.check(), why).toEqual([]);
    }
  });
});
