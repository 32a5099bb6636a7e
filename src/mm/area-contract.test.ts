// Area contracts: what they promise is kept, what contradicts them is refused. Rules: docs/spec/area-contracts.md.

import { describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { AREA_FAULT_POINTS, areaContracts, contractAt, contractCounts, setAreaContract } from './area-contract.ts';
import { PIN_FAULT_POINTS, pinLongTerm } from './area-contract-pin.ts';
import { contractTable } from './area-contract-state.ts';
import { cmaAlloc, cmaAreas } from './cma.ts';
import { DIMM_FAULT_POINTS } from './dimm-offline.ts';
import { driversEvictor } from './fixed-areas/evictor.ts';
import { fixedAreas } from './fixed-areas/fixed-areas.ts';
import { MIGRATE_UNMOVABLE, PAGE_SIZE, PAGES_PER_SECTION } from './geometry.ts';
import { remapEvictor } from './kremap/evictor.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { MIGRATE_FAULT_POINTS } from './migrate.ts';
import type { PageClass } from './page-class.ts';

const node0 = toNodeId(0);
const O0 = toOrder(0);
const section = (n: number): Pfn => toPfn(n * PAGES_PER_SECTION);
const AREA = { start: section(4), end: section(6) };
const IDS = [4, 5].map(toBlockId);
const inArea = (pfn: number): boolean => pfn >= AREA.start && pfn < AREA.end;

/** A GiB in kernel zones, eight blocks. */
function boot(spec: Partial<MachineSpec> = {}): Machine {
  return Machine.boot({
    ram: [{ start: section(0), end: section(8), node: node0 }],
    reserved: [{ name: 'kernel image', start: toPfn(0), end: toPfn(4096) }],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    ...spec,
  });
}

type Filled = {
  /** Heads: whole pageblocks first, then what is left in single pages. */
  readonly all: Pfn[];
  /** Those in the area, and their frames. */
  readonly inside: Pfn[];
  readonly frames: number;
};

/** All that a holder can have. */
function fill(m: Machine, cls: PageClass, options?: Parameters<Machine['alloc']>[2]): Filled {
  const holder = m.addHolder({ class: cls, name: `${cls} everywhere` });
  const all: Pfn[] = [];
  let frames = 0;
  for (const order of [9, 0]) {
    for (;;) {
      const pfn = m.alloc(holder, toOrder(order), options);
      if (pfn < 0) break;
      all.push(toPfn(pfn));
      if (inArea(pfn)) frames += 2 ** order;
    }
  }
  return { all, inside: all.filter(inArea), frames };
}

/** Puts 2^order frames into a holder's hands by their number, past the allocator. */
function sneakIn(m: Machine, cls: PageClass, name: string, pfn: Pfn, order: number): HolderId {
  const index = m.sections.indexOf(pfn);
  m.unhold(index, order);
  m.sections.vacate(index, order);
  const holder = m.addHolder({ class: cls, name });
  m.place(holder, pfn, toPfn(pfn + 2 ** order));
  return holder;
}

/** One page in the area, as if it had been handed out last: the others are free. */
function pageIn(m: Machine, cls: PageClass): Pfn {
  const { all, inside } = fill(m, cls);
  const pfn = inside.at(-1) as Pfn;
  for (const other of all) if (other !== pfn) m.free(other);
  const info = m.frame(pfn);
  if (info.state !== 'used') throw new Error('it was not freed');
  if (info.order === 0) return pfn;
  sneakIn(m, cls, cls, pfn, info.order);
  const pool = m.poolAt(m.sections.indexOf(pfn));
  // The rest of the pageblock goes back, so that one page is left.
  m.divide(m.sections.indexOf(pfn), info.order);
  for (let k = 1; k < 2 ** info.order; k++) m.free(toPfn(pfn + k));
  pool?.alloc.drain();
  return pfn;
}

const set = (m: Machine, contract: Parameters<typeof setAreaContract>[2], evictors = [remapEvictor()]) =>
  setAreaContract(m, AREA, contract, { evictors });
const zones = (m: Machine): (string | undefined)[] => IDS.map((id) => m.block(id)?.pool?.name);

describe('the table', () => {
  it('AR1 areas are whole blocks that are online; a later contract of the same addresses replaces the earlier', () => {
    const m = boot();
    for (const range of [
      { start: AREA.start, end: toPfn(AREA.end - 512) },
      { start: AREA.end, end: AREA.start },
      { start: section(8), end: section(9) },
    ]) {
      expect(setAreaContract(m, range, 'removable').ok).toBe(false);
    }
    expect(m.offline(IDS[1]).ok).toBe(true);
    expect(set(m, 'removable')).toMatchObject({ error: { reason: 'not-online', errno: 'EINVAL' } });
    expect(m.online(IDS[1], 'kernel').ok).toBe(true);
    expect(setAreaContract(m, { start: section(4), end: section(8) }, 'removable').ok).toBe(true);
    expect(setAreaContract(m, { start: section(5), end: section(6) }, 'removable-strict').ok).toBe(true);
    expect(setAreaContract(m, { start: section(7), end: section(8) }, 'none').ok).toBe(true);
    expect(areaContracts(m).map((a) => [a.start / PAGES_PER_SECTION, a.end / PAGES_PER_SECTION, a.contract])).toEqual([
      [4, 5, 'removable'],
      [5, 6, 'removable-strict'],
      [6, 7, 'removable'],
    ]);
    expect([3, 4, 5, 6, 7].map((n) => contractAt(m, section(n)))).toEqual([
      undefined,
      'removable',
      'removable-strict',
      'removable',
      undefined,
    ]);
    expect(m.check()).toEqual([]);
    contractTable(m).areas = [{ start: section(5), end: toPfn(section(5) + 1), contract: 'removable' }];
    expect(m.check()).toMatchObject([{ rule: 'C13', detail: expect.stringContaining('AR1') }]);
  });

  it('AR2 a strict area has what moves, and no more: the check speaks of what was put there past the allocator', () => {
    const m = boot();
    expect(set(m, 'removable-strict').ok).toBe(true);
    const { all, inside, frames } = fill(m, 'anonymous');
    expect(frames).toBe(2 * PAGES_PER_SECTION);
    expect(m.check()).toEqual([]);
    const last = inside.at(-1) as Pfn;
    m.pin(last); // short: who offlines waits for it
    expect([m.check(), areaContracts(m)[0]?.breaches]).toEqual([[], []]);
    m.unpin(last);
    sneakIn(m, 'slab', 'sneaked in', last, 9);
    expect(m.check()).toMatchObject([{ rule: 'C13', detail: expect.stringContaining('AR2') }]);
    expect(areaContracts(m)[0]?.breaches).toMatchObject([{ startPfn: last, cause: 'kernel-in-movable' }]);
    for (const pfn of all) m.free(pfn);
    expect(m.check()).toEqual([]);
  });

  it('AR3 a strict area hosts no struct pages of others: they move, or the contract is refused', () => {
    const m = boot({ hotplug: { autoOnline: 'offline', memmapOnMemory: 'Y' } });
    const added = { start: section(32), end: section(34) };
    expect(m.addMemory(added, node0, { memmap: 'self-range' }).ok).toBe(true);
    for (const id of [32, 33]) expect(m.online(toBlockId(id), 'movable').ok).toBe(true);
    const head = { start: section(32), end: section(33) };
    const digest = m.digest();
    expect(setAreaContract(m, head, 'removable-strict')).toMatchObject({ error: { reason: 'hosts', errno: 'EBUSY' } });
    expect([m.digest(), areaContracts(m)]).toEqual([digest, []]);
    expect(setAreaContract(m, head, 'removable').ok).toBe(true); // 9.D can move them later
    expect(setAreaContract(m, head, 'removable-strict', { evictors: [memmapEvictor()] }).ok).toBe(true);
    expect(m.fork().offline(toBlockId(32)).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });
});

describe('what is there leaves first', () => {
  it('AR4 kernel pages by remapping, others by migration; the blocks come online as Movable', () => {
    const m = boot();
    const slab = pageIn(m, 'slab');
    const heap = pageIn(m, 'anonymous');
    expect(zones(m)).toEqual(['DMA32', 'DMA32']);
    const r = set(m, 'removable-strict');
    expect(r).toMatchObject({ ok: true, value: { rezoned: IDS, moved: { migration: 1, remap: 1 }, stayed: [] } });
    expect(zones(m)).toEqual(['Movable', 'Movable']);
    expect(m.frame(heap).state).toBe('free');
    expect(m.frame(slab)).toMatchObject({ class: 'unplugged' }); // its address lives on: the frame stays out of use (9.C)
    for (const id of IDS) expect(m.fork().offline(id).ok).toBe(true);
    expect(m.check()).toEqual([]);
    // Once more costs nothing: nothing is there that has no place.
    expect(set(m, 'removable-strict')).toMatchObject({ ok: true, value: { rezoned: [], moved: {} } });
  });

  it('AR5 or the contract is refused, with all that is in the way, and nothing has changed', () => {
    const m = boot();
    const slab = pageIn(m, 'slab');
    const other = pageIn(m, 'unknown');
    const pinned = pageIn(m, 'file');
    m.pin(pinned);
    const digest = m.digest();
    const r = set(m, 'removable-strict', []);
    expect(r).toMatchObject({ ok: false, error: { reason: 'unmovable' } });
    if (!r.ok) expect(r.error.blockers.map((b) => b.startPfn)).toEqual(expect.arrayContaining([slab, other]));
    expect([m.digest(), areaContracts(m)]).toEqual([digest, []]);
    m.free(slab);
    m.free(other);
    const again = set(m, 'removable-strict', []);
    expect(again).toMatchObject({ ok: false, error: { reason: 'stuck' } });
    if (!again.ok) expect(again.error.blockers).toMatchObject([{ startPfn: pinned, cause: 'pinned' }]);
    m.unpin(pinned);
    expect(set(m, 'removable-strict', []).ok).toBe(true);
    // The same in an area that is Movable already: what got in by the caller's word, and a pin.
    expect(set(m, 'none').ok).toBe(true);
    const liar = m.addHolder({ class: 'slab', name: 'says it moves' });
    const lie = m.alloc(liar, O0, { movable: true });
    expect(inArea(lie)).toBe(true);
    expect(set(m, 'removable', [])).toMatchObject({ ok: true, value: { rezoned: [] } });
    expect(areaContracts(m)[0]?.breaches).toMatchObject([{ startPfn: lie, cause: 'kernel-in-movable' }]);
    expect(set(m, 'removable-strict', [])).toMatchObject({ error: { blockers: [{ startPfn: lie }] } });
    expect(set(m, 'removable-strict')).toMatchObject({ ok: true, value: { moved: { remap: 1 } } });
    expect(m.check()).toEqual([]);
  });

  it('AR6 best-effort has the blocks that can be had, and says why not the others', () => {
    const m = boot();
    const slab = pageIn(m, 'slab'); // in one of the two
    const [stays, goes] = slab < section(5) ? IDS : [...IDS].reverse();
    const r = set(m, 'best-effort', []);
    expect(r).toMatchObject({
      ok: true,
      value: { rezoned: [goes], stayed: [{ block: stays, refusal: { reason: 'unmovable' } }] },
    });
    expect(areaContracts(m)).toMatchObject([{ contract: 'best-effort', inForce: [goes], breaches: [] }]);
    expect(m.check()).toEqual([]);
  });

  it('AR7 pinned-ok lies in a kernel zone and serves drivers that give nothing up; strict takes them none', () => {
    const m = boot();
    expect(set(m, 'removable-strict').ok).toBe(true);
    const f = fixedAreas(m);
    const ops = { quiesce: () => 'quiet' as const, move: () => 'done' as const, resume: () => 'done' as const };
    expect(f.register({ name: 'rigid', abi: 1, caps: ['quiesce'], maxQuiesceMs: 1, ops }).ok).toBe(true);
    const want = () => f.request('rigid', { bytes: 4 * PAGE_SIZE, reason: 'ring' });
    expect(want()).toMatchObject({ error: { reason: 'incompatible', errno: 'ENXIO' } });
    expect(set(m, 'pinned-ok')).toMatchObject({ ok: true, value: { rezoned: IDS } });
    expect(zones(m)).toEqual(['DMA32', 'DMA32']);
    const got = want();
    expect(got.ok && got.value.segments.every((s) => inArea(s.start))).toBe(true);
    expect(set(m, 'removable-strict')).toMatchObject({ ok: false, error: { reason: 'unmovable' } });
    if (got.ok) f.release(got.value.handle);
    expect(set(m, 'removable-strict').ok).toBe(true);
    expect(want()).toMatchObject({ error: { reason: 'incompatible' } });
    expect(m.check()).toEqual([]);
  });

  it('AR8 an area of a driver that relinquishes may lie in a strict area, and its block still goes', () => {
    const m = boot();
    expect(set(m, 'removable-strict').ok).toBe(true);
    const { all, inside } = fill(m, 'anonymous');
    const page = inside.at(-1) as Pfn;
    const holder = sneakIn(m, 'driver', 'nic', page, 9);
    expect(m.check().length).toBe(1); // nobody registered it
    const ops = { quiesce: () => 'quiet' as const, move: () => 'done' as const, resume: () => 'done' as const };
    const caps = ['relinquish', 'quiesce'] as const;
    expect(fixedAreas(m).register({ name: 'nic', abi: 1, caps, maxQuiesceMs: 1, ops, holder }).ok).toBe(true);
    expect(m.check()).toEqual([]);
    for (const pfn of all) if (pfn !== page) m.free(pfn);
    const block = toBlockId(Math.floor(page / PAGES_PER_SECTION));
    expect(m.fork().offline(block).ok).toBe(false);
    expect(m.fork().offline(block, { evictors: [driversEvictor({ deadlineMs: 10 })] }).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('AR9 a listener or a fault that keeps a block from its new zone: every block is back in its own', () => {
    const m = boot();
    let vetoes = 1;
    m.notifiers.push({
      name: 'objector',
      goingOnline: (block) => (block === IDS[1] && vetoes-- > 0 ? 'EBUSY' : undefined),
    });
    expect(set(m, 'removable-strict')).toMatchObject({ error: { reason: 'notifier', errno: 'EBUSY' } });
    expect([zones(m), areaContracts(m)]).toEqual([['DMA32', 'DMA32'], []]);
    m.notifiers.length = 0;
    for (const point of [...AREA_FAULT_POINTS, ...DIMM_FAULT_POINTS]) {
      for (const at of [0, 1]) {
        let asked = 0;
        m.faultAt = (p) => p === point && asked++ === at;
        const r = set(m, 'removable-strict');
        m.faultAt = undefined;
        if (r.ok) {
          expect(asked).toBeLessThanOrEqual(1);
          for (const id of IDS) expect([m.offline(id).ok, m.online(id, 'kernel').ok]).toEqual([true, true]);
          expect(set(m, 'none').ok).toBe(true);
          continue;
        }
        expect(r.error).toMatchObject({ reason: 'fault', errno: 'EIO' });
        expect([zones(m), areaContracts(m)]).toEqual([['DMA32', 'DMA32'], []]);
        expect(m.check()).toEqual([]);
      }
    }
    expect(set(m, 'removable-strict').ok).toBe(true);
    expect(m.check()).toEqual([]);
  });
});

describe('requests', () => {
  it('AR10 nothing that does not move gets a frame of a strict area: ENOMEM, contract; what moves gets them all', () => {
    const m = boot();
    expect(set(m, 'removable-strict').ok).toBe(true);
    for (const [cls, options] of [
      ['slab', undefined],
      ['slab-reclaimable', undefined],
      ['driver', { movable: true }],
      ['pagetable', { topZone: 3 }],
      ['gigantic', { movable: true, rights: 'oom-victim' }],
    ] as const) {
      const f = m.fork();
      const { all, frames } = fill(f, cls, options);
      expect([all.length > 5 * 64, frames]).toEqual([true, 0]);
      expect(f.lastRefusal).toMatchObject({ reason: 'contract', errno: 'ENOMEM' });
      expect(contractCounts(f).requestsRefused).toBe(2); // a pageblock, a page
      expect(fill(f, 'anonymous').frames).toBe(2 * PAGES_PER_SECTION);
      fill(f, cls, options);
      expect(f.lastRefusal).toMatchObject({ reason: 'no-memory', errno: 'ENOMEM' }); // now it is full, whoever asks
      expect(f.check()).toEqual([]);
    }
    // Without a contract, Linux: the caller's word counts.
    expect(set(m, 'none').ok).toBe(true);
    expect(fill(m, 'driver', { movable: true }).frames).toBe(2 * PAGES_PER_SECTION);
    expect(m.check()).toEqual([]);
  });

  it('AR11 a contract is of addresses: it sleeps while its block is offline or elsewhere, and forks have it', () => {
    const m = boot();
    expect(set(m, 'removable-strict').ok).toBe(true);
    const f = m.fork();
    expect(setAreaContract(f, AREA, 'none').ok).toBe(true);
    expect([contractAt(f, AREA.start), contractAt(m, AREA.start)]).toEqual([undefined, 'removable-strict']);
    expect(m.offline(IDS[0]).ok).toBe(true);
    expect(areaContracts(m)[0]?.inForce).toEqual([IDS[1]]);
    expect(m.online(IDS[0], 'kernel').ok).toBe(true);
    expect(areaContracts(m)[0]?.inForce).toEqual([IDS[1]]);
    expect(fill(m, 'slab').frames).toBe(PAGES_PER_SECTION); // an operator's word: this block is the kernel's again
    expect(m.check()).toEqual([]);
  });
});

describe('long-term pins', () => {
  it('AR12 move the page to an Unmovable pageblock of a kernel zone first; in kernel zones it stays', () => {
    for (const contract of ['removable-strict', 'removable', 'none'] as const) {
      const m = boot();
      expect(set(m, 'removable-strict').ok).toBe(true);
      expect(set(m, contract).ok).toBe(true);
      const heap = m.addHolder({ class: 'anonymous', name: 'guest' });
      const page = toPfn(m.alloc(heap, toOrder(3)));
      expect(inArea(page)).toBe(true);
      const r = pinLongTerm(m, toPfn(page + 5));
      expect(r).toMatchObject({ ok: true, value: { moved: true } });
      if (!r.ok) return;
      const index = m.sections.indexOf(r.value.pfn);
      const pool = m.poolAt(index);
      expect([pool?.name === 'Movable', pool?.alloc.area.typeOf(index - pool.base)]).toEqual([
        false,
        MIGRATE_UNMOVABLE,
      ]);
      expect(m.frame(r.value.pfn)).toMatchObject({ holder: heap, pinned: true, order: 3 });
      expect(r.value.pfn % 8).toBe(5);
      expect(pinLongTerm(m, r.value.pfn)).toMatchObject({ ok: true, value: { moved: false } });
      for (const id of IDS) expect(m.fork().offline(id).ok).toBe(true);
      expect(m.check()).toEqual([]);
    }
  });

  it('AR13 what cannot leave is not pinned: ENOMEM without room, EFAULT while something keeps it; best-effort grants it', () => {
    for (const contract of ['removable-strict', 'none', 'best-effort'] as const) {
      const m = boot();
      expect(set(m, 'removable-strict').ok).toBe(true);
      expect(set(m, contract).ok).toBe(true);
      const heap = m.addHolder({ class: 'anonymous', name: 'guest' });
      const page = toPfn(m.alloc(heap, O0));
      m.setPageFlags(page, { writeback: true });
      const kept = pinLongTerm(m, page);
      m.setPageFlags(page, { writeback: false });
      if (contract === 'best-effort') {
        expect(kept).toMatchObject({ ok: true, value: { pfn: page, moved: false } });
        m.unpin(page);
      } else {
        expect(kept).toMatchObject({
          error: { reason: 'pinned-area', errno: 'EFAULT', blockers: [{ startPfn: page }] },
        });
        expect(m.frame(page)).toMatchObject({ pinned: false });
      }
      const { all } = fill(m, 'slab');
      const full = pinLongTerm(m, page);
      if (contract === 'best-effort') expect(full).toMatchObject({ ok: true, value: { pfn: page } });
      else {
        const reason = contract === 'none' ? 'no-memory' : 'contract';
        expect(full).toMatchObject({ error: { reason, errno: 'ENOMEM', blockers: [{ cause: 'no-target' }] } });
        expect(m.frame(page)).toMatchObject({ pinned: false });
      }
      expect(contractCounts(m)).toMatchObject(
        contract === 'best-effort' ? { pinsGranted: 2, pinsRefused: 0 } : { pinsGranted: 0, pinsRefused: 2 },
      );
      for (const pfn of all) m.free(pfn);
      m.unpin(page);
      expect(m.check()).toEqual([]);
    }
  });

  it('AR14 a page of a CMA area leaves it, too; a file page that has to be written back first does, and then moves', () => {
    const cma = { name: 'video', start: section(2), end: section(3) };
    const m = boot({ cma: [cma] });
    const { all } = fill(m, 'file');
    const guest = all.find((p) => p >= cma.start && p < cma.end) as Pfn;
    for (const pfn of all) if (pfn !== guest) m.free(pfn);
    const r = pinLongTerm(m, guest);
    expect(r.ok && r.value.moved && (r.value.pfn < cma.start || r.value.pfn >= cma.end)).toBe(true);
    expect(cmaAlloc(m, cmaAreas(m)[0] as never, PAGES_PER_SECTION).ok).toBe(true);
    expect(set(m, 'removable-strict').ok).toBe(true);
    const slow = m.addHolder({ class: 'file', name: 'nfs', migrateCallback: false });
    const dirty = toPfn(m.alloc(slow, O0));
    m.setPageFlags(dirty, { dirty: true });
    expect([inArea(dirty), pinLongTerm(m, dirty)]).toMatchObject([true, { ok: true, value: { moved: true } }]);
    expect(m.check()).toEqual([]);
  });

  it('AR15 a fault at any step of a pin leaves the page unpinned, where it was', () => {
    const m = boot();
    expect(set(m, 'removable-strict').ok).toBe(true);
    const slow = m.addHolder({ class: 'file', name: 'nfs', migrateCallback: false });
    let hit = 0;
    for (const point of [...PIN_FAULT_POINTS, ...MIGRATE_FAULT_POINTS]) {
      const page = toPfn(m.alloc(slow, O0));
      m.setPageFlags(page, { dirty: true });
      let fired = 0;
      m.faultAt = (p) => p === point && ++fired > 0;
      const r = pinLongTerm(m, page);
      m.faultAt = undefined;
      if (fired > 0) {
        hit++;
        expect(r.ok).toBe(false);
        expect(m.frame(page)).toMatchObject({ pinned: false, holder: slow });
      }
      expect(m.check()).toEqual([]);
    }
    expect(hit).toBe(PIN_FAULT_POINTS.length + MIGRATE_FAULT_POINTS.length - 1); // migrate.reserve is pin.reserve here
  });
});
