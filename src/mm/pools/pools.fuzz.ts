// A1: a machine of 64 GiB, four nodes and up to 32 pools, a million random operations; and many small worlds with every
// verb, placement and kind of per-CPU list. Held against a model that counts pages of pools in plain numbers.
//
//   model      pool -> pages it has, pages that are used; the errno that a verb must refuse with, by those numbers
//   engine     stat, owners frame by frame (check: I1 to I6), every allocation where its holder says
//
// The model does not say which frames move: that is policy. It says how many, whose they are, and what is refused.
//
//   DIMMER_SEED=n   replay a seed

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import type { MachineSpec } from '../machine-spec.ts';
import type { ErrnoName } from '../refusal.ts';
import { type Pools, pools } from './pools.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 20071025);
const GiB = 2 ** 18; // frames

/** What a verb must come to: pages, or an errno; undefined where the model cannot tell. */
type Expected = 'ok' | ErrnoName | undefined;

type ModelPool = { name: string; managed: number; min: number; max: number; node: number };
type Held = { holder: HolderId; index: number; order: number };

class World {
  readonly rng: Prng;
  m: Machine;
  readonly nodes: number;
  readonly model = new Map<string, ModelPool>();
  /** Free and used pages of what is left of the zones of a node. */
  readonly rest: number[];
  held: Held[] = [];
  readonly holders = new Map<string, HolderId[]>();
  #names = 0;
  readonly counts = new Map<string, number>();
  readonly most: number;

  constructor(seed: number, spec: Partial<MachineSpec>, shape: { nodes: number; pagesPerNode: number; pools: number }) {
    this.rng = new Prng(seed);
    this.nodes = shape.nodes;
    this.most = shape.pools;
    const ram = Array.from({ length: shape.nodes }, (_, k) => {
      const start = 4 * GiB + k * shape.pagesPerNode;
      return { start: toPfn(start), end: toPfn(start + shape.pagesPerNode), node: toNodeId(k) };
    });
    this.m = Machine.boot({ ram, code: 'shared', watermarks: 'none', cpus: 4, ...spec });
    this.rest = ram.map(() => shape.pagesPerNode);
  }

  get p(): Pools {
    return pools(this.m);
  }

  /** Used pages of a pool, allocation by allocation. */
  used(): Map<string, number> {
    const out = new Map<string, number>();
    for (const h of this.held) {
      const pfn = this.pfnOf(h);
      const pool = this.m.poolAt(this.m.sections.indexOf(pfn));
      const name = pool === undefined ? '?' : pool.kind === 'user' ? pool.name : `node${pool.node}-${pool.name}`;
      out.set(name, (out.get(name) ?? 0) + 2 ** h.order);
    }
    return out;
  }

  pfnOf(h: Held): Pfn {
    return this.m.sections.pfnOf(this.m.holders.frameAt(h.index));
  }

  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  verdict(
    verb: string,
    r: { ok: true } | { ok: false; error: { errno: string; message: string } },
    expected: Expected,
  ): boolean {
    const said = r.ok ? 'ok' : r.error.errno;
    this.count(`${verb} ${said}`);
    if (expected !== undefined && said !== expected) {
      throw new Error(`${verb}: expected ${expected}, got ${said} ${r.ok ? '' : r.error.message}`);
    }
    return r.ok;
  }

  freeOf(name: string): number {
    const s = this.p.stat(name);
    if (!s.ok) throw new Error(s.error.message);
    return s.value.free;
  }

  anyPool(): ModelPool | undefined {
    const all = [...this.model.values()];
    return all.length === 0 ? undefined : this.rng.pick(all);
  }

  step(weights: readonly number[], mostPages: number): void {
    const { rng } = this;
    switch (rng.weighted(weights)) {
      case 0:
        return this.alloc();
      case 1:
        return this.free();
      case 2:
        return this.create(mostPages);
      case 3:
        return this.destroy();
      case 4:
        return this.resize(mostPages);
      case 5:
        return this.moveCount(mostPages);
      case 6:
        return this.moveRange();
      case 7:
        return this.setattr();
      default:
        return this.setCpu();
    }
  }

  alloc(): void {
    const { rng, m } = this;
    const pool = rng.chance(0.9) ? this.anyPool() : undefined;
    const name = pool?.name ?? `node${rng.below(this.nodes)}`;
    const mine = this.holders.get(name) ?? this.makeHolders(name);
    const holder = rng.pick(mine);
    const order = rng.chance(0.95) ? 0 : rng.below(10);
    const before = m.holders.members[holder];
    const pfn = m.alloc(holder, toOrder(order));
    if (pfn === -1) {
      this.count('alloc none');
      if (order === 0 && pool !== undefined && this.freeOf(name) > 0) throw new Error(`alloc: ${name} has free pages`);
      return;
    }
    this.count('alloc ok');
    const owner = m.poolAt(m.sections.indexOf(pfn));
    if (pool !== undefined && owner?.name !== name) throw new Error(`alloc of ${name} came from ${owner?.title}`);
    if (pool === undefined && owner?.kind !== 'zone') throw new Error(`alloc of a node came from ${owner?.title}`);
    if (m.holders.members[holder] !== (before as number) + 1) throw new Error('the holder did not get it');
    this.held.push({ holder, index: m.sections.ownerAt(m.sections.indexOf(pfn)), order });
  }

  makeHolders(name: string): HolderId[] {
    const { m, p } = this;
    const made: HolderId[] = [];
    for (const cls of ['anonymous', 'slab', 'file'] as const) {
      if (name.startsWith('node')) {
        made.push(m.addHolder({ class: cls, name: `${cls} ${name}`, node: toNodeId(Number(name.slice(4))) }));
        continue;
      }
      const r = p.addHolder({ class: cls, name: `${cls} ${name}`, pool: name });
      if (!r.ok) throw new Error(r.error.message);
      made.push(r.value);
    }
    this.holders.set(name, made);
    return made;
  }

  free(): void {
    const { rng, m } = this;
    if (this.held.length === 0) return;
    const k = rng.below(this.held.length);
    const h = this.held[k] as Held;
    m.free(this.pfnOf(h));
    this.held[k] = this.held[this.held.length - 1] as Held;
    this.held.pop();
  }

  create(mostPages: number): void {
    const { rng } = this;
    const again = rng.chance(0.05) ? this.anyPool() : undefined;
    if (again === undefined && this.model.size >= this.most) return;
    const name = again?.name ?? `p${this.#names++}`;
    const node = rng.below(this.nodes);
    const pages = rng.below(mostPages);
    const min = rng.chance(0.5) ? 0 : rng.below(pages + 1);
    const max = rng.chance(0.7) ? Number.POSITIVE_INFINITY : pages + rng.below(mostPages);
    const promised = [...this.model.values()].reduce((n, q) => n + (q.node === node ? q.min : 0), 0);
    const total = this.rest[node] as number;
    const all = total + [...this.model.values()].reduce((n, q) => n + (q.node === node ? q.managed : 0), 0);
    const free = this.freeOf(`node${node}-Normal`);
    const expected: Expected =
      again !== undefined ? 'EEXIST' : promised + min > all && min > 0 ? 'ENOSPC' : pages > free ? 'ENOMEM' : 'ok';
    const r = this.p.create({ name, nodes: [node], pages, min, max });
    if (!this.verdict('create', r, expected)) return;
    this.model.set(name, { name, managed: pages, min, max, node });
    this.rest[node] = total - pages;
  }

  destroy(): void {
    const q = this.anyPool();
    if (q === undefined) return;
    const used = q.managed - this.freeOf(q.name);
    const drain = this.rng.chance(0.5);
    const r = this.p.destroy(q.name, { drain });
    if (!this.verdict('destroy', r, used > 0 && !drain ? 'EBUSY' : 'ok')) return;
    this.model.delete(q.name);
    this.holders.delete(q.name);
    this.rest[q.node] = (this.rest[q.node] as number) + q.managed;
  }

  resize(mostPages: number): void {
    const q = this.anyPool();
    if (q === undefined) return;
    const pages = this.rng.below(mostPages);
    const free = this.freeOf(q.name);
    const zoneFree = this.freeOf(`node${q.node}-Normal`);
    const delta = pages - q.managed;
    let expected: Expected = 'ok';
    if (pages > q.max) expected = 'EINVAL';
    else if (delta > zoneFree) expected = 'ENOMEM';
    else if (pages < q.min) expected = 'ENOSPC';
    else if (-delta > free) expected = 'EBUSY';
    if (!this.verdict('resize', this.p.resize(q.name, pages), expected)) return;
    q.managed = pages;
    this.rest[q.node] = (this.rest[q.node] as number) - delta;
  }

  moveCount(mostPages: number): void {
    const a = this.anyPool();
    const b = this.anyPool();
    if (a === undefined || b === undefined) return;
    const count = this.rng.below(mostPages >> 2);
    const free = this.freeOf(a.name);
    let expected: Expected = 'ok';
    if (a === b) expected = 'EINVAL';
    else if (a.managed === 0)
      expected = undefined; // a pool without frames has no labels to refuse
    else if (a.node !== b.node) expected = 'EXDEV';
    else if (b.managed + count > b.max) expected = 'ENOSPC';
    else if (count > free) expected = 'ENOMEM';
    else if (free - count < a.min) expected = count === 0 ? undefined : 'ENOSPC';
    const r = this.p.move(a.name, b.name, { count });
    if (!this.verdict('move', r, expected) || !r.ok) return;
    a.managed -= r.value;
    b.managed += r.value;
  }

  /** A range around an allocation: mixed pageblocks, donated and evacuated pages. */
  moveRange(): void {
    const { rng, m } = this;
    if (this.held.length === 0) return;
    const h = rng.pick(this.held);
    const pfn = this.pfnOf(h);
    const owner = m.poolAt(m.sections.indexOf(pfn));
    const a = owner?.kind === 'user' ? this.model.get(owner.name) : undefined;
    const b = this.anyPool();
    if (a === undefined || b === undefined || a === b) return;
    const size = rng.pick([1, 3, 64, 512, 1024, 1500]);
    const start = rng.chance(0.5) ? pfn - (pfn % size) : pfn;
    const range = { start: toPfn(start), end: toPfn(start + size) };
    const used = rng.pick(['refuse', 'donate', 'evacuate'] as const);
    const before = m.owners.ownersIn(m.sections.indexOf(range.start), m.sections.indexOf(range.start) + 1).length;
    if (before === 0) return;
    const r = this.p.move(a.name, b.name, { range }, { used });
    if (!this.verdict(`move ${used}`, r, a.node === b.node ? undefined : 'EXDEV') || !r.ok) return;
    a.managed -= r.value;
    b.managed += r.value;
  }

  setattr(): void {
    const q = this.anyPool();
    if (q === undefined) return;
    const min = this.rng.below(1 + Math.floor(q.managed * 1.1));
    const promised = [...this.model.values()].reduce((n, o) => n + (o.node === q.node && o !== q ? o.min : 0), min);
    const all =
      (this.rest[q.node] as number) +
      [...this.model.values()].reduce((n, o) => n + (o.node === q.node ? o.managed : 0), 0);
    const expected: Expected = min > q.max ? 'EINVAL' : min > q.managed || promised > all ? 'ENOSPC' : 'ok';
    if (this.verdict('setattr', this.p.setattr(q.name, { min }), expected)) q.min = min;
  }

  setCpu(): void {
    const cpu = this.rng.below(this.m.spec.cpus ?? 1);
    for (const pool of this.m.pools) pool.alloc.useCpu(cpu);
  }

  /** The model's numbers against the engine's. */
  compare(): void {
    const used = this.used();
    for (const q of this.model.values()) {
      const s = this.p.stat(q.name);
      if (!s.ok) throw new Error(s.error.message);
      expect({ name: q.name, managed: s.value.managed, used: s.value.used }).toEqual({
        name: q.name,
        managed: q.managed,
        used: used.get(q.name) ?? 0,
      });
    }
    for (let node = 0; node < this.nodes; node++) {
      const s = this.p.stat(`node${node}-Normal`);
      if (!s.ok) throw new Error(s.error.message);
      expect([node, s.value.managed, s.value.used]).toEqual([
        node,
        this.rest[node],
        used.get(`node${node}-Normal`) ?? 0,
      ]);
    }
  }
}

describe('pools at random', () => {
  it('A1 a million operations on 64 GiB, four nodes, 32 pools: I1 to I6 hold', () => {
    const steps = 1_000_000;
    const why = `seed=${SEED}`;
    const w = new World(SEED, {}, { nodes: 4, pagesPerNode: 16 * GiB, pools: 32 });
    for (let k = 0; k < steps; k++) {
      try {
        w.step([520, 400, 2, 1, 3, 4, 3, 1, 1], 400_000);
      } catch (error) {
        throw new Error(`${why} step ${k}: ${(error as Error).message}`);
      }
      if (k % 250_000 === 249_999) {
        w.compare();
        expect(w.m.check(), `${why} step ${k}`).toEqual([]);
      }
    }
    for (const wanted of [
      'create ok',
      'destroy ok',
      'resize ok',
      'move ok',
      'move donate ok',
      'move evacuate ok',
      'alloc ok',
    ]) {
      expect(w.counts.get(wanted) ?? 0, `${why} ${wanted}`).toBeGreaterThan(10);
    }
  }, 300_000);

  const shapes: readonly Partial<MachineSpec>[] = [
    { placement: 'address' },
    { placement: 'fullest' },
    { placement: 'lifo' },
    { placement: 'lifo', compat: 'linux' },
  ];
  for (const spec of shapes) {
    it(`A1 I1 I2 I4 small worlds, checked at every step: ${spec.placement} ${spec.compat ?? ''}`, () => {
      for (let seed = SEED; seed < SEED + 6; seed++) {
        const w = new World(seed, spec, { nodes: 2, pagesPerNode: 32768, pools: 6 });
        for (let k = 0; k < 300; k++) {
          try {
            w.step([30, 20, 8, 4, 8, 10, 16, 4, 2], 9000);
            for (let n = w.rng.below(40); n > 0; n--) w.alloc();
          } catch (error) {
            throw new Error(`seed=${seed} step ${k}: ${(error as Error).message}`);
          }
          if (k % 10 === 0) {
            w.compare();
            expect(w.m.check(), `seed=${seed} step ${k}`).toEqual([]);
          }
          if (k % 97 === 0) {
            const copy = w.m.fork();
            expect(copy.digest()).toBe(w.m.digest());
            w.m = copy; // life goes on in the copy
          }
        }
        expect(w.m.check(), `seed=${seed}`).toEqual([]);
      }
    }, 120_000);
  }
});
