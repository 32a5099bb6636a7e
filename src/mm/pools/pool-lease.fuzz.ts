// Leases, revocation and priority reclaim at random, against a model that looks at every frame by itself.
//
// The model keeps whose each frame is and which lease it is on, and counts by looking at frames one by one; what the engine
// has in free areas, labels and ranges it never asks. After each verb: owners and leases agree; a refusal changed no owner.
//
//   DIMMER_SEED=n   replay a seed

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type NodeId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import type { Refusal } from '../refusal.ts';
import { attrsOf, type PoolClass } from './pool-table.ts';
import { type Pools, pools } from './pools.ts';
import { setPageState } from './shed.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 20071025);
const WORLDS = 12;
const STEPS = 250;
const SECTION = 32768;

const CLASSES: readonly PoolClass[] = ['normal', 'normal', 'opportunistic', 'opportunistic', 'guaranteed'];

class World {
  readonly rng: Prng;
  m: Machine;
  p: Pools;
  readonly frames: number[] = [];
  /** Which lease a frame is on; by frame number. */
  readonly lent = new Map<number, number>();
  readonly names: string[] = [];
  held: { pfn: Pfn; pinned: boolean }[] = [];
  readonly holders: HolderId[] = [];
  said = '';
  readonly seen = new Map<string, number>();

  constructor(seed: number) {
    this.rng = new Prng(seed);
    const nodes = 1 + this.rng.below(2);
    const ram = Array.from({ length: nodes }, (_, k) => {
      const start = 2 ** 20 - 2048 + k * SECTION; // node 0 lies across 4 GiB: DMA32 and Normal
      return { start: toPfn(start), end: toPfn(start + 4096), node: toNodeId(k) };
    });
    for (const r of ram) for (let pfn: number = r.start; pfn < r.end; pfn++) this.frames.push(pfn);
    const placement = this.rng.pick(['address', 'fullest', 'lifo'] as const);
    this.m = Machine.boot({ ram, code: 'shared', placement, watermarks: 'none' });
    this.p = pools(this.m);
    for (let k = 0; k < 3 + this.rng.below(3); k++) {
      const name = `p${k}`;
      const pages = this.rng.below(1400);
      const r = this.p.create({
        name,
        pages,
        nodes: this.rng.chance(0.5) || nodes === 1 ? [0 as NodeId] : [1, 0],
        ...(this.rng.chance(0.2) && { zones: [this.rng.pick(['DMA32', 'Normal'] as const)] }),
        min: this.rng.below(1 + (pages >> 2)),
        ...(this.rng.chance(0.3) && { max: pages + this.rng.below(600) }),
        class: this.rng.pick(CLASSES),
        priority: this.rng.below(4),
      });
      if (r.ok) this.names.push(name);
    }
    for (const name of this.names) {
      for (const cls of ['anonymous', 'file', 'slab'] as const) {
        const r = this.p.addHolder({ class: cls, name: `${name}-${cls}`, pool: name });
        if (r.ok) this.holders.push(r.value);
      }
      this.p.setFallback(name, this.rng.pick(this.names), this.rng.below(3));
    }
    this.#tellState();
  }

  /** A third of the page cache is clean and unmapped. */
  #tellState(): void {
    setPageState(this.m, (_h, index) => ({ dirty: index % 3 === 1, mapped: index % 3 !== 0 }));
  }

  owner(pfn: number): number {
    return this.m.owners.at(this.m.sections.indexOf(toPfn(pfn)));
  }

  owners(): Int16Array {
    return Int16Array.from(this.frames, (pfn) => this.owner(pfn));
  }

  isFree(pfn: number): boolean {
    return this.m.sections.allocationAt(this.m.sections.indexOf(toPfn(pfn))) === undefined;
  }

  id(name: string): number {
    return this.p.attrs(name)?.id ?? -1;
  }

  /** Free frames of `from` that `to` may have, and that nobody lent it; and all that nobody lent it. */
  lendable(from: string, to: string): { fitting: number; labelled: number; free: number } {
    const b = attrsOf(this.m, this.id(to));
    let fitting = 0;
    let labelled = 0;
    let free = 0;
    for (const pfn of this.frames) {
      if (this.owner(pfn) !== this.id(from)) continue;
      const zone = this.m.zoneAt(this.m.sections.indexOf(toPfn(pfn)));
      const fits = zone !== undefined && b.nodes.includes(zone.node) && b.zones.includes(zone.zone);
      labelled += fits ? 1 : 0;
      if (this.lent.has(pfn) || !this.isFree(pfn)) continue;
      free++;
      fitting += fits ? 1 : 0;
    }
    return { fitting, labelled, free };
  }

  count(what: string): void {
    this.seen.set(what, (this.seen.get(what) ?? 0) + 1);
  }

  /** Pages may have moved: the model asks the holders where they are. */
  relearn(): void {
    const pinned = new Set(this.held.filter((h) => h.pinned).map((h) => h.pfn));
    this.held = [];
    for (const h of this.holders) {
      this.m.forEachFrameOf(h, (pfn) => void this.held.push({ pfn, pinned: pinned.has(pfn) }));
    }
  }

  step(): void {
    const { rng, p, m } = this;
    switch (rng.weighted([6, 5, 1, 5, 5, 3, 2, 1, 1])) {
      case 0:
        for (let k = rng.below(120); k > 0; k--) {
          const pfn = m.alloc(rng.pick(this.holders), toOrder(rng.chance(0.9) ? 0 : rng.below(6)));
          if (pfn !== -1) this.held.push({ pfn, pinned: false });
        }
        this.relearn(); // priority reclaim may have moved and dropped pages
        break;
      case 1:
        for (let k = rng.below(90); k > 0 && this.held.length > 0; k--) {
          const [a] = this.held.splice(rng.below(this.held.length), 1) as [{ pfn: Pfn; pinned: boolean }];
          m.free(a.pfn);
        }
        break;
      case 2:
        for (let k = rng.below(6); k > 0 && this.held.length > 0; k--) {
          const a = rng.pick(this.held);
          if (a.pinned) m.unpin(a.pfn);
          else m.pin(a.pfn);
          a.pinned = !a.pinned;
        }
        break;
      case 3:
        this.borrow();
        break;
      case 4:
        this.giveBack();
        break;
      case 5:
        this.revoke();
        break;
      case 6: {
        const before = this.owners();
        const r = p.move(
          rng.pick(this.names),
          rng.pick(this.names),
          { count: rng.below(400) },
          { partial: rng.chance(0.5) },
        );
        if (!r.ok)
          expect(Buffer.compare(new Uint8Array(this.owners().buffer), new Uint8Array(before.buffer)), this.said).toBe(
            0,
          );
        break;
      }
      case 7: {
        const name = rng.pick(this.names);
        const before = this.owners();
        const r = p.resize(name, rng.below(2000));
        if (!r.ok)
          expect(Buffer.compare(new Uint8Array(this.owners().buffer), new Uint8Array(before.buffer)), this.said).toBe(
            0,
          );
        break;
      }
      default: {
        const copy = m.fork();
        expect(copy.digest(), this.said).toBe(m.digest());
        this.m = copy;
        this.p = pools(copy);
      }
    }
  }

  borrow(): void {
    const { rng, p } = this;
    const [from, to] = [rng.pick(this.names), rng.pick(this.names)];
    const pages = 1 + rng.below(300);
    const partial = rng.chance(0.3);
    const [a, b] = [attrsOf(this.m, this.id(from)), attrsOf(this.m, this.id(to))];
    const { fitting, labelled, free } = this.lendable(from, to);
    const lentOut = p.leases().reduce((n, l) => n + (l.from === b.id ? l.pages : 0), 0); // compare() saw that it is so
    const owned = this.frames.filter((pfn) => this.owner(pfn) === b.id).length;
    const room = b.max - owned - lentOut;
    const most = Math.min(free - a.min, fitting, room);
    const before = this.owners();
    const r = p.borrow({ from, to, pages, partial });
    const wanted = partial ? Math.min(pages, most) : pages;
    const may =
      from !== to &&
      a.class !== 'guaranteed' &&
      !this.leads(b.id, a.id) &&
      labelled > 0 &&
      wanted > 0 &&
      wanted <= most;
    expect(r.ok, `${this.said}: ${from} to ${to}, ${pages} pages: ${r.ok ? 'ok' : r.error.message}`).toBe(may);
    this.count(`borrow ${r.ok ? 'ok' : r.error.errno}`);
    if (!r.ok) {
      expect(Buffer.compare(new Uint8Array(this.owners().buffer), new Uint8Array(before.buffer)), this.said).toBe(0);
      return;
    }
    expect(r.value.pages, this.said).toBe(wanted);
    let frames = 0;
    for (const range of r.value.ranges) {
      for (let pfn: number = range.start; pfn < range.end; pfn++) {
        if (this.lent.has(pfn)) throw new Error(`${this.said}: frame ${pfn} is lent twice`);
        this.lent.set(pfn, r.value.id);
        frames++;
      }
    }
    expect(frames, this.said).toBe(wanted);
  }

  /** Do open leases lead from one pool to the other? By trying all ways. */
  leads(from: number, to: number, depth = 6): boolean {
    return (
      depth > 0 && this.p.leases().some((l) => l.from === from && (l.to === to || this.leads(l.to, to, depth - 1)))
    );
  }

  giveBack(): void {
    const { rng, p } = this;
    const open = p.leases();
    if (open.length === 0) return;
    const lease = rng.pick(open);
    const mine = this.frames.filter((pfn) => this.lent.get(pfn) === lease.id);
    const free = mine.filter((pfn) => this.isFree(pfn)).length;
    const before = this.owners();
    const partial = rng.chance(0.4);
    const r = p.reclaim(lease.id, { partial });
    this.count(`return ${r.ok ? (r.value.left > 0 ? 'part' : 'ok') : r.error.errno}`);
    if (!r.ok) {
      expect(['EBUSY', 'ENOSPC'], this.said).toContain(r.error.errno);
      expect(Buffer.compare(new Uint8Array(this.owners().buffer), new Uint8Array(before.buffer)), this.said).toBe(0);
      expect(p.leases(), this.said).toEqual(open);
      if (r.error.errno === 'EBUSY') expect(free, `${this.said}: all of it is free`).toBeLessThan(lease.pages);
    } else {
      const left = mine.filter((pfn) => this.owner(pfn) === lease.to);
      expect(mine.filter((pfn) => this.owner(pfn) === lease.from).length, this.said).toBe(mine.length - left.length);
      expect([r.value.pages, r.value.left], this.said).toEqual([mine.length - left.length, left.length]);
      expect(r.value.pages, this.said).toBeGreaterThanOrEqual(free);
      if (!partial) expect(left.length, this.said).toBe(0);
      if (left.length > 0) expect(r.value.blockers.length, this.said).toBeGreaterThan(0);
      for (const pfn of mine) if (!left.includes(pfn)) this.lent.delete(pfn);
      expect(
        p.leases().some((l) => l.id === lease.id),
        this.said,
      ).toBe(left.length > 0);
    }
    this.relearn();
  }

  revoke(): void {
    const { rng, p } = this;
    const revocable = this.names.filter((name) => attrsOf(this.m, this.id(name)).class === 'opportunistic');
    const from = rng.chance(0.1) || revocable.length === 0 ? rng.pick(this.names) : rng.pick(revocable);
    const to = rng.chance(0.4) ? rng.pick(this.names) : undefined;
    const before = this.owners();
    const { free } = this.lendable(from, from);
    const spare = Math.max(0, free - attrsOf(this.m, this.id(from)).min);
    const pages = 1 + (rng.chance(0.5) ? spare + rng.below(40) : rng.below(250)); // often a few more than are free
    const budget = rng.pick([0, 1, 3, 20, 1000]);
    const partial = rng.chance(0.5);
    const r = p.revoke({ from, pages, budget, partial, ...(to !== undefined && { to }) });
    this.count(`revoke ${r.ok ? (r.value.missing === undefined ? 'ok' : 'part') : r.error.errno}`);
    const after = this.owners();
    if (!r.ok)
      expect(
        Buffer.compare(new Uint8Array(after.buffer), new Uint8Array(before.buffer)),
        `${this.said}: ${r.error.message}`,
      ).toBe(0);
    else {
      const [id, target] = [this.id(from), to === undefined ? -1 : this.id(to)];
      let gone = 0;
      const wrong: number[] = [];
      this.frames.forEach((pfn, k) => {
        if (before[k] === after[k]) return;
        gone++;
        const home = to === undefined ? this.m.owners.zoneAt(this.m.sections.indexOf(toPfn(pfn))) : target;
        if (before[k] !== id || after[k] !== home || this.lent.has(pfn)) wrong.push(pfn);
      });
      expect(wrong, `${this.said}: frames that left another pool, came to one, or were on loan`).toEqual([]);
      expect(gone, this.said).toBe(r.value.pages);
      expect(r.value.moved + r.value.dropped, this.said).toBeLessThanOrEqual(budget);
      if (r.value.missing === undefined) expect(gone, this.said).toBe(pages);
      // What was free is not shed for.
      if (to === undefined && pages <= free - attrsOf(this.m, id).min)
        expect(r.value.moved + r.value.dropped, this.said).toBe(0);
    }
    this.relearn();
  }

  /** Leases as the model has them, and as the engine says. */
  compare(): void {
    const leases = this.p.leases();
    const to = new Map(leases.map((l) => [l.id, l.to]));
    const pages = new Map<number, number>();
    const wrong: number[] = [];
    for (const [pfn, id] of this.lent) {
      if (this.owner(pfn) !== to.get(id)) wrong.push(pfn);
      pages.set(id, (pages.get(id) ?? 0) + 1);
    }
    expect(wrong, `${this.said}: frames on loan that are not the borrower's`).toEqual([]);
    const named = leases.map((l) => [l.id, l.pages, l.ranges.reduce((n, r) => n + r.end - r.start, 0)]);
    expect(named, this.said).toEqual(leases.map((l) => [l.id, pages.get(l.id), pages.get(l.id)]));
    const stats = this.p.list();
    const sum = (key: 'borrowedIn' | 'borrowedOut'): number => stats.reduce((n, s) => n + s[key], 0);
    expect([sum('borrowedIn'), sum('borrowedOut')], this.said).toEqual([this.lent.size, this.lent.size]);
  }
}

const must = <T>(r: { ok: true; value: T } | { ok: false; error: Refusal }): T => {
  if (!r.ok) throw new Error(`${r.error.errno}: ${r.error.message}`);
  return r.value;
};

describe('leases at random', () => {
  it('LE1 LE2 LE4 LE5 LE6 LE7 LE8 LE10 RV1 RV2 RV4 RV7 as the model says', () => {
    const seen = new Map<string, number>();
    for (let world = 0; world < WORLDS; world++) {
      const w = new World(SEED + world);
      for (let step = 0; step < STEPS; step++) {
        w.said = `seed=${SEED} world ${world} step ${step}`;
        w.step();
        w.compare();
        if (step % 50 === 49) expect(w.m.check(), w.said).toEqual([]);
      }
      // In the end all leases can end, when nobody uses anything.
      for (const a of w.held) w.m.free(a.pfn);
      for (const l of w.p.leases()) must(w.p.reclaim(l.id));
      expect(w.m.check(), `seed=${SEED} world ${world}`).toEqual([]);
      for (const [what, n] of w.seen) seen.set(what, (seen.get(what) ?? 0) + n);
    }
    const said = `seed=${SEED}: ${[...seen]
      .sort()
      .map(([k, n]) => `${k} ${n}`)
      .join(', ')}`;
    for (const what of [
      'borrow ok',
      'borrow EINVAL',
      'borrow ENOSPC',
      'borrow ENOMEM',
      'borrow EPERM',
      'borrow EXDEV',
    ]) {
      expect(seen.get(what) ?? 0, said).toBeGreaterThan(10);
    }
    for (const what of [
      'return ok',
      'return part',
      'return EBUSY',
      'revoke ok',
      'revoke part',
      'revoke EBUSY',
      'revoke ETIMEDOUT',
    ]) {
      expect(seen.get(what) ?? 0, said).toBeGreaterThan(4);
    }
  }, 120_000);
});
