// An offline that is given evictors: what they may take, when they are asked, what is undone. Rules: docs/spec/evictors.md.

import { describe, expect, it } from 'vitest';
import { err, ok } from '#base/result';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { allocContigRange } from './contig-alloc.ts';
import type { Evictor, Occupant } from './evictor.ts';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import { OfflineWork } from './memory-hotplug.ts';
import { migrateAllocation, splitAllocation } from './migrate.ts';
import { isDroppable, pageStateAt } from './page-state.ts';
import { refusal } from './refusal.ts';

const B1 = toBlockId(1);

/** Two blocks; in the second a slab page and a page of a process. */
function world(): { m: Machine; slab: number; slabPfn: ReturnType<typeof toPfn> } {
  const m = Machine.boot({ ram: [{ start: toPfn(0), end: toPfn(2 * PAGES_PER_SECTION), node: toNodeId(0) }] });
  const filler = m.addHolder({ class: 'reserved', name: 'filler' });
  const kernel = m.addHolder({ class: 'slab', name: 'dentry' });
  const process = m.addHolder({ class: 'anonymous', name: 'shell' });
  const head: number[] = [];
  // The first block is filled for a moment, so that what follows lies in the second.
  for (;;) {
    const pfn = m.alloc(filler, toOrder(10));
    if (pfn < 0 || pfn >= PAGES_PER_SECTION) {
      if (pfn >= 0) m.free(toPfn(pfn));
      break;
    }
    head.push(pfn);
  }
  const slabPfn = m.alloc(kernel, toOrder(0));
  const page = m.alloc(process, toOrder(0));
  for (const pfn of head) m.free(toPfn(pfn));
  expect([slabPfn >= PAGES_PER_SECTION, page >= PAGES_PER_SECTION]).toEqual([true, true]);
  return { m, slab: m.sections.indexOf(toPfn(slabPfn)), slabPfn: toPfn(slabPfn) };
}

/** Takes slab pages away by moving them, as if they had a table to be moved by. */
function mover(log: string[], over: Partial<Evictor> = {}): Evictor {
  return {
    name: 'mover',
    claims: (_, a) => (a.cls === 'slab' ? 'yes' : undefined),
    prepare: () => {
      log.push('prepare');
      return ok(() => log.push('undo'));
    },
    evict: (m, a) => {
      log.push('evict');
      return moveSlab(m, a);
    },
    commit: () => log.push('commit'),
    ...over,
  };
}

function moveSlab(m: Machine, a: Occupant): 'moved' {
  const pool = m.poolAt(a.head);
  if (pool === undefined) throw new Error('the block is online');
  const to = pool.alloc.alloc(a.order, 0, 0);
  m.relocate(a.head, to + pool.base, a.order);
  pool.alloc.freeToArea(a.head - pool.base, a.order);
  return 'moved';
}

const run = (w: OfflineWork): OfflineWork => {
  while (!w.finished) w.step();
  return w;
};

describe('an offline with evictors', () => {
  it('OE1 what an evictor claims does not stop it; without, the same page does', () => {
    const { m } = world();
    expect(m.fork().offline(B1)).toMatchObject({ ok: false, error: { reason: 'unmovable', errno: 'EBUSY' } });
    const done = m.offline(B1, { evictors: [mover([])] });
    expect(done).toMatchObject({ ok: true, value: { migratedPages: 2 } });
    expect(m.check()).toEqual([]);
  });

  it('OE2 the cause that it gives is evidence, beside causes that Linux gives for others', () => {
    const { m } = world();
    const other = m.addHolder({ class: 'pagetable', name: 'shell', node: toNodeId(0) });
    const page = m.alloc(other, toOrder(0));
    const before = m.digest();
    const picky = mover([], { claims: (_, a) => (a.cls === 'slab' ? 'hard-pinned' : undefined) });
    const there = page >= PAGES_PER_SECTION;
    const r = m.offline(B1, { evictors: [picky] });
    expect(r.ok).toBe(false);
    if (r.ok) return;
    expect(r.error.blockers.map((b) => b.cause)).toEqual(there ? ['hard-pinned', 'unmovable'] : ['hard-pinned']);
    expect(m.digest()).toBe(before);
    expect(m.check()).toEqual([]);
  });

  it('OE3 prepares before listeners and moves, and is undone while the pageblocks are isolated', () => {
    const { m } = world();
    const log: string[] = [];
    const typeAt = (): number => {
      const pool = m.poolAt(PAGES_PER_SECTION);
      return pool === undefined ? -1 : pool.alloc.area.typeOf(PAGES_PER_SECTION - pool.base);
    };
    const isolated: number[] = [];
    const noted = (name: string): Evictor =>
      mover(log, {
        name,
        claims: (_, a) => (name === 'a' && a.cls === 'slab' ? 'yes' : undefined),
        prepare: () => {
          log.push(`prepare ${name}`);
          return ok(() => {
            log.push(`undo ${name}`);
            isolated.push(typeAt());
          });
        },
      });
    m.notifiers.push({
      name: 'objector',
      goingOffline: () => {
        log.push('listener');
        return 'EBUSY';
      },
      cancelOffline: () => log.push('cancel'),
    });
    const r = m.offline(B1, { evictors: [noted('a'), noted('b')] });
    expect(r).toMatchObject({ ok: false, error: { reason: 'notifier' } });
    expect(log).toEqual(['prepare a', 'prepare b', 'listener', 'undo b', 'undo a', 'cancel']);
    expect(isolated).toEqual([5, 5]); // MIGRATE_ISOLATE
    m.notifiers.length = 0;

    log.length = 0;
    const refuses = mover(log, {
      name: 'c',
      claims: () => undefined,
      prepare: () => err(refusal('deadline', 'too late')),
    });
    const late = m.offline(B1, { evictors: [noted('a'), refuses] });
    expect(late).toMatchObject({ ok: false, error: { reason: 'deadline', errno: 'ETIMEDOUT' } });
    expect(log).toEqual(['prepare a', 'undo a']);
    expect(m.check()).toEqual([]);
  });

  it('OE4 what does not leave now is asked for again, boundedly, then named; the machine is as it was', () => {
    const { m, slabPfn } = world();
    const before = m.digest();
    let asked = 0;
    const stubborn = mover([], {
      evict: () => {
        asked++;
        return 'fault';
      },
    });
    const r = m.offline(B1, { evictors: [stubborn], rounds: 3 });
    expect(r).toMatchObject({ ok: false, error: { reason: 'unmovable', errno: 'EBUSY' } });
    if (!r.ok) expect(r.error.blockers).toMatchObject([{ startPfn: slabPfn, cause: 'fault', class: 'slab' }]);
    expect(asked).toBeGreaterThanOrEqual(3);
    expect(asked).toBeLessThanOrEqual(6);
    expect(m.digest()).toBe(before);

    let left = 1;
    const late = mover([], { evict: (f, a) => (left-- > 0 ? 'pinned' : moveSlab(f, a)) });
    expect(m.offline(B1, { evictors: [late] }).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('OE5 commit once when it cannot fail any more, after a refusal never', () => {
    const { m } = world();
    const log: string[] = [];
    const work = new OfflineWork(m, B1, { evictors: [mover(log)] });
    while (work.stage !== 'migrate') work.step();
    work.cancel();
    expect(log).toEqual(['prepare', 'undo']);
    log.length = 0;
    expect(run(new OfflineWork(m, B1, { evictors: [mover(log)] })).stage).toBe('done');
    expect(log).toEqual(['prepare', 'evict', 'commit']);
    expect(m.check()).toEqual([]);
  });

  it('OE6 the first that claims an allocation has it', () => {
    const { m } = world();
    const log: string[] = [];
    const first = mover(log);
    const second = mover(log, {
      name: 'second',
      prepare: () => ok(undefined),
      evict: () => {
        log.push('second');
        return 'fault';
      },
    });
    expect(m.offline(B1, { evictors: [first, second] }).ok).toBe(true);
    expect(log).not.toContain('second');
    expect(log.filter((l) => l === 'evict')).toEqual(['evict']);
    expect(m.check()).toEqual([]);
  });

  it('OE7 ready runs before the look, and is undone when another is not', () => {
    const { m } = world();
    const log: string[] = [];
    const frees = mover(log, {
      ready: (f) => {
        const p = f.alloc(f.addHolder({ class: 'anonymous', name: 'note' }), toOrder(0));
        return ok(() => {
          if (p >= 0) f.free(toPfn(p));
          log.push('unready');
        });
      },
    });
    const no = mover(log, { name: 'no', ready: () => err(refusal('hosts', 'struct pages of others lie there')) });
    const work = run(new OfflineWork(m, B1, { evictors: [frees, no] }));
    expect(work.refusal).toMatchObject({ reason: 'hosts', errno: 'EBUSY' });
    expect(log).toEqual(['unready']);
    expect(m.block(B1)?.state).toBe('online');
    expect(m.check()).toEqual([]);
  });
});

describe('what is said of a page', () => {
  const boot = (): Machine =>
    Machine.boot({ ram: [{ start: toPfn(0), end: toPfn(PAGES_PER_SECTION), node: toNodeId(0) }] });
  const stateOf = (m: Machine, pfn: number): object => pageStateAt(m, m.sections.indexOf(toPfn(pfn)), undefined);

  it('PS1 stays when it moves or is split, and is gone with it', () => {
    const m = boot();
    const file = m.addHolder({ class: 'file', name: 'log' });
    const big = toPfn(m.alloc(file, toOrder(2)));
    m.setPageFlags(big, { dirty: true, unevictable: true });
    expect(stateOf(m, big)).toMatchObject({ dirty: true, unevictable: true });
    splitAllocation(m, m.sections.indexOf(big));
    for (let k = 0; k < 4; k++) expect(stateOf(m, big + k)).toMatchObject({ dirty: true, unevictable: true });
    m.setPageFlags(toPfn(big + 1), { unevictable: false });
    expect(stateOf(m, big + 1)).toMatchObject({ dirty: true, unevictable: false });
    const pool = m.zonelist(toNodeId(0), 3);
    expect(migrateAllocation(m, m.sections.indexOf(toPfn(big + 1)), pool)).toBe('moved');
    let at = -1;
    m.forEachFrameOf(file, (head) => {
      if (head < big || head >= big + 4) at = head;
    });
    expect(at).toBeGreaterThanOrEqual(0);
    expect(stateOf(m, at)).toMatchObject({ dirty: true, unevictable: false });
    m.free(toPfn(at));
    const again = m.alloc(m.addHolder({ class: 'file', name: 'new' }), toOrder(0));
    expect(stateOf(m, again)).toMatchObject({ dirty: false });
    expect(m.check()).toEqual([]);
  });

  it('PS2 a page under writeback moves when that is over', () => {
    const m = boot();
    const pfn = toPfn(m.alloc(m.addHolder({ class: 'file', name: 'log' }), toOrder(0)));
    m.setPageFlags(pfn, { writeback: true });
    const list = m.zonelist(toNodeId(0), 3);
    const head = m.sections.indexOf(pfn);
    expect(migrateAllocation(m, head, list)).toBe('writeback');
    expect(m.vmstat.pgmigrate_fail).toBe(1);
    m.setPageFlags(pfn, { writeback: false });
    expect(migrateAllocation(m, head, list)).toBe('moved');
    expect(m.check()).toEqual([]);
  });

  it('PS3 the flag, the callback, the holder, the class: who knows best is believed', () => {
    const m = boot();
    const page = (spec: Parameters<Machine['addHolder']>[0]): number =>
      m.sections.indexOf(toPfn(m.alloc(m.addHolder(spec), toOrder(0))));
    const cache = page({ class: 'file', name: 'library' });
    const dropped = page({ class: 'file', name: 'read once', mapped: false });
    const heap = page({ class: 'anonymous', name: 'heap' });
    expect(pageStateAt(m, cache, undefined)).toMatchObject({ dirty: false, mapped: true });
    expect(pageStateAt(m, dropped, undefined)).toMatchObject({ dirty: false, mapped: false });
    expect(pageStateAt(m, dropped, () => ({ dirty: false, mapped: true }))).toMatchObject({ mapped: true });
    expect(pageStateAt(m, heap, undefined)).toMatchObject({ dirty: true, mapped: true });
    m.setPageFlags(m.sections.pfnOf(cache), { writeback: true });
    expect(pageStateAt(m, cache, () => ({ dirty: true, mapped: false }))).toMatchObject({
      dirty: true,
      mapped: false,
      writeback: true,
    });
    expect(m.check()).toEqual([]);
  });

  it('PS4 only clean page cache that nobody maps, locks, pins or reads is dropped: one word of it, and it stays', () => {
    const m = boot();
    const cache = { class: 'file', name: 'read once', mapped: false } as const;
    const take = (): number => m.alloc(m.addHolder(cache), toOrder(0));
    const asked = (pfn: number, pinned = false): boolean =>
      isDroppable(m, { head: m.sections.indexOf(toPfn(pfn)), cls: 'file', pinned }, undefined);
    const pfn = take();
    expect([asked(pfn), asked(pfn, true)]).toEqual([true, false]);
    for (const word of ['dirty', 'writeback', 'unevictable'] as const) {
      m.setPageFlags(toPfn(pfn), { [word]: true });
      expect(asked(pfn), word).toBe(false);
      m.setPageFlags(toPfn(pfn), { [word]: false });
    }
    const head = m.sections.indexOf(toPfn(pfn));
    const said = { dirty: false, mapped: false };
    for (const more of [{ mapped: true }, { mlocked: true }, { writeback: true }, { dirty: true }]) {
      expect(isDroppable(m, { head, cls: 'file', pinned: false }, () => ({ ...said, ...more }))).toBe(false);
    }
    expect(isDroppable(m, { head, cls: 'anonymous', pinned: false }, () => said)).toBe(false);

    // As a contiguous request sees it: what storage reads neither moves nor goes, its neighbour does.
    const other = take();
    m.setPageFlags(toPfn(pfn), { writeback: true });
    const holder = m.addHolder({ class: 'driver', name: 'ring' });
    const range = [toPfn(Math.min(pfn, other)), toPfn(Math.max(pfn, other) + 1)] as const;
    expect(allocContigRange(m, ...range, { holder })).toMatchObject({ ok: false, error: { errno: 'EBUSY' } });
    expect(m.frame(toPfn(pfn))).toMatchObject({ state: 'used', class: 'file' });
    m.setPageFlags(toPfn(pfn), { writeback: false });
    expect(allocContigRange(m, ...range, { holder })).toMatchObject({ ok: true, value: { droppedPages: 1 } });
    expect(m.check()).toEqual([]);
  });
});
