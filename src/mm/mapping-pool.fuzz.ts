// Mapping pools against a naive model: files are lists of bytes, and nobody may ever see another's. Rules FP1, FP2, FP4,
// FP7, docs/spec/mapping-pools.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from './machine.ts';
import {
  allocMapped,
  checkMappings,
  closeMapped,
  mappedTails,
  shrinkMapped,
  TAIL_PERCENT,
  tailsFirst,
  truncateMapped,
} from './mapping-pool.ts';
import { migrateAllocation } from './migrate.ts';
import { ZONE_NORMAL } from './page-class.ts';
import { evacuateChunk } from './pools/evacuate.ts';

const PAGES = 32768;
const STEPS = 1500;
const SEEDS = 4;

function run(seed: number): void {
  const prng = new Prng(seed);
  const say = `seed=${seed}`;
  let m = Machine.boot({
    ram: [{ start: toPfn(0), end: toPfn(PAGES), node: toNodeId(0), zone: ZONE_NORMAL }],
    placement: prng.pick(['address', 'lifo', 'fullest']),
    code: 'shared',
    watermarks: prng.chance(0.5) ? 'none' : { scaleFactor: 10, thp: false },
  });
  const limit = Math.floor((PAGES * TAIL_PERCENT) / 100);
  const files = Array.from({ length: 24 }, (_, k) => m.addHolder({ class: 'file', name: `f${k}`, mapped: false }));
  const hog = m.addHolder({ class: 'anonymous', name: 'hog' });
  const hogs: Pfn[] = [];
  // Pages of each file by the model: what it got, less what was truncated or evacuated.
  const pages = new Map<HolderId, number>(files.map((f) => [f, 0]));
  const weights = Array.from({ length: 9 }, () => (prng.chance(0.2) ? 0 : 1 + prng.below(10)));
  weights[0] = 20;
  let snapshot: { of: ReturnType<Machine['snapshot']>; pages: Map<HolderId, number>; hogs: Pfn[] } | undefined;
  for (let step = 0; step < STEPS; step++) {
    const f = prng.pick(files);
    const what = prng.weighted(weights);
    // Tails go back on shortage; but not in the middle of a move, which holds on to what it moves.
    m.slowPath = what === 6 || what === 7 ? undefined : tailsFirst();
    switch (what) {
      case 0: {
        const length = 1 + prng.below(prng.pick([4, 40, 600]));
        const told = prng.chance(0.5);
        for (let k = 0; k < length; k++) {
          if (allocMapped(m, f, told ? length - k : undefined) < 0) break;
          pages.set(f, (pages.get(f) ?? 0) + 1);
        }
        break;
      }
      case 1:
        truncateMapped(m, f);
        pages.set(f, 0);
        break;
      case 2:
        closeMapped(m, f);
        break;
      case 3:
        shrinkMapped(m, prng.below(1000));
        break;
      case 4:
        for (let k = prng.below(2000); k > 0; k--) {
          const pfn = m.alloc(hog, toOrder(prng.below(3)));
          if (pfn < 0) break;
          hogs.push(toPfn(pfn));
        }
        break;
      case 5:
        for (let k = prng.below(2000); k > 0 && hogs.length > 0; k--) {
          const i = prng.below(hogs.length);
          m.free(hogs[i]);
          hogs[i] = hogs[hogs.length - 1];
          hogs.pop();
        }
        break;
      case 6: {
        // Compaction: whatever lies there moves, tails too; the hog's list of places is made anew.
        const at = prng.below(PAGES);
        for (let i = at; i < Math.min(PAGES, at + 200); i++) {
          const a = m.sections.allocationAt(i);
          if (a?.head === i) migrateAllocation(m, i, Int32Array.of(m.poolAt(i)?.id ?? -1));
        }
        break;
      }
      case 7: {
        evacuateChunk(m, toPfn(prng.below(PAGES))); // drops clean cache, tails too
        for (const file of files) pages.set(file, m.holders.pages[file]);
        break;
      }
      default:
        if (snapshot === undefined) snapshot = { of: m.snapshot(), pages: new Map(pages), hogs: [...hogs] };
        else {
          if (prng.chance(0.5)) m.restore(snapshot.of);
          else {
            m = snapshot.of.image;
          }
          for (const [file, n] of snapshot.pages) pages.set(file, n);
          hogs.length = 0;
          for (const pfn of snapshot.hogs) hogs.push(pfn);
          snapshot = undefined;
        }
    }
    if (what === 6 || what === 7) {
      hogs.length = 0;
      m.forEachFrameOf(hog, (pfn) => hogs.push(pfn));
    }
    expect(mappedTails(m), say).toBeLessThanOrEqual(limit);
    for (const [file, n] of pages) expect(m.holders.pages[file], `${say} step=${step} file=${file}`).toBe(n);
    if (step % 200 === 0) {
      expect(m.check(), `${say} step=${step}`).toEqual([]);
      expect(checkMappings(m), `${say} step=${step}`).toEqual([]);
    }
  }
  for (const f of files) truncateMapped(m, f);
  for (const pfn of hogs) m.free(pfn);
  for (const p of m.pools) p.alloc.drain();
  expect(
    m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0),
    say,
  ).toBe(PAGES);
  expect(mappedTails(m), say).toBe(0);
  expect(m.check(), say).toEqual([]);
  expect(checkMappings(m), say).toEqual([]);
}

describe('mapping pools, at random', () => {
  it('FP4 FP7 files have what they were given, tails stay tails, whatever moves, drops and copies between', () => {
    for (let seed = 1; seed <= SEEDS; seed++) run(seed);
  });
});
