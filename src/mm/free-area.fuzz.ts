// Free areas against the naive model: random events with swarm weights, then every sequence in a small world.
//
// After every event: list lengths by order and type, which orders can be served, and the chosen frame (each placement
// fixes it). Now and then, and at the end: every chunk, every type, the pick of every list, and the area's own check.
//
//   DIMMER_SEED=n       replay a seed              DIMMER_FUZZ_OPS=n   operations in all (default 1.2 million)

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { NaiveMemory } from '../../test/model/naive-memory.ts';
import type { FreeArea, Placement } from './free-area.ts';
import { createFreeArea } from './free-area-create.ts';
import type { MigrateType } from './geometry.ts';

const PLACEMENTS: readonly Placement[] = ['address', 'fullest', 'lifo'];
const SEED = Number(process.env.DIMMER_SEED ?? 20240607);
const OPS = Number(process.env.DIMMER_FUZZ_OPS ?? 1_200_000);
const RUNS = 40; // a placement; each with its own weights and size

const EVENTS = ['alloc', 'bulk', 'free', 'freeParts', 'retype', 'take', 'online', 'query', 'copy'] as const;
const WEIGHTS: Record<(typeof EVENTS)[number], number> = {
  alloc: 40,
  bulk: 4,
  free: 40,
  freeParts: 4,
  retype: 3,
  take: 4,
  online: 1,
  query: 4,
  copy: 0.05,
};

/** Without these a world stands still. */
const ALWAYS: ReadonlySet<string> = new Set(['alloc', 'free', 'online']);

/** One world: engine, model, and the frames that the test holds. */
class World {
  readonly rng: Prng;
  readonly model: NaiveMemory;
  readonly held: { i: number; order: number }[] = [];
  readonly scratch = new Int32Array(66);
  readonly ring = new Int32Array(256);
  readonly chunksOut: number[] = [];
  readonly smallOrders: number;
  area: FreeArea;
  spare: FreeArea;
  what = '';
  /** Events that changed something: a world that starved proves nothing. */
  moved = 0;

  constructor(rng: Prng, placement: Placement) {
    this.rng = rng;
    const pages = 1024 * rng.pick([1, 2, 3, 8]);
    const code = rng.chance(0.5) ? 'own' : 'shared';
    this.smallOrders = rng.pick([1, 3, 11]);
    this.model = new NaiveMemory(pages, placement);
    this.area = createFreeArea(pages, placement, code);
    this.spare = createFreeArea(pages, placement, 'shared');
    for (let i = 0; i < pages; i += 1024) this.chunksOut.push(i);
  }

  order(): number {
    return this.rng.chance(0.7) ? this.rng.below(this.smallOrders) : this.rng.below(11);
  }

  mt(): MigrateType {
    return this.rng.weighted([3, 8, 2, 1, 1, 1]) as MigrateType;
  }

  same(actual: unknown, expected: unknown): void {
    if (actual !== expected) throw new Error(`${this.what}: engine says ${String(actual)}, model ${String(expected)}`);
  }

  step(event: (typeof EVENTS)[number]): void {
    const { rng, model, area, held } = this;
    switch (event) {
      case 'alloc': {
        const order = this.order();
        const mt = this.mt();
        this.what = `alloc(${order}, ${mt})`;
        const i = model.alloc(order, mt);
        this.same(area.alloc(order, mt), i);
        if (i < 0) return;
        held.push({ i, order });
        break;
      }
      case 'bulk': {
        const mt = this.mt();
        const count = rng.below(100) + 1;
        const at = rng.below(256);
        this.what = `allocBulk(${mt}, ${count})`;
        const got = area.allocBulk(mt, this.ring, at, 255, count);
        for (let k = 0; k < count; k++) {
          const i = model.alloc(0, mt);
          if (i < 0) {
            this.same(got, k);
            return;
          }
          this.same(this.ring[(at + k) & 255], i);
          held.push({ i, order: 0 });
        }
        this.same(got, count);
        break;
      }
      case 'free':
      case 'freeParts': {
        if (held.length === 0) return;
        const k = rng.below(held.length);
        const { i, order } = held[k];
        held[k] = held[held.length - 1];
        held.pop();
        const tail = rng.chance(0.2);
        if (event === 'free' || order === 0) {
          this.what = `free(${i}, ${order}, ${tail})`;
          area.free(i, order, tail);
          model.free(i, order, tail);
          break;
        }
        const part = rng.below(order);
        const parts = Array.from({ length: 2 ** (order - part) }, (_, n) => i + n * 2 ** part);
        for (const p of rng.shuffle(parts).slice(0, 64)) {
          this.what = `free(${p}, ${part}) of ${i}, ${order}`;
          area.free(p, part);
          model.free(p, part);
        }
        for (const p of parts.slice(64)) held.push({ i: p, order: part });
        break;
      }
      case 'retype': {
        const i = rng.below(model.pages);
        const mt = this.mt();
        this.what = `setPageblockType(${i}, ${mt})`;
        this.same(area.setPageblockType(i, mt), model.setPageblockType(i, mt));
        break;
      }
      case 'take': {
        const chunks = [...model.begins];
        if (chunks.length === 0) return;
        const [i, order] = rng.pick(chunks);
        this.what = `take(${i}, ${order})`;
        area.take(i, order);
        model.take(i, order);
        let keep = order;
        while (keep > 0 && rng.chance(0.6)) {
          keep--;
          area.put(i + 2 ** keep, keep);
          model.put(i + 2 ** keep, keep);
        }
        held.push({ i, order: keep });
        break;
      }
      case 'online': {
        if (this.chunksOut.length === 0) return;
        const start = this.chunksOut.splice(rng.below(this.chunksOut.length), 1)[0];
        this.what = `online(${start})`;
        area.online(start, start + 1024);
        model.online(start, start + 1024);
        break;
      }
      case 'query': {
        const i = rng.below(model.pages);
        this.what = `headOf(${i})`;
        const head = model.headOf(i);
        this.same(area.headOf(i), head);
        this.what = `orderAt(${i})`;
        this.same(area.orderAt(i), model.begins.get(i) ?? -1);
        const start = Math.max(0, i - rng.below(600));
        this.what = `freeIn(${start}, ${i})`;
        if (rng.chance(0.1)) this.same(area.freeIn(start, i), model.freeIn(start, i));
        break;
      }
      case 'copy': {
        this.what = 'copyFrom';
        this.spare.copyFrom(area);
        [this.area, this.spare] = [this.spare, this.area];
        break;
      }
    }
    this.moved++;
  }
}

/** @returns the trouble, in words with the shortest way to see it again; '' when all was well. */
function run(seed: number, placement: Placement, ops: number): string {
  const rng = new Prng(seed);
  const world = new World(rng, placement);
  const weights = EVENTS.map((e) => {
    const swarm = rng.below(4); // one in four events does not happen in this run
    return Math.round((swarm === 0 && !ALWAYS.has(e) ? 0 : swarm + 1) * 100 * WEIGHTS[e]);
  });
  // The tide: while it is out, four times the frees, so that a world is neither always full nor always empty.
  const ebb = weights.map((w, e) => (EVENTS[e] === 'free' ? w * 4 : w));
  const flood = weights.map((w, e) => (EVENTS[e] === 'alloc' ? w * 4 : w));
  let event: (typeof EVENTS)[number] = 'online';
  for (let n = 0; n < ops; n++) {
    event = n === 0 ? 'online' : EVENTS[rng.weighted(Math.floor(n / 400) % 2 === 0 ? flood : ebb)];
    try {
      world.step(event);
      const wrong = world.model.differences(world.area, world.scratch);
      if (wrong.length > 0) throw new Error(`${world.what}: ${wrong.join('; ')}`);
      if (n % 2000 === 1999 || n === ops - 1) {
        const deep = [...world.model.deepDifferences(world.area), ...world.area.check()];
        if (deep.length > 0) throw new Error(`after ${world.what}: ${deep.slice(0, 5).join('; ')}`);
      }
    } catch (error) {
      return `seed=${seed} placement=${placement} pages=${world.model.pages} event ${n}: ${String(error)}`;
    }
  }
  return world.moved > ops / 4
    ? ''
    : `seed=${seed} placement=${placement}: only ${world.moved} of ${ops} events did anything`;
}

describe('free area, random events', () => {
  for (const placement of PLACEMENTS) {
    it(`${placement} does what the naive model does, event by event (seed=${SEED}, ops=${OPS})`, () => {
      const ops = Math.ceil(OPS / PLACEMENTS.length / RUNS);
      for (let k = 0; k < RUNS; k++) expect(run(SEED + k, placement, ops)).toBe('');
    });
  }

  it('the comparison sees a difference when there is one', () => {
    const area = createFreeArea(1024, 'address', 'shared');
    const model = new NaiveMemory(1024, 'address');
    area.online(0, 1024);
    expect(model.differences(area)).not.toEqual([]);
    model.online(0, 1024);
    expect(model.deepDifferences(area)).toEqual([]);
    model.types[1] = 5;
    expect(model.deepDifferences(area)).not.toEqual([]);
  });
});

// Every sequence of these events, to a depth, in two chunks. Frames are freed oldest or newest first, so that the
// alphabet stays small; undo is copyFrom.

type Small = { name: string; act: (area: FreeArea, model: NaiveMemory, held: [number, number][]) => void };

const allocEvent = (order: number, mt: number): Small => ({
  name: `alloc(${order}, ${mt})`,
  act: (area, model, held) => {
    const i = model.alloc(order, mt);
    expect(area.alloc(order, mt)).toBe(i);
    if (i >= 0) held.push([i, order]);
  },
});
const freeEvent = (oldest: boolean): Small => ({
  name: oldest ? 'free oldest' : 'free newest',
  act: (area, model, held) => {
    const chunk = oldest ? held.shift() : held.pop();
    if (chunk === undefined) return;
    area.free(chunk[0], chunk[1]);
    model.free(chunk[0], chunk[1]);
  },
});
const typeEvent = (block: number, mt: MigrateType): Small => ({
  name: `type(${block}, ${mt})`,
  act: (area, model) => {
    expect(area.setPageblockType(block * 512, mt)).toBe(model.setPageblockType(block * 512, mt));
  },
});

const ALPHABET: readonly Small[] = [
  allocEvent(0, 1),
  allocEvent(8, 1),
  allocEvent(9, 0),
  allocEvent(10, 1),
  freeEvent(true),
  freeEvent(false),
  typeEvent(0, 5),
  typeEvent(1, 1),
  typeEvent(1, 0),
  typeEvent(3, 4),
];

describe('free area, every sequence of a small world', () => {
  const DEPTH = 5;
  for (const placement of PLACEMENTS) {
    it(`${placement}: all ${ALPHABET.length ** DEPTH} sequences of ${DEPTH} events on 2048 pages`, () => {
      const areas = Array.from({ length: DEPTH + 1 }, () => createFreeArea(2048, placement, 'shared'));
      const root = new NaiveMemory(2048, placement);
      root.online(0, 2048);
      areas[0].online(0, 2048);
      let sequences = 0;
      const descend = (depth: number, model: NaiveMemory, held: [number, number][], path: string): void => {
        if (depth === DEPTH) {
          sequences++;
          return;
        }
        for (const event of ALPHABET) {
          const area = areas[depth + 1];
          area.copyFrom(areas[depth]);
          const next = model.clone();
          const nextHeld = held.slice();
          const where = `${path} > ${event.name}`;
          event.act(area, next, nextHeld);
          const wrong = next.differences(area);
          if (depth === DEPTH - 1 && sequences % 97 === 0) wrong.push(...next.deepDifferences(area), ...area.check());
          if (wrong.length > 0) throw new Error(`${where}: ${wrong.join('; ')}`);
          descend(depth + 1, next, nextHeld, where);
        }
      };
      descend(0, root, [], 'online');
      expect(sequences).toBe(ALPHABET.length ** DEPTH);
    });
  }
});
