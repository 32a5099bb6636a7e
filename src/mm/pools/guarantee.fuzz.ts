// A3: whatever others do, an owner who has taken nothing yet gets all pages of his min.
//
// Three pools with a min; everybody else, with every right that can be granted short of `admin`, takes what can be taken in
// every way there is until nothing is left anywhere: requests, fallbacks, priority reclaim, leases, moves, children,
// revocation, a balloon, ordinary memory. Then the owners come.
//
//   DIMMER_SEED=n   replay a seed

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import type { PoolClass } from './pool-table.ts';
import { type Pools, pools } from './pools.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 20071025);
const WORLDS = 40;
const OWNERS = ['ann', 'bob', 'cyd'];
const THIEVES = ['mallory', 'root'];

function exhaust(m: Machine, h: HolderId, order: number): number {
  let n = 0;
  while (m.alloc(h, toOrder(order)) !== -1) n++;
  return n;
}

/** One thing that somebody else tries. @returns whether anything was had */
function steal(m: Machine, p: Pools, rng: Prng, owner: string, children: string[]): boolean {
  const as = rng.pick(THIEVES);
  const pool = `${owner}s`;
  switch (rng.below(8)) {
    case 0: {
      const h = p.addHolder({ class: rng.pick(['anonymous', 'slab', 'file']), name: 'thief', pool }, { as });
      return h.ok && exhaust(m, h.value, rng.pick([0, 0, 3])) > 0;
    }
    case 1: {
      const h = p.addHolder({ class: 'anonymous', name: 'loot', pool: 'loot' }, { as: 'mallory' }); // reclaim, then fallbacks
      return h.ok && exhaust(m, h.value, rng.pick([0, 4, 9])) > 0;
    }
    case 2:
      return p.borrow({ from: pool, to: 'loot', pages: 1 + rng.below(500), partial: rng.chance(0.7) }, { as }).ok;
    case 3: {
      const r = p.move(pool, 'loot', { count: 1 + rng.below(500) }, { as, partial: rng.chance(0.7) });
      return r.ok && r.value > 0;
    }
    case 4: {
      const name = `child${children.length}`;
      const r = p.create({ name, parent: pool, pages: 1 + rng.below(300) }, { as });
      if (r.ok) children.push(name);
      return r.ok;
    }
    case 5: {
      const r = p.revoke({ from: pool, to: 'loot', pages: 1 + rng.below(300), partial: rng.chance(0.5) }, { as });
      return r.ok && r.value.pages > 0;
    }
    case 6: {
      const h = m.addHolder({ class: rng.pick(['anonymous', 'slab', 'balloon']), name: 'everybody' });
      return exhaust(m, h, 0) > 0;
    }
    default: {
      const h = m.addHolder({ class: 'anonymous', name: 'set' });
      let n = 0;
      while (p.allocSet({ on: [pool], holders: [h], order: toOrder(0), offset: rng.pick(['same', 'any']) }, { as }).ok)
        n++;
      return n > 0;
    }
  }
}

describe('guarantee', () => {
  it('RV9 A3: with every other pool exhausted, all pages of a min can be had by its owner', () => {
    let promised = 0;
    let had = 0;
    let stolen = 0;
    for (let world = 0; world < WORLDS; world++) {
      const said = `seed=${SEED} world ${world}`;
      const rng = new Prng(SEED + world);
      const nodes = 1 + rng.below(2);
      const ram = Array.from({ length: nodes }, (_, k) => {
        const start = 2 ** 20 - 4096 + k * 32768;
        return { start: toPfn(start), end: toPfn(start + 8192), node: toNodeId(k) };
      });
      const placement = rng.pick(['address', 'fullest', 'lifo'] as const);
      const marks = rng.chance(0.5) ? ({ watermarks: 'none' } as const) : {};
      const m = Machine.boot({ ram, code: 'shared', placement, cpus: 2, ...marks });
      const p = pools(m);
      const mins = new Map<string, number>();
      for (const owner of OWNERS) {
        const pages = 100 + rng.below(1500);
        const min = rng.below(pages);
        const cls = rng.pick<PoolClass>(['normal', 'guaranteed', 'opportunistic', 'replica', 'dma', 'realtime']);
        const perms = { mallory: ['alloc', 'free', 'donate', 'reclaim', 'inspect'] } as const;
        const where = { nodes: [rng.below(nodes)], priority: rng.below(3) };
        const r = p.create({ name: `${owner}s`, pages, min, class: cls, owner, perms, ...where });
        if (r.ok) mins.set(owner, min);
      }
      const all = Array.from({ length: nodes }, (_, k) => k);
      expect(p.create({ name: 'loot', nodes: all, owner: 'mallory', priority: 255 }).ok, said).toBe(true);
      for (const owner of mins.keys()) p.setFallback('loot', `${owner}s`, 1);
      for (const owner of mins.keys()) p.setFallback(`${owner}s`, 'loot', 1);
      const children: string[] = [];
      let vain = 0;
      for (let k = 0; k < 400 && vain < 60; k++) {
        const got = steal(m, p, rng, rng.pick([...mins.keys()]), children);
        stolen += got ? 1 : 0;
        vain = got ? 0 : vain + 1;
        m.pools[rng.below(m.pools.length)]?.alloc.useCpu(rng.below(2));
      }
      expect(m.check(), said).toEqual([]);
      for (const [owner, min] of mins) {
        const h = p.addHolder(
          { class: rng.pick(['anonymous', 'slab']), name: owner, pool: `${owner}s` },
          { as: owner },
        );
        if (!h.ok) throw new Error(h.error.message);
        const id = p.attrs(`${owner}s`)?.id;
        promised += min;
        for (let k = 0; k < min; k++) {
          const pfn = m.alloc(h.value, toOrder(0));
          const own = pfn !== -1 && m.owners.at(m.sections.indexOf(pfn)) === id;
          if (own) had++;
          else expect(`${k} of ${min} pages`, `${said}: ${owner}, ${m.lastRefusal?.message}`).toBe('all');
        }
      }
      expect(m.check(), said).toEqual([]);
    }
    expect([had, stolen > 200], `seed=${SEED}: ${had} of ${promised} pages, ${stolen} thefts`).toEqual([
      promised,
      true,
    ]);
  }, 120_000);
});
