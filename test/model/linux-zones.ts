// LinuxZones: zone spans, counters and the choice of a zone, written as the kernel writes them, over plain tables.
//
//   zones     "node/zone" -> span, present pages, those of boot memory, the sections in it      groups   as registered
//
// Literal on purpose, oddities included: Linux v6.12 mm/memory_hotplug.c: zone_for_pfn_range(),
// auto_movable_zone_for_pfn(), auto_movable_can_online_movable(), default_kernel_zone_for_pfn(), resize_zone_range(),
// shrink_zone_span(); drivers/base/memory.c: valid_zones_show(). Spans move in whole sections: the machines it is held
// against have whole blocks.

import { PAGES_PER_SECTION } from '#mm/geometry';
import { ZONE_MOVABLE, ZONE_NAMES, ZONE_NORMAL } from '#mm/page-class';

export type Zone = { start: number; end: number; present: number; early: number; sections: Set<number> };
export type Group = { dynamic: boolean; node: number; maxOrUnit: number; kernel: number; movable: number };
export type Params = {
  policy: 'contig-zones' | 'auto-movable';
  ratio: number;
  numaAware: boolean;
  movableNode: boolean;
};

export class LinuxZones {
  readonly zones = new Map<string, Zone>();
  readonly groups: (Group | undefined)[] = [];
  readonly params: Params;

  constructor(params: Params) {
    this.params = params;
  }

  /** An independent copy. */
  clone(): LinuxZones {
    const copy = new LinuxZones({ ...this.params });
    for (const [key, z] of this.zones) copy.zones.set(key, { ...z, sections: new Set(z.sections) });
    this.groups.forEach((g, id) => {
      copy.groups[id] = g && { ...g };
    });
    return copy;
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
