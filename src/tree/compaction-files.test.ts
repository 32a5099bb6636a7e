// The files of compaction and reclaim, read and written. Rules CP28, CP29, docs/spec/compaction.md.

import { describe, expect, it } from 'vitest';
import { toOrder, toPfn } from '#base/units';
import { drawn, pictureOf, worldFrom } from '../../test/support/picture.ts';
import { kernelTree } from './kernel-tree.ts';

const vm = (name: string): string => `/proc/sys/vm/${name}`;
const TEXT = `
  n0 Normal m.m.m.m.|UUUUUUUU|U....... *#
  n1 Normal m.m.m.m.|UUUUUUUU|UUUU.... *#`;

describe('files of compaction', () => {
  it('CP28 compact_memory takes a 1 and nothing else, and cannot be read', () => {
    const { m } = worldFrom(TEXT);
    const fs = kernelTree(m);
    const before = m.digest();
    for (const wrong of ['0\n', '2\n', '-1\n', 'x\n', '']) {
      const said = fs.write(vm('compact_memory'), wrong);
      if (wrong !== '') expect(said, wrong).toBe('EINVAL');
    }
    expect(m.digest()).toBe(before);
    expect(fs.write(vm('compact_memory'), '1\n')).toBe(2);
    expect(pictureOf(m)).toBe(
      drawn('n0 Normal ........|UUUUUUUU|Ummmm... *#\n n1 Normal ........|UUUUUUUU|UUUUmmmm *#'),
    );
    const stat = fs.stat(vm('compact_memory'));
    expect(stat).toMatchObject({ mode: 0o200, size: 0 });
    const lines = fs.readText('/proc/vmstat')?.split('\n') ?? [];
    expect(m.vmstat.compact_migrate_scanned).toBeGreaterThanOrEqual(2 * 512);
    expect(lines).toContain(`compact_migrate_scanned ${m.vmstat.compact_migrate_scanned}`);
    expect(lines).toContain(`compact_isolated ${m.vmstat.compact_isolated}`);
    expect(lines).toContain('pgmigrate_success 512');
    expect(m.check()).toEqual([]);
  });

  it('CP28 a node’s compact takes any text, and does its node', () => {
    const { m } = worldFrom(TEXT);
    const fs = kernelTree(m);
    const file = '/sys/devices/system/node/node1/compact';
    expect(fs.stat(file)).toMatchObject({ mode: 0o200, size: 4096 });
    expect(fs.write(file, 'please')).toBe(6);
    expect(pictureOf(m)).toBe(
      drawn('n0 Normal m.m.m.m.|UUUUUUUU|U....... *#\n n1 Normal ........|UUUUUUUU|UUUUmmmm *#'),
    );
  });

  it('CP28 tunables have Linux’s ranges and defaults', () => {
    const { m } = worldFrom(TEXT);
    const fs = kernelTree(m);
    for (const [name, was, good, bad] of [
      ['extfrag_threshold', '500\n', '1000', '1001'],
      ['compaction_proactiveness', '20\n', '100', '101'],
      ['compact_unevictable_allowed', '1\n', '0', '2'],
    ] as const) {
      expect(fs.readText(vm(name))).toBe(was);
      expect(fs.write(vm(name), bad), name).toBe('EINVAL');
      expect(fs.write(vm(name), good), name).toBe(good.length);
      expect(fs.readText(vm(name))).toBe(`${good}\n`);
    }
    expect(m.vm).toMatchObject({
      extfragThreshold: 1000,
      compactionProactiveness: 100,
      compactUnevictableAllowed: false,
    });
    expect(m.fork().vm.extfragThreshold).toBe(1000);
  });

  it('CP29 drop_caches drops clean page cache that nobody has mapped; 1 to 4, and reads as what was written', () => {
    const { m } = worldFrom('n0 Normal ........ *#');
    const fs = kernelTree(m);
    const file = (mapped: boolean | undefined) => {
      const h = m.addHolder({ class: 'file', name: 'f', ...(mapped !== undefined && { mapped }) });
      const pfns = Array.from({ length: 5 }, () => toPfn(m.alloc(h, toOrder(0))));
      return { h, pfns };
    };
    const cold = file(false);
    const mapped = file(true);
    const unknown = file(undefined);
    m.setPageFlags(cold.pfns[0], { dirty: true });
    m.setPageFlags(cold.pfns[1], { writeback: true });
    m.pin(cold.pfns[2]);
    const pages = () => [cold, mapped, unknown].map(({ h }) => m.holders.pages[h]);
    for (const wrong of ['0', '5', 'x']) expect(fs.write(vm('drop_caches'), wrong)).toBe('EINVAL');
    expect(fs.readText(vm('drop_caches'))).toBe('0\n');
    fs.write(vm('drop_caches'), '2');
    expect(pages()).toEqual([5, 5, 5]);
    fs.write(vm('drop_caches'), '3');
    expect(pages()).toEqual([3, 5, 5]);
    expect(fs.readText(vm('drop_caches'))).toBe('3\n');
    expect(m.vmstat).toMatchObject({ drop_pagecache: 1, drop_slab: 2 });
    expect(m.check()).toEqual([]);
  });
});
