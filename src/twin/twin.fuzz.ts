// Random machines, drawn and captured without a tear, then with tears: a twin must agree with every file of the first
// and survive the second. The verdict is held against a naive oracle: the rule that was exact on all real attempts.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { overlay, runsOf } from '#capture/page-runs';
import {
  BLOCK_PAGES,
  pfnOf,
  type SyntheticBlock,
  type SyntheticWorld,
  syntheticCapture,
  WORD,
} from '../../test/support/synthetic-capture.ts';
import { buildTwin } from './build.ts';
import { judgeAll } from './verdict.ts';

type Word = readonly [number, number];

const SINGLES: readonly Word[] = [WORD.anon, WORD.pinned, WORD.cache, WORD.mappedFile, WORD.shmem, WORD.metadata];
const KERNEL: readonly Word[] = [WORD.slab, WORD.pagetable, WORD.reserved];
const COMPOUNDS: readonly (readonly [head: Word, tail: Word, kernel: boolean])[] = [
  [WORD.thpHead, WORD.thpTail, false],
  [WORD.hugetlbHead, WORD.hugetlbTail, false],
  [WORD.compoundHead, WORD.compoundTail, true],
];

/** Blocks of a few zones and nodes with random runs in them; `fatal` = blocks that hold an unmovable page. */
function randomWorld(prng: Prng): { world: SyntheticWorld; fatal: Set<number> } {
  const blocks: SyntheticBlock[] = [];
  for (const id of [8, 9, 32, 33, 34, 40, 41]) {
    const roll = prng.below(8);
    if (roll === 0) continue;
    const zone = id < 32 ? 'DMA32' : id >= 40 ? 'Movable' : 'Normal';
    blocks.push({ id, node: id >= 34 ? 1 : 0, zone, state: roll === 1 ? 'offline' : 'online' });
  }
  if (blocks.every((b) => b.state === 'offline')) blocks.push({ id: 50, zone: 'Normal', node: 0 });
  const frames: (readonly [number, number, Word])[] = [];
  const fatal = new Set<number>();
  for (const b of blocks) {
    if (b.state === 'offline') continue;
    for (let k = prng.below(12); k > 0; k--) {
      // Each run has pageblocks of its own, so that later ones do not tear a compound page.
      const at = pfnOf(b.id, 4 * k);
      const roll = prng.below(10);
      if (roll < 5) {
        frames.push([at + prng.below(512), 1 + prng.below(700), SINGLES[prng.below(SINGLES.length)] as Word]);
      } else if (roll < 8) {
        const [head, tail, kernel] = COMPOUNDS[prng.below(COMPOUNDS.length)] as (typeof COMPOUNDS)[number];
        if (kernel && b.zone === 'Movable') continue;
        const order = head === WORD.hugetlbHead ? 9 : 1 + prng.below(9);
        frames.push([at, 1, head], [at + 1, 2 ** order - 1, tail]);
        if (kernel) fatal.add(b.id);
      } else if (roll < 9) {
        const word = KERNEL[prng.below(KERNEL.length)] as Word;
        if (b.zone === 'Movable' && word !== WORD.reserved) continue;
        frames.push([at + prng.below(512), 1 + prng.below(900), word]);
        fatal.add(b.id);
      } else {
        frames.push([at + prng.below(512), 1 + prng.below(300), WORD.nothing]);
      }
    }
  }
  return { world: { blocks, frames }, fatal };
}

describe('twin fuzz', () => {
  it('T40 whatever was captured without a tear, the twin agrees with every file', () => {
    for (let seed = 1; seed <= 25; seed++) {
      const { world } = randomWorld(new Prng(seed));
      const built = buildTwin(syntheticCapture(world));
      if (!built.ok || built.value.level !== 'pages') throw new Error(`seed=${seed}: no twin`);
      const different = built.value.comparisons.filter((c) => !c.equal && c.file !== '/proc/pagetypeinfo');
      expect(different, `seed=${seed}`).toEqual([]);
      expect(built.value.machine.check(), `seed=${seed}`).toEqual([]);
    }
  });

  it('V22 a block is refused exactly when it holds an unmovable page, whatever else is in it', () => {
    let refused = 0;
    for (let seed = 100; seed < 125; seed++) {
      const { world, fatal } = randomWorld(new Prng(seed));
      const built = buildTwin(syntheticCapture(world), { types: 'contents' });
      if (!built.ok) throw new Error(`seed=${seed}: no twin`);
      for (const v of judgeAll(built.value)) {
        if (v.verdict === undefined) continue;
        expect(v.verdict === 'no', `seed=${seed} block ${v.block}: ${v.code}, ${v.reason}`).toBe(fatal.has(v.block));
        if (v.verdict === 'no') refused++;
      }
    }
    expect(refused).toBeGreaterThan(20);
  });

  it('T41 a torn capture gives a sound twin: flags and counters of different moments', () => {
    const words = Object.values(WORD);
    for (let seed = 200; seed < 230; seed++) {
      const prng = new Prng(seed);
      const { world } = randomWorld(prng);
      const capture = syntheticCapture({ ...world, pcp: { '0 Normal': [prng.below(4000), prng.below(600)] } });
      let { kpageflags } = capture;
      if (kpageflags === undefined) throw new Error('no flags');
      for (let k = 0; k < 40; k++) {
        const block = world.blocks[prng.below(world.blocks.length)];
        if (block === undefined) continue;
        const pages = 1 + prng.below(prng.below(4) === 0 ? 3000 : 20);
        const at = block.id * BLOCK_PAGES + prng.below(BLOCK_PAGES - pages);
        const word = words[prng.below(words.length)] as Word;
        kpageflags = overlay(kpageflags, at, runsOf([[...word, pages]]));
      }
      const built = buildTwin({ ...capture, kpageflags });
      if (!built.ok || built.value.level !== 'pages') throw new Error(`seed=${seed}: no twin`);
      expect(built.value.machine.check(), `seed=${seed}`).toEqual([]);
      for (const v of judgeAll(built.value)) expect(v.reason, `seed=${seed}`).not.toBe('');
    }
  });
});
