// Memory failure. Rules MF1..MF14, docs/spec/memory-failure.md (spec 3.5; a recorded guest).

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { CELL_PAGES, drawn, pictureOf, type World, worldFrom } from '../../test/support/picture.ts';
import { checkHugetlb, faultHuge, HUGE_1G, HUGE_2M, hugetlbCounts, reserveHuge, unreserveHuge } from './hugetlb.ts';
import { setNrHugepages } from './hugetlb-resize.ts';
import type { Machine } from './machine.ts';
import { copyMachineStates } from './machine-state.ts';
import {
  checkPoison,
  type FailureOutcome,
  forgetPoison,
  hardOffline,
  hardOfflinePageStore,
  hardwareCorrupted,
  memoryFailureCounts,
  parsePhysicalAddress,
  poisonedInBlock,
  poisonOf,
  poisonRenewed,
  type StoreContext,
  softOffline,
  softOfflinePageStore,
  unpoison,
} from './memory-failure.ts';
import type { PageState } from './page-state.ts';
import type { Pool } from './pool.ts';
import { ERRNO } from './refusal.ts';

const N0 = toNodeId(0);
const ROOT: StoreContext = { capSysAdmin: true, enabled: true };
const MF = 'Memory failure: 0x';
const SOFT = 'Soft offline: 0x';

const sound = (m: Machine): void => {
  expect(m.check()).toEqual([]);
  expect(checkPoison(m)).toEqual([]);
  expect(checkHugetlb(m)).toEqual([]);
};

/** Errno of an outcome; 0 = it worked. */
const errno = (o: { result: FailureOutcome['result'] | ReturnType<typeof unpoison>['result'] }): string =>
  o.result.ok ? 'ok' : o.result.error.errno;

const soft = (m: Machine, pfn: Pfn, state?: PageState): FailureOutcome =>
  softOffline(m, pfn, { enabled: true, ...(state && { pageState: () => state }) });
const hard = (m: Machine, pfn: Pfn, state?: PageState): FailureOutcome =>
  hardOffline(m, pfn, { cause: 'simulated', ...(state && { pageState: () => state }) });

describe('the recorded guest, command by command', () => {
  it('MF1 MF5 MF6 MF12 6.12: soft and hard, again, outside, switched off, offline and back: refused; unpoison: EIO', () => {
    const { m } = worldFrom(Array(5).fill('n0 Normal ........').join('\n'), { kernel: '6.12' });
    const write = (file: typeof softOfflinePageStore, text: string, context = ROOT): [string, readonly string[]] => {
      const o = file(m, text, context);
      return [errno(o), o.log];
    };
    const kb = (): number => hardwareCorrupted(m) / 1024;
    expect(write(softOfflinePageStore, '0x20000000\n')).toEqual(['ok', []]);
    expect(write(hardOfflinePageStore, '0x20001000\n')).toEqual([
      'ok',
      [`${MF}20001: recovery action for free buddy page: Recovered`],
    ]);
    expect(kb()).toBe(8);
    expect(memoryFailureCounts(m, N0)).toEqual({ delayed: 0, failed: 0, ignored: 0, recovered: 1, total: 1 });
    expect(write(softOfflinePageStore, '0x20000000\n')).toEqual(['ok', [`${SOFT}20000: page already poisoned`]]);
    expect(write(hardOfflinePageStore, '0x20001000\n')).toEqual([
      'EHWPOISON',
      [`${MF}20001: recovery action for already poisoned page: Failed`],
    ]);
    expect(write(softOfflinePageStore, '0x8c00000\n')).toEqual(['ok', []]);
    expect(write(hardOfflinePageStore, '0x8c00000\n')).toEqual([
      'EHWPOISON',
      [`${MF}8c00: recovery action for already poisoned page: Failed`],
    ]);
    expect(kb()).toBe(12);
    expect(write(softOfflinePageStore, '0xF00000000\n')).toEqual(['ENXIO', []]);
    expect(write(hardOfflinePageStore, '0xF00000000\n')).toEqual([
      'ENXIO',
      [`${MF}f00000: memory outside kernel control`],
    ]);
    expect(write(softOfflinePageStore, 'zz\n')).toEqual(['EINVAL', []]);
    const off = { ...ROOT, enabled: false };
    expect(write(softOfflinePageStore, '0x20002000\n', off)).toEqual([
      'EOPNOTSUPP',
      ['Soft offline: disabled by /proc/sys/vm/enable_soft_offline'],
    ]);
    expect(write(softOfflinePageStore, '0x20002000\n', off)).toEqual(['EOPNOTSUPP', []]); // said once
    expect(m.offline(toBlockId(4)).ok).toBe(true);
    expect(kb()).toBe(12);
    expect(m.online(toBlockId(4), 'kernel')).toMatchObject({ error: { errno: 'EHWPOISON' } });
    expect(errno(unpoison(m, toPfn(0x20000)))).toBe('EIO');
    expect(kb()).toBe(12);
    expect(memoryFailureCounts(m, N0).total).toBe(1);
    sound(m);
  });
});

describe('addresses', () => {
  it('MF4 without CAP_SYS_ADMIN: EPERM, whatever is written; junk: EINVAL; numbers as kstrtoull reads them', () => {
    const { m } = worldFrom('n0 Normal ........');
    const before = m.digest();
    for (const file of [softOfflinePageStore, hardOfflinePageStore]) {
      for (const text of ['0x1000', 'zz']) expect(errno(file(m, text, { ...ROOT, capSysAdmin: false }))).toBe('EPERM');
    }
    expect(m.digest()).toBe(before);
    for (const [text, pfn] of [
      ['0x1fff', 1],
      ['8192', 2],
      ['010000', 1],
      ['0', 0],
      ['+4096\n', 1],
      ['0X3000\n', 3],
      ['0xffffffffffffffff', 2 ** 52 - 1],
    ] as const) {
      expect(parsePhysicalAddress(text), text).toEqual({ ok: true, value: pfn });
    }
    for (const text of ['', ' 1', '1 ', '0x', '0xg', '08', '-1', '1\n\n', '1.5', '0x10000000000000000']) {
      expect(parsePhysicalAddress(text), text).toMatchObject({ error: { reason: 'bad-argument', errno: 'EINVAL' } });
    }
  });
});

describe('soft offline', () => {
  it('MF5 a free frame leaves alone, also from a per-CPU list; its chunk is split around it; managed stays', () => {
    const { m, holder } = worldFrom('n0 Normal ........');
    m.free(toPfn(m.alloc(holder('M'), toOrder(0)))); // frame 0 and its neighbours are on a per-CPU list
    const pool = m.pools[m.owners.owner[0]] as Pool;
    const { managed } = pool;
    for (const pfn of [0, 1500, 1023])
      expect(soft(m, toPfn(pfn))).toEqual({
        log: [],
        result: { ok: true, value: { pfn, frame: 'taken', migratedPages: 0, lost: -1, sigbus: false, eio: false } },
      });
    expect(pool.managed).toBe(managed);
    expect(m.frame(toPfn(1500))).toMatchObject({ state: 'used', class: 'poisoned', order: 0 });
    expect([m.frame(toPfn(1499)).state, m.frame(toPfn(1501)).state]).toEqual(['free', 'free']);
    expect(hardwareCorrupted(m)).toBe(3 * 4096);
    expect(memoryFailureCounts(m, N0).total).toBe(0);
    sound(m);
  });

  it('MF7 used pages move with their contents and the frame leaves: single, part of a large page (split), balloon', () => {
    for (const ink of ['m', 'M', 'B']) {
      const { m, at, holder } = worldFrom(`n0 Normal ${ink}.......`, { contents: 'bytes' });
      const pfn = toPfn(at(0) + 7);
      m.write(pfn, 9, Uint8Array.of(5));
      const before = m.holders.pages[holder(ink)];
      const r = soft(m, pfn);
      expect(r, ink).toMatchObject({ log: [], result: { value: { frame: 'taken', migratedPages: 1 } } });
      expect(m.frame(pfn)).toMatchObject({ class: 'poisoned' });
      expect(m.holders.pages[holder(ink)]).toBe(before);
      let found = 0;
      m.forEachFrameOf(holder(ink), (p) => {
        if (m.read(p)[9] === 5) found++;
      });
      expect(found, ink).toBe(1);
      sound(m);
    }
  });

  it('MF8 clean unmapped page cache is dropped: "invalidated"; dirty or mapped page cache moves', () => {
    for (const [state, dropped] of [
      [{ dirty: false, mapped: false }, true],
      [{ dirty: true, mapped: false }, false],
      [{ dirty: false, mapped: true }, false],
      [undefined, false],
    ] as const) {
      const { m, at, holder } = worldFrom('n0 Normal F.......');
      const r = soft(m, at(0), state);
      expect(r.log).toEqual(dropped ? [`${SOFT}0: invalidated`] : []);
      expect(r.result).toMatchObject({
        value: { frame: 'taken', lost: dropped ? holder('F') : -1, migratedPages: dropped ? 0 : 1 },
      });
      expect(m.holders.pages[holder('F')]).toBe(CELL_PAGES - (dropped ? 1 : 0));
      sound(m);
    }
  });

  const REFUSED: readonly [string, string, string, string | undefined][] = [
    ['a pinned large page', 'P.......', 'EBUSY', `${SOFT}0: thp split failed`],
    ['slab', 'U.......', 'EIO', `${MF}0: unhandlable page.`],
    ['a reserved page', 'R.......', 'EIO', `${MF}0: unhandlable page.`],
    ['a page that was never plugged', 'V.......', 'EIO', `${MF}0: unhandlable page.`],
    ['no RAM, in an online block', '#.......', 'EIO', `${MF}0: unhandlable page.`],
  ];
  for (const [name, cells, want, log] of REFUSED) {
    it(`MF9 ${name}: ${want}, and nothing has changed`, () => {
      const { m } = worldFrom(`n0 Normal ${cells}`);
      const before = m.digest();
      const r = soft(m, toPfn(0));
      expect([errno(r), r.log]).toEqual([want, log === undefined ? [] : [log]]);
      expect([m.digest(), hardwareCorrupted(m)]).toEqual([before, 0]);
      sound(m);
    });
  }

  it('MF9 a pinned single page: EBUSY, migration failed 1; no room: ENOMEM, migration failed -12', () => {
    const { m } = worldFrom('n0 Normal m.......');
    m.pin(toPfn(3));
    const r = soft(m, toPfn(3));
    expect([errno(r), r.log]).toEqual(['EBUSY', [`${SOFT}3: page migration failed 1`]]);
    const { m: full } = worldFrom('n0 Normal mUUUUUUU|UUUUUUUU *U');
    const f = soft(full, toPfn(3));
    expect([errno(f), f.log]).toEqual(['ENOMEM', [`${SOFT}3: page migration failed -12`]]);
    sound(m);
    sound(full);
  });

  it('MF9 an offline block: EIO; nothing there at all: ENXIO', () => {
    const { m, at, block } = worldFrom('n0 Normal ........\n n0 Normal ........');
    m.offline(block(1));
    expect(errno(soft(m, at(1)))).toBe('EIO');
    expect(errno(soft(m, at(9)))).toBe('ENXIO');
    expect(hard(m, at(1)).log).toEqual([`${MF}8000: memory outside kernel control`]);
    expect(errno(hard(m, at(1)))).toBe('ENXIO');
    sound(m);
  });
});

type HardCase = {
  cells: string;
  cls?: string;
  state?: PageState;
  errno: string;
  log: string[];
  taken: boolean;
  sigbus?: boolean;
  eio?: boolean;
};
const clean = { dirty: false, mapped: false };
const dirty = { dirty: true, mapped: false };
const act = (cls: string, result: string): string => `${MF}0: recovery action for ${cls}: ${result}`;
const HARD: Readonly<Record<string, HardCase>> = {
  'a process': {
    cells: 'm.......',
    errno: 'ok',
    log: [act('dirty LRU page', 'Recovered')],
    taken: true,
    sigbus: true,
    eio: false,
  },
  'part of a THP': {
    cells: 'TTTTTTTT',
    errno: 'ok',
    log: [act('dirty LRU page', 'Recovered')],
    taken: true,
    sigbus: true,
  },
  'a pinned THP': { cells: 'P.......', errno: 'EHWPOISON', log: [act('unsplit thp', 'Failed')], taken: false },
  'a clean file page': {
    cells: 'F.......',
    state: clean,
    errno: 'ok',
    log: [act('clean LRU page', 'Recovered')],
    taken: true,
    sigbus: false,
    eio: false,
  },
  'a clean mapped file page': {
    cells: 'F.......',
    errno: 'ok',
    log: [`${MF}0: corrupted page was clean: dropped without side effects`, act('clean LRU page', 'Recovered')],
    taken: true,
    sigbus: false,
  },
  'a dirty file page': {
    cells: 'F.......',
    state: dirty,
    errno: 'ok',
    log: [act('dirty LRU page', 'Recovered')],
    taken: true,
    sigbus: false,
    eio: true,
  },
  mlocked: {
    cells: 'm.......',
    state: { dirty: true, mapped: true, mlocked: true },
    errno: 'ok',
    log: [act('dirty mlocked LRU page', 'Recovered')],
    taken: true,
  },
  'unevictable, clean': {
    cells: 'm.......',
    state: { ...clean, unevictable: true },
    errno: 'ok',
    log: [act('clean unevictable LRU page', 'Recovered')],
    taken: true,
  },
  'clean in swap cache': {
    cells: 'm.......',
    state: { ...clean, swapCache: true },
    errno: 'ok',
    log: [act('clean swapcache page', 'Recovered')],
    taken: true,
  },
  'dirty in swap cache': {
    cells: 'm.......',
    state: { ...dirty, swapCache: true },
    errno: 'ok',
    log: [act('dirty swapcache page', 'Delayed')],
    taken: false,
  },
  truncated: {
    cells: 'F.......',
    state: { ...clean, truncated: true },
    errno: 'EBUSY',
    log: [act('already truncated LRU page', 'Ignored')],
    taken: false,
  },
  slab: {
    cells: 'U.......',
    errno: 'EBUSY',
    log: [`${MF}0: unhandlable page.`, act('get hwpoison page', 'Ignored')],
    taken: false,
  },
  reserved: {
    cells: 'R.......',
    errno: 'EBUSY',
    log: [`${MF}0: unhandlable page.`, act('get hwpoison page', 'Ignored')],
    taken: false,
  },
  balloon: {
    cells: 'B.......',
    errno: 'EBUSY',
    log: [`${MF}0: unhandlable page.`, act('get hwpoison page', 'Ignored')],
    taken: false,
  },
  "a twin's huge page": {
    cells: 'HHHHHHHH',
    errno: 'ok',
    log: [act('huge page', 'Recovered')],
    taken: true,
    sigbus: true,
  },
};

describe('hard offline', () => {
  for (const [name, c] of Object.entries(HARD)) {
    it(`MF10 ${name}: ${c.log.at(-1)?.slice(MF.length + 3)}`, () => {
      const { m } = worldFrom(`n0 Normal ${c.cells}|........`);
      const r = hard(m, toPfn(0), c.state);
      expect([errno(r), r.log]).toEqual([c.errno, c.log]);
      const f = m.frame(toPfn(0));
      expect(f.state === 'used' && f.class === 'poisoned').toBe(c.taken);
      if (r.result.ok) {
        if (c.sigbus !== undefined) expect(r.result.value.sigbus).toBe(c.sigbus);
        if (c.eio !== undefined) expect(r.result.value.eio).toBe(c.eio);
      }
      const outcome = c.log.at(-1)?.split(': ').at(-1)?.toLowerCase() as 'ignored' | 'failed' | 'delayed' | 'recovered';
      const counts = memoryFailureCounts(m, N0);
      expect([counts.total, counts[outcome]]).toEqual([1, 1]);
      expect(hardwareCorrupted(m)).toBe(4096);
      expect(errno(hard(m, toPfn(0)))).toBe('EHWPOISON');
      expect(memoryFailureCounts(m, N0).total).toBe(1);
      sound(m);
    });
  }

  it('MF10 a pinned file page: still referenced, Failed, and it stays with its user', () => {
    const { m, holder } = worldFrom('n0 Normal ........');
    const pfn = toPfn(m.alloc(holder('F'), toOrder(0)));
    m.pin(pfn);
    const r = hard(m, pfn, dirty);
    const at = pfn.toString(16);
    expect([errno(r), r.log]).toEqual([
      'EBUSY',
      [
        `${MF}${at}: dirty LRU page still referenced by 1 users`,
        `${MF}${at}: recovery action for dirty LRU page: Failed`,
      ],
    ]);
    expect(m.frame(pfn)).toMatchObject({ class: 'file' });
    expect(errno(unpoison(m, pfn))).toBe('EBUSY');
    sound(m);
  });
});

describe('huge pages', () => {
  const pools = (reserve: number): World => {
    const w = worldFrom('n0 Normal ........\n n1 Normal ........');
    setNrHugepages(w.m, HUGE_2M, 2, N0);
    reserveHuge(w.m, HUGE_2M, reserve);
    return w;
  };
  const nr = (m: Machine): number => hugetlbCounts(m, HUGE_2M).nr;

  it('MF11 a free one is dissolved and only the frame leaves; all reserved: EBUSY, and hard: Failed', () => {
    for (const verb of [soft, hard]) {
      const { m } = pools(0);
      expect(errno(verb(m, toPfn(700)))).toBe('ok');
      expect([nr(m), m.frame(toPfn(512)).state, m.frame(toPfn(700))]).toMatchObject([1, 'free', { class: 'poisoned' }]);
      sound(m);
      const { m: promised } = pools(2);
      expect(errno(verb(promised, toPfn(700)))).toBe('EBUSY');
      expect([nr(promised), hardwareCorrupted(promised)]).toEqual([2, verb === hard ? 4096 : 0]);
      sound(promised);
      unreserveHuge(promised, HUGE_2M, 2);
    }
    const { m } = pools(0);
    expect(hard(m, toPfn(700)).log).toEqual([`${MF}2bc: recovery action for free huge page: Recovered`]);
  });

  it('MF11 a used one: soft moves it and dissolves what it left; hard takes it from its user', () => {
    for (const verb of [soft, hard]) {
      const { m } = pools(0);
      const h = m.addHolder({ class: 'hugetlb', name: 'database', node: N0 });
      const r = faultHuge(m, HUGE_2M, h, { node: N0, reserved: false });
      const pfn = toPfn((r.ok ? r.value : -1) + 100);
      expect(verb(m, pfn).result).toMatchObject({
        ok: true,
        value: { frame: 'taken', migratedPages: verb === soft ? 512 : 0 },
      });
      expect(m.frame(pfn)).toMatchObject({ class: 'poisoned' });
      expect([m.holders.pages[h], nr(m)]).toEqual(verb === soft ? [512, 1] : [0, 1]);
      sound(m);
    }
  });

  it('MF11 pinned: EBUSY; of a hugetlbfs file: kept and marked; 1 GiB: nowhere to move it, ENOMEM', () => {
    const { m } = pools(0);
    const h = m.addHolder({ class: 'hugetlb', name: 'database', node: N0 });
    const r = faultHuge(m, HUGE_2M, h, { node: N0, reserved: false });
    const pfn = toPfn(r.ok ? r.value : -1);
    m.pin(pfn);
    expect(soft(m, pfn).log).toEqual([`${SOFT}${pfn.toString(16)}: hugepage migration failed 1`]);
    m.unpin(pfn);
    const file = { dirty: true, mapped: true, hugetlbfs: true };
    expect(hard(m, pfn, file).result).toMatchObject({
      value: { frame: 'marked', result: 'Recovered', class: 'huge page' },
    });
    expect(m.holders.pages[h]).toBe(512);
    sound(m);
    const { m: big } = worldFrom(Array(8).fill('n0 Normal ........').join('\n'));
    setNrHugepages(big, HUGE_1G, 1);
    const guest = big.addHolder({ class: 'gigantic', name: 'guest' });
    faultHuge(big, HUGE_1G, guest, { node: N0, reserved: false });
    expect(errno(soft(big, toPfn(70000)))).toBe('ENOMEM');
    expect(hard(big, toPfn(70000)).result).toMatchObject({ value: { frame: 'taken', result: 'Recovered' } });
    expect([big.holders.pages[guest], hugetlbCounts(big, HUGE_1G).nr, big.frame(toPfn(69999)).state]).toEqual([
      0,
      0,
      'free',
    ]);
    sound(big);
  });
});

describe('blocks and the way back', () => {
  it('MF12 a block with poison goes offline; its count forbids its return and is forgotten when it is removed', () => {
    const { m, at, block } = worldFrom('n0 Normal ........\n n0 Normal M.......');
    soft(m, at(1));
    hard(m, at(1, 5));
    expect([poisonedInBlock(m, block(0)), poisonedInBlock(m, block(1))]).toEqual([0, 2]);
    expect(m.offline(block(1)).ok).toBe(true);
    expect(m.online(block(1), 'kernel')).toMatchObject({ error: { reason: 'poisoned', errno: 'EHWPOISON' } });
    expect(hardwareCorrupted(m)).toBe(8192);
    sound(m);
    expect(forgetPoison(m, block(1))).toBe(2);
    expect([hardwareCorrupted(m), poisonedInBlock(m, block(1))]).toEqual([0, 0]);
  });

  it('MF12 6.1 brings it back with good frames; HardwareCorrupted stays (recorded)', () => {
    const { m, at, block } = worldFrom('n0 Normal ........\n n0 Normal ........', { kernel: '6.1' });
    soft(m, at(1));
    m.offline(block(1));
    expect(m.online(block(1), 'kernel').ok).toBe(true);
    poisonRenewed(m, block(1));
    expect(hardwareCorrupted(m)).toBe(4096);
    expect(m.frame(at(1)).state).toBe('free');
    expect(errno(soft(m, at(1)))).toBe('ok');
    sound(m);
  });

  it('MF13 unpoison: the frame is free again and merges; not poisoned, or still used: EBUSY; after a hardware error: EOPNOTSUPP', () => {
    const { m, at, holder } = worldFrom('n0 Normal U.......|........');
    const before = pictureOf(m);
    soft(m, at(0, 1));
    expect(unpoison(m, at(0, 1))).toEqual({
      log: ['Unpoison: 0x200: software-unpoisoned page'],
      result: { ok: true, value: at(0, 1) },
    });
    expect([pictureOf(m), hardwareCorrupted(m)]).toEqual([drawn(before), 0]);
    expect((m.pools[m.owners.owner[0]] as Pool).alloc.area.orderAt(512)).toBe(9);
    expect([errno(unpoison(m, at(0, 1))), unpoison(m, at(0, 1)).log]).toEqual([
      'EBUSY',
      ['Unpoison: 0x200: page was already unpoisoned'],
    ]);
    hard(m, at(0));
    expect([errno(unpoison(m, at(0))), unpoison(m, at(0)).log]).toEqual(['EBUSY', []]);
    const used = toPfn(m.alloc(holder('F'), toOrder(0)));
    m.pin(used);
    hard(m, used);
    expect(unpoison(m, used).log).toEqual([`Unpoison: 0x${used.toString(16)}: someone grabs the hwpoison page`]);
    soft(m, at(0, 1));
    hardOffline(m, at(0, 1, 2), { cause: 'hardware' });
    const r = unpoison(m, at(0, 1));
    expect([errno(r), r.log]).toEqual(['EOPNOTSUPP', ['Unpoison: 0x200: disabled after HW memory failure']]);
    sound(m);
  });

  it('MF14 the ledger follows its machine into a copy', () => {
    const { m, at } = worldFrom('n0 Normal ........');
    hard(m, at(0));
    const f = m.fork();
    copyMachineStates(m, f);
    hard(f, at(0, 3));
    expect([hardwareCorrupted(m), hardwareCorrupted(f)]).toEqual([4096, 8192]);
    expect([memoryFailureCounts(m, N0).total, memoryFailureCounts(f, N0).total]).toEqual([1, 2]);
    sound(m);
    sound(f);
  });

  it('MF2 MF3 checkPoison sees wrong sums and lost frames', () => {
    const { m, at } = worldFrom('n0 Normal ........');
    hard(m, at(0));
    const ledger = poisonOf(m);
    ledger.blocks.clear();
    const counts = ledger.nodes.get(N0);
    if (counts !== undefined) counts.total = 7;
    expect(checkPoison(m).map((s) => s.slice(0, 3))).toEqual(['MF3', 'MF2']);
    ledger.frames.clear();
    expect(checkPoison(m).map((s) => s.slice(0, 3))).toEqual(['MF1', 'MF2']);
    expect(ERRNO.EHWPOISON).toBe(133);
  });

  for (const seed of [1, 2, 3]) {
    it(`MF1 MF7 random failures: nothing is ever lost softly, and no poisoned frame is handed out, seed=${seed}`, () => {
      const rng = new Prng(seed);
      const { m, holder } = worldFrom('n0 Normal mMUF....|TTTTTTTT|HHHHHHHH|........\n n0 Movable mM.F....|........');
      for (const letter of ['m', 'F', 'T', 'H']) holder(letter);
      setNrHugepages(m, HUGE_2M, 3);
      const gone = new Set<number>();
      for (let event = 0; event < 300; event++) {
        const where = `seed=${seed} event=${event}`;
        const pfn = toPfn(rng.below(8) < 6 ? rng.below(2048) : 32768 + rng.below(1024));
        const kind = rng.weighted([5, 2, 2, 3]);
        const before = ['m', 'M', 'F', 'T', 'H'].map((l) => m.holders.pages[holder(l)]);
        if (kind === 0) {
          const r = soft(m, pfn);
          if (r.result.ok && r.result.value.frame === 'taken') gone.add(pfn);
          expect(
            ['m', 'M', 'F', 'T', 'H'].map((l) => m.holders.pages[holder(l)]),
            where,
          ).toEqual(before);
        } else if (kind === 1) {
          const r = hard(m, pfn);
          if (r.result.ok && r.result.value.frame === 'taken') gone.add(pfn);
        } else if (kind === 2) {
          if (unpoison(m, pfn).result.ok) gone.delete(pfn);
        } else {
          const order = rng.pick([0, 0, 3]);
          const got = m.alloc(holder('m'), toOrder(order));
          if (got >= 0) for (const p of gone) expect(p < got || p >= got + 2 ** order, where).toBe(true);
        }
        for (const p of gone) expect(m.frame(toPfn(p)), where).toMatchObject({ class: 'poisoned' });
        if (event % 50 === 0) sound(m);
      }
      expect(gone.size, `seed=${seed}`).toBeGreaterThan(50);
      expect(hardwareCorrupted(m) / 4096).toBe(poisonOf(m).frames.size);
      sound(m);
    });
  }
});
