// What an area's policy makes of large pages when its memory is to go. Rules LP1..LP6, docs/spec/large-pages.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { worldFrom } from '../../test/support/picture.ts';
import { allocContigPages } from './contig-alloc.ts';
import { PAGEBLOCK_PAGES } from './geometry.ts';
import { faultHuge, HUGE_1G, HUGE_2M, type HugeOrder, hugetlbCounts } from './hugetlb.ts';
import { setNrHugepages } from './hugetlb-resize.ts';
import { LARGE_PAGE_FAULT_POINTS } from './large-page.ts';
import { LARGE_PAGE_POLICIES, type LargePagePolicy, largePages } from './large-page-state.ts';
import { Machine } from './machine.ts';
import type { Pool } from './pool.ts';
import { META_DIRTY } from './section.ts';

const GIB = 2 ** 18;
const N0 = toNodeId(0);
const N1 = toNodeId(1);
/** The DIMM: 1 GiB, one memory block, at the third GiB. */
const DIMM = 2;

type Kind = 'THP' | '2 MiB' | '2 MiB free' | '1 GiB' | '1 GiB free';
/** How node 1 is free: a kernel page in neither GiB, in both, or everywhere but in single frames, none beside another. */
type Room = 'GiB  ' | '2 MiB' | '4 KiB';

function boot(contents: 'tag' | 'bytes' = 'tag', blockSize = 2 ** 30): Machine {
  return Machine.boot({
    ram: [
      { start: toPfn(DIMM * GIB), end: toPfn((DIMM + 1) * GIB), node: N0, zone: 2 },
      { start: toPfn(4 * GIB), end: toPfn(6 * GIB), node: N1, zone: 2 },
    ],
    blockSize,
    watermarks: 'none',
    code: 'shared',
    contents,
  });
}

/** Node 1 as it is to be. */
function fill(m: Machine, room: Room): void {
  if (room === 'GiB  ') return;
  const kernel = m.addHolder({ class: 'slab', name: 'kernel', node: N1 });
  const take = (order: number): Pfn => toPfn(m.alloc(kernel, toOrder(order), { thisNode: true }));
  const all: Pfn[] = [];
  const pool = m.poolNamed(N1, 'Normal') as Pool;
  while (pool.alloc.nrFree() > 0) all.push(take(10));
  if (room === '2 MiB') {
    // All goes back but the first chunk of each GiB.
    for (const pfn of all) if (pfn % GIB !== 0) m.free(pfn);
  } else {
    m.free(all[0]);
    const singles = Array.from({ length: 1024 }, () => take(0));
    for (const pfn of singles) if (pfn % 2 === 1) m.free(pfn);
  }
  pool.alloc.drain();
}

/** A page of the kind in the DIMM, its bytes written. @returns whose it is; undefined for what nobody has */
function put(m: Machine, kind: Kind): HolderId | undefined {
  const order: HugeOrder = kind.startsWith('1') ? HUGE_1G : HUGE_2M;
  if (kind !== 'THP') setNrHugepages(m, order, 1, N0);
  if (kind.endsWith('free')) return undefined;
  const cls = kind === 'THP' ? 'anonymous' : order === HUGE_1G ? 'gigantic' : 'hugetlb';
  const h = m.addHolder({ class: cls, name: 'database', node: N0 });
  const pfn = kind === 'THP' ? m.alloc(h, toOrder(9)) : faultHuge(m, order, h, { reserved: false });
  const at = typeof pfn === 'number' ? pfn : pfn.ok ? pfn.value : -1;
  expect(at).toBe(DIMM * GIB);
  return h;
}

/** Frames of all holders of that name. */
const framesNamed = (m: Machine, name: string): number =>
  m.holders.specs.reduce((n, spec, h) => n + (spec.name === name ? m.holders.pages[h] : 0), 0);

/** "went: moved 512, lost 0 of 1 GiB and 1 of 2 MiB; pools 0 and 0", or "EBUSY unmovable: large-page 512". */
function outcome(m: Machine, kind: Kind, policy: LargePagePolicy, before: string): string {
  largePages(m).set({ start: toPfn(DIMM * GIB), end: toPfn((DIMM + 1) * GIB) }, policy);
  const frames = framesNamed(m, 'database');
  const r = m.offline(toBlockId(DIMM));
  if (!r.ok) {
    expect(m.digest(), `${kind}, ${policy}`).toBe(before); // of a machine whose check() is empty: see table()
    const inTheWay = r.error.blockers.reduce((n, b) => n + b.endPfn - b.startPfn, 0);
    const causes = [...new Set(r.error.blockers.map((b) => b.cause))];
    return `${r.error.errno} ${r.error.reason}: ${causes.join()} ${inTheWay}`;
  }
  expect(m.check(), `${kind}, ${policy}`).toEqual([]);
  expect(framesNamed(m, 'database'), `${kind}, ${policy}`).toBe(frames);
  const { lost2M, lost1G, moved1G } = largePages(m).stat();
  const pools = [HUGE_1G, HUGE_2M].map((order) => hugetlbCounts(m, order as HugeOrder).nr);
  const moved = m.vmstat.pgmigrate_success;
  return `went: moved ${moved}${moved1G > 0 ? ' at once' : ''}, lost ${lost1G} + ${lost2M}; pools ${pools.join(' ')}`;
}

/** In one row each, so that a changed outcome is seen. lost: leaves of 1 GiB + leaves of 2 MiB; pools: pages of 1 GiB, of 2 MiB. */
function table(kinds: readonly Kind[], rooms: readonly Room[]): string {
  const rows: string[] = [];
  for (const room of rooms) {
    for (const kind of kinds) {
      const base = boot();
      fill(base, room);
      put(base, kind);
      expect(base.check()).toEqual([]);
      const before = base.digest();
      for (const policy of LARGE_PAGE_POLICIES) {
        rows.push(`${room} ${kind.padEnd(10)} ${policy.padEnd(16)} ${outcome(base.fork(), kind, policy, before)}`);
      }
    }
  }
  return rows.join('\n');
}

describe('the outcome table of 9.F5', () => {
  it('LP4 pages in use: each kind, policy and room for them has its fixed outcome', () => {
    expect(table(['THP', '2 MiB', '1 GiB'], ['GiB  ', '2 MiB', '4 KiB'])).toMatchInlineSnapshot(`
      "GiB   THP        linux            went: moved 512, lost 0 + 0; pools 0 0
      GiB   THP        punt             EBUSY unmovable: large-page 512
      GiB   THP        split            went: moved 512, lost 0 + 1; pools 0 0
      GiB   THP        migrate          went: moved 512, lost 0 + 0; pools 0 0
      GiB   THP        migrate-or-split went: moved 512, lost 0 + 0; pools 0 0
      GiB   2 MiB      linux            went: moved 512, lost 0 + 0; pools 0 1
      GiB   2 MiB      punt             EBUSY unmovable: large-page 512
      GiB   2 MiB      split            went: moved 512, lost 0 + 1; pools 0 0
      GiB   2 MiB      migrate          went: moved 512, lost 0 + 0; pools 0 1
      GiB   2 MiB      migrate-or-split went: moved 512, lost 0 + 0; pools 0 1
      GiB   1 GiB      linux            EBUSY unmovable: unmovable 262144
      GiB   1 GiB      punt             EBUSY unmovable: large-page 262144
      GiB   1 GiB      split            went: moved 262144, lost 1 + 0; pools 0 512
      GiB   1 GiB      migrate          went: moved 262144 at once, lost 0 + 0; pools 1 0
      GiB   1 GiB      migrate-or-split went: moved 262144 at once, lost 0 + 0; pools 1 0
      2 MiB THP        linux            went: moved 512, lost 0 + 0; pools 0 0
      2 MiB THP        punt             EBUSY unmovable: large-page 512
      2 MiB THP        split            went: moved 512, lost 0 + 1; pools 0 0
      2 MiB THP        migrate          went: moved 512, lost 0 + 0; pools 0 0
      2 MiB THP        migrate-or-split went: moved 512, lost 0 + 0; pools 0 0
      2 MiB 2 MiB      linux            went: moved 512, lost 0 + 0; pools 0 1
      2 MiB 2 MiB      punt             EBUSY unmovable: large-page 512
      2 MiB 2 MiB      split            went: moved 512, lost 0 + 1; pools 0 0
      2 MiB 2 MiB      migrate          went: moved 512, lost 0 + 0; pools 0 1
      2 MiB 2 MiB      migrate-or-split went: moved 512, lost 0 + 0; pools 0 1
      2 MiB 1 GiB      linux            EBUSY unmovable: unmovable 262144
      2 MiB 1 GiB      punt             EBUSY unmovable: large-page 262144
      2 MiB 1 GiB      split            went: moved 262144, lost 1 + 0; pools 0 512
      2 MiB 1 GiB      migrate          EINTR no-target: no-target 262144
      2 MiB 1 GiB      migrate-or-split went: moved 262144, lost 1 + 0; pools 0 512
      4 KiB THP        linux            went: moved 512, lost 0 + 1; pools 0 0
      4 KiB THP        punt             EBUSY unmovable: large-page 512
      4 KiB THP        split            went: moved 512, lost 0 + 1; pools 0 0
      4 KiB THP        migrate          EINTR no-target: no-target 512
      4 KiB THP        migrate-or-split went: moved 512, lost 0 + 1; pools 0 0
      4 KiB 2 MiB      linux            EINTR no-target: no-target 512
      4 KiB 2 MiB      punt             EBUSY unmovable: large-page 512
      4 KiB 2 MiB      split            went: moved 512, lost 0 + 1; pools 0 0
      4 KiB 2 MiB      migrate          EINTR no-target: no-target 512
      4 KiB 2 MiB      migrate-or-split went: moved 512, lost 0 + 1; pools 0 0
      4 KiB 1 GiB      linux            EBUSY unmovable: unmovable 262144
      4 KiB 1 GiB      punt             EBUSY unmovable: large-page 262144
      4 KiB 1 GiB      split            EINTR no-target: no-target 261632
      4 KiB 1 GiB      migrate          EINTR no-target: no-target 262144
      4 KiB 1 GiB      migrate-or-split EINTR no-target: no-target 261632"
    `);
  });

  it('LP4 pages that nobody has are dissolved, those of 1 GiB wherever an area has any policy but Linux', () => {
    expect(table(['2 MiB free', '1 GiB free'], ['GiB  '])).toMatchInlineSnapshot(`
      "GiB   2 MiB free linux            went: moved 0, lost 0 + 0; pools 0 0
      GiB   2 MiB free punt             went: moved 0, lost 0 + 0; pools 0 0
      GiB   2 MiB free split            went: moved 0, lost 0 + 0; pools 0 0
      GiB   2 MiB free migrate          went: moved 0, lost 0 + 0; pools 0 0
      GiB   2 MiB free migrate-or-split went: moved 0, lost 0 + 0; pools 0 0
      GiB   1 GiB free linux            EBUSY unmovable: unmovable 262144
      GiB   1 GiB free punt             went: moved 0, lost 0 + 0; pools 0 0
      GiB   1 GiB free split            went: moved 0, lost 0 + 0; pools 0 0
      GiB   1 GiB free migrate          went: moved 0, lost 0 + 0; pools 0 0
      GiB   1 GiB free migrate-or-split went: moved 0, lost 0 + 0; pools 0 0"
    `);
  });
});

describe('areas', () => {
  it('LP1 the last word counts; areas are disjoint, ascending and as few as can be; against an array, seeds 1 to 20', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const rng = new Prng(seed);
      const m = Machine.boot({ ram: [{ start: toPfn(0), end: toPfn(2 ** 15), node: N0 }], code: 'shared' });
      const naive: LargePagePolicy[] = Array.from({ length: 64 }, () => 'linux');
      for (let k = 0; k < 40; k++) {
        const [start, end] = [rng.below(64), rng.below(64) + 1];
        const policy = rng.pick(LARGE_PAGE_POLICIES);
        const r = largePages(m).set({ start: toPfn(start), end: toPfn(end) }, policy);
        expect(r.ok, `seed=${seed} step=${k}`).toBe(start < end);
        if (!r.ok) expect(r.error).toMatchObject({ reason: 'bad-argument', errno: 'EINVAL' });
        for (let i = start; i < end; i++) naive[i] = policy;
        for (let i = 0; i < 64; i++)
          expect(largePages(m).at(toPfn(i)), `seed=${seed} step=${k} frame=${i}`).toBe(naive[i]);
        const areas = largePages(m).areas();
        const runs = naive.filter((p, i) => p !== 'linux' && p !== naive[i - 1]).length;
        expect(areas.length, `seed=${seed} step=${k}`).toBe(runs);
        expect(areas.every((a, i) => i === 0 || areas[i - 1].end <= a.start)).toBe(true);
      }
      const fork = m.fork();
      expect(largePages(fork).areas()).toEqual(largePages(m).areas());
      largePages(fork).set({ start: toPfn(0), end: toPfn(64) }, 'linux');
      expect([largePages(fork).areas().length, largePages(m).at(toPfn(63))]).toEqual([0, naive[63]]);
    }
  });

  it('LP5 the option of an offline goes before the area, and what it says ends with it', () => {
    const { m, block } = worldFrom('n0 Normal TTTTTTTT\n n0 Normal HHHHHHHH\n n1 Normal ........');
    largePages(m).set({ start: toPfn(0), end: toPfn(2 ** 16) }, 'punt');
    for (const k of [0, 1]) {
      expect(m.fork().offline(block(k))).toMatchObject({ ok: false, error: { reason: 'unmovable', errno: 'EBUSY' } });
      expect(m.fork().offline(block(k), { largePages: 'linux' }).ok).toBe(true);
      expect(m.fork().offline(block(k), { largePages: 'split' }).ok).toBe(true);
    }
    largePages(m).set({ start: toPfn(0), end: toPfn(2 ** 15) }, 'linux');
    expect(m.offline(block(0)).ok).toBe(true);
    expect(m.offline(block(1)).ok).toBe(false);
    expect(m.check()).toEqual([]);
  });

  it('LP5 punt refuses before anything was touched, and also what comes while the offline is under way', () => {
    const { m, block, holder } = worldFrom('n0 Normal mmmmmmmm|TTTTTTTT\n n1 Normal ........');
    const work = m.fork().beginOffline(block(0), { largePages: 'punt' });
    while (!work.finished) work.step();
    expect([work.steps, work.migratedPages, work.refusal?.blockers.length]).toEqual([1, 0, 1]);
    expect(work.refusal?.blockers[0]).toMatchObject({ cause: 'large-page', class: 'anonymous', startPfn: 512 });
    m.free(toPfn(512));
    const late = m.beginOffline(block(0), { largePages: 'punt' });
    while (late.stage === 'check' || late.stage === 'look') late.step();
    m.alloc(holder('T'), toOrder(9));
    while (!late.finished) late.step();
    const where: number[] = [];
    m.forEachFrameOf(holder('T'), (pfn) => where.push(pfn));
    expect(where[0] < 2 ** 15 ? late.refusal?.blockers[0]?.cause : 'large-page').toBe('large-page');
    expect(m.check()).toEqual([]);
  });
});

describe('what a split keeps', () => {
  it('LP2 bytes, holder and state of THP and huge pages of 2 MiB; pins and writeback wait', () => {
    for (const cls of ['anonymous', 'shmem', 'file', 'hugetlb'] as const) {
      for (const policy of ['split', 'migrate', 'migrate-or-split'] as const) {
        const { m, block } = worldFrom('n0 Normal ........\n n1 Normal ........', { contents: 'bytes' });
        const h = m.addHolder({ class: cls, name: cls, node: N0 });
        const pfn = toPfn(m.alloc(h, toOrder(9)));
        for (const k of [0, 1, 511]) m.write(toPfn(pfn + k), 3, Uint8Array.of(k & 255, 7));
        m.setPageFlags(pfn, { dirty: true });
        m.pin(pfn);
        const stuck = m.offline(block(0), { largePages: policy });
        expect(stuck.ok ? [] : stuck.error.blockers.map((b) => b.cause)).toEqual(['pinned']);
        m.unpin(pfn);
        m.setPageFlags(pfn, { writeback: true });
        const reads = m.offline(block(0), { largePages: policy });
        expect(reads.ok ? [] : reads.error.blockers.map((b) => b.cause)).toEqual(['writeback']);
        m.setPageFlags(pfn, { writeback: false });
        expect(m.offline(block(0), { largePages: policy }).ok).toBe(true);
        const bytes: number[][] = [];
        m.forEachFrameOf(h, (head, order) => {
          for (let k = 0; k < 2 ** order; k++) bytes.push([...m.read(toPfn(head + k)).slice(3, 5)]);
          expect(m.sections.metaAt(m.sections.indexOf(head)) & META_DIRTY).toBe(META_DIRTY);
        });
        expect(bytes.filter(([, b]) => b === 7)).toEqual([
          [0, 7],
          [1, 7],
          [255, 7],
        ]);
        expect([m.holders.members[h], largePages(m).stat().lost2M]).toEqual(policy === 'split' ? [512, 1] : [1, 0]);
        expect(m.check()).toEqual([]);
      }
    }
  });

  it('LP2 LP3 1 GiB over eight blocks: the first that goes demotes it, its heir has the others; or all of it moves at once', () => {
    const base = boot('bytes', 2 ** 27);
    const h = base.addHolder({ class: 'gigantic', name: 'database', node: N0 });
    const got = allocContigPages(base, GIB, { holder: h, node: N0 }); // in no pool: nothing clears it
    if (!got.ok) throw new Error(got.error.message);
    const at = got.value.startPfn;
    const marks = [0, 513, 99_999, GIB - 1];
    for (const k of marks) base.write(toPfn(at + k), 0, Uint8Array.of(k & 255 || 1));
    const read = (m: Machine): number[] => {
      const out: number[] = [];
      let seen = 0;
      for (let x = 0; x < m.holders.length; x++) {
        if (m.holders.specs[x].name !== 'database') continue;
        m.forEachFrameOf(x as HolderId, (pfn, order) => {
          for (let k = 0; k < 2 ** order; k++, seen++) {
            if (marks.includes(seen)) out.push(m.read(toPfn(pfn + k))[0]);
          }
        });
      }
      expect(seen).toBe(GIB);
      return out;
    };
    const wrote = marks.map((k) => k & 255 || 1);
    const first = toBlockId((DIMM * GIB) / 2 ** 15);
    const third = toBlockId(first + 2);

    const split = base.fork();
    expect(split.offline(third, { largePages: 'split' }).ok).toBe(true);
    expect(largePages(split).stat()).toEqual({ lost1G: 1, lost2M: 0, moved1G: 0 });
    expect([split.holders.pages[h], read(split)]).toEqual([0, wrote]);
    expect(split.frame(toPfn(at))).toMatchObject({ state: 'used', class: 'hugetlb', head: at, name: 'database' });
    for (let k = 0; k < 8; k++) if (k !== 2) expect(split.offline(toBlockId(first + k)).ok).toBe(true);
    expect([split.vmstat.pgmigrate_success, read(split)]).toEqual([GIB, wrote]);
    expect(split.check()).toEqual([]);

    const whole = base.fork();
    expect(whole.offline(third, { largePages: 'migrate' }).ok).toBe(true);
    expect(largePages(whole).stat()).toEqual({ lost1G: 0, lost2M: 0, moved1G: 1 });
    expect([whole.holders.pages[h], read(whole)]).toEqual([GIB, wrote]);
    for (let k = 0; k < 8; k++) if (k !== 2) expect(whole.offline(toBlockId(first + k)).ok).toBe(true);
    expect(whole.check()).toEqual([]);

    base.pin(toPfn(at + 5 * PAGEBLOCK_PAGES));
    for (const policy of ['split', 'migrate', 'migrate-or-split'] as const) {
      const r = base.offline(third, { largePages: policy });
      expect(r.ok ? [] : r.error.blockers.map((b) => b.cause), policy).toEqual(['pinned']);
    }
    expect(base.check()).toEqual([]);
  });

  it('LP3 pools: what is split or demoted leaves them, a surplus ends with its page or follows it', () => {
    const m = boot('tag', 2 ** 27);
    setNrHugepages(m, HUGE_2M, 2, N0);
    const h = m.addHolder({ class: 'hugetlb', name: 'db', node: N0 });
    for (let k = 0; k < 2; k++) expect(faultHuge(m, HUGE_2M, h, { reserved: false }).ok).toBe(true);
    setNrHugepages(m, HUGE_2M, 0); // both are in use: surplus
    expect(hugetlbCounts(m, HUGE_2M)).toMatchObject({ nr: 2, surplus: 2 });
    const split = m.fork();
    expect(split.offline(toBlockId(8 * DIMM), { largePages: 'split' }).ok).toBe(true);
    expect(hugetlbCounts(split, HUGE_2M)).toMatchObject({ nr: 0, surplus: 0 });
    expect(split.check()).toEqual([]);

    const g = m.addHolder({ class: 'gigantic', name: 'big', node: N1 });
    setNrHugepages(m, HUGE_1G, 1, N1);
    const page = faultHuge(m, HUGE_1G, g, { reserved: false, node: N1 });
    setNrHugepages(m, HUGE_1G, 0);
    expect(hugetlbCounts(m, HUGE_1G, N1)).toMatchObject({ nr: 1, surplus: 1 });
    const blockOf = toBlockId(page.ok ? page.value / 2 ** 15 : -1);
    const whole = m.fork();
    // The page's way is to node 0, whose GiB is emptied of the two pages of 2 MiB by nobody: alloc_contig passes huge pages by.
    expect(whole.offline(blockOf, { largePages: 'migrate' })).toMatchObject({
      ok: false,
      error: { reason: 'no-target' },
    });
    expect(whole.offline(blockOf, { largePages: 'migrate-or-split' }).ok).toBe(true);
    expect(hugetlbCounts(whole, HUGE_1G)).toMatchObject({ nr: 0, surplus: 0 });
    expect(hugetlbCounts(whole, HUGE_2M)).toMatchObject({ nr: 2 + 512, surplus: 2 });
    expect(whole.check()).toEqual([]);

    const away = boot();
    const x = away.addHolder({ class: 'gigantic', name: 'big', node: N0 });
    setNrHugepages(away, HUGE_1G, 1, N0);
    expect(faultHuge(away, HUGE_1G, x, { reserved: false }).ok).toBe(true);
    setNrHugepages(away, HUGE_1G, 0);
    expect(away.offline(toBlockId(DIMM), { largePages: 'migrate' }).ok).toBe(true);
    expect(hugetlbCounts(away, HUGE_1G, N1)).toMatchObject({ nr: 1, surplus: 1 });
    expect(away.check()).toEqual([]);
  });

  it('LP6 a fault at each step: refused for it, and the machine is as it was; without, it goes', () => {
    const roomy = boot();
    const tight = boot();
    fill(tight, '2 MiB');
    const small = boot();
    fill(small, '4 KiB');
    put(roomy, '1 GiB');
    put(tight, '1 GiB');
    put(small, 'THP');
    const cases: readonly [(typeof LARGE_PAGE_FAULT_POINTS)[number], Machine, LargePagePolicy, string][] = [
      ['large-page.split', small, 'split', 'fault'],
      ['large-page.demote', tight, 'migrate-or-split', 'fault'],
      ['large-page.reserve', roomy, 'migrate', 'no-target'],
      ['large-page.switch', roomy, 'migrate', 'fault'],
    ];
    expect(cases.map(([point]) => point)).toEqual([...LARGE_PAGE_FAULT_POINTS]);
    for (const [point, m, policy, cause] of cases) {
      const before = m.digest();
      m.faultAt = (p) => p === point;
      const refused = m.offline(toBlockId(DIMM), { largePages: policy });
      expect(refused.ok ? 'went' : refused.error.blockers[0]?.cause, point).toBe(cause);
      expect(m.digest(), point).toBe(before);
      m.faultAt = undefined;
      const fork = m.fork();
      expect(fork.offline(toBlockId(DIMM), { largePages: policy }).ok, point).toBe(true);
      for (const x of [m, fork]) expect(x.check(), point).toEqual([]);
    }
  });
});
