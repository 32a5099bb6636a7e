// Frames of `top`: what is in them, at each size of a terminal.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import {
  cellOf,
  type FrameLine,
  frame,
  moveChoice,
  nextBlocks,
  shownOrder,
  type TopBlock,
  type TopModel,
  topRows,
} from './top.ts';

const plain = (lines: readonly FrameLine[]): string[] => lines.map((l) => l.map((s) => s.text).join(''));

const block = (id: number, zone: string | undefined, more: Partial<TopBlock> = {}): TopBlock => ({
  id,
  state: 'online',
  zone,
  node: 0,
  verdict: undefined,
  changed: false,
  ...more,
});

const MODEL: TopModel = {
  name: 'qemu:/run/vm.qmp',
  time: '13:10:22',
  blockBytes: 2 ** 27,
  memTotal: 2 ** 31,
  memFree: 2 ** 30,
  blocks: [
    block(0, undefined, { verdict: 'no' }),
    block(1, 'DMA32', { verdict: 'yes' }),
    block(2, 'DMA32', { verdict: 'maybe' }),
    block(3, 'DMA32'),
    block(8, 'DMA32', { node: 1, verdict: 'no' }),
    block(32, 'Movable', { node: 1, state: 'going-offline', changed: true }),
    block(33, undefined, { node: 1, state: 'offline' }),
  ],
  zones: [
    { node: 0, zone: 'DMA', nrFree: [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3] },
    { node: 0, zone: 'DMA32', nrFree: [0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 100] },
    { node: 1, zone: 'DMA32', nrFree: [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
  ],
  notes: ['verdicts of 13:10:15'],
  devices: ['dimm1: 256M on node 1, slot 0'],
  lines: ['13:10:20 memory32 online Movable -> going-offline', '13:10:21 MEMORY_DEVICE_SIZE_CHANGE {"id":"vm0"}'],
  keys: 'q quit',
};

describe('a frame', () => {
  it('LT1 has a row for each zone of a node, a cell for each block, and what is free', () => {
    expect(plain(frame(MODEL, { width: 78 }))).toMatchInlineSnapshot(`
      [
        "qemu:/run/vm.qmp                                                      13:10:22",
        "2G, 1G free; 7 blocks of 128M: 5 online, 1 offline, 1 going-offline; verdicts",
        "  of 13:10:15",
        "",
        "node 0, DMA: 14M free, 1 of order 9, 3 of order 10",
        "node 0, DMA32: 3 blocks, 1 would go; 424M free, 12 of order 9, 100 of order 10",
        "✓?#",
        "node 0, no one zone: 1 block, 0 would go",
        "✗",
        "node 1, DMA32: 1 block, 0 would go; 28K free, 0 of order 9, 0 of order 10",
        "✗",
        "node 1, Movable: 1 block",
        ">",
        "node 1, offline: 1 block",
        "o",
        "",
        "> going offline  ✗ would not go  ? might go  # not judged yet  ✓ would go  o …",
        "dimm1: 256M on node 1, slot 0",
        "",
        "13:10:20 memory32 online Movable -> going-offline",
        "13:10:21 MEMORY_DEVICE_SIZE_CHANGE {"id":"vm0"}",
        "q quit",
      ]
    `);
  });

  it('LT1 every block is in exactly one row, offline ones in a row of their own, zones ordered by address', () => {
    expect(topRows(MODEL).map((r) => `${r.node}/${r.zone}: ${r.blocks.map((b) => b.id)}`)).toEqual([
      '0/DMA: ',
      '0/DMA32: 1,2,3',
      '0/no one zone: 0',
      '1/DMA32: 8',
      '1/Movable: 32',
      '1/offline: 33',
    ]);
    expect(shownOrder(MODEL)).toEqual([1, 2, 3, 0, 8, 32, 33]);
    const odd = { zones: [], blocks: [block(1, 'Odd'), block(2, 'Normal'), block(3, undefined, { state: 'offline' })] };
    expect(topRows(odd).map((r) => r.zone)).toEqual(['Normal', 'offline', 'Odd']);
  });

  it('LT2 a cell says state and verdict: only an online block has a verdict', () => {
    expect(cellOf({ state: 'online', verdict: 'yes' })).toBe('yes');
    expect(cellOf({ state: 'online', verdict: undefined })).toBe('unjudged');
    expect(cellOf({ state: 'offline', verdict: 'yes' })).toBe('offline');
    expect(cellOf({ state: 'going-offline', verdict: 'yes' })).toBe('going');
    expect(cellOf({ state: 'online_movable', verdict: undefined })).toBe('other');
  });

  it('LT3 what does not fit: a cell stands for several blocks and shows the one that needs most attention', () => {
    const many = Array.from({ length: 1000 }, (_, id) =>
      block(id, 'Normal', { verdict: id === 501 ? 'maybe' : 'yes' }),
    );
    const lines = plain(
      frame({ ...MODEL, blocks: many, zones: [], devices: [], lines: [] }, { width: 50, height: 12 }),
    );
    expect(lines.length).toBeLessThanOrEqual(12);
    expect(lines.find((l) => l.includes('a cell is'))).toMatch(/^a cell is 8 blocks: \? might go {2}✓ would go/);
    const cells = lines.filter((l) => /^[✓?]+$/.test(l)).join('');
    expect(cells.length).toBe(125);
    expect(cells.indexOf('?')).toBe(Math.floor(501 / 8));
    expect(cells.replaceAll('✓', '')).toBe('?');
  });

  it('LT3 the lines of a frame never exceed width and height, whatever there is to show', () => {
    for (let seed = 1; seed <= 60; seed++) {
      const prng = new Prng(seed);
      const pick = <T>(of: readonly T[]): T => of[prng.below(of.length)] as T;
      const blocks = Array.from({ length: prng.below(300) }, (_, k) =>
        block(3 * k + prng.below(3), pick(['DMA32', 'Normal', 'Movable', undefined]), {
          state: pick(['online', 'online', 'offline', 'going-offline', 'x'.repeat(30)]),
          node: prng.below(3),
          verdict: pick(['yes', 'no', 'maybe', undefined]),
          changed: prng.below(5) === 0,
        }),
      );
      const model: TopModel = {
        ...MODEL,
        name: `qemu:/${'long/'.repeat(prng.below(20))}`,
        blocks,
        lines: Array.from({ length: prng.below(40) }, (_, k) => `line ${k} \x1b[31m${'word '.repeat(prng.below(40))}`),
        devices: Array.from({ length: prng.below(4) }, (_, k) => `device ${k}`),
        ...(prng.below(2) === 0
          ? {}
          : { chosen: { block: prng.below(900), says: ['because '.repeat(prng.below(30))] } }),
      };
      const width = 20 + prng.below(150);
      const height = 1 + prng.below(60);
      for (const size of [{ width }, { width, height }]) {
        const lines = plain(frame(model, size));
        const about = `seed=${seed} ${JSON.stringify(size)}`;
        expect(Math.max(0, ...lines.map((l) => [...l].length)), about).toBeLessThanOrEqual(width);
        if ('height' in size) expect(lines.length, about).toBeLessThanOrEqual(height);
        else expect(lines.filter((l) => l.startsWith('line ')).length, about).toBe(model.lines.length);
        expect(lines.join('').includes('\x1b'), about).toBe(false);
        expect(plain(frame(model, size)), about).toEqual(lines);
      }
    }
  });

  it('LT3 of the events the latest are shown, and the keys stay', () => {
    const lines = Array.from({ length: 50 }, (_, k) => `event ${k}`);
    const shown = plain(frame({ ...MODEL, lines }, { width: 78, height: 24 }));
    expect(shown).toHaveLength(24);
    expect(shown[23]).toBe('q quit');
    expect(shown[22]).toBe('event 49');
    expect(shown).not.toContain('event 0');
  });

  it('LT4 the chosen block is told apart and described; one that has left is gone', () => {
    const chosen = { block: 2, says: ['a page is pinned'] };
    const lines = frame({ ...MODEL, chosen }, { width: 78 });
    expect(lines.flat().filter((s) => s.look === 'chosen')).toEqual([{ text: '?', look: 'chosen' }]);
    expect(plain(lines)).toContain('block 2, 0x10000000-0x17ffffff, node 0, DMA32, online: might go');
    expect(plain(lines)).toContain('a page is pinned');
    expect(plain(frame({ ...MODEL, chosen: { block: 99, says: [] } }, { width: 78 }))).toContain('block 99 is gone');
  });
});

describe('from look to look', () => {
  const seen = (id: number, state: string, zone?: string) => ({ id, state, zone, nodes: [1] });

  it('LT5 a block that is going offline stays in its row; what changed is marked once', () => {
    const first = nextBlocks(undefined, [seen(1, 'online', 'Movable'), seen(2, 'offline')], new Map());
    expect(first.map((b) => b.changed)).toEqual([false, false]);
    const going = nextBlocks(first, [seen(1, 'going-offline'), seen(2, 'offline'), seen(3, 'offline')], new Map());
    expect(going).toMatchObject([
      { zone: 'Movable', changed: true, node: 1 },
      { changed: false },
      { id: 3, changed: true },
    ]);
    const still = nextBlocks(going, [seen(1, 'going-offline'), seen(3, 'offline')], new Map());
    expect(still).toMatchObject([
      { zone: 'Movable', changed: false },
      { id: 3, changed: false },
    ]);
    expect(nextBlocks(still, [seen(1, 'offline')], new Map())).toMatchObject([{ zone: undefined, changed: true }]);
  });

  it('LT5 a verdict holds while its block is online in the zone in which it was judged', () => {
    const judged = new Map([[1, { verdict: 'yes', state: 'online', zone: 'Movable' } as const]]);
    const verdict = (state: string, zone?: string): unknown =>
      nextBlocks(undefined, [seen(1, state, zone)], judged)[0]?.verdict;
    expect(verdict('online', 'Movable')).toBe('yes');
    expect(verdict('online', 'Normal')).toBeUndefined();
    expect(verdict('offline')).toBeUndefined();
    expect(verdict('going-offline')).toBeUndefined();
  });

  it('LT4 arrows walk through the blocks as they are shown, and stop at the ends', () => {
    const rows = topRows(MODEL);
    const walk = (from: number | undefined, move: 'left' | 'right' | 'up' | 'down'): unknown =>
      moveChoice(rows, from, move);
    expect(walk(undefined, 'down')).toBe(1);
    expect([walk(1, 'right'), walk(3, 'right'), walk(0, 'right'), walk(33, 'right')]).toEqual([2, 0, 8, 33]);
    expect([walk(1, 'left'), walk(8, 'left')]).toEqual([1, 0]);
    expect([walk(3, 'down'), walk(0, 'down'), walk(33, 'down')]).toEqual([0, 8, 33]);
    expect([walk(1, 'up'), walk(0, 'up'), walk(32, 'up')]).toEqual([1, 1, 8]);
    expect(moveChoice([], undefined, 'left')).toBeUndefined();
  });
});
