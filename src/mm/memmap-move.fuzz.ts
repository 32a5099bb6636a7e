// Struct pages in random worlds: adds with every wish, moves to every place, offlines with the evictor, removals, forks, and
// faults at every step of the protocol, against a model that knows sections and blocks only.
//
//   node 0   sections 0 to 3      node 1   sections 3 to 6      adds of node 1 at 32 to 44
//
// The model knows which sections are there, whose slots describe them, and which blocks are online. From where each leaf lies
// (one question a section) it says anew, naively: who hosts whom, how long each head must be, what is managed and what free is.
// A refusal must have its reason in the world: a fault that was injected, a guest that is online, frames that are not there.
//
//   DIMMER_SEED=n  replay one seed      DIMMER_MEMMAP_SEEDS=n  how many (default 80; 1000 take some minutes)
//   DIMMER_SEEN=1  prints how often each outcome was seen

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type BlockId, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { pfnOfSlot } from './memmap-frames.ts';
import { MEMMAP_FAULT_POINTS, type MoveTarget, memmapCounters, memmapSequence, moveMemmap } from './memmap-move.ts';
import { MEMMAP_WISHES } from './memmap-place.ts';
import { inHead, leafOf, leafPfn, memmapStat } from './memmap-where.ts';

const SEEDS = Number(process.env.DIMMER_MEMMAP_SEEDS ?? 80);
const STEPS = 12;
const S = PAGES_PER_SECTION;
const node1 = toNodeId(1);
const FIRST = 32;
const LAST = 44;

/** Blocks of one section, and of two: whether a move has steps of its own. */
const bases = [2 ** 27, 2 ** 28].map((blockSize) =>
  Machine.boot({
    ram: [
      { start: toPfn(0), end: toPfn(4 * S), node: toNodeId(0) },
      { start: toPfn(4 * S), end: toPfn(8 * S), node: node1 },
    ],
    blockSize,
    watermarks: 'none',
    code: 'shared',
    hotplug: { memmapOnMemory: 'Y', autoOnline: 'offline' },
  }),
);

type Section = { readonly add: number; readonly selfRange: boolean; readonly slots: readonly number[] };

class World {
  m: Machine;
  readonly rng: Prng;
  readonly per: number;
  /** By section number. */
  readonly there = new Map<number, Section>();
  adds = 0;
  injected = 0;
  /** Chance of a fault at each question; and the point that fails for certain, once. */
  chance = 0;
  certain: string | undefined;

  constructor(seed: number) {
    this.rng = new Prng(seed);
    this.m = (bases[seed % 2] as Machine).fork();
    this.per = this.m.blockPages / S;
    this.listen();
  }

  listen(): void {
    this.m.faultAt = (point) => {
      const hit = this.certain === point || this.rng.chance(this.chance);
      if (this.certain === point) this.certain = undefined;
      if (hit) this.injected++;
      return hit;
    };
  }

  blockAt = (section: number): number => Math.floor(section / this.per);
  online = (block: number): boolean => this.m.block(toBlockId(block))?.state === 'online';
  leafBlock = (section: number): number =>
    Math.floor(leafPfn(this.m, leafOf(this.m, section)?.leaf as never) / this.m.blockPages);
  added = (): number[] => [...new Set([...this.there.keys()].map(this.blockAt))];
}

const target = (w: World): MoveTarget => {
  const { rng } = w;
  if (rng.chance(0.1)) return { range: { start: toPfn(2 * S), end: toPfn(3 * S) } };
  const policy = rng.pick(MEMMAP_WISHES);
  const hosts = rng.chance(0.5) ? {} : { hosts: [toBlockId(rng.pick([...w.added(), w.blockAt(5)]))] };
  return policy === 'host-section' || policy === 'auto' ? { policy, ...hosts } : { policy };
};

function addEvent(w: World): string {
  const { rng, m, per } = w;
  const first = FIRST + per * rng.below((LAST - FIRST) / per);
  const count = Math.min(LAST - first, per * (1 + rng.below(4 / per)));
  const memmap = rng.pick([...MEMMAP_WISHES, 'host-section'] as const);
  const named = memmap === 'host-section' && w.there.size > 0 && rng.chance(0.5);
  const hosts = named ? { memmapHosts: [toBlockId(rng.pick(w.added()))] } : {};
  const taken = Array.from({ length: count }, (_, k) => w.there.has(first + k)).some((t) => t);
  const r = m.addMemory({ start: toPfn(first * S), end: toPfn((first + count) * S) }, node1, { memmap, ...hosts });
  if (!r.ok) {
    expect(taken ? ['EEXIST'] : named ? ['ENOMEM', 'EINVAL'] : ['ENOMEM']).toContain(r.error.errno);
    return `add ${r.error.errno}`;
  }
  expect(taken).toBe(false);
  w.adds++;
  for (let n = first; n < first + count; n++) {
    const slots = leafOf(m, n)?.leaf.slots ?? [];
    w.there.set(n, { add: w.adds, selfRange: r.value.memmap === 'self-range', slots });
  }
  return `add ${r.value.memmap}`;
}

function moveEvent(w: World): string {
  const { rng, m } = w;
  if (w.there.size === 0) return 'nothing to move';
  const block = toBlockId(rng.pick(w.added()));
  const to = target(w);
  const sections = [...w.there.keys()].filter((n) => w.blockAt(n) === block);
  const wereAt = sections.map((n) => leafPfn(m, leafOf(m, n)?.leaf as never));
  const injected = w.injected;
  const free = new Map(m.pools.map((p) => [p.id, p.alloc.nrFree() + p.alloc.pcpPages()]));
  const r = moveMemmap(m, block, to);
  const moved = sections.filter((n, k) => leafPfn(m, leafOf(m, n)?.leaf as never) !== wereAt[k]).length;
  for (const n of sections) expect(memmapSequence(m, n) % 2).toBe(0);
  if (r.ok) {
    expect(r.value.moved).toBe(moved);
    expect(r.value.moved + r.value.stayed).toBe(w.per);
    return moved > 0 ? `move ${'policy' in to ? to.policy : 'range'}` : 'move nothing';
  }
  expect(['fault', 'no-memory', 'bad-request']).toContain(r.error.reason);
  if (r.error.reason === 'fault') expect(w.injected).toBeGreaterThan(injected);
  else if (r.error.reason === 'bad-request') expect('hosts' in to).toBe(true);
  if (moved === 0 && r.error.reason !== 'no-memory') {
    for (const p of m.pools) expect(p.alloc.nrFree() + p.alloc.pcpPages()).toBe(free.get(p.id));
  }
  return moved > 0 ? `move ${r.error.reason} half way` : `move ${r.error.reason}`;
}

function onlineEvent(w: World): string {
  const waiting = w.added().filter((id) => !w.online(id));
  const block = w.rng.pick(waiting.length > 0 && w.rng.chance(0.8) ? waiting : [...w.added(), w.blockAt(5)]);
  const was = w.m.block(toBlockId(block))?.state;
  const r = w.m.online(toBlockId(block), w.rng.pick(['movable', 'kernel'] as const));
  expect(r.ok).toBe(was === 'offline');
  return r.ok ? 'online' : 'online already';
}

function offlineEvent(w: World): string {
  const { rng, m } = w;
  const hosting = [...m.hotplug.hosts].filter(w.online);
  const block = rng.pick(hosting.length > 0 && rng.chance(0.5) ? hosting : [...w.added(), w.blockAt(5), w.blockAt(3)]);
  if (!w.online(block)) return 'offline already';
  const helped = rng.chance(0.6);
  const head = memmapStat(m, toBlockId(block))?.headPages ?? 0;
  const inside = [...w.there.keys()].filter((n) => w.leafBlock(n) === block && w.blockAt(n) !== block);
  const guests = inside.filter((n) => w.online(w.blockAt(n)));
  const zone = inside.filter((n) => !inHead(m, leafPfn(m, leafOf(m, n)?.leaf as never)));
  const injected = w.injected;
  const digest = rng.chance(0.2) ? m.digest() : undefined;
  const r = m.offline(toBlockId(block), helped ? { evictors: [memmapEvictor()] } : {});
  if (r.ok) {
    if (!helped) expect(guests.filter((n) => !zone.includes(n))).toEqual([]);
    return helped && inside.length > 0 ? 'offline with moves' : 'offline';
  }
  if (digest !== undefined) expect(m.digest()).toBe(digest);
  expect(memmapStat(m, toBlockId(block))?.headPages).toBe(head);
  const { reason } = r.error;
  if (helped && (reason === 'hosts' || reason === 'unmovable')) {
    // Only a fault keeps struct pages where they are, or that there is no place; other kernel pages are not ours.
    const causes = new Set(r.error.blockers.map((x) => x.cause));
    if (causes.has('fault')) expect(w.injected).toBeGreaterThan(injected);
    expect([...causes].every((c) => ['fault', 'no-target', 'unmovable', 'hosts'].includes(c))).toBe(true);
  }
  if (reason === 'hosts') expect(guests.length).toBeGreaterThan(0);
  return `offline ${reason}${helped ? ' helped' : ''}`;
}

function removeEvent(w: World): string {
  const { rng, m, per } = w;
  if (w.there.size === 0) return 'nothing to remove';
  const some = w.there.get(rng.pick([...w.there.keys()])) as Section;
  const mine = [...w.there.keys()].filter((n) => w.there.get(n)?.add === some.add).sort((a, b) => a - b);
  let first = mine[0] as number;
  let end = (mine[mine.length - 1] as number) + 1;
  if (rng.chance(0.3)) first += per * rng.below((end - first) / per);
  if (rng.chance(0.3)) end -= per * rng.below((end - first) / per);
  const goes = (n: number): boolean => first <= n && n < end;
  const range = Array.from({ length: end - first }, (_, k) => first + k);
  const held = [...w.there.keys()].filter((n) => !goes(n) && range.some((x) => w.blockAt(x) === w.leafBlock(n)));
  const crossing = mine.some((n) => {
    const there = w.leafBlock(n) * per;
    return (
      mine.some((x) => w.blockAt(x) === w.leafBlock(n)) && goes(n) !== goes(there) && w.leafBlock(n) !== w.blockAt(n)
    );
  });
  const r = m.removeMemory({ start: toPfn(first * S), end: toPfn(end * S) });
  if (range.some((n) => !w.there.has(n))) {
    expect(r.ok ? '' : r.error.errno).toBe('ENOENT');
    return 'remove ENOENT';
  }
  if (range.some((n) => w.online(w.blockAt(n)))) {
    expect(r.ok ? '' : r.error.errno).toBe('EBUSY');
    return 'remove online';
  }
  const refused = held.length > 0 || (some.selfRange && crossing);
  expect(r.ok).toBe(!refused);
  if (!r.ok) return `remove ${r.error.reason}`;
  for (const n of range) w.there.delete(n);
  return 'remove';
}

function noiseEvent(w: World): string {
  const { rng, m } = w;
  const cls = rng.pick(['anonymous', 'anonymous', 'file'] as const);
  const there = m.holders.specs.findIndex((s) => s.name === `noise ${cls}`);
  const holder = there >= 0 ? (there as never) : m.addHolder({ class: cls, name: `noise ${cls}` });
  if (rng.chance(0.4)) {
    const heads: number[] = [];
    m.forEachFrameOf(holder, (head) => {
      heads.push(head);
    });
    for (const head of heads) if (rng.chance(0.5)) m.free(toPfn(head));
    return 'free';
  }
  const order = toOrder(rng.pick([0, 4, 9, 10]));
  for (let k = rng.below(80); k >= 0; k--) if (m.alloc(holder, order) < 0) break;
  return 'alloc';
}

function copyEvent(w: World): string {
  const digest = w.m.digest();
  w.m.faultAt = undefined;
  w.m = w.m.fork();
  w.listen();
  expect(w.m.digest()).toBe(digest);
  return 'fork';
}

/** What the model says anew from where each leaf lies. */
function compare(w: World): void {
  const { m } = w;
  const sections = [...w.there.keys()];
  expect(m.hotplug.ranges.reduce((n, r) => n + r.memmapPages, 0)).toBe(sections.length * PAGEBLOCK_PAGES);
  const deepest = new Map<number, number>();
  const hosts = new Set<number>();
  const frames = new Set<number>();
  for (const n of sections) {
    const leaf = leafOf(m, n)?.leaf;
    expect(leaf?.slots).toEqual(w.there.get(n)?.slots);
    for (const slot of leaf?.slots ?? []) {
      const pfn = pfnOfSlot(m, slot);
      expect(frames.has(pfn)).toBe(false);
      frames.add(pfn);
      const block = Math.floor(pfn / m.blockPages);
      if (inHead(m, pfn)) deepest.set(block, Math.max(deepest.get(block) ?? 0, (pfn % m.blockPages) + PAGEBLOCK_PAGES));
      else expect(m.frame(pfn).state).toBe('used'); // online, and nobody else's
      if (block !== w.blockAt(n) && inHead(m, pfn)) hosts.add(block);
    }
  }
  for (const host of hosts) expect(m.hotplug.hosts.has(host as BlockId)).toBe(true);
  let managed = 8 * S;
  for (const block of new Set([...w.added(), ...Array.from({ length: 8 / w.per }, (_, k) => k)])) {
    const head = memmapStat(m, toBlockId(block))?.headPages ?? 0;
    expect(head).toBe(deepest.get(block) ?? 0);
    const added = w.there.get(block * w.per);
    const counted = m.blockPages - (added?.selfRange === true ? 0 : head);
    if (added === undefined) managed -= w.online(block) ? head : m.blockPages;
    else if (w.online(block)) managed += counted;
  }
  expect(m.pools.reduce((n, p) => n + p.managed, 0)).toBe(managed);
}

const EVENTS: readonly (readonly [number, (w: World) => string])[] = [
  [10, addEvent],
  [16, moveEvent],
  [10, onlineEvent],
  [10, offlineEvent],
  [6, removeEvent],
  [3, noiseEvent],
  [1, copyEvent],
];

function run(seed: number, seen: Map<string, number>): void {
  const w = new World(seed);
  const weights = EVENTS.map(([weight]) => weight);
  addEvent(w);
  for (let step = 0; step < STEPS; step++) {
    const where = `seed=${seed} step=${step}`;
    // Half of the worlds have weather; in the others one step fails once.
    w.chance = seed % 4 < 2 ? 0.06 : 0;
    if (seed % 4 >= 2 && step % 4 === 0) w.certain = MEMMAP_FAULT_POINTS[(seed + step) % MEMMAP_FAULT_POINTS.length];
    let what = '';
    try {
      what = (EVENTS[w.rng.weighted(weights)] as (typeof EVENTS)[number])[1](w);
      compare(w);
      expect(w.m.check(step % 6 === 5 ? 3 : 1)).toEqual([]);
    } catch (e) {
      throw new Error(`${where}: ${what}: ${e instanceof Error ? e.message : e}`, { cause: e });
    }
    seen.set(what, (seen.get(what) ?? 0) + 1);
  }
  for (const point of MEMMAP_FAULT_POINTS) {
    const n = memmapCounters(w.m).faults[point];
    seen.set(point, (seen.get(point) ?? 0) + n);
  }
  // Without faults everything can be taken out again, and nothing is left behind.
  w.m.faultAt = undefined;
  w.m.holders.specs.forEach((spec, h) => {
    if (spec.name.startsWith('noise')) w.m.forEachFrameOf(h as never, (head) => w.m.free(head));
  });
  for (const block of w.added()) {
    if (!w.online(block)) continue;
    const r = w.m.offline(toBlockId(block), { evictors: [memmapEvictor()] });
    expect(r.ok || r.error.reason, `seed=${seed} block ${block}`).toBe(true);
  }
  for (const block of w.added()) must(moveMemmap(w.m, toBlockId(block), { policy: 'kernel' }), seed);
  for (const r of [...w.m.hotplug.ranges]) must(w.m.removeMemory(r), seed);
  expect(w.m.check(), `seed=${seed}`).toEqual([]);
  expect([w.m.hotplug.hosts.size, w.m.hotplug.ranges.length], `seed=${seed}`).toEqual([0, 0]);
}

function must(r: { readonly ok: boolean; readonly error?: unknown }, seed: number): void {
  if (!r.ok) throw new Error(`seed=${seed}: ${JSON.stringify(r.error)}`);
}

it("LM14 whatever is added, moved, broken off, taken offline and removed: places, counters and refusals are the model's", () => {
  const seen = new Map<string, number>();
  const only = process.env.DIMMER_SEED;
  if (only !== undefined) return run(Number(only), seen);
  for (let seed = 1; seed <= SEEDS; seed++) run(seed, seen);
  if (process.env.DIMMER_SEEN !== undefined) console.log(Object.fromEntries([...seen].sort()));
  const wanted = [
    ...['add kernel', 'add self-block', 'add self-range', 'add host-section', 'add EEXIST', 'remove', 'remove online'],
    ...['remove hosts', 'remove bad-request', 'offline', 'offline with moves', 'offline hosts', 'online', 'fork'],
    ...MEMMAP_WISHES.map((wish) => `move ${wish}`),
    ...['move range', 'move fault', 'move fault half way', 'move nothing', 'move bad-request', ...MEMMAP_FAULT_POINTS],
  ];
  for (const what of wanted) expect(seen.get(what) ?? 0, what).toBeGreaterThan(0);
});
