// Planned against executed: random machines, every plan carried out by the naive executor on a fresh fork, every DIMM that was
// refused really tried, every set beside all sets. Rules: docs/spec/planner.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toBlockId } from '#mm/index';
import { runOffline } from '#twin/verdict';
import { pfnOf, type SyntheticBlock, WORD } from '../../test/support/synthetic-capture.ts';
import { readPlan } from './check-plan.ts';
import type { Goal, Plan } from './plan.ts';
import { plan } from './planner.ts';
import { sumMs } from './steps.ts';
import { drawnWorld, executed, GIB, MIB } from './worlds.cases.ts';

const BLOCK = 128 * MIB;
const SEEDS = 4;

type Dimm = { id: string; addr: number; size: number; node: number };

/** Boot memory on node 0; up to four DIMMs of one or two blocks on node 1, in any state; maybe a virtio-mem device. */
function randomWorld(prng: Prng): { input: ReturnType<typeof drawnWorld>; dimms: readonly Dimm[] } {
  const boot = 5 + prng.below(4);
  const blocks: SyntheticBlock[] = Array.from({ length: boot }, (_, k) => ({ id: 8 + k, zone: 'DMA32' as const }));
  const frames: (readonly [number, number, readonly [number, number]])[] = [];
  const load = (id: number, kernel: number): void => {
    if (prng.chance(0.3)) return;
    frames.push([pfnOf(id, prng.below(32)), 1 + prng.below(12_000), prng.chance(0.7) ? WORD.anon : WORD.cache]);
    if (prng.chance(kernel)) frames.push([pfnOf(id, 40 + prng.below(20)), 1 + prng.below(8), WORD.slab]);
  };
  for (const b of blocks) load(b.id, 0.4);
  const dimms = Array.from({ length: 1 + prng.below(4) }, (_, k): Dimm => {
    const size = (1 + prng.below(2)) * BLOCK;
    const first = 32 + 2 * k;
    for (let id = first; id < first + size / BLOCK; id++) {
      const zone = prng.chance(0.8) ? ('Movable' as const) : ('Normal' as const);
      const offline = prng.chance(0.15);
      blocks.push({ id, node: 1, ...(offline ? { state: 'offline' as const } : { zone }) });
      if (!offline) load(id, 0.15);
    }
    return { id: `d${k}`, addr: first * BLOCK, size, node: 1 };
  });
  const vm = prng.chance(0.4);
  if (vm) {
    for (const id of [40, 41]) {
      blocks.push({ id, node: 1, zone: 'Movable' });
      load(id, 0.1);
    }
  }
  const input = drawnWorld(
    { blocks, frames, min: { '0 DMA32': 200 + prng.below(800) } },
    {
      base: boot * BLOCK,
      max: 32 * GIB,
      slots: 8,
      balloon: boot * BLOCK,
      dimms,
      ...(vm ? { virtioMem: [{ id: 'vm0', addr: 5 * GIB, size: 2 * BLOCK, node: 1, maxSize: GIB }] } : {}),
    },
  );
  return { input, dimms };
}

describe('random machines', () => {
  it('PN1 PN4 PN7 PN11 PN12 what is planned is what happens, and what is refused is refused', () => {
    let planned = 0;
    let refused = 0;
    for (let seed = 1; seed <= SEEDS; seed++) {
      const prng = new Prng(seed);
      const { input, dimms } = randomWorld(prng);
      const before = input.twin.machine.digest();
      const goals: Goal[] = [
        ...dimms.map((d) => ({ verb: 'remove' as const, target: `dimm:${d.id}` })),
        { verb: 'remove', target: 'size', bytes: (1 + prng.below(40)) * 16 * MIB },
        { verb: 'add', bytes: (1 + prng.below(12)) * BLOCK, node: prng.below(2) },
        { verb: 'resize', bytes: (2 + prng.below(80)) * 16 * MIB },
      ];
      for (const goal of goals) {
        const say = `seed=${seed} ${JSON.stringify(goal)}`;
        const p = plan(goal, input);
        expect(readPlan(JSON.stringify(p)), say).toEqual({ ok: true, value: p });
        const { m, wrong } = executed(input, p);
        expect(wrong, say).toEqual([]);
        expect(m.check(), say).toEqual([]);
        const given = p.units.reduce((n, u) => n + u.bytes, 0);
        if (goal.verb === 'remove' && goal.bytes !== undefined) expect(given >= goal.bytes, say).toBe(p.feasible);
        if (goal.verb === 'remove' && goal.bytes === undefined) {
          planned += p.feasible ? 1 : 0;
          refused += p.feasible ? 0 : 1;
          for (const r of p.rejected)
            if (r.name.startsWith('block:')) expect(goes(input, Number(r.name.slice(6))), say).toBe(false);
        }
      }
      expect(input.twin.machine.digest(), `seed=${seed}`).toBe(before);
    }
    expect([planned > 3, refused > 1]).toEqual([true, true]);
  });

  it('PN4 the chosen DIMMs are the cheapest of all sets that are enough', () => {
    let compared = 0;
    for (let seed = 101; seed < 101 + SEEDS; seed++) {
      const prng = new Prng(seed);
      const { input, dimms } = randomWorld(prng);
      if (input.observation.hypervisor?.virtioMem.length !== 0) continue;
      const bytes = (1 + prng.below(3)) * BLOCK;
      const alone = dimms
        .map((d) => ({ d, p: plan({ verb: 'remove', target: `dimm:${d.id}` }, input) }))
        .filter(({ p }) => p.feasible && p.warnings.length === 0)
        .map(({ d, p }) => ({ size: d.size, ms: msOf(p) }));
      const best = naive(alone, bytes);
      const chosen = plan({ verb: 'remove', target: 'size', bytes }, input);
      if (best === undefined || chosen.units.some((u) => u.name.startsWith('block:'))) continue;
      compared++;
      const ms = chosen.units.reduce((n, u) => {
        const d = dimms.find((x) => `dimm:${x.id}` === u.name) as Dimm; // only DIMMs were there to choose
        return n + msOf(plan({ verb: 'remove', target: `dimm:${d.id}` }, input));
      }, 0);
      expect(ms, `seed=${seed}`).toBeCloseTo(best.ms, 6);
    }
    expect(compared).toBeGreaterThan(1);
  });
});

const msOf = (p: Plan): number => sumMs(p.units.flatMap((u) => u.steps));

function naive(things: readonly { size: number; ms: number }[], bytes: number): { ms: number } | undefined {
  let best: { ms: number } | undefined;
  for (let set = 0; set < 1 << things.length; set++) {
    const taken = things.filter((_, k) => (set >> k) & 1);
    const ms = taken.reduce((n, t) => n + t.ms, 0);
    if (taken.reduce((n, t) => n + t.size, 0) >= bytes && (best === undefined || ms < best.ms)) best = { ms };
  }
  return best;
}

/** Does the block go on a fresh fork? */
const goes = (input: ReturnType<typeof drawnWorld>, id: number): boolean =>
  runOffline(input.twin.machine.fork(), toBlockId(id)).refusal === undefined;
