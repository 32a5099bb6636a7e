import { describe, expect, it } from 'vitest';
import { assert } from '#base/assert';
import { goldenText } from '../../test/golden/kernfs/load.ts';
import { formatProblem } from './text.ts';
import { isPopulated, parseZoneinfo, printZoneinfo, statOf } from './zoneinfo.ts';

const V61 = goldenText('guest-6.1-mixed-online/zoneinfo');
const V612 = goldenText('guest-6.12-memmap-on-memory/zoneinfo');
const V618 = goldenText('host-6.18/zoneinfo');

function of(text: string) {
  const parsed = parseZoneinfo(text);
  assert(parsed.ok, 'the text is sound', { problem: parsed.ok ? '' : formatProblem(parsed.error) });
  return parsed.value;
}
const refusal = (text: string) => {
  const parsed = parseZoneinfo(text);
  return parsed.ok ? undefined : formatProblem(parsed.error);
};
const zoneOf = (text: string, node: number, zone: string) => {
  const found = of(text).find((z) => z.node === node && z.zone === zone);
  assert(found, 'the zone is there', { node, zone });
  return found;
};

describe('zoneinfo', () => {
  it('reads sizes and watermarks, 6.18 form', () => {
    expect(zoneOf(V618, 0, 'DMA32')).toMatchObject({
      free: 772852,
      boost: 0,
      min: 5000,
      low: 6250,
      high: 7500,
      promo: 8750,
      spanned: 1044480,
      present: 782336,
      managed: 772915,
      cma: 0,
      protection: [0, 0, 7168, 7168, 7168],
      nodeUnreclaimable: 0,
      startPfn: 4096,
    });
    expect(zoneOf(V618, 0, 'DMA32').pagesets[1]).toEqual({
      cpu: 1,
      count: 61,
      high: 3125,
      batch: 63,
      highMin: 3125,
      highMax: 48307,
      statThreshold: 24,
    });
  });
  it('6.1 has no promo watermark, 6.12 has; neither has high_min', () => {
    expect('promo' in zoneOf(V61, 0, 'DMA32')).toBe(false);
    expect(zoneOf(V612, 1, 'Movable').promo).toBe(1758);
    for (const text of [V61, V612]) expect('highMin' in zoneOf(text, 0, 'DMA32').pagesets[0]).toBe(false);
  });
  it('the order of counters is the file order; the per-node stats stand under the first populated zone', () => {
    expect(zoneOf(V618, 0, 'Normal').stats[0]).toEqual(['nr_free_pages', 208301]);
    expect(statOf(zoneOf(V618, 0, 'Normal').stats, 'numa_hit')).toBe(21478008);
    expect(statOf(zoneOf(V618, 0, 'Normal').stats, 'nr_nothing')).toBeUndefined();
    expect(
      of(V61)
        .filter((z) => z.perNodeStats !== undefined)
        .map((z) => `${z.node} ${z.zone}`),
    ).toEqual(['0 DMA', '1 DMA32']);
  });
  it('empty zones stop after protection and have neither counters nor a start', () => {
    const empty = of(V618).filter((z) => !isPopulated(z));
    expect(empty.map((z) => z.zone)).toEqual(['Movable', 'Device']);
    expect(empty[0]).toMatchObject({ min: 32, low: 32, high: 32, present: 0, stats: [], pagesets: [] });
  });
  it('memmap on memory: 6.12 manages 512 pages less than are present in each block', () => {
    const movable = zoneOf(V612, 1, 'Movable');
    expect(movable.present - movable.managed).toBe(4 * 512);
  });
  it('lines of a later kernel are kept: a field among the others, counters behind start_pfn', () => {
    // Upstream after 6.18 prints these two behind start_pfn; "watch" is made up.
    const later = V618.replace(
      /^( {2}start_pfn:.*)$/gm,
      '$1\n  reserved_highatomic: 0\n  free_highatomic:     7',
    ).replace(/^( {8}cma .*)$/gm, '$1\n        watch    5');
    expect(zoneOf(later, 0, 'Normal')).toMatchObject({
      startPfn: 1048576,
      otherTail: [
        ['reserved_highatomic', 0],
        ['free_highatomic', 7],
      ],
      otherFields: [['watch', 5]],
    });
    expect(printZoneinfo(of(later))).toBe(later);
  });
  it('per-CPU counts are ints: a negative one prints back', () => {
    const text = V61.replace(/count: \d+/, 'count: -3');
    expect(of(text)[0].pagesets[0].count).toBe(-3);
    expect(printZoneinfo(of(text))).toBe(text);
  });
  it('KF5 with two nodes every single line is missed when it is missing', () => {
    for (const text of [V61, V612]) {
      const lines = text.split('\n').slice(0, -1);
      for (let i = 0; i < lines.length; i++) {
        const rest = `${lines.toSpliced(i, 1).join('\n')}\n`;
        expect(refusal(rest), `without line ${i + 1}, ${lines[i]}`).toMatch(/^\/proc\/zoneinfo, line \d+: \S/);
      }
    }
  });
  it('KF5 with one node only a per-node counter can go unseen: there is no other node to compare with', () => {
    const lines = V618.split('\n').slice(0, -1);
    const perNode = of(V618)[0].perNodeStats?.map(([name]) => name) ?? [];
    const unseen = lines.filter((_, i) => refusal(`${lines.toSpliced(i, 1).join('\n')}\n`) === undefined);
    expect(unseen.map((line) => line.trim().split(' ')[0])).toEqual(perNode);
  });
  it('KF5 a file cut at any line end is refused, but where a node or the empty zones of one node end', () => {
    const lines = V61.split('\n').slice(0, -1);
    const accepted: string[] = [];
    for (let n = 1; n < lines.length; n++) {
      const parsed = parseZoneinfo(`${lines.slice(0, n).join('\n')}\n`);
      if (parsed.ok) accepted.push(parsed.value.map((z) => `${z.node}${z.zone}`).join(' '));
    }
    expect(accepted).toEqual([
      '0DMA',
      '0DMA 0DMA32',
      '0DMA 0DMA32 0Normal',
      '0DMA 0DMA32 0Normal 0Movable',
      '0DMA 0DMA32 0Normal 0Movable 0Device',
    ]);
  });
  it('KF3 refusals say what was expected and where', () => {
    expect(refusal('x\n')).toBe('/proc/zoneinfo, line 1: expected "Node N, zone NAME", found "x"');
    expect(refusal('Node 0, zone DMA\n')).toBe(
      '/proc/zoneinfo, line 1: the file ends where "pages free" and a count should follow',
    );
    expect(refusal(V618.replace('        spanned  4095\n', ''))).toMatch(
      /^\/proc\/zoneinfo, line \d+: expected the field spanned/,
    );
    expect(refusal(V618.replace('cpu: 1', 'cpu: 0'))).toMatch(/cpu 0 comes after cpu 0$/);
    expect(refusal(V618.replace('              high_max: 240\n', ''))).toMatch(
      /expected both "high_min:" and "high_max:"/,
    );
    expect(refusal(V618.replace('      nr_mlock     0', '      nr_bounce    0'))).toBe(
      '/proc/zoneinfo, line 99: the counters of zone DMA32 of node 0 are not those of zone DMA of node 0: nr_mlock instead of nr_bounce',
    );
    expect(refusal(V618.replace(/( {8}min .*\n)( {8}low .*\n)/, '$2$1'))).toMatch(
      /low is out of order among the fields above this line$/,
    );
    const perNode = / {2}per-node stats\n(?: {6}[a-z].*\n)+/.exec(V618)?.[0];
    expect(refusal(V618.replace(/(Node 0, zone +DMA32\n)/, `$1${perNode}`))).toMatch(
      /node 0 does not have its per-node stats under its first populated zone$/,
    );
    expect(refusal(V618 + V618)).toMatch(/zone DMA of node 0 does not belong here$/);
    expect(refusal(V61.replace(/Node 1, zone {3}Device\n(?: .*\n)+/, ''))).toMatch(
      /node 1 has the zones DMA DMA32 Normal Movable, the nodes before it have DMA DMA32 Normal Movable Device$/,
    );
    expect(refusal(V618.replace('present  0', 'present  9'))).toMatch(
      /the counters of zone Movable of node 0, which has present pages/,
    );
    expect(refusal(V61.replaceAll(/ {2}per-node stats\n(?: {6}[a-z].*\n)+/g, ''))).toMatch(
      /node 0 does not have its per-node stats under its first populated zone$/,
    );
  });
});
