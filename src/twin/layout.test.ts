import { describe, expect, it } from 'vitest';
import { type NodeId, toBlockId, toNodeId } from '#base/units';
import { runsOf } from '#capture/page-runs';
import type { MemoryBlock } from '#kernfs/memory-blocks';
import type { ZoneinfoZone } from '#kernfs/zoneinfo';
import { ZONE_NAMES } from '#mm/index';
import { type FrameRange, ramFromFlags, ramRanges, zoneIndexOf } from './layout.ts';

const P = 32768; // frames of a block

const zone = (node: number, name: string, startPfn: number, endPfn: number): ZoneinfoZone => ({
  node: toNodeId(node),
  zone: name,
  free: 0,
  min: 0,
  low: 0,
  high: 0,
  spanned: endPfn - startPfn,
  present: endPfn - startPfn,
  managed: endPfn - startPfn,
  protection: [],
  stats: [],
  pagesets: [],
  startPfn,
});

const block = (
  id: number,
  zones: readonly string[],
  nodes: readonly number[] = [0],
  state = 'online',
): MemoryBlock => ({
  id: toBlockId(id),
  state,
  validZones: zones,
  nodes: nodes.map((n): NodeId => toNodeId(n)),
});

/** "start-end node zone", in blocks, to be read at a glance. */
function layOut(ram: readonly FrameRange[], blocks: readonly MemoryBlock[], zones: readonly ZoneinfoZone[]): string[] {
  return ramRanges(ram, { blockSizeBytes: P * 4096, blocks }, zones).map(
    (r) => `${r.start / P}-${r.end / P} n${r.node} ${ZONE_NAMES[r.zone ?? 2]}${r.offline === true ? ' offline' : ''}`,
  );
}

describe('layout', () => {
  it('T5 neighbours of one node and zone are one range', () => {
    const zones = [zone(0, 'Normal', 32 * P, 34 * P), zone(0, 'Movable', 34 * P, 35 * P)];
    const blocks = [block(32, ['Normal']), block(33, ['Normal']), block(34, ['Movable'])];
    expect(layOut([{ startPfn: 32 * P, endPfn: 35 * P }], blocks, zones)).toEqual([
      '32-34 n0 Normal',
      '34-35 n0 Movable',
    ]);
  });

  it('T6 a block without a zone of its own is cut where the spans say', () => {
    const zones = [zone(0, 'Normal', 32 * P, 33.25 * P), zone(0, 'Movable', 33.25 * P, 35 * P)];
    const blocks = [block(32, ['Normal']), block(33, []), block(34, ['Movable'])];
    expect(layOut([{ startPfn: 32 * P, endPfn: 35 * P }], blocks, zones)).toEqual([
      '32-33.25 n0 Normal',
      '33.25-35 n0 Movable',
    ]);
  });

  it('T6 a block of two nodes is cut between them', () => {
    const zones = [zone(0, 'Normal', 32 * P, 32.5 * P), zone(1, 'Normal', 32.5 * P, 33 * P)];
    expect(layOut([{ startPfn: 32 * P, endPfn: 33 * P }], [block(32, [], [0, 1])], zones)).toEqual([
      '32-32.5 n0 Normal',
      '32.5-33 n1 Normal',
    ]);
  });

  it('T7 the zone that the block names beats a span that reaches over it', () => {
    // A kernel zone that spans a Movable block, as after blocks were onlined in turns.
    const zones = [zone(1, 'Normal', 32 * P, 35 * P), zone(1, 'Movable', 33 * P, 34 * P)];
    const blocks = [block(32, ['Normal'], [1]), block(33, ['Movable'], [1]), block(34, ['Normal'], [1])];
    expect(layOut([{ startPfn: 32 * P, endPfn: 35 * P }], blocks, zones)).toEqual([
      '32-33 n1 Normal',
      '33-34 n1 Movable',
      '34-35 n1 Normal',
    ]);
  });

  it('T8 holes stay holes, and RAM outside of all blocks is left out', () => {
    const ram = [
      { startPfn: 0, endPfn: 8 * P }, // nothing lists blocks 0 to 7
      { startPfn: 32 * P, endPfn: 32.5 * P },
      { startPfn: 32.75 * P, endPfn: 33 * P },
    ];
    expect(layOut(ram, [block(32, ['Normal'])], [zone(0, 'Normal', 32 * P, 33 * P)])).toEqual([
      '32-32.5 n0 Normal',
      '32.75-33 n0 Normal',
    ]);
  });

  it('T9 an offline block is laid out as offline, on its node', () => {
    const blocks = [block(32, ['Normal']), block(33, ['Normal', 'Movable'], [1], 'offline')];
    expect(layOut([{ startPfn: 32 * P, endPfn: 34 * P }], blocks, [zone(0, 'Normal', 32 * P, 33 * P)])).toEqual([
      '32-33 n0 Normal',
      '33-34 n1 Normal offline',
    ]);
  });

  it('T10 without /proc/iomem, RAM is where frames have flags', () => {
    const flags = runsOf([
      [1 << 20, 0, 10],
      [0x400, 0, 5],
      [0, 0, 5],
      [1 << 20, 0, 3],
      [0x80, 0, 7],
    ]);
    const none = { blockSizeBytes: P * 4096, blocks: [] };
    expect(ramFromFlags(flags, none)).toEqual([
      { startPfn: 10, endPfn: 20 },
      { startPfn: 23, endPfn: 30 },
    ]);
  });

  it('T10 without /proc/iomem, an offline block is RAM, though its frames have no flags', () => {
    const flags = runsOf([
      [1 << 20, 0, P],
      [0x400, 0, P],
      [1 << 20, 0, 2 * P],
    ]);
    const blocks = [block(1, ['Normal']), block(2, ['Normal', 'Movable'], [0], 'offline')];
    expect(ramFromFlags(flags, { blockSizeBytes: P * 4096, blocks })).toEqual([{ startPfn: P, endPfn: 3 * P }]);
  });

  it('T5 only the four zones of the engine have an index', () => {
    expect(['DMA', 'DMA32', 'Normal', 'Movable'].map(zoneIndexOf)).toEqual([0, 1, 2, 3]);
    expect(['none', 'Device', undefined].map(zoneIndexOf)).toEqual([undefined, undefined, undefined]);
  });
});
