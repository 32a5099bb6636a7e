import { describe, expect, it } from 'vitest';
import { treeFromFiles } from '#kernfs/memory-tree';
import { type NodeId, toNodeId } from '#mm/index';
import { numaOf } from './numa.ts';

const DIR = '/sys/devices/system/node';
const nodes = (...ids: number[]): NodeId[] => ids.map(toNodeId);
const tree = (files: Record<string, string>): ReturnType<typeof treeFromFiles> =>
  treeFromFiles(new Map(Object.entries(files).map(([name, text]) => [`${DIR}/${name}`, text])));

describe('T44 the distances and CPUs of nodes are those of the capture', () => {
  it('T44 rows and columns are the nodes that have RAM, whatever nodes there are', () => {
    const found = numaOf(
      tree({
        online: '0-2\n',
        'node0/distance': '10 21 31\n',
        'node0/cpulist': '0-1\n',
        'node1/distance': '21 10 21\n',
        'node1/cpulist': '\n',
        'node2/distance': '31 21 10\n',
        'node2/cpulist': '2-3,8\n',
      }),
      nodes(0, 2),
    );
    expect(found.distance).toEqual([
      [10, 31],
      [31, 10],
    ]);
    expect([...(found.nodeCpus ?? [])]).toEqual([
      [0, 2],
      [2, 3],
    ]);
  });

  it('T44 a missing distance leaves the defaults: half a table is none', () => {
    const found = numaOf(tree({ online: '0-1\n', 'node0/distance': '10 20\n', 'node1/cpulist': '0\n' }), nodes(0, 1));
    expect(found.distance).toBeUndefined();
    expect(found.nodeCpus?.get(toNodeId(1))).toBe(1);
  });

  it('T44 files that make no sense are not used', () => {
    expect(numaOf(tree({ online: 'all of them\n', 'node0/distance': '10\n' }), nodes(0))).toEqual({});
  });
});
