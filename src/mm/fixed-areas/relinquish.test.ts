// Relinquish: two phases, deadlines, the way back, IOMMU and host, and the offline that asks. Rules: docs/spec/fixed-areas.md.

import { describe, expect, it } from 'vitest';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { takeFreeFrames } from '../free-frames.ts';
import { PAGE_SIZE, PAGES_PER_SECTION } from '../geometry.ts';
import { Machine } from '../machine.ts';
import { OfflineWork } from '../memory-hotplug.ts';
import type { Pool } from '../pool.ts';
import { extent } from '../pools/dma-extent.ts';
import { areaTableOf } from './area-table.ts';
import {
  addBuffer,
  addDevice,
  auditDevices,
  bufferPages,
  type DeviceManner,
  DmaMonitor,
  deviceClock,
  deviceImage,
  removeDevice,
  runDevices,
} from './device-model.ts';
import { driversEvictor } from './evictor.ts';
import { BASE, blockOf, boot, loud, rangeOf, sound, withDevice } from './fixed-areas.cases.ts';
import { fixedAreas, workedAroundIn } from './fixed-areas.ts';
import { DRIVER_FAULT_POINTS, TABLE_CLOCK } from './relinquish.ts';

const UNCOOPERATIVE = ['changes-mind', 'hangs', 'crashes', 'throws'] as const;
const STILL = { now: () => 0, pause: () => undefined };
const WHOLE = extent(BASE, BASE + PAGES_PER_SECTION);

/** Frames that are free, by pool: what an abort gives back. */
const free = (m: Machine): number[] => m.zones.map((z) => z.alloc.nrFree() + z.alloc.pcpPages());

/** Devices in one block: their manners by area id, each with one buffer. */
function crowd(manners: readonly DeviceManner[], over: object = {}) {
  const m = boot(2);
  const monitor = new DmaMonitor();
  const areas = manners.map((manner, k) => {
    addDevice(m, { name: `dev${k}`, manner, ...over });
    return loud(addBuffer(m, `dev${k}`, { bytes: (3 + k) * PAGE_SIZE, reason: `buffer ${k}` }));
  });
  runDevices(m, 20, monitor);
  return { m, monitor, areas, clock: deviceClock(monitor), f: fixedAreas(m) };
}

describe('an offline that asks drivers', () => {
  it('FX10 areas move with their contents while DMA goes on before and after, and the block is offline', () => {
    const { m, monitor, area, clock } = withDevice();
    const block = blockOf(area);
    expect(m.fork().offline(block)).toMatchObject({ ok: false, error: { reason: 'unmovable' } });
    const { writes } = monitor;
    expect(m.offline(block, { evictors: [driversEvictor({ deadlineMs: 100, clock })] })).toMatchObject({ ok: true });
    expect(fixedAreas(m).areas()).toMatchObject([
      { state: 'HELD', outcome: { kind: 'MOVED' }, generation: 2, pages: 5 },
    ]);
    expect(fixedAreas(m).get(area.handle)).toBeUndefined();
    expect(monitor.writes).toBeGreaterThan(writes); // what was under way landed while it drained
    const after = monitor.writes;
    runDevices(m, 20, monitor);
    expect(monitor.writes).toBe(after + 20);
    expect(fixedAreas(m).counts()).toMatchObject({ moved: 1 });
    sound(m, monitor);
  });

  it('FX10 what was split on the way, and lies in several segments, keeps its order', () => {
    const { m, monitor, area, clock } = withDevice(
      {},
      { bytes: 700 * PAGE_SIZE, reacquireRule: { boundary: 2 ** 18 } },
    );
    expect(area.segments.length).toBe(1);
    loud(m.offline(blockOf(area), { evictors: [driversEvictor({ deadlineMs: 100, clock })] }));
    expect(fixedAreas(m).areas()[0]?.segments.length).toBeGreaterThan(10);
    runDevices(m, 300, monitor);
    sound(m, monitor);
  });

  it('FX22 a fork asks its own devices, and the machine sees nothing of it', () => {
    const { m, monitor, area, clock } = withDevice();
    const before = [m.digest(), deviceImage(m), areaTableOf(m).counts.moved];
    const dry = m.fork();
    loud(dry.offline(blockOf(area), { evictors: [driversEvictor({ deadlineMs: 100, clock })] }));
    expect([m.digest(), deviceImage(m), areaTableOf(m).counts.moved]).toEqual(before);
    expect(deviceImage(dry)).not.toEqual(deviceImage(m));
    runDevices(dry, 7, monitor);
    runDevices(m, 7, monitor);
    sound(dry, monitor);
    sound(m, monitor);
  });

  it('FX21 pages of drivers that never registered are in the way, or move as if they could', () => {
    const m = boot();
    const monitor = new DmaMonitor();
    const holder = m.addHolder({ class: 'driver', name: 'gpu' });
    const pfn = toPfn(m.alloc(holder, toOrder(4)));
    m.write(pfn, 0, Uint8Array.of(1, 2, 3));
    const block = m.blockIds()[0];
    const no = m.fork().offline(block, { evictors: [driversEvictor({ deadlineMs: 10 })] });
    expect(no).toMatchObject({
      ok: false,
      error: { errno: 'EBUSY', blockers: [{ cause: 'relinquish', name: 'gpu' }] },
    });
    const assume = { evictors: [driversEvictor({ deadlineMs: 10, assume: 'relinquish' })] };
    m.pin(pfn);
    const pinned = m.offline(block, assume);
    expect(pinned).toMatchObject({ ok: false, error: { blockers: [{ cause: 'pinned', name: 'gpu' }] } });
    m.unpin(pfn);
    expect(m.offline(block, assume)).toMatchObject({ ok: true, value: { migratedPages: 16 } });
    let at = -1;
    m.forEachFrameOf(holder, (head, order) => {
      expect(order).toBe(4);
      at = head;
    });
    expect([...m.read(toPfn(at)).slice(0, 3)]).toEqual([1, 2, 3]);
    sound(m, monitor);
  });

  it('FX21 a pinned area does not move, and is asked for again until it is not', () => {
    const { m, monitor, area, clock } = withDevice();
    const evictors = [driversEvictor({ deadlineMs: 100, clock })];
    m.pin(rangeOf(area).start);
    expect(m.offline(blockOf(area), { evictors })).toMatchObject({
      ok: false,
      error: { blockers: [{ cause: 'pinned' }] },
    });
    expect(fixedAreas(m).relinquish(rangeOf(area), { deadlineMs: 9, clock })).toMatchObject({
      error: { reason: 'in-use' },
    });
    m.unpin(rangeOf(area).start);
    expect(m.offline(blockOf(area), { evictors }).ok).toBe(true);
    sound(m, monitor);
  });

  it('FX20 a deadline that passes between two steps ends the session, and the offline', () => {
    const { m, monitor, area, clock } = withDevice();
    const work = new OfflineWork(m, blockOf(area), { evictors: [driversEvictor({ deadlineMs: 50, clock })] });
    while (work.stage !== 'migrate') work.step();
    work.step();
    expect(fixedAreas(m).areas()).toMatchObject([{ state: 'QUIESCING', generation: 2 }]);
    const { writes } = monitor;
    runDevices(m, 60, monitor);
    expect(monitor.writes).toBe(writes); // paused, not forgotten
    expect(fixedAreas(m).expire(clock.now(m))).toBe(1);
    expect(fixedAreas(m).areas()).toMatchObject([{ state: 'HELD', segments: area.segments, generation: 1 }]);
    runDevices(m, 10, monitor);
    expect(monitor.writes).toBe(writes + 10);
    while (!work.finished) work.step();
    expect(work.refusal).toMatchObject({ reason: 'unmovable', blockers: [{ cause: 'relinquish', name: 'nic0' }] });
    expect(fixedAreas(m).refused()).toMatchObject([{ outcome: 'TIMEOUT', errno: 'ETIMEDOUT' }]);
    expect(areaTableOf(m).sessions.size).toBe(0);
    sound(m, monitor);
  });
});

describe('phase 1', () => {
  it('FX11 a veto has the errno of its driver, names its frames, and has disturbed nobody', () => {
    const { m, monitor, clock, f } = crowd(['good', 'refuses', 'good']);
    const before = [m.digest(), deviceImage(m), clock.now(m)];
    const r = f.relinquish(WHOLE, { deadlineMs: 100, clock });
    expect(r).toMatchObject({ ok: false, error: { reason: 'relinquish', errno: 'EBUSY' } });
    if (!r.ok) expect(r.error.blockers.map((b) => b.name)).toEqual(['dev1']);
    expect([m.digest(), deviceImage(m), clock.now(m)]).toEqual(before);
    const off = m.offline(m.blockIds()[0], { evictors: [driversEvictor({ deadlineMs: 100, clock })] });
    expect(off).toMatchObject({
      ok: false,
      error: { reason: 'relinquish', errno: 'EBUSY', blockers: [{ name: 'dev1' }] },
    });
    expect([m.digest(), deviceImage(m), clock.now(m)]).toEqual(before);
    sound(m, monitor);
  });

  it('FX24 each refusal is seen afterwards, whatever was rolled back', () => {
    const { m, clock, f } = crowd(['good', 'refuses', 'hangs', 'crashes']);
    for (const a of f.areas())
      f.relinquish(extent(a.segments[0]?.start ?? 0, a.segments[0]?.end ?? 0), { deadlineMs: 100, clock });
    // The one that died cannot be asked: that is evidence. Unplugged, it leaves the others to refuse, and a roll-back.
    const off = (): unknown => m.offline(m.blockIds()[0], { evictors: [driversEvictor({ deadlineMs: 100, clock })] });
    expect(off()).toMatchObject({ ok: false, error: { blockers: [{ name: 'dev3', cause: 'relinquish' }] } });
    const dry = m.fork();
    loud(fixedAreas(dry).unregister('dev3'));
    expect(fixedAreas(dry).refused()).toEqual([]); // nobody refused anything there
    dry.offline(m.blockIds()[0], { evictors: [driversEvictor({ deadlineMs: 100, clock })] });
    expect(fixedAreas(dry).refused()).toMatchObject([{ driver: 'dev1' }]);
    expect(f.refused().map((r) => [r.driver, r.outcome, r.errno])).toEqual([
      ['dev1', 'REFUSED', 'EBUSY'],
      ['dev2', 'TIMEOUT', 'ETIMEDOUT'],
      ['dev3', 'REFUSED', 'EBUSY'],
    ]);
    expect(f.refused().every((r) => r.why !== '')).toBe(true);
    const whole = extent(BASE, BASE + 4 * PAGES_PER_SECTION);
    expect(f.explain(whole).map((v) => [v.area.driver, v.verdict, v.why])).toEqual([
      ['dev0', 'yes', 'dev0 gives it up on request'],
      ['dev1', 'yes', 'dev1 gives it up on request; it refused before: a transfer that cannot be interrupted'],
      ['dev2', 'yes', 'dev2 gives it up on request; it was too late before: busy for 10 ms'],
      ['dev3', 'no', 'dev3 has died; it refused before: died while it was to give the area up'],
    ]);
    expect(m.check()).toEqual([]);
  });
});

describe('phase 2', () => {
  it.each(UNCOOPERATIVE)('FX12 the last driver %s: all others are as they were, byte for byte', (manner) => {
    const { m, monitor, clock, f } = crowd(['good', 'good', manner], { drainMs: 0, burst: 0 });
    const before = [free(m), deviceImage(m).replaceAll('"crashed":true', '"crashed":false')];
    const pages = f.areas().map((a) => bufferPages(m, a.driver));
    for (const mode of ['move', 'drop', 'ask'] as const) {
      const r = f.relinquish(WHOLE, { deadlineMs: 100, clock, mode });
      expect(r.ok).toBe(false);
      if (manner === 'hangs') expect(r).toMatchObject({ error: { reason: 'deadline', errno: 'ETIMEDOUT' } });
      // A device whose driver died in the middle stays paused; nobody touches it any more.
      const image = deviceImage(m).replaceAll('"crashed":true', '"crashed":false');
      const calm =
        manner === 'crashes' || manner === 'throws' ? image.replaceAll('"paused":true', '"paused":false') : image;
      expect([free(m), calm]).toEqual(before);
      expect(f.areas().map((a) => bufferPages(m, a.driver))).toEqual(pages);
    }
    sound(m, monitor);
  });

  it('FX12 given up after any of its steps, an offline leaves devices, contents and free frames as they were', () => {
    const modes = ['move', 'drop', 'ask'] as const;
    let steps = 0;
    for (const mode of modes) {
      for (let after = 1; ; after++) {
        const { m, monitor, clock, f } = crowd(['good', 'good', 'good'], { drainMs: 0, burst: 0 });
        const before = [free(m), deviceImage(m), f.areas()];
        const work = m.beginOffline(m.blockIds()[0], {
          evictors: [driversEvictor({ deadlineMs: 9, clock, mode })],
          batch: 1,
        });
        for (let k = 0; k < after && !work.finished; k++) work.step();
        if (work.finished) break;
        work.cancel();
        expect([free(m), deviceImage(m), f.areas()], `${mode}, after ${after}`).toEqual(before);
        sound(m, monitor);
        steps++;
        if (after > 70 && after < 250) after = 255; // the middle is one pageblock like another
      }
    }
    expect(steps).toBeGreaterThan(3 * 70);
  });

  it('FX12 a fault at any point leaves devices, contents and free frames as they were, and the next try works', () => {
    const met = new Set<string>();
    for (const point of DRIVER_FAULT_POINTS) {
      for (const mode of ['move', 'drop'] as const) {
        for (const caps of [
          ['relinquish', 'reacquire', 'quiesce'],
          ['relinquish', 'dmaFault'],
          ['hostRemap'],
        ] as const) {
          for (let nth = 1; nth <= 3; nth++) {
            const m = boot(2);
            const monitor = new DmaMonitor();
            const clock = deviceClock(monitor);
            const f = fixedAreas(m);
            loud(f.markNonRemovable(WHOLE));
            for (const name of ['a', 'b', 'c']) {
              addDevice(m, { name, caps, drainMs: 1, burst: 0 });
              loud(addBuffer(m, name, { bytes: 3 * PAGE_SIZE, reason: 'ring' }));
            }
            const before = [free(m), deviceImage(m), f.areas().map((a) => ({ ...a, outcome: undefined }))];
            let left = nth;
            m.faultAt = (p) => p === point && --left === 0;
            const r = f.relinquish(WHOLE, { deadlineMs: 50, clock, mode });
            m.faultAt = undefined;
            if (left > 0 || (mode === 'drop' && caps[1] === 'dmaFault')) continue;
            met.add(point);
            if (!r.ok) expect([free(m), deviceImage(m), f.areas()], `${point} ${nth} ${mode} ${caps}`).toEqual(before);
            expect([r.ok, r.ok ? '' : r.error.errno]).toEqual([false, point === 'drivers.target' ? 'EINTR' : 'EIO']);
            loud(f.relinquish(WHOLE, { deadlineMs: 50, clock, mode }));
            sound(m, monitor);
          }
        }
      }
    }
    // The last one is met after a removal only.
    expect([...met, 'drivers.reacquire'].sort()).toEqual([...DRIVER_FAULT_POINTS].sort());
  });

  it('FX17 a driver that is quiet and then does not drop: all others have their areas again', () => {
    const { m, monitor, clock, f } = crowd(['good', 'good'], { drainMs: 0, burst: 0 });
    loud(
      f.register({
        name: 'fickle',
        abi: 1,
        caps: ['relinquish', 'reacquire', 'quiesce'],
        maxQuiesceMs: 5,
        ops: {
          quiesce: () => 'quiet',
          drop: () => ({ errno: 'EBUSY', why: 'on second thoughts' }),
          reacquire: () => 'done',
          resume: () => 'done',
        },
      }),
    );
    loud(f.request('fickle', { bytes: 1, reason: 'one' }));
    const before = [free(m), deviceImage(m), f.areas().map((a) => a.segments)];
    const r = f.relinquish(WHOLE, { deadlineMs: 50, clock, mode: 'drop' });
    expect(r).toMatchObject({
      ok: false,
      error: { reason: 'relinquish', errno: 'EBUSY', blockers: [{ name: 'fickle' }] },
    });
    expect([free(m), deviceImage(m), f.areas().map((a) => a.segments)]).toEqual(before);
    sound(m, monitor);
  });

  it('FX13 a driver that hangs costs what it promised, and no more than the deadline', () => {
    const { m, monitor, clock, f } = crowd(['hangs'], { maxQuiesceMs: 30 });
    const spent = (deadlineMs: number): number => {
      const from = clock.now(m);
      const r = f.relinquish(WHOLE, { deadlineMs, clock, pollMs: 7 });
      expect(r).toMatchObject({ ok: false, error: { errno: 'ETIMEDOUT' } });
      expect(f.areas()).toMatchObject([{ state: 'HELD', outcome: { kind: 'TIMEOUT' } }]);
      return clock.now(m) - from;
    };
    expect([spent(100), spent(30), spent(12), spent(0)]).toEqual([30, 30, 12, 0]);
    const { writes } = monitor;
    runDevices(m, 5, monitor);
    expect(monitor.writes).toBe(writes + 5);
    sound(m, monitor);
  });

  it('FX13 a clock that stands still is a bug, not a hang', () => {
    const { m, f } = crowd(['hangs']);
    expect(() => f.relinquish(WHOLE, { deadlineMs: 100, clock: STILL })).toThrow('a clock stands still');
    expect(TABLE_CLOCK.now(m)).toBe(0);
  });

  it('FX15 an IOMMU switches at once, of drivers that hang, refuse or are dead, too', () => {
    const { m, monitor, clock, f, areas } = crowd(['hangs', 'refuses', 'good'], { caps: ['relinquish', 'dmaFault'] });
    const from = clock.now(m);
    const done = loud(f.relinquish(WHOLE, { deadlineMs: 0, clock }));
    expect(done.moved).toEqual([1, 2, 3]);
    expect(clock.now(m)).toBe(from);
    expect(f.counts()).toMatchObject({ switched: 3, moved: 0 });
    for (const [k, a] of areas.entries()) {
      expect(f.get(a.handle)?.segments).not.toEqual(areas[k]?.segments); // the handle is good: the DMA address is the same
    }
    runDevices(m, 10, monitor);
    sound(m, monitor);
    // The way back is a switch, too.
    const here = deviceImage(m);
    addDevice(m, { name: 'late', manner: 'changes-mind' });
    loud(addBuffer(m, 'late', { bytes: 1, reason: 'x' }));
    const all = extent(BASE, BASE + 4 * PAGES_PER_SECTION);
    expect(f.relinquish(all, { deadlineMs: 9, clock }).ok).toBe(false);
    expect(deviceImage(m).startsWith(here.slice(0, -1))).toBe(true);
    sound(m, monitor);
  });

  it('FX16 a host that swaps what backs a frame lets the block go, with an incompatible driver in it', () => {
    const { m, monitor, area, clock } = withDevice({ caps: ['relinquish', 'quiesce', 'reacquire'] });
    // An incompatible driver that was there before anybody asked.
    const holder = m.addHolder({ class: 'driver', name: 'old0' });
    const pfn = toPfn(m.alloc(holder, toOrder(2)));
    addDevice(m, { name: 'old0', caps: ['hostRemap'] }, holder);
    // One that could, and does not.
    addDevice(m, { name: 'stub0', manner: 'hangs', caps: ['relinquish', 'quiesce', 'hostRemap'] });
    loud(addBuffer(m, 'stub0', { bytes: 2 * PAGE_SIZE, reason: 'ring' }));
    runDevices(m, 5, monitor);
    const block = blockOf(area);
    const { managed } = m.zones.find((z) => z.managed > 0) ?? { managed: 0 };
    const evictors = [driversEvictor({ deadlineMs: 100, clock })];
    // The way back: somebody objects.
    m.notifiers.push({ name: 'no', goingOffline: () => 'EBUSY' });
    const before = [m.digest(), deviceImage(m)];
    expect(m.offline(block, { evictors }).ok).toBe(false);
    expect([m.digest(), deviceImage(m)]).toEqual(before);
    m.notifiers.length = 0;

    loud(m.offline(block, { evictors }));
    const f = fixedAreas(m);
    expect(f.counts()).toMatchObject({ workedAround: 2, moved: 1 });
    expect(f.incompatible()).toMatchObject([
      { driver: 'old0', state: 'HELD', workedAround: true, segments: [{ start: pfn }] },
    ]);
    runDevices(m, 9, monitor);
    sound(m, monitor);
    const old = f.areas().find((a) => a.driver === 'old0') as { id: number; generation: number };
    expect(f.home(old)).toMatchObject({ ok: false, error: { errno: 'EINVAL' } });

    loud(m.online(block, 'kernel'));
    runDevices(m, 9, monitor);
    sound(m, monitor);
    for (const a of f.areas()) loud(f.home({ id: a.id, generation: a.generation }));
    expect(f.counts().workedAround).toBe(0);
    expect(m.frame(pfn)).toMatchObject({ class: 'driver', name: 'old0' });
    expect(m.zones.find((z) => z.managed > 0)?.managed).toBe(managed);
    sound(m, monitor);
    // And without its memory: released, it leaves nothing behind.
    loud(m.offline(block, { evictors }));
    for (const name of ['old0', 'stub0']) loud(f.unregister(name));
    expect(f.areas().map((a) => a.driver)).toEqual(['nic0']);
    expect(m.check()).toEqual([]);
  });

  it('FX16 a DIMM goes with its memory while the host backs what a driver holds there; what it held can be released', () => {
    const m = boot(2);
    const monitor = new DmaMonitor();
    const start = BASE + 8 * PAGES_PER_SECTION;
    const range = { start: toPfn(start), end: toPfn(start + 2 * PAGES_PER_SECTION) };
    loud(m.addMemory(range, toNodeId(0)));
    const blocks = [0, 1].map((k) => toBlockId(start / PAGES_PER_SECTION + k));
    for (const b of blocks) if (m.block(b)?.state !== 'online') loud(m.online(b, 'kernel'));
    const holder = m.addHolder({ class: 'driver', name: 'old0' });
    const index = m.sections.indexOf(toPfn(start + 100));
    takeFreeFrames(m.poolAt(index) as Pool, index, index + 4);
    m.place(holder, toPfn(start + 100), toPfn(start + 104));
    addDevice(m, { name: 'old0', caps: ['hostRemap'] }, holder);
    runDevices(m, 5, monitor);
    const evictors = [driversEvictor({ deadlineMs: 9, clock: deviceClock(monitor) })];
    for (const b of blocks) loud(m.offline(b, { evictors }));
    runDevices(m, 5, monitor);
    sound(m, monitor);
    loud(m.removeMemory(range));
    runDevices(m, 5, monitor);
    sound(m, monitor);
    expect(workedAroundIn(m, start, start + 104)).toMatchObject([{ driver: 'old0', state: 'HELD' }]);
    expect(workedAroundIn(m, start + 104, range.end)).toEqual([]);

    // No memory comes to an address that the host still backs for somebody.
    expect(m.addMemory(range, toNodeId(0))).toMatchObject({ ok: false, error: { reason: 'exists', errno: 'EEXIST' } });

    loud(removeDevice(m, 'old0'));
    expect([fixedAreas(m).areas(), areaTableOf(m).counts.workedAround, areaTableOf(m).at.size]).toEqual([[], 0, 0]);
    expect(m.addMemory(range, toNodeId(0)).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('FX17 what is dropped is had again elsewhere: at the end of the offline, or when asked', () => {
    const { m, monitor, area, clock } = withDevice();
    const f = fixedAreas(m);
    loud(m.offline(blockOf(area), { evictors: [driversEvictor({ deadlineMs: 100, clock, mode: 'drop' })] }));
    expect(f.areas()).toMatchObject([{ state: 'HELD', generation: 2, outcome: { kind: 'RELEASED' } }]);
    expect(f.counts()).toMatchObject({ released: 1, reacquired: 1 });
    runDevices(m, 10, monitor);
    sound(m, monitor);

    const [now] = f.areas();
    const range = extent(now?.segments[0]?.start ?? 0, now?.segments.at(-1)?.end ?? 0);
    expect(loud(f.relinquish(range, { deadlineMs: 100, clock, mode: 'drop' }))).toMatchObject({
      released: [1],
      moved: [],
    });
    expect(f.areas()).toMatchObject([{ state: 'RELEASED', segments: [], pages: 5 }]);
    sound(m, monitor);
    expect(loud(f.reacquire({ id: 1, generation: 2 })).handle).toEqual({ id: 1, generation: 3 });
    runDevices(m, 10, monitor);
    sound(m, monitor);
  });

  it('FX17 who cannot reacquire is not asked to drop; an undone offline has it again at the same place', () => {
    const { m, area, clock } = withDevice({ caps: ['relinquish', 'quiesce'] });
    const r = fixedAreas(m).relinquish(rangeOf(area), { deadlineMs: 9, clock, mode: 'drop' });
    expect(r).toMatchObject({ ok: false, error: { errno: 'EOPNOTSUPP' } });

    const w = withDevice();
    const work = w.m.beginOffline(blockOf(w.area), {
      evictors: [driversEvictor({ deadlineMs: 99, clock: w.clock, mode: 'drop' })],
    });
    while (work.stage !== 'migrate') work.step();
    work.step();
    expect(fixedAreas(w.m).areas()).toMatchObject([{ state: 'RELEASED' }]);
    work.cancel();
    expect(fixedAreas(w.m).areas()).toMatchObject([{ state: 'HELD', generation: 1, segments: w.area.segments }]);
    runDevices(w.m, 9, w.monitor);
    sound(w.m, w.monitor);
  });

  it('FX18 a range is relinquished once at a time, and callbacks get no frame of it', () => {
    const m = boot(2);
    const f = fixedAreas(m);
    const said: string[] = [];
    let got = -1;
    const slab = m.addHolder({ class: 'slab', name: 'driver data' });
    loud(
      f.register({
        name: 'greedy',
        abi: 1,
        caps: ['relinquish', 'quiesce'],
        maxQuiesceMs: 5,
        ops: {
          prepare() {
            const r = f.relinquish(WHOLE, { deadlineMs: 5 });
            said.push(r.ok ? 'ok' : r.error.errno);
            return 'yes';
          },
          quiesce() {
            got = m.alloc(slab, toOrder(0));
            return 'quiet';
          },
          move(_, area, to) {
            said.push(`${f.release(area.handle).ok}`);
            expect(to.segments.every((s) => s.start >= WHOLE.end)).toBe(true);
            return 'done';
          },
          resume: () => 'done',
        },
      }),
    );
    const area = loud(f.request('greedy', { bytes: 1, reason: 'one' }));
    expect(WHOLE.end).toBeGreaterThan(area.segments[0]?.end ?? Infinity);
    loud(f.relinquish(WHOLE, { deadlineMs: 5 }));
    expect(said).toEqual(['EALREADY', 'false']);
    expect(got).toBeGreaterThanOrEqual(WHOLE.end);
    expect(m.check()).toEqual([]);
  });

  it('FX18 an offline and a relinquish of the same frames are one too many', () => {
    const { m, area, clock, monitor } = withDevice();
    const evictors = [driversEvictor({ deadlineMs: 100, clock })];
    const work = m.beginOffline(blockOf(area), { evictors });
    while (work.stage !== 'migrate') work.step();
    expect(fixedAreas(m).relinquish(WHOLE, { deadlineMs: 5, clock })).toMatchObject({ error: { errno: 'EALREADY' } });
    while (!work.finished) work.step();
    expect(work.stage).toBe('done');
    sound(m, monitor);
  });

  it('FX18 an offline that a callback begins in the same range is refused; one that rolls the machine back is a bug', () => {
    const m = boot(2);
    const f = fixedAreas(m);
    const evictors = [driversEvictor({ deadlineMs: 5 })];
    let how: 'begin' | 'roll back' = 'begin';
    const said: unknown[] = [];
    const quiesce = (): 'quiet' => {
      if (how === 'roll back') m.offline(m.blockIds()[0], { evictors });
      else {
        const work = m.beginOffline(m.blockIds()[0], { evictors });
        while (!work.finished) work.step();
        said.push(work.refusal?.errno);
      }
      return 'quiet';
    };
    loud(
      f.register({
        name: 'deep',
        abi: 1,
        caps: ['relinquish', 'quiesce'],
        maxQuiesceMs: 5,
        ops: { quiesce, move: () => 'done', resume: () => 'done' },
      }),
    );
    const area = loud(f.request('deep', { bytes: 1, reason: 'one' }));
    loud(f.relinquish(rangeOf(area), { deadlineMs: 5 }));
    expect(said).toEqual(['EALREADY']);
    expect(m.check()).toEqual([]);
    how = 'roll back';
    const [now] = f.areas();
    expect(() =>
      f.relinquish(extent(now?.segments[0]?.start ?? 0, now?.segments[0]?.end ?? 0), { deadlineMs: 5 }),
    ).toThrow('a driver rolled the machine back');
  });

  it('FX19 asked, a driver chooses between moving and dropping', () => {
    const m = boot(2);
    const f = fixedAreas(m);
    const log: string[] = [];
    const said = (words: string): 'done' => {
      log.push(words);
      return 'done';
    };
    const register = (name: string, likes: 'move' | 'drop' | 'yes'): void =>
      void loud(
        f.register({
          name,
          abi: 1,
          caps: ['relinquish', 'quiesce', 'reacquire'],
          maxQuiesceMs: 5,
          ops: {
            prepare: (_m, _a, mode) => (mode === 'ask' ? likes : 'yes'),
            quiesce: () => 'quiet',
            move: () => said(`${name} moves`),
            drop: () => said(`${name} drops`),
            reacquire: () => 'done',
            resume: () => 'done',
          },
        }),
      );
    for (const likes of ['move', 'drop', 'yes'] as const) {
      register(`a-${likes}`, likes);
      loud(f.request(`a-${likes}`, { bytes: 1, reason: 'one' }));
    }
    expect(loud(f.relinquish(WHOLE, { deadlineMs: 5, mode: 'ask' }))).toEqual({
      moved: [1, 3],
      released: [2],
      workedAround: [],
    });
    expect(log).toEqual(['a-move moves', 'a-yes moves', 'a-drop drops']);
    expect(m.check()).toEqual([]);
  });

  it('FX23 a way back whose frames were taken leaves the area where its rule allowed it', () => {
    const { m, area, clock, monitor } = withDevice();
    const work = m.beginOffline(blockOf(area), { evictors: [driversEvictor({ deadlineMs: 100, clock })] });
    while (work.stage !== 'migrate') work.step();
    work.step();
    // Nobody is given a frame of an isolated pageblock; a memory failure takes one all the same.
    const { start } = rangeOf(area);
    const index = m.sections.indexOf(start);
    takeFreeFrames(m.poolAt(index) as Pool, index, index + 1);
    m.place(m.addHolder({ class: 'poisoned', name: 'thief' }), start, toPfn(start + 1));
    work.cancel();
    expect(fixedAreas(m).areas()).toMatchObject([{ state: 'HELD', generation: 2 }]);
    expect(m.frame(start)).toMatchObject({ name: 'thief' });
    runDevices(m, 9, monitor);
    expect([monitor.violations, auditDevices(m)]).toEqual([[], []]);
  });
});

it('FX6 areas on a machine with a zone for low memory stay below their limit when they move', () => {
  const end = 6 * PAGES_PER_SECTION;
  const m = Machine.boot({
    ram: [
      { start: toPfn(0), end: toPfn(end), node: toNodeId(0) },
      { start: toPfn(BASE), end: toPfn(BASE + end), node: toNodeId(0) },
    ],
    contents: 'bytes',
    code: 'shared',
  });
  const monitor = new DmaMonitor();
  addDevice(m, { name: 'nic0' });
  const rule = { addrMax: { bits: 29 } };
  const area = loud(addBuffer(m, 'nic0', { bytes: 8 * PAGE_SIZE, rule, reason: 'ring' }));
  expect(rangeOf(area).end).toBeLessThanOrEqual(2 ** 17);
  loud(fixedAreas(m).relinquish(rangeOf(area), { deadlineMs: 100, clock: deviceClock(monitor) }));
  expect(fixedAreas(m).areas()[0]?.segments).not.toEqual(area.segments);
  expect(
    fixedAreas(m)
      .areas()[0]
      ?.segments.every((s) => s.end <= 2 ** 17),
  ).toBe(true);
  sound(m, monitor);
});
