// Removal planned, on captures of real guests with made-up hypervisors. Rules: docs/spec/planner.md.

import { describe, expect, it } from 'vitest';
import { judgeAll } from '#twin/index';
import { blocksWithin } from './observation.ts';
import { plan } from './planner.ts';
import { actionsOf, GIB, golden, type MadeUp, MIB } from './worlds.cases.ts';

const remove = (target: string) => ({ verb: 'remove', target }) as const;

/** Of guest-6.1-memmap..., 1 GiB at 6 GiB: Movable throughout; of demo: blocks 32-47. */
const K612: MadeUp = { dimms: [{ id: 'dimm1', addr: 48 * 128 * MIB, size: GIB, node: 1 }] };
const MIXED: MadeUp = { dimms: [{ id: 'dimm0', addr: 4 * GIB, size: GIB, node: 1 }] };

describe('a DIMM', () => {
  it('PN1 goes block by block and is ejected last, when all of it is offline', () => {
    const input = golden('twin/guest-6.12-memmap-on-memory.dimmer', K612);
    const p = plan(remove('dimm:dimm1'), input);
    expect(p).toMatchObject({ feasible: true, rejected: [], goal: { verb: 'remove', target: 'dimm:dimm1' } });
    expect(p.units.map((u) => [u.name, u.bytes])).toEqual([['dimm:dimm1', GIB]]);
    const steps = p.units[0]?.steps ?? [];
    expect(steps.map((s) => s.n)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const last = steps[8];
    expect(last?.action).toEqual({ do: 'remove-dimm', id: 'dimm1', memdev: 'mem-dimm1' });
    expect(last?.undo).toBeUndefined();
    expect(last?.expect.filter((c) => c.is === 'block' && c.state === 'offline')).toHaveLength(8);
    for (const s of steps.slice(0, 8)) {
      expect(s.action.do).toBe('offline-block');
      const block = s.action.do === 'offline-block' ? s.action.block : -1;
      expect(s.undo).toEqual([{ do: 'online-block', block, zone: 'movable' }]);
      expect(s.expect).toEqual([{ is: 'block', block, state: 'online', zone: 'Movable' }]);
      expect(s.deadlineMs).toBeGreaterThanOrEqual(10_000);
    }
  });

  it('PN3 goes worst first: the block with most pages to move before the others', () => {
    const p = plan(remove('dimm:dimm0'), golden('twin/guest-6.1-mixed.dimmer', MIXED), { force: true });
    const input = golden('twin/guest-6.1-mixed.dimmer', MIXED);
    const blocks = new Set(blocksWithin(input.observation, 4 * GIB, GIB));
    const worst = judgeAll(input.twin).find((v) => blocks.has(v.block) && v.verdict === 'no');
    expect(worst).toBeDefined();
    expect(actionsOf(p)[0]).toBe(`offline-block ${worst?.block}`);
  });

  it('PN2 with a kernel page is refused beforehand, by block, pages and holder', () => {
    const input = golden('twin/guest-6.1-mixed.dimmer', MIXED);
    const p = plan(remove('dimm:dimm0'), input);
    expect(p).toMatchObject({ feasible: false, units: [] });
    const no = judgeAll(input.twin).filter((v) => v.verdict === 'no' && v.block >= 32 && v.block < 40);
    expect(p.rejected.map((r) => r.name)).toEqual(no.map((v) => `block:${v.block}`));
    expect(p.rejected[0]?.reason).toMatch(/^\d.* pages? cannot move: .* at 0x[0-9a-f]+ held by /);
  });
});
