// A plan file read: whatever is in it, an answer with the place. Rules: docs/spec/planner.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { readPlan } from './check-plan.ts';
import type { Plan } from './plan.ts';
import { plan } from './planner.ts';
import { drawnWorld, GIB, MIB } from './worlds.cases.ts';

const input = drawnWorld(
  {
    blocks: [...Array.from({ length: 4 }, (_, k) => ({ id: 8 + k })), { id: 32, zone: 'Movable', node: 1 }],
  },
  {
    base: GIB / 2,
    max: 16 * GIB,
    slots: 4,
    balloon: GIB / 2,
    dimms: [{ id: 'dimm0', addr: 4 * GIB, size: 128 * MIB, node: 1 }],
    files: { '/sys/devices/system/memory/auto_online_blocks': 'online\n' },
  },
);
const PLANS: readonly Plan[] = [
  plan({ verb: 'remove', target: 'dimm:dimm0' }, input),
  plan({ verb: 'add', bytes: 256 * MIB, node: 1 }, input),
  plan({ verb: 'resize', bytes: 600 * MIB }, input),
  plan({ verb: 'contiguous', chunks: 2, order: 9, hugePages: false }, input),
];
const [REMOVE] = PLANS as [Plan];

/** A copy with one thing changed, by a path of keys; undefined deletes it. */
function changed(p: Plan, path: readonly (string | number)[], to: unknown): string {
  const copy = JSON.parse(JSON.stringify(p));
  let at = copy;
  for (const key of path.slice(0, -1)) at = at[key];
  const last = path.at(-1) as string;
  if (to === undefined) delete at[last];
  else at[last] = to;
  return JSON.stringify(copy);
}

describe('a plan file', () => {
  it('PN12 that the planner wrote is read back as it was', () => {
    for (const p of PLANS) {
      expect(p.summary).not.toBe('');
      expect(readPlan(JSON.stringify(p))).toEqual({ ok: true, value: p });
    }
    expect(PLANS.slice(0, 3).map((p) => p.units.length > 0)).toEqual([true, true, true]);
  });

  it.each([
    ['no JSON', '{', /no JSON document/],
    ['something else', '{"format":"dimmer-check"}', /not a plan/],
    ['a later version', changed(REMOVE, ['version'], 2), /version 2; this dimmer reads version 1/],
    [
      'an action of its own',
      changed(REMOVE, ['units', 0, 'steps', 0, 'action', 'do'], 'write'),
      /^units\[0\]\.steps\[0\]\.action\.do: one of offline-block, .* not "write"/,
    ],
    [
      'an action named like a method',
      changed(REMOVE, ['units', 0, 'steps', 0, 'action', 'do'], 'constructor'),
      /action\.do: one of/,
    ],
    [
      'a field too many',
      changed(REMOVE, ['units', 0, 'steps', 0, 'action', 'path'], '/etc/passwd'),
      /action\.path: there is no such field/,
    ],
    [
      'a field too few',
      changed(REMOVE, ['units', 0, 'steps', 0, 'deadlineMs'], undefined),
      /steps\[0\]\.deadlineMs: a whole number from 1 to \d+ is expected, not nothing/,
    ],
    ['no deadline', changed(REMOVE, ['units', 0, 'steps', 0, 'deadlineMs'], 0), /deadlineMs: a whole number from 1/],
    [
      'half a block',
      changed(REMOVE, ['units', 0, 'steps', 0, 'action', 'block'], 32.5),
      /action\.block: a whole number/,
    ],
    ['an id with a quote', changed(REMOVE, ['units', 0, 'steps', 1, 'action', 'id'], 'x"; quit'), /action\.id: an id/],
    ['an escape sequence', changed(REMOVE, ['summary'], 'fine\u001b[2J'), /^summary: text without control characters/],
    ['another hash', changed(REMOVE, ['assumes', 'hash'], '0000000000000000'), /^assumes\.hash/],
    ['another line', changed(REMOVE, ['assumes', 'lines', 0], 'blocks of 1 bytes'), /^assumes\.hash/],
    ['steps out of order', changed(REMOVE, ['units', 0, 'steps', 1, 'n'], 7), /steps\[1\]\.n: 2 is expected, not 7/],
    [
      'no way back in the middle',
      changed(REMOVE, ['units', 0, 'steps', 0, 'undo'], undefined),
      /only the last step of a unit/,
    ],
    [
      'an effect of nothing',
      changed(REMOVE, ['units', 0, 'steps', 0, 'effect'], []),
      /steps\[0\]\.effect: it does not say what "offline-block" changes/,
    ],
    ['a list that is none', changed(REMOVE, ['units'], {}), /^units: a list is expected, not an object/],
  ])('PN12 is refused with the place: %s', (_, text, why) => {
    const read = readPlan(text);
    expect(read.ok).toBe(false);
    expect(read.ok ? '' : read.error).toMatch(why);
  });

  it('PN12 of any kind never throws, and every field that is missing or of another type is found', () => {
    const paths: (string | number)[][] = [];
    const walk = (v: unknown, path: (string | number)[]): void => {
      if (path.length > 0) paths.push(path);
      if (Array.isArray(v)) for (const [k, x] of v.entries()) walk(x, [...path, k]);
      else if (typeof v === 'object' && v !== null) for (const [k, x] of Object.entries(v)) walk(x, [...path, k]);
    };
    walk(JSON.parse(JSON.stringify(REMOVE)), []);
    expect(paths.length).toBeGreaterThan(60);
    for (const path of paths) expect(readPlan(changed(REMOVE, path, null)).ok, path.join('.')).toBe(false);
    for (let seed = 1; seed <= 300; seed++) {
      const prng = new Prng(seed);
      const values = [undefined, null, -1, 1e300, '', '\n', [], {}, true, [[]], 'offline', { is: 'block' }];
      const path = prng.pick(paths);
      const text = changed(REMOVE, path, prng.pick(values));
      const torn = prng.chance(0.2) ? text.slice(0, prng.below(text.length)) : text;
      expect(() => readPlan(torn), `seed=${seed}`).not.toThrow();
    }
  });
});
