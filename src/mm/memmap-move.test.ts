// Struct pages move: to every place, back, at every fault, while blocks come and go. Rules in docs/spec/memmap-move.md.

import { describe, expect, it } from 'vitest';
import { type BlockId, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import { memmapEvictor } from './memmap-evictor.ts';
import { pfnOfSlot } from './memmap-frames.ts';
import {
  MEMMAP_FAULT_POINTS,
  MemmapMove,
  type MoveTarget,
  memmapCounters,
  memmapSequence,
  moveMemmap,
} from './memmap-move.ts';
import { guestsInTheWay, leafOf, leavesOf, memmapStat, structPageOf } from './memmap-where.ts';
import type { AddOptions, AddReport, MemoryRange } from './memory-add.ts';

const S = PAGES_PER_SECTION;
const GIB = 8 * S;
const node0 = toNodeId(0);
const node1 = toNodeId(1);
const b = toBlockId;
const sections = (first: number, end: number): MemoryRange => ({ start: toPfn(first * S), end: toPfn(end * S) });

/** Nodes 0 and 1 with 1 GiB each, blocks of 128 MiB; adds begin at section 32. */
const boot = (rest: Partial<MachineSpec> = {}): Machine =>
  Machine.boot({
    ram: [
      { ...sections(0, 8), node: node0 },
      { ...sections(8, 16), node: node1 },
    ],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    hotplug: { memmapOnMemory: 'Y', autoOnline: 'offline' },
    ...rest,
  });
const must = <T>(r: { ok: true; value: T } | { ok: false; error: unknown }): T => {
  if (!r.ok) throw new Error(`refused: ${JSON.stringify(r.error)}`);
  return r.value;
};
const add = (m: Machine, first: number, end: number, options: AddOptions = {}): AddReport =>
  must(m.addMemory(sections(first, end), node1, options));
const online = (m: Machine, blocks: readonly BlockId[], how: 'kernel' | 'movable' = 'movable'): void => {
  for (const id of blocks) must(m.online(id, how));
};
const counts = (m: Machine) => {
  for (const p of m.pools) p.alloc.drain();
  return {
    present: m.pools.reduce((n, p) => n + p.present, 0),
    managed: m.pools.reduce((n, p) => n + p.managed, 0),
    free: m.pools.reduce((n, p) => n + p.alloc.nrFree(), 0),
  };
};
/** Contents of every struct page frame of a block, by its virtual address. */
const tagsOf = (m: Machine, block: BlockId): Map<string, number> => {
  const out = new Map<string, number>();
  const start = block * m.blockPages;
  for (let pfn = start; pfn < start + m.blockPages; pfn += 64) {
    const page = structPageOf(m, toPfn(pfn));
    if (page?.frame === undefined) throw new Error('no struct page');
    out.set(page.address, m.sections.metaAt(m.sections.indexOf(page.frame)) >>> 9);
  }
  return out;
};

describe('one move', () => {
  const TARGETS: readonly { name: string; target: MoveTarget; policy: string; from: AddOptions['memmap'] }[] = [
    { name: 'self-block -> kernel', from: 'self-block', target: { policy: 'kernel' }, policy: 'kernel' },
    { name: 'kernel -> self-block', from: 'kernel', target: { policy: 'self-block' }, policy: 'self-block' },
    { name: 'kernel -> self-range', from: 'kernel', target: { policy: 'self-range' }, policy: 'self-range' },
    {
      name: 'kernel -> host-section',
      from: 'kernel',
      target: { policy: 'host-section', hosts: [b(2)] },
      policy: 'host-section',
    },
    { name: 'self-range -> kernel', from: 'self-range', target: { policy: 'kernel' }, policy: 'kernel' },
    { name: 'self-range -> self-block', from: 'self-range', target: { policy: 'self-block' }, policy: 'self-block' },
    { name: 'self-block -> a range', from: 'self-block', target: { range: sections(5, 6) }, policy: 'kernel' },
    { name: 'kernel -> fallback', from: 'kernel', target: { policy: 'fallback' }, policy: 'self-block' },
    {
      name: 'self-block -> auto, gigantic',
      from: 'self-block',
      target: { policy: 'auto', gigantic: true },
      policy: 'host-section',
    },
  ];
  for (const { name, target, policy, from } of TARGETS) {
    for (const how of ['movable', 'kernel', 'offline'] as const) {
      it(`LM1 ${name}, ${how}: address and contents stay, the frames are others`, () => {
        const m = boot();
        const { blocks } = add(m, 32, 36, { memmap: from ?? 'kernel' });
        if (how !== 'offline') online(m, blocks, how);
        const guest = b(35);
        const tags = tagsOf(m, guest);
        const before = memmapStat(m, guest);
        expect(must(moveMemmap(m, guest, target))).toEqual({ block: guest, moved: 1, stayed: 0 });
        expect(m.check()).toEqual([]);
        const after = memmapStat(m, guest);
        expect(after?.policy).toBe(policy);
        expect(after?.basePfn).not.toBe(before?.basePfn);
        expect(tagsOf(m, guest)).toEqual(tags);
        // There already: nothing happens.
        expect(must(moveMemmap(m, guest, target))).toEqual({ block: guest, moved: 0, stayed: 1 });
        expect(memmapCounters(m)).toMatchObject({ moves: 1, copiedPages: 512, shootdowns: 1 });
      });
    }
  }
});
