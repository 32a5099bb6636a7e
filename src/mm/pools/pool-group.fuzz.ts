// Groups under random verbs, against a naive model: a set of numbered pages for each group, and a sum of frames.
//
//   model   group -> limit, and for each member the indexes that it holds
//   after each event   the account equals the model's; a refusal of a move has changed nothing (digest)
//
// Events: a member comes or exits, pages are taken and given back, pinned and unpinned, limits change, groups move between
// pools of two nodes. Weights are random too, some are zero.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import { poolGroups } from './pool-group.ts';
import { pools } from './pools.ts';
import { setPageState } from './shed.ts';

const NODE_PAGES = 32768; // 128 MiB
const EVENTS = ['join', 'exit', 'alloc', 'free', 'pin', 'unpin', 'limit', 'move'] as const;
const CLASSES = ['anonymous', 'anonymous', 'file', 'slab', 'shmem'] as const;

/** Index and contents of each page of a holder. */
function contents(m: Machine, holder: HolderId): Map<number, number> {
  const out = new Map<number, number>();
  m.forEachFrameOf(holder, (pfn, order, index) => {
    out.set(index, 16 * (m.sections.metaAt(m.sections.indexOf(pfn)) >>> 8) + order);
  });
  return out;
}

function run(seed: number, steps: number): void {
  const rng = new Prng(seed);
  const at = `seed=${seed}`;
  const m = Machine.boot({
    ram: [0, 1].map((n) => ({
      start: toPfn(n * NODE_PAGES),
      end: toPfn((n + 1) * NODE_PAGES),
      node: toNodeId(n),
    })),
    code: 'shared',
    watermarks: rng.chance(0.5) ? 'none' : { scaleFactor: 10, thp: false },
  });
  const clean = rng.chance(0.5);
  setPageState(m, () => ({ dirty: false, mapped: !clean }));
  const p = pools(m);
  const g = poolGroups(m);
  const names = ['a', 'b', 'c', 'b-sub'];
  const spare = ['north', 'south', 'both'];
  for (const [k, name] of ['a', 'b', 'c'].entries()) {
    expect(g.create({ name, pages: 1000 + rng.below(3000), nodes: [k % 2] }).ok, at).toBe(true);
  }
  expect(g.create({ name: 'b-sub', parent: 'b', pages: 300 }).ok, at).toBe(true);
  expect(p.create({ name: 'north', pages: 2000, nodes: [0] }).ok, at).toBe(true);
  expect(p.create({ name: 'south', pages: 500, nodes: [1], max: 1500 }).ok, at).toBe(true);
  expect(p.create({ name: 'both', pages: 1000, nodes: [0, 1] }).ok, at).toBe(true);
  if (rng.chance(0.5)) expect(p.setFallback('a', 'both', 1).ok, at).toBe(true);
  if (rng.chance(0.3)) expect(p.borrow({ from: 'north', to: 'a', pages: 300 }).ok, at).toBe(true);

  const members = new Map<HolderId, { group: string; held: Map<number, number> }>();
  const pinned = new Set<number>();
  const weights = EVENTS.map(() => (rng.chance(0.2) ? 0 : 1 + rng.below(5)));
  weights[0] = (weights[0] as number) + 1;
  weights[2] = (weights[2] as number) + 8;

  for (let step = 0; step < steps; step++) {
    const where = `${at} step=${step}`;
    const event = EVENTS[rng.weighted(weights)] as (typeof EVENTS)[number];
    const group = rng.pick(names);
    const holders = [...members.keys()];
    const holder = holders.length === 0 ? undefined : rng.pick(holders);
    if (event === 'join' && members.size < 12) {
      const cls = rng.pick(CLASSES);
      const made = g.addMember(group, { class: cls, name: `${cls} of ${group}` });
      if (!made.ok) throw new Error(`${where} ${made.error.message}`);
      members.set(made.value, { group, held: new Map() });
    } else if (holder === undefined) continue;
    const mine = members.get(holder as HolderId);
    if (mine === undefined || holder === undefined) continue;
    const pages: Pfn[] = [];
    m.forEachFrameOf(holder, (pfn) => void pages.push(pfn));
    if (event === 'exit' && rng.chance(0.3)) {
      for (const pfn of pages) pinned.delete(pfn);
      expect(g.exit(mine.group, holder).ok, where).toBe(true);
      members.delete(holder);
    } else if (event === 'alloc') {
      const order = toOrder(rng.pick([0, 0, 0, 0, 1, 3]));
      for (let k = 1 + rng.below(400); k > 0; k--) if (m.alloc(holder, order) === -1) break;
      mine.held = contents(m, holder);
    } else if (event === 'free') {
      for (const pfn of pages) {
        if (pinned.has(pfn) || !rng.chance(0.3)) continue;
        mine.held.delete((m.frame(pfn) as { index: number }).index);
        m.free(pfn);
      }
    } else if (event === 'pin' && pages.length > 0) {
      const pfn = rng.pick(pages);
      m.pin(pfn);
      pinned.add(pfn);
    } else if (event === 'unpin') {
      for (const pfn of [...pinned]) m.unpin(toPfn(pfn));
      pinned.clear();
    } else if (event === 'limit') {
      const before = g.usage(group);
      const limit = rng.below(5000);
      const r = g.setLimit(group, limit, { partial: rng.chance(0.3) });
      const after = g.usage(group);
      if (!before.ok || !after.ok) throw new Error(where);
      expect(after.value.limit, where).toBe(r.ok ? r.value.limit : before.value.limit);
      if (r.ok) expect(r.value.limit, where).toBeGreaterThanOrEqual(limit);
      for (const [h, row] of members)
        row.held = kept(row.held, contents(m, h), clean || !r.ok || r.value.dropped > 0, where);
    } else if (event === 'move') {
      const to = rng.pick([...names, ...spare]);
      for (const pool of m.pools) pool.alloc.drain(); // looking for room does it
      const before = m.digest();
      const partial = rng.chance(0.3);
      const r = g.moveTo(group, to, { partial });
      if (!r.ok) expect(m.digest(), where).toBe(before);
      else if (!partial) expect(r.value.stayed, where).toBe(0);
    }
    for (const [h, row] of members) {
      // A large page that migrated in parts has new indexes for them: only its frames are compared.
      const now = contents(m, h);
      if (row.held.size === now.size) expect(now, where).toEqual(row.held);
      row.held = now;
    }
    for (const name of names) {
      const usage = g.usage(name);
      if (!usage.ok) throw new Error(`${where} ${usage.error.message}`);
      const expected = [...members].filter(([, row]) => row.group === name).map(([h]) => m.holders.pages[h]);
      const counted = usage.value.members.map((x) => x.pages + x.outside);
      expect(counted, where).toEqual(expected);
      const classes = Object.values(usage.value.byClass).reduce((n, k) => n + k, 0);
      expect(classes, where).toBe(usage.value.members.reduce((n, x) => n + x.pages, 0));
      expect(usage.value.used, where).toBeGreaterThanOrEqual(classes);
    }
    if (step % 20 === 0) expect(m.check(), where).toEqual([]);
  }
  expect(m.check(), at).toEqual([]);
}

/** What is left of a holder after pages of it may have been dropped: nothing else has changed. */
function kept(
  before: ReadonlyMap<number, number>,
  now: Map<number, number>,
  mayDrop: boolean,
  where: string,
): Map<number, number> {
  if (!mayDrop) expect(now.size, where).toBeGreaterThanOrEqual(before.size);
  for (const [index, page] of now) if (before.has(index)) expect(page, where).toBe(before.get(index));
  return now;
}

describe('random groups', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])('PG12 accounts, limits and moves, seed %i', (seed) =>
    run(seed, 150),
  );
});
