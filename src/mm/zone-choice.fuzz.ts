// auto-movable and valid_zones against a literal re-implementation: zone_for_pfn_range() and what it calls, as the kernel
// writes it, over tables of its own (zones, sections, groups). Every offline block is asked after every step.

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type BlockId, type NodeId, toBlockId, toNodeId, toPfn } from '#base/units';
import { PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { GroupId } from './memory-group.ts';
import { ZONE_MOVABLE, ZONE_NAMES, ZONE_NORMAL } from './page-class.ts';

type Zone = { start: number; end: number; present: number; early: number; sections: Set<number> };
type Group = { dynamic: boolean; node: number; maxOrUnit: number; kernel: number; movable: number };
type Params = { policy: 'contig-zones' | 'auto-movable'; ratio: number; numaAware: boolean; movableNode: boolean };

/** What Linux keeps, as far as the choice of a zone needs it. */
class Linux {
  readonly zones = new Map<string, Zone>();
  readonly groups: (Group | undefined)[] = [];
  readonly params: Params;

  constructor(params: Params) {
    this.params = params;
  }

  zone(node: number, zone: number): Zone {
    const key = `${node}/${zone}`;
    let z = this.zones.get(key);
    if (z === undefined) this.zones.set(key, (z = { start: 0, end: 0, present: 0, early: 0, sections: new Set() }));
    return z;
  }

  online(node: number, zone: number, start: number, pages: number, group: number, early: boolean): void {
    const z = this.zone(node, zone);
    const empty = z.start === z.end;
    z.start = empty ? start : Math.min(z.start, start);
    z.end = empty ? start + pages : Math.max(z.end, start + pages);
    this.#count(z, zone, start, pages, group, early, 1);
  }

  offline(node: number, zone: number, start: number, pages: number, group: number, early: boolean): void {
    const z = this.zone(node, zone);
    this.#count(z, zone, start, pages, group, early, -1);
    const left = [...z.sections].sort((a, b) => a - b);
    const has = (from: number, to: number): boolean => left.some((s) => from <= s && s < to);
    if (z.start === start) {
      if (has(start + pages, z.end)) z.start = left.find((s) => s >= start + pages) as number;
      else z.start = z.end = 0;
    } else if (z.end === start + pages) {
      if (has(z.start, start)) z.end = (left.filter((s) => s < start).pop() as number) + PAGES_PER_SECTION;
      else z.start = z.end = 0;
    }
  }

  #count(z: Zone, zone: number, start: number, pages: number, group: number, early: boolean, sign: 1 | -1): void {
    z.present += sign * pages;
    if (early) z.early += sign * pages;
    const g = this.groups[group];
    if (g !== undefined) g[zone === ZONE_MOVABLE ? 'movable' : 'kernel'] += sign * pages;
    for (let pfn = start; pfn < start + pages; pfn += PAGES_PER_SECTION) {
      if (sign > 0) z.sections.add(pfn);
      else z.sections.delete(pfn);
    }
  }

  intersects(z: Zone, start: number, pages: number): boolean {
    if (z.end === z.start) return false;
    return !(start >= z.end || start + pages <= z.start);
  }

  defaultKernelZone(nid: number, start: number, pages: number): number {
    for (let zid = 0; zid < ZONE_NORMAL; zid++) if (this.intersects(this.zone(nid, zid), start, pages)) return zid;
    return ZONE_NORMAL;
  }

  canOnlineMovable(nid: number | undefined, group: Group | undefined, pages: number): boolean {
    let kernelEarly = 0;
    let movablePages = 0;
    for (const [key, z] of this.zones) {
      const [node, zone] = key.split('/').map(Number);
      if (z.present === 0 || (nid !== undefined && node !== nid)) continue;
      if (zone === ZONE_MOVABLE) movablePages += z.present;
      else kernelEarly += z.early;
    }
    let required = 0;
    let groupMovable = 0;
    for (const g of this.groups) {
      if (g === undefined || g === group || !g.dynamic || (nid !== undefined && g.node !== nid)) continue;
      const need = Math.trunc((g.movable * 100) / this.params.ratio) - g.kernel;
      if (need > 0) required += need;
      groupMovable += g.movable;
    }
    if (kernelEarly <= required) return false;
    kernelEarly -= required;
    movablePages -= groupMovable;
    if (group?.dynamic === true) kernelEarly += group.kernel;
    movablePages += pages;
    return movablePages <= Math.trunc((this.params.ratio * kernelEarly) / 100);
  }

  autoMovableZone(nid: number, group: Group | undefined, start: number, blockPages: number): number {
    let pfn = start;
    let nrPages = blockPages;
    let onlinePages = 0;
    let maxPages: number;
    if (this.params.ratio === 0) return this.defaultKernelZone(nid, pfn, nrPages);
    if (group !== undefined && !group.dynamic) {
      maxPages = group.maxOrUnit;
      onlinePages = group.movable;
      if (group.kernel > 0) return this.defaultKernelZone(nid, pfn, nrPages);
    } else if (group === undefined || group.maxOrUnit === nrPages) {
      maxPages = nrPages;
    } else {
      maxPages = group.maxOrUnit;
      pfn = Math.floor(pfn / group.maxOrUnit) * group.maxOrUnit;
      const end = pfn + group.maxOrUnit;
      for (; pfn < end; pfn += PAGES_PER_SECTION) {
        let zone = -1;
        for (const [key, z] of this.zones) if (z.sections.has(pfn)) zone = Number(key.split('/')[1]);
        if (zone < 0) continue;
        if (zone !== ZONE_MOVABLE) return this.defaultKernelZone(nid, pfn, nrPages);
        onlinePages += PAGES_PER_SECTION;
      }
    }
    nrPages = maxPages - onlinePages;
    if (!this.canOnlineMovable(undefined, group, nrPages)) return this.defaultKernelZone(nid, pfn, nrPages);
    if (this.params.numaAware && !this.canOnlineMovable(nid, group, nrPages)) {
      return this.defaultKernelZone(nid, pfn, nrPages);
    }
    return ZONE_MOVABLE;
  }

  zoneFor(how: 'online' | 'kernel' | 'movable', nid: number, group: number, start: number, pages: number): number {
    if (how === 'kernel') return this.defaultKernelZone(nid, start, pages);
    if (how === 'movable') return ZONE_MOVABLE;
    if (this.params.policy === 'auto-movable') return this.autoMovableZone(nid, this.groups[group], start, pages);
    const kernel = this.defaultKernelZone(nid, start, pages);
    const inKernel = this.intersects(this.zone(nid, kernel), start, pages);
    const inMovable = this.intersects(this.zone(nid, ZONE_MOVABLE), start, pages);
    if (inKernel !== inMovable) return inKernel ? kernel : ZONE_MOVABLE;
    return this.params.movableNode ? ZONE_MOVABLE : kernel;
  }

  validZones(nid: number, group: number, start: number, pages: number): string {
    const first = this.zoneFor('online', nid, group, start, pages);
    let text = ZONE_NAMES[first] as string;
    const kernel = this.zoneFor('kernel', nid, group, start, pages);
    if (kernel !== first) text += ` ${ZONE_NAMES[kernel]}`;
    if (ZONE_MOVABLE !== first) text += ` ${ZONE_NAMES[ZONE_MOVABLE]}`;
    return text;
  }
}

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
  const linux = new Linux(params);
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
