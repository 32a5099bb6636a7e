// Online: who is asked and in what order, what a refusal leaves, poisoned frames by kernel, blocks that host their memmap.
// Rules in docs/spec/hotplug-life.md; more of online in memory-hotplug.test.ts.

import { describe, expect, it } from 'vitest';
import { type BlockId, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import type { LogLine } from './events.ts';
import { MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { HotplugSettings } from './hotplug.ts';
import { KERNEL_NAMES, type KernelName } from './kernel-profile.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import type { Notifier } from './memory-hotplug.ts';
import type { Pool } from './pool.ts';
import { ERRNO } from './refusal.ts';

const node0 = toNodeId(0);
const section = (n: number) => toPfn(n * PAGES_PER_SECTION);
const block32 = toBlockId(32);

const boot = (hotplug: Partial<HotplugSettings> = {}, spec: Partial<MachineSpec> = {}): Machine =>
  Machine.boot({
    ram: [{ start: section(0), end: section(8), node: node0 }],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    hotplug: { autoOnline: 'offline', memmapOnMemory: 'Y', ...hotplug },
    ...spec,
  });

function add(m: Machine, first: number, end: number, memmap: 'kernel' | 'self-block' | 'self-range' = 'kernel'): void {
  const r = m.addMemory({ start: section(first), end: section(end) }, node0, { memmap });
  if (!r.ok) throw new Error(r.error.message);
  expect(r.value.memmap).toBe(memmap);
}

/** A listener that writes down what it hears. */
const listener = (log: string[], name: string, veto?: 'prepareOnline' | 'goingOnline' | 'goingOffline'): Notifier => {
  const hear = (what: string) => (b: BlockId) => {
    log.push(`${name} ${what} ${b}`);
  };
  const asked = (what: 'prepareOnline' | 'goingOnline' | 'goingOffline') => (b: BlockId) => {
    hear(what)(b);
    return veto === what ? ('EIO' as const) : undefined;
  };
  return {
    name,
    prepareOnline: asked('prepareOnline'),
    goingOnline: asked('goingOnline'),
    cancelOnline: hear('cancelOnline'),
    online: hear('online'),
    goingOffline: asked('goingOffline'),
    cancelOffline: hear('cancelOffline'),
    offline: hear('offline'),
    finishOffline: hear('finishOffline'),
  };
};

const asked = (who: string, ...what: string[]): string[] => what.map((w) => `${who} ${w} 32`);

describe('listeners', () => {
  it('LN1 online: prepare to all, going to all, then online to all; the block is online when they hear it', () => {
    const m = boot();
    add(m, 32, 33);
    const log: string[] = [];
    m.notifiers.push(listener(log, 'a'), listener(log, 'b'));
    m.notifiers.push({
      name: 'looks',
      goingOnline: (b) => {
        expect(m.block(b)?.state).toBe('offline');
        return undefined;
      },
      online: (b) => expect(m.block(b)?.state).toBe('online'),
    });
    expect(m.online(block32, 'movable').ok).toBe(true);
    expect(log).toEqual([
      ...asked('a', 'prepareOnline'),
      ...asked('b', 'prepareOnline'),
      ...asked('a', 'goingOnline'),
      ...asked('b', 'goingOnline'),
      ...asked('a', 'online'),
      ...asked('b', 'online'),
    ]);
    log.length = 0;
    expect(m.offline(block32).ok).toBe(true);
    expect(log).toEqual([
      ...asked('a', 'goingOffline'),
      ...asked('b', 'goingOffline'),
      ...asked('a', 'offline'),
      ...asked('b', 'offline'),
      ...asked('a', 'finishOffline'),
      ...asked('b', 'finishOffline'),
    ]);
    expect(m.check()).toEqual([]);
  });

  it('LN2 a veto of the preparation: its errno, and nobody hears of a cancel, because nothing was prepared', () => {
    const m = boot();
    add(m, 32, 33);
    const log: string[] = [];
    m.notifiers.push(listener(log, 'a'), listener(log, 'b', 'prepareOnline'), listener(log, 'c'));
    const before = m.digest();
    expect(m.online(block32, 'movable')).toMatchObject({ ok: false, error: { reason: 'notifier', errno: 'EIO' } });
    expect(log).toEqual([...asked('a', 'prepareOnline'), ...asked('b', 'prepareOnline')]);
    expect(m.digest()).toBe(before);
    expect(m.check()).toEqual([]);
  });

  it("LN2 an offline that fails says so in the kernel's log, with its range and reason", () => {
    const m = boot();
    add(m, 32, 33, 'self-block');
    expect(m.online(block32, 'movable').ok).toBe(true);
    const lines: string[] = [];
    m.onLog = (line) => lines.push(`${line.level}: ${line.text}`);
    m.notifiers.push(listener([], 'b', 'goingOffline'));
    expect(m.offline(block32).ok).toBe(false);
    expect(lines).toEqual(['debug: memory offlining [mem 0x100200000-0x107ffffff] failed due to notifier failure']);
    expect(m.check()).toEqual([]);
  });

  it('LN2 a veto: its errno, nobody behind it is asked, cancel and finish reach all; nothing changes', () => {
    const m = boot();
    add(m, 32, 33);
    const log: string[] = [];
    m.notifiers.push(listener(log, 'a'), listener(log, 'b', 'goingOnline'), listener(log, 'c'));
    const lines: LogLine[] = [];
    m.onLog = (l) => lines.push(l);
    const digest = m.digest();
    const r = m.online(block32, 'movable');
    expect(r).toMatchObject({ ok: false, error: { reason: 'notifier', errno: 'EIO' } });
    expect(log).toEqual([
      ...['a', 'b', 'c'].flatMap((n) => asked(n, 'prepareOnline')),
      ...asked('a', 'goingOnline'),
      ...asked('b', 'goingOnline'),
      ...['a', 'b', 'c'].flatMap((n) => asked(n, 'cancelOnline')), // c never saw the question
      ...['a', 'b', 'c'].flatMap((n) => asked(n, 'finishOffline')),
    ]);
    expect(lines).toEqual([{ level: 'debug', text: 'online_pages [mem 0x100000000-0x107ffffff] failed' }]);
    expect(m.digest()).toBe(digest);
    expect(m.poolNamed(node0, 'Movable')).toMatchObject({ present: 0, spanned: 0 });
    expect(m.check()).toEqual([]);
  });

  it('LN2 a veto of a block that hosts its memmap: the range of the line begins behind it', () => {
    const m = boot();
    add(m, 32, 33, 'self-block');
    m.notifiers.push(listener([], 'a', 'goingOnline'));
    const lines: LogLine[] = [];
    m.onLog = (l) => lines.push(l);
    expect(m.online(block32, 'movable').ok).toBe(false);
    expect(lines.map((l) => l.text)).toEqual(['online_pages [mem 0x100200000-0x107ffffff] failed']);
  });

  it('LN3 a veto moves a span in `linux`: it grew to the block and shrinks to the last memory that is there', () => {
    for (const compat of ['strict', 'linux'] as const) {
      // DMA32 of a node with memory above 4 GiB spans to the border, RAM there or not.
      const m = boot(
        {},
        {
          compat,
          ram: [
            { start: section(0), end: section(8), node: node0 },
            { start: section(32), end: section(33), node: node0 },
          ],
        },
      ); // prettier-ignore
      const dma32 = m.poolNamed(node0, 'DMA32') as Pool;
      expect(dma32.endPfn).toBe(section(32));
      add(m, 31, 32);
      m.notifiers.push(listener([], 'a', 'goingOnline'));
      expect(m.online(toBlockId(31), 'kernel').ok).toBe(false);
      expect(dma32.endPfn).toBe(section(compat === 'linux' ? 8 : 32));
      expect(m.check()).toEqual([]);
    }
  });
});

describe('poisoned frames', () => {
  /** A poisoned frame in block 32, taken as memory failure takes it. */
  function poisoned(kernel: KernelName): Machine {
    const m = boot({}, { kernel });
    add(m, 32, 33);
    expect(m.online(block32, 'movable').ok).toBe(true);
    const pool = m.poolNamed(node0, 'Movable') as Pool;
    const i = m.sections.indexOf(section(32)) - pool.base;
    pool.alloc.area.forEachFree(i, i + 1024, (at, order) => {
      pool.alloc.take(at, order);
      for (let k = at + 1; k < at + 2 ** order; k++) pool.alloc.freeToArea(k, 0);
    });
    m.occupy(m.addHolder({ class: 'poisoned', name: 'hardware error' }), pool.base + i, 0);
    expect(m.check()).toEqual([]);
    return m;
  }

  for (const kernel of KERNEL_NAMES) {
    it(`HW1 ${kernel}: a block with a poisoned frame goes offline; it comes back ${kernel === '6.1' ? 'and the mark is lost' : 'never: EHWPOISON'}`, () => {
      const m = poisoned(kernel);
      const pool = m.poolNamed(node0, 'Movable') as Pool;
      expect(m.offline(block32).ok).toBe(true);
      expect([pool.present, pool.managed]).toEqual([0, 0]);
      const digest = m.digest();
      const back = m.online(block32, 'movable');
      if (kernel === '6.1') {
        expect(back.ok).toBe(true);
        expect([pool.present, pool.managed]).toEqual([PAGES_PER_SECTION, PAGES_PER_SECTION]);
        expect(m.frame(section(32)).state).toBe('free');
      } else {
        expect(back).toMatchObject({ error: { reason: 'poisoned', errno: 'EHWPOISON' } });
        expect(ERRNO.EHWPOISON).toBe(133);
        if (!back.ok) expect(back.error.blockers).toMatchObject([{ startPfn: section(32), endPfn: section(32) + 1 }]);
        expect(m.digest()).toBe(digest);
      }
      expect(m.check()).toEqual([]);
    });

    it(`HW2 ${kernel}: removal forgets it; the same addresses come again without a mark`, () => {
      const m = poisoned(kernel);
      expect(m.offline(block32).ok).toBe(true);
      expect(m.removeMemory({ start: section(32), end: section(33) }).ok).toBe(true);
      const holder = m.holders.specs.findIndex((s) => s.class === 'poisoned');
      expect(m.holders.pages[holder]).toBe(0);
      add(m, 32, 33);
      expect(m.online(block32, 'movable').ok).toBe(true);
      expect(m.poolNamed(node0, 'Movable')?.managed).toBe(PAGES_PER_SECTION);
      expect(m.check()).toEqual([]);
    });
  }
});

describe('blocks that host their memmap', () => {
  const typesOf = (m: Machine, pool: Pool, first: number, end: number): number[] => {
    const out: number[] = [];
    for (let pfn: number = section(first); pfn < section(end); pfn += PAGEBLOCK_PAGES) {
      out.push(pool.alloc.area.typeOf(m.sections.indexOf(toPfn(pfn)) - pool.base));
    }
    return out;
  };

  it('SB1 self-block: present by the block, managed without the head, one Unmovable pageblock, in the span', () => {
    const m = boot();
    add(m, 32, 34, 'self-block');
    expect(m.online(toBlockId(33), 'movable')).toMatchObject({ value: { pages: 32256 } });
    const pool = m.poolNamed(node0, 'Movable') as Pool;
    expect([pool.startPfn, pool.spanned, pool.present, pool.managed]).toEqual([section(33), 32768, 32768, 32256]);
    expect(typesOf(m, pool, 33, 34)).toEqual([MIGRATE_UNMOVABLE, ...Array(63).fill(MIGRATE_MOVABLE)]);
    expect(m.frame(section(33))).toMatchObject({ state: 'used', class: 'memmap' });
    const lines: LogLine[] = [];
    m.onLog = (l) => lines.push(l);
    expect(m.offline(toBlockId(33))).toMatchObject({ value: { pages: 32256 } });
    expect(lines).toEqual([{ level: 'debug', text: 'Offlined Pages 32256' }]);
    expect([pool.spanned, pool.present, pool.managed]).toEqual([0, 0, 0]);
    expect(m.online(toBlockId(33), 'kernel')).toMatchObject({ value: { pages: 32256, zone: 'Normal' } });
    expect(m.check()).toEqual([]);
  });

  it('SB2 self-block: nothing is ever handed out of a head, and all of the rest is', () => {
    const m = boot();
    add(m, 32, 33, 'self-block');
    expect(m.online(block32, 'movable').ok).toBe(true);
    const user = m.addHolder({ class: 'anonymous', name: 'user' });
    let n = 0;
    for (let pfn = m.alloc(user, toOrder(9)); pfn >= section(32); pfn = m.alloc(user, toOrder(9))) n++;
    expect(n).toBe(63);
    expect(m.check()).toEqual([]);
  });

  it('SB3 self-range: a block that is all memmap comes online with nothing free; the heads are managed, as in the RFC', () => {
    const m = boot();
    add(m, 32, 32 + 80, 'self-range'); // 160 MiB of memmap: block 32 whole, 32 MiB of block 33
    const pool = m.poolNamed(node0, 'Movable') as Pool;
    expect(m.online(block32, 'movable')).toMatchObject({ value: { pages: 0 } });
    expect([pool.present, pool.managed, pool.alloc.nrFree()]).toEqual([32768, 32768, 0]);
    expect(m.check()).toEqual([]);
    expect(m.online(toBlockId(33), 'movable')).toMatchObject({ value: { pages: 24576 } });
    expect([pool.present, pool.managed, pool.alloc.nrFree()]).toEqual([65536, 65536, 24576]);
    expect(m.check()).toEqual([]);
    for (const k of [33, 32]) expect(m.offline(toBlockId(k)).ok).toBe(true);
    expect([pool.present, pool.managed]).toEqual([0, 0]);
    expect(m.check()).toEqual([]);
  });
});
