// Counters: the figures behind /proc/vmstat, /proc/meminfo, /proc/zoneinfo and the files of nodes.
//
//   exact    the engine has the very number: nr_free_pages, present, MemTotal ...
//   drift    the engine has part of the story: the recorded figure of a twin, plus what changed since; without a
//            recorded file, what the engine counts (a file's pages, slab, page tables)
//   as was   what the engine has no part in (reclaim, swap, dirty pages): the recorded figure, else 0
//
//   value = recorded(name) + count(now) - count(when the tree was made)
//
// The engine keeps no LRU lists: it shows user pages as inactive, where the kernel puts new ones.
// Names and their order are those of the recorded file, else of the kernel's version (counter-names.ts).

import type { Result } from '#base/result';
import type { NodeId } from '#base/units';
import { type Meminfo, parseMeminfo } from '#kernfs/meminfo';
import { NODE_DIR } from '#kernfs/nodes';
import type { KernfsProblem } from '#kernfs/source';
import { parseNodeVmstat, parseVmstat, type Vmstat } from '#kernfs/vmstat';
import { parseZoneinfo, type ZoneinfoZone } from '#kernfs/zoneinfo';
import { cmaCounters } from '#mm/cma';
import { NR_ORDERS, PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from '#mm/geometry';
import { HUGE_2M, hugetlbBytes, hugetlbCounts } from '#mm/hugetlb';
import { hardwareCorrupted } from '#mm/memory-failure';
import { type ZoneView, zoneViews } from '#mm/pools/zone-view';
import { Census } from './census.ts';
import { COUNTER_NAMES, type CounterNames } from './counter-names.ts';
import type { TreeContext } from './tree-context.ts';

const KB = PAGE_SIZE / 1024;
const KB_PER_2M = 2048;
const KB_PER_1G = 2 ** 20;
/** struct page: 64 bytes a frame. */
const MEMMAP_PAGES_PER_SECTION = (PAGES_PER_SECTION * 64) / PAGE_SIZE;

/** The zones that a file is about: one, those of a node, or all. */
type Scope = readonly ZoneView[];

export class Counters {
  readonly names: CounterNames;
  /** Files that were recorded, as they were. */
  readonly recorded: {
    readonly zones: readonly ZoneinfoZone[];
    readonly vmstat: Vmstat | undefined;
    readonly meminfo: Meminfo | undefined;
  };
  readonly #c: TreeContext;
  readonly #nodeMeminfo = new Map<NodeId, Meminfo | undefined>();
  readonly #nodeVmstat = new Map<NodeId, Vmstat | undefined>();
  /** What the engine counted when the tree was made, where a file was recorded then. */
  readonly #then: ReadonlyMap<string, number>;

  constructor(c: TreeContext) {
    this.#c = c;
    const read = <T>(path: string, parse: (text: string) => Result<T, KernfsProblem>): T | undefined => {
      const text = c.base?.readText(path);
      const parsed = text === undefined ? undefined : parse(text);
      return parsed?.ok === true ? parsed.value : undefined;
    };
    this.recorded = {
      zones: read('/proc/zoneinfo', parseZoneinfo) ?? [],
      vmstat: read('/proc/vmstat', parseVmstat),
      meminfo: read('/proc/meminfo', parseMeminfo),
    };
    for (const node of c.machine.nodes) {
      this.#nodeMeminfo.set(node, read(`${NODE_DIR}/node${node}/meminfo`, parseMeminfo));
      this.#nodeVmstat.set(node, read(`${NODE_DIR}/node${node}/vmstat`, parseNodeVmstat));
    }
    this.names = this.#namesOf(COUNTER_NAMES[c.profile.name]);
    this.#then = c.base === undefined ? new Map() : this.#countAll();
  }

  /** The recorded file's names, else the version's. */
  #namesOf(version: CounterNames): CounterNames {
    const { zones, vmstat, meminfo } = this.recorded;
    const stats = zones.find((z) => z.stats.length > 0)?.stats.map(([name]) => name);
    const node = zones.find((z) => z.perNodeStats !== undefined)?.perNodeStats?.map(([name]) => name);
    const nodeMeminfo = [...this.#nodeMeminfo.values()].find((x) => x !== undefined);
    const known = {
      zone: stats?.filter((n) => !n.startsWith('numa_')),
      numa: stats?.filter((n) => n.startsWith('numa_')),
    };
    const zoned = new Set([...(stats ?? []), ...(node ?? [])]);
    const useFile = stats !== undefined && node !== undefined && vmstat !== undefined;
    return {
      zone: useFile ? (known.zone as string[]) : version.zone, // stats is there
      numa: useFile ? (known.numa as string[]) : version.numa,
      node: useFile ? node : version.node,
      events: useFile ? [...vmstat.keys()].filter((n) => !zoned.has(n)) : version.events,
      meminfo: meminfo === undefined ? version.meminfo : [...meminfo.amounts.keys()],
      nodeMeminfo: nodeMeminfo === undefined ? version.nodeMeminfo : [...nodeMeminfo.amounts.keys()],
    };
  }

  /** The frames as they are; one for each file that is printed. */
  census(): Census {
    return new Census(this.#c.machine);
  }

  /** A zone or NUMA counter of one pool, in pages. */
  zone(name: string, pool: ZoneView, census: Census): number {
    const exact = exactCount(name, [pool]);
    if (exact !== undefined) return exact;
    const recorded = this.recorded.zones.find((z) => z.node === pool.node && z.zone === pool.name);
    return this.#drifted(`zone ${pool.id} ${name}`, statOf(recorded?.stats, name), countOf(name, [pool], census));
  }

  /** A counter of nodeN/vmstat or of "per-node stats". */
  node(name: string, node: NodeId, census: Census): number {
    const pools = zoneViews(this.#c.machine).filter((p) => p.node === node);
    const exact = exactCount(name, pools);
    if (exact !== undefined) return exact;
    const zoneStats = this.recorded.zones.find((z) => z.node === node && z.perNodeStats !== undefined)?.perNodeStats;
    const recorded = this.#nodeVmstat.get(node)?.get(name) ?? statOf(zoneStats, name);
    return this.#drifted(`node ${node} ${name}`, recorded, countOf(name, pools, census));
  }

  /** The same as "per-node stats" of zoneinfo show it: recorded at another moment than nodeN/vmstat. */
  perNode(name: string, node: NodeId, census: Census): number {
    const stats = this.recorded.zones.find((z) => z.node === node && z.perNodeStats !== undefined)?.perNodeStats;
    const pools = zoneViews(this.#c.machine).filter((p) => p.node === node);
    return this.#drifted(`node ${node} ${name}`, statOf(stats, name), countOf(name, pools, census));
  }

  /** nodeN/numastat: the NUMA counters of a node's zones, under names of their own. */
  numastat(node: NodeId): string {
    const census = this.census();
    const text = this.#c.base?.readText(`${NODE_DIR}/node${node}/numastat`);
    return NUMASTAT.map(([line, counter]) => {
      const recorded = new RegExp(`^${line} (\\d+)$`, 'm').exec(text ?? '')?.[1];
      const pools = zoneViews(this.#c.machine).filter((p) => p.node === node);
      const now = countOf(counter, pools, census);
      const value = this.#drifted(
        `node ${node} ${counter}`,
        recorded === undefined ? undefined : Number(recorded),
        now,
      );
      return `${line} ${value}\n`;
    }).join('');
  }

  /** A line of /proc/vmstat. */
  machine(name: string, census: Census): number {
    const m = this.#c.machine;
    const exact = exactCount(name, zoneViews(m));
    if (exact !== undefined) return exact;
    const now = this.#eventCount(name) ?? countOf(name, zoneViews(m), census);
    return this.#drifted(`vmstat ${name}`, this.recorded.vmstat?.get(name), now);
  }

  /** A line of /proc/meminfo, or of a node's, in its unit. */
  amount(name: string, node: NodeId | undefined, census: Census): number {
    const m = this.#c.machine;
    const pools = node === undefined ? zoneViews(m) : zoneViews(m).filter((p) => p.node === node);
    const exact = exactAmount(name, pools);
    if (exact !== undefined) return exact;
    const file = node === undefined ? this.recorded.meminfo : this.#nodeMeminfo.get(node);
    const recorded = file?.amounts.get(name)?.value;
    return this.#drifted(`meminfo ${node ?? ''} ${name}`, recorded, this.#amountCount(name, node, census));
  }

  /** Columns of a node's label where 6.1 deviates from its own layout (meminfo.ts). */
  labelWidth(name: string, node: NodeId | undefined): number | undefined {
    const file = node === undefined ? this.recorded.meminfo : this.#nodeMeminfo.get(node);
    if (file !== undefined) return file.amounts.get(name)?.labelWidth;
    return node !== undefined && name === 'FileHugePages' && this.#c.profile.name === '6.1' ? 15 : undefined;
  }

  #drifted(key: string, recorded: number | undefined, now: number | undefined): number {
    if (now === undefined) return recorded ?? 0;
    if (recorded === undefined) return now;
    return Math.max(0, recorded + now - (this.#then.get(key) ?? 0));
  }

  /** Every drifting count, by the key that `#drifted` looks for. */
  #countAll(): Map<string, number> {
    const m = this.#c.machine;
    const census = this.census();
    const then = new Map<string, number>();
    const note = (key: string, count: number | undefined): void => {
      if (count !== undefined) then.set(key, count);
    };
    for (const p of zoneViews(m)) for (const n of this.names.zone) note(`zone ${p.id} ${n}`, countOf(n, [p], census));
    for (const node of m.nodes) {
      const pools = zoneViews(m).filter((p) => p.node === node);
      for (const [, n] of NUMASTAT) note(`node ${node} ${n}`, countOf(n, pools, census));
      for (const n of [...this.names.zone, ...this.names.node]) note(`node ${node} ${n}`, countOf(n, pools, census));
      for (const n of this.names.nodeMeminfo) note(`meminfo ${node} ${n}`, this.#amountCount(n, node, census));
    }
    for (const n of [...this.names.zone, ...this.names.node, ...this.names.events]) {
      note(`vmstat ${n}`, this.#eventCount(n) ?? countOf(n, zoneViews(m), census));
    }
    for (const n of this.names.meminfo) note(`meminfo  ${n}`, this.#amountCount(n, undefined, census));
    return then;
  }

  #eventCount(name: string): number | undefined {
    const m = this.#c.machine;
    if (Object.hasOwn(m.vmstat, name)) return m.vmstat[name as keyof typeof m.vmstat];
    if (name === 'nr_memmap_pages') {
      return m.hotplug.ranges.reduce(
        (n, r) => n + ((r.end - r.start) / PAGES_PER_SECTION) * MEMMAP_PAGES_PER_SECTION,
        0,
      );
    }
    return undefined;
  }

  /** Lines of meminfo that follow from what frames are used for. */
  #amountCount(name: string, node: NodeId | undefined, census: Census): number | undefined {
    const m = this.#c.machine;
    const pools = node === undefined ? zoneViews(m) : zoneViews(m).filter((p) => p.node === node);
    const counter = AMOUNTS[name];
    if (counter !== undefined) {
      const [of, unit] = counter;
      return of.reduce((n, item) => n + (countOf(item, pools, census) ?? 0), 0) * unit;
    }
    const managed = pools.reduce((n, p) => n + p.managed, 0);
    const hugetlb = countOf('nr_hugetlb', pools, census) as number; // it has a count
    if (name === 'CommitLimit') return Math.floor((managed - hugetlb) / 2) * KB;
    if (name === 'MemAvailable') return availablePages(pools, census) * KB;
    const hugePages = HUGE_PAGES[name];
    if (hugePages !== undefined) return hugetlbCounts(m, HUGE_2M, node)[hugePages];
    if (name === 'Hugetlb') return hugetlbBytes(m) / 1024;
    if (name === 'HardwareCorrupted') return hardwareCorrupted(m) / 1024;
    if (name === 'AnonHugePages') return pools.reduce((n, p) => n + census.anonymousHuge(p.id), 0) * KB;
    if (name === 'VmallocTotal') return VMALLOC_KB;
    // The map of boot memory is the recorded figure; added memory brings leaves of its own and takes them along.
    if (name === 'DirectMap1G') return m.hotplug.ranges.reduce((n, r) => n + r.directMap.leaves1G * KB_PER_1G, 0);
    if (name === 'DirectMap2M') return m.hotplug.ranges.reduce((n, r) => n + r.directMap.leaves2M * KB_PER_2M, 0);
    if (name === 'CmaTotal') return node === undefined ? cmaCounters(m).totalPages * KB : undefined;
    if (name === 'Hugepagesize') return PAGEBLOCK_PAGES * KB;
    return undefined;
  }
}

/** VMALLOC_SIZE_TB_L4: 32 TiB, less the last byte. */
const VMALLOC_KB = 2 ** 35 - 1;

/** Lines of meminfo that are sums of counters, and kB for each unit of them. */
const AMOUNTS: Readonly<Record<string, readonly [readonly string[], number]>> = {
  Cached: [['nr_file_pages'], KB],
  Inactive: [['nr_inactive_anon', 'nr_inactive_file'], KB],
  'Inactive(anon)': [['nr_inactive_anon'], KB],
  'Inactive(file)': [['nr_inactive_file'], KB],
  AnonPages: [['nr_anon_pages'], KB],
  Shmem: [['nr_shmem'], KB],
  FilePages: [['nr_file_pages'], KB],
  KReclaimable: [['nr_slab_reclaimable'], KB],
  SReclaimable: [['nr_slab_reclaimable'], KB],
  SUnreclaim: [['nr_slab_unreclaimable'], KB],
  Slab: [['nr_slab_reclaimable', 'nr_slab_unreclaimable'], KB],
  KernelStack: [['nr_kernel_stack'], 1],
  PageTables: [['nr_page_table_pages'], KB],
  Balloon: [['nr_balloon_pages'], KB],
};

/** Lines of numastat and the counters they show. Nobody interleaves here. */
const NUMASTAT: readonly (readonly [string, string])[] = [
  ['numa_hit', 'numa_hit'],
  ['numa_miss', 'numa_miss'],
  ['numa_foreign', 'numa_foreign'],
  ['interleave_hit', 'numa_interleave'],
  ['local_node', 'numa_local'],
  ['other_node', 'numa_other'],
];

/** The pool of 2 MiB pages. */
const HUGE_PAGES: Readonly<Record<string, 'nr' | 'free' | 'reserved' | 'surplus'>> = {
  HugePages_Total: 'nr',
  HugePages_Free: 'free',
  HugePages_Rsvd: 'reserved',
  HugePages_Surp: 'surplus',
};

const statOf = (stats: readonly (readonly [string, number])[] | undefined, name: string): number | undefined =>
  stats?.find(([n]) => n === name)?.[1];

const pagesIn = (pools: Scope, census: Census, ...classes: Parameters<Census['pages']>[1][]): number =>
  pools.reduce((n, p) => n + census.pages(p.id, ...classes), 0);

/** Counters that the engine keeps to the page. */
function exactCount(name: string, pools: Scope): number | undefined {
  if (name === 'nr_free_pages') return pools.reduce((n, p) => n + p.nrFree(), 0);
  if (name === 'nr_free_cma') return pools.reduce((n, p) => n + p.nrFreeCma(), 0);
  if (name === 'nr_free_pages_blocks') return pools.reduce((n, p) => n + freeBlockPages(p), 0);
  return undefined;
}

/** Free pages in chunks of a pageblock and more, isolated ones left out. */
function freeBlockPages(zone: ZoneView): number {
  const counts = zone.counts();
  let pages = 0;
  for (const mt of [0, 1, 2, 3, 4]) {
    for (let order = PAGEBLOCK_ORDER; order < NR_ORDERS; order++) {
      pages += (counts[mt * NR_ORDERS + order] as number) * 2 ** order;
    }
  }
  return pages;
}

/** Counters of the classes, in the counter's unit; undefined for all that the engine has no part in. */
function countOf(name: string, pools: Scope, census: Census): number | undefined {
  switch (name) {
    case 'nr_inactive_anon':
    case 'nr_zone_inactive_anon':
      return pagesIn(pools, census, 'anonymous', 'shmem');
    case 'nr_inactive_file':
    case 'nr_zone_inactive_file':
      return pagesIn(pools, census, 'file');
    case 'nr_anon_pages':
      return pagesIn(pools, census, 'anonymous');
    case 'nr_file_pages':
      return pagesIn(pools, census, 'file', 'shmem');
    case 'nr_shmem':
      return pagesIn(pools, census, 'shmem');
    case 'nr_slab_reclaimable':
      return pagesIn(pools, census, 'slab-reclaimable');
    case 'nr_slab_unreclaimable':
      return pagesIn(pools, census, 'slab');
    case 'nr_page_table_pages':
      return pagesIn(pools, census, 'pagetable');
    case 'nr_kernel_stack': // in kB
      return pagesIn(pools, census, 'stack') * KB;
    case 'nr_hugetlb':
      return pagesIn(pools, census, 'hugetlb', 'gigantic');
    case 'nr_balloon_pages':
      return pagesIn(pools, census, 'balloon');
    case 'numa_hit':
    case 'numa_local': // a request's CPU is taken to be near the node it asks for
      return pools.reduce((n, p) => n + p.numa.hit, 0);
    case 'numa_miss':
    case 'numa_other':
      return pools.reduce((n, p) => n + p.numa.miss, 0);
    case 'numa_foreign':
      return pools.reduce((n, p) => n + p.numa.foreign, 0);
    case 'nr_anon_transparent_hugepages': // in huge pages
      return pools.reduce((n, p) => n + census.anonymousHuge(p.id), 0) / PAGEBLOCK_PAGES;
    default:
      return undefined;
  }
}

function exactAmount(name: string, pools: Scope): number | undefined {
  const managed = pools.reduce((n, p) => n + p.managed, 0);
  const free = pools.reduce((n, p) => n + p.nrFree(), 0);
  if (name === 'MemTotal') return managed * KB;
  if (name === 'MemFree') return free * KB;
  if (name === 'MemUsed') return (managed - free) * KB;
  if (name === 'CmaFree') return pools.reduce((n, p) => n + p.nrFreeCma(), 0) * KB;
  return undefined;
}

/** si_mem_available(): what may be had without swapping. */
function availablePages(pools: Scope, census: Census): number {
  let free = 0;
  let reserve = 0;
  let low = 0;
  for (const p of pools) {
    free += p.nrFree();
    const marks = p.watermarks;
    if (!Number.isFinite(marks.low)) continue; // a machine without watermarks keeps nothing back
    reserve += Math.min(p.managed, Math.max(...marks.reserve) + marks.high);
    low += marks.low;
  }
  const half = (pages: number): number => pages - Math.min(Math.floor(pages / 2), low);
  const cache = half(pagesIn(pools, census, 'file'));
  const reclaimable = half(pagesIn(pools, census, 'slab-reclaimable'));
  return Math.max(0, free - reserve + cache + reclaimable);
}
