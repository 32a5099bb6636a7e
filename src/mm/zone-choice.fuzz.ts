// auto-movable and valid_zones against a literal re-implementation: zone_for_pfn_range() and what it calls, as the kernel
// writes it, over tables of its own (test/model/linux-zones.ts). Every offline block is asked after every step.

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type BlockId, type NodeId, toBlockId, toNodeId, toPfn } from '#base/units';
import { LinuxZones, type Params } from '../../test/model/linux-zones.ts';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { GroupId } from './memory-group.ts';
import { ZONE_MOVABLE, ZONE_NAMES } from './page-class.ts';

/** Blocks of 128 MiB: RAM at boot below and above the 4 GiB border, room for more in between. */
const BOOT = [
  { first: 0, end: 8, node: 0 },
  { first: 12, end: 24, node: 0 },
  { first: 32, end: 36, node: 0 },
  { first: 48, end: 52, node: 1 },
] as const;
const LAST_BLOCK = 80;

type Block = { node: number; group: number; early: boolean; zone: number | undefined };

function run(seed: number): { movable: number; odd: number } {
  const prng = new Prng(seed);
  const params: Params = {
    policy: prng.chance(0.8) ? 'auto-movable' : 'contig-zones',
    ratio: prng.pick([0, 1, 50, 100, 150, 301, 301, 1000]),
    numaAware: prng.chance(0.7),
    movableNode: prng.chance(0.3),
  };
  const pages = PAGES_PER_SECTION;
  const m = Machine.boot({
    ram: BOOT.map((r) => ({ start: toPfn(r.first * pages), end: toPfn(r.end * pages), node: toNodeId(r.node) })),
    blockSize: 2 ** 27,
    watermarks: 'none',
    contents: 'none',
    code: 'shared',
    hotplug: {
      autoOnline: 'offline',
      onlinePolicy: params.policy,
      autoMovable: { ratio: params.ratio, numaAware: params.numaAware },
      movableNode: params.movableNode,
    },
  });
  const linux = new LinuxZones(params);
  const blocks = new Map<number, Block>();
  for (const r of BOOT) {
    for (let b = r.first; b < r.end; b++) blocks.set(b, { node: r.node, group: -1, early: true, zone: undefined });
  }
  for (const p of m.pools) {
    const z = linux.zone(p.node, p.zone);
    Object.assign(z, { start: p.startPfn, end: p.endPfn, present: p.present, early: p.present });
  }
  for (const [b, info] of blocks) {
    const zone = m.block(toBlockId(b))?.pool?.zone; // block 0 holds DMA and DMA32: it never goes
    info.zone = zone ?? 1;
    linux.zone(info.node, info.zone).sections.add(b * pages);
  }
  let movable = 0;
  let odd = 0;
  for (let step = 0; step < 150; step++) {
    const where = `seed=${seed} step=${step}`;
    const kind = prng.weighted([3, 12, 6, 0.2, 0.2].map((w) => 10 * w));
    const b = prng.below(LAST_BLOCK);
    const info = blocks.get(b);
    const id: BlockId = toBlockId(b);
    if (kind === 0) {
      const node: NodeId = toNodeId(prng.below(3));
      let group = prng.below(linux.groups.length + 1) - 1;
      const at = linux.groups[group];
      if (at === undefined || at.node !== node) {
        group = -1;
        if (prng.chance(0.8)) {
          const dynamic = prng.chance(0.5);
          const size = pages * (dynamic ? prng.pick([1, 2, 4]) : prng.pick([4, 8, 16]));
          group = m.hotplug.groups.register(dynamic ? 'dynamic' : 'static', node, size);
          linux.groups[group] = { dynamic, node, maxOrUnit: size, kernel: 0, movable: 0 };
        }
      }
      for (let k = b; k < Math.min(LAST_BLOCK, b + 1 + prng.below(4)) && !blocks.has(k); k++) {
        // A static group is never larger than its device.
        const g = linux.groups[group];
        const mine = [...blocks.values()].filter((x) => x.group === group).length;
        if (g !== undefined && !g.dynamic && (mine + 1) * pages > g.maxOrUnit) break;
        const range = { start: toPfn(k * pages), end: toPfn((k + 1) * pages) };
        const added = m.addMemory(range, node, group < 0 ? {} : { group: group as GroupId });
        expect(added.ok, where).toBe(true);
        blocks.set(k, { node, group, early: false, zone: undefined });
      }
    } else if (kind === 1 && info !== undefined && info.zone === undefined) {
      const how = prng.pick(['online', 'online', 'online', 'kernel', 'movable'] as const);
      const want = linux.zoneFor(how, info.node, info.group, b * pages, pages);
      const got = m.online(id, how);
      expect(got.ok && got.value.zone, where).toBe(ZONE_NAMES[want]);
      if (how === 'online' && want === ZONE_MOVABLE) movable++;
      linux.online(info.node, want, b * pages, pages, info.group, info.early);
      info.zone = want;
    } else if (kind === 2 && info?.zone !== undefined && b > 0) {
      const gone = m.offline(id);
      if (gone.ok) {
        linux.offline(info.node, info.zone, b * pages, pages, info.group, info.early);
        info.zone = undefined;
      } else {
        expect(gone.error.reason, where).toBe('unmovable'); // struct pages of another block
      }
    } else if (kind === 3) {
      params.ratio = prng.pick([0, 50, 100, 301]);
      m.hotplug.settings.autoMovable.ratio = params.ratio;
    } else if (kind === 4) {
      params.policy = prng.pick(['auto-movable', 'auto-movable', 'contig-zones']);
      m.hotplug.settings.onlinePolicy = params.policy;
    }
    for (const [k, x] of blocks) {
      if (x.zone !== undefined) continue;
      const zones = m.validZones(toBlockId(k)).join(' ');
      expect(zones, `${where} block ${k}`).toBe(linux.validZones(x.node, x.group, k * pages, pages));
      if (zones.split(' ').length === 3) odd++;
    }
  }
  expect(m.check(1), `seed=${seed}`).toEqual([]);
  return { movable, odd };
}

it('ZC7 zones and valid_zones are what a literal copy of the kernel decides, for any policy, ratio and group', () => {
  const cases = Number(process.env.DIMMER_SEEDS ?? 60);
  let movable = 0;
  let odd = 0;
  for (let seed = 1; seed <= cases; seed++) {
    const seen = run(seed);
    movable += seen.movable;
    odd += seen.odd;
  }
  expect(movable).toBeGreaterThan(cases / 2); // the policy said Movable often enough
  expect(odd).toBeGreaterThan(0); // and the kernel zone it fell back to was not always the block's
});
