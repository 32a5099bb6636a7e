// Leases by hand. Rules in docs/spec/pool-leases.md; random ones in pool-lease.fuzz.ts.

import { afterEach, describe, expect, it } from 'vitest';
import { type NodeId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import { type MachineSpec, simpleSpec } from '../machine-spec.ts';
import type { Refusal } from '../refusal.ts';
import { onLoan } from './pool-fit.ts';
import { type Pools, pools } from './pools.ts';

const MiB = 2 ** 20;
const machines: Machine[] = [];

function boot(spec: MachineSpec): { m: Machine; p: Pools } {
  const m = Machine.boot({ code: 'shared', ...spec });
  machines.push(m);
  return { m, p: pools(m) };
}

/** 256 MiB of one node: DMA of 16 MiB, DMA32. */
const small = (): { m: Machine; p: Pools } => boot(simpleSpec(256 * MiB));

const must = <T>(r: { ok: true; value: T } | { ok: false; error: Refusal }): T => {
  if (!r.ok) throw new Error(`${r.error.errno}: ${r.error.message}`);
  return r.value;
};

/** "ENOSPC guarantee" */
const why = (r: { ok: true } | { ok: false; error: Refusal }): string =>
  r.ok ? 'ok' : `${r.error.errno} ${r.error.reason}`;

const free = (p: Pools, name: string): number => must(p.stat(name)).free;
const managed = (p: Pools, name: string): number => must(p.stat(name)).managed;

/** Allocates all that the pool has; single frames. */
function fill(m: Machine, p: Pools, name: string, cls: 'anonymous' | 'slab' = 'anonymous'): Pfn[] {
  const h = must(p.addHolder({ class: cls, name: `${name}'s`, pool: name }));
  const out: Pfn[] = [];
  for (let pfn = m.alloc(h, toOrder(0)); pfn !== -1; pfn = m.alloc(h, toOrder(0))) out.push(pfn);
  return out;
}

afterEach(() => {
  for (const m of machines.splice(0)) expect(m.check()).toEqual([]);
});

describe('a lease is taken', () => {
  it('LE1 free frames become the borrower’s, their label stays, and both sides count them', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 4096 }));
    must(p.create({ name: 'batch', pages: 1024 }));
    const zones = m.zones.map((z) => m.owners.zone.filter((id) => id === z.id).length);
    const lease = must(p.borrow({ from: 'web', to: 'batch', pages: 2048 }));
    expect([managed(p, 'web'), managed(p, 'batch')]).toEqual([2048, 3072]);
    expect(lease.pages).toBe(2048);
    expect(lease.ranges.reduce((n, r) => n + r.end - r.start, 0)).toBe(2048);
    for (const r of lease.ranges) {
      for (const pfn of [r.start, toPfn(r.end - 1)]) expect(m.frame(pfn)).toMatchObject({ pool: { name: 'batch' } });
    }
    const [web, batch] = [must(p.stat('web')), must(p.stat('batch'))];
    expect([web.borrowedOut, web.borrowedIn, batch.borrowedOut, batch.borrowedIn]).toEqual([2048, 0, 0, 2048]);
    expect(m.zones.map((z) => m.owners.zone.filter((id) => id === z.id).length)).toEqual(zones);
    expect(fill(m, p, 'batch').length).toBe(3072);
  });

  it('LE1 a lease is announced, and so is its end', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 512 }));
    must(p.create({ name: 'batch' }));
    const seen: unknown[] = [];
    m.onEvent = (e) => seen.push(e);
    const { id } = must(p.borrow({ from: 'web', to: 'batch', pages: 100 }));
    must(p.reclaim(id));
    expect(seen).toMatchObject([
      { type: 'pool', verb: 'borrow', pool: 'web', to: 'batch', pages: 100 },
      { type: 'pool', verb: 'return', pool: 'batch', to: 'web', pages: 100 },
    ]);
  });

  it('LE2 the lender keeps its min free, to the page', () => {
    const { p } = small();
    must(p.create({ name: 'web', pages: 1000, min: 300 }));
    must(p.create({ name: 'batch' }));
    expect(why(p.borrow({ from: 'web', to: 'batch', pages: 701 }))).toBe('ENOSPC guarantee');
    expect(why(p.borrow({ from: 'web', to: 'batch', pages: 1001 }))).toBe('ENOMEM no-memory');
    must(p.borrow({ from: 'web', to: 'batch', pages: 700 }));
    expect(why(p.borrow({ from: 'web', to: 'batch', pages: 1 }))).toBe('ENOSPC guarantee');
    expect([free(p, 'web'), free(p, 'batch')]).toEqual([300, 700]);
  });

  it('LE2 a zone lends too, down to its min watermark, if root asks', () => {
    const { m, p } = small();
    must(p.create({ name: 'batch', owner: 'bob' }));
    const zone = m.zones.find((z) => z.name === 'DMA32');
    const mark = zone?.watermarks.min ?? 0;
    expect(mark).toBeGreaterThan(0);
    const all = free(p, 'node0-DMA32');
    expect(why(p.borrow({ from: 'node0-DMA32', to: 'batch', pages: 10 }, { as: 'bob' }))).toBe('EPERM permission');
    expect(why(p.borrow({ from: 'node0-DMA32', to: 'batch', pages: all - mark + 1 }))).toBe('ENOSPC guarantee');
    const { id } = must(p.borrow({ from: 'node0-DMA32', to: 'batch', pages: all - mark }));
    expect(free(p, 'node0-DMA32')).toBe(mark);
    must(p.reclaim(id));
    expect(free(p, 'node0-DMA32')).toBe(all);
  });

  it('LE2 partial takes as many as there are, and never none', () => {
    const { p } = small();
    must(p.create({ name: 'web', pages: 1000, min: 300 }));
    must(p.create({ name: 'batch' }));
    expect(must(p.borrow({ from: 'web', to: 'batch', pages: 5000, partial: true })).pages).toBe(700);
    expect(why(p.borrow({ from: 'web', to: 'batch', pages: 5000, partial: true }))).toBe('ENOSPC guarantee');
  });

  it('LE3 who may: donate on the lender, alloc on the borrower', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 1000, owner: 'alice', perms: { carol: ['donate'] } }));
    must(p.create({ name: 'batch', owner: 'bob', perms: { carol: ['alloc'], alice: ['alloc'] } }));
    const before = m.digest();
    const ask = (as: string): string => why(p.borrow({ from: 'web', to: 'batch', pages: 10 }, { as }));
    expect([ask('bob'), ask('dave')]).toEqual(['EPERM permission', 'EPERM permission']);
    expect(m.digest()).toBe(before);
    expect([ask('alice'), ask('carol'), ask('root')]).toEqual(['ok', 'ok', 'ok']);
    must(p.setattr('batch', { perms: {} }, { as: 'bob' }));
    expect(ask('carol')).toBe('EPERM permission');
  });

  it('LE3 who lends and who borrows: classes, zones, names, numbers', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 100 }));
    for (const cls of ['realtime', 'guaranteed', 'dma', 'opportunistic', 'replica'] as const) {
      must(p.create({ name: cls, pages: 100, class: cls }));
    }
    const before = m.digest();
    const ask = (from: string, to: string, pages = 10): string => why(p.borrow({ from, to, pages }));
    expect([ask('realtime', 'web'), ask('guaranteed', 'web'), ask('dma', 'web'), ask('web', 'realtime')]).toEqual(
      Array(4).fill('EPERM permission'),
    );
    expect([ask('nobody', 'web'), ask('web', 'nobody'), ask('node0', 'web')]).toEqual(
      Array(3).fill('ENOENT no-such-pool'),
    );
    expect([ask('web', 'web'), ask('web', 'node0-DMA32'), ask('web', 'dma', 0), ask('web', 'dma', 1.5)]).toEqual(
      Array(4).fill('EINVAL bad-argument'),
    );
    expect(m.digest()).toBe(before);
    expect([ask('opportunistic', 'guaranteed'), ask('replica', 'dma')]).toEqual(['ok', 'ok']);
  });

  it('LE4 leases form chains, and no circle', () => {
    const { p } = small();
    for (const name of ['a', 'b', 'c']) must(p.create({ name, pages: 1000 }));
    const ab = must(p.borrow({ from: 'a', to: 'b', pages: 10 }));
    must(p.borrow({ from: 'b', to: 'c', pages: 10 }));
    must(p.borrow({ from: 'a', to: 'c', pages: 10 }));
    expect(why(p.borrow({ from: 'c', to: 'a', pages: 10 }))).toBe('EINVAL bad-argument');
    expect(why(p.borrow({ from: 'b', to: 'a', pages: 10 }))).toBe('EINVAL bad-argument');
    must(p.reclaim(ab.id));
    expect(why(p.borrow({ from: 'b', to: 'a', pages: 10 }))).toBe('ok'); // b lends to c and a; a to c
    expect(why(p.borrow({ from: 'c', to: 'b', pages: 10 }))).toBe('EINVAL bad-argument');
  });

  it('LE5 only frames that the borrower may have, by zone and by range', () => {
    const { m, p } = small();
    must(p.create({ name: 'low', pages: 1000, zones: ['DMA'] }));
    must(p.create({ name: 'high', pages: 1000, zones: ['DMA32'] }));
    must(p.create({ name: 'any' }));
    must(p.create({ name: 'window', zones: ['DMA32'], ranges: [{ start: toPfn(8192), end: toPfn(8192 + 64) }] }));
    expect(why(p.borrow({ from: 'low', to: 'high', pages: 1 }))).toBe('EXDEV label');
    must(p.borrow({ from: 'low', to: 'any', pages: 100 }));
    must(p.move('node0-DMA32', 'any', { range: { start: toPfn(8192), end: toPfn(8192 + 1024) } }));
    expect(why(p.borrow({ from: 'any', to: 'window', pages: 65 }))).toBe('ENOMEM no-memory');
    const lease = must(p.borrow({ from: 'any', to: 'window', pages: 64 }));
    expect(lease.ranges).toEqual([{ start: 8192, end: 8192 + 64 }]);
    expect(m.check()).toEqual([]);
  });

  it('LE5 the borrower stays below its max; what a pool has lent counts as its own', () => {
    const { p } = small();
    must(p.create({ name: 'web', pages: 1000, max: 1200 }));
    must(p.create({ name: 'batch', pages: 100, max: 400 }));
    expect(why(p.borrow({ from: 'web', to: 'batch', pages: 301 }))).toBe('ENOSPC guarantee');
    expect(must(p.borrow({ from: 'web', to: 'batch', pages: 500, partial: true })).pages).toBe(300);
    must(p.create({ name: 'bank', pages: 1000 }));
    expect(why(p.borrow({ from: 'bank', to: 'web', pages: 201 }))).toBe('ENOSPC guarantee'); // 700 + 300 lent + 201
    expect(why(p.borrow({ from: 'bank', to: 'web', pages: 200 }))).toBe('ok');
  });
});

describe('a lease ends', () => {
  it('LE6 free frames return at once', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 2048 }));
    must(p.create({ name: 'batch' }));
    const { id } = must(p.borrow({ from: 'web', to: 'batch', pages: 1500 }));
    expect(must(p.reclaim(id))).toEqual({ pages: 1500, left: 0, blockers: [] });
    expect([managed(p, 'web'), managed(p, 'batch'), p.leases().length]).toEqual([2048, 0, 0]);
    expect(m.vmstat.pgmigrate_success).toBe(0);
    expect(why(p.reclaim(id))).toBe('ENOENT no-such-lease');
  });

  it('LE6 used frames return after their contents moved within the borrower, with holder and index', () => {
    const { m, p } = boot({ ...simpleSpec(64 * MiB), contents: 'bytes' });
    must(p.create({ name: 'web', pages: 1024 }));
    must(p.create({ name: 'batch', pages: 512 }));
    const { id, ranges } = must(p.borrow({ from: 'web', to: 'batch', pages: 512 }));
    const h = must(p.addHolder({ class: 'anonymous', name: 'job', pool: 'batch' }));
    for (let k = 0; k < 512; k++) {
      const pfn = m.alloc(h, toOrder(0));
      m.write(pfn as Pfn, 0, Uint8Array.of(k & 255, k >>> 8));
    }
    const inLease = (pfn: Pfn): boolean => ranges.some((r) => r.start <= pfn && pfn < r.end);
    let before = 0;
    m.forEachFrameOf(h, (pfn) => void (before += inLease(pfn) ? 1 : 0));
    expect(before).toBeGreaterThan(0);
    expect(must(p.reclaim(id))).toEqual({ pages: 512, left: 0, blockers: [] });
    const wrong: number[] = [];
    m.forEachFrameOf(h, (pfn, _order, index) => {
      const [lo = 0, hi = 0] = m.read(pfn);
      if (inLease(pfn) || lo + 256 * hi !== index) wrong.push(index);
    });
    expect(wrong).toEqual([]);
    expect([managed(p, 'web'), managed(p, 'batch'), free(p, 'batch')]).toEqual([1024, 512, 0]);
  });

  it('LE6 a large page that lies across the border of a lease moves whole', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 3 * 1024 }));
    must(p.create({ name: 'batch' }));
    // A chunk of which the lower half is the borrower's own: its buddies merge across the border of the lease.
    const chunk = [...Array(64).keys()].find((c) => m.frame(toPfn(c * 1024))?.state === 'free' && web(c)) ?? -1;
    function web(c: number): boolean {
      const f = m.frame(toPfn(c * 1024));
      return f.state === 'free' && f.pool.name === 'web';
    }
    expect(chunk).toBeGreaterThan(0);
    must(p.move('web', 'batch', { range: { start: toPfn(chunk * 1024), end: toPfn(chunk * 1024 + 512) } }));
    must(p.create({ name: 'rest' }));
    must(p.move('web', 'rest', { count: 2048 }));
    const { id } = must(p.borrow({ from: 'web', to: 'batch', pages: 512 }));
    const h = must(p.addHolder({ class: 'anonymous', name: 'thp', pool: 'batch' }));
    expect(m.alloc(h, toOrder(10))).toBe(chunk * 1024);
    must(p.move('rest', 'batch', { count: 2048 }));
    expect(must(p.reclaim(id)).pages).toBe(512);
    const at: number[] = [];
    m.forEachFrameOf(h, (pfn, order) => void at.push(pfn, order));
    expect(at[1]).toBe(10);
    expect(at[0]).not.toBe(chunk * 1024);
  });

  it('LE7 what does not move is named, and every frame stays with its pool', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 512 }));
    must(p.create({ name: 'batch' }));
    const { id, ranges } = must(p.borrow({ from: 'web', to: 'batch', pages: 256 }));
    const h = must(p.addHolder({ class: 'anonymous', name: 'job', pool: 'batch' }));
    const got = Array.from({ length: 100 }, () => m.alloc(h, toOrder(0)) as Pfn);
    m.pin(got[10] as Pfn);
    m.pin(got[11] as Pfn);
    const owners = [managed(p, 'web'), managed(p, 'batch')];
    const r = p.reclaim(id);
    expect(why(r)).toBe('EBUSY pool-busy');
    const blockers = r.ok ? [] : r.error.blockers;
    expect(blockers.reduce((n, b) => n + b.endPfn - b.startPfn, 0)).toBe(100); // 2 pinned, 98 without a target: batch has no page of its own
    expect(new Set(blockers.map((b) => b.cause))).toEqual(new Set(['pinned', 'no-target']));
    expect([managed(p, 'web'), managed(p, 'batch')]).toEqual(owners);
    expect(p.leases()).toMatchObject([{ id, pages: 256, ranges }]);
    expect(m.check()).toEqual([]);
  });

  it('LE7 partial gives back what it can, and the lease shrinks to the rest', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 512 }));
    must(p.create({ name: 'batch', pages: 200 }));
    const { id } = must(p.borrow({ from: 'web', to: 'batch', pages: 256 }));
    const slab = must(p.addHolder({ class: 'slab', name: 'kmalloc', pool: 'batch' }));
    const user = must(p.addHolder({ class: 'anonymous', name: 'job', pool: 'batch' }));
    for (let k = 0; k < 40; k++) {
      m.alloc(slab, toOrder(0));
      m.alloc(user, toOrder(0));
    }
    const lent = p.leases()[0]?.ranges ?? [];
    const stuck: Pfn[] = [];
    m.forEachFrameOf(slab, (pfn) => {
      if (lent.some((r) => r.start <= pfn && pfn < r.end)) stuck.push(pfn);
    });
    const back = must(p.reclaim(id, { partial: true }));
    expect([back.pages, back.left]).toEqual([256 - stuck.length, stuck.length]);
    expect(back.blockers.every((b) => b.cause === 'unmovable' && b.name === 'kmalloc')).toBe(true);
    expect(
      p
        .leases()
        .flatMap((l) => l.ranges)
        .reduce((n, r) => n + r.end - r.start, 0),
    ).toBe(stuck.length);
    expect(m.check()).toEqual([]);
    m.forEachFrameOf(slab, (pfn) => void stuck.push(pfn));
    for (const pfn of new Set(stuck)) m.free(pfn);
    if (p.leases().length > 0) expect(must(p.reclaim(id)).left).toBe(0);
    expect([managed(p, 'web'), managed(p, 'batch')]).toEqual([512, 200]);
  });

  it('LE7 who may end it: who took it, and who may donate on either end', () => {
    const { p } = small();
    must(p.create({ name: 'web', pages: 512, owner: 'alice', perms: { carol: ['donate'] } }));
    must(p.create({ name: 'batch', owner: 'bob', perms: { carol: ['alloc'], dave: ['alloc', 'reclaim'] } }));
    for (const as of ['alice', 'bob', 'carol', 'root']) {
      const { id } = must(p.borrow({ from: 'web', to: 'batch', pages: 10 }, { as: 'carol' }));
      expect(why(p.reclaim(id, { as: 'dave' }))).toBe('EPERM permission');
      expect(why(p.reclaim(id, { as }))).toBe('ok');
    }
  });

  it('LE5 LE7 what is on loan is still within the lender’s max, and in nobody’s min', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 1000, max: 2000 }));
    must(p.create({ name: 'batch', pages: 100 }));
    const { id } = must(p.borrow({ from: 'web', to: 'batch', pages: 500 }));
    expect(onLoan(m, must(p.stat('web')).id)).toEqual({ in: 0, out: 500 });
    expect(why(p.setattr('web', { max: 999 }))).toBe('ENOSPC guarantee'); // 500 pages, and 500 that will come back
    must(p.setattr('web', { max: 1000 }));
    expect(why(p.resize('web', 501))).toBe('EINVAL bad-argument');
    expect(why(p.move('node0-DMA32', 'web', { count: 1 }))).toBe('ENOSPC guarantee');
    expect(why(p.setattr('batch', { min: 101 }))).toBe('ENOSPC guarantee'); // 600 pages, 100 its own
    must(p.setattr('batch', { min: 100 }));
    expect(why(p.resize('batch', 599))).toBe('ENOSPC guarantee');
    expect(why(p.reclaim(id))).toBe('ok');
    expect([managed(p, 'web'), managed(p, 'batch')]).toEqual([1000, 100]);
  });
});

describe('while it lasts', () => {
  it('LE8 borrowed frames are not lent again, moved, carved or resized away', () => {
    const { p } = small();
    must(p.create({ name: 'web', pages: 1000 }));
    must(p.create({ name: 'batch', pages: 50 }));
    must(p.create({ name: 'other' }));
    const { ranges } = must(p.borrow({ from: 'web', to: 'batch', pages: 500 }));
    const range = ranges[0] as { start: Pfn; end: Pfn };
    expect(why(p.borrow({ from: 'batch', to: 'other', pages: 51 }))).toBe('ENOMEM no-memory');
    expect(why(p.move('batch', 'other', { count: 51 }))).toBe('ENOMEM no-memory');
    expect(why(p.move('batch', 'other', { range }))).toBe('EBUSY pool-busy');
    expect(why(p.resize('batch', 499))).toBe('EBUSY pool-busy');
    expect(why(p.create({ name: 'child', parent: 'batch', pages: 51 }))).toBe('ENOMEM no-memory');
    expect([why(p.destroy('web')), why(p.destroy('batch', { drain: true }))]).toEqual(Array(2).fill('EBUSY pool-busy'));
    expect(why(p.borrow({ from: 'batch', to: 'other', pages: 50 }))).toBe('ok');
    expect(free(p, 'batch')).toBe(500);
  });

  it('LE9 a block with frames on loan stays online until they are given back, and the refusal names the lease', () => {
    const blockPages = 32768;
    const node: NodeId = toNodeId(0);
    const ram = [{ start: toPfn(0), end: toPfn(3 * blockPages), node }];
    const { m, p } = boot({ ram, blockSize: 128 * MiB, watermarks: 'none' });
    must(p.create({ name: 'web' }));
    must(p.create({ name: 'batch', pages: 64 }));
    const start = toPfn(blockPages);
    must(p.move('node0-DMA32', 'web', { range: { start, end: toPfn(start + 512) } }));
    const { id } = must(p.borrow({ from: 'web', to: 'batch', pages: 256 }));
    const before = m.digest();
    const r = m.offline(toBlockId(1));
    expect(why(r)).toBe('EBUSY pool-busy');
    expect(r.ok ? '' : r.error.message).toContain(`lease ${id} (web lent 256 pages to batch)`);
    expect(m.digest()).toBe(before);
    must(p.reclaim(id));
    must(m.offline(toBlockId(1)));
    expect(must(p.stat('web')).managed).toBe(512);
  });

  it('LE10 a copy of the machine has the leases too, and ends them by itself', () => {
    const { m, p } = small();
    must(p.create({ name: 'web', pages: 1000 }));
    must(p.create({ name: 'batch' }));
    const { id } = must(p.borrow({ from: 'web', to: 'batch', pages: 500 }));
    const copy = m.fork();
    machines.push(copy);
    must(pools(copy).reclaim(id));
    expect([managed(p, 'batch'), managed(pools(copy), 'batch')]).toEqual([500, 0]);
    expect([p.leases().length, pools(copy).leases().length]).toEqual([1, 0]);
  });
});
