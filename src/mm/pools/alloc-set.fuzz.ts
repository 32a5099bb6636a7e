// Sets at random, against a naive model that lists every free frame; and A6: 10^5 failures leave nothing behind.
//
//   DIMMER_SEED=n   replay a seed

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type NodeId, type Order, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { Machine } from '../machine.ts';
import { pools } from './pools.ts';

const SEED = Number(process.env.DIMMER_SEED ?? 20071025);
const SECTION = 32768;
const FAILURES = 100_000;

/** Nodes of a few chunks each, not all as long, the last frames of each beyond the others'. */
function boot(rng: Prng, nodes: number): { m: Machine; starts: number[]; ends: number[] } {
  const starts = Array.from({ length: nodes }, (_, k) => 2 ** 21 + k * SECTION);
  const ends = starts.map((start) => start + 1024 * (1 + rng.below(3)));
  const ram = starts.map((start, k) => ({ start: toPfn(start), end: toPfn(ends[k] as number), node: toNodeId(k) }));
  const placement = rng.pick(['address', 'fullest', 'lifo'] as const);
  return { m: Machine.boot({ ram, watermarks: 'none', code: 'shared', placement }), starts, ends };
}

type Held = { pfn: Pfn; order: number };

/** Counters of all pools, and how many pages each holder has. */
const counters = (m: Machine): number[] => [
  ...m.pools.flatMap((p) => [p.managed, p.present, p.alloc.nrFree() + p.alloc.pcpPages()]),
  ...m.holders.members.slice(0, m.holders.length),
  ...m.holders.pages.slice(0, m.holders.length),
];

describe('sets at random', () => {
  it('LS1 LS2 LS3 as the naive model says', () => {
    let sets = 0;
    let failures = 0;
    for (let world = 0; world < 40; world++) {
      const rng = new Prng(SEED + world);
      const nodes = 2 + rng.below(3);
      const { m, starts, ends } = boot(rng, nodes);
      const p = pools(m);
      const holders = starts.map((_, k) => m.addHolder({ class: 'anonymous', name: `h${k}` }));
      const others = m.addHolder({ class: 'anonymous', name: 'others' });
      const held: Held[] = [];
      const used = starts.map((start, k) => new Uint8Array((ends[k] as number) - start));
      const mark = (pfn: number, order: number, value: 0 | 1): void => {
        const k = starts.findLastIndex((start) => start <= pfn);
        const at = pfn - (starts[k] as number);
        const row = used[k] as Uint8Array;
        for (let i = at; i < at + 2 ** order; i++) {
          if (row[i] === value) throw new Error(`seed=${SEED} world ${world}: frame ${pfn} was ${value} already`);
          row[i] = value;
        }
      };
      const freeAt = (k: number, at: number, order: number): boolean => {
        const row = used[k] as Uint8Array;
        for (let i = at; i < at + 2 ** order; i++) if (row[i] !== 0) return false;
        return true;
      };
      for (let step = 0; step < 150; step++) {
        const said = `seed=${SEED} world ${world} step ${step}`;
        const order = rng.pick([0, 0, 1, 3, 5, 7, 8]);
        const what = rng.weighted([3, 2, 3, 3]);
        if (what === 0) {
          const node = rng.below(nodes) as NodeId;
          for (let k = rng.below(rng.pick([12, 400])); k > 0; k--) {
            const pfn = m.alloc(others, toOrder(order), { node, thisNode: true });
            if (pfn === -1) break;
            held.push({ pfn, order });
            mark(pfn, order, 1);
          }
        } else if (what === 1) {
          for (let k = rng.below(30); k > 0 && held.length > 0; k--) {
            const [a] = held.splice(rng.below(held.length), 1) as [Held];
            m.free(a.pfn);
            mark(a.pfn, a.order, 0);
          }
        } else {
          const on = rng.shuffle(starts.map((_, k) => k)).slice(0, 1 + rng.below(nodes));
          const offset = what === 2 ? 'same' : 'any';
          const who: HolderId[] = rng.chance(0.5) ? [others] : on.map((k) => holders[k] as HolderId);
          const before = counters(m);
          const r = p.allocSet({ on, holders: who, order: toOrder(order), offset });
          if (r.ok) {
            sets++;
            expect(
              r.value.map((s) => s.node),
              said,
            ).toEqual(on);
            const at = r.value.map((s) => s.pfn - (starts[s.node] as number));
            if (offset === 'same') {
              expect(new Set(at).size, said).toBe(1);
              for (let x = 0; x < (at[0] as number); x += 2 ** order) {
                expect(
                  on.every((k) => freeAt(k, x, order)),
                  `${said}: offset ${x} is lower and free`,
                ).toBe(false);
              }
            }
            for (const s of r.value) {
              held.push({ pfn: s.pfn, order });
              mark(s.pfn, order, 1);
            }
          } else {
            failures++;
            expect(counters(m), said).toEqual(before);
            if (offset === 'same') {
              // The first node that shares no offset with those before it.
              let common = [...(used[on[0] as number] as Uint8Array).keys()].filter((x) => x % 2 ** order === 0);
              const failed = on.find((k) => {
                common = common.filter((x) => x + 2 ** order <= (used[k] as Uint8Array).length && freeAt(k, x, order));
                return common.length === 0;
              });
              expect(r.error.node, said).toBe(failed);
            } else {
              // A node may have the frames, and every run of them cut: a set needs one run.
              const whole = on.map((k) =>
                [...(used[k] as Uint8Array).keys()].some((x) => x % 2 ** order === 0 && freeAt(k, x, order)),
              );
              expect(r.error.node, said).toBe(on[whole.indexOf(false)]);
            }
          }
        }
      }
      for (const a of held) m.free(a.pfn);
      expect(m.check(), `seed=${SEED} world ${world}`).toEqual([]);
      expect(m.zones.map((z) => z.alloc.nrFree() + z.alloc.pcpPages())).toEqual(m.zones.map((z) => z.managed));
    }
    expect([sets > 500, failures > 1000], `${sets} sets, ${failures} failures, seed=${SEED}`).toEqual([true, true]);
  }, 60_000);

  it('LS3 A6: 10^5 random failures leave nothing behind', () => {
    const rng = new Prng(SEED);
    const nodes = 4;
    const starts = Array.from({ length: nodes }, (_, k) => 2 ** 21 + k * SECTION);
    const ram = starts.map((start, k) => ({ start: toPfn(start), end: toPfn(start + 1024), node: toNodeId(k) }));
    const m = Machine.boot({ ram, watermarks: 'none', code: 'shared' });
    const p = pools(m);
    for (const node of [0, 1, 2, 3])
      expect(p.create({ name: `replica${node}`, nodes: [node], pages: 256 }).ok).toBe(true);
    const others = [0, 1, 2, 3].map((k) => m.addHolder({ class: 'anonymous', name: `others${k}`, node: toNodeId(k) }));
    const inPool = [0, 1, 2, 3].map((k) => {
      const r = p.addHolder({ class: 'anonymous', name: `pool${k}`, pool: `replica${k}` });
      return r.ok ? r.value : others[0];
    }) as HolderId[];
    const replica = m.addHolder({ class: 'anonymous', name: 'replica' });
    const order = (): Order => toOrder(rng.pick([0, 1, 2, 4, 6]));
    const held: Pfn[][] = [];
    let failures = 0;
    let rounds = 0;
    const failedAt = [0, 0, 0, 0];
    while (failures < FAILURES) {
      // A new state of the machine: each node and each pool filled to somewhere near its end.
      for (const list of held.splice(0)) for (const pfn of list) m.free(pfn);
      for (let k = 0; k < nodes; k++) {
        for (const h of [others[k] as HolderId, inPool[k] as HolderId]) {
          const mine: Pfn[] = [];
          const o = rng.chance(0.5) ? toOrder(0) : order();
          const options = h === others[k] ? { node: toNodeId(k), thisNode: true } : undefined;
          for (let pfn = m.alloc(h, o, options); pfn !== -1; pfn = m.alloc(h, o, options)) mine.push(pfn);
          if (rng.chance(0.6))
            for (let n = rng.below(Math.min(40, mine.length)); n > 0; n--)
              m.free(mine.splice(rng.below(mine.length), 1)[0] as Pfn);
          held.push(mine);
        }
      }
      for (const pool of m.pools) pool.alloc.drain();
      rounds++;
      const before = counters(m);
      const digest = m.digest();
      const sets: Pfn[][] = [];
      for (let k = 0; k < 400 && failures < FAILURES; k++) {
        const on = rng
          .shuffle([0, 1, 2, 3])
          .slice(0, 2 + rng.below(3))
          .map((n) => (rng.chance(0.5) ? n : `replica${n}`));
        const r = p.allocSet({ on, holders: [replica], order: order(), offset: rng.pick(['same', 'any'] as const) });
        if (r.ok) sets.push(r.value.map((s) => s.pfn));
        else {
          failures++;
          failedAt[r.error.node as number] = (failedAt[r.error.node as number] as number) + 1;
        }
      }
      for (const set of sets.reverse()) for (const pfn of set.reverse()) m.free(pfn);
      expect(counters(m), `seed=${SEED} round ${rounds}`).toEqual(before);
      if (rounds % 16 === 0) {
        for (const pool of m.pools) pool.alloc.drain();
        // The replica's own tables exist since its first set; frames, lists and owners are as they were.
        if (rounds > 16) expect(m.digest(), `seed=${SEED} round ${rounds}`).toBe(digest);
      }
    }
    expect(Math.min(...failedAt), `failures by node ${failedAt}, seed=${SEED}`).toBeGreaterThan(FAILURES / 50);
    expect(m.holders.members[replica]).toBe(0);
    expect(m.check(), `seed=${SEED}`).toEqual([]);
  }, 120_000);
});
