// The rival by example, and the measure of A5: frames looked at for one chunk of 4 MiB. Rules TW1..TW3.

import { describe, expect, it } from 'vitest';
import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import { type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { compactZone } from '../compaction/compact-zone.ts';
import { suitablePageFree } from '../compaction/suitability.ts';
import { CHUNK_PAGES } from '../geometry.ts';
import { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { checkChunkCosts, chunkCosts } from './chunk-cost.ts';
import { evacuateCheapest } from './evacuate.ts';
import { type CompactMode, compactPool } from './two-scanner.ts';

const BASE = 2 ** 20;
const O0 = toOrder(0);
const O10 = toOrder(10);

type World = { m: Machine; pool: Pool };

/**
 * One zone of `chunks` chunks. Chunk c keeps used[c] movable pages, spread at random, and pinned[c] kernel pages.
 * `typed`: the pageblocks of chunks with kernel pages are Unmovable, as grouping by mobility would have them.
 */
function world(rng: Prng, used: readonly number[], kernel: readonly number[], typed: boolean): World {
  const m = Machine.boot({
    ram: [{ start: toPfn(BASE), end: toPfn(BASE + used.length * CHUNK_PAGES), node: toNodeId(0) }],
    watermarks: 'none',
    code: 'shared',
  });
  const pool = m.zones.find((p) => p.present > 0) as Pool;
  pool.alloc.setPcp({ batch: 1, high: 0 });
  const anon = m.addHolder({ class: 'anonymous', name: 'anon' });
  const slab = m.addHolder({ class: 'slab', name: 'slab' });
  const gone: Pfn[] = [];
  used.forEach((keep, c) => {
    const letters = Array.from({ length: CHUNK_PAGES }, (_, k) =>
      k < kernel[c] ? 'k' : k < kernel[c] + keep ? 'm' : '.',
    );
    for (const letter of rng.shuffle(letters)) {
      const pfn = m.alloc(letter === 'k' ? slab : anon, O0, { movable: true });
      assert(pfn >= 0, 'the world fits into its zone');
      if (letter === '.') gone.push(pfn as Pfn);
    }
  });
  for (const pfn of gone) m.free(pfn);
  kernel.forEach((pages, c) => {
    if (!typed || pages === 0) return;
    for (const k of [0, 512]) pool.alloc.setPageblockType(c * CHUNK_PAGES + k, 0);
  });
  return { m, pool };
}

describe('two scanners', () => {
  it('TW1 pages go from the bottom to the top until a chunk is free', () => {
    const { m, pool } = world(new Prng(1), [100, 700, 700, 700], [0, 0, 0, 0], false);
    const r = compactPool(m, pool, O10, 'sync');
    expect(r).toMatchObject({ success: true, migratedPages: 100 });
    expect(pool.alloc.area.first(10, 1)).toBe(0);
    expect(r.frameVisits).toBe(r.migrateVisits + r.freeVisits);
    expect(r.freeVisits).toBeGreaterThanOrEqual(100);
    expect(m.check()).toEqual([]);
  });

  it('TW1 the scanners meet when there is nothing to be had; no page is lost', () => {
    const { m, pool } = world(new Prng(2), [500, 500, 500, 500], [1, 1, 1, 1], false);
    const free = pool.alloc.nrFree();
    const r = compactPool(m, pool, O10, 'sync');
    expect(r.success).toBe(false);
    expect(pool.alloc.nrFree()).toBe(free);
    expect(m.holders.pages.slice(0, 2)).toEqual(Int32Array.of(2000, 4));
    expect(m.check()).toEqual([]);
  });

  it('TW2 async steps over pageblocks that are not Movable, sync does not', () => {
    const seen = (mode: CompactMode) => {
      const { m, pool } = world(new Prng(3), [300, 200, 600, 600], [5, 0, 0, 0], true);
      const r = compactPool(m, pool, O10, mode);
      expect(m.check()).toEqual([]);
      return r;
    };
    expect(seen('async')).toMatchObject({ success: true, migratedPages: 200 });
    expect(seen('sync')).toMatchObject({ success: true, migratedPages: 500 });
  });
});

describe('a request for 4 MiB', () => {
  const CHUNKS = 64;
  const SEEDS = 12;

  // How the 60 % came about decides what the rival can know beforehand: nothing, or the type of each pageblock.
  for (const grouped of [false, true]) {
    const name = grouped ? 'kernel pages in pageblocks of their own' : 'kernel pages anywhere';
    it(`TW3 60 % unmovable, ${name}: the index looks at no more than half as many frames`, () => {
      const index = { visits: 0, moved: 0 };
      const none = { visits: 0, moved: 0 };
      const rivals = { async: { ...none }, sync: { ...none }, whole: { ...none } };
      for (let seed = 1; seed <= SEEDS; seed++) {
        const rng = new Prng(seed);
        const bad = rng.shuffle(Array.from({ length: CHUNKS }, (_, c) => c < Math.round(0.6 * CHUNKS)));
        const kernel = bad.map((b) => (b ? 1 + rng.below(64) : 0));
        const used = bad.map(() => 100 + rng.below(800));
        const { m, pool } = world(rng, used, kernel, grouped);
        for (const mode of ['async', 'sync'] as const) {
          const other = m.fork();
          const theirs = compactPool(other, other.pools[pool.id], O10, mode);
          expect(theirs.success, `seed=${seed} ${mode}`).toBe(true);
          rivals[mode].visits += theirs.frameVisits;
          rivals[mode].moved += theirs.migratedPages;
          expect(other.check(), `seed=${seed} ${mode}`).toEqual([]);
        }
        // The whole of compaction: a first run, async, which gives pieces up in which a page stays; sync when that was in vain.
        const linux = m.fork();
        for (const mode of ['async', 'sync-light'] as const) {
          const r = compactZone(linux, linux.pools[pool.id], {
            order: 10,
            mode,
            direct: true,
            wholeZone: true,
            ignoreSkip: true,
            countVisits: true,
            done: (p) => suitablePageFree(p, 10, 1),
          });
          rivals.whole.visits += r.visits;
          rivals.whole.moved += r.moved;
          if (r.result === 'success') break;
        }
        expect(suitablePageFree(linux.pools[pool.id], 10, 1), `seed=${seed}`).toBe(true);
        expect(linux.check(), `seed=${seed} whole`).toEqual([]);
        chunkCosts(m).cheapest(pool); // the costs are known before the request: the machine keeps them
        const read = chunkCosts(m).framesRead;
        const mine = evacuateCheapest(m, pool);
        if (!mine.ok) throw new Error(`seed=${seed} ${mine.error.message}`);
        expect(mine.value.tried, `seed=${seed}`).toBe(1);
        index.visits += mine.value.frameVisits;
        index.moved += mine.value.migratedPages;
        chunkCosts(m).cheapest(pool);
        expect(chunkCosts(m).framesRead - read, `seed=${seed}: to choose reads no frame`).toBe(0);
        expect([...checkChunkCosts(m), ...m.check()], `seed=${seed}`).toEqual([]);
      }
      const each = (n: number): number => Math.round(n / SEEDS);
      for (const [mode, rival] of Object.entries(rivals)) {
        const ratio = index.visits / rival.visits;
        const numbers =
          `seed=1..${SEEDS}, ${CHUNKS} chunks, ${mode}: frames looked at ${each(index.visits)} by the index, ` +
          `${each(rival.visits)} by two scanners (${ratio.toFixed(3)}); pages moved ${each(index.moved)}, ${each(rival.moved)}`;
        expect(ratio, numbers).toBeLessThanOrEqual(0.5);
        expect(index.moved, numbers).toBeLessThan(rival.moved);
      }
    });
  }
});
