// Memory that is backed in part: what is not backed is never touched, and what comes later comes online. Rules in
// docs/spec/memmap-move.md. After Hildenbrand 2018.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { moveMemmap } from './memmap-move.ts';
import { memmapStat } from './memmap-where.ts';
import type { AddOptions, MemoryRange } from './memory-add.ts';
import { growUsable } from './memory-usable.ts';
import { restoreOnlinePageCallback, setOnlinePageCallback } from './online-callback.ts';

const S = PAGES_PER_SECTION;
const MIB64 = S / 2;
const BOOT = 2 * S;
const node0 = toNodeId(0);
const b = toBlockId;
const range = (start: number, end: number): MemoryRange => ({ start: toPfn(start), end: toPfn(end) });
const B32: MemoryRange = range(32 * S, 33 * S);

const boot = (rest: Partial<MachineSpec> = {}): Machine =>
  Machine.boot({
    ram: [{ ...range(0, BOOT), node: node0 }],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    hotplug: { memmapOnMemory: 'Y', autoOnline: 'offline' },
    ...rest,
  });
const must = <T>(r: { ok: true; value: T } | { ok: false; error: unknown }): T => {
  if (!r.ok) throw new Error(`refused: ${JSON.stringify(r.error)}`);
  return r.value;
};
const managed = (m: Machine): number => m.pools.reduce((n, p) => n + p.managed, 0);

/** Counts every access to frames of a range that may not be touched: handed out, written, moved to, put on a free list. */
function monitor(m: Machine, forbidden: (pfn: number) => boolean): { accesses: () => number } {
  let n = 0;
  const touch = (index: number, order: number): void => {
    for (let i = index; i < index + 2 ** order; i++) if (forbidden(m.sections.pfnOf(i))) n++;
  };
  m.frameWatch = {
    occupied: (index, order, holder) => {
      if (m.holders.specs[holder].class !== 'unplugged') touch(index, order);
    },
    vacated: () => undefined,
    moved: (_from, to, order) => touch(to, order),
    owned: () => undefined,
    marked: () => undefined,
  };
  const write = m.write.bind(m);
  m.write = (pfn: Pfn, offset, data) => {
    touch(m.sections.indexOf(pfn), 0);
    write(pfn, offset, data);
  };
  // Whoever is on a free list may be written by the allocator's next caller.
  const free = (): number => {
    let found = 0;
    for (const p of m.pools) {
      p.alloc.area.forEachFree(0, p.pages, (i, order) => {
        for (let k = 0; k < 2 ** order; k++) if (forbidden(m.sections.pfnOf(p.base + i + k))) found++;
      });
    }
    return found;
  };
  return { accesses: () => n + free() };
}

/** Takes all memory there is, and writes every page of it that was added. */
function useEverything(m: Machine): void {
  const user = m.addHolder({ class: 'anonymous', name: 'load' });
  for (let order = 10; order >= 0; order--) {
    for (let pfn = m.alloc(user, toOrder(order)); pfn >= 0; pfn = m.alloc(user, toOrder(order))) {
      for (let k = 0; pfn >= BOOT && k < 2 ** order; k++) m.write(toPfn(pfn + k), 0, Uint8Array.of(1));
    }
  }
  m.forEachFrameOf(user, (head) => m.free(head));
}

describe('an add that is backed in part', () => {
  const HALF = [range(32 * S, 32 * S + MIB64)];
  const beyond = (pfn: number): boolean => pfn >= 32 * S + MIB64 && pfn < 33 * S;

  for (const memmap of ['self-block', 'kernel', 'fallback', 'auto', 'host-section'] as const) {
    it(`US1 Hyper-V’s 128 MiB with 64 MiB backed, ${memmap}: no access outside while it is added, online, used, offline, removed`, () => {
      const m = boot({ contents: 'bytes' });
      const watch = monitor(m, beyond);
      must(m.addMemory(B32, node0, { memmap, usable: HALF }));
      expect(watch.accesses()).toBe(0);
      const own = memmapStat(m, b(32))?.headPages ?? -1;
      expect(own).toBe(memmap === 'kernel' || memmap === 'host-section' ? 0 : 512);
      const before = managed(m);
      expect(must(m.online(b(32), 'movable')).pages).toBe(MIB64 - own);
      expect(managed(m) - before).toBe(MIB64 - own);
      useEverything(m);
      expect(watch.accesses()).toBe(0);
      must(moveMemmap(m, b(32), { policy: 'kernel' }));
      must(moveMemmap(m, b(32), { policy: 'self-block' }));
      must(m.offline(b(32), { evictors: [memmapEvictor()] }));
      must(m.removeMemory(B32));
      expect(watch.accesses()).toBe(0);
      expect(m.check()).toEqual([]);
    });
  }

  it('US1 the monitor sees an add that does not say what is backed: what the review of 2018 warned of', () => {
    const tail = (pfn: number): boolean => pfn >= 32 * S && pfn < 32 * S + MIB64; // the backed half is the upper one
    const m = boot({ contents: 'bytes' });
    const watch = monitor(m, tail);
    must(m.addMemory(B32, node0, { memmap: 'self-block' }));
    expect(watch.accesses()).toBe(512); // struct pages are written before anything is online
  });

  it('US2 heads that are not backed: ENOSPC for who insists, kernel for fallback and auto, and why; nothing changes on a refusal', () => {
    const m = boot();
    const upper = [range(32 * S + MIB64, 33 * S)];
    const before = [m.digest(), JSON.stringify(m.hotplug.resources), m.blockIds().length];
    for (const memmap of ['self-block', 'self-range'] as const) {
      const r = m.addMemory(B32, node0, { memmap, usable: upper });
      expect(r).toMatchObject({ error: { reason: 'not-backed', errno: 'ENOSPC' } });
    }
    // A piece that is too small, and a hole in the head.
    for (const usable of [[range(32 * S, 32 * S + 511)], [range(32 * S, 32 * S + 256), range(32 * S + 257, 33 * S)]]) {
      expect(m.addMemory(B32, node0, { memmap: 'self-block', usable })).toMatchObject({
        error: { reason: 'not-backed' },
      });
    }
    expect([m.digest(), JSON.stringify(m.hotplug.resources), m.blockIds().length]).toEqual(before);
    for (const memmap of ['fallback', 'auto'] as const) {
      const fork = m.fork();
      const report = must(fork.addMemory(B32, node0, { memmap, usable: upper, gigantic: 0 }));
      const came = memmap === 'auto' ? ['host-section', undefined] : ['kernel', 'not-backed'];
      expect([report.memmap, report.memmapWhy]).toEqual(came);
      expect(fork.check()).toEqual([]);
    }
  });

  it('US3 what is backed later comes online: at once where its block is, else with it; what was in use stays', () => {
    const m = boot();
    must(m.addMemory(B32, node0, { memmap: 'self-block', usable: HALF }));
    const from = 32 * S + MIB64;
    expect(growUsable(m, range(0, 99 * S))).toMatchObject({ error: { reason: 'no-such-memory', errno: 'ENOENT' } });
    // Offline: 1000 frames more, across the edge of what was backed.
    expect(must(growUsable(m, range(from - 100, from + 1000)))).toBe(1000);
    expect(must(growUsable(m, range(from - 100, from + 1000)))).toBe(0);
    expect(must(m.online(b(32), 'movable')).pages).toBe(MIB64 - 512 + 1000);
    expect(m.check()).toEqual([]);
    // Online: odd pieces, page by page.
    const before = managed(m);
    expect(must(growUsable(m, range(from + 3000, from + 3001)))).toBe(1);
    expect(must(growUsable(m, range(from + 1000, from + 4096)))).toBe(3095);
    expect(managed(m) - before).toBe(3096);
    expect(m.check()).toEqual([]);
    must(m.offline(b(32)));
    expect(must(m.online(b(32), 'kernel')).pages).toBe(MIB64 - 512 + 4096);
    expect(must(growUsable(m, range(32 * S, 33 * S)))).toBe(MIB64 - 4096);
    must(m.offline(b(32)));
    must(m.removeMemory(B32));
    expect(m.check()).toEqual([]);
  });

  it('US4 a driver with the online callback is asked for usable frames only', () => {
    const m = boot();
    const asked: [number, number][] = [];
    const callback = (_m: Machine, pfn: Pfn, order: number): void => {
      asked.push([pfn - 32 * S, order]);
      const index = m.sections.indexOf(pfn);
      const pool = m.poolAt(index);
      if (pool === undefined) throw new Error('online');
      pool.fill(index, index + 2 ** order);
      pool.managed += 2 ** order;
    };
    must(setOnlinePageCallback(m, callback));
    must(m.addMemory(B32, node0, { memmap: 'self-block', usable: HALF }));
    must(m.online(b(32), 'movable'));
    expect(asked[0]).toEqual([512, 9]); // behind the memmap
    expect(asked.reduce((n, [, order]) => n + 2 ** order, 0)).toBe(MIB64 - 512);
    expect(asked.every(([at, order]) => at + 2 ** order <= MIB64)).toBe(true);
    must(restoreOnlinePageCallback(m, callback));
    expect(m.check()).toEqual([]);
  });
});

describe('random', () => {
  it('US5 parts come in any order, blocks go on- and offline: a frame is in use only if it is backed, and all that is can be', () => {
    const seen = { grown: 0, online: 0, offline: 0, hosted: 0 };
    for (let seed = 1; seed <= 20; seed++) {
      const rng = new Prng(seed);
      const m = boot({ contents: 'none' });
      const start = 32 * S;
      const end = start + 2 * S;
      const backed = new Uint8Array(2 * S);
      const back = (from: number, to: number): number => {
        const was = backed.subarray(from - start, to - start).reduce((n, x) => n + x, 0);
        backed.fill(1, from - start, to - start);
        return to - from - was;
      };
      const first = start + (rng.chance(0.7) ? 0 : rng.below(S));
      const to = Math.min(end, first + 1 + rng.below(2 * S));
      back(first, to);
      const options: AddOptions = { usable: [range(first, to)], memmap: rng.pick(['kernel', 'fallback', 'auto']) };
      const watch = monitor(m, (pfn) => pfn >= start && pfn < end && backed[pfn - start] === 0);
      const report = must(m.addMemory(range(start, end), node0, options));
      if (report.memmap !== 'kernel') seen.hosted++;
      for (let step = 0; step < 8; step++) {
        const said = `seed=${seed} step=${step}`;
        const id = b(32 + rng.below(2));
        if (rng.chance(0.5)) {
          const from = start + rng.below(2 * S - 1);
          const upTo = Math.min(end, from + 1 + rng.below(rng.pick([2, 600, 9000])));
          const fresh = back(from, upTo);
          expect(must(growUsable(m, range(from, upTo))), said).toBe(fresh);
          seen.grown++;
        } else if (m.block(id)?.state === 'offline') {
          must(m.online(id, rng.pick(['movable', 'kernel'] as const)));
          seen.online++;
        } else if (m.offline(id, { evictors: [memmapEvictor()] }).ok) seen.offline++;
        let want = 0;
        for (const k of [32, 33]) {
          const head = memmapStat(m, b(k))?.headPages ?? 0;
          if (m.block(b(k))?.state !== 'online') continue;
          want += backed.subarray(k * S + head - start, (k + 1) * S - start).reduce((n, x) => n + x, 0);
        }
        expect(managed(m) - BOOT, said).toBe(want);
        expect(watch.accesses(), said).toBe(0);
        expect(m.check(1), said).toEqual([]);
      }
      expect(m.check(), `seed=${seed}`).toEqual([]);
    }
    for (const n of Object.values(seen)) expect(n).toBeGreaterThan(8);
  });
});
