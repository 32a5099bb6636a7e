// Fixed areas: registration, requests, confinement, and drivers that give up, or do not.

import { describe, expect, it } from 'vitest';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGE_SIZE, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from '../geometry.ts';
import { Machine } from '../machine.ts';
import { extent } from '../pools/dma-extent.ts';
import { areaTableOf } from './area-table.ts';
import { addDevice, auditDevices } from './device-model.ts';
import type { DriverOps, DriverSpec } from './driver.ts';
import { BASE, boot, loud, rangeOf, withDevice } from './fixed-areas.cases.ts';
import { fixedAreas } from './fixed-areas.ts';

const QUIET: DriverOps = {
  quiesce: () => 'quiet',
  move: () => 'done',
  drop: () => 'done',
  reacquire: () => 'done',
  resume: () => 'done',
};
const spec = (over: Partial<DriverSpec> = {}): DriverSpec => ({
  name: 'disk0',
  abi: 1,
  caps: ['relinquish', 'reacquire', 'quiesce'],
  maxQuiesceMs: 5,
  ops: QUIET,
  ...over,
});

describe('registration', () => {
  it('FX5 what is no registration, or would be a second one, is refused', () => {
    const m = boot();
    const f = fixedAreas(m);
    const errno = (over: Partial<DriverSpec>): string => {
      const r = f.register(spec(over));
      return r.ok ? 'ok' : r.error.errno;
    };
    const { quiesce: _, ...unquiet } = QUIET;
    expect(
      [
        { abi: 2 },
        { name: 'two words' },
        { maxQuiesceMs: -1 },
        { caps: ['relinquish'] as const },
        { ops: unquiet },
        { ops: { quiesce: () => 'quiet' as const } },
        { caps: ['dmaFault'] as const },
        { holder: m.addHolder({ class: 'slab', name: 'dentry' }) },
      ].map(errno),
    ).toEqual(Array(8).fill('EINVAL'));
    expect(f.drivers()).toEqual([]);
    const holder = m.addHolder({ class: 'driver', name: 'old' });
    expect([errno({ holder }), errno({}), errno({ name: 'disk1', holder })]).toEqual(['ok', 'EEXIST', 'EEXIST']);
  });

  it('FX6 a request keeps its rule, near its device, and pages that can move make way', () => {
    const ram = [0, 1].map((n) => ({
      start: toPfn(BASE + n * 2 * PAGES_PER_SECTION),
      end: toPfn(BASE + (n + 1) * 2 * PAGES_PER_SECTION),
      node: toNodeId(n),
    }));
    const low = { start: toPfn(PAGES_PER_SECTION), end: toPfn(2 * PAGES_PER_SECTION), node: toNodeId(0) };
    const m = Machine.boot({ ram: [low, ...ram], code: 'shared' });
    const f = fixedAreas(m);
    loud(f.register(spec({ node: toNodeId(1) })));
    const near = loud(f.request('disk0', { bytes: 3 * PAGE_SIZE + 1, reason: 'ring' }));
    expect(near).toMatchObject({ pages: 4, driver: 'disk0' });
    expect(m.frame(near.segments[0]?.start ?? toPfn(0))).toMatchObject({
      class: 'driver',
      name: 'disk0',
      pool: { node: 1 },
    });
    const below = loud(
      f.request('disk0', { bytes: 2 ** 16, rule: { addrMax: { bits: 30 }, align: 2 ** 20 }, reason: 'low' }),
    );
    expect([
      below.segments.length,
      (below.segments[0]?.start ?? 1) % 256,
      below.segments.every((s) => s.end <= 2 ** 18),
    ]).toEqual([1, 0, true]);
    const errno = (bytes: number, rule = {}): string => {
      const r = f.request('disk0', { bytes, rule, reason: 'x' });
      return r.ok ? 'ok' : r.error.errno;
    };
    expect([errno(0), errno(1.5), errno(1, { align: 3 }), errno(2 ** 40)]).toEqual([
      'EINVAL',
      'EINVAL',
      'EINVAL',
      'ENOSPC',
    ]);

    // Page cache everywhere below 1 GiB: a run of 8 MiB has to be made.
    const cache = m.addHolder({ class: 'file', name: 'log' });
    const pages: number[] = [];
    for (let p = m.alloc(cache, toOrder(0), { topZone: 1 }); p >= 0; p = m.alloc(cache, toOrder(0), { topZone: 1 }))
      pages.push(p);
    for (const [k, p] of pages.entries()) if (k % 2 === 0) m.free(toPfn(p));
    const rule = { addrMax: { bits: 30 }, contiguous: true };
    const made = loud(f.request('disk0', { bytes: 2 ** 23, rule, reason: 'frame buffer' }));
    expect([made.segments.length, made.pages]).toEqual([1, 2048]);
    expect(m.check()).toEqual([]);
  });

  it('FX9 a handle is stale when its area was released, or has moved', () => {
    const m = boot();
    const f = fixedAreas(m);
    loud(f.register(spec()));
    const a = loud(f.request('disk0', { bytes: 1, reason: 'one' }));
    const b = loud(f.request('disk0', { bytes: 1, reason: 'two' }));
    expect(f.release(a.handle)).toEqual({ ok: true, value: undefined });
    expect(f.release(a.handle)).toMatchObject({ error: { errno: 'ESTALE' } });
    loud(f.relinquish(rangeOf(b), { deadlineMs: 10 }));
    expect(f.release(b.handle)).toMatchObject({ error: { errno: 'ESTALE' } });
    expect(f.reacquire(b.handle)).toMatchObject({ error: { errno: 'ESTALE' } });
    const moved = { id: b.handle.id, generation: 2 };
    expect(f.get(moved)?.segments).not.toEqual(b.segments);
    expect(f.reacquire(moved)).toMatchObject({ error: { errno: 'EBUSY' } });
    expect(f.release(moved).ok).toBe(true);
    expect(f.areas()).toEqual([]);
    expect(m.check()).toEqual([]);
  });
});

describe('drivers that give nothing up', () => {
  const RIGID = spec({ name: 'old0', caps: [], ops: {} });

  it('FX7 they are served from non-removable areas only, and what they had is listed', () => {
    const m = boot(4);
    const f = fixedAreas(m);
    const holder = m.addHolder({ class: 'driver', name: 'old0' });
    const had = m.alloc(holder, toOrder(3));
    const adopted = loud(f.register({ ...RIGID, holder }));
    expect(adopted).toMatchObject([{ pages: 8, segments: [{ start: had }] }]);
    const r = f.request('old0', { bytes: 4096, reason: 'mailbox' });
    expect(r).toMatchObject({ ok: false, error: { errno: 'ENXIO', reason: 'incompatible' } });
    if (!r.ok) expect(r.error.message).toContain('not compatible with memory hotplug');
    expect(f.incompatible().map((a) => a.id)).toEqual([adopted[0]?.handle.id]);
    expect(f.markNonRemovable(extent(BASE, BASE + 100))).toMatchObject({ error: { errno: 'EINVAL' } });
    const from = BASE + 3 * PAGES_PER_SECTION;
    loud(f.markNonRemovable(extent(from, from + PAGEBLOCK_PAGES)));
    const got = loud(f.request('old0', { bytes: 4096, reason: 'mailbox' }));
    expect(got.segments).toMatchObject([{ start: from }]);
    const rest = f.request('old0', { bytes: PAGEBLOCK_PAGES * PAGE_SIZE, reason: 'too much' });
    expect(rest).toMatchObject({ ok: false, error: { errno: 'ENXIO' } });
    expect(f.refused().map((x) => x.errno)).toEqual(['ENXIO', 'ENXIO']);
    expect(m.check()).toEqual([]);
  });

  it.each([1, 2, 3, 4, 5])(
    'FX8 their pages lie in as few blocks as they need, whatever is there; the others go (seed %i)',
    (seed) => {
      const m = boot(8, 'tag');
      const f = fixedAreas(m);
      loud(f.register(RIGID));
      const area = 4 * PAGEBLOCK_PAGES;
      // A piece of each of the blocks 4 to 7 is for them, half of it taken by programs already.
      const marks = [4, 5, 6, 7].map((b) => extent(BASE + b * PAGES_PER_SECTION, BASE + b * PAGES_PER_SECTION + area));
      for (const mark of marks) loud(f.markNonRemovable(mark));
      const cache = m.addHolder({ class: 'anonymous', name: 'program' });
      for (let k = 0; k < 8 * PAGES_PER_SECTION * 0.6; k++) m.alloc(cache, toOrder(0));
      let need = 0;
      for (let k = 0; k < 20 + seed; k++) {
        const pages = 1 + ((k * 37 + seed * 101) % 300);
        const r = f.request('old0', { bytes: pages * PAGE_SIZE, reason: `buffer ${k}` });
        if (!r.ok) break;
        need += pages;
      }
      expect(need).toBeGreaterThan(2000);
      const used = new Set(
        f.areas().flatMap((a) => a.segments.map((s) => Math.floor((s.start - BASE) / PAGES_PER_SECTION))),
      );
      expect(used.size).toBeLessThanOrEqual(Math.ceil(need / area));
      for (let b = 0; b < 8; b++) {
        const id = toBlockId(BASE / PAGES_PER_SECTION + b);
        const r = m.fork().offline(id);
        expect([b, r.ok], `seed=${seed}`).toEqual([b, !used.has(b)]);
      }
      expect(m.check()).toEqual([]);
    },
  );
});

describe('FX1 FX2 FX3 FX4 check() sees', () => {
  it.each([
    [
      'FX1 pages that are missing',
      (m: Machine) => void m.free(areaTableOf(m).areas.get(1)?.segments[0]?.start ?? toPfn(0)),
    ],
    ['FX1 an index that names a frame of nobody', (m: Machine) => void areaTableOf(m).at.set(BASE + 20_000, 1)],
    ['FX1 a size that is another', (m: Machine) => void Object.assign(areaTableOf(m).areas.get(1) ?? {}, { pages: 7 })],
    [
      'FX2 frames of a released area',
      (m: Machine) => void Object.assign(areaTableOf(m).areas.get(1) ?? {}, { state: 'RELEASED' }),
    ],
    [
      'FX2 an area that quiesces for nobody',
      (m: Machine) => void Object.assign(areaTableOf(m).areas.get(1) ?? {}, { state: 'QUIESCING' }),
    ],
    [
      'FX3 frames outside of non-removable areas',
      (m: Machine) => void Object.assign(areaTableOf(m).areas.get(1) ?? {}, { confined: true }),
    ],
    [
      'FX4 a host that backs frames of the guest',
      (m: Machine) => void Object.assign(areaTableOf(m).areas.get(1) ?? {}, { workedAround: true }),
    ],
  ])('%s', (name, harm) => {
    const { m } = withDevice();
    expect(m.check()).toEqual([]);
    harm(m);
    const found = m.check();
    expect(found.some((v) => v.rule === 'C12' && v.detail.startsWith(name.slice(0, 3)))).toBe(true);
  });
});

describe('devices', () => {
  it('FX14 a driver that has died keeps its areas until its bus has stopped its device', () => {
    const { m, area, clock, monitor } = withDevice({ manner: 'throws' });
    const f = fixedAreas(m);
    const r = f.relinquish(rangeOf(area), { deadlineMs: 100, clock });
    expect(r).toMatchObject({ ok: false, error: { reason: 'relinquish', errno: 'EBUSY' } });
    expect(f.drivers()[0]).toMatchObject({ dead: true });
    expect(f.request('nic0', { bytes: 1, reason: 'more' })).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });
    clock.pause(m, 10); // it writes on, to frames that are its own
    expect(monitor.violations).toEqual([]);
    const again = f.relinquish(rangeOf(area), { deadlineMs: 100, clock });
    expect(again).toMatchObject({ ok: false, error: { reason: 'no-relinquish', errno: 'EOPNOTSUPP' } });
    expect(m.check()).toEqual([]);
    expect(f.unregister('nic0')).toEqual({ ok: true, value: 5 });
    expect([f.drivers(), f.areas(), m.frame(area.segments[0]?.start ?? toPfn(0)).state]).toEqual([[], [], 'free']);
    expect(f.unregister('nic0')).toMatchObject({ ok: false });
    expect(m.check()).toEqual([]);
    addDevice(boot(), { name: 'nic0' }); // another machine knows nothing of it
    expect(auditDevices(boot())).toEqual([]);
  });
});
