// Moves in two steps, and everybody who may come between. Rules MV8..MV11, docs/spec/movers.md.
//
// The world of MV8: one page of `owner`, five actors of two steps each, every order of the ten steps in which each actor's
// own two stay in order: 10! / 2^5 = 113 400 schedules. A model of a dozen lines says what each step must come to.

import { describe, expect, it } from 'vitest';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { worldFrom } from '../../../test/support/picture.ts';
import type { Machine } from '../machine.ts';
import { abortMove, beginMove, finishMove, type Move, movesInFlight } from '../migrate.ts';
import type { Pool } from '../pool.ts';

const ACTORS = ['free', 'pin', 'write', 'move', 'second move'] as const;

/** Every order of two steps of each of `n` actors, as lists of actors. */
function* schedules(n: number): Generator<number[]> {
  const steps: number[] = [];
  const left = Array.from({ length: n }, () => 2);
  function* next(): Generator<number[]> {
    if (steps.length === 2 * n) return yield steps;
    for (let a = 0; a < n; a++) {
      if (left[a] === 0) continue;
      left[a]--;
      steps.push(a);
      yield* next();
      steps.pop();
      left[a]++;
    }
  }
  yield* next();
}

/** A world of millions of steps: a look that costs nothing when all is well. */
function same(actual: unknown, expected: unknown, what: string): void {
  if (actual !== expected) throw new Error(`${what}: ${String(actual)}, not ${String(expected)}`);
}

/** Who gets the frame that `free` freed. */
const AGAIN = ['another', 'its owner'] as const;
type Again = (typeof AGAIN)[number];

class World {
  readonly m: Machine;
  readonly owner: HolderId;
  readonly other: HolderId;
  readonly again: Again;
  readonly pool: Pool;
  readonly to: Int32Array;
  readonly all: number;

  constructor(again: Again) {
    const { m } = worldFrom('n0 Normal ........', { contents: 'bytes' });
    this.m = m;
    this.again = again;
    this.owner = m.addHolder({ class: 'anonymous', name: 'owner' });
    this.other = m.addHolder({ class: 'file', name: 'other' });
    this.pool = m.poolNamed(toNodeId(0), 'Normal') as Pool;
    this.to = Int32Array.of(this.pool.id);
    this.pool.alloc.disable(); // per-CPU lists: what is free can be counted, and the lowest free frame is the next
    this.all = this.pool.alloc.nrFree();
  }

  /** Every frame that somebody has, in order of holders; a frame that two have is told. */
  held(): number[] {
    const { holders } = this.m;
    const out: number[] = [];
    for (let h = 0; h < holders.length; h++) {
      holders.forEachMember(h, (frame) => {
        same(out.includes(frame), false, `frame ${frame} is held twice`);
        out.push(frame);
      });
    }
    return out;
  }

  frameOf(h: HolderId): number {
    let at = -1;
    this.m.holders.forEachMember(h, (frame) => {
      at = frame;
    });
    return at;
  }

  alloc(h: HolderId, value: number): number {
    const pfn = toPfn(this.m.alloc(h, toOrder(0)));
    this.m.write(pfn, 0, Uint8Array.of(value));
    return this.m.sections.indexOf(pfn);
  }

  pfn(index: number): Pfn {
    return this.m.sections.pfnOf(index);
  }
}

/** One schedule against the model: the page that `owner` has, what it says, whether it is pinned, what is in flight. */
class Run {
  at: number;
  alive = true;
  pinned = false;
  value = 1;
  others = 0;
  readonly flights: (Move | undefined)[] = [];
  inFlight = 0;
  readonly #w: World;

  constructor(w: World) {
    this.#w = w;
    this.at = w.alloc(w.owner, this.value);
  }

  step(actor: (typeof ACTORS)[number], first: boolean): void {
    const { m } = this.#w;
    switch (actor) {
      case 'free':
        if (first) {
          m.free(this.#w.pfn(this.at));
          this.alive = false;
          this.pinned = false;
        } else if (this.#w.again === 'its owner') {
          this.at = this.#w.alloc(this.#w.owner, (this.value = 77));
          this.alive = true;
        } else {
          this.#w.alloc(this.#w.other, (this.others = 99));
        }
        return;
      case 'pin':
        if (!this.alive) return;
        if (first) m.pin(this.#w.pfn(this.at));
        else m.unpin(this.#w.pfn(this.at));
        this.pinned = first;
        return;
      case 'write':
        this.value = first ? 10 : 20;
        if (this.alive) m.write(this.#w.pfn(this.at), 0, Uint8Array.of(this.value));
        return;
      case 'move':
      case 'second move':
        return first ? this.#begin(actor) : this.#finish(actor);
    }
  }

  #begin(actor: 'move' | 'second move'): void {
    if (!this.alive) return;
    const began = beginMove(this.#w.m, this.at, this.#w.to);
    // A move of the page that was there before still has the entry: who comes by it waits for the end of that one.
    same(began.ok ? 'ok' : began.error, this.inFlight > 0 ? 'raced' : this.pinned ? 'pinned' : 'ok', `begin ${actor}`);
    if (!began.ok) return;
    same(began.value.from, this.at, 'from');
    this.flights[ACTORS.indexOf(actor)] = began.value;
    this.inFlight++;
  }

  #finish(actor: 'move' | 'second move'): void {
    const move = this.flights[ACTORS.indexOf(actor)];
    if (move === undefined) return;
    this.inFlight--;
    const there = this.alive && this.at === move.from;
    const outcome = finishMove(this.#w.m, move);
    same(outcome, there ? (this.pinned ? 'pinned' : 'moved') : 'raced', `finish ${actor}`);
    if (outcome === 'moved') this.at = move.to;
  }

  /** Each frame is free, or somebody's and nobody else's; contents are where their holder looks for them. */
  look(): void {
    const w = this.#w;
    const held = w.held().length;
    same(held, (this.alive ? 1 : 0) + (this.others > 0 ? 1 : 0) + this.inFlight, 'frames held');
    same(w.pool.alloc.nrFree() + held, w.all, 'free and held');
    same(w.frameOf(w.owner), this.alive ? this.at : -1, 'where the owner finds its page');
    if (this.alive) same(w.m.read(w.pfn(this.at))[0], this.value, 'contents');
    if (this.others > 0) same(w.m.read(w.pfn(w.frameOf(w.other)))[0], this.others, 'contents of the other');
  }

  end(): void {
    const w = this.#w;
    same(movesInFlight(w.m).length, 0, 'in flight at the end');
    if (this.alive) w.m.free(w.pfn(this.at));
    if (this.others > 0) w.m.free(w.pfn(w.frameOf(w.other)));
  }
}

function play(w: World, schedule: readonly number[]): void {
  const run = new Run(w);
  const done = ACTORS.map(() => 0);
  schedule.forEach((actor, k) => {
    try {
      run.step(ACTORS[actor], done[actor]++ === 0);
      run.look();
    } catch (e) {
      const told = schedule.slice(0, k + 1).map((a) => ACTORS[a]);
      throw new Error(`after ${told.join(', ')} (freed for ${w.again}): ${(e as Error).message}`);
    }
  });
  run.end();
}

describe('a move in two steps', () => {
  it.each(AGAIN)(
    'MV8 free, pin, write, move, second move: all schedules, the freed frame goes to %s; nothing is lost, nothing doubled',
    (again) => {
      const w = new World(again);
      let played = 0;
      for (const schedule of schedules(ACTORS.length)) {
        play(w, schedule);
        if (++played % 5000 === 0) expect(w.m.check()).toEqual([]);
      }
      expect(played).toBe(113_400);
      expect(w.pool.alloc.nrFree()).toBe(w.all);
      expect(w.m.check()).toEqual([]);
    },
  );

  it('MV9 a target in flight is held, by whom everybody can see; check() finds nothing wrong in between', () => {
    const w = new World('another');
    const { m } = w;
    const at = w.alloc(w.owner, 5);
    const began = beginMove(m, at, w.to);
    if (!began.ok) throw new Error(began.error);
    expect(movesInFlight(m)).toEqual([began.value]);
    expect(m.frame(w.pfn(began.value.to))).toMatchObject({ state: 'used', name: 'migration target' });
    expect(m.check()).toEqual([]);
    expect(beginMove(m, at, w.to)).toEqual({ ok: false, error: 'raced' });
    abortMove(m, began.value);
    abortMove(m, began.value);
    expect(finishMove(m, began.value)).toBe('raced');
    expect([w.pool.alloc.nrFree(), w.frameOf(w.owner), m.read(w.pfn(at))[0]]).toEqual([w.all - 1, at, 5]);
    expect(m.check()).toEqual([]);
  });

  it('MV9 large ones move whole or not at all; split meanwhile, they are raced', () => {
    const { m } = worldFrom('n0 Normal ........\n n1 Normal UUUUUUU. *U', { contents: 'bytes' });
    const to = Int32Array.of((m.poolNamed(toNodeId(1), 'Normal') as Pool).id);
    const h = m.addHolder({ class: 'anonymous', name: 'thp' });
    const [big, fits] = [9, 6].map((order) => toPfn(m.alloc(h, toOrder(order))));
    expect(beginMove(m, m.sections.indexOf(big), to)).toEqual({ ok: false, error: 'no-target' });
    expect(m.frame(big)).toMatchObject({ order: 9 });
    const began = beginMove(m, m.sections.indexOf(fits), to);
    if (!began.ok) throw new Error(began.error);
    m.divide(m.sections.indexOf(fits), 6);
    expect(finishMove(m, began.value)).toBe('raced');
    expect(m.frame(toPfn(fits + 63))).toMatchObject({ state: 'used', order: 0 });
    expect(m.check()).toEqual([]);
  });

  it('MV10 storage that begins to read meanwhile, a fault, and classes that do not move: told, and the target is free', () => {
    const w = new World('another');
    const { m } = w;
    const begin = (at: number): Move => {
      const began = beginMove(m, at, w.to);
      if (!began.ok) throw new Error(began.error);
      return began.value;
    };
    const at = w.alloc(w.owner, 5);
    const move = begin(at);
    m.setPageFlags(w.pfn(at), { writeback: true });
    expect(finishMove(m, move)).toBe('writeback');
    m.setPageFlags(w.pfn(at), { writeback: false });
    for (const point of ['migrate.copy', 'migrate.switch']) {
      const next = begin(at);
      m.faultAt = (p) => p === point;
      expect(finishMove(m, next)).toBe('fault');
      m.faultAt = undefined;
    }
    for (const point of ['migrate.reserve', 'migrate.unmap']) {
      m.faultAt = (p) => p === point;
      expect(beginMove(m, at, w.to)).toEqual({ ok: false, error: point === 'migrate.unmap' ? 'fault' : 'no-target' });
      m.faultAt = undefined;
    }
    expect([w.pool.alloc.nrFree(), w.frameOf(w.owner)]).toEqual([w.all - 1, at]);
    const slab = m.sections.indexOf(toPfn(m.alloc(m.addHolder({ class: 'slab', name: 's' }), toOrder(0))));
    expect(beginMove(m, slab, w.to)).toEqual({ ok: false, error: 'final' });
    expect(m.vmstat).toMatchObject({ pgmigrate_fail: 5, pgmigrate_success: 0 });
    expect(m.check()).toEqual([]);
  });

  it('MV11 a fork can finish or give up what was in flight; after a restore to before, the move is over', () => {
    const w = new World('another');
    const { m } = w;
    const at = w.alloc(w.owner, 5);
    const before = m.snapshot();
    const began = beginMove(m, at, w.to);
    if (!began.ok) throw new Error(began.error);
    const fork = m.fork();
    expect(finishMove(fork, began.value)).toBe('moved');
    expect([w.frameOf(w.owner), movesInFlight(m).length, movesInFlight(fork).length]).toEqual([at, 1, 0]);
    const other = m.fork();
    abortMove(other, began.value);
    m.restore(before);
    expect(finishMove(m, began.value)).toBe('raced');
    expect([w.frameOf(w.owner), w.pool.alloc.nrFree()]).toEqual([at, w.all - 1]);
    for (const x of [m, fork, other]) expect(x.check()).toEqual([]);
    expect(fork.read(w.pfn(began.value.to))[0]).toBe(5);
  });
});
