// Pools of a machine file, read and made. Rules in docs/spec/pool-files.md.

import { describe, expect, it } from 'vitest';
import { Machine, pools } from '#mm/index';
import { type MachineFile, parseMachineFile } from './machine-file.ts';
import { pagesOfWord, sizeWord } from './pool-edits.ts';
import { makePools, parsePools } from './pool-plan.ts';

const MIB = 256; // pages
const MACHINE = `nodes:
  - { id: 0, cpus: 0-3, ram: 1G }
  - { id: 1, cpus: 4-7, ram: 1G }
pools:
`;

const read = (text: string): MachineFile => {
  const r = parseMachineFile(text);
  if (!r.ok) throw new Error(r.error.sentence);
  return r.value;
};
const refusal = (list: string): string => {
  const r = parseMachineFile(MACHINE + list);
  if (!r.ok) return r.error.sentence;
  const made = makePools(Machine.boot(r.value.spec), r.value.pools);
  return made.ok ? 'made' : made.error.sentence;
};

describe('pools of a machine file', () => {
  it('PF1 every field arrives in the engine; pools are made in the order of the file', () => {
    const file = read(`${MACHINE}
  - name: web
    size: 128M
    nodes: [1, 0]
    zones: [DMA32, Normal]
    cpus: 4-5,7
    min: 64M
    low: 8192 pages
    max: 1G
    priority: 7
    class: realtime
    owner: www
    perms: { app: [alloc, free], joe: [inspect] }
    fallback:
      - { to: db, weight: 2 }
      - { to: node1-DMA32, weight: 1 }
  - { name: db, size: 16M, nodes: 0, fallback: [{ to: web }] }
  - { name: cache, size: 32M, parent: web }
`);
    const m = Machine.boot(file.spec);
    expect(makePools(m, file.pools)).toEqual({ ok: true, value: 3 });
    const stat = (name: string) => {
      const s = pools(m).stat(name);
      if (!s.ok) throw new Error(s.error.message);
      return s.value;
    };
    expect(stat('web')).toMatchObject({
      parent: 'node1',
      nodes: [1, 0],
      zones: ['DMA32', 'Normal'],
      cpus: [4, 5, 7],
      managed: 96 * MIB, // cache has the rest
      min: 64 * MIB,
      low: 8192,
      max: 1024 * MIB,
      priority: 7,
      class: 'realtime',
      owner: 'www',
    });
    expect([...(pools(m).attrs('web')?.perms ?? [])].map(([who, what]) => [who, ...what])).toEqual([
      ['app', 'alloc', 'free'],
      ['joe', 'inspect'],
    ]);
    const edges = pools(m).attrs('web')?.fallbacks ?? [];
    expect(edges.map((e) => e.weight)).toEqual([1, 2]);
    expect(edges[1]?.to).toBe(stat('db').id);
    expect(pools(m).attrs('db')?.fallbacks).toEqual([{ to: stat('web').id, weight: 0 }]);
    expect(stat('db')).toMatchObject({ managed: 16 * MIB, nodes: [0], owner: 'root' });
    expect(stat('cache')).toMatchObject({ managed: 32 * MIB, parent: 'web', nodes: [1, 0] });
    expect(m.check()).toEqual([]);
  });

  it.each([
    ['  - { size: 1M }', 'line 5, pools[0]: name is missing'],
    ['  - { name: a }', 'line 5, pools[0]: size is missing'],
    [
      '  - { name: a, size: 512 }',
      'line 5, pools[0].size: "512" is no size: write one with its unit, such as 512M or 1024 pages',
    ],
    ['  - { name: a, size: 5000B }', 'line 5, pools[0].size: "5000B" is not whole pages of 4K'],
    ['  - { name: a, size: 0 }', 'line 5, pools[0].size: a size is more than nothing'],
    ['  - name: a\n    size: 1G\n    min: 2G', "line 7, pools[0].min: 2G is more than the pool's size, 1G"],
    ['  - name: a\n    size: 2G\n    max: 1G', "line 7, pools[0].max: 1G is less than the pool's size, 2G"],
    ['  - { name: a, size: 1M }\n  - { name: a, size: 1M }', 'line 6, pools[1]: there is a pool a already, on line 5'],
    [
      '  - { name: a, size: 1M, parent: b }\n  - { name: b, size: 2M }',
      'line 5, pools[0]: its parent, b, has to stand above it',
    ],
    [
      '  - { name: a, size: 1M, colour: red }',
      /^line 5, pools\[0\]\.colour: there is no such field; there are name, size, parent,/,
    ],
    [
      '  - { name: a, size: 1M, priority: 256 }',
      'line 5, pools[0].priority: a whole number from 0 to 255 is wanted here, not "256"',
    ],
    ['  - { name: a, size: 1M, class: best }', /^line 5, pools\[0\]\.class: "best" is none of normal, realtime,/],
    [
      '  - { name: a, size: 1M, zones: [High] }',
      /^line 5, pools\[0\]\.zones\[0\]: "High" is none of DMA, DMA32, Normal, Movable/,
    ],
    ['  - { name: a, size: 1M, nodes: [0, 0] }', 'line 5, pools[0].nodes: one of them comes twice'],
    ['  - { name: a, size: 1M, cpus: 3-1 }', /^line 5, pools\[0\]\.cpus: .*; write them as 0-3,8$/],
    [
      '  - name: a\n    size: 1M\n    perms:\n      joe: [alloc, fly]',
      /^line 8, pools\[0\]\.perms\.joe\[1\]: "fly" is none of alloc, free, donate,/,
    ],
    ['  - name: a\n    size: 1M\n    fallback:\n      - { weight: 1 }', 'line 8, pools[0].fallback[0]: to is missing'],
    ['  name: a', 'line 5, pools: a list is wanted here, not fields'],
  ] as const)('PF2 %j is refused with line and field', (list, sentence) => {
    if (typeof sentence === 'string') expect(refusal(list)).toBe(sentence);
    else expect(refusal(list)).toMatch(sentence);
  });

  it.each([
    [
      '  - { name: a, size: 4G }',
      /^line 5, pools\[0\]\.size: pool a: 1048576 pages are wanted, .* can give \d+ \(ENOMEM\)$/,
    ],
    [
      '  - { name: a, size: 1M }\n  - name: b\n    size: 1M\n    nodes: [7]',
      /^line 8, pools\[1\]\.nodes: pool b: there is no node 7 \(EINVAL\)$/,
    ],
    [
      '  - name: a\n    size: 1M\n    cpus: 9',
      /^line 7, pools\[0\]\.cpus: pool a: there is no CPU 9: the machine has 8 \(EINVAL\)$/,
    ],
    ['  - name: a\n    size: 1M\n    parent: b', /^line 7, pools\[0\]\.parent: there is no pool b \(ENOENT\)$/],
    [
      '  - name: node0-DMA\n    size: 1M',
      /^line 5, pools\[0\]\.name: "node0-DMA" is no name for a pool: .* \(EINVAL\)$/,
    ],
    [
      '  - name: a\n    size: 1M\n    fallback:\n      - { to: node0 }\n      - { to: nobody }',
      /^line 9, pools\[0\]\.fallback\[1\]: there is no pool nobody \(ENOENT\)$/,
    ],
  ] as const)('PF3 %j: the engine refuses, the sentence has line, field and errno', (list, sentence) => {
    expect(refusal(list)).toMatch(sentence);
  });

  it('PF2 a text of pools alone is read the same way', () => {
    expect(parsePools('pools:\n  - { name: a, size: 1M }\n')).toMatchObject({
      ok: true,
      value: [{ spec: { pages: MIB } }],
    });
    expect(parsePools('{}\n')).toEqual({ ok: true, value: [] });
    expect(parsePools('ram: 1G\n')).toMatchObject({ ok: false, error: { line: 1, field: 'ram' } });
  });

  it('PF8 a size is written in words that read as the same number of pages', () => {
    expect([1, 3, MIB, 1000, 1024 * MIB, 1088 * MIB, 2 ** 40].map(sizeWord)).toEqual([
      '4K',
      '12K',
      '1M',
      '4000K',
      '1G',
      '1088M',
      '4P',
    ]);
    for (const pages of [1, 255, 257, 12345, 2 ** 31 + 1]) expect(pagesOfWord(sizeWord(pages))).toBe(pages);
    expect(pagesOfWord('1024 pages')).toBe(1024);
    expect(pagesOfWord('12')).toMatch(/^"12" is no size: /);
  });

  describe('DMA rules', () => {
    const framesOf = (m: Machine, name: string): number[] => {
      const id = pools(m).attrs(name)?.id;
      const out: number[] = [];
      m.owners.forEachRun(0, m.sections.frames, (from, to, owner) => {
        for (let i = from; i < to && owner === id; i++) out.push(m.sections.pfnOf(i));
      });
      return out;
    };
    const BOX = `nodes:
  - { id: 0, cpus: 0-3, ram: 3G }
  - { id: 1, cpus: 4-7, ram: 6G }
pools:
`;
    const made = (list: string): Machine => {
      const file = read(BOX + list);
      const m = Machine.boot(file.spec);
      const done = makePools(m, file.pools);
      if (!done.ok) throw new Error(done.error.sentence);
      expect(m.check()).toEqual([]);
      return m;
    };
    const GIB = 2 ** 18;

    it('PF13 a pool for a rule has frames that satisfy it, and says so in canonical words', () => {
      const m = made(
        '  - { name: nic, size: 16M, rule: { addr-max: { bits: 32 }, node: { nodes: [0], strength: required } } }',
      );
      const frames = framesOf(m, 'nic');
      expect(frames.length).toBe(16 * MIB);
      expect(Math.max(...frames)).toBeLessThan(4 * GIB);
      expect(pools(m).attrs('nic')).toMatchObject({ class: 'dma', nodes: [0] });
      expect(pools(m).attrs('nic')?.rule).toMatch(/^ranges=0-100000,window=32,.*required=0,near=0,/);
    });

    it('PF13 one window, near the device; it stays in it when it grows', () => {
      const m = made('  - { name: raid, size: 512M, rule: { same-high-bits: 34, node: { nodes: [1] } } }');
      const windows = (): number[] => [...new Set(framesOf(m, 'raid').map((pfn) => Math.floor(pfn / GIB)))];
      expect(windows().length).toBe(1);
      const [window] = windows();
      expect(pools(m).resize('raid', 900 * MIB).ok).toBe(true);
      expect(windows()).toEqual([window]);
      for (const pfn of framesOf(m, 'raid')) expect(m.zoneAt(m.sections.indexOf(pfn as never))?.node).toBe(1);
      expect(pools(m).resize('raid', 1100 * MIB)).toMatchObject({ ok: false, error: { errno: 'ENOMEM' } });
    });

    it.each([
      ['{ addr-max: { bits: 8 } }', 'line 7, pools[0].rule.addr-max: 8 bits are not 12 to 64'],
      ['{ align: 12K }', 'line 7, pools[0].rule.align: 12288 is not a power of two'],
      ['{ window-bits: 20, same-high-bits: 20 }', /^line 7, pools\[0\]\.rule\.window-bits: 20 is not 64 - 20/],
      ['{ contiguous: true, max-segments: 2 }', 'line 7, pools[0].rule.max-segments: 2 segments contradict contiguous'],
      ['{ lifetime: boot }', /^line 7, pools\[0\]\.rule\.lifetime: there is no such field; there are addr-max, /],
      ['{ node: { strength: required } }', 'line 7, pools[0].rule.node: nodes is missing'],
      ['{ addr-max: {} }', 'line 7, pools[0].rule.addr-max: wants bits or highest'],
    ] as const)('PF13 %s is refused with the field that has no meaning', (rule, sentence) => {
      const said = refusal(`  - name: a\n    size: 64M\n    rule: ${rule}`);
      if (typeof sentence === 'string') expect(said).toBe(sentence);
      else expect(said).toMatch(sentence);
    });

    it('PF13 what this machine cannot satisfy is ENOSPC', () => {
      expect(refusal('  - name: isa\n    size: 64M\n    rule: { addr-max: { bits: 24 } }')).toMatch(
        /^line 7, pools\[0\]\.rule: no window of 16M has 16 384 pages for the DMA rule: .* \(ENOSPC\)$/,
      );
    });
  });
});
