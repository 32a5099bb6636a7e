import { describe, expect, it } from 'vitest';
import type { Capture } from '#capture/capture';
import { pfnOf, syntheticCapture, WORD } from '../../test/support/synthetic-capture.ts';
import { buildTwin } from './build.ts';
import { compareWithFiles } from './compare.ts';
import { offlineCost } from './cost.ts';
import type { Comparison } from './provenance.ts';

const capture = syntheticCapture({
  blocks: [{ id: 32 }, { id: 33, zone: 'Movable', node: 1 }, { id: 34, node: 1, state: 'offline' }],
  frames: [
    [pfnOf(32), 3, WORD.slab],
    [pfnOf(33, 5), 70, WORD.anon],
  ],
});

/** Differences of the twin when one file says something else. */
function differencesWith(path: string, change: (text: string) => string): Comparison[] {
  const text = capture.tree.readText(path) ?? '';
  const changed = change(text);
  expect(changed, 'the change must change something').not.toBe(text);
  const bent: Capture = {
    ...capture,
    tree: { ...capture.tree, readText: (p) => (p === path ? changed : capture.tree.readText(p)) },
  };
  const built = buildTwin(bent);
  if (!built.ok || built.value.level !== 'pages') throw new Error('no twin');
  return built.value.comparisons.filter((c) => !c.equal);
}

describe('comparing', () => {
  it('T42 a difference is listed by name, with its file and both figures', () => {
    const line = /(zone {2}Movable(?: +\d+){10} +)(\d+)/;
    const found = differencesWith('/proc/buddyinfo', (text) =>
      text.replace(line, (_, head, n) => `${head}${Number(n) + 2}`),
    );
    expect(found).toHaveLength(1);
    const [d] = found;
    expect(d?.name).toBe('Node 1, zone Movable: free chunks of order 10');
    expect(d?.file).toBe('/proc/buddyinfo');
    expect(d?.captured).toBe((d?.twin ?? 0) + 2);
  });

  it('T42 free and managed pages of zoneinfo, and the state of a block', () => {
    const free = differencesWith('/proc/zoneinfo', (t) => t.replace('pages free     32698', 'pages free     32600'));
    expect(free.map((d) => `${d.name}: ${d.captured}, ${d.twin}`)).toEqual([
      'Node 1, zone Movable: free pages: 32600, 32698',
    ]);
    const managed = differencesWith('/proc/zoneinfo', (t) => t.replace(/(managed +)32768/, '$132700'));
    expect(managed.map((d) => d.name)).toEqual(['Node 0, zone Normal: managed pages']);
  });

  it('T43 a count of pagetypeinfo that was capped equals any that is not smaller', () => {
    const built = buildTwin(capture);
    if (!built.ok || built.value.level !== 'pages' || built.value.pagetypes === undefined) throw new Error('no twin');
    const { machine, pagetypes } = built.value;
    // The Movable rows say nrFree, capped or not, in place of what the kernel counted at order 10 (31 chunks on node 1).
    const differences = (nrFree: number, capped: boolean): string[] => {
      const free = pagetypes.free.map((row) =>
        row.zone === 'Movable' && row.type === 'Movable'
          ? { ...row, nrFree: row.nrFree.with(10, nrFree), capped: row.capped.with(10, capped) }
          : row,
      );
      return compareWithFiles(machine, { ...built.value, pagetypes: { ...pagetypes, free } })
        .filter((c) => !c.equal)
        .map((c) => `${c.name}: ${c.captured}, ${c.twin}`);
    };
    const name = 'Node 1, zone Movable, type Movable: free chunks of order 10';
    expect(differences(30, true)).toEqual([]);
    expect(differences(31, true)).toEqual([]);
    expect(differences(30, false)).toEqual([`${name}: 30, 31`]);
    expect(differences(32, true)).toEqual([`${name}: 32, 31`]);
  });
});

describe('cost', () => {
  it('V2 more work takes longer, a huge page less than its 512 pages one by one, and all of it is assumed', () => {
    const idle = offlineCost({ pageblocks: 64, pages: 0, hugePages: 0 });
    const pages = offlineCost({ pageblocks: 64, pages: 512, hugePages: 0 });
    const huge = offlineCost({ pageblocks: 64, pages: 0, hugePages: 1 });
    expect(idle.value).toBeGreaterThan(0);
    expect(huge.value).toBeGreaterThan(idle.value);
    expect(pages.value).toBeGreaterThan(huge.value);
    expect([idle, pages, huge].map((f) => f.provenance)).toEqual(['assumed', 'assumed', 'assumed']);
  });
});
