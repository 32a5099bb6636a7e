// A DIMM goes as a whole or stays as it was. Rules: docs/spec/dimm-offline.md.

import { describe, expect, it } from 'vitest';
import { err, ok } from '#base/result';
import { type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { DIMM_FAULT_POINTS, DimmWork, type RemoveDimmOptions, removeDimm } from './dimm-offline.ts';
import type { MachineEvent } from './events.ts';
import type { Evictor } from './evictor.ts';
import type { DriverOps, FixedArea } from './fixed-areas/driver.ts';
import { driversEvictor } from './fixed-areas/evictor.ts';
import { fixedAreas } from './fixed-areas/fixed-areas.ts';
import { MIGRATE_ISOLATE, PAGE_SIZE, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import { remapEvictor } from './kremap/evictor.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { ejectDimm, plugDimm } from './memory-device.ts';
import { refusal } from './refusal.ts';

const node0 = toNodeId(0);
const section = (n: number): Pfn => toPfn(n * PAGES_PER_SECTION);
const DIMM = { start: section(32), end: section(36) };
const IDS = [32, 33, 34, 35].map(toBlockId);

/** 512 MiB at boot, and a DIMM of 512 MiB whose blocks are online by these words. */
function world(words: readonly ('kernel' | 'movable' | 'offline')[], spec: Partial<MachineSpec> = {}): Machine {
  const m = Machine.boot({
    ram: [{ start: section(0), end: section(4), node: node0 }],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    hotplug: { autoOnline: 'offline', memmapOnMemory: 'N' },
    ...spec,
  });
  const added = plugDimm(m, DIMM, node0);
  if (!added.ok) throw new Error(added.error.message);
  for (const [k, word] of words.entries()) if (word !== 'offline') expect(m.online(IDS[k], word).ok).toBe(true);
  return m;
}

/** Takes 2^order frames in a block: others are held meanwhile. */
function takeIn(m: Machine, cls: 'anonymous' | 'slab' | 'vmalloc' | 'file', block: number, order = 0): Pfn {
  const holder = m.addHolder({ class: cls, name: `${cls} in ${block}` });
  const others: Pfn[] = [];
  const filler = m.addHolder({ class: cls, name: 'elsewhere' });
  for (;;) {
    const pfn = m.alloc(filler, toOrder(10));
    if (pfn < 0) throw new Error('the block was never reached');
    others.push(toPfn(pfn));
    if (Math.floor(pfn / PAGES_PER_SECTION) === block) break;
  }
  m.free(others.pop() as Pfn);
  let got = m.alloc(filler, toOrder(order));
  for (; Math.floor(got / PAGES_PER_SECTION) !== block; got = m.alloc(filler, toOrder(order))) others.push(toPfn(got));
  m.free(toPfn(got));
  got = m.alloc(holder, toOrder(order));
  for (const pfn of others) m.free(pfn);
  expect(Math.floor(got / PAGES_PER_SECTION)).toBe(block);
  return toPfn(got);
}

const zones = (m: Machine): (string | undefined)[] => IDS.map((id) => m.block(id)?.pool?.name);
const states = (m: Machine): (string | undefined)[] => IDS.map((id) => m.block(id)?.state);
const typesOf = (m: Machine): number[] =>
  IDS.flatMap((id) => {
    const out: number[] = [];
    for (let pfn = id * PAGES_PER_SECTION; pfn < (id + 1) * PAGES_PER_SECTION; pfn += PAGEBLOCK_PAGES) {
      const index = m.sections.indexOf(toPfn(pfn));
      const pool = index < 0 ? undefined : m.poolAt(index);
      out.push(pool === undefined ? -1 : pool.alloc.area.typeOf(index - pool.base));
    }
    return out;
  });

const run = (w: DimmWork): DimmWork => {
  while (!w.finished) w.step();
  return w;
};

describe('a DIMM leaves, or stays as it was', () => {
  it('DM1 every block goes offline and the memory with it; the report says who moved what', () => {
    const m = world(['kernel', 'movable', 'kernel', 'offline']);
    const heap = takeIn(m, 'anonymous', 33, 3);
    takeIn(m, 'vmalloc', 34, 2);
    const free = m.fork();
    const r = removeDimm(m, DIMM, { evictors: [remapEvictor(), memmapEvictor()] });
    expect(r).toMatchObject({
      ok: true,
      value: {
        moved: { migration: 8, remap: 4 },
        blocks: [
          { block: 32, zone: 'Normal', moved: {} },
          { block: 33, zone: 'Movable', moved: { migration: 8 } },
          { block: 34, zone: 'Normal', moved: { remap: 4 } },
          { block: 35, zone: 'offline', steps: 0 },
        ],
        removed: [{ blocks: 4 }],
        dryRun: false,
      },
    });
    expect(m.blockIds()).not.toContain(IDS[0]);
    expect(m.frame(heap).state).toBe('absent');
    expect(m.check()).toEqual([]);
    // The other way, by hand, comes to the same machine.
    for (const id of [32, 33, 34]) {
      expect(free.offline(toBlockId(id), { evictors: [remapEvictor(), memmapEvictor()] }).ok).toBe(true);
    }
    expect(free.removeMemory(DIMM).ok).toBe(true);
    expect(m.zones.map((z) => [z.managed, z.present, z.spanned])).toEqual(
      free.zones.map((z) => [z.managed, z.present, z.spanned]),
    );
  });

  it('DM2 one that cannot go keeps the whole: each block in its state and zone, the machine as it was', () => {
    const m = world(['kernel', 'movable', 'movable', 'offline']);
    const page = takeIn(m, 'anonymous', 34);
    m.pin(page);
    const digest = m.digest();
    const events: MachineEvent[] = [];
    m.onEvent = (e) => events.push(e);
    const r = removeDimm(m, DIMM);
    expect(r).toMatchObject({ ok: false, error: { reason: 'stuck', errno: 'EINTR' } });
    if (!r.ok) expect(r.error.blockers).toMatchObject([{ startPfn: page, cause: 'pinned', name: 'anonymous in 34' }]);
    expect(zones(m)).toEqual(['Normal', 'Movable', 'Movable', undefined]);
    expect(states(m)).toEqual(['online', 'online', 'online', 'offline']);
    expect(m.digest()).toBe(digest);
    const cancelled = events.filter((e) => e.type === 'cancel-offline');
    expect(cancelled.map((e) => [e.block, e.refusal.reason])).toEqual([
      [34, 'stuck'],
      [33, 'interrupted'],
      [32, 'interrupted'],
    ]);
    expect(events.some((e) => e.type === 'offline' || e.type === 'online')).toBe(false);
    m.unpin(page);
    expect(removeDimm(m, DIMM).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('DM3 golden t1: Movable blocks and one that stays; strict keeps them Movable, Linux brings them back as Normal', () => {
    const build = (): Machine => {
      const m = world(['kernel', 'movable', 'movable', 'movable']);
      takeIn(m, 'slab', 32);
      return m;
    };
    const strict = build();
    expect(removeDimm(strict, DIMM, { compat: 'strict' })).toMatchObject({ error: { reason: 'unmovable' } });
    expect(zones(strict)).toEqual(['Normal', 'Movable', 'Movable', 'Movable']);
    const linux = build();
    const r = removeDimm(linux, DIMM, { compat: 'linux' });
    expect(r).toMatchObject({ error: { reason: 'unmovable', errno: 'EBUSY' } });
    if (!r.ok)
      expect(r.error.blocks.map((b) => [b.block, b.refusal?.reason])).toEqual([
        [32, 'unmovable'],
        [33, undefined],
        [34, undefined],
        [35, undefined],
      ]);
    expect(zones(linux)).toEqual(['Normal', 'Normal', 'Normal', 'Normal']);
    const eject = build();
    ejectDimm(eject, DIMM);
    expect(linux.digest()).toBe(eject.digest());
    for (const m of [strict, linux, eject]) expect(m.check()).toEqual([]);
  });

  it('DM4 a dry run touches nothing, and foretells what happens, with every blocker of every block', () => {
    const m = world(['kernel', 'movable', 'kernel', 'movable']);
    const slab = takeIn(m, 'slab', 32);
    const slab2 = takeIn(m, 'slab', 34);
    const pinned = takeIn(m, 'anonymous', 35);
    m.pin(pinned);
    const digest = m.digest();
    const seq = m.seq;
    const all = removeDimm(m, DIMM, { dryRun: true });
    expect(all.ok).toBe(false);
    if (!all.ok) {
      expect(all.error.blockers.map((b) => b.startPfn)).toEqual([slab, slab2, pinned]);
      expect(all.error.blocks.map((b) => b.refusal?.reason)).toEqual(['unmovable', undefined, 'unmovable', 'stuck']);
      expect(all.error.message).toContain('2 more of its blocks refuse');
    }
    const first = removeDimm(m, DIMM, { dryRun: true, all: false });
    if (!first.ok) expect(first.error.blockers.map((b) => b.startPfn)).toEqual([slab]);
    m.unpin(pinned);
    const would = removeDimm(m, DIMM, { dryRun: true, evictors: [remapEvictor()] });
    expect(would).toMatchObject({ ok: true, value: { dryRun: true, moved: { remap: 2, migration: 1 } } });
    expect(m.seq).toBe(seq);
    m.pin(pinned);
    expect(m.digest()).toBe(digest);
    m.unpin(pinned);
    const did = removeDimm(m, DIMM, { evictors: [remapEvictor()] });
    expect(did).toMatchObject({ ok: true, value: { dryRun: false, moved: { remap: 2, migration: 1 } } });
    expect(m.check()).toEqual([]);
  });

  it('DM5 the outcome does not depend on the order of the blocks', () => {
    for (const pinned of [true, false]) {
      const told = (['worst-first', 'ascending', 'descending'] as const).map((order) => {
        const m = world(['movable', 'movable', 'movable', 'movable']);
        for (const block of [32, 33, 34, 35]) takeIn(m, 'anonymous', block, 5);
        for (const block of [33, 35]) if (pinned) m.pin(takeIn(m, 'file', block));
        const r = removeDimm(m, DIMM, { order, all: true });
        expect(m.check()).toEqual([]);
        return r.ok ? r.value.moved : [r.error.reason, r.error.blockers, r.error.blocks.map((b) => b.refusal?.reason)];
      });
      expect(told[1]).toEqual(told[0]);
      expect(told[2]).toEqual(told[0]);
    }
  });

  it('DM6 worst first: where one block has a pinned page, no other was emptied in vain', () => {
    const m = world(['movable', 'movable', 'movable', 'movable']);
    for (const block of [32, 33, 34]) takeIn(m, 'anonymous', block, 5);
    m.pin(takeIn(m, 'file', 35));
    const moved = (order: 'worst-first' | 'ascending'): number => {
      const w = run(new DimmWork(m.fork(), DIMM, { order }));
      return w.refusal?.blocks.reduce((n, b) => n + (b.moved.migration ?? 0), 0) ?? -1;
    };
    expect(moved('worst-first')).toBe(0);
    expect(moved('ascending')).toBe(96);
    expect(m.check()).toEqual([]);
  });
});

describe('in steps', () => {
  it('DM7 nothing of the DIMM is handed out between isolation and the end, and it still goes', () => {
    const m = world(['kernel', 'movable', 'movable', 'kernel']);
    takeIn(m, 'anonymous', 33, 6);
    const process = m.addHolder({ class: 'anonymous', name: 'shell' });
    const kernel = m.addHolder({ class: 'slab', name: 'dentry' });
    const w = new DimmWork(m, DIMM, { offline: { batch: 1 } });
    let isolated = 0;
    const mine: Pfn[] = [];
    while (!w.finished) {
      w.step();
      if (w.stage !== 'prepare' && w.stage !== 'empty' && w.stage !== 'commit') continue;
      isolated++;
      for (const h of [process, kernel]) {
        const pfn = m.alloc(h, toOrder(0));
        if (pfn < 0) continue;
        expect(pfn < DIMM.start || pfn >= DIMM.end).toBe(true);
        mine.push(toPfn(pfn));
      }
      if (isolated % 3 === 0 && mine.length > 0) m.free(mine.shift() as Pfn);
      expect(typesOf(m).every((t) => t === MIGRATE_ISOLATE)).toBe(true);
    }
    expect(isolated).toBeGreaterThan(5);
    expect(w.stage).toBe('done');
    expect(m.check()).toEqual([]);
  });

  it('DM8 a work that is cancelled at any step gives every block back: state, zone, types, per-CPU lists', () => {
    for (const compat of ['strict', 'linux'] as const) {
      const m = world(['kernel', 'movable', 'kernel', 'offline'], { compat });
      takeIn(m, 'anonymous', 33, 4);
      const slab = takeIn(m, 'slab', 34); // makes its pageblock Unmovable
      m.free(slab);
      const types = typesOf(m);
      expect(types).toContain(0);
      const length = run(new DimmWork(m.fork(), DIMM)).steps;
      for (let at = 0; at < length; at += at > 20 && at < length - 20 ? 7 : 1) {
        const f = m.fork();
        const w = new DimmWork(f, DIMM);
        for (let k = 0; k < at; k++) w.step();
        w.cancel();
        expect(w.refusal?.reason).toBe('interrupted');
        expect([zones(f), states(f)]).toEqual([zones(m), states(m)]);
        expect(typesOf(f)).toEqual(types);
        expect(f.offlinesUnderWay).toBe(0);
        if (at % 21 === 0) expect(f.check()).toEqual([]);
      }
      expect(m.check()).toEqual([]);
    }
  });

  it('DM9 a second one, or one beside an offline, is refused; an offline that began meanwhile is waited for', () => {
    const m = world(['kernel', 'movable', 'movable', 'movable']);
    const other = m.beginOffline(toBlockId(2));
    other.step();
    expect(removeDimm(m, DIMM)).toMatchObject({ error: { reason: 'busy', errno: 'EBUSY' } });
    other.cancel();
    const w = new DimmWork(m, DIMM);
    while (w.stage !== 'commit') w.step();
    expect(run(new DimmWork(m, DIMM)).refusal).toMatchObject({ reason: 'busy' });
    const late = m.beginOffline(toBlockId(2));
    late.step();
    for (let k = 0; k < 3; k++) expect(w.step()).toBe('commit');
    late.cancel();
    expect(w.step()).toBe('done');
    expect(m.check()).toEqual([]);
  });
});

describe('who is asked', () => {
  /** An evictor that takes nothing, and writes down what it is asked. */
  const scribe = (log: string[], no?: number): Evictor => ({
    name: 'scribe',
    claims: () => undefined,
    prepare: (m, range) => {
      const block = Math.floor(m.sections.pfnOf(range.start) / PAGES_PER_SECTION); // behind its own memmap
      log.push(`prepare ${block}`);
      if (block === no) return err(refusal('relinquish', 'not mine'));
      return ok(() => log.push(`undo ${block}`));
    },
    evict: () => 'fault',
    commit: (m, range) => log.push(`commit ${Math.floor(m.sections.pfnOf(range.start) / PAGES_PER_SECTION)}`),
  });

  it('DM10 every driver is asked before the first page moves; a veto costs nothing and undoes the others, the last first', () => {
    const m = world(['movable', 'movable', 'movable', 'movable']);
    takeIn(m, 'anonymous', 32, 4);
    const log: string[] = [];
    const r = removeDimm(m, DIMM, { evictors: [scribe(log, 34)] });
    expect(r).toMatchObject({ error: { reason: 'relinquish', errno: 'EBUSY' } });
    expect(log).toEqual(['prepare 32', 'prepare 33', 'prepare 34', 'undo 33', 'undo 32']);
    if (!r.ok) expect(r.error.blocks.every((b) => Object.keys(b.moved).length === 0)).toBe(true);
    log.length = 0;
    expect(removeDimm(m, DIMM, { evictors: [scribe(log)] }).ok).toBe(true);
    expect(log.slice(4)).toEqual(['commit 32', 'commit 33', 'commit 34', 'commit 35']);
    expect(m.check()).toEqual([]);
  });

  it('DM11 what the physical half would refuse is found before anything is final', () => {
    const m = world(['kernel', 'kernel', 'movable', 'movable'], {
      hotplug: { autoOnline: 'offline', memmapOnMemory: 'Y' },
    });
    const more = { start: section(36), end: section(37) };
    expect(m.addMemory(more, node0, { memmap: 'kernel' }).ok).toBe(true);
    expect(m.online(toBlockId(36), 'movable').ok).toBe(true);
    const log: string[] = [];
    const digest = m.digest();
    // Blocks that host their memmap beside one that does not: Linux removes such memory apart only.
    const across = { start: section(35), end: section(37) };
    const r = removeDimm(m, across, { evictors: [scribe(log)] });
    expect(r).toMatchObject({ ok: false, error: { reason: 'bad-request', errno: 'EINVAL' } });
    expect(log).toEqual(['prepare 35', 'prepare 36', 'undo 36', 'undo 35']);
    expect(m.digest()).toBe(digest);
    expect(removeDimm(m, across, { keep: true }).ok).toBe(true);
    for (const range of [more, DIMM]) expect(removeDimm(m, range).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('DM14 struct pages that lie in the DIMM and describe it leave with it; those of other memory move first', () => {
    const m = Machine.boot({
      ram: [{ start: section(0), end: section(4), node: node0 }],
      blockSize: 2 ** 27,
      watermarks: 'none',
      code: 'shared',
      hotplug: { autoOnline: 'online_movable', memmapOnMemory: 'Y' },
    });
    const before = m.fork();
    expect(m.addMemory(DIMM, node0, { memmap: 'self-range' }).ok).toBe(true); // its first block describes all of it
    expect(m.fork().offline(IDS[0])).toMatchObject({ error: { reason: 'hosts' } });
    expect(removeDimm(m, { start: DIMM.start, end: section(33) })).toMatchObject({ error: { reason: 'hosts' } });
    expect(removeDimm(m.fork(), DIMM)).toMatchObject({ ok: true, value: { moved: {} } });
    expect(removeDimm(m.fork(), DIMM, { evictors: [memmapEvictor()] })).toMatchObject({
      ok: true,
      value: { moved: {} },
    });
    const work = run(new DimmWork(m, DIMM));
    expect([work.stage, m.blockIds().length]).toEqual(['done', before.blockIds().length]);
    expect(m.check()).toEqual([]);
  });

  it('DM15 a fixed area that lies in several blocks leaves once; refused later, it is back at its very frames', () => {
    const m = world(['kernel', 'kernel', 'movable', 'movable']);
    const f = fixedAreas(m);
    const moves: string[] = [];
    const at = (a: FixedArea): string => a.segments.map((s) => s.start / PAGES_PER_SECTION).join();
    const ops: DriverOps = {
      quiesce: () => 'quiet',
      move: (_, from, to) => {
        moves.push(`${at(from)} to ${at(to)}`);
        return 'done';
      },
      resume: () => 'done',
    };
    const caps = ['relinquish', 'quiesce'] as const;
    expect(f.register({ name: 'nic', abi: 1, caps, maxQuiesceMs: 5, ops }).ok).toBe(true);
    // It is asked for while boot memory is full.
    const held: Pfn[] = [];
    const filler = m.addHolder({ class: 'slab', name: 'filler' });
    for (let pfn = m.alloc(filler, toOrder(10)); pfn >= 0; pfn = m.alloc(filler, toOrder(10))) held.push(toPfn(pfn));
    for (const pfn of held) if (pfn >= DIMM.start) m.free(pfn);
    const bytes = 1.5 * PAGES_PER_SECTION * PAGE_SIZE;
    const got = f.request('nic', { bytes, rule: { contiguous: true }, reason: 'ring', reacquireRule: {} });
    if (!got.ok) throw new Error(got.error.message);
    expect(got.value.segments.map((s) => [s.start, s.end])).toEqual([[section(32.5), section(34)]]);
    for (const pfn of held) if (pfn < DIMM.start) m.free(pfn);
    const pinned = takeIn(m, 'anonymous', 34);
    m.pin(pinned);
    const evictors = [driversEvictor({ deadlineMs: 100 })];
    const digest = m.digest();
    const order = 'ascending' as const; // the pinned page is found last
    expect(removeDimm(m, DIMM, { evictors, order })).toMatchObject({ error: { reason: 'stuck' } });
    expect(moves.length).toBe(2);
    expect(moves[1]?.split(' to ').reverse().join(' to ')).toBe(moves[0]);
    expect(f.areas()[0]?.segments).toEqual(got.value.segments);
    expect(m.digest()).toBe(digest);
    m.unpin(pinned);
    const r = removeDimm(m, DIMM, { evictors });
    expect(r).toMatchObject({ ok: true, value: { moved: { drivers: 1.5 * PAGES_PER_SECTION, migration: 1 } } });
    expect(f.areas()[0]?.segments.every((x) => x.end <= section(4))).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('DM12 kept memory goes offline only; ranges that are none are refused', () => {
    const m = world(['movable', 'movable', 'movable', 'movable']);
    expect(removeDimm(m, DIMM, { keep: true })).toMatchObject({ ok: true, value: { removed: [] } });
    expect(states(m)).toEqual(['offline', 'offline', 'offline', 'offline']);
    expect(removeDimm(m, DIMM)).toMatchObject({ ok: true, value: { removed: [{ blocks: 4 }] } });
    expect(m.hotplug.groups.get(0)).toBeUndefined();
    for (const compat of ['strict', 'linux'] as const) {
      const o: RemoveDimmOptions = { compat };
      expect(removeDimm(m, DIMM, o)).toMatchObject({ error: { reason: 'no-such-memory', errno: 'ENOENT' } });
      const odd = { start: DIMM.start, end: toPfn(DIMM.start + 512) };
      expect(removeDimm(m, odd, o)).toMatchObject({ error: { reason: 'unaligned', errno: 'EINVAL' } });
    }
    const halves = [
      { start: section(2), end: section(3) },
      { start: section(3), end: section(4) },
    ];
    expect(removeDimm(m, halves)).toMatchObject({ ok: true, value: { removed: [{ blocks: 1 }, { blocks: 1 }] } });
    expect(m.check()).toEqual([]);
  });
});

describe('what fails in the world', () => {
  it('DM13 a fault at any step, at any time it is asked, leaves the machine as it was', () => {
    const m = world(['kernel', 'movable', 'kernel', 'offline']);
    takeIn(m, 'anonymous', 33, 4);
    takeIn(m, 'vmalloc', 34, 1);
    const digest = m.digest();
    const evictors = [remapEvictor()];
    for (const point of DIMM_FAULT_POINTS) {
      let times = 0;
      for (let k = 0; ; k += point === 'dimm.isolate' ? 11 : 1) {
        let asked = 0;
        m.faultAt = (p) => p === point && asked++ === k;
        const tried = m.fork();
        tried.faultAt = m.faultAt;
        const r = removeDimm(tried, DIMM, { evictors });
        if (r.ok) break;
        times++;
        expect(r.error).toMatchObject({ reason: 'fault', errno: 'EIO' });
        expect(tried.digest()).toBe(digest);
        expect([zones(tried), states(tried)]).toEqual([zones(m), states(m)]);
        if (k % 50 === 0) expect(tried.check()).toEqual([]);
      }
      expect(times).toBeGreaterThan(0);
    }
    m.faultAt = undefined;
    expect(m.check()).toEqual([]);
  });
});
