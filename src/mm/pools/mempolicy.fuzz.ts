// Memory policies under random events, against a naive model: where the next allocation goes by a list that is written out
// (a a a b a a a b ...), where a page belongs by a division of its index.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import { allocByPolicy, type Mempolicy, pagesByPool, setMempolicy, settleByPolicy } from './mempolicy.ts';
import { attrsOf } from './pool-table.ts';
import { pools } from './pools.ts';

const NODE_PAGES = 32768;
const NAMES = ['p0', 'p1', 'p2', 'p3', 'node0', 'node2'];

/** The turns of one round, written out. */
const round = (policy: Mempolicy): string[] =>
  policy.pools.flatMap((name, k) =>
    new Array<string>(policy.mode === 'weighted-interleave' ? (policy.weights[k] as number) : 1).fill(name),
  );

const isTurns = (policy: Mempolicy): boolean => policy.mode === 'interleave' || policy.mode === 'weighted-interleave';

/** Is the pool of a frame the place of that name? */
function liesIn(m: Machine, pfn: Pfn, place: string): boolean {
  const { name } = attrsOf(m, m.owners.at(m.sections.indexOf(pfn)));
  return place.startsWith('node') ? name.startsWith(`${place}-`) : name === place;
}

function randomPolicy(rng: Prng): Mempolicy {
  const names = rng.shuffle([...NAMES]).slice(0, 1 + rng.below(4));
  const mode = rng.pick(['bind', 'preferred', 'interleave', 'weighted-interleave'] as const);
  return mode === 'weighted-interleave'
    ? { mode, pools: names, weights: names.map(() => 1 + rng.below(rng.pick([3, 9, 255]))) }
    : { mode, pools: names };
}

function run(seed: number): void {
  const rng = new Prng(seed);
  const m = Machine.boot({
    ram: [0, 1, 2, 3].map((n) => ({
      start: toPfn(2 ** 20 + n * NODE_PAGES),
      end: toPfn(2 ** 20 + (n + 1) * NODE_PAGES),
      node: toNodeId(n),
    })),
    code: 'shared',
    watermarks: rng.chance(0.5) ? 'none' : { scaleFactor: 10, thp: false },
  });
  const p = pools(m);
  for (const n of [0, 1, 2, 3]) p.create({ name: `p${n}`, pages: 500 + rng.below(4000), nodes: [n] });
  if (rng.chance(0.5)) p.setFallback('p0', 'node1', 1);
  const jobs: { holder: HolderId; policy: Mempolicy; turn: number }[] = [];
  for (let k = 0; k < 3; k++) {
    const holder = m.addHolder({ class: rng.pick(['anonymous', 'file', 'slab']), name: `job ${k}` });
    const policy = randomPolicy(rng);
    expect(setMempolicy(m, holder, policy).ok).toBe(true);
    jobs.push({ holder, policy, turn: 0 });
  }
  for (let step = 0; step < 120; step++) {
    const at = `seed=${seed} step=${step}`;
    const job = rng.pick(jobs);
    const mine: Pfn[] = [];
    m.forEachFrameOf(job.holder, (pfn) => void mine.push(pfn));
    switch (rng.weighted([8, 3, 3, 4, 1])) {
      case 0: {
        const order = toOrder(rng.pick([0, 0, 0, 2, 4]));
        const turns = round(job.policy);
        for (let k = 1 + rng.below(300); k > 0; k--) {
          const wanted = isTurns(job.policy)
            ? (turns[job.turn++ % turns.length] as string)
            : (job.policy.pools[0] as string);
          const before = p.stat(wanted);
          const r = allocByPolicy(m, job.holder, order);
          if (!r.ok) {
            expect(r.error.reason, at).toBe('no-memory');
            break;
          }
          const places = job.policy.pools;
          if (job.policy.mode === 'bind')
            expect(
              places.some((x) => liesIn(m, r.value, x)),
              at,
            ).toBe(true);
          // With room to spare a pool never passes its turn on.
          if (before.ok && before.value.free > 2000) expect(liesIn(m, r.value, wanted), `${at} ${wanted}`).toBe(true);
        }
        break;
      }
      case 1:
        for (const pfn of mine) if (rng.chance(0.4)) m.free(pfn);
        break;
      case 2: {
        const policy = randomPolicy(rng);
        expect(setMempolicy(m, job.holder, policy).ok, at).toBe(true);
        job.policy = policy;
        job.turn = 0;
        break;
      }
      case 3: {
        const atMost = 16 + rng.below(2000);
        const before = m.holders.pages[job.holder];
        let bound = 1 + Math.ceil((before as number) / Math.max(1, atMost - 15));
        for (let r = settleByPolicy(m, job.holder, { atMost }); ; r = settleByPolicy(m, job.holder, { atMost })) {
          if (!r.ok) {
            expect(r.error.reason, at).toBe('pool-busy');
            expect(r.error.blockers.length, at).toBeGreaterThan(0);
            break;
          }
          expect(r.value.moved, at).toBeLessThanOrEqual(atMost);
          if (r.value.left === 0) {
            m.forEachFrameOf(job.holder, (pfn, _order, index) => {
              const turns = round(job.policy);
              const wanted = isTurns(job.policy) ? [turns[index % turns.length] as string] : job.policy.pools;
              expect(
                wanted.some((x) => liesIn(m, pfn, x)),
                at,
              ).toBe(true);
            });
            break;
          }
          expect(--bound, `${at} settling comes to an end`).toBeGreaterThanOrEqual(0);
        }
        expect(m.holders.pages[job.holder], at).toBe(before);
        break;
      }
      default:
        for (const pfn of mine.slice(0, 5)) {
          if (m.frame(pfn).state === 'used' && rng.chance(0.5)) m.pin(pfn);
          else m.unpin(pfn);
        }
    }
    const counted = [...pagesByPool(m, job.holder).values()].reduce((n, k) => n + k, 0);
    expect(counted, at).toBe(m.holders.pages[job.holder]);
    if (step % 30 === 0) expect(m.check(), at).toEqual([]);
  }
  expect(m.check(), `seed=${seed}`).toEqual([]);
}

describe('random policies', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])('MP11 requests, frees, tweaks and settling, seed %i', (seed) => run(seed));
});
