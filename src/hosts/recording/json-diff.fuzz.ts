// Random JSON values, changed at random: patch undoes diff. Rule: docs/spec/host-port.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { diff, type Json, patch } from './json-diff.ts';

const KEYS = ['a', 'b', '=', '~', '-', '__proto__', '0', 'länge'];

function randomJson(r: Prng, depth: number): Json {
  switch (r.below(depth === 0 ? 4 : 7)) {
    case 0:
      return null;
    case 1:
      return r.below(2) === 1;
    case 2:
      return r.below(5) - 2.5;
    case 3:
      return KEYS[r.below(KEYS.length)] as string;
    case 4:
      return Array.from({ length: r.below(4) }, () => randomJson(r, depth - 1));
    default:
      return randomObject(r, depth);
  }
}

function randomObject(r: Prng, depth: number): Json {
  const entries = Array.from({ length: r.below(5) }, () => [KEYS[r.below(KEYS.length)], randomJson(r, depth - 1)]);
  return Object.fromEntries(entries) as Json;
}

/** The same value with some parts of it changed. */
function changed(r: Prng, x: Json): Json {
  if (r.below(6) === 0) return randomJson(r, 2);
  if (Array.isArray(x)) return x.filter(() => r.below(8) > 0).map((y) => changed(r, y));
  if (typeof x !== 'object' || x === null) return x;
  return Object.fromEntries(
    Object.entries(x)
      .filter(() => r.below(6) > 0)
      .map(([k, v]) => [k, changed(r, v as Json)]),
  );
}

describe('JSON diff', () => {
  it('RH1 patch(a, diff(a, b)) is b, and there is no diff exactly when a is b', () => {
    for (let seed = 1; seed <= 3000; seed++) {
      const r = new Prng(seed);
      const a = randomJson(r, 3);
      const b = r.below(2) === 0 ? changed(r, a) : randomJson(r, 3);
      const d = diff(a, b);
      // Through text, as it will be read again.
      const read = d === undefined ? undefined : (JSON.parse(JSON.stringify(d)) as typeof d);
      expect(patch(a, read), `seed=${seed}`).toEqual(b);
      expect(d === undefined, `seed=${seed}`).toBe(sorted(a) === sorted(b));
    }
  });

  it('RH1 one block of two hundred that changed is a line of some dozen characters', () => {
    const blocks = (state: string): Json =>
      Array.from({ length: 200 }, (_, id) => ({ id, state: id === 7 ? state : 'online' }));
    expect(JSON.stringify(diff({ blocks: blocks('online') }, { blocks: blocks('offline') }))).toBe(
      '{"~":{"blocks":{"~":{"7":{"~":{"state":{"=":"offline"}}}}}}}',
    );
  });
});

/** Canonical: the order of keys does not count. */
const sorted = (x: Json): string =>
  JSON.stringify(x, (_, v: Json) =>
    typeof v === 'object' && v !== null && !Array.isArray(v)
      ? ['{}', ...Object.entries(v).sort(([k], [l]) => (k < l ? -1 : 1))]
      : v,
  );
