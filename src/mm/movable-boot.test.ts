import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toNodeId, toPfn } from '#base/units';
import { parseCommandLine } from './boot-params.ts';
import { DMA_END, DMA32_END } from './geometry.ts';
import { Machine } from './machine.ts';
import { type BootRange, findZoneMovable, lowestMovablePfn } from './movable-boot.ts';

type Layout = {
  readonly name: string;
  readonly kernel: '6.1' | '6.12';
  readonly cmdline: string;
  readonly blockMib: number;
  readonly ram: readonly BootRange[];
  readonly zones: readonly (readonly [number, string, number, number, number])[];
};

/** Zone layouts of real guests: test/golden/boot/README.md. */
const LAYOUTS: readonly Layout[] = readFileSync(new URL('../../test/golden/boot/layouts.txt', import.meta.url), 'utf8')
  .trim()
  .split('\n\n')
  .map((text) => {
    const lines = text.split('\n').map((l) => [l.slice(0, l.indexOf(' ')), l.slice(l.indexOf(' ') + 1)] as const);
    const one = (key: string): string => lines.find(([k]) => k === key)?.[1] as string;
    const all = (key: string): string[][] => lines.filter(([k]) => k === key).map(([, v]) => v.split(' '));
    return {
      name: one('machine'),
      kernel: one('kernel') as '6.1' | '6.12',
      cmdline: one('cmdline'),
      blockMib: Number(one('block')),
      ram: all('ram').map(([a, b, n]) => ({ start: Number(a), end: Number(b), node: toNodeId(Number(n)) })),
      zones: all('zone').map(([n, name, ...z]) => [Number(n), name, ...z.map(Number)] as never),
    };
  });

const G = 2 ** 18;
const node = toNodeId;
const range = (start: number, end: number, n = 0, flags: Partial<BootRange> = {}): BootRange => ({
  start,
  end,
  node: node(n),
  ...flags,
});
const starts = (ram: readonly BootRange[], line: string, kernelNodes: readonly number[] = []): Record<number, number> =>
  Object.fromEntries(findZoneMovable(ram, parseCommandLine(line), new Set(kernelNodes.map(node))).start);

/** node 0 = 0-2 GiB and 4-5 GiB, node 1 = 5-8 GiB, as the firmware of the 6.12 guest said it. */
const GUEST = [range(1, 159), range(256, 524256), range(1048576, 1310720), range(1310720, 2097152, 1)];

describe('MB1 MB2 MB3 MB4 MB5 MB6 MB7 Movable at boot', () => {
  it.each([
    ['kernelcore=1G', 1048576, 1310720],
    ['movablecore=1G', 1180672, 1966080],
    ['movablecore=50%', 1179648, 1441792],
    ['kernelcore=4G', 1049600, 1835008],
  ])('MB1 the recorded vector of 6 GiB on two nodes: %s', (line, first, second) => {
    expect(GUEST.reduce((n, r) => n + r.end - r.start, 0)).toBe(1572734); // holes do not count
    expect(starts(GUEST, line)).toEqual({ 0: first, 1: second });
  });

  it.each(LAYOUTS.map((l) => [l.name, l] as const))('MB2 zones and blocks of a real guest: %s', (_name, l) => {
    const ram = l.ram.map((r) => ({ start: toPfn(r.start), end: toPfn(r.end), node: r.node }));
    const m = Machine.boot({ ram, kernel: l.kernel, cmdline: l.cmdline });
    const zones = m.pools
      .filter((p) => p.spanned > 0)
      .map((p) => [p.node, p.name, p.startPfn, p.spanned, p.present] as const);
    expect(zones).toEqual(l.zones);
    expect(m.blockPages).toBe(l.blockMib * 256);
    expect(m.check()).toEqual([]);
  });

  it('MB2 finds the guests it is about', () => {
    expect(LAYOUTS.length).toBe(15);
    expect(LAYOUTS.filter((l) => l.zones.some(([, z]) => z === 'Movable')).length).toBe(8);
  });

  it('MB3 nothing asked for, too much, or all of it: no Movable, and a note where something was asked for', () => {
    const notes = (line: string): number => findZoneMovable(GUEST, parseCommandLine(line)).notes.length;
    for (const [line, said] of [
      ['', 0],
      ['kernelcore=6G', 1],
      ['kernelcore=100%', 1],
      ['kernelcore=1000%', 1],
      ['movablecore=64G', 1],
      ['movablecore=100%', 1],
      ['kernelcore=0', 0],
      ['kernelcore=1G movablecore=1', 0], // less than a page of movablecore= is none
    ] as const) {
      expect(notes(line), line).toBe(said);
      if (!line.includes('kernelcore=1G')) expect(starts(GUEST, line), line).toEqual({});
    }
  });

  it('MB3 with both, the larger amount of kernel memory counts', () => {
    expect(starts(GUEST, 'kernelcore=4G movablecore=5G')).toEqual(starts(GUEST, 'kernelcore=4G'));
    expect(starts(GUEST, 'kernelcore=1G movablecore=1G')).toEqual(starts(GUEST, 'movablecore=1G'));
  });

  it('MB4 the lowest frame that may be Movable is the first of the highest kernel zone', () => {
    expect(lowestMovablePfn([range(1, 4096)])).toBe(1);
    expect(lowestMovablePfn([range(1, 4097)])).toBe(DMA_END);
    expect(lowestMovablePfn([range(1, DMA32_END)])).toBe(DMA_END);
    expect(lowestMovablePfn([range(1, DMA32_END + 1)])).toBe(DMA32_END);
    expect(lowestMovablePfn([range(2 * DMA32_END, 3 * DMA32_END)])).toBe(2 * DMA32_END);
  });

  const bits = { hotpluggable: true };
  it('MB5 movable_node: from the lowest hot-pluggable frame of each node; kernelcore and movablecore do not count', () => {
    const ram = [range(0, 4 * G), range(4 * G, 5 * G, 1), range(5 * G, 6 * G, 1, bits), range(6 * G, 8 * G, 2, bits)];
    expect(starts(ram, 'movable_node kernelcore=1G movablecore=1G')).toEqual({ 1: 5 * G, 2: 6 * G });
    expect(starts(ram, 'movablecore=acpi')).toEqual({ 1: 5 * G, 2: 6 * G });
    expect(starts(ram, 'kernelcore=0')).toEqual({});
  });

  it('MB5 a node that holds memory of the kernel keeps none of its hot-pluggable bits', () => {
    const ram = [range(0, 4 * G), range(4 * G, 6 * G, 0, bits), range(6 * G, 8 * G, 1, bits)];
    expect(starts(ram, 'movable_node', [0])).toEqual({ 1: 6 * G });
    const { notes } = findZoneMovable(ram, parseCommandLine('movable_node'), new Set([node(0)]));
    expect(notes).toEqual([expect.stringMatching(/node 0 holds memory of the kernel/)]);
    expect(findZoneMovable(GUEST, parseCommandLine('movable_node')).notes).toEqual([
      expect.stringMatching(/no memory is hot-pluggable/),
    ]);
  });

  const mirrored = { mirrored: true };
  it('MB6 kernelcore=mirror: from the lowest frame from 4 GiB on that is not mirrored; without any mirror, nothing', () => {
    const ram = [
      range(0, 3 * G),
      range(4 * G, 5 * G, 0, mirrored),
      range(5 * G, 6 * G),
      range(6 * G, 8 * G, 1, mirrored),
    ];
    const got = findZoneMovable(ram, parseCommandLine('kernelcore=mirror movablecore=1G'));
    expect(Object.fromEntries(got.start)).toEqual({ 0: 5 * G });
    expect(got).toMatchObject({ mirror: true, notes: [expect.stringMatching(/below 4 GiB/)] });
    expect(starts(GUEST, 'kernelcore=mirror')).toEqual({});
    expect(findZoneMovable(GUEST, parseCommandLine('kernelcore=mirror')).notes.length).toBe(1);
  });

  it('MB7 starts are rounded up to 4 MiB; one at or behind its node’s end is none', () => {
    expect(starts([range(0, 4 * G), range(4 * G, 4 * G + 5000, 1, bits)], 'movable_node')).toEqual({ 1: 4 * G });
    const late = [range(0, 4 * G), range(4 * G, 4 * G + 1500, 1), range(4 * G + 1500, 4 * G + 2048, 1, bits)];
    expect(starts(late, 'movable_node')).toEqual({});
    expect(starts([...late, range(4 * G + 2048, 4 * G + 2049, 1)], 'movable_node')).toEqual({ 1: 4 * G + 2048 });
  });
});

/** The same question, one frame at a time: who takes the next frame of a node, the kernel or nobody any more? */
function naiveStarts(ram: readonly BootRange[], kernelcore: number): Record<number, number> {
  const nodes = [...new Set(ram.map((r) => r.node))].sort((a, b) => a - b);
  const frames = new Map<number, number[]>(nodes.map((n) => [n, []]));
  for (const r of [...ram].sort((a, b) => a.start - b.start))
    for (let pfn = r.start; pfn < r.end; pfn++) (frames.get(r.node) as number[]).push(pfn);
  const total = [...frames.values()].reduce((n, f) => n + f.length, 0);
  const last = Math.max(...[...frames.values()].flat());
  const first = Math.min(...[...frames.values()].map((f) => f[0] as number));
  const lowest = Math.max(first, last >= DMA32_END ? DMA32_END : last >= DMA_END ? DMA_END : 0);
  if (kernelcore === 0 || kernelcore >= total) return {};
  const start = new Map<number, number>();
  const done = new Map<number, number>(nodes.map((n) => [n, 0])); // frames of the node that are the kernel's
  let wanted = kernelcore;
  for (let left = nodes.length; ; ) {
    let share = Math.floor(wanted / left);
    for (const n of nodes) {
      if (wanted < share) share = Math.floor(wanted / left);
      let mine = share;
      const of = frames.get(n) as number[];
      let k = done.get(n) as number;
      for (; k < of.length; k++) {
        const pfn = of[k] as number;
        if (pfn >= lowest) {
          if (mine === 0) {
            start.set(n, pfn);
            break;
          }
        }
        if (wanted > 0) wanted--;
        if (mine > 0) mine--;
        start.set(n, pfn + 1);
        if (pfn >= lowest && mine === 0) {
          k++;
          break;
        }
      }
      done.set(n, k);
    }
    left--;
    if (left === 0 || wanted <= left) break;
  }
  const out: Record<number, number> = {};
  for (const [n, pfn] of start) {
    const up = Math.ceil(pfn / 1024) * 1024;
    if (up < ((frames.get(n) as number[]).at(-1) as number) + 1) out[n] = up;
  }
  return out;
}

/** One to four nodes, ranges around the two borders, holes between them. */
function someRam(prng: Prng): BootRange[] {
  const out: BootRange[] = [];
  const nodes = 1 + prng.below(4);
  for (const base of [0, DMA_END - 1500, DMA32_END - 2000]) {
    if (prng.chance(0.25)) continue;
    let at = base + prng.below(200);
    for (let k = prng.below(5); k >= 0; k--) {
      const end = Math.min(at + 1 + prng.below(2500), base === 0 ? DMA_END - 1500 : Number.POSITIVE_INFINITY);
      if (end > at) out.push(range(at, end, prng.below(nodes)));
      at = end + (prng.chance(0.5) ? 0 : prng.below(700));
    }
  }
  const sorted = out.sort((a, b) => a.start - b.start);
  return sorted.filter((r, k) => k === 0 || (sorted[k - 1] as BootRange).end <= r.start);
}

describe('MB8 against counting frame by frame', () => {
  it('MB8 kernelcore= and movablecore= of random machines', () => {
    let withMovable = 0;
    for (let seed = 1; seed <= 300; seed++) {
      const prng = new Prng(seed);
      const ram = someRam(prng);
      if (ram.length === 0) continue;
      const total = ram.reduce((n, r) => n + r.end - r.start, 0);
      const pages = prng.below(total + 10);
      const byMovable = prng.chance(0.4);
      const line = `${byMovable ? 'movablecore' : 'kernelcore'}=${pages * 4}K`;
      const up = Math.min(total, Math.ceil(pages / 1024) * 1024);
      const kernelcore = byMovable ? (pages === 0 ? 0 : total - up) : pages;
      const got = starts(ram, line);
      expect(got, `seed=${seed} ${line} ${JSON.stringify(ram)}`).toEqual(naiveStarts(ram, kernelcore));
      if (Object.keys(got).length > 0) withMovable++;
    }
    expect(withMovable).toBeGreaterThan(100);
  });

  it('MB8 it does not matter where neighbouring ranges are cut, nor in which order they come', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const prng = new Prng(seed);
      const ram = someRam(prng);
      const total = ram.reduce((n, r) => n + r.end - r.start, 0);
      const line = `kernelcore=${prng.below(total + 1) * 4}K`;
      const cut = ram.flatMap((r) => {
        const at = r.start + prng.below(r.end - r.start);
        return at === r.start
          ? [r]
          : [
              { ...r, end: at },
              { ...r, start: at },
            ];
      });
      expect(starts(prng.shuffle(cut), line), `seed=${seed} ${line}`).toEqual(starts(ram, line));
    }
  });
});
