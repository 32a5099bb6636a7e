// Spans grow to the hull and shrink only at their borders. Rules in docs/spec/hotplug-life.md; against a naive search:
// zone-span.fuzz.ts.

import { describe, expect, it } from 'vitest';
import { toNodeId } from '#base/units';
import { worldFrom } from '../../test/support/picture.ts';

const LINES =
  'n0 Movable ........\n n0 Movable ........\n n0 Movable ........\n n0 Movable ........\n n0 Normal ........';

/** Which of the drawn blocks Movable spans, as [first, end). */
function world() {
  const w = worldFrom(LINES);
  const movable = w.m.poolNamed(toNodeId(0), 'Movable');
  if (movable === undefined) throw new Error('no Movable');
  const first = w.at(0);
  const spanned = (): number[] =>
    movable.spanned === 0
      ? []
      : [(movable.startPfn - first) / w.m.blockPages, (movable.endPfn - first) / w.m.blockPages];
  return { ...w, spanned };
}

describe('zone spans', () => {
  it('ZS1 a block that comes widens the span to the hull; holes inside count', () => {
    const { m, block, spanned } = world();
    for (const k of [0, 1, 2, 3]) expect(m.offline(block(k)).ok).toBe(true);
    expect(spanned()).toEqual([]);
    expect(m.online(block(2), 'movable').ok).toBe(true);
    expect(spanned()).toEqual([2, 3]);
    expect(m.online(block(0), 'movable').ok).toBe(true);
    expect(spanned()).toEqual([0, 3]);
    expect(m.check()).toEqual([]);
  });

  it('ZS2 a middle block that goes leaves the span, a border one takes it to the next block that is there', () => {
    const { m, block, spanned } = world();
    expect(m.offline(block(1)).ok).toBe(true);
    expect(spanned()).toEqual([0, 4]);
    expect(m.offline(block(0)).ok).toBe(true);
    expect(spanned()).toEqual([2, 4]);
    expect(m.offline(block(3)).ok).toBe(true);
    expect(spanned()).toEqual([2, 3]);
    expect(m.offline(block(2)).ok).toBe(true);
    expect(spanned()).toEqual([]);
    expect(m.check()).toEqual([]);
  });

  it('ZS3 the spans of two zones of a node may overlap', () => {
    const { m, block, spanned } = world();
    const normal = m.poolNamed(toNodeId(0), 'Normal');
    expect(m.offline(block(1)).ok).toBe(true);
    expect(m.online(block(1), 'kernel').ok).toBe(true);
    expect(spanned()).toEqual([0, 4]);
    expect([normal?.startPfn, normal?.spanned]).toEqual([m.block(block(1))?.startPfn, 4 * m.blockPages]);
    expect(m.check()).toEqual([]);
  });
});
