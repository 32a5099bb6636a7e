// Remapping by example: kernel pages leave a block under constant addresses, the block goes, comes back, and they come home.
// Rules in docs/spec/kremap.md.

import { describe, expect, it } from 'vitest';
import { toBlockId, toPfn } from '#base/units';
import { PAGEBLOCK_PAGES } from '../geometry.ts';
import { kremap } from './kremap.ts';
import { allocAt, frameOf, holder, plug, S, unplug, world } from './world.cases.ts';

const AT = 33 * S + 5 * PAGEBLOCK_PAGES + 17;

describe('a kernel page leaves', () => {
  it('KR1 its address leads to the new frame, with its contents; the block goes, and its memory', () => {
    const m = world({ contents: 'bytes' });
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    m.write(toPfn(AT), 100, Uint8Array.of(1, 2, 3));
    expect(m.fork().offline(toBlockId(33))).toMatchObject({ ok: false, error: { reason: 'unmovable' } });

    unplug(m);
    const k = kremap(m);
    const pfn = frameOf(m, slab);
    expect(k.virtToPhys(AT)).toBe(pfn);
    expect(k.physToVirt(pfn)).toBe(AT);
    expect(k.virtToPhys(pfn)).toBe(-1); // the frame serves another address than its own
    expect([...m.read(toPfn(pfn)).subarray(99, 104)]).toEqual([0, 1, 2, 3, 0]);
    expect(k.stat()).toMatchObject({ displaced: 1, splits: 1, collapses: 0, leafTables: 2, vaBlocked: 0 });
    expect(m.check()).toEqual([]);
  });

  it('KR2 when it is freed its address is nobody’s, the leaf collapses and the tables go', () => {
    const m = world();
    const slab = holder(m, 'slab');
    allocAt(m, slab, AT);
    const before = m.pools.map((p) => p.managed).join();
    unplug(m);
    m.free(toPfn(frameOf(m, slab)));
    expect(kremap(m).stat()).toMatchObject({ displaced: 0, splits: 1, collapses: 1, leafTables: 0, tableFrames: 0 });
    plug(m, 'kernel');
    expect(m.pools.map((p) => p.managed).join()).toBe(before);
    expect(m.check()).toEqual([]);
  });
});
