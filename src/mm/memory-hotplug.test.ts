// Offline and online of a block: every stage, every refusal, undo, cancel, listeners, counters. Rules in
// docs/spec/isolation-and-offline.md.

import { constants } from 'node:os';
import { describe, expect, it } from 'vitest';
import { toHolderId, toNodeId, toOrder, toPfn } from '#base/units';
import { CELL_PAGES, drawn, pictureOf, type World, worldFrom } from '../../test/support/picture.ts';
import type { MachineEvent } from './events.ts';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import { type Notifier, type OfflineStage, OfflineWork } from './memory-hotplug.ts';
import { ERRNO, ERRNO_OF } from './refusal.ts';
import { computeWatermarks, minFreeKbytes } from './watermark.ts';

const run = (w: OfflineWork): OfflineWork => {
  while (!w.finished) w.step();
  return w;
};

const until = (w: OfflineWork, stage: OfflineStage): OfflineWork => {
  while (!w.finished && w.stage !== stage) w.step();
  return w;
};

/** Everything that a refused offline must not change; per-CPU lists are in the digest. */
const stateOf = (m: Machine) => ({
  digest: m.digest(),
  picture: pictureOf(m),
  vmstat: { ...m.vmstat },
  pools: m.pools.map((p) => [p.managed, p.present, p.startPfn, p.endPfn, p.alloc.nrFree(), p.alloc.pcpPages()]),
  blocks: m.blockIds().map((b) => m.block(b)?.state),
  holders: Array.from({ length: m.holders.length }, (_, h) => [m.holders.members[h], m.holders.pages[h]]),
});

const recordEvents = (m: Machine): MachineEvent[] => {
  const events: MachineEvent[] = [];
  m.onEvent = (e) => events.push(e);
  return events;
};

const BUSY = `
  n0 Normal   MM..mF..|........|TTTTTTTT|HHHHHHHH
  n0 Normal   .......M
`;

/** Refusals of `offline`: how the block looks, and what comes. One row each; the ones that need more follow below. */
const REFUSALS: readonly { name: string; world: string; reason: keyof typeof ERRNO_OF; stage: OfflineStage }[] = [
  { name: 'a frame that is not RAM', world: 'n0 Normal ........|.......#', reason: 'hole', stage: 'check' },
  { name: 'a slab page', world: 'n0 Normal ...U....\n n0 Normal ........', reason: 'unmovable', stage: 'look' },
  { name: 'a reserved page', world: 'n0 Normal R.......\n n0 Normal ........', reason: 'unmovable', stage: 'look' },
  { name: 'a driver page', world: 'n0 Normal .......D\n n0 Normal ........', reason: 'unmovable', stage: 'look' },
  { name: 'a reserved page in Movable', world: 'n0 Movable R.......', reason: 'unmovable', stage: 'look' },
  { name: 'a CMA pageblock', world: 'n0 Normal C:........\n n0 Normal ........', reason: 'unmovable', stage: 'look' },
  { name: 'a pin', world: 'n0 Normal M..P....\n n0 Normal ........', reason: 'stuck', stage: 'migrate' },
  {
    name: 'a slab page in Movable',
    world: 'n0 Movable U.......\n n0 Normal ........',
    reason: 'stuck',
    stage: 'migrate',
  },
  { name: 'nowhere to go', world: 'n0 Normal M.......\n n0 Normal UUUUUUUU *U', reason: 'no-target', stage: 'migrate' },
];

describe('O5 refusals of offline', () => {
  for (const { name, world, reason, stage } of REFUSALS) {
    it(`O5 ${name}: ${reason}, ${ERRNO_OF[reason]}, at ${stage}`, () => {
      const { m, block } = worldFrom(world);
      const work = new OfflineWork(m, block(0));
      let last: OfflineStage = 'check';
      while (!work.finished) {
        last = work.stage;
        work.step();
      }
      expect(last).toBe(stage);
      expect(work.refusal).toMatchObject({ reason, errno: ERRNO_OF[reason] });
      expect(m.check()).toEqual([]);
      if (stage !== 'migrate') expect(pictureOf(m)).toBe(drawn(world)); // what moved or split by then stays so
      expect(pictureOf(m)).not.toContain('I:');
    });
  }

  it('O5 no such block, a block that is offline, a block that goes offline already', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n0 Normal ........');
    expect(m.offline(block(7))).toMatchObject({ error: { reason: 'no-such-block', errno: 'ENOENT' } });
    expect(m.offline(block(0)).ok).toBe(true);
    expect(m.offline(block(0))).toMatchObject({ error: { reason: 'not-online', errno: 'EINVAL' } });
    const first = m.beginOffline(block(1));
    first.step();
    expect(m.offline(block(1))).toMatchObject({ error: { reason: 'busy', errno: 'EBUSY' } });
    expect(run(first).stage).toBe('done');
  });

  it('O5 a block that lies in more than one zone', () => {
    const half = toPfn(PAGES_PER_SECTION / 2);
    const end = toPfn(PAGES_PER_SECTION);
    for (const second of [
      { node: toNodeId(0), zone: 3 },
      { node: toNodeId(1), zone: 2 },
    ] as const) {
      const m = Machine.boot({
        ram: [
          { start: toPfn(0), end: half, node: toNodeId(0), zone: 2 },
          { start: half, end, ...second },
        ],
        watermarks: 'none',
        code: 'shared',
      });
      const [b] = m.blockIds();
      expect(m.offline(b)).toMatchObject({ error: { reason: 'multizone', errno: 'EINVAL' } });
      expect(m.check()).toEqual([]);
    }
  });

  it('O5 the evidence names every run of frames that stands in the way, with class, holder and cause', () => {
    const { m, at, holder, block } = worldFrom(`
      n0 Normal   UU.M.RD.|........|C:......M.
      n0 Normal   ........
    `);
    const r = m.offline(block(0));
    if (r.ok) throw new Error('should be refused');
    const U = holder('U');
    expect(r.error.blockers).toEqual([
      { startPfn: at(0, 0, 0), endPfn: at(0, 0, 2), cause: 'unmovable', class: 'slab', holder: U, name: 'U' },
      {
        startPfn: at(0, 0, 5),
        endPfn: at(0, 0, 6),
        cause: 'reserved',
        class: 'reserved',
        holder: holder('R'),
        name: 'R',
      },
      {
        startPfn: at(0, 0, 6),
        endPfn: at(0, 0, 7),
        cause: 'unmovable',
        class: 'driver',
        holder: holder('D'),
        name: 'D',
      },
      { startPfn: at(0, 2, 0), endPfn: at(0, 2, 6), cause: 'cma', class: 'none', holder: -1, name: 'a CMA area' },
      { startPfn: at(0, 2, 6), endPfn: at(0, 2, 7), cause: 'cma', class: 'anonymous', holder: holder('M'), name: 'M' },
      { startPfn: at(0, 2, 7), endPfn: at(0, 3, 0), cause: 'cma', class: 'none', holder: -1, name: 'a CMA area' },
    ]);
    expect(r.error.message).toContain(`${12 * CELL_PAGES} frames cannot move`);
  });

  it('O5 causes at the end of migration: pinned, kernel-in-movable, no-target', () => {
    const { m, at, holder, block } = worldFrom(`
      n0 Movable  P..U..M.
      n0 Normal   UUUUUUUU *U
    `);
    const r = m.offline(block(0));
    if (r.ok) throw new Error('should be refused');
    expect(r.error.reason).toBe('stuck');
    expect(r.error.blockers.map((b) => [b.startPfn, b.cause, b.holder])).toEqual([
      [at(0, 0, 0), 'pinned', holder('P')],
      [at(0, 0, 3), 'kernel-in-movable', holder('U')],
      [at(0, 0, 6), 'no-target', holder('M')],
    ]);
  });

  it('O5 every errno has its number in Linux', () => {
    // Node's own table of this system, but for what it does not know.
    const { EHWPOISON, ...known } = ERRNO;
    expect(EHWPOISON).toBe(133);
    for (const [name, number] of Object.entries(known)) {
      expect(constants.errno[name as keyof typeof constants.errno], name).toBe(number);
    }
    for (const name of Object.values(ERRNO_OF)) expect(ERRNO[name]).toBeGreaterThan(0);
  });
});

describe('O6 a refusal of `offline` leaves the machine exactly as it was', () => {
  const refused: readonly (readonly [string, string, (w: World) => void])[] = [
    ['unmovable at the look', 'n0 Normal MMU.mm..\n n0 Normal ........', () => {}],
    ['pinned', 'n0 Normal MMP.mm..\n n0 Normal ........', () => {}],
    ['kernel in Movable', 'n0 Movable MMUF....\n n0 Normal ........', () => {}],
    ['no target, a huge page split on the way', 'n0 Normal TTTTTTTT|HHHHHHHH\n n0 Normal .U.U.U.U *U', () => {}],
    ['a veto', BUSY, ({ m }) => void m.notifiers.push({ name: 'no', goingOffline: () => 'EBUSY' })],
  ];
  for (const [name, text, prepare] of refused) {
    for (const placement of ['address', 'fullest', 'lifo'] as const) {
      it(`O6 ${name}, ${placement}: digest, counters, per-CPU lists`, () => {
        const world = worldFrom(text, { placement, contents: 'bytes' });
        const { m, block, holder } = world;
        prepare(world);
        // Pages on per-CPU lists, too: drained on the way, and back on their lists afterwards.
        const got = Array.from({ length: 100 }, () => m.alloc(holder('M'), toOrder(0)));
        for (const pfn of got.slice(20, 60)) m.free(toPfn(pfn));
        expect(m.pools.some((p) => p.alloc.pcpPages() > 0)).toBe(true);
        m.write(toPfn(got[0]), 7, Uint8Array.of(1, 2, 3));
        const before = stateOf(m);
        const control = m.fork();
        expect(m.offline(block(0)).ok).toBe(false);
        expect(stateOf(m)).toEqual(before);
        expect(m.check()).toEqual([]);
        expect(m.read(toPfn(got[0])).slice(7, 10)).toEqual(Uint8Array.of(1, 2, 3));
        // ... and what comes next is what would have come: the lists' own order is back as well.
        const next = (on: Machine): number[] =>
          Array.from({ length: 300 }, (_, k) => on.alloc(holder('M'), toOrder(k % 3)));
        expect(next(m)).toEqual(next(control));
      });
    }
  }

  it('O6 a step-wise offline that was refused keeps what had moved: its second try has less to do', () => {
    const { m, block } = worldFrom('n0 Normal MMMMP...\n n0 Normal ........');
    const work = run(m.beginOffline(block(0)));
    expect(work.refusal?.reason).toBe('stuck');
    expect(work.migratedPages).toBe(4 * CELL_PAGES);
    expect(pictureOf(m)).toBe(drawn('n0 Normal ....P...\n n0 Normal MMMM....'));
    expect(m.check()).toEqual([]);
  });
});

describe('O1 O7 undo', () => {
  it('O1 undo gives each pageblock its own type, not Movable to all as Linux 6.12 does', () => {
    const text = `
      n0 Normal   U:....F...|R:M......F|MMMM....|A:....F...|.......P
      n0 Normal   ........
    `;
    const { m, block } = worldFrom(text);
    const work = until(m.beginOffline(block(0)), 'notify');
    expect(pictureOf(m)).toContain('I:....F...|I:M......F|I:MMMM....|I:....F...');
    work.cancel();
    expect(pictureOf(m)).toBe(drawn(text));
    expect(m.check()).toEqual([]);
  });

  it('O7 cancel after n steps, for every n until success: sound each time, and as at the start while nothing moved', () => {
    const text = `
      n0 Normal   MM..mF..|U:...F....|TTTTTTTT|HHHHHHHH|......B.
      n1 Normal   ...M....
      n1 Movable  ........
    `;
    let n = 0;
    let undone = 0;
    for (let finished = false; !finished; n++) {
      const { m, block, holder } = worldFrom(text, { contents: 'bytes' });
      for (const p of m.pools) p.alloc.drain();
      const start = m.digest();
      const pages = Array.from(m.holders.pages);
      const stamps = stampAll(m);
      const work = m.beginOffline(block(0), { batch: 3 });
      for (let k = 0; k < n && !work.finished; k++) work.step();
      finished = work.finished;
      work.cancel();
      if (!finished) {
        expect(work.refusal, `after ${n} steps`).toMatchObject({ reason: 'interrupted', errno: 'EINTR' });
        expect(m.block(block(0))?.state).toBe('online');
        if (!work.moved) {
          expect(m.digest(), `after ${n} steps`).toBe(start);
          undone++;
        }
      } else expect(work.stage).toBe('done');
      expect(m.check(), `after ${n} steps`).toEqual([]);
      expect(Array.from(m.holders.pages), `after ${n} steps`).toEqual(pages);
      expect(stampsOf(m), `after ${n} steps`).toEqual(stamps);
      expect(m.offlinesUnderWay).toBe(0);
      // The machine is of use: the pool's per-CPU lists work again.
      const again = m.alloc(holder('M'), toOrder(0));
      m.free(toPfn(again));
      expect(m.poolAt(m.sections.indexOf(toPfn(again)))?.alloc.pcpPages()).toBeGreaterThan(0);
    }
    expect(undone).toBeGreaterThan(64); // check, look, quiesce, 64 pageblocks, notify
    expect(n).toBeGreaterThan(undone + 10);
  });

  it('O7 O4 cancel before the first step touches nothing, not even the work that is at the block (seed 31337)', () => {
    const { m, block } = worldFrom('n0 Normal MM......\n n0 Normal ........');
    const first = until(m.beginOffline(block(0)), 'migrate');
    const before = m.digest();
    const second = m.beginOffline(block(0));
    second.cancel();
    expect(second.refusal?.reason).toBe('interrupted');
    expect([m.digest(), m.block(block(0))?.state, m.offlinesUnderWay]).toEqual([before, 'going-offline', 1]);
    expect(run(first).stage).toBe('done');
  });

  it('O7 cancel of an offline that is over changes nothing', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n0 Normal ........');
    const work = run(m.beginOffline(block(0)));
    const after = m.digest();
    work.cancel();
    expect([work.stage, m.digest()]).toEqual(['done', after]);
    expect(() => work.step()).toThrow(/over/);
  });
});

/** Real bytes into the first and last frame of every allocation: holder and index, which moves must carry along. */
function stampAll(m: Machine): string[] {
  for (let h = 0; h < m.holders.length; h++) {
    m.forEachFrameOf(toHolderId(h), (head, order, index) => {
      m.write(head, 0, Uint8Array.of(h, index & 255, index >> 8));
      m.write(toPfn(head + 2 ** order - 1), 4093, Uint8Array.of(h, index & 255, index >> 8));
    });
  }
  return stampsOf(m);
}

/** The bytes that each holder finds, by index. */
function stampsOf(m: Machine): string[] {
  const out: string[] = [];
  for (let h = 0; h < m.holders.length; h++) {
    m.forEachFrameOf(toHolderId(h), (head, order, index) => {
      const first = m.read(head).subarray(0, 3).join();
      const last = m
        .read(toPfn(head + 2 ** order - 1))
        .subarray(4093)
        .join();
      out.push(`${h}/${index}: ${first} ${last}`);
    });
  }
  return out;
}

describe('O2 O3 O12 a block that left', () => {
  it('O2 O3 all of its frames are gone from lists and holders; contents and indexes went elsewhere', () => {
    const { m, block } = worldFrom(
      `
      n0 Normal   MM..mF..|........|TTTTTTTT|HHHHHHHH|B.......
      n1 Normal   ........
    `,
      { contents: 'bytes' },
    );
    const stamps = stampAll(m);
    const r = m.offline(block(0));
    const moved = 4 * CELL_PAGES + 2 * 512 + CELL_PAGES;
    expect(r).toMatchObject({ ok: true, value: { pages: PAGES_PER_SECTION, migratedPages: moved } });
    expect(pictureOf(m).split('\n')[0]).toBe(drawn('n0 offline --------'));
    expect(m.blockersIn(toPfn(0), toPfn(PAGES_PER_SECTION))).toMatchObject([{ cause: 'hole' }]);
    expect(stampsOf(m)).toEqual(stamps);
    expect(m.vmstat.pgmigrate_success).toBe(moved);
    expect(m.check()).toEqual([]);
  });

  it('O12 managed, present and the free count drop by the block; the span only when a border left', () => {
    const { m, block } = worldFrom('n0 Normal ........\n'.repeat(4));
    const pool = m.poolNamed(toNodeId(0), 'Normal');
    if (pool === undefined) throw new Error('no Normal pool');
    const S = PAGES_PER_SECTION;
    const counters = () => [
      pool.startPfn / S,
      pool.spanned / S,
      pool.present / S,
      pool.managed / S,
      pool.alloc.nrFree() / S,
    ];
    expect(counters()).toEqual([0, 4, 4, 4, 4]);
    m.offline(block(1));
    expect(counters()).toEqual([0, 4, 3, 3, 3]); // a middle block: the span stays
    m.offline(block(0));
    expect(counters()).toEqual([2, 2, 2, 2, 2]); // the start left, and block 1 is not there either
    m.offline(block(3));
    expect(counters()).toEqual([2, 1, 1, 1, 1]);
    m.offline(block(2));
    expect(counters()).toEqual([0, 0, 0, 0, 0]);
    expect(m.check()).toEqual([]);
    // Spec 1.7: no kernel zone spans it, so that it comes back as Normal.
    expect(m.online(block(2), 'kernel')).toMatchObject({ value: { zone: 'Normal' } });
    m.online(block(0), 'kernel');
    expect(counters()).toEqual([0, 3, 2, 2, 2]);
    expect(m.check()).toEqual([]);
  });

  it('O12 only the border that left moves: a zone that begins at frame 1 still does when its end goes', () => {
    const { m, block } = worldFrom('n0 Normal #.......\n n0 Normal ........\n n0 Normal ........\n n0 Normal .......#');
    const pool = m.poolNamed(toNodeId(0), 'Normal');
    expect(m.offline(block(2)).ok).toBe(true);
    expect([pool?.startPfn, pool?.endPfn]).toEqual([CELL_PAGES, 4 * PAGES_PER_SECTION]); // the last block has frames to its end
    const two = worldFrom('n0 Normal #.......\n n0 Normal ........');
    const other = two.m.poolNamed(toNodeId(0), 'Normal');
    expect(two.m.offline(two.block(1)).ok).toBe(true);
    expect([other?.startPfn, other?.endPfn]).toEqual([CELL_PAGES, PAGES_PER_SECTION]);
    expect(two.m.check()).toEqual([]);
  });

  it('O2 poisoned and never plugged frames stay in the block that goes; only managed ones are subtracted', () => {
    const { m, block, at } = worldFrom('n0 Movable XV.M....\n n0 Normal ........');
    const pool = m.poolNamed(toNodeId(0), 'Movable');
    expect(m.offline(block(0)).ok).toBe(true);
    expect([pool?.managed, pool?.present]).toEqual([0, 0]);
    expect(pictureOf(m).split('\n')[0]).toBe('n0 offline  XV------');
    expect(m.check()).toEqual([]);
    expect(() => m.free(at(0, 0, 0))).toThrow(/offline/);
  });
});

describe('O12 N2 watermarks', () => {
  it('O12 N2 marks, reserves and per-CPU list sizes of all pools are computed anew at every offline and online', () => {
    const settings = { scaleFactor: 10, thp: false } as const;
    const { m, block } = worldFrom('n0 DMA32 ........\n n0 Normal ........\n n0 Normal ........\n n1 Normal ........', {
      watermarks: settings,
    });
    // min_free_kbytes looks at the high marks as they were.
    const expectFresh = (highs: readonly number[]): void => {
      const pools = m.pools.map(({ node, zone, managed, present }, k) => {
        return { node, zone, managed, present, high: highs[k] };
      });
      const fresh = computeWatermarks(pools, settings, minFreeKbytes(pools, settings).value);
      expect(m.pools.map((p) => p.watermarks)).toEqual(fresh);
    };
    const seen = new Set<string>();
    for (const change of [
      () => m.offline(block(1)).ok,
      () => m.online(block(1), 'movable').ok,
      () => m.offline(block(3)).ok,
      () => m.online(block(3), 'kernel').ok,
    ]) {
      const highs = m.pools.map((p) => p.watermarks.high);
      expect(change()).toBe(true);
      expectFresh(highs);
      seen.add(JSON.stringify(m.pools.map((p) => p.watermarks)));
    }
    expect(seen.size).toBe(3); // each of them mattered; the last takes the one before it back
  });
});

describe('O4 works', () => {
  it('O4 a second work on a block is refused from the first step of the first one on', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n0 Normal ........');
    const a = m.beginOffline(block(0));
    const b = m.beginOffline(block(0));
    a.step();
    expect(b.step()).toBe('refused');
    expect(b.refusal?.reason).toBe('busy');
    expect(run(a).stage).toBe('done');
    expect(m.check()).toEqual([]);
  });

  it('O4 works on blocks of one pool interleave: the per-CPU lists stay off until the last is over', () => {
    const { m, block, holder } = worldFrom('n0 Normal MMMM....\n n0 Normal MM......\n n0 Normal ........');
    const a = m.beginOffline(block(0), { batch: 1 });
    const b = m.beginOffline(block(1), { batch: 1 });
    while (!a.finished || !b.finished) {
      if (!a.finished) a.step();
      if (!b.finished) b.step();
      expect(m.check(1)).toEqual([]);
      if (m.offlinesUnderWay > 0 && a.steps > 2 && b.steps > 2) {
        m.free(toPfn(m.alloc(holder('M'), toOrder(0))));
        expect(m.poolNamed(toNodeId(0), 'Normal')?.alloc.pcpPages()).toBe(0);
      }
    }
    expect([a.stage, b.stage]).toEqual(['done', 'done']);
    expect(m.check()).toEqual([]);
    m.free(toPfn(m.alloc(holder('M'), toOrder(0))));
    expect(m.poolNamed(toNodeId(0), 'Normal')?.alloc.pcpPages()).toBeGreaterThan(0);
  });

  it('O4 a refused `offline` beside a running one takes only its own changes back', () => {
    const { m, block } = worldFrom('n0 Normal MMMM....\n n0 Normal MMP.....\n n0 Normal ........');
    const a = m.beginOffline(block(0), { batch: 1 });
    until(a, 'migrate').step();
    expect(m.offline(block(1))).toMatchObject({ error: { reason: 'stuck' } });
    expect(m.check()).toEqual([]);
    expect(run(a).stage).toBe('done');
    expect(m.check()).toEqual([]);
    expect(m.offlinesUnderWay).toBe(0);
  });

  it('O4 a pool that widens under a running offline keeps its per-CPU lists off, and undo still works', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n0 Movable ...P....\n n0 Movable ........');
    m.offline(block(0));
    const work = until(m.beginOffline(block(1)), 'migrate');
    expect(m.online(block(0), 'movable').ok).toBe(true); // its pool's hull begins one block earlier now
    expect(m.check()).toEqual([]);
    expect(run(work).refusal?.reason).toBe('stuck');
    expect(m.check()).toEqual([]);
    expect(m.poolNamed(toNodeId(0), 'Movable')?.present).toBe(3 * PAGES_PER_SECTION);
  });
});

describe('O8 listeners', () => {
  const listener = (name: string, log: string[], veto = false): Notifier => ({
    name,
    goingOffline: () => {
      log.push(`${name} going`);
      return veto ? 'ENOMEM' : undefined;
    },
    cancelOffline: () => log.push(`${name} cancel`),
    offline: () => log.push(`${name} offline`),
  });

  it('O8 they are asked in order; a veto gives its errno, and cancel reaches all, those behind it too', () => {
    const { m, block } = worldFrom(BUSY);
    const log: string[] = [];
    m.notifiers.push(listener('a', log), listener('b', log, true), listener('c', log));
    expect(m.offline(block(0))).toMatchObject({ error: { reason: 'notifier', errno: 'ENOMEM' } });
    expect(log).toEqual(['a going', 'b going', 'a cancel', 'b cancel', 'c cancel']);
    expect(m.check()).toEqual([]);
  });

  it('O8 success is told to all, once, after the block has left', () => {
    const { m, block } = worldFrom(BUSY);
    const log: string[] = [];
    m.notifiers.push(listener('a', log), { name: 'state', offline: (b) => log.push(`${m.block(b)?.state}`) });
    expect(m.offline(block(0)).ok).toBe(true);
    expect(log).toEqual(['a going', 'a offline', 'offline']);
  });

  it('O8 nobody hears of an offline that isolation refused', () => {
    const { m, block } = worldFrom('n0 Normal U.......\n n0 Normal ........');
    const log: string[] = [];
    m.notifiers.push(listener('a', log));
    m.offline(block(0));
    const late = until(m.beginOffline(block(1)), 'notify');
    late.cancel();
    expect(log).toEqual([]);
  });

  it('O8 on cancel the pageblocks are back: a listener may allocate in them', () => {
    const { m, block, holder } = worldFrom('n0 Movable ....P...');
    let pfn = -1;
    m.notifiers.push({ name: 'driver', cancelOffline: () => (pfn = m.alloc(holder('M'), toOrder(0))) });
    expect(run(m.beginOffline(block(0))).refusal?.reason).toBe('stuck');
    expect(pfn).toBeGreaterThanOrEqual(0);
    expect(m.check()).toEqual([]);
  });

  it('O8 a listener that gives frames back lets a block go that would have been stuck', () => {
    const { m, block, at } = worldFrom('n0 Movable D..D....\n n0 Normal ........');
    m.notifiers.push({
      name: 'driver',
      goingOffline: () => {
        m.free(at(0, 0, 0));
        m.free(at(0, 0, 3));
        return undefined;
      },
    });
    expect(m.offline(block(0)).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });
});

describe('O9 O10 O11 where contents go', () => {
  it('O9 to other nodes that have memory; to the own node only if there is none', () => {
    const two = worldFrom('n0 Normal MM......\n n0 Normal ........\n n1 Normal ........');
    expect(two.m.offline(two.block(0)).ok).toBe(true);
    expect(pictureOf(two.m)).toBe(drawn('n0 offline --------\n n0 Normal ........\n n1 Normal MM......'));
    const one = worldFrom('n0 Normal MM......\n n0 Normal ........');
    expect(one.m.offline(one.block(0)).ok).toBe(true);
    expect(pictureOf(one.m)).toBe(drawn('n0 offline --------\n n0 Normal MM......'));
  });

  it('O9 another node that is full does not open the own one', () => {
    const { m, block } = worldFrom('n0 Normal M.......\n n0 Normal ........\n n1 Normal UUUUUUUU *U');
    expect(m.offline(block(0))).toMatchObject({ error: { reason: 'no-target' } });
  });

  it('O9 frames of a kernel zone stay out of Movable; frames of Movable may go to a kernel zone', () => {
    const down = worldFrom('n0 Normal M.......\n n0 Movable ........');
    expect(down.m.offline(down.block(0))).toMatchObject({ error: { reason: 'no-target' } });
    const up = worldFrom('n0 Normal ........\n n0 Movable M.......');
    expect(up.m.offline(up.block(1)).ok).toBe(true);
    expect(pictureOf(up.m)).toBe(drawn('n0 Normal M.......\n n0 offline --------'));
  });

  it('O10 a huge page without a huge target is split and goes page by page; hugetlb is never split', () => {
    // Block 1 has 512 free frames, but no free pageblock.
    const full = '.UUUUUUU|'.repeat(8).slice(0, -1);
    const thp = worldFrom(`n0 Normal TTTTTTTT\n n0 Normal ${full} *U`);
    expect(thp.m.offline(thp.block(0))).toMatchObject({ ok: true, value: { migratedPages: 512 } });
    expect(pictureOf(thp.m).split('\n')[1]).toBe(`n0 Normal   ${full.replaceAll('.', 'm')} *U`);
    expect(thp.m.check()).toEqual([]);
    const hugetlb = worldFrom(`n0 Normal HHHHHHHH\n n0 Normal ${full} *U`);
    expect(hugetlb.m.offline(hugetlb.block(0))).toMatchObject({ error: { reason: 'no-target' } });
  });

  it('O10 a huge page that moved in part counts as progress, and the evidence names the frames that are left', () => {
    const { m, block, at } = worldFrom('n0 Normal TTTTTTTT\n n0 Normal .UUUUUUU|..UUUUUU *U');
    const work = run(m.beginOffline(block(0)));
    expect(work.refusal?.reason).toBe('no-target');
    expect(work.migratedPages).toBe(3 * CELL_PAGES);
    expect(work.refusal?.blockers).toMatchObject([{ startPfn: at(0, 0, 3), endPfn: at(0, 1), cause: 'no-target' }]);
    expect(m.check()).toEqual([]);
  });

  it('O11 a pin is retried: unpinned between two steps, the block goes', () => {
    const { m, block, at } = worldFrom('n0 Normal P.......\n n0 Normal ........');
    const work = until(m.beginOffline(block(0), { rounds: 5 }), 'migrate');
    work.step();
    work.step();
    expect(work.stage).toBe('migrate');
    expect(m.vmstat.pgmigrate_fail).toBe(2 * CELL_PAGES);
    m.unpin(at(0));
    expect(run(work).stage).toBe('done');
    expect(m.check()).toEqual([]);
  });

  it('O11 rounds without progress are bounded; a round in which something moved starts the count anew', () => {
    const { m, block } = worldFrom('n0 Normal PM......\n n0 Normal ........');
    for (const rounds of [1, 2, 7]) {
      const f = m.fork();
      const work = until(f.beginOffline(block(0), { rounds }), 'migrate');
      const before = work.steps;
      run(work);
      expect(work.refusal?.reason).toBe('stuck');
      expect(work.steps - before).toBe(1 + rounds); // the first round moved M
    }
    expect(() => m.beginOffline(block(0), { rounds: 0 })).toThrow(/rounds >= 1/);
  });
});

describe('O11 evidence is of the moment of the refusal', () => {
  const pinnedTwice = 'n0 Normal P..P....\n n0 Normal ........';

  it('O11 what was freed or unpinned since the round looked at it does not refuse, nor is it named', () => {
    const { m, block, at, holder } = worldFrom(pinnedTwice);
    const work = until(m.beginOffline(block(0), { rounds: 1, batch: 1 }), 'migrate');
    work.step();
    m.free(at(0, 0, 0)); // seen, and gone
    run(work);
    expect(work.refusal?.blockers).toMatchObject([{ startPfn: at(0, 0, 3), cause: 'pinned', holder: holder('P') }]);

    const other = worldFrom(pinnedTwice);
    const second = until(other.m.beginOffline(other.block(0), { rounds: 1, batch: 1 }), 'migrate');
    second.step();
    second.step();
    other.m.free(at(0, 0, 0));
    other.m.unpin(at(0, 0, 3)); // the last round would have refused for these two
    expect(run(second).stage).toBe('done');
    expect(second.migratedPages).toBe(CELL_PAGES);
    expect(other.m.check()).toEqual([]);
  });

  it('O11 a block in which pins come and go without end is refused all the same', () => {
    const { m, block, at } = worldFrom('n0 Normal P.......\n n0 Normal ........');
    const work = until(m.beginOffline(block(0), { rounds: 3, batch: 1 }), 'migrate');
    for (let k = 0; k < 100 && !work.finished; k++) {
      m.pin(at(0));
      work.step(); // looks at the page: pinned
      m.unpin(at(0));
      if (!work.finished) work.step(); // ends the round: nothing in the way
    }
    expect(work.refusal).toMatchObject({ reason: 'stuck', blockers: [] });
    expect(m.check()).toEqual([]);
  });
});

describe('O13 other work between the steps', () => {
  it('O13 an unmovable page that arrives between the look and its isolation is refused with evidence, all undone', () => {
    const text = 'n0 Normal ........\n n0 Normal UUUUUUUU *U';
    const { m, block, holder } = worldFrom(text);
    const work = until(m.beginOffline(block(0)), 'isolate');
    for (let k = 0; k < 5; k++) work.step();
    const pfn = m.alloc(holder('D'), toOrder(0)); // from the sixth pageblock on
    expect(pfn).toBeGreaterThanOrEqual(5 * 512);
    expect(run(work).refusal).toMatchObject({
      reason: 'unmovable',
      errno: 'EBUSY',
      blockers: [{ startPfn: pfn, endPfn: pfn + 1, class: 'driver' }],
    });
    m.free(toPfn(pfn));
    for (const p of m.pools) p.alloc.drain();
    // The request turned the chunk it came from Unmovable; but for that, all is as it was.
    const [first, second] = pictureOf(m).split('\n');
    expect(first.replaceAll('U:', '')).toMatch(/^n0 Normal {3}[.|]+$/);
    expect(second).toBe(drawn(text).split('\n')[1]);
    expect(m.check()).toEqual([]);
  });

  it('O13 I2 nothing is allocated from isolated pageblocks; what is freed there stays there', () => {
    const { m, block, holder, at } = worldFrom('n0 Normal M.......\n n0 Normal .UUUUUUU *U');
    const work = until(m.beginOffline(block(0)), 'migrate');
    const free = m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0);
    expect(free).toBe(CELL_PAGES);
    for (let k = 0; k < CELL_PAGES; k++)
      expect(m.alloc(holder('F'), toOrder(0))).toBeGreaterThanOrEqual(PAGES_PER_SECTION);
    expect(m.alloc(holder('F'), toOrder(0))).toBe(-1);
    m.free(at(0)); // M
    expect(m.alloc(holder('F'), toOrder(0))).toBe(-1);
    expect(run(work).stage).toBe('done');
    expect(m.check()).toEqual([]);
  });

  it('O13 frames that are placed into the block meanwhile are found before the point of no return, and bounded', () => {
    const { m, block, holder, at } = worldFrom('n0 Normal ........\n n0 Normal ........');
    const work = until(m.beginOffline(block(0)), 'commit');
    const pool = m.poolNamed(toNodeId(0), 'Normal');
    pool?.alloc.take(0, 10);
    m.place(holder('M'), at(0), at(0, 2));
    expect(work.step()).toBe('migrate');
    expect(run(work).stage).toBe('done');
    expect(work.migratedPages).toBe(1024);
    expect(m.check()).toEqual([]);
  });
});

describe("O13 frames in nobody's hands", () => {
  it('O13 a frame of the block that is neither free nor used keeps the block from leaving', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n0 Normal ........');
    const pool = m.poolNamed(toNodeId(0), 'Normal');
    const work = until(m.beginOffline(block(0)), 'commit');
    pool?.alloc.take(0, 10); // somebody is about to use it
    expect(run(work).refusal).toMatchObject({ reason: 'stuck', errno: 'EINTR', blockers: [] });
    expect(m.block(block(0))?.state).toBe('online');
    pool?.alloc.freeToArea(0, 10, true);
    expect(m.check()).toEqual([]);
    expect(m.offline(block(0)).ok).toBe(true);
  });
});

describe('E1 events', () => {
  it('E1 going-offline, then offline or cancel-offline, then online: one each, with numbers that only grow', () => {
    const { m, block } = worldFrom('n0 Normal M.......\n n0 Normal ........\n n0 Normal U.......');
    const events = recordEvents(m);
    m.offline(block(0));
    m.offline(block(2));
    m.online(block(0), 'movable');
    expect(events.map((e) => [e.seq, e.type, 'block' in e && e.block])).toEqual([
      [1, 'going-offline', 0],
      [2, 'offline', 0],
      [3, 'going-offline', 2],
      [4, 'cancel-offline', 2],
      [5, 'online', 0],
    ]);
    expect(events[3]).toMatchObject({ refusal: { reason: 'unmovable' } });
  });

  it('E1 a refusal at the check changes nothing and sends nothing; a rolled back one keeps its numbers spent', () => {
    const { m, block } = worldFrom('n0 Normal P.......\n n0 Normal .......#');
    const events = recordEvents(m);
    m.offline(block(1));
    m.offline(block(9));
    expect(events).toEqual([]);
    m.offline(block(0));
    m.offline(block(0));
    expect(events.map((e) => e.seq)).toEqual([1, 2, 3, 4]);
  });
});

describe('N1..N4 online', () => {
  it('N1 refusals change nothing: no such block, not offline, poisoned', () => {
    const { m, block, at, holder } = worldFrom('n0 Movable .X..X...\n n0 Normal ........');
    m.offline(block(0));
    const before = m.digest();
    expect(m.online(block(9), 'kernel')).toMatchObject({ error: { reason: 'no-such-block', errno: 'ENOENT' } });
    expect(m.online(block(1), 'kernel')).toMatchObject({ error: { reason: 'not-offline', errno: 'EINVAL' } });
    const X = holder('X');
    expect(m.online(block(0), 'movable')).toMatchObject({
      error: {
        reason: 'poisoned',
        errno: 'EHWPOISON',
        blockers: [
          { startPfn: at(0, 0, 1), endPfn: at(0, 0, 2), cause: 'poisoned', holder: X },
          { startPfn: at(0, 0, 4), endPfn: at(0, 0, 5), cause: 'poisoned', holder: X },
        ],
      },
    });
    const going = m.beginOffline(block(1));
    going.step();
    expect(m.online(block(1), 'kernel')).toMatchObject({ error: { reason: 'not-offline' } });
    going.cancel();
    expect(m.digest()).toBe(before);
  });

  it('N2 managed grows by the frames that became free, present by the block; unplugged frames stay out', () => {
    const { m, block } = worldFrom('n0 Movable ..V.V...\n n0 Normal ........');
    m.offline(block(0));
    expect(m.online(block(0), 'kernel')).toMatchObject({
      value: { pages: PAGES_PER_SECTION - 2 * CELL_PAGES, zone: 'Normal' },
    });
    const pool = m.poolNamed(toNodeId(0), 'Normal');
    expect(pool?.present).toBe(2 * PAGES_PER_SECTION);
    expect(pool?.managed).toBe(2 * PAGES_PER_SECTION - 2 * CELL_PAGES);
    expect(pictureOf(m)).toBe(drawn('n0 Normal ..V.V...\n n0 Normal ........'));
    expect(m.check()).toEqual([]);
  });

  it('N2 a block that holds its own memmap: it leaves and comes with the block, present and never managed', () => {
    const { m, block, at, holder } = worldFrom('n0 Movable WWWWWWWW|M.......|X.......\n n0 Normal ........');
    const pool = m.poolNamed(toNodeId(0), 'Movable');
    if (pool === undefined) throw new Error('no Movable pool');
    m.blocks.vmemmapPages[0] = 512;
    pool.managed -= 512; // a picture counts it as any kernel page; the block's own memmap never was managed
    expect(m.check()).toEqual([]);
    expect([pool.present, pool.managed]).toEqual([32768, 32256]); // as a real 6.12 prints such a block
    m.free(at(0, 2)); // no poison
    expect(m.offline(block(0))).toMatchObject({ value: { pages: 32256 } });
    expect([pool.present, pool.managed, pool.spanned]).toEqual([0, 0, 0]);
    expect(pictureOf(m).split('\n')[0]).toBe(drawn('n0 offline WWWWWWWW'));
    expect(m.check()).toEqual([]);
    expect(m.online(block(0), 'movable')).toMatchObject({ value: { pages: 32256 } });
    expect([pool.present, pool.managed, pool.spanned]).toEqual([32768, 32256, 32768]);
    expect(m.holders.pages[holder('W')]).toBe(512);
    expect(m.check()).toEqual([]);
  });

  it('N3 kernel: the DMA32 zone while its span meets the block, else Normal; movable: always Movable', () => {
    const { m, block } = worldFrom('n0 DMA32 ........\n n0 DMA32 ........\n n0 DMA32 ........');
    for (const k of [1, 2]) m.offline(block(k));
    expect(m.online(block(2), 'kernel')).toMatchObject({ value: { zone: 'Normal' } }); // beyond the span now
    m.offline(block(2));
    expect(m.online(block(1), 'movable')).toMatchObject({ value: { zone: 'Movable' } });
    m.offline(block(1));
    expect(m.poolNamed(toNodeId(0), 'DMA32')?.spanned).toBe(PAGES_PER_SECTION);
    const other = worldFrom('n0 DMA32 ........\n n0 DMA32 ........\n n0 DMA32 ........');
    other.m.offline(other.block(1)); // the span stays over it
    expect(other.m.online(other.block(1), 'kernel')).toMatchObject({ value: { zone: 'DMA32' } });
    expect(other.m.check()).toEqual([]);
    expect(m.check()).toEqual([]);
  });

  it('N4 a block comes back all Movable in chunks of order 10, behind what was free (lifo)', () => {
    const { m, block, holder, at } = worldFrom('n0 Normal U:........|........\n n0 Normal ........', {
      placement: 'lifo',
    });
    const before = m.poolNamed(toNodeId(0), 'Normal');
    m.offline(block(0));
    m.online(block(0), 'kernel');
    expect(pictureOf(m)).toBe(drawn('n0 Normal ........\n n0 Normal ........'));
    expect(m.alloc(holder('M'), toOrder(10))).toBe(at(1));
    expect(before?.alloc.area.orderAt(0)).toBe(10);
    expect(m.check()).toEqual([]);
  });

  it('N5 an empty zone far up costs tables for the block, not for everything below it', () => {
    const G = 2 ** 18; // frames of 1 GiB
    const m = Machine.boot({
      ram: [{ start: toPfn(0), end: toPfn(512 * G), node: toNodeId(0), zone: 2 }],
      watermarks: 'none',
      code: 'shared',
      blockSize: 2 ** 31,
    });
    const ids = m.blockIds();
    const last = ids[ids.length - 1];
    expect(m.offline(last).ok).toBe(true);
    expect(m.online(last, 'movable').ok).toBe(true);
    expect(m.poolNamed(toNodeId(0), 'Movable')?.pages).toBe(2 * G);
  });
});
