// Sections: dense slots for sparse frames, columns on demand, copy on write. Rules S1..S4, docs/spec/frames-and-holders.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toPfn } from '#base/units';
import { MAX_PFN, PAGES_PER_SECTION as S } from './geometry.ts';
import { KIND_HEAD0, KIND_TAIL, META_PINNED, Sections, TAG_SHIFT } from './section.ts';

/** Present sections, far apart: below 8 TiB, above it, and the last one there is. */
const NUMBERS = [0, 1, 7, 65535, 65536, 2 ** 20 + 3, MAX_PFN / S - 1];

const made = (numbers: readonly number[] = NUMBERS): Sections => {
  const s = new Sections(0);
  for (const n of numbers) s.add(n);
  return s;
};

describe('sections', () => {
  it('S1 frame and index are inverse over all of 52 bits, and absent sections have no index', () => {
    const s = made();
    expect(s.frames).toBe(NUMBERS.length * S);
    NUMBERS.forEach((n, slot) => {
      for (const offset of [0, 1, S - 1]) {
        const index = s.indexOf(toPfn(n * S + offset));
        expect(index).toBe(slot * S + offset);
        expect(s.pfnOf(index)).toBe(n * S + offset);
      }
    });
    for (const n of [2, 6, 8, 65534, 65537, 2 ** 20, MAX_PFN / S - 2]) {
      expect(s.indexOf(toPfn(n * S)), `section ${n}`).toBe(-1);
      expect(s.slotOf(n)).toBe(-1);
    }
  });

  it('S1 a section is added once, and inside the physical address space', () => {
    const s = made();
    expect(() => s.add(7)).toThrow(/present already/);
    expect(() => s.add(MAX_PFN / S)).toThrow(/out of range/);
    expect(() => s.add(-1)).toThrow(/out of range/);
  });

  it('S1 S2 hold while the tables grow: 1000 sections in random order', () => {
    const rng = new Prng(7);
    const numbers = rng.shuffle(Array.from({ length: 1000 }, (_, k) => 3 * k));
    const s = made(numbers);
    numbers.forEach((n, slot) => {
      expect(s.slotOf(n)).toBe(slot);
      expect(s.number[slot]).toBe(n);
      expect(s.shift[slot]).toBe((n - slot) * S);
    });
  });

  it('S3 every frame of an allocation of any order finds its head, and none outside does', () => {
    const s = made();
    for (let order = 0; order <= 10; order++) {
      const head = 2 * S + 4096;
      s.occupy(head, order, 123456789, 5 << TAG_SHIFT);
      for (const k of new Set([0, 1, (2 ** order) >> 1, 2 ** order - 1])) {
        if (k >= 2 ** order) continue;
        expect(s.allocationAt(head + k), `order ${order} frame ${k}`).toEqual({ head, order });
        expect(s.metaAt(head + k) >>> TAG_SHIFT).toBe(5);
      }
      expect(s.ownerAt(head)).toBe(123456789);
      expect(s.allocationAt(head - 1)).toBeUndefined();
      expect(s.allocationAt(head + 2 ** order)).toBeUndefined();
      s.vacate(head, order);
      for (let k = 0; k < 2 ** order; k++) expect([s.metaAt(head + k), s.ownerAt(head + k)]).toEqual([0, -1]);
    }
  });

  it('S3 a tail without a head, or outside of the head before it, is a bug and throws', () => {
    const s = made();
    s.occupy(0, 2, 0, 0);
    s.setMeta(4, KIND_TAIL);
    expect(() => s.allocationAt(4)).toThrow(/outside its head/);
    s.setMeta(0, KIND_TAIL);
    expect(() => s.allocationAt(3)).toThrow(/no head/);
  });

  it('S3 a copy takes along kind, pin, contents and slot of every frame', () => {
    const s = made();
    s.occupy(64, 4, 70000, 9 << TAG_SHIFT);
    s.setMeta(64, s.metaAt(64) | META_PINNED);
    s.copy(64, 3 * S + 128, 4);
    for (let k = 0; k < 16; k++) expect(s.metaAt(3 * S + 128 + k)).toBe(s.metaAt(64 + k));
    expect(s.ownerAt(3 * S + 128)).toBe(70000);
    expect(s.metaAt(64) & META_PINNED).toBe(META_PINNED);
  });

  it('S4 copies share columns until one of the two writes, whichever it is', () => {
    const a = made();
    a.occupy(10, 0, 1, 0);
    const b = new Sections(0);
    b.share(a);
    expect(b.words[0]).toBe(a.words[0]);
    a.occupy(11, 0, 2, 0);
    b.occupy(12, 0, 3, 0);
    expect([10, 11, 12].map((i) => [a.ownerAt(i), b.ownerAt(i)])).toEqual([
      [1, 1],
      [2, -1],
      [-1, 3],
    ]);
    // A third one, of a copy that has written: again nobody sees the others' writes.
    const c = new Sections(0);
    c.share(b);
    b.setMeta(10, KIND_HEAD0 | META_PINNED);
    expect([a.metaAt(10), b.metaAt(10), c.metaAt(10)]).toEqual([KIND_HEAD0, KIND_HEAD0 | META_PINNED, KIND_HEAD0]);
    c.add(99);
    expect([a.slotOf(99), c.slotOf(99)]).toEqual([-1, NUMBERS.length]);
  });

  it('an idle section has no columns; a used one costs 6 bytes a frame', () => {
    const s = made();
    const idle = s.bytes();
    expect(s.metaAt(3 * S)).toBe(0);
    expect(s.bytes()).toBe(idle);
    s.occupy(3 * S, 0, 0, 0);
    expect(s.bytes() - idle).toBe(6 * S);
  });
});
