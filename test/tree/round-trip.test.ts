// From a real machine to a twin to a tree: what comes out is what went in.

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { filesOfTree, gather } from '#capture/gather';
import type { Capture } from '#capture/index';
import { readCapture } from '#hosts/linux/read-capture';
import type { KernelFs } from '#kernfs/kernel-fs';
import { wordsOf } from '#kernfs/kpageflags';
import { parsePagetypeinfo } from '#kernfs/pagetypeinfo';
import { parseZoneinfo } from '#kernfs/zoneinfo';
import { toNodeId, toPfn } from '#mm/index';
import { kernelTree } from '#tree/kernel-tree';
import { treeSnapshot } from '#tree/tree-snapshot';
import { buildTwin, type PagesTwin } from '#twin/index';
import { ROOT } from '../support/source-files.ts';

const TWINS = join(ROOT, 'test/golden/twin');
const BUNDLES = [
  ...readdirSync(TWINS)
    .filter((name) => name.endsWith('.dimmer'))
    .map((name) => join(TWINS, name)),
  join(ROOT, 'test/golden/demo.dimmer'),
  join(ROOT, 'test/golden/cli/busy-dimm.dimmer'),
];

function twinOf(capture: Capture): PagesTwin {
  const twin = buildTwin(capture);
  if (!twin.ok || twin.value.level !== 'pages') throw new Error('no twin');
  return twin.value;
}

function open(bundle: string): { capture: Capture; twin: PagesTwin; fs: KernelFs } {
  const read = readCapture(bundle, { now: () => new Date(0) });
  if (!read.ok) throw new Error(read.error.sentence);
  const twin = twinOf(read.value);
  return { capture: read.value, twin, fs: kernelTree(twin.machine, { base: read.value.tree }) };
}

/** Free pages and the pages on per-CPU lists depend on the moment; the lists' own limits follow the load from 6.7 on. */
const OF_THE_MOMENT = /^( +pages free +| +nr_free_pages(?:_blocks)? +| +count: +| +high: +)\d+$/gm;
const settled = (text: string | undefined): string => (text ?? '').replace(OF_THE_MOMENT, '$1?');
/** The same of meminfo and vmstat. MemTotal of the host was read minutes before its zones. */
const FREE_LINES = /^((?:Node \d+ )?Mem(?:Total|Free|Used):|nr_free_pages(?:_blocks)?) +\d+/gm;

describe('round trip', () => {
  for (const bundle of BUNDLES) {
    const name = bundle.slice(ROOT.length);
    it(`FS5 ${name}: what is determined comes out to the byte`, () => {
      const { capture, twin, fs } = open(bundle);
      let compared = 0;
      const walk = (directory: string): void => {
        for (const entry of capture.tree.list(directory)) {
          const path = `${directory}/${entry}`;
          const text = capture.tree.readText(path);
          if (capture.tree.list(path).length > 0) walk(path);
          else if (text === undefined) {
            if (/\/(node|memory)\d+$/.test(path)) expect([path, fs.stat(path)?.kind]).toEqual([path, 'link']);
          } else if (/(buddyinfo|pagetypeinfo)$/.test(path)) {
            expect([path, fs.readText(path)?.split('\n').length]).toEqual([path, text.split('\n').length]);
          } else if (/(meminfo|vmstat)$/.test(path)) {
            const mask = (t: string | undefined): string => (t ?? '').replace(FREE_LINES, '$1?');
            expect([path, mask(fs.readText(path))]).toEqual([path, mask(text)]);
          } else {
            expect([path, settled(fs.readText(path))]).toEqual([path, settled(text)]);
            compared++;
          }
        }
      };
      walk('/proc');
      walk('/sys');
      expect(compared).toBeGreaterThan(5 * twin.machine.blocks.length);

      // Pageblocks by type: as recorded, wherever the twin could be made so.
      const types = parsePagetypeinfo(fs.readText('/proc/pagetypeinfo') ?? '');
      if (!types.ok || twin.pagetypes === undefined) throw new Error('no pagetypeinfo');
      const want = new Map(twin.comparisons.map((c) => [c.name, c.twin]));
      for (const row of types.value.blocks) {
        types.value.types.forEach((type, k) => {
          const said = want.get(`Node ${row.node}, zone ${row.zone}: pageblocks of type ${type}`);
          expect([row.node, row.zone, type, row.counts[k]]).toEqual([row.node, row.zone, type, said]);
        });
      }
      expect(twin.machine.check(1)).toEqual([]);
    });
  }

  it('FS5 FS10 watermarks, protection and the limits of per-CPU lists of 6.1 and 6.18 are the recorded ones', () => {
    for (const [bundle, field] of [
      ['guest-6.1-mixed.dimmer', /^ +(high|batch): +\d+$/gm],
      ['host-6.18.dimmer', /^ +(high_min|high_max|batch): +\d+$/gm],
    ] as const) {
      const { capture, fs } = open(join(TWINS, bundle));
      const mine = fs.readText('/proc/zoneinfo')?.match(field) ?? [];
      expect(mine.length).toBeGreaterThan(4);
      expect(mine).toEqual(capture.tree.readText('/proc/zoneinfo')?.match(field));
    }
  });

  for (const bundle of BUNDLES.filter((b) => !/host-6.18|gigantic/.test(b))) {
    it(`FS7 ${bundle.slice(ROOT.length)}: a twin of the tree is the twin of the machine`, () => {
      const { twin, fs } = open(bundle);
      const m = twin.machine;
      const flags = fs.read('/proc/kpageflags');
      if (typeof flags === 'string') throw new Error(flags);
      const again = gather(
        {
          ...filesOfTree(fs),
          readWords: (file, push) => {
            if (file !== '/proc/kpageflags') return { kind: 'absent', detail: 'not here' };
            push(new Uint32Array(flags.buffer), flags.length / 8);
            return undefined;
          },
        },
        { kind: 'directory', name: 'the tree' },
      );
      if (again === undefined) throw new Error('no machine');
      const other = twinOf(again);
      expect(other.blocks).toEqual(twin.blocks);
      const zonesOf = (x: PagesTwin) =>
        x.machine.pools
          .filter((p) => p.present > 0)
          .map((p) => [p.title, p.startPfn, p.spanned, p.present, p.managed, p.alloc.nrFree() + p.alloc.pcpPages()]);
      expect(zonesOf(other)).toEqual(zonesOf(twin));
      expect(m.check(1)).toEqual([]);
    });
  }

  it('FS6 a figure is the recorded one plus what changed since', () => {
    const { capture, twin, fs } = open(join(TWINS, 'guest-6.1-mixed.dimmer'));
    const m = twin.machine;
    const at = (text: string | undefined, line: RegExp): number => Number(line.exec(text ?? '')?.[1]);
    const anon = /^AnonPages: +(\d+) kB$/m;
    const nodeAnon = /^nr_anon_pages (\d+)$/m;
    const total = /^MemTotal: +(\d+) kB$/m;
    const recorded = {
      anon: at(capture.tree.readText('/proc/meminfo'), anon),
      node: at(capture.tree.readText('/sys/devices/system/node/node1/vmstat'), nodeAnon),
      total: at(capture.tree.readText('/proc/meminfo'), total),
    };
    const holder = m.addHolder({ class: 'anonymous', name: 'new', node: toNodeId(1) });
    const pages = Array.from({ length: 100 }, () => m.alloc(holder, 0 as never));
    expect(at(fs.readText('/proc/meminfo'), anon)).toBe(recorded.anon + 400);
    expect(at(fs.readText('/sys/devices/system/node/node1/vmstat'), nodeAnon)).toBe(recorded.node + 100);
    for (const pfn of pages) m.free(toPfn(pfn));
    expect(at(fs.readText('/proc/meminfo'), anon)).toBe(recorded.anon);
    expect(at(fs.readText('/proc/meminfo'), total)).toBe(recorded.total);
    const went = m.blockIds().find((id) => {
      const movable = m.block(id)?.pool?.name === 'Movable';
      return movable && fs.write(`/sys/devices/system/memory/memory${id}/state`, 'offline') === 7;
    });
    expect(went).toBeDefined();
    expect(at(fs.readText('/proc/meminfo'), total)).toBe(recorded.total - 131072);
    expect(m.check(1)).toEqual([]);
  });

  it('FS7 a snapshot of a tree has every file that can be read, and its links', () => {
    const { fs } = open(join(TWINS, 'guest-6.1-mixed.dimmer'));
    const files = treeSnapshot(fs);
    const zoneinfo = files.find((f) => f.path === '/proc/zoneinfo');
    expect(zoneinfo?.kind === 'text' && parseZoneinfo(zoneinfo.text).ok).toBe(true);
    expect(files.find((f) => f.path === '/sys/devices/system/node/node1/memory32')).toEqual({
      path: '/sys/devices/system/node/node1/memory32',
      kind: 'link',
      text: '../../memory/memory32',
    });
    expect(files.some((f) => f.path.startsWith('/sys/bus'))).toBe(true);
    expect(new Set(files.map((f) => f.path)).size).toBe(files.length);
    expect(wordsOf(fs.read('/proc/kpageflags', 0, 4096) as Uint8Array).ok).toBe(true);
  });
});
