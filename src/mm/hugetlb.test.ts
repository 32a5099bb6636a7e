// Pools of huge pages. Rules HU1..HU12, docs/spec/huge-pages.md (spec 3.1 step 6; a recorded guest).

import { describe, expect, it } from 'vitest';
import { type BlockId, type HolderId, type NodeId, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { drawn, pictureOf, worldFrom } from '../../test/support/picture.ts';
import { takeFreeFrames } from './free-frames.ts';
import {
  checkHugetlb,
  dissolveFreeHugePages,
  faultHuge,
  HUGE_1G,
  HUGE_2M,
  hugetlbBytes,
  hugetlbCounts,
  hugetlbOf,
  migrateWithPools,
  releaseHuge,
  reserveHuge,
  unreserveHuge,
} from './hugetlb.ts';
import { adoptHugePages, freeHugePages, setNrHugepages, setNrOvercommitHugepages } from './hugetlb-resize.ts';
import { Machine } from './machine.ts';
import { copyMachineStates } from './machine-state.ts';
import { ZONE_MOVABLE } from './page-class.ts';
import { isolatePageblock, unisolatePageblock } from './page-isolation.ts';
import type { Pool } from './pool.ts';

const N0 = toNodeId(0);
const N1 = toNodeId(1);
const FREE = 'n0 Normal ........';

const sound = (m: Machine): void => {
  expect(m.check()).toEqual([]);
  expect(checkHugetlb(m)).toEqual([]);
};

const line = (m: Machine, node?: NodeId): number[] => {
  const { nr, free, reserved, surplus } = hugetlbCounts(m, HUGE_2M, node);
  return [nr, free, reserved, surplus];
};

const user = (m: Machine): HolderId => m.addHolder({ class: 'hugetlb', name: 'database' });

const fault = (m: Machine, h: HolderId, node: NodeId = N0, reserved = false): number => {
  const r = faultHuge(m, HUGE_2M, h, { node, reserved });
  return r.ok ? r.value : -1;
};

/** The recorded guest: 1 GiB a node, and 3 GiB of node 1 in Movable from 4 GiB on (Debian 6.1.192, QEMU 7.2). */
function recordedGuest(): Machine {
  const GIB = 2 ** 18;
  const m = Machine.boot({
    ram: [
      { start: toPfn(0), end: toPfn(GIB), node: N0 },
      { start: toPfn(GIB), end: toPfn(2 * GIB), node: N1 },
      { start: toPfn(4 * GIB), end: toPfn(7 * GIB), node: N1, zone: ZONE_MOVABLE },
    ],
    blockSize: 2 ** 27,
    code: 'shared',
    kernel: '6.1',
  });
  // Three pageblocks of block 32 were in other use, and the kernel's own memory lies in node 1's DMA32.
  const others = m.addHolder({ class: 'file', name: 'page cache' });
  const movable = m.poolNamed(N1, 'Movable') as Pool;
  const dma32 = m.poolNamed(N1, 'DMA32') as Pool;
  takeFreeFrames(movable, movable.base, movable.base + 3 * 512);
  m.place(others, movable.startPfn, toPfn(movable.startPfn + 3 * 512));
  const kernel = m.addHolder({ class: 'slab', name: 'kernel' });
  takeFreeFrames(dma32, dma32.base + 777, dma32.base + 778);
  m.place(kernel, toPfn(dma32.startPfn + 777), toPfn(dma32.startPfn + 778));
  return m;
}

describe('the recorded guest, command by command', () => {
  it('HU10 HU11 200 pages on node 1, 150 used; 24 blocks go offline: 50 dissolved, 150 move to node 0; 1 GiB stays 0', () => {
    const m = recordedGuest();
    const blocks: BlockId[] = Array.from({ length: 24 }, (_, k) => toBlockId(32 + k));
    const inBlock = (id: number, pfns: readonly number[]): number =>
      pfns.filter((p) => Math.floor(p / 32768) === id).length;

    // echo 200 > node1/hugepages/hugepages-2048kB/nr_hugepages
    expect(setNrHugepages(m, HUGE_2M, 200, N1)).toBe(200);
    expect(line(m)).toEqual([200, 200, 0, 0]);
    expect(hugetlbBytes(m) / 1024).toBe(409600);
    const all = freeHugePages(m, HUGE_2M);
    expect([32, 33, 34, 35, 36].map((id) => 512 * inBlock(id, all))).toEqual([31232, 32768, 32768, 5632, 0]);

    // A process bound to node 1 maps 150 of them and touches them.
    const h = m.addHolder({ class: 'hugetlb', name: 'process', node: N1 });
    expect(reserveHuge(m, HUGE_2M, 150)).toEqual({ ok: true, value: 150 });
    expect(line(m)).toEqual([200, 200, 150, 0]);
    const used = Array.from({ length: 150 }, () => fault(m, h, N1, true));
    expect(line(m)).toEqual([200, 50, 0, 0]);
    expect([32, 33, 34, 35].map((id) => 512 * inBlock(id, used))).toEqual([5632, 32768, 32768, 5632]);
    sound(m);

    // Offline of 32..55: HugePages_Total 150, HugePages_Free 0 from the first one on.
    for (const id of blocks) {
      expect(m.offline(id).ok, `block ${id}`).toBe(true);
      expect(line(m), `block ${id}`).toEqual([150, 0, 0, 0]);
    }
    expect([line(m, N0)[0], line(m, N1)[0]]).toEqual([150, 0]);
    sound(m);

    // All online again, the process is killed, the pool emptied.
    for (const id of blocks) expect(m.online(id, 'movable').ok).toBe(true);
    setNrHugepages(m, HUGE_2M, 0);
    expect(line(m)).toEqual([150, 0, 0, 150]);
    const heads: number[] = [];
    m.forEachFrameOf(h, (pfn) => heads.push(pfn));
    for (const pfn of heads) releaseHuge(m, toPfn(pfn));
    expect([...line(m), hugetlbBytes(m)]).toEqual([0, 0, 0, 0, 0]);

    // echo 1 > node1/hugepages/hugepages-1048576kB/nr_hugepages reads 0: 3 GiB free in Movable do not help.
    expect(setNrHugepages(m, HUGE_1G, 1, N1)).toBe(0);
    expect(hugetlbCounts(m, HUGE_1G).nr).toBe(0);
    sound(m);
  });
});

describe('the size of a pool', () => {
  const two = 'n0 Normal UUUUUUUU|UUUUUUUU|........|........|........ *U\n n1 Normal ........';

  it('HU4 grows on each node in turn, passes over one that is full, and stops where no node has room', () => {
    const { m } = worldFrom(two);
    expect(setNrHugepages(m, HUGE_2M, 4)).toBe(4);
    expect([line(m, N0)[0], line(m, N1)[0]]).toEqual([2, 2]);
    expect(setNrHugepages(m, HUGE_2M, 12)).toBe(12);
    expect([line(m, N0)[0], line(m, N1)[0]]).toEqual([3, 9]);
    expect(setNrHugepages(m, HUGE_2M, 500)).toBe(3 + 64);
    sound(m);
  });

  it('HU4 the file of a node changes that node only', () => {
    const { m } = worldFrom(two);
    expect(setNrHugepages(m, HUGE_2M, 5, N1)).toBe(5);
    expect(setNrHugepages(m, HUGE_2M, 2, N0)).toBe(7);
    expect([line(m, N0)[0], line(m, N1)[0]]).toEqual([2, 5]);
    expect(setNrHugepages(m, HUGE_2M, 1, N1)).toBe(3);
    expect([line(m, N0)[0], line(m, N1)[0]]).toEqual([2, 1]);
    sound(m);
  });

  it('HU5 shrinks by free pages, each node in turn, not below what is reserved; used pages become surplus and leave when given back', () => {
    const { m } = worldFrom('n0 Normal ........\n n1 Normal ........');
    const h = user(m);
    setNrHugepages(m, HUGE_2M, 10);
    const pfns = [fault(m, h), fault(m, h), fault(m, h)];
    reserveHuge(m, HUGE_2M, 2);
    expect(setNrHugepages(m, HUGE_2M, 1)).toBe(5);
    expect(line(m)).toEqual([5, 2, 2, 4]);
    sound(m);
    releaseHuge(m, toPfn(pfns[0]));
    expect(line(m)).toEqual([4, 2, 2, 3]);
    expect(m.frame(toPfn(pfns[0])).state).toBe('free');
    unreserveHuge(m, HUGE_2M, 2);
    expect(line(m)).toEqual([2, 0, 0, 1]);
    sound(m);
    expect(setNrHugepages(m, HUGE_2M, 2)).toBe(2);
    expect(line(m)).toEqual([2, 0, 0, 0]); // taken out of surplus first
    releaseHuge(m, toPfn(pfns[1]));
    expect(line(m)).toEqual([2, 1, 0, 0]);
    sound(m);
  });

  it('HU6 6.1 uses the page that was made last first, newer kernels the one that was made first; then the last one freed', () => {
    for (const [kernel, first] of [
      ['6.1', 3],
      ['6.12', 0],
    ] as const) {
      const { m } = worldFrom(FREE, { kernel });
      setNrHugepages(m, HUGE_2M, 4);
      const h = user(m);
      const pfn = fault(m, h);
      expect(pfn).toBe(512 * first);
      const second = fault(m, h);
      releaseHuge(m, toPfn(pfn));
      releaseHuge(m, toPfn(second));
      expect(fault(m, h)).toBe(second);
      sound(m);
    }
  });

  it('HU11 1 GiB: neighbours of order 9 of one holder, kernel zones only, never moved', () => {
    const kernel = Array(16).fill(FREE).join('\n');
    const { m } = worldFrom(`${kernel}\n${Array(16).fill('n0 Movable ........').join('\n')}`);
    expect(setNrHugepages(m, HUGE_1G, 9)).toBe(2);
    expect(hugetlbBytes(m)).toBe(2 * 2 ** 30);
    const h = m.addHolder({ class: 'gigantic', name: 'guest' });
    const r = faultHuge(m, HUGE_1G, h, { node: N0, reserved: false });
    expect(r).toEqual({ ok: true, value: 0 });
    expect([m.holders.members[h], m.holders.pages[h]]).toEqual([512, 2 ** 18]);
    sound(m);
    expect(migrateWithPools(m, 0, m.zonelist(N0, 3))).toBe('final');
    expect(m.offline(toBlockId(3))).toMatchObject({ error: { reason: 'unmovable', errno: 'EBUSY' } }); // used
    expect(m.offline(toBlockId(9))).toMatchObject({ error: { reason: 'unmovable', errno: 'EBUSY' } }); // free
    releaseHuge(m, toPfn(0));
    expect(setNrHugepages(m, HUGE_1G, 0)).toBe(0);
    expect(pictureOf(m).split('\n')[0]).toBe(drawn(FREE));
    sound(m);
  });

  it('HU12 pages that a holder got before the pools were there join as free pages; others do not', () => {
    const { m, holder } = worldFrom('n0 Normal HHHHHHHH|M.......|HHHHHHHH|........');
    m.alloc(holder('H'), toOrder(0));
    expect(adoptHugePages(m, HUGE_2M, holder('H'))).toBe(2);
    expect(line(m)).toEqual([2, 2, 0, 0]);
    expect(m.holders.pages[holder('H')]).toBe(1);
    sound(m);
  });
});

describe('promises, faults and surplus', () => {
  it('HU7 a promise keeps free pages from others; a fault without one is ENOSPC, a reservation beyond is ENOMEM', () => {
    const { m } = worldFrom(FREE);
    const h = user(m);
    setNrHugepages(m, HUGE_2M, 2);
    reserveHuge(m, HUGE_2M, 2);
    const before = m.digest();
    expect(faultHuge(m, HUGE_2M, h, { node: N0, reserved: false })).toMatchObject({
      error: { reason: 'no-huge-page', errno: 'ENOSPC' },
    });
    expect(reserveHuge(m, HUGE_2M, 1)).toMatchObject({ error: { reason: 'no-memory', errno: 'ENOMEM' } });
    expect(m.digest()).toBe(before);
    expect(fault(m, h, N0, true)).toBe(0);
    expect(line(m)).toEqual([2, 1, 1, 0]);
    sound(m);
  });

  it('HU8 faults and reservations make surplus pages as far as overcommit allows; given back, they leave', () => {
    const { m } = worldFrom(FREE);
    const h = user(m);
    setNrOvercommitHugepages(m, 3);
    const pfn = fault(m, h);
    expect(line(m)).toEqual([1, 0, 0, 1]);
    expect(reserveHuge(m, HUGE_2M, 3)).toMatchObject({ error: { errno: 'ENOMEM' } });
    expect(line(m)).toEqual([1, 0, 0, 1]);
    expect(reserveHuge(m, HUGE_2M, 2).ok).toBe(true);
    expect(line(m)).toEqual([3, 2, 2, 3]);
    sound(m);
    unreserveHuge(m, HUGE_2M, 2);
    releaseHuge(m, toPfn(pfn));
    expect(line(m)).toEqual([0, 0, 0, 0]);
    expect(pictureOf(m)).toBe(drawn(FREE));
    sound(m);
  });

  it('HU9 a page is cleared for its next user, and its contents follow a move to a free page of the pool', () => {
    const { m } = worldFrom('n0 Normal ........\n n1 Normal ........', { contents: 'bytes' });
    const h = user(m);
    setNrHugepages(m, HUGE_2M, 1, N0);
    setNrHugepages(m, HUGE_2M, 1, N1);
    const pfn = fault(m, h, N0);
    m.write(toPfn(pfn + 5), 1, Uint8Array.of(42));
    expect(
      migrateWithPools(
        m,
        pfn,
        m.zonelist(N1, 3).filter((id) => m.pools[id].node === N1),
      ),
    ).toBe('moved');
    expect([line(m, N0), line(m, N1)]).toEqual([
      [1, 1, 0, 0],
      [1, 0, 0, 0],
    ]);
    let at = -1;
    m.forEachFrameOf(h, (p) => (at = p));
    expect(m.read(toPfn(at + 5))[1]).toBe(42);
    sound(m);
    releaseHuge(m, toPfn(at));
    expect(m.read(toPfn(fault(m, h, N1) + 5))[1]).toBe(0);
    sound(m);
  });

  it('HU9 without a free page at the target a fresh one is made and the old one goes back; a surplus follows', () => {
    const { m } = worldFrom('n0 Normal ........\n n1 Normal ........');
    const h = user(m);
    setNrOvercommitHugepages(m, 1);
    const pfn = fault(m, h, N0);
    const targets = m.zonelist(N1, 3).filter((id) => m.pools[id].node === N1);
    m.pin(toPfn(pfn));
    expect(migrateWithPools(m, pfn, targets)).toBe('pinned');
    m.unpin(toPfn(pfn));
    expect(migrateWithPools(m, pfn, targets)).toBe('moved');
    expect([line(m, N0), line(m, N1)]).toEqual([
      [0, 0, 0, 0],
      [1, 0, 0, 1],
    ]);
    expect(m.frame(toPfn(pfn)).state).toBe('free');
    sound(m);
  });
});

describe('pages that lie elsewhere than they began', () => {
  it('HU9 a used surplus page that moves into a free page of the pool takes its surplus along', () => {
    const { m } = worldFrom('n0 Normal ........\n n1 Normal ........', { contents: 'bytes' });
    const h = user(m);
    setNrHugepages(m, HUGE_2M, 1, N1);
    const first = fault(m, h, N1);
    m.write(toPfn(first), 0, Uint8Array.of(66));
    releaseHuge(m, toPfn(first)); // the pool's page on node 1 has somebody's bytes
    setNrHugepages(m, HUGE_2M, 1, N0);
    const pfn = fault(m, h, N0);
    setNrHugepages(m, HUGE_2M, 0, N0);
    expect([line(m, N0), line(m, N1)]).toEqual([
      [1, 0, 0, 1],
      [1, 1, 0, 0],
    ]);
    expect(
      migrateWithPools(
        m,
        pfn,
        m.zonelist(N1, 3).filter((id) => m.pools[id].node === N1),
      ),
    ).toBe('moved');
    expect([line(m, N0), line(m, N1)]).toEqual([
      [1, 1, 0, 0],
      [1, 0, 0, 1],
    ]);
    expect(m.read(toPfn(first))[0]).toBe(0);
    sound(m);
  });

  it('HU10 a free page that counts as surplus leaves the surplus, too, when it is dissolved', () => {
    const { m } = worldFrom(FREE);
    setNrHugepages(m, HUGE_2M, 1);
    const pool = m.pools[m.owners.owner[0]] as Pool;
    const type = isolatePageblock(pool, 0); // it cannot be given back now: it becomes surplus
    expect(setNrHugepages(m, HUGE_2M, 0)).toBe(1);
    expect(line(m)).toEqual([1, 1, 0, 1]);
    unisolatePageblock(pool, 0, type);
    expect(dissolveFreeHugePages(m, toPfn(0), toPfn(512))).toEqual({ ok: true, value: 1 });
    expect(line(m)).toEqual([0, 0, 0, 0]);
    sound(m);
  });
});

describe('a block with huge pages goes offline', () => {
  it('HU10 free pages are dissolved; when all are reserved: dissolve, EBUSY, and everything is as before', () => {
    const { m, block } = worldFrom('n0 Normal M.......\n n1 Normal ........', { kernel: '6.12' });
    setNrHugepages(m, HUGE_2M, 3, N0);
    reserveHuge(m, HUGE_2M, 3);
    const before = [m.digest(), pictureOf(m), line(m)];
    const r = m.offline(block(0));
    expect(r).toMatchObject({ ok: false, error: { reason: 'dissolve', errno: 'EBUSY' } });
    if (!r.ok) expect(r.error.message).toContain('failure to dissolve huge pages');
    expect([m.digest(), pictureOf(m), line(m)]).toEqual(before);
    sound(m);
    unreserveHuge(m, HUGE_2M, 1);
    expect(m.offline(block(0))).toMatchObject({ error: { reason: 'dissolve' } }); // one can go, two are promised
    expect(line(m)).toEqual([3, 3, 2, 0]);
    sound(m);
    unreserveHuge(m, HUGE_2M, 2);
    expect(m.offline(block(0)).ok).toBe(true);
    expect(line(m)).toEqual([0, 0, 0, 0]);
    sound(m);
  });

  it('HU10 what a step-wise offline dissolved before its refusal is gone, as in Linux; a used page may take its place', () => {
    const { m, block } = worldFrom('n0 Normal ........\n n1 Normal ........');
    setNrHugepages(m, HUGE_2M, 3, N0);
    reserveHuge(m, HUGE_2M, 2);
    const work = m.beginOffline(block(0));
    while (!work.finished) work.step();
    expect(work.refusal).toMatchObject({ reason: 'dissolve' });
    expect(line(m)).toEqual([2, 2, 2, 0]);
    sound(m);
  });

  it('HU10 a range that ends inside a page dissolves it, too; a used page refuses; memory without pools has nothing to do', () => {
    const { m } = worldFrom(FREE);
    expect(dissolveFreeHugePages(m, toPfn(0), toPfn(32768))).toEqual({ ok: true, value: 0 });
    setNrHugepages(m, HUGE_2M, 3);
    expect(dissolveFreeHugePages(m, toPfn(600), toPfn(700))).toEqual({ ok: true, value: 1 });
    const h = user(m);
    expect(fault(m, h)).toBe(0);
    expect(dissolveFreeHugePages(m, toPfn(0), toPfn(2048))).toMatchObject({ error: { reason: 'dissolve' } });
    expect(line(m)).toEqual([2, 1, 0, 0]);
    sound(m);
  });

  it("HU3 a twin's huge pages, which no pool knows, move as before", () => {
    const { m, holder, block } = worldFrom('n0 Normal HHHHHHHH|HHHHHHHH\n n1 Normal ........');
    setNrHugepages(m, HUGE_2M, 2, N0);
    expect(m.offline(block(0)).ok).toBe(true);
    expect(m.holders.pages[holder('H')]).toBe(1024);
    expect(line(m)).toEqual([0, 0, 0, 0]);
    sound(m);
  });
});

describe('copies', () => {
  it('HU2 the state of a machine follows it into a copy, and neither sees what the other does then', () => {
    const { m } = worldFrom(FREE);
    setNrHugepages(m, HUGE_2M, 3);
    const fork = m.fork();
    copyMachineStates(m, fork);
    expect(line(fork)).toEqual([3, 3, 0, 0]);
    fault(fork, user(fork));
    expect([line(m), line(fork)]).toEqual([
      [3, 3, 0, 0],
      [3, 2, 0, 0],
    ]);
    sound(m);
    sound(fork);
    const { m: bare } = worldFrom(FREE);
    copyMachineStates(bare, fork);
    expect(hugetlbOf(fork).size(HUGE_2M).nr).toBe(0);
  });

  it('HU1 checkHugetlb sees a page that was freed behind the back of its pool, and promises that nothing covers', () => {
    const { m } = worldFrom(FREE);
    setNrHugepages(m, HUGE_2M, 3);
    const h = user(m);
    m.free(toPfn(fault(m, h)));
    expect(checkHugetlb(m)).toEqual([expect.stringContaining('HU1')]);
    hugetlbOf(m).size(HUGE_2M).used.clear();
    hugetlbOf(m).size(HUGE_2M).reserved = 9;
    expect(checkHugetlb(m)).toEqual([expect.stringContaining('HU3')]);
    hugetlbOf(m).size(HUGE_2M).free.pop();
    expect(checkHugetlb(m)[0]).toContain('HU2');
    expect(m.check().map((v) => v.rule)).toEqual(['C6', 'C6']); // everything else is sound
  });
});
