import { describe, expect, it } from 'vitest';
import { goldenFolder, goldenText } from '../../test/golden/kernfs/load.ts';
import { parseIomem, systemRamPfnRanges } from './iomem.ts';
import { isLabSnapshot, labProblems, labTree } from './lab-snapshot.ts';
import { readMemoryBlocks } from './memory-blocks.ts';
import { treeFromFiles } from './memory-tree.ts';
import { parseZoneinfo } from './zoneinfo.ts';

const FOLDER = 'guest-6.1-mixed-online';
const tree = labTree(goldenFolder(FOLDER));
const withBlocks = (text: string) =>
  treeFromFiles(
    new Map([
      ['/memory/blocks.txt', text],
      ['/zoneinfo', 'x\n'],
    ]),
  );

describe('lab snapshot', () => {
  it('is told by its block table; a live root and an empty folder are none', () => {
    expect(isLabSnapshot(goldenFolder(FOLDER))).toBe(true);
    expect(isLabSnapshot(tree)).toBe(false);
    expect(isLabSnapshot(treeFromFiles(new Map([['/memory/blocks.txt', '']])))).toBe(false);
    expect(isLabSnapshot(treeFromFiles(new Map()))).toBe(false);
  });
  it('files of /proc, /sys and the parameters are where a live machine has them', () => {
    expect(tree.readText('/proc/zoneinfo')).toBe(goldenText(`${FOLDER}/zoneinfo`));
    expect(tree.readText('/sys/devices/system/node/node1/meminfo')).toBe(goldenText(`${FOLDER}/node/node1/meminfo`));
    expect(tree.readText('/sys/devices/system/memory/block_size_bytes')).toBe('8000000\n');
    expect(tree.readText('/sys/module/memory_hotplug/parameters/online_policy')).toBe('contig-zones\n');
    expect(tree.readText('/sys/devices/system/memory/blocks.txt')).toBeUndefined();
    expect(tree.readText('/zoneinfo')).toBeUndefined();
  });
  it('the folder may call the parameters params', () => {
    expect(labTree(goldenFolder('host-6.18')).readText('/sys/module/memory_hotplug/parameters/memmap_on_memory')).toBe(
      'N\n',
    );
  });
  it('the block table becomes directories, its node links names on both sides', () => {
    expect(tree.readText('/sys/devices/system/memory/memory34/valid_zones')).toBe('Movable\n');
    expect(tree.list('/sys/devices/system/memory/memory34')).toEqual([
      'node1',
      'phys_device',
      'phys_index',
      'removable',
      'state',
      'valid_zones',
    ]);
    expect(tree.list('/sys/devices/system/node/node1')).toContain('memory34');
    expect(tree.list('/sys/devices/system/node/node0')).not.toContain('memory34');
  });
  it('write-only files are names without text: what cat said about them is not their text', () => {
    expect(tree.list('/sys/devices/system/memory')).toContain('soft_offline_page');
    expect(tree.readText('/sys/devices/system/memory/soft_offline_page')).toBeUndefined();
  });
  it('an empty cell is an absent file; further cells are ignored; CRLF reads like LF', () => {
    const one = labTree(withBlocks('block|...\r\nmemory5|online||1|0|00000005|node0 node1 |node0 power\r\n'));
    expect(one.list('/sys/devices/system/memory/memory5')).toEqual([
      'node0',
      'node1',
      'phys_device',
      'phys_index',
      'removable',
      'state',
    ]);
    expect(one.readText('/sys/devices/system/memory/memory5/state')).toBe('online\n');
  });
  it('one machine, several files: its system RAM is the present pages of its zones and its offline blocks', () => {
    for (const folder of [FOLDER, 'guest-6.12-memmap-on-memory', 'guest-6.1-65g']) {
      const own = labTree(goldenFolder(folder));
      const zones = parseZoneinfo(own.readText('/proc/zoneinfo') ?? '');
      const iomem = parseIomem(own.readText('/proc/iomem') ?? '');
      const memory = readMemoryBlocks(own);
      expect([zones.ok, iomem.ok, memory.ok], folder).toEqual([true, true, true]);
      if (!zones.ok || !iomem.ok || !memory.ok) continue;
      const ramPages = systemRamPfnRanges(iomem.value).reduce((sum, r) => sum + r.endPfn - r.startPfn, 0);
      const presentPages = zones.value.reduce((sum, z) => sum + z.present, 0);
      const offline = memory.value.blocks.filter((b) => b.state === 'offline').length;
      expect(ramPages, folder).toBe(presentPages + offline * (memory.value.blockSizeBytes / 4096));
    }
  });
  it('KF3 rows that are none are left out and named', () => {
    const flat = withBlocks(
      'block|\nmemory1|online|Normal|1|0|00000001|node0\nmemory1|online|Normal|1|0|00000001|\nmemory2|onl\n',
    );
    expect(labTree(flat).list('/sys/devices/system/memory')).toEqual(['memory1']);
    expect(labProblems(flat)).toEqual([
      { file: '/memory/blocks.txt', line: 3, reason: 'memory1 was given before' },
      { file: '/memory/blocks.txt', line: 4, reason: '"memory2|onl" is not a row of 7 cells' },
    ]);
    expect(labProblems(goldenFolder(FOLDER))).toEqual([]);
  });
});
