// The path of a request against naive rules: random requests with rights and promises, on machines with watermarks.
//
// A naive watermark is computed from the lists, frame by frame, before each request and after each refusal. What is
// held against it: a pool that gave had enough; the first pool that surely had what was wanted gave; a refusal means
// that no pool could have given; nobody got a frame that only others may have; counters add up.
//
//   node 0   DMA32 128 MiB │ Normal 256 MiB, 16 MiB of it CMA │ Movable 128 MiB         node 1   Normal 128 MiB
//
//   DIMMER_SEED=n   replay a seed

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import type { AllocOptions, AllocRights } from './alloc-path.ts';
import { checkCma } from './cma.ts';
import type { Placement } from './free-area.ts';
import { MIGRATE_CMA, MIGRATE_HIGHATOMIC, MIGRATE_MOVABLE, NR_ORDERS, PAGES_PER_SECTION } from './geometry.ts';
import { highAtomicLimit } from './high-atomic.ts';
import { KERNEL_NAMES } from './kernel-profile.ts';
import { Machine } from './machine.ts';
import { CLASS_TRAITS, type PageClass, ZONE_MOVABLE, ZONE_NORMAL, type ZoneIndex } from './page-class.ts';
import { hasPcpLists } from './per-cpu-pages.ts';
import type { Pool } from './pool.ts';
import { writeTunable } from './vm-tunables.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 20241112);
const S = PAGES_PER_SECTION;
const G = 2 ** 18;
const CLASSES: readonly PageClass[] = ['anonymous', 'slab', 'slab-reclaimable', 'file', 'driver'];
const RIGHTS: readonly AllocRights[] = ['none', 'none', 'none', 'high', 'atomic', 'oom-victim'];

type Request = { order: number; mt: number; top: ZoneIndex; rights: AllocRights };

/** Free frames of a pool by type, and whether a chunk of the order is among them: from its lists, not from its counters. */
function walk(p: Pool, order: number): { free: number[]; chunk: boolean[] } {
  const free = [0, 0, 0, 0, 0, 0];
  const chunk = [false, false, false, false, false, false];
  const lists = new Float64Array(free.length * NR_ORDERS);
  p.alloc.area.count(lists);
  lists.forEach((n, k) => {
    const mt = Math.floor(k / NR_ORDERS);
    free[mt] += n * 2 ** (k % NR_ORDERS);
    if (n > 0 && k % NR_ORDERS >= order) chunk[mt] = true;
  });
  return { free, chunk };
}

/** __zone_watermark_ok() in words, with `extra` more free frames. */
function mayGive(p: Pool, r: Request, mark: 'low' | 'min', extra: number, boost: number): boolean {
  const { free } = walk(p, r.order);
  let usable = free[0] + free[1] + free[2] + extra - (2 ** r.order - 1);
  if (r.mt === MIGRATE_MOVABLE) usable += free[MIGRATE_CMA];
  let min = p.watermarks[mark] + boost;
  if (mark === 'min' && r.rights !== 'none') {
    usable += free[MIGRATE_HIGHATOMIC];
    min -= Math.floor(min / 2);
    if (r.rights === 'atomic') min -= Math.floor(min / 4);
  }
  return usable > min + p.watermarks.reserve[r.top];
}

class World {
  readonly m: Machine;
  readonly rng: Prng;
  readonly where: string;
  readonly holders: readonly HolderId[];
  readonly held: Pfn[] = [];
  given = 0;
  refused = 0;
  reserved = false;

  constructor(seed: number, placement: Placement) {
    this.rng = new Prng(seed);
    const { rng } = this;
    const kernel = rng.pick(KERNEL_NAMES);
    this.where = `seed=${seed} placement=${placement} kernel=${kernel}`;
    this.m = Machine.boot({
      kernel,
      placement,
      ram: [
        { start: toPfn(2 * S), end: toPfn(3 * S), node: toNodeId(0) },
        { start: toPfn(4 * G), end: toPfn(4 * G + 3 * S), node: toNodeId(0) },
        { start: toPfn(5 * G), end: toPfn(5 * G + S), node: toNodeId(1) },
      ],
      movableStart: new Map([[toNodeId(0), toPfn(4 * G + 2 * S)]]),
      cma: rng.chance(0.7) ? [{ start: toPfn(4 * G + 8192), end: toPfn(4 * G + 12288), name: 'area' }] : [],
      cpus: 2,
      blockSize: 2 ** 27,
      code: 'shared',
      watermarks: { scaleFactor: rng.pick([10, 100]), thp: rng.chance(0.5), defragMode: rng.chance(0.2) },
    });
    this.holders = CLASSES.map((c, k) => this.m.addHolder({ class: c, name: c, node: toNodeId(k % 2) }));
    // Memory gets tight soon: ballast in large pieces.
    const ballast = rng.pick([0.8, 0.95, 1]) * 5 * S;
    for (let taken = 0; taken < ballast; taken += 512) {
      const pfn = this.m.alloc(rng.pick(this.holders), toOrder(9), { node: toNodeId(rng.below(2)) });
      if (pfn === -1) break;
      this.given++;
      if (rng.chance(0.3)) this.held.push(pfn);
    }
  }

  request(): void {
    const { m, rng } = this;
    const k = rng.below(CLASSES.length);
    const traits = CLASS_TRAITS[CLASSES[k]];
    const order = rng.weighted([50, 8, 6, 6, 2, 1, 1, 1, 2, 6, 2]);
    const node = toNodeId(rng.below(2));
    const rights = rng.pick(RIGHTS);
    const movable = rng.chance(0.2) ? rng.chance(0.5) : undefined;
    let mt: number = traits.migratetype;
    let top: ZoneIndex = traits.topZone;
    if (movable === true) [mt, top] = [MIGRATE_MOVABLE, ZONE_MOVABLE];
    if (movable === false) [mt, top] = [mt === MIGRATE_MOVABLE ? 0 : mt, ZONE_NORMAL];
    const r: Request = { order, mt, top, rights };
    const list = Array.from(m.zonelist(node, top), (id) => m.pools[id]);
    const before = list.map((p) => ({ p, boost: p.boost, pcp: p.alloc.pcpPages(), ...walk(p, order) }));
    const sure = before.findIndex(
      ({ p, boost, chunk }) =>
        chunk[mt] && mayGive(p, { ...r, rights: 'none' }, 'low', 0, boost) && (order > 0 || walk(p, 0).chunk[mt]),
    );
    const could = before.map(
      ({ p, pcp, boost }) => mayGive(p, { ...r, rights: 'none' }, 'low', pcp, boost) || mayGive(p, r, 'min', pcp, 0),
    );
    const options: AllocOptions = { node, rights, ...(movable !== undefined && { movable }) };
    const pfn = m.alloc(this.holders[k], toOrder(order), options);
    const what = `${this.where}: order ${order} type ${mt} top ${top} node ${node} ${rights}`;
    if (pfn === -1) return this.checkRefusal(r, list, what);
    this.given++;
    this.held.push(pfn);
    const index = m.sections.indexOf(pfn);
    const pool = m.poolAt(index) as Pool; // it just gave a frame
    const at = list.indexOf(pool);
    expect(at, `${what}: a pool that is not in its list`).toBeGreaterThanOrEqual(0);
    // The first pool that surely had a page of the type itself: nothing behind it may have been asked.
    if (sure >= 0) expect(at, `${what}: passed over ${list[sure].title}`).toBeLessThanOrEqual(sure);
    // A reserved pageblock that went back adds to what a pool has.
    const reserve = before[at].free[MIGRATE_HIGHATOMIC];
    const had = could[at] || mayGive(pool, r, 'min', before[at].pcp + reserve + 2 ** (order + 1) + 4096, 0);
    expect(had, `${what}: ${pool.title} gave below its mark`).toBe(true);
    const type = pool.alloc.area.typeOf(index - pool.base);
    if (pool.reservedHighAtomic > 0) this.reserved = true;
    if (type === MIGRATE_CMA) expect(mt, `${what}: a frame of CMA`).toBe(MIGRATE_MOVABLE);
    // A frame that waited on a per-CPU list when its pageblock was reserved, or was freed there since, is anybody's.
    if (type === MIGRATE_HIGHATOMIC && !hasPcpLists(order)) expect(rights, `${what}: of the reserve`).not.toBe('none');
  }

  checkRefusal(r: Request, list: readonly Pool[], what: string): void {
    this.refused++;
    expect(this.m.lastRefusal?.reason, what).toBe('no-memory');
    if (r.rights === 'atomic') return; // others' per-CPU lists are not for those who cannot wait
    for (const p of list) {
      const { chunk } = walk(p, r.order);
      const fits =
        chunk[0] ||
        chunk[1] ||
        chunk[2] ||
        (r.mt === MIGRATE_MOVABLE && chunk[MIGRATE_CMA]) ||
        (r.rights === 'oom-victim' && chunk[MIGRATE_HIGHATOMIC]);
      expect(fits && mayGive(p, r, 'min', 0, 0), `${what}: refused, though ${p.title} could give`).toBe(false);
    }
  }

  step(n: number): void {
    const { m, rng, held } = this;
    const roll = rng.below(1000);
    const flood = Math.floor(n / 400) % 2 === 0; // tides: memory gets tight, and free again
    if (roll < (flood ? 850 : 350)) this.request();
    else if (roll < 960) {
      if (held.length === 0) return;
      const k = rng.below(held.length);
      m.free(held[k]);
      held[k] = held[held.length - 1];
      held.pop();
    } else if (roll < 980) for (const p of m.pools) p.alloc.useCpu(rng.below(2));
    else if (roll < 985) rng.pick(m.pools).alloc.drain();
    else if (roll < 990) rng.pick(m.pools).boostWatermark();
    else if (roll < 995) writeTunable(m, 'min_free_kbytes', rng.pick([1000, 4000, 12000]));
    else m.updateWatermarks();
  }

  sound(): void {
    const { m, where } = this;
    expect(m.check(3), where).toEqual([]);
    expect(checkCma(m), where).toEqual([]);
    const sum = (of: (p: Pool) => number): number => m.pools.reduce((n, p) => n + of(p), 0);
    expect(
      sum((p) => p.numa.hit + p.numa.miss),
      where,
    ).toBe(this.given);
    expect(
      sum((p) => p.numa.miss),
      where,
    ).toBe(sum((p) => p.numa.foreign));
    for (const p of m.pools) {
      const most = Math.max(512, Math.floor(p.watermarks.high * 1.5));
      expect(p.boost, where).toBeLessThanOrEqual(most);
      expect(p.reservedHighAtomic % 512, where).toBe(0);
      expect(p.reservedHighAtomic, where).toBeLessThanOrEqual(highAtomicLimit(p.managed));
      const { events, fragmenting, ownership } = p.extfrag;
      expect(fragmenting <= events && ownership <= events, where).toBe(true);
    }
  }
}

for (const placement of ['address', 'fullest', 'lifo'] as const) {
  it(`AP1 AP2 AP3 AP6 CM3 HA2 requests keep the naive rules, ${placement} (seed=${SEED})`, () => {
    let refused = 0;
    let reserved = 0;
    for (let run = 0; run < 8; run++) {
      const w = new World(SEED + run * 101, placement);
      for (let n = 1; n <= 2000; n++) {
        w.step(n);
        if (n % 400 === 0) w.sound();
      }
      refused += w.refused;
      if (w.reserved) reserved++;
      for (const pfn of w.held) w.m.free(pfn);
      w.held.length = 0;
      w.sound();
    }
    expect(refused, `seed=${SEED}: nothing was ever refused`).toBeGreaterThan(0);
    if (process.env.DIMMER_SEED === undefined) expect(reserved, 'nothing was ever reserved').toBeGreaterThan(0);
  });
}
