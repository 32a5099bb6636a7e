import { describe, expect, it } from 'vitest';
import { goldenFolder } from '../../test/golden/kernfs/load.ts';
import { labTree } from './lab-snapshot.ts';
import { MEMHP_PARAMS_DIR, printMemhpParams, readMemhpParams } from './memhp-params.ts';
import { treeFromFiles } from './memory-tree.ts';

const withFile = (name: string, text: string) =>
  readMemhpParams(treeFromFiles(new Map([[`${MEMHP_PARAMS_DIR}/${name}`, text]])));

describe('memory_hotplug parameters', () => {
  it('6.12 booted with memmap_on_memory=force says so', () => {
    expect(readMemhpParams(labTree(goldenFolder('guest-6.12-memmap-on-memory')))).toEqual({
      ok: true,
      value: {
        onlinePolicy: 'contig-zones',
        autoMovableRatio: 301,
        autoMovableNumaAware: true,
        memmapOnMemory: 'force',
      },
    });
  });
  it('KF1 the files print back', () => {
    for (const folder of ['guest-6.1-mixed-online', 'guest-6.12-memmap-on-memory', 'host-6.18']) {
      const tree = labTree(goldenFolder(folder));
      const params = readMemhpParams(tree);
      expect(params.ok, folder).toBe(true);
      if (!params.ok) continue;
      const printed = printMemhpParams(params.value);
      expect([...printed.keys()]).toEqual(tree.list(MEMHP_PARAMS_DIR));
      for (const [name, text] of printed) expect(text, name).toBe(tree.readText(`${MEMHP_PARAMS_DIR}/${name}`));
    }
  });
  it('a kernel without them has none, and that is no problem', () => {
    expect(readMemhpParams(treeFromFiles(new Map()))).toEqual({ ok: true, value: {} });
  });
  it('KF3 an unknown word is refused in each of the files', () => {
    for (const [name, text] of [
      ['online_policy', 'sticky\n'],
      ['auto_movable_ratio', '-1\n'],
      ['auto_movable_ratio', '4294967296\n'],
      ['auto_movable_numa_aware', '1\n'],
      ['memmap_on_memory', 'maybe\n'],
    ] as const) {
      const params = withFile(name, text);
      expect(params.ok ? undefined : params.error.file, name).toBe(`${MEMHP_PARAMS_DIR}/${name}`);
    }
  });
});
