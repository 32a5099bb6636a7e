// /sys/kernel/mm/kremap: read, moved, evacuated and brought home with echo and cat; and that what comes home leaves no trace
// in buddyinfo and zoneinfo. Rules in docs/spec/kremap.md.

import { describe, expect, it } from 'vitest';
import { toBlockId } from '#base/units';
import { treeFromFiles } from '#kernfs/memory-tree';
import { PAGE_SIZE, PAGEBLOCK_PAGES } from '#mm/geometry';
import { remapEvictor } from '#mm/kremap/evictor';
import { kremap } from '#mm/kremap/kremap';
import type { Machine } from '#mm/machine';
import { allocAt, holder, plug, S, unplug, world } from '../mm/kremap/world.cases.ts';
import { kernelTree } from './kernel-tree.ts';

const DIR = '/sys/kernel/mm/kremap';
const AT = 33 * S + 5 * PAGEBLOCK_PAGES + 17;
const section33 = `0x${(33 * S * PAGE_SIZE).toString(16)}-0x${(34 * S * PAGE_SIZE - 1).toString(16)}`;
const at = (pfn: number): string => `0x${(pfn * PAGE_SIZE).toString(16)}`;

class Shell {
  readonly fs;
  constructor(m: Machine) {
    this.fs = kernelTree(m);
  }
  cat(path: string): string {
    const text = this.fs.readText(path);
    if (text === undefined) throw new Error(`${path} cannot be read`);
    return text;
  }
  echo(text: string, path: string): string {
    const said = this.fs.write(path, `${text}\n`);
    return typeof said === 'number' ? 'ok' : said;
  }
}

describe('/sys/kernel/mm/kremap', () => {
  it('KR15 what was done is read, and done, with echo and cat', () => {
    const m = world({ cpus: 2 });
    allocAt(m, holder(m, 'slab'), AT);
    allocAt(m, holder(m, 'stack'), AT + 600);
    allocAt(m, holder(m, 'pagetable'), AT + 5);
    const sh = new Shell(m);
    const read = (...names: string[]) => names.map((name) => sh.cat(`${DIR}/${name}`).trimEnd());
    expect(sh.fs.list('/sys/kernel/mm')).toContain('kremap');
    expect(read('displaced', 'moves', 'refused', 'classes')).toEqual(['0', '0', '', 'K:0 V:0 T:0 H:0']);

    expect(sh.echo(`${at(AT)} ${at(36 * S + 700)}`, `${DIR}/move`)).toBe('ok');
    expect(read('displaced', 'splits', 'va_blocked', 'leaf_tables')).toEqual(['1', '1', '1', '2']);
    expect(sh.cat(`${DIR}/kernel_page_tables`)).toContain(`pte -> ${at(36 * S + 700)}\n`);
    expect(sh.echo(section33, `${DIR}/home`)).toBe('ok');
    expect(read('displaced', 'splits', 'collapses', 'home', 'va_blocked')).toEqual(['0', '1', '1', '1', '0']);

    expect(sh.echo(`${section33} partial`, `${DIR}/evacuate`)).toBe('ok');
    expect(read('displaced', 'classes', 'stop_windows', 'max_stop_pages')).toEqual(['2', 'K:4 V:0 T:1 H:0', '1', '1']);
    expect(read('tlb')[0]).toMatch(/^leaves:1024 split:2 bound_ppm:88$/);
    expect(m.check()).toEqual([]);
  });

  it('KR15 a refusal is its errno, and counted by reason', () => {
    const m = world();
    const firmware = allocAt(m, holder(m, 'reserved'), AT);
    const sh = new Shell(m);
    expect(sh.echo(at(firmware), `${DIR}/move`)).toBe('EBUSY');
    expect(sh.echo(at(AT + 1), `${DIR}/move`)).toBe('EINVAL');
    for (const wrong of ['', 'x', '0x1234', `${at(AT)} 7`, `${at(AT)} ${at(AT)} ${at(AT)}`]) {
      expect(sh.echo(wrong, `${DIR}/move`), wrong).toBe('EINVAL');
    }
    for (const wrong of ['', '0x1000', '0x1000-0x1fff-0x2fff', '0x2000-0x1fff', '0x1000-0x1ffe', `${section33} all`]) {
      expect(sh.echo(wrong, `${DIR}/evacuate`), wrong).toBe('EINVAL');
    }
    expect(sh.echo('0x1000', `${DIR}/home`)).toBe('EINVAL');
    expect(sh.echo(section33, `${DIR}/evacuate`)).toBe('EBUSY');
    expect(sh.cat(`${DIR}/refused`)).toBe('bad-argument:1 hard-pinned:2\n');
    expect(m.check()).toEqual([]);
  });

  it('KR15 the dump has the leaves as a walk finds them, and the image’s second alias', () => {
    const m = world();
    const image = holder(m, 'reserved', 'K');
    allocAt(m, image, S + 3, 0);
    expect(m.offline(toBlockId(1), { evictors: [remapEvictor()] }).ok).toBe(true);
    m.forEachFrameOf(image, (to) => {
      expect(new Shell(m).cat(`${DIR}/kernel_page_tables`)).toBe(
        [
          '---[ Low Kernel Mapping ]---',
          '0xffff888000000000-0xffff888008000000         128M     RW         PSE     GLB NX pmd',
          '0xffff888008000000-0xffff888008003000          12K     RW                 GLB NX pte',
          `0xffff888008003000-0xffff888008004000           4K     RW                 GLB NX pte -> ${at(to)}`,
          '0xffff888008004000-0xffff888008200000        2032K     RW                 GLB NX pte',
          '0xffff888008200000-0xffff888040000000         894M     RW         PSE     GLB NX pmd',
          '0xffff888100000000-0xffff888140000000           1G     RW         PSE     GLB NX pmd',
          '---[ High Kernel Mapping ]---',
          `0xffffffff88003000-0xffffffff88004000           4K     RW                 GLB NX pte -> ${at(to)}`,
          '',
        ].join('\n'),
      );
    });
    expect(new Shell(world()).cat(`${DIR}/kernel_page_tables`)).toContain('1G     RW         PSE     GLB NX pud\n');
    expect(m.check()).toEqual([]);
  });

  it('KR15 the tree of a twin lists the directory once something was moved', () => {
    const m = world();
    allocAt(m, holder(m, 'slab'), AT);
    const fs = kernelTree(m, { base: treeFromFiles(new Map()) });
    const listed = () => fs.list('/sys/kernel/mm').includes('kremap');
    expect(listed()).toBe(false);
    expect(fs.write(`${DIR}/evacuate`, section33)).toBe(section33.length);
    expect(listed()).toBe(true);
    expect(m.check()).toEqual([]);
  });
});

describe('a DIMM leaves and comes back', () => {
  it('KR9 C4 stat is zero, and buddyinfo and zoneinfo are as they were, to the byte', () => {
    const m = world({ cpus: 2 });
    const slab = holder(m, 'slab');
    for (let n = 0; n < 200; n++) allocAt(m, slab, (32 + (n % 8)) * S + 1024 + n * 157);
    allocAt(m, holder(m, 'stack'), 35 * S + 512, 2);
    allocAt(m, holder(m, 'reserved', 'K'), 36 * S + 512, 9);
    m.updateWatermarks(); // the image's frames are not managed
    const sh = new Shell(m);
    const texts = () => [sh.cat('/proc/buddyinfo'), sh.cat('/proc/zoneinfo')];
    const before = texts();
    unplug(m);
    expect(kremap(m).stat()).toMatchObject({ displaced: 200 + 4 + 512 });
    plug(m, 'kernel');
    expect(texts()).toEqual(before);
    const stat = kremap(m).stat();
    expect(stat).toMatchObject({ displaced: 0, splitLeaves: 0, leafTables: 0, tableFrames: 0, vaBlocked: 0 });
    expect(stat.splits).toBe(stat.collapses);
    expect(m.check()).toEqual([]);
  });
});
