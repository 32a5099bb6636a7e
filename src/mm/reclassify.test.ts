// Pages that change what they are. Rules RY1..RY6, docs/spec/reclassify.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { worldFrom } from '../../test/support/picture.ts';
import { explainBlock, explainRange } from './explain-range.ts';
import { faultHuge, HUGE_2M } from './hugetlb.ts';
import { setNrHugepages } from './hugetlb-resize.ts';
import { largePages } from './large-page-state.ts';
import type { Machine } from './machine.ts';
import type { PageClass } from './page-class.ts';
import type { Pool } from './pool.ts';
import { ownersMove, type PageMobility, RECLASSIFY_FAULT_POINTS, reclassify } from './reclassify.ts';

const typeAt = (m: Machine, pfn: Pfn): string => {
  const index = m.sections.indexOf(pfn);
  const pool = m.poolAt(index) as Pool;
  return `${(m.zoneAt(index) as Pool).name} ${'UMRACI'[pool.alloc.area.typeOf(index - pool.base)]}`;
};

/** Frames of all holders of that name, with their first byte, by byte. */
function pagesOf(m: Machine, name: string): { pfn: Pfn; byte: number; holder: number }[] {
  const out: { pfn: Pfn; byte: number; holder: number }[] = [];
  for (let h = 0; h < m.holders.length; h++) {
    if (m.holders.specs[h].name !== name) continue;
    m.forEachFrameOf(h as HolderId, (pfn) => out.push({ pfn, byte: m.read(pfn)[0], holder: h }));
  }
  return out.sort((a, b) => a.byte - b.byte);
}

function write(m: Machine, h: HolderId, byte: number, order = 0): Pfn {
  const pfn = toPfn(m.alloc(h, toOrder(order)));
  m.write(pfn, 0, Uint8Array.of(byte));
  return pfn;
}

describe('reclassify', () => {
  it('RY1 RY2 a kernel page that its owner moves from now on goes to a Movable pageblock; class, bytes and state stay', () => {
    const { m } = worldFrom('n0 Normal U:........|........', { contents: 'bytes' });
    const h = m.addHolder({ class: 'driver', name: 'ring' });
    const pfns = [1, 2, 3].map((byte) => write(m, h, byte, byte === 3 ? 3 : 0));
    m.setPageFlags(pfns[0], { dirty: true });
    const before = m.digest();
    expect(reclassify(m.fork(), [], 'movable')).toEqual({ ok: true, value: { pages: 0, moved: 0 } });
    expect(reclassify(m, [pfns[0], toPfn(pfns[2] + 5), pfns[2]], 'movable')).toEqual({
      ok: true,
      value: { pages: 9, moved: 9 },
    });
    expect(m.digest()).not.toBe(before);
    const now = pagesOf(m, 'ring');
    expect(now.map((p) => [p.byte, typeAt(m, p.pfn)])).toEqual([
      [1, 'Normal M'],
      [2, 'Normal U'],
      [3, 'Normal M'],
    ]);
    expect(now[1].pfn).toBe(pfns[1]);
    expect(m.holders.specs[now[0].holder]).toMatchObject({ class: 'driver', name: 'ring', moves: true });
    expect(now[0].holder).toBe(now[2].holder);
    expect(reclassify(m, [now[0].pfn, now[2].pfn], 'movable')).toEqual({ ok: true, value: { pages: 0, moved: 0 } });
    // And back, to the first holder, where kernel pages belong.
    expect(
      reclassify(
        m,
        now.map((p) => p.pfn),
        'fixed',
      ),
    ).toEqual({ ok: true, value: { pages: 9, moved: 9 } });
    expect(pagesOf(m, 'ring').map((p) => [p.holder, typeAt(m, p.pfn)])).toEqual(
      Array.from({ length: 3 }, () => [h, 'Normal U']),
    );
    expect(m.check()).toEqual([]);
  });

  it('RY1 a page of a process that is fixed leaves Movable, the zone and the pageblocks, and stays where it goes', () => {
    const { m, block } = worldFrom('n0 Normal U:........|........\n n0 Movable ........', { contents: 'bytes' });
    const h = m.addHolder({ class: 'anonymous', name: 'guest' });
    const pfns = [7, 8].map((byte) => write(m, h, byte));
    expect(pfns.map((p) => typeAt(m, p))).toEqual(['Movable M', 'Movable M']);
    expect(reclassify(m, [pfns[0]], 'fixed')).toEqual({ ok: true, value: { pages: 1, moved: 1 } });
    const [fixed, free] = pagesOf(m, 'guest');
    expect([typeAt(m, fixed.pfn), typeAt(m, free.pfn)]).toEqual(['Normal U', 'Movable M']);
    expect(m.fork().offline(block(1)).ok).toBe(true);
    expect(explainBlock(m, block(0))).toMatchObject({
      verdict: 'no',
      blockers: [{ pfn: fixed.pfn, remedy: 'reclassify' }],
    });
    expect(reclassify(m, [fixed.pfn], 'movable')).toEqual({ ok: true, value: { pages: 1, moved: 1 } });
    expect(pagesOf(m, 'guest').map((p) => [p.holder, p.byte])).toEqual([
      [h, 7],
      [h, 8],
    ]);
    expect(m.check()).toEqual([]);
  });

  it('RY3 without a fitting pageblock: ENOMEM, and nobody has moved or changed hands', () => {
    const { m } = worldFrom('n0 Normal U:........ *U', { contents: 'bytes' });
    const kernel = m.addHolder({ class: 'slab', name: 'cache' });
    const [a, b] = [write(m, kernel, 1), write(m, kernel, 2)];
    for (const p of m.pools) p.alloc.drain(); // reclassify does, to find frames
    const before = m.digest();
    const r = reclassify(m, [a, b], 'movable');
    expect(r).toMatchObject({ ok: false, error: { reason: 'no-memory', errno: 'ENOMEM' } });
    expect(m.digest()).toBe(before);

    const tight = worldFrom('n0 Normal U:........|MMMMMMM. *M', { contents: 'bytes' });
    const cache = tight.m.addHolder({ class: 'slab', name: 'cache' });
    const pages = [1, 2, 3].map((byte) => write(tight.m, cache, byte, 5));
    // Two of 32 frames fit into the 64 that are free and Movable; the third does not, so that none moves.
    const hands = pagesOf(tight.m, 'cache');
    const all = reclassify(tight.m, pages, 'movable');
    expect(all).toMatchObject({ ok: false, error: { reason: 'no-memory', blockers: [{ startPfn: pages[2] }] } });
    expect(pagesOf(tight.m, 'cache')).toEqual(hands);
    expect(reclassify(tight.m, pages.slice(0, 2), 'movable')).toEqual({ ok: true, value: { pages: 64, moved: 64 } });
    expect(tight.m.check()).toEqual([]);
  });

  it('RY4 what cannot be: each refusal has its reason and leaves everything as it was', () => {
    const { m, block } = worldFrom('n0 Normal U:........|........|........|........\n n0 Normal ........', {
      contents: 'bytes',
    });
    const add = (cls: PageClass): Pfn => write(m, m.addHolder({ class: cls, name: cls }), 1);
    const pinned = add('slab');
    m.pin(pinned);
    const reads = add('file');
    m.setPageFlags(reads, { writeback: true });
    const free = toPfn(pinned + 40_000);
    setNrHugepages(m, HUGE_2M, 1);
    const huge = faultHuge(m, HUGE_2M, m.addHolder({ class: 'hugetlb', name: 'db' }), { reserved: false });
    const cases: [Pfn, PageMobility, string, string][] = [
      [pinned, 'movable', 'in-use', 'EBUSY'],
      [reads, 'fixed', 'in-use', 'EBUSY'],
      [free, 'fixed', 'bad-argument', 'EINVAL'],
      [toPfn(2 ** 30), 'fixed', 'bad-argument', 'EINVAL'],
      [add('balloon'), 'fixed', 'bad-argument', 'EINVAL'],
      [add('poisoned'), 'movable', 'bad-argument', 'EINVAL'],
      [add('memmap'), 'movable', 'bad-argument', 'EINVAL'],
      [huge.ok ? huge.value : toPfn(0), 'fixed', 'bad-argument', 'EINVAL'],
    ];
    const other = add('slab');
    const before = m.digest();
    for (const [pfn, as, reason, errno] of cases) {
      expect(reclassify(m, [other, pfn], as), `${pfn} ${as}`).toMatchObject({ ok: false, error: { reason, errno } });
      expect(m.digest()).toBe(before);
    }
    // A pin does not matter where the page lies right.
    expect(reclassify(m, [pinned], 'fixed')).toEqual({ ok: true, value: { pages: 0, moved: 0 } });
    const work = m.beginOffline(block(0));
    m.free(toPfn(other));
    work.cancel();
    expect(m.check()).toEqual([]);
  });

  it('RY4 a step that fails leaves everything as it was', () => {
    const { m } = worldFrom('n0 Normal U:........|........', { contents: 'bytes' });
    const pfn = write(m, m.addHolder({ class: 'slab', name: 'cache' }), 9);
    for (const p of m.pools) p.alloc.drain();
    const before = m.digest();
    for (const point of [...RECLASSIFY_FAULT_POINTS, 'migrate.unmap', 'migrate.copy', 'migrate.switch']) {
      m.faultAt = (p) => p === point;
      const r = reclassify(m, [pfn], 'movable');
      const reason = point === 'reclassify.reserve' ? 'no-memory' : 'fault';
      expect(r, point).toMatchObject({ ok: false, error: { reason } });
      expect(m.digest(), point).toBe(before);
    }
    m.faultAt = undefined;
    expect(reclassify(m, [pfn], 'movable').ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('RY5 what its owner moves leaves a kernel zone with its block, where the offline is given its evictor', () => {
    const { m, block } = worldFrom('n0 Normal U:........|........\n n1 Normal ........', { contents: 'bytes' });
    const h = m.addHolder({ class: 'slab', name: 'cache', node: toNodeId(0) });
    const pfns = [1, 2, 3].map((byte) => write(m, h, byte));
    expect(m.fork().offline(block(0), { evictors: [ownersMove] }).ok).toBe(false);
    expect(reclassify(m, pfns, 'movable').ok).toBe(true);
    expect(m.fork().offline(block(0)).ok).toBe(false); // Linux's isolation knows the class only
    expect(m.offline(block(0), { evictors: [ownersMove] }).ok).toBe(true);
    expect(pagesOf(m, 'cache').map((p) => p.byte)).toEqual([1, 2, 3]);
    expect(m.check()).toEqual([]);
  });

  it('RY1 RY2 RY3 random lists on random machines: every page where it belongs, or all as it was, seeds 1 to 30', () => {
    for (let seed = 1; seed <= 30; seed++) {
      const rng = new Prng(seed);
      const cell = (): string =>
        rng.pick(['........', 'U:........', 'U:UU..UUU.', 'mm.M.m..', 'R:U.......', 'MMMMMMMM', 'U:UUUUUUUU']);
      const line = (zone: string): string => `n0 ${zone} ${[cell(), cell(), cell(), cell(), cell()].join('|')} *M`;
      const movable = line('Movable').replace(/[UR]:/g, '').replace(/U/g, '.');
      const { m } = worldFrom(`${line('Normal')}\n${movable}`, { contents: 'bytes' });
      const holders = (['slab', 'driver', 'anonymous', 'file'] as const).map((cls) =>
        m.addHolder({ class: cls, name: cls }),
      );
      const bytes = new Map<string, number>();
      let byte = 1;
      for (let k = 0; k < 60; k++) {
        const h = rng.pick(holders);
        if (m.alloc(h, toOrder(0)) < 0) break;
      }
      for (const h of holders) {
        m.forEachFrameOf(h, (pfn) => {
          byte = (byte % 250) + 1;
          m.write(pfn, 0, Uint8Array.of(byte));
          bytes.set(`${byte}`, byte);
          if (rng.chance(0.03)) m.pin(pfn);
        });
      }
      const sum = (): string =>
        holders
          .map((_h, k) =>
            pagesOf(m, ['slab', 'driver', 'anonymous', 'file'][k])
              .map((p) => p.byte)
              .join(),
          )
          .join(';');
      const before = sum();
      for (let k = 0; k < 6; k++) {
        const as = rng.pick(['movable', 'fixed'] as const);
        const some = pagesOf(m, rng.pick(['slab', 'driver', 'anonymous', 'file'])).filter(() => rng.chance(0.5));
        const where = `seed=${seed} step=${k} ${as}`;
        const hands = some.map((p) => m.frame(p.pfn));
        const r = reclassify(
          m,
          some.map((p) => p.pfn),
          as,
        );
        expect(sum(), where).toBe(before);
        if (r.ok) {
          for (const p of some) {
            // Where the byte is now: by name and byte, of which a name has each at most once in 250 pages.
            const name =
              hands[some.indexOf(p)].state === 'used' ? (hands[some.indexOf(p)] as { name: string }).name : '';
            const now = pagesOf(m, name).find((q) => q.byte === p.byte);
            const type = now === undefined ? 'gone' : typeAt(m, now.pfn);
            const good = as === 'movable' ? /^(Movable|Normal M)/ : /^Normal [UR]/;
            expect(type, `${where} byte=${p.byte}`).toMatch(good);
          }
        } else {
          expect(
            some.map((p) => m.frame(p.pfn)),
            where,
          ).toEqual(hands);
        }
      }
      expect(m.check(), `seed=${seed}`).toEqual([]);
    }
  });
});

describe('explain', () => {
  it('RX2 each blocker has its frame, order, class, owner and remedy; the rest is what would be copied', () => {
    const { m, block, holder, at } = worldFrom('n0 Normal MPUDRW?.|mmmmmmmm\n n1 Normal ........'.replace('?', '.'));
    m.setPageFlags(at(0), { writeback: true });
    const found = explainBlock(m, block(0));
    expect(found).toMatchObject({ verdict: 'no', reason: 'blocked', estimatedCopies: 512 });
    expect(found.blockers.map((b) => [b.pfn, b.order, b.class, b.owner, b.cause, b.remedy])).toEqual([
      [0, 6, 'anonymous', 'M', 'writeback', 'wait'],
      [64, 6, 'anonymous', 'P', 'pinned', 'unpin'],
      [128, 6, 'slab', 'U', 'unmovable', 'remap'],
      [192, 6, 'driver', 'D', 'unmovable', 'relinquish'],
      [256, 6, 'reserved', 'R', 'reserved', 'none'],
      [320, 6, 'memmap', 'W', 'unmovable', 'move-memmap'],
    ]);
    expect(explainRange(m, at(0, 1), at(0, 2))).toEqual({
      verdict: 'yes',
      reason: 'moves',
      blockers: [],
      estimatedCopies: 512,
    });
    expect(explainRange(m, at(0, 2), at(1))).toMatchObject({ verdict: 'yes', reason: 'free', estimatedCopies: 0 });
    expect(explainRange(m, at(0), toPfn(at(1) + 1))).toMatchObject({ verdict: 'no', reason: 'multizone' });
    expect(holder('m')).toBeGreaterThanOrEqual(0);
    expect(m.check()).toEqual([]);
  });

  it('RX2 what nobody can know by looking is maybe: listeners, policies of pages of 1 GiB; a punt is no', () => {
    const { m, block } = worldFrom('n0 Normal TTTTTTTT\n n1 Normal ........');
    expect(explainBlock(m, block(0))).toMatchObject({ verdict: 'yes', estimatedCopies: 512 });
    m.notifiers.push({ name: 'hypervisor', goingOffline: () => undefined });
    expect(explainBlock(m, block(0))).toMatchObject({ verdict: 'maybe', reason: 'listeners' });
    largePages(m).set({ start: toPfn(0), end: toPfn(512) }, 'punt');
    expect(explainBlock(m, block(0))).toMatchObject({
      verdict: 'no',
      blockers: [{ cause: 'large-page', remedy: 'policy', order: 9 }],
    });
    expect(m.offline(block(0)).ok).toBe(false);
    expect(m.check()).toEqual([]);
  });

  it('RX3 what stays whole needs a chunk: rehearsed, and so it comes', () => {
    const cells = 'UU.UU.UU|U.U.U.U.|........|UUUUUUUU';
    const { m, block } = worldFrom(`n0 Normal ........\n n1 Normal ${cells} *U`);
    const add = (cls: PageClass, order: number, count: number): void => {
      const h = m.addHolder({ class: cls, name: cls, node: toNodeId(0) });
      for (let k = 0; k < count; k++) m.alloc(h, toOrder(order));
    };
    const both = (): [string, string, boolean] => {
      const { verdict, reason } = explainBlock(m, block(0));
      return [verdict, reason, m.fork().offline(block(0)).ok];
    };
    // Node 1 has six chunks of 64 frames, and one of 512.
    add('movable-ops', 6, 6);
    expect(both()).toEqual(['yes', 'moves', true]);
    add('hugetlb', 9, 1);
    expect(both()).toEqual(['yes', 'moves', true]);
    add('movable-ops', 6, 1);
    expect(both()).toEqual(['no', 'no-room', false]);
    m.free(toPfn(2 ** 15)); // two chunks of 64 more: there is room, and a chunk for each
    m.free(toPfn(2 ** 15 + 6 * 64));
    expect(both()).toEqual(['yes', 'moves', true]);
    add('movable-ops', 7, 1); // 128 frames: there is room, but for 64 and 64, apart
    expect(both()).toEqual(['no', 'no-room', false]);
    m.free(toPfn(2 ** 15 + 3 * 512));
    expect(both()).toEqual(['no', 'no-runs', false]);
    m.free(toPfn(2 ** 15 + 3 * 512 + 64)); // its buddy
    expect(both()).toEqual(['yes', 'moves', true]);
    expect(m.check()).toEqual([]);
  });
});
