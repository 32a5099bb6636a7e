import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import type { FsNode } from '#kernfs/kernel-fs';
import { Inodes, inoOf, ROOT_ID } from './inodes.ts';

const READABLE: FsNode = { kind: 'file', mode: 0o444, size: 4096 };
const WRITABLE: FsNode = { kind: 'file', mode: 0o644, size: 4096 };
const DIRECTORY: FsNode = { kind: 'dir', mode: 0o755 };

describe('inodes', () => {
  it('FU5 any order of lookups and forgets leaves what a list of pairs says', () => {
    for (let seed = 1; seed <= 60; seed++) {
      const prng = new Prng(seed);
      const at = `seed=${seed}`;
      const inodes = new Inodes();
      /** The naive model: one pair for each number, searched linearly. */
      let model: { id: number; path: string; kind: string; told: number }[] = [];
      const ever = new Set<number>([ROOT_ID]);
      for (let k = 0; k < 400; k++) {
        if (prng.chance(0.6)) {
          const which = prng.below(12);
          const node: FsNode = which < 4 ? READABLE : which < 8 ? WRITABLE : DIRECTORY;
          // Now and then what was a file is a directory.
          const path = `/sys/${prng.chance(0.05) ? 'odd' : which}`;
          const id = inodes.tell(path, node);
          const known = node === WRITABLE ? undefined : model.find((m) => m.path === path && m.id === id);
          if (known !== undefined) {
            expect(known.kind, at).toBe(node.kind);
            known.told++;
          } else {
            expect(ever.has(id), `${at}: a number is used once`).toBe(false);
            const twin = model.some((m) => m.path === path && m.kind === node.kind);
            if (node !== WRITABLE && path !== '/sys/odd')
              expect(twin, `${at}: the same path, the same number`).toBe(false);
            ever.add(id);
            model.push({ id, path, kind: node.kind, told: 1 });
          }
        } else if (model.length > 0) {
          const m = prng.pick(model);
          const times = 1 + prng.below(m.told);
          inodes.forget(m.id, times);
          m.told -= times;
          model = model.filter((x) => x.told > 0);
        }
        expect(inodes.size, at).toBe(model.length + 1);
      }
      inodes.check();
      for (const m of model) expect(inodes.get(m.id), at).toMatchObject({ path: m.path, kind: m.kind });
      for (const m of model) inodes.forget(m.id, m.told);
      expect(inodes.size, at).toBe(1);
      inodes.forget(ROOT_ID, 1);
      inodes.forget(10_000, 1);
      expect(inodes.get(ROOT_ID)?.path, at).toBe('/');
      inodes.check();
    }
  });

  it('FU6 st_ino depends on the path only, and differs between the files of a large tree', () => {
    const seen = new Set<number>();
    let files = 0;
    for (let block = 0; block < 4096; block++)
      for (const file of ['', '/state', '/online', '/removable', '/valid_zones', '/node0']) {
        const ino = inoOf(`/sys/devices/system/memory/memory${block}${file}`);
        expect(Number.isSafeInteger(ino) && ino > 0).toBe(true);
        seen.add(ino);
        files++;
      }
    expect(seen.size).toBe(files);
    expect(inoOf('/proc/zoneinfo')).toBe(inoOf('/proc/zoneinfo'));
  });
});
