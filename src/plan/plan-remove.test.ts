// Removal planned, on captures of real guests and drawn machines with made-up hypervisors. Rules: docs/spec/planner.md.

import { describe, expect, it } from 'vitest';
import { judgeAll } from '#twin/index';
import { pfnOf, WORD } from '../../test/support/synthetic-capture.ts';
import { addGoal, removeGoal, resizeGoal, sizeWord } from './goal.ts';
import { blocksWithin } from './observation.ts';
import type { Goal } from './plan.ts';
import { plan } from './planner.ts';
import { actionsOf, drawnWorld, executed, GIB, golden, type MadeUp, MIB } from './worlds.cases.ts';

const BLOCK = 128 * MIB;
const remove = (target: string): Goal => {
  const goal = removeGoal(target);
  if (!goal.ok) throw new Error(goal.error);
  return goal.value;
};

const K612 = 'twin/guest-6.12-memmap-on-memory.dimmer';
const MIXED = 'twin/guest-6.1-mixed.dimmer';
/** 1 GiB at 6 GiB, Movable throughout. */
const MOVABLE: MadeUp = { dimms: [{ id: 'dimm1', addr: 6 * GIB, size: GIB, node: 1 }] };
/** 1 GiB at 4 GiB, Normal and Movable, one block with kernel pages. */
const BUSY: MadeUp = { dimms: [{ id: 'dimm0', addr: 4 * GIB, size: GIB, node: 1 }] };

describe('a DIMM', () => {
  it('PN1 goes block by block and is ejected last, when all of it is offline', () => {
    const input = golden(K612, MOVABLE);
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
      const block = s.action.do === 'offline-block' ? s.action.block : -1;
      expect(s.undo).toEqual([{ do: 'online-block', block, zone: 'movable' }]);
      expect(s.expect).toEqual([{ is: 'block', block, state: 'online', zone: 'Movable' }]);
      expect(s.deadlineMs).toBeGreaterThanOrEqual(10_000);
    }
    const { m, wrong } = executed(input, p);
    expect(wrong).toEqual([]);
    expect(m.check()).toEqual([]);
  });

  it('PN1 by its rank or by a range of its own, too; and what has no such name is refused with what there is', () => {
    const input = golden(K612, MOVABLE);
    const byRank = { ...input, blocksOf: () => input.blocksOf('block:48-55') };
    expect(actionsOf(plan(remove('dimm:2'), byRank))).toEqual(actionsOf(plan(remove('dimm:dimm1'), input)));
    const none = plan(remove('dimm:dimm7'), input);
    expect(none).toMatchObject({ feasible: false, units: [] });
    expect(none.summary).toBe('the hypervisor has no DIMM "dimm7"; it has dimm:dimm1');
  });

  it('PN1 a block that is offline needs no step, and one that comes back elsewhere says so', () => {
    const input = drawnWorld(
      {
        blocks: [
          ...Array.from({ length: 4 }, (_, k) => ({ id: 8 + k, zone: 'DMA32' as const })),
          { id: 32, zone: 'Movable', node: 1 },
          { id: 33, state: 'offline', node: 1 },
        ],
      },
      { dimms: [{ id: 'd', addr: 4 * GIB, size: 2 * BLOCK, node: 1 }] },
    );
    expect(actionsOf(plan(remove('dimm:d'), input))).toEqual(['offline-block 32', 'remove-dimm d']);
    expect(plan(remove('block:9'), input).units[0]?.steps[0]?.risk).toBeUndefined();
    const edge = plan(remove('block:11'), input).units[0]?.steps[0]; // lab fact 21: the zone's border moves with its last block
    expect(edge?.risk).toBe('if it has to come back, it comes to Normal: nothing of DMA32 is left around it');
  });

  it('PN2 with a kernel page is refused beforehand, by block, pages and holder', () => {
    const input = golden(MIXED, BUSY);
    const p = plan(remove('dimm:dimm0'), input);
    expect(p).toMatchObject({ feasible: false, units: [] });
    const no = judgeAll(input.twin).filter((v) => v.verdict === 'no' && v.block >= 32 && v.block < 40);
    expect(p.rejected.map((r) => r.name)).toEqual(no.map((v) => `block:${v.block}`));
    expect(p.rejected[0]?.reason).toMatch(/^\d.* pages? cannot move: .* at 0x[0-9a-f]+ held by /);
  });

  it('PN3 by force goes all the same, the hopeless block first, with the risk told', () => {
    const input = golden(MIXED, BUSY);
    const p = plan(remove('dimm:dimm0'), input, { force: true });
    const blocks = new Set(blocksWithin(input.observation, 4 * GIB, GIB));
    const worst = judgeAll(input.twin).find((v) => blocks.has(v.block) && v.verdict === 'no');
    expect(p.feasible).toBe(true);
    expect(actionsOf(p)[0]).toBe(`offline-block ${worst?.block}`);
    expect(p.units[0]?.steps[0]?.risk).toMatch(/^will probably be refused \(EBUSY\)/);
    expect(p.warnings.join('\n')).toMatch(/will probably be refused/);
    const rest = p.units[0]?.steps.slice(1, -1).map((s) => s.predicts.pagesToMove?.value ?? 0) ?? [];
    expect(rest).toHaveLength(7);
    const { wrong } = executed(input, p);
    expect(wrong[0]).toMatch(/^step 1, /);
  });

  it('PN3 pages that look pinned make a doubt, not a refusal: that block goes first', () => {
    const input = golden('twin/guest-6.1-pinned.dimmer', BUSY);
    const p = plan(remove('dimm:dimm0'), input);
    const maybe = judgeAll(input.twin).find((v) => v.verdict === 'maybe' && v.block >= 32);
    expect(p.feasible).toBe(true);
    expect(actionsOf(p)[0]).toBe(`offline-block ${maybe?.block}`);
    expect(p.units[0]?.steps[0]?.risk).toMatch(/look pinned/);
  });

  it('PN13 that would leave less free than the high watermarks ask for is refused', () => {
    const frames = Array.from({ length: 4 }, (_, k) => [pfnOf(8 + k), 31000, WORD.anon] as const);
    const input = drawnWorld(
      {
        blocks: [
          ...Array.from({ length: 4 }, (_, k) => ({ id: 8 + k, zone: 'DMA32' as const })),
          { id: 32, zone: 'Movable', node: 1 },
        ],
        frames,
        min: { '0 DMA32': 8000 },
      },
      { dimms: [{ id: 'd', addr: 4 * GIB, size: BLOCK, node: 1 }] },
    );
    const p = plan(remove('dimm:d'), input);
    expect(p).toMatchObject({ feasible: false, units: [] });
    expect(p.rejected).toEqual([
      { name: 'dimm:d', reason: expect.stringMatching(/less free memory than the high watermarks/) },
    ]);
    const forced = plan(remove('dimm:d'), input, { force: true });
    expect(forced.feasible).toBe(true);
    expect(forced.warnings.join()).toMatch(/OOM killer/);
  });

  it('PN13 of a machine that changed between the two looks is not planned', () => {
    const input = golden(K612, MOVABLE);
    const blocks = input.observation.blocks.map((b) => (b.id === 48 ? { ...b, state: 'offline' } : b));
    const p = plan(remove('dimm:dimm1'), { ...input, observation: { ...input.observation, blocks } });
    expect(p).toMatchObject({ feasible: false, units: [] });
    expect(p.summary).toMatch(/block 48 was online, then offline; plan again/);
  });

  it('PN13 that its host cannot take out is not planned', () => {
    const input = golden(K612, MOVABLE);
    const host = { ...input.host, can: new Set(['offline-block', 'online-block'] as const) };
    expect(plan(remove('dimm:dimm1'), { ...input, host }).summary).toMatch(/cannot remove a DIMM/);
  });
});

describe('a node, blocks', () => {
  it('PN14 a node: its DIMMs and devices leave, its boot memory goes offline and stays in the machine, and the plan says so', () => {
    const input = drawnWorld(
      {
        blocks: [
          ...Array.from({ length: 6 }, (_, k) => ({ id: 8 + k, zone: 'DMA32' as const })),
          { id: 14, zone: 'DMA32', node: 1 },
          { id: 32, zone: 'Movable', node: 1 },
          { id: 40, zone: 'Movable', node: 1 },
        ],
      },
      {
        dimms: [{ id: 'd', addr: 4 * GIB, size: BLOCK, node: 1 }],
        virtioMem: [{ id: 'vm0', addr: 5 * GIB, size: BLOCK, node: 1, maxSize: GIB }],
      },
    );
    const p = plan(remove('node:1'), input);
    expect(p.feasible).toBe(true);
    expect(p.units.map((u) => u.name)).toEqual(['dimm:d', 'virtio-mem:vm0', 'block:14']);
    expect(p.warnings.join()).toMatch(
      /1 block will be offline and stay in the machine \(boot memory cannot be pulled\)/,
    );
    expect(executed(input, p).wrong).toEqual([]);
  });

  it('PN14 blocks go offline, each a unit; if they are a whole DIMM, the plan says how it would go too', () => {
    const p = plan(remove('block:48-55'), golden(K612, MOVABLE));
    expect(p.units.map((u) => u.name)).toEqual(Array.from({ length: 8 }, (_, k) => `block:${48 + k}`));
    expect(p.warnings.join()).toMatch(/dimmer plan remove dimm:dimm1 takes it out as well/);
    const some = plan(remove('block:48'), golden(K612));
    expect(some.warnings.join()).toMatch(/1 block will be offline and stay in the machine .*nothing is unplugged/);
  });

  it('PN14 without a hypervisor a DIMM of ls dimms goes offline, all or nothing', () => {
    const input = golden(K612);
    const p = plan(remove('dimm:2'), { ...input, blocksOf: () => input.blocksOf('block:48-55') });
    expect(p.units.map((u) => u.name)).toEqual(['dimm:2']);
    expect(actionsOf(p).every((a) => a.startsWith('offline-block'))).toBe(true);
  });

  it('PN14 without page flags zones decide, and the plan says that nothing was tried', () => {
    const input = drawnWorld({ blocks: [{ id: 8 }, { id: 32, zone: 'Movable', node: 1 }], hide: ['/proc/kpageflags'] });
    const p = plan(remove('block:32'), input);
    expect(p.feasible).toBe(true);
    expect(p.warnings.join()).toMatch(/page flags were not readable/);
    expect(plan(remove('block:8'), input).feasible).toBe(false);
  });
});

describe('so much memory', () => {
  /** Four DIMMs: free, loaded, with kernel pages, and of four blocks. */
  const input = drawnWorld(
    {
      blocks: [
        ...Array.from({ length: 8 }, (_, k) => ({ id: 8 + k, zone: 'DMA32' as const })),
        ...[32, 40, 48, 56, 57, 58, 59].map((id) => ({ id, zone: 'Movable' as const, node: 1 })),
      ],
      frames: [
        [pfnOf(40), 20000, WORD.anon],
        [pfnOf(48), 8, WORD.slab],
      ],
    },
    {
      dimms: [
        { id: 'idle', addr: 4 * GIB, size: BLOCK, node: 1 },
        { id: 'loaded', addr: 5 * GIB, size: BLOCK, node: 1 },
        { id: 'kernel', addr: 6 * GIB, size: BLOCK, node: 1 },
        { id: 'large', addr: 7 * GIB, size: 4 * BLOCK, node: 1 },
      ],
    },
  );

  it('PN4 comes from the cheapest DIMMs, and the others are told why not', () => {
    const p = plan(remove('size:100M'), input);
    expect(p.feasible).toBe(true);
    expect(p.units.map((u) => u.name)).toEqual(['dimm:idle']);
    const why = new Map(p.rejected.map((r) => [r.name, r.reason]));
    expect(why.get('dimm:kernel')).toMatch(/held by slab/);
    expect(why.get('dimm:loaded')).toMatch(/not needed/);
    expect(why.get('dimm:large')).toMatch(/not needed/);
  });

  it('PN4 takes the large idle one alone where the small loaded one would cost more', () => {
    const p = plan(remove('size:256M'), input);
    expect(p.units.map((u) => u.name)).toEqual(['dimm:large']);
    expect(plan(remove('size:600M'), input).units.map((u) => u.name)).toEqual(['dimm:idle', 'dimm:large']);
  });

  it('PN4 takes single blocks only when devices are not enough, and calls them a last resort', () => {
    const p = plan(remove('size:800M'), input);
    expect(p.feasible).toBe(true);
    expect(
      p.units
        .slice(0, 3)
        .map((u) => u.name)
        .toSorted(),
    ).toEqual(['dimm:idle', 'dimm:large', 'dimm:loaded']);
    expect(p.units.slice(3).every((u) => u.name.startsWith('block:'))).toBe(true);
    expect(p.units.length).toBeGreaterThan(3);
    expect(p.warnings.join()).toMatch(/a last resort: the guest loses them and the hypervisor gets nothing back/);
    const { m, wrong } = executed(input, p);
    expect(wrong).toEqual([]);
    expect(m.check()).toEqual([]);
  });

  it('PN4 a size is a size, whether the goal has it in bytes or in words, and never all there is', () => {
    const words = plan({ verb: 'remove', target: 'size:100M' }, input);
    expect(words.units).toEqual(plan(remove('size:100M'), input).units);
    expect(plan({ verb: 'remove', target: 'size:100' }, input)).toMatchObject({ feasible: false, units: [] });
  });

  it('PN4 that nobody can give says how much goes', () => {
    const p = plan(remove('size:64G'), input);
    expect(p.feasible).toBe(false);
    expect(p.summary).toMatch(/^size:64G is more than can go now: \S+ by /);
  });

  it('PN4 of virtio-mem is no more than was asked for, in its own blocks', () => {
    const vm = drawnWorld(
      {
        blocks: [
          ...Array.from({ length: 4 }, (_, k) => ({ id: 8 + k, zone: 'DMA32' as const })),
          ...[32, 33, 34].map((id) => ({ id, zone: 'Movable' as const, node: 1 })),
        ],
        frames: [[pfnOf(34, 63), 300, WORD.anon]],
      },
      { virtioMem: [{ id: 'vm0', addr: 4 * GIB, size: 3 * BLOCK, node: 1, maxSize: GIB }] },
    );
    const p = plan(remove('size:131M'), vm);
    expect(p.units[0]?.steps[0]?.action).toEqual({ do: 'resize-virtio-mem', id: 'vm0', bytes: 3 * BLOCK - 132 * MIB });
    expect(p.units[0]?.steps[0]?.predicts.pagesToMove).toEqual({ value: 300, provenance: 'derived' });
  });

  it('PN4 without a hypervisor comes from blocks, fewest pages to move first', () => {
    const p = plan(remove('size:1G'), golden('demo.dimmer'));
    expect(p.feasible).toBe(true);
    expect(p.units).toHaveLength(8);
    const pages = p.units.map((u) => u.steps[0]?.predicts.pagesToMove?.value ?? -1);
    expect(pages[0]).toBe(Math.min(...pages));
    const { wrong } = executed(golden('demo.dimmer'), p);
    expect(wrong).toEqual([]);
  });
});

describe('goals as typed', () => {
  it('PN15 sizes carry a unit, targets their type, and what is missing is asked for', () => {
    expect(removeGoal('size:4G')).toEqual({ ok: true, value: { verb: 'remove', target: 'size:4G', bytes: 4 * GIB } });
    expect(removeGoal('dimm:mem-1')).toEqual({ ok: true, value: { verb: 'remove', target: 'dimm:mem-1' } });
    for (const bad of ['4G', 'size:4', 'size:0G', 'dimm:', 'cpu:1', '']) expect(removeGoal(bad).ok, bad).toBe(false);
    expect(addGoal(['node:1', 'size:10G'])).toEqual({ ok: true, value: { verb: 'add', bytes: 10 * GIB, node: 1 } });
    for (const bad of [
      ['size:10G'],
      ['node:1'],
      ['size:1', 'node:1'],
      ['size:1G', 'node:x'],
      ['size:1G', 'node:1', 'x'],
    ])
      expect(addGoal(bad).ok, bad.join(' ')).toBe(false);
    expect(resizeGoal('size:8G')).toEqual({ ok: true, value: { verb: 'resize', bytes: 8 * GIB } });
    expect(resizeGoal('8G').ok).toBe(false);
    expect([0, 1, 1024, 1152 * MIB, 4 * GIB].map(sizeWord)).toEqual(['0B', '1B', '1K', '1152M', '4G']);
  });
});
