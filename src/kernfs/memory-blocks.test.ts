import { describe, expect, it } from 'vitest';
import { assert } from '#base/assert';
import { toBlockId } from '#base/units';
import { goldenFolder } from '../../test/golden/kernfs/load.ts';
import { labTree } from './lab-snapshot.ts';
import {
  blockName,
  MEMORY_DIR,
  printAutoOnlineBlocks,
  printBlockSizeBytes,
  printMemoryBlock,
  printPhysIndex,
  printValidZones,
  readMemoryBlocks,
} from './memory-blocks.ts';
import { treeFromFiles } from './memory-tree.ts';
import type { KernTree } from './source.ts';
import { formatProblem } from './text.ts';

function of(tree: KernTree) {
  const blocks = readMemoryBlocks(tree);
  assert(blocks.ok, 'the tree is sound', { problem: blocks.ok ? '' : formatProblem(blocks.error) });
  return blocks.value;
}
const refusal = (files: Record<string, string | undefined>) => {
  const tree = treeFromFiles(new Map(Object.entries(files).map(([name, text]) => [`${MEMORY_DIR}/${name}`, text])));
  const blocks = readMemoryBlocks(tree);
  return blocks.ok ? undefined : formatProblem(blocks.error);
};
const SIZE = { block_size_bytes: '8000000\n' };

describe('memory blocks', () => {
  it('a mixed DIMM: sizes, states, zones and nodes', () => {
    const { blockSizeBytes, autoOnlineBlocks, blocks } = of(labTree(goldenFolder('guest-6.1-mixed-online')));
    expect([blockSizeBytes, autoOnlineBlocks, blocks.length]).toEqual([128 * 2 ** 20, 'offline', 24]);
    expect(blocks[0]).toEqual({ id: 0, state: 'online', validZones: [], removable: true, physDevice: 0, nodes: [0] });
    expect(blocks.filter((b) => b.id >= 32).map((b) => b.validZones?.join(' '))).toEqual([
      'Normal',
      'Normal',
      'Movable',
      'Normal',
      'Normal',
      'Normal',
      'Movable',
      'Movable',
    ]);
  });
  it('blocks come sorted by number although names sort otherwise: 9 before 10', () => {
    const ids = of(labTree(goldenFolder('guest-6.1-65g'))).blocks.map((b) => Number(b.id));
    expect(ids).toEqual([...ids].sort((a, b) => a - b));
    expect(ids.indexOf(9)).toBeLessThan(ids.indexOf(10));
    expect(ids.includes(2)).toBe(false);
  });
  it('65 GiB of boot memory under a hypervisor makes blocks of 1 GiB', () => {
    expect(of(labTree(goldenFolder('guest-6.1-65g'))).blockSizeBytes).toBe(2 ** 30);
  });
  it('KF1 the files of every golden block print back', () => {
    for (const folder of ['guest-6.1-mixed-online', 'guest-6.12-memmap-on-memory', 'guest-6.1-65g']) {
      const tree = labTree(goldenFolder(folder));
      const { blocks, blockSizeBytes, autoOnlineBlocks } = of(tree);
      expect(printBlockSizeBytes(blockSizeBytes)).toBe(tree.readText(`${MEMORY_DIR}/block_size_bytes`));
      expect(autoOnlineBlocks && printAutoOnlineBlocks(autoOnlineBlocks)).toBe(
        tree.readText(`${MEMORY_DIR}/auto_online_blocks`),
      );
      for (const block of blocks) {
        const dir = `${MEMORY_DIR}/${blockName(block.id)}`;
        const printed = printMemoryBlock(block);
        expect([...printed.keys()].sort()).toEqual(tree.list(dir));
        for (const [name, text] of printed) expect(text, `${dir}/${name}`).toBe(tree.readText(`${dir}/${name}`));
      }
    }
  });
  it('exact texts, as 6.12 printed them: block 39 is 00000027, several zones keep their order', () => {
    expect(printPhysIndex(toBlockId(39))).toBe('00000027\n');
    expect(printValidZones(['Movable', 'Normal'])).toBe('Movable Normal\n');
    expect(printValidZones([])).toBe('none\n');
  });
  it('what a kernel may lack is tolerated, a block on two nodes has both', () => {
    const files = {
      ...SIZE,
      'memory3/state': 'going-offline\n',
      'memory3/node10': undefined,
      'memory3/node2': undefined,
    };
    const tree = treeFromFiles(new Map(Object.entries(files).map(([name, text]) => [`${MEMORY_DIR}/${name}`, text])));
    expect(of(tree)).toEqual({
      blockSizeBytes: 2 ** 27,
      blocks: [{ id: 3, state: 'going-offline', nodes: [2, 10] }],
    });
  });
  it('a word that a plain file kept is told as it is, not as a state of the kernel', () => {
    const tree = treeFromFiles(
      new Map([
        [`${MEMORY_DIR}/block_size_bytes`, '8000000'],
        [`${MEMORY_DIR}/memory3/state`, 'online_movable'],
      ]),
    );
    expect(of(tree).blocks[0].state).toBe('online_movable');
  });
  it('KF3 each refusal names its file', () => {
    expect(refusal({})).toBe(`${MEMORY_DIR}: there are no memory blocks: no CONFIG_MEMORY_HOTPLUG, or no sysfs`);
    expect(refusal({ 'memory0/state': 'online\n' })).toBe(`${MEMORY_DIR}/block_size_bytes: the file is absent`);
    for (const size of ['0x8000000\n', '8000001\n', '1000\n', '\n', '134217729\n']) {
      expect(refusal({ block_size_bytes: size }), size).toMatch(/block_size_bytes, line 1: expected a power of two/);
    }
    expect(refusal({ ...SIZE, auto_online_blocks: 'always\n' })).toMatch(
      /auto_online_blocks, line 1: expected offline, online/,
    );
    expect(refusal({ ...SIZE, 'memory3/valid_zones': 'none\n' })).toBe(
      `${MEMORY_DIR}/memory3/state: the state could not be read: was the block removed?`,
    );
    const block = { ...SIZE, 'memory3/state': 'online\n' };
    expect(refusal({ ...SIZE, 'memory3/state': 'ON LINE\n' })).toMatch(/memory3\/state, line 1: expected a state/);
    expect(refusal({ ...block, 'memory3/phys_index': '00000004\n' })).toBe(
      `${MEMORY_DIR}/memory3/phys_index, line 1: expected 00000003, the number of this block, found "00000004\\n"`,
    );
    expect(refusal({ ...block, 'memory3/valid_zones': 'Normal,Movable\n' })).toMatch(/expected zone names or none/);
    expect(refusal({ ...block, 'memory3/removable': '2\n' })).toMatch(/expected 0 or 1/);
    expect(refusal({ ...block, 'memory3/phys_device': 'x\n' })).toMatch(/expected a number/);
  });
});
