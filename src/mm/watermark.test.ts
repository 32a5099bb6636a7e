// Watermarks, reserves and per-CPU list sizes against what real kernels printed. Rules W1..W6, docs/spec/watermarks.md.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ZONE_NAMES, type ZoneIndex, type ZoneName } from './page-class.ts';
import { computeWatermarks, minFreeKbytes, NO_WATERMARKS, pcpSizes, type WatermarkSettings } from './watermark.ts';

type Zone = {
  node: number;
  zone: ZoneIndex;
  managed: number;
  numbers: Map<string, number>;
  protection: readonly number[] | undefined;
};

/** The excerpts of test/golden/watermarks; the parser of the product is in another layer. */
function zonesOf(file: string): Zone[] {
  const text = readFileSync(new URL(`../../test/golden/watermarks/${file}.zoneinfo`, import.meta.url), 'utf8');
  const zones: Zone[] = [];
  for (const part of text.split(/^(?=Node )/m)) {
    const head = /^Node (\d+), zone +(\w+)/.exec(part);
    const zone = ZONE_NAMES.indexOf(head?.[2] as ZoneName);
    if (head === null || zone < 0) continue; // ZONE_DEVICE
    // "high 48" is the watermark, "high: 20" that of a per-CPU list.
    const numbers = new Map([...part.matchAll(/^ +(?:pages )?(\w+:?) +(\d+)$/gm)].map((m) => [m[1], Number(m[2])]));
    const protection = /protection: \((.*)\)/.exec(part)?.[1].split(',').map(Number);
    zones.push({
      node: Number(head[1]),
      zone: zone as ZoneIndex,
      managed: numbers.get('managed') ?? 0,
      numbers,
      protection,
    });
  }
  return zones;
}

const LINUX_6_1: WatermarkSettings = { scaleFactor: 10, thp: true, movable: 'share' };
const LINUX_6_12: WatermarkSettings = { scaleFactor: 10, thp: true };
const GOLDEN: readonly { file: string; settings: WatermarkSettings; cpusOfNode: number; tunesHigh: boolean }[] = [
  { file: 'host-6.18', settings: LINUX_6_12, cpusOfNode: 2, tunesHigh: true },
  { file: 'guest-6.12-dimm-4g', settings: LINUX_6_12, cpusOfNode: 1, tunesHigh: true },
  { file: 'guest-6.12-memmap-on-memory', settings: LINUX_6_12, cpusOfNode: 1, tunesHigh: true },
  { file: 'guest-6.1-dimm-10g', settings: LINUX_6_1, cpusOfNode: 1, tunesHigh: false },
  { file: 'guest-6.1-all-offline-again', settings: LINUX_6_1, cpusOfNode: 1, tunesHigh: false },
  { file: 'guest-6.1-memmap-60g', settings: LINUX_6_1, cpusOfNode: 1, tunesHigh: false },
];

describe('golden zoneinfo', () => {
  for (const { file, settings, cpusOfNode, tunesHigh } of GOLDEN) {
    const zones = zonesOf(file);
    const computed = computeWatermarks(zones, settings);

    it(`W1 W2 ${file}: min, low, high (and promo, where it is printed) of every zone, to the page`, () => {
      expect(zones.length).toBeGreaterThanOrEqual(4);
      zones.forEach(({ node, zone, numbers }, k) => {
        for (const mark of ['min', 'low', 'high', 'promo'] as const) {
          const printed = numbers.get(mark);
          if (printed === undefined && mark === 'promo') continue;
          expect(computed[k][mark], `node ${node} ${ZONE_NAMES[zone]} ${mark}`).toBe(printed);
        }
      });
    });

    it(`W4 ${file}: protection of every zone`, () => {
      let compared = 0;
      zones.forEach(({ node, zone, protection }, k) => {
        if (protection === undefined) return; // not in the excerpt of an empty zone
        compared++;
        expect([...computed[k].reserve], `node ${node} ${ZONE_NAMES[zone]}`).toEqual(protection.slice(0, 4));
      });
      expect(compared).toBeGreaterThan(0);
    });

    it(`W5 ${file}: batch of the per-CPU lists, and their high mark where the kernel does not tune it`, () => {
      let compared = 0;
      zones.forEach(({ zone, managed, numbers }, k) => {
        const batch = numbers.get('batch:');
        if (batch === undefined) return; // an empty zone has no per-CPU lists
        compared++;
        const sizes = pcpSizes(managed, computed[k].low, cpusOfNode);
        expect(sizes.batch, ZONE_NAMES[zone]).toBe(batch);
        // Linux from 6.7 on tunes `high` between high_min and high_max; 6.12 prints neither of these.
        const high = tunesHigh ? numbers.get('high_min:') : numbers.get('high:');
        if (high !== undefined) expect(sizes.high, ZONE_NAMES[zone]).toBe(high);
      });
      expect(compared).toBeGreaterThan(1);
    });
  }
});

describe('the formula', () => {
  const zone = (z: ZoneIndex, managed: number, node = 0) => ({ node, zone: z, managed });

  it('W1 min_free_kbytes: the root of 16 times low memory, clamped to 128 and 262144', () => {
    const auto = (managed: number) => minFreeKbytes([zone(2, managed)], { scaleFactor: 10, thp: false }).value;
    expect(auto(1)).toBe(128);
    expect(auto(2 ** 18)).toBe(4096); // 1 GiB
    expect(auto(2 ** 22)).toBe(16384); // 16 GiB
    expect(auto(2 ** 34)).toBe(262144);
  });

  it('W1 with huge pages: 11 pageblocks for each populated zone but Movable, at most a twentieth of low memory', () => {
    const thp: WatermarkSettings = { scaleFactor: 10, thp: true };
    const three = [zone(0, 3840), zone(1, 772915), zone(2, 1212416)];
    expect(minFreeKbytes(three, thp).value).toBe(4 * 512 * 11 * 3); // 67584, spec 2.5
    expect(minFreeKbytes([...three, zone(3, 10 ** 6)], thp).value).toBe(67584);
    expect(minFreeKbytes([...three, zone(1, 0, 1), zone(2, 1000, 1)], thp).value).toBe(4 * 512 * 11 * 4);
    // sqrt(16 * 80000) = 1131 kB, so 282 pages of min, and 422 of high: a twentieth of the 19578 pages above.
    expect(minFreeKbytes([zone(1, 20_000)], thp).value).toBe(4 * 978);
  });

  it('W2 the vector of spec 2.5', () => {
    const w = computeWatermarks([zone(0, 3840), zone(1, 772915), zone(2, 1212416)], { scaleFactor: 10, thp: true });
    expect(w.map((x) => [x.min, x.low, x.high, x.promo])).toEqual([
      [32, 40, 48, 56],
      [6565, 8206, 9847, 11488],
      [10298, 12872, 15446, 18020],
    ]);
    expect(w[0].reserve).toEqual([0, 3019, 7755, 7755]);
  });

  it('W2 the step is a quarter of the share or the scale factor, whichever is more', () => {
    const of = (scaleFactor: number) =>
      computeWatermarks([zone(2, 10 ** 6)], { scaleFactor, thp: false, minFreeKbytes: 4000 })[0];
    expect([of(1).min, of(1).low - of(1).min]).toEqual([1000, 250]);
    expect(of(100).low - of(100).min).toBe(10_000);
    expect(of(100).promo - of(100).high).toBe(10_000);
  });

  it('W3 Movable: clamped to 32..128 of its own, 32 when empty (6.12); its share of all memory in 6.1', () => {
    const min = (managed: number, movable?: 'own' | 'share') =>
      computeWatermarks([zone(2, 2 ** 20), zone(3, managed)], {
        scaleFactor: 10,
        thp: false,
        minFreeKbytes: 40_000,
        ...(movable && { movable }),
      });
    expect([0, 2 ** 15, 2 ** 16 + 2 ** 12, 2 ** 20].map((n) => min(n)[1].min)).toEqual([32, 32, 68, 128]);
    expect(min(2 ** 20)[0].min).toBe(10_000);
    expect(min(2 ** 20, 'share').map((w) => w.min)).toEqual([5000, 5000]);
    expect(min(0, 'share').map((w) => w.min)).toEqual([10_000, 0]);
  });

  it('W4 reserves count the zones of the node in between; an empty zone and Movable reserve nothing', () => {
    const w = computeWatermarks(
      [zone(0, 256), zone(1, 2560), zone(2, 32_000), zone(3, 6400), zone(1, 0, 1), zone(2, 9999, 1)],
      { scaleFactor: 10, thp: false },
    );
    expect(w[0].reserve).toEqual([0, 10, 135, 160]);
    expect(w[1].reserve).toEqual([0, 0, 125, 150]);
    expect(w[2].reserve).toEqual([0, 0, 0, 200]);
    expect(w[3].reserve).toEqual([0, 0, 0, 0]);
    expect(w[4].reserve).toEqual([0, 0, 0, 0]); // empty, though Normal lies above it
  });

  it('W5 per-CPU lists: 63 from 1 GiB on, 1 for DMA; high is four batches or the share of low', () => {
    expect(pcpSizes(3840, 40, 2)).toEqual({ batch: 1, high: 20, highMax: 240 });
    expect(pcpSizes(772915, 8206, 2)).toEqual({ batch: 63, high: 4103, highMax: 48307 }); // spec 2.4, recorded
    expect(pcpSizes(0, 0, 4)).toEqual({ batch: 1, high: 4, highMax: 4 });
    expect(pcpSizes(2 ** 18, 100, 8)).toEqual({ batch: 63, high: 252, highMax: 4096 });
    for (let managed = 0; managed < 2 ** 19; managed += 1000) {
      const { batch } = pcpSizes(managed, 0, 1);
      expect(Number.isInteger(Math.log2(batch + 1))).toBe(true); // one less than a power of two
      expect(batch).toBeLessThanOrEqual(63);
    }
  });

  it('W7 percpu_pagelist_high_fraction: both limits are that part of the zone for each CPU, at least four batches', () => {
    expect(pcpSizes(772915, 8206, 2, 8)).toEqual({ batch: 63, high: 48307, highMax: 48307 });
    expect(pcpSizes(772915, 8206, 2, 100)).toEqual({ batch: 63, high: 3864, highMax: 3864 });
    expect(pcpSizes(772915, 8206, 2, 10 ** 6)).toEqual({ batch: 63, high: 252, highMax: 252 });
  });

  it('W8 what a user wrote stays unless the automatic value is larger; huge pages raise it all the same', () => {
    const small = [zone(2, 2 ** 18)]; // automatic: 4096
    const large = [zone(2, 2 ** 22)]; // automatic: 16384
    const plain = { scaleFactor: 10, thp: false };
    expect(minFreeKbytes(small, plain, { value: 9000, user: 9000 })).toEqual({ value: 9000, user: 9000 });
    expect(minFreeKbytes(large, plain, { value: 9000, user: 9000 })).toEqual({ value: 16384, user: 9000 });
    // Back to a small machine: the automatic value of the large one is forgotten only where it is above the user's.
    expect(minFreeKbytes(small, plain, { value: 16384, user: 9000 })).toEqual({ value: 16384, user: 9000 });
    expect(minFreeKbytes(small, plain, { value: 16384, user: 100 })).toEqual({ value: 4096, user: 100 });
    expect(minFreeKbytes(large, { scaleFactor: 10, thp: true }, { value: 20000, user: 20000 }).value).toBe(
      4 * 512 * 11,
    );
  });

  it('W4 ratios other than the default are taken; 0 is off', () => {
    const w = computeWatermarks([zone(1, 2560), zone(2, 32_000), zone(3, 6400)], {
      scaleFactor: 10,
      thp: false,
      reserveRatio: [256, 64, 0, 0],
    });
    expect(w.map((x) => x.reserve)).toEqual([
      [0, 0, 500, 600],
      [0, 0, 0, 0],
      [0, 0, 0, 0],
    ]);
  });

  it('W6 no watermarks at all: below every free count', () => {
    expect(0 > NO_WATERMARKS.low && 0 > NO_WATERMARKS.min).toBe(true);
    expect(NO_WATERMARKS.reserve).toEqual([0, 0, 0, 0]);
  });
});
