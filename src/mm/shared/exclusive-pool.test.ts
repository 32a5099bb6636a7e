// Exclusive pools in one thread: what each verb does, one rule at a time. Several pools of one memory, driven in turn.

import { describe, expect, it, vi } from 'vitest';
import { Prng } from '#base/prng';
import { createFreeArea } from '../free-area-create.ts';
import { MIGRATE_MOVABLE, MIGRATE_UNMOVABLE } from '../geometry.ts';
import { createPageAlloc } from '../page-alloc.ts';
import { attachPool, type ExclusivePool, type ExclusivePoolSpec } from './exclusive-pool.ts';
import { BELL, createSharedFrames, lineOf, openSharedFrames, type SharedFrames } from './shared-frames.ts';

const M = MIGRATE_MOVABLE;
const CHUNK = 1024;

function attach(frames: SharedFrames, spec: ExclusivePoolSpec): ExclusivePool {
  const pool = attachPool(frames, { code: 'shared', ...spec });
  if (!pool.ok) throw new Error(pool.error.reason);
  return pool.value;
}

function world(chunks: number, pools: number, spec: Partial<ExclusivePoolSpec> = {}) {
  const frames = createSharedFrames({ pages: chunks * CHUNK, pools });
  const all = Array.from({ length: pools }, (_, pool) => attach(frames, { ...spec, pool }));
  return { frames, pools: all };
}

/** Everything checked, then detached and checked again. @returns frames in use */
function end({ frames, pools }: ReturnType<typeof world>): number {
  for (const pool of pools) expect(pool.check()).toEqual([]);
  for (const pool of pools) pool.detach();
  expect(frames.check()).toEqual([]);
  return frames.survey().filter((state) => state === 0).length;
}

const takeFrames = (pool: ExclusivePool, count: number): number[] =>
  Array.from({ length: count }, () => {
    const i = pool.alloc(0, M);
    expect(i).toBeGreaterThanOrEqual(0);
    return i;
  });

describe('exclusive pools', () => {
  it('XP1 all of a new memory is nobody’s; a chunk is taken from the reserve by one pool', () => {
    const w = world(8, 2);
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    expect(w.frames.reserve()).toBe(8);
    expect([a.take(3), b.take(100)]).toEqual([3, 5]);
    expect(w.frames.reserve()).toBe(0);
    const owners = Array.from({ length: 8 }, (_, c) => w.frames.ownerOf(c * CHUNK));
    expect(owners).toEqual([0, 0, 0, 1, 1, 1, 1, 1]);
    expect([a.stat().managed, b.stat().free]).toEqual([3 * CHUNK, 5 * CHUNK]);
    expect(end(w)).toBe(0);
  });

  it('XP2 a pool with all chunks gives the same frames as PageAlloc, whatever its machine code', () => {
    for (const code of ['own', 'shared'] as const) {
      const pages = 16 * CHUNK;
      const frames = createSharedFrames({ pages, pools: 1 });
      const pool = attach(frames, { pool: 0, batch: 16, high: 64, code });
      pool.take(16);
      const plain = createPageAlloc(createFreeArea(pages, 'address', 'shared'), {
        cpus: 1,
        batch: 16,
        high: 64,
        code: 'shared',
      });
      plain.online(0, pages);
      const prng = new Prng(7);
      const held: (readonly [number, number])[] = [];
      for (let k = 0; k < 20_000; k++) {
        if (held.length === 0 || prng.chance(0.52)) {
          const order = prng.weighted([20, 4, 2, 1, 0, 0, 0, 0, 0, 1]);
          const mt = prng.below(3);
          const i = pool.alloc(order, mt);
          expect(i, `seed=7 step=${k}`).toBe(plain.alloc(order, mt));
          if (i >= 0) held.push([i, order]);
        } else {
          const [[i, order]] = held.splice(prng.below(held.length), 1) as [readonly [number, number]];
          pool.free(i, order);
          plain.free(i, order);
        }
      }
      expect(pool.stat().free).toBe(plain.nrFree() + plain.pcpPages());
      expect(end({ frames, pools: [pool] })).toBe(held.reduce((n, [, order]) => n + 2 ** order, 0));
      expect(plain.check()).toEqual([]);
    }
  });

  it('XP3 a chunk that is given moves with its free frames and its used ones', () => {
    const w = world(2, 2);
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    a.take(2);
    const held = takeFrames(a, 300);
    const chunk = held[0] as number;
    const before = a.stat();
    expect(a.give(chunk, 1).ok).toBe(true);
    expect(w.frames.ownerOf(chunk)).toBe(1);
    expect(a.stat()).toMatchObject({ managed: CHUNK, free: before.free - (CHUNK - 300), chunksGiven: 1 });
    expect(b.stat().managed).toBe(0); // it has not looked yet
    expect(b.look()).toBe(1);
    expect(b.stat()).toMatchObject({ managed: CHUNK, free: CHUNK - 300, chunksAdopted: 1 });
    const theirs = new Set(takeFrames(b, CHUNK - 300));
    expect(held.some((i) => theirs.has(i))).toBe(false);
    expect(b.stat().free).toBe(0);
    expect(end(w)).toBe(CHUNK);
  });

  it('XP3 a chunk keeps the types of its pageblocks; one that is wholly free goes without a touch of its records', () => {
    const w = world(2, 2);
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    a.take(2);
    const i = a.alloc(0, MIGRATE_UNMOVABLE); // claims a pageblock
    const type = a.allocator.area.typeOf(i);
    expect(type).toBe(MIGRATE_UNMOVABLE);
    expect(a.give(i, 1).ok).toBe(true);
    b.look();
    expect(b.allocator.area.typeOf(i)).toBe(type);
    const whole = a.cheapest(true);
    const records = w.frames.words.record.slice((whole / CHUNK) * 64, (whole / CHUNK + 1) * 64);
    expect(records.every((word) => word === 0)).toBe(true);
    expect(a.give(whole, 1).ok).toBe(true);
    b.look();
    expect(w.frames.words.record.slice((whole / CHUNK) * 64, (whole / CHUNK + 1) * 64)).toEqual(records);
    expect(b.alloc(10, M)).toBe(whole);
    expect(end(w)).toBe(1 + CHUNK);
  });

  it('XP4 a frame of another is freed to its owner, who has it when it has looked, at any order', () => {
    const w = world(4, 2);
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    a.take(4);
    const held = [0, 1, 4, 5, 9, 10].map((order) => [a.alloc(order, M), order] as const);
    const before = a.stat().free;
    for (const [i, order] of held) b.free(i, order);
    const frames = held.reduce((n, [, order]) => n + 2 ** order, 0);
    expect(b.stat().freedForOthers).toBe(frames);
    expect(a.stat().free).toBe(before);
    expect(a.look()).toBeGreaterThan(0);
    expect(a.stat()).toMatchObject({ free: before + frames, freedByOthers: frames });
    expect(a.look()).toBe(0);
    expect(end(w)).toBe(0);
  });

  it('XP4 frames that were freed follow their chunk: the next owner takes in what the last one had not seen', () => {
    const w = world(2, 3);
    const [a, b, c] = w.pools as [ExclusivePool, ExclusivePool, ExclusivePool];
    a.take(2);
    const held = takeFrames(a, 100);
    for (const i of held) c.free(i, 0);
    expect(a.give(held[0] as number, 1).ok).toBe(true);
    b.look();
    expect(b.stat()).toMatchObject({ free: CHUNK, freedByOthers: 100 });
    a.look(); // the hint that came too late does nothing
    expect(a.stat().freedByOthers).toBe(0);
    expect(end(w)).toBe(0);
  });

  it('XP6 a frame that is freed twice throws: by two others, or into the reserve', () => {
    const w = world(4, 2);
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    a.take(2);
    const i = a.alloc(0, M);
    b.free(i, 0);
    expect(() => b.free(i, 0)).toThrow('freed twice');
    const nobodys = [0, 1, 2, 3].find((c) => w.frames.ownerOf(c * CHUNK) < 0) as number;
    expect(() => b.free(nobodys * CHUNK, 0)).toThrow('reserve');
    expect(() => b.free(4 * CHUNK, 9)).toThrow('no such frames');
  });

  it('XP7 no chunk is given when fewer than min frames would be free afterwards', () => {
    const w = world(3, 2, { min: CHUNK + 1 });
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    a.take(3);
    expect(a.give(a.cheapest(true), 1).ok).toBe(true);
    const no = a.give(a.cheapest(true), 1);
    expect(no).toMatchObject({
      ok: false,
      error: { reason: 'guarantee', errno: 'ENOSPC', free: 2 * CHUNK, freeInChunk: CHUNK },
    });
    b.wish('whole');
    a.look();
    expect(a.stat()).toMatchObject({ managed: 2 * CHUNK, wishesFulfilled: 0 });
    expect(end(w)).toBe(0);
  });

  it('XP8 a dry pool looks, takes from the reserve, and only then wishes', () => {
    const w = world(4, 2);
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    b.take(2);
    expect(a.alloc(0, M)).toBeGreaterThanOrEqual(0); // a chunk of the reserve
    expect(a.stat()).toMatchObject({ managed: CHUNK, wishes: 0 });
    const huge = a.alloc(10, M); // the other one
    expect(huge).toBeGreaterThanOrEqual(0);
    expect(a.alloc(10, M)).toBe(-1);
    expect(a.stat().wishes).toBe(1);
    b.look();
    expect(b.stat()).toMatchObject({ managed: CHUNK, wishesFulfilled: 1 });
    expect(a.alloc(10, M)).toBeGreaterThanOrEqual(0); // it looks for itself
    takeFrames(a, CHUNK - 1); // every frame that it has
    const used = takeFrames(b, 200);
    expect(a.alloc(0, M)).toBe(-1);
    b.look();
    expect(b.stat().wishesFulfilled).toBe(1); // it has less than a chunk to spare
    for (const i of used) b.free(i, 0);
    b.look();
    expect(b.stat().wishesFulfilled).toBe(2);
    expect(a.alloc(0, M)).toBeGreaterThanOrEqual(0);
    expect(end(w)).toBe(3 * CHUNK + 1);
  });

  it('XP8 of two that could, one fulfils a wish; a single frame may come with a chunk in use', () => {
    const w = world(6, 3);
    const [a, b, c] = w.pools as [ExclusivePool, ExclusivePool, ExclusivePool];
    b.take(3);
    c.take(3);
    for (const pool of [b, c]) for (let k = 0; k < 3; k++) pool.free(pool.alloc(9, M), 9);
    const held = [b, c].map((pool) => {
      const singles = takeFrames(pool, 3 * CHUNK);
      for (const i of singles.filter((_, k) => k % 3 > 0)) pool.free(i, 0);
      return singles.filter((_, k) => k % 3 === 0);
    });
    a.wish('whole');
    b.look();
    c.look();
    expect(b.stat().wishesFulfilled + c.stat().wishesFulfilled).toBe(0); // no chunk is wholly free
    expect(a.alloc(0, M)).toBe(-1); // wishes for any
    b.look();
    c.look();
    expect([b.stat().wishesFulfilled, c.stat().wishesFulfilled]).toEqual([1, 0]);
    expect(a.alloc(0, M)).toBeGreaterThanOrEqual(0);
    for (const i of held.flat()) c.free(i, 0);
    for (const pool of w.pools) pool.look();
    expect(end(w)).toBe(1);
  });

  it('XP8 a pool that wishes gives nothing until it has been served', () => {
    const w = world(1, 3);
    const [a, b, c] = w.pools as [ExclusivePool, ExclusivePool, ExclusivePool];
    expect(c.take(1)).toBe(1);
    for (const pool of [a, b]) expect(pool.alloc(10, M)).toBe(-1);
    c.look(); // one of both wishes can be fulfilled
    expect(c.stat()).toMatchObject({ managed: 0, wishesFulfilled: 1 });
    b.look();
    a.look();
    const i = a.alloc(10, M);
    expect(i).toBe(0);
    a.free(i, 10);
    a.look(); // now it is b's turn
    expect(b.alloc(10, M)).toBe(0);
    expect(end(w)).toBe(CHUNK);
  });

  it('XP8 a wish that arrives in the middle of a refill waits: frames are on their way to the ring', () => {
    const w = world(4, 2, { batch: 63, high: 252 });
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    b.take(4);
    // The first chunk: one pageblock that is Unmovable with eight frames left, one Movable and free. Of each other
    // chunk a quarter is free, so that the first is the one to give, and there is a chunk to spare.
    const halves = Array.from({ length: 8 }, () => b.alloc(9, M)).sort((x, y) => x - y);
    for (const i of [3, 5, 7]) {
      b.free(halves[i] as number, 9);
      expect(b.alloc(8, M)).toBeGreaterThanOrEqual(0);
    }
    b.free(halves[0] as number, 9);
    for (let k = 0; k < 8 * 63; k++) expect(b.alloc(0, MIGRATE_UNMOVABLE)).toBeGreaterThanOrEqual(0);
    b.free(halves[1] as number, 9);
    expect(b.allocator.pcpPages()).toBe(0);

    const load = Atomics.load;
    const { line } = w.frames.words;
    let looks = 0;
    const spy = vi.spyOn(Atomics, 'load').mockImplementation(((words: Int32Array, index: number) => {
      const value = load(words, index);
      if (words === line && index === lineOf(1, BELL) && looks++ === 0) a.wish('any');
      return value;
    }) as typeof Atomics.load);
    const i = b.alloc(0, MIGRATE_UNMOVABLE);
    spy.mockRestore();
    expect(looks).toBeGreaterThan(0);
    expect(b.allocator.pcpPages()).toBe(62); // eight, then a raid
    expect(w.frames.ownerOf(i)).toBe(1);
    expect(b.check()).toEqual([]);
    expect(b.stat().wishesFulfilled).toBe(0);
    b.look();
    expect(b.stat().wishesFulfilled).toBe(1);
    expect(b.check()).toEqual([]);
    end(w);
  });

  it('XP9 the reserve takes back chunks that are wholly free, and whoever needs one has it', () => {
    const w = world(2, 2);
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    a.take(2);
    const i = a.alloc(0, MIGRATE_UNMOVABLE);
    expect(a.giveBack(i)).toMatchObject({ ok: false, error: { reason: 'in-use', errno: 'EBUSY' } });
    a.free(i, 0);
    expect(a.giveBack(i).ok).toBe(true); // the ring is emptied first
    expect(w.frames.reserve()).toBe(1);
    expect(b.alloc(10, M)).toBe(Math.floor(i / CHUNK) * CHUNK);
    expect(b.allocator.area.typeOf(i)).toBe(M);
    expect(end(w)).toBe(CHUNK);
  });

  it('XP10 a pool that was detached goes on where it was, with what came in between', () => {
    const w = world(4, 2);
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    a.take(2);
    b.take(2);
    const held = takeFrames(a, 700);
    const before = a.stat();
    a.detach();
    expect(() => a.alloc(0, M)).toThrow('detached');
    expect(() => a.look()).toThrow('detached');
    for (const i of held.slice(0, 50)) b.free(i, 0);
    const gift = b.cheapest(true);
    expect(b.give(gift, 0).ok).toBe(true);
    const again = attach(openSharedFrames(w.frames.buffer), { pool: 0 });
    expect(again.stat()).toMatchObject({ managed: before.managed + CHUNK, free: before.free + CHUNK + 50 });
    for (const i of held.slice(50)) again.free(i, 0);
    expect(end({ frames: w.frames, pools: [again, b] })).toBe(0);
  });

  it('XP11 refusals: each reason is produced, and changes nothing', () => {
    const w = world(2, 2);
    const [a] = w.pools as [ExclusivePool, ExclusivePool];
    a.take(1);
    const chunk = a.cheapest(true);
    const refused = (reason: string, errno: string) => ({ ok: false, error: { reason, errno } });
    expect(attachPool(w.frames, { pool: 0 })).toMatchObject(refused('attached', 'EBUSY'));
    expect(attachPool(w.frames, { pool: 2 })).toMatchObject(refused('no-such-pool', 'ENOENT'));
    expect(a.give(chunk, 2)).toMatchObject(refused('no-such-pool', 'ENOENT'));
    expect(a.give(chunk, 0)).toMatchObject(refused('no-such-pool', 'ENOENT'));
    expect(a.give((chunk + CHUNK) % (2 * CHUNK), 1)).toMatchObject(refused('not-owner', 'EACCES'));
    expect(a.giveBack((chunk + CHUNK) % (2 * CHUNK))).toMatchObject(refused('not-owner', 'EACCES'));
    expect(a.stat()).toMatchObject({ managed: CHUNK, free: CHUNK, chunksGiven: 0 });
    expect(end(w)).toBe(0);
  });

  it('XP14 check and survey see what was broken', () => {
    const w = world(4, 2);
    const [a, b] = w.pools as [ExclusivePool, ExclusivePool];
    a.take(2);
    b.take(1);
    const [i] = takeFrames(a, 1) as [number];
    w.frames.words.owner[Math.floor(i / CHUNK)] = 2; // pool 1
    expect(a.check().join()).toContain('owner word says 1');
    w.frames.words.owner[Math.floor(i / CHUNK)] = 1;
    expect(a.check()).toEqual([]);
    expect(() => w.frames.check()).toThrow('attached');
    a.detach();
    b.detach();
    expect(w.frames.check()).toEqual([]);
    const { freed, freedWords, header } = w.frames.words;
    freed[(Math.floor(i / 512) + 1) * 32] = 1; // a frame that is free
    freedWords[Math.floor(i / 512) + 1] = 1;
    header[3] = 3;
    const wrong = w.frames.check().join();
    expect(wrong).toContain('is free already');
    expect(wrong).toContain('the reserve says 3');
    expect(() => openSharedFrames(new SharedArrayBuffer(64))).toThrow('not a buffer');
  });
});
