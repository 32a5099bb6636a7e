// Who may change memory now. Rules in docs/spec/hotplug-life.md.

import { describe, expect, it } from 'vitest';
import { toHolderId, toNodeId, toOrder, toPfn } from '#base/units';
import { worldFrom } from '../../test/support/picture.ts';
import { HotplugLock, type Ticket } from './hotplug-lock.ts';
import type { OfflineWork } from './memory-hotplug.ts';

describe('the hotplug lock', () => {
  it('HL1 tickets run in the order in which they were asked for, one at a time', () => {
    const lock = new HotplugLock();
    expect([lock.taken, lock.waiting]).toEqual([false, 0]);
    const [a, b, c] = [lock.request(), lock.request(), lock.request()];
    const turns = (): boolean[] => [a, b, c].map((t) => lock.holds(t));
    expect(turns()).toEqual([true, false, false]);
    expect([lock.taken, lock.waiting]).toEqual([true, 2]);
    lock.release(a);
    expect(turns()).toEqual([false, true, false]);
    lock.release(b);
    expect(turns()).toEqual([false, false, true]);
    lock.release(c);
    expect([lock.taken, lock.waiting]).toEqual([false, 0]);
    const d = lock.request();
    expect(lock.holds(d)).toBe(true);
  });

  it('HL2 who gives up while waiting leaves the line; the others keep their places', () => {
    const lock = new HotplugLock();
    const [a, b, c, d] = [lock.request(), lock.request(), lock.request(), lock.request()];
    lock.release(b);
    expect([lock.holds(a), lock.holds(c), lock.waiting]).toEqual([true, false, 2]);
    lock.release(a);
    expect([lock.holds(c), lock.holds(d)]).toEqual([true, false]);
  });

  it('HL3 a ticket is released once', () => {
    const lock = new HotplugLock();
    const a = lock.request();
    lock.release(a);
    expect(() => lock.release(a)).toThrow('the ticket was released before');
    expect(() => lock.release(99 as Ticket)).toThrow('the ticket was released before');
  });

  it('HL4 writers step in turn: the second offline begins when the first is over, the third gave up before', () => {
    const { m, block } = worldFrom(
      'n0 Movable MM......\n n0 Movable ........\n n0 Movable M.......\n n0 Normal ........',
    );
    const { lock } = m.hotplug;
    type Writer = { readonly ticket: Ticket; readonly begin: () => OfflineWork; work?: OfflineWork; patience: number };
    const writer = (k: number, patience = Number.POSITIVE_INFINITY): Writer => ({
      ticket: lock.request(),
      begin: () => m.beginOffline(block(k), { batch: 1 }),
      patience,
    });
    const writers = [writer(0), writer(1, 3), writer(2)];
    const trace: string[] = [];
    for (let turn = 0; lock.taken; turn++) {
      expect(turn).toBeLessThan(1000);
      expect(m.offlinesUnderWay).toBeLessThanOrEqual(1);
      writers.forEach((w, k) => {
        if (w.work?.finished === true || w.patience < 0) return;
        if (!lock.holds(w.ticket)) {
          if (--w.patience >= 0) return;
          lock.release(w.ticket);
          trace.push(`${k} gives up`);
          return;
        }
        if (w.work === undefined) trace.push(`${k} begins`);
        w.work ??= w.begin();
        w.work.step();
        if (!w.work.finished) return;
        trace.push(`${k} ${w.work.stage}`);
        lock.release(w.ticket);
      });
    }
    expect(trace).toEqual(['0 begins', '1 gives up', '0 done', '2 begins', '2 done']);
    expect(m.check()).toEqual([]);
  });

  it('HL5 memory cannot be added or removed under an offline; a fork has a free lock', () => {
    const { m, block } = worldFrom('n0 Movable M.......\n n0 Normal ........');
    const ticket = m.hotplug.lock.request();
    const work = m.beginOffline(block(0));
    work.step();
    const range = { start: toPfn(0x100000), end: toPfn(0x108000) };
    expect(() => m.addMemory(range, toNodeId(0))).toThrow('wait for the hotplug lock');
    expect(() => m.removeMemory(range)).toThrow('wait for the hotplug lock');
    const fork = m.fork();
    expect([fork.hotplug.lock.taken, m.hotplug.lock.taken]).toEqual([false, true]);
    while (!work.finished) work.step();
    m.hotplug.lock.release(ticket);
    expect(m.addMemory(range, toNodeId(0))).toMatchObject({ ok: true });
    expect(m.alloc(toHolderId(0), toOrder(0))).toBeGreaterThanOrEqual(0);
    expect(m.check()).toEqual([]);
  });
});
