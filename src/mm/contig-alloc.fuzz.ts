// Contiguous allocation against a naive model: an array of letters, one a frame, and no buddies at all. Rule AC2, AC3.
//
// The model knows, for each frame, whose it is. A request succeeds exactly if nothing in its range refuses and what is in
// it fits into the free frames outside of the covering pageblocks (order 0 only, so that room is a count). Compared after
// each event: who holds how many frames, whose each frame of a contiguous range is, how many are free.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, toOrder, toPfn } from '#base/units';
import { allocContigRange, freeContigRange } from './contig-alloc.ts';
import { PAGEBLOCK_PAGES } from './geometry.ts';
import { Machine } from './machine.ts';
import { simpleSpec } from './machine-spec.ts';

const FRAMES = 32768;
const SPACE = 8 * PAGEBLOCK_PAGES; // where requests fall; the rest is filled up but for some room

describe('contiguous allocation, random', () => {
  const total = { ok: 0, unmovable: 0, 'no-memory': 0 };
  for (const seed of [1, 2, 3, 4, 5, 6]) {
    it(`AC2 AC3 succeeds where a list of frames says it can, seed=${seed}`, () => {
      const rng = new Prng(seed);
      const m = Machine.boot(
        simpleSpec(FRAMES * 4096, {
          watermarks: 'none',
          code: 'shared',
          placement: rng.pick(['address', 'lifo', 'fullest']),
        }),
      );
      const movable = m.addHolder({ class: 'anonymous', name: 'movable' });
      const kernel = m.addHolder({ class: 'slab', name: 'kernel' });
      const contig = m.addHolder({ class: 'driver', name: 'contig' });
      const filler = m.addHolder({ class: 'driver', name: 'filler' });
      expect(allocContigRange(m, toPfn(SPACE + 512 * rng.below(4)), toPfn(FRAMES), { holder: filler }).ok).toBe(true);
      const ranges: { start: number; end: number }[] = [];
      const seen = { ok: 0, unmovable: 0, 'no-memory': 0 };
      const free = (): number => m.pools.reduce((n, p) => n + p.alloc.nrFree() + p.alloc.pcpPages(), 0);
      const limit = free();
      for (let event = 0; event < 400; event++) {
        const where = `seed=${seed} event=${event}`;
        const kind = rng.weighted([8, 4, 4, 3, 2]);
        if (kind === 0) {
          m.alloc(rng.chance(0.995) ? movable : kernel, toOrder(0));
          for (let k = rng.pick([0, 60, 900]); k > 0; k--) m.alloc(movable, toOrder(0));
        } else if (kind === 1) {
          const heads: number[] = [];
          m.forEachFrameOf(rng.chance(0.8) ? movable : kernel, (pfn) => heads.push(pfn));
          for (const pfn of rng.shuffle(heads).slice(0, rng.below(80))) m.free(toPfn(pfn));
        } else if (kind === 2 && ranges.length > 0) {
          const k = rng.below(ranges.length);
          const r = ranges[k];
          const cut = r.start + rng.below(r.end - r.start + 1); // the front part, or all of it
          if (cut > r.start) freeContigRange(m, toPfn(r.start), toPfn(cut));
          if (cut === r.end) ranges.splice(k, 1);
          else ranges[k] = { start: cut, end: r.end };
        } else {
          const start = rng.below(SPACE - 1);
          const end = Math.min(SPACE, start + 1 + rng.below(rng.pick([5, 600, 1500])));
          const letters = lettersOf(m, start, end);
          const mine = letters.filter((h) => h === movable).length;
          const refuses = letters.some((h) => h !== movable && h !== -1);
          const covered = lettersOf(m, start - (start % 512), Math.ceil(end / 512) * 512);
          const room = free() - covered.filter((h) => h === -1).length;
          const before = [movable, kernel, contig].map((h) => m.holders.pages[h]);
          const r = allocContigRange(m, toPfn(start), toPfn(end), { holder: contig });
          expect(r.ok, `${where} [${start}, ${end}) mine=${mine} room=${room} ${r.ok ? '' : r.error.message}`).toBe(
            !refuses && mine <= room,
          );
          if (r.ok) {
            ranges.push({ start, end });
            seen.ok++;
            expect(r.value.migratedPages, where).toBe(mine);
          } else {
            seen[refuses ? 'unmovable' : 'no-memory']++;
            expect(r.error.reason, where).toBe(refuses ? 'unmovable' : 'no-memory');
            expect(
              [movable, kernel, contig].map((h) => m.holders.pages[h]),
              where,
            ).toEqual(before);
          }
        }
        for (const r of ranges) expect(new Set(lettersOf(m, r.start, r.end)), where).toEqual(new Set([contig]));
        const used = [movable, kernel, contig].reduce((n, h) => n + m.holders.pages[h], 0);
        expect(free() + used, where).toBe(limit);
        if (event % 40 === 0) expect(m.check(), where).toEqual([]);
      }
      expect(m.check(), `seed=${seed}`).toEqual([]);
      total.ok += seen.ok;
      total.unmovable += seen.unmovable;
      total['no-memory'] += seen['no-memory'];
    });
  }

  it('AC2 AC3 each outcome was met', () => {
    for (const [outcome, times] of Object.entries(total)) expect(times, outcome).toBeGreaterThan(10);
  });
});

/** Holder of each frame; -1 = free. */
function lettersOf(m: Machine, start: number, end: number): (HolderId | -1)[] {
  const out: (HolderId | -1)[] = [];
  for (let pfn = start; pfn < end; pfn++) {
    const f = m.frame(toPfn(pfn));
    out.push(f.state === 'used' ? f.holder : -1);
  }
  return out;
}
