// Pools of huge pages against a naive model: lists of page numbers and four counters, no slots and no holders. HU4, HU5, HU7,
// HU8, HU9, HU10.
//
// Two nodes whose memory is only ever used by huge pages, so that room is a count. After each event the model and the pool
// agree on nr, free, reserved, surplus, on each node too, and on how many pages the users have; offlines and migrations come
// in between, so that pages lie elsewhere than where they were made.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type NodeId, type Pfn, toBlockId, toNodeId, toPfn } from '#base/units';
import { worldFrom } from '../../test/support/picture.ts';
import {
  checkHugetlb,
  faultHuge,
  HUGE_2M,
  hugetlbCounts,
  migrateWithPools,
  releaseHuge,
  reserveHuge,
  unreserveHuge,
} from './hugetlb.ts';
import { setNrHugepages, setNrOvercommitHugepages } from './hugetlb-resize.ts';
import type { Machine } from './machine.ts';

type Model = {
  free: number[];
  used: number[];
  surplus: number[];
  reserved: number;
  overcommit: number;
  room: number[];
};
const NODES = [toNodeId(0), toNodeId(1)];
const sum = (a: readonly number[]): number => a.reduce((x, y) => x + y, 0);

function agree(m: Machine, model: Model, where: string): void {
  const all = hugetlbCounts(m, HUGE_2M);
  expect([all.nr, all.free, all.reserved, all.surplus], where).toEqual([
    sum(model.free) + sum(model.used),
    sum(model.free),
    model.reserved,
    sum(model.surplus),
  ]);
  NODES.forEach((node, k) => {
    const here = hugetlbCounts(m, HUGE_2M, node);
    expect([here.nr, here.free, here.surplus], `${where} node ${k}`).toEqual([
      model.free[k] + model.used[k],
      model.free[k],
      model.surplus[k],
    ]);
  });
}

/** The model takes over how pages are spread: which node a page comes from is the pool's policy, tested by HU4 and HU5. */
function follow(m: Machine, model: Model): void {
  NODES.forEach((node: NodeId, k) => {
    const { nr, free, surplus } = hugetlbCounts(m, HUGE_2M, node);
    model.free[k] = free;
    model.used[k] = nr - free;
    model.surplus[k] = surplus;
  });
}

/** What nr_hugepages reads after a write: set_max_huge_pages() in counts. */
function resized(model: Model, want: number): number {
  const used = sum(model.used);
  let total = used + sum(model.free);
  let persistent = total - sum(model.surplus);
  persistent += Math.max(0, Math.min(sum(model.surplus), want - persistent));
  const fresh = Math.max(0, Math.min(want - persistent, sum(model.room) - total));
  total += fresh;
  persistent += fresh;
  if (want > persistent) return total;
  return total - Math.max(0, Math.min(persistent - Math.max(want, model.reserved + used), total - used));
}

describe('pools of huge pages, random', () => {
  for (const seed of [1, 2, 3, 4]) {
    it(`HU4 HU5 HU7 HU8 HU9 HU10 the pool says what a list of pages says, seed=${seed}`, () => {
      const rng = new Prng(seed);
      const { m } = worldFrom('n0 Normal ........\n n1 Normal ........\n n1 Movable ........', {
        kernel: rng.pick(['6.1', '6.12']),
      });
      const model: Model = { free: [0, 0], used: [0, 0], surplus: [0, 0], reserved: 0, overcommit: 0, room: [64, 128] };
      const users: HolderId[] = NODES.map((node) => m.addHolder({ class: 'hugetlb', name: 'user', node }));
      const members = new Set<string>(); // "user:index" of every used page: neither changes when it moves
      const nameOf = (pfn: Pfn): string => {
        const f = m.frame(pfn);
        return f.state === 'used' ? `${f.holder}:${f.index}` : f.state;
      };
      const pagesOf = (): Pfn[] => {
        const out: Pfn[] = [];
        for (const h of users) m.forEachFrameOf(h, (pfn) => out.push(pfn));
        return out;
      };
      let offlines = 0;
      for (let event = 0; event < 250; event++) {
        const where = `seed=${seed} event=${event}`;
        const kind = rng.weighted([3, 8, 6, 2, 2, 1, 3, 2]);
        const total = sum(model.free) + sum(model.used);
        if (kind === 0) {
          const want = rng.below(rng.pick([20, 100, 250]));
          expect(setNrHugepages(m, HUGE_2M, want), `${where} want=${want}`).toBe(resized(model, want));
          follow(m, model);
        } else if (kind === 1) {
          const reserved = model.reserved > 0 && rng.chance(0.5);
          const k = rng.below(2);
          const can =
            reserved ||
            sum(model.free) > model.reserved ||
            (sum(model.surplus) < model.overcommit && total < sum(model.room));
          const r = faultHuge(m, HUGE_2M, users[k], { reserved });
          expect(r.ok, where).toBe(can);
          if (r.ok) {
            members.add(nameOf(r.value));
            if (reserved) model.reserved--;
          }
          follow(m, model);
        } else if (kind === 2) {
          const pages = pagesOf();
          if (pages.length === 0) continue;
          const pfn = rng.pick(pages);
          members.delete(nameOf(pfn));
          releaseHuge(m, pfn);
          follow(m, model);
        } else if (kind === 3) {
          const count = 1 + rng.below(6);
          const lacking = model.reserved + count - sum(model.free);
          const can =
            lacking <= 0 || (sum(model.surplus) + lacking <= model.overcommit && total + lacking <= sum(model.room));
          expect(reserveHuge(m, HUGE_2M, count).ok, where).toBe(can);
          if (can) model.reserved += count;
          follow(m, model);
        } else if (kind === 4) {
          const count = rng.below(model.reserved + 1);
          unreserveHuge(m, HUGE_2M, count);
          model.reserved -= count;
          follow(m, model);
        } else if (kind === 5) {
          model.overcommit = rng.below(10);
          setNrOvercommitHugepages(m, model.overcommit);
        } else if (kind === 6) {
          const pages = pagesOf();
          if (pages.length === 0) continue;
          const pfn = rng.pick(pages);
          const before = hugetlbCounts(m, HUGE_2M);
          const to = NODES[rng.below(2)];
          migrateWithPools(
            m,
            m.sections.indexOf(pfn),
            m.zonelist(to, 2).filter((id) => m.pools[id].node === to),
          );
          expect(hugetlbCounts(m, HUGE_2M), where).toEqual(before);
          follow(m, model);
        } else {
          const block = toBlockId(2);
          const before = hugetlbCounts(m, HUGE_2M);
          const r = m.offline(block);
          const after = hugetlbCounts(m, HUGE_2M);
          expect(after.nr, where).toBeLessThanOrEqual(before.nr);
          expect([after.nr - after.free, after.reserved], where).toEqual([before.nr - before.free, before.reserved]);
          if (r.ok) {
            offlines++;
            expect(m.online(block, 'movable').ok).toBe(true);
          } else expect(after, where).toEqual(before);
          follow(m, model);
        }
        agree(m, model, where);
        expect(new Set(pagesOf().map(nameOf)), where).toEqual(members);
        if (event % 50 === 0) expect([m.check(), checkHugetlb(m)], where).toEqual([[], []]);
      }
      expect(offlines, `seed=${seed}`).toBeGreaterThan(3);
      expect([m.check(), checkHugetlb(m)], `seed=${seed}`).toEqual([[], []]);
      for (const pfn of pagesOf()) releaseHuge(m, toPfn(pfn));
      unreserveHuge(m, HUGE_2M, model.reserved);
      expect(setNrHugepages(m, HUGE_2M, 0), `seed=${seed}`).toBe(0);
      expect(
        m.pools.reduce((n, p) => n + p.managed - p.alloc.nrFree(), 0),
        `seed=${seed}: frames lost`,
      ).toBe(0);
    });
  }
});
