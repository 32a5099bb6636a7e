import { describe, expect, it } from 'vitest';
import { pfnOf, type SyntheticWorld, syntheticCapture, WORD } from '../../test/support/synthetic-capture.ts';
import { buildTwin } from './build.ts';
import { type JointAnswer, jointly } from './joint.ts';
import type { Twin } from './twin.ts';
import { judgeAll } from './verdict.ts';

function answer(world: SyntheticWorld): JointAnswer & { twin: Twin } {
  const built = buildTwin(syntheticCapture(world));
  if (!built.ok) throw new Error(built.error.message);
  return { ...jointly(built.value, judgeAll(built.value)), twin: built.value };
}

const blocks = Array.from({ length: 6 }, (_, k) => ({ id: 32 + k }));
const fill = (block: number, frames: number, word: readonly [number, number]) => [pfnOf(block), frames, word] as const;

describe('jointly', () => {
  it('T35 blocks that cost nothing go first, from the highest address down', () => {
    const { order, bytes, pagesToMigrate } = answer({
      blocks,
      frames: [fill(37, 100, WORD.anon), fill(34, 1, WORD.slab)],
    });
    expect(order.slice(0, 4)).toEqual([36, 35, 33, 32]);
    expect(order).not.toContain(34);
    expect(bytes).toBe(order.length * 2 ** 27);
    expect(pagesToMigrate.value).toBe(order.includes(37 as never) ? 100 : 0);
  });

  it('T36 it stops before less is free than the high watermarks ask for, and says so', () => {
    const all = answer({ blocks, frames: [fill(32, 1, WORD.slab)] });
    expect(all.order).toEqual([37, 36, 35, 34, 33]);
    expect(all.stoppedBy).toBe('all blocks that can go one by one can also go together');
    const kept = answer({ blocks, frames: [fill(32, 1, WORD.slab)], min: { '0 Normal': 30_000 } });
    expect(kept.order).toEqual([37, 36, 35, 34]); // high is 45000: two blocks stay
    expect(kept.stoppedBy).toMatch(
      /^free memory: after 4 blocks 65 535 pages are free, and 45 0\d\d have to stay free/,
    );
  });

  it('T36 pages of one block take the room of the next: each alone is yes, together they are fewer', () => {
    const world: SyntheticWorld = {
      blocks,
      frames: [32, 33, 34, 35, 36].map((b) => fill(b, 20_000, WORD.anon)),
    };
    const { order, twin, stoppedBy, pagesToMigrate } = answer(world);
    expect(judgeAll(twin).filter((v) => v.verdict === 'yes')).toHaveLength(6);
    // 196608 frames, 100000 in use: at most two blocks' worth and a half can leave.
    expect(order).toEqual([37, 36]);
    expect(pagesToMigrate.value).toBe(20_000);
    expect(stoppedBy).toMatch(/^free memory: after 2 blocks 31 072 pages/);
  });

  it('T37 the twin that is asked stays as it was', () => {
    const { twin } = answer({ blocks, frames: [fill(37, 100, WORD.anon)] });
    if (twin.level !== 'pages') throw new Error('no pages');
    const before = twin.machine.digest();
    jointly(twin, judgeAll(twin));
    expect(twin.machine.digest()).toBe(before);
  });

  it('T38 what would raise the total is told: page cache, slab, pins, root', () => {
    const { wouldRaise } = answer({
      blocks,
      frames: [
        fill(32, 8000, WORD.cache),
        fill(33, 1, WORD.slab),
        fill(34, 200, WORD.pinned),
        fill(35, 9, WORD.reserved),
      ],
    });
    expect(wouldRaise.join('\n')).toContain('dropping the page cache frees 8 000 clean pages');
    expect(wouldRaise.join('\n')).toMatch(/1 block.* held by slab pages alone/);
    expect(wouldRaise.join('\n')).toMatch(/1 block.* may go once what looks pinned is let go/);
    expect(answer({ blocks, hide: ['/proc/kpageflags'] }).wouldRaise).toEqual([
      'reading as root tells which pages are where (/proc/kpageflags)',
    ]);
  });

  it('T39 without page flags the total is an upper bound, and is called one', () => {
    const { order, stoppedBy } = answer({
      blocks: [{ id: 32 }, { id: 33, zone: 'Movable' }],
      hide: ['/proc/kpageflags'],
    });
    expect(order).toEqual([33]);
    expect(stoppedBy).toMatch(/^an upper bound/);
  });
});
