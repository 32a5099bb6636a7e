// Revocation and what is guaranteed, by hand. Rules in docs/spec/pool-leases.md.

import { afterEach, describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { QemuBalloon, VirtioBalloon } from '../drivers/balloon.ts';
import { Machine } from '../machine.ts';
import { type MachineSpec, simpleSpec } from '../machine-spec.ts';
import type { PageClass } from '../page-class.ts';
import type { Refusal } from '../refusal.ts';
import { type Pools, pools } from './pools.ts';
import type { RevokeSpec } from './revoke.ts';
import { setPageState } from './shed.ts';

const MiB = 2 ** 20;
const machines: Machine[] = [];

/** A guest: 4096 pages guaranteed, 4096 opportunistic, and a pool that stands for its host. */
function boot(spec: Partial<MachineSpec> = {}): { m: Machine; p: Pools } {
  const m = Machine.boot({ code: 'shared', ...simpleSpec(128 * MiB), ...spec });
  machines.push(m);
  const p = pools(m);
  must(p.create({ name: 'fast', pages: 4096, min: 4096, class: 'guaranteed' }));
  must(p.create({ name: 'extra', pages: 4096, class: 'opportunistic', owner: 'guest', perms: { host: ['reclaim'] } }));
  must(p.create({ name: 'host', owner: 'host' }));
  return { m, p };
}

const must = <T>(r: { ok: true; value: T } | { ok: false; error: Refusal }): T => {
  if (!r.ok) throw new Error(`${r.error.errno}: ${r.error.message}`);
  return r.value;
};

const why = (r: { ok: true } | { ok: false; error: Refusal }): string =>
  r.ok ? 'ok' : `${r.error.errno} ${r.error.reason}`;

const managed = (p: Pools, name: string): number => must(p.stat(name)).managed;
const free = (p: Pools, name: string): number => must(p.stat(name)).free;

function fill(m: Machine, p: Pools, pool: string, most: number, cls: PageClass = 'anonymous'): [HolderId, Pfn[]] {
  const h = must(p.addHolder({ class: cls, name: `${pool}-${cls}`, pool }));
  const out: Pfn[] = [];
  for (let k = 0; k < most; k++) {
    const pfn = m.alloc(h, toOrder(0));
    if (pfn === -1) break;
    out.push(pfn);
  }
  return [h, out];
}

const ask = (p: Pools, pages: number, rest: Partial<RevokeSpec> = {}, as = 'host'): ReturnType<Pools['revoke']> =>
  p.revoke({ from: 'extra', to: 'host', pages, ...rest }, { as });

afterEach(() => {
  for (const m of machines.splice(0)) expect(m.check()).toEqual([]);
});

describe('revoke', () => {
  it('RV1 free pages go at once, whatever the deadline', () => {
    const { m, p } = boot();
    const seen: unknown[] = [];
    m.onEvent = (e) => seen.push(e);
    const r = must(ask(p, 3000, { budget: 0, expired: () => true }));
    expect(r).toEqual({ pages: 3000, moved: 0, dropped: 0, missing: undefined });
    expect([managed(p, 'extra'), managed(p, 'host'), free(p, 'host')]).toEqual([1096, 3000, 3000]);
    expect(seen).toMatchObject([{ verb: 'revoke', pool: 'extra', to: 'host', pages: 3000 }]);
    // And back, when the host has memory to spare.
    must(p.move('host', 'extra', { count: 3000 }));
    expect(managed(p, 'extra')).toBe(4096);
  });

  it('RV2 used pages are shed: clean cache dropped, others moved to the pool’s fallbacks', () => {
    const { m, p } = boot({ contents: 'bytes' });
    must(p.create({ name: 'spill', pages: 2000, owner: 'guest' }));
    must(p.setFallback('extra', 'spill', 1));
    const [anon, pages] = fill(m, p, 'extra', 2048);
    for (const [k, pfn] of pages.entries()) m.write(pfn, 0, Uint8Array.of(k & 255, k >>> 8));
    const [cache] = fill(m, p, 'extra', 2048, 'file');
    setPageState(m, (h) => (h === cache ? { dirty: false, mapped: false } : undefined));
    expect(must(ask(p, 3000))).toEqual({ pages: 3000, moved: 952, dropped: 2048, missing: undefined });
    expect([m.holders.members[cache], m.holders.members[anon], free(p, 'spill')]).toEqual([0, 2048, 2000 - 952]);
    const wrong: number[] = [];
    m.forEachFrameOf(anon, (pfn, _order, k) => {
      const [lo = 0, hi = 0] = m.read(pfn);
      if (lo + 256 * hi !== k) wrong.push(k);
    });
    expect(wrong).toEqual([]);
    expect([managed(p, 'extra'), managed(p, 'host'), free(p, 'host')]).toEqual([1096, 3000, 3000]);
  });

  it('RV3 the deadline: a budget of pages, or a word from the caller; all or nothing, or what could be had', () => {
    const { m, p } = boot();
    must(p.create({ name: 'spill', pages: 4096, owner: 'guest' }));
    must(p.setFallback('extra', 'spill', 1));
    fill(m, p, 'extra', 4000);
    const late = ask(p, 1000, { budget: 903 });
    expect(why(late)).toBe('ETIMEDOUT revoke-timeout');
    expect(late.ok ? '' : late.error.message).toBe('pool extra: 999 of 1000 pages before the deadline');
    expect([managed(p, 'extra'), managed(p, 'host'), free(p, 'extra')]).toEqual([4096, 0, 999]); // moved all the same
    expect(m.check()).toEqual([]);
    // What moved in vain is free now: the next one is in time.
    expect(must(ask(p, 1000, { budget: 1 }))).toMatchObject({ pages: 1000, moved: 1 });
    let left = 300;
    const part = must(ask(p, 1000, { expired: () => left-- === 0, partial: true }));
    expect([part.pages, part.moved, part.missing?.errno]).toEqual([300, 300, 'ETIMEDOUT']);
    expect([managed(p, 'extra'), managed(p, 'host')]).toEqual([4096 - 1300, 1300]);
  });

  it('RV4 what cannot move before any deadline is EBUSY, with the pages in the way', () => {
    const { m, p } = boot();
    const [, pages] = fill(m, p, 'extra', 4096);
    const r = ask(p, 10);
    expect(why(r)).toBe('EBUSY pool-busy');
    expect(r.ok ? 0 : r.error.blockers.reduce((n, b) => n + b.endPfn - b.startPfn, 0)).toBe(4096); // nowhere to go
    expect([managed(p, 'extra'), managed(p, 'host')]).toEqual([4096, 0]);
    m.free(pages[5] as Pfn);
    expect(why(ask(p, 2))).toBe('EBUSY pool-busy');
    expect(must(ask(p, 2, { partial: true })).pages).toBe(1);
  });

  it('RV5 frames go to the pool that is named, else home: each to the zone that labels it, or to the parent', () => {
    const { m, p } = boot();
    const before = m.zones.map((z) => z.managed);
    must(p.create({ name: 'mixed', class: 'opportunistic' }));
    const [dma, dma32] = [m.zones.find((z) => z.name === 'DMA'), m.zones.find((z) => z.name === 'DMA32')];
    must(p.move('node0-DMA', 'mixed', { count: 100 }));
    must(p.move('node0-DMA32', 'mixed', { count: 100 }));
    const gave = [dma?.managed, dma32?.managed];
    must(p.revoke({ from: 'mixed', pages: 150 }));
    // Scarce memory goes home first.
    expect([dma?.managed, dma32?.managed]).toEqual([(gave[0] ?? 0) + 100, (gave[1] ?? 0) + 50]);
    must(p.revoke({ from: 'mixed', pages: 50 }));
    expect(m.zones.map((z) => z.managed)).toEqual(before);
    must(p.create({ name: 'child', parent: 'host', class: 'opportunistic', owner: 'host' }));
    must(ask(p, 10));
    must(p.move('host', 'child', { count: 10 }));
    must(p.revoke({ from: 'child', pages: 10 }));
    expect(managed(p, 'host')).toBe(10);
  });

  it('RV6 who may, from which classes, and how much', () => {
    const { m, p } = boot();
    for (const cls of ['normal', 'realtime', 'dma', 'replica'] as const)
      must(p.create({ name: cls, pages: 64, class: cls }));
    must(p.create({ name: 'low', zones: ['DMA'] }));
    must(p.create({ name: 'narrow', max: 5 }));
    must(p.setattr('extra', { min: 96 }));
    const before = m.digest();
    const from = (name: string): string => why(p.revoke({ from: name, to: 'host', pages: 1 }));
    expect(['fast', 'normal', 'realtime', 'dma', 'replica', 'node0-DMA32'].map(from)).toEqual(
      Array(6).fill('EPERM permission'),
    );
    expect(why(ask(p, 1, {}, 'mallory'))).toBe('EPERM permission');
    expect([why(ask(p, 4001)), why(ask(p, 6, { to: 'narrow' }))]).toEqual(Array(2).fill('ENOSPC guarantee'));
    expect(why(ask(p, 1, { to: 'low' }))).toBe('EXDEV label');
    expect([
      why(ask(p, 0)),
      why(ask(p, 1, { budget: Number.NaN })),
      why(ask(p, 1, { to: 'extra' })),
      why(ask(p, 1, { to: 'node0-DMA' })),
    ]).toEqual(Array(4).fill('EINVAL bad-argument'));
    expect([from('nobody'), why(ask(p, 1, { to: 'nobody' }))]).toEqual(Array(2).fill('ENOENT no-such-pool'));
    expect(m.digest()).toBe(before);
    expect(must(ask(p, 4000)).pages).toBe(4000);
    expect(free(p, 'extra')).toBe(96);
  });

  it('RV7 frames on loan to the pool stay', () => {
    const { m, p } = boot();
    must(p.create({ name: 'bank', pages: 1000 }));
    must(p.borrow({ from: 'bank', to: 'extra', pages: 500 }));
    expect(why(ask(p, 4097))).toBe('ENOSPC guarantee');
    must(ask(p, 4096));
    expect([managed(p, 'extra'), free(p, 'extra')]).toEqual([500, 500]);
    expect(m.check()).toEqual([]);
  });
});

describe('guaranteed', () => {
  it('RV8 a balloon that is inflated to the utmost never gets a page of a pool', () => {
    const { m, p } = boot();
    const device = new QemuBalloon(128 * MiB);
    const balloon = new VirtioBalloon(m, device, { name: 'virtio0', node: toNodeId(0) });
    const pool = m.pools[must(p.stat('fast')).id];
    const before = JSON.stringify([p.list().filter((s) => s.kind === 'user'), pool?.alloc.nrFree()]);
    must(device.setTarget(1));
    let now = 0;
    for (let k = 0; k < 50; k++) {
      balloon.settle();
      balloon.tick((now += 200));
    }
    expect(balloon.pages).toBeGreaterThan(10_000); // of 24 576 outside of the pools; the zones keep their marks
    expect(m.alloc(m.addHolder({ class: 'balloon', name: 'more' }), toOrder(0))).toBe(-1);
    expect([...device.dropped].filter((pfn) => m.poolAt(m.sections.indexOf(pfn))?.kind === 'user')).toEqual([]);
    expect(JSON.stringify([p.list().filter((s) => s.kind === 'user'), pool?.alloc.nrFree()])).toBe(before);
    // Not by name either.
    expect(why(p.addHolder({ class: 'balloon', name: 'b', pool: 'fast' }))).toBe('EINVAL bad-argument');
    const h = m.addHolder({ class: 'balloon', name: 'b' });
    expect(why(p.alloc('fast', h, toOrder(0)))).toBe('EINVAL bad-argument');
    const set = p.allocSet({ on: ['fast'], holders: [h], order: toOrder(0), offset: 'any' });
    expect(why(set)).toBe('EINVAL bad-argument');
    expect(fill(m, p, 'fast', 5000)[1].length).toBe(4096);
  });

  it('RV8 neither lent, revoked, reclaimed nor fallen back to', () => {
    const { m, p } = boot();
    must(p.create({ name: 'greedy', priority: 255 }));
    must(p.setFallback('greedy', 'fast', 0));
    const all = p.list().map((s) => s.managed);
    expect(fill(m, p, 'greedy', 1)[1]).toEqual([]);
    expect(why(p.borrow({ from: 'fast', to: 'greedy', pages: 1 }))).toBe('EPERM permission');
    expect(why(p.revoke({ from: 'fast', pages: 1 }))).toBe('EPERM permission');
    expect(p.list().map((s) => s.managed)).toEqual(all);
    expect(m.frame(toPfn(0)).state).toBe('free');
  });
});
