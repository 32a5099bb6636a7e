// Contiguous memory planned, on captures of real guests and drawn worlds. Rules: docs/spec/plan-contiguous.md.

import { describe, expect, it } from 'vitest';
import { type Machine, toBlockId, toPfn } from '#mm/index';
import { buildTwin } from '#twin/index';
import { pfnOf, type SyntheticWorld, syntheticCapture, WORD } from '../../test/support/synthetic-capture.ts';
import { checkPlan } from './check-plan.ts';
import { type ContiguousGoal, planContiguous } from './contiguous.ts';
import { compactAll, dropCaches, piecesOf } from './contiguous-fork.ts';
import { observedChunks } from './contiguous-observed.ts';
import { restOf } from './contiguous-rest.ts';
import type { Action, Plan } from './plan.ts';
import type { PlanInput } from './plan-input.ts';
import { Rehearsal } from './rehearsal.ts';
import { actionsOf, drawnWorld, golden } from './worlds.cases.ts';

const want = (chunks: number, order = 9, hugePages = false): ContiguousGoal => ({
  verb: 'contiguous',
  chunks,
  order,
  hugePages,
});

/** One page in each pageblock of a block: nothing is free in one piece. */
const sprinkled = (block: number, word: readonly [number, number]): NonNullable<SyntheticWorld['frames']> =>
  Array.from({ length: 64 }, (_, k) => [pfnOf(block, k) + 7, 1, word] as const);

const only = (input: PlanInput, ...actions: Action['do'][]): PlanInput => ({
  ...input,
  host: { ...input.host, can: new Set(actions) },
});

/** The plan's steps on a fork of the twin. */
function done(p: Plan, input: ReturnType<typeof golden>): Machine {
  expect(checkPlan(p)).toBeUndefined();
  const r = new Rehearsal(input.twin);
  const m = r.machine as Machine;
  for (const { action } of p.units.flatMap((u) => u.steps)) {
    if (action.do === 'drop-caches') dropCaches(m);
    else if (action.do === 'compact') compactAll(m);
    else if (action.do === 'offline-block') expect(r.offline(action.block)?.done).toBe(true);
    else if (action.do === 'online-block')
      expect(m.online(toBlockId(action.block), action.zone === 'movable' ? 'movable' : 'kernel').ok).toBe(true);
  }
  return m;
}

/** The number in "...; then 1378 can be had". */
const predicted = (p: Plan): number => Number(/(\d+) can be had/.exec(p.summary)?.[1]);

/** What a chain gives, by a plan that asked for a million. */
const gives = (p: Plan, chain: string): number =>
  Number(/(\d+) of 1000000/.exec(p.rejected.find((r) => r.name === chain)?.reason ?? '')?.[1]);

const DROP = 'drop clean page cache';
const COMPACT = 'compact';

describe('contiguous memory on a real guest', () => {
  const demo = golden('demo.dimmer');
  const tooMany = planContiguous(want(1_000_000), demo);
  const now = gives(tooMany, 'as things are');
  const drop = gives(tooMany, DROP);
  const compact = gives(tooMany, COMPACT);
  const both = gives(tooMany, `${DROP}, ${COMPACT}`);

  it('CG3 enough is enough: the last piece that is there decides', () => {
    expect(now).toBe(observedChunks(demo.twin, demo.observation, 9).usable);
    expect(planContiguous(want(now), demo)).toMatchObject({ feasible: true, units: [], rejected: [] });
    expect(planContiguous(want(now + 1), demo).units).not.toEqual([]);
  });

  it('CG1 the gentlest chain that reaches the number is the plan; the gentler ones are told with what they give', () => {
    expect(compact).toBeGreaterThan(now);
    expect(drop).toBeGreaterThan(compact); // so that compact alone is never the plan here
    expect(both).toBeGreaterThan(drop);
    const one = planContiguous(want(drop), demo);
    expect(actionsOf(one)).toEqual(['drop-caches']);
    expect(one.rejected).toEqual([{ name: 'as things are', reason: `${now} of ${drop}` }]);
    const two = planContiguous(want(both), demo);
    expect(actionsOf(two)).toEqual(['drop-caches', 'compact']);
    expect(two.rejected.map((r) => r.name)).toEqual(['as things are', DROP, COMPACT]);
    expect(actionsOf(planContiguous(want(compact), only(demo, 'compact')))).toEqual(['compact']);
  });

  it('CG4 doing the steps gives what was predicted, and the machine is sound', () => {
    for (const n of [drop, both]) {
      const p = planContiguous(want(n), demo);
      const m = done(p, demo);
      const pieces = piecesOf(m, 9);
      expect(pieces.usable).toBe(predicted(p));
      const shows = p.units.at(-1)?.steps.at(-1)?.effect[0];
      expect(shows).toEqual({ is: 'free-chunks', order: 9, atLeast: n + pieces.there - pieces.usable });
      expect(m.check()).toEqual([]);
    }
  });

  it('CG6 memory that is short is not called a matter of contiguity', () => {
    expect(tooMany).toMatchObject({ feasible: false, units: [] });
    expect(tooMany.summary).toContain('not for want of contiguity');
    expect(tooMany.summary).toContain(`${both} can be had after: ${DROP}, ${COMPACT}`);
  });

  it('CG6 what holds the rest is what a walk over all frames finds', () => {
    const m = demo.twin.machine;
    const rest = restOf(m, 9);
    const spoiled = new Set<number>();
    let slabs = 0;
    for (const id of m.blockIds()) {
      const block = m.block(id);
      for (const b of m.blockersIn(toPfn(block?.startPfn ?? 0), toPfn(block?.endPfn ?? 0))) {
        if (b.name.startsWith('free on per-CPU lists')) continue;
        for (let pfn = b.startPfn as number; pfn < b.endPfn; pfn++) {
          spoiled.add(Math.floor(pfn / 512));
          if (b.name === 'slab') slabs++;
        }
      }
    }
    expect(rest.spoiled).toBe(spoiled.size);
    expect(rest.groups.filter((g) => g.name === 'slab').reduce((n, g) => n + g.pages, 0)).toBe(slabs);
    expect(rest.groups.map((g) => g.pieces)).toEqual(rest.groups.map((g) => g.pieces).sort((a, b) => b - a));
  });

  it('CG9 every step is best effort but the last', () => {
    const steps = planContiguous(want(both), demo).units.flatMap((u) => u.steps);
    expect(steps.map((s) => s.bestEffort)).toEqual([true, undefined]);
  });

  it('CG8 huge pages: the pool is raised last, and everything before is best effort', () => {
    const total = 64;
    const hugePages = [0, 1].map((node) => ({ node, bytes: 2 ** 21, total: total / 2, free: 0 }));
    const input = { ...demo, observation: { ...demo.observation, hugePages } };
    const p = planContiguous(want(drop, 9, true), input);
    const steps = p.units.flatMap((u) => u.steps);
    expect(steps.map((s) => s.bestEffort)).toEqual([true, undefined]);
    expect(steps.at(-1)).toMatchObject({
      action: { do: 'set-hugepages', pageBytes: 2 ** 21, pages: total + drop },
      effect: [{ is: 'hugepages', pageBytes: 2 ** 21, atLeast: total + drop }],
      undo: [{ do: 'set-hugepages', pageBytes: 2 ** 21, pages: total }],
    });
    expect(planContiguous(want(1, 8, true), input)).toMatchObject({
      feasible: false,
      summary: 'this machine has no huge pages of 1M (order 8)',
    });
  });

  it('CG10 what the host cannot do is not planned, and told', () => {
    const p = planContiguous(want(drop), only(demo, 'compact'));
    expect(p.feasible).toBe(false);
    expect(p.rejected.find((r) => r.name === DROP)?.reason).toBe('a made-up machine cannot do it (drop-caches)');
    expect(planContiguous(want(1, 9, true), only(demo, 'compact')).summary).toBe(
      'a made-up machine cannot set the number of huge pages',
    );
  });
});

describe('contiguous memory in drawn worlds', () => {
  const EVACUATE = ['offline-block', 'online-block'] as const;

  it('CG5 a block goes offline and comes back to its zone; only as many as are needed', () => {
    const world = drawnWorld({
      blocks: [32, 33, 34, 35].map((id) => ({ id, zone: id === 32 ? ('Normal' as const) : ('Movable' as const) })),
      frames: [...sprinkled(33, WORD.anon), ...sprinkled(34, WORD.anon)],
    });
    const input = only(world, ...EVACUATE);
    expect(planContiguous(want(128), input)).toMatchObject({ feasible: true, units: [] });
    const one = planContiguous(want(129), input);
    expect(actionsOf(one)).toEqual(['offline-block 34', 'online-block 34']);
    expect(one.units[0]?.steps[1]).toMatchObject({ action: { zone: 'movable' } });
    expect(one.units[0]?.steps[0]?.undo).toEqual([{ do: 'online-block', block: 34, zone: 'movable' }]);
    const two = planContiguous(want(predicted(one) + 1), input);
    expect(actionsOf(two)).toHaveLength(4);
    for (const p of [one, two]) {
      const m = done(p, world);
      expect(piecesOf(m, 9).usable).toBe(predicted(p));
      expect(m.block(toBlockId(34))?.pool?.name).toBe('Movable');
      expect(m.check()).toEqual([]);
    }
  });

  it('CG5 a block of a kernel zone comes back to a kernel zone', () => {
    const world = drawnWorld({
      blocks: [32, 33, 34].map((id) => ({ id, zone: 'Normal' as const })),
      frames: sprinkled(33, WORD.anon),
    });
    const p = planContiguous(want(129), only(world, ...EVACUATE));
    expect(p.units[0]?.steps[1]?.action).toEqual({ do: 'online-block', block: 33, zone: 'kernel' });
    expect(p.units[0]?.steps[1]?.effect[0]).toEqual({ is: 'block', block: 33, state: 'online', zone: 'Normal' });
  });

  it('CG5 huge pages of a pool are not taken out of it, and no zone falls below its high watermark', () => {
    const blocks = [32, 33].map((id) => ({ id, zone: 'Normal' as const }));
    const huge = [
      [pfnOf(33, 3), 1, WORD.hugetlbHead],
      [pfnOf(33, 3) + 1, 511, WORD.hugetlbTail],
    ] as const;
    const frames = sprinkled(33, WORD.anon).filter(([pfn]) => Math.floor(pfn / 512) !== pfnOf(33, 3) / 512);
    const pool = planContiguous(want(65), only(drawnWorld({ blocks, frames: [...frames, ...huge] }), ...EVACUATE));
    expect(pool).toMatchObject({ feasible: false, units: [] });
    const short = planContiguous(
      want(65),
      only(drawnWorld({ blocks, frames: sprinkled(33, WORD.anon), min: { '0 Normal': 25_000 } }), ...EVACUATE),
    );
    expect(short.feasible).toBe(false);
    expect(JSON.stringify(short.rejected)).toContain('below its high watermark');
  });

  it('CG2 pieces that would have to stay free are not counted', () => {
    const blocks = [{ id: 32, zone: 'Normal' as const }];
    expect(planContiguous(want(64), drawnWorld({ blocks })).feasible).toBe(true);
    const marked = drawnWorld({ blocks, min: { '0 Normal': 4096 } });
    const { low } = marked.twin.machine.zones.find((z) => z.name === 'Normal')?.watermarks ?? { low: 0 };
    expect(low).toBeGreaterThan(4096);
    const most = Math.floor((64 * 512 - low) / 512);
    expect(planContiguous(want(most), marked)).toMatchObject({ feasible: true, units: [] });
    expect(planContiguous(want(most + 1), marked)).toMatchObject({ feasible: false });
  });

  it('CG6 only a reboot helps where one page in each piece stays, and the holder is named', () => {
    const p = planContiguous(
      want(65),
      drawnWorld({ blocks: [32, 33].map((id) => ({ id, zone: 'Normal' as const })), frames: sprinkled(33, WORD.slab) }),
    );
    expect(p.feasible).toBe(false);
    expect(p.summary).toBe(
      '65 pieces of 2M: only a reboot helps; 64 can be had now; pages that cannot move spoil 64 of 128 pieces',
    );
    expect(p.rejected.at(-1)).toEqual({ name: 'holds 64 pieces', reason: 'slab: 64 pages (unmovable)' });
  });

  it('CG7 without page flags: what is free, or a bound that says so', () => {
    const { kpageflags, ...capture } = syntheticCapture({
      blocks: [32, 33].map((id) => ({ id, zone: 'Normal' as const })),
      frames: sprinkled(33, WORD.anon),
    });
    expect(kpageflags).toBeDefined();
    const built = buildTwin(capture);
    if (!built.ok) throw new Error(built.error.message);
    const full = drawnWorld({
      blocks: [32, 33].map((id) => ({ id, zone: 'Normal' as const })),
      frames: sprinkled(33, WORD.anon),
    });
    const input: PlanInput = { ...full, twin: built.value };
    expect(planContiguous(want(64), input)).toMatchObject({ feasible: true, units: [] });
    const p = planContiguous(want(65), input);
    expect(p).toMatchObject({ feasible: false, units: [] });
    expect(p.summary).toContain(
      '64 can be had now, and at most 127 if all that is free were in one piece: an upper bound only',
    );
  });

  it('CG7 the machine that changed between the two looks is planned again', () => {
    const input = drawnWorld({ blocks: [{ id: 32, zone: 'Normal' }] });
    const observation = { ...input.observation, blocks: [] };
    expect(planContiguous(want(1), { ...input, observation }).summary).toContain('plan again');
  });
});
