// A node empties, by kind, and stays a node. Rules: docs/spec/node-evacuation.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { err, ok } from '#base/result';
import { type NodeId, type Pfn, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import type { Evictor } from './evictor.ts';
import { PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { HolderSpec } from './holder.ts';
import { remapEvictor } from './kremap/evictor.ts';
import { kremap } from './kremap/kremap.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { MIGRATE_FAULT_POINTS } from './migrate.ts';
import {
  EVACUATE_FAULT_POINTS,
  EVACUATION_KINDS,
  type EvacuationKind,
  type EvacuationKinds,
  evacuateNode,
} from './node-evacuate.ts';
import type { PageClass } from './page-class.ts';
import { refusal } from './refusal.ts';

const NODE = [0, 1].map(toNodeId) as [NodeId, NodeId];
const section = (n: number): Pfn => toPfn(n * PAGES_PER_SECTION);
const NONE: Record<EvacuationKind, number> = { memmap: 0, vmalloc: 0, slab: 0, pagetables: 0, pagecache: 0, anon: 0 };
const ALL: EvacuationKinds = { memmap: true, vmalloc: true, slab: true, pagetables: true, pagecache: true, anon: true };
const helpers = (): Evictor[] => [memmapEvictor(), remapEvictor()];

/** Two nodes of 256 MiB; the first block of node 0 is the kernel's. */
function boot(spec: Partial<MachineSpec> = {}): Machine {
  return Machine.boot({
    ram: [
      { start: section(0), end: section(2), node: NODE[0] },
      { start: section(2), end: section(4), node: NODE[1] },
    ],
    reserved: [{ name: 'kernel image', start: toPfn(0), end: toPfn(4096) }],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    ...spec,
  });
}

/** So many frames for a holder on a node. */
function take(m: Machine, spec: Omit<HolderSpec, 'node' | 'name'>, node: NodeId, frames: number, order = 0): Pfn[] {
  const holder = m.addHolder({ ...spec, name: `${spec.class} of ${node}` });
  const got: Pfn[] = [];
  for (let n = 0; n < frames; n += 2 ** order) {
    const pfn = m.alloc(holder, toOrder(order), { node, thisNode: true });
    expect(pfn).toBeGreaterThanOrEqual(0);
    got.push(toPfn(pfn));
  }
  return got;
}

/** Frames on a node by class, and where each allocation of a class lies. */
function census(
  m: Machine,
  node: NodeId,
): { frames: Partial<Record<PageClass, number>>; at: Map<PageClass, number[]> } {
  const frames: Partial<Record<PageClass, number>> = {};
  const at = new Map<PageClass, number[]>();
  for (let h = 0; h < m.holders.length; h++) {
    const cls = (m.holders.specs[h] as HolderSpec).class;
    if (cls === 'unplugged') continue; // held: nobody's
    m.holders.forEachMember(h, (head, index) => {
      if (m.zoneAt(head)?.node !== node) return;
      const a = m.sections.allocationAt(head) as { order: number };
      frames[cls] = (frames[cls] ?? 0) + 2 ** a.order;
      const list = at.get(cls) ?? [];
      list.push(h, index, head);
      at.set(cls, list);
    });
  }
  return { frames, at };
}

/** Types of the pageblocks of node 1. */
const types = (m: Machine): number[] =>
  m.zones.flatMap((p) => {
    const out: number[] = [];
    if (p.node !== NODE[1]) return out;
    for (let i = 0; i < p.pages; i += PAGEBLOCK_PAGES) out.push(p.alloc.area.typeOf(i));
    return out;
  });

describe('a node empties', () => {
  it('NE4 20 % of vmalloc data and all else to zero, and its blocks go offline without help', () => {
    const m = boot();
    const pages = 2 * PAGES_PER_SECTION;
    take(m, { class: 'vmalloc' }, NODE[1], Math.ceil(pages * 0.2));
    take(m, { class: 'slab' }, NODE[1], 3000, 1);
    take(m, { class: 'slab-reclaimable' }, NODE[1], 1000);
    take(m, { class: 'pagetable' }, NODE[1], 800);
    take(m, { class: 'stack', kernel: 'V' }, NODE[1], 512, 2);
    take(m, { class: 'file' }, NODE[1], 4000, 2);
    take(m, { class: 'shmem' }, NODE[1], 500);
    take(m, { class: 'anonymous' }, NODE[1], 4096, 9);
    take(m, { class: 'movable-ops' }, NODE[1], 64);
    // Struct pages of memory that was added: a leaf and its tables.
    expect(m.addMemory({ start: section(32), end: section(33) }, NODE[1], { memmap: 'kernel' }).ok).toBe(true);
    const had = census(m, NODE[1]).frames;
    expect(had).toMatchObject({ vmalloc: Math.ceil(pages * 0.2), memmap: 512 });
    expect(m.fork().offline(toBlockId(2)).ok).toBe(false);
    const before = types(m);
    const r = evacuateNode(m, NODE[1], ALL, { evictors: helpers() });
    expect(r).toMatchObject({ ok: true, value: { residue: NONE, others: {}, left: [], held: 4000 } }); // slab's addresses
    if (!r.ok) return;
    expect(r.value.moved).toMatchObject({ vmalloc: Math.ceil(pages * 0.2) + 512, memmap: 512, anon: 4096 + 64 });
    expect(Object.keys(r.value.movedBy).sort()).toEqual(['memmap', 'migration', 'remap']);
    expect(types(m)).toEqual(before);
    expect(m.check()).toEqual([]);
    for (const id of [2, 3]) expect(m.offline(toBlockId(id)).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('NE2 all of it can be allocated at once', () => {
    const m = boot();
    take(m, { class: 'vmalloc' }, NODE[1], 5000);
    take(m, { class: 'pagetable' }, NODE[1], 200);
    take(m, { class: 'anonymous' }, NODE[1], 5000);
    expect(evacuateNode(m, NODE[1], ALL, { evictors: helpers() })).toMatchObject({ value: { held: 0 } });
    const zone = m.zones.find((p) => p.node === NODE[1] && p.managed > 0);
    expect(zone?.alloc.nrFree()).toBe(zone?.managed);
    expect(zone?.alloc.nrIsolated()).toBe(0);
    take(m, { class: 'slab' }, NODE[1], 2 * PAGES_PER_SECTION, 9);
    expect(m.check()).toEqual([]);
  });

  it('NE11 slab goes with its addresses: its frames are held, until their block goes or the page comes home', () => {
    const m = boot();
    const slab = take(m, { class: 'slab' }, NODE[1], 64, 2);
    const zone = m.zones.find((p) => p.node === NODE[1] && p.managed > 0);
    const managed = zone?.managed ?? 0;
    const r = evacuateNode(m, NODE[1], ALL, { evictors: helpers() });
    expect(r).toMatchObject({ ok: true, value: { residue: NONE, moved: { slab: 64 }, held: 64 } });
    expect([zone?.managed, zone?.alloc.nrFree()]).toEqual([managed - 64, managed - 64]);
    expect(m.frame(slab[0] as Pfn)).toMatchObject({ class: 'unplugged' });
    expect(m.check()).toEqual([]);
    expect(evacuateNode(m, NODE[1], ALL, { evictors: helpers() })).toMatchObject({ value: { moved: NONE, held: 64 } });
    const whole = { start: section(2), end: section(4) };
    expect(kremap(m.fork()).home(whole)).toMatchObject({ pages: 64 });
    for (const id of [2, 3]) expect(m.offline(toBlockId(id)).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('NE3 kinds that were not asked for stay where they are, whoever could move them', () => {
    const m = boot();
    for (const cls of ['vmalloc', 'slab', 'pagetable', 'file', 'anonymous', 'driver'] as const) {
      take(m, { class: cls }, NODE[1], 100);
    }
    const before = census(m, NODE[1]);
    const r = evacuateNode(m, NODE[1], { vmalloc: true, slab: false }, { evictors: helpers() });
    expect(r).toMatchObject({
      ok: true,
      value: {
        residue: NONE,
        moved: { ...NONE, vmalloc: 100 },
        others: { slab: 100, pagetable: 100, file: 100, anonymous: 100, driver: 100 },
      },
    });
    const after = census(m, NODE[1]);
    before.at.delete('vmalloc');
    expect(after.at).toEqual(before.at);
    expect(m.check()).toEqual([]);
  });

  it('NE1 NE5 what stays is named with its cause: no evictor, a pin, writeback, no room', () => {
    const m = boot();
    take(m, { class: 'vmalloc' }, NODE[1], 300);
    const pinned = take(m, { class: 'anonymous' }, NODE[1], 10)[4] as Pfn;
    const read = take(m, { class: 'file' }, NODE[1], 10)[7] as Pfn;
    m.pin(pinned);
    m.setPageFlags(read, { writeback: true });
    const r = evacuateNode(m, NODE[1], ALL);
    expect(r).toMatchObject({
      ok: true,
      value: { residue: { ...NONE, vmalloc: 300, anon: 1, pagecache: 1 }, movedBy: { migration: 18 } },
    });
    if (!r.ok) return;
    expect(r.value.left.find((b) => b.startPfn === pinned)).toMatchObject({ cause: 'pinned', class: 'anonymous' });
    expect(r.value.left.find((b) => b.startPfn === read)).toMatchObject({ cause: 'writeback', class: 'file' });
    expect(r.value.left.filter((b) => b.class === 'vmalloc').every((b) => b.cause === 'unmovable')).toBe(true);
    // No room on the other node: what fits goes.
    const full = boot();
    take(full, { class: 'slab' }, NODE[0], 2 * PAGES_PER_SECTION - 4096 - 64);
    take(full, { class: 'vmalloc' }, NODE[1], 300);
    const some = evacuateNode(full, NODE[1], { vmalloc: true }, { evictors: helpers() });
    expect(some.ok && some.value.residue.vmalloc).toBeGreaterThan(0);
    expect(some.ok && some.value.residue.vmalloc + some.value.moved.vmalloc).toBe(300);
    if (some.ok) expect(new Set(some.value.left.map((b) => b.cause))).toEqual(new Set(['no-target']));
    for (const x of [m, full]) expect(x.check()).toEqual([]);
  });

  it('NE6 kernel memory has the room of kernel zones first', () => {
    const m = boot();
    take(m, { class: 'slab' }, NODE[0], 2 * PAGES_PER_SECTION - 4096 - 700);
    take(m, { class: 'anonymous' }, NODE[1], 5000);
    take(m, { class: 'vmalloc' }, NODE[1], 500);
    const r = evacuateNode(m, NODE[1], ALL, { evictors: helpers() });
    expect(r).toMatchObject({ ok: true, value: { residue: { vmalloc: 0 } } });
    expect(r.ok && r.value.residue.anon).toBeGreaterThan(4000);
    expect(m.check()).toEqual([]);
  });

  it('NE7 evictors prepare once for each run that has something of theirs; a no is no refusal of the whole', () => {
    const m = boot();
    take(m, { class: 'vmalloc' }, NODE[1], PAGES_PER_SECTION + 300); // in both blocks
    take(m, { class: 'anonymous' }, NODE[1], 50);
    const log: string[] = [];
    const remap = remapEvictor();
    const noted: Evictor = {
      ...remap,
      prepare: (_, range) => {
        log.push(`prepare ${range.start / PAGES_PER_SECTION}`);
        return range.start === section(2) ? ok(undefined) : err(refusal('relinquish', 'not now'));
      },
      commit: (_, range) => log.push(`commit ${range.start / PAGES_PER_SECTION}`),
    };
    const r = evacuateNode(m, NODE[1], ALL, { evictors: [noted] });
    expect(log).toEqual(['prepare 2', 'prepare 3', 'commit 2']);
    expect(r).toMatchObject({ ok: true, value: { residue: { anon: 0 }, movedBy: { migration: 50 } } });
    if (r.ok) {
      expect(r.value.residue.vmalloc).toBeGreaterThan(0);
      expect(r.value.left.every((b) => b.startPfn >= section(3) && b.cause === 'relinquish')).toBe(true);
    }
    expect(m.check()).toEqual([]);
  });

  it('NE8 no such node, no other memory, an offline under way: refused, nothing has changed', () => {
    const m = boot();
    const digest = m.digest();
    expect(evacuateNode(m, toNodeId(7), ALL)).toMatchObject({ error: { reason: 'bad-request', errno: 'EINVAL' } });
    const work = m.beginOffline(toBlockId(3));
    work.step();
    expect(evacuateNode(m, NODE[1], ALL)).toMatchObject({ error: { reason: 'busy', errno: 'EBUSY' } });
    work.cancel();
    const single = Machine.boot({ ram: [{ start: section(0), end: section(2), node: NODE[0] }], code: 'shared' });
    expect(evacuateNode(single, NODE[0], ALL)).toMatchObject({ error: { reason: 'no-memory', errno: 'ENOMEM' } });
    expect(m.digest()).toBe(digest);
    expect(m.check()).toEqual([]);
  });
});

describe('what fails in the world', () => {
  it('NE9 a fault before anything moves changes nothing; a move that fails is tried again', () => {
    for (const point of EVACUATE_FAULT_POINTS) {
      const m = boot();
      take(m, { class: 'vmalloc' }, NODE[1], 40);
      take(m, { class: 'anonymous' }, NODE[1], 40);
      for (const p of m.pools) p.alloc.drain(); // what isolation does to per-CPU lists is not undone, as in Linux
      const digest = m.digest();
      for (let k = 0; ; k++) {
        const f = m.fork();
        let asked = 0;
        f.faultAt = (p) => p === point && asked++ === k;
        const r = evacuateNode(f, NODE[1], ALL, { evictors: helpers() });
        if (!r.ok) {
          expect(r.error).toMatchObject({ reason: 'fault', errno: 'EIO' });
          expect(f.digest()).toBe(digest);
        } else expect(r.value.residue).toEqual(NONE);
        if (k % 16 === 0) expect(f.check()).toEqual([]);
        if (asked <= k) break;
      }
    }
  });

  it('NE10 random machines, kinds and faults', () => {
    const seeds = Number(process.env.DIMMER_SEEDS ?? 25);
    for (let seed = 1; seed <= seeds; seed++) {
      const rng = new Prng(seed);
      const m = boot({ contents: 'tag' });
      const classes = ['vmalloc', 'slab', 'slab-reclaimable', 'pagetable', 'file', 'shmem', 'anonymous'] as const;
      const mine: Pfn[] = [];
      for (let n = 0; n < 12; n++) {
        const cls = classes[rng.below(classes.length)] as PageClass;
        mine.push(
          ...take(m, { class: cls }, NODE[rng.chance(0.8) ? 1 : 0] as NodeId, 1 + rng.below(800), rng.below(5)),
        );
      }
      for (const pfn of mine) {
        const roll = rng.below(100);
        if (roll < 30) m.free(pfn);
        else if (roll < 31) m.pin(pfn);
      }
      const kinds = Object.fromEntries(EVACUATION_KINDS.map((k) => [k, rng.chance(0.7)]));
      const pages = [...m.holders.pages.slice(0, m.holders.length)];
      const before = census(m, NODE[1]);
      const typesBefore = types(m);
      const rate = rng.chance(0.5) ? 0.1 : 0;
      const points = new Set<string>(['evacuate.move', ...MIGRATE_FAULT_POINTS]);
      m.faultAt = (p) => rate > 0 && points.has(p) && rng.chance(rate);
      const r = evacuateNode(m, NODE[1], kinds, { evictors: rng.chance(0.7) ? helpers() : [] });
      m.faultAt = undefined;
      if (!r.ok) throw new Error(`seed=${seed} ${r.error.message}`);
      const after = census(m, NODE[1]);
      const sum = (x: Partial<Record<string, number>>): number =>
        Object.values(x).reduce((a: number, b) => a + (b ?? 0), 0);
      expect(sum(r.value.residue) + sum(r.value.others), `NE1 seed=${seed}`).toBe(sum(after.frames));
      expect(sum(before.frames) - sum(after.frames), `NE1 seed=${seed}`).toBe(sum(r.value.moved));
      expect(sum(r.value.movedBy), `seed=${seed}`).toBe(sum(r.value.moved));
      expect(
        r.value.left.reduce((n, b) => n + b.endPfn - b.startPfn, 0),
        `seed=${seed}`,
      ).toBe(sum(r.value.residue));
      expect(types(m), `NE2 seed=${seed}`).toEqual(typesBefore);
      for (const [kind, cls] of [
        ['vmalloc', 'vmalloc'],
        ['slab', 'slab'],
        ['pagetables', 'pagetable'],
        ['pagecache', 'file'],
        ['anon', 'anonymous'],
      ] as const) {
        if (kinds[kind] !== true) expect(after.at.get(cls), `NE3 seed=${seed} ${kind}`).toEqual(before.at.get(cls));
      }
      for (let h = 0; h < pages.length; h++) expect(m.holders.pages[h], `seed=${seed} holder ${h}`).toBe(pages[h]);
      expect(m.check(), `seed=${seed}`).toEqual([]);
    }
  });
});
