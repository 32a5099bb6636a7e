// The table of memory blocks: rows come and go in the middle, every column with them. Rules in docs/spec/hotplug-life.md.

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toBlockId } from '#base/units';
import { MemoryBlocks } from './memory-block.ts';

const NAMES = ['state', 'pool', 'node', 'absent', 'vmemmapPages', 'group', 'early', 'onlineType'] as const;
/** Of a block that has just come: offline, in no pool, on no node yet, in no group. */
const FRESH = [0, -1, -1, 0, 0, -1, 0, 0];

it('MBL1 a random table of blocks is what a map by id says, every column of it; rows ascend', () => {
  for (let seed = 1; seed <= 30; seed++) {
    const prng = new Prng(seed);
    const naive = new Map<number, number[]>([
      [4, [...FRESH]],
      [9, [...FRESH]],
    ]);
    let blocks = new MemoryBlocks(Float64Array.of(4, 9));
    for (let step = 0; step < 120; step++) {
      const where = `seed=${seed} step=${step}`;
      const first = prng.below(60);
      const ids = Array.from({ length: 1 + prng.below(5) }, (_, k) => first + k);
      const there = ids.filter((id) => naive.has(id)).length;
      if (there === 0) {
        expect(blocks.insert(toBlockId(first), ids.length), where).toBe(blocks.rowOf(toBlockId(first)));
        for (const id of ids) naive.set(id, [...FRESH]);
      } else if (there === ids.length) {
        blocks.remove(toBlockId(first), ids.length);
        for (const id of ids) naive.delete(id);
      } else {
        expect(() => blocks.insert(toBlockId(first), ids.length), where).toThrow('a memory block is there already');
        expect(() => blocks.remove(toBlockId(first), ids.length), where).toThrow('no such memory blocks');
      }
      const some = [...naive.keys()];
      if (some.length > 0) {
        const id = prng.pick(some);
        const column = prng.below(NAMES.length);
        const value = prng.below(3);
        blocks[NAMES[column]][blocks.rowOf(toBlockId(id))] = value;
        (naive.get(id) as number[])[column] = value;
      }
      if (prng.chance(0.1)) {
        const copy = new MemoryBlocks(new Float64Array(0));
        copy.copyFrom(blocks);
        blocks.state.fill(2); // the copy must not see it
        blocks = copy;
      }
      const sorted = [...naive].sort(([a], [b]) => a - b);
      expect(Array.from(blocks.id), where).toEqual(sorted.map(([id]) => id));
      const rows = sorted.map((_, row) => NAMES.map((name) => blocks[name][row]));
      expect(rows, where).toEqual(sorted.map(([, row]) => row));
      const found = Array.from({ length: 66 }, (_, id) => blocks.rowOf(toBlockId(id)));
      expect(found, where).toEqual(found.map((_, id) => sorted.findIndex(([k]) => k === id)));
    }
  }
});
