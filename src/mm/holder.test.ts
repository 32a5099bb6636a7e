// Holders: from a frame to its holder and back. Rules H1..H3, docs/spec/frames-and-holders.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderSpec, Holders } from './holder.ts';

const APP: HolderSpec = { class: 'anonymous', name: 'app', node: -1 };
const LOG: HolderSpec = { class: 'file', name: 'log', node: 1 };

const membersOf = (h: Holders, holder: number): [number, number][] => {
  const out: [number, number][] = [];
  h.forEachMember(holder, (frame, index) => out.push([index, frame]));
  return out;
};

describe('holders', () => {
  it('H1 slot, frame and index lead to each other, for two holders whose runs interleave', () => {
    const h = new Holders();
    const [a, b] = [h.add(APP), h.add(LOG)];
    const slots: number[] = [];
    for (let k = 0; k < 200; k++) slots.push(h.attach(k % 2 === 0 ? a : b, 1000 + k, 1));
    slots.forEach((slot, k) => {
      expect(h.holderOf(slot)).toBe(k % 2 === 0 ? a : b);
      expect(h.indexOf(slot)).toBe(Math.floor(k / 2));
      expect(h.frameAt(slot)).toBe(1000 + k);
      expect(h.slotAt(h.holderOf(slot), h.indexOf(slot))).toBe(slot);
    });
    expect(membersOf(h, a).length).toBe(100);
    expect(h.slotAt(a, 100)).toBe(-1);
    expect(h.slotAt(a, 100000)).toBe(-1);
    expect(h.check(() => 1)).toEqual([]);
  });

  it('H1 a member that moved is found at its new frame, under its old index', () => {
    const h = new Holders();
    const a = h.add(APP);
    h.attach(a, 5, 4);
    const slot = h.attach(a, 9, 4);
    h.move(slot, 777);
    expect(membersOf(h, a)).toEqual([
      [0, 5],
      [1, 777],
    ]);
    expect(h.holderOf(slot)).toBe(a);
  });

  it('H2 members and pages follow every attach and detach', () => {
    const h = new Holders();
    const a = h.add(APP);
    const one = h.attach(a, 0, 1);
    const big = h.attach(a, 512, 512);
    expect([h.members[a], h.pages[a]]).toEqual([2, 513]);
    expect(h.detach(big, 512)).toBe(a);
    expect([h.members[a], h.pages[a]]).toEqual([1, 1]);
    h.detach(one, 1);
    expect([h.members[a], h.pages[a]]).toEqual([0, 0]);
    expect(h.check(() => 1)).toEqual([]);
  });

  it('H3 a freed index is the next one given; indexes stay dense', () => {
    const h = new Holders();
    const a = h.add(APP);
    const slots = Array.from({ length: 130 }, (_, k) => h.attach(a, k, 1));
    expect(slots.map((s) => h.indexOf(s))).toEqual(Array.from({ length: 130 }, (_, k) => k));
    for (const k of [3, 99, 64]) h.detach(slots[k], 1);
    expect([64, 99, 3].map((k) => h.indexOf(h.attach(a, k, 1)) === k)).toEqual([true, true, true]);
    expect(h.check(() => 1)).toEqual([]);
  });

  it('H1 H2 H3 random attach, detach and move of five holders against plain maps, and copies that do not see them', () => {
    const seed = 20240609;
    const rng = new Prng(seed);
    const h = new Holders();
    const model = Array.from({ length: 5 }, () => new Map<number, number>());
    for (let k = 0; k < 5; k++) h.add(k % 2 === 0 ? APP : LOG);
    let copy: { h: Holders; model: [number, number][][] } | undefined;
    const all = (m: readonly Map<number, number>[]): [number, number][][] =>
      m.map((x) => [...x].sort(([p], [q]) => p - q));
    for (let n = 0; n < 60_000; n++) {
      const k = rng.below(5);
      const mine = model[k];
      const event = rng.weighted([5, 4, 1]);
      if (event === 0 || mine.size === 0) {
        const slot = h.attach(k, n, 1);
        const index = h.indexOf(slot);
        expect(mine.has(index), `seed=${seed} event ${n}: index ${index} was given twice`).toBe(false);
        mine.set(index, n);
      } else {
        // Some member: the first at or after a random index.
        const from = rng.below(mine.size + 1);
        let index = from;
        while (!mine.has(index)) index = index > mine.size + 64 ? 0 : index + 1;
        const slot = h.slotAt(k, index);
        expect(h.frameAt(slot), `seed=${seed} event ${n}`).toBe(mine.get(index));
        if (event === 1) {
          h.detach(slot, 1);
          mine.delete(index);
        } else {
          h.move(slot, n);
          mine.set(index, n);
        }
      }
      if (n % 10_000 === 9999) {
        expect(
          h.check(() => 1),
          `seed=${seed} event ${n}`,
        ).toEqual([]);
        expect(
          model.map((_, x) => membersOf(h, x)),
          `seed=${seed} event ${n}`,
        ).toEqual(all(model));
        if (copy !== undefined) {
          const c = copy;
          expect(
            model.map((_, x) => membersOf(c.h, x)),
            `seed=${seed} event ${n}: the copy`,
          ).toEqual(c.model);
          expect(c.h.check(() => 1)).toEqual([]);
        }
        const fresh = new Holders();
        fresh.share(h);
        copy = { h: fresh, model: all(model) };
      }
    }
    expect(model[0].size).toBeGreaterThan(500);
  });

  it('a member costs 4.3 bytes: the slot tables are the budget', () => {
    const h = new Holders();
    const a = h.add(APP);
    const n = 300_000;
    for (let k = 0; k < n; k++) h.attach(a, k, 1);
    expect(h.bytes() / n).toBeLessThan(4.8);
    expect(h.members[a]).toBe(n);
  });

  it('an unknown class is a bug and throws', () => {
    expect(() => new Holders().add({ class: 'cake' as 'file', name: 'x', node: -1 })).toThrow(/unknown page class/);
  });
});
