import { describe, expect, it } from 'vitest';
import { goldenFolder } from '../../test/golden/kernfs/load.ts';
import { labTree } from './lab-snapshot.ts';
import { meminfoKb } from './meminfo.ts';
import { treeFromFiles } from './memory-tree.ts';
import { NODE_DIR, printDistances, printListFile, readNodes } from './nodes.ts';
import { formatProblem } from './text.ts';

const read = (files: Record<string, string | undefined>) =>
  readNodes(treeFromFiles(new Map(Object.entries(files).map(([name, text]) => [`${NODE_DIR}/${name}`, text]))));
const refusal = (files: Record<string, string | undefined>) => {
  const nodes = read(files);
  return nodes.ok ? undefined : formatProblem(nodes.error);
};

describe('nodes', () => {
  const tree = labTree(goldenFolder('guest-6.1-mixed-online'));
  const nodes = readNodes(tree);
  it('sets, CPUs, distances, meminfo and block links of a machine with two nodes', () => {
    expect(nodes.ok).toBe(true);
    if (!nodes.ok) return;
    expect(nodes.value).toMatchObject({
      online: [0, 1],
      possible: [0, 1],
      hasMemory: [0, 1],
      hasNormalMemory: [0, 1],
      hasCpu: [0, 1],
    });
    expect(nodes.value.nodes.map((n) => [n.id, n.cpus, n.distances])).toEqual([
      [0, [0], [10, 20]],
      [1, [1], [20, 10]],
    ]);
    const meminfo = nodes.value.nodes[1].meminfo;
    expect(meminfo && meminfoKb(meminfo, 'MemTotal')).toBeGreaterThan(0);
    expect(nodes.value.nodes[1].blocks).toEqual([8, 9, 10, 11, 12, 13, 14, 15, 32, 33, 34, 35, 36, 37, 38, 39]);
  });
  it('KF1 lists and distances print back', () => {
    expect(nodes.ok).toBe(true);
    if (!nodes.ok) return;
    expect(printListFile(nodes.value.online ?? [])).toBe(tree.readText(`${NODE_DIR}/online`));
    for (const node of nodes.value.nodes) {
      expect(printDistances(node.distances ?? [])).toBe(tree.readText(`${NODE_DIR}/node${node.id}/distance`));
      expect(printListFile(node.cpus ?? [])).toBe(tree.readText(`${NODE_DIR}/node${node.id}/cpulist`));
    }
  });
  it('a kernel without NUMA has no nodes; a node without CPUs has an empty list', () => {
    expect(read({})).toEqual({ ok: true, value: { nodes: [] } });
    expect(read({ 'node2/cpulist': '\n' })).toEqual({ ok: true, value: { nodes: [{ id: 2, cpus: [], blocks: [] }] } });
  });
  it('nodes and their blocks come sorted by number, not by name', () => {
    const nodes = read({ 'node10/memory100': undefined, 'node10/memory20': undefined, 'node2/memory3': undefined });
    expect(nodes.ok && nodes.value.nodes).toEqual([
      { id: 2, blocks: [3] },
      { id: 10, blocks: [20, 100] },
    ]);
  });
  it('KF3 each refusal names its file', () => {
    expect(refusal({ online: '0-x\n' })).toMatch(/node\/online, line 1: "0-x" is not a number/);
    expect(refusal({ possible: '0-1024\n' })).toBe(`${NODE_DIR}/possible, line 1: node numbers end at 1023`);
    expect(refusal({ 'node0/cpulist': 'all\n' })).toMatch(/node0\/cpulist, line 1: /);
    expect(refusal({ 'node0/distance': '\n' })).toMatch(/node0\/distance, line 1: expected distances/);
    expect(refusal({ 'node0/meminfo': 'Node 1 MemTotal:  1 kB\n' })).toBe(
      `${NODE_DIR}/node0/meminfo, line 1: the file is not about node 0`,
    );
    expect(refusal({ 'node0/meminfo': '' })).toBe(`${NODE_DIR}/node0/meminfo: the file is empty`);
  });
});
