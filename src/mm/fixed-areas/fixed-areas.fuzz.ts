// Fixed areas by chance: crowds of devices that write all the time, blocks that leave, steps that fail. What must hold whatever
// happens: E1 no write to frames that were given up, E2 as many buffers as before, E3 everything ends, E4 each refusal has a reason.
//
// DIMMER_SEEDS=1000 npx vitest run src/mm/fixed-areas/fixed-areas.fuzz.ts     the whole run of faults; the ordinary one is a part

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toBlockId, toOrder, toPfn } from '#base/units';
import { takeFreeFrames } from '../free-frames.ts';
import { PAGE_SIZE, PAGES_PER_SECTION } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import type { Pool } from '../pool.ts';
import { extent } from '../pools/dma-extent.ts';
import type { DmaRule } from '../pools/dma-rule.ts';
import { areaTableOf } from './area-table.ts';
import {
  addBuffer,
  addDevice,
  auditDevices,
  bufferPages,
  DEVICE_MANNERS,
  type DeviceManner,
  DmaMonitor,
  deviceClock,
  removeDevice,
  runDevices,
} from './device-model.ts';
import type { DriverCap, RelinquishMode } from './driver.ts';
import { driversEvictor } from './evictor.ts';
import { BASE, boot, loud, sound } from './fixed-areas.cases.ts';
import { fixedAreas } from './fixed-areas.ts';
import { type AreaClock, DRIVER_FAULT_POINTS } from './relinquish.ts';

const FAULT_SEEDS = Number(process.env.DIMMER_SEEDS ?? 200);

/** The devices' clock, and what was waited in all: the machine's own time is rolled back with it. */
function counted(monitor: DmaMonitor): { clock: AreaClock; waited: () => number } {
  const inner = deviceClock(monitor);
  let sum = 0;
  return {
    clock: {
      now: inner.now,
      pause(m, ms) {
        sum += ms;
        // Nobody is kept quiet for longer than it promised, and the deadline.
        const t = areaTableOf(m);
        const most = Math.max(0, ...[...t.sessions.values()].map((s) => s.deadlineMs));
        for (const a of t.areas.values()) {
          if (a.state !== 'QUIESCING') continue;
          const since = inner.now(m) - a.quiescingSince;
          expect(since).toBeLessThanOrEqual((t.drivers.get(a.driver)?.maxQuiesceMs ?? 0) + most);
        }
        inner.pause(m, ms);
      },
    },
    waited: () => sum,
  };
}

describe('a crowd of drivers', () => {
  it('FX25 200 of them, 5 % refuse, 5 % hang, 5 % die: every block is tried, ends in time, and nothing is lost', () => {
    const seed = 20051101;
    const rng = new Prng(seed);
    const blocks = 40;
    const m = boot(blocks);
    const monitor = new DmaMonitor();
    const { clock, waited } = counted(monitor);
    const f = fixedAreas(m);
    const manner = (k: number): DeviceManner =>
      k % 20 === 3
        ? 'refuses'
        : k % 20 === 9
          ? 'hangs'
          : k % 20 === 15
            ? k % 40 === 15
              ? 'crashes'
              : 'throws'
            : 'good';
    // Buffers anywhere, as after a long life: each driver had some when it registered.
    for (let k = 0; k < 200; k++) {
      const holder = m.addHolder({ class: 'driver', name: `dev${k}` });
      for (let b = rng.below(2); b >= 0; b--) {
        const order = rng.below(4);
        const start = BASE + ((rng.below(blocks * PAGES_PER_SECTION) >>> 3) << 3);
        const index = m.sections.indexOf(toPfn(start));
        if (m.sections.metaAt(index) !== 0) continue;
        takeFreeFrames(m.zones.find((z) => z.managed > 0) as Pool, index, index + 2 ** order);
        m.place(holder, toPfn(start), toPfn(start + 2 ** order));
      }
      addDevice(
        m,
        { name: `dev${k}`, manner: manner(k), drainMs: rng.below(4), maxQuiesceMs: 5 + rng.below(10) },
        holder,
      );
    }
    expect(f.areas().length).toBeGreaterThan(280);
    runDevices(m, 10, monitor);
    const pages = f.drivers().map((d) => bufferPages(m, d.name));
    const deadlineMs = 150;
    let gone = 0;
    for (let b = blocks - 1; b >= 0; b--) {
      const start = BASE + b * PAGES_PER_SECTION;
      const bad = f
        .areas()
        .some(
          (a) =>
            manner(Number(a.driver.slice(3))) !== 'good' &&
            (a.segments[0]?.start ?? 0) >= start &&
            (a.segments[0]?.start ?? 0) < start + PAGES_PER_SECTION,
        );
      const before = waited();
      const r = m.offline(toBlockId(start / PAGES_PER_SECTION), { evictors: [driversEvictor({ deadlineMs, clock })] });
      expect(waited() - before, `seed=${seed} block ${b}`).toBeLessThanOrEqual(deadlineMs);
      expect(r.ok, `seed=${seed} block ${b}: ${r.ok ? '' : r.error.message}`).toBe(!bad);
      if (!r.ok) expect(r.error.blockers.every((x) => x.name.startsWith('dev'))).toBe(true);
      if (r.ok) gone++;
      runDevices(m, 3, monitor);
      expect(monitor.violations, `seed=${seed} block ${b}`).toEqual([]);
      expect(
        f.drivers().map((d) => bufferPages(m, d.name)),
        `seed=${seed} block ${b}`,
      ).toEqual(pages);
    }
    expect(gone).toBeGreaterThan(5);
    expect(monitor.writes).toBeGreaterThan(20_000);
    sound(m, monitor, `seed=${seed}`);
    // Progress: without those that do not cooperate nearly all of it can go.
    for (let k = 0; k < 200; k++) if (manner(k) !== 'good') loud(removeDevice(m, `dev${k}`));
    let left = 0;
    for (let b = blocks - 1; b >= 2; b--) {
      const id = toBlockId(BASE / PAGES_PER_SECTION + b);
      if (m.block(id)?.state !== 'online') continue;
      left++;
      loud(m.offline(id, { evictors: [driversEvictor({ deadlineMs: 1000, clock })] }));
    }
    expect(left).toBeGreaterThan(5);
    expect(m.check()).toEqual([]);
    expect(monitor.violations).toEqual([]);
  });
});

const CAPS: readonly (readonly DriverCap[])[] = [
  ['relinquish', 'reacquire', 'quiesce'],
  ['relinquish', 'quiesce'],
  ['relinquish', 'dmaFault'],
  ['relinquish', 'quiesce', 'hostRemap'],
  ['hostRemap'],
  [],
];

const RULES: readonly DmaRule[] = [
  {},
  { contiguous: true },
  { align: 65536 },
  { boundary: 65536 },
  { addrMax: { bits: 33 } },
];

/** One world: a few devices, and a dozen things that happen to it while steps fail. */
function run(seed: number): { m: Machine; monitor: DmaMonitor; failed: Set<string>; refusals: number } {
  const rng = new Prng(seed);
  const m = boot(3, rng.chance(0.5) ? 'bytes' : 'tag');
  const monitor = new DmaMonitor();
  const { clock, waited } = counted(monitor);
  const f = fixedAreas(m);
  loud(f.markNonRemovable(extent(BASE, BASE + 512)));
  const failed = new Set<string>();
  // Swarm: one point that fails often and all others never, or some of them now and then.
  const one = rng.chance(0.4) ? rng.pick(DRIVER_FAULT_POINTS) : undefined;
  const odds = new Map<string, number>(
    DRIVER_FAULT_POINTS.map((p) => [p, one === undefined ? rng.pick([0, 0.05, 0.2]) : p === one ? 0.5 : 0]),
  );
  m.faultAt = (point) => {
    if (!rng.chance(odds.get(point) ?? 0)) return false;
    failed.add(point);
    return true;
  };
  const asked = 3 + rng.below(5);
  // Only who drops can be had again: a world that is about these two points has such drivers.
  const drops = one === 'drivers.release' || one === 'drivers.reacquire';
  const badness = drops ? 0 : rng.pick([0, 0, 0.1, 0.4]);
  const able = drops || rng.chance(0.4); // all of them can do all that is asked of drivers
  for (let k = 0; k < asked; k++) {
    const manner = rng.chance(badness) ? rng.pick(DEVICE_MANNERS) : 'good';
    addDevice(m, {
      name: `dev${k}`,
      manner,
      caps: able ? CAPS[0] : rng.pick(CAPS),
      drainMs: rng.below(5),
      maxQuiesceMs: rng.below(8),
    });
    for (let b = rng.below(3); b >= 0; b--) {
      const reacquireRule = rng.chance(0.3) ? { reacquireRule: rng.pick(RULES) } : {};
      addBuffer(m, `dev${k}`, {
        bytes: (1 + rng.below(40)) * PAGE_SIZE,
        rule: rng.pick(RULES),
        reason: `ring ${b}`,
        ...reacquireRule,
      });
    }
  }
  const pagesOf = (): number[] => f.drivers().map((d) => bufferPages(m, d.name));
  const other = m.addHolder({ class: 'anonymous', name: 'program' });
  let refusals = 0;
  for (let n = 0; n < 10; n++) {
    runDevices(m, rng.below(6), monitor);
    const why = `seed=${seed} step ${n}`;
    const mode: RelinquishMode = rng.pick(able ? ['move', 'drop', 'drop', 'ask'] : ['move', 'move', 'drop', 'ask']);
    const deadlineMs = rng.below(80);
    const pages = pagesOf();
    const before = waited();
    // Where something is at stake, nearly always: areas lie close together.
    const held = f.areas().filter((a) => a.segments.length > 0);
    const at: number =
      held.length > 0 && rng.chance(0.9)
        ? (rng.pick(held).segments[0]?.start ?? BASE)
        : BASE + rng.below(3 * PAGES_PER_SECTION);
    const block = toBlockId(Math.floor(at / PAGES_PER_SECTION));
    const released = f.areas().some((a) => a.state === 'RELEASED');
    const what = released && rng.chance(0.5) ? 4 : rng.below(6);
    if (what <= 1) {
      const range = extent(at - rng.below(8), at + 1 + rng.below(rng.pick([1, 100, PAGES_PER_SECTION])));
      const r = f.relinquish(range, { deadlineMs, clock, mode });
      if (!r.ok) {
        refusals++;
        expect(r.error.message, why).not.toBe('');
        expect(pagesOf(), why).toEqual(pages); // E2
      }
    } else if (what <= 3) {
      const state = m.block(block)?.state;
      if (state === 'offline') m.online(block, 'online');
      else if (m.blockIds().filter((b) => m.block(b)?.state === 'online').length > 1) {
        const evictors = [driversEvictor({ deadlineMs, clock, mode })];
        if (rng.chance(0.5)) {
          const r = m.offline(block, { evictors });
          if (!r.ok) {
            refusals++;
            expect(pagesOf(), why).toEqual(pages);
            expect(
              r.error.blockers.every((b) => b.name !== ''),
              why,
            ).toBe(true); // E4
          }
        } else {
          // In steps, with others at work in between; given up in the middle now and then.
          const work = m.beginOffline(block, { evictors });
          while (!work.finished) {
            work.step();
            if (rng.chance(0.1)) runDevices(m, rng.below(20), monitor);
            if (rng.chance(0.1)) f.expire(clock.now(m));
            if (rng.chance(0.02)) m.alloc(other, toOrder(rng.below(4)));
            if (rng.chance(0.01) && !work.finished) work.cancel();
          }
          if (work.refusal !== undefined) {
            refusals++;
            expect(pagesOf(), why).toEqual(pages);
          }
        }
      }
    } else if (what === 4) {
      for (const a of f.areas()) if (a.state === 'RELEASED') f.reacquire({ id: a.id, generation: a.generation });
    } else {
      const fork = m.fork();
      for (const a of f.areas()) f.home({ id: a.id, generation: a.generation });
      expect(fork.check(1), why).toEqual([]);
    }
    expect(waited() - before, why).toBeLessThanOrEqual(deadlineMs + 8); // E3
    expect(monitor.violations, why).toEqual([]); // E1
    expect(areaTableOf(m).sessions.size, why).toBe(0);
    expect(
      f.areas().every((a) => a.state !== 'QUIESCING'),
      why,
    ).toBe(true);
    expect(auditDevices(m), why).toEqual([]);
    for (const a of f.areas()) {
      if (a.outcome?.kind !== 'REFUSED' && a.outcome?.kind !== 'TIMEOUT') continue;
      expect(
        f.refused().some((r) => r.area === a.id && r.why !== ''),
        why,
      ).toBe(true); // E4
    }
  }
  expect(m.check(), `seed=${seed}`).toEqual([]);
  return { m, monitor, failed, refusals };
}

describe('steps that fail', () => {
  it(`FX26 whichever step fails, nothing is lost and everything ends (${FAULT_SEEDS} seeds)`, () => {
    const failed = new Map<string, number>();
    let refusals = 0;
    let writes = 0;
    for (let seed = 1; seed <= FAULT_SEEDS; seed++) {
      const r = run(seed);
      for (const p of r.failed) failed.set(p, (failed.get(p) ?? 0) + 1);
      refusals += r.refusals;
      writes += r.monitor.writes;
    }
    if (FAULT_SEEDS < 100) return; // a replay of some
    for (const p of DRIVER_FAULT_POINTS) expect(failed.get(p) ?? 0, p).toBeGreaterThan(FAULT_SEEDS / 40); // worlds that met it
    expect(refusals).toBeGreaterThan(FAULT_SEEDS);
    expect(writes).toBeGreaterThan(100 * FAULT_SEEDS);
  });
});
