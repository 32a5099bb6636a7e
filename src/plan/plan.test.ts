// Conditions and actions of a plan, looked up in an observation and said for people. Rules: docs/spec/planner.md.

import { describe, expect, it } from 'vitest';
import type { Observation } from './observation.ts';
import { type Action, type Condition, freeChunks, holds, sayAction, sayCondition } from './plan.ts';
import { drawnWorld, GIB, MIB } from './worlds.cases.ts';

const bare = drawnWorld({ blocks: [{ id: 8 }, { id: 9, state: 'offline' }] }).observation;
const full: Observation = {
  ...drawnWorld(
    { blocks: [{ id: 8 }, { id: 32, zone: 'Movable', node: 1 }, { id: 33, state: 'offline', node: 1 }] },
    {
      balloon: GIB,
      dimms: [{ id: 'd0', addr: 4 * GIB, size: 256 * MIB, node: 1 }],
      virtioMem: [{ id: 'vm0', addr: 8 * GIB, size: 2 * MIB, requested: 4 * MIB, node: 1, maxSize: GIB }],
    },
  ).observation,
  autoOnline: 'offline',
  free: [{ node: 0, zone: 'Normal', nrFree: [5, 0, 0, 0, 0, 0, 0, 0, 0, 3, 2] }],
  hugePages: [
    { node: 0, bytes: 2 * MIB, total: 3, free: 1 },
    { node: 1, bytes: 2 * MIB, total: 4, free: 4 },
  ],
};

describe('a condition', () => {
  it.each<[Condition, boolean | undefined, boolean | undefined]>([
    [{ is: 'block', block: 32, state: 'online', zone: 'Movable' }, true, false],
    [{ is: 'block', block: 32, state: 'online', zone: 'Normal' }, false, false],
    [{ is: 'block', block: 33, state: 'offline' }, true, false],
    [{ is: 'block', block: 99, state: 'offline' }, false, false],
    [{ is: 'blocks', first: 32, last: 33, present: true }, true, false],
    [{ is: 'blocks', first: 33, last: 34, present: true }, false, false],
    [{ is: 'blocks', first: 33, last: 34, present: false }, false, true],
    [{ is: 'dimm', id: 'd0', present: true }, true, undefined],
    [{ is: 'dimm', id: 'd1', present: false }, true, undefined],
    [{ is: 'virtio-mem', id: 'vm0', requested: 4 * MIB }, true, undefined],
    [{ is: 'virtio-mem', id: 'vm0', requested: 4 * MIB, size: 4 * MIB }, false, undefined],
    [{ is: 'virtio-mem', id: 'vm1', size: 0 }, false, undefined],
    [{ is: 'balloon', bytes: GIB }, true, undefined],
    [{ is: 'free-chunks', order: 9, atLeast: 7 }, true, true],
    [{ is: 'free-chunks', order: 9, atLeast: 8 }, false, true],
    [{ is: 'hugepages', pageBytes: 2 * MIB, atLeast: 7 }, true, undefined],
    [{ is: 'hugepages', node: 0, pageBytes: 2 * MIB, atLeast: 4 }, false, undefined],
    [{ is: 'auto-online', word: 'offline' }, true, undefined],
  ])('PN17 holds, does not, or cannot be told: %j', (c, here, there) => {
    expect(holds(c, full)).toBe(here);
    expect(holds(c, bare)).toBe(there);
    expect(sayCondition(c)).toMatch(/^\S.* (is|are|leaves|has) .*\S$/);
  });

  it('PN17 larger chunks count as what they split into', () => {
    expect([0, 9, 10].map((order) => freeChunks(full, order))).toEqual([5 + 3 * 512 + 2 * 1024, 7, 2]);
  });
});

describe('an action', () => {
  it.each<[Action, string]>([
    [{ do: 'offline-block', block: 34 }, 'offline block 34'],
    [{ do: 'online-block', block: 34, zone: 'movable' }, 'online block 34 (movable)'],
    [{ do: 'online-block', block: 34, zone: 'default' }, 'online block 34'],
    [{ do: 'remove-dimm', id: 'd0', memdev: 'm0' }, 'remove DIMM d0'],
    [{ do: 'resize-virtio-mem', id: 'v', bytes: 0 }, 'ask virtio-mem device v for 0 bytes'],
    [{ do: 'balloon', bytes: 8 }, 'set the balloon to 8 bytes'],
    [{ do: 'drop-caches', what: 3 }, 'drop caches (3)'],
    [{ do: 'compact', node: 1 }, 'compact node 1'],
    [{ do: 'compact' }, 'compact all memory'],
    [{ do: 'set-hugepages', pageBytes: 2 * MIB, pages: 3 }, 'put 3 huge pages of 2097152 bytes into the pool'],
    [{ do: 'auto-online', word: 'offline' }, 'set auto_online_blocks to offline'],
    [{ do: 'add-dimm', id: 'd', memdev: 'm', bytes: 1, node: 0, addr: 0 }, 'add DIMM d of 1 bytes on node 0'],
  ])('PN17 is said for people: %j', (a, text) => {
    expect(sayAction(a)).toBe(text);
  });
});
