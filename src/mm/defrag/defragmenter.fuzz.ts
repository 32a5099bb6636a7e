// Anything at all between any two steps: allocations, frees, pins, faults, forks, restores, blocks that go and come. Rules
// DF4, DF13, docs/spec/defrag.md. DIMMER_SEED runs one seed, DIMMER_SEEDS more of them.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import { ZONE_MOVABLE, ZONE_NORMAL } from '../page-class.ts';
import { MAKER_KINDS, MOST_HELD } from './block-maker.ts';
import { Defragmenter } from './defragmenter.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 20040204);
const SEEDS = Number(process.env.DIMMER_SEEDS ?? 6);
const STEPS = 1000;
/** Blocks that go or come in a run: each moves half of memory. */
const HOTPLUGS = 6;
const PAGES = 2 * 32768;

function run(seed: number): { moved: number; made: number } {
  const prng = new Prng(seed);
  const say = `seed=${seed}`;
  const m = Machine.boot({
    ram: [
      { start: toPfn(0), end: toPfn(PAGES / 2), node: toNodeId(0), zone: ZONE_NORMAL },
      { start: toPfn(PAGES / 2), end: toPfn(PAGES), node: toNodeId(0), zone: ZONE_MOVABLE },
    ],
    placement: prng.pick(['address', 'lifo', 'fullest']),
    code: 'shared',
    cpus: 2,
    watermarks: prng.chance(0.5) ? 'none' : { scaleFactor: 10, thp: false },
  });
  const d = new Defragmenter(m, {
    maker: prng.pick(MAKER_KINDS),
    thresholds: [
      { order: 9, low: 8, high: 1 + prng.below(60) + 8 },
      ...(prng.chance(0.5) ? [{ order: 10, low: 4, high: 10 }] : []),
      ...(prng.chance(0.5) ? [{ order: 4, low: 100, high: 1000 }] : []),
    ],
    failure: { ...(prng.chance(0.3) && { limit: { rate: 1, burst: 2000 } }) },
    daemon: { pages: [8, 64, 256] },
    idle: {},
    pause: 4,
  });
  m.slowPath = d.slowPath();
  const holders: HolderId[] = (['anonymous', 'file', 'shmem', 'slab', 'pagetable', 'balloon'] as const).map((c) =>
    m.addHolder({ class: c, name: c, ...(c === 'file' && { migrateCallback: false }) }),
  );
  const byChance = [40, 20, 5, 3, 1, 1];
  let faulty = 0;
  m.faultAt = () => faulty > 0 && prng.chance(faulty);
  /** Some frame in use. */
  const someFrame = (): Pfn | undefined => {
    const a = m.sections.allocationAt(prng.below(PAGES));
    return a === undefined ? undefined : m.sections.pfnOf(a.head);
  };
  const fill = (part: number): void => {
    for (let k = Math.floor(PAGES * part); k > 0; k--) {
      const order = prng.chance(0.95) ? 0 : prng.below(5);
      if (m.alloc(holders[prng.weighted(byChance)], toOrder(order)) < 0) break;
    }
  };
  const thin = (part: number): void => {
    for (let k = Math.floor(PAGES * part); k > 0; k--) {
      const pfn = someFrame();
      if (pfn !== undefined) m.free(pfn);
    }
  };
  fill(0.9);
  thin(0.4);
  const weights = Array.from({ length: 9 }, () => (prng.chance(0.15) ? 0 : 1 + prng.below(8)));
  weights[0] += 8;
  let snapshot: ReturnType<Machine['snapshot']> | undefined;
  let now = 0;
  let hotplugs = 0;
  for (let step = 0; step < STEPS; step++) {
    const before = m.vmstat.pgmigrate_success;
    switch (prng.weighted(weights)) {
      case 0:
        for (let k = 0; k < 50; k++) {
          const n = d.idle(now);
          expect(n, say).toBeLessThanOrEqual(16); // a page: an allocation, order 4 at most here
          if (n === 0) break;
        }
        break;
      case 1:
        d.tick(++now);
        break;
      case 2: {
        const pfn = m.alloc(holders[0], toOrder(9 + prng.below(2)));
        if (pfn >= 0 && prng.chance(0.5)) m.free(toPfn(pfn));
        break;
      }
      case 3:
        fill(prng.below(100) / 10000);
        break;
      case 4:
        thin(prng.below(100) / 10000);
        break;
      case 5: {
        const pfn = someFrame();
        if (pfn === undefined) break;
        if (prng.chance(0.5)) m.pin(pfn);
        else m.unpin(pfn);
        m.setPageFlags(pfn, { dirty: prng.chance(0.5), writeback: prng.chance(0.2) });
        break;
      }
      case 6:
        faulty = prng.pick([0, 0, 0.01, 0.3]);
        break;
      case 7: {
        if (hotplugs++ >= HOTPLUGS) break;
        const id = toBlockId(prng.below(2));
        if (m.block(id)?.state === 'online') m.offline(id);
        else m.online(id, 'online');
        break;
      }
      default:
        if (snapshot === undefined) snapshot = m.snapshot();
        else {
          m.restore(snapshot);
          snapshot = undefined;
        }
    }
    expect(m.vmstat.pgmigrate_success - before, say).toBeLessThan(PAGES);
    for (const p of m.pools) expect(p.alloc.front.settings().disabled, `${say} step=${step}`).toBe(0);
    if (step % 250 === 0) expect(m.check(), `${say} step=${step}`).toEqual([]);
  }
  m.faultAt = undefined;
  expect(m.check(), say).toEqual([]);
  const { failure, daemon, idle } = d.counts;
  for (const c of [failure, daemon]) expect(c.longestStep, say).toBeLessThanOrEqual(MOST_HELD + 15);
  return { moved: failure.moved + daemon.moved + idle.moved, made: failure.made + daemon.made + idle.made };
}

describe('a defragmenter, at random', () => {
  it('DF13 whoever comes between two steps, every frame is where its holder looks for it', () => {
    let moved = 0;
    let made = 0;
    for (let k = 0; k < (process.env.DIMMER_SEED === undefined ? SEEDS : 1); k++) {
      const r = run(SEED + k);
      moved += r.moved;
      made += r.made;
    }
    if (process.env.DIMMER_SEED !== undefined) return;
    expect(moved).toBeGreaterThan(1000 * SEEDS);
    expect(made).toBeGreaterThan(SEEDS);
  });
});
