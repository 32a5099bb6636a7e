// Where the struct pages of added memory lie, what that costs, and how they go. Rules in docs/spec/memmap.md.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type HolderId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import { KERNEL_PROFILES, type KernelName } from './kernel-profile.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import {
  gigabytesLeft,
  type MemmapInput,
  type MemmapLayout,
  type MemmapPlan,
  PAGES_PER_GIGABYTE,
  planMemmap,
  presentSections,
} from './memmap.ts';
import {
  type MemmapFrames,
  memmapPages,
  pfnOfSlot,
  releaseKernelMemmap,
  splitMemmap,
  takeKernelMemmap,
} from './memmap-frames.ts';
import { formatSelfRangeEvent, SelfRange, type SelfRangeEvent, structPageAddress } from './memmap-self-range.ts';

const GIB = PAGES_PER_GIGABYTE;
const SECTION = PAGES_PER_SECTION;
const golden = (file: string): string =>
  readFileSync(new URL(`../../test/golden/memmap/${file}`, import.meta.url), 'utf8');

/** The DIMM of Salvador and Hildenbrand 2018: 10 GiB at 4 GiB, blocks of 128 MiB. */
const RFC: MemmapInput = {
  startPfn: toPfn(4 * GIB),
  pages: 10 * GIB,
  blockPages: SECTION,
  policy: 'self-range',
  enabled: 'Y',
  callerAsks: true,
  profile: KERNEL_PROFILES['6.12'],
  pageTables: 'kernel',
};
const heads = (plan: MemmapPlan): number[] => [...plan.headPages];

/** Nodes 0 and 1 with `gib` GiB each: node 0 from 0 on, node 1 behind it. */
const twoNodes = (gib: number, rest: Omit<MachineSpec, 'ram'> = {}): Machine =>
  Machine.boot({
    ram: [0, 1].map((n) => ({ start: toPfn(n * gib * GIB), end: toPfn((n + 1) * gib * GIB), node: toNodeId(n) })),
    hotplug: { memmapOnMemory: 'Y', autoOnline: 'offline' },
    ...rest,
  });
/** Free frames by pool. Those on per-CPU lists are counted by nobody, so that they go back first. */
const freeOf = (m: Machine): number[] =>
  m.pools.map((p) => {
    p.alloc.drain();
    return p.alloc.nrFree();
  });
/** Frames of all leaves, tables of single frames excepted. */
const framesOf = (m: Machine, frames: MemmapFrames) =>
  frames.leaves.flatMap((leaf) => leaf.slots.map((slot) => pfnOfSlot(m, slot)));
const total = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);
/** The checker's answer, without D1: here frames are taken that no add has. */
const sound = (m: Machine) => m.check().filter((v) => v.rule !== 'C11');
const must = <T>(r: { ok: true; value: T } | { ok: false; error: unknown }): T => {
  if (!r.ok) throw new Error(`refused: ${JSON.stringify(r.error)}`);
  return r.value;
};

/** Takes memory until at most `pages` frames are free in all. */
function fillUntil(m: Machine, pages: number): HolderId {
  const holder = m.addHolder({ class: 'anonymous', name: 'load' });
  for (let order = 9; order >= 0; order -= 9) {
    while (total(freeOf(m)) - 2 ** order >= pages) if (m.alloc(holder, toOrder(order)) < 0) break;
  }
  return holder;
}

describe('plans', () => {
  it('MM1 the document: 10 GiB at 4 GiB need 40960 frames, the first block and a quarter of the second', () => {
    const plan = planMemmap(RFC);
    expect(plan).toMatchObject({ policy: 'self-range', why: undefined, memmapPages: 0xa000, wastedPages: 0 });
    expect(heads(plan)).toEqual([32768, 8192, ...new Array(78).fill(0)]);
    expect(plan.kernelChunks).toBe(0);
  });

  it('MM1 self-block: 512 frames at the head of every block of 128 MiB; 126 MiB of each are left', () => {
    const plan = planMemmap({ ...RFC, policy: 'self-block' });
    expect(heads(plan)).toEqual(new Array(80).fill(512));
    expect(plan).toMatchObject({ memmapPages: 80 * 512, wastedPages: 0, kernelChunks: 0 });
    expect(RFC.pages - total(heads(plan))).toBe(80 * 32256);
    const large = planMemmap({ ...RFC, policy: 'self-block', blockPages: 2 * GIB });
    expect(heads(large)).toEqual(new Array(5).fill(16 * 512)); // 32 MiB in each block of 2 GiB
  });

  it('MM1 kernel: a leaf of 2 MiB for each section, no frame of the range', () => {
    const plan = planMemmap({ ...RFC, policy: 'kernel' });
    expect(plan).toMatchObject({
      policy: 'kernel',
      why: undefined,
      kernelChunks: 80,
      memmapPages: 40960,
      wastedPages: 0,
    });
    expect(total(heads(plan))).toBe(0);
  });

  it('MM2 a condition that fails means kernel, silently, and says which; the first in Linux’s order', () => {
    const why = (over: Partial<MemmapInput>): string | undefined => {
      const plan = planMemmap({ ...RFC, policy: 'self-block', ...over });
      expect(plan.policy, plan.why).toBe(plan.why === undefined ? 'self-block' : 'kernel');
      if (plan.why !== undefined) expect(total(heads(plan))).toBe(0);
      return plan.why;
    };
    expect(why({})).toBeUndefined();
    expect(why({ enabled: 'N' })).toBe('disabled');
    expect(why({ enabled: 'N', callerAsks: false })).toBe('disabled');
    expect(why({ callerAsks: false })).toBe('not-asked');
    expect(why({ profile: KERNEL_PROFILES['6.1'] })).toBe('not-one-block');
    expect(why({ profile: KERNEL_PROFILES['6.1'], pages: SECTION })).toBeUndefined();
    // Blocks of a pageblock each, as no x86 has them: 512 pages * 60 bytes = 30720 are seven frames and a half.
    expect(why({ structPage: 60, blockPages: 512 })).toBe('not-whole-pages');
    expect(why({ structPage: 80 })).toBe('not-whole-pageblocks'); // 640 frames
    expect(why({ structPage: 80, enabled: 'force' })).toBe('not-whole-leaves'); // 1024 frames, 2.5 MiB
    expect(why({ structPage: 80, enabled: 'force', wholeLeaves: 'waived' })).toBeUndefined();
    expect(why({ blockPages: 512, enabled: 'force' })).toBe('nothing-left'); // 8 frames rounded up to the whole block
  });

  it('MM2 force rounds up and pays for it', () => {
    const plan = planMemmap({ ...RFC, policy: 'self-block', structPage: 80, enabled: 'force', wholeLeaves: 'waived' });
    expect(heads(plan)).toEqual(new Array(80).fill(1024));
    expect(plan.wastedPages).toBe(80 * (1024 - 640)); // "will waste 384 pages in each memory block"
  });

  it('MM2 self-range is not bound to one block, and fails when the range would be eaten whole', () => {
    expect(planMemmap({ ...RFC, profile: KERNEL_PROFILES['6.1'] }).policy).toBe('self-range');
    expect(planMemmap({ ...RFC, structPage: 4096 }).why).toBe('nothing-left');
    expect(planMemmap({ ...RFC, enabled: 'N' }).why).toBe('disabled');
  });

  it('MM3 page tables: nothing for whole GiB beside memory, one for each GiB that is mapped by 2 MiB', () => {
    const present = Array.from({ length: 32 }, (_, s) => s); // 4 GiB below the DIMM
    const tables = (over: Partial<MemmapInput>): number => planMemmap({ ...RFC, present, ...over }).kernelPageTables;
    expect(tables({ policy: 'kernel' })).toBe(0);
    expect(tables({ policy: 'self-range' })).toBe(0);
    expect(tables({ policy: 'kernel', directMap: '2M' })).toBe(10);
    expect(tables({ policy: 'self-block' })).toBe(10); // added block by block
    expect(tables({ policy: 'self-block', blockPages: 2 * GIB })).toBe(0);
    expect(tables({ policy: 'kernel', present: [] })).toBe(3); // direct map PUD, vmemmap PMD and PUD
    expect(tables({ policy: 'kernel', pages: 60 * GIB })).toBe(0); // 4..64 GiB: one vmemmap PMD
    expect(tables({ policy: 'kernel', pages: 61 * GIB })).toBe(1); // its memmap reaches into the next GiB
    expect(tables({ policy: 'kernel', startPfn: toPfn(512 * GIB) })).toBe(2); // direct map PUD, vmemmap PMD
    expect(tables({ policy: 'kernel', startPfn: toPfn(32768 * GIB) })).toBe(3); // and another PUD of vmemmap
    // Half a GiB in front of memory of the same GiB: its table is there.
    expect(tables({ policy: 'kernel', startPfn: toPfn(3.5 * GIB), pages: GIB / 2, present: [24] })).toBe(0);
    expect(tables({ policy: 'kernel', startPfn: toPfn(3.5 * GIB), pages: GIB / 2, present: [23] })).toBe(1);
  });

  it('MM4 tables in the range: those that serve nobody else, behind the memmap, rounded up to a pageblock', () => {
    const self: MemmapInput = { ...RFC, pageTables: 'self', directMap: '2M' };
    const range = planMemmap(self);
    expect(range).toMatchObject({ selfPageTables: 10, kernelPageTables: 3, wastedPages: 502 });
    expect(total(heads(range))).toBe(40960 + 10 + 502);
    const block = planMemmap({ ...self, policy: 'self-block' });
    expect(block).toMatchObject({ selfPageTables: 10, wastedPages: 10 * 511 });
    expect(heads(block)).toEqual(Array.from({ length: 80 }, (_, k) => (k % 8 === 0 ? 1024 : 512)));
    // Shared with neighbours: 3.5..4.5 GiB of a range touch two GiB and have neither to themselves.
    const odd = planMemmap({ ...self, startPfn: toPfn(3.5 * GIB), pages: GIB });
    expect(odd.selfPageTables).toBe(0);
    expect(planMemmap({ ...self, policy: 'kernel' }).selfPageTables).toBe(0);
  });

  it('MM5 1 GiB pages: self-range loses one of ten, self-block all, unless its blocks are 2 GiB', () => {
    const left = (policy: MemmapLayout, blockPages: number): number =>
      gigabytesLeft({ ...RFC, blockPages }, planMemmap({ ...RFC, policy, blockPages }).headPages);
    expect(left('kernel', SECTION)).toBe(10);
    expect(left('self-range', SECTION)).toBe(9);
    expect(left('self-block', SECTION)).toBe(0);
    expect(left('self-block', GIB)).toBe(0);
    expect(left('self-block', 2 * GIB)).toBe(5);
  });

  it('MM5 a wish for 1 GiB pages falls back to kernel when fewer would be left', () => {
    expect(planMemmap({ ...RFC, gigantic: 9 }).policy).toBe('self-range');
    expect(planMemmap({ ...RFC, gigantic: 10 })).toMatchObject({ policy: 'kernel', why: 'gigantic' });
    expect(planMemmap({ ...RFC, policy: 'self-block', gigantic: 1 }).why).toBe('gigantic');
    expect(planMemmap({ ...RFC, policy: 'self-block', blockPages: 2 * GIB, gigantic: 5 }).why).toBeUndefined();
  });

  it('MM1 a range that is no whole blocks is a bug', () => {
    expect(() => planMemmap({ ...RFC, pages: 100 })).toThrow(/whole memory blocks/);
    expect(() => planMemmap({ ...RFC, startPfn: toPfn(5) })).toThrow(/whole memory blocks/);
  });
});

describe('golden: real guests', () => {
  type Add = {
    kernel: KernelName;
    memmapOnMemory: 'N' | 'Y' | 'force';
    present: [number, number][];
    blocks: [number, number];
    directMap2M: number;
    directMap1G: number;
    memTotal: number;
    memFree: number;
  };
  const adds = JSON.parse(golden('adds.json')) as Add[];
  const planOf = (a: Add): MemmapPlan =>
    planMemmap({
      startPfn: toPfn(a.blocks[0] * SECTION),
      pages: (a.blocks[1] - a.blocks[0] + 1) * SECTION,
      blockPages: SECTION,
      policy: 'self-block',
      enabled: a.memmapOnMemory,
      callerAsks: true, // ACPI does
      profile: KERNEL_PROFILES[a.kernel],
      pageTables: 'kernel',
      present: a.present.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, k) => first + k)),
    });

  it('MM6 26 adds under 6.1 and 6.12: the direct map grows by the same leaves, MemTotal by the same frames', () => {
    expect(adds.length).toBe(26);
    for (const a of adds) {
      const plan = planOf(a);
      const where = `${a.kernel} ${a.memmapOnMemory} ${a.blocks}`;
      expect(plan.directMap.leaves1G * 1048576, where).toBe(a.directMap1G);
      expect(plan.directMap.leaves2M * 2048, where).toBe(a.directMap2M);
      const pages = (a.blocks[1] - a.blocks[0] + 1) * SECTION;
      expect((pages - total(heads(plan))) * 4, where).toBe(a.memTotal);
    }
  });

  it('MM6 60 GiB cost 960 MiB and two tables; the guests lost under 1 % more, for the devices of 480 blocks', () => {
    const large = adds.filter((a) => a.blocks[1] - a.blocks[0] + 1 === 480);
    expect(large.map((a) => a.kernel)).toEqual(['6.1', '6.1']);
    for (const a of large) {
      const plan = planOf(a);
      expect(plan).toMatchObject({ policy: 'kernel', kernelChunks: 480, kernelPageTables: 2 });
      const cost = plan.kernelChunks * 2048 + plan.kernelPageTables * 4;
      expect(-a.memFree).toBeGreaterThan(cost);
      expect(-a.memFree).toBeLessThan(cost * 1.01);
    }
  });

  it('MM6 self-hosted adds cost a guest of 6.12 less than 1 MiB, whatever their size', () => {
    const self = adds.filter((a) => a.kernel === '6.12' && a.memmapOnMemory !== 'N');
    expect(self.length).toBe(8);
    for (const a of self) {
      expect(planOf(a).policy).toBe('self-block');
      expect(planOf(a).kernelPageTables * 4).toBeLessThanOrEqual(-a.memFree);
      expect(-a.memFree).toBeLessThan(1024);
    }
  });
});

describe('frames of existing memory', () => {
  const dimm = (gib: number): MemmapInput => ({ ...RFC, policy: 'kernel', pages: gib * GIB });

  it('MM7 an add of 1 GiB takes 16384 kB near its node, all of them given back', () => {
    const m = twoNodes(2, { watermarks: 'none' });
    const before = freeOf(m);
    const plan = planMemmap({ ...dimm(1), present: presentSections(m) });
    expect(plan.kernelPageTables).toBe(0);
    const frames = must(takeKernelMemmap(m, toNodeId(1), plan));
    expect(memmapPages(frames) * 4).toBe(16384);
    expect(framesOf(m, frames).every((pfn) => m.frame(pfn).state === 'used' && pfn >= 2 * GIB)).toBe(true);
    expect(sound(m)).toEqual([]);
    expect(releaseKernelMemmap(m, frames)).toBe(4096);
    expect(freeOf(m)).toEqual(before);
    expect(sound(m)).toEqual([]);
  });

  it('MM7 when the near node has no more, the next one helps out; a node without memory begins at the first', () => {
    const m = twoNodes(2, { watermarks: 'none' });
    const hog = m.addHolder({ class: 'slab', name: 'hog', node: toNodeId(1) });
    const node1 = (): number => total(m.pools.filter((p) => p.node === 1).map((p) => p.alloc.nrFree()));
    while (node1() > 1024) m.alloc(hog, toOrder(9));
    const frames = must(takeKernelMemmap(m, toNodeId(1), planMemmap(dimm(1))));
    const far = framesOf(m, frames).filter((pfn) => pfn < 2 * GIB).length;
    expect(far).toBe(6);
    const none = must(takeKernelMemmap(m, toNodeId(7), planMemmap(dimm(1))));
    expect(framesOf(m, none).every((p) => p < 2 * GIB)).toBe(true);
    expect(sound(m)).toEqual([]);
  });

  it('MM8 without a free run of 2 MiB a leaf is 512 single frames and a table of their own', () => {
    const m = twoNodes(1, { watermarks: 'none' });
    const load = fillUntil(m, 0);
    const singles: number[] = [];
    m.forEachFrameOf(load, (head, order) => {
      if (order === 9) singles.push(head);
    });
    // 1024 free frames, no two of them neighbours: every second frame of four former pages of 2 MiB.
    const small = m.addHolder({ class: 'anonymous', name: 'small' });
    for (const head of singles.slice(0, 8)) m.free(toPfn(head));
    const pages: number[] = [];
    for (let pfn = m.alloc(small, toOrder(0)); pfn >= 0; pfn = m.alloc(small, toOrder(0))) pages.push(pfn);
    for (const pfn of pages.filter((p) => p % 2 === 0)) m.free(toPfn(pfn));
    expect(total(freeOf(m))).toBe(2048);
    const frames = must(takeKernelMemmap(m, toNodeId(0), planMemmap({ ...dimm(1), pages: 3 * SECTION })));
    expect(frames.leaves.map((leaf) => leaf.slots.length)).toEqual([512, 512, 512]);
    expect(memmapPages(frames)).toBe(3 * 513 + 1); // and the table of a GiB that is mapped by 2 MiB
    const [{ table, slots }] = frames.leaves;
    expect(m.frame(pfnOfSlot(m, table))).toMatchObject({ class: 'pagetable' });
    expect(m.frame(pfnOfSlot(m, slots[0]))).toMatchObject({ class: 'memmap' });
    expect(sound(m)).toEqual([]);
    releaseKernelMemmap(m, frames);
    // A fourth leaf would take 2053 frames in all: nothing is kept.
    const refused = takeKernelMemmap(m, toNodeId(0), planMemmap({ ...dimm(1), pages: 4 * SECTION }));
    expect(refused).toMatchObject({ ok: false, error: { reason: 'no-memory', errno: 'ENOMEM' } });
    expect(total(freeOf(m))).toBe(2048);
    expect(sound(m)).toEqual([]);
  });

  it('MM9 60 GiB with 64 MiB free: kernel is refused with ENOMEM and leaves nothing behind, self-hosting succeeds', () => {
    const m = twoNodes(2);
    fillUntil(m, 16384);
    const before = freeOf(m);
    expect(total(before)).toBe(16384);
    const range = { start: toPfn(4 * GIB), end: toPfn(64 * GIB) };
    const tables = { blocks: m.blocks.length, sections: presentSections(m).length, nodes: m.nodes.length };
    const iomem = JSON.stringify(m.hotplug.resources);
    const refused = m.addMemory(range, toNodeId(1), { memmap: 'kernel' });
    expect(refused).toMatchObject({ ok: false, error: { reason: 'no-memory', errno: 'ENOMEM' } });
    expect(freeOf(m)).toEqual(before);
    expect({ blocks: m.blocks.length, sections: presentSections(m).length, nodes: m.nodes.length }).toEqual(tables);
    expect(JSON.stringify(m.hotplug.resources)).toBe(iomem);
    expect(m.hotplug.ranges).toEqual([]);
    expect(m.check()).toEqual([]);
    for (const memmap of ['self-block', 'self-range'] as const) {
      const twin = m.fork();
      const added = must(twin.addMemory(range, toNodeId(1), { memmap }));
      expect(added).toMatchObject({ memmap, memmapWhy: undefined });
      expect(added.kernelPages).toBe(memmap === 'self-block' ? 60 : 0); // a table for each GiB that is mapped by 2 MiB
      expect(twin.check(1)).toEqual([]); // every frame of 64 GiB would take seconds; below it is 4 again
      must(twin.removeMemory(range));
      expect(freeOf(twin)).toEqual(before);
      expect(twin.check()).toEqual([]);
    }
  });

  it('MM10 a table that something present uses is not taken again, whether the plan knew or not', () => {
    const m = twoNodes(2, { watermarks: 'none' });
    const half = GIB / 2;
    const at = (pfn: number): MemmapInput => ({ ...dimm(1), startPfn: toPfn(pfn), pages: half });
    expect(presentSections(m)).toEqual(Array.from({ length: 32 }, (_, k) => k));
    expect(planMemmap(at(4 * GIB)).kernelPageTables).toBe(4); // as if there were no memory at all
    expect(must(takeKernelMemmap(m, toNodeId(1), planMemmap(at(4 * GIB)))).tables.length).toBe(1); // that of the GiB
    must(m.addMemory({ start: toPfn(4 * GIB), end: toPfn(4.5 * GIB) }, toNodeId(1)));
    expect(presentSections(m)).toEqual(Array.from({ length: 36 }, (_, k) => k));
    expect(must(takeKernelMemmap(m, toNodeId(1), planMemmap(at(4.5 * GIB)))).tables.length).toBe(0);
    // Memory that begins high up: the lowest areas have none.
    const high = Machine.boot({
      ram: [{ start: toPfn(1024 * GIB), end: toPfn(1025 * GIB), node: toNodeId(0) }],
      watermarks: 'none',
    });
    expect(presentSections(high)).toEqual(Array.from({ length: 8 }, (_, k) => 8192 + k));
    expect(must(takeKernelMemmap(high, toNodeId(0), planMemmap(at(0)))).tables.length).toBe(3); // one PUD of vmemmap for both
    expect([...sound(m), ...sound(high)]).toEqual([]);
  });

  it('MM11 a part of a range takes its own leaves along; a table stays while the rest needs it', () => {
    const range = { start: toPfn(4 * GIB), end: toPfn(6 * GIB) };
    const table = (start: number, end: number, slot: number) => ({ startPfn: start, endPfn: end, slot });
    const frames: MemmapFrames = {
      tables: [table(4 * GIB, 5 * GIB, 1), table(5 * GIB, 6 * GIB, 2), table(0, 64 * GIB, 3)],
      leaves: Array.from({ length: 16 }, (_, k) =>
        k === 9 ? { slots: Array.from({ length: 512 }, (_, n) => 100 + n), table: 99 } : { slots: [k], table: -1 },
      ),
    };
    const cut = (start: number, end: number) => splitMemmap(frames, range, { start: start * GIB, end: end * GIB });
    const shape = (f: MemmapFrames | undefined) => f && [f.tables.map((t) => t.slot), f.leaves.length, memmapPages(f)];
    const whole = cut(4, 6);
    expect([whole.before, shape(whole.gone), whole.after]).toEqual([
      undefined,
      [[1, 2, 3], 16, 15 * 512 + 513 + 3],
      undefined,
    ]);
    const head = cut(0, 5);
    expect([shape(head.before), shape(head.gone), shape(head.after)]).toEqual([
      undefined,
      [[1], 8, 8 * 512 + 1],
      [[2, 3], 8, 7 * 512 + 513 + 2],
    ]);
    const middle = cut(4.5, 5.5);
    expect([shape(middle.before), shape(middle.gone), shape(middle.after)]).toEqual([
      [[1, 3], 4, 4 * 512 + 2],
      [[], 8, 7 * 512 + 513],
      [[2], 4, 4 * 512 + 1],
    ]);
    expect(cut(4.5, 5.5).gone?.leaves[5].slots.length).toBe(512);
  });
});

describe('accounting', () => {
  const range = { start: toPfn(4 * GIB), end: toPfn(4.5 * GIB) };
  const sums = (m: Machine): [present: number, managed: number] => [
    total(m.pools.map((p) => p.present)),
    total(m.pools.map((p) => p.managed)),
  ];
  const grown = (memmap: MemmapLayout): { present: number; managed: number; free: number; unmovable: number } => {
    const m = twoNodes(2);
    const [present, managed] = sums(m);
    const free = total(freeOf(m));
    const { blocks } = must(m.addMemory(range, toNodeId(1), { memmap }));
    const taken = free - total(freeOf(m));
    for (const b of blocks) must(m.online(b, 'movable'));
    const [presentAfter, managedAfter] = sums(m);
    const out = {
      present: presentAfter - present,
      managed: managedAfter - managed,
      free: total(freeOf(m)) - free + taken,
      unmovable: m.blockersIn(range.start, range.end).length,
    };
    expect(m.check()).toEqual([]);
    for (const b of [...blocks].reverse()) must(m.offline(b)); // the first may host the others (HB3)
    must(m.removeMemory(range));
    expect([...sums(m), total(freeOf(m))], memmap).toEqual([present, managed, free]);
    expect(m.check()).toEqual([]);
    return out;
  };

  it('MM4 a machine adds 1 GiB block by block and takes nothing of its memory: the table lies in the first head', () => {
    const m = twoNodes(2);
    const free = total(freeOf(m));
    const gib = { start: toPfn(4 * GIB), end: toPfn(5 * GIB) };
    const kernel = must(m.fork().addMemory(gib, toNodeId(1), { memmap: 'self-block' }));
    expect(kernel.kernelPages).toBe(1);
    const { blocks, kernelPages } = must(m.addMemory(gib, toNodeId(1), { memmap: 'self-block', pageTables: 'self' }));
    expect([kernelPages, total(freeOf(m))]).toEqual([0, free]);
    for (const b of blocks) must(m.online(b, 'movable'));
    expect(total(freeOf(m)) - free).toBe(8 * 32256 - 512);
    expect(m.check()).toEqual([]);
    for (const b of blocks) must(m.offline(b));
    must(m.removeMemory(gib));
    expect(total(freeOf(m))).toBe(free);
    expect(m.check()).toEqual([]);
  });

  it('MM12 kernel: all of the range is present and managed', () => {
    expect(grown('kernel')).toMatchObject({ present: 131072, managed: 131072, free: 131072, unmovable: 0 });
  });

  it('MM12 self-block: present, not managed: 32256 a block, as Linux does today', () => {
    expect(grown('self-block')).toMatchObject({ present: 131072, managed: 4 * 32256, free: 4 * 32256 });
  });

  it('MM12 self-range: counted in the total and shown as allocated, as the review of 2018 asks', () => {
    expect(grown('self-range')).toMatchObject({ present: 131072, managed: 131072, free: 4 * 32256 });
  });
});

describe('self-range', () => {
  const start = { startPfn: RFC.startPfn, pages: RFC.pages };
  const traced = (range = start): { events: SelfRangeEvent[]; head: SelfRange } => {
    const events: SelfRangeEvent[] = [];
    return { events, head: new SelfRange(range, (e) => events.push(e)) };
  };

  it('MR1 one reference for each section; a removal drops one', () => {
    const { events, head } = traced();
    expect([head.refcount, head.headPages, head.state]).toEqual([80, 40960, 'added']);
    for (let k = 0; k < 79; k++) head.removeSection(k);
    expect([head.refcount, head.state, events.length]).toEqual([1, 'removing', 1]);
  });

  it('MR1 sections are removed first to last, each once; anything else is a bug', () => {
    const { head } = traced();
    expect(() => head.removeSection(1)).toThrow(/first to last/);
    head.removeSection(0);
    expect(() => head.removeSection(0)).toThrow(/first to last/);
    const one = traced({ startPfn: toPfn(0), pages: SECTION }).head;
    one.removeSection(0);
    expect(one.state).toBe('gone');
    expect(() => one.removeSection(1)).toThrow(/first to last/);
    expect(() => traced({ startPfn: toPfn(512), pages: SECTION })).toThrow(/whole sections/);
  });

  it('MR2 MR4 the last section frees every leaf once, last to first', () => {
    const { events, head } = traced();
    for (let k = 0; k < 80; k++) head.removeSection(k);
    expect(head.state).toBe('gone');
    const freed = events.slice(1);
    expect(freed.length).toBe(80);
    freed.forEach((e, k) => {
      const startPfn = RFC.startPfn + (79 - k) * SECTION;
      expect(e).toEqual({ type: 'vmemmap-free', startPfn, endPfn: startPfn + SECTION });
    });
  });

  it('MR3 freed first to last, a leaf’s own struct pages would be gone before it', () => {
    // 512 frames of leaf k begin at frame 512 k of the range, whose struct pages lie on leaf k / 64.
    const describes = (leaf: number): number => Math.floor((leaf * 512) / SECTION);
    const broken = (order: number[]): number[] =>
      order.filter((leaf, k) => order.slice(0, k).includes(describes(leaf)));
    const forwards = Array.from({ length: 80 }, (_, k) => k);
    expect(broken(forwards).length).toBe(79);
    const { events, head } = traced();
    for (let k = 0; k < 80; k++) head.removeSection(k);
    const real = events.flatMap((e) => (e.type === 'vmemmap-free' ? (e.startPfn - RFC.startPfn) / SECTION : []));
    expect(broken(real)).toEqual([]);
  });

  it('MR5 the document’s lines, character for character', () => {
    const { events, head } = traced();
    for (let k = 0; k < 80; k++) head.removeSection(k);
    const lines = events.map(formatSelfRangeEvent);
    expect(lines.length).toBe(81);
    const [upper, lower] = golden('rfc2018.txt').split('...\n');
    const first = upper.trimEnd().split('\n');
    expect(first.length).toBe(17);
    expect(lines.slice(0, 17)).toEqual(first);
    expect(lines[80]).toBe(lower.trimEnd());
  });

  it('MR5 addresses: V + 64 pfn, exact up to the end of the virtual memmap', () => {
    for (const pfn of [0, 1, 0x100000, 0x10a000 - 1, 2 ** 34 - 1, 2 ** 38]) {
      const exact = (0xffffea0000000000n + 64n * BigInt(pfn)).toString(16);
      expect(structPageAddress(pfn)).toBe(exact);
    }
    expect(() => structPageAddress(2 ** 40)).toThrow(/beyond/);
  });
});
