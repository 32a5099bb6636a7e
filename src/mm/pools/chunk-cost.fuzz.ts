// Chunk costs against a recount, after random activity of a whole machine. Rules CC1, CC2, CC6, EV1, EV2.
//
// Requests of all orders and classes, pins, dirty cache, pools that are carved, moved and destroyed, memory blocks that go
// offline (their pages migrate, or the attempt is rolled back) and come online, evacuated chunks. check() recounts all.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type BlockId, type HolderId, type Order, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { CHUNK_PAGES, PAGES_PER_SECTION } from '../geometry.ts';
import { Machine } from '../machine.ts';
import { PAGE_CLASSES } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { CHUNK_WEIGHTS, checkChunkCosts, chunkCosts, INFINITE, pageWeight, setChunkSettings } from './chunk-cost.ts';
import { evacuateCheapest, evacuateChunk } from './evacuate.ts';
import { attrsOf } from './pool-table.ts';
import { pools } from './pools.ts';

const BASE = 2 ** 20;
const BLOCKS = 4;
const EVENTS = 250;
const CLASSES = PAGE_CLASSES.filter((c) => !['unplugged', 'poisoned', 'reserved', 'deferred', 'gigantic'].includes(c));

/** All pieces of 2^order frames of a pool that can be emptied, cheapest first: frame by frame, from Machine.frame. */
function piecesOf(m: Machine, pool: Pool, order: Order, isDirty: (holder: number, index: number) => boolean) {
  const out: { startPfn: Pfn; order: Order; cost: number }[] = [];
  for (let pfn = BASE; pfn < BASE + BLOCKS * PAGES_PER_SECTION; pfn += 2 ** order) {
    let cost = 0;
    for (let k = 0; k < 2 ** order && cost < INFINITE; k++) {
      const f = m.frame(toPfn(pfn + k));
      if (f.state === 'absent' || f.state === 'offline' || f.pool !== pool) cost = INFINITE;
      else if (f.state === 'used') {
        const weight = pageWeight(f.class, { dirty: isDirty(f.holder, f.index) }, CHUNK_WEIGHTS);
        cost = f.pinned || weight > 1023 ? INFINITE : cost + weight;
      }
    }
    if (cost < INFINITE) out.push({ startPfn: toPfn(pfn), order, cost });
  }
  return out.sort((a, b) => a.cost - b.cost || a.startPfn - b.startPfn);
}

describe('chunk costs, random', () => {
  const seen = { evacuated: 0, refused: 0, offline: 0, rolledBack: 0, online: 0, carved: 0, destroyed: 0 };

  for (let seed = 1; seed <= 12; seed++) {
    it(`CC1 CC2 CC6 EV1 EV2 a recount says the same, seed=${seed}`, () => {
      const rng = new Prng(seed);
      const m = Machine.boot({
        ram: [{ start: toPfn(BASE), end: toPfn(BASE + BLOCKS * PAGES_PER_SECTION), node: toNodeId(0) }],
        watermarks: 'none',
        code: 'shared',
        placement: rng.pick(['address', 'lifo', 'fullest']),
      });
      const dirty = new Set<string>();
      const keyOf = (holder: number, index: number): string => `${holder}:${index}`;
      const pageState = (h: HolderId, index: number) => ({
        dirty: dirty.has(keyOf(h, index)),
        mapped: index % 3 === 0,
      });
      setChunkSettings(m, { pageState });
      const holders = CLASSES.map((cls) => m.addHolder({ class: cls, name: cls }));
      const movable = holders.filter((_, k) => ['anonymous', 'file', 'shmem'].includes(CLASSES[k] as string));
      const taker = m.addHolder({ class: 'driver', name: 'taker' });
      const heads: Pfn[] = [];
      const used = (pfn: Pfn): boolean => {
        const f = m.frame(pfn);
        return f.state === 'used' && f.head === pfn;
      };
      for (let event = 0; event < EVENTS; event++) {
        const where = `seed=${seed} event=${event}`;
        const kind = rng.weighted([30, 25, 8, 8, 4, 2, 3, 6, 4]);
        if (kind === 0) {
          const holder = rng.chance(0.93) ? rng.pick(movable) : rng.pick(holders);
          const order = toOrder(rng.chance(0.8) ? 0 : rng.below(11));
          for (let k = rng.pick([1, 30, 400]); k > 0; k--) {
            const pfn = m.alloc(holder, order, rng.chance(0.5) ? { movable: true } : undefined);
            if (pfn < 0) break;
            heads.push(pfn as Pfn);
          }
        } else if (kind === 1) {
          for (let k = rng.pick([1, 50, 500]); k > 0 && heads.length > 0; k--) {
            const at = rng.below(heads.length);
            const pfn = heads[at] as Pfn;
            heads[at] = heads[heads.length - 1] as Pfn;
            heads.pop();
            if (used(pfn) && m.poolAt(m.sections.indexOf(pfn)) !== undefined) m.free(pfn);
          }
        } else if (kind === 2 && heads.length > 0) {
          const pfn = rng.pick(heads);
          if (used(pfn)) rng.chance(0.5) ? m.pin(pfn) : m.unpin(pfn);
        } else if (kind === 3 && heads.length > 0) {
          const pfn = rng.pick(heads);
          const f = m.frame(pfn);
          if (f.state === 'used') {
            const key = keyOf(f.holder, f.index);
            if (!dirty.delete(key)) dirty.add(key);
            chunkCosts(m).changed(pfn);
          }
        } else if (kind === 4) {
          const id = toBlockId(BASE / m.blockPages + rng.below(BLOCKS)) as BlockId;
          if (m.block(id)?.state === 'offline') seen.online += Number(m.online(id, 'kernel').ok);
          else {
            const r = m.offline(id);
            seen[r.ok ? 'offline' : 'rolledBack']++;
          }
        } else if (kind === 5) {
          const r = pools(m).create({ name: `p${event}`, pages: rng.below(5000) });
          seen.carved += Number(r.ok);
        } else if (kind === 6) {
          const user = m.pools.filter((p) => p.kind === 'user' && attrsOf(m, p.id).state === 'active');
          if (user.length > 0) {
            const { name } = rng.pick(user);
            if (rng.chance(0.3)) seen.destroyed += Number(pools(m).destroy(name).ok);
            else pools(m).move('node0-Normal', name, { count: 1 + rng.below(3000) });
          }
        } else if (kind === 7) {
          const pool = rng.pick(m.pools);
          const cheapest = chunkCosts(m).cheapest(pool);
          const r = evacuateCheapest(m, pool, { pageState, ...(rng.chance(0.3) && { holder: taker }) });
          if (r.ok) {
            seen.evacuated++;
            if (r.value.tried === 1) expect(r.value.startPfn, where).toBe(cheapest?.startPfn);
            expect(m.poolAt(m.sections.indexOf(r.value.startPfn)), where).toBe(pool);
          } else if (r.error.reason === 'no-memory') expect(cheapest, where).toBe(undefined);
        } else if (kind === 8) {
          const pfn = toPfn(BASE + CHUNK_PAGES * rng.below(32 * BLOCKS));
          const cost = chunkCosts(m).costOf(pfn);
          const pages = m.holders.pages.slice();
          const r = evacuateChunk(m, pfn);
          if (r.ok) expect(cost, where).toBeLessThan(INFINITE);
          else {
            seen.refused++;
            expect(m.holders.pages.slice(), where).toEqual(pages);
          }
        }
        if (event % 125 === 60) {
          const pool = rng.pick(m.pools);
          const order = toOrder(rng.pick([rng.below(11), 9, 10]));
          const n = 1 + rng.below(60);
          const naive = piecesOf(m, pool, order, (h, index) => dirty.has(keyOf(h, index)));
          expect(chunkCosts(m).top(pool, n, order), `${where} order=${order} n=${n}`).toEqual(naive.slice(0, n));
        }
        if (event % 5 === 0) expect(checkChunkCosts(m), where).toEqual([]);
        if (event % 50 === 49) expect(m.check(), where).toEqual([]);
      }
      expect(checkChunkCosts(m), `seed=${seed}`).toEqual([]);
      expect(m.check(), `seed=${seed}`).toEqual([]);
    });
  }

  it('CC1 each kind of activity was met', () => {
    for (const [kind, times] of Object.entries(seen)) expect(times, kind).toBeGreaterThan(4);
  });
});
