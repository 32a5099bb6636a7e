// Page cache out of chunks of each file's own: docs/spec/mapping-pools.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { deleteEveryOther, fillFiles, freeInOrder } from './defrag/fill-delete.ts';
import { MIGRATE_UNMOVABLE, PAGEBLOCK_PAGES } from './geometry.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import {
  allocMapped,
  checkMappings,
  closeMapped,
  MAPPING_FAULT_POINTS,
  mappedTails,
  mappingInfo,
  shrinkMapped,
  TAIL_PERCENT,
  tailsFirst,
  truncateMapped,
} from './mapping-pool.ts';
import { migrateAllocation, splitAllocation } from './migrate.ts';
import { ZONE_NORMAL } from './page-class.ts';
import type { Pool } from './pool.ts';
import { evacuateChunk } from './pools/evacuate.ts';
import { pools } from './pools/pools.ts';

const PAGES = 32768;

/** 128 MiB in one zone, no marks, unless told otherwise. */
const boot = (spec: Partial<MachineSpec> = {}): Machine =>
  Machine.boot({
    ram: [{ start: toPfn(0), end: toPfn(PAGES), node: toNodeId(0), zone: ZONE_NORMAL }],
    watermarks: 'none',
    ...spec,
  });

const file = (m: Machine, name = 'f'): HolderId => m.addHolder({ class: 'file', name, mapped: false });

const take = (m: Machine, f: HolderId, n: number, ahead?: number): Pfn[] =>
  Array.from({ length: n }, (_, k) => toPfn(allocMapped(m, f, ahead === undefined ? undefined : ahead - k)));

const nrFree = (m: Machine): number => {
  for (const p of m.pools) p.alloc.drain();
  return m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0);
};

const sound = (m: Machine): void => {
  expect(m.check()).toEqual([]);
  expect(checkMappings(m)).toEqual([]);
};

/** The reserve's name and what frames() says of the frame after `pfn`. */
const after = (m: Machine, pfn: Pfn) => m.frame(toPfn(pfn + 1));

describe('a file', () => {
  it('FP1 is served in ascending order; tiny files have no tail, others one of an eighth or less than 16 pages', () => {
    const m = boot();
    const a = file(m, 'a');
    const b = file(m, 'b');
    const frames: Pfn[] = [];
    for (let n = 1; n <= 3000; n++) {
      frames.push(toPfn(allocMapped(m, a)));
      allocMapped(m, b); // somebody else all the while
      const { pages, tailPages } = mappingInfo(m, a);
      expect(pages).toBe(n);
      if (n <= 4) expect(tailPages).toBe(0);
      expect(tailPages).toBeLessThanOrEqual(Math.max(15, n / 8));
    }
    // Runs of a chunk: a step that is not to the next frame begins a new one, aligned to 16 frames or more.
    const starts = frames.slice(4).filter((pfn, k) => pfn !== frames[k + 3] + 1);
    expect(starts.length).toBeLessThan(60); // 16 chunks of order 4 by 256 pages, then larger ones
    for (const pfn of starts) expect(pfn % 16).toBe(0);
    const largest = Math.max(
      ...starts.map((pfn, k) => frames.indexOf(starts[k + 1] ?? frames[2999]) - frames.indexOf(pfn)),
    );
    expect(largest).toBeGreaterThanOrEqual(256);
    sound(m);
  });

  it('FP2 all tails together stay below their limit, however many files are begun', () => {
    const m = boot();
    const limit = Math.floor((PAGES * TAIL_PERCENT) / 100);
    let most = 0;
    for (let k = 0; k < 3000; k++) {
      expect(allocMapped(m, file(m, `f${k}`), 200)).toBeGreaterThanOrEqual(0);
      expect(mappedTails(m)).toBeLessThanOrEqual(limit);
      most = Math.max(most, mappedTails(m));
    }
    expect(most).toBe(limit); // it was the limit that stopped them
    sound(m);
  });

  it('FP3 who says how much will be wanted leaves no tail', () => {
    for (const pages of [1, 2, 3, 16, 100, 128, 511, 512, 513, 1300]) {
      const m = boot();
      const f = file(m);
      const got = take(m, f, pages, pages);
      expect(mappingInfo(m, f)).toEqual({ pages, tailPages: 0 });
      const runs = 1 + got.filter((pfn, k) => k > 0 && pfn !== got[k - 1] + 1).length;
      expect(runs).toBeLessThanOrEqual(Math.ceil(pages / 512) + 9); // a chunk for each bit of the length at most
      sound(m);
    }
  });

  it('FP4 its tail is in use, by a reserve of class file that nobody mapped', () => {
    const m = boot();
    const f = file(m, 'log');
    const pfn = toPfn(allocMapped(m, f, 8));
    expect(after(m, pfn)).toMatchObject({ state: 'used', class: 'file', name: 'reserve of log', order: 0 });
    expect(m.holders.specs.find((s) => s.name === 'reserve of log')).toMatchObject({ mapped: false });
    expect(mappedTails(m)).toBe(7);
    expect(nrFree(m)).toBe(PAGES - 8);
    sound(m);
    expect(() => allocMapped(m, m.addHolder({ class: 'anonymous', name: 'heap' }))).toThrow(/address space/);
  });

  it.each(['tag', 'bytes'] as const)(
    'FP5 deleted, it leaves large blocks and touches no other (contents: %s)',
    (contents) => {
      // Five sections: the tails of eight chunks are below their limit.
      const ram = [{ start: toPfn(0), end: toPfn(5 * PAGES), node: toNodeId(0), zone: ZONE_NORMAL }] as const;
      const m = boot({ contents, ram });
      const { area } = (m.pools.find((p) => p.present > 0) as Pool).alloc;
      const files = Array.from({ length: 8 }, (_, k) => file(m, `f${k}`));
      // Interleaved page by page; each knows that it will have 512.
      for (let n = 0; n < 512; n++) for (const f of files) allocMapped(m, f, 512 - n);
      const kept = new Map(files.map((f) => [f, framesOf(m, f)]));
      if (contents === 'bytes') m.write(framesOf(m, files[3])[9], 0, Uint8Array.of(7));
      const [pfn] = framesOf(m, files[3]);
      expect(truncateMapped(m, files[3])).toBe(512);
      expect(area.orderAt(pfn)).toBe(9); // at once: nothing was drained
      expect(mappingInfo(m, files[3])).toEqual({ pages: 0, tailPages: 0 });
      for (const f of files) if (f !== files[3]) expect(framesOf(m, f)).toEqual(kept.get(f));
      if (contents === 'bytes') {
        const again = toPfn(m.alloc(files[3], toOrder(9)));
        expect(again).toBe(pfn);
        expect(m.read(toPfn(pfn + 9))[0]).toBe(0);
      }
      sound(m);
    },
  );

  it('FP5 truncated in the middle, it keeps what lies before', () => {
    const m = boot();
    const f = file(m);
    const got = take(m, f, 100, 128);
    expect(truncateMapped(m, f, 40)).toBe(60 + mappingInfo(m, f).tailPages + 28);
    expect(framesOf(m, f)).toEqual(got.slice(0, 40));
    expect(nrFree(m)).toBe(PAGES - 40);
    take(m, f, 10);
    expect(mappingInfo(m, f).pages).toBe(50);
    sound(m);
  });

  it('FP6 closed, it has no tail, and may be written again', () => {
    const m = boot();
    const f = file(m);
    take(m, f, 10);
    expect(mappingInfo(m, f).tailPages).toBe(10);
    expect(closeMapped(m, f)).toBe(10);
    expect(mappingInfo(m, f)).toEqual({ pages: 10, tailPages: 0 });
    expect(closeMapped(m, f)).toBe(0);
    take(m, f, 7);
    expect(mappingInfo(m, f)).toEqual({ pages: 17, tailPages: 9 });
    expect(closeMapped(m, file(m, 'another'))).toBe(0);
    sound(m);
  });
});

const framesOf = (m: Machine, f: HolderId): Pfn[] => {
  const out: Pfn[] = [];
  m.forEachFrameOf(f, (pfn) => out.push(pfn));
  return out;
};

describe('what others do to a tail', () => {
  it('FP7 dropped in part: the rest is given back, and the file goes on', () => {
    const m = boot();
    const f = file(m);
    const [first] = take(m, f, 1, 64);
    m.free(toPfn(first + 32)); // its largest piece, dropped as clean cache
    expect(mappingInfo(m, f).tailPages).toBe(31);
    sound(m);
    const second = toPfn(allocMapped(m, f));
    expect(second).toBeGreaterThanOrEqual(0);
    expect(mappingInfo(m, f)).toEqual({ pages: 2, tailPages: 0 });
    expect(nrFree(m)).toBe(PAGES - 2);
    sound(m);
  });

  it('FP7 evacuated: its chunk is free, nothing is lost', () => {
    const m = boot();
    const f = file(m);
    const [first] = take(m, f, 3, 512);
    const r = evacuateChunk(m, first);
    expect(r.ok && r.value).toMatchObject({ droppedPages: 512 }); // clean and unmapped, tail and all
    sound(m);
    expect(mappingInfo(m, f)).toEqual({ pages: 0, tailPages: 0 });
    take(m, f, 3, 512);
    expect(mappingInfo(m, f)).toEqual({ pages: 3, tailPages: 509 });
    sound(m);
  });

  it('FP7 moved by migration: served from its new place; split by it: given back', () => {
    const m = boot();
    const f = file(m);
    const [first] = take(m, f, 1, 16);
    const piece = m.sections.indexOf(toPfn(first + 1));
    const blocker = file(m, 'blocker');
    for (let k = 0; k < 100; k++) m.alloc(blocker, toOrder(0));
    expect(migrateAllocation(m, piece, Int32Array.of(m.poolAt(piece)?.id ?? -1))).toBe('moved');
    const [second] = take(m, f, 1);
    expect(second).not.toBe(first + 1);
    expect(take(m, f, 1)).toEqual([toPfn(first + 2)]);
    sound(m);
    splitAllocation(m, m.sections.indexOf(toPfn(first + 4)));
    expect(m.check()).toEqual([]);
    expect(take(m, f, 1)).toEqual([toPfn(first + 3)]); // the split piece was not asked for yet
    take(m, f, 1);
    expect(mappingInfo(m, f)).toEqual({ pages: 5, tailPages: 15 }); // of another chunk
    expect(nrFree(m)).toBe(PAGES - 100 - 20);
    sound(m);
  });

  it('FP7 what is said of a piece goes along with its frames', () => {
    const m = boot();
    const f = file(m);
    const [first] = take(m, f, 2, 8); // pieces: 1 + 1, then 2 frames at 2, 4 at 4
    m.pin(toPfn(first + 4));
    take(m, f, 3);
    for (const k of [4, 5, 6]) expect(m.frame(toPfn(first + k)), `${k}`).toMatchObject({ pinned: true });
    expect(m.frame(toPfn(first + 3))).toMatchObject({ pinned: false });
    sound(m);
  });
});

describe('where a chunk comes from', () => {
  it('FP8 mixes no pageblock and crosses no mark: single pages then', () => {
    const m = boot();
    const pool = m.pools.find((p) => p.present > 0) as Pool;
    // All pageblocks but two are the kernel's: Movable's lists have one chunk of order 10.
    const kernels = PAGES - 2 * PAGEBLOCK_PAGES;
    for (let i = 0; i < kernels; i += PAGEBLOCK_PAGES) pool.alloc.setPageblockType(i, MIGRATE_UNMOVABLE);
    const f = file(m);
    expect(take(m, f, 1024, 1200)).toEqual(Array.from({ length: 1024 }, (_, k) => kernels + k));
    expect(allocMapped(m, f, 176)).toBeLessThan(kernels); // claimed, as any single page would be
    expect(mappingInfo(m, f)).toEqual({ pages: 1025, tailPages: 0 });
    sound(m);

    const marked = boot({ watermarks: { scaleFactor: 10, thp: false } });
    const { marks } = marked.pools.find((p) => p.present > 0) as Pool;
    const low = marks[ZONE_NORMAL] as number;
    const hog = marked.addHolder({ class: 'anonymous', name: 'hog' });
    while (nrFree(marked) > low + 100) marked.alloc(hog, toOrder(0));
    const g = file(marked);
    expect(allocMapped(marked, g, 512)).toBeGreaterThanOrEqual(0);
    expect(mappingInfo(marked, g).tailPages).toBeLessThanOrEqual(63); // 2^6 <= 100 is what the mark leaves
    expect(nrFree(marked)).toBeGreaterThanOrEqual(low);
    sound(marked);
  });

  it('FP8 a file whose node or pool is named has its chunks from there', () => {
    const m = Machine.boot({
      ram: [
        { start: toPfn(0), end: toPfn(PAGES), node: toNodeId(0), zone: ZONE_NORMAL },
        { start: toPfn(PAGES), end: toPfn(2 * PAGES), node: toNodeId(1), zone: ZONE_NORMAL },
      ],
      watermarks: 'none',
    });
    const far = m.addHolder({ class: 'file', name: 'far', node: toNodeId(1) });
    expect(take(m, far, 64, 64)).toEqual(Array.from({ length: 64 }, (_, k) => PAGES + k));
    expect(pools(m).create({ name: 'cache', pages: 2048 }).ok).toBe(true);
    const mine = pools(m).addHolder({ class: 'file', name: 'mine', pool: 'cache' });
    if (!mine.ok) throw new Error(mine.error.message);
    for (const pfn of take(m, mine.value, 100, 128)) expect(m.poolAt(m.sections.indexOf(pfn))?.name).toBe('cache');
    expect(mappingInfo(m, mine.value).tailPages).toBe(28);
    expect(truncateMapped(m, mine.value)).toBe(128);
    sound(m);
  });

  it('FP12 refused, it costs a chunk and nothing else', () => {
    const m = boot();
    const f = file(m);
    const asked: string[] = [];
    m.faultAt = (point) => asked.push(point) > 0;
    expect(allocMapped(m, f, 64)).toBeGreaterThanOrEqual(0);
    expect(asked).toEqual([...MAPPING_FAULT_POINTS]);
    expect(mappingInfo(m, f)).toEqual({ pages: 1, tailPages: 0 });
    m.faultAt = undefined;
    take(m, f, 1, 64);
    expect(mappingInfo(m, f)).toEqual({ pages: 2, tailPages: 63 });
    sound(m);
  });
});

describe('shortage and copies', () => {
  it('FP9 tails go first, oldest first, then whoever is next', () => {
    const m = boot();
    const files = Array.from({ length: 3 }, (_, k) => file(m, `f${k}`));
    for (const f of files) take(m, f, 1, 64);
    take(m, files[0], 63); // its tail
    take(m, files[0], 1, 64); // a new chunk: it is the newest now
    const tails = (): number[] => files.map((f) => mappingInfo(m, f).tailPages);
    expect(tails()).toEqual([63, 63, 63]);
    expect(shrinkMapped(m, 1)).toBe(63);
    expect(tails()).toEqual([63, 0, 63]);
    expect(shrinkMapped(m, 100)).toBe(126);
    expect(shrinkMapped(m, 100)).toBe(0);

    take(m, files[1], 1, 64);
    const hog = m.addHolder({ class: 'anonymous', name: 'hog' });
    while (nrFree(m) > 0) m.alloc(hog, toOrder(0));
    let next = 0;
    m.slowPath = tailsFirst(() => {
      next++;
      return 'failed';
    });
    for (let k = 0; k < 63; k++) expect(m.alloc(hog, toOrder(0))).toBeGreaterThanOrEqual(0);
    expect(next).toBe(0);
    expect(m.alloc(hog, toOrder(0))).toBe(-1);
    expect(next).toBe(1);
    m.slowPath = tailsFirst();
    expect(m.alloc(hog, toOrder(0))).toBe(-1);
    expect(mappedTails(m)).toBe(0);
    sound(m);
  });

  it('FP10 a fork serves from the same tail, and its own', () => {
    const m = boot();
    const f = file(m);
    const [first] = take(m, f, 1, 64);
    const snapshot = m.snapshot();
    const fork = m.fork();
    expect(take(fork, f, 63)).toEqual(Array.from({ length: 63 }, (_, k) => first + 1 + k));
    expect(mappingInfo(m, f)).toEqual({ pages: 1, tailPages: 63 });
    sound(fork);
    truncateMapped(m, f);
    sound(m);
    m.restore(snapshot);
    expect(mappingInfo(m, f)).toEqual({ pages: 1, tailPages: 63 });
    expect(take(m, f, 1)).toEqual([toPfn(first + 1)]);
    sound(m);
  });
});

describe('9.F3', () => {
  it('FP11 after every other file is deleted, five times as much of free memory is in order 9 and above', () => {
    const PAGES_1G = 262144;
    for (const placement of ['address', 'lifo'] as const) {
      for (const seed of [6, 2004]) {
        const part = { plain: 0, 'pool-told': 0 };
        for (const how of ['plain', 'pool-told'] as const) {
          const m = Machine.boot({ ram: [{ start: toPfn(0), end: toPfn(PAGES_1G), node: toNodeId(0) }], placement });
          const prng = new Prng(seed);
          const load = { how, prng, filePages: 128, running: 64, filesPerProcess: 2, longestWrite: 16 };
          const report = fillFiles(m, load);
          const filled = nrFree(m);
          expect(filled, `seed=${seed}`).toBeLessThan(PAGES_1G / 40); // what the low marks and the lowmem reserve keep
          deleteEveryOther(m, how, report.files);
          part[how] = freeInOrder(m);
          expect(report.mostTails, `seed=${seed}`).toBeLessThanOrEqual(0.03 * report.filePages);
          if (how !== 'plain') expect(report.mostTails, `seed=${seed}`).toBeGreaterThan(0);
          for (const { file: f, n } of report.files) if (n % 2 === 1) expect(m.holders.pages[f]).toBe(0);
          sound(m);
        }
        expect(part['pool-told'], `seed=${seed} ${placement} plain ${part.plain}`).toBeGreaterThanOrEqual(
          5 * part.plain,
        );
        expect(part['pool-told'], `seed=${seed} ${placement}`).toBeGreaterThan(0.1);
      }
    }
  });
});
